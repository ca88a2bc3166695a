//! What stands in the service maps, and the operations that change it.
//!
//! The neutral ground between `plan`, which says what should stand there, and `datapath`, which
//! writes it. Must not know how rows are computed or how a map is opened. Invariant: applying
//! an operation to [`Tables`] has the effect that applying it to the kernel has.

mod backends;
mod name;

use std::collections::{BTreeMap, BTreeSet};

use lb_common::abi::{BackendId, BackendRow, FrontendKey, FrontendRow, Prefix, RangeKey};
use lb_common::address::{Address, V4, V6};

use crate::trees::pack;

pub use backends::Backends;
pub use name::PortName;

/// The service maps' contents. Backends and slots that are all zero are left out or zero: free.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tables {
    /// Service port id to name.
    pub service_ports: BTreeMap<u32, PortName>,
    /// Backend id to IPv4 backend.
    pub backends_v4: Backends<V4>,
    /// Backend id to IPv6 backend.
    pub backends_v6: Backends<V6>,
    /// Slot index to backend id; indices behind the end were never written.
    pub slots: Vec<BackendId>,
    /// IPv4 frontends.
    pub frontends_v4: BTreeMap<FrontendKey<V4>, FrontendRow>,
    /// IPv6 frontends.
    pub frontends_v6: BTreeMap<FrontendKey<V6>, FrontendRow>,
    /// Who may use the guarded IPv4 frontends.
    pub ranges_v4: BTreeSet<RangeKey<V4>>,
    /// Who may use the guarded IPv6 frontends.
    pub ranges_v6: BTreeSet<RangeKey<V6>>,
    /// Row number to IPv4 network; rows without a network are left out.
    pub networks_v4: BTreeMap<u32, Prefix<V4>>,
    /// Row number to IPv6 network.
    pub networks_v6: BTreeMap<u32, Prefix<V6>>,
}

/// One change of the service maps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MapOp {
    /// Gives a service port id its name.
    PutServicePort(u32, PortName),
    /// Frees a service port id.
    DeleteServicePort(u32),
    /// Writes an IPv4 backend; all zero but the generation: the id is free.
    PutBackendV4(BackendId, BackendRow<V4>),
    /// Writes an IPv6 backend.
    PutBackendV6(BackendId, BackendRow<V6>),
    /// Writes consecutive slots.
    PutSlots {
        /// The first slot.
        start: u32,
        /// What they become.
        backends: Vec<BackendId>,
    },
    /// Publishes an IPv4 frontend, or replaces its row at once.
    PutFrontendV4(FrontendKey<V4>, FrontendRow),
    /// Publishes an IPv6 frontend, or replaces its row at once.
    PutFrontendV6(FrontendKey<V6>, FrontendRow),
    /// Retracts an IPv4 frontend.
    DeleteFrontendV4(FrontendKey<V4>),
    /// Retracts an IPv6 frontend.
    DeleteFrontendV6(FrontendKey<V6>),
    /// Lets an IPv4 range in.
    PutRangeV4(RangeKey<V4>),
    /// Lets an IPv6 range in.
    PutRangeV6(RangeKey<V6>),
    /// Lets an IPv4 range in no longer.
    DeleteRangeV4(RangeKey<V4>),
    /// Lets an IPv6 range in no longer.
    DeleteRangeV6(RangeKey<V6>),
    /// Writes an IPv4 network; all zero: none.
    PutNetworkV4(u32, Prefix<V4>),
    /// Writes an IPv6 network; all zero: none.
    PutNetworkV6(u32, Prefix<V6>),
}

impl MapOp {
    /// How many rows it writes or deletes.
    #[must_use]
    pub fn rows(&self) -> usize {
        match self {
            Self::PutSlots { backends, .. } => backends.len(),
            _ => 1,
        }
    }
}

