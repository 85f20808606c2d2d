//! The sender's side: the newest packets, and sums over them.
//!
//! Sources are handles on the bytes that were sent, not copies. A repair is first planned, which
//! tells what it would cost, then written where the caller has room.
//!
//! ```text
//! symbol  |  0: length of the tail 2  |  2: rest of the head 18  |  20: tail, zero-padded to the
//!         |  longest of the window
//! ```

use std::collections::VecDeque;

use bytes::Bytes;

use super::code::{ROWS, coefficient};
use super::gf256::Kernel;
use crate::wire::repair::{Repair, Window};

/// Bytes of a symbol before its tail.
pub const HEAD: usize = Repair::SYMBOL_HEAD;

/// A head, with room that lets a vector take it whole.
const HEAD_ROOM: usize = 32;

/// What an [`Encoder`] keeps at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EncoderLimits {
    /// Sources; never more than [`Window::RUN`].
    pub sources: usize,
    /// Bytes of their tails. They are shared with whoever sent them, but held in memory by us.
    pub bytes: usize,
}

impl Default for EncoderLimits {
    /// The longest window of packets of an Ethernet frame, or shorter ones of larger packets.
    fn default() -> Self {
        Self { sources: Window::RUN as usize, bytes: 1 << 20 }
    }
}

/// What an [`Encoder`] did. Totals.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EncoderStats {
    /// Sources taken in.
    pub sources: u64,
    /// Sources not taken in: behind the newest, or longer than all bytes that may be kept.
    pub refused: u64,
    /// Repair symbols written.
    pub repairs: u64,
}

/// The newest sources of one hop and lane, and repair symbols over them.
#[derive(Debug)]
pub struct Encoder {
    kernel: Kernel,
    limits: EncoderLimits,
    /// Oldest first, sequences ascending, all within [`Window::RUN`] of the newest.
    sources: VecDeque<Source>,
    bytes: usize,
    /// The next repair's key.
    key: u16,
    stats: EncoderStats,
}

#[derive(Debug)]
struct Source {
    seq: u32,
    head: [u8; HEAD_ROOM],
    tail: Bytes,
}

impl Encoder {
    /// Nothing to repair yet.
    pub fn new(limits: EncoderLimits) -> Self {
        Self::with_kernel(limits, Kernel::best())
    }

    /// The same with a kernel of choice, for tests and benchmarks.
    pub fn with_kernel(limits: EncoderLimits, kernel: Kernel) -> Self {
        let sources = limits.sources.clamp(1, Window::RUN as usize);
        Self {
            kernel,
            limits: EncoderLimits { sources, ..limits },
            sources: VecDeque::with_capacity(sources),
            bytes: 0,
            key: 0,
            stats: EncoderStats::default(),
        }
    }

    /// A packet was sent for the first time. The first two bytes of `head` are overwritten by the
    /// tail's length; the rest is the caller's.
    ///
    /// Sequences ascend: one at or behind the newest is refused. The oldest make room.
    pub fn push(&mut self, seq: u32, mut head: [u8; HEAD], tail: Bytes) {
        let in_order = self.newest().is_none_or(|last| seq.wrapping_sub(last) as i32 > 0);
        let length = u16::try_from(tail.len());
        let (true, Ok(length)) = (in_order && tail.len() <= self.limits.bytes, length) else {
            self.stats.refused += 1;
            return;
        };
        head[..2].copy_from_slice(&length.to_be_bytes());
        let mut roomy = [0; HEAD_ROOM];
        roomy[..HEAD].copy_from_slice(&head);
        self.bytes += tail.len();
        self.sources.push_back(Source { seq, head: roomy, tail });
        self.stats.sources += 1;
        while let Some(oldest) = self.sources.front() {
            let fits = self.sources.len() <= self.limits.sources
                && self.bytes <= self.limits.bytes
                && seq.wrapping_sub(oldest.seq) < Window::RUN;
            if fits {
                break;
            }
            self.take_oldest();
        }
    }

    /// Every sequence before this one has come or is not to be repaired any more.
    pub fn forget_before(&mut self, seq: u32) {
        while self.sources.front().is_some_and(|s| (s.seq.wrapping_sub(seq) as i32) < 0) {
            self.take_oldest();
        }
    }

    /// This one has come, or is not to be repaired any more.
    pub fn forget(&mut self, seq: u32) {
        if let Some(at) = self.find(seq)
            && let Some(source) = self.sources.remove(at)
        {
            self.bytes -= source.tail.len();
        }
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.sources.clear();
        self.bytes = 0;
    }

