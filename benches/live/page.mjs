// The viewer's own page in Chromium: which of the clock's pictures is on screen, and since when.
//
//   page.mjs URL SECONDS
//
// One line a picture: its number and the wall clock, in seconds, at which the page had its pixels.
import { mkdtempSync, rmSync } from 'node:fs';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

const require = createRequire(new URL('../../tests/viewer/package.json', import.meta.url));
const { chromium } = require('playwright-core');

const [url, seconds] = process.argv.slice(2);
const profile = mkdtempSync(join(tmpdir(), 'spotter-bench-'));
const context = await chromium.launchPersistentContext(profile, {
  executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium',
  args: ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking',
    '--disable-component-update', '--disable-sync', '--autoplay-policy=no-user-gesture-required'],
});
try {
  const page = await context.newPage();
  await page.exposeFunction('seen', (lines) => process.stdout.write(lines));
  await page.goto(url);
  await page.waitForFunction(() => [...document.querySelectorAll('video')].some((v) => v.videoWidth > 0 && !v.paused));
  await page.evaluate(() => {
    // As in clock.py.
    const [BITS, SIDE, LEFT, TOP] = [16, 32, 16, 16];
    const video = [...document.querySelectorAll('video')].find((v) => v.videoWidth > 0 && !v.paused);
    const canvas = new OffscreenCanvas(BITS * SIDE, 1);
    const context = canvas.getContext('2d', { willReadFrequently: true });
    let lines = '';
    setInterval(() => { window.seen(lines); lines = ''; }, 500);
    const look = () => {
      context.drawImage(video, LEFT, TOP + SIDE / 2, BITS * SIDE, 1, 0, 0, BITS * SIDE, 1);
      const { data } = context.getImageData(0, 0, BITS * SIDE, 1);
      let number = 0;
      let sure = true;
      for (let bit = 0; bit < BITS; bit += 1) {
        const light = data[(bit * SIDE + SIDE / 2) * 4];
        sure &&= light < 80 || light > 176;
        number = number * 2 + (light > 128 ? 1 : 0);
      }
      if (sure) lines += `${number} ${(performance.timeOrigin + performance.now()) / 1000}\n`;
      video.requestVideoFrameCallback(look);
    };
    video.requestVideoFrameCallback(look);
  });
  // The bench ends this by a signal when it has seen enough.
  await page.waitForTimeout(Number(seconds) * 1000).catch(() => {});
} finally {
  await context.close();
  rmSync(profile, { recursive: true, force: true });
}
