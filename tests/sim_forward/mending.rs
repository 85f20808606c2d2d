//! Feedback and repair symbols that are forged, replayed or lies of a peer with the right keys:
//! counted, bounded, no harm to what goes on. What numbers do at their wrap and what a silent peer
//! costs is shown where a sender and a receiver stand alone (`forward::arq::hostile`).

use std::collections::BTreeSet;
use std::time::Duration;

use thalweg::buf::Offload;
use thalweg::forward::{DropReason, LinkStats};
use thalweg::id::{Class, LinkId};
use thalweg::route::policy::Delivery;
use thalweg::time::Instant;
use thalweg::unit::Residual;
use thalweg::wire::ack::{Ack, Bitmap};
use thalweg::wire::header::{Flags, RouteHeader, Segments};
use thalweg::wire::hello::{Hello, Role};
use thalweg::wire::probe::Probe;
use thalweg::wire::repair::{Repair, Window};

use crate::hostile::sealed;
use crate::world::*;

/// Less than a round: what is lost comes back from symbols or not at all.
const CODED: Delivery = Delivery { budget: Duration::from_millis(15), ..Delivery::NONE };
/// What repair may take beyond half of the first-sent bytes: what a sender starts with.
const SAVED: u64 = 48 * 1024;

/// Two nodes 10 ms apart, a tenth of the way from 1 to 2 lost, after 500 packets.
fn lossy() -> World {
    let mut world = World::mesh(2, ms(10), CODED);
    world.run_until(at_ms(100));
    world.line(1, 2).loss_ppm = 100_000;
    world.flow(1, 2, 500, ms(2));
    world.run_for(ms(50));
    world
}

fn link(world: &World, n: u16, peer: u16) -> LinkStats {
    *world.nodes[&n].stats().link(LinkId(peer)).expect("the link carried something")
}

fn false_feedback(world: &World, n: u16, peer: u16) -> u64 {
    world.nodes[&n].held().links[&LinkId(peer)].false_feedback
}

/// Counters that node 1 has spent on frames to node 2 that never arrived: a liar who has its keys can
/// use them beside it, and what it sends by itself afterwards is still new. Only those that the least
/// of replay windows still covers.
fn unheard(world: &World) -> Vec<u64> {
    let counter = |frame: &Vec<u8>| {
        let mut wide = [0; 8];
        wide[2..].copy_from_slice(&frame[6..12]);
        u64::from_be_bytes(wide)
    };
    let heard: BTreeSet<u64> = world.taps[&2].iter().map(counter).collect();
    let newest = *heard.last().expect("something came");
    (newest.saturating_sub(900)..newest).filter(|number| !heard.contains(number)).collect()
}

#[test]
fn forged_and_replayed_feedback_and_symbols_are_counted_and_change_nothing() {
    let mut world = lossy();
    let recovered = link(&world, 2, 1).recovered;
    assert!(recovered > 20, "there is something to forge: {recovered}");
    for (n, from, kind) in [(2, 1, 0x15), (1, 2, 0x14)] {
        let seen: Vec<_> = world.taps[&n].iter().filter(|d| d[0] == kind).cloned().collect();
        assert!(seen.len() > 20, "frames of kind {kind:#x}");
        let told = |world: &World| {
            world.dropped(n, DropReason::Replayed) + world.dropped(n, DropReason::TooOld)
        };
        let (before, had) = (link(&world, n, from), world.received(n));
        let (replayed, bad) = (told(&world), world.dropped(n, DropReason::BadTag));
        for frame in &seen {
            world.deliver(from, n, frame);
        }
        assert_eq!(told(&world) - replayed, seen.len() as u64, "kind {kind:#x}");
        let mut forged = seen[0].clone();
        // A fresh counter, and each byte wrong in turn.
        forged[7] ^= 0x80;
        for at in 12..forged.len() {
            forged[at] ^= 1;
            world.deliver(from, n, &forged);
            forged[at] ^= 1;
        }
        assert_eq!(world.dropped(n, DropReason::BadTag) - bad, forged.len() as u64 - 12);
        let after = link(&world, n, from);
        assert_eq!((after.recovered, world.received(n)), (before.recovered, had));
        assert_eq!(after.received, before.received, "not a byte of it counts");
        assert_eq!(after.sent, before.sent, "nothing answers it");
    }
    let (had, sent) = (world.received(2), 200);
    world.flow(1, 2, sent, ms(2));
    world.run_for(ms(50));
    assert!(world.received(2) - had > sent as usize * 95 / 100, "and the line goes on");
}

