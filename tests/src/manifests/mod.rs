//! A folder of manifests, written as an administrator or a script would.
//!
//! Decides file names and how a change reaches the folder; must not know what the agent makes of
//! it. Invariant: a file appears whole or not at all (written aside, then renamed), and only files
//! whose content changed are touched. What is written aside ends in `.tmp`, which no agent reads.
//!
//! ```no_run
//! use lb_tests::manifests::{Endpoint, Family, Manifests, Protocol};
//!
//! # fn main() -> anyhow::Result<()> {
//! let mut manifests = Manifests::new()?;
//! manifests
//!     .service("web", |service| {
//!         service.cluster_ips(&["10.96.0.10", "fd00:10:96::10"]).port("http", 80, Protocol::Tcp);
//!     })
//!     .endpoints("web", Family::V4, &[Endpoint::at("10.244.1.2").on("node1")], &[("http", 8080, Protocol::Tcp)])
//!     .node("node1", &["10.199.0.1", "fd00:199::1"]);
//! manifests.write()?;
//! # Ok(())
//! # }
//! ```

mod endpoint;
mod service;

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::{Value, json};
use tempfile::TempDir;

pub use self::endpoint::{Endpoint, Family};
pub use self::service::{Protocol, Service};
use crate::lab::{Node, Pod};

/// A port of a slice: name, number, protocol.
pub type SlicePort<'a> = (&'a str, u16, Protocol);

/// The namespace of all objects that are given none.
const NAMESPACE: &str = "default";

/// Objects and the folder they are written to. The folder goes with the value.
#[derive(Debug)]
pub struct Manifests {
    folder: TempDir,
    /// What the folder is to hold: file name to content.
    wanted: BTreeMap<String, String>,
    /// What it holds.
    written: BTreeMap<String, String>,
    /// Services so far; creation times follow their order.
    services: BTreeMap<String, u64>,
}

