//! Lines of the kernel's GPIO character devices (/dev/gpiochipN, second version of their interface).

use std::path::{Path, PathBuf};

use embedded_hal::digital::{ErrorType, InputPin, OutputPin, PinState};
use gpiocdev::line::{Bias, Value};
use gpiocdev::{Chip, Request};

use super::{Active, ChipReport, Found, Input, Output, PinError, Wanted};
use crate::config::{Line, Pull};

/// What other programs see of a line that we hold.
const CONSUMER: &str = "spotter";

struct LinuxPin {
    request: Request,
    offset: u32,
    place: String,
}

pub(super) fn output(wanted: &Wanted, level: PinState) -> Result<Found<Output>, PinError> {
    let at = find(wanted)?;
    let mut builder = Request::builder();
    builder.as_output(value(level));
    let pin = at.request(&mut builder, wanted.active)?;
    Ok(Found { place: pin.place.clone(), pin: Box::new(pin) })
}

pub(super) fn input(wanted: &Wanted, pull: Pull) -> Result<Found<Input>, PinError> {
    let at = find(wanted)?;
    let with = |bias: Option<Bias>| {
        let mut builder = Request::builder();
        builder.as_input().with_bias(bias);
        at.request(&mut builder, wanted.active)
    };
    let bias = match pull {
        Pull::Up => Some(Bias::PullUp),
        Pull::Down => Some(Bias::PullDown),
        Pull::None => None,
    };
    let pin = match with(bias) {
        Err(error) if bias.is_some() => match with(None) {
            Ok(pin) => {
                tracing::warn!(line = pin.place, %error, "no pull resistor there: it must be on the board, or set pull = \"none\"");
                pin
            }
            Err(_) => return Err(error),
        },
        pin => pin?,
    };
    Ok(Found { place: pin.place.clone(), pin: Box::new(pin) })
}

/// A line that was found.
struct At {
    chip: PathBuf,
    offset: u32,
    place: String,
    /// Who has it now.
    consumer: Option<String>,
}

impl At {
    fn new(chip: &Path, info: &gpiocdev::line::Info) -> Self {
        let name = if info.name.is_empty() { String::new() } else { format!(" ({})", info.name) };
        Self {
            chip: chip.to_owned(),
            offset: info.offset,
            place: format!("{} {}{name}", file_name(chip), info.offset),
            consumer: info.used.then(|| info.consumer.clone()),
        }
    }

    fn request(
        &self,
        builder: &mut gpiocdev::request::Builder,
        active: Active,
    ) -> Result<LinuxPin, PinError> {
        if active == Active::Low {
            builder.as_active_low();
        }
        builder.on_chip(&self.chip).with_consumer(CONSUMER).with_line(self.offset);
        let request = builder.request().map_err(|e| {
            PinError(match &self.consumer {
                Some(user) => {
                    let user = if user.is_empty() { "the kernel" } else { user };
                    format!("line {} is used by {user}: free it or choose another", self.place)
                }
                None => format!("line {} cannot be had: {e}; choose another", self.place),
            })
        })?;
        Ok(LinuxPin { request, offset: self.offset, place: self.place.clone() })
    }
}

fn find(wanted: &Wanted) -> Result<At, PinError> {
    let paths = paths()?;
    let named = match wanted.chip.as_str() {
        "" => paths,
        chip => vec![chip_called(chip, &paths)?],
    };
    match &wanted.line {
        Line::Number(offset) => {
            let [path] = &named[..] else {
                return Err(PinError(format!(
                    "line {offset} of which chip? There are {}: set chip, see `spotter probe`",
                    names(&named)
                )));
            };
            let chip = open(path)?;
            let lines = chip.info().map_err(|e| failed(path, &e))?.num_lines;
            if *offset >= lines {
                return Err(PinError(format!(
                    "{} has no line {offset}, only 0 to {}: see `spotter probe`",
                    file_name(path),
                    lines.saturating_sub(1)
                )));
            }
            let info = chip.line_info(*offset).map_err(|e| failed(path, &e))?;
            Ok(At::new(path, &info))
        }
        Line::Name(name) => {
            let mut problem = None;
            for path in &named {
                match open(path) {
                    Ok(chip) => {
                        if let Some(info) = chip.find_line_info(name) {
                            return Ok(At::new(path, &info));
                        }
                    }
                    Err(error) => problem = Some(error),
                }
            }
            Err(problem.unwrap_or_else(|| {
                PinError(format!(
                    "no line is called {name:?} on {}: see `spotter probe`, or give chip and number",
                    names(&named)
                ))
            }))
        }
    }
}

