//! Every backend on this machine side by side in one run, in turns, so that what else the machine does falls on all alike:
//! milliseconds at one and two threads, memory, and the bare interpreter beside ours. Asserts nothing.
//!
//!     cargo bench --bench detectors        SPOTTER_BENCH_ROUNDS=5 for a quick one, SPOTTER_BENCH_MODEL=picodet-s-416 for another model
//!
//! AP of each backend is models/eval.py's (`--onnx` for the twin), of the program as a whole `models/eval.py --detections`.

#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::time::{Duration, Instant};

use edgefirst_tflite::{Delegate, Interpreter, Library, Model};
use spotter::config;
use spotter::decode::{Picture, RgbPicture};
use spotter::detect::{Detector, Paths, catalogue, find_manifest, locate};

/// One thing that is measured, and its times.
struct Entry {
    name: String,
    run: Box<dyn FnMut()>,
    times: Vec<Duration>,
    /// Resident memory that opening it added.
    bytes: u64,
}

fn main() {
    let rounds = number("SPOTTER_BENCH_ROUNDS", 60);
    let model = std::env::var("SPOTTER_BENCH_MODEL").unwrap_or_else(|_| "auto".into());
    let paths = Paths::new("/nonexistent");
    for threads in [1, 2] {
        let cfg = config::Detect { model: model.clone(), threads, ..config::Detect::default() };
        println!("\n{threads} threads, {rounds} rounds");
        let mut entries = Vec::new();
        match bare(&cfg, &paths) {
            Ok(run) => entries.push(run),
            Err(why) => println!("  the bare interpreter: {why}"),
        }
        for backend in catalogue::backends(&cfg, &paths) {
            let before = resident();
            let opened = match &backend.way {
                Ok(way) => catalogue::open_only(&cfg, &paths, way).map_err(|e| e.to_string()),
                Err(why) => Err((*why).to_owned()),
            };
            match opened {
                Ok(detector) => entries.push(ours(backend.name, detector, before)),
                Err(why) => println!("  {}: not measured: {why}", backend.name),
            }
        }
        for round in 0..rounds + 3 {
            for entry in &mut entries {
                let began = Instant::now();
                (entry.run)();
                // The first ones fill caches and pools.
                if round >= 3 {
                    entry.times.push(began.elapsed());
                }
            }
        }
        println!("  {:<36} {:>9} {:>9} {:>9} {:>8}", "", "best ms", "median", "to bare", "MB");
        let bare = entries.first().map(|e| median(&e.times));
        for entry in &entries {
            let (best, middle) = (*entry.times.iter().min().unwrap(), median(&entry.times));
            let ratio = bare.map_or(1.0, |bare| middle.as_secs_f64() / bare.as_secs_f64());
            println!(
                "  {:<36} {:>9.2} {:>9.2} {ratio:>9.3} {:>8.1}",
                entry.name,
                best.as_secs_f64() * 1e3,
                middle.as_secs_f64() * 1e3,
                entry.bytes as f64 / 1e6
            );
        }
    }
}

/// Letterbox, model and head, of a picture as the glasses send it.
fn ours(name: String, mut detector: Box<dyn Detector>, before: u64) -> Entry {
    let picture = picture();
    let run = move || drop(detector.detect(&picture.view()).unwrap());
    let bytes = resident().saturating_sub(before);
    Entry { name, run: Box::new(run), times: Vec::new(), bytes }
}

/// What the interpreter alone takes: no picture goes in, no box comes out.
fn bare(cfg: &config::Detect, paths: &Paths) -> Result<Entry, String> {
    let manifest = find_manifest(cfg, paths).map_err(|e| e.to_string())?;
    let place = &locate::libraries(Path::new(""), &paths.state_dir)[0];
    let before = resident();
    let library = Library::from_path(place).map_err(|e| e.to_string())?;
    let library: &'static Library = Box::leak(Box::new(library));
    let model = Model::from_file(library, &manifest.file).map_err(|e| e.to_string())?;
    let model: &'static Model<'static> = Box::leak(Box::new(model));
    let threads = i32::try_from(cfg.threads).unwrap();
    let builder = Interpreter::builder(library).map_err(|e| e.to_string())?.num_threads(threads);
    let xnnpack = Delegate::xnnpack(library, threads).map_err(|e| e.to_string())?;
    let mut interpreter = builder.delegate(xnnpack).build(model).map_err(|e| e.to_string())?;
    let name = format!("the bare interpreter ({})", manifest.name);
    interpreter.invoke().map_err(|e| e.to_string())?;
    let bytes = resident().saturating_sub(before);
    let run = move || interpreter.invoke().unwrap();
    Ok(Entry { name, run: Box::new(run), times: Vec::new(), bytes })
}

fn picture() -> RgbPicture {
    let (width, height) = (1280u32, 720u32);
    let pixels = (0..width * height * 3).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8);
    RgbPicture { width, height, pixels: pixels.collect() }
}

fn median(times: &[Duration]) -> Duration {
    let mut sorted = times.to_vec();
    sorted.sort_unstable();
    sorted[sorted.len() / 2]
}

fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|l| l.starts_with("VmRSS:"));
    line.and_then(|l| l.split_whitespace().nth(1)?.parse::<u64>().ok()).unwrap_or(0) * 1024
}

fn number(name: &str, default: usize) -> usize {
    std::env::var(name).ok().and_then(|v| v.parse().ok()).unwrap_or(default)
}
