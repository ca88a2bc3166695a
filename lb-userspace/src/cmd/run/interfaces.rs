//! The programs follow the host's interfaces.
//!
//! Decides which interfaces to attach to and detach from, from what `net` says they are. Must not know
//! Services. Invariants: an interface's row is written before its programs are attached; one interface's trouble
//! does not hold up another's.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use lb_common::abi::{InterfaceFlags, InterfaceRow, Role};

use super::prepared::{Guess, Prepared};
use crate::datapath::attach::{self, Interface, Suite, Way};
use crate::datapath::attach_xdp::{self, Outcome};
use crate::datapath::kernel;
use crate::datapath::object::Programs;
use crate::datapath::pins::Pins;
use crate::datapath::table::Table;
use crate::net::links::{Link, Watcher};
use crate::net::role::{self, Roles};
use crate::net::window::{self, Relaxed};

/// When to try an interface again that could not be attached to.
const RETRY: Duration = Duration::from_secs(5);
const ETHERNET: u32 = 14;

/// How programs hang on interfaces.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ways {
    /// Those at traffic-control hooks.
    pub(super) tc: Way,
    /// The one before the stack.
    pub(super) xdp: attach_xdp::Mode,
}

/// The host's interfaces and the programs on them.
pub(super) struct Interfaces {
    watcher: Watcher,
    programs: Prepared,
    pins: Pins,
    rows: Table<u32, InterfaceRow>,
    ways: Ways,
    patterns: Option<Vec<String>>,
    attached: BTreeMap<u32, (Interface, Suite)>,
    retry_at: Option<Instant>,
}

impl Interfaces {
    /// Begins to load the programs that the links of now are likely to get, and those for sockets.
    pub(super) async fn new(
        programs: Programs,
        pins: Pins,
        ways: Ways,
        patterns: Option<Vec<String>>,
        sockets: bool,
    ) -> anyhow::Result<Self> {
        let watcher = Watcher::new().context("watching the host's interfaces")?;
        // Asked again when it counts. The Node's addresses, which roles may depend on, are not known yet.
        let links = watcher.snapshot().await.unwrap_or_default();
        let guess = guess(&links, &Roles::new(patterns.as_deref(), &[])?, ways, sockets);
        Ok(Self {
            watcher,
            rows: kernel::interfaces(&pins)?,
            programs: Prepared::begin(programs, &pins, guess)?,
            pins,
            ways,
            patterns,
            attached: BTreeMap::new(),
            retry_at: None,
        })
    }

    /// Waits until something about links, addresses or routes changes.
    pub(super) async fn changed(&mut self) -> anyhow::Result<()> {
        self.watcher.changed().await
    }

