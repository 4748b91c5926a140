/** Draws boxes and their labels over a video's picture. It does not know which boxes. */

/** Below this width of the picture, in CSS pixels, labels would hide what they name. */
const LABELS_FROM = 260;

/** One colour a label, the same on every page; neighbours in the list of labels are far apart. @param {number} id */
export const colour = (id) => `hsl(${(id * 137.5 + 60) % 360} 85% 71%)`;

/**
 * @param {HTMLCanvasElement} canvas over the whole video element
 * @param {import('./boxes.mjs').Box[]} boxes
 * @param {{width: number, height: number}} picture what the boxes' pixels refer to
 */
export function draw(canvas, boxes, picture) {
  const context = canvas.getContext('2d');
  const { clientWidth: w, clientHeight: h } = canvas;
  const dots = window.devicePixelRatio;
  const [width, height] = [Math.round(w * dots), Math.round(h * dots)];
  if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
  context.setTransform(dots, 0, 0, dots, 0, 0);
  context.clearRect(0, 0, w, h);
  // As object-fit: contain places it.
  const scale = Math.min(w / picture.width, h / picture.height);
  const [left, top] = [(w - picture.width * scale) / 2, (h - picture.height * scale) / 2];
  context.translate(left, top);
  const shown = [picture.width * scale, picture.height * scale];
  const places = boxes.map(({ bbox }) => bbox.map((v) => v * scale));
  boxes.forEach((box, i) => frame(context, places[i], colour(box.class_id)));
  if (shown[0] < LABELS_FROM) return;
  const taken = [];
  // The surest first: it has the best place.
  const order = boxes.map((_, i) => i).sort((a, b) => boxes[b].confidence - boxes[a].confidence);
  for (const i of order) label(context, places[i], boxes[i], shown, taken);
}

/**
 * Where a label stands: above its box, else in it or below it, where no other label is; always inside the picture.
 * @param {number[]} box x1, y1, x2, y2 @param {number[]} size of the label @param {number[]} picture its size
 * @param {number[][]} taken x, y, width, height of the labels that stand already @returns {number[]} x, y, width, height
 */
export function spot([x1, y1, x2, y2], [w, h], [width, height], taken) {
  const places = [[x1, y1 - h - 3], [x1 + 5, y1 + 5], [x1, y2 + 3], [x2 - w, y1 - h - 3], [x2 - w - 5, y2 - h - 5], [x1 + 5, y1 + h + 8]]
    .filter(([, y]) => y >= 0 && y + h <= height)
    .map(([x, y]) => [Math.max(0, Math.min(x, width - w)), y, w, h]);
  const free = ([x, y]) => taken.every(([tx, ty, tw, th]) => x + w <= tx || tx + tw <= x || y + h <= ty || ty + th <= y);
  return places.find(free) ?? places[0] ?? [Math.max(0, Math.min(x1, width - w)), Math.max(0, y1 + 5), w, h];
}

function frame(context, [x1, y1, x2, y2], stroke) {
  const path = new Path2D();
  path.roundRect(x1 + 1, y1 + 1, Math.max(1, x2 - x1 - 2), Math.max(1, y2 - y1 - 2), 5);
  // A dark edge keeps the colour visible on a picture of the same colour.
  context.lineWidth = 5;
  context.strokeStyle = 'rgb(0 0 0 / 45%)';
  context.stroke(path);
  context.lineWidth = 2.5;
  context.strokeStyle = stroke;
  context.stroke(path);
}

function label(context, at, box, picture, taken) {
  const size = picture[0] < 500 ? 12 : 14;
  context.font = `600 ${size}px system-ui, sans-serif`;
  context.textBaseline = 'middle';
  const track = box.track_id === null ? '' : ` ${box.track_id}`;
  const text = `${box.label}${track}  ${Math.round(box.confidence * 100)}%`;
  const place = spot(at, [context.measureText(text).width + size, size * 1.6], picture, taken);
  taken.push(place);
  const [x, y, w, h] = place;
  context.beginPath();
  context.roundRect(x, y, w, h, 5);
  context.fillStyle = colour(box.class_id);
  context.fill();
  context.fillStyle = '#0b0d10';
  context.fillText(text, x + size / 2, y + h / 2 + 0.5);
}
