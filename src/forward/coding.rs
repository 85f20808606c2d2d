//! Repair in advance, for packets that no news of their loss could save.
//!
//! Where a packet's time is shorter than a round (there, feedback, and there again), it is a *source
//! symbol*: repair symbols over the newest such packets follow it, as many as the line's loss and
//! the class's residual ask for (`fec::plan`), evenly spaced. All flows of a lane share them. While
//! the line loses nothing there are none.
//!
//! Where the flow pauses, the packets at its tail would have to do with fewer symbols than those
//! before them: what they lack is sent when the next packet is overdue. Holes in time swallow the
//! symbols that follow a packet closely; only those after it help. So the window is reckoned in
//! holes, and where no symbol could come after a hole in time, none is sent.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use bytes::Bytes;

use super::arq::{LossModel, Terms};
use crate::fec::{Decoder, DecoderLimits, Encoder, EncoderLimits, Plan, Recovered, plan};
use crate::id::Class;
use crate::time::{Deadline, Instant, micros};
use crate::wire::data::END;
use crate::wire::header::RouteHeader;
use crate::wire::repair::{Repair, Window};

/// Most symbols for each packet: a third of all bytes, the bound that all repair shares.
pub(super) const MOST: f64 = 0.5;
/// Sources in a symbol where packets follow each other closely, and the time between packets that each
/// more must find: adding one takes about 50 ns (`docs/decisions/code.md`), one packet in four to six has
/// a symbol, so symbols take some per cent of the time.
const NEAR: usize = 64;
const ADDING: Duration = Duration::from_nanos(200);
/// Steps between source symbols that their mean is over, about.
const STEPS: u32 = 32;
/// Symbols that a tail takes at most.
const TAIL: u32 = 3;
/// Rates kept. One takes up to a millisecond to compute.
const RATES: usize = 256;
/// Symbols that leave more than this share of the losses are not worth their bytes.
const WORTH: f64 = 0.5;

/// How a source symbol is to be covered.
#[derive(Clone, Copy, Debug)]
pub(super) struct CodeTerms {
    /// When it must be there, by the sender's clock and with the way, and which share may fail.
    pub(super) terms: Terms,
    /// Symbols for each packet, at most; up to [`MOST`].
    pub(super) most: f64,
}

/// The sender's side of a hop's code.
#[derive(Debug, Default)]
pub(super) struct Coder {
    encoder: Option<Box<Encoder>>,
    /// Source symbols with the last moment at which a symbol over them comes in time: no more than the
    /// encoder holds.
    live: VecDeque<(u32, Instant)>,
    /// Symbols owed.
    owed: f64,
    /// The same by the class of ours whose packets asked for them: who owes most pays for the next.
    accounts: BTreeMap<Option<Class>, f64>,
    /// The class of the newest source symbol.
    newest: Option<Class>,
    /// Of the newest packet: symbols sent after it, and how many it should have.
    covered: (u32, u32),
    /// Mean time between source symbols, of late. The sender's own is between all frames: only where all
    /// are coded is it the same.
    spacing: Option<Duration>,
    /// Steps that it is over, up to [`STEPS`].
    steps: u32,
    pushed_at: Option<Instant>,
    tail_at: Option<Instant>,
    rates: BTreeMap<(u8, u8, u8), f64>,
}

impl Coder {
    /// A packet that is a source symbol was sent, of this class where it is ours. `head`, `tail`: see
    /// [`symbol_of`]; `terms`: when it must be there, how surely, and for how many symbols at most;
    /// `one_way`: what the line takes.
    pub(super) fn push(
        &mut self,
        now: Instant,
        (seq, class): (u32, Option<Class>),
        (head, tail): ([u8; Repair::SYMBOL_HEAD], Bytes),
        coded: CodeTerms,
        one_way: Duration,
        line: &LossModel,
    ) {
        let terms = coded.terms;
        let until = terms.by.minus(one_way);
        let slack = until.since(now);
        if let Some(last) = self.pushed_at.replace(now) {
            let step = now.since(last).min(Duration::from_secs(1));
            let mean = self.spacing.unwrap_or(step);
            self.steps = (self.steps + 1).min(STEPS);
            self.spacing = Some((mean * (self.steps - 1) + step) / self.steps);
        }
        let encoder =
            self.encoder.get_or_insert_with(|| Box::new(Encoder::new(EncoderLimits::default())));
        encoder.push(seq, head, tail);
        self.live.push_back((seq, until));
        while self.live.len() > encoder.held().len() {
            self.live.pop_front();
        }
        let rate = self.rate(line, slack, &coded);
        self.owe(class, rate);
        self.newest = class;
        self.covered = (0, tail_symbols(line, slack, terms.target, rate));
        // The next packet is overdue after half as long again, and there is no hurry where there is time:
        // most packets come in clusters. But late symbols help nobody.
        let spacing = self.spacing.unwrap_or(slack);
        let patience = (spacing + spacing / 2).max(slack / 4).max(Duration::from_millis(1));
        let latest = slack.saturating_sub(Duration::from_micros(500));
        self.tail_at = (rate > 0.0).then(|| now.plus(patience.min(latest)));
    }

