// Follows one stream on the box's WebSocket and comes back whenever it is cut: its pictures, and the animals in them. What
// they mean is for others to say.

import WebSocket from "ws";

import { reasonOf, type Log } from "../log.js";
import type { Pictures } from "../stream/machine.js";
import type { Sighting } from "../tell/decide.js";

export interface WatchEvents {
  pictures(pictures: Pictures): void;
  seen(sightings: readonly Sighting[]): void;
}

type Where = () => Promise<{ url: string; token: string | null }>;

const FIRST_PAUSE_MS = 500;
const LAST_PAUSE_MS = 15_000;
const OPEN_MS = 8_000;
/** A line on which nothing was heard for so long is asked; after as long again it is cut. */
const SILENCE_MS = 15_000;
const MAX_MESSAGE = 1 << 20;
/** The streams that there are come at once; one that is not among them by then is not there. */
const FIRST_WORD_MS = 1_000;

export class Watch {
  readonly #where: Where;
  readonly #stream: string;
  readonly #events: WatchEvents;
  readonly #log: Log;
  #socket: WebSocket | null = null;
  #timer: NodeJS.Timeout | null = null;
  #failures = 0;
  #closed = false;
  #heardOf = false;

  constructor(where: Where, stream: string, events: WatchEvents, log: Log) {
    this.#where = where;
    this.#stream = stream;
    this.#events = events;
    this.#log = log;
    void this.#connect();
  }

  close(): void {
    this.#closed = true;
    if (this.#timer) {
      clearTimeout(this.#timer);
    }
    this.#socket?.terminate();
  }

  async #connect(): Promise<void> {
    let socket: WebSocket;
    try {
      const { url, token } = await this.#where();
      if (this.#closed) {
        return;
      }
      const headers = token === null ? {} : { authorization: `Bearer ${token}` };
      socket = new WebSocket(url, { headers, handshakeTimeout: OPEN_MS, maxPayload: MAX_MESSAGE });
    } catch (error) {
      this.#again(reasonOf(error));
      return;
    }
    this.#socket = socket;
    let failure = "the box closed the connection";
    let heard = Date.now();
    let firstWord: NodeJS.Timeout | undefined;
    const alive = (): void => {
      heard = Date.now();
    };
    const watchdog = setInterval(() => {
      const silent = Date.now() - heard;
      if (silent >= 2 * SILENCE_MS) {
        failure = "the box fell silent";
        socket.terminate();
      } else if (silent >= SILENCE_MS && socket.readyState === WebSocket.OPEN) {
        socket.ping();
      }
    }, SILENCE_MS / 3);
    socket.on("open", () => {
      this.#failures = 0;
      alive();
      this.#heardOf = false;
      firstWord = setTimeout(() => {
        if (!this.#heardOf && !this.#closed) {
          this.#events.pictures("none");
        }
      }, FIRST_WORD_MS);
    });
    socket.on("pong", alive);
    socket.on("ping", alive);
    socket.on("message", (data, isBinary) => {
      alive();
      if (!isBinary && !this.#closed) {
        this.#understand((data as Buffer).toString("utf8"));
      }
    });
    socket.on("error", (error) => {
      failure = reasonOf(error);
    });
    socket.on("close", () => {
      clearInterval(watchdog);
      clearTimeout(firstWord);
      this.#socket = null;
      this.#again(failure);
    });
  }

  #again(reason: string): void {
    if (this.#closed) {
      return;
    }
    if (this.#failures === 0) {
      this.#log.warn("cannot follow the stream at the box; trying on", { stream: this.#stream, reason });
    }
    this.#events.pictures("unknown");
    const pause = Math.min(FIRST_PAUSE_MS * 2 ** this.#failures, LAST_PAUSE_MS) * (0.75 + 0.5 * Math.random());
    this.#failures += 1;
    this.#timer = setTimeout(() => void this.#connect(), pause);
  }

  #understand(text: string): void {
    let message: unknown;
    try {
      message = JSON.parse(text);
    } catch {
      return;
    }
    const told = message as { type?: unknown; stream?: unknown; status?: unknown; detections?: unknown } | null;
    if (told?.stream !== this.#stream) {
      return;
    }
    if (told.type === "stream") {
      const pictures = PICTURES.get(told.status);
      if (pictures) {
        this.#heardOf = true;
        this.#events.pictures(pictures);
      }
    } else if (told.type === "detections" && Array.isArray(told.detections)) {
      this.#events.seen((told.detections as unknown[]).flatMap(sighting));
    }
  }
}

const PICTURES = new Map<unknown, Pictures>([
  ["online", "online"],
  ["waiting", "waiting"],
  ["offline", "none"],
]);

function sighting(one: unknown): Sighting[] {
  const { label, track_id: track, confidence } = (one ?? {}) as Record<string, unknown>;
  return typeof label === "string" && typeof confidence === "number"
    ? [{ label, track: typeof track === "number" ? track : null, confidence }]
    : [];
}
