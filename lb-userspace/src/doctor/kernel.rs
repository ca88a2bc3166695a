//! Kernel features, rights and filesystems.
//!
//! Decides what is too old, and what is missing. Invariant: what only costs an option is no problem.

use super::snapshot::Snapshot;
use super::{Finding, Level};

const AREA: &str = "kernel";

/// What capabilities are for.
const CAPABILITIES: [(&str, &str, Level); 4] = [
    ("BPF", "loading programs and maps", Level::Problem),
    ("NET_ADMIN", "attaching programs, and netlink", Level::Problem),
    ("PERFMON", "programs that compare pointers", Level::Problem),
    ("SYS_ADMIN", "naming other programs of the kernel (only `doctor` asks)", Level::Unseen),
];

pub(super) fn examine(node: &Snapshot) -> Vec<Finding> {
    let mut findings = vec![version(node), jit(node)];
    findings.extend(rights(node));
    findings.push(match &node.bpffs {
        Ok(()) => Finding::ok("filesystems", "a BPF filesystem is mounted where pins go"),
        Err(why) => Finding::new(
            Level::Problem,
            "filesystems",
            why.clone(),
            "mount -t bpf bpf /sys/fs/bpf on the node; in a container, pass that folder in by hostPath",
        ),
    });
    findings.push(match &node.cgroup {
        Ok(path) => Finding::ok("filesystems", format!("the unified cgroup hierarchy is at {path}")),
        Err(why) => Finding::new(
            Level::Warning,
            "filesystems",
            format!("processes of the node itself will not reach Services: {why}"),
            "mount cgroup2 (mount -t cgroup2 none /sys/fs/cgroup/unified), or name a cgroup by --cgroup; without \
             need for it, run with --socket-lb off",
        ),
    });
    findings
}

fn version(node: &Snapshot) -> Finding {
    let (major, minor) = node.kernel;
    let named = format!("Linux {major}.{minor}");
    match node.kernel {
        (0..=4, _) | (5, 0..=16) => Finding::new(
            Level::Problem,
            AREA,
            format!("{named} lacks bpf_loop (5.17), which the programs call"),
            "run Linux 6.1 or later",
        ),
        (5, _) | (6, 0) => Finding::new(
            Level::Warning,
            AREA,
            format!("{named} is older than what is tested (6.1 and later)"),
            "run Linux 6.1 or later",
        ),
        (6, 1..=5) => Finding::new(
            Level::Note,
            AREA,
            format!("{named} has no tcx (6.6): programs hang on clsact, as filters of priority 1 or so"),
            "",
        ),
        _ => Finding::ok(AREA, format!("{named} has tcx")),
    }
}

fn jit(node: &Snapshot) -> Finding {
    match node.number("net.core.bpf_jit_enable") {
        Some(0) => Finding::new(
            Level::Warning,
            AREA,
            "eBPF programs are interpreted, several times slower",
            "sysctl -w net.core.bpf_jit_enable=1",
        ),
        // A kernel built to compile always has no such setting, or does not show it to a container.
        _ => Finding::ok(AREA, "eBPF programs are compiled"),
    }
}

fn rights(node: &Snapshot) -> Vec<Finding> {
    let missing = CAPABILITIES.iter().filter(|(name, ..)| !node.capabilities.contains(name));
    let findings: Vec<Finding> = missing
        .map(|(name, what, level)| {
            Finding::new(
                *level,
                "rights",
                format!("this process lacks CAP_{name}, which is for {what}"),
                format!("run as root on the node, or add {name} to the container's capabilities"),
            )
        })
        .collect();
    if findings.is_empty() {
        return vec![Finding::ok("rights", "all capabilities that are asked for are there")];
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::super::snapshot::tests::healthy;
    use super::*;

    #[test]
    fn kernels_are_judged_by_what_they_lack() {
        for (kernel, expected) in [
            ((4, 19), Level::Problem),
            ((5, 15), Level::Problem),
            ((5, 19), Level::Warning),
            ((6, 0), Level::Warning),
            ((6, 1), Level::Note),
            ((6, 5), Level::Note),
            ((6, 6), Level::Ok),
            ((7, 0), Level::Ok),
        ] {
            assert_eq!(version(&Snapshot { kernel, ..healthy() }).level, expected, "{kernel:?}");
        }
    }

    #[test]
    fn only_sys_admin_is_no_need() {
        let mut node = healthy();
        node.capabilities.remove("SYS_ADMIN");
        let found = rights(&node);
        assert_eq!(found.len(), 1);
        assert!(!found[0].needs_a_look() && found[0].finding.contains("CAP_SYS_ADMIN"), "{found:?}");
        node.capabilities.remove("BPF");
        assert!(rights(&node)[0].needs_a_look());
    }
}
