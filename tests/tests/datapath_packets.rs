//! Tier 1: refusals, odd packets, and what is nobody's. Whole packets in and out.

use std::cell::RefCell;
use std::net::SocketAddr;

use etherparse::{PacketBuilder, SlicedPacket};
use lb_common::abi::Verdict;
use lb_common::address::{Protocol, V4, V6};
use lb_tests::packets::{Datapath, Ends, Frame, Service, both, checksums_hold};
use lb_userspace::tables::Family;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

/// A datapath with one Service of one backend, over TCP and UDP.
fn served<A: Family>(ends: &Ends) -> Datapath {
    let mut datapath = Datapath::load().unwrap();
    serve::<A>(&mut datapath, ends);
    datapath
}

fn serve<A: Family>(datapath: &mut Datapath, ends: &Ends) {
    for protocol in [Protocol::TCP, Protocol::UDP] {
        let backends = [ends.backends[0]];
        let service =
            Service { frontend: Some(ends.vip), protocol, backends: &backends, ..Service::default() };
        datapath.publish::<A>(&service).unwrap();
    }
}

/// A datapath with a Service of nobody.
fn deserted<A: Family>(ends: &Ends) -> Datapath {
    let mut datapath = Datapath::load().unwrap();
    for protocol in [Protocol::TCP, Protocol::UDP] {
        let service = Service { frontend: Some(ends.vip), protocol, ..Service::default() };
        datapath.publish::<A>(&service).unwrap();
    }
    datapath
}

const REDIRECT: i32 = 7;
const DROP: i32 = 2;
const ON: i32 = -1;

fn resets<A: Family>(ends: &Ends) {
    let mut datapath = deserted::<A>(ends);
    let syn = Frame::tcp(ends.client, ends.vip, "S").payload(b"early");
    let ran = datapath.from_pod(&syn.build());
    assert_eq!((ran.verdict, ran.action), (Verdict::RejectedNoEndpoint, REDIRECT));
    // RFC 9293 section 3.10.7.1: no ACK, so sequence 0 and an acknowledgment of all that came: 5 bytes and the SYN.
    let reset = Frame::tcp(ends.vip, ends.client, "RA").numbers(0, 1_000 + 6, 0).swapped();
    assert_eq!(ran.frame, reset.build());
    let stray = Frame::tcp(ends.client, ends.vip, "A");
    let ran = datapath.from_pod(&stray.build());
    assert_eq!(ran.frame, Frame::tcp(ends.vip, ends.client, "R").numbers(2_000, 0, 0).swapped().build());
    let ran = datapath.from_pod(&Frame::tcp(ends.client, ends.vip, "R").build());
    assert_eq!((ran.verdict, ran.action), (Verdict::DroppedNoFlow, DROP), "a reset is never answered");
}

#[test]
fn c32_nobody_serves_is_answered_with_a_reset() {
    both((resets::<V4>, resets::<V6>));
}

fn unreachable<A: Family>(ends: &Ends) {
    let mut datapath = deserted::<A>(ends);
    let datagram = Frame::udp(ends.client, ends.vip).payload(&[7; 100]).build();
    let ran = datapath.from_pod(&datagram);
    assert_eq!((ran.verdict, ran.action), (Verdict::RejectedNoEndpoint, REDIRECT));
    checksums_hold(&ran.frame).unwrap();
    let quote_len = if A::IS_V6 { 48 } else { 28 };
    assert!(ran.frame.ends_with(&datagram[14..14 + quote_len]), "quotes the header and eight bytes");
    let sliced = SlicedPacket::from_ethernet(&ran.frame).unwrap();
    let kind = match sliced.transport.unwrap() {
        etherparse::TransportSlice::Icmpv4(icmp) => (icmp.type_u8(), icmp.code_u8()),
        etherparse::TransportSlice::Icmpv6(icmp) => (icmp.type_u8(), icmp.code_u8()),
        other => panic!("{other:?}"),
    };
    assert_eq!(kind, if A::IS_V6 { (1, 4) } else { (3, 3) });
    assert_eq!(&ran.frame[..6], &datagram[6..12], "back to who sent it");
}

#[test]
fn c32_nobody_serves_is_answered_with_port_unreachable() {
    both((unreachable::<V4>, unreachable::<V6>));
}

fn strays<A: Family>(ends: &Ends) {
    let mut datapath = served::<A>(ends);
    let ran = datapath.from_pod(&Frame::tcp(ends.client, ends.vip, "A").build());
    assert_eq!((ran.verdict, ran.action), (Verdict::RejectedNoFlow, REDIRECT));
    assert_eq!(ran.frame, Frame::tcp(ends.vip, ends.client, "R").numbers(2_000, 0, 0).swapped().build());
}

#[test]
fn a_segment_of_no_connection_is_answered_with_a_reset() {
    both((strays::<V4>, strays::<V6>));
}

