//! Which kinds the server serves, and the paths to them.
//!
//! Decides what a path means. Knows the kinds that the product's manifests and its agent use.
//! Invariant: what is not in the table is not there.

use super::store::{Name, Resource};

/// A kind: API version, kind, name in paths, in a namespace or not.
type Served = (&'static str, &'static str, &'static str, bool);

const SERVED: [Served; 14] = [
    ("v1", "Service", "services", true),
    ("v1", "Node", "nodes", false),
    ("v1", "Namespace", "namespaces", false),
    ("v1", "ServiceAccount", "serviceaccounts", true),
    ("v1", "ConfigMap", "configmaps", true),
    ("v1", "Secret", "secrets", true),
    ("v1", "Event", "events", true),
    ("events.k8s.io/v1", "Event", "events", true),
    ("apps/v1", "DaemonSet", "daemonsets", true),
    ("rbac.authorization.k8s.io/v1", "ClusterRole", "clusterroles", false),
    ("rbac.authorization.k8s.io/v1", "ClusterRoleBinding", "clusterrolebindings", false),
    ("discovery.k8s.io/v1", "EndpointSlice", "endpointslices", true),
    ("networking.k8s.io/v1", "ServiceCIDR", "servicecidrs", false),
    ("scheduling.k8s.io/v1", "PriorityClass", "priorityclasses", false),
];

/// What a path leads to.
#[derive(Clone, Debug)]
pub(super) struct Target {
    pub(super) resource: Resource,
    pub(super) api_version: &'static str,
    pub(super) kind: &'static str,
    pub(super) plural: String,
    pub(super) namespace: Option<String>,
    pub(super) name: Option<String>,
}

impl Target {
    /// The object's place in the store.
    pub(super) fn key(&self, name: &str) -> Name {
        (self.namespace.clone().unwrap_or_default(), name.to_owned())
    }
}

/// The place in the store of an object that says its kind and name itself.
pub(super) fn place(api_version: &str, kind: &str, namespace: &str, name: &str) -> Option<(Resource, Name)> {
    let (version, _, plural, namespaced) =
        SERVED.iter().find(|(version, of, ..)| *version == api_version && *of == kind)?;
    let namespace = if *namespaced { namespace } else { "" };
    Some((format!("{version}/{plural}"), (namespace.to_owned(), name.to_owned())))
}

/// Reads `/api/v1/...` and `/apis/GROUP/VERSION/...`.
pub(super) fn target(path: &str) -> Option<Target> {
    let mut parts = path.split('/').filter(|part| !part.is_empty());
    let api_version = match parts.next()? {
        "api" => parts.next()?.to_owned(),
        "apis" => format!("{}/{}", parts.next()?, parts.next()?),
        _ => return None,
    };
    let rest: Vec<&str> = parts.collect();
    let (namespace, rest) = match rest.as_slice() {
        ["namespaces", namespace, rest @ ..] if !rest.is_empty() => (Some(*namespace), rest),
        rest => (None, rest),
    };
    let (plural, name) = match rest {
        [plural] => (plural, None),
        [plural, name] => (plural, Some((*name).to_owned())),
        _ => return None,
    };
    let (version, kind, _, _) =
        SERVED.iter().find(|(version, _, of, _)| *version == api_version && of == plural)?;
    Some(Target {
        resource: format!("{version}/{plural}"),
        api_version: version,
        kind,
        plural: (*plural).to_owned(),
        namespace: namespace.map(str::to_owned),
        name,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_lead_to_kinds_namespaces_and_names() {
        let slices = target("/apis/discovery.k8s.io/v1/namespaces/a/endpointslices/b").unwrap();
        assert_eq!((slices.kind, slices.key("b")), ("EndpointSlice", ("a".to_owned(), "b".to_owned())));
        assert_eq!(target("/api/v1/namespaces/a").unwrap().kind, "Namespace");
        assert_eq!(target("/api/v1/nodes").unwrap().resource, "v1/nodes");
        assert!(target("/api/v1/pods").is_none() && target("/metrics").is_none());
        let node = place("v1", "Node", "default", "n").unwrap();
        assert_eq!(node, ("v1/nodes".to_owned(), (String::new(), "n".to_owned())));
    }
}
