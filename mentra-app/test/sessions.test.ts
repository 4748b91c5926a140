// Whole sessions: the real SDK and the whole app against a stand-in for the cloud, its glasses and the box.

import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { mkdtemp } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, afterEach, beforeEach, test } from "node:test";

import { startApp, type App, type Tuning } from "../src/app.js";
import { readConfig, type Config } from "../src/config.js";
import { silent, type Log } from "../src/log.js";
import type { View } from "../src/wearer.js";
import { streamOf } from "../src/wearers.js";
import { FakeBox, PICTURE } from "./support/box.js";
import { Cloud, WITH_DISPLAY, type Running } from "./support/cloud.js";
import { sleep, until } from "./support/until.js";

const PACKAGE = "org.example.spotter";
const KEY = "an-api-key";
const ANNA = "anna@example.org";
const BEN = "ben@example.org";
/** Pauses that a test can wait for; time-outs that a busy machine does not run into, but where a test is about them. */
const FAST = { boxMs: 15_000, glassesMs: 15_000, connectMs: 15_000, unseenMs: 15_000, degradedMs: 1_500, pauseMs: 300, firstRetryMs: 50, lastRetryMs: 200, settleMs: 0, provenMs: 60_000 };

let cloud: Cloud;
let box: FakeBox;
let app: App;
let config: Config;
let publicUrl: string;

async function begin(more: Readonly<Record<string, string>> = {}, tuning: Tuning = {}, log: Log = silent): Promise<void> {
  const env = {
    PACKAGE_NAME: PACKAGE,
    MENTRAOS_API_KEY: KEY,
    PORT: "0",
    BOX_URL: box.url,
    BOX_TOKEN: box.token,
    CLOUD_HOSTS: "ws://127.0.0.1",
    DATA_DIR: await mkdtemp(join(tmpdir(), "spotter-app-")),
    ...more,
  };
  config = readConfig(env);
  app = await startApp(config, log, { policy: FAST, adviceEveryMs: 50, ...tuning });
  publicUrl = `http://127.0.0.1:${app.port}/${config.webhookKey}`;
}

beforeEach(async () => {
  cloud = new Cloud(PACKAGE, KEY);
  await cloud.listen();
  box = new FakeBox();
  await box.up();
});

afterEach(async () => {
  await app.close();
  await cloud.close();
  await box.down();
});

// The SDK prints what it does.
const print = { log: console.log, debug: console.debug, warn: console.warn };
Object.assign(console, { log: () => undefined, debug: () => undefined, warn: () => undefined });
after(() => Object.assign(console, print));

function view(user = ANNA): View | undefined {
  return app.wearers.get(user)?.view();
}

function phase(user = ANNA): string {
  return view(user)?.phase ?? "gone";
}

function seen(user = ANNA): boolean {
  return phase(user) === "live" && view(user)?.pictures === "online";
}

function stops(running: Running): number {
  return cloud.sentOf(running, "rtmp_stream_stop").length;
}

/** Glasses that do as they are told, and a box that sees them. */
function willing(): void {
  cloud.ways.onStream = (_, message) => {
    const stream = /live\/([^?]+)/.exec(String(message["rtmpUrl"]))?.[1] ?? "";
    setTimeout(() => { box.see(stream, "online"); }, 20);
  };
  cloud.ways.onStop = (running) => { box.see(streamOf(running.userId), "offline"); };
}

async function live(user = ANNA, url = publicUrl): Promise<Running> {
  const running = await cloud.start(url, user);
  await until(`${user} is live`, () => seen(user));
  return running;
}