    /// The sequences it holds, oldest first.
    pub fn held(&self) -> impl DoubleEndedIterator<Item = u32> + ExactSizeIterator + '_ {
        self.sources.iter().map(|source| source.seq)
    }

    /// The newest sequence it holds.
    pub fn newest(&self) -> Option<u32> {
        self.sources.back().map(|source| source.seq)
    }

    /// Bytes of the body of a repair over all it holds and one more source with a tail of so many bytes.
    pub fn body_len(&self, more: usize) -> usize {
        let longest = self.sources.iter().map(|source| source.tail.len()).max();
        Repair::LEN + HEAD + longest.unwrap_or_default().max(more)
    }

    /// A repair over the newest `count` of those it holds. Where they have gaps, only over those
    /// within [`Window::SPAN`]. `None` where it holds nothing, or `count` is zero.
    pub fn over_newest(&mut self, count: usize) -> Option<Plan<'_>> {
        let last = self.newest()?;
        let from = self.sources.len().saturating_sub(count);
        let oldest = self.sources.get(from)?.seq;
        let reach = if last.wrapping_sub(oldest) as usize == self.sources.len() - from - 1 {
            Window::RUN
        } else {
            Window::SPAN
        };
        let newest = self.sources.iter().enumerate().skip(from);
        let within = newest.filter(|(_, source)| last.wrapping_sub(source.seq) < reach);
        let places = within.map(|(at, _)| at).collect();
        self.plan(places)
    }

    /// A repair over exactly these sequences, in any order. `None` where there are none, where one
    /// is not held, or where they have gaps and span more than [`Window::SPAN`].
    pub fn over(&mut self, sequences: &[u32]) -> Option<Plan<'_>> {
        let mut chosen = sequences.to_vec();
        let oldest = self.sources.front()?.seq;
        chosen.sort_unstable_by_key(|seq| seq.wrapping_sub(oldest));
        chosen.dedup();
        let places = chosen.into_iter().map(|seq| self.find(seq)).collect::<Option<_>>()?;
        self.plan(places)
    }

    /// Totals.
    pub const fn stats(&self) -> EncoderStats {
        self.stats
    }

    /// Of sources at these places, ascending.
    fn plan(&mut self, places: Vec<usize>) -> Option<Plan<'_>> {
        let seq = |at: usize| self.sources[at].seq;
        let (first, last) = (seq(*places.first()?), seq(*places.last()?));
        let back = last.wrapping_sub(first);
        let window = if back as usize == places.len() - 1 && back < Window::RUN {
            Window::Run(places.len() as u16)
        } else if back < Window::SPAN {
            Window::Mask(places.iter().fold(0, |mask, &at| mask | 1 << last.wrapping_sub(seq(at))))
        } else {
            return None;
        };
        let tail = places.iter().map(|&at| self.sources[at].tail.len()).max()?;
        // One packet is its own sum, whatever the key; keys are kept for those that need them.
        let key = if places.len() == 1 { 0 } else { self.key };
        let head = Repair { last, key, window };
        Some(Plan { encoder: self, head, places, symbol: HEAD + tail })
    }

    fn find(&self, seq: u32) -> Option<usize> {
        let oldest = self.sources.front()?.seq;
        self.sources
            .binary_search_by_key(&seq.wrapping_sub(oldest), |s| s.seq.wrapping_sub(oldest))
            .ok()
    }

    fn take_oldest(&mut self) {
        if let Some(source) = self.sources.pop_front() {
            self.bytes -= source.tail.len();
        }
    }
}

/// A repair that could be sent.
#[derive(Debug)]
pub struct Plan<'a> {
    encoder: &'a mut Encoder,
    head: Repair,
    /// Where the window's sources lie in the encoder.
    places: Vec<usize>,
    symbol: usize,
}

