//! What every way in shares: a publisher is judged and seated, its coded pictures and sound become units and are counted.
//! How they came here is each way's own business.

use std::net::IpAddr;
use std::sync::Arc;

use bytes::Bytes;
use tracing::info;

use super::counters::IngestCounters;
use super::server::Gate;
use super::session::{Session, SessionError};
use crate::auth::{Caller, Denied};
use crate::media::avc::AvcSets;
use crate::media::hevc::HevcSets;
use crate::media::nal::from_annex_b;
use crate::media::stream::{ClaimError, Displaced, Publication, Takeover};
use crate::media::{Arrival, AudioCodec, StreamId, StreamStatus, Streams, Unit, VideoCodec};

/// What is behind every front door.
#[derive(Debug, Clone)]
pub struct Entry {
    pub streams: Arc<Streams>,
    pub guard: Arc<dyn Gate>,
    pub counters: Arc<IngestCounters>,
}

/// Why a publisher has no seat. The texts go to it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    #[error(transparent)]
    Denied(#[from] Denied),
    #[error(transparent)]
    Claim(#[from] ClaimError),
}

impl Entry {
    /// Makes the caller the publisher of `id`, if it may be; counts it if not.
    pub fn seat(&self, caller: &Caller<'_>, id: &StreamId) -> Result<Publication, Refused> {
        let seated = self.try_seat(caller, id);
        if let Err(refused) = &seated {
            self.count(refused);
        }
        seated
    }

    /// What [`Self::seat`] would say now, without sitting down: for callers that have yet to prove something else.
    pub fn look(&self, caller: &Caller<'_>, id: &StreamId) -> Result<(), Refused> {
        let grant = self.guard.may_publish(caller, id)?;
        if self.streams.is_paused() {
            return Err(ClaimError::Paused.into());
        }
        let taken = self.streams.get(id).map(|s| s.summary().status);
        if taken == Some(StreamStatus::Online) && !grant.takeover {
            return Err(ClaimError::Taken(id.clone()).into());
        }
        Ok(())
    }

    fn try_seat(&self, caller: &Caller<'_>, id: &StreamId) -> Result<Publication, Refused> {
        let grant = self.guard.may_publish(caller, id)?;
        let takeover = if grant.takeover { Takeover::Allowed } else { Takeover::Refused };
        let publication = self.streams.claim(id, takeover)?;
        if let Some(token) = &grant.token {
            publication.sign(token);
        }
        let resumed = publication.resume().is_some();
        info!(stream = %id, who = grant.who, resumed, "publisher began");
        Ok(publication)
    }

    pub fn count(&self, refused: &Refused) {
        let counters = &self.counters;
        match refused {
            Refused::Denied(_) => counters.refused_token.inc(),
            Refused::Claim(ClaimError::Taken(_)) => counters.refused_taken.inc(),
            Refused::Claim(ClaimError::TooMany(_)) => counters.refused_too_many_streams.inc(),
            Refused::Claim(ClaimError::Paused) => counters.refused_paused.inc(),
        }
    }
}

/// Counts what a session met since the last time.
pub(super) fn note(session: &mut Session, publication: &Publication, counters: &IngestCounters) {
    let tally = session.take_tally();
    counters.units_malformed.add(tally.malformed);
    counters.time_jumps.add(tally.time_jumps);
    let stream = publication.stream();
    stream.counters.gaps.add(tally.gaps);
    stream.counters.units_held.add(tally.held);
}

/// One publication whose parameter sets come in-band: Annex B in, units on the stream's own time line out.
#[derive(Debug)]
pub struct Feed {
    publication: Publication,
    session: Session,
    counters: Arc<IngestCounters>,
    avc: AvcSets,
    hevc: HevcSets,
    announced: bool,
    needs_key: bool,
}

/// When a picture or sound is due, on its publisher's clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Due {
    /// When it is decoded; wraps.
    pub dts_ms: u32,
    /// How much later it is shown.
    pub composition_ms: i32,
}

