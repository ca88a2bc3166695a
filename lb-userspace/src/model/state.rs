//! The objects as they stand, and which Services a change concerns.
//!
//! Decides what makes a Service dirty: its own change, its slices', and what it takes from the
//! own Node. Sync and without I/O; must not know why anybody asks. Invariant: two states that
//! hold the same objects are equal in all but the dirty set, whatever the order of events.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ipnet::IpNet;

use super::{EndpointSlice, Kind, Node, Object, ObjectKey, ObjectName, Service, ServiceCidr};

/// Every object that counts on this node.
#[derive(Clone, Debug)]
pub struct State {
    node_name: String,
    node: Option<Node>,
    services: BTreeMap<ObjectName, Service>,
    slices: BTreeMap<ObjectName, EndpointSlice>,
    slices_of: BTreeMap<ObjectName, BTreeSet<ObjectName>>,
    service_cidrs: BTreeMap<String, ServiceCidr>,
    /// The nodes that endpoints are on, so that each name is kept once.
    node_names: BTreeSet<Arc<str>>,
    dirty: BTreeSet<ObjectName>,
    ignored: BTreeMap<String, u64>,
}

/// What a relist did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Relisted {
    /// Objects that are new or differ.
    pub changed: usize,
    /// Objects that are gone.
    pub deleted: usize,
}

impl State {
    /// Nothing yet, on the node of this name.
    #[must_use]
    pub fn new(node_name: impl Into<String>) -> Self {
        Self {
            node_name: node_name.into(),
            node: None,
            services: BTreeMap::new(),
            slices: BTreeMap::new(),
            slices_of: BTreeMap::new(),
            service_cidrs: BTreeMap::new(),
            node_names: BTreeSet::new(),
            dirty: BTreeSet::new(),
            ignored: BTreeMap::new(),
        }
    }

    /// Takes in an object, new or changed; says whether anything is different now. Other nodes'
    /// Nodes are of no concern.
    pub fn apply(&mut self, object: Object) -> bool {
        match object {
            Object::Service(service) => self.apply_service(service),
            Object::EndpointSlice(slice) => self.apply_slice(slice),
            Object::Node(node) if node.name == self.node_name => self.set_node(Some(node)),
            Object::Node(_) => false,
            Object::ServiceCidr(cidr) => self.apply_service_cidr(cidr),
        }
    }

    /// Takes an object out; says whether it was there.
    pub fn delete(&mut self, key: &ObjectKey) -> bool {
        match key {
            ObjectKey::Service(name) => {
                let was = self.services.remove(name).is_some();
                if was {
                    self.dirty.insert(name.clone());
                }
                was
            }
            ObjectKey::EndpointSlice(name) => {
                let slice = self.slices.remove(name);
                if let Some(slice) = &slice {
                    self.unlink(slice);
                }
                slice.is_some()
            }
            ObjectKey::Node(name) => *name == self.node_name && self.set_node(None),
            ObjectKey::ServiceCidr(name) => self.service_cidrs.remove(name).is_some(),
        }
    }

    /// Takes in a full list: what is not in `objects` is deleted. Only what differs becomes dirty.
    pub fn replace_all(&mut self, objects: impl IntoIterator<Item = Object>) -> Relisted {
        let known = self.keys().collect();
        self.replace(known, objects)
    }

    /// Takes in a full list of one kind, as [`Self::replace_all`] does; objects of other kinds stay.
    pub fn replace_kind(&mut self, kind: Kind, objects: impl IntoIterator<Item = Object>) -> Relisted {
        let known = self.keys().filter(|key| key.kind() == kind).collect();
        self.replace(known, objects)
    }

    fn replace(
        &mut self,
        mut gone: BTreeSet<ObjectKey>,
        objects: impl IntoIterator<Item = Object>,
    ) -> Relisted {
        let mut relisted = Relisted::default();
        for object in objects {
            gone.remove(&object.key());
            relisted.changed += usize::from(self.apply(object));
        }
        relisted.deleted = gone.len();
        for key in &gone {
            self.delete(key);
        }
        relisted
    }

    /// Counts objects of a kind that is of no use here.
    pub fn count_ignored(&mut self, kind: &str, objects: u64) {
        *self.ignored.entry(kind.to_owned()).or_default() += objects;
    }

    /// How many objects of which other kinds were seen so far.
    #[must_use]
    pub fn ignored(&self) -> &BTreeMap<String, u64> {
        &self.ignored
    }

    /// The own node's name.
    #[must_use]
    pub fn node_name(&self) -> &str {
        &self.node_name
    }

    /// The own Node, once it is known.
    #[must_use]
    pub fn node(&self) -> Option<&Node> {
        self.node.as_ref()
    }

    /// A Service.
    #[must_use]
    pub fn service(&self, name: &ObjectName) -> Option<&Service> {
        self.services.get(name)
    }

    /// All Services, by name.
    pub fn services(&self) -> impl Iterator<Item = &Service> {
        self.services.values()
    }

    /// How many Services there are; costs nothing, as counting [`Self::services`] would.
    #[must_use]
    pub fn service_count(&self) -> usize {
        self.services.len()
    }

