//! Connections go over to this agent's maps, where a predecessor's were others.
//!
//! Decides when rows are copied: at the start, right before the first program is replaced, all the while programs are
//! being replaced, and after the last. Must not know which maps. Invariant: the predecessor's maps stay pinned until no
//! program works on them.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use super::{Agent, foreign};
use crate::datapath::object::{self, Programs, Sizes};
use crate::datapath::pins::Pins;
use crate::datapath::succession::{CarriedOver, Succession};

/// A predecessor's maps, or nobody's.
pub(super) struct Handover {
    succession: Arc<Succession>,
    pins: Pins,
}

/// Programs are being replaced, and rows copied.
pub(super) struct Replacing {
    ended: Arc<AtomicBool>,
    copying: Option<JoinHandle<()>>,
}

impl Handover {
    /// Makes this agent's maps, loads its programs, and copies what a predecessor's maps know of connections.
    ///
    /// # Errors
    /// Where connections would be lost or programs cannot be loaded: then all is as it was.
    pub(super) fn begin(pins: &Pins, sizes: &Sizes) -> anyhow::Result<(Self, Programs)> {
        let succession = Succession::begin(pins, sizes)?;
        // Before there are maps: one that says nothing of its layout is believed by no successor.
        let loaded = pins.note_layouts().and_then(|()| object::load(Some(pins), sizes));
        let programs = match loaded {
            Ok(programs) => programs,
            Err(error) => {
                succession.undo();
                return Err(error);
            }
        };
        let carried = succession.fill()?;
        if !succession.is_over() {
            tracing::info!(
                rows = carried.rows,
                "the maps of a previous agent were others; its connections go on"
            );
        }
        tell_lost(carried);
        Ok((Self { succession: Arc::new(succession), pins: pins.clone() }, programs))
    }

    /// The first program is about to be replaced.
    pub(super) fn replacing(&self) -> Replacing {
        let ended = Arc::new(AtomicBool::new(false));
        if self.succession.is_over() {
            return Replacing { ended, copying: None };
        }
        foreign::taking_over(&self.pins, true);
        told(self.succession.refresh());
        let (succession, end) = (self.succession.clone(), ended.clone());
        let copying = std::thread::Builder::new().name("handover".to_owned()).spawn(move || {
            told(succession.follow(&end));
        });
        if let Err(error) = &copying {
            tracing::warn!(%error, "no thread to copy connections: those opened in this very moment may break");
        }
        Replacing { ended, copying: copying.ok() }
    }

    /// Programs were replaced, all of them if `all`: then the predecessor's maps are not needed any more.
    pub(super) fn replaced(&mut self, all: bool) {
        if self.succession.is_over() {
            return;
        }
        told(self.succession.catch_up());
        // Who copies has ended, and with it its share.
        let Some(succession) = Arc::get_mut(&mut self.succession).filter(|_| all) else { return };
        match succession.finish(&self.pins) {
            Ok(()) => tracing::info!("the previous agent's maps are gone"),
            Err(error) => tracing::warn!(
                error = format!("{error:#}"),
                "the previous agent's maps are not needed any more and could not be unpinned; the next start tries again"
            ),
        }
    }
}

impl Replacing {
    /// They have been.
    pub(super) fn ended(self) {
        self.ended.store(true, Ordering::Release);
        if let Some(copying) = self.copying {
            // It does not panic; if it did, the last copy is made by who called.
            let _ended = copying.join();
        }
    }
}

impl Agent {
    /// For the first time: where a previous agent's programs hang, this one's take their place.
    pub(super) async fn attach(&mut self, addresses: &[IpAddr]) {
        // Waits for the verifier, so that replacing takes no time. What it refuses is said where it is attached.
        let _said_later = self.interfaces.programs();
        let attaching = foreign::begin(&self.pins, self.clock);
        let replacing = self.handover.replacing();
        self.interfaces.update(addresses).await;
        let sockets = self.socket_addresses();
        self.sockets.update(Some(self.interfaces.programs()), &sockets);
        replacing.ended();
        self.replaced();
        attaching.done();
    }

    /// A previous agent's maps may go if none of its programs is left.
    pub(super) fn replaced(&mut self) {
        let all = self.interfaces.retry_at().is_none() && self.sockets.retry_at().is_none();
        self.handover.replaced(all);
    }
}

fn told(result: anyhow::Result<CarriedOver>) {
    match result {
        Ok(carried) => tell_lost(carried),
        Err(error) => tracing::error!(
            error = format!("{error:#}"),
            "connections could not be copied from the previous agent's maps: some may break"
        ),
    }
}

fn tell_lost(carried: CarriedOver) {
    if carried.lost > 0 {
        tracing::error!(
            connections = carried.lost,
            "no room for rows of a previous agent: these connections break"
        );
    }
}
