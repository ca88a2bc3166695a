//! Every map, behind a typed function: the only raw map access.
//!
//! Decides how a row is read safely. Must not know what rows mean. Invariant: a hash row that is
//! handed out was its key's when it was copied. The kernel gives a deleted or replaced element to
//! another key without waiting for readers; so the row is copied, its tag compared
//! afterwards, and a mismatch looked up once more.

#[macro_use]
mod tagged;
mod flows;
mod scratch;
mod sockets;
mod tally;

pub(crate) use flows::{
    At, Flow, Place, Settled, Stored, add_embryonic, add_settled, flow, flow_at, flow_row, is_embryonic,
    is_settled, place, remove_embryonic, remove_settled, replace_embryonic, replace_settled, settle, settled,
    settled_entry, state,
};
pub(crate) use scratch::{Scratch, Work, holder, moved, out, reply, work};
pub(crate) use sockets::{forget_translation, translate, translation};
pub(crate) use tally::{count_connection, count_packet, count_reply};

use aya_ebpf::bindings::{BPF_ANY, BPF_F_NO_PREALLOC};
use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, HashMap, LpmTrie, LruHashMap, PerCpuArray, lpm_trie};
use bytemuck::Zeroable as _;
use lb_common::abi::{
    self, AffinityKey, AffinityRow, BackendId, BackendRow, Config, FlowKey, FlowRow, ForeignRow, FragmentKey,
    FragmentRow, FrontendKey, FrontendRow, InterfaceRow, Prefix, Range, RangeKey, ServicePortName, SocketKey,
    SocketRow, Stranger, Verdict, Word,
};
use lb_common::address::{Port, V4, V6};
use lb_common::wire::{Glimpsed, Network};

macro_rules! family_maps {
    ($family:ty, $frontends:ident, $backends:ident, $flows:ident, $embryonic:ident, $affinity:ident, $fragments:ident, $ranges:ident, $networks:ident, $sockets:ident, $foreign:ident, $scratch:ident) => {
        #[map]
        static $frontends: HashMap<Word<$family, FrontendKey<$family>>, FrontendRow> =
            HashMap::with_max_entries(abi::$frontends.default_rows, 0);
        #[map]
        static $backends: Array<Word<$family, BackendRow<$family>>> =
            Array::with_max_entries(abi::$backends.default_rows, 0);
        #[map]
        static $flows: HashMap<Key<$family>, Stored<$family>> =
            HashMap::with_max_entries(abi::$flows.default_rows, 0);
        #[map]
        static $embryonic: LruHashMap<Key<$family>, Row<$family>> =
            LruHashMap::with_max_entries(abi::$embryonic.default_rows, 0);
        #[map]
        static $affinity: LruHashMap<Word<$family, AffinityKey<$family>>, AffinityRow> =
            LruHashMap::with_max_entries(abi::$affinity.default_rows, 0);
        #[map]
        static $fragments: LruHashMap<Word<$family, FragmentKey<$family>>, FragmentRow> =
            LruHashMap::with_max_entries(abi::$fragments.default_rows, 0);
        #[map]
        static $ranges: LpmTrie<Range<$family>, u32> =
            LpmTrie::with_max_entries(abi::$ranges.default_rows, 0);
        #[map]
        static $networks: Array<Word<$family, Prefix<$family>>> =
            Array::with_max_entries(abi::$networks.default_rows, 0);
        #[map]
        static $sockets: Sockets<$family> = LruHashMap::with_max_entries(abi::$sockets.default_rows, 0);
        #[map]
        static $foreign: HashMap<Key<$family>, ForeignRow> =
            HashMap::with_max_entries(abi::$foreign.default_rows, BPF_F_NO_PREALLOC);
        #[map]
        static $scratch: PerCpuArray<Scratch<$family>> = PerCpuArray::with_max_entries(1, 0);

        impl Family for $family {
            #[inline(always)]
            fn maps() -> FamilyMaps<Self> {
                FamilyMaps {
                    frontends: &$frontends,
                    backends: &$backends,
                    flows: &$flows,
                    embryonic: &$embryonic,
                    affinity: &$affinity,
                    fragments: &$fragments,
                    ranges: &$ranges,
                    networks: &$networks,
                    sockets: &$sockets,
                    foreign: &$foreign,
                    scratch: &$scratch,
                }
            }
        }
    };
}

