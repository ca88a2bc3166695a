//! Tier 1: what comes from outside to a NodePort, a load balancer address or an external IP, packet by packet.

use std::net::SocketAddr;

use lb_common::abi::{ConfigFlags, FrontendFlags, Verdict};
use lb_common::address::{Protocol, V4, V6};
use lb_tests::packets::{Datapath, Ends, Frame, MASQUERADE_PORTS, Service, both, checksums_hold, sockets_of};
use lb_userspace::tables::Family;

const ON: i32 = -1;
const DROP: i32 = 2;
const REDIRECT: i32 = 7;

/// Publishes `vip` with these backends, of which the first two of [`Ends::backends`] are on this node.
fn publish<A: Family>(datapath: &mut Datapath, ends: &Ends, backends: &[SocketAddr], flags: u32) {
    for protocol in [Protocol::TCP, Protocol::UDP] {
        let service = Service {
            frontend: Some(ends.vip),
            protocol,
            backends,
            local: &ends.backends[..2],
            flags,
            ..Service::default()
        };
        datapath.publish::<A>(&service).unwrap();
    }
}

fn to_local<A: Family>(ends: &Ends) {
    let mut datapath = Datapath::load().unwrap();
    let backend = ends.backends[0];
    publish::<A>(&mut datapath, ends, &[backend], FrontendFlags::EXTERNAL);
    for frame in [Frame::tcp(ends.outsider, ends.vip, "S"), Frame::udp(ends.outsider, ends.vip)] {
        let there = datapath.from_net(&frame.build());
        assert_eq!((there.verdict, there.action), (Verdict::ForwardedNew, ON));
        assert_eq!(there.frame, frame.clone().with_ends(ends.outsider, backend).build());
        let into_pod = datapath.to_pod(&there.frame);
        assert_eq!((into_pod.verdict, into_pod.frame), (Verdict::NotTranslated, there.frame));
    }
    for answer in [Frame::tcp(backend, ends.outsider, "SA"), Frame::udp(backend, ends.outsider)] {
        let out_of_pod = datapath.from_pod(&answer.build());
        assert_eq!((out_of_pod.verdict, &out_of_pod.frame), (Verdict::NotService, &answer.build()));
        let back = datapath.to_net(&out_of_pod.frame);
        assert_eq!(back.verdict, Verdict::Replied);
        assert_eq!(back.frame, answer.with_ends(ends.vip, ends.outsider).build());
    }
}

#[test]
fn c25_a_backend_on_this_node_sees_the_client_and_answers_as_the_frontend() {
    both((to_local::<V4>, to_local::<V6>));
}

/// The way of a masqueraded flow: there through `out`, back through `back`.
fn masqueraded(
    datapath: &mut Datapath,
    ends: &Ends,
    backend: SocketAddr,
    (out, back): (&str, &str),
    (first, answer): (&Frame, &Frame),
) {
    let there = datapath.from_net(&first.build());
    assert_eq!(there.verdict, Verdict::ForwardedNew);
    assert_eq!(there.frame, first.clone().with_ends(ends.outsider, backend).build());
    let gone = datapath.run(out, &there.frame).unwrap();
    assert_eq!((gone.verdict, gone.action), (Verdict::Masqueraded, ON));
    let (node, to) = sockets_of(&gone.frame);
    assert_eq!((node.ip(), to), (ends.node, backend));
    assert!((MASQUERADE_PORTS.0..=MASQUERADE_PORTS.1).contains(&node.port()));
    checksums_hold(&gone.frame).unwrap();

    let answered = datapath.run(back, &answer.clone().with_ends(backend, node).build()).unwrap();
    assert_eq!(answered.verdict, Verdict::Unmasqueraded);
    assert_eq!(answered.frame, answer.clone().with_ends(backend, ends.outsider).build());
    let delivered = datapath.to_net(&answered.frame);
    assert_eq!(delivered.verdict, Verdict::Replied);
    assert_eq!(delivered.frame, answer.clone().with_ends(ends.vip, ends.outsider).build());

    let more = datapath.from_net(&first.build());
    assert_eq!((more.verdict, &more.frame), (Verdict::Forwarded, &there.frame));
    assert_eq!(datapath.run(out, &more.frame).unwrap().frame, gone.frame, "the port stays");
}

fn to_remote<A: Family>(ends: &Ends) {
    let mut datapath = Datapath::load().unwrap();
    let backend = ends.backends[2];
    publish::<A>(&mut datapath, ends, &[backend], FrontendFlags::EXTERNAL);
    let nowhere = ends.router;
    let any = SocketAddr::new(nowhere, 1);
    let tcp = (Frame::tcp(ends.outsider, ends.vip, "S"), Frame::tcp(any, any, "SA"));
    let udp = (Frame::udp(ends.outsider, ends.vip), Frame::udp(any, any));
    for (first, answer) in [&tcp, &udp] {
        let hooks = ("net_egress", "net_ingress");
        masqueraded(&mut datapath, ends, backend, hooks, (first, answer));
    }
    assert_eq!(datapath.row_counts().unwrap().0, 8, "four settled rows each");
}

