//! Programs on interfaces: attached, taken over, detached.
//!
//! Decides the way (tcx links where the kernel has them, from 6.6 on; else clsact filters of a fixed
//! handle) and the order on the hook: first at ingress and last at egress, so that others' programs see
//! true addresses. Must not know which interfaces matter. Invariant: replacing a program leaves no moment without one.

use std::fs;
use std::io;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use aya::Ebpf;
use aya::programs::links::{FdLink, LinkError, PinnedLink};
use aya::programs::tc::{
    NlOptions, SchedClassifierLink, TcAttachOptions, TcAttachType, TcError, TcHandle, qdisc_add_clsact,
};
use aya::programs::{LinkOrder, ProgramError, SchedClassifier};
use aya::util::KernelVersion;
use serde::{Deserialize, Serialize};

use super::pins::Pins;
use super::{object, syscall};

/// How programs hang on a traffic-control hook.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Way {
    /// tcx where the kernel has it, else clsact.
    Auto,
    /// BPF links (kernel 6.6, commit e420bed02507).
    Tcx,
    /// Filters of the clsact qdisc (kernel 4.5).
    Clsact,
}

impl Way {
    /// Turns `Auto` into what this kernel has.
    #[must_use]
    pub fn resolve(self) -> Self {
        match self {
            Self::Auto if has_tcx() => Self::Tcx,
            Self::Auto => Self::Clsact,
            way => way,
        }
    }
}

/// Which programs an interface gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Suite {
    /// Those for the host's side of a pod's interface.
    Pod,
    /// Those for a device that leads off the node.
    Net,
    /// Those for such a device without Ethernet headers.
    BareNet,
}

impl Suite {
    /// The names of its programs.
    #[must_use]
    pub fn programs(self) -> [&'static str; 2] {
        HOOKS.map(|(_, hook)| self.program(hook))
    }

    fn program(self, hook: TcAttachType) -> &'static str {
        match (self, hook) {
            (Self::Pod, TcAttachType::Ingress) => "pod_ingress",
            (Self::Pod, _) => "pod_egress",
            (Self::Net, TcAttachType::Ingress) => "net_ingress",
            (Self::Net, _) => "net_egress",
            (Self::BareNet, TcAttachType::Ingress) => "bare_ingress",
            (Self::BareNet, _) => "bare_egress",
        }
    }
}

/// An interface to hang programs on.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Interface {
    /// Its index in this network namespace.
    pub index: u32,
    /// Its name.
    pub name: String,
}

const HOOKS: [(&str, TcAttachType); 2] =
    [("ingress", TcAttachType::Ingress), ("egress", TcAttachType::Egress)];

/// The filter's place among others, and its name there.
const PRIORITY: u16 = 1;
const HANDLE: TcHandle = TcHandle::new(0, 0x5b);

/// Hangs the programs on `interface`, or replaces those that an agent hung there before.
///
/// # Errors
/// Where the interface is gone, rights are missing, or the kernel lacks the way. What hung there stays.
pub fn attach(
    ebpf: &mut Ebpf,
    pins: &Pins,
    interface: &Interface,
    suite: Suite,
    way: Way,
) -> anyhow::Result<()> {
    // What undoes a translation comes before what makes one, and goes after it.
    for (hook, kind) in HOOKS.into_iter().rev() {
        let program = suite.program(kind);
        let classifier = object::classifier(ebpf, program)?;
        match way.resolve() {
            Way::Clsact => clsact(classifier, interface, kind),
            _ => tcx(classifier, interface, kind, &pin(pins, interface.index, hook)),
        }
        .with_context(|| format!("attaching {program} to the {hook} of interface {}", interface.name))?;
    }
    Ok(())
}

/// Takes the programs off an interface that an agent hung them on.
///
/// # Errors
/// Where rights are missing.
pub fn detach(pins: &Pins, interface: &Interface) -> anyhow::Result<()> {
    for (hook, kind) in HOOKS {
        let path = pin(pins, interface.index, hook);
        match fs::remove_file(&path) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => remove_filter(interface, kind),
            Err(error) => {
                return Err(error)
                    .with_context(|| format!("taking the {hook} program off interface {}", interface.name));
            }
        }
    }
    Ok(())
}

/// The interfaces that links are pinned for, by index.
///
/// # Errors
/// Where the folder cannot be read.
pub fn pinned(pins: &Pins) -> anyhow::Result<Vec<u32>> {
    let folder = pins.links();
    let mut indices = Vec::new();
    for entry in fs::read_dir(&folder).with_context(|| format!("listing {}", folder.display()))? {
        let name = entry.with_context(|| format!("listing {}", folder.display()))?.file_name();
        let name = name.to_string_lossy();
        indices.extend(name.split_once('-').and_then(|(index, _)| index.parse::<u32>().ok()));
    }
    indices.sort_unstable();
    indices.dedup();
    Ok(indices)
}

