// The twin's marks in its pictures, wherever its bytes turn up, and the demo clip's truth: which animals a moment of it
// shows. Pure.

/** What the twin says of one picture. */
export interface Mark {
  /** Which encoder, counted from the twin's beginning. */
  readonly run: number;
  readonly n: number;
  /** Milliseconds of the clip. */
  readonly clip: number;
  /** When it was taken. */
  readonly at: number;
}

const MARK = Buffer.from("spotter-twin-mrk");
/** Longer than any mark. */
export const MARK_BYTES = 160;

/** All marks in `bytes`; one that is cut off at the end is none. */
export function marksIn(bytes: Buffer): Mark[] {
  const found: Mark[] = [];
  for (let at = bytes.indexOf(MARK); at >= 0; at = bytes.indexOf(MARK, at + 1)) {
    const begin = at + MARK.length;
    const end = bytes.indexOf("}", begin);
    if (end > begin && end - begin < MARK_BYTES) {
      found.push(JSON.parse(bytes.toString("latin1", begin, end + 1)) as Mark);
    }
  }
  return found;
}

/** As in tests/support/clip.rs: photographs of five seconds each. */
const SHOWN: readonly (readonly string[])[] = [["dog"], ["bird"], ["giraffe", "zebra"], ["horse"], ["cat"]];
const EACH_MS = 5_000;
/** Near a cut both may be meant. */
const NEAR_MS = 150;

export function animalsAt(clipMs: number): ReadonlySet<string> {
  const around = [clipMs - NEAR_MS, clipMs, clipMs + NEAR_MS];
  const photo = (ms: number): number => Math.floor(ms / EACH_MS + SHOWN.length) % SHOWN.length;
  return new Set(around.flatMap((ms) => SHOWN[photo(ms)] ?? []));
}
