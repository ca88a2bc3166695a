//! Where maps and links are pinned, and who may touch them.
//!
//! Decides the folder (`<root>/v<ABI_VERSION>/{maps,links}`) and that one agent at a time has it. Must not
//! know what is in a map. Invariant: nothing outside the root is created or removed.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use lb_common::abi::{ABI_VERSION, MapName};
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};

/// The folder that pins live under unless an option says otherwise.
pub const DEFAULT_ROOT: &str = "/sys/fs/bpf/switchboard";

/// The pins of one agent.
#[derive(Clone, Debug)]
pub struct Pins {
    root: PathBuf,
    folder: PathBuf,
}

/// The right to change what is pinned; gone when dropped, or when the process ends however it ends.
#[derive(Debug)]
pub struct Lock(Flock<fs::File>);

impl Lock {
    /// Is it of the folder that is there now? One that was deleted and made again is another.
    #[must_use]
    pub fn is_of(&self, pins: &Pins) -> bool {
        let number = |metadata: std::io::Result<fs::Metadata>| metadata.ok().map(|metadata| metadata.ino());
        number(self.0.metadata()) == number(fs::metadata(pins.folder()))
    }
}

/// What a cleanup removed.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Removed {
    /// Links: programs that hung on interfaces.
    pub links: Vec<String>,
    /// Maps.
    pub maps: Vec<String>,
}

impl Pins {
    /// The pins under `root`.
    #[must_use]
    pub fn at(root: &Path) -> Self {
        Self { root: root.to_owned(), folder: root.join(format!("v{ABI_VERSION}")) }
    }

    /// The folder of this layout's version.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Where a map is pinned.
    #[must_use]
    pub fn map(&self, name: MapName) -> PathBuf {
        self.folder.join("maps").join(name.name)
    }

    /// The folder of links.
    #[must_use]
    pub fn links(&self) -> PathBuf {
        self.folder.join("links")
    }

    /// The pins of an agent that runs or has run.
    ///
    /// # Errors
    /// Where nothing is pinned; says what to do.
    pub fn in_use(root: &Path) -> anyhow::Result<Self> {
        let pins = Self::at(root);
        anyhow::ensure!(
            pins.exist(),
            "nothing is pinned at {}: no agent has run here; start one with `switchboard run`, or name its folder with --pin-dir",
            pins.folder().display()
        );
        Ok(pins)
    }

    /// Has an agent pinned anything here?
    #[must_use]
    pub fn exist(&self) -> bool {
        self.folder.is_dir()
    }

    /// Makes the folders.
    ///
    /// # Errors
    /// Where no BPF filesystem is mounted there, another version's pins are in force, or rights are missing.
    pub fn prepare(&self) -> anyhow::Result<()> {
        self.check_filesystem()?;
        if let Some(other) = self.other_version()? {
            bail!(
                "pins of another version are in force at {}: upgrade by that version's `switchboard migrate`, or \
                 remove them with its `switchboard cleanup` (connections then lose their translation)",
                other.display()
            );
        }
        for folder in [self.folder.join("maps"), self.links()] {
            fs::create_dir_all(&folder).with_context(|| {
                format!("making {} (needs root, or write access to the BPF filesystem)", folder.display())
            })?;
        }
        fs::set_permissions(&self.root, fs::Permissions::from_mode(0o700))
            .with_context(|| format!("closing {} to others", self.root.display()))
    }

    /// Is the folder on a BPF filesystem, or will it be?
    ///
    /// # Errors
    /// Where it is not; says what to do.
    pub fn check_filesystem(&self) -> anyhow::Result<()> {
        let existing = self.root.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
        let kind = statfs(existing).with_context(|| format!("asking what holds {}", existing.display()))?;
        if kind.filesystem_type() != BPF_FS_MAGIC {
            bail!(
                "{} is on no BPF filesystem, so nothing pinned there would outlive the agent: mount one \
                 (`mount -t bpf bpf /sys/fs/bpf`; in a container, pass the host's in), or name another folder with --pin-dir",
                self.root.display()
            );
        }
        Ok(())
    }

    fn other_version(&self) -> anyhow::Result<Option<PathBuf>> {
        let Ok(entries) = fs::read_dir(&self.root) else { return Ok(None) };
        for entry in entries {
            let path = entry.with_context(|| format!("listing {}", self.root.display()))?.path();
            let version =
                path.file_name().and_then(|name| name.to_str()).and_then(|name| name.strip_prefix('v'));
            if path != self.folder && version.is_some_and(|version| version.parse::<u32>().is_ok()) {
                return Ok(Some(path));
            }
        }
        Ok(None)
    }

    /// Takes the right to change what is pinned.
    ///
    /// # Errors
    /// Where another agent has it.
    pub fn lock(&self) -> anyhow::Result<Lock> {
        let folder = fs::File::open(&self.folder)
            .with_context(|| format!("opening {} to lock it", self.folder.display()))?;
        match Flock::lock(folder, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => Ok(Lock(lock)),
            Err((_, Errno::EWOULDBLOCK)) => bail!(
                "another switchboard agent runs on {}: stop it first, or give this one a folder of its own with --pin-dir",
                self.root.display()
            ),
            Err((_, errno)) => Err(errno).with_context(|| format!("locking {}", self.folder.display())),
        }
    }

    /// Removes every pin of this version, links first, so that no program runs without its maps; then the folders.
    ///
    /// # Errors
    /// Where rights are missing or an agent still runs.
    pub fn remove(&self) -> anyhow::Result<Removed> {
        let mut removed = Removed::default();
        if !self.exist() {
            return Ok(removed);
        }
        let lock = self.lock()?;
        removed.links = remove_files(&self.links())?;
        removed.maps = remove_files(&self.folder.join("maps"))?;
        drop(lock);
        for folder in [&self.folder, &self.root] {
            // The root may hold what is not ours.
            if let Err(error) = fs::remove_dir(folder)
                && folder == &self.folder
            {
                return Err(error).with_context(|| format!("removing {}", folder.display()));
            }
        }
        Ok(removed)
    }
}

fn remove_files(folder: &Path) -> anyhow::Result<Vec<String>> {
    let mut names = Vec::new();
    let Ok(entries) = fs::read_dir(folder) else { return Ok(names) };
    for entry in entries {
        let path = entry.with_context(|| format!("listing {}", folder.display()))?.path();
        fs::remove_file(&path).with_context(|| format!("removing {}", path.display()))?;
        names.push(path.file_name().unwrap_or_default().to_string_lossy().into_owned());
    }
    fs::remove_dir(folder).with_context(|| format!("removing {}", folder.display()))?;
    names.sort();
    Ok(names)
}
