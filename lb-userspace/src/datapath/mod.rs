//! The maps and programs: in the kernel, or in memory.
//!
//! The only room that knows aya and bpf(2), and where `unsafe` stands in user space. Must not
//! know why a row is what it is. Invariant: what is pinned works on when this process does not.

pub mod attach;
pub mod attach_xdp;
pub mod census;
pub mod cgroup;
pub mod clock;
mod compare;
pub mod counters;
pub mod fake;
pub mod faulty;
pub mod freed;
pub mod hooks;
pub mod kernel;
pub mod lighter;
pub mod object;
pub mod pins;
pub mod probe;
mod raw;
pub mod strangers;
pub mod succession;
mod syscall;
pub mod table;
