//! The virtual floor: whole nodes in one process, under virtual time.
//!
//! Each site is a `Node` and a `Forwarder` joined as the daemon joins them. Between sites lie the
//! same link models as on the namespaces floor; control streams are delayed queues. Nothing reads a
//! clock and every die is cast from the seed: one seed gives one trace.
//!
//! Contract of each turn as for any driver: one `handle_*`, then every `poll_*` until all are empty.

mod over;
mod packet;
mod reading;
mod site;
mod streams;
mod tally;
mod told;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use bytes::Bytes;
use thalweg::buf::{Offload, RecvBatch, TunBatch, TunWrites, TxBatch};
use thalweg::control::{ConnectionId, ControlInput, ControlOutput, carried_to};
use thalweg::forward::Forwarder;
use thalweg::id::NodeId;
use thalweg::node::{Node, NodeEvent};
use thalweg::rng::Dice;
use thalweg::route::choose::Why;
use thalweg::route::table::RouteTable;
use thalweg::session::keys::Secret;
use thalweg::session::trust::Trust;
use thalweg::time::Instant;
use thalweg::topology::member::Restored;

use crate::link::{LinkModel, LinkParams, Verdict};
use crate::netns::traffic::SharedLedger;
use crate::scenario::{Happening, Scenario};
use crate::trace::Trace;

use over::OverDial;
use packet::{arrive, packet, search};
use reading::Once;
use site::{LabTrust, Plan, endpoint, site_at, site_of};
use streams::Streams;
pub use tally::Said;

/// IPv4 and UDP headers around each datagram.
const OUTER: usize = 28;
/// A dial that finds nobody fails after this.
const DIAL_FAILS: Duration = Duration::from_secs(5);
/// How often streams try again to say what a cut held back.
const STREAM_TRIES: Duration = Duration::from_millis(200);
/// A node that asks for the clock more often without time passing is broken.
const TURNS_LIMIT: u32 = 100_000;

struct Host {
    life: u64,
    node: Node,
    forward: Forwarder,
    /// When its machines want the clock, as each said when it was last driven.
    node_wake: Option<Instant>,
    forward_wake: Option<Instant>,
    /// Datagrams its machine dropped, to be told with the next it takes, as the kernel does.
    local_drops: u64,
    /// Peers whose link it holds for up.
    up: BTreeSet<NodeId>,
    /// When it last learnt that a node is gone.
    gone: BTreeMap<NodeId, Instant>,
    /// The paths in force.
    routes: Arc<RouteTable>,
}

impl Host {
    fn wake(&self) -> Option<Instant> {
        self.node_wake.into_iter().chain(self.forward_wake).min()
    }
}

impl Host {
    /// Takes down what is asked about later.
    fn learn(&mut self, now: Instant, event: &NodeEvent) {
        match event {
            NodeEvent::LinkUp { peer, .. } => {
                self.up.insert(*peer);
            }
            NodeEvent::LinkDown { peer, .. } | NodeEvent::SessionEnded { peer, .. } => {
                self.up.remove(peer);
            }
            NodeEvent::PathMoved { destination, why, .. } if *why == Why::Gone.name() => {
                self.gone.insert(*destination, now);
            }
            _ => {}
        }
    }
}

#[derive(Debug)]
enum Due {
    /// A datagram arrives.
    Datagram { to: usize, from: usize, tos: u8, bytes: Vec<u8> },
    /// A datagram arrives, and the site's machine drops it.
    LocalDrop { to: usize },
    /// A stream says something to the node that lived when it was said.
    Control { to: usize, life: u64, input: ControlInput },
    /// A flow's next packet.
    Packet { flow: usize },
    /// The scenario's next event.
    Happening { event: usize },
    /// Streams try again.
    Streams,
}

/// Bytes and datagrams on all links.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Carried {
    /// Datagrams offered to links.
    pub datagrams: u64,
    /// Their bytes, outer headers included.
    pub bytes: u64,
    /// Datagrams searched for payload.
    pub searched: u64,
    /// Of those: how many held it in clear.
    pub found: u64,
}

