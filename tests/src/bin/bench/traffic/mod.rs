//! `bench traffic`: what a client sees of a Service, in a pod, on the node itself and outside, through each contender.
//!
//! Decides what is compared and in which order: contenders take turns within each round. Must not know how loads or
//! rules are made. Invariant: a ratio compares what ran in the same round.

mod cluster;
mod load;
mod programs;
mod stage;

use std::time::Duration;

use anyhow::{Context as _, Result};
use lb_tests::peers::Peer;

use self::cluster::Which;
use self::load::{Did, Kind, Servers};
use self::stage::{Contender, From, Stage};
use crate::figures::{Cell, Plot, Section, Series, Spread, Table};
use crate::screen::Screen;
use crate::{Extent, Order};

/// How much is measured.
struct Effort {
    rounds: usize,
    /// Of one load.
    length: Duration,
    services: &'static [u32],
    /// Where what happens on connections that are there already is measured too: the number of Services is nothing to
    /// them but by caches.
    steady: &'static [u32],
    extent: Extent,
}

impl Effort {
    fn of(extent: Extent) -> Self {
        match extent {
            Extent::Quick => Self {
                rounds: 3,
                length: Duration::from_millis(120),
                services: &[1, 1_000],
                steady: &[1_000],
                extent,
            },
            Extent::Full | Extent::Patient => Self {
                rounds: 5,
                length: Duration::from_millis(400),
                services: &[1, 1_000, 10_000, 50_000],
                steady: &[1, 10_000, 50_000],
                extent,
            },
        }
    }

    /// Does the contender take part with so many Services? How long it takes to load them decides.
    fn admits(&self, contender: &Contender, services: u32) -> bool {
        let most = match (self.extent, contender) {
            (_, Contender::Plain | Contender::Switchboard) => return true,
            (Extent::Quick, _) => 1_000,
            // Its time grows with the square of the Services, also in portions: the kernel looks through all maps to
            // name one more. 50,000 take a quarter of an hour.
            (Extent::Full, Contender::Netfilter(Peer::Nftables) | Contender::KubeProxy(_)) => 10_000,
            (Extent::Full | Extent::Patient, _) => u32::MAX,
        };
        services <= most
    }

    /// Is this load measured with so many Services?
    fn takes(&self, load: &Load, services: u32) -> bool {
        load.kind == Kind::Connections || self.steady.contains(&services)
    }
}

/// A load: what, to which Service, from where.
struct Load {
    kind: Kind,
    which: Which,
    from: From,
    name: &'static str,
}

impl Load {
    const fn new(from: From, kind: Kind, which: Which, name: &'static str) -> Self {
        Self { kind, which, from, name }
    }
}

const LOADS: [Load; 17] = [
    Load::new(From::Pod, Kind::Connections, Which::First, "new connections/s, first Service"),
    Load::new(From::Pod, Kind::Connections, Which::Last, "new connections/s, last Service"),
    Load::new(From::Pod, Kind::Requests, Which::Last, "requests/s on one connection"),
    Load::new(From::Pod, Kind::Datagrams, Which::Datagrams, "datagrams/s"),
    Load::new(From::Pod, Kind::Bytes, Which::Last, "bits/s on one connection"),
    Load::new(From::Node, Kind::Connections, Which::Last, "new connections/s, last Service"),
    Load::new(From::Node, Kind::Requests, Which::Last, "requests/s on one connection"),
    Load::new(From::Node, Kind::Datagrams, Which::Datagrams, "datagrams/s"),
    Load::new(
        From::Outside,
        Kind::Connections,
        Which::First,
        "new connections/s, first Service, backend here",
    ),
    Load::new(From::Outside, Kind::Connections, Which::Last, "new connections/s, last Service, backend here"),
    Load::new(From::Outside, Kind::Connections, Which::Remote, "new connections/s, backend elsewhere"),
    Load::new(From::Outside, Kind::Requests, Which::Last, "requests/s, backend here"),
    Load::new(From::Outside, Kind::Requests, Which::Remote, "requests/s, backend elsewhere"),
    Load::new(From::Outside, Kind::Datagrams, Which::Datagrams, "datagrams/s, backend here"),
    Load::new(From::Outside, Kind::Datagrams, Which::RemoteDatagrams, "datagrams/s, backend elsewhere"),
    Load::new(From::Outside, Kind::Bytes, Which::Last, "bits/s, backend here"),
    Load::new(From::Outside, Kind::Bytes, Which::Remote, "bits/s, backend elsewhere"),
];
/// Turns that a load is measured in, in each round.
const SLICES: u32 = 8;
/// Its name among contenders.
const OURS: &str = "Switchboard";
/// The loads that plots show.
const PLOTTED: [(usize, &str, &str); 2] = [
    (1, "connections", "New connections from a pod to the last Service"),
    (9, "node-port", "New connections from outside to the last Service's node port"),
];

/// What a contender did with a load, round by round.
#[derive(Default)]
struct Rounds {
    rate: Vec<f64>,
    cpu_us: Vec<f64>,
    p50: Vec<f64>,
    p99: Vec<f64>,
    p999: Vec<f64>,
}

