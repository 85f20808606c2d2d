//! Nodes of several lanes: flows keep their order, each lane its keys and numbers, and what has to
//! change lanes does so.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use thalweg::buf::{Offload, RecvBatch, TunBatch, TunWrites, TxBatch};
use thalweg::forward::event::ForwardEvent;
use thalweg::forward::lanes::{Handed, Word};
use thalweg::forward::snapshot::Snapshot;
use thalweg::forward::{DropReason, ForwardConfig, Forwarder, LinkStats};
use thalweg::id::{Class, Lane, LinkId};
use thalweg::rng::Dice;
use thalweg::route::policy::{ClassSpec, Delivery};
use thalweg::route::table::{Path, Route, RouteTable};
use thalweg::time::Instant;
use thalweg::unit::Ratio;

use crate::world::{
    PLAIN, REPAIRED, at_ms, endpoint, ms, network, node, packet, payload_number, peer_entry,
};

const DELAY: Duration = Duration::from_millis(10);

/// Nodes from 1 on, every pair joined by a line of [`DELAY`], with a forwarder for each lane.
struct Lanes {
    now: Instant,
    count: Vec<u8>,
    forwarders: BTreeMap<(u16, u8), Forwarder>,
    air: BTreeMap<(Instant, u64), (u16, u16, Vec<u8>)>,
    sent: u64,
    dice: Dice,
    loss_ppm: u64,
    /// Whether a datagram from a node to a node is lost.
    cut: fn(u16, u16, &[u8]) -> bool,
    /// What came out of each node: at which lane, the port and the number of each packet.
    out: BTreeMap<u16, Vec<(u8, u16, u32)>>,
    events: Vec<(Instant, u16, u8, ForwardEvent)>,
    taps: Vec<(u16, u16, Vec<u8>)>,
}

fn nothing(_: u16, _: u16, _: &[u8]) -> bool {
    false
}

impl Lanes {
    fn new(count: &[u8], delivery: Delivery) -> Self {
        let mut world = Self {
            now: at_ms(1),
            count: count.to_vec(),
            forwarders: BTreeMap::new(),
            air: BTreeMap::new(),
            sent: 0,
            dice: Dice::new(42),
            loss_ppm: 0,
            cut: nothing,
            out: BTreeMap::new(),
            events: Vec::new(),
            taps: Vec::new(),
        };
        for n in world.numbers() {
            for lane in Lane::all(world.lanes(n)) {
                let config = ForwardConfig {
                    node: node(n),
                    boot: 1,
                    mtu: 1340,
                    classes: vec![ClassSpec {
                        name: "default".into(),
                        matches: Default::default(),
                        policy: Default::default(),
                        delivery,
                        marking: Default::default(),
                    }],
                    networks: vec![network(n)],
                    relay: true,
                    tun_udp: true,
                    lane,
                    max_rate_bps: None,
                };
                let seed = u64::from(n) * 100 + u64::from(lane.number());
                let forwarder = Forwarder::new(config, seed, world.now);
                world.forwarders.insert((n, lane.number()), forwarder);
            }
        }
        world.numbers().for_each(|n| world.install(n, &[]));
        world
    }

    fn numbers(&self) -> std::ops::RangeInclusive<u16> {
        1..=self.count.len() as u16
    }

    fn lanes(&self, n: u16) -> u8 {
        self.count[usize::from(n) - 1]
    }

