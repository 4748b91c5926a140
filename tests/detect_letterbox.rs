//! The fixed-point letterbox against a slow, obvious one in f64.

#![allow(clippy::unwrap_used)]

use spotter::decode::{Colour, Matrix, PictureView, PixelFormat, Plane, Range};
use spotter::detect::letterbox::{Letterbox, Placement};
use spotter::detect::manifest::{Channels, FitMode, InputSpec, Layout};
use spotter::detect::tensor::{Element, Quant, TensorMeta, TensorMut};

/// A picture in owned memory, rows padded as decoders pad them.
struct Owned {
    width: usize,
    height: usize,
    format: PixelFormat,
    colour: Colour,
    planes: Vec<(Vec<u8>, usize)>,
}

impl Owned {
    /// Smooth shapes, hard edges and some noise, different in every channel.
    fn new(width: usize, height: usize, format: PixelFormat, colour: Colour) -> Self {
        let mut noise = 12345u32;
        let mut plane = |w: usize, h: usize, channels: usize, seed: usize| {
            let stride = w * channels + 13;
            let mut data = vec![0u8; stride * h];
            for y in 0..h {
                for x in 0..w {
                    for c in 0..channels {
                        noise = noise.wrapping_mul(1664525).wrapping_add(1013904223);
                        let phase = (x * (3 + c + seed) + y * (5 + seed)) as f64 / 40.0;
                        let smooth = 128.0 + 100.0 * phase.sin();
                        let edge = if (x / 9 + y / 7) % 2 == 0 { 40.0 } else { 0.0 };
                        let value = smooth + edge + f64::from(noise >> 24) / 16.0 - 30.0;
                        data[y * stride + x * channels + c] = value.clamp(0.0, 255.0) as u8;
                    }
                }
            }
            (data, stride)
        };
        let (cw, ch) = (width.div_ceil(2), height.div_ceil(2));
        let planes = match format {
            PixelFormat::Rgb => vec![plane(width, height, 3, 0)],
            PixelFormat::Nv12 => vec![plane(width, height, 1, 0), plane(cw, ch, 2, 1)],
            PixelFormat::I420 => {
                vec![plane(width, height, 1, 0), plane(cw, ch, 1, 1), plane(cw, ch, 1, 2)]
            }
        };
        Self { width, height, format, colour, planes }
    }

    fn view(&self) -> PictureView<'_> {
        let mut planes = [Plane { data: &[], stride: 0 }; 3];
        for (to, (data, stride)) in planes.iter_mut().zip(&self.planes) {
            *to = Plane { data, stride: *stride };
        }
        PictureView {
            width: self.width as u32,
            height: self.height as u32,
            format: self.format,
            colour: self.colour,
            planes,
        }
    }

    /// One sample: channel 0 to 2 is Y, U, V or R, G, B; coordinates are the channel's own.
    fn sample(&self, channel: usize, x: usize, y: usize) -> f64 {
        let (plane, step, offset) = match (self.format, channel) {
            (PixelFormat::Rgb, c) => (0, 3, c),
            (PixelFormat::Nv12, 0) | (PixelFormat::I420, 0) => (0, 1, 0),
            (PixelFormat::Nv12, c) => (1, 2, c - 1),
            (PixelFormat::I420, c) => (c, 1, 0),
        };
        let (data, stride) = &self.planes[plane];
        f64::from(data[y * stride + x * step + offset])
    }
}

fn triangle(source: usize, extent: f64, out: usize, at: usize) -> Vec<(usize, f64)> {
    let scale = extent / out as f64;
    let reach = scale.max(1.0);
    let centre = (at as f64 + 0.5) * scale - 0.5;
    let mut taps: Vec<(usize, f64)> = (0..source)
        .map(|i| (i, 1.0 - (i as f64 - centre).abs() / reach))
        .filter(|t| t.1 > 0.0)
        .collect();
    if taps.is_empty() {
        taps.push((source - 1, 1.0));
    }
    let sum: f64 = taps.iter().map(|t| t.1).sum();
    taps.iter_mut().for_each(|t| t.1 /= sum);
    taps
}

