//! The objects of one file.
//!
//! Decides what is an object: a document, or an item of a list, whatever `kubectl get -o yaml`
//! prints. Must not know other files. Invariant: an object that cannot be read leaves a finding,
//! and its name where it has one; the others are read all the same.

use std::collections::BTreeMap;
use std::path::Path;

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::discovery::v1 as discovery;
use k8s_openapi::api::networking::v1 as networking;
use serde::de::DeserializeOwned;

use super::tree::{Place, SyntaxError, Tree, Value, parse_json, parse_yaml};
use super::typed;
use crate::model::{Object, ObjectKey};
use crate::source::finding::Finding;
use crate::source::kubernetes::{Converted, Kind, endpoint_slice, node, service, service_cidr};

/// What a file holds.
#[derive(Clone, Debug, Default)]
pub(super) struct Contents {
    /// The objects of kinds that count, in the file's order.
    pub(super) entries: Vec<Entry>,
    /// What is wrong with the file, apart from its objects.
    pub(super) findings: Vec<Finding>,
    /// How many objects of which other kinds.
    pub(super) ignored: BTreeMap<String, u64>,
}

/// An object in a file.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) key: ObjectKey,
    pub(super) at: Place,
    /// `None` where it cannot be read at all.
    pub(super) object: Option<Object>,
    /// What is wrong with it.
    pub(super) findings: Vec<Finding>,
}

/// Reads the text of a file; JSON by its name, else YAML.
pub(super) fn read(path: &Path, text: &str) -> Result<Contents, SyntaxError> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let is_json = path.extension().is_some_and(|extension| extension == "json");
    let documents = if is_json { parse_json(text)? } else { parse_yaml(text)? };
    let mut contents = Contents::default();
    for document in &documents {
        contents.document(path, document, None);
    }
    Ok(contents)
}

impl Contents {
    /// `item_of`: the version and kind of the list that it is in, since the items of a
    /// `ServiceList` do not repeat them.
    fn document(&mut self, path: &Path, tree: &Tree, item_of: Option<(&str, &str)>) {
        if !matches!(tree.value, Value::Map(_)) {
            let message = "this is no Kubernetes object, left out; an object starts with apiVersion and kind";
            return self.findings.push(Finding::problem(path, message).at(tree.at));
        }
        let version = tree.text("apiVersion").or(item_of.map(|(version, _)| version));
        let kind = tree.text("kind").or(item_of.map(|(_, kind)| kind)).filter(|kind| !kind.is_empty());
        let (Some(version), Some(kind)) = (version, kind) else {
            let missing = if kind.is_none() { "kind" } else { "apiVersion" };
            let message = format!(
                "the object has no {missing}, left out; write it, as in apiVersion: v1, kind: Service"
            );
            return self.findings.push(Finding::problem(path, message).at(tree.at));
        };
        if let Some(items) = list_items(tree, kind) {
            let inner = kind.strip_suffix("List").unwrap_or_default();
            return items.iter().for_each(|item| self.document(path, item, Some((version, inner))));
        }
        match Kind::of(version, kind) {
            Some(known) => self.entries.push(entry(path, tree, known)),
            None => *self.ignored.entry(format!("{version} {kind}")).or_default() += 1,
        }
    }
}

fn list_items<'t>(tree: &'t Tree, kind: &str) -> Option<&'t [Tree]> {
    if !kind.ends_with("List") {
        return None;
    }
    match &tree.get("items").map(|items| &items.value) {
        Some(Value::List(items)) => Some(items),
        Some(Value::Null) | None => Some(&[]),
        Some(_) => None,
    }
}

fn entry(path: &Path, tree: &Tree, kind: Kind) -> Entry {
    match kind {
        Kind::Service => typed_entry::<core::Service, _>(path, tree, kind, service, Object::Service),
        Kind::EndpointSlice => typed_entry::<discovery::EndpointSlice, _>(
            path,
            tree,
            kind,
            endpoint_slice,
            Object::EndpointSlice,
        ),
        Kind::Node => typed_entry::<core::Node, _>(path, tree, kind, node, Object::Node),
        Kind::ServiceCidr => {
            typed_entry::<networking::ServiceCIDR, _>(path, tree, kind, service_cidr, Object::ServiceCidr)
        }
    }
}

fn typed_entry<S: DeserializeOwned, M>(
    path: &Path,
    tree: &Tree,
    kind: Kind,
    convert: fn(&S) -> Converted<M>,
    wrap: fn(M) -> Object,
) -> Entry {
    let key = key_of(tree, kind);
    match typed::read::<S>(tree) {
        Ok(source) => {
            let converted = convert(&source);
            let findings = converted.rejected.iter().map(|rejected| {
                let message = format!("{}: {}", rejected.field, rejected.reason);
                Finding::problem(path, message).at(tree.place_of(&rejected.field)).about(key.clone())
            });
            Entry { at: tree.at, findings: findings.collect(), object: converted.object.map(wrap), key }
        }
        Err(error) => {
            let at = error.at.unwrap_or(tree.at);
            let message = format!("{error}; the object is left out until this is corrected");
            let findings = vec![Finding::problem(path, message).at(at).about(key.clone())];
            Entry { key, at: tree.at, object: None, findings }
        }
    }
}

fn key_of(tree: &Tree, kind: Kind) -> ObjectKey {
    let meta = tree.get("metadata");
    let field = |name| meta.and_then(|meta| meta.text(name)).filter(|text| !text.is_empty());
    kind.key(field("namespace").unwrap_or("default"), field("name").unwrap_or_default())
}