fn paths() -> Result<Vec<PathBuf>, PinError> {
    let paths = gpiocdev::chip::chips()
        .map_err(|e| PinError(format!("GPIO chips cannot be looked for: {e}")))?;
    if paths.is_empty() {
        let remedy =
            "there is no /dev/gpiochip*: this machine has no GPIO, or its driver is not loaded";
        return Err(PinError(remedy.into()));
    }
    Ok(paths)
}

/// By path, name or label.
fn chip_called(chip: &str, paths: &[PathBuf]) -> Result<PathBuf, PinError> {
    let is_label = |path: &&PathBuf| {
        open(path)
            .and_then(|c| c.info().map_err(|e| failed(path, &e)))
            .is_ok_and(|i| i.label == chip)
    };
    let by_name = paths.iter().find(|p| p.as_os_str() == chip || file_name(p) == chip);
    // Links such as those that udev makes are paths too.
    if by_name.is_none() && chip.starts_with('/') && Path::new(chip).exists() {
        return Ok(chip.into());
    }
    by_name.or_else(|| paths.iter().find(is_label)).cloned().ok_or_else(|| {
        PinError(format!("there is no chip {chip:?}, only {}: see `spotter probe`", names(paths)))
    })
}

fn open(path: &Path) -> Result<Chip, PinError> {
    Chip::from_path(path).map_err(|e| match std::fs::File::open(path) {
        Err(io) if io.kind() == std::io::ErrorKind::PermissionDenied => PinError(format!(
            "{} may not be opened: add spotter's user to the group that owns it (gpio)",
            path.display()
        )),
        _ => failed(path, &e),
    })
}

fn failed(path: &Path, error: &gpiocdev::Error) -> PinError {
    PinError(format!("{}: {error}", path.display()))
}

fn names(paths: &[PathBuf]) -> String {
    paths.iter().map(|p| file_name(p)).collect::<Vec<_>>().join(", ")
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
}

fn value(level: PinState) -> Value {
    match level {
        PinState::High => Value::Active,
        PinState::Low => Value::Inactive,
    }
}

impl LinuxPin {
    fn set(&self, level: PinState) -> Result<(), PinError> {
        let set = self.request.set_value(self.offset, value(level));
        set.map_err(|e| PinError(format!("line {} does not switch: {e}", self.place)))
    }
}

impl ErrorType for LinuxPin {
    type Error = PinError;
}

impl OutputPin for LinuxPin {
    fn set_low(&mut self) -> Result<(), PinError> {
        self.set(PinState::Low)
    }

    fn set_high(&mut self) -> Result<(), PinError> {
        self.set(PinState::High)
    }
}

impl InputPin for LinuxPin {
    fn is_high(&mut self) -> Result<bool, PinError> {
        let value = self.request.value(self.offset);
        let value =
            value.map_err(|e| PinError(format!("line {} cannot be read: {e}", self.place)))?;
        Ok(value == Value::Active)
    }

    fn is_low(&mut self) -> Result<bool, PinError> {
        self.is_high().map(|high| !high)
    }
}

pub(super) fn chips() -> Result<Vec<ChipReport>, PinError> {
    let report = |path: &PathBuf| {
        let read = || -> Result<ChipReport, PinError> {
            let chip = open(path)?;
            let info = chip.info().map_err(|e| failed(path, &e))?;
            let lines = chip.line_info_iter().map_err(|e| failed(path, &e))?.flatten();
            let named = lines.filter(|l| !l.name.is_empty() || l.used).map(|l| {
                let name = if l.name.is_empty() { "-" } else { &l.name };
                let user = match (l.used, l.consumer.as_str()) {
                    (false, _) => String::new(),
                    (true, "") => ", used by the kernel".into(),
                    (true, user) => format!(", used by {user}"),
                };
                format!("{}: {name}{user}", l.offset)
            });
            Ok(ChipReport {
                chip: file_name(path),
                label: info.label,
                lines: Some(info.num_lines),
                named: named.collect(),
                error: None,
            })
        };
        read().unwrap_or_else(|error| ChipReport {
            chip: file_name(path),
            label: String::new(),
            lines: None,
            named: Vec::new(),
            error: Some(error.to_string()),
        })
    };
    Ok(paths()?.iter().map(report).collect())
}