/// A scenario being played.
pub struct World {
    now: Instant,
    scenario: Scenario,
    plans: Vec<Plan>,
    hosts: BTreeMap<usize, Host>,
    /// When each host wants the clock.
    wakes: BTreeSet<(Instant, usize)>,
    /// What each site keeps on disk.
    disks: Vec<Vec<u8>>,
    links: BTreeMap<(usize, usize), LinkModel>,
    streams: Streams,
    /// Dials over the overlay, by their number.
    over_dials: BTreeMap<u64, OverDial>,
    /// What all nodes read link state with.
    reader: Arc<Once>,
    due: BTreeMap<(Instant, u64), Due>,
    serial: u64,
    dice: Dice,
    ledgers: Vec<SharedLedger>,
    carried: Carried,
    said: Said,
    trace: Trace,
    recv: RecvBatch,
    tun: TunBatch,
    written: TunWrites,
    tx: TxBatch,
}

impl World {
    /// A world at time zero; sites that start with the scenario have started.
    ///
    /// # Errors
    /// Configurations that no daemon would take, or what only the other floor can do.
    pub fn new(scenario: &Scenario, seed: u64) -> anyhow::Result<Self> {
        anyhow::ensure!(
            scenario.tcp.is_empty(),
            "the virtual floor has no TCP: play this scenario with `netsim lab`"
        );
        let mut dice = Dice::new(seed);
        let links = scenario
            .links
            .iter()
            .map(|(&pair, params)| (pair, LinkModel::new(params.clone(), dice.next_u64())))
            .collect();
        let sites = scenario.sites.len();
        let plans: anyhow::Result<Vec<_>> = (0..sites).map(|s| Plan::new(scenario, s)).collect();
        let mut world = Self {
            now: Instant::ZERO,
            plans: plans?,
            hosts: BTreeMap::new(),
            wakes: BTreeSet::new(),
            disks: vec![Vec::new(); sites],
            links,
            streams: Streams::default(),
            over_dials: BTreeMap::new(),
            reader: Arc::default(),
            due: BTreeMap::new(),
            serial: 0,
            dice,
            ledgers: scenario.flows.iter().map(|_| SharedLedger::default()).collect(),
            carried: Carried::default(),
            said: Said::default(),
            trace: Trace::default(),
            recv: RecvBatch::default(),
            tun: TunBatch::default(),
            written: TunWrites::default(),
            tx: TxBatch::default(),
            scenario: scenario.clone(),
        };
        for site in (0..sites).filter(|&s| scenario.sites[s].starts) {
            world.start(site)?;
        }
        for (flow, spec) in scenario.flows.iter().enumerate() {
            // Not all in the same microsecond.
            let gap_us = 1_000_000 / u64::from(spec.pps.max(1));
            let offset = Duration::from_micros(world.dice.below(gap_us.max(1)));
            world.put(Instant::ZERO.plus(spec.start + offset), Due::Packet { flow });
        }
        for (event, spec) in scenario.events.iter().enumerate() {
            world.put(Instant::ZERO.plus(spec.at), Due::Happening { event });
        }
        world.put(Instant::ZERO.plus(STREAM_TRIES), Due::Streams);
        Ok(world)
    }

    /// Plays on until `until`.
    ///
    /// # Errors
    /// A machine that asks for the clock without end, or a node that cannot start again.
    pub fn run(&mut self, until: Instant) -> anyhow::Result<()> {
        let mut turns = 0;
        loop {
            let queued = self.due.first_key_value().map(|(&(at, _), _)| at);
            let timer = self.wakes.first().copied();
            let next = queued.into_iter().chain(timer.map(|(at, _)| at)).min();
            let Some(next) = next.filter(|&at| at <= until) else { break };
            turns = if next > self.now { 0 } else { turns + 1 };
            if turns > TURNS_LIMIT {
                let why = timer.and_then(|(_, s)| {
                    let host = self.hosts.get(&s)?;
                    Some((s, host.node.poll_timeout(), host.forward.poll_timeout()))
                });
                anyhow::bail!("somebody spins at {}: {why:?}", self.now);
            }
            self.now = self.now.max(next);
            match timer {
                Some((at, site)) if queued.is_none_or(|queued| at < queued) => {
                    let now = self.now;
                    let mut node = false;
                    if let Some(host) = self.hosts.get_mut(&site) {
                        node = host.node_wake.is_some_and(|at| at <= now);
                        if node {
                            host.node.handle_timeout(now);
                        }
                        if host.forward_wake.is_some_and(|at| at <= now) {
                            host.forward.handle_timeout(now);
                        }
                    }
                    self.drain(site, node);
                }
                _ => {
                    if let Some((_, due)) = self.due.pop_first() {
                        self.happen(due)?;
                    }
                }
            }
        }
        self.now = self.now.max(until);
        Ok(())
    }

