//! How xtask speaks: headings, steps, results. Decides colour and spelling only; knows no verb.
//! Invariant: what it prints about itself goes to standard error, except where a verb's result
//! (a table, a summary line) is the output itself.

use std::{
    io::IsTerminal as _,
    time::{Duration, Instant},
};

use owo_colors::{OwoColorize as _, Style};

/// Whether standard output takes colours: a terminal, and `NO_COLOR` unset.
pub(crate) fn colours() -> bool {
    std::env::var_os("NO_COLOR").is_none() && std::io::stdout().is_terminal()
}

fn styled(text: &str, style: Style) -> String {
    if std::env::var_os("NO_COLOR").is_none() && std::io::stderr().is_terminal() {
        text.style(style).to_string()
    } else {
        text.to_owned()
    }
}

/// Announces a part of the work that takes a while.
pub(crate) fn heading(text: &str) {
    eprintln!("{} {text}", styled("==>", Style::new().cyan().bold()));
}

/// A line about something that is as it should be.
pub(crate) fn fine(text: &str) {
    eprintln!("    {} {text}", styled("ok", Style::new().green()));
}

/// A line about something that is done now, or that the reader should know.
pub(crate) fn note(text: &str) {
    eprintln!("    {text}");
}

/// A line about something that went wrong while the rest goes on.
pub(crate) fn warning(text: &str) {
    eprintln!("    {} {text}", styled("warning:", Style::new().yellow().bold()));
}

/// The sentence xtask ends with when it fails.
pub(crate) fn failure(text: &str) {
    eprintln!("{} {text}", styled("error:", Style::new().red().bold()));
}

/// A stopwatch that prints as people say it: `0.4 s`, `1 min 12 s`.
pub(crate) struct Stopwatch(Instant);

impl Stopwatch {
    /// Starts counting.
    pub(crate) fn start() -> Self {
        Self(Instant::now())
    }

    /// Time since the start, in words.
    pub(crate) fn said(&self) -> String {
        said(self.0.elapsed())
    }
}

/// A duration in words.
pub(crate) fn said(time: Duration) -> String {
    let seconds = time.as_secs();
    if seconds < 60 {
        format!("{:.1} s", time.as_secs_f64())
    } else {
        format!("{} min {} s", seconds / 60, seconds % 60)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_time_shows_tenths_and_a_long_one_minutes() {
        assert_eq!(said(Duration::from_millis(420)), "0.4 s");
        assert_eq!(said(Duration::from_secs(72)), "1 min 12 s");
    }
}
