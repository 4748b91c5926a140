/** Notices when a stream's pictures are shown, and when they stopped though spotter gets more. Pure: it is told the time and what is seen. */

/** So long without a picture, ms, and the way they came is given up. */
const SILENT_MS = 5000;
/** The first one may take longer: a busy browser, a playlist without a segment yet. */
const FIRST_MS = 10_000;
/** What spotter got is counted from so long a silence on, ms: its numbers are up to a second old, and so were the last pictures. */
const SETTLED_MS = 2000;
/** Older than this, ms, and what spotter said of the stream is no news. */
const NEWS_MS = 3000;
/** So many pictures may just be on their way. */
const ON_THE_WAY = 2;

export class Watch {
  #since;
  #seen;
  /** Pictures that spotter had got when this page saw the last of them, */
  #received = 0;
  /** and since when there are more, or spotter is not heard. @type {number|undefined} */
  #missing;
  /** How long pictures may stay away now, ms. */
  patience = FIRST_MS;

  /** @param {number} now ms @param {number} seen pictures so far */
  constructor(now, seen) {
    this.#since = now;
    this.#seen = seen;
  }

  /** Nothing is to be expected now. @param {number} now ms @param {number} seen */
  rest(now, seen) {
    this.#since = now;
    this.#seen = seen;
    this.#missing = undefined;
  }

  /**
   * `live`: there were new pictures. `lost`: none for too long. `silent`: the same, but spotter gets none either. `waiting`: its
   * publisher is away. `null`: nothing to say yet.
   * @param {number} now ms @param {number} seen pictures so far; fewer than before: counted anew
   * @param {{status: string, frames_total: number}} stream as spotter said it @param {number} heard when, ms
   * @returns {'live'|'lost'|'silent'|'waiting'|null}
   */
  look(now, seen, stream, heard) {
    const more = seen > this.#seen;
    this.#seen = seen;
    if (more) {
      this.patience = SILENT_MS;
      this.rest(now, seen);
      return 'live';
    }
    const silence = now - this.#since;
    const fresh = now - heard < NEWS_MS;
    if (fresh && stream.status !== 'online') {
      // The last pictures before that are still being shown.
      if (silence < SETTLED_MS / 2) return null;
      this.rest(now - SETTLED_MS / 2, seen);
      return 'waiting';
    }
    if (silence < SETTLED_MS) this.#received = stream.frames_total;
    if (!fresh || stream.frames_total > this.#received + ON_THE_WAY) this.#missing ??= now;
    else this.#missing = undefined;
    if (silence < this.patience) return null;
    if (this.#missing === undefined) return 'silent';
    // What comes after a long silence is heard of, and shown.
    return now - this.#missing < SETTLED_MS ? null : 'lost';
  }
}
