//! What a cell costs at least: the least overhead of an ideal block code, and the least residual of any
//! scheme that sends over this line alone.
//!
//! Independent loss: an ideal erasure code over the packets of one window, with so many rounds of
//! sending, exact and free feedback between them. Least expected repair for a given residual, by
//! backward induction over the packets still missing, with a price on each that stays missing; the
//! price is searched for (time-shared schemes lie on the same convex hull). In the last round the code
//! is systematic: either enough symbols come, or the missing packets stay missing.
//!
//! Bursts in time: nothing sent while the line is in a hole arrives, so a packet is lost where the
//! hole outlasts its deadline; and what a hole swallowed has to be sent once more.

use std::time::Duration;

/// Least repair per packet for independent loss `p`, windows of `k` packets, `rounds` sendings (the
/// first among them) and residual `target`.
pub fn overhead(p: f64, k: usize, rounds: u32, target: f64) -> f64 {
    if p <= target {
        return 0.0;
    }
    // The residual falls with the price: search it, then time-share between the two nearest.
    let (mut low, mut high) = (1.0_f64, 1e9_f64);
    for _ in 0..60 {
        let middle = (low * high).sqrt();
        if scheme(p, k, rounds, middle).1 > target { low = middle } else { high = middle }
    }
    let (dear, few) = scheme(p, k, rounds, high);
    let (cheap, many) = scheme(p, k, rounds, low);
    let share = if many > few { ((many - target) / (many - few)).clamp(0.0, 1.0) } else { 1.0 };
    cheap + (dear - cheap) * share
}

/// Repair per packet and residual of the best scheme where a missing packet costs `price` packets.
fn scheme(p: f64, k: usize, rounds: u32, price: f64) -> (f64, f64) {
    // For m missing: cost (priced), repair sent, packets missing in the end.
    let mut value: Vec<(f64, f64, f64)> =
        (0..=k).map(|m| (m as f64 * price, 0.0, m as f64)).collect();
    for round in 1..rounds {
        let mut next = vec![(0.0, 0.0, 0.0); k + 1];
        for (m, best) in next.iter_mut().enumerate().skip(1) {
            *best = (0..=m + 3 * k)
                .map(|n| {
                    let mut sum = (n as f64, n as f64, 0.0);
                    for (got, chance) in binomial(n, 1.0 - p).into_iter().enumerate() {
                        let left = m.saturating_sub(got);
                        // Nothing follows the last round: what is not complete stays missing.
                        let left = if round == 1 && left > 0 { m } else { left };
                        sum.0 += chance * value[left].0;
                        sum.1 += chance * value[left].1;
                        sum.2 += chance * value[left].2;
                    }
                    sum
                })
                .min_by(|a, b| a.0.total_cmp(&b.0))
                .expect("there is at least one choice");
        }
        value = next;
    }
    // The first round: the packets themselves and `n` repair symbols beside them.
    let last = rounds == 1;
    let lost = binomial(k, p);
    let best = (0..=3 * k)
        .map(|n| {
            let mut sum = (n as f64, n as f64, 0.0);
            let came = binomial(n, 1.0 - p);
            for (m, chance) in lost.iter().enumerate() {
                for (got, too) in came.iter().enumerate() {
                    let left = m.saturating_sub(got);
                    let left = if last && left > 0 { m } else { left };
                    let both = chance * too;
                    sum.0 += both * value[left].0;
                    sum.1 += both * value[left].1;
                    sum.2 += both * value[left].2;
                }
            }
            sum
        })
        .min_by(|a, b| a.0.total_cmp(&b.0))
        .expect("there is at least one choice");
    (best.1 / k as f64, best.2 / k as f64)
}

/// Chances of 0..=n successes.
fn binomial(n: usize, p: f64) -> Vec<f64> {
    let mut chances = vec![0.0; n + 1];
    chances[0] = 1.0;
    for tries in 1..=n {
        for at in (0..=tries).rev() {
            let before = if at > 0 { chances[at - 1] * p } else { 0.0 };
            chances[at] = chances[at] * (1.0 - p) + before;
        }
    }
    chances
}

/// Least share of packets that nothing sent on the line can save.
pub fn hole_residual(share: f64, mean: Duration, deadline: Duration) -> f64 {
    share * (-deadline.as_secs_f64() / mean.as_secs_f64()).exp()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_floor_is_that_of_the_literature() {
        // Correction to table T1: k = 20, residual 1e-4, one to three rounds.
        for (p, rounds, percent) in
            [(0.05, 1, 29.2), (0.05, 2, 8.4), (0.05, 3, 5.3), (0.1, 1, 46.0), (0.1, 2, 17.0)]
        {
            let found = overhead(p, 20, rounds, 1e-4) * 100.0;
            assert!((found - percent).abs() < 0.06, "{p} {rounds}: {found} for {percent}");
        }
        // At 10 % and two rounds the source gives 17.4. That is the better of the two schemes between
        // which the target lies (residual 6e-5), alone; the other rows are shared in time there too,
        // and shared in time with the cheaper one (16.3 %, 1.5e-4) it is 17.0.
        let (dear, residual) = scheme(0.1, 20, 2, 150.0);
        assert!((dear * 100.0 - 17.4).abs() < 0.06 && residual < 1e-4, "{dear} {residual}");
    }
}
