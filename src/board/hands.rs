//! The thread behind lamps, outputs and the button: looks at the button, asks the pure rules, sets the lines. A line
//! that cannot be had is said once, with its remedy, and tried again for ever; nothing else waits for it.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use embedded_hal::digital::PinState;
use parking_lot::{Condvar, Mutex};
use tokio::sync::watch;

use super::button::{Contact, Press, Presses};
use super::follow::{self, Follow};
use super::lamp::{self, CONFIRM_FOR, Mood};
use super::pins::{self, Active, Found, Input, Output, PinError, Wanted};
use crate::config::{self, Gpio};
use crate::media::StreamId;
use crate::supervise::BackOff;
use crate::track::Counts;

/// How often lines are looked at: a fifth of the shortest rhythm, and enough for a finger. Edges from the kernel would
/// save fifty wake-ups a second, and not every expander on a bus can tell them.
const TICK: Duration = Duration::from_millis(20);

/// How one line stands, for onlookers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PinStatus {
    /// "led", "button", or the output's name.
    pub name: String,
    /// As the configuration names it, and as it was found.
    pub line: String,
    pub found: Option<String>,
    pub error: Option<String>,
}

/// Whether what a press asked for was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Done {
    Yes,
    No,
}

/// What the hands go by.
#[derive(Clone)]
pub struct Context {
    /// Animals apart.
    pub mood: watch::Receiver<Mood>,
    pub counts: watch::Receiver<BTreeMap<StreamId, Counts>>,
    /// Called on the hands' own thread.
    pub pressed: Arc<dyn Fn(Press) -> Done + Send + Sync>,
}

impl std::fmt::Debug for Context {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Context").field("mood", &self.mood).finish_non_exhaustive()
    }
}

/// The hands, with the pins they have now.
#[derive(Debug)]
pub struct Hands {
    context: Context,
    running: Mutex<Option<Running>>,
    status: watch::Sender<Vec<PinStatus>>,
}

#[derive(Debug)]
struct Running {
    stop: Arc<Stop>,
    thread: JoinHandle<()>,
}

#[derive(Debug, Default)]
struct Stop {
    asked: Mutex<bool>,
    bell: Condvar,
}

impl Stop {
    fn ask(&self) {
        *self.asked.lock() = true;
        self.bell.notify_all();
    }

    /// Waits one tick; true when the end was asked for.
    fn within(&self, wait: Duration) -> bool {
        let mut asked = self.asked.lock();
        if !*asked {
            self.bell.wait_for(&mut asked, wait);
        }
        *asked
    }
}

impl Hands {
    pub fn new(context: Context) -> Self {
        Self { context, running: Mutex::default(), status: watch::Sender::default() }
    }

    /// Takes these pins, and lets go of those it had.
    pub fn follow(&self, gpio: &Gpio) {
        self.finish();
        let gpio = with_board(gpio);
        if gpio.led.is_none() && gpio.button.is_none() && gpio.output.is_empty() {
            self.status.send_replace(Vec::new());
            return;
        }
        let stop = Arc::<Stop>::default();
        let (context, status) = (self.context.clone(), self.status.clone());
        let until = Arc::clone(&stop);
        let spawned = std::thread::Builder::new().name("gpio".into()).spawn(move || {
            Driver::new(&gpio, context, status).run(&until);
        });
        match spawned {
            Ok(thread) => *self.running.lock() = Some(Running { stop, thread }),
            Err(error) => tracing::error!(%error, "no thread for lamps and buttons"),
        }
    }

    /// Every pin that is asked for, and a wake-up when one changes.
    pub fn status(&self) -> watch::Receiver<Vec<PinStatus>> {
        self.status.subscribe()
    }

    /// Switches all off. Blocks for a tick.
    pub fn finish(&self) {
        let running = self.running.lock().take();
        if let Some(Running { stop, thread }) = running {
            stop.ask();
            if thread.join().is_err() {
                tracing::error!("the thread of lamps and buttons panicked");
            }
        }
    }
}

