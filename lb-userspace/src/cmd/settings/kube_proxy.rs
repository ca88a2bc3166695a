//! kube-proxy's own configuration file, `KubeProxyConfiguration` of `kubeproxy.config.k8s.io/v1alpha1`.
//!
//! Decides which setting is which option here, and what is said of one that is none. Invariant: a setting that is
//! not kube-proxy's default is translated or told, never passed over.

use std::net::IpAddr;
use std::path::Path;

use anyhow::{Context as _, bail};
use serde_json::Value;

use super::options::Options;
use super::{Setting, file};

/// What became of the file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Translated {
    /// Options that are set.
    pub(super) settings: Vec<Setting>,
    /// A line on each setting that has no meaning here.
    pub(super) notes: Vec<String>,
}

/// What a setting is here.
#[derive(Clone, Copy)]
enum Meaning {
    /// That option, with the same value.
    Option(&'static str),
    /// That option, an address whose port may be left out.
    Address(&'static str, u16),
    /// That option in seconds, the setting being a duration as Go writes it.
    Seconds(&'static str),
    /// That option set to that value, where the setting is true.
    IfTrue(&'static str, &'static str),
    /// Nothing, because.
    Nothing(&'static str),
}

use Meaning::{Address, IfTrue, Nothing, Option as Same, Seconds};

const SYNC: &str = "changes are written as they come, and the maps are read back every five minutes";
const MARK: &str = "no packet is marked";
const CONNTRACK: &str = "flows are in the agent's own tables; the node's conntrack stays as it is set";
const CLIENT: &str = "the API server's client paces itself";

/// Settings by their path; one that ends in a dot stands for all below.
const MEANINGS: &[(&str, Meaning)] = &[
    ("bindAddress", Nothing("it sets the families and the node's address, which the Node object tells")),
    ("bindAddressHardFail", Nothing("a port that cannot be opened is said and tried again")),
    ("clientConnection.kubeconfig", Same("kubeconfig")),
    ("clientConnection.", Nothing(CLIENT)),
    ("clusterCIDR", Same("cluster-cidr")),
    ("configSyncPeriod", Nothing(SYNC)),
    ("conntrack.tcpCloseWaitTimeout", Seconds("tcp-half-closed-timeout")),
    ("conntrack.tcpEstablishedTimeout", Seconds("tcp-established-timeout")),
    ("conntrack.udpStreamTimeout", Seconds("udp-established-timeout")),
    ("conntrack.udpTimeout", Seconds("udp-opening-timeout")),
    ("conntrack.", Nothing(CONNTRACK)),
    ("detectLocal.", Nothing("a pod's packets are known by the interface that they come from")),
    ("detectLocalMode", Nothing("a pod's packets are known by the interface that they come from")),
    ("enableProfiling", Nothing("there is no profiling by HTTP")),
    ("featureGates.", Nothing("they are kube-proxy's")),
    ("healthzBindAddress", Address("healthz-bind-address", crate::serve::HEALTHZ)),
    ("hostnameOverride", Same("node")),
    ("iptables.localhostNodePorts", Nothing("127.0.0.1:nodePort is for the node itself only")),
    ("iptables.masqueradeAll", IfTrue("masquerade", "always")),
    ("iptables.masqueradeBit", Nothing(MARK)),
    ("iptables.", Nothing(SYNC)),
    ("ipvs.", Nothing("there is no IPVS here")),
    ("logging.", Nothing("set --log-level and --log-format")),
    ("metricsBindAddress", Address("metrics-bind-address", crate::serve::METRICS)),
    ("mode", Nothing("it is eBPF")),
    ("nftables.masqueradeAll", IfTrue("masquerade", "always")),
    ("nftables.masqueradeBit", Nothing(MARK)),
    ("nftables.", Nothing(SYNC)),
    ("nodePortAddresses", Same("nodeport-addresses")),
    ("oomScoreAdj", Nothing("set it in the pod, by its priority and resources")),
    ("portRange", Nothing("kube-proxy has no use for it either")),
    ("showHiddenMetricsForVersion", Nothing("no metrics are hidden")),
    ("windowsRunAsService", Nothing("this is Linux")),
    ("winkernel.", Nothing("this is Linux")),
];

/// Reads a file: the configuration itself, or the ConfigMap that holds it.
///
/// # Errors
/// Where it cannot be read or is something else.
pub(super) fn read(path: &Path, options: &Options) -> anyhow::Result<Translated> {
    let reading = || format!("reading kube-proxy's configuration {}", path.display());
    let text = std::fs::read_to_string(path).with_context(reading)?;
    translate(&text, options).with_context(reading)
}

fn translate(text: &str, options: &Options) -> anyhow::Result<Translated> {
    let map = file::map(text)?;
    let kind = map.get("kind").and_then(Value::as_str).unwrap_or_default();
    if kind == "ConfigMap" {
        let inner = map.get("data").and_then(|data| data.get("config.conf")).and_then(Value::as_str);
        return translate(
            inner.context("the ConfigMap has no data.config.conf, which kube-proxy reads")?,
            options,
        );
    }
    if kind != "KubeProxyConfiguration" {
        bail!("its kind is {kind:?}, not KubeProxyConfiguration");
    }
    let mut translated = Translated::default();
    for (key, value) in map.iter().filter(|(key, _)| !["apiVersion", "kind"].contains(&key.as_str())) {
        walk(key, value, options, &mut translated);
    }
    Ok(translated)
}

fn walk(path: &str, value: &Value, options: &Options, to: &mut Translated) {
    match value {
        Value::Object(fields) => {
            fields.iter().for_each(|(key, value)| walk(&format!("{path}.{key}"), value, options, to));
        }
        value if is_unset(value) => {}
        value => {
            let found = MEANINGS.iter().find(|(known, _)| {
                if known.ends_with('.') { path.starts_with(known) } else { path == *known }
            });
            match found {
                Some((_, meaning)) => take(path, value, *meaning, options, to),
                None => to.notes.push(format!("kube-proxy's {path} is not known here, and has no effect")),
            }
        }
    }
}

fn take(path: &str, value: &Value, meaning: Meaning, options: &Options, to: &mut Translated) {
    let text = match value {
        Value::Array(values) => values.iter().map(plain).collect::<Vec<_>>().join(","),
        value => plain(value),
    };
    let (name, text) = match meaning {
        Same(name) => (name, text),
        Address(name, port) => (name, with_port(text, port)),
        // What is no duration is for the option to refuse.
        Seconds(name) => (name, seconds(&text).map_or(text, |seconds| seconds.to_string())),
        IfTrue(name, set) if text == "true" => (name, set.to_owned()),
        IfTrue(..) => return,
        Nothing(reason) => {
            to.notes.push(format!("kube-proxy's {path} has no meaning here: {reason}"));
            return;
        }
    };
    if options.has(name) {
        to.settings.push((name.to_owned(), Some(text)));
    } else {
        to.notes.push(format!("kube-proxy's {path} has no effect: this version has no option --{name}"));
    }
}

/// As kube-proxy's file has it where nobody has set it.
fn is_unset(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::String(text) => text.is_empty() || text == "0s",
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::Array(values) => values.is_empty(),
        Value::Bool(true) | Value::Object(_) => false,
    }
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// Of a Go duration of whole hours, minutes and seconds.
fn seconds(text: &str) -> Option<u64> {
    let (mut total, mut rest) = (0_u64, text);
    while !rest.is_empty() {
        let unit_at = rest.find(|character: char| !character.is_ascii_digit())?;
        let (number, after) = rest.split_at(unit_at);
        let each = match after.chars().next()? {
            'h' => 3_600,
            'm' if !after.starts_with("ms") => 60,
            's' => 1,
            _ => return None,
        };
        total = total.checked_add(number.parse::<u64>().ok()?.checked_mul(each)?)?;
        rest = &after[1..];
    }
    Some(total)
}

/// kube-proxy takes an address without a port.
fn with_port(text: String, port: u16) -> String {
    match text.parse::<IpAddr>() {
        Ok(ip) => std::net::SocketAddr::new(ip, port).to_string(),
        Err(_) => text,
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;
    use crate::cmd::Cli;

    fn translated(text: &str) -> Translated {
        translate(text, &Options::of_run(&Cli::command())).unwrap()
    }

    fn value(translated: &Translated, name: &str) -> Option<String> {
        translated.settings.iter().find(|(set, _)| set == name)?.1.clone()
    }

    const FILE: &str = "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n\
        bindAddress: 0.0.0.0\nclientConnection: {kubeconfig: /var/lib/kube-proxy/kubeconfig.conf, qps: 0}\n\
        healthzBindAddress: 0.0.0.0\nmetricsBindAddress: ''\nhostnameOverride: node1\nmode: iptables\n\
        iptables: {masqueradeBit: null, syncPeriod: 30s, minSyncPeriod: 0s}\n\
        conntrack: {maxPerCore: null, min: 131072, tcpEstablishedTimeout: 24h0m0s, udpTimeout: 1m30s}\nwinkernel: {networkName: ''}\nnonsense: 1\n";

    #[test]
    fn what_has_a_meaning_here_is_set_and_the_rest_is_told_line_by_line() {
        let translated = translated(FILE);
        assert_eq!(value(&translated, "kubeconfig").as_deref(), Some("/var/lib/kube-proxy/kubeconfig.conf"));
        assert_eq!(value(&translated, "node").as_deref(), Some("node1"));
        assert_eq!(value(&translated, "healthz-bind-address").as_deref(), Some("0.0.0.0:10256"));
        assert_eq!(value(&translated, "metrics-bind-address"), None, "unset: the default here");
        assert_eq!(value(&translated, "tcp-established-timeout").as_deref(), Some("86400"));
        assert_eq!(value(&translated, "udp-opening-timeout").as_deref(), Some("90"));
        let about = |path: &str| translated.notes.iter().filter(|note| note.contains(path)).count();
        for path in ["bindAddress", "mode", "iptables.syncPeriod", "conntrack.min", "nonsense"] {
            assert_eq!(about(path), 1, "{path}: {:?}", translated.notes);
        }
        assert_eq!(translated.notes.len(), 5, "nothing is told of what is not set: {:?}", translated.notes);
    }

    #[test]
    fn a_duration_of_gos_is_seconds_and_what_is_none_is_left_for_the_option_to_refuse() {
        for (text, expected) in [("1h0m0s", Some(3_600)), ("90s", Some(90)), ("2m", Some(120))] {
            assert_eq!(seconds(text), expected, "{text}");
        }
        for text in ["100ms", "1.5h", "h", "5", "99999999999999999999s"] {
            assert_eq!(seconds(text), None, "{text}");
        }
    }

    #[test]
    fn a_config_map_is_looked_into_and_anything_else_is_refused() {
        let indented: String = FILE.lines().map(|line| format!("    {line}\n")).collect();
        let text = format!("apiVersion: v1\nkind: ConfigMap\ndata:\n  config.conf: |\n{indented}");
        assert_eq!(translated(&text), translated(FILE));
        let options = Options::of_run(&Cli::command());
        for wrong in ["kind: Pod\n", "", "kind: ConfigMap\ndata: {}\n"] {
            translate(wrong, &options).unwrap_err();
        }
    }
}
