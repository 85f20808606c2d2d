//! Whether a link works, judged by confirmation.
//!
//! Feedback, replies to probes and answers to hellos prove that both directions work; a frame that
//! merely arrives proves only its own, so it does not count. What was sent and should have been
//! confirmed by now makes the link *suspect*, and it is asked quickly; *down* is said when the
//! silence, measured from the first unconfirmed sending, is longer than the link's own bursts have
//! ever explained of late, at least five sendings went unanswered in it, and no late confirmation came
//! for as long as those bursts last: a way that became longer is late, not dead.
//!
//! ```text
//!  Up ── overdue ──► Suspect ── silence > bursts, ≥ 5 unanswered ──► Down
//!   ▲◄─ confirmed ────┘                                               │
//!   └──────────────── three confirmed in a row ◄──────────────────────┘
//! ```
//!
//! Bursts are measured in time, as what they are: from the first sending that was lost to the first
//! that was confirmed again.

use std::collections::VecDeque;
use std::time::Duration;

use super::arq::RoundTrip;
use crate::time::{Deadline, Instant, micros};

/// Between questions to a suspect link, and the grain in which sendings are told apart: five fit
/// into the shortest silence that may mean death.
const QUICK: Duration = Duration::from_millis(20);
/// Quick questions in a row; after them one each [`WATCH`].
const QUICK_LIMIT: u32 = 50;
/// A watched link is asked when nothing was sent for this long.
const WATCH: Duration = Duration::from_millis(250);
/// Between questions to a link that is down: at first, and in the end.
const DOWN: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(1));
/// Feedback may be held back this long by its schedule and budget.
const FEEDBACK_WAIT: Duration = Duration::from_millis(30);
/// More than this is not granted for deviation: a first sample's is half of itself.
const MARGIN: Duration = Duration::from_millis(100);
/// What is expected of a link whose round trip is not known yet.
const UNKNOWN: Duration = Duration::from_millis(300);
/// Silence beyond the expected that any link is granted.
const GRACE: Duration = Duration::from_millis(150);
/// No link is down before this much silence.
const LEAST: Duration = Duration::from_millis(200);
/// Bursts do not lengthen the silence beyond this: the outage is to stay below a second.
const MOST: Duration = Duration::from_millis(690);
/// Unanswered sendings without which silence proves nothing.
const UNANSWERED: usize = 5;
/// Confirmations in a row that lift a link that was down.
const IN_A_ROW: u32 = 3;
/// Sendings told apart at a time: more than any silence before a verdict can hold.
const OPEN_LIMIT: usize = 64;
/// The memory of bursts fades by half in this time.
const FADES: Duration = Duration::from_secs(600);

/// How a link is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Health {
    /// Confirmed.
    Up,
    /// Something is overdue.
    Suspect,
    /// Silent for longer than can be explained, or never confirmed.
    Down,
}

/// A change of health.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HealthEvent {
    /// The link works again, or for the first time.
    Up,
    /// Something is overdue; what depends on the link may be doubled elsewhere.
    Suspect,
    /// What was overdue came after all.
    Cleared,
    /// The link is down.
    Down {
        /// From the first unconfirmed sending to the verdict.
        silence: Duration,
    },
}

/// Liveness of one link.
#[derive(Debug)]
pub struct LinkHealth {
    state: Health,
    watched: bool,
    ever_up: bool,
    rtt: RoundTrip,
    /// When something was sent that is not confirmed, told apart by [`QUICK`]; oldest first.
    open: VecDeque<Instant>,
    last_sent: Instant,
    /// Sent before this: its confirmation says nothing of now.
    down_at: Instant,
    /// When what was confirmed last had been sent.
    confirmed: Instant,
    /// When the last confirmation came that left less unconfirmed.
    heard: Instant,
    row: u32,
    row_sent: Instant,
    row_at: Instant,
    next_ping: Instant,
    pings: u32,
    down_pause: Duration,
    /// The longest burst outlived, and when that was noted.
    burst: Duration,
    burst_at: Instant,
    events: VecDeque<HealthEvent>,
}

