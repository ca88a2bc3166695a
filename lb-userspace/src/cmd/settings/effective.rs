//! The configuration that is in force, as a configuration file.
//!
//! Decides how it is written. Must not know options' meanings. Invariant: given as `--config`, it is in force again.

use std::fmt::Write as _;

use clap::parser::ValueSource;
use clap::{ArgMatches, Command};

use super::Expanded;
use super::options::{CONFIG, KUBE_PROXY, Options};

/// Every option of `run` that has a value, and where it is from.
pub(in crate::cmd) fn effective(command: &Command, matches: &ArgMatches, expanded: &Expanded) -> String {
    let options = Options::of_run(command);
    let mut text: String = expanded.notes.iter().map(|note| format!("# {note}\n")).collect();
    for name in options.names().filter(|name| ![CONFIG, KUBE_PROXY].contains(name)) {
        let Some(id) = options.id(name) else { continue };
        let Some(value) = value(&options, name, id, matches) else { continue };
        let from = match (expanded.origins.get(name), matches.value_source(id)) {
            (Some(origin), _) => origin,
            (None, Some(ValueSource::CommandLine)) => "the command line",
            (None, Some(ValueSource::EnvVariable)) => "the environment",
            (None, _) => "default",
        };
        // Writing to a String does not fail.
        let _ = writeln!(text, "{name}: {value} # {from}");
    }
    text
}

fn value(options: &Options, name: &str, id: &str, matches: &ArgMatches) -> Option<String> {
    if options.is_flag(name) {
        return Some(matches.get_flag(id).to_string());
    }
    let values: Vec<String> = matches.get_raw(id)?.map(|value| scalar(&value.to_string_lossy())).collect();
    if options.is_list(name) { Some(format!("[{}]", values.join(", "))) } else { values.into_iter().next() }
}

/// Plain where YAML reads the same back for certain, else in quotes as JSON has them, which YAML understands.
fn scalar(text: &str) -> String {
    let plain = text.parse::<u64>().is_ok_and(|number| number.to_string() == text);
    if plain { text.to_owned() } else { serde_json::Value::from(text).to_string() }
}