impl Plan<'_> {
    /// The body's head.
    pub const fn head(&self) -> &Repair {
        &self.head
    }

    /// Bytes of the whole body: head and symbol.
    pub const fn body_len(&self) -> usize {
        Repair::LEN + self.symbol
    }

    /// The sequences it is over, oldest first.
    pub fn sequences(&self) -> impl Iterator<Item = u32> + '_ {
        self.places.iter().map(|&at| self.encoder.sources[at].seq)
    }

    /// Writes the body, head and symbol, to `out`, whatever was there.
    ///
    /// # Panics
    /// Where `out` has not just [`Plan::body_len`] bytes.
    pub fn write(self, out: &mut [u8]) -> Repair {
        assert_eq!(out.len(), self.body_len(), "room for a body");
        let Encoder { kernel, sources, key, stats, .. } = self.encoder;
        let (front, symbol) = out.split_at_mut(Repair::LEN);
        front.copy_from_slice(&self.head.to_bytes());
        symbol.fill(0);
        let (head, tail) = symbol.split_at_mut(HEAD);
        let row = |&at: &usize| (coefficient(&self.head, sources[at].seq), &sources[at].tail[..]);
        let mut rows: Vec<(u8, &[u8])> = self.places.iter().map(row).collect();
        kernel.add_all(tail, &rows);
        for (row, &at) in rows.iter_mut().zip(&self.places) {
            row.1 = &sources[at].head;
        }
        let mut heads = [0; HEAD_ROOM];
        kernel.add_all(&mut heads, &rows);
        head.copy_from_slice(&heads[..HEAD]);
        if self.places.len() > 1 {
            *key = (*key + 1) % ROWS;
        }
        stats.repairs += 1;
        self.head
    }

    /// Appends the body to `out`.
    pub fn append(self, out: &mut Vec<u8>) -> Repair {
        let at = out.len();
        out.resize(at + self.body_len(), 0);
        self.write(&mut out[at..])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoder(sequences: impl IntoIterator<Item = u32>) -> Encoder {
        let mut encoder = Encoder::new(EncoderLimits::default());
        for seq in sequences {
            encoder.push(seq, [seq as u8; HEAD], Bytes::from(vec![seq as u8; 5]));
        }
        encoder
    }

    fn window(plan: Option<Plan<'_>>) -> Option<(u32, Window)> {
        plan.map(|plan| (plan.head.last, plan.head.window))
    }

    #[test]
    fn a_repair_over_one_packet_is_the_packet() {
        let mut encoder = encoder([7, 8]);
        let mut out = vec![1, 2, 3];
        encoder.over(&[8]).unwrap().append(&mut out);
        let head = Repair { last: 8, key: 0, window: Window::Run(1) };
        let symbol = [&[0, 5][..], &[8; 18], &[8; 5]].concat();
        assert_eq!(out, [&[1, 2, 3][..], &head.to_bytes(), &symbol].concat());
    }

    #[test]
    fn the_first_sum_is_plain_and_pads_to_the_longest() {
        let mut encoder = Encoder::new(EncoderLimits::default());
        encoder.push(1, [0; HEAD], Bytes::from_static(&[1, 2, 3]));
        encoder.push(2, [9; HEAD], Bytes::from_static(&[4]));
        let mut out = Vec::new();
        let head = encoder.over_newest(2).unwrap().append(&mut out);
        assert_eq!(head, Repair { last: 2, key: 0, window: Window::Run(2) });
        assert_eq!(out[Repair::LEN..], [&[0, 3 ^ 1][..], &[9; 18], &[1 ^ 4, 2, 3]].concat());
        assert_eq!(encoder.over_newest(2).unwrap().head().key, 1, "every sum has another key");
    }

    #[test]
    fn windows_are_runs_where_they_can_be_and_masks_where_they_must() {
        let mut e = encoder((0..600).map(|n: u32| n.wrapping_sub(550)));
        let all: Vec<_> = e.held().collect();
        assert_eq!((all.len(), all[0], all[511]), (512, u32::MAX - 461, 49));
        assert_eq!(window(e.over_newest(1000)), Some((49, Window::Run(512))));
        assert_eq!(window(e.over_newest(3)), Some((49, Window::Run(3))));
        assert_eq!(window(e.over_newest(0)), None);
        e.forget(48);
        assert_eq!(window(e.over_newest(2)), Some((49, Window::Mask(0b101))));
        assert_eq!(window(e.over_newest(1000)), Some((49, Window::Mask(!2))));
        assert_eq!(window(e.over(&[2, u32::MAX, 2])), Some((2, Window::Mask(0b1001))));
        assert_eq!(window(e.over(&[0, u32::MAX])), Some((0, Window::Run(2))));
        assert_eq!(window(e.over(&[49, 17])), None, "too far apart");
        assert_eq!(window(e.over(&[48])), None, "not held");
        e.forget_before(40);
        assert_eq!(window(e.over(&[39])), None);
        assert_eq!(e.held().next(), Some(40));
    }

    #[test]
    fn it_keeps_no_more_than_it_may_and_refuses_what_lies_behind() {
        let limits = EncoderLimits { sources: 4, bytes: 100 };
        let mut encoder = Encoder::new(limits);
        let push = |e: &mut Encoder, seq, len| e.push(seq, [0; HEAD], Bytes::from(vec![0; len]));
        (0..9).for_each(|seq| push(&mut encoder, seq, 10));
        assert_eq!(encoder.held().collect::<Vec<_>>(), [5, 6, 7, 8]);
        push(&mut encoder, 9, 85);
        assert_eq!(encoder.held().collect::<Vec<_>>(), [8, 9]);
        push(&mut encoder, 9, 1);
        push(&mut encoder, 10, 101);
        assert_eq!(encoder.stats(), EncoderStats { sources: 10, refused: 2, repairs: 0 });
        push(&mut encoder, 521, 1);
        assert_eq!(encoder.held().collect::<Vec<_>>(), [521], "the rest is out of every reach");
    }
}
