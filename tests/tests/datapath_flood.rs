//! Tier 1: what one who opens flows without end does to those of others.

use std::net::SocketAddr;

use lb_common::abi::Verdict;
use lb_common::address::{Protocol, V4, V6};
use lb_tests::packets::{Datapath, Ends, Frame, Service, both, sockets_of};
use lb_userspace::tables::Family;

/// Flows of one pod that fills the half-open table, whose rows are 16,384 here.
fn flood(datapath: &mut Datapath, ends: &Ends, from: u32, flows: u32) {
    for number in from..from + flows {
        let port = u16::try_from(1_024 + number % 60_000).unwrap();
        let syn = Frame::tcp(SocketAddr::new(ends.router, port), ends.vip, "S").build();
        assert_eq!(datapath.run_only("pod_ingress", &syn).unwrap().0, -1);
    }
}

fn flooded<A: Family>(ends: &Ends) {
    let mut datapath = Datapath::load().unwrap();
    let service = Service {
        frontend: Some(ends.vip),
        protocol: Protocol::TCP,
        backends: &ends.backends,
        ..Service::default()
    };
    datapath.publish::<A>(&service).unwrap();
    flood(&mut datapath, ends, 0, 10_000);
    let victims: Vec<_> = (2_000..2_064)
        .map(|port| {
            let client = SocketAddr::new(ends.client.ip(), port);
            let there = datapath.from_pod(&Frame::tcp(client, ends.vip, "S").build());
            (client, sockets_of(&there.frame).1)
        })
        .collect();
    // Two rows a flow. 7,168 did no harm either; 8,192, all rows, pushed out all of these.
    flood(&mut datapath, ends, 10_000, 4_096);
    for (client, backend) in victims {
        let answer = datapath.to_pod(&Frame::tcp(backend, client, "SA").build());
        assert_eq!(answer.verdict, Verdict::Replied, "{client}");
    }
}

#[test]
fn half_open_flows_outlive_a_flood_that_fills_half_of_their_table() {
    both((flooded::<V4>, flooded::<V6>));
}
