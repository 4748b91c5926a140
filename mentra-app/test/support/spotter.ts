// A real spotter as a process of this test: its configuration written, itself started, killed and asked.

import assert from "node:assert/strict";
import { spawn, type ChildProcess } from "node:child_process";
import { mkdtemp, readFile, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

import { sleep } from "./until.js";

export const ROOT = fileURLToPath(new URL("../../../../", import.meta.url));
export const SPOTTER = process.env["SPOTTER_BIN"] ?? join(process.env["CARGO_TARGET_DIR"] ?? join(ROOT, "target"), "debug/spotter");
/** A busy machine takes long to start anything. */
export const PATIENCE_MS = 90_000;

export class Spotter {
  readonly dir: string;
  readonly #web: string;
  #process: ChildProcess | null = null;
  #said = "";

  private constructor(web: string, dir: string) {
    this.#web = web;
    this.dir = dir;
  }

  /** `web` is where its HTTP door is, as host and port; `config` says so too. */
  static async make(web: string, config: string): Promise<Spotter> {
    const dir = await mkdtemp(join(tmpdir(), "spotter-real-"));
    await writeFile(join(dir, "spotter.toml"), `node.state_dir = ${JSON.stringify(join(dir, "state"))}\n${config}`);
    return new Spotter(web, dir);
  }

  async up(): Promise<void> {
    const child = spawn(SPOTTER, ["run", "--config", join(this.dir, "spotter.toml")], { cwd: ROOT, stdio: ["ignore", "ignore", "pipe"] });
    this.#process = child;
    child.stderr.on("data", (text: Buffer) => { this.#said += text.toString(); });
    const end = Date.now() + PATIENCE_MS;
    for (;;) {
      const ready = await fetch(`http://${this.#web}/readyz`).then((r) => r.ok, () => false);
      if (ready) {
        return;
      }
      assert.equal(child.exitCode, null, this.#said);
      assert.ok(Date.now() < end, `spotter did not get ready\n${this.#said}`);
      await sleep(100);
    }
  }

  async down(signal: NodeJS.Signals = "SIGTERM"): Promise<void> {
    const child = this.#process;
    this.#process = null;
    if (child?.exitCode === null) {
      const gone = new Promise((resolve) => child.once("exit", resolve));
      child.kill(signal);
      await gone;
    }
  }

  async owner(): Promise<string> {
    const tokens = await readFile(join(this.dir, "state/tokens.toml"), "utf8");
    return /secret = "([^"]+)"/.exec(tokens)?.[1] ?? "";
  }

  async get(path: string): Promise<Record<string, unknown>> {
    const headers = { authorization: `Bearer ${await this.owner()}` };
    return (await fetch(`http://${this.#web}${path}`, { headers })).json() as Promise<Record<string, unknown>>;
  }

  get said(): string {
    return this.#said;
  }
}
