//! What an edge costs under an objective, in integers that add along a path.
//!
//! Everything is turned into microseconds of delay that a user would trade for it, because that is
//! the unit the mission is judged in:
//!
//! - **delay** adds as it is.
//! - **jitter** adds as variance. For a normal delay and exponential disutility with risk `1/τ` the
//!   certainty equivalent is `mean + variance / 2τ` (Pratt 1964), and variances of independent links
//!   add. The variance is taken from the mean absolute deviation (`σ² = π/2 · mad²` for a normal).
//!   From a deviation of 2.5 ms on the price is a tenth of it: such links are not normal any more,
//!   a square would forbid what is only ugly, and on round trips between personal devices a greater
//!   weight of their pauses gives away what their lengths have to give (`docs/decisions/forecast.md`).
//! - **loss** enters twice. What the hop repairs arrives late: `p/(1−p)` rounds of one hop round trip
//!   and one feedback delay. And what is lost adds as `−ln(1−p)` ("nats", which add exactly where
//!   shares do not), at a price for what repair leaves and a tenth of it for what had to be repaired,
//!   since bursts defeat repair (given a lost ping the next within 1-2 s is lost in 60-95 % of cases)
//!   and repair costs bytes. Where no data crossed the link lately, nothing proves that repair works
//!   there, and all its loss counts as left.
//! - **money** stands above everything under [`Objective::Cost`], and beside the rest otherwise.
//! - each **hop** adds a little, so that a relay must earn its place.
//! - a **preferred** relay takes a little off: it wins where it is longer by no more than that.
//!
//! The price of loss follows from what it does: a lost packet costs its flow a timeout, whose floor
//! is one second (RFC 6298, 2.4), so a nat of loss costs one second under [`Objective::Latency`].
//! A direct link that loses 5 % thereby costs at least 5.1 ms more than a clean one even when every
//! loss is repaired, and a clean relay 4 ms longer wins (cost by latency alone, or by hop count, never
//! leaves such a link).
//!
//! The quality used is the forecast where it is confident, else the present measurement. Limits are
//! checked against the worse of the two: a path that has left its limits must be seen before any
//! forecast knows of it, and one that is about to leave them must not be chosen.

use std::time::Duration;

use crate::quality::{LinkQuality, LinkState};
use crate::route::policy::{Limits, Objective};
use crate::time::micros;
use crate::unit::{Price, Ratio};

/// Confidence from which a forecast decides instead of the present value.
pub const CONFIDENT: Ratio = Ratio::from_ppm(500_000);

/// `τ` of the jitter's price, µs: delays vary by this much before users mind them twice as much.
const JITTER_TAU_US: u64 = 20_000;
/// Jitter costs at most this part of itself.
const JITTER_DIVISOR: u64 = 10;
/// What a nat of loss after repair costs, µs (RFC 6298's least timeout).
const NAT_US: u64 = 1_000_000;
/// Raw loss costs this part of what lasting loss costs.
const REPAIRED_DIVISOR: u64 = 10;
/// Under [`Objective::Reliability`] a nat costs this many times as much: 0.1 % of loss weighs 100 ms,
/// so that delay decides only among paths whose loss cannot be told apart.
const RELIABILITY_FACTOR: u64 = 100;
/// What a hop adds, µs: sealing, queueing and one more thing that can break.
const HOP_US: u64 = 500;
/// What a preferred relay takes off its path, µs: ten hops' worth. Enough to beat a margin of 3 % on paths up
/// to 160 ms, too little to lead anybody around half a continent.
const PREFERRED_US: u64 = 5_000;
/// Greatest cost of one edge apart from money, µs. Three of them stay below [`MONEY_SHIFT`]'s room.
const EDGE_LIMIT_US: u64 = 60_000_000;
/// Under [`Objective::Cost`] money stands above this many bits of everything else.
const MONEY_SHIFT: u32 = 28;
/// Nats are counted in billionths.
const NAT: f64 = 1e9;
/// Loss is never taken as certain: 10⁻⁶ get through, 13.8 nats.
const LOSS_LIMIT: f64 = 0.999_999;
/// Repair rounds are computed for at most this loss.
const REPAIR_LOSS_LIMIT: f64 = 0.95;

/// Where the quality of an edge came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Basis {
    /// The present measurement.
    Measured,
    /// The forecast.
    Forecast,
}

impl Basis {
    /// The name in output.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Measured => "measured",
            Self::Forecast => "forecast",
        }
    }
}

