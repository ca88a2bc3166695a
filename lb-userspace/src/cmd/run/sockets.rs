//! The node's own sockets: the hooks that translate them, and those left on a dead backend.
//!
//! Decides what the option asks for and what is said where it cannot be had. Must not know how programs are attached
//! or sockets closed. Invariants: what a previous agent attached works on until this one has replaced it; without
//! sockets everything else goes on.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use lb_common::abi::{self, ABI_VERSION, BackendId, BackendRow, Config, ConfigFlags};
use lb_common::address::{Address, Protocol, V4, V6};

use super::beside::Beside;
use crate::datapath::kernel::SocketTable;
use crate::datapath::object::Programs;
use crate::datapath::pins::Pins;
use crate::datapath::table::Table;
use crate::datapath::{cgroup, kernel};
use crate::flows::sockets::{Stranded, cookies, stranded};
use crate::net::sockets::{Kind, Peers, close_all};

/// How often sockets on dead backends are looked for without being asked to: one that chose its backend in the moment
/// when that stopped serving was in no map yet when it was asked.
const LOOK_EVERY: Duration = Duration::from_secs(30);
/// How long after a failure the programs are hung on the cgroup once more.
const RETRY: Duration = Duration::from_secs(5);

/// Which processes are served where they connect, and where the hooks hang.
#[derive(clap::Args, Clone, Debug)]
pub(super) struct SocketArgs {
    /// Whose connections are translated in the system call that opens them.
    #[arg(long, value_enum, default_value = "host")]
    socket_lb: SocketLb,
    /// The cgroup whose processes that is about; by default the root of the unified hierarchy (cgroup2).
    #[arg(long, value_name = "DIR")]
    cgroup: Option<PathBuf>,
}

/// Whose connections are translated in the system call that opens them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum SocketLb {
    /// The node's own, TCP and UDP: those of the network namespace that the agent runs in.
    Host,
    /// The pods' too, by TCP. What they send by UDP is translated at their interfaces, as without this; and all of it
    /// where connections to vanished backends are to be reset: a pod's socket cannot be closed from outside of it.
    All,
    /// Nobody's: processes of the node itself do not reach Services.
    Off,
}

impl SocketArgs {
    /// Are anybody's?
    pub(super) fn are_served(&self) -> bool {
        self.socket_lb != SocketLb::Off
    }
}

/// The configuration's bits that are about sockets.
pub(super) const FLAGS: u32 = ConfigFlags::SOCKETS | ConfigFlags::POD_SOCKETS;

impl SocketLb {
    /// The configuration's bits, beside these others.
    const fn flags(self, others: ConfigFlags) -> u32 {
        match self {
            Self::Off => 0,
            // The packets' hooks can reset a pod's connection (C37); of one that was translated in its system call they
            // know nothing.
            Self::All if !others.has(ConfigFlags::RESET_VANISHED) => FLAGS,
            Self::Host | Self::All => ConfigFlags::SOCKETS,
        }
    }
}

/// The node's own sockets.
pub(super) struct Sockets {
    args: SocketArgs,
    pins: Pins,
    closing: Beside,
    attached: bool,
    retry_at: Option<Instant>,
}

impl Sockets {
    pub(super) fn new(args: SocketArgs, pins: Pins) -> anyhow::Result<Self> {
        let closer = Closer::open(&pins)?;
        let closing = Beside::start("sockets", Some(LOOK_EVERY), move || closer.close_stranded())?;
        Ok(Self { args, pins, closing, attached: false, retry_at: None })
    }

    /// Takes over into `config` what the hooks of a previous agent go by.
    pub(super) fn carry_over(pins: &Pins, config: Config) -> anyhow::Result<Config> {
        let before = kernel::config(pins)?;
        if before.abi_version != ABI_VERSION {
            return Ok(config);
        }
        let Config { node_v4, node_v6, netns_cookie, .. } = before;
        let flags = ConfigFlags(config.flags.0 | (before.flags.0 & FLAGS));
        Ok(Config { flags, node_v4, node_v6, netns_cookie, ..config })
    }

