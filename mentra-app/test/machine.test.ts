import assert from "node:assert/strict";
import { test } from "node:test";

import { POLICY, step, stopped, type Effect, type Event, type Phase, type Status, type Stream, type Video } from "../src/stream/machine.js";

const policy = { ...POLICY, random: () => 0.5 };
const video: Video = { width: 1280, height: 720, bitrateBps: 2_000_000, fps: 15 };

/** Plays events and keeps what is to be done. */
class Play {
  stream: Stream = stopped(0);
  now = 0;
  effects: Effect["kind"][] = [];

  at(ms: number, event: Event): this {
    this.now += ms;
    const { stream, effects } = step(this.stream, event, this.now, policy);
    this.stream = stream;
    this.effects.push(...effects.map((e) => e.kind));
    return this;
  }

  status(status: Status, streamId?: string, more: { reason?: string; fps?: number } = {}): this {
    return this.at(10, { kind: "status", status, streamId, reason: more.reason, fps: more.fps });
  }

  /** Lets the deadline pass, and no more than that. */
  wait(): this {
    assert.notEqual(this.stream.deadline, null, `${this.stream.phase} has no time-out`);
    return this.at((this.stream.deadline ?? 0) - this.now, { kind: "tick" });
  }

  is(phase: Phase, reason?: RegExp): this {
    assert.equal(this.stream.phase, phase, `${this.stream.phase}: ${this.stream.reason ?? ""}`);
    if (reason) {
      assert.match(this.stream.reason ?? "", reason);
    }
    return this;
  }

  did(...kinds: Effect["kind"][]): this {
    assert.deepEqual(this.effects, kinds);
    this.effects = [];
    return this;
  }

  asked(): this {
    return this.at(0, { kind: "start" }).did("ask_box").at(5, { kind: "box", url: "rtmp://b/live/a?token=t", video }).did("start");
  }

  live(id = "s1"): this {
    return this.asked().status("initializing", id).status("connecting", id).status("active", id)
      .at(10, { kind: "pictures", pictures: "online" }).is("live");
  }
}

test("a stream begins, lives and ends", () => {
  const play = new Play().asked().is("requested");
  play.status("initializing", "s1").is("connecting").status("active", "s1").is("live");
  play.at(10, { kind: "pictures", pictures: "online" }).is("live").did();
  assert.equal(play.stream.deadline, null);
  play.at(1000, { kind: "stop", reason: "you stopped it" }).is("stopped", /you stopped it/).did("stop", "release");
  play.status("stopping", "s1").status("stopped", "s1").is("stopped").did();
});

test("each step has its time-out and its word", () => {
  const box = new Play().at(0, { kind: "start" }).wait().is("lost", /box does not answer/).did("ask_box");
  box.wait().is("requested").did("ask_box");
  new Play().asked().wait().is("lost", /glasses do not answer/).did("stop");
  new Play().asked().status("connecting").wait().is("lost", /do not reach the box/).did("stop");
  const unseen = new Play().asked().status("active").is("live");
  unseen.wait().is("degraded", /sees nothing/).status("active", undefined, { fps: 15 }).wait().is("lost").did("stop");
});

test("a lost stream is tried again with growing pauses, so often and no more", () => {
  const play = new Play().at(0, { kind: "start" });
  const pauses: number[] = [];
  for (let n = 1; n <= policy.maxFailures; n += 1) {
    play.at(1, { kind: "box_failed", reason: "away" }).is("lost", /away/);
    pauses.push((play.stream.deadline ?? 0) - play.now);
    play.wait().is("requested");
  }
  assert.deepEqual(pauses.slice(0, 6), [1000, 2000, 4000, 8000, 16_000, 30_000]);
  play.at(1, { kind: "box_failed", reason: "away" }).is("stopped", /given up after 12 tries: away/);
  assert.deepEqual(play.effects.slice(-2), ["stop", "release"]);
  play.at(1, { kind: "start" }).is("requested");
  assert.equal(play.stream.failures, 0);
});

test("a stream that lived long begins to count anew", () => {
  const play = new Play().live().status("error", "s1").is("lost", /report an error/);
  assert.equal(play.stream.failures, 1);
  play.wait().at(1, { kind: "box", url: "u", video }).status("active", "s2");
  play.at(policy.provenMs, { kind: "pictures", pictures: "online" }).status("timeout", "s2").is("lost", /no longer answer/);
  assert.equal(play.stream.failures, 1);
});

test("the glasses' own attempts are waited for", () => {
  const play = new Play().live().status("reconnecting", "s1").is("degraded");
  play.at(1, { kind: "pictures", pictures: "waiting" }).is("degraded");
  play.status("reconnected", "s1").is("degraded").at(1, { kind: "pictures", pictures: "online" }).is("live").did();
  play.status("disconnected", "s1").at(1, { kind: "pictures", pictures: "none" }).wait().is("lost").did("stop");
  new Play().live().status("reconnect_failed", "s1").is("lost", /could not come back/).did("stop");
});

test("words that are missing are made up for by the box's pictures", () => {
  new Play().asked().at(9, { kind: "pictures", pictures: "online" }).is("live");
  const play = new Play().live().status("reconnecting", "s1").is("degraded");
  // "reconnected" never comes, the pictures never stopped.
  play.wait().is("live").did();
  // The glasses said nothing at all.
  new Play().live().at(1, { kind: "pictures", pictures: "waiting" }).is("degraded").wait().is("lost").did("stop");
});

