//! The kernels of x86-64: one instruction a product with GFNI, two look-ups without.
//!
//! Each function adds `N` multiples in one pass over the sum. All slices of a call have one length.

#![allow(unsafe_code)]

use std::arch::x86_64::*;

use super::HALVES;

/// Writes a kernel: whole vectors, then what is left by way of padded copies.
///
/// The closing part runs at most once a call, on less than a vector.
macro_rules! kernel {
    ($(#[$doc:meta])* $name:ident, $features:literal, $vector:ty, $load:ident, $store:ident,
     $xor:ident, $prepare:ident, $multiply:ident) => {
        $(#[$doc])*
        #[target_feature(enable = $features)]
        pub(super) fn $name<const N: usize>(sum: &mut [u8], sources: [(u8, &[u8]); N]) {
            const WIDTH: usize = size_of::<$vector>();
            let whole = sum.len() / WIDTH * WIDTH;
            assert!(sources.iter().all(|(_, source)| source.len() == sum.len()), "one length");
            let factors = sources.map(|(c, _)| $prepare(c));
            for at in (0..whole).step_by(WIDTH) {
                // SAFETY: `at + WIDTH <= whole`, which no slice is shorter than; no alignment is
                // asked for.
                unsafe {
                    let place = sum.as_mut_ptr().add(at).cast();
                    let mut total = $load(place as *const _);
                    for n in 0..N {
                        let x = $load(sources[n].1.as_ptr().add(at).cast());
                        total = $xor(total, $multiply(x, &factors[n]));
                    }
                    $store(place, total);
                }
            }
            let left = &mut sum[whole..];
            if left.is_empty() {
                return;
            }
            let mut padded = [0_u8; WIDTH];
            padded[..left.len()].copy_from_slice(left);
            // SAFETY: the arrays have just the size of a vector.
            unsafe {
                let mut total = $load(padded.as_ptr().cast());
                for n in 0..N {
                    let mut x = [0_u8; WIDTH];
                    x[..left.len()].copy_from_slice(&sources[n].1[whole..]);
                    total = $xor(total, $multiply($load(x.as_ptr().cast()), &factors[n]));
                }
                $store(padded.as_mut_ptr().cast(), total);
            }
            left.copy_from_slice(&padded[..left.len()]);
        }
    };
}

kernel!(
    /// Two look-ups of 16 entries for 16 bytes.
    ssse3, "ssse3", __m128i, _mm_loadu_si128, _mm_storeu_si128, _mm_xor_si128,
    halves_16, look_up_16
);
kernel!(
    /// Two look-ups of 16 entries for 32 bytes.
    avx2, "avx2", __m256i, _mm256_loadu_si256, _mm256_storeu_si256, _mm256_xor_si256,
    halves_32, look_up_32
);
kernel!(
    /// One multiplication for 32 bytes.
    gfni_avx2, "gfni,avx2", __m256i, _mm256_loadu_si256, _mm256_storeu_si256, _mm256_xor_si256,
    spread_32, multiply_32
);

/// One multiplication for 64 bytes; what is left over is masked.
#[target_feature(enable = "gfni,avx512f,avx512bw")]
pub(super) fn gfni_avx512<const N: usize>(sum: &mut [u8], sources: [(u8, &[u8]); N]) {
    const WIDTH: usize = 64;
    let whole = sum.len() / WIDTH * WIDTH;
    assert!(sources.iter().all(|(_, source)| source.len() == sum.len()), "one length");
    let factors = sources.map(|(c, _)| _mm512_set1_epi8(c as i8));
    for at in (0..whole).step_by(WIDTH) {
        // SAFETY: `at + 64 <= whole`, which no slice is shorter than; no alignment is asked for.
        unsafe {
            let place = sum.as_mut_ptr().add(at).cast();
            let mut total = _mm512_loadu_si512(place as *const _);
            for n in 0..N {
                let x = _mm512_loadu_si512(sources[n].1.as_ptr().add(at).cast());
                total = _mm512_xor_si512(total, _mm512_gf2p8mul_epi8(x, factors[n]));
            }
            _mm512_storeu_si512(place, total);
        }
    }
    let left = sum.len() - whole;
    if left == 0 {
        return;
    }
    let mask = u64::MAX >> (WIDTH - left);
    // SAFETY: the mask has `left` bits, so no byte beyond `whole + left`, where every slice ends,
    // is read or written.
    unsafe {
        let place = sum.as_mut_ptr().add(whole).cast();
        let mut total = _mm512_maskz_loadu_epi8(mask, place as *const _);
        for n in 0..N {
            let x = _mm512_maskz_loadu_epi8(mask, sources[n].1.as_ptr().add(whole).cast());
            total = _mm512_xor_si512(total, _mm512_gf2p8mul_epi8(x, factors[n]));
        }
        _mm512_mask_storeu_epi8(place, mask, total);
    }
}

/// A factor as its products with the low half of a byte, and with the high half.
#[inline]
#[target_feature(enable = "ssse3")]
fn halves_16(c: u8) -> (__m128i, __m128i) {
    let (low, high) = &HALVES[usize::from(c)];
    // SAFETY: both arrays have 16 bytes.
    unsafe { (_mm_loadu_si128(low.as_ptr().cast()), _mm_loadu_si128(high.as_ptr().cast())) }
}

#[inline]
#[target_feature(enable = "ssse3")]
fn look_up_16(x: __m128i, (low, high): &(__m128i, __m128i)) -> __m128i {
    let half = _mm_set1_epi8(0x0f);
    let below = _mm_shuffle_epi8(*low, _mm_and_si128(x, half));
    let above = _mm_shuffle_epi8(*high, _mm_and_si128(_mm_srli_epi64(x, 4), half));
    _mm_xor_si128(below, above)
}

/// As [`halves_16`], twice.
#[inline]
#[target_feature(enable = "avx2")]
fn halves_32(c: u8) -> (__m256i, __m256i) {
    let (low, high) = halves_16(c);
    (_mm256_broadcastsi128_si256(low), _mm256_broadcastsi128_si256(high))
}

#[inline]
#[target_feature(enable = "avx2")]
fn look_up_32(x: __m256i, (low, high): &(__m256i, __m256i)) -> __m256i {
    let half = _mm256_set1_epi8(0x0f);
    let below = _mm256_shuffle_epi8(*low, _mm256_and_si256(x, half));
    let above = _mm256_shuffle_epi8(*high, _mm256_and_si256(_mm256_srli_epi64(x, 4), half));
    _mm256_xor_si256(below, above)
}

#[inline]
#[target_feature(enable = "avx2")]
fn spread_32(c: u8) -> __m256i {
    _mm256_set1_epi8(c as i8)
}

#[inline]
#[target_feature(enable = "gfni,avx2")]
fn multiply_32(x: __m256i, factor: &__m256i) -> __m256i {
    _mm256_gf2p8mul_epi8(x, *factor)
}
