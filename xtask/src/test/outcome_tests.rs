//! What cargo test prints, and what must be made of it. Runs nothing.

use super::*;

fn after(lines: &str, success: bool) -> Outcome {
    let mut outcome = Outcome::default();
    lines.lines().for_each(|line| outcome.take(line));
    outcome.end(success, "cargo test");
    outcome
}

const GOOD: &str = "\
     Running unittests src/lib.rs (target/debug/deps/lb_common-0a1b2c3d4e5f6071)
running 2 tests
test csum::tests::one ... ok
test csum::tests::two ... ignored, kernel lacks VLAN devices
test result: ok. 1 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.03s
   Doc-tests lb_common
running 1 test
test lb-common/src/flow.rs - flow::reverse (line 9) ... ok
test result: ok. 1 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.30s
";

#[test]
fn suites_carry_their_crate_and_their_counts() {
    let outcome = after(GOOD, true);
    let names: Vec<_> = outcome.suites.iter().map(|suite| suite.name.as_str()).collect();
    assert_eq!(names, ["lb_common (src/lib.rs)", "lb_common (documentation)"]);
    assert_eq!(outcome.suites[0].time, "0.03s");
    assert_eq!(outcome.totals(false), Totals { passed: 2, failed: 0, skipped: 1 });
}

#[test]
fn colours_change_nothing() {
    let coloured = GOOD
        .replace("     Running", "\u{1b}[1m\u{1b}[32m     Running\u{1b}[0m")
        .replace("ok", "\u{1b}[32mok\u{1b}[m");
    assert_eq!(after(&coloured, true).suites, after(GOOD, true).suites);
}

#[test]
fn a_failed_test_is_counted_once_and_named() {
    let lines = "     Running tests/lab.rs (target/debug/deps/lab-00ff)\n\
                 test a_flow_survives ... FAILED\n\
                 test result: FAILED. 3 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out; finished in 1.00s\n";
    let outcome = after(lines, false);
    assert_eq!(outcome.totals(false), Totals { passed: 3, failed: 1, skipped: 0 });
    assert_eq!(outcome.failures, ["lab (tests/lab.rs): a_flow_survives"]);
}

#[test]
fn a_suite_that_dies_counts_as_a_failure() {
    let lines = "     Running tests/lab.rs (target/debug/deps/lab-00ff)\ntest one ... ok\n";
    let outcome = after(lines, false);
    assert_eq!(outcome.totals(false), Totals { passed: 0, failed: 1, skipped: 0 });
}

#[test]
fn a_build_that_fails_counts_as_a_failure() {
    let outcome = after("error[E0425]: cannot find value `x` in this scope\n", false);
    assert_eq!(outcome.totals(false).failed, 1);
}

#[test]
fn in_ci_a_skipped_test_needs_the_kernel_for_an_excuse() {
    let lines = GOOD.replace("kernel lacks VLAN devices", "slow");
    assert_eq!(after(&lines, true).totals(true), Totals { passed: 2, failed: 1, skipped: 0 });
    assert_eq!(after(GOOD, true).totals(true), Totals { passed: 2, failed: 0, skipped: 1 });
}

#[test]
fn tests_left_out_for_want_of_root_are_skipped_here_and_failed_in_ci() {
    let mut outcome = Outcome::default();
    outcome.leave_out("lb-tests (root)", &["one".to_owned(), "two".to_owned()], "they need root");
    assert_eq!(outcome.totals(false), Totals { passed: 0, failed: 0, skipped: 2 });
    assert_eq!(outcome.totals(true), Totals { passed: 0, failed: 2, skipped: 0 });
}
