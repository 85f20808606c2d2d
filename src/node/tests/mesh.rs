//! How a mesh comes together, stays together, and who is kept out.

use super::world::{World, at, config, endpoint, n, name};
use crate::control::message::{DigestEntry, Message, Topic};
use crate::forward::snapshot::PeerEntry;
use crate::node::{NodeConfig, NodeEvent, Seed};
use crate::report::{Answer, Command, PeerState};
use crate::session::toy::{ToySigner, certificate, certified};
use crate::topology::member::Record;

/// Starts nodes in an order drawn from the seed, within two seconds.
fn start_shuffled(world: &mut World, mut left: Vec<u16>, seeds: &[u16]) {
    while !left.is_empty() {
        let index = world.dice.below(left.len() as u64) as usize;
        let number = left.swap_remove(index);
        world.start(number, config(seeds));
        let pause = world.dice.below(400);
        let until = world.now.plus(std::time::Duration::from_millis(pause));
        world.run(until);
    }
}

#[test]
fn any_start_order_with_one_seed_down_gives_a_full_mesh() {
    for seed in 0..8 {
        let mut world = World::new(seed);
        start_shuffled(&mut world, vec![2, 3, 4, 5, 6, 7], &[1, 4]);
        let until = world.now.plus(std::time::Duration::from_secs(15));
        world.run(until);
        assert_eq!(world.missing(), [], "seed {seed}");
    }
}

#[test]
fn a_node_restarted_without_any_seed_finds_its_peers_from_its_state() {
    let mut world = World::new(1);
    start_shuffled(&mut world, vec![1, 2, 3, 4], &[1]);
    world.run(at(20.0));
    assert_eq!(world.missing(), []);
    for (restarted, until) in [(4, 30.0), (1, 40.0)] {
        world.kill(restarted);
        world.run(at(until - 8.0));
        world.start(restarted, config(&[]));
        world.run(at(until - 3.0));
        assert_eq!(world.missing(), [], "{restarted} is back within five seconds");
    }
}

#[test]
fn a_node_whose_state_was_lost_is_still_newer_than_its_earlier_life() {
    let mut world = World::new(1);
    start_shuffled(&mut world, vec![1, 2, 3], &[1]);
    world.run(at(10.0));
    world.kill(3);
    world.run(at(12.0));
    let mut again = config(&[1]);
    again.boot_floor = 1000;
    world.start_as(3, &name(3), super::world::CA, again, &[]);
    world.run(at(20.0));
    assert_eq!(world.missing(), []);
}

#[test]
fn a_pair_without_a_direct_path_gets_keys_over_others_and_a_link_once_there_is_a_path() {
    let mut world = World::new(1);
    world.cut(2, 3, true);
    (1..=3).for_each(|k| world.start(k, config(&[1])));
    world.run(at(60.0));
    let entry = |world: &World, a: u16, b: u16| {
        let peers = &world.hosts[&a].snapshot.peers;
        peers.iter().find(|p| p.node == n(b)).cloned().expect("keys")
    };
    let (there, back) = (entry(&world, 2, 3), entry(&world, 3, 2));
    assert!(there.secret == back.secret && there.links.is_empty() && back.links.is_empty());
    assert_eq!((world.path(2, 3), world.path(3, 2)), (vec![1, 3], vec![1, 2]));
    let advertised = |k: u16| world.hosts[&k].node.record.endpoints.clone();
    assert!((1..=3).all(|k| advertised(k) == [endpoint(k)]), "nobody tells of what is nowhere");
    let dials = world.dials;
    world.run(at(180.0));
    assert!(world.dials - dials < 20, "a direct path is looked for at ease");
    assert_eq!(entry(&world, 2, 3).generation, there.generation, "and the keys stay");
    world.cut(2, 3, false);
    world.run(at(240.0));
    assert_eq!(world.missing(), []);
    assert_eq!(entry(&world, 2, 3).links.len(), 1);
}

