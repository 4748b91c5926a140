//! Milliseconds of a detection's parts on this machine. Prints, asserts nothing about time:
//! `cargo test --release --test detect_speed -- --ignored --nocapture`.
//! SPOTTER_TEST_MODEL names another manifest, SPOTTER_TEST_THREADS another number of threads.

#![allow(clippy::unwrap_used)]

use std::time::Instant;

use spotter::config;
use spotter::decode::{Colour, Matrix, PictureView, PixelFormat, Plane, Range};
use spotter::detect::letterbox::Letterbox;
use spotter::detect::tensor::{Element, Quant, TensorMeta, TensorMut};
use spotter::detect::{Paths, find_manifest, open};

/// The fastest of many runs and the middle one: on a busy machine only the former is the code's own.
fn times(runs: usize, mut one: impl FnMut()) -> String {
    let mut times: Vec<_> = (0..runs)
        .map(|_| {
            let start = Instant::now();
            one();
            start.elapsed()
        })
        .collect();
    times.sort();
    format!("{:?}, half within {:?}", times[0], times[runs / 2])
}

#[test]
#[ignore = "measures, and only a release build tells anything"]
fn letterbox_and_whole_detection() {
    let cfg = config::Detect {
        model: std::env::var("SPOTTER_TEST_MODEL").unwrap_or_else(|_| "auto".into()),
        threads: std::env::var("SPOTTER_TEST_THREADS").map_or(1, |n| n.parse().unwrap()),
        ..Default::default()
    };
    let paths = Paths::new("/nonexistent");
    let bytes: Vec<u8> = (0..1920 * 1080 * 3).map(|i| (i * 7 / 5 % 251) as u8).collect();
    let colour = Colour { matrix: Matrix::Bt709, range: Range::Limited };
    let view = |format, w: usize, h: usize| {
        let (luma, rest) = bytes.split_at(w * h);
        let planes = match format {
            PixelFormat::Rgb => [(&bytes[..], w * 3), (&[], 0), (&[], 0)],
            PixelFormat::Nv12 => [(luma, w), (rest, w), (&[], 0)],
            PixelFormat::I420 => [(luma, w), (rest, w / 2), (&rest[w * h / 4..], w / 2)],
        };
        let planes = planes.map(|(data, stride)| Plane { data, stride });
        PictureView { width: w as u32, height: h as u32, format, colour, planes }
    };
    let spec = match find_manifest(&cfg, &paths) {
        Ok(manifest) => manifest.input,
        Err(e) => return println!("skipped: {e}"),
    };
    let shape = vec![1, spec.height as usize, spec.width as usize, 3];
    let quant = Quant { scale: 1.0 / spec.std[0], zero_point: -128 };
    let meta = TensorMeta { name: "image".into(), shape, element: Element::I8, quant };
    let mut letterbox = Letterbox::new(&spec, &meta).unwrap();
    let mut tensor = vec![0; meta.volume()];
    for format in [PixelFormat::I420, PixelFormat::Nv12, PixelFormat::Rgb] {
        for (w, h) in [(1280, 720), (1920, 1080), (640, 360)] {
            let picture = view(format, w, h);
            let time = times(300, || {
                letterbox.write(&picture, TensorMut::Bytes(&mut tensor)).unwrap();
            });
            println!("letterbox {format:?} {w}x{h}: {time}");
        }
    }
    match open(&cfg, &paths) {
        Ok(mut detector) => {
            let picture = view(PixelFormat::I420, 1280, 720);
            let time = times(60, || drop(detector.detect(&picture).unwrap()));
            println!("whole detection by {:?}: {time}", detector.info());
        }
        Err(e) => println!("skipped: {e}"),
    }
}
