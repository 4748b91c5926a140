//! What hangs on the machine: its cameras, lamps and buttons. Every key has its default here, its judge too.

use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::validate::Problems;
use crate::media::StreamId;

/// A camera of this machine, published as a stream.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Source {
    /// The stream's name.
    pub stream: String,
    /// A device's path (that below /dev/v4l/by-id stays the same), or the camera's name as `spotter probe` shows it.
    pub device: String,
    #[serde(default)]
    pub backend: SourceBackend,
    #[serde(default)]
    pub format: SourceFormat,
    /// Wishes: the nearest that the camera can do is taken.
    #[serde(default = "width")]
    pub width: u32,
    #[serde(default = "height")]
    pub height: u32,
    #[serde(default = "rate")]
    pub rate_hz: f64,
    /// Of what we encode; 0: by size and rate.
    #[serde(default)]
    pub bitrate_kbps: u32,
    /// GStreamer encoder elements to try, in order; empty: the board's own order.
    #[serde(default)]
    pub encoder: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SourceBackend {
    /// Video4Linux.
    #[default]
    V4l2,
    /// A picture or an H.264 file as a camera, "unplugged" while it is not there; for tests.
    Fake,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SourceFormat {
    /// What costs least and reaches size and rate.
    #[default]
    Auto,
    H264,
    Mjpeg,
    Yuyv,
    Uyvy,
    Nv12,
    I420,
}

const fn width() -> u32 {
    1280
}

const fn height() -> u32 {
    720
}

const fn rate() -> f64 {
    15.0
}

/// Lamps, outputs and a button on GPIO lines.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Gpio {
    pub backend: GpioBackend,
    /// Pins of the board, in the form of this section, for those that are not set here. No file: no pins.
    pub board_file: PathBuf,
    pub led: Option<Led>,
    pub button: Option<Button>,
    pub output: Vec<Output>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum GpioBackend {
    /// The kernel's GPIO character devices.
    Linux,
    /// Files in a directory, one a line, holding 0 or 1; for tests. `chip` is the directory.
    Fake,
}

/// A line of a chip by its number, or by the name that the board gives it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Line {
    Number(u32),
    Name(String),
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(n) => write!(f, "{n}"),
            Self::Name(name) => f.write_str(name),
        }
    }
}

/// The lamp that shows how spotter is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Led {
    /// "gpiochip0", its path, or its label; may be left out where the line has a name.
    #[serde(default)]
    pub chip: String,
    pub line: Line,
    #[serde(default)]
    pub active_low: bool,
}

/// The button: short for the privacy pause, long for a new owner token.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Button {
    #[serde(default)]
    pub chip: String,
    pub line: Line,
    /// A button to ground, as most are wired.
    #[serde(default = "yes")]
    pub active_low: bool,
    #[serde(default)]
    pub pull: Pull,
    #[serde(default = "long_press")]
    pub long_press_s: f64,
}

/// The chip's own resistor, where it has one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Pull {
    #[default]
    Up,
    Down,
    None,
}

/// A bell or a light that follows animals.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Output {
    pub name: String,
    #[serde(default)]
    pub chip: String,
    pub line: Line,
    #[serde(default)]
    pub active_low: bool,
    /// On while one of these is in view; empty: any animal.
    #[serde(default)]
    pub labels: Vec<String>,
    /// In one of these streams; empty: in any.
    #[serde(default)]
    pub streams: Vec<String>,
    /// On for so long at least, and at most; 0: no bound. After the longest time it stays off until none is in view.
    #[serde(default)]
    pub min_on_s: f64,
    #[serde(default)]
    pub max_on_s: f64,
}

const fn yes() -> bool {
    true
}

const fn long_press() -> f64 {
    5.0
}

impl Default for Gpio {
    fn default() -> Self {
        Self {
            backend: GpioBackend::Linux,
            board_file: "/usr/share/spotter/board.toml".into(),
            led: None,
            button: None,
            output: Vec::new(),
        }
    }
}

impl Gpio {
    /// Has `board`'s pins where this one has none.
    pub fn or(mut self, board: Self) -> Self {
        self.led = self.led.or(board.led);
        self.button = self.button.or(board.button);
        if self.output.is_empty() {
            self.output = board.output;
        }
        self
    }

