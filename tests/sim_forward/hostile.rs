//! Nothing hostile gets through or stops a node.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use thalweg::buf::{Offload, RecvBatch, Segmentation, TunBatch, TxBatch};
use thalweg::forward::snapshot::Snapshot;
use thalweg::forward::{DropReason, ForwardConfig, Forwarder, Held};
use thalweg::id::{Class, LinkId, StreamId};
use thalweg::route::policy::ClassSpec;
use thalweg::route::table::{Path, Route, RouteTable};
use thalweg::session::keys::{Scope, nonce};
use thalweg::session::seal::SealKey;
use thalweg::wire::Kind;
use thalweg::wire::data::{DataMut, hop_aad};
use thalweg::wire::header::Clear;

use crate::world::*;

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
fn a_million_forged_frames_cost_few_openings_no_memory_and_no_good_frame() {
    let mut world = World::mesh(2, ms(10), PLAIN);
    world.run_until(at_ms(100));
    world.send(1, &packet(1, 2, 1, b"before"), Offload::None);
    world.run_for(ms(50));
    let mut forged = world.taps[&2].iter().find(|d| d[0] == 0x10).unwrap().clone();
    let mut batch = RecvBatch::default();
    // Ten seconds of a hundred thousand a second, each from a port of its own, under fresh counters.
    for round in 0..10_u32 {
        for chunk in 0..100_u32 {
            batch.clear();
            for i in 0..1000_u32 {
                let number = round * 100_000 + chunk * 1000 + i;
                forged[6..12].copy_from_slice(&(u64::from(number) + (1 << 40)).to_be_bytes()[2..]);
                let from = SocketAddr::from(([203, 0, 113, (number >> 16) as u8], number as u16));
                batch.push(&forged, from, 0);
            }
            let now = world.now;
            world.nodes.get_mut(&2).unwrap().handle_udp(now, &mut batch);
        }
        let good = packet(1, 2, 1, b"in the flood");
        world.send(1, &good, Offload::None);
        world.run_for(Duration::from_secs(1));
        assert_eq!(world.received(2), 2 + round as usize, "good frames pass");
        assert_eq!(world.nodes[&2].held_bytes(), 0);
    }
    let tried = world.dropped(2, DropReason::BadTag);
    let unopened = world.dropped(2, DropReason::ForgeryFlood);
    assert_eq!(tried + unopened, 1_000_000);
    assert!(tried <= 10 * 1000, "{tried} were tried");
}

#[test]
fn what_waits_is_bounded_whatever_is_thrown_at_a_node() {
    // Six neighbours none of whom answers, so that all that is sent is kept for repair as well.
    let mut world = World::mesh(7, ms(10), REPAIRED);
    world.run_until(at_ms(100));
    let held = |world: &World| world.nodes[&1].held();
    let bound = Held::bound(6, 1);
    let payload = [7; 1200];
    let mut most = Held::default();
    for step in 0..60_u32 {
        let now = at_ms(101 + u64::from(step));
        for peer in 2..=7_u16 {
            let mut batch = TunBatch::default();
            for n in 0..400_u32 {
                // Four hundred flows to each.
                batch.push(&packet(1, peer, (n % 400) as u16, &payload), Offload::None);
            }
            let forwarder = world.nodes.get_mut(&1).unwrap();
            forwarder.handle_tun(now, &mut batch);
            // The line takes everything at times, and nothing comes back.
            if step % 4 == 0 {
                let mut tx = TxBatch::default();
                loop {
                    tx.clear();
                    forwarder.poll_transmit(&mut tx);
                    if tx.runs.is_empty() {
                        break;
                    }
                }
            }
            let held = held(&world);
            assert!(held.bytes() <= bound && held.memory <= 128 << 20, "{held:?}");
            for link in held.links.values() {
                assert!(link.queue.bytes <= 4 << 20 && link.queue.packets <= 16_384, "{link:?}");
                assert!(link.repair_bytes <= 16 << 20, "{link:?}");
            }
            if held.bytes() > most.bytes() {
                most = held;
            }
        }
    }
    assert!(most.bytes() > 90 << 20, "the bound was reached: {most:?}");
    let refused = world.dropped(1, DropReason::NoRoom) + world.dropped(1, DropReason::QueueFull);
    assert!(refused > 0);
    // Deadlines end it: nothing is kept for good.
    let forwarder = world.nodes.get_mut(&1).unwrap();
    for ms in 0..200 {
        forwarder.handle_timeout(at_ms(200 + 50 * ms));
        let mut tx = TxBatch::default();
        forwarder.poll_transmit(&mut tx);
    }
    let left = held(&world);
    assert_eq!((left.bytes(), left.frames), (0, 0), "{left:?}");
}

