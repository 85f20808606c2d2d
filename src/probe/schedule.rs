//! Which link to probe when.
//!
//! Links that carry traffic are asked about every 750 ms, armed backups every second, all others
//! every 15 s, each time moved by up to a tenth so that nodes do not march in step. A reading that
//! grows old in spite of that (probes get lost) is sought at twice the pace, so that it is renewed
//! before its limit: 3 s on a link in use or armed, 60 s on any other. Many idle links stretch their
//! interval to stay within their share of the budget, which grows far more slowly than their number; and
//! above everything stands a bound on the bytes of all probes: who is over it waits, the idle first, and
//! is counted.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::id::LinkId;
use crate::rng::Dice;
use crate::time::{Deadline, Instant, micros};

/// How often links are probed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScheduleConfig {
    /// Between probes of a link in use.
    pub used: Duration,
    /// Between probes of an armed backup.
    pub armed: Duration,
    /// Between probes of any other link, where the budget allows.
    pub idle: Duration,
    /// A reading of a link in use or armed is stale when older than this.
    pub fresh_used: Duration,
    /// A reading of any other link is stale when older than this.
    pub fresh_idle: Duration,
    /// What a probe and its reply cost on the wire, bytes.
    pub probe_bytes: u32,
    /// Bits per second that probes of idle links should not exceed together: they stretch instead,
    /// to at most three quarters of `fresh_idle`.
    pub idle_bps: u32,
    /// And for each of those links so many more: what there is to know grows with the mesh.
    pub idle_bps_per_link: u32,
    /// Bits per second that all probes together never exceed.
    pub limit_bps: u32,
}

impl Default for ScheduleConfig {
    fn default() -> Self {
        Self {
            used: Duration::from_millis(750),
            armed: Duration::from_secs(1),
            idle: Duration::from_secs(15),
            fresh_used: Duration::from_secs(3),
            fresh_idle: Duration::from_secs(60),
            probe_bytes: 220,
            idle_bps: 8_000,
            idle_bps_per_link: 45,
            limit_bps: 256_000,
        }
    }
}

/// A link that is doubted again and again is asked no more often than this because of it: one liar must not
/// make everyone ask everyone.
const DOUBT_GAP: Duration = Duration::from_secs(5);

/// What a link is to us.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Interest {
    /// It carries traffic.
    Used,
    /// It is the first link of a backup.
    Armed,
    /// It is one of the others.
    Idle,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    interest: Interest,
    due: Instant,
    probed_at: Option<Instant>,
    read_at: Option<Instant>,
    doubted_at: Option<Instant>,
}

/// The times at which links are due.
#[derive(Debug)]
pub struct Schedule {
    config: ScheduleConfig,
    links: BTreeMap<LinkId, Entry>,
    /// The links by when they are due.
    queue: BTreeSet<(Instant, LinkId)>,
    idle_links: u32,
    dice: Dice,
    /// Room for probes, bits: at most one second's worth.
    room_bits: u64,
    room_at: Instant,
    deferred: u64,
}

impl Schedule {
    /// No links yet.
    pub fn new(config: ScheduleConfig, dice: Dice, now: Instant) -> Self {
        let room_bits = u64::from(config.limit_bps);
        let (links, queue) = (BTreeMap::new(), BTreeSet::new());
        Self { config, links, queue, idle_links: 0, dice, room_bits, room_at: now, deferred: 0 }
    }

    /// Other intervals from now on: whoever is due later than they allow is due within the new one.
    pub fn reconfigure(&mut self, now: Instant, config: ScheduleConfig) {
        self.config = config;
        self.room_bits = self.room_bits.min(u64::from(config.limit_bps));
        let due: Vec<(LinkId, Duration)> =
            self.links.iter().map(|(&link, e)| (link, self.interval(e.interest))).collect();
        for (link, span) in due {
            // Spread over the new interval, as after any probe.
            let latest = now.plus(self.dice.jitter(span));
            if let Some(&entry) = self.links.get(&link) {
                self.put(link, Entry { due: entry.due.min(latest), ..entry });
            }
        }
    }

