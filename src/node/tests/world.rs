//! A small world: nodes joined by delayed queues, and a forwarder that only knows whether frames
//! would get through. The real forwarder meets nodes in `netsim`; here only knowledge is tested.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;

use crate::control::{ConnectionId, ControlInput, ControlOutput, carried_to, over_the_overlay};
use crate::forward::event::ForwardEvent;
use crate::forward::snapshot::{LinkEntry, PeerEntry, Snapshot};
use crate::id::{Class, LinkId, NodeId};
use crate::node::{Identity, Node, NodeConfig, NodeEvent, ProbeTimes, Seed};
use crate::report::{Answer, Command};
use crate::rng::Dice;
use crate::route::policy::{ClassSpec, Delivery, Match, Policy};
use crate::session::keys::Secret;
use crate::session::toy::{ToySigner, ToyTrust, certificate, certified};
use crate::time::Instant;
use crate::topology::member::Restored;
use crate::unit::{Price, Ratio};

/// The operator everyone trusts.
pub(super) const CA: u8 = 1;
/// How often the pretended forwarder looks.
const TICK: Duration = Duration::from_millis(20);
/// Silence after which it holds a link for down.
const SILENCE: Duration = Duration::from_millis(200);

pub(super) fn n(number: u16) -> NodeId {
    NodeId::new(number).unwrap()
}

pub(super) fn endpoint(number: u16) -> SocketAddr {
    SocketAddr::from(([192, 0, (number >> 8) as u8, number as u8], 4600))
}

pub(super) fn name(number: u16) -> String {
    format!("node-{number}")
}

pub(super) fn at(s: f64) -> Instant {
    Instant::from_micros((s * 1e6) as u64)
}

/// A configuration that knows these seeds.
pub(super) fn config(seeds: &[u16]) -> NodeConfig {
    let seed = |&s: &u16| Seed { name: name(s), endpoints: vec![endpoint(s)] };
    NodeConfig {
        seeds: seeds.iter().map(seed).collect(),
        advertise: Vec::new(),
        classes: vec![ClassSpec {
            name: "default".into(),
            matches: Match::default(),
            policy: Policy::default(),
            delivery: Delivery::NONE,
            marking: Default::default(),
        }],
        relay: true,
        use_relays: true,
        price: Price(0),
        probe: ProbeTimes {
            in_use: Duration::from_secs(1),
            idle: Duration::from_secs(15),
            stale_in_use: Duration::from_secs(3),
            stale_idle: Duration::from_secs(60),
        },
        lanes: 1,
        recompute: Duration::from_secs(300),
        margin: Ratio::from_ppm(30_000),
        hold_down: Duration::from_secs(10),
        observe: false,
        spent: false,
        member_expiry: Duration::from_secs(86_400),
        boot_floor: 0,
    }
}

/// A link's two ends and how it is, each way the same.
#[derive(Clone, Copy)]
pub(super) struct Wire {
    pub(super) one_way: Duration,
    pub(super) loss: Ratio,
    pub(super) cut: bool,
}

#[derive(Default)]
struct Counted {
    highest: u32,
    heard: u32,
}

pub(super) struct Host {
    pub(super) node: Node,
    pub(super) snapshot: Snapshot,
    pub(super) events: Vec<(Instant, NodeEvent)>,
    pub(super) state: Vec<u8>,
    /// Snapshots, with the time they came.
    pub(super) tables: Vec<(Instant, u64)>,
    links: BTreeMap<LinkId, (u64, bool, Instant)>,
    counted: BTreeMap<NodeId, Counted>,
    deadline: Option<Instant>,
}

#[derive(Debug)]
enum Due {
    Control(u16, ControlInput),
    Event(u16, ForwardEvent),
    /// A probe reaches its far end: from, link there, seq, sent at.
    Probe {
        from: u16,
        to: u16,
        link: LinkId,
        seq: u32,
        sent_at: Instant,
    },
    Tick,
}

#[derive(Clone, Copy)]
struct End {
    host: u16,
    life: u64,
    connection: ConnectionId,
}

