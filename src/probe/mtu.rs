//! Finds the longest datagram that a link carries: asks with frames padded to a size, and takes an answer
//! for the proof that this size came through (RFC 8899, datagram packetization layer path MTU discovery).
//!
//! ```text
//!   longest we send asked ── answered ─────────────────────────────► settled
//!      │ not answered                                                 │  ▲ confirmed; now and then
//!      ▼                                                              │  │ the longest is asked again
//!   base, then halves between answered and not ── none left ─────────┼──┘
//!      ▲                                                              ▼
//!      └── black hole ◄── not answered ◄── what is settled is asked: by the clock, or where frames are lost
//!      └── black hole ◄── this machine refuses a datagram as too long
//! ```
//!
//! No answer means no more than that this size was lost, so each is asked several times, more often on
//! a lossy line. A number that is too low costs some speed and is corrected when the longest is asked
//! again; one that is too high is found by the loss of what is long. Messages of routers (ICMP) are not
//! listened to: anybody can send them.
//!
//! Sizes are bytes of UDP payload. One search is one link, towards the peer.

use std::collections::VecDeque;
use std::time::Duration;

use crate::quality::LinkMtu;
use crate::time::{Deadline, Instant};

/// How long the size found is believed before larger ones are tried (RFC 8899, section 5.1.1).
const RAISE: Duration = Duration::from_secs(600);
/// Until another search where the peer answers none of them.
const RETRY: Duration = Duration::from_secs(60);
/// Between two confirmations that lost frames ask for.
const SUSPECT_EVERY: Duration = Duration::from_secs(2);
/// Questions whose answer still counts.
const REMEMBERED: usize = 32;
/// Bytes that IP and UDP put before the payload.
const HEADERS: [u16; 2] = [28, 48];

/// One question: this size, under this number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SizeAsk {
    /// The number to put on it.
    pub seq: u32,
    /// The length of its datagram.
    pub size: u16,
}

#[derive(Clone, Copy, Debug)]
struct Asking {
    size: u16,
    tries: u8,
    up_at: Instant,
}

/// What was done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MtuStats {
    /// Questions sent.
    pub asked: u64,
    /// Times a size that had been answered was answered no more.
    pub black_holes: u64,
}

/// The search on one link.
#[derive(Clone, Debug)]
pub struct MtuSearch {
    v6: bool,
    /// Longest that was answered.
    low: Option<u16>,
    /// Shortest that was not, or that this machine refuses.
    high: Option<u16>,
    settled: bool,
    asking: Option<Asking>,
    /// When the next question is due, while none is open.
    due: Instant,
    /// When larger sizes are tried again.
    raise_at: Instant,
    /// Between two confirmations.
    every: Duration,
    suspected_at: Option<Instant>,
    next_seq: u32,
    asked: VecDeque<SizeAsk>,
    stats: MtuStats,
}

impl MtuSearch {
    /// Tries of one size where little is lost (RFC 8899: MAX_PROBES).
    pub const TRIES: u8 = 3;

    /// A search that begins at `now`. `v6`: whether the underlay is IPv6. `every`: how often what was
    /// found is confirmed.
    pub const fn new(v6: bool, every: Duration, now: Instant) -> Self {
        Self {
            v6,
            low: None,
            high: None,
            settled: false,
            asking: None,
            due: now,
            raise_at: now,
            every,
            suspected_at: None,
            next_seq: 0,
            asked: VecDeque::new(),
            stats: MtuStats { asked: 0, black_holes: 0 },
        }
    }

    /// The longest datagram any of our frames makes: what fills an underlay of 1500 bytes.
    pub const fn most(&self) -> u16 {
        1500 - self.headers()
    }

    /// What nearly every path carries, and the least that one of IPv6 may (RFC 8200, section 5).
    const fn base(&self) -> u16 {
        1280 - self.headers()
    }

    /// The shortest asked for (RFC 791: every host takes 576 bytes).
    const fn least(&self) -> u16 {
        if self.v6 { self.base() } else { 576 - self.headers() }
    }

    const fn headers(&self) -> u16 {
        HEADERS[self.v6 as usize]
    }

