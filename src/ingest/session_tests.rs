use std::time::Duration;

use proptest::prelude::*;

use super::super::testing::{B_FRAMES, GLASSES, OTHER, Tag, tags};
use super::*;

fn session() -> Session {
    Session::new(StreamId::new("s").unwrap(), None, Instant::now())
}

/// Feeds video tags; gives the pictures.
fn feed<'a>(session: &mut Session, tags: impl IntoIterator<Item = &'a Tag>) -> Vec<AccessUnit> {
    let video = tags.into_iter().filter(|t| t.kind == 9);
    let units =
        video.filter_map(|t| session.video(t.timestamp_ms, &t.payload, Arrival::now()).unwrap());
    units.collect()
}

fn pictures(units: &[AccessUnit]) -> String {
    let letter = |u: &AccessUnit| match (u.key, u.intact) {
        (true, true) => 'K',
        (false, true) => '.',
        (_, false) => 'x',
    };
    units.iter().map(letter).collect()
}

#[test]
fn a_whole_stream_is_intact() {
    let mut s = session();
    let units = feed(&mut s, &tags(GLASSES));
    assert_eq!(pictures(&units), "K..............K..............K........");
    assert_eq!(s.take_tally(), Tally::default());
    assert!(units[0].discontinuity && units[1..].iter().all(|u| !u.discontinuity));
    assert!(units.windows(2).all(|w| w[0].dts < w[1].dts));
    assert!(units.iter().all(|u| u.pts == u.dts));
    assert_eq!(units[0].dts, MediaTime::ZERO);
    assert_eq!(units[15].dts.as_millis(), 1000);
    assert_eq!((units[0].params.width, units[0].params.height), (214, 120));
}

/// What the glasses do when writes stall: of the video packets they drop two of three, whatever their type.
#[test]
fn two_of_three_packets_dropped_hold_until_the_next_idr() {
    let all = tags(GLASSES);
    let mut n = 0;
    let kept: Vec<_> = all
        .iter()
        .filter(|t| {
            n += u32::from(t.is_picture());
            !(t.is_picture() && (6..=14).contains(&n) && n % 3 != 0)
        })
        .collect();
    let mut s = session();
    assert_eq!(pictures(&feed(&mut s, kept)), "K.....xxxK..............K........");
    let tally = s.take_tally();
    assert_eq!((tally.gaps, tally.held), (1, 3));
}

#[test]
fn a_dropped_idr_holds_its_whole_gop() {
    let mut n = 0;
    let all = tags(GLASSES);
    let kept = all.iter().filter(|t| {
        n += u32::from(t.is_picture());
        !(t.is_picture() && n == 16)
    });
    let mut s = session();
    assert_eq!(pictures(&feed(&mut s, kept)), "K..............xxxxxxxxxxxxxxK........");
    assert_eq!(s.take_tally().gaps, 1);
}

#[test]
fn pictures_nobody_refers_to_may_be_missing() {
    let all = tags(B_FRAMES);
    let mut whole = session();
    let units = feed(&mut whole, &all);
    assert!(units.iter().all(|u| u.intact));
    assert!(units.iter().any(|u| u.pts > u.dts), "composition offsets are added");
    // The slice's NAL header; SEI may stand before it.
    let slice = |t: &Tag| {
        let body = if t.is_picture() { t.body() } else { Bytes::new() };
        let mut nals = crate::media::nal::split(&body, 4).map(|nal| nal.unwrap()[0]);
        nals.find(|header| matches!(header & 0x1F, 1..=5))
    };
    let unreferenced = |t: &Tag| slice(t).is_some_and(|header| header & 0x60 == 0);
    let mut s = session();
    let units = feed(&mut s, all.iter().filter(|t| !unreferenced(t)));
    assert!(units.iter().all(|u| u.intact) && s.take_tally().gaps == 0);
    // And one that others do refer to may not.
    let referenced = all.iter().position(|t| slice(t).is_some_and(|h| h & 0x7F == 0x41));
    let mut s = session();
    let kept = all.iter().enumerate().filter(|(i, _)| Some(*i) != referenced).map(|(_, t)| t);
    feed(&mut s, kept);
    assert_eq!(s.take_tally().gaps, 1);
}

