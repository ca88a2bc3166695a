//! Every other path, each with one flow or Service, warm.
//!
//! Decides how a packet gets each verdict. Must not know how time is taken. Invariant: each path's name is the only
//! thing said about it that the verdict counters do not prove.

use anyhow::{Context as _, Result};
use lb_common::abi::{FrontendFlags, Verdict};
use lb_common::address::{Protocol, V4, V6};
use lb_tests::packets::{Frame, Service, sockets_of, too_big};

use super::ground::{Ground, HALF_OPEN, Packet, Wishes, side_by_side};
use super::harness::{Target, Timing};
use super::wrapper::Recipe;
use super::{Effort, FAMILIES};
use crate::figures::{Cell, Table};
use crate::screen::Screen;

/// New flows a round.
const NEW_FLOWS: u32 = 1 << 13;
/// New flows that push others out: the half-open table is filled before.
const FULL: &str = "first TCP packet, half-open table full";

/// A path: what runs on what.
pub(super) struct Path {
    name: &'static str,
    program: &'static str,
    verdict: Verdict,
    recipe: Recipe,
}

impl Path {
    fn new(name: &'static str, program: &'static str, verdict: Verdict, recipe: Recipe) -> Self {
        Self { name, program, verdict, recipe }
    }
}

/// A ground, and what is timed on it in this order.
type Stage = (Ground, Vec<Path>);

/// Measures.
pub(super) fn measure(effort: Effort, screen: &Screen) -> Result<Table> {
    let mut table = Table::new("Other paths", &["family", "packet", "program", "hook", "verdict", "ns"]);
    let stages: [fn(bool) -> Result<Stage>; 5] =
        [served, datagrams, clinging, refused_by_reset, refused_by_icmp];
    let bar = screen.bar("other paths", FAMILIES.len() * stages.len());
    for (ipv6, family) in FAMILIES {
        let stages = side_by_side(stages, |stage| stage(ipv6));
        for (mut ground, paths) in stages.with_context(|| format!("setting up paths of {family}"))? {
            // Behind the flow that the stage made itself.
            let mut sent = 1;
            for path in paths {
                let timing = time(&mut ground, &path, &mut sent, effort)
                    .with_context(|| format!("{}, {family}", path.name))?;
                table.rows.push(vec![
                    Cell::text(family),
                    Cell::text(path.name),
                    Cell::text(path.program),
                    Cell::text(path.recipe.hook.name()),
                    Cell::text(path.verdict.name()),
                    Cell::Figure(timing.target),
                ]);
            }
            bar.inc(1);
        }
    }
    bar.finish_and_clear();
    Ok(table)
}

/// Times a path. New flows begin at number `sent`.
fn time(ground: &mut Ground, path: &Path, sent: &mut u64, effort: Effort) -> Result<Timing> {
    let program = ground.datapath.program(path.program)?;
    let mut harness = ground.harness(path.recipe.clone())?;
    let target = Target { program: &program, verdict: path.verdict };
    let new = path.recipe.flows.is_none();
    if path.name == FULL {
        harness.check(&ground.datapath, &target, *sent, HALF_OPEN)?;
        *sent += u64::from(HALF_OPEN);
    }
    harness.start_at(*sent);
    harness.warm_up(&ground.datapath, &target)?;
    let (rounds, repeat) = if new { (effort.rounds, NEW_FLOWS) } else { effort.turns(1) };
    let rounds = (0..rounds).map(|_| harness.round(&ground.datapath, &target, repeat));
    let rounds = rounds.collect::<Result<Vec<_>>>()?;
    *sent = harness.next_new();
    Ok(Timing::of(&rounds))
}

fn lay(ipv6: bool, protocol: Protocol, served: bool, affinity_seconds: u32) -> Result<Ground> {
    Ground::lay(Wishes { served, affinity_seconds, ..Wishes::plain(ipv6, protocol) })
}