test("a session: live, told, stopped for certain", async () => {
  await begin();
  willing();
  box.advice = { width: 854, height: 480, bitrate_bps: 1_200_000, fps: 15, reason: "a weak link" };
  const anna = await live();
  const [request] = cloud.sentOf(anna, "rtmp_stream_request");
  assert.equal(request?.["rtmpUrl"], `rtmp://127.0.0.1:1935/live/${streamOf(ANNA)}?token=secret1`);
  assert.deepEqual(request["video"], { width: 854, height: 480, bitrate: 1_200_000, frameRate: 15 });
  assert.ok(cloud.sentOf(anna, "subscription_update").some((m) => JSON.stringify(m["subscriptions"]).includes("rtmp_stream_status")));

  for (let n = 0; n < 4; n += 1) {
    box.detect(streamOf(ANNA), ["dog", 7]);
    box.detect(streamOf(BEN), ["cat", 1]);
  }
  await until("speech and light", () => cloud.sentOf(anna, "audio_play_request").length === 1 && cloud.sentOf(anna, "rgb_led_control").length === 1);
  assert.match(String(cloud.sentOf(anna, "audio_play_request")[0]?.["audioUrl"]), /api\/tts\?text=I\+see\+a\+dog/);
  assert.equal(cloud.sentOf(anna, "display_event").length, 0, "these glasses have no display");

  await cloud.stop(publicUrl, anna);
  assert.equal(stops(anna), 1);
  await until("the URL is taken back", () => box.publishers.size === 0);
  await until("nobody is here", () => phase() === "gone" && box.watchers === 0);
});

test("glasses with a display are told by text, in the wearer's words and only of what they chose", async () => {
  await begin();
  willing();
  cloud.ways.capabilities = WITH_DISPLAY;
  cloud.ways.settings = [
    { key: "labels", value: "dog" },
    { key: "sentence", value: "Da ist {what}" },
    { key: "words", value: "dog=ein Hund" },
    { key: "everyS", value: "zwölf" },
  ];
  const anna = await live();
  for (let n = 0; n < 4; n += 1) {
    box.detect(streamOf(ANNA), ["cat", 1], ["dog", 7]);
  }
  await until("a text", () => cloud.sentOf(anna, "display_event").length === 1);
  assert.match(JSON.stringify(cloud.sentOf(anna, "display_event")[0]), /Da ist ein Hund/);
  await sleep(50);
  assert.equal(cloud.sentOf(anna, "audio_play_request").length + cloud.sentOf(anna, "rgb_led_control").length, 0);
  assert.deepEqual(view()?.problems, ["in the MentraOS app: everyS is seconds, 0 to 86400"]);
  // Changed while it runs.
  cloud.send(anna, { type: "settings_update", settings: [{ key: "labels", value: "cat" }] });
  await until("the new settings", () => app.wearers.get(ANNA)?.settings.labels.join() === "cat");
});

test("a stream that degrades comes back, or is started anew", async () => {
  await begin();
  willing();
  const anna = await live();
  cloud.status(anna, "reconnecting");
  box.see(streamOf(ANNA), "waiting");
  await until("degraded", () => phase() === "degraded");
  cloud.status(anna, "reconnected");
  box.see(streamOf(ANNA), "online");
  await until("live", () => phase() === "live");
  assert.equal(anna.streams, 1);
  // It gives up: a new stream, which the SDK refuses as long as it believes in the old one.
  cloud.status(anna, "reconnect_failed");
  box.see(streamOf(ANNA), "waiting");
  await until("a second stream, live", () => anna.streams === 2 && seen());
  assert.equal(stops(anna), 1);
  // Nothing is said at all: only the box notices.
  box.see(streamOf(ANNA), "waiting");
  await until("a third stream, live", () => anna.streams === 3 && seen());
  // The words of the first stream come late.
  cloud.status(anna, "stopped", { streamId: "s1-anna@example.org" });
  cloud.status(anna, "error", { streamId: "s2-anna@example.org" });
  await sleep(100);
  assert.equal(phase(), "live");
});

test("glasses that never answer are asked again, within bounds, and can be asked by hand", async () => {
  await begin();
  await app.close();
  app = await startApp(config, silent, { policy: { ...FAST, glassesMs: 100, maxFailures: 2 }, adviceEveryMs: 50 });
  publicUrl = `http://127.0.0.1:${app.port}/${config.webhookKey}`;
  cloud.ways.glasses = "silent";
  const anna = await cloud.start(publicUrl, ANNA);
  await until("given up", () => phase() === "stopped");
  assert.match(view()?.reason ?? "", /given up after 2 tries: the glasses do not answer/);
  assert.equal(anna.streams, 3);
  await until("each try was ended", () => stops(anna) >= 3);
  await until("the URL is taken back", () => box.publishers.size === 0);
  cloud.ways.glasses = "willing";
  willing();
  app.wearers.get(ANNA)?.start();
  await until("live", () => phase() === "live");
});

