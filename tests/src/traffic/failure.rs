//! The ways in which an exchange fails, as a client can tell them apart.
//!
//! Decides which error of the kernel is which kind; must not know what was dialled.

use std::io::{self, ErrorKind};

/// What kind of failure a client saw.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FailureKind {
    /// A reset in answer to the SYN, or an ICMP port unreachable in answer to a datagram.
    Refused,
    /// No answer in time.
    Timeout,
    /// An established connection was reset.
    Reset,
    /// The network or the host is unreachable: no route, or ICMP said so.
    Unreachable,
    /// Anything else: a wrong answer, an early end, a local error.
    Other,
}

impl std::fmt::Display for FailureKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Refused => "refused",
            Self::Timeout => "timeout",
            Self::Reset => "reset",
            Self::Unreachable => "unreachable",
            Self::Other => "other",
        })
    }
}

/// An exchange that did not succeed.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{kind}: {detail}")]
pub struct Failure {
    /// What kind of failure it was.
    pub kind: FailureKind,
    /// What was being done, and what the kernel said.
    pub detail: String,
}

impl Failure {
    pub(super) fn new(kind: FailureKind, detail: impl Into<String>) -> Self {
        Self { kind, detail: detail.into() }
    }

    /// The failure that `error` means while `doing`.
    pub(super) fn from_io(doing: &str, error: &io::Error) -> Self {
        let kind = match error.kind() {
            ErrorKind::ConnectionRefused => FailureKind::Refused,
            ErrorKind::TimedOut => FailureKind::Timeout,
            ErrorKind::ConnectionReset | ErrorKind::ConnectionAborted | ErrorKind::BrokenPipe => {
                FailureKind::Reset
            }
            ErrorKind::NetworkUnreachable | ErrorKind::HostUnreachable => FailureKind::Unreachable,
            _ => FailureKind::Other,
        };
        Self::new(kind, format!("{doing}: {error}"))
    }
}
