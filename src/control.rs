//! What is switched while the service runs: settings of single streams, laid over the configuration and kept in the
//! state directory. Who may switch is the doors' business.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use utoipa::ToSchema;

use crate::config::{Config, RecordMode};
use crate::files;
use crate::health::Counter;
use crate::media::StreamId;

/// The file in the state directory.
pub const FILE_NAME: &str = "overrides.json";
/// Streams remembered at least, and at most for each that may be published at a time; the one that came first makes room.
const MIN_STREAMS: usize = 32;
const STREAMS_EACH: usize = 2;
/// What a file may hold.
const MAX_STREAMS: usize = 10_000;
/// What a threshold may be, as in the configuration.
const THRESHOLD: std::ops::RangeInclusive<f32> = 0.01..=0.99;

/// One thing to switch.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Setting {
    Detect(bool),
    Recordings(RecordMode),
    /// On again as the configuration has it; events only where that says off.
    Record,
    /// 0.01 to 0.99.
    Threshold(f32),
}

/// What was switched of one stream; what is absent follows the configuration.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Overrides {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detect: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recordings: Option<RecordMode>,
    /// The median of an animal's scores that makes it real, 0.01 to 0.99.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub threshold: Option<f32>,
}

/// What is in force for one stream.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, ToSchema)]
pub struct Settings {
    pub detect: bool,
    pub recordings: RecordMode,
    pub threshold: f32,
}

#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    #[error("{0} is no threshold: give 0.01 to 0.99")]
    Threshold(f32),
    #[error("there is no stream {0}: publish it, or add [stream.{0}]")]
    NoStream(StreamId),
    #[error("the stream {0} is in [stream.{0}]: take it out of the configuration")]
    Configured(StreamId),
    #[error("cannot write {path}: {source}; it holds until the next start only")]
    Write { path: PathBuf, source: io::Error },
}

#[derive(Debug, Default, Serialize)]
pub struct Counters {
    pub changes: Counter,
    pub write_failures: Counter,
}

/// Holds the configuration in force.
#[derive(Debug)]
pub struct Control {
    file: PathBuf,
    state: Mutex<State>,
    settings: watch::Sender<Arc<Config>>,
    known: watch::Sender<Arc<[StreamId]>>,
    pub counters: Arc<Counters>,
}

#[derive(Debug)]
struct State {
    base: Config,
    kept: Kept,
}

/// The file's form. Streams in the order in which they first came.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
struct Kept {
    v: u32,
    streams: Vec<Stream>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Stream {
    stream: String,
    #[serde(flatten)]
    overrides: Overrides,
}

impl Control {
    /// Reads what was switched before. A file that cannot be understood is set aside, said loudly.
    pub fn open(state_dir: &Path, base: Config) -> Arc<Self> {
        let file = state_dir.join(FILE_NAME);
        let kept = read(&file);
        let settings = watch::Sender::new(Arc::new(lay_over(&base, &kept)));
        let known = watch::Sender::new(known(&base, &kept));
        let state = Mutex::new(State { base, kept });
        Arc::new(Self { file, state, settings, known, counters: Arc::default() })
    }

    /// The configuration in force, overrides included.
    pub fn settings(&self) -> watch::Receiver<Arc<Config>> {
        self.settings.subscribe()
    }

    /// Every stream there ever was or that has a section, until it is forgotten.
    pub fn known(&self) -> watch::Receiver<Arc<[StreamId]>> {
        self.known.subscribe()
    }

    /// What is in force for `stream`.
    pub fn of(&self, stream: &StreamId) -> Settings {
        let state = self.state.lock();
        state.kept.of(stream).in_force(&state.base, stream)
    }

    /// Switches one thing of a stream that is known. Blocks for a small file's writing.
    ///
    /// # Errors
    /// On `Write` it is in force all the same.
    pub fn set(&self, stream: &StreamId, setting: Setting) -> Result<Settings, ControlError> {
        self.set_all(stream, &[setting])
    }

