//! The front door: RTMP connections in, access units out.
