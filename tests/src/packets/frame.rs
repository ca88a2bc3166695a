//! Frames, built and checked by another library than the one under test.
//!
//! Decides MAC addresses and lifetimes. Invariant: a built frame's checksums hold, unless a test breaks them.

use std::net::{IpAddr, SocketAddr};

use etherparse::{
    IpFragOffset, IpNumber, Ipv4Header, Ipv6FlowLabel, Ipv6Header, NetSlice, PacketBuilder, SlicedPacket,
    TcpHeader, TransportSlice, UdpHeader,
};

const MACS: ([u8; 6], [u8; 6]) = ([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
const LIFETIME: u8 = 64;

/// A frame to be built, from one socket address to another.
#[derive(Clone, Debug)]
pub struct Frame {
    from: SocketAddr,
    to: SocketAddr,
    payload: Vec<u8>,
    tcp: Option<TcpHeader>,
    mac_swapped: bool,
}

impl Frame {
    /// A TCP segment with these flags, as letters of SAFRP.
    pub fn tcp(from: SocketAddr, to: SocketAddr, flags: &str) -> Self {
        let mut header = TcpHeader::new(from.port(), to.port(), 1_000, 64_240);
        for flag in flags.chars() {
            match flag {
                'S' => header.syn = true,
                'A' => header.ack = true,
                'F' => header.fin = true,
                'R' => header.rst = true,
                'P' => header.psh = true,
                other => panic!("{other} is no flag"),
            }
        }
        if header.ack {
            header.acknowledgment_number = 2_000;
        }
        Self { from, to, payload: Vec::new(), tcp: Some(header), mac_swapped: false }
    }

    /// A UDP datagram.
    pub fn udp(from: SocketAddr, to: SocketAddr) -> Self {
        Self { from, to, payload: b"hello".to_vec(), tcp: None, mac_swapped: false }
    }

    /// An SCTP packet whose first chunk is of this kind, its checksum computed by another library.
    pub fn sctp(from: SocketAddr, to: SocketAddr, chunk: u8) -> Vec<u8> {
        let mut body = Vec::new();
        body.extend_from_slice(&from.port().to_be_bytes());
        body.extend_from_slice(&to.port().to_be_bytes());
        body.extend_from_slice(&[0, 0, 0, 7, 0, 0, 0, 0, chunk, 0, 0, 20]);
        body.extend_from_slice(&[0x5a; 16]);
        let sum = crc::Crc::<u32>::new(&crc::CRC_32_ISCSI).checksum(&body);
        body[8..12].copy_from_slice(&sum.to_le_bytes());
        let ethernet = PacketBuilder::ethernet2(MACS.0, MACS.1);
        let ip = match (from.ip(), to.ip()) {
            (IpAddr::V4(from), IpAddr::V4(to)) => ethernet.ipv4(from.octets(), to.octets(), LIFETIME),
            (IpAddr::V6(from), IpAddr::V6(to)) => ethernet.ipv6(from.octets(), to.octets(), LIFETIME),
            _ => panic!("ends of two families"),
        };
        let mut frame = Vec::new();
        ip.write(&mut frame, IpNumber::SCTP, &body).unwrap_or_else(|error| panic!("{error}"));
        frame
    }

    /// With this payload.
    pub fn payload(mut self, payload: &[u8]) -> Self {
        self.payload = payload.to_vec();
        self
    }

    /// With these sequence and acknowledgment numbers and window.
    pub fn numbers(mut self, sequence: u32, acknowledgment: u32, window: u16) -> Self {
        if let Some(tcp) = &mut self.tcp {
            tcp.sequence_number = sequence;
            tcp.acknowledgment_number = acknowledgment;
            tcp.window_size = window;
        }
        self
    }

    /// Sent by the other side's MAC address, as an answer is.
    pub fn swapped(mut self) -> Self {
        self.mac_swapped = true;
        self
    }

    /// The same with other ends, as translation makes it.
    pub fn with_ends(mut self, from: SocketAddr, to: SocketAddr) -> Self {
        (self.from, self.to) = (from, to);
        if let Some(tcp) = &mut self.tcp {
            (tcp.source_port, tcp.destination_port) = (from.port(), to.port());
        }
        self
    }

    /// The frame.
    pub fn build(&self) -> Vec<u8> {
        let (source, destination) = if self.mac_swapped { (MACS.1, MACS.0) } else { MACS };
        let ethernet = PacketBuilder::ethernet2(source, destination);
        let ip = match (self.from.ip(), self.to.ip()) {
            (IpAddr::V4(from), IpAddr::V4(to)) => ethernet.ipv4(from.octets(), to.octets(), LIFETIME),
            (IpAddr::V6(from), IpAddr::V6(to)) => ethernet.ipv6(from.octets(), to.octets(), LIFETIME),
            _ => panic!("ends of two families"),
        };
        let mut frame = Vec::new();
        match &self.tcp {
            Some(tcp) => ip.tcp_header(tcp.clone()).write(&mut frame, &self.payload),
            None => ip.udp(self.from.port(), self.to.port()).write(&mut frame, &self.payload),
        }
        .unwrap_or_else(|error| panic!("{error}"));
        frame
    }

    /// The frame with a VLAN tag.
    pub fn build_tagged(&self) -> Vec<u8> {
        let mut frame = self.build();
        frame.splice(12..12, [0x81, 0x00, 0x00, 0x64]);
        frame
    }

    /// The frame with four bytes of IPv4 options, or an IPv6 destination options header.
    pub fn build_with_options(&self) -> Vec<u8> {
        let frame = self.build();
        let (link, packet) = frame.split_at(14);
        let mut out = link.to_vec();
        if packet[0] >> 4 == 4 {
            let (mut header, payload) =
                Ipv4Header::from_slice(packet).unwrap_or_else(|error| panic!("{error}"));
            header.options = [1, 1, 1, 0].into();
            header.set_payload_len(payload.len()).unwrap_or_else(|error| panic!("{error}"));
            header.header_checksum = header.calc_header_checksum();
            header.write(&mut out).unwrap_or_else(|error| panic!("{error}"));
            out.extend_from_slice(payload);
        } else {
            let next = packet[6];
            out.extend_from_slice(&packet[..40]);
            out[14 + 6] = 60;
            let length = u16::from_be_bytes([packet[4], packet[5]]) + 8;
            out[18..20].copy_from_slice(&length.to_be_bytes());
            out.extend_from_slice(&[next, 0, 1, 4, 0, 0, 0, 0]);
            out.extend_from_slice(&packet[40..]);
        }
        out
    }

    /// The datagram in two fragments of the same identification, the first of which holds `first` bytes (a multiple
    /// of 8) behind the IP header.
    pub fn build_fragments(&self, first: usize) -> [Vec<u8>; 2] {
        let frame = self.build();
        let header_len = if self.from.is_ipv4() { 34 } else { 54 };
        let (head, body) = frame.split_at(header_len);
        let piece = |offset: usize, part: &[u8], more: bool| {
            let mut out = head[..14].to_vec();
            let units = u16::try_from(offset / 8).unwrap_or_else(|error| panic!("{error}"));
            match (self.from.ip(), self.to.ip()) {
                (IpAddr::V4(from), IpAddr::V4(to)) => {
                    let mut header =
                        Ipv4Header::new(0, LIFETIME, IpNumber(head[23]), from.octets(), to.octets())
                            .unwrap_or_else(|error| panic!("{error}"));
                    header.identification = 4_711;
                    header.dont_fragment = false;
                    header.more_fragments = more;
                    header.fragment_offset =
                        IpFragOffset::try_new(units).unwrap_or_else(|error| panic!("{error}"));
                    header.set_payload_len(part.len()).unwrap_or_else(|error| panic!("{error}"));
                    header.header_checksum = header.calc_header_checksum();
                    header.write(&mut out).unwrap_or_else(|error| panic!("{error}"));
                }
                (IpAddr::V6(from), IpAddr::V6(to)) => {
                    let header = Ipv6Header {
                        traffic_class: 0,
                        flow_label: Ipv6FlowLabel::ZERO,
                        payload_length: u16::try_from(part.len() + 8)
                            .unwrap_or_else(|error| panic!("{error}")),
                        next_header: IpNumber(44),
                        hop_limit: LIFETIME,
                        source: from.octets(),
                        destination: to.octets(),
                    };
                    out.extend_from_slice(&header.to_bytes());
                    let bits = (units << 3) | u16::from(more);
                    out.extend_from_slice(&[head[20], 0]);
                    out.extend_from_slice(&bits.to_be_bytes());
                    out.extend_from_slice(&4_711u32.to_be_bytes());
                }
                _ => panic!("ends of two families"),
            }
            out.extend_from_slice(part);
            out
        };
        [piece(0, &body[..first], true), piece(first, &body[first..], false)]
    }
}

/// Source and destination of a frame.
///
/// # Panics
/// Where it is no TCP or UDP over IP.
pub fn sockets_of(frame: &[u8]) -> (SocketAddr, SocketAddr) {
    let sliced = SlicedPacket::from_ethernet(frame).unwrap_or_else(|error| panic!("{error}"));
    let (from, to): (IpAddr, IpAddr) = match sliced.net.unwrap_or_else(|| panic!("no transport")) {
        NetSlice::Ipv4(ip) => (ip.header().source_addr().into(), ip.header().destination_addr().into()),
        NetSlice::Ipv6(ip) => (ip.header().source_addr().into(), ip.header().destination_addr().into()),
        other => panic!("{other:?}"),
    };
    let (source, destination) = match sliced.transport.unwrap_or_else(|| panic!("no transport")) {
        TransportSlice::Tcp(tcp) => (tcp.source_port(), tcp.destination_port()),
        TransportSlice::Udp(udp) => (udp.source_port(), udp.destination_port()),
        other => panic!("{other:?}"),
    };
    (SocketAddr::new(from, source), SocketAddr::new(to, destination))
}

/// Do all checksums of an unfragmented frame hold, as another library computes them?
pub fn checksums_hold(frame: &[u8]) -> Result<(), String> {
    let sliced = SlicedPacket::from_ethernet(frame).map_err(|error| error.to_string())?;
    let expect = |what: &str, stored: u16, computed: u16| {
        if stored == computed {
            Ok(())
        } else {
            Err(format!("{what}: {stored:#06x} instead of {computed:#06x}"))
        }
    };
    let net = sliced.net.ok_or("no IP header")?;
    if let NetSlice::Ipv4(ip) = &net {
        let header = ip.header().to_header();
        expect("IPv4", header.header_checksum, header.calc_header_checksum())?;
    }
    match (sliced.transport.ok_or("no transport header")?, &net) {
        (TransportSlice::Tcp(tcp), NetSlice::Ipv4(ip)) => {
            let (header, payload) = (tcp.to_header(), tcp.payload());
            let computed = header.calc_checksum_ipv4(&ip.header().to_header(), payload);
            expect("TCP", header.checksum, computed.map_err(|error| error.to_string())?)
        }
        (TransportSlice::Tcp(tcp), NetSlice::Ipv6(ip)) => {
            let (header, payload) = (tcp.to_header(), tcp.payload());
            let computed = header.calc_checksum_ipv6(&ip.header().to_header(), payload);
            expect("TCP", header.checksum, computed.map_err(|error| error.to_string())?)
        }
        (TransportSlice::Udp(udp), NetSlice::Ipv4(ip)) => udp_holds(&udp.to_header(), || {
            udp.to_header()
                .calc_checksum_ipv4(&ip.header().to_header(), udp.payload())
                .map_err(|e| e.to_string())
        }),
        (TransportSlice::Udp(udp), NetSlice::Ipv6(ip)) => udp_holds(&udp.to_header(), || {
            udp.to_header()
                .calc_checksum_ipv6(&ip.header().to_header(), udp.payload())
                .map_err(|e| e.to_string())
        }),
        (TransportSlice::Icmpv4(icmp), _) => {
            let computed = icmp.icmp_type().calc_checksum(icmp.payload());
            expect("ICMP", icmp.checksum(), computed)
        }
        (TransportSlice::Icmpv6(icmp), NetSlice::Ipv6(ip)) => {
            let header = ip.header().to_header();
            let computed = icmp.icmp_type().calc_checksum(header.source, header.destination, icmp.payload());
            expect("ICMPv6", icmp.checksum(), computed.map_err(|error| error.to_string())?)
        }
        _ => Err("mixed families".to_owned()),
    }
}

fn udp_holds(header: &UdpHeader, compute: impl Fn() -> Result<u16, String>) -> Result<(), String> {
    if header.checksum == 0 {
        return Ok(());
    }
    let computed = compute()?;
    if computed == header.checksum {
        Ok(())
    } else {
        Err(format!("UDP: {:#06x} instead of {computed:#06x}", header.checksum))
    }
}
