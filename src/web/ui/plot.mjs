/** A small plot of the last minute, one value a second. */

const SECONDS = 60;
/** A young plot is as wide as an old one, from so many values on. */
const LEAST = 4;

export class Plot {
  /** @type {number[]} */
  #values = [];

  /** @param {SVGSVGElement} svg with one `path.area` and one `path.line`, 60 wide and 20 high */
  constructor(svg) {
    this.area = svg.querySelector('.area');
    this.line = svg.querySelector('.line');
  }

  clear() {
    this.#values = [];
    this.#draw();
  }

  /** @param {number} value of this second */
  add(value) {
    this.#values.push(value);
    if (this.#values.length > SECONDS) this.#values.shift();
    this.#draw();
  }

  #draw() {
    const top = Math.max(1e-9, ...this.#values) * 1.15;
    const count = this.#values.length;
    const step = SECONDS / Math.max(LEAST, count);
    const at = (i) => (SECONDS - (count - i - 0.5) * step).toFixed(2);
    const points = this.#values.map((v, i) => `${at(i)} ${(19 - (v / top) * 18).toFixed(2)}`);
    const line = points.length > 1 ? `M${points.join('L')}` : '';
    this.line.setAttribute('d', line);
    this.area.setAttribute('d', line && `${line}V20H${at(0)}Z`);
  }
}
