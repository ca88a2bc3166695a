//! Frames of every shape that the wire may bring.
//!
//! Decides how a packet is wrapped: a tag, options or extension headers, fragments, damage. Must not know connections.
//! Invariant: before it is damaged, a frame's checksums hold.

use std::net::{IpAddr, SocketAddr};

use etherparse::{IpFragOffset, IpNumber, Ipv4Header, Ipv6FlowLabel, Ipv6Header, TcpHeader, UdpHeader};

use crate::model::protocol;

const LIFETIME: u8 = 61;

/// What a packet says of its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Talk {
    /// It opens it: SYN, INIT.
    Open,
    /// It answers that: SYN and ACK, INIT ACK.
    Accept,
    /// It carries data.
    Data,
    /// It has no more to say: FIN, SHUTDOWN.
    Finish,
    /// It tears it down: RST, ABORT.
    Reset,
}

/// How a packet is wrapped.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Shape {
    /// Bytes of payload.
    pub payload: usize,
    /// A VLAN tag.
    pub tagged: bool,
    /// IPv4 options, or this many IPv6 extension headers.
    pub options: usize,
    /// In two fragments of this identification; the later one first?
    pub fragments: Option<(u32, bool)>,
    /// A UDP or SCTP checksum of zero: none.
    pub no_sum: bool,
    /// Cut behind that many bytes.
    pub cut: Option<usize>,
    /// A byte that is another.
    pub flipped: Option<(usize, u8)>,
}

/// A packet to be built.
#[derive(Clone, Debug)]
pub struct Sketch {
    /// [`protocol`].
    pub protocol: u8,
    /// Source.
    pub from: SocketAddr,
    /// Destination.
    pub to: SocketAddr,
    /// What it says.
    pub talk: Talk,
    /// How it is wrapped.
    pub shape: Shape,
    /// With an Ethernet header?
    pub ethernet: bool,
}

impl Sketch {
    /// The frames, in the order in which they come.
    #[must_use]
    pub fn build(&self) -> Vec<Vec<u8>> {
        let body = self.transport();
        let ends = (self.from.ip(), self.to.ip());
        let wrap = |piece: &[u8], part| {
            let mut frame = link(ends.0.is_ipv4(), self.ethernet, self.shape.tagged);
            frame.extend(network(ends, self.protocol, self.shape.options, part, piece));
            self.damage(frame)
        };
        // A first fragment of SCTP is dropped for its checksum, and nobody sees what was chosen for it.
        let whole = body.len() <= 24 || (self.protocol == protocol::SCTP && !self.shape.no_sum);
        let Some((id, swapped)) = self.shape.fragments.filter(|_| !whole) else {
            return vec![wrap(&body, None)];
        };
        let (first, later) = body.split_at(24);
        let mut frames = vec![wrap(first, Some((id, 0, true))), wrap(later, Some((id, 3, false)))];
        if swapped {
            frames.reverse();
        }
        frames
    }

    fn damage(&self, mut frame: Vec<u8>) -> Vec<u8> {
        if let Some((at, byte)) = self.shape.flipped
            && let Some(there) = frame.get_mut(at)
        {
            *there = byte;
        }
        if let Some(cut) = self.shape.cut {
            // A test run takes no less than the network header.
            frame.truncate(cut.max(if self.from.is_ipv4() { 34 } else { 54 }));
        }
        frame
    }

    /// Transport header and payload.
    fn transport(&self) -> Vec<u8> {
        let payload: Vec<u8> = (0..self.shape.payload).map(|n| n.to_le_bytes()[0] ^ 0x5a).collect();
        match self.protocol {
            protocol::TCP => self.tcp(&payload),
            protocol::UDP => self.udp(&payload),
            protocol::SCTP => self.sctp(&payload),
            _ => payload,
        }
    }

    fn tcp(&self, payload: &[u8]) -> Vec<u8> {
        let mut header = TcpHeader::new(self.from.port(), self.to.port(), 1_000, 64_240);
        header.syn = matches!(self.talk, Talk::Open | Talk::Accept);
        header.ack = !matches!(self.talk, Talk::Open | Talk::Reset);
        header.fin = self.talk == Talk::Finish;
        header.rst = self.talk == Talk::Reset;
        header.acknowledgment_number = if header.ack { 2_000 } else { 0 };
        let sum = match (self.from.ip(), self.to.ip()) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                header.calc_checksum_ipv4_raw(from.octets(), to.octets(), payload)
            }
            (IpAddr::V6(from), IpAddr::V6(to)) => {
                header.calc_checksum_ipv6_raw(from.octets(), to.octets(), payload)
            }
            _ => panic!("ends of two families"),
        };
        header.checksum = sum.unwrap_or_else(|error| panic!("{error}"));
        [header.to_bytes().as_slice(), payload].concat()
    }

    fn udp(&self, payload: &[u8]) -> Vec<u8> {
        let length = u16::try_from(8 + payload.len()).unwrap_or_else(|error| panic!("{error}"));
        let mut header = UdpHeader {
            source_port: self.from.port(),
            destination_port: self.to.port(),
            length,
            checksum: 0,
        };
        let sum = match (self.from.ip(), self.to.ip()) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                header.calc_checksum_ipv4_raw(from.octets(), to.octets(), payload)
            }
            (IpAddr::V6(from), IpAddr::V6(to)) => {
                header.calc_checksum_ipv6_raw(from.octets(), to.octets(), payload)
            }
            _ => panic!("ends of two families"),
        };
        if !self.shape.no_sum {
            header.checksum = sum.unwrap_or_else(|error| panic!("{error}"));
        }
        [header.to_bytes().as_slice(), payload].concat()
    }

    fn sctp(&self, payload: &[u8]) -> Vec<u8> {
        let chunk = match self.talk {
            Talk::Open => 1,
            Talk::Accept => 2,
            Talk::Data => 0,
            Talk::Finish => 7,
            Talk::Reset => 6,
        };
        let mut body = Vec::new();
        body.extend(self.from.port().to_be_bytes());
        body.extend(self.to.port().to_be_bytes());
        body.extend([0, 0, 0, 7, 0, 0, 0, 0, chunk, 0, 0, 20]);
        body.extend(payload);
        if !self.shape.no_sum {
            let sum = crc::Crc::<u32>::new(&crc::CRC_32_ISCSI).checksum(&body);
            body[8..12].copy_from_slice(&sum.to_le_bytes());
        }
        body
    }
}

