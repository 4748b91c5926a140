// A stand-in for a box's API and WebSocket, for what a real one cannot be made to do at will: being away, refusing, seeing
// nothing. A real one is in real.test.ts.

import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";

import { WebSocketServer, type WebSocket } from "ws";

/** One pixel. */
export const PICTURE = Buffer.from(
  "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==",
  "base64",
);

export class FakeBox {
  readonly token = "the-owner";
  /** By id: the stream, and how often its URL was made. */
  readonly publishers = new Map<string, string>();
  readonly log: string[] = [];
  advice: Readonly<Record<string, unknown>> | null = null;
  online = new Set<string>();
  #server: Server | null = null;
  #sockets: WebSocketServer | null = null;
  readonly #watching = new Map<WebSocket, string>();
  #port = 0;
  #made = 0;

  get url(): string {
    return `http://127.0.0.1:${this.#port}`;
  }

  /** The same port after a stay away. */
  async up(): Promise<void> {
    const server = createServer((request, response) => {
      void this.#serve(request, response);
    });
    const sockets = new WebSocketServer({ server });
    sockets.on("connection", (socket, request) => {
      const stream = new URL(request.url ?? "/", "ws://x").searchParams.get("stream") ?? "";
      if (request.headers.authorization !== `Bearer ${this.token}`) {
        socket.close();
        return;
      }
      this.#watching.set(socket, stream);
      socket.on("close", () => this.#watching.delete(socket));
      if (this.online.has(stream)) {
        socket.send(JSON.stringify({ v: 1, type: "stream", stream, status: "online" }));
      }
    });
    await new Promise<void>((resolve) => server.listen(this.#port, "127.0.0.1", resolve));
    this.#port = (server.address() as AddressInfo).port;
    this.#server = server;
    this.#sockets = sockets;
  }

  async down(): Promise<void> {
    const server = this.#server;
    this.#sockets?.clients.forEach((socket) => { socket.terminate(); });
    this.#server = null;
    if (server) {
      server.closeAllConnections();
      await new Promise((resolve) => server.close(resolve));
    }
  }

  see(stream: string, status: "online" | "waiting" | "offline"): void {
    if (status === "online") {
      this.online.add(stream);
    } else {
      this.online.delete(stream);
    }
    this.#push(stream, { type: "stream", stream, status });
  }

  detect(stream: string, ...animals: readonly (readonly [string, number])[]): void {
    const detections = animals.map(([label, track_id]) => ({ label, track_id, confidence: 0.8 }));
    this.#push(stream, { type: "detections", stream, detections });
  }

  get watchers(): number {
    return this.#watching.size;
  }

  #push(stream: string, message: unknown): void {
    for (const [socket, watched] of this.#watching) {
      if (watched === stream) {
        socket.send(JSON.stringify({ v: 1, ...(message as object) }));
      }
    }
  }

  async #serve(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const parts: Buffer[] = [];
    for await (const part of request) {
      parts.push(part as Buffer);
    }
    const path = request.url ?? "";
    this.log.push(`${request.method} ${path}`);
    const answer = (status: number, body?: unknown): void => {
      response.writeHead(status, { "content-type": "application/json" });
      response.end(body === undefined ? undefined : JSON.stringify(body));
    };
    const refuse = (status: number, code: string): void => {
      answer(status, { error: { code, message: code } });
    };
    const id = /^\/api\/v1\/publishers\/(.+)$/.exec(path)?.[1];
    if (request.headers.authorization !== `Bearer ${this.token}`) {
      refuse(401, "bad_token");
    } else if (path === "/api/v1/status") {
      answer(200, { addresses: { websocket: `127.0.0.1:${this.#port}` } });
    } else if (path.includes("/snapshot.jpg") || path.includes("/mjpeg")) {
      response.writeHead(200, { "content-type": "image/png" }).end(PICTURE);
    } else if (path === "/api/v1/publishers" && request.method === "GET") {
      answer(200, { publishers: [...this.publishers].map(([key, stream]) => ({ id: key, stream })) });
    } else if (path === "/api/v1/publishers") {
      const body = JSON.parse(Buffer.concat(parts).toString("utf8")) as { id: string; stream: string };
      if (this.publishers.has(body.id)) {
        refuse(409, "name_taken");
        return;
      }
      this.publishers.set(body.id, body.stream);
      this.#made += 1;
      answer(201, { ...body, url: `rtmp://127.0.0.1:1935/live/${body.stream}?token=secret${this.#made}`, advice: this.advice });
    } else if (id !== undefined && this.publishers.has(id)) {
      if (request.method === "DELETE") {
        this.publishers.delete(id);
        answer(204);
      } else {
        answer(200, { id, stream: this.publishers.get(id), advice: this.advice });
      }
    } else {
      refuse(404, id === undefined ? "no_such_path" : "no_publisher");
    }
  }
}
