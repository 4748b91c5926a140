use super::*;
use proptest::prelude::*;

const LIMITS: Limits =
    Limits { max_message_bytes: 1 << 20, max_chunk_streams: 8, max_partial_bytes: 2 << 20 };

fn all(d: &mut Dechunker, bytes: &[u8]) -> Result<Vec<Message>, DechunkError> {
    let mut input = BytesMut::from(bytes);
    let mut out = Vec::new();
    while let Some(message) = d.next(&mut input)? {
        out.push(message);
    }
    Ok(out)
}

fn message(kind: u8, stream: u32, timestamp_ms: u32, payload: &[u8]) -> Message {
    Message { kind, stream, timestamp_ms, payload: Bytes::copy_from_slice(payload) }
}

fn chunks(csid: u8, message: &Message, chunk_size: usize) -> Vec<u8> {
    let mut out = Vec::new();
    write_message(&mut out, csid, message, chunk_size);
    out
}

/// The same bytes cut where each chunk begins.
fn pieces(csid: u8, message: &Message, chunk_size: usize) -> Vec<Vec<u8>> {
    let whole = chunks(csid, message, chunk_size);
    let extended = if message.timestamp_ms >= EXTENDED { 4 } else { 0 };
    let (head, first) = (12 + extended, message.payload.len().min(chunk_size));
    let (first, mut rest) = whole.split_at(head + first);
    let mut out = vec![first.to_vec()];
    while !rest.is_empty() {
        let (piece, after) = rest.split_at((1 + extended + chunk_size).min(rest.len()));
        out.push(piece.to_vec());
        rest = after;
    }
    out
}

#[test]
fn messages_interleaved_on_two_chunk_streams() {
    let video = message(kind::VIDEO, 1, 40, &[7; 300]);
    let audio = message(kind::AUDIO, 1, 41, &[8; 200]);
    let (v, a) = (pieces(4, &video, 128), pieces(6, &audio, 128));
    let bytes = [&v[0][..], &a[0], &v[1], &a[1], &v[2]].concat();
    assert_eq!(all(&mut Dechunker::new(LIMITS), &bytes), Ok(vec![audio, video]));
}

#[test]
fn chunk_stream_ids_of_one_two_and_three_bytes() {
    let body = [&[0; 3][..], &[0, 0, 1, 9, 1, 0, 0, 0, 42]].concat();
    for head in [&[5][..], &[0, 200], &[1, 200, 3]] {
        let got = all(&mut Dechunker::new(LIMITS), &[head, &body].concat());
        assert_eq!(got, Ok(vec![message(9, 1, 0, &[42])]), "{head:?}");
    }
    // 64 + 1 + 256 * 0 by three bytes is 65 by two: the same chunk stream.
    let first = [&[1, 1, 0][..], &body].concat();
    let again = [0xC0, 1, 43];
    let got = all(&mut Dechunker::new(LIMITS), &[&first[..], &again].concat()).unwrap();
    assert_eq!(got[1].payload[..], [43]);
}

#[test]
fn deltas_add_up_and_wrap() {
    let full = |t: u32| [&[4][..], &t.to_be_bytes()[1..], &[0, 0, 1, 9, 1, 0, 0, 0, 1]].concat();
    let bytes = [
        &full(1000)[..],
        &[0x44, 0, 0, 40, 0, 0, 2, 9, 1, 1], // type 1: +40, two bytes
        &[0x84, 0, 0, 30, 1, 1],             // type 2: +30
        &[0xC4, 1, 1],                       // type 3: +30 again
    ];
    let got = all(&mut Dechunker::new(LIMITS), &bytes.concat()).unwrap();
    let times: Vec<_> = got.iter().map(|m| m.timestamp_ms).collect();
    assert_eq!(times, [1000, 1040, 1070, 1100]);
}

#[test]
fn librtmp_goes_back_by_a_huge_delta() {
    // Its audio and video share a chunk stream; a step back of 10 ms is sent as 2^32 - 10.
    let first = chunks(4, &message(9, 1, 100, &[1]), 128);
    let back = [&[0x44, 255, 255, 255, 0, 0, 1, 8][..], &[255, 255, 255, 246, 2]].concat();
    let got = all(&mut Dechunker::new(LIMITS), &[first, back].concat()).unwrap();
    assert_eq!((got[1].timestamp_ms, got[1].kind), (90, 8));
}

