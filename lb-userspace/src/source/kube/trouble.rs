//! What is wrong between the agent and the API server.
//!
//! Decides how a failure is counted and told. Must not decide what follows from it. Invariant: the
//! reason is one line that says what was tried, on what, and what to do where we know.

use kube::runtime::watcher;

use crate::model::Kind;

/// A failure of a list or watch; it is tried again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// Of which kind.
    pub kind: Kind,
    /// What it counts as: the HTTP status, else `unreachable` (no connection, or it broke) or `unreadable`.
    pub class: String,
    /// What was tried, what happened, what to do.
    pub reason: String,
}

impl Trouble {
    pub(super) fn new(kind: Kind, error: &watcher::Error) -> Self {
        let (doing, cause) = match error {
            watcher::Error::InitialListFailed(cause) => ("listing", Some(cause)),
            watcher::Error::WatchStartFailed(cause) => ("beginning to watch", Some(cause)),
            watcher::Error::WatchFailed(cause) => ("watching", Some(cause)),
            watcher::Error::WatchError(_) | watcher::Error::NoResourceVersion => ("watching", None),
        };
        let code = match (error, cause) {
            (_, Some(kube::Error::Api(status))) => Some(status.code),
            (watcher::Error::WatchError(status), _) => Some(status.code),
            _ => None,
        };
        let class = match (code, cause) {
            (Some(code), _) => code.to_string(),
            (None, Some(kube::Error::SerdeError(_) | kube::Error::FromUtf8(_))) => "unreadable".to_owned(),
            (None, Some(_)) => "unreachable".to_owned(),
            (None, None) => "unreadable".to_owned(),
        };
        let reason = format!("{doing} {kind}s failed: {}{}", innermost(error), advice(code));
        Self { kind, class, reason }
    }
}

/// The outer errors only repeat the inner ones, or say less.
fn innermost(error: &watcher::Error) -> String {
    if let watcher::Error::WatchError(status) = error {
        return format!("{} ({})", status.message, status.code);
    }
    let mut cause: &dyn std::error::Error = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    let text = cause.to_string();
    text.lines().next().unwrap_or_default().to_owned()
}

fn advice(code: Option<u16>) -> &'static str {
    match code {
        Some(401) => "; the token or certificate is not accepted: look at the kubeconfig or service account",
        Some(403) => "; give the agent's role the verbs list and watch on this kind",
        Some(404) => "; the server does not know this kind: is this the address of a Kubernetes API server?",
        _ => "",
    }
}
