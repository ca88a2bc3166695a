//! The configuration file: YAML, one key for each option of `run`, with its name.
//!
//! Decides how YAML's values become texts of the command line. Must not know options' meanings. Invariant: all unknown
//! keys are said at once, each with the nearest that exists.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context as _, bail};
use serde_json::Value;

use super::Setting;
use super::options::{CONFIG, KUBE_PROXY, Options};

/// Reads a file.
///
/// # Errors
/// Where it cannot be read, is no map, or has a key or value that is no option's.
pub(super) fn read(path: &Path, options: &Options) -> anyhow::Result<Vec<Setting>> {
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("reading the configuration file {}", path.display()))?;
    parse(&text, options).with_context(|| format!("in the configuration file {}", path.display()))
}

/// Any map of YAML; an empty text is an empty map.
pub(super) fn map(text: &str) -> anyhow::Result<BTreeMap<String, Value>> {
    let map: Option<BTreeMap<String, Value>> = serde_saphyr::from_str(text)?;
    Ok(map.unwrap_or_default())
}

fn parse(text: &str, options: &Options) -> anyhow::Result<Vec<Setting>> {
    let mut settings = Vec::new();
    let mut wrong = Vec::new();
    for (key, value) in map(text)? {
        if !options.has(&key) || key == CONFIG {
            wrong.push(options.unknown(&key));
            continue;
        }
        if key == KUBE_PROXY {
            wrong.push(format!("{key}: name kube-proxy's file on the command line"));
            continue;
        }
        match setting(&key, &value, options) {
            Ok(setting) => settings.extend(setting),
            Err(reason) => wrong.push(format!("{key}: {reason}")),
        }
    }
    if !wrong.is_empty() {
        bail!("{}", wrong.join("; "));
    }
    Ok(settings)
}

/// An option set to a value of YAML; `null` leaves it alone.
fn setting(key: &str, value: &Value, options: &Options) -> Result<Option<Setting>, String> {
    let text = match value {
        Value::Null => return Ok(None),
        Value::Array(values) if values.is_empty() => return Ok(None),
        Value::Array(values) => values
            .iter()
            .map(|value| scalar(value, options.is_flag(key)))
            .collect::<Result<Vec<_>, _>>()?
            .join(","),
        value => scalar(value, options.is_flag(key))?,
    };
    options.setting(key, text)
}

/// YAML 1.1 reads `on` and `off` as booleans; options that take these words mean them as words.
fn scalar(value: &Value, flag: bool) -> Result<String, String> {
    match value {
        Value::String(text) => Ok(text.clone()),
        Value::Number(number) => Ok(number.to_string()),
        Value::Bool(value) if flag => Ok(value.to_string()),
        Value::Bool(value) => Ok(if *value { "on" } else { "off" }.to_owned()),
        Value::Null | Value::Array(_) | Value::Object(_) => {
            Err("expected a text, a number, or a list of those".to_owned())
        }
    }
}
