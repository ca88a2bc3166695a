//! What is aimed at, with what was reached beside it.
//!
//! Decides the targets and where their figures stand. Must not measure. Invariant: a target whose figure was not
//! measured in this run says so.

use crate::figures::{Cell, Section, Spread, Table};

/// Where a figure stands: a table, words that one row has all of, and the column.
struct Place {
    table: &'static str,
    row: &'static [&'static str],
    column: &'static str,
}

/// A target: in words, and what it is held against.
struct Target {
    what: &'static str,
    wanted: &'static str,
    figure: Place,
    /// Whether less is better, and the bound.
    bound: Bound,
}

#[derive(Clone, Copy)]
enum Bound {
    AtMost(f64),
    AtLeast(f64),
}

const WIRE: &str = "From wire to wire at XDP: destination and source translated, sent on";
const TRAFFIC: &str = "ClusterIP, from a pod to a pod of the same node";

const TARGETS: [Target; 8] = [
    Target {
        what: "XDP, masqueraded flow from wire to wire, 1 flow, ns",
        wanted: "at most 80",
        figure: Place { table: WIRE, row: &["IPv4", "of an established flow", "1"], column: "ns" },
        bound: Bound::AtMost(80.0),
    },
    Target {
        what: "the same, 64 k flows by turns, ns",
        wanted: "at most 219 (Katran's on such a machine)",
        figure: Place { table: WIRE, row: &["IPv4", "of an established flow", "65536"], column: "ns" },
        bound: Bound::AtMost(219.0),
    },
    Target {
        what: "XDP, to no Service, ns",
        wanted: "at most 30",
        figure: Place { table: WIRE, row: &["IPv4", "to no Service, left to tc"], column: "ns" },
        bound: Bound::AtMost(30.0),
    },
    Target {
        what: "tc, established, to the backend, 1 flow, ns",
        wanted: "at most 120 (1.5 times XDP's target)",
        figure: Place {
            table: "Established flows",
            row: &["IPv4", "TCP", "to the backend", "1"],
            column: "ns",
        },
        bound: Bound::AtMost(120.0),
    },
    Target {
        what: "established, at 50 k Services to at 1",
        wanted: "at most 1.03",
        figure: Place {
            table: "Number of Services",
            row: &["IPv4", "established, 1 k flows over the Services", "50000"],
            column: "ns / ns at 1",
        },
        bound: Bound::AtMost(1.03),
    },
    Target {
        what: "new connections/s, 10 k Services, to plain routing",
        wanted: "at least 0.97",
        figure: Place {
            table: TRAFFIC,
            row: &["10000", "new connections/s, last Service", "Switchboard"],
            column: "to plain routing",
        },
        bound: Bound::AtLeast(0.97),
    },
    Target {
        what: "10 k Services of 2 endpoints to the maps, ms",
        wanted: "at most 150",
        figure: Place { table: "Everything at once", row: &["10 k x 2", "Switchboard"], column: "ms" },
        bound: Bound::AtMost(150.0),
    },
    Target {
        what: "the agent's resident memory, 10 k Services of 2 endpoints, MiB",
        wanted: "at most 38 (40 MB, with 10 endpoints)",
        figure: Place { table: "The agent", row: &["10000 x 2"], column: "resident memory, MiB" },
        bound: Bound::AtMost(38.0),
    },
];

/// The table; `None` where no target's figure was measured.
pub(crate) fn table(sections: &[Section]) -> Option<Table> {
    let mut table = Table::new("Targets", &["what", "wanted", "measured", "reached"]);
    for target in &TARGETS {
        let found = find(sections, &target.figure);
        let reached = found.map(|spread| match target.bound {
            Bound::AtMost(bound) => spread.median <= bound,
            Bound::AtLeast(bound) => spread.median >= bound,
        });
        let reached = reached.map_or("not measured", |reached| if reached { "yes" } else { "no" });
        table.rows.push(vec![
            Cell::text(target.what),
            Cell::text(target.wanted),
            Cell::figure(found),
            Cell::text(reached),
        ]);
    }
    table.rows.iter().any(|row| row[2] != Cell::Nothing).then_some(table)
}

fn find(sections: &[Section], place: &Place) -> Option<Spread> {
    let mut tables = sections.iter().flat_map(|section| &section.tables);
    let table = tables.find(|table| table.title == place.table)?;
    let column = table.columns.iter().position(|column| column == place.column)?;
    let says = |cell: &Cell, word: &str| match cell {
        Cell::Text(text) => text == word,
        Cell::Count(count) => count.to_string() == word,
        _ => false,
    };
    let mut rows = table.rows.iter();
    let row = rows.find(|row| place.row.iter().all(|word| row.iter().any(|cell| says(cell, word))))?;
    match row.get(column)? {
        Cell::Figure(spread) | Cell::Ratio(spread) => Some(*spread),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_figure_is_found_by_its_row_and_column() {
        let mut measured = Table::new("Everything at once", &["Services x endpoints", "by", "ms"]);
        for (by, ms) in [("nftables", 9.0), ("Switchboard", 140.0)] {
            let figure = Cell::Figure(Spread::of(&[ms]));
            measured.rows.push(vec![Cell::text("10 k x 2"), Cell::text(by), figure]);
        }
        let section = Section {
            verb: "sync".to_owned(),
            title: String::new(),
            method: Vec::new(),
            tables: vec![measured],
            plots: Vec::new(),
            limits: Vec::new(),
            disturbances: Vec::new(),
        };
        let table = table(&[section]).unwrap();
        let said = |index: usize| (table.rows[index][2].clone(), table.rows[index][3].clone());
        assert_eq!(said(6), (Cell::Figure(Spread::of(&[140.0])), Cell::text("yes")));
        assert_eq!(said(0), (Cell::Nothing, Cell::text("not measured")));
        assert_eq!(super::table(&[]), None);
    }
}