impl Drop for Hands {
    fn drop(&mut self) {
        // Not waited for: a bus that hangs must not keep the process.
        if let Some(running) = &*self.running.lock() {
            running.stop.ask();
        }
    }
}

/// The configured pins over those that the board's own file gives; a bad file is as none.
fn with_board(gpio: &Gpio) -> Gpio {
    let gpio = gpio.clone();
    let file = gpio.board_file.clone();
    match read_board(&file) {
        Ok(Some(board)) => gpio.or(board),
        Ok(None) => gpio,
        Err(error) => {
            tracing::warn!(file = %file.display(), error, "the board's pins are not used: mend the file, or set gpio.board_file = \"\"");
            gpio
        }
    }
}

fn read_board(file: &Path) -> Result<Option<Gpio>, String> {
    if file.as_os_str().is_empty() {
        return Ok(None);
    }
    let text = match std::fs::read_to_string(file) {
        Ok(text) => text,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(e.to_string()),
    };
    let config = config::parse(&file.display().to_string(), &text).map_err(|e| e.to_string())?;
    Ok(Some(config.gpio))
}

type Opener<P> = Box<dyn Fn(&Wanted) -> Result<Found<P>, PinError> + Send>;

/// A line that is open, or will be tried again.
struct Slot<P> {
    name: String,
    wanted: Wanted,
    open: Opener<P>,
    pin: Option<P>,
    found: Option<String>,
    error: Option<String>,
    retry: Instant,
    back_off: BackOff,
}

impl<P> Slot<P> {
    fn new(
        name: &str,
        wanted: Wanted,
        open: impl Fn(&Wanted) -> Result<Found<P>, PinError> + Send + 'static,
    ) -> Self {
        Self {
            name: name.into(),
            wanted,
            open: Box::new(open),
            pin: None,
            found: None,
            error: None,
            retry: Instant::now(),
            back_off: BackOff::default(),
        }
    }

    /// The line, opened if it is time to try.
    fn pin(&mut self, now: Instant) -> Option<&mut P> {
        if self.pin.is_none() && now >= self.retry {
            match (self.open)(&self.wanted) {
                Ok(Found { pin, place }) => {
                    tracing::info!(pin = self.name, line = place, "pin in use");
                    (self.pin, self.found, self.error) = (Some(pin), Some(place), None);
                    self.back_off.reset();
                }
                Err(error) => self.failed(&error, now),
            }
        }
        self.pin.as_mut()
    }

    fn failed(&mut self, error: &PinError, now: Instant) {
        self.pin = None;
        self.retry = now + self.back_off.next(&mut rand::rng());
        let error = error.to_string();
        if self.error.as_ref() != Some(&error) {
            tracing::warn!(
                pin = self.name,
                error,
                "a pin of [gpio] does not work; everything else goes on"
            );
            self.error = Some(error);
        }
    }

    fn status(&self) -> PinStatus {
        PinStatus {
            name: self.name.clone(),
            line: self.wanted.to_string(),
            found: self.found.clone().filter(|_| self.pin.is_some()),
            error: self.error.clone(),
        }
    }
}

/// An output with the level that was last set.
struct Lamp {
    slot: Slot<Output>,
    level: Option<PinState>,
}

impl Lamp {
    fn new(backend: config::GpioBackend, name: &str, wanted: Wanted) -> Self {
        let open = move |wanted: &Wanted| pins::open_output(backend, wanted, PinState::Low);
        Self { slot: Slot::new(name, wanted, open), level: None }
    }

    fn set(&mut self, level: PinState, now: Instant) {
        let was_open = self.slot.pin.is_some();
        let Some(pin) = self.slot.pin(now) else { return };
        if was_open && self.level == Some(level) {
            return;
        }
        match pin.set_state(level) {
            Ok(()) => self.level = Some(level),
            Err(error) => self.slot.failed(&error, now),
        }
    }
}

