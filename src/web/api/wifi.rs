//! Which Wi-Fi network the box joins: what it hears, and what is chosen. The image scans and joins.

use std::io::ErrorKind;
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::extract::rejection::JsonRejection;
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::auth::Right;
use crate::config::{Network, Password};
use crate::files;
use crate::setup::{self, ChooseError};
use crate::web::Door;
use crate::web::error::{ApiError, ErrorBody};
use crate::web::visitor::Visitor;

pub(super) fn routes() -> OpenApiRouter<Arc<Door>> {
    OpenApiRouter::new().routes(routes!(wifi_networks, choose_wifi))
}

/// What the image's scan hears, in `box.run_dir`.
const SCAN: &str = "wifi-scan.json";
const MAX_SCAN: u64 = 256 << 10;

#[derive(Debug, Default, Serialize, Deserialize, ToSchema)]
struct Scan {
    #[serde(default)]
    networks: Vec<Heard>,
}

#[derive(Debug, Serialize, Deserialize, ToSchema)]
struct Heard {
    name: String,
    #[serde(default)]
    signal_dbm: Option<i32>,
    /// It wants a password.
    #[serde(default)]
    secured: bool,
}

#[derive(Debug, Serialize, ToSchema)]
struct WifiView {
    /// Whether a choice has an effect on this box.
    available: bool,
    /// What is heard, the strongest first.
    networks: Vec<Heard>,
    /// Names that were chosen here before.
    chosen: Vec<String>,
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Choice {
    name: String,
    /// Left out or empty: an open network.
    #[serde(default)]
    password: String,
}

/// The Wi-Fi networks that the box hears.
#[utoipa::path(get, path = "/api/v1/setup/wifi", tag = "node", responses(
    (status = 200, description = "The networks", body = WifiView),
    (status = "4XX", description = "Refused", body = ErrorBody)))]
async fn wifi_networks(
    State(door): State<Arc<Door>>,
    visitor: Visitor,
) -> Result<Json<WifiView>, ApiError> {
    visitor.may(&door, Right::Admin, None)?;
    let view = tokio::task::spawn_blocking(move || {
        let scan = scan(&door);
        let mut view = WifiView {
            available: scan.is_some(),
            networks: scan.unwrap_or_default().networks,
            chosen: setup::chosen(&door.ctx.state_dir),
        };
        view.networks.sort_by_key(|n| std::cmp::Reverse(n.signal_dbm));
        view
    });
    view.await.map(Json).map_err(|_| ApiError::starting())
}

/// Chooses a network; the box joins it within seconds, beside those of its card.
#[utoipa::path(post, path = "/api/v1/setup/wifi", tag = "node", request_body = Choice, responses(
    (status = 202, description = "Chosen: the address of this page may change by it"),
    (status = "4XX", description = "Refused", body = ErrorBody),
    (status = 507, description = "It could not be written down", body = ErrorBody)))]
async fn choose_wifi(
    State(door): State<Arc<Door>>,
    visitor: Visitor,
    body: Result<Json<Choice>, JsonRejection>,
) -> Result<StatusCode, ApiError> {
    visitor.may(&door, Right::Admin, None)?;
    // Not the parser's own words, which might quote the password.
    let Json(choice) = body.map_err(|_| {
        let message = "say {\"name\":\"...\",\"password\":\"...\"}, as JSON";
        ApiError::bad_request("bad_body", message)
    })?;
    let work = tokio::task::spawn_blocking(move || {
        if scan(&door).is_none() {
            let message =
                "this machine's network is not spotter's: set Wi-Fi up as its system has it";
            return Err(ApiError::new(StatusCode::CONFLICT, "no_wifi", message));
        }
        let network = Network { name: choice.name, password: Password::new(&choice.password) };
        let name = network.name.clone();
        setup::choose(&door.ctx.state_dir, network)?;
        tracing::info!(name, "a Wi-Fi network was chosen");
        Ok(StatusCode::ACCEPTED)
    });
    work.await.unwrap_or_else(|_| Err(ApiError::starting()))
}

/// `None`: the box's Wi-Fi is not ours to set up.
fn scan(door: &Door) -> Option<Scan> {
    let run_dir = door.ctx.settings.borrow().machine.run_dir.clone();
    match files::read(&run_dir.join(SCAN), MAX_SCAN) {
        // One that is being written is read the next time.
        Ok(bytes) => Some(serde_json::from_slice(&bytes).unwrap_or_default()),
        Err(e) if e.kind() == ErrorKind::NotFound => None,
        Err(_) => Some(Scan::default()),
    }
}

impl From<ChooseError> for ApiError {
    fn from(error: ChooseError) -> Self {
        match &error {
            ChooseError::Bad { .. } => Self::bad_request("bad_network", error.to_string()),
            ChooseError::Write { .. } => {
                Self::new(StatusCode::INSUFFICIENT_STORAGE, "not_written", error.to_string())
            }
        }
    }
}
