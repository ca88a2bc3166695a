//! Answers on stdout: a table for people, JSON or YAML for programs.
//!
//! Decides how rows are laid out. Must not know what they mean. Invariant: the three formats say the same.

use std::io::{IsTerminal as _, Write as _};

use anyhow::Context as _;
use comfy_table::presets::NOTHING;
use comfy_table::{Attribute, Cell, ContentArrangement, Table};
use serde::Serialize;

/// How an answer is printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// Columns for people.
    #[default]
    Table,
    /// One JSON array.
    Json,
    /// YAML.
    Yaml,
}

/// Something with columns.
pub trait Tabular: Serialize {
    /// The headings.
    const COLUMNS: &'static [&'static str];

    /// One cell for each heading.
    fn cells(&self) -> Vec<String>;
}

/// Prints rows.
///
/// # Errors
/// Where stdout cannot be written to; a reader that has gone away is no error.
pub fn print<T: Tabular>(rows: &[T], format: Format) -> anyhow::Result<()> {
    let text = match format {
        Format::Table => table(rows),
        Format::Json => serde_json::to_string_pretty(rows).context("writing JSON")?,
        Format::Yaml => serde_saphyr::to_string(&rows).context("writing YAML")?,
    };
    print_text(&text)
}

/// Prints a text and a newline.
///
/// # Errors
/// As for rows.
pub fn print_text(text: &str) -> anyhow::Result<()> {
    match writeln!(std::io::stdout().lock(), "{}", text.trim_end()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(error).context("writing to stdout")
        }
        _ => Ok(()),
    }
}

fn table<T: Tabular>(rows: &[T]) -> String {
    let heading = |text: &&str| {
        let cell = Cell::new(text);
        if std::io::stdout().is_terminal() { cell.add_attribute(Attribute::Bold) } else { cell }
    };
    let mut table = Table::new();
    table.load_style(NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(T::COLUMNS.iter().map(heading));
    for row in rows {
        table.add_row(row.cells());
    }
    if rows.is_empty() {
        return format!("nothing to show (columns: {})", T::COLUMNS.join(", "));
    }
    table
        .lines()
        .map(|line| line.strip_prefix(' ').unwrap_or(&line).trim_end().to_owned())
        .collect::<Vec<_>>()
        .join("\n")
}
