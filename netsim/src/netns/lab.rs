//! A scenario on the namespaces floor: real daemons, real time, the same file as on the virtual one.
//!
//! Time zero is the daemons' start. Flows run inside the overlay between the nodes' own addresses;
//! events and checks are taken at their times to within a tenth of a second.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use serde::Serialize;
use thalweg::report::LaneRow;

use crate::scenario::{Check, Flow, Happening, Scenario, Tcp};

use super::fleet::{Fleet, NodeSpec, overlay_address};
use super::stop::Stop;
use super::tcp::{Stream, StreamSpec};
use super::traffic::{FlowSpec, Quality, SharedLedger, Traffic};
use super::watch::{Path, Watch};
use super::{Floor, sys};

/// What was found.
#[derive(Clone, Debug, Serialize)]
pub struct Findings {
    /// The scenario's name.
    pub scenario: String,
    /// Each flow over its whole length.
    pub flows: Vec<FlowFinding>,
    /// Each TCP stream.
    pub tcp: Vec<TcpFinding>,
    /// Packets on all links that were searched for the flows' payload, and those that held it in
    /// clear; none where no flow has a payload.
    pub payload: Option<(u64, u64)>,
    /// Share of the flows' packets that crossed a relay, by the daemons' own count.
    pub relayed_share: Option<f64>,
    /// Each site whose daemon lives at the end; none on the virtual floor, where it has one lane.
    pub lanes: Vec<LanesFinding>,
    /// Each check.
    pub checks: Vec<CheckFinding>,
}

/// One TCP stream's goodput.
#[derive(Clone, Debug, Serialize)]
pub struct TcpFinding {
    /// Its name.
    pub tcp: String,
    /// Over the Internet as it is.
    pub direct_mbps: Option<f64>,
    /// Over the overlay.
    pub overlay_mbps: Option<f64>,
}

/// One flow.
#[derive(Clone, Debug, Serialize)]
pub struct FlowFinding {
    /// Its name.
    pub flow: String,
    /// Packets sent.
    pub sent: u64,
    /// Share lost.
    pub loss: Option<f64>,
    /// Median one-way delay.
    pub p50_ms: Option<f64>,
    /// 99th percentile.
    pub p99_ms: Option<f64>,
    /// Longest silence.
    pub longest_gap_ms: Option<f64>,
    /// Packets that a later one overtook.
    pub reordered: u64,
    /// Copies beyond the first.
    pub duplicates: u64,
}

/// What a site's daemon says of its lanes at the end.
#[derive(Clone, Debug, Serialize)]
pub struct LanesFinding {
    /// The site.
    pub site: String,
    /// Each lane.
    pub lanes: Vec<LaneRow>,
    /// Lanes that it shares with each peer.
    pub shared: BTreeMap<String, u8>,
    /// Packets that came to nothing, by reason.
    pub dropped: BTreeMap<String, u64>,
}

/// One check.
#[derive(Clone, Debug, Serialize)]
pub struct CheckFinding {
    /// What was to hold, and what was found.
    pub what: String,
    /// Whether it held.
    pub held: bool,
}

/// What is noted while time passes, for the checks.
#[derive(Debug, Default)]
pub(crate) struct Notes {
    /// When every living node first had a path to every other, seconds.
    pub(crate) mesh_s: Option<f64>,
    /// For each check about a moment: what was found then.
    pub(crate) moments: Vec<Option<(String, bool)>>,
}

/// The class whose paths are looked at.
pub(crate) const CLASS: &str = "default";
const FLOW_PORT: u16 = 9000;
const ASK_EVERY_NS: u64 = 100_000_000;

