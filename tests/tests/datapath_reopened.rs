//! Tier 1: a client that dials the same frontend from the same port again, while its last connection's rows still stand.

use std::net::SocketAddr;

use lb_common::abi::{FlowEntry, FlowKey, Hook, Verdict};
use lb_common::address::{Protocol, V4, V6};
use lb_common::flow_state::SideState;
use lb_tests::packets::{Datapath, Ends, Frame, Service, both, sockets_of};
use lb_userspace::tables::Family;

fn publish<A: Family>(datapath: &mut Datapath, vip: SocketAddr, backends: &[SocketAddr]) {
    let service = Service { frontend: Some(vip), protocol: Protocol::TCP, backends, ..Service::default() };
    datapath.publish::<A>(&service).unwrap();
}

/// A client's SYN: what became of it, and where it went from where.
fn open(datapath: &mut Datapath, client: SocketAddr, vip: SocketAddr) -> (Verdict, SocketAddr, SocketAddr) {
    let there = datapath.from_pod(&Frame::tcp(client, vip, "S").build());
    let (from, to) = sockets_of(&there.frame);
    (there.verdict, from, to)
}

/// The backend's answer: where it seems to come from, and whom it reaches.
fn answer(datapath: &mut Datapath, backend: SocketAddr, client: SocketAddr) -> (SocketAddr, SocketAddr) {
    sockets_of(&datapath.to_pod(&Frame::tcp(backend, client, "SA").build()).frame)
}

/// A connection that was answered, and that its client has reset.
fn opened_and_over(datapath: &mut Datapath, ends: &Ends, backend: SocketAddr) {
    assert_eq!(open(datapath, ends.client, ends.vip), (Verdict::ForwardedNew, ends.client, backend));
    assert_eq!(answer(datapath, backend, ends.client), (ends.vip, ends.client));
    for flags in ["A", "R"] {
        datapath.from_pod(&Frame::tcp(ends.client, ends.vip, flags).build());
    }
    assert_eq!(datapath.row_counts().unwrap(), (2, 0), "its rows stand");
}

/// Settled rows of the family in use: the client's, and the one for replies.
fn rows(datapath: &Datapath) -> [(SideState, u32); 2] {
    fn of<A: Family>(rows: &[(FlowKey<A>, FlowEntry<A>)]) -> Vec<(Hook, SideState, u32)> {
        rows.iter().map(|(key, entry)| ({ *key }.hook, { entry.row }.side(), { entry.row }.since)).collect()
    }
    let mut all = of::<V4>(&datapath.flows_v4().unwrap().settled.rows().unwrap());
    all.extend(of::<V6>(&datapath.flows_v6().unwrap().settled.rows().unwrap()));
    all.sort_by_key(|(hook, ..)| *hook);
    let [(Hook::INGRESS, said, since), (Hook::EGRESS, answered, answered_since)] = all[..] else {
        panic!("{all:?}");
    };
    [(said, since), (answered, answered_since)]
}

fn same_backend<A: Family>(ends: &Ends) {
    let mut datapath = Datapath::load().unwrap();
    let backend = ends.backends[0];
    publish::<A>(&mut datapath, ends.vip, &[backend]);
    opened_and_over(&mut datapath, ends, backend);
    let [(said, began), _] = rows(&datapath);
    assert_eq!(said, SideState::RESET);
    // This clock's ticks are as long as the kernel's, and some ahead of them or behind.
    let clock = lb_userspace::datapath::clock::Clock::read().unwrap();
    let before = clock.now().unwrap();
    lb_tests::poll::until("a tick to pass", std::time::Duration::from_secs(5), || {
        let passed = clock.now().unwrap().wrapping_sub(before);
        if passed < 2 { Err(format!("{passed}, and perhaps none of the kernel's")) } else { Ok(()) }
    })
    .unwrap();

    assert_eq!(open(&mut datapath, ends.client, ends.vip), (Verdict::ForwardedNew, ends.client, backend));
    assert_eq!(datapath.row_counts().unwrap(), (2, 0), "the same rows");
    let [(said, since), (answered, answered_since)] = rows(&datapath);
    assert_eq!((said, answered), (SideState::OPENING, SideState::OPENING), "nobody has said anything yet");
    assert!(
        since != began && since == answered_since,
        "they begin now: {since}, {answered_since}, not {began}"
    );
    let again = open(&mut datapath, ends.client, ends.vip);
    assert_eq!(again, (Verdict::Forwarded, ends.client, backend), "a SYN sent again opens nothing");
    assert_eq!(answer(&mut datapath, backend, ends.client), (ends.vip, ends.client));
}

