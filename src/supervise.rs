//! Restarts what fails or panics, after a jittered back-off, and gives up when the rule says so.

use std::collections::VecDeque;
use std::fmt::Display;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use rand::Rng;
use tokio_util::sync::CancellationToken;

/// When a stage that keeps failing is no longer restarted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GiveUp {
    /// Exits may fail for ever without touching detection.
    Never,
    /// After `times` failures within `window` the service manager should take over.
    After { times: usize, window: Duration },
}

/// A stage failed too often.
#[derive(Debug, thiserror::Error)]
#[error("{stage} failed {times} times in {within_s} s, last: {last}")]
pub struct GaveUp {
    pub stage: &'static str,
    pub times: usize,
    pub within_s: u64,
    pub last: String,
}

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

/// Runs `run_once` until it ends well or `shutdown` is cancelled; restarts it after errors and panics.
/// A run that lasted a minute counts as healthy and starts the back-off anew.
pub async fn supervise<F, Fut, E>(
    stage: &'static str,
    rule: GiveUp,
    mut back_off: BackOff,
    shutdown: CancellationToken,
    mut run_once: F,
) -> Result<(), GaveUp>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<(), E>>,
    E: Display,
{
    let mut failures: VecDeque<Instant> = VecDeque::new();
    loop {
        let started = Instant::now();
        let last = match AssertUnwindSafe(run_once()).catch_unwind().await {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(error)) => error.to_string(),
            Err(panic) => format!("panicked: {}", panic_text(&*panic)),
        };
        if shutdown.is_cancelled() {
            return Ok(());
        }
        if started.elapsed() >= Duration::from_secs(60) {
            back_off.reset();
        }
        if let Some(given_up) = judge(stage, rule, &mut failures, Instant::now(), &last) {
            return Err(given_up);
        }
        let wait = back_off.next(&mut rand::rng());
        tracing::warn!(
            stage,
            error = last,
            wait_s = wait.as_secs_f32(),
            "stage failed, restarting"
        );
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = shutdown.cancelled() => return Ok(()),
        }
    }
}

fn judge(
    stage: &'static str,
    rule: GiveUp,
    failures: &mut VecDeque<Instant>,
    now: Instant,
    last: &str,
) -> Option<GaveUp> {
    let GiveUp::After { times, window } = rule else {
        return None;
    };
    failures.push_back(now);
    failures.retain(|at| now.duration_since(*at) < window);
    (failures.len() >= times).then(|| GaveUp {
        stage,
        times,
        within_s: window.as_secs(),
        last: last.to_owned(),
    })
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
        let out = supervise("test", GiveUp::Never, quick(), CancellationToken::new(), || async {
            match runs.fetch_add(1, Ordering::SeqCst) {
                0 => Err("first"),
                1 => panic!("second"),
                _ => Ok(()),
            }
        })
        .await;
        assert!(out.is_ok());
        assert_eq!(runs.load(Ordering::SeqCst), 3);
    }

    #[tokio::test]
    async fn gives_up_by_the_rule() {
        let rule = GiveUp::After { times: 3, window: Duration::from_secs(600) };
        let out =
            supervise("test", rule, quick(), CancellationToken::new(), || async { Err("no") })
                .await;
        let text = out.unwrap_err().to_string();
        assert!(text.contains("test failed 3 times"), "{text}");
    }

    #[test]
    fn waits_grow_to_the_bound() {
        let mut rng = rand::rng();
        let mut b = BackOff::default();
        let waits: Vec<_> = (0..10).map(|_| b.next(&mut rng).as_secs_f64()).collect();
        assert!(waits[0] < 1.3 && waits[9] > 22.0 && waits[9] < 38.0, "{waits:?}");
    }
}
