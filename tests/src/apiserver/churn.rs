//! An invented cluster of any size, and changes in it.
//!
//! Decides names, addresses and which slice changes next, by arithmetic alone: the same numbers give
//! the same objects. Must not know time. Invariant: every change of a slice is one to its endpoints.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Result;
use serde_json::{Value, json};

use super::ApiServer;

/// A cluster of Services, each with one slice of endpoints.
#[derive(Clone, Copy, Debug)]
pub struct Invented {
    /// How many Services.
    pub services: u32,
    /// How many endpoints each.
    pub endpoints: u32,
    /// How many nodes they are spread over.
    pub nodes: u32,
}

impl Invented {
    /// A Service. Its name and address follow from its number.
    pub fn service(&self, number: u32) -> Value {
        let [_, _, high, low] = number.to_be_bytes();
        let ip = format!("10.{}.{high}.{low}", 96 + (number >> 16));
        json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": {
                "name": name(number), "namespace": "churn", "uid": format!("uid-{number}"),
                "creationTimestamp": "2026-01-01T00:00:00Z",
            },
            "spec": {
                "type": "ClusterIP", "clusterIP": ip, "clusterIPs": [ip], "ipFamilies": ["IPv4"],
                "ipFamilyPolicy": "SingleStack", "selector": {"app": name(number)}, "sessionAffinity": "None",
                "internalTrafficPolicy": "Cluster",
                "ports": [{"name": "http", "port": 80, "protocol": "TCP", "targetPort": 8080}],
            },
            "status": {"loadBalancer": {}},
        })
    }

    /// Its slice in some generation: in each next one another endpoint has been replaced.
    pub fn slice(&self, number: u32, generation: u32) -> Value {
        let endpoints: Vec<Value> =
            (0..self.endpoints).map(|index| self.endpoint(number, index, generation)).collect();
        json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {
                "name": format!("{}-abcde", name(number)), "namespace": "churn",
                "uid": format!("slice-uid-{number}"), "generation": generation,
                "labels": {
                    "kubernetes.io/service-name": name(number),
                    "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io",
                },
                "annotations": {"endpoints.kubernetes.io/last-change-trigger-time": now()},
                "managedFields": [{"manager": "kube-controller-manager", "operation": "Update", "fieldsType": "FieldsV1",
                    "fieldsV1": {"f:addressType": {}, "f:endpoints": {}, "f:ports": {}, "f:metadata": {"f:labels": {}}}}],
            },
            "addressType": "IPv4", "endpoints": endpoints,
            "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
        })
    }

    fn endpoint(&self, number: u32, index: u32, generation: u32) -> Value {
        // An endpoint's address changes in every generation in which it is its turn.
        let turns = (generation + self.endpoints.saturating_sub(index + 1)) / self.endpoints.max(1);
        let host = number.wrapping_mul(self.endpoints).wrapping_add(index);
        let [_, a, b, c] = host.wrapping_add(turns.wrapping_mul(1_000_003)).to_be_bytes();
        let node = (number + index) % self.nodes.max(1);
        json!({
            "addresses": [format!("172.{}.{b}.{c}", 16 + a % 16)],
            "conditions": {"ready": true, "serving": true, "terminating": false},
            "nodeName": format!("node{node}"),
            "targetRef": {"kind": "Pod", "namespace": "churn", "name": format!("{}-{index}-{turns}", name(number)),
                "uid": format!("pod-{number}-{index}-{turns}")},
        })
    }

    /// Puts the whole cluster into a server, with the Node `node0`.
    pub fn hold(&self, server: &ApiServer) -> Result<()> {
        for node in 0..self.nodes {
            server.apply(json!({
                "apiVersion": "v1", "kind": "Node", "metadata": {"name": format!("node{node}")},
                "status": {"addresses": [{"type": "InternalIP", "address": format!("192.0.2.{}", node % 250 + 1)}]},
            }))?;
        }
        for number in 0..self.services {
            server.apply(self.service(number))?;
            server.apply(self.slice(number, 0))?;
        }
        Ok(())
    }
}

fn name(number: u32) -> String {
    format!("service-{number}")
}

/// The present, as the endpoint slice controller writes it (RFC 3339, UTC).
fn now() -> String {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    let (days, seconds) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
    let (year, month, day) = civil(days);
    let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{:09}Z", since.subsec_nanos())
}

/// Year, month and day of a day since 1970, by the Gregorian calendar.
fn civil(mut days: u64) -> (u64, u64, u64) {
    let leap = |year: u64| year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let mut year = 1970;
    while days >= 365 + u64::from(leap(year)) {
        days -= 365 + u64::from(leap(year));
        year += 1;
    }
    let mut lengths = [31, 28 + u64::from(leap(year)), 31, 30, 31, 30, 31, 31, 30, 31, 30, 31].into_iter();
    let mut month = 1;
    while let Some(length) = lengths.next()
        && days >= length
    {
        days -= length;
        month += 1;
    }
    (year, month, days + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_have_their_dates() {
        assert_eq!(civil(0), (1970, 1, 1));
        assert_eq!(civil(11_016), (2000, 2, 29));
        assert_eq!(civil(20_513), (2026, 3, 1));
    }

    #[test]
    fn each_generation_replaces_one_endpoint() {
        let cluster = Invented { services: 2, endpoints: 3, nodes: 2 };
        let addresses = |generation| cluster.slice(1, generation)["endpoints"].clone();
        for generation in 0..7 {
            let (old, new) = (addresses(generation), addresses(generation + 1));
            let differs = (0..3).filter(|&index| old[index]["addresses"] != new[index]["addresses"]);
            assert_eq!(differs.count(), 1, "generation {generation}");
        }
    }
}
