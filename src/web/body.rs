//! Requests' bodies, read whole within a size and a time before anyone looks at them: a sender that stops half-way would keep
//! its connection's place for ever. An update's bundle is too large for that, and read by its own handler.

use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, HttpBody as _, to_bytes};
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::Door;
use super::api::BUNDLE;
use super::error::ApiError;

/// As long as a head may take.
const TIMEOUT: Duration = super::HEAD_TIMEOUT;

pub(super) async fn whole(State(door): State<Arc<Door>>, request: Request, next: Next) -> Response {
    if request.body().is_end_stream() || request.uri().path() == BUNDLE {
        return next.run(request).await;
    }
    let (head, body) = request.into_parts();
    let max = door.ctx.config.max_body_bytes;
    let body = match tokio::time::timeout(TIMEOUT, to_bytes(body, max)).await {
        Ok(Ok(body)) => body,
        Ok(Err(_)) => {
            let message =
                format!("the body is over {max} bytes, or broken: web.max_body_bytes is the limit");
            return ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, "too_long", message)
                .into_response();
        }
        Err(_) => {
            let message =
                format!("the body was not here within {} s: send it again", TIMEOUT.as_secs());
            return ApiError::new(StatusCode::REQUEST_TIMEOUT, "cut_short", message)
                .into_response();
        }
    };
    next.run(Request::from_parts(head, Body::from(body))).await
}
