//! Room for rows that the stack has not.
//!
//! Decides which parts there are. Must not know what is kept in them. Invariant: each part has one user at a time,
//! since programs run with bottom halves off, to their end, and each function asks for its own part once.

use lb_common::wire::{Network, Segment};

use super::{Family, Key, Row, Stored};
use crate::service::Choice;

/// Room that the stack has not; each part for one function at a time.
#[repr(C)]
pub(crate) struct Scratch<A: Network> {
    work: Work<A>,
    reply: Entry<A>,
    out: Entry<A>,
    holder: Row<A>,
    moved: Stored<A>,
}

/// The packet at hand, for the slow paths.
#[repr(C)]
pub(crate) struct Work<A: Network> {
    /// Where its network header begins.
    l3: usize,
    /// What was read of it.
    pub(crate) segment: Segment<A>,
    /// Its key.
    pub(crate) key: Key<A>,
    /// Its row.
    pub(crate) row: Row<A>,
    /// Where it goes, if it is new.
    pub(crate) choice: Choice<A>,
}

impl<A: Network> Work<A> {
    /// Keeps where the network header begins, and reads it back as the verifier has it then: some number.
    #[inline(always)]
    pub(crate) fn at(&mut self, l3: usize) -> usize {
        // SAFETY: a field of this very structure. Volatile, or the compiler would use the number it knows.
        unsafe {
            (&raw mut self.l3).write_volatile(l3);
            (&raw const self.l3).read_volatile() & Self::L3_MASK
        }
    }

    /// No network header begins further in.
    const L3_MASK: usize = 0x1f;
}

/// A flow row with its key, while it is made.
type Entry<A> = (Key<A>, Row<A>);

macro_rules! room {
    ($(#[$doc:meta])* $name:ident: $room:ident) => {
        $(#[$doc])*
        #[inline(always)]
        pub(crate) fn $name<A: Family>() -> Option<&'static mut $room<A>> {
            // SAFETY: programs run with bottom halves off, to their end, so this CPU's room has one user; the parts do not
            // overlap, and each function asks for its own once. Map memory stays mapped while the program runs, and every
            // bit pattern that gets read was written as a value before.
            A::maps().scratch.get_ptr_mut(0).map(|at| unsafe { &mut *(&raw mut (*at).$name) })
        }
    };
}

room! {
    /// For `slow`.
    work: Work
}
room! {
    /// For whoever makes a row that translates replies: 4 or 3.
    reply: Entry
}
room! {
    /// For whoever makes row 2.
    out: Entry
}
room! {
    /// For whoever looks at another flow's row.
    holder: Row
}
room! {
    /// For whoever settles a row. Its shortcut is never written, so it is none.
    moved: Stored
}
