/** Times of visits as words and as places on a strip. Pure: it is told what time it is. Times are in s since 1970. */

const MINUTE = 60;
const HOUR = 3600;
/** What a strip may span, and how far apart its marks are then, s. */
const SPANS = [
  [15 * MINUTE, 3 * MINUTE],
  [HOUR, 15 * MINUTE],
  [3 * HOUR, 30 * MINUTE],
  [6 * HOUR, HOUR],
  [12 * HOUR, 2 * HOUR],
  [24 * HOUR, 4 * HOUR],
];
/** Rows of bars for animals that are there at the same time; what is more lies on top of the last. */
const LANES = 3;
/** The least width of a bar, in parts of the strip: two pixels on a phone. */
const LEAST = 0.006;

/**
 * @typedef {{id: string, start_time: number, end_time: number|null}} Visit
 * @typedef {{from: number, to: number, step: number}} Span
 * @typedef {{id: string, x: number, width: number, lane: number}} Bar `x` and `width` in parts of the strip
 */

/** How long, as people say it. @param {number} seconds */
export function duration(seconds) {
  const s = Math.max(0, Math.round(seconds));
  if (s < MINUTE) return `${s} s`;
  if (s < HOUR) return two(Math.floor(s / MINUTE), 'min', s % MINUTE, 's');
  const minutes = Math.round(s / MINUTE);
  return two(Math.floor(minutes / 60), 'h', minutes % 60, 'min');
}

const two = (large, unit, small, part) => (small ? `${large} ${unit} ${small} ${part}` : `${large} ${unit}`);

/** How long a visit lasts or lasted. @param {Visit} visit @param {number} now */
export const lasted = (visit, now) => duration((visit.end_time ?? now) - visit.start_time);

/**
 * The shortest span up to now that has all visits of the last 24 h.
 * @param {Visit[]} visits @param {number} now @returns {Span}
 */
export function span(visits, now) {
  const ages = visits.map((v) => now - v.start_time).filter((age) => age <= 24 * HOUR);
  const oldest = Math.max(0, ...ages);
  const [length, step] = SPANS.find(([s]) => oldest <= s) ?? SPANS.at(-1);
  return { from: now - length, to: now, step };
}

/**
 * Where visits lie on a strip: oldest first; those at the same time in different lanes.
 * @param {Visit[]} visits @param {Span} strip @returns {Bar[]}
 */
export function bars(visits, { from, to }) {
  const place = (time) => Math.min(1, Math.max(0, (time - from) / (to - from)));
  const ends = Array(LANES).fill(-1);
  return visits
    .filter((v) => (v.end_time ?? to) >= from && v.start_time <= to)
    .sort((a, b) => a.start_time - b.start_time)
    .map((v) => {
      const width = Math.max(LEAST, place(v.end_time ?? to) - place(v.start_time));
      const x = Math.min(1 - width, place(v.start_time));
      const free = ends.findIndex((end) => end <= x + 1e-9);
      const lane = free < 0 ? LANES - 1 : free;
      ends[lane] = x + width;
      return { id: v.id, x, width, lane };
    });
}

/**
 * Round times of the viewer's clock within a strip.
 * @param {Span} strip @param {number} offset the viewer's clock is so many s ahead of UTC
 */
export function marks({ from, to, step }, offset) {
  const all = [];
  for (let t = Math.ceil((from + offset) / step) * step - offset; t <= to; t += step) all.push(t);
  return all;
}

/**
 * The bar nearest to a place on the strip, if any is near.
 * @param {Bar[]} all @param {number} x @param {number} near both in parts of the strip @returns {Bar|undefined}
 */
export function nearest(all, x, near) {
  const away = ({ x: left, width }) => Math.max(left - x, x - left - width, 0);
  const best = all.reduce((a, b) => (a && away(a) <= away(b) ? a : b), undefined);
  return best && away(best) <= near ? best : undefined;
}
