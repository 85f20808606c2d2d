//! The kernel of AArch64: two look-ups of 16 entries for 16 bytes.

#![allow(unsafe_code)]

use std::arch::aarch64::*;

use super::HALVES;

/// Adds `N` multiples in one pass over the sum. All slices have one length.
#[target_feature(enable = "neon")]
pub(super) fn neon<const N: usize>(sum: &mut [u8], sources: [(u8, &[u8]); N]) {
    const WIDTH: usize = 16;
    let whole = sum.len() / WIDTH * WIDTH;
    assert!(sources.iter().all(|(_, source)| source.len() == sum.len()), "one length");
    let factors = sources.map(|(c, _)| halves(c));
    for at in (0..whole).step_by(WIDTH) {
        // SAFETY: `at + 16 <= whole`, which no slice is shorter than.
        unsafe {
            let place = sum.as_mut_ptr().add(at);
            let mut total = vld1q_u8(place);
            for n in 0..N {
                let x = vld1q_u8(sources[n].1.as_ptr().add(at));
                total = veorq_u8(total, look_up(x, factors[n]));
            }
            vst1q_u8(place, total);
        }
    }
    // Less than a vector is left: by table.
    for (c, source) in sources {
        super::scalar(&mut sum[whole..], c, &source[whole..]);
    }
}

/// A factor as its products with the low half of a byte, and with the high half.
#[inline]
#[target_feature(enable = "neon")]
fn halves(c: u8) -> (uint8x16_t, uint8x16_t) {
    let (low, high) = &HALVES[usize::from(c)];
    // SAFETY: both arrays have 16 bytes.
    unsafe { (vld1q_u8(low.as_ptr()), vld1q_u8(high.as_ptr())) }
}

#[inline]
#[target_feature(enable = "neon")]
fn look_up(x: uint8x16_t, (low, high): (uint8x16_t, uint8x16_t)) -> uint8x16_t {
    let below = vqtbl1q_u8(low, vandq_u8(x, vdupq_n_u8(0x0f)));
    let above = vqtbl1q_u8(high, vshrq_n_u8::<4>(x));
    veorq_u8(below, above)
}
