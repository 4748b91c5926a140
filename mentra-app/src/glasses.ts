// The one file that touches the MentraOS SDK: sessions and their calls under our own names, whatever the SDK calls them
// this month, and its habits made harmless. It decides nothing about streams or telling.

import { AppServer, type AppSession, AppToCloudMessageType, logger as sdkLog } from "@mentra/sdk";
import type { Express, Request } from "express";

import { reasonOf, type Log } from "./log.js";
import type { Status, Video } from "./stream/machine.js";

export interface Abilities {
  readonly model: string | null;
  readonly speaker: boolean;
  readonly display: boolean;
  readonly led: boolean;
  readonly camera: boolean;
}

export interface GlassesEvents {
  status(status: Status, streamId: string | undefined, reason: string | undefined, fps: number | undefined): void;
  /** The cloud refused what was asked last, as far as it tells. */
  refused(reason: string, retry: boolean): void;
  cloud(up: boolean): void;
  settings(values: Readonly<Record<string, unknown>>): void;
  abilities(abilities: Abilities): void;
}

/** One session with one wearer's glasses. */
export interface Glasses {
  readonly sessionId: string;
  readonly userId: string;
  readonly abilities: Abilities;
  readonly settings: Readonly<Record<string, unknown>>;
  follow(events: GlassesEvents): void;
  startStream(url: string, video: Video): Promise<void>;
  /** Says so also when the SDK believes that nothing streams. */
  stopStream(): void;
  speak(text: string): Promise<void>;
  show(text: string): void;
  blink(): void;
  /** Hears nothing of this session from now on. */
  leave(): void;
}

/** What a session begins and ends. */
export interface Sessions {
  begin(glasses: Glasses): void;
  end(sessionId: string, userId: string, reason: string): void;
}

export interface ServerOptions {
  readonly packageName: string;
  readonly apiKey: string;
  readonly cookieSecret: string;
}

/** The glasses show a text for so long. */
const SHOWN_MS = 6_000;
/** A lost "stopped" must not keep the SDK from starting again: it is told so itself. */
const STOPPED = { type: "rtmp_stream_status", status: "stopped" } as const;

export class GlassesServer extends AppServer {
  readonly #sessions: Sessions;
  readonly #log: Log;
  readonly #present = new Map<string, AppSession>();

  constructor(options: ServerOptions, sessions: Sessions, log: Log) {
    // It logs every stream's URL, token and all, and every wearer's settings.
    sdkLog.level = "silent";
    const before = new Map(SIGNALS.map((s) => [s, process.listeners(s)] as const));
    super({ ...options, healthCheck: false, publicDir: false });
    this.#sessions = sessions;
    this.#log = log;
    // It would end the process before streams are ended and URLs taken back: main.ts does that in order.
    for (const [signal, known] of before) {
      process.listeners(signal).filter((l) => !known.includes(l)).forEach((l) => process.removeListener(signal, l));
    }
  }

  get routes(): Express {
    return this.getExpressApp();
  }

  protected override onSession(session: AppSession, sessionId: string, userId: string): Promise<void> {
    this.#present.set(sessionId, session);
    // The cloud waits for the answer: nothing is waited for here.
    this.#sessions.begin(new SdkGlasses(session, sessionId, userId, this.#log));
    return Promise.resolve();
  }

  protected override async onStop(sessionId: string, userId: string, reason: string): Promise<void> {
    // While the line to the cloud is still there. It is called up to three times for one end. That the SDK gave up, after
    // seven seconds, is none: the glasses stream on without the cloud, which starts the app anew when it is back.
    if (reason.startsWith(GIVEN_UP)) {
      this.#log.warn("the SDK gave the cloud up; the stream goes on for a while without it", { session: sessionId });
    } else {
      this.#sessions.end(sessionId, userId, reason);
    }
    this.#present.delete(sessionId);
    await super.onStop(sessionId, userId, reason);
  }

