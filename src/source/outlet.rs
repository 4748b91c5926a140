//! The way from a camera's H.264 into its stream: Annex B in, units on the stream's own time line out. It never waits.

use bytes::Bytes;
use parking_lot::Mutex;

use super::SourceCounters;
use crate::ingest::session::Session;
use crate::media::avc::AvcSets;
use crate::media::nal::from_annex_b;
use crate::media::stream::{Displaced, Publication};
use crate::media::{Arrival, Unit, VideoCodec};

/// Shared by a camera's thread and its encoder's.
#[derive(Debug)]
pub(crate) struct Outlet(Mutex<Inner>);

#[derive(Debug)]
struct Inner {
    publication: Publication,
    session: Session,
    begin: Arrival,
    /// Sets seen before the session has its first ones.
    sets: AvcSets,
}

impl Outlet {
    pub(crate) fn new(publication: Publication) -> Self {
        let begin = Arrival::now();
        let id = publication.stream().id.clone();
        let session = Session::new(id, publication.resume(), begin.mono);
        Self(Mutex::new(Inner { publication, session, begin, sets: AvcSets::default() }))
    }

    /// Whether the publication is over, and why.
    pub(crate) fn displaced(&self) -> Option<Displaced> {
        let inner = self.0.lock();
        let over = inner.publication.displaced().is_cancelled();
        over.then(|| inner.publication.why_displaced())
    }

    /// Publishes one access unit in Annex B. What comes before the first parameter sets is of no use to anyone.
    pub(crate) fn push(
        &self,
        unit: &[u8],
        taken: Arrival,
        counters: &SourceCounters,
    ) -> Result<(), Displaced> {
        let inner = &mut *self.0.lock();
        let data = Bytes::from(from_annex_b(unit));
        if inner.session.params().is_none() {
            // A broken one is passed over; the next key frame brings the sets again.
            let _ = inner.sets.look(&data, 4);
            let configured = inner
                .sets
                .record(4)
                .is_some_and(|record| inner.session.configure(VideoCodec::H264, &record).is_ok());
            if !configured {
                return Ok(());
            }
        }
        let since = taken.mono.saturating_duration_since(inner.begin.mono);
        // Wraps after 49 days like any publisher's, which the session knows.
        let ms = since.as_millis() as u32;
        let unit = inner.session.picture(VideoCodec::H264, ms, 0, data, taken);
        let tally = inner.session.take_tally();
        counters.units_malformed.add(tally.malformed);
        let stream = inner.publication.stream();
        stream.counters.gaps.add(tally.gaps);
        stream.counters.units_held.add(tally.held);
        unit.map_or(Ok(()), |unit| inner.publication.push(Unit::Video(unit)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ingest::testing;
    use crate::media::ring::Read;
    use crate::media::stream::{StreamLimits, Takeover};
    use crate::media::{StreamId, Streams};
    use std::time::Duration;

    #[tokio::test]
    async fn units_come_with_parameters_and_in_time() {
        let grace = Duration::from_secs(1);
        let streams =
            Streams::new(StreamLimits { max_streams: 1, gop_budget_bytes: 1 << 20, grace });
        let publication = streams.claim(&StreamId::new("cam").unwrap(), Takeover::Refused).unwrap();
        let mut cursor = publication.stream().ring.cursor();
        let outlet = Outlet::new(publication);
        let counters = SourceCounters::default();
        let (sets, idr, slice) = testing::annex_b();
        let begin = Arrival::now();
        let at = |ms: u64| Arrival { mono: begin.mono + Duration::from_millis(ms), ..begin };
        // Nothing can begin with this one.
        outlet.push(&slice, at(0), &counters).unwrap();
        outlet.push(&[sets, idr].concat(), at(100), &counters).unwrap();
        outlet.push(&slice, at(133), &counters).unwrap();
        let mut next = async || match cursor.next().await {
            Some(Read::Unit(Unit::Video(unit))) => unit,
            other => panic!("{other:?}"),
        };
        let (first, second) = (next().await, next().await);
        assert!(first.key && first.discontinuity && first.intact && !second.key);
        assert!((first.params.width, first.params.height) != (0, 0));
        let apart = second.pts.as_millis() - first.pts.as_millis();
        assert!((33..=34).contains(&apart), "{apart}");
        streams.pause();
        assert_eq!(outlet.displaced(), Some(Displaced::Paused));
        assert!(outlet.push(&slice, at(200), &counters).is_err());
    }
}
