//! What the node is and counts.

use std::sync::Arc;

use axum::extract::State;
use axum::http::header;
use axum::response::IntoResponse;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::auth::Right;
use crate::web::Door;
use crate::web::error::{ApiError, ErrorBody};
use crate::web::visitor::Visitor;
use crate::wire::{self, NodeStats, NodeStatus};

pub(super) fn routes() -> OpenApiRouter<Arc<Door>> {
    OpenApiRouter::new().routes(routes!(status)).routes(routes!(stats))
}

/// The node's status, as MQTT retains it.
#[utoipa::path(get, path = "/api/v1/status", tag = "node", responses(
    (status = 200, description = "The status", body = NodeStatus),
    (status = "4XX", description = "Refused", body = ErrorBody)))]
async fn status(
    State(door): State<Arc<Door>>,
    visitor: Visitor,
) -> Result<impl IntoResponse, ApiError> {
    visitor.may(&door, Right::Read, None)?;
    let status = door.ctx.status.borrow().clone().ok_or_else(ApiError::starting)?;
    Ok((JSON, wire::node_status(&door.ctx.node, &status)))
}

/// Everything counted; rates are over the last second.
#[utoipa::path(get, path = "/api/v1/stats", tag = "node", responses(
    (status = 200, description = "The statistics", body = NodeStats),
    (status = "4XX", description = "Refused", body = ErrorBody)))]
async fn stats(
    State(door): State<Arc<Door>>,
    visitor: Visitor,
) -> Result<impl IntoResponse, ApiError> {
    visitor.may(&door, Right::Read, None)?;
    let stats = door.now.stats().borrow().clone().ok_or_else(ApiError::starting)?;
    Ok((JSON, wire::node_stats(&door.ctx.node, &stats)))
}

const JSON: [(header::HeaderName, &str); 1] = [(header::CONTENT_TYPE, "application/json")];
