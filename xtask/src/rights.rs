//! Whether this process is root, and how it can get there. Knows nothing about what root is
//! wanted for: the caller brings the reason. Invariant: nothing runs through sudo without a
//! sentence that says why.

use std::{env, io::IsTerminal as _, os::unix::process::CommandExt as _, process::Command};

use anyhow::{Context as _, Result, bail};

/// How this process can do what only root may.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rights {
    /// It is root.
    Root,
    /// It is not, but sudo is installed.
    Sudo,
    /// It is not, and there is no sudo.
    None,
}

impl Rights {
    /// Asks the machine.
    pub(crate) fn find() -> Self {
        if nix::unistd::geteuid().is_root() {
            Self::Root
        } else if which::which("sudo").is_ok() {
            Self::Sudo
        } else {
            Self::None
        }
    }

    /// A command that runs `program` as root, or `None` where that is out of reach.
    pub(crate) fn command(self, program: &str) -> Option<Command> {
        match self {
            Self::Root => Some(Command::new(program)),
            Self::Sudo => {
                let mut command = Command::new("sudo");
                // Where nobody can type a password, sudo must fail instead of waiting for one.
                if !std::io::stdin().is_terminal() {
                    command.arg("-n");
                }
                command.arg(program);
                Some(command)
            }
            Self::None => None,
        }
    }
}

/// Returns at once for root. Otherwise replaces this process by itself, started through
/// `sudo -E` with the same arguments; `why` completes the sentence "root is needed to ...".
///
/// # Errors
/// Where there is no sudo, or it cannot be started.
pub(crate) fn become_root(why: &str) -> Result<()> {
    match Rights::find() {
        Rights::Root => Ok(()),
        Rights::Sudo => {
            crate::terminal::note(&format!("root is needed to {why}: going on through sudo -E"));
            let xtask = env::current_exe().context("finding the path of xtask itself")?;
            let path = env::var("PATH").unwrap_or_default();
            let error = Command::new("sudo")
                .args(["-E", "env", &format!("PATH={path}")])
                .arg(xtask)
                .args(env::args_os().skip(1))
                .exec();
            Err(error).context("starting sudo")
        }
        Rights::None => bail!(
            "root is needed to {why}, this is user {}, and there is no sudo here; run it as root",
            nix::unistd::geteuid()
        ),
    }
}
