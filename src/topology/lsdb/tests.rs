//! What comes in, what stays, who is alive and who is believed.

use super::*;
use crate::quality::LinkQuality;
use crate::session::sign::Ed25519Signer;
use crate::topology::lsa::LsaLink;
use crate::unit::{Price, Ratio};

fn n(number: u16) -> NodeId {
    NodeId::new(number).unwrap()
}

fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn at(seconds: u64) -> Instant {
    Instant::ZERO.plus(s(seconds))
}

fn signer(node: u16) -> Ed25519Signer {
    Ed25519Signer::from_seed(&[node as u8; 32]).unwrap()
}

/// Nodes 1 to 99 are members.
fn key_of(node: NodeId) -> Option<[u8; 32]> {
    (node.get() < 100).then(|| signer(node.get()).public_key())
}

fn state(delay_ms: u64) -> LinkState {
    LinkState::measured(LinkQuality {
        delay: Duration::from_millis(delay_ms),
        jitter: Duration::ZERO,
        loss: Ratio::ZERO,
    })
}

fn up(neighbour: u16, outward_ms: u64, inward_ms: u64) -> LsaLink {
    let (outward, inward) = (Some(state(outward_ms)), Some(state(inward_ms)));
    LsaLink { neighbour: n(neighbour), up: true, outward, inward }
}

fn down(neighbour: u16) -> LsaLink {
    LsaLink { neighbour: n(neighbour), up: false, outward: None, inward: None }
}

fn lsa(origin: u16, sequence: u32, links: &[LsaLink]) -> Lsa {
    Lsa {
        origin: n(origin),
        version: Version { boot: 1, sequence },
        relay: true,
        withdrawn: false,
        lifetime: s(900),
        base: None,
        links: links.to_vec(),
    }
}

fn own(link: u16, peer: u16, delay_ms: u64) -> OwnLink {
    let state = Some(state(delay_ms));
    OwnLink { link: LinkId(link), peer: n(peer), up: true, outward: state, inward: state }
}

struct Db(Lsdb);

impl Db {
    fn new() -> Self {
        Self(Lsdb::new(n(1)))
    }

    fn take(&mut self, now: Instant, lsa: &Lsa) -> Install {
        let record = lsa.write(&signer(lsa.origin.get())).into();
        self.0.install(now, Duration::ZERO, &record, key_of)
    }

    fn edges(&self, own_links: &[OwnLink]) -> Vec<(u16, u16)> {
        let graph = self.0.graph(own_links, |_| true);
        graph.edges().map(|(a, b, _)| (a.get(), b.get())).collect()
    }
}

/// Nodes 1, 2, 3 in a full mesh; node 4 hangs on 2 and 3.
fn square() -> (Db, Vec<OwnLink>) {
    let mut db = Db::new();
    db.take(at(0), &lsa(2, 1, &[up(1, 5, 5), up(3, 5, 5), up(4, 5, 5)]));
    db.take(at(0), &lsa(3, 1, &[up(1, 5, 5), up(2, 5, 5), up(4, 5, 5)]));
    db.take(at(0), &lsa(4, 1, &[up(2, 5, 5), up(3, 5, 5)]));
    (db, vec![own(0, 2, 5), own(1, 3, 5)])
}

#[test]
fn the_newer_of_two_records_wins_in_whatever_order_they_come() {
    let mut db = Db::new();
    let newer = Install::Newer { origin: n(2), changed: true, urgent: true };
    assert_eq!(db.take(at(0), &lsa(2, 5, &[up(3, 1, 1)])), newer);
    assert_eq!(db.take(at(0), &lsa(2, 5, &[up(3, 1, 1)])), Install::Known);
    assert_eq!(db.take(at(0), &lsa(2, 4, &[])), Install::Older { origin: n(2) });
    assert_eq!(db.take(at(0), &lsa(2, 5, &[])), Install::Older { origin: n(2) }, "a forked twin");
    let mut restarted = lsa(2, 0, &[up(3, 1, 1)]);
    restarted.version.boot = 2;
    let refresh = Install::Newer { origin: n(2), changed: false, urgent: false };
    assert_eq!(db.take(at(0), &restarted), refresh);
    assert_eq!(db.0.generation(), 1, "only the first changed anything");
}

