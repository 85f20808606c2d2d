//! What paths come of what is measured and told.

use std::time::Duration;

use bytes::Bytes;

use super::world::{Wire, World, at, config, n};
use crate::control::message::Message;
use crate::node::knowledge::Roll;
use crate::node::{NodeConfig, NodeEvent};
use crate::quality::{LinkQuality, LinkState};
use crate::report::{Answer, Command};
use crate::route::policy::{Limits, Match, Objective, Policy};
use crate::session::toy::ToySigner;
use crate::topology::lsa::{Lsa, LsaLink, Version};
use crate::unit::{Price, Ratio};

/// Nodes 1 to `count`, started together; every wire 20 ms one way.
fn mesh(count: u16, config: impl Fn(u16) -> NodeConfig) -> World {
    let mut world = World::new(1);
    for a in 1..=count {
        for b in a + 1..=count {
            world.set_delay(a, b, 20);
        }
    }
    for number in 1..=count {
        world.start(number, config(number));
    }
    world
}

fn seeded(_: u16) -> NodeConfig {
    config(&[1])
}

fn limited(limits: Limits) -> impl Fn(u16) -> NodeConfig {
    move |_| {
        let mut config = config(&[1]);
        config.classes[0].policy = Policy { limits, ..Policy::default() };
        config
    }
}

/// Runs in steps of half a second, packets going from `a` to `b`, until their path is this one; the time
/// it took.
fn until_path(world: &mut World, a: u16, b: u16, path: &[u16], limit_s: f64) -> f64 {
    let from = world.now;
    while world.path(a, b) != path {
        let passed = world.now.since(from).as_secs_f64();
        assert!(passed < limit_s, "after {passed} s still {:?}", world.path(a, b));
        let next = world.now.plus(Duration::from_millis(500));
        world.send_packets(a, b);
        world.run(next);
    }
    world.now.since(from).as_secs_f64()
}

#[test]
fn a_fresh_mesh_routes_everyone_to_everyone() {
    let mut world = mesh(5, seeded);
    world.run(at(20.0));
    assert_eq!(world.broken_paths(), []);
    assert_eq!(world.path(1, 5), [5]);
    let route = world.hosts[&1].snapshot.routes.lookup(n(5), crate::id::Class(0)).unwrap();
    let backup = route.backup.as_ref().expect("a relay stands by");
    assert_eq!(backup.nodes.len(), 2);
    assert!(route.primary.delay.as_millis().abs_diff(20) <= 1, "{:?}", route.primary.delay);
    assert_eq!(world.hosts[&1].snapshot.routes.owner("10.5.1.2".parse().unwrap()), Some(n(5)));
}

#[test]
fn a_relay_that_is_better_from_the_start_is_taken() {
    let mut world = mesh(3, seeded);
    world.set_delay(1, 3, 100);
    world.run(at(5.0));
    let took = until_path(&mut world, 1, 3, &[2, 3], 330.0);
    assert!(took < 320.0);
}

#[test]
fn a_better_path_that_appears_moves_traffic_at_the_recomputation_and_not_before() {
    let mut world = mesh(3, seeded);
    world.set_delay(1, 3, 60);
    world.set_delay(1, 2, 40);
    world.set_delay(2, 3, 40);
    world.run(at(20.0));
    assert_eq!(world.path(1, 3), [3]);
    let recompute_at = |world: &World| world.hosts[&1].node.knowledge.recompute_at();
    // It comes more often at first; five minutes, a tenth less at most, in the end.
    while recompute_at(&world).since(world.now) <= Duration::from_secs(250) {
        assert!(world.now < at(1000.0));
        let next = world.now.plus(Duration::from_secs(5));
        world.run(next);
    }
    let tick = recompute_at(&world);
    world.set_delay(1, 2, 10);
    world.set_delay(2, 3, 10);
    while world.now.plus(Duration::from_secs(1)) < tick {
        let next = world.now.plus(Duration::from_secs(1));
        world.run(next);
        assert_eq!(world.path(1, 3), [3], "at {}", world.now);
    }
    world.run(tick.plus(Duration::from_secs(1)));
    assert_eq!(world.path(1, 3), [2, 3]);
    let moved = |e: &NodeEvent| matches!(e, NodeEvent::PathMoved { destination, .. } if *destination == n(3));
    assert!(world.events(1, moved) >= 1);
}

