//! Which numbers have been seen: a sliding window that grows with the rate.
//!
//! A fixed window is either wasteful or too short: 8,192 bits are 16 ms at 500,000 packets/s, and
//! what repair saves after that would be thrown away as too old. This one starts at 2¹⁰ bits and
//! doubles, up to 2¹⁸, whenever it was crossed faster than late packets may take.
//!
//! Source: RFC 6479 (a ring of words instead of shifts).

use std::time::Duration;

use crate::time::Instant;

/// What a number is to the window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Not seen before: now it is.
    New,
    /// Seen before.
    Duplicate,
    /// So far behind that nobody can tell.
    TooOld,
}

/// Memory that a group of windows may still take to grow, in bits.
#[derive(Clone, Copy, Debug)]
pub struct Allowance(pub usize);

/// A sliding window over numbers that mostly grow.
#[derive(Clone, Debug)]
pub struct Window {
    words: Vec<u64>,
    /// One past the highest number seen; zero before the first.
    end: u64,
    /// Numbers below are refused: they were behind a window that has grown since.
    floor: u64,
    /// When, and at which end, the present lap began.
    lap: (Instant, u64),
}

/// Bits of a new window.
pub const MIN_BITS: usize = 1 << 10;
/// Bits no window exceeds.
pub const MAX_BITS: usize = 1 << 18;
/// How late a packet may be and still count: a long deadline plus the skew of two paths.
pub const LATE: Duration = Duration::from_millis(500);

impl Default for Window {
    fn default() -> Self {
        Self::new()
    }
}

impl Window {
    /// A window that has seen nothing.
    pub fn new() -> Self {
        let words = vec![0; MIN_BITS / 64];
        Self { words, end: 0, floor: 0, lap: (Instant::ZERO, 0) }
    }

    /// How many numbers it covers.
    pub fn bits(&self) -> usize {
        self.words.len() * 64
    }

    /// Bits it has taken to grow.
    pub fn grown(&self) -> usize {
        self.bits() - MIN_BITS
    }

    /// What this number would be. Changes nothing: for use before authentication.
    pub fn check(&self, number: u64) -> Verdict {
        if number == u64::MAX {
            // No end lies behind it. An honest counter does not get here.
            Verdict::TooOld
        } else if number >= self.end {
            Verdict::New
        } else if number < self.floor || self.end - number > self.bits() as u64 {
            Verdict::TooOld
        } else if self.words[self.word(number)] & bit(number) != 0 {
            Verdict::Duplicate
        } else {
            Verdict::New
        }
    }

    /// Marks an authentic number as seen. The window may take from `spare` to grow.
    pub fn accept(&mut self, number: u64, now: Instant, spare: &mut Allowance) -> Verdict {
        let verdict = self.check(number);
        if verdict != Verdict::New {
            return verdict;
        }
        if number >= self.end {
            self.advance(number, now, spare);
        }
        let word = self.word(number);
        self.words[word] |= bit(number);
        Verdict::New
    }

    /// Moves the end behind `number` and forgets what falls out at the other side.
    fn advance(&mut self, number: u64, now: Instant, spare: &mut Allowance) {
        if self.end == 0 {
            self.lap = (now, number);
        } else if number - self.lap.1.min(number) >= self.bits() as u64 {
            // A whole window has gone by: was that too fast for a late packet?
            let bits = self.bits();
            if now.since(self.lap.0) < LATE && bits < MAX_BITS && spare.0 >= bits {
                spare.0 -= bits;
                self.grow();
            }
            self.lap = (now, number);
        }
        let first = self.end / 64 + u64::from(!self.end.is_multiple_of(64));
        let last = number / 64;
        let span = (last + 1).saturating_sub(first).min(self.words.len() as u64);
        for word in (last + 1 - span)..=last {
            let place = (word % self.words.len() as u64) as usize;
            self.words[place] = 0;
        }
        self.end = number.saturating_add(1);
        // The ring is cleared by whole words, so the oldest word may already be reused.
        let behind = (last + 1).saturating_sub(self.words.len() as u64) * 64;
        self.floor = self.floor.max(behind);
    }

