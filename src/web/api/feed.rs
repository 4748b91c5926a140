//! Server-Sent Events: what happens, as it happens, for pages. The messages are those of MQTT and WebSocket.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;

use axum::extract::State;
use axum::response::sse::{Event, KeepAlive, Sse};
use bytes::Bytes;
use futures_util::stream::{self, Stream};
use serde::Deserialize;
use tokio::sync::broadcast::{self, error::RecvError};
use tokio::sync::watch;
use utoipa::IntoParams;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::auth::Right;
use crate::media::StreamId;
use crate::media::stream::StreamSummary;
use crate::web::Door;
use crate::web::asked::Asked;
use crate::web::error::{ApiError, ErrorBody};
use crate::web::visitor::Visitor;
use crate::wire::{self, Encoded, Filter, Heard, NodeStats, NodeStatus};

pub(super) fn routes() -> OpenApiRouter<Arc<Door>> {
    OpenApiRouter::new().routes(routes!(live))
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct LiveQuery {
    /// Only this stream's messages; left out: all streams'.
    stream: Option<String>,
}

/// Events "detections", "stream", "status" (at the start and at each change), "stats" (each second) and "lagged".
#[utoipa::path(get, path = "/api/v1/live", tag = "node", params(LiveQuery), responses(
    (status = 200, description = "For ever", body = String, content_type = "text/event-stream"),
    (status = "4XX", description = "Refused", body = ErrorBody)))]
async fn live(
    State(door): State<Arc<Door>>,
    visitor: Visitor,
    Asked(query): Asked<LiveQuery>,
) -> Result<Sse<impl Stream<Item = Result<Event, Infallible>>>, ApiError> {
    let only = query.stream.as_deref().map(StreamId::new).transpose()?;
    visitor.may(&door, Right::Read, only.as_ref())?;
    let names = only.iter().map(StreamId::to_string).collect();
    let filter = Filter::new(names, Vec::new(), 0.0)
        .map_err(|e| ApiError::bad_request("bad_query", e.to_string()))?;
    let mut feed = Feed {
        detections: door.ctx.detections.subscribe(),
        streams: door.ctx.streams.watch(),
        status: door.ctx.status.clone(),
        stats: door.now.stats(),
        heard: Heard::default(),
        pending: VecDeque::new(),
        filter,
        door,
    };
    feed.streams.mark_changed();
    feed.status.mark_changed();
    feed.stats.mark_changed();
    let events = stream::unfold(feed, |mut feed| async move {
        let (kind, json) = feed.next().await?;
        // The messages are JSON, which is UTF-8 without line ends.
        let event = Event::default().event(kind).data(String::from_utf8_lossy(&json));
        Some((Ok(event), feed))
    });
    Ok(Sse::new(events).keep_alive(KeepAlive::default()))
}

/// What one reader waits for.
struct Feed {
    detections: broadcast::Receiver<Arc<Encoded>>,
    streams: watch::Receiver<Arc<[StreamSummary]>>,
    status: watch::Receiver<Option<Arc<NodeStatus>>>,
    stats: watch::Receiver<Option<Arc<NodeStats>>>,
    heard: Heard,
    /// Messages of one change of the streams; never more than there are streams.
    pending: VecDeque<Bytes>,
    filter: Filter,
    door: Arc<Door>,
}

impl Feed {
    /// The next event's name and JSON; `None` at the service's end.
    async fn next(&mut self) -> Option<(&'static str, Bytes)> {
        let node = Arc::clone(&self.door.ctx.node);
        loop {
            if let Some(json) = self.pending.pop_front() {
                return Some(("stream", json));
            }
            tokio::select! {
                () = self.door.stop.cancelled() => return None,
                Ok(()) = self.streams.changed() => {
                    let now = self.streams.borrow_and_update().clone();
                    self.pending.extend(self.heard.news(&node, &now, &self.filter));
                }
                Ok(()) = self.status.changed() => {
                    if let Some(status) = &*self.status.borrow_and_update() {
                        return Some(("status", wire::node_status(&node, status)));
                    }
                }
                Ok(()) = self.stats.changed() => {
                    if let Some(stats) = &*self.stats.borrow_and_update() {
                        return Some(("stats", wire::node_stats(&node, stats)));
                    }
                }
                received = self.detections.recv() => match received {
                    Ok(message) => if let Some(json) = self.filter.detections(&message) {
                        return Some(("detections", json));
                    }
                    Err(RecvError::Lagged(n)) => {
                        self.door.ctx.counters.feed_dropped.add(n);
                        return Some(("lagged", wire::lagged(n)));
                    }
                    Err(RecvError::Closed) => return None,
                },
            }
        }
    }
}
