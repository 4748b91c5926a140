//! A decoder made of GStreamer elements: units in by appsrc, mapped pictures out by appsink.
//! Which elements is decided in `elements.rs`; when one is given up, in `task.rs`.

mod picture; // a decoder's buffer as a picture
mod scaled; // one made small by the board, with the published one behind it

use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use gstreamer as gst;
use gstreamer::glib;
use gstreamer::prelude::*;
use gstreamer_app as gst_app;
use parking_lot::Mutex;

pub(super) use picture::{GstPicture, picture_caps, take_padded};
pub(super) use scaled::{Wholes, scaled, scaling};

use super::elements::Candidate;
use super::pending::{Pending, Stamp};
use super::{DecodeError, Decoded, Decoder, FrameSink, Pushed, Signals};
use crate::media::{AccessUnit, VideoCodec, VideoParams};

/// Units waiting in front of the decoder. Few: what waits here is late, and the ring keeps the rest.
const QUEUED_UNITS: u64 = 8;

pub(super) struct GstDecoder {
    pipeline: gst::Pipeline,
    source: gst_app::AppSrc,
    pending: Arc<Mutex<Pending>>,
    ended: mpsc::Receiver<()>,
}

/// Starts GStreamer once; later calls cost nothing.
pub(crate) fn start() -> Result<(), DecodeError> {
    gst::init().map_err(|e| DecodeError::Start(e.to_string()))
}

impl GstDecoder {
    pub(super) fn open(
        candidate: &Candidate,
        threads: u32,
        params: &VideoParams,
        small: Option<(u32, u32)>,
        sink: FrameSink,
        signals: Arc<Signals>,
    ) -> Result<Self, DecodeError> {
        start()?;
        let failed = |e: &dyn std::fmt::Display| DecodeError::Open(e.to_string());
        let description = description(candidate, params.codec, small);
        let middle = gst::parse::bin_from_description(&description, true)
            .map_err(|e| DecodeError::Open(not_there(&e)))?;
        tune(&middle, threads);
        let wholes = Wholes::before(&middle).map_err(DecodeError::Open)?;

        let pending = Arc::new(Mutex::new(Pending::default()));
        let (end, ended) = mpsc::sync_channel(1);
        let source = source(params, &signals);
        let pictures = picture_sink(sink, Arc::clone(&pending), wholes, Arc::clone(&signals), end);
        let pipeline = gst::Pipeline::new();
        let elements: [&gst::Element; 3] =
            [source.upcast_ref(), middle.upcast_ref(), pictures.upcast_ref()];
        pipeline.add_many(elements).map_err(|e| failed(&e))?;
        gst::Element::link_many(elements).map_err(|e| failed(&e))?;

        let bus = pipeline.bus().expect("a pipeline has a bus");
        let heard = Arc::clone(&signals);
        // Nobody reads the bus: an error is taken here, on the thread it happens on, and nothing piles up.
        bus.set_sync_handler(move |_, message| {
            if let gst::MessageView::Error(error) = message.view() {
                heard.fail(told(error));
            }
            gst::BusSyncReply::Drop
        });
        let this = Self { pipeline, source, pending, ended };
        // Pictures are shown as they come: no clock is waited for.
        this.pipeline.use_clock(None::<&gst::Clock>);
        if this.pipeline.set_state(gst::State::Playing).is_err() {
            let told = signals.failure();
            return Err(DecodeError::Open(told.unwrap_or_else(|| "it does not start".into())));
        }
        Ok(this)
    }
}

impl Decoder for GstDecoder {
    fn push(&mut self, unit: &AccessUnit) -> Result<Pushed, DecodeError> {
        if self.source.current_level_buffers() >= QUEUED_UNITS {
            return Ok(Pushed::Full);
        }
        let stamp = self.pending.lock().add(unit);
        // Shares the unit's memory with the ring.
        let mut buffer = gst::Buffer::from_slice(unit.data.clone());
        {
            let buffer = buffer.get_mut().expect("a new buffer has one owner");
            buffer.set_pts(gst::ClockTime::from_nseconds(stamp.0));
            buffer.set_dts(gst::ClockTime::from_nseconds(Stamp::of(unit.dts).0));
            if !unit.key {
                buffer.set_flags(gst::BufferFlags::DELTA_UNIT);
            }
            if unit.discontinuity {
                buffer.set_flags(gst::BufferFlags::DISCONT);
            }
        }
        match self.source.push_buffer(buffer) {
            Ok(_) => Ok(Pushed::Taken),
            Err(e) => Err(DecodeError::Failed(format!("takes no more units ({e})"))),
        }
    }

    fn finish(&mut self, within: Duration) {
        if self.source.end_of_stream().is_ok() {
            // A decoder that does not end in time loses its last pictures, which is what the time is for.
            let _ = self.ended.recv_timeout(within);
        }
    }
}

impl Drop for GstDecoder {
    fn drop(&mut self) {
        if let Err(e) = self.pipeline.set_state(gst::State::Null) {
            tracing::warn!(error = %e, "a decoder does not stop");
        }
    }
}

