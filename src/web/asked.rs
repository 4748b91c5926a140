//! What a request asks for, read with refusals in our own form: a path's stream, a query's values.

use axum::extract::rejection::QueryRejection;
use axum::extract::{FromRequestParts, Path, Query};
use axum::http::request::Parts;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::error::ApiError;
use crate::media::StreamId;

/// The `{stream}` of a path.
pub(super) struct OfStream(pub(super) StreamId);

#[derive(Deserialize)]
struct InPath {
    stream: String,
}

impl<S: Send + Sync> FromRequestParts<S> for OfStream {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let named = Path::<InPath>::from_request_parts(parts, state).await;
        let Path(named) = named.map_err(|e| ApiError::bad_request("bad_path", e.body_text()))?;
        Ok(Self(StreamId::new(&named.stream)?))
    }
}

/// A query as `T`.
pub(super) struct Asked<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Asked<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let query = Query::<T>::from_request_parts(parts, state).await;
        let bad = |e: QueryRejection| ApiError::bad_request("bad_query", e.body_text());
        query.map(|Query(asked)| Self(asked)).map_err(bad)
    }
}
