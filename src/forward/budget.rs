//! What repair of a class may cost, where its packets enter the overlay.
//!
//! Two bounds, either or none: a share of the bytes sent for the first time, and a rate in time. Each
//! is a bucket that fills and is paid from; repair that finds it empty is not sent.

use std::time::Duration;

use crate::route::policy::{ClassSpec, Delivery};
use crate::time::{Instant, micros};

/// What a bucket of a share may save up, bytes: a few packets, so that thin flows are repaired too.
const SAVED: i64 = 8 * 1024;
/// What a bucket of a rate may save up, in time.
const SPAN: Duration = Duration::from_millis(500);
/// Buckets count millionths of a byte.
const MILLION: i64 = 1_000_000;

/// The bounds of one class on one link.
#[derive(Clone, Debug)]
struct Budget {
    /// Millionths of a first-sent byte, and millionths of a byte saved up.
    share: Option<(i64, i64)>,
    /// Bytes a second, and millionths of a byte saved up: packets ask more often than bytes are earned.
    rate: Option<(i64, i64)>,
    earned_at: Instant,
}

/// The bounds of all classes on one link. Empty where no class has any.
#[derive(Clone, Debug, Default)]
pub(super) struct Budgets(Vec<Option<Budget>>);

impl Budgets {
    /// Those that the classes state.
    pub(super) fn of(classes: &[ClassSpec], now: Instant) -> Self {
        let each: Vec<_> = classes.iter().map(|spec| Budget::of(&spec.delivery, now)).collect();
        Self(if each.iter().any(Option::is_some) { each } else { Vec::new() })
    }

    /// A packet of this class was sent for the first time.
    pub(super) fn on_sent(&mut self, class: usize, bytes: usize) {
        if let Some(Some(Budget { share: Some((share, saved)), .. })) = self.0.get_mut(class) {
            *saved = (*saved + *share * bytes as i64).min(SAVED * MILLION);
        }
    }

    /// Whether repair of so many bytes may be sent for this class: it is paid for then.
    pub(super) fn admits(&mut self, now: Instant, class: usize, bytes: usize) -> bool {
        let Some(Some(budget)) = self.0.get_mut(class) else { return true };
        let affords = budget.affords(now, bytes);
        if affords {
            for (_, saved) in [&mut budget.share, &mut budget.rate].into_iter().flatten() {
                *saved -= bytes as i64 * MILLION;
            }
        }
        affords
    }

    /// Whether this class could pay for repair of so many bytes now. `bytes` is asked only of a class
    /// that has a bound.
    pub(super) fn affords(
        &mut self,
        now: Instant,
        class: usize,
        bytes: impl FnOnce() -> usize,
    ) -> bool {
        self.0.get_mut(class).and_then(Option::as_mut).is_none_or(|b| b.affords(now, bytes()))
    }
}

impl Budget {
    fn of(delivery: &Delivery, now: Instant) -> Option<Self> {
        let share = delivery.repair_share.map(|share| (i64::from(share.as_ppm()), 0));
        let rate =
            delivery.repair_bps.map(|bps| (i64::try_from(bps / 8).unwrap_or(i64::MAX >> 20), 0));
        (share.is_some() || rate.is_some()).then_some(Self { share, rate, earned_at: now })
    }

    fn affords(&mut self, now: Instant, bytes: usize) -> bool {
        if let Some((rate, saved)) = &mut self.rate {
            let gained = rate.saturating_mul(micros(now.since(self.earned_at).min(SPAN)) as i64);
            let most = rate.saturating_mul(micros(SPAN) as i64).max(2048 * MILLION);
            *saved = saved.saturating_add(gained).min(most);
            self.earned_at = now;
        }
        let price = bytes as i64 * MILLION;
        let holds = |account: Option<(i64, i64)>| account.is_none_or(|(_, saved)| saved >= price);
        holds(self.share) && holds(self.rate)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::unit::Ratio;

    fn class(share: Option<u32>, bps: Option<u64>) -> ClassSpec {
        ClassSpec {
            name: "x".into(),
            matches: Default::default(),
            policy: Default::default(),
            delivery: Delivery {
                repair_share: share.map(Ratio::from_ppm),
                repair_bps: bps,
                ..Delivery::NONE
            },
            marking: Default::default(),
        }
    }

    #[test]
    fn a_share_and_a_rate_each_bound_repair_and_none_bounds_nothing() {
        let classes = [class(Some(100_000), None), class(None, Some(80_000)), class(None, None)];
        let mut budgets = Budgets::of(&classes, Instant::ZERO);
        let mut sent = [0; 3];
        for n in 0..1000 {
            let now = Instant::from_micros(n * 10_000);
            for (class, sent) in sent.iter_mut().enumerate() {
                budgets.on_sent(class, 1000);
                *sent += u32::from(budgets.admits(now, class, 1000));
            }
        }
        assert_eq!(sent[0], 100, "a tenth of what was sent");
        // 10 kB a second for ten seconds.
        assert!((95..=105).contains(&sent[1]), "{sent:?}");
        assert_eq!(sent[2], 1000);
        assert!(!budgets.affords(Instant::from_micros(9_990_000), 1, || 4000), "not at once");
        assert!(budgets.affords(Instant::FAR, 1, || 4000) && budgets.admits(Instant::FAR, 1, 4000));
        assert!(Budgets::of(&classes[2..], Instant::ZERO).0.is_empty());
    }

    #[test]
    fn a_rate_is_earned_however_often_it_is_asked_for() {
        let mut budgets = Budgets::of(&[class(None, Some(80_000))], Instant::ZERO);
        let mut sent = 0;
        for us in (0..10_000_000).step_by(20) {
            let now = Instant::from_micros(us);
            let affords = budgets.affords(now, 0, || 1000);
            assert_eq!(affords, budgets.admits(now, 0, 1000), "what can be paid is paid");
            sent += u32::from(affords);
        }
        assert!((95..=105).contains(&sent), "{sent}");
    }
}
