//! Where programs are timed: a datapath with Services, and with flows that it made itself.
//!
//! Decides addresses. Must not know what is timed. Invariant: flow `n` of a ground is the same in all its packets, so
//! that whoever runs packet `n` meets flow `n`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use anyhow::{Context as _, Result, anyhow};
use lb_common::abi::{self, Hook as FlowHook, Verdict};
use lb_common::address::{Protocol, V4, V6};
use lb_tests::packets::{Datapath, Frame, Service};
use lb_userspace::datapath::object::Sizes;

use super::harness::{Harness, Target};
use super::wrapper::{Field, Hook, Recipe, Tuple};

/// The clients' first port.
const CLIENT_PORT: u16 = 2_048;
/// How far from the others' the addresses of those clients are who dial the last Service alone.
const OTHER_CLIENTS: i32 = 1 << 14;
const FRONTEND_PORT: u16 = 80;
const BACKEND_PORT: u16 = 8_080;
/// Half-open rows; twice the flows that a ground opens without an answer fit.
pub(super) const HALF_OPEN: u32 = 1 << 18;
/// Flows made at a time, so that they fit among the half-open ones.
const PORTION: u32 = 1 << 14;

/// What a ground is to have.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wishes {
    pub(super) ipv6: bool,
    pub(super) protocol: Protocol,
    /// Services, each of one port.
    pub(super) services: u32,
    /// The services have a backend.
    pub(super) served: bool,
    pub(super) affinity_seconds: u32,
    /// Settled flows to make room for.
    pub(super) flows: u32,
}

impl Wishes {
    /// One Service with a backend, and room for a few flows.
    pub(super) fn plain(ipv6: bool, protocol: Protocol) -> Self {
        Self { ipv6, protocol, services: 1, served: true, affinity_seconds: 0, flows: 64 }
    }

    /// The family and the protocol, in words.
    pub(super) fn names(self) -> (&'static str, &'static str) {
        (if self.ipv6 { "IPv6" } else { "IPv4" }, if self.protocol == Protocol::TCP { "TCP" } else { "UDP" })
    }
}

/// A datapath with Services.
pub(super) struct Ground {
    pub(super) datapath: Datapath,
    pub(super) wishes: Wishes,
}

/// Which packet of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Packet {
    /// The client's first.
    Opening,
    /// The client's, of an established flow.
    Forth,
    /// The backend's first.
    Answer,
    /// The backend's, of an established flow.
    Back,
}

/// Makes grounds side by side: most of their time is the verifier's, which takes one processor for each.
pub(super) fn side_by_side<T: Send, U: Send>(
    all: impl IntoIterator<Item = T>,
    make: impl Fn(T) -> Result<U> + Sync,
) -> Result<Vec<U>> {
    let make = &make;
    std::thread::scope(|scope| {
        let threads: Vec<_> = all.into_iter().map(|one| scope.spawn(move || make(one))).collect();
        let ended =
            threads.into_iter().map(|thread| thread.join().map_err(|_| anyhow!("a thread panicked"))?);
        ended.collect()
    })
}

impl Ground {
    /// Loads a datapath and publishes the Services.
    pub(super) fn lay(wishes: Wishes) -> Result<Self> {
        let mut sizes = Sizes::new();
        let (flows, embryonic, others) = if wishes.ipv6 {
            (abi::FLOWS_V6, abi::EMBRYONIC_V6, [abi::FLOWS_V4, abi::EMBRYONIC_V4])
        } else {
            (abi::FLOWS_V4, abi::EMBRYONIC_V4, [abi::FLOWS_V6, abi::EMBRYONIC_V6])
        };
        sizes.insert(flows.name, (2 * wishes.flows).max(8_192) + 1_024);
        sizes.insert(embryonic.name, HALF_OPEN);
        sizes.extend(others.map(|map| (map.name, 1_024)));
        let mut ground = Self { datapath: Datapath::load_sized(&sizes)?, wishes };
        let backends = [ground.backend()];
        let backends = if wishes.served { &backends[..] } else { &[] };
        for service in 0..wishes.services {
            let service = Service {
                frontend: Some(ground.frontend(service)),
                protocol: wishes.protocol,
                backends,
                affinity_seconds: wishes.affinity_seconds,
                ..Service::default()
            };
            if wishes.ipv6 {
                ground.datapath.publish::<V6>(&service)?;
            } else {
                ground.datapath.publish::<V4>(&service)?;
            }
        }
        Ok(ground)
    }

    /// `10.NET.0.0` or `fd00:10:NET::`, and a number.
    fn address(&self, net: u8, number: u32, port: u16) -> SocketAddr {
        let ip = if self.wishes.ipv6 {
            let net = u128::from(u16::from(net)) << 80;
            IpAddr::V6(Ipv6Addr::from_bits((0xfd00_0010u128 << 96) | net | u128::from(number)))
        } else {
            IpAddr::V4(Ipv4Addr::from_bits(0x0a00_0000 | (u32::from(net) << 16) | number))
        };
        SocketAddr::new(ip, port)
    }

    /// The client of flow 0.
    pub(super) fn client(&self) -> SocketAddr {
        self.address(128, 0, CLIENT_PORT)
    }

    pub(super) fn frontend(&self, service: u32) -> SocketAddr {
        self.address(96, 1 + service, FRONTEND_PORT)
    }

    pub(super) fn backend(&self) -> SocketAddr {
        self.address(244, 3, BACKEND_PORT)
    }

