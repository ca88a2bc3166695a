//! Tier 2: the contract's matrix. Who dials what, under which policy, with whom behind it, and who must
//! answer, seeing which source.
//!
//! One lab for each way of connecting pods; in each, all rows side by side. The nodes forward only between
//! true addresses, and drop what conntrack takes for invalid: so every row that is served also shows that
//! a NetworkPolicy would have seen the client's and the pod's own address.

mod cluster;
mod contract;
mod paths;
mod rules;
mod shortcut;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use cluster::{Cluster, Shape};
use contract::{Client, Expected, Front, Source};
use lb_tests::traffic::{Dial, Failure, FailureKind, Reply};

/// Clients whose rows are played.
const CLIENTS: [Client; 4] = [Client::PodHere, Client::PodThere, Client::NodeHere, Client::Outside];
const FRONTS: [Front; 5] =
    [Front::ClusterIp, Front::NodePort, Front::Loopback, Front::LoadBalancerIp, Front::ExternalIp];

/// Rows that are played at a time. Most of the time they wait.
const AT_ONCE: usize = 16;
/// How long an answer may take.
const LIMIT: Duration = Duration::from_secs(5);
/// How long silence is listened to.
const SILENCE: Duration = Duration::from_millis(400);
/// After so many dials each of two backends has answered, but once in 10^18 rows.
const DIALS: usize = 60;
/// Rows of a failed run that are told one by one.
const TOLD: usize = 40;

/// A row of the table: who dials which frontend of which Service, and how.
#[derive(Clone, Copy, Debug)]
struct Row {
    client: Client,
    front: Front,
    service: usize,
    tcp: bool,
    v6: bool,
}

impl Row {
    fn all() -> Vec<Self> {
        let mut rows = Vec::new();
        for client in CLIENTS {
            // Everybody's loopback is their own.
            let exists = |front: &Front| *front != Front::Loopback || client == Client::NodeHere;
            for front in FRONTS.into_iter().filter(exists) {
                for service in 0..cluster::services().count() {
                    for (tcp, v6) in [(true, false), (true, true), (false, false), (false, true)] {
                        rows.push(Self { client, front, service, tcp, v6 });
                    }
                }
            }
        }
        rows
    }

    /// As the first words of a message.
    fn describe(&self) -> String {
        let ((placement, _), policy) =
            cluster::services().nth(self.service).unwrap_or_else(|| unreachable!());
        let (protocol, family) = (if self.tcp { "TCP" } else { "UDP" }, if self.v6 { "v6" } else { "v4" });
        format!("{:?} dials {:?} {protocol} {family}, {policy:?}, {placement}", self.client, self.front)
    }

    fn expected(&self, cluster: &Cluster) -> Expected {
        let ((_, backends), policy) =
            cluster::services().nth(self.service).unwrap_or_else(|| unreachable!("a Service of the table"));
        let (name, _) = cluster.client(self.client);
        contract::expect((self.client, name), self.front, policy, backends, cluster.cni())
    }

    fn dial(&self, cluster: &Cluster, number: usize, limit: Duration) -> Result<Reply, Failure> {
        let (_, netns) = cluster.client(self.client);
        let address = cluster.address(self.service, self.front, self.tcp, self.v6);
        let mut dial = Dial::to(address).within(limit);
        if let Some(source) = cluster.source(self.client, number, self.v6) {
            dial = dial.from_address(source);
        }
        if self.tcp { dial.tcp(netns) } else { dial.udp(netns) }
    }

    /// A datagram that is lost nobody sends again, as a connection's first packet is: netfilter drops one of two whose ports
    /// its masquerade chose alike at the same moment. What is always lost is lost from another port too.
    fn dial_again(&self, cluster: &Cluster, number: usize, failure: Failure) -> Result<Reply, Failure> {
        if self.tcp || failure.kind != FailureKind::Timeout {
            return Err(failure);
        }
        println!("{}: {failure}; dialled again", self.describe());
        self.dial(cluster, number, LIMIT)
    }

