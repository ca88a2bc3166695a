//! The datapath's clock as user space sees it.
//!
//! Decides how ticks are told from what the kernel says of its clocks. Must not know rows. Invariant: ticks
//! are those of `bpf_jiffies64`, low 32 bits, to within a second.

use anyhow::Context as _;
use nix::time::{ClockId, clock_getres, clock_gettime};

/// The kernel counts ticks from five minutes before the counter's 32 bits turn over (`INITIAL_JIFFIES`).
const BEFORE_TURNOVER: u64 = 300;

/// The kernel's tick.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Clock {
    /// Ticks in a second: the kernel's HZ.
    pub ticks_per_second: u32,
}

impl Clock {
    /// Asks the kernel: the coarse clock's resolution is one tick (`posix_get_coarse_res`).
    ///
    /// # Errors
    /// Where the answer is no tick.
    pub fn read() -> anyhow::Result<Self> {
        let tick = clock_getres(ClockId::CLOCK_MONOTONIC_COARSE).context("asking for the kernel's tick")?;
        let nanoseconds = u64::try_from(tick.tv_nsec()).unwrap_or(0);
        let per_second = 1_000_000_000u64.checked_div(nanoseconds).unwrap_or(0);
        anyhow::ensure!(
            (24..=10_000).contains(&per_second),
            "the kernel's tick of {nanoseconds} ns is none that Switchboard knows; please report it"
        );
        Ok(Self { ticks_per_second: u32::try_from(per_second)? })
    }

    /// Ticks now.
    ///
    /// # Errors
    /// Where the kernel has no monotonic clock.
    pub fn now(self) -> anyhow::Result<u32> {
        let now = clock_gettime(ClockId::CLOCK_MONOTONIC).context("reading the monotonic clock")?;
        let (seconds, nanoseconds) = (now.tv_sec().cast_unsigned(), now.tv_nsec().cast_unsigned());
        let hz = u64::from(self.ticks_per_second);
        let ticks = seconds.wrapping_sub(BEFORE_TURNOVER).wrapping_mul(hz) + nanoseconds * hz / 1_000_000_000;
        #[expect(clippy::cast_possible_truncation, reason = "rows hold the low 32 bits")]
        let low = ticks as u32;
        Ok(low)
    }

    /// Whole seconds since `then`, of a row of the last 2^31 ticks.
    #[must_use]
    pub fn seconds_since(self, then: u32, now: u32) -> u32 {
        // A row written a moment ago may be a tick ahead of what was computed here.
        let ticks = now.wrapping_sub(then);
        if ticks > u32::MAX / 2 { 0 } else { ticks / self.ticks_per_second }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_has_a_tick() {
        assert!([100, 250, 300, 1000].contains(&Clock::read().unwrap().ticks_per_second));
    }

    #[test]
    fn an_age_is_told_across_the_turnover_and_never_negative() {
        let clock = Clock { ticks_per_second: 100 };
        assert_eq!(clock.seconds_since(u32::MAX - 99, 100), 2);
        assert_eq!(clock.seconds_since(500, 499), 0);
    }
}
