//! Is the agent healthy, and may load balancers send to this node?
//!
//! Decides by when changes were queued and applied, when the agent was last heard, and what its Node says (contract
//! C46). Must not know clocks: times come in, as a span since some start. Invariant: an API server that is away
//! makes nobody unhealthy.

use std::time::Duration;

/// How long a change may wait, or the agent stay silent.
const LIMIT: Duration = Duration::from_secs(60);

/// What is known of the agent's health.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Health {
    /// Since when the oldest change waits that is not applied.
    queued: Option<Duration>,
    /// When the agent was last heard.
    heard: Duration,
    /// When changes were last applied; `None`: not yet.
    updated: Option<Duration>,
    eligible: bool,
}

impl Default for Health {
    /// Just started: healthy, and eligible until the Node is known.
    fn default() -> Self {
        Self { queued: None, heard: Duration::ZERO, updated: None, eligible: true }
    }
}

impl Health {
    /// A change arrived at `at`; earlier ones may still wait.
    pub fn queued(&mut self, at: Duration) {
        self.queued = Some(self.queued.map_or(at, |earlier| earlier.min(at)));
    }

    /// Nothing waits any longer, as of `now`.
    pub fn updated(&mut self, now: Duration) {
        self.queued = None;
        self.updated = Some(now);
    }

    /// The agent's loop turned.
    pub fn heard(&mut self, now: Duration) {
        self.heard = self.heard.max(now);
    }

    /// What the own Node says.
    pub fn set_eligible(&mut self, eligible: bool) {
        self.eligible = eligible;
    }

    /// Is every change applied in time, and the agent not stuck? So it is while it starts.
    #[must_use]
    pub fn is_healthy(&self, now: Duration) -> bool {
        let overdue = |since: Duration| now.saturating_sub(since) >= LIMIT;
        !self.queued.is_some_and(overdue) && !overdue(self.heard)
    }

    /// May new connections be sent to this node?
    #[must_use]
    pub fn is_eligible(&self) -> bool {
        self.eligible
    }

    /// When changes were last applied; `None`: not yet.
    #[must_use]
    pub fn last_updated(&self) -> Option<Duration> {
        self.updated
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn c46_a_change_that_is_not_applied_in_time_makes_it_unhealthy_until_it_is() {
        let mut health = Health::default();
        health.queued(10 * SECOND);
        health.queued(50 * SECOND);
        health.heard(69 * SECOND);
        assert!(health.is_healthy(69 * SECOND));
        assert!(!health.is_healthy(70 * SECOND), "the oldest counts");
        health.updated(71 * SECOND);
        assert!(health.is_healthy(71 * SECOND));
        assert_eq!(health.last_updated(), Some(71 * SECOND));
    }

    #[test]
    fn c46_starting_and_idle_are_healthy_and_silence_of_the_agent_is_not() {
        let mut health = Health::default();
        assert!(health.is_healthy(59 * SECOND) && health.last_updated().is_none());
        assert!(!health.is_healthy(60 * SECOND), "never heard");
        for minute in 1..100 {
            health.heard(minute * LIMIT);
            assert!(health.is_healthy(minute * LIMIT + 59 * SECOND), "nothing has to change to stay healthy");
        }
    }

    #[test]
    fn c46_eligibility_and_health_are_two_things() {
        let mut health = Health::default();
        assert!(health.is_eligible());
        health.set_eligible(false);
        assert!(health.is_healthy(SECOND) && !health.is_eligible());
    }
}
