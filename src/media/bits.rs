//! Reads bits out of a NAL unit's payload (pure). Every read is bounds-checked; the end is `None`.

/// The payload of a NAL unit with the emulation prevention bytes taken out (H.264 7.4.1.1, H.265 7.4.2), at most
/// `limit` bytes of it: headers are all anyone here reads.
pub(super) fn unescape(nal: &[u8], limit: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(nal.len().min(limit));
    let mut zeros = 0;
    for &byte in nal {
        if out.len() >= limit {
            break;
        }
        if zeros >= 2 && byte == 3 {
            zeros = 0;
            continue;
        }
        zeros = if byte == 0 { zeros + 1 } else { 0 };
        out.push(byte);
    }
    out
}

pub(super) struct BitReader<'a> {
    data: &'a [u8],
    /// Position in bits.
    at: usize,
}

impl<'a> BitReader<'a> {
    pub(super) fn new(data: &'a [u8]) -> Self {
        Self { data, at: 0 }
    }

    pub(super) fn flag(&mut self) -> Option<bool> {
        let byte = *self.data.get(self.at / 8)?;
        let bit = byte >> (7 - self.at % 8) & 1;
        self.at += 1;
        Some(bit == 1)
    }

    /// `n` <= 32 bits, u(n) of the specifications.
    pub(super) fn bits(&mut self, n: u32) -> Option<u32> {
        debug_assert!(n <= 32);
        let mut value = 0;
        for _ in 0..n {
            value = value << 1 | u32::from(self.flag()?);
        }
        Some(value)
    }

    pub(super) fn skip(&mut self, n: usize) -> Option<()> {
        let to = self.at.checked_add(n)?;
        (to <= self.data.len() * 8).then(|| self.at = to)
    }

    /// ue(v), Exp-Golomb (H.264 9.1). More than 31 leading zeros is more than any field may hold.
    pub(super) fn ue(&mut self) -> Option<u32> {
        let mut zeros = 0;
        while !self.flag()? {
            zeros += 1;
            if zeros > 31 {
                return None;
            }
        }
        Some((1 << zeros) - 1 + self.bits(zeros)?)
    }

    /// se(v) (H.264 9.1.1).
    pub(super) fn se(&mut self) -> Option<i32> {
        let code = i64::from(self.ue()?);
        let magnitude = (code + 1) / 2;
        i32::try_from(if code % 2 == 1 { magnitude } else { -magnitude }).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_golomb() {
        // 1 | 010 | 011 | 00100 | 00101 -> 0 1 2 3 4
        let data = [0b1010_0110, 0b0100_0010, 0b1000_0000];
        let mut r = BitReader::new(&data);
        assert_eq!((0..5).map(|_| r.ue()).collect::<Vec<_>>(), [0, 1, 2, 3, 4].map(Some));
        let mut r = BitReader::new(&data);
        assert_eq!((0..5).map(|_| r.se()).collect::<Vec<_>>(), [0, 1, -1, 2, -2].map(Some));
        assert_eq!(BitReader::new(&[0; 8]).ue(), None);
        let mut long = BitReader::new(&[0, 0, 0, 1, 0xFF, 0xFF, 0xFF, 0xFF]);
        assert_eq!(long.ue(), Some(u32::MAX - 1));
        assert_eq!(BitReader::new(&[0x80]).skip(9), None);
    }

    #[test]
    fn emulation_prevention_is_taken_out() {
        assert_eq!(unescape(&[0, 0, 3, 1, 0, 0, 3, 0, 0, 3], 99), [0, 0, 1, 0, 0, 0, 0]);
        assert_eq!(unescape(&[1, 2, 3, 4], 2), [1, 2]);
    }
}
