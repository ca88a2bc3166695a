//! Work that reads whole tables, beside the agent's loop: no change waits for it.
//!
//! Decides when such work is done: every so often, or when it is asked for, and how much of a processor it may take.
//! Must not know what it does. Invariant: being asked costs the asker nothing, however often it asks and however
//! long the work takes; what was asked for during a run is done by the next.

use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use anyhow::Context as _;

/// After a run, rest so many times as long as it took.
const REST: u32 = 19;

/// Work on a thread of its own, for as long as this is held.
#[derive(Debug)]
pub(super) struct Beside {
    asked: SyncSender<()>,
}

impl Beside {
    /// Does `work` whenever it is asked for, and `every` so often without being asked.
    ///
    /// # Errors
    /// Where there can be no thread.
    pub(super) fn start(
        name: &'static str,
        every: Option<Duration>,
        work: impl FnMut() + Send + 'static,
    ) -> anyhow::Result<Self> {
        let (asked, asks) = sync_channel(1);
        let run = move || turn(&asks, every, work, std::thread::sleep);
        std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(run)
            .with_context(|| format!("starting the thread {name}"))?;
        Ok(Self { asked })
    }

    /// Asks for a run; what was asked for already and not yet begun is this one too.
    pub(super) fn ask(&self) {
        // Full: a run is due. Disconnected: the work panicked, which is in the log.
        let _due = self.asked.try_send(());
    }
}

fn turn(
    asks: &Receiver<()>,
    every: Option<Duration>,
    mut work: impl FnMut(),
    mut rest: impl FnMut(Duration),
) {
    loop {
        let asked = match every {
            Some(every) => asks.recv_timeout(every),
            None => asks.recv().map_err(|_| RecvTimeoutError::Disconnected),
        };
        if asked == Err(RecvTimeoutError::Disconnected) {
            return;
        }
        let began = Instant::now();
        work();
        rest(began.elapsed() * REST);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;

    const LONG: Duration = Duration::from_secs(30);

    #[test]
    fn asking_does_not_wait_for_work_and_what_was_asked_meanwhile_is_done_once() {
        let ((begun, begins), (let_go, goes)) = (channel(), channel());
        let work = move || {
            begun.send(()).unwrap();
            goes.recv().unwrap();
        };
        let beside = Beside::start("test", None, work).unwrap();
        beside.ask();
        begins.recv_timeout(LONG).unwrap();
        // The work stands still, and whoever asks goes on.
        (0..1_000).for_each(|_| beside.ask());
        let_go.send(()).unwrap();
        begins.recv_timeout(LONG).unwrap();
        let_go.send(()).unwrap();
        drop(beside);
        assert!(begins.recv_timeout(LONG).is_err(), "a thousand asks were one run, and then it ended");
    }

    #[test]
    fn it_rests_after_each_run_and_ends_with_whoever_holds_it() {
        let (asked, asks) = sync_channel(1);
        let (mut runs, mut rests) = (0, 0);
        asked.send(()).unwrap();
        drop(asked);
        turn(&asks, Some(LONG), || runs += 1, |_| rests += 1);
        assert_eq!((runs, rests), (1, 1));
    }
}
