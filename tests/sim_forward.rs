//! Forwarders in memory under virtual time: packets find their way, over relays, loss and failure,
//! and nothing hostile gets through or stops them.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use proptest::prelude::*;
use thalweg::buf::{Offload, RecvBatch, Segmentation, TunBatch, TxBatch};
use thalweg::forward::event::{FlipReason, ForwardEvent, ProbeRequest};
use thalweg::forward::snapshot::{LinkEntry, PeerEntry, Snapshot};
use thalweg::forward::{DropReason, ForwardConfig, Forwarder};
use thalweg::id::{Class, LinkId, NodeId, StreamId};
use thalweg::rng::Dice;
use thalweg::route::policy::{ClassSpec, Delivery};
use thalweg::route::prefix::PrefixMap;
use thalweg::route::table::{Path, Route, RouteTable};
use thalweg::session::keys::{Scope, Secret, nonce};
use thalweg::session::seal::SealKey;
use thalweg::time::Instant;
use thalweg::wire::Kind;
use thalweg::wire::data::{DataMut, hop_aad};
use thalweg::wire::header::Clear;

fn node(n: u16) -> NodeId {
    NodeId::new(n).unwrap()
}

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

fn at_ms(n: u64) -> Instant {
    Instant::ZERO.plus(ms(n))
}

fn endpoint(n: u16) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, n as u8], 4600))
}

fn address(n: u16) -> Ipv4Addr {
    Ipv4Addr::new(10, 0, 0, n as u8)
}

fn network(n: u16) -> IpNet {
    IpNet::from(std::net::IpAddr::from(address(n)))
}

