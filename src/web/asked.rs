//! What a request asks for, read with refusals in our own form: a path's stream, a query's values.

use axum::extract::rejection::QueryRejection;
use axum::extract::{FromRequestParts, Path, Query};
use axum::http::Uri;
use axum::http::request::Parts;
use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Deserializer};
use url::form_urlencoded;

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

/// A query as `T`. The token, which any request may carry, is not part of it.
pub(super) struct Asked<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Asked<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        let query = parts.uri.query().unwrap_or_default();
        let asked = form_urlencoded::parse(query.as_bytes()).filter(|(key, _)| key != "token");
        let asked = form_urlencoded::Serializer::new(String::new()).extend_pairs(asked).finish();
        let bad = |message: String| ApiError::bad_request("bad_query", message);
        let uri: Uri = format!("/?{asked}").parse().map_err(|e| bad(format!("{e}")))?;
        let query = Query::try_from_uri(&uri).map_err(|e: QueryRejection| bad(e.body_text()))?;
        Ok(Self(query.0))
    }
}

/// Seconds since 1970, if given. "nan" and "inf" are numbers to a parser and no times.
pub(super) fn time<'de, D: Deserializer<'de>>(d: D) -> Result<Option<f64>, D::Error> {
    let given = Option::<f64>::deserialize(d)?;
    if let Some(seconds) = given.filter(|s| !s.is_finite()) {
        return Err(D::Error::custom(format!("{seconds} is no time: give seconds since 1970")));
    }
    Ok(given)
}
