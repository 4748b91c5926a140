/** Waiting, and waiting longer from failure to failure. */

/** Resolves after `ms`; rejects at once with the signal's reason. @param {number} ms @param {AbortSignal} signal */
export function sleep(ms, signal) {
  return new Promise((resolve, reject) => {
    const stop = () => {
      clearTimeout(timer);
      reject(signal.reason);
    };
    if (signal.aborted) return stop();
    const timer = setTimeout(() => {
      signal.removeEventListener('abort', stop);
      resolve();
    }, ms);
    signal.addEventListener('abort', stop, { once: true });
  });
}

/** Rejects with the signal's reason when it comes; never resolves. @param {AbortSignal} signal */
export function aborted(signal) {
  return new Promise((_, reject) => {
    if (signal.aborted) reject(signal.reason);
    signal.addEventListener('abort', () => reject(signal.reason), { once: true });
  });
}

/** 0.5 s, then half as much again up to 8 s, with jitter, so that many pages do not come back as one. */
export class Backoff {
  #ms = 500;

  reset() {
    this.#ms = 500;
  }

  next() {
    const ms = this.#ms * (0.8 + 0.4 * Math.random());
    this.#ms = Math.min(8000, this.#ms * 1.5);
    return ms;
  }
}
