//! TCP over a line that loses: through the tunnel, and over the line as it is.
//!
//! `cubic_iid2_rtt100_50m`: congestion control, loss, round trip, rate; the queue holds one
//! bandwidth-delay product, drop-tail; loss both ways. Without a suffix the packets are of the daemon's
//! default class (repaired and ordered within 500 ms); `_bulk`: 1,000 ms; `_unordered`: repaired within
//! 500 ms, order not restored. `share` is of the tunnel's own goodput without loss in the same run (the
//! default class's for `_unordered`), `bare_share` of the bare line's: so framing is in neither.

use std::collections::BTreeMap;
use std::time::Duration;

use super::super::Sheet;
use super::super::pair::{LineSpec, Pair, stream};
use super::ns::class;
use super::{Cell, Lengths, Loss};
use crate::netns::stop::Stop;
use crate::netns::sys;

const RTT_MS: u64 = 100;

/// Which class the packets are of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Default,
    Bulk,
    Unordered,
}

/// One row.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Row {
    congestion: &'static str,
    loss: Loss,
    mbit: u64,
    kind: Kind,
}

const FULL: Lengths = Lengths { settle: Duration::from_secs(5), measure: Duration::from_secs(15) };
const QUICK: Lengths = Lengths { settle: Duration::from_secs(3), measure: Duration::from_secs(6) };

const CLEAN: Loss = Loss::Independent(0.0);
const LOSSES: [Loss; 4] =
    [CLEAN, Loss::Independent(0.02), Loss::Independent(0.1), Loss::Holes(8, 0.05)];

fn rows(quick: bool) -> Vec<Row> {
    let mut rows = Vec::new();
    let mut add = |congestion, losses: &[Loss], mbit, kind| {
        rows.extend(losses.iter().map(|&loss| Row { congestion, loss, mbit, kind }));
    };
    add("cubic", &LOSSES, 50, Kind::Default);
    if !quick {
        add("cubic", &LOSSES, 50, Kind::Bulk);
        add("cubic", &LOSSES[1..2], 50, Kind::Unordered);
    }
    add("bbr", &LOSSES, 50, Kind::Default);
    if !quick {
        add("bbr", &LOSSES, 50, Kind::Bulk);
        add("bbr", &LOSSES[..3], 20, Kind::Default);
        add("bbr", &LOSSES[..3], 100, Kind::Default);
    }
    rows
}

impl Row {
    fn name(&self) -> String {
        let loss = if self.loss == CLEAN { "clean".into() } else { self.loss.name() };
        let kind = match self.kind {
            Kind::Default => "",
            Kind::Bulk => "_bulk",
            Kind::Unordered => "_unordered",
        };
        format!("{}_{loss}_rtt{RTT_MS}_{}m{kind}", self.congestion, self.mbit)
    }

    fn line(&self) -> LineSpec {
        let rtt = Duration::from_millis(RTT_MS);
        let mut line = LineSpec::full_queue(self.mbit * 1_000_000, rtt);
        let cell = Cell { hops: 1, loss: self.loss, rtt_ms: RTT_MS, pps: 1, deadline_ms: 0 };
        let weather = cell.line();
        (line.params.loss, line.params.burst) = (weather.loss, weather.burst);
        line
    }

    fn config(&self) -> toml::Table {
        let ms = Duration::from_millis;
        match self.kind {
            Kind::Default => toml::Table::new(),
            Kind::Bulk => class(ms(1000), ms(1000)),
            Kind::Unordered => class(ms(500), ms(0)),
        }
    }

