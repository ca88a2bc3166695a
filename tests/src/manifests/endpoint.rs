//! An endpoint of an EndpointSlice, described.
//!
//! Decides which conditions go together; must not judge addresses, since tests write wrong ones too.

use serde_json::{Map, Value, json};

/// Address family of a slice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// As the API spells it.
    pub fn word(self) -> &'static str {
        match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        }
    }

    /// The family that an address looks like.
    pub fn of(address: &str) -> Self {
        if address.contains(':') { Self::V6 } else { Self::V4 }
    }
}

/// An endpoint under description. Ready unless told.
#[derive(Clone, Debug)]
pub struct Endpoint {
    fields: Map<String, Value>,
}

impl Endpoint {
    /// A ready endpoint at this address, which is written as it is.
    pub fn at(address: &str) -> Self {
        let mut fields = Map::new();
        fields.insert("addresses".to_owned(), json!([address]));
        Self { fields }.conditions(json!({ "ready": true, "serving": true, "terminating": false }))
    }

    /// On this node.
    pub fn on(self, node: &str) -> Self {
        self.with("nodeName", json!(node))
    }

    /// Neither ready nor serving.
    pub fn not_ready(self) -> Self {
        self.conditions(json!({ "ready": false, "serving": false, "terminating": false }))
    }

    /// On its way out, and still serving.
    pub fn terminating(self) -> Self {
        self.conditions(json!({ "ready": false, "serving": true, "terminating": true }))
    }

    /// On its way out, and serving no more.
    pub fn terminating_not_serving(self) -> Self {
        self.conditions(json!({ "ready": false, "serving": false, "terminating": true }))
    }

    /// These conditions, e.g. none at all.
    pub fn conditions(self, conditions: Value) -> Self {
        self.with("conditions", conditions)
    }

    /// In this zone.
    pub fn zone(self, zone: &str) -> Self {
        self.with("zone", json!(zone))
    }

    /// For these zones.
    pub fn for_zones(self, zones: &[&str]) -> Self {
        let zones: Vec<Value> = zones.iter().map(|zone| json!({ "name": zone })).collect();
        self.with("hints", json!({ "forZones": zones }))
    }

    /// For these nodes.
    pub fn for_nodes(self, nodes: &[&str]) -> Self {
        let nodes: Vec<Value> = nodes.iter().map(|node| json!({ "name": node })).collect();
        self.with("hints", json!({ "forNodes": nodes }))
    }

    fn with(mut self, field: &str, value: Value) -> Self {
        self.fields.insert(field.to_owned(), value);
        self
    }

    pub(super) fn object(&self) -> Value {
        Value::Object(self.fields.clone())
    }
}
