//! The page and its parts, embedded in the binary. They hold no secrets, so anyone may load them; what they show is
//! asked for behind the guard.

use std::sync::Arc;

use axum::Router;
use axum::http::header;
use axum::response::IntoResponse;
use axum::routing::get;

use super::Door;

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";

/// Path, media type, content.
type File = (&'static str, &'static str, &'static str);

/// A file of `ui/` at its place below `/ui/`.
macro_rules! part {
    ($kind:expr, $name:literal) => {
        (concat!("/ui/", $name), $kind, include_str!(concat!("ui/", $name)))
    };
}

const FILES: &[File] = &[
    ("/", HTML, include_str!("ui/index.html")),
    part!(CSS, "style.css"),
    part!("image/svg+xml", "icon.svg"),
    part!(SCRIPT, "api.mjs"),
    part!(SCRIPT, "box.mjs"),
    part!(SCRIPT, "boxes.mjs"),
    part!(SCRIPT, "choose.mjs"),
    part!(SCRIPT, "events.mjs"),
    part!(SCRIPT, "hls.mjs"),
    part!(SCRIPT, "labels.mjs"),
    part!(SCRIPT, "main.mjs"),
    part!(SCRIPT, "mse.mjs"),
    part!(SCRIPT, "overlay.mjs"),
    part!(SCRIPT, "panel.mjs"),
    part!(SCRIPT, "pause.mjs"),
    part!(SCRIPT, "pictures.mjs"),
    part!(SCRIPT, "player.mjs"),
    part!(SCRIPT, "plot.mjs"),
    part!(SCRIPT, "publish.mjs"),
    part!(SCRIPT, "retry.mjs"),
    part!(SCRIPT, "rights.mjs"),
    part!(SCRIPT, "snapshot.mjs"),
    part!(SCRIPT, "strip.mjs"),
    part!(SCRIPT, "switches.mjs"),
    part!(SCRIPT, "times.mjs"),
    part!(SCRIPT, "toast.mjs"),
    part!(SCRIPT, "unfit.mjs"),
    part!(SCRIPT, "view.mjs"),
    part!(SCRIPT, "visit.mjs"),
    part!(SCRIPT, "visits.mjs"),
    part!(SCRIPT, "watch.mjs"),
    part!(SCRIPT, "whep.mjs"),
];

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

#[cfg(test)]
mod tests {
    use super::FILES;

    #[test]
    fn every_file_of_the_page_is_embedded() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/src/web/ui");
        for file in std::fs::read_dir(folder).unwrap() {
            let name = file.unwrap().file_name().into_string().unwrap();
            let path = if name == "index.html" { "/".to_owned() } else { format!("/ui/{name}") };
            assert!(FILES.iter().any(|(p, _, _)| *p == path), "{name} is not in FILES");
        }
    }
}
