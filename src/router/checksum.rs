//! Internet checksums: whole (RFC 1071), and changed in place when a rewrite touches covered words (RFC 1624).
//!
//! All words are big-endian values. A rewrite of a flow is always the same, so the flow keeps its [`Delta`] and each
//! packet costs one addition. A packet whose checksum the sender left to the hardware (`CHECKSUM_PARTIAL`) carries
//! the plain sum of the pseudo header in its checksum field, not its complement; then only addresses count.

/// A ones' complement sum that has not been folded yet. Room for 2^48 words.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sum(u64);

impl Sum {
    #[must_use]
    pub fn word(self, word: u16) -> Self {
        Self(self.0 + u64::from(word))
    }

    /// Adds bytes as 16-bit words; an odd last byte is the high half of a word.
    #[must_use]
    pub fn bytes(self, bytes: &[u8]) -> Self {
        let mut sum = self.0;
        let mut words = bytes.chunks_exact(4);
        for word in &mut words {
            sum += u64::from(u32::from_be_bytes([word[0], word[1], word[2], word[3]]));
        }
        let mut rest = [0; 4];
        rest[..words.remainder().len()].copy_from_slice(words.remainder());
        Self(fold32(sum) + u64::from(u32::from_be_bytes(rest)))
    }

    /// The sum in 16 bits. A checksum is the complement of this.
    pub fn fold(self) -> u16 {
        let mut sum = self.0;
        while sum > 0xffff {
            sum = (sum >> 16) + (sum & 0xffff);
        }
        u16::try_from(sum).unwrap_or(u16::MAX)
    }
}

fn fold32(sum: u64) -> u64 {
    (sum >> 32) + (sum & 0xffff_ffff)
}

/// The checksum of `bytes`, where the checksum field itself is zero; zero when the field is there and right.
pub fn checksum(start: Sum, bytes: &[u8]) -> u16 {
    !start.bytes(bytes).fold()
}

/// What a rewrite adds to a sum: the new words minus the old ones.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Delta(u16);

impl Delta {
    #[must_use]
    pub fn replace_word(self, old: u16, new: u16) -> Self {
        Self(Sum::default().word(self.0).word(!old).word(new).fold())
    }

    /// Both slices have the same, even length.
    #[must_use]
    pub fn replace(self, old: &[u8], new: &[u8]) -> Self {
        let gone = Sum::default().bytes(old).fold();
        Self(Sum::default().word(self.0).word(!gone).bytes(new).fold())
    }

    /// The new value of a whole checksum.
    pub fn apply(self, checksum: u16) -> u16 {
        !self.apply_partial(!checksum)
    }

    /// The new value of a field that holds a plain sum.
    pub fn apply_partial(self, sum: u16) -> u16 {
        Sum::default().word(sum).word(self.0).fold()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn rfc_1071_example() {
        assert_eq!(Sum::default().bytes(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]).fold(), 0xddf2);
        assert_eq!(checksum(Sum::default(), &[0xab]), !0xab00);
    }

    #[test]
    fn rfc_1624_example() {
        // The case that the older formula of RFC 1141 gets wrong.
        assert_eq!(Delta::default().replace_word(0x5555, 0x3285).apply(0xdd2f), 0x0000);
    }

    proptest! {
        #[test]
        fn delta_equals_full_computation(
            mut bytes in prop::collection::vec(any::<u8>(), 8..200),
            new in prop::array::uniform4(any::<u8>()),
            at in 0usize..2,
        ) {
            // A header is never all zero, which is the one sum where 0 and -0 would differ.
            bytes[7] |= 1;
            let before = checksum(Sum::default(), &bytes);
            let plain = Sum::default().bytes(&bytes).fold();
            let at = at * 2;
            let mut old = [0; 4];
            old.copy_from_slice(&bytes[at..at + 4]);
            let delta = Delta::default().replace(&old, &new);
            bytes[at..at + 4].copy_from_slice(&new);
            prop_assert_eq!(delta.apply(before), checksum(Sum::default(), &bytes));
            prop_assert_eq!(delta.apply_partial(plain), Sum::default().bytes(&bytes).fold());
        }

        #[test]
        fn pieces_sum_like_the_whole(bytes in prop::collection::vec(any::<u8>(), 0..300), at in 0usize..150) {
            let at = (at * 2).min(bytes.len() & !1);
            let pieces = Sum::default().bytes(&bytes[..at]).bytes(&bytes[at..]);
            prop_assert_eq!(pieces.fold(), Sum::default().bytes(&bytes).fold());
        }
    }
}
