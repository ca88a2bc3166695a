//! The law of direction: which room may know which. `source -> model <- plan -> lb_common <-
//! datapath`; kube, aya, the clock and the runtime each have one door. Reads the paths that
//! `use` lines and expressions name; code under `cfg(test)` may know more, but in lb-common's
//! case only the standard library.

use super::{Finding, Source, direction_paths::mentions};

/// Within these places, but for the exceptions, none of these paths may be named.
struct Law {
    within: &'static [&'static str],
    except: &'static [&'static str],
    forbids: &'static [&'static str],
    says: &'static str,
    remedy: &'static str,
}

const LAWS: [Law; 9] = [
    Law {
        within: &["lb-userspace/src/model", "lb-userspace/src/plan"],
        except: &[],
        forbids: &[
            "tokio",
            "rand",
            "fastrand",
            "getrandom",
            "std::time::Instant",
            "std::time::SystemTime",
            "crate::source",
            "crate::datapath",
        ],
        says: "model and plan know no runtime, clock, randomness, source or datapath",
        remedy: "pass the value in from reconcile",
    },
    Law {
        within: &["lb-userspace/src/model"],
        except: &[],
        forbids: &["crate::plan"],
        says: "model does not know plan",
        remedy: "move what both need into model",
    },
    Law {
        within: &["lb-userspace"],
        except: &["lb-userspace/src/source/kube"],
        forbids: &["kube"],
        says: "only source/kube knows the API server's client",
        remedy: "turn its types into the model's there",
    },
    Law {
        within: &["lb-userspace"],
        except: &["lb-userspace/src/source", "lb-userspace/tests"],
        forbids: &["k8s_openapi"],
        says: "only source knows Kubernetes' types",
        remedy: "turn them into the model's there",
    },
    Law {
        within: &["lb-userspace"],
        except: &["lb-userspace/src/datapath"],
        forbids: &["aya", "aya_obj", "aya_log"],
        says: "only datapath knows aya",
        remedy: "go through datapath's Maps or loader",
    },
    Law {
        within: &["lb-userspace/src/source"],
        except: &[],
        forbids: &["crate::plan", "crate::datapath"],
        says: "source knows neither plan nor datapath",
        remedy: "give the model what plan needs",
    },
    Law {
        within: &[
            "lb-userspace/src/source",
            "lb-userspace/src/model",
            "lb-userspace/src/plan",
            "lb-userspace/src/datapath",
        ],
        except: &[],
        forbids: &["crate::reconcile", "crate::cmd"],
        says: "only the top knows reconcile and cmd",
        remedy: "return the value, and let reconcile or cmd act on it",
    },
    Law {
        within: &["lb-userspace/src/serve"],
        except: &[],
        forbids: &["crate::plan", "crate::datapath", "crate::source", "crate::reconcile", "crate::cmd"],
        says: "serve knows neither plan, maps nor sources",
        remedy: "write it on the board, or read it through serve's Observe",
    },
    Law {
        within: &["lb-common"],
        except: &[],
        forbids: &["std", "alloc"],
        says: "lb-common runs in the kernel: it knows only core and bytemuck",
        remedy: "use core, or put it under cfg(test)",
    },
];

/// Paths named where they must not be.
pub(super) fn check(source: &Source) -> Vec<Finding> {
    let laws: Vec<&Law> = LAWS.iter().filter(|law| law.applies_to(source)).collect();
    if laws.is_empty() {
        return Vec::new();
    }
    let mut findings = Vec::new();
    for mention in mentions(source) {
        for law in &laws {
            let forbidden = law.forbids.iter().find(|forbidden| is_below(&mention.path, forbidden));
            if let Some(forbidden) = forbidden {
                findings.push(source.finding(
                    mention.line,
                    format!("{}, and `{forbidden}` is named", law.says),
                    law.remedy,
                ));
            }
        }
    }
    findings.dedup();
    findings
}

impl Law {
    fn applies_to(&self, source: &Source) -> bool {
        let inside = |places: &[&str]| places.iter().any(|place| source.is_within(place));
        inside(self.within) && !inside(self.except)
    }
}

fn is_below(path: &str, forbidden: &str) -> bool {
    path.strip_prefix(forbidden).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}