#[test]
fn c25_a_backend_on_another_node_sees_this_node_and_its_answers_find_back() {
    both((to_remote::<V4>, to_remote::<V6>));
}

fn always<A: Family>(ends: &Ends) {
    let mut datapath = Datapath::load().unwrap();
    datapath.configure(ConfigFlags::MASQUERADE_ALWAYS).unwrap();
    let backend = ends.backends[0];
    publish::<A>(&mut datapath, ends, &[backend], FrontendFlags::EXTERNAL);
    let any = SocketAddr::new(ends.router, 1);
    let (first, answer) = (Frame::tcp(ends.outsider, ends.vip, "S"), Frame::tcp(any, any, "SA"));
    masqueraded(&mut datapath, ends, backend, ("pod_egress", "pod_ingress"), (&first, &answer));
}

#[test]
fn c25_masquerade_always_hides_the_client_from_backends_of_this_node_too() {
    both((always::<V4>, always::<V6>));
}

fn cluster_ip<A: Family>(ends: &Ends) {
    let mut datapath = Datapath::load().unwrap();
    publish::<A>(&mut datapath, ends, &[ends.backends[2]], 0);
    let any = SocketAddr::new(ends.router, 1);
    let (first, answer) = (Frame::tcp(ends.outsider, ends.vip, "S"), Frame::tcp(any, any, "SA"));
    let hooks = ("net_egress", "net_ingress");
    masqueraded(&mut datapath, ends, ends.backends[2], hooks, (&first, &answer));
    let inside = datapath.from_pod(&Frame::tcp(ends.client, ends.vip, "S").build());
    let gone = datapath.to_net(&inside.frame);
    assert_eq!(gone.verdict, Verdict::NotTranslated);
    assert_eq!(gone.frame, inside.frame, "a pod of this node keeps its address");
}

#[test]
fn c26_a_cluster_ip_called_from_outside_is_masqueraded_and_called_by_a_pod_is_not() {
    both((cluster_ip::<V4>, cluster_ip::<V6>));
}

fn local_policy<A: Family>(ends: &Ends) {
    let mut datapath = Datapath::load().unwrap();
    datapath.configure(ConfigFlags::MASQUERADE_ALWAYS).unwrap();
    let flags = FrontendFlags::EXTERNAL | FrontendFlags::OUTSIDE_LOCAL;
    publish::<A>(&mut datapath, ends, &[ends.backends[0]], flags);
    let syn = Frame::tcp(ends.outsider, ends.vip, "S");
    let there = datapath.from_net(&syn.build());
    let into_pod = datapath.to_pod(&there.frame);
    assert_eq!(into_pod.frame, syn.with_ends(ends.outsider, ends.backends[0]).build());
}

#[test]
fn c24_with_the_local_policy_the_client_keeps_its_address_whatever_else_is_asked() {
    both((local_policy::<V4>, local_policy::<V6>));
}

fn sides<A: Family>(ends: &Ends) {
    let mut datapath = Datapath::load().unwrap();
    publish::<A>(&mut datapath, ends, &[ends.backends[2]], FrontendFlags::EXTERNAL);
    datapath.empty_outside::<A>(ends.vip, Protocol::TCP, FrontendFlags::OUTSIDE_DROP).unwrap();
    let refused = datapath.from_net(&Frame::tcp(ends.outsider, ends.vip, "S").build());
    assert_eq!((refused.verdict, refused.action), (Verdict::DroppedNoLocalEndpoint, DROP));
    let served = datapath.from_pod(&Frame::tcp(ends.client, ends.vip, "S").build());
    assert_eq!(sockets_of(&served.frame), (ends.client, ends.backends[2]));
    datapath.empty_outside::<A>(ends.vip, Protocol::UDP, 0).unwrap();
    let refused = datapath.from_net(&Frame::udp(ends.outsider, ends.vip).build());
    assert_eq!((refused.verdict, refused.action), (Verdict::RejectedNoEndpoint, REDIRECT));
}

#[test]
fn c24_c33_pods_of_the_node_are_served_where_outsiders_are_refused() {
    both((sides::<V4>, sides::<V6>));
}

