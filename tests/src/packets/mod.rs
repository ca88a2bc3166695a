//! The datapath without a network: a packet in, a packet, a verdict and rows out, by BPF_PROG_TEST_RUN.
//!
//! Decides how programs and maps are set up for that. Must not judge results, but for one thing: exactly one
//! verdict counter moves in each run. Invariant: its pins go with it, also those of a process that died.

mod ends;
mod frame;
mod icmp;
mod programs;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context as _, Result};
use aya::maps::{Map, MapData, PerCpuArray};
use aya::programs::{TestRun as _, TestRunOptions};
use bytemuck::{Pod, Zeroable as _};
use lb_common::abi::{
    self, BackendFlags, BackendId, BackendRow, Config, ConfigFlags, FrontendFlags, FrontendKey, FrontendRow,
    InterfaceFlags, InterfaceRow, Role, SlotRange, Verdict,
};
use lb_common::address::{Address, Port, Protocol};
use lb_userspace::datapath::clock::Clock;
use lb_userspace::datapath::kernel::{self, FlowTables, KernelMaps};
use lb_userspace::datapath::object::{self, Programs, Sizes};
use lb_userspace::datapath::pins::Pins;
use lb_userspace::datapath::strangers::Acquaintances;
use lb_userspace::datapath::table::Table;
use lb_userspace::tables::{Family, MapOp, Maps as _, Tables};

pub use aya::programs::xdp::XdpLink;
pub use ends::{Ends, Law, both};
pub use frame::{Frame, checksums_hold, sockets_of};
pub use icmp::{too_big, too_big_quoting};
pub use programs::Instructions;

use crate::lab::{PIN_ROOT, programs_folder, remove_leftovers};

/// Ports for masqueraded flows in these tests.
pub const MASQUERADE_PORTS: (u16, u16) = (61_000, 61_999);
/// The loopback's index, by which test runs come in.
const LOOPBACK: u32 = 1;

/// The programs, and maps of their own.
pub struct Datapath {
    programs: Programs,
    pins: Pins,
    root: PathBuf,
    maps: KernelMaps,
    verdicts: PerCpuArray<MapData, u64>,
    next_id: u32,
}

/// What a run did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ran {
    /// The one counter that moved.
    pub verdict: Verdict,
    /// What the program returned: -1 to go on, 2 to drop, 7 to send back.
    pub action: i32,
    /// The packet afterwards.
    pub frame: Vec<u8>,
}

/// A service port, as rows.
#[derive(Clone, Debug, Default)]
pub struct Service<'a> {
    /// What clients dial.
    pub frontend: Option<SocketAddr>,
    /// TCP or UDP.
    pub protocol: Protocol,
    /// Who serves.
    pub backends: &'a [SocketAddr],
    /// Those of them that are on this node.
    pub local: &'a [SocketAddr],
    /// [`FrontendFlags`].
    pub flags: u32,
    /// Affinity, in seconds.
    pub affinity_seconds: u32,
}

impl Datapath {
    /// Loads programs and maps.
    pub fn load() -> Result<Self> {
        Self::load_sized(&sizes())
    }

