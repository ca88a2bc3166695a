//! `switchboard run`: the agent.
//!
//! Decides what wakes it and in which order things start: the lock, the maps, the rows, the programs on
//! interfaces. Must not decide what rows are. Invariant: until the first full read of the source, what a
//! previous agent left stays in force; when this one ends, however it ends, so does what it leaves (contract C4, C49).

mod audit;
mod beside;
mod carried;
mod config;
mod foreign;
mod guard;
mod handover;
mod interfaces;
mod limits;
mod observe;
mod options;
mod prepared;
mod report;
mod sockets;
mod strangers;
mod surroundings;
mod sweep;

use std::net::IpAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{Interval, MissedTickBehavior, interval, sleep_until};

use super::node::NodeArgs;
use super::node_settings::NodeSettings;
use super::objects::{self, Objects, SourceArgs, ToldOwners};
use crate::datapath::attach::{self, Way};
use crate::datapath::attach_xdp;
use crate::datapath::clock::Clock;
use crate::datapath::freed;
use crate::datapath::kernel::KernelMaps;
use crate::datapath::object;
use crate::datapath::pins::{DEFAULT_ROOT, Pins};
use crate::model::{Change, State};
use crate::plan::owners::Owners;
use crate::plan::rows::{Supported, Terms};
use crate::plan::{ahead, decide};
use crate::reconcile::{Reconciler, Report};
use crate::serve;
use crate::source::Update;
use audit::Audits;
use beside::Beside;
use carried::CarriedArgs;
use config::NodeConfig;
use guard::Guard;
use handover::Handover;
use interfaces::{Interfaces, Ways};
use limits::{SizeArgs, TimeoutArgs};
pub(super) use options::port_range;
use options::{ConfigurationArgs, NodeSettingsArgs, ServeArgs};
use report::{Arrival, Reporter};
use sockets::{SocketArgs, Sockets};
use strangers::Strangers;
use surroundings::Surroundings;

/// How often the numbers that nobody counts while they change are passed on.
const TELL_EVERY: Duration = Duration::from_secs(10);

/// Runs the agent: keeps the node's Services working as the source says.
#[derive(clap::Args, Clone, Debug)]
pub struct Args {
    #[command(flatten)]
    source: SourceArgs,
    /// The folder on a BPF filesystem that maps and links are pinned under.
    #[arg(long, value_name = "DIR", default_value = DEFAULT_ROOT)]
    pin_dir: PathBuf,
    /// Which interfaces lead to pods, as patterns with * and ?; by default every veth whose peer is in another
    /// network namespace, but for those that carry a default route or an address of the node.
    #[arg(long, value_name = "PATTERN", value_delimiter = ',')]
    pod_interfaces: Option<Vec<String>>,
    /// How programs hang on interfaces.
    #[arg(long, value_enum, default_value = "auto")]
    attach: Way,
    /// On which uplinks packets of masqueraded flows pass by the stack, and so by this host's own FORWARD rules.
    #[arg(long, value_enum, default_value = "auto")]
    xdp: attach_xdp::Mode,
    /// Ports for masqueraded flows, apart from NodePorts and the host's own (`ip_local_port_range`).
    #[arg(long, value_name = "FIRST-LAST", default_value = "61000-65535", value_parser = port_range)]
    masquerade_ports: (u16, u16),
    /// Answer TCP clients whose backend is listed no more with a reset, and close such connections of the node's own.
    /// Without, they last until their owners notice.
    #[arg(long)]
    reset_on_backend_delete: bool,
    #[command(flatten)]
    node: NodeArgs,
    #[command(flatten)]
    node_settings: NodeSettingsArgs,
    #[command(flatten)]
    serve: ServeArgs,
    #[command(flatten)]
    carried: CarriedArgs,
    #[command(flatten)]
    configuration: ConfigurationArgs,
    #[command(flatten)]
    sockets: SocketArgs,
    #[command(flatten)]
    sizes: SizeArgs,
    #[command(flatten)]
    timeouts: TimeoutArgs,
}

impl Args {
    /// Is only the configuration to be shown?
    pub(super) fn dry_run(&self) -> bool {
        self.configuration.dry_run
    }
}

/// Runs until told to stop. Everything stays pinned.
///
/// # Errors
/// Where the agent cannot start: rights, kernel features, the source, or another agent.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    freed::leave_few_holes();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("starting the asynchronous runtime")?;
    runtime.block_on(async { Agent::start(args).await?.run().await })?;
    Ok(ExitCode::SUCCESS)
}

