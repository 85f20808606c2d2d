//! Arithmetic over GF(256), fast on whatever processor runs it.
//!
//! The field is AES's, modulo `x⁸ + x⁴ + x³ + x + 1`: the one that x86's GFNI multiplies in by one
//! instruction. Other processors look products up by half bytes (16 at a time with SSSE3 and NEON,
//! 32 with AVX2; Plank, Greenan, Miller: *Screaming fast Galois field arithmetic*, 2013), and
//! where there is nothing a table answers byte by byte. Which, is found out once, at run time.
//!
//! A [`Kernel`] adds up to four multiples in one pass over the sum, which is what memory traffic
//! wants: encoding a window is mostly loads.

use std::sync::OnceLock;

#[cfg(target_arch = "aarch64")]
mod neon;
#[cfg(target_arch = "x86_64")]
mod x86;

/// The product. Slow: for coefficients, not for packets.
pub const fn mul(a: u8, b: u8) -> u8 {
    PRODUCTS[a as usize][b as usize]
}

/// What times `a` is one; zero for zero.
pub const fn inverse(a: u8) -> u8 {
    INVERSES[a as usize]
}

/// A way to add multiples of byte strings, which this processor can go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kernel(Path);

/// The ways there are. Private: a [`Kernel`] is proof that the processor can.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Path {
    #[cfg(target_arch = "x86_64")]
    GfniAvx512,
    #[cfg(target_arch = "x86_64")]
    GfniAvx2,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Ssse3,
    #[cfg(target_arch = "aarch64")]
    Neon,
    Scalar,
}

impl Kernel {
    /// The plainest, which every processor can go.
    pub const SCALAR: Self = Self(Path::Scalar);

    /// The fastest that this processor can go. Looked up once.
    pub fn best() -> Self {
        static BEST: OnceLock<Kernel> = OnceLock::new();
        *BEST.get_or_init(|| Self::available()[0])
    }

    /// All that this processor can go, fastest first. Never empty: the last is scalar.
    pub fn available() -> Vec<Self> {
        let mut found = Vec::new();
        #[cfg(target_arch = "x86_64")]
        {
            let gfni = is_x86_feature_detected!("gfni");
            let avx2 = is_x86_feature_detected!("avx2");
            let avx512 =
                is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bw");
            if gfni && avx512 {
                found.push(Self(Path::GfniAvx512));
            }
            if gfni && avx2 {
                found.push(Self(Path::GfniAvx2));
            }
            if avx2 {
                found.push(Self(Path::Avx2));
            }
            if is_x86_feature_detected!("ssse3") {
                found.push(Self(Path::Ssse3));
            }
        }
        #[cfg(target_arch = "aarch64")]
        if std::arch::is_aarch64_feature_detected!("neon") {
            found.push(Self(Path::Neon));
        }
        found.push(Self::SCALAR);
        found
    }

