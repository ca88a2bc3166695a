//! A successor's maps from its predecessor's, where it is another version or wants other sizes.
//!
//! Decides which maps both share, which are filled from the predecessor's, and what is refused. Must not know what rows
//! mean. Invariants: a succession that is refused or undone changes nothing; until it is done, the predecessor's
//! programs work on its own maps, and one that was broken off is gone on with.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context as _, bail};
use aya_obj::Object;
use lb_common::abi::{self, Contents, MAPS, MapName};

use super::object::{self, Sizes};
use super::pins::{Lock, Pins, names_in};
use super::raw::{Copied, Existing, RawMap, Shape};

/// A folder of a predecessor that says its rows have been copied once.
const CARRIED: &str = "carried";

/// What becomes of a map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// It is used as it is.
    Shared,
    /// There is a new one, with the old one's rows.
    Carried,
    /// There is a new one.
    Anew,
}

/// A map of a predecessor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Found {
    shape: Shape,
    /// `None`: it does not say.
    layout: Option<u32>,
}

/// What has to be taken back where a succession fails.
#[derive(Debug)]
enum Step {
    Moved { from: PathBuf, to: PathBuf },
    Pinned(PathBuf),
    Made(PathBuf),
}

/// A succession under way, or none.
#[derive(Debug, Default)]
pub struct Succession {
    /// Folders of maps that programs may still work on, the oldest first.
    predecessors: Vec<PathBuf>,
    /// Their versions' locks.
    locks: Vec<Lock>,
    steps: Vec<Step>,
    maps: PathBuf,
}

/// What was carried over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CarriedOver {
    /// Rows.
    pub rows: usize,
    /// Rows of connections there was no room for.
    pub lost: usize,
}

impl Succession {
    /// Looks at what is pinned, and makes room for what this version wants in `sizes`.
    ///
    /// # Errors
    /// Where connections would be lost, the predecessor still runs, or rights are missing; says what to do.
    pub fn begin(pins: &Pins, sizes: &Sizes) -> anyhow::Result<Self> {
        let mut succession = Self { maps: pins.maps(), ..Self::default() };
        let other = pins.other_version()?;
        succession.predecessors = pins.set_aside()?;
        if let Some(other) = &other {
            succession.locks.push(other.lock()?);
            succession.predecessors.insert(0, other.maps());
        }
        let fates = fates(pins, other.as_ref(), sizes)?;
        if let Err(error) = succession.make_room(pins, other.as_ref(), &fates) {
            succession.undo();
            return Err(error);
        }
        Ok(succession)
    }

    fn make_room(
        &mut self,
        pins: &Pins,
        other: Option<&Pins>,
        fates: &[(MapName, Fate)],
    ) -> anyhow::Result<()> {
        let aside = pins.new_aside()?;
        for (map, fate) in fates {
            let own = pins.map(*map);
            let theirs = other.map(|other| other.map(*map)).filter(|path| path.exists());
            match fate {
                Fate::Shared if own.exists() => {}
                Fate::Shared => {
                    if let Some(theirs) = theirs {
                        RawMap::open(&theirs)?.pin(&own)?;
                        self.steps.push(Step::Pinned(own));
                    }
                }
                Fate::Carried | Fate::Anew if own.exists() => {
                    if !aside.exists() {
                        fs::create_dir(&aside).with_context(|| format!("making {}", aside.display()))?;
                        self.steps.push(Step::Made(aside.clone()));
                        self.predecessors.push(aside.clone());
                    }
                    self.shift(&own, &aside.join(map.name))?;
                }
                Fate::Carried | Fate::Anew => {}
            }
        }
        let Some(other) = other else { return Ok(()) };
        for name in names_in(&other.links())? {
            self.shift(&other.links().join(&name), &pins.links().join(&name))?;
        }
        Ok(())
    }

    fn shift(&mut self, from: &Path, to: &Path) -> anyhow::Result<()> {
        fs::rename(from, to).with_context(|| format!("moving {} to {}", from.display(), to.display()))?;
        self.steps.push(Step::Moved { from: from.to_owned(), to: to.to_owned() });
        Ok(())
    }