#[test]
fn a_path_that_leaves_its_limit_moves_within_seconds() {
    let limits = Limits { max_latency: Some(Duration::from_millis(60)), ..Limits::default() };
    let mut world = mesh(3, limited(limits));
    world.run(at(100.0));
    assert_eq!(world.path(1, 3), [3]);
    world.set_delay(1, 3, 150);
    let took = until_path(&mut world, 1, 3, &[2, 3], 15.0);
    assert!(took <= 10.0, "{took} s");
}

#[test]
fn a_path_that_begins_to_lose_beyond_its_limit_moves_within_seconds() {
    let limits = Limits { max_loss: Some(Ratio::from_ppm(50_000)), ..Limits::default() };
    let mut world = mesh(3, limited(limits));
    world.run(at(100.0));
    assert_eq!(world.path(1, 3), [3]);
    world.set_wire(1, 3, Wire { loss: Ratio::from_ppm(400_000), ..world.wire(1, 3) });
    let took = until_path(&mut world, 1, 3, &[2, 3], 60.0);
    assert!(took <= 30.0, "{took} s");
}

#[test]
fn a_dead_node_is_gone_from_every_graph_two_seconds_after_its_neighbours_saw_it_die() {
    let mut world = mesh(10, seeded);
    world.run(at(40.0));
    assert_eq!(world.missing(), []);
    world.kill(5);
    // The pretended forwarder's verdict comes after 200 ms and a look.
    world.run(at(40.0 + 0.25 + 2.0));
    for (number, host) in world.hosts.iter().filter(|(k, _)| **k != 5) {
        let roll = Roll { members: &host.node.members, peers: &host.node.peers };
        let graph = host.node.knowledge.graph(&roll);
        assert_eq!(graph.node(n(5)), None, "node {number} still sees it");
        assert_eq!(graph.nodes().count(), 9);
        let routes = &host.snapshot.routes.routes;
        let over = |p: &crate::route::table::Path| p.nodes.contains(&n(5));
        let left =
            routes.iter().find(|(_, r)| over(&r.primary) || r.backup.as_ref().is_some_and(over));
        assert_eq!(left, None, "node {number} still goes over it");
    }
    assert_eq!(world.broken_paths(), []);
    world.start(5, config(&[]));
    world.run(at(60.0));
    assert_eq!((world.missing(), world.broken_paths()), (vec![], vec![]));
}

#[test]
fn a_link_that_dies_is_gone_round_at_once_and_comes_back() {
    let mut world = mesh(4, seeded);
    world.run(at(30.0));
    world.cut(1, 4, true);
    world.run(at(31.5));
    assert_eq!(world.broken_paths(), []);
    assert_eq!(world.path(1, 4).len(), 2);
    world.cut(1, 4, false);
    until_path(&mut world, 1, 4, &[4], 320.0);
    assert_eq!(world.broken_paths(), []);
}

#[test]
fn a_node_cut_off_keeps_what_it_knows_and_rejoins() {
    let mut world = mesh(4, seeded);
    world.run(at(30.0));
    for other in 1..=3 {
        world.cut(4, other, true);
    }
    world.run(at(40.0));
    for other in 1..=3 {
        world.cut(4, other, false);
    }
    world.run(at(50.0));
    assert_eq!((world.missing(), world.broken_paths()), (vec![], vec![]));
}

#[test]
fn who_does_not_consent_is_no_relay_and_who_uses_none_goes_direct() {
    let mut world = mesh(3, |number| NodeConfig { relay: number != 2, ..config(&[1]) });
    world.set_delay(1, 3, 200);
    world.run(at(320.0));
    assert_eq!(world.path(1, 3), [3], "node 2 refuses");
    let mut world = mesh(3, |number| NodeConfig { use_relays: number != 1, ..config(&[1]) });
    world.set_delay(1, 3, 200);
    world.run(at(320.0));
    assert_eq!((world.path(1, 3), world.path(3, 1)), (vec![3], vec![2, 1]));
}

