//! `/live/<stream>`: fragmented MP4 by WebSocket, for a browser's MediaSource. Each viewer reads the shared fragments at its
//! own pace; making them is `live`'s business.
//!
//! Text `{"type":"init","mime":..}` and a binary init segment come before the fragments they are about, again whenever
//! the tracks change. `{"type":"lagged","dropped":n}`: so many fragments were passed over, what follows begins with a key
//! frame. `{"type":"waiting"}`: the publisher left and may come back. `{"type":"ended"}`: it did not; then the close.

use std::error::Error as _;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::extract::ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade, close_code};
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::Response;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::error::{ApiError, ErrorBody};
use super::visitor::Visitor;
use super::{Door, Stay};
use crate::auth::Right;
use crate::live::{Channel, Fragment, Init};
use crate::media::ring::{Cursor, Read};
use crate::media::{StreamId, StreamStatus};

/// A viewer further behind than this goes on at the newest key frame, though the fragments would still be here.
const MAX_BEHIND: Duration = Duration::from_secs(2);
/// How long a viewer has to answer the close.
const GOODBYE: Duration = Duration::from_secs(1);
/// Viewers say nothing but pings and goodbyes.
const MAX_HEARD: usize = 4 << 10;

pub(super) fn routes() -> OpenApiRouter<Arc<Door>> {
    OpenApiRouter::new().routes(routes!(live_video))
}

/// Fragmented MP4 by WebSocket. Text messages `init` (with the MIME type), `lagged`, `waiting`, `ended`; binary messages are
/// the init segment after each `init`, and the fragments.
#[utoipa::path(get, path = "/live/{stream}", tag = "video", params(("stream" = String, Path)), responses(
    (status = 101, description = "A WebSocket"),
    (status = "4XX", description = "Refused, no such stream, or no WebSocket", body = ErrorBody)))]
