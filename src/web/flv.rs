//! `/flv/<stream>`: a live stream as an endless FLV file, for players that know neither RTMP nor HLS.

use std::ops::ControlFlow;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::header;
use axum::response::IntoResponse;
use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::Door;
use super::error::{ApiError, ErrorBody};
use super::visitor::Visitor;
use crate::auth::Right;
use crate::media::StreamId;
use crate::media::ring::{Cursor, Gathered};
use crate::relay::feed::{Announce, Feed};
use crate::relay::outbox::{Framing, Outbox};

/// Version 1, which of sound and picture there is, 9 bytes of header, and the size of the tag before the first (FLV 10.1, E.2 and
/// E.3). Players wait for the sound that they are promised.
fn header(sound: bool) -> Bytes {
    let flags = if sound { 5 } else { 1 };
    Bytes::copy_from_slice(&[b'F', b'L', b'V', 1, flags, 0, 0, 0, 9, 0, 0, 0, 0])
}

pub(super) fn routes() -> OpenApiRouter<Arc<Door>> {
    OpenApiRouter::new().routes(routes!(flv))
}

/// The stream as an endless FLV file, from its newest key frame on.
#[utoipa::path(get, path = "/flv/{stream}", tag = "video", params(("stream" = String, Path, description = "with or without .flv")), responses(
    (status = 200, description = "For as long as the stream is there", body = [u8], content_type = "video/x-flv"),
    (status = "4XX", description = "Refused, or no such stream", body = ErrorBody)))]
async fn flv(
    State(door): State<Arc<Door>>,
    visitor: Visitor,
    Path(name): Path<String>,
) -> Result<impl IntoResponse, ApiError> {
    // Players tell a file by its ending.
    let name = name.strip_suffix(".flv").unwrap_or(&name);
    let id = StreamId::new(name)?;
    visitor.may(&door, Right::Read, Some(&id))?;
    let stream = door.ctx.streams.get(&id).ok_or_else(|| ApiError::no_stream(&id))?;
    door.ctx.counters.flv_viewers.inc();
    let audio = stream.ring.newest_audio();
    let begin = header(audio.is_some());
    let reader = Reader {
        cursor: stream.ring.cursor(),
        feed: Feed::new(Announce::OnMetaData, audio),
        outbox: Outbox::new(Framing::Flv),
        door,
    };
    let tags = stream::unfold(reader, |mut reader| async {
        let tags = reader.next().await?;
        Some((tags, reader))
    });
    let file = stream::iter([begin]).chain(tags);
    let headers = [(header::CONTENT_TYPE, "video/x-flv"), (header::CACHE_CONTROL, "no-store")];
    Ok((headers, Body::from_stream(file.map(Ok::<_, std::convert::Infallible>))))
}

struct Reader {
    cursor: Cursor,
    feed: Feed,
    outbox: Outbox,
    door: Arc<Door>,
}

impl Reader {
    /// The tags that wait; `None` at the end of the stream or the service.
    async fn next(&mut self) -> Option<Bytes> {
        let Self { cursor, feed, outbox, door } = self;
        let counters = &door.ctx.counters;
        while outbox.is_empty() {
            let mut left_out = 0;
            let gathered = cursor.gather(|unit| {
                left_out += u64::from(!feed.take(unit, outbox));
                if outbox.is_full() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            });
            let gathered = tokio::select! {
                gathered = gathered => gathered,
                () = door.stop.cancelled() => return None,
            };
            match gathered {
                Gathered::Units => counters.flv_units_dropped.add(left_out),
                Gathered::Lagged { skipped } => {
                    counters.flv_lagged.inc();
                    counters.flv_units_dropped.add(skipped);
                    feed.skipped();
                }
                Gathered::Ended => return None,
            }
        }
        Some(outbox.take())
    }
}