test("the cloud's line breaks: the stream lives on, and the session with it", async () => {
  await begin();
  willing();
  const anna = await live();
  anna.socket?.terminate();
  await until("away", () => view()?.cloud === false);
  assert.equal(phase(), "live");
  await until("back", () => view()?.cloud === true);
  assert.equal(anna.streams, 1);
  assert.equal(phase(), "live");
  // What the wearer is told goes out again.
  for (let n = 0; n < 4; n += 1) {
    box.detect(streamOf(ANNA), ["dog", 7]);
  }
  await until("speech", () => cloud.sentOf(anna, "audio_play_request").length === 1);
  await cloud.stop(publicUrl, anna);
  assert.equal(stops(anna), 1);
});

test("the cloud is away for longer than the SDK tries: the stream lives on, until the cloud starts the app anew", async () => {
  let gaveUp = false;
  await begin({}, {}, { ...silent, warn: (what) => { gaveUp ||= what.includes("gave the cloud up"); } });
  willing();
  const anna = await live();
  cloud.ways.shut = true;
  anna.socket?.terminate();
  await until("the SDK gave up", () => gaveUp);
  assert.deepEqual([phase(), view()?.cloud, box.publishers.size], ["live", false, 1]);
  cloud.ways.shut = false;
  const again = await cloud.start(publicUrl, ANNA);
  await until("a stream of the new session", () => again.streams === 1 && seen());
  assert.equal(box.publishers.size, 1);
});

test("the cloud's line is lost for good: the URL is taken back though nobody can be told", async () => {
  await begin({}, { desertedMs: 300 });
  willing();
  const anna = await live();
  cloud.ways.shut = true;
  anna.socket?.terminate();
  await until("the session is over", () => phase() === "gone");
  await until("the URL is taken back", () => box.publishers.size === 0);
});

test("a clean close without a stop webhook ends the stream too", async () => {
  await begin();
  willing();
  const anna = await live();
  anna.socket?.close(1000, "User session ended");
  await until("the URL is taken back", () => box.publishers.size === 0);
  assert.equal(phase(), "gone");
});

test("a cloud that knows the session no more is not waited for without end", async () => {
  await begin({}, { desertedMs: 300 });
  willing();
  const anna = await live();
  // The SDK neither comes back after this code nor says that the session is over.
  anna.socket?.close(1008, "App not started for this session");
  await until("the URL is taken back", () => box.publishers.size === 0 && phase() === "gone");
  await live();
});

test("glasses without a camera are not asked, others that are put on are", async () => {
  await begin();
  willing();
  cloud.ways.capabilities = { ...WITH_DISPLAY, hasCamera: false };
  const anna = await cloud.start(publicUrl, ANNA);
  await until("said so", () => view()?.reason === "these glasses have no camera");
  assert.equal(anna.streams, 0);
  cloud.send(anna, { type: "capabilities_update", capabilities: WITH_DISPLAY, modelName: "with display" });
  await until("live", () => seen());
});

test("many wearers, each with a stream of its own", async () => {
  await begin();
  willing();
  const names = ["a", "b", "c", "d", "e", "f", "g", "h"].map((n) => `${n}@example.org`);
  const all = await Promise.all(names.map((name) => live(name)));
  assert.equal(new Set([...box.publishers.values()]).size, names.length);
  for (let n = 0; n < 4; n += 1) {
    box.detect(streamOf("c@example.org"), ["dog", 3]);
  }
  await until("c is told", () => cloud.sentOf(all[2] as Running, "audio_play_request").length === 1);
  assert.equal(all.filter((r) => cloud.sentOf(r, "audio_play_request").length > 0).length, 1);
  await cloud.stop(publicUrl, all[0] as Running);
  await until("one URL less", () => box.publishers.size === names.length - 1);
  assert.ok(names.slice(1).every((name) => phase(name) === "live"));
});

