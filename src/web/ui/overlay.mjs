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
  const shown = picture.width * scale;
  for (const box of boxes) {
    const at = box.bbox.map((v) => v * scale);
    frame(context, at, colour(box.class_id));
    if (shown >= LABELS_FROM) label(context, at, box, shown);
  }
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

function label(context, [x1, y1], box, width) {
  const size = width < 500 ? 12 : 14;
  context.font = `600 ${size}px system-ui, sans-serif`;
  context.textBaseline = 'middle';
  const track = box.track_id === null ? '' : ` ${box.track_id}`;
  const text = `${box.label}${track}  ${Math.round(box.confidence * 100)}%`;
  const [w, h] = [context.measureText(text).width + size, size * 1.6];
  // Above the box where there is room, else in its corner; always inside the picture.
  const above = y1 - h - 3 >= 0;
  const x = Math.max(0, Math.min(above ? x1 : x1 + 5, width - w));
  const y = above ? y1 - h - 3 : y1 + 5;
  context.beginPath();
  context.roundRect(x, y, w, h, 5);
  context.fillStyle = colour(box.class_id);
  context.fill();
  context.fillStyle = '#0b0d10';
  context.fillText(text, x + size / 2, y + h / 2 + 0.5);
}
