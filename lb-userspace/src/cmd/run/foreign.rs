//! Connections that netfilter translates are left to it until they end.
//!
//! Decides when they are looked for: before programs are attached, while they are, and every few seconds until the
//! last has ended. Must not decide which count. Invariants: nothing waits for netfilter longer than [`PATIENCE`]; who
//! follows is a thread of its own, since a busy node's list takes long, and it ends with its work.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use anyhow::Context as _;
use lb_common::abi::{BackendFlags, Config, ConfigFlags, FlowKey, ForeignRow};
use lb_common::address::{Address, V4, V6};

use crate::datapath::clock::Clock;
use crate::datapath::kernel::{self, ForeignTables};
use crate::datapath::pins::Pins;
use crate::flows::foreign::{Changes, changes};
use crate::net::conntrack::{Newcomers, Translated, translated};
use crate::net::hold;

/// How often the list is read until nothing of it is left; at first, when most of it ends, more often.
const EVERY: Duration = Duration::from_secs(5);
const AT_FIRST: Duration = Duration::from_secs(1);
const FIRST_ROUNDS: u32 = 30;
/// Reading all backends takes an eighth of a second; they are asked about once in so many rounds.
const BACKENDS_EVERY: u32 = 6;
/// How long the start waits for the first list. A million connections take about a second.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a wait for word of new connections lasts while programs are being attached.
const GLANCE: Duration = Duration::from_millis(20);

/// Programs are being attached.
#[derive(Debug)]
pub(super) struct Attaching {
    pins: Pins,
    attached: Arc<AtomicBool>,
    listed: mpsc::Receiver<()>,
}

/// Copies the connections that netfilter translates to frontends, and follows them from then on. Returns when those
/// that are there now have their rows. Until [`Attaching::done`], segments of unknown connections are netfilter's too.
pub(super) fn begin(pins: &Pins, clock: Clock) -> Attaching {
    let attached = Arc::new(AtomicBool::new(false));
    let (copied, listed) = mpsc::channel();
    let (own_pins, seen) = (pins.clone(), attached.clone());
    let thread = std::thread::Builder::new().name("foreign".to_owned()).spawn(move || {
        if let Err(error) = follow(&own_pins, clock, &seen, &copied) {
            tracing::warn!(
                error = format!("{error:#}"),
                "connections that netfilter translates are not known or no longer followed: those that kube-proxy \
                 made may break, everything else goes on"
            );
        }
    });
    match thread {
        // Without a word the thread has ended, or has said why it will.
        Ok(_) if listed.recv_timeout(PATIENCE).is_ok() => taking_over(pins, true),
        Ok(_) => {}
        Err(error) => tracing::warn!(%error, "no thread for the connections that netfilter translates"),
    }
    Attaching { pins: pins.clone(), attached, listed }
}

impl Attaching {
    /// They are attached; what netfilter opened meanwhile gets its rows.
    pub(super) fn done(self) {
        self.attached.store(true, Ordering::Release);
        let _told_or_ended = self.listed.recv_timeout(PATIENCE);
        taking_over(&self.pins, false);
    }
}

/// While `on`, segments of connections that nobody knows are left alone.
pub(super) fn taking_over(pins: &Pins, on: bool) {
    let set = || {
        let before = kernel::config(pins)?;
        let others = before.flags.0 & !ConfigFlags::TAKING_OVER;
        let flags = ConfigFlags(if on { others | ConfigFlags::TAKING_OVER } else { others });
        kernel::set_config(pins, &Config { flags, ..before })
    };
    if let Err(error) = set() {
        tracing::error!(error = format!("{error:#}"), "connections opened in this very moment may break");
    }
}

fn follow(pins: &Pins, clock: Clock, attached: &AtomicBool, copied: &mpsc::Sender<()>) -> anyhow::Result<()> {
    let mut rows = Rows {
        v4: Family::new(kernel::foreign_v4(pins)?)?,
        v6: Family::new(kernel::foreign_v6(pins)?)?,
        clock,
    };
    let newcomers = Newcomers::watch()?;
    let whole = |rows: &mut Rows, serves: &dyn Fn(SocketAddr) -> bool| rows.update(&translated()?, serves);
    whole(&mut rows, &|_| true)?;
    if rows.count() > 0 {
        tracing::info!(
            connections = rows.count(),
            "connections that netfilter translates are left to it until they end"
        );
        // Else netfilter forgets how to translate when the last rule that does is gone.
        if let Err(error) = hold::hold() {
            tracing::warn!(
                error = format!("{error:#}"),
                "where kube-proxy's rules are the only ones that translate, leave them until its connections have ended"
            );
        }
    }
    let tell = || {
        // Nobody to tell is nobody who waits.
        let _ = copied.send(());
    };
    tell();
    while !attached.load(Ordering::Acquire) {
        newcomers.wait(GLANCE)?;
        rows.add(&newcomers.take()?)?;
    }
    drop(newcomers);
    let began = rows.count();
    for round in 1_u32.. {
        if round % BACKENDS_EVERY == 0 {
            let serving = rows.serving()?;
            whole(&mut rows, &|backend| serving.contains(&backend))?;
        } else {
            whole(&mut rows, &|_| true)?;
        }
        if round == 1 {
            tell();
        }
        if rows.count() == 0 {
            break;
        }
        std::thread::sleep(if round < FIRST_ROUNDS { AT_FIRST } else { EVERY });
    }
    if let Err(error) = hold::release() {
        // On a kernel without nftables there is nothing to release.
        tracing::debug!(error = format!("{error:#}"), "the table that kept netfilter translating");
    }
    if began > 0 {
        tracing::info!("the last connection that netfilter translated has ended");
    }
    Ok(())
}

