//! The system calls that aya has not: batches of map elements, maps opened by their pin alone, links on cgroups.
//!
//! Decides how a value becomes pointer and length. Must not know what keys and values mean. Invariant:
//! the lengths given to the kernel are those of the values it gets.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use aya_obj::generated::{bpf_attr, bpf_cmd, bpf_link_info, bpf_prog_type};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

/// How many entries a batch call treats; a hash bucket longer than this would end a walk with ENOSPC.
pub(super) const BATCH: usize = 4_096;

/// The kernel's place in a walk; long enough for every kind of map (hash and array use four bytes).
pub(super) type Cursor = [u8; 64];

fn bpf(command: bpf_cmd, attr: &mut bpf_attr) -> io::Result<libc::c_long> {
    // SAFETY: `attr` is a whole, initialised bpf_attr, and each caller below made the pointers in it from values that
    // outlive the call and are as long as it says; for maps, as the map's sizes, which `Table` checked, times the count.
    let result = unsafe {
        libc::syscall(libc::SYS_bpf, command as libc::c_long, std::ptr::from_mut(attr), size_of::<bpf_attr>())
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
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

/// BPF_MAP_UPDATE_ELEM; with `only_new` it is `EEXIST` where there is a row already (an array has all of its rows).
pub(super) fn update(fd: BorrowedFd<'_>, key: &[u8], value: &[u8], only_new: bool) -> io::Result<()> {
    const BPF_ANY: u64 = 0;
    const BPF_NOEXIST: u64 = 1;
    let flags = if only_new { BPF_NOEXIST } else { BPF_ANY };
    bpf(bpf_cmd::BPF_MAP_UPDATE_ELEM, &mut element(fd, key, value.as_ptr() as u64, flags)).map(drop)
}

/// BPF_MAP_DELETE_ELEM; `false` where there is no such key.
pub(super) fn delete(fd: BorrowedFd<'_>, key: &[u8]) -> io::Result<bool> {
    found(bpf(bpf_cmd::BPF_MAP_DELETE_ELEM, &mut element(fd, key, 0, 0)))
}

fn found(result: io::Result<libc::c_long>) -> io::Result<bool> {
    match result {
        Ok(_) => Ok(true),
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
    let result = bpf(bpf_cmd::BPF_MAP_UPDATE_BATCH, &mut attr).map(drop);
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

/// BPF_OBJ_GET: what is pinned at `path`.
pub(super) fn open_pin(path: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut attr = zeroed();
    attr.__bindgen_anon_4.pathname = path.as_ptr() as u64;
    let fd = bpf(bpf_cmd::BPF_OBJ_GET, &mut attr)?;
    // SAFETY: the kernel gave it to us, and to nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(fd.try_into().map_err(io::Error::other)?) })
}

/// BPF_LINK_UPDATE: puts another program into a link, at once.
pub(super) fn update_link(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    let mut attr = zeroed();
    // SAFETY: writing a union's plain fields.
    let update = unsafe { &mut attr.link_update };
    update.link_fd = link.as_raw_fd().cast_unsigned();
    update.__bindgen_anon_1.new_prog_fd = program.as_raw_fd().cast_unsigned();
    bpf(bpf_cmd::BPF_LINK_UPDATE, &mut attr).map(drop)
}

/// BPF_OBJ_GET_INFO_BY_FD of a link.
fn link_info(link: BorrowedFd<'_>) -> io::Result<bpf_link_info> {
    // SAFETY: bpf_link_info is plain integers, for which zero is a value.
    let mut info: bpf_link_info = unsafe { std::mem::zeroed() };
    let mut attr = zeroed();
    attr.info.bpf_fd = link.as_raw_fd().cast_unsigned();
    attr.info.info_len = u32::try_from(size_of::<bpf_link_info>()).map_err(io::Error::other)?;
    attr.info.info = std::ptr::from_mut(&mut info) as u64;
    bpf(bpf_cmd::BPF_OBJ_GET_INFO_BY_FD, &mut attr)?;
    Ok(info)
}

/// Of a link on a cgroup: the cgroup's number, its folder's inode; 0: it is gone.
pub(super) fn cgroup_of_link(link: BorrowedFd<'_>) -> io::Result<u64> {
    // SAFETY: reading a plain field that the kernel wrote, the link being on a cgroup.
    Ok(unsafe { link_info(link)?.__bindgen_anon_1.cgroup.cgroup_id })
}

/// Of a link at a tcx or XDP hook: its interface's index; 0: it was taken off, or the interface is gone.
pub(super) fn interface_of_link(link: BorrowedFd<'_>) -> io::Result<u32> {
    // SAFETY: reading a plain field that the kernel wrote, the link being at such a hook: for both kinds the index is
    // the first field.
    Ok(unsafe { link_info(link)?.__bindgen_anon_1.xdp.ifindex })
}

/// The id of a link's program.
pub(super) fn program_of_link(link: BorrowedFd<'_>) -> io::Result<u32> {
    Ok(link_info(link)?.prog_id)
}

/// What programs can hang on, for [`query`].
pub(super) enum Target<'a> {
    /// An interface, by index.
    Interface(u32),
    /// A cgroup's folder.
    Cgroup(BorrowedFd<'a>),
}

/// BPF_PROG_QUERY: the ids of the programs that hang there, at most 64 of them.
pub(super) fn query(target: &Target<'_>, attach_type: u32) -> io::Result<Vec<u32>> {
    let mut ids = [0_u32; 64];
    let mut attr = zeroed();
    // SAFETY: writing a union's plain fields.
    let query = unsafe { &mut attr.query };
    match target {
        Target::Interface(index) => query.__bindgen_anon_1.target_ifindex = *index,
        Target::Cgroup(folder) => query.__bindgen_anon_1.target_fd = folder.as_raw_fd().cast_unsigned(),
    }
    query.attach_type = attach_type;
    query.prog_ids = ids.as_mut_ptr() as u64;
    query.__bindgen_anon_2.prog_cnt = u32::try_from(ids.len()).map_err(io::Error::other)?;
    bpf(bpf_cmd::BPF_PROG_QUERY, &mut attr)?;
    // SAFETY: reading a plain field that the kernel wrote.
    let count = unsafe { attr.query.__bindgen_anon_2.prog_cnt } as usize;
    Ok(ids.into_iter().take(count).collect())
}

/// SO_NETNS_COOKIE of a fresh socket: the number of the caller's network namespace (socket(7)).
pub(super) fn netns_cookie() -> io::Result<u64> {
    const SO_NETNS_COOKIE: libc::c_int = 71;
    let socket = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    let mut cookie = 0_u64;
    let mut len = libc::socklen_t::try_from(size_of::<u64>()).map_err(io::Error::other)?;
    // SAFETY: the kernel writes at most `len` bytes to `cookie`, any of which are a number.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut len,
        )
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(cookie) }
}

/// BPF_PROG_LOAD of a classifier, given as instructions of eight bytes.
pub(super) fn load_classifier(code: &[u8]) -> io::Result<OwnedFd> {
    let mut attr = zeroed();
    // SAFETY: writing a union's plain fields.
    let load = unsafe { &mut attr.__bindgen_anon_3 };
    load.prog_type = bpf_prog_type::BPF_PROG_TYPE_SCHED_CLS as u32;
    load.insns = code.as_ptr() as u64;
    load.insn_cnt = u32::try_from(code.len() / 8).map_err(io::Error::other)?;
    load.license = c"GPL".as_ptr() as u64;
    let fd = bpf(bpf_cmd::BPF_PROG_LOAD, &mut attr)?;
    // SAFETY: the kernel gave it to us, and to nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(fd.try_into().map_err(io::Error::other)?) })
}

/// BPF_PROG_TEST_RUN on a packet: what the program returned.
pub(super) fn test_run(program: BorrowedFd<'_>, packet: &[u8]) -> io::Result<u32> {
    let mut attr = zeroed();
    // SAFETY: writing a union's plain fields.
    let test = unsafe { &mut attr.test };
    test.prog_fd = program.as_raw_fd().cast_unsigned();
    test.data_in = packet.as_ptr() as u64;
    test.data_size_in = u32::try_from(packet.len()).map_err(io::Error::other)?;
    bpf(bpf_cmd::BPF_PROG_TEST_RUN, &mut attr)?;
    // SAFETY: reading a plain field that the kernel wrote.
    Ok(unsafe { attr.test.retval })
}