test("words that come late or in disorder change nothing", () => {
  const play = new Play().asked().status("active", "s1").status("connecting", "s1").is("degraded");
  play.at(1, { kind: "pictures", pictures: "online" }).is("live");
  play.status("initializing", "s1").status("connecting", "s1").is("live").did();
  play.status("error", "s1").is("lost").did("stop").wait().at(1, { kind: "box", url: "u", video }).did("ask_box", "start");
  // Of the stream before.
  play.status("stopped", "s1").status("active", "s1").is("requested").did();
  // Without an id, before anything was heard of the new one.
  play.status("stopped").is("requested").did();
  play.status("initializing", "s2").status("stopped", "s1").is("connecting").status("active", "s2").is("live");
  // Of nobody we know.
  play.status("stopped", "s9").is("live");
});

test("glasses that stream although nobody wants it are stopped, not in a rage", () => {
  const play = new Play().live().at(1, { kind: "stop", reason: "over" });
  play.effects = [];
  play.status("active", "s1").did();
  play.at(6000, { kind: "status", status: "active", streamId: "s1", reason: undefined, fps: undefined }).did("stop", "release");
  play.status("active", "s7").did();
  play.at(6000, { kind: "pictures", pictures: "online" }).is("stopped", /over/).did("stop", "release");
});

test("a cloud that is away is waited for, and pictures count meanwhile", () => {
  const play = new Play().live().at(1, { kind: "cloud", up: false }).is("live");
  play.at(1, { kind: "pictures", pictures: "none" }).is("degraded").wait().is("lost").wait().is("lost", /cloud is away/);
  assert.equal(play.stream.deadline, null);
  play.effects = [];
  play.at(60_000, { kind: "cloud", up: true }).is("requested").did("ask_box");
});

test("refusals are tried again where that helps", () => {
  new Play().asked().at(1, { kind: "refused", reason: "no Wi-Fi", retry: true }).is("lost", /Wi-Fi/).did("stop");
  new Play().asked().at(1, { kind: "refused", reason: "no permission", retry: false }).is("stopped", /permission/);
  new Play().live().at(1, { kind: "refused", reason: "of something else", retry: false }).is("live").did();
  new Play().asked().at(1, { kind: "send_failed", reason: "closed" }).is("lost", /closed/);
});

test("advice is taken once the stream has settled", () => {
  const less = { ...video, width: 854, height: 480 };
  const play = new Play().live().at(1000, { kind: "advice", video: less }).is("live").did();
  play.at(policy.settleMs, { kind: "advice", video }).is("live").did();
  play.at(1, { kind: "advice", video: less }).is("requested", /854x480/).did("stop");
  play.status("stopped", "s1").is("requested").did("start");
  assert.deepEqual(play.stream.video, less);
  assert.equal(play.stream.failures, 0);
  play.status("active", "s2").is("live");
  // Without a "stopped" it goes on all the same.
  play.at(policy.settleMs, { kind: "advice", video }).did("stop").wait().did("start");
});

test("few pictures a second are said, and endured", () => {
  const play = new Play().live().status("streaming", "s1", { fps: 3 }).is("degraded", /3 pictures a second/);
  assert.equal(play.stream.deadline, null);
  play.status("streaming", "s1", { fps: 14 }).is("live").did();
});

test("no order of events leaves a stream without a time-out, or running when it is stopped", () => {
  const statuses: Status[] = ["initializing", "connecting", "reconnecting", "streaming", "active", "stopping", "stopped",
    "disconnected", "timeout", "reconnected", "reconnect_failed", "error"];
  const pictures = ["online", "waiting", "none", "unknown"] as const;
  let seed = 1;
  const random = (n: number): number => {
    seed = (seed * 48_271) % 2_147_483_647;
    return seed % n;
  };
  for (let round = 0; round < 2000; round += 1) {
    const play = new Play();
    let running = false;
    for (let n = 0; n < 40; n += 1) {
      const status = statuses[random(12)] ?? "active";
      const events: Event[] = [
        { kind: "start" },
        { kind: "stop", reason: "x" },
        { kind: "box", url: "u", video },
        { kind: "box_failed", reason: "x" },
        { kind: "refused", reason: "x", retry: random(2) === 0 },
        { kind: "status", status, streamId: ["a", "b", undefined][random(3)], reason: undefined, fps: undefined },
        { kind: "status", status, streamId: undefined, reason: undefined, fps: random(20) },
        { kind: "pictures", pictures: pictures[random(4)] ?? "none" },
        { kind: "cloud", up: random(2) === 0 },
        { kind: "advice", video: { ...video, fps: random(30) + 1 } },
        { kind: "tick" },
      ];
      play.effects = [];
      play.at(random(40_000), events[random(events.length)] ?? { kind: "tick" });
      for (const effect of play.effects) {
        running = effect === "start" ? true : effect === "stop" ? false : running;
      }
      const s = play.stream;
      assert.equal(s.running, running, `${s.phase} runs, or not`);
      if (s.phase === "stopped") {
        assert.equal(running, false);
        assert.equal(s.deadline, null);
      } else if (s.deadline === null) {
        const waits = (s.phase === "lost" && !s.cloudUp) || (s.phase === "live" && s.pictures === "online");
        assert.ok(waits || (s.phase === "degraded" && s.pictures === "online"), `${s.phase} without a time-out, pictures ${s.pictures}`);
      }
    }
  }
});
