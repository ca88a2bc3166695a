//! What a run of `cargo test` said, as counts: a line goes in, suites come out. Pure: no IO, no
//! clock. Invariant: a suite that was started and never said its result counts as one failure.

/// One test binary, or the documentation tests of one crate.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Suite {
    pub(super) name: String,
    pub(super) passed: u32,
    pub(super) failed: u32,
    pub(super) skipped: u32,
    /// As the test binary said it, for example `0.02s`; empty if it said none.
    pub(super) time: String,
    /// Has said its result.
    pub(super) finished: bool,
}

impl Suite {
    /// Something that had to work for the tests to run, and did not.
    pub(super) fn broken(name: &str) -> Self {
        Self { name: name.to_owned(), failed: 1, finished: true, ..Self::default() }
    }
}

/// A test that did not run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Skipped {
    pub(super) test: String,
    pub(super) why: String,
}

impl Skipped {
    /// Whether even CI puts up with it: this kernel cannot do it.
    pub(super) fn is_excused(&self) -> bool {
        self.why.starts_with("kernel lacks")
    }
}

/// Everything said so far.
#[derive(Clone, Debug, Default)]
pub(super) struct Outcome {
    pub(super) suites: Vec<Suite>,
    pub(super) skipped: Vec<Skipped>,
    pub(super) failures: Vec<String>,
}

/// The last line's three numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Totals {
    pub(super) passed: u32,
    pub(super) failed: u32,
    pub(super) skipped: u32,
}

impl Outcome {
    /// Takes in one line of cargo's or a test binary's output, colours and all.
    pub(super) fn take(&mut self, line: &str) {
        let line = without_colours(line);
        let line = line.trim();
        if let Some(name) = suite_name(line) {
            self.suites.push(Suite { name, ..Suite::default() });
        } else if let Some(result) = line.strip_prefix("test result: ") {
            self.take_result(result);
        } else if let Some((test, said)) =
            line.strip_prefix("test ").and_then(|rest| rest.rsplit_once(" ... "))
        {
            self.take_test(test, said);
        }
    }

    /// Closes a run of cargo that ended with or without success.
    pub(super) fn end(&mut self, success: bool, ran: &str) {
        let mut explained = self.suites.iter().any(|suite| suite.failed > 0);
        for suite in self.suites.iter_mut().filter(|suite| !suite.finished) {
            suite.failed += 1;
            suite.finished = true;
            explained = true;
            self.failures.push(format!("{}: ended without a result", suite.name));
        }
        if !success && !explained {
            self.failures.push(format!("{ran}: did not build or could not start"));
            self.suites.push(Suite::broken(ran));
        }
    }

    /// Counts tests that were not started at all.
    pub(super) fn leave_out(&mut self, suite: &str, tests: &[String], why: &str) {
        let skipped = u32::try_from(tests.len()).unwrap_or(u32::MAX);
        self.suites.push(Suite { name: suite.to_owned(), skipped, finished: true, ..Suite::default() });
        self.skipped.extend(tests.iter().map(|test| Skipped { test: test.clone(), why: why.to_owned() }));
    }

    /// Adds up; in CI a skipped test without excuse is a failed one.
    pub(super) fn totals(&self, in_ci: bool) -> Totals {
        let sum = |count: fn(&Suite) -> u32| self.suites.iter().map(count).sum::<u32>();
        let skipped = sum(|suite| suite.skipped);
        let excused = self.skipped.iter().filter(|skipped| skipped.is_excused()).count();
        let blamed =
            if in_ci { skipped - skipped.min(u32::try_from(excused).unwrap_or(u32::MAX)) } else { 0 };
        Totals {
            passed: sum(|suite| suite.passed),
            failed: sum(|suite| suite.failed) + blamed,
            skipped: skipped - blamed,
        }
    }

    fn take_result(&mut self, result: &str) {
        let count = |word: &str| {
            result
                .split(['.', ';'])
                .find_map(|part| part.trim().strip_suffix(word)?.trim().parse().ok())
                .unwrap_or(0)
        };
        let finished = Suite {
            name: String::new(),
            passed: count("passed"),
            failed: count("failed"),
            skipped: count("ignored"),
            time: result.rsplit_once("finished in ").map(|(_, time)| time.to_owned()).unwrap_or_default(),
            finished: true,
        };
        match self.suites.last_mut().filter(|suite| !suite.finished) {
            Some(suite) => *suite = Suite { name: std::mem::take(&mut suite.name), ..finished },
            // Documentation tests may say a second result for the same crate.
            None => self.suites.push(Suite { name: "(more of the above)".to_owned(), ..finished }),
        }
    }

    fn take_test(&mut self, test: &str, said: &str) {
        if let Some(rest) = said.strip_prefix("ignored") {
            let why = rest.trim_start_matches(',').trim();
            let why = if why.is_empty() { "#[ignore] without a reason" } else { why };
            self.skipped.push(Skipped { test: test.to_owned(), why: why.to_owned() });
        } else if said.starts_with("FAILED") {
            let suite = self.suites.last().map_or("", |suite| suite.name.as_str());
            self.failures.push(format!("{suite}: {test}"));
        }
    }
}

/// The name of the suite that a line of cargo's announces, made of crate and target.
fn suite_name(line: &str) -> Option<String> {
    if let Some(name) = line.strip_prefix("Doc-tests ") {
        return Some(format!("{} (documentation)", name.trim()));
    }
    let (source, binary) = line.strip_prefix("Running ")?.strip_suffix(')')?.rsplit_once(" (")?;
    let file = binary.rsplit('/').next()?;
    let name = file.rsplit_once('-').map_or(file, |(name, _hash)| name);
    Some(format!("{name} ({})", source.strip_prefix("unittests ").unwrap_or(source)))
}

fn without_colours(line: &str) -> String {
    let mut plain = String::with_capacity(line.len());
    let mut rest = line.chars();
    while let Some(character) = rest.next() {
        if character == '\u{1b}' {
            rest.find(char::is_ascii_alphabetic);
        } else {
            plain.push(character);
        }
    }
    plain
}

#[cfg(test)]
#[path = "outcome_tests.rs"]
mod tests;
