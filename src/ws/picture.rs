//! A picture sent in for detection: decoded within limits, handed to the detector, answered in the demo's form.

use std::fmt;
use std::future::Future;
use std::io::Cursor;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use base64::Engine as _;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use bytes::Bytes;
use image::{DynamicImage, ImageDecoder as _, ImageFormat, ImageReader, Limits};
use serde_json::Value;
use tokio::sync::Semaphore;

use super::Counters;
use crate::config;
use crate::decode::RgbPicture;
use crate::detect::Detection;
use crate::wire;

/// What was found in a picture, and how long conversion, interpreter and head took.
#[derive(Debug, Clone)]
pub struct PictureAnswer {
    pub detections: Vec<Detection>,
    pub processing: Duration,
}

/// Why a picture was not looked at. The text goes to the client.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PictureError {
    #[error("the detector is not ready: {0}")]
    Unavailable(String),
    #[error("the detector failed: {0}")]
    Failed(String),
}

pub type PictureFuture<'a> =
    Pin<Box<dyn Future<Output = Result<PictureAnswer, PictureError>> + Send + 'a>>;

/// Whoever looks at single pictures. At most one is asked at a time by this exit; dropping the future gives it up.
pub trait PictureDetector: Send + Sync {
    fn detect(&self, picture: RgbPicture) -> PictureFuture<'_>;
}

/// What is wrong with the bytes of a picture.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum BadPicture {
    #[error("image_data is empty")]
    Empty,
    #[error("image_data is not base64: {0}")]
    NotBase64(String),
    #[error("not a JPEG or PNG picture")]
    NotPicture,
    #[error("the picture cannot be decoded: {0}")]
    Broken(String),
    #[error("a picture of {width}x{height} is over the limit of {max} pixels")]
    TooManyPixels { width: u32, height: u32, max: u64 },
}

/// All pictures of all connections.
pub(super) struct Pictures {
    detector: Arc<dyn PictureDetector>,
    counters: Arc<Counters>,
    max_pixels: u64,
    max_waiting: usize,
    waiting: Semaphore,
    /// One decoded picture in memory at a time: 50 megapixels are 150 MB.
    decoded: Semaphore,
}

impl fmt::Debug for Pictures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pictures").field("max_pixels", &self.max_pixels).finish_non_exhaustive()
    }
}

/// A picture's file as it came.
#[derive(Debug)]
pub(super) enum File<'a> {
    Base64(&'a str),
    Bytes(Bytes),
}

impl Pictures {
    pub(super) fn new(
        config: &config::WebSocket,
        detector: Arc<dyn PictureDetector>,
        counters: Arc<Counters>,
    ) -> Self {
        Self {
            detector,
            counters,
            max_pixels: config.max_picture_pixels,
            max_waiting: config.max_waiting_pictures,
            waiting: Semaphore::new(config.max_waiting_pictures),
            decoded: Semaphore::new(1),
        }
    }

    /// The message that answers one picture, whatever comes of it.
    pub(super) async fn answer(&self, id: &Value, file: File<'_>) -> Bytes {
        self.counters.pictures.inc();
        let answer = self.look(file).await;
        let now = SystemTime::now();
        match answer {
            Ok((found, took)) => wire::demo_response(id, &found, took, now),
            Err(error) => {
                self.counters.pictures_failed.inc();
                wire::demo_failure(id, &error, now)
            }
        }
    }

    async fn look(&self, file: File<'_>) -> Result<(Vec<Detection>, Duration), String> {
        let Ok(_place) = self.waiting.try_acquire() else {
            return Err(format!("busy: {} pictures are waiting; try again", self.max_waiting));
        };
        let bytes = match file {
            File::Bytes(bytes) => bytes,
            File::Base64(text) => unbase64(text).map_err(|e| e.to_string())?,
        };
        let _turn = self.decoded.acquire().await.map_err(|e| e.to_string())?;
        let began = Instant::now();
        let max = self.max_pixels;
        let picture = tokio::task::spawn_blocking(move || decode(&bytes, max))
            .await
            .map_err(|_| "the picture's decoder failed".to_owned())?
            .map_err(|e| e.to_string())?;
        let decoding = began.elapsed();
        let answer = self.detector.detect(picture).await.map_err(|e| e.to_string())?;
        Ok((answer.detections, decoding + answer.processing))
    }
}

/// As lenient about padding as the demo's clients are careless.
fn unbase64(text: &str) -> Result<Bytes, BadPicture> {
    if text.is_empty() {
        return Err(BadPicture::Empty);
    }
    let config =
        GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    let decoded = GeneralPurpose::new(&STANDARD, config).decode(text);
    decoded.map(Bytes::from).map_err(|e| BadPicture::NotBase64(e.to_string()))
}

