//! One scenario format for both floors: sites, links, flows, events at times, checks, seed, length.
//!
//! TOML; unknown keys are refused. Times are written with a unit (`"20ms"`, `"1.5s"`), rates in bits
//! per second (`"20Mbit"`), sizes in bytes (`"64kB"`), shares as fractions (`0.05`). Links are
//! described from the general to the particular: `[default]` for every pair, `[matrix]` for delays
//! out of a data file, then `[[link]]` entries in their order; each states only what it changes.
//!
//! ```toml
//! name = "triangle"
//! seed = 7
//! duration = "30s"
//! [default]
//! delay = "20ms"
//! [[site]]
//! name = "a"
//! [[site]]
//! name = "b"
//! [[link]]
//! between = ["a", "b"]                      # both ways; `from`, `to` for one
//! burst = { good = "152ms", bad = "8ms" }   # holes in time, mean lengths
//! rate = "20Mbit"                           # a line, and the queue in front of it
//! queue = "64kB"
//! cross = { rate = "15Mbit", on = "2s", off = "3s" }   # others on that line; off = "0s": always
//! local_loss = 0.001                        # dropped by the receiver's own machine
//! [[flow]]
//! from = "a"
//! to = "b"
//! pps = 100
//! size = 160
//! [[event]]
//! at = "10s"
//! cut = ["a", "b"]
//! [[check]]
//! flow = "a>b"
//! gap_below = "1s"
//! ```

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use serde::Deserialize;
use thalweg::unit::Ratio;

use crate::data::{DataError, RttMatrix};
use crate::link::cross::Cross;
use crate::link::{Burst, LinkParams, Reorder};
use crate::units::{Bytes, Rate, Share, Span};

mod raw;

/// A checked scenario. Sites are named by their index from here on.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// What it is called.
    pub name: String,
    /// Seed of everything that rolls dice.
    pub seed: u64,
    /// How long it runs.
    pub duration: Duration,
    /// The sites; a site's place is its index everywhere else.
    pub sites: Vec<Site>,
    /// Each ordered pair of sites and what lies between them.
    pub links: BTreeMap<(usize, usize), LinkParams>,
    /// Constant-rate flows.
    pub flows: Vec<Flow>,
    /// TCP streams; only real daemons can carry them.
    pub tcp: Vec<Tcp>,
    /// What happens, in the order of time.
    pub events: Vec<Event>,
    /// What must have been true.
    pub checks: Vec<Check>,
}

/// One site: one node.
#[derive(Clone, Debug, PartialEq)]
pub struct Site {
    /// Its name.
    pub name: String,
    /// Whether it starts with the scenario; others wait for a `restart` event.
    pub starts: bool,
    /// The sites it knows at the start. None stated: all earlier sites.
    pub seeds: Vec<usize>,
    /// Laid over the node's configuration as it stands, in the daemon's own format.
    pub config: toml::Table,
}

/// A constant-rate flow of UDP packets inside the overlay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flow {
    /// `from>to` unless named otherwise.
    pub name: String,
    /// Source site.
    pub from: usize,
    /// Destination site.
    pub to: usize,
    /// Packets per second.
    pub pps: u32,
    /// Bytes of UDP payload in each.
    pub size: usize,
    /// When it starts, from the scenario's beginning.
    pub start: Duration,
    /// When it stops.
    pub stop: Duration,
    /// DSCP, 0 to 63.
    pub dscp: u8,
    /// Fills each packet, repeated; empty: zeros. What it holds is searched for on every link.
    pub payload: String,
    /// Whether its packets may be cut on the way (without *don't fragment*), on the virtual floor.
    pub may_be_cut: bool,
}

/// A TCP stream between two sites, over the Internet as it is and over the overlay at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tcp {
    /// `from>to`.
    pub name: String,
    /// Source site.
    pub from: usize,
    /// Destination site.
    pub to: usize,
    /// When it starts.
    pub start: Duration,
    /// For how long it sends.
    pub length: Duration,
    /// Congestion control by the kernel's name; `cubic` where nothing is said.
    pub congestion: String,
}

/// Something that happens at a time.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// When, from the scenario's beginning.
    pub at: Duration,
    /// What.
    pub what: Happening,
}