    /// Goodput, Mbit/s; none if told to stop.
    fn measure(
        &self,
        tunnel: bool,
        lengths: Lengths,
        seed: u64,
        stop: &Stop,
    ) -> anyhow::Result<Option<f64>> {
        let pair = if tunnel {
            Pair::with_tunnel(&self.line(), &self.config(), seed)?
        } else {
            Pair::without_tunnel(&self.line(), seed)?
        };
        let way = if tunnel { pair.inside() } else { pair.bare() };
        let most = (lengths.settle + lengths.measure) * 2;
        let stream = stream(way, self.congestion, most)?;
        if stop.wait(lengths.settle) {
            return Ok(None);
        }
        pair.forget();
        let (began, before) = (sys::monotonic_ns(), stream.bytes());
        if stop.wait(lengths.measure) {
            return Ok(None);
        }
        let bits = (stream.bytes() - before) as f64 * 8.0;
        let seconds = (sys::monotonic_ns() - began) as f64 / 1e9;
        pair.read(&self.name())?;
        Ok(Some(bits / seconds / 1e6))
    }
}

/// Measures every wanted row once, without and with the tunnel.
pub(super) fn run(
    sheet: &mut Sheet,
    wanted: &dyn Fn(&str) -> bool,
    quick: bool,
    seed: u64,
    stop: &Stop,
) {
    let lengths = if quick { QUICK } else { FULL };
    let rows = rows(quick);
    // Goodput without loss, by what else the row is: the whole of which others are a share.
    let mut whole: BTreeMap<(&str, u64, Kind, bool), f64> = BTreeMap::new();
    let chosen: Vec<&Row> = rows.iter().filter(|row| wanted(&row.name())).collect();
    let needs = |row: &Row| {
        chosen.iter().any(|c| {
            let kind = c.kind == row.kind || c.kind == Kind::Unordered && row.kind == Kind::Default;
            (c.congestion, c.mbit) == (row.congestion, row.mbit) && kind
        })
    };
    for row in rows.iter().filter(|row| chosen.contains(row) || row.loss == CLEAN && needs(row)) {
        let case = row.name();
        for tunnel in [false, true] {
            // The bare line knows no classes.
            if !tunnel && row.kind != Kind::Default {
                continue;
            }
            let mbps = row.measure(tunnel, lengths, seed, stop).unwrap_or_else(|error| {
                eprintln!("{case}: {error:#}");
                None
            });
            if stop.asked() {
                return;
            }
            if let (CLEAN, Some(mbps)) = (row.loss, mbps) {
                whole.insert((row.congestion, row.mbit, row.kind, tunnel), mbps);
            }
            let kind = if row.kind == Kind::Unordered { Kind::Default } else { row.kind };
            let whole = whole.get(&(row.congestion, row.mbit, kind, tunnel));
            let share = mbps.zip(whole).map(|(mbps, whole)| mbps / whole);
            let prefix = if tunnel { "" } else { "bare_" };
            // A whole table takes a quarter of an hour: each row is told when it is there.
            if let Some(mbps) = mbps {
                eprintln!("{case}: {prefix}goodput_mbps {mbps:.1}");
            }
            sheet.note(&case, &format!("{prefix}goodput_mbps"), "Mbit/s", mbps);
            sheet.note(&case, &format!("{prefix}share"), "share", share);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_has_its_own_name_and_a_row_without_loss_to_be_compared_with() {
        let rows = rows(false);
        let mut names: Vec<String> = rows.iter().map(Row::name).collect();
        assert!(names.iter().any(|n| n == "cubic_burst8ms5_rtt100_50m_bulk"), "{names:?}");
        assert!(names.iter().any(|n| n == "bbr_iid10_rtt100_100m"), "{names:?}");
        names.sort();
        names.dedup();
        assert_eq!(names.len(), rows.len());
        for row in &rows {
            let kind = if row.kind == Kind::Unordered { Kind::Default } else { row.kind };
            let clean = Row { loss: CLEAN, kind, ..*row };
            let before = rows.iter().position(|r| *r == clean).expect("there is one");
            assert!(before <= rows.iter().position(|r| r == row).unwrap(), "measured first");
        }
    }

    #[test]
    fn the_queue_holds_one_bandwidth_delay_product() {
        let line = rows(false)[0].line();
        assert_eq!((line.params.rate_bps, line.params.queue_bytes), (Some(50_000_000), 625_000));
    }
}