#[test]
fn the_cheapest_path_is_taken_where_cost_comes_first() {
    let by_cost = |number| {
        let mut config = config(&[1]);
        config.classes[0].policy.objective = Objective::Cost;
        config.price = Price(if number == 1 { 5 } else { 1 });
        config
    };
    let mut world = mesh(3, by_cost);
    world.run(at(20.0));
    // Every path begins with our own uplink; a second hop only adds money.
    assert_eq!(world.path(1, 3), [3]);
    let Answer::Paths(rows) = world
        .hosts
        .get_mut(&1)
        .unwrap()
        .node
        .handle_command(at(20.0), &Command::Paths { destination: Some("node-3".into()) })
    else {
        panic!("paths were asked for")
    };
    assert_eq!(rows.len(), 1);
    assert_eq!(rows[0].primary.as_ref().unwrap().price_per_gb, Price(5).as_f64());
}

#[test]
fn readings_are_fresh_on_links_in_use_and_every_number_was_measured() {
    let mut world = mesh(3, seeded);
    world.set_wire(1, 2, Wire { loss: Ratio::from_ppm(100_000), ..world.wire(1, 2) });
    world.run(at(2.0));
    for second in 60..120 {
        let now = at(f64::from(second));
        world.run(now);
        let Answer::Links(rows) =
            world.hosts.get_mut(&1).unwrap().node.handle_command(now, &Command::Links)
        else {
            panic!("links were asked for")
        };
        assert_eq!(rows.len(), 2);
        for row in rows {
            let age = row.outbound.age_s.expect("measured");
            assert!(age <= if row.in_use { 3.0 } else { 60.0 }, "{age} s old at {second}");
            assert!(!row.outbound.stale);
            let median = row.rtt_median_ms.expect("measured");
            assert!((39.0..=41.0).contains(&median), "{median}");
        }
    }
}

#[test]
fn explain_shows_every_path_and_which_is_in_force() {
    let mut world = mesh(
        4,
        limited(Limits { max_latency: Some(Duration::from_millis(35)), ..Limits::default() }),
    );
    world.run(at(30.0));
    let mut ask = |destination: &str, class: Option<&str>| world.explain(1, destination, class);
    for asked in ["node-4", "4", "n4", "10.4.7.7", "10.99.0.4"] {
        let Answer::Explain(told) = ask(asked, None) else { panic!("{asked}") };
        assert_eq!((told.node, told.in_force), (4, Some(0)), "{asked}");
        assert_eq!(told.prefix.is_some(), asked.starts_with("10."));
        let shown: Vec<_> = told.candidates.iter().map(|c| c.path.nodes.clone()).collect();
        assert!(shown.contains(&vec!["node-4".to_owned()]), "{shown:?}");
        assert!(shown.contains(&vec!["node-2".to_owned(), "node-4".to_owned()]), "{shown:?}");
        let relayed = told.candidates.iter().find(|c| c.path.nodes.len() == 2).unwrap();
        assert!(!relayed.eligible && !relayed.limits[0].kept, "40 ms do not keep 35");
        assert!(told.why.contains("directly"), "{}", told.why);
    }
    assert!(matches!(ask("nobody", None), Answer::NotFound(_)));
    assert!(matches!(ask("node-4", Some("no-such")), Answer::NotFound(_)));
    assert!(matches!(ask("node-4", Some("default")), Answer::Explain(_)));
}

