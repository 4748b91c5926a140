/** Hears spotter's events and comes back when the connection is lost. It does not know what they mean. */

import { address } from './api.mjs';
import { aborted, Backoff, sleep } from './retry.mjs';

const KINDS = ['detections', 'stream', 'status', 'stats', 'lagged'];
/** Statistics come every second; a connection that is silent for longer, in ms, is dead. */
const SILENCE_MS = 8000;

/**
 * Listens until `signal`.
 * @param {{begin: () => Promise<void>, open: () => void, event: (kind: string, message: object) => void,
 *   lost: (error: Error, waitMs: number) => void}} ears `begin` is asked before each connection: unlike an EventSource
 *   it can tell a refusal from silence
 * @param {AbortSignal} signal
 */
export async function listen(ears, signal) {
  const backoff = new Backoff();
  while (!signal.aborted) {
    try {
      await ears.begin();
      await connection(ears, backoff, signal);
    } catch (error) {
      if (signal.aborted) return;
      const wait = backoff.next();
      ears.lost(error, wait);
      await sleep(wait, signal).catch(() => {});
    }
  }
}

async function connection(ears, backoff, signal) {
  const source = new EventSource(address('/api/v1/live'));
  let watch;
  const broken = new Promise((_, reject) => {
    const alive = () => {
      clearTimeout(watch);
      watch = setTimeout(() => reject(new Error('spotter is silent')), SILENCE_MS);
    };
    alive();
    source.onopen = () => {
      backoff.reset();
      ears.open();
    };
    source.onerror = () => reject(new Error('the connection to spotter is lost'));
    for (const kind of KINDS) {
      source.addEventListener(kind, ({ data }) => {
        alive();
        ears.event(kind, JSON.parse(data));
      });
    }
  });
  try {
    await Promise.race([broken, aborted(signal)]);
  } finally {
    clearTimeout(watch);
    source.close();
  }
}
