//! The machine that figures come from, and who else used it meanwhile.
//!
//! Decides when a run counts as disturbed. Must not know what is measured. Invariant: what this process and its
//! children do is never held against the run.

use std::collections::BTreeMap;
use std::fs;
use std::process::Command;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::{JoinHandle, spawn};
use std::time::{Duration, Instant};

use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

/// Time between two looks at who runs.
const LOOK: Duration = Duration::from_secs(1);
/// A share of the machine's processors that others may take without being named, 0 to 1.
const OTHERS: f64 = 0.02;
/// A share that the hypervisor may keep back.
const STOLEN: f64 = 0.01;
/// The kernel's USER_HZ, in which `/proc` counts.
const TICKS: f64 = 100.0;

/// What a reader of figures wants to know of the machine.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Machine {
    pub(crate) kernel: String,
    pub(crate) processor: String,
    pub(crate) processors: usize,
    pub(crate) memory_mib: u64,
    /// Is eBPF compiled to machine code?
    pub(crate) jit: String,
    pub(crate) virtual_machine: bool,
    /// Programs compared with, and their versions.
    pub(crate) tools: Vec<String>,
}

impl Machine {
    /// Looks.
    pub(crate) fn look() -> Self {
        let cpuinfo = read("/proc/cpuinfo");
        let field = |name: &str| {
            let line = cpuinfo.lines().find(|line| line.starts_with(name));
            line.and_then(|line| line.split_once(": ")).map_or("unknown", |(_, value)| value).to_owned()
        };
        let memory = read("/proc/meminfo");
        let memory = memory.split_ascii_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok());
        let tool = |line: &[&str]| -> Option<String> {
            let output = Command::new(line[0]).args(&line[1..]).output().ok()?;
            Some(String::from_utf8_lossy(&output.stdout).lines().next()?.trim().to_owned())
        };
        Self {
            // Without what its builder appended: that names nothing that others could get.
            kernel: read("/proc/sys/kernel/osrelease")
                .trim()
                .split('-')
                .next()
                .unwrap_or_default()
                .to_owned(),
            processor: field("model name"),
            processors: cpuinfo.lines().filter(|line| line.starts_with("processor")).count(),
            memory_mib: memory.unwrap_or(0) / 1024,
            jit: match read("/proc/sys/net/core/bpf_jit_enable").trim() {
                "0" => "off".to_owned(),
                "" => "unknown".to_owned(),
                _ => "on".to_owned(),
            },
            virtual_machine: field("flags").contains("hypervisor"),
            tools: [
                &["nft", "--version"][..],
                &["iptables-legacy", "--version"],
                &["iptables-nft", "--version"],
            ]
            .into_iter()
            .filter_map(tool)
            .collect(),
        }
    }

    /// In one sentence.
    pub(crate) fn described(&self) -> String {
        format!(
            "{} processors ({}{}), {} MiB of memory, Linux {}, eBPF JIT {}",
            self.processors,
            self.processor,
            if self.virtual_machine { ", virtual" } else { "" },
            self.memory_mib,
            self.kernel,
            self.jit
        )
    }
}

/// The processors' time that was not idle since the machine started, in seconds.
pub(crate) fn busy_seconds() -> f64 {
    let stat = Stat::read();
    (stat.all - stat.idle - stat.stolen) / TICKS
}

/// Keeps the calling thread on one processor.
pub(crate) fn pin(processor: usize) {
    let mut set = CpuSet::new();
    // Where it may not run there, it runs where the scheduler likes, and the spread tells.
    let _ = set.set(processor).and_then(|()| sched_setaffinity(Pid::from_raw(0), &set));
}

/// Watches the machine while something is measured.
pub(crate) struct Watch {
    stop: Sender<()>,
    thread: JoinHandle<Others>,
    stat: Stat,
    loads: String,
}

impl Watch {
    /// Begins to watch.
    pub(crate) fn start() -> Self {
        let (stop, stopped) = channel();
        Self {
            stop,
            thread: spawn(move || look_around(&stopped)),
            stat: Stat::read(),
            loads: read("/proc/loadavg"),
        }
    }

