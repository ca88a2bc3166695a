//! A section on a terminal.
//!
//! Decides the tables' style. Must not change figures. Invariant: it returns text and prints nothing.

use comfy_table::Table;
use comfy_table::presets::UTF8_FULL_CONDENSED;

use super::cell;
use crate::figures::{self, Section};

/// The whole section.
pub(crate) fn section(section: &Section) -> String {
    let mut text = format!("{}\n", section.title);
    for shown in &section.tables {
        text += &format!("\n{}\n{}\n", shown.title, table(shown));
    }
    text += "\nWhat these figures do not show:\n";
    for limit in &section.limits {
        text += &format!("- {limit}\n");
    }
    for disturbance in &section.disturbances {
        text += &format!("DISTURBED: {disturbance}\n");
    }
    text
}

/// One table.
pub(crate) fn table(table: &figures::Table) -> String {
    let mut shown = Table::new();
    shown.load_style(UTF8_FULL_CONDENSED);
    shown.set_header(&table.columns);
    for row in &table.rows {
        shown.add_row(row.iter().map(cell));
    }
    shown.to_string()
}
