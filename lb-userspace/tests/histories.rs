//! Invariant 2: decisions follow from the objects that stand, not from how they came about.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use lb_common::address::Protocol;
use lb_userspace::model::{
    Endpoint, EndpointPort, EndpointSlice, Families, Node, Object, ObjectKey, ObjectName, Placement, Service,
    ServicePort, State, TrafficPolicy,
};
use lb_userspace::plan::decide::{self, Planned};
use lb_userspace::plan::decision::{Frontend, FrontendKind};
use lb_userspace::plan::owners::Owners;
use lb_userspace::plan::site::Site;
use proptest::prelude::*;

#[derive(Clone, Debug)]
enum Event {
    Apply(Object),
    Delete(ObjectKey),
    Move(Site),
    Plan,
}

fn service() -> impl Strategy<Value = Service> {
    let fields = (0..4u8, prop::option::of(0..3i64), 0..3u8, any::<bool>(), any::<bool>(), 0..3u16);
    fields.prop_map(|(name, created, claimed, local, node_port, port)| Service {
        created,
        cluster_ips: vec![[10, 96, 0, name / 2].into()],
        families: Families { v4: true, v6: false },
        ports: vec![ServicePort {
            name: String::new(),
            protocol: Protocol::TCP,
            port: [80, 81, 30_080][usize::from(port)],
            node_port: node_port.then_some(30_080),
        }],
        // Several claim the same few addresses, and the node has some of them.
        external_ips: [[192, 0, 2, claimed].into()].into(),
        internal_policy: if local { TrafficPolicy::Local } else { TrafficPolicy::Cluster },
        ..Service::bare(ObjectName::new("ns", format!("s{name}")))
    })
}

fn slice() -> impl Strategy<Value = EndpointSlice> {
    let endpoint = (0..6u8, any::<bool>(), any::<bool>(), prop::option::of(0..2u8)).prop_map(
        |(addr, ready, local, zone)| Endpoint {
            addr: [10, 244, 0, addr].into(),
            ready,
            serving: true,
            terminating: !ready,
            placement: Placement::of(
                Some(if local { "here" } else { "there" }),
                zone.map(|zone| format!("z{zone}")),
                None,
            ),
        },
    );
    let fields = (0..4u8, 0..4u8, 0..4u64, prop::collection::vec(endpoint, 0..4));
    fields.prop_map(|(name, service, version, endpoints)| EndpointSlice {
        name: ObjectName::new("ns", format!("e{name}")),
        service: Some(ObjectName::new("ns", format!("s{service}"))),
        version,
        triggered: None,
        ports: vec![EndpointPort { name: String::new(), protocol: Protocol::TCP, port: 8080 }].into(),
        endpoints: endpoints.into(),
    })
}

fn node() -> impl Strategy<Value = Node> {
    prop::option::of(0..2u8).prop_map(|zone| Node {
        name: "here".to_owned(),
        internal_ips: vec![[192, 0, 2, 100].into()],
        external_ips: Vec::new(),
        zone: zone.map(|zone| format!("z{zone}")),
        pod_cidrs: Vec::new(),
        leaving: false,
    })
}

fn site() -> impl Strategy<Value = Site> {
    let addresses =
        prop::collection::btree_set((0..4u8).prop_map(|last| IpAddr::from([192, 0, 2, last])), 0..3);
    addresses.prop_map(|addresses| Site {
        node_port_addresses: addresses.iter().copied().collect(),
        own_addresses: addresses,
        reserved_ports: [81].into(),
    })
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        4 => service().prop_map(|service| Event::Apply(Object::Service(service))),
        4 => slice().prop_map(|slice| Event::Apply(Object::EndpointSlice(slice))),
        1 => node().prop_map(|node| Event::Apply(Object::Node(node))),
        2 => (0..4u8).prop_map(|n| Event::Delete(ObjectKey::Service(ObjectName::new("ns", format!("s{n}"))))),
        2 => (0..4u8).prop_map(|n| Event::Delete(ObjectKey::EndpointSlice(ObjectName::new("ns", format!("e{n}"))))),
        1 => Just(Event::Delete(ObjectKey::Node("here".to_owned()))),
        1 => site().prop_map(Event::Move),
        3 => Just(Event::Plan),
    ]
}

/// Keeps the latest plan of each Service, as whoever writes maps does.
fn plan(state: &mut State, owners: &mut Owners, plans: &mut BTreeMap<ObjectName, Planned>) {
    for (name, planned) in decide::dirty(state, owners) {
        if planned == Planned::default() {
            plans.remove(&name);
        } else {
            plans.insert(name, planned);
        }
    }
}

proptest! {
    #[test]
    fn any_history_ends_in_what_its_objects_mean(
        history in prop::collection::vec(event(), 0..60),
        shuffle in any::<prop::sample::Index>(),
    ) {
        let (mut state, mut owners, mut plans) = (State::new("here"), Owners::default(), BTreeMap::new());
        let mut standing: BTreeMap<ObjectKey, Object> = BTreeMap::new();
        for event in history {
            match event {
                Event::Apply(object) => {
                    standing.insert(object.key(), object.clone());
                    state.apply(object);
                }
                Event::Delete(key) => {
                    standing.remove(&key);
                    state.delete(&key);
                }
                Event::Move(site) => {
                    if owners.set_site(site) {
                        state.mark_all_dirty();
                    }
                }
                Event::Plan => plan(&mut state, &mut owners, &mut plans),
            }
        }
        plan(&mut state, &mut owners, &mut plans);

        let mut objects: Vec<Object> = standing.into_values().collect();
        if !objects.is_empty() {
            let by = shuffle.index(objects.len());
            objects.rotate_left(by);
        }
        let (mut anew, mut expected) = (State::new("here"), BTreeMap::new());
        anew.replace_all(objects);
        plan(&mut anew, &mut Owners::on(owners.site().clone()), &mut expected);
        prop_assert_eq!(&plans, &expected);
        prop_assert_eq!(twice(&plans, owners.site()), None, "no frontend has two owners");
    }
}

/// An address and port that two frontends would have rows for.
fn twice(plans: &BTreeMap<ObjectName, Planned>, site: &Site) -> Option<SocketAddr> {
    let addresses = |frontend: &Frontend| match frontend.addr {
        Some(addr) => vec![addr],
        None => {
            let free = site.node_port_addresses.iter().filter(|addr| !frontend.except.contains(addr));
            free.copied().collect()
        }
    };
    let mut taken = BTreeSet::new();
    for decision in plans.values().flat_map(|planned| &planned.decisions) {
        let mut own = BTreeSet::new();
        for frontend in &decision.frontends {
            // Whatever stands for the rest of an address has no port of its own.
            let port = if frontend.kind == FrontendKind::Whole { 0 } else { frontend.port };
            own.extend(addresses(frontend).into_iter().map(|addr| SocketAddr::new(addr, port)));
        }
        if let Some(at) = own.into_iter().find(|at| !taken.insert(*at)) {
            return Some(at);
        }
    }
    None
}
