// A wearer's hour, compressed: the app on the real SDK, a real spotter that records, and the glasses twin on a link that
// fails in every way we know of, one after the other. Started by scripts/wearers-hour.sh, in a network of its own.
//
// usage: main.js [--minute] [--out FILE]
//
// --minute: a few faults, for a test: on whatever machine it is on, nothing is judged by how long it took.

import { writeFile } from "node:fs/promises";
import { loadavg, setPriority } from "node:os";
import { join } from "node:path";

import { startApp } from "../../src/app.js";
import { readConfig } from "../../src/config.js";
import type { Fields, Log } from "../../src/log.js";
import { streamOf } from "../../src/wearers.js";
import { Cloud, type Running } from "../support/cloud.js";
import { Spotter } from "../support/spotter.js";
import { sleep } from "../support/until.js";
import { BOX_HOST, GOOD, Link } from "./link.js";
import { back, inWords, report, WAYS, type Fault, type Span } from "./report.js";
import { Twin, type TwinStatus } from "./twin.js";
import { watch } from "./watchers.js";

const ANNA = "anna@example.org";
const STREAM = streamOf(ANNA);
const PACKAGE = "org.example.hour";
/** A fault that is not over by then is taken as one that does not end. */
const PATIENCE_MS = 60_000;

/** Seconds after which viewer, detection and recording are back, once the cause is gone; as docs/glasses.md states them. */
const BOUNDS = { start: 15, silence: 10, slow: 15, duty: 25, cut: 25, quirk: 8, broken: 10, none: 5, box: 20 } as const;

const minute = process.argv.includes("--minute");
const out = process.argv.includes("--out") ? process.argv[process.argv.indexOf("--out") + 1] : undefined;
const calmMs = minute ? 1_000 : 8_000;
const begin = Date.now();
const stamp = (): string => `${((Date.now() - begin) / 1000).toFixed(1).padStart(6)} s`;
const say = (text: string): void => { process.stdout.write(`${stamp()}  ${text}\n`); };

// The SDK writes to the console what it does.
Object.assign(console, { log: () => undefined, debug: () => undefined, warn: () => undefined });

const heard: string[] = [];
const log: Log = {
  info: (what, fields) => { note(what, fields); },
  warn: (what, fields) => { note(`warning: ${what}`, fields); },
};
function note(what: string, fields: Fields = {}): void {
  const more = Object.entries(fields).flatMap(([name, value]) => {
    const plain = name === "phase" || name === "reason";
    return value === undefined || value === null || name === "stream" ? [] : [plain ? String(value) : `${name}=${String(value)}`];
  });
  const line = [what, ...more].join(" ");
  heard.push(`${stamp()}  ${line}`);
  say(`app: ${line}`);
}

// As in scripts/wearers-hour.sh: whatever else this machine does is no fault of the link.
try {
  setPriority(-10);
} catch {
  // Not allowed: the twin's count of late moments tells whether it mattered.
}
for (const signal of ["SIGINT", "SIGTERM"] as const) {
  // As the first process of its namespace it would not hear of them.
  process.on(signal, () => process.exit(1));
}

const link = Link.lay();
const box = await Spotter.make(`${BOX_HOST}:8080`, `
  node.name = "hour"
  web.webrtc = false
  announce.enabled = false
  mqtt.enabled = false
  detect.rate_hz = 3.0
  record.mode = "continuous"
  record.segment_s = 20.0
  ${minute ? "ingest.reconnect_grace_s = 3" : ""}
`);
await box.up();
const token = await box.owner();

const cloud = new Cloud(PACKAGE, "key");
cloud.ways.glasses = "silent";
await cloud.listen();
const config = readConfig({
  PACKAGE_NAME: PACKAGE,
  MENTRAOS_API_KEY: "key",
  PORT: "0",
  BOX_URL: `http://${BOX_HOST}:8080`,
  BOX_TOKEN: token,
  CLOUD_HOSTS: "ws://127.0.0.1",
  DATA_DIR: box.dir,
});
const app = await startApp(config, log);
const publicUrl = `http://127.0.0.1:${app.port}/${config.webhookKey}`;

/** Whose stream the glasses run: status goes to that session. */
let session: Running | null = null;
let [muted, deaf] = [false, false];
const sessions: Running[] = [];
const told: string[] = [];
const twin = new Twin((...command) => link.inside(...command), (status) => { pass(status); });

