//! The two tables of flows: half-open and settled.
//!
//! Decides where a flow's row is looked for, and how it is added and moved. Must not know when a flow settles or
//! ends. Invariant: a row is added where there is none, or replaced where there is one; never by chance.

use aya_ebpf::bindings::{BPF_EXIST, BPF_NOEXIST};
use lb_common::abi::{FlowEntry, FlowRow, Shortcut, Word};
use lb_common::address::{Address, V4, V6};
use lb_common::flow_state::SideState;
use lb_common::wire::Network;

use super::tagged::Tagged;
use super::{Family, Key, Missing, Row};

/// What the settled table keeps: [`FlowEntry`], each part on its boundary.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Stored<A: Address> {
    /// The flow's row.
    pub row: Row<A>,
    /// The flow's shortcut.
    pub shortcut: Word<A, Shortcut<A>>,
}

const _: () = assert!(size_of::<Stored<V4>>() == size_of::<FlowEntry<V4>>(), "nothing in between");
const _: () = assert!(size_of::<Stored<V6>>() == size_of::<FlowEntry<V6>>(), "nothing in between");

/// A settled flow with its shortcut: a copy that was consistent, and where it stands.
pub(crate) struct Entry<A: Family> {
    /// What it said.
    pub entry: Stored<A>,
    at: *mut Stored<A>,
}

impl<A: Family> Entry<A> {
    /// Writes the time the flow was last seen.
    #[inline(always)]
    pub(crate) fn touch(&self, now: u32) {
        // SAFETY: map memory stays mapped while the program runs. If the element was recycled in between,
        // another flow looks a little younger than it is.
        unsafe { (&raw mut (*self.at.cast::<FlowRow<A>>()).last_seen).write(now) }
    }

    /// Keeps the shortcut for the packets behind. Who reads it meanwhile finds it of no generation.
    #[inline(always)]
    pub(crate) fn remember(&self) {
        let mut shortcut = *self.entry.shortcut;
        let generation = shortcut.route_generation;
        shortcut.route_generation = !generation;
        // SAFETY: map memory stays mapped while the program runs. If the element was recycled in between, its new
        // flow has no shortcut of this kind: rows and shortcut are compared by nothing but the tag, so the
        // tag is looked at once more before.
        unsafe {
            if Tagged::tag(self.at.cast_const()) != self.entry.row.tag {
                return;
            }
            let at: *mut Shortcut<A> = (&raw mut (*self.at).shortcut).cast();
            at.write_volatile(shortcut);
            (&raw mut (*at).route_generation).write_volatile(generation);
        }
    }
}

impl<A: Network> Tagged for Stored<A> {
    #[inline(always)]
    unsafe fn tag(at: *const Self) -> u32 {
        // SAFETY: the caller's; the row comes first.
        unsafe { Tagged::tag(at.cast::<Row<A>>()) }
    }
}

/// A flow row: a copy that was consistent, and where it stands.
pub(crate) struct Flow<A: Family> {
    /// What it said.
    pub row: Row<A>,
    /// Where it said so.
    pub at: At<A>,
}

/// Where a flow row stands.
#[derive(Clone, Copy)]
pub(crate) struct At<A: Family>(*mut Row<A>);

impl<A: Family> At<A> {
    /// Writes the time the flow was last seen.
    #[inline(always)]
    pub(crate) fn touch(&self, now: u32) {
        // SAFETY: map memory stays mapped while the program runs. If the element was recycled in between,
        // another flow looks a little younger than it is.
        unsafe { (&raw mut (*self.0.cast::<FlowRow<A>>()).last_seen).write(now) }
    }

    /// Writes what this side has said.
    #[inline(always)]
    pub(crate) fn set_state(&self, state: u8) {
        // SAFETY: as above; a state that strays is put right by that flow's next packet.
        unsafe { (&raw mut (*self.0.cast::<FlowRow<A>>()).state).write(state) }
    }
}

