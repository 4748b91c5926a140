// The box as the app needs it: publish URLs made and given back for certain, its advice, its pictures, and what it sees of
// a stream. It decides nothing about streams.

import { reasonOf, type Log } from "../log.js";
import type { Video } from "../stream/machine.js";
import type { Finder, Place } from "./find.js";
import { Watch, type WatchEvents } from "./watch.js";

/** A place to publish to. */
export interface Publisher {
  readonly url: string;
  /** What the box advises to send; null: it gives no advice. */
  readonly video: Video | null;
}

/** A publisher as the box describes it, for the page. */
export type Health = Readonly<Record<string, unknown>>;

export interface Box {
  publish(stream: string): Promise<Publisher>;
  /** Takes the publish URL back; tried again until the box did it. Returns at once. */
  release(stream: string): void;
  /** What the box says of the stream now; null where it says nothing of it. */
  health(stream: string): Promise<{ readonly health: Health; readonly video: Video | null } | null>;
  /** Its live picture, or the newest one. */
  picture(stream: string, kind: "mjpeg" | "snapshot.jpg", signal: AbortSignal): Promise<Response>;
  /** Ended by calling what it returns. */
  watch(stream: string, events: WatchEvents): () => void;
}

const PATIENCE_MS = 8_000;
const RELEASE_AGAIN_MS = [1_000, 5_000, 15_000, 60_000] as const;
/** Streams whose URL is still to be taken back; more are not kept. */
const MAX_RELEASES = 1_000;
/** Longest answer that is read. */
const MAX_ANSWER = 1 << 20;

export class BoxError extends Error {
  readonly code: string;

  constructor(code: string, message: string) {
    super(message);
    this.code = code;
  }
}

export class HttpBox implements Box {
  readonly #finder: Finder;
  readonly #token: string | null;
  readonly #prefix: string;
  readonly #log: Log;
  #place: Promise<Place> | null = null;
  readonly #releases = new Map<string, NodeJS.Timeout | null>();
  /** What is done with one publisher is done one after the other. */
  readonly #turns = new Map<string, Promise<unknown>>();
  #closed = false;

  /** `prefix` tells the publishers of this app from others at the box. */
  constructor(finder: Finder, token: string | null, prefix: string, log: Log) {
    this.#finder = finder;
    this.#token = token;
    this.#prefix = prefix;
    this.#log = log;
  }

  async publish(stream: string): Promise<Publisher> {
    this.#forgetRelease(stream);
    return this.#inTurn(stream, async () => {
      const body = JSON.stringify({ id: this.#id(stream), stream });
      const make = (): Promise<unknown> => this.#json("POST", "api/v1/publishers", body);
      let made: unknown;
      try {
        made = await make();
      } catch (error) {
        if (!(error instanceof BoxError) || error.code !== "name_taken") {
          throw error;
        }
        // Of a session that this app did not see end.
        await this.#json("DELETE", this.#path(stream));
        made = await make();
      }
      const url = (made as { url?: unknown }).url;
      if (typeof url !== "string" || !/^\w+:\/\/\S+$/.test(url)) {
        throw new BoxError("bad_answer", "the box gave no publish URL: update the box");
      }
      return { url, video: videoOf(made) };
    });
  }

  release(stream: string): void {
    if (this.#releases.has(stream)) {
      return;
    }
    if (this.#releases.size >= MAX_RELEASES) {
      this.#log.warn("too many publish URLs wait to be taken back", { stream });
      return;
    }
    this.#releases.set(stream, null);
    void this.#release(stream, 0);
  }

