//! The demo: five sites on an emulated Internet made from real round-trip times, one daemon each.
//!
//! Every ordered pair sends the same constant-rate flow twice at the same time, over the Internet as
//! it is and over the overlay, while links degrade and nodes die. It ends with both beside each
//! other. Where and over what: [`place`]; what happens: [`course`]; what is made of it: [`outcome`].

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use crate::data::RttMatrix;
use crate::netns::fleet::{Fleet, NodeSpec, overlay_address};
use crate::netns::stop::Stop;
use crate::netns::tcp::{Stream, StreamSpec};
use crate::netns::traffic::{FlowSpec, Traffic};
use crate::netns::watch::Watch;
use crate::netns::{Floor, sys};

pub mod course;
pub mod outcome;
pub mod place;
pub mod screen;

use course::{Course, LENGTH_S};
use outcome::{Flows, Measured, Outcome, Tcp};
use place::{Place, RULES, SITES};
use screen::Screen;

/// How the demo is to run.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Seed of loss and weather.
    pub seed: u64,
    /// Standard output is for JSON.
    pub json: bool,
    /// Keep everything up at the end until told to stop.
    pub hold: bool,
}

/// Packets per second and bytes of each flow: a voice call's, both ways at once.
const PPS: u32 = 100;
const SIZE: usize = 160;
/// EF: the class for what is late when it is lost.
const DSCP: u8 = 46;
const CLASS: &str = "realtime";
const DIRECT_PORT: u16 = 9000;
const OVERLAY_PORT: u16 = 9500;

/// How long the daemons may take to find each other.
const MESH_WITHIN: Duration = Duration::from_secs(20);

/// TCP per pair, direct beside overlay: long enough that slow start does not decide.
const TCP_LENGTH: Duration = Duration::from_secs(8);

/// What most senders on the Internet use, whatever this machine's default is.
const CONGESTION: &str = "cubic";

/// After the last packet, for what is still under way.
const LINGER: Duration = Duration::from_millis(700);

/// What the demo's daemons are told beyond names and places. Printed, since it differs from the
/// defaults: a demo of minutes cannot wait for a recomputation every five.
fn settings() -> toml::Table {
    toml::toml! {
        [route]
        recompute = "10s"
        hold_down = "5s"
    }
}

/// Runs the demo. None if told to stop before its end.
///
/// # Errors
/// Namespaces that cannot be made, daemons that do not start.
pub fn run(options: Options, stop: &Stop) -> anyhow::Result<Option<Outcome>> {
    let mut screen = Screen::new(options.json);
    let place = Place::choose(&RttMatrix::planetlab()?, options.seed)?;
    introduce(&screen, &place, options.seed);
    let labels: Vec<&str> = place.names.iter().map(String::as_str).collect();
    let floor = Floor::new(&labels, &place.links, options.seed)?;
    let specs: Vec<NodeSpec> = place
        .names
        .iter()
        .enumerate()
        .map(|(site, name)| NodeSpec {
            name: name.clone(),
            // Everyone knows the cloud and the first edge; the rest they find.
            seeds: (0..2).filter(|seed| *seed != site).collect(),
            config: settings(),
        })
        .collect();
    let mut fleet = Fleet::new(&floor.sites, &specs)?;
    let began_ns = sys::monotonic_ns();
    for site in 0..SITES {
        fleet.start(&floor.sites, site)?;
    }
    let mut watch = Watch::new(place.names.clone(), CLASS);
    if !form_mesh(&mut fleet, &mut watch, &screen, stop)? {
        return Ok(None);
    }
    let (traffic, flows) = start_flows(&floor)?;
    floor.wan.forget();
    let start_ns = sys::monotonic_ns();
    let mut course = Course::default();
    let mut quiet_paths = BTreeMap::new();
    let mut said = watch.moves.len();
    let mut next_ask = start_ns;
    loop {
        let now = sys::monotonic_ns();
        let since = Duration::from_nanos(now - start_ns);
        if since.as_secs() >= LENGTH_S {
            break;
        }
        if now >= next_ask {
            next_ask = now + 1_000_000_000;
            watch.ask(&fleet, since.as_secs_f64());
            course.note_back(&watch);
            for m in &watch.moves[said..] {
                screen.moved(&watch, m);
            }
            said = watch.moves.len();
            screen.draw(since.as_secs_f64(), &place.names, &watch, &flows, now);
        }
        if let Some(step) = course.due(since) {
            if quiet_paths.is_empty() {
                quiet_paths.clone_from(&watch.paths);
            }
            let what = course.perform(step, &place, &floor, &mut fleet, &mut watch);
            screen.news(since.as_secs_f64(), &what);
        }
        if stop.wait(Duration::from_millis(50)) {
            return Ok(None);
        }
    }
    let span = (start_ns, sys::monotonic_ns());
    drop(traffic.finish(LINGER));
    let wan = floor.wan.report()?;
    screen.news((span.1 - span.0) as f64 / 1e9, "flows end; TCP, direct beside overlay");
    // The cost is that of the flows: TCP's large packets would make every overhead look small.
    watch.ask(&fleet, (span.1 - span.0) as f64 / 1e9);
    let spent = watch.spent();
    let cpu: Option<Vec<f64>> = (0..SITES).map(|site| fleet.cpu_s(site)).collect();
    let ran_s = (sys::monotonic_ns() - began_ns) as f64 / 1e9;
    let Some(tcp) = run_tcp(&floor, stop)? else { return Ok(None) };
    let measured = Measured {
        names: &place.names,
        flows: &flows,
        tcp: &tcp,
        span,
        course: &course,
        quiet_paths: &quiet_paths,
        spent,
        cpu_s: cpu.map(|c| c.iter().sum()),
        ran_s,
    };
    let outcome = measured.outcome();
    screen.say(&format!("\n{}", outcome.tables()));
    let late = |q| wan.lateness.quantile_us(q).map_or("n/a".into(), |us| format!("{us:.0}"));
    screen.say(&format!(
        "emulator, under the flows: {} packets, late by {} us (p50), {} us (p99), {:.0} us (most); {} refused",
        wan.written,
        late(0.5),
        late(0.99),
        wan.lateness.max_us(),
        wan.refused + wan.overflow
    ));
    if options.hold {
        hold(&screen, &floor, &fleet, &place);
        while !stop.wait(Duration::from_secs(3600)) {}
    }
    Ok(Some(outcome))
}

