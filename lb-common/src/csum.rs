//! The Internet checksum, computed whole and updated after a change.
//!
//! Decides the arithmetic of RFC 1071 and RFC 1624 and nothing else; where a checksum lies in a
//! packet is its caller's business. Invariant: an update equals computing anew, for every
//! input (a property test holds it).

/// Adds `bytes`, as big-endian 16-bit words, to a running one's complement sum. An odd last byte
/// counts as the high half of a word (RFC 1071 section 4.1).
#[must_use]
#[inline(always)]
pub fn sum(bytes: &[u8], start: u64) -> u64 {
    let mut total = start;
    for pair in bytes.chunks(2) {
        let word = match *pair {
            [high, low] => u16::from_be_bytes([high, low]),
            [high] => u16::from_be_bytes([high, 0]),
            _ => 0,
        };
        total += u64::from(word);
    }
    total
}

/// Folds a running sum of at most 48 bits to 16, carries added back in.
#[must_use]
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "three folds leave 16 bits")]
pub const fn fold(sum: u64) -> u16 {
    // In words of 32 bits, which take the processors that programs are compiled for half the instructions.
    let (low, high) = (sum as u32, (sum >> 32) as u32);
    let mut sum = (low & 0xffff) + (low >> 16) + high;
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    sum as u16
}

/// The checksum field for a running sum, in host order.
#[must_use]
#[inline(always)]
pub const fn finish(sum: u64) -> u16 {
    !fold(sum)
}

/// The checksum after one 16-bit word changed from `old` to `new` (RFC 1624 equation 3:
/// `HC' = ~(~HC + ~m + m')`), all in one byte order, whichever.
#[must_use]
#[inline(always)]
pub const fn update(checksum: u16, old: u16, new: u16) -> u16 {
    finish(!checksum as u64 + !old as u64 + new as u64)
}

/// The one's complement difference between `words` 32-bit words whose plain sums are `old` and `new`, in one byte order,
/// whichever, with its carries: in 37 bits. At most 16 words.
#[must_use]
#[inline(always)]
pub const fn change(old: u64, new: u64, words: u64) -> u64 {
    new + (words * 0xffff_ffff - old)
}

/// The same in 32 bits, as `bpf_csum_diff` gives it.
#[must_use]
#[inline(always)]
pub const fn difference(old: u64, new: u64, words: u64) -> u64 {
    carried(change(old, new, words))
}

/// A [`change`] in 32 bits, its carries added back in.
#[must_use]
#[inline(always)]
pub const fn carried(change: u64) -> u64 {
    let sum = (change & 0xffff_ffff) + (change >> 32);
    (sum & 0xffff_ffff) + (sum >> 32)
}

/// The checksum after what it covers changed by `difference`: one of [`difference`] or [`change`], or the sum of some.
#[must_use]
#[inline(always)]
pub const fn update_sum(checksum: u16, difference: u64) -> u16 {
    finish(!checksum as u64 + difference)
}

/// Is `checksum` the sum of a pseudo-header (RFC 9293 section 3.1, RFC 8200 section 8.1), as it stands where the rest is
/// left to the device? `addresses` is the plain sum of both addresses' words, `len` the length of what follows the network
/// header; all but `protocol` and `len` in memory order.
#[must_use]
#[inline(always)]
pub const fn is_pseudo_header(checksum: u16, addresses: u64, protocol: u8, len: u32) -> bool {
    let rest = (protocol as u32).to_be() as u64 + len.to_be() as u64;
    let sum = fold(addresses + rest);
    // 0 and 0xffff are the same number.
    sum == checksum || (sum ^ checksum == 0xffff && (sum == 0 || checksum == 0))
}

