//! MPEG transport streams to elementary streams (pure): the first programme's first picture and first sound, each packet of
//! them (PES) with its time. What is in a picture is not its business.
//!
//! Syntax after ISO/IEC 13818-1 (Rec. ITU-T H.222.0) 2.4.3 and 2.4.4.

use bytes::{Bytes, BytesMut};

use crate::media::VideoCodec;

pub const PACKET_BYTES: usize = 188;
const SYNC: u8 = 0x47;
const PAT_PID: u16 = 0;
const NULL_PID: u16 = 0x1FFF;
/// Longest section of a programme table (2.4.4.1).
const MAX_SECTION_BYTES: usize = 1024;
/// Times are of 33 bits (2.4.3.7).
const TIME_BITS: u32 = 33;

/// One packet of an elementary stream, whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Pes {
    Video {
        codec: VideoCodec,
        time: Time,
        data: Bytes,
    },
    /// AAC with ADTS headers.
    Audio {
        time: Time,
        data: Bytes,
    },
}

/// In 1/90,000 s from a beginning of the sender's choice, without the wrap at 33 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Time {
    pub pts: i64,
    pub dts: i64,
}

/// What was counted since the last [`Demuxer::take_tally`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tally {
    /// Well-formed packets, of whatever kind.
    pub packets: u64,
    /// Packets that are none: no sync byte, cut off, marked as damaged.
    pub malformed: u64,
    /// Pictures given up because packets of theirs are missing or they are too long.
    pub pictures_lost: u64,
    pub sounds_lost: u64,
    /// Programmes that say they have sound of a kind that is not carried.
    pub sound_unknown: u64,
}

#[derive(Debug)]
pub struct Demuxer {
    max_pes_bytes: usize,
    pat: Section,
    pmt: Option<(u16, Section)>,
    video: Option<(VideoCodec, Track)>,
    audio: Option<Track>,
    clock: Clock,
    tally: Tally,
}

/// Puts an elementary stream's packets together.
#[derive(Debug)]
struct Track {
    pid: u16,
    counter: Option<u8>,
    under_way: Option<UnderWay>,
}

#[derive(Debug)]
struct UnderWay {
    time: Option<(u64, u64)>,
    /// Bytes that the header promised; `None`: until the next one begins.
    length: Option<usize>,
    data: BytesMut,
}

/// Puts a table's section together.
#[derive(Debug, Default)]
struct Section {
    data: Vec<u8>,
}

/// Unfolds the times' 33 bits.
#[derive(Debug, Default)]
struct Clock {
    last: Option<(u64, i64)>,
}

/// A packet's payload and what its header says of it.
struct Payload<'a> {
    pid: u16,
    start: bool,
    counter: u8,
    /// The sender says that the counter jumps here.
    jump: bool,
    data: &'a [u8],
}

impl Demuxer {
    pub fn new(max_pes_bytes: usize) -> Self {
        Self {
            max_pes_bytes,
            pat: Section::default(),
            pmt: None,
            video: None,
            audio: None,
            clock: Clock::default(),
            tally: Tally::default(),
        }
    }

    pub fn take_tally(&mut self) -> Tally {
        std::mem::take(&mut self.tally)
    }

    /// Takes some whole packets; what they complete.
    pub fn push(&mut self, data: &[u8]) -> Vec<Pes> {
        let mut done = Vec::new();
        for packet in data.chunks(PACKET_BYTES) {
            let parsed = <&[u8; PACKET_BYTES]>::try_from(packet).ok().and_then(parse);
            match parsed {
                Some(Some(payload)) => {
                    self.tally.packets += 1;
                    self.take(&payload, &mut done);
                }
                Some(None) => self.tally.packets += 1,
                None => self.tally.malformed += 1,
            }
        }
        done
    }

