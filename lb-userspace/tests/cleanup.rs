//! `switchboard cleanup` as a DaemonSet's container: done once, it stays until it is told to end.

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

#[test]
fn then_wait_stays_until_sigterm_and_ends_as_done() {
    let folder = tempfile::tempdir().unwrap();
    let mut cleanup = Command::new(env!("CARGO_BIN_EXE_switchboard"))
        .args(["cleanup", "--then-wait", "--pin-dir"])
        .arg(folder.path().join("none"))
        .arg("--node-settings-record")
        .arg(folder.path().join("record.json"))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(cleanup.stdout.take().unwrap()).lines();
    let waits = lines.map_while(Result::ok).any(|line| line == "waiting for SIGTERM");
    assert!(waits, "it ended by itself: {:?}", cleanup.wait());
    assert_eq!(cleanup.try_wait().unwrap(), None);
    kill(Pid::from_raw(cleanup.id().cast_signed()), Signal::SIGTERM).unwrap();
    assert!(cleanup.wait().unwrap().success());
}
