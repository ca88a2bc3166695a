//! The lines that an agent logs.
//!
//! Decides what a line means to a test: its message, its fields, and the report `in sync`. Must
//! not know processes. Invariant: a line that is no JSON is kept as it is, with no message.

use serde_json::Value;

/// One line of the agent's log, of the form
/// `{"level":"INFO","fields":{"message":"...","name":value,...},"target":"..."}`.
#[derive(Clone, Debug, PartialEq)]
pub struct LogLine {
    /// As it was written.
    pub text: String,
    json: Value,
}

impl LogLine {
    pub(super) fn new(text: String) -> Self {
        let json = serde_json::from_str(&text).unwrap_or(Value::Null);
        Self { text, json }
    }

    /// What the line says; empty for a line that is no JSON (a panic's, say).
    pub fn message(&self) -> &str {
        self.field("message").and_then(Value::as_str).unwrap_or_default()
    }

    /// `INFO`, `WARN`, ...; empty for a line that is no JSON.
    pub fn level(&self) -> &str {
        self.json.get("level").and_then(Value::as_str).unwrap_or_default()
    }

    /// A field of the line, `message` being one.
    pub fn field(&self, name: &str) -> Option<&Value> {
        self.json.get("fields")?.get(name)
    }

    /// A field that counts something; also if it was logged as text.
    pub fn count(&self, name: &str) -> Option<u64> {
        let value = self.field(name)?;
        value.as_u64().or_else(|| value.as_str()?.parse().ok())
    }

    /// The line as a report of being in sync, if it is one.
    pub fn in_sync(&self) -> Option<InSync> {
        (self.message() == "in sync").then(|| InSync {
            rows_written: self.count("rows_written").unwrap_or(0),
            services: self.count("services").unwrap_or(0),
            line: self.clone(),
        })
    }
}

/// The agent's report that the maps equal what the objects imply.
#[derive(Clone, Debug, PartialEq)]
pub struct InSync {
    /// Rows that this round wrote or deleted; 0 if nothing had to change.
    pub rows_written: u64,
    /// Services in force.
    pub services: u64,
    /// The whole line, for other fields ([`LogLine::count`]).
    pub line: LogLine,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_of_being_in_sync_is_read() {
        let text = r#"{"timestamp":"2026-01-01T00:00:00Z","level":"INFO","fields":{"message":"in sync","rows_written":12,"services":3,"frontends":"6"},"target":"switchboard"}"#;
        let line = LogLine::new(text.to_owned());
        let report = line.in_sync().unwrap();
        assert_eq!((report.rows_written, report.services, line.level()), (12, 3, "INFO"));
        assert_eq!(report.line.count("frontends"), Some(6));
        assert_eq!(report.line.count("absent"), None);
    }

    #[test]
    fn other_lines_are_no_report() {
        for text in ["thread 'main' panicked", "{}", r#"{"fields":{"message":"not in sync"}}"#, "[1]"] {
            let line = LogLine::new(text.to_owned());
            assert_eq!(line.in_sync(), None, "{text}");
            assert_eq!(line.text, text);
        }
    }
}
