//! A running agent.
//!
//! Decides when a wait is over and how the process ends; must not know what the lines of its log
//! stand for, beyond "in sync". Invariant: each line is handed to a waiter at most once, so a wait
//! never succeeds by a line that an earlier wait has seen.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::{Child, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::binary::binary;
use super::journal::Journal;
use super::log::{InSync, LogLine};
use crate::lab::Node;
use crate::poll;

/// Lines of the log that an error message shows.
const TAIL: usize = 15;

/// Pause between two looks at the log.
const PAUSE: Duration = Duration::from_millis(2);

/// How long a process may take to end after SIGTERM before it is killed.
const END_LIMIT: Duration = Duration::from_secs(10);

/// Where an agent's objects come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Objects {
    /// A folder of manifests, which it reads and watches.
    Folder(PathBuf),
    /// An API server at this address (`http://HOST:PORT`), without credentials.
    ApiServer(String),
}

/// How an agent is to run.
#[derive(Clone, Debug)]
pub struct AgentConfig {
    /// Where its objects come from.
    pub objects: Objects,
    /// Options besides those that the lab gives.
    pub extra_args: Vec<String>,
    /// Environment besides the caller's own, as (name, value).
    pub env: Vec<(String, String)>,
    /// The program; none for the one that [`binary`] finds. For upgrades, and stand-ins.
    pub program: Option<PathBuf>,
}

impl AgentConfig {
    /// Reads manifests from this folder, without further options.
    pub fn new(manifests: impl Into<PathBuf>) -> Self {
        Self::reading(Objects::Folder(manifests.into()))
    }

    /// Watches the API server at this address, without further options.
    pub fn watching(url: impl Into<String>) -> Self {
        Self::reading(Objects::ApiServer(url.into()))
    }

    fn reading(objects: Objects) -> Self {
        Self { objects, extra_args: Vec::new(), env: Vec::new(), program: None }
    }

    /// Runs this program instead of the one that [`binary`] finds.
    pub fn program(mut self, program: impl Into<PathBuf>) -> Self {
        self.program = Some(program.into());
        self
    }

    /// Adds an option, e.g. `--log-level=debug`.
    pub fn arg(mut self, arg: impl Into<String>) -> Self {
        self.extra_args.push(arg.into());
        self
    }
}

/// `switchboard run` in a node's namespace. Killed when dropped.
#[derive(Debug)]
pub struct Agent {
    node: Node,
    config: AgentConfig,
    run: Run,
    /// Lines of the present run that waits have looked at.
    waited: usize,
}

/// One run of the process.
#[derive(Debug)]
struct Run {
    child: Child,
    journal: Journal,
}

impl Agent {
    /// Starts the agent of a node. It logs to `node.log_file`, added to what is there.
    pub fn start(node: &Node, config: AgentConfig) -> Result<Self> {
        let run = spawn(node, &config).with_context(|| format!("start the agent of {}", node.name))?;
        Ok(Self { node: node.clone(), config, run, waited: 0 })
    }

    /// The agent's process id.
    pub fn pid(&self) -> u32 {
        self.run.child.id()
    }

    /// Whether the process has not ended.
    pub fn is_running(&mut self) -> bool {
        matches!(self.run.child.try_wait(), Ok(None))
    }

    /// All lines of the present run, so far.
    pub fn lines(&mut self) -> Result<&[LogLine]> {
        self.run.journal.lines()
    }

    /// All reports of being in sync of the present run, so far.
    pub fn in_syncs(&mut self) -> Result<Vec<InSync>> {
        Ok(self.lines()?.iter().filter_map(LogLine::in_sync).collect())
    }

    /// Waits for the next report of being in sync that no earlier wait has seen.
    pub fn wait_in_sync(&mut self, limit: Duration) -> Result<InSync> {
        self.wait_for(limit, |_| true)
    }

    /// Waits for the next report of being in sync that `wanted` accepts; those before it are passed
    /// over, for later waits too.
    pub fn wait_for(&mut self, limit: Duration, mut wanted: impl FnMut(&InSync) -> bool) -> Result<InSync> {
        self.wait("`in sync` as wanted", limit, |line| line.in_sync().filter(|report| wanted(report)))
    }

    /// Waits for the next line that `wanted` accepts, as [`Agent::wait_for`] does.
    pub fn wait_for_line(
        &mut self,
        what: &str,
        limit: Duration,
        mut wanted: impl FnMut(&LogLine) -> bool,
    ) -> Result<LogLine> {
        self.wait(what, limit, |line| wanted(line).then(|| line.clone()))
    }

