//! How an agent is started, watched and ended, shown on a stand-in that logs as the real one does.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use lb_tests::agent::{Agent, AgentConfig};
use lb_tests::lab::{Lab, Layout};
use lb_tests::manifests::Manifests;

const LIMIT: Duration = Duration::from_secs(10);

/// A program that logs its arguments, reports to be in sync twice, and waits (or not).
fn stand_in(folder: &Path, last_words: &str) -> PathBuf {
    let path = folder.join("stand-in");
    let report = |rows: u32, services: u32| {
        format!(
            "echo '{{\"level\":\"INFO\",\"fields\":{{\"message\":\"in sync\",\"rows_written\":{rows},\"services\":{services}}}}}' >&2\n"
        )
    };
    let text = format!("#!/bin/sh\necho \"args $*\" >&2\n{}{}{last_words}\n", report(7, 1), report(0, 2));
    let draft = folder.join("stand-in.draft");
    fs::write(&draft, text).unwrap();
    // By another process: had this one the program open for writing, a fork of another test's thread
    // could hold it so for a moment, and running it would fail with ETXTBSY.
    let installed = Command::new("install").args(["-m", "755"]).arg(&draft).arg(&path).status().unwrap();
    assert!(installed.success());
    path
}

fn lab() -> Lab {
    Lab::builder().node("node1", Layout::Routed, &[]).build().unwrap()
}

#[test]
fn reports_are_handed_out_one_by_one_and_anew_after_a_restart() {
    let (lab, manifests) = (lab(), Manifests::new().unwrap());
    let program = stand_in(manifests.path(), "exec sleep 1000");
    let config = AgentConfig::new(manifests.path()).program(program).arg("--extra");
    let mut agent = Agent::start(lab.node("node1"), config).unwrap();
    for _ in 0..2 {
        let first = agent.wait_in_sync(LIMIT).unwrap();
        assert_eq!((first.rows_written, first.services), (7, 1));
        let second = agent.wait_for(LIMIT, |report| report.services == 2).unwrap();
        assert_eq!(second.rows_written, 0);
        let none = agent.wait_in_sync(Duration::from_millis(20)).unwrap_err().to_string();
        assert!(none.contains("in vain") && none.contains("args run"), "{none}");
        assert_eq!(agent.in_syncs().unwrap().len(), 2);
        agent.restart().unwrap();
    }
    let said =
        agent.wait_for_line("its arguments", LIMIT, |line| line.text.starts_with("args")).unwrap().text;
    let pins = lab.node("node1").pin_folder.display().to_string();
    for part in ["args run --source file --log-format json --node node1 --path /", &pins, " --extra"] {
        assert!(said.contains(part), "{said}");
    }
    let inside = fs::read_link(format!("/proc/{}/ns/net", agent.pid())).unwrap();
    assert!(inside.to_string_lossy().contains(&lab.node("node1").netns.inode().unwrap().to_string()));

    assert!(agent.is_running());
    agent.terminate().unwrap();
    assert!(!agent.is_running());
    let log = fs::read_to_string(&lab.node("node1").log_file).unwrap();
    assert_eq!(log.matches("args run").count(), 3, "all runs are in one file");
}

#[test]
fn a_wait_ends_with_the_process_and_shows_its_last_words() {
    let (lab, manifests) = (lab(), Manifests::new().unwrap());
    let program = stand_in(manifests.path(), "echo 'no rights: do this' >&2; exit 3");
    let config = AgentConfig::new(manifests.path()).program(program);
    let mut agent = Agent::start(lab.node("node1"), config).unwrap();
    let error = agent.wait_for(LIMIT, |report| report.services == 9).unwrap_err().to_string();
    assert!(error.contains("exit status: 3") && error.contains("no rights: do this"), "{error}");
    assert_eq!(agent.wait_end(LIMIT).unwrap().code(), Some(3));
}

#[test]
fn an_agent_ends_with_its_value_and_its_log_with_the_lab() {
    let (lab, manifests) = (lab(), Manifests::new().unwrap());
    let program = stand_in(manifests.path(), "exec sleep 1000");
    let config = AgentConfig::new(manifests.path()).program(program);
    let mut agent = Agent::start(lab.node("node1"), config.clone()).unwrap();
    agent.wait_in_sync(LIMIT).unwrap();
    let pid = agent.pid();
    drop(agent);
    assert!(!Path::new(&format!("/proc/{pid}")).exists());

    let mut kept = Agent::start(lab.node("node1"), config).unwrap();
    kept.wait_in_sync(LIMIT).unwrap();
    let pid = kept.pid();
    kept.let_go();
    assert!(Path::new(&format!("/proc/{pid}/ns/net")).exists());
    let log = lab.node("node1").log_file.clone();
    assert!(log.exists());
    drop(lab);
    // It is a zombie at most, until this process ends.
    assert!(fs::read_link(format!("/proc/{pid}/exe")).is_err());
    assert!(!log.exists());
}
