/** Leaves playing to the browser's own HLS: iPhones without MSE. */

import { address } from './api.mjs';
import { aborted } from './retry.mjs';

/** Whether the browser plays HLS by itself. */
export const hlsCan = () => document.createElement('video').canPlayType('application/vnd.apple.mpegurl') !== '';

/**
 * Plays until something breaks (rejects).
 * @param {object} stream @param {import('./player.mjs').Screen} screen @param {AbortSignal} signal
 */
export async function hls(stream, { video }, signal) {
  const broken = new Promise((_, reject) => {
    video.onerror = () => reject(new Error(`the browser gave up: ${video.error?.message || 'HLS error'}`));
    video.onended = () => reject(new Error('the video is over'));
  });
  video.src = address(`/hls/${encodeURIComponent(stream.stream)}/index.m3u8`);
  await Promise.race([broken, aborted(signal)]);
}

/**
 * When a picture was taken, ms of spotter's clock; null when the playlist does not say.
 * @param {HTMLVideoElement} video @param {number} mediaTime s
 */
export function wallTime(video, mediaTime) {
  const start = video.getStartDate?.().getTime();
  return Number.isFinite(start) ? start + mediaTime * 1000 : null;
}