/// Where a settled flow's row stands.
pub(crate) struct Place<A: Family> {
    at: *mut Row<A>,
    tag: u32,
}

impl<A: Family> Place<A> {
    /// The row's flow begins `now`, and its side has said so far what `state` says; `false` where the row is another's by now.
    #[inline(always)]
    pub(crate) fn begin_again(&self, now: u32, state: SideState) -> bool {
        // SAFETY: map memory stays mapped while the program runs. If the element is recycled right behind the look at its
        // tag, another flow looks younger than it is, and its next packet puts the state right.
        unsafe {
            if Tagged::tag(self.at.cast_const()) != self.tag {
                return false;
            }
            let at = self.at.cast::<FlowRow<A>>();
            (&raw mut (*at).since).write(now);
            (&raw mut (*at).last_seen).write(now);
            (&raw mut (*at).state).write(state.0);
        }
        true
    }
}

/// Copies the settled row of that key, and says where it stands.
#[inline(always)]
pub(crate) fn place<A: Family>(key: &Key<A>, row: &mut Row<A>) -> Option<Place<A>> {
    let at = A::maps().flows.get_ptr_mut(key)?.cast::<Row<A>>();
    let tag = key.tag();
    // SAFETY: map memory stays mapped while the program runs; every bit pattern is a row. As in `flow_row`.
    let same = unsafe {
        core::ptr::copy_nonoverlapping(at.cast_const(), row, 1);
        Tagged::tag(at.cast_const()) == tag
    };
    same.then_some(Place { at, tag })
}

/// Copies the row of that key, from either table; `false` where there is none.
#[inline(never)]
pub(crate) fn flow_row<A: Family>(key: &Key<A>, row: &mut Row<A>) -> bool {
    flow_at(key, row).is_some()
}

/// The same, and says where the row stands: to be used before anything is moved or removed.
#[inline(always)]
pub(crate) fn flow_at<A: Family>(key: &Key<A>, row: &mut Row<A>) -> Option<At<A>> {
    let tag = key.tag();
    for _ in 0..2 {
        let maps = A::maps();
        let settled = maps.flows.get_ptr_mut(key).map(<*mut Stored<A>>::cast::<Row<A>>);
        let at = settled.or_else(|| maps.embryonic.get_ptr_mut(key))?;
        // SAFETY: map memory stays mapped while the program runs; every bit pattern is a row. From map to scratch
        // memory directly: by way of a local it would be copied twice, and take room on the stack.
        unsafe { core::ptr::copy_nonoverlapping(at.cast_const(), row, 1) };
        // SAFETY: as above.
        if unsafe { Tagged::tag(at.cast_const()) } == tag {
            return Some(At(at));
        }
    }
    None
}

/// What the sender through that key's row has said; `None` where there is no row.
#[inline(always)]
pub(crate) fn state<A: Family>(key: &Key<A>) -> Option<SideState> {
    let settled = A::maps().flows.get_ptr(key).map(<*const Stored<A>>::cast::<Row<A>>);
    let at = settled.or_else(|| A::maps().embryonic.get_ptr(key))?;
    // SAFETY: map memory stays mapped while the program runs; a stray value only misjudges one packet.
    Some(SideState(unsafe { (*at.cast::<FlowRow<A>>()).state }))
}

/// Is there a half-open row of that key?
#[inline(always)]
pub(crate) fn is_embryonic<A: Family>(key: &Key<A>) -> bool {
    A::maps().embryonic.get_ptr(key).is_some()
}

/// Is there a settled row of that key?
#[inline(always)]
pub(crate) fn is_settled<A: Family>(key: &Key<A>) -> bool {
    A::maps().flows.get_ptr(key).is_some()
}

/// The flow of that key, once the other side has answered.
#[inline(always)]
pub(crate) fn settled<A: Family>(key: &Key<A>) -> Result<Flow<A>, Missing> {
    let row = || A::maps().flows.get_ptr_mut(key).map(<*mut Stored<A>>::cast::<Row<A>>);
    tagged!(row(), key).map(|(row, at)| Flow { row, at: At(at) })
}

