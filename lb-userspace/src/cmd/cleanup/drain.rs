//! The way out that breaks no connection: new ones are no longer ours, those that exist are served to their end.
//!
//! Decides which flows are still alive. Must not remove programs or pins. Invariant: a flow's own rows and backends
//! stay as they are; only what a new connection would find goes.

use std::time::{Duration, Instant};

use bytemuck::Zeroable as _;
use lb_common::abi::Prefix;
use lb_common::flow_state::Timeouts;

use super::super::get::all_flows;
use crate::datapath::kernel::KernelMaps;
use crate::datapath::pins::Pins;
use crate::flows::view::FlowView;
use crate::tables::{MapOp, Maps as _, Tables};

const LOOK_AGAIN: Duration = Duration::from_secs(1);
const TELL_AGAIN: Duration = Duration::from_secs(30);

/// Datagrams that pause longer than this are taken for over: whoever asks again then is a new client to the next proxy.
const DATAGRAMS: u32 = 30;

/// Takes every frontend away, and waits for the flows that exist.
pub(super) fn drain(pins: &Pins, limit: Duration) -> anyhow::Result<()> {
    let mut maps = KernelMaps::open(pins)?;
    let tables = maps.load()?;
    let operations = retract(&tables);
    maps.apply(&operations).map_err(|stopped| {
        anyhow::anyhow!("taking frontends out of the maps: {}: {}", stopped.operation, stopped.reason)
    })?;
    println!("new connections are no longer served; waiting for those that exist");
    let (began, mut told) = (Instant::now(), None::<Instant>);
    loop {
        let left = all_flows(pins, &tables)?.iter().filter(|flow| is_alive(flow, &Timeouts::DEFAULT)).count();
        if left == 0 {
            println!("the last connection has ended");
            return Ok(());
        }
        if began.elapsed() >= limit {
            println!("{left} connections are left after {} seconds, and break now", limit.as_secs());
            return Ok(());
        }
        if told.is_none_or(|at| at.elapsed() >= TELL_AGAIN) {
            println!("{left} connections are left");
            told = Some(Instant::now());
        }
        std::thread::sleep(LOOK_AGAIN);
    }
}

/// What takes away all that a new connection would find. Service networks go first: an address there without a
/// frontend would be dropped.
fn retract(tables: &Tables) -> Vec<MapOp> {
    let networks_v4 = tables.networks_v4.keys().map(|row| MapOp::PutNetworkV4(*row, Prefix::zeroed()));
    let networks_v6 = tables.networks_v6.keys().map(|row| MapOp::PutNetworkV6(*row, Prefix::zeroed()));
    let frontends_v4 = tables.frontends_v4.keys().map(|key| MapOp::DeleteFrontendV4(*key));
    let frontends_v6 = tables.frontends_v6.keys().map(|key| MapOp::DeleteFrontendV6(*key));
    networks_v4.chain(networks_v6).chain(frontends_v4).chain(frontends_v6).collect()
}

/// May there be another packet of it?
fn is_alive(flow: &FlowView, timeouts: &Timeouts) -> bool {
    let patience = match flow.state {
        "opening" => timeouts.opening,
        "unanswered" => timeouts.udp_opening,
        "established" if flow.protocol.eq_ignore_ascii_case("udp") => timeouts.udp_established.min(DATAGRAMS),
        "established" => timeouts.established,
        "half-closed" => timeouts.half_closed,
        // Closed, or what is left of it.
        _ => 0,
    };
    flow.idle_seconds < patience
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flow(protocol: &str, state: &'static str, idle_seconds: u32) -> FlowView {
        let address = "10.0.0.1:1".parse().unwrap();
        FlowView {
            protocol: protocol.to_owned(),
            client: address,
            frontend: address,
            backend: address,
            seen_as: None,
            state,
            idle_seconds,
            service_port: 0,
            service: String::new(),
        }
    }

    #[test]
    fn only_flows_that_may_speak_again_are_waited_for() {
        let timeouts = Timeouts::DEFAULT;
        for (flow, expected) in [
            (flow("TCP", "established", timeouts.established - 1), true),
            (flow("TCP", "half-closed", 1), true),
            (flow("TCP", "closed", 0), false),
            (flow("TCP", "broken", 0), false),
            (flow("UDP", "established", DATAGRAMS - 1), true),
            (flow("UDP", "established", DATAGRAMS), false),
            (flow("TCP", "opening", timeouts.opening), false),
        ] {
            assert_eq!(is_alive(&flow, &timeouts), expected, "{flow:?}");
        }
    }
}
