//! What of a stream can be switched while it runs.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::extract::rejection::JsonRejection;
use axum::http::StatusCode;
use serde::Deserialize;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::auth::Right;
use crate::config::RecordMode;
use crate::control::{ControlError, Setting, Settings};
use crate::web::Door;
use crate::web::asked::OfStream;
use crate::web::error::{ApiError, ErrorBody};
use crate::web::off::off;
use crate::web::visitor::Visitor;

pub(super) fn routes() -> OpenApiRouter<Arc<Door>> {
    OpenApiRouter::new().routes(routes!(read, change, forget))
}

/// What is to change; what is left out stays.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Change {
    detect: Option<bool>,
    recordings: Option<RecordMode>,
    /// 0.01 to 0.99.
    #[schema(minimum = 0.01, maximum = 0.99)]
    threshold: Option<f32>,
}

/// What is in force for a stream.
#[utoipa::path(get, path = "/api/v1/streams/{stream}/settings", tag = "streams",
    params(("stream" = String, Path, description = "The stream's name")),
    responses(
        (status = 200, description = "The settings", body = Settings),
        (status = "4XX", description = "Refused", body = ErrorBody)))]
async fn read(
    State(door): State<Arc<Door>>,
    visitor: Visitor,
    OfStream(id): OfStream,
) -> Result<Json<Settings>, ApiError> {
    visitor.may(&door, Right::Read, Some(&id))?;
    if !door.ctx.control.known().borrow().contains(&id) {
        return Err(ControlError::NoStream(id).into());
    }
    Ok(Json(door.ctx.control.of(&id)))
}

/// Switches settings of a stream; they outlast a restart.
#[utoipa::path(put, path = "/api/v1/streams/{stream}/settings", tag = "streams",
    params(("stream" = String, Path, description = "The stream's name")),
    request_body = Change,
    responses(
        (status = 200, description = "What is in force now", body = Settings),
        (status = "4XX", description = "Refused", body = ErrorBody),
        (status = 507, description = "In force, but not written down", body = ErrorBody)))]
async fn change(
    State(door): State<Arc<Door>>,
    visitor: Visitor,
    OfStream(id): OfStream,
    body: Result<Json<Change>, JsonRejection>,
) -> Result<Json<Settings>, ApiError> {
    visitor.may(&door, Right::Admin, Some(&id))?;
    let Json(change) = body.map_err(|e| {
        ApiError::bad_json(&e, r#"{"detect":true,"recordings":"events","threshold":0.5}"#)
    })?;
    let settings: Vec<Setting> = [
        change.detect.map(Setting::Detect),
        change.recordings.map(Setting::Recordings),
        change.threshold.map(Setting::Threshold),
    ]
    .into_iter()
    .flatten()
    .collect();
    let control = Arc::clone(&door.ctx.control);
    off(move || control.set_all(&id, &settings)).await.map(Json)
}

/// Forgets a stream that is not in the configuration: what was switched of it, and its entities in Home Assistant.
#[utoipa::path(delete, path = "/api/v1/streams/{stream}/settings", tag = "streams",
    params(("stream" = String, Path, description = "The stream's name")),
    responses(
        (status = 204, description = "Forgotten; if it is being published it comes back"),
        (status = "4XX", description = "Refused", body = ErrorBody),
        (status = 507, description = "Forgotten, but not written down", body = ErrorBody)))]
async fn forget(
    State(door): State<Arc<Door>>,
    visitor: Visitor,
    OfStream(id): OfStream,
) -> Result<StatusCode, ApiError> {
    visitor.may(&door, Right::Admin, Some(&id))?;
    let control = Arc::clone(&door.ctx.control);
    off(move || control.forget(&id)).await.map(|()| StatusCode::NO_CONTENT)
}

impl From<ControlError> for ApiError {
    fn from(error: ControlError) -> Self {
        let (status, code) = match &error {
            ControlError::Threshold(_) => (StatusCode::BAD_REQUEST, "bad_threshold"),
            ControlError::NoStream(_) => (StatusCode::NOT_FOUND, "no_stream"),
            ControlError::Configured(_) => (StatusCode::CONFLICT, "configured"),
            ControlError::Write { .. } => (StatusCode::INSUFFICIENT_STORAGE, "not_written"),
        };
        Self::new(status, code, error.to_string())
    }
}
