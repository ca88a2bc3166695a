//! Tier 1: packet in, whole packet, verdict and rows out. Flows from their first packet to their last.

use std::net::SocketAddr;

use lb_common::abi::{ConfigFlags, FrontendFlags, FrontendRow, Verdict};
use lb_common::address::{Protocol, V4, V6};
use lb_tests::packets::{Datapath, Ends, Frame, MASQUERADE_PORTS, Service, both, checksums_hold, sockets_of};
use lb_userspace::tables::Family;

fn publish<A: Family>(datapath: &mut Datapath, vip: SocketAddr, protocol: Protocol, backends: &[SocketAddr]) {
    let service = Service { frontend: Some(vip), protocol, backends, ..Service::default() };
    datapath.publish::<A>(&service).unwrap();
}

/// The destination of a frame.
fn destination(frame: &[u8]) -> SocketAddr {
    sockets_of(frame).1
}

#[test]
fn every_program_loads_and_tells_its_instructions() {
    let mut datapath = Datapath::load().unwrap();
    for counts in datapath.instructions().unwrap() {
        println!("{counts:?}");
        assert!(counts.translated > 0);
        assert!(counts.verified < 1_000_000 / 2, "it leaves the verifier no room: {counts:?}");
    }
}

fn there_and_back<A: Family>(ends: &Ends) {
    let mut datapath = Datapath::load().unwrap();
    publish::<A>(&mut datapath, ends.vip, Protocol::TCP, &ends.backends);
    let syn = Frame::tcp(ends.client, ends.vip, "S");
    let there = datapath.from_pod(&syn.build());
    assert_eq!((there.verdict, there.action), (Verdict::ForwardedNew, -1));
    let backend = destination(&there.frame);
    assert!(ends.backends.contains(&backend));
    assert_eq!(there.frame, syn.with_ends(ends.client, backend).build(), "nothing else changes");
    assert_eq!(datapath.row_counts().unwrap(), (0, 2), "half-open");

    let again = datapath.from_pod(&Frame::tcp(ends.client, ends.vip, "S").build());
    assert_eq!((again.verdict, destination(&again.frame)), (Verdict::Forwarded, backend), "a SYN sent again");

    let answer = Frame::tcp(backend, ends.client, "SA");
    let back = datapath.to_pod(&answer.build());
    assert_eq!((back.verdict, back.action), (Verdict::Replied, -1));
    assert_eq!(back.frame, answer.with_ends(ends.vip, ends.client).build());
    assert_eq!(datapath.row_counts().unwrap(), (2, 0), "answered, so settled");

    let data = Frame::tcp(ends.client, ends.vip, "AP").payload(b"some request");
    let there = datapath.from_pod(&data.build());
    assert_eq!(there.verdict, Verdict::Forwarded);
    assert_eq!(there.frame, data.with_ends(ends.client, backend).build());
    checksums_hold(&there.frame).unwrap();
}

#[test]
fn c16_c31_reply_from_backend_leaves_as_the_frontend() {
    both((there_and_back::<V4>, there_and_back::<V6>));
}

fn datagrams<A: Family>(ends: &Ends) {
    let mut datapath = Datapath::load().unwrap();
    let ids = datapath
        .publish::<A>(&Service {
            frontend: Some(ends.vip),
            protocol: Protocol::UDP,
            backends: &ends.backends[..1],
            ..Service::default()
        })
        .unwrap();
    let backend = ends.backends[0];
    let ask = Frame::udp(ends.client, ends.vip).payload(b"odd");
    let there = datapath.from_pod(&ask.build());
    assert_eq!(there.verdict, Verdict::ForwardedNew);
    assert_eq!(there.frame, ask.with_ends(ends.client, backend).build());
    let answer = Frame::udp(backend, ends.client);
    let back = datapath.to_pod(&answer.build());
    assert_eq!(back.verdict, Verdict::Replied);
    assert_eq!(back.frame, answer.with_ends(ends.vip, ends.client).build());
    assert_eq!(datapath.row_counts().unwrap(), (2, 0));

    // C36: the backend stops serving; the very next datagram chooses again.
    publish::<A>(&mut datapath, ends.vip, Protocol::UDP, &ends.backends[1..2]);
    assert_eq!(destination(&datapath.from_pod(&Frame::udp(ends.client, ends.vip).build()).frame), backend);
    datapath.stop_serving::<A>(ids[0], backend).unwrap();
    let moved = datapath.from_pod(&Frame::udp(ends.client, ends.vip).build());
    assert_eq!((moved.verdict, destination(&moved.frame)), (Verdict::ForwardedNew, ends.backends[1]));
}

