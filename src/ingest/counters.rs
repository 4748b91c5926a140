//! What the front door counts: each refusal and each loss under its own name. It decides nothing.

use serde::Serialize;

use crate::health::Counter;

#[derive(Debug, Default, Serialize)]
pub struct IngestCounters {
    pub connections: Counter,
    pub bytes: Counter,
    /// Connections turned away at the door, by which limit.
    pub refused_connections: Counter,
    pub refused_connections_per_address: Counter,
    /// `accept` failed, mostly for want of file descriptors.
    pub accept_errors: Counter,
    /// Connections whose task panicked: a bug of ours, never the peer's fault.
    pub connection_panics: Counter,

    /// At the RTMPS door: the peer did not speak TLS, or does not trust our certificate.
    pub tls_failed: Counter,
    /// The peer did not speak RTMP, or not in time.
    pub handshake_failed: Counter,
    pub handshake_timeouts: Counter,
    pub idle_timeouts: Counter,
    /// The peer did not read what we sent it.
    pub write_timeouts: Counter,

    /// Chunks that ended a connection, by what was wrong.
    pub message_too_large: Counter,
    pub too_many_chunk_streams: Counter,
    pub too_much_under_way: Counter,
    pub bad_chunk: Counter,
    /// Messages given up because a new one began on the same chunk stream, or by Abort.
    pub messages_cut: Counter,

    /// AMF that ended a connection, by what was wrong.
    pub amf_too_deep: Counter,
    pub amf_string_too_long: Counter,
    pub amf_broken: Counter,
    /// Commands and metadata that were passed over.
    pub amf_ignored: Counter,
    /// Messages of no use here: shared objects, aggregates, media outside a publication.
    pub messages_ignored: Counter,
    /// The RTMP library returned an error, or panicked and was caught.
    pub rml_errors: Counter,
    pub rml_panics: Counter,

    /// Publications refused, by why.
    pub refused_app: Counter,
    pub refused_name: Counter,
    pub refused_token: Counter,
    pub refused_taken: Counter,
    pub refused_too_many_streams: Counter,
    pub refused_paused: Counter,
    pub displaced: Counter,

    /// Publications ended for what they carried.
    pub refused_video: Counter,
    /// Audio messages dropped because their codec is not carried; the video goes on.
    pub audio_dropped: Counter,
    /// Coded pictures dropped because their NAL units do not fit their lengths, or came before any parameters.
    pub units_malformed: Counter,
    /// Jumps of the publisher's clock that were rebased.
    pub time_jumps: Counter,
}
