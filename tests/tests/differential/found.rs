//! What the reference model found in the datapath, one small case each, so that it stays found.
//!
//! Decides nothing new: each is a rule of the contract in a case that nobody had thought of. Invariant: a case is as small
//! as it could be made.

use std::net::SocketAddr;

use lb_common::abi::{ConfigFlags, FrontendFlags, Verdict};
use lb_common::address::{Protocol, V4, V6};
use lb_tests::packets::{Datapath, Ends, Frame, MASQUERADE_PORTS, Service, both, sockets_of, too_big};
use lb_userspace::tables::Family;

fn publish<A: Family>(
    datapath: &mut Datapath,
    vip: SocketAddr,
    protocol: Protocol,
    backend: SocketAddr,
    flags: u32,
) {
    let service =
        Service { frontend: Some(vip), protocol, backends: &[backend], flags, ..Service::default() };
    datapath.publish::<A>(&service).unwrap();
}

const EXTERNAL: u32 = FrontendFlags::EXTERNAL;

fn aborted<A: Family>(ends: &Ends) {
    const ABORT: u8 = 6;
    let mut datapath = Datapath::load().unwrap();
    publish::<A>(&mut datapath, ends.vip, Protocol::SCTP, ends.backends[0], 0);
    let ran = datapath.from_pod(&Frame::sctp(ends.client, ends.vip, ABORT));
    assert_eq!((ran.verdict, ran.action), (Verdict::DroppedNoFlow, 2));
}

#[test]
fn c32_an_abort_of_sctp_is_a_reset_and_is_not_answered() {
    both((aborted::<V4>, aborted::<V6>));
}

/// A flow to a backend on another node whose first packet has come in and not left yet.
fn pending<A: Family>(datapath: &mut Datapath, ends: &Ends) -> (SocketAddr, SocketAddr) {
    let backend = ends.backends[2];
    publish::<A>(datapath, ends.vip, Protocol::TCP, backend, EXTERNAL);
    datapath.from_net(&Frame::tcp(ends.outsider, ends.vip, "S").build());
    (ends.outsider, backend)
}

fn answered_early<A: Family>(ends: &Ends) {
    let mut datapath = Datapath::load().unwrap();
    let (client, backend) = pending::<A>(&mut datapath, ends);
    datapath.to_net(&Frame::tcp(backend, client, "SA").build());
    let out = datapath.to_net(&Frame::tcp(client, backend, "A").build());
    assert_eq!((out.verdict, sockets_of(&out.frame).0.ip()), (Verdict::Masqueraded, ends.node));
}

#[test]
fn c25_a_flow_that_is_answered_before_it_leaves_is_still_masqueraded() {
    both((answered_early::<V4>, answered_early::<V6>));
}

fn error_about_pending<A: Family>(ends: &Ends) {
    let mut datapath = Datapath::load().unwrap();
    let (client, backend) = pending::<A>(&mut datapath, ends);
    let error = too_big(ends.router, backend.ip(), &Frame::tcp(backend, client, "A").build());
    let ran = datapath.to_net(&error);
    assert_eq!((ran.verdict, ran.frame), (Verdict::NotTranslated, error));
}

#[test]
fn c39_an_error_about_a_flow_that_has_not_left_yet_is_nobodys() {
    both((error_about_pending::<V4>, error_about_pending::<V6>));
}

fn large_and_refused<A: Family>(ends: &Ends) {
    let mut datapath = Datapath::load().unwrap();
    datapath.configure(ConfigFlags::SOCKETS).unwrap();
    publish::<A>(&mut datapath, ends.vip, Protocol::UDP, ends.backends[0], 0);
    let own = SocketAddr::new(ends.node, 5_000);
    for fragment in Frame::udp(own, ends.vip).payload(&[7; 64]).build_fragments(24) {
        let ran = datapath.to_net(&fragment);
        assert_eq!((ran.verdict, ran.action), (Verdict::DroppedRefusedSocket, 2));
    }
    let from_our_ports = SocketAddr::new(ends.node, MASQUERADE_PORTS.0);
    let ran = datapath.to_net(&Frame::udp(from_our_ports, ends.vip).build());
    assert_eq!((ran.verdict, ran.action), (Verdict::DroppedRefusedSocket, 2));
}

#[test]
fn c33_what_a_socket_was_refused_stays_on_the_node_in_fragments_and_from_masquerade_ports_too() {
    both((large_and_refused::<V4>, large_and_refused::<V6>));
}