#[test]
fn two_nodes_that_dial_each_other_at_once_end_with_one_session_both_know() {
    for seed in 0..20 {
        let mut world = World::new(seed);
        world.start(1, config(&[2]));
        world.start(2, config(&[1]));
        world.run(at(10.0));
        assert_eq!(world.missing(), []);
        let ups = |k| world.events(k, |e| matches!(e, NodeEvent::SessionUp { .. }));
        assert!(ups(1) == ups(2) && ups(1) <= 2, "seed {seed}: {} {}", ups(1), ups(2));
    }
}

#[test]
fn each_session_has_its_own_receive_index_link_and_generation() {
    let mut world = World::new(3);
    start_shuffled(&mut world, (1..=8).collect(), &[1]);
    world.run(at(20.0));
    for host in world.hosts.values() {
        let peers = &host.snapshot.peers;
        assert!(
            peers.iter().all(|p| p.links[0].receive_index & 0xff == 0),
            "the last byte is the lane"
        );
        let distinct = |of: &dyn Fn(&PeerEntry) -> u64| {
            peers.iter().map(of).collect::<std::collections::BTreeSet<_>>().len()
        };
        assert_eq!(distinct(&|p| p.links[0].receive_index.into()), 7);
        assert_eq!(distinct(&|p| p.links[0].link.0.into()), 7);
        assert_eq!(distinct(&|p| p.generation), 7);
    }
}

#[test]
fn what_a_link_carries_is_found_told_to_the_forwarder_and_shown() {
    use crate::quality::LinkMtu;
    let mut world = World::new(7);
    world.start(1, config(&[]));
    world.start(2, config(&[1]));
    let known = |world: &World| world.hosts[&1].snapshot.peers[0].links[0].mtu;
    let shown = |world: &mut World| {
        let now = world.now;
        match world.hosts.get_mut(&1).unwrap().node.handle_command(now, &Command::Links) {
            Answer::Links(rows) => rows[0].mtu,
            other => panic!("{other:?}"),
        }
    };
    world.run(at(5.0));
    assert_eq!(known(&world), Some(LinkMtu { size: 1472, settled: true }));
    assert_eq!(shown(&mut world), Some(1500));
    // The path shrinks, and this machine is the first to see it.
    world.carries = 1292;
    let (now, link) = (world.now, world.hosts[&1].snapshot.peers[0].links[0].link);
    let refused = crate::forward::event::ForwardEvent::TooLong { link, size: 1418 };
    world.hosts.get_mut(&1).unwrap().node.handle_event(now, refused);
    world.run(at(5.2));
    assert_eq!(known(&world).map(|mtu| mtu.settled), Some(false));
    assert_eq!(shown(&mut world), None, "unknown is not shown as a figure");
    world.run(at(14.0));
    assert_eq!(known(&world), Some(LinkMtu { size: 1292, settled: true }));
    assert_eq!(shown(&mut world), Some(1320));
}

#[test]
fn a_pair_uses_as_many_lanes_as_both_have() {
    let mut world = World::new(5);
    let lanes = [4, 2, 1];
    for (number, lanes) in (1..).zip(lanes) {
        world.start(number, NodeConfig { lanes, ..config(&[1]) });
    }
    world.run(at(20.0));
    for host in world.hosts.values() {
        for peer in host.snapshot.peers.iter() {
            let own = lanes[usize::from(host.node.id().get()) - 1];
            let other = lanes[usize::from(peer.node.get()) - 1];
            assert_eq!(peer.links[0].lanes, own.min(other), "{:?}", (own, other));
        }
    }
}

#[test]
fn an_outage_shorter_than_patience_keeps_the_keys() {
    let mut world = World::new(1);
    world.start(1, config(&[2]));
    world.start(2, config(&[]));
    world.run(at(5.0));
    let generation = world.hosts[&1].snapshot.peers[0].generation;
    world.cut(1, 2, true);
    world.run(at(7.0));
    assert_eq!(world.events(1, |e| matches!(e, NodeEvent::LinkDown { .. })), 1);
    world.cut(1, 2, false);
    world.run(at(12.0));
    assert_eq!(world.missing(), []);
    assert_eq!(world.hosts[&1].snapshot.peers[0].generation, generation);
}

