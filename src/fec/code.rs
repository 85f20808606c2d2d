//! Which coefficient a source has in a repair symbol.
//!
//! Both ends compute it from the symbol's key and the source's hop sequence, so it is part of the
//! wire format. Key 0 is the plain sum. The others are rows of Cauchy matrices, `1 / (x + y)` with
//! `x` from the key and `y` from the sequence: with the plain sum, any 129 keys from one matrix over
//! one window of up to 128 sequences are MDS, that is, *k* symbols always repair *k* losses, where
//! random coefficients fail one time in 255. Over windows that differ, chance rules as it does
//! there.

use super::gf256;

/// How many keys in a row, from 0, are independent over one window.
pub const ROWS: u16 = 129;

/// The coefficient of the source `seq` in a repair symbol with this key. Never zero.
///
/// For key 0 it is one. Else, with `m = (key − 1) div 128`, it is the inverse in GF(256) of
/// `(128 + key mod 128) xor (seq · (2 m + 1) mod 128)`.
pub const fn coefficient(key: u16, seq: u32) -> u8 {
    if key == 0 {
        return 1;
    }
    let matrix = ((key - 1) / 128) as u8;
    let x = 0x80 | key as u8;
    let y = (seq as u8).wrapping_mul(matrix.wrapping_mul(2).wrapping_add(1)) & 0x7f;
    gf256::inverse(x ^ y)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_coefficients_are_those_both_ends_agreed_on() {
        assert_eq!(coefficient(0, 7), 1);
        let row = |key: u16| [0, 1, 2, 127, 128, u32::MAX].map(|seq| coefficient(key, seq));
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
        assert!((0..0x8000).all(|key| (0..128).all(|seq| coefficient(key, seq) != 0)));
    }

    #[test]
    fn any_three_keys_over_one_window_repair_any_three_losses() {
        // Determinants of 3 × 3; the general case is Cauchy's.
        let m = |key, seq| coefficient(key, seq);
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
