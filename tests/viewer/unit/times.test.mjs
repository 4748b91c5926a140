import assert from 'node:assert/strict';
import { test } from 'node:test';
import { bars, duration, lasted, marks, nearest, span } from '../../../src/web/ui/times.mjs';

const visit = (id, start_time, end_time) => ({ id, start_time, end_time });
const HOUR = 3600;

test('durations read as people say them', () => {
  assert.equal(duration(0), '0 s');
  assert.equal(duration(-3), '0 s');
  assert.equal(duration(59.4), '59 s');
  assert.equal(duration(59.6), '1 min');
  assert.equal(duration(125), '2 min 5 s');
  assert.equal(duration(HOUR), '1 h');
  assert.equal(duration(2 * HOUR - 1), '2 h');
  assert.equal(duration(26 * HOUR + 300), '26 h 5 min');
});

test('a visit that lasts has lasted until now', () => {
  assert.equal(lasted(visit('a', 100, 107), 500), '7 s');
  assert.equal(lasted(visit('a', 100, null), 190), '1 min 30 s');
});

test('the strip is as short as what is on it allows, and a day at most', () => {
  const now = 1_000_000;
  const length = (...ages) => {
    const { from, to } = span(ages.map((age) => visit('', now - age, null)), now);
    assert.equal(to, now);
    return to - from;
  };
  assert.equal(length(), 900);
  assert.equal(length(60, 900), 900);
  assert.equal(length(60, 901), HOUR);
  assert.equal(length(5 * HOUR), 6 * HOUR);
  assert.equal(length(24 * HOUR), 24 * HOUR);
  assert.equal(length(60, 25 * HOUR), 900, 'what is older is not on it');
});

test('bars lie where the visits were', () => {
  const strip = { from: 1000, to: 2000, step: 100 };
  const all = bars([visit('late', 1500, 1750), visit('early', 1100, 1200)], strip);
  assert.deepEqual(all.map(({ id }) => id), ['early', 'late']);
  assert.ok(Math.abs(all[0].x - 0.1) < 1e-9 && Math.abs(all[0].width - 0.1) < 1e-9);
  assert.ok(Math.abs(all[1].x - 0.5) < 1e-9 && Math.abs(all[1].width - 0.25) < 1e-9);
  assert.deepEqual(all.map(({ lane }) => lane), [0, 0]);
});

test('bars are cut at the ends, are never too thin to see, and stay on the strip', () => {
  const strip = { from: 1000, to: 2000, step: 100 };
  const all = bars([visit('before', 900, 950), visit('into', 900, 1100), visit('short', 1500, 1500), visit('now', 1999.9, null)], strip);
  assert.deepEqual(all.map(({ id }) => id), ['into', 'short', 'now']);
  assert.equal(all[0].x, 0);
  assert.ok(Math.abs(all[0].width - 0.1) < 1e-9);
  for (const bar of all) assert.ok(bar.width >= 0.006 && bar.x + bar.width <= 1 + 1e-9);
});

test('animals that are there together get lanes of their own', () => {
  const strip = { from: 0, to: 100, step: 10 };
  const all = bars([visit('a', 10, 50), visit('b', 20, 60), visit('c', 30, 40), visit('d', 35, 45), visit('e', 55, 70)], strip);
  assert.deepEqual(all.map(({ lane }) => lane), [0, 1, 2, 2, 0]);
});

test('marks are round times of the viewer', () => {
  assert.deepEqual(marks({ from: 7 * HOUR + 60, to: 10 * HOUR, step: HOUR }, 0), [8 * HOUR, 9 * HOUR, 10 * HOUR]);
  // India: half past the hour of UTC.
  assert.deepEqual(marks({ from: 7 * HOUR + 60, to: 9 * HOUR, step: HOUR }, 5.5 * HOUR), [7.5 * HOUR, 8.5 * HOUR]);
  assert.deepEqual(marks({ from: 7 * HOUR, to: 8.25 * HOUR, step: HOUR }, -5 * HOUR), [7 * HOUR, 8 * HOUR]);
});

test('a click beside a bar means the nearest', () => {
  const all = [{ id: 'a', x: 0.1, width: 0.1, lane: 0 }, { id: 'b', x: 0.3, width: 0.1, lane: 0 }];
  assert.equal(nearest(all, 0.15, 0.02).id, 'a');
  assert.equal(nearest(all, 0.21, 0.02).id, 'a');
  assert.equal(nearest(all, 0.29, 0.02).id, 'b');
  assert.equal(nearest(all, 0.25, 0.02), undefined);
  assert.equal(nearest([], 0.5, 0.02), undefined);
});
