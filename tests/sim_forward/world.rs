//! Nodes in memory, joined by lines of given delay and loss, under virtual time.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use thalweg::buf::{Offload, RecvBatch, TunBatch, TunWrites, TxBatch};
use thalweg::forward::event::{FlipReason, ForwardEvent};
use thalweg::forward::snapshot::{LinkEntry, PeerEntry, Snapshot};
use thalweg::forward::{DropReason, ForwardConfig, Forwarder};
use thalweg::id::{Class, Lane, LinkId, NodeId};
use thalweg::quality::LinkMtu;
use thalweg::rng::Dice;
use thalweg::route::policy::{ClassSpec, Delivery, Marking};
use thalweg::route::prefix::PrefixMap;
use thalweg::route::table::{Path, Route, RouteTable};
use thalweg::session::keys::Secret;
use thalweg::time::Instant;

pub(crate) fn node(n: u16) -> NodeId {
    NodeId::new(n).unwrap()
}

pub(crate) fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

pub(crate) fn at_ms(n: u64) -> Instant {
    Instant::ZERO.plus(ms(n))
}

pub(crate) fn endpoint(n: u16) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, n as u8], 4600))
}

pub(crate) fn address(n: u16) -> Ipv4Addr {
    Ipv4Addr::new(10, 0, 0, n as u8)
}

pub(crate) fn network(n: u16) -> IpNet {
    IpNet::from(std::net::IpAddr::from(address(n)))
}

/// An IPv4 packet of protocol 17 from node `from`'s address to node `to`'s, its sums right.
pub(crate) fn packet(from: u16, to: u16, port: u16, payload: &[u8]) -> Vec<u8> {
    let total = 28 + payload.len();
    let mut p = vec![0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, 17, 0, 0];
    p[2..4].copy_from_slice(&(total as u16).to_be_bytes());
    p.extend(address(from).octets());
    p.extend(address(to).octets());
    let sum = !thalweg::forward::checksum::fold(thalweg::forward::checksum::sum(&p, 0));
    p[10..12].copy_from_slice(&sum.to_be_bytes());
    p.extend(port.to_be_bytes());
    p.extend(4000_u16.to_be_bytes());
    p.extend((8 + payload.len() as u16).to_be_bytes());
    p.extend([0, 0]);
    p.extend(payload);
    p
}

/// The same bytes as a TCP segment: what was the first word of the payload is its acknowledgement.
pub(crate) fn as_tcp(mut p: Vec<u8>) -> Vec<u8> {
    p[9] = 6;
    p[10..12].fill(0);
    let sum = !thalweg::forward::checksum::fold(thalweg::forward::checksum::sum(&p[..20], 0));
    p[10..12].copy_from_slice(&sum.to_be_bytes());
    p
}

pub(crate) fn payload_number(packet: &[u8]) -> u32 {
    u32::from_be_bytes(packet[28..32].try_into().unwrap())
}

/// How an ordered pair of nodes is joined.
#[derive(Clone, Copy)]
pub(crate) struct Line {
    pub(crate) delay: Duration,
    pub(crate) loss_ppm: u64,
    pub(crate) cut: bool,
}

/// What lies in the air: from, to, bytes.
pub(crate) type Flight = (u16, u16, Vec<u8>);

pub(crate) struct World {
    pub(crate) now: Instant,
    pub(crate) nodes: BTreeMap<u16, Forwarder>,
    pub(crate) lines: BTreeMap<(u16, u16), Line>,
    pub(crate) air: BTreeMap<(Instant, u64), Flight>,
    pub(crate) sent: u64,
    pub(crate) dice: Dice,
    /// Packets that came out of each node's TUN device, and when.
    pub(crate) out: BTreeMap<u16, Vec<(Instant, Vec<u8>, Offload)>>,
    pub(crate) events: BTreeMap<u16, Vec<(Instant, ForwardEvent)>>,
    /// Every datagram that reached each node.
    pub(crate) taps: BTreeMap<u16, Vec<Vec<u8>>>,
    /// The longest datagram of lines that do not carry all; the nodes at their ends know of it.
    pub(crate) narrow: BTreeMap<(u16, u16), u16>,
    /// Where nodes are that are not at their first endpoint.
    pub(crate) places: BTreeMap<u16, SocketAddr>,
    /// Where somebody is who sends on every datagram, before it arrives by itself.
    pub(crate) thief: Option<SocketAddr>,
    /// What was sent there.
    pub(crate) stolen: Vec<Vec<u8>>,
    /// How many classes of traffic there are.
    pub(crate) classes: u8,
}

