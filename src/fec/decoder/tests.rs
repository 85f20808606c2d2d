//! Recovery against plain elimination, and what hostile input does: nothing.

use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::fec::{Encoder, EncoderLimits};
use crate::rng::Dice;

/// A packet that tells by its bytes which it is.
fn packet(seq: u32) -> ([u8; HEAD], Vec<u8>) {
    let mut dice = Dice::new(u64::from(seq));
    let mut head = [0; HEAD];
    let tail: Vec<u8> = (0..dice.below(90)).map(|_| dice.next_u64() as u8).collect();
    head.iter_mut().for_each(|byte| *byte = dice.next_u64() as u8);
    head[..2].copy_from_slice(&(tail.len() as u16).to_be_bytes());
    (head, tail)
}

fn expected(seq: u32) -> Recovered {
    let (head, tail) = packet(seq);
    Recovered { seq, head, bytes: BytesMut::from(&tail[..]) }
}

/// Both ends, and the repairs on their way.
struct Pair {
    encoder: Encoder,
    decoder: Decoder,
}

impl Pair {
    fn new() -> Self {
        let encoder = Encoder::new(EncoderLimits::default());
        Self { encoder, decoder: Decoder::new(DecoderLimits::default()) }
    }

    fn send(&mut self, seq: u32) {
        let (head, tail) = packet(seq);
        self.encoder.push(seq, head, Bytes::from(tail));
    }

    fn arrive(&mut self, seq: u32) {
        let (head, tail) = packet(seq);
        self.decoder.on_source(seq, head, &tail);
    }

    fn repair(&mut self, newest: usize) -> Vec<u8> {
        let mut body = Vec::new();
        self.encoder.over_newest(newest).unwrap().append(&mut body);
        body
    }

    fn exactly(&mut self, sequences: &[u32]) -> Vec<u8> {
        let mut body = Vec::new();
        self.encoder.over(sequences).unwrap().append(&mut body);
        body
    }

    fn deliver(&mut self, body: &[u8]) -> Vec<u32> {
        let (repair, symbol) = Repair::parse(body).unwrap();
        self.decoder.on_repair(&repair, symbol);
        self.came_back()
    }

    /// What was recovered, checked byte by byte.
    fn came_back(&mut self) -> Vec<u32> {
        let all: Vec<_> = std::iter::from_fn(|| self.decoder.poll_recovered()).collect();
        all.iter().for_each(|r| assert_eq!(*r, expected(r.seq)));
        all.iter().map(|r| r.seq).collect()
    }
}

#[test]
fn one_loss_comes_back_with_one_symbol_also_across_the_wrap() {
    for start in [1000, u32::MAX - 3] {
        let mut pair = Pair::new();
        for n in 0..8_u32 {
            pair.send(start.wrapping_add(n));
            if n != 5 {
                pair.arrive(start.wrapping_add(n));
            }
        }
        let body = pair.repair(8);
        assert!(pair.decoder.misses(start.wrapping_add(5)));
        assert_eq!(pair.deliver(&body), [start.wrapping_add(5)]);
        assert!(!pair.decoder.misses(start.wrapping_add(5)));
        assert_eq!(pair.deliver(&body), [] as [u32; 0]);
        assert_eq!(pair.decoder.stats().idle, 1);
    }
}

#[test]
fn as_many_symbols_as_losses_over_one_window_are_always_enough() {
    for losses in 1..=20_u32 {
        let mut pair = Pair::new();
        (0..128).for_each(|seq| pair.send(seq));
        (losses..128).for_each(|seq| pair.arrive(seq));
        for n in 1..=losses {
            let body = pair.repair(128);
            let came = pair.deliver(&body);
            assert_eq!(came.len(), if n == losses { losses as usize } else { 0 });
        }
    }
}

#[test]
fn a_long_window_tells_apart_what_one_matrix_cannot() {
    let mut pair = Pair::new();
    (0..256).for_each(|seq| pair.send(seq));
    (0..256).filter(|seq| ![5, 5 + 128].contains(seq)).for_each(|seq| pair.arrive(seq));
    let bodies = [pair.repair(256), pair.repair(256)];
    assert_eq!(pair.deliver(&bodies[0]), [] as [u32; 0]);
    let mut came = pair.deliver(&bodies[1]);
    came.sort_unstable();
    assert_eq!(came, [5, 133]);
}

