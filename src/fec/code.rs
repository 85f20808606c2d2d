//! Which coefficient a source has in a repair symbol.
//!
//! Both ends compute it from the symbol's key and the source's hop sequence, so it is part of the
//! wire format. Key 0 is the plain sum. The others are rows of Cauchy matrices, `1 / (x + y)` with
//! `x` from the key and `y` from the sequence: with the plain sum, any 129 keys from one matrix over
//! one window of up to 128 sequences are MDS, that is, *k* symbols always repair *k* losses, where
//! random coefficients fail one time in 255. Over windows that differ, chance rules as it does
//! there. There are no more than 128 such `y`, so windows that span more take their coefficients from
//! a hash of both.

use super::gf256;
use crate::wire::repair::Repair;

/// The longest span of a window over which coefficients are Cauchy's.
pub const NEAR: u32 = 128;

/// The coefficient of the source `seq` in the repair symbol with this head. Never zero.
pub const fn coefficient(head: &Repair, seq: u32) -> u8 {
    if head.window.span() > NEAR { far(head.key, seq) } else { near(head.key, seq) }
}

/// How many keys in a row, from 0, are independent over one window.
pub const ROWS: u16 = 129;

/// The coefficient where the window spans at most [`NEAR`] sequences.
///
/// For key 0 it is one. Else, with `m = (key − 1) div 128`, it is the inverse in GF(256) of
/// `(128 + key mod 128) xor (seq · (2 m + 1) mod 128)`.
const fn near(key: u16, seq: u32) -> u8 {
    if key == 0 {
        return 1;
    }
    let matrix = ((key - 1) / 128) as u8;
    let x = 0x80 | key as u8;
    let y = (seq as u8).wrapping_mul(matrix.wrapping_mul(2).wrapping_add(1)) & 0x7f;
    gf256::inverse(x ^ y)
}

/// The coefficient in longer windows: one more than the remainder by 255 of the last step of
/// MurmurHash3 (Appleby, public domain) over `seq xor key · 0x9e3779b1`.
const fn far(key: u16, seq: u32) -> u8 {
    let mut h = seq ^ (key as u32).wrapping_mul(0x9e37_79b1);
    h = (h ^ h >> 16).wrapping_mul(0x85eb_ca6b);
    h = (h ^ h >> 13).wrapping_mul(0xc2b2_ae35);
    ((h ^ h >> 16) % 255) as u8 + 1
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::repair::Window;

    #[test]
    fn the_coefficients_are_those_both_ends_agreed_on() {
        assert_eq!(near(0, 7), 1);
        let row = |key: u16| [0, 1, 2, 127, 128, u32::MAX].map(|seq| near(key, seq));
        assert_eq!(row(1), GOLDEN[0]);
        assert_eq!(row(128), GOLDEN[1]);
        assert_eq!(row(129), GOLDEN[2]);
        assert_eq!(row(0x7fff), GOLDEN[3]);
    }

    const GOLDEN: [[u8; 6]; 4] = [
        [126, 131, 128, 65, 126, 65],
        [131, 126, 127, 28, 131, 28],
        [126, 127, 86, 205, 126, 205],
        [28, 131, 126, 65, 28, 65],
    ];

    #[test]
    fn no_coefficient_is_zero() {
        assert!((0..0x8000).all(|key| (0..128).all(|seq| near(key, seq) != 0)));
        assert!((0..0x8000).all(|key| (0..1024).all(|seq| far(key, seq) != 0)));
    }

    #[test]
    fn windows_longer_than_a_matrix_take_the_hash() {
        let head = |count| Repair { last: 300, key: 9, window: Window::Run(count) };
        assert_eq!(coefficient(&head(128), 290), near(9, 290));
        assert_eq!(coefficient(&head(129), 290), far(9, 290));
        assert_eq!([(1, 0), (1, 128), (9, 290), (0x7fff, u32::MAX)].map(|(k, s)| far(k, s)), FAR);
        // In a matrix these two would be one.
        let differ = (1..1000).filter(|&key| far(key, 5) != far(key, 5 + 128)).count();
        assert!(differ > 980, "{differ}");
    }

    const FAR: [u8; 4] = [253, 131, 241, 253];

    #[test]
    fn any_three_keys_over_one_window_repair_any_three_losses() {
        // Determinants of 3 × 3; the general case is Cauchy's.
        let m = |key, seq| near(key, seq);
        let mul = gf256::mul;
        for (a, b, c) in [(0, 1, 2), (0, 64, 128), (5, 6, 127), (3, 99, 128)] {
            for p in 0..40 {
                for q in p + 1..50 {
                    for r in q + 1..64 {
                        let minor = |s, t| mul(m(b, s), m(c, t)) ^ mul(m(b, t), m(c, s));
                        let whole = mul(m(a, p), minor(q, r))
                            ^ mul(m(a, q), minor(p, r))
                            ^ mul(m(a, r), minor(p, q));
                        assert_ne!(whole, 0, "keys {a} {b} {c}, losses {p} {q} {r}");
                    }
                }
            }
        }
    }
}