#[test]
fn c16_c36_datagrams_stay_with_their_backend_while_it_serves() {
    both((datagrams::<V4>, datagrams::<V6>));
}

#[test]
fn c42_a_udp_checksum_of_zero_stays_zero_and_a_computed_zero_is_all_ones() {
    let ends = Ends::v4();
    let mut datapath = Datapath::load().unwrap();
    publish::<V4>(&mut datapath, ends.vip, Protocol::UDP, &ends.backends[..1]);
    let mut none = Frame::udp(ends.client, ends.vip).build();
    none[40..42].copy_from_slice(&[0, 0]);
    let there = datapath.from_pod(&none);
    assert_eq!(there.frame[40..42], [0, 0]);
    // The payload word that makes the translated checksum come out as zero.
    let probe = Frame::udp(ends.client, ends.backends[0]).payload(&[0, 0]).build();
    let word = [probe[40], probe[41]];
    let frame = Frame::udp(ends.client, ends.vip).payload(&word);
    let there = datapath.from_pod(&frame.build());
    assert_eq!(there.frame[40..42], [0xff, 0xff]);
    checksums_hold(&there.frame).unwrap();
}

fn closing<A: Family>(ends: &Ends) {
    for last in ["FA", "R"] {
        let mut datapath = Datapath::load().unwrap();
        publish::<A>(&mut datapath, ends.vip, Protocol::TCP, &ends.backends[..1]);
        let backend = ends.backends[0];
        datapath.from_pod(&Frame::tcp(ends.client, ends.vip, "S").build());
        datapath.to_pod(&Frame::tcp(backend, ends.client, "SA").build());
        datapath.from_pod(&Frame::tcp(ends.client, ends.vip, "A").build());
        publish::<A>(&mut datapath, ends.vip, Protocol::TCP, &ends.backends[1..2]);
        let stays = datapath.from_pod(&Frame::tcp(ends.client, ends.vip, "S").build());
        assert_eq!(destination(&stays.frame), backend, "alive: its own backend answers such a SYN");
        datapath.from_pod(&Frame::tcp(ends.client, ends.vip, last).build());
        datapath.to_pod(&Frame::tcp(backend, ends.client, last).build());
        let anew = datapath.from_pod(&Frame::tcp(ends.client, ends.vip, "S").build());
        assert_eq!(
            (anew.verdict, destination(&anew.frame)),
            (Verdict::ForwardedNew, ends.backends[1]),
            "{last}"
        );
    }
}

#[test]
fn c38_a_syn_on_a_closed_connection_chooses_anew() {
    both((closing::<V4>, closing::<V6>));
}

fn same_port<A: Family>(ends: &Ends) {
    let mut datapath = Datapath::load().unwrap();
    let backend = ends.backends[0];
    for vip in [ends.vip, ends.other_vip] {
        publish::<A>(&mut datapath, vip, Protocol::TCP, &[backend]);
    }
    let mut seen = Vec::new();
    for (dialled, expected) in [
        (ends.vip, Verdict::ForwardedNew),
        (ends.other_vip, Verdict::ForwardedNew),
        (backend, Verdict::MovedAside),
    ] {
        let there = datapath.from_pod(&Frame::tcp(ends.client, dialled, "S").build());
        assert_eq!(there.verdict, expected, "{dialled}");
        checksums_hold(&there.frame).unwrap();
        let (source, to) = sockets_of(&there.frame);
        assert_eq!((source.ip(), to), (ends.client.ip(), backend));
        let answer = Frame::tcp(backend, source, "SA");
        let back = datapath.to_pod(&answer.build());
        assert_eq!(back.frame, answer.with_ends(dialled, ends.client).build(), "each gets its own replies");
        seen.push(source.port());
    }
    assert_eq!(seen[0], ends.client.port(), "the first keeps its port");
    seen.sort_unstable();
    seen.dedup();
    assert_eq!(seen.len(), 3);
}

