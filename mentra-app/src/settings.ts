// What a wearer can choose: read from anywhere, judged key by key, kept in one small file. A value that is wrong is
// named and leaves the others as they are.

import { mkdir, readFile, rename, writeFile } from "node:fs/promises";
import { dirname } from "node:path";

import { isTimeZone, minutes, type QuietHours } from "./tell/quiet.js";

export interface Settings {
  /** Begin to stream with the session. */
  readonly autoStart: boolean;
  /** What to tell of; empty: everything the box finds. */
  readonly labels: readonly string[];
  readonly minConfidence: number;
  /** The same animal is not told again within so many seconds. */
  readonly everyS: number;
  readonly quiet: QuietHours | null;
  readonly timeZone: string;
  readonly speech: boolean;
  readonly text: boolean;
  readonly led: boolean;
  /** With "{what}" where the animals go. */
  readonly sentence: string;
  readonly and: string;
  /** Own names of labels, with their article. */
  readonly words: Readonly<Record<string, string>>;
}

export const DEFAULTS: Settings = {
  autoStart: true,
  labels: [],
  minConfidence: 0.5,
  everyS: 60,
  quiet: null,
  timeZone: Intl.DateTimeFormat().resolvedOptions().timeZone || "UTC",
  speech: true,
  text: true,
  led: true,
  sentence: "I see {what}",
  and: "and",
  words: {},
};

export type Change = { readonly [K in keyof Settings]?: Settings[K] };

export interface Judged {
  readonly change: Change;
  readonly problems: readonly string[];
}

const MAX_LABELS = 80;
const MAX_TEXT = 120;

type Reader<K extends keyof Settings> = (value: unknown) => Settings[K] | undefined;

const text = (value: unknown): string | undefined =>
  typeof value === "string" && value.trim() !== "" && value.length <= MAX_TEXT ? value.trim() : undefined;
const flag = (value: unknown): boolean | undefined => (typeof value === "boolean" ? value : undefined);
const number = (low: number, high: number) => (value: unknown) => {
  const n = typeof value === "string" && value.trim() !== "" ? Number(value) : value;
  return typeof n === "number" && n >= low && n <= high ? n : undefined;
};

/** A list, or names with commas between them, as a text field of the console gives them. */
function labels(value: unknown): readonly string[] | undefined {
  const list: unknown = typeof value === "string" ? value.split(",") : value;
  if (!Array.isArray(list) || list.length > MAX_LABELS) {
    return undefined;
  }
  const names = list.map((l: unknown) => (typeof l === "string" && l.length <= MAX_TEXT ? l.trim().toLowerCase() : null));
  return names.includes(null) ? undefined : [...new Set(names as string[])].filter((l) => l !== "");
}

/** An object, "22:00-07:00", or nothing for none. */
function quiet(value: unknown): QuietHours | null | undefined {
  if (value === null || value === "") {
    return null;
  }
  const hours: unknown = typeof value === "string" ? split(value) : value;
  if (typeof hours !== "object" || hours === null) {
    return undefined;
  }
  const { from, to } = hours as { from?: unknown; to?: unknown };
  const fits = (t: unknown): t is string => typeof t === "string" && minutes(t) !== null;
  return fits(from) && fits(to) ? { from, to } : undefined;
}

function split(value: string): unknown {
  const [from, to] = value.split("-").map((t) => t.trim());
  return { from, to };
}

/** An object, or "dog=Hund, cat=Katze". */
function words(value: unknown): Readonly<Record<string, string>> | undefined {
  const pairs: unknown =
    typeof value === "string"
      ? Object.fromEntries(value.split(",").filter((p) => p.trim() !== "").map((p) => p.split("=", 2).map((t) => t.trim())))
      : value;
  if (typeof pairs !== "object" || pairs === null || Array.isArray(pairs)) {
    return undefined;
  }
  const all = Object.entries(pairs as Record<string, unknown>);
  const good = all.filter((pair): pair is [string, string] => pair[0] !== "" && text(pair[1]) !== undefined);
  return all.length <= MAX_LABELS && good.length === all.length ? Object.fromEntries(good) : undefined;
}

const READERS: { readonly [K in keyof Settings]: readonly [Reader<K>, string] } = {
  autoStart: [flag, "true or false"],
  labels: [labels, `up to ${MAX_LABELS} names`],
  minConfidence: [number(0, 1), "0 to 1"],
  everyS: [number(0, 86_400), "seconds, 0 to 86400"],
  quiet: [quiet, 'like "22:00-07:00", or empty for none'],
  timeZone: [(v) => (typeof v === "string" && isTimeZone(v) ? v : undefined), 'like "Europe/Berlin"'],
  speech: [flag, "true or false"],
  text: [flag, "true or false"],
  led: [flag, "true or false"],
  sentence: [(v) => (text(v)?.includes("{what}") === true ? text(v) : undefined), 'a text with "{what}" in it'],
  and: [text, "a word"],
  words: [words, 'like "dog=Hund, cat=Katze"'],
};

/** Takes of `given` what is a setting and right, and names what is not. */
export function judge(given: unknown): Judged {
  if (typeof given !== "object" || given === null || Array.isArray(given)) {
    return { change: {}, problems: ["settings are an object of names and values"] };
  }
  const change: Record<string, unknown> = {};
  const problems: string[] = [];
  for (const [key, value] of Object.entries(given)) {
    if (!Object.hasOwn(READERS, key)) {
      problems.push(`there is no setting ${JSON.stringify(key.slice(0, 40))}`);
      continue;
    }
    const [read, form] = READERS[key as keyof Settings];
    const good = read(value);
    if (good === undefined) {
      problems.push(`${key} is ${form}`);
    } else {
      change[key] = good;
    }
  }
  return { change, problems };
}

/** Later layers win: the defaults, then MentraOS' own settings of the app, then what was chosen on the page. */
export function layered(...changes: readonly Change[]): Settings {
  return Object.assign({}, DEFAULTS, ...changes) as Settings;
}

/** What was chosen on the page, by wearer. */
export class SettingsStore {
  readonly #file: string;
  #all = new Map<string, Change>();
  #writing: Promise<void> = Promise.resolve();

  private constructor(file: string) {
    this.#file = file;
  }

  /** A file that is not there is an empty one; one that cannot be understood is an error, and stays as it is. */
  static async open(file: string): Promise<SettingsStore> {
    const store = new SettingsStore(file);
    let content: string;
    try {
      content = await readFile(file, "utf8");
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === "ENOENT") {
        return store;
      }
      throw error;
    }
    let all: unknown;
    try {
      all = JSON.parse(content);
    } catch {
      throw new Error(`${file} is not JSON: mend it, or move it away`);
    }
    for (const [user, given] of Object.entries((all ?? {}) as Record<string, unknown>)) {
      store.#all.set(user, judge(given).change);
    }
    return store;
  }

  of(user: string): Change {
    return this.#all.get(user) ?? {};
  }

  /** Written whole and in its place at once: a crash leaves the old file or the new one. */
  async change(user: string, change: Change): Promise<void> {
    this.#all.set(user, { ...this.of(user), ...change });
    this.#writing = this.#writing.catch(() => undefined).then(() => this.#write());
    await this.#writing;
  }

  async #write(): Promise<void> {
    await mkdir(dirname(this.#file), { recursive: true, mode: 0o700 });
    const draft = `${this.#file}.new`;
    await writeFile(draft, `${JSON.stringify(Object.fromEntries(this.#all), null, 2)}\n`, { mode: 0o600 });
    await rename(draft, this.#file);
  }
}