    /// The longest datagram that may be sent, as far as is known; `None` before anything is.
    pub fn known(&self) -> Option<LinkMtu> {
        let size = match (self.low, self.high) {
            (Some(low), _) => low,
            // Nothing is proved, but this much is refuted: as RFC 8899 has it, the base until then.
            (None, Some(high)) => self.base().min(high.saturating_sub(1)).max(self.least()),
            (None, None) => return None,
        };
        Some(LinkMtu { size, settled: self.settled })
    }

    /// The same as the MTU of the underlay's path, IP and UDP headers included.
    pub fn path_mtu(&self) -> Option<u16> {
        self.low.filter(|_| self.settled).map(|low| low + self.headers())
    }

    /// Tries of one size, so that with this share of questions or answers lost by chance at most one
    /// in a thousand sizes is taken for too long: 3 to 10.
    pub fn tries_at(loss: f64) -> u8 {
        let lost = loss.clamp(0.0, 0.5);
        if lost <= 0.1 {
            return Self::TRIES;
        }
        (0.001_f64.ln() / lost.ln()).ceil().clamp(3.0, 10.0) as u8
    }

    /// Whether the underlay is IPv6.
    pub const fn is_v6(&self) -> bool {
        self.v6
    }

    /// How often what was found is confirmed from now on; true where that is another time than before.
    pub fn on_interest(&mut self, now: Instant, every: Duration) -> bool {
        let news = self.every != every;
        if news {
            self.every = every;
            if self.settled && self.asking.is_none() {
                self.due = self.due.min(now.plus(every));
            }
        }
        news
    }

    /// The link works again: it may be another path.
    pub fn on_up(&mut self, now: Instant) {
        self.asking = None;
        self.asked.clear();
        (self.due, self.raise_at) = (now, now);
    }

    /// The peer is elsewhere, over another path for all that is known.
    pub fn on_moved(&mut self, now: Instant, v6: bool) {
        let (every, next_seq, stats) = (self.every, self.next_seq, self.stats);
        *self = Self { next_seq, stats, ..Self::new(v6, every, now) };
    }

    /// Frames are lost while the link answers: perhaps all that are long.
    pub fn on_suspect(&mut self, now: Instant) {
        let rested = self.suspected_at.is_none_or(|at| now.since(at) >= SUSPECT_EVERY);
        if self.settled && self.asking.is_none() && rested {
            self.suspected_at = Some(now);
            self.due = self.due.min(now);
        }
    }

    /// This machine did not send a datagram of this size: it is longer than the way there begins with.
    pub fn on_refused(&mut self, now: Instant, size: u16) {
        if self.asking.is_some_and(|asking| asking.size >= size) {
            self.asking = None;
        }
        // Longer ones are none of ours.
        if size <= self.most() && self.high.is_none_or(|high| size < high) {
            self.fail(now, size);
        }
    }

    /// An answer came. One to a question that was never asked, or long ago, is passed over.
    pub fn on_answer(&mut self, now: Instant, seq: u32, size: u16) {
        let Some(place) = self.asked.iter().position(|ask| *ask == SizeAsk { seq, size }) else {
            return;
        };
        self.asked.remove(place);
        if self.high.is_some_and(|high| high <= size) {
            // It was only lost before, or the path is another one.
            self.high = None;
        }
        self.low = Some(self.low.map_or(size, |low| low.max(size)));
        if self.asking.is_some_and(|asking| asking.size <= size) {
            self.asking = None;
            self.go_on(now);
        }
    }

    /// The question that is due: `patience` is how long its answer is waited for, `tries` how often
    /// one size is asked.
    pub fn poll_ask(&mut self, now: Instant, patience: Duration, tries: u8) -> Option<SizeAsk> {
        if let Some(asking) = &mut self.asking {
            if now < asking.up_at {
                return None;
            }
            if asking.tries < tries {
                asking.tries += 1;
                asking.up_at = now.plus(patience);
                let size = asking.size;
                return Some(self.ask(size));
            }
            let size = asking.size;
            self.asking = None;
            self.fail(now, size);
        }
        if now < self.due {
            return None;
        }
        let size = self.next_size();
        self.asking = Some(Asking { size, tries: 1, up_at: now.plus(patience) });
        Some(self.ask(size))
    }