/// Each pair's link has the peer's number at both ends, and this secret.
pub(crate) fn secret(a: u16, b: u16) -> Secret {
    let mut bytes = [7; 32];
    (bytes[0], bytes[1]) = (a.min(b) as u8, a.max(b) as u8);
    Secret::new(bytes)
}

/// The index that `from` writes on frames to `to`.
pub(crate) fn index(from: u16, to: u16) -> u32 {
    u32::from(to) << 20 | u32::from(from) << 8
}

/// What node `n` knows of node `m`: a session, and a link of so many lanes.
pub(crate) fn peer_entry(n: u16, m: u16, lanes: u8) -> PeerEntry {
    PeerEntry {
        node: node(m),
        generation: 1,
        secret: secret(n, m),
        networks: vec![network(m)],
        links: vec![LinkEntry {
            link: LinkId(m),
            endpoint: endpoint(m),
            receive_index: index(m, n),
            transmit_index: index(n, m),
            lanes,
            mtu: None,
        }],
    }
}

/// A node of one lane that relays, and knows no classes.
pub(crate) fn one_lane(n: u16, boot: u64) -> ForwardConfig {
    ForwardConfig {
        node: node(n),
        boot,
        mtu: 1340,
        classes: Vec::new(),
        networks: vec![network(n)],
        relay: true,
        tun_udp: true,
        lane: Lane::ONLY,
        max_rate_bps: None,
    }
}

impl World {
    /// Nodes 1 to `count`, every pair joined by `delay`, sessions everywhere, direct routes.
    pub(crate) fn mesh(count: u16, delay: Duration, delivery: Delivery) -> Self {
        Self::marked(count, delay, delivery, Marking::Copy)
    }

    /// The same, its one class marked like this on the outside.
    pub(crate) fn marked(
        count: u16,
        delay: Duration,
        delivery: Delivery,
        marking: Marking,
    ) -> Self {
        let spec = ClassSpec {
            name: "default".into(),
            matches: Default::default(),
            policy: Default::default(),
            delivery,
            marking,
        };
        Self::of_classes(count, delay, &[spec])
    }

    /// The same with these classes, whose routes are direct at first.
    pub(crate) fn of_classes(count: u16, delay: Duration, classes: &[ClassSpec]) -> Self {
        let mut world = Self {
            now: at_ms(1),
            nodes: BTreeMap::new(),
            lines: BTreeMap::new(),
            air: BTreeMap::new(),
            sent: 0,
            dice: Dice::new(42),
            out: BTreeMap::new(),
            events: BTreeMap::new(),
            taps: BTreeMap::new(),
            narrow: BTreeMap::new(),
            places: BTreeMap::new(),
            thief: None,
            stolen: Vec::new(),
            classes: classes.len() as u8,
        };
        for n in 1..=count {
            let config = ForwardConfig { classes: classes.to_vec(), ..one_lane(n, 1) };
            world.nodes.insert(n, Forwarder::new(config, u64::from(n), world.now));
            for m in (1..=count).filter(|&m| m != n) {
                world.lines.insert((n, m), Line { delay, loss_ppm: 0, cut: false });
            }
        }
        for n in 1..=count {
            world.install(n, &[]);
        }
        world
    }

    /// Node `n` starts anew with this boot counter, and relays for nobody.
    pub(crate) fn start_unwilling(&mut self, n: u16, boot: u64) {
        let config = ForwardConfig { relay: false, ..one_lane(n, boot) };
        self.nodes.insert(n, Forwarder::new(config, u64::from(n), self.now));
        self.install(n, &[]);
    }

