//! What one direction of a link loses, and what is to be expected of it.
//!
//! A link that nothing uses is asked every quarter of a minute: after ten minutes it has lost none of forty
//! probes, or one. Neither says that it loses nothing, or 2 %. Two things are known beside them:
//!
//! - **What links here usually lose.** A node's links share its access, and most links anywhere lose about
//!   the same. A link of which little is known is expected to lose what is usual among the node's
//!   ([`Usual`]). To expect nothing instead favours what was asked least, and each detour twice (figures:
//!   `docs/decisions/mesh.md`).
//! - **That some links are lossy.** Each kind is believed as far as the losses beyond the usual speak for it, by
//!   the ratio of two beta-binomial likelihoods. Few losses of few frames leave that open; four of forty do not.
//!
//! Nothing is assumed of a node that has measured nothing: its links are expected to lose nothing.

use std::time::Duration;

use crate::probe::prober::Tally;
use crate::time::Instant;
use crate::unit::Ratio;

/// The present loss is forgotten within this.
const FAST: Duration = Duration::from_secs(30);
/// The expected loss is forgotten within this.
const SLOW: Duration = Duration::from_secs(900);
/// The slow level counts for so many frames in the present one, so that one lost probe of ten is no
/// loss of 10 %.
const ANCHOR: f64 = 20.0;
/// What is usual counts for so many frames of a link of the usual kind.
const USUAL: f64 = 400.0;
/// A lossy link starts with so many frames without loss.
const LOSSY: f64 = 10.0;
/// Links, and lossy ones among them, that a count of the node's begins with.
const LINKS: (f64, f64) = (20.0, 1.0);
/// Frames without loss that the count of all links starts with.
const NOTHING: f64 = 100.0;
/// Losses come in runs: their variance is that of independent ones times this.
const BURST: f64 = 4.0;

/// Loss of one direction, lately and for long.
#[derive(Debug)]
pub(super) struct Loss {
    fast: Fading,
    slow: Fading,
    usual: Usual,
}

/// Frames of one direction of a link that were counted within a quarter of an hour or so.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Seen {
    sent: f64,
    lost: f64,
    /// How far the link is believed to be of the usual kind.
    trusted: f64,
}

/// What is usual among a node's links, in one direction.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Usual {
    /// What those lose that are not lossy.
    pub loss: Ratio,
    /// The share of lossy ones.
    pub lossy: Ratio,
}

impl Default for Usual {
    /// Nothing seen: nothing lost.
    fn default() -> Self {
        Self { loss: Ratio::ZERO, lossy: Ratio::from_f64(LINKS.1 / LINKS.0) }
    }
}

impl Usual {
    /// What was seen of each link says what is usual; those with many frames count no more than the others.
    /// Each link is judged by what was usual before, so that this settles over a few times.
    pub fn of(seen: impl Iterator<Item = Seen>) -> Self {
        let (mut links, mut lossy) = LINKS;
        let (mut sent, mut lost) = (NOTHING, 0.0);
        for link in seen {
            let weight = link.trusted * (USUAL / link.sent.max(1.0)).min(1.0);
            (sent, lost) = (sent + weight * link.sent, lost + weight * link.lost);
            (links, lossy) = (links + 1.0, lossy + 1.0 - link.trusted);
        }
        Self { loss: Ratio::from_f64(lost / sent), lossy: Ratio::from_f64(lossy / links) }
    }

    /// Whether another differs enough to take its place: it moves what is said of every link.
    pub fn differs(self, other: Self) -> bool {
        let moved = |a: Ratio, b: Ratio, least: f64| {
            (a.as_f64() - b.as_f64()).abs() > least + a.as_f64() / 5.0
        };
        moved(self.loss, other.loss, 0.0002) || moved(self.lossy, other.lossy, 0.002)
    }
}

impl Loss {
    pub(super) fn new() -> Self {
        Self { fast: Fading::new(FAST), slow: Fading::new(SLOW), usual: Usual::default() }
    }

