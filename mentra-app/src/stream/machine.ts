// The life of one wearer's stream: what happened goes in, the next state and what is to be done come out. It knows no
// clock, no network and no SDK: time comes with each event, and the one who drives it does what the effects say.

/** What the glasses are asked to send. */
export interface Video {
  readonly width: number;
  readonly height: number;
  readonly bitrateBps: number;
  readonly fps: number;
}

/** As the cloud passes them on from the glasses. */
export type Status =
  | "initializing"
  | "connecting"
  | "reconnecting"
  | "streaming"
  | "active"
  | "stopping"
  | "stopped"
  | "disconnected"
  | "timeout"
  | "reconnected"
  | "reconnect_failed"
  | "error";

/** What the box sees of the stream; "unknown" while it cannot be asked, "unwatched" where there is no box to ask. */
export type Pictures = "online" | "waiting" | "none" | "unknown" | "unwatched";

export type Phase = "stopped" | "requested" | "connecting" | "live" | "degraded" | "lost";

/** What a requested stream waits for: the box's URL, the glasses' first word, or the end of the one before. */
export type Step = "box" | "glasses" | "pause";

export type Event =
  | { readonly kind: "start" }
  | { readonly kind: "stop"; readonly reason: string }
  | { readonly kind: "box"; readonly url: string; readonly video: Video }
  | { readonly kind: "box_failed"; readonly reason: string }
  | { readonly kind: "send_failed"; readonly reason: string }
  | { readonly kind: "refused"; readonly reason: string; readonly retry: boolean }
  | {
      readonly kind: "status";
      readonly status: Status;
      readonly streamId: string | undefined;
      readonly reason: string | undefined;
      readonly fps: number | undefined;
    }
  | { readonly kind: "pictures"; readonly pictures: Pictures }
  | { readonly kind: "cloud"; readonly up: boolean }
  | { readonly kind: "advice"; readonly video: Video }
  | { readonly kind: "tick" };

export type Effect =
  | { readonly kind: "ask_box" }
  | { readonly kind: "start"; readonly url: string; readonly video: Video }
  | { readonly kind: "stop" }
  | { readonly kind: "release" };

/** How long each step may take, and how often and after what pause a lost stream is tried again. */
export interface Policy {
  readonly boxMs: number;
  readonly glassesMs: number;
  readonly connectMs: number;
  /** Called live by the glasses, and the box sees nothing. */
  readonly unseenMs: number;
  readonly degradedMs: number;
  readonly pauseMs: number;
  readonly firstRetryMs: number;
  readonly lastRetryMs: number;
  /** In a row; a stream that was live for `provenMs` begins to count anew. */
  readonly maxFailures: number;
  readonly provenMs: number;
  /** Changes of the settings are not applied sooner one after the other. */
  readonly settleMs: number;
  /** 0 to 1, so that many wearers do not come back in one moment. */
  readonly random: () => number;
}

export const POLICY: Policy = {
  boxMs: 15_000,
  glassesMs: 20_000,
  connectMs: 30_000,
  unseenMs: 20_000,
  degradedMs: 45_000,
  pauseMs: 3_000,
  firstRetryMs: 1_000,
  lastRetryMs: 30_000,
  maxFailures: 12,
  provenMs: 60_000,
  settleMs: 60_000,
  random: Math.random,
};

export interface Stream {
  readonly phase: Phase;
  readonly step: Step | null;
  readonly since: number;
  /** Why it is in this phase, for people; null where the phase says it all. */
  readonly reason: string | null;
  readonly deadline: number | null;
  /** A start was sent, and no stop after it. */
  readonly running: boolean;
  readonly failures: number;
  readonly cloudUp: boolean;
  readonly pictures: Pictures;
  readonly url: string | null;
  readonly video: Video | null;
  readonly streamId: string | null;
  /** Streams of before, whose late words mean nothing. */
  readonly past: readonly string[];
  readonly liveSince: number | null;
  readonly startedAt: number | null;
  readonly endedAt: number | null;
  readonly restarts: number;
}

export interface Outcome {
  readonly stream: Stream;
  readonly effects: readonly Effect[];
}

