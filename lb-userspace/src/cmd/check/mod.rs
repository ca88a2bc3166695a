//! `switchboard check`: are these manifests usable, or this kernel?
//!
//! Decides when findings make the exit code 3. Must not touch the kernel but where it is asked about. Invariant: says
//! everything that `run` would say of the same files.

mod kernel;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;

use serde::Serialize;

use anyhow::Context as _;

use super::output::{Format, print_text};
use crate::model::{Object, State};
use crate::plan::decide;
use crate::plan::owners::Owners;
use crate::source::file::{Severity, Snapshot, read_once};

/// Exit code where something that was written would not be in force.
const FINDINGS: u8 = 3;

/// Validates manifests without touching the kernel; with --kernel, tries what this kernel has. Exit code 3 if anything in
/// the manifests would not be in force, or the kernel lacks what is needed.
#[derive(clap::Args, Clone, Debug)]
pub struct Args {
    /// The folder of manifests, or one file.
    #[arg(value_name = "PATH", required_unless_present = "kernel")]
    path: Option<PathBuf>,
    /// Say what this kernel has, by trying it, and what Switchboard does without the rest.
    #[arg(long, conflicts_with = "path")]
    kernel: bool,
    /// How to print it.
    #[arg(long, short, value_enum, default_value_t)]
    output: Format,
}

/// What a check found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Checked {
    files: usize,
    services: usize,
    endpoint_slices: usize,
    nodes: usize,
    ignored: BTreeMap<String, u64>,
    problems: Vec<String>,
    notes: Vec<String>,
}

/// Prints what is wrong, what becomes of it and what to do.
///
/// # Errors
/// Where the path cannot be read.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    if args.kernel {
        return kernel::run(args.output);
    }
    let checked = check(read_once(args.path.as_deref().context("name a folder of manifests")?)?);
    match args.output {
        Format::Table => print_text(&text(&checked))?,
        Format::Json => print_text(&serde_json::to_string_pretty(&checked)?)?,
        Format::Yaml => print_text(&serde_saphyr::to_string(&checked)?)?,
    }
    Ok(if checked.problems.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(FINDINGS) })
}

fn check(snapshot: Snapshot) -> Checked {
    let count = |wanted: fn(&Object) -> bool| snapshot.objects.iter().filter(|object| wanted(object)).count();
    let of = |severity| {
        let of_severity = snapshot.findings.iter().filter(move |finding| finding.severity == severity);
        of_severity.map(ToString::to_string).collect::<Vec<_>>()
    };
    let mut checked = Checked {
        files: snapshot.files,
        services: count(|object| matches!(object, Object::Service(_))),
        endpoint_slices: count(|object| matches!(object, Object::EndpointSlice(_))),
        nodes: count(|object| matches!(object, Object::Node(_))),
        problems: of(Severity::Problem),
        notes: of(Severity::Note),
        ignored: snapshot.ignored,
    };
    let mut state = State::new("");
    state.replace_all(snapshot.objects);
    let planned = decide::dirty(&mut state, &mut Owners::default());
    checked.problems.extend(planned.values().flat_map(|planned| &planned.refused).map(ToString::to_string));
    checked
}

fn text(checked: &Checked) -> String {
    let mut lines: Vec<String> = checked.problems.iter().map(|line| format!("problem: {line}")).collect();
    lines.extend(checked.notes.iter().map(|line| format!("note: {line}")));
    let ignored: Vec<String> =
        checked.ignored.iter().map(|(kind, objects)| format!("{objects} {kind}")).collect();
    if !ignored.is_empty() {
        lines.push(format!("of no use here, ignored: {}", ignored.join(", ")));
    }
    lines.push(format!(
        "{} files: {} Services, {} EndpointSlices, {} Nodes, {} problems",
        checked.files,
        checked.services,
        checked.endpoint_slices,
        checked.nodes,
        checked.problems.len()
    ));
    lines.join("\n")
}
