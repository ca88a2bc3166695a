//! An agent without a kernel: the real source, the real planner, the real reconciler, maps in memory.
//!
//! Looks at what the contract forbids after every single map operation and every update.

use std::collections::BTreeMap;
use std::time::Duration;

use lb_tests::apiserver::ApiServer;
use lb_userspace::datapath::fake::{FakeMaps, Watch};
use lb_userspace::model::{EndpointSlice, Node, ObjectName, Service, State};
use lb_userspace::plan::decide::{self, Planned};
use lb_userspace::plan::decision::{BackendSet, FrontendKind};
use lb_userspace::plan::owners::Owners;
use lb_userspace::plan::rows::{DEFAULT_MAX_TABLE, Supported, Terms};
use lb_userspace::reconcile::{GRACE, Reconciler};
use lb_userspace::source::kube::{Access, KubeSource, Timing};
use lb_userspace::tables::Capacity;

/// How long anything that ought to happen may take.
pub(crate) const SOON: Duration = Duration::from_secs(20);
/// Bookmarks come more often than that.
pub(crate) const SILENCE: Duration = Duration::from_millis(900);
/// How often a server for these tests sends bookmarks.
pub(crate) const BOOKMARKS: Duration = Duration::from_millis(100);

fn capacity() -> Capacity {
    Capacity {
        service_ports: 4_096,
        frontends: 8_192,
        backends: 16_384,
        slots: 65_536,
        ..Capacity::default()
    }
}

/// As patient as a test can be.
pub(crate) fn hasty() -> Timing {
    Timing {
        connect: Duration::from_millis(500),
        silence: SILENCE,
        list_silence: Duration::from_millis(600),
        retry: Duration::from_millis(10),
        retry_at_most: Duration::from_millis(100),
        spacing: Duration::from_millis(5),
        absent: Duration::from_millis(50),
        events_at_once: 3,
        event_every: Duration::from_secs(3600),
    }
}

pub(crate) async fn open(server: &ApiServer, node: &str) -> KubeSource {
    let access = Access { apiserver: Some(server.url()), ..Access::default() };
    KubeSource::open(&access, node, hasty()).await.unwrap()
}

/// Everything that a state holds, to be compared.
pub(crate) type Held = (Vec<Service>, Vec<Vec<EndpointSlice>>, Option<Node>);

pub(crate) fn held(state: &State) -> Held {
    let slices = |service: &Service| state.slices_of(&service.name).cloned().collect();
    (state.services().cloned().collect(), state.services().map(slices).collect(), state.node().cloned())
}

pub(crate) struct Follower {
    pub(crate) source: KubeSource,
    pub(crate) state: State,
    pub(crate) reconciler: Reconciler<FakeMaps>,
    pub(crate) plans: BTreeMap<ObjectName, Planned>,
    /// Rows written since the first update.
    pub(crate) rows_written: usize,
    pub(crate) updates: usize,
    owners: Owners,
    /// Every Service in this namespace keeps a backend, once it has one.
    steady: Option<String>,
}

impl Follower {
    /// In sync with what the server holds now.
    pub(crate) async fn start(server: &ApiServer, node: &str) -> Self {
        let source = open(server, node).await;
        let terms =
            Terms { node_addresses: Vec::new(), supported: Supported::ALL, max_table: DEFAULT_MAX_TABLE };
        let maps = FakeMaps::new(capacity(), Watch::Frontends);
        let mut follower = Self {
            source,
            state: State::new(node),
            reconciler: Reconciler::new(maps, capacity(), terms).unwrap(),
            plans: BTreeMap::new(),
            rows_written: 0,
            updates: 0,
            owners: Owners::default(),
            steady: None,
        };
        tokio::time::timeout(SOON, follower.follow()).await.expect("the first lists");
        follower.rows_written = 0;
        follower
    }

    /// From now on every Service in the namespace must have a backend, at any moment.
    pub(crate) fn steady(mut self, namespace: &str) -> Self {
        self.steady = Some(namespace.to_owned());
        self
    }

    /// Waits for one update and takes it in.
    pub(crate) async fn follow(&mut self) {
        let update = self.source.next().await;
        for change in update.changes {
            self.state.take_in(change);
        }
        let planned = decide::dirty(&mut self.state, &mut self.owners);
        self.plans.extend(planned.clone());
        self.plans.retain(|_, planned| *planned != Planned::default());
        let services = planned.into_iter().map(|(name, planned)| (name, planned.decisions));
        let report = if self.updates == 0 {
            self.reconciler.sync_all(services, Duration::ZERO)
        } else {
            self.reconciler.sync(services, Duration::ZERO)
        };
        assert!(report.failed.is_empty() && report.refused.is_empty(), "{report:?}");
        self.rows_written += report.rows_written;
        self.updates += 1;
        self.look();
    }

    /// Follows until the state is as wanted.
    pub(crate) async fn until(&mut self, what: &str, wanted: impl Fn(&State) -> bool) {
        let reached = tokio::time::timeout(SOON, async {
            while !wanted(&self.state) {
                self.follow().await;
            }
        });
        assert!(reached.await.is_ok(), "not within {SOON:?}: {what}");
    }

    /// What must hold at any moment.
    fn look(&self) {
        assert_eq!(self.reconciler.maps().violation(), None);
        assert!(serves(&self.plans, "default", "kubernetes"), "default/kubernetes has no backend");
        for name in self.plans.keys().filter(|name| Some(name.namespace()) == self.steady.as_deref()) {
            assert!(serves(&self.plans, name.namespace(), name.name()), "{name} has no backend");
        }
    }

    /// A fresh start on what the server holds now must find the maps as it wants them, to the row.
    pub(crate) async fn assert_as_after_a_fresh_start(self, server: &ApiServer, node: &str) {
        let fresh = Self::start(server, node).await;
        assert_eq!(held(&self.state), held(&fresh.state));
        assert_eq!(self.plans, fresh.plans);
        let mut old = self.reconciler;
        old.sync([], GRACE * 2);
        let rows = |reconciler: &Reconciler<FakeMaps>| {
            let tables = reconciler.tables();
            (tables.service_ports.len(), tables.frontends_v4.len(), tables.frontends_v6.len())
        };
        assert_eq!(rows(&old), rows(&fresh.reconciler));
        let terms =
            Terms { node_addresses: Vec::new(), supported: Supported::ALL, max_table: DEFAULT_MAX_TABLE };
        let mut restarted = Reconciler::new(old.into_maps(), capacity(), terms).unwrap();
        let services = fresh.plans.into_iter().map(|(name, planned)| (name, planned.decisions));
        let report = restarted.sync_all(services, Duration::ZERO);
        assert_eq!(report.rows_written, 0, "the maps differ from what a fresh start wants");
    }
}

/// Does every frontend of the Service lead to a backend? One that is not planned (yet) is no concern.
fn serves(plans: &BTreeMap<ObjectName, Planned>, namespace: &str, name: &str) -> bool {
    let Some(planned) = plans.get(&ObjectName::new(namespace, name)) else { return true };
    let frontends = planned.decisions.iter().flat_map(|decision| &decision.frontends);
    let mut sets =
        frontends.filter(|frontend| frontend.kind != FrontendKind::Whole).map(|frontend| &frontend.inside);
    sets.all(|set| matches!(set, BackendSet::Backends(backends) if !backends.is_empty()))
}
