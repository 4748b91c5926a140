//! A file as a camera, for machines and tests without one: a picture in any format but H.264, an `.h264` file what is in
//! it, over and over. While the file is not there the camera is unplugged.

use std::io::Cursor;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use image::RgbImage;

use super::camera::{Camera, CameraError, Given, Pixels, Quality, Taken};
use super::choose;
use crate::config::Source;

/// How long `next` waits at most.
const PATIENCE: Duration = Duration::from_millis(200);

pub(crate) struct FakeCamera {
    given: Given,
    file: PathBuf,
    pictures: Vec<Vec<u8>>,
    at: u32,
    due: Instant,
    period: Duration,
}

impl FakeCamera {
    pub(crate) fn open(config: &Source) -> Result<Self, CameraError> {
        let file = PathBuf::from(&config.device);
        let bytes = std::fs::read(&file).map_err(|e| match e.kind() {
            std::io::ErrorKind::NotFound => CameraError::Absent(config.device.clone()),
            std::io::ErrorKind::PermissionDenied => CameraError::Refused(config.device.clone()),
            _ => failed(&file, &e.to_string()),
        })?;
        let wish = choose::pixels(config.format);
        let coded = file.extension().is_some_and(|e| e == "h264");
        // Colours are shared by four pixels.
        let (width, height) = (config.width & !1, config.height & !1);
        let (pixels, pictures, stride) = match (coded, wish) {
            (true, None | Some(Pixels::H264)) => (Pixels::H264, access_units(&bytes), 0),
            (true, Some(wish)) | (false, Some(wish @ Pixels::H264)) => {
                let text = format!("{} does not give {wish}: set format = \"auto\"", config.device);
                return Err(CameraError::Unfit(text));
            }
            (false, wish) => {
                let wish = wish.unwrap_or(Pixels::Yuyv);
                let picture = picture(&file, &bytes, (width, height))?;
                let (bytes, stride) = as_pixels(&picture, wish).map_err(|e| failed(&file, &e))?;
                (wish, vec![bytes], stride)
            }
        };
        if pictures.is_empty() {
            return Err(failed(&file, "holds no picture"));
        }
        let node = config.device.clone();
        let rate_hz = config.rate_hz;
        let given = Given { node, pixels, width, height, stride, rate_hz };
        let period = Duration::from_secs_f64(1.0 / rate_hz);
        Ok(Self { given, file, pictures, at: 0, due: Instant::now(), period })
    }
}

impl Camera for FakeCamera {
    fn given(&self) -> &Given {
        &self.given
    }

    fn next(&mut self) -> Result<Option<Taken<'_>>, CameraError> {
        if !self.file.exists() {
            return Err(CameraError::Gone(self.given.node.clone()));
        }
        let wait = self.due.saturating_duration_since(Instant::now());
        std::thread::sleep(wait.min(PATIENCE));
        if wait > PATIENCE {
            return Ok(None);
        }
        self.due = (self.due + self.period).max(Instant::now());
        let n = self.at as usize % self.pictures.len();
        self.at = self.at.wrapping_add(1);
        let (data, quality) = (&self.pictures[n], Quality::Whole);
        Ok(Some(Taken { data, at: None, sequence: self.at, quality }))
    }
}

fn failed(file: &Path, what: &str) -> CameraError {
    CameraError::Failed(file.display().to_string(), what.into())
}

fn picture(file: &Path, bytes: &[u8], (w, h): (u32, u32)) -> Result<RgbImage, CameraError> {
    let picture = image::load_from_memory(bytes).map_err(|e| failed(file, &e.to_string()))?;
    Ok(picture.resize_exact(w, h, image::imageops::FilterType::Triangle).to_rgb8())
}

/// The picture's bytes and the length of its rows. Planes have longer rows than they need, as many drivers give them.
fn as_pixels(picture: &RgbImage, pixels: Pixels) -> Result<(Vec<u8>, u32), String> {
    let (w, h) = picture.dimensions();
    let packed = |order: [usize; 4]| {
        let pairs = picture.as_raw().chunks_exact(6).flat_map(move |pair| {
            let [one, two] = [yuv(&pair[..3]), yuv(&pair[3..])];
            let mean = |n: usize| one[n].midpoint(two[n]);
            let all = [one[0], mean(1), two[0], mean(2)];
            order.map(|n| all[n])
        });
        (pairs.collect(), w * 2)
    };
    let stride = w + 64;
    // One plane, of pictures of every `every`th pixel in both directions; `of` says which components of each.
    let plane = |every: u32, stride: u32, of: &[usize]| -> Vec<u8> {
        let row = |y: u32| {
            let values = (0..w / every).flat_map(move |x| {
                let value = yuv(&picture.get_pixel(x * every, y * every).0);
                of.iter().map(move |n| value[*n])
            });
            let mut row: Vec<u8> = values.collect();
            row.resize(stride as usize, 0);
            row
        };
        (0..h / every).flat_map(row).collect()
    };
    Ok(match pixels {
        Pixels::Yuyv => packed([0, 1, 2, 3]),
        Pixels::Uyvy => packed([1, 0, 3, 2]),
        Pixels::Nv12 => ([plane(1, stride, &[0]), plane(2, stride, &[1, 2])].concat(), stride),
        Pixels::I420 => {
            let half = stride / 2;
            let planes = [plane(1, stride, &[0]), plane(2, half, &[1]), plane(2, half, &[2])];
            (planes.concat(), stride)
        }
        Pixels::Mjpeg | Pixels::H264 => {
            let mut jpeg = Cursor::new(Vec::new());
            let written = picture.write_to(&mut jpeg, image::ImageFormat::Jpeg);
            written.map_err(|e| e.to_string())?;
            (jpeg.into_inner(), 0)
        }
    })
}

