//! Feedback on the data frames of one hop and lane: what came, what is missing, what was marked.
//!
//! ```text
//! |  0: settled 4  |  4: given_up 4  |  8: clock, 8 µs, 3  |  11: open 2  |  13: delay, 8 µs, 2
//! |  15: base 2  |  17: asked 1 bit, recovered 1, totals 1, bytes of bitmap 5  |  18: bitmap
//! |  then, where its bit says so: ce 2, local_drops 2  |  and: recovered 2 each, 1-16
//! ```
//!
//! `open` numbers lie from `settled` on up to the highest that came; `base` is counted from
//! `settled`. Everything is a total or a state, so that losing one costs nothing; totals of two bytes
//! wrap. It is the frame sent most often beside data, so it is short. The bitmap may start beyond
//! the first gap: on a fast link the newest 256 numbers can tell more than the oldest.

use std::time::Duration;

use super::{Reader, WireError};
use crate::time::{Instant, micros};

/// A feedback frame's body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ack {
    /// Every hop sequence before this one is settled: it came, or is not waited for any more.
    pub settled: u32,
    /// The highest hop sequence that came. `settled − 1` where none is open.
    pub highest: u32,
    /// How long the receiver held this feedback back after `highest` came: it is taken off the
    /// round trip.
    pub delay: Duration,
    /// When `highest` came by the receiver's clock: two of them tell how the way there changed,
    /// whatever feedback met on the way back.
    pub clock: Clock,
    /// How many numbers were passed over without having come, in all (wraps).
    pub given_up: u32,
    /// How many data frames bore the CE mark, in all (wraps).
    pub ce: u16,
    /// How many datagrams the receiver's own kernel dropped on this lane, in all (wraps): not the
    /// link's loss.
    pub local_drops: u16,
    /// Whether it answers a frame that asked for feedback.
    pub asked: bool,
    /// Which numbers from some base on have come.
    pub bitmap: Bitmap,
    /// Of what came lately: what symbols brought because the frame itself did not come.
    pub recovered: Recovered,
}

impl Ack {
    /// The body's size without bitmap.
    pub const HEAD: usize = 18;
    /// The body's greatest size.
    pub const MAX: usize = Self::HEAD + Bitmap::BYTES + 4 + 2 * Recovered::MOST;

    const ASKED: u8 = 0x80;
    const RECOVERED: u8 = 0x40;
    const TOTALS: u8 = 0x20;
    const LENGTH: u8 = 0x1f;
    /// Microseconds in a unit of `delay`: two bytes reach half a second.
    const DELAY_US: u64 = 8;

    /// Reads a body.
    ///
    /// # Errors
    /// Wrong size, reserved bits set, or numbers that contradict each other.
    pub fn parse(bytes: &[u8]) -> Result<Self, WireError> {
        let mut r = Reader::new(bytes);
        let settled = r.u32("settled")?;
        let given_up = r.u32("given_up")?;
        let [a, b, c] = r.array("clock")?;
        let clock = Clock(u32::from_be_bytes([0, a, b, c]));
        let open = u32::from(r.u16("open")?);
        let delay = Duration::from_micros(u64::from(r.u16("delay")?) * Self::DELAY_US);
        let ahead = u32::from(r.u16("base")?);
        let flags = r.u8("flags")?;
        let len = usize::from(flags & Self::LENGTH);
        // No bit speaks of what lies beyond the highest.
        if ahead > open {
            return Err(WireError::Value("base"));
        }
        let (highest, base) =
            (settled.wrapping_add(open).wrapping_sub(1), settled.wrapping_add(ahead));
        let mut bitmap = Bitmap { base, bytes: [0; Bitmap::BYTES], len };
        bitmap.bytes[..len].copy_from_slice(r.bytes(len, "bitmap")?);
        let (mut ce, mut local_drops, mut totals) = (0, 0, 0);
        if flags & Self::TOTALS != 0 {
            (ce, local_drops, totals) = (r.u16("ce")?, r.u16("local_drops")?, 4);
        }
        let mut recovered = Recovered::default();
        if flags & Self::RECOVERED != 0 {
            let rest = bytes.len() - Self::HEAD - len - totals;
            if rest == 0 || rest > 2 * Recovered::MOST {
                return Err(WireError::Value("recovered"));
            }
            for _ in 0..rest.div_ceil(2) {
                recovered.push(r.u16("recovered")?);
            }
        }
        r.end()?;
        let beyond = open - ahead;
        if bitmap.last().is_some_and(|last| last >= beyond) {
            return Err(WireError::Value("bitmap"));
        }
        let asked = flags & Self::ASKED != 0;
        Ok(Self {
            settled,
            highest,
            delay,
            clock,
            given_up,
            ce,
            local_drops,
            asked,
            bitmap,
            recovered,
        })
    }

