// Puts the app together and takes it apart: the only file that knows every part.

import { createHash, createHmac } from "node:crypto";
import type { Server } from "node:http";
import { join } from "node:path";

import { FixedUrl, HttpBox, type Box } from "./box/box.js";
import { ByMdns, Configured, type Finder } from "./box/find.js";
import { parseUrl, type Config } from "./config.js";
import { door, listen } from "./door.js";
import { GlassesServer } from "./glasses.js";
import { reasonOf, type Log } from "./log.js";
import { mountPage } from "./page.js";
import { SettingsStore } from "./settings.js";
import { statusDoor } from "./status.js";
import { POLICY, type Policy } from "./stream/machine.js";
import { Wearers } from "./wearers.js";

export interface App {
  readonly port: number;
  /** null: no door for status. */
  readonly ssePort: number | null;
  readonly wearers: Wearers;
  /** Ends every stream, takes every URL back, closes every door. */
  close(): Promise<void>;
}

export interface Tuning {
  readonly policy?: Partial<Policy>;
  readonly adviceEveryMs?: number;
  readonly desertedMs?: number;
}

const RELEASE_GRACE_MS = 5_000;
const ADVICE_EVERY_MS = 10_000;
const DESERTED_MS = 60_000;
const LEFT_OVER_AGAIN_MS = 30_000;

export async function startApp(config: Config, log: Log, tuning: Tuning = {}): Promise<App> {
  const store = await SettingsStore.open(join(config.dataDir, "settings.json"));
  const { box, made } = boxOf(config, log);
  // One address takes one stream.
  const shared = config.streamUrl !== null && !config.streamUrl.includes("{user}");
  const wearers = new Wearers(shared ? 1 : config.maxWearers, store, {
    box,
    log,
    policy: { ...POLICY, ...tuning.policy },
    adviceEveryMs: tuning.adviceEveryMs ?? ADVICE_EVERY_MS,
    desertedMs: tuning.desertedMs ?? DESERTED_MS,
  });
  const cookieSecret = createHmac("sha256", config.apiKey).update("spotter cookie").digest("base64url");
  const { packageName, apiKey, webhookKey, cloudHosts } = config;
  const server = new GlassesServer({ packageName, apiKey, cookieSecret }, wearers, log);
  mountPage(server.routes, wearers, store, box);
  const main = door({ webhookKey, cloudHosts, cookieSecret, log }, server.routes);
  const port = await listen(main, config.port);
  const status = config.ssePort === 0 ? null : statusDoor(wearers, config.statusToken);
  const ssePort = status === null ? null : await listen(status, config.ssePort, config.sseHost);
  const leftOver = made === null ? null : takeBackLeftOver(made, wearers, log);
  return {
    port,
    ssePort,
    wearers,
    close: async () => {
      leftOver?.();
      wearers.endAll("the app ends");
      await server.quit();
      await made?.close(RELEASE_GRACE_MS);
      await shut(main);
      if (status !== null) {
        await shut(status);
      }
    },
  };
}

/** What an earlier run left at the box, as soon as the box is there. Ended by calling what it returns. */
function takeBackLeftOver(box: HttpBox, wearers: Wearers, log: Log): () => void {
  let timer: NodeJS.Timeout | undefined;
  let tried = false;
  let over = false;
  const look = async (): Promise<void> => {
    try {
      await box.releaseLeftOver((stream) => wearers.has(stream));
    } catch (error) {
      if (!tried) {
        log.warn("the box cannot be asked what an earlier run left there; trying on", { reason: reasonOf(error) });
      }
      tried = true;
      if (!over) {
        timer = setTimeout(() => void look(), LEFT_OVER_AGAIN_MS);
      }
    }
  };
  void look();
  return () => {
    over = true;
    clearTimeout(timer);
  };
}

/** The box, and the one that publish URLs are made at: none with an address that is given. */
function boxOf(config: Config, log: Log): { box: Box; made: HttpBox | null } {
  const given = config.streamUrl === null ? null : parseUrl(config.streamUrl);
  // The box behind a given address is the same machine, unless it is named.
  const token = config.boxToken ?? given?.searchParams.get("token") ?? null;
  const guessed = given === null ? null : parseUrl(`http://${given.hostname}:8080/`);
  const at = config.boxUrl ?? guessed;
  const finder: Finder = at === null ? new ByMdns() : new Configured(at);
  const tag = createHash("sha256").update(config.packageName).digest("hex").slice(0, 6);
  const made = new HttpBox(finder, token, `mentra-${tag}-`, log);
  return config.streamUrl === null ? { box: made, made } : { box: new FixedUrl(config.streamUrl, made), made: null };
}

function shut(server: Server): Promise<void> {
  return new Promise((resolve) => {
    server.close(() => { resolve(); });
    server.closeAllConnections();
  });
}
