//! Lines that do not carry every frame whole: what is longer goes in pieces.

use thalweg::buf::{Offload, Segmentation};
use thalweg::forward::DropReason;
use thalweg::forward::event::{ForwardEvent, ProbeRequest};
use thalweg::id::LinkId;

use crate::hostile::sealed;
use crate::world::*;

/// Nodes 1 and 2 with a relay between them, over lines of an underlay of 1280 bytes.
fn narrow() -> World {
    let mut world = World::mesh(3, ms(10), REPAIRED);
    for pair in [(1, 2), (2, 1), (2, 3), (3, 2), (1, 3), (3, 1)] {
        world.narrow.insert(pair, 1252);
    }
    for n in 1..=3 {
        world.install(n, &[]);
    }
    world.run_until(at_ms(100));
    world
}

fn long(n: u32) -> Vec<u8> {
    let mut payload = n.to_be_bytes().to_vec();
    payload.resize(1312, 0xab);
    let mut packet = packet(1, 2, 5000, &payload);
    // It may be cut on its way, so that nobody may be told.
    packet[6] = 0;
    let sum = |p: &[u8]| thalweg::forward::checksum::fold(thalweg::forward::checksum::sum(p, 0));
    packet[10..12].fill(0);
    let head = !sum(&packet[..20]);
    packet[10..12].copy_from_slice(&head.to_be_bytes());
    packet
}

#[test]
fn packets_longer_than_the_line_arrive_whole_and_in_full_direct_and_over_a_relay() {
    for way in [&[2][..], &[3, 2]] {
        let mut world = narrow();
        world.install(1, &[(way, None)]);
        for n in 0..200 {
            world.send(1, &long(n), Offload::None);
            world.run_for(ms(2));
        }
        world.run_for(ms(300));
        let out = &world.out[&2];
        assert_eq!(out.len(), 200, "{way:?}");
        assert!(out.iter().zip(0..).all(|((_, bytes, _), n)| *bytes == long(n)), "{way:?}");
        let link = world.nodes[&1].stats().link(LinkId(way[0])).unwrap();
        assert_eq!(link.pieces_sent, 400);
        let longest = world.taps.values().flatten().map(Vec::len).max();
        assert!(longest <= Some(1252), "{longest:?}");
        assert_eq!((world.drops(2), world.drops(3)), (vec![], vec![]));
    }
}

#[test]
fn a_lost_piece_is_a_lost_packet_and_repaired_like_one() {
    let mut world = narrow();
    world.line(1, 2).loss_ppm = 50_000;
    for n in 0..2000 {
        world.send(1, &long(n), Offload::None);
        world.run_for(ms(2));
    }
    world.run_for(ms(500));
    assert!(world.received(2) >= 1995, "{} came", world.received(2));
    assert!(world.dropped(2, DropReason::PieceMissing) > 100, "and each loss is counted");
}

/// What node 1's sender is told of: the MTU of each ICMP message that came out of its device.
fn told(world: &World) -> Vec<u16> {
    let icmp = |bytes: &Vec<u8>| bytes[9] == 1 && bytes[20..22] == [3, 4];
    let all = world.out.get(&1).into_iter().flatten().map(|(_, bytes, _)| bytes);
    all.filter(|b| icmp(b)).map(|b| u16::from_be_bytes([b[26], b[27]])).collect()
}

#[test]
fn a_sender_that_may_be_told_is_told_and_only_then() {
    let mut world = narrow();
    world.send(1, &packet(1, 2, 5000, &[0; 1138]), Offload::None);
    world.run_for(ms(50));
    assert_eq!((world.received(2), told(&world)), (1, vec![]));
    world.send(1, &packet(1, 2, 5000, &[0; 1139]), Offload::None);
    world.run_for(ms(50));
    assert_eq!((world.received(2), told(&world)), (1, vec![1166]));
    assert_eq!(world.dropped(1, DropReason::TooBig), 1);
    // It does not listen: told again, but not as often as it asks.
    for _ in 0..1000 {
        world.send(1, &packet(1, 2, 5000, &[0; 1300]), Offload::None);
    }
    let stats = world.nodes[&1].stats();
    assert_eq!((stats.too_big_told + stats.too_big_untold, told(&world).len()), (1001, 51));
    assert_eq!(world.nodes[&1].stats().link(LinkId(2)).unwrap().pieces_sent, 0);
}

#[test]
fn a_super_segment_is_cut_to_what_its_path_carries() {
    let mut world = narrow();
    let mut segment = as_tcp(packet(1, 2, 5000, &[7; 8000]));
    // Data offset of 20 bytes, an acknowledgement.
    (segment[32], segment[33]) = (0x50, 0x10);
    let offload = Offload::Segments { kind: Segmentation::Tcp4, header: 40, size: 1300 };
    world.send(1, &segment, offload);
    world.run_for(ms(100));
    assert_eq!(world.nodes[&1].stats().link(LinkId(2)).unwrap().pieces_sent, 0);
    assert_eq!(world.nodes[&1].stats().ingress.packets, (8008_u64 - 20).div_ceil(1166 - 40));
    assert_eq!((world.dropped(1, DropReason::TooBig), told(&world)), (0, vec![]));
}

