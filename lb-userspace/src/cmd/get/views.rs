//! Rows of the service maps as people read them.
//!
//! Decides what a line shows. Must not read maps. Invariant: a row whose owner has no name is shown all the
//! same, with its number.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use lb_common::abi::{BackendFlags, FrontendFlags, FrontendKey, FrontendRow, RangeKey, SlotRange, Verdict};
use lb_common::address::Address;
use serde::Serialize;

use crate::cmd::output::Tabular;
use crate::flows::view::FlowView;
use crate::tables::{Backends, Family, Tables};

/// A service port.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct ServiceView {
    /// `namespace/service:port/protocol`.
    pub(super) service: String,
    frontends: Vec<SocketAddr>,
    backends: usize,
    serving: usize,
    affinity_seconds: u32,
}

/// A backend.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct BackendView {
    /// The owner.
    pub(super) service: String,
    backend: SocketAddr,
    id: u32,
    generation: u32,
    serving: bool,
    /// Do new connections from pods of this node, or the node, come here?
    in_set: bool,
    local: bool,
}

/// A frontend.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct FrontendView {
    /// The owner.
    pub(super) service: String,
    /// Address and port; `*` stands for every port that no other frontend has.
    frontend: String,
    protocol: String,
    /// The networks of those who may use it; none: all may.
    clients: Vec<String>,
    /// Where connections go, or `reject` or `drop`.
    inside: Vec<String>,
    outside: Vec<String>,
    affinity_seconds: u32,
}

/// A verdict's counter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct VerdictView {
    verdict: &'static str,
    packets: u64,
}

/// The counters that have moved, the largest first.
pub(super) fn verdicts(counters: Vec<(Verdict, u64)>) -> Vec<VerdictView> {
    let moved = counters.into_iter().filter(|(_, packets)| *packets > 0);
    let mut views: Vec<VerdictView> =
        moved.map(|(verdict, packets)| VerdictView { verdict: verdict.name(), packets }).collect();
    views.sort_by_key(|view| std::cmp::Reverse(view.packets));
    views
}

/// The name of a service port.
pub(super) fn service_name(tables: &Tables, id: u32) -> String {
    if id == 0 {
        return "(no service)".to_owned();
    }
    tables
        .service_ports
        .get(&id)
        .and_then(|name| name.name())
        .map_or_else(|| format!("(unnamed service port {id})"), str::to_owned)
}

/// Service ports, by name.
pub(super) fn services(tables: &Tables) -> Vec<ServiceView> {
    let mut views: BTreeMap<u32, ServiceView> = tables
        .service_ports
        .keys()
        .map(|id| (*id, ServiceView { service: service_name(tables, *id), ..ServiceView::default() }))
        .collect();
    count(&tables.backends_v4, &tables.frontends_v4, &mut views);
    count(&tables.backends_v6, &tables.frontends_v6, &mut views);
    let mut views: Vec<ServiceView> = views.into_values().collect();
    views.sort_by(|a, b| a.service.cmp(&b.service));
    views
}

fn count<A: Address>(
    backends: &Backends<A>,
    frontends: &BTreeMap<FrontendKey<A>, FrontendRow>,
    views: &mut BTreeMap<u32, ServiceView>,
) {
    for row in backends.values().filter(|row| { row.port }.get() != 0) {
        if let Some(view) = views.get_mut(&{ row.service_port }) {
            view.backends += 1;
            view.serving += usize::from(row.flags.has(BackendFlags::SERVING));
        }
    }
    for (key, row) in frontends.iter().filter(|(key, _)| !is_whole(key)) {
        if let Some(view) = views.get_mut(&row.service_port) {
            view.frontends.push(socket(key.addr, key.port));
            view.affinity_seconds = row.affinity_seconds;
        }
    }
}

/// Backends, by service port and address.
pub(super) fn backends(tables: &Tables) -> Vec<BackendView> {
    let mut views = backends_of(tables, &tables.backends_v4);
    views.extend(backends_of(tables, &tables.backends_v6));
    views.sort_by(|a, b| (&a.service, a.backend).cmp(&(&b.service, b.backend)));
    views
}

fn backends_of<A: Address>(tables: &Tables, rows: &Backends<A>) -> Vec<BackendView> {
    rows.iter()
        .filter(|(_, row)| { row.port }.get() != 0)
        .map(|(id, row)| BackendView {
            service: service_name(tables, row.service_port),
            backend: socket(row.addr, row.port),
            id: id.0,
            generation: row.generation,
            serving: row.flags.has(BackendFlags::SERVING),
            in_set: row.flags.has(BackendFlags::IN_CLUSTER_SET) || row.flags.has(BackendFlags::IN_LOCAL_SET),
            local: row.flags.has(BackendFlags::LOCAL),
        })
        .collect()
}

