//! When a node speaks, and of what.

use super::*;
use crate::quality::{LinkQuality, LinkState};
use crate::session::sign::Ed25519Signer;
use crate::time::micros;
use crate::unit::Ratio;

fn n(number: u16) -> NodeId {
    NodeId::new(number).unwrap()
}

fn at(ms: u64) -> Instant {
    Instant::from_micros(ms * 1000)
}

fn link(neighbour: u16, delay_us: u64) -> LsaLink {
    let state = LinkState::measured(LinkQuality {
        delay: Duration::from_micros(delay_us),
        jitter: Duration::ZERO,
        loss: Ratio::ZERO,
    });
    LsaLink { neighbour: n(neighbour), up: true, outward: Some(state), inward: Some(state) }
}

fn down(neighbour: u16) -> LsaLink {
    LsaLink { neighbour: n(neighbour), up: false, outward: None, inward: None }
}

struct Speaker(Originator, Ed25519Signer);

impl Speaker {
    fn new() -> Self {
        let config = OriginateConfig::default();
        let signer = Ed25519Signer::from_seed(&[1; 32]).unwrap();
        Self(Originator::new(config, n(1), 4, true, Dice::new(1)), signer)
    }

    fn says(&mut self, now: Instant) -> Option<Lsa> {
        let record = self.0.poll_record(now, &self.1)?;
        Some(Lsa::open(&record, &self.1.public_key()).unwrap())
    }
}

#[test]
fn the_first_record_is_said_at_once_and_repetition_is_silent() {
    let mut node = Speaker::new();
    node.0.on_link(link(2, 10_000));
    let first = node.says(at(0)).unwrap();
    assert_eq!((first.version.boot, first.links.len()), (4, 1));
    node.0.on_link(link(2, 10_200));
    assert_eq!(node.says(at(60_000)), None, "2 % is within the band");
}

#[test]
fn values_that_moved_wait_for_the_gap_and_go_together() {
    let mut node = Speaker::new();
    node.0.on_link(link(2, 10_000));
    node.0.on_link(link(3, 10_000));
    node.says(at(0)).unwrap();
    node.0.on_link(link(2, 12_000));
    assert_eq!(node.says(at(9_999)), None);
    node.0.on_link(link(3, 30_000));
    let said = node.says(at(10_000)).unwrap();
    assert_eq!(
        said.links,
        [link(2, 12_000), link(3, 30_000)].map(|mut l| {
            // What a record can hold of 30,000 µs.
            let rounded = |mut s: LinkState| {
                let code = crate::topology::lsa::short::write(micros(s.present.delay));
                s.present.delay = Duration::from_micros(crate::topology::lsa::short::read(code));
                s
            };
            l.outward = l.outward.map(rounded);
            l.inward = l.inward.map(rounded);
            l
        })
    );
    node.0.on_mesh_size(500);
    node.0.on_link(link(2, 20_000));
    assert_eq!(node.says(at(22_999)), None, "500 nodes wait 13 s");
    assert!(node.says(at(23_000)).is_some());
}

#[test]
fn a_death_is_said_at_once_and_a_burst_of_them_together() {
    let mut node = Speaker::new();
    for neighbour in 2..6 {
        node.0.on_link(link(neighbour, 10_000));
    }
    node.says(at(0)).unwrap();
    node.0.on_link(down(2));
    assert!(!node.says(at(1_000)).unwrap().link(n(2)).unwrap().up);
    node.0.on_link(down(3));
    assert_eq!(node.says(at(1_049)), None);
    node.0.on_link(down(4));
    let said = node.says(at(1_050)).unwrap();
    assert_eq!(said.links.iter().filter(|l| !l.up).count(), 3);
    node.0.on_link(link(2, 10_000));
    assert!(node.says(at(1_100)).unwrap().link(n(2)).unwrap().up, "recovery too");
    assert_eq!(node.0.stats().urgent, 4);
}

#[test]
fn a_link_is_told_once_it_works_and_its_first_reading_does_not_wait_for_the_gap() {
    let mut node = Speaker::new();
    node.0.on_mesh_size(100);
    (2..40).for_each(|k| node.0.on_link(link(k, 10_000)));
    node.says(at(0)).unwrap();
    node.0.on_link(down(90));
    assert_eq!(node.0.poll_timeout().unwrap().why, "link state refresh", "it never worked");
    let unread = LsaLink { up: true, ..down(90) };
    node.0.on_link(unread);
    let due = node.0.poll_timeout().unwrap();
    assert_eq!(due.why, "link found");
    assert!(due.at >= at(500) && due.at < at(10_000), "{}", due.at);
    assert_eq!(node.says(due.at).unwrap().links, [unread]);
    node.0.on_link(link(90, 10_000));
    let due = node.0.poll_timeout().unwrap();
    assert_eq!(due.why, "link found", "others have no use for it before");
    assert_eq!(node.says(due.at).unwrap().links, [link(90, 10_000)]);
    node.0.on_link(unread);
    node.0.on_link(link(90, 20_000));
    assert_eq!(node.0.poll_timeout().unwrap().why, "link state moved", "only the first is urgent");
}

