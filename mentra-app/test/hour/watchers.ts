// Three who look at the box from outside, each attached as long as the hour lasts: a viewer of live video (HTTP-FLV, which
// is what RTMP readers get), a subscriber of detections (WebSocket), and one who reads what is recorded off the disk.

import { open, readdir } from "node:fs/promises";
import { join } from "node:path";

import WebSocket from "ws";

import { sleep } from "../support/until.js";
import { MARK_BYTES, marksIn, type Mark } from "./marks.js";
import type { Detected, Recorded, Seen } from "./report.js";

const AGAIN_MS = 200;

export interface Watched {
  readonly seen: Seen[];
  readonly detected: Detected[];
  readonly recorded: Recorded[];
  stop(): void;
}

export interface Where {
  readonly host: string;
  readonly stream: string;
  readonly token: string;
  readonly recordings: string;
}

export function watch(where: Where): Watched {
  const watched = { seen: [] as Seen[], detected: [] as Detected[], recorded: [] as Recorded[] };
  const over = new AbortController();
  void view(where, watched.seen, over.signal);
  void subscribe(where, watched.detected, over.signal);
  void readDisk(where, watched.recorded, over.signal);
  return { ...watched, stop: () => { over.abort(); } };
}

/** Attaches again whenever it is cut. */
async function view(where: Where, seen: Seen[], over: AbortSignal): Promise<void> {
  for (let reader = 0; !over.aborted; reader += 1) {
    try {
      const headers = { authorization: `Bearer ${where.token}` };
      const response = await fetch(`http://${where.host}:8080/flv/${where.stream}`, { headers, signal: over });
      if (response.ok && response.body) {
        const tags = new Tags();
        let before: Mark | null = null;
        let whole = false;
        for await (const part of response.body) {
          for (const { at, payload } of tags.take(Buffer.from(part as Uint8Array))) {
            const mark = marksIn(payload)[0];
            if (mark) {
              const key = payload[0] === 0x17;
              whole = key || (whole && before?.run === mark.run && before.n + 1 === mark.n);
              before = mark;
              seen.push({ ...mark, when: Date.now(), pts: at, reader, whole });
            }
          }
        }
      }
    } catch {
      // It is tried again.
    }
    await sleep(AGAIN_MS);
  }
}

/** The video tags of an FLV file that comes in parts (FLV 10.1, E.4). */
class Tags {
  #rest = Buffer.alloc(0);
  #begun = false;

  take(part: Buffer): { at: number; payload: Buffer }[] {
    this.#rest = Buffer.concat([this.#rest, part]);
    const found: { at: number; payload: Buffer }[] = [];
    let from = 0;
    if (!this.#begun && this.#rest.length >= 13) {
      this.#begun = true;
      from = 13;
    }
    while (this.#begun && this.#rest.length >= from + 11) {
      const length = this.#rest.readUIntBE(from + 1, 3);
      const end = from + 11 + length + 4;
      if (this.#rest.length < end) {
        break;
      }
      if (this.#rest[from] === 9) {
        const at = this.#rest.readUIntBE(from + 4, 3) + ((this.#rest[from + 7] ?? 0) << 24);
        found.push({ at, payload: this.#rest.subarray(from + 11, from + 11 + length) });
      }
      from = end;
    }
    this.#rest = this.#rest.subarray(from);
    return found;
  }
}

interface Message {
  readonly type: string;
  readonly pts_ms: number;
  readonly captured_at: string;
  readonly detections: readonly { readonly label: string; readonly confidence: number }[];
}

async function subscribe(where: Where, detected: Detected[], over: AbortSignal): Promise<void> {
  while (!over.aborted) {
    await new Promise<void>((resolve) => {
      const headers = { authorization: `Bearer ${where.token}` };
      const socket = new WebSocket(`ws://${where.host}:8765/live?stream=${where.stream}`, { headers });
      const end = (): void => { socket.terminate(); };
      over.addEventListener("abort", end);
      socket.on("error", () => undefined);
      socket.on("close", () => {
        over.removeEventListener("abort", end);
        resolve();
      });
      socket.on("message", (data) => {
        const message = JSON.parse((data as Buffer).toString("utf8")) as Message;
        if (message.type === "detections") {
          const labels = message.detections.map((d) => d.label);
          detected.push({ when: Date.now(), arrived: Date.parse(message.captured_at), pts: message.pts_ms, labels });
        }
      });
    });
    await sleep(AGAIN_MS);
  }
}

/** Follows every file under the recordings' folder as it grows. */
async function readDisk(where: Where, recorded: Recorded[], over: AbortSignal): Promise<void> {
  const read = new Map<string, number>();
  while (!over.aborted) {
    const files = await readdir(where.recordings, { recursive: true, withFileTypes: true }).catch(() => []);
    for (const file of files.filter((f) => f.isFile())) {
      const path = join(file.parentPath, file.name);
      const from = read.get(path) ?? 0;
      const bytes = await rest(path, from).catch(() => Buffer.alloc(0));
      if (bytes.length > MARK_BYTES) {
        // A mark that was not whole yet is met again: the last bytes are read twice, their marks counted once.
        const newest = recorded.at(-1);
        const news = marksIn(bytes).filter((m) => !newest || m.run > newest.run || (m.run === newest.run && m.n > newest.n));
        recorded.push(...news.map((mark) => ({ ...mark, when: Date.now() })));
        read.set(path, from + bytes.length - MARK_BYTES);
      }
    }
    await sleep(AGAIN_MS);
  }
}

async function rest(path: string, from: number): Promise<Buffer> {
  const file = await open(path);
  try {
    const { size } = await file.stat();
    const bytes = Buffer.alloc(Math.max(0, size - from));
    const { bytesRead } = await file.read(bytes, 0, bytes.length, from);
    return bytes.subarray(0, bytesRead);
  } finally {
    await file.close();
  }
}