/// The same, with its shortcut.
#[inline(always)]
pub(crate) fn settled_entry<A: Family>(key: &Key<A>) -> Result<Entry<A>, Missing> {
    // Before the lookup: behind it, the key would have to be read from memory again.
    let wanted = key.tag();
    let at = A::maps().flows.get_ptr_mut(key).ok_or(Missing::Absent)?;
    // SAFETY: map memory stays mapped while the program runs; every bit pattern is an entry.
    let (entry, tag) = unsafe { (*at, Tagged::tag(at.cast_const())) };
    // Once is enough: who finds nothing is served by the stack.
    if tag == wanted { Ok(Entry { entry, at }) } else { Err(Missing::Recycled) }
}

/// The flow of that key, before the other side has answered.
#[inline(always)]
pub(crate) fn embryonic<A: Family>(key: &Key<A>) -> Result<Flow<A>, Missing> {
    tagged!(A::maps().embryonic.get_ptr_mut(key), key).map(|(row, at)| Flow { row, at: At(at) })
}

/// The flow of that key in either table.
#[inline(always)]
pub(crate) fn flow<A: Family>(key: &Key<A>) -> Result<Flow<A>, Missing> {
    match settled(key) {
        Err(Missing::Absent) => embryonic(key),
        found => found,
    }
}

/// Adds a half-open flow row; `false` where the key has one.
#[inline(always)]
pub(crate) fn add_embryonic<A: Family>(key: &Key<A>, row: &Row<A>) -> bool {
    A::maps().embryonic.insert(key, row, BPF_NOEXIST.into()).is_ok()
}

/// Replaces a half-open flow row; `false` where the key has none.
#[inline(always)]
pub(crate) fn replace_embryonic<A: Family>(key: &Key<A>, row: &Row<A>) -> bool {
    A::maps().embryonic.insert(key, row, BPF_EXIST.into()).is_ok()
}

/// What became of a row that was to be settled.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Settled {
    /// It is in the table, by us or by another CPU.
    Yes,
    /// The table is full.
    Full,
    /// It is another flow's.
    Another,
}

/// Adds a settled flow row where there is none.
#[inline(always)]
pub(crate) fn settle<A: Family>(key: &Key<A>, row: &Stored<A>) -> Settled {
    const EEXIST: i32 = -17;
    match A::maps().flows.insert(key, row, BPF_NOEXIST.into()) {
        Ok(()) | Err(EEXIST) => Settled::Yes,
        Err(_) => Settled::Full,
    }
}

/// Removes a half-open flow row, if there is one.
#[inline(always)]
pub(crate) fn remove_embryonic<A: Family>(key: &Key<A>) {
    let _absent = A::maps().embryonic.remove(key);
}

/// Adds a settled flow row, without a shortcut; `false` where the key has one, or the table is full.
#[inline(always)]
pub(crate) fn add_settled<A: Family>(key: &Key<A>, row: &Row<A>) -> bool {
    write_settled(key, row, BPF_NOEXIST)
}

/// Replaces a settled flow row, shortcut and all; `false` where the key has none.
#[inline(always)]
pub(crate) fn replace_settled<A: Family>(key: &Key<A>, row: &Row<A>) -> bool {
    write_settled(key, row, BPF_EXIST)
}

#[inline(always)]
fn write_settled<A: Family>(key: &Key<A>, row: &Row<A>, how: u32) -> bool {
    let Some(moved) = super::moved::<A>() else { return false };
    moved.row = *row;
    A::maps().flows.insert(key, moved, how.into()).is_ok()
}

/// Removes a settled flow row; `false` where there is none.
#[inline(always)]
pub(crate) fn remove_settled<A: Family>(key: &Key<A>) -> bool {
    A::maps().flows.remove(key).is_ok()
}
