//! Pictures to JPEG, with or without the boxes of what was found in them. Pure; reads the decoder's planes in place.

mod paint; // boxes and labels on one row
mod row; // one row of any pixel format -> JFIF's YCbCr

use jpeg_encoder::{Encoder, ImageBuffer, JpegColorType, SamplingFactor};

use crate::decode::PictureView;
use crate::detect::Detection;
use paint::Mark;
use row::Converter;

/// Good to look at, and a third of the bytes of the next nines.
pub const QUALITY: u8 = 80;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JpegError {
    #[error("a picture of {width}x{height} is too large for JPEG, which ends at 65535x65535")]
    TooLarge { width: u32, height: u32 },
    #[error("cannot write the JPEG: {0}")]
    Encode(String),
}

/// The picture as a JFIF file; each of `found` gets its box, label and confidence drawn in. `quality` is 1 to 100.
pub fn encode(
    view: &PictureView<'_>,
    found: &[Detection],
    quality: u8,
) -> Result<Vec<u8>, JpegError> {
    let (width, height) = (view.width, view.height);
    let too_large = || JpegError::TooLarge { width, height };
    let rows = Rows {
        width: u16::try_from(width).map_err(|_| too_large())?,
        height: u16::try_from(height).map_err(|_| too_large())?,
        view,
        converter: Converter::new(view.colour),
        marks: found.iter().map(|d| Mark::new(d, width, height)).collect(),
    };
    let mut out = Vec::with_capacity(width as usize * height as usize / 8 + 4096);
    let mut encoder = Encoder::new(&mut out, quality.clamp(1, 100));
    // What the decoder has: one colour for four pixels.
    encoder.set_sampling_factor(SamplingFactor::F_2_2);
    encoder.encode_image(rows).map_err(|e| JpegError::Encode(e.to_string()))?;
    Ok(out)
}

struct Rows<'a> {
    width: u16,
    height: u16,
    view: &'a PictureView<'a>,
    converter: Converter,
    marks: Vec<Mark>,
}

impl ImageBuffer for Rows<'_> {
    fn get_jpeg_color_type(&self) -> JpegColorType {
        JpegColorType::Ycbcr
    }

    fn width(&self) -> u16 {
        self.width
    }

    fn height(&self) -> u16 {
        self.height
    }

    fn fill_buffers(&self, y: u16, buffers: &mut [Vec<u8>; 4]) {
        let [luma, blue, red, _] = buffers;
        let start = luma.len();
        self.converter.row(self.view, usize::from(y), [&mut *luma, &mut *blue, &mut *red]);
        for mark in &self.marks {
            let row = [&mut luma[start..], &mut blue[start..], &mut red[start..]];
            mark.paint(usize::from(y), row);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decode::{Colour, Matrix, Picture, PixelFormat, Plane, Range, RgbPicture};
    use crate::detect::BBox;

    fn grey(width: u32, height: u32) -> RgbPicture {
        RgbPicture { width, height, pixels: vec![128; (width * height * 3) as usize] }
    }

    fn decode(jpeg: &[u8]) -> image::RgbImage {
        image::load_from_memory(jpeg).unwrap().into_rgb8()
    }

    #[track_caller]
    fn near(got: image::Rgb<u8>, want: [u8; 3]) {
        let off = got.0.iter().zip(want).map(|(a, b)| a.abs_diff(b)).max().unwrap();
        assert!(off <= 6, "{got:?} is not {want:?}");
    }

    #[test]
    fn rgb_comes_back_as_it_was() {
        let mut picture = grey(33, 17);
        picture.pixels.chunks_exact_mut(3).for_each(|p| p.copy_from_slice(&[200, 30, 60]));
        let back = decode(&encode(&picture.view(), &[], 95).unwrap());
        assert_eq!(back.dimensions(), (33, 17));
        near(*back.get_pixel(16, 8), [200, 30, 60]);
    }

    /// The same red, written in each of the ways a decoder may hand it over (ITU-T H.273, 8.3).
    #[test]
    fn every_yuv_becomes_the_same_colour() {
        let cases = [
            (Matrix::Bt601, Range::Limited, [81, 90, 240]),
            (Matrix::Bt709, Range::Limited, [63, 102, 240]),
            (Matrix::Bt601, Range::Full, [76, 85, 255]),
            (Matrix::Bt709, Range::Full, [54, 99, 255]),
        ];
        for (matrix, range, [y, u, v]) in cases {
            let (luma, chroma) = ([y; 16 * 16], [u, v].repeat(64));
            let view = PictureView {
                width: 16,
                height: 16,
                format: PixelFormat::Nv12,
                colour: Colour { matrix, range },
                planes: [
                    Plane { data: &luma, stride: 16 },
                    Plane { data: &chroma, stride: 16 },
                    Plane { data: &[], stride: 0 },
                ],
            };
            let back = decode(&encode(&view, &[], 95).unwrap());
            near(*back.get_pixel(8, 8), [254, 0, 0]);
        }
    }

    #[test]
    fn a_box_is_drawn_where_it_is_and_clipped_to_the_picture() {
        let found = |x1, y1, x2, y2| Detection {
            class_id: 16,
            label: "dog".into(),
            confidence: 0.83,
            bbox: BBox { x1, y1, x2, y2 },
            track_id: None,
        };
        let marks = [found(100.0, 120.0, 220.0, 200.0), found(-50.0, f32::NAN, 9e9, 30.0)];
        let back = decode(&encode(&grey(320, 240).view(), &marks, 95).unwrap());
        let differs = |x, y| back.get_pixel(x, y).0.iter().any(|c| c.abs_diff(128) > 40);
        assert!(differs(101, 160) && differs(219, 160) && differs(160, 121) && differs(160, 199));
        assert!(!differs(160, 160) && !differs(90, 160) && !differs(300, 235));
        assert!(differs(120, 110), "the label stands over the box");
    }
}
