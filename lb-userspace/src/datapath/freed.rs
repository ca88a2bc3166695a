//! Memory that was freed, given back to the kernel.
//!
//! Decides nothing but how. Must not know who freed it. Invariant: what is in use stays as it is.
//!
//! Parsing the eBPF object and the kernel's types takes some 25 MB for a moment, a full list of a large cluster
//! more. The allocator keeps what is freed, in case it is wanted again, which it is not.

/// Gives back all whole pages that nobody uses. Takes milliseconds where there is much to look through.
pub fn give_back() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: malloc_trim(3) takes no pointer, locks the allocator itself and touches free memory alone.
    let _released_any = unsafe { libc::malloc_trim(0) };
}
