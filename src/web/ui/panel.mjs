/** The numbers beside the picture: of the chosen stream, and of the node. It asks for none of them. */

import { NAMES } from './choose.mjs';
import { Plot } from './plot.mjs';

const STAGES = ['decode', 'wait', 'infer', 'total'];
const field = (name) => document.querySelector(`[data-field="${name}"]`);
const number = new Intl.NumberFormat('en');

const plots = Object.fromEntries(
  [...document.querySelectorAll('[data-plot]')].map((svg) => [svg.dataset.plot, new Plot(svg)]),
);

/** Here the numbers stand beside the picture; elsewhere they are below it, and most of them folded. */
const wide = matchMedia('(min-width: 861px)');
const more = document.getElementById('more');

function fold() {
  more.open = wide.matches;
}
wide.addEventListener('change', fold);
more.addEventListener('toggle', pressed);
fold();
pressed();

/** Shows or hides them; where they are below the picture, goes there. */
export function toggle() {
  if (wide.matches) {
    document.body.classList.toggle('no-panel');
    return pressed();
  }
  const panel = document.getElementById('panel');
  const { top } = panel.getBoundingClientRect();
  const seen = top >= 0 && top < 0.6 * innerHeight;
  more.open = !(more.open && seen);
  if (!seen) panel.scrollIntoView();
}

function pressed() {
  const on = wide.matches ? !document.body.classList.contains('no-panel') : more.open;
  document.querySelector('[data-action=panel]').setAttribute('aria-pressed', String(on));
}

/** A live region would read out a text that is set again. */
function set(name, text) {
  const element = field(name);
  if (element.textContent !== text) element.textContent = text;
}

/** Another stream's plots begin anew. */
export function forget() {
  for (const plot of Object.values(plots)) plot.clear();
}

/**
 * One second of the chosen stream.
 * @param {object} stream as `/api/v1/streams` has it @param {number} shown pictures in this second
 */
export function second(stream, shown) {
  const animals = Object.entries(stream.animals_now ?? {});
  const count = animals.reduce((sum, [, n]) => sum + n, 0);
  set('shown', shown.toFixed(0));
  set('detected', stream.detections_per_s.toFixed(1));
  set('animals', String(count));
  set('animals-now', animals.map(([label, n]) => (n > 1 ? `${n} × ${label}` : label)).join(', ') || 'none in view');
  set('animals-total', number.format(stream.animals_total));
  set('frames', number.format(stream.frames_total));
  set('published', `${stream.fps.toFixed(0)} fps`);
  const latency = stream.latency_ms;
  set('latency', latency ? latency.total.p50.toFixed(0) : '–');
  if (latency) stages(latency);
  plots.shown.add(shown);
  plots.detected.add(stream.detections_per_s);
  plots.animals.add(count);
  plots.latency.add(latency?.total.p50 ?? 0);
}

function stages(latency) {
  const longest = Math.max(1, latency.total.p95);
  for (const stage of STAGES) {
    const { p50, p95 } = latency[stage];
    set(`${stage}-p50`, p50.toFixed(1));
    set(`${stage}-p95`, p95.toFixed(1));
    const meter = field(`${stage}-bar`);
    meter.style.setProperty('--p50', `${(100 * p50) / longest}%`);
    meter.style.setProperty('--p95', `${(100 * p95) / longest}%`);
  }
}

/** How the picture comes. @param {import('./view.mjs').View} view */
export function video(view) {
  const { state, transport, why } = view.news;
  const states = { live: 'live', waiting: 'waiting for the camera', silent: 'the camera sends nothing', blocked: 'waiting for you', retry: 'lost' };
  set('video', view.info?.status === 'waiting' ? states.waiting : (states[state] ?? 'connecting'));
  set('transport', transport ? `${NAMES[transport]}: ${why}` : '–');
  set('lost', number.format(view.lost));
  const { video: picture } = view.info ?? {};
  set('picture', picture ? `${picture.codec}, ${picture.width} × ${picture.height}` : '–');
}

/** @param {string} text of the event stream's connection */
export function events(text) {
  set('events', text);
}

/** @param {object} stats the wire form */
export function load({ load: { cpu_percent: cpu, memory_bytes: memory, temperature_c: heat, throttled } }) {
  const parts = [
    cpu != null && `${cpu.toFixed(0)} % of a core`,
    memory != null && `${(memory / 1e6).toFixed(0)} MB`,
    heat != null && `${heat.toFixed(0)} °C`,
    throttled && 'slowed down',
  ];
  set('load', parts.filter(Boolean).join(', ') || '–');
}

/** What works for the chosen stream, and what was tried before it. @param {object} status the wire form */
export function node(status, stream) {
  set('node', status.node);
  set('version', `spotter ${status.version} on ${status.board}`);
  const decoder = status.decoders.find((d) => d.stream === stream);
  const { detector } = status;
  set('decoder', decoder ? decoder.decoder + (decoder.resting ? ' (rests)' : '') : '–');
  set('detector', detector ? `${detector.model}, ${detector.backend}` : (status.detector_error ?? '–'));
  storage(status.storage);
  const refusals = [...(decoder?.refusals ?? []), ...(detector?.refusals ?? [])];
  field('refusals').parentElement.hidden = refusals.length === 0;
  list('refusals', refusals);
  const local = [
    ...(status.throttled ?? []).map((why) => `slowed down: ${why}`),
    ...paced(status.pace),
    ...(status.sources ?? []).map((s) => `${s.stream}: ${s.state}, ${s.error ?? [s.format, s.encoder].filter(Boolean).join(', ')}`),
    ...(status.pins ?? []).filter((p) => p.error).map((p) => `${p.name}: ${p.error}`),
  ];
  field('local').parentElement.hidden = local.length === 0;
  list('local', local);
  const relays = status.relays ?? [];
  field('relays').parentElement.hidden = relays.length === 0;
  list('relays', relays.map((r) => `${r.stream} → ${r.target}: ${r.state}${r.error ? ` (${r.error})` : ''}`));
}

/** Why pictures are looked at less often than was asked for. */
function paced(pace) {
  if (!pace?.reason) return [];
  const { rate_hz: now, of_hz: asked, smaller_model: model, reason } = pace;
  return [`looks ${now.toFixed(1)} of ${asked.toFixed(1)} times a second${model ? `, with ${model}` : ''}: ${reason}`];
}

/** @param {object} state of the disk, in the wire form */
function storage({ state, message, free_bytes: free, used_bytes: used }) {
  const words = { ok: `${gigabytes(used)} used, ${gigabytes(free)} free`, off: 'off', full: 'full', read_only: 'read-only', failed: 'failed' };
  set('storage', words[state] ?? state);
  set('storage-why', message ?? '');
  field('storage').classList.toggle('bad', state !== 'ok' && state !== 'off');
}

const gigabytes = (bytes) => (bytes < 1e9 ? `${(bytes / 1e6).toFixed(0)} MB` : `${(bytes / 1e9).toFixed(1)} GB`);

function list(name, texts) {
  const items = texts.map((text) => Object.assign(document.createElement('li'), { textContent: text }));
  field(name).replaceChildren(...items);
}
