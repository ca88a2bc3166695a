//! The real agent at an API server: its first lists, and one change after the other while others go on.
//!
//! Decides sizes and rates. Must not know how a packet is noticed. Invariant: a change counts from when the server hands
//! the event's bytes to the connection until a packet that goes to the new backend has been sent.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use hdrhistogram::Histogram;
use lb_tests::agent::{Agent, AgentConfig};
use lb_tests::apiserver::{ApiServer, Invented, Settings};
use lb_tests::lab::{Lab, Layout};
use lb_userspace::datapath::pins::Pins;
use serde_json::json;

use super::objects::Scale;
use super::probe::{LIMIT, Probe};
use crate::Extent;
use crate::figures::{Cell, Spread, Table};
use crate::process;
use crate::screen::Screen;

const START: Duration = Duration::from_secs(120);
/// One of the invented cluster's own.
const NODE: &str = "node0";
const NODES: u32 = 100;
const SERVICE: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::new(10, 112, 0, 1)), 53);
const POD_PORT: u16 = 8_080;
const SLICE: &str = "probed-abcde";
/// Changes of others a second, beside the one that is measured.
const RATES: [u32; 3] = [0, 100, 1_000];
/// Between two measured changes, in microseconds; varied, so as not to keep step with the others.
const PAUSES: [u64; 5] = [5_000, 9_000, 6_300, 11_700, 7_900];
const MB: f64 = 1e6;

/// How much is measured.
struct Effort {
    /// Of the size below, for each rate.
    rounds: usize,
    changes: usize,
    watched: Scale,
    /// Sizes whose first lists are measured too.
    others: &'static [Scale],
}

impl Effort {
    fn of(extent: Extent) -> Self {
        match extent {
            Extent::Quick => Self {
                rounds: 1,
                changes: 100,
                watched: Scale { services: 1_000, endpoints: 10 },
                others: &[],
            },
            Extent::Full | Extent::Patient => Self {
                rounds: 3,
                changes: 300,
                watched: Scale { services: 10_000, endpoints: 10 },
                others: &[
                    Scale { services: 1_000, endpoints: 10 },
                    Scale { services: 10_000, endpoints: 2 },
                    Scale { services: 50_000, endpoints: 2 },
                    Scale { services: 1, endpoints: 5_000 },
                ],
            },
        }
    }
}

/// Measures: what the agent takes for its first lists, and how soon a change is in force.
pub(super) fn measure(extent: Extent, screen: &Screen) -> Result<[Table; 2]> {
    let effort = Effort::of(extent);
    let mut started = Table::new(
        "The agent at an API server",
        &[
            "Services x endpoints",
            "from its start to the last row, ms",
            "CPU seconds for that",
            "resident then, MB",
            "at most so far, MB",
            "kernel's maps, MB",
        ],
    );
    let mut watched = Table::new(
        "One change among others: from bytes on the socket to the first packet",
        &[
            "Services x endpoints",
            "other changes/s",
            "done/s",
            "p50, ms",
            "p99, ms",
            "longest, ms",
            "changes timed",
            "agent's CPU, % of one processor",
            "resident, MB",
        ],
    );
    let bar = screen.bar("the agent at an API server", 1 + effort.others.len() + effort.rounds);
    for scale in effort.others {
        started.rows.push(Watched::start(*scale).with_context(|| scale.name())?.row()?);
        bar.inc(1);
    }
    let mut stage = Watched::start(effort.watched).with_context(|| effort.watched.name())?;
    started.rows.push(stage.row()?);
    bar.inc(1);
    let mut found: Vec<Vec<Round>> = RATES.iter().map(|_| Vec::new()).collect();
    for round in 0..effort.rounds {
        for turn in 0..RATES.len() {
            let index = (turn + round) % RATES.len();
            let measured = stage.round(RATES[index], effort.changes);
            found[index].push(measured.with_context(|| format!("{} other changes/s", RATES[index]))?);
        }
        bar.inc(1);
    }
    bar.finish_and_clear();
    for (rate, rounds) in RATES.iter().zip(&found) {
        watched.rows.push(row(effort.watched, *rate, rounds));
    }
    Ok([started, watched])
}

/// What the changes of one round took.
struct Round {
    nanos: Histogram<u64>,
    /// Changes of others a second that were made.
    others: f64,
    /// Of one processor, 0 to 1.
    agent: f64,
    /// Bytes.
    resident: f64,
}

fn row(scale: Scale, rate: u32, rounds: &[Round]) -> Vec<Cell> {
    let of =
        |pick: &dyn Fn(&Round) -> f64| Cell::Figure(Spread::of(&rounds.iter().map(pick).collect::<Vec<_>>()));
    #[expect(clippy::cast_precision_loss, reason = "nanoseconds of a few seconds")]
    let at = |quantile: f64| of(&move |round: &Round| round.nanos.value_at_quantile(quantile) as f64 / 1e6);
    vec![
        Cell::text(scale.name()),
        Cell::Count(rate.into()),
        of(&|round| round.others),
        at(0.5),
        at(0.99),
        at(1.0),
        Cell::Count(rounds.iter().map(|round| round.nanos.len()).sum()),
        of(&|round| round.agent * 100.0),
        of(&|round| round.resident / MB),
    ]
}

/// A node with an agent that watches a cluster.
struct Watched {
    scale: Scale,
    cluster: Invented,
    /// How often each of the others has been changed.
    generation: u32,
    /// Where the probed Service leads.
    backend: usize,
    /// From the agent's start to its report, in seconds, and what it took of processors.
    started: (f64, f64),
    /// They end before the lab goes, this one first.
    probe: Probe,
    agent: Agent,
    server: ApiServer,
    lab: Lab,
}

