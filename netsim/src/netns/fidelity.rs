//! What the emulator does against what was asked of it, measured by the traffic tool.
//!
//! Each figure has its own pair of sites, so that all are taken at the same time and the emulator
//! works under the sum of their load; the packet rate is pushed in a second step, alone.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use serde::Serialize;
use thalweg::unit::Ratio;

use crate::link::{Burst, LinkParams};

use super::stop::Stop;
use super::traffic::{FlowSpec, Traffic};
use super::{Floor, sys};

/// One figure: asked and measured.
#[derive(Clone, Debug, Serialize)]
pub struct Figure {
    /// What.
    pub what: &'static str,
    /// In which unit.
    pub unit: &'static str,
    /// What was asked.
    pub asked: f64,
    /// What was measured; none where nothing could be.
    pub measured: Option<f64>,
}

/// All of them.
#[derive(Clone, Debug, Serialize)]
pub struct Fidelity {
    /// The figures, in the order they are printed.
    pub figures: Vec<Figure>,
    /// Whether the emulator ran with real-time priority.
    pub real_time: bool,
}

/// Measures for about `seconds` and once more half of it. None if told to stop.
pub fn measure(seconds: u64, seed: u64, stop: &Stop) -> io::Result<Option<Fidelity>> {
    let Some((mut figures, real_time)) = shapes(seconds, seed, stop)? else { return Ok(None) };
    let Some(rate) = packet_rate((seconds / 2).max(2), seed, stop)? else { return Ok(None) };
    figures.extend(rate);
    Ok(Some(Fidelity { figures, real_time }))
}

type Pairs = BTreeMap<(usize, usize), LinkParams>;

/// Delay, loss, holes, rate and queue, each on its own pair of sites.
fn shapes(seconds: u64, seed: u64, stop: &Stop) -> io::Result<Option<(Vec<Figure>, bool)>> {
    let ms = Duration::from_millis;
    let holes = Burst { good: ms(152), bad: ms(8) };
    let base = LinkParams { delay: ms(20), ..LinkParams::default() };
    let links: Pairs = [
        ((0, 1), base.clone()),
        ((2, 3), LinkParams { loss: Ratio::from_ppm(50_000), ..base.clone() }),
        ((4, 5), LinkParams { burst: Some(holes), ..base.clone() }),
        ((6, 7), LinkParams { rate_bps: Some(20_000_000), queue_bytes: 250_000, ..base }),
    ]
    .into();
    let floor = Floor::new(
        &["delay0", "delay1", "loss0", "loss1", "hole0", "hole1", "rate0", "rate1"],
        &links,
        seed,
    )?;
    let flow = |from: usize, to: usize, pps, size| {
        let (a, b) = (&floor.sites[from], &floor.sites[to]);
        let to = SocketAddr::new(b.address.into(), FIRST_PORT);
        let from = a.address.into();
        (&a.ns, &b.ns, FlowSpec { from, to, pps, size, dscp: 0, payload: Vec::new(), span: None })
    };
    // 1.5 × the line: 20 Mbit/s carry 2,083 packets of 1,200 bytes a second.
    let traffic = Traffic::start(&[
        flow(0, 1, 500, 160),
        flow(2, 3, 2000, 160),
        flow(4, 5, 1000, 160),
        flow(6, 7, 3125, 1172),
    ])?;
    if stop.wait(Duration::from_secs(seconds)) {
        return Ok(None);
    }
    let ledgers = traffic.finish(ms(400));
    let all = |i: usize| ledgers[i].quality(0, u64::MAX);
    let report = floor.wan.report()?;
    let (delay, loss, holed, rate) = (all(0), all(1), all(2), all(3));
    let (hole_ms, _) = ledgers[2].with(|l| l.holes());
    let percent = |share: Option<f64>| share.map(|s| s * 100.0);
    // The queue is full when the run ends; what arrived in the last window of sends left the line at
    // its rate. Delay there = queue / rate + propagation.
    let line_mbit = ledgers[3].with(|l| l.arrival_rate()).map(|pps| pps * 1200.0 * 8.0 / 1e6);
    let figure = |what, unit, asked, measured| Figure { what, unit, asked, measured };
    let figures = vec![
        figure("one-way delay, p50", "ms", 20.0, delay.p50_ms),
        figure("one-way delay, p99", "ms", 20.0, delay.p99_ms),
        figure("independent loss", "%", 5.0, percent(loss.loss)),
        figure("time in holes, as loss", "%", 5.0, percent(holed.loss)),
        // A hole is seen by those sent within it: lengths come in steps of 1 ms.
        figure("length of a hole, mean", "ms", 8.0, hole_ms),
        figure("line rate under 1.5 × its load", "Mbit/s", 20.0, line_mbit),
        figure("full queue and delay, p99", "ms", 120.0, rate.p99_ms),
        figure("written late, p50", "us", 0.0, report.lateness.quantile_us(0.5)),
        figure("written late, p99", "us", 0.0, report.lateness.quantile_us(0.99)),
        figure("written late, most", "us", 0.0, Some(report.lateness.max_us())),
    ];
    Ok(Some((figures, report.real_time)))
}

