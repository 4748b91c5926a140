//! The hands on lines made of files, in the time of the real thread.

use std::fs;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::config::GpioBackend;

struct Bench {
    dir: tempfile::TempDir,
    mood: watch::Sender<Mood>,
    counts: watch::Sender<BTreeMap<StreamId, Counts>>,
    shorts: Arc<AtomicUsize>,
    longs: Arc<AtomicUsize>,
    hands: Hands,
}

impl Bench {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (mood, counts) = (watch::Sender::default(), watch::Sender::default());
        let (shorts, longs) = <(Arc<AtomicUsize>, Arc<AtomicUsize>)>::default();
        let told = (Arc::clone(&shorts), Arc::clone(&longs));
        let pressed = move |press| {
            let counter = if press == Press::Short { &told.0 } else { &told.1 };
            counter.fetch_add(1, Ordering::SeqCst);
            Done::Yes
        };
        let context = Context {
            mood: mood.subscribe(),
            counts: counts.subscribe(),
            pressed: Arc::new(pressed),
        };
        let hands = Hands::new(context);
        Self { dir, mood, counts, shorts, longs, hands }
    }

    fn gpio(&self, text: &str) -> Gpio {
        let chip = self.dir.path().join("chip").display().to_string();
        let mut gpio: Gpio = toml::from_str(&text.replace("CHIP", &chip)).unwrap();
        gpio.backend = GpioBackend::Fake;
        gpio.board_file = "".into();
        gpio
    }

    fn wire(&self, line: &str) -> String {
        fs::read_to_string(self.dir.path().join("chip").join(line)).unwrap_or_default()
    }

    fn set(&self, line: &str, level: &str) {
        fs::write(self.dir.path().join("chip").join(line), level).unwrap();
    }

    #[track_caller]
    fn eventually(&self, what: &str, fine: impl Fn(&Self) -> bool) {
        let until = Instant::now() + Duration::from_secs(20);
        while !fine(self) {
            assert!(Instant::now() < until, "{what}: {:?}", self.hands.status().borrow());
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

#[test]
fn lamp_output_and_button_work_together() {
    let bench = Bench::new();
    fs::create_dir(bench.dir.path().join("chip")).unwrap();
    bench.set("3", "1");
    let text = r#"
        led = { chip = "CHIP", line = 17 }
        button = { chip = "CHIP", line = 3, long_press_s = 1 }
        output = [{ name = "bell", chip = "CHIP", line = 4, active_low = true, labels = ["dog"] }]
    "#;
    bench.hands.follow(&bench.gpio(text));
    // "Starting" blinks, and the output is off, which its wire says by 1.
    bench.eventually("blinks on", |b| b.wire("17") == "1");
    bench.eventually("blinks off", |b| b.wire("17") == "0");
    bench.eventually("bell is off", |b| b.wire("4") == "1");
    assert!(bench.hands.status().borrow().iter().all(|p| p.error.is_none()));

    let dogs: Counts = [("dog".into(), 1)].into_iter().collect();
    bench.counts.send_replace(BTreeMap::from([(StreamId::new("a").unwrap(), dogs)]));
    bench.eventually("bell is on", |b| b.wire("4") == "0");
    bench.counts.send_replace(BTreeMap::new());
    bench.eventually("bell is off again", |b| b.wire("4") == "1");

    std::thread::sleep(Duration::from_millis(100));
    bench.set("3", "0");
    bench.eventually("a long press", |b| b.longs.load(Ordering::SeqCst) == 1);
    bench.set("3", "1");
    std::thread::sleep(Duration::from_millis(300));
    bench.set("3", "0");
    std::thread::sleep(Duration::from_millis(200));
    bench.set("3", "1");
    bench.eventually("a short press", |b| b.shorts.load(Ordering::SeqCst) == 1);
    assert_eq!(bench.longs.load(Ordering::SeqCst), 1);

    bench.mood.send_replace(Mood::Streaming);
    bench.eventually("steady", |b| b.wire("17") == "1");
    bench.hands.finish();
    assert_eq!((bench.wire("17").as_str(), bench.wire("4").as_str()), ("0", "1"));
}

#[test]
fn pins_that_are_not_there_are_said_and_taken_when_they_come() {
    let bench = Bench::new();
    let text = r#"
        led = { chip = "CHIP", line = 17 }
        button = { chip = "CHIP", line = 3 }
    "#;
    bench.hands.follow(&bench.gpio(text));
    bench.eventually("said", |b| {
        let status = b.hands.status().borrow().clone();
        status.len() == 2
            && status
                .iter()
                .all(|p| p.error.as_ref().is_some_and(|e| e.contains("there is no chip")))
    });
    fs::create_dir(bench.dir.path().join("chip")).unwrap();
    bench.eventually("the lamp came", |b| b.wire("17") == "1");
    bench.eventually("the button did not", |b| {
        let status = b.hands.status().borrow().clone();
        status[0].error.is_none()
            && status[1].error.as_ref().is_some_and(|e| e.contains("cannot read"))
    });
    // And none at all again.
    bench.hands.follow(&bench.gpio(""));
    assert!(bench.hands.status().borrow().is_empty());
}

#[test]
fn the_board_s_file_fills_what_is_not_set() {
    let bench = Bench::new();
    let file = bench.dir.path().join("board.toml");
    fs::write(&file, "[gpio.led]\nline = \"LED0\"\n[gpio.button]\nline = \"SW1\"\n").unwrap();
    let mut gpio = bench.gpio("led = { chip = \"CHIP\", line = 1 }");
    gpio.board_file = file.clone();
    let all = with_board(&gpio);
    assert_eq!(all.led, gpio.led);
    assert_eq!(all.button.unwrap().line, config::Line::Name("SW1".into()));
    fs::write(&file, "[gpio.led]\nlamp = 1\n").unwrap();
    assert_eq!(with_board(&gpio), gpio);
    // This machine's own: whatever it has, an unknown line is an error and no panic.
    let nowhere = Wanted {
        chip: String::new(),
        line: config::Line::Name("no such line".into()),
        active: Active::High,
    };
    assert!(pins::open_output(GpioBackend::Linux, &nowhere, PinState::Low).is_err());
}
