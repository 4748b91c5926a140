// One wearer: drives the stream's state machine, tells what the box sees on the glasses, and keeps hold of whichever
// session is the newest. Decisions are in stream/machine.ts and tell/decide.ts.

import type { Box, Health } from "./box/box.js";
import type { Abilities, Glasses } from "./glasses.js";
import { masked, reasonOf, type Log } from "./log.js";
import { judge, layered, type Change, type Settings } from "./settings.js";
import { step, stopped, wanted, type Effect, type Event, type Policy, type Stream, type Video } from "./stream/machine.js";
import { decide, NOTHING_YET, type Memory, type Sighting } from "./tell/decide.js";
import { sentence } from "./tell/words.js";

/** What glasses are asked to send where the box advises nothing: little heat, and enough to find animals in. */
export const DEFAULT_VIDEO: Video = { width: 1280, height: 720, bitrateBps: 2_000_000, fps: 15 };

const NO_CAMERA = "these glasses have no camera";

export interface Surroundings {
  readonly box: Box;
  readonly log: Log;
  readonly policy: Policy;
  /** Something that `view()` shows has changed. */
  readonly changed: (wearer: Wearer) => void;
  /** The cloud did not come back to this session. */
  readonly deserted: (sessionId: string, user: string) => void;
  readonly adviceEveryMs: number;
  /** The SDK tries to come back for some 20 s, and does not say when it gives up without trying. */
  readonly desertedMs: number;
}

/** As the status and the page show it; holds no secret. */
export interface View {
  readonly user: string;
  readonly stream: string;
  readonly phase: Stream["phase"];
  readonly since: number;
  readonly reason: string | null;
  readonly session: boolean;
  readonly cloud: boolean;
  readonly pictures: Stream["pictures"];
  readonly video: Video | null;
  readonly failures: number;
  readonly restarts: number;
  readonly glasses: Abilities | null;
  readonly told: { readonly text: string; readonly at: number } | null;
  readonly tellings: { readonly said: number; readonly dropped: number };
  readonly problems: readonly string[];
  readonly health: Health | null;
}

export class Wearer {
  readonly user: string;
  readonly stream: string;
  readonly #around: Surroundings;
  #glasses: Glasses | null = null;
  #state: Stream;
  #timer: NodeJS.Timeout | null = null;
  #advice: NodeJS.Timeout | null = null;
  #away: NodeJS.Timeout | null = null;
  #noCamera = false;
  #unwatch: (() => void) | null = null;
  /** Answers to an earlier question to the box are void. */
  #asked = 0;
  #chosen: Change;
  #console: Change = {};
  #problems: readonly string[] = [];
  #settings: Settings;
  #memory: Memory = NOTHING_YET;
  #told: View["told"] = null;
  #speaking = false;
  /** The newest that waits while the one before is spoken. */
  #next: string | null = null;
  #said = 0;
  #dropped = 0;
  #health: Health | null = null;

  constructor(user: string, stream: string, chosen: Change, around: Surroundings) {
    this.user = user;
    this.stream = stream;
    this.#chosen = chosen;
    this.#settings = layered(chosen);
    this.#around = around;
    this.#state = stopped(Date.now());
  }

  get settings(): Settings {
    return this.#settings;
  }

  get hasSession(): boolean {
    return this.#glasses !== null;
  }