#[test]
fn c27_one_client_port_to_two_frontends_and_the_backend_itself() {
    both((same_port::<V4>, same_port::<V6>));
}

fn port_lost<A: Family>(ends: &Ends) {
    let mut datapath = Datapath::load().unwrap();
    let backend = ends.backends[0];
    publish::<A>(&mut datapath, ends.vip, Protocol::TCP, &[backend]);
    let mut open = |from: SocketAddr, to: SocketAddr| {
        let (source, _) = sockets_of(&datapath.from_pod(&Frame::tcp(from, to, "S").build()).frame);
        let back = datapath.to_pod(&Frame::tcp(backend, source, "SA").build());
        assert_eq!(sockets_of(&back.frame), (to, from), "its own reply");
        for flags in ["A", "FA"].into_iter().take(if from == ends.client && to == backend { 2 } else { 1 }) {
            datapath.from_pod(&Frame::tcp(from, to, flags).build());
            datapath.to_pod(&Frame::tcp(backend, source, flags).build());
        }
        source
    };
    open(ends.client, ends.vip);
    let aside = open(ends.client, backend);
    assert_ne!(aside, ends.client, "the tuple is the first connection's");
    // That one is over, and another client's port is the one it was given.
    assert_eq!(open(aside, ends.vip), aside);
    let again = open(ends.client, backend);
    assert!(again != ends.client && again != aside, "{again}: a port of its own once more");
}

#[test]
fn c27_a_port_that_was_given_out_and_lost_is_not_used_again() {
    both((port_lost::<V4>, port_lost::<V6>));
}

fn hairpin<A: Family>(ends: &Ends) {
    let mut datapath = Datapath::load().unwrap();
    let pod = SocketAddr::new(ends.client.ip(), 8080);
    publish::<A>(&mut datapath, ends.vip, Protocol::TCP, &[pod]);
    let syn = Frame::tcp(ends.client, ends.vip, "S");
    let inside = datapath.from_pod(&syn.build());
    assert_eq!(inside.frame, syn.clone().with_ends(ends.client, pod).build());
    let out = datapath.to_pod(&inside.frame);
    assert_eq!(out.verdict, Verdict::Masqueraded);
    let (node, to) = sockets_of(&out.frame);
    assert_eq!((node.ip(), to), (ends.node, pod));
    assert!((MASQUERADE_PORTS.0..=MASQUERADE_PORTS.1).contains(&node.port()));
    assert_eq!(out.frame, syn.with_ends(node, pod).build());
    let answer = Frame::tcp(pod, node, "SA");
    let inside = datapath.from_pod(&answer.build());
    assert_eq!(inside.verdict, Verdict::Unmasqueraded);
    assert_eq!(inside.frame, answer.clone().with_ends(pod, ends.client).build());
    let back = datapath.to_pod(&inside.frame);
    assert_eq!(back.verdict, Verdict::Replied);
    assert_eq!(back.frame, answer.with_ends(ends.vip, ends.client).build());
    assert_eq!(datapath.row_counts().unwrap(), (4, 0), "four rows, settled together");
    let data = Frame::tcp(ends.client, ends.vip, "A");
    let inside = datapath.from_pod(&data.build());
    assert_eq!(datapath.to_pod(&inside.frame).frame, data.with_ends(node, pod).build(), "the port is kept");
}

#[test]
fn c23_hairpin_leaves_with_the_nodes_address_and_comes_back_as_the_frontend() {
    both((hairpin::<V4>, hairpin::<V6>));
}

#[test]
fn c23_without_an_address_to_masquerade_with_a_hairpin_is_dropped() {
    let ends = Ends::v4();
    let mut datapath = Datapath::load().unwrap();
    datapath.set_masquerade_addresses("0.0.0.0", "::").unwrap();
    let pod = SocketAddr::new(ends.client.ip(), 8080);
    publish::<V4>(&mut datapath, ends.vip, Protocol::TCP, &[pod]);
    let inside = datapath.from_pod(&Frame::tcp(ends.client, ends.vip, "S").build());
    let out = datapath.to_pod(&inside.frame);
    assert_eq!((out.verdict, out.action), (Verdict::DroppedNoMasqueradeAddress, 2));
}

