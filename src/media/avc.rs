//! H.264 and H.265 bitstream facts that need no decoding (pure).
