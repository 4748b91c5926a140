/** Leaves playing to the browser's own HLS: iPhones without MSE. */

import { address, ask } from './api.mjs';
import { aborted } from './retry.mjs';
import { Unfit } from './unfit.mjs';

/** A playlist with so many whole segments is one that every player can begin with. */
const WHOLE = 2;

/** Of each video that plays: where its playlist is, and what is known of its beginning. */
const playing = new WeakMap();

/** Whether the browser plays HLS by itself. */
export const hlsCan = () => document.createElement('video').canPlayType('application/vnd.apple.mpegurl') !== '';

/**
 * Plays until something breaks (rejects).
 * @param {object} stream @param {import('./player.mjs').Screen} screen @param {AbortSignal} signal
 */
export async function hls(stream, { video }, signal) {
  const path = `/hls/${encodeURIComponent(stream.stream)}`;
  const broken = new Promise((_, reject) => {
    video.onerror = () => why(video.error, path, signal).then(reject, reject);
    video.onended = () => reject(new Error('the video is over'));
  });
  playing.set(video, { path });
  video.src = address(`${path}/index.m3u8`);
  await Promise.race([broken, aborted(signal)]);
}

/** The browser says the same of what it cannot play and of what is not there, or not yet. */
async function why(error, path, signal) {
  const said = error?.message || 'HLS error';
  if (error?.code === MediaError.MEDIA_ERR_DECODE || error?.code === MediaError.MEDIA_ERR_SRC_NOT_SUPPORTED) {
    const playlist = await (await ask(`${path}/media.m3u8`, { signal })).text();
    if (playlist.split('#EXTINF').length > WHOLE) return new Unfit(`this browser cannot play it by HLS: ${said}`);
  }
  return new Error(`the browser gave up: ${said}`);
}

/**
 * Where the time line of the video begins, ms of spotter's clock; null when the browser or the playlist does not say, or not yet.
 * @param {HTMLVideoElement} video
 */
export function startOf(video) {
  const said = video.getStartDate?.().getTime();
  const of = playing.get(video);
  if (!of || !Number.isFinite(said)) return null;
  if (of.said !== said) {
    Object.assign(of, { said, start: null });
    ask(`${of.path}/media.m3u8`).then((answer) => answer.text()).catch(() => '').then((playlist) => {
      if (of.said === said) of.start = steady(playlist, said);
    });
  }
  return of.start;
}

/**
 * When a segment would have come if all of them had come evenly, ms: one that was held up on its way would shift all boxes.
 * @param {string} playlist @param {number} said when it came
 */
export function steady(playlist, said) {
  let begins = [];
  let elapsed = 0;
  for (const line of playlist.split('\n')) {
    const [, name, value] = /^#(EXT[^:]*):?(.*)/.exec(line) ?? [];
    // What comes after a gap says nothing of what came before.
    if (name === 'EXT-X-DISCONTINUITY' && begins.some(({ date }) => date === said)) break;
    if (name === 'EXT-X-DISCONTINUITY') begins = [];
    if (name === 'EXT-X-PROGRAM-DATE-TIME') begins.push({ date: Date.parse(value), elapsed });
    if (name === 'EXTINF') elapsed += parseFloat(value) * 1000;
  }
  const own = begins.find(({ date }) => date === said);
  if (!own) return said;
  const all = begins.map((begin) => begin.date - begin.elapsed + own.elapsed).sort((a, b) => a - b);
  return all[all.length >> 1];
}
