//! Who is put out, how all hear of it, and that nobody else notices.

use super::world::{CA, World, at, config, n, name};
use crate::control::message::Message;
use crate::node::{Identity, NodeEvent};
use crate::session::toy::{self, ToySigner, ToyTrust, certificate, certified};
use crate::topology::member::Restored;

const NOBODY: [u16; 0] = [];

/// Five nodes that all know each other.
fn mesh() -> World {
    let mut world = World::new(1);
    (1..=5).for_each(|k| world.start(k, config(&[1])));
    world.run(at(10.0));
    assert_eq!(world.missing(), []);
    world
}

fn revoked(number: u8, nodes: &[u16]) -> Vec<u8> {
    Message::Revoked(toy::list(CA, number, nodes)).to_bytes()
}

/// The hosts that have keys with a node, or a path to it.
fn acquainted(world: &World, node: u16) -> Vec<u16> {
    let others = world.hosts.keys().copied().filter(|&k| k != node);
    let knows = |k: &u16| {
        world.hosts[k].snapshot.peers.iter().any(|p| p.node == n(node))
            || !world.path(*k, node).is_empty()
    };
    others.filter(knows).collect()
}

fn refused(world: &World, host: u16, why: &str) -> u64 {
    world.hosts[&host].node.refused.get(why).copied().unwrap_or(0)
}

#[test]
fn who_is_revoked_is_cut_off_everywhere_within_a_second_and_nobody_else_is() {
    let mut world = mesh();
    let generations = |world: &World| -> Vec<u64> {
        let peers = &world.hosts[&1].snapshot.peers;
        peers.iter().filter(|p| p.node != n(4)).map(|p| p.generation).collect()
    };
    let before = generations(&world);
    world.say(2, 3, revoked(1, &[4]));
    world.run(at(11.0));
    assert_eq!(acquainted(&world, 4), NOBODY);
    assert_eq!(generations(&world), before, "sessions of the others go on");
    assert!((1..4).all(|k| world.hosts[&k].node.members.member(n(4)).is_none()));
    // It knocks, and is not let in.
    world.run(at(100.0));
    assert_eq!(acquainted(&world, 4), NOBODY);
    assert!(world.broken_paths().iter().all(|&(a, b)| a == 4 || b == 4));
}

#[test]
fn a_list_outlives_restarts_and_reaches_who_was_away() {
    let mut world = mesh();
    world.kill(5);
    world.run(at(12.0));
    world.say(2, 3, revoked(1, &[4]));
    world.run(at(20.0));
    // Node 4 is the only one node 5 finds at first; the others tell it soon after.
    world.start(5, config(&[]));
    world.run(at(30.0));
    assert_eq!(acquainted(&world, 4), NOBODY);
    // All who remain start again at once: what they kept knows.
    for k in [1, 2, 3, 5] {
        world.kill(k);
        let kept = Restored::read(&world.hosts[&k].state).unwrap();
        assert_eq!(kept.lists, [toy::list(CA, 1, &[4])]);
        world.start(k, config(&[1, 4]));
    }
    world.run(at(60.0));
    assert_eq!(acquainted(&world, 4), NOBODY);
    let others = |k: u16| [1, 2, 3, 5].into_iter().filter(move |&o| o != k);
    assert!([1, 2, 3, 5].iter().all(|&k| others(k).all(|o| !world.path(k, o).is_empty())));
}

#[test]
fn an_old_list_or_a_forged_one_changes_nothing_and_is_counted() {
    let mut world = mesh();
    world.say(2, 1, revoked(7, &[4]));
    world.run(at(11.0));
    assert_eq!(acquainted(&world, 4), NOBODY);
    // A replay of what was in force before node 4 was put out.
    world.say(3, 1, revoked(6, &[]));
    let forged = Message::Revoked(toy::list(9, 200, &[1, 2, 3])).to_bytes();
    world.say(3, 1, forged);
    world.run(at(12.0));
    assert_eq!(acquainted(&world, 4), NOBODY);
    assert_eq!(refused(&world, 1, "revocation_list_old"), 1);
    assert_eq!(refused(&world, 1, "revocation_list_forged"), 1);
    let friends = acquainted(&world, 3);
    assert!([1, 2, 5].iter().all(|k| friends.contains(k)), "the rest is as it was");
    // Taken back by a newer list, it is back.
    world.say(3, 1, revoked(8, &[]));
    world.run(at(60.0));
    assert_eq!(world.missing(), []);
}

#[test]
fn lists_without_end_cost_no_answers_without_end() {
    let mut world = mesh();
    world.say(2, 1, revoked(7, &[4]));
    world.run(at(11.0));
    let before = world.messages;
    (0..1000).for_each(|_| world.say(3, 1, revoked(6, &[])));
    world.run(at(12.0));
    assert!(world.messages - before < 1000 + 200, "{}", world.messages - before);
    assert!(refused(&world, 1, "revocation_list_old") > 500);
}

#[test]
fn a_node_whose_own_certificate_is_revoked_says_so() {
    let mut world = mesh();
    world.say(2, 4, revoked(1, &[4]));
    world.run(at(11.0));
    let why = "own certificate revoked";
    let said = |e: &NodeEvent| matches!(e, NodeEvent::Refused { why: w, .. } if *w == why);
    assert_eq!(world.events(4, said), 1);
}

#[test]
fn a_renewed_certificate_with_another_key_is_known_to_all_and_no_session_ends() {
    let mut world = mesh();
    let generations = |world: &World| -> Vec<u64> {
        world.hosts[&1].snapshot.peers.iter().map(|p| p.generation).collect()
    };
    let before = generations(&world);
    let renewed = toy::renewed(4, &name(4), "10.44.0.0/16");
    let identity = Identity {
        certified: renewed.clone(),
        certificate: toy::renewed_certificate(CA, 4, &name(4)),
        signer: Box::new(ToySigner::new(4044)),
        trust: Box::new(ToyTrust::new(CA)),
    };
    world.renew(4, identity);
    world.run(at(20.0));
    assert_eq!(generations(&world), before);
    for k in [1, 2, 3, 5] {
        let host = &world.hosts[&k];
        assert_eq!(host.node.members.member(n(4)).unwrap().record.certified, renewed);
        let entry = host.snapshot.peers.iter().find(|p| p.node == n(4)).unwrap();
        assert!(entry.networks.contains(&"10.44.0.0/16".parse().unwrap()), "and may send from it");
    }
    // Its link state is believed under the new key: a link that dies is known to all.
    world.cut(4, 5, true);
    world.run(at(25.0));
    assert_eq!(world.path(4, 5).len(), 2);
    assert_eq!(world.broken_paths(), []);
    // Papers of another node are not taken.
    let foreign = Identity {
        certified: certified(9, "other"),
        certificate: certificate(CA, 9, "other"),
        signer: Box::new(ToySigner::new(9)),
        trust: Box::new(ToyTrust::new(CA)),
    };
    world.renew(4, foreign);
    assert_eq!(world.hosts[&4].node.id(), n(4));
    assert_eq!(refused(&world, 4, "own certificate of another node"), 1);
}
