//! Tier 0: the API server's side of the agent, with the real client over real TCP, and maps in memory.

mod events;
mod faults;
mod first;
mod follower;
mod kept;
mod replay;

use std::net::TcpListener;

use lb_tests::apiserver::{ApiServer, Invented, Settings};
use serde_json::{Value, json};

/// The node that the tests are on.
const NODE: &str = "node0";
/// A few Services, each with a few endpoints.
const CLUSTER: Invented = Invented { services: 12, endpoints: 3, nodes: 2 };

/// A server that is faster with bookmarks than a real one.
fn server() -> ApiServer {
    let settings = Settings { bookmark_every: follower::BOOKMARKS, ..Settings::default() };
    ApiServer::start_on(TcpListener::bind("127.0.0.1:0").unwrap(), settings).unwrap()
}

/// The same, with a cluster in it.
fn with_cluster() -> ApiServer {
    let server = server();
    CLUSTER.hold(&server).unwrap();
    kubernetes(&server, &["192.0.2.250"]);
    server
}

/// The API server's own Service, as it writes it itself.
fn kubernetes(server: &ApiServer, endpoints: &[&str]) {
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "kubernetes", "namespace": "default"},
        "spec": {"clusterIP": "10.96.255.1", "clusterIPs": ["10.96.255.1"], "ports": [{"name": "https", "port": 443}]},
    });
    if !server.objects("v1/services").iter().any(|object| object["metadata"]["name"] == "kubernetes") {
        server.apply(service).unwrap();
    }
    server.apply(kubernetes_slice(endpoints)).unwrap();
}

fn kubernetes_slice(endpoints: &[&str]) -> Value {
    let endpoints: Vec<Value> =
        endpoints.iter().map(|ip| json!({"addresses": [ip], "conditions": {"ready": true}})).collect();
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {
            "name": "kubernetes", "namespace": "default", "labels": {"kubernetes.io/service-name": "kubernetes"},
        },
        "addressType": "IPv4", "endpoints": endpoints, "ports": [{"name": "https", "port": 6443}],
    })
}
