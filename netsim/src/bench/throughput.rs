//! `netsim bench throughput`: what crosses a daemon pair, direct and over one relay, beside what the
//! bare link and an unencrypted pump carry.
//!
//! Within a run every metric is taken from all candidates in turn before the next metric, so that the
//! machine's moods hit all alike. Everything is started at the priority of an ordinary
//! program; data threads and pumps raise their own alike.

use std::time::Duration;

use clap::ValueEnum;

use super::ground::{A, B, Case, Ground, R};
use super::load::{self, Shape, Udp};
use super::{BenchReport, Sheet, peers};
use crate::netns::stop::Stop;

/// What is measured in one step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Step {
    /// One TCP stream; processor time and memory of it.
    Tcp1,
    /// Four.
    Tcp4,
    /// Rates of packets of 1,300 bytes.
    Udp1300,
    /// Of 200.
    Udp200,
    /// Of 64.
    Udp64,
    /// Of 64, sent as super-segments.
    Udp64Gso,
    /// A hundred flows of mixed sizes.
    Udpmix,
    /// Round trips of an idle pair.
    Rtt,
    /// A small flow beside large ones.
    Small,
}

/// How much of it.
#[derive(Clone, Debug)]
pub struct Options {
    /// Runs of everything.
    pub runs: usize,
    /// Shorter steps: all of it within a minute.
    pub quick: bool,
    /// Only these cases; empty: all.
    pub cases: Vec<Case>,
    /// Only these steps; empty: all.
    pub only: Vec<Step>,
    /// Other programs beside ours, where installed.
    pub peers: bool,
    /// Our own daemons once more with so many lanes.
    pub lanes: Option<u8>,
}

/// Lengths of the steps.
#[derive(Clone, Copy, Debug)]
struct Lengths {
    tcp: Duration,
    trial: Duration,
    steps: u32,
    round_trips: usize,
    small: Duration,
}

const FULL: Lengths = Lengths {
    tcp: Duration::from_millis(2500),
    trial: Duration::from_millis(500),
    steps: 6,
    round_trips: 600,
    small: Duration::from_secs(4),
};
const QUICK: Lengths = Lengths {
    tcp: Duration::from_millis(600),
    trial: Duration::from_millis(120),
    steps: 3,
    round_trips: 100,
    small: Duration::from_millis(700),
};

/// Runs it. None if told to stop.
///
/// # Errors
/// The raw link cannot be laid. A candidate that does not come up leaves its rows empty.
pub fn run(options: &Options, stop: &Stop) -> anyhow::Result<Option<BenchReport>> {
    let lengths = if options.quick { QUICK } else { FULL };
    let mut sheet = Sheet::default();
    let cases = if options.cases.is_empty() {
        vec![Case::Direct, Case::Relay]
    } else {
        options.cases.clone()
    };
    let steps: Vec<Step> = Step::value_variants()
        .iter()
        .copied()
        .filter(|step| options.only.is_empty() || options.only.contains(step))
        .collect();
    // All at once at the start: a mesh takes its time to form, and costs next to nothing afterwards.
    let daemons: Vec<_> = cases.iter().map(|&case| Ground::daemons(case)).collect();
    for (case, daemons) in cases.into_iter().zip(daemons) {
        let mut grounds = vec![Ground::raw(case)?];
        let mut missing = Vec::new();
        let daemons = daemons.and_then(Ground::ready);
        let mut candidates = vec![("pump_", Ground::pump(case)), ("", daemons)];
        if let Some(lanes) = options.lanes {
            let made = Ground::with_lanes(case, lanes).and_then(Ground::ready);
            candidates.push(("lanes_", made));
        }
        for (prefix, made) in candidates {
            match made {
                Ok(ground) => grounds.push(ground),
                Err(error) => {
                    let name = if prefix == "pump_" { "pump" } else { "thalweg" };
                    eprintln!("{}: {name} did not come up: {error:#}", case.name());
                    missing.push(prefix);
                }
            }
        }
        if options.peers && case == Case::Direct {
            grounds.extend(peers::installed());
        }
        let mut bench = Bench { case, lengths, sheet: &mut sheet };
        for ground in &grounds {
            bench.idle_memory(ground);
        }
        for run in 0..options.runs {
            for &step in &steps {
                let mut raw = None;
                for ground in &grounds {
                    if stop.asked() {
                        return Ok(None);
                    }
                    if let Err(error) = bench.measure(step, ground, &mut raw) {
                        let name = ground.prefix.trim_end_matches('_');
                        eprintln!("{}: {name} {step:?}, run {run}: {error:#}", case.name());
                        if ground.prefix != "raw_" {
                            bench.absent(step, ground.prefix);
                        }
                    }
                }
                for prefix in &missing {
                    bench.absent(step, prefix);
                }
            }
        }
        for ground in &grounds {
            bench.peak_memory(ground);
        }
    }
    Ok(Some(sheet.report("throughput")))
}

