//! Peers that come from elsewhere: followed when they are there, and only then.

use std::net::SocketAddr;
use std::time::Duration;

use thalweg::forward::event::ForwardEvent;

use crate::world::*;

fn place(n: u8) -> SocketAddr {
    SocketAddr::from(([198, 51, 100, n], 999))
}

fn moves(world: &World, n: u16) -> Vec<SocketAddr> {
    let events = world.events.get(&n).into_iter().flatten();
    events
        .filter_map(|(_, event)| match event {
            ForwardEvent::LinkMoved { endpoint, .. } => Some(*endpoint),
            _ => None,
        })
        .collect()
}

/// Two nodes, 10 ms apart, whose links are up.
fn pair() -> World {
    let mut world = World::mesh(2, ms(10), PLAIN);
    world.run_until(at_ms(500));
    world
}

#[test]
fn who_sends_from_a_new_place_is_followed_within_two_round_trips() {
    let mut world = pair();
    world.places.insert(2, place(2));
    let before = world.now;
    // What it says is heard at once; the answers find it after its challenge came back.
    for n in 0..20 {
        world.flow(2, 1, 1, ms(5));
        world.flow(1, 2, 1, ms(0));
        assert!(n > 0 || world.received(1) == 0);
    }
    world.run_for(ms(50));
    assert_eq!(world.received(1), 20);
    assert_eq!(moves(&world, 1), [place(2)]);
    let first = world.out[&2].first().unwrap().0;
    assert!(first.since(before) < ms(60), "{:?}", first.since(before));
    assert!(moves(&world, 2).is_empty(), "the other end is where it was");
}

#[test]
fn a_silent_peer_that_moved_is_found_before_its_link_is_given_up_for_long() {
    let mut world = pair();
    world.places.insert(2, place(2));
    world.flow(1, 2, 200, ms(10));
    let times: Vec<_> = world.out[&2].iter().map(|(at, ..)| *at).collect();
    assert!(times[0].since(at_ms(500)) < ms(900), "{:?}", times[0]);
    assert_eq!(moves(&world, 1), [place(2)]);
}

#[test]
fn a_link_moves_again_and_back_and_both_ends_may_move_in_turn() {
    let mut world = pair();
    for round in 1..6 {
        world.places.insert(2, place(round));
        world.flow(2, 1, 10, ms(10));
        world.places.insert(1, place(100 + round));
        world.flow(1, 2, 10, ms(10));
    }
    // Both at once would need a new handshake: neither knows where the other is.
    world.places.remove(&2);
    world.flow(2, 1, 10, ms(10));
    world.places.remove(&1);
    world.flow(1, 2, 10, ms(10));
    let before = world.received(2);
    world.flow(1, 2, 10, ms(10));
    world.run_for(ms(30));
    assert!(world.received(2) >= before + 10);
    assert_eq!(moves(&world, 1).last(), Some(&endpoint(2)));
}

#[test]
fn frames_sent_on_by_a_thief_bring_it_a_question_and_never_data() {
    let mut world = pair();
    world.thief = Some(place(66));
    // Every frame of node 2 comes twice: first from the thief's place, then from its own.
    for _ in 0..100 {
        world.flow(2, 1, 1, ms(5));
        world.flow(1, 2, 1, ms(5));
    }
    world.run_for(ms(50));
    assert!(moves(&world, 1).is_empty());
    assert_eq!(world.received(2), 100, "node 2 gets all that is its own");
    let stolen = &world.stolen;
    assert!(stolen.iter().all(|bytes| bytes.len() == 60), "hellos only: {:?}", stolen.len());
    assert!(stolen.len() <= 24, "ten a second from each: {}", stolen.len());
}

#[test]
fn what_was_under_way_from_the_old_place_moves_nothing_back() {
    let mut world = pair();
    world.line(2, 1).delay = ms(200);
    world.flow(2, 1, 5, ms(5));
    world.line(2, 1).delay = ms(10);
    world.places.insert(2, place(2));
    world.flow(2, 1, 20, ms(5));
    world.run_for(Duration::from_secs(1));
    assert_eq!(moves(&world, 1), [place(2)]);
}
