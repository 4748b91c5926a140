//! `/api/v1`: what the node and its streams are.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::header;
use axum::response::IntoResponse;
use axum::routing::get;

use super::Door;
use super::error::ApiError;
use super::visitor::Visitor;
use crate::auth::Right;
use crate::wire;

pub(super) fn routes() -> Router<Arc<Door>> {
    Router::new().route("/api/v1/status", get(status))
}

async fn status(
    State(door): State<Arc<Door>>,
    visitor: Visitor,
) -> Result<impl IntoResponse, ApiError> {
    visitor.may(&door, Right::Read, None)?;
    let status = door.ctx.status.borrow().clone();
    let status = status.ok_or_else(|| ApiError::unavailable("starting", "spotter is starting"))?;
    let body = wire::node_status(&door.ctx.node, &status);
    Ok(([(header::CONTENT_TYPE, "application/json")], body))
}
