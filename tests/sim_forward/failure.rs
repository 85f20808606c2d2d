//! Links and relays die and return, sessions are renewed: traffic goes on.

use std::sync::Arc;
use std::time::Duration;

use thalweg::forward::DropReason;
use thalweg::forward::event::{FlipReason, ForwardEvent};
use thalweg::forward::snapshot::Snapshot;
use thalweg::id::{Class, LinkId};
use thalweg::route::table::{Path, Route, RouteTable};
use thalweg::session::keys::Secret;
use thalweg::time::Instant;

use crate::world::*;

#[test]
fn links_come_up_in_a_round_trip_and_stay_silent_strangers_do_not() {
    let mut world = World::mesh(3, ms(10), PLAIN);
    world.both(1, 3, |line| line.cut = true);
    world.run_until(at_ms(500));
    let ups: Vec<_> = world.events[&1]
        .iter()
        .filter_map(|(at, e)| match e {
            ForwardEvent::LinkUp { link } => Some((*at, link.0)),
            _ => None,
        })
        .collect();
    assert_eq!(ups, [(at_ms(21), 2)]);
}

#[test]
fn a_node_that_does_not_relay_says_so_and_the_source_takes_its_backup() {
    let mut world = World::mesh(3, ms(10), PLAIN);
    world.air.clear();
    world.start_unwilling(2, 1);
    world.install(1, &[(&[2, 3], Some(&[3]))]);
    world.run_until(at_ms(1500));
    world.flow(1, 3, 20, ms(5));
    world.run_for(ms(50));
    assert!(world.dropped(2, DropReason::RelayRefused) > 0);
    assert!(matches!(world.flips(1)[..], [(_, true, FlipReason::RelayLostHop), ..]));
    assert!(world.received(3) >= 15, "{}", world.received(3));
}

/// The longest time between two packets of a flow that came out of a node since `start`.
fn longest_gap(world: &World, n: u16, start: Instant) -> Duration {
    let times: Vec<Instant> =
        world.out[&n].iter().map(|(at, ..)| *at).filter(|at| *at >= start).collect();
    times.windows(2).map(|w| w[1].since(w[0])).max().unwrap()
}

#[test]
fn a_dead_relay_is_left_within_a_second_and_taken_again_when_it_returns() {
    let mut world = World::mesh(3, ms(10), REPAIRED);
    world.install(1, &[(&[2, 3], Some(&[3]))]);
    world.run_until(at_ms(500));
    world.flow(1, 3, 100, ms(10));
    assert_eq!(world.nodes[&2].stats().relay.packets, 100);
    let died = world.now;
    for other in [1, 3] {
        world.both(2, other, |line| line.cut = true);
    }
    world.flow(1, 3, 100, ms(10));
    assert!(
        matches!(world.flips(1)[..], [(_, true, FlipReason::LinkDown)]),
        "{:?}",
        world.flips(1)
    );
    assert!(longest_gap(&world, 3, died) < ms(500), "{:?}", longest_gap(&world, 3, died));
    for other in [1, 3] {
        world.both(2, other, |line| line.cut = false);
    }
    let back = world.now;
    world.flow(1, 3, 300, ms(10));
    assert!(matches!(world.flips(1)[..], [_, (_, false, FlipReason::Recovered)]));
    assert!(world.nodes[&2].stats().relay.packets > 150, "the relay is in use again");
    assert!(longest_gap(&world, 3, back) < ms(50), "{:?}", longest_gap(&world, 3, back));
}

#[test]
fn a_link_dead_in_one_direction_is_seen_by_the_side_that_is_not_heard() {
    let mut world = World::mesh(3, ms(10), REPAIRED);
    world.install(1, &[(&[3], Some(&[2, 3]))]);
    world.run_until(at_ms(500));
    world.flow(1, 3, 50, ms(10));
    // Node 3 no longer hears node 1; node 1 still hears node 3.
    world.line(1, 3).cut = true;
    let died = world.now;
    world.flow(1, 3, 100, ms(10));
    assert!(longest_gap(&world, 3, died) < ms(500), "{:?}", longest_gap(&world, 3, died));
    assert!(world.nodes[&2].stats().relay.packets > 50);
}

