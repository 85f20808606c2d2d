//! The receiver's side: what came, what is missing, and what repair symbols say about it.
//!
//! The newest packets are kept as long as a window may still ask for them. A repair symbol, less
//! what came of its window, is an equation in what did not. Equations are kept solved as far as
//! they go (reduced row echelon form), so a packet comes out with the first symbol that determines
//! it, and a symbol over a window without loss costs a few comparisons.
//!
//! Frames authenticate before they come here; what is wrong all the same (a peer that lies) costs
//! its own packets at most, and is counted.

use std::collections::VecDeque;

use bytes::BytesMut;

use super::code::coefficient;
use super::encoder::HEAD;
use super::gf256::{self, Kernel};
use crate::wire::repair::{Repair, Window};

/// What a [`Decoder`] keeps at most, and how it hands out what it recovered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DecoderLimits {
    /// How far behind the newest sequence a repaired one may lie: a power of two, 512 to 4096.
    pub span: usize,
    /// Bytes of the packets kept; the oldest go first.
    pub bytes: usize,
    /// Equations; the oldest goes first.
    pub equations: usize,
    /// The longest symbol. A longer one is refused.
    pub symbol: usize,
    /// Zero bytes before each recovered tail: room for the headers of the frame it becomes again.
    pub room: usize,
}

impl Default for DecoderLimits {
    /// Twice the longest window, and more equations than its losses are at any rate worth coding.
    fn default() -> Self {
        Self { span: 1024, bytes: 2 << 20, equations: 64, symbol: 16 << 10, room: 0 }
    }
}

/// A packet that was lost, computed from repair symbols.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recovered {
    /// Its hop sequence.
    pub seq: u32,
    /// Its head; the first two bytes are the tail's length.
    pub head: [u8; HEAD],
    /// [`DecoderLimits::room`] zero bytes, then its tail.
    pub bytes: BytesMut,
}

/// What a [`Decoder`] did. Totals.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DecoderStats {
    /// Repair symbols taken in.
    pub repairs: u64,
    /// Packets recovered.
    pub recovered: u64,
    /// Repair symbols over windows without loss.
    pub idle: u64,
    /// Repair symbols and equations that said nothing new.
    pub redundant: u64,
    /// Repair symbols over packets that are not kept any more.
    pub late: u64,
    /// Repair symbols over packets too far ahead.
    pub ahead: u64,
    /// Equations that made room for newer ones, or whose packets were forgotten.
    pub dropped: u64,
    /// Repair symbols and equations that contradict what came, or the form of a symbol.
    pub malformed: u64,
    /// Packets that were not taken in: too old, or too long for a symbol.
    pub refused: u64,
}

/// What one hop and lane received lately, and what can be computed from it.
#[derive(Debug)]
pub struct Decoder {
    kernel: Kernel,
    limits: DecoderLimits,
    /// The packet with this sequence, at the sequence modulo the span.
    slots: Box<[Slot]>,
    /// Bytes of all slots, as allocated.
    bytes: usize,
    /// The lowest sequence still kept, and the highest heard of; `None` before the first.
    kept: Option<(u32, u32)>,
    /// Oldest first. No pivot occurs in two.
    equations: VecDeque<Equation>,
    recovered: VecDeque<Recovered>,
    stats: DecoderStats,
}

/// A packet as a symbol, or nothing.
#[derive(Debug, Default)]
struct Slot {
    held: bool,
    symbol: Vec<u8>,
}

/// `sum of coefficients · unknown packets = symbol`.
#[derive(Debug)]
struct Equation {
    /// By place: sequence modulo the span. Zero for all that came.
    coefficients: Box<[u8]>,
    /// A place with coefficient one, where all other equations have zero.
    pivot: usize,
    symbol: Vec<u8>,
}

impl Decoder {
    /// Nothing came yet.
    pub fn new(limits: DecoderLimits) -> Self {
        Self::with_kernel(limits, Kernel::best())
    }

