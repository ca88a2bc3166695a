//! The layout of every BPF map: one file per map, key and value.
//!
//! Decides names, sizes and meaning of what the two sides share. Must not know how a map is
//! opened. Invariant: no padding that is not a named, zeroed field; no bool, enum, Option or
//! usize; addresses and ports in network order, everything else in the machine's own.
//!
//! Types that hold an address are generic over the family and therefore `packed`: that is what
//! `bytemuck` can check without `unsafe`. Every field still lies at a multiple of its size (the
//! golden file shows it), so a side that reads through [`Word`] gets aligned loads.

#![expect(clippy::multiple_bound_locations, reason = "bytemuck's derive repeats the bound of a generic row")]

mod affinity;
mod backend;
mod config;
mod counters;
mod flow;
mod foreign;
mod fragment;
mod frontend;
mod golden;
mod interface;
mod network;
mod range;
mod service_port;
mod shortcut;
mod socket;
mod stranger;
mod verdict;

pub use affinity::{AffinityKey, AffinityRow};
pub use backend::{BackendFlags, BackendRow};
pub use config::{Config, ConfigFlags};
pub use counters::{BackendCounters, ServiceCounters};
pub use flow::{FlowFlags, FlowKey, FlowRow, Hook};
pub use foreign::ForeignRow;
pub use fragment::{FragmentKey, FragmentRow};
pub use frontend::{FrontendFlags, FrontendKey, FrontendRow, SlotRange};
pub use interface::{InterfaceFlags, InterfaceRow, Role};
pub use network::{CLUSTER_NETWORK, Prefix, SERVICE_NETWORKS};
pub use range::{Range, RangeKey};
pub use service_port::ServicePortName;
pub use shortcut::{FlowEntry, Macs, Shortcut};
pub use socket::{SocketFlags, SocketKey, SocketRow, Way};
pub use stranger::Stranger;
pub use verdict::{Action, Verdict};

use bytemuck::{Pod, Zeroable};

/// Goes up by one with every change of a layout; names the folder of the pins.
pub const ABI_VERSION: u32 = 4;

/// A map's name, as the object file and the pin have it, and its default size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MapName {
    /// The name in the object file and in the pin folder.
    pub name: &'static str,
    /// Rows, unless an option says otherwise.
    pub default_rows: u32,
    /// What becomes of it where a successor wants another.
    pub contents: Contents,
    /// Goes up by one with every change of its rows' layout or meaning.
    pub layout: u32,
}

/// What a map holds, and so what becomes of it where a successor wants it larger, smaller or of another layout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Contents {
    /// What the datapath alone knows of connections and clients: carried over, and of another layout refused.
    Connections,
    /// Ids that connections name: as above.
    Ids,
    /// What the agent writes of Services: written anew.
    Services,
    /// Settings, counters and the like: begun anew.
    Rest,
}