    pub(crate) fn peers(&self, n: u16) -> Vec<PeerEntry> {
        let others = self.nodes.keys().copied().filter(|&m| m != n);
        let entry = |m| {
            let mut entry = peer_entry(n, m, 1);
            let known = self.narrow.get(&(n, m));
            entry.links[0].mtu = known.map(|&size| LinkMtu { size, settled: true });
            entry
        };
        others.map(entry).collect()
    }

    /// Installs node `n`'s table: direct everywhere but for these (primary, backup) paths.
    pub(crate) fn install(&mut self, n: u16, routes: &[(&[u16], Option<&[u16]>)]) {
        let mut table =
            RouteTable { generation: 1, prefixes: PrefixMap::new(), ..Default::default() };
        let path = |nodes: &[u16]| Path {
            link: LinkId(nodes[0]),
            nodes: nodes.iter().map(|&n| node(n)).collect(),
            delay: ms(10 * nodes.len() as u64),
        };
        for m in self.nodes.keys().copied() {
            table.prefixes.insert(network(m), node(m));
            if m != n {
                for class in 0..self.classes {
                    let route = Route::alone(path(&[m]));
                    table.routes.insert((node(m), Class(class)), route);
                }
            }
        }
        for (primary, backup) in routes {
            let to = node(*primary.last().unwrap());
            let route = Route { backup: backup.map(path), ..Route::alone(path(primary)) };
            table.routes.insert((to, Class(0)), route);
        }
        let snapshot =
            Snapshot { peers: Arc::new(self.peers(n)), routes: Arc::new(table), tuning: None };
        let now = self.now;
        self.nodes.get_mut(&n).unwrap().install(now, &snapshot);
        self.drain(n);
    }

    pub(crate) fn line(&mut self, a: u16, b: u16) -> &mut Line {
        self.lines.get_mut(&(a, b)).unwrap()
    }

    pub(crate) fn both(&mut self, a: u16, b: u16, change: impl Fn(&mut Line)) {
        change(self.line(a, b));
        change(self.line(b, a));
    }

    /// Fetches everything a node has to give.
    pub(crate) fn drain(&mut self, n: u16) {
        let forwarder = self.nodes.get_mut(&n).unwrap();
        loop {
            let mut tx = TxBatch::default();
            forwarder.poll_transmit(&mut tx);
            if tx.runs.is_empty() {
                break;
            }
            for (run, datagram) in tx.datagrams() {
                if self.thief == Some(run.to) {
                    self.stolen.push(datagram.to_vec());
                    continue;
                }
                let place = |m: &u16| self.places.get(m).copied().unwrap_or(endpoint(*m));
                // Who has left an endpoint gets nothing there.
                let there = self.lines.keys().map(|(m, _)| *m).find(|m| place(m) == run.to);
                let Some(to) = there else { continue };
                let line = self.lines[&(n, to)];
                let carries = self.narrow.get(&(n, to)).copied().unwrap_or(u16::MAX);
                if datagram.len() > usize::from(carries) {
                    continue;
                }
                if line.cut || self.dice.below(1_000_000) < line.loss_ppm {
                    continue;
                }
                self.sent += 1;
                let key = (self.now.plus(line.delay), self.sent);
                self.air.insert(key, (n, to, datagram.to_vec()));
            }
        }
        let mut tun = TunWrites::default();
        loop {
            let before = tun.packets.len();
            forwarder.poll_tun(&mut tun);
            if tun.packets.len() == before {
                break;
            }
        }
        let out = self.out.entry(n).or_default();
        out.extend(tun.whole().map(|(bytes, offload)| (self.now, bytes, offload)));
        while let Some(event) = forwarder.poll_event() {
            self.events.entry(n).or_default().push((self.now, event));
        }
    }

