/** Which boxes belong to the picture shown: a short history of detections, asked by the picture's time. Pure; draws nothing. */

/**
 * @typedef {{label: string, class_id: number, track_id: number|null, confidence: number, bbox: number[]}} Box
 *   `bbox` is x1, y1, x2, y2 in pixels of the published picture.
 * @typedef {{pts: number, captured: number, arrived: number, width: number, height: number, items: Box[]}} Seen
 *   All found in one picture; times in ms: of the stream, of spotter's clock, of this page's clock.
 */

/** RTP counts 90 to the millisecond in 32 bits. */
const RTP_SPAN_MS = 2 ** 32 / 90;
/** Detections older than this, in ms of the stream, are forgotten; HLS shows pictures that are ten seconds old, and more. */
const KEPT_MS = 30_000;
/** A last detection is held for this long, in ms, when no newer one comes. */
const HOLD_MS = 400;
/** Further apart, in ms, detections say nothing about the time between them, nor of a picture that is so much newer. */
const GAP_MS = 1500;
/** Clocks of containers are rounded: times this close, in ms, are the same. */
const SAME_MS = 2;
/** Boxes of one label that overlap this much are one animal. */
const SAME_IOU = 0.3;

/**
 * A stream's time, ms, of a picture that came over RTP, out of all those that look alike the one nearest to `near`.
 * @param {number} rtp @param {number} near
 */
export function unwrapRtp(rtp, near) {
  const ms = rtp / 90;
  return ms + Math.round((near - ms) / RTP_SPAN_MS) * RTP_SPAN_MS;
}

/** So many detections say well enough how far a stream's time is from spotter's clock. */
const SURE = 30;

/**
 * The stream's time of pictures whose time line begins at a known time of spotter's clock. Both run at the stream's pace, so what
 * lies between them is found once: clocks drift apart within hours.
 */
export class Timeline {
  #start = NaN;
  #seen = 0;
  #zero = 0;

  /**
   * @param {number} start ms of spotter's clock @param {number} mediaTime s from there @param {History} history
   * @returns {number} ms of the stream
   */
  at(start, mediaTime, history) {
    if (start !== this.#start || this.#seen < SURE && history.size > this.#seen) {
      [this.#start, this.#seen, this.#zero] = [start, history.size, start - history.offset];
    }
    return this.#zero + mediaTime * 1000;
  }
}

/** Intersection over union. @param {number[]} a @param {number[]} b */
export function iou(a, b) {
  const area = ([x1, y1, x2, y2]) => Math.max(0, x2 - x1) * Math.max(0, y2 - y1);
  const both = [Math.max(a[0], b[0]), Math.max(a[1], b[1]), Math.min(a[2], b[2]), Math.min(a[3], b[3])];
  const all = area(a) + area(b) - area(both);
  return all > 0 ? area(both) / all : 0;
}

/**
 * Pairs the same animals of two pictures: by track, else by label and the greatest overlap.
 * @param {Box[]} before @param {Box[]} after @returns {Map<Box, Box>}
 */
export function pair(before, after) {
  const chances = before.flatMap((a) => after.map((b) => ({ a, b, score: likeness(a, b) })));
  const pairs = new Map();
  const taken = new Set();
  for (const { a, b, score } of chances.sort((x, y) => y.score - x.score)) {
    if (score < SAME_IOU || pairs.has(a) || taken.has(b)) continue;
    pairs.set(a, b);
    taken.add(b);
  }
  return pairs;
}

/** Above 1: surely the same; below SAME_IOU: another. @param {Box} a @param {Box} b */
function likeness(a, b) {
  if (a.track_id !== null && b.track_id !== null) return a.track_id === b.track_id ? 2 : 0;
  return a.label === b.label ? iou(a.bbox, b.bbox) : 0;
}

/** The newest detections of one stream, in the order of their time. */
export class History {
  /** @type {Seen[]} */
  #all = [];

  /** @param {object} message the wire form of detections @param {number} now this page's clock, ms */
  add(message, now) {
    // A time line that goes back is a new one: spotter was started again.
    if (this.newest && message.pts_ms < this.newest.pts) this.clear();
    this.#all.push({
      pts: message.pts_ms,
      captured: Date.parse(message.captured_at),
      arrived: now,
      width: message.width,
      height: message.height,
      items: message.detections,
    });
    while (message.pts_ms - this.#all[0].pts > KEPT_MS) this.#all.shift();
  }

  clear() {
    this.#all = [];
  }

  get size() {
    return this.#all.length;
  }

  /** Spotter's clock at the stream's time 0, ms: of the arrivals that are kept the middle one. */
  get offset() {
    const offsets = this.#all.map(({ captured, pts }) => captured - pts).sort((a, b) => a - b);
    return offsets[offsets.length >> 1];
  }

  /** @returns {Seen|undefined} */
  get newest() {
    return this.#all.at(-1);
  }

  /**
   * The boxes of the picture of time `pts`; between two detections they are where they would be on a straight way.
   * A picture that is newer than all detections gets the newest while they keep coming: nothing is guessed.
   * @param {number} pts @param {number} now this page's clock, ms @returns {Box[]}
   */
  at(pts, now) {
    const next = this.#all.findIndex((seen) => seen.pts > pts + SAME_MS);
    if (next < 0) return this.#held(pts, now);
    const [before, after] = [this.#all[next - 1], this.#all[next]];
    if (!before) return [];
    const gap = after.pts - before.pts;
    if (gap > GAP_MS) return pts - before.pts <= HOLD_MS ? before.items : [];
    return between(before, after, Math.max(0, pts - before.pts) / gap);
  }

  /** @param {number} pts @param {number} now */
  #held(pts, now) {
    const [before, last] = [this.#all.at(-2), this.#all.at(-1)];
    if (!last) return [];
    if (pts - last.pts <= HOLD_MS) return last.items;
    if (pts - last.pts > GAP_MS) return [];
    // A slow detector's boxes must not blink from one detection to the next.
    const usual = before ? 1.5 * (last.pts - before.pts) : 0;
    return now - last.arrived <= Math.min(GAP_MS, Math.max(HOLD_MS, usual)) ? last.items : [];
  }
}

/** @param {Seen} before @param {Seen} after @param {number} part of the way, 0 to 1 @returns {Box[]} */
function between(before, after, part) {
  const pairs = pair(before.items, after.items);
  const moved = [...pairs].map(([a, b]) => ({
    ...a,
    bbox: a.bbox.map((from, i) => from + (b.bbox[i] - from) * part),
  }));
  // What only one of them saw came or went in between.
  const seen = new Set(pairs.values());
  const alone = part < 0.5
    ? before.items.filter((a) => !pairs.has(a))
    : after.items.filter((b) => !seen.has(b));
  return [...moved, ...alone];
}
