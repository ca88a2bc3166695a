//! What somebody else takes off or deletes is put back: programs on interfaces and the cgroup, and pins.
//!
//! Decides when it is looked for, and when something counts as missing: by two looks in a row, since an interface's row
//! is there before its programs are. Must not know how programs are attached. Invariant: looking holds up no change,
//! being done beside the loop.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use lb_common::abi::{InterfaceFlags, InterfaceRow};
use tokio::runtime::Runtime;
use tokio::sync::mpsc::{Receiver, channel};

use super::beside::Beside;
use super::{Agent, node_addresses};
use crate::datapath::attach::{self, Way};
use crate::datapath::hooks::OURS;
use crate::datapath::pins::Pins;
use crate::datapath::table::Table;
use crate::datapath::{attach_xdp, cgroup, kernel, object};
use crate::net::programs::{self, OnLink};

/// How often is looked.
const EVERY: Duration = Duration::from_millis(1_500);
/// What was seen longer ago may have been put in place meanwhile.
const FRESH: Duration = Duration::from_secs(1);

/// What is not where it should be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Missing {
    /// Interfaces without their programs.
    interfaces: BTreeSet<u32>,
    /// Are hooks of sockets off?
    sockets: bool,
    /// Are maps not pinned?
    maps: bool,
}

impl Missing {
    /// What is missing both now and `before`.
    fn still(&self, before: &Self) -> Self {
        Self {
            interfaces: &self.interfaces & &before.interfaces,
            sockets: self.sockets && before.sockets,
            maps: self.maps && before.maps,
        }
    }

    fn is_nothing(&self) -> bool {
        *self == Self::default()
    }
}

/// Looks after what the agent hung and pinned.
pub(super) struct Guard {
    _looking: Beside,
    seen: Receiver<(Instant, Missing)>,
}

impl Guard {
    /// Looks for as long as the result is held; for hooks of `sockets` where they are asked for.
    ///
    /// # Errors
    /// Where the map of interfaces is not there, or there can be no thread.
    pub(super) fn start(pins: &Pins, way: Way, sockets: bool) -> anyhow::Result<Self> {
        let rows = kernel::interfaces(pins)?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("starting the runtime of a thread")?;
        let eyes = Eyes { pins: pins.clone(), way: way.resolve(), sockets, rows, runtime };
        let (tell, seen) = channel(1);
        let mut before = Missing::default();
        let work = move || match eyes.look() {
            Ok(now) => {
                let missing = now.still(&before);
                before = now;
                if !missing.is_nothing() {
                    // Full: the loop is busy, and is told the next time.
                    let _told = tell.try_send((Instant::now(), missing));
                }
            }
            Err(error) => tracing::debug!(error = format!("{error:#}"), "looked in vain for what is missing"),
        };
        Ok(Self { _looking: Beside::start("guard", Some(EVERY), work)?, seen })
    }

    /// Waits until something is missing. Cancel safe.
    pub(super) async fn missing(&mut self) -> Missing {
        loop {
            match self.seen.recv().await {
                Some((at, missing)) if at.elapsed() < FRESH => return missing,
                Some(_) => {}
                None => std::future::pending().await,
            }
        }
    }
}

/// What is needed to look.
struct Eyes {
    pins: Pins,
    way: Way,
    /// Are hooks of sockets asked for?
    sockets: bool,
    rows: Table<u32, InterfaceRow>,
    runtime: Runtime,
}

impl Eyes {
    fn look(&self) -> anyhow::Result<Missing> {
        let rows = self.rows.rows().context("reading the map INTERFACES")?;
        let mut interfaces: BTreeSet<u32> = match self.way {
            Way::Clsact => without_filters(&rows, &self.runtime.block_on(programs::on_links())?),
            _ => rows
                .iter()
                .map(|(index, _)| *index)
                .filter(|index| !attach::hangs(&self.pins, *index))
                .collect(),
        };
        let shortcuts =
            rows.iter().filter(|(_, row)| row.flags.has(InterfaceFlags::XDP)).map(|(index, _)| *index);
        interfaces.extend(shortcuts.filter(|index| !attach_xdp::hangs(&self.pins, *index)));
        Ok(Missing {
            interfaces,
            sockets: self.sockets && !cgroup::hangs(&self.pins),
            maps: !object::is_pinned(&self.pins),
        })
    }
}