/// The rows of both families.
struct Rows {
    v4: Family<V4>,
    v6: Family<V6>,
    clock: Clock,
}

/// The rows of a family.
struct Family<A: Address> {
    tables: ForeignTables<A>,
    rows: HashSet<FlowKey<A>>,
    told_full: bool,
}

impl Rows {
    fn count(&self) -> usize {
        self.v4.rows.len() + self.v6.rows.len()
    }

    /// Makes the tables what `connections` say.
    fn update(
        &mut self,
        connections: &[Translated],
        serves: &dyn Fn(SocketAddr) -> bool,
    ) -> anyhow::Result<()> {
        let row = self.row()?;
        self.v4.update(connections, serves, row)?;
        self.v6.update(connections, serves, row)
    }

    /// Adds connections that are new.
    fn add(&mut self, connections: &[Translated]) -> anyhow::Result<()> {
        if connections.is_empty() {
            return Ok(());
        }
        let row = self.row()?;
        self.v4.add(connections, row)?;
        self.v6.add(connections, row)
    }

    fn row(&self) -> anyhow::Result<ForeignRow> {
        Ok(ForeignRow { last_seen: self.clock.now()? })
    }

    /// Every backend that serves, unless no row asks for one.
    fn serving(&self) -> anyhow::Result<HashSet<SocketAddr>> {
        let mut all = self.v4.serving()?;
        all.extend(self.v6.serving()?);
        Ok(all)
    }
}

impl<A: Address> Family<A> {
    fn new(tables: ForeignTables<A>) -> anyhow::Result<Self> {
        let found = tables.rows.rows().with_context(|| format!("reading the map {}", tables.rows.name()))?;
        Ok(Self { tables, rows: found.into_iter().map(|(key, _)| key).collect(), told_full: false })
    }

    fn update(
        &mut self,
        connections: &[Translated],
        serves: &dyn Fn(SocketAddr) -> bool,
        row: ForeignRow,
    ) -> anyhow::Result<()> {
        let frontends = &self.tables.frontends;
        let is_frontend = |key: &_| matches!(frontends.get(key), Ok(Some(_)));
        let Changes { fresh, gone } = changes(&self.rows, connections, is_frontend, serves);
        for key in gone {
            self.tables.rows.delete(&key).with_context(|| self.writing())?;
            self.rows.remove(&key);
        }
        fresh.into_iter().try_for_each(|key| self.put(key, row))
    }

    fn add(&mut self, connections: &[Translated], row: ForeignRow) -> anyhow::Result<()> {
        let frontends = &self.tables.frontends;
        let is_frontend = |key: &_| matches!(frontends.get(key), Ok(Some(_)));
        let Changes { fresh, .. } = changes(&self.rows, connections, is_frontend, |_| true);
        fresh.into_iter().try_for_each(|key| self.put(key, row))
    }

    fn put(&mut self, key: FlowKey<A>, row: ForeignRow) -> anyhow::Result<()> {
        match self.tables.rows.put(&key, &row) {
            Ok(()) => {
                self.rows.insert(key);
                Ok(())
            }
            Err(error) if error.raw_os_error() == Some(libc::E2BIG) => {
                if !std::mem::replace(&mut self.told_full, true) {
                    tracing::warn!(
                        map = self.tables.rows.name(),
                        rows = self.rows.len(),
                        "full: connections that netfilter translates beyond these will break"
                    );
                }
                Ok(())
            }
            Err(error) => Err(error).with_context(|| self.writing()),
        }
    }

    fn writing(&self) -> String {
        format!("writing the map {}", self.tables.rows.name())
    }

    fn serving(&self) -> anyhow::Result<HashSet<SocketAddr>> {
        if self.rows.is_empty() {
            return Ok(HashSet::new());
        }
        let backends = &self.tables.backends;
        let rows = backends.rows().with_context(|| format!("reading the map {}", backends.name()))?;
        let serving = rows.into_iter().filter(|(_, row)| { row.flags }.has(BackendFlags::SERVING));
        Ok(serving.map(|(_, row)| SocketAddr::new({ row.addr }.to_ip(), { row.port }.get())).collect())
    }
}