fn introduce(screen: &Screen, place: &Place, seed: u64) {
    for rule in RULES {
        screen.say(rule);
    }
    let sites: Vec<String> = place
        .names
        .iter()
        .zip(&place.nodes)
        .map(|(name, node)| format!("{name} = node {node}"))
        .collect();
    screen.say(&format!("{} (seed {seed})", sites.join(", ")));
    for ((a, b), link) in place.links.iter().filter(|((a, b), _)| a < b) {
        let back = place.links.get(&(*b, *a));
        let loss = |l: &crate::link::LinkParams| {
            l.loss.or(l.burst.map_or(thalweg::unit::Ratio::ZERO, |b| b.share()))
        };
        screen.say(&format!(
            "  {} - {}: RTT {:.1} ms, loss {} there, {} back",
            place.names[*a],
            place.names[*b],
            place.rtt_ms(*a, *b),
            loss(link),
            back.map_or("n/a".into(), |l| loss(l).to_string()),
        ));
    }
    let settings = toml::to_string(&settings()).unwrap_or_default().replace('\n', " ");
    screen.say(&format!(
        "each ordered pair, both ways: {PPS} packets/s of {SIZE} bytes with DSCP {DSCP}; TCP \
         ({CONGESTION}) for {} s",
        TCP_LENGTH.as_secs()
    ));
    screen.say(&format!(
        "settings that differ from the defaults: {}; daemons run before other \
         programs (SCHED_RR), since five share this machine",
        settings.trim()
    ));
}

/// Waits until every node reaches every other by its own word. False if told to stop.
fn form_mesh(
    fleet: &mut Fleet,
    watch: &mut Watch,
    screen: &Screen,
    stop: &Stop,
) -> anyhow::Result<bool> {
    let began = sys::monotonic_ns();
    loop {
        for site in 0..SITES {
            anyhow::ensure!(
                fleet.lives(site),
                "a daemon ended at its start:\n{}",
                fleet.last_words(site, 10)
            );
        }
        watch.ask(fleet, 0.0);
        let span = Duration::from_nanos(sys::monotonic_ns() - began);
        let full = (0..SITES).all(|site| watch.reaches(site) as usize >= SITES - 1);
        if full || span >= MESH_WITHIN {
            let how =
                if full { "everyone reaches everyone" } else { "not everyone reaches everyone" };
            screen.say(&format!("{how} after {:.1} s", span.as_secs_f64()));
            return Ok(true);
        }
        if stop.wait(Duration::from_millis(200)) {
            return Ok(false);
        }
    }
}