pub(super) struct World {
    pub(super) now: Instant,
    pub(super) hosts: BTreeMap<u16, Host>,
    wires: BTreeMap<(u16, u16), Wire>,
    queue: BTreeMap<(Instant, u64), (u64, Due)>,
    streams: BTreeMap<(u16, ConnectionId), (End, Instant)>,
    lives: BTreeMap<u16, u64>,
    next: u64,
    pub(super) dice: Dice,
    pub(super) dials: u64,
    pub(super) messages: u64,
    /// The longest datagram that comes through anywhere.
    pub(super) carries: u16,
}

impl World {
    pub(super) fn new(seed: u64) -> Self {
        let mut world = Self {
            now: Instant::ZERO,
            hosts: BTreeMap::new(),
            wires: BTreeMap::new(),
            queue: BTreeMap::new(),
            streams: BTreeMap::new(),
            lives: BTreeMap::new(),
            next: 1,
            dice: Dice::new(seed),
            dials: 0,
            messages: 0,
            carries: 1472,
        };
        world.put(TICK, 0, Due::Tick);
        world
    }

    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    fn put(&mut self, after: Duration, life: u64, due: Due) {
        let key = (self.now.plus(after), self.number());
        self.queue.insert(key, (life, due));
    }

    /// Starts a node, from what it kept if it ran before.
    pub(super) fn start(&mut self, number: u16, config: NodeConfig) {
        let state = self.hosts.get(&number).map(|h| h.state.clone()).unwrap_or_default();
        self.start_as(number, &name(number), CA, config, &state);
    }

    pub(super) fn start_as(
        &mut self,
        number: u16,
        name: &str,
        ca: u8,
        config: NodeConfig,
        state: &[u8],
    ) {
        let identity = Identity {
            certified: certified(number, name),
            certificate: certificate(ca, number, name),
            signer: Box::new(ToySigner::new(number)),
            trust: Box::new(ToyTrust::new(ca)),
        };
        let restored =
            if state.is_empty() { Restored::default() } else { Restored::read(state).unwrap() };
        let life = self.number();
        let node = Node::new(config, identity, &restored, u64::from(number) << 32 | life, self.now);
        self.lives.insert(number, life);
        let host = Host {
            node,
            snapshot: Snapshot::default(),
            events: Vec::new(),
            state: state.to_vec(),
            tables: Vec::new(),
            links: BTreeMap::new(),
            counted: BTreeMap::new(),
            deadline: None,
        };
        self.hosts.insert(number, host);
        self.drain(number);
    }

    /// The node gets new papers while it runs.
    pub(super) fn renew(&mut self, number: u16, identity: Identity) {
        let now = self.now;
        if let Some(host) = self.hosts.get_mut(&number) {
            host.node.handle_identity(now, identity);
        }
        self.drain(number);
    }

    /// The process dies without a word; others' streams to it stay open, as QUIC's would.
    /// The operator decides anew for a running node.
    pub(super) fn reload(&mut self, number: u16, config: NodeConfig) {
        let host = self.hosts.get_mut(&number).unwrap();
        host.node.handle_config(self.now, config, None);
        self.drain(number);
    }

    pub(super) fn kill(&mut self, number: u16) {
        self.lives.remove(&number);
    }

    /// Carries out what a node said while it was stopped by hand.
    pub(super) fn start_stopping(&mut self, number: u16) {
        self.drain(number);
    }

    pub(super) fn is_alive(&self, number: u16) -> bool {
        self.lives.contains_key(&number)
    }

    pub(super) fn wire(&self, a: u16, b: u16) -> Wire {
        let default = Wire { one_way: Duration::from_millis(10), loss: Ratio::ZERO, cut: false };
        self.wires.get(&(a.min(b), a.max(b))).copied().unwrap_or(default)
    }

    pub(super) fn set_wire(&mut self, a: u16, b: u16, wire: Wire) {
        self.wires.insert((a.min(b), a.max(b)), wire);
    }

