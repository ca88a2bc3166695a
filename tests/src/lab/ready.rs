//! Whether a lab's links carry packets yet.
//!
//! Decides when building is over; must not know addresses. Invariant: once a lab is built, its
//! first packet is not lost to a link that the kernel has yet to wake.
//!
//! A veth that is set up gets its carrier, its queue and its IPv6 readiness from a kernel worker a
//! little later (`linkwatch_do_dev`); on a busy machine that takes tens of milliseconds, and a SYN
//! or a neighbour solicitation lost meanwhile is sent again only after a second.

use std::time::Duration;

use anyhow::Result;
use nix::ifaddrs::getifaddrs;
use nix::net::if_::InterfaceFlags;

use super::Netns;
use crate::poll;

/// How long the kernel may take to wake a link.
const LIMIT: Duration = Duration::from_secs(10);

/// Waits until every interface of `netns` that is set up, `lo` aside, is operational.
///
/// `idle` names one that may stay without carrier: a bridge without ports.
pub(super) fn wait_for_links(netns: &Netns, idle: Option<&str>) -> Result<()> {
    netns.run(|| {
        poll::until(&format!("the links of {} to be operational", netns.name()), LIMIT, || {
            let sleeping = sleeping(idle).map_err(|error| format!("no list of interfaces: {error}"))?;
            if sleeping.is_empty() { Ok(()) } else { Err(format!("{} not operational", sleeping.join(", "))) }
        })
    })
}

/// Interfaces of the caller's namespace that are up, but not operational (RFC 2863).
fn sleeping(idle: Option<&str>) -> nix::Result<Vec<String>> {
    let mut names: Vec<String> = getifaddrs()?
        .filter(|entry| {
            let flags = entry.flags;
            flags.contains(InterfaceFlags::IFF_UP)
                && !flags.intersects(InterfaceFlags::IFF_RUNNING | InterfaceFlags::IFF_LOOPBACK)
        })
        .map(|entry| entry.interface_name)
        .filter(|name| Some(name.as_str()) != idle)
        .collect();
    names.dedup();
    Ok(names)
}
