//! The eBPF object: loaded, its maps pinned or taken over.
//!
//! Decides that pinned maps are used only if they are what the object wants (aya takes any).
//! Must not know services or interfaces. Invariant: a failed load leaves pins and attached programs as they were.

use std::collections::BTreeMap;

use anyhow::{Context as _, bail, ensure};
use aya::maps::MapInfo;
use aya::programs::{SchedClassifier, Xdp};
use aya::{Ebpf, EbpfLoader, include_bytes_aligned};
use aya_obj::Object;
use lb_common::abi::MAPS;

use super::freed;
use super::pins::Pins;

static OBJECT: &[u8] = include_bytes_aligned!(concat!(env!("OUT_DIR"), "/switchboard"));

/// The programs at traffic-control hooks, by name.
pub const CLASSIFIERS: [&str; 6] =
    ["pod_ingress", "pod_egress", "net_ingress", "net_egress", "bare_ingress", "bare_egress"];

/// The program before the stack.
pub const XDP_PROGRAM: &str = "net_xdp";

/// Those that every node needs, so that a kernel that refuses them is found at once.
const EVERYWHERE: [&str; 2] = ["pod_ingress", "pod_egress"];

/// The loaded programs. Dropping them leaves what is pinned or attached at work.
pub type Programs = Ebpf;

/// How many rows each map gets, where it is not its default.
pub type Sizes = BTreeMap<&'static str, u32>;

/// The object.
pub(super) fn bytes() -> &'static [u8] {
    OBJECT
}

/// Was the binary built with the datapath in it?
///
/// # Errors
/// Says how to build it.
pub fn check_built_in() -> anyhow::Result<()> {
    if OBJECT.is_empty() {
        bail!("this binary was built without the eBPF object: run `cargo xtask setup`, then build again");
    }
    Ok(())
}

/// Loads the object and its programs, with maps pinned at `pins`, or not pinned at all (for tests).
///
/// # Errors
/// Where the kernel refuses, rights are missing, or a pinned map is another.
pub fn load(pins: Option<&Pins>, sizes: &Sizes) -> anyhow::Result<Ebpf> {
    check_built_in()?;
    let mut loader = EbpfLoader::new();
    for (name, rows) in sizes {
        loader.map_max_entries(name, *rows);
    }
    if let Some(pins) = pins {
        check_pinned(pins, sizes)?;
        for map in MAPS {
            loader.map_pin_path(map.name, pins.map(*map));
        }
    }
    let mut ebpf = loader.load(OBJECT).context(
        "loading the eBPF object (needs CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON, and a kernel of 6.1 or later with BPF and its JIT)",
    )?;
    drop(loader);
    for name in EVERYWHERE {
        classifier(&mut ebpf, name)?;
    }
    freed::give_back();
    Ok(ebpf)
}

/// Are the maps pinned?
#[must_use]
pub fn is_pinned(pins: &Pins) -> bool {
    MAPS.iter().all(|map| pins.map(*map).exists())
}

/// Pins the maps again whose pins somebody has deleted; says how many. They are what they were: the programs have them.
///
/// # Errors
/// Where the object has not such a map, or the folder cannot be written to.
pub fn pin_again(ebpf: &Ebpf, pins: &Pins) -> anyhow::Result<usize> {
    let mut pinned = 0;
    for map in MAPS.iter().filter(|map| !pins.map(**map).exists()) {
        let path = pins.map(*map);
        let held = ebpf.map(map.name).with_context(|| format!("the eBPF object has no map {}", map.name))?;
        held.pin(&path).with_context(|| format!("pinning the map at {}", path.display()))?;
        pinned += 1;
    }
    Ok(pinned)
}

/// A program, loaded when it is first asked for: the verifier takes its time, and most nodes need few of them.
///
/// # Errors
/// Where the object has none of that name, or the verifier refuses it.
pub fn classifier<'a>(ebpf: &'a mut Ebpf, name: &str) -> anyhow::Result<&'a mut SchedClassifier> {
    let program = ebpf.program_mut(name).with_context(|| format!("the eBPF object has no program {name}"))?;
    let program: &mut SchedClassifier =
        program.try_into().with_context(|| format!("the program {name} is no classifier"))?;
    if program.fd().is_err() {
        program.load().with_context(|| format!("the kernel's verifier refused the program {name}"))?;
    }
    Ok(program)
}

/// The XDP program of that name, loaded when it is first asked for.
///
/// # Errors
/// Where the object has none of that name, or the verifier refuses it.
pub fn xdp<'a>(ebpf: &'a mut Ebpf, name: &str) -> anyhow::Result<&'a mut Xdp> {
    let program = ebpf.program_mut(name).with_context(|| format!("the eBPF object has no program {name}"))?;
    let program: &mut Xdp =
        program.try_into().with_context(|| format!("the program {name} is none for XDP"))?;
    if program.fd().is_err() {
        program.load().with_context(|| format!("the kernel's verifier refused the program {name}"))?;
    }
    Ok(program)
}

fn check_pinned(pins: &Pins, sizes: &Sizes) -> anyhow::Result<()> {
    let object = Object::parse(OBJECT).context("reading the eBPF object")?;
    for map in MAPS {
        let path = pins.map(*map);
        if !path.exists() {
            continue;
        }
        let info = MapInfo::from_pin(&path).with_context(|| format!("opening the map {}", path.display()))?;
        let wanted =
            object.maps.get(map.name).with_context(|| format!("the object has no map {}", map.name))?;
        let rows = sizes.get(map.name).copied().unwrap_or(map.default_rows);
        let have = (info.key_size(), info.value_size(), info.max_entries());
        let want = (wanted.key_size(), wanted.value_size(), rows);
        // Another one is set aside before anything is loaded.
        ensure!(have == want, "the pinned map {} is of {have:?}, and {want:?} are wanted", map.name);
    }
    Ok(())
}