#[test]
fn an_origin_that_announces_without_end_is_throttled_and_the_others_are_served() {
    let mut world = mesh(3, seeded);
    world.run(at(20.0));
    for sequence in 0..1000 {
        let lsa = Lsa {
            origin: n(2),
            version: Version { boot: 50, sequence },
            relay: true,
            withdrawn: false,
            lifetime: Duration::from_secs(900),
            base: None,
            links: Vec::new(),
        };
        let record = Bytes::from(lsa.write(&ToySigner::new(2)));
        world.say(2, 1, Message::Lsa { age_ms: 0, record }.to_bytes());
    }
    let before = world.hosts[&1].tables.len();
    world.run(at(21.0));
    let throttled = |e: &NodeEvent| matches!(e, NodeEvent::Refused { why: "origin_rate", .. });
    assert!(world.events(1, throttled) > 0);
    assert!(world.hosts[&1].tables.len() - before < 60, "tables stay few");
    world.run(at(60.0));
    assert_eq!((world.missing(), world.broken_paths()), (vec![], vec![]));
}

#[test]
fn a_relay_that_announces_its_leg_worse_and_better_a_thousand_times_a_second_moves_traffic_seldom()
{
    let mut world = mesh(4, seeded);
    world.set_delay(1, 3, 90);
    world.set_delay(3, 4, 35);
    world.run(at(30.0));
    assert_eq!(world.path(1, 3), [2, 3]);
    let before = world.hosts[&1].tables.len();
    let moved = |e: &NodeEvent| matches!(e, NodeEvent::PathMoved { destination, .. } if *destination == n(3));
    let moves = world.events(1, moved);
    for ms in 0..20_000_u32 {
        let delay = Duration::from_millis(if ms % 2 == 0 { 300 } else { 20 });
        let state =
            LinkState::measured(LinkQuality { delay, jitter: Duration::ZERO, loss: Ratio::ZERO });
        let link =
            |k| LsaLink { neighbour: n(k), up: true, outward: Some(state), inward: Some(state) };
        let lsa = Lsa {
            origin: n(2),
            version: Version { boot: 50, sequence: ms },
            relay: true,
            withdrawn: false,
            lifetime: Duration::from_secs(900),
            base: None,
            links: [1, 3, 4].map(link).into(),
        };
        let record = Bytes::from(lsa.write(&ToySigner::new(2)));
        world.say(2, 1, Message::Lsa { age_ms: 0, record }.to_bytes());
        let next = world.now.plus(Duration::from_millis(1));
        world.run(next);
    }
    let refused =
        |e: &NodeEvent| matches!(e, NodeEvent::Refused { why: "origin_rate" | "message_rate", .. });
    assert!(world.events(1, refused) > 0, "and counted");
    assert!(world.hosts[&1].tables.len() - before < 60, "tables stay few");
    // The hold-down is ten seconds here.
    assert!(world.events(1, moved) - moves <= 3, "{}", world.events(1, moved) - moves);
    world.run(at(90.0));
    assert_eq!((world.missing(), world.broken_paths()), (vec![], vec![]));
}

#[test]
fn absurd_link_state_attracts_nothing() {
    let mut world = mesh(3, seeded);
    world.run(at(20.0));
    let perfect = LinkState::measured(LinkQuality {
        delay: Duration::ZERO,
        jitter: Duration::ZERO,
        loss: Ratio::ZERO,
    });
    // Node 2 claims perfect links to everyone, also to a node nobody knows, with the greatest
    // version there is. Both ends must agree, so nothing comes of it but its own links.
    let link =
        |k| LsaLink { neighbour: n(k), up: true, outward: Some(perfect), inward: Some(perfect) };
    let lsa = Lsa {
        origin: n(2),
        version: Version { boot: u64::MAX, sequence: u32::MAX },
        relay: true,
        withdrawn: false,
        lifetime: Duration::from_secs(43_000),
        base: None,
        links: [1, 3, 77].map(link).into(),
    };
    let record = Bytes::from(lsa.write(&ToySigner::new(2)));
    world.say(2, 1, Message::Lsa { age_ms: u32::MAX, record: record.clone() }.to_bytes());
    world.say(2, 1, Message::Lsa { age_ms: 0, record }.to_bytes());
    world.run(at(30.0));
    let host = &world.hosts[&1];
    let roll = Roll { members: &host.node.members, peers: &host.node.peers };
    assert_eq!(host.node.knowledge.graph(&roll).node(n(77)), None);
    assert_eq!(world.broken_paths(), []);
}