    /// Loads programs and maps, with as many rows for each map as `sizes` says, else its default.
    pub fn load_sized(sizes: &Sizes) -> Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        remove_leftovers()?;
        let root = Path::new(PIN_ROOT).join(programs_folder(NEXT.fetch_add(1, Ordering::Relaxed)));
        let pins = Pins::at(&root);
        pins.prepare()?;
        let programs = object::load(Some(&pins), sizes)?;
        let verdicts = MapData::from_pin(pins.map(abi::VERDICTS)).context("opening VERDICTS")?;
        let mut maps = KernelMaps::open(&pins)?;
        // Whoever is not told of later.
        maps.set_strangers(&Acquaintances::of(&Tables::default(), 0..=0))?;
        let datapath = Self {
            programs,
            maps,
            verdicts: PerCpuArray::try_from(Map::PerCpuArray(verdicts)).context("opening VERDICTS")?,
            pins,
            root,
            next_id: 1,
        };
        datapath.configure(0)?;
        Ok(datapath)
    }

    /// Sets the node's configuration, with these [`ConfigFlags`].
    pub fn configure(&self, flags: u32) -> Result<()> {
        let config = Config {
            abi_version: abi::ABI_VERSION,
            ticks_per_second: Clock::read()?.ticks_per_second,
            masquerade_port_first: MASQUERADE_PORTS.0,
            masquerade_port_last: MASQUERADE_PORTS.1,
            flags: ConfigFlags(flags),
            opening_timeout: 60,
            ..Config::default()
        };
        self.set_config(&config)?;
        self.set_masquerade_addresses("192.0.2.1", "2001:db8::1")
    }

    /// Writes the node's configuration as it is.
    pub fn set_config(&self, config: &Config) -> Result<()> {
        kernel::set_config(&self.pins, config).map(|_written| ())
    }

    /// A table of the datapath's.
    pub fn table<K: Pod, V: Pod>(&self, map: abi::MapName) -> Result<Table<K, V>> {
        Table::open(&self.pins.map(map))
    }

    /// Time stands still for whatever lasts a second.
    pub fn let_shortcuts_last(&self) -> Result<()> {
        let config = kernel::config(&self.pins)?;
        kernel::set_config(&self.pins, &Config { ticks_per_second: u32::MAX, ..config }).map(|_| ())
    }

    /// A link, an address or a route has changed.
    pub fn routes_changed(&self) -> Result<()> {
        kernel::void_shortcuts(&self.pins)
    }

    /// Sets the addresses that the test's interface masquerades with.
    pub fn set_masquerade_addresses(&self, v4: &str, v6: &str) -> Result<()> {
        let v4: std::net::Ipv4Addr = v4.parse().context("an IPv4 address")?;
        let v6: std::net::Ipv6Addr = v6.parse().context("an IPv6 address")?;
        let row = InterfaceRow {
            role: Role::POD,
            l2_len: 14,
            masquerade_v4: v4.into(),
            masquerade_v6: v6.into(),
            flags: InterfaceFlags::default(),
        };
        kernel::interfaces(&self.pins)?.put(&LOOPBACK, &row).context("writing INTERFACES")
    }

    /// Publishes a service port; its backends get ids of their own, which it returns.
    pub fn publish<A: Family>(&mut self, service: &Service<'_>) -> Result<Vec<BackendId>> {
        let owner = self.next_id;
        let ids: Vec<BackendId> = (owner..).take(service.backends.len()).map(BackendId).collect();
        let count = u32::try_from(service.backends.len())?;
        self.next_id += count + 1;
        let mut operations = Vec::new();
        for (id, backend) in ids.iter().zip(service.backends) {
            let local = if service.local.contains(backend) { BackendFlags::LOCAL } else { 0 };
            let flags = BackendFlags::SERVING | BackendFlags::IN_CLUSTER_SET | local;
            operations.push(A::put_backend(*id, backend_row::<A>(*backend, flags, owner)));
        }
        let range = SlotRange { start: owner, len: count };
        operations.push(MapOp::PutSlots { start: owner, backends: ids.clone() });
        if let Some(frontend) = service.frontend {
            let key = frontend_key::<A>(frontend, service.protocol);
            let row = FrontendRow {
                tag: key.tag(),
                service_port: owner,
                flags: FrontendFlags(service.flags),
                affinity_seconds: service.affinity_seconds,
                inside: range,
                outside: range,
            };
            operations.push(A::put_frontend(key, row));
        }
        self.maps.apply(&operations)?;
        Ok(ids)
    }

    /// Publishes an address as a whole: ports of it that no frontend has are refused.
    pub fn publish_address<A: Family>(&mut self, addr: std::net::IpAddr) -> Result<()> {
        let addr = A::from_ip(addr).with_context(|| format!("{addr} is of the other family"))?;
        let key = FrontendKey::whole(addr);
        let row = FrontendRow { tag: key.tag(), service_port: 1, ..FrontendRow::default() };
        Ok(self.maps.apply(&[A::put_frontend(key, row)])?)
    }

    /// Takes a published frontend's outside set away, and adds these [`FrontendFlags`].
    pub fn empty_outside<A: Family>(
        &mut self,
        frontend: SocketAddr,
        protocol: Protocol,
        flags: u32,
    ) -> Result<()> {
        let key = frontend_key::<A>(frontend, protocol);
        let tables = self.maps.load()?;
        let mut row = *A::frontends(&tables).get(&key).context("no such frontend")?;
        row.outside = SlotRange::default();
        row.flags.0 |= flags;
        Ok(self.maps.apply(&[A::put_frontend(key, row)])?)
    }

    /// Writes a frontend's row as it is.
    pub fn put_frontend<A: Family>(
        &mut self,
        frontend: SocketAddr,
        protocol: Protocol,
        row: FrontendRow,
    ) -> Result<()> {
        Ok(self.maps.apply(&[A::put_frontend(frontend_key::<A>(frontend, protocol), row)])?)
    }

    /// Takes a backend out of service, as when its endpoint stops serving.
    pub fn stop_serving<A: Family>(&mut self, id: BackendId, backend: SocketAddr) -> Result<()> {
        Ok(self.maps.apply(&[A::put_backend(id, backend_row::<A>(backend, 0, 0))])?)
    }

    /// Takes a backend away, as when nothing lists its endpoint any more.
    pub fn vanish<A: Family>(&mut self, id: BackendId, backend: SocketAddr) -> Result<()> {
        let row = backend_row::<A>(backend, BackendFlags::VANISHED, 0);
        Ok(self.maps.apply(&[A::put_backend(id, row)])?)
    }

    /// The service maps.
    pub fn maps(&mut self) -> &mut KernelMaps {
        &mut self.maps
    }

    /// The service maps once more, to be owned by somebody else.
    pub fn open_maps(&self) -> Result<KernelMaps> {
        KernelMaps::open(&self.pins)
    }

    /// The flow tables of IPv4.
    pub fn flows_v4(&self) -> Result<FlowTables<lb_common::address::V4>> {
        kernel::flows_v4(&self.pins)
    }

    /// The flow tables of IPv6.
    pub fn flows_v6(&self) -> Result<FlowTables<lb_common::address::V6>> {
        kernel::flows_v6(&self.pins)
    }

    /// Settled and half-open rows of both families.
    pub fn row_counts(&self) -> Result<(usize, usize)> {
        let (v4, v6) = (self.flows_v4()?, self.flows_v6()?);
        let settled = v4.settled.rows()?.len() + v6.settled.rows()?.len();
        Ok((settled, v4.embryonic.rows()?.len() + v6.embryonic.rows()?.len()))
    }

    /// Runs a program on a frame.
    ///
    /// # Panics
    /// When not exactly one verdict counter moved.
    pub fn run(&mut self, program: &str, frame: &[u8]) -> Result<Ran> {
        let before = self.counters()?;
        let (action, frame) = self.attempt(program, frame)?;
        let after = self.counters()?;
        let moved: Vec<(Verdict, u64)> = Verdict::ALL
            .iter()
            .zip(before.iter().zip(&after))
            .filter(|(_, (before, after))| before != after)
            .map(|(verdict, (before, after))| (*verdict, after - before))
            .collect();
        assert!(matches!(moved[..], [(_, 1)]), "exactly one verdict counter moves once: {moved:?}");
        Ok(Ran { verdict: moved[0].0, action, frame })
    }

    /// Runs a program on a frame, whatever the counters say: its action, and the frame afterwards.
    pub fn attempt(&mut self, program: &str, frame: &[u8]) -> Result<(i32, Vec<u8>)> {
        let mut out = vec![0; frame.len() + 256];
        let mut options = TestRunOptions::new();
        options.data_in = Some(frame);
        options.data_out = Some(&mut out);
        let result = if program == object::XDP_PROGRAM {
            object::xdp(&mut self.programs, program)?.test_run(options)
        } else {
            object::classifier(&mut self.programs, program)?.test_run(options)
        };
        let result =
            result.with_context(|| format!("running {program} on a frame of {} bytes", frame.len()))?;
        out.truncate(result.data_size_out as usize);
        Ok((result.return_value.cast_signed(), out))
    }

    /// Runs a classifier without looking at counters, a hundred times as fast: what it returned, and the frame.
    pub fn run_only(&mut self, program: &str, frame: &[u8]) -> Result<(i32, Vec<u8>)> {
        let mut out = vec![0; frame.len() + 256];
        let mut options = TestRunOptions::new();
        options.data_in = Some(frame);
        options.data_out = Some(&mut out);
        let result = object::classifier(&mut self.programs, program)?.test_run(options)?;
        out.truncate(result.data_size_out as usize);
        Ok((result.return_value.cast_signed(), out))
    }

    /// What a pod sends.
    pub fn from_pod(&mut self, frame: &[u8]) -> Ran {
        self.run("pod_ingress", frame).unwrap_or_else(|error| panic!("{error:#}"))
    }

    /// What a pod is sent.
    pub fn to_pod(&mut self, frame: &[u8]) -> Ran {
        self.run("pod_egress", frame).unwrap_or_else(|error| panic!("{error:#}"))
    }

    /// What comes in by an uplink.
    pub fn from_net(&mut self, frame: &[u8]) -> Ran {
        self.run("net_ingress", frame).unwrap_or_else(|error| panic!("{error:#}"))
    }

    /// What goes out by an uplink.
    pub fn to_net(&mut self, frame: &[u8]) -> Ran {
        self.run("net_egress", frame).unwrap_or_else(|error| panic!("{error:#}"))
    }

    /// What comes in by an uplink, before the stack.
    pub fn from_wire(&mut self, frame: &[u8]) -> Ran {
        self.run(object::XDP_PROGRAM, frame).unwrap_or_else(|error| panic!("{error:#}"))
    }

    /// The verdicts' counters, in the order of [`Verdict::ALL`].
    pub fn counters(&self) -> Result<Vec<u64>> {
        (0..Verdict::COUNT)
            .map(|index| Ok(self.verdicts.get(&index, 0).context("reading VERDICTS")?.iter().sum()))
            .collect()
    }
}

