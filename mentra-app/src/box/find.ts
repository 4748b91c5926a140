// Where the box is: as configured, or as it says in the local network by mDNS (`_spotter._tcp`). It only asks; nothing of
// what is found is connected to here.

import makeMdns from "multicast-dns";
import type { Answer } from "dns-packet";

export interface Place {
  /** The HTTP door. */
  readonly web: URL;
  /** The WebSocket's port, where it is known. */
  readonly wsPort: number | null;
}

export interface Finder {
  find(): Promise<Place>;
}

const SERVICE = "_spotter._tcp.local";
const ASK_EVERY_MS = 1_000;

export class Configured implements Finder {
  readonly #place: Place;

  constructor(web: URL, wsPort: number | null = null) {
    this.#place = { web, wsPort };
  }

  find(): Promise<Place> {
    return Promise.resolve(this.#place);
  }
}

export class ByMdns implements Finder {
  readonly #patienceMs: number;
  readonly #options: makeMdns.Options;

  constructor(patienceMs = 5_000, options: makeMdns.Options = {}) {
    this.#patienceMs = patienceMs;
    this.#options = options;
  }

  /** The first box that answers. */
  find(): Promise<Place> {
    return new Promise((resolve, reject) => {
      const mdns = makeMdns(this.#options);
      const heard: Answer[] = [];
      const ask = (): void => {
        mdns.query({ questions: [{ name: SERVICE, type: "PTR" }] });
      };
      const again = setInterval(ask, ASK_EVERY_MS);
      const patience = setTimeout(() => {
        done();
        reject(new Error("no box answers in this network: set BOX_URL, or see that announce.enabled is true on the box"));
      }, this.#patienceMs);
      const done = (): void => {
        clearInterval(again);
        clearTimeout(patience);
        mdns.destroy();
      };
      mdns.on("error", (error: Error) => {
        done();
        reject(new Error(`mDNS cannot be used here (${error.message}): set BOX_URL`));
      });
      mdns.on("response", (response) => {
        heard.push(...(response.answers ?? []), ...(response.additionals ?? []));
        const place = understand(heard);
        if (place) {
          done();
          resolve(place);
        } else if (heard.length > 500) {
          heard.length = 0;
        }
      });
      ask();
    });
  }
}

/** The place that these records tell of, once there is all of it: instance, port and address. */
export function understand(records: readonly Answer[]): Place | null {
  for (const record of records) {
    if (record.type !== "PTR" || record.name.toLowerCase() !== SERVICE) {
      continue;
    }
    const instance = record.data;
    const srv = records.find((r) => r.type === "SRV" && r.name === instance);
    const txt = records.find((r) => r.type === "TXT" && r.name === instance);
    if (srv?.type !== "SRV") {
      continue;
    }
    const host = srv.data.target;
    // An IPv4 address is what glasses and phones surely reach; link-local ones of IPv6 need a zone.
    const address = records.find((r) => r.type === "A" && r.name.toLowerCase() === host.toLowerCase());
    if (address?.type !== "A") {
      continue;
    }
    const ports = txt?.type === "TXT" ? properties(txt.data) : new Map<string, string>();
    const http = Number(ports.get("http") ?? srv.data.port);
    const ws = Number(ports.get("ws") ?? NaN);
    return { web: new URL(`http://${address.data}:${http}/`), wsPort: Number.isInteger(ws) ? ws : null };
  }
  return null;
}

function properties(data: string | Buffer | readonly (string | Buffer)[]): Map<string, string> {
  const parts = typeof data === "string" || Buffer.isBuffer(data) ? [data] : data;
  return new Map(
    parts.map((part): [string, string] => {
      const [name = "", value = ""] = part.toString().split("=", 2);
      return [name, value];
    }),
  );
}
