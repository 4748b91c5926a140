/**
 * Opens the viewer in a real Chromium as a person would and looks at what it shows; tests/viewer.rs starts spotter and
 * publishes to it.
 *
 *     node run.mjs URL OUTDIR empty            nothing is published
 *     node run.mjs URL OUTDIR visits           only the visits, of a stream that is being published
 *     node run.mjs URL OUTDIR box TOKEN        a box with slots and Wi-Fi; TOKEN may only read
 *     node run.mjs URL OUTDIR away             a line on the standard output, "restart spotter", has it restarted
 *     node run.mjs URL OUTDIR slow             over a line that "hold MS" on the standard output holds up, and "lose MS" loses;
 *                                              "publish silent" and "publish sound" have the publisher come back as such
 *     node run.mjs URL OUTDIR live TOKEN       the demo clip as `stream`, a stream with B-frames as `bframes`
 *
 * Screenshots, and the boxes that were drawn, are left in OUTDIR. Ends with 0 when everything was as it should be.
 */
import assert from 'node:assert/strict';
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { chromium } from 'playwright-core';
import { iou } from '../../src/web/ui/boxes.mjs';

const [, , url, out, part, token] = process.argv;
const WIDE = { width: 1280, height: 800 };
const VISITS = { width: 1000, height: 720 };
const PHONE = { width: 360, height: 740 };
/** Nothing here is about speed: a busy machine may take its time. */
const PATIENCE = { timeout: 120_000 };
/** How long drawn boxes are watched, ms: one round of the clip, five photographs of 5 s each. */
const WATCHED_MS = 26_000;

mkdirSync(out, { recursive: true });
const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium',
  args: ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking',
    '--disable-component-update', '--disable-sync'],
});

/** A page of its own on `path`, after `before` had it; what it complained of is in `page.complaints`. */
async function open(path, { viewport = WIDE, colorScheme = 'dark', headers = {}, before = () => {} } = {}) {
  const context = await browser.newContext({ viewport, colorScheme, extraHTTPHeaders: headers });
  const page = await context.newPage();
  page.complaints = [];
  page.on('console', (message) => message.type() === 'error' && page.complaints.push(`${message.text()} ${message.location().url}`));
  page.on('pageerror', (error) => page.complaints.push(String(error)));
  await before(page);
  await page.goto(url + path);
  return page;
}

/** Closes a page that had nothing to complain of. */
async function close(page) {
  assert.deepEqual(page.complaints, []);
  await page.context().close();
}

/** The browser itself reports each answer that is no success; those of this status, at such an address, were to be expected. */
function overlooked(page, status, where = '') {
  page.complaints = page.complaints.filter((text) => !(text.includes(`a status of ${status}`) && text.includes(where)));
}

const shot = (page, name) => page.screenshot({ path: join(out, `${name}.png`) });
const text = (page, name) => page.locator(`[data-field=${name}]`).textContent();
const large = (page) => page.locator('.view.large').getAttribute('data-stream');
const playing = (page) => page.locator('.view.large[data-state=live]').waitFor(PATIENCE);
const by = (page, why) => page.locator('[data-field=transport]', { hasText: why }).waitFor(PATIENCE);

/** The demo clip is the second stream by name. */
async function showClip(page) {
  await page.locator('.view.large').waitFor(PATIENCE);
  await page.keyboard.press('2');
  assert.equal(await large(page), 'stream');
  await playing(page);
}

async function fitsThePhone(page) {
  const width = await page.evaluate(() => document.documentElement.scrollWidth);
  assert.ok(width <= PHONE.width, `the page is ${width} pixels wide`);
}