/// Every ordered pair, twice: over the Internet as it is and over the overlay.
fn start_flows(floor: &Floor) -> anyhow::Result<(Traffic, Flows)> {
    let (mut specs, mut pairs) = (Vec::new(), Vec::new());
    for from in 0..SITES {
        for to in (0..SITES).filter(|to| *to != from) {
            let index = pairs.len() as u16;
            let flow = |from: IpAddr, to: IpAddr, port| FlowSpec {
                from,
                to: SocketAddr::new(to, port + index),
                pps: PPS,
                size: SIZE,
                dscp: DSCP,
                payload: Vec::new(),
                span: None,
            };
            let (a, b) = (&floor.sites[from], &floor.sites[to]);
            let direct = flow(a.address.into(), b.address.into(), DIRECT_PORT);
            let (c, d) = (overlay_address(from), overlay_address(to));
            let overlay = flow(c.into(), d.into(), OVERLAY_PORT);
            specs.push((&a.ns, &b.ns, direct));
            specs.push((&a.ns, &b.ns, overlay));
            pairs.push((from, to));
        }
    }
    let traffic = Traffic::start(&specs)?;
    let ledgers = traffic.ledgers();
    let both = |i: usize| (ledgers[2 * i].clone(), ledgers[2 * i + 1].clone());
    let flows = pairs.iter().enumerate().map(|(i, pair)| (*pair, both(i))).collect();
    Ok((traffic, flows))
}

/// TCP for every ordered pair, direct and overlay at the same time, pairs without common site
/// together: whoever shares no end competes only where the overlay chose so.
fn run_tcp(floor: &Floor, stop: &Stop) -> anyhow::Result<Option<Tcp>> {
    let mut tcp = Tcp::new();
    for round in tcp_rounds() {
        let mut running = Vec::new();
        for (from, to) in round {
            let (a, b) = (&floor.sites[from], &floor.sites[to]);
            let start = |from: IpAddr, to: IpAddr| {
                let congestion = Some(CONGESTION.to_owned());
                let spec = StreamSpec { from, to, length: TCP_LENGTH, congestion };
                Stream::start(&a.ns, &b.ns, &spec).ok()
            };
            let direct = start(a.address.into(), b.address.into());
            let overlay = start(overlay_address(from).into(), overlay_address(to).into());
            running.push(((from, to), direct, overlay));
        }
        if stop.wait(TCP_LENGTH) {
            return Ok(None);
        }
        for (pair, direct, overlay) in running {
            tcp.insert(pair, (direct.map(Stream::finish), overlay.map(Stream::finish)));
        }
    }
    Ok(Some(tcp))
}

/// Five rounds of two pairs without a common site, both ways: the round-robin schedule of five, in
/// which each site rests once.
fn tcp_rounds() -> Vec<Vec<(usize, usize)>> {
    let round = |rest: usize| {
        [1, 2].into_iter().flat_map(move |step| {
            let (a, b) = ((rest + step) % SITES, (rest + SITES - step) % SITES);
            [(a, b), (b, a)]
        })
    };
    (0..SITES).map(|rest| round(rest).collect()).collect()
}

fn hold(screen: &Screen, floor: &Floor, fleet: &Fleet, place: &Place) {
    screen.say("\nheld until Ctrl-C. For example:");
    let (from, to) = (1, SITES - 1);
    let ns = floor.sites[from].ns.name();
    screen.say(&format!("  ip netns exec {ns} ping {}", overlay_address(to)));
    screen.say(&format!("  ip netns exec {ns} ping {}", floor.sites[to].address));
    screen.say(&format!("  ip netns exec {ns} curl -s http://127.0.0.1:9460/metrics"));
    for (site, name) in place.names.iter().enumerate() {
        let socket = fleet.socket(site).display();
        screen.say(&format!(
            "  thalweg paths --socket {socket}     # {name}; cargo run --release -q -- paths ..."
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_ordered_pair_gets_its_tcp_once_and_no_round_shares_an_end() {
        let rounds = tcp_rounds();
        let mut all: Vec<_> = rounds.concat();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), SITES * (SITES - 1));
        for round in rounds {
            let mut ends: Vec<_> = round.iter().map(|(a, _)| *a).collect();
            ends.sort_unstable();
            ends.dedup();
            assert_eq!(ends.len(), 4);
        }
    }
}
