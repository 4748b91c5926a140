//! What broken, hostile and unlucky publishers do to the front door, byte by byte over a real socket.

mod ingest_support;

use std::time::Duration;

use ingest_support::*;
use spotter::config::Ingest;
use spotter::ingest::dechunk::{kind, write_message};
use spotter::media::StreamStatus;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// The chunks of a message, one by one.
fn pieces(csid: u8, message: &spotter::ingest::dechunk::Message) -> Vec<Vec<u8>> {
    let mut whole = Vec::new();
    write_message(&mut whole, csid, message, 128);
    let (first, rest) = whole.split_at((12 + 128).min(whole.len()));
    std::iter::once(first.to_vec()).chain(rest.chunks(129).map(<[u8]>::to_vec)).collect()
}

#[tokio::test]
async fn messages_interleaved_on_two_chunk_streams_work() {
    let server = Server::open().await;
    let mut peer = Peer::publish(&server, "cam").await;
    let mut cursor = server.cursor("cam").await;
    let tags = glasses();
    let (video, audio): (Vec<_>, Vec<_>) =
        tags.into_iter().filter(|t| t.kind != 18).partition(|t| t.kind == 9);
    let mut audio = audio.into_iter();
    for tag in video {
        let v = pieces(4, &message(9, 1, tag.timestamp_ms, &tag.payload));
        let a = audio.next().map(|t| pieces(6, &message(8, 1, t.timestamp_ms, &t.payload)));
        let a = a.unwrap_or_default();
        for i in 0..v.len().max(a.len()) {
            for part in [v.get(i), a.get(i)].into_iter().flatten() {
                peer.raw(part).await;
            }
        }
    }
    for i in 0..PICTURES {
        let unit = next_video(&mut cursor).await;
        assert_eq!((unit.intact, unit.key), (true, i % 15 == 0), "{i}");
    }
    server.stop().await;
}

