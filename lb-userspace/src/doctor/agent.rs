//! What an agent has pinned, and how full it is.
//!
//! Decides from which fill on a table is a concern. Invariant: a table that pushes old rows out by itself is never
//! too full.

use super::snapshot::{MapState, Pinned, Snapshot};
use super::{Finding, Level};

const AREA: &str = "agent";

pub(super) fn examine(node: &Snapshot) -> Vec<Finding> {
    match &node.agent {
        Err(why) => vec![Finding::new(
            Level::Unseen,
            AREA,
            format!("what is pinned could not be read: {why}"),
            "run as root, and name the agent's folder by --pin-dir",
        )],
        Ok(None) => vec![Finding::new(
            Level::Note,
            AREA,
            "nothing is pinned: no agent has run here, or `switchboard cleanup` removed everything",
            "",
        )],
        Ok(Some(pinned)) => of(pinned),
    }
}

fn of(pinned: &Pinned) -> Vec<Finding> {
    let bytes: u64 = pinned.maps.iter().filter_map(|map| map.bytes).sum();
    let memory = format!("{} maps hold {} MB of the kernel's memory", pinned.maps.len(), bytes / 1_000_000);
    let mut findings = vec![if pinned.running {
        Finding::ok(AREA, format!("an agent runs; {memory}"))
    } else {
        Finding::new(
            Level::Warning,
            AREA,
            format!("no agent runs; Services work on as they were when it ended; {memory}"),
            "start the agent; or `switchboard cleanup`, where it is not to come back",
        )
    }];
    findings.extend(pinned.maps.iter().filter_map(fill));
    findings
}

fn fill(map: &MapState) -> Option<Finding> {
    let rows = map.rows.filter(|_| !map.evicts && map.capacity > 0)?;
    let percent = rows * 100 / map.capacity;
    let level = match percent {
        0..80 => return None,
        80..95 => Level::Warning,
        _ => Level::Problem,
    };
    let remedy = match map.name.as_str() {
        "FLOWS_V4" | "FLOWS_V6" => {
            "raise --max-flows; flows beyond stay half-open, where newer ones push them out"
        }
        "FRONTENDS_V4" | "FRONTENDS_V6" => "raise --max-frontends; Services beyond are refused",
        "SERVICE_PORTS" => "raise --max-service-ports; Services beyond are refused",
        "RANGES_V4" | "RANGES_V6" => "raise --max-source-ranges; Services beyond are refused",
        _ => "raise the option of that table (`switchboard run --help`)",
    };
    Some(Finding::new(
        level,
        AREA,
        format!("the map {} is {percent} % full ({rows} of {} rows)", map.name, map.capacity),
        format!(
            "{remedy}. A pinned map keeps its size: `switchboard cleanup` first, and connections lose their translation"
        ),
    ))
}

#[cfg(test)]
mod tests {
    use super::super::snapshot::tests::healthy;
    use super::*;

    fn map(rows: u64, evicts: bool) -> MapState {
        MapState {
            name: "FLOWS_V4".to_owned(),
            rows: Some(rows),
            capacity: 1_000,
            bytes: Some(5_000_000),
            evicts,
        }
    }

    #[test]
    fn a_table_is_a_concern_before_it_is_full() {
        for (rows, evicts, expected) in [
            (0, false, None),
            (799, false, None),
            (800, false, Some(Level::Warning)),
            (950, false, Some(Level::Problem)),
            (1_000, true, None),
        ] {
            assert_eq!(fill(&map(rows, evicts)).map(|finding| finding.level), expected, "{rows} {evicts}");
        }
    }

    #[test]
    fn an_agent_that_is_gone_is_told_and_memory_is_counted() {
        let pinned = |running| Pinned { running, maps: vec![map(1, false), map(1, false)] };
        let found = examine(&Snapshot { agent: Ok(Some(pinned(true))), ..healthy() });
        assert_eq!(found[0].level, Level::Ok);
        assert!(found[0].finding.contains("2 maps hold 10 MB"), "{found:?}");
        let found = examine(&Snapshot { agent: Ok(Some(pinned(false))), ..healthy() });
        assert_eq!(found[0].level, Level::Warning);
    }
}