    /// Is there nothing to carry over?
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.predecessors.is_empty()
    }

    /// Takes everything back: the maps could not be made, or the programs not loaded.
    pub fn undo(self) {
        for step in self.steps.into_iter().rev() {
            let undone = match &step {
                Step::Moved { from, to } => {
                    // The loader may have made another in its place.
                    let _may_not_be_there = fs::remove_file(from);
                    fs::rename(to, from)
                }
                Step::Pinned(path) => fs::remove_file(path),
                Step::Made(path) => fs::remove_dir(path),
            };
            if let Err(error) = undone {
                tracing::error!(%error, ?step, "could not be taken back");
            }
        }
    }

    /// Fills the maps from the predecessors', unless that was done before this was broken off.
    ///
    /// # Errors
    /// Where a map cannot be read or written.
    pub fn fill(&self) -> anyhow::Result<CarriedOver> {
        let mut all = CarriedOver::default();
        for folder in self.predecessors.iter().filter(|folder| !folder.join(CARRIED).exists()) {
            all.add(self.copy(folder, &[Contents::Ids, Contents::Connections], Existing::Replaced)?);
            let done = folder.join(CARRIED);
            fs::create_dir(&done).with_context(|| format!("making {}", done.display()))?;
        }
        Ok(all)
    }

    /// Brings what is known of connections up to date: to be done right before the first program is replaced.
    ///
    /// # Errors
    /// As [`Self::fill`].
    pub fn refresh(&self) -> anyhow::Result<CarriedOver> {
        // Those set aside by one that was broken off are older than what this version's programs may have written since.
        let Some(folder) = self.predecessors.last() else { return Ok(CarriedOver::default()) };
        let existing = if self.predecessors.len() == 1 { Existing::Replaced } else { Existing::Kept };
        self.copy(folder, &[Contents::Connections], existing)
    }

    /// Adds connections that the predecessors' programs opened since.
    ///
    /// # Errors
    /// As [`Self::fill`].
    pub fn catch_up(&self) -> anyhow::Result<CarriedOver> {
        let mut all = CarriedOver::default();
        for folder in self.predecessors.iter().rev() {
            all.add(self.copy(folder, &[Contents::Connections], Existing::Kept)?);
        }
        Ok(all)
    }

    /// The same again and again until `ended`, for the flows alone: a connection that is opened by a program of before
    /// and answered by one of now breaks if that takes long.
    ///
    /// # Errors
    /// As [`Self::fill`].
    pub fn follow(&self, ended: &AtomicBool) -> anyhow::Result<CarriedOver> {
        let mut pairs = Vec::new();
        for folder in self.predecessors.iter().rev() {
            // The half-open ones first: that is where a connection begins.
            for map in [abi::EMBRYONIC_V4, abi::EMBRYONIC_V6, abi::FLOWS_V4, abi::FLOWS_V6] {
                pairs.extend(self.pair(folder, map)?);
            }
        }
        let mut all = CarriedOver::default();
        while !ended.load(Ordering::Acquire) {
            for (old, new) in &pairs {
                all.add(old.copy_to(new, Existing::Kept)?.into());
            }
            std::thread::yield_now();
        }
        Ok(all)
    }

    fn copy(&self, folder: &Path, contents: &[Contents], existing: Existing) -> anyhow::Result<CarriedOver> {
        let mut all = CarriedOver::default();
        for map in MAPS.iter().filter(|map| contents.contains(&map.contents)) {
            if let Some((old, new)) = self.pair(folder, *map)? {
                all.add(old.copy_to(&new, existing)?.into());
            }
        }
        Ok(all)
    }

    /// A map of a predecessor and this version's, where they are two.
    fn pair(&self, folder: &Path, map: MapName) -> anyhow::Result<Option<(RawMap, RawMap)>> {
        let path = folder.join(map.name);
        if !path.exists() {
            return Ok(None);
        }
        let (old, new) = (RawMap::open(&path)?, RawMap::open(&self.maps.join(map.name))?);
        Ok((old.id() != new.id()).then_some((old, new)))
    }

    /// No program works on the predecessors' maps any more: unpins them.
    ///
    /// # Errors
    /// Where rights are missing.
    pub fn finish(&mut self, pins: &Pins) -> anyhow::Result<()> {
        self.locks.clear();
        if let Some(other) = pins.other_version()? {
            other.remove()?;
        }
        for folder in pins.set_aside()? {
            Pins::remove_maps(&folder)?;
        }
        self.predecessors.clear();
        self.steps.clear();
        Ok(())
    }
}

