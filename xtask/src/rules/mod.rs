//! `rules`: the table of the contract's rules and of the tests that hold them, docs/rules.md, read
//! off the tests' names.
//!
//! Decides what counts as a test of a rule: a function with a test attribute, that is not ignored,
//! whose name begins with the rule's number. Must not know what a test does. Invariant: the file is
//! a function of the source, so that a table which is out of date, or a rule without a test, fails
//! `cargo xtask tidy`.

mod meaning;
mod names;

use std::{collections::BTreeMap, fmt::Write as _, fs, process::ExitCode};

use anyhow::{Context as _, Result};

use crate::{terminal, tidy, workspace};
use meaning::{CONTRACT, PROTOTYPE, REQUIRED};
use names::{Rule, Test};

/// The file with the table, from the workspace's root.
const FILE: &str = "docs/rules.md";

/// Options of `cargo xtask rules`.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Rewrite docs/rules.md from the tests' names
    #[arg(long)]
    bless: bool,
}

/// Compares the table with the tests' names, or rewrites it.
pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    let tests = all_tests()?;
    if options.bless {
        let path = workspace::root().join(FILE);
        fs::create_dir_all(path.parent().unwrap_or(&path)).context("making the folder docs")?;
        fs::write(&path, page(&tests)).with_context(|| format!("writing {FILE}"))?;
        terminal::fine(&format!("{FILE} is written; commit it with the tests that it lists"));
    }
    let findings = findings(&tests)?;
    if findings.is_empty() {
        let count = tests.values().map(Vec::len).sum::<usize>();
        let rules = CONTRACT.len() + PROTOTYPE.len();
        terminal::fine(&format!("{FILE} lists {rules} rules, and for them {count} tests"));
        return Ok(ExitCode::SUCCESS);
    }
    for finding in findings {
        terminal::failure(&finding);
    }
    Ok(ExitCode::FAILURE)
}

/// What is wrong with the table, for `tidy`.
pub(crate) fn check() -> Result<Vec<String>> {
    findings(&all_tests()?)
}

type Tests = BTreeMap<Rule, Vec<Test>>;

fn all_tests() -> Result<Tests> {
    let root = workspace::root();
    let mut tests = Tests::new();
    for path in tidy::rust_files()? {
        let text = fs::read_to_string(root.join(&path)).with_context(|| format!("reading {path}"))?;
        for (rule, test) in names::of_file(&path, &text) {
            tests.entry(rule).or_default().push(test);
        }
    }
    for of_rule in tests.values_mut() {
        of_rule.sort_by(|one, other| one.path.cmp(&other.path));
    }
    Ok(tests)
}

fn findings(tests: &Tests) -> Result<Vec<String>> {
    let mut findings = untested(tests);
    let known = |rule: &Rule| match rule {
        Rule::Contract(number) => CONTRACT.len() >= usize::from(*number),
        Rule::Prototype(number) => PROTOTYPE.len() >= usize::from(*number),
    };
    for (rule, of_rule) in tests.iter().filter(|(rule, _)| !known(rule)) {
        for test in of_rule {
            findings.push(format!("{}: {} tests {rule}, which is no rule; rename it", test.path, test.name));
        }
    }
    let path = workspace::root().join(FILE);
    let there = if path.is_file() {
        fs::read_to_string(&path).with_context(|| format!("reading {FILE}"))?
    } else {
        String::new()
    };
    if there != page(tests) {
        findings
            .push(format!("{FILE}: does not list the tests as they are; run `cargo xtask rules --bless`"));
    }
    Ok(findings)
}

/// Every rule that must have a test has one.
fn untested(tests: &Tests) -> Vec<String> {
    let contract = (1..=REQUIRED).map(Rule::Contract);
    let prototype = (1..).take(PROTOTYPE.len()).map(Rule::Prototype);
    contract
        .chain(prototype)
        .filter(|rule| !tests.contains_key(rule))
        .map(|rule| format!("{FILE}: {rule} has no test; write one, named {}...", rule.prefix()))
        .collect()
}

fn page(tests: &Tests) -> String {
    let mut page = "# Rules and their tests\n\nWritten by `cargo xtask rules --bless` from the tests' names; \
                    `cargo xtask tidy` fails where it is out of date,\nor where a rule has no test. Every test here \
                    runs in `cargo xtask test`; one by its name: `cargo xtask test --filter NAME`.\n\n## The Service \
                    contract\n\n"
        .to_owned();
    table(&mut page, CONTRACT, Rule::Contract, tests);
    page += "\n## What a prototype was seen to break without\n\n";
    table(&mut page, PROTOTYPE, Rule::Prototype, tests);
    page
}

/// A line for each test, so that two changes touch one line only where they concern one test.
fn table(page: &mut String, meanings: &[&str], rule: fn(u8) -> Rule, tests: &Tests) {
    *page += "| rule | says | tests |\n|---|---|---|\n";
    for (number, says) in (1..).zip(meanings) {
        let rule = rule(number);
        let of_rule = tests.get(&rule).map(Vec::as_slice).unwrap_or_default();
        let (first, rest) =
            of_rule.split_first().map_or((None, of_rule), |(first, rest)| (Some(first), rest));
        let first = first.map_or_else(|| "none".to_owned(), link);
        let _ = writeln!(page, "| {rule} | {says} | {first} |");
        for test in rest {
            let _ = writeln!(page, "| | | {} |", link(test));
        }
    }
}

fn link(test: &Test) -> String {
    format!("[{}/{}](../{})::{}", test.krate(), test.file(), test.path, test.name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(name: &str) -> Tests {
        let found = names::of_file("tests/tests/a.rs", &format!("#[test]\nfn {name}() {{}}"));
        found.into_iter().map(|(rule, test)| (rule, vec![test])).collect()
    }

    #[test]
    fn a_rule_without_a_test_is_named_with_the_test_it_wants() {
        let missing = untested(&one("c7_ports_match"));
        assert_eq!(missing.len(), usize::from(REQUIRED) - 1 + PROTOTYPE.len());
        assert!(missing[0].contains("C1 has no test; write one, named c1_"), "{}", missing[0]);
        assert!(!missing.iter().any(|line| line.contains("C7 ")));
    }

    #[test]
    fn a_rules_tests_stand_in_its_row_by_crate_file_and_name() {
        let page = page(&one("c7_ports_match_by_name"));
        assert!(
            page.contains("| [lb-tests/tests/a.rs](../tests/tests/a.rs)::c7_ports_match_by_name |"),
            "{page}"
        );
    }
}