    fn wait<T>(
        &mut self,
        what: &str,
        limit: Duration,
        mut pick: impl FnMut(&LogLine) -> Option<T>,
    ) -> Result<T> {
        let start = Instant::now();
        loop {
            // Asked before the lines are read: what it logged at its end must not be missed.
            let ended = self.ended();
            let lines = self.run.journal.lines()?;
            for line in lines.iter().skip(self.waited) {
                self.waited += 1;
                if let Some(found) = pick(line) {
                    return Ok(found);
                }
            }
            let who = &self.node.name;
            if let Some(status) = ended {
                bail!(
                    "the agent of {who} ended ({status}) before it logged {what}{}",
                    tail(lines, &self.node)
                );
            }
            if start.elapsed() >= limit {
                bail!(
                    "waited {limit:?} for the agent of {who} to log {what}, in vain{}",
                    tail(lines, &self.node)
                );
            }
            std::thread::sleep(PAUSE);
        }
    }

    fn ended(&mut self) -> Option<ExitStatus> {
        self.run.child.try_wait().ok().flatten()
    }

    /// Kills the agent as a crash does (SIGKILL) and waits until it is gone.
    pub fn kill9(&mut self) -> Result<()> {
        self.run.child.kill().context("kill the agent")?;
        self.run.child.wait().context("wait for the killed agent")?;
        Ok(())
    }

    /// Asks the agent to end (SIGTERM) and waits until it has.
    pub fn terminate(&mut self) -> Result<ExitStatus> {
        self.signal(Signal::SIGTERM)?;
        self.wait_end(END_LIMIT)
    }

    /// Waits for the process to end by itself.
    pub fn wait_end(&mut self, limit: Duration) -> Result<ExitStatus> {
        let name = self.node.name.clone();
        poll::until(&format!("the agent of {name} to end"), limit, || {
            self.ended().ok_or_else(|| format!("process {} still runs", self.pid()))
        })
    }

    /// Sends a signal to the process, if it still runs.
    pub fn signal(&mut self, signal: Signal) -> Result<()> {
        if self.is_running() {
            let pid = Pid::from_raw(i32::try_from(self.pid()).context("process id")?);
            kill(pid, signal).with_context(|| format!("send {signal} to the agent of {}", self.node.name))?;
        }
        Ok(())
    }

    /// Starts it again with the same options, after killing it if it still runs. Lines and waits
    /// begin anew.
    pub fn restart(&mut self) -> Result<()> {
        self.restart_with(self.config.clone())
    }

    /// As [`Agent::restart`], with other options.
    pub fn restart_with(&mut self, config: AgentConfig) -> Result<()> {
        self.kill9()?;
        self.run = spawn(&self.node, &config)
            .with_context(|| format!("start the agent of {} again", self.node.name))?;
        self.config = config;
        self.waited = 0;
        Ok(())
    }

    /// Lets the process go on after this program has ended (see [`crate::lab::Lab::keep`]).
    pub fn let_go(self) {
        std::mem::forget(self);
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        // It may have ended already, which is all that is wanted.
        let _ = self.kill9();
    }
}

/// The log's last lines, as the end of a message.
fn tail(lines: &[LogLine], node: &Node) -> String {
    let last = lines.iter().skip(lines.len().saturating_sub(TAIL));
    let text = last.fold(String::new(), |text, line| text + "\n  " + &line.text);
    format!("; its log is {}, and ends:{text}", node.log_file.display())
}

fn spawn(node: &Node, config: &AgentConfig) -> Result<Run> {
    let mut command = node.netns.command(config.program.clone().unwrap_or_else(binary));
    let source = match &config.objects {
        Objects::Folder(_) => "file",
        Objects::ApiServer(_) => "kube",
    };
    command.args(["run", "--source", source, "--log-format", "json", "--node", &node.name]);
    match &config.objects {
        Objects::Folder(folder) => command.arg("--path").arg(folder),
        // Neither a person's kubeconfig nor the pod that the tests may run in is of concern.
        Objects::ApiServer(url) => {
            command.args(["--apiserver", url]).env("HOME", "/").env_remove("KUBECONFIG")
        }
    };
    command.arg("--pin-dir").arg(&node.pin_folder);
    command.args(socket_options(node, &config.extra_args)).args(&config.extra_args);
    command.envs(config.env.iter().map(|(name, value)| (name, value)));
    let (journal, writer) = Journal::open(&node.log_file, &format!("{command:?}"))?;
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(writer);
    let child = command.spawn().context("start `nsenter`; `cargo xtask setup` installs it (util-linux)")?;
    Ok(Run { child, journal })
}

/// The node's own cgroup for the agent's socket hooks, so that nobody else on this machine runs through them; unless the
/// test says where.
fn socket_options(node: &Node, args: &[String]) -> Vec<OsString> {
    let given = |option: &str| args.iter().any(|arg| arg.split('=').next() == Some(option));
    match &node.cgroup {
        _ if given("--cgroup") => Vec::new(),
        Some(cgroup) => vec!["--cgroup".into(), cgroup.into()],
        None if given("--socket-lb") => Vec::new(),
        None => vec!["--socket-lb".into(), "off".into()],
    }
}