    /// Installs node `n`'s table: direct everywhere but for these (primary, backup) paths.
    fn install(&mut self, n: u16, routes: &[(&[u16], Option<&[u16]>)]) {
        let others = || self.numbers().filter(|&m| m != n);
        let peers = others().map(|m| peer_entry(n, m, self.lanes(n).min(self.lanes(m))));
        let path = |nodes: &[u16]| Path {
            link: LinkId(nodes[0]),
            nodes: nodes.iter().map(|&n| node(n)).collect(),
            delay: ms(10 * nodes.len() as u64),
        };
        let mut table = RouteTable { generation: 1, ..Default::default() };
        for m in others() {
            table.prefixes.insert(network(m), node(m));
            let route = Route::alone(path(&[m]));
            table.routes.insert((node(m), Class(0)), route);
        }
        for (primary, backup) in routes {
            let route = Route { backup: backup.map(path), ..Route::alone(path(primary)) };
            table.routes.insert((node(*primary.last().unwrap()), Class(0)), route);
        }
        let snapshot =
            Snapshot { peers: Arc::new(peers.collect()), routes: Arc::new(table), tuning: None };
        let now = self.now;
        for lane in 0..self.lanes(n) {
            self.forwarder(n, lane).install(now, &snapshot);
        }
        self.drain(n);
    }

    fn forwarder(&mut self, n: u16, lane: u8) -> &mut Forwarder {
        self.forwarders.get_mut(&(n, lane)).unwrap()
    }

    /// Fetches everything the lanes of a node have to give, to the world and to each other.
    fn drain(&mut self, n: u16) {
        let now = self.now;
        loop {
            let mut handed: BTreeMap<u8, VecDeque<Handed>> = BTreeMap::new();
            let mut words: BTreeMap<u8, Vec<Word>> = BTreeMap::new();
            for lane in 0..self.lanes(n) {
                self.fetch(n, lane);
                let forwarder = self.forwarder(n, lane);
                while let Some((to, what)) = forwarder.poll_handed() {
                    handed.entry(to).or_default().push_back(what);
                }
                while let Some((to, word)) = forwarder.poll_word() {
                    words.entry(to).or_default().push(word);
                }
            }
            if handed.is_empty() && words.is_empty() {
                return;
            }
            words
                .into_iter()
                .for_each(|(to, words)| self.forwarder(n, to).handle_words(now, words));
            for (to, handed) in handed {
                self.forwarder(n, to).handle_handed(now, handed);
            }
        }
    }

    fn fetch(&mut self, n: u16, lane: u8) {
        let now = self.now;
        let mut tx = TxBatch::default();
        loop {
            let before = tx.runs.len();
            self.forwarder(n, lane).poll_transmit(&mut tx);
            if tx.runs.len() == before {
                break;
            }
        }
        for (run, datagram) in tx.datagrams() {
            let SocketAddr::V4(to) = run.to else { panic!("IPv4 only") };
            let to = u16::from(to.ip().octets()[3]);
            if (self.cut)(n, to, datagram) || self.dice.below(1_000_000) < self.loss_ppm {
                continue;
            }
            self.sent += 1;
            self.air.insert((now.plus(DELAY), self.sent), (n, to, datagram.to_vec()));
        }
        let mut tun = TunWrites::default();
        loop {
            let before = tun.packets.len();
            self.forwarder(n, lane).poll_tun(&mut tun);
            if tun.packets.len() == before {
                break;
            }
        }
        let out = self.out.entry(n).or_default();
        for (bytes, offload) in tun.whole() {
            assert_eq!(offload, Offload::None, "nothing here is joined");
            let port = u16::from_be_bytes([bytes[20], bytes[21]]);
            out.push((lane, port, payload_number(&bytes)));
        }
        while let Some(event) = self.forwarder(n, lane).poll_event() {
            self.events.push((now, n, lane, event));
        }
    }

    /// As the sockets do: the lane byte of the index decides.
    fn deliver(&mut self, from: u16, to: u16, bytes: &[u8]) {
        let mut batch = RecvBatch::default();
        batch.push(bytes, endpoint(from), 0);
        let (now, lane) = (self.now, bytes[5] % self.lanes(to));
        self.forwarder(to, lane).handle_udp(now, &mut batch);
        self.drain(to);
    }

