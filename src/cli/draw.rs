//! Draws boxes with their labels on a picture and writes it as JPEG. Plain on purpose: no fonts to ship.

use std::path::Path;

use font8x8::UnicodeFonts;
use image::{Rgb, RgbImage};
use spotter::app::Failure;
use spotter::decode::{PictureView, PixelFormat};
use spotter::detect::Detection;

const LINE: Rgb<u8> = Rgb([255, 64, 0]);
const TEXT: Rgb<u8> = Rgb([255, 255, 255]);
/// Screen pixels for one pixel of the 8x8 font.
const ZOOM: u32 = 2;

pub(crate) fn save(
    dir: &Path,
    file: &Path,
    pts_ms: Option<i64>,
    view: &PictureView<'_>,
    found: &[Detection],
) -> Result<(), Failure> {
    let stem = file.file_stem().and_then(|s| s.to_str()).unwrap_or("picture");
    let at = pts_ms.map(|ms| format!("-{ms:08}")).unwrap_or_default();
    let path = dir.join(format!("{stem}{at}.jpg"));
    let mut image = rgb(view);
    found.iter().for_each(|d| draw(&mut image, d));
    image.save(&path).map_err(|e| Failure::usage(format!("cannot write {}: {e}", path.display())))
}

/// The picture as RGB; YUV by the formula of BT.601 or BT.709 that it names (ITU-T H.273, 8.3).
fn rgb(view: &PictureView<'_>) -> RgbImage {
    use spotter::decode::{Matrix, Range};
    let (kr, kb) = match view.colour.matrix {
        Matrix::Bt601 => (0.299, 0.114),
        Matrix::Bt709 => (0.2126, 0.0722),
    };
    let kg = 1.0 - kr - kb;
    let (offset, y_gain, c_gain) = match view.colour.range {
        Range::Limited => (16.0, 255.0 / 219.0, 255.0 / 224.0),
        Range::Full => (0.0, 1.0, 1.0),
    };
    let byte = |plane: usize, x: usize, y: usize| {
        let p = view.planes[plane];
        f32::from(p.data[y * p.stride + x])
    };
    RgbImage::from_fn(view.width, view.height, |x, y| {
        let (x, y) = (x as usize, y as usize);
        let (u, v) = match view.format {
            PixelFormat::Rgb => {
                let p = view.planes[0];
                let at = y * p.stride + x * 3;
                return Rgb([p.data[at], p.data[at + 1], p.data[at + 2]]);
            }
            PixelFormat::Nv12 => (byte(1, x / 2 * 2, y / 2), byte(1, x / 2 * 2 + 1, y / 2)),
            PixelFormat::I420 => (byte(1, x / 2, y / 2), byte(2, x / 2, y / 2)),
        };
        let luma = (byte(0, x, y) - offset) * y_gain;
        let (cb, cr) = ((u - 128.0) * c_gain, (v - 128.0) * c_gain);
        let r = luma + 2.0 * (1.0 - kr) * cr;
        let b = luma + 2.0 * (1.0 - kb) * cb;
        let g = (luma - kr * r - kb * b) / kg;
        Rgb([r, g, b].map(|c| c.round().clamp(0.0, 255.0) as u8))
    })
}

fn draw(image: &mut RgbImage, d: &Detection) {
    let (w, h) = image.dimensions();
    let clip = |v: f32, most: u32| (v.max(0.0) as u32).min(most - 1);
    let (x1, x2) = (clip(d.bbox.x1, w), clip(d.bbox.x2, w));
    let (y1, y2) = (clip(d.bbox.y1, h), clip(d.bbox.y2, h));
    for t in 0..3 {
        for x in x1..=x2 {
            put(image, x, y1 + t, LINE);
            put(image, x, y2.saturating_sub(t), LINE);
        }
        for y in y1..=y2 {
            put(image, x1 + t, y, LINE);
            put(image, x2.saturating_sub(t), y, LINE);
        }
    }
    let words = format!("{} {:.0}%", d.label, d.confidence * 100.0);
    let top = y1.saturating_sub(10 * ZOOM);
    for (n, c) in (0u32..).zip(words.chars()) {
        glyph(image, x1 + n * 8 * ZOOM, top, c);
    }
}

fn glyph(image: &mut RgbImage, left: u32, top: u32, c: char) {
    let rows = font8x8::BASIC_FONTS.get(c).unwrap_or_default();
    for y in 0..10 * ZOOM {
        for x in 0..8 * ZOOM {
            let row = rows.get((y / ZOOM) as usize).copied().unwrap_or_default();
            let ink = row >> (x / ZOOM) & 1 == 1;
            put(image, left + x, top + y, if ink { TEXT } else { LINE });
        }
    }
}

fn put(image: &mut RgbImage, x: u32, y: u32, colour: Rgb<u8>) {
    if let Some(pixel) = image.get_pixel_mut_checked(x, y) {
        *pixel = colour;
    }
}
