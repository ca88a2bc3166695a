//! The kernel's side: a cluster as rows, packets through programs, and time that passes when told to.
//!
//! Decides how a cluster becomes rows, and how old rows are made. Must not judge. Invariant: what one world left is
//! gone before the next begins.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use anyhow::{Context as _, Result, ensure};
use bytemuck::Zeroable as _;
use lb_common::abi::{
    self, AffinityKey, BackendFlags, BackendId, BackendRow, CLUSTER_NETWORK, Config, ConfigFlags, FlowEntry,
    FlowKey, ForeignRow, FragmentKey, FragmentRow, FrontendFlags, FrontendKey, FrontendRow, Hook, Prefix,
    RangeKey, SERVICE_NETWORKS, SlotRange, Verdict,
};
use lb_common::address::{Address, Port, Protocol, V4, V6};
use lb_userspace::datapath::clock::Clock;
use lb_userspace::datapath::kernel::FlowTables;
use lb_userspace::datapath::strangers::Acquaintances;
use lb_userspace::datapath::table::Table;
use lb_userspace::tables::{Family, MapOp, Maps as _, Tables};

use crate::model::{Backend, Cluster, Direction, Frontend, Policy, Seen, ServicePort};
use crate::packets::Datapath;

use super::ways;

/// A second of a world is so many of the kernel's, so that time passes only when a world says so.
const SLOWER: u32 = 100;
/// Slots of a service port: half for its cluster set, half for its local set.
const SLOTS: u32 = 64;
/// How often a set's list of backends stands in its slots.
const REPEATED: usize = 3;

/// A tuple that a connection holds: hook, protocol, source and destination.
pub type Tuple = (Direction, u8, SocketAddr, SocketAddr);

/// The programs in the kernel, with the tables that a world needs to reach.
pub struct Subject {
    datapath: Datapath,
    v4: FlowTables<V4>,
    v6: FlowTables<V6>,
    foreign_v4: Table<FlowKey<V4>, ForeignRow>,
    foreign_v6: Table<FlowKey<V6>, ForeignRow>,
    fragments_v4: Table<FragmentKey<V4>, FragmentRow>,
    fragments_v6: Table<FragmentKey<V6>, FragmentRow>,
    counters: Vec<u64>,
    ticks_per_second: u32,
    /// What takes the world's frontends and ranges away.
    undo: Vec<MapOp>,
}

impl Subject {
    /// Loads programs and maps.
    ///
    /// # Errors
    /// Where the kernel takes them not.
    pub fn load() -> Result<Self> {
        let datapath = Datapath::load()?;
        Ok(Self {
            v4: datapath.flows_v4()?,
            v6: datapath.flows_v6()?,
            foreign_v4: datapath.table(abi::FOREIGN_V4)?,
            foreign_v6: datapath.table(abi::FOREIGN_V6)?,
            fragments_v4: datapath.table(abi::FRAGMENTS_V4)?,
            fragments_v6: datapath.table(abi::FRAGMENTS_V6)?,
            counters: datapath.counters()?,
            ticks_per_second: Clock::read()?.ticks_per_second * SLOWER,
            undo: Vec::new(),
            datapath,
        })
    }

    /// Forgets the world before and sets a cluster up.
    ///
    /// # Errors
    /// Where a map refuses.
    pub fn begin(&mut self, cluster: &Cluster) -> Result<()> {
        self.datapath.maps().apply(&std::mem::take(&mut self.undo))?;
        self.datapath.maps().set_strangers(&Acquaintances::of(&Tables::default(), 0..=0))?;
        clear(&self.v4)?;
        clear(&self.v6)?;
        empty(&self.fragments_v4)?;
        empty(&self.fragments_v6)?;
        foreign(&self.foreign_v4, cluster)?;
        foreign(&self.foreign_v6, cluster)?;
        self.publish(cluster)
    }

    /// Gives a way out of the node to every flow that may take one.
    ///
    /// # Errors
    /// Where a map refuses.
    pub fn give_ways(&self) -> Result<()> {
        let clock = Clock::read()?;
        // The agent's reckoning of the datapath's clock may be a little ahead.
        let made = clock.now()?.wrapping_sub(clock.ticks_per_second);
        ways::give(&self.v4, made)?;
        ways::give(&self.v6, made)
    }

