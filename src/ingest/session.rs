//! One publication from FLV payloads to units (pure): parameters, the stream's time line, key frames, and whether a
//! picture can be decoded rightly. It neither reads sockets nor hands units on.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;

use super::flv::{AudioTag, FlvError, VideoTag, parse_audio, parse_video};
use super::gaps::{Gaps, Place};
use super::timeline::{Timeline, Track};
use crate::media::avc::{self, AvcSets};
use crate::media::nal::ParamsError;
use crate::media::{
    AccessUnit, Arrival, AudioCodec, AudioParams, AudioUnit, MediaTime, StreamId, VideoCodec,
    VideoParams, hevc,
};

/// Why a publication cannot go on; the text goes to the publisher.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SessionError {
    #[error(transparent)]
    Flv(#[from] FlvError),
    #[error(transparent)]
    Params(#[from] ParamsError),
}

/// What was counted since the last [`Session::take_tally`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tally {
    /// Times that reference pictures were found missing.
    pub gaps: u64,
    /// Pictures that came while some were missing.
    pub held: u64,
    /// Messages dropped because they are cut off, do not fit their lengths, or came before any parameters.
    pub malformed: u64,
    pub time_jumps: u64,
}

#[derive(Debug)]
pub struct Session {
    stream: StreamId,
    timeline: Timeline,
    video: Option<Video>,
    audio: Option<Arc<AudioParams>>,
    gaps: Gaps,
    /// The next picture begins something new.
    discontinuity: bool,
    tally: Tally,
}

#[derive(Debug)]
struct Video {
    params: Arc<VideoParams>,
    /// Parameter sets in force; H.264 only.
    sets: AvcSets,
}

/// Composition offsets beyond this are not believed; none but a broken sender has them.
const MAX_COMPOSITION_MS: i32 = 10_000;

impl Session {
    /// `resume` is where an earlier publisher's time line ended and when: this one goes on from there by the clock.
    pub fn new(stream: StreamId, resume: Option<(MediaTime, Instant)>, now: Instant) -> Self {
        let start = resume.map_or(MediaTime::ZERO, |(last, when)| {
            last.saturating_add(now.saturating_duration_since(when))
        });
        Self {
            stream,
            timeline: Timeline::new(start),
            video: None,
            audio: None,
            gaps: Gaps::default(),
            discontinuity: true,
            tally: Tally::default(),
        }
    }

    pub fn take_tally(&mut self) -> Tally {
        std::mem::take(&mut self.tally)
    }

    /// Parameters of the pictures now coming.
    pub fn params(&self) -> Option<&Arc<VideoParams>> {
        self.video.as_ref().map(|v| &v.params)
    }

    /// Takes the payload of a video message. An error ends the publication; a broken picture is counted and the
    /// next goes on.
    pub fn video(
        &mut self,
        timestamp_ms: u32,
        payload: &Bytes,
        arrived: Arrival,
    ) -> Result<Option<AccessUnit>, SessionError> {
        match parse_video(payload) {
            Ok(VideoTag::Config { codec, record }) => self.configure(codec, &record).map(|()| None),
            Ok(VideoTag::Unit { codec, composition_ms, data }) => {
                Ok(self.picture(codec, timestamp_ms, composition_ms, data, arrived))
            }
            Ok(VideoTag::Nothing) => Ok(None),
            Err(FlvError::CutOff(_)) => {
                self.malformed();
                Ok(None)
            }
            Err(other) => Err(other.into()),
        }
    }

    /// Takes the payload of an audio message. An error is about this message only: the video goes on.
    pub fn audio(
        &mut self,
        timestamp_ms: u32,
        payload: &Bytes,
        arrived: Arrival,
    ) -> Result<Option<AudioUnit>, FlvError> {
        match parse_audio(payload)? {
            AudioTag::Config { codec, config } => {
                self.configure_sound(codec, config);
                Ok(None)
            }
            AudioTag::Frame { codec, data } => Ok(self.sound(codec, timestamp_ms, data, arrived)),
            AudioTag::Nothing => Ok(None),
        }
    }

    pub(crate) fn configure_sound(&mut self, codec: AudioCodec, config: Bytes) {
        if self.audio.as_ref().is_some_and(|p| p.codec == codec && p.config == config) {
            return;
        }
        match audio_params(codec, config) {
            Some(params) => self.audio = Some(Arc::new(params)),
            None => self.tally.malformed += 1,
        }
    }

    pub(crate) fn sound(
        &mut self,
        codec: AudioCodec,
        timestamp_ms: u32,
        data: Bytes,
        arrived: Arrival,
    ) -> Option<AudioUnit> {
        let params = self.audio.as_ref().filter(|p| p.codec == codec && !data.is_empty());
        let Some(params) = params.map(Arc::clone) else {
            self.tally.malformed += 1;
            return None;
        };
        let stamp = self.timeline.stamp(Track::Audio, timestamp_ms, arrived.mono);
        self.tally.time_jumps += u64::from(stamp.jumped);
        let stream = self.stream.clone();
        Some(AudioUnit { stream, pts: stamp.time, data, params, arrived })
    }

