//! What the spectator sees while traffic goes on.
//!
//! Decides bars on a terminal and a line per act elsewhere. Must not change anything. Invariant: everything here
//! goes to stderr; stdout is the report's.

use std::collections::BTreeMap;
use std::io::IsTerminal as _;
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use lb_tests::traffic::{Load, Totals};

const REFRESH: Duration = Duration::from_millis(100);
const NAMES: [&str; 5] = ["a", "b", "c", "d", "e"];

/// Bars, or lines.
pub(crate) struct Screen {
    bars: Option<Bars>,
}

struct Bars {
    all: MultiProgress,
    shares: Vec<ProgressBar>,
    line: ProgressBar,
}

impl Screen {
    pub(crate) fn new() -> Self {
        Self { bars: std::io::stderr().is_terminal().then(Bars::new) }
    }

    /// Says something that stays.
    pub(crate) fn say(&self, text: &str) {
        match &self.bars {
            Some(bars) => drop(bars.all.println(text)),
            None => eprintln!("{text}"),
        }
    }

    /// Announces an act.
    pub(crate) fn act(&self, title: &str, backends: &[&str]) {
        self.say(&format!("==> {title} (backends: {})", backends.join(", ")));
    }

    /// Shows the loads for a while: where what has come since now went. All of `served_by` must have served, and
    /// nobody else did.
    pub(crate) fn watch(&self, loads: &[Load], length: Duration, served_by: &[&str]) -> anyhow::Result<()> {
        let (began, before) = (Instant::now(), together(loads));
        while began.elapsed() < length {
            std::thread::sleep(REFRESH);
            if let Some(bars) = &self.bars {
                bars.show(&since(&before, &together(loads)), began.elapsed());
            }
        }
        let act = since(&before, &together(loads));
        let shares: Vec<String> = act.shares().map(|(name, share)| format!("{name} {share:.1} %")).collect();
        self.say(&format!(
            "    {} connections and datagram exchanges, {} long-lived connections open, {} failures; {}",
            act.succeeded,
            act.open,
            act.failed,
            shares.join(", ")
        ));
        let idle: Vec<_> = served_by.iter().filter(|name| !act.by_backend.contains_key(**name)).collect();
        let strangers = act.by_backend.iter().filter(|(name, _)| !served_by.contains(&name.as_str()));
        let strayed: u64 = strangers.map(|(_, count)| count).sum();
        // An exchange under way when the act began may end with a backend of the one before.
        anyhow::ensure!(
            idle.is_empty() && strayed <= act.succeeded / 1000,
            "{served_by:?} should have served, and {idle:?} did not; {strayed} exchanges went elsewhere"
        );
        Ok(())
    }

    /// Takes the bars away.
    pub(crate) fn finish(&self) {
        if let Some(bars) = &self.bars {
            bars.shares.iter().chain([&bars.line]).for_each(ProgressBar::finish_and_clear);
        }
    }
}

impl Bars {
    fn new() -> Self {
        let all = MultiProgress::new();
        let style = ProgressStyle::with_template("    {prefix} {bar:40.cyan} {msg}")
            .unwrap_or_else(|_| ProgressStyle::default_bar());
        let shares = NAMES
            .iter()
            .map(|name| {
                all.add(ProgressBar::new(1000).with_style(style.clone()).with_prefix(format!("pod {name}")))
            })
            .collect();
        let line = all.add(ProgressBar::new_spinner());
        Self { all, shares, line }
    }

    fn show(&self, act: &Act, elapsed: Duration) {
        let shares: BTreeMap<&str, f64> = act.shares().collect();
        for (bar, name) in self.shares.iter().zip(NAMES) {
            let share = shares.get(name).copied().unwrap_or(0.0);
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "a share of at most 100"
            )]
            bar.set_position((share * 10.0) as u64);
            bar.set_message(format!("{share:5.1} %"));
        }
        let rate = u128::from(act.succeeded) * 1000 / elapsed.as_millis().max(1);
        self.line.set_message(format!(
            "{rate} exchanges/s, {} long-lived connections, {} failures",
            act.open, act.failed
        ));
    }
}

/// What came during an act.
struct Act {
    succeeded: u64,
    failed: u64,
    open: u64,
    by_backend: BTreeMap<String, u64>,
}

impl Act {
    #[expect(clippy::cast_precision_loss, reason = "fewer than 2^52 exchanges")]
    fn shares(&self) -> impl Iterator<Item = (&str, f64)> {
        let all = self.succeeded.max(1) as f64;
        self.by_backend.iter().map(move |(name, count)| (name.as_str(), *count as f64 * 100.0 / all))
    }
}

fn together(loads: &[Load]) -> Totals {
    let mut totals = Totals::default();
    loads.iter().for_each(|load| totals.merge(&load.snapshot()));
    totals
}

fn since(before: &Totals, now: &Totals) -> Act {
    let count = |name: &String, all: u64| all - before.by_backend.get(name).copied().unwrap_or(0);
    let by_backend = now.by_backend.iter().map(|(name, all)| (name.clone(), count(name, *all)));
    Act {
        succeeded: now.succeeded - before.succeeded,
        failed: now.failed() - before.failed(),
        open: now.conversations.open,
        by_backend: by_backend.filter(|(_, count)| *count > 0).collect(),
    }
}
