// The glasses' way to the box: a network of two machines with a radio link between them that can be made narrow, silent, or
// heard now and then. It makes Linux' network namespaces, and wants to be run in a namespace of its own (see
// scripts/wearers-hour.sh); nothing of it is left when that ends.

import { execFileSync } from "node:child_process";

import { sleep } from "../support/until.js";

export const BOX_HOST = "10.77.0.1";
const GLASSES_HOST = "10.77.0.2";
const INSIDE = ["ip", "netns", "exec", "glasses"] as const;
/** Wi-Fi at some distance, in kbit/s. */
export const GOOD = 8_000;

export class Link {
  readonly #cable = "radio";

  /** The box's end is here, the glasses' in the namespace "glasses". */
  static lay(): Link {
    const link = new Link();
    run("ip", "link", "set", "lo", "up");
    run("ip", "netns", "add", "glasses");
    // Its own address, or it would change with the cable's coming and going.
    run("ip", "link", "add", "air", "address", "02:00:00:00:00:01", "type", "bridge");
    run("ip", "address", "add", `${BOX_HOST}/24`, "dev", "air");
    run("ip", "link", "add", link.#cable, "type", "veth", "peer", "name", "wlan0", "netns", "glasses");
    run("ip", "link", "set", link.#cable, "master", "air", "up");
    run("ip", "link", "set", "air", "up");
    run("ip", "-n", "glasses", "address", "add", `${GLASSES_HOST}/24`, "dev", "wlan0");
    run("ip", "-n", "glasses", "link", "set", "wlan0", "up");
    run("ip", "-n", "glasses", "link", "set", "lo", "up");
    // A phone-like sender's buffers: with a server's megabytes of them no write would ever stall.
    run(...INSIDE, "sh", "-c", "echo 4096 65536 131072 >/proc/sys/net/ipv4/tcp_wmem");
    link.shape(GOOD);
    return link;
  }

  /** A program with its arguments, to be run on the glasses. */
  inside(...command: readonly string[]): [string, string[]] {
    const [first, ...rest] = [...INSIDE, ...command];
    return [first, rest];
  }

  /** Both ways so many kbit/s, with what waits for its turn kept for up to 400 ms: a token bucket. */
  shape(kbits: number): void {
    const bucket = ["tbf", "rate", `${kbits}kbit`, "burst", "16kb", "latency", "400ms"];
    run("tc", "-n", "glasses", "qdisc", "replace", "dev", "wlan0", "root", ...bucket);
    run("tc", "qdisc", "replace", "dev", this.#cable, "root", ...bucket);
  }

  /** What comes is dropped, both ways, and neither end is told: the bridge does not have the cable any more. */
  silent(): void {
    run("ip", "link", "set", this.#cable, "nomaster");
  }

  heard(): void {
    run("ip", "link", "set", this.#cable, "master", "air");
  }

  async silentFor(ms: number): Promise<void> {
    this.silent();
    await sleep(ms);
    this.heard();
  }

  /** Heard for a tenth of the time. */
  async dutyCycle(forMs: number): Promise<void> {
    const end = Date.now() + forMs;
    while (Date.now() < end) {
      this.heard();
      await sleep(200);
      await this.silentFor(1_800);
    }
  }
}

function run(program: string, ...args: readonly string[]): void {
  execFileSync(program, args, { stdio: ["ignore", "ignore", "pipe"] });
}
