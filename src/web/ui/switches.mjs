/** The switches of the large stream, shown to those who may use them. */

import { ask, ofStream } from './api.mjs';
import * as rights from './rights.mjs';

/** How often is looked whether somebody else switched. */
const LOOK_MS = 5000;

const part = (id) => document.getElementById(id);

let stream;
/** Whether this visitor may. */
let may = false;

part('detect').addEventListener('change', () => put({ detect: part('detect').checked }));
part('recordings').addEventListener('change', () => put({ recordings: part('recordings').value }));
rights.whenKnown((admin) => {
  may = admin;
  part('switches').hidden = !may;
  look();
});

// Home Assistant has the same switches.
setInterval(() => { if (!document.hidden) look(); }, LOOK_MS);

/** The stream that is large now. @param {string} name */
export function of(name) {
  stream = name;
  look();
}

function look() {
  if (may && stream) put();
}

/** @param {object} [change] none: only looks */
async function put(change) {
  const mine = stream;
  const options = change && { method: 'PUT', headers: { 'Content-Type': 'application/json' }, body: JSON.stringify(change) };
  try {
    const settings = await (await ask(ofStream(mine, 'settings'), options)).json();
    if (mine !== stream) return;
    part('detect').checked = settings.detect;
    part('recordings').value = settings.recordings;
    part('switches-why').textContent = '';
  } catch (error) {
    if (error.wantsToken) rights.forget();
    else if (change) part('switches-why').textContent = error.message;
  }
}
