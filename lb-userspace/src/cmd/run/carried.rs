//! What Services and backends have carried, out of the datapath's counters.
//!
//! Decides which are shown, where there are more than the options allow: those with the lowest ids, which have been
//! there longest, so that series do not come and go. Must not know names of metrics. Invariant: what an id counted
//! for another owner is not the present one's.

use std::collections::HashMap;
use std::net::SocketAddr;

use lb_common::abi::BackendRow;
use lb_common::address::Address;

use crate::datapath::counters::Counters;
use crate::serve::{BackendTraffic, Carried, ServiceTraffic};
use crate::tables::Tables;

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

impl CarriedArgs {
    /// Chooses from the books.
    pub(super) fn choose(self, tables: &Tables) -> Shown {
        let named =
            |(id, name): (&u32, &lb_common::abi::ServicePortName)| Some((*id, name.name()?.to_owned()));
        let services: Vec<_> =
            tables.service_ports.iter().filter_map(named).take(self.metrics_service_ports).collect();
        let left_out = tables.service_ports.len() - services.len();
        let mut all: Vec<(u32, u32, SocketAddr)> = Vec::new();
        if self.metrics_backends > 0 {
            all.extend(tables.backends_v4.iter().filter_map(|(id, row)| backend(id.0, row)));
            all.extend(tables.backends_v6.iter().filter_map(|(id, row)| backend(id.0, row)));
            all.sort_unstable_by_key(|(id, ..)| *id);
        }
        let hidden = all.len().saturating_sub(self.metrics_backends);
        let name = |owner: &u32| tables.service_ports.get(owner)?.name().map(str::to_owned);
        let backends = all.into_iter().take(self.metrics_backends);
        let backends =
            backends.filter_map(|(id, owner, address)| Some((id, name(&owner)?, address))).collect();
        Shown { services, backends, left_out: [left_out as u64, hidden as u64] }
    }
}

fn backend<A: Address>(id: u32, row: &BackendRow<A>) -> Option<(u32, u32, SocketAddr)> {
    let address = SocketAddr::new({ row.addr }.to_ip(), { row.port }.get());
    (row.service_port != 0).then_some((id, row.service_port, address))
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
    use lb_common::abi::{BackendId, ServicePortName};

    use super::*;

    fn tables() -> Tables {
        let name = |name: &str| ServicePortName::new(name).unwrap();
        let row = |last: u8, service_port| BackendRow {
            addr: std::net::Ipv4Addr::new(10, 0, 0, last).into(),
            port: lb_common::address::Port::new(80),
            generation: 1,
            service_port,
            ..bytemuck::Zeroable::zeroed()
        };
        Tables {
            service_ports: [(1, name("a/one:http/TCP")), (2, name("a/two:http/TCP"))].into(),
            backends_v4: [(BackendId(1), row(1, 1)), (BackendId(2), row(2, 2)), (BackendId(3), row(3, 0))]
                .into(),
            ..Tables::default()
        }
    }

    #[test]
    fn the_oldest_are_shown_and_the_rest_is_counted() {
        let args = CarriedArgs { metrics_service_ports: 1, metrics_backends: 1 };
        let shown = args.choose(&tables());
        assert_eq!(shown.services, [(1, "a/one:http/TCP".to_owned())]);
        assert_eq!(shown.backends, [(1, "a/one:http/TCP".to_owned(), "10.0.0.1:80".parse().unwrap())]);
        assert_eq!(shown.left_out, [1, 1], "an id without an owner is nobody's");
        let none = CarriedArgs { metrics_service_ports: 0, metrics_backends: 0 }.choose(&tables());
        assert!(none.services.is_empty() && none.backends.is_empty());
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
