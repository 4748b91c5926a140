//! `/whep/<stream>`: live video over WebRTC, asked for by HTTP (draft-ietf-wish-whep). Here offers are judged and
//! answered; the sessions themselves are in the files below.

mod addresses; // where a viewer can reach us
mod answer; // an offer -> an answer
mod line; // one peer's connection
mod packets; // access units -> RTP payloads
mod publisher; // one publisher
mod session; // one viewer
mod table; // which session a datagram is for
mod viewers; // all viewers, one socket

use std::sync::Arc;

use axum::extract::rejection::StringRejection;
use axum::extract::{Extension, Path, State};
use axum::http::{HeaderMap, StatusCode, header};
use serde::Serialize;
use url::form_urlencoded;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

pub use viewers::Webrtc;

use super::Door;
use super::error::{ApiError, ErrorBody};
use super::visitor::{Local, Visitor};
use crate::auth::Right;
use crate::health::Counter;
use crate::media::{Stream, StreamId, VideoCodec, VideoParams};
use answer::Unfit;
use answer::attribute;
pub(super) use publisher::Asker;
use viewers::Opened;
pub(super) use viewers::{Refused, WayIn};

/// What WebRTC counted, both ways.
#[derive(Debug, Default, Serialize)]
pub struct Counters {
    pub sessions: Counter,
    pub refused_busy: Counter,
    pub refused_bad_sdp: Counter,
    /// The stream is no H.264, or the viewer takes none.
    pub refused_codec: Counter,
    pub refused_bframes: Counter,
    /// Publishers' sessions; those without a picture for ingest.idle_timeout_s.
    pub publishers: Counter,
    pub idle_timeouts: Counter,
    /// Pictures of publishers that miss packets, and key frames that publishers were asked for.
    pub pictures_lost: Counter,
    pub keyframes_asked: Counter,
    /// Peers that asked and never came.
    pub ice_timeouts: Counter,
    /// Sessions that ended in a protocol error.
    pub broken: Counter,
    /// Times that a viewer was overtaken, and units that were not sent to one.
    pub lagged: Counter,
    pub units_dropped: Counter,
    pub keyframe_requests: Counter,
    pub packets: Counter,
    pub bytes: Counter,
    pub send_errors: Counter,
    pub receive_errors: Counter,
    /// Datagrams of no session, and those a session had no room for.
    pub datagrams_unknown: Counter,
    pub datagrams_dropped: Counter,
}

/// Why a stream is not offered over WebRTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum WhyNot {
    #[error("the stream has no picture yet: try again in a moment")]
    NoPicture,
    #[error("the stream is {} and browsers take H.264 over WebRTC: use the MSE or HLS view", .0.name())]
    Codec(VideoCodec),
    #[error(
        "the stream has B-frames, which WebRTC does not carry: use the MSE or HLS view, or publish without them"
    )]
    BFrames,
}

/// Whether `stream` can be sent over WebRTC as it is, and what as.
pub(super) fn fit(stream: &Stream) -> Result<Arc<VideoParams>, WhyNot> {
    let params = stream.summary().params.ok_or(WhyNot::NoPicture)?;
    if params.codec != VideoCodec::H264 {
        return Err(WhyNot::Codec(params.codec));
    }
    if stream.ring.has_b_frames() {
        return Err(WhyNot::BFrames);
    }
    Ok(params)
}

pub(super) fn routes() -> OpenApiRouter<Arc<Door>> {
    OpenApiRouter::new().routes(routes!(open_whep)).routes(routes!(trickle_whep, close_whep))
}

pub(super) const OFFER: &str = "application/sdp";
const FRAGMENT: &str = "application/trickle-ice-sdpfrag";

/// Live video over WebRTC (WHEP): an SDP offer is answered, and the session begins.
#[utoipa::path(post, path = "/whep/{stream}", tag = "video", params(("stream" = String, Path)),
    request_body(content = String, content_type = "application/sdp"),
    responses(
        (status = 201, description = "The answer; Location is the session", body = String, content_type = "application/sdp"),
        (status = "4XX", description = "Refused, a bad offer, no such stream, or one that WebRTC cannot carry", body = ErrorBody),
        (status = 503, description = "Too many viewers", body = ErrorBody)))]
async fn open_whep(
    State(door): State<Arc<Door>>,
    visitor: Visitor,
    Extension(Local(asked)): Extension<Local>,
    Path(name): Path<String>,
    headers: HeaderMap,
    body: Result<String, StringRejection>,
) -> Result<Created, ApiError> {
    let id = StreamId::new(&name)?;
    visitor.may(&door, Right::Read, Some(&id))?;
    let webrtc = webrtc(&door)?;
    let offer = text(OFFER, &headers, body)?;
    let stream = door.ctx.streams.get(&id).ok_or_else(|| ApiError::no_stream(&id))?;
    let opened = webrtc.open(&stream, &offer, asked, &door.stop)?;
    Ok(created("whep", &id, &visitor, opened))
}

/// Trickled candidates are read and not needed: an ICE-lite server answers wherever the viewer's checks come from.
#[utoipa::path(patch, path = "/whep/{stream}/{id}", tag = "video", params(("stream" = String, Path), ("id" = String, Path)),
    request_body(content = String, content_type = "application/trickle-ice-sdpfrag"),
    responses(
        (status = 204, description = "Read"),
        (status = "4XX", description = "Refused, or no such session", body = ErrorBody)))]