/** Nothing in the header lies upon another thing, nor beside the screen. */
async function headerFits(page) {
  await page.setViewportSize(PHONE);
  const boxes = await page.evaluate(() => [...document.querySelectorAll('header > *')].filter((e) => e.checkVisibility()).map((e) => {
    // What is in it counts too, such as text that is wider.
    const all = [e, ...e.querySelectorAll(':not(svg *)')].filter((part) => part.getClientRects().length && part.offsetWidth !== 1);
    const rects = all.map((part) => part.getBoundingClientRect());
    return {
      name: e.id || e.dataset.action || e.tagName,
      left: Math.min(...rects.map((r) => r.left)), right: Math.max(...rects.map((r) => r.right)),
      top: Math.min(...rects.map((r) => r.top)), bottom: Math.max(...rects.map((r) => r.bottom)),
    };
  }));
  assert.ok(boxes.length >= 4, JSON.stringify(boxes));
  for (const [at, a] of boxes.entries()) {
    assert.ok(a.left >= 0 && a.right <= PHONE.width && a.top >= 0, `beside the screen: ${JSON.stringify(a)}`);
    for (const b of boxes.slice(at + 1)) {
      const apart = a.right <= b.left || b.right <= a.left || a.bottom <= b.top || b.bottom <= a.top;
      assert.ok(apart, `one upon the other: ${JSON.stringify([a, b])}`);
    }
  }
}

/** Runs in the page: keeps what is drawn, what was detected, and the times at which the picture changes altogether. */
function watch(ms) {
  const drawn = [];
  const detected = new Map();
  const cuts = [];
  const pixels = { edges: 0, marked: 0, insides: 0 };
  const token = sessionStorage.getItem('spotter-token');
  const source = new EventSource(`/api/v1/live?stream=stream${token ? `&token=${token}` : ''}`);
  source.addEventListener('detections', ({ data }) => {
    const message = JSON.parse(data);
    detected.set(message.pts_ms, { at: performance.now(), message });
  });
  const view = document.querySelector('[data-stream=stream]');
  const canvas = view.querySelector('.boxes');
  const tiny = new OffscreenCanvas(16, 9).getContext('2d', { willReadFrequently: true });
  const seen = new Set();
  let before;
  const onDrawn = ({ detail }) => {
    if (detail.pts_ms === undefined) return;
    drawn.push({ ...detail, at: performance.now() });
    tiny.drawImage(view.querySelector('video'), 0, 0, 16, 9);
    const { data } = tiny.getImageData(0, 0, 16, 9);
    seen.add(data.join());
    const change = before ? data.reduce((sum, v, i) => sum + Math.abs(v - before[i]), 0) / data.length : 0;
    if (change > 12) cuts.push(detail.pts_ms);
    before = data;
    if (drawn.length % 5 || detail.detections.length !== 1) return;
    const scale = canvas.width / detail.width;
    const [x1, y1, x2, y2] = detail.detections[0].bbox.map((v) => v * scale);
    const alpha = (x, y) => canvas.getContext('2d').getImageData(x, y, 1, 1).data[3];
    pixels.edges += 1;
    pixels.marked += alpha(x1 + 2, (y1 + y2) / 2) > 0 ? 1 : 0;
    pixels.insides += alpha((x1 + x2) / 2, (y1 + y2) / 2) > 0 ? 1 : 0;
  };
  canvas.addEventListener('drawn', onDrawn);
  return new Promise((resolve) => {
    setTimeout(() => {
      canvas.removeEventListener('drawn', onDrawn);
      source.close();
      resolve({ drawn, detected: [...detected], cuts, pixels, pictures: seen.size });
    }, ms);
  });
}

/** The boxes drawn must be those of the frame that is shown, wherever its detections were there in time. */
async function boxesBelong(transport) {
  const page = await open(`/?transport=${transport}`);
  await showClip(page);
  const { drawn, detected, cuts, pixels, pictures } = await page.evaluate(watch, WATCHED_MS);
  assert.ok(pictures > 50, `the picture changed ${pictures} times only`);
  assert.ok(pixels.edges > 0 && pixels.marked >= 0.9 * pixels.edges, `boxes on the canvas: ${JSON.stringify(pixels)}`);
  assert.equal(pixels.insides, 0, 'boxes are hollow');
  const known = new Map(detected);
  let compared = 0;
  for (const frame of drawn) {
    const own = known.get(Math.round(frame.pts_ms));
    // The page hears of them by a connection of its own.
    if (!own || own.at + 500 > frame.at) continue;
    compared += 1;
    for (const { label, bbox } of own.message.detections) {
      const best = Math.max(0, ...frame.detections.filter((d) => d.label === label).map((d) => iou(d.bbox, bbox)));
      assert.ok(best > 0.95, `${label} at ${frame.pts_ms} ms is drawn elsewhere: IoU ${best.toFixed(2)}`);
    }
  }
  console.log(`${transport}: ${drawn.length} frames, ${compared} with detections of their own, cuts at ${cuts.map(Math.round)}`);
  writeFileSync(join(out, `drawn-${transport}.json`), JSON.stringify({ drawn, cuts }));
  await shot(page, transport);
  // Forced to WebRTC, the stream with B-frames is refused.
  overlooked(page, '406');
  await close(page);
}

