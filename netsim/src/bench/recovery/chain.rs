//! A row of forwarders in virtual time, a link model between each two: real frames, real keys, real
//! timers, no sockets. One flow or several go from the first to the last.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use thalweg::buf::{Datagram, Offload, RecvBatch, TunBatch, TunWrites, TxBatch};
use thalweg::forward::snapshot::{LinkEntry, PeerEntry, Snapshot};
use thalweg::forward::{ForwardConfig, Forwarder, checksum, classify};
use thalweg::id::{Class, Lane, LinkId, NodeId};
use thalweg::route::policy::{ClassSpec, Delivery, Match};
use thalweg::route::table::{Path, Route, RouteTable};
use thalweg::session::keys::Secret;
use thalweg::time::Instant;
use thalweg::unit::Residual;
use thalweg::wire::Kind;
use thalweg::wire::data::OVERHEAD;

use crate::link::{LinkModel, LinkParams, Verdict};

/// IPv4 and UDP headers around each datagram.
pub(super) const OUTER: usize = 28;
/// IPv4 and UDP headers inside.
const INNER: usize = 28;
/// Each flow is a class of its own, told by its DSCP: default, EF, AF41.
const DSCPS: [u8; 3] = [0, 46, 34];
/// How long the row runs before anything counts: links come up, round trips are learnt.
pub const WARM: Duration = Duration::from_secs(5);

/// What is sent over the row.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// Time between two packets.
    pub every: Duration,
    /// UDP payload of each, bytes.
    pub payload: usize,
    /// How many count.
    pub packets: u64,
    /// How much later than the links' own delay a packet is of use.
    pub deadline: Duration,
    /// The share that its class lets go missing.
    pub residual: f64,
}

/// What came of it. Counts cover what was sent after [`WARM`].
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// Packets sent.
    pub sent: u64,
    /// Of those: later than their deadline, or never there.
    pub missing: u64,
    /// Sent more than once to the user.
    pub twice: u64,
    /// Delay over the links' own of those that came, µs, as a histogram of 50 µs.
    pub delays: Vec<u64>,
    /// Bytes of data frames sent for the first time, with outer headers, all hops.
    pub first: u64,
    /// Bytes of retransmissions and repair frames, with outer headers, all hops.
    pub repair: u64,
    /// Bytes of feedback, with outer headers, all hops and both directions.
    pub feedback: u64,
    /// Bytes of the user's packets, as often as a hop carried them first.
    pub inner: u64,
    /// The same between the changes of weather: before the first, after each.
    pub spells: Vec<Spell>,
}

/// What was sent over all hops in a span of time, outer headers included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Spell {
    /// Bytes of data frames sent for the first time.
    pub first: u64,
    /// Bytes of retransmissions and repair frames.
    pub repair: u64,
}

impl Outcome {
    /// Nothing yet.
    pub(super) fn empty() -> Self {
        Self { delays: vec![0; SLOTS], ..Self::default() }
    }

    /// A packet came so much later than the links' own delay.
    pub(super) fn note_delay(&mut self, extra: Duration) {
        let slot = (extra.as_micros() as u64 / SLOT_US) as usize;
        self.delays[slot.min(SLOTS - 1)] += 1;
    }

    /// The delay that this share of packets does not exceed, ms; of those that came.
    pub fn delay_ms(&self, share: f64) -> Option<f64> {
        let came: u64 = self.delays.iter().sum();
        let rank = (came as f64 * share).ceil() as u64;
        let mut seen = 0;
        self.delays
            .iter()
            .position(|&n| {
                seen += n;
                seen >= rank && rank > 0
            })
            .map(|slot| slot as f64 * SLOT_US as f64 / 1000.0)
    }
}

const SLOT_US: u64 = 50;
/// Slots of the histogram: ten seconds.
const SLOTS: usize = 200_000;

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Due {
    /// A datagram reaches a node.
    Datagram { to: usize, from: usize, tos: u8, bytes: Vec<u8> },
    /// This flow's next packet.
    Packet(usize),
    /// A node's clock.
    Wake(usize),
    /// The links become something else.
    Weather(usize),
}

/// The row.
pub struct Chain {
    nodes: Vec<Forwarder>,
    /// When each node wants its clock, as last queued.
    wakes: Vec<Instant>,
    /// Forth and back, hop by hop.
    links: Vec<[LinkModel; 2]>,
    due: BinaryHeap<Reverse<(Instant, u64, Due)>>,
    serial: u64,
    now: Instant,
    /// Bytes of data, repair and feedback frames given to links, outer headers included.
    wire: [u64; 3],
    tx: TxBatch,
    recv: RecvBatch,
    written: TunWrites,
}