/// Each hostile opening ends its own connection under the right counter while a bystander goes on publishing.
#[tokio::test]
async fn hostile_bytes_end_only_their_own_connection() {
    let server = Server::open().await;
    let mut bystander = Peer::publish(&server, "bystander").await;
    let mut cursor = server.cursor("bystander").await;
    let mut tags = glasses().into_iter().filter(|t| t.kind == 9);
    bystander.send_tag(&tags.next().unwrap()).await;

    let nested = |depth: usize| {
        let mut payload = command(0, "connect", 1.0, vec![]).payload.to_vec();
        payload.extend([3, 0, 1, b'a'].repeat(depth));
        message(kind::COMMAND_AMF0, 0, 0, &payload)
    };
    let amf = |value: &[u8]| {
        let mut payload = command(0, "connect", 1.0, vec![]).payload.to_vec();
        payload.extend(value);
        message(kind::COMMAND_AMF0, 0, 0, &payload)
    };
    let bytes = |message| {
        let mut out = Vec::new();
        write_message(&mut out, 3, &message, 128);
        out
    };
    let c = &server.counters;
    let attacks = [
        ("10,000 nested objects", bytes(nested(10_000)), &c.amf_too_deep),
        ("a chunk size of 4 GB", bytes(message(1, 0, 0, &[255; 4])), &c.bad_chunk),
        (
            "a message of 16 MB",
            vec![4, 0, 0, 0, 255, 255, 255, 9, 1, 0, 0, 0],
            &c.message_too_large,
        ),
        ("an array of 4 G values", bytes(amf(&[10, 255, 255, 255, 255, 5])), &c.amf_broken),
        ("a long string of 4 GB", bytes(amf(&[12, 255, 255, 255, 255, 5])), &c.amf_broken),
        (
            "a string over the limit",
            bytes(amf(&[&[2, 255, 255][..], &[0; 65535]].concat())),
            &c.message_too_large,
        ),
        (
            "a string of 40 kB",
            bytes(amf(&[&[2, 156, 64][..], &[b'x'; 40_000]].concat())),
            &c.amf_string_too_long,
        ),
        ("continuation of nothing", vec![0xC7, 1, 2, 3], &c.bad_chunk),
        (
            "a hundred chunk streams",
            (0..100u8)
                .flat_map(|i| [&[0, i][..], &[0, 0, 0, 0, 0, 3, 9, 1, 0, 0, 0, 1, 2, 3]].concat())
                .collect(),
            &c.too_many_chunk_streams,
        ),
    ];
    for (what, bytes, counter) in attacks {
        let before = counter.get();
        let mut peer = Peer::connect(&server).await;
        peer.raw(&bytes).await;
        peer.hear_out().await;
        within(async {
            while counter.get() == before {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
        assert_eq!(counter.get(), before + 1, "{what}");
        bystander.send_tag(&tags.next().unwrap()).await;
        let unit = next_video(&mut cursor).await;
        assert!(unit.intact, "{what}");
    }
    assert_eq!(c.rml_panics.get() + c.connection_panics.get(), 0);
    server.stop().await;
}

#[tokio::test]
async fn cut_and_shuffled_chunks_harm_only_their_stream() {
    let server = Server::open().await;
    let mut good = Peer::publish(&server, "good").await;
    let mut cursor = server.cursor("good").await;
    let tags: Vec<_> = glasses().into_iter().filter(|t| t.kind == 9).collect();
    let big = tags.iter().find(|t| t.payload.len() > 500).unwrap();
    let chunks = pieces(4, &message(9, 1, big.timestamp_ms, &big.payload));
    let orders: [Vec<usize>; 3] = [vec![0, 2, 1], vec![1, 0, 2], (0..chunks.len()).rev().collect()];
    for (i, order) in orders.iter().enumerate() {
        let mut bad = Peer::publish(&server, &format!("bad{i}")).await;
        for tag in &tags[..3] {
            bad.send_tag(tag).await;
        }
        for at in order {
            bad.raw(&chunks[*at]).await;
        }
        drop(bad);
        server.until_status(&format!("bad{i}"), StreamStatus::Waiting).await;
    }
    for tag in &tags {
        good.send_tag(tag).await;
    }
    for _ in 0..PICTURES {
        assert!(next_video(&mut cursor).await.intact);
    }
    server.stop().await;
}

#[tokio::test]
async fn a_publisher_that_stops_mid_frame_is_let_go_and_may_come_back() {
    let config = Ingest { idle_timeout_s: 1, ..Ingest::default() };
    let server = Server::start(true, config).await;
    let mut peer = Peer::publish(&server, "cam").await;
    let mut cursor = server.cursor("cam").await;
    let tags: Vec<_> = glasses().into_iter().filter(|t| t.kind == 9).collect();
    for tag in &tags[..5] {
        peer.send_tag(tag).await;
    }
    let half = pieces(4, &message(9, 1, tags[5].timestamp_ms, &tags[5].payload));
    peer.raw(&half[0][..20]).await;
    let mut last = next_video(&mut cursor).await;
    for _ in 1..4 {
        last = next_video(&mut cursor).await;
    }
    // It stays connected and says nothing more.
    let said = peer.hear_out().await;
    assert!(said.contains("no whole message"), "{said}");
    assert_eq!(server.counters.idle_timeouts.get(), 1);
    assert_eq!(server.counters.messages_cut.get(), 1);
    server.until_status("cam", StreamStatus::Waiting).await;

    // Back under the same name with timestamps from 0: the same stream, the same reader, time goes on.
    let mut again = Peer::publish(&server, "cam").await;
    for tag in &tags {
        again.send_tag(tag).await;
    }
    let first = next_video(&mut cursor).await;
    assert!(first.discontinuity && first.key && first.intact);
    assert!(first.dts > last.dts);
    server.stop().await;
}

#[tokio::test]
async fn timestamps_may_jump_back_and_wrap() {
    let server = Server::open().await;
    let mut peer = Peer::publish(&server, "cam").await;
    let mut cursor = server.cursor("cam").await;
    let tags: Vec<_> = glasses().into_iter().filter(|t| t.kind == 9).collect();
    for base in [u32::MAX - 1000, 0, 2_000_000_000, 5] {
        for tag in &tags {
            let timestamp_ms = tag.timestamp_ms.wrapping_add(base);
            peer.send_tag(&Tag { timestamp_ms, ..tag.clone() }).await;
        }
    }
    let mut last = next_video(&mut cursor).await.dts;
    for _ in 1..4 * PICTURES {
        let unit = next_video(&mut cursor).await;
        assert!(unit.intact && unit.dts > last);
        assert!(unit.dts.since(last) < Duration::from_secs(11));
        last = unit.dts;
    }
    assert!((2..=3).contains(&server.counters.time_jumps.get()));
    server.stop().await;
}

#[tokio::test]
async fn parameters_may_change_in_mid_stream() {
    let server = Server::open().await;
    let mut peer = Peer::publish(&server, "cam").await;
    let mut cursor = server.cursor("cam").await;
    for tag in glasses().iter().chain(&other()).filter(|t| t.kind == 9) {
        peer.send_tag(tag).await;
    }
    for _ in 0..PICTURES {
        assert_eq!(next_video(&mut cursor).await.params.width, 214);
    }
    let unit = next_video(&mut cursor).await;
    assert_eq!((unit.params.width, unit.params.height), (318, 178));
    assert!(unit.key && unit.intact && unit.discontinuity);
    server.stop().await;
}

#[tokio::test]
async fn a_second_publisher_is_refused_unless_its_token_may_take_over() {
    let server = Server::closed().await;
    let mut first = Peer::publish(&server, "cam?token=good").await;
    let mut cursor = server.cursor("cam").await;
    let said = Peer::ask(&server, "live", "cam?token=good").await.hear_out().await;
    assert!(said.contains("stream cam already has a publisher"), "{said}");
    // These words make the glasses give up for good.
    assert!(!said.contains("Unauthorized") && !said.contains("Authentication"));
    assert_eq!(server.counters.refused_taken.get(), 1);
    let tags: Vec<_> = glasses().into_iter().filter(|t| t.kind == 9).collect();
    first.send_tag(&tags[0]).await;
    first.send_tag(&tags[1]).await;
    assert!(next_video(&mut cursor).await.intact);

    let mut boss = Peer::publish(&server, "cam?token=boss").await;
    let said = first.hear_out().await;
    assert!(said.contains("another publisher took this stream over"), "{said}");
    assert!(!said.contains("Unauthorized") && !said.contains("Authentication"));
    for tag in &tags {
        boss.send_tag(tag).await;
    }
    assert!(next_video(&mut cursor).await.discontinuity);
    server.stop().await;
}

#[tokio::test]
async fn names_tokens_apps_and_play_are_refused_with_their_reasons() {
    let server = Server::closed().await;
    let c = &server.counters;
    for (app, key, text, counter) in [
        ("live", "a/b?token=good", "stream name \"a/b\" is not allowed", &c.refused_name),
        ("live/a", "b?token=good", "stream name \"a/b\" is not allowed", &c.refused_name),
        ("live", "cam", "Unauthorized: no token", &c.refused_token),
        ("live", "cam?token=bad", "Unauthorized: unknown or revoked token", &c.refused_token),
        ("vod", "cam?token=good", "no application \"vod\" here", &c.refused_app),
    ] {
        let before = counter.get();
        let said = Peer::ask(&server, app, key).await.hear_out().await;
        assert!(said.contains(text), "{app} {key}: {said}");
        assert_eq!(counter.get(), before + 1);
    }
    assert!(server.streams.list().is_empty());
    let mut peer = Peer::publish(&server, "cam?token=good").await;
    let play = vec![rml_amf0::Amf0Value::Null, text("cam")];
    peer.send(3, &command(1, "play", 4.0, play)).await;
    assert!(peer.hear_out().await.contains("NetStream.Play.Failed"));
    server.stop().await;
}

#[tokio::test]
async fn what_cannot_be_decoded_is_refused_by_name() {
    let server = Server::open().await;
    let mut huge = glasses().into_iter().find(|t| t.kind == 9).unwrap().payload.to_vec();
    // Its SPS is overwritten by one of 50,000 x 50,000: exp-Golomb 3125 - 1, twice.
    let sps = [0x67, 66, 0, 30, 0xF6, 0x00, 0x18, 0x6A, 0x00, 0x18, 0x6A, 0xC8];
    huge.truncate(5 + 6);
    huge.extend((sps.len() as u16).to_be_bytes());
    huge.extend(sps);
    huge.extend([0]);
    for (i, (payload, text)) in [
        (b"\x22\x00\x00\x84\x00".to_vec(), "Sorenson H.263 (FLV codec id 2) is not supported"),
        (b"\x90av01\x81".to_vec(), "AV1 (FourCC \"av01\") is not supported"),
        (huge, "over the limit of 8192x8192"),
    ]
    .into_iter()
    .enumerate()
    {
        let mut peer = Peer::publish(&server, &format!("cam{i}")).await;
        peer.send(4, &message(9, 1, 0, &payload)).await;
        let said = peer.hear_out().await;
        assert!(said.contains(text), "{said}");
    }
    assert_eq!(server.counters.refused_video.get(), 3);
    // Sound of a strange kind is dropped and the picture goes on.
    let mut peer = Peer::publish(&server, "mp3").await;
    let mut cursor = server.cursor("mp3").await;
    for tag in glasses().iter().filter(|t| t.kind == 9) {
        peer.send(6, &message(8, 1, tag.timestamp_ms, b"\x2fabc")).await;
        peer.send_tag(tag).await;
    }
    for _ in 0..PICTURES {
        assert!(next_video(&mut cursor).await.intact);
    }
    assert!(server.counters.audio_dropped.get() >= PICTURES as u64);
    server.stop().await;
}

#[tokio::test]
async fn strangers_cannot_make_us_hold_much_or_wait_long() {
    let config = Ingest { handshake_timeout_s: 1, idle_timeout_s: 1, ..Ingest::default() };
    let server = Server::start(true, config).await;
    // A megabyte before anything was published.
    let mut peer = Peer::connect(&server).await;
    peer.raw(&[4, 0, 0, 0, 16, 0, 0, 9, 1, 0, 0, 0]).await;
    peer.hear_out().await;
    assert_eq!(server.counters.message_too_large.get(), 1);
    // A handshake that trickles.
    let mut slow = tokio::net::TcpStream::connect(server.addr).await.unwrap();
    let trickle = async {
        slow.write_all(&[3]).await?;
        loop {
            slow.write_all(&[0]).await?;
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        #[allow(unreachable_code, reason = "names the error's type")]
        std::io::Result::Ok(())
    };
    assert!(within(trickle).await.is_err());
    assert_eq!(server.counters.handshake_timeouts.get(), 1);
    // Something else than RTMP.
    let mut http = tokio::net::TcpStream::connect(server.addr).await.unwrap();
    http.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    within(http.read_to_end(&mut Vec::new())).await.ok();
    assert_eq!(server.counters.handshake_failed.get(), 1);
    // Pings for ever and never a publication.
    let mut idler = Peer::connect(&server).await;
    within(async {
        while idler.socket.write_all(&[66, 0, 0, 0, 0, 0, 6, 4, 0, 7, 0, 0, 0, 1]).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
    assert_eq!(server.counters.idle_timeouts.get(), 1);
    server.stop().await;
}

#[tokio::test]
async fn connections_are_limited_in_all_and_per_address() {
    for (config, in_all) in [
        (Ingest { max_connections: 2, ..Ingest::default() }, true),
        (Ingest { max_connections_per_address: 2, ..Ingest::default() }, false),
    ] {
        let server = Server::start(true, config).await;
        let one = Peer::publish(&server, "one").await;
        let _two = Peer::publish(&server, "two").await;
        let mut third = tokio::net::TcpStream::connect(server.addr).await.unwrap();
        let mut buffer = [0; 1];
        assert!(!matches!(within(third.read(&mut buffer)).await, Ok(1..)));
        let c = &server.counters;
        let (all, address) = (c.refused_connections.get(), c.refused_connections_per_address.get());
        assert_eq!((all, address), if in_all { (1, 0) } else { (0, 1) });
        drop(one);
        server.until_status("one", StreamStatus::Waiting).await;
        within(async {
            // The seat is given back a moment after the stream.
            loop {
                let mut socket = tokio::net::TcpStream::connect(server.addr).await.unwrap();
                socket.write_all(&[&[3][..], &[0; 1536]].concat()).await.ok();
                if matches!(socket.read(&mut buffer).await, Ok(1)) {
                    return;
                }
            }
        })
        .await;
        server.stop().await;
    }
}
