// What was seen as a sentence in the wearer's own words. Pure.

import type { Settings } from "../settings.js";

/** `labels` in the sentence of the settings; "I see a dog and an elephant". */
export function sentence(labels: readonly string[], settings: Settings): string {
  const names = labels.map((label) => settings.words[label] ?? named(label));
  const last = names.at(-1) ?? "";
  const what = names.length < 2 ? last : `${names.slice(0, -1).join(", ")} ${settings.and} ${last}`;
  // A function, since "$&" in a name is no pattern.
  return settings.sentence.replaceAll("{what}", () => what);
}

function named(label: string): string {
  return /^[aeiou]/i.test(label) ? `an ${label}` : `a ${label}`;
}