    fn run_for(&mut self, span: Duration) {
        let end = self.now.plus(span);
        loop {
            let flight = self.air.keys().next().map(|&(at, _)| at);
            let timer = self.forwarders.values().filter_map(|f| f.poll_timeout()).map(|d| d.at);
            let next = flight.into_iter().chain(timer).min().unwrap_or(Instant::FAR);
            if next > end {
                self.now = end;
                return;
            }
            self.now = self.now.max(next);
            if flight.is_some_and(|at| at <= self.now) {
                let (_, (from, to, bytes)) = self.air.pop_first().unwrap();
                self.deliver(from, to, &bytes);
                self.taps.push((from, to, bytes));
                continue;
            }
            let now = self.now;
            for forwarder in self.forwarders.values_mut() {
                if forwarder.poll_timeout().is_some_and(|d| d.at <= now) {
                    forwarder.handle_timeout(now);
                }
            }
            self.numbers().for_each(|n| self.drain(n));
            let due = self.forwarders.values().filter_map(|f| f.poll_timeout());
            due.for_each(|d| assert!(d.at > now, "it spins: {d:?}"));
        }
    }

    /// Packet `number` of the flow with this source port; the flow's queue is the port's.
    fn send(&mut self, from: u16, to: u16, port: u16, number: u32) {
        let mut payload = number.to_be_bytes().to_vec();
        // Unequal lengths are not joined at the far end.
        payload.resize(100 + (number as usize * 7 + usize::from(port)) % 50, 0xab);
        let mut batch = TunBatch::default();
        batch.push(&packet(from, to, port, &payload), Offload::None);
        let (now, lane) = (self.now, (port % u16::from(self.lanes(from))) as u8);
        self.forwarder(from, lane).handle_tun(now, &mut batch);
        self.drain(from);
    }

    /// `count` packets of each of eight flows, one of each flow a millisecond.
    fn flows(&mut self, from: u16, to: u16, count: u32) {
        for number in 0..count {
            (0..8).for_each(|port| self.send(from, to, port, number));
            self.run_for(ms(1));
        }
        self.run_for(ms(100));
    }

    /// Asserts that all packets of all flows came out, in order; gives the lanes they came out at.
    fn all_came_in_order(&self, n: u16, count: u32) -> Vec<u8> {
        let out = &self.out[&n];
        for port in 0..8 {
            let numbers: Vec<u32> = out.iter().filter(|o| o.1 == port).map(|o| o.2).collect();
            assert_eq!(numbers, (0..count).collect::<Vec<_>>(), "flow {port}");
            let lanes: Vec<u8> = out.iter().filter(|o| o.1 == port).map(|o| o.0).collect();
            assert!(lanes.iter().all(|&lane| lane == lanes[0]), "flow {port} stays in one lane");
        }
        let mut lanes: Vec<u8> = out.iter().map(|o| o.0).collect();
        lanes.sort_unstable();
        lanes.dedup();
        lanes
    }

    fn sum(&self, n: u16, of: impl Fn(&Forwarder) -> u64) -> u64 {
        self.forwarders.range((n, 0)..=(n, u8::MAX)).map(|(_, f)| of(f)).sum()
    }

    fn handed(&self, n: u16) -> u64 {
        self.sum(n, |f| f.stats().handed)
    }

    fn drops(&self, n: u16) -> Vec<(u8, DropReason, u64)> {
        let of = |(&(_, lane), f): (&(u16, u8), &Forwarder)| {
            let all = f.stats().drops().filter(|(_, count)| *count > 0);
            all.map(move |(why, count)| (lane, why, count)).collect::<Vec<_>>()
        };
        self.forwarders.range((n, 0)..=(n, u8::MAX)).flat_map(of).collect()
    }
}

