//! How the CRC32c of a packet follows a change of its first four bytes, without the rest of it.
//!
//! Decides the arithmetic for SCTP's checksum (RFC 9260 appendix A) when ports change. Must not know packets.
//! Invariant: for every message, the checksum of the changed message is the old one XOR the [`Change`].
//!
//! A CRC is linear over XOR: what the change of a message does to its CRC is the CRC, begun with zero and without the
//! final complement, of the two messages' XOR. Here that is four bytes followed by zeros only, and to append a zero
//! byte is to multiply by x^8 modulo the polynomial. So the change is `word * x^(8 * (4 + rest))`, which takes one
//! multiplication for each bit of the length, whatever the payload.

/// The Castagnoli polynomial with its bits turned round, without x^32.
const POLYNOMIAL: u32 = 0x82f6_3b78;
/// Steps that a [`Change`] takes: no IP packet has more bits in its length.
pub const STEPS: u32 = 17;
/// x^(8 * 2^n) modulo the polynomial, for each n; as many as a masked index can name.
static POWERS: [u32; 32] = powers();

/// What the checksum must be XORed with, once all steps are taken. In steps, so that the datapath can have the
/// kernel repeat one instead of having the verifier follow all.
#[derive(Clone, Copy, Debug)]
pub struct Change {
    word: u32,
    length: u32,
}

impl Change {
    /// The first four bytes change from `old` to `new`, and `rest` bytes follow them.
    #[must_use]
    #[inline(always)]
    pub fn new(old: [u8; 4], new: [u8; 4], rest: u32) -> Self {
        Self { word: u32::from_le_bytes(old) ^ u32::from_le_bytes(new), length: rest.wrapping_add(4) }
    }

    /// Takes step `n`, of 0 to [`STEPS`] - 1.
    #[inline(always)]
    pub fn step(&mut self, n: u32) {
        // Masked: the verifier wants a bound that it can see.
        let Some(power) = POWERS.get((n & 31) as usize) else { return };
        if (self.length >> n) & 1 != 0 {
            self.word = multiply(*power, self.word);
        }
    }

    /// The result, after all steps: for the checksum read as a little-endian word.
    #[must_use]
    #[inline(always)]
    pub fn finish(self) -> u32 {
        self.word
    }
}

/// `a * b` modulo the polynomial, all with their bits turned round. Without branches, so that the verifier follows one path.
const fn multiply(a: u32, mut b: u32) -> u32 {
    let mut product = 0;
    let mut bit = 32;
    while bit > 0 {
        bit -= 1;
        product ^= b & 0_u32.wrapping_sub((a >> bit) & 1);
        b = (b >> 1) ^ (POLYNOMIAL & 0_u32.wrapping_sub(b & 1));
    }
    product
}

const fn powers() -> [u32; 32] {
    // x^0 is the highest bit.
    let mut power = 1 << (31 - 8);
    let mut powers = [0; 32];
    let mut n = 0;
    while n < powers.len() {
        // Evaluated at compile time, and in bounds.
        #[expect(clippy::indexing_slicing, reason = "n is below the length; checked when compiled")]
        {
            powers[n] = power;
        }
        power = multiply(power, power);
        n += 1;
    }
    powers
}

#[cfg(test)]
mod tests {
    use crc::{CRC_32_ISCSI, Crc};
    use proptest::prelude::*;

    use super::*;

    fn change(old: [u8; 4], new: [u8; 4], rest: u32) -> u32 {
        let mut change = Change::new(old, new, rest);
        (0..STEPS).for_each(|n| change.step(n));
        change.finish()
    }

    proptest! {
        #[test]
        fn the_checksum_of_the_changed_message_is_the_old_one_and_the_change(
            old: [u8; 4], new: [u8; 4], rest in proptest::collection::vec(any::<u8>(), 0..3_000),
        ) {
            let plain = Crc::<u32>::new(&CRC_32_ISCSI);
            let (before, after) = ([&old[..], &rest].concat(), [&new[..], &rest].concat());
            let rest = u32::try_from(rest.len()).unwrap();
            prop_assert_eq!(plain.checksum(&before) ^ change(old, new, rest), plain.checksum(&after));
        }
    }

    #[test]
    fn the_longest_packet_is_no_exception() {
        let plain = Crc::<u32>::new(&CRC_32_ISCSI);
        let (mut before, mut after) = (vec![0x5a; 65_535], vec![0x5a; 65_535]);
        before[..4].copy_from_slice(&[1, 2, 3, 4]);
        after[..4].copy_from_slice(&[4, 3, 2, 1]);
        assert_eq!(
            plain.checksum(&before) ^ change([1, 2, 3, 4], [4, 3, 2, 1], 65_531),
            plain.checksum(&after)
        );
    }
}
