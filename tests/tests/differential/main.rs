//! Tier 1: the kernel against the reference model, over random clusters and packets.
//!
//! Decides how many cases a run tries: `SWITCHBOARD_CASES` packets, from seed `SWITCHBOARD_SEED` on. Invariant: a failure
//! names the seed that repeats it, and an ordinary run meets every verdict that random packets can end in.

mod found;

use lb_common::abi::Verdict;
use lb_tests::differential::{Played, Subject, try_seed};

/// Packets in an ordinary run.
const CASES: u64 = 100_000;
/// The first seed of an ordinary run.
const SEED: u64 = 1;

/// Verdicts that no random packet ends in: failures of the machine, sockets', and what only a race can do.
fn is_beyond_packets(verdict: Verdict) -> bool {
    let machines = [
        Verdict::NotIp,
        Verdict::DroppedRowRecycled,
        Verdict::DroppedNoBackendRow,
        Verdict::DroppedTableFull,
        Verdict::DroppedRewriteFailed,
    ];
    machines.contains(&verdict) || verdict.name().starts_with("socket_")
}

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|error| panic!("{name}={text}: {error}")))
}

#[test]
fn the_kernel_does_what_the_reference_model_says() {
    let mut subject = Subject::load().unwrap();
    let (cases, first) = (number("SWITCHBOARD_CASES"), number("SWITCHBOARD_SEED").unwrap_or(SEED));
    let (mut all, mut seed) = (Played::default(), first);
    while all.packets < cases.unwrap_or(CASES) {
        match try_seed(&mut subject, seed) {
            Ok(played) => all.add(&played),
            Err(found) => panic!("{found}\nto repeat it: SWITCHBOARD_SEED={seed} SWITCHBOARD_CASES=1"),
        }
        seed += 1;
    }
    println!("{} packets of {} clusters: {:?}", all.packets, seed - first, all.verdicts);
    if cases.is_none() {
        let unmet = |verdict: &&Verdict| !is_beyond_packets(**verdict) && !all.verdicts.contains_key(verdict);
        let unmet: Vec<_> = Verdict::ALL.iter().filter(unmet).map(|verdict| verdict.name()).collect();
        assert_eq!(unmet, Vec::<&str>::new(), "verdicts that no packet ended in");
    }
}
