//! Boxes whose sizes add up (ISO/IEC 14496-12 4.2).

/// A box: its size is filled in when `body` has written what is in it.
pub(super) fn boxed(out: &mut Vec<u8>, kind: &[u8; 4], body: impl FnOnce(&mut Vec<u8>)) {
    let begin = out.len();
    out.extend([0; 4]);
    out.extend(kind);
    body(out);
    let size = u32_of(out.len() - begin);
    out[begin..begin + 4].copy_from_slice(&size.to_be_bytes());
}

/// A full box: with version and 24 bits of flags.
pub(super) fn full(
    out: &mut Vec<u8>,
    kind: &[u8; 4],
    version: u8,
    flags: u32,
    body: impl FnOnce(&mut Vec<u8>),
) {
    boxed(out, kind, |out| {
        out.extend((u32::from(version) << 24 | flags & 0xFF_FFFF).to_be_bytes());
        body(out);
    });
}

/// Sizes fit 32 bits: ingest bounds a unit to 16 MiB and nobody joins hundreds of them.
pub(super) fn u32_of(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}