test("of two sessions of one wearer the newer has the stream", async () => {
  await begin();
  willing();
  const first = await live();
  // With the same id: the cloud starts what it believes is gone.
  const second = await cloud.start(publicUrl, ANNA);
  await until("the second streams", () => second.streams === 1 && seen());
  assert.equal(first.streams, 1);
  // With another: a phone at another cloud.
  const third = await cloud.start(publicUrl, ANNA, "another-session");
  await until("the third streams", () => third.streams === 1 && seen());
  assert.equal(box.publishers.size, 1);
  // The end of an older one does not end it.
  await cloud.stop(publicUrl, second);
  await sleep(200);
  assert.equal(phase(), "live");
  assert.equal(stops(third), 0);
  assert.equal(box.publishers.size, 1);
  await cloud.stop(publicUrl, third);
  await until("the URL is taken back", () => box.publishers.size === 0 && phase() === "gone");
});

test("a box that is away at the start, and goes away later", async () => {
  await box.down();
  await begin();
  willing();
  const anna = await cloud.start(publicUrl, ANNA);
  await until("said so", () => /the box is away/.test(view()?.reason ?? ""));
  assert.equal(anna.streams, 0, "glasses are not asked for a stream that nobody takes");
  await box.up();
  await until("live", () => seen());
  box.online.clear();
  await box.down();
  await until("lost", () => phase() === "lost" || phase() === "requested");
  await until("stopped meanwhile", () => stops(anna) >= 1);
  await box.up();
  await until("live again", () => seen());
  // Ended while the box is away: its URL is taken back when the box is there.
  await box.down();
  await cloud.stop(publicUrl, anna);
  await sleep(100);
  assert.equal(box.publishers.size, 1);
  await box.up();
  await until("the URL is taken back", () => box.publishers.size === 0);
});

test("the box's advice is applied while the stream runs", async () => {
  await begin();
  willing();
  const anna = await live();
  box.advice = { width: 640, height: 480, bitrate_bps: 700_000, fps: 10, reason: "the link is weak" };
  await until("a second stream", () => anna.streams === 2 && seen());
  const [, second] = cloud.sentOf(anna, "rtmp_stream_request");
  assert.deepEqual(second?.["video"], { width: 640, height: 480, bitrate: 700_000, frameRate: 10 });
  const urls = new Set(cloud.sentOf(anna, "rtmp_stream_request").map((m) => m["rtmpUrl"]));
  assert.equal(urls.size, 1, "the same URL");
  await sleep(300);
  assert.equal(anna.streams, 2, "once is enough");
});

test("what the cloud refuses is said to the wearer", async () => {
  await begin();
  cloud.ways.glasses = "silent";
  cloud.ways.onStream = (running) => {
    cloud.send(running, { type: "tpa_connection_error", code: "PERMISSION_DENIED", message: "Camera permission required to start video streams" });
  };
  await cloud.start(publicUrl, ANNA);
  await until("stopped", () => phase() === "stopped");
  assert.match(view()?.reason ?? "", /lacks the camera permission/);
});