#[test]
fn after_a_long_outage_the_mesh_is_whole_again() {
    let mut world = World::new(1);
    start_shuffled(&mut world, vec![1, 2, 3, 4], &[1]);
    world.run(at(10.0));
    for other in [1, 2, 3] {
        world.cut(4, other, true);
    }
    world.run(at(200.0));
    for other in [1, 2, 3] {
        world.cut(4, other, false);
    }
    world.run(at(240.0));
    assert_eq!(world.missing(), []);
    assert!(world.dials < 200, "the back-off kept dials few: {}", world.dials);
}

#[test]
fn a_foreign_node_is_refused_on_both_sides_and_the_others_are_served() {
    let mut world = World::new(1);
    world.start(1, config(&[2, 9]));
    world.start(2, config(&[1]));
    world.start_as(9, &name(9), 7, config(&[1, 2]), &[]);
    world.run(at(20.0));
    let known = |k: u16| world.hosts[&k].snapshot.peers.iter().map(|p| p.node).collect::<Vec<_>>();
    assert_eq!((known(1), known(2), known(9)), (vec![n(2)], vec![n(1)], vec![]));
    assert!(world.events(1, |e| matches!(e, NodeEvent::DialFailed { .. })) > 0);
}

#[test]
fn a_number_or_name_that_is_taken_is_refused_and_counted() {
    let mut world = World::new(1);
    start_shuffled(&mut world, vec![1, 2, 3], &[1]);
    world.run(at(10.0));
    let false_three = Record::sign(
        certified(3, "impostor"),
        &certificate(super::world::CA, 3, "impostor"),
        &[endpoint(9)],
        (99, 1),
        &ToySigner::new(3),
    );
    world.say(2, 1, Message::Members(vec![false_three.bytes]).to_bytes());
    world.run(at(12.0));
    assert_eq!(world.missing(), []);
    let refused = |e: &NodeEvent| matches!(e, NodeEvent::Refused { why: "number_taken", .. });
    assert_eq!(world.events(1, refused), 1);
}

#[test]
fn a_peer_that_says_nonsense_loses_its_stream_and_comes_back_and_others_never_notice() {
    let mut world = World::new(1);
    start_shuffled(&mut world, vec![1, 2, 3], &[1]);
    world.run(at(10.0));
    let before = world.hosts[&1].snapshot.peers[1].generation;
    world.say(2, 1, vec![0xff; 100]);
    world.run(at(11.0));
    assert_eq!(world.events(1, |e| matches!(e, NodeEvent::StreamLost { .. })), 1);
    world.run(at(30.0));
    assert_eq!(world.missing(), []);
    assert_eq!(world.hosts[&1].snapshot.peers[1].generation, before, "node 3's keys");
    let answer = world.hosts.get_mut(&1).unwrap().node.handle_command(at(30.0), &Command::Peers);
    let Answer::Peers(rows) = answer else { panic!("{answer:?}") };
    assert!(rows.iter().all(|r| r.state == PeerState::Connected), "{rows:?}");
}

#[test]
fn a_flood_of_messages_is_passed_over_and_the_others_are_served() {
    let mut world = World::new(1);
    start_shuffled(&mut world, vec![1, 2, 3], &[1]);
    world.run(at(10.0));
    let entries = vec![DigestEntry { node: n(7), boot: 1, seq: 1 }];
    let digest = Message::Digest { topic: Topic::Members, entries }.to_bytes();
    for _ in 0..10_000 {
        world.say(2, 1, digest.clone());
    }
    let before = world.messages;
    world.run(at(11.0));
    assert!(world.messages - before < 100, "answers are few: {}", world.messages - before);
    assert_eq!(world.missing(), []);
    let throttled = |e: &NodeEvent| matches!(e, NodeEvent::Refused { why: "message_rate", .. });
    assert!(world.events(1, throttled) > 0);
}

