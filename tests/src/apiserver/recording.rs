//! What a real API server said, told again.
//!
//! Decides the order (by version, which all kinds share) and the pace. Must not change what was said.
//! Invariant: when a recording has been played, the server holds what the real one held.

use std::io::Read as _;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::{ApiServer, place};

/// First lists, and all that happened after.
#[derive(Clone, Debug, Default)]
pub struct Recording {
    /// The objects of the first lists.
    pub lists: Vec<Value>,
    /// What happened, in order.
    pub steps: Vec<Step>,
}

/// Something that happened to an object.
#[derive(Clone, Debug)]
pub struct Step {
    /// When, since the first step.
    pub at: Duration,
    /// Is the object gone?
    pub deleted: bool,
    /// The object, as it was sent.
    pub object: Value,
}

/// How fast a recording is told.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Speed {
    /// Without a pause.
    AtOnce,
    /// So many times as fast as it was; 1 for as it was.
    Times(f64),
}

impl Recording {
    /// Reads `KIND.list.json.gz` and `KIND.watch.jsonl.gz` of these kinds from a folder.
    pub fn read(folder: &Path, kinds: &[&str]) -> Result<Self> {
        let mut recording = Self::default();
        let mut steps: Vec<(u64, f64, Step)> = Vec::new();
        for kind in kinds {
            let list: Value = serde_json::from_str(&text(&folder.join(format!("{kind}.list.json.gz")))?)?;
            let (api, of) = (list["apiVersion"].clone(), list["kind"].as_str().unwrap_or_default());
            let of = Value::from(of.trim_end_matches("List"));
            for item in list["items"].as_array().into_iter().flatten() {
                let mut item = item.clone();
                (item["apiVersion"], item["kind"]) = (api.clone(), of.clone());
                recording.lists.push(item);
            }
            for line in text(&folder.join(format!("{kind}.watch.jsonl.gz")))?.lines() {
                let line: Value = serde_json::from_str(line).with_context(|| format!("a step of {kind}"))?;
                steps.extend(step(&line)?);
            }
        }
        steps.sort_by_key(|(version, ..)| *version);
        let first = steps.iter().map(|(_, at, _)| *at).fold(f64::INFINITY, f64::min);
        let mut latest = 0.0_f64;
        for (_, at, step) in steps {
            latest = latest.max(at - first);
            recording.steps.push(Step { at: Duration::from_secs_f64(latest), ..step });
        }
        Ok(recording)
    }

    /// The objects that are there in the end.
    pub fn ends_with(&self) -> Result<Vec<Value>> {
        let mut objects = std::collections::BTreeMap::new();
        let lists = self.lists.iter().map(|object| (false, object));
        for (deleted, object) in lists.chain(self.steps.iter().map(|step| (step.deleted, &step.object))) {
            if deleted {
                objects.remove(&place(object)?);
            } else {
                objects.insert(place(object)?, object.clone());
            }
        }
        Ok(objects.into_values().collect())
    }
}

/// The version, time and step that a line tells; none for a bookmark.
fn step(line: &Value) -> Result<Option<(u64, f64, Step)>> {
    let (kind, object) =
        (line["event"]["type"].as_str().unwrap_or_default(), line["event"]["object"].clone());
    let deleted = match kind {
        "ADDED" | "MODIFIED" => false,
        "DELETED" => true,
        "BOOKMARK" => return Ok(None),
        other => bail!("an event of type {other:?} in a recording"),
    };
    let version = object["metadata"]["resourceVersion"].as_str().and_then(|version| version.parse().ok());
    let version = version.context("an object without a version in a recording")?;
    let at = line["at"].as_f64().context("an event without a time in a recording")?;
    Ok(Some((version, at, Step { at: Duration::ZERO, deleted, object })))
}

fn text(path: &Path) -> Result<String> {
    let doing = || format!("read the recording {}", path.display());
    let file = std::fs::File::open(path).with_context(doing)?;
    let mut text = String::new();
    flate2::read::GzDecoder::new(file).read_to_string(&mut text).with_context(doing)?;
    Ok(text)
}

impl ApiServer {
    /// Holds what was listed first.
    pub fn hold_lists(&self, recording: &Recording) -> Result<()> {
        for object in &recording.lists {
            let (resource, name) = place(object)?;
            self.shared.put(&resource, name, object.clone(), true);
        }
        Ok(())
    }

    /// Lets one step happen, with the version that it had.
    pub fn step(&self, step: &Step) -> Result<()> {
        let (resource, name) = place(&step.object)?;
        if step.deleted {
            self.shared.remove(&resource, &name, Some(&step.object));
        } else {
            self.shared.put(&resource, name, step.object.clone(), true);
        }
        Ok(())
    }

    /// Lets all that was recorded happen, at this speed. Returns when it has.
    pub fn play(&self, recording: &Recording, speed: Speed) -> Result<()> {
        let start = Instant::now();
        for step in &recording.steps {
            if let Speed::Times(times) = speed {
                let due = step.at.div_f64(times);
                std::thread::sleep(due.saturating_sub(start.elapsed()));
            }
            self.step(step)?;
        }
        Ok(())
    }
}
