//! `spotter detect`: pictures or a video file through the real detector, as text, as JSON, or drawn.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Instant;

use serde::Serialize;
use spotter::app::{self, Failure};
use spotter::config::Config;
use spotter::decode::{Picture, PictureView, RgbPicture};
use spotter::detect::{Detection, Detector};
use spotter::jpeg;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// One JSON object a picture.
    #[arg(long)]
    json: bool,
    /// Also write each picture with its boxes drawn, as JPEG.
    #[arg(long, value_name = "DIR")]
    save: Option<PathBuf>,
}

#[derive(Serialize)]
struct Line<'a> {
    file: &'a Path,
    #[serde(skip_serializing_if = "Option::is_none")]
    pts_ms: Option<i64>,
    width: u32,
    height: u32,
    model: &'a str,
    infer_ms: f64,
    detections: Vec<Item<'a>>,
}

#[derive(Serialize)]
struct Item<'a> {
    class_id: u16,
    label: &'a str,
    confidence: f32,
    bbox: [f32; 4],
}

pub(crate) fn run(args: &Args, config: &Config) -> Result<(), Failure> {
    if let Some(dir) = &args.save {
        std::fs::create_dir_all(dir)
            .map_err(|e| Failure::usage(format!("cannot make {}: {e}", dir.display())))?;
    }
    let mut detector = app::open_detector(config)?;
    for refusal in &detector.info().refusals {
        eprintln!("spotter: {refusal}");
    }
    for file in &args.files {
        if is_still(file) {
            let picture = read_picture(file)?;
            look(args, &mut *detector, file, None, &picture)?;
        } else {
            video(args, &mut *detector, file)?;
        }
    }
    Ok(())
}

#[cfg(feature = "gst")]
fn video(args: &Args, detector: &mut dyn Detector, file: &Path) -> Result<(), Failure> {
    let mut outcome = Ok(());
    spotter::decode::file::each_picture(file, |pts, picture| {
        outcome = look(args, detector, file, Some(pts.as_millis()), picture);
        if outcome.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    })
    .map_err(Failure::usage)?;
    outcome
}

#[cfg(not(feature = "gst"))]
fn video(_: &Args, _: &mut dyn Detector, file: &Path) -> Result<(), Failure> {
    let _ = ControlFlow::<()>::Continue(());
    Err(Failure::usage(format!(
        "{}: this build has no GStreamer and reads only JPEG and PNG",
        file.display()
    )))
}

fn look(
    args: &Args,
    detector: &mut dyn Detector,
    file: &Path,
    pts_ms: Option<i64>,
    picture: &dyn Picture,
) -> Result<(), Failure> {
    let view = picture.view();
    let started = Instant::now();
    let found = detector.detect(&view).map_err(Failure::usage)?;
    let infer_ms = started.elapsed().as_secs_f64() * 1000.0;
    let (width, height) = (view.width, view.height);
    if args.json {
        let model = &*detector.info().model;
        let detections = found.iter().map(item).collect();
        let line = Line { file, pts_ms, width, height, model, infer_ms, detections };
        println!("{}", serde_json::to_string(&line).map_err(Failure::usage)?);
    } else {
        let at = pts_ms.map(|ms| format!(" {:.3} s", ms as f64 / 1000.0)).unwrap_or_default();
        let names: Vec<String> = found.iter().map(words).collect();
        let names = if names.is_empty() { "no animals".to_owned() } else { names.join(", ") };
        println!("{}{at}: {names}", file.display());
    }
    match &args.save {
        Some(dir) => save(dir, file, pts_ms, &view, &found),
        None => Ok(()),
    }
}

fn save(
    dir: &Path,
    file: &Path,
    pts_ms: Option<i64>,
    view: &PictureView<'_>,
    found: &[Detection],
) -> Result<(), Failure> {
    let stem = file.file_stem().and_then(|s| s.to_str()).unwrap_or("picture");
    let at = pts_ms.map(|ms| format!("-{ms:08}")).unwrap_or_default();
    let path = dir.join(format!("{stem}{at}.jpg"));
    let bytes = jpeg::encode(view, found, jpeg::QUALITY).map_err(Failure::usage)?;
    std::fs::write(&path, bytes)
        .map_err(|e| Failure::usage(format!("cannot write {}: {e}", path.display())))
}

fn item(d: &Detection) -> Item<'_> {
    let b = d.bbox;
    Item {
        class_id: d.class_id,
        label: &d.label,
        confidence: d.confidence,
        bbox: [b.x1, b.y1, b.x2, b.y2],
    }
}

fn words(d: &Detection) -> String {
    let b = d.bbox;
    format!("{} {:.2} [{:.0} {:.0} {:.0} {:.0}]", d.label, d.confidence, b.x1, b.y1, b.x2, b.y2)
}

fn is_still(file: &Path) -> bool {
    let ending = file.extension().and_then(|e| e.to_str()).unwrap_or_default();
    ["jpg", "jpeg", "png"].iter().any(|e| ending.eq_ignore_ascii_case(e))
}

pub(crate) fn read_picture(file: &Path) -> Result<RgbPicture, Failure> {
    let bad = |e: &dyn std::fmt::Display| {
        Failure::usage(format!("{}: {e}; give a JPEG, a PNG or a video file", file.display()))
    };
    let reader = image::ImageReader::open(file)
        .and_then(image::ImageReader::with_guessed_format)
        .map_err(|e| bad(&e))?;
    let rgb = reader.decode().map_err(|e| bad(&e))?.into_rgb8();
    let (width, height) = rgb.dimensions();
    Ok(RgbPicture { width, height, pixels: rgb.into_raw() })
}
