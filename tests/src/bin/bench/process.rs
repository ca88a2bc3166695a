//! What a process and its maps take of the machine.
//!
//! Decides where the kernel says so (proc(5)). Must not know what the process does. Invariant: nothing is counted twice.

use std::fs;
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::path::Path;

use anyhow::{Context as _, Result};
use aya::maps::MapData;
use lb_common::abi;
use lb_userspace::datapath::pins::Pins;

/// The kernel's USER_HZ, in which `/proc` counts.
const TICKS: f64 = 100.0;

/// Seconds of processors' time that a process has taken so far, its own and the kernel's for it.
pub(crate) fn processor_seconds(pid: u32) -> Result<f64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))
        .with_context(|| format!("reading /proc/{pid}/stat: has the process ended?"))?;
    let fields: Vec<&str> = stat.rsplit(") ").next().unwrap_or_default().split(' ').collect();
    let ticks = |index: usize| fields.get(index).and_then(|ticks| ticks.parse::<f64>().ok());
    let all = ticks(11).zip(ticks(12)).context("a process without times")?;
    Ok((all.0 + all.1) / TICKS)
}

/// A line of `/proc/PID/status` that counts kB, as `VmRSS` (resident now) and `VmHWM` (at most so far); in bytes.
pub(crate) fn memory(pid: u32, what: &str) -> Result<f64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))
        .with_context(|| format!("reading /proc/{pid}/status: has the process ended?"))?;
    let line = status.lines().find(|line| line.split(':').next() == Some(what));
    let kib = line.and_then(|line| line.split_ascii_whitespace().nth(1)?.parse::<f64>().ok());
    Ok(kib.with_context(|| format!("no {what} of process {pid}"))? * 1024.0)
}

/// What the kernel counts for a pinned map, in bytes.
pub(crate) fn map_memory(pin: &Path) -> Result<f64> {
    let data = MapData::from_pin(pin).with_context(|| format!("opening {}", pin.display()))?;
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", data.fd().as_fd().as_raw_fd()))?;
    let line = info.lines().find_map(|line| line.strip_prefix("memlock:"));
    let bytes = line.and_then(|bytes| bytes.trim().parse().ok());
    bytes.with_context(|| format!("the kernel does not say what {} takes", pin.display()))
}

/// The same of all maps of an agent.
pub(crate) fn maps_memory(pins: &Pins) -> Result<f64> {
    let all = abi::MAPS.iter().map(|map| pins.map(*map)).filter(|pin| pin.exists());
    all.map(|pin| map_memory(&pin)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_memory_and_times() {
        let pid = std::process::id();
        assert!(memory(pid, "VmRSS").unwrap() > 1e5);
        // Tests beside this one allocate as well: a figure read now and one read a line later are of two moments.
        let taken = vec![1_u8; 64 << 20];
        drop(std::hint::black_box(taken));
        assert!(
            memory(pid, "VmHWM").unwrap() >= f64::from(64 << 20),
            "what was given back counts as the most so far"
        );
        assert!(processor_seconds(pid).unwrap() >= 0.0);
        assert!(memory(pid, "VmNothing").is_err());
    }
}