#[test]
fn sixteen_nodes_come_together_and_speak_little_when_nothing_happens() {
    let mut world = mesh(16, seeded);
    world.run(at(40.0));
    assert_eq!((world.missing(), world.broken_paths()), (vec![], vec![]));
    let before = (world.messages, world.dials);
    world.run(at(70.0));
    // An LSA to 15 peers each 10 s at the very most, digests to two peers each 30 s and their answers.
    let per_node_second = (world.messages - before.0) as f64 / 16.0 / 30.0;
    assert!(per_node_second < 2.0, "{per_node_second} messages per node and second");
    assert_eq!(world.dials, before.1, "nobody is dialled any more");
}

#[test]
fn a_node_to_avoid_relays_where_nothing_else_leads_and_explain_says_why_not_else() {
    let avoiding = |_| {
        let mut config = config(&[1]);
        config.classes[0].policy.avoid = vec![super::world::name(2), "nobody".into()];
        config
    };
    let mut world = mesh(4, avoiding);
    world.set_delay(1, 3, 100);
    world.set_delay(1, 2, 10);
    world.set_delay(2, 3, 10);
    world.run(at(5.0));
    until_path(&mut world, 1, 3, &[4, 3], 330.0);
    let Answer::Explain(told) = world.explain(1, "node-3", None) else { panic!() };
    assert_eq!((&told.avoid[0], told.in_force), (&super::world::name(2), Some(0)));
    let over = told.candidates.iter().find(|c| c.path.nodes == ["node-2", "node-3"]).unwrap();
    let verdict = &over.limits[0];
    assert!(!over.eligible && !verdict.kept);
    assert_eq!(
        (verdict.limit.as_str(), verdict.bound.as_str(), verdict.value.as_str()),
        ("avoid", "node-2", "node-2")
    );
    // The others go; it is better than nothing.
    world.kill(4);
    world.cut(1, 3, true);
    until_path(&mut world, 1, 3, &[2, 3], 15.0);
    world.cut(1, 3, false);
    until_path(&mut world, 1, 3, &[3], 30.0);
}

#[test]
fn explain_finds_the_class_by_protocol_and_port() {
    let classed = |_| {
        let mut config = config(&[1]);
        let mut class = |name: &str, protocols: &[u8], ports: &[(u16, u16)]| {
            let mut spec = config.classes.last().unwrap().clone();
            spec.name = name.into();
            spec.matches =
                Match { protocols: protocols.to_vec(), ports: ports.to_vec(), ..Match::default() };
            let before = config.classes.len() - 1;
            config.classes.insert(before, spec);
        };
        class("calls", &[17], &[(3478, 3481)]);
        class("web", &[], &[(443, 443)]);
        class("echoes", &[1], &[]);
        config
    };
    let mut world = mesh(2, classed);
    world.run(at(10.0));
    let mut class = |protocol, port| {
        let asked = Command::Explain {
            destination: "node-2".into(),
            class: None,
            dscp: None,
            protocol,
            port,
        };
        match world.hosts.get_mut(&1).unwrap().node.handle_command(at(10.0), &asked) {
            Answer::Explain(told) => told.class,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(class(Some(17), Some(3478)), "calls");
    assert_eq!(class(Some(17), Some(3482)), "default");
    assert_eq!(class(Some(6), Some(3478)), "default");
    assert_eq!((class(Some(6), Some(443)), class(None, Some(443))), ("web".into(), "web".into()));
    assert_eq!(class(Some(47), Some(443)), "default", "it has no ports");
    assert_eq!((class(Some(1), None), class(None, None)), ("echoes".into(), "default".into()));
    let asked = Command::Ping { destination: "node-2".into(), dscp: None };
    let host = world.hosts.get_mut(&1).unwrap();
    let Answer::Ping(echo) = host.node.handle_command(at(10.0), &asked) else { panic!() };
    assert_eq!(echo.class, "echoes");
}
