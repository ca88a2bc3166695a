//! Which setting wins, what is refused, and that what is in force can be given again.

use clap::{CommandFactory as _, FromArgMatches as _};

use super::*;
use crate::cmd::Cli;

struct Files(tempfile::TempDir);

impl Files {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn write(&self, name: &str, text: &str) -> String {
        let path = self.0.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    }
}

fn expanded(arguments: &[&str], environment: &[(&str, &str)]) -> anyhow::Result<Expanded> {
    let arguments = ["switchboard"].iter().chain(arguments).map(OsString::from).collect();
    let environment: BTreeMap<String, OsString> =
        environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).into())).collect();
    expand(&Cli::command(), arguments, |name| environment.get(name).cloned())
}

/// What would be in force, as YAML.
fn in_force(arguments: &[&str], environment: &[(&str, &str)]) -> String {
    let expanded = expanded(arguments, environment).unwrap();
    let command = Cli::command();
    let matches = command.clone().try_get_matches_from(&expanded.arguments).unwrap();
    Cli::from_arg_matches(&matches).unwrap();
    effective(&command, matches.subcommand_matches("run").unwrap(), &expanded)
}

fn line<'a>(text: &'a str, name: &str) -> &'a str {
    text.lines().find(|line| line.starts_with(&format!("{name}: "))).unwrap_or("")
}

#[test]
fn the_command_line_wins_over_the_environment_over_the_file_over_kube_proxys() {
    let files = Files::new();
    let own =
        files.write("own.yaml", "path: /own\npin-dir: /own\nmax-flows: 100\nhealth-check-node-ports: off\n");
    let kube_proxy = files.write(
        "kube-proxy.yaml",
        "kind: KubeProxyConfiguration\nhostnameOverride: theirs\nmetricsBindAddress: 0.0.0.0\n",
    );
    let config = format!("--config={own}");
    let theirs = format!("--kube-proxy-config={kube_proxy}");
    let environment = [("SWITCHBOARD_MAX_FLOWS", "200"), ("SWITCHBOARD_PATH", "/env")];
    let text = in_force(&["run", &config, &theirs, "--path=/line"], &environment);
    assert_eq!(line(&text, "path"), "path: \"/line\" # the command line");
    assert_eq!(line(&text, "max-flows"), "max-flows: 200 # the environment: SWITCHBOARD_MAX_FLOWS");
    assert_eq!(line(&text, "pin-dir"), format!("pin-dir: \"/own\" # {own}"));
    assert_eq!(line(&text, "health-check-node-ports"), format!("health-check-node-ports: \"off\" # {own}"));
    assert!(
        line(&text, "metrics-bind-address")
            .starts_with("metrics-bind-address: \"0.0.0.0:10249\" # kube-proxy's")
    );
    assert_eq!(line(&text, "healthz-bind-address"), "healthz-bind-address: \"[::]:10256\" # default");
}

#[test]
fn what_is_in_force_is_in_force_again_when_it_is_given_as_a_file() {
    let files = Files::new();
    let first = in_force(&["run", "--path=/a b", "--pod-interfaces=veth*,cni0", "--node=n1"], &[]);
    let path = files.write("effective.yaml", &first);
    let again = in_force(&["run", "--config", &path], &[]);
    let bare = |text: &str| -> Vec<String> {
        text.lines().map(|line| line.rsplit_once(" # ").map_or(line, |(set, _)| set).to_owned()).collect()
    };
    assert_eq!(bare(&again), bare(&first));
    assert_eq!(line(&first, "pod-interfaces"), "pod-interfaces: [\"veth*\", \"cni0\"] # the command line");
}

#[test]
fn unknown_keys_are_refused_each_with_the_nearest_known_name() {
    let files = Files::new();
    let path = files.write("own.yaml", "helthz-bind-address: off\nqwertyuiop: 1\npath: [[]]\n");
    let message = format!("{:#}", expanded(&["run", "--config", &path], &[]).unwrap_err());
    for part in [
        path.as_str(),
        "\"helthz-bind-address\"; did you mean \"healthz-bind-address\"?",
        "\"qwertyuiop\"; `switchboard run --help`",
        "path: expected a text",
    ] {
        assert!(message.contains(part), "{part} is missing in: {message}");
    }
    let message = format!("{:#}", expanded(&["run", "--config", "/nowhere.yaml"], &[]).unwrap_err());
    assert!(message.contains("/nowhere.yaml"), "{message}");
}

#[test]
fn the_file_may_be_named_in_the_environment_and_other_commands_read_none() {
    let files = Files::new();
    let path = files.write("own.yaml", "path: /own\nlog-level: debug\n");
    let environment = [("SWITCHBOARD_CONFIG", path.as_str())];
    let text = in_force(&["run"], &environment);
    assert_eq!(line(&text, "path"), format!("path: \"/own\" # {path}"));
    assert!(line(&text, "log-level").contains("debug"), "options of every command, too: {text}");
    let check = expanded(&["check", "/folder"], &environment).unwrap();
    assert_eq!((check.arguments.len(), check.origins.len()), (3, 0));
}
