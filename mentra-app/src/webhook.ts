// Whether a webhook is one of MentraOS' cloud. The cloud signs nothing, and the SDK would hand the API key to whatever
// WebSocket a webhook names: so the path must hold our key, and the WebSocket must be the cloud's. Pure.

import { createHmac, timingSafeEqual } from "node:crypto";

import { parseUrl } from "./config.js";

export interface Refusal {
  readonly status: number;
  readonly reason: string;
}

/** Compared without telling by the time taken how much of it was right. */
export function sameSecret(given: string, expected: string): boolean {
  const digest = (text: string): Buffer => createHmac("sha256", "compare").update(text).digest();
  return timingSafeEqual(digest(given), digest(expected));
}

const MAX_NAME = 320;

/** null: it may pass. */
export function judgeWebhook(body: unknown, cloudHosts: readonly string[]): Refusal | null {
  if (typeof body !== "object" || body === null || Array.isArray(body)) {
    return { status: 400, reason: "a webhook is a JSON object" };
  }
  const hook = body as Record<string, unknown>;
  for (const name of ["sessionId", "userId"]) {
    const value = hook[name];
    if (typeof value !== "string" || value === "" || value.length > MAX_NAME) {
      return { status: 400, reason: `a webhook needs a ${name}` };
    }
  }
  if (hook["type"] === "stop_request") {
    return null;
  }
  if (hook["type"] !== "session_request") {
    return { status: 400, reason: "a webhook is a session_request or a stop_request" };
  }
  const urls = [hook["mentraOSWebsocketUrl"], hook["augmentOSWebsocketUrl"]].filter((u) => u !== undefined && u !== null);
  if (urls.length === 0) {
    return { status: 400, reason: "a session_request needs a mentraOSWebsocketUrl" };
  }
  const strange = urls.find((url) => typeof url !== "string" || !isCloud(url, cloudHosts));
  return strange === undefined
    ? null
    : { status: 403, reason: "the session's WebSocket is not the MentraOS cloud's: see CLOUD_HOSTS if it is yours" };
}

/** A host pattern means wss; "ws://host" allows that host without TLS. */
export function isCloud(text: string, cloudHosts: readonly string[]): boolean {
  const url = parseUrl(text);
  if (url === null || url.username !== "" || url.password !== "") {
    return false;
  }
  return cloudHosts.some((pattern) => {
    const plain = pattern.startsWith("ws://");
    if (url.protocol !== (plain ? "ws:" : "wss:")) {
      return false;
    }
    const host = pattern.replace(/^wss?:\/\//, "").toLowerCase();
    return host.startsWith("*.") ? url.hostname.endsWith(host.slice(1)) : url.hostname === host || url.host === host;
  });
}

/** The SDK's session cookie, `user|time|signature`. It logs what it had expected of a wrong one: such never reach it. */
export function isOwnCookie(value: string, secret: string): boolean {
  const [user = "", time = "", signature = "", more] = value.split("|");
  const expected = createHmac("sha256", secret).update(`${user}|${time}`).digest("hex");
  return more === undefined && user !== "" && sameSecret(signature, expected);
}
