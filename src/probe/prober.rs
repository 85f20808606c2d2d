//! Numbers probes, remembers those that are out, and turns what comes back into readings.
//!
//! **Loss is counted per direction.** Outward: each reply says how many of our probes had reached the
//! peer and the highest of their numbers; between two replies the difference of the one is how many
//! arrived, of the other how many were sent. Inward: of those that arrived, how many replies came back; and
//! the gaps in the peer's own probes. A probe that overtook another is a loss taken back.
//!
//! **Nothing the peer says is believed beyond what can be.** Its counters start again with its process and
//! then only set a new beginning; a number we never sent, a hold longer than the whole round trip,
//! a jump of thousands are counted and dropped.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use crate::id::LinkId;
use crate::time::{Deadline, Instant};

/// Probes of one link that may be out at a time; older ones are given up.
const OUTSTANDING: usize = 64;
/// A gap in the peer's numbers above this is a restart and no loss: at one probe in 400 ms it would
/// be seven minutes of silence, long after which the link is down.
const GAP_LIMIT: u32 = 1024;
/// A probe that comes this many numbers late is from another time.
const REORDER: u32 = 64;

/// Sent and lost in one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// How many were sent.
    pub sent: u32,
    /// Of those, how many did not arrive.
    pub lost: u32,
}

/// What one event says of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reading {
    /// The round trip without the peer's hold, if this was a reply.
    pub rtt: Option<Duration>,
    /// From us to the peer.
    pub outward: Tally,
    /// From the peer to us.
    pub inward: Tally,
}

/// A reply to one of our probes, as the forwarder reports it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reply {
    /// The probe's number.
    pub seq: u32,
    /// When it left, our clock.
    pub sent_at: Instant,
    /// When the reply came, our clock.
    pub received_at: Instant,
    /// How long the peer held it.
    pub dwell: Duration,
    /// Highest number among our probes that reached the peer.
    pub peer_highest: u32,
    /// How many of them reached the peer since it began to count.
    pub peer_heard: u32,
}

/// Counts over all links since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProberStats {
    /// Probes asked for.
    pub sent: u64,
    /// Replies in time.
    pub replies: u64,
    /// Replies after their time was up; they count for the round trip all the same.
    pub late: u64,
    /// Probes whose time was up.
    pub unanswered: u64,
    /// Replies that cannot be: numbers never sent, clocks that run backwards, impossible counters.
    pub refused: u64,
}

/// A probe that is out.
#[derive(Clone, Copy, Debug)]
struct Out {
    seq: u32,
    asked_at: Instant,
    /// When its time is up, by what was known of the link when it left.
    up_at: Instant,
    /// Whether its time was up.
    late: bool,
}

#[derive(Debug, Default)]
struct LinkProbes {
    next_seq: u32,
    /// In order of number.
    out: VecDeque<Out>,
    srtt_us: f64,
    rttvar_us: f64,
    measured: bool,
    /// The peer's counters at the newest reply: highest number, how many heard.
    peer: Option<(u32, u32)>,
    /// Outward losses taken back before they could be set against new ones.
    outward_credit: u32,
    /// Replies since the newest counters, and replies that were taken for lost.
    inward_credit: u32,
    heard: Numbers,
}

/// All probes of this node.
#[derive(Debug)]
pub struct Prober {
    links: BTreeMap<LinkId, LinkProbes>,
    /// When each probe's time is up, while it is out.
    waiting: BTreeSet<(Instant, LinkId, u32)>,
    stats: ProberStats,
}

impl Prober {
    /// Shortest wait for a reply: below it a busy peer is taken for a lossy link.
    pub const MIN_TIMEOUT: Duration = Duration::from_millis(250);
    /// Longest wait, and the wait before anything was measured.
    pub const MAX_TIMEOUT: Duration = Duration::from_secs(3);

    /// No links yet.
    pub const fn new() -> Self {
        Self {
            links: BTreeMap::new(),
            waiting: BTreeSet::new(),
            stats: ProberStats { sent: 0, replies: 0, late: 0, unanswered: 0, refused: 0 },
        }
    }

