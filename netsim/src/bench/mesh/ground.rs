//! The ground a mesh stands on: round trips between PlanetLab nodes, weather over them, and what the
//! best paths over it cost.
//!
//! **More nodes than were measured.** The piece of PlanetLab has 164. Site `k` beyond them stands in the
//! town of node `k mod 164`, behind a line of its own of 0.5 to 4 ms: between two towns it meets the
//! measured round trip times 0.95 to 1.05, within its town 1 ms, and both lines. So the distances keep
//! their distribution, and the detours their gains.
//!
//! **Weather.** From 30 round-trip records of RIPE Atlas over 643 days, with levels marked by hand: 0.9
//! shifts of level a day and link, by 3.6 % in the median (quartiles 1.9 and 6.9); within a level a mean
//! deviation of 0.17 %; 0.2 % lost. Here each link shifts as often and as far, wanders by 0.1 ms and
//! 0.2 % of its delay, and loses 0.2 % of packets at random each way.

use std::collections::BTreeMap;
use std::time::Duration;

use thalweg::quality::{LinkQuality, LinkState};
use thalweg::rng::Dice;
use thalweg::route::cost;
use thalweg::route::policy::Objective;
use thalweg::unit::Ratio;

use crate::data::RttMatrix;
use crate::link::LinkParams;
use crate::scenario::{Flow, Scenario, Site};

/// Lost at random on each way, ppm.
const LOSS_PPM: u32 = 2_000;
/// Mean of the wandering part of a delay.
const JITTER: Duration = Duration::from_micros(100);
/// The wandering part also grows with the delay, by this part of it.
const JITTER_PART: u32 = 500;
/// Shifts of level of one link in a day.
const SHIFTS_A_DAY: f64 = 0.9;
/// Quartiles of the shifts' size, as parts of the delay.
const SHIFT_SIZES: [f64; 3] = [0.019, 0.036, 0.069];

/// Who the mesh's seeds are: the first few sites, which everyone knows.
const SEEDS: usize = 3;

/// Delays of all pairs, and what moves them.
#[derive(Debug)]
pub struct Ground {
    /// Half of each pair's round trip, ms, by the lower site and the higher.
    half_ms: BTreeMap<(usize, usize), f64>,
    sites: usize,
    dice: Dice,
}

impl Ground {
    /// So many sites. One seed gives one ground.
    ///
    /// # Errors
    /// A piece of data that cannot be read.
    pub fn new(sites: usize, seed: u64) -> anyhow::Result<Self> {
        let matrix = RttMatrix::planetlab()?;
        let towns = matrix.nodes().len();
        let mut dice = Dice::new(seed);
        let lines: Vec<f64> = (0..sites)
            .map(|site| if site < towns { 0.0 } else { 0.5 + 3.5 * dice.unit() })
            .collect();
        let mut half_ms = BTreeMap::new();
        for a in 0..sites {
            for b in a + 1..sites {
                let (near, far) = (matrix.nodes()[a % towns], matrix.nodes()[b % towns]);
                let measured = matrix.rtt_ms(near, far)?;
                let between = if near == far { 1.0 } else { measured };
                let factor = if b < towns { 1.0 } else { 0.95 + 0.1 * dice.unit() };
                half_ms.insert((a, b), (between * factor + lines[a] + lines[b]) / 2.0);
            }
        }
        Ok(Self { half_ms, sites, dice })
    }

    /// The scenario on it: every site starts at once and knows the same few others.
    pub fn scenario(&self, flows: usize) -> Scenario {
        let name = |site: usize| format!("n{site:03}");
        let sites = (0..self.sites)
            .map(|site| Site {
                name: name(site),
                starts: true,
                seeds: (0..SEEDS).filter(|seed| *seed != site).collect(),
                config: toml::Table::new(),
            })
            .collect();
        let pairs = self.half_ms.keys().flat_map(|&(a, b)| [(a, b), (b, a)]);
        let flow = |at: usize| {
            let from = at * self.sites / flows.max(1);
            let to = (from + self.sites / 2) % self.sites;
            Flow {
                name: format!("{}>{}", name(from), name(to)),
                from,
                to,
                pps: 10,
                size: 160,
                start: Duration::ZERO,
                stop: Duration::MAX,
                dscp: 0,
                payload: String::new(),
                may_be_cut: false,
            }
        };
        Scenario {
            name: format!("mesh{}", self.sites),
            seed: 1,
            duration: Duration::ZERO,
            sites,
            links: pairs.map(|pair| (pair, self.params(pair))).collect(),
            flows: (0..flows).map(flow).collect(),
            tcp: Vec::new(),
            events: Vec::new(),
            checks: Vec::new(),
        }
    }

    fn half(&self, (a, b): (usize, usize)) -> f64 {
        self.half_ms.get(&(a.min(b), a.max(b))).copied().unwrap_or_default()
    }

    /// What lies between two sites now.
    pub fn params(&self, pair: (usize, usize)) -> LinkParams {
        let delay = Duration::from_secs_f64(self.half(pair) / 1e3);
        LinkParams {
            delay,
            jitter: JITTER + delay / JITTER_PART,
            loss: Ratio::from_ppm(LOSS_PPM),
            ..LinkParams::default()
        }
    }

    /// The pairs whose level shifts within the next `span`; their delays have moved already.
    pub fn shift(&mut self, span: Duration) -> Vec<(usize, usize)> {
        let links = self.half_ms.len() as f64;
        let mut expected = links * SHIFTS_A_DAY * span.as_secs_f64() / 86_400.0;
        let mut shifted = Vec::new();
        // One chance for each whole one expected, and one for the rest.
        while expected > 0.0 {
            if self.dice.unit() < expected.min(1.0) {
                let at = self.dice.below(self.half_ms.len() as u64) as usize;
                shifted.extend(self.half_ms.keys().nth(at).copied());
            }
            expected -= 1.0;
        }
        for pair in &shifted {
            let size = SHIFT_SIZES[self.dice.below(3) as usize];
            let up = self.dice.unit() < 0.5;
            if let Some(half) = self.half_ms.get_mut(pair) {
                *half *= if up { 1.0 + size } else { 1.0 / (1.0 + size) };
            }
        }
        shifted
    }

    /// What a hop between two sites truly costs under latency-first.
    pub fn cost(&self, pair: (usize, usize)) -> u64 {
        let params = self.params(pair);
        // The median of an exponential lies at ln 2 of its mean, its mean deviation at 2/e.
        let quality = LinkQuality {
            delay: params.delay + params.jitter.mul_f64(std::f64::consts::LN_2),
            jitter: params.jitter.mul_f64(2.0 / std::f64::consts::E),
            loss: params.loss,
        };
        cost::price(&LinkState::measured(quality), Objective::Latency).cost
    }

    /// What the best path of at most two relays costs from one site to every other, over `living`.
    pub fn best(&self, from: usize, costs: &[Vec<u64>], living: &[usize]) -> Vec<u64> {
        let mut best: Vec<u64> = costs[from].clone();
        for _ in 0..2 {
            let before = best.clone();
            for &relay in living.iter().filter(|&&relay| relay != from) {
                for (to, least) in best.iter_mut().enumerate() {
                    *least = (*least).min(before[relay].saturating_add(costs[relay][to]));
                }
            }
        }
        best
    }

    /// [`Ground::cost`] of every pair; nothing from a site to itself.
    pub fn costs(&self) -> Vec<Vec<u64>> {
        let row =
            |a: usize| (0..self.sites).map(move |b| if a == b { 0 } else { self.cost((a, b)) });
        (0..self.sites).map(|a| row(a).collect()).collect()
    }
}
