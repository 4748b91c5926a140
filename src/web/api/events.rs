//! Visits that are remembered: a list with filters, and each one's pictures and clip.

use std::sync::Arc;

use axum::Json;
use axum::extract::{FromRequestParts, Path, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize, Serializer};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::recordings;
use crate::auth::Right;
use crate::media::StreamId;
use crate::store::clock::micros;
use crate::store::{Cursor, Deletion, Query, StoreError, Stored, Which};
use crate::track::Visit;
use crate::web::Door;
use crate::web::asked::{self, Asked};
use crate::web::error::{ApiError, ErrorBody};
use crate::web::file;
use crate::web::visitor::Visitor;
use crate::wire::{self, Kept};

pub(super) fn routes() -> OpenApiRouter<Arc<Door>> {
    OpenApiRouter::new()
        .routes(routes!(list_events))
        .routes(routes!(event, delete_event))
        .routes(routes!(protect_event))
        .routes(routes!(event_snapshot))
        .routes(routes!(event_clip))
}

const DEFAULT_LIMIT: usize = 50;
const MAX_LIMIT: usize = 500;

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
struct ListQuery {
    /// Only this stream's.
    stream: Option<String>,
    /// Only of this label, as "dog".
    label: Option<String>,
    /// Only those that began later, or earlier, than so many seconds since 1970.
    #[serde(default, deserialize_with = "asked::time")]
    after: Option<f64>,
    #[serde(default, deserialize_with = "asked::time")]
    before: Option<f64>,
    /// 1 to 500; left out: 50.
    #[param(minimum = 1, maximum = 500)]
    limit: Option<usize>,
    /// `next` of the page before.
    cursor: Option<String>,
}

#[derive(Debug, Serialize, ToSchema)]
struct EventList {
    /// Newest first.
    events: Vec<EventView>,
    /// Where the list goes on; null at its end.
    next: Option<String>,
}

/// A visit, with the fields that `after` has in MQTT's events: id, camera, label, score, top_score, start_time, end_time (null
/// while it lasts), box, entered_zones, has_snapshot, has_clip and so on.
#[derive(Debug, Serialize, ToSchema)]
struct EventView {
    #[serde(flatten, serialize_with = "as_told")]
    #[schema(value_type = std::collections::BTreeMap<String, serde_json::Value>)]
    visit: (Visit, Kept),
    /// Never deleted to make room.
    protected: bool,
    /// False: the clock was not yet set when it began.
    time_synced: bool,
    /// Paths on this server; null for what is not kept.
    snapshot_url: Option<String>,
    crop_url: Option<String>,
    clip_url: Option<String>,
}

impl From<Stored> for EventView {
    fn from(s: Stored) -> Self {
        let base = format!("/api/v1/events/{}", s.visit.id);
        let picture = |end| s.kept.snapshot.then(|| format!("{base}/snapshot.jpg{end}"));
        Self {
            visit: (s.visit, s.kept),
            protected: s.protected,
            time_synced: s.time_synced,
            snapshot_url: picture(""),
            crop_url: picture("?crop=1"),
            clip_url: s.kept.clip.then(|| format!("{base}/clip.mp4")),
        }
    }
}

fn as_told<S: Serializer>((visit, kept): &(Visit, Kept), s: S) -> Result<S::Ok, S::Error> {
    wire::visit_as_told(visit, *kept, s)
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        Self::unavailable("no_storage", error.to_string())
    }
}

/// The `{id}` of a path.
struct OfEvent(String);

#[derive(Deserialize)]
struct InPath {
    id: String,
}

impl<S: Send + Sync> FromRequestParts<S> for OfEvent {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let named = Path::<InPath>::from_request_parts(parts, state).await;
        let Path(named) = named.map_err(|e| ApiError::bad_request("bad_path", e.body_text()))?;
        Ok(Self(named.id))
    }
}

/// The visits that are remembered.
#[utoipa::path(get, path = "/api/v1/events", tag = "events", params(ListQuery), responses(
    (status = 200, description = "The visits", body = EventList),
    (status = "4XX", description = "Refused", body = ErrorBody),
    (status = 503, description = "There is no database now", body = ErrorBody)))]
