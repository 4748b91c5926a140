//! GPIO lines behind embedded-hal's traits: high means on, whatever the wire says. What a line is for is not known here.

mod fake; // files that hold a level
#[cfg(feature = "gpio")]
mod linux; // the kernel's GPIO character devices

use std::fmt;

use embedded_hal::digital::{self, InputPin, OutputPin, PinState};
use serde::Serialize;

use crate::config::{GpioBackend, Line, Pull};

/// Why a line cannot be had, or does not work any more: what, and the remedy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct PinError(pub String);

impl digital::Error for PinError {
    fn kind(&self) -> digital::ErrorKind {
        digital::ErrorKind::Other
    }
}

/// What the wire does when the line is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Active {
    High,
    Low,
}

impl Active {
    pub fn low_if(low: bool) -> Self {
        if low { Self::Low } else { Self::High }
    }
}

/// A line to be opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    pub chip: String,
    pub line: Line,
    pub active: Active,
}

impl fmt::Display for Wanted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.chip.as_str() {
            "" => write!(f, "{}", self.line),
            chip => write!(f, "{chip} {}", self.line),
        }
    }
}

/// Lines that are open; closing gives them back to the kernel.
pub type Output = Box<dyn OutputPin<Error = PinError> + Send>;
pub type Input = Box<dyn InputPin<Error = PinError> + Send>;

/// An open line and where it was found.
pub struct Found<P> {
    pub pin: P,
    /// As in "gpiochip0 17 (GPIO17)".
    pub place: String,
}

impl<P> fmt::Debug for Found<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Found").field("place", &self.place).finish_non_exhaustive()
    }
}

/// Takes a line for output; it has `level` from its first moment on.
pub fn open_output(
    backend: GpioBackend,
    wanted: &Wanted,
    level: PinState,
) -> Result<Found<Output>, PinError> {
    match backend {
        GpioBackend::Fake => fake::output(wanted, level),
        #[cfg(feature = "gpio")]
        GpioBackend::Linux => linux::output(wanted, level),
        #[cfg(not(feature = "gpio"))]
        GpioBackend::Linux => Err(not_built()),
    }
}

/// Takes a line for input.
pub fn open_input(
    backend: GpioBackend,
    wanted: &Wanted,
    pull: Pull,
) -> Result<Found<Input>, PinError> {
    match backend {
        GpioBackend::Fake => fake::input(wanted),
        #[cfg(feature = "gpio")]
        GpioBackend::Linux => linux::input(wanted, pull),
        #[cfg(not(feature = "gpio"))]
        GpioBackend::Linux => {
            let _ = pull;
            Err(not_built())
        }
    }
}

#[cfg(not(feature = "gpio"))]
fn not_built() -> PinError {
    PinError("this build has no gpio: build with feature gpio".into())
}

/// A chip as `spotter probe` shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ChipReport {
    /// "gpiochip0".
    pub chip: String,
    pub label: String,
    /// How many; absent when the chip cannot be opened.
    pub lines: Option<u32>,
    /// Those with a name, as "17: GPIO17", with who uses it.
    pub named: Vec<String>,
    /// Why it cannot be opened.
    pub error: Option<String>,
}

/// The chips of this machine; why there are none, when there are none.
pub fn chips() -> Result<Vec<ChipReport>, PinError> {
    #[cfg(feature = "gpio")]
    return linux::chips();
    #[cfg(not(feature = "gpio"))]
    Err(not_built())
}