    /// Appends the body. The caller keeps `highest` and the bitmap's base within
    /// [`Ack::SPAN`] of `settled`.
    pub fn write(&self, out: &mut Vec<u8>) {
        // Rounded down: a round trip may look longer for it, never shorter than it is.
        let delay = micros(self.delay) / Self::DELAY_US;
        let short = |n: u32| u16::try_from(n).unwrap_or(u16::MAX);
        let open = self.highest.wrapping_add(1).wrapping_sub(self.settled);
        out.extend_from_slice(&self.settled.to_be_bytes());
        out.extend_from_slice(&self.given_up.to_be_bytes());
        out.extend_from_slice(&self.clock.0.to_be_bytes()[1..]);
        for word in [
            short(open),
            u16::try_from(delay).unwrap_or(u16::MAX),
            short(self.bitmap.base.wrapping_sub(self.settled)),
        ] {
            out.extend_from_slice(&word.to_be_bytes());
        }
        let asked = if self.asked { Self::ASKED } else { 0 };
        let recovered = if self.recovered.len == 0 { 0 } else { Self::RECOVERED };
        // They are totals: once there is one, each frame tells it.
        let totals = [self.ce, self.local_drops];
        let some = totals.iter().any(|&total| total > 0);
        let flags = asked | recovered | if some { Self::TOTALS } else { 0 };
        out.push(flags | self.bitmap.len as u8);
        out.extend_from_slice(&self.bitmap.bytes[..self.bitmap.len]);
        for total in totals.into_iter().filter(|_| some) {
            out.extend_from_slice(&total.to_be_bytes());
        }
        for behind in self.recovered.behind() {
            out.extend_from_slice(&behind.to_be_bytes());
        }
    }

    /// Whether this number has come, as far as this feedback knows: `None` where it says nothing.
    /// A settled number counts as come; `given_up` says how many did not.
    pub fn came(&self, seq: u32) -> Option<bool> {
        let ahead = seq.wrapping_sub(self.settled);
        if ahead > u32::MAX / 2 {
            return Some(true);
        }
        if ahead == 0 && self.highest.wrapping_add(1) != self.settled {
            return Some(false);
        }
        if seq == self.highest {
            return Some(true);
        }
        if self.highest.wrapping_sub(seq) > Self::SPAN {
            return None;
        }
        self.bitmap.get(seq)
    }

    /// Farthest that `highest` may lie ahead of `settled`.
    pub const SPAN: u32 = u16::MAX as u32;
}

/// A clock's reading in steps of 8 µs, of which 24 bits are kept: it wraps every 134 s. Or the
/// difference of the readings of two clocks that know nothing of each other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Clock(u32);

impl Clock {
    const MASK: u32 = (1 << 24) - 1;

    /// This node's clock.
    pub fn at(now: Instant) -> Self {
        Self((now.as_micros() / Ack::DELAY_US) as u32 & Self::MASK)
    }

    /// How far this reading is from another clock's.
    pub const fn apart(self, other: Self) -> Self {
        Self(self.0.wrapping_sub(other.0) & Self::MASK)
    }

    /// Microseconds from an earlier reading of the same clock to this; within half of what it takes to
    /// wrap, below zero where the other is later.
    pub fn since(self, earlier: Self) -> i64 {
        let steps = (self.apart(earlier).0 << 8).cast_signed() >> 8;
        i64::from(steps) * Ack::DELAY_US.cast_signed()
    }
}

/// A few hop sequences, each as its distance behind the highest that came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recovered {
    behind: [u16; Self::MOST],
    len: usize,
}

impl Default for Recovered {
    fn default() -> Self {
        Self { behind: [0; Self::MOST], len: 0 }
    }
}

impl Recovered {
    /// Most numbers: what one symbol may bring at once.
    pub const MOST: usize = 64;

    /// One more, so far behind the highest. `false` where there is no room.
    pub fn push(&mut self, behind: u16) -> bool {
        let Some(place) = self.behind.get_mut(self.len) else { return false };
        *place = behind;
        self.len += 1;
        true
    }

    /// How far each lies behind the highest.
    pub fn behind(&self) -> impl Iterator<Item = u16> {
        self.behind[..self.len].iter().copied()
    }
}

/// Up to 248 hop sequences from a base on; a set bit has come. Bit 0 is the lowest of byte 0.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Bitmap {
    base: u32,
    bytes: [u8; Self::BYTES],
    len: usize,
}

impl Bitmap {
    /// Most bytes.
    pub const BYTES: usize = 31;
    /// Most numbers.
    pub const BITS: u32 = Self::BYTES as u32 * 8;

    /// A bitmap from `base` on that covers `bits` numbers, rounded up to bytes, capped at
    /// [`Bitmap::BITS`]; none of them has come.
    pub fn new(base: u32, bits: u32) -> Self {
        let len = bits.min(Self::BITS).div_ceil(8) as usize;
        Self { base, bytes: [0; Self::BYTES], len }
    }

