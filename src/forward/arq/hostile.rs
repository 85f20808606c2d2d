//! A peer that lies, is silent or floods, and orders of events that nobody planned.

use std::time::Duration;

use proptest::prelude::*;

use super::{Receiver, Sender, Terms, sim};
use crate::time::Instant;
use crate::wire::ack::{Ack, Bitmap};

const ROUND: Duration = Duration::from_millis(20);
/// What the sender may save up for repair beyond its share.
const BURST: u64 = 32 * 1024;

fn at(us: u64) -> Instant {
    Instant::from_micros(us)
}

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

/// Feedback that all before `settled` came, and of the `open` after it the last alone.
fn ack(settled: u32, open: u32) -> Ack {
    sim::ack(settled, settled.wrapping_add(open).wrapping_sub(1))
}

fn knowing(first: u32) -> Sender<()> {
    let mut sender = Sender::starting_at(1 << 20, first);
    sender.on_round_trip(Instant::ZERO, ROUND);
    sender
}

fn push(sender: &mut Sender<()>, now: Instant, slack: Duration) -> u32 {
    let terms = Terms { by: now.plus(ROUND / 2 + slack), target: 1e-4, twice: false };
    sender.push(now, 1000, Some(terms), Some(()), None)
}

/// What a driver does in a turn; how many frames were sent again.
fn turn(sender: &mut Sender<()>, now: Instant) -> usize {
    sender.handle_timeout(now);
    let mut repairs = 0;
    while sender.poll_repair(now).is_some() {
        repairs += 1;
        assert!(repairs < 10_000, "repair without end");
    }
    let due = sender.poll_timeout();
    assert!(due.is_none_or(|due| due.at > now), "{due:?} at {now:?}: it spins");
    repairs
}

/// Lets time pass until the sender wants nothing more; how many turns that takes.
fn rest(sender: &mut Sender<()>) -> usize {
    let mut turns = 0;
    while let Some(due) = sender.poll_timeout() {
        turn(sender, due.at);
        turns += 1;
        assert!(turns < 100_000, "{due:?}: no rest");
    }
    turns
}

fn assert_empty(sender: &Sender<()>) {
    assert_eq!((sender.held_bytes(), sender.kept(), sender.in_flight()), (0, 0, 0));
}

#[test]
fn a_peer_that_never_answers_costs_its_share_and_no_turn_too_many() {
    let mut sender = knowing(0);
    let (mut turns, mut now) = (0, at(0));
    for n in 0..5_000 {
        let next = at(n * 1000);
        while let Some(due) = sender.poll_timeout().filter(|due| due.at <= next) {
            now = due.at;
            turn(&mut sender, now);
            turns += 1;
        }
        push(&mut sender, next, ms(100));
        turn(&mut sender, next);
        assert!(sender.held_bytes() <= 1 << 20 && sender.records() <= 5_000);
    }
    assert!(now < at(5_000_000));
    turns += rest(&mut sender);
    assert!(turns < 60_000, "{turns} turns for 5,000 frames");
    let counts = sender.counts();
    assert!(counts.repair_bytes <= counts.bytes / 2 + 3 * BURST + (1 << 20), "{counts:?}");
    assert_eq!((counts.lost, counts.residual), (5_000, 5_000));
    assert_empty(&sender);
}

#[test]
fn a_peer_that_always_claims_loss_gets_no_more_than_its_share() {
    let mut sender = knowing(0);
    for n in 0..20_000_u64 {
        let now = at(n * 500);
        let seq = push(&mut sender, now, ms(200));
        turn(&mut sender, now);
        // Only the newest ever came, and nothing before it.
        if n > 40 {
            let settled = seq.saturating_sub(500);
            sender.on_feedback(now, &ack(settled, seq - 40 - settled + 1));
            turn(&mut sender, now);
        }
        let counts = sender.counts();
        let bound = counts.bytes / 2 + 3 * BURST + sender.held_bytes() as u64;
        assert!(counts.repair_bytes <= bound, "{counts:?}");
    }
    rest(&mut sender);
    assert_empty(&sender);
}