const mseBoxes = () => boxesBelong('mse');
const whepBoxes = () => boxesBelong('whep');

async function empty() {
  for (const [name, viewport, colorScheme] of [['no-stream', WIDE, 'dark'], ['no-stream-phone', PHONE, 'light']]) {
    const page = await open('/', { viewport, colorScheme });
    await page.getByRole('heading', { name: 'No stream yet' }).waitFor(PATIENCE);
    await page.locator('#publish-qr[src^="data:image/svg+xml"]').waitFor(PATIENCE);
    assert.ok(await page.evaluate(() => document.getElementById('publish-qr').naturalWidth > 0), 'the QR code is a picture');
    assert.match(await page.locator('#publish-url').textContent(), /^rtmp:\/\/.+\/live\/stream/);
    if (viewport === PHONE) await fitsThePhone(page);
    await shot(page, name);
    await page.getByRole('button', { name: 'Copy' }).click();
    await page.locator('#copied:not(:empty)').waitFor();
    await close(page);
  }
}

async function pauses() {
  for (const viewport of [WIDE, PHONE]) {
    const page = await open('/', { viewport });
    const none = page.getByRole('heading', { name: 'No stream yet' });
    await none.waitFor(PATIENCE);
    await page.getByRole('button', { name: 'Privacy pause' }).click();
    await page.getByRole('heading', { name: 'Paused for privacy' }).waitFor(PATIENCE);
    assert.match(await page.locator('#paused-why').textContent(), /by a page like this\. Publishers are refused/);
    assert.ok(!(await none.isVisible()), 'nobody is asked to publish');
    if (viewport === PHONE) await fitsThePhone(page);
    await shot(page, viewport === PHONE ? 'paused-phone' : 'paused');
    // Another page hears of it, and ends it.
    const other = await open('/', { viewport });
    await other.getByRole('heading', { name: 'Paused for privacy' }).waitFor(PATIENCE);
    await other.getByRole('button', { name: 'End the pause' }).click();
    await none.waitFor(PATIENCE);
    await close(other);
    await close(page);
  }
}

async function looks() {
  for (const [name, viewport, colorScheme] of [['viewer', WIDE, 'dark'], ['viewer-light', WIDE, 'light'], ['viewer-phone', PHONE, 'dark']]) {
    const page = await open('/', { viewport, colorScheme });
    await showClip(page);
    // The clip's third photograph shows two kinds of animals, one standing in the open.
    await page.waitForTimeout(12_000);
    const giraffe = (there) => page.waitForFunction(
      (wanted) => document.querySelector('[data-field=animals-now]').textContent.includes('giraffe') === wanted, there, PATIENCE);
    await giraffe(false);
    await giraffe(true);
    await shot(page, name);
    if (viewport === PHONE) await numbersOnThePhone(page);
    await close(page);
  }
}

/** They are right below the picture, and the button goes there from wherever one is. */
async function numbersOnThePhone(page) {
  await fitsThePhone(page);
  await headerFits(page);
  const place = () => page.evaluate(() => {
    const top = (id) => document.getElementById(id).getBoundingClientRect().top;
    return { panel: top('panel'), visits: top('visits'), open: document.getElementById('more').open };
  });
  const { panel, visits, open } = await place();
  assert.ok(panel < visits && panel < PHONE.height && !open, JSON.stringify({ panel, visits, open }));
  await page.evaluate(() => scrollTo(0, document.body.scrollHeight));
  const numbers = page.locator('[data-action=panel]');
  await numbers.evaluate((button) => button.click());
  await page.waitForFunction(() => {
    const { top } = document.getElementById('panel').getBoundingClientRect();
    return document.getElementById('more').open && top > -20 && top < 0.6 * innerHeight;
  }, null, PATIENCE);
  assert.equal(await numbers.getAttribute('aria-pressed'), 'true');
  await shot(page, 'numbers-phone');
  await numbers.evaluate((button) => button.click());
  assert.equal((await place()).open, false);
}