  /** Takes back what an earlier run of this app left at the box. */
  async releaseLeftOver(inUse: (stream: string) => boolean): Promise<void> {
    const answer = (await this.#json("GET", "api/v1/publishers")) as { publishers?: unknown };
    const all = Array.isArray(answer.publishers) ? (answer.publishers as unknown[]) : [];
    for (const one of all) {
      const id = (one as { id?: unknown } | null)?.id;
      if (typeof id === "string" && id.startsWith(this.#prefix)) {
        const stream = id.slice(this.#prefix.length);
        if (!inUse(stream)) {
          this.release(stream);
        }
      }
    }
  }

  async health(stream: string): Promise<{ readonly health: Health; readonly video: Video | null } | null> {
    try {
      const answer = await this.#json("GET", this.#path(stream));
      return { health: answer as Health, video: videoOf(answer) };
    } catch (error) {
      if (error instanceof BoxError && error.code.startsWith("no_")) {
        return null;
      }
      throw error;
    }
  }

  async picture(stream: string, kind: "mjpeg" | "snapshot.jpg", signal: AbortSignal): Promise<Response> {
    return this.#ask("GET", `api/v1/streams/${encodeURIComponent(stream)}/${kind}?boxes=1`, undefined, signal);
  }

  watch(stream: string, events: WatchEvents): () => void {
    const where = async (): Promise<{ url: string; token: string | null }> => {
      const place = await this.#find();
      const scheme = place.web.protocol === "https:" ? "wss" : "ws";
      const port = place.wsPort ?? (await this.#wsPort());
      const url = `${scheme}://${place.web.hostname}:${port}/live?stream=${encodeURIComponent(stream)}`;
      return { url, token: this.#token };
    };
    const watch = new Watch(where, stream, events, this.#log);
    return () => { watch.close(); };
  }

  /** Waits a moment for what is to be taken back; what is left then is left to the box. */
  async close(graceMs: number): Promise<void> {
    const until = Date.now() + graceMs;
    while (this.#releases.size > 0 && Date.now() < until) {
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
    this.#closed = true;
    for (const [stream, timer] of this.#releases) {
      if (timer !== null) {
        clearTimeout(timer);
      }
      this.#log.warn("the box was not there to take a publish URL back: run spotter token revoke there", {
        token: this.#id(stream),
      });
    }
  }

  async #release(stream: string, tries: number): Promise<void> {
    let failure: string | null = null;
    try {
      await this.#inTurn(stream, () => this.#json("DELETE", this.#path(stream)));
    } catch (error) {
      failure = error instanceof BoxError && error.code.startsWith("no_") ? null : reasonOf(error);
    }
    // Meanwhile it may have been wanted again.
    if (!this.#releases.has(stream) || this.#closed) {
      return;
    }
    if (failure === null) {
      this.#releases.delete(stream);
      return;
    }
    const pause = RELEASE_AGAIN_MS[Math.min(tries, RELEASE_AGAIN_MS.length - 1)];
    if (tries === 0) {
      this.#log.warn("the box did not take a publish URL back; trying on", { stream, reason: failure });
    }
    this.#releases.set(stream, setTimeout(() => void this.#release(stream, tries + 1), pause));
  }

  #forgetRelease(stream: string): void {
    const timer = this.#releases.get(stream);
    if (timer) {
      clearTimeout(timer);
    }
    this.#releases.delete(stream);
  }

  #inTurn<T>(stream: string, work: () => Promise<T>): Promise<T> {
    const before = this.#turns.get(stream) ?? Promise.resolve();
    const mine = before.catch(() => undefined).then(work);
    this.#turns.set(stream, mine);
    const clean = (): void => {
      if (this.#turns.get(stream) === mine) {
        this.#turns.delete(stream);
      }
    };
    mine.then(clean, clean);
    return mine;
  }

  #id(stream: string): string {
    return this.#prefix + stream;
  }

  #path(stream: string): string {
    return `api/v1/publishers/${encodeURIComponent(this.#id(stream))}`;
  }

