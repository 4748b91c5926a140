// The glasses twin (twin.py) as a process of this test: commands in, news out.

import { spawn, type ChildProcess } from "node:child_process";
import { join } from "node:path";
import { createInterface } from "node:readline";

import { ROOT } from "../support/spotter.js";

/** Debian's own Python: GStreamer's bindings are its packages. */
export const PYTHON = "/usr/bin/python3";
export const CLIP = join(ROOT, "demo/clip.mp4");
const PROGRAM = join(ROOT, "mentra-app/test/hour/twin.py");
/** Wider pictures are asked for, and cost more to encode than the machine of a test has to spare. */
const WIDEST = 640;

export interface TwinStatus {
  readonly status: string;
  readonly fps?: number;
  readonly bitrate?: number;
  readonly reason?: string | null;
}

export interface Counts {
  readonly counts: Readonly<Record<string, number>>;
  /** It has a connection, or is making one. */
  readonly publishing: boolean;
}

export class Twin {
  readonly #process: ChildProcess;
  #said = "";
  #counted: ((counts: Counts) => void)[] = [];

  /** `inside` puts the command where the glasses are. */
  constructor(inside: (...command: string[]) => [string, string[]], onStatus: (status: TwinStatus) => void) {
    const [program, args] = inside(PYTHON, PROGRAM, CLIP);
    this.#process = spawn(program, args, { stdio: ["pipe", "pipe", "pipe"] });
    this.#process.stderr?.on("data", (text: Buffer) => { this.#said += text.toString(); });
    // A pipe that is closed already.
    this.#process.stdin?.on("error", () => undefined);
    createInterface({ input: this.#process.stdout as NodeJS.ReadableStream }).on("line", (line) => {
      const news = JSON.parse(line) as TwinStatus | Counts;
      if ("counts" in news) {
        this.#counted.splice(0).forEach((told) => { told(news); });
      } else {
        onStatus(news);
      }
    });
  }

  start(url: string, video: { readonly width: number; readonly height: number; readonly bitrate: number }): void {
    const scale = Math.min(1, WIDEST / video.width);
    const even = (n: number): number => 2 * Math.round((n * scale) / 2);
    this.#do({ do: "start", url, width: even(video.width), height: even(video.height), bitrate: video.bitrate });
  }

  stop(): void {
    this.#do({ do: "stop" });
  }

  quirk(on: boolean): void {
    this.#do({ do: "quirk", on });
  }

  /** Its connection breaks. */
  break(): void {
    this.#do({ do: "break" });
  }

  count(): Promise<Counts> {
    return new Promise((resolve, reject) => {
      if (!this.running) {
        reject(new Error(`the twin is gone: ${this.#said.slice(-2_000)}`));
        return;
      }
      this.#counted.push(resolve);
      this.#do({ do: "count" });
    });
  }

  get running(): boolean {
    return this.#process.exitCode === null && this.#process.signalCode === null;
  }

  get said(): string {
    return this.#said;
  }

  quit(): void {
    this.#process.kill("SIGKILL");
  }

  #do(command: Readonly<Record<string, unknown>>): void {
    this.#process.stdin?.write(`${JSON.stringify(command)}\n`);
  }
}
