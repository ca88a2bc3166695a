//! What this kernel can do, by trying it.
//!
//! Decides how each thing is tried, so that nothing of it stays: programs that are loaded and let go, maps without pins,
//! hooks that are asked for and not hung on. Must not know what a feature is for. Invariant: `false` is the kernel's own
//! no; where it could not be asked, that is an error.

use std::os::fd::{AsFd as _, OwnedFd};

use anyhow::{Context as _, bail};
use aya::Ebpf;
use aya::maps::{Map, MapData};
use aya::programs::{ProgramError, ProgramType, tc};
use aya::sys::{BpfHelper, is_helper_supported, is_program_supported};
use lb_common::abi::{self, MAPS, MapName};

use super::cgroup;
use super::object::{self, Sizes};
use super::syscall::{self, Cursor, Target};

pub use aya_obj::generated::bpf_func_id as Helper;

/// A sort of program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sort {
    /// At a traffic-control hook.
    Classifier,
    /// Before the stack.
    Xdp,
    /// At a socket's system calls.
    Socket,
}

impl Sort {
    fn of_aya(self) -> ProgramType {
        match self {
            Self::Classifier => ProgramType::SchedClassifier,
            Self::Xdp => ProgramType::Xdp,
            Self::Socket => ProgramType::CgroupSockAddr,
        }
    }
}

/// Does the kernel have that sort of program?
///
/// # Errors
/// Without CAP_BPF.
pub fn has_sort(sort: Sort) -> anyhow::Result<bool> {
    is_program_supported(sort.of_aya()).context("loading a program of one instruction")
}

/// Does the kernel have that helper for that sort of program?
///
/// # Errors
/// Without CAP_BPF.
pub fn has_helper(sort: Sort, helper: Helper) -> anyhow::Result<bool> {
    let helper: BpfHelper = helper;
    is_helper_supported(sort.of_aya(), helper).context("loading a program that calls the helper")
}

/// Can programs hang on interfaces by tcx links? Asks about the loopback.
///
/// # Errors
/// Without CAP_NET_ADMIN.
pub fn has_tcx() -> anyhow::Result<bool> {
    const LOOPBACK: u32 = 1;
    let asked = syscall::query(
        &Target::Interface(LOOPBACK),
        aya_obj::generated::bpf_attach_type::BPF_TCX_INGRESS as u32,
    );
    no_is_no(asked.map(drop)).context("asking what hangs on the loopback")
}

/// Can programs hang on interfaces as filters of clsact? Tries in a network namespace of its own, which goes with it.
///
/// # Errors
/// Without CAP_SYS_ADMIN, which a new namespace needs.
pub fn has_clsact() -> anyhow::Result<bool> {
    let inside = std::thread::spawn(|| {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET)
            .map_err(std::io::Error::from)
            .context("making a network namespace")?;
        Ok(tc::qdisc_add_clsact("lo").is_ok())
    });
    inside.join().unwrap_or_else(|_| bail!("the trial of clsact did not end"))
}

fn no_is_no(result: std::io::Result<()>) -> std::io::Result<bool> {
    match result {
        Ok(()) => Ok(true),
        Err(error) if matches!(error.raw_os_error(), Some(libc::EINVAL | libc::EOPNOTSUPP)) => Ok(false),
        Err(error) => Err(error),
    }
}

/// The programs and maps of this binary, loaded without pins, small.
pub struct Trial(Ebpf);

impl Trial {
    /// Loads maps and the programs for pods' interfaces.
    ///
    /// # Errors
    /// Where the kernel refuses them; the verifier's last words are in it.
    pub fn load() -> anyhow::Result<Self> {
        const ROWS: u32 = 1_024;
        let fixed = [abi::CONFIG, abi::VERDICTS, abi::NETWORKS_V4, abi::NETWORKS_V6];
        let sized = MAPS.iter().filter(|map| !fixed.contains(map) && map.default_rows > ROWS);
        let sizes: Sizes = sized.map(|map| (map.name, ROWS)).collect();
        Ok(Self(object::load(None, &sizes)?))
    }

