/** Saves a picture of a stream with its boxes, and says what came of it. */

import { ask, ofStream } from './api.mjs';
import * as toast from './toast.mjs';

/** spotter waits some seconds for a picture; longer than this, ms, and nobody is there. */
const PATIENCE_MS = 15_000;

/** @param {string} name of the stream @param {HTMLElement} button that is busy meanwhile */
export async function snapshot(name, button) {
  if (button.getAttribute('aria-busy') === 'true') return;
  button.setAttribute('aria-busy', 'true');
  try {
    const response = await ask(ofStream(name, 'snapshot.jpg?boxes=1'), { signal: AbortSignal.timeout(PATIENCE_MS) });
    const link = document.createElement('a');
    link.href = URL.createObjectURL(await response.blob());
    link.download = `${name}-${new Date().toISOString().slice(0, 19).replaceAll(':', '')}.jpg`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
    toast.done(`Saved ${link.download}`);
  } catch (error) {
    toast.failed(`No snapshot: ${error.message}`);
  } finally {
    button.setAttribute('aria-busy', 'false');
  }
}
