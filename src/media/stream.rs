//! The streams there are: who publishes each, whether it is live, and what was counted of it.
//! A stream outlives its publisher's connection by a grace time, so that readers stay attached over a reconnect.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use serde::Serialize;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::advice::{Advice, Advisor, Signs};
use super::link::{Link, LinkMeter};
use super::ring::Ring;
use super::unit::{MediaTime, StreamId, Unit, VideoParams};
use crate::adapt::BoardSigns;
use crate::health::{Counter, Latency};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum StreamStatus {
    /// A publisher is connected.
    Online,
    /// The publisher left less than the grace time ago.
    Waiting,
}

impl StreamStatus {
    /// As messages say it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Online => "online",
            Self::Waiting => "waiting",
        }
    }
}

/// One stream by name, shared by its publisher and all its readers.
#[derive(Debug)]
pub struct Stream {
    pub id: StreamId,
    pub ring: Arc<Ring>,
    pub counters: StreamCounters,
    seat: Mutex<Seat>,
    advisor: Mutex<Advisor>,
}

/// The publisher's place at a stream.
#[derive(Debug, Default)]
struct Seat {
    /// Grows with each publisher; a publication of an older turn is void.
    turn: u64,
    displaced: Option<CancellationToken>,
    /// Set when the publisher left.
    left: Option<Instant>,
    /// The newest unit's time and when it came: where a returning publisher's time line goes on.
    last: Option<(MediaTime, Instant)>,
    params: Option<Arc<VideoParams>>,
    link: LinkMeter,
    /// By which token's name the publisher came in; `None` for those without a name.
    by: Option<String>,
    /// The last publisher was sent away with its token.
    revoked: bool,
}

/// What is counted of one stream, each drop under its own name.
#[derive(Debug, Default, Serialize)]
pub struct StreamCounters {
    pub video_units: Counter,
    pub audio_units: Counter,
    pub bytes: Counter,
    pub publishers: Counter,
    /// Times that reference pictures were found missing, and units held back until the next IDR for it.
    pub gaps: Counter,
    pub units_held: Counter,
    /// Units the decoder never saw because it was overtaken.
    pub units_skipped: Counter,
    /// Units not decoded because detection was off and nobody asked for a picture. Those since the newest key frame are
    /// decoded after all when somebody does.
    pub units_unwanted: Counter,
    /// Pictures that no other refers to, left out because the decoder was behind or on its way to where it is wanted.
    pub units_unreferenced: Counter,
    pub frames_decoded: Counter,
    /// Decoded only to get from a key frame to the moment at which pictures were wanted again.
    pub frames_caught_up: Counter,
    pub decoder_errors: Counter,
    /// Decoded frames that no detection was due for, and due ones a newer frame replaced.
    pub frames_not_due: Counter,
    pub frames_displaced: Counter,
    pub frames_detected: Counter,
    /// Visits that began.
    pub animals: Counter,
    #[serde(skip)]
    pub decode: Latency,
    #[serde(skip)]
    pub wait: Latency,
    #[serde(skip)]
    pub infer: Latency,
    #[serde(skip)]
    pub total: Latency,
}

/// What an onlooker sees of a stream; a new list is sent whenever one changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamSummary {
    pub id: StreamId,
    pub status: StreamStatus,
    /// Known from the first parameters on.
    pub params: Option<Arc<VideoParams>>,
}

/// Why a name cannot be published to now. The texts go to the publisher: none may contain "Authentication" or
/// "Unauthorized", on which the glasses would give up for good.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ClaimError {
    #[error(
        "stream {0} already has a publisher: stop that one, choose another name, or use a token that may take over"
    )]
    Taken(StreamId),
    #[error("there are already {0} streams: end one, or raise ingest.max_streams")]
    TooMany(usize),
    #[error("spotter is paused for privacy: end the pause on its page, by its button or over MQTT")]
    Paused,
}

/// All streams of this node.
#[derive(Debug)]
pub struct Streams {
    all: Mutex<BTreeMap<StreamId, Arc<Stream>>>,
    summary: watch::Sender<Arc<[StreamSummary]>>,
    limits: StreamLimits,
    /// Read and written under `all`'s lock only.
    paused: AtomicBool,
}

#[derive(Debug, Clone, Copy)]
pub struct StreamLimits {
    pub max_streams: usize,
    /// Coded media kept per stream.
    pub gop_budget_bytes: usize,
    /// How long a stream outlives its publisher.
    pub grace: Duration,
}