fn odd_headers<A: Family>(ends: &Ends) {
    let mut datapath = served::<A>(ends);
    let frame = Frame::udp(ends.client, ends.vip);
    let translated = frame.clone().with_ends(ends.client, ends.backends[0]);
    assert_eq!(datapath.from_pod(&frame.build_tagged()).frame, translated.build_tagged());
    assert_eq!(datapath.from_pod(&frame.build_with_options()).frame, translated.build_with_options());
    let answer = Frame::udp(ends.backends[0], ends.client);
    let back = answer.clone().with_ends(ends.vip, ends.client);
    assert_eq!(datapath.to_pod(&answer.build_with_options()).frame, back.build_with_options());
}

#[test]
fn c41_options_extension_headers_and_a_vlan_tag_are_stepped_over() {
    both((odd_headers::<V4>, odd_headers::<V6>));
}

fn fragments<A: Family>(ends: &Ends) {
    let mut datapath = served::<A>(ends);
    let frame = Frame::udp(ends.client, ends.vip).payload(&[9; 64]);
    let [first, later] = frame.build_fragments(24);
    let stray = datapath.from_pod(&later);
    assert_eq!(
        (stray.verdict, stray.frame),
        (Verdict::PassedFragment, later.clone()),
        "its first was not seen"
    );
    let translated = frame.with_ends(ends.client, ends.backends[0]).build_fragments(24);
    assert_eq!(datapath.from_pod(&first).frame, translated[0]);
    assert_eq!(datapath.from_pod(&later).frame, translated[1]);
}

#[test]
fn c40_later_fragments_follow_the_first() {
    both((fragments::<V4>, fragments::<V6>));
}

#[test]
fn c44_what_is_no_services_leaves_byte_for_byte() {
    let (v4, v6) = (Ends::v4(), Ends::v6());
    let mut datapath = served::<V4>(&v4);
    let mut frames = Vec::new();
    for ends in [&v4, &v6] {
        let elsewhere = SocketAddr::new(ends.router, 443);
        frames.push((Frame::tcp(ends.client, elsewhere, "S").build(), Verdict::NotService));
        frames.push((Frame::tcp(ends.client, elsewhere, "AP").payload(b"x").build(), Verdict::NotService));
        frames.push((Frame::udp(ends.client, elsewhere).build(), Verdict::NotService));
    }
    let ping = PacketBuilder::ethernet2([2; 6], [4; 6]).ipv4([10, 244, 1, 2], [10, 96, 0, 10], 64);
    let mut echo = Vec::new();
    ping.icmpv4_echo_request(1, 1).write(&mut echo, b"ping").unwrap();
    frames.push((echo, Verdict::NotService));
    let mut arp = vec![0xff; 12];
    arp.extend([0x08, 0x06]);
    arp.extend([0; 28]);
    frames.push((arp, Verdict::NotIp));
    let mut gre = Frame::udp(v4.client, v4.vip).build();
    gre[23] = 47;
    frames.push((gre, Verdict::NotTransport));
    for (frame, verdict) in frames {
        let ran = datapath.from_pod(&frame);
        assert_eq!((ran.verdict, ran.action, &ran.frame), (verdict, ON, &frame));
        let ran = datapath.to_pod(&frame);
        assert_eq!((ran.action, &ran.frame), (ON, &frame));
    }
}

#[test]
fn c41_malformed_packets_are_left_to_the_stack() {
    let ends = Ends::v4();
    let mut datapath = served::<V4>(&ends);
    let good = Frame::tcp(ends.client, ends.vip, "S").build();
    for (at, value) in [(14, 0x44), (14, 0x4f), (17, 19), (16, 0x10), (46, 0x40), (46, 0xf0)] {
        let mut bad = good.clone();
        bad[at] = value;
        let ran = datapath.from_pod(&bad);
        assert_eq!((ran.verdict, ran.action, &ran.frame), (Verdict::PassedMalformed, ON, &bad), "byte {at}");
    }
    for len in 34..good.len() {
        let cut = &good[..len];
        let ran = datapath.from_pod(cut);
        assert_eq!((ran.verdict, &ran.frame[..]), (Verdict::PassedMalformed, cut), "{len} bytes");
    }
}

/// The same cases in every run.
fn runner(cases: u32) -> TestRunner {
    let config = Config { cases, failure_persistence: None, ..Config::default() };
    TestRunner::new_with_rng(config, TestRng::deterministic_rng(RngAlgorithm::ChaCha))
}

/// The frame of that kind whose checksum is the sum of its pseudo-header: as if it were left to the device.
fn as_if_left<A: Family>(frame: &Frame) -> Vec<u8> {
    let (network, transport) = if A::IS_V6 { (22..54, 54) } else { (26..34, 34) };
    for word in 0..=u16::MAX {
        let frame = frame.clone().payload(&word.to_be_bytes()).build();
        let (protocol, len) = (frame[if A::IS_V6 { 20 } else { 23 }], frame.len() - transport);
        let check = transport + if protocol == 6 { 16 } else { 6 };
        let words =
            frame[network.clone()].chunks(2).map(|word| u32::from(u16::from_be_bytes([word[0], word[1]])));
        let sum = words.sum::<u32>() + u32::from(protocol) + u32::try_from(len).unwrap();
        let sum = (sum & 0xffff) + (sum >> 16);
        if u32::from(u16::from_be_bytes([frame[check], frame[check + 1]])) == (sum & 0xffff) + (sum >> 16) {
            return frame;
        }
    }
    panic!("one word of payload can make any checksum");
}

