//! Maglev tables: which member of a set a slot belongs to, so that every node gives a flow the same one.
//!
//! Decides the table by seeds, weights and the order of the members alone: "Maglev: A Fast and Reliable Software
//! Network Load Balancer" (NSDI 2016), section 3.4, with weights as the frequency of turns. Must not know what members
//! are. Invariant: a function of its arguments, the same on every machine; a full table has shares that differ
//! by one slot at equal weights.
//!
//! A reader chooses `slots[hash * len >> 32]`, as in a plain list.

use core::net::IpAddr;

/// A slot that nobody has.
pub const NOBODY: u32 = u32::MAX;

/// Slots for each member, where that many may be had: shares then differ by one in a hundred at most.
pub const SLOTS_PER_MEMBER: u32 = 100;

/// A member of a set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    seed: u64,
    weight: u32,
    /// The slot that it would like next.
    next: u32,
    /// How far it goes to the one after.
    skip: u32,
    /// Turns that it has saved up, in units of the greatest weight.
    credit: u64,
}

impl Member {
    /// A member by its seed; it gets slots in proportion to its weight, with weight 0 none.
    #[must_use]
    pub const fn new(seed: u64, weight: u32) -> Self {
        Self { seed, weight, next: 0, skip: 0, credit: 0 }
    }

    /// Its own order of `len` slots: a start and a stride.
    fn aim(&mut self, len: u32) {
        self.next = remainder(finalize(self.seed), len);
        self.skip = remainder(finalize(self.seed ^ 0x6a09_e667_f3bc_c909), (len - 1).max(1)) + 1;
        self.credit = 0;
    }

    /// Both are below `len`, but for a stride of 1 through a single slot.
    fn advance(&mut self, len: u32) {
        let left = len - self.next;
        self.next = if self.skip >= left { self.skip - left } else { self.next + self.skip };
    }
}

/// The seed of a backend: by its address and port alone, so that nodes agree without asking each other.
#[must_use]
pub fn seed(ip: IpAddr, port: u16) -> u64 {
    let (high, low) = match ip {
        IpAddr::V4(ip) => (0, u64::from(ip.to_bits())),
        IpAddr::V6(ip) => {
            let bits = ip.to_bits();
            #[expect(clippy::cast_possible_truncation, reason = "both halves go in")]
            let halves = ((bits >> 64) as u64, bits as u64);
            halves
        }
    };
    [high, low, u64::from(port)].into_iter().fold(0, |seed, word| finalize(seed ^ word))
}

/// How many slots a set gets: a prime from a short list, so that it stays the same while a set grows or shrinks a
/// little (another length moves most flows). At least [`SLOTS_PER_MEMBER`] each, unless `at_most` says less. `None`:
/// the set has more members than that.
#[must_use]
pub fn table_len(members: u32, at_most: u32) -> Option<u32> {
    if members <= 1 {
        return (members <= at_most).then_some(members);
    }
    let enough = members.saturating_mul(SLOTS_PER_MEMBER);
    // 251, 1021, 4093, 16381, ...: the primes below the powers of four.
    let mut len = 251;
    let mut bound = 256_u32;
    while len < enough && bound < at_most {
        bound = bound.saturating_mul(4);
        len = prime_below(bound.min(at_most));
    }
    let len = if len > at_most { prime_below(at_most) } else { len };
    (len >= members && len > 1).then_some(len)
}

/// Fills `slots` with indices into `members`. Best with a prime number of slots ([`table_len`]). Where no member
/// has any weight, all slots are [`NOBODY`]'s.
pub fn build(members: &mut [Member], slots: &mut [u32]) {
    slots.fill(NOBODY);
    let Ok(len) = u32::try_from(slots.len()) else { return };
    let heaviest = members.iter().map(|member| member.weight).max().unwrap_or(0);
    if len == 0 || heaviest == 0 {
        return;
    }
    members.iter_mut().for_each(|member| member.aim(len));
    let mut left = slots.len();
    while left > 0 {
        for (index, member) in (0..).zip(members.iter_mut()) {
            member.credit += u64::from(member.weight);
            if member.credit < u64::from(heaviest) || left == 0 {
                continue;
            }
            member.credit -= u64::from(heaviest);
            if let Some(slot) = preferred(member, slots, len) {
                *slot = index;
                left -= 1;
            }
        }
    }
}

/// The first free slot in the member's order. An order that does not reach all slots, as where their number is no
/// prime, ends in the first that is free at all.
fn preferred<'s>(member: &mut Member, slots: &'s mut [u32], len: u32) -> Option<&'s mut u32> {
    for _ in 0..len {
        let at = member.next as usize;
        member.advance(len);
        if slots.get(at) == Some(&NOBODY) {
            return slots.get_mut(at);
        }
    }
    slots.iter_mut().find(|slot| **slot == NOBODY)
}

/// The greatest prime up to `bound`; 1 where there is none.
fn prime_below(bound: u32) -> u32 {
    (2..=bound).rev().find(|number| is_prime(*number)).unwrap_or(1)
}

fn is_prime(number: u32) -> bool {
    let mut divisor = 2_u32;
    while divisor.saturating_mul(divisor) <= number {
        if number.is_multiple_of(divisor) {
            return false;
        }
        divisor += 1;
    }
    number > 1
}

#[expect(clippy::cast_possible_truncation, reason = "less than `len`")]
fn remainder(number: u64, len: u32) -> u32 {
    number.checked_rem(u64::from(len)).unwrap_or(0) as u32
}

