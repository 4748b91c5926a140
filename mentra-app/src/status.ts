// Status as Server-Sent Events: every wearer's on a door of its own (SSE_PORT), one wearer's own for the page.

import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";

import { sameSecret } from "./webhook.js";
import type { View } from "./wearer.js";
import type { Wearers } from "./wearers.js";

const BEAT_MS = 15_000;
/** A reader that lets so much pile up is sent away. */
const MAX_WAITING = 1 << 20;
const MAX_READERS = 64;
let readers = 0;

/** Sends what `shows` lets through until the reader goes. */
export function stream(wearers: Wearers, response: ServerResponse, shows: (view: View) => boolean): void {
  if (readers >= MAX_READERS) {
    response.writeHead(503, { "content-type": "text/plain" }).end("too many readers of the status: close one\n");
    return;
  }
  readers += 1;
  response.writeHead(200, { "content-type": "text/event-stream", "cache-control": "no-store", "x-accel-buffering": "no" });
  const send = (text: string): void => {
    if (response.writableLength > MAX_WAITING) {
      response.destroy();
    } else {
      response.write(text);
    }
  };
  const show = (view: View): void => {
    if (shows(view)) {
      send(`event: wearer\ndata: ${JSON.stringify(view)}\n\n`);
    }
  };
  send(": spotter\n\n");
  wearers.views().forEach(show);
  const deaf = wearers.listen(show);
  const beat = setInterval(() => { send(": beat\n\n"); }, BEAT_MS);
  response.on("close", () => {
    readers -= 1;
    deaf();
    clearInterval(beat);
  });
}

/** `/events` for all wearers: open to this machine, and with the token to others. */
export function statusDoor(wearers: Wearers, token: string): Server {
  return createServer((request, response) => {
    const url = new URL(request.url ?? "/", "http://status");
    if (request.method !== "GET" || url.pathname !== "/events") {
      response.writeHead(404, { "content-type": "text/plain" }).end("the status is at /events\n");
    } else if (!mayRead(request, url, token)) {
      response.writeHead(401, { "content-type": "text/plain" }).end("show STATUS_TOKEN as ?token= or Authorization: Bearer\n");
    } else {
      stream(wearers, response, () => true);
    }
  });
}

function mayRead(request: IncomingMessage, url: URL, token: string): boolean {
  const shown = url.searchParams.get("token") ?? /^bearer (.+)$/i.exec(request.headers.authorization ?? "")?.[1];
  if (token !== "" && shown !== undefined && sameSecret(shown, token)) {
    return true;
  }
  const local = ["127.0.0.1", "::1", "::ffff:127.0.0.1"].includes(request.socket.remoteAddress ?? "");
  // Through a proxy, or from a page of another site, nobody is of this machine.
  const foreign = ["origin", "forwarded", "x-forwarded-for", "x-real-ip", "via"].some((h) => h in request.headers);
  const host = (request.headers.host ?? "").replace(/:\d+$/, "");
  return local && !foreign && ["127.0.0.1", "localhost", "[::1]"].includes(host);
}