    pub(super) fn set_delay(&mut self, a: u16, b: u16, ms: u64) {
        let wire = Wire { one_way: Duration::from_millis(ms), ..self.wire(a, b) };
        self.set_wire(a, b, wire);
    }

    pub(super) fn cut(&mut self, a: u16, b: u16, cut: bool) {
        let wire = Wire { cut, ..self.wire(a, b) };
        self.set_wire(a, b, wire);
    }

    /// Runs until `until`; fails where a node asks for the clock without end.
    pub(super) fn run(&mut self, until: Instant) {
        let mut turns = 0_u64;
        loop {
            let queued = self.queue.first_key_value().map(|(&(at, _), _)| at);
            let timer = self
                .hosts
                .iter()
                .filter(|(number, _)| self.lives.contains_key(number))
                .filter_map(|(&number, h)| Some((h.deadline?, number)))
                .min();
            let next = queued.into_iter().chain(timer.map(|(at, _)| at)).min();
            let Some(next) = next.filter(|&at| at <= until) else { break };
            turns = if next > self.now { 0 } else { turns + 1 };
            assert!(turns < 200_000, "somebody spins at {}: {timer:?}", self.now);
            self.now = self.now.max(next);
            if queued == Some(next) {
                if let Some((_, (life, due))) = self.queue.pop_first() {
                    self.happen(life, due);
                }
            } else if let Some((_, number)) = timer {
                let now = self.now;
                if let Some(host) = self.hosts.get_mut(&number) {
                    host.node.handle_timeout(now);
                }
                self.drain(number);
            }
        }
        self.now = until;
    }

    fn lives_as(&self, number: u16, life: u64) -> bool {
        self.lives.get(&number) == Some(&life)
    }

    fn happen(&mut self, life: u64, due: Due) {
        let now = self.now;
        match due {
            Due::Control(number, input) => {
                if !self.lives_as(number, life) {
                    return;
                }
                if let Some(host) = self.hosts.get_mut(&number) {
                    host.node.handle_control(now, input);
                }
                self.drain(number);
            }
            Due::Event(number, event) => {
                if !self.lives_as(number, life) {
                    return;
                }
                if let Some(host) = self.hosts.get_mut(&number) {
                    host.node.handle_event(now, event);
                }
                self.drain(number);
            }
            Due::Probe { from, to, link, seq, sent_at } => {
                self.on_probe(from, to, link, seq, sent_at);
            }
            Due::Tick => {
                self.put(TICK, 0, Due::Tick);
                let alive: Vec<u16> = self.lives.keys().copied().collect();
                for number in alive {
                    self.look(number);
                }
            }
        }
    }

    /// The far entry of a link, where its frames would be understood.
    fn far(&self, number: u16, peer: &PeerEntry, link: &LinkEntry) -> Option<(u16, LinkId)> {
        let far = peer.node.get();
        let own = n(number);
        if self.wire(number, far).cut || !self.is_alive(far) {
            return None;
        }
        let entry = self.hosts.get(&far)?.snapshot.peers.iter().find(|p| p.node == own)?;
        let back = entry.links.first()?;
        let same = entry.secret == peer.secret
            && back.receive_index == link.transmit_index
            && back.transmit_index == link.receive_index;
        same.then_some((far, back.link))
    }

    /// The pretended forwarder's verdict on each link.
    fn look(&mut self, number: u16) {
        let now = self.now;
        let Some(life) = self.lives.get(&number).copied() else { return };
        let Some(host) = self.hosts.get(&number) else { return };
        let mut verdicts = Vec::new();
        for peer in host.snapshot.peers.iter() {
            for link in &peer.links {
                verdicts.push((link.link, peer.generation, self.far(number, peer, link).is_some()));
            }
        }
        let Some(host) = self.hosts.get_mut(&number) else { return };
        let mut events = Vec::new();
        for (link, generation, works) in verdicts {
            let state = host.links.entry(link).or_insert((generation, false, now));
            if state.0 != generation {
                *state = (generation, false, now);
            }
            if works {
                state.2 = now;
                if !std::mem::replace(&mut state.1, true) {
                    events.push(ForwardEvent::LinkUp { link });
                }
            } else if state.1 && now.since(state.2) >= SILENCE {
                state.1 = false;
                events.push(ForwardEvent::LinkDown { link, silence: now.since(state.2) });
            }
        }
        for event in events {
            self.put(Duration::ZERO, life, Due::Event(number, event));
        }
    }