/// What an event does.
#[derive(Clone, Debug, PartialEq)]
pub enum Happening {
    /// Changes parameters of these directions of links.
    Set {
        /// The directions.
        links: Vec<(usize, usize)>,
        /// What changes on each; the rest stays.
        change: Box<LinkChange>,
    },
    /// Cuts these directions.
    Cut(Vec<(usize, usize)>),
    /// Heals these directions.
    Heal(Vec<(usize, usize)>),
    /// The node stops at once, without a word.
    Kill(usize),
    /// The node starts again from what it kept on disk.
    Restart(usize),
}

/// One statement that must hold at the end.
#[derive(Clone, Debug, PartialEq)]
pub enum Check {
    /// About one flow's packets sent within a window.
    Flow {
        /// Index of the flow.
        flow: usize,
        /// Packets sent before this do not count.
        after: Duration,
        /// Nor do those sent later than this.
        before: Duration,
        /// Share of packets that never arrived is below.
        loss_below: Option<Ratio>,
        /// 99th percentile of the one-way delay is below.
        p99_below: Option<Duration>,
        /// Longest time without an arrival is below.
        gap_below: Option<Duration>,
    },
    /// About the path from one site to another at a time.
    Path {
        /// Source.
        from: usize,
        /// Destination.
        to: usize,
        /// When it is looked at.
        at: Duration,
        /// It crosses exactly these sites in this order, ends included.
        is: Option<Vec<usize>>,
        /// It uses a relay, or not.
        relayed: Option<bool>,
    },
    /// A TCP stream's goodput over the overlay is at least so many times that over the Internet.
    Tcp {
        /// Index of the stream.
        tcp: usize,
        /// How many times.
        times: f64,
    },
    /// No flow's payload was readable on any link.
    Unseen,
    /// By this time every living node knows every living node.
    Mesh {
        /// When.
        by: Duration,
    },
    /// By this time no living node's graph holds the site.
    Gone {
        /// The dead site.
        site: usize,
        /// When.
        by: Duration,
    },
}

/// Parameters of a link to be changed; what is absent stays. Keys as in a scenario file.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LinkChange {
    /// One-way delay.
    pub delay: Option<Span>,
    /// Mean jitter.
    pub jitter: Option<Span>,
    /// Independent loss.
    pub loss: Option<Share>,
    /// Holes in time; `bad = "0ms"` takes them away.
    pub burst: Option<BurstSpec>,
    /// Line rate; zero takes the line away.
    pub rate: Option<Rate>,
    /// Queue before the line.
    pub queue: Option<Bytes>,
    /// ECN marking threshold; zero takes it away.
    pub ecn: Option<Bytes>,
    /// Others' packets of 1,500 bytes on the same line, through the same queue; `rate = "0bit"` takes
    /// them away.
    pub cross: Option<CrossSpec>,
    /// Reordering.
    pub reorder: Option<ReorderSpec>,
    /// Duplication.
    pub duplicate: Option<Share>,
    /// Share of arriving packets that the receiver's own machine drops, and counts.
    pub local_loss: Option<Share>,
    /// Longest IP packet that arrives; `"0B"` takes the limit away.
    pub mtu: Option<Bytes>,
}

/// Cross traffic as written.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CrossSpec {
    /// Rate while a spell lasts.
    pub rate: Rate,
    /// Mean length of a spell.
    pub on: Span,
    /// Mean pause; zero: it never pauses.
    pub off: Span,
}

/// Holes in time as written: mean good and bad spells.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BurstSpec {
    /// Mean good spell.
    pub good: Span,
    /// Mean hole.
    pub bad: Span,
}

/// Reordering as written.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReorderSpec {
    /// Share held back.
    pub share: Share,
    /// For how long.
    pub by: Span,
}

impl LinkChange {
    /// Lays the change over `params`.
    pub fn lay_over(&self, params: &mut LinkParams) {
        fn put<T: Copy, U>(from: Option<T>, to: &mut U, as_: impl Fn(T) -> U) {
            if let Some(value) = from {
                *to = as_(value);
            }
        }
        put(self.delay, &mut params.delay, |s| s.0);
        put(self.jitter, &mut params.jitter, |s| s.0);
        put(self.loss, &mut params.loss, |s| s.0);
        put(self.burst, &mut params.burst, |b| {
            (!b.bad.0.is_zero()).then_some(Burst { good: b.good.0, bad: b.bad.0 })
        });
        put(self.rate, &mut params.rate_bps, |r| (r.0 > 0).then_some(r.0));
        put(self.queue, &mut params.queue_bytes, |b| b.0);
        put(self.ecn, &mut params.ecn_bytes, |b| (b.0 > 0).then_some(b.0));
        put(self.cross, &mut params.cross, |c| {
            let (rate_bps, on, off) = (c.rate.0, c.on.0, c.off.0);
            (rate_bps > 0).then_some(Cross { rate_bps, on, off })
        });
        put(self.reorder, &mut params.reorder, |r| {
            (r.share.0 > Ratio::ZERO).then_some(Reorder { share: r.share.0, by: r.by.0 })
        });
        put(self.duplicate, &mut params.duplicate, |s| s.0);
        put(self.local_loss, &mut params.local_loss, |s| s.0);
        put(self.mtu, &mut params.mtu, |b| (b.0 > 0).then_some(b.0));
    }
}