#[test]
fn symbols_for_unknown_ancient_and_future_packets_are_counted_and_bounded() {
    let mut world = lossy();
    // So many are lost in a row, and their counters with them; one comes and shows that.
    world.line(1, 2).cut = true;
    for _ in 0..770 {
        world.send(1, &packet(1, 2, 5000, &[7; 100]), Offload::None);
    }
    (world.line(1, 2).cut, world.line(1, 2).loss_ppm) = (false, 0);
    world.run_for(ms(30));
    world.flow(1, 2, 1, ms(2));
    world.run_for(ms(30));
    let newest = 500 + 770;
    let mut spare = unheard(&world).into_iter();
    assert!(spare.len() >= 750, "{}", spare.len());

    let had = world.received(2);
    let before = link(&world, 2, 1);
    let symbol = |spare: &mut dyn Iterator<Item = u64>, repair: Repair, symbol: &[u8]| {
        let body = [&repair.to_bytes()[..], symbol].concat();
        sealed(1, 2, 0x15, spare.next().expect("a spare counter"), &body)
    };
    // What ends far before the newest, beyond its window, far ahead, and across the wrap.
    let lasts = [newest - 1200, newest + 100_000, 1 << 30, (1 << 31) + 7, u32::MAX, 3];
    for round in 0..50_u32 {
        for last in lasts {
            let window = Window::Run(1 + (round % 512) as u16);
            let repair = Repair { last, key: 1 + (round % 30_000) as u16, window };
            world.deliver(1, 2, &symbol(&mut spare, repair, &[round as u8; 400]));
        }
    }
    let after = link(&world, 2, 1);
    assert_eq!(after.symbols_refused - before.symbols_refused, 300);
    assert_eq!((after.recovered, world.received(2)), (before.recovered, had));
    // Windows within reach, but of garbage: what comes out of them is no packet.
    let lost = |world: &World| world.drops(2).iter().map(|(_, count)| count).sum::<u64>();
    let dropped = lost(&world);
    for round in 0..450_u32 {
        let last = newest + round % 40;
        let mask = Window::Mask(round.wrapping_mul(0x9e37_79b9) | 1);
        let window = if round % 3 == 0 { Window::Run(1) } else { mask };
        let repair = Repair { last, key: (round % 7) as u16, window };
        let mut garbage = vec![round as u8; 400];
        garbage[..2].copy_from_slice(&380_u16.to_be_bytes());
        world.deliver(1, 2, &symbol(&mut spare, repair, &garbage));
        if round % 10 == 0 {
            world.run_for(ms(1));
        }
    }
    assert_eq!(world.dropped(2, DropReason::BadTag), 0, "all of it was sealed right");
    assert_eq!(world.received(2), had);
    let after = link(&world, 2, 1);
    let solved = after.recovered - before.recovered;
    assert!(solved >= 10, "some of it solves to something: {solved}");
    assert!(lost(&world) - dropped >= solved, "each of them is counted");
    let told = after.sent.feedback - before.sent.feedback;
    assert!(told <= 4000, "{told} bytes answer 750 symbols of 430");
    assert!(world.nodes[&2].held_bytes() == 0);

    // It costs those numbers that the liar spoke of, and nothing after them, either way.
    world.run_for(ms(300));
    let had = world.received(2);
    world.flow(1, 2, 60, ms(2));
    world.run_for(ms(50));
    assert!(world.received(2) - had >= 20, "{}", world.received(2) - had);
    let had = (world.received(1), world.received(2));
    world.flow(1, 2, 100, ms(2));
    world.flow(2, 1, 100, ms(2));
    world.run_for(ms(50));
    assert_eq!((world.received(1) - had.0, world.received(2) - had.1), (100, 100));
    // Feedback that it brought about had round trips of nothing; they are believed for a while, and
    // what they take for a queue makes room for no symbols. Then these mend again.
    world.flow(1, 2, 2000, ms(20));
    let recovered = link(&world, 2, 1).recovered;
    world.line(1, 2).loss_ppm = 100_000;
    world.flow(1, 2, 500, ms(2));
    world.run_for(ms(50));
    let mended = link(&world, 2, 1).recovered - recovered;
    assert!(mended > 20, "{mended}");
}

/// Feedback that all before `settled` came, and of the `open` after it the last alone.
fn feedback(settled: u32, open: u32) -> Ack {
    Ack {
        settled,
        highest: settled.wrapping_add(open).wrapping_sub(1),
        delay: Duration::ZERO,
        clock: Default::default(),
        given_up: 0,
        ce: 0,
        local_drops: 0,
        asked: false,
        bitmap: Bitmap::new(settled, 0),
        recovered: Default::default(),
    }
}

/// Feedback of node 2 to node 1, sealed with the right keys.
fn said(counter: u64, ack: &Ack) -> Vec<u8> {
    let mut body = Vec::new();
    ack.write(&mut body);
    sealed(2, 1, 0x14, (1 << 40) + counter, &body)
}

