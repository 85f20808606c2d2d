//! `netsim bench steps`: processor time of each step of a packet's way, beside its floor.
//!
//! Three forwarders in this process, A, R and B, hand batches to each other by the doors the daemon
//! uses; between two doors the thread's own processor clock is read. So the figures hold no system
//! call, no wait and nobody else's time. Beside them stand the parts that a step cannot do without,
//! measured alone: the ciphers, one copy, one checksum. `way_*` are the doors, `part_*` the parts;
//! a case is a size of inner packet. A turn is what the TUN device gives at once: 64 packets of one
//! flow, as a super-segment.

use std::hint::black_box;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use thalweg::buf::{Offload, RecvBatch, Segmentation, TunBatch, TunPacket, TunWrites, TxBatch};
use thalweg::fec::encoder::HEAD;
use thalweg::fec::gf256::Kernel;
use thalweg::fec::{Decoder, DecoderLimits, Encoder, EncoderLimits};
use thalweg::forward::snapshot::{LinkEntry, PeerEntry, Snapshot};
use thalweg::forward::{ForwardConfig, Forwarder, checksum, classify, queue};
use thalweg::id::{Class, Lane, LinkId};
use thalweg::route::policy::{ClassSpec, Delivery};
use thalweg::route::table::{Path, Route, RouteTable};
use thalweg::session::keys::Secret;
use thalweg::session::replay::{Allowance, Window};
use thalweg::session::seal::{OpenKey, SealKey};
use thalweg::time::Instant;
use thalweg::wire::TAG;
use thalweg::wire::data::{END, HOP_AAD, OVERHEAD};
use thalweg::wire::header::RouteHeader;
use thalweg::wire::repair::Repair;

use super::recovery::chain::{address, endpoint, node};
use super::{BenchReport, Sheet};
use crate::netns::sys;

/// Sizes of inner packets, bytes.
const SIZES: [usize; 3] = [64, 200, 1300];
/// Packets of a turn.
const TURN: usize = 48;
/// Time between two turns, as the forwarders see it: 50 µs for 48 packets are 960,000 a second.
const BEAT: Duration = Duration::from_micros(50);
const NODES: [u16; 3] = [1, 2, 3];
const CLASS: Class = Class(0);

/// Runs it.
///
/// # Errors
/// Forwarders across which no packet comes.
pub fn run(runs: usize, quick: bool) -> anyhow::Result<BenchReport> {
    let turns = if quick { 500 } else { 4000 };
    let mut sheet = Sheet::default();
    for _ in 0..runs {
        for size in SIZES {
            let case = format!("{size}");
            for (name, route) in [("direct", &[3][..]), ("relayed", &[2, 3])] {
                for (step, ns) in Line::new(route)?.measure(size, turns)? {
                    sheet.note(&case, &format!("way_{name}_{step}_ns"), "ns", Some(ns));
                }
            }
            for (part, ns) in parts(size, turns) {
                sheet.note(&case, &format!("part_{part}_ns"), "ns", Some(ns));
            }
            for (part, ns) in codes(size, turns) {
                sheet.note(&case, &format!("part_{part}_ns"), "ns", Some(ns));
            }
        }
    }
    Ok(sheet.report("steps"))
}

/// A, R and B, and what lies between them.
struct Line {
    nodes: Vec<Forwarder>,
    now: Instant,
    relayed: bool,
}

impl Line {
    fn new(route: &[u16]) -> anyhow::Result<Self> {
        let now = Instant::ZERO.plus(Duration::from_secs(1));
        let spec = ClassSpec {
            name: "default".into(),
            matches: Default::default(),
            policy: Default::default(),
            // The default class's: repair is on, so every frame is kept until it is confirmed.
            delivery: Delivery {
                budget: Duration::from_millis(500),
                reorder: Duration::from_millis(500),
                ..Delivery::NONE
            },
            marking: Default::default(),
        };
        let nodes = NODES.map(|n| {
            let config = ForwardConfig {
                node: node(n),
                boot: 1,
                mtu: 1340,
                classes: vec![spec.clone()],
                networks: vec![IpAddr::from(address(n)).into()],
                relay: true,
                tun_udp: true,
                lane: Lane::ONLY,
                max_rate_bps: None,
            };
            let mut forwarder = Forwarder::new(config, u64::from(n), now);
            forwarder.install(now, &snapshot(n, route));
            forwarder
        });
        let mut line = Self { nodes: nodes.into(), now, relayed: route.len() > 1 };
        // Hello comes back, links are up.
        for _ in 0..200 {
            line.now = line.now.plus(Duration::from_millis(1));
            line.settle();
        }
        Ok(line)
    }

