//! The privacy pause, asked for and told.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::extract::rejection::JsonRejection;
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::auth::Right;
use crate::pause::Pausing;
use crate::web::Door;
use crate::web::error::{ApiError, ErrorBody};
use crate::web::visitor::Visitor;
use crate::wire::PauseInfo;

pub(super) fn routes() -> OpenApiRouter<Arc<Door>> {
    OpenApiRouter::new().routes(routes!(read_pause, change_pause))
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct PauseWish {
    /// Left out: nothing changes, and the answer says whether it might.
    paused: Option<bool>,
}

#[derive(Debug, Serialize, ToSchema)]
struct PauseState {
    paused: bool,
    /// UTC; left out while it is not paused.
    #[serde(skip_serializing_if = "Option::is_none")]
    since: Option<String>,
    /// "button", "http" or "mqtt"; left out while it is not paused.
    #[serde(skip_serializing_if = "Option::is_none")]
    by: Option<String>,
}

/// Whether nothing is seen or recorded now, since when and by whom.
#[utoipa::path(get, path = "/api/v1/pause", tag = "node", responses(
    (status = 200, description = "How it stands", body = PauseState),
    (status = "4XX", description = "Refused", body = ErrorBody)))]
async fn read_pause(
    State(door): State<Arc<Door>>,
    visitor: Visitor,
) -> Result<Json<PauseState>, ApiError> {
    visitor.may(&door, Right::Read, None)?;
    Ok(answer(&door))
}

/// Begins or ends the pause: publishers are sent away, cameras closed, nothing is recorded.
#[utoipa::path(put, path = "/api/v1/pause", tag = "node", request_body = PauseWish, responses(
    (status = 200, description = "How it stands now", body = PauseState),
    (status = "4XX", description = "Refused", body = ErrorBody),
    (status = 507, description = "In force, but not written down", body = ErrorBody)))]
async fn change_pause(
    State(door): State<Arc<Door>>,
    visitor: Visitor,
    body: Result<Json<PauseWish>, JsonRejection>,
) -> Result<Json<PauseState>, ApiError> {
    visitor.may(&door, Right::Admin, None)?;
    let Json(wish) = body.map_err(|e| ApiError::bad_json(&e, r#"{"paused":true}"#))?;
    if let Some(paused) = wish.paused {
        let to = if paused { Pausing::Paused } else { Pausing::Running };
        let pause = Arc::clone(&door.ctx.pause);
        // A small file is written: not where sockets are served.
        let set = tokio::task::spawn_blocking(move || pause.set(to, "http")).await;
        set.map_err(|_| ApiError::starting())?.map_err(|error| {
            ApiError::new(StatusCode::INSUFFICIENT_STORAGE, "not_written", error.to_string())
        })?;
    }
    Ok(answer(&door))
}

fn answer(door: &Door) -> Json<PauseState> {
    let info = door.ctx.pause.watch().borrow().clone().map(PauseInfo::from);
    let paused = info.is_some();
    let (since, by) = info.map(|i| (i.since, i.by)).unzip();
    Json(PauseState { paused, since, by })
}
