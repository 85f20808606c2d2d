//! What a member record may and may not do.

use proptest::prelude::*;

use super::*;
use crate::session::toy::{ToySigner, ToyTrust, certificate, certified};

const CA: u8 = 1;

fn at(s: u64) -> Instant {
    Instant::from_micros(s * 1_000_000)
}

fn node(n: u16) -> NodeId {
    NodeId::new(n).unwrap()
}

fn record(ca: u8, n: u16, name: &str, version: (u64, u64)) -> Vec<u8> {
    let endpoints = ["192.0.2.1:4600".parse().unwrap()];
    let signer = ToySigner::new(n);
    Record::sign(certified(n, name), &certificate(ca, n, name), &endpoints, version, &signer).bytes
}

fn members() -> Members {
    Members::new(node(1), "one".into(), Duration::from_secs(100))
}

#[test]
fn a_newer_word_replaces_an_older_and_never_the_reverse() {
    let mut m = members();
    let trust = ToyTrust::new(CA);
    assert_eq!(m.on_record(at(0), &record(CA, 2, "two", (1, 5)), &trust), Outcome::New(node(2)));
    assert_eq!(m.on_record(at(0), &record(CA, 2, "two", (1, 5)), &trust), Outcome::Known);
    assert_eq!(m.on_record(at(0), &record(CA, 2, "two", (1, 4)), &trust), Outcome::Known);
    assert_eq!(m.on_record(at(0), &record(CA, 2, "two", (2, 0)), &trust), Outcome::Newer(node(2)));
    assert_eq!(m.member(node(2)).unwrap().record.boot, 2);
    assert_eq!(m.by_name("two"), Some(node(2)));
}

#[test]
fn foreign_forged_and_conflicting_records_are_refused_and_counted() {
    let mut m = members();
    let trust = ToyTrust::new(CA);
    m.on_record(at(0), &record(CA, 2, "two", (1, 0)), &trust);
    let mut forged = record(CA, 3, "three", (1, 0));
    forged[12] ^= 1;
    let other_key = Record::sign(
        certified(3, "three"),
        &certificate(CA, 3, "three"),
        &[],
        (1, 0),
        &ToySigner::new(4),
    );
    let cases = [
        (record(9, 3, "three", (1, 0)), Refusal::Foreign),
        (forged, Refusal::Forged),
        (other_key.bytes, Refusal::Forged),
        (record(CA, 2, "zwei", (9, 0)), Refusal::NumberTaken),
        (record(CA, 3, "two", (9, 0)), Refusal::NameTaken),
        (record(CA, 3, "one", (9, 0)), Refusal::NameTaken),
        (record(CA, 1, "uno", (9, 0)), Refusal::NumberTaken),
        (vec![1, 2, 3], Refusal::Malformed),
    ];
    for (bytes, why) in cases {
        assert_eq!(m.on_record(at(0), &bytes, &trust), Outcome::Refused(why));
    }
    assert_eq!(m.refused()[&Refusal::Forged], 2);
    assert_eq!(m.len(), 1, "the others are served");
}

#[test]
fn a_record_of_our_own_from_an_earlier_life_is_told_as_such() {
    let mut m = members();
    m.on_own((3, 0));
    let trust = ToyTrust::new(CA);
    assert_eq!(m.on_record(at(0), &record(CA, 1, "one", (3, 0)), &trust), Outcome::Known);
    let newer = record(CA, 1, "one", (3, 7));
    assert_eq!(m.on_record(at(0), &newer, &trust), Outcome::Own { boot: 3, seq: 7 });
}

#[test]
fn the_dead_expire_and_others_copies_do_not_bring_them_back() {
    let mut m = members();
    let trust = ToyTrust::new(CA);
    let old = record(CA, 2, "two", (1, 0));
    m.on_record(at(0), &old, &trust);
    m.on_record(at(0), &record(CA, 3, "three", (1, 0)), &trust);
    m.on_alive(node(3), at(50));
    assert_eq!(m.poll_timeout().unwrap().at, at(100));
    assert_eq!(m.handle_timeout(at(100)), [node(2)]);
    assert_eq!(m.on_record(at(101), &old, &trust), Outcome::Known);
    assert!(m.member(node(2)).is_none());
    let reborn = record(CA, 2, "zwei", (2, 0));
    assert_eq!(m.on_record(at(102), &reborn, &trust), Outcome::New(node(2)), "the number is free");
}

#[test]
fn what_is_kept_brings_every_member_back_and_damage_is_said() {
    let mut m = members();
    let trust = ToyTrust::new(CA);
    for n in 2..6 {
        m.on_record(at(0), &record(CA, n, &format!("node-{n}"), (1, 0)), &trust);
    }
    let reached = BTreeMap::from([(node(3), "198.51.100.3:9".parse().unwrap())]);
    let bytes = m.persist(7, &reached, &[vec![1, 2]]);
    let restored = Restored::read(&bytes).unwrap();
    assert_eq!((restored.boot, &restored.reached), (7, &reached));
    let mut again = members();
    assert_eq!(again.restore(at(0), &restored, &trust), 4);
    assert_eq!(again.digest(), m.digest());
    let mut stranger = members();
    assert_eq!(stranger.restore(at(0), &restored, &ToyTrust::new(2)), 0, "verified again");
    assert!(Restored::read(b"{").is_err());
    assert!(Restored::read(br#"{"version":9,"boot":1,"members":[]}"#).is_err());
}

#[test]
fn hexadecimal_comes_back_and_odd_or_strange_text_does_not() {
    assert_eq!(unhex(&hex(&[0, 1, 0xab, 255])), Some(vec![0, 1, 0xab, 255]));
    assert_eq!(unhex("abc"), None);
    assert_eq!(unhex("zz"), None);
}

proptest! {
    #[test]
    fn no_bytes_panic_and_no_flipped_bit_is_believed(
        noise in prop::collection::vec(any::<u8>(), 0..300),
        bit in 0usize..1000,
    ) {
        let mut m = members();
        let trust = ToyTrust::new(CA);
        prop_assert!(matches!(m.on_record(at(0), &noise, &trust), Outcome::Refused(_)));
        let mut bytes = record(CA, 2, "two", (1, 0));
        let bit = bit % (bytes.len() * 8);
        bytes[bit / 8] ^= 1 << (bit % 8);
        prop_assert!(matches!(m.on_record(at(0), &bytes, &trust), Outcome::Refused(_)));
    }
}
