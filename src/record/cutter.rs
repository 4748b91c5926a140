//! One stream's units become pieces of a recording (pure): fragments of about a second that begin a key frame's group or go
//! on with it. It decides what a fragment is, not which ones are kept.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use sha2::{Digest, Sha256};

use crate::live::nominal;
use crate::media::fmp4::{self, Sample, Track};
use crate::media::{AccessUnit, AudioParams, AudioUnit, MediaTime, Unit, VideoParams};

/// A fragment's length: what a loss of power costs at most, beside what the system has not written yet.
const LENGTH: Duration = Duration::from_secs(1);
/// Whatever the times say, no fragment is larger.
const MAX_BYTES: usize = 4 << 20;
const MAX_UNITS: usize = 512;
/// Sound that stayed away so long is taken out of the next init segment.
const SILENCE: Duration = Duration::from_secs(2);
/// A lone picture's duration where none follows; and what is a gap and no interval any more.
const INTERVAL: Duration = Duration::from_millis(33);
const MAX_INTERVAL: Duration = Duration::from_secs(2);

/// What the fragments of a file refer to.
#[derive(Debug)]
pub struct Init {
    pub segment: Bytes,
    /// The same for the same bytes.
    pub hash: String,
    video: Arc<VideoParams>,
    audio: Option<Arc<AudioParams>>,
}

/// A moof and its mdat.
#[derive(Debug, Clone)]
pub struct Fragment {
    pub init: Arc<Init>,
    pub data: Bytes,
    /// It begins with a key frame.
    pub key: bool,
    /// It does not follow directly on the one before; then it begins with a key frame.
    pub gap: bool,
    /// Decode times of its first picture and of the one that follows.
    pub start: MediaTime,
    pub end: MediaTime,
    /// When its first picture came.
    pub wall: SystemTime,
}

#[derive(Debug)]
pub struct Cutter {
    pictures: Vec<AccessUnit>,
    sound: Vec<AudioUnit>,
    bytes: usize,
    init: Option<Arc<Init>>,
    heard: Option<(Arc<AudioParams>, MediaTime)>,
    until_key: bool,
    gap: bool,
    sequence: u32,
}

impl Default for Cutter {
    fn default() -> Self {
        Self {
            pictures: Vec::new(),
            sound: Vec::new(),
            bytes: 0,
            init: None,
            heard: None,
            until_key: true,
            gap: true,
            sequence: 0,
        }
    }
}

impl Cutter {
    /// Takes the next unit; the fragment that it completes.
    pub fn push(&mut self, unit: Unit) -> Option<Fragment> {
        match unit {
            Unit::Audio(sound) => {
                self.heard = Some((Arc::clone(&sound.params), sound.pts));
                if !self.pictures.is_empty() && self.sound.len() < MAX_UNITS {
                    self.bytes += sound.data.len();
                    self.sound.push(sound);
                }
                None
            }
            Unit::Video(picture) => self.picture(picture),
        }
    }

    /// What waits, as a fragment; nothing before the next key frame is of use afterwards.
    pub fn skip(&mut self) -> Option<Fragment> {
        let fragment = self.flush(None);
        (self.until_key, self.gap) = (true, true);
        fragment
    }

    fn picture(&mut self, picture: AccessUnit) -> Option<Fragment> {
        let params = self.pictures.first().map(|p| &p.params);
        let params = params.or_else(|| self.init.as_ref().map(|i| &i.video));
        let changed = params != Some(&picture.params);
        if !picture.intact || !picture.key && (self.until_key || changed) {
            return self.skip();
        }
        let follows = self.pictures.last().is_none_or(|last| {
            picture.dts >= last.dts && picture.dts.since(last.dts) <= MAX_INTERVAL
        });
        if !follows && !picture.key {
            return self.skip();
        }
        let full = self.pictures.first().is_some_and(|first| {
            picture.dts.since(first.dts) >= LENGTH
                || self.bytes + picture.data.len() > MAX_BYTES
                || self.pictures.len() >= MAX_UNITS
        });
        let done = if !follows || picture.discontinuity {
            self.skip()
        } else if picture.key || full {
            self.flush(Some(picture.dts))
        } else {
            None
        };
        self.until_key = false;
        self.bytes += picture.data.len();
        self.pictures.push(picture);
        done
    }

    fn flush(&mut self, next: Option<MediaTime>) -> Option<Fragment> {
        let pictures = std::mem::take(&mut self.pictures);
        let mut sound = std::mem::take(&mut self.sound);
        self.bytes = 0;
        let (first, last) = (pictures.first()?, pictures.last()?);
        let (start, wall, key) = (first.dts, first.arrived.wall, first.key);
        let interval = match &pictures[..] {
            [.., before, last] => last.dts.since(before.dts),
            _ => INTERVAL,
        };
        let end = next.unwrap_or_else(|| last.dts.saturating_add(interval));
        if key {
            self.renew(first);
        }
        let init = Arc::clone(self.init.as_ref()?);
        sound.retain(|s| init.audio.as_ref() == Some(&s.params));
        let ends: Vec<_> = pictures.iter().skip(1).map(|p| p.dts).chain([end]).collect();
        let pictures: Vec<_> = pictures
            .into_iter()
            .zip(ends)
            .map(|(p, end)| Sample {
                dts: p.dts,
                pts: p.pts,
                duration: end.since(p.dts),
                key: p.key,
                data: p.data,
            })
            .collect();
        self.sequence = self.sequence.wrapping_add(1);
        let tracks = [(Track::Video, &pictures[..]), (Track::Audio, &sounds(sound)[..])];
        let data = fmp4::fragment(self.sequence, &tracks);
        let gap = std::mem::take(&mut self.gap);
        Some(Fragment { init, data, key, gap, start, end, wall })
    }