const PAST = 8;
/** A stream that nobody wants is told to end at most so often. */
const REPEAT_STOP_MS = 5_000;

export function stopped(now: number): Stream {
  return {
    phase: "stopped",
    step: null,
    since: now,
    reason: null,
    deadline: null,
    running: false,
    failures: 0,
    cloudUp: true,
    pictures: "unknown",
    url: null,
    video: null,
    streamId: null,
    past: [],
    liveSince: null,
    startedAt: null,
    endedAt: null,
    restarts: 0,
  };
}

/** Whether the stream is to be there. */
export function wanted(stream: Stream): boolean {
  return stream.phase !== "stopped";
}

export function step(stream: Stream, event: Event, now: number, policy: Policy = POLICY): Outcome {
  switch (event.kind) {
    case "start":
      return wanted(stream) ? same(stream) : request({ ...stream, failures: 0 }, now, policy);
    case "stop":
      return end(stream, event.reason, now);
    case "box":
      return onBox(stream, event.url, event.video, now, policy);
    case "box_failed":
      return stream.step === "box" ? fail(stream, event.reason, now, policy) : same(stream);
    case "send_failed":
      return starting(stream) ? fail(stream, event.reason, now, policy) : same(stream);
    case "refused":
      return onRefused(stream, event.reason, event.retry, now, policy);
    case "status":
      return onStatus(stream, event, now, policy);
    case "pictures":
      return onPictures({ ...stream, pictures: event.pictures }, now, policy);
    case "cloud":
      return onCloud(stream, event.up, now, policy);
    case "advice":
      return onAdvice(stream, event.video, now, policy);
    case "tick":
      return onTick(stream, now, policy);
  }
}

function same(stream: Stream): Outcome {
  return { stream, effects: [] };
}

function starting(stream: Stream): boolean {
  return (stream.phase === "requested" && stream.step === "glasses") || stream.phase === "connecting";
}

function enter(
  stream: Stream,
  phase: Phase,
  now: number,
  more: Partial<Stream>,
  effects: readonly Effect[] = [],
): Outcome {
  const since = stream.phase === phase && stream.step === (more.step ?? null) ? stream.since : now;
  return { stream: { ...stream, step: null, reason: null, deadline: null, ...more, phase, since }, effects };
}

function request(stream: Stream, now: number, policy: Policy): Outcome {
  const more: Partial<Stream> = { step: "box", deadline: now + policy.boxMs, liveSince: null };
  return enter(stream, "requested", now, more, [{ kind: "ask_box" }]);
}

/** Forgets the stream's id: what is said of it from now on is late. */
function left(stream: Stream, now: number): Partial<Stream> {
  const past = stream.streamId === null ? stream.past : [...stream.past, stream.streamId].slice(-PAST);
  return { streamId: null, past, running: false, liveSince: null, endedAt: now };
}

function end(stream: Stream, reason: string, now: number): Outcome {
  // Also when it is stopped already: that costs two small messages, an orphan costs a battery.
  const gone = { ...left(stream, now), url: null, reason };
  return enter(stream, "stopped", now, gone, [{ kind: "stop" }, { kind: "release" }]);
}

function fail(stream: Stream, reason: string, now: number, policy: Policy): Outcome {
  const proven = stream.liveSince !== null && now - stream.liveSince >= policy.provenMs;
  const failures = (proven ? 0 : stream.failures) + 1;
  if (failures > policy.maxFailures) {
    return end({ ...stream, failures }, `given up after ${policy.maxFailures} tries: ${reason}`, now);
  }
  const stop: readonly Effect[] = stream.running ? [{ kind: "stop" }] : [];
  const pause = Math.min(policy.firstRetryMs * 2 ** (failures - 1), policy.lastRetryMs);
  const deadline = now + pause * (0.75 + 0.5 * policy.random());
  return enter(stream, "lost", now, { ...left(stream, now), failures, reason, deadline }, stop);
}

function start(stream: Stream, url: string, video: Video, now: number, policy: Policy): Outcome {
  const restarts = stream.restarts + (stream.startedAt === null ? 0 : 1);
  const more: Partial<Stream> = {
    ...{ step: "glasses", deadline: now + policy.glassesMs, url, video },
    ...{ running: true, startedAt: now, restarts },
  };
  return enter(stream, "requested", now, more, [{ kind: "start", url, video }]);
}