  #find(): Promise<Place> {
    this.#place ??= this.#finder.find().catch((error: unknown) => {
      this.#place = null;
      throw error;
    });
    return this.#place;
  }

  async #wsPort(): Promise<number> {
    const status = (await this.#json("GET", "api/v1/status")) as { addresses?: { websocket?: unknown } };
    const at = status.addresses?.websocket;
    const port = typeof at === "string" ? /:(\d+)$/.exec(at)?.[1] : undefined;
    if (port === undefined) {
      throw new BoxError("no_websocket", "the box has no WebSocket door: set websocket.enabled = true there");
    }
    return Number(port);
  }

  async #json(method: string, path: string, body?: string): Promise<unknown> {
    const response = await this.#ask(method, path, body, AbortSignal.timeout(PATIENCE_MS));
    if (response.status === 204) {
      return null;
    }
    const text = await response.text();
    try {
      return text.length > MAX_ANSWER ? null : (JSON.parse(text) as unknown);
    } catch {
      throw new BoxError("bad_answer", "what answers there is no box: see BOX_URL");
    }
  }

  async #ask(method: string, path: string, body: string | undefined, signal: AbortSignal): Promise<Response> {
    const place = await this.#find();
    const headers: Record<string, string> = {};
    if (this.#token !== null) {
      headers["authorization"] = `Bearer ${this.#token}`;
    }
    if (body !== undefined) {
      headers["content-type"] = "application/json";
    }
    let response: Response;
    try {
      response = await fetch(new URL(path, place.web), { method, headers, signal, redirect: "error", ...(body === undefined ? {} : { body }) });
    } catch (error) {
      if (!(error instanceof Error && error.name === "AbortError")) {
        // It may have moved: it is looked for again.
        this.#place = null;
      }
      throw new BoxError("away", `the box is away: ${reasonOf(error)}`);
    }
    if (!response.ok) {
      throw await refusal(response);
    }
    return response;
  }
}

async function refusal(response: Response): Promise<BoxError> {
  const text = await response.text().catch(() => "");
  try {
    const { error } = JSON.parse(text) as { error: { code: unknown; message: unknown } };
    const hint = response.status === 401 || response.status === 403 ? " (set BOX_TOKEN to the box's owner token)" : "";
    return new BoxError(String(error.code), `the box refuses: ${String(error.message).slice(0, 300)}${hint}`);
  } catch {
    return new BoxError("bad_answer", `the box answers ${response.status}`);
  }
}

/** The box's advice in an answer, if it is usable. */
export function videoOf(answer: unknown): Video | null {
  const advice = (answer as { advice?: unknown } | null)?.advice;
  if (typeof advice !== "object" || advice === null) {
    return null;
  }
  const { width, height, bitrate_bps: bitrateBps, fps } = advice as Record<string, unknown>;
  const fits = (n: unknown, low: number, high: number): n is number => typeof n === "number" && n >= low && n <= high;
  return fits(width, 16, 8192) && fits(height, 16, 8192) && fits(bitrateBps, 10_000, 1e8) && fits(fps, 1, 120)
    ? { width, height, bitrateBps, fps }
    : null;
}

/** A given address to stream to, with what a box of it tells if there is one; nothing is made or taken back. */
export class FixedUrl implements Box {
  readonly #url: string;
  readonly #box: Box | null;

  constructor(url: string, box: Box | null) {
    this.#url = url;
    this.#box = box;
  }

  publish(stream: string): Promise<Publisher> {
    return Promise.resolve({ url: this.#at(stream), video: null });
  }

  release(): void {
    // The address stays what it is.
  }

  async health(): Promise<null> {
    return Promise.resolve(null);
  }

  async picture(stream: string, kind: "mjpeg" | "snapshot.jpg", signal: AbortSignal): Promise<Response> {
    if (this.#box === null) {
      throw new BoxError("no_box", "there is no box to ask for pictures: set BOX_URL");
    }
    return this.#box.picture(this.#name(stream), kind, signal);
  }

  watch(stream: string, events: WatchEvents): () => void {
    if (this.#box === null) {
      events.pictures("unwatched");
      return () => undefined;
    }
    return this.#box.watch(this.#name(stream), events);
  }

  #at(stream: string): string {
    return this.#url.replaceAll("{user}", stream);
  }

  /** As the box calls it: the last part of the path. */
  #name(stream: string): string {
    return /([^/?]+)\/?(?:\?.*)?$/.exec(this.#at(stream))?.[1] ?? stream;
  }
}
