//! Lines made of files: the chip is a directory, a line a file that holds 0 or 1, as the wire would. For tests.

use std::fs;
use std::path::{Path, PathBuf};

use embedded_hal::digital::{ErrorType, InputPin, OutputPin, PinState};

use super::{Active, Found, Input, Output, PinError, Wanted};

struct FakePin {
    file: PathBuf,
    active: Active,
}

pub(super) fn output(wanted: &Wanted, level: PinState) -> Result<Found<Output>, PinError> {
    let (mut pin, place) = find(wanted)?;
    pin.set_state(level)?;
    Ok(Found { pin: Box::new(pin), place })
}

pub(super) fn input(wanted: &Wanted) -> Result<Found<Input>, PinError> {
    let (mut pin, place) = find(wanted)?;
    pin.is_high()?;
    Ok(Found { pin: Box::new(pin), place })
}

fn find(wanted: &Wanted) -> Result<(FakePin, String), PinError> {
    let dir = Path::new(&wanted.chip);
    if !dir.is_dir() {
        return Err(PinError(format!("there is no chip {}: make that directory", wanted.chip)));
    }
    let file = dir.join(wanted.line.to_string());
    let place = file.display().to_string();
    Ok((FakePin { file, active: wanted.active }, place))
}

impl FakePin {
    fn failed(&self, what: &str, error: &std::io::Error) -> PinError {
        PinError(format!("cannot {what} {}: {error}", self.file.display()))
    }
}

impl ErrorType for FakePin {
    type Error = PinError;
}

impl OutputPin for FakePin {
    fn set_low(&mut self) -> Result<(), PinError> {
        let wire = if self.active == Active::High { "0" } else { "1" };
        fs::write(&self.file, wire).map_err(|e| self.failed("write", &e))
    }

    fn set_high(&mut self) -> Result<(), PinError> {
        let wire = if self.active == Active::High { "1" } else { "0" };
        fs::write(&self.file, wire).map_err(|e| self.failed("write", &e))
    }
}

impl InputPin for FakePin {
    fn is_high(&mut self) -> Result<bool, PinError> {
        let wire = fs::read_to_string(&self.file).map_err(|e| self.failed("read", &e))?;
        Ok((wire.trim() == "1") == (self.active == Active::High))
    }

    fn is_low(&mut self) -> Result<bool, PinError> {
        self.is_high().map(|high| !high)
    }
}
