//! How figures look: on a terminal, as a page, as plots.
//!
//! Decides digits and units. Must not know what was measured. Invariant: the three show the same figures.

mod markdown;
mod svg;
mod terminal;

pub(crate) use markdown::write;
pub(crate) use terminal::{section, table};

use crate::figures::{Cell, Spread};

/// A number with three digits that count, in thousands or millions where it is that large.
pub(crate) fn short(value: f64) -> String {
    let (value, unit) = match value.abs() {
        large if large >= 1e6 => (value / 1e6, " M"),
        large if large >= 1e4 => (value / 1e3, " k"),
        _ => (value, ""),
    };
    let text = match value.abs() {
        large if large >= 100.0 => format!("{value:.0}"),
        middle if middle >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    };
    let text = if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
    format!("{text}{unit}")
}

/// A cell as text.
fn cell(cell: &Cell) -> String {
    match cell {
        Cell::Text(text) => text.clone(),
        Cell::Count(count) => count.to_string(),
        Cell::Figure(spread) => with_range(spread, short),
        Cell::Ratio(spread) => with_range(spread, |value| format!("{value:.2}")),
        Cell::Nothing => "-".to_owned(),
    }
}

fn with_range(spread: &Spread, text: impl Fn(f64) -> String) -> String {
    let (median, min, max) = (text(spread.median), text(spread.min), text(spread.max));
    if min == max { median } else { format!("{median} ({min} to {max})") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_keep_three_digits() {
        let shown: Vec<String> =
            [0.0, 0.9549, 4.0, 35.04, 115.4, 9_999.0, 13_100.0, 1_048_576.0].into_iter().map(short).collect();
        assert_eq!(shown, ["0", "0.95", "4", "35", "115", "9999", "13.1 k", "1.05 M"]);
    }
}