    /// When [`MtuSearch::poll_ask`] wants to be called.
    pub fn poll_timeout(&self) -> Deadline {
        match self.asking {
            Some(asking) => Deadline { at: asking.up_at, why: "size unanswered" },
            None => Deadline { at: self.due, why: "size of datagrams" },
        }
    }

    /// What was done so far.
    pub const fn stats(&self) -> MtuStats {
        self.stats
    }

    fn ask(&mut self, size: u16) -> SizeAsk {
        let ask = SizeAsk { seq: self.next_seq, size };
        self.next_seq = self.next_seq.wrapping_add(1);
        if self.asked.len() >= REMEMBERED {
            self.asked.pop_front();
        }
        self.asked.push_back(ask);
        self.stats.asked += 1;
        ask
    }

    /// Whether there is nothing between what is carried and what is not.
    fn is_over(&self) -> bool {
        match (self.low, self.high) {
            (Some(low), high) => low >= self.most() || high.is_some_and(|high| high <= low + 1),
            (None, _) => false,
        }
    }

    fn next_size(&self) -> u16 {
        match (self.low, self.high) {
            (Some(low), _) if self.is_over() => low,
            (Some(low), Some(high)) => low + (high - low) / 2,
            (_, None) => self.most(),
            (None, Some(high)) if high > self.base() => self.base(),
            (None, Some(_)) => self.least(),
        }
    }

    /// This size is not carried.
    fn fail(&mut self, now: Instant, size: u16) {
        if self.low.is_some_and(|low| low >= size) {
            // What was proved is not true any more, and with it nothing is.
            self.stats.black_holes += 1;
            (self.low, self.high, self.settled) = (None, Some(size), false);
            self.due = now;
            return;
        }
        self.high = Some(self.high.map_or(size, |high| high.min(size)));
        if size <= self.least() {
            // Nothing at all is answered: that says nothing of sizes.
            (self.low, self.high, self.settled) = (None, None, false);
            self.due = now.plus(RETRY);
            return;
        }
        self.go_on(now);
    }