impl Rounds {
    fn add(&mut self, did: &Did) {
        self.rate.push(did.rate());
        self.cpu_us.push(did.cpu_us());
        if let Some(latency) = &did.latency {
            #[expect(clippy::cast_precision_loss, reason = "nanoseconds of one connection")]
            let at = |quantile| latency.value_at_quantile(quantile) as f64 / 1e3;
            self.p50.push(at(0.5));
            self.p99.push(at(0.99));
            self.p999.push(at(0.999));
        }
    }
}

/// Measures.
pub(crate) fn run(order: &Order, screen: &Screen) -> Result<Section> {
    let effort = Effort::of(order.extent);
    let contenders = Contender::all(order.kube_proxy.as_ref());
    let mut found = Found::new(&effort, &contenders);
    let steps = effort.services.len() * (contenders.len() + effort.rounds);
    let bar = screen.bar("traffic", steps);
    let servers = Servers::default();
    for services in effort.services {
        let mut stages = Vec::new();
        for contender in &contenders {
            bar.inc(1);
            if !effort.admits(contender, *services) {
                continue;
            }
            let stage = Stage::build(contender.clone(), *services, &servers)
                .with_context(|| format!("{services} Services for {}", contender.name()))?;
            stages.push(stage);
        }
        let measured = by_turns(&stages, &servers, &effort, *services, &bar)?;
        found.add(*services, &stages, &measured);
        found.programs.rows.extend(programs::row(*services, &stages, &servers, effort.length / SLICES)?);
    }
    bar.finish_and_clear();
    Ok(found.section())
}

/// Tables and plots that grow size by size.
struct Found {
    from_pod: Table,
    from_node: Table,
    from_outside: Table,
    /// Switchboard to each of the others.
    beside: Table,
    programs: Table,
    memory: Table,
    plots: Vec<Plot>,
}

impl Found {
    fn new(effort: &Effort, contenders: &[Contender]) -> Self {
        let plot = |(_, name, title): (usize, &str, &str)| Plot {
            name: name.to_owned(),
            title: title.to_owned(),
            across: "Services".to_owned(),
            upwards: "a second".to_owned(),
            places: effort.services.iter().map(|services| crate::show::short(f64::from(*services))).collect(),
            logarithmic: false,
            series: contenders
                .iter()
                .map(|contender| Series { name: contender.name().to_owned(), points: Vec::new() })
                .collect(),
        };
        Self {
            from_pod: table("ClusterIP, from a pod to a pod of the same node"),
            from_node: table("ClusterIP, from the node's own sockets to a pod of it"),
            from_outside: table("NodePort, from outside to a pod of the node and to one of another"),
            beside: beside(contenders),
            programs: programs::table(),
            memory: Table::new("The processes", &["Services x endpoints", "process", "resident memory, MB"]),
            plots: PLOTTED.map(plot).to_vec(),
        }
    }

    fn add(&mut self, services: u32, stages: &[Stage], measured: &[Vec<Rounds>]) {
        for stage in stages {
            let Some(mb) = stage.memory() else { continue };
            let (scale, name) = (format!("{services} x 2"), stage.contender.name());
            self.memory.rows.push(vec![Cell::text(scale), Cell::text(name), Cell::Figure(Spread::of(&[mb]))]);
        }
        for (load, rounds) in LOADS.iter().zip(measured) {
            let table = match load.from {
                From::Pod => &mut self.from_pod,
                From::Node => &mut self.from_node,
                From::Outside => &mut self.from_outside,
            };
            rows(table, services, load.name, stages, rounds);
            if load.kind == Kind::Connections {
                self.compare(services, load, stages, rounds);
            }
        }
        for ((load, ..), plot) in PLOTTED.iter().zip(&mut self.plots) {
            for series in &mut plot.series {
                let found = stages.iter().position(|stage| stage.contender.name() == series.name);
                series.points.push(found.map(|index| Spread::of(&measured[*load][index].rate)));
            }
        }
    }
}

/// All loads through all stages, by turns; by load, then by stage.
fn by_turns(
    stages: &[Stage],
    servers: &Servers,
    effort: &Effort,
    services: u32,
    bar: &indicatif::ProgressBar,
) -> Result<Vec<Vec<Rounds>>> {
    let mut all: Vec<Vec<Rounds>> =
        LOADS.iter().map(|_| stages.iter().map(|_| Rounds::default()).collect()).collect();
    for round in 0..effort.rounds {
        for (load, of_load) in LOADS.iter().zip(&mut all).filter(|(load, _)| effort.takes(load, services)) {
            for (rounds, did) in of_load.iter_mut().zip(one_round(stages, servers, effort, load, round)?) {
                rounds.add(&did);
            }
        }
        bar.inc(1);
    }
    Ok(all)
}

