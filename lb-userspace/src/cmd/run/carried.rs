//! What Services and backends have carried, out of the datapath's counters.
//!
//! Decides which are shown, where there are more than the options allow: those with the lowest ids, which have been
//! there longest, so that series do not come and go. Must not know names of metrics. Invariant: what an id counted
//! for another owner is not the present one's.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;

use lb_common::abi::{BackendId, BackendRow, ServicePortName};
use lb_common::address::Address;

use crate::datapath::counters::Counters;
use crate::serve::{BackendTraffic, Carried, ServiceTraffic};

/// How many are shown.
#[derive(clap::Args, Clone, Copy, Debug, Default)]
#[command(next_help_heading = "Health and metrics")]
pub(super) struct CarriedArgs {
    /// Service ports whose connections, packets and bytes are shown in metrics, five series each; 0: none.
    #[arg(long, value_name = "NUMBER", default_value_t = 500)]
    metrics_service_ports: usize,
    /// Backends whose connections are shown in metrics, a series each; 0: none.
    #[arg(long, value_name = "NUMBER", default_value_t = 0)]
    metrics_backends: usize,
}

/// Who is shown, by id.
#[derive(Clone, Debug, Default)]
pub(super) struct Shown {
    services: Vec<(u32, String)>,
    backends: Vec<(u32, String, SocketAddr)>,
    left_out: [u64; 2],
}

/// The lowest of the ids that are offered, and what each is.
#[derive(Debug)]
struct Lowest<K, T> {
    at_most: usize,
    kept: BTreeMap<K, T>,
    offered: u64,
}

impl<K: Ord, T> Lowest<K, T> {
    fn new(at_most: usize) -> Self {
        Self { at_most, kept: BTreeMap::new(), offered: 0 }
    }

    fn offer(&mut self, id: K, what: impl FnOnce() -> Option<T>) {
        self.offered += 1;
        let lower =
            self.kept.len() < self.at_most || self.kept.last_key_value().is_some_and(|(last, _)| id < *last);
        if let Some(what) = lower.then(what).flatten() {
            self.kept.insert(id, what);
            if self.kept.len() > self.at_most {
                self.kept.pop_last();
            }
        }
    }

    fn left_out(&self) -> u64 {
        self.offered - self.kept.len() as u64
    }
}

/// Chooses whom to show out of all rows, which are offered in any order.
#[derive(Debug)]
pub(super) struct Choice {
    services: Lowest<u32, String>,
    /// By id and family.
    backends: Lowest<(u32, bool), (u32, SocketAddr)>,
}

impl Choice {
    pub(super) fn new(args: CarriedArgs) -> Self {
        Self {
            services: Lowest::new(args.metrics_service_ports),
            backends: Lowest::new(args.metrics_backends),
        }
    }

    /// Are backends shown at all?
    pub(super) fn wants_backends(&self) -> bool {
        self.backends.at_most > 0
    }

    pub(super) fn offer_service_port(&mut self, id: u32, name: &ServicePortName) {
        self.services.offer(id, || name.name().map(str::to_owned));
    }

    /// Only of a backend that somebody owns.
    pub(super) fn offer_backend<A: Address>(&mut self, id: BackendId, row: &BackendRow<A>) {
        if row.service_port != 0 && self.wants_backends() {
            let address = SocketAddr::new({ row.addr }.to_ip(), { row.port }.get());
            self.backends.offer((id.0, A::IS_V6), || Some((row.service_port, address)));
        }
    }

    /// Who is shown; `name` tells the names of service ports.
    pub(super) fn made(self, name: impl Fn(u32) -> Option<String>) -> Shown {
        let left_out = [self.services.left_out(), self.backends.left_out()];
        let backends = self.backends.kept.into_iter();
        let backends = backends.filter_map(|((id, _), (owner, address))| Some((id, name(owner)?, address)));
        Shown { services: self.services.kept.into_iter().collect(), backends: backends.collect(), left_out }
    }
}

/// What an id had counted when its owner came, and has counted now.
#[derive(Clone, Debug)]
struct Account<const N: usize> {
    owner: String,
    before: [u64; N],
    last: [u64; N],
}

