/** Shows a stream as a row of JPEGs with the boxes already in them, where the browser cannot play its video. */

import { ask, ofStream } from './api.mjs';
import { sleep } from './retry.mjs';

const FPS = 10;
/** A small tile looks once in this time, ms, as a browser has few connections to one host. */
const GLANCE_MS = 2000;

/**
 * Plays until the stream is over (resolves) or something breaks (rejects).
 * @param {object} stream @param {import('./player.mjs').Screen} screen @param {AbortSignal} signal
 */
export async function pictures(stream, screen, signal) {
  const show = async (jpeg) => {
    await display(screen.image, jpeg);
    screen.shown();
  };
  while (!screen.large()) {
    const response = await ask(ofStream(stream.stream, 'snapshot.jpg?boxes=1'), { signal });
    await show(await response.blob());
    await sleep(GLANCE_MS, signal);
  }
  const response = await ask(ofStream(stream.stream, `mjpeg?boxes=1&fps=${FPS}`), { signal });
  for await (const jpeg of parts(response.body.getReader())) {
    await show(new Blob([jpeg], { type: 'image/jpeg' }));
    if (!screen.large()) return;
  }
}

/** @param {HTMLImageElement} image @param {Blob} jpeg */
async function display(image, jpeg) {
  const before = image.src;
  image.src = URL.createObjectURL(jpeg);
  await image.decode();
  URL.revokeObjectURL(before);
}

/**
 * The bodies of a multipart answer whose parts say their length.
 * @param {ReadableStreamDefaultReader<Uint8Array>} reader @returns {AsyncGenerator<Uint8Array>}
 */
async function* parts(reader) {
  let bytes = new Uint8Array();
  for (let chunk; !(chunk = await reader.read()).done; ) {
    const more = new Uint8Array(bytes.length + chunk.value.length);
    more.set(bytes);
    more.set(chunk.value, bytes.length);
    bytes = more;
    for (let part; (part = firstPart(bytes)); bytes = bytes.subarray(part.end)) {
      yield bytes.subarray(part.begin, part.end);
    }
  }
}

/** Where the first whole part's body lies, or null. @param {Uint8Array} bytes */
function firstPart(bytes) {
  const head = /^[^]*?content-length: *(\d+)[^]*?\r\n\r\n/i.exec(String.fromCharCode(...bytes.subarray(0, 1000)));
  if (!head) return null;
  const begin = head[0].length;
  const end = begin + Number(head[1]);
  return end <= bytes.length ? { begin, end } : null;
}
