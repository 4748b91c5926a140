import assert from 'node:assert/strict';
import { test } from 'node:test';
import { History, iou, pair, Timeline, unwrapRtp } from '../../../src/web/ui/boxes.mjs';

const box = (label, bbox, track_id = null) => ({ label, bbox, track_id, class_id: 1, confidence: 0.5 });

/** A history of detections at these times, each having just arrived at `now`. */
function history(...seen) {
  const all = new History();
  for (const [pts_ms, detections, now = 0] of seen) {
    all.add({ pts_ms, captured_at: '2026-11-23T13:10:00Z', width: 100, height: 100, detections }, now);
  }
  return all;
}

test('RTP time is unwrapped to the nearest', () => {
  assert.equal(unwrapRtp(90_000, 1000), 1000);
  const span = 2 ** 32 / 90;
  assert.ok(Math.abs(unwrapRtp(9000, span - 50) - (span + 100)) < 1e-6);
  assert.ok(Math.abs(unwrapRtp(2 ** 32 - 9000, 2 * span + 50) - (2 * span - 100)) < 1e-6);
});

test('overlap is over the union', () => {
  assert.equal(iou([0, 0, 10, 10], [0, 0, 10, 10]), 1);
  assert.equal(iou([0, 0, 10, 10], [5, 0, 15, 10]), 1 / 3);
  assert.equal(iou([0, 0, 10, 10], [20, 0, 30, 10]), 0);
  assert.equal(iou([0, 0, 0, 0], [0, 0, 0, 0]), 0);
});

test('animals are paired by track, else by label and overlap', () => {
  const [a, b] = [box('dog', [0, 0, 10, 10], 1), box('dog', [0, 0, 10, 10], 2)];
  const [c, d] = [box('dog', [0, 0, 10, 10], 2), box('cat', [50, 0, 60, 10], 1)];
  assert.deepEqual(pair([a, b], [c, d]), new Map([[a, d], [b, c]]));
  const [left, right] = [box('dog', [0, 0, 10, 10]), box('dog', [8, 0, 18, 10])];
  const [toLeft, toRight] = [box('dog', [1, 0, 11, 10]), box('dog', [9, 0, 19, 10])];
  assert.deepEqual(pair([left, right], [toRight, toLeft]), new Map([[left, toLeft], [right, toRight]]));
  assert.equal(pair([box('dog', [0, 0, 10, 10])], [box('cat', [0, 0, 10, 10])]).size, 0);
});

test('between two detections a box is on its way', () => {
  const h = history([1000, [box('dog', [0, 0, 10, 10])]], [1100, [box('dog', [4, 0, 14, 10])]]);
  assert.deepEqual(h.at(1050, 0)[0].bbox, [2, 0, 12, 10]);
  assert.deepEqual(h.at(1000, 0)[0].bbox, [0, 0, 10, 10]);
  assert.deepEqual(h.at(1100, 0)[0].bbox, [4, 0, 14, 10]);
});

test('what came or went does so half way', () => {
  const h = history([0, [box('dog', [0, 0, 9, 9])]], [100, [box('cat', [0, 0, 9, 9])]]);
  assert.deepEqual([h.at(40, 0)[0].label, h.at(60, 0)[0].label], ['dog', 'cat']);
});

test('a picture newer than all detections gets the newest, not a guess, and only while they come', () => {
  const h = history([0, [box('dog', [0, 0, 10, 10])], 900], [100, [box('dog', [4, 0, 14, 10])], 1000]);
  assert.deepEqual(h.at(700, 1300)[0].bbox, [4, 0, 14, 10]);
  assert.deepEqual(h.at(700, 1500), []);
  assert.deepEqual(h.at(5000, 1001), [], 'of a picture this much newer they say nothing');
});

test('a picture that is late has its own boxes, whenever they came', () => {
  assert.equal(history([1000, [box('dog', [0, 0, 10, 10])], 0]).at(1000, 9999).length, 1);
});

test('a slow detector does not make boxes blink', () => {
  const h = history([0, [box('dog', [0, 0, 10, 10])], 0], [800, [box('dog', [0, 0, 10, 10])], 1000]);
  assert.equal(h.at(1500, 1900).length, 1);
  assert.equal(h.at(1500, 2300).length, 0);
});

test('a long gap is not bridged', () => {
  const h = history([0, [box('dog', [0, 0, 10, 10])]], [5000, [box('dog', [0, 0, 10, 10])]]);
  assert.deepEqual([h.at(300, 0).length, h.at(2500, 0).length, h.at(5000, 0).length], [1, 0, 1]);
});

test('a picture older than all that is known has no boxes', () => {
  assert.deepEqual(history([5000, [box('dog', [0, 0, 1, 1])]]).at(1000, 0), []);
  assert.deepEqual(new History().at(0, 0), []);
});

test('a time line that begins again forgets the old one', () => {
  const h = history([90_000, [box('dog', [0, 0, 1, 1])]], [10, []]);
  assert.equal(h.newest.pts, 10);
  assert.deepEqual(h.at(90_000, 0), []);
});

test('the history is bounded', () => {
  const h = history(...Array.from({ length: 1000 }, (_, i) => [i * 100, [box('dog', [i, 0, i + 10, 10])]]));
  assert.deepEqual(h.at(65_000, 0), []);
  assert.equal(h.at(75_000, 0).length, 1);
});

test('a picture whose wall time is known finds its place on the stream’s time line', () => {
  const began = Date.parse('2026-11-23T13:10:00Z');
  const all = new History();
  const see = (pts, late) => all.add({
    pts_ms: pts, captured_at: new Date(began + pts + late).toISOString(), width: 100, height: 100, detections: [],
  }, 0);
  const timeline = new Timeline();
  // Most arrive 30 ms after the least that it can take, one was held up.
  for (const late of [30, 30, 400, 30]) see(10_000 + all.size * 100, late);
  const start = began + 5000 + 30;
  assert.equal(timeline.at(start, 2, all), 7000);
  // Once that is known for sure a clock that is set, or drifts, moves no box.
  while (all.size < 40) see(11_000 + all.size * 100, 30);
  assert.equal(timeline.at(start, 3, all), 8000);
  for (let n = 0; n < 200; n += 1) see(20_000 + n * 100, 900);
  assert.equal(timeline.at(start, 10, all), 15_000);
  // Another beginning is asked for anew.
  assert.equal(timeline.at(start + 20_000 + 870, 1, all), 26_000);
});
