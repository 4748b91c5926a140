import assert from 'node:assert/strict';
import { test } from 'node:test';
import { steady } from '../../../src/web/ui/hls.mjs';

const BEGAN = Date.parse('2026-11-26T09:00:00Z');
const came = (ms) => `#EXT-X-PROGRAM-DATE-TIME:${new Date(BEGAN + ms).toISOString()}`;
const segment = (ms) => [came(ms), '#EXT-X-PART:DURATION=0.40000,URI="part-1-0.m4s",INDEPENDENT=YES', '#EXTINF:2.00000,', 'seg-1.m4s'];

test('a segment that came late does not shift the time line', () => {
  const playlist = ['#EXTM3U', '#EXT-X-DISCONTINUITY-SEQUENCE:0', ...[900, 2010, 4000, 6020].flatMap(segment), came(8010), ''].join('\n');
  assert.equal(steady(playlist, BEGAN + 900), BEGAN + 10);
  assert.equal(steady(playlist, BEGAN + 4000), BEGAN + 4010);
});

test('only segments that go on from each other count', () => {
  const parts = [segment(0), segment(2000), ['#EXT-X-DISCONTINUITY'], segment(9000), segment(11_500), segment(13_500)];
  const playlist = parts.flat().join('\n');
  assert.equal(steady(playlist, BEGAN), BEGAN);
  assert.equal(steady(playlist, BEGAN + 9000), BEGAN + 9500);
});

test('of what is not in the playlist nothing better is known', () => {
  assert.equal(steady('', BEGAN), BEGAN);
  assert.equal(steady(segment(2000).join('\n'), BEGAN), BEGAN);
});