    /// The number for a probe that leaves on this link now.
    pub fn probe(&mut self, now: Instant, link: LinkId) -> u32 {
        let probes = self.links.entry(link).or_default();
        let seq = probes.next_seq;
        probes.next_seq = seq.wrapping_add(1);
        if probes.out.len() >= OUTSTANDING
            && let Some(old) = probes.out.pop_front()
        {
            self.waiting.remove(&(old.up_at, link, old.seq));
        }
        let up_at = now.plus(probes.timeout());
        probes.out.push_back(Out { seq, asked_at: now, up_at, late: false });
        self.waiting.insert((up_at, link, seq));
        self.stats.sent += 1;
        seq
    }

    /// A reply came. `None` where it cannot be an answer to a probe of ours, or is its second one.
    pub fn on_reply(&mut self, link: LinkId, reply: &Reply) -> Option<Reading> {
        let Some(probes) = self.links.get_mut(&link) else {
            self.stats.refused += 1;
            return None;
        };
        let place = probes.out.iter().position(|out| out.seq == reply.seq);
        let fits = place.and_then(|place| {
            let flight = reply.received_at.since(reply.sent_at);
            let possible = reply.sent_at >= probes.out[place].asked_at
                && reply.received_at > reply.sent_at
                && reply.dwell < flight;
            possible.then(|| (place, flight - reply.dwell))
        });
        let Some((place, rtt)) = fits else {
            self.stats.refused += 1;
            return None;
        };
        let late = probes.out.remove(place).is_some_and(|out| {
            self.waiting.remove(&(out.up_at, link, out.seq));
            out.late
        });
        self.stats.replies += u64::from(!late);
        self.stats.late += u64::from(late);
        probes.on_rtt(rtt);
        let (outward, inward) = match probes.on_counters(reply.peer_highest, reply.peer_heard) {
            Some(tallies) => tallies,
            None => {
                self.stats.refused += 1;
                (Tally::default(), Tally::default())
            }
        };
        Some(Reading { rtt: Some(rtt), outward, inward })
    }

    /// A probe of the peer came (the forwarder has answered it).
    pub fn on_heard(&mut self, link: LinkId, seq: u32) -> Reading {
        let inward = self.links.entry(link).or_default().heard.on_number(seq);
        Reading { rtt: None, outward: Tally::default(), inward }
    }

    /// The clock reached `now`: links with probes whose time is newly up, each with how many.
    pub fn handle_timeout(&mut self, now: Instant) -> Vec<(LinkId, u32)> {
        let mut unanswered: BTreeMap<LinkId, u32> = BTreeMap::new();
        while let Some(&(at, link, seq)) = self.waiting.first().filter(|(at, ..)| *at <= now) {
            self.waiting.remove(&(at, link, seq));
            let probes = self.links.get_mut(&link);
            let out = probes.and_then(|probes| probes.out.iter_mut().find(|out| out.seq == seq));
            if let Some(out) = out {
                out.late = true;
                *unanswered.entry(link).or_default() += 1;
                self.stats.unanswered += 1;
            }
        }
        unanswered.into_iter().collect()
    }

    /// When the next probe's time is up.
    pub fn poll_timeout(&self) -> Option<Deadline> {
        let &(at, ..) = self.waiting.first()?;
        Some(Deadline { at, why: "probe unanswered" })
    }

    /// How long a reply on this link is waited for: `srtt + 4 · rttvar`, clamped.
    ///
    /// Source: RFC 6298 §2, without its doubling (probes are paced anyway).
    pub fn timeout(&self, link: LinkId) -> Duration {
        self.links.get(&link).map_or(Self::MAX_TIMEOUT, LinkProbes::timeout)
    }

    /// The link is down: what is out will not come back, and what was lost while it died says nothing
    /// of how it is when it lives. Numbers go on, since the peer remembers the highest.
    pub fn on_down(&mut self, link: LinkId) {
        if let Some(probes) = self.links.get_mut(&link) {
            for out in &probes.out {
                self.waiting.remove(&(out.up_at, link, out.seq));
            }
            let next_seq = probes.next_seq;
            *probes = LinkProbes { next_seq, ..LinkProbes::default() };
        }
    }

    /// The link is gone.
    pub fn on_gone(&mut self, link: LinkId) {
        if let Some(probes) = self.links.remove(&link) {
            for out in &probes.out {
                self.waiting.remove(&(out.up_at, link, out.seq));
            }
        }
    }

