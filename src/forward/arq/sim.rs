//! Sender and receiver on an invented line, in virtual time.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::{Arrival, Counts, Longest, Receiver, ReceiverStats, Sender, Terms};
use crate::rng::Dice;
use crate::time::Instant;
use crate::wire::ack::Ack;

fn by(by: Instant) -> Terms {
    Terms { by, target: 1e-4, twice: false }
}

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

struct Line {
    one_way: Duration,
    /// Mean of exponential extra delay of each frame: it reorders.
    jitter: Duration,
    loss: f64,
    /// Mean lengths of good and bad spells.
    bursts: Option<(Duration, Duration)>,
}

struct Weather {
    bad: bool,
    until: Instant,
}

impl Line {
    fn clean(one_way: Duration) -> Self {
        Self { one_way, jitter: Duration::ZERO, loss: 0.0, bursts: None }
    }

    fn cross(&self, now: Instant, weather: &mut Weather, dice: &mut Dice) -> Option<Instant> {
        let mut exponential = |mean: Duration| mean.mul_f64(-(1.0 - dice.unit()).ln());
        if let Some((good, bad)) = self.bursts {
            while weather.until <= now {
                weather.bad = !weather.bad;
                let mean = if weather.bad { bad } else { good };
                weather.until = weather.until.plus(exponential(mean).max(Duration::from_micros(1)));
            }
        }
        let extra = exponential(self.jitter);
        let lost = weather.bad || dice.unit() < self.loss;
        (!lost).then(|| now.plus(self.one_way + extra))
    }
}

struct Outcome {
    counts: Counts,
    receiver: ReceiverStats,
    /// Distinct frames that came before their deadline.
    in_time: u64,
    held_at_most: usize,
    /// Bytes that were confirmed, that were judged lost, and that are still under way at the end.
    heard: (u64, u64, u64),
    /// Repeated sendings of even frames, and of odd ones.
    again: [u64; 2],
}

enum Step {
    Send,
    Frame(u32, bool),
    Feedback(Box<Ack>),
    Wake,
}

/// Sends `frames` of 1,000 bytes, one each `every`, with `budget` beyond the line's one-way delay.
fn run(line: &Line, frames: u32, every: Duration, budget: Duration, seed: u64) -> Outcome {
    run_within(line, frames, every, budget, seed, |_| true)
}

