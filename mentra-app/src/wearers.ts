// All wearers: who is here, which stream is whose, and how many there may be.

import { createHash } from "node:crypto";

import type { Glasses, Sessions } from "./glasses.js";
import type { Log } from "./log.js";
import type { SettingsStore } from "./settings.js";
import { Wearer, type Surroundings, type View } from "./wearer.js";

/** A wearer's stream by name: the same at every session, readable, and of what every box takes. */
export function streamOf(user: string): string {
  const name = user.split("@")[0] ?? "";
  const slug = name.toLowerCase().replace(/[^a-z0-9]+/g, "-").replace(/^-+|-+$/g, "").slice(0, 20);
  const hash = createHash("sha256").update(user).digest("hex").slice(0, 8);
  return `${slug || "wearer"}-${hash}`;
}

type Outside = Omit<Surroundings, "changed" | "deserted">;

export class Wearers implements Sessions {
  readonly #all = new Map<string, Wearer>();
  readonly #max: number;
  readonly #store: SettingsStore;
  readonly #around: Outside;
  readonly #log: Log;
  readonly #listeners = new Set<(view: View) => void>();

  constructor(max: number, store: SettingsStore, around: Outside) {
    this.#max = max;
    this.#store = store;
    this.#around = around;
    this.#log = around.log;
  }

  begin(glasses: Glasses): void {
    let wearer = this.#all.get(glasses.userId);
    if (!wearer) {
      if (this.#all.size >= this.#max) {
        this.#log.warn("too many wearers", { max: this.#max });
        try {
          glasses.show("spotter has no room for more glasses now");
        } catch {
          // They have other ways to notice.
        }
        return;
      }
      const changed = (w: Wearer): void => {
        const view = w.view();
        this.#listeners.forEach((listener) => { listener(view); });
      };
      const deserted = (sessionId: string, user: string): void => {
        this.end(sessionId, user, "the cloud did not come back");
      };
      const chosen = this.#store.of(glasses.userId);
      const around = { ...this.#around, changed, deserted };
      wearer = new Wearer(glasses.userId, streamOf(glasses.userId), chosen, around);
      this.#all.set(glasses.userId, wearer);
    }
    wearer.attach(glasses);
  }

  end(sessionId: string, userId: string, reason: string): void {
    if (this.#all.get(userId)?.detach(sessionId, reason) === true) {
      this.#all.delete(userId);
    }
  }

  get(user: string): Wearer | undefined {
    return this.#all.get(user);
  }

  has(stream: string): boolean {
    return [...this.#all.values()].some((w) => w.stream === stream);
  }

  views(): View[] {
    return [...this.#all.values()].map((w) => w.view());
  }

  /** Calls `listener` at each change until what it returns is called. */
  listen(listener: (view: View) => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  /** Ends every stream and lets go of every session; for the end of the app. */
  endAll(reason: string): void {
    for (const [user, wearer] of this.#all) {
      wearer.leave(reason);
      this.#all.delete(user);
    }
  }
}