#[test]
fn forged_foreign_and_expired_records_stay_out_and_are_counted() {
    let mut db = Db::new();
    let forged = lsa(2, 1, &[]).write(&signer(3)).into();
    let broken = Install::Refused(Refusal::Broken(LsaError::Signature));
    assert_eq!(db.0.install(at(0), s(0), &forged, key_of), broken);
    assert_eq!(db.take(at(0), &lsa(100, 1, &[])), Install::Refused(Refusal::Foreign));
    let old = lsa(2, 1, &[]).write(&signer(2)).into();
    assert_eq!(db.0.install(at(0), s(900), &old, key_of), Install::Refused(Refusal::Expired));
    let hello = Bytes::from_static(b"hello");
    assert!(matches!(db.0.install(at(0), s(0), &hello, key_of), Install::Refused(_)));
    let counted: Vec<_> = db.0.stats().refused.iter().map(|(k, v)| (*k, *v)).collect();
    assert_eq!(counted, [("expired", 1), ("foreign", 1), ("malformed", 1), ("signature", 1)]);
    assert_eq!(db.0.digest(), []);
}

#[test]
fn the_database_is_bounded() {
    let mut db = Db::new();
    db.0.limit = 2;
    for origin in 2..4 {
        db.take(at(0), &lsa(origin, 1, &[]));
    }
    assert_eq!(db.take(at(0), &lsa(4, 1, &[])), Install::Refused(Refusal::Full));
    assert!(matches!(db.take(at(0), &lsa(3, 2, &[])), Install::Newer { .. }), "known ones go on");
}

#[test]
fn a_record_ages_on_its_way_and_here_and_then_expires() {
    let mut db = Db::new();
    let record = lsa(2, 1, &[]).write(&signer(2)).into();
    db.0.install(at(10), s(600), &record, key_of);
    assert_eq!(db.0.records(n(2), at(20)).unwrap().1, s(610), "older than our clock");
    assert_eq!(db.0.poll_timeout().unwrap().at, at(310));
    assert!(!db.0.handle_timeout(at(309)));
    assert!(db.0.handle_timeout(at(310)));
    assert_eq!((db.0.digest(), db.0.poll_timeout()), (vec![], None));
}

#[test]
fn our_own_record_from_another_life_makes_us_jump() {
    let mut db = Db::new();
    let ours = lsa(1, 3, &[]).write(&signer(1)).into();
    db.0.install_own(at(0), &ours, &signer(1).public_key());
    assert_eq!(db.0.install(at(0), s(0), &ours, key_of), Install::Known);
    assert_eq!(db.take(at(0), &lsa(1, 2, &[])), Install::Older { origin: n(1) });
    let mut past = lsa(1, 1, &[]);
    past.version.boot = 7;
    assert_eq!(db.take(at(0), &past), Install::OwnNewer(past.version));
    assert_eq!(db.0.lsa(n(1)).unwrap().version.sequence, 3, "it does not come in");
}

#[test]
fn a_link_counts_when_both_ends_report_it_and_the_receiver_is_believed() {
    let mut db = Db::new();
    db.take(at(0), &lsa(2, 1, &[up(3, 10, 20), up(4, 1, 1)]));
    db.take(at(0), &lsa(3, 1, &[up(2, 30, 40)]));
    db.take(at(0), &lsa(4, 1, &[down(2)]));
    let graph = db.0.graph(&[own(0, 2, 5)], |_| true);
    let delays: Vec<_> = graph
        .edges()
        .map(|(a, b, e)| (a.get(), b.get(), e.state.present.delay.as_millis()))
        .collect();
    assert_eq!(delays, [(1, 2, 5), (2, 3, 40), (3, 2, 20)]);
}

#[test]
fn the_way_back_to_ourselves_is_known_too() {
    let mut db = Db::new();
    let ours = lsa(1, 1, &[up(2, 5, 7)]).write(&signer(1)).into();
    db.0.install_own(at(0), &ours, &signer(1).public_key());
    db.take(at(0), &lsa(2, 1, &[up(1, 7, 5)]));
    assert_eq!(db.edges(&[own(0, 2, 5)]), [(1, 2), (2, 1)]);
}

#[test]
fn where_data_crossed_the_link_the_sender_s_loss_counts_and_prices_add() {
    let mut sent = up(3, 10, 10);
    let busy = sent.outward.as_mut().unwrap();
    busy.present.loss = Ratio::from_ppm(20_000);
    busy.residual = Some(Ratio::from_ppm(100));
    busy.price = Price(7);
    let mut received = up(2, 10, 12);
    received.inward.as_mut().unwrap().price = Price(2);
    let mut db = Db::new();
    db.take(at(0), &lsa(2, 1, &[sent]));
    db.take(at(0), &lsa(3, 1, &[received]));
    let state = db.0.state(n(2), n(3)).unwrap();
    assert_eq!(state.present.delay.as_millis(), 12);
    assert!(state.present.loss.as_ppm().abs_diff(20_000) <= 10);
    assert_eq!(state.residual, Some(Ratio::from_ppm(100)));
    assert_eq!(state.price, Price(9));
}

