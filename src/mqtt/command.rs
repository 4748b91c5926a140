//! What others tell us over MQTT, read: commands for a stream, and words of Home Assistant, of our own past and of other
//! nodes. It reads only.

use super::carrier::{Heard, Keeping};
use crate::config::RecordMode;
use crate::control::Setting;
use crate::media::StreamId;
use crate::pause::Pausing;

/// What a message means to us.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Word {
    Set(StreamId, Setting),
    /// The whole node is to pause, or to go on.
    Pause(Pausing),
    /// About the pause, and nobody can obey it.
    BadPause,
    /// A command nobody can obey: of which stream and what, as far as that can be read, and what would be right.
    Nonsense {
        stream: Option<StreamId>,
        topic: String,
        remedy: &'static str,
    },
    /// Install the newest version.
    Update,
    /// Home Assistant began anew.
    Birth,
    /// A stream's status as the broker still has it.
    RetainedOnline(String),
    /// The run that has or had this node's name.
    Instance {
        id: String,
        retained: bool,
    },
    /// Our discovery message as the broker still has it.
    Discovered(bytes::Bytes),
}

/// The topics that words come on.
#[derive(Debug, Clone)]
pub(super) struct Topics {
    pub(super) base: String,
    /// Of Home Assistant; `None`: not asked for.
    pub(super) birth: Option<String>,
    pub(super) discovery: Option<String>,
}

impl Topics {
    pub(super) fn subscriptions(&self) -> Vec<(String, Keeping)> {
        let mut all: Vec<_> = ["pause/set", "+/detect/set", "+/recordings/set", "+/threshold/set"]
            .map(|t| (format!("{}/{t}", self.base), Keeping::WhileAway))
            .into();
        // What an earlier run said, held back for us in its session, would look like another node speaking now.
        all.push((format!("{}/instance", self.base), Keeping::Nothing));
        // Nobody who left a command while we were away waits for a restart now.
        all.push((format!("{}/update/set", self.base), Keeping::Nothing));
        let others = self.discovery.iter().chain(&self.birth);
        all.extend(others.map(|topic| (topic.clone(), Keeping::WhileAway)));
        all
    }

    /// `None`: nothing to do about it. A retained command is an old one: obeyed then, it would be obeyed for ever.
    pub(super) fn read(&self, heard: &Heard) -> Option<Word> {
        if self.birth.as_deref() == Some(&heard.topic) {
            return (&heard.payload[..] == b"online").then_some(Word::Birth);
        }
        if self.discovery.as_deref() == Some(&heard.topic) {
            return heard.retained.then(|| Word::Discovered(heard.payload.clone()));
        }
        let rest = heard.topic.strip_prefix(&self.base)?.strip_prefix('/')?;
        let mut parts = rest.split('/');
        match (parts.next()?, parts.next(), parts.next(), parts.next()) {
            ("instance", None, None, None) => {
                let id = String::from_utf8_lossy(&heard.payload).chars().take(64).collect();
                Some(Word::Instance { id, retained: heard.retained })
            }
            ("pause", Some("set"), None, None) if !heard.retained => {
                Some(match word(&heard.payload).as_str() {
                    "on" => Word::Pause(Pausing::Paused),
                    "off" => Word::Pause(Pausing::Running),
                    _ => Word::BadPause,
                })
            }
            ("update", Some("set"), None, None) if !heard.retained => Some({
                match heard.payload.trim_ascii().eq_ignore_ascii_case(b"install") {
                    true => Word::Update,
                    false => Word::Nonsense {
                        stream: None,
                        topic: heard.topic.clone(),
                        remedy: "say install",
                    },
                }
            }),
            (stream, Some("status"), None, None) => (heard.retained
                && &heard.payload[..] == b"online")
                .then(|| Word::RetainedOnline(stream.into())),
            (stream, Some(what), Some("set"), None) if !heard.retained => {
                let stream = StreamId::new(stream).ok();
                let judged = setting(what, &heard.payload);
                Some(match (stream, judged) {
                    (Some(stream), Ok(setting)) => Word::Set(stream, setting),
                    (stream, judged) => {
                        let remedy = judged.err().unwrap_or("that is no stream's name");
                        Word::Nonsense { stream, topic: heard.topic.clone(), remedy }
                    }
                })
            }
            _ => None,
        }
    }
}

/// A command's payload; none is long.
fn word(payload: &[u8]) -> String {
    let text = std::str::from_utf8(payload).map(str::trim).unwrap_or_default();
    if text.len() <= 16 { text.to_ascii_lowercase() } else { String::new() }
}

