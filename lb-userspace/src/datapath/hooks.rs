//! Which programs hang on interfaces and cgroups, ours and others'.
//!
//! Decides which hooks are looked at: those that ours use. Must not judge what it finds. Invariant: reads only.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::os::fd::AsFd as _;
use std::path::Path;

use anyhow::Context as _;
use aya::programs::loaded_programs;
use aya_obj::generated::bpf_attach_type;

use super::pins::Pins;
use super::syscall::{self, Target};

/// The names of our programs, as the kernel has them.
pub const OURS: [&str; 15] = [
    "pod_ingress",
    "pod_egress",
    "net_ingress",
    "net_egress",
    "bare_ingress",
    "bare_egress",
    "net_xdp",
    "connect4",
    "connect6",
    "sendmsg4",
    "sendmsg6",
    "recvmsg4",
    "recvmsg6",
    "getpeername4",
    "getpeername6",
];

const TCX: [(&str, bpf_attach_type); 2] =
    [("tcx ingress", bpf_attach_type::BPF_TCX_INGRESS), ("tcx egress", bpf_attach_type::BPF_TCX_EGRESS)];

const CGROUP: [(&str, bpf_attach_type); 8] = [
    ("connect4", bpf_attach_type::BPF_CGROUP_INET4_CONNECT),
    ("connect6", bpf_attach_type::BPF_CGROUP_INET6_CONNECT),
    ("sendmsg4", bpf_attach_type::BPF_CGROUP_UDP4_SENDMSG),
    ("sendmsg6", bpf_attach_type::BPF_CGROUP_UDP6_SENDMSG),
    ("recvmsg4", bpf_attach_type::BPF_CGROUP_UDP4_RECVMSG),
    ("recvmsg6", bpf_attach_type::BPF_CGROUP_UDP6_RECVMSG),
    ("getpeername4", bpf_attach_type::BPF_CGROUP_INET4_GETPEERNAME),
    ("getpeername6", bpf_attach_type::BPF_CGROUP_INET6_GETPEERNAME),
];

/// Program ids by hook.
pub type Ids = Vec<(&'static str, u32)>;

/// The programs at an interface's tcx hooks.
///
/// # Errors
/// Without CAP_NET_ADMIN, and on kernels without tcx (it came with 6.6).
pub fn on_interface(index: u32) -> anyhow::Result<Ids> {
    asked(&TCX, &Target::Interface(index)).with_context(|| format!("asking what hangs on interface {index}"))
}

/// The programs for sockets on a cgroup.
///
/// # Errors
/// Without CAP_NET_ADMIN, and where there is no such cgroup.
pub fn on_cgroup(path: &Path) -> anyhow::Result<Ids> {
    let doing = || format!("asking what hangs on the cgroup {}", path.display());
    let cgroup = File::open(path).with_context(doing)?;
    asked(&CGROUP, &Target::Cgroup(cgroup.as_fd())).with_context(doing)
}

fn asked(hooks: &[(&'static str, bpf_attach_type)], target: &Target<'_>) -> std::io::Result<Ids> {
    let mut found = Ids::new();
    for (hook, attach_type) in hooks {
        let ids = syscall::query(target, *attach_type as u32)?;
        found.extend(ids.into_iter().map(|id| (*hook, id)));
    }
    Ok(found)
}

/// The ids of the programs in the links that an agent has pinned.
///
/// # Errors
/// Where the folder or a link cannot be read.
pub fn pinned(pins: &Pins) -> anyhow::Result<BTreeSet<u32>> {
    let folder = pins.links();
    let doing = || format!("reading the links at {}", folder.display());
    let mut ids = BTreeSet::new();
    for entry in std::fs::read_dir(&folder).with_context(doing)? {
        let link = syscall::open_pin(&entry.with_context(doing)?.path()).with_context(doing)?;
        ids.insert(syscall::program_of_link(link.as_fd()).with_context(doing)?);
    }
    Ok(ids)
}

/// The names of all programs in the kernel, by id.
///
/// # Errors
/// Without CAP_SYS_ADMIN.
pub fn names() -> anyhow::Result<BTreeMap<u32, String>> {
    let named = loaded_programs().map(|program| {
        let program = program?;
        Ok((program.id(), program.name_as_str().unwrap_or_default().to_owned()))
    });
    named.collect::<Result<_, aya::programs::ProgramError>>().context("listing the kernel's programs")
}
