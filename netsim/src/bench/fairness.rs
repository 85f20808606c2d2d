//! `netsim bench fairness`: the tunnel as a neighbour on a line that is full.
//!
//! A line of 50 Mbit/s, 40 ms, with a queue of one bandwidth-delay product (250 kB, drop-tail), on the
//! namespaces floor: real daemons, real TCP (cubic on every socket). Each case has a line, namespaces
//! and daemons of its own. Beside the tunnel's cases stand two without one, which say how fair TCP is
//! to itself here. The queue's delay is read where the queue is, in the emulator.

use std::time::Duration;

use thalweg::unit::Ratio;

use super::pair::{LineSpec, Pair, Reading, stream, total};
use super::{BenchReport, Sheet};
use crate::netns::stop::Stop;
use crate::netns::sys;
use crate::netns::tcp::Stream;

const RATE_BPS: u64 = 50_000_000;
const RTT: Duration = Duration::from_millis(40);
const CONGESTION: &str = "cubic";
/// A stream beside which nothing is measured ends by itself after this.
const MOST: Duration = Duration::from_secs(600);

/// One case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Case {
    name: &'static str,
    /// The stream that is looked at goes through the tunnel; without one it is a plain stream too.
    tunnel: bool,
    plain: Plain,
    loss_ppm: u32,
}

/// Plain streams beside the one that is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Plain {
    None,
    /// One, started with it.
    Beside,
    /// One that comes and goes.
    ComesAndGoes,
}

const CASES: [Case; 6] = [
    Case { name: "plain_alone", tunnel: false, plain: Plain::None, loss_ppm: 0 },
    Case { name: "plain_vs_plain", tunnel: false, plain: Plain::Beside, loss_ppm: 0 },
    Case { name: "tunnel_alone", tunnel: true, plain: Plain::None, loss_ppm: 0 },
    Case { name: "tunnel_loss2", tunnel: true, plain: Plain::None, loss_ppm: 20_000 },
    Case { name: "tunnel_vs_tcp", tunnel: true, plain: Plain::Beside, loss_ppm: 0 },
    Case { name: "tunnel_cross", tunnel: true, plain: Plain::ComesAndGoes, loss_ppm: 0 },
];

/// How long things take.
#[derive(Clone, Copy, Debug)]
struct Lengths {
    /// Until a stream has settled.
    settle: Duration,
    /// Until two that started together have. Cubic's cycle is about 5 s here (RFC 9438, K for 170
    /// segments), and it takes several to undo whose first doubling ended first.
    settle_both: Duration,
    /// Of what is measured.
    measure: Duration,
    /// A spell of what comes and goes, and the pause after it.
    spell: Duration,
    pause: Duration,
    spells: u32,
}

const FULL: Lengths = Lengths {
    settle: Duration::from_secs(10),
    settle_both: Duration::from_secs(25),
    measure: Duration::from_secs(25),
    spell: Duration::from_secs(8),
    pause: Duration::from_secs(8),
    spells: 3,
};
const QUICK: Lengths = Lengths {
    settle: Duration::from_secs(4),
    settle_both: Duration::from_secs(4),
    measure: Duration::from_secs(8),
    spell: Duration::from_secs(4),
    pause: Duration::from_secs(2),
    spells: 2,
};

/// A stream that begins has found its place after this part of its first spell: connecting, and the
/// first doubling up to the queue's end.
const BEGINS: Duration = Duration::from_secs(1);

/// Runs the cases whose name contains one of `only` (none: all). None if told to stop. A case that
/// cannot be measured leaves its rows empty and says why.
///
/// # Errors
/// No case has such a name.
pub fn run(
    runs: usize,
    quick: bool,
    only: &[String],
    stop: &Stop,
) -> anyhow::Result<Option<BenchReport>> {
    let lengths = if quick { QUICK } else { FULL };
    let wanted = |case: &Case| only.is_empty() || only.iter().any(|part| case.name.contains(part));
    let cases: Vec<Case> = CASES.into_iter().filter(wanted).collect();
    anyhow::ensure!(!cases.is_empty(), "no case has such a name; try `tunnel_alone`");
    let mut sheet = Sheet::default();
    for run in 0..runs {
        for case in &cases {
            let found = case.measure(lengths, run as u64 + 1, stop);
            if stop.asked() {
                return Ok(None);
            }
            let found = found.unwrap_or_else(|error| {
                eprintln!("{}: {error:#}", case.name);
                None
            });
            case.note(found.unwrap_or_default(), &mut sheet);
        }
    }
    Ok(Some(sheet.report("fairness")))
}

/// What one case gave.
#[derive(Clone, Copy, Debug, Default)]
struct Found {
    share: Option<f64>,
    queue_p95_ms: Option<f64>,
    of_line: Option<f64>,
    plain_of_line: Option<f64>,
    repair: Option<f64>,
}

