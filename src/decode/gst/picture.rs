//! A picture in a decoder's own buffer: which formats are taken, and how one is mapped without a copy.

use gstreamer as gst;
use gstreamer::prelude::*;
use gstreamer_app as gst_app;
use gstreamer_video as gst_video;
use gstreamer_video::VideoFrameExt;

use crate::decode::{Colour, Matrix, Picture, PictureView, PixelFormat, Plane, Range};

/// What pictures this house can look at.
pub(in crate::decode) fn picture_caps() -> gst::Caps {
    gst_video::VideoCapsBuilder::new()
        .format_list([gst_video::VideoFormat::I420, gst_video::VideoFormat::Nv12])
        .build()
}

/// Tells decoders that rows may be padded: else libav's would copy every picture into a tight buffer.
pub(in crate::decode) fn take_padded(appsink: &gst_app::AppSink) {
    let pad = appsink.static_pad("sink").expect("an appsink has a sink pad");
    pad.add_probe(gst::PadProbeType::QUERY_DOWNSTREAM, |_, info| {
        match info.query_mut().map(gst::QueryRef::view_mut) {
            Some(gst::QueryViewMut::Allocation(query)) => {
                query.add_allocation_meta::<gst_video::VideoMeta>(None);
                gst::PadProbeReturn::Handled
            }
            _ => gst::PadProbeReturn::Ok,
        }
    });
}

/// A picture in a decoder's own buffer, which goes back to the decoder's pool when this is dropped.
pub(in crate::decode) struct GstPicture {
    frame: gst_video::VideoFrame<gst_video::video_frame::Readable>,
    format: PixelFormat,
    colour: Colour,
}

impl GstPicture {
    /// Maps a sample; `known` keeps what was made of the last caps, which rarely change.
    pub(in crate::decode) fn map(
        sample: &gst::Sample,
        known: &mut Option<(gst::Caps, gst_video::VideoInfo)>,
    ) -> Result<Self, String> {
        let caps = sample.caps_owned().ok_or("a picture came without a format")?;
        let info = match known {
            Some((of, info)) if *of == caps => info.clone(),
            _ => {
                let info = gst_video::VideoInfo::from_caps(&caps)
                    .map_err(|_| format!("a picture's format is not understood: {caps}"))?;
                *known = Some((caps, info.clone()));
                info
            }
        };
        let format = match info.format() {
            gst_video::VideoFormat::I420 => PixelFormat::I420,
            gst_video::VideoFormat::Nv12 => PixelFormat::Nv12,
            other => {
                return Err(format!("pictures come as {}, not as I420 or NV12", other.to_str()));
            }
        };
        let colour = colour(&info);
        let buffer = sample.buffer_owned().ok_or("a picture came without pixels")?;
        let frame = gst_video::VideoFrame::from_buffer_readable(buffer, &info)
            .map_err(|_| "a picture's memory cannot be read")?;
        let picture = Self { frame, format, colour };
        let view = picture.view();
        if !view.is_whole() {
            return Err(format!("a picture is smaller than its {}x{}", view.width, view.height));
        }
        Ok(picture)
    }
}

impl Picture for GstPicture {
    fn view(&self) -> PictureView<'_> {
        let strides = self.frame.plane_stride();
        let plane = |n: u32| Plane {
            data: self.frame.plane_data(n).unwrap_or_default(),
            stride: strides.get(n as usize).map_or(0, |s| usize::try_from(*s).unwrap_or(0)),
        };
        let none = Plane { data: &[], stride: 0 };
        let third = if self.format == PixelFormat::I420 { plane(2) } else { none };
        PictureView {
            width: self.frame.width(),
            height: self.frame.height(),
            format: self.format,
            colour: self.colour,
            planes: [plane(0), plane(1), third],
        }
    }
}

/// BT.2020's matrix is nearer to BT.709's than to BT.601's; what says nothing has been guessed from its size by
/// GStreamer.
fn colour(info: &gst_video::VideoInfo) -> Colour {
    let colorimetry = info.colorimetry();
    let matrix = match colorimetry.matrix() {
        gst_video::VideoColorMatrix::Bt709 | gst_video::VideoColorMatrix::Bt2020 => Matrix::Bt709,
        _ => Matrix::Bt601,
    };
    let range = match colorimetry.range() {
        gst_video::VideoColorRange::Range0_255 => Range::Full,
        _ => Range::Limited,
    };
    Colour { matrix, range }
}
