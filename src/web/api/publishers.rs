//! Publish URLs for others, each tied to one stream: made, described with how its link does, and taken back. A publisher
//! here is a token of the guard's that may publish one stream and nothing else; there is no other list of them.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use axum::extract::rejection::JsonRejection;
use axum::extract::{Extension, Path, State};
use axum::http::header::HOST;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::{Json, extract::rejection::PathRejection};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::publish::{OtherUrls, publish_url};
use crate::auth::{AuthError, Right, TokenInfo};
use crate::board::own_address;
use crate::media::advice::Advisor;
use crate::media::{Advice, StreamId};
use crate::web::Door;
use crate::web::error::{ApiError, ErrorBody};
use crate::web::off::off;
use crate::web::visitor::{Local, Visitor};
use crate::wire::LinkStats;

pub(super) fn routes() -> OpenApiRouter<Arc<Door>> {
    OpenApiRouter::new()
        .routes(routes!(publishers, make_publisher))
        .routes(routes!(publisher, revoke_publisher))
}

/// More than one box serves in a lifetime, and few enough for the token file.
const MAX_PUBLISHERS: usize = 256;

/// Which publish URL to make.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Wanted {
    /// The stream that may be published, and no other.
    #[schema(pattern = "^[A-Za-z0-9_-]{1,64}$")]
    stream: String,
    /// Its own name; left out: the stream's.
    #[schema(pattern = "^[A-Za-z0-9_-]{1,64}$")]
    id: Option<String>,
}

#[derive(Debug, Serialize, ToSchema)]
struct PublisherMade {
    id: String,
    stream: String,
    /// With its token, which is not told again.
    url: String,
    #[serde(flatten)]
    others: OtherUrls,
    advice: Advice,
}

#[derive(Debug, Serialize, ToSchema)]
struct PublisherList {
    publishers: Vec<PublisherView>,
}

/// One who may publish a stream, and how that stream does.
#[derive(Debug, Serialize, ToSchema)]
struct PublisherView {
    id: String,
    stream: String,
    /// "online", "waiting" for its publisher to come back, or "offline".
    status: String,
    /// Null where there is no such stream now.
    link: Option<PublisherLink>,
    advice: Advice,
}

/// Counts are since the stream began.
#[derive(Debug, Serialize, ToSchema)]
struct PublisherLink {
    #[serde(flatten)]
    link: LinkStats,
    /// Times that pictures were found missing, each of which is a wait for the next key frame.
    gaps: u64,
    /// Pictures that were not searched for such a wait.
    held: u64,
    /// Times that it was published anew.
    reconnects: u64,
}

/// The publishers there are.
#[utoipa::path(get, path = "/api/v1/publishers", tag = "publishers", responses(
    (status = 200, description = "The publishers", body = PublisherList),
    (status = "4XX", description = "Refused", body = ErrorBody)))]
async fn publishers(
    State(door): State<Arc<Door>>,
    visitor: Visitor,
) -> Result<Json<PublisherList>, ApiError> {
    visitor.may(&door, Right::Admin, None)?;
    let publishers = tied(&door).iter().map(|(token, id)| view(&door, token, id)).collect();
    Ok(Json(PublisherList { publishers }))
}

/// Makes a publish URL for one stream. It may take the stream over from a connection of its own that hangs.
#[utoipa::path(post, path = "/api/v1/publishers", tag = "publishers", request_body = Wanted, responses(
    (status = 201, description = "Made", body = PublisherMade),
    (status = "4XX", description = "Refused", body = ErrorBody),
    (status = "5XX", description = "Not written down", body = ErrorBody)))]