async function choosesByItself() {
  const page = await open('/');
  await playing(page);
  assert.equal(await large(page), 'bframes', 'the first by name is large');
  await by(page, 'MSE: the stream has B-frames');
  assert.equal(await page.locator('[data-stream=stream] .badge').getAttribute('title'), 'MSE: WebRTC is for the large picture');
  await page.keyboard.press('2');
  assert.equal(await large(page), 'stream');
  await by(page, 'WebRTC: lowest latency');
  await playing(page);
  await page.keyboard.press('m');
  await by(page, 'MSE: WebRTC does not carry AAC sound');
  await playing(page);
  await page.waitForFunction(
    () => Number(document.querySelector('[data-field=animals-total]').textContent.replaceAll(',', '')) > 0, null, PATIENCE);
  await close(page);
}

async function keyboard() {
  const page = await open('/');
  await playing(page);
  await page.keyboard.press('?');
  assert.ok(await page.locator('#help').isVisible());
  await shot(page, 'help');
  await page.keyboard.press('2');
  assert.equal(await large(page), 'bframes', 'keys do nothing behind the open dialog');
  await page.keyboard.press('Escape');
  assert.ok(!(await page.locator('#help').isVisible()));
  await page.keyboard.press('ArrowRight');
  assert.equal(await large(page), 'stream');
  await page.keyboard.press('b');
  assert.equal(await page.locator('.large [data-action=boxes]').getAttribute('aria-pressed'), 'false');
  await page.keyboard.press('p');
  assert.ok(!(await page.locator('#panel').isVisible()));
  await page.keyboard.press('p');
  const saved = page.waitForEvent('download', PATIENCE);
  const again = setInterval(() => page.keyboard.press('s').catch(() => {}), 6000);
  await page.keyboard.press('s');
  assert.match((await saved.finally(() => clearInterval(again))).suggestedFilename(), /^stream-.*\.jpg$/);
  await page.locator('#toast', { hasText: /^Saved stream-.*\.jpg$/ }).waitFor(PATIENCE);
  await shot(page, 'snapshot');
  // By Tab to the other tile, and Enter makes it large.
  for (let presses = 0; presses < 20; presses += 1) {
    await page.keyboard.press('Tab');
    if (await page.evaluate(() => document.activeElement.classList.contains('pick'))) break;
  }
  assert.ok(await page.evaluate(() => getComputedStyle(document.activeElement).outlineStyle !== 'none'), 'focus is visible');
  await page.keyboard.press('Enter');
  assert.equal(await large(page), 'bframes');
  await page.keyboard.press('f');
  await page.waitForFunction(() => document.fullscreenElement !== null, null, PATIENCE);
  // The stream that keys choose is the one that is seen.
  await page.keyboard.press('ArrowRight');
  await page.waitForFunction(() => document.querySelector('.large').dataset.stream === 'stream'
    && document.elementFromPoint(innerWidth / 2, innerHeight / 2)?.closest('.view')?.dataset.stream === 'stream'
    && document.querySelector('.large').clientHeight === innerHeight, null, PATIENCE);
  await playing(page);
  // What came of a snapshot is seen there too: here it is a failure.
  await page.route('**/snapshot.jpg*', (route) => route.fulfill({ status: 404, json: { error: { code: 'no_picture', message: 'no picture in time' } } }));
  await page.keyboard.press('s');
  await page.locator('#toast.wrong', { hasText: 'No snapshot: no picture in time' }).waitFor(PATIENCE);
  assert.equal(await page.evaluate(() => document.fullscreenElement.contains(document.getElementById('toast'))), true);
  await shot(page, 'full');
  // A busy machine may have no picture in time; the page says so, and the browser too.
  overlooked(page, '404');
  await close(page);
}

