//! How much repair a loss needs, computed before it is sent.
//!
//! What counts in a sliding window code is the *debt*: losses since everything was last known, less
//! repair symbols that came since then. When it returns to zero, all of them are recovered at once
//! (Martinian, Sundberg: *Burst erasure correction codes with low decoding delay*, 2004, call it
//! information debt). So a packet is late if the debt that it adds to does not reach zero in time: a
//! random walk, up by a lost packet, down by a symbol that came. Its steady state and its chance to
//! hit zero are computed exactly, up to truncation, for independent losses and evenly spaced
//! symbols over windows that hold every open loss.

/// Most repair symbols for each source symbol: beyond it copies on another way serve better.
pub const MOST: f64 = 4.0;

/// Debts told apart. The highest stands for all above: those are late anyway.
const DEBTS: usize = 48;
/// Places in the rhythm of packets and symbols that are averaged over, for windows up to [`SHORT`];
/// longer ones feel the rhythm less and cost more each.
const PHASES: usize = 32;
const SHORT: usize = 64;
/// Most packets before a decision that the steady state is near enough.
const WARM: usize = 512;

type Debts = [f64; DEBTS];

/// The share of packets that are lost and not recovered within `window` packets' time, their own
/// included, where `rate` repair symbols are sent for each packet, evenly spaced, and packets and
/// symbols are lost independently with chance `loss`.
///
/// Error: against simulation see `docs/decisions/code.md`.
pub fn residual(loss: f64, window: usize, rate: f64) -> f64 {
    let (loss, rate) = (loss.clamp(0.0, 1.0), rate.clamp(0.0, MOST));
    if loss == 0.0 || window == 0 || rate * (1.0 - loss) <= loss {
        // Symbols that do not pay for the losses themselves: the debt grows for ever.
        return loss;
    }
    // Spread over at least four symbols, so that a slow rhythm is met at all its places.
    let phases = (PHASES * SHORT / window.max(SHORT)).max(PHASES / 4);
    let stride = ((4.0 / rate / phases as f64).ceil() as usize).max(1);
    let mut debt = [0.0; DEBTS];
    debt[0] = 1.0;
    let (mut late, mut at) = (0.0, 0);
    let mut until = warm(loss, rate);
    for _ in 0..phases {
        while at < until {
            debt = lose(&debt, loss);
            (0..symbols(at, rate)).for_each(|_| debt = pay(&debt, loss));
            at += 1;
        }
        let fails = misses_zero(at, loss, window, rate);
        late += debt.iter().zip(&fails[1..]).map(|(share, fail)| share * fail).sum::<f64>();
        late += debt[DEBTS - 1];
        until += stride;
    }
    loss * late / phases as f64
}

/// The fewest repair symbols for each packet that keep [`residual`] at `target` or below. `None`
/// where [`MOST`] is not enough.
///
/// Takes up to a millisecond for a window of 64 and longer ones: the result is worth keeping.
pub fn rate(loss: f64, window: usize, target: f64) -> Option<f64> {
    if loss <= target {
        return Some(0.0);
    }
    let (mut low, mut high) = (0.0, MOST);
    if residual(loss, window, high) > target {
        return None;
    }
    // Steps of a two hundred and fifty-sixth or of one in sixty-four, whichever is finer.
    while high - low > (high / 64.0).min(1.0 / 256.0) {
        let middle = (low + high) / 2.0;
        if residual(loss, window, middle) > target {
            low = middle;
        } else {
            high = middle;
        }
    }
    Some(high)
}

/// Repair symbols right after packet number `at`.
fn symbols(at: usize, rate: f64) -> usize {
    (((at + 1) as f64 * rate).floor() - (at as f64 * rate).floor()) as usize
}

/// Packets until the debt is near its steady state: a few of its own times of return.
fn warm(loss: f64, rate: f64) -> usize {
    let spare = rate * (1.0 - loss) - loss;
    ((8.0 / rate + 8.0 * (rate + loss) / (spare * spare)) as usize).min(WARM)
}

/// A packet is sent: up by one, if it is lost.
fn lose(debt: &Debts, loss: f64) -> Debts {
    let mut next = [0.0; DEBTS];
    for d in 1..DEBTS {
        next[d] = debt[d] * (1.0 - loss) + debt[d - 1] * loss;
    }
    next[0] = debt[0] * (1.0 - loss);
    next[DEBTS - 1] += debt[DEBTS - 1] * loss;
    next
}

/// A symbol is sent: down by one, if it comes.
fn pay(debt: &Debts, loss: f64) -> Debts {
    let mut next = [0.0; DEBTS];
    for d in 0..DEBTS - 1 {
        next[d] = debt[d] * loss + debt[d + 1] * (1.0 - loss);
    }
    next[0] += debt[0] * (1.0 - loss);
    next[DEBTS - 1] = debt[DEBTS - 1] * loss;
    next
}

