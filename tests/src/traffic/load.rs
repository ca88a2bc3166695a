//! Traffic that goes on: workers that dial again and again, and long-lived conversations.
//!
//! Decides how many exchanges are under way at a time and when to stop; must not know what an
//! exchange is. Invariant: a stopped load has no exchange under way, so its totals are final.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::conversation::converse;
use super::dial::Dial;
use super::totals::Totals;
use crate::lab::Netns;

/// A worker's pause after a failure, so that a target that refuses is not dialled in a busy loop.
const PAUSE_AFTER_FAILURE: Duration = Duration::from_millis(5);

/// What a load speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// A new connection for each exchange.
    Tcp,
    /// A new socket, hence a new source port, for each exchange.
    Udp,
}

/// Describes a load; see [`Load::builder`].
#[derive(Clone, Debug)]
pub struct LoadBuilder {
    netns: Netns,
    protocol: Protocol,
    dial: Dial,
    workers: usize,
    count: Option<u64>,
    pause: Duration,
    conversations: usize,
}

impl LoadBuilder {
    /// How many exchanges are under way at a time; 4 unless told. 0 for conversations only.
    pub fn workers(mut self, workers: usize) -> Self {
        self.workers = workers;
        self
    }

    /// Ends after so many exchanges in all; without it the load goes on until it is stopped.
    pub fn count(mut self, count: u64) -> Self {
        self.count = Some(count);
        self
    }

    /// What each worker waits between two exchanges; nothing unless told.
    pub fn pause(mut self, pause: Duration) -> Self {
        self.pause = pause;
        self
    }

    /// Long-lived connections besides, which send a numbered message every 20 ms and check the
    /// answer; 0 unless told. They go on until the workers have done their count or the load stops.
    pub fn conversations(mut self, conversations: usize) -> Self {
        self.conversations = conversations;
        self
    }

    /// How long one exchange, or one message of a conversation, may take; a second unless told.
    pub fn limit(mut self, limit: Duration) -> Self {
        self.dial = self.dial.within(limit);
        self
    }

    /// Ends connections by a reset; see [`Dial::reset_on_close`].
    pub fn reset_on_close(mut self) -> Self {
        self.dial = self.dial.reset_on_close();
        self
    }

    /// Starts it, on one thread of its own.
    pub fn start(self) -> Result<Load> {
        let shared = Arc::new(Shared {
            protocol: self.protocol,
            dial: self.dial,
            totals: Mutex::new(Totals::default()),
            left: AtomicU64::new(self.count.unwrap_or(u64::MAX)),
            pause: self.pause,
        });
        let (stop, stopped) = watch::channel(false);
        let inside = Arc::clone(&shared);
        let (workers, conversations) = (self.workers, self.conversations);
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().context("make a runtime")?;
        let own_stop = stop.clone();
        let thread = self
            .netns
            .spawn("load", move || {
                runtime.block_on(drive(&inside, workers, conversations, &own_stop, &stopped));
            })
            .context("start the load's thread")?;
        Ok(Load { shared, stop, thread: Some(thread) })
    }
}

/// A load under way. Dropping it stops it.
#[derive(Debug)]
pub struct Load {
    shared: Arc<Shared>,
    stop: watch::Sender<bool>,
    thread: Option<JoinHandle<()>>,
}

impl Load {
    /// Describes a load from within `netns` on `target`.
    pub fn builder(netns: &Netns, protocol: Protocol, target: SocketAddr) -> LoadBuilder {
        LoadBuilder {
            netns: netns.clone(),
            protocol,
            dial: Dial::to(target),
            workers: 4,
            count: None,
            pause: Duration::ZERO,
            conversations: 0,
        }
    }

    /// What it has seen so far.
    pub fn snapshot(&self) -> Totals {
        self.shared.totals.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether it has ended by itself (a count was given, and reached).
    pub fn is_finished(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Lets the exchanges under way end, closes the conversations, and returns what was seen.
    ///
    /// # Panics
    /// When the load's thread did, with its panic.
    pub fn stop(mut self) -> Totals {
        self.end()
    }

    /// Waits until the given count is reached, for at most `limit`, then as [`Load::stop`].
    pub fn finish(mut self, limit: Duration) -> Result<Totals> {
        let in_time = crate::poll::until("the load to reach its count", limit, || {
            if self.is_finished() { Ok(()) } else { Err(format!("{} exchanges", self.snapshot().attempts)) }
        });
        let totals = self.end();
        in_time.map_err(|error| anyhow!("{error}; {}", totals.describe_failures()))?;
        Ok(totals)
    }

    fn end(&mut self) -> Totals {
        self.stop.send_replace(true);
        if let Some(Err(panic)) = self.thread.take().map(JoinHandle::join) {
            std::panic::resume_unwind(panic);
        }
        self.snapshot()
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.send_replace(true);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// What the tasks of one load share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) protocol: Protocol,
    pub(super) dial: Dial,
    totals: Mutex<Totals>,
    /// Exchanges that are still to begin.
    left: AtomicU64,
    pause: Duration,
}

impl Shared {
    pub(super) fn count(&self, change: impl FnOnce(&mut Totals)) {
        change(&mut self.totals.lock().unwrap_or_else(PoisonError::into_inner));
    }

    fn take_turn(&self) -> bool {
        self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok()
    }
}

async fn drive(
    shared: &Arc<Shared>,
    workers: usize,
    conversations: usize,
    stop: &watch::Sender<bool>,
    stopped: &watch::Receiver<bool>,
) {
    let mut talks = JoinSet::new();
    for _ in 0..conversations {
        let (shared, stopped) = (Arc::clone(shared), stopped.clone());
        talks.spawn(async move { converse(&shared, stopped).await });
    }
    let mut tasks = JoinSet::new();
    for _ in 0..workers {
        tasks.spawn(work(Arc::clone(shared), stopped.clone()));
    }
    if workers > 0 {
        tasks.join_all().await;
        // The count is reached: the conversations end with it.
        stop.send_replace(true);
    }
    talks.join_all().await;
}

async fn work(shared: Arc<Shared>, mut stop: watch::Receiver<bool>) {
    while !*stop.borrow() && shared.take_turn() {
        let outcome = match shared.protocol {
            Protocol::Tcp => shared.dial.tcp_exchange().await,
            Protocol::Udp => shared.dial.udp_exchange().await,
        };
        let pause = if outcome.is_err() { PAUSE_AFTER_FAILURE.max(shared.pause) } else { shared.pause };
        shared.count(|totals| totals.record(outcome));
        if pause > Duration::ZERO {
            let _ = tokio::time::timeout(pause, stop.wait_for(|stop| *stop)).await;
        }
    }
}