impl LinkHealth {
    /// A link that has yet to prove itself. It is asked at once.
    pub fn new(now: Instant) -> Self {
        Self {
            state: Health::Down,
            watched: false,
            ever_up: false,
            rtt: RoundTrip::default(),
            open: VecDeque::new(),
            last_sent: now,
            down_at: Instant::ZERO,
            confirmed: Instant::ZERO,
            heard: Instant::ZERO,
            row: 0,
            row_sent: Instant::ZERO,
            row_at: now,
            next_ping: now,
            pings: 0,
            down_pause: DOWN.0,
            burst: Duration::ZERO,
            burst_at: now,
            events: VecDeque::new(),
        }
    }

    /// Something was sent that the peer will confirm: data, a probe, a hello.
    pub fn on_sent(&mut self, now: Instant) {
        self.last_sent = now;
        if self.state == Health::Down {
            return;
        }
        let apart = self.open.back().is_none_or(|&last| now >= last.plus(QUICK));
        if apart && self.open.len() < OPEN_LIMIT {
            self.open.push_back(now);
        }
    }

    /// The peer confirmed what was sent at `sent_at`.
    pub fn on_confirmed(&mut self, now: Instant, sent_at: Instant) {
        self.confirmed = self.confirmed.max(sent_at);
        if self.state == Health::Down {
            self.on_sign_of_life(now, sent_at);
            return;
        }
        let Some(&first) = self.open.front() else { return };
        if sent_at < first {
            return;
        }
        self.heard = now;
        while self.open.front().is_some_and(|&at| at <= sent_at) {
            self.open.pop_front();
        }
        if self.state == Health::Suspect {
            let burst = sent_at.since(first);
            if burst > self.remembered(now) {
                (self.burst, self.burst_at) = (burst, now);
            }
            if self.open.front().is_none_or(|&at| now.since(at) < self.expected()) {
                self.state = Health::Up;
                self.events.push_back(HealthEvent::Cleared);
            }
        }
    }

    /// A round trip was measured on this link.
    pub fn on_round_trip(&mut self, now: Instant, rtt: Duration) {
        self.rtt.on_sample(now, rtt);
    }

    /// Whether the link is in use or armed as a backup: then it is asked also when idle.
    pub fn watch(&mut self, now: Instant, watched: bool) {
        if watched && !self.watched && self.state != Health::Down {
            self.next_ping = self.next_ping.max(self.last_sent.plus(WATCH)).min(now.plus(WATCH));
        }
        self.watched = watched;
    }

    /// Another lane of the link finds something overdue: the link is asked, quickly.
    pub fn doubt(&mut self, now: Instant) {
        if self.state == Health::Up {
            self.state = Health::Suspect;
            self.pings = 0;
            self.next_ping = now;
            self.events.push_back(HealthEvent::Suspect);
        }
    }

    /// Another lane of the link found it silent for so long: down here too, unless something sent
    /// within that silence was confirmed here.
    pub fn condemn(&mut self, now: Instant, silence: Duration) {
        if self.state != Health::Down && self.confirmed < now.minus(silence) {
            self.fall(now, silence);
        }
    }

