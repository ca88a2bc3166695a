//! One network namespace: entering it, running programs in it, configuring it.
//!
//! Decides how code gets inside; must not know what the namespace stands for in the lab. Invariant:
//! no thread of the caller ever changes its namespace or its cgroup; only threads made here do, and they end
//! there. `ip netns exec` is not used, because it would hide the bpffs and cgroup mounts.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use anyhow::{Context, Result, bail};
use nix::sched::{CloneFlags, setns};

use super::cgroup;

/// Where iproute2 keeps its named namespaces.
pub(crate) const NETNS_FOLDER: &str = "/run/netns";

/// A named network namespace, opened. Clones are handles of the same one.
///
/// A handle keeps the namespace's sockets alive even after the lab has removed its name.
#[derive(Clone, Debug)]
pub struct Netns {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    name: String,
    handle: File,
    /// Threads that enter join it too.
    cgroup: Option<PathBuf>,
}

impl Netns {
    /// Opens a namespace that exists under `/run/netns`.
    pub fn open(name: &str) -> Result<Self> {
        Self::open_with(name, None)
    }

    /// As [`Netns::open`]; whoever enters joins a cgroup as well.
    pub(super) fn open_with(name: &str, cgroup: Option<PathBuf>) -> Result<Self> {
        let path = Path::new(NETNS_FOLDER).join(name);
        let handle = File::open(&path).with_context(|| {
            format!("open network namespace {}; does `ip netns` list it?", path.display())
        })?;
        Ok(Self { inner: Arc::new(Inner { name: name.to_owned(), handle, cgroup }) })
    }

    /// The name as `ip netns` shows it.
    pub fn name(&self) -> &str {
        &self.inner.name
    }

    /// The file that stands for the namespace, as `nsenter --net=` takes it.
    pub fn path(&self) -> PathBuf {
        Path::new(NETNS_FOLDER).join(&self.inner.name)
    }

    /// The inode by which `/proc/PID/ns/net` names the namespace.
    pub fn inode(&self) -> io::Result<u64> {
        Ok(self.inner.handle.metadata()?.ino())
    }

    /// Runs `work` on a fresh thread inside the namespace and returns its value.
    ///
    /// Sockets opened inside stay in the namespace and may be used from any thread afterwards.
    ///
    /// # Panics
    /// When the namespace cannot be entered (no root), and with `work`'s own panic.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        thread::scope(|scope| {
            let inside = scope.spawn(|| {
                self.enter();
                work()
            });
            inside.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Starts a thread named `thread` (for debuggers) inside the namespace.
    pub fn spawn<T: Send + 'static>(
        &self,
        thread: &str,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> io::Result<JoinHandle<T>> {
        let netns = self.clone();
        thread::Builder::new().name(thread.to_owned()).spawn(move || {
            netns.enter();
            work()
        })
    }