    /// Everybody's timers, and what they want sent, until nothing moves.
    fn settle(&mut self) {
        let now = self.now;
        for forwarder in &mut self.nodes {
            forwarder.handle_timeout(now);
        }
        let (mut tx, mut writes) = (TxBatch::default(), TunWrites::default());
        loop {
            let mut moved = false;
            for at in 0..self.nodes.len() {
                tx.clear();
                self.nodes[at].poll_transmit(&mut tx);
                moved |= !tx.runs.is_empty();
                for to in 0..self.nodes.len() {
                    let mut batch = received(&tx, at, to);
                    if !batch.datagrams.is_empty() {
                        self.nodes[to].handle_udp(now, &mut batch);
                    }
                }
                writes.clear();
                self.nodes[at].poll_tun(&mut writes);
                while self.nodes[at].poll_event().is_some() {}
            }
            if !moved {
                return;
            }
        }
    }

    /// Nanoseconds a packet of each door on the way from A to B.
    fn measure(&mut self, size: usize, turns: usize) -> anyhow::Result<Vec<(&'static str, f64)>> {
        let packet = super_segment(size);
        let mut spent = [0_u64; 6];
        let warm = turns / 10;
        let before = self.nodes[2].stats().egress.packets;
        let (mut tx, mut writes) = (TxBatch::default(), TunWrites::default());
        for turn in 0..turns + warm {
            if turn == warm {
                spent = [0; 6];
            }
            self.now = self.now.plus(BEAT);
            let now = self.now;
            let mut tun = TunBatch::default();
            let offload =
                Offload::Segments { kind: Segmentation::Udp, header: 28, size: (size - 28) as u16 };
            tun.packets.push(TunPacket { bytes: BytesMut::from(&packet[..]), offload });
            timed(&mut spent[0], || self.nodes[0].handle_tun(now, &mut tun));
            tx.clear();
            timed(&mut spent[1], || self.nodes[0].poll_transmit(&mut tx));
            if self.relayed {
                let mut batch = received(&tx, 0, 1);
                timed(&mut spent[2], || self.nodes[1].handle_udp(now, &mut batch));
                tx.clear();
                timed(&mut spent[3], || self.nodes[1].poll_transmit(&mut tx));
                // Its feedback to A, not on the clock.
                self.nodes[0].handle_udp(now, &mut received(&tx, 1, 0));
            }
            let from = usize::from(self.relayed);
            let mut batch = received(&tx, from, 2);
            timed(&mut spent[4], || self.nodes[2].handle_udp(now, &mut batch));
            writes.clear();
            timed(&mut spent[5], || self.nodes[2].poll_tun(&mut writes));
            anyhow::ensure!(!writes.packets.is_empty(), "nothing came out at turn {turn}");
            // Feedback goes its way, not on our clock.
            self.settle();
        }
        let came = self.nodes[2].stats().egress.packets - before;
        let sent = ((turns + warm) * TURN) as u64;
        anyhow::ensure!(came == sent, "{came} of {sent} packets came");
        let names = ["queue", "seal", "relay_open", "relay_seal", "open", "join"];
        let per = |ns: u64| ns as f64 / (turns * TURN) as f64;
        let all = names.into_iter().zip(spent.map(per));
        Ok(all.filter(|(name, _)| self.relayed || !name.starts_with("relay")).collect())
    }
}

