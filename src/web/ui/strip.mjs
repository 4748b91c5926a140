/** Draws the timeline: a strip a stream with a bar a visit, which pointer and keys choose. It asks for nothing. */

import { bars, lasted, marks, nearest, span } from './times.mjs';

const SVG = 'http://www.w3.org/2000/svg';
const LANE_PX = 10;
/** A click this near, in pixels, means a bar. */
const NEAR_PX = 14;
/** How wide a time on the axis is, and how far from the next, in pixels. */
const WORD_PX = 60;
const SPACE_PX = 16;
const clock = new Intl.DateTimeFormat(undefined, { hour: '2-digit', minute: '2-digit' });

export class Strip {
  /**
   * @param {HTMLElement} place @param {(id: string) => void} choose
   * @param {(label: string) => string} colour
   */
  constructor(place, choose, colour) {
    Object.assign(this, { place, choose, colour });
    /** The bar of each stream that Tab goes to. @type {Map<string, string>} */
    this.stops = new Map();
  }

  /** @param {object[]} visits as `/api/v1/events` has them @param {number} now s since 1970 */
  draw(visits, now) {
    const streams = [...new Set(visits.map((v) => v.camera))].sort();
    const strip = span(visits, now);
    const focused = this.place.contains(document.activeElement) ? document.activeElement.dataset.id : null;
    const rows = streams.map((name) => this.#row(name, visits.filter((v) => v.camera === name), strip, now));
    this.place.replaceChildren(...rows.flat(), axis(strip, this.place.clientWidth));
    // Drawn anew under somebody's fingers.
    if (focused) this.place.querySelector(`[data-id="${CSS.escape(focused)}"]`)?.focus();
  }

  #row(name, visits, strip, now) {
    const placed = bars(visits, strip);
    const lanes = 1 + Math.max(0, ...placed.map((bar) => bar.lane));
    const svg = make('svg', { role: 'group', 'aria-label': `Visits of ${name}`, height: lanes * LANE_PX + 6 });
    for (const at of marks(strip, offset(strip.to))) {
      const x = percent((at - strip.from) / (strip.to - strip.from));
      svg.append(make('line', { x1: x, x2: x, y1: 0, y2: '100%' }));
    }
    const byId = new Map(visits.map((v) => [v.id, v]));
    const stop = placed.some((bar) => bar.id === this.stops.get(name)) ? this.stops.get(name) : placed.at(-1)?.id;
    for (const bar of placed) {
      const visit = byId.get(bar.id);
      const words = `${visit.label}, ${clock.format(visit.start_time * 1000)}, ${lasted(visit, now)}`;
      const rect = make('rect', {
        x: percent(bar.x), width: percent(bar.width), y: 3 + bar.lane * LANE_PX + 1, height: LANE_PX - 2, rx: 2.5,
        fill: this.colour(visit.label), role: 'button', tabindex: bar.id === stop ? 0 : -1, 'aria-label': words, 'data-id': bar.id,
      });
      rect.append(Object.assign(document.createElementNS(SVG, 'title'), { textContent: words }));
      svg.append(rect);
    }
    svg.addEventListener('click', (event) => this.#click(event, svg, placed));
    svg.addEventListener('keydown', (event) => this.#key(event, name, placed));
    return [Object.assign(document.createElement('span'), { className: 'lane-name', textContent: name, title: name }), svg];
  }

  #click(event, svg, placed) {
    const { left, width } = svg.getBoundingClientRect();
    const hit = event.target.dataset.id ?? nearest(placed, (event.clientX - left) / width, NEAR_PX / width)?.id;
    if (hit) this.choose(hit);
  }

  #key(event, name, placed) {
    const at = placed.findIndex((bar) => bar.id === event.target.dataset.id);
    const to = { ArrowLeft: at - 1, ArrowRight: at + 1, Home: 0, End: placed.length - 1 }[event.key];
    if (event.key === 'Enter' || event.key === ' ') this.choose(placed[at].id);
    else if (to === undefined) return;
    else if (placed[to]) this.#focus(event.currentTarget, name, placed[to].id);
    event.preventDefault();
    // The page's own keys choose streams.
    event.stopPropagation();
  }

  #focus(svg, name, id) {
    this.stops.set(name, id);
    for (const rect of svg.querySelectorAll('rect')) rect.setAttribute('tabindex', rect.dataset.id === id ? 0 : -1);
    svg.querySelector(`[data-id="${CSS.escape(id)}"]`).focus();
  }
}

const percent = (part) => `${(100 * part).toFixed(3)}%`;
const offset = (time) => -60 * new Date(time * 1000).getTimezoneOffset();

function make(name, attributes) {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  return element;
}

/** @param {import('./times.mjs').Span} strip @param {number} width px */
function axis(strip, width) {
  const svg = make('svg', { class: 'axis', height: 16, 'aria-hidden': 'true' });
  let end = -Infinity;
  for (const at of marks(strip, offset(strip.to))) {
    const part = (at - strip.from) / (strip.to - strip.from);
    // A word at the very edge would be cut off.
    const [anchor, before] = part > 0.94 ? ['end', WORD_PX] : part < 0.06 ? ['start', 0] : ['middle', WORD_PX / 2];
    const left = part * width - before;
    if (left < end + SPACE_PX) continue;
    end = left + WORD_PX;
    svg.append(Object.assign(make('text', { x: percent(part), y: 12, 'text-anchor': anchor }), { textContent: clock.format(at * 1000) }));
  }
  return svg;
}
