//! How a lost frame is sent again: the joint choice over the time that is left.
//!
//! What feedback can still judge is sent once, because what it tells next is worth more than a copy
//! sent blindly (rounds first: they are nearly free); twice, where order is kept and much waits for it: a
//! second round then costs what the line would have carried meanwhile. The last round, after which nothing can be
//! learnt in time, takes as many copies as the residual asks for, spread over what time is left: in a
//! hole, copies sent together are lost together. A copy that would hardly lower the risk is not sent.
//! Where one copy less leaves too much and one more leaves less than is allowed, so many losses get
//! it that the risk of all is what is allowed: whole copies for each would cost a fifth more.
//!
//! Source: the backward induction behind table T1 of our notes puts all redundancy into the last
//! feasible round; for holes in time the chance of losing a copy is [`LossModel::again`].

use std::time::Duration;

use super::LossModel;

/// Most copies in a last round.
const COPIES: u32 = 4;
/// A further copy must leave at most this share of the risk.
const WORTH: f64 = 0.6;
/// Least distance between copies: a device that drops one drops its neighbour too.
const SPACE: Duration = Duration::from_millis(1);

/// What is known when a frame is judged lost.
#[derive(Clone, Copy, Debug)]
pub(super) struct Loss {
    /// How often it was sent so far, at least once.
    pub(super) tries: u8,
    /// Since its last sending.
    pub(super) since: Duration,
    /// How much later than now a sending still comes in time.
    pub(super) slack: Duration,
    /// From a sending to the news of its loss.
    pub(super) round: Duration,
    /// Chance of staying lost that the packet's class allows on this hop.
    pub(super) target: f64,
    /// Whether so much waits for it that a copy is cheaper than another round.
    pub(super) twice: bool,
}

/// How it is sent again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Repeat {
    /// Sendings in all, the first of them now.
    pub(super) copies: u32,
    /// Between two of them.
    pub(super) space: Duration,
    /// Whether news of it can come in time for another round.
    pub(super) last: bool,
}

/// Chooses. `carry`: what earlier choices left of a copy; it spreads them evenly.
pub(super) fn repeat(line: &LossModel, loss: &Loss, carry: &mut f64) -> Repeat {
    if loss.slack >= loss.round {
        let copies = if loss.twice { 2 } else { 1 };
        return Repeat { copies, space: wide(line).min(loss.slack - loss.round), last: false };
    }
    // How likely it was to come to this: only so much of the residual is this frame's to use.
    let rounds = i32::from(loss.tries) - 1;
    let reached = (line.rate() * line.again(loss.round).powi(rounds)).max(1e-9);
    let allowed = loss.target / reached;
    let mut best = (1, Duration::ZERO, line.again(loss.since));
    for copies in 2..=COPIES {
        if best.2 <= allowed {
            break;
        }
        let space = loss.slack / (copies - 1);
        let space = space.min(wide(line));
        let risk = line.again(loss.since) * line.again(space).powi(copies as i32 - 1);
        if risk > best.2 * WORTH {
            break;
        }
        if risk < allowed {
            *carry += (best.2 - allowed) / (best.2 - risk);
            if *carry < 1.0 {
                break;
            }
            *carry -= 1.0;
        }
        best = (copies, space, risk);
    }
    Repeat { copies: best.0, space: best.1, last: true }
}

/// So far apart that a hole of usual length does not take both.
fn wide(line: &LossModel) -> Duration {
    (line.hole() * 2).max(SPACE)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::Instant;

    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    /// A line that lost every `n`th frame, one at a time.
    fn line(n: u64) -> LossModel {
        let mut model = LossModel::default();
        for frame in 0..5_000 {
            model.on_fate(Instant::from_micros(frame * 1000), frame % n == 0);
        }
        model
    }

    fn loss(tries: u8, slack: u64) -> Loss {
        Loss { tries, since: ms(22), slack: ms(slack), round: ms(22), target: 1e-4, twice: false }
    }

    #[test]
    fn while_news_can_come_one_copy_is_sent() {
        let one = repeat(&line(10), &loss(1, 22), &mut 0.0);
        assert_eq!(one, Repeat { copies: 1, space: ms(0), last: false });
        let twice = repeat(&line(10), &Loss { twice: true, ..loss(1, 40) }, &mut 0.0);
        assert_eq!((twice.copies, twice.last), (2, false), "what much waits for goes twice");
        assert!(twice.space >= SPACE, "{twice:?}");
    }

    #[test]
    fn a_last_round_takes_as_many_copies_as_the_residual_asks_for() {
        // About 10 % lost: after one try 1e-3 is left to each, after two 1e-2.
        for (tries, copies) in [(1, 3.0), (2, 2.0), (5, 1.0)] {
            let (line, mut carry) = (line(10), 0.0);
            let all: Vec<Repeat> =
                (0..1000).map(|_| repeat(&line, &loss(tries, 10), &mut carry)).collect();
            let mean = f64::from(all.iter().map(|r| r.copies).sum::<u32>()) / 1000.0;
            assert!((mean - copies).abs() < 0.1 && all.iter().all(|r| r.last), "{tries}: {mean}");
        }
        let last = repeat(&line(10), &loss(1, 0), &mut 0.0);
        assert_eq!(last.space, ms(0), "no time, no space");
    }

    #[test]
    fn between_two_numbers_of_copies_some_losses_get_the_greater() {
        // Twice what two copies leave is allowed: a ninth of the losses has to do with one.
        let (line, mut carry) = (line(10), 0.0);
        let risk = line.again(ms(10)).powi(2);
        let target = 2.0 * risk * line.rate();
        let all =
            (0..9000).map(|_| repeat(&line, &Loss { target, ..loss(1, 10) }, &mut carry).copies);
        let mean = f64::from(all.sum::<u32>()) / 9000.0;
        assert!((1.86..1.92).contains(&mean), "{mean}");
    }
}
