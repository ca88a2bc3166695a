//! Tier 1: masqueraded flows from wire to wire, before the stack. The way out is written by the tests: a test run has
//! no routes.

use std::net::SocketAddr;

use lb_common::abi::{FlowEntry, FlowKey, FlowRow, FrontendFlags, Hook, Macs, Shortcut, Verdict};
use lb_common::address::{Address, Port, Protocol, V4, V6};
use lb_tests::packets::{Datapath, Ends, Frame, Service, both, checksums_hold, sockets_of};
use lb_userspace::datapath::kernel::FlowTables;
use lb_userspace::tables::Family;

const PASS: i32 = 2;
const TRANSMIT: i32 = 3;
const NEXT_HOP: [u8; 6] = [2, 0, 0, 0, 0, 0x77];
const OURS: [u8; 6] = [2, 0, 0, 0, 0, 0x66];

/// A settled flow from outside to a backend on another node, and what it was masqueraded with.
fn settled<A: Family>(datapath: &mut Datapath, ends: &Ends, protocol: Protocol) -> SocketAddr {
    // Loaded now, which takes longer than a shortcut lives.
    datapath.from_wire(&[0; 60]);
    let backend = ends.backends[2];
    let flags = FrontendFlags::EXTERNAL;
    let service =
        Service { frontend: Some(ends.vip), protocol, backends: &[backend], flags, ..Service::default() };
    datapath.publish::<A>(&service).unwrap();
    let clock = Service { frontend: Some(ends.other_vip), protocol: Protocol::TCP, ..service };
    datapath.publish::<A>(&clock).unwrap();
    let frame = |from, to, flags| match protocol {
        Protocol::TCP => Frame::tcp(from, to, flags).build(),
        _ => Frame::udp(from, to).build(),
    };
    let there = datapath.from_net(&frame(ends.outsider, ends.vip, "S"));
    let node = sockets_of(&datapath.to_net(&there.frame).frame).0;
    for (flags, from_client) in [("SA", false), ("A", true), ("A", false)] {
        if from_client {
            let there = datapath.from_net(&frame(ends.outsider, ends.vip, flags));
            datapath.to_net(&there.frame);
        } else {
            let back = datapath.from_net(&frame(backend, node, flags));
            datapath.to_net(&back.frame);
        }
    }
    node
}

/// The datapath's clock, by a flow that begins now: the agent's own reckoning is too coarse for what lives a second.
fn now<A: Family>(datapath: &mut Datapath, ends: &Ends, tables: fn(&Datapath) -> FlowTables<A>) -> u32 {
    let stranger = SocketAddr::new(ends.router, 40_000);
    let began = |rows: Vec<(FlowKey<A>, FlowRow<A>)>| rows.iter().map(|(_, row)| row.since).max();
    datapath.from_net(&Frame::tcp(stranger, ends.other_vip, "S").build());
    began(tables(datapath).embryonic.rows().unwrap()).expect("the flow is half-open")
}

/// Gives the flow's row under `from -> to` a way out and the other end `source`, with `port` behind the destination.
fn give_way<A: Address>(
    tables: &FlowTables<A>,
    (from, to): (SocketAddr, SocketAddr),
    protocol: Protocol,
    (source, port): (SocketAddr, u16),
    (made, mtu): (u32, u32),
) {
    let key = FlowKey {
        src: A::from_ip(from.ip()).unwrap(),
        dst: A::from_ip(to.ip()).unwrap(),
        src_port: Port::new(from.port()),
        dst_port: Port::new(to.port()),
        protocol,
        hook: Hook::INGRESS,
        pad: [0; 2],
    };
    let entry = tables.settled.get(&key).unwrap().expect("the flow is settled");
    let words = |mac: [u8; 6]| bytemuck::cast::<[u8; 6], [u16; 3]>(mac);
    let shortcut = Shortcut {
        route_generation: 0,
        made,
        addr: A::from_ip(source.ip()).unwrap(),
        port: Port::new(source.port()),
        other_port: Port::new(port),
        mtu,
        ifindex: 1,
        macs: Macs::new(words(NEXT_HOP), words(OURS)),
    };
    tables.settled.put(&key, &FlowEntry { shortcut, ..entry }).unwrap();
}

/// A frame as it must leave: with these ends, from us to the next hop, one hop older.
fn hop(frame: &Frame, from: SocketAddr, to: SocketAddr) -> Vec<u8> {
    let mut frame = frame.clone().with_ends(from, to).build();
    frame[..6].copy_from_slice(&NEXT_HOP);
    frame[6..12].copy_from_slice(&OURS);
    if from.is_ipv4() {
        frame[22] -= 1;
        let mut header = etherparse::Ipv4Header::from_slice(&frame[14..]).unwrap().0;
        header.header_checksum = header.calc_header_checksum();
        frame[24..26].copy_from_slice(&header.header_checksum.to_be_bytes());
    } else {
        frame[21] -= 1;
    }
    frame
}