#[test]
fn silence_is_broken_before_the_lifetime_ends() {
    let mut node = Speaker::new();
    node.says(at(0)).unwrap();
    let due = node.0.poll_timeout().unwrap();
    assert_eq!(due.why, "link state refresh");
    assert!(due.at > at(200_000) && due.at < at(300_000), "{}", due.at);
    assert!(node.says(due.at).is_some());
}

#[test]
fn a_forgotten_record_of_our_own_is_jumped_past() {
    let mut node = Speaker::new();
    let old = node.says(at(0)).unwrap().version;
    node.0.on_own_record(Version { boot: 9, sequence: 40 });
    assert_eq!(node.says(at(50)).unwrap().version, Version { boot: 9, sequence: 41 });
    node.0.on_own_record(old);
    assert_eq!(node.says(at(10_000)), None, "an older one is no news");
    let last = Version { boot: 9, sequence: u32::MAX };
    node.0.on_own_record(last);
    assert!(node.says(at(20_000)).unwrap().version > last);
}

#[test]
fn a_goodbye_has_no_links_and_nothing_follows_it() {
    let mut node = Speaker::new();
    node.0.on_link(link(2, 10_000));
    node.says(at(0)).unwrap();
    node.0.withdraw();
    let goodbye = node.says(at(50)).unwrap();
    assert!(goodbye.withdrawn && goodbye.links.is_empty());
    node.0.on_link(link(2, 10_000));
    assert_eq!(node.says(at(1_000)), None);
}

#[test]
fn a_reading_that_grows_stale_is_news() {
    let mut node = Speaker::new();
    node.0.on_link(link(2, 10_000));
    node.says(at(0)).unwrap();
    node.0.on_link(LsaLink { outward: None, ..link(2, 10_000) });
    assert_eq!(node.says(at(10_000)).unwrap().links[0].outward, None);
}

#[test]
fn a_large_mesh_hears_differences_and_a_small_one_whole_records() {
    let mut node = Speaker::new();
    node.0.on_mesh_size(41);
    (2..42).for_each(|k| node.0.on_link(link(k, 10_000)));
    let whole = node.says(at(0)).unwrap();
    assert_eq!((whole.base, whole.links.len()), (None, 40));
    node.0.on_link(link(7, 20_000));
    let due = node.0.poll_timeout().unwrap();
    let moved = node.says(due.at).unwrap();
    assert_eq!((moved.base, moved.links.len()), (Some(whole.version.sequence), 1));
    node.0.on_link(down(9));
    node.0.on_link(link(7, 10_000));
    let died = node.says(due.at.plus(Duration::from_millis(50))).unwrap();
    assert_eq!(died.links, [down(9)], "what is again as it was need not be said");
    (10..40).for_each(|k| node.0.on_link(link(k, 30_000)));
    let anew = node.says(at(1_000_000)).unwrap();
    assert_eq!((anew.base, anew.links.len()), (None, 40), "most of it moved");
    node.0.on_neighbour_gone(n(9));
    assert_eq!(node.says(at(1_001_000)).unwrap().base, None, "a member less");
    assert_eq!(node.0.stats().differences, 2);
}

#[test]
fn a_long_record_is_followed_by_a_long_gap() {
    let gap = |mesh: u16| {
        let mut node = Speaker::new();
        node.0.on_mesh_size(mesh.into());
        (2..=mesh).for_each(|k| node.0.on_link(link(k, 10_000)));
        let bits = node.says(at(0)).unwrap().write(&node.1).len() as u64 * 8;
        node.0.on_link(link(2, 90_000));
        let gap = node.0.poll_timeout().unwrap().at.since(at(0));
        (gap, bits * u64::from(mesh - 1))
    };
    assert_eq!(gap(10).0, Duration::from_secs(10));
    let (gap, bits) = gap(50);
    assert!(bits as f64 / gap.as_secs_f64() <= 30_000.0, "{gap:?}");
}