function onBox(stream: Stream, url: string, video: Video, now: number, policy: Policy): Outcome {
  if (stream.step !== "box") {
    return same(stream);
  }
  if (!stream.cloudUp) {
    return fail({ ...stream, url, video }, "the cloud is away", now, policy);
  }
  return start(stream, url, video, now, policy);
}

function onRefused(stream: Stream, reason: string, retry: boolean, now: number, policy: Policy): Outcome {
  if (!starting(stream)) {
    return same(stream);
  }
  return retry ? fail(stream, reason, now, policy) : end(stream, reason, now);
}

type StatusEvent = Extract<Event, { kind: "status" }>;

function onStatus(stream: Stream, event: StatusEvent, now: number, policy: Policy): Outcome {
  const { status, streamId } = event;
  const over = status === "stopped" || status === "error" || status === "timeout" || status === "reconnect_failed";
  if (!stream.running) {
    if (stream.step === "pause" && over) {
      return afterPause(stream, now, policy);
    }
    const quiet = over || status === "stopping" || status === "disconnected";
    // Glasses that stream although nobody wants it, or on after their time was up.
    const again = stream.phase === "stopped" && now - (stream.endedAt ?? 0) >= REPEAT_STOP_MS;
    return !quiet && again ? end(stream, stream.reason ?? "stopped", now) : same(stream);
  }
  if (streamId !== undefined && stream.past.includes(streamId)) {
    return same(stream);
  }
  const known = stream.streamId;
  if (streamId !== undefined && known !== null && streamId !== known) {
    // Of a stream that is not ours to judge, unless it begins: then the glasses made a new one of it.
    if (status !== "initializing" && status !== "connecting" && !isLive(status)) {
      return same(stream);
    }
    stream = { ...stream, past: [...stream.past, known].slice(-PAST) };
  }
  stream = { ...stream, streamId: streamId ?? known };
  switch (status) {
    case "initializing":
    case "connecting":
      return onConnecting(stream, now, policy);
    case "streaming":
    case "active":
    case "reconnected":
      return onLive(stream, event.fps, now, policy);
    case "reconnecting":
    case "disconnected":
      if (starting(stream)) {
        return enter(stream, "connecting", now, { deadline: stream.deadline ?? now + policy.connectMs });
      }
      return degrade(stream, "the glasses lost the box and try again", now, policy.degradedMs);
    case "stopping":
      return same(stream);
    case "stopped":
      // Without an id it may be the word of the stream before: a new one that was not heard of yet is waited for.
      if (stream.phase === "requested" && streamId === undefined) {
        return same(stream);
      }
      return fail(stream, "the glasses stopped the stream", now, policy);
    case "error":
    case "timeout":
    case "reconnect_failed":
      return fail(stream, event.reason ?? WORDS[status], now, policy);
  }
}

const WORDS = {
  error: "the glasses report an error",
  timeout: "the glasses no longer answer the cloud",
  reconnect_failed: "the glasses could not come back to the box",
} as const;

function isLive(status: Status): boolean {
  return status === "streaming" || status === "active" || status === "reconnected";
}

function onConnecting(stream: Stream, now: number, policy: Policy): Outcome {
  switch (stream.phase) {
    case "requested":
      return enter(stream, "connecting", now, { deadline: now + policy.connectMs });
    case "live":
    case "degraded":
      // Late words of the beginning, if the box has pictures.
      return stream.pictures === "online"
        ? same(stream)
        : degrade(stream, "the glasses connect anew", now, policy.degradedMs);
    default:
      return same(stream);
  }
}

function onLive(stream: Stream, fps: number | undefined, now: number, policy: Policy): Outcome {
  if (stream.phase === "degraded" && !seen(stream)) {
    // The glasses say so again and again, also when nothing arrives: the box's word counts.
    return same(stream);
  }
  const asked = stream.video?.fps ?? 0;
  if (fps !== undefined && fps > 0 && fps < asked * 0.4 && seen(stream)) {
    return degrade(stream, `the glasses send ${Math.round(fps)} pictures a second`, now, null);
  }
  return live(stream, now, policy);
}