    fn take(&mut self, payload: &Payload<'_>, done: &mut Vec<Pes>) {
        if payload.pid == PAT_PID {
            if let Some(pid) = self.pat.take(payload).and_then(programme)
                && self.pmt.as_ref().is_none_or(|(known, _)| *known != pid)
            {
                self.pmt = Some((pid, Section::default()));
            }
            return;
        }
        if let Some((_, section)) = self.pmt.as_mut().filter(|(pid, _)| *pid == payload.pid) {
            if let Some(streams) = section.take(payload).and_then(streams) {
                self.choose(&streams);
            }
            return;
        }
        if let Some((codec, track)) = self.video.as_mut().filter(|(_, t)| t.pid == payload.pid) {
            let (whole, lost) = track.take(payload, self.max_pes_bytes);
            self.tally.pictures_lost += lost;
            for under_way in whole.into_iter().flatten() {
                let Some(time) = self.clock.time(under_way.time) else {
                    self.tally.pictures_lost += 1;
                    continue;
                };
                let data = under_way.data.freeze();
                done.push(Pes::Video { codec: *codec, time, data });
            }
        } else if let Some(track) = self.audio.as_mut().filter(|t| t.pid == payload.pid) {
            let (whole, lost) = track.take(payload, self.max_pes_bytes);
            self.tally.sounds_lost += lost;
            for under_way in whole.into_iter().flatten() {
                let Some(time) = self.clock.time(under_way.time) else {
                    self.tally.sounds_lost += 1;
                    continue;
                };
                done.push(Pes::Audio { time, data: under_way.data.freeze() });
            }
        }
    }

    /// The first picture and the first sound of the programme. Tables come again and again and mostly say the same.
    fn choose(&mut self, streams: &[(u8, u16)]) {
        // Stream types of table 2-34.
        let video = streams.iter().find_map(|(kind, pid)| match kind {
            0x1B => Some((VideoCodec::H264, *pid)),
            0x24 => Some((VideoCodec::H265, *pid)),
            _ => None,
        });
        let audio = streams.iter().find(|(kind, _)| *kind == 0x0F).map(|(_, pid)| *pid);
        if self.video.as_ref().map(|(codec, track)| (*codec, track.pid)) != video {
            self.video = video.map(|(codec, pid)| (codec, Track::new(pid)));
        }
        if self.audio.as_ref().map(|track| track.pid) != audio {
            self.audio = audio.map(Track::new);
        }
        // Sound of MPEG-1 and 2, LATM, private (Opus, AC-3).
        let other = streams.iter().any(|(kind, _)| matches!(kind, 0x03 | 0x04 | 0x06 | 0x11));
        self.tally.sound_unknown += u64::from(audio.is_none() && other);
    }
}

/// `None`: no packet; `Some(None)`: a good one with nothing in it for us.
fn parse(packet: &[u8; PACKET_BYTES]) -> Option<Option<Payload<'_>>> {
    let [sync, high, low, flags, ..] = *packet;
    let damaged = high & 0x80 != 0;
    if sync != SYNC || damaged {
        return None;
    }
    let pid = u16::from_be_bytes([high & 0x1F, low]);
    let scrambled = flags & 0xC0 != 0;
    let (adapted, has_payload) = (flags & 0x20 != 0, flags & 0x10 != 0);
    let mut data = &packet[4..];
    let mut jump = false;
    if adapted {
        let (length, rest) = data.split_first()?;
        let (field, rest) = rest.split_at_checked(usize::from(*length))?;
        jump = field.first().is_some_and(|flags| flags & 0x80 != 0);
        data = rest;
    }
    if !has_payload || pid == NULL_PID || scrambled {
        return Some(None);
    }
    Some(Some(Payload { pid, start: high & 0x40 != 0, counter: flags & 0x0F, jump, data }))
}

impl Section {
    /// A whole section whose checksum is right.
    fn take(&mut self, payload: &Payload<'_>) -> Option<&[u8]> {
        let mut data = payload.data;
        if payload.start {
            // The pointer says where the section begins; what is before it belongs to one that we do not wait for.
            let (pointer, rest) = data.split_first()?;
            data = rest.get(usize::from(*pointer)..)?;
            self.data.clear();
        } else if self.data.is_empty() {
            return None;
        }
        let room = MAX_SECTION_BYTES - self.data.len().min(MAX_SECTION_BYTES);
        self.data.extend_from_slice(&data[..data.len().min(room)]);
        let head: &[u8; 3] = self.data.first_chunk()?;
        let length = 3 + usize::from(u16::from_be_bytes([head[1] & 0x0F, head[2]]));
        let whole = self.data.get(..length)?;
        (crc(whole) == 0).then_some(whole)
    }
}

