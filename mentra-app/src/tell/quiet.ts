// Whether it is a time of day at which the wearer wants to be left alone. Pure.

export interface QuietHours {
  /** "22:30", 24 hours. */
  readonly from: string;
  readonly to: string;
}

const CLOCK = /^([01]\d|2[0-3]):([0-5]\d)$/;

/** Minutes since midnight; null where `text` is no time of day. */
export function minutes(text: string): number | null {
  const found = CLOCK.exec(text);
  return found ? Number(found[1]) * 60 + Number(found[2]) : null;
}

export function isTimeZone(name: string): boolean {
  try {
    new Intl.DateTimeFormat("en", { timeZone: name });
    return name !== "";
  } catch {
    return false;
  }
}

/** `to` itself is not quiet any more; hours that end before they begin go over midnight, equal ones are none. */
export function isQuiet(hours: QuietHours | null, timeZone: string, now: number): boolean {
  if (hours === null) {
    return false;
  }
  const [from, to] = [minutes(hours.from), minutes(hours.to)];
  if (from === null || to === null || from === to) {
    return false;
  }
  const clock = new Intl.DateTimeFormat("en-GB", { timeZone, hour: "2-digit", minute: "2-digit", hourCycle: "h23" });
  const at = minutes(clock.format(now)) ?? 0;
  return from < to ? from <= at && at < to : at >= from || at < to;
}