test("a webhook of anyone else changes nothing", async () => {
  await begin();
  willing();
  const anna = await live();
  const base = `http://127.0.0.1:${app.port}`;
  const stop = { type: "stop_request", sessionId: anna.sessionId, userId: ANNA, reason: "user_disabled" };
  const start = { type: "session_request", sessionId: anna.sessionId, userId: ANNA, augmentOSWebsocketUrl: cloud.websocketUrl };
  const thief = new Cloud(PACKAGE, KEY);
  await thief.listen();
  let stolen = 0;
  thief.ways.onStream = () => { stolen += 1; };
  try {
    for (const [url, body, status] of [
      [`${base}/webhook`, stop, 404],
      [`${base}/webhook`, start, 404],
      [`${base}/wrong-key-wrong-key-wron/webhook`, stop, 404],
      [`${publicUrl}/webhook`, { ...start, augmentOSWebsocketUrl: "wss://evil.example/app-ws" }, 403],
      [`${publicUrl}/webhook`, { ...start, mentraOSWebsocketUrl: "wss://evil.example/app-ws" }, 403],
      [`${publicUrl}/webhook`, { ...start, augmentOSWebsocketUrl: undefined }, 400],
      [`${publicUrl}/webhook`, { type: "dance", sessionId: "s", userId: "u" }, 400],
      [`${publicUrl}/webhook`, "x".repeat(100_000), 400],
      [`${base}/settings`, { userIdForSettings: ANNA, settings: [] }, 404],
      [`${base}/tool`, { toolId: "x", userId: ANNA }, 404],
      [`${publicUrl}/tool`, { toolId: "x", userId: ANNA }, 404],
      [`${base}/photo-upload`, {}, 404],
    ] as const) {
      assert.equal((await cloud.post(url, body)).status, status, `${url} ${JSON.stringify(body).slice(0, 80)}`);
    }
    const broken = await fetch(`${publicUrl}/webhook`, { method: "POST", body: "{ no json", headers: { "content-type": "application/json" } });
    assert.equal(broken.status, 400);
    // With the key, for a session that the cloud did not start: the cloud itself refuses.
    const unknown = { ...start, sessionId: "not-started", userId: BEN };
    assert.notEqual((await cloud.post(`${publicUrl}/webhook`, unknown)).status, 200);
    assert.equal(phase(BEN), "gone");
  } finally {
    await thief.close();
  }
  assert.equal(stolen, 0);
  assert.equal(phase(), "live");
  assert.equal(stops(anna), 0);
});

test("the page: only for wearers, and only their own", async () => {
  await begin();
  willing();
  await live();
  await live(BEN);
  const base = `http://127.0.0.1:${app.port}`;
  const sha = (...parts: string[]): string => {
    const hash = createHash("sha256");
    parts.forEach((p) => hash.update(p));
    return hash.digest("hex");
  };
  const token = `${ANNA}:${sha(ANNA, sha(KEY))}`;
  const api = async (method: string, path: string, body?: unknown, headers: Record<string, string> = {}): Promise<Response> =>
    fetch(`${base}/webview/api/${path}`, {
      method,
      headers: { authorization: `Bearer ${token}`, ...(body === undefined ? {} : { "content-type": "application/json" }), ...headers },
      ...(body === undefined ? {} : { body: JSON.stringify(body) }),
    });

  const page = await fetch(`${base}/webview`);
  assert.equal(page.status, 200);
  assert.match(page.headers.get("content-security-policy") ?? "", /default-src 'none'/);
  assert.match(await page.text(), /id="settings"/);
  for (const path of ["status", "events", "live.mjpeg"]) {
    assert.equal((await fetch(`${base}/webview/api/${path}`)).status, 401, path);
  }
  assert.equal((await api("GET", "status", undefined, { authorization: `Bearer ${BEN}:${sha(BEN, "guessed")}` })).status, 401);
  assert.equal((await fetch(`${base}/webview/api/stop`, { method: "POST" })).status, 401);

  const first = await api("GET", "status");
  const cookie = (first.headers.get("set-cookie") ?? "").split(";")[0] ?? "";
  const seen = (await first.json()) as { user: string; wearer: View };
  assert.deepEqual([seen.user, seen.wearer.phase], [ANNA, "live"]);
  assert.doesNotMatch(JSON.stringify(seen), /secret\d/, "no publish URL on the page");
  // The cookie alone does, and one that somebody made does not.
  assert.equal((await fetch(`${base}/webview/api/status`, { headers: { cookie } })).status, 200);
  assert.equal((await fetch(`${base}/webview/api/status`, { headers: { cookie: cookie.replace("anna", "bert") } })).status, 401);

  const events = await api("GET", "events");
  const reader = (events.body as ReadableStream<Uint8Array>).getReader();
  let text = "";
  const read = async (): Promise<void> => {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) {
        return;
      }
      text += new TextDecoder().decode(value);
    }
  };
  void read().catch(() => undefined);
  assert.equal((await api("POST", "stop")).status, 415, "a form of another site");
  assert.equal((await api("POST", "stop", {})).status, 200);
  await until("stopped", () => phase() === "stopped" && text.includes('"phase":"stopped"'));
  assert.ok(!text.includes(BEN));
  assert.equal(phase(BEN), "live");
  assert.equal((await api("POST", "start", {})).status, 200);
  await until("live", () => phase() === "live");
  await reader.cancel();

  assert.deepEqual(Buffer.from(await (await api("GET", "live.mjpeg")).arrayBuffer()), PICTURE);
  const bad = await api("PUT", "settings", { everyS: -1 });
  assert.equal(bad.status, 400);
  assert.match(await bad.text(), /everyS is seconds/);
  assert.equal((await api("PUT", "settings", { everyS: 5, labels: "cat" })).status, 200);
  assert.deepEqual(app.wearers.get(ANNA)?.settings.labels, ["cat"]);
  assert.deepEqual(app.wearers.get(BEN)?.settings.labels, []);
  const garbage = await fetch(`${base}/webview/api/settings`, { method: "PUT", body: "{", headers: { cookie, "content-type": "application/json" } });
  assert.equal(garbage.status, 400);
  assert.doesNotMatch(await garbage.text(), /at JSON|node_modules/);
  await box.down();
  assert.equal((await api("GET", "live.mjpeg")).status, 502);
  await box.up();
});

