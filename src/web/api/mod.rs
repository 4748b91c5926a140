//! `/api/v1`, and the OpenAPI document that is made from the very routes of everything programs use, live video too.

mod events; // visits, their pictures and clips
mod feed; // Server-Sent Events
mod me; // what the caller may
mod node; // status and statistics
mod pause; // nothing is seen or recorded for a while
mod pictures; // snapshot.jpg, mjpeg
mod publish; // where to publish to
mod publishers; // publish URLs, made and taken back
mod recordings; // what is recorded, and any part of it
mod settings; // what can be switched of a stream
mod streams; // which streams there are
mod update; // newer systems
mod wifi; // which network the box joins

use std::sync::Arc;

use axum::Router;
use axum::http::header;
use axum::routing::get;
use utoipa::Modify;
use utoipa::OpenApi;
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityScheme};
use utoipa_axum::router::OpenApiRouter;

pub(super) use update::BUNDLE;

use super::{Door, flv, health, hls, live, metrics, whep, whip};

#[derive(OpenApi)]
#[openapi(
    info(
        title = "spotter",
        description = "Animals seen in the streams of smart glasses. From loopback nothing needs a token; from \
            elsewhere give it as `Authorization: Bearer` or `?token=`."
    ),
    security(("token" = [])),
    modifiers(&Token)
)]
struct Document;

struct Token;

impl Modify for Token {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        let bearer = SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer));
        document.components.get_or_insert_default().add_security_scheme("token", bearer);
    }
}

pub(super) fn routes() -> Router<Arc<Door>> {
    let documented = OpenApiRouter::with_openapi(Document::openapi())
        .merge(streams::routes())
        .merge(settings::routes())
        .merge(pictures::routes())
        .merge(publish::routes())
        .merge(publishers::routes())
        .merge(events::routes())
        .merge(recordings::routes())
        .merge(node::routes())
        .merge(me::routes())
        .merge(pause::routes())
        .merge(update::routes())
        .merge(wifi::routes())
        .merge(feed::routes())
        .merge(live::routes())
        .merge(whep::routes())
        .merge(whip::routes())
        .merge(hls::routes())
        .merge(flv::routes())
        .merge(metrics::routes())
        .merge(health::routes());
    let (router, document) = documented.split_for_parts();
    let json = document.to_json().expect("the document has string keys and no failing parts");
    let answer = move || async move { ([(header::CONTENT_TYPE, "application/json")], json) };
    router.route("/api/v1/openapi.json", get(answer))
}