impl Streams {
    pub fn new(limits: StreamLimits) -> Arc<Self> {
        let summary = watch::Sender::new(Arc::new([]) as Arc<[StreamSummary]>);
        let paused = AtomicBool::new(false);
        Arc::new(Self { all: Mutex::default(), summary, limits, paused })
    }

    /// Makes the caller the publisher of `id`. With `takeover` a present publisher is displaced.
    pub fn claim(
        self: &Arc<Self>,
        id: &StreamId,
        takeover: Takeover,
    ) -> Result<Publication, ClaimError> {
        let stream = {
            let mut all = self.all.lock();
            if self.is_paused() {
                return Err(ClaimError::Paused);
            }
            if !all.contains_key(id) && all.len() >= self.limits.max_streams {
                return Err(ClaimError::TooMany(self.limits.max_streams));
            }
            let fresh = || Arc::new(Stream::new(id.clone(), self.limits.gop_budget_bytes));
            let stream = Arc::clone(all.entry(id.clone()).or_insert_with(fresh));
            // Still under the map's lock: sweep() must not remove the stream between the look and the claim.
            stream.seat.lock().sit(id, takeover)?;
            stream
        };
        let seat = stream.seat.lock();
        let publication = Publication {
            turn: seat.turn,
            displaced: seat.displaced.clone().unwrap_or_default(),
            resume: seat.last,
            stream: Arc::clone(&stream),
            streams: Arc::clone(self),
        };
        drop(seat);
        stream.counters.publishers.inc();
        self.announce();
        Ok(publication)
    }

    pub fn get(&self, id: &StreamId) -> Option<Arc<Stream>> {
        self.all.lock().get(id).cloned()
    }

    pub fn list(&self) -> Vec<Arc<Stream>> {
        self.all.lock().values().cloned().collect()
    }

    /// The newest list of streams, and a wake-up at each change of it.
    pub fn watch(&self) -> watch::Receiver<Arc<[StreamSummary]>> {
        self.summary.subscribe()
    }

    /// Ends the streams whose publisher left longer ago than the grace time.
    pub fn sweep(&self, now: Instant) {
        let grace = self.limits.grace;
        self.end_where(|seat| {
            seat.left.is_some_and(|left| now.saturating_duration_since(left) >= grace)
        });
    }

    /// Ends every stream; readers finish what they have.
    pub fn close_all(&self) {
        self.end_where(|_| true);
    }

    /// Sends every publisher away, ends every stream at once, and lets nobody publish until [`Self::resume`].
    pub fn pause(&self) {
        let ended = {
            let mut all = self.all.lock();
            self.paused.store(true, Ordering::Relaxed);
            for stream in all.values() {
                stream.seat.lock().clear();
                stream.ring.close();
            }
            !std::mem::take(&mut *all).is_empty()
        };
        if ended {
            self.announce();
        }
    }

    /// Sends every publisher away that came in by a token which is no longer good. Whose streams they were.
    pub fn send_away_unless(&self, good: impl Fn(&str) -> bool) -> Vec<StreamId> {
        let over = |stream: &Stream| {
            let mut seat = stream.seat.lock();
            let over = seat.left.is_none() && seat.by.as_deref().is_some_and(|by| !good(by));
            if over {
                seat.clear();
                seat.revoked = true;
            }
            over
        };
        let sent: Vec<StreamId> =
            self.all.lock().values().filter(|s| over(s)).map(|s| s.id.clone()).collect();
        if !sent.is_empty() {
            self.announce();
        }
        sent
    }

    pub fn resume(&self) {
        let _all = self.all.lock();
        self.paused.store(false, Ordering::Relaxed);
    }

    pub fn is_paused(&self) -> bool {
        self.paused.load(Ordering::Relaxed)
    }

    fn end_where(&self, over: impl Fn(&Seat) -> bool) {
        let mut ended = false;
        self.all.lock().retain(|_, stream| {
            let end = over(&stream.seat.lock());
            if end {
                stream.ring.close();
                ended = true;
            }
            !end
        });
        if ended {
            self.announce();
        }
    }

    fn announce(&self) {
        self.summary.send_modify(|summary| {
            *summary = self.all.lock().values().map(|s| s.summary()).collect();
        });
    }
}