#[test]
fn a_publisher_that_joins_without_a_key_frame_is_held() {
    let all = tags(GLASSES);
    let mut n = 0;
    let kept = all.iter().filter(|t| {
        n += u32::from(t.is_picture());
        !t.is_picture() || n > 10
    });
    let mut s = session();
    assert_eq!(pictures(&feed(&mut s, kept)), "xxxxxK..............K........");
    let tally = s.take_tally();
    assert_eq!((tally.gaps, tally.held), (0, 5));
}

#[test]
fn parameters_that_change_in_mid_stream_begin_something_new() {
    let mut s = session();
    feed(&mut s, &tags(GLASSES));
    let shifted: Vec<_> =
        tags(OTHER).into_iter().map(|t| Tag { timestamp_ms: t.timestamp_ms + 2600, ..t }).collect();
    let units = feed(&mut s, &shifted);
    assert_eq!((units[0].params.width, units[0].params.height), (318, 178));
    assert!(units[0].discontinuity && units[0].intact && units[0].key);
    assert!(units[1..].iter().all(|u| !u.discontinuity && u.intact));
    // The same record again changes nothing.
    let units = feed(&mut s, shifted.iter().filter(|t| !t.is_picture()));
    assert!(units.is_empty() && !s.discontinuity);
}

#[test]
fn sets_that_change_in_band_are_noticed() {
    let mut s = session();
    feed(&mut s, &tags(GLASSES));
    let other = tags(OTHER);
    let mut theirs = session();
    feed(&mut theirs, &other);
    let record = theirs.params().unwrap().record.clone();
    let (sps_len, nal) = (usize::from(record[7]), record.slice(8..));
    let (sps, pps) = (nal.slice(..sps_len), nal.slice(sps_len + 3..));
    let pps = pps.slice(..usize::from(nal[sps_len + 2]));
    let idr = other.iter().find(|t| t.is_picture()).unwrap();
    let mut payload = idr.payload[..5].to_vec();
    for nal in [sps, pps] {
        payload.extend((nal.len() as u32).to_be_bytes());
        payload.extend(nal);
    }
    payload.extend(idr.body());
    let unit = s.video(2700, &payload.into(), Arrival::now()).unwrap().unwrap();
    assert!(unit.key && unit.intact && unit.discontinuity);
    assert_eq!((unit.params.width, unit.params.height), (318, 178));
    assert!(avc::parse_record(&unit.params.record).is_ok());
}

#[test]
fn timestamps_that_wrap_or_start_anew_go_on() {
    let mut s = session();
    let near =
        |t: &Tag, base: u32| Tag { timestamp_ms: t.timestamp_ms.wrapping_add(base), ..t.clone() };
    let all = tags(GLASSES);
    let wrapped: Vec<_> = all.iter().map(|t| near(t, u32::MAX - 700)).collect();
    let units = feed(&mut s, &wrapped);
    assert_eq!(units[15].dts.as_millis(), 1000);
    assert_eq!(s.take_tally().time_jumps, 0);
    let again = feed(&mut s, all.iter().filter(|t| t.is_picture()));
    assert!(again[0].discontinuity && again[0].dts > units.last().unwrap().dts);
    assert!(again[0].dts.since(units.last().unwrap().dts) < Duration::from_secs(5));
    assert_eq!(s.take_tally().time_jumps, 1);
}

#[test]
fn a_returning_publisher_goes_on_by_the_clock() {
    let left = Instant::now();
    let resume = Some((MediaTime::from_millis(5000), left));
    let back = left + Duration::from_secs(3);
    let mut s = Session::new(StreamId::new("s").unwrap(), resume, back);
    let units = feed(&mut s, &tags(GLASSES));
    assert_eq!(units[0].dts.as_millis(), 8000);
    assert!(units[0].discontinuity);
}

