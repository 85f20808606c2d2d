//! What repair of a class may cost: the bounds it states hold on the line, whatever mends.

use std::time::Duration;

use thalweg::buf::Offload;
use thalweg::id::LinkId;
use thalweg::route::policy::Delivery;
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
