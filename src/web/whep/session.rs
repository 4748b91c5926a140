//! One WebRTC viewer from its first check to its end. It reads the stream at the viewer's pace; `line` drives str0m, and how
//! packets find it is `table`'s business.

use std::sync::Arc;
use std::time::{Duration, Instant};

use str0m::media::MediaTime as RtpTime;
use str0m::rtp::{ExtensionValues, RtpWrite, SeqNo};
use str0m::{Event, IceConnectionState};
use tokio::time::{sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use super::Counters;
use super::answer::Track;
use super::line::{End, Line, Step};
use super::packets::payloads;
use crate::media::ring::{Cursor, Read};
use crate::media::{AccessUnit, AudioCodec, AudioUnit, MediaTime, Unit, VideoCodec};

/// What a viewer is sent at most for longer than a moment, bytes a second: a new one is given up to a whole GOP at once,
/// and more than this only overflows its receive buffer.
const RATE: f64 = 5e6;
/// How far ahead of `RATE` a burst may run.
const BURST: Duration = Duration::from_millis(20);

pub(super) struct Session {
    pub(super) line: Line,
    pub(super) video: Track,
    pub(super) audio: Option<Track>,
    pub(super) cursor: Cursor,
    pub(super) counters: Arc<Counters>,
    pub(super) ice_timeout: Duration,
    pub(super) flow: Flow,
}

/// Where the viewer is in the stream.
#[derive(Debug)]
pub(super) struct Flow {
    connected: bool,
    /// Nothing can be decoded before the next key frame.
    until_key: bool,
    last_pts: MediaTime,
    video_seq: SeqNo,
    audio_seq: SeqNo,
    /// When the bytes sent so far would all have gone at `RATE`.
    sent_by: Instant,
}

impl Default for Flow {
    fn default() -> Self {
        Self {
            connected: false,
            until_key: true,
            last_pts: MediaTime::ZERO,
            video_seq: SeqNo::default(),
            audio_seq: SeqNo::default(),
            sent_by: Instant::now(),
        }
    }
}

impl Session {
    /// Serves the viewer to its end or until `stop`.
    pub(super) async fn run(mut self, stop: CancellationToken) -> End {
        match self.serve(stop).await {
            Ok(never) => match never {},
            Err(end) => {
                if !matches!(end, End::Left | End::Silent | End::IceTimeout) {
                    // Best effort: the viewer learns at once what it would find out by itself in 15 s.
                    self.line.hang_up().await;
                }
                end
            }
        }
    }

    async fn serve(&mut self, stop: CancellationToken) -> Result<std::convert::Infallible, End> {
        let patience = sleep(self.ice_timeout);
        tokio::pin!(patience);
        loop {
            let wake = self.drain().await?;
            tokio::select! {
                datagram = self.line.inbox.recv() => {
                    self.line.receive(&datagram.ok_or(End::Stopped)?)?;
                }
                read = paced(&mut self.cursor, self.flow.sent_by), if self.flow.connected => {
                    self.read(read.ok_or(End::StreamEnded)?)?;
                }
                () = sleep_until(wake.into()) => {}
                () = &mut patience, if !self.flow.connected => return Err(End::IceTimeout),
                () = stop.cancelled() => return Err(End::Stopped),
            }
        }
    }

    /// Lets str0m do all it has to do now; when it wants to be called again.
    async fn drain(&mut self) -> Result<Instant, End> {
        loop {
            match self.line.step().await? {
                Step::Wait(until) => return Ok(until),
                Step::Event(event) => self.event(*event)?,
            }
        }
    }

    fn event(&mut self, event: Event) -> Result<(), End> {
        match event {
            Event::Connected => {
                self.flow.connected = true;
                self.flow.until_key = true;
                self.cursor.restart();
            }
            Event::IceConnectionStateChange(IceConnectionState::Disconnected) => {
                return Err(End::Silent);
            }
            // The glasses cannot be asked for a key frame: only one that is already here helps.
            Event::KeyframeRequest(_) => {
                self.counters.keyframe_requests.inc();
                let skipped = self.cursor.skip_ahead();
                self.counters.units_dropped.add(skipped);
                self.flow.until_key |= skipped > 0;
            }
            _ => {}
        }
        Ok(())
    }

    fn read(&mut self, read: Read) -> Result<(), End> {
        match read {
            Read::Lagged { skipped } => {
                self.counters.lagged.inc();
                self.counters.units_dropped.add(skipped);
                self.flow.until_key = true;
            }
            Read::Unit(Unit::Video(unit)) => self.video(&unit)?,
            Read::Unit(Unit::Audio(unit)) => self.audio(&unit),
        }
        Ok(())
    }

    fn video(&mut self, unit: &AccessUnit) -> Result<(), End> {
        let flow = &mut self.flow;
        let backwards = !flow.until_key && unit.pts < flow.last_pts;
        if unit.params.codec != VideoCodec::H264 || backwards {
            return Err(End::Unfit);
        }
        flow.until_key = !unit.intact || (flow.until_key || unit.discontinuity) && !unit.key;
        let payloads = if flow.until_key { Ok(Vec::new()) } else { payloads(unit) };
        let payloads = payloads.unwrap_or_default();
        if payloads.is_empty() {
            self.counters.units_dropped.inc();
            flow.until_key = true;
            return Ok(());
        }
        flow.last_pts = unit.pts;
        flow.spend(unit.data.len());
        // To the millisecond, as in the detections, so that the viewer matches boxes and pictures by equality.
        let time = ticks(unit.pts.as_millis().saturating_mul(90));
        let last = payloads.len() - 1;
        let mut rtc = self.line.rtc.direct_api();
        let Some(stream) = rtc.stream_tx_by_mid(self.video.mid, None) else { return Ok(()) };
        for (i, payload) in payloads.into_iter().enumerate() {
            // Shown when it comes: a live picture that waits in a buffer is a late picture.
            let ext_vals = ExtensionValues {
                play_delay_min: Some(RtpTime::ZERO),
                play_delay_max: Some(RtpTime::ZERO),
                ..Default::default()
            };
            let seq = next(&mut flow.video_seq);
            stream.write_rtp(
                RtpWrite::new(self.video.pt, seq, time, unit.arrived.mono, payload)
                    .marker(i == last)
                    .nackable(true)
                    .ext_vals(ext_vals),
            );
        }
        Ok(())
    }

    /// Opus passes through (RFC 7587); a browser has no AAC in WebRTC.
    fn audio(&mut self, unit: &AudioUnit) {
        let Some(track) = self.audio.filter(|_| unit.params.codec == AudioCodec::Opus) else {
            return;
        };
        let time = ticks(unit.pts.as_micros().saturating_mul(48) / 1000);
        let seq = next(&mut self.flow.audio_seq);
        self.flow.spend(unit.data.len());
        let mut rtc = self.line.rtc.direct_api();
        if let Some(stream) = rtc.stream_tx_by_mid(track.mid, None) {
            let payload = &unit.data[..];
            stream.write_rtp(RtpWrite::new(track.pt, seq, time, unit.arrived.mono, payload));
        }
    }
}

impl Flow {
    fn spend(&mut self, bytes: usize) {
        self.sent_by =
            self.sent_by.max(Instant::now()) + Duration::from_secs_f64(bytes as f64 / RATE);
    }
}

/// The next unit, not before the ones sent are likely to be through. Cancel-safe.
async fn paced(cursor: &mut Cursor, sent_by: Instant) -> Option<Read> {
    if sent_by.saturating_duration_since(Instant::now()) > BURST {
        sleep_until((sent_by - BURST).into()).await;
    }
    cursor.next().await
}

/// RTP's time wraps at 32 bits (RFC 3550 5.1).
fn ticks(time: i64) -> u32 {
    time as u32
}

fn next(seq: &mut SeqNo) -> SeqNo {
    *seq = SeqNo::from(**seq + 1);
    *seq
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_is_exact_and_wraps() {
        assert_eq!(ticks(MediaTime::from_millis(41_133).as_millis() * 90), 3_701_970);
        let day = MediaTime::from_millis(86_400_000).as_millis();
        assert_eq!(u64::from(ticks(day * 90)), 86_400_000 * 90 % (1 << 32));
    }

    #[test]
    fn a_burst_is_spread_and_a_live_stream_is_not_held() {
        let mut flow = Flow::default();
        let began = Instant::now();
        (0..60).for_each(|_| flow.spend(10_000));
        let ahead = flow.sent_by.saturating_duration_since(began);
        assert!(ahead >= Duration::from_millis(119), "{ahead:?}");
        flow.sent_by = began - Duration::from_secs(1);
        flow.spend(60_000);
        assert!(flow.sent_by.saturating_duration_since(Instant::now()) < BURST);
    }
}
