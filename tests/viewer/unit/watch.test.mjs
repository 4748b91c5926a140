import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Watch } from '../../../src/web/ui/watch.mjs';

/**
 * Looks four times a second, for `seconds`; spotter is heard each second. What was found, each once, with the second.
 * @param {{shown: (s: number) => number, got: (s: number) => number, status?: (s: number) => string, hears?: (s: number) => boolean}} world
 */
function watched(seconds, { shown, got, status = () => 'online', hears = () => true }) {
  const watch = new Watch(0, shown(0));
  let stream = { status: status(0), frames_total: got(0) };
  let heard = 0;
  const found = [];
  for (let ms = 250; ms <= seconds * 1000; ms += 250) {
    const s = ms / 1000;
    if (ms % 1000 === 0 && hears(s)) {
      // As old as the statistics may be.
      stream = { status: status(s), frames_total: got(Math.max(0, s - 1)) };
      heard = ms;
    }
    const state = watch.look(ms, shown(s), stream, heard);
    if (state && state !== found.at(-1)?.[0]) found.push([state, s]);
    if (state === 'lost') break;
  }
  return found;
}

const flows = (fps) => (s) => Math.floor(s * fps);
const until = (end, count) => (s) => count(Math.min(s, end));

test('pictures that come are live, once a second as well as thirty times, or once in seven', () => {
  for (const fps of [30, 1, 0.3]) {
    const found = watched(40, { shown: flows(fps), got: flows(fps) });
    assert.deepEqual(found.map(([state]) => state), ['live'], `${fps}`);
  }
  const slow = watched(60, { shown: flows(1 / 7), got: flows(1 / 7) });
  assert.ok(slow.every(([state]) => state === 'live' || state === 'silent'), JSON.stringify(slow));
});

test('a connection that brings nothing more is lost after five seconds', () => {
  assert.deepEqual(watched(60, { shown: until(20, flows(30)), got: flows(30) }), [['live', 0.25], ['lost', 25]]);
  // Some pictures of a slow stream must be missing before anything is.
  assert.deepEqual(watched(60, { shown: until(20, flows(1)), got: flows(1) }), [['live', 1], ['lost', 26]]);
});

test('with the whole network gone too', () => {
  const found = watched(60, { shown: until(20, flows(30)), got: flows(30), hears: (s) => s <= 20 });
  assert.deepEqual(found, [['live', 0.25], ['lost', 25]]);
});

test('a first picture may take longer', () => {
  const late = (s) => (s < 8 ? 0 : Math.floor((s - 8) * 30));
  assert.deepEqual(watched(20, { shown: late, got: flows(30) }), [['live', 8.25]]);
  assert.deepEqual(watched(20, { shown: () => 0, got: flows(30) }), [['lost', 10]]);
});

test('a publisher who stands still, or is away, is nothing to try again for', () => {
  const pause = (s) => flows(30)(s < 20 ? s : Math.max(20, s - 20));
  assert.deepEqual(watched(60, { shown: pause, got: pause }), [['live', 0.25], ['silent', 25], ['live', 40.25]]);
  const status = (s) => (s >= 21 && s < 40 ? 'waiting' : 'online');
  assert.deepEqual(watched(60, { shown: pause, got: pause, status }), [['live', 0.25], ['waiting', 21], ['live', 40.25]]);
  // Not shown though it is back.
  const found = watched(60, { shown: until(20, flows(30)), got: pause, status });
  assert.deepEqual(found.map(([state]) => state), ['live', 'waiting', 'lost']);
  assert.ok(found[2][1] >= 43 && found[2][1] < 46, JSON.stringify(found));
});

test('counting anew is no picture, and a rest is no silence', () => {
  const stream = { status: 'online', frames_total: 100 };
  const watch = new Watch(0, 50);
  assert.equal(watch.look(250, 0, stream, 250), null);
  assert.equal(watch.look(500, 1, stream, 500), 'live');
  for (let ms = 750; ms < 20_000; ms += 250) watch.rest(ms, 1);
  assert.equal(watch.look(20_000, 1, { ...stream, frames_total: 700 }, 20_000), null);
});
