//! Access units as RTP payloads (pure): H.264 after RFC 6184, packetization mode 1. It makes no RTP headers.

use bytes::Bytes;

use crate::media::AccessUnit;
use crate::media::nal::{BrokenLengths, split};

/// Longest payload in bytes. With the headers of IP, UDP and RTP, its extensions and SRTP's tag it stays below the 1280
/// bytes that every link carries.
pub(super) const MAX_PAYLOAD: usize = 1160;

const SPS: u8 = 7;
const PPS: u8 = 8;
const DELIMITER: u8 = 9;
const FILLER: u8 = 12;
/// Several NAL units in one packet (5.7.1), one NAL unit in several (5.8).
const STAP_A: u8 = 24;
const FU_A: u8 = 28;

/// The payloads of one access unit in order; the last one carries RTP's marker. Before a key frame stand the parameter
/// sets of its decoder configuration, unless it brings its own.
pub(super) fn payloads(unit: &AccessUnit) -> Result<Vec<Vec<u8>>, BrokenLengths> {
    let mut out = Vec::with_capacity(unit.data.len() / MAX_PAYLOAD + 2);
    let mut nals = Vec::new();
    for nal in split(&unit.data, unit.params.nal_length_size) {
        let nal = nal?;
        if !matches!(kind(nal), DELIMITER | FILLER) {
            nals.push(nal);
        }
    }
    let (mut sets, others): (Vec<_>, Vec<_>) =
        nals.into_iter().partition(|nal| matches!(kind(nal), SPS | PPS));
    if unit.key && !sets.iter().any(|nal| kind(nal) == SPS) {
        sets = parameter_sets(&unit.params.record);
    }
    put_sets(&sets, &mut out);
    for nal in others {
        put(nal, &mut out);
    }
    Ok(out)
}

fn kind(nal: &[u8]) -> u8 {
    nal.first().map_or(0, |header| header & 0x1F)
}

/// The parameter sets in one packet, or each by itself where they do not fit.
fn put_sets(sets: &[&[u8]], out: &mut Vec<Vec<u8>>) {
    let length = 1 + sets.iter().map(|nal| 2 + nal.len()).sum::<usize>();
    if sets.len() < 2 || length > MAX_PAYLOAD {
        sets.iter().for_each(|nal| put(nal, out));
        return;
    }
    // The most important of them all, by nal_ref_idc.
    let importance = sets.iter().map(|nal| nal[0] & 0x60).max().unwrap_or_default();
    let mut packet = Vec::with_capacity(length);
    packet.push(importance | STAP_A);
    for nal in sets {
        // Fits: the whole packet is shorter than 64 kB.
        packet.extend_from_slice(&(nal.len() as u16).to_be_bytes());
        packet.extend_from_slice(nal);
    }
    out.push(packet);
}

fn put(nal: &[u8], out: &mut Vec<Vec<u8>>) {
    let Some((header, body)) = nal.split_first() else { return };
    if nal.len() <= MAX_PAYLOAD {
        out.push(nal.to_vec());
        return;
    }
    let pieces = body.chunks(MAX_PAYLOAD - 2);
    let last = pieces.len() - 1;
    for (i, piece) in pieces.enumerate() {
        let start = u8::from(i == 0) << 7;
        let end = u8::from(i == last) << 6;
        let mut packet = Vec::with_capacity(2 + piece.len());
        packet.push(header & 0xE0 | FU_A);
        packet.push(start | end | header & 0x1F);
        packet.extend_from_slice(piece);
        out.push(packet);
    }
}

/// The parameter sets of an avcC record (ISO/IEC 14496-15 5.3.3); as many as can be read.
fn parameter_sets(record: &Bytes) -> Vec<&[u8]> {
    let mut sets = Vec::new();
    let mut rest = record.get(5..).unwrap_or_default();
    for mask in [0x1F, 0xFF] {
        let Some((count, after)) = rest.split_first() else { break };
        rest = after;
        for _ in 0..count & mask {
            let Some((length, after)) = rest.split_first_chunk::<2>() else { return sets };
            let length = usize::from(u16::from_be_bytes(*length));
            let Some((set, after)) = after.split_at_checked(length) else { return sets };
            if !set.is_empty() {
                sets.push(set);
            }
            rest = after;
        }
    }
    sets
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;
    use crate::media::{VideoParams, samples};

    fn unit(key: bool, nals: &[&[u8]]) -> AccessUnit {
        let data: Vec<u8> =
            nals.iter().flat_map(|n| [&(n.len() as u32).to_be_bytes()[..], n].concat()).collect();
        let record =
            [&[1, 66, 0, 31, 0xFF, 0xE1, 0, 2, 0x67, 1][..], &[2, 0, 1, 0x68, 0, 2, 0x68, 9]];
        let params = VideoParams { record: record.concat().into(), ..samples::params() };
        AccessUnit { data: data.into(), params: Arc::new(params), ..samples::picture(0, key) }
    }

    #[test]
    fn a_key_frame_comes_with_all_its_parameter_sets() {
        let got = payloads(&unit(true, &[&[9, 0xF0], &[0x65, 7, 7]])).unwrap();
        let sets = vec![0x60 | 24, 0, 2, 0x67, 1, 0, 1, 0x68, 0, 2, 0x68, 9];
        assert_eq!(got, [sets, vec![0x65, 7, 7]]);
        let own = payloads(&unit(true, &[&[0x67, 5], &[0x68, 6], &[0x65, 7]])).unwrap();
        assert_eq!(own, [vec![0x60 | 24, 0, 2, 0x67, 5, 0, 2, 0x68, 6], vec![0x65, 7]]);
        assert_eq!(payloads(&unit(false, &[&[0x41, 7]])).unwrap(), [[0x41, 7]]);
    }

    #[test]
    fn broken_lengths_are_an_error() {
        let mut broken = unit(false, &[]);
        broken.data = Bytes::from_static(&[0, 0, 0, 9, 1]);
        assert_eq!(payloads(&broken).unwrap_err(), BrokenLengths);
    }

    proptest! {
        #[test]
        fn what_is_cut_can_be_joined(len in 1usize..9000) {
            let nal: Vec<u8> = (0..len).map(|i| if i == 0 { 0x41 } else { i as u8 }).collect();
            let got = payloads(&unit(false, &[&nal])).unwrap();
            prop_assert!(got.iter().all(|p| p.len() <= MAX_PAYLOAD));
            let mut joined = Vec::new();
            for (i, packet) in got.iter().enumerate() {
                if packet[0] & 0x1F == FU_A {
                    prop_assert_eq!(packet[1] >> 6, u8::from(i == 0) << 1 | u8::from(i + 1 == got.len()));
                    if i == 0 {
                        joined.push(packet[0] & 0xE0 | packet[1] & 0x1F);
                    }
                    joined.extend_from_slice(&packet[2..]);
                } else {
                    joined.extend_from_slice(packet);
                }
            }
            prop_assert_eq!(joined, nal);
        }

        #[test]
        fn any_record_is_read_or_passed_over(record in prop::collection::vec(any::<u8>(), 0..60)) {
            let record = Bytes::from(record);
            prop_assert!(parameter_sets(&record).iter().all(|set| !set.is_empty()));
        }
    }
}
