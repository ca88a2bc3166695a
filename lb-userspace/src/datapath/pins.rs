//! Where maps and links are pinned, and who may touch them.
//!
//! Decides the folder, `<root>/v<ABI_VERSION>` with `maps`, `links`, `layouts` (a folder `NAME-LAYOUT` for each map) and,
//! while a succession is under way, `before-N` with maps that were set aside; and that one agent at a time has it. Must
//! not know what is in a map. Invariant: nothing outside the root is created or removed.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use lb_common::abi::{ABI_VERSION, MAPS, MapName};
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

    /// The folder of maps.
    #[must_use]
    pub fn maps(&self) -> PathBuf {
        self.folder.join("maps")
    }

    /// Where a map is pinned.
    #[must_use]
    pub fn map(&self, name: MapName) -> PathBuf {
        self.maps().join(name.name)
    }

    /// The folder of links.
    #[must_use]
    pub fn links(&self) -> PathBuf {
        self.folder.join("links")
    }

    /// Where something is pinned for a moment.
    pub(super) fn passing(&self) -> PathBuf {
        self.folder.join("passing")
    }

    /// The pins of an agent that runs or has run.
    ///
    /// # Errors
    /// Where nothing is pinned; says what to do.
    pub fn in_use(root: &Path) -> anyhow::Result<Self> {
        let pins = Self::at(root);
        // One that was refused leaves an empty folder.
        let runs_here = !names_in(&pins.maps())?.is_empty();
        if let Some(other) = pins.other_versions()?.first().filter(|_| !runs_here) {
            bail!(
                "another version of switchboard runs here or has run: its pins are at {}; ask that version's tool",
                other.folder.display()
            );
        }
        anyhow::ensure!(
            runs_here,
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

    /// Has an agent of any version?
    ///
    /// # Errors
    /// Where the root cannot be read.
    pub fn any_exist(&self) -> anyhow::Result<bool> {
        Ok(self.exist() || !self.other_versions()?.is_empty())
    }

    /// Makes the folders.
    ///
    /// # Errors
    /// Where no BPF filesystem is mounted there, or rights are missing.
    pub fn prepare(&self) -> anyhow::Result<()> {
        self.check_filesystem()?;
        for folder in [self.maps(), self.links(), self.layouts()] {
            make(&folder)?;
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

    fn layouts(&self) -> PathBuf {
        self.folder.join("layouts")
    }

    /// Writes down which layouts the maps have.
    ///
    /// # Errors
    /// Where rights are missing.
    pub fn note_layouts(&self) -> anyhow::Result<()> {
        let wanted: Vec<String> = MAPS.iter().map(|map| format!("{}-{}", map.name, map.layout)).collect();
        for name in names_in(&self.layouts())?.into_iter().filter(|name| !wanted.contains(name)) {
            let path = self.layouts().join(name);
            fs::remove_dir(&path).with_context(|| format!("removing {}", path.display()))?;
        }
        wanted.iter().try_for_each(|name| make(&self.layouts().join(name)))
    }

    /// The layout that a map was made with, if that was written down.
    ///
    /// # Errors
    /// Where the folder cannot be read.
    pub fn layout(&self, map: MapName) -> anyhow::Result<Option<u32>> {
        let names = names_in(&self.layouts())?;
        let of_map = |name: &String| name.rsplit_once('-').filter(|(of, _)| *of == map.name)?.1.parse().ok();
        Ok(names.iter().find_map(of_map))
    }

    /// Folders of maps that were set aside, the oldest first.
    ///
    /// # Errors
    /// Where the folder cannot be read.
    pub fn set_aside(&self) -> anyhow::Result<Vec<PathBuf>> {
        Ok(self.set_aside_numbers()?.into_iter().map(|number| self.aside(number)).collect())
    }

    /// A folder for maps to be set aside, behind all others.
    ///
    /// # Errors
    /// Where the folder cannot be read.
    pub fn new_aside(&self) -> anyhow::Result<PathBuf> {
        let last = self.set_aside_numbers()?.last().copied();
        Ok(self.aside(last.map_or(0, |last| last + 1)))
    }

    fn set_aside_numbers(&self) -> anyhow::Result<Vec<usize>> {
        let number = |name: &String| name.strip_prefix(ASIDE)?.parse::<usize>().ok();
        let mut numbers: Vec<usize> = names_in(&self.folder)?.iter().filter_map(number).collect();
        numbers.sort_unstable();
        Ok(numbers)
    }

    fn aside(&self, number: usize) -> PathBuf {
        self.folder.join(format!("{ASIDE}{number}"))
    }

    /// The pins of another version, if there are any.
    ///
    /// # Errors
    /// Where the folder cannot be read, or there are several.
    pub fn other_version(&self) -> anyhow::Result<Option<Self>> {
        let mut others = self.other_versions()?;
        if others.len() > 1 {
            let all: Vec<String> = others.iter().map(|other| other.folder.display().to_string()).collect();
            bail!(
                "pins of several versions are in force: {}; stop their agents, and `switchboard cleanup` removes them all",
                all.join(", ")
            );
        }
        Ok(others.pop())
    }

    fn other_versions(&self) -> anyhow::Result<Vec<Self>> {
        let is_version = |name: &String| name.strip_prefix('v').is_some_and(|it| it.parse::<u32>().is_ok());
        let names = names_in(&self.root)?.into_iter().filter(is_version);
        let others = names.map(|name| Self { folder: self.root.join(name), root: self.root.clone() });
        Ok(others.filter(|other| other.folder != self.folder).collect())
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

    /// Removes every pin of every version, links first, so that no program runs without its maps; then the folders.
    ///
    /// # Errors
    /// Where rights are missing or an agent still runs.
    pub fn remove_all(&self) -> anyhow::Result<Removed> {
        let mut removed = Removed::default();
        for version in self.other_versions()?.iter().chain([self]) {
            let more = version.remove()?;
            removed.links.extend(more.links);
            removed.maps.extend(more.maps);
        }
        Ok(removed)
    }

    /// The same for this version alone.
    ///
    /// # Errors
    /// As [`Self::remove_all`].
    pub fn remove(&self) -> anyhow::Result<Removed> {
        let mut removed = Removed::default();
        if !self.exist() {
            return Ok(removed);
        }
        let lock = self.lock()?;
        // What an agent that was killed may have left.
        let _seldom_there = fs::remove_file(self.passing());
        removed.links = remove_files(&self.links())?;
        for folder in self.set_aside()?.iter().chain([&self.maps()]) {
            removed.maps.extend(Self::remove_maps(folder)?);
        }
        drop(lock);
        for name in names_in(&self.layouts())? {
            // What else is there is not ours, and shows below.
            let _ = fs::remove_dir(self.layouts().join(name));
        }
        let _may_not_be_there = fs::remove_dir(self.layouts());
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

    /// Removes a folder of maps; says which.
    ///
    /// # Errors
    /// Where rights are missing.
    pub fn remove_maps(folder: &Path) -> anyhow::Result<Vec<String>> {
        for name in names_in(folder)? {
            // Only folders go this way: what says that its rows were carried over.
            let _ = fs::remove_dir(folder.join(name));
        }
        remove_files(folder)
    }
}

/// Maps that were set aside for others, behind their number.
const ASIDE: &str = "before-";

fn make(folder: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(folder).with_context(|| {
        format!("making {} (needs root, or write access to the BPF filesystem)", folder.display())
    })
}

/// What is in a folder; nothing where there is none.
///
/// # Errors
/// Where it cannot be read.
pub(super) fn names_in(folder: &Path) -> anyhow::Result<Vec<String>> {
    let doing = || format!("listing {}", folder.display());
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).with_context(doing),
    };
    entries.map(|entry| Ok(entry.with_context(doing)?.file_name().to_string_lossy().into_owned())).collect()
}

fn remove_files(folder: &Path) -> anyhow::Result<Vec<String>> {
    if !folder.exists() {
        return Ok(Vec::new());
    }
    let mut names = names_in(folder)?;
    for name in &names {
        let path = folder.join(name);
        fs::remove_file(&path).with_context(|| format!("removing {}", path.display()))?;
    }
    fs::remove_dir(folder).with_context(|| format!("removing {}", folder.display()))?;
    names.sort();
    Ok(names)
}