impl<const N: usize> Default for Account<N> {
    fn default() -> Self {
        Self { owner: String::new(), before: [0; N], last: [0; N] }
    }
}

impl<const N: usize> Account<N> {
    /// The owner's part of `now`.
    fn part(&mut self, owner: &str, now: [u64; N]) -> [u64; N] {
        if self.owner != owner {
            owner.clone_into(&mut self.owner);
            self.before = self.last;
        }
        // A counter that runs backwards is another map's: everything in it is new.
        if now.iter().zip(&self.before).any(|(now, before)| now < before) {
            self.before = [0; N];
        }
        self.last = now;
        std::array::from_fn(|index| now[index] - self.before[index])
    }
}

/// The accounts of all ids that have been shown.
#[derive(Debug, Default)]
pub(super) struct Accounts {
    services: HashMap<u32, Account<5>>,
    backends: HashMap<u32, Account<1>>,
}

impl Accounts {
    /// Reads the counters of those that are shown. One that cannot be read is left out.
    pub(super) fn read(&mut self, shown: &Shown, counters: &Counters) -> Carried {
        let services = shown.services.iter().filter_map(|(id, name)| {
            let [connections, packets, bytes, replies, reply_bytes] =
                self.services.entry(*id).or_default().part(name, counters.service(*id)?);
            Some(ServiceTraffic {
                name: name.clone(),
                connections,
                packets: [packets, replies],
                bytes: [bytes, reply_bytes],
            })
        });
        let services = services.collect();
        let backends = shown.backends.iter().filter_map(|(id, name, address)| {
            let owner = format!("{name} {address}");
            let [connections] = self.backends.entry(*id).or_default().part(&owner, counters.backend(*id)?);
            Some(BackendTraffic { name: name.clone(), backend: *address, connections })
        });
        Carried { services, backends: backends.collect(), left_out: shown.left_out }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(name: &str) -> ServicePortName {
        ServicePortName::new(name).unwrap()
    }

    fn shown(args: CarriedArgs) -> Shown {
        let row = |last: u8, service_port| BackendRow {
            addr: lb_common::address::V4::from(std::net::Ipv4Addr::new(10, 0, 0, last)),
            port: lb_common::address::Port::new(80),
            generation: 1,
            service_port,
            ..bytemuck::Zeroable::zeroed()
        };
        let mut choice = Choice::new(args);
        // A hash gives its rows in any order.
        choice.offer_service_port(2, &name("a/two:http/TCP"));
        choice.offer_service_port(1, &name("a/one:http/TCP"));
        for (id, owner) in [(2, 2), (1, 1), (3, 0)] {
            choice.offer_backend(BackendId(id), &row(u8::try_from(id).unwrap(), owner));
        }
        choice.made(|owner| (owner == 1).then(|| "a/one:http/TCP".to_owned()))
    }

    #[test]
    fn the_oldest_are_shown_and_the_rest_is_counted() {
        let shown_one = shown(CarriedArgs { metrics_service_ports: 1, metrics_backends: 1 });
        assert_eq!(shown_one.services, [(1, "a/one:http/TCP".to_owned())]);
        assert_eq!(shown_one.backends, [(1, "a/one:http/TCP".to_owned(), "10.0.0.1:80".parse().unwrap())]);
        assert_eq!(shown_one.left_out, [1, 1], "an id without an owner is nobody's");
        let none = shown(CarriedArgs { metrics_service_ports: 0, metrics_backends: 0 });
        assert!(none.services.is_empty() && none.backends.is_empty());
        assert_eq!(none.left_out, [2, 0]);
    }

    #[test]
    fn what_an_id_counted_for_another_owner_is_not_the_present_ones() {
        let mut account = Account::<1>::default();
        assert_eq!(account.part("one", [10]), [10]);
        assert_eq!(account.part("one", [15]), [15]);
        assert_eq!(account.part("two", [17]), [2]);
        assert_eq!(account.part("two", [20]), [5]);
        assert_eq!(account.part("two", [3]), [3], "the maps were made anew");
    }
}