/** A forwarded request counts as from elsewhere, where a token is needed. */
async function asksForTheToken() {
  const headers = { 'X-Forwarded-For': '192.0.2.7' };
  const page = await open('/?token=wrong', { headers });
  const field = page.getByRole('textbox', { name: 'Token' });
  await field.waitFor(PATIENCE);
  assert.ok(!page.url().includes('token'), 'the address keeps no token');
  await shot(page, 'token');
  await field.fill('wrong again');
  await field.press('Enter');
  await page.locator('#gate-why:not(:empty)').waitFor();
  await field.fill(token);
  await page.getByRole('checkbox', { name: 'Remember it on this device' }).check();
  await field.press('Enter');
  await page.locator('.view.large').waitFor(PATIENCE);
  assert.ok(!(await field.isVisible()));
  // Another tab of this browser needs none.
  const tab = await page.context().newPage();
  await tab.goto(url);
  await tab.locator('.view.large').waitFor(PATIENCE);
  // Until it is told to forget it.
  await tab.keyboard.press('?');
  await tab.getByRole('button', { name: 'Forget the token kept here' }).click();
  await tab.getByRole('textbox', { name: 'Token' }).waitFor(PATIENCE);
  overlooked(page, '401');
  await close(page);
}

/** A hidden page plays nothing, and goes on when it is looked at again. */
async function restsWhenHidden() {
  const page = await open('/?transport=mse');
  await playing(page);
  const hide = (hidden) => page.evaluate((value) => {
    Object.defineProperty(document, 'hidden', { configurable: true, get: () => value });
    document.dispatchEvent(new Event('visibilitychange'));
  }, hidden);
  await hide(true);
  assert.equal(await page.evaluate(() => document.querySelector('.large video').src), '');
  await hide(false);
  await page.waitForFunction(() => document.querySelector('.large video').readyState >= 3, null, PATIENCE);
  await close(page);
}

/**
 * Where the browser plays HLS by itself, as iPhones do and newer Chromium. Only Safari says at what time of the clock a video's time
 * line begins: here the playlist is read for it, as Safari does.
 */
async function hlsPlays() {
  let began = false;
  const readPlaylists = async (page) => {
    await page.addInitScript(() => { HTMLMediaElement.prototype.getStartDate = () => new Date(window.startDate); });
    page.on('response', async (response) => {
      if (response.url().includes('/hls/stream/index.m3u8')) began = false;
      if (began || !response.ok() || !response.url().includes('/hls/stream/media.m3u8')) return;
      began = true;
      const date = /#EXT-X-PROGRAM-DATE-TIME:(.*)/.exec(await response.text())[1];
      await page.evaluate((d) => { window.startDate = d; }, date);
    });
  };
  const page = await open('/?transport=hls', { before: readPlaylists });
  await page.locator('.view.large').waitFor(PATIENCE);
  if (!(await page.evaluate(() => document.createElement('video').canPlayType('application/vnd.apple.mpegurl')))) {
    console.log('SKIPPED hlsPlays: this Chromium plays no HLS by itself');
    return page.context().close();
  }
  await page.keyboard.press('2');
  await playing(page);
  await by(page, 'HLS');
  const { drawn, detected } = await page.evaluate(watch, 4000);
  // The time by which boxes are asked for is that of pictures that are some seconds old. More cannot be said here: this browser's
  // time line loses a second or two whenever it comes too late for a segment.
  const newest = Math.max(...detected.map(([pts]) => pts));
  assert.ok(drawn.length > 10, `${drawn.length} pictures have a time`);
  for (const { pts_ms: pts } of drawn) assert.ok(pts > newest - 30_000 && pts <= newest, `${pts} ms beside detections of ${newest} ms`);
  await shot(page, 'hls');
  // A playlist that is not ready yet, and a segment that a busy browser was too late for.
  overlooked(page, '503');
  overlooked(page, '404', '/hls/');
  await close(page);
}

/** A browser with nothing but HLS, that cannot play what comes by it, shows pictures. */
async function fallsToPictures() {
  const page = await open('/', {
    before: async (before) => {
      await before.addInitScript(() => {
        delete window.MediaSource;
        delete window.RTCPeerConnection;
        HTMLMediaElement.prototype.canPlayType = () => 'maybe';
      });
      await before.route(/\/hls\/.*\.m4s/, (route) => route.fulfill({ body: 'no video', contentType: 'video/mp4' }));
    },
  });
  await by(page, 'Pictures: this browser cannot play it by HLS');
  await playing(page);
  overlooked(page, '404');
  overlooked(page, '503');
  await close(page);
}