    /// Switches several things at once, or none when one of them is wrong.
    pub fn set_all(
        &self,
        stream: &StreamId,
        settings: &[Setting],
    ) -> Result<Settings, ControlError> {
        if !self.known.borrow().contains(stream) {
            return Err(ControlError::NoStream(stream.clone()));
        }
        let mut state = self.state.lock();
        let mut now = state.kept.of(stream);
        for setting in settings {
            match *setting {
                Setting::Detect(on) => now.detect = Some(on),
                Setting::Recordings(what) => now.recordings = Some(what),
                Setting::Record => {
                    let usual = Overrides::default().in_force(&state.base, stream).recordings;
                    let off = usual == RecordMode::Off;
                    now.recordings = Some(if off { RecordMode::Events } else { usual });
                }
                Setting::Threshold(least) if THRESHOLD.contains(&least) => {
                    now.threshold = Some(least);
                }
                Setting::Threshold(wrong) => return Err(ControlError::Threshold(wrong)),
            }
        }
        let (before, in_force) = (state.kept.of(stream), now.in_force(&state.base, stream));
        if before == now {
            return Ok(in_force);
        }
        let most = state.most();
        state.kept.put(stream, now, most);
        self.counters.changes.inc();
        tracing::info!(%stream, ?in_force, "switched");
        self.told(&state)?;
        Ok(in_force)
    }

    /// Remembers streams that are there now.
    pub fn saw<'a>(&self, streams: impl IntoIterator<Item = &'a StreamId>) {
        let mut state = self.state.lock();
        let fresh: Vec<_> = {
            let is_known =
                |id: &StreamId| state.kept.streams.iter().any(|s| s.stream == id.as_str());
            streams.into_iter().filter(|id| !is_known(id)).collect()
        };
        if fresh.is_empty() {
            return;
        }
        let most = state.most();
        for id in fresh {
            state.kept.put(id, Overrides::default(), most);
        }
        if let Err(error) = self.told(&state) {
            tracing::warn!(%error, "a new stream is not remembered");
        }
    }

    /// Forgets a stream and what was switched of it. One that is being published comes back by itself.
    pub fn forget(&self, stream: &StreamId) -> Result<(), ControlError> {
        let mut state = self.state.lock();
        if state.base.stream.contains_key(stream.as_str()) {
            return Err(ControlError::Configured(stream.clone()));
        }
        let before = state.kept.streams.len();
        state.kept.streams.retain(|s| s.stream != stream.as_str());
        if state.kept.streams.len() == before {
            return Err(ControlError::NoStream(stream.clone()));
        }
        self.told(&state)
    }

    /// Takes over a changed configuration; what was switched stays switched.
    pub fn set_base(&self, base: Config) {
        let mut state = self.state.lock();
        state.base = base;
        self.tell(&state);
    }

    fn told(&self, state: &State) -> Result<(), ControlError> {
        self.tell(state);
        write(&self.file, &state.kept).map_err(|source| {
            self.counters.write_failures.inc();
            ControlError::Write { path: self.file.clone(), source }
        })
    }

    fn tell(&self, state: &State) {
        let now = lay_over(&state.base, &state.kept);
        self.settings.send_if_modified(|old| {
            let differs = **old != now;
            if differs {
                *old = Arc::new(now);
            }
            differs
        });
        let now = known(&state.base, &state.kept);
        self.known.send_if_modified(|old| {
            let differs = *old != now;
            *old = now;
            differs
        });
    }
}

impl State {
    fn most(&self) -> usize {
        (self.base.ingest.max_streams * STREAMS_EACH).max(MIN_STREAMS)
    }
}

impl Kept {
    fn of(&self, stream: &StreamId) -> Overrides {
        let one = self.streams.iter().find(|s| s.stream == stream.as_str());
        one.map(|s| s.overrides).unwrap_or_default()
    }

    fn put(&mut self, stream: &StreamId, overrides: Overrides, most: usize) {
        match self.streams.iter_mut().find(|s| s.stream == stream.as_str()) {
            Some(one) => one.overrides = overrides,
            None => self.streams.push(Stream { stream: stream.to_string(), overrides }),
        }
        if self.streams.len() > most {
            self.streams.remove(0);
        }
    }
}

impl Overrides {
    fn in_force(self, base: &Config, stream: &StreamId) -> Settings {
        let own = base.stream.get(stream.as_str());
        Settings {
            detect: self.detect.unwrap_or_else(|| own.is_none_or(|s| s.detect)),
            recordings: self.recordings.unwrap_or_else(|| configured_recordings(base, stream)),
            threshold: self
                .threshold
                .or_else(|| own.and_then(|s| s.threshold))
                .unwrap_or(base.events.threshold),
        }
    }
}

fn configured_recordings(base: &Config, stream: &StreamId) -> RecordMode {
    base.stream.get(stream.as_str()).and_then(|s| s.record).unwrap_or(base.record.mode)
}

