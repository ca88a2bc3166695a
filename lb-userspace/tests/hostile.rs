//! Objects that nobody means well with: whatever their fields say, they cost themselves only.
//!
//! `HOSTILE_CASES` asks for more of them than a test run tries (`cargo test --release --test hostile`).

use std::net::IpAddr;

use k8s_openapi::api::core::v1::{Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use lb_userspace::model::{Object, State};
use lb_userspace::plan::decide;
use lb_userspace::plan::decision::{BackendSet, Decision};
use lb_userspace::plan::owners::Owners;
use lb_userspace::plan::site::Site;
use lb_userspace::source::kubernetes;
use proptest::prelude::*;
use serde_json::{Value, json};

const NODE: &str = "here";

/// Words that objects are full of, right ones and wrong ones.
const WORDS: &[&str] = &[
    "",
    "None",
    "here",
    "web",
    "http",
    "TCP",
    "UDP",
    "SCTP",
    "ICMP",
    "Local",
    "Cluster",
    "ClientIP",
    "VIP",
    "Proxy",
    "IPv4",
    "IPv6",
    "FQDN",
    "NodePort",
    "LoadBalancer",
    "ExternalName",
    "InternalIP",
    "true",
    "\u{0}\u{202e}",
    "10.96.0.10",
    "10.96.0.11",
    "10.244.0.9",
    "10.0.0.1",
    "0.0.0.0",
    "127.0.0.1",
    "169.254.0.1",
    "224.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::ffff:10.0.0.1",
    "fe80::1",
    "ff02::1",
    "fd00::10",
    "fd00::10%eth0",
    "fd00::/64",
    "10.0.0.0/8",
    "0.0.0.0/0",
    "::/0",
    "10.0.0.0/33",
    " 10.0.0.0/8 ",
    "10.0.0",
    "2025-01-01T00:00:00Z",
    "-1",
    "99999999999999999999",
];

const NUMBERS: &[i64] =
    &[-2_147_483_648, -1, 0, 1, 53, 80, 8_080, 30_000, 32_767, 65_535, 65_536, 86_400, 86_401, 2_147_483_647];

fn word() -> impl Strategy<Value = Value> {
    prop_oneof![
        20 => prop::sample::select(WORDS).prop_map(|word| json!(word)),
        1 => any::<String>().prop_map(|word| json!(word)),
        1 => Just(json!("x".repeat(10_000))),
    ]
}

fn number() -> impl Strategy<Value = Value> {
    prop::sample::select(NUMBERS).prop_map(|number| json!(number))
}

fn list(of: impl Strategy<Value = Value>) -> impl Strategy<Value = Value> {
    prop::collection::vec(of, 0..5).prop_map(Value::from)
}

/// An object of some of these fields.
fn some(fields: Vec<(&'static str, BoxedStrategy<Value>)>) -> BoxedStrategy<Value> {
    let fields: Vec<_> =
        fields.into_iter().map(|(name, value)| (Just(name), prop::option::of(value))).collect();
    let object = |fields: Vec<(&str, Option<Value>)>| {
        fields
            .into_iter()
            .filter_map(|(name, value)| Some((name.to_owned(), value?)))
            .collect::<serde_json::Map<_, _>>()
    };
    fields.prop_map(move |fields| Value::Object(object(fields))).boxed()
}

fn metadata() -> BoxedStrategy<Value> {
    const WRONG: &[&str] = &[
        "service.kubernetes.io/service-proxy-name",
        "service.kubernetes.io/headless",
        "topology.kubernetes.io/zone",
    ];
    // The label that makes a slice of use is there as a rule; those that take it away, now and then.
    let label = prop_oneof![9 => Just("kubernetes.io/service-name"), 1 => prop::sample::select(WRONG)];
    let labels = prop::collection::hash_map(label, Just("web"), 0..2).prop_map(|labels| json!(labels));
    let name = prop_oneof![9 => Just(json!("web")), 1 => word()];
    some(vec![
        ("name", name.boxed()),
        ("labels", labels.boxed()),
        (
            "annotations",
            prop::collection::hash_map("endpoints.*", any::<String>(), 0..2)
                .prop_map(|all| json!(all))
                .boxed(),
        ),
        ("resourceVersion", word().boxed()),
    ])
}

fn service() -> impl Strategy<Value = Value> {
    let port = some(vec![
        ("name", word().boxed()),
        ("port", number().boxed()),
        ("nodePort", number().boxed()),
        ("protocol", word().boxed()),
    ]);
    // A port without a number is no Service that the API server has.
    let port = port.prop_map(|mut port| {
        let number = port["port"].as_i64().unwrap_or(80);
        port["port"] = json!(number);
        port
    });
    let timeout = some(vec![("timeoutSeconds", number().boxed())]);
    let spec = some(vec![
        ("type", word().boxed()),
        ("clusterIP", word().boxed()),
        ("clusterIPs", list(word()).boxed()),
        ("externalIPs", list(word()).boxed()),
        ("ipFamilies", list(word()).boxed()),
        ("ports", list(port).boxed()),
        ("internalTrafficPolicy", word().boxed()),
        ("externalTrafficPolicy", word().boxed()),
        ("sessionAffinity", word().boxed()),
        ("sessionAffinityConfig", some(vec![("clientIP", timeout)])),
        ("loadBalancerSourceRanges", list(word()).boxed()),
        ("healthCheckNodePort", number().boxed()),
    ]);
    let ingress =
        some(vec![("ip", word().boxed()), ("hostname", word().boxed()), ("ipMode", word().boxed())]);
    let status = some(vec![("loadBalancer", some(vec![("ingress", list(ingress).boxed())]))]);
    some(vec![("metadata", metadata()), ("spec", spec), ("status", status)])
}

fn slice() -> impl Strategy<Value = Value> {
    let yes = || any::<bool>().prop_map(|yes| json!(yes)).boxed();
    let conditions = some(vec![("ready", yes()), ("serving", yes()), ("terminating", yes())]);
    let hint = || list(some(vec![("name", word().boxed())]).prop_map(named)).boxed();
    let endpoint = some(vec![
        ("addresses", list(word()).boxed()),
        ("conditions", conditions),
        ("nodeName", word().boxed()),
        ("hints", some(vec![("forZones", hint()), ("forNodes", hint())])),
    ]);
    let endpoint = endpoint.prop_map(|mut endpoint| {
        if endpoint.get("addresses").is_none() {
            endpoint["addresses"] = json!([]);
        }
        endpoint
    });
    let port = some(vec![("name", word().boxed()), ("port", number().boxed()), ("protocol", word().boxed())]);
    let family = prop_oneof![4 => Just(json!("IPv4")), 4 => Just(json!("IPv6")), 1 => word()];
    let fields = (metadata(), family, list(endpoint), list(port));
    fields.prop_map(|(metadata, family, endpoints, ports)| {
        json!({"metadata": metadata, "addressType": family, "endpoints": endpoints, "ports": ports})
    })
}

fn named(mut hint: Value) -> Value {
    if hint.get("name").is_none() {
        hint["name"] = json!("here");
    }
    hint
}

fn node() -> impl Strategy<Value = Value> {
    let address = (word(), word()).prop_map(|(kind, address)| json!({"type": kind, "address": address}));
    let spec = some(vec![("podCIDRs", list(word()).boxed())]);
    (metadata(), spec, list(address))
        .prop_map(|(metadata, spec, addresses)| json!({"metadata": metadata, "spec": spec, "status": {"addresses": addresses}}))
}

fn read<T: serde::de::DeserializeOwned>(object: &Value) -> T {
    serde_json::from_value(object.clone())
        .unwrap_or_else(|error| panic!("the test's own object is none: {error}: {object}"))
}

fn may_be_dialled(ip: IpAddr) -> bool {
    let mapped = matches!(ip, IpAddr::V6(ip) if ip.to_ipv4_mapped().is_some());
    !(ip.is_loopback() || ip.is_unspecified() || ip.is_multicast() || mapped)
}

fn assert_sound(decision: &Decision) {
    let sets = decision.frontends.iter().flat_map(|frontend| [&frontend.inside, &frontend.outside]);
    let members = sets.filter_map(|set| match set {
        BackendSet::Backends(backends) => Some(backends),
        BackendSet::Reject | BackendSet::Drop => None,
    });
    for member in members.flatten() {
        assert!(decision.backends.iter().any(|backend| backend.addr == *member), "{decision:?}");
    }
    for frontend in &decision.frontends {
        assert!(frontend.addr.is_none_or(may_be_dialled), "{frontend:?}");
    }
    for backend in &decision.backends {
        assert!(backend.addr.port() != 0 && may_be_dialled(backend.addr.ip()), "{backend:?}");
    }
}

fn cases() -> ProptestConfig {
    let asked = std::env::var("HOSTILE_CASES").ok().and_then(|cases| cases.parse().ok());
    ProptestConfig { cases: asked.unwrap_or(512), ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn no_object_makes_the_plan_unsound_or_ends_the_agent(
        services in prop::collection::vec(service(), 1..3),
        slices in prop::collection::vec(slice(), 0..4),
        own in node(),
    ) {
        let mut state = State::new(NODE);
        let objects = services.iter().map(|object| kubernetes::service(&read::<Service>(object)).object.map(Object::Service));
        let slices = slices.iter().map(|object| {
            kubernetes::endpoint_slice(&read::<EndpointSlice>(object)).object.map(Object::EndpointSlice)
        });
        let node = kubernetes::node(&read::<Node>(&own)).object.map(Object::Node);
        for object in objects.chain(slices).chain([node]).flatten() {
            state.apply(object);
        }
        let here: IpAddr = [10, 0, 0, 1].into();
        let site = Site { node_port_addresses: vec![here], own_addresses: [here].into(), ..Site::default() };
        for planned in decide::dirty(&mut state, &mut Owners::on(site)).into_values() {
            planned.decisions.iter().for_each(assert_sound);
        }
    }
}
