//! Established flows: both directions, both protocols, both families, few flows and many.
//!
//! Decides the table's rows. Must not know how time is taken. Invariant: the lookup beside a row is of that row's
//! flows, in that row's table.

use anyhow::Result;
use lb_common::abi::Verdict;
use lb_common::address::Protocol;

use super::Effort;
use super::ground::{Ground, Packet};
use super::harness::{Target, Timing, Yardsticks};
use super::wrapper::{Hook, Recipe};
use crate::figures::{Cell, Plot, Series, Spread, Table};
use crate::screen::Screen;

/// A direction: the program, the packet and the verdict it must end in.
const WAYS: [(&str, &str, Packet, Verdict); 2] = [
    ("to the backend", "pod_ingress", Packet::Forth, Verdict::Forwarded),
    ("reply", "pod_egress", Packet::Back, Verdict::Replied),
];

/// Measures; the table and the yardsticks', and a plot.
pub(super) fn measure(
    grounds: &mut [Ground],
    effort: Effort,
    screen: &Screen,
) -> Result<(Vec<Table>, Vec<Plot>)> {
    let mut yardsticks = yardsticks_table();
    let mut table = Table::new(
        "Established flows",
        &["family", "protocol", "way", "hook", "flows", "ns", "one lookup, ns", "ns / lookup"],
    );
    let mut series = Vec::new();
    let bar = screen.bar("established flows", grounds.len() * WAYS.len() * effort.flows.len());
    for ground in grounds {
        let (family, name) = ground.wishes.names();
        let protocol = ground.wishes.protocol;
        if protocol == Protocol::TCP {
            yardsticks.rows.extend(measure_yardsticks(ground, family, effort)?);
        }
        for (way, program, packet, verdict) in WAYS {
            let fd = ground.datapath.program(program)?;
            let target = Target { program: &fd, verdict };
            let mut timings = Vec::new();
            for flows in effort.flows {
                let mut harness = ground.harness(ground.varied(packet, Some(*flows)))?;
                harness.warm_up(&ground.datapath, &target)?;
                let (rounds, repeat) = effort.turns(*flows);
                let rounds = (0..rounds).map(|_| harness.round(&ground.datapath, &target, repeat));
                let timing = Timing::of(&rounds.collect::<Result<Vec<_>>>()?);
                table.rows.push(vec![
                    Cell::text(family),
                    Cell::text(name),
                    Cell::text(way),
                    Cell::text("tc"),
                    Cell::Count((*flows).into()),
                    Cell::Figure(timing.target),
                    Cell::figure(timing.lookup),
                    timing.ratio.map_or(Cell::Nothing, Cell::Ratio),
                ]);
                timings.push(timing);
                bar.inc(1);
            }
            let points = |pick: fn(&Timing) -> _| timings.iter().map(pick).collect();
            if protocol == Protocol::TCP {
                let points = points(|timing: &Timing| Some(timing.target));
                series.push(Series { name: format!("{family} {way}"), points });
            }
            if protocol == Protocol::TCP && packet == Packet::Forth {
                let points = points(|timing: &Timing| timing.lookup);
                series.push(Series { name: format!("one lookup, {family}"), points });
            }
        }
    }
    bar.finish_and_clear();
    let plot = Plot {
        name: "flows".to_owned(),
        title: "A packet of an established TCP flow".to_owned(),
        across: "flows that take turns".to_owned(),
        upwards: "ns".to_owned(),
        places: effort.flows.iter().map(|flows| crate::show::short(f64::from(*flows))).collect(),
        logarithmic: false,
        series,
    };
    Ok((vec![yardsticks, table], vec![plot]))
}

fn yardsticks_table() -> Table {
    let columns = [
        "family",
        "hook",
        "flows",
        "wrapper around an empty program, ns",
        "one lookup, ns",
        "reading and rewriting it by helpers, ns",
    ];
    Table::new("Yardsticks", &columns)
}

/// What programs at either hook are measured by.
fn measure_yardsticks(ground: &Ground, family: &str, effort: Effort) -> Result<Vec<Vec<Cell>>> {
    let mut rows = Vec::new();
    for hook in [Hook::Tc, Hook::Xdp] {
        for flows in effort.flows {
            let recipe = Recipe { hook, ..ground.varied(Packet::Forth, Some(*flows)) };
            let mut harness = ground.harness(recipe)?;
            let (rounds, repeat) = effort.turns(*flows);
            let rounds = (0..rounds).map(|_| harness.yardsticks(repeat));
            let rounds = rounds.collect::<Result<Vec<_>>>()?;
            let of = |pick: fn(&Yardsticks) -> Option<f64>| {
                let values: Vec<f64> = rounds.iter().filter_map(pick).collect();
                Cell::figure((!values.is_empty()).then(|| Spread::of(&values)))
            };
            rows.push(vec![
                Cell::text(family),
                Cell::text(hook.name()),
                Cell::Count((*flows).into()),
                of(|round| Some(round.wrapper)),
                of(|round| Some(round.lookup)),
                of(|round| round.rewrite),
            ]);
        }
    }
    Ok(rows)
}