/// Decodes a JPEG or PNG file. The size is judged by the header, before anything of that size exists.
fn decode(file: &[u8], max: u64) -> Result<RgbPicture, BadPicture> {
    let broken = |e: image::ImageError| BadPicture::Broken(e.to_string());
    let mut reader = ImageReader::new(Cursor::new(file))
        .with_guessed_format()
        .map_err(|_| BadPicture::NotPicture)?;
    if !matches!(reader.format(), Some(ImageFormat::Jpeg | ImageFormat::Png)) {
        return Err(BadPicture::NotPicture);
    }
    let mut limits = Limits::default();
    // Up to 8 bytes a pixel (RGBA of 16 bits), and what the decoder needs besides.
    limits.max_alloc = Some(max.saturating_mul(8).saturating_add(32 << 20));
    reader.limits(limits);
    let decoder = reader.into_decoder().map_err(broken)?;
    let (width, height) = decoder.dimensions();
    if width == 0 || height == 0 {
        return Err(BadPicture::Broken("it has no pixels".into()));
    }
    if u64::from(width) * u64::from(height) > max {
        return Err(BadPicture::TooManyPixels { width, height, max });
    }
    let pixels = DynamicImage::from_decoder(decoder).map_err(broken)?.into_rgb8().into_raw();
    Ok(RgbPicture { width, height, pixels })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn png(width: u32, height: u32) -> Vec<u8> {
        let mut out = Cursor::new(Vec::new());
        DynamicImage::new_rgba8(width, height).write_to(&mut out, ImageFormat::Png).unwrap();
        out.into_inner()
    }

    /// A PNG whose header claims any size.
    fn claiming(width: u32, height: u32) -> Vec<u8> {
        let mut file = png(1, 1);
        file[16..20].copy_from_slice(&width.to_be_bytes());
        file[20..24].copy_from_slice(&height.to_be_bytes());
        let crc = crc(&file[12..29]);
        file[29..33].copy_from_slice(&crc.to_be_bytes());
        file
    }

    /// CRC-32 of PNG (ISO/IEC 15948 annex D).
    fn crc(bytes: &[u8]) -> u32 {
        !bytes.iter().fold(!0_u32, |crc, byte| {
            (0..8).fold(crc ^ u32::from(*byte), |c, _| {
                if c & 1 == 1 { 0xedb8_8320 ^ (c >> 1) } else { c >> 1 }
            })
        })
    }

    #[test]
    fn pictures_become_rgb() {
        let picture = decode(&png(3, 2), 6).unwrap();
        assert_eq!((picture.width, picture.height, picture.pixels.len()), (3, 2, 18));
        let mut jpeg = Cursor::new(Vec::new());
        DynamicImage::new_luma8(16, 8).write_to(&mut jpeg, ImageFormat::Jpeg).unwrap();
        assert_eq!(decode(&jpeg.into_inner(), 1000).unwrap().pixels.len(), 384);
    }

    #[test]
    fn a_huge_picture_is_refused_by_its_header() {
        let error = decode(&claiming(50_000, 50_000), 50_000_000).unwrap_err();
        assert_eq!(
            error.to_string(),
            "a picture of 50000x50000 is over the limit of 50000000 pixels"
        );
        let error = decode(&claiming(u32::MAX >> 1, u32::MAX >> 1), 50_000_000).unwrap_err();
        assert!(matches!(error, BadPicture::TooManyPixels { .. } | BadPicture::Broken(_)));
    }

    #[test]
    fn what_is_no_picture_is_told_so() {
        assert_eq!(decode(b"hello", 100).unwrap_err(), BadPicture::NotPicture);
        assert_eq!(decode(b"GIF89a\x01\0\x01\0\0\0\0", 100).unwrap_err(), BadPicture::NotPicture);
        let whole = png(20, 20);
        assert!(matches!(decode(&whole[..30], 1000), Err(BadPicture::Broken(_))));
        assert!(matches!(decode(&whole[..60], 1000), Err(BadPicture::Broken(_))));
        assert!(matches!(decode(&[0xff, 0xd8, 0xff, 0xe0], 1000), Err(BadPicture::Broken(_))));
    }

    #[test]
    fn base64_may_lack_its_padding() {
        assert_eq!(&unbase64("QUI=").unwrap()[..], b"AB");
        assert_eq!(&unbase64("QUI").unwrap()[..], b"AB");
        assert_eq!(unbase64(""), Err(BadPicture::Empty));
        assert!(matches!(unbase64("ä!"), Err(BadPicture::NotBase64(_))));
    }
}
