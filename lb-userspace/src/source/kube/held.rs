//! The last known endpoints of the API server's own Service stay in force (contract C48).
//!
//! Decides what becomes of changes that would leave `default/kubernetes` without an endpoint: a server
//! that stops takes its own out first. Must not know how changes arrive. Invariant: once an endpoint of
//! it was known, there is always one (but where its slice is given to another Service), and what the server says of others is passed on as it is.

use std::collections::BTreeMap;

use crate::model::{Change, EndpointSlice, Kind, Object, ObjectKey, ObjectName};

/// Whose endpoints are held.
const SERVICE: (&str, &str) = ("default", "kubernetes");

/// What is known of the Service's slices.
#[derive(Debug, Default)]
pub(super) struct Held {
    /// As the server says.
    said: BTreeMap<ObjectName, EndpointSlice>,
    /// As they were passed on.
    in_force: BTreeMap<ObjectName, EndpointSlice>,
}

impl Held {
    /// Passes on a change, or what is left of it.
    pub(super) fn pass(&mut self, change: Change) -> Vec<Change> {
        match change {
            Change::Apply(Object::EndpointSlice(slice)) if self.concerns(&slice) => {
                if is_held(&slice) {
                    self.said.insert(slice.name.clone(), slice);
                    self.settle()
                } else {
                    // It belongs to another Service now, or to none.
                    self.said.remove(&slice.name);
                    self.in_force.remove(&slice.name);
                    let mut changes = vec![Change::Apply(Object::EndpointSlice(slice))];
                    changes.extend(self.settle());
                    changes
                }
            }
            Change::Delete(ObjectKey::EndpointSlice(name)) if self.in_force.contains_key(&name) => {
                self.said.remove(&name);
                self.settle()
            }
            Change::Relist(Kind::EndpointSlice, objects) => {
                vec![Change::Relist(Kind::EndpointSlice, self.relisted(objects))]
            }
            other => vec![other],
        }
    }

    /// Is something in force that the server no longer says?
    pub(super) fn holds(&self) -> bool {
        self.said != self.in_force
    }

    fn concerns(&self, slice: &EndpointSlice) -> bool {
        is_held(slice) || self.said.contains_key(&slice.name) || self.in_force.contains_key(&slice.name)
    }

    fn relisted(&mut self, objects: Vec<Object>) -> Vec<Object> {
        let (mut others, mut said) = (Vec::with_capacity(objects.len()), BTreeMap::new());
        for object in objects {
            match object {
                Object::EndpointSlice(slice) if is_held(&slice) => {
                    said.insert(slice.name.clone(), slice);
                }
                other => others.push(other),
            }
        }
        self.said = said;
        // What is in force follows from the list that is returned, not from changes.
        self.settle();
        others.extend(self.in_force.values().cloned().map(Object::EndpointSlice));
        others
    }

    /// Brings what is in force to what the server says, unless that leaves nothing that serves.
    fn settle(&mut self) -> Vec<Change> {
        let serves = |slices: &BTreeMap<ObjectName, EndpointSlice>| {
            slices.values().flat_map(|slice| &slice.endpoints).any(|endpoint| endpoint.serves())
        };
        if !serves(&self.said) && serves(&self.in_force) {
            return Vec::new();
        }
        // New ones first, so that there is no moment without any.
        let new = self.said.values().filter(|slice| self.in_force.get(&slice.name) != Some(slice));
        let mut changes: Vec<Change> =
            new.cloned().map(|slice| Change::Apply(Object::EndpointSlice(slice))).collect();
        let gone = self.in_force.keys().filter(|name| !self.said.contains_key(name));
        changes.extend(gone.cloned().map(|name| Change::Delete(ObjectKey::EndpointSlice(name))));
        self.in_force.clone_from(&self.said);
        changes
    }
}

fn is_held(slice: &EndpointSlice) -> bool {
    let is = |name: &ObjectName| (name.namespace(), name.name()) == SERVICE;
    slice.service.as_ref().is_some_and(is)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::model::{Endpoint, State};

    fn slice(name: &str, service: &str, ready: &[&str]) -> Object {
        let endpoint = |ip: &&str| Endpoint {
            addr: ip.parse().unwrap(),
            ready: true,
            serving: true,
            terminating: false,
            placement: None,
        };
        Object::EndpointSlice(EndpointSlice {
            name: ObjectName::new("default", name),
            service: Some(ObjectName::new("default", service)),
            version: 0,
            triggered: None,
            ports: Arc::default(),
            endpoints: ready.iter().map(endpoint).collect(),
        })
    }

    fn key(name: &str) -> ObjectKey {
        ObjectKey::EndpointSlice(ObjectName::new("default", name))
    }

    /// The addresses of a Service after these changes.
    fn after(held: &mut Held, state: &mut State, change: Change, service: &str) -> Vec<String> {
        for change in held.pass(change) {
            state.take_in(change);
        }
        let slices = state.slices_of(&ObjectName::new("default", service));
        slices.flat_map(|slice| &slice.endpoints).map(|endpoint| endpoint.addr.to_string()).collect()
    }

    #[test]
    fn c48_a_server_that_goes_away_keeps_its_last_endpoints_however_it_takes_them_out() {
        let ways = [
            Change::Delete(key("kubernetes")),
            Change::Apply(slice("kubernetes", "kubernetes", &[])),
            Change::Relist(Kind::EndpointSlice, vec![slice("web-1", "web", &["10.0.0.9"])]),
        ];
        for way in ways {
            let (mut held, mut state) = (Held::default(), State::new("here"));
            let first = Change::Relist(
                Kind::EndpointSlice,
                vec![slice("kubernetes", "kubernetes", &["192.0.2.1"]), slice("web-1", "web", &["10.0.0.9"])],
            );
            assert_eq!(after(&mut held, &mut state, first, "kubernetes"), ["192.0.2.1"]);
            assert_eq!(after(&mut held, &mut state, way, "kubernetes"), ["192.0.2.1"]);
            assert!(held.holds());
            let back = Change::Apply(slice("kubernetes", "kubernetes", &["192.0.2.2"]));
            assert_eq!(after(&mut held, &mut state, back, "kubernetes"), ["192.0.2.2"]);
            assert!(!held.holds());
            let web = Change::Delete(key("web-1"));
            assert!(after(&mut held, &mut state, web, "web").is_empty(), "other Services lose theirs");
        }
    }

    #[test]
    fn c48_endpoints_that_move_to_another_slice_are_not_held_twice() {
        let (mut held, mut state) = (Held::default(), State::new("here"));
        let old = Change::Apply(slice("old", "kubernetes", &["192.0.2.1"]));
        after(&mut held, &mut state, old, "kubernetes");
        after(&mut held, &mut state, Change::Delete(key("old")), "kubernetes");
        let new = Change::Apply(slice("new", "kubernetes", &["192.0.2.2"]));
        assert_eq!(after(&mut held, &mut state, new, "kubernetes"), ["192.0.2.2"]);
        let elsewhere = Change::Apply(slice("new", "other", &["192.0.2.2"]));
        assert_eq!(after(&mut held, &mut state, elsewhere, "other"), ["192.0.2.2"]);
    }
}
