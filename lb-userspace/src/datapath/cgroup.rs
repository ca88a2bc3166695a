//! The programs for the node's own sockets, on a cgroup: attached, taken over, detached.
//!
//! Decides which cgroup, where none is named: the root of the unified hierarchy, which every process is under. Must
//! not know whose sockets are translated. Invariants: all hooks or none, since a socket that is sent elsewhere must
//! be shown who it asked for; replacing a program leaves no moment without one.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use aya::Ebpf;
use aya::programs::links::FdLink;
use aya::programs::{CgroupAttachMode, CgroupSockAddr};
use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, statfs};

use super::pins::Pins;
use super::syscall;

/// The programs, by the names of their hooks.
pub const HOOKS: [&str; 8] = [
    // What shows the frontend comes before what translates it.
    "getpeername4",
    "getpeername6",
    "recvmsg4",
    "recvmsg6",
    "connect4",
    "connect6",
    "sendmsg4",
    "sendmsg6",
];

/// The root of a cgroup hierarchy has this inode, also where it is mounted from within another one's namespace.
const ROOT: u64 = 1;

/// The root of the unified cgroup hierarchy, where it is mounted.
///
/// # Errors
/// Where it is not.
pub fn root() -> anyhow::Result<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").context("reading /proc/self/mounts")?;
    let is_root = |path: &PathBuf| fs::metadata(path).is_ok_and(|found| found.ino() == ROOT);
    mounted(&mounts).find(is_root).context(
        "no root of a unified cgroup hierarchy (cgroup2) is mounted: mount one, in a container the host's, \
         or name a cgroup with --cgroup",
    )
}

/// Where cgroup2 is mounted, as `/proc/self/mounts` has it (proc_mounts(5): spaces and the like in octal).
fn mounted(mounts: &str) -> impl Iterator<Item = PathBuf> {
    mounts.lines().filter_map(|line| {
        let mut words = line.split(' ');
        let (path, kind) = (words.nth(1)?, words.next()?);
        (kind == "cgroup2").then(|| PathBuf::from(unescaped(path)))
    })
}

fn unescaped(path: &str) -> String {
    let codes = [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")];
    codes.into_iter().fold(path.to_owned(), |path, (code, character)| path.replace(code, character))
}

/// Hangs the programs on the cgroup at `path`, or replaces those that an agent hung there before; takes them off
/// any other cgroup.
///
/// # Errors
/// Where the kernel refuses a program, the path is no cgroup, or rights are missing. What hung there stays.
pub fn attach(ebpf: &mut Ebpf, pins: &Pins, path: &Path) -> anyhow::Result<()> {
    let doing = || format!("attaching the socket hooks to the cgroup {}", path.display());
    for hook in HOOKS {
        program(ebpf, hook).with_context(doing)?;
    }
    let cgroup = open(path).with_context(doing)?;
    let id = cgroup.metadata().with_context(doing)?.ino();
    let mut new = Vec::new();
    for hook in HOOKS {
        let pin = pin(pins, hook);
        let attached = match replace(program(ebpf, hook)?, &pin, id) {
            Ok(true) => Ok(()),
            Ok(false) => {
                new.push(pin.clone());
                hang(program(ebpf, hook)?, &cgroup, &pin)
            }
            Err(error) => Err(error),
        };
        if let Err(error) = attached {
            for pin in new {
                let _may_not_be_there = fs::remove_file(pin);
            }
            return Err(error.context(hook)).with_context(doing);
        }
    }
    Ok(())
}

/// Takes the programs off; says how many hung.
///
/// # Errors
/// Where rights are missing.
pub fn detach(pins: &Pins) -> anyhow::Result<usize> {
    let mut hung = 0;
    // What translates goes first.
    for hook in HOOKS.into_iter().rev() {
        let pin = pin(pins, hook);
        match fs::remove_file(&pin) {
            Ok(()) => hung += 1,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error).with_context(|| format!("removing {}", pin.display())),
        }
    }
    Ok(hung)
}

/// Do the programs hang, as far as pins tell?
#[must_use]
pub fn is_attached(pins: &Pins) -> bool {
    HOOKS.iter().all(|hook| pin(pins, hook).exists())
}

