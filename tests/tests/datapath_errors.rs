//! Tier 1: ICMP errors about translated flows (C39). Whole packets in and out.

use std::net::IpAddr;

use lb_common::abi::Verdict;
use lb_common::address::{Protocol, V4, V6};
use lb_tests::packets::{Datapath, Ends, Frame, Service, both, checksums_hold, too_big, too_big_quoting};
use lb_userspace::tables::Family;

/// A datapath with one Service of one backend, over TCP and UDP.
fn served<A: Family>(ends: &Ends) -> Datapath {
    let mut datapath = Datapath::load().unwrap();
    for protocol in [Protocol::TCP, Protocol::UDP] {
        let backends = [ends.backends[0]];
        let service =
            Service { frontend: Some(ends.vip), protocol, backends: &backends, ..Service::default() };
        datapath.publish::<A>(&service).unwrap();
    }
    datapath
}

const DROP: i32 = 2;

fn icmp_errors_about_fragments<A: Family>(ends: &Ends) {
    let mut datapath = served::<A>(ends);
    let [sent, _] = Frame::tcp(ends.client, ends.vip, "S").payload(&[9; 64]).build_fragments(24);
    let forwarded = datapath.from_pod(&sent).frame;
    let ran = datapath.to_pod(&too_big(ends.router, ends.client.ip(), &forwarded));
    assert_eq!(ran.verdict, Verdict::IcmpTranslated);
    assert_eq!(ran.frame, too_big(ends.vip.ip(), ends.client.ip(), &sent));
    let answer = Frame::tcp(ends.backends[0], ends.client, "A").payload(&[9; 64]);
    let [answer, _] = answer.build_fragments(24);
    let received = datapath.to_pod(&answer).frame;
    let ran = datapath.from_pod(&too_big(ends.client.ip(), ends.vip.ip(), &received));
    assert_eq!(ran.verdict, Verdict::IcmpTranslated);
    assert_eq!(ran.frame, too_big(ends.client.ip(), ends.backends[0].ip(), &answer));
    checksums_hold(&ran.frame).unwrap();
}

#[test]
fn c39_c40_icmp_errors_about_a_first_fragment_are_translated_too() {
    both((icmp_errors_about_fragments::<V4>, icmp_errors_about_fragments::<V6>));
}

fn icmp_errors<A: Family>(ends: &Ends) {
    let mut datapath = served::<A>(ends);
    let sent = Frame::tcp(ends.client, ends.vip, "S");
    let forwarded = datapath.from_pod(&sent.build()).frame;
    datapath.to_pod(&Frame::tcp(ends.backends[0], ends.client, "SA").build());
    // A router on the way to the backend complains about what it saw; the client is told about what it sent.
    let ran = datapath.to_pod(&too_big(ends.router, ends.client.ip(), &forwarded));
    assert_eq!(ran.verdict, Verdict::IcmpTranslated);
    assert_eq!(ran.frame, too_big(ends.vip.ip(), ends.client.ip(), &sent.build()));
    // The client complains about what it was sent; the backend is told about what it sent.
    let answer = Frame::tcp(ends.backends[0], ends.client, "A");
    let received = datapath.to_pod(&answer.build()).frame;
    let ran = datapath.from_pod(&too_big(ends.client.ip(), ends.vip.ip(), &received));
    assert_eq!(ran.verdict, Verdict::IcmpTranslated);
    assert_eq!(ran.frame, too_big(ends.client.ip(), ends.backends[0].ip(), &answer.build()));
    checksums_hold(&ran.frame).unwrap();
    let other =
        too_big(ends.router, ends.client.ip(), &Frame::tcp(ends.client, ends.router_socket(), "S").build());
    let ran = datapath.to_pod(&other);
    assert_eq!((ran.verdict, ran.frame), (Verdict::NotTranslated, other), "about no flow of ours");
}

#[test]
fn c39_icmp_errors_are_translated_inside_and_out_both_ways() {
    both((icmp_errors::<V4>, icmp_errors::<V6>));
}

#[test]
fn c39_a_redirect_about_a_translated_flow_is_dropped() {
    let ends = Ends::v4();
    let mut datapath = served::<V4>(&ends);
    let forwarded = datapath.from_pod(&Frame::tcp(ends.client, ends.vip, "S").build()).frame;
    let mut redirect = too_big(ends.router, ends.client.ip(), &forwarded);
    (redirect[34], redirect[35]) = (5, 1);
    let ran = datapath.to_pod(&redirect);
    assert_eq!((ran.verdict, ran.action), (Verdict::DroppedRedirect, DROP));

    // IPv6's quotes the packet in an option, which Linux sends behind the target's link-layer address if it knows that.
    let ends = Ends::v6();
    let mut datapath = served::<V6>(&ends);
    let forwarded = datapath.from_pod(&Frame::tcp(ends.client, ends.vip, "S").build()).frame;
    let (quote, address) = ([4, 6, 0, 0, 0, 0, 0, 0], [2, 1, 2, 0, 0, 0, 0, 1]);
    for options in [quote.to_vec(), [address, quote].concat()] {
        let mut body = [vec![137, 0, 0, 0, 0, 0, 0, 0], vec![0; 32], options].concat();
        body.extend_from_slice(&forwarded[14..14 + 60]);
        let mut redirect = too_big(ends.router, ends.client.ip(), &forwarded);
        redirect.truncate(14 + 40);
        redirect.extend_from_slice(&body);
        redirect[18..20].copy_from_slice(&u16::try_from(body.len()).unwrap().to_be_bytes());
        let ran = datapath.to_pod(&redirect);
        assert_eq!((ran.verdict, ran.action), (Verdict::DroppedRedirect, DROP), "{} bytes", body.len());
    }
}