async fn list_events(
    State(door): State<Arc<Door>>,
    visitor: Visitor,
    Asked(asked): Asked<ListQuery>,
) -> Result<Json<EventList>, ApiError> {
    let stream = asked.stream.as_deref().map(StreamId::new).transpose()?;
    visitor.may(&door, Right::Read, stream.as_ref())?;
    let limit = asked.limit.unwrap_or(DEFAULT_LIMIT);
    if !(1..=MAX_LIMIT).contains(&limit) {
        let message = format!("limit {limit} is out of range, give 1 to {MAX_LIMIT}");
        return Err(ApiError::bad_request("bad_query", message));
    }
    let cursor = asked.cursor.as_deref().map(|text| {
        Cursor::parse(text).ok_or_else(|| {
            let message =
                "the cursor is none of ours: give `next` of the page before, or leave it out";
            ApiError::bad_request("bad_cursor", message)
        })
    });
    let query = Query {
        stream: stream.map(|id| id.to_string()),
        label: asked.label,
        after_us: asked.after.map(recordings::us),
        before_us: asked.before.map(recordings::us),
        limit,
        cursor: cursor.transpose()?,
    };
    let page = door.ctx.store.events(query).await?;
    let next = page.next.map(Cursor::text);
    Ok(Json(EventList { events: page.events.into_iter().map(EventView::from).collect(), next }))
}

/// One visit.
#[utoipa::path(get, path = "/api/v1/events/{id}", tag = "events",
    params(("id" = String, Path, description = "The visit's id")),
    responses(
        (status = 200, description = "The visit", body = EventView),
        (status = "4XX", description = "Refused, or no such visit", body = ErrorBody),
        (status = 503, description = "There is no database now", body = ErrorBody)))]
async fn event(
    State(door): State<Arc<Door>>,
    OfEvent(id): OfEvent,
    visitor: Visitor,
) -> Result<Json<EventView>, ApiError> {
    Ok(Json(find(&door, &visitor, id).await?.into()))
}

/// Deletes a visit that is over, with its pictures and what was recorded for it alone.
#[utoipa::path(delete, path = "/api/v1/events/{id}", tag = "events",
    params(("id" = String, Path, description = "The visit's id")),
    responses(
        (status = 204, description = "It is gone"),
        (status = "4XX", description = "Refused, no such visit, or it is not over", body = ErrorBody),
        (status = 503, description = "There is no database now", body = ErrorBody)))]
async fn delete_event(
    State(door): State<Arc<Door>>,
    OfEvent(id): OfEvent,
    visitor: Visitor,
) -> Result<StatusCode, ApiError> {
    visitor.may(&door, Right::Admin, None)?;
    match door.ctx.store.delete(id.clone()).await? {
        Deletion::Done => Ok(StatusCode::NO_CONTENT),
        Deletion::NotFound => Err(no_event(&id)),
        Deletion::Open => {
            let message = "the animal is still there: delete its visit when it is over";
            Err(ApiError::new(StatusCode::CONFLICT, "not_over", message))
        }
    }
}

#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Protection {
    protected: bool,
}

/// Keeps a visit, its pictures and its clip whatever becomes short, or no longer.
#[utoipa::path(put, path = "/api/v1/events/{id}/protected", tag = "events", request_body = Protection,
    params(("id" = String, Path, description = "The visit's id")),
    responses(
        (status = 200, description = "As it is now", body = Protection),
        (status = "4XX", description = "Refused, or no such visit", body = ErrorBody),
        (status = 503, description = "There is no database now", body = ErrorBody)))]
async fn protect_event(
    State(door): State<Arc<Door>>,
    OfEvent(id): OfEvent,
    visitor: Visitor,
    body: bytes::Bytes,
) -> Result<Json<Protection>, ApiError> {
    visitor.may(&door, Right::Admin, None)?;
    let wish: Protection = serde_json::from_slice(&body).map_err(|e| {
        ApiError::bad_request("bad_body", format!("{e}: give {{\"protected\":true}} or false"))
    })?;
    if !door.ctx.store.protect(id.clone(), wish.protected).await? {
        return Err(no_event(&id));
    }
    Ok(Json(wish))
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct PictureQuery {
    /// 1: the animal with a little of what is around it.
    #[serde(default)]
    #[param(minimum = 0, maximum = 1)]
    crop: u8,
}

/// The picture that shows the animal best.
#[utoipa::path(get, path = "/api/v1/events/{id}/snapshot.jpg", tag = "events",
    params(("id" = String, Path, description = "The visit's id"), PictureQuery),
    responses(
        (status = 200, description = "JPEG", body = Vec<u8>, content_type = "image/jpeg"),
        (status = "4XX", description = "Refused, or no such visit or picture", body = ErrorBody),
        (status = 503, description = "There is no database now", body = ErrorBody)))]