/// Why a scenario was refused.
#[derive(Debug, thiserror::Error)]
pub enum ScenarioError {
    /// Not readable.
    #[error("cannot read {path}: {source}")]
    Read {
        /// The file.
        path: String,
        /// The system's reason.
        source: std::io::Error,
    },
    /// Not TOML, an unknown key, or a value of the wrong kind.
    #[error("{0}")]
    Syntax(#[from] toml::de::Error),
    /// Well formed but senseless.
    #[error("{0}")]
    Sense(String),
    /// The delay matrix could not be had.
    #[error(transparent)]
    Data(#[from] DataError),
}

impl Scenario {
    /// Reads a scenario file; data files are looked for beside it.
    pub fn read(path: &Path) -> Result<Self, ScenarioError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| ScenarioError::Read { path: path.display().to_string(), source })?;
        Self::parse(&text, path.parent().unwrap_or(Path::new(".")))
    }

    /// Checks the text of a scenario; data files are looked for in `beside`.
    pub fn parse(text: &str, beside: &Path) -> Result<Self, ScenarioError> {
        raw::Scenario::check(toml::from_str(text)?, beside)
    }

    /// The index of the site with this name.
    pub fn site(&self, name: &str) -> Option<usize> {
        self.sites.iter().position(|s| s.name == name)
    }

    /// What lies between two sites, one way; between unknown sites nothing is defined.
    pub fn link(&self, from: usize, to: usize) -> LinkParams {
        self.links.get(&(from, to)).cloned().unwrap_or_default()
    }
}

/// Lays one table over another: tables merge, everything else is replaced.
pub fn lay_over(base: &mut toml::Table, over: &toml::Table) {
    for (key, value) in over {
        match (base.get_mut(key), value) {
            (Some(toml::Value::Table(below)), toml::Value::Table(above)) => lay_over(below, above),
            _ => _ = base.insert(key.clone(), value.clone()),
        }
    }
}

impl Flow {
    /// The traffic tool writes a header of this many bytes into each packet.
    pub const LEAST_SIZE: usize = 32;
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRIANGLE: &str = r#"
name = "triangle"
seed = 7
duration = "30s"
config = { probe = { hz = 1 }, mtu = 1340 }
[default]
delay = "20ms"
loss = 0.01
[[site]]
name = "a"
[[site]]
name = "r"
config = { probe = { fast = true } }
[[site]]
name = "b"
starts = false
seeds = ["a"]
[[link]]
between = ["a", "b"]
delay = "1.5ms"
burst = { good = "152ms", bad = "8ms" }
rate = "20Mbit"
queue = "64kB"
cross = { rate = "15Mbit", on = "2s", off = "3s" }
[[link]]
from = "a"
to = "r"
loss = 0
[[flow]]
from = "a"
to = "b"
pps = 100
size = 160
stop = "20s"
dscp = 46
payload = "known"
[[tcp]]
from = "a"
to = "b"
start = "20s"
length = "5s"
[[event]]
at = "12s"
restart = "r"
[[event]]
at = "10s"
cut = ["a", "b"]
[[event]]
at = "11s"
isolate = ["r"]
[[event]]
at = "11.5s"
from = "b"
to = "a"
set = { burst = { good = "1s", bad = "0ms" }, rate = "0bit", cross = { rate = "0bit", on = "1s", off = "1s" }, local_loss = 0.01 }
[[check]]
flow = "a>b"
after = "5s"
gap_below = "1s"
[[check]]
path = ["a", "b"]
at = "15s"
is = ["a", "r", "b"]
[[check]]
gone = "r"
by = "14s"
[[check]]
tcp = "a>b"
times_direct = 1.3
[[check]]
payload_unseen = true
"#;

    fn parse(text: &str) -> Result<Scenario, ScenarioError> {
        Scenario::parse(text, Path::new("."))
    }