    pub(crate) fn configure(
        &mut self,
        codec: VideoCodec,
        record: &Bytes,
    ) -> Result<(), SessionError> {
        // Some publishers send the same record again with every key frame.
        if self.params().is_some_and(|p| p.codec == codec && p.record == *record) {
            return Ok(());
        }
        let (params, sets) = match codec {
            VideoCodec::H264 => avc::parse_record(record)?,
            VideoCodec::H265 => (hevc::parse_record(record)?, AvcSets::default()),
        };
        self.video = Some(Video { params: Arc::new(params), sets });
        self.gaps.restart();
        self.discontinuity = true;
        Ok(())
    }

    pub(crate) fn picture(
        &mut self,
        codec: VideoCodec,
        timestamp_ms: u32,
        composition_ms: i32,
        data: Bytes,
        arrived: Arrival,
    ) -> Option<AccessUnit> {
        let Some(video) = self.video.as_mut().filter(|v| v.params.codec == codec) else {
            self.malformed();
            return None;
        };
        let Ok(seen) = video.look(&data) else {
            self.malformed();
            return None;
        };
        self.discontinuity |= seen.changed;
        let place = seen.place?;
        let params = Arc::clone(&video.params);

        let stamp = self.timeline.stamp(Track::Video, timestamp_ms, arrived.mono);
        self.tally.time_jumps += u64::from(stamp.jumped);
        self.discontinuity |= stamp.jumped;
        let dts = stamp.time;
        let offset = composition_ms.clamp(-MAX_COMPOSITION_MS, MAX_COMPOSITION_MS);
        let pts = MediaTime::from_micros(dts.as_micros().saturating_add(i64::from(offset) * 1000));
        self.tally.gaps += u64::from(self.gaps.see(place, dts));
        let intact = self.gaps.intact();
        self.tally.held += u64::from(!intact);
        Some(AccessUnit {
            stream: self.stream.clone(),
            pts,
            dts,
            key: matches!(place, Place::Key),
            intact,
            discontinuity: std::mem::take(&mut self.discontinuity),
            data,
            params,
            arrived,
        })
    }

    /// A picture is lost here, and it may have been a reference.
    pub(crate) fn malformed(&mut self) {
        self.tally.malformed += 1;
        self.tally.gaps += u64::from(self.gaps.lost());
    }
}

/// What a look into an access unit told.
struct Seen {
    /// `None` without a picture in it.
    place: Option<Place>,
    /// The parameters changed in-band.
    changed: bool,
}

impl Video {
    fn look(&mut self, data: &[u8]) -> Result<Seen, crate::media::nal::BrokenLengths> {
        let length_size = self.params.nal_length_size;
        match self.params.codec {
            VideoCodec::H264 => {
                let unit = self.sets.look(data, length_size)?;
                let mut changed = false;
                if unit.new_sets
                    && let Some(record) = self.sets.record(length_size)
                {
                    changed |= self.change(|p| p.record = record);
                }
                if let (true, Some(slice)) = (unit.idr, unit.slice) {
                    changed |= self.change(|p| (p.width, p.height) = slice.size);
                }
                let reference = unit.reference;
                let place = match unit.slice {
                    _ if !unit.picture => None,
                    _ if unit.idr => Some(Place::Key),
                    Some(slice) => Some(Place::H264 { slice, reference }),
                    None => Some(Place::Unknown),
                };
                Ok(Seen { place, changed })
            }
            VideoCodec::H265 => {
                let unit = hevc::look(data, length_size)?;
                // The decoder takes the sets from the stream; the record stays what was published.
                let changed =
                    unit.size.is_some_and(|size| self.change(|p| (p.width, p.height) = size));
                let place = match (unit.picture, unit.irap) {
                    (false, _) => None,
                    (true, true) => Some(Place::Key),
                    (true, false) => Some(Place::Unknown),
                };
                Ok(Seen { place, changed })
            }
        }
    }

    /// True when it made a difference.
    fn change(&mut self, edit: impl FnOnce(&mut VideoParams)) -> bool {
        let mut params = (*self.params).clone();
        edit(&mut params);
        let changed = params != *self.params;
        if changed {
            self.params = Arc::new(params);
        }
        changed
    }
}

fn audio_params(codec: AudioCodec, config: Bytes) -> Option<AudioParams> {
    let (sample_rate_hz, channels) = match codec {
        AudioCodec::Aac => aac_rate_and_channels(&config)?,
        // RFC 7845 5.1: channels at byte 9; Opus always decodes to 48 kHz.
        AudioCodec::Opus => (48_000, *config.get(9).filter(|_| config.starts_with(b"OpusHead"))?),
    };
    Some(AudioParams { codec, sample_rate_hz, channels, config })
}

/// ISO/IEC 14496-3 1.6.2.1, tables 1.18 and 1.19.
fn aac_rate_and_channels(config: &[u8]) -> Option<(u32, u8)> {
    const RATES: [u32; 13] = [
        96_000, 88_200, 64_000, 48_000, 44_100, 32_000, 24_000, 22_050, 16_000, 12_000, 11_025,
        8_000, 7_350,
    ];
    let head: &[u8; 2] = config.first_chunk()?;
    let head = u16::from_be_bytes(*head);
    // Object types from 32 on and rates outside the table are not what AAC in FLV is.
    let rate = *RATES.get(usize::from(head >> 7 & 0xF))?;
    let channels = match head >> 3 & 0xF {
        n @ 1..=6 => n as u8,
        7 => 8,
        _ => return None,
    };
    Some((rate, channels))
}

#[cfg(test)]
#[path = "session_tests.rs"]
mod tests;
