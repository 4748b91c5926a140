//! `/whip/<stream>`: publishing over WebRTC, asked for by HTTP (RFC 9725). Here offers are judged and answered; the sessions
//! themselves are beside those of viewers, in `whep/`.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::rejection::StringRejection;
use axum::extract::{Extension, Path, State};
use axum::http::{HeaderMap, StatusCode};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::Door;
use super::error::{ApiError, ErrorBody};
use super::visitor::{Local, Visitor};
use super::whep::{Created, OFFER, WayIn, closed, created, text, trickled, webrtc};
use crate::auth::Right;
use crate::ingest::entry::Refused;
use crate::media::StreamId;
use crate::media::stream::ClaimError;

pub(super) fn routes() -> OpenApiRouter<Arc<Door>> {
    OpenApiRouter::new().routes(routes!(open_whip)).routes(routes!(trickle_whip, close_whip))
}

/// Publishes H.264 over WebRTC (WHIP): an SDP offer is answered, and the stream begins when the connection is there.
#[utoipa::path(post, path = "/whip/{stream}", tag = "video", params(("stream" = String, Path)),
    request_body(content = String, content_type = "application/sdp"),
    responses(
        (status = 201, description = "The answer; Location is the session", body = String, content_type = "application/sdp"),
        (status = "4XX", description = "Refused, a bad offer, or the stream has a publisher", body = ErrorBody),
        (status = 503, description = "Too many publishers, or paused", body = ErrorBody)))]
async fn open_whip(
    State(door): State<Arc<Door>>,
    visitor: Visitor,
    Extension(Local(asked)): Extension<Local>,
    Path(name): Path<String>,
    headers: HeaderMap,
    body: Result<String, StringRejection>,
) -> Result<Created, ApiError> {
    let entry = door.ctx.entry.clone();
    let id = StreamId::new(&name).inspect_err(|_| entry.counters.refused_name.inc())?;
    let asker = visitor.asker();
    // Before anything else is said, and again when the connection is there.
    entry.look(&asker.caller(), &id).inspect_err(|why| {
        entry.count(why);
        tracing::info!(protocol = "whip", stream = %id, peer = %asker.peer, %why, "refused");
    })?;
    let webrtc = webrtc(&door)?;
    let offer = text(OFFER, &headers, body)?;
    let idle = Duration::from_secs(door.ctx.ingest.idle_timeout_s);
    let way_in = WayIn { entry, asker, idle };
    let opened = webrtc.open_publisher(&id, &offer, asked, way_in, &door.stop)?;
    Ok(created("whip", &id, &visitor, opened))
}

/// Trickled candidates are read and not needed: an ICE-lite server answers wherever the publisher's checks come from.
#[utoipa::path(patch, path = "/whip/{stream}/{id}", tag = "video", params(("stream" = String, Path), ("id" = String, Path)),
    request_body(content = String, content_type = "application/trickle-ice-sdpfrag"),
    responses(
        (status = 204, description = "Read"),
        (status = "4XX", description = "Refused, or no such session", body = ErrorBody)))]
async fn trickle_whip(
    State(door): State<Arc<Door>>,
    visitor: Visitor,
    Path(named): Path<(String, String)>,
    headers: HeaderMap,
    body: Result<String, StringRejection>,
) -> Result<StatusCode, ApiError> {
    trickled(&door, &visitor, Right::Publish, named, &headers, body)
}

/// Ends a session, and with it the publication.
#[utoipa::path(delete, path = "/whip/{stream}/{id}", tag = "video", params(("stream" = String, Path), ("id" = String, Path)),
    responses(
        (status = 200, description = "It is over"),
        (status = "4XX", description = "Refused, or no such session", body = ErrorBody)))]
async fn close_whip(
    State(door): State<Arc<Door>>,
    visitor: Visitor,
    Path(named): Path<(String, String)>,
) -> Result<StatusCode, ApiError> {
    closed(&door, &visitor, Right::Publish, named)
}

impl From<Refused> for ApiError {
    fn from(refused: Refused) -> Self {
        let (status, code) = match &refused {
            Refused::Denied(denied) => return denied.clone().into(),
            Refused::Claim(ClaimError::Taken(_)) => (StatusCode::CONFLICT, "taken"),
            Refused::Claim(ClaimError::TooMany(_)) => (StatusCode::SERVICE_UNAVAILABLE, "busy"),
            Refused::Claim(ClaimError::Paused) => (StatusCode::SERVICE_UNAVAILABLE, "paused"),
        };
        Self::new(status, code, refused.to_string())
    }
}