/// Nobody's packets, an ICMP error, a flow from outside, and new flows, the last of them into a full table.
fn served(ipv6: bool) -> Result<Stage> {
    let mut ground = lay(ipv6, Protocol::TCP, true, 0)?;
    let to_stranger = |flags| ground.fixed(ground.frame(ground.client(), ground.stranger(), flags));
    let mut arp = ground.packet(Packet::Opening);
    arp[12..14].copy_from_slice(&[0x08, 0x06]);
    let mut paths = vec![
        Path::new("neither IPv4 nor IPv6", "pod_ingress", Verdict::NotIp, ground.fixed(arp)),
        Path::new("to no Service, established", "pod_ingress", Verdict::NotService, to_stranger("A")),
        Path::new("to no Service, first packet", "pod_ingress", Verdict::NotService, to_stranger("S")),
        Path::new("of no flow, to a pod", "pod_egress", Verdict::NotTranslated, to_stranger("A")),
    ];
    ground.populate(1)?;
    let forwarded = ground.datapath.from_pod(&ground.packet(Packet::Forth)).frame;
    let error = too_big(ground.stranger().ip(), ground.client().ip(), &forwarded);
    paths.push(Path::new(
        "an ICMP error about a flow",
        "pod_egress",
        Verdict::IcmpTranslated,
        ground.fixed(error),
    ));
    paths.extend(from_outside(&mut ground)?);
    let new = || ground.varied(Packet::Opening, None);
    paths.push(Path::new("first TCP packet", "pod_ingress", Verdict::ForwardedNew, new()));
    paths.push(Path::new(FULL, "pod_ingress", Verdict::ForwardedNew, new()));
    Ok((ground, paths))
}

/// The four hops of a flow from outside to a backend elsewhere, which is masqueraded.
pub(super) fn from_outside(ground: &mut Ground) -> Result<Vec<Path>> {
    let (vip, backend) = (ground.node_port(), [ground.backend()]);
    let service = Service {
        frontend: Some(vip),
        protocol: Protocol::TCP,
        backends: &backend,
        flags: FrontendFlags::EXTERNAL,
        ..Service::default()
    };
    if ground.wishes.ipv6 {
        ground.datapath.publish::<V6>(&service)?;
    } else {
        ground.datapath.publish::<V4>(&service)?;
    }
    let client = ground.stranger();
    let datapath = &mut ground.datapath;
    let mut travel = |out: &str, back: &str| {
        let in_1 = Frame::tcp(client, vip, out).build();
        let out_1 = datapath.from_net(&in_1).frame;
        let (masqueraded, backend) = sockets_of(&datapath.to_net(&out_1).frame);
        let in_2 = Frame::tcp(backend, masqueraded, back).build();
        let out_2 = datapath.from_net(&in_2).frame;
        datapath.to_net(&out_2);
        [in_1, out_1, in_2, out_2]
    };
    travel("S", "SA");
    let hops = [
        ("from outside, to the backend", "net_ingress", Verdict::Forwarded),
        ("from outside, masqueraded", "net_egress", Verdict::Masqueraded),
        ("to outside, unmasqueraded", "net_ingress", Verdict::Unmasqueraded),
        ("to outside, reply", "net_egress", Verdict::Replied),
    ];
    let paths = hops.into_iter().zip(travel("A", "A"));
    Ok(paths
        .map(|((name, program, verdict), frame)| Path::new(name, program, verdict, ground.fixed(frame)))
        .collect())
}

fn datagrams(ipv6: bool) -> Result<Stage> {
    let mut ground = lay(ipv6, Protocol::UDP, true, 0)?;
    let socket = std::net::SocketAddr::new(ground.stranger().ip(), 5_353);
    let frame = Frame::udp(socket, ground.frontend(0)).payload(&[9; 64]);
    let [first, later] = frame.build_fragments(24);
    ground.datapath.from_pod(&first);
    let paths = vec![
        Path::new("a first fragment", "pod_ingress", Verdict::Forwarded, ground.fixed(first)),
        Path::new("a later fragment", "pod_ingress", Verdict::Forwarded, ground.fixed(later)),
        Path::new(
            "first UDP packet",
            "pod_ingress",
            Verdict::ForwardedNew,
            ground.varied(Packet::Opening, None),
        ),
    ];
    Ok((ground, paths))
}

fn clinging(ipv6: bool) -> Result<Stage> {
    let ground = lay(ipv6, Protocol::TCP, true, 10_800)?;
    let recipe = ground.varied(Packet::Opening, None);
    let name = "first TCP packet, client affinity";
    Ok((ground, vec![Path::new(name, "pod_ingress", Verdict::ForwardedNew, recipe)]))
}

fn refused_by_reset(ipv6: bool) -> Result<Stage> {
    refused(ipv6, Protocol::TCP, "refused by a reset")
}

fn refused_by_icmp(ipv6: bool) -> Result<Stage> {
    refused(ipv6, Protocol::UDP, "refused by ICMP")
}

fn refused(ipv6: bool, protocol: Protocol, name: &'static str) -> Result<Stage> {
    let ground = lay(ipv6, protocol, false, 0)?;
    let recipe = Recipe { resized: true, ..ground.fixed(ground.packet(Packet::Opening)) };
    Ok((ground, vec![Path::new(name, "pod_ingress", Verdict::RejectedNoEndpoint, recipe)]))
}
