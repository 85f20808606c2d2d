//! What repair of a class may cost: the bounds it states hold on the line, whatever mends.

use std::time::Duration;

use thalweg::id::LinkId;
use thalweg::route::policy::Delivery;
use thalweg::unit::Ratio;

use crate::world::*;

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