#[test]
fn a_link_that_became_much_worse_is_told_within_a_second_and_one_that_mended_in_its_turn() {
    let mut node = Speaker::new();
    node.0.on_link(link(2, 20_000));
    node.0.on_link(link(3, 20_000));
    node.says(at(0)).unwrap();
    node.0.on_link(link(2, 90_000));
    assert_eq!(node.0.poll_timeout().unwrap().why, moved().why, "nothing goes over it");
    (2..=3).for_each(|k| node.0.on_use(n(k), true));
    node.0.on_link(link(2, 24_900));
    assert_eq!(node.0.poll_timeout().unwrap().why, "link state moved", "less than a quarter");
    node.0.on_link(link(2, 26_000));
    let due = Deadline { at: at(1_000), why: "link much worse" };
    assert_eq!(node.0.poll_timeout(), Some(due));
    assert_eq!(node.says(at(999)), None);
    let said = node.says(at(1_000)).unwrap();
    assert!(said.links[0].outward.unwrap().present.delay > Duration::from_micros(25_900));
    // What died or moved long enough ago to be said takes it along.
    node.0.on_link(link(3, 90_000));
    node.0.on_link(down(2));
    assert!(node.says(at(1_500)).is_some());
    assert_eq!((node.0.stats().worse, node.0.stats().urgent), (1, 2));
    node.0.on_link(link(3, 20_000));
    assert_eq!(node.0.poll_timeout().unwrap(), Deadline { at: at(11_500), ..moved() });
    let mut lossy = link(3, 20_000);
    let outward = lossy.outward.as_mut().unwrap();
    outward.present.loss = Ratio::from_ppm(40_000);
    node.0.on_link(lossy);
    assert_eq!(node.0.poll_timeout().unwrap().why, moved().why);
    lossy.outward.as_mut().unwrap().present.loss = Ratio::from_ppm(60_000);
    node.0.on_link(lossy);
    assert_eq!(node.0.poll_timeout().unwrap().at, at(2_500), "loss is worse as delay is");
    node.0.on_link(down(3));
    node.says(at(2_600)).unwrap();
    assert_eq!(node.0.poll_timeout().unwrap().why, "link state refresh", "it is worse than that");
}

fn moved() -> Deadline {
    Deadline { at: at(0), why: "link state moved" }
}

#[test]
fn a_link_that_swings_is_told_once_and_what_is_worse_still_again() {
    let mut node = Speaker::new();
    node.0.on_link(link(2, 20_000));
    node.0.on_use(n(2), true);
    node.says(at(0)).unwrap();
    let mut said = Vec::new();
    let mut dice = Dice::new(3);
    // A thousand times a second, for a minute and a half.
    for ms in 1..=90_000 {
        node.0.on_link(link(2, if dice.below(2) == 0 { 20_000 } else { 60_000 }));
        said.extend(node.says(at(ms)).map(|_| ms));
    }
    assert!(said.len() <= 11 && said[0] <= 1_020, "{said:?}");
    let stats = node.0.stats();
    assert!(stats.worse == 1 && stats.damped >= 2, "{stats:?}");
    node.0.on_link(link(2, 20_000));
    let due = node.0.poll_timeout().unwrap().at;
    node.says(due).unwrap();
    node.0.on_link(link(2, 70_000));
    assert_eq!(node.0.poll_timeout().unwrap().why, moved().why, "no quarter above 60 ms");
    node.0.on_link(link(2, 80_000));
    assert_eq!(node.0.poll_timeout().unwrap().why, "link much worse");
    node.says(due.plus(Duration::from_secs(1))).unwrap();
    // After two minutes it is news again.
    let calm = due.plus(Duration::from_secs(122));
    node.0.on_link(link(2, 20_000));
    node.says(calm).unwrap();
    node.0.on_link(link(2, 60_000));
    assert_eq!(node.0.poll_timeout().unwrap().why, "link much worse");
}

#[test]
fn a_hundred_links_that_grow_worse_and_mend_at_once_stay_within_their_rate() {
    let mut node = Speaker::new();
    node.0.on_mesh_size(101);
    (2..=101).for_each(|k| node.0.on_link(link(k, 20_000)));
    (2..=101).for_each(|k| node.0.on_use(n(k), true));
    node.says(at(0)).unwrap();
    let (mut bits, mut early, mut dice) = (0, 0, Dice::new(7));
    for tenth in 1..=36_000 {
        // Each rise is by more than all before, so that no link is damped.
        for k in 2..=101 {
            let delay = if dice.below(2) == 0 { 20_000 } else { 20_000 + tenth * 1_500 };
            node.0.on_link(link(k, delay));
        }
        if let Some(record) = node.0.poll_record(at(tenth * 100), &node.1) {
            bits += (record.len() + RECORD_OVERHEAD) as u64 * 8 * 100;
            early += 1;
        }
    }
    let bps = bits as f64 / 3600.0;
    // What moved may take 30 kbit/s, and this a third of it besides.
    assert!(bps < 41_000.0, "{bps} bit/s in {early} records");
    assert!(node.0.stats().worse >= 3, "{:?}", node.0.stats());
}

#[test]
fn a_link_that_comes_and_goes_a_thousand_times_a_second_is_damped() {
    let mut node = Speaker::new();
    node.0.on_link(link(2, 10_000));
    node.says(at(0)).unwrap();
    let mut said = 0;
    for ms in 1..=60_000 {
        node.0.on_link(if ms % 2 == 0 { link(2, 10_000) } else { down(2) });
        said += u32::from(node.says(at(ms)).is_some());
    }
    // Sixteen at once, and one every two seconds.
    assert!((40..=46).contains(&said), "{said}");
    node.0.on_link(down(2));
    let last = node.says(at(70_000));
    assert!(last.is_some_and(|lsa| !lsa.links[0].up), "the last word is the truth");
}
