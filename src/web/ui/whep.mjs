/** Plays a stream over WebRTC: one offer, one answer, and the picture comes with the least delay. */

import { ask, Refused } from './api.mjs';
import { carriesSound } from './choose.mjs';
import { aborted, sleep } from './retry.mjs';
import { Unfit } from './unfit.mjs';

/** A direct path is there within this time, or never; ms. */
const CONNECT_MS = 3000;
/** The first picture after that: it starts from a key frame that spotter keeps; ms. */
const PICTURE_MS = 4000;

/** Refusals that another offer would not change, soon: the picture comes another way. */
const UNFIT = new Set(['b_frames', 'codec', 'bad_sdp', 'busy', 'no_socket', 'webrtc_off']);

/**
 * Plays until something breaks (rejects).
 * @param {object} stream @param {import('./player.mjs').Screen} screen @param {AbortSignal} signal
 */
export async function whep(stream, { video }, signal) {
  const peer = new RTCPeerConnection();
  let session;
  try {
    const { receiver } = peer.addTransceiver('video', { direction: 'recvonly' });
    // A smooth row of pictures is worth less than a fresh one.
    if ('jitterBufferTarget' in receiver) receiver.jitterBufferTarget = 0;
    const tracks = [receiver.track];
    if (stream.audio && carriesSound(stream.audio)) {
      tracks.push(peer.addTransceiver('audio', { direction: 'recvonly' }).receiver.track);
    }
    video.srcObject = new MediaStream(tracks);
    await peer.setLocalDescription();
    session = await open(stream.stream, peer, signal);
    await Promise.race([
      connected(peer),
      sleep(CONNECT_MS, signal).then(() => {
        throw new Unfit('no direct path for WebRTC');
      }),
    ]);
    await Promise.race([
      new Promise((resolve) => video.addEventListener('loadeddata', resolve, { once: true })),
      sleep(PICTURE_MS, signal).then(() => {
        throw new Unfit('no picture came over WebRTC');
      }),
    ]);
    await Promise.race([broken(peer), aborted(signal)]);
  } finally {
    peer.close();
    // Where the network is gone it must not take one of the browser's few connections for ever.
    if (session) ask(session, { method: 'DELETE', keepalive: true, signal: AbortSignal.timeout(5000) }).catch(() => {});
  }
}

/** @returns {Promise<URL>} the session's address. spotter finds this browser by its first packet, so nothing trickles. */
async function open(stream, peer, signal) {
  const path = `/whep/${encodeURIComponent(stream)}`;
  const headers = { 'Content-Type': 'application/sdp' };
  const body = peer.localDescription.sdp;
  try {
    const response = await ask(path, { method: 'POST', headers, body, signal });
    const session = new URL(response.headers.get('Location'), location.href);
    await peer.setRemoteDescription({ type: 'answer', sdp: await response.text() });
    return session;
  } catch (error) {
    if (error instanceof Refused && UNFIT.has(error.code)) throw new Unfit(error.message);
    throw error;
  }
}

const connected = (peer) => when(peer, (state) => state === 'connected');

async function broken(peer) {
  await when(peer, (state) => state === 'failed' || state === 'closed');
  throw new Error('the WebRTC connection is lost');
}

function when(peer, wanted) {
  return new Promise((resolve) => {
    const look = () => wanted(peer.connectionState) && resolve();
    peer.addEventListener('connectionstatechange', look);
    look();
  });
}
