//! Where to point the glasses: the publish URL of a stream, as text and as a QR code.

use std::fmt::Write as _;
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::http::header::HOST;
use qrcodegen::{QrCode, QrCodeEcc};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::auth::Right;
use crate::media::StreamId;
use crate::web::Door;
use crate::web::asked::Asked;
use crate::web::error::{ApiError, ErrorBody};
use crate::web::visitor::Visitor;
use crate::wire::NodeStatus;

pub(super) fn routes() -> OpenApiRouter<Arc<Door>> {
    OpenApiRouter::new().routes(routes!(publish))
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct PublishQuery {
    /// The stream's name; left out: "stream".
    stream: Option<String>,
}

#[derive(Debug, Serialize, ToSchema)]
struct PublishTo {
    /// With the token of who asked; with the owner's for an administrator.
    url: String,
    /// The URL as a QR code, an SVG element.
    qr_svg: String,
    #[serde(flatten)]
    others: OtherUrls,
}

/// The same by the other ways in, each left out where that door is closed.
#[derive(Debug, Default, Serialize, ToSchema)]
pub(super) struct OtherUrls {
    #[serde(skip_serializing_if = "Option::is_none")]
    rtmps_url: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    srt_url: Option<String>,
    /// For WHIP, with the token in it, which may be given as a bearer token instead.
    #[serde(skip_serializing_if = "Option::is_none")]
    whip_url: Option<String>,
}

impl OtherUrls {
    pub(super) fn new(
        door: &Door,
        status: &NodeStatus,
        asked: &str,
        id: &StreamId,
        token: Option<&str>,
    ) -> Self {
        let own = &status.addresses;
        let srt_url = (!own.srt.is_empty()).then(|| {
            let at = dialled_at(asked, &own.srt, "8890");
            let passphrase = door.ctx.ingest.srt.passphrase.expose();
            // The token ends the stream id, so that it can be read as it is.
            let passphrase = if passphrase.is_empty() {
                String::new()
            } else {
                format!("&passphrase={passphrase}")
            };
            format!("srt://{at}?streamid=publish:live/{id}{}{passphrase}", query(token))
        });
        let whip_url = door.ctx.webrtc.is_some().then(|| {
            let at = dialled_at(asked, &own.web, "8080");
            format!("http://{at}/whip/{id}{}", query(token))
        });
        let rtmps_url = (!own.rtmps.is_empty()).then(|| {
            format!("rtmps://{}/live/{id}{}", dialled_at(asked, &own.rtmps, "1936"), query(token))
        });
        Self { rtmps_url, srt_url, whip_url }
    }
}

/// Where to publish a stream to.
#[utoipa::path(get, path = "/api/v1/publish", tag = "streams", params(PublishQuery), responses(
    (status = 200, description = "The URL", body = PublishTo),
    (status = "4XX", description = "Refused", body = ErrorBody)))]
async fn publish(
    State(door): State<Arc<Door>>,
    visitor: Visitor,
    headers: HeaderMap,
    Asked(query): Asked<PublishQuery>,
) -> Result<Json<PublishTo>, ApiError> {
    let id = StreamId::new(query.stream.as_deref().unwrap_or("stream"))?;
    visitor.may(&door, Right::Read, Some(&id))?;
    let status = door.ctx.status.borrow().clone().ok_or_else(ApiError::starting)?;
    let token = if visitor.has(&door, Right::Admin) {
        door.ctx.guard.owner().map(|secret| secret.expose().to_owned())
    } else {
        visitor.token().map(str::to_owned)
    };
    // The page's own name for this box is the one that works where the page is; on the box itself the network's
    // address serves the glasses better.
    let asked = headers.get(HOST).and_then(|h| h.to_str().ok()).unwrap_or_default();
    let url = publish_url(asked, &status.addresses.rtmp, &id, token.as_deref());
    let qr_svg = qr_svg(&url)
        .ok_or_else(|| ApiError::bad_request("too_long", "the URL is too long for a QR code"))?;
    let others = OtherUrls::new(&door, &status, asked, &id, token.as_deref());
    Ok(Json(PublishTo { url, qr_svg, others }))
}

/// `asked` is the request's Host; `own` the address of the RTMP door as the network dials it.
pub(super) fn publish_url(asked: &str, own: &str, id: &StreamId, token: Option<&str>) -> String {
    format!("rtmp://{}/live/{id}{}", dialled_at(asked, own, "1935"), query(token))
}

fn query(token: Option<&str>) -> String {
    token.map(|t| format!("?token={t}")).unwrap_or_default()
}

/// The door at `own` by the name that was asked for, if others can use that name.
fn dialled_at(asked: &str, own: &str, usual_port: &str) -> String {
    let (own_host, port) = own.rsplit_once(':').unwrap_or((own, usual_port));
    let name = match asked.rsplit_once(':') {
        Some((name, digits)) if digits.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => asked,
    };
    let legal = |c: char| c.is_ascii_alphanumeric() || ".-:[]".contains(c);
    let here = ["", "localhost", "127.0.0.1", "[::1]"].contains(&name) || !name.chars().all(legal);
    let host = if here { own_host } else { name };
    format!("{host}:{port}")
}

/// Dark modules as one path on white, with the four modules of margin that readers need (ISO/IEC 18004, 5.3.8).
fn qr_svg(text: &str) -> Option<String> {
    const MARGIN: i32 = 4;
    let code = QrCode::encode_text(text, QrCodeEcc::Medium).ok()?;
    let mut path = String::new();
    for y in 0..code.size() {
        for x in (0..code.size()).filter(|x| code.get_module(*x, y)) {
            let _ = write!(path, "M{},{}h1v1h-1z", x + MARGIN, y + MARGIN);
        }
    }
    let side = code.size() + 2 * MARGIN;
    Some(format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {side} {side}\" shape-rendering=\"crispEdges\">\
         <rect width=\"{side}\" height=\"{side}\" fill=\"#fff\"/><path d=\"{path}\" fill=\"#000\"/></svg>"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_url_is_one_that_glasses_reach() {
        let id = StreamId::new("garden").unwrap();
        let url = |asked| publish_url(asked, "192.0.2.7:1935", &id, Some("abc"));
        for here in ["localhost:8080", "127.0.0.1:8080", "[::1]:8080", "", "a b\"<"] {
            assert_eq!(url(here), "rtmp://192.0.2.7:1935/live/garden?token=abc", "{here}");
        }
        assert_eq!(
            url("spotter-1.local:8080"),
            "rtmp://spotter-1.local:1935/live/garden?token=abc"
        );
        assert_eq!(url("[2001:db8::1]:80"), "rtmp://[2001:db8::1]:1935/live/garden?token=abc");
    }

    #[test]
    fn a_code_is_an_svg_of_its_modules() {
        let svg = qr_svg("rtmp://192.0.2.7:1935/live/stream").unwrap();
        assert!(svg.starts_with("<svg") && svg.contains("M4,4h1v1h-1z"), "{svg}");
        assert!(qr_svg(&"x".repeat(5000)).is_none());
    }
}