/// For each debt right after packet `at` was lost, the chance that it is not zero at any time from
/// the symbols after that packet to those `window − 1` packets later. Backwards in time.
fn misses_zero(at: usize, loss: f64, window: usize, rate: f64) -> Debts {
    let mut fails = [1.0; DEBTS];
    fails[0] = 0.0;
    for n in (at..at + window).rev() {
        for _ in 0..symbols(n, rate) {
            let mut next = fails;
            for d in 1..DEBTS {
                next[d] = fails[d] * loss + fails[d - 1] * (1.0 - loss);
            }
            fails = next;
        }
        if n > at {
            let mut next = fails;
            for d in 1..DEBTS - 1 {
                next[d] = fails[d] * (1.0 - loss) + fails[d + 1] * loss;
            }
            fails = next;
        }
    }
    fails
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::fec::encoder::HEAD;
    use crate::fec::{Decoder, DecoderLimits, Encoder, EncoderLimits};
    use crate::rng::Dice;
    use crate::wire::repair::Repair;

    /// The real codec on a line with independent loss: the share of packets not there in time.
    fn played(seed: u64, packets: u32, loss: f64, window: usize, over: usize, rate: f64) -> f64 {
        let mut dice = Dice::new(seed);
        let mut encoder = Encoder::new(EncoderLimits::default());
        let mut decoder = Decoder::new(DecoderLimits::default());
        let (mut lost, mut in_time) = (0_u32, 0_u32);
        let mut body = Vec::new();
        for seq in 0..packets {
            let (head, tail) = ([1; HEAD], Bytes::from_static(&[2]));
            encoder.push(seq, head, tail.clone());
            if dice.unit() < loss {
                lost += 1;
            } else {
                decoder.on_source(seq, head, &tail);
            }
            for _ in 0..symbols(seq as usize, rate) {
                body.clear();
                encoder.over_newest(over).expect("it holds a packet").append(&mut body);
                if dice.unit() >= loss {
                    let (repair, symbol) = Repair::parse(&body).expect("a repair");
                    decoder.on_repair(&repair, symbol);
                }
                while let Some(recovered) = decoder.poll_recovered() {
                    in_time += u32::from((seq - recovered.seq) < window as u32);
                }
            }
        }
        f64::from(lost - in_time) / f64::from(packets)
    }

    #[test]
    fn no_loss_needs_nothing_and_hopeless_loss_is_said_to_be() {
        assert_eq!(rate(0.0, 20, 1e-4), Some(0.0));
        assert_eq!(rate(0.01, 20, 0.02), Some(0.0));
        assert_eq!(rate(0.9, 1, 1e-6), None);
        assert_eq!(residual(0.05, 20, 0.0), 0.05);
        assert_eq!(residual(1.0, 20, 4.0), 1.0);
    }

    #[test]
    fn more_repair_and_more_time_never_leave_more_loss() {
        for loss in [0.01, 0.1, 0.3] {
            for window in [1, 4, 20, 64] {
                let all: Vec<_> =
                    (1..16).map(|n| residual(loss, window, f64::from(n) / 5.0)).collect();
                assert!(all.windows(2).all(|two| two[1] <= two[0] * 1.02 + 1e-12), "{all:?}");
            }
            let need = |window| rate(loss, window, 1e-4).unwrap_or(MOST);
            assert!(need(64) <= need(20) && need(20) <= need(5));
        }
    }

    #[test]
    fn what_is_computed_is_what_the_codec_does() {
        for (loss, window, rate) in [(0.05, 20, 0.15), (0.2, 20, 0.5), (0.1, 40, 0.2)] {
            let (computed, seen) =
                (residual(loss, window, rate), played(3, 60_000, loss, window, 64, rate));
            assert!((0.75..1.33).contains(&(seen / computed)), "{seen} for {computed}");
        }
    }

    /// Prints the table of `docs/decisions/code.md`. Run it alone, optimised.
    #[test]
    #[ignore = "a simulation of millions of packets"]
    fn rates_and_residuals_against_the_codec() {
        for (loss, window) in [(0.05, 20), (0.1, 20), (0.02, 20), (0.05, 10), (0.05, 40), (0.2, 20)]
        {
            let Some(need) = rate(loss, window, 1e-4) else { continue };
            let seen = [window, (window * 3 / 2).min(64), 64]
                .map(|over| played(7, 2_000_000, loss, window, over, need))
                .map(|share| format!("{share:.2e}"));
            println!(
                "loss {loss} window {window}: rate {need:.4} computed {:.2e}, seen {seen:?}",
                residual(loss, window, need)
            );
        }
    }
}