    /// Makes a new init segment if the group that begins is not what the last one says.
    fn renew(&mut self, first: &AccessUnit) {
        // What was heard while the group's first second came counts already.
        let heard = self.heard.as_ref().filter(|(_, at)| first.dts.since(*at) <= SILENCE);
        let audio = heard.map(|(params, _)| Arc::clone(params));
        if self.init.as_ref().is_some_and(|i| i.video == first.params && i.audio == audio) {
            return;
        }
        let segment = fmp4::init_segment(&first.params, audio.as_deref());
        let hash = hash(&segment);
        self.init = Some(Arc::new(Init { segment, hash, video: Arc::clone(&first.params), audio }));
    }
}

/// The name of an init segment by its bytes.
pub(super) fn hash(segment: &[u8]) -> String {
    Sha256::digest(segment).iter().take(8).map(|b| format!("{b:02x}")).collect()
}

fn sounds(units: Vec<AudioUnit>) -> Vec<Sample> {
    let ends: Vec<_> = units.iter().skip(1).map(|s| s.pts).collect();
    let samples = units.into_iter().enumerate().map(|(n, unit)| Sample {
        duration: ends.get(n).map_or_else(|| nominal(&unit), |end| end.since(unit.pts)),
        dts: unit.pts,
        pts: unit.pts,
        key: true,
        data: unit.data,
    });
    samples.collect()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::media::{Arrival, AudioCodec, StreamId, samples};

    pub(in crate::record) fn picture(ms: i64, key: bool) -> AccessUnit {
        AccessUnit { data: Bytes::from(vec![7; 100]), ..samples::picture(ms, key) }
    }

    fn sound(ms: i64) -> Unit {
        let config = Bytes::from_static(&[0x12, 0x10]);
        Unit::Audio(AudioUnit {
            stream: StreamId::new("s").unwrap(),
            pts: MediaTime::from_millis(ms),
            data: Bytes::from_static(&[9; 10]),
            params: Arc::new(AudioParams {
                codec: AudioCodec::Aac,
                sample_rate_hz: 44_100,
                channels: 2,
                config,
            }),
            arrived: Arrival::now(),
        })
    }

    /// Fragments of pictures at 10 a second with a key frame every two seconds.
    pub(crate) fn fragments(from_ms: i64, to_ms: i64) -> Vec<Fragment> {
        let mut cutter = Cutter::default();
        let units = (from_ms / 100..to_ms / 100).map(|n| picture(n * 100, n % 20 == 0));
        let mut all: Vec<_> = units.filter_map(|u| cutter.push(Unit::Video(u))).collect();
        all.extend(cutter.skip());
        all
    }

    #[test]
    fn fragments_last_a_second_and_begin_at_key_frames() {
        let all = fragments(0, 4000);
        let told: Vec<_> = all.iter().map(|f| (f.start.as_millis(), f.key, f.gap)).collect();
        assert_eq!(
            told,
            [(0, true, true), (1000, false, false), (2000, true, false), (3000, false, false)]
        );
        assert_eq!(all[0].end, all[1].start);
    }

    #[test]
    fn sound_of_the_first_second_is_in_the_first_init_segment() {
        let mut cutter = Cutter::default();
        cutter.push(Unit::Video(picture(0, true)));
        cutter.push(sound(10));
        let first = cutter.skip().unwrap();
        assert!(first.init.audio.is_some());
        // Without sound for long, it is left out again.
        cutter.push(Unit::Video(picture(9000, true)));
        let later = cutter.skip().unwrap();
        assert!(later.init.audio.is_none() && later.gap && later.init.hash != first.init.hash);
    }

    #[test]
    fn broken_pictures_and_changed_parameters_end_a_fragment_up_to_the_next_key_frame() {
        let mut cutter = Cutter::default();
        cutter.push(Unit::Video(picture(0, true)));
        let broken = AccessUnit { intact: false, ..picture(100, false) };
        assert!(cutter.push(Unit::Video(broken)).is_some());
        assert!(cutter.push(Unit::Video(picture(200, false))).is_none());
        cutter.push(Unit::Video(picture(300, true)));
        let mut other = picture(400, false);
        other.params = Arc::new(VideoParams { width: 32, ..(*other.params).clone() });
        let fragment = cutter.push(Unit::Video(other)).unwrap();
        assert!(fragment.gap && fragment.start.as_millis() == 300);
        assert!(cutter.skip().is_none());
    }
}