    pub(crate) fn deliver(&mut self, from: u16, to: u16, bytes: &[u8]) {
        let place = self.places.get(&from).copied().unwrap_or(endpoint(from));
        let mut batch = RecvBatch::default();
        for from in self.thief.into_iter().chain([place]) {
            batch.push(bytes, from, 0);
        }
        let now = self.now;
        self.nodes.get_mut(&to).unwrap().handle_udp(now, &mut batch);
        self.drain(to);
    }

    /// Lets time pass until `end`.
    pub(crate) fn run_until(&mut self, end: Instant) {
        loop {
            let flight = self.air.keys().next().map(|&(at, _)| at);
            let timers = self.nodes.values().filter_map(|f| f.poll_timeout()).map(|d| d.at);
            let timer = timers.min();
            let next = [flight, timer].into_iter().flatten().min().unwrap_or(Instant::FAR);
            if next > end {
                self.now = end;
                return;
            }
            self.now = self.now.max(next);
            if flight.is_some_and(|at| at <= self.now) {
                let (_, (from, to, bytes)) = self.air.pop_first().unwrap();
                self.taps.entry(to).or_default().push(bytes.clone());
                self.deliver(from, to, &bytes);
                continue;
            }
            let now = self.now;
            let due: Vec<u16> = self.nodes.keys().copied().collect();
            for n in due {
                let forwarder = self.nodes.get_mut(&n).unwrap();
                if forwarder.poll_timeout().is_some_and(|d| d.at <= now) {
                    let before = forwarder.poll_timeout();
                    forwarder.handle_timeout(now);
                    self.drain(n);
                    let after = self.nodes[&n].poll_timeout();
                    assert!(after.is_none_or(|d| d.at > now), "n{n} spins: {before:?} {after:?}");
                }
            }
        }
    }

    pub(crate) fn run_for(&mut self, span: Duration) {
        self.run_until(self.now.plus(span));
    }

    pub(crate) fn send(&mut self, from: u16, packet: &[u8], offload: Offload) {
        let mut batch = TunBatch::default();
        batch.push(packet, offload);
        let now = self.now;
        self.nodes.get_mut(&from).unwrap().handle_tun(now, &mut batch);
        self.drain(from);
    }

    /// A numbered packet every `gap`, for `count`, from `from` to `to`.
    pub(crate) fn flow(&mut self, from: u16, to: u16, count: u32, gap: Duration) {
        self.flow_of(from, to, count, gap, |packet| packet);
    }

    /// A flow whose packets `shape` makes out of plain ones.
    pub(crate) fn flow_of(
        &mut self,
        from: u16,
        to: u16,
        count: u32,
        gap: Duration,
        shape: fn(Vec<u8>) -> Vec<u8>,
    ) {
        for n in 0..count {
            let mut payload = n.to_be_bytes().to_vec();
            payload.resize(200, 0xab);
            self.send(from, &shape(packet(from, to, 5000, &payload)), Offload::None);
            self.run_for(gap);
        }
    }

    pub(crate) fn received(&self, n: u16) -> usize {
        self.out.get(&n).map_or(0, Vec::len)
    }

    pub(crate) fn dropped(&self, n: u16, reason: DropReason) -> u64 {
        self.nodes[&n].stats().dropped(reason)
    }

    pub(crate) fn drops(&self, n: u16) -> Vec<(DropReason, u64)> {
        self.nodes[&n].stats().drops().filter(|(_, count)| *count > 0).collect()
    }

    pub(crate) fn flips(&self, n: u16) -> Vec<(Instant, bool, FlipReason)> {
        let events = self.events.get(&n).into_iter().flatten();
        events
            .filter_map(|(at, event)| match *event {
                ForwardEvent::Flipped { to_backup, why, .. } => Some((*at, to_backup, why)),
                _ => None,
            })
            .collect()
    }
}

pub(crate) const PLAIN: Delivery = Delivery::NONE;
pub(crate) const REPAIRED: Delivery =
    Delivery { budget: ms_const(120), reorder: ms_const(120), ..Delivery::NONE };

const fn ms_const(n: u64) -> Duration {
    Duration::from_millis(n)
}
