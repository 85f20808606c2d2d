//! What repair of a class may cost: the bounds it states hold on the line, whatever mends.

use std::time::Duration;

use thalweg::buf::Offload;
use thalweg::id::LinkId;
use thalweg::route::policy::{ClassSpec, Delivery, Match};
use thalweg::unit::Ratio;

use crate::world::*;

#[test]
fn a_source_that_floods_a_relay_gets_its_quota_and_others_lose_nothing() {
    let mut world = World::mesh(4, ms(5), Delivery::NONE);
    world.install(1, &[(&[3, 4], None)]);
    world.install(2, &[(&[3, 4], None)]);
    world.nodes.get_mut(&3).unwrap().limit_relaying(Some(800_000));
    world.run_until(at_ms(100));
    for n in 0..2000_u32 {
        // A packet of 306 bytes a millisecond from one, and one in ten from the other.
        for from in [1, 2].into_iter().filter(|&from| from == 1 || n % 10 == 0) {
            let flow = packet(from, 4, 5000 + (n % 50) as u16, &[from as u8; 200]);
            world.send(from, &flow, Offload::None);
        }
        world.run_for(ms(1));
    }
    world.run_for(ms(100));
    let of = |from: u8| world.out[&4].iter().filter(|(_, p, _)| p[40] == from).count();
    // 100 kB a second for two seconds and 64 KiB at once, of frames of 306 bytes.
    assert!((840..=880).contains(&of(1)), "{}", of(1));
    assert_eq!(of(2), 200);
    let dropped = world.dropped(3, thalweg::forward::DropReason::RelayQuota);
    assert_eq!(of(1) as u64 + dropped, 2000);
}

/// Time for rounds, and time for symbols alone.
const MENDED: [Delivery; 2] =
    [REPAIRED, Delivery { budget: Duration::from_millis(15), ..Delivery::NONE }];

/// What 20,000 packets in 10 s over a line that loses a tenth come to.
struct Spent {
    /// Bytes of what was sent for the first time, and of repair.
    first: u64,
    repair: u64,
    /// Packets that came.
    received: usize,
    /// Lost frames not sent again because of the bound.
    refused: u64,
}

fn spend(delivery: Delivery) -> Spent {
    let mut world = World::mesh(2, ms(10), delivery);
    world.run_until(at_ms(100));
    world.line(1, 2).loss_ppm = 100_000;
    world.flow(1, 2, 20_000, Duration::from_micros(500));
    world.run_for(ms(300));
    let sent = world.nodes[&1].stats().link(LinkId(2)).expect("the line carried it").sent;
    let refused = world.nodes[&1].held().links[&LinkId(2)].over_budget;
    let (first, repair) = (sent.data + sent.framing, sent.repair);
    Spent { first, repair, received: world.received(2), refused }
}

#[test]
fn repair_of_a_class_with_a_share_keeps_to_it_and_without_one_takes_what_the_loss_asks_for() {
    for (delivery, least) in MENDED.into_iter().zip([0.1, 0.3]) {
        let free = spend(delivery);
        assert!(free.repair as f64 > free.first as f64 * least, "{} bytes", free.repair);
        assert!(free.received > 19_980 && free.refused == 0, "{} came", free.received);
        let bound = spend(Delivery { repair_share: Some(Ratio::from_ppm(20_000)), ..delivery });
        let share = bound.repair as f64 / bound.first as f64;
        assert!((0.019..=0.02).contains(&share), "{share}");
        assert!(delivery.budget < ms(20) || bound.refused > 1000, "{} counted", bound.refused);
        // A tenth is lost; of that repair brings some back.
        assert!((18_000..18_800).contains(&bound.received), "{} came", bound.received);
    }
}

#[test]
fn repair_of_a_class_with_a_rate_keeps_to_it() {
    for delivery in MENDED {
        let bound = spend(Delivery { repair_bps: Some(80_000), ..delivery });
        // 10 kB a second, for ten and a bit.
        assert!((97_000..=103_000).contains(&bound.repair), "{} bytes", bound.repair);
    }
}

/// What a flow of 60,000 packets in a minute over a line that loses a twentieth comes to.
struct Beside {
    /// Bytes of repair beyond what its neighbours may spend, as a share of its own.
    overhead: f64,
    /// Its packets that did not come.
    missing: usize,
    /// What was refused for the bound: repair, and cover by symbols.
    refused: u64,
    uncovered: u64,
}

/// A packet a millisecond of a class without a bound, and so many of its neighbours', whose class may
/// spend a hundredth, alike in all else.
fn beside(delivery: Delivery, neighbours: u16) -> Beside {
    const COUNT: u32 = 60_000;
    let class = |name: &str, ports: &[(u16, u16)], repair_share| ClassSpec {
        name: name.into(),
        matches: Match { ports: ports.to_vec(), ..Match::default() },
        policy: Default::default(),
        delivery: Delivery { repair_share, ..delivery },
        marking: Default::default(),
    };
    let share = Some(Ratio::from_ppm(10_000));
    let classes = [class("bound", &[(6000, 6999)], share), class("free", &[], None)];
    let mut world = World::of_classes(2, ms(10), &classes);
    world.run_until(at_ms(100));
    world.line(1, 2).loss_ppm = 50_000;
    for n in 0..COUNT {
        for flow in 0..=neighbours {
            let mut payload = n.to_be_bytes().to_vec();
            payload.resize(200, flow as u8);
            let port = if flow == 0 { 5000 } else { 5999 + flow };
            world.send(1, &packet(1, 2, port, &payload), Offload::None);
            world.run_for(ms(1) / u32::from(neighbours + 1));
        }
    }
    world.run_for(ms(300));
    let sent = world.nodes[&1].stats().link(LinkId(2)).expect("the line carried it").sent;
    let of_each = (sent.data + sent.framing) as f64 / f64::from(neighbours + 1);
    let (own, theirs) = (of_each, of_each * f64::from(neighbours));
    let came = world.out[&2].iter().filter(|(_, p, _)| p[40] == 0).count();
    // Its neighbours have at most their hundredth of it.
    let overhead = (sent.repair as f64 - theirs / 100.0) / own;
    let held = world.nodes[&1].held().links[&LinkId(2)];
    let (refused, uncovered) = (held.over_budget, held.uncovered);
    Beside { overhead, missing: COUNT as usize - came, refused, uncovered }
}

#[test]
fn a_class_that_may_spend_little_makes_no_other_of_its_lane_spend_more() {
    // Time for symbols alone, for one round and copies in it, and for many.
    for budget in [15, 40, 120] {
        let delivery = Delivery { budget: ms(budget), ..Delivery::NONE };
        let alone = beside(delivery, 0);
        assert!(alone.missing <= 20, "{budget} ms, alone: {} lost", alone.missing);
        for neighbours in [1, 4] {
            let both = beside(delivery, neighbours);
            let more = both.overhead / alone.overhead;
            let missing = both.missing;
            assert!(missing <= 20, "{budget} ms, {neighbours} beside: {missing} lost");
            assert!(more < 1.15, "{budget} ms, {neighbours} beside: {more:.3} times the repair");
            // Where no round fits it is not even coded.
            let told = if budget > 15 { both.refused } else { both.uncovered };
            assert!(
                told > 1000,
                "{budget} ms: {} refused, {} uncovered",
                both.refused,
                both.uncovered
            );
        }
    }
}
