//! The parser against packets built by another library, and against noise.

use etherparse::{IpFragOffset, IpNumber, PacketBuilder};
use proptest::prelude::*;

use super::*;
use crate::wire::Link;

fn parse(frame: &[u8]) -> Option<Result<Segment<V4>, NotOurs>> {
    match Link::of_ethernet(frame) {
        Link::V4(l3) => Some(V4::segment(frame, l3, Depth::Plain)),
        _ => None,
    }
}

fn tcp_v4() -> Vec<u8> {
    let builder = PacketBuilder::ethernet2([1; 6], [2; 6]).ipv4([10, 0, 0, 1], [10, 96, 0, 10], 64);
    let mut frame = Vec::new();
    builder.tcp(40_000, 80, 1, 1_000).syn().write(&mut frame, b"hello").unwrap();
    frame
}

#[test]
fn a_tcp_segment_gives_its_flow_and_offsets() {
    let segment = parse(&tcp_v4()).unwrap().unwrap();
    assert_eq!(segment.dst.to_string(), "10.96.0.10");
    assert_eq!((segment.src_port.get(), segment.dst_port.get()), (40_000, 80));
    assert_eq!((segment.l3, segment.l4, segment.end), (14, 34, 59));
    assert_eq!(segment.tcp_flags, crate::flow_state::tcp_flag::SYN);
}

#[test]
fn c41_ipv4_options_move_the_transport_header() {
    let mut header = etherparse::Ipv4Header::new(8, 64, IpNumber::UDP, [10, 0, 0, 1], [10, 0, 0, 2]).unwrap();
    header.options = etherparse::Ipv4Options::try_from(&[1u8; 8][..]).unwrap();
    header.set_payload_len(8).unwrap();
    let mut frame = vec![0; 12];
    frame.extend([0x08, 0x00]);
    header.write(&mut frame).unwrap();
    frame.extend([0x00, 0x35, 0x14, 0xe9, 0x00, 0x08, 0x00, 0x00]);
    let segment = parse(&frame).unwrap().unwrap();
    assert_eq!((segment.l4, segment.src_port.get(), segment.dst_port.get()), (42, 53, 5353));
}

#[test]
fn c41_ipv6_extension_headers_are_stepped_over() {
    let mut frame = vec![0; 12];
    frame.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, 24, 0, 64]);
    frame.extend([1; 16]);
    frame.extend([2; 16]);
    frame.extend([60, 0, 0, 0, 0, 0, 0, 0]); // hop-by-hop, then destination options
    frame.extend([17, 0, 0, 0, 0, 0, 0, 0]); // destination options, then UDP
    frame.extend([0x00, 0x35, 0x14, 0xe9, 0x00, 0x08, 0x00, 0x01]);
    let segment = V6::segment(&frame[..], 14, Depth::Extensions).unwrap();
    assert_eq!((segment.protocol, segment.l4, segment.dst_port.get()), (Protocol::UDP, 70, 5353));
    assert_eq!(V6::segment(&frame[..], 14, Depth::Plain), Err(NotOurs::Extended));
}

#[test]
fn fragments_are_told_apart_by_offset_and_flag() {
    let mut header = etherparse::Ipv4Header::new(8, 64, IpNumber::UDP, [10, 0, 0, 1], [10, 0, 0, 2]).unwrap();
    header.identification = 7;
    let kinds = [(0, true), (1, true), (1, false)].map(|(offset, more)| {
        header.fragment_offset = IpFragOffset::try_new(offset).unwrap();
        header.more_fragments = more;
        let mut packet = Vec::new();
        header.write(&mut packet).unwrap();
        packet.extend([0x00, 0x35, 0x14, 0xe9, 0x10, 0x00, 0x00, 0x00]);
        V4::segment(&packet[..], 0, Depth::Plain).unwrap().fragment
    });
    assert_eq!(kinds, [Fragment::First(7), Fragment::Later(7), Fragment::Later(7)]);
}

#[test]
fn c41_contradicting_lengths_are_malformed() {
    let good = tcp_v4();
    for (at, value, what) in [
        (14, 0x44, "header length of 16"),
        (14, 0x65, "version 6 under the ethertype of IPv4"),
        (17, 19, "total length inside the header"),
        (16, 0x10, "total length beyond the packet"),
        (46, 0x40, "data offset of 16"),
        (46, 0xf0, "data offset beyond the packet"),
    ] {
        let mut bad = good.clone();
        bad[at] = value;
        assert_eq!(parse(&bad), Some(Err(NotOurs::Malformed)), "{what}");
    }
}

#[test]
fn other_transports_are_not_ours() {
    let mut gre = tcp_v4();
    gre[23] = 47;
    assert_eq!(parse(&gre), Some(Err(NotOurs::Transport)));
}

proptest! {
    #[test]
    fn every_truncation_is_malformed_or_not_ip(len in 0usize..54) {
        let frame = &tcp_v4()[..len];
        prop_assert!(!matches!(parse(frame), Some(Ok(_))));
    }

    #[test]
    fn noise_never_gives_a_header_outside_the_packet(bytes in prop::collection::vec(any::<u8>(), 0..200), first in prop::sample::select(vec![0x45u8, 0x46, 0x4f, 0x60])) {
        let mut bytes = bytes;
        if let Some(byte) = bytes.first_mut() { *byte = first; }
        for segment in [V4::segment(&bytes[..], 0, Depth::Extensions).map(|s| (s.l4, s.end)), V6::segment(&bytes[..], 0, Depth::Extensions).map(|s| (s.l4, s.end))].into_iter().flatten() {
            prop_assert!(segment.0 <= segment.1 && segment.1 <= bytes.len());
        }
    }
}