/// What an edge or a path costs, by part. Parts of the same kind add along a path.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Parts {
    /// One-way delay, µs.
    pub delay_us: u64,
    /// Price of the jitter, µs.
    pub jitter_us: u64,
    /// Expected delay by repair, µs.
    pub repair_us: u64,
    /// Price of the loss, µs.
    pub loss_us: u64,
    /// Price of the hops, µs.
    pub hop_us: u64,
    /// What preferred relays take off all of that, µs.
    pub preferred_us: u64,
    /// Money, millionths of the currency per gigabyte. Counts under [`Objective::Cost`].
    pub money: u64,
}

impl Parts {
    /// Both one after the other.
    pub const fn plus(self, other: Self) -> Self {
        Self {
            delay_us: self.delay_us + other.delay_us,
            jitter_us: self.jitter_us + other.jitter_us,
            repair_us: self.repair_us + other.repair_us,
            loss_us: self.loss_us + other.loss_us,
            hop_us: self.hop_us + other.hop_us,
            preferred_us: self.preferred_us + other.preferred_us,
            money: self.money + other.money,
        }
    }

    /// Everything but money, µs.
    pub const fn total_us(self) -> u64 {
        let priced = self.delay_us + self.jitter_us + self.repair_us + self.loss_us + self.hop_us;
        // What is taken off an edge is less than the edge costs (`Priced::favoured`).
        priced - self.preferred_us
    }
}

/// An edge, or a path, with its price and with what limits are checked against.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Priced {
    /// What the solver adds and compares. Never zero for an edge.
    pub cost: u64,
    /// Where it comes from.
    pub parts: Parts,
    /// Variance of the delay, µs².
    pub variance_us2: u64,
    /// Loss after repair, billionths of nats: the worse of present and forecast.
    pub nats: u64,
    /// The delay that limits are checked against, µs: the worse of present and forecast.
    pub worst_us: u64,
    /// Edges whose forecast decided.
    pub forecast_hops: u8,
    /// Edges.
    pub hops: u8,
}

impl Priced {
    /// A path of no edges.
    pub const NOTHING: Self = Self {
        cost: 0,
        parts: Parts {
            delay_us: 0,
            jitter_us: 0,
            repair_us: 0,
            loss_us: 0,
            hop_us: 0,
            preferred_us: 0,
            money: 0,
        },
        variance_us2: 0,
        nats: 0,
        worst_us: 0,
        forecast_hops: 0,
        hops: 0,
    };

    /// Both one after the other.
    pub const fn plus(self, other: Self) -> Self {
        Self {
            cost: self.cost + other.cost,
            parts: self.parts.plus(other.parts),
            variance_us2: self.variance_us2.saturating_add(other.variance_us2),
            nats: self.nats + other.nats,
            worst_us: self.worst_us + other.worst_us,
            forecast_hops: self.forecast_hops + other.forecast_hops,
            hops: self.hops + other.hops,
        }
    }

    /// The same edge where it leaves a relay that is preferred: cheaper, and never free.
    pub fn favoured(mut self) -> Self {
        let off = PREFERRED_US.min(self.parts.total_us().saturating_sub(1));
        self.parts.preferred_us += off;
        self.cost -= off;
        self
    }

    /// One-way delay.
    pub const fn delay(&self) -> Duration {
        Duration::from_micros(self.parts.delay_us)
    }

    /// Mean absolute deviation of the delay, as that of a normal with the summed variance.
    pub fn jitter(&self) -> Duration {
        let mad = (self.variance_us2 as f64 * std::f64::consts::FRAC_2_PI).sqrt();
        Duration::from_micros(mad.round() as u64)
    }

    /// Loss after repair, rounded up against us.
    pub fn loss(&self) -> Ratio {
        let share = -(-(self.nats as f64) / NAT).exp_m1();
        Ratio::from_ppm((share * 1e6).ceil() as u32)
    }

    /// Money per gigabyte.
    pub fn price(&self) -> Price {
        Price(u32::try_from(self.parts.money).unwrap_or(u32::MAX))
    }

    /// The first limit that is not kept.
    pub fn broken(&self, limits: &Bounds) -> Option<Limit> {
        if self.worst_us > limits.delay_us {
            Some(Limit::Latency)
        } else if self.variance_us2 > limits.variance_us2 {
            Some(Limit::Jitter)
        } else if self.nats > limits.nats {
            Some(Limit::Loss)
        } else if self.parts.money > limits.money {
            Some(Limit::Price)
        } else {
            None
        }
    }
}

