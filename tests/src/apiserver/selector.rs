//! Label and field selectors.
//!
//! Decides which objects a request is about. Knows as much of the selectors' language as clients here
//! use: `key`, `!key`, `key=value`, `key!=value`, joined by commas. Invariant: a selector that it does
//! not understand is refused, never passed over.

use serde_json::Value;

/// Which objects are asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Selector {
    labels: Vec<Term>,
    fields: Vec<Term>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Term {
    Exists(String),
    Absent(String),
    Is(String, String),
    IsNot(String, String),
}

impl Selector {
    /// # Errors
    /// What could not be understood.
    pub(super) fn parse(labels: Option<&str>, fields: Option<&str>) -> Result<Self, String> {
        let fields = terms(fields.unwrap_or_default())?;
        let known = |term: &Term| match term {
            Term::Is(key, _) | Term::IsNot(key, _) => key == "metadata.name" || key == "metadata.namespace",
            Term::Exists(_) | Term::Absent(_) => false,
        };
        match fields.iter().find(|term| !known(term)) {
            Some(term) => Err(format!("field label not supported: {term:?}")),
            None => Ok(Self { labels: terms(labels.unwrap_or_default())?, fields }),
        }
    }

    pub(super) fn matches(&self, object: &Value) -> bool {
        let meta = &object["metadata"];
        let label = |key: &str| meta["labels"].get(key).and_then(Value::as_str);
        let field = |key: &str| key.strip_prefix("metadata.").and_then(|key| meta.get(key)?.as_str());
        self.labels.iter().all(|term| term.holds(label)) && self.fields.iter().all(|term| term.holds(field))
    }
}

impl Term {
    fn holds<'v>(&self, value: impl Fn(&str) -> Option<&'v str>) -> bool {
        match self {
            Self::Exists(key) => value(key).is_some(),
            Self::Absent(key) => value(key).is_none(),
            Self::Is(key, wanted) => value(key) == Some(wanted),
            Self::IsNot(key, wanted) => value(key) != Some(wanted),
        }
    }
}

fn terms(text: &str) -> Result<Vec<Term>, String> {
    text.split(',').map(str::trim).filter(|term| !term.is_empty()).map(term).collect()
}

fn term(text: &str) -> Result<Term, String> {
    if text.contains(['(', ')', ' ', '<', '>']) {
        return Err(format!("unable to parse requirement: {text:?}"));
    }
    let pair = |split: &str| text.split_once(split).map(|(key, value)| (key.to_owned(), value.to_owned()));
    if let Some(key) = text.strip_prefix('!') {
        return Ok(Term::Absent(key.to_owned()));
    }
    if let Some((key, value)) = pair("!=") {
        return Ok(Term::IsNot(key, value));
    }
    Ok(match pair("==").or_else(|| pair("=")) {
        Some((key, value)) => Term::Is(key, value),
        None => Term::Exists(text.to_owned()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn labels_and_fields_are_matched_as_the_api_server_does() {
        let object = json!({"metadata": {"name": "a", "labels": {"app": "web", "x/y": ""}}});
        let matches = |labels, fields| Selector::parse(Some(labels), Some(fields)).unwrap().matches(&object);
        assert!(matches("app,x/y,!other,app=web,app!=db", "metadata.name=a"));
        for (labels, fields) in [("other", ""), ("!app", ""), ("app=db", ""), ("", "metadata.name=b")] {
            assert!(!matches(labels, fields), "{labels} {fields}");
        }
        assert!(Selector::parse(Some("app in (web)"), None).is_err());
        assert!(Selector::parse(None, Some("spec.type=ClusterIP")).is_err());
    }
}
