//! A document whose every value knows where it stands.
//!
//! Decides how YAML and JSON become one shape, so that whoever finds a flaw can name its line and
//! column. Must not know Kubernetes. Invariant: bounded: a file of at most [`MAX_BYTES`], nested
//! at most [`MAX_DEPTH`] deep.

use std::collections::BTreeMap;

use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

/// The largest file that is read.
pub(super) const MAX_BYTES: u64 = 256 * 1024 * 1024;
/// The deepest nesting that is followed.
const MAX_DEPTH: usize = 64;
/// The most values in a YAML file; ten thousand Services with their endpoints have two million.
const MAX_VALUES: usize = 50_000_000;

/// A line and a column, both from 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The line.
    pub line: u64,
    /// The column, in characters (YAML) or bytes (JSON).
    pub column: u64,
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.line, self.column)
    }
}

/// A value and where it stands.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Tree {
    pub(super) at: Place,
    pub(super) value: Value,
}

/// What JSON can say, and YAML without its extras.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value {
    Null,
    Bool(bool),
    Integer(i64),
    Float(f64),
    Text(String),
    List(Vec<Tree>),
    Map(Vec<(String, Tree)>),
}

/// A file that does not parse.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SyntaxError {
    pub(super) at: Place,
    pub(super) reason: String,
}

impl Tree {
    /// A field of a map.
    pub(super) fn get(&self, name: &str) -> Option<&Self> {
        match &self.value {
            Value::Map(fields) => fields.iter().find(|(key, _)| key == name).map(|(_, value)| value),
            _ => None,
        }
    }

    /// A field of a map that holds text.
    pub(super) fn text(&self, name: &str) -> Option<&str> {
        match &self.get(name)?.value {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    /// Where the field at the end of `path` stands, or the nearest one around it.
    pub(super) fn place_of(&self, path: &crate::source::FieldPath) -> Place {
        use crate::source::Step;
        let mut here = self;
        for step in &path.0 {
            let next = match (step, &here.value) {
                (Step::Key(name), _) => here.get(name),
                (Step::Index(index), Value::List(items)) => items.get(*index),
                (Step::Index(_), _) => None,
            };
            let Some(next) = next else { break };
            here = next;
        }
        here.at
    }
}

/// The documents of a YAML file. Empty ones are left out.
pub(super) fn parse_yaml(text: &str) -> Result<Vec<Tree>, SyntaxError> {
    let options = serde_saphyr::options! {
        with_snippet: false,
        budget: serde_saphyr::budget! {
            max_events: MAX_VALUES,
            max_nodes: MAX_VALUES,
            max_documents: MAX_VALUES,
            max_total_scalar_bytes: 256 * 1024 * 1024,
            max_depth: MAX_DEPTH,
        },
    };
    serde_saphyr::from_multiple_with_options::<Tree>(text, options).map_err(|error| {
        let at = error.location().map(place).unwrap_or_default();
        let rendered = error.to_string();
        let reason = rendered.lines().next().unwrap_or_default();
        let position = format!("line {} column {}: ", at.line, at.column);
        let reason = reason.strip_prefix("error: ").unwrap_or(reason);
        SyntaxError { at, reason: reason.strip_prefix(&position).unwrap_or(reason).to_owned() }
    })
}

fn place(location: serde_saphyr::Location) -> Place {
    Place { line: location.line(), column: location.column() }
}

/// The documents of a JSON file: one value, or several one after the other.
pub(super) fn parse_json(text: &str) -> Result<Vec<Tree>, SyntaxError> {
    let lines = Lines::of(text);
    let values = serde_json::Deserializer::from_str(text).into_iter::<&RawValue>();
    values.map(|raw| lines.tree(raw.map_err(|error| json_error(&error, None))?, 0)).collect()
}

/// `inside` is where the text that was parsed starts.
fn json_error(error: &serde_json::Error, inside: Option<Place>) -> SyntaxError {
    let (line, column) = (error.line() as u64, error.column() as u64);
    let at = match inside {
        Some(start) if line <= 1 => {
            Place { line: start.line, column: start.column + column.saturating_sub(1) }
        }
        Some(start) => Place { line: start.line + line - 1, column },
        None => Place { line, column },
    };
    let reason = error.to_string();
    let reason = reason.split(" at line ").next().unwrap_or_default().to_owned();
    SyntaxError { at, reason }
}

/// Finds the line and column of a slice of the text.
struct Lines<'t> {
    text: &'t str,
    starts: Vec<usize>,
}

impl<'t> Lines<'t> {
    fn of(text: &'t str) -> Self {
        let ends = text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n').map(|(at, _)| at + 1);
        Self { text, starts: std::iter::once(0).chain(ends).collect() }
    }

