//! `/hls/<stream>/`: live video as low-latency HLS, for iOS, televisions and players. Requests for what is about to be wait
//! for it; segments and playlists are made in `live`.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use serde::Deserialize;
use utoipa::IntoParams;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::Door;
use super::error::{ApiError, ErrorBody};
use super::visitor::Visitor;
use crate::auth::Right;
use crate::live::Channel;
use crate::live::playlist::{self, File};
use crate::live::segments::{Found, Segments};
use crate::media::StreamId;

/// How long a request waits for what is to come: long enough for a first segment of an ordinary publisher.
const PATIENCE: Duration = Duration::from_secs(10);

const PLAYLIST: &str = "application/vnd.apple.mpegurl";
const MP4: &str = "video/mp4";

pub(super) fn routes() -> OpenApiRouter<Arc<Door>> {
    OpenApiRouter::new().routes(routes!(hls))
}

/// Blocking playlist reload (draft-pantos-hls-rfc8216bis 6.2.5.2).
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct Reload {
    /// Wait until this media segment is there.
    #[serde(rename = "_HLS_msn")]
    number: Option<u64>,
    /// Wait for this part of that segment.
    #[serde(rename = "_HLS_part")]
    part: Option<usize>,
}

/// Low-latency HLS: begin with `index.m3u8`, which names the rest.
#[utoipa::path(get, path = "/hls/{stream}/{file}", tag = "video",
    params(("stream" = String, Path), ("file" = String, Path, description = "`index.m3u8`, or a name from a playlist"), Reload),
    responses(
        (status = 200, description = "A playlist, or a part of the video", content(
            (String = "application/vnd.apple.mpegurl"), (Vec<u8> = "video/mp4"))),
        (status = "4XX", description = "Refused, no such stream, or no longer there", body = ErrorBody),
        (status = 503, description = "Nothing new came in time", body = ErrorBody)))]
async fn hls(
    State(door): State<Arc<Door>>,
    Path((stream, name)): Path<(String, String)>,
    visitor: Visitor,
    reload: Result<Query<Reload>, QueryRejection>,
) -> Result<Response, ApiError> {
    let id = StreamId::new(&stream)?;
    visitor.may(&door, Right::Read, Some(&id))?;
    let stream = door.ctx.streams.get(&id).ok_or_else(|| ApiError::no_stream(&id))?;
    let gone = || {
        let message = format!("{name} is not there, or no longer: read index.m3u8 again");
        ApiError::new(StatusCode::NOT_FOUND, "no_segment", message)
    };
    let file = File::parse(&name).ok_or_else(gone)?;
    let Query(reload) = reload.map_err(|e| ApiError::bad_request("bad_query", e.body_text()))?;
    door.ctx.live.counters.hls_requests.inc();
    let channel = door.ctx.live.watch(&stream);
    let token = visitor.token();
    let found = match file {
        File::Index => {
            let text = |s: &Segments| s.ready().map(|()| playlist::index(s, token));
            wait(&door, &channel, text).await?.map(|text| answer(PLAYLIST, text))
        }
        File::Media => {
            let wanted = match reload {
                Reload { number: Some(number), part } => Some((number, part)),
                Reload { number: None, part: None } => None,
                Reload { number: None, part: Some(_) } => {
                    let message = "_HLS_part needs _HLS_msn beside it";
                    return Err(ApiError::bad_request("bad_query", message));
                }
            };
            let text = |s: &Segments| {
                let there = wanted.map_or_else(|| s.ready(), |(number, part)| s.has(number, part));
                there.map(|()| playlist::media(s, token))
            };
            let text = wait(&door, &channel, text).await?;
            let Some(text) = text else {
                let message = "_HLS_msn is too far ahead: read the playlist again";
                return Err(ApiError::bad_request("bad_query", message));
            };
            Some(answer(PLAYLIST, text))
        }
        File::Init { id } => {
            let init = channel.hls(|s| s.init(id));
            init.map(|init| answer(MP4, init.segment.clone()))
        }
        File::Segment { number } => {
            let parts = wait(&door, &channel, |s| s.segment_data(number)).await?;
            parts.map(|parts| answer(MP4, parts.concat()))
        }
        File::Part { number, part } => {
            let data = wait(&door, &channel, |s| s.part_data(number, part)).await?;
            data.map(|data| answer(MP4, data))
        }
    };
    found.ok_or_else(gone)
}

/// Looks until something is found; `None` when it never will be.
async fn wait<T>(
    door: &Door,
    channel: &Channel,
    look: impl Fn(&Segments) -> Found<T>,
) -> Result<Option<T>, ApiError> {
    let mut grown = channel.hls_grown();
    let found = async {
        loop {
            match channel.hls(&look) {
                Found::Here(found) => return Some(found),
                Found::No => return None,
                Found::Soon => {}
            }
            if grown.changed().await.is_err() {
                return None;
            }
        }
    };
    tokio::select! {
        found = tokio::time::timeout(PATIENCE, found) => found.map_err(|_| {
            door.ctx.live.counters.hls_timeouts.inc();
            let message = "nothing new came in time: see whether the stream is online";
            ApiError::unavailable("no_media_yet", message)
        }),
        () = door.stop.cancelled() => {
            Err(ApiError::unavailable("stopping", "spotter is shutting down"))
        }
    }
}

fn answer(kind: &'static str, body: impl Into<Bytes>) -> Response {
    // Playlists change all the time; the rest never does, but its addresses may carry a token.
    let caching = if kind == PLAYLIST { "no-cache" } else { "private, max-age=60" };
    let headers = [(header::CONTENT_TYPE, kind), (header::CACHE_CONTROL, caching)];
    (headers, body.into()).into_response()
}