async fn make_publisher(
    State(door): State<Arc<Door>>,
    visitor: Visitor,
    local: Option<Extension<Local>>,
    headers: HeaderMap,
    body: Result<Json<Wanted>, JsonRejection>,
) -> Result<Response, ApiError> {
    visitor.may(&door, Right::Admin, None)?;
    let Json(wanted) = body.map_err(|e| ApiError::bad_json(&e, r#"{"stream":"glasses"}"#))?;
    let stream = StreamId::new(&wanted.stream)?;
    let id = wanted.id.unwrap_or(wanted.stream);
    let status = door.ctx.status.borrow().clone().ok_or_else(ApiError::starting)?;
    if tied(&door).len() >= MAX_PUBLISHERS {
        let message = format!("there are {MAX_PUBLISHERS} publishers: revoke those not in use");
        return Err(ApiError::new(StatusCode::CONFLICT, "too_many", message));
    }
    let (guard, name, tied) = (Arc::clone(&door.ctx.guard), id.clone(), stream.clone());
    let secret = off(move || guard.add(&name, &[Right::Publish], Some(tied), true)).await?;
    let asked = headers.get(HOST).and_then(|h| h.to_str().ok()).unwrap_or_default();
    let local = local.map(|Extension(Local(ip))| ip);
    let host = dialled(asked, local, door.ctx.ingest.listen.ip(), own_address);
    let url = publish_url(&host, &status.addresses.rtmp, &stream, Some(secret.expose()));
    tracing::info!(publisher = id, %stream, "publish URL made");
    let advice = advice(&door, &stream);
    let others = OtherUrls::new(&door, &status, &host, &stream, Some(secret.expose()));
    let made = PublisherMade { id, stream: stream.to_string(), url, others, advice };
    Ok((StatusCode::CREATED, Json(made)).into_response())
}

/// One publisher.
#[utoipa::path(get, path = "/api/v1/publishers/{id}", tag = "publishers",
    params(("id" = String, Path, description = "Its name", pattern = "^[A-Za-z0-9_-]{1,64}$")),
    responses(
        (status = 200, description = "The publisher", body = PublisherView),
        (status = "4XX", description = "Refused, or no such publisher", body = ErrorBody)))]
async fn publisher(
    State(door): State<Arc<Door>>,
    visitor: Visitor,
    id: Result<Path<String>, PathRejection>,
) -> Result<Json<PublisherView>, ApiError> {
    visitor.may(&door, Right::Admin, None)?;
    let (token, stream) = find(&door, id)?;
    Ok(Json(view(&door, &token, &stream)))
}

/// Takes a publish URL back; who publishes by it is sent away at once.
#[utoipa::path(delete, path = "/api/v1/publishers/{id}", tag = "publishers",
    params(("id" = String, Path, description = "Its name", pattern = "^[A-Za-z0-9_-]{1,64}$")),
    responses(
        (status = 204, description = "Taken back"),
        (status = "4XX", description = "Refused, or no such publisher", body = ErrorBody),
        (status = "5XX", description = "Not written down", body = ErrorBody)))]
async fn revoke_publisher(
    State(door): State<Arc<Door>>,
    visitor: Visitor,
    id: Result<Path<String>, PathRejection>,
) -> Result<StatusCode, ApiError> {
    visitor.may(&door, Right::Admin, None)?;
    let (token, stream) = find(&door, id)?;
    let (guard, name) = (Arc::clone(&door.ctx.guard), token.name.clone());
    off(move || guard.revoke(&name)).await?;
    let guard = &door.ctx.guard;
    let sent_away = door.ctx.streams.send_away_unless(|token| guard.knows(token));
    tracing::info!(publisher = token.name, %stream, ?sent_away, "publish URL taken back");
    Ok(StatusCode::NO_CONTENT)
}

/// The tokens that may publish one stream and nothing else.
fn tied(door: &Door) -> Vec<(TokenInfo, StreamId)> {
    let of_one_stream = |token: TokenInfo| {
        let stream = token.stream.as_deref().and_then(|s| StreamId::new(s).ok())?;
        (token.rights == [Right::Publish]).then_some((token, stream))
    };
    door.ctx.guard.list().into_iter().filter_map(of_one_stream).collect()
}

fn find(
    door: &Door,
    id: Result<Path<String>, PathRejection>,
) -> Result<(TokenInfo, StreamId), ApiError> {
    let Path(id) = id.map_err(|e| ApiError::bad_request("bad_path", e.body_text()))?;
    tied(door).into_iter().find(|(token, _)| token.name == id).ok_or_else(|| {
        let id: String = id.chars().take(80).collect();
        let message = format!("there is no publisher {id:?}: see /api/v1/publishers");
        ApiError::not_found("no_publisher", message)
    })
}

