//! Which of a camera's formats is taken (pure): the nearest size, then a rate that reaches the wish, then what costs least.

use super::camera::Pixels;
use crate::config::{Source, SourceFormat};

/// A format that a camera offers in a size.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Offer {
    pub(crate) pixels: Pixels,
    /// As the driver calls it: motion JPEG has two names.
    pub(crate) fourcc: [u8; 4],
    pub(crate) sizes: Sizes,
    /// Pictures a second: one by one, or any up to the greatest; empty: not told.
    pub(crate) rates_hz: Vec<f64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sizes {
    One(u32, u32),
    Steps { width: Steps, height: Steps },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Steps {
    pub(crate) least: u32,
    pub(crate) most: u32,
    pub(crate) step: u32,
}

impl Steps {
    /// The nearest that can be had.
    fn near(self, wish: u32) -> u32 {
        let (least, most) = (self.least, self.most.max(self.least));
        let wish = wish.clamp(least, most);
        let step = self.step.max(1);
        let below = least + (wish - least) / step * step;
        let above = below.saturating_add(step);
        if above <= most && above - wish < wish - below { above } else { below }
    }
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Choice {
    pub(crate) fourcc: [u8; 4],
    pub(crate) width: u32,
    pub(crate) height: u32,
}

/// The best of `offers`; why none will do.
pub(crate) fn choose(offers: &[Offer], others: &[String], wish: &Source) -> Result<Choice, String> {
    let wanted = pixels(wish.format);
    let fit = offers.iter().filter(|o| wanted.is_none_or(|w| w == o.pixels)).filter(|o| {
        // What is cut off or odd cannot be encoded.
        let (w, h) = nearest(o.sizes, wish);
        w >= 16 && h >= 16
    });
    let best = fit.min_by(|a, b| {
        let key = |o: &Offer| {
            let (w, h) = nearest(o.sizes, wish);
            let far = u64::from(w.abs_diff(wish.width)) + u64::from(h.abs_diff(wish.height));
            (far, slow(o, wish.rate_hz), cost(o.pixels))
        };
        key(a).cmp(&key(b))
    });
    if let Some(best) = best {
        let (width, height) = nearest(best.sizes, wish);
        return Ok(Choice { fourcc: best.fourcc, width, height });
    }
    let mut has: Vec<String> = offers.iter().map(|o| o.pixels.to_string()).collect();
    has.extend(others.iter().cloned());
    has.dedup();
    let has = if has.is_empty() { "no format at all".into() } else { has.join(", ") };
    Err(match wanted {
        Some(wanted) if !offers.is_empty() => {
            format!("does not give {wanted}, it gives {has}: set format = \"auto\"")
        }
        _ => format!("gives {has}: spotter takes H264, MJPG, YUYV, UYVY, NV12 and YU12"),
    })
}

fn nearest(sizes: Sizes, wish: &Source) -> (u32, u32) {
    match sizes {
        Sizes::One(w, h) => (w, h),
        Sizes::Steps { width, height } => (width.near(wish.width), height.near(wish.height)),
    }
}

/// How far the rate stays below the wish, in tenths: cameras say 29.97 for 30.
fn slow(offer: &Offer, wish_hz: f64) -> u64 {
    let best = offer.rates_hz.iter().copied().fold(0.0, f64::max);
    if best == 0.0 { 0 } else { ((wish_hz - best - 0.5).max(0.0) * 10.0) as u64 }
}

/// H.264 is passed on as it is; raw pictures are encoded; JPEG must be decoded first.
fn cost(pixels: Pixels) -> u8 {
    match pixels {
        Pixels::H264 => 0,
        Pixels::I420 | Pixels::Nv12 => 1,
        Pixels::Yuyv | Pixels::Uyvy => 2,
        Pixels::Mjpeg => 3,
    }
}

pub(crate) fn pixels(format: SourceFormat) -> Option<Pixels> {
    match format {
        SourceFormat::Auto => None,
        SourceFormat::H264 => Some(Pixels::H264),
        SourceFormat::Mjpeg => Some(Pixels::Mjpeg),
        SourceFormat::Yuyv => Some(Pixels::Yuyv),
        SourceFormat::Uyvy => Some(Pixels::Uyvy),
        SourceFormat::Nv12 => Some(Pixels::Nv12),
        SourceFormat::I420 => Some(Pixels::I420),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wish(text: &str) -> Source {
        let text = format!("stream = \"a\"\ndevice = \"b\"\n{text}");
        toml::from_str(&text).unwrap()
    }

    fn one(pixels: Pixels, w: u32, h: u32, rates: &[f64]) -> Offer {
        let (fourcc, sizes) = (pixels.fourcc(), Sizes::One(w, h));
        Offer { pixels, fourcc, sizes, rates_hz: rates.to_vec() }
    }

    #[track_caller]
    fn chosen(offers: &[Offer], wish_text: &str) -> (Pixels, u32, u32) {
        let c = choose(offers, &[], &wish(wish_text)).unwrap();
        (Pixels::of_fourcc(&c.fourcc).unwrap(), c.width, c.height)
    }

    /// As a common webcam on USB 2 offers it: raw pictures are slow when they are large.
    fn webcam() -> Vec<Offer> {
        vec![
            one(Pixels::Yuyv, 640, 480, &[30.0, 15.0]),
            one(Pixels::Yuyv, 1280, 720, &[10.0, 5.0]),
            one(Pixels::Mjpeg, 640, 480, &[30.0]),
            one(Pixels::Mjpeg, 1280, 720, &[30.0]),
            one(Pixels::Mjpeg, 1920, 1080, &[29.97]),
        ]
    }

    #[test]
    fn a_webcam_gives_jpeg_where_raw_pictures_are_too_slow() {
        assert_eq!(chosen(&webcam(), ""), (Pixels::Mjpeg, 1280, 720));
        assert_eq!(chosen(&webcam(), "rate_hz = 5"), (Pixels::Yuyv, 1280, 720));
        assert_eq!(chosen(&webcam(), "width = 640\nheight = 480"), (Pixels::Yuyv, 640, 480));
        let full = "width = 1920\nheight = 1080\nrate_hz = 30";
        assert_eq!(chosen(&webcam(), full), (Pixels::Mjpeg, 1920, 1080));
        assert_eq!(chosen(&webcam(), "format = \"yuyv\""), (Pixels::Yuyv, 1280, 720));
    }

    #[test]
    fn h264_costs_nothing() {
        let mut offers = webcam();
        offers.push(one(Pixels::H264, 1280, 720, &[30.0]));
        assert_eq!(chosen(&offers, ""), (Pixels::H264, 1280, 720));
    }

    #[test]
    fn sizes_in_steps_come_as_near_as_they_can() {
        let steps = |least, most, step| Steps { least, most, step };
        let sizes = Sizes::Steps { width: steps(48, 1920, 8), height: steps(32, 1080, 2) };
        let pixels = Pixels::I420;
        let offers = [Offer { pixels, fourcc: pixels.fourcc(), sizes, rates_hz: vec![] }];
        assert_eq!(chosen(&offers, ""), (Pixels::I420, 1280, 720));
        assert_eq!(chosen(&offers, "width = 1285\nheight = 8000"), (Pixels::I420, 1288, 1080));
        assert_eq!(steps(10, 5, 0).near(7), 10);
    }

    #[test]
    fn what_cannot_be_is_said_with_what_there_is() {
        let none = choose(&webcam(), &[], &wish("format = \"h264\"")).unwrap_err();
        assert_eq!(none, "does not give H264, it gives YUYV, MJPG: set format = \"auto\"");
        let others = ["GREY".to_string(), "RG10".to_string()];
        let none = choose(&[], &others, &wish("")).unwrap_err();
        assert!(none.starts_with("gives GREY, RG10: spotter takes"), "{none}");
        assert!(choose(&[], &[], &wish("")).unwrap_err().contains("no format at all"));
    }
}