    /// The same with a kernel of choice, for tests and benchmarks.
    pub fn with_kernel(limits: DecoderLimits, kernel: Kernel) -> Self {
        let span = limits.span.clamp(Window::RUN as usize, 4096).next_power_of_two();
        let equations = limits.equations.clamp(1, span);
        Self {
            kernel,
            limits: DecoderLimits { span, equations, ..limits },
            slots: (0..span).map(|_| Slot::default()).collect(),
            bytes: 0,
            kept: None,
            equations: VecDeque::new(),
            recovered: VecDeque::new(),
            stats: DecoderStats::default(),
        }
    }

    /// A packet came for the first time. The first two bytes of `head` are overwritten by the
    /// tail's length; the rest is the caller's, and must be what the sender's encoder was given.
    pub fn on_source(&mut self, seq: u32, head: [u8; HEAD], tail: &[u8]) {
        let Ok(length) = u16::try_from(tail.len()) else {
            self.stats.refused += 1;
            return;
        };
        if HEAD + tail.len() > self.limits.symbol || !self.reach(seq) {
            self.stats.refused += 1;
            return;
        }
        let at = self.place(seq);
        let slot = &mut self.slots[at];
        if slot.held {
            return;
        }
        let before = slot.symbol.capacity();
        slot.symbol.clear();
        // What a much longer packet left is not kept for short ones.
        if before > 4 * (HEAD + tail.len()).max(512) {
            slot.symbol = Vec::new();
        }
        slot.symbol.reserve_exact(HEAD + tail.len());
        slot.symbol.extend_from_slice(&length.to_be_bytes());
        slot.symbol.extend_from_slice(&head[2..]);
        slot.symbol.extend_from_slice(tail);
        slot.held = true;
        self.bytes = self.bytes - before + slot.symbol.capacity();
        self.learn(at);
        self.settle();
        self.shrink();
    }

    /// A repair symbol came. What it determines is asked for by [`Decoder::poll_recovered`].
    pub fn on_repair(&mut self, repair: &Repair, symbol: &[u8]) {
        self.stats.repairs += 1;
        if symbol.len() < HEAD || symbol.len() > self.limits.symbol {
            self.stats.malformed += 1;
            return;
        }
        if let Some((lowest, highest)) = self.kept {
            if is_before(repair.first(), lowest) {
                self.stats.late += 1;
                return;
            }
            let ahead = repair.last.wrapping_sub(highest) as i32;
            if ahead >= self.limits.span as i32 {
                self.stats.ahead += 1;
                return;
            }
        }
        self.reach(repair.last);
        if repair.sequences().all(|seq| self.slots[self.place(seq)].held) {
            self.stats.idle += 1;
            return;
        }
        if let Some(equation) = self.equation(repair, symbol) {
            self.reduce(equation);
            self.settle();
            self.shrink();
        }
    }

    /// Sequences before this one are not waited for any more, and no window to come has them.
    pub fn forget_before(&mut self, seq: u32) {
        let Some((lowest, highest)) = self.kept else { return };
        if !is_before(lowest, seq) {
            return;
        }
        let gone = seq.wrapping_sub(lowest);
        if gone >= self.limits.span as u32 {
            self.stats.dropped += self.equations.len() as u64;
            self.equations.clear();
            self.slots.iter_mut().for_each(|slot| slot.held = false);
        } else {
            for old in 0..gone {
                let at = self.place(lowest.wrapping_add(old));
                if !self.slots[at].held {
                    self.give_up(at);
                }
                self.slots[at].held = false;
            }
        }
        let highest = if is_before(highest, seq) { seq } else { highest };
        self.kept = Some((seq, highest));
    }

    /// A packet that was lost and is here all the same.
    pub fn poll_recovered(&mut self) -> Option<Recovered> {
        self.recovered.pop_front()
    }

    /// Whether this sequence can still be recovered: it has not come and is not forgotten.
    pub fn misses(&self, seq: u32) -> bool {
        self.kept.is_some_and(|(lowest, highest)| {
            !is_before(seq, lowest) && !is_before(highest, seq) && !self.slots[self.place(seq)].held
        })
    }

    /// Totals.
    pub const fn stats(&self) -> DecoderStats {
        self.stats
    }