    pub(super) fn set_usual(&mut self, usual: Usual) {
        self.usual = usual;
    }

    pub(super) fn on_tally(&mut self, now: Instant, tally: Tally) {
        if tally.sent > 0 {
            self.add(now, f64::from(tally.sent), f64::from(tally.lost.min(tally.sent)));
        }
    }

    pub(super) fn add(&mut self, now: Instant, sent: f64, lost: f64) {
        self.fast.add(now, sent, lost);
        self.slow.add(now, sent, lost);
    }

    /// The present loss.
    pub(super) fn present(&self, now: Instant) -> Ratio {
        self.lately(now, self.level(now, self.usual))
    }

    /// The same by what was seen of this link alone.
    pub(super) fn own(&self, now: Instant) -> Ratio {
        let (sent, lost) = self.slow.read(now);
        self.lately(now, lost / (sent + LOSSY))
    }

    fn lately(&self, now: Instant, level: f64) -> Ratio {
        let (sent, lost) = self.fast.read(now);
        Ratio::from_f64((lost + ANCHOR * level) / (sent + ANCHOR))
    }

    /// The loss to expect minutes ahead.
    pub(super) fn expected(&self, now: Instant) -> Ratio {
        Ratio::from_f64(self.level(now, self.usual))
    }

    pub(super) fn seen(&self, now: Instant) -> Seen {
        let (sent, lost) = self.slow.read(now);
        Seen { sent, lost, trusted: 1.0 - lossy(sent, lost, self.usual) }
    }

    fn level(&self, now: Instant, usual: Usual) -> f64 {
        let (sent, lost) = self.slow.read(now);
        let believed = lossy(sent, lost, usual);
        (1.0 - believed) * (lost + USUAL * usual.loss.as_f64()) / (sent + USUAL)
            + believed * lost / (sent + LOSSY)
    }

    /// Whether more was lost lately than the time before and its bursts explain: two standard
    /// deviations, and a frame and a half. A false alarm only lets the present decide.
    pub(super) fn surprises(&self, now: Instant) -> bool {
        let (sent, lost) = self.fast.read(now);
        let (slow_sent, slow_lost) = self.slow.read(now);
        let before = (slow_lost - lost).max(0.0) / ((slow_sent - sent).max(0.0) + LOSSY);
        let usual = sent * before;
        lost > usual + 2.0 * (usual * (1.0 - before).max(0.0) * BURST).sqrt() + 1.5
    }

    pub(super) fn counted(&self, now: Instant) -> u64 {
        self.fast.read(now).0.round() as u64
    }

    /// What was counted lately is taken back, also from what is expected: else a link that has come back
    /// would look for minutes as bad as when it died.
    pub(super) fn forget_present(&mut self) {
        let fast = std::mem::replace(&mut self.fast, Fading::new(FAST));
        self.slow.sent = (self.slow.sent - fast.sent).max(0.0);
        self.slow.lost = (self.slow.lost - fast.lost).clamp(0.0, self.slow.sent);
    }
}

/// How far a link that lost so many of so many is believed to be lossy.
fn lossy(sent: f64, lost: f64, usual: Usual) -> f64 {
    let excess = (lost - sent * usual.loss.as_f64()).max(0.0);
    // The likelihoods differ by 1 + excess factors, whose middle one stands for all.
    let factor = (sent + USUAL - excess / 2.0) / (sent + LOSSY - excess / 2.0);
    let share = usual.lossy.as_f64();
    let odds = share / (1.0 - share) * LOSSY / USUAL * factor.powf(1.0 + excess);
    if odds.is_finite() { odds / (1.0 + odds) } else { 1.0 }
}

/// A count whose past counts less and less: by `1/e` within `life`.
#[derive(Debug)]
pub(super) struct Fading {
    life: Duration,
    at: Instant,
    sent: f64,
    lost: f64,
}

impl Fading {
    pub(super) const fn new(life: Duration) -> Self {
        Self { life, at: Instant::ZERO, sent: 0.0, lost: 0.0 }
    }

