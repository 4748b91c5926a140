//! The front door: RTMP connections in, access units out.

#[cfg(test)]
pub(crate) mod testing;
