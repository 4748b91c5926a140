//! The encoder made of GStreamer elements: pictures in by appsrc, access units out by appsink into the stream's outlet.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use gstreamer as gst;
use gstreamer::prelude::*;
use gstreamer_app as gst_app;
use gstreamer_video as gst_video;
use parking_lot::Mutex;

use super::super::Source;
use super::super::camera::{Given, Pixels};
use super::super::outlet::Outlet;
use super::{Candidate, front};
use crate::media::Arrival;

/// Pictures waiting in front of the encoder: one more than it works on.
const QUEUED: u64 = 2;
/// Pictures inside whose times are remembered.
const INSIDE: usize = 64;
/// An encoder that takes nothing for so long is given up.
const STALL: Duration = Duration::from_secs(5);

pub(crate) struct Encoder {
    pub(crate) name: String,
    pipeline: gst::Pipeline,
    source: gst_app::AppSrc,
    layout: Option<Layout>,
    given: Given,
    shared: Arc<Shared>,
    begin: Option<Instant>,
    /// Since when it takes nothing.
    full_since: Option<Instant>,
    counters: Arc<Source>,
}

#[derive(Debug, Default)]
struct Shared {
    failure: Mutex<Option<String>>,
    /// When each picture inside was taken, by the time it carries.
    inside: Mutex<VecDeque<(gst::ClockTime, Arrival)>>,
}

/// Where the planes of a raw picture are, as Video4Linux lays them out: GStreamer would guess other row lengths.
struct Layout {
    format: gst_video::VideoFormat,
    offsets: Vec<usize>,
    strides: Vec<i32>,
}

impl Encoder {
    pub(crate) fn open(
        candidate: &Candidate,
        given: &Given,
        outlet: Arc<Outlet>,
        counters: Arc<Source>,
    ) -> Result<Self, String> {
        crate::decode::start_gstreamer().map_err(|e| e.to_string())?;
        let description =
            format!("{} ! {} ! h264parse config-interval=-1", front(given.pixels), candidate.chain);
        let middle = gst::parse::bin_from_description(&description, true)
            .map_err(|e| format!("{}; see gst-inspect-1.0", e.message()))?;
        let shared = Arc::<Shared>::default();
        let source = pictures(given);
        let sink = units(outlet, Arc::clone(&shared), Arc::clone(&counters));
        let pipeline = gst::Pipeline::new();
        let elements: [&gst::Element; 3] =
            [source.upcast_ref(), middle.upcast_ref(), sink.upcast_ref()];
        pipeline.add_many(elements).map_err(|e| e.to_string())?;
        gst::Element::link_many(elements).map_err(|e| e.to_string())?;
        let heard = Arc::clone(&shared);
        let bus = pipeline.bus().expect("a pipeline has a bus");
        bus.set_sync_handler(move |_, message| {
            if let gst::MessageView::Error(error) = message.view() {
                heard.fail(crate::decode::told(error));
            }
            gst::BusSyncReply::Drop
        });
        let this = Self {
            name: candidate.name.clone(),
            pipeline,
            source,
            layout: layout(given),
            given: given.clone(),
            shared,
            begin: None,
            full_since: None,
            counters,
        };
        this.pipeline.use_clock(None::<&gst::Clock>);
        if this.pipeline.set_state(gst::State::Playing).is_err() {
            return Err(this.failure().unwrap_or_else(|| "it does not start".into()));
        }
        Ok(this)
    }

    /// Hands a picture over, or lets it go while the encoder is behind. Never waits.
    pub(crate) fn push(&mut self, picture: &[u8], taken: Arrival) -> Result<(), String> {
        let now = Instant::now();
        if self.source.current_level_buffers() >= QUEUED {
            self.counters.counters.pictures_dropped.inc();
            let since = *self.full_since.get_or_insert(now);
            if now.duration_since(since) >= STALL {
                return Err(format!("{} takes nothing for {} s", self.name, STALL.as_secs()));
            }
            return Ok(());
        }
        self.full_since = None;
        let begin = *self.begin.get_or_insert(taken.mono);
        let pts = taken.mono.saturating_duration_since(begin);
        let pts = gst::ClockTime::from_nseconds(u64::try_from(pts.as_nanos()).unwrap_or(u64::MAX));
        // The driver wants its memory back.
        let mut buffer = gst::Buffer::from_slice(picture.to_vec());
        {
            let buffer = buffer.get_mut().expect("a new buffer has one owner");
            buffer.set_pts(pts);
            if let Some(layout) = &self.layout {
                let added = gst_video::VideoMeta::add_full(
                    buffer,
                    gst_video::VideoFrameFlags::empty(),
                    layout.format,
                    self.given.width,
                    self.given.height,
                    &layout.offsets,
                    &layout.strides,
                );
                if added.is_err() {
                    self.counters.counters.pictures_damaged.inc();
                    return Ok(());
                }
            }
        }
        {
            let mut inside = self.shared.inside.lock();
            if inside.len() >= INSIDE {
                inside.pop_front();
            }
            inside.push_back((pts, taken));
        }
        match self.source.push_buffer(buffer) {
            Ok(_) => Ok(()),
            Err(e) => {
                Err(self.failure().unwrap_or_else(|| format!("takes no more pictures ({e})")))
            }
        }
    }