/// How many packets a second it carries without losing one of its own accord.
fn packet_rate(seconds: u64, seed: u64, stop: &Stop) -> io::Result<Option<Vec<Figure>>> {
    let params = LinkParams { delay: Duration::from_millis(5), ..LinkParams::default() };
    let links: Pairs = [((0, 1), params.clone()), ((2, 3), params)].into();
    let floor = Floor::new(&["pps0", "pps1", "pps2", "pps3"], &links, seed)?;
    let flow = |from: usize, to: usize| {
        let (a, b) = (&floor.sites[from], &floor.sites[to]);
        let to = SocketAddr::new(b.address.into(), FIRST_PORT);
        let from = a.address.into();
        (
            &a.ns,
            &b.ns,
            FlowSpec { from, to, pps: 30_000, size: 160, dscp: 0, payload: Vec::new(), span: None },
        )
    };
    let began = sys::monotonic_ns();
    let traffic = Traffic::start(&[flow(0, 1), flow(2, 3)])?;
    if stop.wait(Duration::from_secs(seconds)) {
        return Ok(None);
    }
    let ledgers = traffic.finish(Duration::from_millis(300));
    let span = (sys::monotonic_ns() - began) as f64 / 1e9 - 0.3;
    let both = [0, 1].map(|i: usize| ledgers[i].quality(0, u64::MAX));
    let report = floor.wan.report()?;
    let sent: u64 = both.iter().map(|q| q.sent).sum();
    let received: u64 = both.iter().map(|q| q.received).sum();
    let figure = |what, unit, asked, measured| Figure { what, unit, asked, measured };
    let lost = (sent > 0).then(|| (sent - received) as f64 / sent as f64 * 100.0);
    Ok(Some(vec![
        figure("packets a second, offered", "/s", 60_000.0, Some(sent as f64 / span)),
        figure("loss at that rate", "%", 0.0, lost),
        figure("written late at that rate, p99", "us", 0.0, report.lateness.quantile_us(0.99)),
    ]))
}

const FIRST_PORT: u16 = 9000;

impl Fidelity {
    /// As a table for people.
    pub fn table(&self) -> String {
        let mut table = comfy_table::Table::new();
        table.load_style(comfy_table::presets::NOTHING);
        table.set_header(["emulator", "asked", "measured", "unit"]);
        for f in &self.figures {
            let measured = f.measured.map_or("n/a".into(), |m| format!("{m:.2}"));
            table.add_row([f.what.into(), format!("{}", f.asked), measured, f.unit.into()]);
        }
        let priority = if self.real_time { "real-time" } else { "ordinary" };
        format!("{table}\nemulator thread: {priority} priority")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netns::test_floor;

    /// Tolerances are wide: this proves that the emulator does what it is told, on whatever machine;
    /// how exactly is for `netsim fidelity` to print.
    #[test]
    fn the_emulator_does_what_it_is_told() {
        if !test_floor() {
            return;
        }
        let (figures, _) = shapes(4, 7, &Stop::never()).unwrap().unwrap();
        let measured = |what: &str| {
            figures.iter().find(|f| f.what == what).and_then(|f| f.measured).expect("was measured")
        };
        let within = |what: &str, low: f64, high: f64| {
            let value = measured(what);
            assert!((low..=high).contains(&value), "{what}: {value}");
        };
        within("one-way delay, p50", 20.0, 25.0);
        within("independent loss", 3.5, 6.5);
        within("time in holes, as loss", 1.5, 10.0);
        within("length of a hole, mean", 4.0, 14.0);
        within("line rate under 1.5 × its load", 18.0, 20.5);
        within("full queue and delay, p99", 110.0, 140.0);
    }

    #[test]
    fn namespaces_are_gone_when_dropped() {
        if !test_floor() {
            return;
        }
        let floor = Floor::new(&["gone0", "gone1"], &Pairs::new(), 1).unwrap();
        let paths: Vec<_> =
            floor.sites.iter().map(|s| format!("/run/netns/{}", s.ns.name())).collect();
        assert!(paths.iter().all(|p| std::path::Path::new(p).exists()));
        drop(floor);
        assert!(!paths.iter().any(|p| std::path::Path::new(p).exists()));
    }
}
