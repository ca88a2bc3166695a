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
    bound: Bound,
    /// What stands in the way where it is missed: words, and the figures that show it.
    obstacle: &'static [(&'static str, Place)],
}

#[derive(Clone, Copy)]
enum Bound {
    /// The median.
    AtMost(f64),
    /// The median.
    AtLeast(f64),
    /// Every round.
    AlwaysAbove(f64),
}

impl Bound {
    fn holds(self, spread: &Spread) -> bool {
        match self {
            Self::AtMost(bound) => spread.median <= bound,
            Self::AtLeast(bound) => spread.median >= bound,
            Self::AlwaysAbove(bound) => spread.min > bound,
        }
    }
}

/// A figure's place.
const fn at(table: &'static str, row: &'static [&'static str], column: &'static str) -> Place {
    Place { table, row, column }
}

const WIRE: &str = "From wire to wire at XDP: destination and source translated, sent on";
const FLOWS: &str = "Established flows";
const PATHS: &str = "Other paths";
const SERVICES: &str = "Number of Services";
const MEMORY: &str = "What a connection takes of the kernel's memory";
const PPS: &str = "Packets a second on one processor, through a veth pair";
const TRAFFIC: &str = "ClusterIP, from a pod to a pod of the same node";
const BESIDE: &str = "New connections/s: Switchboard to each of the others, round by round";
const ON_THE_WAY: &str =
    "A connection from a pod to a pod of the same node: Switchboard's programs on its way";
const AT_ONCE: &str = "Everything at once";
const SPLIT: &str = "Where Switchboard's time goes, everything at once";
const WATCHED: &str = "One change among others: from bytes on the socket to the first packet";
const STARTED: &str = "The agent at an API server";
const LAST: &str = "new connections/s, last Service";

const IN_LOOKUPS: &str = "ns / lookup";
/// What a lookup of one flow takes where the targets in nanoseconds were set. This machine's own figure differs from run
/// to run, and the programs' with it.
const LOOKUP: f64 = 31.0;

const TARGETS: &[Target] = &[
    Target {
        what: "XDP, masqueraded flow from wire to wire, 1 flow, ns",
        wanted: "at most 80",
        figure: at(WIRE, &["IPv4", "of an established flow", "TCP", "1"], "ns"),
        bound: Bound::AtMost(80.0),
        obstacle: &[(
            "one lookup of the flow alone, ns",
            at(WIRE, &["IPv4", "of an established flow", "TCP", "1"], "one lookup, ns"),
        )],
    },
    Target {
        what: "the same in lookups of that flow, round by round",
        wanted: "at most 2.58 (80 ns where a lookup takes 31, as where the target was set)",
        figure: at(WIRE, &["IPv4", "of an established flow", "TCP", "1"], IN_LOOKUPS),
        bound: Bound::AtMost(80.0 / LOOKUP),
        obstacle: &[],
    },
    Target {
        what: "XDP, 64 k flows by turns, ns",
        wanted: "at most 219 (Katran's on such a machine)",
        figure: at(WIRE, &["IPv4", "of an established flow", "TCP", "65536"], "ns"),
        bound: Bound::AtMost(219.0),
        obstacle: &[(
            "caches: one lookup of the same flows alone, ns",
            at(WIRE, &["IPv4", "of an established flow", "TCP", "65536"], "one lookup, ns"),
        )],
    },
    Target {
        what: "XDP, to no Service, ns",
        wanted: "at most 30",
        figure: at(WIRE, &["IPv4", "to no Service, left to tc", "TCP"], "ns"),
        bound: Bound::AtMost(30.0),
        obstacle: &[],
    },
    Target {
        what: "tc, established, to the backend, 1 flow, ns",
        wanted: "at most 120 (1.5 times XDP's target)",
        figure: at(FLOWS, &["IPv4", "TCP", "to the backend", "1"], "ns"),
        bound: Bound::AtMost(120.0),
        obstacle: &[
            ("the lookup, ns", at(FLOWS, &["IPv4", "TCP", "to the backend", "1"], "one lookup, ns")),
            ("what tc needs to read and to write a packet, ns", at(YARDSTICKS, &["IPv4", "tc", "1"], COPY)),
        ],
    },
    Target {
        what: "the same in lookups of that flow, round by round",
        wanted: "at most 3.87 (120 ns where a lookup takes 31)",
        figure: at(FLOWS, &["IPv4", "TCP", "to the backend", "1"], IN_LOOKUPS),
        bound: Bound::AtMost(120.0 / LOOKUP),
        obstacle: &[],
    },
    Target {
        what: "tc, established, reply, 1 flow, ns",
        wanted: "at most 120 (1.5 times XDP's target)",
        figure: at(FLOWS, &["IPv4", "TCP", "reply", "1"], "ns"),
        bound: Bound::AtMost(120.0),
        obstacle: &[
            ("the lookup, ns", at(FLOWS, &["IPv4", "TCP", "reply", "1"], "one lookup, ns")),
            ("what tc needs to read and to write a packet, ns", at(YARDSTICKS, &["IPv4", "tc", "1"], COPY)),
        ],
    },
    Target {
        what: "the same in lookups of that flow, round by round",
        wanted: "at most 3.87 (120 ns where a lookup takes 31)",
        figure: at(FLOWS, &["IPv4", "TCP", "reply", "1"], IN_LOOKUPS),
        bound: Bound::AtMost(120.0 / LOOKUP),
        obstacle: &[],
    },
    Target {
        what: "established, last Service of 50 k, to the only one",
        wanted: "at most 1.03",
        figure: at(SERVICES, &["IPv4", "established, 1 k flows of the last Service", "50000"], RATIO),
        bound: Bound::AtMost(1.03),
        obstacle: &[],
    },
    Target {
        what: "first packet, to the last Service of 50 k, to the only one",
        wanted: "at most 1.03",
        figure: at(SERVICES, &["IPv4", "first packet, to the last Service", "50000"], RATIO),
        bound: Bound::AtMost(1.03),
        obstacle: &[],
    },
    Target {
        what: "established, 1 k flows over 50 k Services, to 1 k flows of one",
        wanted: "at most 1.03",
        figure: at(SERVICES, &["IPv4", "established, 1 k flows over the Services", "50000"], RATIO),
        bound: Bound::AtMost(1.03),
        obstacle: &[(
            "caches: a thousand Services' counters instead of one's; to the last alone it is",
            at(SERVICES, &["IPv4", "established, 1 k flows of the last Service", "50000"], RATIO),
        )],
    },
    Target {
        what: "XDP forwarding, share of what a veth sends back (XDP_TX)",
        wanted: "at least 0.70",
        figure: at(PPS, &["Switchboard, IPv4", "1"], "share of XDP_TX"),
        bound: Bound::AtLeast(0.70),
        obstacle: &[(
            "what a packet costs more, ns",
            at(PPS, &["Switchboard, IPv4", "1"], "ns more than XDP_TX"),
        )],
    },
    Target {
        what: "new connections/s, 10 k Services, to plain routing",
        wanted: "at least 0.97",
        figure: at(TRAFFIC, &["10000", LAST, "Switchboard"], "to plain routing"),
        bound: Bound::AtLeast(0.97),
        obstacle: &[
            ("a first packet's program, ns", at(PATHS, &["IPv4", "first TCP packet", "pod_ingress"], "ns")),
            ("each other packet's, about, ns", at(FLOWS, &["IPv4", "TCP", "reply", "1024"], "ns")),
            ("programs that a connection runs", at(ON_THE_WAY, &["10000"], "runs")),
            (
                "us in them, with caches as a connection leaves them",
                at(ON_THE_WAY, &["10000"], "us in all of them"),
            ),
            ("of a connection's p50, us", at(TRAFFIC, &["10000", LAST, "Switchboard"], "p50, us")),
            ("which is by plain routing", at(TRAFFIC, &["10000", LAST, "plain routing"], "p50, us")),
        ],
    },
    Target {
        what: "the same, to nftables",
        wanted: "above 1 in every round",
        figure: at(BESIDE, &["10000", "pod", LAST], "nftables"),
        bound: Bound::AlwaysAbove(1.0),
        obstacle: &[(
            "rounds differ by more than contenders do: plain routing's own, a second",
            at(TRAFFIC, &["10000", LAST, "plain routing"], "a second"),
        )],
    },
    Target {
        what: "10 k Services of 2 endpoints to the maps, ms",
        wanted: "at most 150",
        figure: at(AT_ONCE, &["10 k x 2", "Switchboard"], "ms"),
        bound: Bound::AtMost(150.0),
        obstacle: &[
            ("planned and written, ms", at(SPLIT, &["10 k x 2"], "planned and written, ms")),
            ("us for each of the rows", at(SPLIT, &["10 k x 2"], "us a row")),
            ("of which the kernel takes", at(SPLIT, &["10 k x 2"], "of which the kernel's")),
        ],
    },
    Target {
        what: "one slice event to the first packet, 10 k Services, 1000 others/s, p50, ms",
        wanted: "at most 0.5",
        figure: at(WATCHED, &["10 k x 10", "1000"], "p50, ms"),
        bound: Bound::AtMost(0.5),
        obstacle: &[("the same without other changes, ms", at(WATCHED, &["10 k x 10", "0"], "p50, ms"))],
    },
    Target {
        what: "the same, p99, ms",
        wanted: "at most 5",
        figure: at(WATCHED, &["10 k x 10", "1000"], "p99, ms"),
        bound: Bound::AtMost(5.0),
        obstacle: &[
            ("the same without other changes, ms", at(WATCHED, &["10 k x 10", "0"], "p99, ms")),
            (
                "the agent's share of a processor, %",
                at(WATCHED, &["10 k x 10", "1000"], "agent's CPU, % of one processor"),
            ),
        ],
    },
    Target {
        what: "the agent's resident memory, 10 k Services of 10 endpoints, MB",
        wanted: "at most 40",
        figure: at(STARTED, &["10 k x 10"], "resident then, MB"),
        bound: Bound::AtMost(40.0),
        obstacle: &[
            ("with 1 k Services, MB", at(STARTED, &["1 k x 10"], "resident then, MB")),
            ("with 10 k of 2 endpoints, MB", at(STARTED, &["10 k x 2"], "resident then, MB")),
        ],
    },
    Target {
        what: "kernel memory for a connection, IPv4, bytes",
        wanted: "at most 272",
        figure: at(MEMORY, &["IPv4", "translated"], "bytes"),
        bound: Bound::AtMost(272.0),
        obstacle: &[("a row of the hash table, bytes", at(MEMORY, &["IPv4", "translated"], "bytes a row"))],
    },
    Target {
        what: "the same, IPv6",
        wanted: "at most 448",
        figure: at(MEMORY, &["IPv6", "translated"], "bytes"),
        bound: Bound::AtMost(448.0),
        obstacle: &[("a row of the hash table, bytes", at(MEMORY, &["IPv6", "translated"], "bytes a row"))],
    },
    Target {
        what: "the same, IPv4, masqueraded",
        wanted: "at most 544",
        figure: at(MEMORY, &["IPv4", "masqueraded too"], "bytes"),
        bound: Bound::AtMost(544.0),
        obstacle: &[("a row of the hash table, bytes", at(MEMORY, &["IPv4", "translated"], "bytes a row"))],
    },
];

const YARDSTICKS: &str = "Yardsticks";
const COPY: &str = "reading and rewriting it by helpers, ns";
const RATIO: &str = "ns / ns at 1";

/// The table; `None` where no target's figure was measured.
pub(crate) fn table(sections: &[Section]) -> Option<Table> {
    let columns = ["what", "wanted", "measured", "reached", "what stands in the way"];
    let mut table = Table::new("Targets", &columns);
    for target in TARGETS {
        let found = find(sections, &target.figure);
        let reached = found.map(|spread| target.bound.holds(&spread));
        table.rows.push(vec![
            Cell::text(target.what),
            Cell::text(target.wanted),
            Cell::figure(found),
            Cell::text(reached.map_or("not measured", |reached| if reached { "yes" } else { "no" })),
            if reached == Some(false) { obstacle(sections, target.obstacle) } else { Cell::Nothing },
        ]);
    }
    table.rows.iter().any(|row| row[2] != Cell::Nothing).then_some(table)
}

/// The figures that say why, with their words.
fn obstacle(sections: &[Section], places: &[(&str, Place)]) -> Cell {
    let figure = |(words, place): &(&str, Place)| {
        find(sections, place).map(|spread| format!("{words}: {}", crate::show::short(spread.median)))
    };
    let said: Vec<String> = places.iter().filter_map(figure).collect();
    if said.is_empty() { Cell::Nothing } else { Cell::text(said.join("; ")) }
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
        let row = TARGETS.iter().position(|target| target.figure.table == AT_ONCE).unwrap();
        assert_eq!(said(row), (Cell::Figure(Spread::of(&[140.0])), Cell::text("yes")));
        assert_eq!(said(0), (Cell::Nothing, Cell::text("not measured")));
        assert_eq!(super::table(&[]), None);
    }
}
