//! FLV files for tests: what ffmpeg wrote, as the messages that it would have published.

use bytes::Bytes;

/// Two and a half seconds like the glasses': 214x120 at 15 a second, an IDR every 15 pictures, no B-frames, AAC.
pub(crate) const GLASSES: &[u8] = include_bytes!("../../tests/data/ingest/glasses.flv");
/// Two seconds with B-frames that nobody refers to.
pub(crate) const B_FRAMES: &[u8] = include_bytes!("../../tests/data/ingest/bframes.flv");
/// Half a second of 318x178.
pub(crate) const OTHER: &[u8] = include_bytes!("../../tests/data/ingest/other.flv");

#[derive(Debug, Clone)]
pub(crate) struct Tag {
    /// 8 audio, 9 video, 18 metadata, as in RTMP.
    pub kind: u8,
    pub timestamp_ms: u32,
    pub payload: Bytes,
}

impl Tag {
    pub(crate) fn is_picture(&self) -> bool {
        self.kind == 9 && self.payload.get(1) == Some(&1)
    }

    /// What is behind the header of a classic H.264 video tag.
    pub(crate) fn body(&self) -> Bytes {
        self.payload.slice(5..)
    }
}

pub(crate) fn tags(file: &[u8]) -> Vec<Tag> {
    let mut tags = Vec::new();
    let mut at = 13;
    while at + 11 <= file.len() {
        let head = &file[at..at + 11];
        let size = u32::from_be_bytes([0, head[1], head[2], head[3]]) as usize;
        let timestamp_ms = u32::from_be_bytes([head[7], head[4], head[5], head[6]]);
        let payload = Bytes::copy_from_slice(&file[at + 11..at + 11 + size]);
        tags.push(Tag { kind: head[0], timestamp_ms, payload });
        at += 11 + size + 4;
    }
    tags
}

/// Of the glasses' stream in Annex B: the parameter sets, the first key frame, and the picture after it.
pub(crate) fn annex_b() -> (Vec<u8>, Vec<u8>, Vec<u8>) {
    use crate::media::nal::to_annex_b;
    let all = tags(GLASSES);
    let record = all.iter().find(|t| t.kind == 9 && t.payload[1] == 0).unwrap().body();
    let mut sets = Vec::new();
    // One of each kind: a length of two bytes, the unit, and between them how many of the other there are.
    let mut at = 6;
    for _ in 0..2 {
        let length = usize::from(u16::from_be_bytes([record[at], record[at + 1]]));
        sets.extend_from_slice(&[0, 0, 0, 1]);
        sets.extend_from_slice(&record[at + 2..at + 2 + length]);
        at += 2 + length + 1;
    }
    let mut pictures = all.iter().filter(|t| t.kind == 9 && t.is_picture());
    let mut next = || to_annex_b(&pictures.next().unwrap().body(), 4).unwrap();
    (sets, next(), next())
}