/// Are the pinned links there, and on a cgroup?
#[must_use]
pub fn hangs(pins: &Pins) -> bool {
    let is_on = |hook: &&str| {
        let link = syscall::open_pin(&pin(pins, hook));
        link.and_then(|link| syscall::cgroup_of_link(link.as_fd())).is_ok_and(|cgroup| cgroup != 0)
    };
    HOOKS.iter().all(is_on)
}

/// The number of this process's network namespace, as the programs see it.
///
/// # Errors
/// Where the kernel has none (it came with 5.14, commit e8b9eab99232).
pub fn netns_cookie() -> anyhow::Result<u64> {
    syscall::netns_cookie().context("asking for the number of the network namespace (SO_NETNS_COOKIE)")
}

/// A program, loaded when it is first asked for.
///
/// # Errors
/// Where the object has none of that name, or the verifier refuses it.
pub fn program<'a>(ebpf: &'a mut Ebpf, hook: &str) -> anyhow::Result<&'a mut CgroupSockAddr> {
    let program = ebpf.program_mut(hook).with_context(|| format!("the eBPF object has no program {hook}"))?;
    let program: &mut CgroupSockAddr =
        program.try_into().with_context(|| format!("the program {hook} is none for socket addresses"))?;
    if program.fd().is_err() {
        program.load().with_context(|| format!("the kernel's verifier refused the program {hook}"))?;
    }
    Ok(program)
}

fn pin(pins: &Pins, hook: &str) -> PathBuf {
    pins.links().join(format!("cgroup-{hook}"))
}

fn open(path: &Path) -> anyhow::Result<File> {
    let cgroup = File::open(path).context("opening it; does it exist?")?;
    if statfs(path)?.filesystem_type() != CGROUP2_SUPER_MAGIC {
        bail!("it is in no unified hierarchy (cgroup2): name another with --cgroup");
    }
    Ok(cgroup)
}

/// Replaces the program in the link pinned at `pin`. `false`: there is none, or it is of another cgroup or of one
/// that is gone; then the pin is gone too.
fn replace(program: &CgroupSockAddr, pin: &Path, cgroup: u64) -> anyhow::Result<bool> {
    let link: OwnedFd = match syscall::open_pin(pin) {
        Ok(link) => link,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error).with_context(|| format!("opening the link {}", pin.display())),
    };
    let on = syscall::cgroup_of_link(link.as_fd())
        .with_context(|| format!("asking about the link {}", pin.display()))?;
    if on == cgroup {
        match syscall::update_link(link.as_fd(), program.fd()?.as_fd()) {
            Ok(()) => return Ok(true),
            Err(error) if error.raw_os_error() == Some(libc::ENOLINK) => {}
            Err(error) => return Err(error).context("replacing the program in the pinned link"),
        }
    }
    fs::remove_file(pin).with_context(|| format!("removing {}", pin.display()))?;
    Ok(false)
}

fn hang(program: &mut CgroupSockAddr, cgroup: &File, pin: &Path) -> anyhow::Result<()> {
    // A link lets others hang theirs beside it, whatever this mode says.
    let id = program.attach(cgroup, CgroupAttachMode::Single)?;
    let link: FdLink = program.take_link(id)?.try_into().context("the kernel gave no link")?;
    link.pin(pin).with_context(|| format!("pinning the link at {}", pin.display()))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cgroup2_is_found_among_the_mounts() {
        let mounts = "tmpfs /sys/fs/cgroup tmpfs rw 0 0\ncgroup /sys/fs/cgroup/cpu cgroup rw,cpu 0 0\n\
                      cgroup2 /sys/fs/cgroup/unified cgroup2 rw,relatime 0 0\nnone /mnt/a\\040b cgroup2 rw 0 0\nbad\n";
        let found: Vec<PathBuf> = mounted(mounts).collect();
        assert_eq!(found, [Path::new("/sys/fs/cgroup/unified"), Path::new("/mnt/a b")]);
    }

    #[test]
    fn a_process_knows_its_namespace() {
        assert_ne!(netns_cookie().unwrap(), 0);
    }
}
