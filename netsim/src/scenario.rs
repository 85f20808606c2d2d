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
//! burst = { good = "152ms", bad = "8ms" }
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
use crate::link::{Burst, LinkParams, Reorder};
use crate::units::{Bytes, Rate, Share, Span};

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
        change: LinkChange,
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
    /// Reordering.
    pub reorder: Option<ReorderSpec>,
    /// Duplication.
    pub duplicate: Option<Share>,
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
        put(self.reorder, &mut params.reorder, |r| {
            (r.share.0 > Ratio::ZERO).then_some(Reorder { share: r.share.0, by: r.by.0 })
        });
        put(self.duplicate, &mut params.duplicate, |s| s.0);
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

/// The file as written, before names become indices.
mod raw {
    use super::*;

    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    pub(super) struct Scenario {
        name: String,
        #[serde(default)]
        seed: u64,
        duration: Span,
        #[serde(default)]
        config: toml::Table,
        #[serde(default)]
        default: LinkChange,
        matrix: Option<Matrix>,
        #[serde(default)]
        site: Vec<Site>,
        #[serde(default)]
        link: Vec<Link>,
        #[serde(default)]
        flow: Vec<Flow>,
        #[serde(default)]
        event: Vec<Event>,
        #[serde(default)]
        check: Vec<Check>,
    }

    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Matrix {
        file: String,
        nodes: Vec<u32>,
    }

    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Site {
        name: String,
        #[serde(default = "yes")]
        starts: bool,
        seeds: Option<Vec<String>>,
        #[serde(default)]
        config: toml::Table,
    }

    fn yes() -> bool {
        true
    }

    // `flatten` and `deny_unknown_fields` do not go together, hence the fields once more.
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Link {
        between: Option<[String; 2]>,
        from: Option<String>,
        to: Option<String>,
        delay: Option<Span>,
        jitter: Option<Span>,
        loss: Option<Share>,
        burst: Option<BurstSpec>,
        rate: Option<Rate>,
        queue: Option<Bytes>,
        ecn: Option<Bytes>,
        reorder: Option<ReorderSpec>,
        duplicate: Option<Share>,
    }

    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Flow {
        name: Option<String>,
        from: String,
        to: String,
        pps: u32,
        size: usize,
        start: Option<Span>,
        stop: Option<Span>,
        #[serde(default)]
        dscp: u8,
    }

    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Event {
        at: Span,
        between: Option<[String; 2]>,
        from: Option<String>,
        to: Option<String>,
        set: Option<LinkChange>,
        cut: Option<[String; 2]>,
        cut_one_way: Option<[String; 2]>,
        heal: Option<[String; 2]>,
        isolate: Option<Vec<String>>,
        rejoin: Option<Vec<String>>,
        kill: Option<String>,
        restart: Option<String>,
    }

    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Check {
        flow: Option<String>,
        after: Option<Span>,
        before: Option<Span>,
        loss_below: Option<Share>,
        p99_below: Option<Span>,
        gap_below: Option<Span>,
        path: Option<[String; 2]>,
        at: Option<Span>,
        is: Option<Vec<String>>,
        relayed: Option<bool>,
        mesh_by: Option<Span>,
        gone: Option<String>,
        by: Option<Span>,
    }

    fn sense<T>(what: impl Into<String>) -> Result<T, ScenarioError> {
        Err(ScenarioError::Sense(what.into()))
    }

