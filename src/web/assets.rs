//! The page and its parts, embedded in the binary. They hold no secrets, so anyone may load them; what they show is
//! asked for behind the guard.

use std::sync::Arc;

use axum::Router;
use axum::http::header;
use axum::response::IntoResponse;
use axum::routing::get;

use super::Door;

/// Path, media type, content.
const FILES: [(&str, &str, &str); 1] =
    [("/", "text/html; charset=utf-8", include_str!("ui/index.html"))];

/// Nothing from elsewhere is ever loaded, and nothing of ours is shown inside another's page.
const POLICY: &str = "default-src 'self'; img-src 'self' blob: data:; media-src 'self' blob:; \
    connect-src 'self' ws: wss:; style-src 'self'; script-src 'self'; frame-ancestors 'none'; base-uri 'none'";

pub(super) fn routes() -> Router<Arc<Door>> {
    FILES.iter().fold(Router::new(), |router, (path, kind, text)| {
        let answer = move || async move {
            let headers = [
                (header::CONTENT_TYPE, *kind),
                // An updated box must not be seen through an old page.
                (header::CACHE_CONTROL, "no-cache"),
                (header::CONTENT_SECURITY_POLICY, POLICY),
                (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
                (header::REFERRER_POLICY, "no-referrer"),
            ];
            (headers, *text).into_response()
        };
        router.route(path, get(answer))
    })
}
