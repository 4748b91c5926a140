import assert from 'node:assert/strict';
import { test } from 'node:test';
import { spot } from '../../../src/web/ui/overlay.mjs';

const PICTURE = [400, 300];
const LABEL = [80, 20];

test('a label stands above its box, else in it, always inside the picture', () => {
  assert.deepEqual(spot([100, 100, 200, 200], LABEL, PICTURE, []), [100, 77, 80, 20]);
  assert.deepEqual(spot([100, 10, 200, 200], LABEL, PICTURE, []), [105, 15, 80, 20]);
  assert.deepEqual(spot([380, 100, 400, 200], LABEL, PICTURE, []), [320, 77, 80, 20]);
  // A box as large as the picture, and one that is smaller than its label.
  assert.deepEqual(spot([0, 0, 400, 300], LABEL, PICTURE, []), [5, 5, 80, 20]);
  assert.deepEqual(spot([10, 1, 12, 3], LABEL, [90, 15], []), [10, 6, 80, 20]);
});

test('labels of boxes that are close do not cover each other', () => {
  const boxes = [[100, 100, 160, 200], [110, 102, 180, 210], [115, 98, 170, 220], [105, 104, 150, 190]];
  const taken = [];
  for (const box of boxes) taken.push(spot(box, LABEL, PICTURE, taken));
  for (const [i, [x, y, w, h]] of taken.entries()) {
    for (const [x2, y2] of taken.slice(i + 1)) {
      assert.ok(x + w <= x2 || x2 + w <= x || y + h <= y2 || y2 + h <= y, JSON.stringify(taken));
    }
  }
});