/// The body of a section of table `id`: behind the long header and before the checksum.
fn body(section: &[u8], id: u8) -> Option<&[u8]> {
    let current = section.get(5)? & 1 == 1;
    (section[0] == id && current).then_some(())?;
    section.get(8..section.len().checked_sub(4)?)
}

/// The table of the first programme (2.4.4.3); number 0 is the network's.
fn programme(section: &[u8]) -> Option<u16> {
    let mut entries = body(section, 0)?.chunks_exact(4);
    let first = entries.find(|e| e[..2] != [0, 0])?;
    Some(u16::from_be_bytes([first[2] & 0x1F, first[3]]))
}

/// Type and packet identifier of each stream of a programme (2.4.4.8).
fn streams(section: &[u8]) -> Option<Vec<(u8, u16)>> {
    let body = body(section, 2)?;
    let length = |at: usize| {
        let bytes = body.get(at..at + 2)?;
        Some(usize::from(u16::from_be_bytes([bytes[0] & 0x0F, bytes[1]])))
    };
    let mut at = 4 + length(2)?;
    let mut found = Vec::new();
    while let Some(entry) = body.get(at..at + 5) {
        found.push((entry[0], u16::from_be_bytes([entry[1] & 0x1F, entry[2]])));
        at += 5 + length(at + 3)?;
    }
    Some(found)
}

/// CRC-32/MPEG-2; 0 over data with its right checksum behind it (annex A).
fn crc(data: &[u8]) -> u32 {
    data.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte) << 24, |crc, _| {
            let carry = crc >> 31 == 1;
            crc << 1 ^ if carry { 0x04C1_1DB7 } else { 0 }
        })
    })
}

impl Track {
    fn new(pid: u16) -> Self {
        Self { pid, counter: None, under_way: None }
    }

    /// What this packet completes, the packet before and its own, and how many are lost.
    fn take(&mut self, payload: &Payload<'_>, max: usize) -> ([Option<UnderWay>; 2], u64) {
        let mut lost = 0;
        let mut whole = [None, None];
        if let Some(last) = self.counter
            && !payload.jump
        {
            // A packet may come twice (2.4.3.3).
            if payload.counter == last {
                return (whole, 0);
            }
            if payload.counter != (last + 1) & 0x0F {
                // Whether the one under way was whole cannot be told, and another may be missing altogether.
                self.under_way = None;
                lost += 1;
            }
        }
        self.counter = Some(payload.counter);
        if payload.start {
            // One without a length ends where the next begins; one with a length that is not reached was cut.
            match self.under_way.take() {
                Some(u) if u.length.is_none() => whole[0] = Some(u),
                Some(_) => lost += 1,
                None => {}
            }
            self.under_way = begin(payload.data);
            lost += u64::from(self.under_way.is_none());
        } else if let Some(under_way) = &mut self.under_way {
            under_way.data.extend_from_slice(payload.data);
        }
        match &mut self.under_way {
            Some(u) if u.data.len() > max => {
                self.under_way = None;
                lost += 1;
            }
            Some(u) => {
                if let Some(length) = u.length.filter(|length| u.data.len() >= *length) {
                    u.data.truncate(length);
                    whole[1] = self.under_way.take();
                }
            }
            None => {}
        }
        (whole, lost)
    }
}