  /** Closes the lines to the cloud, which then starts the app anew when it is back. */
  async quit(): Promise<void> {
    await Promise.all([...this.#present.values()].map((session) => session.disconnect()));
    this.#present.clear();
  }
}

const GIVEN_UP = "Connection permanently lost";
const SIGNALS = ["SIGTERM", "SIGINT"] as const;

/** The wearer that a request of the web view comes from, as the SDK's middleware found out; null: nobody. */
export function wearerOf(request: Request): string | null {
  const { authUserId } = request as { authUserId?: unknown };
  return typeof authUserId === "string" && authUserId !== "" ? authUserId : null;
}

class SdkGlasses implements Glasses {
  readonly sessionId: string;
  readonly userId: string;
  readonly #session: AppSession;
  readonly #log: Log;
  #leave: (() => void)[] = [];
  #up = true;

  constructor(session: AppSession, sessionId: string, userId: string, log: Log) {
    this.#session = session;
    this.sessionId = sessionId;
    this.userId = userId;
    this.#log = log;
  }

  get abilities(): Abilities {
    return abilitiesOf(this.#session.capabilities);
  }

  get settings(): Readonly<Record<string, unknown>> {
    return valuesOf(this.#session.settings.getAll());
  }

  follow(events: GlassesEvents): void {
    const session = this.#session;
    this.#leave = [
      session.camera.onStreamStatus((message) => {
        const { status, streamId, errorDetails, stats } = message;
        if (STATUSES.has(status)) {
          events.status(status, streamId, errorDetails, stats?.fps);
        }
      }),
      session.events.onConnected((settings) => {
        this.#up = true;
        events.cloud(true);
        events.settings(valuesOf(settings));
        events.abilities(this.abilities);
      }),
      session.events.onDisconnected(() => {
        this.#up = false;
        events.cloud(false);
      }),
      session.events.onError((error) => {
        const reason = reasonOf(error);
        const refusal = REFUSALS.find(([pattern]) => pattern.test(reason));
        if (refusal) {
          events.refused(refusal[1], refusal[2]);
        } else {
          this.#log.info("the SDK reports an error", { session: this.sessionId, reason });
        }
      }),
      session.events.onSettingsUpdate((settings) => { events.settings(valuesOf(settings)); }),
      session.events.onCapabilitiesUpdate(() => { events.abilities(this.abilities); }),
    ];
  }

  async startStream(url: string, video: Video): Promise<void> {
    const { camera } = this.#session;
    if (camera.isCurrentlyStreaming()) {
      camera.updateStreamState(STOPPED);
    }
    const { width, height, bitrateBps: bitrate, fps: frameRate } = video;
    // Newer SDKs call it streamUrl.
    const options = { rtmpUrl: url, streamUrl: url, video: { width, height, bitrate, frameRate } };
    try {
      await camera.startStream(options);
    } catch (error) {
      throw error instanceof Error ? error : new Error(String(error));
    }
  }

  stopStream(): void {
    const { camera } = this.#session;
    try {
      if (camera.isCurrentlyStreaming()) {
        camera.stopStream().catch((error: unknown) => { this.#unsaid(error); });
      } else {
        this.#session.sendMessage({
          type: AppToCloudMessageType.RTMP_STREAM_STOP,
          packageName: this.#session.getPackageName(),
          sessionId: this.sessionId,
        });
      }
      camera.updateStreamState(STOPPED);
    } catch (error) {
      this.#unsaid(error);
    }
  }

  async speak(text: string): Promise<void> {
    try {
      await this.#session.audio.speak(text);
    } catch (error) {
      throw error instanceof Error ? error : new Error(String(error));
    }
  }

  show(text: string): void {
    this.#session.layouts.showTextWall(text, { durationMs: SHOWN_MS });
  }

  blink(): void {
    this.#session.led.blink("green", 300, 200, 3).catch((error: unknown) => {
      this.#log.info("the LED was not lit", { reason: reasonOf(error) });
    });
  }

  leave(): void {
    this.#leave.forEach((off) => { off(); });
    this.#leave = [];
    if (!this.#up) {
      // Nobody will come for it: its timers go with it.
      this.#session.disconnect().catch((error: unknown) => { this.#unsaid(error); });
    }
  }

  #unsaid(error: unknown): void {
    // The box's end of it, the URL taken back, does not need the cloud.
    this.#log.info("the cloud could not be told to end a stream", { session: this.sessionId, reason: reasonOf(error) });
  }
}

const STATUSES: ReadonlySet<string> = new Set<Status>([
  ...(["initializing", "connecting", "reconnecting", "streaming", "active", "stopping"] as const),
  ...(["stopped", "disconnected", "timeout", "reconnected", "reconnect_failed", "error"] as const),
]);

/** The cloud's refusals come as errors of the session with nothing but a text. */
const REFUSALS: readonly (readonly [RegExp, string, boolean])[] = [
  [/camera permission/i, "the app lacks the camera permission: add it in the MentraOS console", false],
  [/wi-?fi/i, "the glasses have no Wi-Fi: connect them in the MentraOS app", true],
  [/glasses.*not connected|not connected.*glasses/i, "the glasses are not connected to the phone", true],
  [/failed to start stream/i, "the cloud could not start the stream", true],
];

export function abilitiesOf(capabilities: unknown): Abilities {
  const told = (capabilities ?? {}) as Record<string, unknown>;
  const has = (name: string): boolean => told[name] === true;
  return {
    model: typeof told["modelName"] === "string" ? told["modelName"] : null,
    speaker: has("hasSpeaker"),
    display: has("hasDisplay"),
    led: has("hasLight"),
    // Glasses that tell nothing of themselves are asked all the same.
    camera: capabilities === null || capabilities === undefined || has("hasCamera"),
  };
}

function valuesOf(settings: unknown): Readonly<Record<string, unknown>> {
  if (!Array.isArray(settings)) {
    return {};
  }
  const pairs = (settings as unknown[]).flatMap((one): [string, unknown][] => {
    const { key, value } = (one ?? {}) as { key?: unknown; value?: unknown };
    return typeof key === "string" && value !== undefined && value !== null ? [[key, value]] : [];
  });
  return Object.fromEntries(pairs);
}
