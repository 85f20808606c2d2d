//! What lies between daemons: firewalls, addresses that change, walls, a narrow line, a device that goes.

use std::fs;

use thalweg::daemon::clock::unix_seconds;
use thalweg::daemon::pki::revoke::revoke;

use crate::lab::*;

#[test]
fn nodes_that_take_nothing_unasked_join_and_are_reached_over_what_they_opened() {
    if !allowed_with("nft", "nftables") {
        return;
    }
    // The first knows nobody and is dialled by nobody but these two; the lower number of a pair is the
    // one that dials at once, so charlie waits to be dialled by bravo, in vain, and dials.
    let mut lab = Lab::new(&SITES);
    [1, 2].into_iter().for_each(|at| lab.outbound_only(at));
    (0..3).for_each(|at| lab.start(at));
    lab.until_meshed(&[0, 1, 2]);
    for (from, to) in [(0, 1), (0, 2), (1, 2), (2, 1)] {
        assert!(lab.crosses(from, overlay(to)), "{}", lab.log(from));
    }
    assert!(lab.has_dropped(2), "bravo was not let in before charlie asked");
    // Who asked first may start again: nobody can dial it, and it is back all the same.
    for at in [0, 2] {
        lab.signal(at, "KILL");
        lab.wait(at);
        lab.start(at);
        lab.until_meshed(&[0, 1, 2]);
        assert!(lab.crosses(1, overlay(at)), "{}", lab.log(1));
    }
}

#[test]
fn a_daemon_whose_address_changes_is_followed_and_its_streams_go_on() {
    let Some(lab) = meshed(&SITES) else { return };
    let space = lab.namespace("bravo");
    // In this order: with the first address of a network the kernel takes away the others.
    ip(&["-n", &space, "addr", "del", "192.168.77.2/24", "dev", "eth0"]);
    ip(&["-n", &space, "addr", "add", "192.168.77.99/24", "dev", "eth0"]);
    for at in [0, 2] {
        lab.until(at, 10, "bravo at its new address", |report| {
            let there = |l: &thalweg::report::LinkRow| l.endpoint == "192.168.77.99:4600";
            report.links.iter().any(|l| {
                l.peer == "bravo" && there(l) && l.state.name() == "up" && l.moves == Some(1)
            })
        });
        assert!(lab.crosses(at, overlay(1)) && lab.crosses(1, overlay(at)), "{}", lab.log(at));
    }
    // The same keys, the same streams: what is said on them now arrives.
    let list = revoke(&lab.dir.path().join("ca"), "charlie", None, unix_seconds()).unwrap().list;
    fs::copy(list, lab.home(0).join("ca.crl")).unwrap();
    assert!(within(20, || lab.whole_log(1).contains("revocation list in force")), "{}", lab.log(1));
    let log = lab.whole_log(0);
    let of_bravo =
        |what: &str| log.lines().filter(|l| l.contains(what) && l.contains("bravo")).count();
    assert_eq!((of_bravo("session up"), of_bravo("stream lost")), (1, 0), "{}", lab.log(0));
}

#[test]
fn two_that_move_at_once_find_each_other_through_who_stayed() {
    if !allowed() {
        return;
    }
    let mut lab = Lab::new(&SITES);
    (0..3).for_each(|at| lab.start(at));
    lab.until_meshed(&[0, 1, 2]);
    let moved = [(1, "192.168.77.2", "192.168.77.92"), (2, "192.168.77.3", "192.168.77.93")];
    for (at, old, new) in moved {
        let space = lab.namespace(lab.names[at]);
        ip(&["-n", &space, "addr", "del", &format!("{old}/24"), "dev", "eth0"]);
        ip(&["-n", &space, "addr", "add", &format!("{new}/24"), "dev", "eth0"]);
    }
    // Neither hears the other at first: each is where nobody of the two looks for it.
    for (at, peer, address) in [(1, "charlie", "192.168.77.93"), (2, "bravo", "192.168.77.92")] {
        lab.until(at, 40, "the other at its new address", |report| {
            let there = |l: &thalweg::report::LinkRow| l.endpoint == format!("{address}:4600");
            report.links.iter().any(|l| l.peer == peer && there(l) && l.state.name() == "up")
        });
    }
    for (from, to) in [(0, 1), (1, 2), (2, 1), (0, 2)] {
        assert!(lab.crosses(from, overlay(to)), "{}", lab.log(from));
    }
}

#[test]
fn two_that_cannot_reach_each_other_talk_over_a_third() {
    if !allowed_with("nft", "nftables") {
        return;
    }
    let mut lab = Lab::new(&SITES);
    lab.wall(1, "ip saddr 192.168.77.3");
    lab.wall(1, "ip6 saddr fd99::3");
    (0..3).for_each(|at| lab.start(at));
    lab.until_meshed(&[0, 1]);
    lab.until_meshed(&[0, 2]);
    assert!(within(40, || lab.crosses(1, overlay(2))), "{}", lab.log(1));
    assert!(lab.crosses(2, overlay(1)), "{}", lab.log(2));
    let report = lab.report(1).unwrap();
    assert!(report.links.iter().all(|link| link.peer != "charlie"), "no link: {report:#?}");
}

#[test]
fn a_daemon_whose_device_is_taken_away_makes_another_and_carries_on() {
    let Some(lab) = meshed(&SITES[..2]) else { return };
    assert!(lab.crosses(0, overlay(1)));
    ip(&["-n", &lab.namespace("alpha"), "link", "del", "thw0"]);
    assert!(within(20, || lab.crosses(0, overlay(1))), "{}", lab.log(0));
}

#[test]
fn a_narrow_underlay_of_either_family_carries_streams_and_long_packets() {
    if !allowed_with("ping", "iputils-ping") {
        return;
    }
    for seed in [underlay(0), underlay6(0)] {
        let mut lab = Lab::new(&["alpha", "bravo"]);
        lab.configure(1, Some((0, seed)));
        lab.narrow(1, 1320);
        lab.start(0);
        lab.start(1);
        lab.until_meshed(&[0, 1]);
        // A veth takes four bytes more on their way in, for a VLAN's tag.
        for (at, most) in [(0, 1320), (1, 1324)] {
            lab.until(at, 30, "the MTU of its link", |report| {
                let found = |l: &thalweg::report::LinkRow| {
                    l.mtu.is_some_and(|m| (1320..=most).contains(&m))
                };
                report.links.iter().all(found)
            });
        }
        let carries = |what: &str| {
            for (from, to) in [(0, 1), (1, 0)] {
                for address in [overlay(to), overlay6(to)] {
                    let told = format!("{what}, {seed}: {} to {address}", lab.names[from]);
                    let whole = lab.fetches(from, address);
                    assert!(whole > 10_000, "{told}: {whole} bytes by TCP: {}", lab.log(from));
                    // One each way may be what its sender is told by.
                    let back = lab.echoes(from, address, 1400);
                    assert!(back >= 8, "{told}: {back} of 10: {}", lab.log(from));
                }
            }
        };
        carries("1320");
        // It shrinks while it is in use: long packets vanish, short ones do not.
        lab.narrow(1, 1280);
        for at in [0, 1] {
            lab.echoes(at, overlay(1 - at), 1180);
            lab.until(at, 90, "the lower MTU of its link", |report| {
                report.links.iter().all(|l| l.mtu.is_some_and(|m| (1280..=1284).contains(&m)))
            });
        }
        carries("1280");
    }
}
