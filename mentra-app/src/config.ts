// The environment as typed settings of the app; whatever is missing or wrong is named with its remedy, all of it at once.

import { createHmac } from "node:crypto";

export interface Config {
  readonly packageName: string;
  readonly apiKey: string;
  readonly port: number;
  /** 0: no door for status. */
  readonly ssePort: number;
  readonly sseHost: string;
  /** Opens the status from other machines; empty: nobody but this machine. */
  readonly statusToken: string;
  /** A fixed address to stream to, in place of one that the box makes; "{user}" in it becomes the stream's name. */
  readonly streamUrl: string | null;
  /** null: found by mDNS. */
  readonly boxUrl: URL | null;
  readonly boxToken: string | null;
  /** First part of the path of every webhook. */
  readonly webhookKey: string;
  /** Where the API key may be sent. "*.name" stands for all below it; a "ws://" before it allows it in plain. */
  readonly cloudHosts: readonly string[];
  readonly dataDir: string;
  readonly maxWearers: number;
}

export class ConfigError extends Error {
  readonly problems: readonly string[];

  constructor(problems: readonly string[]) {
    super(problems.join("\n"));
    this.problems = problems;
  }
}

const CLOUD = "*.mentra.glass,*.mentraglass.com,*.augmentos.cloud,*.augmentos.org";

export function readConfig(env: Readonly<Record<string, string | undefined>>): Config {
  const problems: string[] = [];
  const value = (name: string): string => (env[name] ?? "").trim();
  const must = (name: string, remedy: string): string => {
    if (value(name) === "") {
      problems.push(`${name} is not set: ${remedy}`);
    }
    return value(name);
  };
  const whole = (name: string, otherwise: number, low: number, high: number): number => {
    const text = value(name);
    const n = text === "" ? otherwise : Number(text);
    if (!Number.isInteger(n) || n < low || n > high) {
      problems.push(`${name} is ${JSON.stringify(text)}: give a whole number from ${low} to ${high}`);
    }
    return n;
  };
  const url = (name: string, schemes: readonly string[]): URL | null => {
    const text = value(name);
    if (text === "") {
      return null;
    }
    const parsed = parseUrl(text);
    if (parsed && schemes.includes(parsed.protocol)) {
      return parsed;
    }
    // The value may hold a token: it is not repeated.
    problems.push(`${name} is not a URL: give one that begins with ${schemes.map((s) => `${s}//`).join(" or ")}`);
    return null;
  };

  const packageName = must("PACKAGE_NAME", "give the app's package name as in the MentraOS console");
  const apiKey = must("MENTRAOS_API_KEY", "give the app's API key from the MentraOS console");
  const streamUrl = value("STREAM_URL");
  if (streamUrl !== "" && !/^(rtmps?|srt|https?):\/\/[^/\s]+\/\S+$/.test(streamUrl)) {
    problems.push("STREAM_URL is not a stream's URL: give one like rtmp://host:1935/live/stream?token=..., or leave it out");
  }
  const boxUrl = url("BOX_URL", ["http:", "https:"]);
  const webhookKey = value("WEBHOOK_KEY") || derivedKey(apiKey);
  if (!/^[A-Za-z0-9_-]{16,128}$/.test(webhookKey)) {
    problems.push("WEBHOOK_KEY is not usable: give 16 to 128 letters, digits, - or _, or leave it out");
  }
  const sseHost = value("SSE_HOST") || "127.0.0.1";
  const statusToken = value("STATUS_TOKEN");
  if (!["127.0.0.1", "::1", "localhost"].includes(sseHost) && statusToken === "") {
    problems.push("SSE_HOST opens the status to other machines: give a STATUS_TOKEN that they must show");
  }
  const config: Config = {
    packageName,
    apiKey,
    port: whole("PORT", 3000, 0, 65_535),
    ssePort: whole("SSE_PORT", 0, 0, 65_535),
    sseHost,
    statusToken,
    streamUrl: streamUrl === "" ? null : streamUrl,
    boxUrl,
    boxToken: value("BOX_TOKEN") || null,
    webhookKey,
    cloudHosts: (value("CLOUD_HOSTS") || CLOUD).split(",").map((h) => h.trim()).filter((h) => h !== ""),
    dataDir: value("DATA_DIR") || "data",
    maxWearers: whole("MAX_WEARERS", 16, 1, 1000),
  };
  if (problems.length > 0) {
    throw new ConfigError(problems);
  }
  return config;
}

export function parseUrl(text: string): URL | null {
  try {
    return new URL(text);
  } catch {
    return null;
  }
}

/** The same at every start, and no way back to the API key. */
function derivedKey(apiKey: string): string {
  return createHmac("sha256", apiKey).update("spotter webhook").digest("base64url").slice(0, 24);
}
