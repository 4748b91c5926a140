import assert from "node:assert/strict";
import { test } from "node:test";

import { DEFAULTS, judge, layered, type Settings } from "../src/settings.js";
import { decide, NOTHING_YET, type Memory, type Sighting } from "../src/tell/decide.js";
import { isQuiet, minutes } from "../src/tell/quiet.js";
import { sentence } from "../src/tell/words.js";

const NOON = Date.UTC(2026, 10, 23, 12, 0, 0);
const settings: Settings = { ...DEFAULTS, timeZone: "UTC" };

function dog(track: number | null = 7, confidence = 0.8): Sighting {
  return { label: "dog", track, confidence };
}

/** Sees the same thing in pictures 100 ms apart, and keeps what was told. */
class Eyes {
  memory: Memory = NOTHING_YET;
  now = NOON;
  told: string[] = [];

  constructor(readonly settings_: Settings = settings) {}

  see(pictures: number, ...seen: Sighting[]): this {
    for (let n = 0; n < pictures; n += 1) {
      this.now += 100;
      const { memory, tell } = decide(this.memory, seen, this.settings_, this.now);
      this.memory = memory;
      this.told.push(...tell);
    }
    return this;
  }

  wait(s: number): this {
    this.now += s * 1000;
    return this;
  }

  said(...labels: string[]): this {
    assert.deepEqual(this.told, labels);
    this.told = [];
    return this;
  }
}

test("an animal is told once, when it was seen in some pictures", () => {
  new Eyes().see(2, dog()).said().see(1, dog()).said("dog").see(3000, dog()).said();
  // One picture now and then is a slip of the detector.
  const eyes = new Eyes();
  for (let n = 0; n < 20; n += 1) {
    eyes.see(1, dog()).wait(2.5);
  }
  eyes.said();
});

test("the same animal is not told again within the time between", () => {
  const eyes = new Eyes().see(5, dog(7)).said("dog").wait(30).see(5, dog(8)).said();
  eyes.wait(61).see(5, dog(9)).said("dog");
  // Of another kind at once.
  eyes.see(3, { label: "cat", track: 1, confidence: 0.9 }).said("cat");
  new Eyes({ ...settings, everyS: 0 }).see(3, dog(1)).see(3, dog(2)).said("dog", "dog");
});

test("labels and confidence are the wearer's choice", () => {
  new Eyes({ ...settings, labels: ["cat"] }).see(9, dog()).said();
  new Eyes({ ...settings, minConfidence: 0.9 }).see(9, dog()).said();
});

test("in quiet hours nothing is told, nor made up for afterwards", () => {
  const eyes = new Eyes({ ...settings, quiet: { from: "11:00", to: "12:10" } }).see(9, dog()).said();
  eyes.wait(600).see(2, dog(7)).said();
});

test("what is remembered is bounded", () => {
  const eyes = new Eyes();
  for (let track = 0; track < 5000; track += 1) {
    eyes.see(1, { label: `animal${track}`, track, confidence: 0.9 });
  }
  assert.ok(eyes.memory.animals.size <= 201 && eyes.memory.told.size <= 201);
  // A clock that is set back does not silence for long.
  new Eyes().see(3, dog(1)).said("dog").wait(-3600).see(3, dog(2)).said("dog");
});

test("quiet hours go over midnight and follow the wearer's time zone", () => {
  const hours = { from: "22:00", to: "07:00" };
  const at = (h: number, m = 0): number => Date.UTC(2026, 10, 23, h, m);
  assert.deepEqual([21, 22, 23, 0, 6, 7].map((h) => isQuiet(hours, "UTC", at(h))), [false, true, true, true, true, false]);
  assert.equal(isQuiet(hours, "Europe/Berlin", at(21)), true);
  assert.equal(isQuiet(hours, "America/New_York", at(22)), false);
  assert.equal(isQuiet(null, "UTC", at(23)), false);
  assert.equal(isQuiet({ from: "08:00", to: "08:00" }, "UTC", at(8)), false);
  assert.deepEqual(["24:00", "7:00", "07:60", "x"].map(minutes), [null, null, null, null]);
});

test("it is said in the wearer's words", () => {
  assert.equal(sentence(["dog"], settings), "I see a dog");
  assert.equal(sentence(["dog", "elephant", "cat"], settings), "I see a dog, an elephant and a cat");
  const german = { ...settings, sentence: "Da ist {what}!", and: "und", words: { dog: "ein $& Hund", cat: "Mia" } };
  assert.equal(sentence(["dog", "cat"], german), "Da ist ein $& Hund und Mia!");
});

test("settings are judged one by one", () => {
  const given = {
    labels: "Dog, cat ,dog,",
    everyS: "30",
    minConfidence: 2,
    quiet: "22:00 - 07:00",
    words: "dog=Hund, cat = die Katze",
    sentence: "no place for it",
    timeZone: "Mars/Base",
    speech: "yes",
    colour: "red",
    __proto__x: 1,
  };
  const { change, problems } = judge(given);
  assert.deepEqual(change, {
    labels: ["dog", "cat"],
    everyS: 30,
    quiet: { from: "22:00", to: "07:00" },
    words: { dog: "Hund", cat: "die Katze" },
  });
  assert.equal(problems.length, 6);
  assert.match(problems.join(), /minConfidence is 0 to 1/);
  assert.equal(layered(change, { everyS: 5 }).everyS, 5);
  assert.deepEqual(judge({ quiet: "", words: "" }).change, { quiet: null, words: {} });
  for (const bad of [null, [], "x", 7]) {
    assert.equal(judge(bad).problems.length, 1);
  }
  for (const bad of [{ labels: [1] }, { words: { dog: 5 } }, { quiet: { from: "1" } }, { everyS: NaN }, { everyS: "" }, { labels: {} }]) {
    assert.equal(judge(bad).problems.length, 1, JSON.stringify(bad));
  }
});