#[test]
fn a_dead_node_leaves_the_graph_with_its_last_neighbour_s_news() {
    let (mut db, own_links) = square();
    assert_eq!(db.0.alive(&own_links).len(), 4);
    db.take(at(1), &lsa(2, 2, &[up(1, 5, 5), up(3, 5, 5), down(4)]));
    assert!(db.0.alive(&own_links).contains(&n(4)), "node 3 still has it");
    db.take(at(1), &lsa(3, 2, &[up(1, 5, 5), up(2, 5, 5), down(4)]));
    assert!(!db.0.alive(&own_links).contains(&n(4)));
    assert!(db.0.graph(&own_links, |_| true).node(n(4)).is_none());
    assert_eq!(db.edges(&own_links), [(1, 2), (1, 3), (2, 3), (3, 2)]);
}

#[test]
fn a_node_that_says_goodbye_is_gone_at_once() {
    let (mut db, own_links) = square();
    let goodbye = Lsa { withdrawn: true, ..lsa(2, 2, &[]) };
    let news = Install::Newer { origin: n(2), changed: true, urgent: true };
    assert_eq!(db.take(at(1), &goodbye), news);
    assert!(!db.0.alive(&own_links).contains(&n(2)), "though our link to it is still up");
    assert_eq!(db.edges(&own_links), [(1, 3), (3, 4), (4, 3)]);
}

#[test]
fn an_island_that_only_knows_itself_is_not_in_the_graph() {
    let (mut db, own_links) = square();
    db.take(at(0), &lsa(8, 1, &[up(9, 1, 1)]));
    db.take(at(0), &lsa(9, 1, &[up(8, 1, 1)]));
    assert!(!db.0.alive(&own_links).contains(&n(8)));
}

#[test]
fn a_new_neighbour_is_reachable_before_its_first_record() {
    let graph = Db::new().0.graph(&[own(0, 2, 5)], |_| true);
    assert_eq!(graph.edges().count(), 1);
    assert!(!graph.node(n(2)).unwrap().relay, "but nobody's relay until it says so");
}

#[test]
fn neither_consent_nor_certificate_alone_makes_a_relay() {
    let (mut db, own_links) = square();
    assert!(db.0.graph(&own_links, |_| true).node(n(2)).unwrap().relay);
    assert!(!db.0.graph(&own_links, |_| false).node(n(2)).unwrap().relay);
    db.take(at(1), &Lsa { relay: false, ..lsa(2, 2, &[up(1, 5, 5)]) });
    assert!(!db.0.graph(&own_links, |_| true).node(n(2)).unwrap().relay);
}

#[test]
fn a_stale_link_is_no_edge_though_it_keeps_its_node_alive() {
    let stale = OwnLink { outward: None, inward: None, ..own(0, 2, 5) };
    let db = Db::new();
    assert_eq!(db.edges(&[stale]), []);
    assert!(db.0.alive(&[stale]).contains(&n(2)));
}

#[test]
fn digests_show_both_sides_their_holes() {
    let (db, _) = square();
    let theirs = [
        (n(2), Version { boot: 1, sequence: 1 }),
        (n(3), Version { boot: 0, sequence: 9 }),
        (n(4), Version { boot: 1, sequence: 2 }),
        (n(5), Version { boot: 1, sequence: 1 }),
    ];
    assert_eq!(db.0.newer_than(&theirs), [n(3)]);
    assert_eq!(db.0.older_than(&theirs), [n(4), n(5)]);
    assert_eq!(db.0.newer_than(&[]), [n(2), n(3), n(4)]);
}

/// What node 2 says anew of its record with this sequence.
fn difference(sequence: u32, base: u32, links: &[LsaLink]) -> Lsa {
    Lsa { base: Some(base), ..lsa(2, sequence, links) }
}

#[test]
fn a_difference_is_laid_over_its_whole_record_and_both_are_handed_on() {
    let mut db = Db::new();
    db.take(at(0), &lsa(2, 1, &[up(3, 5, 5), up(5, 5, 5)]));
    let news = |changed, urgent| Install::Newer { origin: n(2), changed, urgent };
    let moved = difference(2, 1, &[up(5, 9, 9)]);
    assert_eq!(db.take(at(1), &moved), news(true, false));
    assert_eq!(db.take(at(1), &moved), Install::Known);
    let other = difference(3, 1, &[down(3), up(4, 7, 7)]);
    assert_eq!(db.take(at(2), &other), news(true, true), "a link died");
    let held = db.0.lsa(n(2)).unwrap();
    assert_eq!(held.links, [down(3), up(4, 7, 7), up(5, 5, 5)], "each from the whole one");
    let (records, age) = db.0.records(n(2), at(5)).unwrap();
    assert_eq!((records.len(), age), (2, s(3)), "as old as the newest word");
    let mut second = Db::new();
    for record in &records {
        second.0.install(at(9), age, record, key_of);
    }
    assert_eq!(second.0.lsa(n(2)), Some(held));
    assert_eq!(db.take(at(6), &difference(2, 1, &[up(5, 9, 9)])), Install::Older { origin: n(2) });
    let whole = lsa(2, 4, &[up(3, 5, 5)]);
    assert_eq!(db.take(at(7), &whole), news(true, true));
    assert_eq!(db.0.records(n(2), at(7)).unwrap().0.len(), 1);
}