/// The same where repair of the frames with these numbers is paid for, and of no others.
fn run_within(
    line: &Line,
    frames: u32,
    every: Duration,
    budget: Duration,
    seed: u64,
    mut admits: impl FnMut(u32) -> bool,
) -> Outcome {
    let mut dice = Dice::new(seed);
    let mut sender = Sender::new(1 << 24);
    let mut receiver = Receiver::new(Instant::ZERO);
    let mut steps = BTreeMap::new();
    let mut serial = 0u64;
    let mut weather = [(); 2].map(|()| Weather { bad: true, until: Instant::ZERO });
    if line.bursts.is_none() {
        weather.iter_mut().for_each(|w| w.bad = false);
    }
    let mut deadlines = Vec::new();
    let mut came = BTreeSet::new();
    let mut held_at_most = 0;
    let (mut delivered, mut lost, mut again) = (0, 0, [0; 2]);
    let mut add = |steps: &mut BTreeMap<(Instant, u64), Step>, at, step| {
        serial += 1;
        steps.insert((at, serial), step);
    };
    add(&mut steps, Instant::ZERO, Step::Send);
    let end = Instant::ZERO.plus(every * frames + Duration::from_secs(2));
    let mut now = Instant::ZERO;
    while now <= end {
        let timers = [sender.poll_timeout(), receiver.poll_timeout()];
        let timer = timers.into_iter().flatten().map(|d| d.at).min().unwrap_or(Instant::FAR);
        assert!(timer > now || now == Instant::ZERO, "a timer in the past spins: {timers:?}");
        let step = match steps.first_key_value() {
            Some((&(at, _), _)) if at <= timer => {
                let Some(((at, _), step)) = steps.pop_first() else { break };
                now = at;
                step
            }
            _ if timer == Instant::FAR => break,
            _ => {
                now = timer;
                Step::Wake
            }
        };
        match step {
            Step::Send => {
                let give_up = now.plus(line.one_way + budget);
                let asks = sender.asks_feedback(now);
                let terms = Terms { by: give_up, target: 1e-4, twice: false };
                let number = deadlines.len() as u32;
                let seq = sender.push(now, 1000, Some(terms), Some(number), None);
                deadlines.push(give_up);
                if let Some(at) = line.cross(now, &mut weather[0], &mut dice) {
                    add(&mut steps, at, Step::Frame(seq, asks));
                }
                if (deadlines.len() as u32) < frames {
                    add(&mut steps, now.plus(every), Step::Send);
                }
            }
            Step::Frame(seq, asks) => {
                let arrival = receiver.on_frame(now, seq, 1000, false, asks);
                if arrival == Arrival::New && now <= deadlines[seq as usize] {
                    came.insert(seq);
                }
            }
            Step::Feedback(ack) => sender.on_feedback(now, &ack),
            Step::Wake => {}
        }
        sender.handle_timeout(now);
        while let Some((seq, _)) = sender.poll_repair_within(now, |&number, _| admits(number)) {
            again[seq as usize % 2] += 1;
            if let Some(at) = line.cross(now, &mut weather[0], &mut dice) {
                add(&mut steps, at, Step::Frame(seq, false));
            }
        }
        if let Some(rtt) = sender.round_trip().smoothed() {
            receiver.on_round_trip(rtt);
        }
        while let Some(ack) = receiver.poll_feedback(now) {
            if let Some(at) = line.cross(now, &mut weather[1], &mut dice) {
                add(&mut steps, at, Step::Feedback(Box::new(ack)));
            }
        }
        held_at_most = held_at_most.max(sender.held_bytes());
        let heard = sender.poll_heard();
        (delivered, lost) = (delivered + heard.delivered, lost + heard.lost);
        let under_way = sender.counts().bytes + sender.counts().repair_bytes;
        assert!(sender.in_flight() <= under_way);
    }
    Outcome {
        counts: sender.counts(),
        receiver: receiver.stats(),
        in_time: came.len() as u64,
        held_at_most,
        heard: (delivered, lost, sender.in_flight()),
        again,
    }
}

#[test]
fn nothing_is_sent_again_on_a_clean_line() {
    for (delay, every) in [(1, 100), (10, 1000), (10, 50_000), (150, 200), (150, 300_000)] {
        let line = Line::clean(ms(delay));
        let outcome = run(&line, 5_000, Duration::from_micros(every), ms(400), 1);
        assert_eq!(outcome.counts.repairs, 0, "delay {delay} ms, a frame each {every} us");
        assert_eq!(outcome.counts.judged, 5_000);
        assert_eq!((outcome.counts.lost, outcome.counts.residual), (0, 0));
        assert_eq!(outcome.in_time, 5_000);
        assert_eq!(outcome.heard, (5_000_000, 0, 0), "all confirmed, nothing left under way");
    }
}

#[test]
fn reordering_by_jitter_costs_next_to_nothing() {
    let line = Line { jitter: ms(1), ..Line::clean(ms(10)) };
    let outcome = run(&line, 50_000, ms(1), ms(100), 2);
    let share = outcome.counts.repairs as f64 / 50_000.0;
    assert!(share < 0.005, "{share}");
    assert_eq!(outcome.counts.residual, 0);
}

#[test]
fn random_loss_of_two_percent_is_mended_within_two_rounds() {
    let line = Line { loss: 0.02, ..Line::clean(ms(10)) };
    let outcome = run(&line, 300_000, ms(1), ms(60), 3);
    let missing = 300_000 - outcome.in_time;
    // Three sendings fit: 8e-6 by chance, and feedback is lost as well.
    assert!(missing <= 30, "{missing} of 300,000 too late or never");
    let c = outcome.counts;
    let overhead = c.repair_bytes as f64 / c.bytes as f64;
    assert!(overhead < 0.0235, "{overhead}");
    let measured = c.lost as f64 / c.judged as f64;
    assert!((0.0185..0.0215).contains(&measured), "the loss is seen as it is: {measured}");
    assert!(c.residual <= 30 && c.judged == 300_000, "{c:?}");
    let (delivered, lost, under_way) = outcome.heard;
    assert_eq!((delivered, under_way), (300_000_000 - c.residual * 1000, 0));
    // Each byte sent came or was lost, but for copies, which are judged together, and errors.
    let sent = c.bytes + c.repair_bytes;
    assert!(
        (sent - 400_000..sent + 400_000).contains(&(delivered + lost)),
        "{delivered} {lost} {c:?}"
    );
    assert!(outcome.receiver.duplicates < 300, "{:?}", outcome.receiver);
}

