//! What sockets were translated to, and from.
//!
//! Decides how a row is copied, added and removed. Must not know when. Invariant: a copy that is handed out was its
//! key's when it was made.

use aya_ebpf::bindings::BPF_ANY;
use lb_common::abi::{SocketKey, SocketRow, Word};

use super::{Family, Missing};

/// A socket's row: a copy that was consistent, and where it stands.
pub(crate) struct Translation<A: Family> {
    /// What it said.
    pub row: Word<A, SocketRow<A>>,
    at: *mut Word<A, SocketRow<A>>,
}

impl<A: Family> Translation<A> {
    /// Writes the time the row was last used.
    #[inline(always)]
    pub(crate) fn touch(&self, now: u32) {
        // SAFETY: map memory stays mapped while the program runs. If the element was recycled in between, another
        // socket's row looks a little younger than it is.
        unsafe { (&raw mut (*self.at.cast::<SocketRow<A>>()).last_used).write(now) }
    }
}

/// What a socket's peer was translated to, or from.
#[inline(always)]
pub(crate) fn translation<A: Family>(key: &Word<A, SocketKey<A>>) -> Result<Translation<A>, Missing> {
    tagged!(A::maps().sockets.get_ptr_mut(key), key).map(|(row, at)| Translation { row, at })
}

/// Remembers it; `false` where the table takes no row.
#[inline(always)]
pub(crate) fn translate<A: Family>(key: &Word<A, SocketKey<A>>, row: &Word<A, SocketRow<A>>) -> bool {
    A::maps().sockets.insert(key, row, BPF_ANY.into()).is_ok()
}

/// Forgets it.
#[inline(always)]
pub(crate) fn forget_translation<A: Family>(key: &Word<A, SocketKey<A>>) {
    let _absent = A::maps().sockets.remove(key);
}