#[test]
fn a_relay_without_its_next_hop_tells_the_source_which_takes_its_backup() {
    for direct in [true, false] {
        let mut world = World::mesh(4, ms(10), REPAIRED);
        // Over both relays; the second loses its link to the destination.
        world.install(1, &[(&[2, 3, 4], Some(&[4]))]);
        world.both(1, 3, |line| line.cut = !direct);
        world.run_until(at_ms(1000));
        world.flow(1, 4, 50, ms(10));
        world.run_for(ms(50));
        assert_eq!(world.nodes[&3].stats().relay.packets, 50);
        world.both(3, 4, |line| line.cut = true);
        let died = world.now;
        world.flow(1, 4, 100, ms(10));
        let told = world.events[&1]
            .iter()
            .any(|(_, e)| *e == ForwardEvent::RelayLostHop { relay: node(3), next: node(4) });
        assert!(told, "direct {direct}: {:?}", world.events[&1]);
        assert!(matches!(world.flips(1)[..], [(_, true, FlipReason::RelayLostHop), ..]));
        assert!(longest_gap(&world, 4, died) < ms(600), "{:?}", longest_gap(&world, 4, died));
        assert!(world.nodes[&3].stats().notices_sent > 0);
    }
}

#[test]
fn a_lossy_link_is_not_called_dead() {
    let mut world = World::mesh(2, ms(10), REPAIRED);
    world.both(1, 2, |line| line.loss_ppm = 200_000);
    world.run_until(at_ms(2000));
    world.flow(1, 2, 3000, ms(10));
    let downs = world.events[&1].iter().filter(|(_, e)| matches!(e, ForwardEvent::LinkDown { .. }));
    assert_eq!(downs.count(), 0);
}

#[test]
fn a_new_session_of_a_peer_goes_on_where_the_old_one_stopped() {
    let mut world = World::mesh(2, ms(10), REPAIRED);
    world.run_until(at_ms(100));
    world.flow(1, 2, 20, ms(5));
    world.run_for(ms(100));
    for (n, m) in [(1, 2), (2, 1)] {
        let mut peers = world.peers(n);
        peers[0].generation = 2;
        peers[0].secret = Secret::new([9; 32]);
        peers[0].links[0].receive_index += 1 << 30;
        peers[0].links[0].transmit_index += 1 << 30;
        let mut table = RouteTable { generation: 2, ..Default::default() };
        for k in [1, 2] {
            table.prefixes.insert(network(k), node(k));
        }
        let primary = Path { link: LinkId(m), nodes: vec![node(m)], delay: ms(10) };
        table.routes.insert((node(m), Class(0)), Route::alone(primary));
        let snapshot = Snapshot { peers: Arc::new(peers), routes: Arc::new(table), tuning: None };
        let now = world.now;
        world.nodes.get_mut(&n).unwrap().install(now, &snapshot);
        world.drain(n);
    }
    world.run_for(ms(300));
    world.flow(1, 2, 20, ms(5));
    world.run_for(ms(100));
    assert_eq!(world.received(2), 40);
    assert_eq!(world.dropped(2, DropReason::EndReplayed), 0);
}

#[test]
fn the_same_snapshot_twice_changes_nothing_and_a_link_taken_away_is_gone() {
    let mut world = World::mesh(2, ms(10), PLAIN);
    world.run_until(at_ms(100));
    world.flow(1, 2, 5, ms(5));
    world.install(1, &[]);
    world.flow(1, 2, 5, ms(5));
    world.run_for(ms(50));
    assert_eq!(world.received(2), 10);
    let mut peers = world.peers(1);
    peers[0].links.clear();
    let empty = Snapshot { peers: Arc::new(peers), routes: RouteTable::empty(), tuning: None };
    let full =
        Snapshot { peers: Arc::new(world.peers(1)), routes: RouteTable::empty(), tuning: None };
    let now = world.now;
    let forwarder = world.nodes.get_mut(&1).unwrap();
    forwarder.install(now, &empty);
    assert_eq!(forwarder.poll_timeout(), None);
    // Under the same session it comes back with its counters where they were: no nonce twice.
    forwarder.install(now, &full);
    world.install(1, &[]);
    world.run_for(ms(300));
    world.flow(1, 2, 5, ms(5));
    world.run_for(ms(50));
    assert_eq!(world.received(2), 15);
    assert_eq!(world.dropped(2, DropReason::Replayed), 0);
}
