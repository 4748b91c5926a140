//! Every backend on this machine side by side in one run, in turns, so that what else the machine does falls on all alike:
//! milliseconds at one and two threads, memory, and AP where there are pictures to judge by. The bare interpreter stands beside
//! ours, and other engines with the same weights where Python has them. Asserts nothing.
//!
//!     cargo bench --bench detectors
//!
//! SPOTTER_BENCH_ROUNDS=5 for a quick one. SPOTTER_BENCH_MODEL: manifests by name, with commas between. SPOTTER_BENCH_ONNX: the library of
//! ONNX Runtime, if not where spotter looks for it. SPOTTER_BENCH_PYTHON: a Python with scripts/requirements-bench.txt, else .venv's.
//! SPOTTER_BENCH_EVAL: a folder with `images/` and `instances.json` in COCO's form, for AP.

#![allow(clippy::unwrap_used)]

use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use edgefirst_tflite::{Delegate, Interpreter, Library, Model};
use spotter::config;
use spotter::decode::{
    Colour, Matrix, Picture, PictureView, PixelFormat, Plane, Range, RgbPicture,
};
use spotter::detect::choose::Way;
use spotter::detect::{Detector, Paths, catalogue, find_manifest, locate};

const MODELS: &str = "yolov4-tiny-416,picodet-s-416";
const OUTSIDE: [&str; 3] = ["onnxruntime", "openvino", "ncnn"];
/// The first rounds fill caches and pools.
const WARM_UP: usize = 3;

/// One thing that is measured, and its times.
struct Entry {
    name: String,
    what: What,
    times: Vec<Duration>,
    /// Resident memory that opening it added.
    bytes: u64,
}

enum What {
    /// No picture goes in, no box comes out.
    Bare(Interpreter<'static>),
    /// Letterbox, model and head, of a picture as a decoder gives it.
    Ours(Box<dyn Detector>, Way),
    Outside(Outside),
}

impl What {
    fn run(&mut self, picture: &Yuv) -> Duration {
        let began = Instant::now();
        match self {
            Self::Bare(interpreter) => interpreter.invoke().unwrap(),
            Self::Ours(detector, _) => drop(detector.detect(&picture.view()).unwrap()),
            Self::Outside(outside) => {
                let seconds = outside.ask("run").parse().unwrap();
                return Duration::from_secs_f64(seconds);
            }
        }
        began.elapsed()
    }
}

fn main() {
    let models = std::env::var("SPOTTER_BENCH_MODEL").unwrap_or_else(|_| MODELS.into());
    let mut judged = Vec::new();
    for model in models.split(',') {
        for threads in [1, 2] {
            let entries = measure(model, threads);
            if threads == 1 {
                judged.push((model.to_owned(), entries));
            }
        }
    }
    match std::env::var("SPOTTER_BENCH_EVAL") {
        Ok(folder) => {
            judged.into_iter().for_each(|(model, e)| judge(&model, e, Path::new(&folder)))
        }
        Err(_) => println!("\nAP: set SPOTTER_BENCH_EVAL to a folder of pictures"),
    }
}

/// Opens all with this model and has them take turns.
fn measure(model: &str, threads: usize) -> Vec<Entry> {
    let rounds = number("SPOTTER_BENCH_ROUNDS", 60);
    let (cfg, paths) = (config(model, threads), Paths::new("/nonexistent"));
    println!("\n{model}, {threads} thread{}, {rounds} rounds", if threads == 1 { "" } else { "s" });
    let mut entries = Vec::new();
    match bare(&cfg, &paths) {
        Ok(entry) => entries.push(entry),
        Err(why) => println!("  the bare interpreter: {why}"),
    }
    for backend in catalogue::backends(&cfg, &paths) {
        let before = resident();
        let opened = match &backend.way {
            Ok(way) => catalogue::open_only(&cfg, &paths, way)
                .map(|detector| (detector, way.clone()))
                .map_err(|e| e.to_string()),
            Err(why) => Err((*why).to_owned()),
        };
        match opened {
            Ok((mut detector, way)) => {
                drop(detector.detect(&Yuv::new().view()).unwrap());
                let bytes = resident().saturating_sub(before);
                let what = What::Ours(detector, way);
                entries.push(Entry { name: backend.name, what, times: Vec::new(), bytes });
            }
            Err(why) => println!("  {}: not measured: {why}", backend.name),
        }
    }
    for engine in OUTSIDE {
        match Outside::start(engine, &cfg, &paths) {
            Ok(entry) => entries.push(entry),
            Err(why) => println!("  {engine} by Python: not measured: {why}"),
        }
    }
    let picture = Yuv::new();
    for round in 0..rounds + WARM_UP {
        for entry in &mut entries {
            let took = entry.what.run(&picture);
            if round >= WARM_UP {
                entry.times.push(took);
            }
        }
    }
    println!("  {:<44} {:>9} {:>9} {:>9} {:>8}", "", "best ms", "median", "to bare", "MB");
    let bare = entries.first().map(|e| (best(&e.times), median(&e.times)));
    for entry in &entries {
        let (least, middle) = (best(&entry.times), median(&entry.times));
        let ratio =
            bare.map_or(1.0, |(least, _)| best(&entry.times).as_secs_f64() / least.as_secs_f64());
        println!(
            "  {:<44} {:>9.2} {:>9.2} {ratio:>9.3} {:>8.1}",
            entry.name,
            least.as_secs_f64() * 1e3,
            middle.as_secs_f64() * 1e3,
            entry.bytes as f64 / 1e6
        );
    }
    entries
}

fn config(model: &str, threads: usize) -> config::Detect {
    let mut cfg = config::Detect { model: model.into(), threads, ..config::Detect::default() };
    cfg.onnx.library = std::env::var("SPOTTER_BENCH_ONNX").unwrap_or_default().into();
    cfg
}

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
    interpreter.invoke().map_err(|e| e.to_string())?;
    let bytes = resident().saturating_sub(before);
    let name = "the bare interpreter, no picture".to_owned();
    Ok(Entry { name, what: What::Bare(interpreter), times: Vec::new(), bytes })
}