/// R, G and B, 0 to 255 and unrounded, of the scaled picture's pixel (x, y).
fn reference(picture: &Owned, inner: (usize, usize), x: usize, y: usize) -> [f64; 3] {
    let scaled = |channel: usize| {
        let halved = channel > 0 && picture.format != PixelFormat::Rgb;
        let (w, h) = (picture.width, picture.height);
        let (sw, sh, ew, eh) = if halved {
            (w.div_ceil(2), h.div_ceil(2), w as f64 / 2.0, h as f64 / 2.0)
        } else {
            (w, h, w as f64, h as f64)
        };
        let mut sum = 0.0;
        for (sy, wy) in triangle(sh, eh, inner.1, y) {
            for (sx, wx) in triangle(sw, ew, inner.0, x) {
                sum += wx * wy * picture.sample(channel, sx, sy);
            }
        }
        sum
    };
    let [a, b, c] = [scaled(0), scaled(1), scaled(2)];
    if picture.format == PixelFormat::Rgb {
        return [a, b, c];
    }
    let (kr, kb) = match picture.colour.matrix {
        Matrix::Bt601 => (0.299, 0.114),
        Matrix::Bt709 => (0.2126, 0.0722),
    };
    let (y, u, v) = match picture.colour.range {
        Range::Limited => ((a - 16.0) / 219.0, (b - 128.0) / 224.0, (c - 128.0) / 224.0),
        Range::Full => (a / 255.0, (b - 128.0) / 255.0, (c - 128.0) / 255.0),
    };
    let red = y + 2.0 * (1.0 - kr) * v;
    let blue = y + 2.0 * (1.0 - kb) * u;
    let green = (y - kr * red - kb * blue) / (1.0 - kr - kb);
    [red, green, blue].map(|x| (x * 255.0).clamp(0.0, 255.0))
}

fn spec(width: u32, height: u32) -> InputSpec {
    InputSpec {
        width,
        height,
        layout: Layout::Nhwc,
        channels: Channels::Rgb,
        fit: FitMode::Letterbox,
        pad: 128,
        mean: [0.0; 3],
        std: [255.0; 3],
    }
}

fn meta(spec: &InputSpec, element: Element, quant: Quant) -> TensorMeta {
    let (w, h) = (spec.width as usize, spec.height as usize);
    let shape = match spec.layout {
        Layout::Nhwc => vec![1, h, w, 3],
        Layout::Nchw => vec![1, 3, h, w],
    };
    TensorMeta { name: "image".into(), shape, element, quant }
}

const INT8: Quant = Quant { scale: 1.0 / 255.0, zero_point: -128 };
const HD: Colour = Colour { matrix: Matrix::Bt709, range: Range::Limited };

fn write(spec: &InputSpec, picture: &Owned) -> (Vec<u8>, Placement) {
    let meta = meta(spec, Element::I8, INT8);
    let mut letterbox = Letterbox::new(spec, &meta).unwrap();
    let mut data = vec![77u8; meta.volume()];
    let placement = letterbox.write(&picture.view(), TensorMut::Bytes(&mut data)).unwrap();
    (data, placement)
}

/// Compares every pixel, in levels of 0 to 255.
fn check(spec: &InputSpec, picture: &Owned) {
    let (data, placed) = write(spec, picture);
    let (inner, pad) = (placed.inner, placed.pad);
    let mut total = 0.0;
    for y in 0..spec.height {
        for x in 0..spec.width {
            let at = (y * spec.width + x) as usize * 3;
            let got: Vec<f64> =
                data[at..at + 3].iter().map(|&b| f64::from(b as i8) + 128.0).collect();
            let inside =
                (pad.0..pad.0 + inner.0).contains(&x) && (pad.1..pad.1 + inner.1).contains(&y);
            if !inside {
                assert_eq!(got, [128.0; 3]);
                continue;
            }
            let inner = (inner.0 as usize, inner.1 as usize);
            let want = reference(picture, inner, (x - pad.0) as usize, (y - pad.1) as usize);
            for (got, want) in got.iter().zip(want) {
                let off = (got - want).abs();
                assert!(
                    off <= 2.0,
                    "{}x{} {:?} at {x},{y}: {got} for {want}",
                    picture.width,
                    picture.height,
                    picture.format
                );
                total += off;
            }
        }
    }
    let mean = total / f64::from(inner.0 * inner.1 * 3);
    assert!(mean < 0.6, "mean error {mean}");
}

#[test]
fn formats_colours_and_odd_sizes_agree_with_the_reference() {
    let small = spec(64, 48);
    for format in [PixelFormat::Rgb, PixelFormat::Nv12, PixelFormat::I420] {
        for (w, h) in
            [(200, 113), (64, 48), (30, 21), (1, 1), (3, 2), (37, 400), (65, 97), (333, 33)]
        {
            check(&small, &Owned::new(w, h, format, HD));
        }
        for matrix in [Matrix::Bt601, Matrix::Bt709] {
            for range in [Range::Limited, Range::Full] {
                check(&small, &Owned::new(150, 100, format, Colour { matrix, range }));
            }
        }
    }
    let stretch = InputSpec { fit: FitMode::Stretch, ..spec(40, 40) };
    check(&stretch, &Owned::new(160, 90, PixelFormat::I420, HD));
}

