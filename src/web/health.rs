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

/// Whether a published stream would be detected: the detector is open and the configuration in force is the file's.
#[utoipa::path(get, path = "/readyz", tag = "health", security(()), responses(
    (status = 200, description = "Ready", body = Ready),
    (status = 503, description = "Not ready, and why", body = Ready)))]
async fn readyz(State(door): State<Arc<Door>>) -> (StatusCode, Json<Ready>) {
    let status = door.ctx.status.borrow().clone();
    let missing: Vec<String> = match status {
        None => vec!["spotter is starting".into()],
        Some(status) if status.detector.is_none() => vec!["no detector is open yet".into()],
        Some(status) => status.detector_error.iter().map(|e| format!("detector: {e}")).collect(),
    };
    let code = if missing.is_empty() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (code, Json(Ready { ready: missing.is_empty(), missing }))
}
