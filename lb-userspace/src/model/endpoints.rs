//! EndpointSlices as this program means them.
//!
//! Decides what is kept of an endpoint (contract C3, C6). Must not know Services' ports or
//! policies. Invariant: every address is of one family per slice and may be dialled; ports are
//! 1 to 65535.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use lb_common::address::Protocol;

use super::ObjectName;

/// A slice of a Service's endpoints.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointSlice {
    /// Namespace and name.
    pub name: ObjectName,
    /// The Service it belongs to; `None`: nobody's (C1, C3).
    pub service: Option<ObjectName>,
    /// `resourceVersion`, by which it can be told which of two slices was written last (Kubernetes 1.35
    /// made it comparable); 0 where the object does not say.
    pub version: u64,
    /// When the pod or Service changed that this state of the slice answers to, since 1970 (annotation
    /// `endpoints.kubernetes.io/last-change-trigger-time`, C47); `None` where the object does not say.
    pub triggered: Option<Duration>,
    /// Where its endpoints listen.
    pub ports: Vec<EndpointPort>,
    /// Its endpoints. Each listens on each port.
    pub endpoints: Vec<Endpoint>,
}

/// A port of a slice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointPort {
    /// The Service port's name (C7); empty where it has none.
    pub name: String,
    /// TCP, UDP or SCTP.
    pub protocol: Protocol,
    /// Where endpoints listen.
    pub port: u16,
}

/// An endpoint: usually a pod. There may be hundreds of thousands, on few nodes, most without hints.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Its address: the first of the object's (C6).
    pub addr: IpAddr,
    /// May new connections go there?
    pub ready: bool,
    /// Does it answer, terminating or not?
    pub serving: bool,
    /// Is it going away?
    pub terminating: bool,
    /// The node it runs on.
    pub node: Option<Arc<str>>,
    /// Who should use it (C13); `None`: it does not say.
    pub hints: Option<Box<Hints>>,
}

/// Who should use an endpoint (C13).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hints {
    /// Nodes of these zones.
    pub zones: Box<[String]>,
    /// These nodes.
    pub nodes: Box<[String]>,
}

impl Hints {
    /// Those hints; `None` where they say nothing.
    #[must_use]
    pub fn of(
        zones: impl IntoIterator<Item = String>,
        nodes: impl IntoIterator<Item = String>,
    ) -> Option<Box<Self>> {
        let hints = Self { zones: zones.into_iter().collect(), nodes: nodes.into_iter().collect() };
        (hints != Self::default()).then(|| Box::new(hints))
    }
}

impl Endpoint {
    /// Does it serve, so that flows to it may stay (C36)?
    #[must_use]
    pub fn serves(&self) -> bool {
        self.ready || self.serving
    }

    /// Zones whose nodes should use it (C13).
    #[must_use]
    pub fn for_zones(&self) -> &[String] {
        self.hints.as_ref().map(|hints| &*hints.zones).unwrap_or_default()
    }

    /// Nodes that should use it (C13).
    #[must_use]
    pub fn for_nodes(&self) -> &[String] {
        self.hints.as_ref().map(|hints| &*hints.nodes).unwrap_or_default()
    }

    /// May it stand in where none is ready (C11, C12)?
    #[must_use]
    pub fn stands_in(&self) -> bool {
        self.serving && self.terminating
    }
}