    pub(super) fn judge(&self, p: &mut Problems) {
        let mut lines: Vec<(String, &str, &Line)> = Vec::new();
        let pin = |p: &mut Problems, key: String, line: &Line| {
            if let Line::Name(name) = line {
                p.unless(!name.is_empty(), &format!("{key}.line"), || {
                    "is empty: give a line's number or name as `spotter probe` shows it".to_owned()
                });
            }
            key
        };
        if let Some(led) = &self.led {
            lines.push((pin(p, "gpio.led".into(), &led.line), &led.chip, &led.line));
        }
        if let Some(b) = &self.button {
            p.between("gpio.button.long_press_s", b.long_press_s, 1.0, 60.0);
            lines.push((pin(p, "gpio.button".into(), &b.line), &b.chip, &b.line));
        }
        for (n, o) in self.output.iter().enumerate() {
            let key = format!("gpio.output[{n}]");
            p.topic_part(&format!("{key}.name"), &o.name);
            let fresh = !["", "led", "button"].contains(&o.name.as_str())
                && self.output[..n].iter().all(|other| other.name != o.name);
            p.unless(fresh, &format!("{key}.name"), || {
                format!("{:?} is empty or taken: give each output a word of its own", o.name)
            });
            p.between(&format!("{key}.min_on_s"), o.min_on_s, 0.0, 3600.0);
            p.between(&format!("{key}.max_on_s"), o.max_on_s, 0.0, 86_400.0);
            p.unless(
                o.max_on_s == 0.0 || o.max_on_s >= o.min_on_s,
                &format!("{key}.max_on_s"),
                || format!("{} is below min_on_s: raise it, or 0 for no bound", o.max_on_s),
            );
            for stream in &o.streams {
                if let Err(bad) = StreamId::new(stream) {
                    p.unless(false, &format!("{key}.streams"), || bad.to_string());
                }
            }
            lines.push((pin(p, key, &o.line), &o.chip, &o.line));
        }
        for (n, (key, chip, line)) in lines.iter().enumerate() {
            let twice = lines[..n].iter().find(|(_, c, l)| (c, l) == (chip, line));
            if let Some((other, ..)) = twice {
                p.unless(false, &format!("{key}.line"), || {
                    format!("line {line} is {other}'s already: choose another one")
                });
            }
        }
    }
}

impl Source {
    /// Judges all, since each stream takes one camera and each camera makes one stream.
    pub(super) fn judge_all(all: &[Self], p: &mut Problems) {
        for (n, source) in all.iter().enumerate() {
            let key = |what: &str| format!("source[{n}].{what}");
            if let Err(bad) = StreamId::new(&source.stream) {
                p.unless(false, &key("stream"), || bad.to_string());
            }
            let fresh = all[..n].iter().all(|other| other.stream != source.stream);
            p.unless(fresh, &key("stream"), || {
                format!("{:?} is another source's already: choose another one", source.stream)
            });
            p.unless(!source.device.is_empty(), &key("device"), || {
                "is empty: give a path below /dev, or the camera's name; see `spotter probe`".into()
            });
            let fresh = all[..n].iter().all(|other| other.device != source.device);
            p.unless(fresh || source.device.is_empty(), &key("device"), || {
                format!("{:?} is another source's already: a camera serves one", source.device)
            });
            p.between(&key("width"), source.width, 16, 8192);
            p.between(&key("height"), source.height, 16, 8192);
            p.between(&key("rate_hz"), source.rate_hz, 0.1, 240.0);
            p.between(&key("bitrate_kbps"), source.bitrate_kbps, 0, 100_000);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Config;

    fn keys(text: &str) -> Vec<String> {
        let faults = toml::from_str::<Config>(text).unwrap().validate();
        faults.into_iter().map(|p| p.key).collect()
    }

    #[test]
    fn pins_are_judged() {
        let good = r#"
            [gpio.led]
            line = "GPIO17"
            [gpio.button]
            chip = "gpiochip0"
            line = 3
            [[gpio.output]]
            name = "bell"
            chip = "gpiochip0"
            line = 4
            labels = ["dog"]
            min_on_s = 1
            max_on_s = 3.5
        "#;
        assert!(keys(good).is_empty());
        let bad = r#"
            [gpio.led]
            line = 3
            [gpio.button]
            line = 3
            long_press_s = 0.1
            [[gpio.output]]
            name = "led"
            line = ""
            min_on_s = 5
            max_on_s = 2
        "#;
        let expected = [
            "gpio.button.long_press_s",
            "gpio.output[0].name",
            "gpio.output[0].max_on_s",
            "gpio.output[0].line",
            "gpio.button.line",
        ];
        assert_eq!(keys(bad), expected);
    }

    #[test]
    fn cameras_are_judged() {
        let good = "[[source]]\nstream = \"a\"\ndevice = \"/dev/video0\"\nformat = \"mjpeg\"\n";
        assert!(keys(good).is_empty());
        let bad = r#"
            [[source]]
            stream = "a"
            device = "/dev/video0"
            [[source]]
            stream = "a"
            device = "/dev/video0"
            width = 1
            rate_hz = 0
            [[source]]
            stream = "no/name"
            device = ""
        "#;
        let expected = [
            "source[1].stream",
            "source[1].device",
            "source[1].width",
            "source[1].rate_hz",
            "source[2].stream",
            "source[2].device",
        ];
        assert_eq!(keys(bad), expected);
    }
}