/// Frontends, by service port and address; `with_whole` also the rows that stand for what no port is of.
pub(super) fn frontends(tables: &Tables, with_whole: bool) -> Vec<FrontendView> {
    let mut views = frontends_of::<lb_common::address::V4>(tables, with_whole);
    views.extend(frontends_of::<lb_common::address::V6>(tables, with_whole));
    views.sort_by(|(a, at), (b, other)| (&a.service, at).cmp(&(&b.service, other)));
    return views.into_iter().map(|(view, _)| view).collect();

    fn frontends_of<A: Family>(tables: &Tables, with_whole: bool) -> Vec<(FrontendView, SocketAddr)> {
        let row = |(key, row): (&FrontendKey<A>, &FrontendRow)| FrontendView {
            service: service_name(tables, row.service_port),
            frontend: if is_whole(key) { whole(key.addr) } else { socket(key.addr, key.port).to_string() },
            protocol: if is_whole(key) { "*".to_owned() } else { key.protocol.to_string() },
            clients: clients::<A>(tables, row),
            inside: set::<A>(tables, row.inside, row.flags.has(FrontendFlags::INSIDE_DROP)),
            outside: set::<A>(tables, row.outside, row.flags.has(FrontendFlags::OUTSIDE_DROP)),
            affinity_seconds: row.affinity_seconds,
        };
        let at = |key: &FrontendKey<A>| socket(key.addr, key.port);
        let shown = A::frontends(tables).iter().filter(|(key, _)| with_whole || !is_whole(key));
        shown.map(|(key, of)| (row((key, of)), at(key))).collect()
    }
}

/// Does the row stand for what no port is of (C34)?
fn is_whole<A: Address>(key: &FrontendKey<A>) -> bool {
    *key == FrontendKey::whole(key.addr)
}

fn whole<A: Address>(addr: A) -> String {
    let port = socket(addr, lb_common::address::Port::NONE).to_string();
    format!("{}*", port.trim_end_matches('0'))
}

/// Who may use a guarded frontend.
fn clients<A: Family>(tables: &Tables, row: &FrontendRow) -> Vec<String> {
    if !row.flags.has(FrontendFlags::GUARDED) {
        return Vec::new();
    }
    let ranges = A::ranges(tables).iter().filter(|key| { key.range }.service_port == row.service_port);
    let text = |key: &RangeKey<A>| {
        let (addr, len) = ({ key.range }.addr, key.prefix_len);
        format!("{addr}/{}", len.saturating_sub(32))
    };
    ranges.map(text).collect()
}

/// The backends in a range of slots, each once.
fn set<A: Family>(tables: &Tables, range: SlotRange, drop: bool) -> Vec<String> {
    if range.len == 0 {
        return vec![if drop { "drop" } else { "reject" }.to_owned()];
    }
    let slots = tables.slots.iter().skip(range.start as usize).take(range.len as usize);
    let mut addresses: Vec<SocketAddr> =
        slots.filter_map(|id| A::backends(tables).get(id)).map(|row| socket(row.addr, row.port)).collect();
    addresses.sort_unstable();
    addresses.dedup();
    addresses.iter().map(ToString::to_string).collect()
}

fn socket<A: Address>(addr: A, port: lb_common::address::Port) -> SocketAddr {
    SocketAddr::new(addr.to_ip(), port.get())
}

fn yes(value: bool) -> String {
    if value { "yes" } else { "no" }.to_owned()
}

fn list<T: ToString>(items: &[T]) -> String {
    items.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

fn affinity(seconds: u32) -> String {
    if seconds == 0 { "-".to_owned() } else { format!("{seconds} s") }
}

impl Tabular for ServiceView {
    const COLUMNS: &'static [&'static str] = &["SERVICE", "FRONTENDS", "BACKENDS", "SERVING", "AFFINITY"];

    fn cells(&self) -> Vec<String> {
        vec![
            self.service.clone(),
            list(&self.frontends),
            self.backends.to_string(),
            self.serving.to_string(),
            affinity(self.affinity_seconds),
        ]
    }
}

impl Tabular for BackendView {
    const COLUMNS: &'static [&'static str] = &["SERVICE", "BACKEND", "SERVING", "IN SET", "LOCAL", "ID"];

    fn cells(&self) -> Vec<String> {
        vec![
            self.service.clone(),
            self.backend.to_string(),
            yes(self.serving),
            yes(self.in_set),
            yes(self.local),
            format!("{}.{}", self.id, self.generation),
        ]
    }
}

impl Tabular for FrontendView {
    const COLUMNS: &'static [&'static str] =
        &["SERVICE", "FRONTEND", "PROTOCOL", "CLIENTS", "INSIDE", "OUTSIDE", "AFFINITY"];

    fn cells(&self) -> Vec<String> {
        let outside = if self.outside == self.inside { "same".to_owned() } else { list(&self.outside) };
        vec![
            self.service.clone(),
            self.frontend.clone(),
            self.protocol.clone(),
            if self.clients.is_empty() { "all".to_owned() } else { list(&self.clients) },
            list(&self.inside),
            outside,
            affinity(self.affinity_seconds),
        ]
    }
}

impl Tabular for VerdictView {
    const COLUMNS: &'static [&'static str] = &["VERDICT", "PACKETS"];

    fn cells(&self) -> Vec<String> {
        vec![self.verdict.to_owned(), self.packets.to_string()]
    }
}

impl Tabular for FlowView {
    const COLUMNS: &'static [&'static str] =
        &["PROTOCOL", "CLIENT", "FRONTEND", "BACKEND", "SEEN AS", "STATE", "IDLE", "SERVICE"];

    fn cells(&self) -> Vec<String> {
        vec![
            self.protocol.clone(),
            self.client.to_string(),
            self.frontend.to_string(),
            self.backend.to_string(),
            self.seen_as.map_or_else(|| "-".to_owned(), |addr| addr.to_string()),
            self.state.to_owned(),
            format!("{} s", self.idle_seconds),
            self.service.clone(),
        ]
    }
}
