/** What this visitor may, by spotter's word; tells those who show buttons for it. */

import { askJson, Refused } from './api.mjs';

/** When nothing was answered it is asked again after this time, ms. */
const AGAIN_MS = 2000;

/** @type {((admin: boolean) => void)[]} */
const ears = [];
let timer;

/** @param {(admin: boolean) => void} ear hears whether this visitor may change things, now and whenever that is asked */
export function whenKnown(ear) {
  ears.push(ear);
}

/** Asks anew: spotter answers. */
export async function look() {
  clearTimeout(timer);
  try {
    const { may } = await askJson('/api/v1/me');
    tell(may.includes('admin'));
  } catch (error) {
    if (error instanceof Refused) tell(false);
    else timer = setTimeout(look, AGAIN_MS);
  }
}

/** Another visitor, maybe. */
export function forget() {
  clearTimeout(timer);
  tell(false);
}

function tell(admin) {
  for (const ear of ears) ear(admin);
}