#[test]
fn what_comes_late_may_be_what_the_others_waited_for() {
    let mut pair = Pair::new();
    (0..10).for_each(|seq| pair.send(seq));
    (3..10).for_each(|seq| pair.arrive(seq));
    let (a, b) = (pair.repair(10), pair.repair(10));
    assert_eq!(pair.deliver(&a), [] as [u32; 0]);
    assert_eq!(pair.deliver(&b), [] as [u32; 0]);
    pair.arrive(1);
    let mut came = pair.came_back();
    came.sort_unstable();
    assert_eq!(came, [0, 2]);
}

#[test]
fn what_is_given_up_does_not_take_with_it_what_could_be_had() {
    let mut pair = Pair::new();
    (0..10).for_each(|seq| pair.send(seq));
    (6..10).for_each(|seq| pair.arrive(seq));
    // Of 0, 4, 5 two sums: without 0 there is one left.
    pair.arrive(1);
    pair.arrive(2);
    pair.arrive(3);
    let (a, b, c) = (pair.repair(10), pair.repair(10), pair.repair(6));
    pair.deliver(&a);
    pair.deliver(&b);
    pair.decoder.forget_before(1);
    assert_eq!(pair.decoder.stats().dropped, 1);
    let mut came = pair.deliver(&c);
    came.sort_unstable();
    assert_eq!(came, [4, 5]);
}

#[test]
fn a_repair_over_just_the_missing_needs_nothing_that_came() {
    let mut pair = Pair::new();
    (0..40).for_each(|seq| pair.send(seq));
    pair.arrive(39);
    let missing = [10, 17, 38];
    let bodies: Vec<_> = (0..3).map(|_| pair.exactly(&missing)).collect();
    let mut came: Vec<_> = bodies.iter().flat_map(|body| pair.deliver(body)).collect();
    came.sort_unstable();
    assert_eq!(came, missing);
}

#[test]
fn the_tail_that_nothing_followed_is_repaired() {
    let mut pair = Pair::new();
    (0..5).for_each(|seq| pair.send(seq));
    (0..3).for_each(|seq| pair.arrive(seq));
    let (a, b) = (pair.repair(5), pair.repair(5));
    pair.deliver(&a);
    assert_eq!(pair.deliver(&b), [3, 4]);
}

#[test]
fn windows_out_of_reach_are_counted_and_dropped() {
    let mut pair = Pair::new();
    (0..10).for_each(|seq| pair.send(seq));
    let old = pair.repair(10);
    (3000..3010).for_each(|seq| pair.send(seq));
    let new = pair.repair(10);
    pair.arrive(1500);
    assert_eq!((pair.deliver(&old), pair.deliver(&new)), (vec![], vec![]));
    let stats = pair.decoder.stats();
    assert_eq!((stats.late, stats.ahead, stats.repairs), (1, 1, 2));
}

#[test]
fn a_symbol_that_contradicts_what_came_is_counted_and_gives_nothing() {
    let mut pair = Pair::new();
    (0..3).for_each(|seq| pair.send(seq));
    pair.arrive(0);
    pair.arrive(1);
    let body = pair.repair(3);
    // A length that the symbol does not have, then padding that is not zero.
    let mut longer = body.clone();
    longer[Repair::LEN] ^= 0x80;
    assert_eq!(pair.deliver(&longer), [] as [u32; 0]);
    let mut padded = body.clone();
    padded.push(1);
    assert_eq!(pair.deliver(&padded), [] as [u32; 0]);
    assert_eq!(pair.deliver(&body[..Repair::LEN + HEAD]), [] as [u32; 0]);
    assert_eq!(pair.decoder.stats().malformed, 3);
    assert_eq!(pair.deliver(&body), [2], "the truth is still welcome");
}

#[test]
fn memory_stays_within_its_bounds() {
    let limits = DecoderLimits { bytes: 20_000, equations: 4, ..Default::default() };
    let mut decoder = Decoder::new(limits);
    let mut dice = Dice::new(5);
    for seq in 0..3000 {
        if dice.below(2) == 0 {
            decoder.on_source(seq, [0; HEAD], &vec![1; dice.below(3000) as usize]);
        } else {
            let head = Repair { last: seq, key: seq as u16, window: Window::Run(40) };
            decoder.on_repair(&head, &vec![dice.next_u64() as u8; 3100]);
        }
        assert!(decoder.memory() <= 20_000 + 4 * (3100 + 1024), "{}", decoder.memory());
    }
}

