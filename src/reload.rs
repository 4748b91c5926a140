//! Notices a changed configuration and judges it before anyone sees it: a bad one changes nothing.

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use crate::config::{self, Config, Loaded};

/// How often the file is looked at; SIGHUP does so at once.
pub const LOOK_EVERY: Duration = Duration::from_secs(2);

/// Keeps the configuration in force and the look of the file it came from.
#[derive(Debug)]
pub struct Reloader {
    asked: Option<PathBuf>,
    current: Loaded,
    seen: Option<Look>,
}

/// Enough of a file's metadata to notice that it was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Look {
    modified: Option<SystemTime>,
    len: u64,
}

/// Which sections a new configuration changes, by who takes them up.
#[derive(Debug, Clone, PartialEq)]
pub struct Changes {
    pub config: Config,
    pub auth: bool,
    /// The detector must be opened anew.
    pub detector: bool,
    pub rates: bool,
    pub relays: bool,
    pub sources: bool,
    pub gpio: bool,
    /// What counts as an animal.
    pub rules: bool,
    /// Sections that take effect at the next start only.
    pub at_restart: Vec<&'static str>,
}

impl Reloader {
    pub fn new(current: Loaded, asked: Option<PathBuf>) -> Self {
        let seen = look(&current);
        Self { asked, current, seen }
    }

    pub fn file(&self) -> String {
        self.current.file.as_ref().map(|f| f.display().to_string()).unwrap_or_default()
    }

    /// Reads the file again if it changed. `Ok(None)`: nothing changed.
    pub fn poll(&mut self) -> Result<Option<Changes>, config::ConfigError> {
        if look(&self.current) == self.seen {
            return Ok(None);
        }
        self.read()
    }

    /// Reads the file again in any case.
    pub fn read(&mut self) -> Result<Option<Changes>, config::ConfigError> {
        self.seen = look(&self.current);
        let new = config::load(self.asked.as_deref())?;
        let changes = compare(&self.current.config, &new.config);
        self.seen = look(&new);
        self.current = new;
        Ok(changes)
    }
}

fn look(loaded: &Loaded) -> Option<Look> {
    let meta = std::fs::metadata(loaded.file.as_ref()?).ok()?;
    Some(Look { modified: meta.modified().ok(), len: meta.len() })
}

fn compare(old: &Config, new: &Config) -> Option<Changes> {
    if old == new {
        return None;
    }
    let rates_of = |c: &Config| (c.detect.rate_hz, c.detect.adapt, c.stream.clone());
    let mut same_rate = new.detect.clone();
    (same_rate.rate_hz, same_rate.adapt) = (old.detect.rate_hz, old.detect.adapt);
    let fixed = [
        ("node", old.node != new.node),
        ("ingest", old.ingest != new.ingest),
        ("decode", old.decode != new.decode),
        ("record.dir", old.record.dir != new.record.dir),
        ("mqtt", old.mqtt != new.mqtt),
        ("websocket", old.websocket != new.websocket),
        ("web", old.web != new.web),
        ("announce", old.announce != new.announce),
        ("update", old.update != new.update),
        ("box", old.machine != new.machine),
    ];
    Some(Changes {
        auth: old.auth != new.auth,
        detector: same_rate != old.detect,
        relays: old.relay != new.relay,
        sources: old.source != new.source,
        gpio: old.gpio != new.gpio,
        rates: rates_of(old) != rates_of(new),
        rules: (&old.events, &old.stream) != (&new.events, &new.stream),
        at_restart: fixed.into_iter().filter(|(_, differs)| *differs).map(|(n, _)| n).collect(),
        config: new.clone(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_file_is_taken_and_a_bad_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("s.toml");
        std::fs::write(&file, "[detect]\nrate_hz = 5.0\n").unwrap();
        let mut r = Reloader::new(config::load(Some(&file)).unwrap(), Some(file.clone()));
        assert_eq!(r.poll().unwrap(), None);
        std::fs::write(&file, "[detect]\nrate_hz = 2.5\n[mqtt]\nenabled = false\n").unwrap();
        let c = r.poll().unwrap().unwrap();
        assert!(c.rates && !c.detector && !c.auth);
        assert_eq!((c.config.detect.rate_hz, c.at_restart), (2.5, vec!["mqtt"]));
        std::fs::write(&file, "[detect]\nrate = 1\n").unwrap();
        assert!(r.poll().is_err());
        // Said once, not at every look.
        assert_eq!(r.poll().unwrap(), None);
    }
}