/// AP of each by models/eval.py: ours of what the program finds, so with its own scaling and thinning; the others by its heads.
fn judge(model: &str, entries: Vec<Entry>, folder: &Path) {
    println!("\n{model}, {}", folder.display());
    println!("  {:<44} {:>9} {:>9}", "", "AP", "animals");
    let (images, instances) = (folder.join("images"), folder.join("instances.json"));
    for entry in entries {
        let found = match entry.what {
            What::Bare(_) => continue,
            What::Outside(mut outside) => {
                outside.ask(&format!("ap {} {}", images.display(), instances.display()))
            }
            What::Ours(_, way) => ours_judged(&way, &config(model, 2), &images, &instances),
        };
        let found: serde_json::Value = serde_json::from_str(&found).unwrap_or_default();
        let figure = |name: &str| found[name].as_f64().unwrap_or(f64::NAN);
        println!("  {:<44} {:>9.3} {:>9.3}", entry.name, figure("AP"), figure("animals AP"));
    }
}

fn ours_judged(way: &Way, cfg: &config::Detect, images: &Path, instances: &Path) -> String {
    // AP integrates over all scores.
    let cfg =
        config::Detect { min_confidence: Some(0.001), animals: vec!["*".into()], ..cfg.clone() };
    let mut detector = catalogue::open_only(&cfg, &Paths::new("/nonexistent"), way).unwrap();
    let mut lines = String::new();
    for file in std::fs::read_dir(images).unwrap().map(|f| f.unwrap().path()) {
        let rgb = image::open(&file).unwrap().into_rgb8();
        let (width, height) = rgb.dimensions();
        let picture = RgbPicture { width, height, pixels: rgb.into_raw() };
        let found = detector.detect(&picture.view()).unwrap();
        let found = found.iter().map(|d| {
            let bbox = [d.bbox.x1, d.bbox.y1, d.bbox.x2, d.bbox.y2];
            serde_json::json!({ "label": *d.label, "confidence": d.confidence, "bbox": bbox })
        });
        let found: Vec<_> = found.collect();
        let name = file.file_name().unwrap().to_string_lossy();
        writeln!(lines, "{}", serde_json::json!({ "file": name, "detections": found })).unwrap();
    }
    let mut told = tempfile::NamedTempFile::new().unwrap();
    told.write_all(lines.as_bytes()).unwrap();
    let judged = Command::new(python())
        .args(["models/eval.py", "--detections"])
        .arg(told.path())
        .arg("--images")
        .arg(images)
        .arg("--instances")
        .arg(instances)
        .stderr(Stdio::inherit())
        .output();
    judged.map(|out| String::from_utf8_lossy(&out.stdout).into_owned()).unwrap_or_default()
}

