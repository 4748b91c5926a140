//! The detector thread: takes work from the scheduler, asks the detector, hands the answers on.
//! A detector that fails is opened anew after a back-off; one that keeps failing ends the thread with an error.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::scheduler::{PictureAnswer, Ready, Scheduler, Work};
use super::types::{DetectError, Detections, Detector, DetectorInfo, Timings};
use crate::decode::{Frame, Picture};
use crate::media::Stream;
use crate::supervise::{BackOff, panic_text};

/// The detector as onlookers see it.
#[derive(Debug, Clone, Default, serde::Serialize)]
pub struct DetectorState {
    /// The one in use, or the last one that was.
    pub info: Option<DetectorInfo>,
    /// Why none is in use now, or why a changed configuration was not taken.
    pub error: Option<String>,
}

/// Opens the detector that the configuration of the moment asks for.
pub type Opener = Box<dyn FnMut() -> Result<Box<dyn Detector>, String> + Send>;

/// After so many failures in a row, with no picture answered in between, the service manager takes over.
const MAX_FAILURES: u32 = 8;

/// Runs until the scheduler is closed. `first` is the detector that start-up opened, so that a bad model is refused then.
///
/// # Errors
/// The last failure, when the detector failed [`MAX_FAILURES`] times in a row.
pub fn run(
    scheduler: &Scheduler,
    first: Box<dyn Detector>,
    mut open: Opener,
    state: &watch::Sender<DetectorState>,
    emit: &dyn Fn(&Frame, Detections),
) -> Result<(), String> {
    state.send_replace(DetectorState { info: Some(first.info().clone()), error: None });
    let mut detector = first;
    let mut back_off = BackOff::default();
    let mut failures = 0;
    while let Some(work) = scheduler.take() {
        let failed = match work {
            Work::TakeOver(Ready(new)) => {
                detector = new;
                tracing::info!(model = %detector.info().model, backend = detector.info().backend, "another detector took over");
                None
            }
            Work::Reopen => match open() {
                Ok(new) => {
                    detector = new;
                    tracing::info!(model = %detector.info().model, backend = detector.info().backend, "detector reopened");
                    state.send_replace(DetectorState {
                        info: Some(detector.info().clone()),
                        error: None,
                    });
                    None
                }
                Err(error) => {
                    tracing::error!(
                        error,
                        "the new detector settings do not work, the old detector stays"
                    );
                    state.send_modify(|s| s.error = Some(error));
                    None
                }
            },
            Work::Frame(frame, stream) => match detect_frame(&mut *detector, &frame, &stream) {
                Ok(found) => {
                    failures = 0;
                    back_off.reset();
                    emit(&frame, found);
                    None
                }
                // One stream's bad frame says nothing of the detector that all streams share.
                Err(DetectError::BrokenPicture { .. }) => {
                    stream.counters.decoder_errors.inc();
                    None
                }
                Err(error) => Some(error.to_string()),
            },
            Work::Picture(job) => {
                let started = Instant::now();
                let outcome = guarded(&mut *detector, &job.picture);
                let answer = outcome
                    .map(|detections| PictureAnswer { detections, infer: started.elapsed() });
                let failed = answer.as_ref().err().map(ToString::to_string);
                let broken = matches!(answer, Err(DetectError::Interpreter(_)));
                // Who asked may have gone away meanwhile.
                let _ = job.answer.send(answer);
                failed.filter(|_| broken)
            }
        };
        let Some(mut error) = failed else {
            // Where another way took over, or the accelerator is back.
            if state.borrow().info.as_ref() != Some(detector.info()) {
                state.send_modify(|s| s.info = Some(detector.info().clone()));
            }
            continue;
        };
        loop {
            failures += 1;
            state.send_modify(|s| s.error = Some(error.clone()));
            if failures >= MAX_FAILURES {
                return Err(format!(
                    "the detector failed {failures} times in a row, last: {error}"
                ));
            }
            let wait = back_off.next(&mut rand::rng());
            tracing::error!(
                error,
                wait_s = wait.as_secs_f32(),
                "the detector failed, reopening it"
            );
            scheduler.discard();
            scheduler.pause(wait);
            if scheduler.is_closed() {
                return Ok(());
            }
            match open() {
                Ok(new) => {
                    detector = new;
                    state.send_replace(DetectorState {
                        info: Some(detector.info().clone()),
                        error: None,
                    });
                    break;
                }
                Err(again) => error = again,
            }
        }
    }
    Ok(())
}

fn detect_frame(
    detector: &mut dyn Detector,
    frame: &Frame,
    stream: &Arc<Stream>,
) -> Result<Detections, DetectError> {
    let started = Instant::now();
    let view = frame.picture.view();
    let (width, height) = frame.picture.size();
    let mut items = guarded(detector, &*frame.picture)?;
    // Where the picture was scaled on its way here, boxes go back to the published one.
    let (seen, published) = ((view.width, view.height), (width, height));
    if seen != published {
        items.iter_mut().for_each(|found| found.bbox = found.bbox.scaled(seen, published));
    }
    let ended = Instant::now();
    let timings = Timings {
        decode: frame.decoded.saturating_duration_since(frame.arrived.mono),
        wait: started.saturating_duration_since(frame.decoded),
        infer: ended - started,
        total: ended.saturating_duration_since(frame.arrived.mono),
    };
    count(stream, &timings);
    Ok(Detections {
        stream: frame.stream.clone(),
        seq: frame.seq,
        pts: frame.pts,
        captured: frame.arrived.wall,
        width,
        height,
        model: Arc::clone(&detector.info().model),
        timings,
        items: items.into(),
    })
}

