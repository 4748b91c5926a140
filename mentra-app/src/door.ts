// The app's one HTTP door: lets through to the SDK what is the cloud's, and to the page what is the wearer's; everything
// else that the SDK would answer to anyone stays closed.

import { createServer, type IncomingMessage, type RequestListener, type Server, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";

import type { Log } from "./log.js";
import { isOwnCookie, judgeWebhook, sameSecret } from "./webhook.js";

export interface DoorOptions {
  readonly webhookKey: string;
  readonly cloudHosts: readonly string[];
  readonly cookieSecret: string;
  readonly log: Log;
}

const MAX_BODY = 64 << 10;
const COOKIE = "aos_session";

export function door(options: DoorOptions, sdk: RequestListener): Server {
  const server = createServer({ headersTimeout: 10_000, requestTimeout: 30_000 }, (request, response) => {
    void admit(options, sdk, request, response);
  });
  server.maxConnections = 1_000;
  return server;
}

/** What the SDK's body parser sets, and takes as done. */
interface Parsed extends IncomingMessage {
  body?: unknown;
  _body?: boolean;
}

async function admit(options: DoorOptions, sdk: RequestListener, request: Parsed, response: ServerResponse): Promise<void> {
  const [path = "/", query] = (request.url ?? "/").split("?", 2);
  const [, first = "", ...rest] = path.split("/");
  const tail = query === undefined ? "" : `?${query}`;
  request.headers.cookie = ownCookies(request.headers.cookie, options.cookieSecret);
  if (path === "/health" && request.method === "GET") {
    answer(response, 200, "ok");
  } else if (first === "webview") {
    sdk(request, response);
  } else if (!sameSecret(first, options.webhookKey)) {
    if (path === "/webhook") {
      options.log.warn("a webhook without our key was refused: register the app's public URL with its key, as said at the start");
    }
    answer(response, 404, "nothing is here");
  } else if (rest[0] === "webview") {
    request.url = `/${rest.join("/")}${tail}`;
    sdk(request, response);
  } else if (request.method === "POST" && (rest.join("/") === "webhook" || rest.join("/") === "settings")) {
    const body = await read(request);
    if (body === null) {
      answer(response, 400, "a webhook is JSON of at most 64 kB");
      return;
    }
    if (rest[0] === "webhook") {
      const refusal = judgeWebhook(body, options.cloudHosts);
      if (refusal) {
        options.log.warn("a webhook was refused", { reason: refusal.reason });
        answer(response, refusal.status, refusal.reason);
        return;
      }
    }
    request.body = body;
    request._body = true;
    request.url = `/${rest.join("/")}`;
    sdk(request, response);
  } else {
    answer(response, 404, "nothing is here");
  }
}

function ownCookies(header: string | undefined, secret: string): string {
  const cookies = (header ?? "").split(";").map((c) => c.trim()).filter((c) => c !== "");
  return cookies
    .filter((cookie) => {
      const [name = "", value = ""] = cookie.split("=", 2);
      return name === COOKIE && isOwnCookie(decode(value), secret);
    })
    .join("; ");
}

function decode(text: string): string {
  try {
    return decodeURIComponent(text);
  } catch {
    return "";
  }
}

/** The body as JSON; null where it is none, or too much. */
async function read(request: IncomingMessage): Promise<unknown> {
  const parts: Buffer[] = [];
  let length = 0;
  try {
    for await (const part of request) {
      length += (part as Buffer).length;
      if (length > MAX_BODY) {
        return null;
      }
      parts.push(part as Buffer);
    }
    return JSON.parse(Buffer.concat(parts).toString("utf8")) as unknown;
  } catch {
    return null;
  }
}

function answer(response: ServerResponse, status: number, text: string): void {
  response.writeHead(status, { "content-type": "text/plain; charset=utf-8" }).end(`${text}\n`);
}

export function listen(server: Server, port: number, host?: string): Promise<number> {
  return new Promise((resolve, reject) => {
    server.once("error", (error: NodeJS.ErrnoException) => {
      const taken = error.code === "EADDRINUSE" ? `port ${port} is taken: choose another` : error.message;
      reject(new Error(taken));
    });
    server.listen(port, host, () => { resolve((server.address() as AddressInfo).port); });
  });
}