/// A UDP checksum that came out as 0 is sent as 0xffff, since 0 says "none" (RFC 768, C42).
#[must_use]
#[inline(always)]
pub const fn udp_nonzero(checksum: u16) -> u16 {
    if checksum == 0 { 0xffff } else { checksum }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_worked_example_of_rfc_1071_comes_out() {
        let bytes = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
        assert_eq!(fold(sum(&bytes, 0)), 0xddf2);
    }

    #[test]
    fn the_worked_example_of_rfc_1624_comes_out() {
        assert_eq!(update(0xdd2f, 0x5555, 0x3285), 0x0000);
    }

    #[test]
    fn carries_are_added_back_in_from_48_bits_too() {
        for sum in
            [0, 1, 0xffff, 0x1_0000, 0xffff_ffff, 0x1_ffff_ffff, 0xffff_0000_ffff, 0xffff_ffff_ffff_u64]
        {
            let folded = u64::from(fold(sum));
            assert_eq!(folded % 0xffff, sum % 0xffff, "{sum:#x}");
            assert_eq!(folded == 0, sum == 0, "{sum:#x}");
        }
    }

    #[test]
    fn c42_a_udp_checksum_of_zero_is_sent_as_all_ones() {
        assert_eq!(udp_nonzero(0), 0xffff);
        assert_eq!(udp_nonzero(7), 7);
    }

    proptest! {
        #[test]
        fn a_checksum_left_to_the_device_is_told_from_a_whole_one(
            src: [u8; 16], dst: [u8; 16], v6: bool, payload in prop::collection::vec(any::<u8>(), 8..64),
        ) {
            let bytes = if v6 { 16 } else { 4 };
            let words = |addr: [u8; 16]| -> u64 {
                addr[..bytes].chunks(4).map(|word| u64::from(u32::from_ne_bytes([word[0], word[1], word[2], word[3]]))).sum()
            };
            let len = u16::try_from(payload.len()).unwrap();
            let pseudo = [&src[..bytes], &dst[..bytes], &[0, 6], &len.to_be_bytes()[..]].concat();
            let left = fold(sum(&pseudo, 0)).to_be();
            let whole = finish(sum(&payload, sum(&pseudo, 0))).to_be();
            let ends = words(src) + words(dst);
            prop_assert!(is_pseudo_header(left, ends, 6, len.into()));
            let nothing = fold(sum(&payload, 2 * sum(&pseudo, 0))) == 0xffff;
            prop_assert_eq!(is_pseudo_header(whole, ends, 6, len.into()), nothing);
        }

        #[test]
        fn an_addresss_change_updates_as_its_words_do(old: u128, new: u128, checksum in 1u16..0xffff) {
            use crate::address::{Address as _, V6};
            let [before, after] = [old, new].map(|bits| V6::from(core::net::Ipv6Addr::from_bits(bits)));
            let halves = |address: V6| bytemuck::cast::<[u32; 4], [u16; 8]>(address.words());
            let mut expected = checksum;
            for (old, new) in halves(before).into_iter().zip(halves(after)) {
                expected = update(expected, old, new);
            }
            let updated = update_sum(checksum, difference(before.sum(), after.sum(), 4));
            prop_assert!(updated == expected || (updated ^ expected) == 0xffff && (updated == 0 || expected == 0));
        }

        #[test]
        fn an_update_equals_computing_anew(mut bytes in prop::collection::vec(any::<u8>(), 4..64), at in 0usize..31, new: u16) {
            prop_assume!(bytes.iter().any(|&b| b != 0));
            bytes.truncate(bytes.len() & !1);
            let at = (at * 2) % bytes.len();
            let old = u16::from_be_bytes([bytes[at], bytes[at + 1]]);
            let before = finish(sum(&bytes, 0));
            bytes[at..at + 2].copy_from_slice(&new.to_be_bytes());
            prop_assume!(bytes.iter().any(|&b| b != 0));
            let after = update(before, old, new);
            // One's complement has two zeros; both verify.
            let whole = finish(sum(&bytes, 0));
            prop_assert_eq!(after, update_sum(before, difference(old.into(), new.into(), 1)));
            prop_assert_eq!(after, update_sum(before, change(old.into(), new.into(), 1)));
            prop_assert!(after == whole || (after ^ whole) == 0xffff && (after == 0 || whole == 0));
        }
    }
}
