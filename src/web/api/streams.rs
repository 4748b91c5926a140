//! Which streams there are, and what a player must know before it plays one.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::auth::Right;
use crate::media::fmp4::codecs;
use crate::media::{AudioParams, Stream, VideoParams};
use crate::web::asked::OfStream;
use crate::web::error::{ApiError, ErrorBody};
use crate::web::visitor::Visitor;
use crate::web::{Door, whep};
use crate::wire::{StreamLatency, StreamStats};

pub(super) fn routes() -> OpenApiRouter<Arc<Door>> {
    OpenApiRouter::new().routes(routes!(list)).routes(routes!(one))
}

#[derive(Debug, Serialize, ToSchema)]
struct StreamList {
    streams: Vec<StreamView>,
}

/// One stream of the moment.
#[derive(Debug, Serialize, ToSchema)]
struct StreamView {
    stream: String,
    /// "online", or "waiting" for its publisher to come back.
    status: String,
    /// Null until the first parameters came.
    video: Option<VideoView>,
    /// Null where there is no sound.
    audio: Option<AudioView>,
    /// Whether pictures are sent in another order than shown, which WebRTC does not carry.
    b_frames: bool,
    webrtc: WebrtcView,
    /// Published and searched pictures a second, over the last second.
    fps: f64,
    detections_per_s: f64,
    /// How many of each label are in view.
    animals_now: BTreeMap<String, usize>,
    animals_total: u64,
    frames_total: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    latency_ms: Option<StreamLatency>,
}

#[derive(Debug, Serialize, ToSchema)]
struct VideoView {
    /// "H.264" or "H.265".
    codec: String,
    /// As players ask for it (RFC 6381): "avc1.64001f".
    codec_string: String,
    /// Pixels.
    width: u32,
    height: u32,
}

#[derive(Debug, Serialize, ToSchema)]
struct AudioView {
    codec: String,
    codec_string: String,
    sample_rate_hz: u32,
    channels: u8,
}

/// Whether WHEP would serve the stream, and why not.
#[derive(Debug, Serialize, ToSchema)]
struct WebrtcView {
    offered: bool,
    why: Option<String>,
}

impl WebrtcView {
    fn new(door: &Door, stream: &Stream) -> Self {
        let why = match &door.ctx.webrtc {
            None => Some("web.webrtc is switched off".to_owned()),
            Some(_) => whep::fit(stream).err().map(|why| why.to_string()),
        };
        Self { offered: why.is_none(), why }
    }
}

impl AudioView {
    fn new(params: &AudioParams) -> Self {
        Self {
            codec: params.codec.name().into(),
            codec_string: codecs::audio_string(params),
            sample_rate_hz: params.sample_rate_hz,
            channels: params.channels,
        }
    }
}

impl VideoView {
    fn new(params: &VideoParams) -> Self {
        Self {
            codec: params.codec.name().into(),
            codec_string: codecs::video_string(params),
            width: params.width,
            height: params.height,
        }
    }
}

/// The streams there are now.
#[utoipa::path(get, path = "/api/v1/streams", tag = "streams", responses(
    (status = 200, description = "The streams", body = StreamList),
    (status = "4XX", description = "Refused", body = ErrorBody)))]
async fn list(
    State(door): State<Arc<Door>>,
    visitor: Visitor,
) -> Result<Json<StreamList>, ApiError> {
    visitor.may(&door, Right::Read, None)?;
    let streams = door.ctx.streams.list();
    Ok(Json(StreamList { streams: streams.iter().map(|s| view(&door, s)).collect() }))
}

/// One stream.
#[utoipa::path(get, path = "/api/v1/streams/{stream}", tag = "streams",
    params(("stream" = String, Path, description = "The stream's name", pattern = "^[A-Za-z0-9_-]{1,64}$")),
    responses(
        (status = 200, description = "The stream", body = StreamView),
        (status = "4XX", description = "Refused, or no such stream", body = ErrorBody)))]
async fn one(
    State(door): State<Arc<Door>>,
    OfStream(id): OfStream,
    visitor: Visitor,
) -> Result<Json<StreamView>, ApiError> {
    visitor.may(&door, Right::Read, Some(&id))?;
    let stream = door.ctx.streams.get(&id).ok_or_else(|| ApiError::no_stream(&id))?;
    Ok(Json(view(&door, &stream)))
}

fn view(door: &Door, stream: &Stream) -> StreamView {
    let summary = stream.summary();
    let stats = door.now.stats().borrow().clone();
    let own = |s: &&StreamStats| s.stream == stream.id;
    let stats = stats.as_ref().and_then(|s| s.streams.iter().find(own));
    StreamView {
        stream: stream.id.to_string(),
        status: summary.status.name().into(),
        video: summary.params.as_deref().map(VideoView::new),
        audio: stream.ring.newest_audio().as_deref().map(AudioView::new),
        b_frames: stream.ring.has_b_frames(),
        webrtc: WebrtcView::new(door, stream),
        fps: stats.map_or(0.0, |s| s.fps),
        detections_per_s: stats.map_or(0.0, |s| s.detections_per_s),
        animals_now: door.now.animals(&stream.id),
        animals_total: stream.counters.animals.get(),
        frames_total: stream.counters.video_units.get(),
        latency_ms: stats.map(|s| s.latency_ms),
    }
}
