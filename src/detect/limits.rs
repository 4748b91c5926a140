//! How long an accelerator may take, and how long spotter waits before it tries one again.

use std::time::Duration;

#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// To load its library and make the model its own. Firmware is uploaded, and some compile.
    pub open: Duration,
    /// To run the model once, and to let go of it.
    pub run: Duration,
    /// The first wait after a failure, and the longest.
    pub retry: Duration,
    pub retry_most: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            open: Duration::from_secs(30),
            run: Duration::from_secs(2),
            retry: Duration::from_secs(5),
            retry_most: Duration::from_secs(300),
        }
    }
}