/// A limit of a policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Limit {
    /// `avoid`.
    Avoid,
    /// `max_latency`.
    Latency,
    /// `max_jitter`.
    Jitter,
    /// `max_loss`.
    Loss,
    /// `max_price`.
    Price,
    /// `monthly_budget`: it is spent, and no path mends that.
    Budget,
}

impl Limit {
    /// The name in configuration and output.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Avoid => "avoid",
            Self::Latency => "max_latency",
            Self::Jitter => "max_jitter",
            Self::Loss => "max_loss",
            Self::Price => "max_price",
            Self::Budget => "monthly_budget",
        }
    }
}

/// [`Limits`] in the units that add; what is not limited is the greatest number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Greatest delay, µs.
    pub delay_us: u64,
    /// Greatest variance of the delay, µs²: that is what adds of jitter.
    pub variance_us2: u64,
    /// Greatest loss, billionths of nats.
    pub nats: u64,
    /// Greatest price, millionths per gigabyte.
    pub money: u64,
}

impl Bounds {
    /// No limits.
    pub const NONE: Self =
        Self { delay_us: u64::MAX, variance_us2: u64::MAX, nats: u64::MAX, money: u64::MAX };

    /// The limits of a policy.
    pub fn of(limits: &Limits) -> Self {
        Self {
            delay_us: limits.max_latency.map_or(u64::MAX, micros),
            variance_us2: limits.max_jitter.map_or(u64::MAX, variance),
            // Three billionths of slack for the rounding of three edges.
            nats: limits.max_loss.map_or(u64::MAX, |loss| {
                if loss == Ratio::ONE { u64::MAX } else { nats(loss.as_f64()) + 3 }
            }),
            money: limits.max_price.map_or(u64::MAX, |p| u64::from(p.0)),
        }
    }
}

/// Which quality decides: the forecast where it is confident, else the present.
pub fn basis(state: &LinkState) -> (LinkQuality, Basis) {
    match state.expected {
        Some(expected) if state.confidence >= CONFIDENT => (expected, Basis::Forecast),
        _ => (state.present, Basis::Measured),
    }
}

/// What an edge costs under an objective.
pub fn price(state: &LinkState, objective: Objective) -> Priced {
    let (quality, basis) = basis(state);
    let raw = quality.loss.as_f64();
    // What repair leaves was measured on data; it cannot exceed what was lost to begin with by more
    // than the two measurements' errors, so it is used as it is.
    let raw_nats = nats(raw);
    let left_nats = state.residual.map_or(raw_nats, |residual| nats(residual.as_f64()));
    let factor = if objective == Objective::Reliability { RELIABILITY_FACTOR } else { 1 };
    let delay_us = micros(quality.delay);
    let (now, then) = (state.present, state.expected.unwrap_or(state.present));
    let sure = basis == Basis::Forecast;
    let worst = |now: u64, then: u64| if sure { now.max(then) } else { now };
    // Logarithms are most of what a price takes to work out: none is taken twice.
    let worst_left = match state.residual {
        None if sure => raw_nats.max(nats(now.loss.as_f64())),
        _ => left_nats,
    };
    let loss_us = nats_price(left_nats) + nats_price(raw_nats) / REPAIRED_DIVISOR;
    let mut parts = Parts {
        delay_us,
        jitter_us: jitter_price(quality.jitter),
        repair_us: repair_delay(raw, delay_us),
        loss_us: loss_us * factor,
        hop_us: HOP_US,
        preferred_us: 0,
        money: u64::from(state.price.0),
    };
    cap(&mut parts, objective);
    let cost = match objective {
        Objective::Cost => (parts.money << MONEY_SHIFT) + parts.total_us(),
        Objective::Latency | Objective::Reliability => parts.total_us(),
    };
    Priced {
        cost,
        parts,
        variance_us2: variance(quality.jitter),
        nats: worst_left,
        worst_us: worst(micros(now.delay), micros(then.delay)).min(EDGE_LIMIT_US),
        forecast_hops: u8::from(basis == Basis::Forecast),
        hops: 1,
    }
}

/// Keeps each edge within the room that sums of three leave, and the parts adding up to the cost.
fn cap(parts: &mut Parts, objective: Objective) {
    let factor = if objective == Objective::Reliability { RELIABILITY_FACTOR } else { 1 };
    let mut room = EDGE_LIMIT_US * factor;
    for part in [
        &mut parts.delay_us,
        &mut parts.hop_us,
        &mut parts.loss_us,
        &mut parts.repair_us,
        &mut parts.jitter_us,
    ] {
        *part = (*part).min(room);
        room -= *part;
    }
}

