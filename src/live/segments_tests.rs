use proptest::prelude::*;

use super::*;
use crate::live::playlist;
use crate::media::{Arrival, MediaTime, VideoCodec, VideoParams};

fn init(id: u64) -> Arc<Init> {
    let record = Bytes::from_static(&[1, 0x64, 0, 0x1F, 0xFF]);
    let (codec, nal_length_size) = (VideoCodec::H264, 4);
    let video = Arc::new(VideoParams { codec, width: 64, height: 48, record, nal_length_size });
    Arc::new(Init { id, mime: String::new(), segment: Bytes::new(), video, audio: None })
}

fn fragment(init: &Arc<Init>, ms: i64, key: bool) -> Fragment {
    Fragment {
        init: Arc::clone(init),
        data: Bytes::from(vec![0; 100]),
        key,
        start: MediaTime::from_millis(ms),
        duration: Duration::from_millis(40),
        arrived: Arrival {
            mono: std::time::Instant::now(),
            wall: SystemTime::UNIX_EPOCH + Duration::from_millis(ms.unsigned_abs()),
        },
    }
}

/// `seconds` of 25 pictures a second from `from_ms` on, a key frame every two seconds.
fn fill(segments: &mut Segments, init: &Arc<Init>, from_ms: i64, seconds: i64) {
    for n in 0..seconds * 25 {
        segments.push(fragment(init, from_ms + n * 40, n % 50 == 0));
    }
}

#[test]
fn a_playlist_as_players_read_it() {
    let mut segments = Segments::new(1 << 20);
    fill(&mut segments, &init(0), 0, 5);
    let text = playlist::media(&segments, Some("k y"));
    let expected = "#EXTM3U\n#EXT-X-VERSION:9\n#EXT-X-TARGETDURATION:2\n\
        #EXT-X-SERVER-CONTROL:CAN-BLOCK-RELOAD=YES,PART-HOLD-BACK=1.260\n\
        #EXT-X-PART-INF:PART-TARGET=0.420\n#EXT-X-MEDIA-SEQUENCE:0\n#EXT-X-DISCONTINUITY-SEQUENCE:0\n\
        #EXT-X-INDEPENDENT-SEGMENTS\n#EXT-X-MAP:URI=\"init-0.mp4?token=k+y\"\n\
        #EXT-X-PROGRAM-DATE-TIME:1970-01-01T00:00:00.000Z\n\
        #EXT-X-PART:DURATION=0.40000,URI=\"part-0-0.m4s?token=k+y\",INDEPENDENT=YES\n\
        #EXT-X-PART:DURATION=0.40000,URI=\"part-0-1.m4s?token=k+y\"\n";
    assert!(text.starts_with(expected), "{text}");
    for second in [2, 4] {
        assert!(
            text.contains(&format!("\n#EXT-X-PROGRAM-DATE-TIME:1970-01-01T00:00:0{second}.000Z\n")),
            "{text}"
        );
    }
    let end = "#EXT-X-PART:DURATION=0.40000,URI=\"part-2-1.m4s?token=k+y\"\n\
        #EXT-X-PRELOAD-HINT:TYPE=PART,URI=\"part-2-2.m4s?token=k+y\"\n";
    assert!(
        text.contains("#EXTINF:2.00000,\nseg-1.m4s?token=k+y\n") && text.ends_with(end),
        "{text}"
    );
    let index = playlist::index(&segments, None);
    let variant = "BANDWIDTH=20000,CODECS=\"avc1.64001f\",RESOLUTION=64x48\nmedia.m3u8\n";
    assert!(index.ends_with(variant), "{index}");
}

#[test]
fn what_is_announced_is_waited_for_and_nothing_else() {
    let mut segments = Segments::new(1 << 20);
    assert_eq!(segments.ready(), Found::Soon);
    fill(&mut segments, &init(0), 0, 5);
    assert_eq!(segments.open_number(), 2);
    let has = |number, part| segments.has(number, part);
    assert_eq!((has(1, None), has(2, Some(1))), (Found::Here(()), Found::Here(())));
    assert_eq!(
        (has(2, None), has(2, Some(2)), has(3, None)),
        (Found::Soon, Found::Soon, Found::Soon)
    );
    assert_eq!(has(4, None), Found::No);
    // Past the last part of a segment, the first of the next is meant.
    assert_eq!(has(1, Some(99)), Found::Here(()));
    assert_eq!(segments.part_data(2, 2), Found::Soon);
    assert_eq!((segments.part_data(2, 3), segments.part_data(9, 0)), (Found::No, Found::No));
    assert_eq!(segments.part_data(0, 0).map(|d| d.len()), Found::Here(1000));
    assert_eq!(segments.segment_data(0).map(|d| d.concat().len()), Found::Here(5000));
    segments.end();
    assert!(playlist::media(&segments, None).ends_with("#EXT-X-ENDLIST\n"));
}

#[test]
fn a_gap_or_new_tracks_are_a_discontinuity() {
    let mut segments = Segments::new(1 << 20);
    let (old, new) = (init(0), init(64_000));
    fill(&mut segments, &old, 0, 4);
    fill(&mut segments, &old, 60_000, 4);
    fill(&mut segments, &new, 64_000, 4);
    let text = playlist::media(&segments, None);
    assert_eq!(text.matches("#EXT-X-DISCONTINUITY\n").count(), 2, "{text}");
    assert_eq!(text.matches("#EXT-X-MAP").count(), 2, "{text}");
    assert_eq!(segments.longest, Duration::from_secs(2));
    assert!(segments.init(0).is_some() && segments.init(1).is_none());
    // When they are gone they are counted, so that players keep their place.
    fill(&mut segments, &new, 68_000, 20);
    assert_eq!(segments.discontinuities_gone, 2);
    assert_eq!(segments.complete.len(), KEPT);
    assert!(segments.init(0).is_none());
    assert_eq!(segments.segment_data(0), Found::No);
}

#[test]
fn numbers_never_come_twice() {
    let mut segments = Segments::new(1 << 20);
    fill(&mut segments, &init(0), 100_000, 4);
    assert_eq!(segments.first, 100);
}

proptest! {
    #[test]
    fn memory_is_bounded_and_time_is_kept(
        steps in prop::collection::vec((0i64..3000, prop::bool::weighted(0.1), any::<bool>(), 0usize..5000), 1..600),
    ) {
        let budget = 40_000;
        let mut segments = Segments::new(budget);
        let mut tracks = init(0);
        let mut ms = 0;
        for (step, key, new, len) in steps {
            ms += step;
            if key && new {
                tracks = init(ms.unsigned_abs());
            }
            let data = Bytes::from(vec![0; len]);
            segments.push(Fragment { data, ..fragment(&tracks, ms, key) });
            let kept: usize = segments.complete.iter().map(Segment::bytes).sum();
            prop_assert!(kept <= budget);
            let growing: usize = segments.growing.iter().map(|f| f.data.len()).sum();
            prop_assert!(segments.open.as_ref().map_or(0, Segment::bytes) + growing <= budget / 4 + 5000);
            prop_assert!(segments.complete.len() <= KEPT);
        }
        let _ = playlist::media(&segments, None);
    }
}