    /// `part` is borrowed from the text, so the distance of the two is its offset.
    fn place(&self, part: &str) -> Place {
        let offset = (part.as_ptr() as usize).saturating_sub(self.text.as_ptr() as usize);
        let line = self.starts.partition_point(|start| *start <= offset);
        let start = self.starts.get(line.saturating_sub(1)).copied().unwrap_or_default();
        Place { line: line as u64, column: (offset - start) as u64 + 1 }
    }

    fn tree(&self, raw: &'t RawValue, depth: usize) -> Result<Tree, SyntaxError> {
        let text = raw.get();
        let at = self.place(text);
        if depth >= MAX_DEPTH {
            return Err(SyntaxError { at, reason: format!("nested more than {MAX_DEPTH} deep") });
        }
        let flaw = |error: serde_json::Error| json_error(&error, Some(at));
        let value = match text.as_bytes().first() {
            Some(b'{') => {
                let fields: BTreeMap<String, &'t RawValue> = serde_json::from_str(text).map_err(flaw)?;
                let fields = fields.into_iter().map(|(name, raw)| Ok((name, self.tree(raw, depth + 1)?)));
                Value::Map(fields.collect::<Result<_, _>>()?)
            }
            Some(b'[') => {
                let items: Vec<&'t RawValue> = serde_json::from_str(text).map_err(flaw)?;
                Value::List(items.into_iter().map(|raw| self.tree(raw, depth + 1)).collect::<Result<_, _>>()?)
            }
            _ => serde_json::from_str(text).map_err(flaw)?,
        };
        Ok(Tree { at, value })
    }
}

impl<'de> Deserialize<'de> for Tree {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let spanned = serde_saphyr::Spanned::<Value>::deserialize(deserializer)?;
        Ok(Self { at: place(spanned.referenced), value: spanned.value })
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(AnyValue)
    }
}

struct AnyValue;

impl<'de> Visitor<'de> for AnyValue {
    type Value = Value;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        Value::deserialize(deserializer)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Integer(value))
    }

    fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<Value, E> {
        i64::try_from(value)
            .map(Value::Integer)
            .map_err(|_| E::custom(format!("{value} is too large a number")))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Value::Float(value))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::Text(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::Text(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(Value::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Value, A::Error> {
        let mut map: Vec<(String, Tree)> = Vec::new();
        while let Some(name) = fields.next_key::<String>()? {
            if map.len() > MAX_VALUES {
                return Err(A::Error::custom("too many fields"));
            }
            map.push((name, fields.next_value()?));
        }
        Ok(Value::Map(map))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::FieldPath;

    #[test]
    fn yaml_values_know_their_line_and_column() {
        let documents = parse_yaml("---\n---\na: 1\nb:\n  - x: ten\n    y: null\n---\nc: true\n").unwrap();
        assert_eq!(documents.len(), 2, "the empty document is left out");
        let y = FieldPath::of("b").item(0).key("y");
        assert_eq!(documents[0].place_of(&y), Place { line: 6, column: 8 });
        assert_eq!(documents[1].get("c").unwrap().value, Value::Bool(true));
        assert_eq!(documents[1].at.line, 8);
    }

    #[test]
    fn json_values_know_their_line_and_column() {
        let text = "{\n\t\"a\": [1, \"\\ud83d\\ude00\",\n {\"b\": 2.5}]}\n{\"c\": null}";
        let documents = parse_json(text).unwrap();
        assert_eq!(documents.len(), 2);
        let b = FieldPath::of("a").item(2).key("b");
        assert_eq!(documents[0].place_of(&b), Place { line: 3, column: 8 });
        assert_eq!(documents[0].place_of(&FieldPath::of("nowhere")), Place { line: 1, column: 1 });
        assert_eq!(documents[1].at, Place { line: 4, column: 1 });
    }

    #[test]
    fn a_syntax_error_says_where_and_why() {
        let error = parse_yaml("a: 1\nb: [1, 2\nc: 3\n").unwrap_err();
        assert!(error.at.line >= 2, "{error:?}");
        assert!(!error.reason.is_empty() && !error.reason.contains('\n'), "{error:?}");
        let error = parse_json("{\n  \"a\": 1,\n  \"b\": }\n").unwrap_err();
        assert_eq!((error.at, error.reason.as_str()), (Place { line: 3, column: 8 }, "expected value"));
    }

    #[test]
    fn nesting_is_bounded() {
        let deep = "[".repeat(10_000) + &"]".repeat(10_000);
        assert!(parse_json(&deep).is_err());
        assert!(parse_yaml(&deep).is_err());
    }
}
