//! Programs of others where ours hang.
//!
//! Decides which of them do the same work, and which only share the place. Invariant: a program whose name is not
//! known is told as such.

use std::collections::{BTreeMap, BTreeSet};

use super::snapshot::{Program, Snapshot};
use super::{Finding, Level};

const AREA: &str = "programs";

/// Beginnings of names of programs that translate Services too, whose they are, and what to do.
const RIVALS: [(&str, &str, &str); 3] = [
    (
        "cil_",
        "Cilium",
        "let one of the two serve: set kubeProxyReplacement=false (and bpf.masquerade=false) in Cilium, or leave \
         Switchboard out",
    ),
    ("cali_", "Calico's eBPF mode", "set bpfEnabled: false in Calico's FelixConfiguration"),
    ("calico_", "Calico's eBPF mode", "set bpfEnabled: false in Calico's FelixConfiguration"),
];

pub(super) fn examine(node: &Snapshot) -> Vec<Finding> {
    let programs = match &node.programs {
        Ok(programs) => programs,
        Err(why) => return vec![Finding::unseen(AREA, "programs on interfaces and cgroups", why)],
    };
    let mut findings = Vec::new();
    let others: Vec<&Program> = programs.iter().filter(|program| !program.ours).collect();
    for (prefix, whose, remedy) in RIVALS {
        let is_rival =
            |program: &&&Program| program.name.as_deref().is_some_and(|name| name.starts_with(prefix));
        let places: BTreeSet<&str> =
            others.iter().filter(is_rival).map(|program| program.place.as_str()).collect();
        if !places.is_empty() {
            findings.push(Finding::new(
                Level::Problem,
                AREA,
                format!("{whose} has programs on {}; both would translate Services", some(&places)),
                remedy,
            ));
        }
    }
    let known = |program: &&&Program| {
        let rival = |name: &str| RIVALS.iter().any(|(prefix, ..)| name.starts_with(prefix));
        !program.name.as_deref().is_some_and(rival)
    };
    let rest: Vec<&&Program> = others.iter().filter(known).collect();
    findings.extend(xdp(&rest));
    findings.extend(shared(&rest));
    if findings.is_empty() {
        findings.push(Finding::ok(AREA, "no programs of others hang where Switchboard's do"));
    }
    findings
}

fn xdp(others: &[&&Program]) -> Option<Finding> {
    let xdp: BTreeSet<&str> =
        others.iter().filter(|program| program.hook == "xdp").map(|program| program.place.as_str()).collect();
    (!xdp.is_empty()).then(|| {
        Finding::new(
            Level::Note,
            AREA,
            format!("another XDP program hangs on {}, and stays: Services are served behind it", some(&xdp)),
            "",
        )
    })
}

fn shared(others: &[&&Program]) -> Vec<Finding> {
    let mut by_name: BTreeMap<Option<&str>, BTreeSet<&str>> = BTreeMap::new();
    for program in others.iter().filter(|program| program.hook != "xdp") {
        by_name.entry(program.name.as_deref()).or_default().insert(program.place.as_str());
    }
    by_name
        .into_iter()
        .map(|(name, places)| match name {
            Some(name) => Finding::new(
                Level::Note,
                AREA,
                format!("the program {name} hangs on {} too; both run", some(&places)),
                "",
            ),
            None => Finding::unseen(
                AREA,
                &format!("whose the other programs on {} are", some(&places)),
                "needs CAP_SYS_ADMIN",
            ),
        })
        .collect()
}

fn some(places: &BTreeSet<&str>) -> String {
    const SHOWN: usize = 4;
    let shown: Vec<&str> = places.iter().copied().take(SHOWN).collect();
    match places.len().saturating_sub(SHOWN) {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::super::snapshot::tests::healthy;
    use super::*;

    fn program(place: &str, hook: &str, name: Option<&str>) -> Program {
        let name = name.map(str::to_owned);
        Program { place: place.to_owned(), hook: hook.to_owned(), id: 7, name, ours: false }
    }

    #[test]
    fn rivals_are_told_from_neighbours() {
        for (programs, expected, words) in [
            (vec![], Level::Ok, "no programs"),
            (vec![program("eth0", "tcx ingress", Some("cil_from_netdev"))], Level::Problem, "Cilium"),
            (vec![program("cgroup", "connect4", Some("cil_sock4_connect"))], Level::Problem, "Cilium"),
            (vec![program("cali1", "clsact ingress", Some("cali_tc_preamble"))], Level::Problem, "Calico"),
            (vec![program("eth0", "tcx egress", Some("meter"))], Level::Note, "meter"),
            (vec![program("eth0", "xdp", Some("firewall"))], Level::Note, "XDP"),
            (vec![program("eth0", "tcx ingress", None)], Level::Unseen, "CAP_SYS_ADMIN"),
        ] {
            let found = examine(&Snapshot { programs: Ok(programs), ..healthy() });
            assert_eq!(found.len(), 1, "{found:?}");
            assert_eq!(found[0].level, expected, "{found:?}");
            assert!(found[0].finding.contains(words), "{found:?}");
        }
    }

    #[test]
    fn ours_are_nobody_elses() {
        let ours = Program { ours: true, ..program("veth1", "tcx ingress", Some("pod_ingress")) };
        assert_eq!(examine(&Snapshot { programs: Ok(vec![ours]), ..healthy() })[0].level, Level::Ok);
    }

    #[test]
    fn a_hundred_places_are_not_listed() {
        let names: Vec<String> = (0..100).map(|number| format!("veth{number:02}")).collect();
        let places = names.iter().map(String::as_str).collect();
        assert_eq!(some(&places), "veth00, veth01, veth02, veth03 and 96 more");
    }
}