test("the status door tells of all wearers, to this machine or with the token", async () => {
  const free = await fetch(`${box.url}/`).then(() => 0, () => 0);
  await begin({ SSE_PORT: String(20_000 + (process.pid % 20_000) + free), STATUS_TOKEN: "look" });
  willing();
  await live();
  const at = `http://127.0.0.1:${app.ssePort ?? 0}/events`;
  const first = async (url: string, headers: Record<string, string> = {}): Promise<string | number> => {
    const stop = new AbortController();
    const response = await fetch(url, { headers, signal: stop.signal });
    let text = "";
    if (response.ok && response.body) {
      const reader = response.body.getReader();
      while (!text.includes("wearer")) {
        text += new TextDecoder().decode((await reader.read()).value);
      }
    }
    stop.abort();
    return response.ok ? text : response.status;
  };
  assert.match(String(await first(at)), /"phase":"live"/);
  assert.equal(await first(at, { "x-forwarded-for": "192.0.2.1" }), 401);
  assert.equal(await first(at, { origin: "http://evil.example" }), 401);
  assert.match(String(await first(`${at}?token=look`, { "x-forwarded-for": "192.0.2.1" })), /"phase":"live"/);
  assert.equal(await first(`${at}?token=wrong`, { "x-forwarded-for": "192.0.2.1" }), 401);
});

test("the app's end ends every stream, and a new start takes back what a crash left", async () => {
  await begin();
  willing();
  const anna = await live();
  await live(BEN);
  const left = [...box.publishers];
  await app.close();
  assert.equal(stops(anna), 1);
  assert.equal(box.publishers.size, 0);
  left.forEach(([id, stream]) => box.publishers.set(id, stream));
  box.publishers.set("garden", "garden");
  app = await startApp(config, silent, { policy: FAST, adviceEveryMs: 50 });
  await until("only those of others are left", () => box.publishers.size === 1);
  assert.ok(box.publishers.has("garden"));
});

test("a given address takes one wearer, and no box is needed", async () => {
  await begin({ STREAM_URL: "rtmp://127.0.0.1:1935/live/stream?token=t", BOX_URL: "http://127.0.0.1:9" });
  const anna = await cloud.start(publicUrl, ANNA);
  await until("asked", () => anna.streams === 1);
  assert.equal(cloud.sentOf(anna, "rtmp_stream_request")[0]?.["rtmpUrl"], "rtmp://127.0.0.1:1935/live/stream?token=t");
  const ben = await cloud.start(publicUrl, BEN);
  await sleep(100);
  assert.equal(ben.streams, 0);
  assert.match(JSON.stringify(cloud.sentOf(ben, "display_event")), /no room/);
});