    /// Doubles the ring. What the old one had forgotten stays refused.
    fn grow(&mut self) {
        let old = self.words.len() as u64;
        let last = (self.end - 1) / 64;
        let first = (last + 1).saturating_sub(old);
        let mut words = vec![0; self.words.len() * 2];
        for word in first..=last {
            words[(word % (old * 2)) as usize] = self.words[(word % old) as usize];
        }
        self.floor = self.floor.max(first * 64);
        self.words = words;
    }

    fn word(&self, number: u64) -> usize {
        (number / 64 % self.words.len() as u64) as usize
    }
}

const fn bit(number: u64) -> u64 {
    1 << (number % 64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    fn ms(ms: u64) -> Instant {
        Instant::from_micros(ms * 1000)
    }

    #[test]
    fn late_is_taken_once_and_too_late_not_at_all() {
        let mut spare = Allowance(0);
        let mut window = Window::new();
        let mut accept = |n| window.accept(n, ms(1), &mut spare);
        assert_eq!(accept(5), Verdict::New);
        assert_eq!(accept(3), Verdict::New);
        assert_eq!(accept(3), Verdict::Duplicate);
        assert_eq!(accept(5000), Verdict::New);
        assert_eq!(accept(4999), Verdict::New);
        assert_eq!(accept(5), Verdict::TooOld);
        assert_eq!(accept(u64::MAX - 1), Verdict::New);
        assert_eq!(accept(u64::MAX - 1), Verdict::Duplicate);
    }

    #[test]
    fn the_last_number_is_never_taken() {
        assert_eq!(Window::new().accept(u64::MAX, ms(1), &mut Allowance(0)), Verdict::TooOld);
    }

    #[test]
    fn a_fast_stream_gets_a_window_as_long_as_late_packets_need() {
        let mut spare = Allowance(MAX_BITS);
        let mut window = Window::new();
        for n in 0..400_000_u64 {
            window.accept(n, Instant::from_micros(n * 2), &mut spare);
        }
        assert_eq!(window.bits(), MAX_BITS);
        assert_eq!(spare.0, MAX_BITS - (MAX_BITS - MIN_BITS));
        let mut slow = Window::new();
        for n in 0..10_000 {
            slow.accept(n, ms(n), &mut spare);
        }
        assert_eq!(slow.bits(), MIN_BITS);
    }

    #[test]
    fn without_memory_left_a_window_stays_small() {
        let mut spare = Allowance(MIN_BITS);
        let mut window = Window::new();
        for n in 0..100_000 {
            assert_eq!(window.accept(n, ms(n / 1000), &mut spare), Verdict::New);
        }
        assert_eq!((window.bits(), spare.0), (2 * MIN_BITS, 0));
    }

    proptest! {
        /// Against a set that forgets nothing: a number is never taken twice, everything new near
        /// the top is taken, and growing invents nothing.
        #[test]
        fn the_window_agrees_with_a_set(
            steps in prop::collection::vec((0_u64..3, 0_u64..2500, 0_u64..40), 1..600),
            memory in 0_usize..100_000,
        ) {
            let mut spare = Allowance(memory);
            let mut window = Window::new();
            let mut seen = BTreeSet::new();
            let (mut top, mut now) = (0_u64, 0);
            for (how, jump, wait) in steps {
                now += wait;
                let number = match how {
                    0 => top + jump % 70,
                    1 => top + jump,
                    _ => top.saturating_sub(jump),
                };
                top = top.max(number);
                let bits = window.bits() as u64;
                let verdict = window.accept(number, ms(now), &mut spare);
                match verdict {
                    Verdict::New => prop_assert!(seen.insert(number)),
                    Verdict::Duplicate => prop_assert!(seen.contains(&number)),
                    Verdict::TooOld => prop_assert!(top - number >= bits / 2 - 64),
                }
            }
        }
    }
}