/// BT.601, limited range, as webcams give it.
fn yuv(rgb: &[u8]) -> [u8; 3] {
    let [r, g, b] = [rgb[0], rgb[1], rgb[2]].map(f32::from);
    let y = 16.0 + 0.257 * r + 0.504 * g + 0.098 * b;
    let u = 128.0 - 0.148 * r - 0.291 * g + 0.439 * b;
    let v = 128.0 + 0.439 * r - 0.368 * g - 0.071 * b;
    [y, u, v].map(|x| x.round().clamp(0.0, 255.0) as u8)
}

/// Cuts an Annex B stream into access units: a new one begins at the first slice of a picture, or at what stands in
/// front of it (H.264 7.4.1.2.3, as far as encoders go).
fn access_units(stream: &[u8]) -> Vec<Vec<u8>> {
    let starts: Vec<usize> =
        stream.windows(3).enumerate().filter(|(_, w)| *w == [0, 0, 1]).map(|(at, _)| at).collect();
    let mut units: Vec<Vec<u8>> = Vec::new();
    let mut has_slice = true;
    for (n, start) in starts.iter().enumerate() {
        let end = starts.get(n + 1).copied().unwrap_or(stream.len());
        let nal = &stream[start + 3..end];
        let Some(header) = nal.first() else { continue };
        let kind = header & 0x1F;
        let slice = matches!(kind, 1 | 5);
        // first_mb_in_slice is 0 when its first bit is 1.
        let first = slice && nal.get(1).is_some_and(|b| b & 0x80 != 0);
        if has_slice && (first || matches!(kind, 6..=9)) {
            units.push(Vec::new());
            has_slice = false;
        }
        has_slice |= slice;
        if let Some(unit) = units.last_mut() {
            unit.extend_from_slice(&[0, 0, 0, 1]);
            unit.extend_from_slice(nal);
        }
    }
    units
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(device: &Path, more: &str) -> Source {
        let text = format!("stream = \"a\"\ndevice = {:?}\nbackend = \"fake\"\n{more}", device);
        toml::from_str(&text).unwrap()
    }

    #[test]
    fn a_picture_is_a_camera_until_it_is_unplugged() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("red.png");
        let size = "width = 32\nheight = 16\nrate_hz = 200\n";
        let open = |more: &str| FakeCamera::open(&config(&file, &format!("{size}{more}")));
        assert!(matches!(open(""), Err(CameraError::Absent(_))));
        RgbImage::from_pixel(8, 8, image::Rgb([255, 0, 0])).save(&file).unwrap();
        let mut camera = open("").unwrap();
        assert_eq!(camera.given().to_string(), "YUYV 32x16 at 200/s");
        let taken = camera.next().unwrap().unwrap();
        assert_eq!(taken.data.len(), 32 * 16 * 2);
        // Pure red, as every table of colour bars has it.
        assert_eq!(taken.data[..4], [82, 90, 82, 240]);
        assert!(
            open("format = \"mjpeg\"")
                .unwrap()
                .next()
                .unwrap()
                .unwrap()
                .data
                .starts_with(&[0xFF, 0xD8])
        );
        assert!(matches!(open("format = \"h264\""), Err(CameraError::Unfit(_))));
        std::fs::remove_file(&file).unwrap();
        assert!(matches!(camera.next(), Err(CameraError::Gone(_))));
    }

    #[test]
    fn coded_files_are_cut_into_pictures() {
        let nal = |kind: u8, first: bool| {
            [&[0, 0, 1, kind, if first { 0x88 } else { 0x08 }][..], &[7; 3]].concat()
        };
        let stream = [
            nal(7, false),
            nal(8, false),
            nal(5, true),
            nal(5, false),
            nal(1, true),
            nal(9, false),
            nal(1, true),
        ]
        .concat();
        let counts: Vec<_> = access_units(&stream).iter().map(|u| u.len() / 9).collect();
        assert_eq!(counts, [4, 1, 2]);
        assert!(access_units(b"nothing of that kind").is_empty());
    }
}