/// The elements between appsrc and appsink. Decoders that take units as published need no parser in front.
fn description(candidate: &Candidate, codec: VideoCodec, small: Option<(u32, u32)>) -> String {
    let parser = match codec {
        VideoCodec::H264 => "h264parse",
        VideoCodec::H265 => "h265parse",
    };
    let mut chain = candidate.chain.clone();
    if !candidate.takes_published {
        chain = format!("{parser} ! {chain}");
    }
    if let (Some(scaler), Some(size)) = (candidate.scaler, small) {
        chain = format!("{chain} ! {}", scaling(scaler, size));
    }
    chain
}

/// Sets what keeps a decoder quick and honest, where this version of it can be told.
fn tune(bin: &gst::Bin, threads: u32) {
    let threads = threads.to_string();
    for element in bin.iterate_recurse().into_iter().flatten() {
        if !element.factory().is_some_and(|f| f.name().starts_with("avdec_")) {
            continue;
        }
        let wanted = [
            ("max-threads", threads.as_str()),
            // Frame threads would hold a picture back for each thread.
            ("thread-type", "slice"),
            // "strict" waits for as many pictures as the level allows before it shows the first.
            ("std-compliance", "normal"),
            ("output-corrupt", "false"),
            ("discard-corrupted-frames", "true"),
            ("qos", "false"),
        ];
        for (name, value) in wanted {
            if element.has_property(name) {
                element.set_property_from_str(name, value);
            }
        }
    }
}

fn source(params: &VideoParams, signals: &Arc<Signals>) -> gst_app::AppSrc {
    let (media, format) = match params.codec {
        VideoCodec::H264 => ("video/x-h264", "avc"),
        VideoCodec::H265 => ("video/x-h265", "hvc1"),
    };
    let pixels = |n: u32| i32::try_from(n).unwrap_or(i32::MAX);
    let caps = gst::Caps::builder(media)
        .field("stream-format", format)
        .field("alignment", "au")
        .field("codec_data", gst::Buffer::from_slice(params.record.clone()))
        .field("width", pixels(params.width))
        .field("height", pixels(params.height))
        .build();
    let room = Arc::clone(signals);
    let callbacks =
        gst_app::AppSrcCallbacks::builder().need_data(move |_, _| room.wake.notify_one()).build();
    gst_app::AppSrc::builder()
        .caps(&caps)
        .format(gst::Format::Time)
        // Live decoders show a picture as soon as the stream's own order allows.
        .is_live(true)
        .block(false)
        .max_bytes(0)
        .max_buffers(QUEUED_UNITS)
        .callbacks(callbacks)
        .build()
}

fn picture_sink(
    sink: FrameSink,
    pending: Arc<Mutex<Pending>>,
    wholes: Option<Wholes>,
    signals: Arc<Signals>,
    end: mpsc::SyncSender<()>,
) -> gst_app::AppSink {
    let caps = picture_caps();
    let mut known = None;
    let callbacks = gst_app::AppSinkCallbacks::builder()
        .new_sample(move |appsink| {
            let sample = appsink.pull_sample().map_err(|_| gst::FlowError::Eos)?;
            signals.pictures.inc();
            let stamp = sample.buffer().and_then(gst::BufferRef::pts).map(|t| Stamp(t.nseconds()));
            let Some((pts, arrived)) = pending.lock().take(stamp) else {
                return Ok(gst::FlowSuccess::Ok);
            };
            let picture = GstPicture::map(&sample, &mut known)
                .and_then(|picture| scaled(picture, wholes.as_ref(), &sample));
            match picture {
                Ok(picture) => {
                    let decoded = Instant::now();
                    sink(Decoded { pts, arrived, decoded, picture });
                    Ok(gst::FlowSuccess::Ok)
                }
                Err(reason) => {
                    signals.fail(reason);
                    Err(gst::FlowError::Error)
                }
            }
        })
        .eos(move |_| {
            // Only the first end is waited for.
            let _ = end.try_send(());
        })
        .build();
    let appsink = gst_app::AppSink::builder()
        .caps(&caps)
        .sync(false)
        .async_(false)
        .qos(false)
        .enable_last_sample(false)
        .max_buffers(1)
        .drop(true)
        .callbacks(callbacks)
        .build();
    take_padded(&appsink);
    appsink
}

/// Which element is missing, with what brings it where that is known.
fn not_there(error: &glib::Error) -> String {
    let known = super::elements::KNOWN.iter().find(|k| error.message().contains(k.name));
    match known {
        Some(known) => format!("not there; it comes with {}", known.comes_with),
        None => format!("{}; see gst-inspect-1.0 for the elements there are", error.message()),
    }
}

/// An error message in one line, as short as it can be and still say what happened.
pub(crate) fn told(error: &gst::message::Error) -> String {
    let detail = error.debug().unwrap_or_default();
    // The first line of the detail is the place in GStreamer's source.
    match detail.lines().nth(1).map(str::trim).filter(|l| !l.is_empty()) {
        Some(detail) => format!("{} ({detail})", error.error().message()),
        None => error.error().message().to_string(),
    }
}