    /// What a link is to us from now on. A new link is due within a tenth of a second, and one that
    /// became more important no later than its new interval allows.
    pub fn on_interest(&mut self, now: Instant, link: LinkId, interest: Interest) {
        let known = self.links.get(&link).copied();
        if known.is_some_and(|k| k.interest == interest) {
            return;
        }
        let was_idle = known.is_some_and(|k| k.interest == Interest::Idle);
        self.idle_links -= u32::from(was_idle);
        self.idle_links += u32::from(interest == Interest::Idle);
        let due = match known.and_then(|k| k.probed_at) {
            Some(probed_at) => probed_at.plus(self.interval(interest)).max(now),
            None => now.plus(Duration::from_micros(self.dice.below(100_000))),
        };
        let new = Entry { interest, due, probed_at: None, read_at: None, doubted_at: None };
        self.put(link, known.map_or(new, |known| Entry { interest, due, ..known }));
    }

    fn put(&mut self, link: LinkId, entry: Entry) {
        if let Some(old) = self.links.insert(link, entry) {
            self.queue.remove(&(old.due, link));
        }
        self.queue.insert((entry.due, link));
    }

    /// The link may have died: it is probed at once, unless it was doubted within the last `DOUBT_GAP`.
    pub fn on_doubt(&mut self, now: Instant, link: LinkId) {
        let Some(&entry) = self.links.get(&link) else { return };
        if entry.doubted_at.is_none_or(|at| now.since(at) >= DOUBT_GAP) {
            self.put(link, Entry { due: entry.due.min(now), doubted_at: Some(now), ..entry });
        }
    }

    /// A reading came.
    pub fn on_reading(&mut self, now: Instant, link: LinkId) {
        if let Some(entry) = self.links.get_mut(&link) {
            entry.read_at = Some(now);
        }
    }

    /// The link is down or gone: it is not probed (the forwarder tries to raise it by itself).
    pub fn on_gone(&mut self, link: LinkId) {
        if let Some(old) = self.links.remove(&link) {
            self.queue.remove(&(old.due, link));
            self.idle_links -= u32::from(old.interest == Interest::Idle);
        }
    }

    /// The next link to probe now, the more important first.
    pub fn poll_due(&mut self, now: Instant) -> Option<LinkId> {
        let due = self.queue.iter().take_while(|(at, _)| *at <= now);
        let due = due.filter_map(|(_, link)| Some((*link, *self.links.get(link)?)));
        let (link, entry) = due.min_by_key(|(link, e)| (e.interest, e.due, *link))?;
        if let Err(wait) = self.take_room(now, entry.interest) {
            self.deferred += 1;
            // Whoever is due now is no more important than this one, and waits with it.
            while let Some(&(at, link)) = self.queue.first().filter(|(at, _)| *at <= now) {
                match self.links.get(&link).copied() {
                    Some(entry) => self.put(link, Entry { due: now.plus(wait), ..entry }),
                    None => {
                        self.queue.remove(&(at, link));
                    }
                }
            }
            return None;
        }
        let pace = self.interval(entry.interest);
        // One probe that went unanswered, or half of the time that a reading lasts.
        let patience = (pace * 5 / 4).max(self.fresh(entry.interest) / 2);
        let old = entry.read_at.is_some_and(|at| now.since(at) >= patience);
        let next = self.dice.jitter(if old { pace / 2 } else { pace });
        self.put(link, Entry { due: now.plus(next), probed_at: Some(now), ..entry });
        Some(link)
    }

    /// When the next link is due.
    pub fn poll_timeout(&self) -> Option<Deadline> {
        let &(at, _) = self.queue.first()?;
        Some(Deadline { at, why: "probe due" })
    }

    /// How old a reading of this link may be; `None` for a link that is not probed.
    pub fn freshness(&self, link: LinkId) -> Option<Duration> {
        self.links.get(&link).map(|e| self.fresh(e.interest))
    }

    /// What the link is to us.
    pub fn interest(&self, link: LinkId) -> Option<Interest> {
        self.links.get(&link).map(|e| e.interest)
    }

    /// How often probes had to wait for the bound on bytes.
    pub const fn deferred(&self) -> u64 {
        self.deferred
    }

