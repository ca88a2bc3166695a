//! Options of `run` for how much the tables hold, and for how long.
//!
//! Decides names, defaults and bounds. Must not know who fills a table. Invariant: a size is one for both families; a
//! timeout is never 0, which would let go of a flow between two of its packets.

use lb_common::abi::{self, MapName};
use lb_common::flow_state::Timeouts;

use crate::datapath::object::Sizes;
use crate::plan::rows::DEFAULT_MAX_TABLE;

/// Rows that each table has room for. A table that is pinned already keeps its size.
#[derive(clap::Args, Clone, Debug)]
#[command(next_help_heading = "Table sizes")]
pub(super) struct SizeArgs {
    /// Service ports.
    #[arg(long, value_name = "ROWS", default_value_t = abi::SERVICE_PORTS.default_rows, value_parser = clap::value_parser!(u32).range(1..))]
    max_service_ports: u32,
    /// Frontends of each family.
    #[arg(long, value_name = "ROWS", default_value_t = abi::FRONTENDS_V4.default_rows, value_parser = clap::value_parser!(u32).range(1..))]
    max_frontends: u32,
    /// Backends of each family.
    #[arg(long, value_name = "ROWS", default_value_t = abi::BACKENDS_V4.default_rows, value_parser = clap::value_parser!(u32).range(2..))]
    max_backends: u32,
    /// Slots: places in backend sets, of both families together.
    #[arg(long, value_name = "ROWS", default_value_t = abi::SLOTS.default_rows, value_parser = clap::value_parser!(u32).range(1..))]
    max_slots: u32,
    /// Slots of one backend set of a NodePort, load balancer IP or external IP, which gets a hundred for each backend
    /// up to this (C29). Such tables leave a quarter of all slots free; those that do not fit get a slot for each backend.
    #[arg(long, value_name = "SLOTS", default_value_t = DEFAULT_MAX_TABLE, value_parser = clap::value_parser!(u32).range(1..))]
    pub(super) max_maglev_slots: u32,
    /// Source ranges of each family (`loadBalancerSourceRanges`, C35).
    #[arg(long, value_name = "ROWS", default_value_t = abi::RANGES_V4.default_rows, value_parser = clap::value_parser!(u32).range(1..))]
    max_source_ranges: u32,
    /// Rows of answered flows of each family; a plain flow has two, a masqueraded one four. When there is no room, new
    /// flows stay among the half-open.
    #[arg(long, value_name = "ROWS", default_value_t = abi::FLOWS_V4.default_rows, value_parser = clap::value_parser!(u32).range(64..))]
    max_flows: u32,
    /// Rows of flows of each family that the other side has yet to answer. The newest push out the oldest.
    #[arg(long, value_name = "ROWS", default_value_t = abi::EMBRYONIC_V4.default_rows, value_parser = clap::value_parser!(u32).range(LEAST..))]
    max_half_open_flows: u32,
    /// Clients of each family with ClientIP affinity (C30), one for each service port they use. The least used are forgotten.
    #[arg(long, value_name = "ROWS", default_value_t = abi::AFFINITY_V4.default_rows, value_parser = clap::value_parser!(u32).range(LEAST..))]
    max_affinities: u32,
    /// Fragmented datagrams of each family that are on their way at a time (C40), each once for every hook it passes.
    #[arg(long, value_name = "ROWS", default_value_t = abi::FRAGMENTS_V4.default_rows, value_parser = clap::value_parser!(u32).range(LEAST..))]
    max_fragmented: u32,
    /// Sockets of the node's own processes of each family that were translated. The least used are forgotten.
    #[arg(long, value_name = "ROWS", default_value_t = abi::SOCKETS_V4.default_rows, value_parser = clap::value_parser!(u32).range(LEAST..))]
    max_sockets: u32,
}

/// A table that forgets by itself gives each processor rows in advance, 128 at a time; below this it would forget
/// what it was just told.
const LEAST: i64 = 1_024;

impl SizeArgs {
    /// The rows of every table that has an option.
    pub(super) fn sizes(&self) -> Sizes {
        let of_families: [(MapName, MapName, u32); 8] = [
            (abi::FRONTENDS_V4, abi::FRONTENDS_V6, self.max_frontends),
            (abi::BACKENDS_V4, abi::BACKENDS_V6, self.max_backends),
            (abi::RANGES_V4, abi::RANGES_V6, self.max_source_ranges),
            (abi::FLOWS_V4, abi::FLOWS_V6, self.max_flows),
            (abi::EMBRYONIC_V4, abi::EMBRYONIC_V6, self.max_half_open_flows),
            (abi::AFFINITY_V4, abi::AFFINITY_V6, self.max_affinities),
            (abi::FRAGMENTS_V4, abi::FRAGMENTS_V6, self.max_fragmented),
            (abi::SOCKETS_V4, abi::SOCKETS_V6, self.max_sockets),
        ];
        let both = of_families.into_iter().flat_map(|(v4, v6, rows)| [(v4.name, rows), (v6.name, rows)]);
        both.chain([(abi::SERVICE_PORTS.name, self.max_service_ports), (abi::SLOTS.name, self.max_slots)])
            .collect()
    }
}

