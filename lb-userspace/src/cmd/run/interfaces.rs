//! The programs follow the host's interfaces.
//!
//! Decides which interfaces to attach to and detach from, from what `net` says they are. Must not know
//! Services. Invariants: an interface's row is written before its programs are attached; one interface's trouble
//! does not hold up another's.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use lb_common::abi::{InterfaceRow, Role};

use crate::datapath::attach::{self, Interface, Suite, Way};
use crate::datapath::kernel;
use crate::datapath::object::Programs;
use crate::datapath::pins::Pins;
use crate::datapath::table::Table;
use crate::net::links::{Link, Watcher};
use crate::net::role::{self, Roles};

/// When to try an interface again that could not be attached to.
const RETRY: Duration = Duration::from_secs(5);
const ETHERNET: u32 = 14;

/// The host's interfaces and the programs on them.
pub(super) struct Interfaces {
    watcher: Watcher,
    programs: Programs,
    pins: Pins,
    rows: Table<u32, InterfaceRow>,
    way: Way,
    patterns: Option<Vec<String>>,
    attached: BTreeMap<u32, (Interface, Suite)>,
    retry_at: Option<Instant>,
}

impl Interfaces {
    pub(super) fn new(
        programs: Programs,
        pins: Pins,
        way: Way,
        patterns: Option<Vec<String>>,
    ) -> anyhow::Result<Self> {
        Ok(Self {
            watcher: Watcher::new().context("watching the host's interfaces")?,
            rows: kernel::interfaces(&pins)?,
            programs,
            pins,
            way,
            patterns,
            attached: BTreeMap::new(),
            retry_at: None,
        })
    }

    /// Waits until something about links, addresses or routes changes.
    pub(super) async fn changed(&mut self) -> anyhow::Result<()> {
        self.watcher.changed().await
    }

    pub(super) fn retry_at(&self) -> Option<Instant> {
        self.retry_at
    }

    pub(super) fn attached(&self) -> usize {
        self.attached.len()
    }

    /// Attaches to interfaces that lead to pods or off the node now, and lets go of those that do not or are gone.
    pub(super) async fn update(&mut self, node_addresses: &[IpAddr]) {
        self.retry_at = None;
        if let Err(error) = self.try_update(node_addresses).await {
            tracing::error!(
                error = format!("{error:#}"),
                "the host's interfaces could not be looked at; tried again later"
            );
            self.retry_at = Some(Instant::now() + RETRY);
        }
    }

    async fn try_update(&mut self, node_addresses: &[IpAddr]) -> anyhow::Result<()> {
        let links = self.watcher.snapshot().await?;
        let roles = Roles::new(self.patterns.as_deref(), node_addresses)?;
        let ours: BTreeMap<u32, (&Link, role::Role)> =
            links.iter().filter_map(|link| Some((link.index, (link, roles.of(link)?)))).collect();
        let present: BTreeSet<u32> = links.iter().map(|link| link.index).collect();
        self.let_go(&ours, &present)?;
        for (link, role) in ours.values() {
            if let Err(error) = self.take(link, *role, node_addresses) {
                tracing::error!(
                    interface = link.name,
                    error = format!("{error:#}"),
                    "no Services for who is behind this interface; tried again later"
                );
                self.retry_at = Some(Instant::now() + RETRY);
            }
        }
        Ok(())
    }

    fn take(&mut self, link: &Link, role: role::Role, node_addresses: &[IpAddr]) -> anyhow::Result<()> {
        let (suite, row_role) = match (role, link.ethernet) {
            (role::Role::Pod, true) => (Suite::Pod, Role::POD),
            (role::Role::Net, true) => (Suite::Net, Role::NET),
            (role::Role::Net, false) => (Suite::BareNet, Role::NET),
            (role::Role::Pod, false) => anyhow::bail!(
                "the interface {} has no Ethernet header, as every pod's has: leave it out by --pod-interfaces",
                link.name
            ),
        };
        let (v4, v6) = role::masquerade_addresses(link, node_addresses);
        let row = InterfaceRow {
            role: row_role,
            l2_len: if link.ethernet { ETHERNET } else { 0 },
            masquerade_v4: v4.map(Into::into).unwrap_or_default(),
            masquerade_v6: v6.map(Into::into).unwrap_or_default(),
            pad: 0,
        };
        if self.rows.get(&link.index).context("reading the map INTERFACES")? != Some(row) {
            self.rows.put(&link.index, &row).context("writing the map INTERFACES")?;
        }
        let interface = Interface { index: link.index, name: link.name.clone() };
        if self.attached.get(&link.index).map(|(_, suite)| *suite) != Some(suite) {
            attach::attach(&mut self.programs, &self.pins, &interface, suite, self.way)?;
            tracing::info!(interface = link.name, leads = role.leads(), "attached");
        }
        self.attached.insert(link.index, (interface, suite));
        Ok(())
    }

    /// Lets go of what a previous agent or this one attached to and leads nowhere any more.
    fn let_go(
        &mut self,
        ours: &BTreeMap<u32, (&Link, role::Role)>,
        present: &BTreeSet<u32>,
    ) -> anyhow::Result<()> {
        let rows = self.rows.rows().context("reading the map INTERFACES")?;
        let mut known: BTreeSet<u32> = rows.into_iter().map(|(index, _)| index).collect();
        known.extend(attach::pinned(&self.pins)?);
        known.extend(self.attached.keys());
        for index in known.into_iter().filter(|index| !ours.contains_key(index)) {
            match self.attached.remove(&index) {
                Some((interface, _)) if present.contains(&index) => {
                    attach::detach(&self.pins, &interface)?;
                    tracing::info!(interface = interface.name, "let go");
                }
                _ => attach::forget(&self.pins, index)?,
            }
            self.rows.delete(&index).context("writing the map INTERFACES")?;
        }
        Ok(())
    }
}
