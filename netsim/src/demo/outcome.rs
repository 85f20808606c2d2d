//! What the demo ends with: a table per pair and in all, the costs, and the same as JSON.
//!
//! Every value was measured or is null. The JSON's shape is an interface.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use comfy_table::{Table, presets};
use serde::Serialize;
use thalweg::report::Bytes;

use crate::netns::traffic::{SharedLedger, quantile_ms};

use super::course::{Course, Happened, Sign};
use crate::netns::watch::{Path, Spent, Watch};

/// Each ordered pair's flow over the Internet as it is, and over the overlay.
pub type Flows = BTreeMap<(usize, usize), (SharedLedger, SharedLedger)>;

/// Each ordered pair's TCP goodput, direct and overlay, Mbit/s.
pub type Tcp = BTreeMap<(usize, usize), (Option<f64>, Option<f64>)>;

/// Direct Internet, or overlay.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Side {
    /// Median one-way delay.
    pub p50_ms: Option<f64>,
    /// 99th percentile of it.
    pub p99_ms: Option<f64>,
    /// Share of packets that never arrived.
    pub loss: Option<f64>,
    /// Longest silence at a receiver.
    pub longest_gap_ms: Option<f64>,
    /// TCP goodput; in all: the mean over pairs.
    pub tcp_mbps: Option<f64>,
}

/// One ordered pair of sites.
#[derive(Clone, Debug, Serialize)]
pub struct PairOutcome {
    /// Source.
    pub from: String,
    /// Destination.
    pub to: String,
    /// The overlay's path before any event.
    pub path: Option<Vec<String>>,
    /// Over the Internet as it is.
    pub direct: Side,
    /// Over Thalweg.
    pub overlay: Side,
}

/// What the overlay cost, from the daemons' start to the flows' end.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Cost {
    /// Bytes of applications' packets, first sending, counted on each link crossed.
    pub data_bytes: Option<u64>,
    /// Headers and tags around them.
    pub framing_bytes: Option<u64>,
    /// Acknowledgements and reports between neighbours.
    pub feedback_bytes: Option<u64>,
    /// Probes and replies.
    pub probes_bytes: Option<u64>,
    /// Retransmissions.
    pub repair_bytes: Option<u64>,
    /// Sessions, link state, membership.
    pub control_bytes: Option<u64>,
    /// Share of applications' packets that crossed a relay.
    pub relayed_share: Option<f64>,
    /// Processor time of all daemons.
    pub cpu_s: Option<f64>,
    /// The same as a share of one core, per daemon, over their life.
    pub cpu_share_per_site: Option<f64>,
}

/// One event.
#[derive(Clone, Debug, Serialize)]
pub struct EventOutcome {
    /// Seconds from the flows' start.
    pub at_s: f64,
    /// What happened.
    pub what: String,
    /// How long until the overlay's flows were well again; null where nothing was disturbed or they
    /// were not.
    pub recovered_ms: Option<f64>,
}

/// All of it.
#[derive(Clone, Debug, Serialize)]
pub struct Outcome {
    /// Over the Internet as it is, all pairs.
    pub direct: Side,
    /// Over Thalweg, all pairs.
    pub overlay: Side,
    /// Ordered pairs whose path had a relay before any event; null where no paths were known.
    pub relayed_pairs: Option<usize>,
    /// Each ordered pair.
    pub pairs: Vec<PairOutcome>,
    /// What it cost.
    pub cost: Cost,
    /// What happened.
    pub events: Vec<EventOutcome>,
}

/// Everything an outcome is computed from.
#[derive(Debug)]
pub struct Measured<'a> {
    /// Site names.
    pub names: &'a [String],
    /// Each pair's flow over the Internet as it is, and over the overlay.
    pub flows: &'a Flows,
    /// Each pair's TCP goodput, direct and overlay, Mbit/s.
    pub tcp: &'a Tcp,
    /// The time of the flows, monotonic ns.
    pub span: (u64, u64),
    /// What happened.
    pub course: &'a Course,
    /// The paths before any event.
    pub quiet_paths: &'a BTreeMap<(usize, usize), Path>,
    /// What the daemons counted.
    pub spent: Spent,
    /// Processor time of all daemons, seconds, and how long they ran.
    pub cpu_s: Option<f64>,
    /// For how long the daemons ran, seconds.
    pub ran_s: f64,
}