impl Chain {
    /// A row over these hops, both directions alike, with packets of this deadline.
    pub fn new(hops: &[LinkParams], load: &Load, seed: u64) -> Self {
        Self::with_flows(hops, std::slice::from_ref(load), seed)
    }

    /// The same for several flows, three at most, each in a class of its own.
    pub fn with_flows(hops: &[LinkParams], loads: &[Load], seed: u64) -> Self {
        assert!(loads.len() <= DSCPS.len(), "each flow has its DSCP");
        let now = Instant::ZERO;
        let one_way: Duration = hops.iter().map(|hop| hop.delay).sum();
        let count = hops.len() as u16 + 1;
        let nodes = (1..=count).map(|n| {
            let config = ForwardConfig {
                node: node(n),
                boot: 1,
                mtu: 1340,
                classes: (0..).zip(loads).map(|(n, load)| class(n, load)).collect(),
                networks: vec![IpAddr::from(address(n)).into()],
                relay: true,
                tun_udp: true,
                lane: Lane::ONLY,
                max_rate_bps: None,
            };
            let mut forwarder = Forwarder::new(config, seed ^ u64::from(n), now);
            forwarder.install(now, &snapshot(n, count, one_way, loads.len()));
            forwarder
        });
        let nodes: Vec<_> = nodes.collect();
        let links = hops.iter().enumerate().map(|(hop, params)| {
            let seed = |way| seed.wrapping_mul(31).wrapping_add(hop as u64 * 2 + way);
            [LinkModel::new(params.clone(), seed(0)), LinkModel::new(params.clone(), seed(1))]
        });
        Self {
            wakes: vec![Instant::FAR; nodes.len()],
            links: links.collect(),
            nodes,
            due: BinaryHeap::new(),
            serial: 0,
            now,
            wire: [0; 3],
            tx: TxBatch::default(),
            recv: RecvBatch::default(),
            written: TunWrites::default(),
        }
    }

    /// Sends the load; `weather` are changes of all links, by the time after [`WARM`].
    pub fn run(&mut self, load: &Load, weather: &[(Duration, LinkParams)]) -> Outcome {
        self.run_watched(load, weather, &mut |_, _| {})
    }

    /// The same; `watch` is told of each packet when it was sent, after [`WARM`], and whether it
    /// missed its deadline.
    pub fn run_watched(
        &mut self,
        load: &Load,
        weather: &[(Duration, LinkParams)],
        watch: &mut dyn FnMut(Duration, bool),
    ) -> Outcome {
        let watch = &mut |_, at, missed| watch(at, missed);
        self.run_flows(std::slice::from_ref(load), weather, watch)
    }