impl Case {
    fn note(&self, found: Found, sheet: &mut Sheet) {
        let mut note = |metric, unit, value| sheet.note(self.name, metric, unit, value);
        if self.plain != Plain::None {
            note("share", "ratio", found.share);
        }
        note("added_queue_p95_ms", "ms", found.queue_p95_ms);
        note("goodput_of_line", "ratio", found.of_line);
        if self.plain != Plain::None {
            note("plain_goodput_of_line", "ratio", found.plain_of_line);
        }
        if self.tunnel {
            note("repair_bytes", "ratio", found.repair);
        }
    }

    fn measure(&self, lengths: Lengths, seed: u64, stop: &Stop) -> anyhow::Result<Option<Found>> {
        let mut line = LineSpec::full_queue(RATE_BPS, RTT);
        line.params.loss = Ratio::from_ppm(self.loss_ppm);
        let pair = if self.tunnel {
            Pair::with_tunnel(&line, &toml::Table::new(), seed)?
        } else {
            Pair::without_tunnel(&line, seed)?
        };
        let way = if self.tunnel { pair.inside() } else { pair.bare() };
        let start_beside = || match self.plain {
            Plain::Beside => stream(pair.bare(), CONGESTION, MOST).map(Some),
            Plain::None | Plain::ComesAndGoes => Ok(None),
        };
        // Whoever begins a moment earlier keeps an advantage for a while: they take turns at it.
        let (looked_at, beside) = if seed % 2 == 1 {
            let beside = start_beside()?;
            (stream(way, CONGESTION, MOST)?, beside)
        } else {
            (stream(way, CONGESTION, MOST)?, start_beside()?)
        };
        let both = self.plain == Plain::Beside;
        if stop.wait(if both { lengths.settle_both } else { lengths.settle }) {
            return Ok(None);
        }
        pair.forget();
        let before = pair.read(self.name)?;
        let mut inside = Spell::default();
        let mut plain = Spell::default();
        match self.plain {
            Plain::None | Plain::Beside => {
                let began = (Mark::of(&looked_at), beside.as_ref().map(Mark::of));
                if stop.wait(lengths.measure) {
                    return Ok(None);
                }
                inside.add(began.0, &looked_at);
                if let (Some(mark), Some(beside)) = (began.1, &beside) {
                    plain.add(mark, beside);
                }
            }
            Plain::ComesAndGoes => {
                for spell in 1..=lengths.spells {
                    let comes = stream(pair.bare(), CONGESTION, MOST)?;
                    if stop.wait(BEGINS) {
                        return Ok(None);
                    }
                    let began = (Mark::of(&looked_at), Mark::of(&comes));
                    if stop.wait(lengths.spell.saturating_sub(BEGINS)) {
                        return Ok(None);
                    }
                    inside.add(began.0, &looked_at);
                    plain.add(began.1, &comes);
                    drop(comes);
                    if spell < lengths.spells && stop.wait(lengths.pause) {
                        return Ok(None);
                    }
                }
            }
        }
        let after = pair.read(self.name)?;
        Ok(Some(Found {
            share: (plain.bytes > 0).then(|| inside.bytes as f64 / plain.bytes as f64),
            queue_p95_ms: after.queueing.quantile_ms(0.95),
            of_line: inside.of_line(),
            plain_of_line: plain.of_line(),
            repair: repair_share(&before, &after),
        }))
    }
}

/// Of all bytes that A's daemon sent: those of repair.
fn repair_share(before: &Reading, after: &Reading) -> Option<f64> {
    let sent = after.sent_since(before)?;
    let all = total(&sent);
    (all > 0).then(|| sent.repair as f64 / all as f64)
}

/// How far a stream was, and when.
#[derive(Clone, Copy, Debug)]
struct Mark {
    bytes: u64,
    at_ns: u64,
}

impl Mark {
    fn of(stream: &Stream) -> Self {
        Self { bytes: stream.bytes(), at_ns: sys::monotonic_ns() }
    }
}

/// What a stream brought while it was looked at.
#[derive(Clone, Copy, Debug, Default)]
struct Spell {
    bytes: u64,
    ns: u64,
}

impl Spell {
    fn add(&mut self, since: Mark, stream: &Stream) {
        let now = Mark::of(stream);
        self.bytes += now.bytes - since.bytes;
        self.ns += now.at_ns - since.at_ns;
    }

    /// Payload bits as a share of what the line carries.
    fn of_line(&self) -> Option<f64> {
        let bits_s = self.bytes as f64 * 8e9 / self.ns as f64;
        (self.ns > 0).then_some(bits_s / RATE_BPS as f64)
    }
}