  /** A session begins, or takes over from an older one: the cloud moves sessions, and phones come back. */
  attach(glasses: Glasses): void {
    const before = this.#glasses;
    if (before) {
      this.#around.log.info("a newer session takes over", { stream: this.stream, session: glasses.sessionId });
      // Its own stream ends with it; that of the new one begins afresh.
      this.#happened({ kind: "stop", reason: "a newer session takes over" });
      before.leave();
    }
    this.#glasses = glasses;
    this.#memory = NOTHING_YET;
    // A session may have a last word after it was left.
    const heed = (act: () => void): void => {
      if (this.#glasses === glasses) {
        act();
      }
    };
    glasses.follow({
      status: (status, streamId, text, fps) => {
        const reason = text === undefined ? undefined : masked(text);
        heed(() => { this.#happened({ kind: "status", status, streamId, reason, fps }); });
      },
      refused: (reason, retry) => { heed(() => { this.#happened({ kind: "refused", reason, retry }); }); },
      cloud: (up) => { heed(() => { this.#cloud(glasses, up); }); },
      settings: (values) => { heed(() => { this.#useConsole(values); }); },
      abilities: (abilities) => {
        heed(() => {
          this.#look(abilities);
          this.#around.changed(this);
        });
      },
    });
    this.#unwatch ??= this.#around.box.watch(this.stream, {
      pictures: (pictures) => { this.#happened({ kind: "pictures", pictures }); },
      seen: (sightings) => { this.#seen(sightings); },
    });
    this.#useConsole(glasses.settings);
    this.#cloud(glasses, true);
    const { camera } = glasses.abilities;
    this.#noCamera = !camera;
    if (!camera) {
      this.#happened({ kind: "stop", reason: NO_CAMERA });
    } else if (this.#settings.autoStart) {
      this.#happened({ kind: "start" });
    }
  }

  /** Glasses may be put on, or changed, while the session is there. */
  #look(abilities: Abilities): void {
    if (!abilities.camera && !this.#noCamera) {
      this.#noCamera = true;
      this.#happened({ kind: "stop", reason: NO_CAMERA });
    } else if (abilities.camera && this.#noCamera) {
      this.#noCamera = false;
      if (this.#settings.autoStart) {
        this.#happened({ kind: "start" });
      }
    }
  }

  #cloud(glasses: Glasses, up: boolean): void {
    if (this.#away) {
      clearTimeout(this.#away);
      this.#away = null;
    }
    if (!up) {
      this.#away = setTimeout(() => { this.#around.deserted(glasses.sessionId, this.user); }, this.#around.desertedMs);
    }
    this.#happened({ kind: "cloud", up });
  }

  /** The session is over. Of an older one than the present it is no news. True if the wearer is gone by it. */
  detach(sessionId: string, reason: string): boolean {
    if (this.#glasses?.sessionId !== sessionId) {
      return false;
    }
    this.leave(`the session ended: ${reason}`);
    return true;
  }

  /** Ends the stream, whichever session there is, and follows nothing any more. */
  leave(reason: string): void {
    this.#happened({ kind: "stop", reason });
    this.#glasses?.leave();
    this.#glasses = null;
    this.#next = null;
    this.#unwatch?.();
    this.#unwatch = null;
    this.#clear();
    this.#around.changed(this);
  }

  start(): void {
    if (this.#glasses) {
      this.#happened({ kind: "start" });
    }
  }

  stop(reason: string): void {
    this.#happened({ kind: "stop", reason });
  }

  choose(chosen: Change): void {
    this.#chosen = chosen;
    this.#settings = layered(this.#console, chosen);
    this.#around.changed(this);
  }

  view(): View {
    const s = this.#state;
    return {
      user: this.user,
      stream: this.stream,
      phase: s.phase,
      since: s.since,
      reason: s.reason,
      session: this.#glasses !== null,
      cloud: s.cloudUp,
      pictures: s.pictures,
      video: s.video,
      failures: s.failures,
      restarts: s.restarts,
      glasses: this.#glasses?.abilities ?? null,
      told: this.#told,
      tellings: { said: this.#said, dropped: this.#dropped },
      problems: this.#problems,
      health: this.#health,
    };
  }

  #happened(event: Event): void {
    const now = Date.now();
    const before = this.#state;
    const { stream, effects } = step(before, event, now, this.#around.policy);
    this.#state = stream;
    if (stream.phase !== before.phase || stream.reason !== before.reason) {
      const { phase, reason } = stream;
      this.#around.log.info("stream", { stream: this.stream, phase, reason, failures: stream.failures || undefined });
    }
    for (const effect of effects) {
      this.#do(effect);
    }
    // What was done may have brought news of its own, and a newer deadline.
    this.#wind();
    if (!this.#advice && wanted(this.#state)) {
      this.#advice = setInterval(() => void this.#askAdvice(), this.#around.adviceEveryMs);
    }
    if (stream !== before) {
      this.#around.changed(this);
    }
  }

  #do(effect: Effect): void {
    switch (effect.kind) {
      case "ask_box":
        void this.#askBox();
        break;
      case "start":
        void this.#start(effect.url, effect.video);
        break;
      case "stop":
        this.#glasses?.stopStream();
        break;
      case "release":
        this.#asked += 1;
        this.#health = null;
        this.#around.box.release(this.stream);
        if (this.#advice) {
          clearInterval(this.#advice);
          this.#advice = null;
        }
        break;
    }
  }

  async #askBox(): Promise<void> {
    this.#asked += 1;
    const mine = this.#asked;
    let event: Event;
    try {
      const { url, video } = await this.#around.box.publish(this.stream);
      event = { kind: "box", url, video: video ?? this.#state.video ?? DEFAULT_VIDEO };
    } catch (error) {
      event = { kind: "box_failed", reason: reasonOf(error) };
    }
    if (mine === this.#asked) {
      this.#happened(event);
    } else if (event.kind === "box" && !wanted(this.#state)) {
      // It was made while nobody wanted it any more.
      this.#around.box.release(this.stream);
    }
  }

  async #start(url: string, video: Video): Promise<void> {
    const glasses = this.#glasses;
    try {
      if (!glasses) {
        throw new Error("there is no session");
      }
      await glasses.startStream(url, video);
    } catch (error) {
      this.#happened({ kind: "send_failed", reason: `the cloud could not be asked: ${reasonOf(error)}` });
    }
  }

  async #askAdvice(): Promise<void> {
    const told = await this.#around.box.health(this.stream).catch(() => null);
    if (!wanted(this.#state) || told === null) {
      return;
    }
    this.#health = told.health;
    if (told.video) {
      this.#happened({ kind: "advice", video: told.video });
    }
    this.#around.changed(this);
  }

  #wind(): void {
    if (this.#timer) {
      clearTimeout(this.#timer);
      this.#timer = null;
    }
    if (this.#state.deadline !== null) {
      const left = Math.max(0, this.#state.deadline - Date.now());
      this.#timer = setTimeout(() => { this.#happened({ kind: "tick" }); }, left + 1);
    }
  }

  #clear(): void {
    if (this.#timer) {
      clearTimeout(this.#timer);
    }
    if (this.#advice) {
      clearInterval(this.#advice);
    }
    if (this.#away) {
      clearTimeout(this.#away);
    }
    this.#away = null;
    this.#timer = null;
    this.#advice = null;
  }

  /** MentraOS' own settings of the app; of other apps' names and wrong values the page tells. */
  #useConsole(values: Readonly<Record<string, unknown>>): void {
    const { change, problems } = judge(values);
    this.#console = change;
    this.#problems = problems.map((problem) => `in the MentraOS app: ${problem}`);
    this.#settings = layered(change, this.#chosen);
    this.#around.changed(this);
  }

  #seen(sightings: readonly Sighting[]): void {
    const { memory, tell } = decide(this.#memory, sightings, this.#settings, Date.now());
    this.#memory = memory;
    if (tell.length > 0 && this.#glasses) {
      this.#tell(this.#glasses, sentence(tell, this.#settings));
    }
  }

  #tell(glasses: Glasses, text: string): void {
    const { abilities } = glasses;
    const { speech, text: shown, led } = this.#settings;
    this.#told = { text, at: Date.now() };
    this.#said += 1;
    try {
      if (shown && abilities.display) {
        glasses.show(text);
      }
      if (led && abilities.led) {
        glasses.blink();
      }
    } catch (error) {
      this.#dropped += 1;
      this.#around.log.info("the glasses could not be told", { stream: this.stream, reason: reasonOf(error) });
    }
    if (speech && abilities.speaker) {
      void this.#speak(text);
    }
    this.#around.changed(this);
  }

  /** One sentence at a time; of those that come meanwhile the newest is spoken after it. */
  async #speak(text: string): Promise<void> {
    if (this.#speaking) {
      this.#dropped += this.#next === null ? 0 : 1;
      this.#next = text;
      return;
    }
    this.#speaking = true;
    let next: string | null = text;
    while (next !== null && this.#glasses) {
      try {
        await this.#glasses.speak(next);
      } catch (error) {
        this.#dropped += 1;
        this.#around.log.info("the glasses could not be told", { stream: this.stream, reason: reasonOf(error) });
      }
      next = this.#next;
      this.#next = null;
    }
    this.#speaking = false;
  }
}