#[test]
fn broken_pictures_are_counted_and_hold() {
    let mut s = session();
    let mut all = tags(GLASSES);
    let at = all.iter().position(|t| t.is_picture()).unwrap() + 4;
    let at = (at..).find(|i| all[*i].is_picture()).unwrap();
    let mut broken = all[at].payload.to_vec();
    broken[5] = 0x7F;
    all[at].payload = broken.into();
    let units = feed(&mut s, &all);
    assert!(units.iter().any(|u| !u.intact));
    let tally = s.take_tally();
    assert_eq!((tally.malformed, tally.gaps), (1, 1));
    let mut early = session();
    assert!(feed(&mut early, all.iter().filter(|t| t.is_picture())).is_empty());
}

#[test]
fn what_cannot_be_is_refused_by_name() {
    let now = Arrival::now();
    let h263 = session().video(0, &Bytes::from_static(b"\x22abc"), now).unwrap_err();
    assert!(h263.to_string().starts_with("Sorenson H.263 (FLV codec id 2) is not supported"));
    let cut = session().video(0, &Bytes::from_static(b"\x17\x00\x00\x00\x00\x01"), now);
    assert!(matches!(cut, Err(SessionError::Params(ParamsError::Broken("H.264")))));
}

#[test]
fn audio_is_carried_along() {
    let mut s = session();
    let all = tags(GLASSES);
    let audio = all.iter().filter(|t| t.kind == 8);
    let units: Vec<_> = audio
        .filter_map(|t| s.audio(t.timestamp_ms, &t.payload, Arrival::now()).unwrap())
        .collect();
    assert!(units.len() > 100);
    assert_eq!((units[0].params.sample_rate_hz, units[0].params.channels), (44_100, 1));
    assert!(units.windows(2).all(|w| w[0].pts < w[1].pts));
    let mp3 = s.audio(0, &Bytes::from_static(b"\x2fabc"), Arrival::now()).unwrap_err();
    assert!(mp3.to_string().starts_with("MP3 (FLV sound format 2) is not supported"));
    let opus = [&b"\x90OpusOpusHead\x01\x02"[..], &[0; 9]].concat();
    s.audio(0, &opus.into(), Arrival::now()).unwrap();
    let frame = Bytes::from_static(b"\x91Opusframe");
    let unit = s.audio(3000, &frame, Arrival::now()).unwrap().unwrap();
    assert_eq!((unit.params.codec, unit.params.channels), (AudioCodec::Opus, 2));
}

proptest! {
    /// Real messages cut, damaged, repeated and with any timestamp: nothing panics, decoding time only grows, and
    /// nothing is called intact after a loss without a key frame.
    #[test]
    fn any_damage(
        edits in prop::collection::vec((0usize..200, any::<u32>(), any::<u16>(), any::<u8>(), 0u8..6), 1..80),
    ) {
        let all: Vec<_> = tags(GLASSES).into_iter().chain(tags(B_FRAMES)).collect();
        let mut s = session();
        let mut last = None;
        for (tag, time, at, byte, edit) in edits {
            let tag = &all[tag % all.len()];
            let mut payload = tag.payload.to_vec();
            let at = usize::from(at) % payload.len().max(1);
            match edit {
                0 => payload.truncate(at),
                1 => payload[at] = byte,
                2 => payload = vec![byte; at],
                _ => {}
            }
            let time = if edit == 3 { time } else { tag.timestamp_ms };
            let before = s.gaps.intact();
            match tag.kind {
                8 => drop(s.audio(time, &payload.into(), Arrival::now())),
                _ => {
                    if let Ok(Some(unit)) = s.video(time, &payload.into(), Arrival::now()) {
                        prop_assert!(last.is_none_or(|last| unit.dts > last));
                        prop_assert!(!unit.intact || before || unit.key);
                        last = Some(unit.dts);
                    }
                }
            }
        }
    }
}
