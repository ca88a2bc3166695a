//! What kube-proxy sets on a node, and a reboot would lose: conntrack's limits and timeouts, and the acceptance of
//! Services' packets in FORWARD.
//!
//! Decides the values, kube-proxy's own defaults, and what it takes to undo them. Invariants: a limit is only ever
//! raised; what was there before is written down before it is changed, and is put back only where nobody has changed it since.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use ipnet::IpNet;

use crate::net::accept;

/// Where what was there before is written down; gone with a reboot, as the settings are.
pub(super) const RECORD: &str = "/run/switchboard/node-settings.json";

/// Where the kernel's settings are. Container runtimes mount it read-only.
pub(super) const SETTINGS: &str = "/proc/sys";

const MAX: &str = "net/netfilter/nf_conntrack_max";
const ESTABLISHED: &str = "net/netfilter/nf_conntrack_tcp_timeout_established";
const CLOSE_WAIT: &str = "net/netfilter/nf_conntrack_tcp_timeout_close_wait";

/// kube-proxy's --conntrack-min and --conntrack-max-per-core.
const AT_LEAST: u64 = 131_072;
const PER_CORE: u64 = 32_768;

/// A setting that was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
struct Changed {
    before: u64,
    after: u64,
}

type Record = BTreeMap<String, Changed>;

/// Kernel settings and the record of what they were.
#[derive(Clone, Debug)]
pub(super) struct NodeSettings {
    settings: PathBuf,
    record: PathBuf,
}

impl NodeSettings {
    /// Of this host, whose settings are at `settings`; what they were is written down at `record`.
    pub(super) fn new(settings: &Path, record: &Path) -> Self {
        Self { settings: settings.to_owned(), record: record.to_owned() }
    }

    /// Applies them. Trouble is told, and keeps nothing else from being done.
    pub(super) fn apply(&self, networks: &[IpNet]) {
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get) as u64;
        match self.set(cores) {
            Ok(0) => {}
            Ok(settings) => {
                let record = self.record.display();
                tracing::info!(settings, %record, "conntrack is set as kube-proxy does");
            }
            Err(error) => tracing::error!(
                error = format!("{error:#}"),
                settings = %self.settings.display(),
                "conntrack stays as it is (in a container, mount the host's /proc/sys/net and name it by --proc-sys)"
            ),
        }
        match accept::accept(networks) {
            Ok(0) => tracing::info!(
                "no FORWARD chain of iptables is here, or no network of pods is known: nothing to accept"
            ),
            Ok(networks) => tracing::info!(networks, "FORWARD accepts pods' packets"),
            Err(error) => tracing::error!(error = format!("{error:#}"), "FORWARD stays as it is"),
        }
    }

    /// Undoes what [`Self::apply`] did; says what.
    ///
    /// # Errors
    /// Where the record cannot be read or a setting not written.
    pub(super) fn undo(&self) -> anyhow::Result<Vec<String>> {
        let mut done = Vec::new();
        match accept::withdraw() {
            Ok(0) => {}
            Ok(rules) => done.push(format!("removed {rules} rules from FORWARD")),
            // A host without nftables has none of our rules.
            Err(error) => tracing::debug!(error = format!("{error:#}"), "no rules to remove"),
        }
        for (key, changed) in self.read_record()? {
            if self.get(&key) == Some(changed.after) {
                self.put(&key, changed.before)?;
                done.push(format!("put {} back to {}", key.replace('/', "."), changed.before));
            }
        }
        match fs::remove_file(&self.record) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("removing {}", self.record.display()))
            }
            _ => Ok(done),
        }
    }

    fn set(&self, cores: u64) -> anyhow::Result<usize> {
        let max = AT_LEAST.max(PER_CORE * cores);
        let raised = self.get(MAX).filter(|now| *now < max).map(|_| max);
        let wanted = [(MAX, raised), (ESTABLISHED, Some(86_400)), (CLOSE_WAIT, Some(3_600))];
        let mut record = self.read_record()?;
        let mut changes = Vec::new();
        for (key, after) in wanted {
            let (Some(before), Some(after)) = (self.get(key), after) else { continue };
            if before != after {
                // What was there before this agent's predecessor counts.
                let before = record.get(key).map_or(before, |changed| changed.before);
                record.insert(key.to_owned(), Changed { before, after });
                changes.push((key, after));
            }
        }
        if !changes.is_empty() {
            self.write_record(&record)?;
        }
        // One that is not ours to set keeps no other from being set.
        let failed: Vec<anyhow::Error> =
            changes.iter().filter_map(|(key, after)| self.put(key, *after).err()).collect();
        let done = changes.len() - failed.len();
        failed.into_iter().next().map_or(Ok(done), Err)
    }

    fn get(&self, key: &str) -> Option<u64> {
        fs::read_to_string(self.settings.join(key)).ok()?.trim().parse().ok()
    }

    fn put(&self, key: &str, value: u64) -> anyhow::Result<()> {
        let path = self.settings.join(key);
        fs::write(&path, value.to_string()).with_context(|| format!("writing {value} to {}", path.display()))
    }

    fn read_record(&self) -> anyhow::Result<Record> {
        let doing = || format!("reading {}", self.record.display());
        match fs::read(&self.record) {
            Ok(text) => serde_json::from_slice(&text).with_context(doing),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Record::new()),
            Err(error) => Err(error).with_context(doing),
        }
    }

    fn write_record(&self, record: &Record) -> anyhow::Result<()> {
        let doing = || format!("writing down at {} what the node's settings were", self.record.display());
        if let Some(folder) = self.record.parent() {
            fs::create_dir_all(folder).with_context(doing)?;
        }
        fs::write(&self.record, serde_json::to_vec_pretty(record).with_context(doing)?).with_context(doing)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(max: &str) -> (tempfile::TempDir, NodeSettings) {
        let folder = tempfile::tempdir().unwrap();
        let node =
            NodeSettings { settings: folder.path().to_owned(), record: folder.path().join("run/record") };
        fs::create_dir_all(folder.path().join("net/netfilter")).unwrap();
        for (key, value) in [(MAX, max), (ESTABLISHED, "432000\n"), (CLOSE_WAIT, "60\n")] {
            fs::write(folder.path().join(key), value).unwrap();
        }
        (folder, node)
    }

    #[test]
    fn settings_are_kube_proxys_and_go_back_to_what_they_were() {
        let (_folder, node) = host("65536\n");
        assert_eq!(node.set(2).unwrap(), 3);
        let now = || [MAX, ESTABLISHED, CLOSE_WAIT].map(|key| node.get(key).unwrap());
        assert_eq!(now(), [131_072, 86_400, 3_600]);
        assert_eq!(node.set(64).unwrap(), 1, "more cores came");
        assert_eq!(now()[0], 64 * 32_768);
        node.put(CLOSE_WAIT, 7).unwrap();
        node.undo().unwrap();
        assert_eq!(now(), [65_536, 432_000, 7], "what somebody else has set since stays");
        assert!(node.undo().unwrap().is_empty());
    }

    #[test]
    fn a_limit_is_never_lowered_and_what_a_kernel_lacks_is_left_out() {
        let (folder, node) = host("9999999\n");
        fs::remove_file(folder.path().join(CLOSE_WAIT)).unwrap();
        assert_eq!(node.set(2).unwrap(), 1);
        assert_eq!(node.get(MAX), Some(9_999_999));
    }
}