fn hairpin_from_its_own_port<A: Family>(ends: &Ends) {
    let mut datapath = Datapath::load().unwrap();
    let pod = SocketAddr::new(ends.client.ip(), 8080);
    publish::<A>(&mut datapath, ends.vip, Protocol::TCP, pod, 0);
    let there = datapath.from_pod(&Frame::tcp(pod, ends.vip, "S").build());
    let (source, to) = sockets_of(&there.frame);
    assert_eq!((source.ip(), to), (pod.ip(), pod));
    assert_ne!(source.port(), pod.port(), "the way out would be the way back");
    let out = datapath.to_pod(&there.frame);
    let node = sockets_of(&out.frame).0;
    let back = datapath.from_pod(&Frame::tcp(pod, node, "SA").build());
    let reply = datapath.to_pod(&back.frame);
    assert_eq!((reply.verdict, sockets_of(&reply.frame)), (Verdict::Replied, (ends.vip, pod)));
}

#[test]
fn c23_a_pod_that_dials_itself_from_the_port_it_serves_gets_another_port() {
    both((hairpin_from_its_own_port::<V4>, hairpin_from_its_own_port::<V6>));
}

/// Two frontends with one backend; a client's connection to the first is reset, its next, from the same port, goes to
/// the second.
fn successor<A: Family>(datapath: &mut Datapath, ends: &Ends, backend: SocketAddr) -> SocketAddr {
    for vip in [ends.vip, ends.other_vip] {
        publish::<A>(datapath, vip, Protocol::TCP, backend, EXTERNAL);
    }
    let client = ends.outsider;
    for vip in [ends.vip, ends.other_vip] {
        let there = datapath.from_net(&Frame::tcp(client, vip, "S").build());
        assert_eq!(there.verdict, Verdict::ForwardedNew);
        assert_eq!(sockets_of(&there.frame), (client, backend), "{vip}: the tuple is free");
        datapath.to_net(&there.frame);
        if vip == ends.vip {
            datapath.to_net(&Frame::tcp(backend, client, "SA").build());
            datapath.to_net(&Frame::tcp(backend, client, "R").build());
        }
    }
    client
}

fn old_tuple_again<A: Family>(ends: &Ends) {
    let mut datapath = Datapath::load().unwrap();
    let backend = ends.backends[0];
    let service = Service { local: &[backend], ..Service::default() };
    let client = {
        for vip in [ends.vip, ends.other_vip] {
            let backends = &[backend];
            let local = Service {
                frontend: Some(vip),
                protocol: Protocol::TCP,
                backends,
                flags: EXTERNAL,
                ..service.clone()
            };
            datapath.publish::<A>(&local).unwrap();
        }
        ends.outsider
    };
    datapath.from_net(&Frame::tcp(client, ends.vip, "S").build());
    datapath.to_net(&Frame::tcp(backend, client, "SA").build());
    datapath.to_net(&Frame::tcp(backend, client, "R").build());
    datapath.from_net(&Frame::tcp(client, ends.other_vip, "S").build());
    let again = datapath.from_net(&Frame::tcp(client, ends.vip, "S").build());
    assert_eq!(again.verdict, Verdict::ForwardedNew, "its old rows are not believed");
    assert_ne!(sockets_of(&again.frame).0, client, "the tuple is the other connection's by now");
}

#[test]
fn c38_a_syn_on_a_dead_connection_whose_tuple_another_has_gets_another_port() {
    both((old_tuple_again::<V4>, old_tuple_again::<V6>));
}

fn successor_keeps_its_rows<A: Family>(ends: &Ends) {
    let mut datapath = Datapath::load().unwrap();
    let backend = ends.backends[2];
    let client = successor::<A>(&mut datapath, ends, backend);
    let node = sockets_of(&datapath.to_net(&Frame::tcp(client, backend, "S").build()).frame).0;
    assert_eq!(node.ip(), ends.node);
    datapath.from_net(&Frame::tcp(client, ends.vip, "S").build());
    let still = datapath.to_net(&Frame::tcp(client, backend, "A").build());
    assert_eq!((still.verdict, sockets_of(&still.frame).0), (Verdict::Masqueraded, node));
}

#[test]
fn c31_a_masqueraded_connection_outlives_the_forgetting_of_the_one_before() {
    both((successor_keeps_its_rows::<V4>, successor_keeps_its_rows::<V6>));
}