#[test]
fn extended_timestamps_repeated_or_not() {
    let video = message(9, 1, 0x0123_4567, &[7; 300]);
    let repeated = chunks(4, &video, 128);
    assert_eq!(all(&mut Dechunker::new(LIMITS), &repeated), Ok(vec![video.clone()]));
    let mut bare = pieces(4, &video, 128);
    bare.iter_mut().skip(1).for_each(|piece| drop(piece.drain(1..5)));
    // A following type 3 message from such a peer has no field either.
    let bytes = [bare.concat(), vec![0xC4; 1], vec![9; 128], vec![0xC4], vec![9; 128]].concat();
    let bytes = [&bytes[..], &[0xC4], &[9; 44]].concat();
    let got = all(&mut Dechunker::new(LIMITS), &bytes).unwrap();
    assert_eq!(got[0], video);
    assert_eq!(got[1].payload[..], [9; 300]);
}

#[test]
fn a_type_1_chunk_may_open_a_chunk_stream() {
    let ping = [0x42, 0, 0, 5, 0, 0, 6, 4, 0, 7, 0, 0, 0, 1];
    let got = all(&mut Dechunker::new(LIMITS), &ping).unwrap();
    assert_eq!((got[0].kind, got[0].stream, got[0].timestamp_ms), (4, 0, 5));
    for first in [0x82, 0xC2] {
        let refused = all(&mut Dechunker::new(LIMITS), &[first, 0, 0, 0]);
        assert_eq!(refused, Err(DechunkError::NoHeader(2)));
    }
}

#[test]
fn set_chunk_size_and_abort_are_obeyed() {
    let big = message(9, 1, 0, &[5; 5000]);
    let size = |n: u32| chunks(2, &message(1, 0, 0, &n.to_be_bytes()), 128);
    let got = all(&mut Dechunker::new(LIMITS), &[size(4096), chunks(4, &big, 4096)].concat());
    assert_eq!(got.unwrap()[1], big);
    for bad in [0, 0x8000_0000, u32::MAX] {
        let refused = all(&mut Dechunker::new(LIMITS), &size(bad));
        assert_eq!(refused, Err(DechunkError::ChunkSize(bad)));
    }
    let abort = chunks(2, &message(2, 0, 0, &4u32.to_be_bytes()), 128);
    let next = message(9, 1, 0, &[6]);
    let mut d = Dechunker::new(LIMITS);
    let bytes = [&pieces(4, &big, 128)[0][..], &abort, &chunks(4, &next, 128)].concat();
    assert_eq!(all(&mut d, &bytes).unwrap()[1], next);
    assert_eq!((d.cut(), d.under_way()), (1, 0));
    let short = chunks(2, &message(2, 0, 0, &[4]), 128);
    assert!(matches!(all(&mut d, &short), Err(DechunkError::Control { kind: 2, len: 1 })));
}

#[test]
fn a_new_message_gives_up_the_unfinished_one() {
    let cut = pieces(4, &message(9, 1, 0, &[5; 500]), 128);
    let next = message(9, 1, 40, &[6; 10]);
    let mut d = Dechunker::new(LIMITS);
    assert_eq!(all(&mut d, &[&cut[0][..], &chunks(4, &next, 128)].concat()), Ok(vec![next]));
    assert_eq!((d.cut(), d.under_way()), (1, 0));
}

#[test]
fn claims_of_16_megabytes_cost_nothing_and_are_refused() {
    let limits = Limits { max_message_bytes: 1000, ..LIMITS };
    let head = [4, 0, 0, 0, 255, 255, 255, 9, 1, 0, 0, 0];
    let refused = all(&mut Dechunker::new(limits), &head);
    let expected = DechunkError::MessageTooLarge { size: 0xFF_FFFF, limit: 1000 };
    assert_eq!(refused, Err(expected));
    let limits = Limits { max_message_bytes: usize::MAX, max_partial_bytes: 1000, ..LIMITS };
    let mut d = Dechunker::new(limits);
    let mut held = Ok(Vec::new());
    for csid in 3..11u8 {
        let piece = [&[csid][..], &head[1..], &[0; 128]].concat();
        held = held.and_then(|_| all(&mut d, &piece));
        assert!(d.under_way() <= 1000);
    }
    assert_eq!(held, Err(DechunkError::TooMuchUnderWay(1000)));
}

