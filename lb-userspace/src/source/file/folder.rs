//! A folder, read file by file.
//!
//! Decides what is read again (only what changed), what a broken file is worth (its last good
//! objects), and who wins where two files define one object (the first by path). Must not know
//! when to read. Invariant: a snapshot names each object once.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::UnreadableFolder;
use super::host::Host;
use super::objects::{self, Contents};
use super::tree::{MAX_BYTES, Place};
use crate::model::{Object, ObjectKey};
use crate::source::finding::{Finding, Severity};

/// Everything that a folder says at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// Each object once, in the order of files and places.
    pub objects: Vec<Object>,
    /// What is to be told, in the same order.
    pub findings: Vec<Finding>,
    /// How many objects of kinds that are of no use here.
    pub ignored: BTreeMap<String, u64>,
    /// How many files were read.
    pub files: usize,
}

/// A folder of manifests and what was last read from it.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    files: BTreeMap<PathBuf, File>,
}

/// A file as it was last read.
#[derive(Debug, Default)]
struct File {
    /// Of the text that was last looked at.
    fingerprint: Option<u64>,
    /// What was last read without a syntax error.
    good: Contents,
    /// Why `good` is not what the file says now.
    broken: Option<Finding>,
}

/// Reads a folder, or one file, once.
///
/// # Errors
/// If there is no such folder or file, or it may not be read.
pub fn read_once(path: &Path) -> Result<Snapshot, UnreadableFolder> {
    Folder::new(path).read(&BTreeSet::new())
}

impl Folder {
    /// Nothing read yet.
    #[must_use]
    pub fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), files: BTreeMap::new() }
    }

    /// Reads what changed since the last time. Files in `unfinished` are being written and keep
    /// what they last said.
    ///
    /// # Errors
    /// If there is no such folder or file, or it may not be read; what was read before is kept.
    pub fn read(&mut self, unfinished: &BTreeSet<PathBuf>) -> Result<Snapshot, UnreadableFolder> {
        let Listing { files: listed, mut findings } = list(&self.path)?;
        let mut kept = BTreeMap::new();
        for path in listed {
            let known = self.files.remove(&path);
            let file = match known {
                Some(known) if unfinished.contains(&path) => Some(known),
                known => read_file(&path, known),
            };
            if let Some(file) = file {
                kept.insert(path, file);
            }
        }
        self.files = kept;
        if self.files.is_empty() {
            let message = "there is no *.yaml, *.yml or *.json file in it, so there is nothing to balance";
            findings.push(Finding::note(&self.path, message));
        }
        Ok(self.snapshot(findings))
    }

    fn snapshot(&self, findings: Vec<Finding>) -> Snapshot {
        let mut snapshot = Snapshot { findings, files: self.files.len(), ..Snapshot::default() };
        let mut defined: BTreeMap<&ObjectKey, (&Path, Place)> = BTreeMap::new();
        for (path, file) in &self.files {
            snapshot.findings.extend(file.broken.iter().chain(&file.good.findings).cloned());
            for (kind, objects) in &file.good.ignored {
                *snapshot.ignored.entry(kind.clone()).or_default() += objects;
            }
            for entry in &file.good.entries {
                snapshot.findings.extend(entry.findings.iter().cloned());
                let Some(object) = &entry.object else { continue };
                if let Some((first, place)) = defined.get(&entry.key) {
                    let message = format!(
                        "defined at {}:{place} already, which counts; remove one of the two",
                        first.display()
                    );
                    let finding = Finding::problem(path, message).at(entry.at).about(entry.key.clone());
                    snapshot.findings.push(finding);
                } else {
                    defined.insert(&entry.key, (path, entry.at));
                    snapshot.objects.push(object.clone());
                }
            }
        }
        for (kind, objects) in &snapshot.ignored {
            let message = format!(
                "{objects} of kind {kind} ignored: only Services, EndpointSlices, Nodes and ServiceCIDRs count"
            );
            snapshot.findings.push(Finding::note(&self.path, message));
        }
        snapshot
    }
}

