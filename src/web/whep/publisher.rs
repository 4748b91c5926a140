//! One WebRTC publisher from its first check to its end: pictures that str0m put together become units of its stream. It takes
//! the stream's seat when it is connected, so that one who never is takes nothing from anyone.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use str0m::format::Codec;
use str0m::media::{KeyframeRequestKind, MediaData, Mid};
use str0m::{Event, IceConnectionState};
use tokio::time::{sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use super::line::{End, Line, Step};
use crate::auth::Caller;
use crate::ingest::Entry;
use crate::ingest::entry::{Due, Feed};
use crate::media::{Arrival, AudioCodec, StreamId, VideoCodec};

/// How often a publisher is asked for a key frame while none comes.
const ASK_EVERY: Duration = Duration::from_secs(1);

/// Who publishes, as it asked.
pub(in crate::web) struct Asker {
    pub(in crate::web) peer: IpAddr,
    pub(in crate::web) forwarded: bool,
    pub(in crate::web) token: Option<String>,
}

impl Asker {
    pub(in crate::web) fn caller(&self) -> Caller<'_> {
        Caller { peer: self.peer, forwarded: self.forwarded, token: self.token.as_deref() }
    }
}

pub(super) struct Publisher {
    pub(super) line: Line,
    pub(super) video: Mid,
    pub(super) entry: Entry,
    pub(super) stream: StreamId,
    pub(super) asker: Asker,
    pub(super) ice_timeout: Duration,
    /// Without a picture for so long it is over.
    pub(super) idle: Duration,
    pub(super) flow: Flow,
}

#[derive(Default)]
pub(super) struct Flow {
    /// From the connection on.
    feed: Option<Feed>,
    last_picture: Option<Instant>,
    asked: Option<Instant>,
    told_of_codec: bool,
}

impl Publisher {
    /// Serves the publisher to its end or until `stop`.
    pub(super) async fn run(mut self, stop: CancellationToken) -> End {
        match self.serve(stop).await {
            Ok(never) => match never {},
            Err(end) => {
                // The stream is free before the farewell.
                self.flow.feed = None;
                if !matches!(end, End::Left | End::Silent | End::IceTimeout) {
                    self.line.hang_up().await;
                }
                end
            }
        }
    }

    async fn serve(&mut self, stop: CancellationToken) -> Result<std::convert::Infallible, End> {
        let patience = sleep(self.ice_timeout);
        tokio::pin!(patience);
        loop {
            let wake = self.drain().await?;
            let feed = self.flow.feed.as_ref();
            let displaced = feed.map(|feed| feed.publication().displaced().clone());
            let connected = displaced.is_some();
            tokio::select! {
                datagram = self.line.inbox.recv() => {
                    self.line.receive(&datagram.ok_or(End::Stopped)?)?;
                }
                () = sleep_until(wake.into()) => {}
                () = gone(displaced) => {
                    let feed = self.flow.feed.as_ref();
                    return Err(feed.map_or(End::Stopped, |feed| feed.displaced().into()));
                }
                () = &mut patience, if !connected => return Err(End::IceTimeout),
                () = stop.cancelled() => return Err(End::Stopped),
            }
        }
    }

    async fn drain(&mut self) -> Result<Instant, End> {
        loop {
            match self.line.step().await? {
                Step::Event(event) => self.event(*event)?,
                Step::Wait(until) => {
                    let now = Instant::now();
                    let last = self.flow.last_picture;
                    let over = last.map(|last| last + self.idle).unwrap_or(until);
                    if last.is_some() && over <= now {
                        return Err(End::NoPicture(self.idle));
                    }
                    if self.ask_for_key(now) {
                        continue;
                    }
                    return Ok(until.min(over).min(now + ASK_EVERY));
                }
            }
        }
    }

    fn event(&mut self, event: Event) -> Result<(), End> {
        match event {
            Event::Connected => {
                let publication = self.entry.seat(&self.asker.caller(), &self.stream)?;
                self.flow.feed = Some(Feed::new(publication, Arc::clone(&self.entry.counters)));
                self.flow.last_picture = Some(Instant::now());
            }
            Event::IceConnectionStateChange(IceConnectionState::Disconnected) => {
                return Err(End::Silent);
            }
            Event::MediaData(data) => self.media(&data)?,
            _ => {}
        }
        Ok(())
    }

    fn media(&mut self, data: &MediaData) -> Result<(), End> {
        let Some(feed) = self.flow.feed.as_mut() else { return Ok(()) };
        let arrived = Arrival::now();
        match data.params.spec().codec {
            Codec::H264 if data.mid == self.video => {
                if !data.contiguous {
                    self.line.counters.pictures_lost.inc();
                    feed.lost();
                }
                self.flow.last_picture = Some(arrived.mono);
                // There are no B-frames in WebRTC: decoded in the order they are shown.
                let due = Due { dts_ms: (data.time.numer() / 90) as u32, composition_ms: 0 };
                feed.picture(VideoCodec::H264, due, &data.data, arrived)?;
            }
            Codec::Opus => {
                let time_ms = (data.time.numer() / 48) as u32;
                let (config, sound) = (opus_head(), Bytes::copy_from_slice(&data.data));
                feed.sound(AudioCodec::Opus, &config, time_ms, sound, arrived)?;
            }
            codec => {
                if !std::mem::replace(&mut self.flow.told_of_codec, true) {
                    tracing::warn!(stream = %self.stream, ?codec, "a medium is dropped: spotter takes H.264 and Opus by WebRTC");
                }
            }
        }
        Ok(())
    }

    /// Asks for a key frame where one is needed. True when it did.
    fn ask_for_key(&mut self, now: Instant) -> bool {
        let needed = self.flow.feed.as_ref().is_some_and(Feed::needs_key);
        let soon = self.flow.asked.is_some_and(|at| now.duration_since(at) < ASK_EVERY);
        if !needed || soon {
            return false;
        }
        self.flow.asked = Some(now);
        let Some(mut writer) = self.line.rtc.writer(self.video) else { return false };
        // Its stream may not have begun, or it agreed to no such requests: its own next one then.
        let asked = writer.request_keyframe(None, KeyframeRequestKind::Pli).is_ok();
        if asked {
            self.line.counters.keyframes_asked.inc();
        }
        asked
    }
}

/// RFC 7845 5.1, for two channels: what RTP says of Opus (RFC 7587 7).
fn opus_head() -> Bytes {
    Bytes::from_static(b"OpusHead\x01\x02\x38\x01\x80\xBB\0\0\0\0\0")
}

/// Waits for `token`; for ever without one.
async fn gone(token: Option<CancellationToken>) {
    match token {
        Some(token) => token.cancelled().await,
        None => std::future::pending().await,
    }
}
