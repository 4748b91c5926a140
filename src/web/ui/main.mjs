/** The page: which streams there are, which one is large, and what keys and buttons do. */

import { askJson, forgetToken, isKept, Refused, setToken, takeToken } from './api.mjs';
import * as box from './box.mjs';
import { listen } from './events.mjs';
import { learn } from './labels.mjs';
import * as panel from './panel.mjs';
import * as pause from './pause.mjs';
import { copy, invite } from './publish.mjs';
import * as rights from './rights.mjs';
import { snapshot } from './snapshot.mjs';
import * as switches from './switches.mjs';
import { View } from './view.mjs';
import * as visits from './visits.mjs';

const part = (id) => document.getElementById(id);

/** @type {Map<string, View>} */
const views = new Map();
/** The large one. @type {View|undefined} */
let chosen;
let status;
let shownBefore = 0;
/** The question under way. @type {Promise<void>|undefined} */
let asking;
/** Rings when the person gave a token. */
let tokenGiven = () => {};

takeToken();
part('token-form').addEventListener('submit', (event) => {
  event.preventDefault();
  setToken(part('token').value.trim(), part('keep').checked ? 'device' : 'tab');
  tokenGiven();
});
part('forget').addEventListener('click', () => {
  forgetToken();
  location.reload();
});
part('copy').addEventListener('click', copy);
for (const button of document.querySelectorAll('header [data-action]')) {
  button.addEventListener('click', () => act(button.dataset.action));
}
document.addEventListener('keydown', key);
document.addEventListener('visibilitychange', () => {
  for (const view of views.values()) view.awake = !document.hidden;
});
setInterval(everySecond, 1000);
listen({ begin, open, event: hear, lost }, new AbortController().signal);

/** Before each connection: asks for a token until spotter takes one. */
async function begin() {
  connection('connecting', 'Connecting …');
  for (;;) {
    try {
      await refresh();
      part('gate').hidden = true;
      return;
    } catch (error) {
      if (!(error instanceof Refused && error.wantsToken)) throw error;
      await wantToken(error);
    }
  }
}

function wantToken(error) {
  connection('refused', 'A token is needed');
  visits.stop();
  rights.forget();
  box.forget();
  keepViews([]);
  part('empty').hidden = true;
  part('gate').hidden = false;
  part('gate-why').textContent = error.message;
  part('token').focus();
  return new Promise((resolve) => { tokenGiven = resolve; });
}

function open() {
  connection('connected', 'Connected');
  visits.start();
  rights.look();
  box.offer();
  for (const view of views.values()) view.forget();
}

function lost(error, waitMs) {
  const seconds = Math.max(1, Math.round(waitMs / 1000));
  connection('lost', `spotter does not answer; trying again in ${seconds} s`);
  // Whether there is a stream nobody knows now.
  part('empty').hidden = true;
  console.info(error.message);
}

function connection(state, text) {
  part('connection').dataset.state = state;
  const words = part('connection').firstElementChild;
  if (words.textContent !== text) words.textContent = text;
  panel.events(text);
}

function hear(kind, message) {
  switch (kind) {
    case 'detections':
      learn(message.detections);
      return views.get(message.stream)?.detected(message);
    case 'stream':
      return soon();
    case 'stats':
      return panel.load(message);
    case 'status':
      status = message;
      pause.show(status.pause);
      return tellNode();
  }
}

/** Asks again, once at a time; a failure is the event stream's to find. */
function soon() {
  asking ??= refresh().catch(() => {}).finally(() => { asking = undefined; });
}

async function refresh() {
  const { streams } = await askJson('/api/v1/streams');
  keepViews(streams);
  part('empty').hidden = streams.length > 0;
  document.body.classList.toggle('idle', streams.length === 0);
  if (streams.length === 0) invite();
}

/** The views in the order of their names. */
const row = () => [...views.values()].sort((a, b) => a.name.localeCompare(b.name));

/** One view a stream. */
function keepViews(streams) {
  for (const [name, view] of views) {
    if (streams.some(({ stream }) => stream === name)) continue;
    view.remove();
    views.delete(name);
    if (view === chosen) chosen = undefined;
  }
  for (const stream of streams) {
    const view = views.get(stream.stream) ?? newView(stream.stream);
    view.stream = stream;
  }
  if (!chosen) choose(row()[0]);
}

function newView(name) {
  const view = new View(name, { chosen: () => choose(view), changed: () => changed(view), act });
  views.set(name, view);
  const all = row();
  // Tab goes through them in the order of the number keys.
  part('views').insertBefore(view.element, all[all.indexOf(view) + 1]?.element ?? part('toast'));
  view.awake = !document.hidden;
  return view;
}

/** @param {View|undefined} view */
function choose(view) {
  if (!view || view === chosen) return;
  chosen = view;
  for (const each of views.values()) each.large = each === view;
  panel.forget();
  shownBefore = view.shown;
  part('said').textContent = `${view.name} is large`;
  changed(view);
  tellNode();
  switches.of(view.name);
}

function changed(view) {
  if (view === chosen) panel.video(view);
}

function tellNode() {
  if (status) panel.node(status, chosen?.name);
}

function everySecond() {
  if (document.hidden || part('connection').dataset.state !== 'connected') return;
  soon();
  if (!chosen?.info) return;
  panel.second(chosen.info, chosen.shown - shownBefore);
  panel.video(chosen);
  shownBefore = chosen.shown;
}

function act(action) {
  const acts = {
    sound: () => chosen?.toggleSound(),
    boxes: () => chosen?.toggleBoxes(),
    snapshot: () => chosen && snapshot(chosen.name, chosen.element.querySelector('[data-action=snapshot]')),
    full,
    play: () => chosen?.play(),
    pause: pause.toggle,
    panel: panel.toggle,
    box: box.toggle,
    help: () => {
      part('forget').hidden = !isKept();
      if (part('help').open) part('help').close();
      else part('help').showModal();
    },
  };
  acts[action]();
}

const KEYS = { m: 'sound', b: 'boxes', s: 'snapshot', f: 'full', p: 'panel', '?': 'help', ' ': 'play' };

/** @param {KeyboardEvent} event */
function key(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest('input, select')) return;
  // Behind an open dialog nothing happens; a visit has keys of its own.
  if (document.querySelector('dialog[open]') && !(part('help').open && event.key === '?')) return;
  // Space on a button presses it.
  if (event.key === ' ' && event.target.closest('button, a')) return;
  const action = KEYS[event.key.toLowerCase()];
  const all = row();
  if (action) act(action);
  else if (/^[1-9]$/.test(event.key)) choose(all[Number(event.key) - 1]);
  else if (event.key === 'ArrowRight') choose(all[(all.indexOf(chosen) + 1) % all.length]);
  else if (event.key === 'ArrowLeft') choose(all.at(all.indexOf(chosen) - 1));
  else return;
  event.preventDefault();
}

function full() {
  if (document.fullscreenElement) return document.exitFullscreen();
  if (!chosen) return;
  // All of them, so that the keys that choose another one show it. iPhones only show a video itself in full.
  if (part('views').requestFullscreen) part('views').requestFullscreen().catch(() => {});
  else chosen.video.webkitEnterFullscreen?.();
}