/// Runs a scenario to its end. None if told to stop.
///
/// # Errors
/// Namespaces that cannot be made, daemons that do not start.
pub fn run(scenario: &Scenario, stop: &Stop) -> anyhow::Result<Option<Findings>> {
    let names: Vec<String> = scenario.sites.iter().map(|s| s.name.clone()).collect();
    let labels: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut links = scenario.links.clone();
    let floor = Floor::new(&labels, &links, scenario.seed)?;
    let specs: Vec<NodeSpec> = scenario
        .sites
        .iter()
        .map(|s| NodeSpec {
            name: s.name.clone(),
            seeds: s.seeds.clone(),
            config: s.config.clone(),
        })
        .collect();
    let mut fleet = Fleet::new(&floor.sites, &specs)?;
    let mut alive: Vec<bool> = scenario.sites.iter().map(|s| s.starts).collect();
    let start_ns = sys::monotonic_ns();
    for site in (0..alive.len()).filter(|site| scenario.sites[*site].starts) {
        fleet.start(&floor.sites, site)?;
    }
    let flows: Vec<_> = scenario.flows.iter().enumerate().map(|(i, f)| spec(i, f)).collect();
    let flows: Vec<_> = scenario
        .flows
        .iter()
        .zip(flows)
        .map(|(f, spec)| (&floor.sites[f.from].ns, &floor.sites[f.to].ns, spec))
        .collect();
    if let Some(flow) = scenario.flows.iter().find(|f| !f.payload.is_empty()) {
        floor.wan.watch(flow.payload.as_bytes());
    }
    let traffic = Traffic::start(&flows)?;
    let mut streams: Vec<Option<Pair>> = scenario.tcp.iter().map(|_| None).collect();
    let mut watch = Watch::new(names, CLASS);
    let mut notes = Notes { mesh_s: None, moments: scenario.checks.iter().map(|_| None).collect() };
    let mut events = scenario.events.iter().peekable();
    let mut next_ask = start_ns;
    loop {
        let now = sys::monotonic_ns();
        let since = Duration::from_nanos(now - start_ns);
        while let Some(event) = events.next_if(|e| e.at <= since) {
            perform(&event.what, &floor, &mut fleet, &mut links, &mut alive, &mut watch)?;
        }
        for (tcp, stream) in scenario.tcp.iter().zip(&mut streams) {
            if stream.is_none() && tcp.start <= since {
                *stream = Some(start_tcp(&floor, tcp));
            }
        }
        if now >= next_ask {
            next_ask = now + ASK_EVERY_NS;
            watch.ask(&fleet, since.as_secs_f64());
            note(scenario, &watch, &alive, since, &mut notes);
        }
        if since >= scenario.duration {
            break;
        }
        if stop.wait(Duration::from_millis(20)) {
            return Ok(None);
        }
    }
    let ledgers = traffic.finish(Duration::from_millis(700));
    let tcp = scenario.tcp.iter().zip(streams).map(|(tcp, pair)| {
        let (direct, overlay) = pair.unwrap_or_default();
        TcpFinding {
            tcp: tcp.name.clone(),
            direct_mbps: direct.map(Stream::finish),
            overlay_mbps: overlay.map(Stream::finish),
        }
    });
    let seen = floor.wan.report()?.seen;
    let mut found = Findings {
        scenario: scenario.name.clone(),
        flows: Vec::new(),
        tcp: tcp.collect(),
        payload: (!seen.is_empty()).then(|| {
            seen.values().fold((0, 0), |(all, hits), s| (all + s.searched, hits + s.found))
        }),
        relayed_share: watch
            .spent()
            .packets
            .filter(|(all, _)| *all > 0)
            .map(|(all, relayed)| relayed as f64 / all as f64),
        lanes: (0..alive.len())
            .filter_map(|site| lanes(&fleet, &scenario.sites[site].name, site))
            .collect(),
        checks: Vec::new(),
    };
    judge(scenario, &ledgers, start_ns, &notes, &mut found);
    Ok(Some(found))
}

fn lanes(fleet: &Fleet, name: &str, site: usize) -> Option<LanesFinding> {
    let report = fleet.report(site)?;
    Some(LanesFinding {
        site: name.to_owned(),
        lanes: report.status.lanes,
        shared: report.links.into_iter().map(|link| (link.peer, link.lanes)).collect(),
        dropped: report.status.dropped_packets.unwrap_or_default(),
    })
}

/// Direct and overlay.
type Pair = (Option<Stream>, Option<Stream>);

fn start_tcp(floor: &Floor, tcp: &Tcp) -> Pair {
    let (a, b) = (&floor.sites[tcp.from], &floor.sites[tcp.to]);
    let start = |from: IpAddr, to: IpAddr| {
        let congestion = Some(tcp.congestion.clone());
        let spec = StreamSpec { from, to, length: tcp.length, congestion };
        Stream::start(&a.ns, &b.ns, &spec).ok()
    };
    (
        start(a.address.into(), b.address.into()),
        start(overlay_address(tcp.from).into(), overlay_address(tcp.to).into()),
    )
}

fn spec(index: usize, flow: &Flow) -> FlowSpec {
    FlowSpec {
        from: IpAddr::V4(overlay_address(flow.from)),
        to: SocketAddr::new(overlay_address(flow.to).into(), FLOW_PORT + index as u16),
        pps: flow.pps,
        size: flow.size,
        dscp: flow.dscp,
        payload: flow.payload.clone().into_bytes(),
        span: Some((flow.start, flow.stop)),
    }
}

type Links = std::collections::BTreeMap<(usize, usize), crate::link::LinkParams>;