#[test]
fn chunk_streams_are_counted() {
    let mut d = Dechunker::new(LIMITS);
    let one = |csid: u8| chunks(csid, &message(9, 1, 0, &[1]), 128);
    for csid in 3..11 {
        assert_eq!(all(&mut d, &one(csid)).map(|m| m.len()), Ok(1));
    }
    assert_eq!(all(&mut d, &one(11)), Err(DechunkError::TooManyChunkStreams(8)));
    assert_eq!(all(&mut d, &one(3)).map(|m| m.len()), Ok(1));
}

fn any_message() -> impl Strategy<Value = Message> {
    // Kinds that the chunk protocol itself does not act on.
    let kind = prop_oneof![Just(8u8), Just(9), Just(18), Just(20)];
    let time = prop_oneof![0u32..0x200_0000, any::<u32>(), Just(EXTENDED), Just(EXTENDED - 1)];
    (kind, 0u32..3, time, prop::collection::vec(any::<u8>(), 0..700)).prop_map(
        |(kind, stream, timestamp_ms, payload)| message(kind, stream, timestamp_ms, &payload),
    )
}

proptest! {
    /// However whole messages are cut into chunks, interleaved over chunk streams and split into reads, they come
    /// out again, in order on each chunk stream.
    #[test]
    fn valid_chunks_give_their_messages(
        streams in prop::collection::vec(prop::collection::vec(any_message(), 1..5), 1..5),
        chunk_size in 1usize..300,
        order in prop::collection::vec(any::<prop::sample::Index>(), 200),
        reads in prop::collection::vec(1usize..500, 100),
    ) {
        let size = message(1, 0, 0, &(chunk_size as u32).to_be_bytes());
        let mut bytes = chunks(2, &size, 128);
        let mut queues: Vec<_> = streams
            .iter()
            .enumerate()
            .map(|(i, messages)| {
                let csid = 3 + i as u8;
                let pieces = messages.iter().flat_map(move |m| pieces(csid, m, chunk_size));
                pieces.collect::<std::collections::VecDeque<_>>()
            })
            .collect();
        let mut order = order.iter();
        while queues.iter().any(|q| !q.is_empty()) {
            let at = order.next().map_or(0, |i| i.index(queues.len()));
            let begin = (0..queues.len()).map(|i| (at + i) % queues.len());
            let queue = begin.into_iter().find(|i| !queues[*i].is_empty()).unwrap();
            bytes.extend(queues[queue].pop_front().unwrap());
        }
        let mut d = Dechunker::new(LIMITS);
        let mut got = Vec::new();
        let mut input = BytesMut::new();
        let mut rest = &bytes[..];
        let mut reads = reads.iter().cycle();
        while !rest.is_empty() {
            let (read, after) = rest.split_at((*reads.next().unwrap()).min(rest.len()));
            input.extend_from_slice(read);
            rest = after;
            while let Some(m) = d.next(&mut input).unwrap() {
                got.push(m);
            }
            prop_assert!(input.len() < 18, "only part of a header stays");
        }
        prop_assert_eq!(d.under_way(), 0);
        prop_assert_eq!(d.cut(), 0);
        got.remove(0);
        let mut expected: Vec<Message> = streams.into_iter().flatten().collect();
        let key = |m: &Message| (m.kind, m.stream, m.timestamp_ms, m.payload.clone());
        expected.sort_by_key(key);
        got.sort_by_key(key);
        prop_assert_eq!(got, expected);
    }

    #[test]
    fn any_bytes_stay_within_the_limits(
        reads in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..400), 0..20),
    ) {
        let limits =
            Limits { max_message_bytes: 3000, max_chunk_streams: 4, max_partial_bytes: 4000 };
        let mut d = Dechunker::new(limits);
        let mut input = BytesMut::new();
        'all: for read in reads {
            input.extend_from_slice(&read);
            loop {
                match d.next(&mut input) {
                    Ok(Some(m)) => prop_assert!(m.payload.len() <= 3000),
                    Ok(None) => break,
                    Err(_) => break 'all,
                }
            }
            prop_assert!(d.under_way() <= 4000);
            prop_assert!(d.streams.len() <= 4);
            let sum: usize = d.streams.values().flat_map(|s| &s.received).map(Vec::len).sum();
            prop_assert_eq!(sum, d.under_way());
        }
    }
}