fn ambiguous<A: Family>(ends: &Ends) {
    let mut datapath = served::<A>(ends);
    let backend = ends.backends[0];
    let tcp = |from, to, flags| Frame::tcp(from, to, flags);
    datapath.from_pod(&tcp(ends.client, ends.vip, "S").build());
    datapath.to_pod(&tcp(backend, ends.client, "SA").build());
    datapath.from_pod(&Frame::udp(ends.client, ends.vip).build());
    datapath.to_pod(&Frame::udp(backend, ends.client).build());
    for frame in [tcp(ends.client, ends.vip, "AP"), Frame::udp(ends.client, ends.vip)] {
        let ran = datapath.from_pod(&as_if_left::<A>(&frame));
        assert_eq!(ran.verdict, Verdict::Forwarded);
        checksums_hold(&ran.frame).unwrap();
    }
    for frame in [tcp(backend, ends.client, "AP"), Frame::udp(backend, ends.client)] {
        let ran = datapath.to_pod(&as_if_left::<A>(&frame));
        assert_eq!(ran.verdict, Verdict::Replied);
        checksums_hold(&ran.frame).unwrap();
    }
}

#[test]
fn c42_a_whole_checksum_that_looks_like_one_left_to_the_device_still_holds() {
    both((ambiguous::<V4>, ambiguous::<V6>));
}

fn undo<A: Family>(ends: &Ends) {
    let datapath = RefCell::new(served::<A>(ends));
    let mut runner = runner(200);
    let strategy =
        (1u16..61_000, proptest::collection::vec(proptest::num::u8::ANY, 0..200), proptest::bool::ANY);
    runner
        .run(&strategy, |(port, payload, tcp)| {
            let client = SocketAddr::new(ends.client.ip(), port);
            let sent = if tcp { Frame::tcp(client, ends.vip, "S") } else { Frame::udp(client, ends.vip) };
            let there = datapath.borrow_mut().from_pod(&sent.payload(&payload).build());
            proptest::prop_assert_eq!(checksums_hold(&there.frame), Ok(()));
            let mirrored = if tcp {
                Frame::tcp(ends.backends[0], client, "A")
            } else {
                Frame::udp(ends.backends[0], client)
            };
            let answer = mirrored.payload(&payload);
            let back = datapath.borrow_mut().to_pod(&answer.build());
            proptest::prop_assert_eq!(back.verdict, Verdict::Replied);
            proptest::prop_assert_eq!(&back.frame, &answer.with_ends(ends.vip, client).build());
            Ok(())
        })
        .unwrap();
}

#[test]
fn rewriting_and_undoing_is_the_identity_with_checksums_that_hold() {
    both((undo::<V4>, undo::<V6>));
}

#[test]
fn noise_is_left_alone_or_handled_and_never_half_translated() {
    let (v4, v6) = (Ends::v4(), Ends::v6());
    let mut datapath = served::<V4>(&v4);
    serve::<V6>(&mut datapath, &v6);
    let datapath = RefCell::new(datapath);
    let good = [
        Frame::tcp(v4.client, v4.vip, "S").build(),
        Frame::udp(v4.client, v4.vip).build_with_options(),
        Frame::udp(v6.client, v6.vip).build_with_options(),
        Frame::tcp(v6.client, v6.vip, "A").build_tagged(),
    ];
    let mut runner = runner(5_000);
    let strategy = (0..good.len(), proptest::collection::vec((12usize..60, proptest::num::u8::ANY), 1..4));
    runner
        .run(&strategy, |(which, changes)| {
            let mut frame = good[which].clone();
            for (at, value) in changes {
                if let Some(byte) = frame.get_mut(at) {
                    *byte = value;
                }
            }
            let mut datapath = datapath.borrow_mut();
            for ran in [datapath.from_pod(&frame), datapath.to_pod(&frame)] {
                proptest::prop_assert!([ON, DROP, REDIRECT].contains(&ran.action), "{ran:?}");
                let untouched = matches!(
                    ran.verdict,
                    Verdict::NotIp
                        | Verdict::NotTransport
                        | Verdict::NotService
                        | Verdict::NotTranslated
                        | Verdict::PassedMalformed
                        | Verdict::PassedFragment
                );
                // What is dropped is gone, whatever it looks like.
                if ran.action != DROP {
                    proptest::prop_assert_eq!(untouched, ran.frame == frame, "{:?}", ran.verdict);
                }
            }
            Ok(())
        })
        .unwrap();
}