    /// Bytes of memory that grow with what came.
    pub fn memory(&self) -> usize {
        let equations = self.equations.iter().map(|e| e.symbol.capacity() + e.coefficients.len());
        self.bytes + equations.sum::<usize>()
    }

    fn place(&self, seq: u32) -> usize {
        seq as usize & (self.limits.span - 1)
    }

    /// Makes this sequence one of those kept; `false` where it is too old for that.
    fn reach(&mut self, seq: u32) -> bool {
        let span = self.limits.span as u32;
        let Some((lowest, highest)) = self.kept else {
            // What was before may still be repaired; most of it came before anyone looked.
            self.kept = Some((seq.wrapping_sub(span - 1), seq));
            return true;
        };
        if is_before(highest, seq) {
            let lowest_now = seq.wrapping_sub(span - 1);
            if is_before(lowest, lowest_now) {
                self.forget_before(lowest_now);
            }
            self.kept = self.kept.map(|(lowest, _)| (lowest, seq));
            return true;
        }
        !is_before(seq, lowest)
    }

    /// The symbol less all that came of its window. `None` where these do not fit together.
    fn equation(&mut self, repair: &Repair, symbol: &[u8]) -> Option<Equation> {
        let mut known: Vec<(u8, &[u8])> = Vec::with_capacity(repair.window.count() as usize);
        let mut coefficients = vec![0; self.limits.span].into_boxed_slice();
        for seq in repair.sequences() {
            let at = self.place(seq);
            let factor = coefficient(repair, seq);
            if self.slots[at].held {
                known.push((factor, &self.slots[at].symbol));
            } else {
                coefficients[at] = factor;
            }
        }
        if known.iter().any(|(_, source)| source.len() > symbol.len()) {
            self.stats.malformed += 1;
            return None;
        }
        let mut symbol = symbol.to_vec();
        self.kernel.add_all(&mut symbol, &known);
        Some(Equation { coefficients, pivot: 0, symbol })
    }

    /// Takes an equation among the others, or drops it where it says nothing new.
    fn reduce(&mut self, mut new: Equation) {
        for old in &self.equations {
            new.subtract(self.kernel, old, new.coefficients[old.pivot]);
        }
        if !new.choose_pivot(self.kernel) {
            self.count_empty(&new);
            return;
        }
        for old in &mut self.equations {
            old.subtract(self.kernel, &new, old.coefficients[new.pivot]);
        }
        if self.equations.len() == self.limits.equations {
            self.equations.pop_front();
            self.stats.dropped += 1;
        }
        self.equations.push_back(new);
    }

    /// What lies at this place came: it is no unknown any more.
    fn learn(&mut self, at: usize) {
        let mut orphan = None;
        for (n, equation) in self.equations.iter_mut().enumerate() {
            let factor = std::mem::take(&mut equation.coefficients[at]);
            if factor != 0 {
                equation.add(self.kernel, factor, &self.slots[at].symbol);
                if equation.pivot == at {
                    orphan = Some(n);
                }
            }
        }
        // At most one had it as its pivot; it needs another.
        if let Some(orphan) = orphan.and_then(|n| self.equations.remove(n)) {
            self.reduce(orphan);
        }
    }

    /// What lies at this place never comes: the equations that need it lose one of their number,
    /// which the others are freed with.
    fn give_up(&mut self, at: usize) {
        let pivot = |e: &Equation| e.pivot == at;
        let with = |e: &Equation| e.coefficients[at] != 0;
        let found = self.equations.iter().position(pivot);
        let found = found.or_else(|| self.equations.iter().position(with));
        let Some(mut lost) = found.and_then(|n| self.equations.remove(n)) else { return };
        lost.pivot_on(self.kernel, at);
        for equation in &mut self.equations {
            equation.subtract(self.kernel, &lost, equation.coefficients[at]);
        }
        self.stats.dropped += 1;
    }

