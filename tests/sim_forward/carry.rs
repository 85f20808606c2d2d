//! Packets are carried: over relays, through loss, in order, for a long time.

use std::collections::BTreeMap;
use std::time::Duration;

use thalweg::buf::{Offload, RecvBatch, Segmentation, TunBatch, TunWrites, TxBatch};
use thalweg::forward::event::{ForwardEvent, ProbeRequest};
use thalweg::id::LinkId;
use thalweg::route::policy::Marking;

use crate::world::*;

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

/// What node 1's data frames to node 2, and node 2's to node 3, bear on the outside.
fn outside(marking: Marking, inner_tos: u8, underlay_marks: bool) -> (u8, u8, Vec<u8>) {
    let mut world = World::marked(3, ms(10), REPAIRED, marking);
    world.install(1, &[(&[2, 3], None)]);
    world.run_until(at_ms(100));
    let mut inner = packet(1, 3, 1, b"marked");
    inner[1] = inner_tos;
    let mut batch = TunBatch::default();
    batch.push(&inner, Offload::None);
    let now = world.now;
    let sent = |world: &mut World, n: u16| {
        let mut tx = TxBatch::default();
        world.nodes.get_mut(&n).unwrap().poll_transmit(&mut tx);
        let data = tx.datagrams().find(|(_, datagram)| datagram[0] == 0x10);
        let (run, datagram) = data.expect("a data frame");
        (run.tos, datagram.to_vec())
    };
    world.nodes.get_mut(&1).unwrap().handle_tun(now, &mut batch);
    let (first, datagram) = sent(&mut world, 1);
    let mut arrived = RecvBatch::default();
    arrived.push(&datagram, endpoint(1), if underlay_marks { first | 3 } else { first });
    world.nodes.get_mut(&2).unwrap().handle_udp(now, &mut arrived);
    let (second, datagram) = sent(&mut world, 2);
    arrived.clear();
    arrived.push(&datagram, endpoint(2), second);
    let far = world.nodes.get_mut(&3).unwrap();
    far.handle_udp(now, &mut arrived);
    let mut out = TunWrites::default();
    far.poll_tun(&mut out);
    let inside = out.whole().next().expect("it arrives").0;
    (first, second, inside)
}

#[test]
fn the_outside_bears_the_inner_packets_marking_over_every_hop() {
    const EF: u8 = 46 << 2;
    for ecn in 0..3 {
        let (first, second, inside) = outside(Marking::Copy, EF | ecn, false);
        assert_eq!((first, second, inside[1]), (EF | ecn, EF | ecn, EF | ecn));
    }
    // Congestion on the way changes the two bits and nothing else (RFC 6040).
    let (first, second, inside) = outside(Marking::Copy, EF | 2, true);
    assert_eq!((first, second, inside[1]), (EF | 2, EF | 3, EF | 3));
    // A class may be marked otherwise: outside, not inside.
    let (first, second, inside) = outside(Marking::As(10), EF | 2, false);
    assert_eq!((first, second, inside[1]), (10 << 2 | 2, 10 << 2 | 2, EF | 2));
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
    assert_eq!(world.nodes[&1].held_bytes(), 0, "all acknowledged, nothing kept");
}

#[test]
fn loss_is_repaired_within_the_deadline_and_order_is_kept() {
    let mut world = World::mesh(3, ms(10), REPAIRED);
    world.install(1, &[(&[2, 3], None)]);
    world.run_until(at_ms(100));
    world.both(1, 2, |line| line.loss_ppm = 20_000);
    world.both(2, 3, |line| line.loss_ppm = 20_000);
    world.flow_of(1, 3, 5000, ms(2), as_tcp);
    world.run_for(ms(300));
    let numbers: Vec<u32> = world.out[&3].iter().map(|(_, p, _)| payload_number(p)).collect();
    assert!(numbers.len() >= 4998, "{} of 5000 came", numbers.len());
    assert!(numbers.is_sorted(), "in order");
    let sent_at = |n: u32| at_ms(100 + 2 * u64::from(n));
    let late = world.out[&3].iter().map(|(at, p, _)| at.since(sent_at(payload_number(p)))).max();
    // Path delay 20 ms and the budget of 120 ms.
    assert!(late.unwrap() <= ms(140), "{late:?}");
    let link = world.nodes[&1].stats().link(LinkId(2)).unwrap();
    // There is room on the line: some is brought back by symbols. About a hundred are lost.
    let coded = world.nodes[&2].stats().link(LinkId(1)).unwrap().recovered;
    let mended = link.retransmits + coded;
    assert!(coded > 0 && (80..=160).contains(&mended), "{} {coded}", link.retransmits);
}

#[test]
fn what_is_not_tcp_waits_for_no_lost_packet() {
    let mut world = World::mesh(2, ms(10), REPAIRED);
    world.run_until(at_ms(100));
    world.both(1, 2, |line| line.loss_ppm = 20_000);
    world.flow(1, 2, 5000, ms(2));
    world.run_for(ms(300));
    let sent_at = |n: u32| at_ms(100 + 2 * u64::from(n));
    let arrivals = || world.out[&2].iter().map(|(at, p, _)| at.since(sent_at(payload_number(p))));
    let repaired = arrivals().filter(|delay| *delay > ms(12)).count();
    // One in fifty was lost and came again; nothing else was late with it.
    assert!((50..=150).contains(&repaired), "{repaired}");
    assert!(arrivals().count() >= 4998);
}

#[test]
fn probes_are_answered_with_what_the_peer_heard() {
    let mut world = World::mesh(2, ms(15), PLAIN);
    world.run_until(at_ms(100));
    for seq in 1..=4 {
        let now = world.now;
        world.line(1, 2).cut = seq == 3;
        let probe = ProbeRequest { link: LinkId(2), seq, size: None };
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