#[test]
fn extreme_shapes_are_written_whole() {
    for (w, h) in [(20_000, 2), (2, 20_000), (4_001, 3_001)] {
        let (data, placed) = write(&spec(64, 64), &Owned::new(w, h, PixelFormat::Nv12, HD));
        assert_eq!(data.len(), 64 * 64 * 3);
        assert!(placed.inner.0 >= 1 && placed.inner.1 >= 1);
    }
}

#[test]
fn layouts_channel_orders_and_types_hold_the_same_picture() {
    let picture = Owned::new(100, 60, PixelFormat::Rgb, HD);
    let plain = spec(32, 32);
    let (expected, _) = write(&plain, &picture);
    let pixel =
        |x: usize, y: usize, c: usize| f32::from(expected[(y * 32 + x) * 3 + c] as i8) + 128.0;
    for layout in [Layout::Nhwc, Layout::Nchw] {
        for channels in [Channels::Rgb, Channels::Bgr] {
            let mean = [10.0, 20.0, 30.0];
            let std = [2.0, 4.0, 8.0];
            let spec = InputSpec { layout, channels, mean, std, ..plain.clone() };
            let meta = meta(&spec, Element::F32, Quant::NONE);
            let mut data = vec![f32::NAN; meta.volume()];
            let mut letterbox = Letterbox::new(&spec, &meta).unwrap();
            letterbox.write(&picture.view(), TensorMut::F32(&mut data)).unwrap();
            for (y, x, channel) in
                (0..32).flat_map(|y| (0..32).flat_map(move |x| (0..3).map(move |c| (y, x, c))))
            {
                let at = match layout {
                    Layout::Nhwc => (y * 32 + x) * 3 + channel,
                    Layout::Nchw => channel * 1024 + y * 32 + x,
                };
                let source = if channels == Channels::Bgr { 2 - channel } else { channel };
                let want = (pixel(x, y, source) - mean[channel]) / std[channel];
                assert_eq!(data[at], want, "{layout:?} {channels:?} {x},{y},{channel}");
            }
        }
    }
}

#[test]
fn uint8_stores_pixels_as_they_are() {
    let picture = Owned::new(50, 50, PixelFormat::Rgb, HD);
    let spec = spec(50, 50);
    let meta = meta(&spec, Element::U8, Quant { scale: 1.0 / 255.0, zero_point: 0 });
    let mut data = vec![0; meta.volume()];
    let mut letterbox = Letterbox::new(&spec, &meta).unwrap();
    letterbox.write(&picture.view(), TensorMut::Bytes(&mut data)).unwrap();
    for y in 0..50 {
        let (source, stride) = &picture.planes[0];
        assert_eq!(&data[y * 150..][..150], &source[y * stride..][..150]);
    }
}

#[test]
fn one_letterbox_takes_pictures_of_changing_size() {
    let spec = spec(64, 48);
    let meta = meta(&spec, Element::I8, INT8);
    let mut letterbox = Letterbox::new(&spec, &meta).unwrap();
    for (w, h, format) in [
        (200, 100, PixelFormat::I420),
        (33, 77, PixelFormat::Rgb),
        (200, 100, PixelFormat::Nv12),
        (640, 480, PixelFormat::I420),
    ] {
        let picture = Owned::new(w, h, format, HD);
        let mut data = vec![0; meta.volume()];
        letterbox.write(&picture.view(), TensorMut::Bytes(&mut data)).unwrap();
        assert_eq!(data, write(&spec, &picture).0);
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    let spec = spec(64, 48);
    let wrong_shape = TensorMeta { shape: vec![1, 64, 64, 3], ..meta(&spec, Element::I8, INT8) };
    let said = Letterbox::new(&spec, &wrong_shape).unwrap_err().to_string();
    assert!(said.contains("[1, 48, 64, 3]") && said.contains("[1, 64, 64, 3]"), "{said}");
    let wrong_type = meta(&spec, Element::Other("int64"), Quant::NONE);
    assert!(Letterbox::new(&spec, &wrong_type).unwrap_err().to_string().contains("int64"));
    let no_scale = meta(&spec, Element::I8, Quant { scale: 0.0, zero_point: 0 });
    assert!(Letterbox::new(&spec, &no_scale).is_err());

    let good = meta(&spec, Element::I8, INT8);
    let mut letterbox = Letterbox::new(&spec, &good).unwrap();
    let mut picture = Owned::new(100, 100, PixelFormat::I420, HD);
    let mut short = vec![0; good.volume() - 1];
    assert!(letterbox.write(&picture.view(), TensorMut::Bytes(&mut short)).is_err());
    picture.planes[2].0.truncate(100);
    let mut data = vec![0; good.volume()];
    assert!(letterbox.write(&picture.view(), TensorMut::Bytes(&mut data)).is_err());
}
