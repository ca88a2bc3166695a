//! `switchboard check --kernel`: what this kernel has, and what Switchboard does without the rest.
//!
//! Decides what each feature is for, and which are needed. Must not know how one is tried. Invariants: what could not
//! be tried is said to be so, and why; nothing stays behind on the node.

use std::path::Path;
use std::process::ExitCode;

use anyhow::Context as _;
use serde::Serialize;

use super::super::output::{Format, Tabular, print};
use super::FINDINGS;
use crate::datapath::cgroup;
use crate::datapath::probe::{self, Helper, Sort, Trial};
use crate::net::sockets;

/// Whether a kernel has a feature.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum State {
    /// It was tried, and works.
    Yes,
    /// The kernel says no.
    No,
    /// It could not be tried.
    Unseen,
}

/// A feature.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Feature {
    feature: &'static str,
    /// The kernel that it came with, as people name it.
    since: &'static str,
    state: State,
    /// Does nothing work without it?
    needed: bool,
    /// What Switchboard does without it.
    without: &'static str,
    /// Why it is not there, or not seen.
    why: String,
}

const NOTHING: &str = "it does not start";

/// What a feature is, before it is tried: name, kernel, and what is done without.
type Word = (&'static str, &'static str, &'static str);

/// Prints the features, and ends with 3 where one is missing that is needed.
///
/// # Errors
/// Where stdout cannot be written to.
pub(super) fn run(format: Format) -> anyhow::Result<ExitCode> {
    let features = features();
    print(&features, format)?;
    let missing = features.iter().any(|feature| feature.needed && feature.state != State::Yes);
    Ok(if missing { ExitCode::from(FINDINGS) } else { ExitCode::SUCCESS })
}

fn features() -> Vec<Feature> {
    let mut features = programs();
    features.extend(interfaces());
    features.extend(sockets());
    features.extend(settings());
    features
}

fn programs() -> Vec<Feature> {
    let helper = |sort, helper| probe::has_helper(sort, helper);
    let mut features = vec![
        needed(("classifiers", "4.1", NOTHING), probe::has_sort(Sort::Classifier)),
        needed(("bpf_jiffies64", "5.5", NOTHING), helper(Sort::Classifier, Helper::BPF_FUNC_jiffies64)),
        needed(("bpf_loop", "5.17", NOTHING), helper(Sort::Classifier, Helper::BPF_FUNC_loop)),
    ];
    let mut trial = match Trial::load() {
        Ok(trial) => trial,
        Err(error) => {
            features.push(needed(("this binary's programs and maps", "6.1", NOTHING), Err(error)));
            return features;
        }
    };
    features.push(needed(
        ("this binary's programs and maps", "6.1", NOTHING),
        trial.classifiers().map(|()| true),
    ));
    let kinds = [lb_common::abi::FLOWS_V4, lb_common::abi::EMBRYONIC_V4, lb_common::abi::SLOTS];
    let batches = kinds.into_iter().map(|map| trial.has_batches(map));
    let all = batches.collect::<anyhow::Result<Vec<bool>>>().map(|all| all.into_iter().all(|one| one));
    features.push(needed(("maps read and written in batches", "5.6", NOTHING), all));
    let without = "from devices that report the checksum of a whole packet (CHECKSUM_COMPLETE), translated IPv6 packets \
                   may be taken for broken";
    let ipv6 = probe::has_ipv6_checksums();
    features.push(optional(("checksums of IPv6 (BPF_F_IPV6)", "6.16", without), ipv6));
    let stack = "Services are served by the stack on every uplink, as with --xdp off";
    let fib = match helper(Sort::Xdp, Helper::BPF_FUNC_fib_lookup) {
        Ok(true) => trial.xdp().map(|()| true),
        other => other,
    };
    features.push(optional(("XDP programs that ask for routes", "4.18", stack), fib));
    let own = "processes of the node itself do not reach Services, as with --socket-lb off";
    features.push(optional(("programs for sockets", "6.1", own), trial.sockets().map(|()| true)));
    features
}

fn interfaces() -> Vec<Feature> {
    let tcx = probe::has_tcx();
    let instead = "programs hang on interfaces as filters of clsact, first by priority";
    let mut clsact = optional(
        ("clsact", "4.5", "programs hang on interfaces by tcx links, which this kernel must have then"),
        probe::has_clsact(),
    );
    clsact.needed = !matches!(tcx, Ok(true));
    let mut features = vec![optional(("tcx", "6.6", instead), tcx), clsact];
    for (name, driver) in hardware() {
        let why = format!("{name}, driver {driver}: asked when the agent attaches, which its log tells");
        features.push(Feature {
            feature: "XDP in the driver of an uplink",
            since: "driver",
            state: State::Unseen,
            needed: false,
            without: "Services are served by the stack on that uplink",
            why,
        });
    }
    features
}

/// Devices with a driver, by name.
fn hardware() -> Vec<(String, String)> {
    let devices = std::fs::read_dir("/sys/class/net").into_iter().flatten().flatten();
    let mut found: Vec<(String, String)> = devices
        .filter_map(|device| {
            let driver = std::fs::read_link(device.path().join("device/driver")).ok()?;
            let driver = driver.file_name()?.to_string_lossy().into_owned();
            Some((device.file_name().to_string_lossy().into_owned(), driver))
        })
        .collect();
    found.sort();
    found
}

fn sockets() -> Vec<Feature> {
    let own = "processes of the node itself do not reach Services, as with --socket-lb off";
    let stays =
        "a connected UDP socket of the node stays on a backend that is gone until its owner opens another";
    let cookie = cgroup::netns_cookie().map(|cookie| cookie != 0);
    vec![
        optional(("a unified cgroup hierarchy (cgroup2)", "4.5", own), cgroup::root().map(|_| true)),
        optional(("numbers of network namespaces (SO_NETNS_COOKIE)", "5.14", own), cookie),
        optional(("closing sockets of others (INET_DIAG_DESTROY)", "4.9", stays), sockets::can_close()),
        Feature {
            feature: "connect hooks for SCTP",
            since: "none",
            state: State::No,
            needed: false,
            without: "the node's own processes reach SCTP Services at their backends' addresses only; pods and clients \
                      outside are served",
            why: "the kernel calls them for TCP and UDP".to_owned(),
        },
    ]
}

fn settings() -> Vec<Feature> {
    let there = |path: &str| {
        if Path::new(path).exists() { Ok(true) } else { Err(anyhow::anyhow!("{path} is not there")) }
    };
    let or_no = |result: anyhow::Result<bool>| match result {
        Ok(_) => (State::Yes, String::new()),
        Err(why) => (State::No, format!("{why:#}")),
    };
    let rows = [
        (
            "br_netfilter",
            "module",
            "/proc/sys/net/bridge/bridge-nf-call-iptables",
            "where pods share a bridge, a firewall that drops `ct state invalid` cuts their connections to each other's \
             Services",
        ),
        (
            "conntrack's window may be widened",
            "module",
            "/proc/sys/net/netfilter/nf_conntrack_tcp_be_liberal",
            "nothing is missing: without conntrack nothing takes offence at packets that pass by the stack",
        ),
    ];
    rows.into_iter()
        .map(|(feature, since, path, without)| {
            let (state, why) = or_no(there(path));
            Feature { feature, since, state, needed: false, without, why }
        })
        .collect()
}

fn needed(word: Word, tried: anyhow::Result<bool>) -> Feature {
    Feature { needed: true, ..optional(word, tried) }
}

fn optional((feature, since, without): Word, tried: anyhow::Result<bool>) -> Feature {
    let (state, why) = match tried.context("tried in vain") {
        Ok(true) => (State::Yes, String::new()),
        Ok(false) => (State::No, "the kernel says no".to_owned()),
        Err(error) if probe::is_refused_for_rights(&error) => {
            (State::Unseen, "this process has not the rights; run it as root on the node".to_owned())
        }
        // The verifier says a lot; its first line names what was refused.
        Err(error) => (State::No, format!("{error:#}").lines().next().unwrap_or_default().to_owned()),
    };
    Feature { feature, since, state, needed: false, without, why }
}

impl Tabular for Feature {
    const COLUMNS: &'static [&'static str] = &["FEATURE", "SINCE", "THERE", "WITHOUT IT"];

    fn cells(&self) -> Vec<String> {
        let state = match (self.state, self.needed) {
            (State::Yes, _) => "yes",
            (State::No, true) => "NO",
            (State::No, false) => "no",
            (State::Unseen, _) => "unseen",
        };
        let without = match self.state {
            State::Yes => String::new(),
            _ if self.why.is_empty() => self.without.to_owned(),
            _ => format!("{} ({})", self.without, self.why),
        };
        vec![self.feature.to_owned(), self.since.to_owned(), state.to_owned(), without]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_refuses_is_no_and_what_could_not_be_asked_is_unseen() {
        let word = ("a", "6.1", "b");
        assert_eq!(optional(word, Ok(true)).state, State::Yes);
        assert_eq!(needed(word, Ok(false)).state, State::No);
        let denied = std::io::Error::from_raw_os_error(libc::EPERM);
        assert_eq!(optional(word, Err(denied.into())).state, State::Unseen);
        let refused = optional(word, Err(anyhow::anyhow!("line one\nline two")));
        assert_eq!((refused.state, refused.why.as_str()), (State::No, "tried in vain: line one"));
        assert_eq!(refused.cells()[2..], ["no".to_owned(), "b (tried in vain: line one)".to_owned()]);
        assert_eq!(needed(word, Ok(false)).cells()[2], "NO");
    }
}