    /// Changes what lies between two sites, one way.
    pub fn set_link(&mut self, pair: (usize, usize), by: impl Fn(&mut LinkParams)) {
        if let Some(link) = self.links.get_mut(&pair) {
            let mut params = link.params().clone();
            by(&mut params);
            link.install(self.now, params);
        }
    }

    /// Starts a site's node from what it kept.
    ///
    /// # Errors
    /// State that its own reader does not take.
    pub fn start(&mut self, site: usize) -> anyhow::Result<()> {
        let now = self.now;
        let plan = self.plans.get(site).context("no such site")?;
        let restored = match self.disks[site].as_slice() {
            [] => Restored::default(),
            bytes => Restored::read(bytes).context("state")?,
        };
        let boot = Plan::boot(now.as_micros() / 1_000_000, restored.boot);
        self.serial += 1;
        let life = self.serial;
        let seed = self.dice.next_u64();
        let forward = Forwarder::new(plan.forward(boot), seed ^ 1, now);
        let mut node = Node::new(plan.node(boot), plan.identity()?, &restored, seed, now);
        node.read_by(self.reader.clone());
        self.streams.forget(site);
        let host = Host {
            life,
            node,
            forward,
            node_wake: None,
            forward_wake: None,
            local_drops: 0,
            up: BTreeSet::new(),
            gone: BTreeMap::new(),
            routes: RouteTable::empty(),
        };
        self.forget_wake(site);
        self.hosts.insert(site, host);
        self.trace.say(now, &self.scenario.sites[site].name, "starts");
        self.drain(site, true);
        Ok(())
    }

    /// A site's node stops at once, without a word.
    pub fn kill(&mut self, site: usize) {
        self.forget_wake(site);
        if self.hosts.remove(&site).is_some() {
            self.streams.forget(site);
            self.trace.say(self.now, &self.scenario.sites[site].name, "dies");
        }
    }

    fn forget_wake(&mut self, site: usize) {
        if let Some(at) = self.hosts.get(&site).and_then(Host::wake) {
            self.wakes.remove(&(at, site));
        }
    }

    fn put(&mut self, at: Instant, due: Due) {
        self.serial += 1;
        self.due.insert((at, self.serial), due);
    }

    fn happen(&mut self, due: Due) -> anyhow::Result<()> {
        let now = self.now;
        match due {
            Due::Datagram { to, from, tos, bytes } => {
                self.trace.note(now, b'd', to, tail(&bytes));
                self.recv.clear();
                self.recv.push(&bytes, endpoint(from), tos);
                self.gather(to);
                if let Some(host) = self.hosts.get_mut(&to) {
                    self.recv.local_drops = std::mem::take(&mut host.local_drops);
                    host.forward.handle_udp(now, &mut self.recv);
                    self.drain(to, false);
                }
            }
            Due::LocalDrop { to } => {
                if let Some(host) = self.hosts.get_mut(&to) {
                    host.local_drops += 1;
                }
            }
            Due::Control { to, life, input } => {
                if let Some(host) = self.hosts.get_mut(&to).filter(|h| h.life == life) {
                    if let ControlInput::Message { bytes, .. } = &input {
                        self.trace.note(now, b'c', to, tail(bytes));
                    }
                    host.node.handle_control(now, input);
                    self.drain(to, true);
                }
            }
            Due::Packet { flow } => self.send_packet(flow),
            Due::Happening { event } => {
                let what = self.scenario.events[event].what.clone();
                self.trace.say(now, "scenario", &format!("{what:?}"));
                self.perform(&what)?;
            }
            Due::Streams => {
                for (site, id, far) in self.streams.holding() {
                    if self.cut(site, far) {
                        continue;
                    }
                    let held =
                        self.streams.direction(site, id).map(|d| std::mem::take(&mut d.held));
                    for bytes in held.into_iter().flatten() {
                        self.carry(site, ControlOutput::Send { connection: id, bytes });
                    }
                }
                self.repeat_over();
                self.put(now.plus(STREAM_TRIES), Due::Streams);
            }
        }
        Ok(())
    }

