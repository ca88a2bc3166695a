//! The maps are compared with what they should hold, now and then, and repaired.
//!
//! Decides when, and what follows. Must not know how maps are read. Invariant: as long as nothing is wrong, changes
//! wait for a small step of it at most; only what others have done to the maps is worth reading them whole.

use std::time::Duration;

use tokio::time::Interval;

use super::{Agent, every, tell_troubles};
use crate::reconcile::Audit;
use crate::tables::Seen;

/// How often the maps are compared with what they should hold.
const AUDIT_EVERY: Duration = Duration::from_secs(300);
/// Between two steps. A hundred thousand endpoints take about five hundred.
const STEP_EVERY: Duration = Duration::from_millis(5);

/// When audits and their steps are due.
pub(super) struct Audits {
    due: Interval,
    steps: Interval,
    under_way: bool,
}

impl Audits {
    pub(super) fn new() -> Self {
        Self { due: every(AUDIT_EVERY), steps: every(STEP_EVERY), under_way: false }
    }

    /// Waits until the next step is due. Cancel safe.
    pub(super) async fn step(&mut self) {
        if !self.under_way {
            self.due.tick().await;
            self.under_way = true;
            self.steps.reset();
        }
        self.steps.tick().await;
    }
}

impl Agent {
    /// A step of an audit.
    pub(super) fn audit(&mut self, audits: &mut Audits) {
        let audit = match self.reconciler.look() {
            Ok(Seen::More) => return,
            Ok(Seen::End) => Ok(Audit::default()),
            Ok(Seen::Drift) => self.reconciler.audit(self.started.elapsed()),
            Err(error) => Err(error),
        };
        audits.under_way = false;
        self.look_after_node();
        match audit {
            Ok(audit) => self.audited(&audit),
            Err(error) => tracing::error!(
                error = format!("{error:#}"),
                "the maps could not be read back; tried again later"
            ),
        }
        self.strangers.seek(self.reconciler.maps_mut());
    }

    /// What else of the node others may have touched.
    fn look_after_node(&mut self) {
        self.sockets.update(None, &self.socket_addresses());
        match self.config.repair() {
            Ok(true) => tracing::warn!("the node's configuration was not what it should be; repaired"),
            Ok(false) => {}
            Err(error) => tracing::error!(error = format!("{error:#}"), "tried again later"),
        }
    }

    fn audited(&mut self, audit: &Audit) {
        self.reporter.audited(&self.reconciler, audit);
        if audit.drift > 0 {
            tracing::warn!(operations = audit.drift, "the maps were not what they should be; repaired");
            self.follow_up(&audit.report, false);
            tell_troubles(&audit.report, &self.told);
        }
    }
}
