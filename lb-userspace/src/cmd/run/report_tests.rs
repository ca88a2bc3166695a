//! What stands on the board after changes, failures and repairs, around fake maps.

use std::net::IpAddr;

use lb_common::address::Protocol;

use super::*;
use crate::datapath::fake::FakeMaps;
use crate::datapath::faulty::{Fault, FaultyMaps};
use crate::model::{Endpoint, EndpointPort, Families, Node, Placement, ServicePort};
use crate::plan::decide;
use crate::plan::owners::Owners;
use crate::plan::rows::{DEFAULT_MAX_TABLE, Supported, Terms};
use crate::tables::Capacity;

fn service(external: TrafficPolicy) -> Object {
    Object::Service(Service {
        cluster_ips: vec!["10.96.0.1".parse().unwrap()],
        families: Families { v4: true, v6: false },
        ports: vec![ServicePort {
            name: String::new(),
            protocol: Protocol::TCP,
            port: 80,
            node_port: Some(30_080),
        }],
        external_policy: external,
        health_check_node_port: Some(30_500),
        ..Service::bare(ObjectName::new("ns", "web"))
    })
}

fn endpoint(addr: &str, node: &str, ready: bool) -> Endpoint {
    Endpoint {
        addr: addr.parse().unwrap(),
        ready,
        serving: true,
        terminating: !ready,
        placement: Placement::on(node),
    }
}

fn slice(name: &str, triggered: Option<Duration>, endpoints: Vec<Endpoint>) -> Object {
    Object::EndpointSlice(EndpointSlice {
        name: ObjectName::new("ns", name),
        service: Some(ObjectName::new("ns", "web")),
        version: 1,
        triggered,
        ports: vec![EndpointPort { name: String::new(), protocol: Protocol::TCP, port: 8080 }].into(),
        endpoints: endpoints.into(),
    })
}

fn node(leaving: bool) -> Object {
    Object::Node(Node {
        name: "here".to_owned(),
        internal_ips: vec![IpAddr::from([192, 0, 2, 1])],
        external_ips: Vec::new(),
        zone: None,
        pod_cidrs: Vec::new(),
        leaving,
    })
}

/// The agent's loop, around fake maps.
struct Loop {
    state: State,
    owners: Owners,
    reconciler: Reconciler<FaultyMaps<FakeMaps>>,
    reporter: Reporter,
}

impl Loop {
    fn new() -> Self {
        let maps = FaultyMaps::new(FakeMaps::default(), Fault::Never);
        let terms =
            Terms { node_addresses: Vec::new(), supported: Supported::ALL, max_table: DEFAULT_MAX_TABLE };
        Self {
            state: State::new("here"),
            owners: Owners::default(),
            reconciler: Reconciler::new(maps, Capacity::default(), terms).unwrap(),
            reporter: Reporter::new(Arc::default()),
        }
    }

    fn take_in(&mut self, changes: Vec<Change>) -> Arrival {
        let update = Update { changes, findings: Vec::new(), received: Instant::now() };
        let mut arrival = self.reporter.received(&update, &self.state);
        for change in update.changes {
            self.state.take_in(change);
        }
        let planned = decide::dirty(&mut self.state, &mut self.owners);
        self.reporter.waits(&arrival);
        for (name, planned) in &planned {
            self.reporter.planned(&mut arrival, &self.state, name, planned);
        }
        let services = planned.into_iter().map(|(name, planned)| (name, planned.decisions));
        let report = self.reconciler.sync(services, Duration::ZERO);
        self.reporter.written(&arrival, &self.state, &self.reconciler, &report);
        arrival
    }

    fn no_local(&self, policy: &'static str) -> i64 {
        let metrics = &self.reporter.board.metrics.kubeproxy;
        metrics.no_local_endpoints.get_or_create(&[("traffic_policy", policy)]).get()
    }
}

fn apply(objects: Vec<Object>) -> Vec<Change> {
    objects.into_iter().map(Change::Apply).collect()
}

fn local_of(endpoints: Vec<Endpoint>) -> usize {
    let mut state = State::new("here");
    state.apply(slice("s", None, endpoints));
    let Object::Service(web) = service(TrafficPolicy::Local) else { return usize::MAX };
    local_endpoints(&web, &state)
}