fn count(stream: &Stream, timings: &Timings) {
    let c = &stream.counters;
    c.frames_detected.inc();
    c.decode.record(timings.decode);
    c.wait.record(timings.wait);
    c.infer.record(timings.infer);
    c.total.record(timings.total);
}

/// Asks the detector; a panic in a backend is one more way to fail.
fn guarded(
    detector: &mut dyn Detector,
    picture: &dyn Picture,
) -> Result<Vec<super::Detection>, DetectError> {
    let view = picture.view();
    if !view.is_whole() {
        return Err(DetectError::BrokenPicture { width: view.width, height: view.height });
    }
    catch_unwind(AssertUnwindSafe(|| detector.detect(&view))).unwrap_or_else(|panic| {
        Err(DetectError::Interpreter(format!("panicked: {}", panic_text(&*panic))))
    })
}

/// How long shutdown waits for the thread: one inference of the slowest board we know.
pub const LAST_WORK: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;
    use crate::decode::{PictureView, RgbPicture};
    use crate::detect::Detection;
    use crate::media::stream::{StreamLimits, Takeover};
    use crate::media::{Arrival, MediaTime, StreamId, Streams};
    use std::sync::mpsc::sync_channel;

    /// Fails at every picture, or finds nothing in it.
    struct Scripted {
        info: DetectorInfo,
        works: bool,
    }

    fn scripted(works: bool) -> Box<dyn Detector> {
        let animals = config::Detect::default().animals;
        let info = crate::detect::fake::FakeDetector::new(&animals).info().clone();
        Box::new(Scripted { info, works })
    }

    impl Detector for Scripted {
        fn info(&self) -> &DetectorInfo {
            &self.info
        }

        fn detect(&mut self, _: &PictureView<'_>) -> Result<Vec<Detection>, DetectError> {
            assert!(self.works, "as a backend with a bug would");
            Ok(Vec::new())
        }

        fn self_test(&mut self, _: &PictureView<'_>) -> Result<(), DetectError> {
            Ok(())
        }
    }

    fn frame(stream: &Stream, pixels: usize) -> Frame {
        Frame {
            stream: stream.id.clone(),
            seq: 0,
            pts: MediaTime::ZERO,
            arrived: Arrival::now(),
            decoded: Instant::now(),
            picture: Box::new(RgbPicture { width: 1, height: 1, pixels: vec![0; pixels] }),
        }
    }

    /// Looked at in 40x20 pixels, published in 1280x720.
    struct Small(RgbPicture);

    impl Picture for Small {
        fn view(&self) -> PictureView<'_> {
            self.0.view()
        }

        fn size(&self) -> (u32, u32) {
            (1280, 720)
        }
    }

    #[test]
    fn boxes_are_in_the_published_picture_s_pixels() {
        let limits =
            StreamLimits { max_streams: 1, gop_budget_bytes: 1, grace: Duration::from_secs(9) };
        let publication =
            Streams::new(limits).claim(&StreamId::new("a").unwrap(), Takeover::Refused).unwrap();
        let animals = config::Detect::default().animals;
        let mut detector = crate::detect::fake::FakeDetector::new(&animals);
        let picture = RgbPicture { width: 40, height: 20, pixels: vec![0; 40 * 20 * 3] };
        let small = detector.detect(&picture.view()).unwrap()[0].bbox;
        let mut frame = frame(publication.stream(), 0);
        frame.picture = Box::new(Small(picture));
        let found = detect_frame(&mut detector, &frame, publication.stream()).unwrap();
        assert_eq!((found.width, found.height), (1280, 720));
        let bbox = found.items[0].bbox;
        assert_eq!((bbox.x1, bbox.x2), (small.x1 * 32.0, small.x2 * 32.0));
        assert_eq!((bbox.y1, bbox.y2), (small.y1 * 36.0, small.y2 * 36.0));
    }

    #[test]
    fn a_detector_that_panics_is_reopened_and_a_broken_frame_is_only_counted() {
        let limits =
            StreamLimits { max_streams: 1, gop_budget_bytes: 1, grace: Duration::from_secs(9) };
        let publication =
            Streams::new(limits).claim(&StreamId::new("a").unwrap(), Takeover::Refused).unwrap();
        let stream = publication.stream();
        let scheduler = Scheduler::new(1);
        scheduler.attach(stream, Some(1e9));
        let (state, seen) = watch::channel(DetectorState::default());
        let (found, finds) = sync_channel(9);
        let thread = {
            let scheduler = Arc::clone(&scheduler);
            std::thread::spawn(move || {
                let emit = move |_: &Frame, d: Detections| found.send(d).unwrap();
                let open: Opener = Box::new(|| Ok(scripted(true)));
                run(&scheduler, scripted(false), open, &state, &emit)
            })
        };
        scheduler.offer(frame(stream, 3));
        let patience = Instant::now() + Duration::from_secs(30);
        // Offered again until the reopened detector takes one.
        let found = loop {
            assert!(Instant::now() < patience);
            scheduler.offer(frame(stream, 0));
            std::thread::sleep(Duration::from_millis(20));
            scheduler.offer(frame(stream, 3));
            // On a busy machine a whole frame may have displaced each broken one so far.
            if let Ok(found) = finds.recv_timeout(Duration::from_millis(100))
                && stream.counters.decoder_errors.get() > 0
            {
                break found;
            }
        };
        assert!(found.items.is_empty());
        assert!(stream.counters.decoder_errors.get() > 0);
        assert!(seen.borrow().error.is_none());
        scheduler.close();
        assert_eq!(thread.join().unwrap(), Ok(()));
    }
}
