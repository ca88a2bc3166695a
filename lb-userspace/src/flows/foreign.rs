//! Connections that netfilter translates, and that are left to it.
//!
//! Decides which of them count, and which rows of the table come and go. Pure. Invariants: a row is there for a
//! connection to a frontend only; a datagram's connection goes with its backend (contract C36), others when
//! netfilter forgets them.
//!
//! A question and its answer by UDP are no connection, though netfilter takes them for one: the next question may come
//! from the same port, and would go nowhere if it were left to rules that are gone.

use std::collections::HashSet;
use std::net::SocketAddr;

use lb_common::abi::{FlowKey, FrontendKey, Hook};
use lb_common::address::{Address, Port, Protocol};

use crate::net::conntrack::Translated;

/// The row of a connection; `None`: of the other family.
#[must_use]
pub fn key<A: Address>(connection: &Translated) -> Option<FlowKey<A>> {
    Some(FlowKey {
        src: A::from_ip(connection.client.ip())?,
        dst: A::from_ip(connection.dialled.ip())?,
        src_port: Port::new(connection.client.port()),
        dst_port: Port::new(connection.dialled.port()),
        protocol: connection.protocol,
        hook: Hook::INGRESS,
        pad: [0; 2],
    })
}

/// The frontend of a connection's row.
#[must_use]
pub fn frontend<A: Address>(key: &FlowKey<A>) -> FrontendKey<A> {
    FrontendKey::new(key.dst, key.dst_port, key.protocol)
}

/// What has to change in the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Changes<A: Address> {
    /// Connections without a row.
    pub fresh: Vec<FlowKey<A>>,
    /// Rows without a connection.
    pub gone: Vec<FlowKey<A>>,
}

/// The way from the rows that are there to those for `connections`. `is_frontend` is asked once for each connection
/// without a row; `serves` for datagrams' backends.
pub fn changes<A: Address>(
    rows: &HashSet<FlowKey<A>>,
    connections: &[Translated],
    is_frontend: impl Fn(&FrontendKey<A>) -> bool,
    serves: impl Fn(SocketAddr) -> bool,
) -> Changes<A> {
    let stays = |connection: &&Translated| {
        connection.protocol != Protocol::UDP || (connection.assured && serves(connection.backend))
    };
    let wanted: HashSet<FlowKey<A>> = connections.iter().filter(stays).filter_map(key).collect();
    let fresh = wanted.iter().filter(|key| !rows.contains(key) && is_frontend(&frontend(key)));
    Changes {
        fresh: fresh.copied().collect(),
        gone: rows.iter().filter(|key| !wanted.contains(key)).copied().collect(),
    }
}

#[cfg(test)]
mod tests {
    use lb_common::address::{V4, V6};

    use super::*;

    fn connection(protocol: Protocol, client: &str, dialled: &str, backend: &str) -> Translated {
        Translated {
            protocol,
            client: client.parse().unwrap(),
            dialled: dialled.parse().unwrap(),
            backend: backend.parse().unwrap(),
            assured: true,
        }
    }

    fn web(port: u16) -> Translated {
        connection(Protocol::TCP, &format!("10.244.1.2:{port}"), "10.96.0.10:80", "10.244.1.3:8080")
    }

    fn dns(backend: &str) -> Translated {
        connection(Protocol::UDP, "10.244.1.2:5353", "10.96.0.10:53", backend)
    }

    fn is_frontend<A: Address>(frontend: &FrontendKey<A>) -> bool {
        [Port::new(80), Port::new(53)].contains(&{ frontend.port })
    }

    #[test]
    fn rows_are_there_for_connections_to_frontends_of_their_family() {
        let connections = [
            web(40_000),
            connection(Protocol::TCP, "10.244.1.2:1", "192.0.2.1:8443", "10.244.1.3:8080"),
            connection(Protocol::TCP, "[fd00::2]:1", "[fd00:96::10]:80", "[fd00::3]:8080"),
        ];
        let v4 = changes::<V4>(&HashSet::new(), &connections, is_frontend, |_| true);
        assert_eq!(v4.fresh, [key(&web(40_000)).unwrap()]);
        assert_eq!(changes::<V6>(&HashSet::new(), &connections, is_frontend, |_| true).fresh.len(), 1);
    }

    #[test]
    fn what_is_there_stays_and_what_has_ended_goes() {
        let rows: HashSet<FlowKey<V4>> = [web(1), web(2)].iter().filter_map(key).collect();
        let found = changes(&rows, &[web(2), web(3)], is_frontend, |_| true);
        assert_eq!(found.fresh, [key(&web(3)).unwrap()]);
        assert_eq!(found.gone, [key(&web(1)).unwrap()]);
        let none = changes(&rows, &[web(2), web(1)], |_| false, |_| false);
        assert_eq!((none.fresh.len(), none.gone.len()), (0, 0), "streams stay whatever their Service is");
    }

    #[test]
    fn a_question_and_its_answer_are_no_connection() {
        let asked = Translated { assured: false, ..dns("10.244.1.3:53") };
        assert_eq!(changes::<V4>(&HashSet::new(), &[asked], is_frontend, |_| true).fresh.len(), 0);
        let opened = Translated { assured: false, ..web(1) };
        assert_eq!(changes::<V4>(&HashSet::new(), &[opened], is_frontend, |_| true).fresh.len(), 1);
    }

    #[test]
    fn c36_datagrams_leave_with_their_backend() {
        let rows: HashSet<FlowKey<V4>> = [dns("10.244.1.3:53")].iter().filter_map(key).collect();
        let alive = "10.244.1.4:53".parse().unwrap();
        let serves = |backend: SocketAddr| backend == alive;
        assert_eq!(changes(&rows, &[dns("10.244.1.3:53")], is_frontend, serves).gone.len(), 1);
        assert_eq!(changes(&rows, &[dns("10.244.1.4:53")], is_frontend, serves).gone.len(), 0);
    }
}
