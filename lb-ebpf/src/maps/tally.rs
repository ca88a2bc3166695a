//! What service ports and backends have carried.
//!
//! Decides which counters move. Must not know when. Invariant: an id beyond a table's size is not counted, and nothing
//! else changes by that.

use aya_ebpf::macros::map;
use aya_ebpf::maps::PerCpuArray;
use lb_common::abi::{self, BackendCounters, BackendId, ServiceCounters};

use super::add_preempted;

#[map]
static SERVICE_COUNTERS: PerCpuArray<ServiceCounters> =
    PerCpuArray::with_max_entries(abi::SERVICE_COUNTERS.default_rows, 0);
#[map]
static BACKEND_COUNTERS: PerCpuArray<BackendCounters> =
    PerCpuArray::with_max_entries(abi::BACKEND_COUNTERS.default_rows, 0);

/// A packet on its way to a backend, of `len` bytes.
#[inline(always)]
pub(crate) fn count_packet(service_port: u32, len: usize) {
    if let Some(at) = SERVICE_COUNTERS.get_ptr_mut(service_port) {
        // SAFETY: this CPU's own, as `count`.
        unsafe {
            (*at).packets += 1;
            (*at).bytes += len as u64;
        }
    }
}

/// A packet on its way back, of `len` bytes.
#[inline(always)]
pub(crate) fn count_reply(service_port: u32, len: usize) {
    if let Some(at) = SERVICE_COUNTERS.get_ptr_mut(service_port) {
        // SAFETY: this CPU's own, as `count`.
        unsafe {
            (*at).reply_packets += 1;
            (*at).reply_bytes += len as u64;
        }
    }
}

/// A backend was chosen. In one instruction each, since sockets' programs come here too.
#[inline(always)]
pub(crate) fn count_connection(service_port: u32, backend: BackendId) {
    if let Some(at) = SERVICE_COUNTERS.get_ptr_mut(service_port) {
        // SAFETY: map memory, which stays mapped while the program runs; the connections come first.
        unsafe { add_preempted(at.cast::<u64>()) }
    }
    if let Some(at) = BACKEND_COUNTERS.get_ptr_mut(backend.0) {
        // SAFETY: as above.
        unsafe { add_preempted(at.cast::<u64>()) }
    }
}

const _: () = assert!(core::mem::offset_of!(ServiceCounters, connections) == 0, "the connections come first");