impl From<Copied> for CarriedOver {
    fn from(Copied { rows, lost }: Copied) -> Self {
        Self { rows, lost }
    }
}

impl CarriedOver {
    fn add(&mut self, more: Self) {
        self.rows += more.rows;
        self.lost += more.lost;
    }
}

/// Looks at every map there is, and decides what becomes of it.
fn fates(pins: &Pins, other: Option<&Pins>, sizes: &Sizes) -> anyhow::Result<Vec<(MapName, Fate)>> {
    let object = Object::parse(object::bytes()).context("reading the eBPF object")?;
    let mut all = Vec::new();
    for map in MAPS {
        let wanted =
            object.maps.get(map.name).with_context(|| format!("the object has no map {}", map.name))?;
        let rows = sizes.get(map.name).copied().unwrap_or(map.default_rows);
        let wanted = Shape { key: wanted.key_size(), value: wanted.value_size(), rows };
        let holder = [Some(pins), other].into_iter().flatten().find(|holder| holder.map(*map).exists());
        let found = holder.map(|holder| {
            let layout = holder.layout(*map)?;
            anyhow::Ok(Found { shape: RawMap::open(&holder.map(*map))?.shape(), layout })
        });
        all.push((*map, wanted, found.transpose()?));
    }
    let fates = decide(&all)?;
    for ((map, wanted, found), (_, fate)) in all.iter().zip(&fates) {
        let shrinks = found.is_some_and(|found| found.shape.rows > wanted.rows);
        let holder = [Some(pins), other].into_iter().flatten().find(|holder| holder.map(*map).exists());
        let Some(holder) = holder.filter(|_| shrinks && *fate == Fate::Carried) else { continue };
        if RawMap::open(&holder.map(*map))?.exceeds(wanted.rows)? {
            bail!(
                "the map {} has rows that {} have no room for: connections would be lost; give it more, at most the {} it had",
                map.name,
                wanted.rows,
                found.map_or(0, |found| found.shape.rows)
            );
        }
    }
    Ok(fates)
}

/// What becomes of each map. What is written of Services goes together with the ids in it: the predecessor's programs
/// must not see half of it.
fn decide(maps: &[(MapName, Shape, Option<Found>)]) -> anyhow::Result<Vec<(MapName, Fate)>> {
    let same_rows = |map: &MapName, wanted: &Shape, found: &Found| {
        found.layout == Some(map.layout) && (found.shape.key, found.shape.value) == (wanted.key, wanted.value)
    };
    let unknown: BTreeSet<&str> = maps
        .iter()
        .filter(|(map, ..)| matches!(map.contents, Contents::Connections | Contents::Ids))
        .filter(|(map, wanted, found)| found.is_some_and(|found| !same_rows(map, wanted, &found)))
        .map(|(map, ..)| map.name)
        .collect();
    if !unknown.is_empty() {
        bail!(
            "another version keeps connections in a way that this one cannot read ({}): go on with that version, or end its \
             connections by `switchboard cleanup` first",
            unknown.into_iter().collect::<Vec<_>>().join(", ")
        );
    }
    let same = |map: &MapName, wanted: &Shape, found: &Option<Found>| {
        found.is_none_or(|found| found.shape.rows == wanted.rows && same_rows(map, wanted, &found))
    };
    let services_stay = maps
        .iter()
        .filter(|(map, ..)| matches!(map.contents, Contents::Ids | Contents::Services))
        .all(|(map, wanted, found)| same(map, wanted, found));
    let fate = |(map, wanted, found): &(MapName, Shape, Option<Found>)| {
        let fate = match map.contents {
            Contents::Ids if services_stay => Fate::Shared,
            Contents::Services if services_stay => Fate::Shared,
            Contents::Ids => Fate::Carried,
            Contents::Services => Fate::Anew,
            Contents::Connections | Contents::Rest if same(map, wanted, found) => Fate::Shared,
            Contents::Connections => Fate::Carried,
            Contents::Rest => Fate::Anew,
        };
        (*map, fate)
    };
    Ok(maps.iter().map(fate).collect())
}

#[cfg(test)]
#[path = "succession_tests.rs"]
mod tests;
