//! Runs an accelerator's engine on a thread of its own and gives up on it when it does not answer. Knows no runtime.
//!
//! A native call that hangs cannot be ended: its thread, and the interpreter it is in, are left behind and counted. When
//! `MOST_LEFT_BEHIND` hang, no accelerator is tried any more until spotter is started again.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};

use parking_lot::Mutex;

use super::Limits;
use super::engine::{Engine, EngineError, Opened};
use super::tensor::{Element, Quant, TensorMeta, TensorMut, Values, View};
use crate::supervise::panic_text;

/// Threads that may hang in drivers at one time, each with an interpreter's memory.
const MOST_LEFT_BEHIND: usize = 3;

static LEFT_BEHIND: Mutex<usize> = Mutex::new(0);

/// Threads that hang in an accelerator's driver now.
pub(super) fn left_behind() -> usize {
    *LEFT_BEHIND.lock()
}

/// Whether anybody still waits for the thread. Shared by both sides, so that each thread is counted right even when it
/// comes back just as it is given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Thread {
    AtWork,
    LeftBehind,
    Ended,
}

type Shared = Arc<Mutex<Thread>>;

fn leave_behind(thread: &Shared) {
    let mut now = thread.lock();
    if *now == Thread::AtWork {
        *now = Thread::LeftBehind;
        *LEFT_BEHIND.lock() += 1;
    }
}

/// Held by the thread; what hung may come back after all.
struct Alive(Shared);

impl Drop for Alive {
    fn drop(&mut self) {
        let mut now = self.0.lock();
        if std::mem::replace(&mut *now, Thread::Ended) == Thread::LeftBehind {
            *LEFT_BEHIND.lock() -= 1;
        }
    }
}

/// Opens an engine on a thread of its own, within the limits.
///
/// # Errors
/// What `open` says, or that it did not answer, or that too many hang already.
pub(super) fn open(
    limits: Limits,
    open: impl FnOnce() -> Result<Opened, String> + Send + 'static,
) -> Result<Opened, String> {
    let hanging = left_behind();
    if hanging >= MOST_LEFT_BEHIND {
        return Err(format!(
            "not tried: {hanging} threads hang in drivers already; look at the accelerator's cable and power and restart spotter"
        ));
    }
    let shared: Shared = Arc::new(Mutex::new(Thread::AtWork));
    let (told, opened) = sync_channel(1);
    let (jobs, taken) = sync_channel::<Job>(1);
    let (answer, answers) = sync_channel(1);
    let (ended, end) = sync_channel(0);
    let alive = Alive(Arc::clone(&shared));
    let work = move || {
        // Dropped last, in reverse order: the end is told when the thread is no longer counted.
        let _ended: SyncSender<()> = ended;
        let _alive = alive;
        let outcome = catch_unwind(AssertUnwindSafe(open))
            .unwrap_or_else(|panic| Err(format!("panicked: {}", panic_text(&*panic))));
        let Opened { mut engine, facts } = match outcome {
            Ok(opened) => opened,
            Err(reason) => return drop(told.send(Err(reason))),
        };
        let metas = (engine.input().clone(), engine.outputs().to_vec());
        if told.send(Ok((facts, metas))).is_ok() {
            serve(&mut *engine, &taken, &answer);
        }
    };
    std::thread::Builder::new()
        .name("accelerator".into())
        .spawn(work)
        .map_err(|e| format!("no thread for it: {e}"))?;
    let (facts, (input, outputs)) = match opened.recv_timeout(limits.open) {
        Ok(outcome) => outcome?,
        Err(RecvTimeoutError::Timeout) => {
            leave_behind(&shared);
            return Err(format!(
                "did not answer within {:.1} s of being opened; look at the accelerator's cable and power",
                limits.open.as_secs_f32()
            ));
        }
        Err(RecvTimeoutError::Disconnected) => return Err("its thread ended".into()),
    };
    let job =
        Job { input: Buffer::like(&input), outputs: outputs.iter().map(Buffer::like).collect() };
    let engine = Watched {
        jobs: Some(jobs),
        answers,
        end,
        limit: limits.run,
        shared,
        input,
        outputs,
        job: Some(job),
    };
    Ok(Opened { engine: Box::new(engine), facts })
}

/// Runs jobs until nobody sends any, or nobody waits for the answer.
fn serve(engine: &mut dyn Engine, jobs: &Receiver<Job>, answer: &SyncSender<Answer>) {
    while let Ok(mut job) = jobs.recv() {
        let Job { input, outputs } = &mut job;
        let ran = engine.run(&mut |tensor| input.copy_to(tensor), &mut |views| {
            outputs.iter_mut().zip(views).for_each(|(buffer, view)| buffer.copy_from(view.values));
        });
        let ran = ran.map_err(|EngineError(why)| {
            EngineError(format!(
                "{why}; its library's own words are in the log, its driver's in dmesg"
            ))
        });
        if answer.send(ran.map(|()| job)).is_err() {
            return;
        }
    }
}