    fn on_probe(&mut self, from: u16, to: u16, link: LinkId, seq: u32, sent_at: Instant) {
        let wire = self.wire(from, to);
        let (Some(&life), Some(&near_life)) = (self.lives.get(&to), self.lives.get(&from)) else {
            return;
        };
        let now = self.now;
        let Some(host) = self.hosts.get_mut(&to) else { return };
        let counted = host.counted.entry(n(from)).or_default();
        counted.highest = counted.highest.max(seq);
        counted.heard += 1;
        let (peer_highest, peer_heard) = (counted.highest, counted.heard);
        let there = host.snapshot.peers.iter().find(|p| p.node == n(from));
        let there = there.and_then(|p| p.links.first()).map(|l| l.link);
        if let Some(there) = there {
            let heard = ForwardEvent::ProbeHeard {
                link: there,
                seq,
                sent_at_peer_us: sent_at.as_micros(),
                received_at: now,
            };
            self.put(Duration::ZERO, life, Due::Event(to, heard));
        }
        if wire.cut || self.dice.unit() < wire.loss.as_f64() {
            return;
        }
        let reply = ForwardEvent::ProbeReply {
            link,
            seq,
            sent_at,
            received_at: now.plus(wire.one_way),
            dwell: Duration::ZERO,
            peer_highest,
            peer_heard,
        };
        self.put(wire.one_way, near_life, Due::Event(from, reply));
    }

    /// Every poll door until all are empty.
    /// The forwarder of `a` says that packets go to `b`.
    pub(super) fn send_packets(&mut self, a: u16, b: u16) {
        let event = ForwardEvent::InUse { destination: n(b), class: crate::id::Class(0) };
        let now = self.now;
        if let Some(host) = self.hosts.get_mut(&a) {
            host.node.handle_event(now, event);
            self.drain(a);
        }
    }

    fn drain(&mut self, number: u16) {
        let Some(life) = self.lives.get(&number).copied() else { return };
        let now = self.now;
        let mut control = Vec::new();
        let mut probes = Vec::new();
        if let Some(host) = self.hosts.get_mut(&number) {
            while let Some(output) = host.node.poll_control() {
                control.push(output);
            }
            if let Some(snapshot) = host.node.poll_snapshot() {
                host.tables.push((now, snapshot.routes.generation));
                host.snapshot = snapshot;
            }
            while let Some(probe) = host.node.poll_send() {
                probes.push(probe);
            }
            while let Some(event) = host.node.poll_event() {
                if let NodeEvent::Persist(bytes) = &event {
                    host.state = bytes.clone();
                }
                host.events.push((now, event));
            }
            host.deadline = host.node.poll_timeout().map(|d| d.at);
        }
        for output in control {
            self.carry(number, life, output);
        }
        for probe in probes {
            let peer = self.hosts.get(&number).and_then(|host| {
                let entries = host.snapshot.peers.iter();
                entries
                    .flat_map(|p| p.links.iter().map(move |l| (p, l)))
                    .find(|(_, l)| l.link == probe.link)
                    .and_then(|(p, l)| self.far(number, p, l))
            });
            if let Some((far, _)) = peer {
                let wire = self.wire(number, far);
                if let Some(size) = probe.size {
                    if size <= self.carries && !wire.cut {
                        let (link, seq) = (probe.link, probe.seq);
                        let answer = ForwardEvent::SizeAnswered { link, seq, size };
                        self.put(2 * wire.one_way, life, Due::Event(number, answer));
                    }
                    continue;
                }
                if self.dice.unit() >= wire.loss.as_f64() {
                    let (link, seq) = (probe.link, probe.seq);
                    let due = Due::Probe { from: number, to: far, link, seq, sent_at: now };
                    self.put(wire.one_way, 0, due);
                }
            }
        }
    }

