//! Tier 2: a large cluster at an API server, and many changes in it: how long until a row is in the kernel's maps.
//!
//! Figures are printed, not asserted: the machine decides them. What is asserted is that every change arrives, and that
//! the rows are those of a fresh start in the end. `SWITCHBOARD_SCALE=full` for ten thousand Services and a minute of
//! a thousand changes a second, `sync` for two seconds of them, with a release build in `SWITCHBOARD_BIN`.

use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use lb_common::abi::{self, FrontendKey, FrontendRow};
use lb_common::address::{Port, Protocol, V4};
use lb_tests::agent::{Agent, AgentConfig};
use lb_tests::apiserver::{ApiServer, Invented, Settings};
use lb_tests::lab::{Lab, Layout};
use lb_userspace::datapath::pins::Pins;
use lb_userspace::datapath::table::Table;

const START: Duration = Duration::from_secs(120);
const NODE: &str = "node0";
/// The first Services are changed by the measurement alone, one at a time.
const PROBED: u32 = 50;

struct Size {
    cluster: Invented,
    changes_per_second: u32,
    lasts: Duration,
}

fn size() -> Size {
    let wanted = std::env::var("SWITCHBOARD_SCALE").unwrap_or_default();
    let (services, changes_per_second, seconds) = match wanted.as_str() {
        "full" => (10_000, 1_000, 60),
        "sync" => (10_000, 1_000, 2),
        _ => (1_000, 100, 3),
    };
    let cluster = Invented { services, endpoints: 10, nodes: 100 };
    Size { cluster, changes_per_second, lasts: Duration::from_secs(seconds) }
}

/// The row of a Service's frontend.
fn row(
    frontends: &Table<FrontendKey<V4>, FrontendRow>,
    cluster: Invented,
    number: u32,
) -> Option<FrontendRow> {
    let ip: Ipv4Addr = cluster.service(number)["spec"]["clusterIP"].as_str().unwrap().parse().unwrap();
    let key = FrontendKey::new(V4::from(ip), Port::new(80), Protocol::TCP);
    frontends.get(&key).unwrap()
}

/// Replaces endpoints of the probed Services one after the other, and measures until each is in the map.
fn probe(server: &ApiServer, frontends: &Table<FrontendKey<V4>, FrontendRow>, size: &Size) -> Histogram<u64> {
    let mut micros = Histogram::new(3).unwrap();
    let began = Instant::now();
    for number in 0.. {
        if began.elapsed() >= size.lasts {
            break;
        }
        let (service, generation) = (number % PROBED, number / PROBED + 1);
        let (before, slice) =
            (row(frontends, size.cluster, service), size.cluster.slice(service, generation));
        let changed = Instant::now();
        server.apply(slice).unwrap();
        while row(frontends, size.cluster, service) == before {
            assert!(changed.elapsed() < START, "the change of Service {service} did not arrive");
            std::thread::sleep(Duration::from_micros(50));
        }
        micros.record(u64::try_from(changed.elapsed().as_micros()).unwrap()).unwrap();
        std::thread::sleep(Duration::from_millis(15));
    }
    micros
}

/// Changes the other Services at the wanted rate until told to stop; says how many changes that were.
fn churn(server: &ApiServer, size: &Size, stop: &AtomicBool) -> u32 {
    let others = size.cluster.services - PROBED;
    let began = Instant::now();
    let mut done: u32 = 0;
    while !stop.load(Ordering::Relaxed) {
        let due = f64::from(done) / f64::from(size.changes_per_second);
        std::thread::sleep(Duration::from_secs_f64(due).saturating_sub(began.elapsed()));
        // Steps of a prime reach every Service before any comes again.
        let number = PROBED + (done.wrapping_mul(7_919) % others);
        server.apply(size.cluster.slice(number, done / others + 1)).unwrap();
        done += 1;
    }
    done
}

/// Processor time that a process has taken so far (proc(5): user and system, in clock ticks).
fn processor_time(pid: u32) -> Duration {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = text.rsplit(')').next().unwrap().split_whitespace().collect();
    let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    Duration::from_millis(ticks * 10)
}

/// A line of `/proc/PID/status`, in kB.
fn memory(pid: u32, what: &str) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = text.lines().find(|line| line.starts_with(what)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
fn a_large_cluster_is_synced_and_its_changes_reach_the_maps() {
    let size = size();
    let lab = Lab::builder().node(NODE, Layout::Routed, &[]).build().unwrap();
    let listener = lab.node(NODE).netns.run(|| TcpListener::bind("127.0.0.1:0").unwrap());
    let server = ApiServer::start_on(listener, Settings::default()).unwrap();
    size.cluster.hold(&server).unwrap();
    let mut config = AgentConfig::watching(server.url());
    for (option, rows) in
        [("backends", 300_000), ("slots", 1_000_000), ("service-ports", 20_000), ("frontends", 20_000)]
    {
        config = config.arg(format!("--max-{option}={rows}"));
    }
    let mut agent = Agent::start(lab.node(NODE), config).unwrap();
    let first = agent.wait_in_sync(START).unwrap();
    let listed =
        agent.lines().unwrap().iter().find(|line| line.message() == "the first lists are complete").unwrap();
    println!(
        "{} Services of {} endpoints: listed in {} ms, planned and {} rows written in {} ms; resident {} kB",
        first.services,
        size.cluster.endpoints,
        listed.count("milliseconds").unwrap(),
        first.rows_written,
        first.line.count("milliseconds").unwrap(),
        memory(agent.pid(), "VmRSS"),
    );

    let pins = Pins::at(&lab.node(NODE).pin_folder);
    let frontends = Table::open(&pins.map(abi::FRONTENDS_V4)).unwrap();
    let (stop, pid) = (AtomicBool::new(false), agent.pid());
    let (began, used) = (Instant::now(), processor_time(pid));
    let (changes, micros) = std::thread::scope(|scope| {
        let churning = scope.spawn(|| churn(&server, &size, &stop));
        let micros = probe(&server, &frontends, &size);
        stop.store(true, Ordering::Relaxed);
        (churning.join().unwrap(), micros)
    });
    let (took, used) = (began.elapsed(), processor_time(pid) - used);
    println!(
        "{changes} changes in {took:.1?}: {:.0}/s; from the change to the row, {} probes: p50 {} us, p90 {} us, p99 {} us, \
         longest {} us; processor {:.2} cores; resident {} kB, at most {} kB",
        f64::from(changes) / took.as_secs_f64(),
        micros.len(),
        micros.value_at_quantile(0.5),
        micros.value_at_quantile(0.9),
        micros.value_at_quantile(0.99),
        micros.max(),
        used.as_secs_f64() / took.as_secs_f64(),
        memory(pid, "VmRSS"),
        memory(pid, "VmHWM"),
    );
    assert!(micros.len() > 10);

    // One more change of the last Service in the stream: behind it, everything has arrived.
    let before = row(&frontends, size.cluster, 0);
    server.apply(size.cluster.slice(0, 1_000_000)).unwrap();
    lb_tests::poll::until("the last change", START, || {
        if row(&frontends, size.cluster, 0) == before { Err("not yet".to_owned()) } else { Ok(()) }
    })
    .unwrap();
    agent.restart().unwrap();
    let report = agent.wait_in_sync(START).unwrap();
    assert_eq!(report.rows_written, 0, "the rows differ from those of a fresh start");
    assert_eq!(report.services, first.services);
}