#[test]
fn a_peer_that_claims_all_came_gets_no_repair_and_keeps_no_memory() {
    let mut sender = knowing(u32::MAX - 100);
    for n in 0..5_000_u64 {
        let now = at(n * 1000);
        let seq = push(&mut sender, now, ms(100));
        sender.on_feedback(now, &ack(seq.wrapping_add(1), 0));
        assert_eq!(turn(&mut sender, now), 0);
        assert_empty(&sender);
    }
    assert_eq!(sender.counts().lost, 0);
}

#[test]
fn feedback_for_what_was_never_sent_is_counted_and_changes_nothing() {
    for first in [0, u32::MAX - 3] {
        let mut sender = knowing(first);
        for n in 0..8 {
            push(&mut sender, at(n * 1000), ms(100));
        }
        let next = sender.next_sequence();
        for (n, ahead) in [1, 2, 1000, 1 << 20, (1 << 31) - 1].into_iter().enumerate() {
            sender.on_feedback(at(9_000), &ack(next.wrapping_add(ahead), 0));
            sender.on_feedback(at(9_000), &ack(next.wrapping_sub(1), 1 + ahead.min(60_000)));
            assert_eq!(sender.counts().false_feedback, 2 * (n as u64 + 1));
        }
        assert_eq!((sender.counts().judged, sender.kept()), (0, 8));
    }
}

#[test]
fn absurd_totals_and_delays_cost_the_liar_alone() {
    let mut sender = knowing(0);
    let (mut repairs, mut now) = (0, at(0));
    for n in 0..2_000_u32 {
        now = at(u64::from(n) * 1000);
        let seq = push(&mut sender, now, ms(100));
        let told = seq.saturating_sub(20);
        let mut lie = ack(told, 1);
        lie.delay = ms(524);
        lie.given_up = n.wrapping_mul(0x1234_5677);
        lie.ce = (n * 7) as u16;
        sender.on_feedback(now, &lie);
        repairs += turn(&mut sender, now);
    }
    // A round trip of nothing is as far as a delay without measure goes.
    assert!(sender.round_trip().least() <= Some(ROUND) && repairs < 2_000, "{repairs}");
    rest(&mut sender);
    assert_empty(&sender);
    let counts = sender.counts();
    assert!(counts.judged == 2_000 && counts.residual <= 2_000, "{counts:?} at {now:?}");
}

#[test]
fn questions_in_every_frame_bring_no_more_feedback_than_the_budget() {
    let mut receiver = Receiver::new(at(0));
    receiver.on_round_trip(ms(4));
    let (mut bytes, mut told) = (0_u64, 0_u64);
    // Every second one missing, every one asks, 50,000 a second.
    for n in 0..100_000_u32 {
        let now = at(u64::from(n) * 20);
        receiver.on_frame(now, n * 2, 78, false, true);
        bytes += 78;
        while let Some(ack) = receiver.poll_feedback(now) {
            let mut body = Vec::new();
            ack.write(&mut body);
            told += 56 + body.len() as u64;
        }
        assert!(receiver.poll_timeout().is_none_or(|due| due.at > now), "it spins");
    }
    let burst = 50 * (56 + Ack::MAX as u64);
    assert!(told <= bytes / 100 + 2 * 4000 + burst, "{told} bytes for {bytes}");
}

#[test]
fn recovered_frames_without_end_are_bounded_and_told_within_the_budget() {
    let mut receiver = Receiver::starting_at(at(0), u32::MAX - 500);
    receiver.on_round_trip(ROUND);
    let (mut told, mut seq) = (0_u64, u32::MAX - 500);
    for n in 0..50_000_u64 {
        let now = at(n * 20);
        // Now ahead, now behind, now the same again.
        receiver.on_recovered(now, seq.wrapping_add(5));
        receiver.on_recovered(now, seq.wrapping_sub(3));
        if n % 3 == 0 {
            receiver.on_frame(now, seq, 78, false, false);
        }
        seq = seq.wrapping_add(1);
        while receiver.poll_feedback(now).is_some() {
            told += 1;
        }
        assert!(receiver.poll_timeout().is_none_or(|due| due.at > now), "it spins");
    }
    assert!(told < 300, "{told} in a second");
    let mut now = at(1_000_000);
    while let Some(due) = receiver.poll_timeout() {
        assert!(due.at > now && due.at < at(4_000_000), "{due:?}");
        now = due.at;
        while receiver.poll_feedback(now).is_some() {}
    }
}

