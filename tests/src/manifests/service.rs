//! A Service object, described.
//!
//! Decides which fields the API server would have filled in; must not judge whether they make sense.

use serde_json::{Value, json};

use super::endpoint::Family;

/// Protocol of a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

impl Protocol {
    /// As the API spells it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
            Self::Sctp => "SCTP",
        }
    }
}

/// A Service under description. Of type ClusterIP unless [`Service::set`] says otherwise.
#[derive(Clone, Debug)]
pub struct Service {
    object: Value,
}

impl Service {
    /// `age`: how many Services were created before it; a second each.
    pub(super) fn new(namespace: &str, name: &str, age: u64) -> Self {
        let (hours, minutes, seconds) = (age / 3600, age / 60 % 60, age % 60);
        Self {
            object: json!({
                "apiVersion": "v1",
                "kind": "Service",
                "metadata": {
                    "name": name,
                    "namespace": namespace,
                    "creationTimestamp": format!("2026-01-01T{hours:02}:{minutes:02}:{seconds:02}Z"),
                },
                "spec": { "type": "ClusterIP", "ports": [], "sessionAffinity": "None" },
            }),
        }
    }

    /// Its cluster addresses, the primary one first.
    pub fn cluster_ips(&mut self, addresses: &[&str]) -> &mut Self {
        let families: Vec<&str> = addresses.iter().map(|address| Family::of(address).word()).collect();
        self.set("/spec/clusterIP", json!(addresses.first()))
            .set("/spec/clusterIPs", json!(addresses))
            .set("/spec/ipFamilies", json!(families))
    }

    /// Adds a port. An empty name is left out, as a Service with one port may.
    pub fn port(&mut self, name: &str, port: u16, protocol: Protocol) -> &mut Self {
        let mut entry = json!({ "port": port, "protocol": protocol.word() });
        if let (false, Some(fields)) = (name.is_empty(), entry.as_object_mut()) {
            fields.insert("name".to_owned(), json!(name));
        }
        if let Some(ports) = self.object.pointer_mut("/spec/ports").and_then(Value::as_array_mut) {
            ports.push(entry);
        }
        self
    }

    /// Adds a label.
    pub fn label(&mut self, key: &str, value: &str) -> &mut Self {
        if let Some(metadata) = self.object["metadata"].as_object_mut() {
            metadata.entry("labels").or_insert_with(|| json!({}))[key] = json!(value);
        }
        self
    }

    /// Sets any field by its path, e.g. `/spec/sessionAffinity` or `/spec/ports/0/nodePort`; missing
    /// objects on the way are made.
    ///
    /// # Panics
    /// When the path leads through a list's missing element, or through a text.
    pub fn set(&mut self, path: &str, value: Value) -> &mut Self {
        let mut place = &mut self.object;
        for word in path.split('/').skip(1) {
            place = match (&*place, word.parse::<usize>()) {
                (Value::Array(_), Ok(index)) => &mut place[index],
                _ => &mut place[word],
            };
        }
        *place = value;
        self
    }

    pub(super) fn object(&self) -> &Value {
        &self.object
    }
}