fn perform(
    what: &Happening,
    floor: &Floor,
    fleet: &mut Fleet,
    links: &mut Links,
    alive: &mut [bool],
    watch: &mut Watch,
) -> anyhow::Result<()> {
    let mut change = |pairs: &[(usize, usize)], by: &dyn Fn(&mut crate::link::LinkParams)| {
        for pair in pairs {
            if let Some(params) = links.get_mut(pair) {
                by(params);
                floor.wan.install(pair.0, pair.1, params.clone());
            }
        }
    };
    match what {
        Happening::Set { links, change: to } => change(links, &|params| to.lay_over(params)),
        Happening::Cut(pairs) => change(pairs, &|params| params.cut = true),
        Happening::Heal(pairs) => change(pairs, &|params| params.cut = false),
        Happening::Kill(site) => {
            watch.retire(fleet, *site);
            fleet.kill(*site);
            alive[*site] = false;
        }
        Happening::Restart(site) => {
            watch.retire(fleet, *site);
            fleet.kill(*site);
            fleet.start(&floor.sites, *site)?;
            alive[*site] = true;
        }
    }
    Ok(())
}

/// Takes down what the checks ask about this moment.
fn note(scenario: &Scenario, watch: &Watch, alive: &[bool], since: Duration, notes: &mut Notes) {
    let living = || (0..alive.len()).filter(|site| alive[*site]);
    let full = living().all(|a| living().all(|b| a == b || watch.has_path(a, b)));
    if full && notes.mesh_s.is_none() {
        notes.mesh_s = Some(since.as_secs_f64());
    }
    for (check, found) in scenario.checks.iter().zip(&mut notes.moments) {
        match check {
            Check::Path { from, to, at, is, relayed } if found.is_none() && *at <= since => {
                let path = watch.paths.get(&(*from, *to));
                let held = path.is_some_and(|p| is_as_asked(p, is.as_ref(), *relayed));
                let shown = path.map_or("no path".into(), |p| watch.name(p));
                *found = Some((shown, held));
            }
            Check::Gone { site, by } if found.is_none() && *by <= since => {
                let holds: Vec<_> =
                    living().filter(|s| s != site && watch.has_path(*s, *site)).collect();
                let shown = format!("{} nodes still have a path there", holds.len());
                *found = Some((shown, holds.is_empty()));
            }
            _ => {}
        }
    }
}

pub(crate) fn is_as_asked(path: &Path, is: Option<&Path>, relayed: Option<bool>) -> bool {
    is.is_none_or(|is| is == path) && relayed.is_none_or(|relayed| relayed == (path.len() > 2))
}

/// Holds the checks against what was found.
pub(crate) fn judge(
    scenario: &Scenario,
    ledgers: &[SharedLedger],
    start_ns: u64,
    notes: &Notes,
    found: &mut Findings,
) {
    let at = |span: Duration| start_ns + span.as_nanos() as u64;
    found.flows = scenario
        .flows
        .iter()
        .zip(ledgers)
        .map(|(flow, ledger)| {
            let q = ledger.quality(0, u64::MAX);
            FlowFinding {
                flow: flow.name.clone(),
                sent: q.sent,
                loss: q.loss,
                p50_ms: q.p50_ms,
                p99_ms: q.p99_ms,
                longest_gap_ms: q.longest_gap_ms,
                reordered: q.reordered,
                duplicates: q.duplicates,
            }
        })
        .collect();
    let (tcp, payload) = (&found.tcp, found.payload);
    found.checks = scenario
        .checks
        .iter()
        .zip(&notes.moments)
        .map(|(check, moment)| match check {
            Check::Flow { flow, after, before, loss_below, p99_below, gap_below } => {
                let q = ledgers[*flow].quality(at(*after), at(*before));
                let name = &scenario.flows[*flow].name;
                let limits = Limits {
                    loss: loss_below.map(|l| l.as_f64()),
                    p99_ms: p99_below.map(|p| p.as_secs_f64() * 1e3),
                    gap_ms: gap_below.map(|g| g.as_secs_f64() * 1e3),
                };
                limits.against(name, &q)
            }
            Check::Path { from, to, at, .. } => {
                let (found, held) = moment.clone().unwrap_or(("never looked".into(), false));
                let (from, to) = (&scenario.sites[*from].name, &scenario.sites[*to].name);
                let what = format!("path {from} > {to} at {:.1} s: {found}", at.as_secs_f64());
                CheckFinding { what, held }
            }
            Check::Tcp { tcp: index, times } => {
                let TcpFinding { tcp, direct_mbps, overlay_mbps } = &tcp[*index];
                let found = direct_mbps
                    .zip(*overlay_mbps)
                    .filter(|(direct, _)| *direct > 0.0)
                    .map(|(direct, overlay)| overlay / direct);
                let shown = found.map_or("n/a".into(), |f| format!("{f:.2}"));
                CheckFinding {
                    what: format!("tcp {tcp}: overlay {shown} times direct (at least {times})"),
                    held: found.is_some_and(|f| f >= *times),
                }
            }
            Check::Unseen => {
                let (searched, hits) = payload.unwrap_or_default();
                CheckFinding {
                    what: format!("payload in clear in {hits} of {searched} packets on all links"),
                    held: searched > 0 && hits == 0,
                }
            }
            Check::Mesh { by } => {
                let found = notes.mesh_s.map_or("never".into(), |s| format!("{s:.1} s"));
                CheckFinding {
                    what: format!("mesh full by {:.1} s: {found}", by.as_secs_f64()),
                    held: notes.mesh_s.is_some_and(|s| s <= by.as_secs_f64()),
                }
            }
            Check::Gone { site, by } => {
                let (found, held) = moment.clone().unwrap_or(("never looked".into(), false));
                let name = &scenario.sites[*site].name;
                let what = format!("{name} gone by {:.1} s: {found}", by.as_secs_f64());
                CheckFinding { what, held }
            }
        })
        .collect();
}