    pub(super) fn add(&mut self, now: Instant, sent: f64, lost: f64) {
        let (old_sent, old_lost) = self.read(now);
        (self.at, self.sent, self.lost) = (now.max(self.at), old_sent + sent, old_lost + lost);
    }

    /// Frames sent and lost that still count.
    pub(super) fn read(&self, now: Instant) -> (f64, f64) {
        let left = (-now.since(self.at).as_secs_f64() / self.life.as_secs_f64()).exp();
        (self.sent * left, self.lost * left)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(sent: f64, lost: f64, usual: f64) -> Loss {
        let mut loss = Loss::new();
        loss.add(Instant::ZERO, sent, lost);
        loss.set_usual(Usual { loss: Ratio::from_f64(usual), ..Usual::default() });
        loss
    }

    fn expected(sent: f64, lost: f64, usual: f64) -> f64 {
        after(sent, lost, usual).expected(Instant::ZERO).as_f64()
    }

    /// What is usual once that has settled, among links that lost so many of forty.
    fn learnt(lost: impl Fn(u32) -> f64) -> Usual {
        let settle = |usual, _| {
            Usual::of((0..100).map(|n| {
                let mut loss = after(40.0, lost(n), 0.0);
                loss.set_usual(usual);
                loss.seen(Instant::ZERO)
            }))
        };
        (0..20).fold(Usual::default(), settle)
    }

    #[test]
    fn a_link_of_which_little_is_known_loses_what_is_usual() {
        assert_eq!(expected(0.0, 0.0, 0.0), 0.0, "nothing is assumed");
        let unknown = expected(0.0, 0.0, 0.002);
        assert!((0.0018..=0.002).contains(&unknown), "{unknown}");
        let known = expected(40.0, 0.0, 0.002);
        assert!((0.0015..0.002).contains(&known), "{known}");
        assert_eq!(after(40.0, 0.0, 0.002).own(Instant::ZERO), Ratio::ZERO, "itself, nothing");
        assert!(expected(10_000.0, 0.0, 0.002) < 1e-4, "its own frames outweigh the others'");
    }

    #[test]
    fn one_lost_frame_of_forty_is_little_and_four_are_a_lossy_link() {
        let one = expected(40.0, 1.0, 0.002);
        assert!((0.003..0.010).contains(&one), "{one}");
        let four = expected(40.0, 4.0, 0.002);
        assert!((0.07..0.10).contains(&four), "{four}");
        for (sent, lost) in [(100.0, 5.0), (1000.0, 50.0), (1e6, 5e4), (1e9, 1e9)] {
            let (found, true_loss) = (expected(sent, lost, 0.0), lost / sent);
            assert!((found / true_loss - 1.0).abs() < 0.15, "{sent} {lost}: {found}");
        }
    }

    #[test]
    fn what_is_usual_is_learnt_from_all_links_but_the_lossy() {
        assert_eq!(Usual::of(std::iter::empty()), Usual::default());
        // Ninety lost one of ten times forty, 0.25 %; ten links lose 10 %.
        let mixed = learnt(|n| if n < 10 { 4.0 } else { f64::from(u8::from(n % 10 == 0)) });
        assert!((0.0015..0.003).contains(&mixed.loss.as_f64()), "{mixed:?}");
        assert!((0.07..0.15).contains(&mixed.lossy.as_f64()), "{mixed:?}");
        let alike = learnt(|n| f64::from(u8::from(n % 10 == 0)));
        assert!((0.002..0.003).contains(&alike.loss.as_f64()), "{alike:?}");
        assert!(alike.lossy.as_f64() < 0.03, "{alike:?}");
        // All of them lossy: so they are expected to be, whatever that is called.
        let all = learnt(|n| f64::from(n % 4));
        let mut loss = after(0.0, 0.0, 0.0);
        loss.set_usual(all);
        assert!(loss.expected(Instant::ZERO).as_f64() < 0.04, "{all:?}");
    }
}