#[test]
fn c38_a_clients_next_connection_to_the_same_backend_has_the_rows_of_its_last() {
    both((same_backend::<V4>, same_backend::<V6>));
}

fn other_backend<A: Family>(ends: &Ends) {
    let mut datapath = Datapath::load().unwrap();
    let [old, new] = [ends.backends[0], ends.backends[1]];
    publish::<A>(&mut datapath, ends.vip, &[old]);
    opened_and_over(&mut datapath, ends, old);
    publish::<A>(&mut datapath, ends.vip, &[new]);
    assert_eq!(open(&mut datapath, ends.client, ends.vip), (Verdict::ForwardedNew, ends.client, new));
    assert_eq!(datapath.row_counts().unwrap(), (2, 0), "as many rows as before, in the same table");
    let late = datapath.to_pod(&Frame::tcp(old, ends.client, "FA").build());
    assert_eq!(late.verdict, Verdict::NotTranslated, "the old backend is nobody's any more");
    assert_eq!(answer(&mut datapath, new, ends.client), (ends.vip, ends.client));
    let data = datapath.from_pod(&Frame::tcp(ends.client, ends.vip, "A").build());
    assert_eq!((data.verdict, sockets_of(&data.frame).1), (Verdict::Forwarded, new));
}

#[test]
fn c38_a_clients_next_connection_to_another_backend_leaves_no_row_of_its_last() {
    both((other_backend::<V4>, other_backend::<V6>));
}

fn taken<A: Family>(ends: &Ends) {
    let mut datapath = Datapath::load().unwrap();
    let [old, new] = [ends.backends[0], ends.backends[1]];
    publish::<A>(&mut datapath, ends.vip, &[old]);
    opened_and_over(&mut datapath, ends, old);
    for vip in [ends.vip, ends.other_vip] {
        publish::<A>(&mut datapath, vip, &[new]);
    }
    let other = open(&mut datapath, ends.client, ends.other_vip);
    assert_eq!(other, (Verdict::ForwardedNew, ends.client, new), "another connection has the way back");
    let (verdict, from, to) = open(&mut datapath, ends.client, ends.vip);
    assert_eq!((verdict, to), (Verdict::ForwardedNew, new));
    assert_ne!(from, ends.client, "it gets a port of its own");
    assert_eq!(datapath.row_counts().unwrap(), (0, 4), "and is half-open as any other");
    assert_eq!(answer(&mut datapath, new, ends.client), (ends.other_vip, ends.client));
    assert_eq!(answer(&mut datapath, new, from), (ends.vip, ends.client));
}

#[test]
fn c27_a_clients_next_connection_takes_no_way_back_that_another_has() {
    both((taken::<V4>, taken::<V6>));
}

/// A row without its partner, which another flow may have by now.
#[test]
fn c38_what_is_left_of_a_connection_is_not_its_tuples_next() {
    let ends = Ends::v4();
    let mut datapath = Datapath::load().unwrap();
    let backend = ends.backends[0];
    publish::<V4>(&mut datapath, ends.vip, &[backend]);
    for gone in [Hook::EGRESS, Hook::INGRESS] {
        opened_and_over(&mut datapath, &ends, backend);
        let settled = datapath.flows_v4().unwrap().settled;
        let (key, _) = settled.rows().unwrap().into_iter().find(|(key, _)| { key.hook } == gone).unwrap();
        assert!(settled.delete(&key).unwrap());
        assert_eq!(open(&mut datapath, ends.client, ends.vip), (Verdict::ForwardedNew, ends.client, backend));
        assert_eq!(datapath.row_counts().unwrap(), (0, 2), "two new rows, half-open");
        assert_eq!(answer(&mut datapath, backend, ends.client), (ends.vip, ends.client));
        for (key, _) in settled.rows().unwrap() {
            settled.delete(&key).unwrap();
        }
    }
}

/// A connection that is not over is nobody else's, whatever opens.
#[test]
fn c38_an_open_connections_rows_stay_its_own() {
    let ends = Ends::v4();
    let mut datapath = Datapath::load().unwrap();
    publish::<V4>(&mut datapath, ends.vip, &ends.backends[..1]);
    open(&mut datapath, ends.client, ends.vip);
    answer(&mut datapath, ends.backends[0], ends.client);
    datapath.from_pod(&Frame::tcp(ends.client, ends.vip, "FA").build());
    publish::<V4>(&mut datapath, ends.vip, &ends.backends[1..2]);
    assert_eq!(
        open(&mut datapath, ends.client, ends.vip),
        (Verdict::Forwarded, ends.client, ends.backends[0]),
        "half closed"
    );
}
