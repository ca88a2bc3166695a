//! The options that `run` has, by their names.
//!
//! Decides which of them can be set elsewhere than on the command line. Invariant: an option added to `run` can be set
//! everywhere at once.

use std::collections::BTreeMap;

use clap::{Arg, ArgAction, Command, Id};

/// The option that names a configuration file.
pub(super) const CONFIG: &str = "config";
/// The option that names a configuration file of kube-proxy's.
pub(super) const KUBE_PROXY: &str = "kube-proxy-config";
/// Those of the command line alone.
const NOT_SETTINGS: [&str; 3] = ["help", "version", "dry-run"];
/// A name at least this like one that exists is taken for a slip (Jaro-Winkler).
const LIKE: f64 = 0.8;

/// Options by name.
#[derive(Clone, Debug)]
pub(super) struct Options(BTreeMap<String, Arg>);

impl Options {
    /// Those of `run`, those of every command among them.
    pub(super) fn of_run(command: &Command) -> Self {
        let mut command = command.clone();
        command.build();
        let run = command.find_subcommand("run");
        let named = |arg: &Arg| arg.get_long().map(|name| (name.to_owned(), arg.clone()));
        let options = run.into_iter().flat_map(Command::get_arguments).filter_map(named);
        Self(options.filter(|(name, _)| !NOT_SETTINGS.contains(&name.as_str())).collect())
    }

    /// Every name, in the order of the alphabet.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// Is there such an option?
    pub(super) fn has(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    /// What clap calls it.
    pub(super) fn id(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(Arg::get_id).map(Id::as_str)
    }

    /// Does it take several values?
    pub(super) fn is_list(&self, name: &str) -> bool {
        self.0.get(name).is_some_and(|arg| arg.get_value_delimiter().is_some())
    }

    /// Is it set by its name alone?
    pub(super) fn is_flag(&self, name: &str) -> bool {
        self.0.get(name).is_some_and(|arg| matches!(arg.get_action(), ArgAction::SetTrue))
    }

    /// The option set to a text; a flag by `true`, and left alone by `false`.
    pub(super) fn setting(&self, name: &str, text: String) -> Result<Option<super::Setting>, String> {
        if !self.is_flag(name) {
            return Ok(Some((name.to_owned(), Some(text))));
        }
        match text.as_str() {
            "true" => Ok(Some((name.to_owned(), None))),
            "false" => Ok(None),
            _ => Err(format!("expected true or false, not {text:?}")),
        }
    }

    /// What is to be said of a name that no option has.
    pub(super) fn unknown(&self, name: &str) -> String {
        let likeness = |known: &&str| strsim::jaro_winkler(known, name);
        let nearest = self.names().max_by(|one, other| likeness(one).total_cmp(&likeness(other)));
        match nearest.filter(|known| likeness(known) >= LIKE) {
            Some(known) => format!("unknown key {name:?}; did you mean {known:?}?"),
            None => {
                format!("unknown key {name:?}; `switchboard run --help` has all of them, without the dashes")
            }
        }
    }
}
