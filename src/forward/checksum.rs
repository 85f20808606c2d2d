//! The Internet checksum (RFC 1071): ones' complement sums over slices, eight bytes at a time.

/// The ones' complement sum of `bytes`, not folded to the end and not complemented. An odd last
/// byte counts as if a zero followed, so only the last slice of a sum may be odd.
pub fn sum(bytes: &[u8], initial: u64) -> u64 {
    // 32-bit words into 64 bits cannot overflow below 2^32 words, far beyond any packet.
    let mut total = initial;
    let mut chunks = bytes.chunks_exact(8);
    for chunk in &mut chunks {
        let word = u64::from_be_bytes([
            chunk[0], chunk[1], chunk[2], chunk[3], chunk[4], chunk[5], chunk[6], chunk[7],
        ]);
        total += (word >> 32) + (word & 0xffff_ffff);
    }
    for pair in chunks.remainder().chunks(2) {
        total += u64::from(pair[0]) << 8 | pair.get(1).map_or(0, |&low| u64::from(low));
    }
    total
}

/// Folds a sum to 16 bits.
pub fn fold(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// A checksum as it stands in a packet, after one 16-bit word of that has become another (RFC 1624,
/// equation 3).
pub fn replace(checksum: u16, old: u16, new: u16) -> u16 {
    !fold(u64::from(!checksum) + u64::from(!old) + u64::from(new))
}

/// The sum of the pseudo header (RFC 9293 section 3.1, RFC 8200 section 8.1): `addresses` are
/// source and destination as they lie in the packet.
pub fn pseudo(addresses: &[u8], protocol: u8, length: usize) -> u64 {
    sum(addresses, u64::from(protocol) + length as u64)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn naive(bytes: &[u8]) -> u16 {
        let mut total = 0u32;
        for pair in bytes.chunks(2) {
            total += u32::from(pair[0]) * 256 + u32::from(*pair.get(1).unwrap_or(&0));
            total = (total & 0xffff) + (total >> 16);
        }
        total as u16
    }

    proptest! {
        #[test]
        fn one_word_replaced_sums_like_all_summed_anew(
            mut words in proptest::collection::vec(1..u16::MAX, 2..20), new in 1..u16::MAX, at: usize,
        ) {
            let bytes = |w: &[u16]| w.iter().flat_map(|w| w.to_be_bytes()).collect::<Vec<_>>();
            let before = !fold(sum(&bytes(&words), 0));
            let at = at % words.len();
            let old = std::mem::replace(&mut words[at], new);
            prop_assert_eq!(fold(sum(&bytes(&words), u64::from(replace(before, old, new)))), 0xffff);
        }

        #[test]
        fn eight_bytes_at_a_time_sum_like_two(
            bytes in proptest::collection::vec(any::<u8>(), 0..3000),
        ) {
            prop_assert_eq!(fold(sum(&bytes, 0)), naive(&bytes));
        }
    }
}
