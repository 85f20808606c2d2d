//! Where the demo's five sites stand, and the Internet between them: two rules, printed as they are.
//!
//! Sites: real PlanetLab nodes. The cloud is the node with the least median RTT to all others of the
//! piece; all others are ordered by their RTT to the cloud, and the one in the middle of each quarter
//! is an edge. Nobody looked for pairs that gain.
//!
//! Links: delay is half the measured RTT. Loss is drawn for each direction from one distribution,
//! heavier on long links; part of it comes as holes in time. No link is made worse by hand.

use std::collections::BTreeMap;
use std::time::Duration;

use thalweg::rng::Dice;
use thalweg::unit::Ratio;

use crate::data::{DataError, RttMatrix};
use crate::link::{Burst, LinkParams};

/// The five sites and what lies between them.
#[derive(Clone, Debug)]
pub struct Place {
    /// Names by index; the cloud is the first.
    pub names: Vec<String>,
    /// Their numbers in the source of the data.
    pub nodes: Vec<u32>,
    /// What lies between each ordered pair.
    pub links: BTreeMap<(usize, usize), LinkParams>,
}

/// Sites in the demo.
pub const SITES: usize = 5;

/// The cloud's index.
pub const CLOUD: usize = 0;

/// The rules, as printed.
pub const RULES: [&str; 2] = [
    "sites: 164 PlanetLab nodes; cloud = least median RTT to all; the rest ordered by RTT to the \
     cloud, one edge from the middle of each quarter",
    "links: delay = RTT/2; loss each way log-normal (sigma 1), median 0.1 % per 50 ms of RTT, at \
     most 4 %, two thirds of it in holes of 15 ms; jitter 0.5 % of RTT; 100 Mbit/s, queue 50 ms",
];

impl Place {
    /// Applies both rules.
    pub fn choose(data: &RttMatrix, seed: u64) -> Result<Self, DataError> {
        let all = data.nodes();
        let mut by_median = Vec::new();
        for &node in all {
            let mut rtts = Vec::new();
            for &other in all.iter().filter(|n| **n != node) {
                rtts.push(data.rtt_ms(node, other)?);
            }
            rtts.sort_by(f64::total_cmp);
            by_median.push((rtts.get(rtts.len() / 2).copied().unwrap_or(f64::MAX), node));
        }
        by_median.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        let cloud = by_median.first().ok_or(DataError::NoNode(0))?.1;
        let mut rest = Vec::new();
        for &node in all.iter().filter(|n| **n != cloud) {
            rest.push((data.rtt_ms(cloud, node)?, node));
        }
        rest.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        let mut nodes = vec![cloud];
        let mut names = vec!["cloud".to_owned()];
        for quarter in 0..SITES - 1 {
            // The middle of each quarter: 1/8, 3/8, 5/8, 7/8 of the way.
            let place = rest.len() * (2 * quarter + 1) / (2 * (SITES - 1));
            nodes.push(rest.get(place).ok_or(DataError::NoNode(0))?.1);
            names.push(format!("edge{}", quarter + 1));
        }
        let mut dice = Dice::new(seed);
        let mut links = BTreeMap::new();
        for a in 0..SITES {
            for b in (0..SITES).filter(|b| *b != a) {
                links.insert((a, b), link(data.rtt_ms(nodes[a], nodes[b])?, &mut dice));
            }
        }
        Ok(Self { names, nodes, links })
    }

    /// The RTT two sites have by the rule, without what waits in queues, ms.
    pub fn rtt_ms(&self, a: usize, b: usize) -> f64 {
        let one_way = |a, b| self.links.get(&(a, b)).map_or(0.0, |l| l.delay.as_secs_f64() * 1e3);
        one_way(a, b) + one_way(b, a)
    }
}

/// What the second rule makes of a measured RTT.
fn link(rtt_ms: f64, dice: &mut Dice) -> LinkParams {
    let median = 0.001 * rtt_ms / 50.0;
    let loss = (median * normal(dice).exp()).min(0.04);
    let in_holes = loss * 2.0 / 3.0;
    let bad = Duration::from_millis(15);
    // Share of time in holes = bad / (bad + good).
    let good = bad.mul_f64((1.0 - in_holes) / in_holes.max(1e-9));
    let rate_bps = 100_000_000;
    LinkParams {
        delay: Duration::from_secs_f64(rtt_ms / 2000.0),
        jitter: Duration::from_secs_f64(rtt_ms * 0.005 / 1000.0),
        loss: Ratio::from_f64(loss / 3.0),
        burst: Some(Burst { good, bad }),
        rate_bps: Some(rate_bps),
        queue_bytes: rate_bps / 8 / 20,
        ..LinkParams::default()
    }
}

/// A standard normal draw (Box and Muller).
fn normal(dice: &mut Dice) -> f64 {
    let radius = (-2.0 * (1.0 - dice.unit()).ln()).sqrt();
    radius * (std::f64::consts::TAU * dice.unit()).cos()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rules_give_five_sites_and_a_pair_whose_best_path_has_a_relay() {
        let data = RttMatrix::planetlab().unwrap();
        let place = Place::choose(&data, 1).unwrap();
        assert_eq!((place.nodes.len(), place.links.len()), (SITES, SITES * (SITES - 1)));
        let mut gains = 0;
        for a in 0..SITES {
            for b in a + 1..SITES {
                let via = (0..SITES)
                    .filter(|r| *r != a && *r != b)
                    .map(|r| place.rtt_ms(a, r) + place.rtt_ms(r, b));
                gains += u32::from(via.fold(f64::MAX, f64::min) < 0.9 * place.rtt_ms(a, b));
            }
        }
        assert!(gains >= 1, "some pair gains a tenth by delay alone");
        let again = Place::choose(&data, 1).unwrap();
        assert_eq!(place.links, again.links, "one seed, one Internet");
    }

    #[test]
    fn loss_follows_its_rule() {
        let mut dice = Dice::new(3);
        let mut losses: Vec<f64> = (0..20_001)
            .map(|_| {
                let l = link(100.0, &mut dice);
                l.loss.or(l.burst.unwrap().share()).as_f64()
            })
            .collect();
        losses.sort_by(f64::total_cmp);
        let median = losses[10_000];
        assert!((0.0019..0.0021).contains(&median), "{median}");
        assert!(losses[20_000] <= 0.0401);
    }
}