/// What of a batch goes to node `to`, as its socket would give it: GRO leaves a run in one piece.
fn received(tx: &TxBatch, from: usize, to: usize) -> RecvBatch {
    let mut batch = RecvBatch::default();
    for run in tx.runs.iter().filter(|run| run.to == endpoint(NODES[to])) {
        let mut whole = BytesMut::with_capacity(run.bytes);
        tx.datagrams[run.range.clone()].iter().for_each(|d| whole.extend_from_slice(d));
        let source = endpoint(NODES[from]);
        while !whole.is_empty() {
            let bytes = whole.split_to(run.segment.min(whole.len()));
            batch.datagrams.push(thalweg::buf::Datagram { bytes, from: source, tos: run.tos });
        }
    }
    batch
}

/// The least that each step consists of, alone, nanoseconds.
fn parts(size: usize, turns: usize) -> Vec<(&'static str, f64)> {
    let plain = vec![0x5a; size];
    let mut out = vec![0; size];
    let (seal, open) = (SealKey::new(&[7; 16]), OpenKey::new(&[7; 16]));
    let aad = [3; HOP_AAD];
    let mut number = 0_u64;
    let mut nonce = move || {
        number += 1;
        let mut nonce = [0; 12];
        nonce[..8].copy_from_slice(&number.to_ne_bytes());
        nonce
    };
    let mut header = [9; RouteHeader::LEN];
    let mut found = Vec::new();
    let count = turns * 20;
    let mut part = |name, mut work: Box<dyn FnMut() + '_>| {
        (0..count / 10).for_each(|_| work());
        let mut ns = 0;
        timed(&mut ns, || (0..count).for_each(|_| work()));
        found.push((name, ns as f64 / count as f64));
    };
    part(
        "end_seal",
        Box::new(|| {
            black_box(seal.seal_into(nonce(), &aad, &plain, &mut out));
        }),
    );
    let mut sealed = vec![0; size];
    let tag = seal.seal_into([1; 12], &aad, &plain, &mut sealed);
    let mut work = sealed.clone();
    part(
        "end_open",
        Box::new(|| {
            work.copy_from_slice(&sealed);
            assert!(open.open_in_place([1; 12], &aad, &mut work, &tag).is_ok());
        }),
    );
    part(
        "hop_seal",
        Box::new(|| {
            black_box(seal.seal_in_place(nonce(), &aad, &mut header));
        }),
    );
    let mut small = [9; RouteHeader::LEN];
    let small_tag: [u8; TAG] = seal.seal_in_place([2; 12], &aad, &mut small);
    part(
        "hop_open",
        Box::new(|| {
            let mut text = small;
            assert!(open.open_in_place([2; 12], &aad, &mut text, &small_tag).is_ok());
        }),
    );
    part("copy", Box::new(|| black_box(&mut out).copy_from_slice(black_box(&plain))));
    part(
        "checksum",
        Box::new(|| {
            black_box(checksum::fold(checksum::sum(black_box(&plain), 0)));
        }),
    );
    let whole = single(size);
    part("classify", Box::new(|| assert!(classify::Head::read(black_box(&whole)).is_ok())));
    let (mut window, mut spare, mut seen) = (Window::new(), Allowance(1 << 20), 0);
    part(
        "replay",
        Box::new(|| {
            seen += 1;
            black_box(window.accept(seen, Instant::ZERO, &mut spare));
        }),
    );
    let mut fair = queue::FairQueue::new(queue::QueueLimits::default());
    part(
        "queue",
        Box::new(|| {
            fair.push(Instant::ZERO, 7, size, 1, ());
            assert!(fair.front(Instant::ZERO).is_some());
            fair.served(size, false);
        }),
    );
    found
}