    struct Names<'a>(Vec<&'a str>);

    impl Names<'_> {
        fn index(&self, name: &str) -> Result<usize, ScenarioError> {
            match self.0.iter().position(|n| *n == name) {
                Some(index) => Ok(index),
                None => sense(format!("no site is called {name:?}")),
            }
        }

        fn both(&self, [a, b]: &[String; 2]) -> Result<Vec<(usize, usize)>, ScenarioError> {
            let (a, b) = (self.index(a)?, self.index(b)?);
            if a == b {
                return sense("a link needs two different sites");
            }
            Ok(vec![(a, b), (b, a)])
        }

        fn one(&self, pair: &[String; 2]) -> Result<Vec<(usize, usize)>, ScenarioError> {
            Ok(vec![self.both(pair)?[0]])
        }

        fn directions(
            &self,
            between: &Option<[String; 2]>,
            from: &Option<String>,
            to: &Option<String>,
        ) -> Result<Vec<(usize, usize)>, ScenarioError> {
            match (between, from, to) {
                (Some(pair), None, None) => self.both(pair),
                (None, Some(from), Some(to)) => self.one(&[from.clone(), to.clone()]),
                _ => sense("a link is named by `between = [a, b]` or by `from` and `to`"),
            }
        }

        /// All directions between the group and the rest.
        fn border(&self, group: &[String]) -> Result<Vec<(usize, usize)>, ScenarioError> {
            let group = group.iter().map(|n| self.index(n)).collect::<Result<Vec<_>, _>>()?;
            let mut links = Vec::new();
            for &inside in &group {
                for outside in (0..self.0.len()).filter(|o| !group.contains(o)) {
                    links.extend([(inside, outside), (outside, inside)]);
                }
            }
            Ok(links)
        }
    }

    impl Scenario {
        pub(super) fn check(self, beside: &Path) -> Result<super::Scenario, ScenarioError> {
            let names = Names(self.site.iter().map(|s| s.name.as_str()).collect());
            let n = names.0.len();
            if n < 2 {
                return sense("a scenario needs at least two sites");
            }
            for (i, name) in names.0.iter().enumerate() {
                if name.is_empty() || names.0[..i].contains(name) {
                    return sense(format!("two sites are called {name:?}, or one has no name"));
                }
            }
            let duration = self.duration.0;
            let links = self.links(&names, beside)?;
            let flows = self.flows(&names)?;
            let mut events =
                self.event.iter().map(|e| e.check(&names)).collect::<Result<Vec<_>, _>>()?;
            events.sort_by_key(|e| e.at);
            if events.last().is_some_and(|e| e.at > duration) {
                return sense("an event lies after the scenario's end");
            }
            let checks = self
                .check
                .iter()
                .map(|c| c.check(&names, &flows, duration))
                .collect::<Result<Vec<_>, _>>()?;
            let mut sites = Vec::new();
            for (i, site) in self.site.iter().enumerate() {
                let seeds = match &site.seeds {
                    None => (0..i).collect(),
                    Some(seeds) => {
                        seeds.iter().map(|s| names.index(s)).collect::<Result<Vec<_>, _>>()?
                    }
                };
                let mut config = self.config.clone();
                lay_over(&mut config, &site.config);
                let (name, starts) = (site.name.clone(), site.starts);
                sites.push(super::Site { name, starts, seeds, config });
            }
            Ok(super::Scenario {
                name: self.name.clone(),
                seed: self.seed,
                duration,
                sites,
                links,
                flows,
                events,
                checks,
            })
        }

        fn links(
            &self,
            names: &Names<'_>,
            beside: &Path,
        ) -> Result<BTreeMap<(usize, usize), LinkParams>, ScenarioError> {
            let n = names.0.len();
            let mut base = LinkParams::default();
            self.default.lay_over(&mut base);
            let mut links: BTreeMap<_, _> = (0..n)
                .flat_map(|a| (0..n).filter(move |b| *b != a).map(move |b| (a, b)))
                .map(|pair| (pair, base.clone()))
                .collect();
            if let Some(matrix) = &self.matrix {
                if matrix.nodes.len() != n {
                    return sense(format!(
                        "matrix.nodes names {} of {n} sites",
                        matrix.nodes.len()
                    ));
                }
                let data = RttMatrix::named(&matrix.file, beside)?;
                for (&(a, b), link) in &mut links {
                    let rtt_ms = data.rtt_ms(matrix.nodes[a], matrix.nodes[b])?;
                    link.delay = Duration::from_secs_f64(rtt_ms / 2000.0);
                }
            }
            for link in &self.link {
                for pair in names.directions(&link.between, &link.from, &link.to)? {
                    if let Some(params) = links.get_mut(&pair) {
                        link.change().lay_over(params);
                    }
                }
            }
            Ok(links)
        }

        fn flows(&self, names: &Names<'_>) -> Result<Vec<super::Flow>, ScenarioError> {
            let mut flows: Vec<super::Flow> = Vec::new();
            for flow in &self.flow {
                let (from, to) = (names.index(&flow.from)?, names.index(&flow.to)?);
                let name =
                    flow.name.clone().unwrap_or_else(|| format!("{}>{}", flow.from, flow.to));
                if from == to {
                    return sense(format!("flow {name:?} needs two different sites"));
                }
                if flows.iter().any(|f| f.name == name) {
                    return sense(format!("two flows are called {name:?}"));
                }
                if !(1..=100_000).contains(&flow.pps)
                    || !(super::Flow::LEAST_SIZE..=1400).contains(&flow.size)
                    || flow.dscp > 63
                {
                    return sense(format!(
                        "flow {name:?}: pps is 1 to 100000, size {} to 1400, dscp 0 to 63",
                        super::Flow::LEAST_SIZE
                    ));
                }
                let start = flow.start.map_or(Duration::ZERO, |s| s.0);
                let stop = flow.stop.map_or(self.duration.0, |s| s.0);
                if start >= stop || stop > self.duration.0 {
                    return sense(format!("flow {name:?} does not start before it stops, in time"));
                }
                flows.push(super::Flow {
                    name,
                    from,
                    to,
                    pps: flow.pps,
                    size: flow.size,
                    start,
                    stop,
                    dscp: flow.dscp,
                });
            }
            Ok(flows)
        }
    }

    impl Link {
        fn change(&self) -> LinkChange {
            LinkChange {
                delay: self.delay,
                jitter: self.jitter,
                loss: self.loss,
                burst: self.burst,
                rate: self.rate,
                queue: self.queue,
                ecn: self.ecn,
                reorder: self.reorder,
                duplicate: self.duplicate,
            }
        }
    }

    impl Event {
        fn check(&self, names: &Names<'_>) -> Result<super::Event, ScenarioError> {
            let mut found = Vec::new();
            if let Some(change) = &self.set {
                let links = names.directions(&self.between, &self.from, &self.to)?;
                found.push(Happening::Set { links, change: change.clone() });
            } else if self.between.is_some() || self.from.is_some() || self.to.is_some() {
                return sense("`between`, `from`, `to` belong to an event with `set`");
            }
            if let Some(pair) = &self.cut {
                found.push(Happening::Cut(names.both(pair)?));
            }
            if let Some(pair) = &self.cut_one_way {
                found.push(Happening::Cut(names.one(pair)?));
            }
            if let Some(pair) = &self.heal {
                found.push(Happening::Heal(names.both(pair)?));
            }
            if let Some(group) = &self.isolate {
                found.push(Happening::Cut(names.border(group)?));
            }
            if let Some(group) = &self.rejoin {
                found.push(Happening::Heal(names.border(group)?));
            }
            if let Some(site) = &self.kill {
                found.push(Happening::Kill(names.index(site)?));
            }
            if let Some(site) = &self.restart {
                found.push(Happening::Restart(names.index(site)?));
            }
            match (found.pop(), found.is_empty()) {
                (Some(what), true) => Ok(super::Event { at: self.at.0, what }),
                _ => sense(
                    "an event does exactly one of set, cut, cut_one_way, heal, isolate, rejoin, \
                     kill, restart",
                ),
            }
        }
    }

    impl Check {
        fn check(
            &self,
            names: &Names<'_>,
            flows: &[super::Flow],
            duration: Duration,
        ) -> Result<super::Check, ScenarioError> {
            let limits =
                [self.loss_below.is_some(), self.p99_below.is_some(), self.gap_below.is_some()];
            match (&self.flow, &self.path, self.mesh_by, &self.gone) {
                (Some(flow), None, None, None) if limits.contains(&true) => {
                    let Some(index) = flows.iter().position(|f| f.name == *flow) else {
                        return sense(format!("no flow is called {flow:?}"));
                    };
                    Ok(super::Check::Flow {
                        flow: index,
                        after: self.after.map_or(Duration::ZERO, |s| s.0),
                        before: self.before.map_or(duration, |s| s.0),
                        loss_below: self.loss_below.map(|s| s.0),
                        p99_below: self.p99_below.map(|s| s.0),
                        gap_below: self.gap_below.map(|s| s.0),
                    })
                }
                (None, Some(pair), None, None)
                    if (self.is.is_some() || self.relayed.is_some()) && self.at.is_some() =>
                {
                    let (from, to) = names.one(pair)?[0];
                    let is = match &self.is {
                        None => None,
                        Some(path) => {
                            Some(path.iter().map(|n| names.index(n)).collect::<Result<_, _>>()?)
                        }
                    };
                    let at = self.at.map_or(duration, |s| s.0);
                    Ok(super::Check::Path { from, to, at, is, relayed: self.relayed })
                }
                (None, None, Some(by), None) => Ok(super::Check::Mesh { by: by.0 }),
                (None, None, None, Some(site)) => match self.by {
                    Some(by) => Ok(super::Check::Gone { site: names.index(site)?, by: by.0 }),
                    None => sense("a check of `gone` needs `by`"),
                },
                _ => sense(
                    "a check is about one thing: `flow` with loss_below, p99_below or gap_below; \
                     `path` with `at` and `is` or `relayed`; `mesh_by`; or `gone` with `by`",
                ),
            }
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
set = { burst = { good = "1s", bad = "0ms" }, rate = "0bit" }
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
        assert_eq!(s.checks.len(), 3);
        let Happening::Set { links, change } = &s.events[2].what else { panic!("not a set") };
        assert_eq!(links[..], [(2, 0)]);
        let mut params = ab;
        change.lay_over(&mut params);
        assert_eq!((params.burst, params.rate_bps), (None, None), "zero takes away");
        assert_eq!(params.delay, Duration::from_micros(1500), "what is absent stays");
    }

    #[test]
    fn each_mistake_is_refused_in_words() {
        for (from, to, says) in [
            ("seed = 7", "sead = 7", "unknown field `sead`"),
            ("loss = 0.01", "los = 0.01", "unknown field `los`"),
            ("loss = 0.01", "loss = 1.5", "between 0 and 1"),
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
        ] {
            let text = TRIANGLE.replacen(from, to, 1);
            assert_ne!(text, TRIANGLE, "{from}");
            let error = parse(&text).unwrap_err().to_string();
            assert!(error.contains(says), "{to}: {error}");
        }
    }
}