family_maps!(
    V4,
    FRONTENDS_V4,
    BACKENDS_V4,
    FLOWS_V4,
    EMBRYONIC_V4,
    AFFINITY_V4,
    FRAGMENTS_V4,
    RANGES_V4,
    NETWORKS_V4,
    SOCKETS_V4,
    FOREIGN_V4,
    SCRATCH_V4
);
family_maps!(
    V6,
    FRONTENDS_V6,
    BACKENDS_V6,
    FLOWS_V6,
    EMBRYONIC_V6,
    AFFINITY_V6,
    FRAGMENTS_V6,
    RANGES_V6,
    NETWORKS_V6,
    SOCKETS_V6,
    FOREIGN_V6,
    SCRATCH_V6
);

#[map]
static SLOTS: Array<BackendId> = Array::with_max_entries(abi::SLOTS.default_rows, 0);
#[map]
static VERDICTS: PerCpuArray<u64> = PerCpuArray::with_max_entries(abi::VERDICTS.default_rows, 0);
#[map]
static INTERFACES: HashMap<u32, InterfaceRow> = HashMap::with_max_entries(abi::INTERFACES.default_rows, 0);
#[map]
static STRANGERS: Array<u32> = Array::with_max_entries(abi::STRANGERS.default_rows, 0);
#[map]
static CONFIG: Array<Config> = Array::with_max_entries(abi::CONFIG.default_rows, 0);
/// Not read here; declared so that one object holds every map of the contract.
#[map]
static SERVICE_PORTS: HashMap<u32, ServicePortName> =
    HashMap::with_max_entries(abi::SERVICE_PORTS.default_rows, BPF_F_NO_PREALLOC);

/// A flow's key, on a boundary that its fields are loaded from as words.
pub(crate) type Key<A> = Word<A, FlowKey<A>>;
/// A flow's row, likewise.
pub(crate) type Row<A> = Word<A, FlowRow<A>>;

/// What sockets were translated to, by socket and peer.
type Sockets<A> = LruHashMap<Word<A, SocketKey<A>>, Word<A, SocketRow<A>>>;

/// The maps of a family.
pub(crate) struct FamilyMaps<A: Network> {
    frontends: &'static HashMap<Word<A, FrontendKey<A>>, FrontendRow>,
    backends: &'static Array<Word<A, BackendRow<A>>>,
    flows: &'static HashMap<Key<A>, Stored<A>>,
    embryonic: &'static LruHashMap<Key<A>, Row<A>>,
    affinity: &'static LruHashMap<Word<A, AffinityKey<A>>, AffinityRow>,
    fragments: &'static LruHashMap<Word<A, FragmentKey<A>>, FragmentRow>,
    ranges: &'static LpmTrie<Range<A>, u32>,
    networks: &'static Array<Word<A, Prefix<A>>>,
    sockets: &'static Sockets<A>,
    foreign: &'static HashMap<Key<A>, ForeignRow>,
    scratch: &'static PerCpuArray<Scratch<A>>,
}

/// A family that has maps.
pub(crate) trait Family:
    Network + Glimpsed + crate::masquerade::MasqueradeAddress + crate::reject::Refusal + crate::sock::Local
{
    /// Its maps.
    fn maps() -> FamilyMaps<Self>;
}

/// A lookup that found no row it could trust.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Missing {
    /// There is none.
    Absent,
    /// It changed owners under the reader, twice.
    Recycled,
}

/// Is there a frontend of that key? Asked twice before the answer is no: a row is replaced by adding the new one before
/// its bucket's first and then taking out the old, and a reader in between may have passed the one and miss the other.
#[inline(always)]
pub(crate) fn is_frontend<A: Family>(key: &Word<A, FrontendKey<A>>) -> bool {
    let frontends = A::maps().frontends;
    frontends.get_ptr(key).is_some() || frontends.get_ptr(key).is_some()
}

/// The frontend of that key; asked twice, as above.
#[inline(always)]
pub(crate) fn frontend<A: Family>(key: &Word<A, FrontendKey<A>>) -> Result<FrontendRow, Missing> {
    let frontends = A::maps().frontends;
    let row = || frontends.get_ptr_mut(key).or_else(|| frontends.get_ptr_mut(key));
    tagged!(row(), key).map(|(row, _)| row)
}

/// Is it known that no row has that address and port?
#[inline(always)]
pub(crate) fn is_stranger<A: Family>(addr: A, port: Port) -> bool {
    let Stranger { index, bit } = Stranger::of(addr, port);
    STRANGERS.get(index).is_some_and(|word| word & bit != 0)
}

/// Is it a connection that netfilter translates?
#[inline(always)]
pub(crate) fn is_foreign<A: Family>(key: &Key<A>) -> bool {
    A::maps().foreign.get_ptr(key).is_some()
}