#[test]
fn sparse_frames_are_mended_by_the_senders_own_timer() {
    // One frame each 100 ms: nothing later comes in time to show a gap.
    let line = Line { loss: 0.05, ..Line::clean(ms(10)) };
    let outcome = run(&line, 20_000, ms(100), ms(80), 4);
    let missing = 20_000 - outcome.in_time;
    assert!(missing < 40, "{missing} of 20,000");
    assert!(outcome.counts.repair_bytes < outcome.counts.bytes / 5);
}

#[test]
fn bursts_in_time_are_outlived_where_the_budget_reaches_beyond_them() {
    let line = Line { bursts: Some((ms(152), ms(8))), ..Line::clean(ms(10)) };
    let outcome = run(&line, 200_000, ms(1), ms(80), 5);
    let missing = (200_000 - outcome.in_time) as f64 / 200_000.0;
    let overhead = outcome.counts.repair_bytes as f64 / outcome.counts.bytes as f64;
    assert!(missing < 1.5e-3, "{missing}");
    assert!(overhead < 0.10, "{overhead}");
}

#[test]
fn a_fast_line_with_loss_is_mended_far_behind_its_newest_frames() {
    let line = Line { loss: 0.02, ..Line::clean(ms(10)) };
    let outcome = run(&line, 200_000, Duration::from_micros(20), ms(80), 6);
    let missing = 200_000 - outcome.in_time;
    let overhead = outcome.counts.repair_bytes as f64 / outcome.counts.bytes as f64;
    assert!(missing <= 30, "{missing} of 200,000");
    assert!(overhead < 0.03, "{overhead}");
}

#[test]
fn repair_never_exceeds_a_third_of_all() {
    let line = Line { loss: 0.6, ..Line::clean(ms(10)) };
    let outcome = run(&line, 20_000, ms(1), ms(500), 7);
    let c = outcome.counts;
    assert!(c.repair_bytes <= c.bytes / 2 + 64 * 1024 + outcome.held_at_most as u64, "{c:?}");
    assert!(c.repair_bytes > c.bytes / 3, "but it is used: {c:?}");
    assert!(c.residual > 0 && c.judged == c.sent, "{c:?}");
}

#[test]
fn a_dead_line_costs_little_and_leaves_nothing_behind() {
    let line = Line { loss: 1.0, ..Line::clean(ms(10)) };
    let outcome = run(&line, 5_000, ms(1), ms(60), 8);
    assert_eq!(outcome.counts.repairs, 0, "without a round trip nothing can be judged");
    assert!(outcome.held_at_most <= 1 << 24);
}

#[test]
fn a_class_that_may_not_spend_makes_no_other_spend_more() {
    // One round is left, and how many copies it takes is what the plan may leave; news of a loss may be
    // late once. Odd frames get nothing, or the first of those copies.
    let line = Line { loss: 0.02, ..Line::clean(ms(10)) };
    let spent = |paid: Option<u32>| {
        let mut sent = BTreeMap::new();
        run_within(&line, 200_000, ms(1), ms(38), 9, |number| {
            let count = sent.entry(number).or_insert(0);
            *count += 1;
            number % 2 == 0 || paid.is_none_or(|paid| *count <= paid)
        })
    };
    let free = spent(None);
    for paid in [0, 1] {
        let bound = spent(Some(paid));
        let c = bound.counts;
        assert!(c.over_budget > 1000 && c.residual > free.counts.residual, "{paid}: {c:?}");
        // Unbound, even frames and odd ones are alike.
        let more = bound.again[0] as f64 * 2.0 / free.again.iter().sum::<u64>() as f64;
        assert!(more < 1.05, "{paid}: {:?}, and unbound {:?}; {c:?}", bound.again, free.again);
    }
}

