//! What is read when somebody scrapes.
//!
//! Decides how counters and tables are shown. Must not know where they are read. Invariant: a number that cannot be
//! read is left out, never shown as 0.

use std::fmt::{self, Debug};

use lb_common::abi::{Action, Verdict};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _, MetricEncoder};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

use super::carried::Carried;

/// How full a map is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MapFill {
    /// Its name.
    pub map: &'static str,
    /// Rows in use; `None`: not known.
    pub rows: Option<u64>,
    /// Rows that fit.
    pub capacity: u64,
}

/// Whoever can read what the datapath keeps. Asked from the server's thread at each scrape; its answers should cost no
/// more than that is worth.
pub trait Observe: Debug + Send + Sync + 'static {
    /// How often programs ended in each verdict.
    fn verdicts(&self) -> Vec<(Verdict, u64)>;

    /// How full the maps are.
    fn maps(&self) -> Vec<MapFill>;

    /// What Services and backends have carried.
    fn carried(&self) -> Carried;
}

/// Shows what an [`Observe`] reads.
#[derive(Debug)]
pub(super) struct Observed<O>(pub(super) O);

impl<O: Observe> Collector for Observed<O> {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        verdicts(&self.0.verdicts(), &mut encoder)?;
        let maps = self.0.maps();
        let rows = maps.iter().filter_map(|fill| Some((fill.map, fill.rows?)));
        gauges("switchboard_map_rows", "Rows in use, by map", rows, &mut encoder)?;
        let capacity = maps.iter().map(|fill| (fill.map, fill.capacity));
        gauges("switchboard_map_capacity_rows", "Rows that fit, by map", capacity, &mut encoder)?;
        self.0.carried().encode(&mut encoder)
    }
}

fn verdicts(verdicts: &[(Verdict, u64)], encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
    let help =
        "Packets, or calls of socket hooks, by what became of them; all of action drop are drop reasons";
    let mut family = encoder.encode_descriptor("switchboard_verdicts", help, None, MetricType::Counter)?;
    for (verdict, runs) in verdicts {
        let labels = [("verdict", verdict.name()), ("action", action(*verdict))];
        ConstCounter::new(*runs).encode(family.encode_family(&labels)?)?;
    }
    Ok(())
}

fn action(verdict: Verdict) -> &'static str {
    match verdict.action() {
        Action::Pass => "pass",
        Action::Drop => "drop",
        Action::Answer => "answer",
    }
}

fn gauges(
    name: &str,
    help: &str,
    rows: impl Iterator<Item = (&'static str, u64)>,
    encoder: &mut DescriptorEncoder<'_>,
) -> fmt::Result {
    let mut family: MetricEncoder<'_> = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
    for (map, rows) in rows {
        let rows = i64::try_from(rows).unwrap_or(i64::MAX);
        ConstGauge::new(rows).encode(family.encode_family(&[("map", map)])?)?;
    }
    Ok(())
}