fn view(door: &Door, token: &TokenInfo, id: &StreamId) -> PublisherView {
    let stream = door.ctx.streams.get(id);
    let status = stream.as_ref().map_or("offline", |s| s.summary().status.name());
    let link = stream.as_ref().map(|s| PublisherLink {
        link: s.link(Instant::now()).into(),
        gaps: s.counters.gaps.get(),
        held: s.counters.units_held.get(),
        reconnects: s.counters.publishers.get().saturating_sub(1),
    });
    let advice = stream.map_or_else(|| Advisor::default().advice(), |s| s.advice());
    let (id, stream) = (token.name.clone(), id.to_string());
    PublisherView { id, stream, status: status.into(), link, advice }
}

fn advice(door: &Door, id: &StreamId) -> Advice {
    door.ctx.streams.get(id).map_or_else(|| Advisor::default().advice(), |s| s.advice())
}

/// The host for the URL, out of the one that was asked at. Programs find this box by names that glasses need not know:
/// they get the address that the request came to, and those on the box itself the one that the box has now, which it may
/// not have had when it started. `listen` is where publishers are awaited.
fn dialled(
    asked: &str,
    local: Option<IpAddr>,
    listen: IpAddr,
    own: impl FnOnce() -> IpAddr,
) -> String {
    let name = asked.rsplit_once(':').map_or(asked, |(name, _)| name);
    let ip = if ["localhost", "127.0.0.1", "[::1]"].contains(&name) && listen.is_unspecified() {
        Some(own())
    } else {
        local.filter(|_| name.ends_with(".local"))
    };
    match ip.filter(|ip| !ip.is_loopback()) {
        Some(IpAddr::V6(ip)) => format!("[{ip}]"),
        Some(ip) => ip.to_string(),
        None => asked.to_owned(),
    }
}

impl From<AuthError> for ApiError {
    fn from(error: AuthError) -> Self {
        let (status, code) = match &error {
            AuthError::BadName(_) => (StatusCode::BAD_REQUEST, "bad_name"),
            AuthError::NameTaken(_) => (StatusCode::CONFLICT, "name_taken"),
            AuthError::Unknown(_) => (StatusCode::NOT_FOUND, "no_publisher"),
            AuthError::NoRights | AuthError::OwnerStays => (StatusCode::BAD_REQUEST, "bad_token"),
            AuthError::Io { .. } | AuthError::Corrupt { .. } | AuthError::NoRandom(_) => {
                (StatusCode::INSUFFICIENT_STORAGE, "not_written")
            }
        };
        Self::new(status, code, error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn glasses_get_an_address_where_programs_use_a_name_of_the_network() {
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let (lan, any) = (Some(ip("192.0.2.7")), ip("0.0.0.0"));
        let unasked = || -> IpAddr { unreachable!("the box's own address was asked for") };
        let name = |asked, local| dialled(asked, local, any, unasked);
        assert_eq!(name("barn.local:8080", lan), "192.0.2.7");
        assert_eq!(name("barn.local:8080", Some(ip("2001:db8::1"))), "[2001:db8::1]");
        assert_eq!(name("barn.local:8080", Some(ip("127.0.0.1"))), "barn.local:8080");
        assert_eq!(name("box.example.org:80", lan), "box.example.org:80");
        assert_eq!(name("192.0.2.9:8080", lan), "192.0.2.9:8080");
    }

    #[test]
    fn programs_on_the_box_get_the_address_that_it_has_now() {
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let here = Some(ip("127.0.0.1"));
        let at = |asked, listen, own| dialled(asked, here, ip(listen), || ip(own));
        assert_eq!(at("127.0.0.1:8080", "0.0.0.0", "192.0.2.7"), "192.0.2.7");
        assert_eq!(at("localhost", "::", "2001:db8::1"), "[2001:db8::1]");
        // In no network, or with a door on one address only, the door's own address is told.
        assert_eq!(at("127.0.0.1:8080", "0.0.0.0", "127.0.0.1"), "127.0.0.1:8080");
        assert_eq!(at("127.0.0.1:8080", "127.0.0.1", "192.0.2.7"), "127.0.0.1:8080");
    }
}