/// Seconds without a packet after which a flow is over.
#[derive(clap::Args, Clone, Debug)]
#[command(next_help_heading = "Timeouts of flows, in seconds")]
pub(super) struct TimeoutArgs {
    /// TCP and SCTP: one that was opened and not answered.
    #[arg(long, value_name = "SECONDS", default_value_t = DEFAULTS.opening, value_parser = seconds())]
    tcp_opening_timeout: u32,
    /// TCP and SCTP: one that both sides have spoken on.
    #[arg(long, value_name = "SECONDS", default_value_t = DEFAULTS.established, value_parser = seconds())]
    tcp_established_timeout: u32,
    /// TCP and SCTP: one that one side has finished.
    #[arg(long, value_name = "SECONDS", default_value_t = DEFAULTS.half_closed, value_parser = seconds())]
    tcp_half_closed_timeout: u32,
    /// TCP and SCTP: one that is over. Below 120 a masqueraded flow may get the port of one that its backend still
    /// remembers.
    #[arg(long, value_name = "SECONDS", default_value_t = DEFAULTS.closed, value_parser = seconds())]
    tcp_closed_timeout: u32,
    /// UDP: one that only the client has sent on.
    #[arg(long, value_name = "SECONDS", default_value_t = DEFAULTS.udp_opening, value_parser = seconds())]
    udp_opening_timeout: u32,
    /// UDP: one that was answered.
    #[arg(long, value_name = "SECONDS", default_value_t = DEFAULTS.udp_established, value_parser = seconds())]
    udp_established_timeout: u32,
}

const DEFAULTS: Timeouts = Timeouts::DEFAULT;
/// A month. Ages are told from counters that go round in half a year at the kernel's finest tick.
const LONGEST: i64 = 30 * 86_400;

fn seconds() -> clap::builder::RangedI64ValueParser<u32> {
    clap::value_parser!(u32).range(1..=LONGEST)
}

impl TimeoutArgs {
    /// As the sweep wants them.
    pub(super) fn timeouts(&self) -> Timeouts {
        Timeouts {
            opening: self.tcp_opening_timeout,
            established: self.tcp_established_timeout,
            half_closed: self.tcp_half_closed_timeout,
            closed: self.tcp_closed_timeout,
            udp_opening: self.udp_opening_timeout,
            udp_established: self.udp_established_timeout,
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Both {
        #[command(flatten)]
        sizes: SizeArgs,
        #[command(flatten)]
        timeouts: TimeoutArgs,
    }

    fn read(args: &[&str]) -> Result<Both, clap::Error> {
        Both::try_parse_from(std::iter::once("x").chain(args.iter().copied()))
    }

    #[test]
    fn unless_told_tables_and_timeouts_are_as_they_are_documented() {
        let given = read(&[]).unwrap();
        assert_eq!(given.timeouts.timeouts(), Timeouts::default());
        let sizes = given.sizes.sizes();
        for map in abi::MAPS.iter().filter(|map| sizes.contains_key(map.name)) {
            assert_eq!(sizes[map.name], map.default_rows, "{}", map.name);
        }
        // What is left are arrays of a fixed meaning, counters, netfilter's connections, and the node's interfaces.
        assert_eq!(abi::MAPS.len() - sizes.len(), 10);
    }

    #[test]
    fn an_option_concerns_its_table_in_both_families_and_its_state_alone() {
        let given = read(&["--max-sockets", "2048", "--udp-established-timeout", "7"]).unwrap();
        let sizes = given.sizes.sizes();
        assert_eq!((sizes["SOCKETS_V4"], sizes["SOCKETS_V6"]), (2_048, 2_048));
        assert_eq!(sizes["AFFINITY_V4"], abi::AFFINITY_V4.default_rows);
        let expected = Timeouts { udp_established: 7, ..Timeouts::default() };
        assert_eq!(given.timeouts.timeouts(), expected);
    }

    #[test]
    fn what_would_forget_flows_at_once_is_refused() {
        for args in [
            ["--max-half-open-flows", "16"],
            ["--tcp-established-timeout", "0"],
            ["--udp-opening-timeout", "9999999999"],
        ] {
            assert!(read(&args).is_err(), "{args:?}");
        }
    }
}