/// A packet of a pod's and what became of it, a packet of the backend's and what became of it.
fn exchanged(datapath: &mut Datapath, request: &Frame, answer: &Frame) -> [Vec<u8>; 4] {
    let (sent, answered) = (request.build(), answer.build());
    let forwarded = datapath.from_pod(&sent).frame;
    let received = datapath.to_pod(&answered).frame;
    [sent, forwarded, answered, received]
}

/// Errors both ways, with quotes of `bytes` bytes, read as if their sender had seen what was sent.
fn quotes_read_as_sent<A: Family>(ends: &Ends, (request, answer): (&Frame, &Frame), bytes: usize) {
    let mut datapath = served::<A>(ends);
    let [sent, forwarded, answered, received] = exchanged(&mut datapath, request, answer);
    let (client, vip, backend) = (ends.client.ip(), ends.vip.ip(), ends.backends[0].ip());
    let ran = datapath.to_pod(&too_big_quoting(ends.router, client, &forwarded, bytes));
    assert_eq!(ran.frame, too_big_quoting(vip, client, &sent, bytes), "{bytes} bytes, to the client");
    checksums_hold(&ran.frame).unwrap();
    let ran = datapath.from_pod(&too_big_quoting(client, vip, &received, bytes));
    assert_eq!(
        ran.frame,
        too_big_quoting(client, backend, &answered, bytes),
        "{bytes} bytes, to the backend"
    );
    checksums_hold(&ran.frame).unwrap();
}

fn quoted_checksums<A: Family>(ends: &Ends) {
    let (client, vip, backend) = (ends.client, ends.vip, ends.backends[0]);
    let header = if A::IS_V6 { 40 } else { 20 };
    let tcp = (Frame::tcp(client, vip, "S").payload(&[7; 40]), Frame::tcp(backend, client, "SA"));
    // Ports alone, up to the checksum, the checksum, the whole header.
    for bytes in [4, 8, 16, 18, 20] {
        quotes_read_as_sent::<A>(ends, (&tcp.0, &tcp.1), header + bytes);
    }
    let udp = (Frame::udp(client, vip), Frame::udp(backend, client));
    for bytes in [4, 6, 8, 13] {
        quotes_read_as_sent::<A>(ends, (&udp.0, &udp.1), header + bytes);
    }
}

#[test]
fn c39_the_quoted_packets_checksum_is_what_its_sender_wrote() {
    both((quoted_checksums::<V4>, quoted_checksums::<V6>));
}

#[test]
fn c39_c42_a_quoted_datagram_without_a_checksum_stays_without() {
    let ends = Ends::v4();
    let mut datapath = served::<V4>(&ends);
    let without = |frame: &[u8]| {
        let mut frame = frame.to_vec();
        frame[40..42].fill(0);
        frame
    };
    let sent = without(&Frame::udp(ends.client, ends.vip).build());
    let forwarded = datapath.from_pod(&sent).frame;
    let ran = datapath.to_pod(&too_big_quoting(ends.router, ends.client.ip(), &forwarded, 33));
    assert_eq!(ran.frame, too_big_quoting(ends.vip.ip(), ends.client.ip(), &sent, 33));
}

#[test]
fn c39_bytes_behind_the_end_of_the_error_are_no_part_of_its_quote() {
    let ends = Ends::v4();
    let mut datapath = served::<V4>(&ends);
    let request = Frame::tcp(ends.client, ends.vip, "S");
    let answer = Frame::tcp(ends.backends[0], ends.client, "SA");
    let [sent, forwarded, ..] = exchanged(&mut datapath, &request, &answer);
    // Link padding, just where the checksum would be.
    let padded = |frame: Vec<u8>| [frame, vec![0xee; 12]].concat();
    let ran = datapath.to_pod(&padded(too_big(ends.router, ends.client.ip(), &forwarded)));
    assert_eq!(ran.frame, padded(too_big(ends.vip.ip(), ends.client.ip(), &sent)));
}

fn errors_to_others<A: Family>(ends: &Ends) {
    let mut datapath = served::<A>(ends);
    let request = Frame::tcp(ends.client, ends.vip, "S");
    let answer = Frame::tcp(ends.backends[0], ends.client, "SA");
    let [_, forwarded, _, received] = exchanged(&mut datapath, &request, &answer);
    let others: [IpAddr; 2] = [ends.backends[1].ip(), ends.node];
    for other in others {
        let astray = too_big(ends.router, other, &forwarded);
        let ran = datapath.to_pod(&astray);
        assert_eq!((ran.verdict, ran.frame), (Verdict::NotTranslated, astray));
        let astray = too_big(ends.client.ip(), other, &received);
        let ran = datapath.from_pod(&astray);
        assert_eq!((ran.verdict, ran.frame), (Verdict::NotService, astray));
    }
}

#[test]
fn c39_c44_an_error_that_does_not_go_to_the_quoted_packets_sender_is_left_alone() {
    both((errors_to_others::<V4>, errors_to_others::<V6>));
}