    /// A frontend for clients outside.
    pub(super) fn node_port(&self) -> SocketAddr {
        self.address(199, 1, 30_080)
    }

    /// Somebody who is no Service.
    pub(super) fn stranger(&self) -> SocketAddr {
        self.address(99, 7, 443)
    }

    /// A packet of flow 0.
    pub(super) fn packet(&self, packet: Packet) -> Vec<u8> {
        let (from, to, flags) = match packet {
            Packet::Opening => (self.client(), self.frontend(0), "S"),
            Packet::Forth => (self.client(), self.frontend(0), "A"),
            Packet::Answer => (self.backend(), self.client(), "SA"),
            Packet::Back => (self.backend(), self.client(), "A"),
        };
        self.frame(from, to, flags)
    }

    /// A packet of the ground's protocol.
    pub(super) fn frame(&self, from: SocketAddr, to: SocketAddr, flags: &str) -> Vec<u8> {
        match self.wishes.protocol {
            Protocol::UDP => Frame::udp(from, to).build(),
            _ => Frame::tcp(from, to, flags).build(),
        }
    }

    /// A packet that stays as it is.
    pub(super) fn fixed(&self, template: Vec<u8>) -> Recipe {
        Recipe {
            hook: Hook::Tc,
            template,
            flows: Some(1),
            client: None,
            frontend: None,
            resized: false,
            tuple: None,
        }
    }

    /// Packets of many flows, spread over the Services.
    pub(super) fn varied(&self, packet: Packet, flows: Option<u32>) -> Recipe {
        let forth = matches!(packet, Packet::Opening | Packet::Forth);
        // The last four bytes of the addresses, and the ports, behind an Ethernet header.
        let (source, destination, ports) = if self.wishes.ipv6 { (34, 50, 54) } else { (26, 30, 34) };
        let number = |address: SocketAddr| match address.ip() {
            IpAddr::V4(ip) => ip.to_bits().cast_signed(),
            #[expect(clippy::cast_possible_truncation, reason = "the last four bytes")]
            IpAddr::V6(ip) => (ip.to_bits() as u32).cast_signed(),
        };
        let (address, port) = if forth { (source, ports) } else { (destination, ports + 2) };
        let client = (
            Field { offset: address, base: number(self.client()) },
            Field { offset: port, base: CLIENT_PORT.into() },
        );
        let frontend = Field { offset: destination, base: number(self.frontend(0)) };
        let established = matches!(packet, Packet::Forth | Packet::Back);
        let tuple = Tuple {
            addresses: if self.wishes.ipv6 { 22 } else { 26 },
            addresses_len: if self.wishes.ipv6 { 32 } else { 8 },
            ports,
            protocol: self.wishes.protocol.0,
            hook: if forth { FlowHook::INGRESS.0 } else { FlowHook::EGRESS.0 },
        };
        Recipe {
            hook: Hook::Tc,
            template: self.packet(packet),
            flows,
            client: Some(client),
            frontend: forth.then_some((frontend, self.wishes.services)),
            resized: false,
            tuple: established.then_some(tuple),
        }
    }

    /// Packets of many other flows, all to the last Service.
    pub(super) fn varied_last(&self, packet: Packet, flows: Option<u32>) -> Recipe {
        let recipe = self.varied(packet, flows);
        let last = self.frontend(self.wishes.services.max(1) - 1);
        let template = match packet {
            Packet::Opening => self.frame(self.client(), last, "S"),
            Packet::Forth => self.frame(self.client(), last, "A"),
            Packet::Answer | Packet::Back => recipe.template,
        };
        let apart =
            |(address, port): (Field, Field)| (Field { base: address.base + OTHER_CLIENTS, ..address }, port);
        Recipe { template, client: recipe.client.map(apart), frontend: None, ..recipe }
    }

    /// A harness for a recipe on this ground.
    pub(super) fn harness(&self, recipe: Recipe) -> Result<Harness> {
        let flows = if self.wishes.ipv6 { abi::FLOWS_V6 } else { abi::FLOWS_V4 };
        Harness::load(recipe, Some(&self.datapath.pin(flows)))
    }

    /// Lets the datapath make flows 0 to `flows`, each opened and answered.
    pub(super) fn populate(&mut self, flows: u32) -> Result<()> {
        self.converse(flows, [self.varied(Packet::Opening, None), self.varied(Packet::Answer, None)])
    }

    /// The same of the flows to the last Service.
    pub(super) fn populate_last(&mut self, flows: u32) -> Result<()> {
        self.converse(
            flows,
            [self.varied_last(Packet::Opening, None), self.varied_last(Packet::Answer, None)],
        )
    }

    fn converse(&mut self, flows: u32, [opening, answer]: [Recipe; 2]) -> Result<()> {
        let ingress = self.datapath.program("pod_ingress")?;
        let egress = self.datapath.program("pod_egress")?;
        let (mut opening, mut answer) = (self.harness(opening)?, self.harness(answer)?);
        let opens = Target { program: &ingress, verdict: Verdict::ForwardedNew };
        let answers = Target { program: &egress, verdict: Verdict::Replied };
        let mut made = 0;
        while made < flows {
            let portion = PORTION.min(flows - made);
            opening.check(&self.datapath, &opens, made.into(), portion).context("opening flows")?;
            answer.check(&self.datapath, &answers, made.into(), portion).context("answering them")?;
            made += portion;
        }
        Ok(())
    }
}