/// benches/outside.py with one engine: a question a line, an answer a line.
struct Outside {
    process: Child,
    questions: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Outside {
    fn start(engine: &str, cfg: &config::Detect, paths: &Paths) -> Result<Entry, String> {
        let manifest = find_manifest(cfg, paths).map_err(|e| e.to_string())?;
        let file = Path::new("models").join(format!("{}.toml", manifest.name));
        let mut process = Command::new(python())
            .arg("benches/outside.py")
            .arg(engine)
            .arg(file)
            .arg(cfg.threads.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|e| format!("{}: {e}", python().display()))?;
        let questions = process.stdin.take().unwrap();
        let answers = BufReader::new(process.stdout.take().unwrap());
        let mut this = Self { process, questions, answers };
        let told: serde_json::Value = serde_json::from_str(&this.answer())
            .map_err(|_| "it says nothing; see scripts/requirements-bench.txt".to_owned())?;
        if let Some(why) = told["why"].as_str() {
            return Err(why.lines().next().unwrap_or_default().to_owned());
        }
        let name = told["name"].as_str().unwrap_or(engine).to_owned();
        let bytes = told["bytes"].as_u64().unwrap_or_default();
        Ok(Entry { name, what: What::Outside(this), times: Vec::new(), bytes })
    }

    fn ask(&mut self, question: &str) -> String {
        writeln!(self.questions, "{question}").unwrap();
        self.questions.flush().unwrap();
        self.answer()
    }

    fn answer(&mut self) -> String {
        let mut line = String::new();
        self.answers.read_line(&mut line).unwrap();
        line.trim().to_owned()
    }
}

impl Drop for Outside {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn python() -> PathBuf {
    std::env::var_os("SPOTTER_BENCH_PYTHON").map_or(".venv/bin/python".into(), PathBuf::from)
}

/// A picture of the glasses' size with some structure, as a software decoder gives it.
struct Yuv(Vec<u8>);

impl Yuv {
    const SIZE: (usize, usize) = (1280, 720);

    fn new() -> Self {
        let bytes = 0..Self::SIZE.0 * Self::SIZE.1 * 3 / 2;
        Self(bytes.map(|i| (i as u32).wrapping_mul(2_654_435_761).to_be_bytes()[0]).collect())
    }
}

impl Picture for Yuv {
    fn view(&self) -> PictureView<'_> {
        let (w, h) = Self::SIZE;
        let (luma, rest) = self.0.split_at(w * h);
        let (u, v) = rest.split_at(w * h / 4);
        let planes = [(luma, w), (u, w / 2), (v, w / 2)];
        PictureView {
            width: w as u32,
            height: h as u32,
            format: PixelFormat::I420,
            colour: Colour { matrix: Matrix::Bt709, range: Range::Limited },
            planes: planes.map(|(data, stride)| Plane { data, stride }),
        }
    }
}

/// On a busy machine only the best is the code's own.
fn best(times: &[Duration]) -> Duration {
    times.iter().min().copied().unwrap_or_default()
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
