//! What is news of a link: that it left the band around what was said of it, or became much worse.

use crate::quality::{LinkQuality, LinkState};
use crate::time::micros;
use crate::topology::lsa::LsaLink;
use crate::unit::Ratio;

/// Whether what is said now differs enough from what was said to be said again.
pub(super) fn left_band(said: &LsaLink, now: &LsaLink) -> bool {
    state_left(said.outward.as_ref(), now.outward.as_ref())
        || state_left(said.inward.as_ref(), now.inward.as_ref())
}

fn state_left(said: Option<&LinkState>, now: Option<&LinkState>) -> bool {
    let (said, now) = match (said, now) {
        (Some(said), Some(now)) => (said, now),
        (said, now) => return said.is_some() != now.is_some(),
    };
    let expected = match (&said.expected, &now.expected) {
        (Some(a), Some(b)) => quality_left(a, b),
        (a, b) => a.is_some() != b.is_some(),
    };
    let residual = match (said.residual, now.residual) {
        (Some(a), Some(b)) => loss_left(a, b),
        (a, b) => a.is_some() != b.is_some(),
    };
    // A forecast counts from a half, so crossing that is news; else a fifth of confidence is.
    let trusted = |s: &LinkState| s.confidence.as_ppm() >= TRUSTED_PPM;
    let confidence = said.confidence.as_ppm().abs_diff(now.confidence.as_ppm()) > 200_000;
    quality_left(&said.present, &now.present)
        || expected
        || residual
        || trusted(said) != trusted(now)
        || confidence
        || said.price != now.price
}

/// Whether a link is so much worse than it was said to be, either way, that paths are left for it: what a
/// user would call a fault, and beyond what a reading may be off by chance.
pub(super) fn much_worse(said: &LsaLink, now: &LsaLink) -> bool {
    let worse = |said: Option<LinkState>, now: Option<LinkState>| {
        said.zip(now).is_some_and(|(said, now)| {
            let (was, is) = (decides(&said), decides(&now));
            let (was_us, is_us) = (micros(was.delay), micros(is.delay));
            is_us > was_us.saturating_add((was_us / WORSE_DIVISOR).max(WORSE_US))
                || is.loss.as_ppm() > was.loss.as_ppm().saturating_mul(2).saturating_add(WORSE_PPM)
        })
    };
    worse(said.outward, now.outward) || worse(said.inward, now.inward)
}

/// What others judge a path by: the forecast where it is trusted, else the present.
fn decides(state: &LinkState) -> LinkQuality {
    state.expected.filter(|_| state.confidence.as_ppm() >= TRUSTED_PPM).unwrap_or(state.present)
}

/// A link is much worse by this part of its delay and by this much one way (a quarter and 10 ms of a
/// round trip), µs.
const WORSE_DIVISOR: u64 = 4;
const WORSE_US: u64 = 5_000;
/// Or by twice its loss and this much: one lost probe of an idle link makes 4.5 % of nothing.
const WORSE_PPM: u32 = 50_000;
/// A forecast counts from this confidence.
const TRUSTED_PPM: u32 = 500_000;

/// Delay: 3 % and half a millisecond one way, the band within which a level is one level. Jitter
/// decides less: half of it and 2 ms.
fn quality_left(said: &LinkQuality, now: &LinkQuality) -> bool {
    let (delay, jitter) = (micros(said.delay), micros(said.jitter));
    micros(now.delay).abs_diff(delay) > (delay / 33).max(500)
        || micros(now.jitter).abs_diff(jitter) > (jitter / 2).max(2_000)
        || loss_left(said.loss, now.loss)
}

/// A third of the loss, and at least 0.3 %.
fn loss_left(said: Ratio, now: Ratio) -> bool {
    now.as_ppm().abs_diff(said.as_ppm()) > (said.as_ppm() / 3).max(3_000)
}