    /// What comes next, now that no question is open.
    fn go_on(&mut self, now: Instant) {
        if !self.is_over() {
            self.due = now;
            return;
        }
        let news = !self.settled;
        self.settled = true;
        let raises = self.low.is_some_and(|low| low < self.most()) && self.raise_at <= now;
        if raises && !news {
            self.high = None;
            self.due = now;
        } else {
            self.due = now.plus(self.every);
        }
        if raises || news {
            self.raise_at = now.plus(RAISE);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::rng::Dice;

    const PATIENCE: Duration = Duration::from_millis(250);
    const EVERY: Duration = Duration::from_secs(60);

    /// A line that carries datagrams up to a size, loses some of them, and answers after 20 ms.
    struct Line {
        search: MtuSearch,
        now: Instant,
        carries: u16,
        loss: f64,
        dice: Dice,
        answers: VecDeque<(Instant, SizeAsk)>,
    }

    impl Line {
        fn new(v6: bool, carries: u16, loss: f64, seed: u64) -> Self {
            let (now, answers) = (Instant::from_micros(1_000_000), VecDeque::new());
            let search = MtuSearch::new(v6, EVERY, now);
            Self { search, now, carries, loss, dice: Dice::new(seed), answers }
        }

        fn run(&mut self, span: Duration) {
            let end = self.now.plus(span);
            for turns in 0.. {
                assert!(turns < 100_000, "it spins: {:?}", self.search);
                let tries = MtuSearch::tries_at(self.loss);
                while let Some(ask) = self.search.poll_ask(self.now, PATIENCE, tries) {
                    assert!((56..=1472).contains(&ask.size));
                    let lost = self.dice.below(1000) as f64 / 1000.0 < self.loss;
                    if ask.size <= self.carries && !lost {
                        self.answers.push_back((self.now.plus(Duration::from_millis(20)), ask));
                    }
                }
                let answer = self.answers.front().map(|(at, _)| *at);
                let wanted = self.search.poll_timeout().at;
                assert!(wanted > self.now, "asked, it wants nothing more now");
                let next = answer.map_or(wanted, |at| at.min(wanted));
                if next > end {
                    self.now = end;
                    return;
                }
                self.now = next;
                if answer.is_some_and(|at| at <= next)
                    && let Some((_, ask)) = self.answers.pop_front()
                {
                    self.search.on_answer(next, ask.seq, ask.size);
                }
            }
        }

        fn settled(&self) -> Option<u16> {
            self.search.known().filter(|known| known.settled).map(|known| known.size)
        }
    }

    fn secs(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    #[test]
    fn a_usual_path_is_known_after_one_question() {
        let mut line = Line::new(false, 1472, 0.0, 1);
        assert_eq!(line.search.known(), None);
        line.run(secs(1));
        assert_eq!(line.search.known(), Some(LinkMtu { size: 1472, settled: true }));
        assert_eq!((line.search.path_mtu(), line.search.stats().asked), (Some(1500), 1));
        line.run(secs(600));
        assert_eq!(line.search.stats().asked, 11, "and confirmed once a minute");
    }

    #[test]
    fn a_narrow_path_is_found_to_the_byte_within_seconds_and_nothing_is_told_before() {
        for (v6, carries, mtu) in
            [(false, 1292, 1320), (true, 1272, 1320), (false, 1252, 1280), (true, 1232, 1280)]
        {
            let mut line = Line::new(v6, carries, 0.0, 1);
            line.run(Duration::from_millis(800));
            let known = line.search.known().unwrap();
            assert!(!known.settled && known.size <= carries, "{known:?}");
            line.run(secs(7));
            assert_eq!((line.settled(), line.search.path_mtu()), (Some(carries), Some(mtu)));
        }
    }

    #[test]
    fn a_search_takes_at_most_28_questions_and_seven_seconds() {
        for carries in 1252..1472 {
            let mut line = Line::new(false, carries, 0.0, 1);
            line.run(secs(7));
            let asked = line.search.stats().asked;
            assert_eq!(line.settled(), Some(carries));
            assert!((12..=28).contains(&asked), "{asked} for {carries}");
        }
    }

    #[test]
    fn a_black_hole_is_seen_by_the_clock_and_sooner_where_frames_are_lost() {
        let mut line = Line::new(false, 1472, 0.0, 1);
        line.run(secs(10));
        line.carries = 1372;
        line.run(secs(61));
        assert!(line.search.known().is_some_and(|known| known.size <= 1372));
        assert_eq!(line.search.stats().black_holes, 1);
        line.run(secs(9));
        assert_eq!(line.settled(), Some(1372));
        line.carries = 1300;
        line.search.on_suspect(line.now);
        line.run(secs(1));
        assert!(line.search.known().is_some_and(|known| known.size <= 1300));
        line.run(secs(9));
        assert_eq!(line.settled(), Some(1300));
        // Loss by chance asks too, and changes nothing.
        let asked = line.search.stats().asked;
        for _ in 0..10 {
            line.search.on_suspect(line.now);
            line.run(Duration::from_millis(500));
        }
        assert_eq!((line.settled(), line.search.stats().black_holes), (Some(1300), 2));
        assert!(line.search.stats().asked <= asked + 3, "at most one each two seconds");
    }

    #[test]
    fn what_this_machine_refuses_needs_no_waiting() {
        let mut line = Line::new(false, 1472, 0.0, 1);
        line.run(secs(10));
        line.carries = 1292;
        line.search.on_refused(line.now, 1418);
        assert!(line.search.known().is_some_and(|known| known.size <= 1292 && !known.settled));
        line.search.on_refused(line.now, 1448);
        assert_eq!(line.search.stats().black_holes, 1, "known to be too long already");
        line.run(secs(7));
        assert_eq!(line.settled(), Some(1292));
    }

    #[test]
    fn a_path_that_grew_is_found_when_larger_sizes_are_tried_again() {
        let mut line = Line::new(false, 1292, 0.0, 1);
        line.run(secs(30));
        assert_eq!(line.settled(), Some(1292));
        line.carries = 1472;
        line.run(secs(300));
        assert_eq!(line.settled(), Some(1292));
        line.run(secs(400));
        assert_eq!(line.settled(), Some(1472));
        // What came back up may be another path: looked at at once.
        line.carries = 1352;
        line.search.on_up(line.now);
        line.run(secs(9));
        assert_eq!(line.settled(), Some(1352));
        line.carries = 1472;
        line.search.on_up(line.now);
        line.run(secs(1));
        assert_eq!(line.settled(), Some(1472));
    }

    #[test]
    fn a_peer_that_answers_nothing_limits_nothing_and_is_asked_rarely() {
        let mut line = Line::new(false, 0, 0.0, 1);
        line.run(secs(600));
        assert_eq!(line.search.path_mtu(), None);
        assert!(line.search.stats().asked <= 100, "{:?}", line.search.stats());
        line.carries = 1472;
        line.run(secs(120));
        assert_eq!(line.settled(), Some(1472));
    }

    #[test]
    fn answers_to_nothing_prove_nothing() {
        let mut search = MtuSearch::new(false, EVERY, Instant::ZERO);
        search.on_answer(Instant::ZERO, 0, 1400);
        let ask = search.poll_ask(Instant::ZERO, PATIENCE, 3).unwrap();
        search.on_answer(Instant::ZERO, ask.seq, ask.size - 1);
        search.on_answer(Instant::ZERO, ask.seq + 1, ask.size);
        assert_eq!(search.known(), None);
        search.on_moved(Instant::ZERO, true);
        search.on_answer(Instant::ZERO, ask.seq, ask.size);
        assert_eq!(search.known(), None, "it came over the path before");
        assert_ne!(search.poll_ask(Instant::ZERO, PATIENCE, 3).unwrap().seq, ask.seq);
    }

    #[test]
    fn more_tries_are_made_where_more_is_lost() {
        assert_eq!([0.0, 0.1, 0.2, 0.3, 0.9].map(MtuSearch::tries_at), [3, 3, 5, 6, 10]);
    }

    proptest! {
        #[test]
        fn every_path_is_found_to_the_byte(v6: bool, carries in 1232..=1500_u16, seed: u64) {
            let mut line = Line::new(v6, carries, 0.0, seed);
            line.run(secs(12));
            prop_assert_eq!(line.settled(), Some(carries.min(line.search.most())));
        }

        #[test]
        fn what_is_known_is_carried_whatever_happens_to_the_path(
            sizes in proptest::collection::vec(548..=1500_u16, 1..6), loss in 0.0..0.2_f64, seed: u64,
        ) {
            let mut line = Line::new(false, 1472, loss, seed);
            for carries in sizes {
                line.carries = carries;
                line.search.on_suspect(line.now);
                line.run(secs(120));
                if let Some(known) = line.search.known() {
                    prop_assert!(known.size <= carries.min(1472), "{:?} of {}", known, carries);
                }
            }
        }

        #[test]
        fn no_order_of_events_breaks_it(
            events in proptest::collection::vec((0..6_u8, any::<u16>(), 0..3000_u64), 0..200),
        ) {
            let mut now = Instant::ZERO;
            let mut search = MtuSearch::new(false, EVERY, now);
            for (what, size, ms) in events {
                now = now.plus(Duration::from_millis(ms));
                match what {
                    0 => search.on_refused(now, size),
                    1 => search.on_answer(now, u32::from(size % 8), 1472),
                    2 => search.on_suspect(now),
                    3 => search.on_up(now),
                    4 => search.on_moved(now, size % 2 == 0),
                    _ => {
                        search.on_interest(now, Duration::from_millis(u64::from(size)));
                    }
                }
                let mut asked = 0;
                while let Some(ask) = search.poll_ask(now, PATIENCE, 3) {
                    prop_assert!((548..=1472).contains(&ask.size));
                    asked += 1;
                    prop_assert!(asked < 3);
                }
            }
        }
    }
}