fn lay_over(base: &Config, kept: &Kept) -> Config {
    let mut config = base.clone();
    for Stream { stream, overrides } in &kept.streams {
        if *overrides == Overrides::default() {
            continue;
        }
        let one = config.stream.entry(stream.clone()).or_default();
        one.detect = overrides.detect.unwrap_or(one.detect);
        one.threshold = overrides.threshold.or(one.threshold);
        one.record = overrides.recordings.or(one.record);
    }
    config
}

fn known(base: &Config, kept: &Kept) -> Arc<[StreamId]> {
    let names = base.stream.keys().chain(kept.streams.iter().map(|s| &s.stream));
    let mut all: BTreeMap<&String, StreamId> = BTreeMap::new();
    for name in names {
        if let Ok(id) = StreamId::new(name) {
            all.insert(name, id);
        }
    }
    all.into_values().collect()
}

fn read(file: &Path) -> Kept {
    let text = match fs::read(file) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Kept::default(),
        Err(error) => {
            tracing::error!(file = %file.display(), %error, "cannot read what was switched");
            return Kept::default();
        }
    };
    let judged = serde_json::from_slice::<Kept>(&text).ok().filter(|kept| {
        kept.v == 1
            && kept.streams.len() <= MAX_STREAMS
            && kept.streams.iter().all(|s| {
                StreamId::new(&s.stream).is_ok()
                    && s.overrides.threshold.is_none_or(|t| THRESHOLD.contains(&t))
            })
    });
    judged.unwrap_or_else(|| {
        let aside = file.with_extension("json.bad");
        let moved = fs::rename(file, &aside).is_ok();
        tracing::error!(file = %file.display(), aside = %aside.display(), moved, "what was switched cannot be understood and is set aside: the configuration is in force");
        Kept::default()
    })
}

/// Whole or not at all, whenever the power goes.
fn write(file: &Path, kept: &Kept) -> io::Result<()> {
    let kept = Kept { v: 1, ..kept.clone() };
    let json = serde_json::to_vec_pretty(&kept).map_err(io::Error::other)?;
    files::replace(file, &json, 0o600).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::StreamConfig;

    fn id(name: &str) -> StreamId {
        StreamId::new(name).unwrap()
    }

    #[test]
    fn what_is_switched_lasts_and_the_rest_follows_the_configuration() {
        let dir = tempfile::tempdir().unwrap();
        let mut base = Config::default();
        base.stream.insert("barn".into(), StreamConfig { detect: false, ..Default::default() });
        let (garden, barn) = (id("garden"), id("barn"));
        let control = Control::open(dir.path(), base.clone());
        assert!(matches!(
            control.set(&garden, Setting::Detect(false)),
            Err(ControlError::NoStream(_))
        ));
        control.saw([&garden]);
        let mut settings = control.settings();
        control.set(&garden, Setting::Detect(false)).unwrap();
        assert!(settings.has_changed().unwrap());
        assert!(!settings.borrow_and_update().stream["garden"].detect);
        let both = [Setting::Threshold(0.7), Setting::Record];
        let now = control.set_all(&barn, &both).unwrap();
        assert_eq!((now.detect, now.recordings, now.threshold), (false, RecordMode::Events, 0.7));
        for wrong in [0.0, 1.0, f32::NAN] {
            let both = [Setting::Detect(true), Setting::Threshold(wrong)];
            assert!(control.set_all(&barn, &both).is_err());
        }
        assert!(!control.of(&barn).detect);

        let again = Control::open(dir.path(), base.clone());
        assert_eq!(again.of(&barn), now);
        assert!(!again.of(&garden).detect);
        base.events.threshold = 0.6;
        again.set_base(base);
        let kept = again.settings().borrow().stream["barn"].threshold;
        assert_eq!((again.of(&garden).threshold, kept), (0.6, Some(0.7)));
        assert!(matches!(again.forget(&barn), Err(ControlError::Configured(_))));
        again.forget(&garden).unwrap();
        assert_eq!(&again.known().borrow()[..], [barn]);
        assert!(again.of(&garden).detect);
    }

    #[test]
    fn a_damaged_file_is_set_aside() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join(FILE_NAME);
        let wrong = r#"{"v":1,"streams":[{"stream":"a","threshold":7}]}"#;
        for text in ["", "{", r#"{"v":2,"streams":[]}"#, wrong] {
            fs::write(&file, text).unwrap();
            let control = Control::open(dir.path(), Config::default());
            assert!(control.known().borrow().is_empty());
            assert!(!file.exists());
        }
    }
}