struct Driver {
    context: Context,
    status: watch::Sender<Vec<PinStatus>>,
    led: Option<Lamp>,
    button: Option<(Slot<Input>, Presses)>,
    outputs: Vec<(Lamp, Follow, config::Output)>,
    mood: (Mood, Instant),
    confirm_until: Option<Instant>,
}

impl Driver {
    fn new(gpio: &Gpio, context: Context, status: watch::Sender<Vec<PinStatus>>) -> Self {
        let backend = gpio.backend;
        let wanted = |chip: &str, line: &config::Line, active_low| Wanted {
            chip: chip.into(),
            line: line.clone(),
            active: Active::low_if(active_low),
        };
        let led = gpio
            .led
            .as_ref()
            .map(|led| Lamp::new(backend, "led", wanted(&led.chip, &led.line, led.active_low)));
        let button = gpio.button.as_ref().map(|b| {
            let pull = b.pull;
            let open = move |wanted: &Wanted| pins::open_input(backend, wanted, pull);
            let slot = Slot::new("button", wanted(&b.chip, &b.line, b.active_low), open);
            (slot, Presses::new(Duration::from_secs_f64(b.long_press_s)))
        });
        let output = |o: &config::Output| {
            let lamp = Lamp::new(backend, &o.name, wanted(&o.chip, &o.line, o.active_low));
            (lamp, Follow::new(o), o.clone())
        };
        Self {
            context,
            status,
            led,
            button,
            outputs: gpio.output.iter().map(output).collect(),
            mood: (Mood::Starting, Instant::now()),
            confirm_until: None,
        }
    }

    fn run(mut self, stop: &Stop) {
        while !stop.within(TICK) {
            self.tick(Instant::now());
            self.tell();
        }
        let now = Instant::now();
        let lamps = self.led.iter_mut().chain(self.outputs.iter_mut().map(|(lamp, ..)| lamp));
        lamps.for_each(|lamp| lamp.set(PinState::Low, now));
    }

    fn tick(&mut self, now: Instant) {
        if let Some((slot, presses)) = &mut self.button
            && let Some(pin) = slot.pin(now)
        {
            match pin.is_high() {
                Ok(on) => {
                    let contact = if on { Contact::Closed } else { Contact::Open };
                    if let Some(press) = presses.see(contact, now)
                        && (self.context.pressed)(press) == Done::Yes
                        && press == Press::Long
                    {
                        self.confirm_until = Some(now + CONFIRM_FOR);
                    }
                }
                Err(error) => slot.failed(&error, now),
            }
        }
        let counts = self.context.counts.borrow().clone();
        for (lamp, follow, config) in &mut self.outputs {
            let level = follow.step(follow::view(config, &counts), now);
            lamp.set(level, now);
        }
        let mood = self.mood(&counts, now);
        if self.mood.0 != mood {
            self.mood = (mood, now);
        }
        if let Some(led) = &mut self.led {
            led.set(lamp::lit(mood, now.duration_since(self.mood.1)), now);
        }
    }

    fn mood(&mut self, counts: &BTreeMap<StreamId, Counts>, now: Instant) -> Mood {
        if self.confirm_until.is_some_and(|until| now < until) {
            return Mood::Confirm;
        }
        self.confirm_until = None;
        match *self.context.mood.borrow() {
            Mood::Streaming if counts.values().any(|c| !c.is_empty()) => Mood::Animal,
            mood => mood,
        }
    }

    fn tell(&self) {
        let led = self.led.iter().map(|led| led.slot.status());
        let button = self.button.iter().map(|(slot, _)| slot.status());
        let outputs = self.outputs.iter().map(|(lamp, ..)| lamp.slot.status());
        let now: Vec<_> = led.chain(button).chain(outputs).collect();
        self.status.send_if_modified(|old| {
            let differs = *old != now;
            *old = now;
            differs
        });
    }
}

#[cfg(test)]
#[path = "hands_tests.rs"]
mod tests;