    /// Plays the row; what it saw instead of what it had to.
    fn play(&self, cluster: &Cluster) -> Result<(), String> {
        match self.expected(cluster) {
            Expected::Refused => self.fails(cluster, LIMIT, FailureKind::Refused),
            Expected::Silent => self.fails(cluster, SILENCE, FailureKind::Timeout),
            Expected::Served(backends) => {
                let mut seen = BTreeSet::new();
                for number in 0..DIALS {
                    let reply = self
                        .dial(cluster, number, LIMIT)
                        .or_else(|failure| self.dial_again(cluster, number, failure))
                        .map_err(|failure| format!("{backends:?}: {failure}"))?;
                    let Some(source) = backends.get(reply.backend.as_str()) else {
                        return Err(format!("{} answered, instead of {backends:?}", reply.backend));
                    };
                    if !is_source(cluster, *source, &reply) {
                        return Err(format!(
                            "{} saw {}, instead of {source:?} of {}",
                            reply.backend, reply.seen_source, reply.source
                        ));
                    }
                    seen.insert(reply.backend);
                    if seen.len() == backends.len() {
                        return Ok(());
                    }
                }
                Err(format!("only {seen:?} answered {DIALS} dials, instead of {backends:?}"))
            }
        }
    }

    fn fails(&self, cluster: &Cluster, limit: Duration, kind: FailureKind) -> Result<(), String> {
        match self.dial(cluster, 0, limit) {
            Err(failure) if failure.kind == kind => Ok(()),
            Err(failure) => Err(format!("{failure}, instead of {kind}")),
            Ok(reply) => Err(format!("{} answered, instead of {kind}", reply.backend)),
        }
    }
}

fn is_source(cluster: &Cluster, source: Source, reply: &Reply) -> bool {
    let seen = reply.seen_source.ip();
    let is = |(v4, v6): (std::net::Ipv4Addr, std::net::Ipv6Addr)| {
        seen == if seen.is_ipv4() { IpAddr::V4(v4) } else { IpAddr::V6(v6) }
    };
    let other = |place| match place {
        contract::Place::Here => contract::Place::There,
        contract::Place::There => contract::Place::Here,
    };
    match source {
        Source::Own => seen == reply.source.ip(),
        Source::Uplink(place) => cluster.node(place).has(seen),
        Source::TowardsPods(place) => is(cluster.node(place).towards_pods_of(cluster.node(other(place)))),
        Source::AnyOf(place) => cluster.node(place).addresses().contains(&seen),
    }
}

/// Plays rows side by side; those that went wrong, with what they saw.
fn play(cluster: &Cluster, rows: &[Row]) -> Vec<String> {
    let (next, wrong) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                while let Some(row) = rows.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if let Err(seen) = row.play(cluster) {
                        let told = format!("{}: {seen}", row.describe());
                        wrong.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(told);
                    }
                }
            });
        }
    });
    let mut wrong = wrong.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    wrong.sort();
    wrong
}

fn holds(shape: Shape) {
    let cluster = Cluster::start(shape, &[]).unwrap();
    let (rows, start) = (Row::all(), Instant::now());
    let wrong = play(&cluster, &rows);
    println!("{} rows in {:?}", rows.len(), start.elapsed());
    let told: Vec<&str> = wrong.iter().take(TOLD).map(String::as_str).collect();
    assert!(wrong.is_empty(), "{} of {} rows, {shape:?}:\n{}", wrong.len(), rows.len(), told.join("\n"));
    cluster.assert_true_addresses();
}

#[test]
fn c14_c15_c17_c23_c24_c25_c26_c32_c33_every_row_on_routed_nodes() {
    holds(cluster::ROUTED);
}

#[test]
fn c14_c15_c17_c23_c24_c25_c26_c32_c33_every_row_on_bridged_nodes() {
    holds(cluster::BRIDGED);
}

#[test]
fn c14_c15_c17_c23_c24_c25_c26_c32_c33_every_row_on_nodes_of_an_overlay() {
    holds(cluster::OVERLAY);
}