#[test]
fn c28_every_backend_is_equally_likely() {
    let ends = Ends::v4();
    let mut datapath = Datapath::load().unwrap();
    publish::<V4>(&mut datapath, ends.vip, Protocol::UDP, &ends.backends);
    let mut counts = [0u32; 3];
    for port in 1_024..4_024 {
        let client = SocketAddr::new(ends.client.ip(), port);
        let to = destination(&datapath.from_pod(&Frame::udp(client, ends.vip).build()).frame);
        counts[ends.backends.iter().position(|backend| *backend == to).unwrap()] += 1;
    }
    // Five standard deviations of 1000 of 3000: 129.
    assert!(counts.iter().all(|count| count.abs_diff(1_000) < 130), "{counts:?}");
}

fn sticky<A: Family>(ends: &Ends) {
    let mut datapath = Datapath::load().unwrap();
    let service = Service {
        frontend: Some(ends.vip),
        protocol: Protocol::UDP,
        backends: &ends.backends,
        affinity_seconds: 600,
        ..Service::default()
    };
    let ids = datapath.publish::<A>(&service).unwrap();
    let ask = |datapath: &mut Datapath, port| {
        let client = SocketAddr::new(ends.client.ip(), port);
        destination(&datapath.from_pod(&Frame::udp(client, ends.vip).build()).frame)
    };
    let first = ask(&mut datapath, 1_000);
    assert!((1_001..1_040).all(|port| ask(&mut datapath, port) == first), "whatever the client's port");
    let index = ends.backends.iter().position(|backend| *backend == first).unwrap();
    datapath.stop_serving::<A>(ids[index], first).unwrap();
    let choices: Vec<SocketAddr> = (2_000..2_040).map(|port| ask(&mut datapath, port)).collect();
    // Slots still name the one that is gone, as between two operations of an update; affinity does not.
    let kept: Vec<_> = choices.iter().skip_while(|to| **to == first).collect();
    assert!(kept.windows(2).all(|pair| pair[0] == pair[1]), "{choices:?}");
}

#[test]
fn c30_a_client_stays_with_its_backend_while_that_is_in_the_set() {
    both((sticky::<V4>, sticky::<V6>));
}

#[test]
fn a_row_that_changed_owners_is_not_believed() {
    let ends = Ends::v4();
    let mut datapath = Datapath::load().unwrap();
    let row = FrontendRow { tag: 7, ..FrontendRow::default() };
    datapath.put_frontend::<V4>(ends.vip, Protocol::TCP, row).unwrap();
    let ran = datapath.from_pod(&Frame::tcp(ends.client, ends.vip, "S").build());
    assert_eq!((ran.verdict, ran.action), (Verdict::DroppedRowRecycled, 2));
}

#[test]
fn the_datapaths_clock_is_the_agents() {
    let ends = Ends::v4();
    let mut datapath = Datapath::load().unwrap();
    publish::<V4>(&mut datapath, ends.vip, Protocol::TCP, &ends.backends);
    datapath.from_pod(&Frame::tcp(ends.client, ends.vip, "S").build());
    let clock = lb_userspace::datapath::clock::Clock::read().unwrap();
    let row = datapath.flows_v4().unwrap().embryonic.rows().unwrap()[0].1;
    let now = clock.now().unwrap();
    let apart = now.wrapping_sub(row.last_seen).min({ row.last_seen }.wrapping_sub(now));
    assert!(apart <= clock.ticks_per_second, "{apart} ticks apart at {} a second", clock.ticks_per_second);
}

#[test]
fn c33_where_the_policy_says_local_and_none_is_local_it_is_silent() {
    let ends = Ends::v4();
    let mut datapath = Datapath::load().unwrap();
    let service = Service {
        frontend: Some(ends.vip),
        protocol: Protocol::TCP,
        flags: FrontendFlags::INSIDE_DROP,
        ..Service::default()
    };
    datapath.publish::<V4>(&service).unwrap();
    let ran = datapath.from_pod(&Frame::tcp(ends.client, ends.vip, "S").build());
    assert_eq!((ran.verdict, ran.action), (Verdict::DroppedNoLocalEndpoint, 2));
}