    /// The first number it speaks of.
    pub const fn base(&self) -> u32 {
        self.base
    }

    /// How many numbers it speaks of.
    pub const fn bits(&self) -> u32 {
        self.len as u32 * 8
    }

    /// Marks a number as come. Numbers it does not cover are ignored.
    pub fn insert(&mut self, seq: u32) {
        let at = seq.wrapping_sub(self.base);
        if at < self.bits() {
            self.bytes[at as usize / 8] |= 1 << (at % 8);
        }
    }

    /// Whether this number has come; `None` where it is not covered.
    pub fn get(&self, seq: u32) -> Option<bool> {
        let at = seq.wrapping_sub(self.base);
        (at < self.bits()).then(|| self.bytes[at as usize / 8] & 1 << (at % 8) != 0)
    }

    /// The offset from the base of the last set bit.
    fn last(&self) -> Option<u32> {
        (0..self.bits()).rev().find(|&at| self.bytes[at as usize / 8] & 1 << (at % 8) != 0)
    }
}

impl std::fmt::Debug for Bitmap {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}+", self.base)?;
        (0..self.bits()).try_for_each(|at| {
            f.write_str(if self.bytes[at as usize / 8] & 1 << (at % 8) != 0 { "1" } else { "0" })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clocks_wrap_and_count_both_ways() {
        let at = |us| Clock::at(Instant::from_micros(us));
        let turn = 8 << 24;
        assert_eq!(at(turn + 800).since(at(turn - 800)), 1600);
        assert_eq!(at(turn - 800).since(at(turn + 800)), -1600);
        // Two clocks an hour apart: what changes is the way, from 5 ms to 7.
        let way = |sent: u64, took: u64| at(3_600_000_000 + sent + took).apart(at(sent));
        assert_eq!(way(turn - 8, 7_000).since(way(400, 5_000)), 2_000);
    }

    fn ack(settled: u32, highest: u32, came: &[u32]) -> Ack {
        let mut bitmap = Bitmap::new(settled, highest.wrapping_sub(settled).wrapping_add(1));
        came.iter().for_each(|&seq| bitmap.insert(seq));
        Ack {
            settled,
            highest,
            delay: Duration::from_micros(248),
            clock: Clock(7_000_000),
            given_up: 0,
            ce: 0,
            local_drops: 0,
            asked: false,
            bitmap,
            recovered: Recovered::default(),
        }
    }

    fn reparsed(ack: &Ack) -> Result<Ack, WireError> {
        let mut out = Vec::new();
        ack.write(&mut out);
        Ack::parse(&out)
    }

    #[test]
    fn feedback_answers_for_each_number_also_across_the_wrap() {
        for start in [1000, u32::MAX - 2] {
            let seq = |n: u32| start.wrapping_add(n);
            let a = ack(seq(0), seq(5), &[seq(1), seq(3), seq(5)]);
            assert_eq!(reparsed(&a), Ok(a));
            let fate: Vec<_> = (0..7).map(|n| a.came(seq(n))).collect();
            let (yes, no) = (Some(true), Some(false));
            assert_eq!(fate[..6], [no, yes, no, yes, no, yes], "from {start}");
            assert_eq!(a.came(seq(0).wrapping_sub(1)), yes);
            assert_eq!(a.came(seq(300)), None);
        }
    }

    #[test]
    fn nothing_open_is_an_empty_bitmap() {
        let a = ack(8, 7, &[]);
        assert_eq!(a.bitmap.bits(), 0);
        assert_eq!(reparsed(&a), Ok(a));
        assert_eq!((a.came(7), a.came(8)), (Some(true), None));
    }

    #[test]
    fn contradictions_are_refused() {
        let mut beyond = ack(8, 9, &[]);
        beyond.bitmap.insert(10);
        assert_eq!(reparsed(&beyond), Err(WireError::Value("bitmap")));
        let mut before = ack(8, 9, &[]);
        before.bitmap = Bitmap::new(7, 8);
        assert_eq!(reparsed(&before), Err(WireError::Value("base")));
        let mut out = Vec::new();
        ack(8, 9, &[]).write(&mut out);
        let flags = Ack::HEAD - 1;
        out[flags] |= 0x40;
        assert_eq!(Ack::parse(&out), Err(WireError::Value("recovered")), "none follows");
        assert!(Ack::parse(&[&out[..], &[0; 2 * Recovered::MOST]].concat()).is_ok());
        let many = [&out[..], &[0; 2 * Recovered::MOST + 2]].concat();
        assert_eq!(Ack::parse(&many), Err(WireError::Value("recovered")));
        assert!(Ack::parse(&[&out[..], &[0; 3]].concat()).is_err(), "half a number");
        out[flags] = 0x20;
        assert!(Ack::parse(&out).is_err(), "no totals follow");
    }
}
