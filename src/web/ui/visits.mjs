/** The visits that are remembered: the list with its filters, the timeline, and looking for news. It plays nothing. */

import { address, askJson } from './api.mjs';
import { labelColour } from './labels.mjs';
import { Strip } from './strip.mjs';
import { lasted } from './times.mjs';
import * as visit from './visit.mjs';

const part = (id) => document.getElementById(id);
const PAGE = 24;
/** What is asked for again and again: visits that still last are among the newest. */
const NEWEST = 100;
const POLL_MS = 5000;
/** The timeline is made of no more pages than these, of 500 visits each. */
const DAY_PAGES = 4;
const DAY_S = 86_400;

/** All that was loaded, by id; the list shows those of the filter that began after `horizon`. @type {Map<string, object>} */
const all = new Map();
/** An answer that was under way may still have them. */
const deleted = new Set();
let cursor = null;
let horizon = Infinity;
let running = false;
let timer = 0;
/** Answers to what was asked before a change of the filter are not wanted. */
let round = 0;
/** @type {Map<string, {element: HTMLElement, told: string}>} */
const cards = new Map();
const strip = new Strip(part('timeline'), show, labelColour);

visit.begin({
  next: neighbour,
  changed: (v) => {
    keep([v]);
    draw();
  },
  gone: (id) => {
    deleted.add(id);
    all.delete(id);
    draw();
  },
});
for (const id of ['of-label', 'of-stream']) part(id).addEventListener('change', () => attempt(load));
part('older').addEventListener('click', () => attempt(older));
document.addEventListener('visibilitychange', () => { if (running && !document.hidden) soon(0); });

/** Begins, or begins anew: spotter answers. */
export function start() {
  running = true;
  attempt(async () => {
    await load();
    await day();
  }).then(() => soon(POLL_MS));
}

/** Forgets all: it may not be shown. */
export function stop() {
  running = false;
  round += 1;
  clearTimeout(timer);
  all.clear();
  cards.clear();
  cursor = null;
  visit.close();
  draw();
}

const now = () => Date.now() / 1000;
const newestFirst = (a, b) => b.start_time - a.start_time || (a.id < b.id ? 1 : -1);
const wanted = () => ({ label: part('of-label').value, stream: part('of-stream').value });

function ask(query) {
  const set = Object.entries(query).filter(([, value]) => value !== '' && value !== null);
  return askJson(`/api/v1/events?${new URLSearchParams(set)}`);
}

/** A failure is shown, and the next look mends it. */
async function attempt(work) {
  try {
    await work();
    part('visits-why').textContent = '';
  } catch (error) {
    part('visits-why').textContent = `The visits cannot be had: ${error.message}`;
  }
}

function soon(ms) {
  clearTimeout(timer);
  timer = setTimeout(async () => {
    if (!running || document.hidden) return;
    await attempt(news);
    soon(POLL_MS);
  }, ms);
}

function keep(events) {
  for (const event of events) if (!deleted.has(event.id)) all.set(event.id, event);
}

async function load() {
  const mine = (round += 1);
  horizon = Infinity;
  cursor = null;
  await more(mine);
}

const older = () => more(round);

async function more(mine) {
  const page = await ask({ limit: PAGE, cursor, ...wanted() });
  if (mine !== round) return;
  keep(page.events);
  cursor = page.next;
  horizon = cursor ? page.events.at(-1).start_time : -Infinity;
  draw();
}

/** What the timeline shows, also of what the list does not. */
async function day() {
  let next = null;
  for (let pages = 0; pages < DAY_PAGES; pages += 1) {
    const page = await ask({ limit: 500, after: now() - DAY_S, cursor: next });
    if (!running) return;
    keep(page.events);
    next = page.next;
    if (!next) break;
  }
  draw();
}

async function news() {
  const page = await ask({ limit: NEWEST });
  if (!running) return;
  const fresh = new Set(page.events.map(({ id }) => id));
  const overlap = page.events.some(({ id }) => all.has(id));
  const from = page.next ? page.events.at(-1).start_time : -Infinity;
  for (const [id, event] of all) if (event.start_time > from && !fresh.has(id)) all.delete(id);
  keep(page.events);
  draw();
  if (!overlap && page.next) await day();
}

/** Those that the filter lets through, newest first. */
function filtered() {
  const { label, stream } = wanted();
  return [...all.values()].filter((v) => (!label || v.label === label) && (!stream || v.camera === stream)).sort(newestFirst);
}

const listed = () => filtered().filter((v) => v.start_time >= horizon);

function draw() {
  const everything = [...all.values()];
  const at = now();
  options('of-label', 'All animals', everything.map((v) => v.label));
  options('of-stream', 'All streams', everything.map((v) => v.camera));
  part('visits').dataset.some = String(everything.length > 0);
  part('no-visits').hidden = everything.length > 0;
  part('older').hidden = cursor === null;
  strip.draw(filtered().filter((v) => v.start_time > at - DAY_S), at);
  const streams = new Set(everything.map((v) => v.camera)).size;
  const shown = listed();
  const elements = shown.map((v) => card(v, streams > 1, at));
  const ids = new Set(shown.map((v) => v.id));
  for (const id of cards.keys()) if (!ids.has(id)) cards.delete(id);
  const list = part('visit-list');
  // Cards stay in their place, with the focus and the picture that they have.
  if (elements.length !== list.children.length || elements.some((e, i) => e !== list.children[i])) list.replaceChildren(...elements);
  for (const v of shown) visit.refresh(v);
}

function options(id, none, values) {
  const select = part(id);
  const chosen = select.value;
  const names = [...new Set([...values, chosen])].filter(Boolean).sort();
  if (names.join() === [...select.options].slice(1).map((o) => o.value).join()) return;
  select.replaceChildren(new Option(none, ''), ...names.map((name) => new Option(name, name)));
  select.value = chosen;
  select.parentElement.hidden = names.length < 2 && !chosen;
}

function card(v, withStream, at) {
  const kept = cards.get(v.id);
  const element = kept?.element ?? blank(v);
  const told = [visit.when(v), lasted(v, at), v.end_time, v.top_score, v.crop_url, v.snapshot.frame_time, v.protected, withStream].join();
  if (kept?.told === told) return element;
  const set = (name, text) => { element.querySelector(`.${name}`).textContent = text; };
  const image = element.querySelector('img');
  image.hidden = !v.crop_url;
  // While the visit lasts a better picture may come.
  if (v.crop_url) visit.picture(image, address(v.crop_url, { of: v.snapshot.frame_time }));
  set('none', v.crop_url ? '' : v.end_time === null ? 'no picture yet' : 'no picture');
  set('visit-label', v.label);
  set('visit-score', `${Math.round(v.top_score * 100)}%`);
  set('visit-when', visit.when(v));
  set('visit-lasted', lasted(v, at));
  set('visit-stream', withStream ? v.camera : '');
  element.classList.toggle('kept', v.protected);
  element.classList.toggle('there', v.end_time === null);
  cards.set(v.id, { element, told });
  return element;
}

function blank(v) {
  const element = part('visit-template').content.firstElementChild.cloneNode(true);
  element.querySelector('i').style.background = labelColour(v.label);
  element.dataset.id = v.id;
  element.querySelector('button').addEventListener('click', () => show(v.id));
  return element;
}

/** @param {string} id */
function show(id) {
  if (all.has(id)) visit.show(all.get(id));
}

/** The visit before (older, -1) or after (newer, +1) another. @param {string} id @param {number} way */
function neighbour(id, way) {
  const row = filtered();
  const at = row.findIndex((v) => v.id === id);
  return at < 0 ? undefined : row[at - way];
}