    /// Takes out every packet that is determined.
    fn settle(&mut self) {
        while let Some(n) = self.equations.iter().position(Equation::is_solved) {
            let Some(Equation { pivot, symbol, .. }) = self.equations.remove(n) else { return };
            let length = usize::from(u16::from_be_bytes([symbol[0], symbol[1]]));
            let padding = symbol.get(HEAD + length..);
            let (Some(&head), Some((lowest, _))) = (symbol.first_chunk(), self.kept) else {
                return;
            };
            if !padding.is_some_and(|bytes| bytes.iter().all(|&b| b == 0)) {
                self.stats.malformed += 1;
                continue;
            }
            let ahead = pivot.wrapping_sub(lowest as usize) & (self.limits.span - 1);
            let seq = lowest.wrapping_add(ahead as u32);
            let mut bytes = BytesMut::zeroed(self.limits.room);
            bytes.extend_from_slice(&symbol[HEAD..HEAD + length]);
            let slot = &mut self.slots[pivot];
            self.bytes = self.bytes - slot.symbol.capacity() + symbol.capacity();
            slot.symbol = symbol;
            slot.symbol.truncate(HEAD + length);
            slot.held = true;
            self.stats.recovered += 1;
            if self.recovered.len() == self.limits.span {
                self.recovered.pop_front();
            }
            self.recovered.push_back(Recovered { seq, head, bytes });
        }
    }

    /// An equation without unknowns: agreement or contradiction.
    fn count_empty(&mut self, equation: &Equation) {
        if equation.symbol.iter().all(|&b| b == 0) {
            self.stats.redundant += 1;
        } else {
            self.stats.malformed += 1;
        }
    }

    /// Lets the oldest packets go until the rest fits.
    fn shrink(&mut self) {
        if self.bytes <= self.limits.bytes {
            return;
        }
        for slot in self.slots.iter_mut().filter(|slot| !slot.held) {
            self.bytes -= std::mem::take(&mut slot.symbol).capacity();
        }
        while self.bytes > self.limits.bytes
            && let Some((lowest, highest)) = self.kept
            && lowest != highest
        {
            let at = self.place(lowest);
            self.forget_before(lowest.wrapping_add(1));
            self.bytes -= std::mem::take(&mut self.slots[at].symbol).capacity();
        }
    }
}

impl Equation {
    /// Adds a multiple of a symbol, the shorter of both padded.
    fn add(&mut self, kernel: Kernel, factor: u8, symbol: &[u8]) {
        if self.symbol.len() < symbol.len() {
            self.symbol.resize(symbol.len(), 0);
        }
        kernel.add(&mut self.symbol, factor, symbol);
    }

    /// Adds a multiple of another equation: in this field that is subtraction.
    fn subtract(&mut self, kernel: Kernel, other: &Self, factor: u8) {
        if factor != 0 {
            kernel.add(&mut self.coefficients, factor, &other.coefficients);
            self.add(kernel, factor, &other.symbol);
        }
    }

    /// Chooses an unknown to stand for this equation; `false` where it has none.
    fn choose_pivot(&mut self, kernel: Kernel) -> bool {
        // Most are zero: whole words first.
        let is_zero = |word: &&[u8]| word.iter().fold(0, |any, c| any | c) == 0;
        let zeros = self.coefficients.chunks(32).take_while(is_zero).count() * 32;
        let rest = self.coefficients.get(zeros..).unwrap_or_default();
        let found = rest.iter().position(|&c| c != 0).map(|at| zeros + at);
        if let Some(at) = found {
            self.pivot_on(kernel, at);
        }
        found.is_some()
    }

    /// Makes the coefficient here, which is not zero, one.
    fn pivot_on(&mut self, kernel: Kernel, at: usize) {
        let factor = gf256::inverse(self.coefficients[at]);
        kernel.scale(&mut self.coefficients, factor);
        kernel.scale(&mut self.symbol, factor);
        self.pivot = at;
    }

    fn is_solved(&self) -> bool {
        self.coefficients.iter().filter(|&&c| c != 0).count() == 1
    }
}

/// Serial number arithmetic (RFC 1982).
const fn is_before(a: u32, b: u32) -> bool {
    (a.wrapping_sub(b) as i32) < 0
}

#[cfg(test)]
mod tests;