/// The interfaces that lack one of our filters.
fn without_filters(rows: &[(u32, InterfaceRow)], found: &[OnLink]) -> BTreeSet<u32> {
    let ours: BTreeSet<(u32, &str)> = found
        .iter()
        .filter(|filter| filter.name.as_deref().is_some_and(|name| OURS.contains(&name)))
        .map(|filter| (filter.link, filter.hook))
        .collect();
    let whole = |index: u32| {
        ["clsact ingress", "clsact egress"].into_iter().all(|hook| ours.contains(&(index, hook)))
    };
    rows.iter().map(|(index, _)| *index).filter(|index| !whole(*index)).collect()
}

impl Agent {
    /// Puts back what is missing, pins of maps first: what hangs programs goes by them.
    pub(super) async fn put_back(&mut self, missing: Missing) {
        let addresses = node_addresses(&self.state);
        let mut things = 0;
        if missing.maps {
            match self.pin_again() {
                Ok(maps) => {
                    tracing::warn!(
                        maps,
                        "somebody deleted the pins of maps; they are pinned again, with all their rows"
                    );
                    things += maps;
                }
                Err(error) => tracing::error!(
                    error = format!("{error:#}"),
                    "somebody deleted the pins of maps, and they could not be pinned again; tried again in a moment"
                ),
            }
        }
        if !missing.interfaces.is_empty() {
            things += self.interfaces.put_back(&missing.interfaces, &addresses).await;
        }
        if missing.sockets {
            let addresses = self.socket_addresses();
            things += usize::from(self.sockets.put_back(self.interfaces.programs(), &addresses));
        }
        self.reporter.put_back(things);
    }

    fn pin_again(&mut self) -> anyhow::Result<usize> {
        self.pins.prepare()?;
        if !self.lock.is_of(&self.pins) {
            self.lock = self.pins.lock()?;
        }
        let maps = object::pin_again(self.interfaces.programs()?, &self.pins)?;
        self.pins.note_layouts()?;
        Ok(maps)
    }
}

#[cfg(test)]
mod tests {
    use bytemuck::Zeroable as _;

    use super::*;

    fn filter(link: u32, hook: &'static str, name: &str) -> OnLink {
        OnLink { link, hook, id: None, name: Some(name.to_owned()) }
    }

    #[test]
    fn an_interface_needs_its_filters_at_both_hooks_and_others_do_not_count() {
        let rows = [2, 3, 4, 5].map(|index| (index, InterfaceRow::zeroed()));
        let found = [
            filter(2, "clsact ingress", "pod_ingress"),
            filter(2, "clsact egress", "pod_egress"),
            filter(3, "clsact ingress", "net_ingress"),
            filter(4, "clsact ingress", "cil_from_netdev"),
            filter(4, "clsact egress", "cil_to_netdev"),
        ];
        assert_eq!(without_filters(&rows, &found), BTreeSet::from([3, 4, 5]));
    }

    #[test]
    fn what_is_missing_is_what_two_looks_in_a_row_did_not_find() {
        let first = Missing { interfaces: BTreeSet::from([2, 3]), sockets: true, maps: false };
        let second = Missing { interfaces: BTreeSet::from([3, 4]), sockets: false, maps: true };
        assert_eq!(
            second.still(&first),
            Missing { interfaces: BTreeSet::from([3]), sockets: false, maps: false }
        );
        assert!(second.still(&Missing::default()).is_nothing());
    }
}