struct Limits {
    loss: Option<f64>,
    p99_ms: Option<f64>,
    gap_ms: Option<f64>,
}

impl Limits {
    /// A limit on what was not measured does not hold.
    fn against(&self, name: &str, q: &Quality) -> CheckFinding {
        let mut what = format!("flow {name}:");
        let mut held = true;
        for (label, limit, found) in [
            ("loss", self.loss, q.loss),
            ("p99 ms", self.p99_ms, q.p99_ms),
            ("longest gap ms", self.gap_ms, q.longest_gap_ms),
        ] {
            let Some(limit) = limit else { continue };
            held &= found.is_some_and(|f| f < limit);
            let found = found.map_or("n/a".into(), |f| format!("{f:.4}"));
            let _ = write!(what, " {label} {found} (below {limit})");
        }
        CheckFinding { what, held }
    }
}

impl Findings {
    /// Whether every check held.
    pub fn hold(&self) -> bool {
        self.checks.iter().all(|c| c.held)
    }

    /// For people.
    pub fn text(&self) -> String {
        let mut text = format!("{}\n", self.scenario);
        let show =
            |x: Option<f64>, digits: usize| x.map_or("n/a".into(), |x| format!("{x:.digits$}"));
        for f in &self.flows {
            let _ = writeln!(
                text,
                "  {}: {} sent, {} % lost, p50 {} ms, p99 {} ms, longest gap {} ms",
                f.flow,
                f.sent,
                show(f.loss.map(|l| l * 100.0), 2),
                show(f.p50_ms, 1),
                show(f.p99_ms, 1),
                show(f.longest_gap_ms, 0)
            );
        }
        let relayed = show(self.relayed_share.map(|r| r * 100.0), 1);
        let _ = writeln!(text, "  {relayed} % of packets crossed a relay");
        for t in &self.tcp {
            let (direct, overlay) = (show(t.direct_mbps, 2), show(t.overlay_mbps, 2));
            let _ = writeln!(text, "  tcp {}: direct {direct}, overlay {overlay} Mbit/s", t.tcp);
        }
        for c in &self.checks {
            let _ = writeln!(text, "  {} {}", if c.held { "holds" } else { "FAILS" }, c.what);
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_on_what_was_not_measured_does_not_hold() {
        let nothing = Quality {
            sent: 0,
            received: 0,
            loss: None,
            p50_ms: None,
            p99_ms: None,
            longest_gap_ms: None,
            reordered: 0,
            duplicates: 0,
            refused: 0,
        };
        let limits = Limits { loss: Some(0.1), p99_ms: None, gap_ms: None };
        assert!(!limits.against("f", &nothing).held);
        assert!(limits.against("f", &Quality { loss: Some(0.05), ..nothing }).held);
        assert!(!limits.against("f", &Quality { loss: Some(0.1), ..nothing }).held);
    }

    #[test]
    fn a_path_is_held_against_what_was_asked_of_it() {
        let path = vec![0, 2, 1];
        assert!(is_as_asked(&path, Some(&vec![0, 2, 1]), Some(true)));
        assert!(!is_as_asked(&path, Some(&vec![0, 1]), None));
        assert!(!is_as_asked(&path, None, Some(false)));
    }
}