    /// What was counted.
    pub const fn stats(&self) -> ProberStats {
        self.stats
    }
}

impl Default for Prober {
    fn default() -> Self {
        Self::new()
    }
}

impl LinkProbes {
    fn on_rtt(&mut self, rtt: Duration) {
        let us = rtt.as_micros() as f64;
        if self.measured {
            self.rttvar_us += ((self.srtt_us - us).abs() - self.rttvar_us) / 4.0;
            self.srtt_us += (us - self.srtt_us) / 8.0;
        } else {
            (self.srtt_us, self.rttvar_us, self.measured) = (us, us / 2.0, true);
        }
    }

    fn timeout(&self) -> Duration {
        if !self.measured {
            return Prober::MAX_TIMEOUT;
        }
        let us = (self.srtt_us + 4.0 * self.rttvar_us).min(1e9) as u64;
        Duration::from_micros(us).clamp(Prober::MIN_TIMEOUT, Prober::MAX_TIMEOUT)
    }

    /// What the peer's counters say since the last reply. `None` if they cannot be.
    fn on_counters(&mut self, highest: u32, heard: u32) -> Option<(Tally, Tally)> {
        let never_sent = self.next_seq.wrapping_sub(highest).wrapping_sub(1) > u32::MAX / 2;
        if never_sent {
            return None;
        }
        let Some((last_highest, last_heard)) = self.peer else {
            self.peer = Some((highest, heard));
            return Some((Tally::default(), Tally::default()));
        };
        let sent = highest.wrapping_sub(last_highest);
        let arrived = heard.wrapping_sub(last_heard);
        if sent > u32::MAX / 2 || (sent == 0 && arrived > u32::MAX / 2) {
            // The counters of an earlier moment: a reply that was overtaken, unless the peer began
            // anew, which shows in a count that fits a beginning.
            if heard <= REORDER && last_heard > 2 * REORDER {
                self.peer = Some((highest, heard));
                return Some((Tally::default(), Tally::default()));
            }
            // Its loss was counted with the newer one and is taken back.
            self.inward_credit += 1;
            return Some((Tally::default(), Tally::default()));
        }
        self.peer = Some((highest, heard));
        if sent > GAP_LIMIT || arrived > sent + REORDER {
            // A restart, or a peer whose numbers mean nothing: a new beginning either way.
            (self.outward_credit, self.inward_credit) = (0, 0);
            return Some((Tally::default(), Tally::default()));
        }
        let outward_lost = settle(i64::from(sent) - i64::from(arrived), &mut self.outward_credit);
        // This very reply is one of those that came back.
        let inward_lost = settle(i64::from(arrived) - 1, &mut self.inward_credit);
        let inward = Tally { sent: arrived, lost: inward_lost.min(arrived) };
        Some((Tally { sent, lost: outward_lost.min(sent) }, inward))
    }
}

/// Losses after earlier ones that were taken back are set against them; a negative number is taken
/// back from later ones.
fn settle(lost: i64, credit: &mut u32) -> u32 {
    let net = lost - i64::from(*credit);
    *credit = u32::try_from(-net).unwrap_or(0).min(REORDER);
    u32::try_from(net).unwrap_or(0)
}

/// A run of numbers from elsewhere, of which some are missing.
#[derive(Debug, Default)]
struct Numbers {
    highest: Option<u32>,
    credit: u32,
}