    fn carry(&mut self, number: u16, life: u64, output: ControlOutput) {
        match output {
            ControlOutput::Dial { endpoint: to, name: wanted, node } => {
                self.dials += 1;
                let carried = carried_to(to).map(|n| n.get()).filter(|&k| {
                    let routes = &self.hosts[&number].snapshot.routes;
                    let way = routes.carriers.get(&n(k)).map(|path| path.nodes.as_slice());
                    let way = way.unwrap_or_default().iter().map(|n| n.get());
                    let hops: Vec<u16> = [number].into_iter().chain(way).collect();
                    let open = |h: &[u16]| self.is_alive(h[1]) && !self.wire(h[0], h[1]).cut;
                    hops.len() > 2 && hops.windows(2).all(open)
                });
                let target = self.lives.keys().copied().find(|&k| endpoint(k) == to).or(carried);
                let failed = |why: &str| ControlInput::DialFailed { endpoint: to, why: why.into() };
                let open = |&t: &u16| carried.is_some() || !self.wire(number, t).cut;
                let Some(target) = target.filter(open) else {
                    let due = Due::Control(number, failed("no answer"));
                    return self.put(Duration::from_secs(3), life, due);
                };
                let wire = self.wire(number, target);
                let (us, them) = (&self.hosts[&number].node, &self.hosts[&target].node);
                let ours = us.trust.verify(&them.certificate);
                let theirs = them.trust.verify(&us.certificate);
                let (theirs_certificate, own_certificate) =
                    (them.certificate.clone(), us.certificate.clone());
                let (Ok(far), Ok(near)) = (ours, theirs) else {
                    let due = Due::Control(number, failed("foreign certificate"));
                    return self.put(2 * wire.one_way, life, due);
                };
                if far.name != wanted || node.is_some_and(|n| n != far.node) {
                    let due = Due::Control(number, failed("wrong name"));
                    return self.put(2 * wire.one_way, life, due);
                }
                let mut secret = [0; 32];
                secret[..8].copy_from_slice(&self.number().to_be_bytes());
                let far_life = self.lives[&target];
                let a = ConnectionId(self.number());
                let b = ConnectionId(self.number());
                let (near_end, far_end) = (
                    End { host: number, life, connection: a },
                    End { host: target, life: far_life, connection: b },
                );
                self.streams.insert((number, a), (far_end, self.now));
                self.streams.insert((target, b), (near_end, self.now));
                let at_us = ControlInput::Connected {
                    connection: a,
                    peer: far,
                    certificate: theirs_certificate,
                    secret: Secret::new(secret),
                    dialled: true,
                    endpoint: to,
                };
                let at_them = ControlInput::Connected {
                    connection: b,
                    peer: near,
                    certificate: own_certificate,
                    secret: Secret::new(secret),
                    dialled: false,
                    endpoint: carried.map_or(endpoint(number), |_| over_the_overlay(n(number))),
                };
                self.put(2 * wire.one_way, life, Due::Control(number, at_us));
                self.put(3 * wire.one_way, far_life, Due::Control(target, at_them));
            }
            ControlOutput::Send { connection, bytes } => {
                self.messages += 1;
                let Some((end, last)) = self.streams.get(&(number, connection)).copied() else {
                    return;
                };
                let wire = self.wire(number, end.host);
                // What is said into a cut is said again until it comes through, in order.
                let delay = if wire.cut { Duration::from_secs(1) } else { wire.one_way };
                // Nothing overtakes the handshake.
                let arrives = self.now.plus(delay).max(last.plus(3 * wire.one_way)).max(last);
                self.streams.insert((number, connection), (end, arrives.minus(3 * wire.one_way)));
                let input = ControlInput::Message { connection: end.connection, bytes };
                let due = Due::Control(end.host, input);
                let key = (arrives, self.number());
                self.queue.insert(key, (end.life, due));
            }
            ControlOutput::Moved { .. } => {}
            ControlOutput::Close { connection, why } => {
                let Some((end, _)) = self.streams.remove(&(number, connection)) else { return };
                self.streams.remove(&(end.host, end.connection));
                let gone = |connection| ControlInput::Closed { connection, why: why.into() };
                let wire = self.wire(number, end.host);
                self.put(Duration::ZERO, life, Due::Control(number, gone(connection)));
                self.put(wire.one_way, end.life, Due::Control(end.host, gone(end.connection)));
            }
        }
    }