    /// The clock reached `now`.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.suspect_at().is_some_and(|at| at <= now) {
            self.doubt(now);
        }
        if self.state == Health::Suspect && self.down_due(now).is_some_and(|at| at <= now) {
            let silence = self.open.front().map_or(Duration::ZERO, |&first| now.since(first));
            self.fall(now, silence);
        }
        if self.state == Health::Down && self.row > 0 && self.row_over() <= now {
            self.row = 0;
        }
    }

    /// Whether a question is to be sent now. The caller sends it and says so by
    /// [`LinkHealth::on_sent`].
    pub fn poll_ping(&mut self, now: Instant) -> bool {
        if self.ping_at().is_none_or(|at| at > now) {
            return false;
        }
        self.pings = self.pings.saturating_add(1);
        self.next_ping = now.plus(match self.state {
            Health::Up => WATCH,
            Health::Suspect if self.pings < QUICK_LIMIT => QUICK,
            Health::Suspect => WATCH,
            Health::Down if self.row > 0 => QUICK,
            Health::Down => {
                let pause = self.down_pause;
                // A tenth longer each time: a second is reached after eleven seconds.
                self.down_pause = (pause + pause / 10).min(DOWN.1);
                pause
            }
        });
        true
    }

    /// Changes, oldest first.
    pub fn poll_event(&mut self) -> Option<HealthEvent> {
        self.events.pop_front()
    }

    /// When to be woken.
    pub fn poll_timeout(&self) -> Option<Deadline> {
        let ping = self.ping_at().map(|at| Deadline { at, why: "link ping" });
        let verdict = match self.state {
            Health::Up => self.suspect_at().map(|at| Deadline { at, why: "link suspect" }),
            Health::Suspect => {
                self.down_due(self.burst_at).map(|at| Deadline { at, why: "link down" })
            }
            Health::Down => {
                (self.row > 0).then(|| Deadline { at: self.row_over(), why: "link still down" })
            }
        };
        Deadline::earlier(ping, verdict)
    }

    /// How the link is.
    pub fn health(&self) -> Health {
        self.state
    }

    /// Whether it may carry data.
    pub fn is_up(&self) -> bool {
        self.state != Health::Down
    }

    /// Its round trip, as confirmations showed it.
    pub fn round_trip(&self) -> &RoundTrip {
        &self.rtt
    }

    /// The silence after which it would be down, from the first unconfirmed sending.
    pub fn patience(&self, now: Instant) -> Duration {
        self.expected() + self.allowed(now)
    }

    fn fall(&mut self, now: Instant, silence: Duration) {
        self.open.clear();
        self.state = Health::Down;
        self.down_at = now;
        self.row = 0;
        self.down_pause = DOWN.0;
        self.next_ping = now.plus(DOWN.0);
        self.events.push_back(HealthEvent::Down { silence });
    }

    fn on_sign_of_life(&mut self, now: Instant, sent_at: Instant) {
        let fresh = sent_at >= self.down_at && (self.row == 0 || sent_at > self.row_sent);
        if !fresh {
            return;
        }
        self.row += 1;
        self.row_sent = sent_at;
        self.row_at = now;
        if self.row >= IN_A_ROW || !self.ever_up {
            self.ever_up = true;
            self.state = Health::Up;
            self.open.clear();
            self.next_ping = now.plus(WATCH);
            self.down_pause = DOWN.0;
            self.events.push_back(HealthEvent::Up);
        } else {
            self.next_ping = self.next_ping.min(now.plus(QUICK));
        }
    }

    /// How long a confirmation may take.
    fn expected(&self) -> Duration {
        let way = match self.rtt.smoothed() {
            Some(smoothed) => smoothed + self.rtt.margin().min(MARGIN),
            None => UNKNOWN,
        };
        Duration::from_micros(micros(way + FEEDBACK_WAIT))
    }

    /// Silence beyond the expected before the link is down.
    fn allowed(&self, now: Instant) -> Duration {
        let expected = self.expected();
        let least = GRACE.max(LEAST.saturating_sub(expected));
        let most = MOST.saturating_sub(expected);
        // Holes of both directions may follow each other; twice the longest explains two of them.
        let bursts = self.remembered(now) * 2 + QUICK * 2;
        bursts.min(most).max(least)
    }

    /// The longest burst, faded.
    fn remembered(&self, now: Instant) -> Duration {
        let age = now.since(self.burst_at).as_secs_f64() / FADES.as_secs_f64();
        Duration::from_micros((self.burst.as_secs_f64() * 1e6 * 0.5f64.powf(age)) as u64)
    }

    fn suspect_at(&self) -> Option<Instant> {
        self.open.front().map(|first| first.plus(self.expected()))
    }

    /// When the silence is long enough and enough sendings are overdue in it; `None` while there
    /// are too few.
    fn down_due(&self, now: Instant) -> Option<Instant> {
        let first = self.open.front()?;
        let enough = self.open.get(UNANSWERED - 1)?;
        let expected = self.expected();
        let allowed = self.allowed(now);
        // Where late confirmations go on coming, the way has become longer. The pause between the last of
        // the old way and the first of the new one is by how much, and feedback's own wait.
        let unheard = self.heard.plus(allowed + FEEDBACK_WAIT + QUICK);
        Some(first.plus(expected + allowed).max(enough.plus(expected)).max(unheard))
    }

    fn row_over(&self) -> Instant {
        self.row_at.plus(self.expected() + WATCH)
    }

    fn ping_at(&self) -> Option<Instant> {
        match self.state {
            Health::Up if self.watched => Some(self.next_ping.max(self.last_sent.plus(WATCH))),
            Health::Up => None,
            Health::Suspect | Health::Down => Some(self.next_ping),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::rng::Dice;

    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    fn at(n: u64) -> Instant {
        Instant::ZERO.plus(ms(n))
    }

    /// Spells of a direction: holes of `bad` (exact, or mean of an exponential) every so often.
    struct Holes {
        good: Duration,
        bad: Duration,
        fixed: bool,
        in_hole: bool,
        until: Instant,
    }

    impl Holes {
        fn none() -> Self {
            Self::new(Duration::ZERO, Duration::ZERO, true)
        }

        fn new(good: Duration, bad: Duration, fixed: bool) -> Self {
            Self { good, bad, fixed, in_hole: false, until: Instant::ZERO }
        }

        fn passes(&mut self, now: Instant, dice: &mut Dice) -> bool {
            if self.bad.is_zero() {
                return true;
            }
            while self.until <= now {
                self.in_hole = !self.in_hole;
                let mean = if self.in_hole { self.bad } else { self.good };
                let spell = if self.in_hole && self.fixed {
                    mean
                } else {
                    mean.mul_f64(-(1.0 - dice.unit()).ln())
                };
                self.until = self.until.plus(spell.max(Duration::from_micros(1)));
            }
            !self.in_hole
        }
    }

    struct Bench {
        health: LinkHealth,
        rtt: Duration,
        holes: [Holes; 2],
        dice: Dice,
        /// Confirmations under way: when they come, and when what they confirm was sent.
        coming: BTreeMap<(Instant, u64), (Instant, bool)>,
        serial: u64,
        cut: [bool; 2],
        pings: u64,
        downs: Vec<Instant>,
        ups: Vec<Instant>,
    }

    impl Bench {
        fn new(rtt: Duration, seed: u64) -> Self {
            Self {
                health: LinkHealth::new(Instant::ZERO),
                rtt,
                holes: [Holes::none(), Holes::none()],
                dice: Dice::new(seed),
                coming: BTreeMap::new(),
                serial: 0,
                cut: [false; 2],
                pings: 0,
                downs: Vec::new(),
                ups: Vec::new(),
            }
        }

        fn send(&mut self, now: Instant, ping: bool) {
            self.health.on_sent(now);
            let there = now.plus(self.rtt / 2);
            // Data is confirmed by feedback, somewhat later than a ping.
            let answered = if ping { there } else { there.plus(ms(5)) };
            let forth = self.holes[0].passes(now, &mut self.dice) && !self.cut[0];
            let back = self.holes[1].passes(answered, &mut self.dice) && !self.cut[1];
            if forth && back {
                self.serial += 1;
                let key = (answered.plus(self.rtt / 2), self.serial);
                self.coming.insert(key, (now, ping));
            }
        }

        /// Runs to `end` with a data frame each `every`.
        fn run(&mut self, start: Instant, end: Instant, every: Option<Duration>) {
            let mut now = start;
            let mut next_data = every.map_or(Instant::FAR, |_| start);
            while now < end {
                let timer = self.health.poll_timeout().map_or(Instant::FAR, |d| d.at);
                let next = self.coming.keys().next().map_or(Instant::FAR, |k| k.0);
                now = timer.min(next).min(next_data).max(now).min(end);
                while let Some((&(when, n), &(sent_at, ping))) = self.coming.first_key_value() {
                    if when > now {
                        break;
                    }
                    self.coming.remove(&(when, n));
                    if ping {
                        self.health.on_round_trip(now, now.since(sent_at));
                    }
                    self.health.on_confirmed(now, sent_at);
                }
                if now >= next_data {
                    self.send(now, false);
                    next_data = now.plus(every.unwrap_or(ms(1)));
                }
                self.health.handle_timeout(now);
                while self.health.poll_ping(now) {
                    self.pings += 1;
                    self.send(now, true);
                }
                while let Some(event) = self.health.poll_event() {
                    match event {
                        HealthEvent::Down { .. } => self.downs.push(now),
                        HealthEvent::Up => self.ups.push(now),
                        _ => {}
                    }
                }
                let timer = self.health.poll_timeout().map_or(Instant::FAR, |d| d.at);
                assert!(timer > now, "{:?} at {now}", self.health.poll_timeout());
            }
        }
    }

    #[test]
    fn a_new_link_is_asked_at_once_and_one_answer_brings_it_up() {
        let mut b = Bench::new(ms(40), 1);
        b.run(at(0), at(500), None);
        assert_eq!(b.ups, [at(40)]);
        assert_eq!(b.pings, 1, "and then it is left alone while nobody uses it");
    }

    #[test]
    fn a_dead_link_is_down_in_time_whatever_its_round_trip_and_whichever_way_died() {
        for rtt in [1, 10, 40, 150, 300] {
            for cut in [[true, true], [true, false], [false, true]] {
                for every in [Some(ms(10)), Some(ms(1)), None] {
                    let mut b = Bench::new(ms(rtt), 2);
                    b.health.watch(at(0), true);
                    b.run(at(0), at(10_007), every);
                    b.cut = cut;
                    b.run(at(10_007), at(13_000), every);
                    let took = b.downs[0].since(at(10_007));
                    // Idle, the first question comes up to 250 ms later, and more must be sent.
                    let bound = if every.is_some() { ms(700) } else { ms(1300) };
                    assert!(took < bound, "rtt {rtt} cut {cut:?} every {every:?}: {took:?}");
                    let least = ms(200).saturating_sub(ms(rtt));
                    assert!(took >= least, "too early: {took:?}");
                }
            }
        }
    }

    #[test]
    fn a_link_that_came_back_is_up_after_three_answers_in_a_row() {
        let mut b = Bench::new(ms(40), 3);
        b.run(at(0), at(2000), Some(ms(10)));
        b.cut = [true; 2];
        b.run(at(2000), at(5000), Some(ms(10)));
        assert_eq!(b.downs.len(), 1);
        b.cut = [false; 2];
        b.run(at(5000), at(7000), None);
        assert_eq!(b.ups.len(), 2);
        let took = b.ups[1].since(at(5000));
        assert!(took < ms(600), "{took:?}");
        assert!(took > ms(60), "one answer is not enough: {took:?}");
    }

    #[test]
    fn holes_of_80_ms_at_five_percent_never_take_a_link_down() {
        let mut downs = 0;
        for seed in 0..4 {
            for every in [Some(ms(10)), None] {
                let mut b = Bench::new(ms(40), 100 + seed);
                b.health.watch(at(0), true);
                b.holes = [0, 1].map(|_| Holes::new(ms(1520), ms(80), true));
                b.run(at(0), at(3_600_000), every);
                downs += b.downs.len();
            }
        }
        assert_eq!(downs, 0, "in eight link-hours");
    }

    #[test]
    fn a_way_with_traffic_that_becomes_longer_is_no_death() {
        for (before, after) in [(20, 210), (40, 230), (100, 290), (250, 440)] {
            for every in [Some(ms(5)), Some(ms(10)), Some(ms(20))] {
                let mut b = Bench::new(ms(before), 4);
                b.health.watch(at(0), true);
                b.run(at(0), at(10_003), every);
                b.rtt = ms(after);
                b.run(at(10_003), at(14_000), every);
                assert_eq!(b.downs, [], "{before} to {after} ms, {every:?}");
            }
        }
    }

    #[test]
    fn bursts_of_random_length_are_learnt() {
        // Exponential holes of 30 ms: one in 800 is longer than 200 ms.
        let mut b = Bench::new(ms(40), 9);
        b.holes = [0, 1].map(|_| Holes::new(ms(570), ms(30), false));
        b.run(at(0), at(7_200_000), Some(ms(10)));
        assert!(b.downs.len() <= 1, "{:?} in two link-hours", b.downs);
        assert!(b.health.patience(at(7_200_000)) > ms(300));
        b.cut = [true; 2];
        b.downs.clear();
        b.run(at(7_200_000), at(7_202_000), Some(ms(10)));
        assert!(b.downs[0].since(at(7_200_000)) < ms(750), "and death is still seen in time");
    }

    #[test]
    fn a_watched_link_is_asked_four_times_a_second_and_a_busy_one_not_at_all() {
        let mut idle = Bench::new(ms(40), 4);
        idle.health.watch(at(0), true);
        idle.run(at(0), at(60_000), None);
        assert!((230..=245).contains(&idle.pings), "{}", idle.pings);
        let mut busy = Bench::new(ms(40), 4);
        busy.health.watch(at(0), true);
        busy.run(at(0), at(60_000), Some(ms(100)));
        assert!(busy.pings <= 2, "{}", busy.pings);
    }

    #[test]
    fn a_dead_link_is_asked_ever_less_often() {
        let mut b = Bench::new(ms(40), 5);
        b.cut = [true; 2];
        b.run(at(0), at(60_000), None);
        assert!(b.pings < 100, "{}", b.pings);
        assert!(b.ups.is_empty());
    }

    /// An idle link that is up, its first answer sent at 0 and come at 20 ms.
    fn idle() -> LinkHealth {
        let mut health = LinkHealth::new(at(0));
        assert!(health.poll_ping(at(0)));
        health.on_round_trip(at(20), ms(20));
        health.on_confirmed(at(20), at(0));
        assert_eq!((health.poll_event(), health.is_up()), (Some(HealthEvent::Up), true));
        health
    }

    #[test]
    fn another_lane_s_doubt_has_the_link_asked_at_once_and_an_answer_ends_it() {
        let mut health = idle();
        assert!(!health.poll_ping(at(5_000)), "an idle link is not asked");
        health.doubt(at(5_000));
        assert_eq!(health.poll_event(), Some(HealthEvent::Suspect));
        assert!(health.poll_ping(at(5_000)));
        health.on_sent(at(5_000));
        health.on_confirmed(at(5_020), at(5_000));
        assert_eq!(health.poll_event(), Some(HealthEvent::Cleared));
        // Its word that the link is silent since before that answer was asked for is not believed.
        health.condemn(at(5_200), ms(250));
        assert_eq!((health.poll_event(), health.is_up()), (None, true));
    }

    #[test]
    fn another_lane_s_verdict_counts_where_nothing_was_heard_since() {
        let mut health = idle();
        health.condemn(at(5_200), ms(250));
        assert_eq!(health.poll_event(), Some(HealthEvent::Down { silence: ms(250) }));
        health.condemn(at(5_300), ms(350));
        assert_eq!(health.poll_event(), None, "once");
        // What was sent before the verdict lifts nothing; three fresh answers do.
        health.on_confirmed(at(5_310), at(5_190));
        for n in 0..3 {
            assert!(!health.is_up());
            health.on_confirmed(at(5_340 + n * 20), at(5_320 + n * 20));
        }
        assert_eq!(health.poll_event(), Some(HealthEvent::Up));
        health.condemn(at(5_390), ms(200));
        assert_eq!(health.poll_event(), None, "a verdict that those answers have overtaken");
    }
}