#[test]
fn a_relay_whose_next_line_is_narrower_sends_on_in_pieces_and_tells_the_source() {
    let mut world = World::mesh(3, ms(10), REPAIRED);
    for pair in [(2, 3), (3, 2)] {
        world.narrow.insert(pair, 1252);
    }
    for n in 1..=3 {
        world.install(n, &[]);
    }
    world.install(1, &[(&[2, 3], None)]);
    world.run_until(at_ms(100));
    world.send(1, &packet(1, 3, 5000, &[0; 1300]), Offload::None);
    world.run_for(ms(100));
    assert_eq!((world.received(3), told(&world)), (1, vec![]), "the first goes through");
    assert_eq!(world.nodes[&2].stats().notices_sent, 1);
    world.send(1, &packet(1, 3, 5000, &[0; 1300]), Offload::None);
    world.run_for(ms(100));
    assert_eq!((world.received(3), told(&world)), (1, vec![1166]), "then it is known");
    assert_eq!(world.drops(1), vec![(DropReason::TooBig, 1)]);
}

#[test]
fn connections_open_with_segments_that_both_ways_carry() {
    let mut world = narrow();
    let syn = |from, to| {
        let mut syn = as_tcp(packet(from, to, 5000, &[0; 16]));
        (syn[32], syn[33]) = (0x60, 0x02);
        syn[40..44].copy_from_slice(&[2, 4, 1500_u16.to_be_bytes()[0], 1500_u16.to_be_bytes()[1]]);
        syn
    };
    world.send(1, &syn(1, 2), Offload::None);
    world.run_for(ms(50));
    let stated = |world: &World| {
        let (_, bytes, _) = world.out[&2].last().unwrap();
        u16::from_be_bytes([bytes[42], bytes[43]])
    };
    assert_eq!((stated(&world), world.nodes[&1].stats().clamped), (1126, 1));
    // Only the way back is narrow: the far end sees to it.
    world.narrow.remove(&(1, 2));
    world.install(1, &[]);
    world.narrow.insert((2, 1), 1200);
    world.install(2, &[]);
    world.send(1, &syn(1, 2), Offload::None);
    world.run_for(ms(50));
    assert_eq!((stated(&world), world.nodes[&2].stats().clamped), (1074, 1));
}

#[test]
fn short_packets_pay_nothing_for_a_narrow_line() {
    let mut world = narrow();
    world.flow(1, 2, 100, ms(2));
    world.run_for(ms(100));
    assert_eq!(world.received(2), 100);
    assert_eq!(world.nodes[&1].stats().link(LinkId(2)).unwrap().pieces_sent, 0);
}

#[test]
fn a_size_probe_is_answered_where_it_comes_through_and_only_there() {
    let mut world = World::mesh(2, ms(10), PLAIN);
    world.run_until(at_ms(100));
    world.narrow.insert((1, 2), 1292);
    for (seq, size) in [(0, 1472), (1, 1292), (2, 1293), (3, 56)] {
        let request = ProbeRequest { link: LinkId(2), seq, size: Some(size) };
        let now = world.now;
        world.nodes.get_mut(&1).unwrap().push_probe(now, request);
        world.drain(1);
        world.run_for(ms(50));
    }
    let answered = |event: &ForwardEvent| match *event {
        ForwardEvent::SizeAnswered { link: LinkId(2), seq, size } => Some((seq, size)),
        _ => None,
    };
    let answers: Vec<_> = world.events[&1].iter().filter_map(|(_, e)| answered(e)).collect();
    assert_eq!(answers, [(1, 1292), (3, 56)]);
}

#[test]
fn pieces_that_make_no_frame_are_dropped_and_counted() {
    let mut world = World::mesh(2, ms(1), PLAIN);
    world.run_until(at_ms(20));
    let piece = |id: u32, offset: u16, total: u16, bytes: &[u8]| {
        let head = [&id.to_be_bytes()[..], &offset.to_be_bytes(), &total.to_be_bytes()].concat();
        [&head[..], bytes].concat()
    };
    // Half a frame each, and nothing more: the oldest make room, none is kept for ever.
    for n in 0..1000 {
        let frame = sealed(1, 2, 0x16, 1000 + u64::from(n), &piece(n, 0, 200, &[0x10; 100]));
        world.deliver(1, 2, &frame);
    }
    assert_eq!(world.dropped(2, DropReason::PieceMissing), 1000 - 64);
    // A piece of a piece, and noise.
    for (n, bytes) in [(0, [0x16; 100]), (1, [0x99; 100])] {
        for half in 0..2 {
            let body = piece(5000 + n, half * 100, 200, &bytes);
            let counter = 3000 + u64::from(n) * 2 + u64::from(half);
            world.deliver(1, 2, &sealed(1, 2, 0x16, counter, &body));
        }
    }
    assert_eq!(world.dropped(2, DropReason::Malformed), 1);
    assert_eq!(world.dropped(2, DropReason::NotAFrame), 1);
    assert_eq!(world.received(2), 0);
}