async fn trickle_whep(
    State(door): State<Arc<Door>>,
    visitor: Visitor,
    Path(named): Path<(String, String)>,
    headers: HeaderMap,
    body: Result<String, StringRejection>,
) -> Result<StatusCode, ApiError> {
    trickled(&door, &visitor, Right::Read, named, &headers, body)
}

/// Ends a session.
#[utoipa::path(delete, path = "/whep/{stream}/{id}", tag = "video", params(("stream" = String, Path), ("id" = String, Path)),
    responses(
        (status = 200, description = "It is over"),
        (status = "4XX", description = "Refused, or no such session", body = ErrorBody)))]
async fn close_whep(
    State(door): State<Arc<Door>>,
    visitor: Visitor,
    Path(named): Path<(String, String)>,
) -> Result<StatusCode, ApiError> {
    closed(&door, &visitor, Right::Read, named)
}

/// What the sender of an offer is answered.
pub(super) type Created = (StatusCode, [(header::HeaderName, String); 5], String);

/// The answer to an offer, for a session at `/<way>/<stream>/<id>`.
pub(super) fn created(way: &str, stream: &StreamId, visitor: &Visitor, opened: Opened) -> Created {
    let mut location = format!("/{way}/{stream}/{}", opened.id);
    // Some clients send nothing with a DELETE but the address they were given.
    if let Some(token) = visitor.token() {
        let token = form_urlencoded::byte_serialize(token.as_bytes());
        location.extend(["?token="].into_iter().chain(token));
    }
    let headers = [
        (header::LOCATION, location),
        (header::CONTENT_TYPE, OFFER.into()),
        (header::ETAG, format!("\"{}\"", opened.id)),
        (header::HeaderName::from_static("accept-patch"), FRAGMENT.into()),
        (header::CACHE_CONTROL, "no-store".into()),
    ];
    (StatusCode::CREATED, headers, opened.answer)
}

/// Reads a fragment with candidates for the session of that stream and name.
pub(super) fn trickled(
    door: &Door,
    visitor: &Visitor,
    right: Right,
    (stream, session): (String, String),
    headers: &HeaderMap,
    body: Result<String, StringRejection>,
) -> Result<StatusCode, ApiError> {
    let stream = StreamId::new(&stream)?;
    visitor.may(door, right, Some(&stream))?;
    let fragment = text(FRAGMENT, headers, body)?;
    let ufrag = webrtc(door)?.remote_ufrag(&session, &stream).ok_or_else(no_session)?;
    match attribute(&fragment, "ice-ufrag") {
        Some(other) if other != ufrag => Err(ApiError::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            "ice_restart",
            "a session's ICE is not restarted: DELETE it and POST a new offer",
        )),
        _ => Ok(StatusCode::NO_CONTENT),
    }
}

/// Ends the session of that stream and name.
pub(super) fn closed(
    door: &Door,
    visitor: &Visitor,
    right: Right,
    (stream, session): (String, String),
) -> Result<StatusCode, ApiError> {
    let stream = StreamId::new(&stream)?;
    visitor.may(door, right, Some(&stream))?;
    let closed = webrtc(door)?.close(&session, &stream);
    if closed { Ok(StatusCode::OK) } else { Err(no_session()) }
}

pub(super) fn webrtc(door: &Door) -> Result<&Webrtc, ApiError> {
    let off = || {
        let message = "WebRTC is switched off: use the MSE or HLS view, or set web.webrtc";
        ApiError::new(StatusCode::NOT_FOUND, "webrtc_off", message)
    };
    door.ctx.webrtc.as_deref().ok_or_else(off)
}

fn no_session() -> ApiError {
    ApiError::new(StatusCode::NOT_FOUND, "no_session", "there is no such session: POST a new offer")
}

/// The body, if it is of `kind`.
pub(super) fn text(
    kind: &'static str,
    headers: &HeaderMap,
    body: Result<String, StringRejection>,
) -> Result<String, ApiError> {
    let given = headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let given = given.split(';').next().unwrap_or_default().trim();
    if !given.eq_ignore_ascii_case(kind) {
        let message = format!("send a body of type {kind}");
        return Err(ApiError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "content_type", message));
    }
    body.map_err(|rejection| ApiError::new(rejection.status(), "bad_body", rejection.body_text()))
}

impl From<Refused> for ApiError {
    fn from(refused: Refused) -> Self {
        let (status, code) = match &refused {
            Refused::Stream(WhyNot::NoPicture) => (StatusCode::CONFLICT, "no_picture"),
            Refused::Stream(WhyNot::BFrames) => (StatusCode::NOT_ACCEPTABLE, "b_frames"),
            Refused::Stream(WhyNot::Codec(_))
            | Refused::Offer(Unfit::NoH264 | Unfit::SendsNoH264) => {
                (StatusCode::NOT_ACCEPTABLE, "codec")
            }
            Refused::Offer(Unfit::BadSdp(_)) => (StatusCode::BAD_REQUEST, "bad_sdp"),
            Refused::Busy(_) | Refused::BusyPublishers(_) => {
                (StatusCode::SERVICE_UNAVAILABLE, "busy")
            }
            Refused::NoSocket => (StatusCode::SERVICE_UNAVAILABLE, "no_socket"),
        };
        Self::new(status, code, refused.to_string())
    }
}
