//! The objects that the server holds, and what happened to them.
//!
//! Decides versions: one counter for all, as etcd's revision is; each change of an object is one step.
//! Must not know HTTP. Invariant: the history of a kind, applied to what it held when the history
//! begins, gives what it holds now; whoever asks for older changes is told that they are gone.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use serde_json::{Value, json};

use super::selector::Selector;

/// Changes of a kind that are kept.
const HISTORY: usize = 100_000;

/// A kind as its path has it: `v1/services`, `discovery.k8s.io/v1/endpointslices`.
pub(super) type Resource = String;
/// Namespace (empty for what has none) and name.
pub(super) type Name = (String, String);

/// What the server holds.
#[derive(Debug, Default)]
pub(super) struct Store {
    version: u64,
    resources: BTreeMap<Resource, Objects>,
}

/// The objects of a kind.
#[derive(Debug, Default)]
pub(super) struct Objects {
    objects: BTreeMap<Name, Arc<Stored>>,
    history: VecDeque<Change>,
    /// Changes up to this version are forgotten.
    forgotten: u64,
}

/// An object and its JSON.
#[derive(Debug)]
pub(super) struct Stored {
    pub(super) value: Value,
    pub(super) text: String,
}

/// A step in a kind's history.
#[derive(Clone, Debug)]
pub(super) struct Change {
    pub(super) version: u64,
    pub(super) before: Option<Arc<Stored>>,
    pub(super) after: Option<Arc<Stored>>,
    /// For a deletion: the object as it was, with the version of its deletion.
    last: Option<Arc<Stored>>,
}

/// Why changes since a version cannot be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TooOld {
    pub(super) asked: u64,
    pub(super) oldest: u64,
}

impl Store {
    pub(super) fn version(&self) -> u64 {
        self.version
    }

    /// Adds or replaces an object. With `keep_version` its own `resourceVersion` counts, as in a recording.
    pub(super) fn put(&mut self, resource: &str, name: Name, mut value: Value, keep_version: bool) -> u64 {
        let own = value["metadata"]["resourceVersion"].as_str().and_then(|version| version.parse().ok());
        let version = own.filter(|_| keep_version).unwrap_or(self.version + 1);
        self.version = self.version.max(version);
        value["metadata"]["resourceVersion"] = json!(version.to_string());
        let stored = Arc::new(Stored { text: value.to_string(), value });
        let objects = self.resources.entry(resource.to_owned()).or_default();
        let before = objects.objects.insert(name, Arc::clone(&stored));
        objects.push(Change { version, before, after: Some(stored), last: None });
        version
    }

    /// Removes an object; says whether it was there. `last`: as a recording has it in its last moment.
    pub(super) fn remove(&mut self, resource: &str, name: &Name, last: Option<&Value>) -> bool {
        let Some(objects) = self.resources.get_mut(resource) else { return false };
        let Some(before) = objects.objects.remove(name) else { return false };
        let mut value = last.unwrap_or(&before.value).clone();
        let own = value["metadata"]["resourceVersion"].as_str().and_then(|version| version.parse().ok());
        let version = own.filter(|_| last.is_some()).unwrap_or(self.version + 1);
        self.version = self.version.max(version);
        value["metadata"]["resourceVersion"] = json!(version.to_string());
        let last = Some(Arc::new(Stored { text: value.to_string(), value }));
        objects.push(Change { version, before: Some(before), after: None, last });
        true
    }

    pub(super) fn get(&self, resource: &str, name: &Name) -> Option<&Arc<Stored>> {
        self.resources.get(resource)?.objects.get(name)
    }