impl Snapshot {
    /// Adds a Node made of `host` where there is none of its name, and says so (contract C4).
    #[must_use]
    pub fn with_node(mut self, host: &Host, path: &Path) -> Self {
        let is_it = |object: &Object| matches!(object, Object::Node(node) if node.name == host.name);
        if !self.objects.iter().any(is_it) {
            let node = host.node();
            let addresses: Vec<String> = node.internal_ips.iter().map(ToString::to_string).collect();
            let message = format!(
                "there is no Node {} here, so one is made of the host's addresses ({}); its zone is unknown",
                host.name,
                if addresses.is_empty() { "none".to_owned() } else { addresses.join(", ") },
            );
            self.findings.push(Finding::note(path, message).about(ObjectKey::Node(host.name.clone())));
            self.objects.push(Object::Node(node));
        }
        self
    }

    /// Is anything that was written not in force?
    #[must_use]
    pub fn has_problems(&self) -> bool {
        self.findings.iter().any(|finding| finding.severity == Severity::Problem)
    }
}

struct Listing {
    files: Vec<PathBuf>,
    findings: Vec<Finding>,
}

fn list(path: &Path) -> Result<Listing, UnreadableFolder> {
    let refused = |error: std::io::Error| match error.kind() {
        ErrorKind::NotFound => UnreadableFolder::Missing(path.to_owned()),
        _ => UnreadableFolder::Refused { path: path.to_owned(), reason: error.to_string() },
    };
    let mut listing = Listing { files: Vec::new(), findings: Vec::new() };
    if path.metadata().map_err(refused)?.is_file() {
        listing.files.push(path.to_owned());
        return Ok(listing);
    }
    for entry in path.read_dir().map_err(refused)? {
        let path = entry.map_err(refused)?.path();
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        if name.starts_with('.') {
            continue;
        }
        let is_manifest = [".yaml", ".yml", ".json"].iter().any(|ending| name.ends_with(ending));
        if path.is_dir() {
            let message = "a folder inside the folder is not read; move its files up, or run on it";
            listing.findings.push(Finding::note(&path, message));
        } else if is_manifest {
            listing.files.push(path);
        }
    }
    listing.files.sort();
    listing.findings.sort_by(|a, b| a.file.cmp(&b.file));
    Ok(listing)
}

/// `None`: it is gone meanwhile.
fn read_file(path: &Path, known: Option<File>) -> Option<File> {
    let text = match text_of(path) {
        Ok(text) => text?,
        Err(reason) => {
            let known = known.unwrap_or_default();
            return Some(File { fingerprint: None, broken: Some(Finding::problem(path, reason)), ..known });
        }
    };
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    let fingerprint = Some(hasher.finish());
    let known = known.unwrap_or_default();
    if known.fingerprint == fingerprint {
        return Some(known);
    }
    Some(match objects::read(path, &text) {
        Ok(mut good) => {
            keep_last_good(&mut good, known.good);
            File { fingerprint, good, broken: None }
        }
        Err(error) => {
            let fate = if known.good.entries.is_empty() {
                "nothing of this file counts"
            } else {
                "the file's last good objects stay in force"
            };
            let message = format!("does not parse: {}; {fate} until it is corrected", error.reason);
            File { fingerprint, good: known.good, broken: Some(Finding::problem(path, message).at(error.at)) }
        }
    })
}

/// An object that cannot be read stays what it last was.
fn keep_last_good(new: &mut Contents, old: Contents) {
    let mut last: BTreeMap<ObjectKey, Object> =
        old.entries.into_iter().filter_map(|entry| Some((entry.key, entry.object?))).collect();
    for entry in new.entries.iter_mut().filter(|entry| entry.object.is_none()) {
        entry.object = last.remove(&entry.key);
        if entry.object.is_some() {
            let message = "its last good state stays in force";
            let finding = Finding::note(
                entry.findings.first().and_then(|f| f.file.clone()).unwrap_or_default(),
                message,
            );
            entry.findings.push(finding.at(entry.at).about(entry.key.clone()));
        }
    }
}

/// The text; `None` where the file is gone; a reason where it cannot be read.
fn text_of(path: &Path) -> Result<Option<String>, String> {
    match path.metadata() {
        Ok(meta) if meta.len() > MAX_BYTES => {
            return Err(format!(
                "larger than {} MiB, not read; split it into several files",
                MAX_BYTES >> 20
            ));
        }
        Ok(meta) if !meta.is_file() => return Err("no regular file, not read".to_owned()),
        _ => {}
    }
    match std::fs::read(path) {
        Ok(bytes) => String::from_utf8(bytes).map(Some).map_err(|error| {
            format!("no UTF-8 at byte {}; save it as UTF-8", error.utf8_error().valid_up_to())
        }),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(format!("cannot be read: {error}; check the permissions")),
    }
}
