//! `spotter bench`: how fast this board is: the detector alone, and decoding with detection of every picture of a video.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::Serialize;
use spotter::app::{self, Failure};
use spotter::config::Config;
use spotter::decode::{Picture, RgbPicture};
use spotter::detect::Detector;
use spotter::detect::catalogue::{self, Backend};
use spotter::health::{Latency, Percentiles};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[arg(long)]
    json: bool,
    /// How long to measure each part.
    #[arg(long, default_value_t = 5, value_name = "N")]
    seconds: u64,
    /// A video for the pipeline part; without it demo/clip.mp4 where that exists.
    #[arg(long, value_name = "FILE")]
    video: Option<PathBuf>,
}

#[derive(Serialize)]
struct Report {
    model: String,
    backend: String,
    detector: Vec<Part>,
    /// Every backend by itself.
    backends: Vec<BackendReport>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pipeline: Option<Pipeline>,
    /// The same with pictures made small on their way, by each way there is, the detector's own first.
    scalers: Vec<ScalerReport>,
}

/// What making pictures small costs in one way, or why that cannot be had.
#[derive(Serialize)]
struct ScalerReport {
    name: String,
    /// The board's own, so that `decode.scaler = "auto"` takes it behind a hardware decoder.
    of_the_board: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    frames_per_second: Option<f64>,
    /// Processor time a picture, decoding and detection included.
    #[serde(skip_serializing_if = "Option::is_none")]
    cpu_ms: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

/// A figure at each number of threads, or why there is none.
#[derive(Serialize)]
struct BackendReport {
    name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    model: Option<String>,
    measured: Vec<Part>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

#[derive(Serialize)]
struct Part {
    threads: usize,
    ms: Percentiles,
    per_second: f64,
}

#[derive(Serialize)]
struct Pipeline {
    video: PathBuf,
    /// Time to the next decoded picture, without detection.
    decode_ms: Percentiles,
    detect_ms: Percentiles,
    frames_per_second: f64,
    /// Processor time a picture, of the whole process.
    cpu_ms: f64,
}

pub(crate) fn run(args: &Args, config: &Config) -> Result<(), Failure> {
    let most = Duration::from_secs(args.seconds.clamp(1, 3600));
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let mut report = Report {
        model: String::new(),
        backend: String::new(),
        detector: Vec::new(),
        backends: backends(config, most.min(Duration::from_secs(2)), cores)?,
        pipeline: None,
        scalers: Vec::new(),
    };
    for threads in [1, 2, 4].into_iter().filter(|t| *t <= cores) {
        let mut config = config.clone();
        config.detect.threads = threads;
        let mut detector = app::open_detector(&config)?;
        report.model = detector.info().model.to_string();
        report.backend = detector.info().backend.clone();
        report.detector.push(detector_part(&mut *detector, threads, most)?);
    }
    let clip = args
        .video
        .clone()
        .or_else(|| Some("demo/clip.mp4".into()).filter(|p: &PathBuf| p.exists()));
    if let Some(video) = clip {
        let mut detector = app::open_detector(config)?;
        report.pipeline = Some(pipeline(&video, None, &mut *detector, most)?);
        report.scalers = scalers(&video, config, &mut *detector, most)?;
    }
    if args.json {
        println!("{}", serde_json::to_string_pretty(&report).map_err(Failure::usage)?);
    } else {
        print(&report);
    }
    Ok(())
}

/// Measures every backend that this machine has at one and two threads.
fn backends(config: &Config, most: Duration, cores: usize) -> Result<Vec<BackendReport>, Failure> {
    let paths = app::detector_paths(config)?;
    let one = |backend: Backend| {
        let name = backend.name;
        let mut report = BackendReport { name, model: None, measured: Vec::new(), reason: None };
        let way = match &backend.way {
            Ok(way) => way,
            Err(why) => return BackendReport { reason: Some((*why).to_owned()), ..report },
        };
        for threads in [1, 2].into_iter().filter(|t| *t <= cores) {
            let mut detect = config.detect.clone();
            detect.threads = threads;
            let measured = catalogue::open_only(&detect, &paths, way)
                .map_err(|e| e.to_string())
                .and_then(|mut detector| {
                    report.model = Some(detector.info().model.to_string());
                    detector_part(&mut *detector, threads, most).map_err(|e| e.to_string())
                });
            match measured {
                Ok(part) => report.measured.push(part),
                Err(why) => report.reason = Some(why),
            }
        }
        report
    };
    Ok(catalogue::backends(&config.detect, &paths).into_iter().map(one).collect())
}

fn detector_part(
    detector: &mut dyn Detector,
    threads: usize,
    most: Duration,
) -> Result<Part, Failure> {
    let picture = test_picture();
    let latency = Latency::default();
    let mut runs = 0u32;
    // The first runs fill caches and pools.
    for _ in 0..3 {
        detector.detect(&picture.view()).map_err(Failure::usage)?;
    }
    let began = Instant::now();
    while began.elapsed() < most {
        let started = Instant::now();
        detector.detect(&picture.view()).map_err(Failure::usage)?;
        latency.record(started.elapsed());
        runs += 1;
    }
    let per_second = f64::from(runs) / began.elapsed().as_secs_f64();
    Ok(Part { threads, ms: latency.percentiles(), per_second })
}

/// The detector's own scaling, then each converter that knows how.
#[cfg(feature = "gst")]
fn scalers(
    video: &Path,
    config: &Config,
    detector: &mut dyn Detector,
    most: Duration,
) -> Result<Vec<ScalerReport>, Failure> {
    let measured = |name: &str, of_the_board, made: Result<Pipeline, Failure>| {
        let (name, figures) = (name.to_owned(), made.as_ref().ok());
        ScalerReport {
            name,
            of_the_board,
            frames_per_second: figures.map(|p| p.frames_per_second),
            cpu_ms: figures.map(|p| p.cpu_ms),
            reason: made.as_ref().err().map(ToString::to_string),
        }
    };
    let mut published = (0, 0);
    spotter::decode::file::each_picture(video, |_, picture| {
        published = picture.size();
        ControlFlow::Break(())
    })
    .map_err(Failure::usage)?;
    let Some(fit) = app::fit(config)? else { return Ok(Vec::new()) };
    let Some(size) = spotter::decode::small(fit(published), published) else {
        return Ok(Vec::new());
    };
    let own = pipeline(video, None, detector, most);
    let mut reports = vec![measured("the detector's own, on the CPU", false, own)];
    for (name, of_the_board) in spotter::decode::elements::scalers() {
        let made = pipeline(video, Some((name, size)), detector, most);
        reports.push(measured(name, of_the_board, made));
    }
    Ok(reports)
}

#[cfg(not(feature = "gst"))]
fn scalers(
    _: &Path,
    _: &Config,
    _: &mut dyn Detector,
    _: Duration,
) -> Result<Vec<ScalerReport>, Failure> {
    Ok(Vec::new())
}

#[cfg(feature = "gst")]
fn pipeline(
    video: &Path,
    scaler: Option<(&str, (u32, u32))>,
    detector: &mut dyn Detector,
    most: Duration,
) -> Result<Pipeline, Failure> {
    let (decode, detect) = (Latency::default(), Latency::default());
    let mut failed = None;
    let (began, used) = (Instant::now(), cpu_s());
    let mut waiting = Instant::now();
    let each = |_, picture: &dyn Picture| {
        decode.record(waiting.elapsed());
        let started = Instant::now();
        if let Err(e) = detector.detect(&picture.view()) {
            failed = Some(e);
            return ControlFlow::Break(());
        }
        detect.record(started.elapsed());
        waiting = Instant::now();
        if began.elapsed() < most { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    };
    let frames = spotter::decode::file::each_scaled(video, scaler, each).map_err(Failure::usage)?;
    match failed {
        Some(e) => Err(Failure::usage(e)),
        None => Ok(Pipeline {
            video: video.to_owned(),
            decode_ms: decode.percentiles(),
            detect_ms: detect.percentiles(),
            frames_per_second: frames as f64 / began.elapsed().as_secs_f64(),
            cpu_ms: (cpu_s() - used) * 1000.0 / frames as f64,
        }),
    }
}

/// User and system time of this process in seconds (proc(5), stat fields 14 and 15, in ticks of 1/100 s on Linux).
#[cfg(feature = "gst")]
fn cpu_s() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // The name in parentheses may hold spaces; what follows it does not.
    let after = stat.rsplit_once(')').map_or("", |(_, after)| after);
    let ticks = after.split_whitespace().skip(11).take(2).filter_map(|t| t.parse::<u64>().ok());
    ticks.sum::<u64>() as f64 / 100.0
}

#[cfg(not(feature = "gst"))]
fn pipeline(
    video: &Path,
    _: Option<(&str, (u32, u32))>,
    _: &mut dyn Detector,
    _: Duration,
) -> Result<Pipeline, Failure> {
    let _ = (ControlFlow::<()>::Continue(()), RgbPicture::view);
    Err(Failure::usage(format!("{}: this build has no GStreamer", video.display())))
}

/// A picture of the glasses' size with some structure, the same on every board.
fn test_picture() -> RgbPicture {
    let (width, height) = (1280u32, 720u32);
    let pixels = (0..width * height * 3).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8);
    RgbPicture { width, height, pixels: pixels.collect() }
}

fn print(report: &Report) {
    println!("model {} on {}", report.model, report.backend);
    println!("{:<24} {:>8} {:>8} {:>8} {:>10}", "", "p50 ms", "p95 ms", "p99 ms", "a second");
    let row = |name: &str, ms: &Percentiles, rate: Option<f64>| {
        let rate = rate.map(|r| format!("{r:.1}")).unwrap_or_default();
        println!("{name:<24} {:>8.1} {:>8.1} {:>8.1} {rate:>10}", ms.p50, ms.p95, ms.p99);
    };
    for p in &report.detector {
        row(&format!("detector, {} threads", p.threads), &p.ms, Some(p.per_second));
    }
    println!("every backend by itself");
    for backend in &report.backends {
        let model = backend.model.as_ref().map(|m| format!(" with {m}")).unwrap_or_default();
        println!("  {}{model}", backend.name);
        for p in &backend.measured {
            row(&format!("    {} threads", p.threads), &p.ms, Some(p.per_second));
        }
        if let Some(why) = &backend.reason {
            println!("    not measured: {why}");
        }
    }
    match &report.pipeline {
        Some(p) => {
            row("decoding", &p.decode_ms, None);
            row("detection", &p.detect_ms, None);
            println!("{:<51} {:>10.1}", "both, every picture", p.frames_per_second);
        }
        None => println!("pipeline not measured: give a video with --video FILE"),
    }
    scalers_told(&report.scalers);
}

fn scalers_told(scalers: &[ScalerReport]) {
    if scalers.is_empty() {
        return;
    }
    println!("making pictures small for the detector {:>16} {:>14}", "a second", "CPU ms each");
    for s in scalers {
        match (&s.reason, s.frames_per_second, s.cpu_ms) {
            (None, Some(rate), Some(ms)) => println!("  {:<44} {rate:>8.1} {ms:>14.1}", s.name),
            (why, ..) => println!("  {}: not measured: {}", s.name, why.as_deref().unwrap_or("")),
        }
    }
    let cpu = |s: &ScalerReport| s.cpu_ms.unwrap_or(f64::INFINITY);
    let (own, board) = scalers.split_at(1);
    let board = board.iter().filter(|s| s.of_the_board && s.cpu_ms.is_some());
    let advice = match board.min_by(|a, b| cpu(a).total_cmp(&cpu(b))) {
        None => "the detector's own: there is no converter of a board here".to_owned(),
        Some(board) if cpu(board) <= cpu(&own[0]) => {
            format!("{} behind a hardware decoder", board.name)
        }
        Some(board) => format!(
            "{} behind a hardware decoder, which costs more here: set decode.scaler = \"cpu\"",
            board.name
        ),
    };
    println!("decode.scaler = \"auto\" takes {advice}");
}