/** A viewer whose network stands still for a while is told what it lost, and goes on with the newest picture. */
async function tellsLoss() {
  const page = await open('/?transport=mse');
  await playing(page);
  const loss = page.locator('.large .loss', { hasText: /^Lost \d+ frames?$/ });
  // Longer than a viewer may be behind, shorter than it takes to be given up, whatever the kernel holds on the way.
  for (let hold = 3500; !(await loss.isVisible()); hold += 500) {
    assert.ok(hold < 8000, 'nothing was lost though the network stood still');
    console.log(`hold ${hold}`);
    await page.waitForTimeout(hold + 1500);
  }
  await shot(page, 'lost');
  assert.ok(Number(await text(page, 'lost')) > 0);
  await playing(page);
  const seen = await page.evaluate(() => document.querySelector('.large video').currentTime);
  await page.waitForFunction((t) => document.querySelector('.large video').currentTime > t + 1, seen, PATIENCE);
  await close(page);
}

/** Keeps what the large picture says of itself from now on, in the page's `told`. */
const listenTo = (page) => page.evaluate(() => {
  const view = document.querySelector('.view.large');
  let before = view.dataset.state;
  window.told = [];
  new MutationObserver(() => {
    if (view.dataset.state !== before) window.told.push(`${view.dataset.state}: ${view.querySelector('.words').textContent}`);
    before = view.dataset.state;
  }).observe(view, { attributeFilter: ['data-state'] });
});

/** The network is gone and the connections stay open, as they do when nobody says that they are over: the picture is asked for anew. */
async function noticesSilence() {
  const pages = [await open('/?transport=mse'), await open('/?transport=mjpeg')];
  for (const page of pages) {
    await playing(page);
    await listenTo(page);
  }
  console.log('lose 7000');
  for (const page of pages) {
    await page.waitForFunction(() => window.told.at(-1)?.startsWith('live'), null, PATIENCE);
    const told = await page.evaluate(() => window.told);
    assert.equal(told[0], 'retry: No picture for 5 s. Trying again …');
    await page.waitForTimeout(1000);
    page.complaints = page.complaints.filter((said) => !/net::ERR_|WebSocket connection to/.test(said));
    await playing(page);
    await close(page);
  }
}

/** One viewer may watch over WebRTC here: the next one sees the picture all the same, and why it comes another way. */
async function makesDoWithoutWebRtc() {
  const first = await open('/');
  await playing(first);
  await by(first, 'WebRTC: lowest latency');
  const second = await open('/');
  await playing(second);
  await by(second, /^MSE: 1 viewer.* over WebRTC already/);
  overlooked(second, '503', '/whep/stream');
  await close(second);
  await close(first);
}

/** A publisher that comes back without sound, and then with it, is seen at once: the connection stays what it is. */
async function followsTheTracks() {
  const page = await open('/?transport=mse');
  await playing(page);
  await listenTo(page);
  for (const order of ['publish silent', 'publish sound']) {
    console.log(order);
    await page.locator('.view.large[data-state=waiting]').waitFor(PATIENCE);
    await playing(page);
    const seen = await page.evaluate(() => document.querySelector('.large video').currentTime);
    await page.waitForFunction((t) => document.querySelector('.large video').currentTime > t + 1, seen, PATIENCE);
  }
  const told = await page.evaluate(() => window.told.map((words) => words.split(':')[0]));
  assert.ok(!told.includes('retry') && !told.includes('connecting'), `no attempt failed: ${told}`);
  await close(page);
}

/** The page says that spotter is away, and plays again by itself when it is back. */
async function comesBack() {
  const page = await open('/');
  await playing(page);
  console.log('restart spotter');
  await page.locator('#connection[data-state=lost]', { hasText: 'spotter does not answer' }).waitFor(PATIENCE);
  await shot(page, 'away');
  await headerFits(page);
  await shot(page, 'away-phone');
  await page.setViewportSize(WIDE);
  await page.locator('#connection[data-state=connected]').waitFor(PATIENCE);
  await playing(page);
  await page.waitForFunction(() => Number(document.querySelector('[data-field=shown]').textContent) > 5, null, PATIENCE);
  await page.waitForFunction(
    () => Number(document.querySelector('[data-field=animals-total]').textContent) > 0, null, PATIENCE);
  // What a browser says of requests nobody answered.
  page.complaints = page.complaints.filter((said) => !/net::ERR_|WebSocket connection to|a status of 404/.test(said));
  await close(page);
}

async function pictures() {
  const page = await open('/?transport=mjpeg');
  await playing(page);
  assert.ok(await page.evaluate(() => document.querySelector('.large .image').naturalWidth > 0));
  overlooked(page, '404');
  await close(page);
}

