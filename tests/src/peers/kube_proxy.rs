//! The real kube-proxy, if somebody has one: started on a node of the lab, at an API server of the tests.
//!
//! Decides its configuration and when it is ready. Must not know what it is compared with. Invariant: it runs in the
//! node's network namespace, changes no setting that other namespaces share, and ends when its value is dropped.

use std::ffi::OsString;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::lab::Node;
use crate::{http, poll};

/// Where it says how it is, as it does unless told otherwise.
const HEALTH: &str = "127.0.0.1:10256";
const METRICS: &str = "127.0.0.1:10249";
const ASK: Duration = Duration::from_secs(2);
/// Lines of its log that an error shows.
const TAIL: usize = 10;

/// How it brings Services about (`--proxy-mode`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// By the tables that [`super::Peer::Nftables`] imitates.
    Nftables,
    /// By those that [`super::Peer::IptablesNft`] and [`super::Peer::IptablesLegacy`] do.
    Iptables,
}

impl Mode {
    /// Its word in kube-proxy's configuration.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Nftables => "nftables",
            Self::Iptables => "iptables",
        }
    }
}

/// A running kube-proxy. Killed when dropped.
#[derive(Debug)]
pub struct KubeProxy {
    child: Child,
    node: Node,
    log: PathBuf,
    /// Its configuration and its log.
    _folder: TempDir,
}

impl KubeProxy {
    /// Starts `program` on a node, at the API server of that URL; `pods` is the range of the cluster's pods.
    ///
    /// # Errors
    /// Where it cannot be started.
    pub fn start(program: &Path, mode: Mode, node: &Node, url: &str, pods: &str) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("switchboard-kube-proxy-").tempdir()?;
        let put = |name: &str, value: &Value| -> Result<PathBuf> {
            let path = folder.path().join(name);
            fs::write(&path, value.to_string()).with_context(|| format!("writing {}", path.display()))?;
            Ok(path)
        };
        let access = put("kubeconfig", &kubeconfig(url))?;
        let config = put("config", &configuration(mode, &node.name, &access, pods))?;
        let log = folder.path().join("log");
        let output = File::create(&log).with_context(|| format!("making {}", log.display()))?;
        let mut command: Command = node.netns.command(program);
        command.args(arguments(&config)).stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
        // Neither a person's kubeconfig nor the pod that the tests may run in is of concern.
        command.env_remove("KUBECONFIG").env_remove("KUBERNETES_SERVICE_HOST");
        let child = command.spawn().with_context(|| format!("starting {}", program.display()))?;
        Ok(Self { child, node: node.clone(), log, _folder: folder })
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits until it says that it is healthy and `works` finds that its rules are in force. It calls itself healthy
    /// before its first rules, so that alone would not do.
    ///
    /// # Errors
    /// Where it ends, or is not ready in time; with the last lines of its log.
    pub fn wait_until_synced(
        &mut self,
        limit: Duration,
        mut works: impl FnMut() -> Result<(), String>,
    ) -> Result<()> {
        let health = HEALTH.parse().context("an address")?;
        let synced = poll::until("kube-proxy to be in sync", limit, || {
            if let Ok(Some(status)) = self.child.try_wait() {
                return Ok(Err(format!("it ended ({status})")));
            }
            let answer = http::get(&self.node.netns, health, "/healthz", ASK);
            let answer = answer.map_err(|error| format!("{error:#}"))?;
            if answer.status != 200 {
                return Err(format!("its health is {}: {}", answer.status, answer.body.trim()));
            }
            works().map(Ok)
        });
        let synced = synced.and_then(|ended| ended.map_err(anyhow::Error::msg));
        synced.with_context(|| format!("waiting for kube-proxy, whose log ends:{}", self.tail()))
    }

    fn tail(&self) -> String {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(TAIL)..]
            .iter()
            .fold(String::new(), |tail, line| tail + "\n  " + line)
    }
}

impl Drop for KubeProxy {
    fn drop(&mut self) {
        // What it runs at the moment (nft, iptables-restore) ends with its namespace; it may have ended itself.
        if let Ok(pid) = i32::try_from(self.child.id())
            && matches!(self.child.try_wait(), Ok(None))
        {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        let _ = self.child.wait();
    }
}

/// Its command line.
fn arguments(config: &Path) -> Vec<OsString> {
    vec!["--config".into(), config.into()]
}

/// Its configuration (`kubeproxy.config.k8s.io/v1alpha1`), as JSON, which is YAML too.
fn configuration(mode: Mode, node: &str, access: &Path, pods: &str) -> Value {
    json!({
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": mode.name(),
        "hostnameOverride": node,
        "detectLocalMode": "ClusterCIDR",
        "clusterCIDR": pods,
        "healthzBindAddress": HEALTH,
        "metricsBindAddress": METRICS,
        // The test's API server speaks JSON alone; thousands of Services come by few requests.
        "clientConnection": {
            "kubeconfig": access, "contentType": "application/json", "acceptContentTypes": "application/json",
        },
        // The machine's settings are not this namespace's to change: nothing is to be touched.
        "conntrack": {
            "maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s",
        },
        "oomScoreAdj": 0,
    })
}

/// How it finds the API server: without credentials.
fn kubeconfig(url: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{ "name": "lab", "cluster": { "server": url } }],
        "users": [{ "name": "lab", "user": {} }],
        "contexts": [{ "name": "lab", "context": { "cluster": "lab", "user": "lab" } }],
        "current-context": "lab",
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_told_its_mode_node_pods_and_api_server_and_leaves_the_machine_alone() {
        let access = Path::new("/tmp/x/kubeconfig");
        let config = configuration(Mode::Iptables, "node1", access, "10.244.0.0/16");
        assert_eq!(config["kind"], "KubeProxyConfiguration");
        assert_eq!((&config["mode"], &config["hostnameOverride"]), (&json!("iptables"), &json!("node1")));
        assert_eq!(config["clusterCIDR"], "10.244.0.0/16");
        assert_eq!(config["clientConnection"]["kubeconfig"], "/tmp/x/kubeconfig");
        assert_eq!(config["clientConnection"]["contentType"], "application/json");
        assert_eq!(config["conntrack"]["maxPerCore"], 0);
        assert_eq!(config["conntrack"]["tcpEstablishedTimeout"], "0s");
        assert_eq!(arguments(Path::new("/tmp/x/config")), ["--config", "/tmp/x/config"]);
        let access = kubeconfig("http://127.0.0.1:1234");
        assert_eq!(access["clusters"][0]["cluster"]["server"], "http://127.0.0.1:1234");
        assert_eq!(access["current-context"], access["contexts"][0]["name"]);
    }
}
