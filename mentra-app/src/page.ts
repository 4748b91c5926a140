// The page in the MentraOS web view and what it asks for: a wearer's own status, picture, settings, start and stop. Who the
// wearer is, the SDK's middleware has found out before.

import { readFileSync } from "node:fs";
import { Readable } from "node:stream";
import type { ReadableStream } from "node:stream/web";

import type { Express, NextFunction, Request, Response } from "express";

import type { Box } from "./box/box.js";
import { wearerOf } from "./glasses.js";
import { reasonOf } from "./log.js";
import { judge, layered, type SettingsStore } from "./settings.js";
import { stream } from "./status.js";
import { streamOf, type Wearers } from "./wearers.js";

const FILES = [
  ["", "index.html", "text/html; charset=utf-8"],
  ["/app.js", "app.js", "text/javascript; charset=utf-8"],
  ["/style.css", "style.css", "text/css; charset=utf-8"],
] as const;
const POLICY = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'";

export function mountPage(app: Express, wearers: Wearers, store: SettingsStore, box: Box): void {
  for (const [path, file, type] of FILES) {
    const content = readFileSync(new URL(`../../page/${file}`, import.meta.url));
    app.get(`/webview${path}`, (_request, response) => {
      response.set({ "content-type": type, "content-security-policy": POLICY, "cache-control": "no-cache", "referrer-policy": "no-referrer" });
      response.send(content);
    });
  }

  const view = (user: string): unknown => {
    const wearer = wearers.get(user);
    const settings = wearer?.settings ?? layered(store.of(user));
    return { user, stream: streamOf(user), wearer: wearer?.view() ?? null, settings };
  };

  app.get("/webview/api/status", own((user, _request, response) => {
    response.set("cache-control", "no-store").json(view(user));
  }));
  app.get("/webview/api/events", own((user, _request, response) => {
    stream(wearers, response, (v) => v.user === user);
  }));
  app.post("/webview/api/start", own((user, _request, response) => {
    const wearer = wearers.get(user);
    if (!wearer) {
      refuse(response, 409, "no_session", "the app does not run on your glasses: start it in the MentraOS app");
      return;
    }
    wearer.start();
    response.json(view(user));
  }));
  app.post("/webview/api/stop", own((user, _request, response) => {
    wearers.get(user)?.stop("you stopped it");
    response.json(view(user));
  }));
  app.put("/webview/api/settings", own(async (user, request, response) => {
    const { change, problems } = judge(request.body);
    if (problems.length > 0) {
      refuse(response, 400, "bad_settings", problems.join("; "));
      return;
    }
    await store.change(user, change);
    wearers.get(user)?.choose(store.of(user));
    response.json(view(user));
  }));
  for (const [path, kind] of [["live.mjpeg", "mjpeg"], ["snapshot.jpg", "snapshot.jpg"]] as const) {
    app.get(`/webview/api/${path}`, own(async (user, _request, response) => {
      const gone = new AbortController();
      response.on("close", () => { gone.abort(); });
      const picture = await box.picture(streamOf(user), kind, gone.signal);
      response.set({ "content-type": picture.headers.get("content-type") ?? "image/jpeg", "cache-control": "no-store" });
      if (picture.body === null) {
        response.end();
        return;
      }
      const body = Readable.fromWeb(picture.body as ReadableStream);
      body.on("error", () => response.destroy());
      body.pipe(response);
    }));
  }

  // A body that is no JSON, and whatever else goes wrong: never a stack trace.
  app.use("/webview", (error: unknown, _request: Request, response: Response, next: NextFunction) => {
    if (response.headersSent) {
      next(error);
      return;
    }
    const status = (error as { status?: unknown }).status;
    refuse(response, typeof status === "number" && status < 500 ? status : 502, "failed", reasonOf(error));
  });
}

type Handler = (user: string, request: Request, response: Response) => void | Promise<void>;

/** Lets wearers in, and what changes something only as JSON: a form of another site cannot send that. */
function own(handler: Handler) {
  return (request: Request, response: Response, next: NextFunction): void => {
    const user = wearerOf(request);
    if (user === null) {
      refuse(response, 401, "no_wearer", "open this page from the MentraOS app");
    } else if (request.method !== "GET" && !request.is("application/json")) {
      refuse(response, 415, "no_json", "send application/json");
    } else {
      Promise.resolve(handler(user, request, response)).catch(next);
    }
  };
}

function refuse(response: Response, status: number, code: string, message: string): void {
  response.status(status).json({ error: { code, message } });
}