    /// When to hang the programs on the cgroup once more; `None`: they hang there.
    pub(super) fn retry_at(&self) -> Option<Instant> {
        self.retry_at
    }

    /// Follows the node's addresses. With programs, first hangs them on the cgroup, or takes a previous agent's off,
    /// as the option says.
    pub(super) fn update(
        &mut self,
        programs: Option<anyhow::Result<&mut Programs>>,
        node_addresses: &[IpAddr],
    ) {
        let (result, so) = match programs {
            Some(programs) => {
                let result = programs.and_then(|programs| self.attach(programs, node_addresses));
                self.retry_at = result.is_err().then(|| Instant::now() + RETRY);
                (
                    result,
                    "processes of the node itself do not reach Services, or only as a previous agent left it; \
                     everything else goes on (with --socket-lb off that is meant); tried again in a moment",
                )
            }
            None if self.attached => {
                (self.configure(node_addresses), "the node's own connections count as of an old address")
            }
            None => return,
        };
        if let Err(error) = result {
            tracing::error!(error = format!("{error:#}"), "{so}");
        }
    }

    /// Hangs the programs on the cgroup again, if this agent had; says whether they hang.
    pub(super) fn put_back(
        &mut self,
        programs: anyhow::Result<&mut Programs>,
        node_addresses: &[IpAddr],
    ) -> bool {
        if !self.attached {
            return false;
        }
        self.update(Some(programs), node_addresses);
        let back = self.retry_at.is_none();
        if back {
            tracing::warn!("somebody took the socket hooks off, or deleted their pins; they hang again");
        }
        back
    }

    fn attach(&mut self, programs: &mut Programs, node_addresses: &[IpAddr]) -> anyhow::Result<()> {
        if self.args.socket_lb == SocketLb::Off {
            let hung = cgroup::detach(&self.pins)?;
            if hung > 0 {
                tracing::info!("the hooks that a previous agent hung on a cgroup are gone");
            }
            return self.configure(node_addresses);
        }
        let cgroup = match &self.args.cgroup {
            Some(cgroup) => cgroup.clone(),
            None => cgroup::root()?,
        };
        cgroup::attach(programs, &self.pins, &cgroup)?;
        self.attached = true;
        self.configure(node_addresses)?;
        tracing::info!(cgroup = %cgroup.display(), whose = ?self.args.socket_lb, "sockets are served");
        Ok(())
    }

    fn configure(&self, node_addresses: &[IpAddr]) -> anyhow::Result<()> {
        let before = kernel::config(&self.pins)?;
        let config = Config {
            flags: ConfigFlags(before.flags.0 & !FLAGS | self.args.socket_lb.flags(before.flags)),
            node_v4: first(node_addresses),
            node_v6: first(node_addresses),
            netns_cookie: cgroup::netns_cookie()?,
            ..before
        };
        kernel::set_config(&self.pins, &config)?;
        Ok(())
    }

    /// Has the connected UDP sockets closed whose backend serves no longer, by what now stands in the maps (C36), and
    /// TCP connections whose backend is no more, where that is asked for (C37).
    pub(super) fn close_stranded(&self) {
        if self.attached {
            self.closing.ask();
        }
    }
}

/// Finds and closes what is left on a dead backend.
struct Closer {
    pins: Pins,
    v4: FamilyTables<V4>,
    v6: FamilyTables<V6>,
}

struct FamilyTables<A: Address> {
    sockets: SocketTable<A>,
    backends: Table<BackendId, BackendRow<A>>,
}

impl Closer {
    fn open(pins: &Pins) -> anyhow::Result<Self> {
        let (v4, v6) = kernel::sockets(pins)?;
        Ok(Self {
            pins: pins.clone(),
            v4: FamilyTables { sockets: v4, backends: Table::open(&pins.map(abi::BACKENDS_V4))? },
            v6: FamilyTables { sockets: v6, backends: Table::open(&pins.map(abi::BACKENDS_V6))? },
        })
    }

