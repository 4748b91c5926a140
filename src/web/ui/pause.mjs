/** The privacy pause: says that it is one, and begins and ends it for those who may. */

import { ask } from './api.mjs';
import * as rights from './rights.mjs';

const part = (id) => document.getElementById(id);
const button = () => document.querySelector('[data-action=pause]');
const time = new Intl.DateTimeFormat('en-GB', { weekday: 'short', hour: '2-digit', minute: '2-digit' });

const BY = { button: 'the button on the box', http: 'a page like this', mqtt: 'MQTT or Home Assistant' };

let paused = false;

part('resume').addEventListener('click', () => put({ paused: false }));

rights.whenKnown(allow);

export const toggle = () => put({ paused: !paused });

/** @param {{since: string, by: string}|null} pause as the status has it */
export function show(pause) {
  paused = Boolean(pause);
  part('paused').hidden = !paused;
  document.body.classList.toggle('paused', paused);
  button().setAttribute('aria-pressed', String(paused));
  if (!pause) return;
  const text = `Since ${time.format(new Date(pause.since))}, by ${BY[pause.by] ?? pause.by}. Publishers are refused, cameras closed, nothing is recorded.`;
  if (part('paused-why').textContent !== text) part('paused-why').textContent = text;
}

async function put(wish) {
  try {
    const options = { method: 'PUT', headers: { 'Content-Type': 'application/json' }, body: JSON.stringify(wish) };
    const answer = await (await ask('/api/v1/pause', options)).json();
    show(answer.paused ? answer : null);
    part('pause-trouble').textContent = '';
  } catch (error) {
    if (error.wantsToken) rights.forget();
    else part('pause-trouble').textContent = error.message;
  }
}

function allow(may) {
  button().hidden = !may;
  part('resume').hidden = !may;
}