/// `−ln(1−p)` in billionths.
fn nats(loss: f64) -> u64 {
    if loss <= 0.0 {
        return 0;
    }
    (-(-loss.min(LOSS_LIMIT)).ln_1p() * NAT).round() as u64
}

/// What this many billionths of nats cost, µs.
fn nats_price(nats: u64) -> u64 {
    nats * NAT_US / 1_000_000_000
}

/// `π/2 · mad²`, µs².
fn variance(jitter: Duration) -> u64 {
    let mad = micros(jitter).min(EDGE_LIMIT_US);
    mad * mad / 226 * 355
}

/// `variance / 2τ`, at most a tenth of the deviation itself.
fn jitter_price(jitter: Duration) -> u64 {
    (variance(jitter) / (2 * JITTER_TAU_US)).min(micros(jitter) / JITTER_DIVISOR)
}

/// Expected delay by retransmission over the hop, µs: `p/(1−p)` rounds, each a round trip and a
/// feedback delay of a quarter of it, within 1-25 ms.
fn repair_delay(loss: f64, delay_us: u64) -> u64 {
    let p = loss.min(REPAIR_LOSS_LIMIT);
    let rtt = delay_us.saturating_mul(2);
    let round = rtt.saturating_add((rtt / 4).clamp(1_000, 25_000));
    (round as f64 * p / (1.0 - p)).round() as u64
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    fn state(delay_ms: u64, loss_ppm: u32) -> LinkState {
        LinkState::measured(LinkQuality {
            delay: ms(delay_ms),
            jitter: Duration::ZERO,
            loss: Ratio::from_ppm(loss_ppm),
        })
    }

    #[test]
    fn a_direct_link_that_loses_5_percent_loses_against_a_clean_relay_4_ms_longer() {
        for (repaired, direct_ms) in [(false, 20), (true, 20), (false, 2), (true, 2), (true, 90)] {
            let mut lossy = state(direct_ms, 50_000);
            lossy.residual = repaired.then_some(Ratio::ZERO);
            let direct = price(&lossy, Objective::Latency);
            let leg = |delay| price(&state(delay, 0), Objective::Latency);
            let relayed = leg(direct_ms / 2).plus(leg(direct_ms - direct_ms / 2 + 4));
            assert!(relayed.cost < direct.cost, "{repaired} {direct_ms}: {relayed:?} {direct:?}");
        }
    }

    #[test]
    fn a_clean_direct_link_beats_a_relay_of_the_same_delay() {
        let direct = price(&state(20, 0), Objective::Latency);
        let leg = price(&state(10, 0), Objective::Latency);
        assert!(direct.cost < leg.plus(leg).cost);
    }

    #[test]
    fn a_confident_forecast_decides_and_a_doubtful_one_does_not() {
        let mut link = state(10, 0);
        link.expected = Some(state(50, 0).present);
        link.confidence = Ratio::from_ppm(CONFIDENT.as_ppm() - 1);
        let doubtful = price(&link, Objective::Latency);
        assert_eq!((doubtful.delay(), doubtful.forecast_hops), (ms(10), 0));
        link.confidence = CONFIDENT;
        let confident = price(&link, Objective::Latency);
        assert_eq!((confident.delay(), confident.forecast_hops), (ms(50), 1));
    }

    #[test]
    fn money_stands_above_everything_else_under_the_cost_objective_alone() {
        let dear = LinkState { price: Price(1), ..state(1, 0) };
        let awful = state(500, 900_000);
        assert!(price(&awful, Objective::Cost).cost < price(&dear, Objective::Cost).cost);
        assert!(price(&dear, Objective::Latency).cost < price(&awful, Objective::Latency).cost);
        let free = LinkState { price: Price(0), ..dear };
        assert_eq!(
            price(&dear, Objective::Latency).cost,
            price(&free, Objective::Latency).cost,
            "money has no say elsewhere"
        );
    }

    #[test]
    fn reliability_takes_100_ms_to_avoid_a_quarter_percent() {
        let (short, safe) = (state(10, 2_500), state(110, 0));
        let by = |objective| price(&safe, objective).cost < price(&short, objective).cost;
        assert!(by(Objective::Reliability));
        assert!(!by(Objective::Latency));
    }

    #[test]
    fn what_repair_mends_costs_less_than_what_it_leaves() {
        let mut link = state(20, 50_000);
        let unproven = price(&link, Objective::Latency);
        link.residual = Some(Ratio::from_ppm(100));
        let repaired = price(&link, Objective::Latency);
        assert!(repaired.cost < unproven.cost);
        assert_eq!(repaired.loss(), Ratio::from_ppm(100));
        assert!(price(&state(20, 0), Objective::Latency).cost < repaired.cost);
    }

    #[test]
    fn jitter_adds_as_variance() {
        let jittery =
            LinkState::measured(LinkQuality { delay: ms(10), jitter: ms(3), loss: Ratio::ZERO });
        let one = price(&jittery, Objective::Latency);
        assert_eq!(one.jitter(), ms(3));
        let two = one.plus(one).jitter();
        assert!((4_242..=4_243).contains(&two.as_micros()), "3 ms · √2, not 6: {two:?}");
    }

    #[test]
    fn limits_see_the_worse_of_present_and_forecast() {
        let limits = Limits { max_latency: Some(ms(20)), ..Limits::default() };
        let broken = |now_ms, then_ms, confidence| {
            let mut link = state(now_ms, 0);
            link.expected = Some(state(then_ms, 0).present);
            link.confidence = Ratio::from_ppm(confidence);
            price(&link, Objective::Latency).broken(&Bounds::of(&limits))
        };
        assert_eq!(broken(10, 15, 900_000), None);
        assert_eq!(broken(25, 15, 900_000), Some(Limit::Latency), "it has left them");
        assert_eq!(broken(10, 25, 900_000), Some(Limit::Latency), "it is about to");
        assert_eq!(broken(10, 25, 100_000), None, "so says nobody worth believing");
    }

    #[test]
    fn a_limit_is_kept_by_exactly_what_it_names() {
        let limits = Limits {
            max_latency: Some(ms(20)),
            max_jitter: Some(ms(3)),
            max_loss: Some(Ratio::from_ppm(10_000)),
            max_price: Some(Price(5)),
        };
        let bounds = Bounds::of(&limits);
        let mut at = LinkState { price: Price(5), ..state(20, 10_000) };
        at.present.jitter = ms(3);
        assert_eq!(price(&at, Objective::Latency).broken(&bounds), None);
        let broken = |s: LinkState| price(&s, Objective::Latency).broken(&bounds);
        assert_eq!(broken(state(21, 0)), Some(Limit::Latency));
        assert_eq!(broken(state(20, 10_001)), Some(Limit::Loss));
        let shaky = |us| {
            let mut state = state(5, 0);
            state.present.jitter = Duration::from_micros(us);
            price(&state, Objective::Latency)
        };
        assert_eq!(shaky(3_020).broken(&bounds), Some(Limit::Jitter));
        // Variances add: two of 2.1 ms are 2.97 together, two of 2.2 are 3.1.
        assert_eq!(shaky(2_100).plus(shaky(2_100)).broken(&bounds), None);
        assert_eq!(shaky(2_200).plus(shaky(2_200)).broken(&bounds), Some(Limit::Jitter));
        assert_eq!(broken(LinkState { price: Price(6), ..state(20, 0) }), Some(Limit::Price));
    }

    proptest! {
        #[test]
        fn the_most_absurd_path_neither_overflows_nor_costs_nothing(
            delay in any::<u64>(), jitter in any::<u64>(), loss in 0..=1_000_000u32,
            money in any::<u32>(), objective in 0..3usize,
        ) {
            let absurd = LinkState {
                price: Price(money),
                ..LinkState::measured(LinkQuality {
                    delay: Duration::from_micros(delay),
                    jitter: Duration::from_micros(jitter),
                    loss: Ratio::from_ppm(loss),
                })
            };
            let objective = Objective::ALL[objective];
            let one = price(&absurd, objective);
            let path = one.plus(one).plus(one);
            prop_assert_eq!(path.cost, one.cost * 3);
            prop_assert!(one.cost >= 1);
            if objective == Objective::Cost {
                prop_assert!(path.parts.total_us() < 1 << MONEY_SHIFT);
            } else {
                prop_assert_eq!(one.parts.total_us(), one.cost);
            }
        }

        #[test]
        fn loss_along_a_path_is_what_independent_hops_lose(
            a in 0..900_000u32, b in 0..900_000u32,
        ) {
            let leg = |ppm| price(&state(5, ppm), Objective::Latency);
            let path = leg(a).plus(leg(b)).loss().as_ppm();
            let exact = Ratio::from_ppm(a).or(Ratio::from_ppm(b)).as_ppm();
            prop_assert!(path.abs_diff(exact) <= 1, "{} {}", path, exact);
        }
    }
}
