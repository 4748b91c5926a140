//! A refusal as every HTTP client gets it: a status and `{"error":{"code":..,"message":..}}`.

use axum::Json;
use axum::extract::rejection::JsonRejection;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

use crate::auth::Denied;
use crate::media::StreamId;
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

    /// A body that is no JSON, or not what is asked for; `like` is one that is.
    pub(super) fn bad_json(rejection: &JsonRejection, like: &str) -> Self {
        let said = rejection.body_text();
        let why = match rejection {
            // Its words are about this program, not about the body.
            JsonRejection::JsonDataError(_) => said.split_once(": ").map_or(&*said, |(_, why)| why),
            _ => &said,
        };
        Self::bad_request("bad_body", format!("{why}: send JSON like {like}"))
    }

    pub(super) fn not_found(code: &'static str, message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, code, message)
    }

    pub(super) fn no_stream(id: &StreamId) -> Self {
        let message = format!("there is no stream {id} now: publish it, or see /api/v1/streams");
        Self::not_found("no_stream", message)
    }

    pub(super) fn unavailable(code: &'static str, message: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, code, message)
    }

    /// In the first moments, before every stage said what it is.
    pub(super) fn starting() -> Self {
        Self::unavailable("starting", "spotter is starting: ask again")
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
