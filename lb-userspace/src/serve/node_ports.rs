//! The health check node ports of Services (contract C45).
//!
//! Decides which ports are open: those of the Services that have one at present. Must not know endpoints: how many
//! there are is read when somebody asks. Invariant: a port that cannot be opened is told once and tried again until
//! it opens or nobody wants it, and holds up no other.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};

use super::board::Board;
use super::listen::{self, RETRY};
use super::pages;
use crate::model::ObjectName;

/// The reason of the Event that tells a Service's owner.
const FAILED: &str = "FailedToStartServiceHealthcheck";

/// Something that the owner of a Service should know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// The Service.
    pub service: ObjectName,
    /// As the reason of an Event.
    pub reason: &'static str,
    /// What is wrong, what becomes of it, and what to do.
    pub message: String,
}

/// The ports that are open, or should be.
struct NodePorts<T> {
    board: Arc<Board>,
    tell: T,
    ports: BTreeMap<ObjectName, Port>,
}

struct Port {
    number: u16,
    state: State,
}

enum State {
    Open(JoinHandle<()>),
    Failed(Instant),
}

/// Opens and closes ports as Services come and go, for ever.
pub(super) async fn follow(board: Arc<Board>, tell: impl Fn(Notice)) {
    let mut ports = NodePorts { board, tell, ports: BTreeMap::new() };
    loop {
        ports.update().await;
        let retry = ports.retry_at();
        tokio::select! {
            () = ports.board.checks_changed.notified() => {}
            () = sleep_until(retry.unwrap_or_else(Instant::now)), if retry.is_some() => {}
        }
    }
}

impl<T: Fn(Notice)> NodePorts<T> {
    async fn update(&mut self) {
        let wanted = self.board.ports();
        let gone = |service: &ObjectName, port: &Port| wanted.get(service) != Some(&port.number);
        let closing: Vec<ObjectName> =
            self.ports.iter().filter(|(name, port)| gone(name, port)).map(|(name, _)| name.clone()).collect();
        for service in closing {
            if let Some(Port { number, state: State::Open(task) }) = self.ports.remove(&service) {
                task.abort();
                // Over when its port is free, which the next Service may want.
                let _ = task.await;
                tracing::info!(%service, port = number, "health check node port closed");
            }
        }
        for (service, port) in wanted {
            self.open(service, port);
        }
        self.count();
    }

    fn open(&mut self, service: ObjectName, number: u16) {
        let known = self.ports.get(&service).map(|port| &port.state);
        match known {
            Some(State::Open(_)) => return,
            Some(State::Failed(at)) if *at > Instant::now() => return,
            Some(State::Failed(_)) | None => {}
        }
        let new = known.is_none();
        let state = match listen::open(SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), number)) {
            Ok(listener) => {
                tracing::info!(%service, port = number, "health check node port opened");
                let pages = pages::node_port(self.board.clone(), service.clone());
                State::Open(tokio::spawn(listen::serve(listener, pages)))
            }
            Err(error) => {
                if new {
                    let message = format!(
                        "the health check port {number} cannot be opened on this node ({error}), so load balancers do not \
                         find it healthy; tried again every {RETRY:?}: free the port, or give the Service another \
                         healthCheckNodePort"
                    );
                    (self.tell)(Notice { service: service.clone(), reason: FAILED, message });
                }
                State::Failed(Instant::now() + RETRY)
            }
        };
        self.ports.insert(service, Port { number, state });
    }

    fn retry_at(&self) -> Option<Instant> {
        let at = |port: &Port| match &port.state {
            State::Failed(at) => Some(*at),
            State::Open(_) => None,
        };
        self.ports.values().filter_map(at).min()
    }

    fn count(&self) {
        let failed = self.ports.values().filter(|port| matches!(port.state, State::Failed(_))).count();
        self.board.metrics.own.set_node_ports(self.ports.len() - failed, failed);
    }
}

#[cfg(test)]
#[path = "node_ports_tests.rs"]
mod tests;