/// One picture's tensors on their way to the engine and back. The memory goes round, so that none is made for a picture.
struct Job {
    input: Buffer,
    outputs: Vec<Buffer>,
}

type Answer = Result<Job, EngineError>;

enum Buffer {
    I8(Vec<i8>),
    U8(Vec<u8>),
    F32(Vec<f32>),
    /// Of a type no head reads.
    Other,
}

impl Buffer {
    fn like(meta: &TensorMeta) -> Self {
        match meta.element {
            Element::I8 => Self::I8(vec![0; meta.volume()]),
            Element::U8 => Self::U8(vec![0; meta.volume()]),
            Element::F32 => Self::F32(vec![0.0; meta.volume()]),
            Element::Other(_) => Self::Other,
        }
    }

    fn tensor(&mut self) -> Option<TensorMut<'_>> {
        match self {
            // The letterbox writes bytes whatever their sign.
            Self::I8(values) => Some(TensorMut::Bytes(signless(values))),
            Self::U8(values) => Some(TensorMut::Bytes(values)),
            Self::F32(values) => Some(TensorMut::F32(values)),
            Self::Other => None,
        }
    }

    fn copy_to(&mut self, tensor: TensorMut<'_>) {
        match (self.tensor(), tensor) {
            (Some(TensorMut::Bytes(from)), TensorMut::Bytes(to)) if from.len() == to.len() => {
                to.copy_from_slice(from);
            }
            (Some(TensorMut::F32(from)), TensorMut::F32(to)) if from.len() == to.len() => {
                to.copy_from_slice(from);
            }
            // An engine gives the tensor that it described.
            _ => {}
        }
    }

    fn copy_from(&mut self, values: Values<'_>) {
        match (self, values) {
            (Self::I8(to), Values::I8(from)) if to.len() == from.len() => to.copy_from_slice(from),
            (Self::U8(to), Values::U8(from)) if to.len() == from.len() => to.copy_from_slice(from),
            (Self::F32(to), Values::F32(from)) if to.len() == from.len() => {
                to.copy_from_slice(from);
            }
            _ => {}
        }
    }

    fn view(&self, quant: Quant) -> View<'_> {
        let values = match self {
            Self::I8(values) => Values::I8(values),
            Self::U8(values) => Values::U8(values),
            Self::F32(values) => Values::F32(values),
            Self::Other => Values::Other,
        };
        View { values, quant }
    }
}

#[allow(unsafe_code)]
fn signless(values: &mut [i8]) -> &mut [u8] {
    // SAFETY: i8 and u8 have the same size and alignment, every bit pattern is valid for both, and the borrow is handed on.
    unsafe { std::slice::from_raw_parts_mut(values.as_mut_ptr().cast(), values.len()) }
}

/// The near end: an engine that answers in time or not at all.
struct Watched {
    /// Taken when the thread was given up.
    jobs: Option<SyncSender<Job>>,
    answers: Receiver<Answer>,
    /// Closed when the thread is gone.
    end: Receiver<()>,
    limit: std::time::Duration,
    shared: Shared,
    input: TensorMeta,
    outputs: Vec<TensorMeta>,
    /// The buffers, while they are here.
    job: Option<Job>,
}

impl Engine for Watched {
    fn input(&self) -> &TensorMeta {
        &self.input
    }

    fn outputs(&self) -> &[TensorMeta] {
        &self.outputs
    }

    fn run(
        &mut self,
        fill: &mut dyn FnMut(TensorMut<'_>),
        read: &mut dyn FnMut(&[View<'_>]),
    ) -> Result<(), EngineError> {
        let (Some(jobs), Some(mut job)) = (&self.jobs, self.job.take()) else {
            return Err(EngineError("it failed before".into()));
        };
        if let Some(tensor) = job.input.tensor() {
            fill(tensor);
        }
        let gone = || EngineError("its thread ended; see the log".into());
        jobs.send(job).map_err(|_| gone())?;
        match self.answers.recv_timeout(self.limit) {
            Ok(answer) => {
                let job = answer?;
                let views = job.outputs.iter().zip(&self.outputs);
                read(&views.map(|(buffer, meta)| buffer.view(meta.quant)).collect::<Vec<_>>());
                self.job = Some(job);
                Ok(())
            }
            Err(RecvTimeoutError::Disconnected) => Err(gone()),
            Err(RecvTimeoutError::Timeout) => {
                self.jobs = None;
                leave_behind(&self.shared);
                Err(EngineError(format!(
                    "did not answer within {:.1} s; look at the accelerator's cable and power",
                    self.limit.as_secs_f32()
                )))
            }
        }
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        // Without jobs the thread lets go of the engine, which may hang too. A new one may want the same device: wait for it.
        if self.jobs.take().is_some()
            && self.end.recv_timeout(self.limit) == Err(RecvTimeoutError::Timeout)
        {
            tracing::warn!(
                "an accelerator does not let go of its model; its thread is left behind"
            );
            leave_behind(&self.shared);
        }
    }
}
