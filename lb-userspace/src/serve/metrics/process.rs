//! What the process costs, under the names that every Prometheus client library uses.
//!
//! Decides nothing else. Invariant: what the kernel does not tell is left out.

use std::fmt;
use std::fs;

use nix::unistd::{SysconfVar, sysconf};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

/// Reads `/proc/self` at each scrape.
#[derive(Debug)]
pub(super) struct Process;

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        if let Some(seconds) = cpu_seconds() {
            let name = "process_cpu_seconds";
            let metric = encoder.encode_descriptor(name, "Time on a CPU", None, MetricType::Counter)?;
            ConstCounter::new(seconds).encode(metric)?;
        }
        if let Some(bytes) = resident_bytes() {
            let name = "process_resident_memory_bytes";
            let metric = encoder.encode_descriptor(name, "Memory in use", None, MetricType::Gauge)?;
            ConstGauge::new(bytes).encode(metric)?;
        }
        if let Some(files) = open_files() {
            let name = "process_open_fds";
            let metric =
                encoder.encode_descriptor(name, "Files and sockets open", None, MetricType::Gauge)?;
            ConstGauge::new(files).encode(metric)?;
        }
        Ok(())
    }
}

/// User and system time: fields 14 and 15 of proc_pid_stat(5), in ticks; the second field may hold spaces.
fn cpu_seconds() -> Option<f64> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks = |index: usize| fields.get(index)?.parse::<u32>().ok().map(f64::from);
    let per_second = sysconf(SysconfVar::CLK_TCK).ok()??;
    Some((ticks(11)? + ticks(12)?) / f64::from(u32::try_from(per_second).ok()?))
}

/// The second field of proc_pid_statm(5), in pages.
fn resident_bytes() -> Option<i64> {
    let statm = fs::read_to_string("/proc/self/statm").ok()?;
    let pages: i64 = statm.split_whitespace().nth(1)?.parse().ok()?;
    pages.checked_mul(sysconf(SysconfVar::PAGE_SIZE).ok()??)
}

fn open_files() -> Option<i64> {
    i64::try_from(fs::read_dir("/proc/self/fd").ok()?.count()).ok()
}
