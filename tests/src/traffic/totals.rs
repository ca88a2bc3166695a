//! What a load has seen so far, in numbers.
//!
//! Decides what is counted; must not know how traffic is made. Invariant: `attempts` equals
//! `succeeded` plus all failures, and `succeeded` the sum over the backends.

use std::collections::BTreeMap;

use hdrhistogram::Histogram;

use super::dial::Reply;
use super::failure::{Failure, FailureKind};

/// Longest latency that is told apart, in microseconds: a minute.
const LATENCY_MAX_US: u64 = 60_000_000;

/// Failures of one kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Example {
    /// How many.
    pub count: u64,
    /// What the first one said.
    pub first: String,
}

/// Failures by kind.
pub type Failures = BTreeMap<FailureKind, Example>;

/// What a load has seen. Latencies are in microseconds.
#[derive(Clone, Debug)]
pub struct Totals {
    /// Exchanges that ended, well or not.
    pub attempts: u64,
    /// Exchanges that ended well.
    pub succeeded: u64,
    /// Successful exchanges by the name of the server.
    pub by_backend: BTreeMap<String, u64>,
    /// The others by kind.
    pub failures: Failures,
    /// Time to establish a connection (TCP), or of the whole exchange (UDP).
    pub connect_us: Histogram<u64>,
    /// Time until the answer was complete.
    pub total_us: Histogram<u64>,
    /// The long-lived connections.
    pub conversations: Conversations,
}

/// What the long-lived connections of a load have seen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Conversations {
    /// How many were established.
    pub opened: u64,
    /// How many are going on now.
    pub open: u64,
    /// Messages sent and answered rightly.
    pub messages: u64,
    /// UDP only: how often the answers began to come from another server.
    pub moved: u64,
    /// By the name of the server that answered first.
    pub by_backend: BTreeMap<String, u64>,
    /// Conversations that could not be opened or broke off. UDP: lost messages, since a datagram
    /// breaks nothing.
    pub broken: Failures,
}

impl Default for Totals {
    fn default() -> Self {
        let histogram = || {
            Histogram::new_with_bounds(1, LATENCY_MAX_US, 3).unwrap_or_else(|error| unreachable!("{error}"))
        };
        Self {
            attempts: 0,
            succeeded: 0,
            by_backend: BTreeMap::new(),
            failures: Failures::new(),
            connect_us: histogram(),
            total_us: histogram(),
            conversations: Conversations::default(),
        }
    }
}

impl Totals {
    /// Failures of every kind, those of conversations included.
    pub fn failed(&self) -> u64 {
        count(&self.failures) + count(&self.conversations.broken)
    }

    /// The part of the successful exchanges, 0 to 1, that this server answered.
    #[expect(clippy::cast_precision_loss, reason = "a share of fewer than 2^52 exchanges")]
    pub fn share(&self, backend: &str) -> f64 {
        let served = self.by_backend.get(backend).copied().unwrap_or(0);
        if self.succeeded == 0 { 0.0 } else { served as f64 / self.succeeded as f64 }
    }

    /// All failures in one line, for messages; `no failures` if there are none.
    pub fn describe_failures(&self) -> String {
        let told = |what: &str, failures: &Failures| -> Vec<String> {
            failures
                .iter()
                .map(|(kind, of)| format!("{} {what} {kind}, first: {}", of.count, of.first))
                .collect()
        };
        let mut lines = told("exchanges", &self.failures);
        lines.extend(told("conversations", &self.conversations.broken));
        if lines.is_empty() { "no failures".to_owned() } else { lines.join("; ") }
    }

    /// Adds what another load has seen.
    pub fn merge(&mut self, other: &Self) {
        self.attempts += other.attempts;
        self.succeeded += other.succeeded;
        merge_counts(&mut self.by_backend, &other.by_backend);
        merge_failures(&mut self.failures, &other.failures);
        // Both have the same bounds, so adding cannot fail.
        let _ = self.connect_us.add(&other.connect_us);
        let _ = self.total_us.add(&other.total_us);
        let (mine, theirs) = (&mut self.conversations, &other.conversations);
        mine.opened += theirs.opened;
        mine.open += theirs.open;
        mine.messages += theirs.messages;
        mine.moved += theirs.moved;
        merge_counts(&mut mine.by_backend, &theirs.by_backend);
        merge_failures(&mut mine.broken, &theirs.broken);
    }

    pub(super) fn record(&mut self, outcome: Result<Reply, Failure>) {
        self.attempts += 1;
        match outcome {
            Ok(reply) => {
                self.succeeded += 1;
                *self.by_backend.entry(reply.backend).or_default() += 1;
                let us = |time: std::time::Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
                self.connect_us.saturating_record(us(reply.connect_time));
                self.total_us.saturating_record(us(reply.total));
            }
            Err(failure) => note(&mut self.failures, failure),
        }
    }
}

/// Counts one more failure.
pub(super) fn note(failures: &mut Failures, failure: Failure) {
    failures.entry(failure.kind).or_insert_with(|| Example { count: 0, first: failure.detail }).count += 1;
}

fn count(failures: &Failures) -> u64 {
    failures.values().map(|example| example.count).sum()
}

fn merge_counts(into: &mut BTreeMap<String, u64>, from: &BTreeMap<String, u64>) {
    for (name, count) in from {
        *into.entry(name.clone()).or_default() += count;
    }
}

fn merge_failures(into: &mut Failures, from: &Failures) {
    for (kind, example) in from {
        into.entry(*kind).or_insert_with(|| Example { count: 0, first: example.first.clone() }).count +=
            example.count;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(detail: &str) -> Failure {
        Failure::new(FailureKind::Timeout, detail)
    }

    #[test]
    fn merged_totals_add_up_and_keep_the_first_example() {
        let mut one = Totals::default();
        one.record(Err(failure("a")));
        one.record(Err(failure("b")));
        let mut sum = Totals::default();
        sum.merge(&one);
        sum.merge(&one);
        assert_eq!(sum.attempts, 4);
        assert_eq!(sum.failed(), 4);
        assert_eq!(sum.describe_failures(), "4 exchanges timeout, first: a");
        assert_eq!(Totals::default().describe_failures(), "no failures");
    }
}