#[test]
fn feedback_for_what_was_never_sent_is_counted_and_changes_nothing() {
    let mut world = World::mesh(2, ms(10), REPAIRED);
    world.run_until(at_ms(100));
    let sent = 50;
    world.flow(1, 2, sent, ms(2));
    world.run_for(ms(50));
    let before = link(&world, 1, 2);
    assert_eq!(false_feedback(&world, 1, 2), 0);
    let mut counter = 0;
    for ahead in [1, 2, 1000, 1 << 20, (1 << 31) - 1] {
        for lie in [feedback(sent + ahead, 0), feedback(sent - 1, 1 + ahead.min(60_000))] {
            world.deliver(2, 1, &said(counter, &lie));
            counter += 1;
        }
    }
    assert_eq!(world.dropped(1, DropReason::BadTag), 0, "sealed right");
    assert_eq!(false_feedback(&world, 1, 2), counter);
    world.run_for(ms(100));
    let after = link(&world, 1, 2);
    assert_eq!((after.retransmits, after.sent.repair), (0, 0));
    assert_eq!(after.sent.data, before.sent.data);
    // Its packets are kept for what honest feedback there may be, and go with their time.
    world.flow(1, 2, 50, ms(2));
    world.run_for(ms(300));
    assert_eq!((world.received(2), world.nodes[&1].held_bytes()), (100, 0));
}

#[test]
fn a_flood_of_lying_feedback_brings_neither_a_storm_nor_a_standstill() {
    // What rounds save, and what symbols do.
    for delivery in [REPAIRED, CODED] {
        let mut world = World::mesh(2, ms(10), delivery);
        world.run_until(at_ms(100));
        world.flow(1, 2, 50, ms(1));
        world.run_for(ms(50));
        let had = world.received(2);
        for n in 0..400_u32 {
            // Node 2 says that nothing came but the newest, again and again.
            for again in 0..5 {
                let mut lie = feedback(10, (40 + n).min(300));
                (lie.given_up, lie.delay) = (n * 1000, Duration::from_millis(500));
                world.deliver(2, 1, &said(u64::from(n * 5 + again), &lie));
            }
            let payload = [n.to_be_bytes().to_vec(), vec![7; 400]].concat();
            world.send(1, &packet(1, 2, 5000, &payload), Offload::None);
            world.run_for(ms(1));
            let sent = link(&world, 1, 2).sent;
            let first = sent.data + sent.framing;
            assert!(sent.repair <= first / 2 + SAVED, "after {n}: {sent:?}");
        }
        world.run_for(ms(200));
        assert_eq!(world.dropped(1, DropReason::BadTag), 0, "sealed right");
        assert_eq!(world.received(2) - had, 400, "nothing stalls");
        assert!(link(&world, 1, 2).sent.repair > 10_000, "it is believed as far as that goes");
        assert_eq!(world.nodes[&1].held_bytes(), 0);
    }
}

#[test]
fn a_flood_of_questions_is_answered_with_less_than_it_costs() {
    let mut world = World::mesh(2, ms(10), REPAIRED);
    world.run_until(at_ms(100));
    world.flow(1, 2, 10, ms(2));
    world.run_for(ms(50));
    let asks = |n: u32| match n % 3 {
        0 => (0x11, Probe::Request { seq: n, sent_at: Instant::ZERO }.to_bytes().to_vec()),
        1 => {
            let (challenge, echo) = (u64::from(n).to_be_bytes(), [0; 8]);
            let (version, capabilities) = (thalweg::wire::VERSION, Hello::CAPABILITIES);
            let role = Role::Request;
            let hello = Hello { role, version, capabilities, boot: 1, challenge, echo };
            (0x12, hello.to_bytes().to_vec())
        }
        _ => {
            // A packet after a gap that asks for feedback, of no content.
            let route = RouteHeader {
                hop_seq: 10 + n,
                class: Class(0),
                flags: Flags { ack_wanted: true, ..Flags::default() },
                ecn: 0,
                segments_left: 0,
                residual: Residual::from_f64(1e-4),
                budget: 1000,
                age: 0,
                source: node(1),
                segments: Segments::new(&[node(2)]).expect("one segment"),
            };
            let mut body = route.to_bytes().to_vec();
            body.resize(66, 0);
            (0x10, body)
        }
    };
    let frames: Vec<_> = (0..30_000_u32).map(asks).collect();
    let (mut asked, before) = (0, link(&world, 2, 1));
    for (n, (kind, body)) in (0_u64..).zip(&frames) {
        let frame = sealed(1, 2, *kind, (1 << 40) + n, body);
        asked += frame.len() as u64;
        world.deliver(1, 2, &frame);
        if n % 30 == 0 {
            world.run_for(ms(1));
        }
    }
    world.run_for(ms(100));
    assert_eq!(world.dropped(2, DropReason::BadTag), 0, "sealed right");
    let sent = link(&world, 2, 1).sent;
    let answers = sent.probes - before.sent.probes;
    let told = sent.feedback - before.sent.feedback;
    // Questions and answers have one size; feedback is a hundredth of the data, 32 kbit/s for 1.1 s,
    // and what a receiver saves up: 40 frames of it.
    assert!(answers > 0 && answers <= asked * 2 / 3, "{answers} of {asked}");
    let most = 10_000 * 78 / 100 + 4400 + 41 * 91;
    assert!(told > 0 && told <= most, "{told} of {most}");
    assert_eq!(sent.repair, before.sent.repair);
    assert_eq!(world.nodes[&2].held_bytes(), 0);
}