    fn close_stranded(&self) {
        match self.try_close() {
            Ok(0) => {}
            Ok(sockets) => tracing::info!(sockets, "closed sockets that were left on a dead backend"),
            Err(error) => tracing::error!(
                error = format!("{error:#}"),
                "sockets of the node may be left on a dead backend; tried again when another one goes"
            ),
        }
    }

    fn try_close(&self) -> anyhow::Result<usize> {
        let udp = self.close(Kind::Udp)?;
        let resets = kernel::config(&self.pins)?.flags.has(ConfigFlags::RESET_VANISHED);
        let tcp = if resets { self.close(Kind::Tcp)? } else { 0 };
        Ok(udp + tcp)
    }

    fn close(&self, kind: Kind) -> anyhow::Result<usize> {
        let (v4, v6) = (self.v4.stranded(kind)?, self.v6.stranded(kind)?);
        let mut peers = Peers::new();
        for (cookie, backends) in cookies(&v4).chain(cookies(&v6)) {
            peers.entry(cookie).or_default().extend(backends);
        }
        if peers.is_empty() {
            return Ok(0);
        }
        let closed = close_all(kind, &peers)?;
        // Also of sockets that their owners closed before.
        self.v4.forget(&v4)?;
        self.v6.forget(&v6)?;
        Ok(closed)
    }
}

impl<A: Address> FamilyTables<A> {
    fn stranded(&self, kind: Kind) -> anyhow::Result<Vec<Stranded<A>>> {
        let rows = self.sockets.rows().with_context(|| format!("reading the map {}", self.sockets.name()))?;
        let protocol = match kind {
            Kind::Udp => Protocol::UDP,
            Kind::Tcp => Protocol::TCP,
        };
        // A backend that cannot be read is not said to be dead.
        let mut failed = Ok(());
        let backend = |id| {
            self.backends.get(&id).unwrap_or_else(|error| {
                failed = Err(error);
                None
            })
        };
        let stranded = stranded(&rows, protocol, backend);
        failed.with_context(|| format!("reading the map {}", self.backends.name()))?;
        Ok(stranded)
    }

    fn forget(&self, gone: &[Stranded<A>]) -> anyhow::Result<()> {
        for socket in gone {
            let doing = || format!("writing the map {}", self.sockets.name());
            self.sockets.delete(&socket.key).with_context(doing)?;
        }
        Ok(())
    }
}

/// The addresses of which the first of each family is what loopback stands for (C17) and the node's own connections
/// count as of (C30): one of the node's where NodePorts are served there, else another where they are.
pub(super) fn standing(node: &[IpAddr], node_ports: &[IpAddr]) -> Vec<IpAddr> {
    let both = node.iter().filter(|address| node_ports.contains(address));
    both.chain(node_ports).chain(node).copied().collect()
}

fn first<A: Address + Default>(addresses: &[IpAddr]) -> A {
    addresses.iter().find_map(|address| A::from_ip(*address)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn c17_loopback_stands_for_an_address_where_node_ports_are_served() {
        let ips = |text: &str| text.split_whitespace().map(|ip| ip.parse().unwrap()).collect::<Vec<IpAddr>>();
        let node = ips("10.0.0.1 fd00::1");
        let of = |node_ports: &str| {
            let standing = standing(&node, &ips(node_ports));
            (first::<V4>(&standing).to_ip().to_string(), first::<V6>(&standing).to_ip().to_string())
        };
        let own = ("10.0.0.1".to_owned(), "fd00::1".to_owned());
        assert_eq!(of("10.0.0.1 fd00::1"), own);
        assert_eq!(of("10.0.0.0 10.0.0.1 fd00::1 fd00::"), own, "the node's own goes before others");
        assert_eq!(
            of("192.0.2.7"),
            ("192.0.2.7".to_owned(), "fd00::1".to_owned()),
            "NodePorts are elsewhere"
        );
        assert_eq!(of(""), own);
    }
}
