// What the hour was like, out of what was seen of it: uptime, time to recover from each fault, and detections held against
// what the clip shows. Pure.

import { animalsAt, type Mark } from "./marks.js";

/** A picture at the viewer. */
export interface Seen extends Mark {
  /** When it was there. */
  readonly when: number;
  /** Milliseconds since the first of this reader. */
  readonly pts: number;
  readonly reader: number;
  /** None is missing before it, back to a key frame. */
  readonly whole: boolean;
}

/** A message with detections at the subscriber. */
export interface Detected {
  readonly when: number;
  /** When the box had the picture. */
  readonly arrived: number;
  /** Milliseconds on the stream's own line. */
  readonly pts: number;
  readonly labels: readonly string[];
}

/** A picture on the box's disk. */
export interface Recorded extends Mark {
  readonly when: number;
}

export type Way = "viewer" | "detection" | "recording";
export const WAYS: readonly Way[] = ["viewer", "detection", "recording"];
export type Times = Readonly<Record<Way, number | null>>;

export interface Fault {
  readonly name: string;
  readonly begin: number;
  /** Its cause is gone; recovery counts from here. */
  readonly end: number;
  /** Seconds after `end` by which everything is back. */
  readonly boundS: number;
}

export interface Findings {
  /** Messages with detections. */
  readonly pictures: number;
  readonly labels: Readonly<Record<string, number>>;
  /** Labels that the clip does not show at that moment. */
  readonly wrong: Readonly<Record<string, number>>;
  /** Pictures that came to the box although one before them is missing. */
  readonly broken: number;
  /** Of these, searched. */
  readonly ofBroken: number;
  /** No viewer had that picture, so that nothing is known of it. */
  readonly unplaced: number;
}

export interface FaultReport {
  readonly name: string;
  readonly startsAtS: number;
  readonly lastedS: number;
  readonly boundS: number;
  /** Seconds after the fault's end until a picture taken after it was there, and pictures went on whole; null: never. */
  readonly backS: Times;
  /** The longest time without a whole picture, from the fault's begin until all was back. */
  readonly darkS: Times;
  readonly findings: Findings;
}

/** A time, both ends in milliseconds. */
export interface Span {
  readonly from: number;
  readonly to: number;
}

export interface Report {
  readonly lastedS: number;
  /** Of the time in which there was a session, in percent. */
  readonly uptime: Times;
  /** The same without the time in which a fault was at work; that of recovery counts. */
  readonly uptimeBetween: Times;
  readonly faults: readonly FaultReport[];
  /** Outside of the faults, for comparison. */
  readonly calm: Findings;
  readonly problems: readonly string[];
}

interface Event {
  readonly when: number;
  readonly taken: number;
}

/** How long each may be without news and count as up: a recording is written by the second, up to a key frame. */
const ALLOWED_MS: Readonly<Record<Way, number>> = { viewer: 1_000, detection: 2_000, recording: 4_000 };
/** Viewer and subscriber have the same picture within this. */
const TOGETHER_MS = 1_000;
const VOTES = 0.5;
/** Pictures that go on whole for so long are back: longer than a key frame that comes through among broken ones. */
const STEADY_MS = 2_200;

export interface Watched {
  readonly seen: readonly Seen[];
  readonly detected: readonly Detected[];
  readonly recorded: readonly Recorded[];
}

export type Placed = Detected & { readonly picture: Seen | null };

/** Finds each detection's picture: a reader's clock differs from the stream's by one number, which most pairs agree on. */
export function place(seen: readonly Seen[], detected: readonly Detected[]): Placed[] {
  const votes = new Map<number, Map<number, number>>();
  const pairs = detected.map((one) => seen.slice(from(seen, one.arrived - TOGETHER_MS), from(seen, one.arrived + TOGETHER_MS)));
  detected.forEach((one, i) => {
    for (const picture of pairs[i] ?? []) {
      const of = votes.get(picture.reader) ?? new Map<number, number>();
      // The nearer in time, the likelier a pair: pictures at an even pace would agree on many numbers.
      const weight = 10 / (10 + Math.abs(picture.when - one.arrived));
      of.set(one.pts - picture.pts, (of.get(one.pts - picture.pts) ?? 0) + weight);
      votes.set(picture.reader, of);
    }
  });
  const bases = new Map<number, number>();
  for (const [reader, of] of votes) {
    const [base, weight] = [...of].reduce((best, one) => (one[1] > best[1] ? one : best), [0, 0]);
    if (weight >= VOTES) {
      bases.set(reader, base);
    }
  }
  return detected.map((one, i) => {
    const picture = (pairs[i] ?? []).find((p) => bases.get(p.reader) === one.pts - p.pts) ?? null;
    return { ...one, picture };
  });
}