impl Watched {
    fn start(scale: Scale) -> Result<Self> {
        let lab = Lab::builder().node(NODE, Layout::Routed, &["client", "a", "b"]).build()?;
        let node = lab.node(NODE);
        let listener = node.netns.run(|| TcpListener::bind("127.0.0.1:0"))?;
        let server = ApiServer::start_on(listener, Settings::default())?;
        let cluster = Invented { services: scale.services, endpoints: scale.endpoints, nodes: NODES };
        cluster.hold(&server)?;
        server.apply(json!({
            "apiVersion": "v1", "kind": "Service", "metadata": { "name": "probed", "namespace": "bench" },
            "spec": {
                "type": "ClusterIP", "clusterIP": SERVICE.ip(), "clusterIPs": [SERVICE.ip()],
                "ipFamilies": ["IPv4"],
                "ports": [{ "name": "p", "port": SERVICE.port(), "protocol": "UDP" }],
            },
        }))?;
        server.apply(slice(&lab, 0))?;
        server.time_events_of(SLICE);
        let began = Instant::now();
        let mut agent = Agent::start(node, AgentConfig::watching(server.url()))?;
        agent.wait_in_sync(START)?;
        let started = (began.elapsed().as_secs_f64(), process::processor_seconds(agent.pid())?);
        let pod = |name: &str| &lab.pod(name).netns;
        let probe = Probe::start(pod("client"), SERVICE, [pod("a"), pod("b")], POD_PORT)?;
        Ok(Self { scale, cluster, generation: 0, backend: 0, started, probe, agent, server, lab })
    }

    /// What the start took.
    fn row(&self) -> Result<Vec<Cell>> {
        let pid = self.agent.pid();
        let maps = process::maps_memory(&Pins::at(&self.lab.node(NODE).pin_folder))?;
        let figure = |value: f64| Cell::Figure(Spread::of(&[value]));
        Ok(vec![
            Cell::text(self.scale.name()),
            figure(self.started.0 * 1e3),
            figure(self.started.1),
            figure(process::memory(pid, "VmRSS")? / MB),
            figure(process::memory(pid, "VmHWM")? / MB),
            figure(maps / MB),
        ])
    }

    /// Times that many changes while others happen at a rate.
    fn round(&mut self, rate: u32, changes: usize) -> Result<Round> {
        let (stop, pid) = (AtomicBool::new(false), self.agent.pid());
        let mut nanos = Histogram::new_with_bounds(100, 60_000_000_000, 3)?;
        let (began, used) = (Instant::now(), process::processor_seconds(pid)?);
        let (server, cluster, generation) = (&self.server, self.cluster, self.generation);
        let (lab, probe, backend) = (&self.lab, &self.probe, &mut self.backend);
        let others = std::thread::scope(|scope| {
            let others = scope.spawn(|| churn(server, cluster, generation, rate, &stop));
            let mut one = |number: usize| -> Result<Duration> {
                std::thread::sleep(Duration::from_micros(PAUSES[number % PAUSES.len()]));
                *backend = 1 - *backend;
                let sent = probe.wait_for(*backend, || server.apply(slice(lab, *backend)))?;
                let Some(sent) = sent else { return Ok(LIMIT) };
                let told = server.told().context("a packet went to the new backend before it was told of")?;
                Ok(sent.saturating_duration_since(told))
            };
            let mut timed = Ok(());
            for number in 0..changes {
                match one(number) {
                    Ok(took) => {
                        nanos.saturating_record(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX));
                        if took >= LIMIT {
                            // It does not keep up; whoever reads the longest time sees it.
                            break;
                        }
                    }
                    Err(error) => {
                        timed = Err(error);
                        break;
                    }
                }
            }
            stop.store(true, Ordering::Relaxed);
            let others = others.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            timed.and(others)
        })?;
        let lasted = began.elapsed().as_secs_f64();
        self.generation += 1 + others / cluster.services;
        let rate_done = f64::from(others) / lasted;
        ensure!(rate == 0 || others > 0, "no other change was made");
        Ok(Round {
            nanos,
            others: rate_done,
            agent: (process::processor_seconds(pid)? - used) / lasted,
            resident: process::memory(pid, "VmRSS")?,
        })
    }
}

/// The probed Service's slice: one backend.
fn slice(lab: &Lab, backend: usize) -> serde_json::Value {
    let pod = lab.pod(["a", "b"][backend]);
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": { "name": SLICE, "namespace": "bench",
                      "labels": { "kubernetes.io/service-name": "probed" } },
        "addressType": "IPv4",
        "endpoints": [{ "addresses": [pod.v4], "nodeName": NODE,
                        "conditions": { "ready": true, "serving": true, "terminating": false } }],
        "ports": [{ "name": "p", "port": POD_PORT, "protocol": "UDP" }],
    })
}

/// Changes the others' slices, at that rate a second, until told to stop; says how many.
fn churn(
    server: &ApiServer,
    cluster: Invented,
    generation: u32,
    rate: u32,
    stop: &AtomicBool,
) -> Result<u32> {
    let (began, mut done): (_, u32) = (Instant::now(), 0);
    while rate > 0 && !stop.load(Ordering::Relaxed) {
        let due = f64::from(done) / f64::from(rate);
        std::thread::sleep(Duration::from_secs_f64(due).saturating_sub(began.elapsed()));
        // Steps of a prime reach every Service before any comes again.
        let number = done.wrapping_mul(7_919) % cluster.services;
        server.apply(cluster.slice(number, generation + done / cluster.services + 1))?;
        done += 1;
    }
    Ok(done)
}
