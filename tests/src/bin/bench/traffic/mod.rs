//! `bench traffic`: what a client sees of a ClusterIP, in a pod and on the node itself, through each contender.
//!
//! Decides what is compared and in which order: contenders take turns within each round. Must not know how loads or
//! rules are made. Invariant: a ratio compares what ran in the same round.

mod load;
mod stage;

use std::time::Duration;

use anyhow::{Context as _, Result};

use self::load::{Did, Kind, Servers};
use self::stage::{Contender, From, Stage, Which};
use crate::Extent;
use crate::figures::{Cell, Plot, Section, Series, Spread, Table};
use crate::screen::Screen;

/// How much is measured.
struct Effort {
    rounds: usize,
    /// Of one load.
    length: Duration,
    services: &'static [u32],
    /// Contenders that are slow to load take part up to here.
    netfilter_up_to: u32,
}

impl Effort {
    fn of(extent: Extent) -> Self {
        match extent {
            Extent::Quick => Self {
                rounds: 3,
                length: Duration::from_millis(250),
                services: &[1, 1_000],
                netfilter_up_to: 1_000,
            },
            Extent::Full => Self::full(10_000),
            Extent::Patient => Self::full(50_000),
        }
    }

    fn full(netfilter_up_to: u32) -> Self {
        Self {
            rounds: 5,
            length: Duration::from_millis(600),
            services: &[1, 1_000, 10_000, 50_000],
            netfilter_up_to,
        }
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

const LOADS: [Load; 8] = [
    Load::new(From::Pod, Kind::Connections, Which::First, "new connections/s, first Service"),
    Load::new(From::Pod, Kind::Connections, Which::Last, "new connections/s, last Service"),
    Load::new(From::Pod, Kind::Requests, Which::Last, "requests/s on one connection"),
    Load::new(From::Pod, Kind::Datagrams, Which::Datagrams, "datagrams/s"),
    Load::new(From::Pod, Kind::Bytes, Which::Last, "bits/s on one connection"),
    Load::new(From::Node, Kind::Connections, Which::Last, "new connections/s, last Service"),
    Load::new(From::Node, Kind::Requests, Which::Last, "requests/s on one connection"),
    Load::new(From::Node, Kind::Datagrams, Which::Datagrams, "datagrams/s"),
];
/// The load that the plot shows.
const PLOTTED: usize = 1;

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
        self.rate.push(did.rate);
        self.cpu_us.push(did.cpu_us);
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
pub(crate) fn run(extent: Extent, screen: &Screen) -> Result<Section> {
    let effort = Effort::of(extent);
    let mut from_pod = table("ClusterIP, from a pod to a pod of the same node");
    let mut from_node = table("ClusterIP, from the node's own sockets to a pod of it");
    let mut memory = Table::new("The agent", &["Services x endpoints", "resident memory, MiB"]);
    let mut plot = Plot {
        name: "connections".to_owned(),
        title: "New connections to the last Service".to_owned(),
        across: "Services".to_owned(),
        upwards: "a second".to_owned(),
        places: effort.services.iter().map(|services| crate::show::short(f64::from(*services))).collect(),
        logarithmic: false,
        series: Contender::ALL
            .map(|contender| Series { name: contender.name().to_owned(), points: Vec::new() })
            .to_vec(),
    };
    let steps = effort.services.len() * (Contender::ALL.len() + effort.rounds);
    let bar = screen.bar("traffic", steps);
    let servers = Servers::default();
    for services in effort.services {
        let mut stages = Vec::new();
        for contender in Contender::ALL {
            bar.inc(1);
            if matches!(contender, Contender::Netfilter(_)) && *services > effort.netfilter_up_to {
                continue;
            }
            let stage = Stage::build(contender, *services, &servers)
                .with_context(|| format!("{services} Services for {}", contender.name()))?;
            if let Some(mib) = stage.agent_memory_mib() {
                let name = Cell::text(format!("{services} x 2"));
                memory.rows.push(vec![name, Cell::Figure(Spread::of(&[mib]))]);
            }
            stages.push(stage);
        }
        let measured = by_turns(&stages, &servers, &effort, &bar)?;
        for (load, rounds) in LOADS.iter().zip(&measured) {
            let table = if load.from == From::Pod { &mut from_pod } else { &mut from_node };
            rows(table, *services, load.name, &stages, rounds);
        }
        for (contender, series) in Contender::ALL.iter().zip(&mut plot.series) {
            let found = stages.iter().position(|stage| stage.contender == *contender);
            series.points.push(found.map(|index| Spread::of(&measured[PLOTTED][index].rate)));
        }
    }
    bar.finish_and_clear();
    Ok(section(vec![from_pod, from_node, memory], plot))
}

/// All loads through all stages, by turns; by load, then by stage.
fn by_turns(
    stages: &[Stage],
    servers: &Servers,
    effort: &Effort,
    bar: &indicatif::ProgressBar,
) -> Result<Vec<Vec<Rounds>>> {
    let mut all: Vec<Vec<Rounds>> =
        LOADS.iter().map(|_| stages.iter().map(|_| Rounds::default()).collect()).collect();
    for round in 0..effort.rounds {
        for (load, of_load) in LOADS.iter().zip(&mut all) {
            // Nobody is always the first after a pause, or always behind the same neighbour.
            for turn in 0..stages.len() {
                let index = (turn + round) % stages.len();
                let stage = &stages[index];
                let did = servers
                    .measure(stage.client(load.from), load.kind, stage.target(load.which), effort.length)
                    .with_context(|| format!("{} through {}", load.name, stage.contender.name()))?;
                of_load[index].add(&did);
            }
        }
        bar.inc(1);
    }
    Ok(all)
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
    let plain = stages.iter().position(|stage| stage.contender == Contender::Plain);
    let plain = plain.map_or(&[][..], |index| &rounds[index].rate);
    let of =
        |values: &[f64]| if values.is_empty() { Cell::Nothing } else { Cell::Figure(Spread::of(values)) };
    for (stage, rounds) in stages.iter().zip(rounds) {
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

fn section(tables: Vec<Table>, plot: Plot) -> Section {
    Section {
        verb: "traffic".to_owned(),
        title: "What a client sees".to_owned(),
        method: vec![
            "Each contender has a node of its own with a client pod and two backends, each in a network namespace, \
             joined by veth pairs. Switchboard is the real agent, which read the Services from files; the others are rules \
             shaped as kube-proxy 1.36 makes them. Plain routing dials a backend directly: what no load balancer can \
             beat. The client runs on the first processor, the servers on the last. In each round every contender gets \
             each load once, and who begins changes from round to round."
                .to_owned(),
            "A connection is opened and reset at once. Processors' time is that of the whole machine, so it holds the \
             kernel's work for both sides; for bits it is that for a megabyte."
                .to_owned(),
        ],
        tables,
        plots: vec![plot],
        limits: vec![
            "Network cards: packets go from one namespace to another by memory alone.".to_owned(),
            "Many clients at once, and more processors than this machine has.".to_owned(),
            "Throughput here is that of veth and the TCP stack with segments of up to 64 KiB, which hides the cost of a \
             packet."
                .to_owned(),
        ],
        disturbances: Vec::new(),
    }
}
