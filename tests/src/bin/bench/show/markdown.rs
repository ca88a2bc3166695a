//! The page for the documentation: Markdown, with the plots beside it.
//!
//! Decides where files go: `benchmarks.md`, and `benchmarks/` with the plots and the figures as JSON. Must not change
//! figures. Invariant: the page is made of the figures alone, and by this program alone.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};

use super::{cell, svg};
use crate::figures::{Section, Table};
use crate::report::Run;

/// Writes the page, its plots and its figures to a folder.
pub(crate) fn write(run: &Run, folder: &Path) -> Result<()> {
    let beside = folder.join("benchmarks");
    fs::create_dir_all(&beside).with_context(|| format!("making {}", beside.display()))?;
    let put = |name: String, text: String| {
        let path = folder.join(name);
        fs::write(&path, text).with_context(|| format!("writing {}", path.display()))
    };
    for plot in run.sections.iter().flat_map(|section| &section.plots) {
        put(format!("benchmarks/{}.svg", plot.name), svg::draw(plot))?;
    }
    let json = serde_json::to_string_pretty(run).context("writing the figures as JSON")?;
    put("benchmarks/figures.json".to_owned(), json + "\n")?;
    put("benchmarks.md".to_owned(), page(run))
}

fn page(run: &Run) -> String {
    let mut page = "# Benchmarks\n\n".to_owned();
    page += &format!(
        "Written by `{}` on {}. Do not edit: run it again. The figures are also in \
         [benchmarks/figures.json](benchmarks/figures.json).\n\n",
        run.command, run.date
    );
    page += &format!(
        "Machine: {}. Compared with: {}.\n\n",
        run.machine.described(),
        run.machine.tools.join(", ")
    );
    page += "Another machine gives other times. Ratios within one run say more than the times themselves: what \
             is compared was measured by turns, and a ratio is the median of its rounds, with the least and the greatest \
             beside it.\n\n";
    let mut disturbances = Vec::new();
    for section in &run.sections {
        disturbances.extend(section.disturbances.iter().map(|said| format!("{}: {said}", section.title)));
    }
    if disturbances.is_empty() {
        page += "Nothing else ran on the machine that took more than 2 % of its processors.\n\n";
    } else {
        page += "**This run was disturbed; do not quote its figures.**\n\n";
        disturbances.iter().for_each(|disturbance| page += &format!("- {disturbance}\n"));
        page += "\n";
    }
    if let Some(targets) = &run.targets {
        page += &format!("## {}\n\n{}\n", targets.title, table(targets));
    }
    run.sections.iter().for_each(|shown| page += &section(shown));
    page.trim_end().to_owned() + "\n"
}

fn section(section: &Section) -> String {
    let mut text = format!("## {}\n\n", section.title);
    section.method.iter().for_each(|paragraph| text += &format!("{paragraph}\n\n"));
    for plot in &section.plots {
        text += &format!(
            "![{}: {} by {}](benchmarks/{}.svg)\n\n",
            plot.title, plot.upwards, plot.across, plot.name
        );
    }
    for shown in &section.tables {
        text += &format!("### {}\n\n{}\n", shown.title, table(shown));
    }
    text += "What these figures do not show:\n\n";
    section.limits.iter().for_each(|limit| text += &format!("- {limit}\n"));
    text + "\n"
}

fn table(table: &Table) -> String {
    let line = |cells: Vec<String>| format!("| {} |\n", cells.join(" | "));
    let mut text = line(table.columns.clone());
    text += &line(table.columns.iter().map(|_| "---".to_owned()).collect());
    table.rows.iter().for_each(|row| text += &line(row.iter().map(cell).collect()));
    text
}