    fn perform(&mut self, what: &Happening) -> anyhow::Result<()> {
        match what {
            Happening::Set { links, change } => {
                links.iter().for_each(|&pair| self.set_link(pair, |p| change.lay_over(p)));
            }
            Happening::Cut(links) => {
                links.iter().for_each(|&pair| self.set_link(pair, |p| p.cut = true));
            }
            Happening::Heal(links) => {
                links.iter().for_each(|&pair| self.set_link(pair, |p| p.cut = false));
            }
            Happening::Kill(site) => self.kill(*site),
            Happening::Restart(site) => {
                self.kill(*site);
                self.start(*site)?;
            }
        }
        Ok(())
    }

    /// Adds to the batch whatever else arrives at this site at this very instant.
    fn gather(&mut self, site: usize) {
        while let Some(entry) = self.due.first_entry() {
            let same = entry.key().0 <= self.now
                && matches!(entry.get(), Due::Datagram { to, .. } if *to == site);
            if !same {
                break;
            }
            if let Due::Datagram { from, tos, bytes, .. } = entry.remove() {
                self.trace.note(self.now, b'd', site, tail(&bytes));
                self.recv.push(&bytes, endpoint(from), tos);
            }
        }
    }

    /// Every poll door of a site until all are empty; the node's only where it was driven, by the
    /// caller or by its forwarder's news.
    fn drain(&mut self, site: usize, mut node: bool) {
        let now = self.now;
        loop {
            let mut quiet = true;
            let mut control = Vec::new();
            let mut carried = Vec::new();
            let Some(host) = self.hosts.get_mut(&site) else { return };
            while let Some(event) = host.forward.poll_event() {
                host.node.handle_event(now, event);
                quiet = false;
                node = true;
            }
            while let Some(output) = host.node.poll_control() {
                control.push(output);
            }
            if let Some(snapshot) = host.node.poll_snapshot() {
                host.routes = Arc::clone(&snapshot.routes);
                host.forward.install(now, &snapshot);
                quiet = false;
            }
            while let Some(probe) = host.node.poll_send() {
                host.forward.push_probe(now, probe);
                quiet = false;
            }
            while let Some(event) = host.node.poll_event() {
                if let NodeEvent::Persist(bytes) = event {
                    self.disks[site] = bytes;
                } else {
                    host.learn(now, &event);
                    let name = &self.scenario.sites[site].name;
                    self.trace.say(now, name, &format!("{event:?}"));
                }
            }
            loop {
                self.written.clear();
                host.forward.poll_tun(&mut self.written);
                if self.written.packets.is_empty() {
                    break;
                }
                for (packet, _) in self.written.whole() {
                    self.trace.note(now, b't', site, tail(&packet));
                    arrive(&self.scenario.flows, &self.ledgers, site, now, &packet);
                }
            }
            carried.extend(std::iter::from_fn(|| host.forward.poll_carried()));
            let mut tx = std::mem::take(&mut self.tx);
            loop {
                tx.clear();
                host.forward.poll_transmit(&mut tx);
                if tx.runs.is_empty() {
                    break;
                }
                for (run, bytes) in tx.datagrams() {
                    let Some(to) = site_at(run.to) else { continue };
                    search(&self.scenario.flows, &mut self.carried, bytes);
                    self.said.on_datagram(bytes, OUTER);
                    let Some(link) = self.links.get_mut(&(site, to)) else { continue };
                    let verdict = link.offer(now, bytes.len() + OUTER, run.tos & 3);
                    let (at, again, ecn) = match verdict {
                        Verdict::Deliver { at, ecn, again } => (at, again, Some(ecn)),
                        Verdict::Discard { at } => (at, None, None),
                        Verdict::Drop(_) => continue,
                    };
                    for at in [Some(at), again].into_iter().flatten() {
                        self.serial += 1;
                        let due = ecn.map_or(Due::LocalDrop { to }, |ecn| {
                            let tos = run.tos & !3 | ecn;
                            Due::Datagram { to, from: site, tos, bytes: bytes.to_vec() }
                        });
                        self.due.insert((at, self.serial), due);
                    }
                }
            }
            self.tx = tx;
            for output in control {
                self.carry(site, output);
                quiet = false;
            }
            for (from, bytes) in carried {
                self.on_carrier(site, from, &bytes);
                quiet = false;
            }
            if quiet {
                break;
            }
        }
        if let Some(host) = self.hosts.get_mut(&site) {
            let before = host.wake();
            host.forward_wake = host.forward.poll_timeout().map(|deadline| deadline.at);
            if node {
                host.node_wake = host.node.poll_timeout().map(|deadline| deadline.at);
            }
            let after = host.wake();
            if before != after {
                if let Some(at) = before {
                    self.wakes.remove(&(at, site));
                }
                self.wakes.extend(after.map(|at| (at, site)));
            }
        }
    }