fn two_nodes<A: Family>(ends: &Ends) {
    let (mut here, mut there) = (Datapath::load().unwrap(), Datapath::load().unwrap());
    for node in [&mut here, &mut there] {
        publish::<A>(node, ends, &ends.backends, FrontendFlags::EXTERNAL);
    }
    let mut shares = [0; 3];
    for port in 20_000..20_300 {
        let client = SocketAddr::new(ends.outsider.ip(), port);
        let syn = here.from_net(&Frame::tcp(client, ends.vip, "S").build());
        let chosen = sockets_of(&syn.frame).1;
        let data = Frame::tcp(client, ends.vip, "A");
        let taken_over = there.from_net(&data.build());
        assert_eq!(
            taken_over.verdict,
            Verdict::ForwardedNew,
            "a segment of a connection that this node never saw"
        );
        assert_eq!(sockets_of(&taken_over.frame).1, chosen);
        shares[ends.backends.iter().position(|backend| *backend == chosen).unwrap()] += 1;
    }
    // 100 +- 4 standard deviations of 8.2.
    assert!(shares.iter().all(|share| (67..=133).contains(share)), "{shares:?}");
}

#[test]
fn c29_two_nodes_choose_one_backend_for_one_flow() {
    both((two_nodes::<V4>, two_nodes::<V6>));
}

fn undefined_port<A: Family>(ends: &Ends) {
    let mut datapath = Datapath::load().unwrap();
    publish::<A>(&mut datapath, ends, &ends.backends, 0);
    datapath.publish_address::<A>(ends.vip.ip()).unwrap();
    let elsewhere = SocketAddr::new(ends.vip.ip(), 81);
    for from_pod in [true, false] {
        let client = if from_pod { ends.client } else { ends.outsider };
        for frame in [Frame::tcp(client, elsewhere, "S"), Frame::udp(client, elsewhere)] {
            let frame = frame.build();
            let ran = if from_pod { datapath.from_pod(&frame) } else { datapath.from_net(&frame) };
            assert_eq!((ran.verdict, ran.action), (Verdict::RejectedNoPort, REDIRECT));
            checksums_hold(&ran.frame).unwrap();
        }
    }
    let served = datapath.from_pod(&Frame::tcp(ends.client, ends.vip, "S").build());
    assert_eq!(served.verdict, Verdict::ForwardedNew);
}

#[test]
fn c34_a_port_that_a_cluster_ip_has_not_is_refused() {
    both((undefined_port::<V4>, undefined_port::<V6>));
}

fn undefined_port_with_options<A: Family>(ends: &Ends) {
    let mut datapath = Datapath::load().unwrap();
    publish::<A>(&mut datapath, ends, &ends.backends, 0);
    datapath.publish_address::<A>(ends.vip.ip()).unwrap();
    let elsewhere = SocketAddr::new(ends.vip.ip(), 4_711);
    let plain = Frame::udp(ends.client, elsewhere).payload(b"for nobody");
    let expected = datapath.from_pod(&plain.build());
    assert_eq!(expected.verdict, Verdict::RejectedNoPort);
    let ran = datapath.from_pod(&plain.build_with_options());
    assert_eq!((ran.verdict, ran.action), (Verdict::RejectedNoPort, REDIRECT));
    assert_eq!(ran.frame, expected.frame, "it quotes the ports, and no options that would cut them off");
    checksums_hold(&ran.frame).unwrap();
}

#[test]
fn c32_c41_a_datagram_with_options_is_refused_as_any_other() {
    both((undefined_port_with_options::<V4>, undefined_port_with_options::<V6>));
}

fn own_connection<A: Family>(ends: &Ends) {
    let mut datapath = Datapath::load().unwrap();
    let backend = ends.backends[2];
    publish::<A>(&mut datapath, ends, &[backend], FrontendFlags::EXTERNAL);
    let mut taken = Vec::new();
    for port in 0..8 {
        let client = SocketAddr::new(ends.outsider.ip(), 30_000 + port);
        let there = datapath.from_net(&Frame::tcp(client, ends.vip, "S").build());
        taken.push(sockets_of(&datapath.to_net(&there.frame).frame).0);
    }
    let own = Frame::tcp(taken[3], backend, "S");
    let held = datapath.to_net(&own.build());
    assert_eq!(held.verdict, Verdict::PortHeld);
    let (moved, to) = sockets_of(&held.frame);
    assert_eq!((moved.ip(), to), (ends.node, backend));
    assert!(!taken.contains(&moved), "a port that no flow has");
    let answer = Frame::tcp(backend, moved, "SA");
    let back = datapath.from_net(&answer.build());
    assert_eq!(back.frame, answer.with_ends(backend, taken[3]).build());

    let free = SocketAddr::new(ends.node, MASQUERADE_PORTS.1);
    let other = SocketAddr::new(ends.router, 443);
    let own = Frame::tcp(free, other, "S").build();
    let held = datapath.to_net(&own);
    assert_eq!((held.verdict, held.frame), (Verdict::PortHeld, own), "a free tuple is kept as it is");
}

#[test]
fn c27_the_nodes_own_connection_from_a_masquerade_port_gives_way_to_a_flow() {
    both((own_connection::<V4>, own_connection::<V6>));
}
