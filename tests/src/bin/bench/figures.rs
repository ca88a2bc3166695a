//! What a benchmark found, before anybody lays it out.
//!
//! Decides how rounds become one figure: the median, with the least and the greatest beside it. Must not know what is
//! measured or how it is shown. Invariant: a figure keeps how many rounds it comes from.

use serde::{Deserialize, Serialize};

/// A figure over several rounds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Spread {
    /// The middle one, or the mean of the two in the middle.
    pub(crate) median: f64,
    /// The least.
    pub(crate) min: f64,
    /// The greatest.
    pub(crate) max: f64,
    /// How many there were.
    pub(crate) rounds: usize,
}

impl Spread {
    /// The spread of some rounds; all zero where there were none.
    pub(crate) fn of(values: &[f64]) -> Self {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let middle = sorted.len() / 2;
        let at = |index: usize| sorted.get(index).copied().unwrap_or(0.0);
        let median = if sorted.len().is_multiple_of(2) && middle > 0 {
            f64::midpoint(at(middle - 1), at(middle))
        } else {
            at(middle)
        };
        Self { median, min: at(0), max: at(sorted.len().saturating_sub(1)), rounds: sorted.len() }
    }

    /// The ratios of two series, round by round: what was measured side by side is compared side by side.
    pub(crate) fn of_ratios(values: &[f64], to: &[f64]) -> Self {
        let ratios = values.iter().zip(to).filter(|(_, to)| **to > 0.0).map(|(value, to)| value / to);
        Self::of(&ratios.collect::<Vec<_>>())
    }
}

/// A table's cell.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Cell {
    /// Words.
    Text(String),
    /// A count that does not vary.
    Count(u64),
    /// A measured figure, in the column's unit.
    Figure(Spread),
    /// A ratio.
    Ratio(Spread),
    /// Not measured, or it makes no sense here.
    Nothing,
}

impl Cell {
    /// Words.
    pub(crate) fn text(text: impl Into<String>) -> Self {
        Self::Text(text.into())
    }

    /// A figure, if there is one.
    pub(crate) fn figure(spread: Option<Spread>) -> Self {
        spread.map_or(Self::Nothing, Self::Figure)
    }
}

/// A table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Table {
    /// What it shows.
    pub(crate) title: String,
    /// Columns, with their units.
    pub(crate) columns: Vec<String>,
    /// Rows, each as long as the columns.
    pub(crate) rows: Vec<Vec<Cell>>,
}

impl Table {
    /// A table without rows.
    pub(crate) fn new(title: impl Into<String>, columns: &[&str]) -> Self {
        Self {
            title: title.into(),
            columns: columns.iter().map(|column| (*column).to_owned()).collect(),
            rows: Vec::new(),
        }
    }
}

/// One line of a plot: a figure, or none, for each of the plot's places.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Series {
    /// Its name in the legend.
    pub(crate) name: String,
    /// From left to right.
    pub(crate) points: Vec<Option<Spread>>,
}

/// A plot: places from left to right, figures upwards.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Plot {
    /// The file's name, without its ending.
    pub(crate) name: String,
    /// What it shows.
    pub(crate) title: String,
    /// What the places are.
    pub(crate) across: String,
    /// What the figures are.
    pub(crate) upwards: String,
    /// The places' names.
    pub(crate) places: Vec<String>,
    /// Are equal factors equally far apart?
    pub(crate) logarithmic: bool,
    /// The lines.
    pub(crate) series: Vec<Series>,
}

/// What one benchmark found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Section {
    /// `prog`, `sync` or `traffic`.
    pub(crate) verb: String,
    /// Its heading.
    pub(crate) title: String,
    /// How it was measured, a paragraph each.
    pub(crate) method: Vec<String>,
    /// The tables.
    pub(crate) tables: Vec<Table>,
    /// The plots.
    pub(crate) plots: Vec<Plot>,
    /// What the figures do not show.
    pub(crate) limits: Vec<String>,
    /// What disturbed it; empty if nothing did.
    pub(crate) disturbances: Vec<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_one() {
        let odd = Spread::of(&[3.0, 1.0, 20.0]);
        assert_eq!((odd.median, odd.min, odd.max, odd.rounds), (3.0, 1.0, 20.0, 3));
        assert_eq!(Spread::of(&[4.0, 1.0]).median, 2.5);
        assert_eq!(Spread::of(&[]), Spread { median: 0.0, min: 0.0, max: 0.0, rounds: 0 });
    }

    #[test]
    fn ratios_are_taken_round_by_round() {
        let ratio = Spread::of_ratios(&[2.0, 30.0, 8.0], &[1.0, 10.0, 2.0]);
        assert_eq!((ratio.median, ratio.min, ratio.max), (3.0, 2.0, 4.0));
    }
}
