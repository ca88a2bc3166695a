//! libFuzzer on the packet parser.
//!
//! Decides nothing: no input may make the parser panic or read outside of the packet, and whatever it finds in one, the
//! reference model's reader, written on another library, finds there too. Must not need a kernel. Invariant: the first
//! byte of the input says whether the packet begins with an Ethernet header.

#![no_main]

#[path = "../../src/model/packet.rs"]
mod packet;
#[path = "../../src/model/protocol.rs"]
mod protocol;

use lb_common::address::{Address, V4, V6};
use lb_common::flow_state::tcp_flag;
use lb_common::wire::{Depth, Fragment, Link, Network, NotOurs, Segment};
use libfuzzer_sys::fuzz_target;
use packet::{Packet, Says, Stranger};

fuzz_target!(|input: &[u8]| {
    let Some((first, frame)) = input.split_first() else { return };
    let ethernet = first & 1 == 0;
    let link = if ethernet { Link::of_ethernet(frame) } else { Link::of_bare(frame) };
    let theirs = Packet::read(frame, ethernet);
    match link {
        Link::V4(l3) => compare::<V4>(frame, l3, &theirs),
        Link::V6(l3) => compare::<V6>(frame, l3, &theirs),
        Link::Other => assert!(theirs.is_err(), "{theirs:?}"),
    }
});

fn compare<A: Network>(frame: &[u8], l3: usize, theirs: &Result<Packet, Stranger>) {
    let ours = A::segment(frame, l3, Depth::Extensions);
    if let Ok(plain) = A::segment(frame, l3, Depth::Plain) {
        assert_eq!(ours, Ok(plain), "a plain look sees what a closer one sees");
    }
    match (ours, theirs) {
        (Ok(segment), Ok(packet)) => assert_eq!(seen(&segment), read(packet)),
        (Err(NotOurs::Transport), Err(Stranger::NotTransport)) => {}
        // Which of two faults is found first is nobody's concern.
        (Err(_), Err(_)) => {}
        (ours, theirs) => panic!("{ours:?}, but the model reads {theirs:?}"),
    }
}

/// Addresses, ports, protocol, what it says, part of what, where headers begin and end.
type Reading = (String, u8, [bool; 4], Option<(bool, u32)>, [usize; 3]);

fn seen<A: Address>(segment: &Segment<A>) -> Reading {
    let ends = format!(
        "{}:{} {}:{}",
        segment.src.to_ip(),
        segment.src_port.get(),
        segment.dst.to_ip(),
        segment.dst_port.get()
    );
    let says = [tcp_flag::SYN, tcp_flag::ACK, tcp_flag::FIN, tcp_flag::RST];
    let part = match segment.fragment {
        Fragment::Whole => None,
        Fragment::First(id) => Some((true, id)),
        Fragment::Later(id) => Some((false, id)),
    };
    let flags = says.map(|flag| segment.tcp_flags & flag != 0);
    (ends, segment.protocol.0, flags, part, [segment.l3, segment.l4, segment.end])
}

fn read(packet: &Packet) -> Reading {
    let ends = format!("{}:{} {}:{}", packet.src, packet.ports.0, packet.dst, packet.ports.1);
    let Says { syn, ack, fin, rst } = packet.says;
    let part = match packet.fragment {
        packet::Fragment::Whole => None,
        packet::Fragment::First(id) => Some((true, id)),
        packet::Fragment::Later(id) => Some((false, id)),
    };
    (ends, packet.protocol, [syn, ack, fin, rst], part, [packet.l3, packet.l4, packet.end])
}
