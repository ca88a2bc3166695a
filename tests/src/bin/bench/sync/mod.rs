//! `bench sync`: from objects to what the kernel goes by, all at once and one change at a time.
//!
//! Decides sizes, changes and their order. Must not know rules or rows. Invariant: the peers get the same Services, and
//! each side's time ends when the kernel has taken the last of it.

mod live;
pub(crate) mod objects;
mod ours;
mod probe;

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use lb_tests::lab::{Lab, Layout};
use lb_tests::peers::Peer;

use self::objects::{NODE, Scale};
use self::ours::Ours;
use crate::figures::{Cell, Plot, Section, Series, Spread, Table};
use crate::screen::Screen;
use crate::{Extent, Order};

const SCALES: [Scale; 5] = [
    Scale { services: 1_000, endpoints: 10 },
    Scale { services: 10_000, endpoints: 2 },
    Scale { services: 10_000, endpoints: 10 },
    Scale { services: 50_000, endpoints: 2 },
    Scale { services: 1, endpoints: 5_000 },
];

/// After so long a peer gets no further round.
const PATIENCE: Duration = Duration::from_secs(15);
/// Longer than nftables takes for 10,000 Services of two endpoints.
const LIMIT: Duration = Duration::from_secs(120);

/// A change to one Service.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Change {
    EndpointLess,
    EndpointMore,
    NewService,
    ServiceGone,
}

/// In this order, so that the last leaves things as the first found them.
const CHANGES: [(Change, &str); 4] = [
    (Change::EndpointLess, "an endpoint less"),
    (Change::EndpointMore, "an endpoint more"),
    (Change::NewService, "a new Service"),
    (Change::ServiceGone, "a Service gone"),
];

/// How much is measured.
#[derive(Clone, Copy)]
struct Effort {
    rounds: usize,
    changes: usize,
    extent: Extent,
}

impl Effort {
    fn of(extent: Extent) -> Self {
        match extent {
            Extent::Quick => Self { rounds: 2, changes: 2, extent },
            Extent::Full | Extent::Patient => Self { rounds: 5, changes: 7, extent },
        }
    }

    /// A peer gets sets of at most so many endpoints in all.
    fn up_to(self) -> u32 {
        if self.extent == Extent::Quick { 5_000 } else { u32::MAX }
    }

    /// After so long a peer that loads everything is given up: the time of two of them grows with the square of the
    /// Services.
    fn limit(self) -> Option<Duration> {
        (self.extent != Extent::Patient).then_some(LIMIT)
    }
}

/// What one contender took for one size, in milliseconds.
struct Times {
    /// Empty: it was given up.
    whole: Vec<f64>,
    /// In the order of [`CHANGES`].
    changes: Vec<Vec<f64>>,
}

/// Measures.
pub(crate) fn run(order: &Order, screen: &Screen) -> Result<Section> {
    let (extent, effort) = (order.extent, Effort::of(order.extent));
    let mut whole =
        Table::new("Everything at once", &["Services x endpoints", "by", "ms", "times Switchboard's"]);
    let mut change =
        Table::new("One change", &["Services x endpoints", "change", "by", "ms", "times Switchboard's"]);
    let mut split = Table::new(
        "Where Switchboard's time goes, everything at once",
        &[
            "Services x endpoints",
            "objects taken in, ms",
            "planned and written, ms",
            "the same rows written alone, ms",
            "rows",
            "us a row",
            "of which the kernel's",
        ],
    );
    let mut plotted: Vec<Series> = std::iter::once("Switchboard")
        .chain(Peer::ALL.map(Peer::name))
        .map(|name| Series { name: name.to_owned(), points: Vec::new() })
        .collect();
    let bar = screen.bar("objects to the kernel", SCALES.len() * (1 + Peer::ALL.len()));
    for scale in SCALES {
        let ours = measure_ours(scale, effort, &mut split).with_context(|| scale.name())?;
        rows(&mut whole, &mut change, scale, "Switchboard", &ours, &ours);
        plotted[0].points.push(Some(Spread::of(&ours.whole)));
        bar.inc(1);
        for (peer, series) in Peer::ALL.into_iter().zip(&mut plotted[1..]) {
            bar.inc(1);
            if scale.services * scale.endpoints > effort.up_to() {
                series.points.push(None);
                continue;
            }
            let theirs = measure_peer(peer, scale, effort)
                .with_context(|| format!("{} for {}", peer.name(), scale.name()))?;
            rows(&mut whole, &mut change, scale, peer.name(), &theirs, &ours);
            series.points.push((!theirs.whole.is_empty()).then(|| Spread::of(&theirs.whole)));
        }
    }
    bar.finish_and_clear();
    let [started, watched] = live::measure(extent, screen)?;
    Ok(section(vec![whole, change, split, watched, started], plotted))
}

