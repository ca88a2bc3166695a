//! The XDP program on an uplink: hung there by a pinned link, taken over, taken off.
//!
//! Decides that a driver runs it or nobody (no generic XDP, which would copy packets), and that a program of
//! somebody else's stays. Must not know which interfaces want it. Invariant: replacing it leaves no moment without one.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use aya::Ebpf;
use aya::programs::links::{FdLink, LinkError, PinnedLink};
use aya::programs::xdp::{XdpLink, XdpMode};
use aya::programs::{ProgramError, Xdp};

use super::attach::{self, Interface};
use super::object;
use super::pins::Pins;

/// On which uplinks packets may take the shortcut past the stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// On none.
    Off,
    /// On those of hardware whose driver has XDP.
    Auto,
    /// On every one but tunnels; where that cannot be it is an error.
    Require,
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It hangs there.
    Attached,
    /// Another's program hangs there and stays.
    Foreign,
    /// The driver has no XDP, or not as the device is set up; the kernel's reason.
    Unsupported(String),
}

const PROGRAM: &str = object::XDP_PROGRAM;

/// Hangs the program on `interface`, or replaces the one that an agent hung there before.
///
/// # Errors
/// Where the verifier refuses it, rights are missing, or the pin cannot be written.
pub fn attach(ebpf: &mut Ebpf, pins: &Pins, interface: &Interface) -> anyhow::Result<Outcome> {
    let path = pin(pins, interface.index);
    let program = object::xdp(ebpf, PROGRAM)?;
    if take_over(program, &path)? {
        return Ok(Outcome::Attached);
    }
    let id = match program.attach_to_if_index(interface.index, XdpMode::Driver) {
        Ok(id) => id,
        Err(ProgramError::SyscallError(error)) => {
            return match error.io_error.raw_os_error() {
                Some(libc::EBUSY | libc::EEXIST) => Ok(Outcome::Foreign),
                Some(libc::EOPNOTSUPP | libc::ERANGE | libc::EINVAL) => {
                    Ok(Outcome::Unsupported(error.io_error.to_string()))
                }
                _ => Err(error).with_context(|| format!("attaching {PROGRAM} to {}", interface.name)),
            };
        }
        Err(error) => return Ok(Outcome::Unsupported(error.to_string())),
    };
    let link: Result<FdLink, LinkError> = program.take_link(id)?.try_into();
    // A kernel without links for XDP cannot leave it in place when the agent ends.
    let Ok(link) = link else {
        return Ok(Outcome::Unsupported("this kernel has no links for XDP".to_owned()));
    };
    link.pin(&path).with_context(|| format!("pinning the link at {}", path.display()))?;
    Ok(Outcome::Attached)
}

/// Takes the program off an interface.
///
/// # Errors
/// Where rights are missing.
pub fn detach(pins: &Pins, index: u32) -> anyhow::Result<()> {
    let path = pin(pins, index);
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("removing {}", path.display()))
        }
        _ => Ok(()),
    }
}

/// Is the pinned link there, and on the interface?
#[must_use]
pub fn hangs(pins: &Pins, index: u32) -> bool {
    attach::is_on(&pin(pins, index), index)
}

/// Replaces the program in the pinned link, if there is one on a device that is still there.
fn take_over(program: &mut Xdp, path: &Path) -> anyhow::Result<bool> {
    let link = match PinnedLink::from_pin(path) {
        Ok(link) => link,
        Err(LinkError::SyscallError(error)) if error.io_error.kind() == io::ErrorKind::NotFound => {
            return Ok(false);
        }
        Err(error) => return Err(error).with_context(|| format!("opening the link {}", path.display())),
    };
    let link: XdpLink = FdLink::from(link).try_into().context("the pinned link is no link of XDP")?;
    match program.attach_to_link(link) {
        Ok(id) => {
            // Ours now; it stays pinned, and the descriptor may go.
            drop(program.take_link(id)?);
            Ok(true)
        }
        Err(ProgramError::SyscallError(error)) if error.io_error.raw_os_error() == Some(libc::ENOLINK) => {
            fs::remove_file(path).with_context(|| format!("removing {}", path.display()))?;
            Ok(false)
        }
        Err(error) => bail!("replacing the program in the link {}: {error}", path.display()),
    }
}

fn pin(pins: &Pins, index: u32) -> PathBuf {
    pins.links().join(format!("{index}-xdp"))
}
