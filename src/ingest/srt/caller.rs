//! One SRT publisher from its coming in to its end: its transport stream becomes units of its stream. How packets come, and
//! what is in a transport stream, is elsewhere.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;
use tracing::{info, info_span, warn};

use super::library::{Connection, MAX_MESSAGE_BYTES, Received};
use super::streamid::{self, BadStreamId};
use super::ts::{Adts, Demuxer, Pes, Time};
use super::{SrtContext, SrtCounters};
use crate::ingest::entry::{Due, Feed, Over, Refused, direct};
use crate::ingest::url::Token;
use crate::media::{Arrival, AudioCodec};
use crate::supervise::panic_text;

/// Packets that are judged together. Of random bytes one in some hundred looks like a packet of a transport stream: if more than
/// half do not, it is something else.
const JUDGED_PACKETS: u64 = 350;

/// Why a publisher's connection is over.
#[derive(Debug, thiserror::Error)]
enum End {
    #[error(transparent)]
    StreamId(#[from] BadStreamId),
    #[error(transparent)]
    Refused(#[from] Refused),
    #[error(transparent)]
    Over(#[from] Over),
    #[error("this is no MPEG transport stream: publish as -f mpegts")]
    NoTransportStream,
    #[error("no picture of H.264 or H.265 within {0:?}: see ingest.idle_timeout_s")]
    Idle(Duration),
    #[error("the publisher left")]
    Left,
    #[error("spotter is shutting down")]
    Shutdown,
}

pub(super) fn serve(connection: &Connection, ctx: &SrtContext, shutdown: &CancellationToken) {
    let span = info_span!("srt", peer = %connection.peer);
    let _in = span.enter();
    let served = || match publish(connection, ctx, shutdown) {
        Ok(never) => match never {},
        Err(end) => end,
    };
    match catch_unwind(AssertUnwindSafe(served)) {
        Ok(end) => {
            match end {
                End::NoTransportStream => ctx.counters.no_transport_stream.inc(),
                End::Idle(_) => ctx.counters.idle_timeouts.inc(),
                _ => {}
            }
            info!(%end, "connection ended");
        }
        Err(panic) => {
            ctx.entry.counters.connection_panics.inc();
            warn!(panic = panic_text(&*panic), "a caller's thread panicked; the others go on");
        }
    }
}

fn publish(
    connection: &Connection,
    ctx: &SrtContext,
    shutdown: &CancellationToken,
) -> Result<std::convert::Infallible, End> {
    // Judged once already, without a seat being taken; the token may be gone since.
    let wanted = streamid::parse(&connection.stream_id)?;
    let token = wanted.token.as_ref().map(Token::secret);
    let caller = direct(connection.peer.ip().to_canonical(), token);
    let publication = ctx.entry.seat(&caller, &wanted.stream)?;
    let feed = Feed::new(publication, ctx.entry.counters.clone());
    let mut publisher = Publisher::new(feed, ctx);
    let idle = Duration::from_secs(ctx.config.idle_timeout_s);
    let mut buffer = [0; MAX_MESSAGE_BYTES];
    loop {
        match connection.receive(&mut buffer) {
            Received::Message(n) => publisher.take(&buffer[..n], Arrival::now())?,
            Received::Nothing => {}
            Received::Gone => return Err(End::Left),
        }
        publisher.stays()?;
        if publisher.last_picture.elapsed() > idle {
            return Err(End::Idle(idle));
        }
        if shutdown.is_cancelled() {
            return Err(End::Shutdown);
        }
    }
}

struct Publisher<'a> {
    feed: Feed,
    demuxer: Demuxer,
    adts: Adts,
    counters: &'a SrtCounters,
    /// Packets since they were last judged, good and bad.
    good: u64,
    bad: u64,
    last_picture: Instant,
    told_of_sound: bool,
}

impl<'a> Publisher<'a> {
    fn new(feed: Feed, ctx: &'a SrtContext) -> Self {
        Self {
            feed,
            demuxer: Demuxer::new(ctx.config.max_message_bytes),
            adts: Adts::default(),
            counters: &ctx.counters,
            good: 0,
            bad: 0,
            last_picture: Instant::now(),
            told_of_sound: false,
        }
    }

    /// Nothing need come for a publisher to be sent away.
    fn stays(&self) -> Result<(), Over> {
        let publication = self.feed.publication();
        if publication.displaced().is_cancelled() {
            return Err(self.feed.displaced());
        }
        Ok(())
    }

    fn take(&mut self, message: &[u8], arrived: Arrival) -> Result<(), End> {
        self.counters.bytes.add(message.len() as u64);
        for pes in self.demuxer.push(message) {
            match pes {
                Pes::Video { codec, time, data } => {
                    self.last_picture = arrived.mono;
                    self.feed.picture(codec, due(time), &data, arrived)?;
                }
                Pes::Audio { time, data } => {
                    let (frames, skipped) = self.adts.push(&data);
                    self.counters.sounds_lost.add(u64::from(skipped > 0));
                    for frame in frames {
                        let at = due(time).dts_ms.wrapping_add(frame.after_ms);
                        self.feed.sound(AudioCodec::Aac, &frame.config, at, frame.data, arrived)?;
                    }
                }
            }
        }
        self.note();
        if self.good + self.bad >= JUDGED_PACKETS {
            if self.bad > self.good {
                return Err(End::NoTransportStream);
            }
            (self.good, self.bad) = (0, 0);
        }
        Ok(())
    }

    fn note(&mut self) {
        let tally = self.demuxer.take_tally();
        self.good += tally.packets;
        self.bad += tally.malformed;
        self.counters.packets_malformed.add(tally.malformed);
        self.counters.pictures_lost.add(tally.pictures_lost);
        self.counters.sounds_lost.add(tally.sounds_lost);
        if tally.pictures_lost > 0 {
            self.feed.lost();
        }
        if tally.sounds_lost > 0 {
            self.adts.restart();
        }
        if tally.sound_unknown > 0 && !std::mem::replace(&mut self.told_of_sound, true) {
            self.feed.no_sound();
            warn!("audio is not AAC with ADTS headers and is dropped; the video goes on");
        }
    }
}

/// From 90 kHz. Milliseconds wrap as RTMP's do, which the session knows.
fn due(time: Time) -> Due {
    let ms = |ticks: i64| ticks.div_euclid(90);
    let composition_ms = i32::try_from(ms(time.pts) - ms(time.dts)).unwrap_or(0);
    Due { dts_ms: ms(time.dts) as u32, composition_ms }
}
