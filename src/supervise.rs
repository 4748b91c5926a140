//! Restarts exits that fail or panic, after a jittered back-off. What happens to the detector is `detect/worker.rs`'s business.

use std::fmt::Display;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use rand::Rng;
use tokio_util::sync::CancellationToken;

/// Waits between restarts: doubles from `first` to `most`, each with up to half of it in jitter.
#[derive(Debug, Clone)]
pub struct BackOff {
    next: Duration,
    first: Duration,
    most: Duration,
}

impl BackOff {
    pub fn new(first: Duration, most: Duration) -> Self {
        Self { next: first, first, most }
    }

    /// The next wait. `rng` makes two boxes that lost the same broker come back at different times.
    pub fn next(&mut self, rng: &mut impl Rng) -> Duration {
        let base = self.next;
        self.next = (base * 2).min(self.most);
        base.mul_f64(rng.random_range(0.75..1.25))
    }

    pub fn reset(&mut self) {
        self.next = self.first;
    }
}

impl Default for BackOff {
    fn default() -> Self {
        Self::new(Duration::from_secs(1), Duration::from_secs(30))
    }
}

/// Runs an exit until it ends well or `shutdown` is cancelled; restarts it after errors and panics, for ever: a broker or
/// a socket that fails must not touch detection. A run that lasted a minute counts as healthy and starts the back-off anew.
pub async fn supervise<F, Fut, E>(
    stage: &'static str,
    mut back_off: BackOff,
    shutdown: CancellationToken,
    mut run_once: F,
) where
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<(), E>>,
    E: Display,
{
    loop {
        let started = Instant::now();
        let error = match AssertUnwindSafe(run_once()).catch_unwind().await {
            Ok(Ok(())) => return,
            Ok(Err(error)) => error.to_string(),
            Err(panic) => format!("panicked: {}", panic_text(&*panic)),
        };
        if shutdown.is_cancelled() {
            return;
        }
        if started.elapsed() >= Duration::from_secs(60) {
            back_off.reset();
        }
        let wait = back_off.next(&mut rand::rng());
        tracing::warn!(stage, error, wait_s = wait.as_secs_f32(), "stage failed, restarting");
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = shutdown.cancelled() => return,
        }
    }
}

/// The words a panic left, for a log line.
pub fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|s| (*s).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "no message".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    fn quick() -> BackOff {
        BackOff::new(Duration::from_millis(1), Duration::from_millis(2))
    }

    #[tokio::test]
    async fn restarts_after_errors_and_panics() {
        let runs = AtomicUsize::new(0);
        supervise("test", quick(), CancellationToken::new(), || async {
            match runs.fetch_add(1, Ordering::SeqCst) {
                0 => Err("first"),
                1 => panic!("second"),
                _ => Ok(()),
            }
        })
        .await;
        assert_eq!(runs.load(Ordering::SeqCst), 3);
    }

    #[test]
    fn waits_grow_to_the_bound() {
        let mut rng = rand::rng();
        let mut b = BackOff::default();
        let waits: Vec<_> = (0..10).map(|_| b.next(&mut rng).as_secs_f64()).collect();
        assert!(waits[0] < 1.3 && waits[9] > 22.0 && waits[9] < 38.0, "{waits:?}");
    }
}