/// How many rows each service map holds; from options, checked against the pinned maps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capacity {
    /// Service ports.
    pub service_ports: u32,
    /// Frontends of each family.
    pub frontends: u32,
    /// Backends of each family.
    pub backends: u32,
    /// Slots.
    pub slots: u32,
    /// Source ranges of each family.
    pub ranges: u32,
}

impl Default for Capacity {
    fn default() -> Self {
        use lb_common::abi::{BACKENDS_V4, FRONTENDS_V4, RANGES_V4, SERVICE_PORTS, SLOTS};
        Self {
            service_ports: SERVICE_PORTS.default_rows,
            frontends: FRONTENDS_V4.default_rows,
            backends: BACKENDS_V4.default_rows,
            slots: SLOTS.default_rows,
            ranges: RANGES_V4.default_rows,
        }
    }
}

/// A run of operations stopped: those before `applied` took effect, the one at it did not.
#[derive(Debug, thiserror::Error)]
#[error("map operation {applied} ({operation}) failed: {reason}")]
pub struct Stopped {
    /// How many operations took effect.
    pub applied: usize,
    /// The one that failed, for people.
    pub operation: String,
    /// Why.
    pub reason: String,
}

/// What a step of a look at the maps has seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// Nothing else than was thought; there is more to look at.
    More,
    /// Nothing else than was thought, and that was all.
    End,
    /// Something else than was thought.
    Drift,
}

/// The service maps, wherever they are: in the kernel, or a fake.
pub trait Maps {
    /// How far a look at the maps has come; the default is where it begins.
    type Place: Default + std::fmt::Debug;

    /// Reads everything back.
    ///
    /// # Errors
    /// Where a map cannot be read; names the map.
    fn load(&mut self) -> anyhow::Result<Tables>;

    /// Looks a little further whether the maps hold `thought`, which may change between the steps as the maps do.
    ///
    /// # Errors
    /// Where a map cannot be read; names the map.
    fn look(&mut self, thought: &Tables, place: &mut Self::Place) -> anyhow::Result<Seen>;

    /// Applies `operations` in order, as batches where neighbours are of one kind.
    ///
    /// # Errors
    /// At the first operation that fails; what came before took effect.
    fn apply(&mut self, operations: &[MapOp]) -> Result<(), Stopped>;
}

impl Tables {
    /// Takes no more room than it needs, after many operations.
    pub fn pack(&mut self) {
        pack(&mut self.service_ports);
        pack(&mut self.frontends_v4);
        pack(&mut self.frontends_v6);
    }

    /// Applies one operation.
    pub fn apply(&mut self, operation: &MapOp) {
        match operation {
            MapOp::PutServicePort(id, name) => {
                self.service_ports.insert(*id, name.clone());
            }
            MapOp::DeleteServicePort(id) => {
                self.service_ports.remove(id);
            }
            MapOp::PutBackendV4(id, row) => {
                self.backends_v4.insert(*id, *row);
            }
            MapOp::PutBackendV6(id, row) => {
                self.backends_v6.insert(*id, *row);
            }
            MapOp::PutSlots { start, backends } => {
                let start = *start as usize;
                let end = start + backends.len();
                if self.slots.len() < end {
                    self.slots.resize(end, BackendId::default());
                }
                self.slots[start..end].copy_from_slice(backends);
            }
            MapOp::PutFrontendV4(key, row) => {
                self.frontends_v4.insert(*key, *row);
            }
            MapOp::PutFrontendV6(key, row) => {
                self.frontends_v6.insert(*key, *row);
            }
            MapOp::DeleteFrontendV4(key) => {
                self.frontends_v4.remove(key);
            }
            MapOp::DeleteFrontendV6(key) => {
                self.frontends_v6.remove(key);
            }
            MapOp::PutRangeV4(key) => {
                self.ranges_v4.insert(*key);
            }
            MapOp::PutRangeV6(key) => {
                self.ranges_v6.insert(*key);
            }
            MapOp::DeleteRangeV4(key) => {
                self.ranges_v4.remove(key);
            }
            MapOp::DeleteRangeV6(key) => {
                self.ranges_v6.remove(key);
            }
            MapOp::PutNetworkV4(row, network) => put_network(&mut self.networks_v4, *row, *network),
            MapOp::PutNetworkV6(row, network) => put_network(&mut self.networks_v6, *row, *network),
        }
    }
}