    fn interval(&self, interest: Interest) -> Duration {
        match interest {
            Interest::Used => self.config.used,
            Interest::Armed => self.config.armed,
            Interest::Idle => {
                let bits = u64::from(self.idle_links) * u64::from(self.config.probe_bytes) * 8;
                let more = u64::from(self.config.idle_bps_per_link) * u64::from(self.idle_links);
                let us = bits * 1_000_000 / (u64::from(self.config.idle_bps) + more).max(1);
                let most = (self.config.fresh_idle * 3 / 4).max(self.config.idle);
                Duration::from_micros(us).clamp(self.config.idle, most)
            }
        }
    }

    fn fresh(&self, interest: Interest) -> Duration {
        match interest {
            Interest::Used | Interest::Armed => self.config.fresh_used,
            Interest::Idle => self.config.fresh_idle,
        }
    }

    /// Takes room for one probe, or says how long to wait for it. A part of the room is kept for the
    /// more important: a quarter from the idle, an eighth from the armed.
    fn take_room(&mut self, now: Instant, interest: Interest) -> Result<(), Duration> {
        let cost = u64::from(self.config.probe_bytes) * 8;
        // Whatever the limit, two probes a second must be possible.
        let rate = u64::from(self.config.limit_bps).max(cost * 2);
        let earned = micros(now.since(self.room_at)).min(1_000_000) * rate / 1_000_000;
        if earned > 0 {
            self.room_bits = (self.room_bits + earned).min(rate);
            self.room_at = now;
        }
        let kept = match interest {
            Interest::Used => 0,
            Interest::Armed => rate / 8,
            Interest::Idle => rate / 4,
        };
        if self.room_bits >= cost + kept {
            self.room_bits -= cost;
            return Ok(());
        }
        let lacking = cost + kept - self.room_bits;
        Err(Duration::from_micros(lacking * 1_000_000 / rate + 1_000))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Instant {
        Instant::from_micros(ms * 1000)
    }

    fn schedule(config: ScheduleConfig) -> Schedule {
        Schedule::new(config, Dice::new(3), at(0))
    }

    /// Drives the schedule until `end_ms`; every probe for which `answers` holds is read 30 ms later.
    fn run(
        s: &mut Schedule,
        end_ms: u64,
        mut answers: impl FnMut(LinkId, Instant) -> bool,
    ) -> Vec<(Instant, LinkId)> {
        let mut probes = Vec::new();
        while let Some(next) = s.poll_timeout().filter(|d| d.at < at(end_ms)) {
            while let Some(link) = s.poll_due(next.at) {
                probes.push((next.at, link));
                if answers(link, next.at) {
                    s.on_reading(next.at.plus(Duration::from_millis(30)), link);
                }
            }
        }
        probes
    }

    fn longest_gap(probes: &[(Instant, LinkId)], link: LinkId) -> Duration {
        let times: Vec<_> = probes.iter().filter(|(_, l)| *l == link).map(|(t, _)| *t).collect();
        times.windows(2).map(|w| w[1].since(w[0])).max().unwrap()
    }

    #[test]
    fn the_interval_follows_the_interest() {
        let mut s = schedule(ScheduleConfig::default());
        for (link, interest) in [Interest::Used, Interest::Armed, Interest::Idle].iter().enumerate()
        {
            s.on_interest(at(0), LinkId(link as u16), *interest);
        }
        let probes = run(&mut s, 600_000, |_, _| true);
        let count = |l| probes.iter().filter(|(_, link)| *link == LinkId(l)).count();
        assert!((780..=820).contains(&count(0)), "{}", count(0));
        assert!((590..=615).contains(&count(1)), "{}", count(1));
        assert!((38..=43).contains(&count(2)), "{}", count(2));
        assert!(longest_gap(&probes, LinkId(0)) < Duration::from_secs(1));
        assert!(longest_gap(&probes, LinkId(2)) < Duration::from_secs(17));
    }

    #[test]
    fn with_half_of_the_probes_lost_readings_hardly_ever_grow_stale() {
        let mut s = schedule(ScheduleConfig::default());
        s.on_interest(at(0), LinkId(0), Interest::Used);
        s.on_interest(at(0), LinkId(1), Interest::Idle);
        let mut dice = Dice::new(5);
        let mut read = [at(0); 2];
        let mut stale = [0; 2];
        let limits = [s.freshness(LinkId(0)).unwrap(), s.freshness(LinkId(1)).unwrap()];
        run(&mut s, 3_600_000, |link, now| {
            let i = usize::from(link.0);
            let heard = dice.unit() < 0.5;
            if heard {
                stale[i] += u64::from(now.since(read[i]) > limits[i]);
                read[i] = now;
            }
            heard
        });
        // Five in a row must be lost: one in 32 runs.
        assert!(stale[0] < 3600 / 20 && stale[1] < 12, "{stale:?}");
    }

    #[test]
    fn a_link_that_becomes_used_is_probed_at_its_new_pace_at_once() {
        let mut s = schedule(ScheduleConfig::default());
        s.on_interest(at(0), LinkId(0), Interest::Idle);
        run(&mut s, 5_000, |_, _| true);
        s.on_interest(at(5_000), LinkId(0), Interest::Used);
        assert_eq!(s.poll_due(at(5_000)), Some(LinkId(0)));
        s.on_gone(LinkId(0));
        assert_eq!((s.poll_timeout(), s.freshness(LinkId(0))), (None, None));
    }

    #[test]
    fn a_doubted_link_is_asked_at_once_and_not_again_for_every_doubt() {
        let mut s = schedule(ScheduleConfig::default());
        s.on_interest(at(0), LinkId(0), Interest::Idle);
        run(&mut s, 2_000, |_, _| true);
        let mut asked = 0;
        for ms in 2_000..12_000 {
            s.on_doubt(at(ms), LinkId(0));
            asked += u32::from(s.poll_due(at(ms)).is_some());
        }
        assert_eq!(asked, 2, "a thousand doubts a second");
    }

    #[test]
    fn five_hundred_idle_links_stretch_to_their_share() {
        let mut s = schedule(ScheduleConfig::default());
        for link in 0..500 {
            s.on_interest(at(0), LinkId(link), Interest::Idle);
        }
        let probes = run(&mut s, 600_000, |_, _| true);
        let bps = (probes.len() as u64 - 500) * 220 * 8 / 600;
        assert!(bps < 31_000, "{bps}");
        assert!(longest_gap(&probes, LinkId(77)) < Duration::from_secs(60));
    }

    #[test]
    fn no_crowd_of_links_breaks_the_bound_and_the_used_come_first() {
        let config = ScheduleConfig { limit_bps: 20_000, ..ScheduleConfig::default() };
        let mut s = schedule(config);
        for link in 0..200 {
            s.on_interest(at(0), LinkId(link), Interest::Idle);
        }
        s.on_interest(at(0), LinkId(999), Interest::Used);
        let probes = run(&mut s, 60_000, |_, _| true);
        let bits = probes.len() as u64 * 220 * 8;
        assert!(bits <= 20_000 * 61, "{bits}");
        assert!(s.deferred() > 0);
        assert!(longest_gap(&probes, LinkId(999)) < Duration::from_secs(2));
    }

    #[test]
    fn shorter_intervals_hold_from_the_next_probe_on_and_longer_ones_too() {
        let slow = ScheduleConfig { idle: Duration::from_secs(60), ..ScheduleConfig::default() };
        let mut s = schedule(slow);
        s.on_interest(at(0), LinkId(0), Interest::Idle);
        assert_eq!(s.poll_due(at(100)), Some(LinkId(0)));
        assert!(s.poll_timeout().unwrap().at > at(50_000));
        s.reconfigure(at(200), ScheduleConfig { idle: Duration::from_secs(1), ..slow });
        assert!(s.poll_timeout().unwrap().at <= at(1_400));
        let due = s.poll_timeout().unwrap().at;
        assert_eq!(s.poll_due(due), Some(LinkId(0)));
        s.reconfigure(due, slow);
        assert!(s.poll_timeout().unwrap().at <= due.plus(Duration::from_millis(1_200)));
    }
}