    /// The same for the flows that the row was made for. The outcome is that of all of them; `watch`
    /// is told which one a packet is of.
    pub fn run_flows(
        &mut self,
        loads: &[Load],
        weather: &[(Duration, LinkParams)],
        watch: &mut dyn FnMut(usize, Duration, bool),
    ) -> Outcome {
        let start = Instant::ZERO.plus(WARM);
        let own: Duration = self.links.iter().map(|link| link[0].params().delay).sum();
        let totals = loads.iter().map(|load| load.packets + span_count(WARM, load.every));
        let totals: Vec<u64> = totals.collect();
        let ends = loads.iter().zip(&totals).map(|(load, &total)| {
            Instant::ZERO.plus(nanos(load.every, total)).plus(load.deadline).plus(TAIL)
        });
        let end = ends.max().unwrap_or(start);
        let mut outcome = Outcome::empty();
        // Arrival of each packet: none yet, in time, or late.
        let mut came: Vec<_> = totals.iter().map(|&total| vec![0_u8; total as usize]).collect();
        let (mut sent, mut base) = (vec![0_u64; loads.len()], None);
        let mut turns = Vec::new();
        for at in 0..self.nodes.len() {
            self.settle(at);
        }
        for flow in 0..loads.len() {
            self.push(Instant::ZERO, Due::Packet(flow));
        }
        for (n, (at, _)) in weather.iter().enumerate() {
            self.push(start.plus(*at), Due::Weather(n));
        }
        while let Some(Reverse((at, _, due))) = self.due.pop() {
            if at > end {
                break;
            }
            self.now = at;
            if base.is_none() && at >= start {
                base = Some(self.bytes());
            }
            let touched = match due {
                Due::Packet(flow) => {
                    let (load, number) = (&loads[flow], sent[flow]);
                    let mut tun = TunBatch::default();
                    let last = self.nodes.len() as u16;
                    tun.push(&datagram(last, flow, load.payload, number), Offload::None);
                    self.nodes[0].handle_tun(at, &mut tun);
                    sent[flow] += 1;
                    if sent[flow] < totals[flow] {
                        let next = Instant::ZERO.plus(nanos(load.every, sent[flow]));
                        self.push(next, Due::Packet(flow));
                    }
                    0
                }
                Due::Datagram { to, from, tos, bytes } => {
                    self.recv.clear();
                    let from = endpoint(from as u16 + 1);
                    self.recv.datagrams.push(Datagram {
                        bytes: BytesMut::from(&bytes[..]),
                        from,
                        tos,
                    });
                    self.nodes[to].handle_udp(at, &mut self.recv);
                    to
                }
                Due::Wake(node) => {
                    if self.wakes[node] > at {
                        continue;
                    }
                    self.wakes[node] = Instant::FAR;
                    self.nodes[node].handle_timeout(at);
                    node
                }
                Due::Weather(n) => {
                    for link in self.links.iter_mut().flatten() {
                        link.install(at, weather[n].1.clone());
                    }
                    turns.push(self.bytes());
                    continue;
                }
            };
            self.settle(touched);
            if touched + 1 == self.nodes.len() {
                for (packet, _) in self.written.whole() {
                    let Some((flow, number)) = number_of(&packet) else { continue };
                    let mark = came.get_mut(flow).and_then(|marks| marks.get_mut(number as usize));
                    let (Some(mark), Some(load)) = (mark, loads.get(flow)) else { continue };
                    let sent_at = Instant::ZERO.plus(nanos(load.every, number));
                    let extra = at.since(sent_at).saturating_sub(own);
                    let counts = sent_at >= start;
                    if *mark != 0 {
                        outcome.twice += u64::from(counts);
                        continue;
                    }
                    *mark = if extra <= load.deadline { 1 } else { 2 };
                    if counts {
                        outcome.note_delay(extra);
                    }
                }
                self.written.clear();
            }
        }
        for (flow, (load, marks)) in loads.iter().zip(&came).enumerate() {
            let first = span_count(WARM, load.every);
            for (number, mark) in marks.iter().enumerate().skip(first as usize) {
                let missed = *mark != 1;
                outcome.sent += 1;
                outcome.missing += u64::from(missed);
                let at = nanos(load.every, number as u64).saturating_sub(WARM);
                watch(flow, at, missed);
            }
        }
        let base = base.unwrap_or_default();
        let mut before = base;
        turns.push(self.bytes());
        for turn in turns {
            let spell = Spell { first: turn[0] - before[0], repair: turn[1] - before[1] };
            outcome.spells.push(spell);
            before = turn;
        }
        let [first, repair, feedback, inner] = before;
        outcome.first = first - base[0];
        outcome.repair = repair - base[1];
        outcome.feedback = feedback - base[2];
        outcome.inner = inner - base[3];
        outcome
    }

    /// First-sent, repair, feedback and inner bytes of all nodes so far, outer headers included.
    fn bytes(&self) -> [u64; 4] {
        let (mut inner, mut framing) = (0, 0);
        for (_, link) in self.nodes.iter().flat_map(|node| node.stats().links()) {
            inner += link.sent.data;
            framing += link.sent.framing;
        }
        // Each first sending has one framing; what else bears data is a retransmission.
        let first = inner + framing + framing / OVERHEAD as u64 * OUTER as u64;
        [first, self.wire[0] + self.wire[1] - first, self.wire[2], inner]
    }

    fn push(&mut self, at: Instant, due: Due) {
        self.serial += 1;
        self.due.push(Reverse((at, self.serial, due)));
    }