fn wire_to_wire<A: Family>(ends: &Ends, tables: fn(&Datapath) -> FlowTables<A>) {
    for protocol in [Protocol::TCP, Protocol::UDP] {
        let mut datapath = Datapath::load().unwrap();
        let node = settled::<A>(&mut datapath, ends, protocol);
        let (client, vip, backend) = (ends.outsider, ends.vip, ends.backends[2]);
        let frame = |from, to| match protocol {
            Protocol::TCP => Frame::tcp(from, to, "AP").payload(b"an odd length"),
            _ => Frame::udp(from, to).payload(b"an odd length"),
        };
        let request = frame(client, vip);
        let early = datapath.from_wire(&request.build());
        assert_eq!((early.verdict, early.action), (Verdict::ShortcutLeft, PASS), "no way is known yet");
        assert_eq!(early.frame, request.build());

        let made = now(&mut datapath, ends, tables);
        give_way(&tables(&datapath), (client, vip), protocol, (node, backend.port()), (made, 1_500));
        give_way(&tables(&datapath), (backend, node), protocol, (vip, client.port()), (made, 1_500));
        let gone = datapath.from_wire(&request.build());
        assert_eq!((gone.verdict, gone.action), (Verdict::ShortcutTaken, TRANSMIT));
        assert_eq!(gone.frame, hop(&request, node, backend));
        checksums_hold(&gone.frame).unwrap();
        let answer = frame(backend, node);
        let back = datapath.from_wire(&answer.build());
        assert_eq!(back.frame, hop(&answer, vip, client));
    }
}

#[test]
fn c25_c43_a_masqueraded_flow_passes_by_the_stack_both_ways_and_ages_by_one_hop() {
    both((
        |ends| wire_to_wire::<V4>(ends, |datapath| datapath.flows_v4().unwrap()),
        |ends| wire_to_wire::<V6>(ends, |datapath| datapath.flows_v6().unwrap()),
    ));
}

fn left<A: Family>(ends: &Ends, tables: fn(&Datapath) -> FlowTables<A>) {
    let mut datapath = Datapath::load().unwrap();
    let node = settled::<A>(&mut datapath, ends, Protocol::TCP);
    let way = (node, ends.backends[2].port());
    let made = now(&mut datapath, ends, tables);
    give_way(&tables(&datapath), (ends.outsider, ends.vip), Protocol::TCP, way, (made, 200));
    let plain = Frame::tcp(ends.outsider, ends.vip, "A");
    assert_eq!(datapath.from_wire(&plain.build()).verdict, Verdict::ShortcutTaken);

    let mut last_hop = plain.build();
    if A::IS_V6 {
        last_hop[21] = 1;
    } else {
        last_hop[22] = 1;
    }
    let frames = [
        (last_hop, "its life ends here, which the stack answers"),
        (plain.clone().payload(&[0; 200]).build(), "too long for the way, which the stack answers"),
        (plain.build_tagged(), "a VLAN tag"),
        (plain.build_with_options(), "options"),
        (Frame::tcp(ends.outsider, ends.vip, "FA").build(), "says that the connection ends"),
        (Frame::tcp(ends.outsider, ends.vip, "S").build(), "says that one begins"),
        (Frame::tcp(ends.outsider, ends.vip, "RA").build(), "says that it is torn down"),
        (Frame::tcp(ends.client, ends.vip, "A").build(), "nobody's"),
        (vec![0; 60], "no IP"),
    ];
    for (frame, why) in frames {
        let ran = datapath.from_wire(&frame);
        assert_eq!((ran.verdict, ran.action, &ran.frame), (Verdict::ShortcutLeft, PASS, &frame), "{why}");
    }
}

#[test]
fn c43_c44_what_the_stack_or_the_flows_state_must_see_is_left_as_it_came() {
    both((
        |ends| left::<V4>(ends, |datapath| datapath.flows_v4().unwrap()),
        |ends| left::<V6>(ends, |datapath| datapath.flows_v6().unwrap()),
    ));
}

fn outdated<A: Family>(ends: &Ends, tables: fn(&Datapath) -> FlowTables<A>) {
    let mut datapath = Datapath::load().unwrap();
    let node = settled::<A>(&mut datapath, ends, Protocol::UDP);
    let (client, vip, backend) = (ends.outsider, ends.vip, ends.backends[2]);
    let way = (node, backend.port());
    let datagram = Frame::udp(client, vip).build();
    let made = now(&mut datapath, ends, tables);
    give_way(&tables(&datapath), (client, vip), Protocol::UDP, way, (made, 1_500));
    assert_eq!(datapath.from_wire(&datagram).verdict, Verdict::ShortcutTaken);
    datapath.routes_changed().unwrap();
    assert_eq!(
        datapath.from_wire(&datagram).verdict,
        Verdict::ShortcutLeft,
        "of another generation of routes"
    );

    datapath.configure(0).unwrap();
    assert_eq!(datapath.from_wire(&datagram).verdict, Verdict::ShortcutTaken);
    let entries = tables(&datapath).settled.rows().unwrap();
    let row: FlowRow<A> = entries.iter().find(|(key, _)| key.hook == Hook::INGRESS).unwrap().1.row;
    datapath.stop_serving::<A>(row.backend, backend).unwrap();
    let ran = datapath.from_wire(&datagram);
    assert_eq!(ran.verdict, Verdict::ShortcutLeft, "the next datagram chooses again");
}

#[test]
fn c36_a_shortcut_ends_with_its_routes_and_with_its_datagrams_backend() {
    both((
        |ends| outdated::<V4>(ends, |datapath| datapath.flows_v4().unwrap()),
        |ends| outdated::<V6>(ends, |datapath| datapath.flows_v6().unwrap()),
    ));
}