#[test]
fn a_link_new_to_everybody_is_urgent_among_few_nodes_alone() {
    let mut db = Db::new();
    let news = |origin, urgent| Install::Newer { origin: n(origin), changed: true, urgent };
    for origin in 2..30 {
        let first = db.take(at(0), &lsa(origin, 1, &[up(40, 5, 5)]));
        assert_eq!(first, news(origin, origin <= 18), "{origin}");
    }
    assert_eq!(db.take(at(1), &lsa(2, 2, &[up(40, 5, 5), up(41, 5, 5)])), news(2, false));
    assert_eq!(db.take(at(2), &lsa(2, 3, &[down(40), up(41, 5, 5)])), news(2, true), "a death");
    assert_eq!(
        db.take(at(3), &lsa(2, 4, &[up(40, 5, 5), up(41, 5, 5)])),
        news(2, true),
        "it is back"
    );
    assert_eq!(db.take(at(4), &lsa(2, 5, &[up(41, 5, 5)])), news(2, true), "it is not even down");
}

#[test]
fn a_difference_from_what_is_not_held_is_a_gap_and_changes_nothing() {
    let mut db = Db::new();
    let gap = Install::Gap { origin: n(2) };
    assert_eq!(db.take(at(0), &difference(2, 1, &[up(5, 9, 9)])), gap);
    db.take(at(0), &lsa(2, 3, &[up(3, 5, 5)]));
    assert_eq!(db.take(at(0), &difference(5, 4, &[up(5, 9, 9)])), gap);
    let mut restarted = difference(5, 3, &[up(5, 9, 9)]);
    restarted.version.boot = 2;
    assert_eq!(db.take(at(0), &restarted), gap, "of another start");
    assert_eq!(db.0.lsa(n(2)).unwrap().links, [up(3, 5, 5)]);
    assert_eq!(db.0.stats().gaps, 3);
}

#[test]
fn a_record_from_before_a_restart_brings_nothing_back() {
    let mut db = Db::new();
    let own_links = [own(0, 2, 5)];
    let before = lsa(3, 900, &[up(2, 1, 1), up(4, 1, 1)]);
    let mut after = lsa(3, 1, &[up(2, 40, 40)]);
    after.version.boot = 2;
    db.take(at(0), &lsa(2, 1, &[up(1, 5, 5), up(3, 40, 40)]));
    db.take(at(0), &after);
    let edges = db.edges(&own_links);
    assert_eq!(db.take(at(1), &before), Install::Older { origin: n(3) });
    assert_eq!((db.edges(&own_links), db.0.stats().older), (edges, 1));
    // Even once nothing newer is remembered, its neighbours' silence keeps the dead dead.
    db.take(at(2), &lsa(2, 2, &[up(1, 5, 5), down(3)]));
    db.0.forget(n(3));
    assert!(matches!(db.take(at(3), &before), Install::Newer { .. }));
    assert!(!db.0.alive(&own_links).contains(&n(3)));
}

#[test]
fn an_end_that_praises_its_link_is_believed_no_further_than_the_other_measured() {
    let mut liar = up(3, 1, 1);
    let praise = liar.inward.as_mut().unwrap();
    praise.expected = Some(praise.present);
    praise.confidence = Ratio::ONE;
    let outward = liar.outward.as_mut().unwrap();
    outward.residual = Some(Ratio::ZERO);
    let mut honest = up(2, 80, 80);
    honest.inward.as_mut().unwrap().present.loss = Ratio::from_ppm(300_000);
    let mut db = Db::new();
    db.take(at(0), &lsa(2, 1, &[liar]));
    db.take(at(0), &lsa(3, 1, &[honest]));
    let towards = db.0.state(n(3), n(2)).unwrap();
    assert_eq!((towards.present.delay.as_millis(), towards.expected), (80, None));
    let onwards = db.0.state(n(2), n(3)).unwrap();
    assert_eq!((onwards.present.delay.as_millis(), onwards.residual), (80, None));
    assert!(onwards.present.loss.as_ppm() > 290_000, "it loses what the receiver misses");
}