struct Bench<'a> {
    case: Case,
    lengths: Lengths,
    sheet: &'a mut Sheet,
}

/// What later steps of a run need from earlier ones: the raw link's round trip, mean and 99th
/// percentile, µs.
type RawTrip = Option<(f64, f64)>;

impl Bench<'_> {
    fn note(&mut self, prefix: &str, metric: &str, unit: &'static str, value: Option<f64>) {
        self.sheet.note(self.case.name(), &format!("{prefix}{metric}"), unit, value);
    }

    fn measure(&mut self, step: Step, ground: &Ground, raw: &mut RawTrip) -> anyhow::Result<()> {
        match step {
            Step::Tcp1 => self.tcp(ground, 1),
            Step::Tcp4 => self.tcp(ground, 4),
            Step::Rtt => self.round_trips(ground, raw),
            Step::Small => self.small(ground),
            rate => self.rate(ground, rate),
        }
    }

    /// Rows of a candidate that did not come up: there, and empty.
    fn absent(&mut self, step: Step, prefix: &str) {
        for (metric, unit) in step.metrics(self.case) {
            self.note(prefix, metric, unit, None);
        }
    }

    fn tcp(&mut self, ground: &Ground, streams: usize) -> anyhow::Result<()> {
        let spent = || (ground.cpu_s(&[A, B]), ground.cpu_s(&[R]));
        let before = spent();
        let relayed = ground.relayed_packets();
        let (gbps, bytes) = load::tcp(ground.way(), streams, self.lengths.tcp)?;
        let after = spent();
        let per_gb = |after: Option<f64>, before: Option<f64>| {
            Some((after? - before?) / (bytes / 1e9)).filter(|_| bytes > 0.0)
        };
        if let Some(before) = relayed {
            load::sleep(Duration::from_millis(600));
            let crossed = ground.relayed_packets().map_or(0, |after| after - before);
            // No packet is larger than the MTU.
            let least = bytes / 1500.0;
            anyhow::ensure!(crossed as f64 > least, "{crossed} packets crossed R, not {least:.0}");
        }
        let (ends, relay) = (per_gb(after.0, before.0), per_gb(after.1, before.1));
        let [rate, ends_name, relay_name] = match streams {
            1 => ["tcp1_gbps", "ends_cpu_s_per_gb", "relay_cpu_s_per_gb"],
            _ => ["tcp4_gbps", "ends_cpu_s_per_gb_tcp4", "relay_cpu_s_per_gb_tcp4"],
        };
        let prefix = ground.prefix;
        self.note(prefix, rate, "Gbit/s", Some(gbps));
        if prefix != "raw_" {
            self.note(prefix, ends_name, "s/GB", ends);
            if self.case == Case::Relay {
                self.note(prefix, relay_name, "s/GB", relay);
            }
        }
        Ok(())
    }

    fn rate(&mut self, ground: &Ground, step: Step) -> anyhow::Result<()> {
        let (metric, shape) = match step {
            Step::Udp1300 => ("udp1300_pps", Shape::Single(1300)),
            Step::Udp200 => ("udp200_pps", Shape::Single(200)),
            Step::Udp64 => ("udp64_pps", Shape::Single(64)),
            Step::Udp64Gso => ("udp64_gso_pps", Shape::Gso(64)),
            _ => ("udpmix_pps", Shape::Mix),
        };
        let found =
            load::highest_rate(ground.way(), shape, self.lengths.steps, self.lengths.trial)?;
        if found.is_none() {
            eprintln!("{}: no rate of {}{metric} was clean", self.case.name(), ground.prefix);
        }
        self.note(ground.prefix, metric, "1/s", found);
        Ok(())
    }

    fn round_trips(&mut self, ground: &Ground, raw: &mut RawTrip) -> anyhow::Result<()> {
        let found = load::round_trips(ground.way(), self.lengths.round_trips)?;
        if ground.prefix == "raw_" {
            *raw = found;
            self.note("raw_", "rtt_mean_us", "us", found.map(|f| f.0));
            self.note("raw_", "rtt_p99_us", "us", found.map(|f| f.1));
            return Ok(());
        }
        let added = found.zip(*raw).map(|(with, bare)| (with.0 - bare.0, with.1 - bare.1));
        self.note(ground.prefix, "rtt_added_mean_us", "us", added.map(|a| a.0));
        self.note(ground.prefix, "rtt_added_p99_us", "us", added.map(|a| a.1));
        Ok(())
    }

    /// A hundred packets a second of 200 bytes: idle, beside TCP, beside a flood of UDP.
    fn small(&mut self, ground: &Ground) -> anyhow::Result<()> {
        let (way, length, prefix) = (ground.way(), self.lengths.small, ground.prefix);
        let settle = Duration::from_millis(300);
        let idle = load::steady(way, 100, 200, length)?;
        let bulk = std::thread::scope(|s| {
            let tcp = s.spawn(|| load::tcp(way, 1, length + settle * 2));
            load::sleep(settle);
            let quality = load::steady(way, 100, 200, length);
            // What it carried is another step's figure.
            drop(tcp.join());
            quality
        })?;
        let flood = Udp::start(way, Shape::Single(1300), None)?;
        load::sleep(settle);
        let flooded = load::steady(way, 100, 200, length)?;
        flood.finish();
        for (found, delay, lost) in [
            (bulk, "small_p99_over_idle_ms", "small_lost"),
            (flooded, "small_flood_p99_over_idle_ms", "small_flood_lost"),
        ] {
            let over = found.p99_ms.zip(idle.p99_ms).map(|(with, idle)| with - idle);
            self.note(prefix, delay, "ms", over);
            let share = found.loss.map(|loss| loss * 100.0);
            self.note(prefix, lost, "%", share);
        }
        Ok(())
    }

    fn idle_memory(&mut self, ground: &Ground) {
        if ground.prefix != "raw_" {
            self.note(ground.prefix, "rss_idle_mib", "MiB", ground.memory_mib("VmRSS"));
        }
    }

    fn peak_memory(&mut self, ground: &Ground) {
        if ground.prefix != "raw_" {
            self.note(ground.prefix, "rss_peak_mib", "MiB", ground.memory_mib("VmHWM"));
        }
    }
}

