//! Where the options of `run` come from besides the command line: the environment, a configuration file, kube-proxy's.
//!
//! Decides which of them wins: command line, environment, file, kube-proxy's file, default. Must not know what an option
//! means: names are taken from the command line's own description, and values are checked by it. Invariant: what
//! is written somewhere is in force or refused; a name that means nothing is never passed over.

mod effective;
mod file;
mod kube_proxy;
mod options;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;

use clap::parser::ValueSource;
use clap::{ArgMatches, Command};

use options::Options;

pub(super) use effective::effective;

/// What options are called in the environment: this, and the name in capitals.
const PREFIX: &str = "SWITCHBOARD_";

/// A command line, with what was set elsewhere added to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Expanded {
    /// The command line.
    pub(super) arguments: Vec<OsString>,
    /// Where each option was set that was not on the command line.
    pub(super) origins: BTreeMap<String, String>,
    /// What is to be told of settings without a meaning here.
    pub(super) notes: Vec<String>,
}

/// An option and what it is set to; no value: a flag.
type Setting = (String, Option<String>);

/// Adds what the environment and files say to a command line of `run`; leaves every other as it is.
///
/// # Errors
/// Where a file cannot be read or has a key that is no option.
pub(super) fn expand(
    command: &Command,
    arguments: Vec<OsString>,
    environment: impl Fn(&str) -> Option<OsString>,
) -> anyhow::Result<Expanded> {
    let mut expanded = Expanded { arguments, origins: BTreeMap::new(), notes: Vec::new() };
    // What is wrong on the command line itself is said when it is read in full.
    let partly = command.clone().ignore_errors(true).try_get_matches_from(&expanded.arguments);
    let Ok(Some(("run", run))) = partly.as_ref().map(ArgMatches::subcommand) else { return Ok(expanded) };
    let options = Options::of_run(command);
    let mut add = |settings: Vec<Setting>, origin: &dyn Fn(&str) -> String| {
        for (name, value) in settings {
            let given = matches!(
                options.id(&name).and_then(|id| run.value_source(id)),
                Some(ValueSource::CommandLine | ValueSource::EnvVariable)
            );
            if !given && !expanded.origins.contains_key(&name) {
                let value = value.map_or_else(String::new, |value| format!("={value}"));
                expanded.arguments.push(format!("--{name}{value}").into());
                expanded.origins.insert(name.clone(), origin(&name));
            }
        }
    };
    let from_environment = settings_of_environment(&options, &environment)?;
    let file_named = |name: &str| {
        let given = options.id(name).and_then(|id| run.get_one::<PathBuf>(id)).cloned();
        let set = || from_environment.iter().find(|(set, _)| set == name)?.1.as_ref().map(PathBuf::from);
        given.or_else(set)
    };
    let (own, kube_proxy) = (file_named(options::CONFIG), file_named(options::KUBE_PROXY));
    add(from_environment, &|name| format!("the environment: {}", variable(name)));
    if let Some(path) = own {
        add(file::read(&path, &options)?, &|_| path.display().to_string());
    }
    if let Some(path) = kube_proxy {
        let translated = kube_proxy::read(&path, &options)?;
        add(translated.settings, &|_| format!("kube-proxy's {}", path.display()));
        expanded.notes = translated.notes;
    }
    Ok(expanded)
}

fn settings_of_environment(
    options: &Options,
    environment: impl Fn(&str) -> Option<OsString>,
) -> anyhow::Result<Vec<Setting>> {
    let mut settings = Vec::new();
    for name in options.names() {
        let Some(value) = environment(&variable(name)) else { continue };
        let text = value.into_string().map_err(|_| {
            anyhow::anyhow!("the environment variable {} is no text: write it anew", variable(name))
        })?;
        settings.extend(
            options.setting(name, text).map_err(|wrong| anyhow::anyhow!("{}: {wrong}", variable(name)))?,
        );
    }
    Ok(settings)
}

/// `SWITCHBOARD_PIN_DIR` for `pin-dir`.
fn variable(name: &str) -> String {
    PREFIX.to_owned() + &name.to_uppercase().replace('-', "_")
}

#[cfg(test)]
mod tests;
