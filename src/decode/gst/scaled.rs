//! A picture that the board scaled for the detector, together with the published one it was made of, which stays in the
//! decoder's memory and is fetched only when somebody looks at it.

use std::collections::VecDeque;
use std::sync::Arc;

use gstreamer as gst;
use gstreamer::prelude::*;
use gstreamer_app as gst_app;
use gstreamer_video as gst_video;
use parking_lot::Mutex;

use super::picture::{GstPicture, picture_caps};
use crate::decode::{Picture, PictureView};

/// The scaler's name among the elements of a decoder.
const NAME: &str = "scaler";
/// Pictures between the scaler's two ends. Few: each is one of the decoder's own buffers.
const UNDER_WAY: usize = 4;
/// A picture in a board's memory is there within this time.
const PATIENCE: gst::ClockTime = gst::ClockTime::from_seconds(2);

/// Elements that scale to `size` behind a chain, in a form that the detector reads.
pub(in crate::decode) fn scaling(element: &str, (width, height): (u32, u32)) -> String {
    format!(
        "{element} name={NAME} ! capsfilter caps=\"video/x-raw,format=(string){{NV12,I420}},width={width},height={height}\""
    )
}

/// The published pictures that the scaler is at.
#[derive(Debug, Clone, Default)]
pub(in crate::decode) struct Wholes(Arc<Mutex<VecDeque<Whole>>>);

#[derive(Debug)]
struct Whole {
    buffer: gst::Buffer,
    caps: gst::Caps,
}

impl Wholes {
    /// Keeps every picture that goes into the scaler among these elements; none where there is no scaler.
    pub(in crate::decode) fn before(elements: &gst::Bin) -> Result<Option<Self>, String> {
        let Some(scaler) = elements.by_name(NAME) else { return Ok(None) };
        if scaler.has_property("method") {
            // Every pixel counts, as in our own scaling; two taps alone cost AP.
            scaler.set_property_from_str("method", "bilinear2");
        }
        let pad = scaler.static_pad("sink").ok_or("the scaler has no input")?;
        let this = Self::default();
        let kept = Arc::clone(&this.0);
        pad.add_probe(gst::PadProbeType::BUFFER, move |pad, info| {
            if let (Some(buffer), Some(caps)) = (info.buffer(), pad.current_caps()) {
                let mut kept = kept.lock();
                if kept.len() == UNDER_WAY {
                    kept.pop_front();
                }
                kept.push_back(Whole { buffer: buffer.clone(), caps });
            }
            gst::PadProbeReturn::Ok
        });
        Ok(Some(this))
    }

    /// The one that became the picture of that time; those before it are let go.
    fn of(&self, pts: Option<gst::ClockTime>) -> Option<Whole> {
        let mut kept = self.0.lock();
        let at = kept.iter().position(|whole| whole.buffer.pts() == pts)?;
        kept.drain(..at);
        kept.pop_front()
    }
}

/// A picture as it comes out, with what the scaler made it of, where there is one.
pub(in crate::decode) fn scaled(
    small: GstPicture,
    wholes: Option<&Wholes>,
    sample: &gst::Sample,
) -> Result<Box<dyn Picture>, String> {
    let Some(wholes) = wholes else { return Ok(Box::new(small)) };
    // Without it nobody knew what a box in the small one means.
    let whole = wholes
        .of(sample.buffer().and_then(gst::BufferRef::pts))
        .ok_or("the scaler gives a picture of another time")?;
    let info = gst_video::VideoInfo::from_caps(&whole.caps)
        .map_err(|_| format!("a picture's format is not understood: {}", whole.caps))?;
    Ok(Box::new(Scaled { small, whole, size: (info.width(), info.height()) }))
}

/// What the scaler made, and of what.
struct Scaled {
    small: GstPicture,
    whole: Whole,
    size: (u32, u32),
}

impl Picture for Scaled {
    fn view(&self) -> PictureView<'_> {
        self.small.view()
    }

    fn size(&self) -> (u32, u32) {
        self.size
    }

    fn look_at_whole(&self, look: &mut dyn FnMut(&PictureView<'_>)) -> Result<(), String> {
        let picture = self.whole.map()?;
        look(&picture.view());
        Ok(())
    }
}

impl Whole {
    /// Mapped where it lies, or brought to where it can be.
    fn map(&self) -> Result<GstPicture, String> {
        let sample = gst::Sample::builder().buffer(&self.buffer).caps(&self.caps).build();
        if self.caps.can_intersect(&picture_caps()) {
            return GstPicture::map(&sample, &mut None);
        }
        let board = self.caps.features(0).is_some_and(|f| f.contains("memory:NVMM"));
        GstPicture::map(
            &fetch(&sample, if board { "nvvidconv" } else { "videoconvert" })?,
            &mut None,
        )
    }
}

/// The same picture in ordinary memory and a known format. Takes some milliseconds, which only who looks pays for.
fn fetch(sample: &gst::Sample, converter: &str) -> Result<gst::Sample, String> {
    let description =
        format!("appsrc name=in format=time ! {converter} ! appsink name=out sync=false");
    let pipeline = gst::parse::launch(&description).map_err(|e| e.message().to_string())?;
    let pipeline = pipeline.downcast::<gst::Pipeline>().map_err(|_| "not a pipeline")?;
    let source = pipeline.by_name("in").and_downcast::<gst_app::AppSrc>().ok_or("no appsrc")?;
    let sink = pipeline.by_name("out").and_downcast::<gst_app::AppSink>().ok_or("no appsink")?;
    sink.set_caps(Some(&picture_caps()));
    let fetched = pipeline
        .set_state(gst::State::Playing)
        .map_err(|_| format!("{converter} does not start"))
        .and_then(|_| source.push_sample(sample).map_err(|e| format!("{converter}: {e}")))
        .and_then(|_| {
            sink.try_pull_sample(PATIENCE).ok_or(format!("{converter} gives no picture"))
        });
    let _ = pipeline.set_state(gst::State::Null);
    fetched
}
