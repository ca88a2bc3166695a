//! Does a packet cost more where there are more Services?
//!
//! Decides the table's rows. Must not know how time is taken. Invariant: grounds of different sizes are timed by
//! turns, so that their ratios hold on a machine whose speed changes.

use anyhow::{Context as _, Result};
use lb_common::abi::Verdict;
use lb_common::address::Protocol;
use lb_userspace::datapath::object::XDP_PROGRAM;

use super::ground::{Ground, Packet, Wishes, side_by_side};
use super::harness::{Harness, Round, Target, Timing};
use super::shortcuts::{self, LOOPBACK};
use super::wrapper::{Hook, Recipe};
use super::{Effort, FAMILIES};
use crate::figures::{Cell, Spread, Table};
use crate::screen::Screen;

/// Flows that take turns among the Services.
const FLOWS: u32 = 1 << 10;
/// New flows a round: of all rounds together there is room among the half-open ones.
const NEW_FLOWS: u32 = 1 << 12;

/// What is timed on each ground.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Case {
    EstablishedLast,
    Established,
    NewLast,
    New,
    Stranger,
    /// Last, since it makes all flows masqueraded ones.
    Wire,
}

const CASES: [(Case, &str, Verdict); 6] = [
    (Case::EstablishedLast, "established, 1 k flows of the last Service", Verdict::Forwarded),
    (Case::Established, "established, 1 k flows over the Services", Verdict::Forwarded),
    (Case::NewLast, "first packet, to the last Service", Verdict::ForwardedNew),
    (Case::New, "first packet, to each Service in turn", Verdict::ForwardedNew),
    (Case::Stranger, "to no Service", Verdict::NotService),
    (Case::Wire, "from wire to wire, 1 k flows of the last Service", Verdict::ShortcutTaken),
];

/// Measures.
pub(super) fn measure(effort: Effort, screen: &Screen) -> Result<Table> {
    let mut table =
        Table::new("Number of Services", &["family", "packet", "hook", "Services", "ns", "ns / ns at 1"]);
    let bar = screen.bar("Services", FAMILIES.len() * (effort.services.len() + CASES.len()));
    for (ipv6, family) in FAMILIES {
        let mut grounds = side_by_side(effort.services, |services| {
            let wishes = Wishes { services: *services, flows: FLOWS, ..Wishes::plain(ipv6, Protocol::TCP) };
            let mut ground = Ground::lay(wishes).with_context(|| format!("{services} Services"))?;
            ground.populate(FLOWS)?;
            ground.populate_last(FLOWS)?;
            bar.inc(1);
            Ok(ground)
        })?;
        for (case, name, verdict) in CASES {
            if case == Case::Wire {
                grounds.iter().try_for_each(|ground| shortcuts::give_ways(ground, LOOPBACK))?;
            }
            let timings = by_turns(&mut grounds, case, verdict, effort)?;
            for (timing, services) in timings.iter().zip(effort.services) {
                let first = timings.first().map_or(&[][..], |first| &first.rounds);
                table.rows.push(vec![
                    Cell::text(family),
                    Cell::text(name),
                    Cell::text(if case == Case::Wire { "XDP" } else { "tc" }),
                    Cell::Count((*services).into()),
                    Cell::Figure(timing.target),
                    Cell::Ratio(Spread::of_ratios(&timing.rounds, first)),
                ]);
            }
            bar.inc(1);
        }
    }
    bar.finish_and_clear();
    Ok(table)
}

/// Times a case on all grounds, one after the other in each round.
fn by_turns(grounds: &mut [Ground], case: Case, verdict: Verdict, effort: Effort) -> Result<Vec<Timing>> {
    let mut ready: Vec<(&Ground, Harness, _)> = Vec::new();
    for ground in grounds {
        let program = if case == Case::Wire { XDP_PROGRAM } else { "pod_ingress" };
        let program = ground.datapath.program(program)?;
        let ground: &Ground = ground;
        let recipe = match case {
            Case::Established => ground.varied(Packet::Forth, Some(FLOWS)),
            Case::EstablishedLast => ground.varied_last(Packet::Forth, Some(FLOWS)),
            Case::New => ground.varied(Packet::Opening, None),
            Case::NewLast => ground.varied_last(Packet::Opening, None),
            Case::Wire => Recipe { hook: Hook::Xdp, ..ground.varied_last(Packet::Forth, Some(FLOWS)) },
            Case::Stranger => ground.fixed(ground.frame(ground.client(), ground.stranger(), "A")),
        };
        let mut harness = ground.harness(recipe)?;
        if matches!(case, Case::New | Case::NewLast) {
            // Behind the flows that are there already.
            harness.start_at(FLOWS.into());
        }
        harness.warm_up(&ground.datapath, &Target { program: &program, verdict })?;
        ready.push((ground, harness, program));
    }
    let new = matches!(case, Case::New | Case::NewLast);
    let (turns, repeat) = if new { (effort.rounds, NEW_FLOWS) } else { effort.turns(FLOWS) };
    let mut rounds: Vec<Vec<Round>> = ready.iter().map(|_| Vec::new()).collect();
    for _ in 0..turns {
        for ((ground, harness, program), rounds) in ready.iter_mut().zip(&mut rounds) {
            let target = Target { program, verdict };
            if !new {
                // The other grounds have had the caches since.
                harness.warm_up(&ground.datapath, &target)?;
            }
            rounds.push(harness.round(&ground.datapath, &target, repeat)?);
        }
    }
    Ok(rounds.iter().map(|rounds| Timing::of(rounds)).collect())
}