impl Numbers {
    fn on_number(&mut self, seq: u32) -> Tally {
        let Some(highest) = self.highest else {
            self.highest = Some(seq);
            return Tally::default();
        };
        let ahead = seq.wrapping_sub(highest);
        if ahead == 0 {
            return Tally::default();
        }
        if ahead.wrapping_neg() <= REORDER {
            self.credit = (self.credit + 1).min(REORDER);
            return Tally::default();
        }
        self.highest = Some(seq);
        if ahead > GAP_LIMIT {
            self.credit = 0;
            return Tally::default();
        }
        Tally { sent: ahead, lost: settle(i64::from(ahead) - 1, &mut self.credit) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LINK: LinkId = LinkId(3);

    fn at(ms: u64) -> Instant {
        Instant::from_micros(ms * 1000)
    }

    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    /// A peer that counts as it should, behind a line that loses what it is told to.
    struct Line {
        prober: Prober,
        now: u64,
        highest: u32,
        heard: u32,
    }

    impl Line {
        fn new() -> Self {
            Self { prober: Prober::new(), now: 0, highest: 0, heard: 0 }
        }

        fn round(&mut self, out: bool, back: bool) -> Option<Reading> {
            self.now += 500;
            let seq = self.prober.probe(at(self.now), LINK);
            if out {
                (self.highest, self.heard) = (seq, self.heard.wrapping_add(1));
            }
            (out && back).then(|| self.reply(seq)).flatten()
        }

        fn reply(&mut self, seq: u32) -> Option<Reading> {
            let reply = Reply {
                seq,
                sent_at: at(self.now),
                received_at: at(self.now + 40),
                dwell: ms(10),
                peer_highest: self.highest,
                peer_heard: self.heard,
            };
            self.prober.on_reply(LINK, &reply)
        }
    }

    fn sum(readings: impl IntoIterator<Item = Option<Reading>>) -> (Tally, Tally) {
        let mut total = (Tally::default(), Tally::default());
        for r in readings.into_iter().flatten() {
            total.0.sent += r.outward.sent;
            total.0.lost += r.outward.lost;
            total.1.sent += r.inward.sent;
            total.1.lost += r.inward.lost;
        }
        total
    }

    #[test]
    fn a_reply_gives_the_round_trip_without_the_peer_s_hold() {
        let mut line = Line::new();
        assert_eq!(line.round(true, true).unwrap().rtt, Some(ms(30)));
        assert_eq!(line.prober.stats().replies, 1);
    }

    #[test]
    fn the_directions_of_loss_are_told_apart() {
        let mut line = Line::new();
        let readings: Vec<_> = (0..101).map(|i| line.round(i % 10 != 5, i % 20 != 12)).collect();
        let (outward, inward) = sum(readings);
        assert_eq!(outward, Tally { sent: 100, lost: 10 });
        assert_eq!(inward, Tally { sent: 90, lost: 5 });
    }

    #[test]
    fn what_an_outage_swallowed_is_no_loss_of_the_link_that_came_back() {
        let mut line = Line::new();
        let before: Vec<_> = (0..11).map(|_| line.round(true, true)).collect();
        let swallowed = (0..5).filter_map(|_| line.round(false, false)).count();
        assert_eq!(swallowed, 0);
        line.prober.on_down(LINK);
        assert_eq!(line.prober.poll_timeout(), None, "nothing is waited for");
        let after: Vec<_> = (0..11).map(|_| line.round(true, true)).collect();
        let (outward, inward) = sum(before.into_iter().chain(after));
        assert_eq!((outward.sent, outward.lost, inward.lost), (20, 0, 0));
    }

    #[test]
    fn an_unanswered_probe_is_noticed_once_and_its_late_reply_still_read() {
        let mut line = Line::new();
        line.round(true, true);
        line.round(true, false);
        let due = line.prober.poll_timeout().unwrap();
        assert_eq!(due.at, at(1000).plus(Prober::MIN_TIMEOUT));
        assert_eq!(line.prober.handle_timeout(due.at), [(LINK, 1)]);
        assert_eq!(line.prober.handle_timeout(at(9000)), []);
        assert_eq!(line.prober.poll_timeout(), None);
        assert!(line.reply(1).is_some());
        assert_eq!((line.prober.stats().late, line.prober.stats().unanswered), (1, 1));
    }

    #[test]
    fn a_reply_counts_once_and_one_to_nothing_not_at_all() {
        let mut line = Line::new();
        line.round(true, true);
        assert_eq!(line.reply(0), None, "its second reply");
        assert_eq!(line.reply(77), None, "never sent");
        assert_eq!(
            line.prober.on_reply(
                LinkId(9),
                &Reply {
                    seq: 0,
                    sent_at: at(0),
                    received_at: at(1),
                    dwell: ms(0),
                    peer_highest: 0,
                    peer_heard: 1,
                }
            ),
            None,
            "no such link"
        );
        assert_eq!(line.prober.stats().refused, 3);
    }

    #[test]
    fn a_hold_longer_than_the_flight_and_a_departure_before_its_time_are_refused() {
        let mut prober = Prober::new();
        let seq = prober.probe(at(100), LINK);
        let good = Reply {
            seq,
            sent_at: at(100),
            received_at: at(140),
            dwell: ms(5),
            peer_highest: 0,
            peer_heard: 1,
        };
        for bad in [
            Reply { dwell: ms(40), ..good },
            Reply { sent_at: at(99), ..good },
            Reply { received_at: at(100), ..good },
        ] {
            assert_eq!(prober.on_reply(LINK, &bad), None);
        }
        assert!(prober.on_reply(LINK, &good).is_some());
    }

    #[test]
    fn a_peer_that_restarts_causes_no_loss() {
        let mut line = Line::new();
        let mut readings: Vec<_> = (0..200).map(|_| line.round(true, true)).collect();
        line.heard = 0;
        readings.extend((0..50).map(|_| line.round(true, true)));
        let (outward, inward) = sum(readings);
        assert_eq!((outward.lost, inward.lost), (0, 0));
        assert!(outward.sent >= 240, "{outward:?}");
    }

    #[test]
    fn overtaken_replies_take_their_loss_back() {
        let mut prober = Prober::new();
        let mut total = (Tally::default(), Tally::default());
        for round in 0..50u32 {
            let seqs = [0, 1].map(|i| prober.probe(at(u64::from(round) * 100 + i), LINK));
            // Both arrive in order; their replies swap places.
            for (i, seq) in [(1, seqs[1]), (0, seqs[0])] {
                let reply = Reply {
                    seq,
                    sent_at: at(u64::from(round) * 100 + i),
                    received_at: at(u64::from(round) * 100 + 30),
                    dwell: ms(0),
                    peer_highest: seq,
                    peer_heard: seq + 1,
                };
                let reading = prober.on_reply(LINK, &reply);
                let (o, i) = sum([reading]);
                total.0.lost += o.lost;
                total.1.lost += i.lost;
            }
        }
        assert_eq!(total.0.lost, 0);
        assert!(total.1.lost <= 1, "all but the newest are taken back: {total:?}");
    }

    #[test]
    fn gaps_in_the_peer_s_numbers_are_inward_losses_and_wraps_are_not() {
        let mut prober = Prober::new();
        let mut tally = Tally::default();
        for seq in [u32::MAX - 2, u32::MAX - 1, 0, 1, u32::MAX, 2, 2, 5] {
            let inward = prober.on_heard(LINK, seq).inward;
            tally.sent += inward.sent;
            tally.lost += inward.lost;
        }
        // MAX came late: one of the later losses (3 and 4) is set against it.
        assert_eq!(tally, Tally { sent: 8, lost: 2 });
        assert_eq!(prober.on_heard(LINK, 900_000).inward, Tally::default(), "a restart");
    }

    #[test]
    fn memory_is_bounded_when_nothing_ever_comes_back() {
        let mut prober = Prober::new();
        for i in 0..10_000 {
            prober.probe(at(i), LINK);
        }
        assert_eq!(prober.links[&LINK].out.len(), OUTSTANDING);
    }

    proptest! {
        #[test]
        fn no_counters_make_more_losses_than_probes(
            counters in proptest::collection::vec((any::<u32>(), any::<u32>(), any::<bool>()), 1..60),
        ) {
            let mut prober = Prober::new();
            let mut lost = 0u64;
            for (i, (a, b, near)) in counters.iter().enumerate() {
                let seq = prober.probe(at(i as u64 * 100), LINK);
                let (highest, heard) = if *near { (seq - seq.min(a % 5), b % 100) } else { (*a, *b) };
                let reply = Reply {
                    seq,
                    sent_at: at(i as u64 * 100),
                    received_at: at(i as u64 * 100 + 20),
                    dwell: Duration::ZERO,
                    peer_highest: highest,
                    peer_heard: heard,
                };
                if let Some(r) = prober.on_reply(LINK, &reply) {
                    prop_assert!(r.outward.lost <= r.outward.sent && r.inward.lost <= r.inward.sent);
                    lost += u64::from(r.outward.lost);
                }
                let heard = prober.on_heard(LINK, *a).inward;
                prop_assert!(heard.lost <= heard.sent);
            }
            prop_assert!(lost <= counters.len() as u64 * 6, "{}", lost);
        }
    }
}
