//! Random clusters and what happens to them.
//!
//! Decides how likely what is, so that short sequences meet rare cases: few addresses, few ports, all of them in use by
//! several. Must not know what ought to happen. Invariant: everything comes from the seed.

use std::net::{IpAddr, SocketAddr};

use rand::{Rng, RngExt as _, SeedableRng as _};
use rand_xorshift::XorShiftRng;

use super::frames::{Shape, Talk};
use super::step::{Change, Step};
use crate::model::{Backend, Cluster, Frontend, Part, Policy, ServicePort, protocol};

/// A cluster, and what happens to it.
#[derive(Clone, Debug)]
pub struct World {
    /// The tables at the beginning.
    pub cluster: Cluster,
    /// What happens then.
    pub steps: Vec<Step>,
}

/// Steps of a world.
const STEPS: usize = 900;
/// Seconds that may pass in a world: the kernel's clock of a test runs over behind them.
const LONGEST: u64 = 12_000;

/// The addresses of a family.
struct Land {
    pods: [&'static str; 3],
    remote: [&'static str; 3],
    outsiders: [&'static str; 2],
    cluster_ips: [&'static str; 3],
    external: [&'static str; 2],
    nobodys: &'static str,
    node: &'static str,
    router: &'static str,
    service_network: &'static str,
    pod_network: &'static str,
    ranges: [&'static str; 4],
}

const LANDS: [Land; 2] = [
    Land {
        pods: ["10.244.1.2", "10.244.1.3", "10.244.1.4"],
        remote: ["10.244.2.2", "10.244.2.3", "10.244.2.4"],
        outsiders: ["203.0.113.9", "203.0.113.10"],
        cluster_ips: ["10.96.0.10", "10.96.0.11", "10.96.0.12"],
        external: ["198.18.0.1", "192.0.2.1"],
        nobodys: "10.96.0.99",
        node: "192.0.2.1",
        router: "198.51.100.7",
        service_network: "10.96.0.0/24",
        pod_network: "10.244.0.0/16",
        ranges: ["203.0.113.8/31", "203.0.113.0/24", "10.244.1.2/32", "0.0.0.0/0"],
    },
    Land {
        pods: ["fd00:10:244:1::2", "fd00:10:244:1::3", "fd00:10:244:1::4"],
        remote: ["fd00:10:244:2::2", "fd00:10:244:2::3", "fd00:10:244:2::4"],
        outsiders: ["2001:db8:9::9", "2001:db8:9::10"],
        cluster_ips: ["fd00:10:96::10", "fd00:10:96::11", "fd00:10:96::12"],
        external: ["2001:db8:5::1", "2001:db8::1"],
        nobodys: "fd00:10:96::99",
        node: "2001:db8::1",
        router: "2001:db8:7::7",
        service_network: "fd00:10:96::/112",
        pod_network: "fd00:10:244::/48",
        ranges: ["2001:db8:9::8/127", "2001:db8:9::/64", "fd00:10:244:1::2/128", "::/0"],
    },
];

const SERVICE_PORTS: [u16; 2] = [80, 8080];
const BACKEND_PORTS: [u16; 2] = [8080, 9090];
const CLIENT_PORTS: [u16; 4] = [40_000, 40_001, 8080, 61_001];

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
}

fn net(text: &str) -> ipnet::IpNet {
    text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
}

/// A source of chance.
struct Dice(XorShiftRng);

impl Dice {
    fn below(&mut self, bound: usize) -> usize {
        self.0.random_range(0..bound.max(1))
    }

    /// `true` so many times in a hundred.
    fn chance(&mut self, percent: u32) -> bool {
        self.0.random_range(0..100) < percent
    }

    fn one<T: Clone>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())].clone()
    }

    fn byte(&mut self) -> u8 {
        self.0.next_u32().to_le_bytes()[0]
    }
}

impl World {
    /// The world of a seed.
    #[must_use]
    pub fn of_seed(seed: u64) -> Self {
        let mut dice = Dice(XorShiftRng::seed_from_u64(seed));
        let cluster = dice.cluster();
        let steps = dice.steps(&cluster);
        Self { cluster, steps }
    }
}

impl Dice {
    fn cluster(&mut self) -> Cluster {
        let mut cluster = Cluster {
            masquerade_always: self.chance(20),
            reset_vanished: self.chance(40),
            sockets: self.chance(40),
            masquerade_ports: 61_000..=self.one(&[61_000, 61_002, 61_999, 61_999]),
            opening_timeout: 61,
            ..Cluster::default()
        };
        for land in &LANDS {
            if self.chance(90) {
                cluster.node.push(ip(land.node));
            }
            if self.chance(60) {
                cluster.service_networks.push(net(land.service_network));
            }
            if self.chance(30) {
                cluster.pod_networks.push(net(land.pod_network));
            }
        }
        for id in 1..=3 + self.below(6) {
            let service = self.service(u32::try_from(id).unwrap_or(0), &cluster);
            for frontend in service.frontends.iter().filter(|frontend| !frontend.external) {
                if self.chance(70) {
                    cluster.whole.insert(frontend.address.ip());
                }
            }
            cluster.services.push(service);
        }
        for _ in 0..self.below(4) {
            if let Step::Send { protocol, from, to, .. } = self.send(&cluster) {
                cluster.foreign.push((protocol, from, to));
            }
        }
        cluster
    }

    fn service(&mut self, id: u32, cluster: &Cluster) -> ServicePort {
        let land = &LANDS[self.below(2)];
        let protocol =
            self.one(&[protocol::TCP, protocol::TCP, protocol::UDP, protocol::UDP, protocol::SCTP]);
        let mut backends: Vec<Backend> = Vec::new();
        for number in 0..self.below(5) {
            let here = self.chance(50);
            let address = ip(if here { self.one(&land.pods) } else { self.one(&land.remote) });
            let address = SocketAddr::new(address, self.one(&BACKEND_PORTS));
            if backends.iter().all(|one| one.address != address) {
                backends.push(Backend {
                    id: id * 8 + u32::try_from(number).unwrap_or(0),
                    generation: 1,
                    address,
                    serving: true,
                    vanished: false,
                    in_cluster_set: self.chance(85),
                    in_local_set: here && self.chance(85),
                    here,
                });
            }
        }
        let mut service = ServicePort {
            id,
            protocol,
            backends,
            frontends: Vec::new(),
            affinity_seconds: self.one(&[0, 0, 7, 61, 3_601]),
            ranges: (0..self.below(3)).map(|_| net(self.one(&land.ranges))).collect(),
        };
        for _ in 0..=self.below(3) {
            let frontend = self.frontend(land);
            let taken = service.frontends.iter().any(|one| one.address == frontend.address)
                || cluster.frontend(protocol, frontend.address).is_some();
            if !taken {
                service.frontends.push(frontend);
            }
        }
        service
    }

    fn frontend(&mut self, land: &Land) -> Frontend {
        let external = self.chance(50);
        let address = ip(if external { self.one(&land.external) } else { self.one(&land.cluster_ips) });
        let inside = Policy { local: self.chance(15), silent: self.chance(50) };
        let outside =
            if external { Policy { local: self.chance(30), silent: self.chance(50) } } else { inside };
        let address = SocketAddr::new(address, self.one(&SERVICE_PORTS));
        Frontend { address, external, guarded: external && self.chance(30), inside, outside }
    }

    fn steps(&mut self, cluster: &Cluster) -> Vec<Step> {
        let mut waited = 0;
        let mut steps = Vec::with_capacity(STEPS);
        while steps.len() < STEPS {
            let step = match self.below(1_000) {
                0..=349 => self.send(cluster),
                350..=899 => self.follow(),
                900..=969 => self.error(),
                970..=979 => {
                    let seconds = self.one(&[2, 2, 4, 60, 62, 62, 400, 3_600]);
                    waited += seconds;
                    if waited > LONGEST {
                        continue;
                    }
                    Step::Wait(seconds)
                }
                980..=987 => Step::Ways,
                _ => Step::Change(self.change(cluster)),
            };
            steps.push(step);
        }
        steps
    }

    fn send(&mut self, cluster: &Cluster) -> Step {
        let land = &LANDS[self.below(2)];
        let mut protocol =
            self.one(&[protocol::TCP, protocol::TCP, protocol::UDP, protocol::UDP, protocol::SCTP]);
        let (client, place) = match self.below(10) {
            0..=4 => (self.one(&land.pods), 0),
            5..=7 => (self.one(&land.outsiders), self.one(&[2, 2, 2, 4])),
            8 => (self.one(&land.remote), 2),
            _ => (land.node, self.one(&[3, 3, 5])),
        };
        let place = if self.chance(90) { place } else { self.below(6) };
        let from = SocketAddr::new(ip(client), self.one(&CLIENT_PORTS));
        let of_family = |at: &SocketAddr| at.is_ipv4() == from.is_ipv4();
        let frontends: Vec<(u8, SocketAddr)> = cluster
            .services
            .iter()
            .flat_map(|one| one.frontends.iter().map(|frontend| (one.protocol, frontend.address)))
            .filter(|(_, at)| of_family(at))
            .collect();
        let to = match self.below(10) {
            0..=6 if !frontends.is_empty() => {
                let (kind, to) = self.one(&frontends);
                if self.chance(95) {
                    protocol = kind;
                }
                to
            }
            0..=7 => {
                let place = self.one(&[land.pods, land.remote]);
                SocketAddr::new(ip(self.one(&place)), self.one(&BACKEND_PORTS))
            }
            8 => {
                let place =
                    self.one(&[land.cluster_ips[0], land.cluster_ips[1], land.nobodys, land.external[0]]);
                SocketAddr::new(ip(place), self.one(&[80, 443]))
            }
            _ => SocketAddr::new(ip(self.one(&[land.router, land.node])), self.one(&[443, 61_001])),
        };
        let talk = self.one(&[
            Talk::Open,
            Talk::Open,
            Talk::Open,
            Talk::Open,
            Talk::Data,
            Talk::Reset,
            Talk::Finish,
        ]);
        Step::Send { place, protocol, from, to, talk, shape: self.shape() }
    }

    fn which(&mut self) -> usize {
        let reach = self.one(&[3, 3, 10, 60]);
        self.below(reach)
    }

    fn part(&mut self) -> Part {
        self.one(&[Part::Request, Part::Out, Part::Out, Part::Back, Part::Reply, Part::Reply])
    }

    fn follow(&mut self) -> Step {
        let talks = [
            Talk::Open,
            Talk::Accept,
            Talk::Data,
            Talk::Data,
            Talk::Data,
            Talk::Finish,
            Talk::Finish,
            Talk::Reset,
        ];
        Step::Follow {
            which: self.which(),
            part: self.part(),
            place: self.below(6),
            talk: self.one(&talks),
            shape: self.shape(),
        }
    }

    fn error(&mut self) -> Step {
        let land = &LANDS[0];
        let other = &LANDS[1];
        let router = self.chance(50).then(|| ip(self.one(&[land.router, other.router])));
        Step::Error {
            which: self.which(),
            part: self.part(),
            place: self.below(6),
            kind: self.one(&[3, 3, 11, 1, 2, 4, 5, 137, 8]),
            router,
            astray: self.chance(10).then(|| ip(self.one(&[land.pods[2], other.pods[2]]))),
            quote: self.one(&[8, 8, 8, 17, 18, 20, 60, 4, 2]),
            shape: self.shape(),
        }
    }

    fn change(&mut self, cluster: &Cluster) -> Change {
        let service = self.below(cluster.services.len());
        let backend = self.below(cluster.services[service].backends.len());
        match self.below(10) {
            0..=2 => Change::Serving(service, backend),
            3..=4 => Change::Vanished(service, backend),
            5 => Change::ClusterSet(service, backend),
            6 => Change::LocalSet(service, backend),
            7..=8 => Change::Recycled(service, backend),
            _ => {
                let all = [ip(LANDS[0].node), ip(LANDS[1].node)];
                Change::NodeAddresses(all.into_iter().filter(|_| self.chance(70)).collect())
            }
        }
    }

    fn shape(&mut self) -> Shape {
        let mut shape = Shape { payload: self.one(&[0, 0, 1, 5, 12, 33, 100]), ..Shape::default() };
        shape.tagged = self.chance(5);
        shape.options = if self.chance(8) { self.one(&[1, 1, 2, 3, 5, 6, 7]) } else { 0 };
        if self.chance(6) {
            shape.fragments = Some((u32::from(self.byte() & 3), self.chance(25)));
        }
        shape.no_sum = self.chance(5);
        if self.chance(2) {
            shape.cut = Some(self.below(90));
        }
        if self.chance(3) {
            shape.flipped = Some((self.below(80), self.byte()));
        }
        shape
    }
}