/// The backend of that id, zero where there is none.
#[inline(always)]
pub(crate) fn backend<A: Family>(id: BackendId) -> BackendRow<A> {
    // SAFETY: map memory stays mapped while the program runs; every bit pattern is a row.
    A::maps().backends.get_ptr(id.0).map_or_else(BackendRow::zeroed, |at| unsafe { **at })
}

/// Is a client in any of a service port's source ranges (C35)?
#[inline(always)]
pub(crate) fn in_ranges<A: Family>(service_port: u32, client: A) -> bool {
    let RangeKey { prefix_len, range } = RangeKey::of_client(service_port, client);
    A::maps().ranges.get(lpm_trie::Key::new(prefix_len, range)).is_some()
}

/// A network of the family, by its row.
#[inline(always)]
pub(crate) fn network<A: Family>(row: u32) -> Prefix<A> {
    // SAFETY: map memory stays mapped while the program runs; every bit pattern is a row, which changes only
    // with the cluster's networks.
    A::maps().networks.get_ptr(row).map_or_else(Prefix::zeroed, |at| unsafe { **at })
}

/// The backend id in a slot.
#[inline(always)]
pub(crate) fn slot(index: u32) -> Option<BackendId> {
    SLOTS.get(index).copied()
}

/// The backend a client last had.
#[inline(always)]
pub(crate) fn affinity<A: Family>(key: &Word<A, AffinityKey<A>>) -> Option<AffinityRow> {
    // SAFETY: copied at once. A row recycled under the reader names a backend of another service port, which
    // the caller finds out by the backend's owner.
    A::maps().affinity.get_ptr(key).map(|at| unsafe { *at })
}

/// Remembers the backend of a client.
#[inline(always)]
pub(crate) fn set_affinity<A: Family>(key: &Word<A, AffinityKey<A>>, row: &AffinityRow) {
    // An LRU takes every row; where it cannot, the client chooses anew next time.
    let _best_effort = A::maps().affinity.insert(key, row, BPF_ANY.into());
}

/// The ports of a fragmented datagram.
#[inline(always)]
pub(crate) fn fragment<A: Family>(key: &Word<A, FragmentKey<A>>) -> Option<FragmentRow> {
    // SAFETY: copied at once, four bytes.
    A::maps().fragments.get_ptr(key).map(|at| unsafe { *at })
}

/// Remembers the ports of a fragmented datagram.
#[inline(always)]
pub(crate) fn set_fragment<A: Family>(key: &Word<A, FragmentKey<A>>, row: &FragmentRow) {
    // An LRU takes every row; where it cannot, later fragments are left to the stack.
    let _best_effort = A::maps().fragments.insert(key, row, BPF_ANY.into());
}

/// The interface of that index, zero where there is none.
#[inline(always)]
pub(crate) fn interface(ifindex: u32) -> InterfaceRow {
    // SAFETY: copied at once; rows of interfaces change only with their addresses.
    INTERFACES.get_ptr(ifindex).map_or_else(InterfaceRow::zeroed, |at| unsafe { *at })
}

/// What holds for the node.
#[inline(always)]
pub(crate) fn config() -> Config {
    CONFIG.get(0).copied().unwrap_or_else(Config::zeroed)
}

/// Moves a verdict's counter.
#[inline(always)]
pub(crate) fn count(verdict: Verdict) {
    if let Some(counter) = VERDICTS.get_ptr_mut(verdict.index()) {
        // SAFETY: this CPU's own counter, and programs on it do not interrupt each other at one hook; map memory
        // stays mapped while the program runs.
        unsafe { *counter += 1 }
    }
}

/// Moves a verdict's counter, in a program that others may interrupt or preempt.
#[inline(always)]
pub(crate) fn count_preempted(verdict: Verdict) {
    if let Some(counter) = VERDICTS.get_ptr_mut(verdict.index()) {
        // SAFETY: map memory, which stays mapped while the program runs.
        unsafe { add_preempted(counter) }
    }
}

/// Adds one, in one instruction. The target knows no read-modify-write in Rust (it has no compare-and-swap), but the
/// machine has this one.
///
/// # Safety
/// `counter` is eight aligned bytes of map memory.
#[inline(always)]
unsafe fn add_preempted(counter: *mut u64) {
    #[cfg(target_arch = "bpf")]
    // SAFETY: the caller's.
    unsafe {
        core::arch::asm!("lock *(u64 *)({counter} + 0) += {one}", counter = in(reg) counter, one = in(reg) 1_u64);
    }
    #[cfg(not(target_arch = "bpf"))]
    let _only_checked_here = counter;
}
