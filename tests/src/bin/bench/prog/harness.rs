//! Timing programs by BPF_PROG_TEST_RUN: the wrapper loaded, its target set, the clock read.
//!
//! Decides rounds and what is subtracted from what. Must not know services. Invariant: a measurement counts only if
//! every single run of the target ended in the verdict that was expected.

use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use aya::maps::{Array, MapData, ProgramArray};
use aya::programs::{ProgramFd, SchedClassifier, TestRun as _, TestRunOptions, Xdp};
use aya::{Ebpf, EbpfLoader};
use lb_common::abi::Verdict;
use lb_tests::packets::Datapath;

use super::wrapper::{self, DONE, FLOWS, Hook, NEXT, Recipe, TARGET};
use crate::figures::Spread;

/// The wrapper for a recipe.
pub(super) struct Harness {
    ebpf: Ebpf,
    recipe: Recipe,
    next: Array<MapData, u64>,
    target: ProgramArray<MapData>,
    empty: ProgramFd,
    lookup: Option<ProgramFd>,
    rewrite: Option<ProgramFd>,
    /// The number of the first packet that was never sent.
    fresh: u64,
}

/// What is measured.
pub(super) struct Target<'a> {
    pub(super) program: &'a ProgramFd,
    pub(super) verdict: Verdict,
}

/// What programs are measured by, in one round: nanoseconds a packet.
pub(super) struct Yardsticks {
    /// The wrapper around a program that does nothing.
    pub(super) wrapper: f64,
    /// What a lookup adds to it.
    pub(super) lookup: f64,
    /// What reading and writing a packet's headers adds to it, at the hooks of traffic control.
    pub(super) rewrite: Option<f64>,
}

/// Nanoseconds a packet in one round; what the wrapper takes is taken off.
pub(super) struct Round {
    /// Of a single lookup of the same flows.
    lookup: Option<f64>,
    /// Of the target.
    target: f64,
}

/// The same over the rounds.
pub(super) struct Timing {
    pub(super) lookup: Option<Spread>,
    pub(super) target: Spread,
    /// Target to lookup.
    pub(super) ratio: Option<Spread>,
    /// The target's rounds.
    pub(super) rounds: Vec<f64>,
}

impl Timing {
    pub(super) fn of(rounds: &[Round]) -> Self {
        let targets: Vec<f64> = rounds.iter().map(|round| round.target).collect();
        let lookups: Vec<f64> = rounds.iter().filter_map(|round| round.lookup).collect();
        let any = !lookups.is_empty();
        Self {
            lookup: any.then(|| Spread::of(&lookups)),
            target: Spread::of(&targets),
            ratio: any.then(|| Spread::of_ratios(&targets, &lookups)),
            rounds: targets,
        }
    }
}

impl Harness {
    /// Loads it. `flows` is the pinned flow table for the single lookup.
    pub(super) fn load(recipe: Recipe, flows: Option<&Path>) -> Result<Self> {
        let object = wrapper::object(&recipe)?;
        let mut loader = EbpfLoader::new();
        if let Some(flows) = flows.filter(|_| recipe.tuple.is_some()) {
            loader.map_pin_path(FLOWS, flows);
        }
        let mut ebpf = loader.load(&object).context("loading the bench's own programs")?;
        let next = ebpf.take_map(NEXT).context("the bench's object has no map NEXT")?;
        let target = ebpf.take_map(TARGET).context("the bench's object has no map TARGET")?;
        load_program(&mut ebpf, recipe.hook, "wrapper")?;
        let empty = load_program(&mut ebpf, recipe.hook, "empty")?;
        let lookup = recipe.tuple.map(|_| load_program(&mut ebpf, recipe.hook, "lookup")).transpose()?;
        let rewrite = recipe.tuple.filter(|_| recipe.hook == Hook::Tc);
        let rewrite = rewrite.map(|_| load_program(&mut ebpf, recipe.hook, "rewrite")).transpose()?;
        let (next, target) = (next.try_into()?, target.try_into()?);
        Ok(Self { ebpf, recipe, next, target, empty, lookup, rewrite, fresh: 0 })
    }

    /// Packets before number `first` were sent already.
    pub(super) fn start_at(&mut self, first: u64) {
        self.fresh = first;
    }

    /// The number of the first packet that was never sent.
    pub(super) fn next_new(&self) -> u64 {
        self.fresh
    }

