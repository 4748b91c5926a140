// Which of the animals that the box sees are told, and when: label, distance in time, quiet hours. Pure: memory in,
// memory and what is to be told out. How it is said is words.ts' part.

import type { Settings } from "../settings.js";
import { isQuiet } from "./quiet.js";

/** One animal in one picture. */
export interface Sighting {
  readonly label: string;
  /** Stays with the animal from picture to picture; null before the box follows it. */
  readonly track: number | null;
  readonly confidence: number;
}

interface Animal {
  readonly label: string;
  readonly pictures: number;
  readonly first: number;
  readonly last: number;
  readonly told: boolean;
}

export interface Memory {
  readonly animals: ReadonlyMap<string, Animal>;
  /** When each label was last told. */
  readonly told: ReadonlyMap<string, number>;
}

export interface Decision {
  readonly memory: Memory;
  /** Labels, each once; empty: nothing to say. */
  readonly tell: readonly string[];
}

export const NOTHING_YET: Memory = { animals: new Map(), told: new Map() };

/** Seen in so many pictures, within so long, it is no slip of the detector. */
const PICTURES = 3;
const WITHIN_MS = 2_000;
/** Not seen for so long, an animal that was not told is forgotten. */
const FORGET_MS = 3_000;
/** Most animals and labels that are remembered; the oldest go first. */
const MOST = 200;

export function decide(memory: Memory, seen: readonly Sighting[], settings: Settings, now: number): Decision {
  const animals = new Map<string, Animal>();
  const apart = settings.everyS * 1000;
  for (const [key, animal] of memory.animals) {
    const keep = animal.told ? Math.max(apart, FORGET_MS) : FORGET_MS;
    if (now - animal.last <= keep && now >= animal.last) {
      animals.set(key, animal);
    }
  }
  for (const one of seen) {
    if (!asked(one, settings)) {
      continue;
    }
    const key = `${one.label}/${one.track ?? "-"}`;
    const before = animals.get(key);
    const fresh = before === undefined || (!before.told && now - before.first > WITHIN_MS && before.pictures < PICTURES);
    const animal = fresh
      ? { label: one.label, pictures: 1, first: now, last: now, told: false }
      : { ...before, pictures: before.pictures + 1, last: now };
    animals.delete(key);
    animals.set(key, animal);
  }
  for (const key of animals.keys()) {
    if (animals.size <= MOST) {
      break;
    }
    animals.delete(key);
  }

  const told = new Map([...memory.told].filter(([, at]) => now - at < apart && now >= at).slice(-MOST));
  const quiet = isQuiet(settings.quiet, settings.timeZone, now);
  const tell: string[] = [];
  for (const [key, animal] of animals) {
    if (animal.told || animal.pictures < PICTURES || animal.last !== now) {
      continue;
    }
    // What was passed over in silence, or counts as the one that was told, is not news a moment later.
    animals.set(key, { ...animal, told: true });
    if (!quiet && !told.has(animal.label) && !tell.includes(animal.label)) {
      tell.push(animal.label);
    }
  }
  for (const label of tell) {
    told.set(label, now);
  }
  return { memory: { animals, told }, tell };
}

function asked(one: Sighting, settings: Settings): boolean {
  const wanted = settings.labels.length === 0 || settings.labels.includes(one.label);
  return wanted && one.confidence >= settings.minConfidence;
}
