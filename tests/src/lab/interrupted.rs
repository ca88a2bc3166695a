//! What becomes of labs when somebody interrupts the program that made them.
//!
//! Decides the exit code: 128 and the signal's number, as shells have it. Must not know how a lab is wired. Invariant:
//! nothing of this process's labs is left behind, and nobody else's is touched.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context as _, Result};
use nix::sys::signal::Signal;
use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{SignalKind, signal};

use super::leftovers::remove_of_this_process;

/// Listens to signals. To be dropped last: what fails because its lab is being removed does not end the process before
/// all is.
#[must_use = "it is to be dropped at the end"]
#[derive(Debug)]
pub struct Interruptible {
    came: Arc<AtomicBool>,
}

impl Drop for Interruptible {
    fn drop(&mut self) {
        while self.came.load(Ordering::Acquire) {
            std::thread::park();
        }
    }
}

/// From now on SIGINT (Ctrl-C) and SIGTERM remove this process's labs before they end it.
///
/// # Errors
/// Where signals cannot be listened to, or no thread be had for that.
pub fn clean_up_when_interrupted() -> Result<Interruptible> {
    let runtime = Builder::new_current_thread().enable_io().build().context("a runtime for signals")?;
    let wanted = [Signal::SIGINT, Signal::SIGTERM];
    let listen = |wanted: Signal| {
        let _inside = runtime.enter();
        signal(SignalKind::from_raw(wanted as i32)).with_context(|| format!("listening to {wanted}"))
    };
    let [mut interrupt, mut terminate] = [listen(wanted[0])?, listen(wanted[1])?];
    let noted = Arc::new(AtomicBool::new(false));
    let interruptible = Interruptible { came: noted.clone() };
    let mut wait = move |runtime: Runtime| {
        let came = runtime.block_on(async {
            tokio::select! {
                _ = interrupt.recv() => wanted[0],
                _ = terminate.recv() => wanted[1],
            }
        });
        noted.store(true, Ordering::Release);
        eprintln!("{came}: removing the networks and programs of this run");
        if let Err(error) = remove_of_this_process() {
            eprintln!("error: {error:#}; the next run removes what is left");
        }
        std::process::exit(128 + came as i32);
    };
    let thread = std::thread::Builder::new().name("interrupted".to_owned());
    thread.spawn(move || wait(runtime)).context("a thread for signals")?;
    Ok(interruptible)
}
