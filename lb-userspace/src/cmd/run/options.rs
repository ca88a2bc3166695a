//! Options of `run` by topic.
//!
//! Decides names, defaults and what is refused at once. Must not act on them. Invariant: the name of an option is also
//! its key in a configuration file.

use std::path::PathBuf;

use crate::cmd::node_settings::{NodeSettings, RECORD, SETTINGS};
use crate::serve::{self, ServeAddress};

/// What is answered by HTTP.
#[derive(clap::Args, Clone, Debug)]
#[command(next_help_heading = "Health and metrics")]
pub(super) struct ServeArgs {
    /// Where /healthz, /livez and /readyz are served, or off.
    #[arg(long, value_name = "ADDRESS:PORT", default_value_t = ServeAddress::any(serve::HEALTHZ))]
    healthz_bind_address: ServeAddress,
    /// Where /metrics is served, or off.
    #[arg(long, value_name = "ADDRESS:PORT", default_value_t = ServeAddress::loopback(serve::METRICS))]
    metrics_bind_address: ServeAddress,
    /// Whether Services' health check node ports are served.
    #[arg(long, value_enum, default_value = "on")]
    health_check_node_ports: Switch,
}

/// What is set on the node itself.
#[derive(clap::Args, Clone, Debug)]
#[command(next_help_heading = "Node and networks")]
pub(super) struct NodeSettingsArgs {
    /// Set on the node what kube-proxy would: conntrack's limit (raised only) and timeouts, and the acceptance of pods'
    /// packets in FORWARD. `switchboard cleanup` undoes it.
    #[arg(long, value_enum, default_value = "off")]
    node_settings: Switch,
    /// Where it is written down what the settings were.
    #[arg(long, value_name = "FILE", default_value = RECORD)]
    node_settings_record: PathBuf,
    /// Where the kernel's settings are. A container has /proc/sys read-only, and is given the host's `net` below another.
    #[arg(long, value_name = "DIR", default_value = SETTINGS)]
    proc_sys: PathBuf,
}

impl NodeSettingsArgs {
    /// What to set, if anything.
    pub(super) fn settings(&self) -> Option<NodeSettings> {
        (self.node_settings == Switch::On)
            .then(|| NodeSettings::new(&self.proc_sys, &self.node_settings_record))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Switch {
    On,
    Off,
}

impl ServeArgs {
    /// What to serve.
    pub(super) fn options(&self) -> serve::Options {
        serve::Options {
            healthz: self.healthz_bind_address,
            metrics: self.metrics_bind_address,
            health_check_node_ports: self.health_check_node_ports == Switch::On,
        }
    }
}

/// Where options are set besides the command line; what is there is added to it before these are read.
#[derive(clap::Args, Clone, Debug)]
#[command(next_help_heading = "Configuration")]
pub(super) struct ConfigurationArgs {
    /// A YAML file with a key for each option, of its name. The environment is stronger (SWITCHBOARD_PIN_DIR for
    /// --pin-dir), and the command line stronger than that.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// kube-proxy's configuration file, whose settings are used where nothing else is said; those without a meaning
    /// here are told.
    #[arg(long, value_name = "FILE")]
    kube_proxy_config: Option<PathBuf>,
    /// Print what would be in force as a configuration file, and end.
    #[arg(long)]
    pub(super) dry_run: bool,
}

/// Ports as in 61000-65535, the first not above the last.
pub(in crate::cmd) fn port_range(text: &str) -> Result<(u16, u16), String> {
    let range = text.split_once('-').and_then(|(first, last)| {
        let range: (u16, u16) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
        (range.0 > 0 && range.0 <= range.1).then_some(range)
    });
    range.ok_or_else(|| {
        "expected two ports, the first from 1 on and not above the last, as in 61000-65535".to_owned()
    })
}
