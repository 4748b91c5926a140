// What is decided before anything is let in: the configuration, webhooks, cookies, and records of the local network.

import assert from "node:assert/strict";
import { createHmac } from "node:crypto";
import { mkdtemp, readFile, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";

import type { Answer } from "dns-packet";
import makeMdns from "multicast-dns";

import { FixedUrl, videoOf } from "../src/box/box.js";
import { ByMdns, understand } from "../src/box/find.js";
import { ConfigError, readConfig } from "../src/config.js";
import { abilitiesOf } from "../src/glasses.js";
import { masked, reasonOf } from "../src/log.js";
import { SettingsStore } from "../src/settings.js";
import { isCloud, isOwnCookie, judgeWebhook, sameSecret } from "../src/webhook.js";
import { streamOf } from "../src/wearers.js";

const CLOUD = readConfig({ PACKAGE_NAME: "a.b.c", MENTRAOS_API_KEY: "k" }).cloudHosts;

test("a configuration is right, or all that is wrong with it is said", () => {
  const config = readConfig({ PACKAGE_NAME: "a.b.c", MENTRAOS_API_KEY: "k", BOX_URL: "http://spotter.local:8080" });
  assert.equal(config.port, 3000);
  assert.match(config.webhookKey, /^[\w-]{24}$/);
  const bad = { PORT: "many", BOX_URL: "spotter?token=hidden", STREAM_URL: "rtmp://x", WEBHOOK_KEY: "short", SSE_HOST: "0.0.0.0" };
  assert.throws(() => readConfig(bad), (error: unknown) => {
    assert.ok(error instanceof ConfigError);
    assert.equal(error.problems.length, 7);
    assert.doesNotMatch(error.message, /hidden/);
    return true;
  });
});

test("only the cloud's WebSocket gets the API key", () => {
  for (const url of ["wss://api.mentra.glass/app-ws", "wss://prod.augmentos.cloud/app-ws", "wss://us.api.mentraglass.com/app-ws"]) {
    assert.ok(isCloud(url, CLOUD), url);
  }
  for (const url of [
    "ws://api.mentra.glass/app-ws", // In plain.
    "wss://evil.example/app-ws",
    "wss://mentra.glass.evil.example/app-ws",
    "wss://evilmentra.glass/app-ws",
    "wss://api.mentra.glass@evil.example/app-ws",
    "wss://x:y@api.mentra.glass/app-ws",
    "https://api.mentra.glass/",
    "//api.mentra.glass",
    "",
  ]) {
    assert.ok(!isCloud(url, CLOUD), url);
  }
  assert.ok(isCloud("ws://127.0.0.1:9/app-ws", ["ws://127.0.0.1"]));
  assert.ok(!isCloud("wss://127.0.0.1:9/app-ws", ["ws://127.0.0.1"]));
});

test("a webhook is complete and the cloud's, or refused", () => {
  const good = { type: "session_request", sessionId: "s", userId: "u", augmentOSWebsocketUrl: "wss://api.mentra.glass/app-ws" };
  assert.equal(judgeWebhook(good, CLOUD), null);
  assert.equal(judgeWebhook({ type: "stop_request", sessionId: "s", userId: "u" }, CLOUD), null);
  const refused = (body: unknown): number | undefined => judgeWebhook(body, CLOUD)?.status;
  assert.equal(refused({ ...good, mentraOSWebsocketUrl: "wss://evil.example/" }), 403);
  assert.equal(refused({ ...good, augmentOSWebsocketUrl: 5 }), 403);
  assert.equal(refused({ ...good, augmentOSWebsocketUrl: undefined }), 400);
  for (const bad of [null, [], "x", {}, { ...good, userId: "" }, { ...good, sessionId: 7 }, { ...good, type: "dance" }, { ...good, userId: "x".repeat(400) }]) {
    assert.equal(refused(bad), 400, JSON.stringify(bad));
  }
  assert.ok(sameSecret("abc", "abc") && !sameSecret("abc", "abd") && !sameSecret("", "abc"));
});

test("a cookie that we did not sign never reaches the SDK", () => {
  const sign = (data: string): string => `${data}|${createHmac("sha256", "secret").update(data).digest("hex")}`;
  assert.ok(isOwnCookie(sign("anna@example.org|1795439400000"), "secret"));
  for (const bad of ["", "a|1", "a|1|x", sign("a|1") + "|", sign("|1"), sign("a|1").replace("a", "b")]) {
    assert.ok(!isOwnCookie(bad, "secret"), bad);
  }
});

test("a box is understood once its records are all there", () => {
  const name = "barn._spotter._tcp.local";
  const records: Answer[] = [
    { type: "PTR", name: "_http._tcp.local", data: "other._http._tcp.local" },
    { type: "PTR", name: "_spotter._tcp.local", data: name },
    { type: "SRV", name, data: { target: "barn.local", port: 8080 } },
    { type: "TXT", name, data: [Buffer.from("rtmp=1935"), Buffer.from("ws=8765"), Buffer.from("http=8081")] },
    { type: "AAAA", name: "barn.local", data: "fe80::1" },
    { type: "A", name: "barn.local", data: "192.0.2.7" },
  ];
  const place = understand(records);
  assert.equal(place?.web.href, "http://192.0.2.7:8081/");
  assert.equal(place.wsPort, 8765);
  for (let n = 0; n < records.length; n += 1) {
    assert.equal(understand(records.slice(0, n)), null);
  }
});

test("a box is found by asking the network", async (t) => {
  const options = { interface: "127.0.0.1", bind: "0.0.0.0", port: 20_000 + (process.pid % 20_000), loopback: true };
  const name = "barn._spotter._tcp.local";
  const box = makeMdns(options);
  const deaf = new Promise<never>((_, reject) => box.on("error", reject));
  box.on("query", () => {
    box.respond([
      { type: "PTR", name: "_spotter._tcp.local", data: name },
      { type: "SRV", name, data: { target: "barn.local", port: 8080 } },
      { type: "TXT", name, data: ["ws=8765"] },
      { type: "A", name: "barn.local", data: "192.0.2.7" },
    ]);
  });
  try {
    const place = await Promise.race([new ByMdns(4_000, options).find(), deaf]);
    assert.deepEqual([place.web.href, place.wsPort], ["http://192.0.2.7:8080/", 8765]);
  } catch (error) {
    console.log(`SKIPPED: the app finds a box by mDNS: no multicast on loopback here (${reasonOf(error)})`);
    t.skip("no multicast on loopback here");
  } finally {
    box.destroy();
  }
  await assert.rejects(new ByMdns(300, { ...options, port: options.port + 1 }).find(), /no box answers in this network: set BOX_URL/);
});

test("advice is used when it is usable", () => {
  const advice = { width: 854, height: 480, bitrate_bps: 1_000_000, fps: 15, reason: "x" };
  assert.deepEqual(videoOf({ advice }), { width: 854, height: 480, bitrateBps: 1_000_000, fps: 15 });
  for (const bad of [null, {}, { advice: null }, { advice: { ...advice, fps: "15" } }, { advice: { ...advice, width: 1e9 } }]) {
    assert.equal(videoOf(bad), null);
  }
});

test("wearers have names that every box takes, each its own", () => {
  const names = ["anna@example.org", "anna@example.com", "Anna.B+x@y", "@", "日本", "x".repeat(300)].map(streamOf);
  names.forEach((name) => { assert.match(name, /^[A-Za-z0-9_-]{1,44}$/); });
  assert.equal(new Set(names).size, names.length);
});

test("a given address is used as it is", async () => {
  const fixed = new FixedUrl("rtmp://h/live/{user}?token=t", null);
  assert.equal((await fixed.publish("anna-1")).url, "rtmp://h/live/anna-1?token=t");
  const seen: string[] = [];
  fixed.watch("anna-1", { pictures: (p) => seen.push(p), seen: () => undefined });
  assert.deepEqual(seen, ["unwatched"]);
});

test("secrets stay out of what is said", () => {
  assert.equal(masked("cannot open rtmp://h/live/a?token=abc-D_1 now"), "cannot open rtmp://h/live/a?token=*** now");
  assert.equal(reasonOf(new Error("fetch failed", { cause: new Error("refused ?token=x") })), "refused ?token=***");
  assert.equal(abilitiesOf(null).camera, true);
  assert.equal(abilitiesOf({ hasCamera: false }).camera, false);
});

test("what was chosen is kept, and a file that is none stays as it is", async () => {
  const file = join(await mkdtemp(join(tmpdir(), "spotter-app-")), "data", "settings.json");
  const store = await SettingsStore.open(file);
  await Promise.all([store.change("a", { everyS: 5 }), store.change("b", { speech: false }), store.change("a", { led: false })]);
  const again = await SettingsStore.open(file);
  assert.deepEqual([again.of("a"), again.of("b"), again.of("c")], [{ everyS: 5, led: false }, { speech: false }, {}]);
  await writeFile(file, "{ oh");
  await assert.rejects(SettingsStore.open(file), /not JSON: mend it/);
  assert.equal(await readFile(file, "utf8"), "{ oh");
});
