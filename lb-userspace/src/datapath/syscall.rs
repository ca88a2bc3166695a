//! The bpf(2) calls on maps that aya has not: batches, and maps opened by their pin alone.
//!
//! Decides how a slice becomes pointer and length. Must not know what keys and values mean. Invariant:
//! the lengths given to the kernel are those of the slices it gets.

use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd};

use aya_obj::generated::{bpf_attr, bpf_cmd};

/// How many entries a batch call treats; a hash bucket longer than this would end a walk with ENOSPC.
pub(super) const BATCH: usize = 4_096;

/// The kernel's place in a walk; long enough for every kind of map (hash and array use four bytes).
pub(super) type Cursor = [u8; 64];

fn bpf(command: bpf_cmd, attr: &mut bpf_attr) -> io::Result<()> {
    // SAFETY: `attr` is a whole, initialised bpf_attr, and each caller below made the pointers in it from slices that
    // outlive the call and are as long as the map's sizes, which `Table` checked, times the count.
    let result = unsafe {
        libc::syscall(libc::SYS_bpf, command as libc::c_long, std::ptr::from_mut(attr), size_of::<bpf_attr>())
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn zeroed() -> bpf_attr {
    // SAFETY: bpf_attr is a union of plain integers, for which zero is a value.
    unsafe { std::mem::zeroed() }
}

fn element(fd: BorrowedFd<'_>, key: &[u8], value: u64, flags: u64) -> bpf_attr {
    let mut attr = zeroed();
    // SAFETY: writing a union's plain fields.
    let element = unsafe { &mut attr.__bindgen_anon_2 };
    element.map_fd = fd.as_raw_fd().cast_unsigned();
    element.key = key.as_ptr() as u64;
    element.__bindgen_anon_1.value = value;
    element.flags = flags;
    attr
}

/// BPF_MAP_LOOKUP_ELEM; `false` where there is no such key.
pub(super) fn lookup(fd: BorrowedFd<'_>, key: &[u8], value: &mut [u8]) -> io::Result<bool> {
    let mut attr = element(fd, key, value.as_mut_ptr() as u64, 0);
    found(bpf(bpf_cmd::BPF_MAP_LOOKUP_ELEM, &mut attr))
}

/// BPF_MAP_UPDATE_ELEM.
pub(super) fn update(fd: BorrowedFd<'_>, key: &[u8], value: &[u8]) -> io::Result<()> {
    bpf(bpf_cmd::BPF_MAP_UPDATE_ELEM, &mut element(fd, key, value.as_ptr() as u64, 0))
}

/// BPF_MAP_DELETE_ELEM; `false` where there is no such key.
pub(super) fn delete(fd: BorrowedFd<'_>, key: &[u8]) -> io::Result<bool> {
    found(bpf(bpf_cmd::BPF_MAP_DELETE_ELEM, &mut element(fd, key, 0, 0)))
}

fn found(result: io::Result<()>) -> io::Result<bool> {
    match result {
        Ok(()) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(false),
        Err(error) => Err(error),
    }
}

/// BPF_MAP_UPDATE_BATCH of `count` entries; returns how many were written, and why no more.
pub(super) fn update_batch(
    fd: BorrowedFd<'_>,
    keys: &[u8],
    values: &[u8],
    count: u32,
) -> (usize, io::Result<()>) {
    let mut attr = zeroed();
    // SAFETY: writing a union's plain fields.
    let batch = unsafe { &mut attr.batch };
    batch.map_fd = fd.as_raw_fd().cast_unsigned();
    batch.keys = keys.as_ptr() as u64;
    batch.values = values.as_ptr() as u64;
    batch.count = count;
    let result = bpf(bpf_cmd::BPF_MAP_UPDATE_BATCH, &mut attr);
    // SAFETY: reading a plain field that the kernel wrote.
    let done = unsafe { attr.batch.count } as usize;
    (if result.is_ok() { count as usize } else { done.min(count as usize) }, result)
}

/// One step of a walk.
pub(super) struct Step {
    /// Entries read.
    pub(super) count: usize,
    /// Is that the end?
    pub(super) last: bool,
}

/// BPF_MAP_LOOKUP_BATCH from `cursor` (`None`: from the beginning), which it moves on.
pub(super) fn lookup_batch(
    fd: BorrowedFd<'_>,
    from: Option<&Cursor>,
    next: &mut Cursor,
    keys: &mut [u8],
    values: &mut [u8],
    count: u32,
) -> io::Result<Step> {
    let mut attr = zeroed();
    // SAFETY: writing a union's plain fields.
    let batch = unsafe { &mut attr.batch };
    batch.map_fd = fd.as_raw_fd().cast_unsigned();
    batch.in_batch = from.map_or(0, |cursor| cursor.as_ptr() as u64);
    batch.out_batch = next.as_mut_ptr() as u64;
    batch.keys = keys.as_mut_ptr() as u64;
    batch.values = values.as_mut_ptr() as u64;
    batch.count = count;
    // At the end the kernel says ENOENT, and the last entries count all the same.
    let last = !found(bpf(bpf_cmd::BPF_MAP_LOOKUP_BATCH, &mut attr))?;
    // SAFETY: reading a plain field that the kernel wrote.
    let count = unsafe { attr.batch.count } as usize;
    Ok(Step { count, last })
}