#[test]
fn flows_of_two_lanes_each_keep_to_their_lane_and_their_order() {
    let mut world = Lanes::new(&[2, 2], PLAIN);
    world.run_for(ms(100));
    world.flows(1, 2, 200);
    assert_eq!(world.all_came_in_order(2, 200), [0, 1]);
    for lane in [0, 1] {
        let link = *world.forwarder(1, lane).stats().link(LinkId(2)).unwrap();
        assert!(link.frames_sent > 800, "half of the packets each: {link:?}");
        let data = |(from, _, d): &&(u16, u16, Vec<u8>)| *from == 1 && d[0] == 0x10 && d[5] == lane;
        // The end header follows clear header, route header and hop tag; its lane is the second byte.
        let sealed: Vec<u8> = world.taps.iter().filter(data).map(|(_, _, d)| d[51]).collect();
        assert_eq!(sealed, vec![lane; 800], "hop and end agree on the lane");
    }
    assert_eq!((world.handed(1), world.handed(2)), (0, 0));
    assert_eq!((world.drops(1), world.drops(2)), (vec![], vec![]));
}

#[test]
fn lanes_share_neither_keys_nor_windows() {
    let mut world = Lanes::new(&[2, 2], PLAIN);
    world.run_for(ms(100));
    world.flows(1, 2, 50);
    world.all_came_in_order(2, 50);
    let frames: Vec<Vec<u8>> =
        world.taps.iter().filter(|t| t.0 == 1).map(|t| t.2.clone()).collect();
    for frame in &frames {
        world.deliver(1, 2, frame);
        let mut moved = frame.clone();
        moved[5] ^= 1;
        // A counter nobody has used: no window refuses it first.
        moved[6] = 1;
        world.deliver(1, 2, &moved);
    }
    world.all_came_in_order(2, 50);
    let (replayed, foreign) = (DropReason::Replayed, DropReason::BadTag);
    for lane in [0, 1] {
        let stats = world.forwarder(2, lane).stats();
        let counts = (stats.dropped(replayed), stats.dropped(foreign));
        let of = |lane: u8| frames.iter().filter(|f| f[5] == lane).count() as u64;
        assert_eq!(counts, (of(lane), of(1 - lane)), "lane {lane}");
    }
}

#[test]
fn pairs_with_unequal_lanes_use_as_many_as_both_have() {
    for (count, there, here) in [
        ([4, 2], vec![0, 1], vec![0, 1, 2, 3]),
        ([4, 1], vec![0], vec![0, 1, 2, 3]),
        ([3, 2], vec![0, 1], vec![0, 1, 2]),
        ([1, 2], vec![0], vec![0]),
    ] {
        let mut world = Lanes::new(&count, REPAIRED);
        world.run_for(ms(100));
        world.flows(1, 2, 100);
        // A source's lane decides where it comes out: 1, 2 and so on are one flow each.
        assert_eq!(world.all_came_in_order(2, 100), there, "{count:?}");
        let pair = count[0].min(count[1]);
        let over = (0..8).filter(|port| port % count[0] >= pair).count() as u64;
        assert_eq!(world.handed(1), over * 100, "{count:?}: only what has no lane of its own");
        assert_eq!(world.handed(2), 0, "{count:?}: at the far end nothing has to move");
        assert_eq!((world.drops(1), world.drops(2)), (vec![], vec![]), "{count:?}");
        assert!(world.taps.iter().all(|(_, _, d)| d[5] < pair), "{count:?}");

        world.flows(2, 1, 100);
        let lanes = world.all_came_in_order(1, 100);
        assert!(lanes.iter().all(|lane| here.contains(lane)) && lanes.len() == usize::from(pair));
        assert_eq!((world.drops(1), world.drops(2)), (vec![], vec![]), "{count:?}");
    }
}

#[test]
fn a_relay_of_one_lane_between_four_and_four_keeps_every_flow_s_order() {
    let mut world = Lanes::new(&[4, 1, 4], REPAIRED);
    world.install(1, &[(&[2, 3], None)]);
    world.run_for(ms(100));
    world.flows(1, 3, 200);
    assert_eq!(world.all_came_in_order(3, 200), [0, 1, 2, 3], "each opened in its source's lane");
    assert_eq!(world.handed(1), 6 * 200, "three lanes of four hand over to the first");
    assert_eq!(world.handed(2), 0);
    assert_eq!(world.handed(3), 6 * 200);
    for n in 1..=3 {
        assert_eq!(world.drops(n), [], "n{n}");
    }
}