    /// Writes a cluster's tables, as they are now.
    ///
    /// # Errors
    /// Where a map refuses.
    pub fn publish(&mut self, cluster: &Cluster) -> Result<()> {
        let flag = |on: bool, flag: u32| if on { flag } else { 0 };
        self.datapath.set_config(&Config {
            abi_version: abi::ABI_VERSION,
            ticks_per_second: self.ticks_per_second,
            masquerade_port_first: *cluster.masquerade_ports.start(),
            masquerade_port_last: *cluster.masquerade_ports.end(),
            opening_timeout: u32::try_from(cluster.opening_timeout)?,
            flags: ConfigFlags(
                flag(cluster.masquerade_always, ConfigFlags::MASQUERADE_ALWAYS)
                    | flag(cluster.reset_vanished, ConfigFlags::RESET_VANISHED)
                    | flag(cluster.sockets, ConfigFlags::SOCKETS),
            ),
            ..Config::default()
        })?;
        let address = |v4: bool, none: &str| {
            cluster.node_address(v4).map_or_else(|| none.to_owned(), |address| address.to_string())
        };
        self.datapath.set_masquerade_addresses(&address(true, "0.0.0.0"), &address(false, "::"))?;
        let mut operations = Vec::new();
        let mut undo = Vec::new();
        family::<V4>(cluster, &mut operations, &mut undo);
        family::<V6>(cluster, &mut operations, &mut undo);
        self.undo = undo;
        Ok(self.datapath.maps().apply(&operations)?)
    }

    /// Makes every row that many seconds older.
    ///
    /// # Errors
    /// Where a map refuses.
    pub fn wait(&self, seconds: u64) -> Result<()> {
        let ticks = u32::try_from(seconds)?.wrapping_mul(self.ticks_per_second);
        age(&self.v4, ticks)?;
        age(&self.v6, ticks)
    }

    /// Runs a program on a frame.
    ///
    /// # Errors
    /// Where the kernel does not run it, or not exactly one counter moves.
    pub fn run(&mut self, program: &str, frame: &[u8]) -> Result<Seen> {
        let (action, frame) = self.datapath.attempt(program, frame)?;
        let after = self.datapath.counters()?;
        let moved: Vec<(Verdict, u64)> = Verdict::ALL
            .iter()
            .zip(self.counters.iter().zip(&after))
            .filter(|(_, (before, after))| before != after)
            .map(|(verdict, (before, after))| (*verdict, after - before))
            .collect();
        ensure!(matches!(moved[..], [(_, 1)]), "exactly one verdict counter moves once: {moved:?}");
        self.counters = after;
        Ok(Seen { verdict: moved[0].0, action, frame })
    }

    /// The tuples of all rows.
    ///
    /// # Errors
    /// Where a map cannot be read.
    pub fn tuples(&self) -> Result<BTreeSet<Tuple>> {
        let mut all = BTreeSet::new();
        tuples(&self.v4, &mut all)?;
        tuples(&self.v6, &mut all)?;
        Ok(all)
    }
}

fn clear<A: Address>(tables: &FlowTables<A>) -> Result<()> {
    empty(&tables.settled)?;
    empty(&tables.embryonic)?;
    empty(&tables.affinity)
}

fn empty<K: bytemuck::Pod, V: bytemuck::Pod>(table: &Table<K, V>) -> Result<()> {
    for (key, _) in table.rows()? {
        table.delete(&key).with_context(|| format!("emptying {}", table.name()))?;
    }
    Ok(())
}

/// Makes a family's table of foreign connections the cluster's.
fn foreign<A: Address>(table: &Table<FlowKey<A>, ForeignRow>, cluster: &Cluster) -> Result<()> {
    empty(table)?;
    for (protocol, from, to) in &cluster.foreign {
        if let (Some(src), Some(dst)) = (A::from_ip(from.ip()), A::from_ip(to.ip())) {
            let (src_port, dst_port) = (Port::new(from.port()), Port::new(to.port()));
            let (protocol, hook) = (Protocol(*protocol), Hook::INGRESS);
            let key = FlowKey { src, dst, src_port, dst_port, protocol, hook, pad: [0; 2] };
            table.put(&key, &ForeignRow::default())?;
        }
    }
    Ok(())
}

fn age<A: Address>(tables: &FlowTables<A>, ticks: u32) -> Result<()> {
    for (key, mut entry) in tables.settled.rows()? {
        entry.row.since = entry.row.since.wrapping_sub(ticks);
        entry.row.last_seen = entry.row.last_seen.wrapping_sub(ticks);
        entry.shortcut.made = entry.shortcut.made.wrapping_sub(ticks);
        tables.settled.put(&key, &FlowEntry { row: entry.row, ..entry })?;
    }
    for (key, mut row) in tables.embryonic.rows()? {
        row.since = row.since.wrapping_sub(ticks);
        row.last_seen = row.last_seen.wrapping_sub(ticks);
        tables.embryonic.put(&key, &row)?;
    }
    for (key, mut row) in tables.affinity.rows()? {
        row.last_used = row.last_used.wrapping_sub(ticks);
        let key: AffinityKey<A> = key;
        tables.affinity.put(&key, &row)?;
    }
    Ok(())
}

