//! `bench pps`: packets a second through XDP, of frames that are really sent (BPF_F_TEST_XDP_LIVE_FRAMES).
//!
//! A generator runs in the kernel on one processor and sends frames into a veth; at its other end, in another network
//! namespace, a program sends them back, where they are counted and dropped. All of it happens on the generator's
//! processor, one batch after the other, so a packet costs what all of that costs together.
//!
//! Decides what is compared. Must not know how a frame is restored. Invariant: a figure counts if all frames that were
//! sent came back.

use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use aya::maps::{Array, MapData};
use aya::programs::xdp::{XdpLink, XdpMode};
use aya::programs::{TestRun as _, TestRunAttrs, TestRunOptions, Xdp};
use aya::{Ebpf, EbpfLoader};
use lb_common::abi::Verdict;
use lb_common::address::Protocol;
use lb_tests::lab::{Lab, Layout, Netns};

use super::asm::{Alu, Assembler, Helper, R, STACK, Width};
use super::ground::{Ground, Packet, Wishes};
use super::object::{self, MapDef};
use super::wrapper::{self, Hook, NEXT, Recipe};
use crate::figures::{Cell, Section, Spread, Table};
use crate::machine;
use crate::screen::Screen;
use crate::{Extent, Order};

/// Frames at a time; a veth's queue has room for 256.
const BATCH: u32 = 64;
/// Of the kernel's `enum xdp_action`.
const XDP_DROP: i32 = 1;
const XDP_TX: i32 = 3;
/// The map whose row 0 counts what came back.
const BACK: &str = "BACK";
/// The share of frames that may be lost on the way; a veth drops what its queue has no room for.
const LOST: f64 = 0.001;
/// The table's name, for the targets.
const TITLE: &str = "Packets a second on one processor, through a veth pair";

/// How much is measured.
struct Effort {
    rounds: usize,
    /// In each round.
    frames: u32,
    flows: &'static [u32],
}

impl Effort {
    fn of(extent: Extent) -> Self {
        match extent {
            Extent::Quick => Self { rounds: 3, frames: 300_000, flows: &[1, 1 << 10] },
            Extent::Full | Extent::Patient => {
                Self { rounds: 9, frames: 1_500_000, flows: &[1, 1 << 10, 1 << 16] }
            }
        }
    }
}

/// A generator, and who gets its frames.
struct Run {
    what: &'static str,
    flows: Option<u32>,
    generator: Ebpf,
    recipe: Recipe,
    /// Frames are to come back.
    returns: bool,
    /// Index of the ground whose program sends them back.
    ground: Option<usize>,
    /// A second.
    rates: Vec<f64>,
}

/// Measures.
pub(crate) fn run(order: &Order, screen: &Screen) -> Result<Section> {
    let effort = Effort::of(order.extent);
    let lab = ["drop", "tx", "v4", "v6"]
        .into_iter()
        .fold(Lab::builder(), |lab, name| lab.node(name, Layout::Routed, &[]))
        .build()?;
    let bar = screen.bar("live frames", effort.rounds);
    let mut back = load(bare_object(counting())?.as_slice())?;
    let _ports: Vec<XdpLink> = (1..=4)
        .map(|number| attach(&mut back, lab.fabric(), &format!("up-n{number}")))
        .collect::<Result<_>>()?;
    let mut counted: Array<MapData, u64> =
        Array::try_from(back.take_map(BACK).context("the sink has no counter")?)?;
    let mut bare = Vec::new();
    for (name, action) in [("drop", XDP_DROP), ("tx", XDP_TX)] {
        let mut program = load(bare_object(returning(action))?.as_slice())?;
        let link = attach(&mut program, &lab.node(name).netns, "eth0")?;
        bare.push((program, link));
    }
    let most = effort.flows.last().copied().unwrap_or(1);
    let (mut grounds, mut links) = (Vec::new(), Vec::new());
    for (ipv6, name) in [(false, "v4"), (true, "v6")] {
        let mut ground = Ground::lay(Wishes { flows: most, ..Wishes::plain(ipv6, Protocol::TCP) })?;
        ground.populate(most)?;
        let netns = &lab.node(name).netns;
        super::shortcuts::give_ways(&ground, index_of(netns, "eth0")?)?;
        links.push(netns.run(|| ground.datapath.attach_to_device("eth0"))?);
        grounds.push(ground);
    }
    let mut runs = runs(&lab, &grounds, &effort)?;
    for round in 0..effort.rounds {
        for turn in 0..runs.len() {
            let index = (turn + round) % runs.len();
            let run = &mut runs[index];
            let rate = measure(&lab, run, &grounds, &mut counted, effort.frames)
                .with_context(|| run.what.to_owned())?;
            run.rates.push(rate);
        }
        bar.inc(1);
    }
    bar.finish_and_clear();
    Ok(section(table(&runs)))
}

