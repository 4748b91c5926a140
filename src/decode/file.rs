//! The pictures of a video file, one after another, for `spotter detect clip.mp4` and `spotter bench`. Streams have `task.rs`.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use gstreamer as gst;
use gstreamer::prelude::*;
use gstreamer_app as gst_app;

use super::gst::{GstPicture, Wholes, picture_caps, scaled, scaling, start, take_padded, told};
use super::{DecodeError, Picture};
use crate::media::MediaTime;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FileError {
    #[error(transparent)]
    Start(#[from] DecodeError),
    #[error("{path} cannot be read: {reason}")]
    Unreadable { path: PathBuf, reason: String },
    #[error(
        "{path} does not play: {reason}; it must be a video that the installed GStreamer plugins know"
    )]
    NotPlayable { path: PathBuf, reason: String },
    #[error("GStreamer has no element {name:?} here")]
    NoConverter { name: String },
    #[error("{path} holds no picture")]
    NoPicture { path: PathBuf },
}

/// Waits so long for the next picture before a file is called unplayable.
const PATIENCE: Duration = Duration::from_secs(30);

/// Calls `f` with each picture and its time from the file's start, in order of showing, until it breaks off.
///
/// Gives back how many pictures `f` saw. Blocks.
pub fn each_picture(
    path: &Path,
    f: impl FnMut(MediaTime, &dyn Picture) -> ControlFlow<()>,
) -> Result<u64, FileError> {
    each_scaled(path, None, f)
}

/// The same through a converter that makes each picture so large on its way, with the published one behind it.
pub fn each_scaled(
    path: &Path,
    scaler: Option<(&str, (u32, u32))>,
    mut f: impl FnMut(MediaTime, &dyn Picture) -> ControlFlow<()>,
) -> Result<u64, FileError> {
    start()?;
    let unreadable = |reason: String| FileError::Unreadable { path: path.to_path_buf(), reason };
    let file = std::fs::File::open(path).map_err(|e| unreadable(e.to_string()))?;
    if file.metadata().is_ok_and(|m| m.is_dir()) {
        return Err(unreadable("it is a directory".into()));
    }
    if let Some((name, _)) = scaler
        && gst::ElementFactory::find(name).is_none()
    {
        return Err(FileError::NoConverter { name: name.to_owned() });
    }
    let not_playable = |reason: String| FileError::NotPlayable { path: path.to_path_buf(), reason };
    let player = Player::open(path, scaler).map_err(not_playable)?;
    let mut known = None;
    let mut seen = 0;
    while let Some(sample) = player.next().map_err(not_playable)? {
        let picture = GstPicture::map(&sample, &mut known).map_err(not_playable)?;
        seen += 1;
        let picture = scaled(picture, player.wholes.as_ref(), &sample).map_err(not_playable)?;
        if f(time(&sample), &*picture).is_break() {
            return Ok(seen);
        }
    }
    if seen == 0 {
        return Err(FileError::NoPicture { path: path.to_path_buf() });
    }
    Ok(seen)
}

fn time(sample: &gst::Sample) -> MediaTime {
    let pts = sample.buffer().and_then(gst::BufferRef::pts);
    let in_segment = sample.segment().and_then(|s| s.downcast_ref::<gst::ClockTime>());
    let from_start = in_segment.map_or(pts, |s| s.to_stream_time(pts));
    let us = from_start.map_or(0, gst::ClockTime::useconds);
    MediaTime::from_micros(i64::try_from(us).unwrap_or(i64::MAX))
}

struct Player {
    pipeline: gst::Pipeline,
    pictures: gst_app::AppSink,
    wholes: Option<Wholes>,
}

impl Player {
    fn open(path: &Path, scaler: Option<(&str, (u32, u32))>) -> Result<Self, String> {
        // Only the video is decoded; what it needs to become I420 or NV12 is done by the converter.
        let converter = scaler.map_or("videoconvert".into(), |(name, size)| scaling(name, size));
        let description = format!(
            "filesrc name=file \
            ! decodebin expose-all-streams=false caps=video/x-raw(ANY) \
            ! {converter} ! appsink name=pictures sync=false max-buffers=2 enable-last-sample=false"
        );
        let pipeline = gst::parse::launch(&description).map_err(|e| e.message().to_string())?;
        let pipeline = pipeline.downcast::<gst::Pipeline>().map_err(|_| "not a pipeline")?;
        let file = pipeline.by_name("file").ok_or("no element named file")?;
        // GStreamer takes a file's name as UTF-8.
        let name = path.to_str().ok_or("its name is not UTF-8")?;
        file.set_property("location", name);
        let pictures = pipeline
            .by_name("pictures")
            .and_then(|e| e.downcast::<gst_app::AppSink>().ok())
            .ok_or("no element named pictures")?;
        pictures.set_caps(Some(&picture_caps()));
        take_padded(&pictures);
        let wholes = Wholes::before(pipeline.upcast_ref())?;
        let this = Self { pipeline, pictures, wholes };
        if this.pipeline.set_state(gst::State::Playing).is_err() {
            return Err(this.trouble().unwrap_or_else(|| "it does not start".into()));
        }
        Ok(this)
    }

    /// The next picture; none at the file's end.
    fn next(&self) -> Result<Option<gst::Sample>, String> {
        let slice = gst::ClockTime::from_mseconds(100);
        let since = Instant::now();
        while since.elapsed() < PATIENCE {
            if let Some(sample) = self.pictures.try_pull_sample(slice) {
                return Ok(Some(sample));
            }
            // An element that fails does not wake the one that waits for pictures.
            if let Some(trouble) = self.trouble() {
                return Err(trouble);
            }
            if self.pictures.is_eos() {
                return Ok(None);
            }
        }
        Err(format!("no picture came for {} s", PATIENCE.as_secs()))
    }

    fn trouble(&self) -> Option<String> {
        let bus = self.pipeline.bus()?;
        let message = bus.pop_filtered(&[gst::MessageType::Error])?;
        match message.view() {
            gst::MessageView::Error(error) => Some(told(error)),
            _ => None,
        }
    }
}

impl Drop for Player {
    fn drop(&mut self) {
        let _ = self.pipeline.set_state(gst::State::Null);
    }
}