    /// Hands a node bytes as if its peer had said them on their stream.
    pub(super) fn say(&mut self, from: u16, to: u16, bytes: impl Into<Bytes>) {
        let bytes = bytes.into();
        let stream = self.streams.iter().find(|((h, _), (end, _))| *h == from && end.host == to);
        if let Some((&(_, connection), _)) = stream {
            let life = self.lives[&from];
            self.carry(from, life, ControlOutput::Send { connection, bytes });
        }
    }

    /// One side's stream breaks, and the other never hears of it.
    pub(super) fn forget_stream(&mut self, host: u16, other: u16) {
        let stream = self.streams.iter().find(|((h, _), (end, _))| *h == host && end.host == other);
        if let Some((&(_, connection), _)) = stream {
            self.streams.remove(&(host, connection));
            let life = self.lives[&host];
            let closed = ControlInput::Closed { connection, why: "reset".into() };
            self.put(Duration::ZERO, life, Due::Control(host, closed));
        }
    }

    /// Pairs of living hosts that lack keys, or whose frames would not be understood.
    pub(super) fn missing(&self) -> Vec<(u16, u16)> {
        let mut missing = Vec::new();
        for &a in self.lives.keys() {
            for &b in self.lives.keys().filter(|&&b| b != a) {
                let entry = self.hosts[&a].snapshot.peers.iter().find(|p| p.node == n(b));
                let works = entry.and_then(|p| self.far(a, p, p.links.first()?));
                if works.is_none() {
                    missing.push((a, b));
                }
            }
        }
        missing
    }

    /// Nodes of the primary path from one host to another, the source left out.
    pub(super) fn path(&self, a: u16, b: u16) -> Vec<u16> {
        let routes = &self.hosts[&a].snapshot.routes;
        let route = routes.lookup(n(b), Class(0));
        route.map(|r| r.primary.nodes.iter().map(|n| n.get()).collect()).unwrap_or_default()
    }

    /// What `explain DESTINATION [--class CLASS]` answers at a host now.
    pub(super) fn explain(&mut self, at: u16, destination: &str, class: Option<&str>) -> Answer {
        let command = Command::Explain {
            destination: destination.into(),
            class: class.map(str::to_owned),
            dscp: None,
            protocol: None,
            port: None,
        };
        self.hosts.get_mut(&at).unwrap().node.handle_command(self.now, &command)
    }

    /// Whether every path of a living host leads over living hosts and working wires to a living one.
    pub(super) fn broken_paths(&self) -> Vec<(u16, u16)> {
        let mut broken = Vec::new();
        let alive: BTreeSet<u16> = self.lives.keys().copied().collect();
        for &a in &alive {
            for &b in alive.iter().filter(|&&b| b != a) {
                let path = self.path(a, b);
                let hops = [a].into_iter().chain(path.iter().copied()).collect::<Vec<_>>();
                let good = path.last() == Some(&b)
                    && hops.windows(2).all(|h| alive.contains(&h[1]) && !self.wire(h[0], h[1]).cut);
                if !good {
                    broken.push((a, b));
                }
            }
        }
        broken
    }

    pub(super) fn events(&self, number: u16, test: impl Fn(&NodeEvent) -> bool) -> usize {
        self.hosts[&number].events.iter().filter(|(_, e)| test(e)).count()
    }
}