    /// A Service's slices, by name.
    pub fn slices_of<'a>(
        &'a self,
        service: &ObjectName,
    ) -> impl Iterator<Item = &'a EndpointSlice> + use<'a> {
        self.slices_of.get(service).into_iter().flatten().filter_map(|name| self.slices.get(name))
    }

    /// Where Services get their addresses, by ServiceCIDR objects; each network once (C34).
    #[must_use]
    pub fn service_networks(&self) -> BTreeSet<IpNet> {
        self.service_cidrs.values().flat_map(|cidr| cidr.networks.iter().copied()).collect()
    }

    /// The Services that changed since the last call, those that are gone among them.
    pub fn drain_dirty(&mut self) -> BTreeSet<ObjectName> {
        std::mem::take(&mut self.dirty)
    }

    /// Has anything changed since the last drain?
    #[must_use]
    pub fn is_dirty(&self) -> bool {
        !self.dirty.is_empty()
    }

    /// Asks for a Service to be planned anew, as after a failed write.
    pub fn mark_dirty(&mut self, service: ObjectName) {
        self.dirty.insert(service);
    }

    /// Asks for everything to be planned anew.
    pub fn mark_all_dirty(&mut self) {
        self.dirty.extend(self.services.keys().cloned());
    }

    fn keys(&self) -> impl Iterator<Item = ObjectKey> {
        let services = self.services.keys().cloned().map(ObjectKey::Service);
        let slices = self.slices.keys().cloned().map(ObjectKey::EndpointSlice);
        let node = self.node.iter().map(|node| ObjectKey::Node(node.name.clone()));
        let cidrs = self.service_cidrs.keys().cloned().map(ObjectKey::ServiceCidr);
        services.chain(slices).chain(node).chain(cidrs)
    }

    fn apply_service_cidr(&mut self, cidr: ServiceCidr) -> bool {
        if self.service_cidrs.get(&cidr.name) == Some(&cidr) {
            return false;
        }
        self.service_cidrs.insert(cidr.name.clone(), cidr);
        true
    }

    fn apply_service(&mut self, mut service: Service) -> bool {
        if self.services.get(&service.name) == Some(&service) {
            return false;
        }
        // Names that are kept anyway are not kept twice.
        if let Some((known, _)) = self.slices_of.get_key_value(&service.name) {
            service.name = known.clone();
        }
        service.shrink();
        self.dirty.insert(service.name.clone());
        self.services.insert(service.name.clone(), service);
        true
    }

    fn apply_slice(&mut self, mut slice: EndpointSlice) -> bool {
        if let Some(old) = self.slices.remove(&slice.name) {
            if old == slice {
                self.slices.insert(old.name.clone(), old);
                return false;
            }
            self.unlink(&old);
        }
        if let Some(service) = &mut slice.service {
            let known = self.services.get_key_value(service).map(|(known, _)| known);
            let known = known.or_else(|| self.slices_of.get_key_value(service).map(|(known, _)| known));
            if let Some(known) = known {
                *service = known.clone();
            }
        }
        slice
            .endpoints
            .iter_mut()
            .filter_map(|endpoint| endpoint.node.as_mut())
            .for_each(|node| self.share(node));
        slice.endpoints.shrink_to_fit();
        slice.ports.shrink_to_fit();
        if let Some(service) = &slice.service {
            self.slices_of.entry(service.clone()).or_default().insert(slice.name.clone());
            self.dirty.insert(service.clone());
        }
        self.slices.insert(slice.name.clone(), slice);
        true
    }

    /// Replaces a node's name by an equal one that is kept already.
    fn share(&mut self, node: &mut Arc<str>) {
        match self.node_names.get(node) {
            Some(known) => *node = known.clone(),
            None => {
                if self.node_names.len().is_power_of_two() {
                    self.node_names.retain(|name| Arc::strong_count(name) > 1);
                }
                self.node_names.insert(node.clone());
            }
        }
    }

    fn unlink(&mut self, slice: &EndpointSlice) {
        let Some(service) = &slice.service else { return };
        self.dirty.insert(service.clone());
        if let Some(names) = self.slices_of.get_mut(service) {
            names.remove(&slice.name);
            if names.is_empty() {
                self.slices_of.remove(service);
            }
        }
    }

    /// The zone concerns Services with zone hints, the addresses those with NodePorts.
    fn set_node(&mut self, node: Option<Node>) -> bool {
        if self.node == node {
            return false;
        }
        let zone = |node: &Option<Node>| node.as_ref().and_then(|node| node.zone.clone());
        let addresses = |node: &Option<Node>| {
            node.as_ref()
                .map(|node| (node.internal_ips.clone(), node.external_ips.clone()))
                .unwrap_or_default()
        };
        if zone(&self.node) != zone(&node) {
            let hinted = self
                .slices
                .values()
                .filter(|slice| slice.endpoints.iter().any(|e| !e.for_zones().is_empty()));
            self.dirty.extend(hinted.filter_map(|slice| slice.service.clone()));
        }
        if addresses(&self.node) != addresses(&node) {
            let with_node_port =
                self.services.values().filter(|s| s.ports.iter().any(|p| p.node_port.is_some()));
            self.dirty.extend(with_node_port.map(|service| service.name.clone()));
        }
        self.node = node;
        true
    }
}

#[cfg(test)]
#[path = "state_tests.rs"]
mod tests;