    pub(crate) fn failure(&self) -> Option<String> {
        self.shared.failure.lock().clone()
    }
}

impl Drop for Encoder {
    fn drop(&mut self) {
        if let Err(e) = self.pipeline.set_state(gst::State::Null) {
            tracing::warn!(error = %e, "an encoder does not stop");
        }
    }
}

impl Shared {
    fn fail(&self, reason: String) {
        self.failure.lock().get_or_insert(reason);
    }

    /// When the picture with this time was taken; those before it were let go inside. One whose time the encoder made up
    /// is the oldest: none of ours changes the order.
    fn taken(&self, time: Option<gst::ClockTime>) -> Option<Arrival> {
        let mut inside = self.inside.lock();
        let at = time.and_then(|time| inside.iter().position(|(t, _)| *t == time)).unwrap_or(0);
        inside.drain(..at);
        inside.pop_front().map(|(_, taken)| taken)
    }
}

fn pictures(given: &Given) -> gst_app::AppSrc {
    let pixels = |n: u32| i32::try_from(n).unwrap_or(i32::MAX);
    let name = match given.pixels {
        Pixels::Mjpeg | Pixels::H264 => "image/jpeg",
        _ => "video/x-raw",
    };
    let rate = gst::Fraction::approximate_f64(given.rate_hz).unwrap_or(gst::Fraction::new(30, 1));
    let mut caps = gst::Caps::builder(name)
        .field("width", pixels(given.width))
        .field("height", pixels(given.height))
        .field("framerate", rate);
    if let Some(layout) = layout(given) {
        caps = caps.field("format", layout.format.to_str().as_str());
    }
    gst_app::AppSrc::builder()
        .caps(&caps.build())
        .format(gst::Format::Time)
        .is_live(true)
        .block(false)
        .max_bytes(0)
        .max_buffers(QUEUED)
        .build()
}

fn units(outlet: Arc<Outlet>, shared: Arc<Shared>, source: Arc<Source>) -> gst_app::AppSink {
    let caps = gst::Caps::builder("video/x-h264")
        .field("stream-format", "byte-stream")
        .field("alignment", "au")
        .build();
    let callbacks = gst_app::AppSinkCallbacks::builder()
        .new_sample(move |appsink| {
            let sample = appsink.pull_sample().map_err(|_| gst::FlowError::Eos)?;
            let Some(buffer) = sample.buffer() else { return Ok(gst::FlowSuccess::Ok) };
            // Some encoders move all times by hours, and the segment with them, to have room for negative ones.
            let segment = sample.segment().and_then(|s| s.downcast_ref::<gst::ClockTime>());
            let time =
                buffer.pts().and_then(|pts| segment.map_or(Some(pts), |s| s.to_running_time(pts)));
            let Some(taken) = shared.taken(time) else { return Ok(gst::FlowSuccess::Ok) };
            let Ok(unit) = buffer.map_readable() else {
                shared.fail("an encoded picture cannot be read".into());
                return Err(gst::FlowError::Error);
            };
            // That it is displaced is found by the camera's thread.
            match outlet.push(&unit, taken, &source.counters) {
                Ok(()) => Ok(gst::FlowSuccess::Ok),
                Err(_) => Err(gst::FlowError::Eos),
            }
        })
        .build();
    gst_app::AppSink::builder()
        .caps(&caps)
        .sync(false)
        .async_(false)
        .enable_last_sample(false)
        .callbacks(callbacks)
        .build()
}

/// As drivers with one plane of memory lay it out (V4L2 documentation, "YUV Formats"): the first plane's row length counts
/// for the others in proportion.
fn layout(given: &Given) -> Option<Layout> {
    let tight = match given.pixels {
        Pixels::Yuyv | Pixels::Uyvy => given.width * 2,
        _ => given.width,
    };
    let stride = given.stride.max(tight);
    let (row, rows) = (stride as usize, given.height as usize);
    let stride = i32::try_from(stride).unwrap_or(i32::MAX);
    let (format, offsets, strides) = match given.pixels {
        Pixels::H264 | Pixels::Mjpeg => return None,
        Pixels::Yuyv => (gst_video::VideoFormat::Yuy2, vec![0], vec![stride]),
        Pixels::Uyvy => (gst_video::VideoFormat::Uyvy, vec![0], vec![stride]),
        Pixels::Nv12 => (gst_video::VideoFormat::Nv12, vec![0, row * rows], vec![stride, stride]),
        Pixels::I420 => {
            let half = row.div_ceil(2);
            let second = row * rows;
            let offsets = vec![0, second, second + half * rows.div_ceil(2)];
            let half = i32::try_from(half).unwrap_or(i32::MAX);
            (gst_video::VideoFormat::I420, offsets, vec![stride, half, half])
        }
    };
    Some(Layout { format, offsets, strides })
}