function seen(stream: Stream): boolean {
  return stream.pictures === "online" || stream.pictures === "unwatched";
}

function live(stream: Stream, now: number, policy: Policy): Outcome {
  const deadline = seen(stream) ? null : (stream.phase === "live" ? stream.deadline : null) ?? now + policy.unseenMs;
  return enter(stream, "live", now, { deadline, liveSince: stream.liveSince ?? now });
}

function degrade(stream: Stream, reason: string, now: number, forMs: number | null): Outcome {
  const until = forMs === null ? null : now + forMs;
  const deadline = stream.phase === "degraded" && stream.deadline !== null && until !== null ? stream.deadline : until;
  return enter(stream, "degraded", now, { reason, deadline });
}

function onPictures(stream: Stream, now: number, policy: Policy): Outcome {
  const { phase, pictures } = stream;
  if (pictures === "online") {
    if (stream.running) {
      return live(stream, now, policy);
    }
    const again = phase === "stopped" && now - (stream.endedAt ?? now) >= REPEAT_STOP_MS;
    return again ? end(stream, stream.reason ?? "stopped", now) : same(stream);
  }
  if (phase !== "live" && phase !== "degraded") {
    return same(stream);
  }
  switch (pictures) {
    case "waiting":
      return degrade(stream, "no pictures come to the box", now, policy.degradedMs);
    case "none":
      return degrade(stream, "the box has no such stream", now, policy.degradedMs);
    case "unknown":
      return degrade(stream, "the box is away", now, policy.degradedMs);
    case "unwatched":
      return same(stream);
  }
}

function onCloud(stream: Stream, up: boolean, now: number, policy: Policy): Outcome {
  stream = { ...stream, cloudUp: up };
  if (up && stream.phase === "lost" && stream.deadline === null) {
    return request(stream, now, policy);
  }
  return same(stream);
}

function onAdvice(stream: Stream, video: Video, now: number, policy: Policy): Outcome {
  const steady = stream.phase === "live" || (stream.phase === "degraded" && stream.deadline === null);
  const settled = now - (stream.startedAt ?? now) >= policy.settleMs;
  if (!steady || !settled || !stream.cloudUp || sameVideo(stream.video, video)) {
    return same(stream);
  }
  const reason = `the box advises ${video.width}x${video.height} at ${video.fps}`;
  const more: Partial<Stream> = { ...left(stream, now), step: "pause", video, reason, deadline: now + policy.pauseMs };
  return enter(stream, "requested", now, more, [{ kind: "stop" }]);
}

export function sameVideo(a: Video | null, b: Video): boolean {
  return a?.width === b.width && a.height === b.height && a.bitrateBps === b.bitrateBps && a.fps === b.fps;
}

function afterPause(stream: Stream, now: number, policy: Policy): Outcome {
  if (stream.url === null || stream.video === null || !stream.cloudUp) {
    return request(stream, now, policy);
  }
  return start(stream, stream.url, stream.video, now, policy);
}

function onTick(stream: Stream, now: number, policy: Policy): Outcome {
  if (stream.deadline === null || now < stream.deadline) {
    return same(stream);
  }
  switch (stream.phase) {
    case "requested":
      if (stream.step === "pause") {
        return afterPause(stream, now, policy);
      }
      return fail(stream, stream.step === "box" ? "the box does not answer" : "the glasses do not answer", now, policy);
    case "connecting":
      return fail(stream, "the glasses do not reach the box", now, policy);
    case "live":
      return degrade(stream, "the glasses send, and the box sees nothing", now, policy.degradedMs);
    case "degraded":
      // The word that all is well again may have been lost.
      return stream.pictures === "online"
        ? live(stream, now, policy)
        : fail(stream, stream.reason ?? "no pictures", now, policy);
    case "lost":
      // Nothing can be asked of the glasses meanwhile; onCloud() goes on.
      return stream.cloudUp
        ? request(stream, now, policy)
        : { stream: { ...stream, deadline: null, reason: "the cloud is away" }, effects: [] };
    case "stopped":
      return same(stream);
  }
}
