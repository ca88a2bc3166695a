//! Tier 1: how long the programs are, and how long the verifier takes over them.
//!
//! Both are golden figures in `tests/golden/instructions.txt`: a change that moves one of them shows in review as a
//! diff. `BLESS=1 cargo xtask test root --filter programs_are_as_long` writes the file anew. Other compilers give slightly
//! other figures, hence the tolerance; other kernels write other helpers in place and prune otherwise, so the file names the
//! kernel it was written on, and on another one figures are held against twice as much.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;

use aya::programs::ProgramInfo;
use lb_common::abi::MAPS;
use lb_userspace::datapath::cgroup;
use lb_userspace::datapath::object::{self, Sizes};

/// A hundredth: what a figure may differ by before somebody has to say that it is meant.
const TOLERANCE: u64 = 5;
/// Instructions that the verifier looks at before it gives up (kernel commit c04c0d2b968a).
const VERIFIER_GIVES_UP: u64 = 1_000_000;
/// Rows of a map: no packet runs here.
const ROWS: u32 = 64;

/// Instructions as the kernel keeps them (helpers written in place, dead code gone), and how many the verifier
/// looked at over all paths.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Counts {
    translated: u64,
    verified: u64,
}

impl Counts {
    fn of(info: &ProgramInfo) -> Self {
        let translated = info.size_translated().expect("root sees a program's length") / 8;
        let verified = info.verified_instruction_count().expect("the kernel counts since 5.16");
        Self { translated: translated.into(), verified: verified.into() }
    }
}

fn golden() -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "golden", "instructions.txt"].iter().collect()
}

/// What the kernel made of each program.
fn counted() -> BTreeMap<String, Counts> {
    // Small maps keep the sizes that the programs rely on.
    let sizes: Sizes =
        MAPS.iter().filter(|map| map.default_rows > 4_096).map(|map| (map.name, ROWS)).collect();
    let mut programs = object::load(None, &sizes).unwrap();
    let mut all = BTreeMap::new();
    for name in object::CLASSIFIERS {
        let info = object::classifier(&mut programs, name).unwrap().info().unwrap();
        all.insert(name.to_owned(), Counts::of(&info));
    }
    let info = object::xdp(&mut programs, object::XDP_PROGRAM).unwrap().info().unwrap();
    all.insert(object::XDP_PROGRAM.to_owned(), Counts::of(&info));
    for hook in cgroup::HOOKS {
        let info = cgroup::program(&mut programs, hook).unwrap().info().unwrap();
        all.insert(hook.to_owned(), Counts::of(&info));
    }
    all
}

/// This kernel's version: its first two numbers.
fn kernel() -> String {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").expect("Linux says its release");
    release.split('.').take(2).collect::<Vec<_>>().join(".")
}

fn written(counts: &BTreeMap<String, Counts>) -> String {
    let mut text = format!("# kernel {}\n", kernel());
    text.push_str("# program, instructions, instructions that the verifier looked at\n");
    for (name, Counts { translated, verified }) in counts {
        writeln!(text, "{name} {translated} {verified}").unwrap();
    }
    text
}

fn read(text: &str) -> BTreeMap<String, Counts> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines
        .map(|line| match line.split(' ').collect::<Vec<_>>()[..] {
            [name, translated, verified] => {
                let counts =
                    Counts { translated: translated.parse().unwrap(), verified: verified.parse().unwrap() };
                (name.to_owned(), counts)
            }
            _ => panic!("{} holds the line {line:?}", golden().display()),
        })
        .collect()
}

/// Are they as good as equal?
fn is_near(now: u64, then: u64) -> bool {
    now.abs_diff(then) * 100 <= then * TOLERANCE
}

/// Is it at least of that kind?
fn is_no_longer_than_twice(now: u64, then: u64) -> bool {
    now <= 2 * then
}

#[test]
fn programs_are_as_long_as_was_blessed_and_far_from_what_the_verifier_gives_up_on() {
    let now = counted();
    let text = written(&now);
    for (name, counts) in &now {
        assert!(
            counts.verified < VERIFIER_GIVES_UP / 2,
            "{name} costs the verifier {} instructions",
            counts.verified
        );
    }
    if std::env::var_os("BLESS").is_some() {
        std::fs::create_dir_all(golden().parent().unwrap()).unwrap();
        std::fs::write(golden(), &text).unwrap();
    }
    let blessed = std::fs::read_to_string(golden())
        .unwrap_or_else(|error| panic!("{}: {error}; BLESS=1 writes it:\n{text}", golden().display()));
    let then = read(&blessed);
    let here = blessed.starts_with(&format!("# kernel {}\n", kernel()));
    let holds = if here { is_near } else { is_no_longer_than_twice };
    let differs = now.keys().chain(then.keys()).any(|name| match (now.get(name), then.get(name)) {
        (Some(now), Some(then)) => {
            !holds(now.translated, then.translated) || !holds(now.verified, then.verified)
        }
        _ => true,
    });
    assert!(
        !differs,
        "the programs' lengths differ by more than {TOLERANCE} % from {}; if that is meant, run this test with BLESS=1 and \
         commit the file with the change. Now:\n{text}Blessed:\n{blessed}",
        golden().display()
    );
}

#[test]
fn the_golden_file_is_read_as_it_was_written() {
    let counts = BTreeMap::from([("a".to_owned(), Counts { translated: 100, verified: 2_000 })]);
    assert_eq!(read(&written(&counts)), counts);
    assert!(is_near(105, 100) && is_near(95, 100) && !is_near(106, 100) && !is_near(94, 100));
}