/// Why a publication is over although its publisher goes on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Over {
    #[error(transparent)]
    Displaced(#[from] Displaced),
    #[error(transparent)]
    Media(#[from] SessionError),
}

impl Feed {
    pub fn new(publication: Publication, counters: Arc<IngestCounters>) -> Self {
        let id = publication.stream().id.clone();
        let session = Session::new(id, publication.resume(), Arrival::now().mono);
        let (avc, hevc) = (AvcSets::default(), HevcSets::default());
        Self { publication, session, counters, avc, hevc, announced: false, needs_key: true }
    }

    pub fn publication(&self) -> &Publication {
        &self.publication
    }

    /// Takes one coded picture in Annex B. What comes before the first parameter sets is of no use to anyone.
    pub fn picture(
        &mut self,
        codec: VideoCodec,
        due: Due,
        annex_b: &[u8],
        arrived: Arrival,
    ) -> Result<(), Over> {
        let data = Bytes::from(from_annex_b(annex_b));
        if let Some(record) = self.record(codec, &data) {
            self.session.configure(codec, &record).inspect_err(|_| {
                self.counters.refused_video.inc();
            })?;
        }
        let known = self.session.params().is_some_and(|p| p.codec == codec);
        let unit = if known {
            self.session.picture(codec, due.dts_ms, due.composition_ms, data, arrived)
        } else {
            None
        };
        note(&mut self.session, &self.publication, &self.counters);
        if let (false, Some(params)) = (self.announced, self.session.params()) {
            self.announced = true;
            let (codec, width, height) = (params.codec.name(), params.width, params.height);
            info!(stream = %self.publication.stream().id, codec, width, height, "video");
        }
        match unit {
            Some(unit) => {
                self.needs_key = !unit.intact;
                self.push(Unit::Video(unit))
            }
            None => Ok(()),
        }
    }

    /// Whether no picture can be decoded rightly before the next key frame, for publishers that can be asked for one.
    pub fn needs_key(&self) -> bool {
        self.needs_key
    }

    /// A decoder configuration that the session does not have yet. Later changes of H.264's it sees for itself.
    fn record(&mut self, codec: VideoCodec, data: &[u8]) -> Option<Bytes> {
        let known = self.session.params().is_some_and(|p| p.codec == codec);
        // One with broken lengths cannot come out of Annex B.
        match codec {
            VideoCodec::H264 if known => None,
            VideoCodec::H264 => {
                let seen = self.avc.look(data, 4).ok()?;
                // The picture that a decoder begins with comes with both sets.
                (seen.slice.is_some()).then(|| self.avc.record(4)).flatten()
            }
            VideoCodec::H265 => {
                let new = self.hevc.look(data, 4).ok()?;
                if new || !known { self.hevc.record() } else { None }
            }
        }
    }

    /// Takes one frame of sound.
    pub fn sound(
        &mut self,
        codec: AudioCodec,
        config: &Bytes,
        time_ms: u32,
        data: Bytes,
        arrived: Arrival,
    ) -> Result<(), Over> {
        self.session.configure_sound(codec, config.clone());
        let unit = self.session.sound(codec, time_ms, data, arrived);
        note(&mut self.session, &self.publication, &self.counters);
        match unit {
            Some(unit) => self.push(Unit::Audio(unit)),
            None => Ok(()),
        }
    }

    /// A picture was lost on the way here.
    pub fn lost(&mut self) {
        self.needs_key = true;
        self.session.malformed();
        note(&mut self.session, &self.publication, &self.counters);
    }

    /// The publisher sends sound that is not carried.
    pub fn no_sound(&self) {
        self.counters.audio_dropped.inc();
    }

    /// Counts that the publication is over, and says why.
    pub fn displaced(&self) -> Over {
        self.count_displaced(self.publication.why_displaced())
    }

    fn count_displaced(&self, why: Displaced) -> Over {
        self.counters.displaced.inc();
        why.into()
    }

    fn push(&self, unit: Unit) -> Result<(), Over> {
        self.publication.push(unit).map_err(|why| self.count_displaced(why))
    }
}

/// A caller whose connection speaks for itself: nothing forwards it.
pub(super) fn direct(peer: IpAddr, token: Option<&str>) -> Caller<'_> {
    Caller { peer, forwarded: false, token }
}
