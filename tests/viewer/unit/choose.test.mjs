import assert from 'node:assert/strict';
import { test } from 'node:test';
import { choose } from '../../../src/web/ui/choose.mjs';

const stream = {
  video: { codec: 'H.264', codec_string: 'avc1.64001f' },
  audio: { codec: 'AAC' },
  b_frames: false,
  webrtc: { offered: true },
};
const all = { webrtc: true, mse: (codec) => codec.startsWith('avc1'), hls: true, anyMse: true };
const iphone = { ...all, mse: () => false, anyMse: false };
const pick = (s, can = all, refused = {}, wish = {}) => {
  const { transport, why } = choose({ ...stream, ...s }, can, refused, wish);
  return `${transport}: ${why}`;
};

test('the least delay that works', () => {
  assert.equal(pick({}), 'whep: lowest latency');
  assert.equal(pick({ b_frames: true }), 'mse: the stream has B-frames');
  assert.equal(pick({ webrtc: { offered: false, why: 'it is switched off' } }), 'mse: it is switched off');
  assert.equal(pick({}, { ...all, webrtc: false }), 'mse: this browser has no WebRTC');
  assert.equal(pick({}, all, { whep: 'no direct path' }), 'mse: no direct path');
});

test('sound may need another way than WebRTC', () => {
  assert.equal(pick({}, all, {}, { sound: true }), 'mse: WebRTC does not carry AAC sound');
  assert.equal(pick({ audio: null }, all, {}, { sound: true }), 'whep: lowest latency');
  assert.equal(pick({ audio: { codec: 'Opus' } }, all, {}, { sound: true }), 'whep: lowest latency');
});

test('a small tile leaves the places for WebRTC to the large picture, where it can', () => {
  assert.equal(pick({}, all, {}, { small: true }), 'mse: WebRTC is for the large picture');
  assert.equal(pick({}, all, {}, { small: true, forced: 'whep' }), 'whep: chosen in the address');
  assert.equal(pick({}, all, { mse: 'it failed' }, { small: true }), 'whep: lowest latency');
  assert.equal(pick({}, iphone, {}, { small: true }), 'whep: lowest latency');
});

test('what the browser cannot decode comes as pictures', () => {
  const hevc = { video: { codec: 'H.265', codec_string: 'hvc1.1.6.L93.b0' }, webrtc: { offered: false } };
  assert.equal(pick(hevc), 'mjpeg: this browser does not play H.265');
  assert.equal(pick({}, all, { whep: 'x', mse: 'sound of an unknown kind' }), 'mjpeg: sound of an unknown kind');
  assert.equal(pick({ video: { codec: 'H.264' } }, { ...all, webrtc: false }), 'mjpeg: this browser does not play H.264');
});

test('HLS is for browsers without MSE', () => {
  assert.equal(pick({ b_frames: true }, iphone), 'hls: this browser has no MSE');
  assert.equal(pick({ b_frames: true }, iphone, { hls: 'it failed' }), 'mjpeg: it failed');
});

test('the address has the last word', () => {
  assert.equal(pick({ b_frames: true }, all, {}, { forced: 'whep' }), 'whep: chosen in the address');
  assert.equal(pick({}, all, {}, { forced: 'nonsense' }), 'whep: lowest latency');
});
