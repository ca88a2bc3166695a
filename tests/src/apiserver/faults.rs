//! What the server does wrong, on command.
//!
//! Decides which requests get a fault instead of an answer, and what happens to connections and
//! watches at once. Must not know objects. Invariant: without a command the server is without fault.

use std::collections::VecDeque;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use tokio::sync::{broadcast, watch};

use super::lock;

/// A wrong answer to requests to come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WrongAnswer {
    /// Requests for this kind (`services`); none: for any.
    pub plural: Option<String>,
    /// Watches only (`Some(true)`), lists only (`Some(false)`), or both.
    pub watch: Option<bool>,
    /// The HTTP status.
    pub status: u16,
    /// Header `Retry-After`, in seconds.
    pub retry_after: Option<u64>,
    /// How many requests get it.
    pub times: usize,
}

impl WrongAnswer {
    /// This status for the next requests, `times` of them.
    pub fn status(status: u16, times: usize) -> Self {
        Self { plural: None, watch: None, status, retry_after: None, times }
    }

    /// Only for requests for this kind, as `services`.
    pub fn of(mut self, plural: &str) -> Self {
        self.plural = Some(plural.to_owned());
        self
    }

    /// Only for watches.
    pub fn watches(mut self) -> Self {
        self.watch = Some(true);
        self
    }

    /// Only for lists.
    pub fn lists(mut self) -> Self {
        self.watch = Some(false);
        self
    }

    /// Asks the client to wait.
    pub fn retry_after(mut self, seconds: u64) -> Self {
        self.retry_after = Some(seconds);
        self
    }
}

/// What happens to watches under way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WatchFault {
    /// An event of type ERROR with this status, then the end: 410, say.
    Error(u16),
    /// The end, as after `timeoutSeconds`.
    End,
    /// Half an event, then the connection breaks.
    HalfALine,
    /// A line that is no JSON.
    Garbage,
}

/// A request, as it was answered.
#[derive(Clone, Debug)]
pub struct Request {
    /// When it came.
    pub at: Instant,
    /// `GET`, ...
    pub method: String,
    /// Path and query, percent-decoded.
    pub uri: String,
    /// The status that was answered.
    pub status: u16,
}

impl Request {
    /// Is it a watch?
    pub fn is_watch(&self) -> bool {
        self.uri.contains("watch=true")
    }

    /// Is it for this kind, as `services`?
    pub fn is_for(&self, plural: &str) -> bool {
        self.uri.split('?').next().is_some_and(|path| path.ends_with(&format!("/{plural}")))
    }
}

/// What connections do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Mode {
    /// Connections of an older epoch are reset.
    pub(super) epoch: u64,
    /// Nothing is read or written: a black hole.
    pub(super) frozen: bool,
}

/// Commands and their effects.
#[derive(Debug)]
pub(super) struct Faults {
    answers: Mutex<VecDeque<WrongAnswer>>,
    requests: Mutex<Vec<Request>>,
    pub(super) watches: broadcast::Sender<(Option<String>, WatchFault)>,
    pub(super) mode: watch::Sender<Mode>,
    /// How long answers are held back.
    delay: Mutex<Duration>,
}

impl Faults {
    pub(super) fn new() -> Self {
        Self {
            answers: Mutex::default(),
            requests: Mutex::default(),
            watches: broadcast::channel(64).0,
            mode: watch::channel(Mode::default()).0,
            delay: Mutex::default(),
        }
    }

    pub(super) fn add(&self, answer: WrongAnswer) {
        lock(&self.answers).push_back(answer);
    }

    pub(super) fn set_delay(&self, delay: Duration) {
        *lock(&self.delay) = delay;
    }

    pub(super) fn delay(&self) -> Duration {
        *lock(&self.delay)
    }

    /// The wrong answer that this request gets, if any.
    pub(super) fn take(&self, plural: &str, watch: bool) -> Option<WrongAnswer> {
        let mut answers = lock(&self.answers);
        let fits = |answer: &WrongAnswer| {
            answer.plural.as_deref().is_none_or(|of| of == plural)
                && answer.watch.is_none_or(|of| of == watch)
        };
        let index = answers.iter().position(fits)?;
        let answer = answers.get_mut(index)?;
        let taken = answer.clone();
        answer.times = answer.times.saturating_sub(1);
        if answer.times == 0 {
            answers.remove(index);
        }
        Some(taken)
    }

    pub(super) fn note(&self, request: Request) {
        lock(&self.requests).push(request);
    }

    pub(super) fn requests(&self) -> Vec<Request> {
        lock(&self.requests).clone()
    }

    pub(super) fn forget_requests(&self) {
        lock(&self.requests).clear();
    }
}
