//! The benchmarks: Switchboard beside kube-proxy's kind of rules and plain routing, on this machine.
//!
//! Decides which benchmarks run and where their figures go. Must not measure anything itself. Invariant: figures go to
//! stdout and to the files that were asked for; everything else goes to stderr.

mod figures;
mod machine;
mod process;
mod prog;
mod report;
mod screen;
mod show;
mod sync;
mod targets;
mod traffic;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::{Parser, Subcommand, ValueEnum};

use figures::Section;
use lb_tests::peers::kube_proxy;
use machine::Watch;
use report::Run;
use screen::Screen;

/// Measures Switchboard beside its peers. Needs root; touches only network namespaces of its own.
#[derive(Parser)]
#[command(name = "cargo xtask bench", disable_version_flag = true)]
struct Options {
    /// What to measure; everything if not given.
    #[command(subcommand)]
    what: Option<What>,
    /// Fewer rounds and sizes: everything in under three minutes.
    #[arg(long, global = true)]
    quick: bool,
    /// All peers at every size, however long: the loading of two of them takes the square of the Services, hours in all.
    #[arg(long, global = true, conflicts_with = "quick")]
    patient: bool,
    /// Print the figures as one JSON object on stdout instead of tables.
    #[arg(long, global = true)]
    json: bool,
    /// A real kube-proxy, to take part in `traffic` at an API server of the tests.
    #[arg(long, global = true, value_name = "BINARY")]
    kube_proxy: Option<PathBuf>,
    /// How that kube-proxy works.
    #[arg(long, global = true, value_name = "MODE", default_value = "nftables", requires = "kube_proxy")]
    kube_proxy_mode: ProxyMode,
    /// Write the page `benchmarks.md`, its plots and its figures to this folder.
    #[arg(long, global = true, value_name = "FOLDER")]
    report: Option<PathBuf>,
}

#[derive(Clone, Copy, Subcommand)]
enum What {
    /// Nanoseconds a packet of every program and path
    Prog,
    /// From objects to the kernel: all at once, and one change at a time
    Sync,
    /// Packets a second through XDP, of frames that are really sent
    Pps,
    /// What a client sees: connections, latency, throughput, through each contender
    Traffic,
}

/// kube-proxy's `--proxy-mode`.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum ProxyMode {
    Nftables,
    Iptables,
}

/// A kube-proxy that takes part.
#[derive(Clone, Debug)]
pub(crate) struct RealProxy {
    pub(crate) program: PathBuf,
    pub(crate) mode: kube_proxy::Mode,
}

/// What is asked for.
#[derive(Clone, Debug)]
pub(crate) struct Order {
    pub(crate) extent: Extent,
    pub(crate) kube_proxy: Option<RealProxy>,
}

/// How much is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Extent {
    /// Enough to see that nothing is broken.
    Quick,
    /// What a report is made of.
    Full,
    /// The same, with sizes that take the peers long.
    Patient,
}

/// A benchmark.
type Measure = fn(&Order, &Screen) -> Result<Section>;

fn main() -> ExitCode {
    match bench(&Options::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

impl Options {
    fn order(&self) -> Result<Order> {
        let extent = match (self.quick, self.patient) {
            (true, _) => Extent::Quick,
            (_, true) => Extent::Patient,
            _ => Extent::Full,
        };
        let mode = match self.kube_proxy_mode {
            ProxyMode::Nftables => kube_proxy::Mode::Nftables,
            ProxyMode::Iptables => kube_proxy::Mode::Iptables,
        };
        let proxy = self.kube_proxy.as_ref().map(|program| -> Result<RealProxy> {
            // It is started from another folder's point of view.
            let program =
                program.canonicalize().with_context(|| format!("looking for {}", program.display()))?;
            Ok(RealProxy { program, mode })
        });
        Ok(Order { extent, kube_proxy: proxy.transpose()? })
    }
}

fn bench(options: &Options) -> Result<()> {
    anyhow::ensure!(
        nix::unistd::geteuid().is_root(),
        "benchmarks load programs into the kernel and make network namespaces, which needs root"
    );
    let _to_the_end = lb_tests::lab::clean_up_when_interrupted()?;
    let screen = Screen::new();
    let order = options.order()?;
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let mut run =
        Run::begin(["cargo xtask bench".to_owned(), arguments.join(" ")].join(" ").trim().to_owned());
    screen.say(&format!("on {}", run.machine.described()));
    let measures: [(What, Measure); 4] = [
        (What::Prog, prog::run),
        (What::Pps, prog::pps),
        (What::Sync, sync::run),
        (What::Traffic, traffic::run),
    ];
    for (what, measure) in measures {
        if options.what.is_none_or(|chosen| std::mem::discriminant(&chosen) == std::mem::discriminant(&what))
        {
            let watch = Watch::start();
            let mut section = measure(&order, &screen)?;
            section.disturbances = watch.finish();
            if !options.json {
                println!("{}", show::section(&section));
            }
            run.sections.push(section);
        }
    }
    run.targets = targets::table(&run.sections);
    if let Some(targets) = run.targets.as_ref().filter(|_| !options.json) {
        println!("{}", show::table(targets));
    }
    if run.was_disturbed() {
        screen.say("this run was disturbed: its figures are not to be quoted (see above)");
    }
    if let Some(folder) = &options.report {
        show::write(&run, folder)?;
        screen.say(&format!("written to {}", folder.join("benchmarks.md").display()));
    }
    if options.json {
        println!("{}", serde_json::to_string(&run).context("writing the figures as JSON")?);
    }
    Ok(())
}
