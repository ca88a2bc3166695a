//! The end: what was counted.
//!
//! Decides how it is laid out, for people and as JSON. Invariant: nothing here is computed from anything but the
//! loads' totals.

use std::collections::BTreeMap;

use comfy_table::Table;
use comfy_table::presets::UTF8_FULL_CONDENSED;
use lb_tests::traffic::Totals;
use serde::Serialize;

/// What the demo counted.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Report {
    /// New connections and datagram exchanges.
    connections: u64,
    /// Connections kept open all the time, and the messages on them.
    long_lived: u64,
    messages: u64,
    /// Of all of these.
    failures: u64,
    /// Share by name of the backend, 0 to 1.
    backends: BTreeMap<String, f64>,
    /// Time to connect, or for a datagram to be answered.
    latency_us: Latency,
    agent_kills: u64,
    rows_written_at_restart: u64,
    #[serde(skip)]
    first_failures: String,
}

#[derive(Clone, Copy, Debug, Serialize)]
struct Latency {
    p50: u64,
    p99: u64,
    p999: u64,
}

impl Report {
    pub(crate) fn new(totals: &Totals, agent_kills: u64, rows_written_at_restart: u64) -> Self {
        let at = |quantile| totals.connect_us.value_at_quantile(quantile);
        Self {
            connections: totals.attempts,
            long_lived: totals.conversations.opened,
            messages: totals.conversations.messages,
            failures: totals.failed(),
            backends: totals.by_backend.keys().map(|name| (name.clone(), totals.share(name))).collect(),
            latency_us: Latency { p50: at(0.5), p99: at(0.99), p999: at(0.999) },
            agent_kills,
            rows_written_at_restart,
            first_failures: totals.describe_failures(),
        }
    }

    /// Did nothing fail, and did the restart write nothing?
    pub(crate) fn all_well(&self) -> bool {
        self.failures == 0 && self.rows_written_at_restart == 0 && self.connections > 0
    }

    /// For people.
    pub(crate) fn table(&self) -> String {
        let Latency { p50, p99, p999 } = self.latency_us;
        let shares: Vec<String> =
            self.backends.iter().map(|(name, share)| format!("{name} {:.1} %", share * 100.0)).collect();
        let mut table = Table::new();
        table.load_style(UTF8_FULL_CONDENSED);
        let rows = [
            ("connections and datagram exchanges", self.connections.to_string()),
            ("long-lived connections, messages on them", format!("{}, {}", self.long_lived, self.messages)),
            ("failures", self.failures.to_string()),
            ("share per backend, over all acts", shares.join(", ")),
            ("latency p50, p99, p99.9", format!("{p50} us, {p99} us, {p999} us")),
            ("times the agent was killed with -9", self.agent_kills.to_string()),
            ("rows it wrote when it came back", self.rows_written_at_restart.to_string()),
        ];
        for (what, value) in rows {
            table.add_row([what.to_owned(), value]);
        }
        if self.failures == 0 { table.to_string() } else { format!("{table}\n{}", self.first_failures) }
    }
}
