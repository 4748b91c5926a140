//! One stream's units become fragments (pure): one a picture, with the sound that came before it. Broken pictures are
//! left out up to the next key frame, and what the tracks are may change only at a key frame.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::Counters;
use crate::media::fmp4::{self, Sample, Track, codecs};
use crate::media::ring::Item;
use crate::media::{
    AccessUnit, Arrival, AudioCodec, AudioParams, AudioUnit, MediaTime, Unit, VideoParams,
};

/// How much picture is held back at the beginning to learn whether there is sound; only the first viewer of a stream
/// that just began ever waits for it, and a second init segment would restart its player.
const LISTEN: Duration = Duration::from_millis(300);
/// Sound that was promised and stays away so long is taken out of the next init segment: a player waits for every track
/// it was told of.
const SILENCE: Duration = Duration::from_secs(2);
/// Sound goes alone when no picture takes it along for so long.
const ALONE: Duration = Duration::from_millis(500);
/// Whatever the times say, no more is held back.
const MAX_WAITING: usize = 128;
const MAX_WAITING_BYTES: usize = 4 << 20;
/// The first picture's duration, before an interval was seen; and the longest that is guessed.
const FIRST_INTERVAL: Duration = Duration::from_millis(33);
const MAX_INTERVAL: Duration = Duration::from_secs(1);

/// What a player needs before the fragments that refer to it.
#[derive(Debug)]
pub struct Init {
    /// Start of the first fragment with it, in ms: its name, unlike that of any other init segment of the stream.
    pub id: u64,
    /// As in `video/mp4; codecs="avc1.64001f,mp4a.40.2"`.
    pub mime: String,
    pub segment: Bytes,
    pub video: Arc<VideoParams>,
    pub audio: Option<Arc<AudioParams>>,
}

/// A moof and its mdat, shared by all viewers.
#[derive(Debug, Clone)]
pub struct Fragment {
    pub init: Arc<Init>,
    pub data: Bytes,
    /// It begins with a key frame.
    pub key: bool,
    /// Decode time of its picture.
    pub start: MediaTime,
    /// Up to the next picture, guessed.
    pub duration: Duration,
    pub arrived: Arrival,
}

impl Item for Fragment {
    fn size(&self) -> usize {
        self.data.len()
    }

    fn starts_gop(&self) -> bool {
        self.key
    }

    fn arrived(&self) -> Instant {
        self.arrived.mono
    }
}

#[derive(Debug)]
pub(super) struct Muxer {
    counters: Arc<Counters>,
    /// Units held back while listening; `None` afterwards.
    held: Option<Vec<Unit>>,
    init: Option<Arc<Init>>,
    /// Pictures are of no use up to the next key frame.
    until_key: bool,
    sequence: u32,
    last_dts: Option<MediaTime>,
    interval: Duration,
    /// The newest sound's parameters and time.
    heard: Option<(Arc<AudioParams>, MediaTime)>,
    /// Sound that waits for the next picture.
    sound: Vec<AudioUnit>,
}

impl Muxer {
    pub(super) fn new(counters: Arc<Counters>) -> Self {
        Self {
            counters,
            held: Some(Vec::new()),
            init: None,
            until_key: true,
            sequence: 0,
            last_dts: None,
            interval: FIRST_INTERVAL,
            heard: None,
            sound: Vec::new(),
        }
    }

    /// Units were lost: nothing before the next key frame is of use.
    pub(super) fn skip(&mut self) {
        self.until_key = true;
        self.sound.clear();
    }

    /// Takes the next unit; the fragments it completes.
    pub(super) fn push(&mut self, unit: Unit) -> Vec<Fragment> {
        let Some(mut held) = self.held.take() else {
            return self.take(unit).into_iter().collect();
        };
        held.push(unit);
        if !enough(&held) {
            self.held = Some(held);
            return Vec::new();
        }
        let first_sound = held.iter().find_map(|unit| match unit {
            Unit::Audio(a) => Some((Arc::clone(&a.params), a.pts)),
            Unit::Video(_) => None,
        });
        self.heard = first_sound;
        held.into_iter().filter_map(|unit| self.take(unit)).collect()
    }

    fn take(&mut self, unit: Unit) -> Option<Fragment> {
        match unit {
            Unit::Video(picture) => self.picture(picture),
            Unit::Audio(sound) => self.sound(sound),
        }
    }

    fn picture(&mut self, picture: AccessUnit) -> Option<Fragment> {
        let init = self.init.as_ref();
        // Parameters that change between key frames make what follows undecodable.
        let changed = init.is_none_or(|i| i.video != picture.params);
        if !picture.intact || !picture.key && (self.until_key || changed) {
            self.until_key = true;
            self.counters.pictures_left_out.inc();
            return None;
        }
        self.until_key = false;
        if picture.key {
            self.renew(&picture);
        }
        let init = Arc::clone(self.init.as_ref()?);
        if let Some(last) = self.last_dts.replace(picture.dts) {
            let interval = picture.dts.since(last);
            if interval > Duration::ZERO && interval <= MAX_INTERVAL {
                self.interval = interval;
            }
        }
        let AccessUnit { dts, pts, key, data, arrived, .. } = picture;
        let sample = Sample { dts, pts, duration: self.interval, key, data };
        let sound = self.sounds();
        Some(Fragment {
            data: self.write(&[sample], &sound),
            init,
            key,
            start: dts,
            duration: self.interval,
            arrived,
        })
    }