    /// Whether a stream between two sites gets nothing through.
    fn cut(&self, a: usize, b: usize) -> bool {
        let cut = |pair| self.links.get(&pair).is_none_or(|link| link.params().cut);
        cut((a, b)) || cut((b, a))
    }

    fn delay(&self, from: usize, to: usize) -> Duration {
        self.links.get(&(from, to)).map_or(Duration::ZERO, |link| link.params().delay)
    }

    fn carry(&mut self, site: usize, output: ControlOutput) {
        let now = self.now;
        let Some(life) = self.hosts.get(&site).map(|host| host.life) else { return };
        match output {
            ControlOutput::Dial { endpoint: to, name, node } => {
                if let Some(far) = carried_to(to) {
                    return self.dial_over(site, life, far, name);
                }
                let input = match self.dial(site, life, to, &name, node) {
                    Ok(()) => return,
                    Err(why) => ControlInput::DialFailed { endpoint: to, why: why.into() },
                };
                self.put(now.plus(DIAL_FAILS), Due::Control { to: site, life, input });
            }
            ControlOutput::Send { connection, bytes } => {
                self.said.on_message(&bytes);
                if self.streams.over(site, connection).is_some() {
                    return self.say_over(site, connection, &bytes);
                }
                self.say(site, connection, bytes);
            }
            // Streams lead to sites here, wherever those are.
            ControlOutput::Moved { .. } => {}
            ControlOutput::Close { connection, why } => {
                let gone = |connection| ControlInput::Closed { connection, why: why.into() };
                if self.streams.over(site, connection).is_some() {
                    self.close_over(site, connection);
                    let input = gone(connection);
                    return self.put(now, Due::Control { to: site, life, input });
                }
                let Some(far) = self.streams.close(site, connection) else { return };
                let input = gone(connection);
                self.put(now, Due::Control { to: site, life, input });
                let at = now.plus(self.delay(site, far.site));
                let (to, life, input) = (far.site, far.life, gone(far.connection));
                self.put(at, Due::Control { to, life, input });
            }
        }
    }