    /// A command that runs `program` inside the namespace, in the caller's mount namespace.
    ///
    /// The process that is started becomes the program, so its id is the program's.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut net = std::ffi::OsString::from("--net=");
        net.push(self.path());
        let mut command = Command::new("nsenter");
        command.arg(net).arg("--").arg(program);
        command
    }

    /// Runs lines of `ip` (without the word `ip`) inside, as one batch.
    pub fn ip<S: AsRef<str>>(&self, lines: &[S]) -> Result<()> {
        ip_batch(Some(self.name()), lines)
    }

    /// As [`Netns::ip`], by `ip -6`: for rules, which do not tell their family by an address.
    pub(super) fn ip_v6<S: AsRef<str>>(&self, lines: &[S]) -> Result<()> {
        batch("ip", &["-6"], Some(self.name()), lines)
    }

    /// Runs lines of `bridge` (without the word `bridge`) inside, as one batch.
    pub fn bridge<S: AsRef<str>>(&self, lines: &[S]) -> Result<()> {
        batch("bridge", &[], Some(self.name()), lines)
    }

    /// Gives `nft` this text as one file, inside: all of it comes into force, or nothing.
    pub fn nft(&self, rules: &str) -> Result<()> {
        let said = feed(self.command("nft").args(["-f", "-"]), "nft", "nftables", rules)?;
        said.map_or(Ok(()), |said| bail!("`nft` in {} refused its rules: {}", self.name(), said.trim()))
    }

    /// Writes `/proc/sys/net/<key>`, e.g. `ipv4/ip_forward`, of the namespace.
    pub fn set_sysctl(&self, key: &str, value: &str) -> Result<()> {
        self.set_sysctls(&[(key, value)])
    }

    /// Writes several settings; see [`Netns::set_sysctl`].
    pub fn set_sysctls(&self, settings: &[(&str, &str)]) -> Result<()> {
        self.run(|| {
            for (key, value) in settings {
                let path = Path::new("/proc/sys/net").join(key);
                fs::write(&path, value)
                    .with_context(|| format!("write {value} to {} in {}", path.display(), self.name()))?;
            }
            Ok(())
        })
    }

    fn enter(&self) {
        if let Err(error) = setns(&self.inner.handle, CloneFlags::CLONE_NEWNET) {
            panic!(
                "enter network namespace {}: {error}; this needs root (see `cargo xtask test`)",
                self.name()
            );
        }
        if let Some(cgroup) = &self.inner.cgroup
            && let Err(error) = cgroup::join(cgroup)
        {
            panic!("join the cgroup {} of {}: {error}", cgroup.display(), self.name());
        }
    }
}

/// Runs lines of `ip` as one batch, in the namespace of that name or in the caller's.
///
/// On failure the error holds the line that failed and what `ip` said about it.
pub(crate) fn ip_batch<S: AsRef<str>>(netns: Option<&str>, lines: &[S]) -> Result<()> {
    batch("ip", &[], netns, lines)
}

/// As [`ip_batch`], for any program of iproute2.
fn batch<S: AsRef<str>>(program: &str, options: &[&str], netns: Option<&str>, lines: &[S]) -> Result<()> {
    if lines.is_empty() {
        return Ok(());
    }
    let place = netns.unwrap_or("the host's namespace");
    let mut command = Command::new(program);
    command.args(options);
    if let Some(name) = netns {
        command.args(["-n", name]);
    }
    let text = lines.iter().fold(String::new(), |text, line| text + line.as_ref() + "\n");
    let Some(said) = feed(command.args(["-batch", "-"]), program, "iproute2", &text)? else {
        return Ok(());
    };
    bail!("`{program} {}` in {place} failed: {}", failed_line(&said, lines), said.trim());
}

/// Runs a command with `text` on its standard input; what it said on standard error, if it failed.
fn feed(command: &mut Command, program: &str, package: &str, text: &str) -> Result<Option<String>> {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("start `{program}`; install {package} (`cargo xtask setup` does)"))?;
    let mut stdin = child.stdin.take().with_context(|| format!("`{program}` has no standard input"))?;
    // A failing line ends the program before it has read the rest: its own words say more.
    let _ = stdin.write_all(text.as_bytes());
    drop(stdin);
    let output = child.wait_with_output().with_context(|| format!("wait for `{program}`"))?;
    let failed = !output.status.success();
    Ok(failed.then(|| String::from_utf8_lossy(&output.stderr).into_owned()))
}

/// The line that "Command failed -:N" points at.
fn failed_line<'a, S: AsRef<str>>(said: &str, lines: &'a [S]) -> &'a str {
    said.rsplit_once("Command failed -:")
        .and_then(|(_, number)| number.trim().parse::<usize>().ok())
        .and_then(|number| lines.get(number.checked_sub(1)?))
        .map_or("-batch", |line| line.as_ref())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_failed_line_of_a_batch_is_named() {
        let lines = ["link add a type bridge", "link set b up"];
        assert_eq!(failed_line("Cannot find device \"b\"\nCommand failed -:2\n", &lines), "link set b up");
        assert_eq!(failed_line("Command failed -:9", &lines), "-batch");
        assert_eq!(failed_line("something else", &lines), "-batch");
    }
}
