//! The text of a scrape, held against the names that others rely on.

use std::collections::BTreeSet;
use std::time::Duration;

use lb_common::abi::Verdict;

use super::carried::{BackendTraffic, Carried, ServiceTraffic};
use super::observe::MapFill;
use super::*;
use crate::model::Kind;

#[derive(Debug)]
struct Seen;

impl Observe for Seen {
    fn verdicts(&self) -> Vec<(Verdict, u64)> {
        vec![(Verdict::ForwardedNew, 3), (Verdict::DroppedSourceRange, 2)]
    }

    fn maps(&self) -> Vec<MapFill> {
        vec![
            MapFill { map: "FLOWS_V4", rows: Some(7), capacity: 64 },
            MapFill { map: "VERDICTS", rows: None, capacity: 39 },
        ]
    }

    fn carried(&self) -> Carried {
        let name = "shop/web:http/TCP".to_owned();
        let service =
            ServiceTraffic { name: name.clone(), connections: 3, packets: [40, 30], bytes: [4_000, 3_000] };
        let backend = BackendTraffic { name, backend: "[fd00::3]:8080".parse().unwrap(), connections: 2 };
        Carried { services: vec![service], backends: vec![backend], left_out: [7, 0] }
    }
}

fn scrape(metrics: &Metrics) -> String {
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &metrics.registry(Seen)).unwrap();
    text
}

fn names(text: &str) -> BTreeSet<&str> {
    text.lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.split(['{', ' ']).next())
        .collect()
}

#[test]
fn c47_kube_proxys_names_are_there_from_the_start() {
    let text = scrape(&Metrics::default());
    let names = names(&text);
    for name in [
        "sync_proxy_rules_duration_seconds_bucket",
        "network_programming_duration_seconds_count",
        "sync_proxy_rules_last_timestamp_seconds",
        "sync_proxy_rules_last_queued_timestamp_seconds",
        "sync_proxy_rules_service_changes_pending",
        "sync_proxy_rules_service_changes_total",
        "sync_proxy_rules_endpoint_changes_pending",
        "sync_proxy_rules_endpoint_changes_total",
        "sync_proxy_rules_no_local_endpoints_total",
        "proxy_healthz_total",
        "proxy_livez_total",
    ] {
        assert!(names.contains(format!("kubeproxy_{name}").as_str()), "{name} is missing in\n{text}");
    }
    for line in [
        "kubeproxy_proxy_healthz_total{code=\"503\"} 0",
        "kubeproxy_sync_proxy_rules_no_local_endpoints_total{traffic_policy=\"internal\"} 0",
        "kubeproxy_network_programming_duration_seconds_bucket{le=\"0.001\"} 0",
    ] {
        assert!(text.lines().any(|found| found == line), "{line} is missing in\n{text}");
    }
}

#[test]
fn what_is_in_the_maps_is_read_at_the_scrape_and_what_is_not_known_is_left_out() {
    let text = scrape(&Metrics::default());
    for line in [
        "switchboard_verdicts_total{verdict=\"forwarded_new\",action=\"pass\"} 3",
        "switchboard_verdicts_total{verdict=\"dropped_source_range\",action=\"drop\"} 2",
        "switchboard_map_rows{map=\"FLOWS_V4\"} 7",
        "switchboard_map_capacity_rows{map=\"FLOWS_V4\"} 64",
        "switchboard_map_capacity_rows{map=\"VERDICTS\"} 39",
    ] {
        assert!(text.lines().any(|found| found == line), "{line} is missing in\n{text}");
    }
    assert!(!text.contains("switchboard_map_rows{map=\"VERDICTS\"}"));
    assert!(names(&text).contains("process_resident_memory_bytes"), "{text}");
}

#[test]
fn failed_requests_are_counted_by_kind_and_reason_and_known_before_the_first() {
    let metrics = Metrics::default();
    metrics.own.set_api_errors(Kind::Service, "503", 2);
    metrics.own.set_api_errors(Kind::Service, "503", 3);
    let text = scrape(&metrics);
    for line in [
        "switchboard_api_errors_total{kind=\"Service\",reason=\"503\"} 3",
        "switchboard_api_errors_total{kind=\"EndpointSlice\",reason=\"unreachable\"} 0",
    ] {
        assert!(text.lines().any(|found| found == line), "{line} is missing in\n{text}");
    }
}

#[test]
fn what_is_carried_is_shown_by_service_port_and_backend() {
    let text = scrape(&Metrics::default());
    let who = "namespace=\"shop\",service=\"web\",port=\"http\",protocol=\"TCP\"";
    for line in [
        format!("switchboard_service_connections_total{{{who}}} 3"),
        format!("switchboard_service_packets_total{{{who},direction=\"to_backend\"}} 40"),
        format!("switchboard_service_bytes_total{{{who},direction=\"from_backend\"}} 3000"),
        format!("switchboard_backend_connections_total{{{who},backend=\"[fd00::3]:8080\"}} 2"),
        "switchboard_carried_left_out{of=\"services\"} 7".to_owned(),
    ] {
        assert!(text.lines().any(|found| found == line), "{line} is missing in\n{text}");
    }
}

#[test]
fn stages_have_buckets_below_and_above_a_millisecond() {
    let metrics = Metrics::default();
    metrics.own.stage(Stage::Written, Duration::from_micros(400));
    let text = scrape(&metrics);
    let bucket = |bound: &str| {
        let start =
            format!("switchboard_sync_stage_duration_seconds_bucket{{le=\"{bound}\",stage=\"written\"}} ");
        text.lines().find_map(|line| line.strip_prefix(&start)).map(str::to_owned)
    };
    assert_eq!(bucket("0.00025").as_deref(), Some("0"), "{text}");
    assert_eq!(bucket("0.0005").as_deref(), Some("1"), "{text}");
    assert!(text.ends_with("# EOF\n"));
}