/// Whether a claim may displace a present publisher.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Takeover {
    Allowed,
    Refused,
}

impl Seat {
    fn sit(&mut self, id: &StreamId, takeover: Takeover) -> Result<(), ClaimError> {
        let taken = self.turn > 0 && self.left.is_none();
        if taken && takeover == Takeover::Refused {
            return Err(ClaimError::Taken(id.clone()));
        }
        if let Some(previous) = self.displaced.replace(CancellationToken::new()) {
            previous.cancel();
        }
        self.turn += 1;
        self.left = None;
        self.by = None;
        self.revoked = false;
        self.link.restart();
        Ok(())
    }

    /// Sends a publisher away without putting another in the place.
    fn clear(&mut self) {
        if let Some(previous) = self.displaced.take() {
            previous.cancel();
        }
        self.turn += 1;
        self.left = Some(Instant::now());
    }
}

impl Stream {
    fn new(id: StreamId, gop_budget_bytes: usize) -> Self {
        Self {
            id,
            ring: Ring::new(gop_budget_bytes),
            counters: StreamCounters::default(),
            seat: Mutex::default(),
            advisor: Mutex::default(),
        }
    }

    /// How the publisher's link does.
    pub fn link(&self, now: Instant) -> Link {
        self.seat.lock().link.read(now)
    }

    /// What the publisher is advised to send.
    pub fn advice(&self) -> Advice {
        self.advisor.lock().advice()
    }

    /// Takes note of how link and board stand, about once a second however often it is asked.
    pub fn advise(&self, board: BoardSigns, now: Instant) {
        let (online, link) = {
            let seat = self.seat.lock();
            (seat.left.is_none(), seat.link.read(now))
        };
        let (gaps, publications) = (self.counters.gaps.get(), self.counters.publishers.get());
        self.advisor.lock().look(&Signs { online, link, gaps, publications, board }, now);
    }

    /// Whether its publisher is there.
    pub fn is_online(&self) -> bool {
        self.seat.lock().left.is_none()
    }

    pub fn summary(&self) -> StreamSummary {
        let seat = self.seat.lock();
        let status = if seat.left.is_some() { StreamStatus::Waiting } else { StreamStatus::Online };
        StreamSummary { id: self.id.clone(), status, params: seat.params.clone() }
    }
}

/// The right to push units into a stream, given up by dropping it.
#[derive(Debug)]
pub struct Publication {
    stream: Arc<Stream>,
    streams: Arc<Streams>,
    turn: u64,
    displaced: CancellationToken,
    resume: Option<(MediaTime, Instant)>,
}

/// Why a publication is over although its publisher did not end it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Displaced {
    #[error("another publisher took this stream over")]
    TakenOver,
    #[error("spotter was paused for privacy")]
    Paused,
    /// Glasses look for the first word and stop trying, which is right here.
    #[error("Unauthorized: the token of this publisher was revoked")]
    Revoked,
}

impl Publication {
    pub fn stream(&self) -> &Arc<Stream> {
        &self.stream
    }

    /// Where an earlier publisher's time line ended and when its last unit came; `None` on a new stream.
    pub fn resume(&self) -> Option<(MediaTime, Instant)> {
        self.resume
    }

    /// Cancelled when another publisher takes over, and at a pause.
    pub fn displaced(&self) -> &CancellationToken {
        &self.displaced
    }

    /// Of a publication that was displaced.
    pub fn why_displaced(&self) -> Displaced {
        if self.streams.is_paused() {
            Displaced::Paused
        } else if self.stream.seat.lock().revoked {
            Displaced::Revoked
        } else {
            Displaced::TakenOver
        }
    }

    /// Says by which token the publisher came in, so that it can be sent away with it.
    pub fn sign(&self, token: &str) {
        let mut seat = self.stream.seat.lock();
        if seat.turn == self.turn {
            seat.by = Some(token.to_owned());
        }
    }