/// An ICMP error of that type from `from` to `to` about the network packet `about`, in one frame.
#[must_use]
pub(super) fn icmp((from, to): (IpAddr, IpAddr), kind: u8, about: &[u8], ethernet: bool) -> Vec<u8> {
    let v4 = from.is_ipv4();
    let mut message = vec![kind, 1, 0, 0, 0, 0, 5, 20];
    if !v4 && kind == 137 {
        // A redirect's target, destination, perhaps the target's link-layer address, and the packet (RFC 4861 section 4.5).
        message.extend([0xfe; 32]);
        if about.len().is_multiple_of(8) {
            message.extend([2, 1, 2, 0, 0, 0, 0, 1]);
        }
        message.extend([4, 7, 0, 0, 0, 0, 0, 0]);
    }
    message.extend(about);
    let number = if v4 { protocol::ICMP } else { protocol::ICMPV6 };
    let mut covered = Vec::new();
    if let (IpAddr::V6(from), IpAddr::V6(to)) = (from, to) {
        covered.extend(from.octets());
        covered.extend(to.octets());
        covered.extend(u32::try_from(message.len()).unwrap_or(0).to_be_bytes());
        covered.extend([0, 0, 0, number]);
    }
    covered.extend(&message);
    let sum = etherparse::checksum::Sum16BitWords::new().add_slice(&covered).ones_complement();
    message[2..4].copy_from_slice(&sum.to_ne_bytes());
    let mut frame = link(v4, ethernet, false);
    frame.extend(network((from, to), number, 0, None, &message));
    frame
}

fn link(v4: bool, ethernet: bool, tagged: bool) -> Vec<u8> {
    if !ethernet {
        return Vec::new();
    }
    let mut out = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1];
    if tagged {
        out.extend([0x81, 0x00, 0x00, 0x64]);
    }
    out.extend(if v4 { [0x08, 0x00] } else { [0x86, 0xdd] });
    out
}

/// Identification, offset in units of eight bytes, more to come.
type FragmentPart = Option<(u32, u16, bool)>;

fn network(ends: (IpAddr, IpAddr), kind: u8, options: usize, part: FragmentPart, body: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    match ends {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let mut header = Ipv4Header::new(0, LIFETIME, IpNumber(kind), from.octets(), to.octets())
                .unwrap_or_else(|error| panic!("{error}"));
            if options > 0 {
                header.options = [1, 1, 1, 0].into();
            }
            if let Some((id, offset, more)) = part {
                header.identification = id.to_le_bytes()[0].into();
                header.dont_fragment = false;
                header.more_fragments = more;
                header.fragment_offset =
                    IpFragOffset::try_new(offset).unwrap_or_else(|error| panic!("{error}"));
            }
            header.set_payload_len(body.len()).unwrap_or_else(|error| panic!("{error}"));
            header.header_checksum = header.calc_header_checksum();
            header.write(&mut out).unwrap_or_else(|error| panic!("{error}"));
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            let (first, extensions) = extensions(kind, options, part);
            let length = extensions.len() + body.len();
            let header = Ipv6Header {
                traffic_class: 3,
                flow_label: Ipv6FlowLabel::ZERO,
                payload_length: u16::try_from(length).unwrap_or_else(|error| panic!("{error}")),
                next_header: IpNumber(first),
                hop_limit: LIFETIME,
                source: from.octets(),
                destination: to.octets(),
            };
            out.extend(header.to_bytes());
            out.extend(extensions);
        }
        _ => panic!("ends of two families"),
    }
    out.extend(body);
    out
}

/// The number of the first header behind the IPv6 header, and all extension headers in front of the body.
fn extensions(kind: u8, options: usize, part: FragmentPart) -> (u8, Vec<u8>) {
    let mut numbers: Vec<u8> = [0, 43, 60, 60, 51, 60, 60, 60].into_iter().take(options).collect();
    if part.is_some() {
        numbers.push(44);
    }
    numbers.push(kind);
    let mut out = Vec::new();
    for pair in numbers.windows(2) {
        let next = pair[1];
        match (pair[0], part) {
            (44, Some((id, offset, more))) => {
                out.extend([next, 0]);
                out.extend(((offset << 3) | u16::from(more)).to_be_bytes());
                out.extend(id.to_be_bytes());
            }
            // An authentication header (RFC 4302): 12 bytes and a value of 4.
            (51, _) => out.extend([next, 2, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1, 9, 9, 9, 9]),
            _ => out.extend([next, 0, 1, 4, 0, 0, 0, 0]),
        }
    }
    (numbers[0], out)
}