struct Agent {
    source: Objects,
    told: ToldOwners,
    /// Has everything been read once (C4)?
    read: bool,
    state: State,
    owners: Owners,
    surroundings: Surroundings,
    reconciler: Reconciler<KernelMaps>,
    handover: Handover,
    interfaces: Interfaces,
    sockets: Sockets,
    strangers: Strangers,
    _sweeping: Beside,
    guard: Guard,
    reporter: Reporter,
    pins: Pins,
    clock: Clock,
    config: NodeConfig,
    node: NodeArgs,
    node_settings: Option<NodeSettings>,
    started: Instant,
    lock: crate::datapath::pins::Lock,
}

impl Agent {
    async fn start(args: &Args) -> anyhow::Result<Self> {
        attach::check(args.attach)?;
        args.node.check()?;
        object::check_built_in()?;
        let node_name = args.source.node()?;
        let node = args.node.clone().listening(args.serve.options().ports());
        let source = args.source.open().await?;
        let pins = Pins::at(&args.pin_dir);
        pins.prepare()?;
        let lock = pins.lock()?;
        let (handover, ebpf) = Handover::begin(&pins, &args.sizes.sizes())?;
        let clock = Clock::read()?;
        let mut maps = KernelMaps::open(&pins)?;
        let config = NodeConfig::begin(args, &pins, clock, &mut maps)?;
        let capacity = maps.capacity();
        let max_table = args.sizes.max_maglev_slots;
        let terms = Terms { node_addresses: Vec::new(), supported: Supported::ALL, max_table };
        let reconciler = Reconciler::new(maps, capacity, terms)?;
        let (reporter, observe) = report::pair(&pins, args.carried);
        let told = source.owners();
        let tell = {
            let told = told.clone();
            move |notice| report::tell_notice(notice, &told)
        };
        serve::start(args.serve.options(), reporter.board(), observe, tell)?;
        let ways = Ways { tc: args.attach, xdp: args.xdp };
        let (patterns, sockets) = (args.pod_interfaces.clone(), args.sockets.are_served());
        let interfaces = Interfaces::new(ebpf, pins.clone(), ways, patterns, sockets).await?;
        Ok(Self {
            told,
            source,
            read: false,
            state: State::new(node_name),
            owners: Owners::default(),
            surroundings: Surroundings::new(node.clone()),
            reconciler,
            handover,
            interfaces,
            sockets: Sockets::new(args.sockets.clone(), pins.clone())?,
            strangers: Strangers::new(&pins, args.masquerade_ports)?,
            _sweeping: sweep::start(&pins, clock, args.timeouts.timeouts())?,
            guard: Guard::start(&pins, args.attach, sockets)?,
            reporter,
            clock,
            config,
            node,
            node_settings: args.node_settings.settings(),
            started: Instant::now(),
            pins,
            lock,
        })
    }