#[test]
fn what_is_refused_for_money_is_lost_for_good_and_no_miss_of_the_plan() {
    let at = |ms: u64| Instant::from_micros(ms * 1000);
    for coded in [None, Some(ms(2))] {
        for paid in [false, true] {
            let mut sender = Sender::new(1 << 20);
            for n in 0..40 {
                sender.push(at(n), 1000, Some(by(at(n + 2000))), Some(n), coded);
            }
            let mut heard = ack(0, 39);
            heard.bitmap = crate::wire::ack::Bitmap::new(0, 40);
            (1..40).for_each(|n| heard.bitmap.insert(n));
            sender.on_feedback(at(60), &heard);
            sender.handle_timeout(at(90));
            assert_eq!(sender.poll_repair_within(at(90), |_, _| paid).is_some(), paid);
            sender.handle_timeout(at(9000));
            assert_eq!(sender.records(), 0, "all is forgotten");
            let c = sender.counts();
            assert_eq!((c.residual, c.over_budget), (1, u64::from(!paid)));
            assert_eq!(sender.aim(1e-4) == 5e-5, !paid, "{coded:?}, paid: {paid}");
        }
    }
}

#[test]
fn a_frame_whose_symbols_its_class_could_not_pay_is_no_miss_of_the_plan() {
    let at = |ms: u64| Instant::from_micros(ms * 1000);
    for (lost, aim) in [(1, 5e-5), (0, 5e-5 / 1.3)] {
        let mut sender = Sender::new(1 << 20);
        for n in 0..10 {
            sender.push(at(n), 1000, Some(by(at(n + 15))), Some(n), Some(ms(5)));
        }
        sender.on_symbol_refused(0..20, |n| n % 2 == 1);
        let mut heard = ack(0, 9);
        heard.bitmap = crate::wire::ack::Bitmap::new(0, 10);
        (0..10).filter(|n| *n != lost).for_each(|n| heard.bitmap.insert(n));
        sender.on_feedback(at(30), &heard);
        sender.handle_timeout(at(9000));
        assert_eq!((sender.records(), sender.counts().residual), (0, 1));
        // What came relaxes it a little.
        assert!((sender.aim(1e-4) / aim - 1.0).abs() < 1e-3, "{lost} was lost");
    }
}

#[test]
fn only_frames_that_were_paid_for_relax_the_plan() {
    let at = |ms: u64| Instant::from_micros(ms * 1000);
    for paid in [false, true] {
        let mut sender = Sender::new(1 << 20);
        // One is lost for want of time, and ten thousand come.
        sender.push(at(0), 1000, Some(by(at(15))), Some(0), None);
        sender.push(at(0), 1000, Some(by(at(15))), Some(1), None);
        sender.on_feedback(at(20), &Ack { given_up: 1, ..ack(2, 1) });
        sender.handle_timeout(at(900));
        assert_eq!(sender.records(), 0, "all is forgotten");
        let tight = sender.aim(1e-4);
        for n in 2..10_000 {
            let now = at(900 + u64::from(n));
            let seq = sender.push(now, 1000, Some(by(now.plus(ms(15)))), Some(n), None);
            if !paid {
                sender.on_unpaid(seq, true);
            }
            sender.on_feedback(now.plus(ms(1)), &ack(n + 1, n));
        }
        let c = sender.counts();
        assert_eq!((c.residual, c.uncovered), (1, if paid { 0 } else { 9_998 }));
        assert!(tight < 4e-5 && (sender.aim(1e-4) > tight) == paid, "{tight}, paid: {paid}");
    }
}

#[test]
fn a_symbol_that_all_repair_has_no_room_for_is_counted() {
    let mut sender = Sender::<u32>::new(1 << 20);
    let sent = (0..100).filter(|_| sender.admits_symbol(Instant::ZERO, 1000, || true)).count();
    let c = sender.counts();
    assert!(sent > 10 && c.over_share == 100 - sent as u64 && c.over_budget == 0, "{c:?}");
    assert!(!sender.admits_symbol(Instant::ZERO, 1, || false) && sender.counts() == c);
}

/// Feedback that all before `settled` came, and `highest`.
pub(super) fn ack(settled: u32, highest: u32) -> Ack {
    Ack {
        settled,
        highest,
        delay: Duration::ZERO,
        clock: Default::default(),
        given_up: 0,
        ce: 0,
        local_drops: 0,
        asked: false,
        bitmap: crate::wire::ack::Bitmap::new(settled, 0),
        recovered: Default::default(),
    }
}