/// Spreads a word over all of its bits (`SplitMix64`'s finalizer, Steele, Lea and Flood 2014).
const fn finalize(word: u64) -> u64 {
    let word = word.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::vec::Vec;
    use std::{println, vec};

    use proptest::prelude::*;

    use super::*;

    const BOUND: u32 = 16_381;

    fn backend(number: u32) -> u64 {
        seed(Ipv4Addr::from_bits(0x0af4_0001 + number).into(), 8080)
    }

    fn table(numbers: &[u32], weight: impl Fn(u32) -> u32, len: u32) -> Vec<u32> {
        let mut members: Vec<Member> =
            numbers.iter().map(|&number| Member::new(backend(number), weight(number))).collect();
        let mut slots = vec![0; len as usize];
        build(&mut members, &mut slots);
        slots.into_iter().map(|index| numbers[index as usize]).collect()
    }

    fn share(table: &[u32], number: u32) -> usize {
        table.iter().filter(|slot| **slot == number).count()
    }

    #[test]
    fn c29_shares_differ_by_one_slot_at_most() {
        for members in [2, 3, 7, 10, 40, 163, 500] {
            let numbers: Vec<u32> = (0..members).collect();
            let len = table_len(members, BOUND).unwrap();
            let table = table(&numbers, |_| 1, len);
            let shares: Vec<usize> = numbers.iter().map(|number| share(&table, *number)).collect();
            let (least, most) = (*shares.iter().min().unwrap(), *shares.iter().max().unwrap());
            #[expect(clippy::cast_precision_loss, reason = "for people")]
            let spread = most as f64 / least as f64;
            println!("note: {members} members, {len} slots: max/min share {spread:.3}");
            assert!(most - least <= 1, "{members}: {least} to {most}");
        }
    }

    #[test]
    fn c29_a_member_that_leaves_takes_few_others_slots_along() {
        for members in [3_u32, 10, 40, 160] {
            let len = table_len(members, BOUND).unwrap();
            let numbers: Vec<u32> = (0..members).collect();
            let before = table(&numbers, |_| 1, len);
            let mut worst = 0;
            for gone in 0..members.min(10) {
                let rest: Vec<u32> = numbers.iter().copied().filter(|number| *number != gone).collect();
                let after = table(&rest, |_| 1, len);
                let kept = before.iter().zip(&after).filter(|(before, _)| **before != gone);
                worst = worst.max(kept.filter(|(before, after)| before != after).count());
            }
            let percent = 100 * worst / len as usize;
            println!(
                "note: one of {members} leaves {len} slots: at worst {percent} % of the others' slots move"
            );
            assert!(percent <= 4, "{members}: {percent} %");
        }
    }

    #[test]
    fn c29_slots_are_in_proportion_to_weights() {
        let numbers = [0, 1, 2, 3];
        let table = table(&numbers, |number| [1, 2, 3, 0][number as usize], 1_021);
        let shares = numbers.map(|number| share(&table, number));
        assert_eq!(shares.iter().sum::<usize>(), 1_021);
        for (share, expected) in shares.into_iter().zip([170, 340, 510, 0]) {
            assert!(share.abs_diff(expected) <= 2, "{shares:?}");
        }
    }

    #[test]
    fn a_set_keeps_its_length_while_it_changes_a_little() {
        let lens =
            [(0, 0), (1, 1), (2, 251), (3, 1_021), (10, 1_021), (11, 4_093), (40, 4_093), (41, 16_381)];
        for (members, len) in lens {
            assert_eq!(table_len(members, BOUND), Some(len), "{members}");
        }
        assert_eq!(table_len(1_000, BOUND), Some(16_381), "fewer slots each, at the bound");
        assert_eq!(table_len(10, 100), Some(97));
        assert_eq!((table_len(98, 100), table_len(2, 1), table_len(1, 0)), (None, None, None));
        assert_eq!(table_len(100, 1 << 20), Some(16_381));
        assert_eq!(table_len(u32::MAX, 1 << 20), None);
    }

    #[test]
    fn nobody_has_slots_where_nobody_has_weight() {
        let mut slots = [0; 5];
        build(&mut [Member::new(1, 0)], &mut slots);
        assert_eq!(slots, [NOBODY; 5]);
        build(&mut [], &mut slots);
        assert_eq!(slots, [NOBODY; 5]);
    }

    proptest! {
        #[test]
        fn every_table_is_full_and_a_function_of_its_members(
            seeds in prop::collection::vec(any::<u64>(), 1..40), len in 40u32..400,
        ) {
            let members: Vec<Member> = seeds.iter().map(|seed| Member::new(*seed, 1)).collect();
            let (mut one, mut two) = (vec![0; len as usize], vec![7; len as usize]);
            build(&mut members.clone(), &mut one);
            let mut again = members.clone();
            build(&mut again, &mut two);
            build(&mut again, &mut two);
            prop_assert_eq!(&one, &two);
            prop_assert!(one.iter().all(|index| (*index as usize) < members.len()));
            let share = |index| one.iter().filter(|slot| **slot == index).count();
            let count = u32::try_from(members.len()).unwrap();
            prop_assert!((0..count).all(|index| share(index) >= (len / count) as usize));
        }
    }

    #[test]
    fn a_seed_is_by_address_and_port() {
        let at = |text: &str, port| seed(text.parse().unwrap(), port);
        // The value itself is part of what nodes of different versions agree on.
        assert_eq!(at("10.244.0.1", 8080), 0x7b46_c2eb_89a8_23bb);
        let seeds =
            [at("10.244.0.1", 8080), at("10.244.0.1", 8081), at("10.244.0.2", 8080), at("fd00::1", 8080)];
        assert!((0..4).all(|a| (0..a).all(|b| seeds[a] != seeds[b])), "{seeds:?}");
    }
}