impl Drop for Datapath {
    fn drop(&mut self) {
        let _gone_with_the_next_run = self.pins.remove();
        let _gone_already = std::fs::remove_dir(&self.root);
    }
}

fn sizes() -> Sizes {
    [
        (abi::FRONTENDS_V4.name, 16_384),
        (abi::FRONTENDS_V6.name, 16_384),
        (abi::FLOWS_V4.name, 8_192),
        (abi::FLOWS_V6.name, 8_192),
        (abi::EMBRYONIC_V4.name, 16_384),
        (abi::EMBRYONIC_V6.name, 16_384),
    ]
    .into()
}

fn frontend_key<A: Family>(frontend: SocketAddr, protocol: Protocol) -> FrontendKey<A> {
    FrontendKey::new(address::<A>(frontend), Port::new(frontend.port()), protocol)
}

fn backend_row<A: Family>(backend: SocketAddr, flags: u16, service_port: u32) -> BackendRow<A> {
    BackendRow {
        addr: address::<A>(backend),
        port: Port::new(backend.port()),
        flags: BackendFlags(flags),
        generation: 1,
        service_port,
        ..BackendRow::zeroed()
    }
}

fn address<A: Address>(address: SocketAddr) -> A {
    A::from_ip(address.ip()).unwrap_or_else(|| panic!("{address} is of the other family"))
}