    /// Whether a symbol is due now.
    pub(super) fn owes(&mut self, now: Instant) -> bool {
        while self.live.front().is_some_and(|&(_, until)| until < now) {
            self.live.pop_front();
        }
        let Some(encoder) = &mut self.encoder else { return false };
        let Some(&(oldest, _)) = self.live.front() else {
            encoder.clear();
            self.accounts.clear();
            (self.owed, self.tail_at) = (0.0, None);
            return false;
        };
        encoder.forget_before(oldest);
        if self.tail_at.is_some_and(|at| at <= now) {
            self.tail_at = None;
            let (sent, wanted) = self.covered;
            self.owe(self.newest, (f64::from(wanted.saturating_sub(sent)) - self.owed).max(0.0));
        }
        self.owed >= 1.0
    }

    /// A symbol that is due now, and the class of ours on whose account it is; ask until there is none.
    /// The caller writes it, or leaves it: it is not asked for again.
    pub(super) fn poll_symbol(&mut self, now: Instant) -> Option<(Option<Class>, Plan<'_>)> {
        if !self.owes(now) {
            return None;
        }
        let widest = self.widest();
        let encoder = self.encoder.as_mut()?;
        self.owed -= 1.0;
        self.covered.0 += 1;
        let payer = self.accounts.iter_mut().max_by(|a, b| a.1.total_cmp(b.1));
        let payer = payer.and_then(|(class, account)| {
            *account -= 1.0;
            *class
        });
        Some((payer, encoder.over_newest(self.live.len().min(widest))?))
    }

    /// Bytes of the body of a symbol over what is coded now and a frame of so many bytes.
    pub(super) fn body_len(&self, frame: usize) -> usize {
        let tail = frame.saturating_sub(END);
        self.encoder
            .as_ref()
            .map_or(Repair::LEN + Repair::SYMBOL_HEAD + tail, |encoder| encoder.body_len(tail))
    }

    fn owe(&mut self, class: Option<Class>, symbols: f64) {
        let symbols = symbols.min(f64::from(TAIL) + 1.0 - self.owed);
        self.owed += symbols;
        *self.accounts.entry(class).or_default() += symbols;
    }

    /// When a tail's symbols are due.
    pub(super) fn poll_timeout(&self) -> Option<Deadline> {
        self.tail_at.map(|at| Deadline { at, why: "tail symbols" })
    }

    /// Sources that a symbol is over at most.
    fn widest(&self) -> usize {
        let spacing = self.spacing.unwrap_or_default();
        (spacing.as_nanos() / ADDING.as_nanos()).clamp(NEAR as u128, u128::from(Window::RUN))
            as usize
    }

    /// Symbols for each packet that has `slack` for them to follow it: the last step of `fec::plan`, kept
    /// by coarse steps of what it depends on. Zero where none are needed, or none help.
    pub(super) fn rate(&mut self, line: &LossModel, slack: Duration, coded: &CodeTerms) -> f64 {
        let CodeTerms { terms: Terms { target, .. }, most } = *coded;
        let loss = line.rate();
        let spacing = micros(self.spacing.unwrap_or(slack)).max(1);
        let window = (1 + micros(slack) / spacing).min(self.widest() as u64);
        if loss <= target {
            return 0.0;
        }
        let hole = micros(line.hole()) as f64 / spacing as f64;
        if hole >= 1.0 {
            return against_holes(loss, hole, window as f64, target, most);
        }
        // A sixteenth of an octave, always against us; windows by quarters of one.
        let loss_step = (-loss.log2() * 16.0).floor().clamp(0.0, 255.0);
        let window_step = ((window.max(1) as f64).log2() * 4.0).floor();
        let target_step = (-target.log10() * 8.0).ceil().clamp(0.0, 255.0);
        let key = (loss_step as u8, window_step as u8, target_step as u8);
        if let Some(&rate) = self.rates.get(&key) {
            return rate.min(most);
        }
        if self.rates.len() >= RATES {
            self.rates.clear();
        }
        let (loss, window) = (2_f64.powf(-loss_step / 16.0), 2_f64.powf(window_step / 4.0));
        let target = 10_f64.powf(-target_step / 8.0);
        let rate = plan::rate(loss, window as usize, target).unwrap_or(MOST).min(MOST);
        self.rates.insert(key, rate);
        rate.min(most)
    }
}