impl Manifests {
    /// Makes an empty folder.
    pub fn new() -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("switchboard-manifests-").tempdir();
        Ok(Self {
            folder: folder.context("make a folder for manifests")?,
            wanted: BTreeMap::new(),
            written: BTreeMap::new(),
            services: BTreeMap::new(),
        })
    }

    /// The folder, for `--path`.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Adds or replaces Service `name` of namespace `default`. A Service that was added earlier was
    /// created earlier (by a second) than one that was added later.
    pub fn service(&mut self, name: &str, describe: impl FnOnce(&mut Service)) -> &mut Self {
        let next = self.services.len() as u64;
        let age = *self.services.entry(name.to_owned()).or_insert(next);
        let mut service = Service::new(NAMESPACE, name, age);
        describe(&mut service);
        self.object(&format!("service-{name}.json"), service.object())
    }

    /// Adds or replaces the slice of one family of Service `name`, and its ports.
    pub fn endpoints(
        &mut self,
        name: &str,
        family: Family,
        endpoints: &[Endpoint],
        ports: &[SlicePort<'_>],
    ) -> &mut Self {
        let slice = format!("{name}-{}", family.word().to_lowercase());
        self.object(
            &format!("endpointslice-{slice}.json"),
            &json!({
                "apiVersion": "discovery.k8s.io/v1",
                "kind": "EndpointSlice",
                "metadata": {
                    "name": slice,
                    "namespace": NAMESPACE,
                    "labels": { "kubernetes.io/service-name": name },
                },
                "addressType": family.word(),
                "endpoints": endpoints.iter().map(Endpoint::object).collect::<Vec<_>>(),
                "ports": ports.iter().map(|(name, port, protocol)| {
                    json!({ "name": name, "port": port, "protocol": protocol.word() })
                }).collect::<Vec<_>>(),
            }),
        )
    }

    /// Adds or replaces both slices of Service `name`: these pods, all ready.
    pub fn pods(&mut self, name: &str, pods: &[&Pod], ports: &[SlicePort<'_>]) -> &mut Self {
        let of = |family: Family| -> Vec<Endpoint> {
            let address = |pod: &Pod| match family {
                Family::V4 => pod.v4.to_string(),
                Family::V6 => pod.v6.to_string(),
            };
            pods.iter().map(|pod| Endpoint::at(&address(pod)).on(&pod.node)).collect()
        };
        self.endpoints(name, Family::V4, &of(Family::V4), ports).endpoints(
            name,
            Family::V6,
            &of(Family::V6),
            ports,
        )
    }

    /// Adds or replaces a Node with these InternalIPs.
    pub fn node(&mut self, name: &str, addresses: &[&str]) -> &mut Self {
        let addresses: Vec<Value> =
            addresses.iter().map(|address| json!({ "type": "InternalIP", "address": address })).collect();
        self.object(
            &format!("node-{name}.json"),
            &json!({
                "apiVersion": "v1",
                "kind": "Node",
                "metadata": { "name": name, "labels": { "kubernetes.io/hostname": name } },
                "status": { "addresses": addresses },
            }),
        )
    }

    /// Adds or replaces the Node object of a node of the lab.
    pub fn lab_node(&mut self, node: &Node) -> &mut Self {
        self.node(&node.name, &[&node.v4.to_string(), &node.v6.to_string()])
    }

    /// Adds or replaces a file with any object.
    pub fn object(&mut self, file: &str, object: &Value) -> &mut Self {
        self.raw(file, &format!("{object:#}\n"))
    }

    /// All objects, written or not, for who reads no folder.
    ///
    /// # Panics
    /// When a file was given as text that is not one JSON object.
    pub fn objects(&self) -> Vec<Value> {
        let object = |(file, text): (&String, &String)| {
            serde_json::from_str(text).unwrap_or_else(|error| panic!("{file} holds no JSON object: {error}"))
        };
        self.wanted.iter().map(object).collect()
    }

    /// Adds or replaces a file with any text: YAML, lists, or what must not parse.
    pub fn raw(&mut self, file: &str, text: &str) -> &mut Self {
        self.wanted.insert(file.to_owned(), text.to_owned());
        self
    }

    /// Removes Service `name` and its slices.
    pub fn remove_service(&mut self, name: &str) -> &mut Self {
        self.services.remove(name);
        for file in ["service-{}.json", "endpointslice-{}-ipv4.json", "endpointslice-{}-ipv6.json"] {
            self.wanted.remove(&file.replace("{}", name));
        }
        self
    }

    /// Removes a file by its name.
    pub fn remove(&mut self, file: &str) -> &mut Self {
        self.wanted.remove(file);
        self
    }

    /// Brings the folder to what was described: changed files one by one by rename, then removals.
    pub fn write(&mut self) -> Result<()> {
        let folder = self.folder.path();
        fs::create_dir_all(folder).with_context(|| format!("make {}", folder.display()))?;
        for (name, text) in self.wanted.iter().filter(|(name, text)| self.written.get(*name) != Some(*text)) {
            let (aside, path) = (folder.join(format!(".{name}.tmp")), folder.join(name));
            fs::write(&aside, text).with_context(|| format!("write {}", aside.display()))?;
            fs::rename(&aside, &path).with_context(|| format!("rename to {}", path.display()))?;
        }
        for name in self.written.keys().filter(|name| !self.wanted.contains_key(*name)) {
            let path = folder.join(name);
            match fs::remove_file(&path) {
                Err(error) if error.kind() != ErrorKind::NotFound => {
                    return Err(error).with_context(|| format!("remove {}", path.display()));
                }
                _ => {}
            }
        }
        self.written.clone_from(&self.wanted);
        Ok(())
    }

    /// Deletes the whole folder under the reader's eyes; the next [`Manifests::write`] makes it anew.
    pub fn delete_folder(&mut self) -> Result<()> {
        let folder = self.folder.path();
        fs::remove_dir_all(folder).with_context(|| format!("delete {}", folder.display()))?;
        self.written.clear();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(manifests: &Manifests, file: &str) -> Value {
        serde_json::from_str(&fs::read_to_string(manifests.path().join(file)).unwrap()).unwrap()
    }

    fn files(manifests: &Manifests) -> Vec<String> {
        let entries = fs::read_dir(manifests.path()).unwrap();
        let mut names: Vec<String> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn objects_have_the_shape_that_the_api_gives_them() {
        let mut manifests = Manifests::new().unwrap();
        manifests
            .service("web", |service| {
                service
                    .cluster_ips(&["10.96.0.10", "fd00:10:96::10"])
                    .port("http", 80, Protocol::Tcp)
                    .set("/spec/sessionAffinity", json!("ClientIP"));
            })
            .endpoints(
                "web",
                Family::V4,
                &[Endpoint::at("10.244.1.2").on("node1"), Endpoint::at("10.244.1.3").terminating()],
                &[("http", 8080, Protocol::Tcp)],
            )
            .node("node1", &["10.199.0.1"]);
        manifests.write().unwrap();

        let service = read(&manifests, "service-web.json");
        assert_eq!(service["spec"]["clusterIPs"], json!(["10.96.0.10", "fd00:10:96::10"]));
        assert_eq!(service["spec"]["clusterIP"], "10.96.0.10");
        assert_eq!(service["spec"]["ipFamilies"], json!(["IPv4", "IPv6"]));
        assert_eq!(service["spec"]["ports"], json!([{ "name": "http", "port": 80, "protocol": "TCP" }]));
        assert_eq!(service["spec"]["sessionAffinity"], "ClientIP");
        let slice = read(&manifests, "endpointslice-web-ipv4.json");
        assert_eq!(slice["addressType"], "IPv4");
        assert_eq!(
            slice["endpoints"],
            json!([
                { "addresses": ["10.244.1.2"], "nodeName": "node1",
                  "conditions": { "ready": true, "serving": true, "terminating": false } },
                { "addresses": ["10.244.1.3"],
                  "conditions": { "ready": false, "serving": true, "terminating": true } },
            ])
        );
        assert_eq!(read(&manifests, "node-node1.json")["status"]["addresses"][0]["address"], "10.199.0.1");
    }

    #[test]
    fn only_what_changed_is_written_and_what_was_removed_goes() {
        let mut manifests = Manifests::new().unwrap();
        manifests.raw("a.yaml", "a").raw("b.yaml", "b").write().unwrap();
        assert_eq!(files(&manifests), ["a.yaml", "b.yaml"]);
        fs::write(manifests.path().join("a.yaml"), "touched by somebody else").unwrap();
        manifests.raw("a.yaml", "a").remove("b.yaml").write().unwrap();
        assert_eq!(files(&manifests), ["a.yaml"]);
        assert!(fs::read_to_string(manifests.path().join("a.yaml")).unwrap().starts_with("touched"));
        manifests.delete_folder().unwrap();
        assert!(!manifests.path().exists());
        manifests.write().unwrap();
        assert_eq!(files(&manifests), ["a.yaml"]);
    }
}
