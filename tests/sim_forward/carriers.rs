//! Carriers: QUIC datagrams over the overlay, for pairs without a direct path.

use thalweg::forward::DropReason;

use crate::world::*;

/// Three nodes of which 1 and 3 have no direct path.
fn chain() -> World {
    let mut world = World::mesh(3, ms(10), PLAIN);
    world.both(1, 3, |line| line.cut = true);
    world.install(1, &[(&[2, 3], None)]);
    world.install(3, &[(&[2, 1], None)]);
    world.run_until(at_ms(500));
    world
}

fn carry(world: &mut World, from: u16, to: u16, datagram: &[u8]) {
    let now = world.now;
    world.nodes.get_mut(&from).unwrap().push_carrier(now, node(to), datagram);
    world.drain(from);
    world.run_for(ms(30));
}

fn arrived(world: &mut World, n: u16) -> Vec<(u16, Vec<u8>)> {
    let forwarder = world.nodes.get_mut(&n).unwrap();
    std::iter::from_fn(|| forwarder.poll_carried()).map(|(from, b)| (from.get(), b)).collect()
}

#[test]
fn datagrams_cross_a_relay_both_ways_and_come_out_as_they_went_in() {
    let mut world = chain();
    carry(&mut world, 1, 3, &[7; 1200]);
    carry(&mut world, 3, 1, b"back");
    assert_eq!(arrived(&mut world, 3), [(1, vec![7; 1200])]);
    assert_eq!(arrived(&mut world, 1), [(3, b"back".to_vec())]);
    assert!(arrived(&mut world, 2).is_empty(), "who passes on keeps nothing");
    carry(&mut world, 1, 3, &[7; 1201]);
    carry(&mut world, 1, 3, &[]);
    assert_eq!(world.dropped(1, DropReason::TooBig), 2);
}

#[test]
fn who_does_not_relay_passes_no_carrier_on() {
    let mut world = chain();
    world.start_unwilling(2, 2);
    world.run_for(ms(1500));
    carry(&mut world, 1, 3, b"x");
    assert!(arrived(&mut world, 3).is_empty());
    assert_eq!(world.dropped(2, DropReason::RelayRefused), 1);
}

#[test]
fn a_flood_of_carriers_is_cut_off_at_the_first_node_and_counted() {
    let mut world = chain();
    for _ in 0..40 {
        for _ in 0..50 {
            let now = world.now;
            world.nodes.get_mut(&1).unwrap().push_carrier(now, node(3), &[1; 100]);
        }
        world.drain(1);
        world.run_for(ms(5));
    }
    world.run_for(ms(50));
    let came = arrived(&mut world, 3).len() as u64;
    // What nobody takes at its end is refused there.
    let refused = [2, 3].map(|n| world.dropped(n, DropReason::CarrierQuota));
    assert_eq!(came, 512);
    assert!(refused[0] > 1400 && came + refused[0] + refused[1] == 2000, "{refused:?}");
    carry(&mut world, 3, 1, b"others are not held up");
    assert_eq!(arrived(&mut world, 1).len(), 1);
}