#[test]
fn c45_local_ready_endpoints_count_once_for_both_families_and_terminating_ones_not_at_all() {
    let (here, there) = ("here", "there");
    assert_eq!(local_of(Vec::new()), 0);
    let both = ["10.0.0.1", "fd00::1", "10.0.0.2"].map(|addr| endpoint(addr, here, true));
    assert_eq!(local_of(both.to_vec()), 2);
    assert_eq!(local_of(vec![endpoint("10.0.0.1", here, false), endpoint("10.0.0.2", there, true)]), 0);
}

#[test]
fn c45_only_a_service_with_the_policy_local_is_asked_about() {
    let mut agent = Loop::new();
    let local = slice("s", None, vec![endpoint("10.0.0.1", "here", true)]);
    agent.take_in(apply(vec![service(TrafficPolicy::Local), local]));
    let Some(Object::Service(web)) = Some(service(TrafficPolicy::Local)) else { return };
    assert_eq!(check(&web, &agent.state), Some(HealthCheck { port: 30_500, local_endpoints: 1 }));
    let Object::Service(web) = service(TrafficPolicy::Cluster) else { return };
    assert_eq!(check(&web, &agent.state), None);
}

#[test]
fn c47_service_ports_without_a_local_endpoint_are_counted_while_they_are_so() {
    let mut agent = Loop::new();
    let remote = slice("s", None, vec![endpoint("10.0.0.1", "there", true)]);
    agent.take_in(apply(vec![node(false), service(TrafficPolicy::Local), remote]));
    assert_eq!((agent.no_local("external"), agent.no_local("internal")), (1, 0));
    agent.take_in(apply(vec![slice("s", None, vec![endpoint("10.0.0.1", "here", true)])]));
    assert_eq!(agent.no_local("external"), 0);
}

#[test]
fn c47_only_new_trigger_times_since_the_start_are_measured() {
    let mut agent = Loop::new();
    let now = wall_clock();
    let pods = || vec![endpoint("10.0.0.1", "here", true)];
    let old = agent.take_in(apply(vec![slice("old", Some(now - Duration::from_secs(3_600)), pods())]));
    assert!(old.triggers.is_empty(), "from before the agent started");
    let new = agent.take_in(apply(vec![slice("new", Some(now), pods())]));
    assert_eq!(new.triggers, [now]);
    let same = agent.take_in(apply(vec![slice("new", Some(now), Vec::new())]));
    assert!(same.triggers.is_empty(), "the same trigger's slice again");
    let relist = Change::Relist(Kind::EndpointSlice, vec![slice("new", Some(now), pods())]);
    assert!(agent.take_in(vec![relist]).triggers.is_empty());
}

#[test]
fn c46_a_change_that_cannot_be_written_stays_pending_until_it_is() {
    let mut agent = Loop::new();
    agent.reconciler.maps_mut().set_fault(Fault::From(1));
    agent.take_in(apply(vec![node(false), service(TrafficPolicy::Cluster)]));
    let pending = |agent: &Loop| agent.reporter.board.metrics.kubeproxy.service_changes_pending.get();
    assert_eq!(pending(&agent), 1);
    assert!(agent.reporter.board.metrics.own.write_failures.get() > 0);
    agent.reconciler.maps_mut().set_fault(Fault::Never);
    let report = agent.reconciler.sync([], Duration::from_secs(100));
    agent.reporter.settled(&agent.reconciler, &report);
    assert_eq!((pending(&agent), agent.reconciler.failing()), (0, 0));
    assert_eq!(agent.reporter.board.metrics.kubeproxy.service_changes.get(), 1);
}

#[test]
fn drift_is_counted_as_found_and_as_repaired() {
    let mut agent = Loop::new();
    agent.take_in(apply(vec![node(false), service(TrafficPolicy::Cluster)]));
    agent.reconciler.maps_mut().inner_mut().tables_mut().frontends_v4.clear();
    let audit = agent.reconciler.audit(Duration::from_secs(1)).unwrap();
    agent.reporter.audited(&agent.reconciler, &audit);
    let own = &agent.reporter.board.metrics.own;
    assert!(own.drift_found.get() > 0);
    assert_eq!((own.audits.get(), own.drift_repaired.get()), (1, own.drift_found.get()));
}