/// Unpins the links of an interface that is gone.
///
/// # Errors
/// Where rights are missing.
pub fn forget(pins: &Pins, index: u32) -> anyhow::Result<()> {
    for (hook, _) in HOOKS {
        let path = pin(pins, index, hook);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("removing {}", path.display()));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Are the pinned links there, and on the interface? Of programs that hang by [`Way::Tcx`].
#[must_use]
pub fn hangs(pins: &Pins, index: u32) -> bool {
    HOOKS.iter().all(|(hook, _)| is_on(&pin(pins, index, hook), index))
}

/// Is the link pinned at `path` there, and on the interface?
pub(super) fn is_on(path: &Path, index: u32) -> bool {
    syscall::open_pin(path)
        .and_then(|link| syscall::interface_of_link(link.as_fd()))
        .is_ok_and(|on| on == index)
}

fn pin(pins: &Pins, index: u32, hook: &str) -> PathBuf {
    pins.links().join(format!("{index}-{hook}"))
}

fn tcx(
    program: &mut SchedClassifier,
    interface: &Interface,
    kind: TcAttachType,
    path: &PathBuf,
) -> anyhow::Result<()> {
    match PinnedLink::from_pin(path) {
        Ok(link) => {
            let link: SchedClassifierLink =
                FdLink::from(link).try_into().context("the pinned link is no link of a classifier")?;
            match program.attach_to_link(link) {
                Ok(id) => {
                    // Ours now; it stays pinned, and the descriptor may go.
                    drop(program.take_link(id)?);
                    return Ok(());
                }
                // The interface that had this index is gone, and with it what the link was on.
                Err(ProgramError::SyscallError(error))
                    if error.io_error.raw_os_error() == Some(libc::ENOLINK) =>
                {
                    fs::remove_file(path).with_context(|| format!("removing {}", path.display()))?;
                }
                Err(error) => return Err(error).context("replacing the program in the pinned link"),
            }
        }
        Err(LinkError::SyscallError(error)) if error.io_error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error).with_context(|| format!("opening the link {}", path.display())),
    }
    let order = if kind == TcAttachType::Ingress { LinkOrder::first() } else { LinkOrder::last() };
    let id = program.attach_with_options(&interface.name, kind, TcAttachOptions::TcxOrder(order))?;
    let link: FdLink = program.take_link(id)?.try_into().context("the kernel gave no link")?;
    link.pin(path).with_context(|| format!("pinning the link at {}", path.display()))?;
    Ok(())
}

fn clsact(program: &mut SchedClassifier, interface: &Interface, kind: TcAttachType) -> anyhow::Result<()> {
    match qdisc_add_clsact(&interface.name) {
        Ok(()) => {}
        Err(TcError::AlreadyAttached) => {}
        Err(TcError::NetlinkError(error)) if error.raw_os_error() == Some(libc::EEXIST) => {}
        Err(error) => return Err(error).context("adding the clsact qdisc"),
    }
    let replaced = SchedClassifierLink::attached(&interface.name, kind, PRIORITY, HANDLE, None)
        .ok()
        .and_then(|link| program.attach_to_link(link).ok());
    let id = match replaced {
        Some(id) => id,
        None => {
            let options = NlOptions { priority: PRIORITY, handle: HANDLE, ..NlOptions::default() };
            program.attach_with_options(&interface.name, kind, TcAttachOptions::Netlink(options))?
        }
    };
    // Dropping the link would take the filter off.
    std::mem::forget(program.take_link(id)?);
    Ok(())
}

fn remove_filter(interface: &Interface, kind: TcAttachType) {
    if let Ok(link) = SchedClassifierLink::attached(&interface.name, kind, PRIORITY, HANDLE, None) {
        // Dropping it takes the filter off; where there is none, that is as it should be.
        drop(link);
    }
}

fn has_tcx() -> bool {
    KernelVersion::current().is_ok_and(|version| version >= KernelVersion::new(6, 6, 0))
}

/// Says why `way` cannot work on this kernel.
///
/// # Errors
/// Where it cannot.
pub fn check(way: Way) -> anyhow::Result<()> {
    if way == Way::Tcx && !has_tcx() {
        bail!("this kernel has no tcx (it came with 6.6): leave --attach at auto, or say clsact");
    }
    Ok(())
}
