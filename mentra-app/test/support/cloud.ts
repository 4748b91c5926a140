// A stand-in for the MentraOS cloud and the glasses behind it: posts webhooks as the cloud does, answers the SDK's
// WebSocket with the documented messages, and lets a test play the glasses.

import { createServer, type Server } from "node:http";
import type { AddressInfo } from "node:net";

import { WebSocketServer, type WebSocket } from "ws";

export type Message = Readonly<Record<string, unknown>> & { readonly type: string };

const LIVE = {
  modelName: "Mentra Live",
  hasCamera: true,
  hasDisplay: false,
  hasSpeaker: true,
  hasLight: true,
  hasWifi: true,
};
export const WITH_DISPLAY = { ...LIVE, modelName: "with display", hasDisplay: true, hasSpeaker: false, hasLight: false };

export interface Running {
  readonly userId: string;
  readonly sessionId: string;
  socket: WebSocket | null;
  /** All that the app sent in this session, over all its connections. */
  readonly sent: Message[];
  streams: number;
  streamId: string | null;
}

export interface Ways {
  /** What the glasses do with a stream: nothing, or play the usual beginning. */
  glasses: "silent" | "willing";
  capabilities: Readonly<Record<string, unknown>>;
  settings: readonly Readonly<Record<string, unknown>>[];
  /** Refuses new connections of apps. */
  shut: boolean;
  onStream: (running: Running, message: Message) => void;
  onStop: (running: Running) => void;
}

export class Cloud {
  readonly apps = new Map<string, Running>();
  readonly ways: Ways = {
    glasses: "willing",
    capabilities: LIVE,
    settings: [],
    shut: false,
    onStream: () => undefined,
    onStop: () => undefined,
  };
  readonly apiKey: string;
  readonly packageName: string;
  readonly #server: Server;
  readonly #sockets: WebSocketServer;
  #port = 0;

  constructor(packageName: string, apiKey: string) {
    this.packageName = packageName;
    this.apiKey = apiKey;
    this.#server = createServer((_request, response) => {
      response.writeHead(404).end();
    });
    this.#sockets = new WebSocketServer({ server: this.#server, path: "/app-ws" });
    this.#sockets.on("connection", (socket) => {
      if (this.ways.shut) {
        socket.terminate();
        return;
      }
      let mine: Running | undefined;
      socket.on("message", (data) => {
        const message = JSON.parse((data as Buffer).toString("utf8")) as Message;
        if (message.type === "tpa_connection_init") {
          mine = this.#admit(socket, message);
        } else if (mine) {
          mine.sent.push(message);
          this.#heed(mine, message);
        }
      });
      socket.on("close", () => {
        if (mine?.socket === socket) {
          mine.socket = null;
        }
      });
    });
  }

  async listen(): Promise<void> {
    await new Promise<void>((resolve) => this.#server.listen(0, "127.0.0.1", resolve));
    this.#port = (this.#server.address() as AddressInfo).port;
  }

  get websocketUrl(): string {
    return `ws://127.0.0.1:${this.#port}/app-ws`;
  }

  async close(): Promise<void> {
    this.#sockets.clients.forEach((socket) => { socket.terminate(); });
    this.#server.closeAllConnections();
    await new Promise((resolve) => this.#server.close(resolve));
  }

  /** As the cloud starts an app; the session's id is the same at every start of one wearer. */
  async start(publicUrl: string, userId: string, sessionId = `${userId}-${this.packageName}`): Promise<Running> {
    const running: Running = { userId, sessionId, socket: null, sent: [], streams: 0, streamId: null };
    this.apps.set(sessionId, running);
    const answer = await this.post(`${publicUrl}/webhook`, {
      type: "session_request",
      sessionId,
      userId,
      timestamp: new Date().toISOString(),
      augmentOSWebsocketUrl: this.websocketUrl,
    });
    if (!answer.ok) {
      throw new Error(`the app answered ${answer.status}: ${await answer.text()}`);
    }
    return running;
  }

  /** As the cloud stops one: webhook first, then the message, then the line. */
  async stop(publicUrl: string, running: Running): Promise<void> {
    await this.post(`${publicUrl}/webhook`, {
      type: "stop_request",
      sessionId: running.sessionId,
      userId: running.userId,
      reason: "user_disabled",
      timestamp: new Date().toISOString(),
    });
    this.send(running, { type: "app_stopped", reason: "user_disabled" });
    running.socket?.close(1000, "App stopped");
  }

  post(url: string, body: unknown): Promise<Response> {
    return fetch(url, { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body) });
  }

  send(running: Running, message: Message): void {
    if (running.socket?.readyState === 1) {
      running.socket.send(JSON.stringify({ timestamp: new Date(), sessionId: running.sessionId, ...message }));
    }
  }

  status(running: Running, status: string, more: Readonly<Record<string, unknown>> = {}): void {
    const streamId = running.streamId ?? undefined;
    this.send(running, { type: "rtmp_stream_status", status, streamId, appId: this.packageName, ...more });
  }

  sentOf(running: Running, type: string): Message[] {
    return running.sent.filter((m) => m.type === type);
  }

  #admit(socket: WebSocket, init: Message): Running | undefined {
    const running = this.apps.get(String(init["sessionId"]));
    if (init["apiKey"] !== this.apiKey || init["packageName"] !== this.packageName || !running) {
      socket.send(JSON.stringify({ type: "tpa_connection_error", message: "App not started for this session" }));
      socket.close(1008, "App not started for this session");
      return undefined;
    }
    running.socket = socket;
    const { capabilities, settings } = this.ways;
    this.send(running, { type: "tpa_connection_ack", settings, mentraosSettings: {}, capabilities });
    return running;
  }

  #heed(running: Running, message: Message): void {
    switch (message.type) {
      case "rtmp_stream_request":
        running.streams += 1;
        running.streamId = `s${running.streams}-${running.userId}`;
        this.ways.onStream(running, message);
        if (this.ways.glasses === "willing") {
          for (const status of ["initializing", "connecting", "active"]) {
            this.status(running, status);
          }
        }
        break;
      case "rtmp_stream_stop":
        this.ways.onStop(running);
        if (this.ways.glasses === "willing" && running.streamId !== null) {
          this.status(running, "stopping");
          this.status(running, "stopped");
        }
        break;
      case "audio_play_request":
        this.send(running, { type: "audio_play_response", requestId: message["requestId"], success: true, duration: 1 });
        break;
    }
  }
}
