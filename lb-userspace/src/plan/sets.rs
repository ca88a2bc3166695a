//! How a backend set lies in slots.
//!
//! Decides between a plain list, one slot for each backend, and a Maglev table (contract C29), which every node with
//! the same backends fills alike. Must not know which slots are free. Invariant: what stands in the slots is a
//! function of the members and the layout.

use std::net::SocketAddr;

use lb_common::abi::BackendId;
use lb_common::maglev;

/// What a backend weighs; nothing gives it another weight yet.
const WEIGHT: u32 = 1;

/// A backend of a set.
pub(super) type Member = (SocketAddr, BackendId);

/// Who is in a set, and how many slots it has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Layout {
    /// Sorted by address.
    members: Vec<BackendId>,
    /// As many as members: a list; more: a Maglev table.
    pub(super) slots: u32,
}

impl Layout {
    /// The layouts of a set, the best first. A table that does not fit leaves the list: it gives a flow the same
    /// backend on every node too, and moves more flows when the set changes.
    pub(super) fn of(members: &[Member], spreads: bool, at_most: u32) -> impl Iterator<Item = Self> + use<> {
        let ids: Vec<BackendId> = members.iter().map(|(_, id)| *id).collect();
        let count = u32::try_from(ids.len()).unwrap_or(u32::MAX);
        let table =
            spreads.then(|| maglev::table_len(count, at_most)).flatten().filter(|slots| *slots > count);
        table.into_iter().chain([count]).map(move |slots| Self { members: ids.clone(), slots })
    }

    /// Has it more slots than it needs?
    pub(super) fn is_table(&self) -> bool {
        self.slots as usize > self.members.len()
    }

    /// What stands in its slots.
    pub(super) fn contents(&self, members: &[Member]) -> Vec<BackendId> {
        if !self.is_table() {
            return self.members.clone();
        }
        let seed = |addr: &SocketAddr| maglev::seed(addr.ip(), addr.port());
        let mut turns: Vec<maglev::Member> =
            members.iter().map(|(addr, _)| maglev::Member::new(seed(addr), WEIGHT)).collect();
        let mut slots = vec![maglev::NOBODY; self.slots as usize];
        maglev::build(&mut turns, &mut slots);
        slots.into_iter().filter_map(|index| self.members.get(index as usize).copied()).collect()
    }
}
