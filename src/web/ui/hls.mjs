/** Leaves playing to the browser's own HLS: iPhones without MSE. */

import { address, ask } from './api.mjs';
import { aborted } from './retry.mjs';
import { Unfit } from './unfit.mjs';

/** A playlist with so many whole segments is one that every player can begin with. */
const WHOLE = 2;

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

/** Where the time line of the video begins, ms of spotter's clock; null when the browser or the playlist does not say. @param {HTMLVideoElement} video */
export function startOf(video) {
  const start = video.getStartDate?.().getTime();
  return Number.isFinite(start) ? start : null;
}
