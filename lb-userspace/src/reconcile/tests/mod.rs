//! The invariants of the control plane, on fake and faulty maps.

mod capacity;
mod cluster;
mod drift;
mod faults;
mod guard;
mod histories;
mod restart;
mod scale;
mod spread;
mod view;

use std::time::Duration;

use super::{GRACE, Reconciler, Report};
use crate::datapath::fake::{FakeMaps, Watch};
use crate::plan::rows::{Supported, Terms};
use crate::tables::{Capacity, Maps};

const SMALL: Capacity =
    Capacity { service_ports: 64, frontends: 256, backends: 512, slots: 16_384, ranges: 256 };

fn terms() -> Terms {
    Terms {
        node_addresses: vec!["192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap()],
        supported: Supported::ALL,
        max_table: 31,
    }
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn empty(watch: Watch) -> Reconciler<FakeMaps> {
    on(FakeMaps::new(SMALL, watch))
}

fn on<M: Maps>(maps: M) -> Reconciler<M> {
    Reconciler::new(maps, SMALL, terms()).unwrap()
}

/// Lets everything that was released rest, and be freed and cleared.
fn rest<M: Maps>(reconciler: &mut Reconciler<M>, now: Duration) -> Report {
    reconciler.sync([], now + GRACE)
}