fn section(tables: Vec<Table>, series: Vec<Series>) -> Section {
    Section {
        verb: "sync".to_owned(),
        title: "From objects to the kernel".to_owned(),
        method: vec![
            "Switchboard: from parsed objects in memory to the last row in the kernel's maps, by the same code as the \
             agent's, in this process. Peers: `nft -f` and `iptables-restore --noflush` given rules shaped as kube-proxy \
             1.36 makes them, for the same Services, in a network namespace of their own; what kube-proxy itself takes to \
             make these rules is not counted, starting the program is, since kube-proxy starts it each time. For a change, \
             each gets what it needs to hear: Switchboard the changed slice, nftables the changed chains, iptables the \
             changed chains and the one that lists all Services."
                .to_owned(),
            "The last two tables are of the real agent, on a node of its own, at an API server in the benchmark's process, \
             over TCP. A change replaces a Service's only backend by another; it counts from when the server has the \
             event's bytes ready for the connection until a client's first datagram that goes to the new backend has been \
             sent. The client sends one of a new socket about every 60 us meanwhile, on a processor of its own where there \
             are two, so a figure is right to that. Other changes replace one endpoint of another Service each. CPU is the \
             agent's alone; the API server takes its share of the same machine."
                .to_owned(),
        ],
        tables,
        plots: vec![Plot {
            name: "sync".to_owned(),
            title: "Everything at once".to_owned(),
            across: "Services x endpoints".to_owned(),
            upwards: "ms".to_owned(),
            places: SCALES.map(Scale::name).to_vec(),
            logarithmic: true,
            series,
        }],
        limits: vec![
            "Reading objects from files. The first tables leave an API server out too; the last two have it.".to_owned(),
            "kube-proxy's own work, and its habit of listing the ruleset after a failure.".to_owned(),
            "Whether packets are slower while rules are loaded.".to_owned(),
        ],
        disturbances: Vec::new(),
    }
}

/// Adds a contender's rows.
fn rows(whole: &mut Table, change: &mut Table, scale: Scale, by: &str, took: &Times, ours: &Times) {
    let times = |took: &[f64], ours: &[f64]| Cell::Ratio(Spread::of_ratios(took, ours));
    if took.whole.is_empty() {
        let given_up = format!("given up after {}", crate::show::short(LIMIT.as_secs_f64() * 1e3));
        whole.rows.push(vec![Cell::text(scale.name()), Cell::text(by), Cell::text(given_up), Cell::Nothing]);
        return;
    }
    whole.rows.push(vec![
        Cell::text(scale.name()),
        Cell::text(by),
        Cell::Figure(Spread::of(&took.whole)),
        times(&took.whole, &ours.whole),
    ]);
    for ((_, name), (took, ours)) in CHANGES.iter().zip(took.changes.iter().zip(&ours.changes)) {
        change.rows.push(vec![
            Cell::text(scale.name()),
            Cell::text(*name),
            Cell::text(by),
            Cell::Figure(Spread::of(took)),
            times(took, ours),
        ]);
    }
}

