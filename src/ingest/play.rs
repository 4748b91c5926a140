//! One RTMP connection that plays a stream: lets it in, then moves units from the ring to its socket until either ends.
//! What the messages look like is `relay::feed`'s business.

use std::ops::ControlFlow;
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

use super::connection::Connection;
use super::end::{ConnectionError, End};
use super::protocol::{Pause, Request};
use super::url::Token;
use crate::auth::Caller;
use crate::ingest::dechunk::{Message, kind};
use crate::media::ring::{Cursor, Gathered};
use crate::relay::feed::{Announce, Feed};
use crate::relay::outbox::{CHUNK_SIZE, Framing, Outbox, PourError};

/// A player says little: acknowledgements and pings.
const READ_BYTES: usize = 512;

/// What is being played.
pub(super) struct Player {
    cursor: Cursor,
    feed: Feed,
    outbox: Outbox,
}

/// Where a player stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Playing {
    #[default]
    No,
    Yes,
    Paused,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Connection<'_, S> {
    pub(super) fn is_playing(&self) -> bool {
        self.playing != Playing::No
    }

    /// Judges a request to play; an end when it is refused.
    pub(super) fn admit_player(
        &mut self,
        request: &Request,
    ) -> Result<Option<End>, ConnectionError> {
        let ctx = self.ctx;
        let counters = &ctx.reader_counters;
        const FAILED: &str = "NetStream.Play.Failed";
        const NOT_FOUND: &str = "NetStream.Play.StreamNotFound";
        let id = match &request.name {
            Ok(id) => id,
            Err(error) => {
                ctx.counters.refused_name.inc();
                return Ok(Some(self.refuse(request, NOT_FOUND, &error.to_string())));
            }
        };
        if self.live.is_some() || self.is_playing() {
            let text = "this connection has a stream already: open another one";
            return Ok(Some(self.refuse(request, FAILED, text)));
        }
        let token = request.token.as_ref().map(Token::secret);
        let caller = Caller { peer: self.peer, forwarded: false, token };
        let grant = match ctx.guard.may_read(&caller, id) {
            Ok(grant) => grant,
            Err(denied) => {
                counters.refused_denied.inc();
                return Ok(Some(self.refuse(request, FAILED, &denied.to_string())));
            }
        };
        let Some(stream) = ctx.streams.get(id) else {
            counters.refused_no_stream.inc();
            let text = format!("there is no stream {id} now: publish it, then play again");
            return Ok(Some(self.refuse(request, NOT_FOUND, &text)));
        };
        match ctx.readers.take(self.peer) {
            Ok(place) => self.place = place,
            Err(_) => {
                counters.refused_busy.inc();
                let text = "too many readers: see ingest.max_readers and max_readers_per_address";
                return Ok(Some(self.refuse(request, FAILED, text)));
            }
        }
        counters.readers.inc();
        info!(stream = %id, who = grant.who, "reader began");
        // Everything from here on comes in chunks that fit a picture.
        self.set_chunk_size(CHUNK_SIZE);
        for answer in self.protocol.accept_play(request)? {
            self.say(&answer);
        }
        let framing = Framing::Rtmp { stream: request.message_stream() };
        self.playing = Playing::Yes;
        self.player = Some(Box::new(Player {
            cursor: stream.ring.cursor(),
            feed: Feed::new(Announce::OnMetaData, stream.ring.newest_audio()),
            outbox: Outbox::new(framing),
        }));
        Ok(None)
    }

    pub(super) fn pause(&mut self, wanted: Pause) {
        self.playing = match wanted {
            Pause::Rest => Playing::Paused,
            Pause::GoOn => Playing::Yes,
        };
    }

    pub(super) fn unplay(&mut self) {
        info!("reader ended");
        self.playing = Playing::No;
    }

    /// Plays until an end; without one, the player closed the stream and may do something else.
    pub(super) async fn play(
        &mut self,
        mut player: Box<Player>,
        shutdown: &CancellationToken,
    ) -> Result<Option<End>, ConnectionError> {
        let counters = &self.ctx.reader_counters;
        let patience = Duration::from_secs(self.ctx.config.reader_stall_timeout_s);
        // What was read with is too big to keep for each of many readers.
        self.input = BytesMut::from(&self.input[..]);
        self.output.shrink_to(0);
        while self.is_playing() {
            let Player { cursor, feed, outbox } = &mut *player;
            let was = self.playing;
            let mut skipped = 0;
            let gathered = cursor.gather(|unit| {
                skipped += u64::from(!feed.take(unit, outbox));
                if outbox.is_full() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            });
            self.input.reserve(READ_BYTES);
            tokio::select! {
                gathered = gathered, if self.playing == Playing::Yes => match gathered {
                    Gathered::Units => {
                        counters.units_dropped.add(skipped);
                        outbox.pour(&mut self.socket, patience).await.map_err(|error| match error {
                            PourError::Io(error) => ConnectionError::Io(error),
                            PourError::Stalled(patience) => {
                                counters.readers_stalled.inc();
                                ConnectionError::Stalled(patience)
                            }
                        })?;
                    }
                    Gathered::Lagged { skipped } => {
                        counters.readers_lagged.inc();
                        counters.units_dropped.add(skipped);
                        feed.skipped();
                        debug!(skipped, "reader fell behind and goes on at the newest key frame");
                    }
                    Gathered::Ended => {
                        self.say_play_over("the stream is over");
                        return Ok(Some(End::Over));
                    }
                },
                read = self.socket.read_buf(&mut self.input) => {
                    let n = read?;
                    if n == 0 {
                        return Ok(Some(End::Eof));
                    }
                    self.ctx.counters.bytes.add(n as u64);
                    let acknowledgement = self.protocol.received(n);
                    acknowledgement.iter().for_each(|message| self.say(message));
                    if let Some(end) = self.take_all()? {
                        return Ok(Some(end));
                    }
                    if was == Playing::Paused && self.playing == Playing::Yes {
                        player.cursor.restart();
                        player.feed.skipped();
                    }
                    self.flush().await?;
                }
                () = shutdown.cancelled() => {
                    self.say_play_over("spotter is shutting down");
                    return Ok(Some(End::Shutdown));
                }
            }
        }
        Ok(None)
    }

    fn say_play_over(&mut self, text: &str) {
        self.protocol.play_over(text).iter().for_each(|message| self.say(message));
    }

    fn set_chunk_size(&mut self, size: usize) {
        let payload = (size as u32).to_be_bytes().to_vec().into();
        self.say(&Message { kind: kind::SET_CHUNK_SIZE, stream: 0, timestamp_ms: 0, payload });
        self.chunk_size = size;
    }
}
