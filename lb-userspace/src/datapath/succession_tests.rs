//! What becomes of maps that differ from what is wanted: the decision alone.

use lb_common::abi::{CONFIG, FLOWS_V4, FRONTENDS_V4, SLOTS};

use super::*;

const WANTED: Shape = Shape { key: 16, value: 72, rows: 1_024 };

/// The fates of all maps where those named are found with another number of rows, or of another layout.
fn fates_with(resized: &[MapName], changed: &[MapName]) -> anyhow::Result<Vec<(MapName, Fate)>> {
    let maps: Vec<_> = MAPS
        .iter()
        .map(|map| {
            let rows = if resized.contains(map) { 512 } else { 1_024 };
            let layout = if changed.contains(map) { 99 } else { map.layout };
            (*map, WANTED, Some(Found { shape: Shape { rows, ..WANTED }, layout: Some(layout) }))
        })
        .collect();
    decide(&maps)
}

fn not_shared(fates: &[(MapName, Fate)]) -> Vec<(&'static str, Fate)> {
    let mut changed: Vec<_> = fates.iter().filter(|(_, fate)| *fate != Fate::Shared).collect();
    changed.sort_by_key(|(map, _)| map.name);
    changed.into_iter().map(|(map, fate)| (map.name, *fate)).collect()
}

#[test]
fn where_nothing_differs_everything_is_shared() {
    assert_eq!(not_shared(&fates_with(&[], &[]).unwrap()), []);
    let nothing: Vec<_> = MAPS.iter().map(|map| (*map, WANTED, None)).collect();
    assert_eq!(not_shared(&decide(&nothing).unwrap()), [], "the first start");
}

#[test]
fn a_larger_table_of_flows_is_filled_and_nothing_else_is_touched() {
    assert_eq!(not_shared(&fates_with(&[FLOWS_V4], &[]).unwrap()), [("FLOWS_V4", Fate::Carried)]);
    assert_eq!(not_shared(&fates_with(&[], &[CONFIG]).unwrap()), [("CONFIG", Fate::Anew)]);
}

#[test]
fn what_is_written_of_services_goes_together() {
    for fates in [fates_with(&[SLOTS], &[]).unwrap(), fates_with(&[], &[FRONTENDS_V4]).unwrap()] {
        let changed = not_shared(&fates);
        let carried: Vec<_> = changed.iter().filter(|(_, fate)| *fate == Fate::Carried).collect();
        let names: Vec<_> = carried.iter().map(|(name, _)| *name).collect();
        assert_eq!(names, ["BACKENDS_V4", "BACKENDS_V6", "SERVICE_PORTS"]);
        assert_eq!(changed.len() - carried.len(), 7, "{changed:?}");
    }
}

#[test]
fn connections_of_another_layout_are_refused() {
    for map in [FLOWS_V4, abi::SOCKETS_V6, abi::BACKENDS_V4, abi::SERVICE_PORTS] {
        let error = fates_with(&[], &[map]).unwrap_err().to_string();
        assert!(error.contains(map.name) && error.contains("cleanup"), "{error}");
    }
    let silent = [(FLOWS_V4, WANTED, Some(Found { shape: WANTED, layout: None }))];
    assert!(decide(&silent).is_err(), "a version that does not say");
}
