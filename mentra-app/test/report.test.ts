// The report of a wearer's hour, on hours that are made up: what it must notice.

import assert from "node:assert/strict";
import { test } from "node:test";

import { animalsAt, marksIn } from "./hour/marks.js";
import { back, inWords, place, report, type Detected, type Fault, type Recorded, type Seen } from "./hour/report.js";

const BEGIN = 1_000_000;
const GAP_MS = 50;
const ALL = [{ from: BEGIN, to: BEGIN + 60_000 }];

interface Made {
  readonly seen: Seen[];
  readonly detected: Detected[];
  readonly recorded: Recorded[];
}

/** A minute of pictures, each seen 20 ms after it was taken, every fourth searched, all recorded a second later; but for those `lost`. */
function minute(lost: (ms: number) => boolean, labels = (clip: number): string[] => [...animalsAt(clip)].slice(0, 1)): Made {
  const made: Made = { seen: [], detected: [], recorded: [] };
  for (let n = 1; n <= 1200; n += 1) {
    const ms = n * GAP_MS;
    const at = BEGIN + ms;
    if (lost(ms)) {
      continue;
    }
    const mark = { run: 1, n, clip: ms % 25_000, at };
    made.seen.push({ ...mark, when: at + 20, pts: ms - GAP_MS, reader: 0, whole: true });
    made.recorded.push({ ...mark, when: at + 1_000 });
    if (n % 4 === 0) {
      made.detected.push({ when: at + 60, arrived: at + 19, pts: 7_000 + ms, labels: labels(mark.clip) });
    }
  }
  return made;
}

const CUT: Fault = { name: "a cut", begin: BEGIN + 20_000, end: BEGIN + 25_000, boundS: 4 };

test("a calm minute is up, and nothing in it is wrong", () => {
  const made = report(minute(() => false), [], ALL);
  for (const up of [made.uptime, made.uptimeBetween]) {
    assert.ok((up.viewer ?? 0) > 99 && (up.recording ?? 0) > 97, JSON.stringify(up));
  }
  assert.deepEqual([made.calm.pictures, made.calm.wrong, made.calm.unplaced, made.problems], [300, {}, 0, []]);
});

test("recovery counts from the fault's end to a picture that was taken after it", () => {
  const watched = minute((ms) => ms >= 20_000 && ms < 28_000);
  const there = back(watched, CUT.end);
  assert.equal(there.viewer, BEGIN + 28_020);
  const made = report(watched, [CUT], ALL);
  const [cut] = made.faults;
  assert.deepEqual([cut?.backS, cut?.darkS], [
    { viewer: 3, detection: 3.1, recording: 4 },
    { viewer: 8.1, detection: 8.2, recording: 8.1 },
  ]);
  // 7 s of 60, and 3 s of 55.
  assert.ok(Math.abs((made.uptime.viewer ?? 0) - 88.2) < 1 && Math.abs((made.uptimeBetween.viewer ?? 0) - 94.5) < 1, JSON.stringify(made));
  assert.deepEqual(made.problems, []);
  assert.match(inWords(made), /a cut/);
});

test("a key frame among broken pictures is no recovery", () => {
  const watched = minute((ms) => ms >= 20_000 && ms < 25_000);
  const seen = watched.seen.map((p) => (p.at >= CUT.end && p.at < CUT.end + 3_000 && p.n % 40 !== 0 ? { ...p, whole: false } : p));
  assert.equal(back({ ...watched, seen }, CUT.end).viewer, CUT.end + 3_020);
});

test("what comes back late, or never, is a problem", () => {
  const late = report(minute((ms) => ms >= 20_000 && ms < 31_000), [CUT], ALL);
  assert.equal(late.problems.length, 3);
  const never = report(minute((ms) => ms >= 20_000), [CUT], ALL);
  assert.equal(never.faults[0]?.backS.viewer, null);
  assert.match(never.problems.join(), /viewer did not come back/);
});

test("animals that the clip does not show are counted, and broken pictures that were searched are a problem", () => {
  const watched = minute(() => false, (clip) => (clip < 1_000 ? ["zebra"] : [...animalsAt(clip)]));
  const made = report(watched, [], ALL);
  assert.ok((made.calm.wrong["zebra"] ?? 0) > 5);
  const seen = watched.seen.map((p) => (p.n > 100 && p.n < 110 ? { ...p, whole: false } : p));
  const broken = report({ ...watched, seen }, [], ALL);
  assert.deepEqual([broken.calm.broken, broken.calm.ofBroken], [9, 2]);
  assert.match(broken.problems.join(), /2 broken pictures/);
});

test("a detection whose picture nobody saw is not guessed at", () => {
  const { seen, detected } = minute(() => false);
  const placed = place(seen.filter((p) => p.n !== 400), detected);
  assert.equal(placed.filter((d) => d.picture === null).length, 1);
  assert.ok(placed.every((d) => d.picture === null || d.picture.n * GAP_MS + 7_000 === d.pts));
});

test("marks are found in bytes, whole ones", () => {
  const mark = { run: 2, n: 17, clip: 3, at: 5 };
  const bytes = Buffer.from(`\0\0spotter-twin-mrk${JSON.stringify(mark)}\x80...spotter-twin-mrk{"run":3,`);
  assert.deepEqual(marksIn(bytes), [mark]);
  assert.deepEqual([...animalsAt(24_900)].sort(), ["cat", "dog"]);
});