/** What was there is listed; one visit is opened, plays, is kept and gone through by keys, and another is deleted. */
async function visits() {
  const page = await open('/?transport=mjpeg');
  const over = page.locator('.visit:not(.there)').filter({ has: page.locator('img:not([hidden])') });
  await over.first().waitFor(PATIENCE);
  const id = await over.first().getAttribute('data-id');
  const card = page.locator(`.visit[data-id="${id}"]`);
  await card.scrollIntoViewIfNeeded();
  const loaded = (selector) => page.waitForFunction((s) => document.querySelector(s)?.naturalWidth > 0, selector, PATIENCE);
  await loaded(`.visit[data-id="${id}"] img`);
  const label = await card.locator('.visit-label').textContent();
  await card.getByRole('button').click();
  const dialog = page.locator('#visit');
  assert.equal(await dialog.locator('#visit-title').textContent(), label);
  await page.waitForFunction(() => document.querySelector('#visit video').currentTime > 1, null, PATIENCE);
  await loaded('#visit [data-visit=picture]');
  const clip = await page.request.get(url + new URL(await dialog.locator('[data-visit=clip-link]').getAttribute('href')).pathname);
  assert.equal(clip.headers()['content-type'], 'video/mp4');
  await shot(page, 'visit');

  const keep = dialog.locator('[data-do=keep]');
  await keep.click();
  await dialog.getByRole('button', { name: 'Kept' }).waitFor(PATIENCE);
  await page.locator(`.visit.kept[data-id="${id}"]`).waitFor(PATIENCE);
  await keep.click();
  await dialog.getByRole('button', { name: 'Keep', exact: true }).waitFor(PATIENCE);

  const clipShown = () => page.evaluate(() => document.querySelector('#visit [data-visit=clip-link]').href);
  const first = await clipShown();
  await dialog.locator('[data-do=close]').focus();
  await page.keyboard.press('ArrowRight');
  assert.notEqual(await clipShown(), first);
  await page.keyboard.press('ArrowLeft');
  assert.equal(await clipShown(), first);
  await dialog.locator('[data-do=delete]').click();
  await shot(page, 'visit-delete');
  await dialog.getByRole('button', { name: 'Yes, delete' }).click();
  await card.waitFor({ state: 'detached', ...PATIENCE });
  await page.keyboard.press('Escape');
  assert.ok(!(await dialog.isVisible()));

  // The timeline, by keys alone: it has the newest bar in the order of Tab.
  await page.locator('#timeline rect[tabindex="0"]').first().focus();
  await page.keyboard.press('ArrowLeft');
  await page.keyboard.press('Enter');
  assert.ok(await dialog.isVisible());
  await page.keyboard.press('Escape');
  await page.locator('#of-label').selectOption(label);
  await page.waitForFunction((l) => [...document.querySelectorAll('.visit-label')].every((e) => e.textContent === l), label, PATIENCE);

  // What somebody switches here is in force.
  await page.locator('#recordings').selectOption('continuous');
  const name = await large(page);
  const settings = async () => (await page.request.get(`${url}/api/v1/streams/${name}/settings`)).json();
  for (let tries = 0; (await settings()).recordings !== 'continuous'; tries += 1) {
    assert.ok(tries < 100, 'the switch has no effect');
    await page.waitForTimeout(100);
  }
  await page.locator('#recordings').selectOption('events');
  // As in `keyboard`: no live picture in time.
  overlooked(page, '404', '/api/v1/streams/');
  await close(page);
}