    /// Takes everything that a node has to say.
    fn settle(&mut self, at: usize) {
        let now = self.now;
        loop {
            self.tx.clear();
            self.nodes[at].poll_transmit(&mut self.tx);
            if self.tx.runs.is_empty() {
                break;
            }
            let tx = std::mem::take(&mut self.tx);
            for (run, bytes) in tx.datagrams() {
                let Some(to) = (0..self.nodes.len()).find(|&n| endpoint(n as u16 + 1) == run.to)
                else {
                    continue;
                };
                let (hop, way) = if to > at { (at, 0) } else { (to, 1) };
                if to.abs_diff(at) != 1 {
                    continue;
                }
                let kind = [Kind::Data, Kind::Repair, Kind::Ack].map(|kind| kind as u8);
                if let Some(kind) = kind.iter().position(|&kind| kind == bytes[0]) {
                    self.wire[kind] += (bytes.len() + OUTER) as u64;
                }
                let verdict = self.links[hop][way].offer(now, bytes.len() + OUTER, run.tos & 3);
                let Verdict::Deliver { at: arrives, ecn, again } = verdict else { continue };
                for arrives in [Some(arrives), again].into_iter().flatten() {
                    let tos = run.tos & !3 | ecn;
                    let bytes = bytes.to_vec();
                    self.push(arrives, Due::Datagram { to, from: at, tos, bytes });
                }
            }
            self.tx = tx;
        }
        self.nodes[at].poll_tun(&mut self.written);
        while self.nodes[at].poll_event().is_some() {}
        if let Some(deadline) = self.nodes[at].poll_timeout()
            && (deadline.at < self.wakes[at] || self.wakes[at] <= now)
        {
            let wake = deadline.at.max(now);
            self.wakes[at] = wake;
            self.push(wake, Due::Wake(at));
        }
    }
}

/// Longer than anything lives on after the last packet.
const TAIL: Duration = Duration::from_secs(3);

fn nanos(every: Duration, times: u64) -> Duration {
    Duration::from_nanos(every.as_nanos() as u64 * times)
}

fn span_count(span: Duration, every: Duration) -> u64 {
    (span.as_nanos() / every.as_nanos().max(1)) as u64
}

fn class(flow: usize, load: &Load) -> ClassSpec {
    ClassSpec {
        name: format!("flow{flow}"),
        matches: Match { dscp: vec![DSCPS[flow]], ..Match::default() },
        policy: Default::default(),
        delivery: Delivery {
            budget: load.deadline,
            residual: Residual::from_f64(load.residual),
            ..Delivery::NONE
        },
        marking: Default::default(),
    }
}

/// A node of a hand-made row.
pub fn node(n: u16) -> NodeId {
    NodeId::new(n).expect("a number of a node")
}

/// Its overlay address.
pub fn address(n: u16) -> Ipv4Addr {
    Ipv4Addr::new(10, 0, 0, n as u8)
}

/// Its underlay endpoint.
pub fn endpoint(n: u16) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, n as u8], 4600))
}

/// Node `n`'s view: a session with every other, a link with its neighbours, and the route from the
/// first to the last along the row.
fn snapshot(n: u16, count: u16, one_way: Duration, flows: usize) -> Snapshot {
    let index = |from: u16, to: u16| u32::from(to) << 20 | u32::from(from) << 8;
    let mut table = RouteTable { generation: 1, ..Default::default() };
    let mut peers = Vec::new();
    for m in 1..=count {
        table.prefixes.insert(IpAddr::from(address(m)).into(), node(m));
        if m == n {
            continue;
        }
        let mut secret = [7; 32];
        (secret[0], secret[1]) = (n.min(m) as u8, n.max(m) as u8);
        let near = n.abs_diff(m) == 1;
        let links = near.then(|| LinkEntry {
            link: LinkId(m),
            endpoint: endpoint(m),
            receive_index: index(m, n),
            transmit_index: index(n, m),
            lanes: 1,
            mtu: None,
        });
        peers.push(PeerEntry {
            node: node(m),
            generation: 1,
            secret: Secret::new(secret),
            networks: vec![IpAddr::from(address(m)).into()],
            links: links.into_iter().collect(),
        });
        // Everybody knows the way along the row; all hops are alike.
        let nodes: Vec<_> =
            if m > n { (n + 1..=m).map(node).collect() } else { (m..n).rev().map(node).collect() };
        let delay = one_way * u32::from(n.abs_diff(m)) / u32::from(count - 1);
        let primary = Path { link: LinkId(nodes[0].get()), nodes, delay };
        for class in 0..flows as u8 {
            let route = Route::alone(primary.clone());
            table.routes.insert((node(m), Class(class)), route);
        }
    }
    Snapshot { peers: Arc::new(peers), routes: Arc::new(table), tuning: None }
}