async fn live_video(
    State(door): State<Arc<Door>>,
    Path(stream): Path<String>,
    visitor: Visitor,
    Extension(stay): Extension<Stay>,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Result<Response, ApiError> {
    let id = StreamId::new(&stream)?;
    visitor.may(&door, Right::Read, Some(&id))?;
    let stream = door.ctx.streams.get(&id).ok_or_else(|| ApiError::no_stream(&id))?;
    let upgrade = upgrade.map_err(|_| {
        let message = "live video comes by WebSocket: connect with ws://, or read /hls";
        ApiError::new(StatusCode::UPGRADE_REQUIRED, "no_websocket", message)
    })?;
    let channel = door.ctx.live.watch(&stream);
    // A fragment is written as soon as it is there. The largest is a key frame: four times the size would be a bug.
    let upgrade = upgrade
        .max_message_size(MAX_HEARD)
        .max_frame_size(MAX_HEARD)
        .read_buffer_size(MAX_HEARD)
        .write_buffer_size(0);
    Ok(upgrade.on_upgrade(async move |socket| {
        let counters = &door.ctx.live.counters;
        counters.viewers.inc();
        let end = Viewer { cursor: channel.cursor().await, socket, channel, init: None }
            .serve(&door)
            .await;
        if matches!(end, End::Stalled) {
            counters.viewers_stalled.inc();
        }
        counters.viewers_gone.inc();
        tracing::debug!(stream = %id, ?end, "live viewer left");
        drop(stay);
    }))
}

/// Why a viewer is no longer served.
#[derive(Debug)]
enum End {
    /// It left, with or without a word.
    Gone,
    /// It took nothing for `web.stall_timeout_s`.
    Stalled,
    StreamOver,
    DoorClosed,
}

struct Viewer {
    socket: WebSocket,
    channel: Arc<Channel>,
    cursor: Cursor<Fragment>,
    /// The init segment it was sent last.
    init: Option<Arc<Init>>,
}

impl Viewer {
    async fn serve(mut self, door: &Door) -> End {
        let stop = door.stop.clone();
        let ended = tokio::select! {
            end = self.show(door) => end,
            () = stop.cancelled() => Err(End::DoorClosed),
        };
        let Err(end) = ended;
        let farewell = match end {
            End::StreamOver => Some((close_code::NORMAL, "the stream is over")),
            End::DoorClosed => Some((close_code::AWAY, "spotter is shutting down")),
            End::Gone | End::Stalled => None,
        };
        if let Some((code, reason)) = farewell {
            let close = Message::Close(Some(CloseFrame { code, reason: reason.into() }));
            // Until the viewer has answered, so that a reset does not overtake what it has not read yet.
            let closing = async {
                if self.socket.send(close).await.is_ok() {
                    while let Some(Ok(_)) = self.socket.recv().await {}
                }
            };
            let _ = tokio::time::timeout(GOODBYE, closing).await;
        }
        end
    }

    /// Sends what comes, until there is a reason to stop.
    async fn show(&mut self, door: &Door) -> Result<std::convert::Infallible, End> {
        let mut streams = door.ctx.streams.watch();
        let mut status = StreamStatus::Online;
        streams.mark_changed();
        loop {
            tokio::select! {
                read = self.cursor.next() => match read {
                    Some(Read::Unit(fragment)) => self.fragment(door, fragment).await?,
                    Some(Read::Lagged { skipped }) => self.lagged(door, skipped).await?,
                    None => {
                        self.say(r#"{"type":"ended"}"#).await?;
                        return Err(End::StreamOver);
                    }
                },
                heard = self.socket.recv() => match heard {
                    // Pings and goodbyes are answered below, at the next look here; nothing else is of interest.
                    Some(Err(_)) | None => return Err(End::Gone),
                    Some(Ok(_)) => {}
                },
                changed = streams.changed() => {
                    changed.map_err(|_| End::DoorClosed)?;
                    // An ended stream is heard of by the cursor, which may have pictures to show before.
                    let now = self.channel.stream().summary().status;
                    let left = now == StreamStatus::Waiting && status == StreamStatus::Online;
                    status = now;
                    if left {
                        self.say(r#"{"type":"waiting"}"#).await?;
                    }
                }
            }
        }
    }

    async fn fragment(&mut self, door: &Door, fragment: Fragment) -> Result<(), End> {
        if fragment.arrived.mono.elapsed() > MAX_BEHIND {
            let skipped = self.cursor.skip_ahead();
            if skipped > 0 {
                return self.lagged(door, skipped + 1).await;
            }
        }
        if !self.init.as_ref().is_some_and(|sent| Arc::ptr_eq(sent, &fragment.init)) {
            let text = serde_json::json!({ "type": "init", "mime": fragment.init.mime });
            self.say(&text.to_string()).await?;
            self.send(Message::Binary(fragment.init.segment.clone())).await?;
            self.init = Some(fragment.init);
        }
        self.send(Message::Binary(fragment.data)).await
    }

    async fn lagged(&mut self, door: &Door, dropped: u64) -> Result<(), End> {
        door.ctx.live.counters.viewers_lagged.inc();
        door.ctx.live.counters.fragments_dropped.add(dropped);
        self.say(&serde_json::json!({ "type": "lagged", "dropped": dropped }).to_string()).await
    }

    async fn say(&mut self, text: &str) -> Result<(), End> {
        self.send(Message::Text(text.into())).await
    }

    async fn send(&mut self, message: Message) -> Result<(), End> {
        // The connection's own write time-out ends it when nothing is taken.
        let sent = self.socket.send(message).await;
        sent.map_err(|error| if is_timeout(&error) { End::Stalled } else { End::Gone })
    }
}

fn is_timeout(error: &axum::Error) -> bool {
    let mut cause = error.source();
    while let Some(error) = cause {
        if error.downcast_ref::<io::Error>().is_some_and(|e| e.kind() == io::ErrorKind::TimedOut) {
            return true;
        }
        cause = error.source();
    }
    false
}
