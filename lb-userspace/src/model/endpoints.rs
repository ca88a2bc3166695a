//! EndpointSlices as this program means them.
//!
//! Decides what is kept of an endpoint (contract C3, C6). Must not know Services' ports or
//! policies. Invariant: every address is of one family per slice and may be dialled; ports are
//! 1 to 65535.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use lb_common::address::Protocol;

use super::{Endpoints, Known, ObjectName, Placement};

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
    /// Where its endpoints listen. Most slices have the same.
    pub ports: Arc<[EndpointPort]>,
    /// Its endpoints. Each listens on each port.
    pub endpoints: Endpoints,
}

impl EndpointSlice {
    /// Lets go of ports and placements that are known already.
    pub(super) fn settle(&mut self, known: &mut Known) {
        known.ports.share(&mut self.ports);
        self.endpoints.share(&mut known.placements);
    }

    /// Becomes `new`, in the memory that it has where that fits: slices change all the time, and what lies between
    /// things that come and go keeps memory from being whole.
    pub(super) fn replace(&mut self, new: Self) {
        let mut endpoints = std::mem::take(&mut self.endpoints);
        endpoints.replace(new.endpoints);
        *self = Self { endpoints, ..new };
    }
}

/// A port of a slice.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct EndpointPort {
    /// The Service port's name (C7); empty where it has none.
    pub name: String,
    /// TCP, UDP or SCTP.
    pub protocol: Protocol,
    /// Where endpoints listen.
    pub port: u16,
}

/// An endpoint: usually a pod. [`Endpoints`] keeps many in less room.
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
    /// Where it runs and who should use it; `None`: it does not say.
    pub placement: Option<Arc<Placement>>,
}

/// An endpoint, read where it is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EndpointRef<'a> {
    /// [`Endpoint::addr`].
    pub addr: IpAddr,
    /// [`Endpoint::ready`].
    pub ready: bool,
    /// [`Endpoint::serving`].
    pub serving: bool,
    /// [`Endpoint::terminating`].
    pub terminating: bool,
    /// [`Endpoint::placement`].
    pub placement: Option<&'a Arc<Placement>>,
}

impl Endpoint {
    /// The same, read here.
    #[must_use]
    pub fn view(&self) -> EndpointRef<'_> {
        let Self { addr, ready, serving, terminating, ref placement } = *self;
        EndpointRef { addr, ready, serving, terminating, placement: placement.as_ref() }
    }
}

impl<'a> EndpointRef<'a> {
    /// Does it serve, so that flows to it may stay (C36)?
    #[must_use]
    pub fn serves(&self) -> bool {
        self.ready || self.serving
    }

    /// The node it runs on.
    #[must_use]
    pub fn node(&self) -> Option<&'a str> {
        self.placement?.node.as_deref()
    }

    /// Does it say who should use it (C13)?
    #[must_use]
    pub fn is_hinted(&self) -> bool {
        !self.for_zones().is_empty() || !self.for_nodes().is_empty()
    }

    /// Zones whose nodes should use it (C13).
    #[must_use]
    pub fn for_zones(&self) -> &'a [String] {
        self.placement.map(|placement| &*placement.for_zones).unwrap_or_default()
    }

    /// Nodes that should use it (C13).
    #[must_use]
    pub fn for_nodes(&self) -> &'a [String] {
        self.placement.map(|placement| &*placement.for_nodes).unwrap_or_default()
    }

    /// May it stand in where none is ready (C11, C12)?
    #[must_use]
    pub fn stands_in(&self) -> bool {
        self.serving && self.terminating
    }
}
