/** One visit in a dialog: its clip and picture, what is known of it, and keeping or deleting it where that is allowed. */

import { address, ask, askJson } from './api.mjs';
import * as rights from './rights.mjs';
import { lasted } from './times.mjs';

const part = (id) => document.getElementById(id);
const dialog = part('visit');
const field = (name) => dialog.querySelector(`[data-visit="${name}"]`);
const action = (name) => dialog.querySelector(`[data-do="${name}"]`);
const clock = new Intl.DateTimeFormat(undefined, { timeStyle: 'medium' });
const date = new Intl.DateTimeFormat(undefined, { weekday: 'short', day: 'numeric', month: 'short', hour: '2-digit', minute: '2-digit' });
const exact = new Intl.DateTimeFormat(undefined, { dateStyle: 'medium', timeStyle: 'medium' });
const calm = matchMedia('(prefers-reduced-motion: reduce)');

/** The one that is shown. @type {object|undefined} */
let shown;
/** What the list does. @type {{next: (id: string, way: number) => object|undefined, gone: (id: string) => void, changed: (visit: object) => void}} */
let list;

/** When it began, short, in the viewer's own time zone. @param {object} visit */
export function when({ start_time: start }) {
  const then = new Date(start * 1000);
  return (then.toDateString() === new Date().toDateString() ? clock : date).format(then);
}

/** Sets an image's address once: setting the same again loads it again. @param {HTMLImageElement} image @param {URL} url */
export function picture(image, url) {
  if (image.src !== url.href) image.src = url;
}

// Who may change things may keep and delete.
rights.whenKnown((admin) => { part('visit-acts').hidden = !admin; });

/** @param {typeof list} whole */
export function begin(whole) {
  list = whole;
  const acts = {
    newer: () => step(1),
    older: () => step(-1),
    close,
    keep: () => attempt(protect),
    delete: () => sure(true),
    'not-delete': () => sure(false),
    'do-delete': () => attempt(remove),
  };
  for (const [name, act] of Object.entries(acts)) action(name).addEventListener('click', act);
  dialog.addEventListener('keydown', key);
  dialog.addEventListener('close', release);
  field('clip').addEventListener('error', unplayable);
  // A click beside the dialog.
  dialog.addEventListener('click', (event) => { if (event.target === dialog) close(); });
}

/** @param {object} visit as `/api/v1/events` has it */
export function show(visit) {
  release();
  shown = visit;
  sure(false);
  field('why').textContent = '';
  details();
  media();
  if (!dialog.open) dialog.showModal();
}

/** There is news of a visit; one that is shown goes on playing. @param {object} visit */
export function refresh(visit) {
  if (visit.id !== shown?.id) return;
  const failed = Boolean(field('clip').error);
  const other = visit.has_clip !== shown.has_clip || (failed && visit.end_time !== shown.end_time);
  shown = visit;
  details();
  if (other) media();
}

export function close() {
  dialog.close();
}

function details() {
  const v = shown;
  const there = v.end_time === null;
  const texts = {
    label: v.label,
    began: exact.format(v.start_time * 1000) + (v.time_synced ? '' : ' (clock not set)'),
    lasted: there ? `${lasted(v, Date.now() / 1000)}, still there` : lasted(v),
    score: `${Math.round(v.top_score * 100)}%`,
    stream: v.camera,
    zones: v.entered_zones.join(', ') || '–',
  };
  for (const [name, text] of Object.entries(texts)) if (field(name).textContent !== text) field(name).textContent = text;
  const image = field('picture');
  image.hidden = !v.snapshot_url;
  field('no-picture').hidden = !image.hidden;
  if (v.snapshot_url) picture(image, address(v.snapshot_url, { of: v.snapshot.frame_time }));
  image.alt = `The best picture of the ${v.label}`;
  link('picture-link', v.snapshot_url, 'jpg');
  link('clip-link', v.clip_url, 'mp4');
  action('keep').setAttribute('aria-pressed', String(v.protected));
  action('keep').textContent = v.protected ? 'Kept' : 'Keep';
  // Not `disabled`: that would take the focus, and with it the keys, out of the dialog.
  action('newer').setAttribute('aria-disabled', String(!list.next(v.id, 1)));
  action('older').setAttribute('aria-disabled', String(!list.next(v.id, -1)));
}

function link(name, path, ending) {
  field(name).hidden = !path;
  if (!path) return;
  field(name).href = address(path);
  field(name).download = `${shown.camera}-${shown.label}-${shown.id}.${ending}`;
}

function media() {
  const video = field('clip');
  video.hidden = !shown.has_clip;
  field('no-clip').hidden = shown.has_clip;
  field('no-clip').textContent = 'No clip of this visit is kept.';
  if (!shown.has_clip) return;
  video.muted = true;
  video.autoplay = !calm.matches;
  video.src = address(shown.clip_url);
}

function unplayable() {
  const video = field('clip');
  if (!shown || !video.error) return;
  video.hidden = true;
  field('no-clip').hidden = false;
  field('no-clip').textContent = shown.end_time === null ? 'The clip is not there yet.' : 'This browser cannot play the clip; save it to see it.';
}

function release() {
  shown = undefined;
  silence();
}

function silence() {
  const video = field('clip');
  if (!video.src) return;
  video.pause();
  video.removeAttribute('src');
  video.load();
}

function step(way) {
  const next = list.next(shown.id, way);
  if (next) show(next);
}

/** @param {KeyboardEvent} event */
function key(event) {
  // The video has arrows of its own.
  if (event.target.closest('video') || event.ctrlKey || event.metaKey || event.altKey) return;
  const way = { ArrowLeft: 1, ArrowRight: -1 }[event.key];
  if (!way || !shown) return;
  step(way);
  event.preventDefault();
}

function sure(asked) {
  field('sure').hidden = !asked;
  action('delete').hidden = asked;
  if (asked) action('not-delete').focus();
}

async function attempt(work) {
  try {
    field('why').textContent = '';
    await work(shown);
  } catch (error) {
    if (error.wantsToken) rights.forget();
    else field('why').textContent = error.message;
  }
}

async function protect(visit) {
  const wish = { protected: !visit.protected };
  await ask(`/api/v1/events/${encodeURIComponent(visit.id)}/protected`, { method: 'PUT', body: JSON.stringify(wish) });
  const now = await askJson(`/api/v1/events/${encodeURIComponent(visit.id)}`);
  list.changed(now);
  refresh(now);
}

async function remove(visit) {
  sure(false);
  // Else it would go on asking for what is gone.
  silence();
  try {
    await ask(`/api/v1/events/${encodeURIComponent(visit.id)}`, { method: 'DELETE' });
  } catch (error) {
    if (shown?.id === visit.id) media();
    throw error;
  }
  const next = list.next(visit.id, -1) ?? list.next(visit.id, 1);
  list.gone(visit.id);
  if (shown?.id !== visit.id) return;
  if (next) show(next);
  else close();
}