impl Measured<'_> {
    /// Computes everything.
    pub fn outcome(&self) -> Outcome {
        let pairs: Vec<_> = self.flows.keys().map(|pair| self.pair(*pair)).collect();
        let kind = |of: fn(&Bytes) -> u64| self.spent.bytes.as_ref().map(of);
        let cost = Cost {
            data_bytes: kind(|b| b.data),
            framing_bytes: kind(|b| b.framing),
            feedback_bytes: kind(|b| b.feedback),
            probes_bytes: kind(|b| b.probes),
            repair_bytes: kind(|b| b.repair),
            control_bytes: kind(|b| b.control),
            relayed_share: self
                .spent
                .packets
                .filter(|(all, _)| *all > 0)
                .map(|(all, relayed)| relayed as f64 / all as f64),
            ..Cost::default()
        };
        let sites = self.names.len() as f64;
        let cpu_share = self.cpu_s.map(|cpu| cpu / self.ran_s.max(1.0) / sites);
        Outcome {
            direct: self.all(|f| &f.0, |t| t.0),
            overlay: self.all(|f| &f.1, |t| t.1),
            relayed_pairs: (!self.quiet_paths.is_empty())
                .then(|| self.quiet_paths.values().filter(|p| p.len() > 2).count()),
            pairs,
            cost: Cost { cpu_s: self.cpu_s, cpu_share_per_site: cpu_share, ..cost },
            events: self.course.happened.iter().map(|h| self.event(h)).collect(),
        }
    }

    fn pair(&self, pair: (usize, usize)) -> PairOutcome {
        let (direct, overlay) = &self.flows[&pair];
        let windows = self.course.alive(pair, self.span);
        let tcp = self.tcp.get(&pair).copied().unwrap_or_default();
        let side = |ledger: &SharedLedger, tcp_mbps| {
            let q = ledger.with(|l| l.quality_within(&windows));
            Side {
                p50_ms: q.p50_ms,
                p99_ms: q.p99_ms,
                loss: q.loss,
                longest_gap_ms: q.longest_gap_ms,
                tcp_mbps,
            }
        };
        let path = self.quiet_paths.get(&pair);
        PairOutcome {
            from: self.names[pair.0].clone(),
            to: self.names[pair.1].clone(),
            path: path.map(|p| p.iter().map(|s| self.names[*s].clone()).collect()),
            direct: side(direct, tcp.0),
            overlay: side(overlay, tcp.1),
        }
    }

    fn all(
        &self,
        flow: impl Fn(&(SharedLedger, SharedLedger)) -> &SharedLedger,
        tcp: impl Fn(&(Option<f64>, Option<f64>)) -> Option<f64>,
    ) -> Side {
        let (mut delays, mut sent, mut gap) = (Vec::new(), 0, None::<f64>);
        for (pair, flows) in self.flows {
            let windows = self.course.alive(*pair, self.span);
            flow(flows).with(|ledger| {
                delays.extend(ledger.delays_us(&windows));
                let q = ledger.quality_within(&windows);
                sent += q.sent;
                gap = [gap, q.longest_gap_ms].into_iter().flatten().reduce(f64::max);
            });
        }
        delays.sort_unstable();
        let tcp: Vec<f64> = self.tcp.values().filter_map(tcp).collect();
        Side {
            p50_ms: quantile_ms(&delays, 0.5),
            p99_ms: quantile_ms(&delays, 0.99),
            loss: (sent > 0).then(|| (sent - delays.len() as u64) as f64 / sent as f64),
            longest_gap_ms: gap,
            tcp_mbps: (!tcp.is_empty()).then(|| tcp.iter().sum::<f64>() / tcp.len() as f64),
        }
    }

    fn event(&self, event: &Happened) -> EventOutcome {
        let next = self.course.happened.iter().map(|h| h.at_ns).find(|at| *at > event.at_ns);
        let end = next.unwrap_or(self.span.1);
        let times = event.pairs.iter().map(|pair| self.recovered_ms(*pair, event, end));
        // One pair that did not recover makes it null; so does none at all.
        let all: Option<Vec<f64>> = times.collect();
        let recovered_ms = all.and_then(|times| times.into_iter().reduce(f64::max));
        let at_s = event.at_ns.saturating_sub(self.span.0) as f64 / 1e9;
        EventOutcome { at_s, what: event.what.clone(), recovered_ms }
    }

    fn recovered_ms(&self, pair: (usize, usize), event: &Happened, end: u64) -> Option<f64> {
        let (_, overlay) = self.flows.get(&pair)?;
        let since = |at: u64| (at.saturating_sub(event.at_ns)) as f64 / 1e6;
        overlay.with(|ledger| match event.sign {
            Sign::None => None,
            Sign::Arrival => ledger.works_again_ns(event.at_ns, IN_ROW).map(since),
            Sign::Silence => {
                let works = ledger.quality(end.saturating_sub(WORKS_NS), end).received > 0;
                let gap = ledger.quality(event.at_ns, end).longest_gap_ms;
                gap.filter(|_| works)
            }
            Sign::Quality => {
                let before = event.at_ns.saturating_sub(BEFORE_NS);
                let usual = ledger.quality(before, event.at_ns).p50_ms?;
                let most_us = (usual * 1000.0 * NEAR) as u32;
                let good = ledger.good_again_ns(event.at_ns, GOOD_ROW, most_us)?;
                (good < end).then(|| since(good))
            }
        })
    }
}

