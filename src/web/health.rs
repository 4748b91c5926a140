//! `/healthz` and `/readyz`, for service managers and monitors. Open to all: they say no more than up or not.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::Door;
use crate::health;

pub(super) fn routes() -> OpenApiRouter<Arc<Door>> {
    OpenApiRouter::new().routes(routes!(healthz)).routes(routes!(readyz))
}

/// Whether spotter runs and answers.
#[utoipa::path(get, path = "/healthz", tag = "health", security(()), responses((status = 200, description = "It does", body = str)))]
async fn healthz() -> &'static str {
    "ok\n"
}

#[derive(Debug, Serialize, ToSchema)]
struct Ready {
    ready: bool,
    /// What is missing; empty when ready.
    missing: Vec<String>,
}

/// Whether a published stream would be detected: the detector passed its self-test and does not hang.
#[utoipa::path(get, path = "/readyz", tag = "health", security(()), responses(
    (status = 200, description = "Ready", body = Ready),
    (status = 503, description = "Not ready, and why", body = Ready)))]
async fn readyz(State(door): State<Arc<Door>>) -> (StatusCode, Json<Ready>) {
    let missing = health::missing(door.ctx.status.borrow().as_deref());
    let code = if missing.is_empty() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (code, Json(Ready { ready: missing.is_empty(), missing }))
}
