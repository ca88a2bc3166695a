//! Progress, while a benchmark runs.
//!
//! Decides bars on a terminal and lines elsewhere. Must not know results. Invariant: everything here goes to stderr;
//! stdout is the report's.

use std::io::IsTerminal as _;
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Where progress is shown.
pub(crate) struct Screen {
    bars: MultiProgress,
}

impl Screen {
    pub(crate) fn new() -> Self {
        let bars = MultiProgress::new();
        if !std::io::stderr().is_terminal() {
            bars.set_draw_target(ProgressDrawTarget::hidden());
        }
        Self { bars }
    }

    /// Says something that stays.
    pub(crate) fn say(&self, text: &str) {
        if self.bars.is_hidden() {
            eprintln!("{text}");
        } else {
            // A terminal that is gone is no reason to stop measuring.
            let _ = self.bars.println(text);
        }
    }

    /// A bar for `steps` steps of `what`; its line is all there is where nobody watches.
    pub(crate) fn bar(&self, what: &'static str, steps: usize) -> ProgressBar {
        if self.bars.is_hidden() {
            eprintln!("    {what}");
        }
        let style = ProgressStyle::with_template("    {msg:28} {bar:40.cyan} {pos}/{len} {elapsed}")
            .unwrap_or_else(|_| ProgressStyle::default_bar());
        let bar = self.bars.add(ProgressBar::new(steps as u64).with_style(style).with_message(what));
        // Only the drawing is done by another thread, four times a second.
        bar.enable_steady_tick(Duration::from_millis(250));
        bar
    }
}