#[test]
fn a_node_that_leaves_is_forgotten_by_its_peers_at_once_and_may_come_back() {
    let mut world = World::new(1);
    start_shuffled(&mut world, vec![1, 2, 3], &[1]);
    world.run(at(10.0));
    let now = world.now;
    world.hosts.get_mut(&3).unwrap().node.handle_stop(now);
    world.start_stopping(3);
    world.run(at(10.2));
    assert_eq!(world.hosts[&1].snapshot.peers.len(), 1);
    assert_eq!(world.events(3, |e| matches!(e, NodeEvent::Withdrawn)), 1);
    world.kill(3);
    world.run(at(11.0));
    world.start(3, config(&[]));
    world.run(at(16.0));
    assert_eq!(world.missing(), []);
}

#[test]
fn a_seed_that_is_ourselves_is_dialled_once_and_no_more() {
    let mut world = World::new(1);
    let mut own = config(&[]);
    own.seeds.push(Seed { name: "alias".into(), endpoints: vec![endpoint(1)] });
    own.seeds.push(Seed { name: name(1), endpoints: vec![endpoint(1)] });
    world.start(1, own);
    world.run(at(60.0));
    // The certificate does not carry the alias, so the driver refuses; our own name is never dialled.
    assert!(world.dials <= 8, "{}", world.dials);
}

#[test]
fn one_seed_twice_gives_one_history() {
    let history = |seed| {
        let mut world = World::new(seed);
        start_shuffled(&mut world, vec![1, 2, 3, 4, 5], &[1]);
        world.run(at(30.0));
        let events: Vec<_> = world.hosts.values().map(|h| h.events.clone()).collect();
        (events, world.messages, world.dials)
    };
    assert_eq!(history(5), history(5));
}

#[test]
fn a_stream_that_only_one_side_lost_is_made_anew_whoever_dials() {
    for loser in [1, 2] {
        let mut world = World::new(1);
        start_shuffled(&mut world, vec![1, 2, 3], &[1]);
        world.run(at(10.0));
        world.forget_stream(loser, 3 - loser);
        world.run(at(30.0));
        assert_eq!(world.missing(), []);
        let now = world.now;
        for number in [1, 2] {
            let node = &mut world.hosts.get_mut(&number).unwrap().node;
            let Answer::Peers(rows) = node.handle_command(now, &Command::Peers) else { panic!() };
            assert!(rows.iter().all(|r| r.state == PeerState::Connected), "{rows:?}");
        }
    }
}

#[test]
fn joins_by_the_thousand_are_bounded_and_those_who_are_there_stay() {
    let mut world = World::new(1);
    start_shuffled(&mut world, vec![1, 2, 3], &[1]);
    world.run(at(10.0));
    // Node 2 introduces three thousand members with certificates of the operator, none of whom answers.
    let records: Vec<Vec<u8>> = (1000..4000)
        .map(|number| {
            let name = name(number);
            let signer = ToySigner::new(number);
            let certificate = certificate(super::world::CA, number, &name);
            let endpoints = [endpoint(number)];
            Record::sign(certified(number, &name), &certificate, &endpoints, (1, 1), &signer).bytes
        })
        .collect();
    for batch in records.chunks(64) {
        world.say(2, 1, Message::Members(batch.to_vec()).to_bytes());
    }
    world.run(at(20.0));
    let full = |e: &NodeEvent| matches!(e, NodeEvent::Refused { why: "full", .. });
    assert!(world.events(1, full) > 0, "what does not fit is refused in a word");
    let now = world.now;
    let node = &mut world.hosts.get_mut(&1).unwrap().node;
    let Answer::Status(status) = node.handle_command(now, &Command::Status) else { panic!() };
    assert_eq!(usize::from(status.nodes_known as u16), crate::topology::member::MAX_MEMBERS);
    assert_eq!(status.refused["full"], 3000 + 2 - status.nodes_known as u64);
    let dials = world.dials;
    world.run(at(60.0));
    // Sixteen at a time, and each fails after seconds.
    assert!(world.dials - dials < 16 * 40, "{}", world.dials - dials);
    for (a, b) in [(1, 2), (1, 3), (2, 3)] {
        assert_eq!(world.path(a, b), [b], "from {a} to {b}");
    }
}
