//! Tables without ids: what they mean, so that two histories can be compared.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use lb_common::abi::{BackendRow, FrontendRow, SlotRange};
use lb_common::address::{Protocol, V4, V6};

use crate::tables::{Family, Tables};

/// A backend as the datapath takes it: address and flags.
type Seen = (SocketAddr, u16);

/// What tables mean.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct View {
    names: Vec<String>,
    frontends: BTreeMap<(SocketAddr, Protocol), SeenFrontend>,
    /// With the name of the owner.
    backends: Vec<(String, Seen)>,
    /// Who is let in: owner, address, length.
    ranges: BTreeSet<(String, IpAddr, u32)>,
}

#[derive(Debug, PartialEq, Eq)]
struct SeenFrontend {
    owner: String,
    flags: u32,
    affinity_seconds: u32,
    inside: Vec<Seen>,
    outside: Vec<Seen>,
}

pub(super) fn view(tables: &Tables) -> View {
    let mut names: Vec<_> = tables.service_ports.keys().map(|id| owner_name(tables, *id)).collect();
    names.sort();
    let mut view = View { names, ..View::default() };
    add::<V4>(tables, &mut view);
    add::<V6>(tables, &mut view);
    view.backends.sort();
    view
}

fn add<A: Family>(tables: &Tables, view: &mut View) {
    for (key, row) in A::frontends(tables) {
        let FrontendRow { flags, affinity_seconds, inside, outside, service_port, .. } = *row;
        let addr = SocketAddr::new({ key.addr }.to_ip(), { key.port }.get());
        let frontend = SeenFrontend {
            owner: owner_name(tables, service_port),
            flags: flags.0,
            affinity_seconds,
            inside: seen_set::<A>(tables, inside),
            outside: seen_set::<A>(tables, outside),
        };
        view.frontends.insert((addr, key.protocol), frontend);
    }
    let owned = A::backends(tables).values().filter(|row| row.service_port != 0);
    view.ranges.extend(A::ranges(tables).iter().map(|key| {
        let range = key.range;
        (owner_name(tables, range.service_port), { range.addr }.to_ip(), key.prefix_len - 32)
    }));
    view.backends.extend(owned.map(|row| (owner_name(tables, row.service_port), seen(row))));
}

fn owner_name(tables: &Tables, id: u32) -> String {
    tables.service_ports[&id].name().unwrap().to_owned()
}

fn seen_set<A: Family>(tables: &Tables, range: SlotRange) -> Vec<Seen> {
    let slots = &tables.slots[range.start as usize..(range.start + range.len) as usize];
    slots.iter().map(|id| seen(&A::backends(tables)[id])).collect()
}

fn seen<A: Family>(row: &BackendRow<A>) -> Seen {
    (SocketAddr::new({ row.addr }.to_ip(), { row.port }.get()), row.flags.0)
}
