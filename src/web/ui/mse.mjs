/** Plays the fragments that come over a WebSocket by Media Source Extensions, close to the live edge. */

import { socketAddress } from './api.mjs';
import { aborted } from './retry.mjs';
import { Unfit } from './unfit.mjs';

/** Behind the newest picture by more than this, in s, playing goes a little faster; */
const LATE_S = 0.15;
/** until it is this close; */
const NEAR_S = 0.07;
/** and it jumps when it is this far behind. */
const LOST_S = 1;
/** A jump takes a slow browser its time; it gets so long, in ms, before the next. */
const SETTLE_MS = 3000;
const FASTER = 1.05;
/** Seconds already shown that may lie in the browser's buffer, and those that stay when it is trimmed. */
const SHOWN_MAX_S = 12;
const SHOWN_KEPT_S = 4;
/** Fragments that wait for the browser; more than these, and it cannot keep up. About 5 s. */
const QUEUE_MAX = 200;

/** Whether the browser plays a codec ("avc1.64001f") in MP4. @param {string} codec */
export const mseCan = (codec) =>
  'MediaSource' in window && MediaSource.isTypeSupported(`video/mp4; codecs="${codec}"`);

/**
 * Plays until the stream is over (resolves), or something breaks (rejects).
 * @param {object} stream @param {import('./player.mjs').Screen} screen @param {AbortSignal} signal
 * @param {(news: object) => void} tell
 */
export async function mse(stream, { video }, signal, tell) {
  const socket = new WebSocket(socketAddress(`/live/${encodeURIComponent(stream.stream)}`));
  socket.binaryType = 'arraybuffer';
  try {
    await Promise.race([play(socket, video, tell), aborted(signal)]);
  } finally {
    socket.close();
  }
}

function play(socket, video, tell) {
  return new Promise((resolve, reject) => {
    let feed = new Feed(video, reject);
    const begin = (mime) => {
      if (!feed.takes(mime)) {
        feed.close();
        feed = new Feed(video, reject);
        // Another source has the browser pause.
        video.play().catch(() => {});
      }
      feed.begin(mime);
    };
    socket.onmessage = ({ data }) => {
      try {
        if (typeof data !== 'string') feed.push(new Uint8Array(data));
        else hear(JSON.parse(data), begin, tell, resolve, reject);
      } catch (error) {
        reject(error);
      }
    };
    socket.onclose = () => {
      feed.close();
      reject(new Error('the video connection is lost'));
    };
    video.onerror = () => reject(new Error(`the browser gave up: ${video.error?.message || 'decode error'}`));
  });
}

function hear(message, begin, tell, ended, failed) {
  switch (message.type) {
    case 'init':
      return begin(message.mime);
    case 'lagged':
      return tell({ lost: message.dropped });
    case 'waiting':
      return tell({ state: 'waiting' });
    case 'ended':
      return ended();
    case 'error':
      return failed(new (message.code === 'codec' ? Unfit : Error)(message.message));
  }
}

/** The kinds of a type's tracks: "avc1,mp4a". @param {string} mime */
const tracks = (mime) => (/codecs="([^"]*)"/.exec(mime)?.[1] ?? '').split(',').map((codec) => codec.trim().split('.')[0]).join();

/** Hands fragments to the browser one after the other, and keeps what is shown near the newest. */
class Feed {
  #mime = '';
  #open = true;
  /** @type {SourceBuffer|null} */
  #buffer = null;
  /** Fragments, and before an initialisation segment its type. @type {(Uint8Array|string)[]} */
  #queue = [];
  #jumped = -Infinity;

  /** @param {HTMLVideoElement} video that shows this from now on @param {(error: Error) => void} failed */
  constructor(video, failed) {
    this.source = new MediaSource();
    this.video = video;
    this.failed = failed;
    const url = URL.createObjectURL(this.source);
    this.source.addEventListener('sourceopen', () => {
      URL.revokeObjectURL(url);
      if (!this.#open) return;
      // What has no end is played without the reserve that a film would get.
      this.source.duration = Infinity;
      this.#attempt(() => this.#next());
    }, { once: true });
    video.src = url;
  }

  /** What still comes of it is of no interest. */
  close() {
    this.#open = false;
  }

  /** Whether this may follow on what was before: a source's set of tracks is for ever. @param {string} mime */
  takes(mime) {
    return !this.#mime || tracks(mime) === tracks(this.#mime);
  }

  /** What follows is of this type. @param {string} mime */
  begin(mime) {
    if (!MediaSource.isTypeSupported(mime)) throw new Unfit(`this browser does not play ${mime}`);
    this.#mime = mime;
    this.#queue.push(mime);
    this.#next();
  }

  /** @param {Uint8Array} bytes */
  push(bytes) {
    if (this.#queue.length >= QUEUE_MAX) throw new Error('this browser cannot keep up');
    this.#queue.push(bytes);
    this.#next();
  }

  #next() {
    if (this.#buffer?.updating || this.source.readyState !== 'open') return;
    if (this.#trim()) return;
    if (typeof this.#queue[0] === 'string') this.#become(this.#queue.shift());
    const types = this.#queue.findIndex((part) => typeof part === 'string');
    const ready = this.#queue.splice(0, types < 0 ? this.#queue.length : types);
    if (ready.length) this.#buffer?.appendBuffer(joined(ready));
  }

  #become(mime) {
    if (this.#buffer) return this.#buffer.changeType(mime);
    this.#buffer = this.source.addSourceBuffer(mime);
    this.#buffer.addEventListener('updateend', () => this.#attempt(() => {
      this.#follow();
      this.#next();
    }));
  }

  #attempt(work) {
    try {
      if (this.#open) work();
    } catch (error) {
      this.failed(error);
    }
  }

  /** Whether the browser is now busy forgetting what was shown. */
  #trim() {
    const { video } = this;
    const begin = this.#buffer?.buffered.length ? this.#buffer.buffered.start(0) : Infinity;
    if (video.currentTime - begin < SHOWN_MAX_S) return false;
    this.#buffer.remove(0, video.currentTime - SHOWN_KEPT_S);
    return true;
  }

  #follow() {
    const { video } = this;
    const ranges = this.#buffer.buffered;
    if (!ranges.length) return;
    const [start, end] = [ranges.start(ranges.length - 1), ranges.end(ranges.length - 1)];
    const behind = end - video.currentTime;
    // After a loss the newest pictures stand alone, and playing would stop before the hole.
    if (behind > LOST_S || video.currentTime < start) this.#jump(Math.max(start, end - NEAR_S));
    else if (behind > LATE_S) video.playbackRate = FASTER;
    else if (behind < NEAR_S) video.playbackRate = 1;
  }

  #jump(to) {
    const now = performance.now();
    if (now - this.#jumped < SETTLE_MS) return;
    this.#jumped = now;
    this.video.currentTime = to;
  }
}

/** @param {Uint8Array[]} parts */
function joined(parts) {
  if (parts.length === 1) return parts[0];
  const all = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    all.set(part, at);
    at += part.length;
  }
  return all;
}