/// What happens to a sender.
#[derive(Clone, Debug)]
enum Step {
    Push {
        bytes: usize,
        slack_ms: u64,
        coded: bool,
        kept: bool,
    },
    /// `behind`: how far behind the next number it speaks of; below zero: beyond it.
    Feedback {
        behind: i32,
        open: u32,
        base: u32,
        bits: [u8; 8],
        delay_us: u64,
        totals: [u16; 3],
    },
    Standing(u64),
    Drops,
    RoundTrip(u64),
    Symbol,
    Wait(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let frame = (1_usize..1500, 0_u64..300, any::<bool>(), 0_u8..8);
    let speech =
        (-3_i32..60, 0_u32..60, 0_u32..60, any::<[u8; 8]>(), 0_u64..600_000, any::<[u16; 3]>());
    prop_oneof![
        8 => frame.prop_map(|(bytes, slack_ms, coded, kept)| {
            Step::Push { bytes, slack_ms, coded, kept: kept > 0 }
        }),
        6 => speech.prop_map(|(behind, open, base, bits, delay_us, totals)| {
            // Most totals are sane: drops would stop all repair.
            let totals = totals.map(|total| if total % 8 == 0 { total } else { total % 2 });
            Step::Feedback { behind, open, base, bits, delay_us, totals }
        }),
        1 => (0_u64..60).prop_map(Step::Standing),
        1 => Just(Step::Drops),
        1 => (0_u64..200_000).prop_map(Step::RoundTrip),
        1 => Just(Step::Symbol),
        8 => (0_u64..30_000).prop_map(Step::Wait),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn no_order_of_events_leaves_a_timer_in_the_past_or_a_byte_behind(
        start: u32, near_wrap: bool, steps in prop::collection::vec(step(), 1..200),
    ) {
        let mut sender = knowing(if near_wrap { u32::MAX - start % 64 } else { start });
        let mut now = at(0);
        let mut symbols = 0;
        for step in steps {
            match step {
                Step::Push { bytes, slack_ms, coded, kept } => {
                    let terms = Terms { by: now.plus(ms(slack_ms)), target: 1e-4, twice: false };
                    sender.asks_feedback(now);
                    sender.push(now, bytes, Some(terms), kept.then_some(()), coded.then_some(ms(5)));
                }
                Step::Feedback { behind, open, base, bits, delay_us, totals } => {
                    let settled = sender.next_sequence().wrapping_sub(behind as u32);
                    let mut said = ack(settled, open);
                    said.bitmap = Bitmap::new(settled.wrapping_add(base.min(open)), open - base.min(open));
                    for n in 0..(open - base.min(open)).min(64) {
                        if bits[n as usize / 8] & 1 << (n % 8) != 0 {
                            said.bitmap.insert(said.bitmap.base().wrapping_add(n));
                        }
                    }
                    said.delay = Duration::from_micros(delay_us);
                    (said.given_up, said.ce, said.local_drops) =
                        (u32::from(totals[0]), totals[1], totals[2]);
                    sender.on_feedback(now, &said);
                }
                Step::Standing(wait) => sender.on_standing(ms(wait)),
                Step::Drops => sender.on_own_drops(now, 1),
                Step::RoundTrip(us) => sender.on_round_trip(now, Duration::from_micros(us)),
                Step::Symbol => symbols += u64::from(sender.admits_symbol(now, 1000, || true)) * 1000,
                Step::Wait(us) => {
                    let end = now.plus(Duration::from_micros(us));
                    while let Some(due) = sender.poll_timeout().filter(|due| due.at <= end) {
                        now = now.max(due.at);
                        turn(&mut sender, now);
                    }
                    now = end;
                }
            }
            turn(&mut sender, now);
            let counts = sender.counts();
            prop_assert!(sender.in_flight() <= counts.bytes + counts.repair_bytes - symbols);
        }
        rest(&mut sender);
        assert_empty(&sender);
    }
}