    /// Makes a new init segment if what is to come is not what the last one says.
    fn renew(&mut self, picture: &AccessUnit) {
        let heard = self.heard.as_ref();
        let audio = heard
            .filter(|(_, last)| picture.dts.since(*last) <= SILENCE)
            .map(|(params, _)| Arc::clone(params));
        let fits = |i: &Arc<Init>| i.video == picture.params && i.audio == audio;
        if self.init.as_ref().is_some_and(fits) {
            return;
        }
        let video = Arc::clone(&picture.params);
        self.sound.retain(|s| audio.as_ref() == Some(&s.params));
        self.init = Some(Arc::new(Init {
            id: picture.dts.as_millis().max(0).unsigned_abs(),
            mime: codecs::mime(&video, audio.as_deref()),
            segment: fmp4::init_segment(&video, audio.as_deref()),
            video,
            audio,
        }));
    }

    fn sound(&mut self, sound: AudioUnit) -> Option<Fragment> {
        self.heard = Some((Arc::clone(&sound.params), sound.pts));
        let init = self.init.as_ref()?;
        if init.audio.as_ref() != Some(&sound.params) {
            return None;
        }
        let init = Arc::clone(init);
        let (start, arrived) = (self.sound.first().map_or(sound.pts, |s| s.pts), sound.arrived);
        let waited = sound.pts.since(start);
        self.sound.push(sound);
        let bytes: usize = self.sound.iter().map(|s| s.data.len()).sum();
        if waited < ALONE && self.sound.len() < MAX_WAITING && bytes < MAX_WAITING_BYTES {
            return None;
        }
        let sound = self.sounds();
        Some(Fragment {
            data: self.write(&[], &sound),
            init,
            key: false,
            start,
            duration: waited,
            arrived,
        })
    }

    /// The sound that waits, as samples.
    fn sounds(&mut self) -> Vec<Sample> {
        let ends: Vec<_> = self.sound.iter().skip(1).map(|s| s.pts).collect();
        let units = self.sound.drain(..).enumerate();
        let samples = units.map(|(n, unit)| Sample {
            duration: ends.get(n).map_or_else(|| nominal(&unit), |end| end.since(unit.pts)),
            dts: unit.pts,
            pts: unit.pts,
            key: true,
            data: unit.data,
        });
        samples.collect()
    }

    fn write(&mut self, pictures: &[Sample], sounds: &[Sample]) -> Bytes {
        self.sequence = self.sequence.wrapping_add(1);
        self.counters.fragments.inc();
        fmp4::fragment(self.sequence, &[(Track::Video, pictures), (Track::Audio, sounds)])
    }
}

/// Whether the units held back tell what the tracks are.
fn enough(held: &[Unit]) -> bool {
    let mut pictures = held.iter().filter_map(|unit| match unit {
        Unit::Video(p) => Some(p.dts),
        Unit::Audio(_) => None,
    });
    let heard = held.iter().any(|unit| matches!(unit, Unit::Audio(_)));
    let (first, last) = (pictures.next(), pictures.last());
    heard && first.is_some()
        || first.zip(last).is_some_and(|(first, last)| last.since(first) >= LISTEN)
        || held.iter().map(Unit::len).sum::<usize>() > MAX_WAITING_BYTES
        || held.len() > MAX_WAITING
}

/// How long an audio frame lasts by its format.
pub(crate) fn nominal(unit: &AudioUnit) -> Duration {
    match unit.params.codec {
        // 1024 samples (ISO/IEC 14496-3 4.5.2.1.1).
        AudioCodec::Aac => {
            let rate = u64::from(unit.params.sample_rate_hz.max(1));
            Duration::from_micros(1024 * 1_000_000 / rate)
        }
        AudioCodec::Opus => opus_duration(&unit.data),
    }
}

/// RFC 6716 3.1 and 3.2: frame length by the configuration number, times the number of frames.
fn opus_duration(packet: &[u8]) -> Duration {
    let Some(toc) = packet.first() else { return Duration::ZERO };
    let config = usize::from(toc >> 3);
    let us = match config {
        0..12 => [10_000, 20_000, 40_000, 60_000][config % 4],
        12..16 => [10_000, 20_000][config % 2],
        _ => [2_500, 5_000, 10_000, 20_000][config % 4],
    };
    let frames = match toc & 3 {
        0 => 1,
        1 | 2 => 2,
        _ => u64::from(packet.get(1).map_or(1, |b| b & 0x3F)),
    };
    // A packet lasts at most 120 ms.
    Duration::from_micros((us * frames).min(120_000))
}

#[cfg(test)]
#[path = "muxer_tests.rs"]
mod tests;