fn tuples<A: Address>(tables: &FlowTables<A>, all: &mut BTreeSet<Tuple>) -> Result<()> {
    let settled = tables.settled.rows()?.into_iter().map(|(key, _)| key);
    let embryonic = tables.embryonic.rows()?.into_iter().map(|(key, _)| key);
    for FlowKey { src, dst, src_port, dst_port, protocol, hook, .. } in settled.chain(embryonic) {
        let direction = if hook == Hook::INGRESS { Direction::Ingress } else { Direction::Egress };
        let from = SocketAddr::new(src.to_ip(), src_port.get());
        all.insert((direction, protocol.0, from, SocketAddr::new(dst.to_ip(), dst_port.get())));
    }
    Ok(())
}

/// What writes the part of a cluster that is of a family, and what takes it away again.
fn family<A: Family>(cluster: &Cluster, operations: &mut Vec<MapOp>, undo: &mut Vec<MapOp>) {
    for service in &cluster.services {
        for backend in &service.backends {
            if let Some(row) = backend_row::<A>(service, backend) {
                operations.push(A::put_backend(BackendId(backend.id), row));
            }
        }
        for range in service.ranges.iter().filter_map(|range| network::<A>(*range)) {
            let (addr, len) = range;
            operations.push(A::put_range(RangeKey::new(service.id, addr, len)));
            undo.push(A::delete_range(RangeKey::new(service.id, addr, len)));
        }
        let sets = [false, true].map(|local| {
            let backends = service.set(Policy { local, silent: false });
            let ids: Vec<_> = backends.map(|backend| BackendId(backend.id)).collect();
            let start = service.id * SLOTS + if local { SLOTS / 2 } else { 0 };
            let backends = ids.repeat(REPEATED);
            let range = SlotRange { start, len: u32::try_from(backends.len()).unwrap_or(0) };
            operations.push(MapOp::PutSlots { start, backends });
            range
        });
        for frontend in &service.frontends {
            if let Some(addr) = A::from_ip(frontend.address.ip()) {
                let port = Port::new(frontend.address.port());
                let key = FrontendKey::new(addr, port, Protocol(service.protocol));
                operations.push(A::put_frontend(key, frontend_row(service, frontend, key.tag(), sets)));
                undo.push(A::delete_frontend(key));
            }
        }
    }
    for addr in cluster.whole.iter().filter_map(|address| A::from_ip(*address)) {
        let key = FrontendKey::whole(addr);
        let row = FrontendRow { tag: key.tag(), service_port: 1, ..FrontendRow::default() };
        operations.push(A::put_frontend(key, row));
        undo.push(A::delete_frontend(key));
    }
    let of = |networks: &[ipnet::IpNet]| networks.iter().find_map(|one| network::<A>(*one));
    for (row, net) in [
        (CLUSTER_NETWORK, of(&cluster.pod_networks)),
        (SERVICE_NETWORKS.start, of(&cluster.service_networks)),
    ] {
        let prefix = net.map_or_else(Prefix::zeroed, |(addr, len)| Prefix::new(addr, len));
        operations.push(A::put_network(row, prefix));
    }
}

fn network<A: Address>(net: ipnet::IpNet) -> Option<(A, u8)> {
    A::from_ip(net.addr()).map(|addr| (addr, net.prefix_len()))
}

fn backend_row<A: Address>(service: &ServicePort, backend: &Backend) -> Option<BackendRow<A>> {
    let flag = |on: bool, flag: u16| if on { flag } else { 0 };
    Some(BackendRow {
        addr: A::from_ip(backend.address.ip())?,
        port: Port::new(backend.address.port()),
        flags: BackendFlags(
            flag(backend.serving, BackendFlags::SERVING)
                | flag(backend.in_cluster_set, BackendFlags::IN_CLUSTER_SET)
                | flag(backend.in_local_set, BackendFlags::IN_LOCAL_SET)
                | flag(backend.here, BackendFlags::LOCAL)
                | flag(backend.vanished, BackendFlags::VANISHED),
        ),
        generation: backend.generation,
        service_port: service.id,
        ..BackendRow::zeroed()
    })
}

fn frontend_row(service: &ServicePort, frontend: &Frontend, tag: u32, sets: [SlotRange; 2]) -> FrontendRow {
    let flag = |on: bool, flag: u32| if on { flag } else { 0 };
    let set = |policy: Policy| sets[usize::from(policy.local)];
    FrontendRow {
        tag,
        service_port: service.id,
        flags: FrontendFlags(
            flag(frontend.external, FrontendFlags::EXTERNAL)
                | flag(frontend.guarded, FrontendFlags::GUARDED)
                | flag(frontend.inside.silent, FrontendFlags::INSIDE_DROP)
                | flag(frontend.outside.silent, FrontendFlags::OUTSIDE_DROP)
                | flag(frontend.inside.local, FrontendFlags::INSIDE_LOCAL)
                | flag(frontend.outside.local, FrontendFlags::OUTSIDE_LOCAL),
        ),
        affinity_seconds: service.affinity_seconds,
        inside: set(frontend.inside),
        outside: set(frontend.outside),
    }
}
