//! The command line: one file or folder per subcommand.
//!
//! Decides names, options and exit codes. Knows everyone and decides nothing of what they do. Invariant: what
//! goes to stdout is the answer; everything else goes to stderr.

pub mod check;
pub mod cleanup;
pub mod complete;
pub mod doctor;
pub mod explain;
pub mod get;
mod node;
mod node_settings;
mod objects;
pub mod output;
pub mod plan;
pub mod run;
mod settings;

use std::io::IsTerminal as _;
use std::process::ExitCode;

use clap::{CommandFactory as _, FromArgMatches as _, Parser, Subcommand, ValueEnum};
use tracing_subscriber::EnvFilter;

/// The API server's client logs what it returns, too; `source::kube` tells it better.
const QUIET: &str = "kube_client=off,kube_runtime=off";

/// An eBPF load balancer for Kubernetes Services.
#[derive(Clone, Debug, Parser)]
#[command(
    name = "switchboard",
    version,
    propagate_version = true,
    after_help = "Exit codes: 0 all well, 1 failed, 2 wrong usage, 3 findings that need a look."
)]
pub struct Cli {
    /// How log lines look.
    #[arg(long, value_enum, default_value_t, global = true)]
    log_format: LogFormat,
    /// What is logged: error, warn, info, debug, trace, or per module as in `info,lb_userspace::net=debug`.
    #[arg(long, env = "RUST_LOG", default_value = "info", global = true)]
    log_level: String,
    #[command(subcommand)]
    command: Command,
    /// What `run` would run with, as a configuration file; empty for every other command.
    #[arg(skip)]
    effective: String,
    /// What is to be told of settings without a meaning.
    #[arg(skip)]
    notes: Vec<String>,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

#[derive(Clone, Debug, Subcommand)]
enum Command {
    Run(Box<run::Args>),
    Check(check::Args),
    Plan(Box<plan::Args>),
    Get(get::Args),
    Explain(explain::Args),
    Doctor(doctor::Args),
    Cleanup(cleanup::Args),
    Complete(complete::Args),
}

impl Cli {
    /// Reads the command line and, for `run`, the environment and configuration files. Ends the process where the
    /// command line is wrong or asks for help.
    ///
    /// # Errors
    /// Where a file cannot be read, or has what means nothing.
    pub fn read() -> anyhow::Result<Self> {
        let command = Self::command();
        let given = std::env::args_os().collect();
        let expanded = settings::expand(&command, given, |name| std::env::var_os(name))?;
        let matches = command.clone().try_get_matches_from(&expanded.arguments);
        let read = matches.and_then(|matches| Ok((Self::from_arg_matches(&matches)?, matches)));
        let (mut cli, matches) = read.unwrap_or_else(|error| {
            if error.use_stderr() {
                let named = error.to_string();
                let elsewhere = |(name, _): &(&String, &String)| named.contains(&format!("--{name}"));
                for (name, origin) in expanded.origins.iter().filter(elsewhere) {
                    eprintln!("note: --{name} was set by {origin}");
                }
            }
            error.exit()
        });
        if let Some(run) = matches.subcommand_matches("run") {
            cli.effective = settings::effective(&command, run, &expanded);
            cli.notes = expanded.notes;
        }
        Ok(cli)
    }

    /// Does what the command line says.
    ///
    /// # Errors
    /// Where that failed; the message says what was tried and what to do.
    pub fn run(&self) -> anyhow::Result<ExitCode> {
        self.start_logging()?;
        if let Command::Run(args) = &self.command
            && args.dry_run()
        {
            output::print_text(&self.effective)?;
            return Ok(ExitCode::SUCCESS);
        }
        self.notes.iter().for_each(|note| tracing::info!("{note}"));
        match &self.command {
            Command::Run(args) => run::run(args),
            Command::Check(args) => check::run(args),
            Command::Plan(args) => plan::run(args),
            Command::Get(args) => get::run(args),
            Command::Explain(args) => explain::run(args),
            Command::Doctor(args) => doctor::run(args),
            Command::Cleanup(args) => cleanup::run(args),
            Command::Complete(args) => Ok(complete::run(args)),
        }
    }

    fn start_logging(&self) -> anyhow::Result<()> {
        let filter = EnvFilter::try_new(format!("{QUIET},{}", self.log_level))
            .map_err(|error| anyhow::anyhow!("--log-level {}: {error}", self.log_level))?;
        let log = tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_writer(std::io::stderr)
            .with_ansi(std::io::stderr().is_terminal())
            .with_target(false);
        match self.log_format {
            LogFormat::Text => log.init(),
            LogFormat::Json => log.json().init(),
        }
        Ok(())
    }
}
