//! Updates of the box as a whole: what runs and how far an update is, and the wish for one.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::extract::rejection::JsonRejection;
use axum::http::header::CONTENT_LENGTH;
use axum::http::{HeaderMap, StatusCode};
use futures_util::StreamExt;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::auth::Right;
use crate::update::desk::{Older, Receipt, Refused, Wish};
use crate::update::fetch::{FetchError, Place};
use crate::update::{Status, desk::Desk};
use crate::web::Door;
use crate::web::asked::Asked;
use crate::web::error::{ApiError, ErrorBody};
use crate::web::visitor::Visitor;

pub(super) fn routes() -> OpenApiRouter<Arc<Door>> {
    OpenApiRouter::new().routes(routes!(update_status, install_update)).routes(routes!(send_bundle))
}

/// Where a bundle is sent to; it is bounded where it is written.
pub(in crate::web) const BUNDLE: &str = "/api/v1/update/bundle";

/// A sender that is silent for so long is given up.
const SILENCE: Duration = Duration::from_secs(60);

#[derive(Debug, Serialize, ToSchema)]
struct UpdateView {
    #[serde(flatten)]
    status: Status,
    /// Whether who asks may begin one.
    may_install: bool,
}

#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
struct InstallBody {
    /// Of a bundle, https:// or http://; left out: the newest that is known of.
    url: Option<String>,
    /// Whether an older version may take the place of the installed one.
    allow_downgrade: bool,
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct SendQuery {
    /// 1: an older version may take the place of the installed one.
    #[serde(default)]
    #[param(minimum = 0, maximum = 1)]
    allow_downgrade: u8,
}

/// What runs, what is newest, and how far an update is.
#[utoipa::path(get, path = "/api/v1/update", tag = "node", responses(
    (status = 200, description = "How it stands", body = UpdateView),
    (status = "4XX", description = "Refused", body = ErrorBody)))]
async fn update_status(
    State(door): State<Arc<Door>>,
    visitor: Visitor,
) -> Result<Json<UpdateView>, ApiError> {
    visitor.may(&door, Right::Read, None)?;
    Ok(Json(view(&door, &visitor)))
}

/// Begins an update from a URL, or to the newest version that is known of; the box restarts by itself when it is in.
#[utoipa::path(post, path = "/api/v1/update", tag = "node", request_body = InstallBody, responses(
    (status = 202, description = "Begun; how it goes on is at GET", body = UpdateView),
    (status = "4XX", description = "Refused", body = ErrorBody)))]
async fn install_update(
    State(door): State<Arc<Door>>,
    visitor: Visitor,
    body: Result<Json<InstallBody>, JsonRejection>,
) -> Result<(StatusCode, Json<UpdateView>), ApiError> {
    visitor.may(&door, Right::Admin, None)?;
    let Json(asked) =
        body.map_err(|e| ApiError::bad_json(&e, r#"{"url":"https://example.org/spotter.raucb"}"#))?;
    let wish = match asked.url.as_deref().map(Place::parse).transpose()? {
        None => Wish::Newest,
        Some(place @ Place::Web(_)) => Wish::From(place),
        Some(Place::File(_)) => {
            let message = "a path is none of this machine's to read for you: send the bundle in, or give https://...";
            return Err(ApiError::bad_request("bad_url", message));
        }
    };
    door.ctx.update.begin(wish, older(asked.allow_downgrade))?;
    Ok((StatusCode::ACCEPTED, Json(view(&door, &visitor))))
}

/// Installs a bundle that is sent in; the box restarts by itself when it is in.
#[utoipa::path(post, path = "/api/v1/update/bundle", tag = "node", params(SendQuery),
    request_body(content = Vec<u8>, content_type = "application/octet-stream"),
    responses(
        (status = 202, description = "It is here; how it goes on is at GET /api/v1/update", body = UpdateView),
        (status = "4XX", description = "Refused", body = ErrorBody),
        (status = 507, description = "There is no room for it", body = ErrorBody)))]
async fn send_bundle(
    State(door): State<Arc<Door>>,
    visitor: Visitor,
    headers: HeaderMap,
    Asked(query): Asked<SendQuery>,
    body: Body,
) -> Result<(StatusCode, Json<UpdateView>), ApiError> {
    visitor.may(&door, Right::Admin, None)?;
    let long = headers.get(CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse().ok());
    let desk: Arc<Desk> = Arc::clone(&door.ctx.update);
    let mut receipt = off(move || desk.receive(long).map_err(ApiError::from)).await?;
    let mut chunks = body.into_data_stream();
    loop {
        let chunk = tokio::time::timeout(SILENCE, chunks.next());
        let chunk = match chunk.await {
            Ok(None) => break,
            Ok(Some(Ok(chunk))) => chunk,
            Ok(Some(Err(_))) | Err(_) => {
                let message = "the bundle did not come to its end: send it again";
                return Err(ApiError::new(StatusCode::REQUEST_TIMEOUT, "cut_short", message));
            }
        };
        receipt = off(move || written(receipt, &chunk)).await?;
    }
    off(move || receipt.finish(older(query.allow_downgrade != 0)).map_err(ApiError::from)).await?;
    Ok((StatusCode::ACCEPTED, Json(view(&door, &visitor))))
}

fn written(mut receipt: Receipt, chunk: &[u8]) -> Result<Receipt, ApiError> {
    receipt.write(chunk)?;
    Ok(receipt)
}

fn view(door: &Door, visitor: &Visitor) -> UpdateView {
    let status = door.ctx.update.status().borrow().as_ref().clone();
    UpdateView { status, may_install: visitor.has(door, Right::Admin) }
}

fn older(allowed: bool) -> Older {
    if allowed { Older::Welcome } else { Older::Refused }
}

/// Files are written: not where sockets are served.
async fn off<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ApiError> + Send + 'static,
) -> Result<T, ApiError> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|_| Err(ApiError::starting()))
}

impl From<Refused> for ApiError {
    fn from(refused: Refused) -> Self {
        let (status, code) = match refused {
            Refused::Fetch(error) => return error.into(),
            Refused::NotHere => (StatusCode::CONFLICT, "no_slots"),
            Refused::Busy => (StatusCode::CONFLICT, "busy"),
            Refused::NoNews => (StatusCode::CONFLICT, "nothing_newer"),
        };
        Self::new(status, code, refused.to_string())
    }
}

impl From<FetchError> for ApiError {
    fn from(error: FetchError) -> Self {
        let (status, code) = match &error {
            FetchError::Address(_) => (StatusCode::BAD_REQUEST, "bad_url"),
            FetchError::TooLong(_) => (StatusCode::PAYLOAD_TOO_LARGE, "too_long"),
            FetchError::NoRoom { .. } | FetchError::Write { .. } => {
                (StatusCode::INSUFFICIENT_STORAGE, "no_room")
            }
            _ => (StatusCode::BAD_GATEWAY, "not_fetched"),
        };
        Self::new(status, code, error.to_string())
    }
}
