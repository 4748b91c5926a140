//! How a connection ends, well or not, and as what that is counted.

use std::io;
use std::time::Duration;

use super::amf::AmfError;
use super::counters::IngestCounters;
use super::dechunk::DechunkError;
use super::protocol::ProtocolError;
use super::session::SessionError;

/// How a connection came to its end in good order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    Eof,
    Refused,
    Displaced,
    Shutdown,
    /// The stream that was played is over.
    Over,
}

#[derive(Debug, thiserror::Error)]
pub(super) enum ConnectionError {
    #[error("no RTMP handshake: {0}")]
    Handshake(String),
    #[error("no RTMP handshake within {0:?}: see ingest.handshake_timeout_s")]
    HandshakeTimeout(Duration),
    #[error("no whole message, or no publication, within {0:?}: see ingest.idle_timeout_s")]
    Idle(Duration),
    #[error("the peer did not read what it was sent within {0:?}")]
    WriteTimeout(Duration),
    #[error("the reader took nothing for {0:?}: see ingest.reader_stall_timeout_s")]
    Stalled(Duration),
    #[error(transparent)]
    Chunk(#[from] DechunkError),
    #[error(transparent)]
    Protocol(#[from] ProtocolError),
    #[error(transparent)]
    Media(#[from] SessionError),
    #[error("the connection broke: {0}")]
    Io(#[from] io::Error),
}

impl ConnectionError {
    /// Counts it under its own name.
    pub(super) fn count(&self, counters: &IngestCounters) {
        let counter = match self {
            Self::Handshake(_) => &counters.handshake_failed,
            Self::HandshakeTimeout(_) => &counters.handshake_timeouts,
            Self::Idle(_) => &counters.idle_timeouts,
            Self::WriteTimeout(_) => &counters.write_timeouts,
            // Counted among the readers.
            Self::Stalled(_) => return,
            Self::Chunk(DechunkError::MessageTooLarge { .. })
            | Self::Protocol(ProtocolError::CommandTooLarge(_)) => &counters.message_too_large,
            Self::Chunk(DechunkError::TooManyChunkStreams(_)) => &counters.too_many_chunk_streams,
            Self::Chunk(DechunkError::TooMuchUnderWay(_)) => &counters.too_much_under_way,
            Self::Chunk(_) => &counters.bad_chunk,
            Self::Protocol(ProtocolError::Amf(AmfError::TooDeep(_))) => &counters.amf_too_deep,
            Self::Protocol(ProtocolError::Amf(AmfError::StringTooLong { .. })) => {
                &counters.amf_string_too_long
            }
            Self::Protocol(ProtocolError::Amf(_)) => &counters.amf_broken,
            Self::Protocol(ProtocolError::SessionPanicked) => &counters.rml_panics,
            Self::Protocol(ProtocolError::Session(_) | ProtocolError::TooManyStreams) => {
                &counters.rml_errors
            }
            Self::Media(_) => &counters.refused_video,
            Self::Io(_) => return,
        };
        counter.inc();
    }
}
