//! A stream's pictures as JPEG: one, or one after the other.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::stream;
use serde::Deserialize;
use utoipa::IntoParams;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::auth::Right;
use crate::media::StreamId;
use crate::snapshots::{Boxes, Watcher};
use crate::web::Door;
use crate::web::asked::{Asked, OfStream};
use crate::web::error::{ApiError, ErrorBody};
use crate::web::visitor::Visitor;

pub(super) fn routes() -> OpenApiRouter<Arc<Door>> {
    OpenApiRouter::new().routes(routes!(snapshot)).routes(routes!(mjpeg))
}

/// A picture comes within this time from a stream that is live; the first one of a stream needs a key frame.
const PATIENCE: Duration = Duration::from_secs(5);
/// Pictures a second: enough to see movement, and little for a board to encode.
const DEFAULT_FPS: f64 = 5.0;
const MAX_FPS: f64 = 15.0;

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct PictureQuery {
    /// 1: with boxes, labels and confidences drawn in.
    #[serde(default)]
    #[param(minimum = 0, maximum = 1)]
    boxes: u8,
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct MjpegQuery {
    /// 1: with boxes, labels and confidences drawn in.
    #[serde(default)]
    #[param(minimum = 0, maximum = 1)]
    boxes: u8,
    /// Pictures a second, at most 15; left out: 5.
    #[param(minimum = 0.1, maximum = 15)]
    fps: Option<f64>,
}

/// The next picture of a stream.
#[utoipa::path(get, path = "/api/v1/streams/{stream}/snapshot.jpg", tag = "streams",
    params(("stream" = String, Path, description = "The stream's name", pattern = "^[A-Za-z0-9_-]{1,64}$"), PictureQuery),
    responses(
        (status = 200, description = "JPEG", body = Vec<u8>, content_type = "image/jpeg"),
        (status = "4XX", description = "Refused, no such stream, or no picture of it now", body = ErrorBody)))]
async fn snapshot(
    State(door): State<Arc<Door>>,
    OfStream(id): OfStream,
    visitor: Visitor,
    Asked(query): Asked<PictureQuery>,
) -> Result<Response, ApiError> {
    let mut watcher = watch(&door, &id, &visitor, query.boxes, Duration::ZERO)?;
    let shot = tokio::time::timeout(PATIENCE, watcher.next()).await.map_err(|_| {
        let message = format!(
            "stream {id} has no picture now: its publisher is away, or its detection is off; try without boxes, or later"
        );
        ApiError::not_found("no_picture", message)
    })?;
    let pts = shot.pts.as_millis().to_string();
    let headers = [(header::CONTENT_TYPE, "image/jpeg"), (header::CACHE_CONTROL, "no-store")];
    Ok((headers, [("x-pts-ms", pts)], shot.jpeg.clone()).into_response())
}

/// A stream's pictures one after the other, for what plays no video: an `<img>` shows them.
#[utoipa::path(get, path = "/api/v1/streams/{stream}/mjpeg", tag = "streams",
    params(("stream" = String, Path, description = "The stream's name", pattern = "^[A-Za-z0-9_-]{1,64}$"), MjpegQuery),
    responses(
        (status = 200, description = "JPEG", body = Vec<u8>, content_type = "multipart/x-mixed-replace"),
        (status = "4XX", description = "Refused, or no such stream", body = ErrorBody)))]
async fn mjpeg(
    State(door): State<Arc<Door>>,
    OfStream(id): OfStream,
    visitor: Visitor,
    Asked(query): Asked<MjpegQuery>,
) -> Result<Response, ApiError> {
    let fps = query.fps.unwrap_or(DEFAULT_FPS);
    if !(0.1..=MAX_FPS).contains(&fps) {
        let message = format!("fps {fps} is out of range, give 0.1 to {MAX_FPS}");
        return Err(ApiError::bad_request("bad_query", message));
    }
    let watcher = watch(&door, &id, &visitor, query.boxes, Duration::from_secs_f64(1.0 / fps))?;
    let parts = stream::unfold((door, id, watcher), |(door, id, mut watcher)| async move {
        let part = next_part(&door, &id, &mut watcher).await?;
        Some((Ok::<_, std::convert::Infallible>(part), (door, id, watcher)))
    });
    let headers = [
        (header::CONTENT_TYPE, "multipart/x-mixed-replace; boundary=picture"),
        (header::CACHE_CONTROL, "no-store"),
    ];
    Ok((headers, Body::from_stream(parts)).into_response())
}

/// The next picture behind its boundary; `None` when the stream or the service is over.
async fn next_part(door: &Door, id: &StreamId, watcher: &mut Watcher) -> Option<Bytes> {
    let mut streams = door.ctx.streams.watch();
    let over = async {
        while streams.borrow_and_update().iter().any(|s| s.id == *id) {
            if streams.changed().await.is_err() {
                return;
            }
        }
    };
    let shot = tokio::select! {
        shot = watcher.next() => shot,
        () = over => return None,
        () = door.stop.cancelled() => return None,
    };
    let head = format!(
        "--picture\r\nContent-Type: image/jpeg\r\nContent-Length: {}\r\nX-Pts-Ms: {}\r\n\r\n",
        shot.jpeg.len(),
        shot.pts.as_millis()
    );
    Some([head.as_bytes(), &shot.jpeg, b"\r\n"].concat().into())
}

fn watch(
    door: &Door,
    id: &StreamId,
    visitor: &Visitor,
    boxes: u8,
    period: Duration,
) -> Result<Watcher, ApiError> {
    visitor.may(door, Right::Read, Some(id))?;
    let boxes = match boxes {
        0 => Boxes::Left,
        1 => Boxes::Drawn,
        other => {
            let message = format!("boxes={other} is not known: give 0 or 1");
            return Err(ApiError::bad_request("bad_query", message));
        }
    };
    let stream = door.ctx.streams.get(id).ok_or_else(|| ApiError::no_stream(id))?;
    Ok(door.ctx.snapshots.watch(&stream.id, boxes, period))
}
