//! Units for tests, which change what they are about. No part of the program.

use std::sync::Arc;

use bytes::Bytes;

use super::{AccessUnit, Arrival, MediaTime, StreamId, VideoCodec, VideoParams};

/// A whole H.264 picture at this time, of a stream "s".
pub(crate) fn picture(ms: i64, key: bool) -> AccessUnit {
    AccessUnit {
        stream: StreamId::new("s").unwrap(),
        pts: MediaTime::from_millis(ms),
        dts: MediaTime::from_millis(ms),
        key,
        intact: true,
        discontinuity: false,
        data: Bytes::from_static(b"picture"),
        params: Arc::new(params()),
        arrived: Arrival::now(),
    }
}

/// Sixteen pixels a side, with a record that has no parameter sets.
pub(crate) fn params() -> VideoParams {
    VideoParams {
        codec: VideoCodec::H264,
        width: 16,
        height: 16,
        record: Bytes::from_static(&[1, 0x64, 0, 0x1F, 0xFF, 0xE0, 0]),
        nal_length_size: 4,
    }
}
