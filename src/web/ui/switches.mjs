/** The switches of the large stream, shown to those who may use them. */

import { ask, ofStream } from './api.mjs';
import * as visit from './visit.mjs';

/** How often is looked whether somebody else switched. */
const LOOK_MS = 5000;

const part = (id) => document.getElementById(id);

let stream;
/** Whether this visitor may; not yet known: undefined. @type {boolean|undefined} */
let may;

part('detect').addEventListener('change', () => put({ detect: part('detect').checked }));
part('recordings').addEventListener('change', () => put({ recordings: part('recordings').value }));

// Home Assistant has the same switches.
setInterval(() => { if (stream && !document.hidden) of(stream); }, LOOK_MS);

/** Another visitor, maybe. */
export function forget() {
  may = undefined;
  stream = undefined;
  allow(false);
}

/** The stream that is large now, or news of it. @param {string} name */
export function of(name) {
  stream = name;
  if (may === false) return;
  // A change of nothing answers with what is in force, and says whether it is allowed.
  put(may === undefined ? {} : undefined);
}

async function put(change) {
  const mine = stream;
  const options = change && { method: 'PUT', headers: { 'Content-Type': 'application/json' }, body: JSON.stringify(change) };
  try {
    const settings = await (await ask(ofStream(mine, 'settings'), options)).json();
    if (change) allow(true);
    if (mine !== stream) return;
    part('detect').checked = settings.detect;
    part('recordings').value = settings.recordings;
    part('switches-why').textContent = '';
  } catch (error) {
    if (error.wantsToken) allow(false);
    else if (change && may) part('switches-why').textContent = error.message;
  }
}

function allow(on) {
  may = on;
  part('switches').hidden = !on;
  visit.allow(on);
}
