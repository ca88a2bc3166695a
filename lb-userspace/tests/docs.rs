//! The documentation says what is: every reason has its runbook entry, every command line is one.

use std::path::Path;

use clap::CommandFactory as _;
use lb_common::abi::{Action, Verdict};
use lb_userspace::cmd::Cli;

fn text(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[test]
fn every_reason_for_which_packets_are_dropped_or_refused_has_its_runbook_entry() {
    let runbook = text("docs/operate.md");
    let entries: Vec<&str> =
        runbook.lines().filter_map(|line| line.strip_prefix("### `")?.strip_suffix('`')).collect();
    let felt = Verdict::ALL.iter().filter(|verdict| verdict.action() != Action::Pass);
    let expected: Vec<&str> = felt.map(|verdict| verdict.name()).collect();
    let missing: Vec<_> = expected.iter().filter(|name| !entries.contains(name)).collect();
    assert!(missing.is_empty(), "no entry for {missing:?}");
    let unknown: Vec<_> = entries.iter().filter(|name| !expected.contains(name)).collect();
    assert!(unknown.is_empty(), "entries for what does not exist: {unknown:?}");
}

#[test]
fn every_command_line_in_the_documentation_is_one() {
    let mut lines = 0;
    for name in ["docs/operate.md", "docs/moving.md", "docs/troubleshoot.md", "README.md", "deploy/README.md"]
    {
        let text = text(name);
        let commands = text.lines().map(str::trim).filter(|line| line.starts_with("switchboard "));
        for command in commands {
            let command = command.split(" #").next().unwrap_or_default();
            // As in get services|backends: each of them.
            let words: Vec<&str> =
                command.split_whitespace().map(|word| word.split('|').next().unwrap_or(word)).collect();
            if let Err(error) = Cli::command().try_get_matches_from(&words) {
                panic!("{name}: {command}: {error}");
            }
            lines += 1;
        }
    }
    assert!(lines >= 10, "{lines}");
}
