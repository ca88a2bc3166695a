//! Rows that say whose they are.
//!
//! Decides how a row is copied so that it is its key's: copy, compare the tag, look once more. Must not know
//! which maps there are. Invariant: a copy that is handed out had its key's tag after it was made.

use lb_common::abi::{FrontendRow, SocketRow, Word};
use lb_common::wire::Network;

use super::Row;

/// Keeps the compiler from loading behind this what it was told to load before: a copy is made once, and then the tag is
/// looked at.
#[inline(always)]
fn in_this_order() {
    #[cfg(target_arch = "bpf")]
    // SAFETY: no instruction at all.
    unsafe {
        core::arch::asm!("");
    }
}

/// A row that says whose it is.
pub(super) trait Tagged {
    /// Reads the tag again, from the map.
    ///
    /// # Safety
    /// `at` points into a map.
    unsafe fn tag(at: *const Self) -> u32;
}

impl<A: Network> Tagged for Row<A> {
    #[inline(always)]
    unsafe fn tag(at: *const Self) -> u32 {
        in_this_order();
        // SAFETY: the caller's; the tag is the row's first word.
        unsafe { at.cast::<u32>().read_volatile() }
    }
}

impl<A: Network> Tagged for Word<A, SocketRow<A>> {
    #[inline(always)]
    unsafe fn tag(at: *const Self) -> u32 {
        in_this_order();
        // SAFETY: the caller's; the tag is the row's first word.
        unsafe { at.cast::<u32>().read_volatile() }
    }
}

impl Tagged for FrontendRow {
    #[inline(always)]
    unsafe fn tag(at: *const Self) -> u32 {
        in_this_order();
        // SAFETY: the caller's.
        unsafe { (&raw const (*at).tag).read_volatile() }
    }
}

macro_rules! tagged {
    ($lookup:expr, $key:expr) => {{
        let mut found = Err($crate::maps::Missing::Absent);
        for _ in 0..2 {
            let Some(at) = $lookup else {
                found = Err($crate::maps::Missing::Absent);
                break;
            };
            // SAFETY: map memory stays mapped while the program runs; every bit pattern is a row.
            let row = unsafe { *at };
            // SAFETY: as above. Volatile: the tag is to be read after the row.
            let tag = unsafe { $crate::maps::tagged::Tagged::tag(at.cast_const()) };
            if tag == $key.tag() {
                found = Ok((row, at));
                break;
            }
            found = Err($crate::maps::Missing::Recycled);
        }
        found
    }};
}