fn measure_ours(scale: Scale, effort: Effort, split: &mut Table) -> Result<Times> {
    let (mut whole, mut taking_in, mut to_maps, mut alone) = <(Vec<_>, Vec<_>, Vec<_>, Vec<_>)>::default();
    let mut last = None;
    // Large objects take as long to make as to write.
    let rounds = if effort.extent == Extent::Quick && scale.is_large() { 1 } else { effort.rounds };
    for _ in 0..rounds {
        // One after the other: two of the largest side by side would not be what an agent does.
        drop(last.take());
        let mut ours = Ours::new()?;
        let took = ours.whole(scale.objects())?;
        whole.push(took.milliseconds());
        taking_in.push(took.taking_in.as_secs_f64() * 1e3);
        to_maps.push(took.to_maps.as_secs_f64() * 1e3);
        alone.push(ours.written_alone()?.as_secs_f64() * 1e3);
        last = Some((ours, took.rows));
    }
    let Some((mut ours, rows)) = last else { return Ok(Times { whole, changes: Vec::new() }) };
    let (to_maps, alone) = (Spread::of(&to_maps), Spread::of(&alone));
    #[expect(clippy::cast_precision_loss, reason = "fewer than 2^52 rows")]
    let each = |ms: f64| ms * 1e3 / rows.max(1) as f64;
    let a_row = |spread: Spread| {
        let Spread { median, min, max, rounds } = spread;
        Cell::Figure(Spread { median: each(median), min: each(min), max: each(max), rounds })
    };
    split.rows.push(vec![
        Cell::text(scale.name()),
        Cell::Figure(Spread::of(&taking_in)),
        Cell::Figure(to_maps),
        Cell::Figure(alone),
        Cell::Count(rows as u64),
        a_row(to_maps),
        a_row(alone),
    ]);
    let (mut changes, new) = (vec![Vec::new(); CHANGES.len()], scale.services);
    for round in 0..effort.changes {
        let number = pick(scale, round);
        for ((change, _), times) in CHANGES.iter().zip(&mut changes) {
            let took = match change {
                Change::EndpointLess => ours.resize(scale, number, scale.endpoints - 1),
                Change::EndpointMore => ours.resize(scale, number, scale.endpoints),
                Change::NewService => ours.add(scale, new),
                Change::ServiceGone => ours.delete(scale, new),
            }?;
            times.push(took.milliseconds());
        }
    }
    Ok(Times { whole, changes })
}

fn measure_peer(peer: Peer, scale: Scale, effort: Effort) -> Result<Times> {
    let services = scale.peers();
    let rules = peer.whole(&services, NODE);
    let (mut whole, mut last) = (Vec::new(), None);
    // Ten seconds each for some, and minutes for the largest: fewer rounds there.
    let rounds = if scale.is_large() { 2 } else { effort.rounds.min(3) };
    let began = Instant::now();
    for round in 0..rounds {
        if round > 0 && began.elapsed() > PATIENCE {
            break;
        }
        drop(last.take());
        let lab = Lab::builder().node("node1", Layout::Routed, &[]).build()?;
        let began = Instant::now();
        if !peer.load_within(&lab.node("node1").netns, &rules, false, effort.limit())? {
            return Ok(Times { whole: Vec::new(), changes: Vec::new() });
        }
        whole.push(began.elapsed().as_secs_f64() * 1e3);
        last = Some(lab);
    }
    let Some(lab) = last else { return Ok(Times { whole, changes: Vec::new() }) };
    let netns = &lab.node("node1").netns;
    let mut changes = vec![Vec::new(); CHANGES.len()];
    let new = scale.peer(scale.services, scale.endpoints);
    let began = Instant::now();
    for round in 0..effort.changes {
        if round > 0 && began.elapsed() > PATIENCE {
            break;
        }
        let number = pick(scale, round);
        let (full, less) = (scale.peer(number, scale.endpoints), scale.peer(number, scale.endpoints - 1));
        let mut after = services.clone();
        for ((change, _), times) in CHANGES.iter().zip(&mut changes) {
            let (before, now) = match change {
                Change::EndpointLess => (Some(&full), Some(&less)),
                Change::EndpointMore => (Some(&less), Some(&full)),
                Change::NewService => (None, Some(&new)),
                Change::ServiceGone => (Some(&new), None),
            };
            if *change == Change::NewService {
                after.push(new.clone());
            } else if *change == Change::ServiceGone {
                after.pop();
            }
            let rules = peer.change(&after, before, now, NODE);
            let began = Instant::now();
            peer.load(netns, &rules, false)?;
            times.push(began.elapsed().as_secs_f64() * 1e3);
        }
    }
    Ok(Times { whole, changes })
}

/// A Service to change, another each time.
fn pick(scale: Scale, round: usize) -> u32 {
    let round = u32::try_from(round).unwrap_or(0);
    (round.wrapping_mul(7_919) + scale.services / 2) % scale.services
}