fn put_network<A: Address>(networks: &mut BTreeMap<u32, Prefix<A>>, row: u32, network: Prefix<A>) {
    if network.present == 0 {
        networks.remove(&row);
    } else {
        networks.insert(row, network);
    }
}

/// An address family with tables and operations of its own: what is written once for IPv4 and
/// IPv6 goes through this.
pub trait Family: Address {
    /// Its backends.
    fn backends(tables: &Tables) -> &Backends<Self>;
    /// Its frontends.
    fn frontends(tables: &Tables) -> &BTreeMap<FrontendKey<Self>, FrontendRow>;
    /// Its source ranges.
    fn ranges(tables: &Tables) -> &BTreeSet<RangeKey<Self>>;
    /// Its networks.
    fn networks(tables: &Tables) -> &BTreeMap<u32, Prefix<Self>>;
    /// Writes a backend.
    fn put_backend(id: BackendId, row: BackendRow<Self>) -> MapOp;
    /// Publishes or replaces a frontend.
    fn put_frontend(key: FrontendKey<Self>, row: FrontendRow) -> MapOp;
    /// Retracts a frontend.
    fn delete_frontend(key: FrontendKey<Self>) -> MapOp;
    /// Lets a source range in.
    fn put_range(key: RangeKey<Self>) -> MapOp;
    /// Lets a source range in no longer.
    fn delete_range(key: RangeKey<Self>) -> MapOp;
    /// Writes a network.
    fn put_network(row: u32, network: Prefix<Self>) -> MapOp;
}

/// The fields of [`Tables`] and the variants of [`MapOp`] that are a family's.
macro_rules! family {
    ($address:ty: $backends:ident, $frontends:ident, $ranges:ident, $networks:ident;
     $put_backend:ident, $put_frontend:ident, $delete_frontend:ident, $put_range:ident, $delete_range:ident, $put_network:ident) => {
        impl Family for $address {
            fn backends(tables: &Tables) -> &Backends<Self> {
                &tables.$backends
            }

            fn frontends(tables: &Tables) -> &BTreeMap<FrontendKey<Self>, FrontendRow> {
                &tables.$frontends
            }

            fn ranges(tables: &Tables) -> &BTreeSet<RangeKey<Self>> {
                &tables.$ranges
            }

            fn networks(tables: &Tables) -> &BTreeMap<u32, Prefix<Self>> {
                &tables.$networks
            }

            fn put_backend(id: BackendId, row: BackendRow<Self>) -> MapOp {
                MapOp::$put_backend(id, row)
            }

            fn put_frontend(key: FrontendKey<Self>, row: FrontendRow) -> MapOp {
                MapOp::$put_frontend(key, row)
            }

            fn delete_frontend(key: FrontendKey<Self>) -> MapOp {
                MapOp::$delete_frontend(key)
            }

            fn put_range(key: RangeKey<Self>) -> MapOp {
                MapOp::$put_range(key)
            }

            fn delete_range(key: RangeKey<Self>) -> MapOp {
                MapOp::$delete_range(key)
            }

            fn put_network(row: u32, network: Prefix<Self>) -> MapOp {
                MapOp::$put_network(row, network)
            }
        }
    };
}

family!(V4: backends_v4, frontends_v4, ranges_v4, networks_v4;
    PutBackendV4, PutFrontendV4, DeleteFrontendV4, PutRangeV4, DeleteRangeV4, PutNetworkV4);
family!(V6: backends_v6, frontends_v6, ranges_v6, networks_v6;
    PutBackendV6, PutFrontendV6, DeleteFrontendV6, PutRangeV6, DeleteRangeV6, PutNetworkV6);