/// What is compared, with its generator.
fn runs(lab: &Lab, grounds: &[Ground], effort: &Effort) -> Result<Vec<Run>> {
    let recipe =
        |ground: &Ground, flows| Recipe { hook: Hook::Xdp, ..ground.varied(Packet::Forth, Some(flows)) };
    let make = |what, number: u8, ground: usize, flows: u32, ours: bool| -> Result<Run> {
        let ifindex = index_of(lab.fabric(), &format!("up-n{number}"))?;
        let recipe = recipe(&grounds[ground], flows);
        let mut generator = load(&wrapper::generator(&recipe, ifindex)?)?;
        let program: &mut Xdp = generator.program_mut("generator").context("no generator")?.try_into()?;
        program.load().context("the kernel's verifier refused the generator")?;
        Ok(Run {
            what,
            flows: ours.then_some(flows),
            generator,
            recipe,
            returns: number != 1,
            ground: ours.then_some(ground),
            rates: Vec::new(),
        })
    };
    let mut runs = vec![make("XDP_DROP", 1, 0, 1, false)?, make("XDP_TX", 2, 0, 1, false)?];
    for (ground, what) in ["Switchboard, IPv4", "Switchboard, IPv6"].into_iter().enumerate() {
        for flows in effort.flows {
            runs.push(make(what, if ground == 0 { 3 } else { 4 }, ground, *flows, true)?);
        }
    }
    Ok(runs)
}

/// Sends that many frames; how many of them a second were dealt with.
fn measure(
    lab: &Lab,
    run: &mut Run,
    grounds: &[Ground],
    counted: &mut Array<MapData, u64>,
    frames: u32,
) -> Result<f64> {
    counted.set(0, 0, 0)?;
    let ground = run.ground.map(|index| &grounds[index]);
    let taken = |ground: &Ground| -> Result<u64> {
        let counters = ground.datapath.counters()?;
        let places = Verdict::ALL.iter().zip(counters);
        Ok(places.filter(|(verdict, _)| **verdict == Verdict::ShortcutTaken).map(|(_, count)| count).sum())
    };
    let before = ground.map(taken).transpose()?;
    let mut next: Array<_, u64> = Array::try_from(run.generator.map_mut(NEXT).context("no number")?)?;
    next.set(0, 0, 0)?;
    let program: &mut Xdp = run.generator.program_mut("generator").context("no generator")?.try_into()?;
    let template = &run.recipe.template;
    let seconds = lab.fabric().run(|| {
        machine::pin(0);
        let mut options = TestRunOptions::new();
        options.data_in = Some(template);
        options.repeat = frames;
        options.attrs = TestRunAttrs::new().xdp_live_frames(BATCH);
        let began = Instant::now();
        program.test_run(options).context("sending live frames (Linux 5.18 can)")?;
        anyhow::Ok(began.elapsed().as_secs_f64())
    })?;
    let missing = |count: u64| (1.0 - count as f64 / f64::from(frames)).abs();
    if run.returns {
        let back = counted.get(&0, 0)?;
        ensure!(missing(back) <= LOST, "of {frames} frames {back} came back");
    }
    if let (Some(ground), Some(before)) = (ground, before) {
        let count = taken(ground)? - before;
        ensure!(missing(count) <= LOST, "of {frames} frames {count} were sent on by their flow's shortcut");
    }
    Ok(f64::from(frames) / seconds)
}