/// Symbols for each packet on a line that loses in holes of `hole` packets' length on average.
///
/// After a hole of `b` packets, `rate · (window − b)` symbols come while its first packet has time: they
/// bring all where they are `b` or more. Holes with exponential lengths leave the share
/// `(1 + x) e^(−x)` of what they swallow in those that are longer, `x` being the longest that is
/// mended over the mean. Zero where even `most` mends less than half.
fn against_holes(loss: f64, hole: f64, window: f64, target: f64, most: f64) -> f64 {
    let left = |rate: f64| {
        let x = rate * window / ((1.0 + rate) * hole);
        loss * (1.0 + x) * (-x).exp()
    };
    if left(most) > loss * WORTH {
        return 0.0;
    }
    let steps = (1..=32).map(|n| most * f64::from(n) / 32.0);
    steps.into_iter().find(|&rate| left(rate) <= target).unwrap_or(most)
}

/// How many symbols the last packet of a burst of traffic wants, alone.
fn tail_symbols(line: &LossModel, slack: Duration, target: f64, rate: f64) -> u32 {
    let loss = line.rate();
    if rate <= 0.0 || loss <= target {
        return 0;
    }
    let again = line.again(slack / 2).clamp(1e-6, 0.95);
    let wanted = (target / loss).ln() / again.ln();
    (wanted.ceil() as u32).clamp(1, TAIL)
}

/// What the next node needs to have a frame that was sent with this open route header.
pub(super) fn symbol_of(
    route: &[u8; RouteHeader::LEN],
    frame: &Bytes,
) -> ([u8; Repair::SYMBOL_HEAD], Bytes) {
    (symbol_head(route), frame.slice(END..))
}

/// The head of a frame's symbol: its route header but for the sequence and what each sending says
/// for itself.
fn symbol_head(route: &[u8; RouteHeader::LEN]) -> [u8; Repair::SYMBOL_HEAD] {
    let mut route = *route;
    RouteHeader::patch_hop(&mut route, 0, false, false);
    let mut head = [0; Repair::SYMBOL_HEAD];
    head[2..].copy_from_slice(&route[4..]);
    head
}

/// The receiver's side of a hop's code.
#[derive(Debug)]
pub(super) struct Uncoder {
    decoder: Decoder,
    /// When source symbols came: by them it is known how long a recovered one was missed.
    came: VecDeque<(u32, Instant)>,
    /// The newest of them.
    newest: Option<u32>,
}

/// Arrivals remembered: as many as the decoder keeps.
const CAME: usize = 1024;
/// A source symbol this far behind the newest is not simply late: the receiver's window ends here.
const ASTRAY: u32 = 1 << 16;

impl Uncoder {
    /// Nothing has come.
    pub(super) fn new() -> Self {
        let limits = DecoderLimits { room: END, ..DecoderLimits::default() };
        Self { decoder: Decoder::new(limits), came: VecDeque::new(), newest: None }
    }

    /// A source symbol came: a data frame, its route header open.
    pub(super) fn on_source(
        &mut self,
        now: Instant,
        seq: u32,
        route: &[u8; RouteHeader::LEN],
        frame: &[u8],
    ) {
        let (head, tail) = (symbol_head(route), frame.get(END..).unwrap_or_default());
        let refused = self.decoder.stats().refused;
        self.decoder.on_source(seq, head, tail);
        let ahead = self.newest.is_none_or(|newest| newest.wrapping_sub(seq) >= ASTRAY);
        if ahead && self.decoder.stats().refused > refused {
            // The decoder lives in another part of the numbers: a symbol led it astray, or half of them
            // passed by without a source symbol.
            *self = Self::new();
            self.decoder.on_source(seq, head, tail);
        }
        if ahead {
            self.newest = Some(seq);
        }
        if self.came.len() == CAME {
            self.came.pop_front();
        }
        self.came.push_back((seq, now));
    }

    /// A repair symbol came. Returns how many it showed to fit nothing that came.
    pub(super) fn on_repair(&mut self, repair: &Repair, symbol: &[u8]) -> u64 {
        let refused = |decoder: &Decoder| {
            let stats = decoder.stats();
            stats.malformed + stats.late + stats.ahead
        };
        let before = refused(&self.decoder);
        self.decoder.on_repair(repair, symbol);
        refused(&self.decoder) - before
    }