/// A load through all stages, in slices by turns: what disturbs the machine for a while disturbs all of them.
fn one_round(
    stages: &[Stage],
    servers: &Servers,
    effort: &Effort,
    load: &Load,
    round: usize,
) -> Result<Vec<Did>> {
    let mut done: Vec<Option<Did>> = stages.iter().map(|_| None).collect();
    for slice in 0..SLICES {
        // Nobody is always the first after a pause, or always behind the same neighbour.
        for turn in 0..stages.len() {
            let index = (turn + round + slice as usize) % stages.len();
            let stage = &stages[index];
            let targets = stage.targets(load.from, load.which);
            let did = servers
                .measure(stage.client(load.from), load.kind, &targets, effort.length / SLICES)
                .with_context(|| format!("{} through {}", load.name, stage.contender.name()))?;
            match &mut done[index] {
                Some(done) => done.add(&did)?,
                none => *none = Some(did),
            }
        }
    }
    Ok(done.into_iter().flatten().collect())
}

fn beside(contenders: &[Contender]) -> Table {
    let others = contenders.iter().map(Contender::name).filter(|name| *name != OURS);
    let columns: Vec<&str> = ["Services", "from", "load"].into_iter().chain(others).collect();
    Table::new("New connections/s: Switchboard to each of the others, round by round", &columns)
}

fn table(title: &str) -> Table {
    let columns = [
        "Services",
        "load",
        "through",
        "a second",
        "to plain routing",
        "p50, us",
        "p99, us",
        "p99.9, us",
        "processors' us each",
    ];
    Table::new(title, &columns)
}

/// A load's rows, one for each contender.
fn rows(table: &mut Table, services: u32, name: &str, stages: &[Stage], rounds: &[Rounds]) {
    let plain = stages.iter().position(|stage| matches!(stage.contender, Contender::Plain));
    let plain = plain.map_or(&[][..], |index| &rounds[index].rate);
    let of =
        |values: &[f64]| if values.is_empty() { Cell::Nothing } else { Cell::Figure(Spread::of(values)) };
    for (stage, rounds) in stages.iter().zip(rounds).filter(|(_, rounds)| !rounds.rate.is_empty()) {
        table.rows.push(vec![
            Cell::Count(services.into()),
            Cell::text(name),
            Cell::text(stage.contender.name()),
            of(&rounds.rate),
            Cell::Ratio(Spread::of_ratios(&rounds.rate, plain)),
            of(&rounds.p50),
            of(&rounds.p99),
            of(&rounds.p999),
            of(&rounds.cpu_us),
        ]);
    }
}

impl Found {
    /// Adds a load's ratios to the table of new connections.
    fn compare(&mut self, services: u32, load: &Load, stages: &[Stage], rounds: &[Rounds]) {
        let rates = |name: &str| {
            let found = stages.iter().position(|stage| stage.contender.name() == name);
            found.map(|index| &rounds[index].rate)
        };
        let Some(ours) = rates(OURS) else { return };
        let mut row = vec![Cell::Count(services.into()), Cell::text(load.from.name()), Cell::text(load.name)];
        for other in self.beside.columns.iter().skip(row.len()) {
            let ratio = rates(other).map(|theirs| Spread::of_ratios(ours, theirs));
            row.push(ratio.map_or(Cell::Nothing, Cell::Ratio));
        }
        self.beside.rows.push(row);
    }

    fn section(self) -> Section {
        Section {
            verb: "traffic".to_owned(),
            title: "What a client sees".to_owned(),
            method: vec![
                "Each contender has two nodes of its own, joined by a bridge: the first with a client pod and two \
                 backends, the second with two more, each in a network namespace and joined by veth pairs, and a client \
                 outside. Switchboard is the real agent, which read the Services from files; the others are rules shaped \
                 as kube-proxy 1.36 makes them, all on the first node. Up to 2,000 of the Services have a node port, the \
                 first and the last among them. Plain routing dials one of the two backends directly, by the same nodes: what no load \
                 balancer can beat. The client runs on the first processor, the servers on the last. In each round every \
                 contender gets each load, in eight slices by turns, and who begins changes from slice to slice."
                    .to_owned(),
                "A connection is opened and reset at once. Processors' time is that of the whole machine, so it holds the \
                 kernel's work for both sides; for bits it is that for a megabyte. What happens on a connection that is \
                 there already is measured with fewer of the sizes: rules are asked about first packets alone."
                    .to_owned(),
            ],
            tables: vec![
                self.beside,
                self.from_pod,
                self.programs,
                self.from_node,
                self.from_outside,
                self.memory,
            ],
            plots: self.plots,
            limits: vec![
                "Network cards: packets go from one namespace to another by memory alone.".to_owned(),
                "XDP on the node's uplink: a veth hands over whole segments of up to 64 KiB, which XDP does not take. \
                 `bench pps` has that."
                    .to_owned(),
                "Many clients at once, and more processors than this machine has.".to_owned(),
                "Throughput here is that of veth and the TCP stack with segments of up to 64 KiB, which hides the cost \
                 of a packet."
                    .to_owned(),
            ],
            disturbances: Vec::new(),
        }
    }
}
