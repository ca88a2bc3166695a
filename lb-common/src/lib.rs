//! The contract between kernel and user space.
//!
//! Decides the layout of every BPF map, how headers are read, how a flow's tuple is turned round
//! and how a checksum follows a change. Must not know maps' implementations, Kubernetes, or I/O.
//! Invariant: everything here is pure, total and `no_std`; the two sides agree because they
//! compile the same file, and `abi.txt` shows when a layout moves.

#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]
#![cfg_attr(
    not(test),
    deny(clippy::indexing_slicing, clippy::unwrap_used, clippy::expect_used, clippy::panic)
)]

pub mod abi;
pub mod address;
pub mod crc32c;
pub mod csum;
pub mod flow_state;
pub mod maglev;
pub mod wire;