    /// Do these programs for interfaces pass the verifier, too?
    ///
    /// # Errors
    /// What the verifier says.
    pub fn classifiers(&mut self) -> anyhow::Result<()> {
        object::CLASSIFIERS.iter().try_for_each(|name| object::classifier(&mut self.0, name).map(drop))
    }

    /// Does the program before the stack?
    ///
    /// # Errors
    /// What the verifier says.
    pub fn xdp(&mut self) -> anyhow::Result<()> {
        object::xdp(&mut self.0, object::XDP_PROGRAM).map(drop)
    }

    /// Do the programs for sockets?
    ///
    /// # Errors
    /// What the verifier says.
    pub fn sockets(&mut self) -> anyhow::Result<()> {
        cgroup::HOOKS.iter().try_for_each(|hook| cgroup::program(&mut self.0, hook).map(drop))
    }

    /// Can a map be read in batches?
    ///
    /// # Errors
    /// Where there is no such map.
    pub fn has_batches(&self, map: MapName) -> anyhow::Result<bool> {
        let data = data(self.0.map(map.name).with_context(|| format!("no map {}", map.name))?)?;
        let info = data.info().with_context(|| format!("asking about the map {}", map.name))?;
        let mut next: Cursor = [0; size_of::<Cursor>()];
        let mut keys = vec![0; info.key_size() as usize];
        let mut values = vec![0; info.value_size() as usize];
        let step = syscall::lookup_batch(data.fd().as_fd(), None, &mut next, &mut keys, &mut values, 1);
        no_is_no(step.map(drop)).with_context(|| format!("reading the map {}", map.name))
    }
}

fn data(map: &Map) -> anyhow::Result<&MapData> {
    match map {
        Map::Array(data) | Map::HashMap(data) | Map::LruHashMap(data) | Map::LpmTrie(data) => Ok(data),
        other => bail!("a map of another kind: {other:?}"),
    }
}

/// Does the checksum helper know IPv6's pseudo-header (BPF_F_IPV6, kernel commit 6043b794c766)? Runs a program of a few
/// instructions on a packet of zeros.
///
/// # Errors
/// Without CAP_BPF and CAP_NET_ADMIN.
pub fn has_ipv6_checksums() -> anyhow::Result<bool> {
    let program = checksum_trial().context("loading a program that changes a checksum")?;
    let result = syscall::test_run(program.as_fd(), &[0; 128]).context("running it")?;
    Ok(result != libc::EINVAL.wrapping_neg().cast_unsigned())
}

fn checksum_trial() -> std::io::Result<OwnedFd> {
    // r1 is the packet already; r2 offset, r3 old, r4 new, r5 flags; bpf_l4_csum_replace; exit.
    const MOVE: u8 = 0xb7;
    const CALL: u8 = 0x85;
    const EXIT: u8 = 0x95;
    const PSEUDO_HEADER_AND_IPV6: i32 = (1 << 4) | (1 << 7);
    let instruction = |code: u8, register: u8, value: i32| -> [u8; 8] {
        let mut bytes = [code, register, 0, 0, 0, 0, 0, 0];
        bytes[4..].copy_from_slice(&value.to_ne_bytes());
        bytes
    };
    let code = [
        instruction(MOVE, 2, 70),
        instruction(MOVE, 3, 0),
        instruction(MOVE, 4, 0),
        instruction(MOVE, 5, PSEUDO_HEADER_AND_IPV6),
        instruction(CALL, 0, Helper::BPF_FUNC_l4_csum_replace as i32),
        instruction(EXIT, 0, 0),
    ];
    syscall::load_classifier(code.as_flattened())
}

/// Was it for want of rights that something could not be tried?
#[must_use]
pub fn is_refused_for_rights(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        let io = cause.downcast_ref::<std::io::Error>();
        let in_program = cause.downcast_ref::<ProgramError>().and_then(|error| match error {
            ProgramError::SyscallError(error) => Some(&error.io_error),
            _ => None,
        });
        io.or(in_program).is_some_and(|error| error.raw_os_error() == Some(libc::EPERM))
    })
}