    /// Its name, for people and benchmarks.
    pub const fn name(self) -> &'static str {
        match self.0 {
            #[cfg(target_arch = "x86_64")]
            Path::GfniAvx512 => "gfni512",
            #[cfg(target_arch = "x86_64")]
            Path::GfniAvx2 => "gfni256",
            #[cfg(target_arch = "x86_64")]
            Path::Avx2 => "avx2",
            #[cfg(target_arch = "x86_64")]
            Path::Ssse3 => "ssse3",
            #[cfg(target_arch = "aarch64")]
            Path::Neon => "neon",
            Path::Scalar => "scalar",
        }
    }

    /// Adds `coefficient · source` to the front of `sum`. Of a source longer than the sum, the rest
    /// is left out.
    pub fn add(self, sum: &mut [u8], coefficient: u8, source: &[u8]) {
        let len = sum.len().min(source.len());
        self.step(&mut sum[..len], [(coefficient, &source[..len])]);
    }

    /// Adds every `coefficient · source` to the front of `sum`, as if each were [`Kernel::add`]ed.
    pub fn add_all(self, sum: &mut [u8], sources: &[(u8, &[u8])]) {
        for group in sources.chunks(4) {
            match *group {
                [a, b, c, d] => self.together(sum, [a, b, c, d]),
                [a, b, c] => self.together(sum, [a, b, c]),
                [a, b] => self.together(sum, [a, b]),
                _ => group.iter().for_each(|&(c, source)| self.add(sum, c, source)),
            }
        }
    }

    /// Multiplies in place.
    pub fn scale(self, bytes: &mut [u8], coefficient: u8) {
        // x + (c + 1) x = c x, where one kernel does for both.
        if coefficient != 1 {
            let copy = bytes.to_vec();
            self.step(bytes, [(coefficient ^ 1, &copy[..])]);
        }
    }

    /// What all sources have in one pass, what the longer ones have beyond it one by one.
    fn together<const N: usize>(self, sum: &mut [u8], sources: [(u8, &[u8]); N]) {
        let all = sources.iter().fold(sum.len(), |least, (_, source)| least.min(source.len()));
        self.step(&mut sum[..all], sources.map(|(c, source)| (c, &source[..all])));
        for (c, source) in sources {
            if source.len() > all {
                self.add(&mut sum[all..], c, &source[all..]);
            }
        }
    }

    /// One pass. All lengths are equal.
    #[allow(unsafe_code)]
    fn step<const N: usize>(self, sum: &mut [u8], sources: [(u8, &[u8]); N]) {
        match self.0 {
            // SAFETY: a kernel with one of these paths is only made where `available` found the
            // features that the function is compiled for.
            #[cfg(target_arch = "x86_64")]
            Path::GfniAvx512 => unsafe { x86::gfni_avx512(sum, sources) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Path::GfniAvx2 => unsafe { x86::gfni_avx2(sum, sources) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Path::Avx2 => unsafe { x86::avx2(sum, sources) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Path::Ssse3 => unsafe { x86::ssse3(sum, sources) },
            // SAFETY: as above.
            #[cfg(target_arch = "aarch64")]
            Path::Neon => unsafe { neon::neon(sum, sources) },
            Path::Scalar => sources.into_iter().for_each(|(c, source)| scalar(sum, c, source)),
        }
    }
}

fn scalar(sum: &mut [u8], coefficient: u8, source: &[u8]) {
    match coefficient {
        0 => {}
        // Without a table the compiler adds many at once.
        1 => sum.iter_mut().zip(source).for_each(|(s, &x)| *s ^= x),
        c => {
            let row = &PRODUCTS[usize::from(c)];
            sum.iter_mut().zip(source).for_each(|(s, &x)| *s ^= row[usize::from(x)]);
        }
    }
}

/// Bit by bit, for the tables.
const fn product(a: u8, b: u8) -> u8 {
    let (mut a, mut b, mut sum) = (a, b, 0);
    while b != 0 {
        if b & 1 != 0 {
            sum ^= a;
        }
        a = a << 1 ^ if a & 0x80 != 0 { 0x1b } else { 0 };
        b >>= 1;
    }
    sum
}

/// Every product. 64 KiB, of which a pass over a packet touches one row.
static PRODUCTS: [[u8; 256]; 256] = {
    let mut table = [[0; 256]; 256];
    let mut a = 0;
    while a < 256 {
        // Linear: products with the powers of two, and sums of these.
        let mut bit = 1;
        while bit < 256 {
            let with_bit = product(a as u8, bit as u8);
            let mut rest = 0;
            while rest < bit {
                table[a][bit + rest] = table[a][rest] ^ with_bit;
                rest += 1;
            }
            bit <<= 1;
        }
        a += 1;
    }
    table
};

static INVERSES: [u8; 256] = {
    let mut table = [0; 256];
    // 3 generates the field: walk its powers up and its inverse's, 0xf6, beside.
    let (mut up, mut down, mut n) = (1, 1, 0);
    while n < 255 {
        table[up as usize] = down;
        up = product(up, 3);
        down = product(down, 0xf6);
        n += 1;
    }
    table
};

/// Products with the low and with the high half of a byte, for look-ups of 16 entries.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
static HALVES: [([u8; 16], [u8; 16]); 256] = {
    let mut table = [([0; 16], [0; 16]); 256];
    let mut c = 0;
    while c < 256 {
        let mut half = 0;
        while half < 16 {
            table[c].0[half] = PRODUCTS[c][half];
            table[c].1[half] = PRODUCTS[c][half << 4];
            half += 1;
        }
        c += 1;
    }
    table
};

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn products_are_those_of_the_field_of_aes() {
        // FIPS 197, section 4.2.
        assert_eq!(mul(0x57, 0x83), 0xc1);
        assert_eq!(mul(0x57, 0x13), 0xfe);
        for a in 0..=255 {
            for b in 0..=255 {
                assert_eq!(mul(a, b), product(a, b), "{a} × {b}");
            }
        }
    }

    #[test]
    fn what_is_multiplied_by_its_inverse_is_one() {
        assert!((1..=255).all(|a| mul(a, inverse(a)) == 1));
        assert_eq!(inverse(0), 0);
    }

    #[test]
    fn the_last_resort_is_scalar_and_the_best_comes_first() {
        let all = Kernel::available();
        assert_eq!(all[all.len() - 1], Kernel::SCALAR);
        assert_eq!(Kernel::best(), all[0]);
    }

    #[test]
    fn every_path_multiplies_as_the_field_does_with_every_coefficient() {
        let source: Vec<u8> = (0..=255).chain(0..=130).collect();
        for kernel in Kernel::available() {
            for c in 0..=255 {
                let mut sum: Vec<u8> = source.iter().map(|x| x.wrapping_mul(31)).collect();
                let expected: Vec<_> =
                    sum.iter().zip(&source).map(|(&s, &x)| s ^ product(c, x)).collect();
                kernel.add(&mut sum, c, &source);
                assert_eq!(sum, expected, "{} by {c}", kernel.name());
                let mut scaled = source.clone();
                kernel.scale(&mut scaled, c);
                let expected: Vec<_> = source.iter().map(|&x| product(c, x)).collect();
                assert_eq!(scaled, expected, "{} by {c}", kernel.name());
            }
        }
    }

    proptest! {
        #[test]
        fn every_path_gives_what_the_scalar_gives_whatever_the_lengths(
            len in 0..300_usize,
            shift in 0..64_usize,
            sources in proptest::collection::vec(
                (any::<u8>(), proptest::collection::vec(any::<u8>(), 0..320)), 0..10),
        ) {
            // A sum that does not begin where a vector would like it to.
            let start: Vec<u8> = (0..len + shift).map(|n| n as u8).collect();
            let rows: Vec<_> = sources.iter().map(|(c, s)| (*c, &s[..])).collect();
            let mut expected = start.clone();
            for (c, source) in &rows {
                let len = expected[shift..].len().min(source.len());
                scalar(&mut expected[shift..][..len], *c, &source[..len]);
            }
            for kernel in Kernel::available() {
                let mut sum = start.clone();
                kernel.add_all(&mut sum[shift..], &rows);
                prop_assert_eq!(&sum, &expected, "{}", kernel.name());
            }
        }
    }
}