/// What repair costs on each path that this processor can go: a symbol over 16 packets, and one and
/// two of the 16 recovered.
fn codes(size: usize, turns: usize) -> Vec<(String, f64)> {
    const WINDOW: u32 = 16;
    let head = [9; HEAD];
    let tail = Bytes::from(vec![0x5a; size + OVERHEAD - END]);
    let mut found = Vec::new();
    for kernel in Kernel::available() {
        let mut encoder = Encoder::with_kernel(EncoderLimits::default(), kernel);
        (0..WINDOW).for_each(|seq| encoder.push(seq, head, tail.clone()));
        let mut bodies = vec![Vec::new(); 2];
        let mut ns = 0;
        for turn in 0..turns {
            let body = &mut bodies[turn % 2];
            body.clear();
            timed(&mut ns, || {
                let plan = encoder.over_newest(WINDOW as usize).expect("a window was pushed");
                plan.append(body);
            });
        }
        found.push((format!("code_encode_{}", kernel.name()), ns as f64 / turns as f64));
        for lost in [1, 2] {
            let mut ns = 0;
            for _ in 0..turns {
                let mut decoder = Decoder::with_kernel(DecoderLimits::default(), kernel);
                (lost..WINDOW).for_each(|seq| decoder.on_source(seq, head, &tail));
                timed(&mut ns, || {
                    for body in &bodies[..lost as usize] {
                        let (repair, symbol) = Repair::parse(body).expect("it was just written");
                        decoder.on_repair(&repair, symbol);
                    }
                });
                assert_eq!(decoder.stats().recovered, u64::from(lost), "all come back");
            }
            let name = format!("code_decode{lost}_{}", kernel.name());
            found.push((name, ns as f64 / turns as f64));
        }
    }
    found
}

fn timed(spent: &mut u64, work: impl FnOnce()) {
    let start = sys::thread_cpu_ns();
    work();
    *spent += sys::thread_cpu_ns() - start;
}

/// Node `n`'s view: a session and a link with both others, and the route to node 3 as given.
fn snapshot(n: u16, route: &[u16]) -> Snapshot {
    let index = |from: u16, to: u16| u32::from(to) << 20 | u32::from(from) << 8;
    let mut table = RouteTable { generation: 1, ..Default::default() };
    let mut peers = Vec::new();
    for m in NODES {
        table.prefixes.insert(IpAddr::from(address(m)).into(), node(m));
        if m == n {
            continue;
        }
        let mut secret = [7; 32];
        (secret[0], secret[1]) = (n.min(m) as u8, n.max(m) as u8);
        peers.push(PeerEntry {
            node: node(m),
            generation: 1,
            secret: Secret::new(secret),
            networks: vec![IpAddr::from(address(m)).into()],
            links: vec![LinkEntry {
                link: LinkId(m),
                endpoint: endpoint(m),
                receive_index: index(m, n),
                transmit_index: index(n, m),
                lanes: 1,
                mtu: None,
            }],
        });
        let nodes = if (n, m) == (1, 3) { route.to_vec() } else { vec![m] };
        let primary = Path {
            link: LinkId(nodes[0]),
            nodes: nodes.iter().map(|&n| node(n)).collect(),
            delay: Duration::from_millis(1),
        };
        table.routes.insert((node(m), CLASS), Route::alone(primary));
    }
    Snapshot { peers: Arc::new(peers), routes: Arc::new(table), tuning: None }
}

/// An IPv4 datagram of `size` bytes from A to B.
fn single(size: usize) -> Vec<u8> {
    datagram(size - 28)
}

/// One flow's [`TURN`] datagrams of `size` bytes each under one header.
fn super_segment(size: usize) -> Vec<u8> {
    datagram((size - 28) * TURN)
}

fn datagram(payload: usize) -> Vec<u8> {
    let mut packet = vec![0; 28 + payload];
    let total = packet.len() as u16;
    packet[..10].copy_from_slice(&[0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, classify::UDP]);
    packet[2..4].copy_from_slice(&total.to_be_bytes());
    packet[12..16].copy_from_slice(&address(1).octets());
    packet[16..20].copy_from_slice(&address(3).octets());
    let sum = !checksum::fold(checksum::sum(&packet[..20], 0));
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    packet[20..22].copy_from_slice(&4000_u16.to_be_bytes());
    packet[22..24].copy_from_slice(&4001_u16.to_be_bytes());
    packet[24..26].copy_from_slice(&(8 + payload as u16).to_be_bytes());
    packet
}