#[test]
fn feedback_about_frames_never_sent_is_refused() {
    let mut sender: Sender<()> = Sender::new(1000);
    sender.push(Instant::ZERO, 100, None, None, None);
    for (settled, highest) in [(2, 1), (0, 1), (0, 5), (1 << 30, (1 << 30) - 1)] {
        sender.on_feedback(Instant::ZERO, &ack(settled, highest));
    }
    assert_eq!(sender.counts().false_feedback, 4);
    sender.on_feedback(Instant::from_micros(5000), &ack(1, 0));
    assert_eq!((sender.counts().false_feedback, sender.counts().judged), (4, 1));
}

#[test]
fn repair_pauses_while_the_queue_stands_or_the_peer_drops() {
    let mut sender = Sender::new(1 << 20);
    let at = |ms: u64| Instant::from_micros(ms * 1000);
    let lossy = |sender: &mut Sender<u32>, now: u64| {
        let first = sender.next_sequence();
        for n in 0..6 {
            sender.push(at(now), 1000, Some(by(at(now + 2000))), Some(n), None);
        }
        let mut a = ack(first, first + 5);
        a.bitmap = crate::wire::ack::Bitmap::new(first, 6);
        (1..6).for_each(|n| a.bitmap.insert(first + n));
        a
    };
    let a = lossy(&mut sender, 0);
    sender.on_feedback(at(20), &a);
    sender.on_standing(ms(30));
    sender.handle_timeout(at(30));
    assert_eq!(sender.poll_repair(at(30)), None);
    sender.on_standing(ms(0));
    assert_eq!(sender.poll_repair(at(31)), Some((0, &0)));
    let mut b = lossy(&mut sender, 40);
    b.settled = 6;
    b.local_drops = 1;
    sender.on_feedback(at(60), &b);
    sender.handle_timeout(at(70));
    assert_eq!(sender.poll_repair(at(70)), None);
    assert_eq!(sender.poll_timeout().map(|d| d.why), Some("repair pause"));
    assert_eq!(sender.poll_repair(at(260)).map(|(seq, _)| seq), Some(6));
    assert_eq!(sender.counts().local_drops, 1);
}

#[test]
fn memory_is_capped_and_what_goes_unprotected_is_counted() {
    let mut sender = Sender::new(2500);
    for _ in 0..4 {
        sender.push(Instant::ZERO, 1000, Some(by(Instant::FAR)), Some(()), None);
    }
    assert_eq!((sender.held_bytes(), sender.counts().unprotected), (2000, 2));
    sender.on_feedback(Instant::from_micros(10), &ack(4, 3));
    assert_eq!((sender.held_bytes(), sender.counts().judged), (0, 4));
}

#[test]
fn the_longest_frames_are_told_by_their_fate_once() {
    let mut sender: Sender<()> = Sender::new(0);
    for bytes in [100, 1300, 200, 60] {
        sender.push(Instant::ZERO, bytes, None, None, None);
    }
    assert_eq!(sender.take_longest(), Longest::default(), "nothing is known yet");
    // The second is missing, and its loss is certain a while later.
    let mut bitmap = crate::wire::ack::Bitmap::new(1, 8);
    bitmap.insert(2);
    bitmap.insert(3);
    sender.on_feedback(Instant::from_micros(10_000), &Ack { bitmap, ..ack(1, 3) });
    sender.handle_timeout(Instant::from_micros(900_000));
    assert_eq!(sender.take_longest(), Longest { kept: 200, lost: 1300 });
    assert_eq!(sender.take_longest(), Longest::default());
}

#[test]
fn a_report_covers_what_came_since_the_last() {
    let mut sender: Sender<()> = Sender::new(0);
    for _ in 0..4 {
        sender.push(Instant::ZERO, 10, None, None, None);
    }
    sender.on_feedback(Instant::from_micros(10), &ack(2, 1));
    let report = sender.take_report();
    assert_eq!((report.sent, report.judged, report.bytes), (4, 2, 40));
    sender.on_feedback(Instant::from_micros(20), &ack(4, 3));
    let report = sender.take_report();
    assert_eq!((report.sent, report.judged, report.bytes), (0, 2, 0));
}