    /// A frame that was lost, with its route header as it was sent, and for how long it was missed.
    pub(super) fn poll_recovered(
        &mut self,
        now: Instant,
    ) -> Option<(Recovered, [u8; RouteHeader::LEN], Duration)> {
        let recovered = self.decoder.poll_recovered()?;
        let mut route = [0; RouteHeader::LEN];
        route[..4].copy_from_slice(&recovered.seq.to_be_bytes());
        route[4..].copy_from_slice(&recovered.head[2..]);
        // It would have come just before the first that came after it.
        let after = |seq: u32| seq.wrapping_sub(recovered.seq).wrapping_sub(1) < 1 << 31;
        let next = self.came.iter().filter(|(seq, _)| after(*seq)).map(|&(_, at)| at).min();
        Some((recovered, route, next.map_or(Duration::ZERO, |at| now.since(at))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    fn at(n: u64) -> Instant {
        Instant::ZERO.plus(ms(n))
    }

    fn line(every: u64) -> LossModel {
        let mut line = LossModel::default();
        for n in 0..8000 {
            line.on_fate(Instant::from_micros(n * 1000), every > 0 && n % every == 0);
        }
        line
    }

    /// Symbols over packets sent each millisecond that have 20 ms.
    fn symbols(line: &LossModel, packets: u64) -> (Coder, u32) {
        let (mut coder, mut sent) = (Coder::default(), 0);
        for n in 0..packets {
            let terms = Terms { by: at(n + 30), target: 1e-4, twice: false };
            let symbol = ([0; Repair::SYMBOL_HEAD], Bytes::from_static(&[7; 100]));
            coder.push(
                at(n),
                (n as u32, None),
                symbol,
                CodeTerms { terms, most: MOST },
                ms(10),
                line,
            );
            while coder.poll_symbol(at(n)).is_some() {
                sent += 1;
            }
        }
        (coder, sent)
    }

    #[test]
    fn a_clean_line_gets_no_symbols_and_a_lossy_one_what_the_residual_asks_for() {
        assert_eq!(symbols(&line(0), 1000).1, 0);
        let sent = symbols(&line(20), 1000).1;
        assert!((240..330).contains(&sent), "5 % lost, 20 packets of time: {sent} a thousand");
    }

    #[test]
    fn no_more_is_remembered_than_symbols_can_be_over() {
        let (line, mut coder) = (line(20), Coder::default());
        let most = EncoderLimits::default().sources;
        for n in 0..10_000 {
            let terms = Terms { by: Instant::FAR, target: 1e-4, twice: false };
            let symbol = ([0; Repair::SYMBOL_HEAD], Bytes::from_static(&[7; 100]));
            coder.push(at(0), (n, None), symbol, CodeTerms { terms, most: MOST }, ms(10), &line);
            assert!(coder.live.len() <= most);
        }
        assert_eq!(coder.live.back().map(|live| live.0), Some(9_999), "the newest");
        assert_eq!(coder.live.len(), most);
    }

    #[test]
    fn a_decoder_led_astray_comes_back_with_the_next_source_symbol() {
        // By a symbol from nowhere, and by half of all numbers without a source symbol.
        for (astray, back) in [(1 << 30, 5_u32), (7, 7 + (1 << 31) + 9)] {
            let mut uncoder = Uncoder::new();
            let mut encoder = Encoder::new(EncoderLimits::default());
            let route = |seq: u32| {
                let mut route = [0; RouteHeader::LEN];
                route[..4].copy_from_slice(&seq.to_be_bytes());
                route
            };
            let frame = Bytes::from_static(&[9; END + 40]);
            uncoder.on_source(at(0), astray, &route(astray), &frame);
            uncoder.newest = (astray == 7).then_some(7);
            for seq in [back, back.wrapping_add(1)] {
                let (head, tail) = symbol_of(&route(seq), &frame);
                encoder.push(seq, head, tail);
            }
            uncoder.on_source(at(1), back, &route(back), &frame);
            let mut body = Vec::new();
            encoder.over_newest(2).unwrap().append(&mut body);
            let (repair, symbol) = Repair::parse(&body).unwrap();
            assert_eq!(uncoder.on_repair(&repair, symbol), 0);
            let (recovered, _, _) = uncoder.poll_recovered(at(1)).expect("it is solved");
            assert_eq!(recovered.seq, back.wrapping_add(1));
            assert_eq!(uncoder.on_repair(&Repair { last: back ^ 1 << 29, ..repair }, symbol), 1);
        }
    }

    #[test]
    fn a_tail_is_covered_without_waiting_for_the_next_packet() {
        let (mut coder, _) = symbols(&line(20), 101);
        let due = coder.poll_timeout().expect("the tail waits");
        assert!(due.at > at(100) && due.at <= at(106), "{due:?}");
        let mut more = 0;
        while coder.poll_symbol(due.at).is_some() {
            more += 1;
        }
        assert!((1..=3).contains(&more), "{more}");
        assert!(coder.poll_timeout().is_none());
        assert!(coder.poll_symbol(at(200)).is_none(), "too late for everybody");
    }
}
