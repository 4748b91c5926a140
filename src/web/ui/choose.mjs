/** Which way the picture of a stream comes, and why. Pure: it is told what the browser can. */

/**
 * @typedef {'whep'|'mse'|'hls'|'mjpeg'} Transport
 * @typedef {{webrtc: boolean, mse: (codec: string) => boolean, hls: boolean, anyMse: boolean}} Abilities
 */

/** What people call them. */
export const NAMES = { whep: 'WebRTC', mse: 'MSE', hls: 'HLS', mjpeg: 'Pictures' };

/**
 * @param {object} stream as `/api/v1/streams` has it, with `video`
 * @param {Abilities} can
 * @param {Partial<Record<Transport, string>>} refused what was tried, and why it was no good
 * @param {{forced?: Transport|null, sound?: boolean, small?: boolean}} wish the page's `?transport=`, whether sound is on, and
 *   whether the picture is a small tile
 * @returns {{transport: Transport, why: string}}
 */
export function choose(stream, can, refused, wish) {
  if (wish.forced in NAMES) return { transport: wish.forced, why: 'chosen in the address' };
  const codec = stream.video.codec;
  const noMse = refused.mse ?? (can.mse(stream.video.codec_string ?? '') ? '' : `this browser does not play ${codec}`);
  // Places for WebRTC are few, and each costs spotter encryption of its own; nobody sees 50 ms in a tile.
  if (wish.small && !noMse) return { transport: 'mse', why: 'WebRTC is for the large picture' };
  const noWhep = refused.whep ?? withoutWebRtc(stream, can, wish);
  if (!noWhep) return { transport: 'whep', why: 'lowest latency' };
  if (!noMse) return { transport: 'mse', why: noWhep };
  if (can.hls && !can.anyMse && !refused.hls) return { transport: 'hls', why: 'this browser has no MSE' };
  return { transport: 'mjpeg', why: refused.hls ?? noMse };
}

/** Whether browsers take this sound over WebRTC. @param {{codec: string}} audio */
export const carriesSound = ({ codec }) => codec === 'Opus';

function withoutWebRtc(stream, can, wish) {
  if (!can.webrtc) return 'this browser has no WebRTC';
  if (stream.b_frames) return 'the stream has B-frames';
  if (!stream.webrtc?.offered) return stream.webrtc?.why || 'spotter offers no WebRTC for this stream';
  const silent = stream.audio && !carriesSound(stream.audio);
  return wish.sound && silent ? `WebRTC does not carry ${stream.audio.codec} sound` : '';
}