/// Reads a PES header (2.4.3.6).
fn begin(data: &[u8]) -> Option<UnderWay> {
    let head: &[u8; 9] = data.first_chunk()?;
    let optional = usize::from(head[8]);
    if head[..3] != [0, 0, 1] || head[6] & 0xC0 != 0x80 {
        return None;
    }
    let rest = data.get(9 + optional..)?;
    let stamp = |at: usize| {
        let b: &[u8; 5] = data.get(at..)?.first_chunk()?;
        let [a, b, c, d, e] = b.map(u64::from);
        Some((a >> 1 & 7) << 30 | b << 22 | (c >> 1) << 15 | d << 7 | e >> 1)
    };
    let time = match head[7] >> 6 {
        2 if optional >= 5 => stamp(9).map(|pts| (pts, pts)),
        3 if optional >= 10 => stamp(9).zip(stamp(14)),
        _ => None,
    };
    let length = match usize::from(u16::from_be_bytes([head[4], head[5]])) {
        0 => None,
        length => Some(length.checked_sub(3 + optional)?),
    };
    Some(UnderWay { time, length, data: BytesMut::from(rest) })
}

impl Clock {
    fn time(&mut self, stamps: Option<(u64, u64)>) -> Option<Time> {
        let (pts, dts) = stamps?;
        let dts_unfolded = match self.last {
            None => dts as i64,
            Some((last, at)) => at + nearest(last, dts),
        };
        self.last = Some((dts, dts_unfolded));
        Some(Time { pts: dts_unfolded + nearest(dts, pts), dts: dts_unfolded })
    }
}

/// From `from` to `to` on a circle of 33 bits, the shorter way.
fn nearest(from: u64, to: u64) -> i64 {
    let shift = 64 - TIME_BITS;
    (to.wrapping_sub(from) << shift) as i64 >> shift
}

/// Frames of AAC behind ADTS headers (ISO/IEC 13818-7 6.2); a frame may go on in the next packet.
#[derive(Debug, Default)]
pub struct Adts {
    rest: BytesMut,
}

/// One frame without its header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AacFrame {
    /// AudioSpecificConfig.
    pub config: Bytes,
    pub data: Bytes,
    /// From the packet's time on, milliseconds.
    pub after_ms: u32,
}

/// Samples in a frame, and the rates there are (tables 35 and 1.18).
const FRAME_SAMPLES: u32 = 1024;
const RATES: [u32; 13] = [
    96_000, 88_200, 64_000, 48_000, 44_100, 32_000, 24_000, 22_050, 16_000, 12_000, 11_025, 8_000,
    7_350,
];

impl Adts {
    /// Takes a packet; the frames that are whole now, and how many bytes were none.
    pub fn push(&mut self, data: &[u8]) -> (Vec<AacFrame>, u64) {
        self.rest.extend_from_slice(data);
        let (mut frames, mut skipped) = (Vec::new(), 0);
        while let Some(head) = self.rest.first_chunk::<7>() {
            let length = usize::from(head[3] & 3) << 11
                | usize::from(head[4]) << 3
                | usize::from(head[5] >> 5);
            let header = if head[1] & 1 == 1 { 7 } else { 9 };
            let rate = RATES.get(usize::from(head[2] >> 2 & 0x0F));
            let (Some(rate), true, true) =
                (rate, head[0] == 0xFF && head[1] & 0xF6 == 0xF0, length > header)
            else {
                let _ = self.rest.split_to(1);
                skipped += 1;
                continue;
            };
            if self.rest.len() < length {
                break;
            }
            let profile = head[2] >> 6;
            let channels = (head[2] & 1) << 2 | head[3] >> 6;
            let config =
                [(profile + 1) << 3 | head[2] >> 3 & 7, (head[2] >> 2 & 1) << 7 | channels << 3];
            let after = frames.len() as u32 * FRAME_SAMPLES;
            let mut frame = self.rest.split_to(length).freeze();
            frames.push(AacFrame {
                config: Bytes::copy_from_slice(&config),
                data: frame.split_off(header),
                after_ms: after * 1000 / rate,
            });
        }
        (frames, skipped)
    }

    /// Packets are missing here.
    pub fn restart(&mut self) {
        self.rest.clear();
    }
}

#[cfg(test)]
#[path = "ts_tests.rs"]
mod tests;