/** Index of the first that was there at `when` or later. */
function from(seen: readonly Seen[], when: number): number {
  let [low, high] = [0, seen.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if ((seen[middle]?.when ?? Infinity) < when) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return low;
}

/** What came through whole, on each way. */
function events(watched: Watched, placed: readonly Placed[]): Record<Way, Event[]> {
  const whole = new Set(watched.seen.filter((p) => p.whole).map((p) => `${p.run}/${p.n}`));
  return {
    viewer: watched.seen.filter((p) => p.whole).map((p) => ({ when: p.when, taken: p.at })),
    detection: placed.flatMap((d) => (d.picture?.whole === true && d.labels.length > 0 ? [{ when: d.when, taken: d.picture.at }] : [])),
    recording: watched.recorded.filter((p) => whole.has(`${p.run}/${p.n}`)).map((p) => ({ when: p.when, taken: p.at })),
  };
}

/** The first whole picture taken at `since` or later after which pictures go on whole; null: none, or not known yet. */
function steady(seen: readonly Seen[], since: number): Seen | null {
  let first: Seen | null = null;
  for (const picture of seen) {
    if (picture.at < since) {
      continue;
    }
    first = picture.whole ? first ?? picture : null;
    if (first && picture.when - first.when >= STEADY_MS) {
      return first;
    }
  }
  return null;
}

type Events = Readonly<Record<Way, readonly Event[]>>;

function returned(all: Events, seen: readonly Seen[], since: number): Times {
  const from = steady(seen, since)?.at ?? Infinity;
  return each((way) => all[way].find((e) => e.taken >= from)?.when ?? null);
}

/** When each way was back, with a picture that was taken at `since` or later. */
export function back(watched: Watched, since: number): Times {
  return returned(events(watched, place(watched.seen, watched.detected)), watched.seen, since);
}

export function report(watched: Watched, faults: readonly Fault[], sessions: readonly Span[]): Report {
  const [begin, end] = [sessions[0]?.from ?? 0, sessions.at(-1)?.to ?? 0];
  const placed = place(watched.seen, watched.detected);
  const all = events(watched, placed);
  const problems: string[] = [];
  const windows: Span[] = [];
  const reports = faults.map((fault): FaultReport => {
    const there = returned(all, watched.seen, fault.end);
    const to = Math.max(fault.end, ...WAYS.map((way) => there[way] ?? end));
    windows.push({ from: fault.begin, to });
    const within = ({ when }: { readonly when: number }): boolean => when >= fault.begin && when <= to;
    const findings = judge(watched.seen.filter(within), placed.filter(within));
    const backS = each((way) => seconds(there[way], fault.end));
    for (const way of WAYS) {
      const s = backS[way];
      if (s === null || s > fault.boundS) {
        problems.push(`${fault.name}: ${way} ${s === null ? "did not come back" : `came back after ${s} s`}, the bound is ${fault.boundS} s`);
      }
    }
    const darkS = each((way) => {
      const times = all[way].map((e) => e.when).filter((t) => t >= fault.begin - 5_000 && t <= to + 1);
      return round(longest([...times, ...(there[way] === null ? [to] : [])]));
    });
    const [startsAtS, lastedS] = [round(fault.begin - begin), round(fault.end - fault.begin)];
    return { name: fault.name, startsAtS, lastedS, boundS: fault.boundS, backS, darkS, findings };
  });
  const calmly = ({ when }: { readonly when: number }): boolean => !windows.some((w) => when >= w.from && when <= w.to);
  const calm = judge(watched.seen.filter(calmly), placed.filter(calmly));
  for (const { name, findings } of [...reports, { name: "in calm", findings: calm }]) {
    if (findings.ofBroken > 0) {
      problems.push(`${name}: ${findings.ofBroken} broken pictures were searched`);
    }
  }
  const during = faults.map((f): Span => ({ from: f.begin, to: f.end }));
  const up = (way: Way, except: readonly Span[]): number => uptime(all[way], sessions, except, ALLOWED_MS[way]);
  const [uptimeAll, uptimeBetween] = [each((way) => up(way, [])), each((way) => up(way, during))];
  return { lastedS: round(end - begin), uptime: uptimeAll, uptimeBetween, faults: reports, calm, problems };
}

function judge(seen: readonly Seen[], placed: readonly Placed[]): Findings {
  const [labels, wrong] = [new Map<string, number>(), new Map<string, number>()];
  let [ofBroken, unplaced] = [0, 0];
  const add = (to: Map<string, number>, label: string): void => {
    to.set(label, (to.get(label) ?? 0) + 1);
  };
  for (const { picture, labels: found } of placed) {
    unplaced += picture === null ? 1 : 0;
    ofBroken += picture?.whole === false ? 1 : 0;
    const shown = picture === null ? null : animalsAt(picture.clip);
    for (const label of found) {
      add(labels, label);
      if (shown?.has(label) === false) {
        add(wrong, label);
      }
    }
  }
  const broken = seen.filter((p) => !p.whole).length;
  return { pictures: placed.length, broken, labels: Object.fromEntries(labels), wrong: Object.fromEntries(wrong), ofBroken, unplaced };
}

/** In percent of the sessions, `except` some times: at each tick, whether there was news within `allowedMs`. */
function uptime(news: readonly Event[], sessions: readonly Span[], except: readonly Span[], allowedMs: number): number {
  const tickMs = 100;
  let [ticks, up, next] = [0, 0, 0];
  let newest = -Infinity;
  for (const session of sessions) {
    for (let now = session.from; now < session.to; now += tickMs) {
      while ((news[next]?.when ?? Infinity) <= now) {
        newest = news[next]?.when ?? newest;
        next += 1;
      }
      if (!except.some((e) => now >= e.from && now < e.to)) {
        ticks += 1;
        up += now - newest <= allowedMs ? 1 : 0;
      }
    }
  }
  return ticks === 0 ? 0 : Math.round((1000 * up) / ticks) / 10;
}

function longest(times: readonly number[]): number {
  return times.slice(1).reduce((most, t, i) => Math.max(most, t - (times[i] ?? t)), 0);
}

function each<T>(of: (way: Way) => T): Record<Way, T> {
  return { viewer: of("viewer"), detection: of("detection"), recording: of("recording") };
}

function seconds(at: number | null, since: number): number | null {
  return at === null ? null : round(at - since);
}

/** Milliseconds as seconds with one digit. */
function round(ms: number): number {
  return Math.round(ms / 100) / 10;
}

const list = (counts: Readonly<Record<string, number>>): string =>
  Object.entries(counts).sort((a, b) => b[1] - a[1]).map(([label, n]) => `${label} ${n}`).join(", ") || "none";
const times = (t: Times): string => WAYS.map((way) => (t[way] === null ? "-" : t[way].toFixed(1)).padStart(7)).join("");

const percent = (t: Times): string => WAYS.map((way) => `${way} ${t[way] ?? 0} %`).join(", ");

export function inWords(r: Report): string {
  const lines = [
    `${r.lastedS} s; up: ${percent(r.uptime)}; but for the time of the faults themselves: ${percent(r.uptimeBetween)}`,
    "",
    `${"fault".padEnd(46)}  at s lasted  bound   back: viewer, detection, recording   dark: the same`,
    ...r.faults.map((f) => {
      const [at, lasted, bound] = [f.startsAtS, f.lastedS, f.boundS].map((s) => (s === Infinity ? "-" : s.toFixed(1)).padStart(7));
      return `${f.name.padEnd(46)} ${at}${lasted}${bound}    ${times(f.backS)}        ${times(f.darkS)}`;
    }),
    "",
    "animals found, held against the clip",
    ...[...r.faults, { name: "in calm", findings: r.calm }].map(({ name, findings: f }) =>
      `${name.padEnd(46)} ${f.broken} broken came, ${f.ofBroken} of them searched; ${f.pictures} searched in all` +
      `${f.unplaced === 0 ? "" : ` (${f.unplaced} not known)`}: ${list(f.labels)}; wrong: ${list(f.wrong)}`),
  ];
  return lines.join("\n");
}