/// A program that counts and drops.
fn counting() -> Assembler {
    let mut code = Assembler::default();
    code.store_constant(Width::B4, STACK, -4, 0).copy(R(2), STACK).alu(Alu::Add, R(2), -4).map(R(1), BACK);
    code.call(Helper::MapLookup).end_if_zero(R(0), XDP_DROP);
    code.alu(Alu::Move, R(1), 1).count(R(0), R(1)).end(XDP_DROP);
    code
}

fn returning(action: i32) -> Assembler {
    let mut code = Assembler::default();
    code.end(action);
    code
}

fn bare_object(code: Assembler) -> Result<Vec<u8>> {
    object::write("xdp", vec![("bare", code)], &[MapDef { name: BACK, kind: 2, key: 4, value: 8, rows: 1 }])
}

fn load(object: &[u8]) -> Result<Ebpf> {
    EbpfLoader::new().load(object).context("loading the bench's own programs")
}

/// Hangs the object's program `bare` on a device.
fn attach(ebpf: &mut Ebpf, netns: &Netns, device: &str) -> Result<XdpLink> {
    let program: &mut Xdp = ebpf.program_mut("bare").context("the object has no program")?.try_into()?;
    if program.fd().is_err() {
        program.load().context("the kernel's verifier refused the bench's program")?;
    }
    let link = netns.run(|| program.attach(device, XdpMode::Driver));
    let link = link.with_context(|| format!("attaching to {device} in {}", netns.name()))?;
    program.take_link(link).context("taking the link of the program just attached")
}

fn index_of(netns: &Netns, device: &str) -> Result<u32> {
    let index = netns.run(|| nix::net::if_::if_nametoindex(device));
    index.with_context(|| format!("asking for the index of {device} in {}", netns.name()))
}

fn table(runs: &[Run]) -> Table {
    let columns = ["sent back by", "flows", "packets/s", "share of XDP_TX", "ns more than XDP_TX"];
    let mut table = Table::new(TITLE, &columns);
    let tx = runs.iter().find(|run| run.what == "XDP_TX").map_or(&[][..], |run| &run.rates);
    for run in runs {
        let more: Vec<f64> = run.rates.iter().zip(tx).map(|(rate, tx)| 1e9 / rate - 1e9 / tx).collect();
        table.rows.push(vec![
            Cell::text(run.what),
            run.flows.map_or(Cell::Nothing, |flows| Cell::Count(flows.into())),
            Cell::Figure(Spread::of(&run.rates)),
            Cell::Ratio(Spread::of_ratios(&run.rates, tx)),
            Cell::Figure(Spread::of(&more)),
        ]);
    }
    table
}

fn section(table: Table) -> Section {
    Section {
        verb: "pps".to_owned(),
        title: "Packets a second at XDP".to_owned(),
        method: vec![
            "A generator in the kernel (BPF_F_TEST_XDP_LIVE_FRAMES) writes each frame, of the flow whose turn it is, and \
             sends it into a veth pair. At the other end a program sends it back out of the interface it came in by \
             (XDP_TX): a bare one that does nothing else, or Switchboard's, which translates both ends of an established, \
             masqueraded TCP flow first. What comes back is counted and dropped, and every frame must come back. \
             Generator, veth, program and counting all run on one processor, one batch of 64 frames after the other."
                .to_owned(),
            "XDP_DROP drops instead of sending back, and shows what the generator and one way through the veth cost. \
             Figures are by turns, as everywhere."
                .to_owned(),
        ],
        tables: vec![table],
        plots: Vec::new(),
        limits: vec![
            "A network card, whose driver sends in less time than a veth, and whose frames are not in the cache. What a \
             packet costs beyond XDP_TX is the same there; the share is not."
                .to_owned(),
            "More than one processor: flows are spread over them by the card's queues.".to_owned(),
        ],
        disturbances: Vec::new(),
    }
}
