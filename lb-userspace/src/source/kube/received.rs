//! An object as the API server sends it, and what is read of it.
//!
//! Decides which parts of an object are read at all: managed fields, annotations, a Node's images and
//! conditions are passed over without being stored. Must not know how objects arrive. Invariant: an
//! object of an unexpected shape costs itself only, not the list or stream that it is in.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::marker::PhantomData;

use k8s_openapi::api::core::v1::{
    Node, NodeAddress, NodeSpec, NodeStatus, Service, ServiceSpec, ServiceStatus,
};
use k8s_openapi::api::discovery::v1::{
    Endpoint, EndpointConditions, EndpointHints, EndpointPort, EndpointSlice,
};
use k8s_openapi::api::networking::v1::{ServiceCIDR, ServiceCIDRSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use crate::model::{Kind, Object, ObjectKey};
use crate::source::kubernetes::{self, Converted, TRIGGER_TIME};
use crate::source::{FieldPath, Rejected};

/// A kind of objects that is watched.
pub(super) trait Watched:
    k8s_openapi::Resource<Scope: Sync> + Clone + Debug + Send + Sync + 'static
{
    /// The kind.
    const WHICH: Kind;
    /// What is read of such an object.
    type Slim: DeserializeOwned;
    /// Its metadata, and what it is to the model.
    fn convert(slim: Self::Slim) -> (ObjectMeta, Converted<Object>);
}

/// An object as it was received, turned into the model's already.
pub(super) struct Received<K> {
    /// Name, namespace and version, for the watcher.
    meta: ObjectMeta,
    /// Which object it is.
    pub(super) key: ObjectKey,
    /// What could be used of it.
    pub(super) converted: Converted<Object>,
    kind: PhantomData<fn() -> K>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Meta {
    name: Option<String>,
    namespace: Option<String>,
    resource_version: Option<String>,
    creation_timestamp: Option<Time>,
    deletion_timestamp: Option<Time>,
    labels: Option<BTreeMap<String, String>>,
    annotations: Option<Annotations>,
}

/// Annotations can be as large as the object; this one is read.
#[derive(Deserialize)]
struct Annotations {
    #[serde(rename = "endpoints.kubernetes.io/last-change-trigger-time")]
    trigger_time: Option<String>,
}

/// An object of which nothing but the metadata can be read.
#[derive(Deserialize)]
struct MetaOnly {
    metadata: Meta,
}

#[derive(Deserialize)]
pub(super) struct SlimService {
    metadata: Meta,
    spec: Option<ServiceSpec>,
    status: Option<ServiceStatus>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct SlimSlice {
    metadata: Meta,
    #[serde(default)]
    address_type: String,
    endpoints: Option<Vec<SlimEndpoint>>,
    ports: Option<Vec<EndpointPort>>,
}

/// Most of an endpoint's text says which pod it is, which is of no concern.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct SlimEndpoint {
    addresses: Option<Vec<String>>,
    conditions: Option<EndpointConditions>,
    hints: Option<EndpointHints>,
    node_name: Option<String>,
}

#[derive(Deserialize)]
pub(super) struct SlimNode {
    metadata: Meta,
    spec: Option<NodeSpec>,
    status: Option<SlimNodeStatus>,
}

#[derive(Deserialize)]
struct SlimNodeStatus {
    addresses: Option<Vec<NodeAddress>>,
}

#[derive(Deserialize)]
pub(super) struct SlimServiceCidr {
    metadata: Meta,
    spec: Option<ServiceCIDRSpec>,
}

impl Watched for Service {
    const WHICH: Kind = Kind::Service;
    type Slim = SlimService;

    fn convert(slim: SlimService) -> (ObjectMeta, Converted<Object>) {
        let source = Self { metadata: slim.metadata.into(), spec: slim.spec, status: slim.status };
        let converted = wrap(kubernetes::service(&source), Object::Service);
        (source.metadata, converted)
    }
}

impl Watched for EndpointSlice {
    const WHICH: Kind = Kind::EndpointSlice;
    type Slim = SlimSlice;

    fn convert(slim: SlimSlice) -> (ObjectMeta, Converted<Object>) {
        let source = Self {
            metadata: slim.metadata.into(),
            address_type: slim.address_type,
            endpoints: slim.endpoints.map(|endpoints| endpoints.into_iter().map(Endpoint::from).collect()),
            ports: slim.ports,
        };
        let converted = wrap(kubernetes::endpoint_slice(&source), Object::EndpointSlice);
        (source.metadata, converted)
    }
}

impl Watched for Node {
    const WHICH: Kind = Kind::Node;
    type Slim = SlimNode;

    fn convert(slim: SlimNode) -> (ObjectMeta, Converted<Object>) {
        let addresses = slim.status.and_then(|status| status.addresses);
        let status = Some(NodeStatus { addresses, ..NodeStatus::default() });
        let source = Self { metadata: slim.metadata.into(), spec: slim.spec, status };
        let converted = wrap(kubernetes::node(&source), Object::Node);
        (source.metadata, converted)
    }
}

impl Watched for ServiceCIDR {
    const WHICH: Kind = Kind::ServiceCidr;
    type Slim = SlimServiceCidr;

    fn convert(slim: SlimServiceCidr) -> (ObjectMeta, Converted<Object>) {
        let source = Self { metadata: slim.metadata.into(), spec: slim.spec, status: None };
        let converted = wrap(kubernetes::service_cidr(&source), Object::ServiceCidr);
        (source.metadata, converted)
    }
}

fn wrap<T>(converted: Converted<T>, wrap: fn(T) -> Object) -> Converted<Object> {
    Converted { object: converted.object.map(wrap), rejected: converted.rejected }
}

impl From<SlimEndpoint> for Endpoint {
    fn from(slim: SlimEndpoint) -> Self {
        let SlimEndpoint { addresses, conditions, hints, node_name } = slim;
        Self { addresses: addresses.unwrap_or_default(), conditions, hints, node_name, ..Self::default() }
    }
}

impl From<Meta> for ObjectMeta {
    fn from(meta: Meta) -> Self {
        let trigger_time = meta.annotations.and_then(|annotations| annotations.trigger_time);
        Self {
            name: meta.name,
            namespace: meta.namespace,
            resource_version: meta.resource_version,
            creation_timestamp: meta.creation_timestamp,
            deletion_timestamp: meta.deletion_timestamp,
            labels: meta.labels,
            annotations: trigger_time.map(|time| [(TRIGGER_TIME.to_owned(), time)].into()),
            ..Self::default()
        }
    }
}

impl<'de, K: Watched> Deserialize<'de> for Received<K> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Box::<RawValue>::deserialize(deserializer)?;
        let key = |meta: &ObjectMeta| {
            let namespace = meta.namespace.as_deref().unwrap_or("default");
            K::WHICH.key(namespace, meta.name.as_deref().unwrap_or_default())
        };
        let (meta, converted) = match serde_json::from_str::<K::Slim>(text.get()) {
            Ok(slim) => K::convert(slim),
            Err(error) => {
                let only: MetaOnly = serde_json::from_str(text.get()).map_err(serde::de::Error::custom)?;
                let meta = ObjectMeta::from(only.metadata);
                let reason = format!("{error}; what it last was stays in force until this is corrected");
                let rejected = Rejected { object: key(&meta), field: FieldPath::default(), reason };
                (meta, Converted { object: None, rejected: vec![rejected] })
            }
        };
        let key = key(&meta);
        let ObjectMeta { name, namespace, resource_version, .. } = meta;
        let meta = ObjectMeta { name, namespace, resource_version, ..ObjectMeta::default() };
        Ok(Self { meta, key, converted, kind: PhantomData })
    }
}

impl<K: Watched> kube::Resource for Received<K> {
    type DynamicType = ();
    type Scope = K::Scope;

    fn kind((): &()) -> std::borrow::Cow<'_, str> {
        <K as k8s_openapi::Resource>::KIND.into()
    }

    fn group((): &()) -> std::borrow::Cow<'_, str> {
        K::GROUP.into()
    }

    fn version((): &()) -> std::borrow::Cow<'_, str> {
        K::VERSION.into()
    }

    fn plural((): &()) -> std::borrow::Cow<'_, str> {
        K::URL_PATH_SEGMENT.into()
    }

    fn meta(&self) -> &ObjectMeta {
        &self.meta
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.meta
    }
}

// By hand: a derive would ask the same of `K`, which is a mere tag here.
impl<K> Clone for Received<K> {
    fn clone(&self) -> Self {
        Self {
            meta: self.meta.clone(),
            key: self.key.clone(),
            converted: self.converted.clone(),
            kind: PhantomData,
        }
    }
}

impl<K> Debug for Received<K> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Received").field("key", &self.key).finish_non_exhaustive()
    }
}
