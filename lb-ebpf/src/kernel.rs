//! The kernel's helpers that touch neither packet nor map, as safe functions.
//!
//! Decides nothing. Must not know what an answer is for. Invariant: pointers given to the kernel are made here,
//! from values, with those values' sizes.

use core::ffi::c_void;

use aya_ebpf::helpers::generated::{bpf_csum_diff, bpf_loop};
use aya_ebpf::helpers::{bpf_get_prandom_u32, bpf_jiffies64, bpf_redirect};
use bytemuck::Pod;

/// The clock, low 32 bits, in ticks.
#[inline(always)]
pub(crate) fn ticks() -> u32 {
    // SAFETY: a helper without arguments; the JIT inlines it.
    unsafe { bpf_jiffies64() as u32 }
}

/// Any number.
#[inline(always)]
pub(crate) fn random() -> u32 {
    // SAFETY: a helper without arguments.
    unsafe { bpf_get_prandom_u32() }
}

/// A `number` brought below `bound`, every result as likely but for one part in 2^32 / `bound`: a multiplication
/// where a remainder would need a division.
#[inline(always)]
pub(crate) fn below(number: u32, bound: u32) -> u32 {
    ((u64::from(number) * u64::from(bound)) >> 32) as u32
}

/// What a repeated step says.
#[repr(i64)]
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Repeat {
    /// Once more.
    GoOn = 0,
    /// Enough.
    Stop = 1,
}

/// Takes a step for 0, 1, ... `times` - 1, until it says to stop. The verifier looks at the step alone, not at each of
/// its repetitions (`bpf_loop`, kernel 5.17, commit e6f2dd0f8067).
#[inline(always)]
pub(crate) fn repeat<C>(times: u32, context: &mut C, step: extern "C" fn(u32, &mut C) -> Repeat) {
    // SAFETY: the kernel calls `step`, whose parameters are those of a callback, with `context` and nothing else.
    unsafe { bpf_loop(times, step as *mut c_void, core::ptr::from_mut(context).cast(), 0) };
}

/// Sends the packet out of an interface once the program ends; returns the hook's action.
#[inline(always)]
pub(crate) fn redirect(ifindex: u32) -> i32 {
    // SAFETY: a helper without pointers.
    unsafe { bpf_redirect(ifindex, 0) as i32 }
}

/// The running checksum over a value of a size that is a multiple of four, on top of `start`.
#[inline(always)]
pub(crate) fn checksum<T: Pod>(mut value: T, start: u32) -> u32 {
    let size = size_of::<T>() as u32;
    // SAFETY: the helper reads exactly the bytes of `value`.
    unsafe { bpf_csum_diff(core::ptr::null_mut(), 0, (&raw mut value).cast(), size, start) as u32 }
}