    /// What disturbed the measuring, a sentence each; none if nothing did.
    pub(crate) fn finish(self) -> Vec<String> {
        drop(self.stop);
        let others = self.thread.join().unwrap_or_default();
        let (before, after) = (self.stat, Stat::read());
        let mut said = Vec::new();
        let stolen = (after.stolen - before.stolen) / (after.all - before.all).max(1.0);
        if stolen > STOLEN {
            said.push(format!("the hypervisor kept back {:.1} % of the processors' time", stolen * 100.0));
        }
        if others.share > OTHERS {
            said.push(format!(
                "other programs took {:.0} % of the processors, most of it {}; load before the run: {}",
                others.share * 100.0,
                others.first,
                self.loads.split(' ').take(3).collect::<Vec<_>>().join(" ")
            ));
        }
        said
    }
}

/// The machine's time so far, in ticks.
struct Stat {
    all: f64,
    idle: f64,
    stolen: f64,
}

impl Stat {
    fn read() -> Self {
        let text = read("/proc/stat");
        let line = text.lines().next().unwrap_or_default();
        let ticks: Vec<f64> =
            line.split_ascii_whitespace().skip(1).take(8).filter_map(|n| n.parse().ok()).collect();
        let at = |index: usize| ticks.get(index).copied().unwrap_or(0.0);
        Self { all: ticks.iter().sum(), idle: at(3) + at(4), stolen: at(7) }
    }
}

/// What processes that are not ours did.
#[derive(Debug, Default)]
struct Others {
    /// Of all processors, 0 to 1.
    share: f64,
    /// Who did most.
    first: String,
}

struct Process {
    parent: u32,
    name: String,
    ticks: f64,
}

fn look_around(stopped: &Receiver<()>) -> Others {
    let began = Instant::now();
    let mut before = processes();
    let mut by_name: BTreeMap<String, f64> = BTreeMap::new();
    loop {
        let last = stopped.recv_timeout(LOOK) != Err(RecvTimeoutError::Timeout);
        let now = processes();
        for (pid, process) in &now {
            if !is_ours(*pid, &now) {
                let earlier = before.get(pid).map_or(0.0, |process| process.ticks);
                *by_name.entry(process.name.clone()).or_default() += (process.ticks - earlier).max(0.0);
            }
        }
        before = now;
        if last {
            break;
        }
    }
    let processors = std::thread::available_parallelism().map_or(1.0, |count| count.get() as f64);
    let all: f64 = by_name.values().sum();
    let first = by_name.iter().max_by(|a, b| a.1.total_cmp(b.1)).map(|(name, _)| name.clone());
    Others {
        share: all / TICKS / began.elapsed().as_secs_f64().max(0.1) / processors,
        first: first.unwrap_or_default(),
    }
}

/// This process, what it started, and the kernel's own threads, which work for whoever sends packets.
fn is_ours(mut pid: u32, all: &BTreeMap<u32, Process>) -> bool {
    while let Some(process) = all.get(&pid) {
        if pid == std::process::id() || pid == 2 {
            return true;
        }
        pid = process.parent;
    }
    false
}

fn processes() -> BTreeMap<u32, Process> {
    let Ok(folder) = fs::read_dir("/proc") else { return BTreeMap::new() };
    let pids = folder.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
    pids.filter_map(|pid| Some((pid, parse(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)?)))
        .collect()
}

/// Reads `/proc/PID/stat`; the name may hold spaces and brackets.
fn parse(stat: &str) -> Option<Process> {
    let (head, tail) = stat.rsplit_once(") ")?;
    let fields: Vec<&str> = tail.split(' ').collect();
    let ticks = |index: usize| fields.get(index)?.parse::<f64>().ok();
    Some(Process {
        parent: fields.get(1)?.parse().ok()?,
        name: head.split_once('(')?.1.to_owned(),
        ticks: ticks(11)? + ticks(12)?,
    })
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_read_whatever_its_name() {
        let process = parse("7 (a) b (c)) S 3 7 7 0 -1 0 0 0 0 0 11 4 0 0 20 0").unwrap();
        assert_eq!((process.parent, process.name.as_str(), process.ticks), (3, "a) b (c)", 15.0));
    }

    #[test]
    fn this_process_is_ours_and_the_first_is_not() {
        let all = processes();
        assert!(is_ours(std::process::id(), &all));
        assert!(!is_ours(1, &all) || std::process::id() == 1);
    }
}