/// An IPv4 packet of protocol 17 from node `from`'s address to node `to`'s, its sums right.
fn packet(from: u16, to: u16, port: u16, payload: &[u8]) -> Vec<u8> {
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

fn payload_number(packet: &[u8]) -> u32 {
    u32::from_be_bytes(packet[28..32].try_into().unwrap())
}

/// How an ordered pair of nodes is joined.
#[derive(Clone, Copy)]
struct Line {
    delay: Duration,
    loss_ppm: u64,
    cut: bool,
}

/// What lies in the air: from, to, bytes.
type Flight = (u16, u16, Vec<u8>);

struct World {
    now: Instant,
    nodes: BTreeMap<u16, Forwarder>,
    lines: BTreeMap<(u16, u16), Line>,
    air: BTreeMap<(Instant, u64), Flight>,
    sent: u64,
    dice: Dice,
    /// Packets that came out of each node's TUN device, and when.
    out: BTreeMap<u16, Vec<(Instant, Vec<u8>, Offload)>>,
    events: BTreeMap<u16, Vec<(Instant, ForwardEvent)>>,
    /// Every datagram that reached each node.
    taps: BTreeMap<u16, Vec<Vec<u8>>>,
}

/// Each pair's link has the peer's number at both ends, and this secret.
fn secret(a: u16, b: u16) -> Secret {
    let mut bytes = [7; 32];
    (bytes[0], bytes[1]) = (a.min(b) as u8, a.max(b) as u8);
    Secret::new(bytes)
}

/// The index that `from` writes on frames to `to`.
fn index(from: u16, to: u16) -> u32 {
    u32::from(to) << 20 | u32::from(from) << 8
}

impl World {
    /// Nodes 1 to `count`, every pair joined by `delay`, sessions everywhere, direct routes.
    fn mesh(count: u16, delay: Duration, delivery: Delivery) -> Self {
        let spec = ClassSpec {
            name: "default".into(),
            matches: Default::default(),
            policy: Default::default(),
            delivery,
        };
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
        };
        for n in 1..=count {
            let config = ForwardConfig {
                node: node(n),
                boot: 1,
                mtu: 1340,
                classes: vec![spec.clone()],
                networks: vec![network(n)],
                relay: true,
                tun_udp: true,
            };
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

    fn peers(&self, n: u16) -> Vec<PeerEntry> {
        let others = self.nodes.keys().copied().filter(|&m| m != n);
        others
            .map(|m| PeerEntry {
                node: node(m),
                generation: 1,
                secret: secret(n, m),
                networks: vec![network(m)],
                links: vec![LinkEntry {
                    link: LinkId(m),
                    endpoint: endpoint(m),
                    receive_index: index(m, n),
                    transmit_index: index(n, m),
                }],
            })
            .collect()
    }

    /// Installs node `n`'s table: direct everywhere but for these (primary, backup) paths.
    fn install(&mut self, n: u16, routes: &[(&[u16], Option<&[u16]>)]) {
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
                let route = Route { primary: path(&[m]), backup: None };
                table.routes.insert((node(m), Class(0)), route);
            }
        }
        for (primary, backup) in routes {
            let to = node(*primary.last().unwrap());
            let route = Route { primary: path(primary), backup: backup.map(path) };
            table.routes.insert((to, Class(0)), route);
        }
        let snapshot = Snapshot { peers: Arc::new(self.peers(n)), routes: Arc::new(table) };
        let now = self.now;
        self.nodes.get_mut(&n).unwrap().install(now, &snapshot);
        self.drain(n);
    }

    fn line(&mut self, a: u16, b: u16) -> &mut Line {
        self.lines.get_mut(&(a, b)).unwrap()
    }

    fn both(&mut self, a: u16, b: u16, change: impl Fn(&mut Line)) {
        change(self.line(a, b));
        change(self.line(b, a));
    }

    /// Fetches everything a node has to give.
    fn drain(&mut self, n: u16) {
        let forwarder = self.nodes.get_mut(&n).unwrap();
        loop {
            let mut tx = TxBatch::default();
            forwarder.poll_transmit(&mut tx);
            if tx.runs.is_empty() {
                break;
            }
            for (run, datagram) in tx.datagrams() {
                let SocketAddr::V4(to) = run.to else { panic!("IPv4 only") };
                let to = u16::from(to.ip().octets()[3]);
                let line = self.lines[&(n, to)];
                if line.cut || self.dice.below(1_000_000) < line.loss_ppm {
                    continue;
                }
                self.sent += 1;
                let key = (self.now.plus(line.delay), self.sent);
                self.air.insert(key, (n, to, datagram.to_vec()));
            }
        }
        let mut tun = TunBatch::default();
        loop {
            let before = tun.packets.len();
            forwarder.poll_tun(&mut tun);
            if tun.packets.len() == before {
                break;
            }
        }
        let out = self.out.entry(n).or_default();
        out.extend(tun.iter().map(|(bytes, offload)| (self.now, bytes.to_vec(), offload)));
        while let Some(event) = forwarder.poll_event() {
            self.events.entry(n).or_default().push((self.now, event));
        }
    }

    fn deliver(&mut self, from: u16, to: u16, bytes: &[u8]) {
        let mut batch = RecvBatch::default();
        batch.push(bytes, endpoint(from), 0);
        let now = self.now;
        self.nodes.get_mut(&to).unwrap().handle_udp(now, &mut batch);
        self.drain(to);
    }

    /// Lets time pass until `end`.
    fn run_until(&mut self, end: Instant) {
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

    fn run_for(&mut self, span: Duration) {
        self.run_until(self.now.plus(span));
    }

    fn send(&mut self, from: u16, packet: &[u8], offload: Offload) {
        let mut batch = TunBatch::default();
        batch.push(packet, offload);
        let now = self.now;
        self.nodes.get_mut(&from).unwrap().handle_tun(now, &mut batch);
        self.drain(from);
    }

    /// A numbered packet every `gap`, for `count`, from `from` to `to`.
    fn flow(&mut self, from: u16, to: u16, count: u32, gap: Duration) {
        for n in 0..count {
            let mut payload = n.to_be_bytes().to_vec();
            payload.resize(200, 0xab);
            self.send(from, &packet(from, to, 5000, &payload), Offload::None);
            self.run_for(gap);
        }
    }

    fn received(&self, n: u16) -> usize {
        self.out.get(&n).map_or(0, Vec::len)
    }

    fn dropped(&self, n: u16, reason: DropReason) -> u64 {
        self.nodes[&n].stats().dropped(reason)
    }

    fn drops(&self, n: u16) -> Vec<(DropReason, u64)> {
        self.nodes[&n].stats().drops().filter(|(_, count)| *count > 0).collect()
    }

    fn flips(&self, n: u16) -> Vec<(Instant, bool, FlipReason)> {
        let events = self.events.get(&n).into_iter().flatten();
        events
            .filter_map(|(at, event)| match *event {
                ForwardEvent::Flipped { to_backup, why, .. } => Some((*at, to_backup, why)),
                _ => None,
            })
            .collect()
    }
}

const PLAIN: Delivery = Delivery { budget: Duration::ZERO, reorder: Duration::ZERO };
const REPAIRED: Delivery = Delivery { budget: ms_const(120), reorder: ms_const(120) };

const fn ms_const(n: u64) -> Duration {
    Duration::from_millis(n)
}

#[test]
fn links_come_up_in_a_round_trip_and_stay_silent_strangers_do_not() {
    let mut world = World::mesh(3, ms(10), PLAIN);
    world.both(1, 3, |line| line.cut = true);
    world.run_until(at_ms(500));
    let ups: Vec<_> = world.events[&1]
        .iter()
        .filter_map(|(at, e)| match e {
            ForwardEvent::LinkUp { link } => Some((*at, link.0)),
            _ => None,
        })
        .collect();
    assert_eq!(ups, [(at_ms(21), 2)]);
}

#[test]
fn packets_cross_a_relay_both_ways_and_it_cannot_read_them() {
    let mut world = World::mesh(3, ms(10), PLAIN);
    world.install(1, &[(&[2, 3], None)]);
    world.install(3, &[(&[2, 1], None)]);
    world.run_until(at_ms(100));
    let secret_words = b"a payload that only the two ends may ever see, in any form";
    let (there, back) = (packet(1, 3, 1, secret_words), packet(3, 1, 1, secret_words));
    world.send(1, &there, Offload::None);
    world.send(3, &back, Offload::None);
    world.run_for(ms(50));
    assert_eq!(world.out[&3], [(at_ms(120), there, Offload::None)]);
    assert_eq!(world.out[&1], [(at_ms(120), back, Offload::None)]);
    assert_eq!(world.nodes[&2].stats().relay.packets, 2);
    let words = &secret_words[..16];
    let leaked = world.taps[&2].iter().any(|d| d.windows(16).any(|w| w == words));
    assert!(!leaked);
    assert!(world.taps[&2].iter().any(|d| d.len() == 28 + secret_words.len() + 78));
    for n in 1..=3 {
        assert_eq!(world.drops(n), [], "n{n}");
    }
}

#[test]
fn super_segments_are_split_for_the_way_and_joined_at_the_end() {
    let mut world = World::mesh(2, ms(1), PLAIN);
    world.run_until(at_ms(50));
    // Ten datagrams of 1000 bytes under one header.
    let payload: Vec<u8> = (0..10_000_u32).map(|n| n as u8).collect();
    let whole = packet(1, 2, 9, &payload);
    let offload = Offload::Segments { kind: Segmentation::Udp, header: 28, size: 1000 };
    world.send(1, &whole, offload);
    world.run_for(ms(10));
    let bytes: usize = world.out[&2].iter().map(|(_, p, _)| p.len() - 28).sum();
    assert_eq!(bytes, payload.len());
    assert_eq!(world.nodes[&1].stats().ingress.packets, 10);
    assert_eq!(world.nodes[&2].stats().egress.packets, 10);
}

#[test]
fn datagrams_of_one_flow_leave_as_one_run() {
    let mut world = World::mesh(2, ms(1), PLAIN);
    world.run_until(at_ms(50));
    let mut batch = TunBatch::default();
    for _ in 0..20 {
        batch.push(&packet(1, 2, 9, &[1; 500]), Offload::None);
    }
    let now = world.now;
    let forwarder = world.nodes.get_mut(&1).unwrap();
    forwarder.handle_tun(now, &mut batch);
    let mut tx = TxBatch::default();
    forwarder.poll_transmit(&mut tx);
    assert_eq!(tx.runs.len(), 1, "{:?}", tx.runs);
    assert_eq!(tx.runs[0].segment, 528 + 78);
    assert_eq!(tx.datagrams().count(), 20);
}

#[test]
fn a_clean_link_sees_no_retransmission_and_little_feedback() {
    let mut world = World::mesh(2, ms(20), REPAIRED);
    world.run_until(at_ms(100));
    world.flow(1, 2, 2000, ms(2));
    world.run_for(ms(200));
    assert_eq!(world.received(2), 2000);
    let link = *world.nodes[&1].stats().link(LinkId(2)).unwrap();
    assert_eq!((link.retransmits, link.sent.repair), (0, 0));
    let back = *world.nodes[&2].stats().link(LinkId(1)).unwrap();
    let (data, feedback) = (link.sent.data + link.sent.framing, back.sent.feedback);
    // One percent and 32 kbit/s, for four seconds and a bit.
    assert!(feedback > 0 && feedback < data / 100 + 4000 * 5, "{feedback} of {data}");
    assert_eq!(world.nodes[&1].frames_held(), 0, "all acknowledged, nothing kept");
}

#[test]
fn loss_is_repaired_within_the_deadline_and_order_is_kept() {
    let mut world = World::mesh(3, ms(10), REPAIRED);
    world.install(1, &[(&[2, 3], None)]);
    world.run_until(at_ms(100));
    world.both(1, 2, |line| line.loss_ppm = 20_000);
    world.both(2, 3, |line| line.loss_ppm = 20_000);
    world.flow(1, 3, 5000, ms(2));
    world.run_for(ms(300));
    let numbers: Vec<u32> = world.out[&3].iter().map(|(_, p, _)| payload_number(p)).collect();
    assert!(numbers.len() >= 4998, "{} of 5000 came", numbers.len());
    assert!(numbers.is_sorted(), "in order");
    let sent_at = |n: u32| at_ms(100 + 2 * u64::from(n));
    let late = world.out[&3].iter().map(|(at, p, _)| at.since(sent_at(payload_number(p)))).max();
    // Path delay 20 ms and the budget of 120 ms.
    assert!(late.unwrap() <= ms(140), "{late:?}");
    let link = world.nodes[&1].stats().link(LinkId(2)).unwrap();
    assert!((80..=160).contains(&link.retransmits), "{}", link.retransmits);
}

#[test]
fn replays_forgeries_and_strangers_are_counted_and_harmless() {
    let mut world = World::mesh(3, ms(10), PLAIN);
    world.install(1, &[(&[2, 3], None)]);
    world.run_until(at_ms(100));
    world.send(1, &packet(1, 3, 1, b"once"), Offload::None);
    world.run_for(ms(50));
    assert_eq!(world.received(3), 1);
    for n in [2, 3] {
        let seen = world.taps[&n].clone();
        let frames = seen.len() as u64;
        for datagram in &seen {
            world.deliver(1, n, datagram);
        }
        assert_eq!(world.dropped(n, DropReason::Replayed), frames, "n{n}");
        // Every single bit of a frame with a fresh counter is covered by a seal, or by the route.
        let mut forged = seen.iter().find(|d| d[0] == 0x10).unwrap().clone();
        forged[11] ^= 0x80;
        for at in 6..forged.len() {
            forged[at] ^= 1;
            world.deliver(1, n, &forged);
            forged[at] ^= 1;
        }
        assert!(world.dropped(n, DropReason::BadTag) > 0);
        world.deliver(1, n, &[0x10, 0, 1, 2, 3, 4, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(world.dropped(n, DropReason::UnknownIndex), 1);
        world.deliver(1, n, &[0xc0; 1200]);
        world.deliver(1, n, &[]);
        assert_eq!(world.dropped(n, DropReason::NotAFrame), 2);
        world.deliver(1, n, &[0x15; 100]);
        assert_eq!(world.dropped(n, DropReason::Malformed), 1, "reserved bits");
        world.deliver(1, n, &[0x1f; 100]);
        assert_eq!(world.dropped(n, DropReason::Unsupported), 1);
    }
    world.run_for(ms(50));
    assert_eq!(world.received(3), 1);
}

#[test]
fn the_egress_takes_only_what_its_sender_is_certified_for() {
    let mut world = World::mesh(2, ms(10), PLAIN);
    // Node 1's daemon believes that node 9's and node 8's addresses are its own and node 2's.
    let config = ForwardConfig {
        node: node(1),
        boot: 2,
        mtu: 1340,
        classes: vec![ClassSpec {
            name: "default".into(),
            matches: Default::default(),
            policy: Default::default(),
            delivery: PLAIN,
        }],
        networks: vec![network(1), network(9)],
        relay: true,
        tun_udp: true,
    };
    let mut liar = Forwarder::new(config, 5, world.now);
    let mut table = RouteTable { generation: 1, ..Default::default() };
    table.prefixes.insert(network(2), node(2));
    table.prefixes.insert(network(8), node(2));
    let primary = Path { link: LinkId(2), nodes: vec![node(2)], delay: ms(10) };
    table.routes.insert((node(2), Class(0)), Route { primary, backup: None });
    let snapshot = Snapshot { peers: Arc::new(world.peers(1)), routes: Arc::new(table) };
    liar.install(world.now, &snapshot);
    // The first node 1 never spoke in this world's session, so its counters are still free.
    world.air.clear();
    world.nodes.insert(1, liar);
    world.drain(1);
    world.run_until(at_ms(300));
    world.send(1, &packet(9, 2, 1, b"spoofed"), Offload::None);
    world.send(1, &packet(1, 8, 1, b"astray"), Offload::None);
    world.send(1, &packet(1, 2, 1, b"honest"), Offload::None);
    world.run_for(ms(50));
    assert_eq!(world.received(2), 1);
    assert_eq!(world.dropped(2, DropReason::SpoofedSource), 1);
    assert_eq!(world.dropped(2, DropReason::ForeignDestination), 1);
}

#[test]
fn what_the_overlay_does_not_carry_is_refused_at_the_door() {
    let mut world = World::mesh(2, ms(10), PLAIN);
    world.run_until(at_ms(100));
    let mut to = |dest: [u8; 4], source: u16| {
        let mut p = packet(source, 2, 1, b"x");
        p[16..20].copy_from_slice(&dest);
        world.send(1, &p, Offload::None);
    };
    to([224, 0, 0, 5], 1);
    to([255, 255, 255, 255], 1);
    to([10, 0, 0, 1], 1);
    to([10, 9, 9, 9], 1);
    to([10, 0, 0, 2], 7);
    world.send(1, &packet(1, 2, 1, &[0; 2000]), Offload::None);
    world.send(1, &[0x45, 0, 0], Offload::None);
    let want = [
        (DropReason::TooShort, 1),
        (DropReason::Multicast, 1),
        (DropReason::Broadcast, 1),
        (DropReason::ForeignSource, 1),
        (DropReason::Hairpin, 1),
        (DropReason::NoOwner, 1),
        (DropReason::TooBig, 1),
    ];
    assert_eq!(world.drops(1), want);
}

#[test]
fn a_node_that_does_not_relay_says_so_and_the_source_takes_its_backup() {
    let mut world = World::mesh(3, ms(10), PLAIN);
    let config = ForwardConfig {
        node: node(2),
        boot: 1,
        mtu: 1340,
        classes: Vec::new(),
        networks: vec![network(2)],
        relay: false,
        tun_udp: true,
    };
    world.air.clear();
    world.nodes.insert(2, Forwarder::new(config, 2, world.now));
    world.install(2, &[]);
    world.install(1, &[(&[2, 3], Some(&[3]))]);
    world.run_until(at_ms(1500));
    world.flow(1, 3, 20, ms(5));
    world.run_for(ms(50));
    assert!(world.dropped(2, DropReason::RelayRefused) > 0);
    assert!(matches!(world.flips(1)[..], [(_, true, FlipReason::RelayLostHop), ..]));
    assert!(world.received(3) >= 15, "{}", world.received(3));
}

#[test]
fn probes_are_answered_with_what_the_peer_heard() {
    let mut world = World::mesh(2, ms(15), PLAIN);
    world.run_until(at_ms(100));
    for seq in 1..=4 {
        let now = world.now;
        world.line(1, 2).cut = seq == 3;
        let probe = ProbeRequest { link: LinkId(2), seq };
        world.nodes.get_mut(&1).unwrap().push_probe(now, probe);
        world.drain(1);
        world.run_for(ms(100));
    }
    let replies: Vec<_> = world.events[&1]
        .iter()
        .filter_map(|(_, e)| match *e {
            ForwardEvent::ProbeReply {
                seq,
                sent_at,
                received_at,
                peer_highest,
                peer_heard,
                ..
            } => Some((seq, received_at.since(sent_at), peer_highest, peer_heard)),
            _ => None,
        })
        .collect();
    assert_eq!(replies, [(1, ms(30), 1, 1), (2, ms(30), 2, 2), (4, ms(30), 4, 3)]);
    let heard =
        world.events[&2].iter().filter(|(_, e)| matches!(e, ForwardEvent::ProbeHeard { .. }));
    assert_eq!(heard.count(), 3);
}

/// The longest time between two packets of a flow that came out of a node since `start`.
fn longest_gap(world: &World, n: u16, start: Instant) -> Duration {
    let times: Vec<Instant> =
        world.out[&n].iter().map(|(at, ..)| *at).filter(|at| *at >= start).collect();
    times.windows(2).map(|w| w[1].since(w[0])).max().unwrap()
}

#[test]
fn a_dead_relay_is_left_within_a_second_and_taken_again_when_it_returns() {
    let mut world = World::mesh(3, ms(10), REPAIRED);
    world.install(1, &[(&[2, 3], Some(&[3]))]);
    world.run_until(at_ms(500));
    world.flow(1, 3, 100, ms(10));
    assert_eq!(world.nodes[&2].stats().relay.packets, 100);
    let died = world.now;
    for other in [1, 3] {
        world.both(2, other, |line| line.cut = true);
    }
    world.flow(1, 3, 100, ms(10));
    assert!(
        matches!(world.flips(1)[..], [(_, true, FlipReason::LinkDown)]),
        "{:?}",
        world.flips(1)
    );
    assert!(longest_gap(&world, 3, died) < ms(500), "{:?}", longest_gap(&world, 3, died));
    for other in [1, 3] {
        world.both(2, other, |line| line.cut = false);
    }
    let back = world.now;
    world.flow(1, 3, 300, ms(10));
    assert!(matches!(world.flips(1)[..], [_, (_, false, FlipReason::Recovered)]));
    assert!(world.nodes[&2].stats().relay.packets > 150, "the relay is in use again");
    assert!(longest_gap(&world, 3, back) < ms(50), "{:?}", longest_gap(&world, 3, back));
}

#[test]
fn a_link_dead_in_one_direction_is_seen_by_the_side_that_is_not_heard() {
    let mut world = World::mesh(3, ms(10), REPAIRED);
    world.install(1, &[(&[3], Some(&[2, 3]))]);
    world.run_until(at_ms(500));
    world.flow(1, 3, 50, ms(10));
    // Node 3 no longer hears node 1; node 1 still hears node 3.
    world.line(1, 3).cut = true;
    let died = world.now;
    world.flow(1, 3, 100, ms(10));
    assert!(longest_gap(&world, 3, died) < ms(500), "{:?}", longest_gap(&world, 3, died));
    assert!(world.nodes[&2].stats().relay.packets > 50);
}

#[test]
fn a_relay_without_its_next_hop_tells_the_source_which_takes_its_backup() {
    for direct in [true, false] {
        let mut world = World::mesh(4, ms(10), REPAIRED);
        // Over both relays; the second loses its link to the destination.
        world.install(1, &[(&[2, 3, 4], Some(&[4]))]);
        world.both(1, 3, |line| line.cut = !direct);
        world.run_until(at_ms(1000));
        world.flow(1, 4, 50, ms(10));
        world.run_for(ms(50));
        assert_eq!(world.nodes[&3].stats().relay.packets, 50);
        world.both(3, 4, |line| line.cut = true);
        let died = world.now;
        world.flow(1, 4, 100, ms(10));
        let told = world.events[&1]
            .iter()
            .any(|(_, e)| *e == ForwardEvent::RelayLostHop { relay: node(3), next: node(4) });
        assert!(told, "direct {direct}: {:?}", world.events[&1]);
        assert!(matches!(world.flips(1)[..], [(_, true, FlipReason::RelayLostHop), ..]));
        assert!(longest_gap(&world, 4, died) < ms(600), "{:?}", longest_gap(&world, 4, died));
        assert!(world.nodes[&3].stats().notices_sent > 0);
    }
}

#[test]
fn a_lossy_link_is_not_called_dead() {
    let mut world = World::mesh(2, ms(10), REPAIRED);
    world.both(1, 2, |line| line.loss_ppm = 200_000);
    world.run_until(at_ms(2000));
    world.flow(1, 2, 3000, ms(10));
    let downs = world.events[&1].iter().filter(|(_, e)| matches!(e, ForwardEvent::LinkDown { .. }));
    assert_eq!(downs.count(), 0);
}

#[test]
fn a_new_session_of_a_peer_goes_on_where_the_old_one_stopped() {
    let mut world = World::mesh(2, ms(10), REPAIRED);
    world.run_until(at_ms(100));
    world.flow(1, 2, 20, ms(5));
    world.run_for(ms(100));
    for (n, m) in [(1, 2), (2, 1)] {
        let mut peers = world.peers(n);
        peers[0].generation = 2;
        peers[0].secret = Secret::new([9; 32]);
        peers[0].links[0].receive_index += 1 << 30;
        peers[0].links[0].transmit_index += 1 << 30;
        let mut table = RouteTable { generation: 2, ..Default::default() };
        for k in [1, 2] {
            table.prefixes.insert(network(k), node(k));
        }
        let primary = Path { link: LinkId(m), nodes: vec![node(m)], delay: ms(10) };
        table.routes.insert((node(m), Class(0)), Route { primary, backup: None });
        let snapshot = Snapshot { peers: Arc::new(peers), routes: Arc::new(table) };
        let now = world.now;
        world.nodes.get_mut(&n).unwrap().install(now, &snapshot);
        world.drain(n);
    }
    world.run_for(ms(300));
    world.flow(1, 2, 20, ms(5));
    world.run_for(ms(100));
    assert_eq!(world.received(2), 40);
    assert_eq!(world.dropped(2, DropReason::EndReplayed), 0);
}

#[test]
fn the_same_snapshot_twice_changes_nothing_and_a_link_taken_away_is_gone() {
    let mut world = World::mesh(2, ms(10), PLAIN);
    world.run_until(at_ms(100));
    world.flow(1, 2, 5, ms(5));
    world.install(1, &[]);
    world.flow(1, 2, 5, ms(5));
    world.run_for(ms(50));
    assert_eq!(world.received(2), 10);
    let mut peers = world.peers(1);
    peers[0].links.clear();
    let empty = Snapshot { peers: Arc::new(peers), routes: RouteTable::empty() };
    let full = Snapshot { peers: Arc::new(world.peers(1)), routes: RouteTable::empty() };
    let now = world.now;
    let forwarder = world.nodes.get_mut(&1).unwrap();
    forwarder.install(now, &empty);
    assert_eq!(forwarder.poll_timeout(), None);
    // Under the same session it comes back with its counters where they were: no nonce twice.
    forwarder.install(now, &full);
    world.install(1, &[]);
    world.run_for(ms(300));
    world.flow(1, 2, 5, ms(5));
    world.run_for(ms(50));
    assert_eq!(world.received(2), 15);
    assert_eq!(world.dropped(2, DropReason::Replayed), 0);
}

#[test]
fn no_nonce_is_used_twice_on_a_lossy_path_and_one_seed_repeats_every_byte() {
    let run = || {
        let mut world = World::mesh(3, ms(10), REPAIRED);
        world.install(1, &[(&[2, 3], None)]);
        world.both(1, 2, |line| line.loss_ppm = 50_000);
        world.both(2, 3, |line| line.loss_ppm = 50_000);
        world.flow(1, 3, 1000, ms(2));
        world.run_for(ms(300));
        world.taps
    };
    let taps = run();
    let mut nonces = std::collections::BTreeSet::new();
    let mut packets = BTreeMap::new();
    let mut again = 0;
    for datagram in taps.values().flatten() {
        // Index and counter; the epoch never turns in this time.
        assert!(nonces.insert(datagram[2..12].to_vec()), "{datagram:x?}");
        if datagram[0] == 0x10 {
            // End header: the same nonce only ever with the same bytes behind it.
            let sealed = &datagram[62..];
            let first = packets.entry(datagram[50..62].to_vec()).or_insert(sealed);
            again += usize::from(*first == sealed);
            assert_eq!(*first, sealed);
        }
    }
    assert!(again > 1900, "both hops: {again}");
    assert_eq!(taps, run());
}

#[test]
fn a_session_outlives_its_epochs() {
    let mut world = World::mesh(3, ms(10), REPAIRED);
    world.install(1, &[(&[2, 3], None)]);
    world.run_until(at_ms(100));
    // Forty minutes: every chain turns four times.
    world.flow(1, 3, 120, Duration::from_secs(20));
    world.run_for(ms(100));
    assert_eq!(world.received(3), 120);
    for n in 1..=3 {
        assert_eq!(world.drops(n), [], "n{n}");
    }
    let epochs: std::collections::BTreeSet<u8> =
        world.taps[&2].iter().filter(|d| d[0] == 0x10).map(|d| d[1]).collect();
    assert!(epochs.len() >= 4, "{epochs:?}");
}

#[test]
fn our_own_frames_are_not_carried_in_our_own_frames() {
    let mut world = World::mesh(2, ms(10), PLAIN);
    let mut peers = world.peers(1);
    let inside = SocketAddr::from((address(2).octets(), 4000));
    peers[0].links[0].endpoint = inside;
    let mut table = RouteTable { generation: 1, ..Default::default() };
    table.prefixes.insert(network(2), node(2));
    let primary = Path { link: LinkId(2), nodes: vec![node(2)], delay: ms(10) };
    table.routes.insert((node(2), Class(0)), Route { primary, backup: None });
    let snapshot = Snapshot { peers: Arc::new(peers), routes: Arc::new(table) };
    let now = world.now;
    world.nodes.get_mut(&1).unwrap().install(now, &snapshot);
    let mut batch = TunBatch::default();
    batch.push(&packet(1, 2, 4600, b"encapsulated"), Offload::None);
    world.nodes.get_mut(&1).unwrap().handle_tun(now, &mut batch);
    assert_eq!(world.dropped(1, DropReason::UnderlayLoop), 1);
}

/// A frame of node 1 to node 2, sealed with the right keys, whatever it holds.
fn authentic(kind: u8, counter: u64, body: &[u8]) -> Vec<u8> {
    let clear = Clear { kind: Kind::parse(kind).unwrap(), epoch: 0, index: index(1, 2), counter };
    let header = clear.to_bytes();
    let scope = Scope::hop(node(1), node(2), index(1, 2));
    let key = SealKey::new(&scope.key(&secret(1, 2), 0));
    let nonce = nonce(0, StreamId(0), counter);
    if clear.kind == Kind::Data && body.len() >= 66 {
        let mut frame = [&header[..], body].concat();
        let parts = DataMut::split(&mut frame[12..]).unwrap();
        *parts.hop_tag = key.seal_in_place(nonce, &hop_aad(&header, parts.end_tag), parts.route);
        return frame;
    }
    let mut sealed = body.to_vec();
    let tag = key.seal_in_place(nonce, &header, &mut sealed);
    [&header[..], &sealed, &tag].concat()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// A peer with the right keys and a sick mind: whatever it says is counted, never a panic, and
    /// nothing it says makes a node spin.
    #[test]
    fn no_peer_makes_a_forwarder_panic(
        frames in prop::collection::vec(
            (0x10_u8..=0x18, prop::collection::vec(any::<u8>(), 0..120), any::<[u16; 8]>()),
            1..40,
        ),
    ) {
        let mut world = World::mesh(3, ms(1), REPAIRED);
        world.run_until(at_ms(20));
        world.flow(2, 1, 3, ms(1));
        for (n, (kind, mut body, hints)) in frames.into_iter().enumerate() {
            // Most bytes of most bodies are made sensible, so that they get far.
            let sane = |hint: u16| hint % 4;
            let segments: Vec<u8> =
                hints[..4].iter().flat_map(|&h| sane(h).to_be_bytes()).collect();
            match kind {
                0x10 => {
                    body.resize(66 + body.len(), 0);
                    body[0..4].copy_from_slice(&u32::from(hints[4]).to_be_bytes());
                    body[6..8].copy_from_slice(&[sane(hints[5]) as u8, 0]);
                    body[12..14].copy_from_slice(&(1 + sane(hints[6])).to_be_bytes());
                    body[14..22].copy_from_slice(&segments);
                }
                0x14 => {
                    body.resize(64, hints[0] as u8);
                    for (at, hint) in [0, 4, 24].into_iter().zip(&hints) {
                        body[at..at + 4].copy_from_slice(&u32::from(hint % 40).to_be_bytes());
                    }
                    body[28..32].copy_from_slice(&[0, (hints[4] % 33) as u8, 0, 0]);
                    body.truncate(32 + usize::from(hints[4] % 33));
                }
                0x11 | 0x12 => {
                    body.resize(if kind == 0x11 { 28 } else { 32 }, 0);
                    body[..4].copy_from_slice(&[sane(hints[0]) as u8 % 2, 0, 0, 0]);
                    if kind == 0x12 {
                        body[1] = 1;
                    }
                }
                0x18 => {
                    body.resize(16, 0);
                    body[..4].copy_from_slice(&[1 + (hints[4] % 2) as u8, 3, 0, 0]);
                    body[4..6].copy_from_slice(&(1 + sane(hints[5])).to_be_bytes());
                    body[6..8].copy_from_slice(&(1 + sane(hints[6])).to_be_bytes());
                    body[8..16].copy_from_slice(&segments);
                }
                _ => {}
            }
            let before = world.dropped(2, DropReason::BadTag);
            world.deliver(1, 2, &authentic(kind, (1 << 40) + n as u64, &body));
            prop_assert_eq!(world.dropped(2, DropReason::BadTag), before, "sealed right");
        }
        world.run_for(ms(300));
        // Its own traffic goes on: to node 3, which knows nothing of this.
        let had = world.received(3);
        world.flow(2, 3, 3, ms(1));
        world.run_for(ms(20));
        prop_assert_eq!(world.received(3) - had, 3);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Anything at all, on any door, on a link's own index: counted, never a panic.
    #[test]
    fn no_bytes_make_a_forwarder_panic(
        datagrams in prop::collection::vec(
            (prop::collection::vec(any::<u8>(), 0..200), 0x10_u8..0x1a, any::<bool>(), 0_u8..4),
            1..20,
        ),
        packets in prop::collection::vec(
            (prop::collection::vec(any::<u8>(), 0..120), 0_u8..4, any::<u16>(), any::<u16>()),
            1..20,
        ),
    ) {
        let mut world = World::mesh(2, ms(1), REPAIRED);
        world.run_until(at_ms(10));
        let before: u64 = world.drops(2).iter().map(|(_, n)| n).sum();
        let now = world.now;
        let count = datagrams.len() as u64;
        let mut batch = RecvBatch::default();
        for (mut bytes, kind, known, ecn) in datagrams {
            if known && bytes.len() >= 6 {
                (bytes[0], bytes[1]) = (kind, 0);
                bytes[2..6].copy_from_slice(&index(1, 2).to_be_bytes());
            }
            batch.push(&bytes, endpoint(1), ecn);
        }
        let forwarder = world.nodes.get_mut(&2).unwrap();
        forwarder.handle_udp(now, &mut batch);
        let after: u64 = forwarder.stats().drops().map(|(_, n)| n).sum();
        prop_assert_eq!(after - before, count, "each is dropped and counted");
        let mut tun = TunBatch::default();
        for (bytes, kind, a, b) in packets {
            let offload = match kind {
                0 => Offload::None,
                1 => Offload::Checksum { start: a, offset: b },
                2 => Offload::Segments { kind: Segmentation::Tcp4, header: a, size: b },
                _ => Offload::Segments { kind: Segmentation::Udp, header: a, size: b },
            };
            tun.push(&bytes, offload);
            let mut honest = packet(2, 1, a, &bytes);
            honest.truncate(28 + bytes.len());
            tun.push(&honest, offload);
        }
        forwarder.handle_tun(now, &mut tun);
        world.drain(2);
        world.run_for(ms(400));
    }
}