    /// Runs `program` on that many packets from number `first` on; nanoseconds each, and the last action.
    pub(super) fn run(&mut self, program: &ProgramFd, first: u64, repeat: u32) -> Result<(f64, i32)> {
        self.target.set(0, program, 0).context("setting the wrapper's target")?;
        self.next.set(0, first, 0).context("setting the first packet's number")?;
        let mut options = TestRunOptions::new();
        options.data_in = Some(&self.recipe.template);
        options.repeat = repeat;
        let program = self.ebpf.program_mut("wrapper").context("the bench's object has no wrapper")?;
        let result = match self.recipe.hook {
            Hook::Tc => <&mut SchedClassifier>::try_from(program)?.test_run(options),
            Hook::Xdp => <&mut Xdp>::try_from(program)?.test_run(options),
        }
        .context("running the wrapper")?;
        #[expect(clippy::cast_precision_loss, reason = "nanoseconds of one packet")]
        let each = result.duration.as_nanos() as f64;
        Ok((each, result.return_value.cast_signed()))
    }

    fn yardstick(&mut self, program: &ProgramFd, repeat: u32) -> Result<f64> {
        let (each, action) = self.run(program, 0, repeat)?;
        ensure!(action == DONE, "the bench's own program could not do its work (action {action})");
        Ok(each)
    }

    /// Times the yardsticks.
    pub(super) fn yardsticks(&mut self, repeat: u32) -> Result<Yardsticks> {
        let empty = self.empty.try_clone()?;
        let lookup = self.lookup.as_ref().context("the recipe has no tuple to look up")?.try_clone()?;
        let wrapper = self.yardstick(&empty, repeat)?;
        let lookup = (self.yardstick(&lookup, repeat)? - wrapper).max(0.0);
        let rewrite = self.rewrite.as_ref().map(ProgramFd::try_clone).transpose()?;
        let rewrite = rewrite.map(|rewrite| self.yardstick(&rewrite, repeat)).transpose()?;
        Ok(Yardsticks { wrapper, lookup, rewrite: rewrite.map(|gross| (gross - wrapper).max(0.0)) })
    }

    /// Runs the target, and checks that each run ended as it should.
    pub(super) fn check(
        &mut self,
        datapath: &Datapath,
        target: &Target<'_>,
        first: u64,
        repeat: u32,
    ) -> Result<f64> {
        let before = datapath.counters()?;
        let (each, _) = self.run(target.program, first, repeat)?;
        let after = datapath.counters()?;
        let moved = after.iter().zip(&before).map(|(after, before)| after - before);
        let moved: Vec<(Verdict, u64)> =
            Verdict::ALL.iter().copied().zip(moved).filter(|(_, count)| *count > 0).collect();
        let wanted = [(target.verdict, u64::from(repeat))];
        ensure!(
            moved == wanted,
            "{repeat} packets should have ended as {:?}, and did as {moved:?}",
            target.verdict
        );
        Ok(each)
    }

    /// Runs the target until what it needs is warm: all flows that take turns, once.
    pub(super) fn warm_up(&mut self, datapath: &Datapath, target: &Target<'_>) -> Result<()> {
        let repeat = self.recipe.flows.unwrap_or(64).max(64);
        self.check(datapath, target, self.fresh, repeat)?;
        self.pass(repeat);
        Ok(())
    }

    /// One round: the empty program, the lookup, the target, and the empty program again.
    pub(super) fn round(&mut self, datapath: &Datapath, target: &Target<'_>, repeat: u32) -> Result<Round> {
        let empty = self.empty.try_clone()?;
        let lookup = self.lookup.as_ref().map(ProgramFd::try_clone).transpose()?;
        let before = self.yardstick(&empty, repeat)?;
        let lookup = lookup.map(|lookup| self.yardstick(&lookup, repeat)).transpose()?;
        let gross = self.check(datapath, target, self.fresh, repeat)?;
        self.pass(repeat);
        let wrapper = f64::midpoint(before, self.yardstick(&empty, repeat)?);
        let net = |gross: f64| (gross - wrapper).max(0.0);
        Ok(Round { lookup: lookup.map(net), target: net(gross) })
    }

    /// Where each packet is of a flow of its own, the next one is new too.
    fn pass(&mut self, packets: u32) {
        if self.recipe.flows.is_none() {
            self.fresh += u64::from(packets);
        }
    }
}

fn load_program(ebpf: &mut Ebpf, hook: Hook, name: &str) -> Result<ProgramFd> {
    let program =
        ebpf.program_mut(name).with_context(|| format!("the bench's object has no program {name}"))?;
    let refused = || format!("the kernel's verifier refused the bench's program {name}");
    let fd = match hook {
        Hook::Tc => {
            let program: &mut SchedClassifier = program.try_into()?;
            program.load().with_context(refused)?;
            program.fd()?
        }
        Hook::Xdp => {
            let program: &mut Xdp = program.try_into()?;
            program.load().with_context(refused)?;
            program.fd()?
        }
    };
    fd.try_clone().context("another descriptor of a program")
}
