//! The objects as they stand, and which Services a change concerns.
//!
//! Decides what makes a Service dirty: its own change, its slices', and what it takes from the
//! own Node. Sync and without I/O; must not know why anybody asks. Invariant: two states that
//! hold the same objects are equal in all but the dirty set, whatever the order of events.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;

use super::{EndpointSlice, Kind, Known, Node, Object, ObjectKey, ObjectName, Service, ServiceCidr};
use crate::trees::pack;

/// Every object that counts on this node.
#[derive(Clone, Debug)]
pub struct State {
    node_name: String,
    node: Option<Node>,
    services: BTreeMap<ObjectName, Service>,
    slices: BTreeMap<ObjectName, EndpointSlice>,
    /// Sorted; most Services have one slice of each family.
    slices_of: BTreeMap<ObjectName, Box<[ObjectName]>>,
    service_cidrs: BTreeMap<String, ServiceCidr>,
    /// Of the slices.
    known: Known,
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
            known: Known::default(),
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
                if let Some(service) = slice.as_ref().and_then(|slice| slice.service.as_ref()) {
                    self.unlink(service, name);
                    self.dirty.insert(service.clone());
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
        pack(&mut self.services);
        pack(&mut self.slices);
        pack(&mut self.slices_of);
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
        let names = self.slices_of.get(service).into_iter().flat_map(|names| names.iter());
        names.filter_map(|name| self.slices.get(name))
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
        let known = self.services.get_key_value(&service.name).map(|(known, _)| known);
        let known = known.or_else(|| self.slices_of.get_key_value(&service.name).map(|(known, _)| known));
        if let Some(known) = known {
            service.name = known.clone();
        }
        service.shrink();
        self.dirty.insert(service.name.clone());
        self.services.insert(service.name.clone(), service);
        true
    }

    fn apply_slice(&mut self, mut slice: EndpointSlice) -> bool {
        let known = self.slices.get_key_value(&slice.name);
        if known.is_some_and(|(_, old)| *old == slice) {
            return false;
        }
        let before = known.and_then(|(_, old)| old.service.clone());
        if let Some((name, _)) = known {
            slice.name = name.clone();
        }
        if let Some(service) = &mut slice.service {
            let known = self.services.get_key_value(service).map(|(known, _)| known);
            let known = known.or_else(|| self.slices_of.get_key_value(service).map(|(known, _)| known));
            if let Some(known) = known {
                *service = known.clone();
            }
        }
        slice.settle(&mut self.known);
        if before != slice.service {
            if let Some(service) = &before {
                self.unlink(service, &slice.name);
            }
            if let Some(service) = &slice.service {
                self.link(service, &slice.name);
            }
        }
        self.dirty.extend(before);
        self.dirty.extend(slice.service.clone());
        match self.slices.get_mut(&slice.name) {
            Some(old) => old.replace(slice),
            None => drop(self.slices.insert(slice.name.clone(), slice)),
        }
        true
    }

    fn link(&mut self, service: &ObjectName, slice: &ObjectName) {
        let slices = self.slices_of.entry(service.clone()).or_default();
        if let Err(place) = slices.binary_search(slice) {
            let mut more = std::mem::take(slices).into_vec();
            more.insert(place, slice.clone());
            *slices = more.into_boxed_slice();
        }
    }

    fn unlink(&mut self, service: &ObjectName, slice: &ObjectName) {
        let Some(slices) = self.slices_of.get_mut(service) else { return };
        if let Ok(place) = slices.binary_search(slice) {
            let mut fewer = std::mem::take(slices).into_vec();
            fewer.remove(place);
            *slices = fewer.into_boxed_slice();
        }
        if slices.is_empty() {
            self.slices_of.remove(service);
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
