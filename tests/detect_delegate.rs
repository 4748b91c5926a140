//! TFLite with an external delegate, by a small one of our own that can be told to misbehave: what is wrong is named, the CPU
//! takes over, and a delegate that recovers is taken up again. What hangs is in detect_hang.rs.

#![allow(clippy::unwrap_used)]
#![cfg(feature = "tflite")]

#[path = "support/delegate.rs"]
mod delegate;
#[path = "support/skip.rs"]
mod skip;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use delegate::{Bench, compile, red};
use spotter::config::{self, DetectBackend};
use spotter::decode::Picture;
use spotter::detect::{AcceleratorUse, DetectorInfo, Limits, Paths, Way, open, self_test};

fn paths() -> Paths {
    let (retry, retry_most) = (Duration::from_millis(50), Duration::from_millis(200));
    Paths {
        limits: Limits { retry, retry_most, ..Limits::default() },
        ..Paths::new("/nonexistent")
    }
}

fn bench() -> Option<Bench> {
    Bench::new().map_err(|why| skip::skip(&why)).ok()
}

/// Opens, finds the dog, and tells what the detector says of itself.
fn dog_by(cfg: &config::Detect) -> DetectorInfo {
    let mut detector = self_test::open_tested(cfg, &paths()).unwrap();
    assert_eq!(detector.detect(&red().view()).unwrap().len(), 1);
    detector.info().clone()
}

#[track_caller]
fn refused_with(info: &DetectorInfo, parts: &[&str]) {
    assert_eq!(info.backend, "tflite-xnnpack", "{info:?}");
    let [accelerator] = info.accelerators.as_slice() else { panic!("{info:?}") };
    assert_eq!(accelerator.state, AcceleratorUse::Refused, "{info:?}");
    let told = info.refusals.join("; ");
    assert!(told.starts_with("delegate /"), "{told}");
    for part in parts {
        assert!(told.contains(part), "\"{part}\" is not in: {told}");
    }
}

#[test]
fn a_delegate_in_use_tells_its_share_and_versions() {
    let Some(bench) = bench() else { return };
    let report = bench.place("report");
    let cfg = bench.settings(&[("report", report.to_str().unwrap())]);
    let info = dog_by(&cfg);
    assert_eq!((info.backend.as_str(), info.refusals.len()), ("tflite-delegate", 0), "{info:?}");
    let [accelerator] = info.accelerators.as_slice() else { panic!("{info:?}") };
    assert_eq!(accelerator.state, AcceleratorUse::InUse);
    assert_eq!(accelerator.takes.as_deref(), Some("1 of 2 operations"));
    let versions = accelerator.versions.join("; ");
    for part in ["TensorFlow Lite 2.", "libtestdelegate.so.1.2.3 test 1.2.3"] {
        assert!(versions.contains(part), "{versions}");
    }
    // The option came through, and the delegate was let go of.
    assert_eq!(fs::read_to_string(&report).unwrap(), "create\nprepare\ndestroy\n");
}

#[test]
fn auto_takes_what_the_machine_has() {
    let Some(bench) = bench() else { return };
    let cfg = bench.settings(&[]);
    let found = Way::Delegate(cfg.delegate.clone().unwrap());
    let paths = Paths { accelerators: vec![found], hints: vec!["half of one".into()], ..paths() };
    let with = |backend| {
        let cfg = config::Detect { backend, delegate: None, ..cfg.clone() };
        open(&cfg, &paths).unwrap().info().clone()
    };
    let auto = with(DetectBackend::Auto);
    assert_eq!(
        (auto.backend.as_str(), auto.refusals),
        ("tflite-delegate", vec!["half of one".to_owned()])
    );
    let cpu = with(DetectBackend::Tflite);
    assert_eq!((cpu.backend.as_str(), cpu.refusals.len()), ("tflite-xnnpack", 0));
}

#[test]
fn libraries_that_are_no_delegate_are_named() {
    let Some(bench) = bench() else { return };
    let with = |path: PathBuf| {
        let mut cfg = bench.settings(&[]);
        cfg.delegate.as_mut().unwrap().path = path;
        dog_by(&cfg)
    };
    let empty = bench.place("empty.c");
    fs::write(&empty, "int spotter_exports_nothing_else;\n").unwrap();
    let empty = compile(bench.dir.path(), "libempty.so", &empty).unwrap();
    refused_with(
        &with(empty),
        &["libempty.so", "tflite_plugin_create_delegate", "TensorFlow Lite 2."],
    );

    let foreign =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("runtime/lib/aarch64/libtensorflowlite_c.so");
    let foreign = if foreign.is_file() && cfg!(target_arch = "x86_64") {
        foreign
    } else {
        // Ours, its header changed to another machine's.
        let mut bytes = fs::read(&bench.delegate).unwrap();
        bytes[18] ^= 0x55;
        fs::write(bench.place("foreign.so"), bytes).unwrap();
        bench.place("foreign.so")
    };
    refused_with(&with(foreign), &["another processor", std::env::consts::ARCH]);
    refused_with(&with("/nonexistent/libedgetpu.so.1".into()), &["No such file"]);
    refused_with(&with(bench.place("libneeds.so")), &["No such file"]);
}

