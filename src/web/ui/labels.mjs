/** The colour of a label where there is no class number with it: the one that its boxes have. */

import { colour } from './overlay.mjs';

/** The animals of the models that come with spotter; other labels are learned from detections. */
const known = new Map(['bird', 'cat', 'dog', 'horse', 'sheep', 'cow', 'elephant', 'bear', 'zebra', 'giraffe'].map((label, i) => [label, 14 + i]));

/** @param {import('./boxes.mjs').Box[]} boxes */
export function learn(boxes) {
  for (const { label, class_id: id } of boxes) known.set(label, id);
}

/** @param {string} label */
export function labelColour(label) {
  if (!known.has(label)) known.set(label, [...label].reduce((sum, c) => (sum * 31 + c.codePointAt(0)) % 997, 7));
  return colour(known.get(label));
}