/// An IPv4 datagram from the first node to the last, its number at the head of its payload.
fn datagram(last: u16, flow: usize, payload: usize, number: u64) -> Vec<u8> {
    let mut packet = vec![0; INNER + payload.max(8)];
    let total = packet.len() as u16;
    packet[..10].copy_from_slice(&[0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, classify::UDP]);
    packet[1] = DSCPS[flow] << 2;
    packet[2..4].copy_from_slice(&total.to_be_bytes());
    packet[12..16].copy_from_slice(&address(1).octets());
    packet[16..20].copy_from_slice(&address(last).octets());
    let sum = !checksum::fold(checksum::sum(&packet[..20], 0));
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    packet[20..22].copy_from_slice(&(PORT + flow as u16).to_be_bytes());
    packet[22..24].copy_from_slice(&4001_u16.to_be_bytes());
    packet[24..26].copy_from_slice(&(total - 20).to_be_bytes());
    packet[INNER..][..8].copy_from_slice(&number.to_be_bytes());
    packet
}

/// The first flow's source port; the next has the next.
const PORT: u16 = 4000;

/// Which flow a packet is of, and its number in that.
fn number_of(packet: &[u8]) -> Option<(usize, u64)> {
    let port = u16::from_be_bytes(packet.get(20..22)?.try_into().ok()?);
    let number = u64::from_be_bytes(packet.get(INNER..INNER + 8)?.try_into().ok()?);
    Some((usize::from(port.checked_sub(PORT)?), number))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::recovery::ratio;
    use crate::link::Burst;

    /// 50 packets/s of 160 B with this deadline beside 1,000 of 1200 B with a second, over a line of
    /// 20 ms round trip: share missing of each, and repair over first-sent bytes.
    fn voice_beside_bulk(line: LinkParams, deadline: u64, seeds: u64) -> ([f64; 2], f64) {
        let load = |pps: u64, payload, deadline, packets| Load {
            every: Duration::from_micros(1_000_000 / pps),
            payload,
            packets,
            deadline: Duration::from_millis(deadline),
            residual: 1e-4,
        };
        let loads = [load(1000, 1200, 1000, 10_000), load(50, 160, deadline, 500)];
        let (mut sent, mut missing, mut bytes) = ([0_u64; 2], [0_u64; 2], (0, 0));
        for seed in 0..seeds {
            let mut row = Chain::with_flows(std::slice::from_ref(&line), &loads, 100 + seed);
            let outcome = row.run_flows(&loads, &[], &mut |flow, _, missed| {
                sent[flow] += 1;
                missing[flow] += u64::from(missed);
            });
            bytes = (bytes.0 + outcome.repair, bytes.1 + outcome.first);
        }
        assert_eq!(sent, [10_000 * seeds, 500 * seeds]);
        let share = [0, 1].map(|flow| missing[flow] as f64 / sent[flow] as f64);
        (share, bytes.0 as f64 / bytes.1 as f64)
    }

    fn independent() -> LinkParams {
        let delay = Duration::from_millis(10);
        LinkParams { delay, loss: ratio(0.05), ..LinkParams::default() }
    }

    fn holes() -> LinkParams {
        let bad = Duration::from_millis(8);
        let burst = Some(Burst { good: bad * 19, bad });
        LinkParams { delay: Duration::from_millis(10), burst, ..LinkParams::default() }
    }

    #[test]
    fn a_voice_flow_beside_a_bulk_flow_is_repaired_inside_its_deadline() {
        let ([bulk, voice], overhead) = voice_beside_bulk(independent(), 60, 6);
        assert!(voice <= 1e-3 && bulk <= 1e-5, "voice {voice}, bulk {bulk}");
        assert!(overhead < 0.055, "{overhead}");
        let ([bulk, voice], overhead) = voice_beside_bulk(holes(), 60, 6);
        assert!(voice <= 2e-3 && bulk <= 1e-5, "voice {voice}, bulk {bulk}");
        assert!(overhead < 0.055, "{overhead}");
    }

    #[test]
    fn a_voice_flow_without_time_for_a_round_is_coded_and_the_bulk_beside_it_is_not() {
        let ([bulk, voice], overhead) = voice_beside_bulk(independent(), 20, 6);
        assert!(voice <= 2e-3 && bulk <= 1e-5, "voice {voice}, bulk {bulk}");
        // Three symbols for each voice packet, of its own size (294 B), are 3.3 % of the bulk's bytes;
        // the bulk coded likewise would be 30 %.
        assert!((0.075..0.09).contains(&overhead), "{overhead}");
        let ([bulk, _], overhead) = voice_beside_bulk(holes(), 20, 6);
        assert!(bulk <= 1e-5 && overhead < 0.09, "bulk {bulk}, {overhead}");
    }
}