#[test]
fn a_delegate_that_refuses_or_takes_nothing_is_refused() {
    let Some(bench) = bench() else { return };
    let info = dog_by(&bench.settings(&[("speed", "ludicrous")]));
    refused_with(&info, &["detect.delegate.options", "test 1.2.3"]);
    let info = dog_by(&bench.settings(&[("take", "none")]));
    refused_with(&info, &["takes none of the model's 2 operations", "detect.delegate.model"]);
    // Wrong from the first run on: never taken up.
    refused_with(&dog_by(&bench.settings(&[("fail_at", "1")])), &["Invoke"]);
    refused_with(&dog_by(&bench.settings(&[("fail_at", "2")])), &["Invoke"]);
}

#[test]
fn a_delegate_that_fails_is_dropped_and_comes_back() {
    let Some(bench) = bench() else { return };
    let broken = bench.place("broken");
    fs::write(&broken, "").unwrap();
    // Opening runs it once and tests it once, the service tests it once more: the second picture of a stream is the fifth.
    let cfg = bench.settings(&[("fail_at", "5"), ("only_while", broken.to_str().unwrap())]);
    let mut detector = self_test::open_tested(&cfg, &paths()).unwrap();
    assert_eq!(detector.detect(&red().view()).unwrap().len(), 1);
    assert_eq!(detector.info().backend, "tflite-delegate");
    let found = detector.detect(&red().view()).unwrap();
    assert_eq!(found.len(), 1, "the CPU answers for the same picture");
    let info = detector.info().clone();
    assert_eq!(info.backend, "tflite-xnnpack");
    let state = &info.accelerators[0];
    assert_eq!((state.state, state.failures), (AcceleratorUse::Dropped, 1), "{state:?}");
    assert!(state.reason.as_ref().unwrap().contains("Invoke") && state.retry_after_s == Some(1));
    assert!(info.refusals[0].contains("test 1.2.3"), "{info:?}");

    // It works for a while at each try; once it works for good it stays.
    let patience = Instant::now() + Duration::from_secs(60);
    let mut again = 0;
    while again < 2 {
        assert!(Instant::now() < patience);
        assert_eq!(detector.detect(&red().view()).unwrap().len(), 1, "detection goes on");
        again = detector.info().accelerators[0].failures;
        std::thread::sleep(Duration::from_millis(5));
    }
    fs::remove_file(&broken).unwrap();
    while detector.info().backend != "tflite-delegate" {
        assert!(Instant::now() < patience);
        assert_eq!(detector.detect(&red().view()).unwrap().len(), 1);
        std::thread::sleep(Duration::from_millis(5));
    }
    (0..20).for_each(|_| assert_eq!(detector.detect(&red().view()).unwrap().len(), 1));
    assert_eq!(detector.info().accelerators[0].state, AcceleratorUse::InUse);
    assert_eq!(detector.info().refusals, [""; 0]);
}

#[test]
fn a_model_compiled_for_an_accelerator_is_named_and_may_stand_beside_the_cpu_s() {
    let Some(bench) = bench() else { return };
    let plain = bench.settings(&[]);
    let compiled = bench.manifest("tiny-edgetpu", |bytes| bytes);
    let cpu_only = config::Detect { model: compiled.clone(), delegate: None, ..plain.clone() };
    let said = open(&cpu_only, &paths()).err().unwrap().to_string();
    for part in ["Coral Edge TPU", "libedgetpu.so.1", "detect.delegate.model"] {
        assert!(said.contains(part), "{said}");
    }
    // Ours is not the Coral's: neither way can run it.
    let other = config::Detect { model: compiled.clone(), ..plain.clone() };
    assert!(open(&other, &paths()).err().unwrap().to_string().contains("Coral"));
    // With a model of its own for the CPU, that takes over.
    let mut both = plain;
    both.delegate.as_mut().unwrap().model = compiled;
    let info = dog_by(&both);
    refused_with(&info, &["compiled for a Coral Edge TPU"]);
    assert_eq!(&*info.model, "tiny-float");
}

#[test]
fn a_model_that_answers_with_no_numbers_is_refused_by_its_self_test() {
    let Some(bench) = bench() else { return };
    // The first of the convolution's biases becomes NaN.
    let bias: Vec<u8> =
        [0.5f32, 0.5, 0.25, 0.25, 0.0, 0.0].iter().flat_map(|v| v.to_le_bytes()).collect();
    let manifest = bench.manifest("tiny-float", |mut bytes| {
        let at = bytes.windows(bias.len()).position(|w| w == bias).expect("the bias");
        bytes[at..at + 4].copy_from_slice(&f32::NAN.to_le_bytes());
        bytes
    });
    for delegate in [None, bench.settings(&[]).delegate] {
        let cfg = config::Detect { model: manifest.clone(), delegate, ..bench.settings(&[]) };
        let said = self_test::open_tested(&cfg, &paths()).err().unwrap().to_string();
        assert!(said.contains("\"Identity\"") && said.contains("not numbers"), "{said}");
    }
}
