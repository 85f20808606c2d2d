//! What the operator decides anew holds at once and cuts nobody off.

use std::time::Duration;

use super::world::{World, at, config, n};
use crate::id::Class;
use crate::node::NodeEvent;
use crate::report::{Answer, Command};
use crate::route::policy::{ClassSpec, Limits, Match};

/// Three nodes, 20 ms apart each, that know each other well.
fn mesh() -> World {
    let mut world = World::new(1);
    for (a, b) in [(1, 2), (1, 3), (2, 3)] {
        world.set_delay(a, b, 20);
    }
    (1..=3).for_each(|number| world.start(number, config(&[1])));
    world.run(at(30.0));
    world
}

/// The same where packets from 1 to 3 have come to go over 2.
fn relayed() -> World {
    let mut world = mesh();
    world.set_delay(1, 3, 200);
    world.run(at(700.0));
    assert_eq!(world.path(1, 3), [2, 3]);
    world
}

#[test]
fn new_classes_and_their_routes_come_in_one_snapshot() {
    let mut world = mesh();
    let mut wanted = config(&[1]);
    let marked = ClassSpec {
        name: "marked".into(),
        matches: Match { dscp: vec![46], ..Match::default() },
        ..wanted.classes[0].clone()
    };
    wanted.classes.insert(0, marked);
    wanted.classes[0].policy.limits =
        Limits { max_latency: Some(Duration::from_millis(90)), ..Limits::default() };
    let sessions = world.events(1, |e| matches!(e, NodeEvent::SessionUp { .. }));
    world.reload(1, wanted.clone());
    let snapshot = &world.hosts[&1].snapshot;
    assert_eq!(snapshot.tuning.as_ref().unwrap().classes, wanted.classes);
    for (node, class) in [(2, 0), (2, 1), (3, 0), (3, 1)] {
        assert!(snapshot.routes.lookup(n(node), Class(class)).is_some(), "{node} {class}");
    }
    let Answer::Paths(rows) = world
        .hosts
        .get_mut(&1)
        .unwrap()
        .node
        .handle_command(at(30.0), &Command::Paths { destination: None })
    else {
        panic!("paths")
    };
    let classes: Vec<_> = rows.iter().map(|r| r.class.as_str()).collect();
    assert_eq!(classes, ["marked", "default", "marked", "default"]);
    world.run(at(40.0));
    assert_eq!(world.broken_paths(), []);
    let after = world.events(1, |e| matches!(e, NodeEvent::SessionUp { .. }));
    assert_eq!(after, sessions, "sessions go on");
    // One class less again.
    world.reload(1, config(&[1]));
    let routes = &world.hosts[&1].snapshot.routes;
    assert!(routes.lookup(n(3), Class(0)).is_some() && routes.lookup(n(3), Class(1)).is_none());
}

#[test]
fn a_consent_that_is_taken_back_ends_after_the_others_have_moved() {
    let mut world = relayed();
    let mut unwilling = config(&[1]);
    unwilling.relay = false;
    world.reload(2, unwilling);
    let relays = |world: &World| world.hosts[&2].snapshot.tuning.as_ref().unwrap().relay;
    assert!(relays(&world), "packets under way are still carried");
    world.run(at(705.0));
    assert_eq!(world.path(1, 3), [3]);
    assert!(relays(&world));
    world.run(at(711.0));
    assert!(!relays(&world));
    // Given again within the time, it never ends.
    world.reload(2, config(&[1]));
    world.run(at(730.0));
    assert!(relays(&world));
}

#[test]
fn a_node_that_wants_no_relays_any_more_goes_straight_at_once() {
    let mut world = relayed();
    let mut straight = config(&[1]);
    straight.use_relays = false;
    world.reload(1, straight);
    assert_eq!(world.path(1, 3), [3]);
}

#[test]
fn endpoints_and_seeds_that_are_new_are_told_and_dialled() {
    let mut world = mesh();
    let mut other = config(&[2]);
    other.advertise = vec!["198.51.100.9:4600".parse().unwrap()];
    world.reload(3, other.clone());
    world.run(at(35.0));
    let shown = |world: &mut World| {
        let host = world.hosts.get_mut(&1).unwrap();
        let Answer::Peers(rows) = host.node.handle_command(at(35.0), &Command::Peers) else {
            panic!("peers")
        };
        rows.into_iter().find(|r| r.node == 3).unwrap().endpoints
    };
    assert!(shown(&mut world).contains(&"198.51.100.9:4600".to_owned()));
    assert!(world.missing().is_empty(), "nobody is lost with the seed");
}

#[test]
fn who_only_observes_computes_everything_and_goes_straight() {
    let mut world = relayed();
    let mut observing = config(&[1]);
    observing.observe = true;
    world.reload(1, observing);
    assert_eq!(world.path(1, 3), [3]);
    world.run(at(1500.0));
    assert_eq!(world.path(1, 3), [3], "and it stays so");
    assert_eq!(world.path(2, 3), [3], "others go as they like");
    let Answer::Explain(told) = world.explain(1, "node-3", None) else { panic!() };
    assert!(told.observe && told.why.contains("(observed)"), "{}", told.why);
    assert!(told.why.ends_with("observing only: nothing is moved"), "{}", told.why);
    assert_eq!(told.candidates[0].path.nodes.len(), 2, "the better path is shown");
    assert!(told.candidates[0].path.delay_ms.unwrap() < 60.0);
    world.reload(1, config(&[1]));
    assert_eq!(world.path(1, 3), [2, 3], "as it was computed all the time");
}
