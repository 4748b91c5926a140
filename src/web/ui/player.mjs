/** Plays one stream: picks a transport, takes the next when one is unfit, and tries again when one broke. */

import { choose } from './choose.mjs';
import { Timeline, unwrapRtp } from './boxes.mjs';
import { hls, hlsCan, startOf } from './hls.mjs';
import { mse, mseCan } from './mse.mjs';
import { pictures } from './pictures.mjs';
import { Backoff, sleep } from './retry.mjs';
import { Unfit } from './unfit.mjs';
import { Watch } from './watch.mjs';
import { whep } from './whep.mjs';

/**
 * @typedef {{video: HTMLVideoElement, image: HTMLImageElement, large: () => boolean, shown: () => void, seen: () => number}} Screen
 *   where a transport shows its pictures; `shown` counts one that came without the video element, `seen` says how many were shown
 * @typedef {{state?: 'connecting'|'live'|'waiting'|'silent'|'retry'|'blocked', transport?: string, why?: string, text?: string,
 *   lost?: number}} News
 */

/** How often is looked whether pictures are shown, ms. */
const LOOK_MS = 250;

const RUN = { whep, mse, hls, mjpeg: pictures };

/** What a frame's metadata says of its time, ms of the stream; null when it says nothing. */
const TIME = {
  whep: ({ rtpTimestamp: rtp }, { newest }) => (rtp === undefined ? newest.pts : unwrapRtp(rtp, newest.pts)),
  mse: (frame) => frame.mediaTime * 1000,
  hls: (frame, history, video, timeline) => {
    const start = startOf(video);
    return start === null ? null : timeline.at(start, frame.mediaTime, history);
  },
  mjpeg: () => null,
};

const can = {
  webrtc: 'RTCPeerConnection' in window,
  mse: mseCan,
  hls: hlsCan(),
  anyMse: 'MediaSource' in window,
};

const forced = new URL(location.href).searchParams.get('transport');

export class Player {
  /** @type {AbortController|null} */
  #running = null;
  #ended = Promise.resolve();
  #stream = null;
  /** When `#stream` was heard, ms. */
  #heard = 0;
  #refused = {};
  #transport = 'mse';
  #timeline = new Timeline();

  /** @param {Screen} screen @param {(news: News) => void} tell */
  constructor(screen, tell) {
    this.screen = screen;
    this.tell = tell;
  }

  /** The stream as it is now; another kind of video is another choice. */
  set stream(stream) {
    const kind = (s) => JSON.stringify([s?.video?.codec_string, s?.b_frames, s?.webrtc?.offered]);
    const changed = kind(stream) !== kind(this.#stream);
    this.#stream = stream;
    this.#heard = performance.now();
    if (!changed) return;
    this.#refused = {};
    this.restart();
  }

  /** Stops, and plays on at once when `on`. @param {boolean} on */
  turn(on) {
    if (on === Boolean(this.#running)) return;
    this.#running?.abort(new DOMException('stopped', 'AbortError'));
    this.#running = on ? new AbortController() : null;
    const signal = this.#running?.signal;
    // One after the other: the last one still has to let go of the video element.
    if (signal) this.#ended = this.#ended.then(() => this.#run(signal));
  }

  /** Chooses again, if it plays at all. */
  restart() {
    if (!this.#running) return;
    this.turn(false);
    this.turn(true);
  }

  /** Chooses again where that is another way: the picture became large or small. */
  fit() {
    if (this.#stream?.video && this.#choice().transport !== this.#transport) this.restart();
  }

  #choice() {
    const { video, large } = this.screen;
    return choose(this.#stream, can, this.#refused, { forced, sound: !video.muted, small: !large() });
  }

  /**
   * A frame's time, ms of the stream, or null.
   * @param {VideoFrameCallbackMetadata} frame @param {import('./boxes.mjs').History} history
   */
  time(frame, history) {
    return history.size ? TIME[this.#transport](frame, history, this.screen.video, this.#timeline) : null;
  }

  async #run(signal) {
    const backoff = new Backoff();
    const tell = (news) => {
      if (signal.aborted) return;
      if (news.state === 'live') backoff.reset();
      this.tell(news);
    };
    while (!signal.aborted) {
      if (!this.#stream?.video) return tell({ state: 'waiting' });
      const { transport, why } = this.#choice();
      this.#transport = transport;
      tell({ state: 'connecting', transport, why });
      try {
        await this.#once(transport, signal, tell);
      } catch (error) {
        if (signal.aborted) return;
        if (error instanceof Unfit && !forced) {
          this.#refused[transport] = error.message;
          continue;
        }
        tell({ state: 'retry', text: error.message });
      }
      await sleep(backoff.next(), signal).catch(() => {});
    }
  }

  async #once(transport, signal, tell) {
    const { video, image } = this.screen;
    video.hidden = transport === 'mjpeg';
    image.hidden = !video.hidden;
    video.playbackRate = 1;
    this.#timeline = new Timeline();
    let state = 'connecting';
    const say = (news) => {
      state = news.state ?? state;
      tell(news);
    };
    const attempt = new AbortController();
    const stop = () => attempt.abort(signal.reason);
    signal.addEventListener('abort', stop);
    try {
      const over = RUN[transport](this.#stream, this.screen, attempt.signal, say);
      if (!video.hidden) start(video, say);
      await Promise.race([over, this.#watch(attempt.signal, () => state, say)]);
    } finally {
      signal.removeEventListener('abort', stop);
      attempt.abort(new DOMException('over', 'AbortError'));
      release(video);
    }
  }

  /** Tells what is to be seen, whatever the connection believes; rejects when that is nothing for too long. */
  async #watch(signal, state, say) {
    const { video } = this.screen;
    const watch = new Watch(performance.now(), count(this.screen));
    for (;;) {
      await sleep(LOOK_MS, signal);
      const [now, seen] = [performance.now(), count(this.screen)];
      if (!video.hidden && video.paused) {
        watch.rest(now, seen);
        // By the keys of a headset, say.
        if (state() === 'live') say({ state: 'blocked' });
        continue;
      }
      const found = watch.look(now, seen, this.#stream, this.#heard);
      if (found === 'lost') throw new Error(`no picture for ${watch.patience / 1000} s`);
      if (found && found !== state()) say({ state: found });
    }
  }
}

/** Shown by now; the browser counts too, also where it tells of no single frame. */
function count({ video, seen }) {
  return seen() + (video.hidden ? 0 : (video.getVideoPlaybackQuality?.().totalVideoFrames ?? 0));
}

/** Browsers refuse to play by themselves what has sound, some of them everything. */
function start(video, tell) {
  video.play().catch((error) => {
    if (error.name === 'NotAllowedError') tell({ state: 'blocked' });
  });
}

function release(video) {
  video.srcObject = null;
  video.removeAttribute('src');
  video.load();
}