    async fn run(mut self) -> anyhow::Result<()> {
        let (mut terminated, mut interrupted) =
            (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        let (mut audits, mut tells) = (Audits::new(), every(TELL_EVERY));
        loop {
            self.reporter.heard();
            let wake = self.wake_at();
            tokio::select! {
                _ = terminated.recv() => break,
                _ = interrupted.recv() => break,
                update = self.source.next() => self.take_in(update).await,
                changed = self.interfaces.changed(), if self.read => {
                    changed.context("watching the host's interfaces")?;
                    self.interfaces.update(&node_addresses(&self.state)).await;
                    self.look_around();
                }
                () = sleep_until(wake.unwrap_or_else(Instant::now).into()), if wake.is_some() => {
                    self.due().await;
                }
                () = audits.step(), if self.read => self.audit(&mut audits),
                found = self.strangers.found() => self.strangers.mark(found, self.reconciler.maps_mut()),
                missing = self.guard.missing(), if self.read => self.put_back(missing).await,
                _ = tells.tick() => self.reporter.api_errors(self.source.errors()),
            }
        }
        tracing::info!("stopped; Services go on working as they are");
        Ok(())
    }

    /// The first full read replaces what a previous agent left; then programs go onto interfaces.
    async fn take_in(&mut self, update: Update) {
        let mut arrival = self.reporter.received(&update, &self.state);
        objects::tell(&update.findings);
        let addresses = node_addresses(&self.state);
        let look = !self.read || self.surroundings.concern(&update.changes);
        let mut differs = !self.read || !update.findings.is_empty();
        let is_list = update.changes.iter().any(Change::is_list);
        for change in update.changes {
            differs |= self.state.take_in(change);
        }
        if !differs {
            if is_list {
                freed::give_back();
            }
            return;
        }
        if look {
            self.surroundings.look(&mut self.state, &mut self.owners, &mut self.reconciler);
        }
        let first = !std::mem::replace(&mut self.read, true);
        let report = self.synchronize(&mut arrival, first);
        if first || addresses != node_addresses(&self.state) {
            let addresses = node_addresses(&self.state);
            if let Some(settings) = &self.node_settings {
                settings.apply(&self.node.pod_networks(self.state.node()));
            }
            if first {
                self.attach(&addresses).await;
            } else {
                self.interfaces.update(&addresses).await;
                self.sockets.update(None, &self.socket_addresses());
            }
        } else if look {
            self.sockets.update(None, &self.socket_addresses());
        }
        self.follow_up(&report, first);
        if first {
            self.strangers.seek(self.reconciler.maps_mut());
            freed::forget_files();
        }
        self.reporter.attached(self.interfaces.attached());
        if is_list {
            self.owners.pack();
            self.reconciler.pack();
            freed::give_back();
        }
        self.tell_report(&report, arrival.began);
    }

    /// An address may have come or gone.
    fn look_around(&mut self) {
        let mut arrival = Arrival::now();
        if self.surroundings.look(&mut self.state, &mut self.owners, &mut self.reconciler) {
            let report = self.synchronize(&mut arrival, false);
            self.sockets.update(None, &self.socket_addresses());
            self.follow_up(&report, false);
            self.tell_report(&report, arrival.began);
        }
    }

    /// As whom its own sockets count.
    fn socket_addresses(&self) -> Vec<IpAddr> {
        sockets::standing(&node_addresses(&self.state), &self.owners.site().node_port_addresses)
    }

    /// Plans what is dirty, says what is refused, and writes; the first time removes everything else.
    fn synchronize(&mut self, arrival: &mut Arrival, first: bool) -> Report {
        let names = decide::concerned(&mut self.state, &mut self.owners);
        self.reporter.waits(arrival);
        if first {
            self.reconciler.keep_only(&names);
        }
        let Self { state, owners, reconciler, reporter, told, started, .. } = self;
        let report = ahead::services(state, owners, &names, |planned| {
            let planned = planned.map(|(name, planned)| {
                tell_refusals(&planned.refused, told);
                reporter.planned(arrival, state, name, &planned);
                (name.clone(), planned.decisions)
            });
            reconciler.sync(planned, started.elapsed())
        });
        self.reporter.written(arrival, &self.state, &self.reconciler, &report);
        report
    }

    /// What was put off: writes that failed, ids at rest, interfaces that could not be attached to.
    async fn due(&mut self) {
        let report = self.reconciler.sync([], self.started.elapsed());
        self.follow_up(&report, false);
        tell_troubles(&report, &self.told);
        self.reporter.settled(&self.reconciler, &report);
        if self.interfaces.retry_at().is_some_and(|at| at <= Instant::now()) {
            self.interfaces.update(&node_addresses(&self.state)).await;
        }
        if self.sockets.retry_at().is_some_and(|at| at <= Instant::now()) {
            let addresses = self.socket_addresses();
            self.sockets.update(Some(self.interfaces.programs()), &addresses);
            self.sockets.close_stranded();
        }
        self.replaced();
    }

    /// What has to follow once the maps say that a backend serves no longer.
    fn follow_up(&self, report: &Report, first: bool) {
        if first || report.retired > 0 {
            self.sockets.close_stranded();
        }
    }

    fn wake_at(&self) -> Option<Instant> {
        let reconciler = self.reconciler.wake_at().map(|epoch| self.started + epoch);
        [reconciler, self.interfaces.retry_at(), self.sockets.retry_at()].into_iter().flatten().min()
    }

    fn tell_report(&self, report: &Report, began: Instant) {
        tell_troubles(report, &self.told);
        tracing::info!(
            services = self.state.service_count(),
            planned = report.services,
            rows_written = report.rows_written,
            refused = self.reconciler.refused().count(),
            failing = self.reconciler.failing(),
            interfaces = self.interfaces.attached(),
            milliseconds = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX),
            "in sync"
        );
    }
}

fn tell_refusals(refused: &[decide::Refused], told: &ToldOwners) {
    for refused in refused {
        tracing::warn!("{refused}");
        told.tell(refused.claimant.service.clone(), "FrontendTaken", refused.to_string());
    }
}

fn tell_troubles(report: &Report, told: &ToldOwners) {
    for refused in &report.refused {
        tracing::warn!(service = %refused.service, "not programmed: {}", refused.reason);
        told.tell(refused.service.clone(), "NotProgrammed", refused.reason.clone());
    }
    for failed in &report.failed {
        let service =
            failed.service.as_ref().map_or_else(|| "no Service's rows".to_owned(), ToString::to_string);
        tracing::error!(service, "could not be written, tried again later: {}", failed.reason);
    }
}

fn node_addresses(state: &State) -> Vec<IpAddr> {
    state.node().map(|node| node.internal_ips.clone()).unwrap_or_default()
}

fn every(period: Duration) -> Interval {
    let mut ticks = interval(period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks.reset();
    ticks
}
