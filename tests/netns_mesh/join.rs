//! Daemons find each other, notice a death, leave cleanly and come back.

use thalweg::report::PeerState;

use crate::lab::*;

#[test]
fn three_daemons_join_through_one_seed_and_leave_nothing_behind() {
    if !allowed() {
        return;
    }
    let mut lab = joins_in_order([0, 1, 2]);
    let report = lab.report(1).unwrap();
    assert!(report.peers.iter().all(|peer| peer.state == PeerState::Connected), "{report:#?}");
    // Counters are published a few times a second.
    lab.until(1, 5, "traffic counted", |report| {
        let traffic = report.status.traffic.unwrap_or_default();
        traffic.ingress.packets > 0 && traffic.egress.packets > 0
    });
    assert!(lab.left_behind(1).contains("10.77.0.1"), "while it runs there are routes");

    // A clean end is told to the others, and takes everything away.
    lab.signal(1, "TERM");
    assert_eq!(lab.wait(1), Some(0), "{}", lab.log(1));
    assert_eq!(lab.left_behind(1), "");
    assert!(!lab.socket(1).exists(), "the admin socket is gone");
    for at in [0, 2] {
        lab.until(at, 5, "the route to who left gone", |report| {
            report.paths.iter().all(|path| path.destination != "bravo" || path.primary.is_none())
        });
    }
    assert!(lab.crosses(0, overlay(2)), "the others go on");

    lab.signal(2, "INT");
    assert_eq!(lab.wait(2), Some(0), "{}", lab.log(2));
    assert_eq!(lab.left_behind(2), "");
    assert!(!lab.log(2).contains("panicked"));
}

#[test]
fn the_seed_may_come_last_and_a_killed_daemon_is_noticed_and_returns() {
    if !allowed() {
        return;
    }
    let mut lab = joins_in_order([2, 1, 0]);
    // Killed without a word: nothing of it remains either, and the others notice.
    lab.signal(1, "KILL");
    assert_eq!(lab.wait(1), None);
    assert_eq!(lab.left_behind(1), "", "device, addresses and routes go with the process");
    for at in [0, 2] {
        lab.until(at, 10, "the dead link down", |report| {
            report.links.iter().all(|link| link.peer != "bravo" || link.state.name() != "up")
        });
        assert!(lab.crosses(at, overlay(2 - at)), "the living go on: {}", lab.log(at));
    }
    lab.start(1);
    lab.until_meshed(&[0, 1, 2]);
    assert!(lab.crosses(1, overlay(0)) && lab.crosses(2, overlay(1)), "{}", lab.log(1));
}

#[test]
fn a_restarted_daemon_finds_its_peers_without_any_seed() {
    if !allowed() {
        return;
    }
    let mut lab = joins_in_order([0, 1, 2]);
    lab.signal(2, "TERM");
    assert_eq!(lab.wait(2), Some(0));
    // The seed is down, and the file names none.
    lab.signal(0, "KILL");
    lab.wait(0);
    lab.configure(2, None);
    lab.start(2);
    lab.until_meshed(&[1, 2]);
    assert!(lab.crosses(2, overlay(1)), "{}", lab.log(2));
}

#[test]
fn without_the_cloud_a_newcomer_joins_over_an_edge_and_meets_the_others() {
    if !allowed() {
        return;
    }
    let mut lab = Lab::new(&["cloud", "alpha", "bravo", "newcomer"]);
    (0..3).for_each(|at| lab.start(at));
    lab.until_meshed(&[0, 1, 2]);
    lab.signal(0, "KILL");
    lab.wait(0);
    // It has its certificate and was told of one edge; alpha starts again meanwhile.
    lab.configure(3, Some((2, underlay(2))));
    lab.signal(1, "KILL");
    lab.wait(1);
    lab.start(1);
    lab.start(3);
    lab.until_meshed(&[1, 2, 3]);
    for (from, to) in [(1, 3), (3, 1), (2, 3), (1, 2)] {
        assert!(lab.crosses(from, overlay(to)), "{}", lab.log(from));
    }
}

#[test]
fn daemons_meet_over_ipv6_as_well() {
    if !allowed() {
        return;
    }
    let mut lab = Lab::new(&SITES[..2]);
    lab.configure(1, Some((0, underlay6(0))));
    (0..2).for_each(|at| lab.start(at));
    lab.until_meshed(&[0, 1]);
    let links = lab.report(1).unwrap().links;
    assert!(links.iter().all(|link| link.endpoint == "[fd99::1]:4600"), "{links:#?}");
    for address in [overlay(0), overlay6(0)] {
        assert!(lab.crosses(1, address), "{address}: {}", lab.log(1));
    }
}
