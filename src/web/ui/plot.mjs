/** A small plot of the last minute, one value a second. */

const SECONDS = 60;

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
    const first = SECONDS - this.#values.length;
    const points = this.#values.map((v, i) => `${first + i + 0.5} ${(19 - (v / top) * 18).toFixed(2)}`);
    const line = points.length > 1 ? `M${points.join('L')}` : '';
    this.line.setAttribute('d', line);
    this.area.setAttribute('d', line && `${line}V20H${first + 0.5}Z`);
  }
}