    fn dial(
        &mut self,
        site: usize,
        life: u64,
        to: SocketAddr,
        name: &str,
        node: Option<NodeId>,
    ) -> Result<(), &'static str> {
        let now = self.now;
        let far = site_at(to).filter(|far| !self.cut(site, *far)).ok_or("no answer")?;
        let far_life = self.hosts.get(&far).map(|host| host.life).ok_or("no answer")?;
        self.knows(far, name, node)?;
        // A handshake takes a round trip for who dials, and half of one more for who is dialled.
        let (forth, back) = (self.delay(site, far), self.delay(far, site));
        let here_at = now.plus(forth + back);
        let there_at = here_at.plus(forth);
        let (near_id, far_id) = self.streams.open((site, life, here_at), (far, far_life, there_at));
        let endpoints = [to, endpoint(site)];
        let (at_us, at_them) = self.introduce((site, near_id), (far, far_id), endpoints);
        self.put(here_at, Due::Control { to: site, life, input: at_us });
        self.put(there_at, Due::Control { to: far, life: far_life, input: at_them });
        Ok(())
    }

    /// Whether the node at a site is the one that is meant.
    fn knows(&self, far: usize, name: &str, node: Option<NodeId>) -> Result<(), &'static str> {
        let peer = LabTrust.verify(self.plans[far].certificate()).map_err(|_| "certificate")?;
        if peer.name != name || node.is_some_and(|node| site_of(node) != far) {
            return Err("another node's certificate");
        }
        Ok(())
    }

    /// What a new stream's ends are told, who dialled first. `endpoints`: where each is seen by the other.
    fn introduce(
        &mut self,
        near: (usize, ConnectionId),
        far: (usize, ConnectionId),
        [to, from]: [SocketAddr; 2],
    ) -> (ControlInput, ControlInput) {
        let mut secret = [0; 32];
        secret[..8].copy_from_slice(&self.dice.next_u64().to_be_bytes());
        let connected = |connection, peer: usize, dialled, endpoint| ControlInput::Connected {
            connection,
            peer: self.plans[peer].certified().clone(),
            certificate: self.plans[peer].certificate().to_vec(),
            secret: Secret::new(secret),
            dialled,
            endpoint,
        };
        (connected(near.1, far.0, true, to), connected(far.1, near.0, false, from))
    }

    fn say(&mut self, site: usize, connection: ConnectionId, bytes: Bytes) {
        let now = self.now;
        let Some(far) = self.streams.direction(site, connection).map(|d| d.far) else { return };
        let delay = self.delay(site, far.site);
        let cut = self.cut(site, far.site);
        match self.hosts.get(&far.site).map(|host| host.life) {
            // Silence: nobody tells that it died.
            None => return,
            Some(life) if life != far.life => {
                let Some(own) = self.hosts.get(&site).map(|host| host.life) else { return };
                self.streams.close(site, connection);
                let input = ControlInput::Closed { connection, why: "reset by the peer".into() };
                let at = now.plus(delay + self.delay(far.site, site));
                return self.put(at, Due::Control { to: site, life: own, input });
            }
            Some(_) => {}
        }
        let Some(direction) = self.streams.direction(site, connection) else { return };
        if cut || !direction.held.is_empty() {
            direction.held.push_back(bytes);
            return;
        }
        let at = now.plus(delay).max(direction.last_at);
        direction.last_at = at;
        let input = ControlInput::Message { connection: far.connection, bytes };
        self.put(at, Due::Control { to: far.site, life: far.life, input });
    }

    fn send_packet(&mut self, flow: usize) {
        let now = self.now;
        let spec = self.scenario.flows[flow].clone();
        if now >= Instant::ZERO.plus(spec.stop) {
            return;
        }
        let number = self.ledgers[flow].with(|ledger| ledger.note_sent(now.as_micros() * 1000));
        let packet = packet(&spec, flow, number);
        if let Some(host) = self.hosts.get_mut(&spec.from) {
            self.tun.clear();
            self.tun.push(&packet, Offload::None);
            host.forward.handle_tun(now, &mut self.tun);
            self.drain(spec.from, false);
        }
        let gap = Duration::from_micros(1_000_000 / u64::from(spec.pps.max(1)));
        self.put(now.plus(gap), Due::Packet { flow });
    }
}

/// The end of a message: where it is sealed or signed, it depends on everything before it.
fn tail(bytes: &[u8]) -> &[u8] {
    &bytes[bytes.len().saturating_sub(16)..]
}