function pass({ status, fps, bitrate, reason }: TwinStatus): void {
  if (fps === undefined) {
    say(`glasses: ${status}${muted ? ", which the cloud loses" : ""}`);
  }
  if (session && !muted) {
    const stats = fps === undefined ? {} : { stats: { bitrate: bitrate ?? 0, fps, droppedFrames: 0, duration: 0 } };
    cloud.status(session, status, { ...stats, ...(reason ? { errorDetails: reason } : {}) });
  }
}
cloud.ways.onStream = (running, message) => {
  session = running;
  const { width = 640, height = 480, bitrate = 1_000_000 } = message["video"] as { width?: number; height?: number; bitrate?: number };
  say(`cloud: start ${width}x${height} at ${Math.round(bitrate / 1000)} kbit/s`);
  twin.start(String(message["rtmpUrl"]), { width, height, bitrate });
};
cloud.ways.onStop = () => {
  say(`cloud: stop${deaf ? ", which the glasses do not hear" : ""}`);
  if (!deaf) {
    twin.stop();
  }
};
async function startSession(id: string): Promise<Running> {
  const running = await cloud.start(publicUrl, ANNA, id);
  sessions.push(running);
  return running;
}

const watched = watch({ host: BOX_HOST, stream: STREAM, token, recordings: join(box.dir, "state/recordings") });
const faults: Fault[] = [];
/** When there was a session to stream for. */
const wanted: Span[] = [];
let since = Date.now();

/** Lets something happen, waits until everything is back or does not come, and then a while in calm. */
async function fault(name: string, boundS: number, happen: () => Promise<void> | void): Promise<void> {
  say(`--- ${name}`);
  const from = Date.now();
  await happen();
  const end = Date.now();
  faults.push({ name, begin: from, end, boundS: minute ? Infinity : boundS });
  const recent = <T extends { readonly when: number }>(all: readonly T[]): T[] => all.filter((one) => one.when > end - 30_000);
  for (;;) {
    const { seen, detected, recorded } = watched;
    const there = back({ seen: recent(seen), detected: recent(detected), recorded: recent(recorded) }, end);
    const missing = WAYS.filter((way) => there[way] === null);
    if (missing.length === 0) {
      say(`back after ${WAYS.map((way) => `${(((there[way] ?? 0) - end) / 1000).toFixed(1)} s (${way})`).join(", ")}`);
      break;
    }
    if (Date.now() - end > PATIENCE_MS || !twin.running) {
      say(`not back: ${missing.join(", ")}`);
      break;
    }
    await sleep(250);
  }
  await sleep(calmMs);
}

const problems: string[] = [];
function expect(holds: boolean, what: string): void {
  if (!holds) {
    problems.push(what);
    say(`PROBLEM: ${what}`);
  }
}

/** Ends the session, and tells how long box and glasses took to be rid of the stream. */
async function endSession(name: string, running: Running): Promise<Record<string, number | null>> {
  say(`--- ${name}`);
  const from = Date.now();
  wanted.push({ from: since, to: from });
  await cloud.stop(publicUrl, running);
  const gone: Record<string, number | null> = { "publish URL": null, glasses: null, stream: null };
  const list = async (what: string): Promise<unknown[]> => (await box.get(`/api/v1/${what}`))[what] as unknown[];
  const online = async (): Promise<boolean> =>
    ((await list("streams")) as { status: string }[]).some((s) => s.status === "online");
  while (Date.now() - from < PATIENCE_MS && Object.values(gone).includes(null)) {
    const after = (): number => Math.round((Date.now() - from) / 100) / 10;
    if ((await list("publishers")).length === 0) {
      gone["publish URL"] ??= after();
    }
    if (!(await twin.count()).publishing && !(await online())) {
      gone["glasses"] ??= after();
    }
    if ((await list("streams")).length === 0) {
      gone["stream"] ??= after();
    }
    await sleep(250);
  }
  for (const [what, s] of Object.entries(gone)) {
    say(`${what}: ${s === null ? "STILL THERE" : `gone after ${s} s`}`);
    expect(s !== null, `${name}: an orphan: ${what}`);
  }
  return gone;
}

const view = (): { phase: string; pictures: string } | undefined => app.wearers.get(ANNA)?.view();
const ends: Record<string, Record<string, number | null>> = {};
const loads = [loadavg()[0] ?? 0];