/// Arrivals in a row after which a flow works.
const IN_ROW: usize = 5;
/// A row this long is a second at the demo's rate: good for less is not good.
const GOOD_ROW: usize = 100;
/// A path this much slower than before counts as near it: the next best is never as good.
const NEAR: f64 = 1.4;
/// What a flow was like before an event is taken from this long before it.
const BEFORE_NS: u64 = 5_000_000_000;
/// A flow works at the end of an event if it arrived within this.
const WORKS_NS: u64 = 500_000_000;

impl Outcome {
    /// The tables for people.
    pub fn tables(&self) -> String {
        let mut table = Table::new();
        table.load_style(presets::NOTHING);
        table.set_header([
            "direct | overlay",
            "overlay at first",
            "p50 ms",
            "p99 ms",
            "loss %",
            "longest gap ms",
            "TCP Mbit/s",
        ]);
        let row = |what: String, path: String, d: &Side, o: &Side| {
            [
                what,
                path,
                both(d.p50_ms, o.p50_ms, 1),
                both(d.p99_ms, o.p99_ms, 1),
                both(d.loss.map(|l| l * 100.0), o.loss.map(|l| l * 100.0), 2),
                both(d.longest_gap_ms, o.longest_gap_ms, 0),
                both(d.tcp_mbps, o.tcp_mbps, 1),
            ]
        };
        for p in &self.pairs {
            let path = p.path.as_ref().map_or("n/a".into(), |path| match path.len() {
                2 => "direct".to_owned(),
                n => format!("via {}", path[1..n - 1].join(", ")),
            });
            table.add_row(row(format!("{} > {}", p.from, p.to), path, &p.direct, &p.overlay));
        }
        let relayed = self.relayed_pairs.map_or("n/a".into(), |n| format!("{n} with a relay"));
        table.add_row(row("all pairs".into(), relayed, &self.direct, &self.overlay));
        let mut text = format!("{table}\n\n");
        for e in &self.events {
            let back =
                e.recovered_ms.map_or(String::new(), |ms| format!("  recovered in {ms:.0} ms"));
            let _ = writeln!(text, "{:6.1} s  {}{back}", e.at_s, e.what);
        }
        let c = &self.cost;
        let share = |bytes: Option<u64>| match (bytes, c.data_bytes) {
            (Some(bytes), Some(data)) if data > 0 => {
                format!("{:.1} %", bytes as f64 * 100.0 / data as f64)
            }
            _ => "n/a".into(),
        };
        let _ = writeln!(
            text,
            "\ncost of the flows, as share of their packets' bytes on each link: framing {}, feedback {}, \
             probes {}, repair {}, control {}",
            share(c.framing_bytes),
            share(c.feedback_bytes),
            share(c.probes_bytes),
            share(c.repair_bytes),
            share(c.control_bytes),
        );
        let percent = |x: Option<f64>| x.map_or("n/a".into(), |x| format!("{:.1} %", x * 100.0));
        let _ = writeln!(
            text,
            "packets that crossed a relay {}; processor {} of a core per site ({} s in all)",
            percent(c.relayed_share),
            percent(c.cpu_share_per_site),
            c.cpu_s.map_or("n/a".into(), |s| format!("{s:.1}")),
        );
        text
    }
}

/// `direct | overlay`.
fn both(direct: Option<f64>, overlay: Option<f64>, digits: usize) -> String {
    let show = |x: Option<f64>| x.map_or("n/a".into(), |x| format!("{x:.digits$}"));
    format!("{} | {}", show(direct), show(overlay))
}

/// The costs known so far, for the live screen: bytes beyond the data, as a share of it.
pub fn overhead(watch: &Watch) -> Option<f64> {
    let bytes = watch.spent().bytes?;
    let extra = bytes.framing + bytes.feedback + bytes.probes + bytes.repair + bytes.control;
    (bytes.data > 0).then(|| extra as f64 / bytes.data as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_measured_is_null_and_the_keys_are_those_promised() {
        let (names, flows, tcp) = (Vec::new(), BTreeMap::new(), BTreeMap::new());
        let (course, quiet_paths) = (Course::default(), BTreeMap::new());
        let measured = Measured {
            names: &names,
            flows: &flows,
            tcp: &tcp,
            span: (0, 1),
            course: &course,
            quiet_paths: &quiet_paths,
            spent: Spent::default(),
            cpu_s: None,
            ran_s: 0.0,
        };
        let json = serde_json::to_value(measured.outcome()).unwrap();
        let keys: Vec<_> = json.as_object().unwrap().keys().cloned().collect();
        assert_eq!(keys, ["cost", "direct", "events", "overlay", "pairs", "relayed_pairs"]);
        for side in ["direct", "overlay"] {
            for key in ["p50_ms", "p99_ms", "loss", "longest_gap_ms", "tcp_mbps"] {
                assert!(json[side].as_object().unwrap().contains_key(key), "{key}");
                assert!(json[side][key].is_null());
            }
        }
        assert!(json["relayed_pairs"].is_null() && json["cost"]["cpu_s"].is_null());
    }
}