/// The rank of equations in the packets that did not come, by plain elimination.
fn solvable(rows: &[Vec<u8>]) -> Vec<usize> {
    let mut rows = rows.to_vec();
    let columns = rows.first().map_or(0, Vec::len);
    let mut done = 0;
    for column in 0..columns {
        let Some(found) = (done..rows.len()).find(|&n| rows[n][column] != 0) else { continue };
        rows.swap(done, found);
        let factor = gf256::inverse(rows[done][column]);
        rows[done].iter_mut().for_each(|c| *c = gf256::mul(*c, factor));
        let pivot = rows[done].clone();
        for (n, row) in rows.iter_mut().enumerate() {
            let factor = row[column];
            if n != done && factor != 0 {
                row.iter_mut().zip(&pivot).for_each(|(c, p)| *c ^= gf256::mul(*p, factor));
            }
        }
        done += 1;
    }
    let alone = |row: &Vec<u8>| {
        let mut set = row.iter().enumerate().filter(|(_, c)| **c != 0).map(|(n, _)| n);
        set.next().filter(|_| set.next().is_none())
    };
    rows.iter().filter_map(alone).collect()
}

proptest! {
    /// Whatever is lost, doubled or out of order: what the equations determine comes out, and
    /// nothing else.
    #[test]
    fn just_what_is_determined_is_recovered(
        start in prop_oneof![Just(0), Just(u32::MAX - 20), any::<u32>()],
        fates in proptest::collection::vec((0..10_u8, 0..12_u8, 1..40_usize), 1..60),
        shuffle: u64,
    ) {
        let mut pair = Pair::new();
        let (mut bodies, mut lost) = (Vec::new(), Vec::new());
        let mut events = Vec::new();
        for (n, &(fate, repair, newest)) in fates.iter().enumerate() {
            let seq = start.wrapping_add(n as u32);
            pair.send(seq);
            match fate {
                0..3 => lost.push(seq),
                3 => events.extend([(n * 10 + 30, Ok(seq)), (n * 10, Ok(seq))]),
                _ => events.push((n * 10, Ok(seq))),
            }
            if repair < 6 {
                let chosen: Vec<u32> = pair.encoder.held().filter(|s| s % 3 != 1).collect();
                let body = match pair.encoder.over(&chosen) {
                    Some(plan) if repair == 0 => {
                        let mut body = Vec::new();
                        plan.append(&mut body);
                        body
                    }
                    _ => pair.repair(newest),
                };
                events.push((n * 10 + 5, Err(bodies.len())));
                bodies.push(body);
            }
        }
        let mut dice = Dice::new(shuffle);
        events.sort_by_cached_key(|&(at, _)| at as u64 + dice.below(60));
        let mut came = Vec::new();
        for (_, event) in events {
            match event {
                Ok(seq) => {
                    if came.contains(&seq) {
                        continue;
                    }
                    pair.arrive(seq);
                    came.extend(pair.came_back());
                }
                Err(at) => came.extend(pair.deliver(&bodies[at])),
            }
        }
        let rows: Vec<Vec<u8>> = bodies.iter().map(|body| {
            let (repair, _) = Repair::parse(body).unwrap();
            let window: Vec<u32> = repair.sequences().collect();
            let factor = |seq: &u32| {
                if window.contains(seq) { coefficient(&repair, *seq) } else { 0 }
            };
            lost.iter().map(factor).collect()
        }).collect();
        let determined: Vec<u32> = solvable(&rows).into_iter().map(|n| lost[n]).collect();
        let mut recovered: Vec<u32> =
            came.iter().copied().filter(|seq| lost.contains(seq)).collect();
        recovered.sort_unstable_by_key(|seq| seq.wrapping_sub(start));
        // The equations are fewer than the limit only where fewer than that are open at once.
        if pair.decoder.stats().dropped == 0 {
            prop_assert_eq!(recovered, determined);
        }
    }

    #[test]
    fn no_input_makes_it_panic_or_grow(
        events in proptest::collection::vec(
            (any::<bool>(), -300..300_i32, any::<u16>(), any::<u32>(), 0..200_usize, any::<u8>()),
            1..200),
    ) {
        let limits = DecoderLimits { bytes: 8000, symbol: 180, equations: 8, ..Default::default() };
        let mut decoder = Decoder::new(limits);
        for (source, step, key, window, len, fill) in events {
            let seq = (step as u32).wrapping_mul(1 + u32::from(fill % 3));
            if source {
                decoder.on_source(seq, [fill; HEAD], &vec![fill; len]);
            } else {
                let window =
                    if key & 1 == 0 { Window::Mask(window | 1) } else { Window::Run(1 + 2 * u16::from(fill)) };
                let repair = Repair { last: seq, key: key >> 1, window };
                decoder.on_repair(&repair, &vec![fill; len]);
            }
            if fill == 7 {
                decoder.forget_before(seq.wrapping_sub(40));
            }
            prop_assert!(decoder.memory() <= 8000 + 8 * (180 + 1024));
        }
    }
}
