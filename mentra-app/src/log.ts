// Lines for the service's log: what happened and its fields, on standard error. Publish URLs, tokens and keys never go in.

export type Fields = Readonly<Record<string, string | number | boolean | null | undefined>>;

export interface Log {
  info(what: string, fields?: Fields): void;
  warn(what: string, fields?: Fields): void;
}

export const log: Log = {
  info: (what, fields) => { write("info", what, fields); },
  warn: (what, fields) => { write("warn", what, fields); },
};

export const silent: Log = { info: () => undefined, warn: () => undefined };

function write(level: string, what: string, fields: Fields = {}): void {
  const rest = Object.entries(fields)
    .filter(([, value]) => value !== undefined && value !== null)
    .map(([name, value]) => ` ${name}=${typeof value === "string" ? JSON.stringify(value) : String(value)}`);
  process.stderr.write(`${new Date().toISOString()} ${level} ${what}${rest.join("")}\n`);
}

/** An error's text for logs and people: what `fetch` hides in its cause is said, a URL's secrets are not. */
export function reasonOf(error: unknown): string {
  if (!(error instanceof Error)) {
    return masked(String(error));
  }
  const cause = error.cause;
  const inner = cause instanceof Error ? cause.message || ((cause as NodeJS.ErrnoException).code ?? "") : "";
  return masked(inner === "" ? error.message : inner);
}

export function masked(text: string): string {
  return text.replace(/([?&](?:token|passphrase|streamid)=)[^&\s"']*/g, "$1***");
}
