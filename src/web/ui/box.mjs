/** The box itself, for those who may administer it: its updates, and the Wi-Fi it joins. */

import { ask, askJson, authorization } from './api.mjs';

/** How often is looked how far an update is, while the dialog is open. */
const LOOK_MS = 2000;

const part = (id) => document.getElementById(id);

let looking;
/** What is sent in now. @type {XMLHttpRequest|undefined} */
let sending;

part('box').addEventListener('close', () => clearInterval(looking));
part('update-form').addEventListener('submit', (event) => {
  event.preventDefault();
  const [file] = part('update-file').files;
  if (file) send(file);
});
part('update-newest').addEventListener('click', () => begin({ allow_downgrade: part('update-older').checked }));
part('wifi-form').addEventListener('submit', (event) => {
  event.preventDefault();
  join(part('wifi-name').value, part('wifi-password').value);
});

/** Shows or hides the way here: whether this visitor may is the server's word. */
export async function offer() {
  try {
    const { may_install: may } = await askJson('/api/v1/update');
    document.querySelector('[data-action=box]').hidden = !may;
  } catch {
    forget();
  }
}

/** Another visitor, maybe. */
export function forget() {
  document.querySelector('[data-action=box]').hidden = true;
  if (part('box').open) part('box').close();
}

export function toggle() {
  if (document.querySelector('[data-action=box]').hidden) return;
  if (part('box').open) return part('box').close();
  part('box').showModal();
  look();
  wifi();
  looking = setInterval(look, LOOK_MS);
}

async function look() {
  try {
    show(await askJson('/api/v1/update'));
  } catch (error) {
    // While it restarts the box says nothing: that is no fault.
    if (!error.wantsToken) part('update-said').textContent = 'The box does not answer now; it may be starting anew.';
  }
}

/** @param {object} state as `/api/v1/update` has it */
function show(state) {
  const { system, progress } = state;
  part('update-installed').textContent = state.installed_version;
  part('update-slot').textContent = system ? `${system.booted}, ${system.compatible}` : '–';
  const newer = state.latest_version !== state.installed_version;
  part('update-latest').textContent = newer ? state.latest_version : 'nothing newer is known';
  part('update-form').hidden = !system;
  part('update-newest').hidden = !newer;
  const busy = state.in_progress || sending !== undefined;
  for (const control of part('update-form').elements) control.disabled = busy;
  part('update-newest').disabled = busy;
  const bar = part('update-bar');
  bar.hidden = !busy;
  if (sending === undefined) bar.value = progress.percent;
  part('update-said').textContent = words(state);
  part('update-said').classList.toggle('bad', progress.step === 'failed');
}

function words({ progress, system, instead, check_error: checkError }) {
  if (instead) return instead;
  if (sending !== undefined) return 'Sending the bundle …';
  switch (progress.step) {
    case 'idle': break;
    case 'failed': return `Not installed: ${progress.message}`;
    case 'restarting': return `${progress.version} is in. The box starts anew; this page comes back by itself.`;
    default: return [progress.version, progress.message].filter(Boolean).join(': ');
  }
  const { last_update: last } = system ?? {};
  switch (last?.result) {
    case 'fell_back': return `${last.version} did not become ready; the box went back to the system before.`;
    case 'interrupted': return `The power went while ${last.version} was being written; nothing changed. Install it again.`;
  }
  return checkError ? `Whether there is a newer one is not known: ${checkError}` : '';
}

async function begin(wish) {
  try {
    const options = { method: 'POST', headers: { 'Content-Type': 'application/json' }, body: JSON.stringify(wish) };
    show(await (await ask('/api/v1/update', options)).json());
  } catch (error) {
    refused(error.message);
  }
}

/** Hundreds of megabytes: with XMLHttpRequest, since `fetch` does not tell how far it is. */
async function send(file) {
  const path = `/api/v1/update/bundle?allow_downgrade=${part('update-older').checked ? 1 : 0}`;
  sending = new XMLHttpRequest();
  const mine = sending;
  mine.upload.onprogress = ({ loaded, total }) => { part('update-bar').value = (100 * loaded) / total; };
  const over = (message) => {
    sending = undefined;
    look().then(() => { if (message) refused(message); });
  };
  mine.onload = () => {
    let answer = {};
    try { answer = JSON.parse(mine.responseText); } catch { /* no JSON: the status says enough */ }
    over(mine.status === 202 ? '' : (answer.error?.message ?? `spotter answered ${mine.status}`));
  };
  mine.onerror = () => over('the connection broke: send it again');
  mine.open('POST', path);
  mine.setRequestHeader('Content-Type', 'application/octet-stream');
  for (const [name, value] of Object.entries(authorization())) mine.setRequestHeader(name, value);
  mine.send(file);
  look();
}

function refused(message) {
  part('update-said').textContent = message;
  part('update-said').classList.add('bad');
}

async function wifi() {
  try {
    const { available, networks, chosen } = await askJson('/api/v1/setup/wifi');
    part('wifi').hidden = !available;
    const names = [...new Set([...networks.map(({ name }) => name), ...chosen])].filter(Boolean);
    part('wifi-names').replaceChildren(...names.map((value) => Object.assign(document.createElement('option'), { value })));
    part('wifi-said').textContent = chosen.length ? `Chosen before: ${chosen.join(', ')}` : '';
  } catch {
    part('wifi').hidden = true;
  }
}

async function join(name, password) {
  part('wifi-said').classList.remove('bad');
  try {
    const options = { method: 'POST', headers: { 'Content-Type': 'application/json' }, body: JSON.stringify({ name, password }) };
    await ask('/api/v1/setup/wifi', options);
    part('wifi-password').value = '';
    part('wifi-said').textContent = `The box joins ${name} now. If this page stops answering, look for the box in that network.`;
  } catch (error) {
    part('wifi-said').textContent = error.message;
    part('wifi-said').classList.add('bad');
  }
}
