//! Programs that are loaded, without what they were loaded from.
//!
//! Decides nothing but how: a program that the kernel has is pinned for a moment and opened from there, since aya keeps its
//! instructions otherwise, a megabyte in all. Must not know where programs hang. Invariant: a program that cannot be
//! opened so stays as it is, and nothing stays pinned.

use std::fs;
use std::io;
use std::path::Path;

use anyhow::Context as _;
use aya::Ebpf;
use aya::programs::{CgroupSockAddr, CgroupSockAddrAttachType, Program, SchedClassifier, Xdp};
use aya_obj::programs::XdpAttachType;

use super::pins::Pins;

/// Lets go of what the loaded programs were loaded from. None of them may hold links.
///
/// # Errors
/// Where nothing can be pinned, or a program cannot be opened again.
pub fn lighten(ebpf: &mut Ebpf, pins: &Pins) -> anyhow::Result<()> {
    let pin = pins.passing();
    for (name, program) in ebpf.programs_mut().filter(|(_, program)| program.fd().is_ok()) {
        let opened = through(program, name, &pin).with_context(|| format!("opening the program {name} anew"));
        remove(&pin)?;
        if let Some(opened) = opened? {
            *program = opened;
        }
    }
    Ok(())
}

/// The same program, by way of a pin. `None`: it is of no kind that we have.
fn through(program: &mut Program, name: &str, pin: &Path) -> anyhow::Result<Option<Program>> {
    remove(pin)?;
    program.pin(pin)?;
    Ok(match program {
        Program::SchedClassifier(_) => Some(Program::SchedClassifier(SchedClassifier::from_pin(pin)?)),
        Program::Xdp(_) => Some(Program::Xdp(Xdp::from_pin(pin, XdpAttachType::Interface)?)),
        Program::CgroupSockAddr(_) => {
            let hook = hook_of(name).context("it hangs on none of the hooks that we know")?;
            Some(Program::CgroupSockAddr(CgroupSockAddr::from_pin(pin, hook)?))
        }
        _ => None,
    })
}

/// Where a program for sockets hangs, by its name.
fn hook_of(name: &str) -> Option<CgroupSockAddrAttachType> {
    use CgroupSockAddrAttachType as Hook;
    Some(match name {
        "connect4" => Hook::Connect4,
        "connect6" => Hook::Connect6,
        "sendmsg4" => Hook::UDPSendMsg4,
        "sendmsg6" => Hook::UDPSendMsg6,
        "recvmsg4" => Hook::UDPRecvMsg4,
        "recvmsg6" => Hook::UDPRecvMsg6,
        "getpeername4" => Hook::GetPeerName4,
        "getpeername6" => Hook::GetPeerName6,
        _ => return None,
    })
}

fn remove(pin: &Path) -> anyhow::Result<()> {
    match fs::remove_file(pin) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("removing {}", pin.display()))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::cgroup::HOOKS;
    use super::*;

    #[test]
    fn every_program_for_sockets_is_known_by_its_name() {
        assert!(HOOKS.iter().all(|hook| hook_of(hook).is_some()));
    }
}