impl Step {
    /// What it gives, with units.
    fn metrics(self, case: Case) -> Vec<(&'static str, &'static str)> {
        let mut metrics = match self {
            Self::Tcp1 => vec![("tcp1_gbps", "Gbit/s"), ("ends_cpu_s_per_gb", "s/GB")],
            Self::Tcp4 => vec![("tcp4_gbps", "Gbit/s"), ("ends_cpu_s_per_gb_tcp4", "s/GB")],
            Self::Udp1300 => vec![("udp1300_pps", "1/s")],
            Self::Udp200 => vec![("udp200_pps", "1/s")],
            Self::Udp64 => vec![("udp64_pps", "1/s")],
            Self::Udp64Gso => vec![("udp64_gso_pps", "1/s")],
            Self::Udpmix => vec![("udpmix_pps", "1/s")],
            Self::Rtt => vec![("rtt_added_mean_us", "us"), ("rtt_added_p99_us", "us")],
            Self::Small => vec![
                ("small_p99_over_idle_ms", "ms"),
                ("small_lost", "%"),
                ("small_flood_p99_over_idle_ms", "ms"),
                ("small_flood_lost", "%"),
            ],
        };
        if case == Case::Relay {
            match self {
                Self::Tcp1 => metrics.push(("relay_cpu_s_per_gb", "s/GB")),
                Self::Tcp4 => metrics.push(("relay_cpu_s_per_gb_tcp4", "s/GB")),
                _ => {}
            }
        }
        metrics
    }
}