async fn event_snapshot(
    State(door): State<Arc<Door>>,
    OfEvent(id): OfEvent,
    visitor: Visitor,
    Asked(query): Asked<PictureQuery>,
) -> Result<Response, ApiError> {
    let which = match query.crop {
        0 => Which::Full,
        1 => Which::Crop,
        other => {
            let message = format!("crop={other} is not known: give 0 or 1");
            return Err(ApiError::bad_request("bad_query", message));
        }
    };
    let stored = find(&door, &visitor, id).await?;
    let none = || ApiError::not_found("no_picture", "no picture of this visit is kept");
    let path = door.ctx.store.picture(&stored.visit.id, which).ok_or_else(none)?;
    // Who was just told of the visit is early: its picture is being encoded.
    let mut coming = door.ctx.store.coming(&stored.visit, |kept| kept.snapshot);
    let jpeg = loop {
        match tokio::fs::read(&path).await {
            Ok(jpeg) => break jpeg,
            Err(_) if coming.more().await => {}
            Err(_) => return Err(none()),
        }
    };
    // A better one may come while the visit lasts.
    let cache = if stored.visit.end.is_some() { "private, max-age=3600" } else { "no-store" };
    let headers = [(header::CONTENT_TYPE, "image/jpeg"), (header::CACHE_CONTROL, cache)];
    Ok((headers, jpeg).into_response())
}

/// What was recorded of a visit, with the seconds before and after, as one MP4. It begins with a key frame.
#[utoipa::path(get, path = "/api/v1/events/{id}/clip.mp4", tag = "events",
    params(("id" = String, Path, description = "The visit's id")),
    responses(
        (status = 200, description = "MP4; X-Start-Time and X-End-Time say what it shows", body = Vec<u8>, content_type = "video/mp4"),
        (status = 206, description = "The part that `Range` asked for", body = Vec<u8>, content_type = "video/mp4"),
        (status = "4XX", description = "Refused, no such visit, or nothing recorded of it", body = ErrorBody),
        (status = 503, description = "There is no database now", body = ErrorBody)))]
async fn event_clip(
    State(door): State<Arc<Door>>,
    OfEvent(id): OfEvent,
    visitor: Visitor,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let visit = find(&door, &visitor, id).await?.visit;
    let (before, after) = {
        let record = &door.ctx.settings.borrow().record;
        (record.before_s, record.after_s)
    };
    let from = micros(visit.start.wall).saturating_sub(recordings::us(before));
    let end = visit.end.map_or_else(std::time::SystemTime::now, |end| end.wall);
    let to = micros(end).saturating_add(recordings::us(after));
    let mut coming = door.ctx.store.coming(&visit, |kept| kept.clip);
    let export = loop {
        match recordings::export(&door, &visit.stream, from, to).await? {
            Some(export) => break export,
            None if coming.more().await => {}
            None => {
                return Err(ApiError::not_found("no_clip", "nothing is recorded of this visit"));
            }
        }
    };
    Ok(file::mp4(export, &headers, &format!("{}-{}.mp4", visit.stream, visit.id)))
}

async fn find(door: &Door, visitor: &Visitor, id: String) -> Result<Stored, ApiError> {
    visitor.may(door, Right::Read, None)?;
    let found = door.ctx.store.event_by_id(id.clone()).await?;
    found.ok_or_else(|| no_event(&id))
}

fn no_event(id: &str) -> ApiError {
    let id: String = id.chars().take(80).collect();
    let message = format!("there is no visit {id:?}, or it is deleted: see /api/v1/events");
    ApiError::not_found("no_event", message)
}