async function theHour(): Promise<void> {
  since = Date.now();
  let anna = await startSession("first");
  await fault("the session begins", BOUNDS.start, () => undefined);
  await sleep(minute ? 0 : 20_000);
  await fault("radio silence of 2 s", BOUNDS.silence, () => link.silentFor(2_000));
  if (!minute) {
    await fault("a link narrower than the stream, 40 s", BOUNDS.slow, async () => {
      link.shape(500);
      await sleep(40_000);
      link.shape(GOOD);
    });
    await fault("a link of 10 % duty cycle, 20 s", BOUNDS.duty, () => link.dutyCycle(20_000));
    await fault("a cut of 20 s", BOUNDS.cut, () => link.silentFor(20_000));
  }
  const quirkMs = minute ? 4_000 : 8_000;
  await fault(`two of three pictures dropped, ${quirkMs / 1000} s`, BOUNDS.quirk, async () => {
    twin.quirk(true);
    await sleep(quirkMs);
    twin.quirk(false);
  });
  await fault("glasses come back with time from zero", BOUNDS.broken, () => { twin.break(); });
  if (!minute) {
    const before = anna.streams;
    await fault("the cloud's socket closes", BOUNDS.none, () => { anna.socket?.terminate(); });
    await fault("status out of order", BOUNDS.none, () => {
      for (const status of ["stopping", "active", "connecting", "reconnecting", "active", "initializing", "active"]) {
        cloud.status(anna, status);
      }
      for (const status of ["stopped", "error", "timeout"]) {
        cloud.send(anna, { type: "rtmp_stream_status", status, streamId: "of-another-day", appId: PACKAGE });
      }
    });
    expect(anna.streams === before, "neither a lost line to the cloud nor stray status begins a stream anew");
    await fault("status missing, while glasses reconnect", BOUNDS.broken, () => {
      muted = true;
      twin.break();
    });
    expect(view()?.phase === "live", `live without a word of the glasses, not ${view()?.phase}`);
    muted = false;
    await fault("the cloud is away for 10 s, starts the app anew", BOUNDS.start, async () => {
      cloud.ways.shut = true;
      anna.socket?.terminate();
      await sleep(10_000);
      expect(view()?.phase === "live", `live without the cloud, not ${view()?.phase}`);
      cloud.ways.shut = false;
      anna = await startSession("first");
    });
    await fault("the box is killed, away for 10 s", BOUNDS.box, async () => {
      await box.down("SIGKILL");
      await sleep(10_000);
      await box.up();
    });
    await fault("a second session of the same wearer", BOUNDS.start, async () => {
      anna = await startSession("second");
    });
    const streams = anna.streams;
    await fault("the first session's late end", BOUNDS.none, async () => {
      const old = sessions.find((one) => one.sessionId === "first");
      if (old) {
        await cloud.stop(publicUrl, old);
      }
    });
    await fault("webhooks of strangers", BOUNDS.none, async () => {
      const stop = { type: "stop_request", sessionId: anna.sessionId, userId: ANNA, reason: "user_disabled" };
      const start = { type: "session_request", sessionId: "x", userId: ANNA, augmentOSWebsocketUrl: "wss://cloud.attacker.example/app-ws" };
      const strange = publicUrl.replace(config.webhookKey, "guessed");
      const asked = [[`${strange}/webhook`, stop], [`http://127.0.0.1:${app.port}/webhook`, stop], [`${publicUrl}/webhook`, start]] as const;
      for (const [url, body] of asked) {
        const { status } = await cloud.post(url, body);
        expect(status === 403 || status === 404, `a stranger's webhook was answered ${status}`);
      }
    });
    expect(anna.streams === streams, "neither an old session's end nor a stranger touches the stream");
  }
  ends["the session ends"] = await endSession("the session ends", anna);
  if (!minute) {
    since = Date.now();
    anna = await startSession("third");
    await fault("another session begins", BOUNDS.start, () => undefined);
    deaf = true;
    ends["it ends, and the glasses do not hear of it"] = await endSession("it ends, and the glasses do not hear of it", anna);
  }
}

let failure: string | null = null;
try {
  await theHour();
} catch (error) {
  failure = error instanceof Error ? (error.stack ?? error.message) : String(error);
}
loads.push(loadavg()[0] ?? 0);
const counts = twin.running ? (await twin.count()).counts : {};
watched.stop();
await app.close().catch(() => undefined);
twin.quit();
await cloud.close();
await box.down();

for (const running of sessions) {
  for (const message of cloud.sentOf(running, "audio_play_request")) {
    told.push(new URL(String(message["audioUrl"])).searchParams.get("text") ?? "?");
  }
}
const result = report(watched, faults, wanted);
problems.push(...result.problems, ...(failure === null ? [] : [failure]));
const all = { ...result, problems, ends, glasses: counts, told, app: heard, load: loads };
process.stdout.write(`\n${inWords(result)}\n\n`);
for (const [name, gone] of Object.entries(ends)) {
  process.stdout.write(`${name}: ${Object.entries(gone).map(([what, s]) => `${what} gone after ${s ?? "-"} s`).join(", ")}\n`);
}
process.stdout.write(`the wearer was told ${told.length} times: ${[...new Set(told)].join("; ")}\n`);
process.stdout.write(`the glasses: ${JSON.stringify(counts)}; load of the machine ${loads.map((l) => l.toFixed(1)).join(" to ")}\n`);
if (out !== undefined) {
  await writeFile(out.replace(/(\.json)?$/, ".log"), box.said);
  await writeFile(out, `${JSON.stringify(all, null, 1)}\n`);
}
if (twin.said !== "") {
  process.stdout.write(`the twin said: ${twin.said.slice(-2_000)}\n`);
}
process.stdout.write(problems.length === 0 ? "\nall is well\n" : `\nPROBLEMS\n${problems.map((p) => `- ${p}`).join("\n")}\n`);
process.exit(problems.length === 0 ? 0 : 1);
