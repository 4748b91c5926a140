/** One stream on the page: its picture with the boxes, its name and state, and the buttons below it. */

import { History } from './boxes.mjs';
import { NAMES } from './choose.mjs';
import { draw } from './overlay.mjs';
import { Player } from './player.mjs';

/** How long a loss is told, ms. */
const LOSS_SHOWN_MS = 5000;

/** What a state is called. @type {Record<string, (news: import('./player.mjs').News) => string>} */
const WORDS = {
  connecting: () => 'Connecting to the video …',
  live: () => '',
  waiting: () => 'Waiting for the camera to come back …',
  silent: () => 'The camera is there and sends no pictures …',
  retry: ({ text }) => `${sentence(text)}. Trying again …`,
  blocked: () => 'Your browser waits for you: press play.',
};

const sentence = (text) => text.charAt(0).toUpperCase() + text.slice(1);

export class View {
  boxesOn = true;
  /** Pictures shown and lost since the page was opened. */
  shown = 0;
  lost = 0;
  /** The newest news of the player, put together. @type {import('./player.mjs').News} */
  news = { state: 'waiting' };
  #history = new History();
  #onScreen = false;
  #awake = true;
  #presented = 0;
  #lossTimer = 0;

  /**
   * @param {string} name of the stream
   * @param {{chosen: () => void, changed: () => void, act: (action: string) => void}} page what to tell the page
   */
  constructor(name, page) {
    this.name = name;
    this.page = page;
    this.element = document.getElementById('view-template').content.firstElementChild.cloneNode(true);
    this.element.dataset.stream = name;
    const part = (role) => this.element.querySelector(`.${role}`);
    this.video = part('video');
    this.canvas = part('boxes');
    this.parts = { title: part('title'), badge: part('badge'), words: part('words'), loss: part('loss') };
    this.parts.title.textContent = name;
    this.video.muted = true;
    this.pick = part('pick');
    this.pick.setAttribute('aria-label', `Show ${name} large`);
    this.pick.addEventListener('click', page.chosen);
    for (const button of this.element.querySelectorAll('[data-action]')) {
      button.addEventListener('click', () => page.act(button.dataset.action));
    }
    const screen = {
      video: this.video,
      image: part('image'),
      large: () => this.large,
      shown: () => { this.shown += 1; },
      seen: () => this.shown,
    };
    this.player = new Player(screen, (news) => this.#hear(news));
    this.video.requestVideoFrameCallback?.(this.#frame);
    this.video.addEventListener('resize', () => this.#ratio(this.video.videoWidth, this.video.videoHeight));
    this.watcher = new IntersectionObserver(([entry]) => {
      this.#onScreen = entry.isIntersecting;
      this.#turn();
    });
    this.watcher.observe(this.element);
  }

  get large() {
    return this.element.classList.contains('large');
  }

  set large(on) {
    this.element.classList.toggle('large', on);
    this.pick.hidden = on;
    this.player.fit();
  }

  /** The stream as `/api/v1/streams` has it. */
  set stream(stream) {
    this.info = stream;
    if (stream.video) this.#ratio(stream.video.width, stream.video.height);
    this.player.stream = stream;
    this.#say();
  }

  /** Whether somebody can see the page. @param {boolean} on */
  set awake(on) {
    this.#awake = on;
    this.#turn();
  }

  /** @param {object} message the wire form of detections */
  detected(message) {
    this.#history.add(message, performance.now());
  }

  /** What was found is of another time line. */
  forget() {
    this.#history.clear();
  }

  toggleBoxes() {
    this.boxesOn = !this.boxesOn;
    this.#pressed('boxes', this.boxesOn);
    this.#draw([]);
  }

  toggleSound() {
    this.video.muted = !this.video.muted;
    this.#pressed('sound', !this.video.muted);
    // WebRTC carries no sound, so the choice may be another one.
    this.player.restart();
  }

  play() {
    this.video.play().catch(() => {});
  }

  remove() {
    this.watcher.disconnect();
    this.player.turn(false);
    this.element.remove();
  }

  #turn() {
    this.player.turn(this.#onScreen && this.#awake);
  }

  #pressed(action, on) {
    this.element.querySelector(`[data-action=${action}]`).setAttribute('aria-pressed', String(on));
  }

  #ratio(width, height) {
    if (width && height) this.element.style.setProperty('--ratio', width / height);
  }

  #hear(news) {
    if (news.lost) this.#tellLoss(news.lost);
    if (news.state === 'connecting') this.#draw([]);
    const before = this.news;
    this.news = { ...before, ...news };
    if (this.news.state !== before.state || news.transport) this.#say();
  }

  #tellLoss(count) {
    this.lost += count;
    this.parts.loss.textContent = count === 1 ? 'Lost 1 frame' : `Lost ${count} frames`;
    this.parts.loss.hidden = false;
    clearTimeout(this.#lossTimer);
    this.#lossTimer = setTimeout(() => { this.parts.loss.hidden = true; }, LOSS_SHOWN_MS);
  }

  #say() {
    const away = this.info?.status === 'waiting';
    const state = away ? 'waiting' : this.news.state;
    const { transport, why } = this.news;
    this.element.dataset.state = state;
    this.parts.words.textContent = WORDS[state](this.news);
    this.parts.badge.textContent = transport ? NAMES[transport] : '';
    this.parts.badge.title = transport ? `${NAMES[transport]}: ${why}` : '';
    this.page.changed();
  }

  /** @param {DOMHighResTimeStamp} _ @param {VideoFrameCallbackMetadata} frame */
  #frame = (_, frame) => {
    this.video.requestVideoFrameCallback(this.#frame);
    // A new source counts from 0 again; pictures the page was too slow for were shown all the same.
    this.shown += frame.presentedFrames > this.#presented ? frame.presentedFrames - this.#presented : 1;
    this.#presented = frame.presentedFrames;
    const pts = this.player.time(frame, this.#history);
    if (pts !== null) this.#draw(this.#history.at(pts, performance.now()), pts);
  };

  #draw(boxes, pts) {
    const { width, height } = this.#history.newest ?? { width: 16, height: 9 };
    draw(this.canvas, this.boxesOn ? boxes : [], { width, height });
    this.canvas.dispatchEvent(new CustomEvent('drawn', { detail: { pts_ms: pts, width, height, detections: boxes } }));
  }
}
