//! The result of the tests as a person reads it: one row per suite, then what failed and what was
//! skipped, with the reasons. Pure text. Invariant: every skipped test is covered by a line.

use super::outcome::{Outcome, Suite};

/// One row per suite that has anything to say, the numbers in columns.
pub(super) fn table(suites: &[Suite]) -> String {
    let shown = || suites.iter().filter(|suite| suite.passed + suite.failed + suite.skipped > 0);
    let width = shown().map(|suite| suite.name.len()).max().unwrap_or(0).max("suite".len());
    let mut lines = vec![format!("{:width$}  passed  failed  skipped      time", "suite")];
    for Suite { name, passed, failed, skipped, time, .. } in shown() {
        let row = format!("{name:width$}  {passed:6}  {failed:6}  {skipped:7}  {time:>8}");
        lines.push(row.trim_end().to_owned());
    }
    lines.join("\n")
}

/// Lines about what failed and what was skipped; skipped tests of one reason share a line.
pub(super) fn remarks(outcome: &Outcome, in_ci: bool) -> Vec<String> {
    let mut lines: Vec<String> =
        outcome.failures.iter().map(|failure| format!("failed: {failure}")).collect();
    let mut reasons: Vec<&str> = outcome.skipped.iter().map(|skipped| skipped.why.as_str()).collect();
    reasons.sort_unstable();
    reasons.dedup();
    for why in reasons {
        let of_this: Vec<_> = outcome.skipped.iter().filter(|skipped| skipped.why == why).collect();
        let blamed = in_ci && of_this.iter().any(|skipped| !skipped.is_excused());
        let verb = if blamed { "failed, for in CI nothing may be skipped" } else { "skipped" };
        lines.push(match of_this.as_slice() {
            [one] => format!("{verb}: {} ({why})", one.test),
            many => {
                let names: Vec<_> = many.iter().map(|skipped| skipped.test.as_str()).collect();
                format!("{verb}: {} tests ({why}): {}", many.len(), names.join(", "))
            }
        });
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test::outcome::Skipped;

    #[test]
    fn suites_without_tests_have_no_row() {
        let suites = [
            Suite { name: "empty".to_owned(), finished: true, ..Suite::default() },
            Suite { name: "full".to_owned(), passed: 3, finished: true, ..Suite::default() },
        ];
        let table = table(&suites);
        assert!(table.contains("full") && !table.contains("empty"), "{table}");
    }

    #[test]
    fn many_tests_with_one_reason_take_one_line() {
        let skip = |test: &str, why: &str| Skipped { test: test.to_owned(), why: why.to_owned() };
        let skipped = vec![skip("a", "root"), skip("b", "root"), skip("c", "kernel lacks IPVS")];
        let outcome = Outcome { skipped, ..Outcome::default() };
        assert_eq!(
            remarks(&outcome, false),
            ["skipped: c (kernel lacks IPVS)", "skipped: 2 tests (root): a, b"]
        );
        assert!(remarks(&outcome, true)[1].starts_with("failed"));
    }
}