    /// The programs, for hooks that are on no interface.
    ///
    /// # Errors
    /// As [`Prepared::get`].
    pub(super) fn programs(&mut self) -> anyhow::Result<&mut Programs> {
        self.programs.get()
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

    /// Hangs the programs again on those of these interfaces that are still there; says on how many.
    pub(super) async fn put_back(&mut self, indices: &BTreeSet<u32>, node_addresses: &[IpAddr]) -> usize {
        let taken: Vec<Interface> =
            indices.iter().filter_map(|index| Some(self.attached.remove(index)?.0)).collect();
        self.update(node_addresses).await;
        let back = || taken.iter().filter(|interface| self.attached.contains_key(&interface.index));
        for interface in back() {
            tracing::warn!(
                interface = interface.name,
                "somebody took the programs off this interface, or deleted their pins; they hang again"
            );
        }
        back().count()
    }

    async fn try_update(&mut self, node_addresses: &[IpAddr]) -> anyhow::Result<()> {
        kernel::void_shortcuts(&self.pins)?;
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
        let Some(suite) = suite_of(link, role) else {
            anyhow::bail!(
                "the interface {} has no Ethernet header, as every pod's has: leave it out by --pod-interfaces",
                link.name
            );
        };
        let row_role = if role == role::Role::Pod { Role::POD } else { Role::NET };
        let (v4, v6) = role::masquerade_addresses(link, node_addresses);
        let interface = Interface { index: link.index, name: link.name.clone() };
        let known = self.attached.get(&link.index).map(|(_, suite)| *suite) == Some(suite);
        let old = self.rows.get(&link.index).context("reading the map INTERFACES")?;
        let kept = old.map_or(InterfaceFlags::default(), |row| row.flags);
        let mut row = InterfaceRow {
            role: row_role,
            l2_len: if link.ethernet { ETHERNET } else { 0 },
            masquerade_v4: v4.map(Into::into).unwrap_or_default(),
            masquerade_v6: v6.map(Into::into).unwrap_or_default(),
            flags: kept,
        };
        if old != Some(row) {
            self.rows.put(&link.index, &row).context("writing the map INTERFACES")?;
        }
        if !known {
            attach::attach(self.programs.get()?, &self.pins, &interface, suite, self.ways.tc)?;
            tracing::info!(interface = link.name, leads = role.leads(), "attached");
            row.flags = self.take_xdp(link, suite, &interface)?;
            if row.flags != kept {
                self.rows.put(&link.index, &row).context("writing the map INTERFACES")?;
            }
        }
        self.attached.insert(link.index, (interface, suite));
        Ok(())
    }

    /// Hangs the XDP program on an uplink, or takes off the one of before where it is not wanted.
    fn take_xdp(
        &mut self,
        link: &Link,
        suite: Suite,
        interface: &Interface,
    ) -> anyhow::Result<InterfaceFlags> {
        if !wants_xdp(link, suite, self.ways.xdp) {
            attach_xdp::detach(&self.pins, link.index)?;
            return Ok(InterfaceFlags::default());
        }
        let required = self.ways.xdp == attach_xdp::Mode::Require;
        match attach_xdp::attach(self.programs.get()?, &self.pins, interface)? {
            Outcome::Attached => return self.open_shortcut(link, required),
            Outcome::Foreign if required => anyhow::bail!(
                "another XDP program hangs on {}: take it off, or leave --xdp at auto",
                link.name
            ),
            Outcome::Unsupported(reason) if required => anyhow::bail!(
                "the driver of {} takes no XDP program ({reason}): leave --xdp at auto",
                link.name
            ),
            Outcome::Foreign => tracing::warn!(
                interface = link.name,
                "another XDP program hangs here and stays; Services are served behind it, by the stack"
            ),
            Outcome::Unsupported(reason) => {
                tracing::info!(
                    interface = link.name,
                    reason,
                    "no XDP here; Services are served by the stack"
                );
            }
        }
        Ok(InterfaceFlags::default())
    }

    /// Packets pass by the stack, and so by conntrack, which must not take offence; where it would, they do not.
    fn open_shortcut(&self, link: &Link, required: bool) -> anyhow::Result<InterfaceFlags> {
        match window::relax() {
            Ok(relaxed) => {
                tracing::info!(interface = link.name, "packets of masqueraded flows pass by the stack (XDP)");
                if relaxed == Relaxed::Now {
                    tracing::info!("net.netfilter.nf_conntrack_tcp_be_liberal is 1 now, which that needs");
                }
                Ok(InterfaceFlags(InterfaceFlags::XDP))
            }
            Err(error) => {
                attach_xdp::detach(&self.pins, link.index)?;
                if required {
                    return Err(error);
                }
                let error = format!("{error:#}");
                tracing::warn!(interface = link.name, error, "no XDP here; Services are served by the stack");
                Ok(InterfaceFlags::default())
            }
        }
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
            attach_xdp::detach(&self.pins, index)?;
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

/// Which programs a link gets; `None`: it has no Ethernet header, and those for pods need one.
fn suite_of(link: &Link, role: role::Role) -> Option<Suite> {
    match (role, link.ethernet) {
        (role::Role::Pod, true) => Some(Suite::Pod),
        (role::Role::Pod, false) => None,
        (role::Role::Net, true) => Some(Suite::Net),
        (role::Role::Net, false) => Some(Suite::BareNet),
    }
}

fn wants_xdp(link: &Link, suite: Suite, mode: attach_xdp::Mode) -> bool {
    suite == Suite::Net
        && match mode {
            attach_xdp::Mode::Off => false,
            // A veth's peer drops what XDP sends unless it is set up for it.
            attach_xdp::Mode::Auto => link.kind.is_none(),
            attach_xdp::Mode::Require => !role::is_tunnel(link),
        }
}

fn guess(links: &[Link], roles: &Roles, ways: Ways, sockets: bool) -> Guess {
    let mut guess = Guess { sockets, ..Guess::default() };
    for (link, suite) in links.iter().filter_map(|link| Some((link, suite_of(link, roles.of(link)?)?))) {
        guess.xdp |= wants_xdp(link, suite, ways.xdp);
        if !guess.suites.contains(&suite) {
            guess.suites.push(suite);
        }
    }
    guess
}
