//! What the caller may, so that a page need not try it.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::auth::Right;
use crate::web::Door;
use crate::web::error::{ApiError, ErrorBody};
use crate::web::visitor::Visitor;

pub(super) fn routes() -> OpenApiRouter<Arc<Door>> {
    OpenApiRouter::new().routes(routes!(me))
}

#[derive(Debug, Serialize, ToSchema)]
struct Me {
    /// "publish", "read", "admin": what this caller may with every stream and the box.
    #[schema(value_type = Vec<String>)]
    may: Vec<Right>,
}

/// What you may.
#[utoipa::path(get, path = "/api/v1/me", tag = "node", responses(
    (status = 200, description = "Your rights; at least to read", body = Me),
    (status = "4XX", description = "Refused", body = ErrorBody)))]
async fn me(State(door): State<Arc<Door>>, visitor: Visitor) -> Result<Json<Me>, ApiError> {
    visitor.may(&door, Right::Read, None)?;
    let all = [Right::Publish, Right::Read, Right::Admin];
    Ok(Json(Me { may: all.into_iter().filter(|right| visitor.has(&door, *right)).collect() }))
}
