//! The scenario file as written, before names become indices; every mistake refused in words.

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
    tcp: Vec<Tcp>,
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
    cross: Option<CrossSpec>,
    reorder: Option<ReorderSpec>,
    duplicate: Option<Share>,
    local_loss: Option<Share>,
    mtu: Option<Bytes>,
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
    #[serde(default)]
    payload: String,
    #[serde(default)]
    may_be_cut: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Tcp {
    from: String,
    to: String,
    start: Span,
    length: Span,
    #[serde(default = "cubic")]
    congestion: String,
}

/// What Linux uses unless told otherwise, and what most of the Internet's senders do. Stated, since
/// the machine the laboratory runs on may have been told otherwise.
fn cubic() -> String {
    "cubic".to_owned()
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
    tcp: Option<String>,
    times_direct: Option<f64>,
    payload_unseen: Option<bool>,
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
        let tcp = self.streams(&names)?;
        let mut events =
            self.event.iter().map(|e| e.check(&names)).collect::<Result<Vec<_>, _>>()?;
        events.sort_by_key(|e| e.at);
        if events.last().is_some_and(|e| e.at > duration) {
            return sense("an event lies after the scenario's end");
        }
        let checks = self
            .check
            .iter()
            .map(|c| c.check(&names, &flows, &tcp, duration))
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
            tcp,
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
                return sense(format!("matrix.nodes names {} of {n} sites", matrix.nodes.len()));
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
        if links.values().any(|l| l.cross.is_some() && l.rate_bps.is_none()) {
            return sense("`cross` needs a `rate`: without a line others are in nobody's way");
        }
        Ok(links)
    }

    fn flows(&self, names: &Names<'_>) -> Result<Vec<super::Flow>, ScenarioError> {
        let mut flows: Vec<super::Flow> = Vec::new();
        for flow in &self.flow {
            let (from, to) = (names.index(&flow.from)?, names.index(&flow.to)?);
            let name = flow.name.clone().unwrap_or_else(|| format!("{}>{}", flow.from, flow.to));
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
                payload: flow.payload.clone(),
                may_be_cut: flow.may_be_cut,
            });
        }
        Ok(flows)
    }

    fn streams(&self, names: &Names<'_>) -> Result<Vec<super::Tcp>, ScenarioError> {
        let mut streams: Vec<super::Tcp> = Vec::new();
        for tcp in &self.tcp {
            let (from, to) = names.one(&[tcp.from.clone(), tcp.to.clone()])?[0];
            let name = format!("{}>{}", tcp.from, tcp.to);
            let (start, length) = (tcp.start.0, tcp.length.0);
            if length.is_zero() || start + length > self.duration.0 {
                return sense(format!("tcp {name} does not lie within the scenario"));
            }
            let congestion = tcp.congestion.clone();
            streams.push(super::Tcp { name, from, to, start, length, congestion });
        }
        Ok(streams)
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
            cross: self.cross,
            reorder: self.reorder,
            duplicate: self.duplicate,
            local_loss: self.local_loss,
            mtu: self.mtu,
        }
    }
}

impl Event {
    fn check(&self, names: &Names<'_>) -> Result<super::Event, ScenarioError> {
        let mut found = Vec::new();
        if let Some(change) = &self.set {
            let links = names.directions(&self.between, &self.from, &self.to)?;
            found.push(Happening::Set { links, change: Box::new(change.clone()) });
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
        tcp: &[super::Tcp],
        duration: Duration,
    ) -> Result<super::Check, ScenarioError> {
        let limits =
            [self.loss_below.is_some(), self.p99_below.is_some(), self.gap_below.is_some()];
        let subjects = [
            self.flow.is_some(),
            self.path.is_some(),
            self.mesh_by.is_some(),
            self.gone.is_some(),
            self.tcp.is_some(),
            self.payload_unseen.is_some(),
        ];
        if subjects.iter().filter(|s| **s).count() == 1 {
            if let (Some(name), Some(times)) = (&self.tcp, self.times_direct) {
                return match tcp.iter().position(|t| t.name == *name) {
                    Some(tcp) => Ok(super::Check::Tcp { tcp, times }),
                    None => sense(format!("no tcp is called {name:?}")),
                };
            }
            if self.payload_unseen == Some(true) {
                return Ok(super::Check::Unseen);
            }
        }
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
                 `path` with `at` and `is` or `relayed`; `tcp` with `times_direct`; \
                 `payload_unseen`; `mesh_by`; or `gone` with `by`",
            ),
        }
    }
}
