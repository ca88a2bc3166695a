//! The row of the node's configuration.
//!
//! Decides what the options make of it, and what of it is to be put right when somebody else wrote it. Must not know
//! what the datapath does by it. Invariant: what moves by itself stays as it is.

use lb_common::abi::{ABI_VERSION, Config, ConfigFlags};

use super::Args;
use super::sockets::{self, Sockets};
use crate::datapath::clock::Clock;
use crate::datapath::kernel::{self, KernelMaps};
use crate::datapath::pins::Pins;

/// The row as the options want it; what sockets add is theirs.
pub(super) struct NodeConfig {
    pins: Pins,
    wanted: Config,
}

impl NodeConfig {
    /// Writes the row, and leaves in it what the hooks of a previous agent go by.
    ///
    /// # Errors
    /// Where the maps cannot be read or written.
    pub(super) fn begin(
        args: &Args,
        pins: &Pins,
        clock: Clock,
        maps: &mut KernelMaps,
    ) -> anyhow::Result<Self> {
        let wanted = wanted(args, clock);
        let route_generation = kernel::config(pins)?.route_generation;
        let config = Sockets::carry_over(pins, wanted)?;
        super::strangers::before_config(pins, maps, &config)?;
        kernel::set_config(pins, &Config { route_generation, ..config })?;
        Ok(Self { pins: pins.clone(), wanted })
    }

    /// Writes what the row should be, where it is another; says whether it was. Sockets put their own part right.
    ///
    /// # Errors
    /// Where the map cannot be read or written.
    pub(super) fn repair(&self) -> anyhow::Result<bool> {
        let now = kernel::config(&self.pins)?;
        kernel::set_config(&self.pins, &repaired(&self.wanted, &now))
    }
}

/// The row as the options want it, with what is not theirs as it is `now`.
fn repaired(wanted: &Config, now: &Config) -> Config {
    const THEIRS: u32 = sockets::FLAGS | ConfigFlags::TAKING_OVER;
    let Config { route_generation, node_v4, node_v6, netns_cookie, .. } = *now;
    let flags = ConfigFlags(wanted.flags.0 | (now.flags.0 & THEIRS));
    Config { flags, route_generation, node_v4, node_v6, netns_cookie, ..*wanted }
}

fn wanted(args: &Args, clock: Clock) -> Config {
    let resets = if args.reset_on_backend_delete { ConfigFlags::RESET_VANISHED } else { 0 };
    Config {
        abi_version: ABI_VERSION,
        ticks_per_second: clock.ticks_per_second,
        masquerade_port_first: args.masquerade_ports.0,
        masquerade_port_last: args.masquerade_ports.1,
        opening_timeout: args.timeouts.timeouts().opening,
        flags: ConfigFlags(args.node.flags().0 | resets),
        ..Config::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_somebody_else_wrote_is_put_right_and_what_moves_by_itself_is_left() {
        let wanted = Config {
            abi_version: ABI_VERSION,
            ticks_per_second: 250,
            masquerade_port_first: 61_000,
            masquerade_port_last: 65_535,
            opening_timeout: 60,
            flags: ConfigFlags(ConfigFlags::MASQUERADE_ALWAYS),
            ..Config::default()
        };
        let moved = ConfigFlags::MASQUERADE_ALWAYS | ConfigFlags::SOCKETS | ConfigFlags::TAKING_OVER;
        let as_it_was = Config { route_generation: 7, netns_cookie: 9, flags: ConfigFlags(moved), ..wanted };
        assert_eq!(repaired(&wanted, &as_it_was), as_it_was);
        let overwritten = Config {
            masquerade_port_first: 1,
            opening_timeout: 0,
            flags: ConfigFlags(moved & !ConfigFlags::MASQUERADE_ALWAYS | ConfigFlags::RESET_VANISHED),
            ..as_it_was
        };
        assert_eq!(repaired(&wanted, &overwritten), as_it_was);
        assert_eq!(repaired(&wanted, &Config::default()), wanted, "wiped out");
    }
}