#[test]
fn a_flood_in_the_peers_own_name_costs_none_of_its_frames() {
    let mut world = World::mesh(2, ms(10), PLAIN);
    world.run_until(at_ms(100));
    world.send(1, &packet(1, 2, 1, b"before"), Offload::None);
    world.run_for(ms(50));
    let mut forged = world.taps[&2].iter().find(|d| d[0] == 0x10).unwrap().clone();
    for number in 0..5000_u64 {
        forged[6..12].copy_from_slice(&(number + (1 << 40)).to_be_bytes()[2..]);
        world.deliver(1, 2, &forged);
    }
    world.send(1, &packet(1, 2, 1, b"after"), Offload::None);
    world.run_for(ms(50));
    assert_eq!(world.received(2), 2);
    assert_eq!(world.dropped(2, DropReason::BadTag), 5000);
    // What is no packet is not opened at any length.
    let mut long = vec![0; 60_000];
    long[..12].copy_from_slice(&forged[..12]);
    long[0] = 0x14;
    world.deliver(1, 2, &long);
    assert_eq!(world.dropped(2, DropReason::Malformed), 1);
}

#[test]
fn the_egress_takes_only_what_its_sender_is_certified_for() {
    let mut world = World::mesh(2, ms(10), PLAIN);
    // Node 1's daemon believes that node 9's and node 8's addresses are its own and node 2's.
    let config = ForwardConfig {
        classes: vec![ClassSpec {
            name: "default".into(),
            matches: Default::default(),
            policy: Default::default(),
            delivery: PLAIN,
            marking: Default::default(),
        }],
        networks: vec![network(1), network(9)],
        ..one_lane(1, 2)
    };
    let mut liar = Forwarder::new(config, 5, world.now);
    let mut table = RouteTable { generation: 1, ..Default::default() };
    table.prefixes.insert(network(2), node(2));
    table.prefixes.insert(network(8), node(2));
    let primary = Path { link: LinkId(2), nodes: vec![node(2)], delay: ms(10) };
    table.routes.insert((node(2), Class(0)), Route::alone(primary));
    let snapshot =
        Snapshot { peers: Arc::new(world.peers(1)), routes: Arc::new(table), tuning: None };
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
fn our_own_frames_are_not_carried_in_our_own_frames() {
    let mut world = World::mesh(2, ms(10), PLAIN);
    let mut peers = world.peers(1);
    let inside = SocketAddr::from((address(2).octets(), 4000));
    peers[0].links[0].endpoint = inside;
    let mut table = RouteTable { generation: 1, ..Default::default() };
    table.prefixes.insert(network(2), node(2));
    let primary = Path { link: LinkId(2), nodes: vec![node(2)], delay: ms(10) };
    table.routes.insert((node(2), Class(0)), Route::alone(primary));
    let snapshot = Snapshot { peers: Arc::new(peers), routes: Arc::new(table), tuning: None };
    let now = world.now;
    world.nodes.get_mut(&1).unwrap().install(now, &snapshot);
    let mut batch = TunBatch::default();
    batch.push(&packet(1, 2, 4600, b"encapsulated"), Offload::None);
    world.nodes.get_mut(&1).unwrap().handle_tun(now, &mut batch);
    assert_eq!(world.dropped(1, DropReason::UnderlayLoop), 1);
}

/// A frame of node 1 to node 2, sealed with the right keys, whatever it holds.
fn authentic(kind: u8, counter: u64, body: &[u8]) -> Vec<u8> {
    sealed(1, 2, kind, counter, body)
}

/// The same between any two nodes.
pub(crate) fn sealed(from: u16, to: u16, kind: u8, counter: u64, body: &[u8]) -> Vec<u8> {
    let kind = Kind::parse(kind).unwrap();
    let clear = Clear { kind, epoch: 0, index: index(from, to), counter };
    let header = clear.to_bytes();
    let scope = Scope::hop(node(from), node(to), index(from, to));
    let key = SealKey::new(&scope.key(&secret(from, to), 0));
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
                    // Settled, given up, open, delay, totals, base, bytes of bitmap.
                    body.resize(19, 0);
                    body.resize(19 + 32, hints[0] as u8);
                    body[..4].copy_from_slice(&u32::from(hints[1] % 40).to_be_bytes());
                    body[8..10].copy_from_slice(&(256 + hints[2] % 40).to_be_bytes());
                    body[16..18].copy_from_slice(&(hints[3] % 40).to_be_bytes());
                    body[18] = (hints[4] % 28) as u8;
                    body.truncate(19 + usize::from(hints[4] % 28));
                }
                0x15 => {
                    body.resize(10 + 20 + body.len(), hints[0] as u8);
                    body[..4].copy_from_slice(&u32::from(hints[1] % 400).to_be_bytes());
                    body[4] &= 0x7f;
                    body[6..10].copy_from_slice(&u32::from(1 + hints[2] % 64).to_be_bytes());
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
