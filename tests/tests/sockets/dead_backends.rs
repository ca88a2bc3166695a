//! Sockets whose backend stops serving (contract C36) or vanishes (C37).
//!
//! Decides nothing. Invariant: each test also has a socket, or a moment, that must not be touched.

use std::io::ErrorKind;
use std::net::UdpSocket;
use std::time::Duration;

use lb_tests::lab::Layout;
use lb_tests::manifests::{Endpoint, Family, Protocol as Port};
use lb_tests::poll::until;
use lb_tests::scene::{BACKENDS, POD_PORT, SOON, Scene, TCP_PORT, UDP_PORT, vips};
use lb_tests::traffic::{FailureKind, Load, Protocol};

use super::{heard, names, udp};

/// Sooner than dead backends are looked for without being asked to.
const AT_ONCE: Duration = Duration::from_secs(20);

#[test]
fn c36_an_unconnected_socket_leaves_a_backend_that_stops_serving_and_no_other() {
    let mut scene = Scene::start(Layout::Routed, &[]).unwrap();
    let vip = vips(UDP_PORT)[0];
    let socket = udp(scene.node(), vip);
    let ask = |socket: &UdpSocket| {
        socket.send_to(b"x", vip).unwrap();
        heard(socket).0
    };
    let first = ask(&socket);
    let others: Vec<&str> = BACKENDS.into_iter().filter(|name| *name != first).collect();
    scene.set_backends(&[&first, others[0]]).unwrap();
    assert_eq!(ask(&socket), first, "its own backend still serves (C31)");
    scene.set_backends(&others).unwrap();
    assert_ne!(ask(&socket), first);
}

#[test]
fn c36_a_connected_udp_socket_on_a_dead_backend_notices() {
    let mut scene = Scene::start(Layout::Routed, &[]).unwrap();
    scene.set_backends(&["a"]).unwrap();
    let sockets: Vec<UdpSocket> = names(UDP_PORT)
        .into_iter()
        .map(|vip| {
            let socket = udp(scene.node(), vip);
            socket.connect(vip).unwrap();
            socket.send(b"x").unwrap();
            assert_eq!(heard(&socket).0, "a");
            socket.set_read_timeout(Some(AT_ONCE)).unwrap();
            socket
        })
        .collect();
    let direct = udp(scene.node(), scene.lab.pod("a").v4_at(POD_PORT));
    direct.connect(scene.lab.pod("a").v4_at(POD_PORT)).unwrap();
    // Another backend more is no reason; the end of their own is.
    scene.set_backends(&["a", "b"]).unwrap();
    for socket in &sockets {
        socket.send(b"x").unwrap();
        assert_eq!(heard(socket).0, "a");
    }
    scene.set_backends(&["b"]).unwrap();
    for (socket, vip) in sockets.iter().zip(names(UDP_PORT)) {
        let error = socket.recv(&mut [0; 100]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionAborted, "{vip}: {error}");
        socket.connect(vip).unwrap();
        socket.send(b"x").unwrap();
        assert_eq!(heard(socket).0, "b", "{vip}: the same socket, connected again");
    }
    direct.send(b"x").unwrap();
    assert_eq!(heard(&direct).0, "a", "who asked for the pod itself keeps it");
}

#[test]
fn c36_a_socket_whose_backend_died_while_the_agent_was_away_notices_when_it_is_back() {
    let mut scene = Scene::start(Layout::Routed, &[]).unwrap();
    scene.set_backends(&["a"]).unwrap();
    let vip = vips(UDP_PORT)[1];
    let socket = udp(scene.node(), vip);
    socket.connect(vip).unwrap();
    socket.set_read_timeout(Some(AT_ONCE)).unwrap();
    scene.agent.kill9().unwrap();
    let only = scene.lab.pod("b").clone();
    scene.manifests.pods("web", &[&only], &[("http", POD_PORT, Port::Tcp), ("dns", POD_PORT, Port::Udp)]);
    scene.manifests.write().unwrap();
    scene.agent.restart().unwrap();
    scene.agent.wait_in_sync(SOON).unwrap();
    assert_eq!(socket.recv(&mut [0; 100]).unwrap_err().kind(), ErrorKind::ConnectionAborted);
}

const CONVERSATIONS: u64 = 12;

#[test]
fn c37_with_the_option_connections_to_a_vanished_backend_are_reset_and_no_others() {
    let mut scene = Scene::start(Layout::Routed, &["--reset-on-backend-delete"]).unwrap();
    let clients = [&scene.client().netns, &scene.node().netns];
    let talks: Vec<Load> = clients
        .into_iter()
        .flat_map(|netns| vips(TCP_PORT).map(|vip| Load::builder(netns, Protocol::Tcp, vip)))
        .map(|load| load.workers(0).conversations(12).start().unwrap())
        .collect();
    let all_talk = |expected: &dyn Fn(&Load) -> u64| {
        until("the conversations that are left", SOON, || {
            let open: Vec<_> = talks.iter().map(|talk| talk.snapshot().conversations.open).collect();
            let wanted: Vec<_> = talks.iter().map(expected).collect();
            if open == wanted { Ok(()) } else { Err(format!("{open:?} are open instead of {wanted:?}")) }
        })
        .unwrap();
    };
    all_talk(&|_| CONVERSATIONS);

    // Not ready for now: they go on.
    let of = |family, address: &dyn Fn(&str) -> String| {
        let endpoint = |name| Endpoint::at(&address(name)).on("node1");
        (family, BACKENDS.map(|name| if name == "a" { endpoint(name) } else { endpoint(name).not_ready() }))
    };
    let slices = [
        of(Family::V4, &|name| scene.lab.pod(name).v4.to_string()),
        of(Family::V6, &|name| scene.lab.pod(name).v6.to_string()),
    ];
    for (family, endpoints) in &slices {
        let ports = [("http", POD_PORT, Port::Tcp), ("dns", POD_PORT, Port::Udp)];
        scene.manifests.endpoints("web", *family, endpoints, &ports);
    }
    scene.manifests.write().unwrap();
    scene.agent.wait_for(SOON, |report| report.rows_written > 0).unwrap();
    let messages = |talk: &Load| talk.snapshot().conversations.messages;
    let so_far: Vec<u64> = talks.iter().map(messages).collect();
    until("more messages", SOON, || {
        let more = talks.iter().zip(&so_far).all(|(talk, so_far)| messages(talk) > so_far + 60);
        if more { Ok(()) } else { Err("not yet".to_owned()) }
    })
    .unwrap();
    all_talk(&|_| CONVERSATIONS);

    scene.set_backends(&["a"]).unwrap();
    all_talk(&|talk| talk.snapshot().conversations.by_backend.get("a").copied().unwrap_or(0));
    for talk in talks {
        let totals = talk.stop();
        assert!(totals.conversations.broken.keys().all(|kind| *kind == FailureKind::Reset));
    }
}