/** In dark and light, and no wider than a phone. */
async function visitsLook() {
  for (const [name, viewport, colorScheme] of [['visits', VISITS, 'dark'], ['visits-light', WIDE, 'light'], ['visits-phone', PHONE, 'light']]) {
    const page = await open('/?transport=mjpeg', { viewport, colorScheme });
    await page.locator('.visit:not(.there)').first().waitFor(PATIENCE);
    // All the width is the visits'.
    if (viewport === VISITS) await page.keyboard.press('p');
    await page.evaluate(() => document.getElementById('visits').scrollIntoView());
    // Of those that are over: while a visit lasts its picture changes.
    await page.waitForFunction(() => [...document.querySelectorAll('.visit:not(.there) img')].slice(0, 6)
      .filter((i) => !i.hidden && i.naturalWidth > 0).length > 3, null, PATIENCE);
    await page.waitForTimeout(2000);
    // Those in view; more are loaded when somebody scrolls to them.
    await page.waitForFunction(() => [...document.querySelectorAll('.visit:not(.there) img:not([hidden])')]
      .every((i) => i.getBoundingClientRect().top > innerHeight || i.naturalWidth > 0), null, PATIENCE);
    if (viewport === PHONE) await fitsThePhone(page);
    await shot(page, name);
    if (viewport === PHONE) {
      await page.locator('.visit:not(.there) button').first().click();
      await fitsThePhone(page);
      await shot(page, 'visit-phone');
    }
    overlooked(page, '404', '/api/v1/streams/');
    await close(page);
  }
}

/** Updates and Wi-Fi, for the owner only. */
async function theBox() {
  const reader = await open(`/?token=${token}`, { headers: { 'X-Forwarded-For': '192.0.2.7' } });
  await reader.locator('#connection[data-state=connected]').waitFor(PATIENCE);
  await reader.waitForTimeout(1000);
  for (const what of ['[data-action=box]', '[data-action=pause]', '#switches']) {
    assert.ok(!(await reader.locator(what).isVisible()), `a reader has no business with ${what}`);
  }
  await headerFits(reader);
  await close(reader);

  const page = await open('/', { viewport: PHONE });
  await page.locator('[data-action=box]').waitFor(PATIENCE);
  await page.locator('[data-action=pause]').waitFor(PATIENCE);
  await headerFits(page);
  await page.locator('[data-action=box]').click();
  await page.locator('#update-installed', { hasText: '1.0.0' }).waitFor(PATIENCE);
  assert.match(await page.locator('#update-slot').textContent(), /^A, spotter-test-board$/);
  assert.ok(!(await page.locator('#update-newest').isVisible()), 'nothing newer is known');
  await fitsThePhone(page);
  const [inside, wide] = await page.locator('#box').evaluate((box) => [box.clientWidth, box.scrollWidth]);
  assert.ok(wide <= inside, `the dialog is ${wide} wide and shows ${inside}`);
  await page.locator('#wifi-name').fill('barn');
  assert.deepEqual(await page.locator('#wifi-names option').evaluateAll((all) => all.map((o) => o.value)), ['near', 'far']);
  await page.locator('#wifi-password').fill('short');
  await page.locator('#wifi-form button').click();
  await page.locator('#wifi-said.bad', { hasText: '8 to 63' }).waitFor(PATIENCE);
  await page.locator('#wifi-password').fill('long enough');
  await page.locator('#wifi-form button').click();
  await page.locator('#wifi-said', { hasText: 'joins barn now' }).waitFor(PATIENCE);
  assert.equal(await page.locator('#wifi-password').inputValue(), '');
  await shot(page, 'box');

  await page.locator('#update-file').setInputFiles({ name: 'b.raucb', mimeType: 'application/octet-stream', buffer: Buffer.alloc(3_000_000, 7) });
  await page.locator('#update-form button').click();
  await page.locator('#update-said', { hasText: 'waiting for root' }).waitFor(PATIENCE);
  assert.ok(await page.locator('#update-bar').isVisible());
  assert.ok(await page.locator('#update-form button').isDisabled());
  await page.keyboard.press('Escape');
  assert.ok(!(await page.locator('#box').isVisible()));
  overlooked(page, '400', '/api/v1/setup/wifi');
  await close(page);
}

const PARTS = {
  box: [theBox],
  visits: [visits, visitsLook],
  empty: [empty, pauses],
  away: [comesBack],
  slow: [tellsLoss, noticesSilence, makesDoWithoutWebRtc, followsTheTracks],
  live: [mseBoxes, whepBoxes, choosesByItself, keyboard, asksForTheToken, restsWhenHidden,
    pictures, hlsPlays, fallsToPictures, looks, visits, visitsLook],
};
let failed = 0;
for (const check of PARTS[part]) {
  try {
    await check();
    console.log(`ok: ${check.name}`);
  } catch (error) {
    failed += 1;
    console.log(`FAILED: ${check.name}\n${error.stack}`);
  }
}
await browser.close();
process.exitCode = failed ? 1 : 0;