macro_rules! maps {
    ($($(#[$doc:meta])* $ident:ident = $name:literal, $rows:expr, $contents:ident, $layout:literal;)*) => {
        $($(#[$doc])* pub const $ident: MapName = MapName {
            name: $name,
            default_rows: $rows,
            contents: Contents::$contents,
            layout: $layout,
        };)*
        /// Every map, in the order of the architecture's table.
        pub const MAPS: &[MapName] = &[$($ident),*];
    };
}

maps! {
    /// Hash, [`FrontendKey`] of IPv4 to [`FrontendRow`].
    FRONTENDS_V4 = "FRONTENDS_V4", 131_072, Services, 1;
    /// Hash, [`FrontendKey`] of IPv6 to [`FrontendRow`].
    FRONTENDS_V6 = "FRONTENDS_V6", 131_072, Services, 1;
    /// Array of `u32`: backend ids; a range of it is one backend set.
    SLOTS = "SLOTS", 1 << 22, Services, 1;
    /// Array, backend id to [`BackendRow`] of IPv4.
    BACKENDS_V4 = "BACKENDS_V4", 1 << 18, Ids, 1;
    /// Array, backend id to [`BackendRow`] of IPv6.
    BACKENDS_V6 = "BACKENDS_V6", 1 << 18, Ids, 1;
    /// Hash, service port id to [`ServicePortName`]. Only the agent and the tool read it.
    SERVICE_PORTS = "SERVICE_PORTS", 131_072, Ids, 1;
    /// Hash, [`FlowKey`] of IPv4 to [`FlowEntry`]; swept by the agent, never evicted.
    FLOWS_V4 = "FLOWS_V4", 1 << 18, Connections, 1;
    /// Hash, [`FlowKey`] of IPv6 to [`FlowEntry`].
    FLOWS_V6 = "FLOWS_V6", 1 << 18, Connections, 1;
    /// LRU hash, [`FlowKey`] of IPv4 to [`FlowRow`], for flows whose other side has yet to answer.
    EMBRYONIC_V4 = "EMBRYONIC_V4", 1 << 16, Connections, 1;
    /// LRU hash, [`FlowKey`] of IPv6 to [`FlowRow`], for flows whose other side has yet to answer.
    EMBRYONIC_V6 = "EMBRYONIC_V6", 1 << 16, Connections, 1;
    /// LRU hash, [`AffinityKey`] of IPv4 to [`AffinityRow`].
    AFFINITY_V4 = "AFFINITY_V4", 1 << 16, Connections, 1;
    /// LRU hash, [`AffinityKey`] of IPv6 to [`AffinityRow`].
    AFFINITY_V6 = "AFFINITY_V6", 1 << 16, Connections, 1;
    /// LRU hash, [`FragmentKey`] of IPv4 to [`FragmentRow`].
    FRAGMENTS_V4 = "FRAGMENTS_V4", 1 << 13, Rest, 1;
    /// LRU hash, [`FragmentKey`] of IPv6 to [`FragmentRow`].
    FRAGMENTS_V6 = "FRAGMENTS_V6", 1 << 13, Rest, 1;
    /// LPM trie, [`RangeKey`] of IPv4 to a `u32` without meaning: who may use a guarded frontend.
    RANGES_V4 = "RANGES_V4", 65_536, Services, 1;
    /// LPM trie, [`RangeKey`] of IPv6 to a `u32` without meaning.
    RANGES_V6 = "RANGES_V6", 65_536, Services, 1;
    /// Array of [`Prefix`] of IPv4: [`CLUSTER_NETWORK`], then [`SERVICE_NETWORKS`].
    NETWORKS_V4 = "NETWORKS_V4", SERVICE_NETWORKS.end, Services, 1;
    /// Array of [`Prefix`] of IPv6: [`CLUSTER_NETWORK`], then [`SERVICE_NETWORKS`].
    NETWORKS_V6 = "NETWORKS_V6", SERVICE_NETWORKS.end, Services, 1;
    /// LRU hash, [`SocketKey`] of IPv4 (IPv6 sockets that talk IPv4 too) to [`SocketRow`].
    SOCKETS_V4 = "SOCKETS_V4", 1 << 16, Connections, 1;
    /// LRU hash, [`SocketKey`] of IPv6 to [`SocketRow`].
    SOCKETS_V6 = "SOCKETS_V6", 1 << 16, Connections, 1;
    /// Hash, [`FlowKey`] of IPv4 to [`ForeignRow`]: connections that netfilter translates.
    FOREIGN_V4 = "FOREIGN_V4", 1 << 17, Rest, 1;
    /// Hash, [`FlowKey`] of IPv6 to [`ForeignRow`].
    FOREIGN_V6 = "FOREIGN_V6", 1 << 17, Rest, 1;
    /// Array of `u32`: the bits of [`Stranger`].
    STRANGERS = "STRANGERS", Stranger::ROWS, Rest, 1;
    /// Per-CPU array, service port id to [`ServiceCounters`].
    SERVICE_COUNTERS = "SERVICE_COUNTERS", 1 << 14, Rest, 1;
    /// Per-CPU array, backend id to [`BackendCounters`].
    BACKEND_COUNTERS = "BACKEND_COUNTERS", 1 << 16, Rest, 1;
    /// Per-CPU array of `u64`, indexed by [`Verdict`].
    VERDICTS = "VERDICTS", Verdict::COUNT, Rest, 1;
    /// Hash, ifindex to [`InterfaceRow`].
    INTERFACES = "INTERFACES", 4_096, Rest, 1;
    /// Array of one [`Config`].
    CONFIG = "CONFIG", 1, Rest, 1;
}

/// Puts a packed row of a family on the boundary where every map keeps it, that of the family's address (4 or
/// 8 bytes), so that its fields are loaded as words. It adds nothing: the rows' sizes are multiples of that.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Word<A, T>([A; 0], T);

impl<A, T> Word<A, T> {
    const ADDS_NOTHING: () = assert!(size_of::<Self>() == size_of::<T>(), "a row is whole words");

    /// The row, on its boundary.
    #[inline(always)]
    pub const fn new(row: T) -> Self {
        let () = Self::ADDS_NOTHING;
        Self([], row)
    }
}

impl<A, T> core::ops::Deref for Word<A, T> {
    type Target = T;

    #[inline(always)]
    fn deref(&self) -> &T {
        &self.1
    }
}

impl<A, T> core::ops::DerefMut for Word<A, T> {
    #[inline(always)]
    fn deref_mut(&mut self) -> &mut T {
        &mut self.1
    }
}

/// One step of the hash behind tags and choices: multiply and rotate (the constant is 2^32 divided by the
/// golden ratio). Not for adversaries: a tag only tells a row from its map's next tenant.
#[must_use]
#[inline(always)]
pub const fn mix(hash: u32, word: u32) -> u32 {
    (hash ^ word).wrapping_mul(0x9e37_79b1).rotate_left(15)
}

/// Spreads a hash over all of its bits (MurmurHash3's finalizer), so that a multiplication can choose by them.
#[must_use]
#[inline(always)]
pub const fn avalanche(hash: u32) -> u32 {
    let hash = (hash ^ (hash >> 16)).wrapping_mul(0x85eb_ca6b);
    let hash = (hash ^ (hash >> 13)).wrapping_mul(0xc2b2_ae35);
    hash ^ (hash >> 16)
}

/// A slot: the id of a backend.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Pod, Zeroable)]
pub struct BackendId(pub u32);