#[test]
fn a_relay_with_more_lanes_than_the_next_node_hands_over() {
    let mut world = Lanes::new(&[4, 4, 2], REPAIRED);
    world.install(1, &[(&[2, 3], None)]);
    world.run_for(ms(100));
    world.flows(1, 3, 200);
    assert_eq!(world.all_came_in_order(3, 200), [0, 1]);
    assert_eq!((world.handed(1), world.handed(2), world.handed(3)), (0, 4 * 200, 0));
    assert_eq!((world.drops(2), world.drops(3)), (vec![], vec![]));
}

#[test]
fn every_lane_repairs_its_own_losses() {
    let mut world = Lanes::new(&[2, 2], REPAIRED);
    world.run_for(ms(100));
    world.loss_ppm = 50_000;
    world.flows(1, 2, 500);
    for lane in [0, 1] {
        let link = *world.forwarder(1, lane).stats().link(LinkId(2)).unwrap();
        assert!(link.retransmits > 50, "lane {lane}: {link:?}");
    }
    let mut numbers: Vec<(u16, u32)> = world.out[&2].iter().map(|o| (o.1, o.2)).collect();
    numbers.sort_unstable();
    numbers.dedup();
    assert_eq!(numbers.len(), world.out[&2].len(), "nothing twice");
    assert!(numbers.len() > 3990, "{}", numbers.len());
}

#[test]
fn a_class_s_share_of_repair_holds_for_what_another_lane_sends() {
    for (count, over) in [([4, 1], 6), ([2, 2], 0)] {
        let share = Some(Ratio::from_ppm(20_000));
        let mut world = Lanes::new(&count, Delivery { repair_share: share, ..REPAIRED });
        world.run_for(ms(100));
        world.loss_ppm = 100_000;
        world.flows(1, 2, 3000);
        assert_eq!(world.handed(1), over * 3000);
        let bytes =
            |of: fn(&LinkStats) -> u64| world.sum(1, |f| f.stats().link(LinkId(2)).map_or(0, of));
        let first = bytes(|link| link.sent.data + link.sent.framing);
        let share = bytes(|link| link.sent.repair) as f64 / first as f64;
        assert!((0.018..=0.02).contains(&share), "{count:?}: {share}");
    }
}

#[test]
fn all_lanes_leave_a_dead_link_with_the_verdict_of_any() {
    for busy in [0, 1, 2] {
        let mut world = Lanes::new(&[3, 3, 3], PLAIN);
        world.install(1, &[(&[2], Some(&[3, 2]))]);
        world.run_for(ms(500));
        world.cut = |a, b, _| (a, b) == (1, 2) || (a, b) == (2, 1);
        // One lane's flow alone notices; its packets until then are lost.
        let verdict = |world: &Lanes| {
            let down = |e: &&(Instant, u16, u8, ForwardEvent)| {
                e.1 == 1 && matches!(e.3, ForwardEvent::LinkDown { link: LinkId(2), .. })
            };
            world.events.iter().filter(down).map(|e| (e.0, e.2)).collect::<Vec<_>>()
        };
        let began = world.now;
        let mut number = 0;
        while verdict(&world).is_empty() {
            world.send(1, 2, busy, number);
            world.run_for(ms(5));
            number += 1;
            assert!(number < 300, "no verdict for lane {busy}");
        }
        let said = verdict(&world);
        assert_eq!(said.len(), 1, "once: {said:?}");
        assert_eq!(said[0].1, 0, "by the first lane");
        assert!(said[0].0.since(began) < ms(700), "as fast as with one lane");
        // From that very moment every lane takes the backup.
        world.out.clear();
        (0..3).for_each(|port| world.send(1, 2, port, 1000));
        world.run_for(ms(40));
        let mut came: Vec<u16> = world.out[&2].iter().map(|o| o.1).collect();
        came.sort_unstable();
        assert_eq!(came, [0, 1, 2], "lane {busy} gave the verdict");
        let flips = |e: &&(Instant, u16, u8, ForwardEvent)| {
            matches!(e.3, ForwardEvent::Flipped { to_backup: true, .. })
        };
        assert_eq!(world.events.iter().filter(flips).count(), 1, "the node hears it once");
    }
}

