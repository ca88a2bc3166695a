//! The programs, verified while the source is still being read.
//!
//! Decides which programs are likely to be wanted, by the links that are there at the start. Must not know Services.
//! Invariant: a guess costs the verifier's time at most; a program that was not guessed, or was refused, is loaded
//! when it is asked for, and only then is a refusal an error.

use std::thread::JoinHandle;

use anyhow::Context as _;

use crate::datapath::attach::Suite;
use crate::datapath::object::Programs;
use crate::datapath::pins::Pins;
use crate::datapath::{cgroup, freed, lighter, object};

/// Programs that may still be with the verifier.
pub(super) struct Prepared {
    ready: Option<Programs>,
    verifying: Option<JoinHandle<Programs>>,
}

/// What is likely to be wanted.
#[derive(Clone, Debug, Default)]
pub(super) struct Guess {
    /// On interfaces.
    pub(super) suites: Vec<Suite>,
    /// On uplinks, before the stack.
    pub(super) xdp: bool,
    /// On the cgroup.
    pub(super) sockets: bool,
}

impl Prepared {
    /// Begins to load what is guessed, on a thread of its own.
    ///
    /// # Errors
    /// Where there can be no thread.
    pub(super) fn begin(mut programs: Programs, pins: &Pins, guess: Guess) -> anyhow::Result<Self> {
        let pins = pins.clone();
        let verify = move || {
            load(&mut programs, &guess);
            if let Err(error) = lighter::lighten(&mut programs, &pins) {
                tracing::debug!(error = format!("{error:#}"), "the programs' instructions stay in memory");
            }
            freed::give_back();
            programs
        };
        let verifying = std::thread::Builder::new()
            .name("verify".to_owned())
            .spawn(verify)
            .context("starting the thread that loads programs")?;
        Ok(Self { ready: None, verifying: Some(verifying) })
    }

    /// The programs, once the verifier is done with what was begun.
    ///
    /// # Errors
    /// Where the loading thread panicked.
    pub(super) fn get(&mut self) -> anyhow::Result<&mut Programs> {
        if let Some(verifying) = self.verifying.take() {
            self.ready = verifying.join().ok();
        }
        self.ready.as_mut().context("the thread that loads programs panicked: start the agent again")
    }
}

fn load(programs: &mut Programs, guess: &Guess) {
    let classifiers = guess.suites.iter().flat_map(|suite| suite.programs());
    let mut failed: Vec<anyhow::Error> =
        classifiers.filter_map(|name| object::classifier(programs, name).err()).collect();
    if guess.sockets {
        failed.extend(cgroup::HOOKS.iter().filter_map(|hook| cgroup::program(programs, hook).err()));
    }
    if guess.xdp {
        failed.extend(object::xdp(programs, object::XDP_PROGRAM).err());
    }
    for error in failed {
        tracing::debug!(error = format!("{error:#}"), "tried again when it is needed");
    }
}
