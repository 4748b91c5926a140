//! What is recorded: the files by stream and time, and any part of a stream's recordings as one MP4.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::HeaderMap;
use axum::response::Response;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::auth::Right;
use crate::media::StreamId;
use crate::record::export::{Export, Source};
use crate::store::Segment;
use crate::web::Door;
use crate::web::asked::{self, Asked};
use crate::web::error::{ApiError, ErrorBody};
use crate::web::file;
use crate::web::visitor::Visitor;

pub(super) fn routes() -> OpenApiRouter<Arc<Door>> {
    OpenApiRouter::new().routes(routes!(list_recordings)).routes(routes!(recording))
}

const DEFAULT_LIMIT: usize = 1000;
const MAX_LIMIT: usize = 10_000;
/// What one export may span, seconds.
const MAX_SPAN_S: f64 = 86_400.0;

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
struct ListQuery {
    /// Only this stream's.
    stream: Option<String>,
    /// Only what reaches into the time between these seconds since 1970.
    #[serde(default, deserialize_with = "asked::time")]
    after: Option<f64>,
    #[serde(default, deserialize_with = "asked::time")]
    before: Option<f64>,
    /// The newest so many, 1 to 10000; left out: 1000.
    #[param(minimum = 1, maximum = 10000)]
    limit: Option<usize>,
}

#[derive(Debug, Serialize, ToSchema)]
struct RecordingList {
    /// Oldest first.
    recordings: Vec<RecordingView>,
}

/// One recorded file.
#[derive(Debug, Serialize, ToSchema)]
struct RecordingView {
    stream: String,
    /// Seconds since 1970.
    start_time: f64,
    end_time: f64,
    /// Milliseconds on the stream's own line.
    start_pts_ms: i64,
    end_pts_ms: i64,
    bytes: u64,
    /// Recorded whether an animal was there or not.
    continuous: bool,
    /// What came right before it is missing, or there was nothing.
    gap: bool,
    /// It is being written.
    open: bool,
    /// Files of the same codec parameters, which an export can join.
    init: String,
    time_synced: bool,
    /// This part of the recordings as MP4.
    url: String,
}

impl From<Segment> for RecordingView {
    fn from(s: Segment) -> Self {
        let seconds = |us: i64| (us / 1000) as f64 / 1000.0;
        // To the microsecond: the file's neighbours have nothing in it.
        let exact = |us: i64| format!("{}.{:06}", us / 1_000_000, us % 1_000_000);
        let url = format!(
            "/api/v1/recordings/{}.mp4?after={}&before={}",
            s.stream,
            exact(s.start_us),
            exact(s.end_us)
        );
        Self {
            start_time: seconds(s.start_us),
            end_time: seconds(s.end_us),
            start_pts_ms: s.start_media_us.div_euclid(1000),
            end_pts_ms: s.end_media_us.div_euclid(1000),
            bytes: s.bytes,
            continuous: s.continuous,
            gap: s.gap,
            open: s.open,
            init: s.init_hash,
            time_synced: s.time_synced,
            stream: s.stream,
            url,
        }
    }
}

/// What is recorded.
#[utoipa::path(get, path = "/api/v1/recordings", tag = "recordings", params(ListQuery), responses(
    (status = 200, description = "The recorded files", body = RecordingList),
    (status = "4XX", description = "Refused", body = ErrorBody),
    (status = 503, description = "There is no database now", body = ErrorBody)))]
async fn list_recordings(
    State(door): State<Arc<Door>>,
    visitor: Visitor,
    Asked(asked): Asked<ListQuery>,
) -> Result<Json<RecordingList>, ApiError> {
    let stream = asked.stream.as_deref().map(StreamId::new).transpose()?;
    visitor.may(&door, Right::Read, stream.as_ref())?;
    let limit = asked.limit.unwrap_or(DEFAULT_LIMIT);
    if !(1..=MAX_LIMIT).contains(&limit) {
        let message = format!("limit {limit} is out of range, give 1 to {MAX_LIMIT}");
        return Err(ApiError::bad_request("bad_query", message));
    }
    let (from, to) = (asked.after.map_or(0, us), asked.before.map_or(i64::MAX, us));
    let found = door.ctx.store.segments(stream, from, to, limit).await?;
    Ok(Json(RecordingList { recordings: found.into_iter().map(RecordingView::from).collect() }))
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
struct RangeQuery {
    /// From and to, seconds since 1970; at most a day.
    after: f64,
    before: f64,
}

/// A part of a stream's recordings as one MP4: from the last key frame before its beginning on. What is missing within is
/// closed up. Where the codec's parameters change it ends, and X-Cut-Time says from when to ask again.
#[utoipa::path(get, path = "/api/v1/recordings/{file}", tag = "recordings",
    params(("file" = String, Path, description = "The stream's name and .mp4", pattern = "^[A-Za-z0-9_-]{1,64}\\.mp4$"), RangeQuery),
    responses(
        (status = 200, description = "MP4; X-Start-Time and X-End-Time say what it shows", body = Vec<u8>, content_type = "video/mp4"),
        (status = 206, description = "The part that `Range` asked for", body = Vec<u8>, content_type = "video/mp4"),
        (status = "4XX", description = "Refused, or nothing recorded then", body = ErrorBody),
        (status = 503, description = "There is no database now", body = ErrorBody)))]
async fn recording(
    State(door): State<Arc<Door>>,
    name: Result<Path<String>, axum::extract::rejection::PathRejection>,
    visitor: Visitor,
    headers: HeaderMap,
    Asked(query): Asked<RangeQuery>,
) -> Result<Response, ApiError> {
    let Path(name) = name.map_err(|e| ApiError::bad_request("bad_path", e.body_text()))?;
    let id = StreamId::new(name.strip_suffix(".mp4").unwrap_or(&name))?;
    visitor.may(&door, Right::Read, Some(&id))?;
    let span = query.before - query.after;
    if !(span > 0.0 && span <= MAX_SPAN_S) {
        let message = format!(
            "after={} to before={} is no time of more than none and at most a day",
            query.after, query.before
        );
        return Err(ApiError::bad_request("bad_query", message));
    }
    let export = export(&door, &id, us(query.after), us(query.before)).await?;
    let export = export.ok_or_else(|| {
        let message = format!("nothing of stream {id} is recorded then: see /api/v1/recordings");
        ApiError::not_found("no_recording", message)
    })?;
    Ok(file::mp4(export, &headers, &format!("{id}-{}.mp4", query.after)))
}

/// Plans an export of a time in microseconds since 1970; none: nothing is recorded of it.
pub(super) async fn export(
    door: &Door,
    stream: &StreamId,
    from_us: i64,
    to_us: i64,
) -> Result<Option<Export>, ApiError> {
    let store = &door.ctx.store;
    let found = store.segments(Some(stream.clone()), from_us, to_us, MAX_LIMIT).await?;
    let sources: Vec<_> =
        found.iter().map(|s| Source { path: store.file(s), wall_us: s.start_us }).collect();
    let plan = tokio::task::spawn_blocking(move || Export::plan(&sources, from_us, to_us));
    plan.await.map_err(|_| ApiError::unavailable("no_storage", "the recordings cannot be read"))
}

/// Seconds as microseconds; what is out of range becomes the nearest there is.
pub(super) fn us(seconds: f64) -> i64 {
    (seconds * 1e6).round() as i64
}