fn setting(what: &str, payload: &[u8]) -> Result<Setting, &'static str> {
    const SWITCH: &str = "say ON or OFF";
    const RECORDINGS: &str = "say ON, OFF, events or continuous";
    const THRESHOLD: &str = "say a number from 0.01 to 0.99";
    let word = word(payload);
    match what {
        "detect" => match &*word {
            "on" => Ok(Setting::Detect(true)),
            "off" => Ok(Setting::Detect(false)),
            _ => Err(SWITCH),
        },
        "recordings" => match &*word {
            "on" => Ok(Setting::Record),
            "off" => Ok(Setting::Recordings(RecordMode::Off)),
            "events" => Ok(Setting::Recordings(RecordMode::Events)),
            "continuous" => Ok(Setting::Recordings(RecordMode::Continuous)),
            _ => Err(RECORDINGS),
        },
        "threshold" => match word.parse::<f32>() {
            Ok(least) if (0.01..=0.99).contains(&least) => Ok(Setting::Threshold(least)),
            _ => Err(THRESHOLD),
        },
        _ => Err("there is no such command"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(topic: &str, payload: &[u8], retained: bool) -> Option<Word> {
        let topics = Topics {
            base: "spotter/n".into(),
            birth: Some("homeassistant/status".into()),
            discovery: Some("homeassistant/device/n/config".into()),
        };
        let payload = bytes::Bytes::copy_from_slice(payload);
        topics.read(&Heard { topic: topic.into(), payload, retained })
    }

    #[test]
    fn commands_are_read_and_old_ones_are_not() {
        let set = |setting| Some(Word::Set(StreamId::new("cam").unwrap(), setting));
        let on = "spotter/n/cam/detect/set";
        assert_eq!(read(on, b"ON", false), set(Setting::Detect(true)));
        assert_eq!(read(on, b" off\n", false), set(Setting::Detect(false)));
        assert_eq!(read(on, b"ON", true), None);
        let pause = "spotter/n/pause/set";
        assert_eq!(read(pause, b"ON", false), Some(Word::Pause(Pausing::Paused)));
        assert_eq!(read(pause, b"off", false), Some(Word::Pause(Pausing::Running)));
        assert_eq!(read(pause, b"maybe", false), Some(Word::BadPause));
        assert_eq!(read(pause, b"ON", true), None);
        assert_eq!(read("spotter/n/update/set", b"install", false), Some(Word::Update));
        assert_eq!(read("spotter/n/update/set", b"install", true), None);
        let recordings = "spotter/n/cam/recordings/set";
        assert_eq!(read(recordings, b"ON", false), set(Setting::Record));
        let always = Setting::Recordings(RecordMode::Continuous);
        assert_eq!(read(recordings, b"continuous", false), set(always));
        assert_eq!(
            read("spotter/n/cam/threshold/set", b"0.65", false),
            set(Setting::Threshold(0.65))
        );
    }

    #[test]
    fn nonsense_is_known_as_such() {
        for (topic, payload) in [
            ("cam/detect/set", &b""[..]),
            ("cam/detect/set", b"maybe"),
            ("cam/detect/set", &[0xff, 0xfe]),
            ("cam/detect/set", &[b'o'; 100_000]),
            ("cam/recordings/set", b"1"),
            ("cam/threshold/set", b"NaN"),
            ("cam/threshold/set", b"inf"),
            ("cam/threshold/set", b"1"),
            ("cam/threshold/set", b"0.5.5"),
            ("c m/detect/set", b"ON"),
            ("cam/volume/set", b"3"),
            ("update/set", b"now"),
        ] {
            let word = read(&format!("spotter/n/{topic}"), payload, false);
            assert!(matches!(word, Some(Word::Nonsense { .. })), "{topic} {word:?}");
        }
        for topic in ["spotter/nn/cam/detect/set", "spotter/n/cam/detect", "spotter/n", "x"] {
            assert_eq!(read(topic, b"ON", false), None);
        }
    }

    #[test]
    fn other_words_are_known() {
        assert_eq!(read("homeassistant/status", b"online", false), Some(Word::Birth));
        assert_eq!(read("homeassistant/status", b"offline", false), None);
        let told = read("spotter/n/cam/status", b"online", true);
        assert_eq!(told, Some(Word::RetainedOnline("cam".into())));
        assert_eq!(read("spotter/n/status", b"online", true), None);
        let other = read("spotter/n/instance", b"abc", true);
        assert_eq!(other, Some(Word::Instance { id: "abc".into(), retained: true }));
    }
}