    #[test]
    fn a_whole_scenario_is_read_from_the_general_to_the_particular() {
        let s = parse(TRIANGLE).unwrap();
        assert_eq!((s.seed, s.sites.len(), s.links.len()), (7, 3, 6));
        let ab = s.link(0, 2);
        assert_eq!(ab, s.link(2, 0));
        assert_eq!(ab.delay, Duration::from_micros(1500));
        assert_eq!((ab.rate_bps, ab.queue_bytes), (Some(20_000_000), 64_000));
        let (on, off) = (Duration::from_secs(2), Duration::from_secs(3));
        assert_eq!(ab.cross, Some(Cross { rate_bps: 15_000_000, on, off }));
        assert_eq!(ab.burst.map(|b| b.share().as_ppm()), Some(50_000));
        assert_eq!((s.link(0, 1).loss.as_ppm(), s.link(1, 0).loss.as_ppm()), (0, 10_000));
        assert_eq!(s.sites[1].seeds, [0]);
        assert_eq!((s.sites[2].starts, &s.sites[2].seeds[..]), (false, &[0][..]));
        assert_eq!(s.sites[1].config["probe"]["hz"].as_integer(), Some(1), "tables merge");
        assert_eq!(s.sites[1].config["probe"]["fast"].as_bool(), Some(true));
        assert_eq!(s.flows[0].stop, Duration::from_secs(20));
        let order: Vec<_> = s.events.iter().map(|e| e.at.as_millis()).collect();
        assert_eq!(order, [10_000, 11_000, 11_500, 12_000], "events come in the order of time");
        assert_eq!(s.events[0].what, Happening::Cut(vec![(0, 2), (2, 0)]));
        assert_eq!(s.events[1].what, Happening::Cut(vec![(1, 0), (0, 1), (1, 2), (2, 1)]));
        assert_eq!(s.checks.len(), 5);
        assert_eq!(s.checks[3..], [Check::Tcp { tcp: 0, times: 1.3 }, Check::Unseen]);
        let Happening::Set { links, change } = &s.events[2].what else { panic!("not a set") };
        assert_eq!(links[..], [(2, 0)]);
        let mut params = ab;
        change.lay_over(&mut params);
        assert_eq!((params.burst, params.rate_bps), (None, None), "zero takes away");
        assert_eq!((params.cross, params.local_loss.as_ppm()), (None, 10_000));
        assert_eq!(params.delay, Duration::from_micros(1500), "what is absent stays");
    }

    #[test]
    fn each_mistake_is_refused_in_words() {
        for (from, to, says) in [
            ("seed = 7", "sead = 7", "unknown field `sead`"),
            ("loss = 0.01", "los = 0.01", "unknown field `los`"),
            ("loss = 0.01", "loss = 1.5", "between 0 and 1"),
            ("off = \"3s\"", "of = \"3s\"", "unknown field `of`"),
            ("off = \"3s\" }", "off = \"3s\" }\nlocal_los = 0", "unknown field `local_los`"),
            ("rate = \"20Mbit\"", "", "`cross` needs a `rate`"),
            ("\"1.5ms\"", "\"1.5\"", "unit"),
            ("name = \"r\"", "name = \"a\"", "two sites"),
            ("between = [\"a\", \"b\"]", "between = [\"a\", \"x\"]", "no site is called \"x\""),
            ("between = [\"a\", \"b\"]", "between = [\"a\", \"a\"]", "two different sites"),
            ("pps = 100", "pps = 0", "pps is 1 to"),
            ("stop = \"20s\"", "stop = \"40s\"", "does not start before it stops"),
            ("at = \"12s\"", "at = \"31s\"", "after the scenario's end"),
            ("restart = \"r\"", "restart = \"r\"\nkill = \"r\"", "exactly one of"),
            ("isolate = [\"r\"]", "", "exactly one of"),
            ("flow = \"a>b\"", "flow = \"b>a\"", "no flow is called"),
            ("gap_below = \"1s\"", "", "a check is about one thing"),
            ("by = \"14s\"", "", "needs `by`"),
            ("length = \"5s\"", "length = \"50s\"", "does not lie within"),
            ("tcp = \"a>b\"", "tcp = \"b>a\"", "no tcp is called"),
            ("payload_unseen = true", "payload_unseen = false", "a check is about one thing"),
        ] {
            let text = TRIANGLE.replacen(from, to, 1);
            assert_ne!(text, TRIANGLE, "{from}");
            let error = parse(&text).unwrap_err().to_string();
            assert!(error.contains(says), "{to}: {error}");
        }
    }
}