    /// Hands a unit to all readers. Never waits.
    pub fn push(&self, unit: Unit) -> Result<(), Displaced> {
        let counters = &self.stream.counters;
        let mut new_params = false;
        {
            let mut seat = self.stream.seat.lock();
            if seat.turn != self.turn {
                drop(seat);
                return Err(self.why_displaced());
            }
            let (pts, mono) = match &unit {
                Unit::Video(u) => {
                    seat.link.picture(u.arrived.mono, u.dts, unit.len());
                    (u.pts, u.arrived.mono)
                }
                Unit::Audio(u) => {
                    seat.link.sound(unit.len());
                    (u.pts, u.arrived.mono)
                }
            };
            let newest = seat.last.map_or(pts, |(last, _)| last.max(pts));
            seat.last = Some((newest, mono));
            if let Unit::Video(u) = &unit
                && seat.params.as_ref() != Some(&u.params)
            {
                seat.params = Some(Arc::clone(&u.params));
                new_params = true;
            }
        }
        counters.bytes.add(unit.len() as u64);
        match &unit {
            Unit::Video(_) => counters.video_units.inc(),
            Unit::Audio(_) => counters.audio_units.inc(),
        }
        self.stream.ring.push(unit);
        if new_params {
            self.streams.announce();
        }
        Ok(())
    }
}

impl Drop for Publication {
    fn drop(&mut self) {
        {
            let mut seat = self.stream.seat.lock();
            if seat.turn != self.turn {
                return;
            }
            seat.left = Some(Instant::now());
        }
        self.streams.announce();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn streams() -> Arc<Streams> {
        Streams::new(StreamLimits {
            max_streams: 2,
            gop_budget_bytes: 1000,
            grace: Duration::from_secs(15),
        })
    }

    fn id(name: &str) -> StreamId {
        StreamId::new(name).unwrap()
    }

    #[test]
    fn a_second_publisher_needs_the_right_to_take_over() {
        let streams = streams();
        let first = streams.claim(&id("a"), Takeover::Refused).unwrap();
        let refused = streams.claim(&id("a"), Takeover::Refused).unwrap_err();
        assert_eq!(refused, ClaimError::Taken(id("a")));
        let second = streams.claim(&id("a"), Takeover::Allowed).unwrap();
        assert!(first.displaced().is_cancelled());
        assert!(!second.displaced().is_cancelled());
        drop(first);
        assert_eq!(streams.watch().borrow()[0].status, StreamStatus::Online);
    }

    #[tokio::test]
    async fn a_stream_outlives_its_publisher_by_the_grace_time() {
        let streams = streams();
        let first = streams.claim(&id("a"), Takeover::Refused).unwrap();
        let mut reader = first.stream().ring.cursor();
        drop(first);
        let now = Instant::now();
        streams.sweep(now);
        assert_eq!(streams.watch().borrow()[0].status, StreamStatus::Waiting);
        let again = streams.claim(&id("a"), Takeover::Refused).unwrap();
        streams.sweep(now + Duration::from_secs(60));
        assert_eq!(streams.list().len(), 1);
        drop(again);
        streams.sweep(Instant::now() + Duration::from_secs(60));
        assert!(streams.list().is_empty());
        assert!(reader.next().await.is_none());
    }

    #[test]
    fn a_publisher_is_sent_away_with_its_token_and_nobody_else() {
        let streams = streams();
        let revoke = |token: &str| streams.send_away_unless(|by| by != token);
        let cam = streams.claim(&id("a"), Takeover::Refused).unwrap();
        assert!(revoke("cam").is_empty(), "it came without a token");
        cam.sign("cam");
        assert!(revoke("other").is_empty());
        assert_eq!(revoke("cam"), [id("a")]);
        assert!(cam.displaced().is_cancelled());
        assert_eq!(cam.why_displaced(), Displaced::Revoked);
        assert_eq!(streams.watch().borrow()[0].status, StreamStatus::Waiting);
        assert!(revoke("cam").is_empty(), "it is gone");
        // Its place is free for another, and what the first does late does not matter.
        let other = streams.claim(&id("a"), Takeover::Refused).unwrap();
        cam.sign("cam");
        assert!(revoke("cam").is_empty());
        drop(cam);
        assert_eq!(streams.watch().borrow()[0].status, StreamStatus::Online);
        assert!(!other.displaced().is_cancelled());
    }

    #[test]
    fn the_number_of_streams_is_bounded() {
        let streams = streams();
        let _a = streams.claim(&id("a"), Takeover::Refused).unwrap();
        let _b = streams.claim(&id("b"), Takeover::Refused).unwrap();
        let refused = streams.claim(&id("c"), Takeover::Refused).unwrap_err();
        assert_eq!(refused, ClaimError::TooMany(2));
    }
}
