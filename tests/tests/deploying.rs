//! The manifests in `deploy/`, applied by requests as `kubectl` makes them, to a server that accepts and stores them.
//!
//! What is stored is held against Kubernetes' types, and the configuration among it is given to the real agent.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{ConfigMap, ServiceAccount};
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding};
use lb_tests::agent::binary;
use lb_tests::apiserver::ApiServer;
use serde_json::Value;

fn deploy() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy")
}

fn documents(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_saphyr::from_multiple(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The base with an overlay's configuration in the place of its own, in the order of the kustomization.
fn objects(overlay: &str) -> Vec<Value> {
    let base = deploy().join("kustomize/base");
    let kustomization = documents(&base.join("kustomization.yaml")).remove(0);
    let files = kustomization["resources"].as_array().unwrap();
    let mut objects: Vec<Value> =
        files.iter().flat_map(|file| documents(&base.join(file.as_str().unwrap()))).collect();
    for object in &mut objects {
        let cluster_wide = object["kind"].as_str().unwrap().starts_with("ClusterRole");
        if !cluster_wide {
            object["metadata"]["namespace"] = "kube-system".into();
        }
        if object["kind"] == "ConfigMap" {
            let patch =
                documents(&deploy().join(format!("kustomize/overlays/{overlay}/config.yaml"))).remove(0);
            object["data"] = patch["data"].clone();
        }
    }
    objects
}

/// The path of a kind's collection.
fn collection(object: &Value) -> String {
    let (version, kind) = (object["apiVersion"].as_str().unwrap(), object["kind"].as_str().unwrap());
    let root = if version == "v1" { "/api/v1".to_owned() } else { format!("/apis/{version}") };
    let plural = format!("{}s", kind.to_lowercase());
    match object["metadata"]["namespace"].as_str() {
        Some(namespace) => format!("{root}/namespaces/{namespace}/{plural}"),
        None => format!("{root}/{plural}"),
    }
}

/// Status and body of a request.
fn ask(server: &ApiServer, method: &str, path: &str, kind: &str, body: &str) -> (u16, Value) {
    let address = server.url().trim_start_matches("http://").to_owned();
    let mut stream = TcpStream::connect(&address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\nAccept: application/json\r\n\
         Content-Type: {kind}\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let status = text.split(' ').nth(1).unwrap().parse().unwrap();
    let body = text.split_once("\r\n\r\n").unwrap().1;
    (status, serde_json::from_str(body).unwrap_or_else(|error| panic!("{error}: {text}")))
}

/// What is stored is of the type, without a field lost.
fn check_type(stored: &Value) {
    fn same<T: serde::de::DeserializeOwned + serde::Serialize>(stored: &Value) {
        let typed: T =
            serde_json::from_value(stored.clone()).unwrap_or_else(|error| panic!("{error}: {stored:#}"));
        let understood = serde_json::to_value(&typed).unwrap();
        for part in ["spec", "data", "rules", "subjects", "roleRef"] {
            let keys = |value: &Value| {
                value[part].as_object().map(|fields| fields.keys().cloned().collect::<Vec<_>>())
            };
            assert_eq!(keys(&understood), keys(stored), "{part}");
        }
    }
    match stored["kind"].as_str().unwrap() {
        "ServiceAccount" => same::<ServiceAccount>(stored),
        "ConfigMap" => same::<ConfigMap>(stored),
        "ClusterRole" => same::<ClusterRole>(stored),
        "ClusterRoleBinding" => same::<ClusterRoleBinding>(stored),
        "DaemonSet" => same::<DaemonSet>(stored),
        other => panic!("a {other} is not expected"),
    }
}

/// The agent takes the configuration that a ConfigMap holds.
fn check_configuration(stored: &Value) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("config.yaml");
    std::fs::write(&file, stored["data"]["config.yaml"].as_str().unwrap()).unwrap();
    let output = Command::new(binary())
        .args(["run", "--dry-run", "--node", "n", "--config"])
        .arg(&file)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let effective = String::from_utf8(output.stdout).unwrap();
    assert!(
        effective.contains("apiserver: https://") || effective.contains("apiserver: \"https://"),
        "{effective}"
    );
}

#[test]
fn what_kubectl_creates_and_applies_is_accepted_and_stored_as_it_was_sent() {
    for overlay in ["kind", "k3s"] {
        let server = ApiServer::start().unwrap();
        let objects = objects(overlay);
        assert_eq!(objects.len(), 5);
        for object in &objects {
            let (collection, name) = (collection(object), object["metadata"]["name"].as_str().unwrap());
            let created = format!("{collection}?fieldManager=kubectl-create&fieldValidation=Strict");
            let (status, answer) = ask(&server, "POST", &created, "application/json", &object.to_string());
            assert_eq!(status, 201, "{answer:#}");
            let (status, _) = ask(&server, "POST", &created, "application/json", &object.to_string());
            assert_eq!(status, 409, "it is there already");

            let applied =
                format!("{collection}/{name}?fieldManager=kubectl&fieldValidation=Strict&force=false");
            let yaml = serde_saphyr::to_string(object).unwrap();
            let (status, answer) = ask(&server, "PATCH", &applied, "application/apply-patch+yaml", &yaml);
            assert_eq!(status, 200, "{answer:#}");

            let (status, stored) =
                ask(&server, "GET", &format!("{collection}/{name}"), "application/json", "");
            assert_eq!(status, 200);
            for (part, sent) in object.as_object().unwrap().iter().filter(|(part, _)| *part != "metadata") {
                assert_eq!(&stored[part], sent, "{part} of {name}");
            }
            check_type(&stored);
            if stored["kind"] == "ConfigMap" {
                check_configuration(&stored);
            }
        }
    }
}

#[test]
fn an_empty_cluster_takes_everything_by_applying_alone() {
    let server = ApiServer::start().unwrap();
    for object in objects("kind") {
        let name = object["metadata"]["name"].as_str().unwrap().to_owned();
        let path =
            format!("{}/{name}?fieldManager=kubectl&fieldValidation=Strict&force=false", collection(&object));
        let yaml = serde_saphyr::to_string(&object).unwrap();
        let (status, answer) = ask(&server, "PATCH", &path, "application/apply-patch+yaml", &yaml);
        assert_eq!(status, 201, "{answer:#}");
    }
    assert_eq!(server.objects("apps/v1/daemonsets").len(), 1);
}