fn association<A: Family>(ends: &Ends) {
    let mut datapath = Datapath::load().unwrap();
    publish::<A>(&mut datapath, ends.vip, Protocol::SCTP, &[ends.backends[0]]);
    let (client, vip, backend) = (ends.client, ends.vip, ends.backends[0]);
    let there = datapath.from_pod(&Frame::sctp(client, vip, 1));
    assert_eq!(there.verdict, Verdict::ForwardedNew);
    assert_eq!(there.frame, Frame::sctp(client, backend, 1), "its CRC32c is that of a packet built anew");
    let back = datapath.to_pod(&Frame::sctp(backend, client, 2));
    assert_eq!((back.verdict, back.frame), (Verdict::Replied, Frame::sctp(vip, client, 2)));
    assert_eq!(datapath.row_counts().unwrap(), (2, 0), "answered, so settled");
    let data = datapath.from_pod(&Frame::sctp(client, vip, 0));
    assert_eq!((data.verdict, data.frame), (Verdict::Forwarded, Frame::sctp(client, backend, 0)));

    let mut left_to_the_device = Frame::sctp(client, vip, 0);
    let mut expected = Frame::sctp(client, backend, 0);
    for frame in [&mut left_to_the_device, &mut expected] {
        let sum = frame.len() - 32 + 8;
        frame[sum..sum + 4].fill(0);
    }
    assert_eq!(datapath.from_pod(&left_to_the_device).frame, expected, "no sum stays no sum");

    let stray = datapath.from_pod(&Frame::sctp(ends.client, SocketAddr::new(vip.ip(), 81), 0));
    assert_eq!(stray.verdict, Verdict::NotService);
    datapath.to_pod(&Frame::sctp(backend, client, 6));
    let anew = datapath.from_pod(&Frame::sctp(client, vip, 1));
    assert_eq!(anew.verdict, Verdict::ForwardedNew, "an association that was aborted is over");
}

#[test]
fn c21_an_sctp_association_is_translated_with_its_ports_and_its_checksum() {
    both((association::<V4>, association::<V6>));
}

fn vanished<A: Family>(ends: &Ends) {
    let mut datapath = Datapath::load().unwrap();
    let backend = ends.backends[0];
    let service = Service {
        frontend: Some(ends.vip),
        protocol: Protocol::TCP,
        backends: &ends.backends[..1],
        ..Service::default()
    };
    let id = datapath.publish::<A>(&service).unwrap()[0];
    datapath.from_pod(&Frame::tcp(ends.client, ends.vip, "S").build());
    datapath.to_pod(&Frame::tcp(backend, ends.client, "SA").build());
    let data = Frame::tcp(ends.client, ends.vip, "AP").payload(b"more").build();
    datapath.configure(ConfigFlags::RESET_VANISHED).unwrap();
    datapath.stop_serving::<A>(id, backend).unwrap();
    assert_eq!(datapath.from_pod(&data).verdict, Verdict::Forwarded, "it is still listed (C31)");
    datapath.vanish::<A>(id, backend).unwrap();
    datapath.configure(0).unwrap();
    assert_eq!(datapath.from_pod(&data).verdict, Verdict::Forwarded, "nobody asked for a reset");
    datapath.configure(ConfigFlags::RESET_VANISHED).unwrap();
    let ran = datapath.from_pod(&data);
    assert_eq!((ran.verdict, ran.action), (Verdict::RejectedVanished, 7));
    assert_eq!(ran.frame, Frame::tcp(ends.vip, ends.client, "R").numbers(2_000, 0, 0).swapped().build());
    assert_eq!(datapath.row_counts().unwrap(), (0, 0), "the connection is forgotten");
    publish::<A>(&mut datapath, ends.vip, Protocol::TCP, &ends.backends[1..2]);
    let anew = datapath.from_pod(&Frame::tcp(ends.client, ends.vip, "S").build());
    assert_eq!((anew.verdict, destination(&anew.frame)), (Verdict::ForwardedNew, ends.backends[1]));
}

#[test]
fn c37_where_it_is_asked_for_a_segment_to_a_vanished_backend_is_answered_with_a_reset() {
    both((vanished::<V4>, vanished::<V6>));
}
