//! Which of the node's sockets are left on a dead backend (contract C36, C37).
//!
//! Decides by a socket's row and its backend's. Must not know how a socket is closed. Invariant: a socket whose
//! backend serves under the generation it was chosen in is never named.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use lb_common::abi::{BackendFlags, BackendId, BackendRow, SocketFlags, SocketKey, SocketRow, Way};
use lb_common::address::{Address, Protocol};

/// A socket that does not notice by itself that its backend is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stranded<A: Address> {
    /// Its row's key.
    pub key: SocketKey<A>,
    /// Its cookie.
    pub cookie: u64,
    /// The backend that it is connected to.
    pub peer: SocketAddr,
}

/// The connected sockets of `protocol` among `rows` that must not stay: by UDP those whose backend serves no longer
/// (C36), by TCP those whose backend is listed no longer (C37). A socket that is not connected chooses anew with its
/// next datagram.
pub fn stranded<A: Address>(
    rows: &[(SocketKey<A>, SocketRow<A>)],
    protocol: Protocol,
    mut backend: impl FnMut(BackendId) -> Option<BackendRow<A>>,
) -> Vec<Stranded<A>> {
    let mut may_stay = |row: &SocketRow<A>| {
        backend(row.backend).filter(|backend| backend.generation == row.generation).is_some_and(|backend| {
            let flags = backend.flags;
            if protocol == Protocol::UDP {
                flags.has(BackendFlags::SERVING)
            } else {
                !flags.has(BackendFlags::VANISHED)
            }
        })
    };
    rows.iter()
        .filter(|(key, row)| {
            key.protocol == protocol
                && key.way == Way::BACK
                && { row.flags }.has(SocketFlags::CONNECTED)
                && !may_stay(row)
        })
        .map(|(key, _)| Stranded {
            key: *key,
            cookie: key.cookie,
            peer: SocketAddr::new({ key.addr }.to_ip(), { key.port }.get()),
        })
        .collect()
}

/// The peers by socket.
pub fn cookies<A: Address>(stranded: &[Stranded<A>]) -> impl Iterator<Item = (u64, BTreeSet<SocketAddr>)> {
    stranded.iter().map(|socket| (socket.cookie, BTreeSet::from([socket.peer])))
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use bytemuck::Zeroable as _;
    use lb_common::address::{Port, V4};

    use super::*;

    fn row(cookie: u64, protocol: Protocol, way: Way, flags: u16) -> (SocketKey<V4>, SocketRow<V4>) {
        let addr = Ipv4Addr::new(10, 244, 1, 2).into();
        let key = SocketKey { cookie, addr, port: Port::new(8080), protocol, way, pad: [0; 4] };
        let row = SocketRow {
            backend: BackendId(7),
            generation: 3,
            flags: SocketFlags(flags),
            ..SocketRow::zeroed()
        };
        (key, row)
    }

    fn found(protocol: Protocol, flags: u16, generation: u32) -> Vec<u64> {
        let rows = [
            row(1, Protocol::UDP, Way::BACK, SocketFlags::CONNECTED),
            row(2, Protocol::UDP, Way::BACK, 0),
            row(3, Protocol::UDP, Way::FORTH, 0),
            row(4, Protocol::TCP, Way::BACK, SocketFlags::CONNECTED),
        ];
        let backend = |id| {
            let flags = BackendFlags(flags);
            (id == BackendId(7)).then(|| BackendRow { generation, flags, ..BackendRow::zeroed() })
        };
        stranded(&rows, protocol, backend).iter().map(|socket| socket.cookie).collect()
    }

    #[test]
    fn c36_connected_udp_sockets_are_left_behind_by_a_backend_that_stops_serving() {
        let found = |flags, generation| found(Protocol::UDP, flags, generation);
        assert_eq!(found(BackendFlags::SERVING, 3), [0_u64; 0]);
        assert_eq!(found(BackendFlags::SERVING | BackendFlags::LOCAL, 3), [0_u64; 0]);
        assert_eq!(found(0, 3), [1]);
        assert_eq!(found(BackendFlags::SERVING, 4), [1], "the id has another owner");
        let rows = [row(1, Protocol::UDP, Way::BACK, SocketFlags::CONNECTED)];
        let gone = stranded(&rows, Protocol::UDP, |_| None);
        assert_eq!(gone[0].peer, "10.244.1.2:8080".parse().unwrap());
    }

    #[test]
    fn c37_tcp_connections_are_left_behind_by_a_backend_that_vanishes_not_by_one_that_stops_serving() {
        let found = |flags, generation| found(Protocol::TCP, flags, generation);
        assert_eq!(found(BackendFlags::SERVING, 3), [0_u64; 0]);
        assert_eq!(found(0, 3), [0_u64; 0], "not ready for now");
        assert_eq!(found(BackendFlags::VANISHED, 3), [4]);
        assert_eq!(found(BackendFlags::SERVING, 4), [4], "the id has another owner");
    }
}