#[test]
fn a_lane_whose_share_of_a_working_link_is_dead_sends_by_the_first() {
    let mut world = Lanes::new(&[2, 2], PLAIN);
    world.run_for(ms(500));
    // Something on the way, or the peer's thread, swallows one lane.
    world.cut = |from, _, d| from == 1 && d[5] == 1;
    for number in 0..400 {
        world.send(1, 2, 0, number);
        world.send(1, 2, 1, number);
        world.run_for(ms(5));
    }
    let down = |e: &&(Instant, u16, u8, ForwardEvent)| matches!(e.3, ForwardEvent::LinkDown { .. });
    assert_eq!(world.events.iter().filter(down).count(), 0, "the link itself works");
    world.run_for(ms(50));
    world.out.clear();
    for number in 400..500 {
        world.send(1, 2, 1, number);
        world.run_for(ms(1));
    }
    world.run_for(ms(50));
    let numbers: Vec<u32> = world.out[&2].iter().map(|o| o.2).collect();
    assert_eq!(numbers, (400..500).collect::<Vec<_>>());
    // And by itself again when it can.
    world.cut = nothing;
    world.run_for(ms(3000));
    let before = world.handed(1);
    world.send(1, 2, 1, 500);
    world.run_for(ms(50));
    assert_eq!((world.out[&2].len(), world.handed(1)), (101, before));
}

#[test]
fn a_relay_s_word_that_it_lost_its_next_hop_reaches_every_lane() {
    let mut world = Lanes::new(&[2, 2, 2], PLAIN);
    world.install(1, &[(&[2, 3], Some(&[3]))]);
    world.run_for(ms(500));
    world.cut = |a, b, _| (a, b) == (2, 3) || (a, b) == (3, 2);
    // Only the second lane has traffic, so only it is told.
    let mut number = 0;
    let lost = |world: &Lanes| {
        let is = |e: &&(Instant, u16, u8, ForwardEvent)| {
            matches!(e.3, ForwardEvent::RelayLostHop { .. })
        };
        world.events.iter().filter(is).map(|e| e.2).collect::<Vec<_>>()
    };
    while lost(&world).is_empty() {
        world.send(1, 3, 1, number);
        world.run_for(ms(5));
        number += 1;
        assert!(number < 300, "no word came");
    }
    assert_eq!(lost(&world), [0], "the first lane tells the node");
    world.out.clear();
    (0..2).for_each(|port| world.send(1, 3, port, 1000));
    world.run_for(ms(30));
    assert_eq!(world.out[&3].len(), 2, "both lanes go straight");
}

#[test]
fn packets_for_a_lane_that_is_behind_are_dropped_and_counted() {
    let mut world = Lanes::new(&[2, 1], PLAIN);
    world.run_for(ms(100));
    let now = world.now;
    let mut batch = TunBatch::default();
    (0..5000).for_each(|n: u32| batch.push(&packet(1, 2, 1, &n.to_be_bytes()), Offload::None));
    let lane = world.forwarder(1, 1);
    lane.handle_tun(now, &mut batch);
    assert_eq!((lane.stats().handed, lane.stats().dropped(DropReason::LaneFull)), (4096, 904));
    // The driver found room for some only.
    let given = std::iter::from_fn(|| lane.poll_handed()).count() as u64;
    lane.on_not_handed(96);
    assert_eq!((given, lane.stats().handed), (4096, 4000));
    assert_eq!(lane.stats().dropped(DropReason::LaneFull), 1000);
}
