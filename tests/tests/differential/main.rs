//! Tier 1: the kernel against the reference model, over random clusters and packets.
//!
//! Decides how many cases a run tries: `SWITCHBOARD_CASES` packets, from seed `SWITCHBOARD_SEED` on. Invariant: a failure
//! names the seed that repeats it.

mod found;

use lb_tests::differential::{Subject, try_seed};

/// Packets in an ordinary run.
const CASES: u64 = 100_000;
/// The first seed of an ordinary run.
const SEED: u64 = 1;

fn number(name: &str, otherwise: u64) -> u64 {
    match std::env::var(name) {
        Ok(text) => text.parse().unwrap_or_else(|error| panic!("{name}={text}: {error}")),
        Err(_) => otherwise,
    }
}

#[test]
fn the_kernel_does_what_the_reference_model_says() {
    let mut subject = Subject::load().unwrap();
    let (cases, mut seed) = (number("SWITCHBOARD_CASES", CASES), number("SWITCHBOARD_SEED", SEED));
    let mut packets = 0;
    while packets < cases {
        match try_seed(&mut subject, seed) {
            Ok(played) => packets += played.packets,
            Err(found) => panic!("{found}\nto repeat it: SWITCHBOARD_SEED={seed} SWITCHBOARD_CASES=1"),
        }
        seed += 1;
    }
    println!("{packets} packets of {} clusters", seed - number("SWITCHBOARD_SEED", SEED));
}