/// Dependencies of lb-common other than bytemuck, from its manifest.
pub(super) fn dependencies_of_lb_common(path: &str, manifest: &str) -> Vec<Finding> {
    let mut section = "";
    let mut findings = Vec::new();
    for (index, line) in manifest.lines().enumerate() {
        let line = line.trim();
        if line.starts_with('[') {
            section = line;
            continue;
        }
        let name = line.split(['.', '=', ' ']).next().unwrap_or_default();
        if section == "[dependencies]" && !name.is_empty() && !name.starts_with('#') && name != "bytemuck" {
            findings.push(Finding {
                path: path.to_owned(),
                line: index + 1,
                law: format!("lb-common depends on bytemuck only, not on {name}"),
                remedy: "write the little that is needed, or put it in the agent",
            });
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::found;

    fn lines(path: &str, text: &str) -> Vec<usize> {
        found(check, path, text).into_iter().map(|(line, _)| line).collect()
    }

    #[test]
    fn the_planner_sees_no_clock_runtime_or_kernel() {
        let text = "use std::time::{Duration, Instant};\nuse tokio::sync::mpsc;\nuse aya::Ebpf;\nfn f() {\n    \
                    std::time::SystemTime::now();\n}\n";
        assert_eq!(lines("lb-userspace/src/plan/diff.rs", text), [1, 2, 3, 5]);
        assert!(
            lines("lb-userspace/src/plan/diff.rs", "use std::time::Duration;\nuse lb_common::abi;\n")
                .is_empty()
        );
    }

    #[test]
    fn kube_has_one_door_and_its_types_one_room() {
        let kube = "use kube::Client;\n";
        assert!(lines("lb-userspace/src/source/kube/watch.rs", kube).is_empty());
        assert_eq!(lines("lb-userspace/src/source/file/mod.rs", kube), [1]);
        let types = "use k8s_openapi::api::core::v1::Service;\n";
        assert!(lines("lb-userspace/src/source/file/mod.rs", types).is_empty());
        assert_eq!(lines("lb-userspace/src/cmd/get.rs", types), [1]);
    }

    #[test]
    fn aya_is_imported_by_datapath_alone_and_aya_build_is_another_crate() {
        assert!(lines("lb-userspace/src/datapath/load.rs", "use aya::Ebpf;\n").is_empty());
        assert_eq!(lines("lb-userspace/src/reconcile.rs", "use aya::{self as a, maps};\n"), [1]);
        assert!(lines("lb-userspace/build.rs", "use aya_build::Package;\n").is_empty());
    }

    #[test]
    fn a_relative_path_does_not_hide_the_room_it_leads_to() {
        assert_eq!(lines("lb-userspace/src/source/file/mod.rs", "use super::super::plan::Row;\n"), [1]);
        assert_eq!(lines("lb-userspace/src/plan/diff.rs", "fn f(_: crate::datapath::Op) {}\n"), [1]);
        assert!(
            lines("lb-userspace/src/plan/diff.rs", "use super::rows::Row;\nuse crate::model::State;\n")
                .is_empty()
        );
    }

    #[test]
    fn tests_may_know_more() {
        let text = "#[cfg(test)]\nmod tests {\n    use std::time::Instant;\n}\n#[cfg(not(test))]\nmod a {\n    use std::time::Instant;\n}\n";
        assert_eq!(lines("lb-userspace/src/plan/diff.rs", text), [7]);
        assert!(lines("lb-userspace/src/plan/diff_tests.rs", "use std::time::Instant;\n").is_empty());
    }

    #[test]
    fn the_contract_knows_only_core_and_bytemuck() {
        assert_eq!(
            lines("lb-common/src/flow.rs", "use core::net::Ipv4Addr;\nuse std::fmt;\nextern crate alloc;\n"),
            [2, 3]
        );
        assert!(
            lines("lb-common/src/flow.rs", "#[cfg(test)]\nmod tests {\n    use std::fs;\n}\n").is_empty()
        );
        let manifest = "[dependencies]\nbytemuck.workspace = true\nserde = \"1\"\n\n[dev-dependencies]\nproptest = \"1\"\n";
        let findings = dependencies_of_lb_common("lb-common/Cargo.toml", manifest);
        assert_eq!((findings.len(), findings[0].line), (1, 3));
    }
}
