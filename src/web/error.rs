//! A refusal as every HTTP client gets it: a status and `{"error":{"code":..,"message":..}}`.

use axum::Json;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

use crate::auth::Denied;
use crate::media::unit::BadStreamName;

/// Why a request was not served.
#[derive(Debug, Clone)]
pub(super) struct ApiError {
    status: StatusCode,
    code: &'static str,
    message: String,
}

/// The body of every refusal.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ErrorBody {
    error: ErrorText,
}

#[derive(Debug, Serialize, ToSchema)]
struct ErrorText {
    /// For programs: stays the same from version to version.
    code: &'static str,
    /// For people: names the thing and the remedy.
    message: String,
}

impl ApiError {
    pub(super) fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self { status, code, message: message.into() }
    }

    pub(super) fn bad_request(code: &'static str, message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, code, message)
    }

    pub(super) fn no_stream(name: &str) -> Self {
        let message =
            format!("there is no stream {name} now: publish it, or look at /api/v1/streams");
        Self::new(StatusCode::NOT_FOUND, "no_stream", message)
    }

    pub(super) fn unavailable(code: &'static str, message: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, code, message)
    }
}

impl From<Denied> for ApiError {
    fn from(denied: Denied) -> Self {
        let (status, code) = match &denied {
            Denied::NoToken => (StatusCode::UNAUTHORIZED, "no_token"),
            Denied::BadToken => (StatusCode::UNAUTHORIZED, "bad_token"),
            Denied::NotAllowed { .. } => (StatusCode::FORBIDDEN, "not_allowed"),
        };
        Self::new(status, code, denied.to_string())
    }
}

impl From<BadStreamName> for ApiError {
    fn from(bad: BadStreamName) -> Self {
        Self::bad_request("bad_stream_name", bad.to_string())
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let body = ErrorBody { error: ErrorText { code: self.code, message: self.message } };
        let mut response = (self.status, Json(body)).into_response();
        if self.status == StatusCode::UNAUTHORIZED {
            let how = header::HeaderValue::from_static("Bearer");
            response.headers_mut().insert(header::WWW_AUTHENTICATE, how);
        }
        response
    }
}