    /// The objects that match, by name, from after `start` on.
    pub(super) fn list<'a>(
        &'a self,
        resource: &str,
        selector: &'a Selector,
        start: Option<&Name>,
    ) -> impl Iterator<Item = (&'a Name, &'a Arc<Stored>)> {
        use std::ops::Bound::{Excluded, Unbounded};
        let objects = self.resources.get(resource).map(|objects| &objects.objects);
        let from = start.map_or(Unbounded, Excluded);
        let range = objects.into_iter().flat_map(move |objects| objects.range((from, Unbounded)));
        range.filter(|(_, stored)| selector.matches(&stored.value))
    }

    /// The changes of a kind after a version.
    pub(super) fn since(&self, resource: &str, version: u64) -> Result<Vec<Change>, TooOld> {
        let Some(objects) = self.resources.get(resource) else { return Ok(Vec::new()) };
        if version < objects.forgotten {
            return Err(TooOld { asked: version, oldest: objects.forgotten });
        }
        let from = objects.history.partition_point(|change| change.version <= version);
        Ok(objects.history.range(from..).cloned().collect())
    }

    /// Forgets all history, as compaction does.
    pub(super) fn compact(&mut self) {
        let version = self.version;
        for objects in self.resources.values_mut() {
            objects.history.clear();
            objects.forgotten = version;
        }
    }
}

impl Objects {
    fn push(&mut self, change: Change) {
        self.history.push_back(change);
        if self.history.len() > HISTORY
            && let Some(forgotten) = self.history.pop_front()
        {
            self.forgotten = forgotten.version;
        }
    }
}

impl Change {
    /// The event that it is to a watch with this selector.
    pub(super) fn event(&self, selector: &Selector) -> Option<String> {
        let matches = |stored: &Option<Arc<Stored>>| {
            stored.as_ref().is_some_and(|stored| selector.matches(&stored.value))
        };
        let (kind, stored) = match (matches(&self.before), matches(&self.after)) {
            (false, false) => return None,
            (false, true) => ("ADDED", self.after.as_ref()),
            (true, true) => ("MODIFIED", self.after.as_ref()),
            // One that no longer matches is shown as it is now, one that is gone as it was.
            (true, false) => ("DELETED", self.after.as_ref().or(self.last.as_ref())),
        };
        stored.map(|stored| event(kind, &stored.text))
    }
}

/// A line of a watch.
pub(super) fn event(kind: &str, object: &str) -> String {
    format!("{{\"type\":\"{kind}\",\"object\":{object}}}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(name: &str) -> Name {
        ("ns".to_owned(), name.to_owned())
    }

    fn object(label: &str) -> Value {
        json!({"metadata": {"name": "a", "namespace": "ns", "labels": {label: ""}}})
    }

    #[test]
    fn history_is_told_from_any_version_until_it_is_forgotten() {
        let mut store = Store::default();
        let selector = Selector::default();
        let first = store.put("v1/services", name("a"), object("x"), false);
        store.put("v1/services", name("b"), object("x"), false);
        assert!(store.remove("v1/services", &name("a"), None));
        let kinds = |changes: Vec<Change>| {
            let event = |change: &Change| change.event(&selector).unwrap()[9..12].to_owned();
            changes.iter().map(event).collect::<Vec<_>>()
        };
        assert_eq!(kinds(store.since("v1/services", 0).unwrap()), ["ADD", "ADD", "DEL"]);
        assert_eq!(kinds(store.since("v1/services", first).unwrap()), ["ADD", "DEL"]);
        store.compact();
        assert_eq!(store.since("v1/services", first).unwrap_err(), TooOld { asked: first, oldest: 3 });
        assert!(store.since("v1/services", 3).unwrap().is_empty());
        assert!(!store.remove("v1/services", &name("a"), None));
    }

    #[test]
    fn an_object_that_stops_matching_is_deleted_for_the_watch_that_saw_it() {
        let mut store = Store::default();
        store.put("v1/services", name("a"), object("x"), false);
        store.put("v1/services", name("a"), object("hidden"), false);
        store.put("v1/services", name("a"), object("x"), false);
        store.put("v1/services", name("a"), object("x"), false);
        let selector = Selector::parse(Some("!hidden"), None).unwrap();
        let events: Vec<String> = store
            .since("v1/services", 0)
            .unwrap()
            .iter()
            .filter_map(|change| change.event(&selector))
            .collect();
        let kinds: Vec<&str> = events.iter().map(|event| event.split('"').nth(3).unwrap()).collect();
        assert_eq!(kinds, ["ADDED", "DELETED", "ADDED", "MODIFIED"]);
        assert!(events[1].contains("hidden"));
    }
}
