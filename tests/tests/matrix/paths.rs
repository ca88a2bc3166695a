//! What is too long for one packet: streams over a narrow link, datagrams in fragments, in the matrix's
//! clusters.
//!
//! Decides who sends how much to whom; must not know where it is translated. Invariant: everything that is
//! sent comes back whole.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use lb_tests::traffic::{Dial, Reply};

use super::cluster::{BRIDGED, Cluster, OVERLAY, ROUTED, Shape, number_of};
use super::contract::{Client, Front, Policy};

/// Narrower than pods' links, and wide enough for IPv6.
const NARROW: u32 = 1300;
/// Far more than a window's first packets.
const STREAM: usize = 200_000;
/// Three fragments on a full link, four on a narrow one.
const DATAGRAM: usize = 4000;
/// After so many exchanges, each of two backends has served one.
const DIALS: usize = 40;
const LIMIT: Duration = Duration::from_secs(10);
/// How long a datagram's answer is waited for, before it is sent again.
const AGAIN: Duration = Duration::from_millis(500);

/// The Service of one backend on each node, policy Cluster.
fn both() -> usize {
    number_of("both", Policy::Cluster)
}

/// Repeats `exchange`, given the number of the try, until backends on both nodes have served one.
fn until_both_served(what: &str, mut exchange: impl FnMut(usize) -> Reply) {
    let mut seen = BTreeSet::new();
    for number in 0..DIALS {
        seen.insert(exchange(number).backend);
        if seen.len() == 2 {
            return;
        }
    }
    panic!("{what}: only {seen:?} served {DIALS} exchanges");
}

fn streams_pass(shape: Shape, clients: &[Client]) {
    let cluster = Cluster::start(Shape { path_mtu: NARROW, ..shape }, &[]).unwrap();
    for client in clients {
        for front in [Front::ClusterIp, Front::NodePort, Front::LoadBalancerIp] {
            for v6 in [false, true] {
                let to = cluster.address(both(), front, true, v6);
                let what = format!("{client:?} to {to}, {:?}", shape.layout);
                until_both_served(&what, |number| {
                    let mut dial = Dial::to(to).within(LIMIT).sending(STREAM);
                    if let Some(source) = cluster.source(*client, number, v6) {
                        dial = dial.from_address(source);
                    }
                    dial.tcp(cluster.client(*client).1).unwrap_or_else(|why| panic!("{what}: {why}"))
                });
            }
        }
    }
    cluster.assert_true_addresses();
}

const FAR_AND_NEAR: [Client; 3] = [Client::Outside, Client::PodHere, Client::PodThere];

#[test]
fn rule_5_c39_streams_pass_a_narrow_link_from_routed_nodes() {
    streams_pass(ROUTED, &FAR_AND_NEAR);
}

#[test]
fn rule_5_c39_streams_pass_a_narrow_link_from_bridged_nodes() {
    streams_pass(BRIDGED, &FAR_AND_NEAR);
}

#[test]
fn rule_5_c39_streams_pass_a_narrow_link_from_nodes_of_an_overlay() {
    streams_pass(OVERLAY, &FAR_AND_NEAR);
}

/// A datagram whose answer is lost is sent again: the first one over a narrow link may be, until both ends
/// have learned how narrow it is.
fn answered(dial: &Dial, cluster: &Cluster, client: Client, what: &str) -> Reply {
    let start = Instant::now();
    loop {
        match dial.udp(cluster.client(client).1) {
            Ok(reply) => return reply,
            Err(why) => assert!(start.elapsed() < LIMIT, "{what}: {why}"),
        }
    }
}

fn fragments_pass(shape: Shape) {
    let cluster = Cluster::start(shape, &[]).unwrap();
    for client in FAR_AND_NEAR {
        for front in [Front::ClusterIp, Front::NodePort, Front::LoadBalancerIp] {
            for v6 in [false, true] {
                let to = cluster.address(both(), front, false, v6);
                let what = format!("{client:?} to {to}, {shape:?}");
                until_both_served(&what, |number| {
                    let mut dial = Dial::to(to).within(AGAIN).sending(DATAGRAM);
                    if let Some(source) = cluster.source(client, number, v6) {
                        dial = dial.from_address(source);
                    }
                    answered(&dial, &cluster, client, &what)
                });
            }
        }
    }
}

#[test]
fn rule_6_c40_datagrams_in_fragments_come_back_whole_in_every_layout() {
    for shape in [ROUTED, BRIDGED, OVERLAY] {
        fragments_pass(shape);
    }
}

/// On routed nodes only: where a bridge has br_netfilter, the backend's node puts IPv6 fragments together and cuts them
/// anew for its own link, however narrow the backend has learned that the path is (a capture on the three links shows
/// fragments of 1248 bytes from the pod, of 1400 from its node, where nothing is translated).
#[test]
fn rule_6_c39_c40_datagrams_in_fragments_pass_a_narrow_link() {
    fragments_pass(Shape { path_mtu: NARROW, ..ROUTED });
}
