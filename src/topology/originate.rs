//! When a node speaks of its own links: at once when one dies or comes back, within a second when one
//! becomes much worse, together and rarely when values drift.
//!
//! Each value has a band around what was last said; leaving it makes the record due, but not before
//! a gap since the last one, which grows with the mesh so that link state stays a small share of
//! the network. Everything that changed meanwhile goes into the same record. News of life and
//! death waits for nothing but the tail of its own burst, until links that come and go have used up
//! what may be said at once.
//!
//! A link in use that became much worse is left by paths elsewhere whose nodes cannot measure it, so it is
//! told within `worse_gap`, from a budget of its own. Once told, a link must be much worse than *that* to be
//! told so again within `worse_calm`: one that swings is told at the pace of what moved.
//!
//! What is said is, most of the time, only the difference from the last whole record (see
//! [`lsa`](super::lsa)): in a mesh of hundreds a whole record to everyone is megabytes.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::id::NodeId;
use crate::quality::{LinkQuality, LinkState};
use crate::rng::Dice;
use crate::session::trust::Signer;
use crate::time::{Deadline, Instant, micros};
use crate::topology::lsa::{Lsa, LsaLink, MAX_LINKS, Version};
use crate::unit::Ratio;

/// How eagerly a node speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OriginateConfig {
    /// Least time between two records that only carry moved values.
    pub gap: Duration,
    /// The gap is at least this much per node of the mesh: 500 nodes wait 13 s.
    pub gap_per_node: Duration,
    /// Bits per second that records of moved values to all peers may take: a long record is followed by
    /// a long gap.
    pub moved_bps: u64,
    /// The gap is no longer than this all the same.
    pub gap_most: Duration,
    /// Least time between the last record and one that only comes because a link became much worse.
    pub worse_gap: Duration,
    /// So many of those may be said at that pace.
    pub worse_burst: u32,
    /// In the long run they are this far apart.
    pub worse_pace: Duration,
    /// Bits per second that they may take to all peers in the long run: a long one counts for more.
    pub worse_bps: u64,
    /// How long a link that was told to be much worse must be worse than that, to be told so again.
    pub worse_calm: Duration,
    /// Least time between two records that carry a death or a recovery; what happens within it goes
    /// together. A node that dies takes all its links down within milliseconds.
    pub urgent_gap: Duration,
    /// In a mesh of more than `whole_links` nodes, links that appear, or are measured for the first
    /// time, within this time are told together.
    pub found_gap: Duration,
    /// Bits per second that records of such links to all peers may take, as `moved_bps`; but the gap is
    /// never longer than `gap`.
    pub found_bps: u64,
    /// So many urgent records may be said at their pace.
    pub urgent_burst: u32,
    /// In the long run they are this far apart: a link that flaps is damped here, at its origin.
    pub urgent_pace: Duration,
    /// Up to this many links a record is always whole.
    pub whole_links: usize,
    /// A record is said again after this long, so that a hole in somebody's knowledge closes.
    pub refresh: Duration,
    /// How long others may believe a record. Several refreshes.
    pub lifetime: Duration,
}

impl Default for OriginateConfig {
    fn default() -> Self {
        Self {
            gap: Duration::from_secs(10),
            gap_per_node: Duration::from_millis(26),
            moved_bps: 30_000,
            gap_most: Duration::from_secs(600),
            worse_gap: Duration::from_secs(1),
            worse_burst: 4,
            worse_pace: Duration::from_secs(10),
            worse_bps: 10_000,
            worse_calm: Duration::from_secs(120),
            urgent_gap: Duration::from_millis(50),
            found_gap: Duration::from_millis(500),
            found_bps: 2_000_000,
            urgent_burst: 16,
            urgent_pace: Duration::from_secs(2),
            whole_links: 16,
            refresh: Duration::from_secs(240),
            lifetime: Duration::from_secs(900),
        }
    }
}

/// Why the next record is owed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Owed {
    /// Nothing moved.
    Refresh,
    /// A value left its band.
    Moved,
    /// A link appeared, or has its first reading: many do while a mesh comes together, and each carries
    /// its own peer's traffic before anybody hears of it.
    Found,
    /// A link died, came back or went; or another record of ours is about.
    Urgent,
}

/// A link that was told to be much worse.
#[derive(Clone, Copy, Debug)]
struct ToldWorse {
    /// As it was then.
    link: LsaLink,
    /// Until when it is measured against that.
    until: Instant,
    /// Whether it became worse again, by less, and waits for the pace of what moved.
    waits: bool,
}

/// Decides when this node's next record is due, and writes it.
#[derive(Debug)]
pub struct Originator {
    config: OriginateConfig,
    own: NodeId,
    version: Version,
    relay: bool,
    withdrawn: bool,
    now_links: BTreeMap<NodeId, LsaLink>,
    /// What others believe now.
    said_links: BTreeMap<NodeId, LsaLink>,
    /// Neighbours whose links were measured since they came up: to others a link is of use from then on.
    measured: BTreeSet<NodeId>,
    /// The last whole record.
    whole: Option<(Version, BTreeMap<NodeId, LsaLink>)>,
    owed: Owed,
    /// Neighbours whose links carry traffic.
    used: BTreeSet<NodeId>,
    /// Links in use that became much worse since others heard of them.
    worse: BTreeSet<NodeId>,
    /// Of links that were told to be much worse: how they were then.
    told_worse: BTreeMap<NodeId, ToldWorse>,
    /// When all the records so far that came because of them would have been said at their pace.
    worse_at: Instant,
    said_at: Option<Instant>,
    /// Its bits to all peers.
    said_bits: u64,
    /// When all the urgent records so far would have been said at their pace.
    urgent_at: Instant,
    refresh_at: Instant,
    mesh: usize,
    dice: Dice,
    stats: OriginatorStats,
}

/// What an originator has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OriginatorStats {
    /// Records written, refreshes included.
    pub written: u64,
    /// Of those: because of a death or a recovery.
    pub urgent: u64,
    /// Of all: because a link became much worse.
    pub worse: u64,
    /// Times a link became much worse again so soon that it waited for the pace of what moved.
    pub damped: u64,
    /// Of all: differences from a whole one.
    pub differences: u64,
    /// Links not taken in because the record was full.
    pub refused: u64,
}

/// What a record costs on a stream beside its own bytes: headers of UDP, IP and QUIC, an
/// acknowledgement now and then.
const RECORD_OVERHEAD: usize = 100;
/// When more than one link in so many differs, a whole record says it better: each later difference
/// would say all of them again.
const WHOLE_PART: usize = 3;

impl Originator {
    /// A node with this boot counter that has no links yet. Its first record is due at once.
    pub fn new(config: OriginateConfig, own: NodeId, boot: u64, relay: bool, dice: Dice) -> Self {
        Self {
            config,
            own,
            version: Version { boot, sequence: 0 },
            relay,
            withdrawn: false,
            now_links: BTreeMap::new(),
            said_links: BTreeMap::new(),
            measured: BTreeSet::new(),
            whole: None,
            owed: Owed::Urgent,
            used: BTreeSet::new(),
            worse: BTreeSet::new(),
            told_worse: BTreeMap::new(),
            worse_at: Instant::ZERO,
            said_at: None,
            said_bits: 0,
            urgent_at: Instant::ZERO,
            refresh_at: Instant::ZERO,
            mesh: 1,
            dice,
            stats: OriginatorStats::default(),
        }
    }

    /// What is known of the links to a neighbour: whether one works, and how they are each way, where
    /// the reading is fresh. Repeating it costs nothing.
    pub fn on_link(&mut self, link: LsaLink) {
        let node = link.neighbour;
        if node == self.own || self.withdrawn {
            return;
        }
        if self.now_links.len() >= MAX_LINKS && !self.now_links.contains_key(&node) {
            self.stats.refused += 1;
            return;
        }
        // What has never worked is no news: it would be said again when it does.
        if !link.up && !self.now_links.contains_key(&node) {
            return;
        }
        let link = if link.up { link } else { LsaLink { outward: None, inward: None, ..link } };
        self.now_links.insert(node, link);
        self.review_worse(&link);
        let first = match (link.up, link.outward.or(link.inward)) {
            (false, _) => {
                self.measured.remove(&node);
                false
            }
            (true, reading) => reading.is_some() && self.measured.insert(node),
        };
        let owed = match self.said_links.get(&node) {
            Some(said) if said.up != link.up => Owed::Urgent,
            // Among few a reading waits for the gap: heard at once, it would have others go over us to whom
            // they are about to measure themselves.
            Some(said)
                if first && self.mesh > self.config.whole_links && left_band(said, &link) =>
            {
                Owed::Found
            }
            Some(said) if left_band(said, &link) => Owed::Moved,
            Some(_) => return,
            None => Owed::Found,
        };
        self.owed = self.owed.max(owed);
    }

    /// Whether the link to a neighbour carries traffic, ours or others'. Nobody waits to leave one that
    /// carries none.
    pub fn on_use(&mut self, neighbour: NodeId, used: bool) {
        if used && self.now_links.contains_key(&neighbour) {
            self.used.insert(neighbour);
        } else {
            self.used.remove(&neighbour);
        }
    }

    /// Whether a link is to be told as much worse.
    fn review_worse(&mut self, link: &LsaLink) {
        let node = link.neighbour;
        let used = self.used.contains(&node);
        let news = used && self.said_links.get(&node).is_some_and(|said| much_worse(said, link));
        let told = self.told_worse.get_mut(&node);
        let damped = news && told.as_ref().is_some_and(|told| !much_worse(&told.link, link));
        if let Some(told) = told {
            let waited = std::mem::replace(&mut told.waits, damped);
            self.stats.damped += u64::from(damped && !waited);
        }
        if news && !damped {
            self.worse.insert(node);
        } else {
            self.worse.remove(&node);
        }
    }

    /// The neighbour is no member any more: the link is not even down.
    pub fn on_neighbour_gone(&mut self, neighbour: NodeId) {
        self.measured.remove(&neighbour);
        self.used.remove(&neighbour);
        self.worse.remove(&neighbour);
        self.told_worse.remove(&neighbour);
        if self.now_links.remove(&neighbour).is_some() && self.said_links.contains_key(&neighbour) {
            self.owed = Owed::Urgent;
        }
    }

    /// How many nodes the mesh has.
    pub fn on_mesh_size(&mut self, nodes: usize) {
        self.mesh = nodes;
    }

    /// Whether this node carries others' traffic.
    pub fn on_consent(&mut self, relay: bool) {
        if self.relay != relay {
            self.relay = relay;
            self.owed = Owed::Urgent;
        }
    }

    /// A record of ours is about that we do not remember (from before a lost state file, or a twin
    /// with our key): the next one jumps past it.
    pub fn on_own_record(&mut self, seen: Version) {
        if seen >= self.version {
            self.version = seen;
            self.owed = Owed::Urgent;
        }
    }

    /// Our key is another one: what was signed with the old one is said again.
    pub fn on_new_key(&mut self) {
        // A difference would send who lacks the whole one to a record of the old key.
        self.whole = None;
        self.owed = Owed::Urgent;
    }

    /// Says goodbye: one last record, without links.
    pub fn withdraw(&mut self) {
        self.withdrawn = true;
        self.used.clear();
        self.worse.clear();
        self.now_links.clear();
        self.owed = Owed::Urgent;
    }

    /// The next record if one is due, signed.
    pub fn poll_record(&mut self, now: Instant, signer: &dyn Signer) -> Option<Vec<u8>> {
        self.told_worse.retain(|_, told| told.until > now);
        if now < self.due() {
            return None;
        }
        // What is due all the same takes along what became worse, and costs its budget nothing.
        let for_worse = self.said_at.is_some_and(|said_at| now < self.ordinary_due(said_at));
        self.version = self.version.next();
        self.stats.written += 1;
        if self.owed == Owed::Urgent {
            self.stats.urgent += 1;
            self.urgent_at = self.urgent_at.max(now).plus(self.config.urgent_pace);
        }
        for node in std::mem::take(&mut self.worse) {
            let until = now.plus(self.config.worse_calm);
            let told = |&link: &LsaLink| ToldWorse { link, until, waits: false };
            self.told_worse.extend(self.now_links.get(&node).map(|link| (node, told(link))));
        }
        self.owed = Owed::Refresh;
        self.said_at = Some(now);
        self.refresh_at = now.plus(self.dice.jitter(self.config.refresh));
        let (base, links) = match self.difference() {
            Some((base, links)) => {
                self.stats.differences += 1;
                (Some(base), links)
            }
            None => {
                self.whole = Some((self.version, self.now_links.clone()));
                self.said_links.clone_from(&self.now_links);
                (None, self.now_links.values().copied().collect())
            }
        };
        let (origin, version, relay, withdrawn) =
            (self.own, self.version, self.relay, self.withdrawn);
        let lifetime = self.config.lifetime;
        let record = Lsa { origin, version, relay, withdrawn, lifetime, base, links }.write(signer);
        let bits = (record.len() + RECORD_OVERHEAD) as u64 * 8;
        self.said_bits = bits.saturating_mul(self.mesh.saturating_sub(1) as u64);
        if for_worse {
            self.stats.worse += 1;
            let costs = self.said_costs(self.config.worse_bps).min(self.config.gap_most);
            self.worse_at = self.worse_at.max(now).plus(costs.max(self.config.worse_pace));
        }
        Some(record)
    }

    /// How long the last record keeps a line of this rate busy.
    fn said_costs(&self, bps: u64) -> Duration {
        Duration::from_micros(self.said_bits.saturating_mul(1_000_000) / bps.max(1))
    }

    /// What is no longer as the last whole record has it, and that record's sequence; `None` where
    /// another whole one says it better.
    fn difference(&mut self) -> Option<(u32, Vec<LsaLink>)> {
        let (version, whole) = self.whole.as_ref()?;
        let named = whole.keys().all(|node| self.now_links.contains_key(node));
        let fits = version.boot == self.version.boot && !self.withdrawn && named;
        if !fits || self.now_links.len() <= self.config.whole_links {
            return None;
        }
        let differs = |now: &LsaLink| match whole.get(&now.neighbour) {
            Some(then) => then.up != now.up || left_band(then, now),
            None => true,
        };
        let links: Vec<LsaLink> =
            self.now_links.values().filter(|now| differs(now)).copied().collect();
        if links.len() * WHOLE_PART > self.now_links.len() {
            return None;
        }
        self.said_links.clone_from(whole);
        self.said_links.extend(links.iter().map(|link| (link.neighbour, *link)));
        Some((version.sequence, links))
    }

    /// When the next record is due.
    pub fn poll_timeout(&self) -> Option<Deadline> {
        let due = self.due();
        let ordinary = self.said_at.is_none_or(|said_at| self.ordinary_due(said_at) <= due);
        let why = match self.owed {
            _ if !ordinary => "link much worse",
            Owed::Refresh => "link state refresh",
            Owed::Moved => "link state moved",
            Owed::Found => "link found",
            Owed::Urgent => "link state urgent",
        };
        Some(Deadline { at: due, why })
    }

    /// The name of the latest record; its boot counter goes into the state file.
    pub const fn version(&self) -> Version {
        self.version
    }

    /// What was done so far.
    pub const fn stats(&self) -> OriginatorStats {
        self.stats
    }

    fn due(&self) -> Instant {
        let Some(said_at) = self.said_at else { return Instant::ZERO };
        let ordinary = self.ordinary_due(said_at);
        if self.worse.is_empty() {
            return ordinary;
        }
        let room = self.config.worse_pace * self.config.worse_burst.saturating_sub(1);
        said_at.plus(self.config.worse_gap).max(self.worse_at.minus(room)).min(ordinary)
    }

    /// When the next record would be due had nothing become much worse.
    fn ordinary_due(&self, said_at: Instant) -> Instant {
        match self.owed {
            Owed::Refresh => self.refresh_at,
            Owed::Moved => {
                let mesh = u32::try_from(self.mesh).unwrap_or(u32::MAX);
                let gap = self.config.gap.max(self.config.gap_per_node.saturating_mul(mesh));
                let costs = self.said_costs(self.config.moved_bps).min(self.config.gap_most);
                said_at.plus(gap.max(costs)).min(self.refresh_at)
            }
            Owed::Found if self.mesh <= self.config.whole_links => {
                said_at.plus(self.config.urgent_gap)
            }
            Owed::Found => {
                let costs = self.said_costs(self.config.found_bps).min(self.config.gap);
                said_at.plus(costs.max(self.config.found_gap))
            }
            Owed::Urgent => {
                let room = self.config.urgent_pace * self.config.urgent_burst.saturating_sub(1);
                said_at.plus(self.config.urgent_gap).max(self.urgent_at.minus(room))
            }
        }
    }
}

/// Whether what is said now differs enough from what was said to be said again.
fn left_band(said: &LsaLink, now: &LsaLink) -> bool {
    state_left(said.outward.as_ref(), now.outward.as_ref())
        || state_left(said.inward.as_ref(), now.inward.as_ref())
}

fn state_left(said: Option<&LinkState>, now: Option<&LinkState>) -> bool {
    let (said, now) = match (said, now) {
        (Some(said), Some(now)) => (said, now),
        (said, now) => return said.is_some() != now.is_some(),
    };
    let expected = match (&said.expected, &now.expected) {
        (Some(a), Some(b)) => quality_left(a, b),
        (a, b) => a.is_some() != b.is_some(),
    };
    let residual = match (said.residual, now.residual) {
        (Some(a), Some(b)) => loss_left(a, b),
        (a, b) => a.is_some() != b.is_some(),
    };
    // A forecast counts from a half, so crossing that is news; else a fifth of confidence is.
    let trusted = |s: &LinkState| s.confidence.as_ppm() >= TRUSTED_PPM;
    let confidence = said.confidence.as_ppm().abs_diff(now.confidence.as_ppm()) > 200_000;
    quality_left(&said.present, &now.present)
        || expected
        || residual
        || trusted(said) != trusted(now)
        || confidence
        || said.price != now.price
}

/// Whether a link is so much worse than it was said to be, either way, that paths are left for it: what a
/// user would call a fault, and beyond what a reading may be off by chance.
fn much_worse(said: &LsaLink, now: &LsaLink) -> bool {
    let worse = |said: Option<LinkState>, now: Option<LinkState>| {
        said.zip(now).is_some_and(|(said, now)| {
            let (was, is) = (decides(&said), decides(&now));
            let (was_us, is_us) = (micros(was.delay), micros(is.delay));
            is_us > was_us.saturating_add((was_us / WORSE_DIVISOR).max(WORSE_US))
                || is.loss.as_ppm() > was.loss.as_ppm().saturating_mul(2).saturating_add(WORSE_PPM)
        })
    };
    worse(said.outward, now.outward) || worse(said.inward, now.inward)
}

/// What others judge a path by: the forecast where it is trusted, else the present.
fn decides(state: &LinkState) -> LinkQuality {
    state.expected.filter(|_| state.confidence.as_ppm() >= TRUSTED_PPM).unwrap_or(state.present)
}

/// A link is much worse by this part of its delay and by this much one way (a quarter and 10 ms of a
/// round trip), µs.
const WORSE_DIVISOR: u64 = 4;
const WORSE_US: u64 = 5_000;
/// Or by twice its loss and this much: one lost probe of an idle link makes 4.5 % of nothing.
const WORSE_PPM: u32 = 50_000;
/// A forecast counts from this confidence.
const TRUSTED_PPM: u32 = 500_000;

/// Delay: 3 % and half a millisecond one way, the band within which a level is one level. Jitter
/// decides less: half of it and 2 ms.
fn quality_left(said: &LinkQuality, now: &LinkQuality) -> bool {
    let (delay, jitter) = (micros(said.delay), micros(said.jitter));
    micros(now.delay).abs_diff(delay) > (delay / 33).max(500)
        || micros(now.jitter).abs_diff(jitter) > (jitter / 2).max(2_000)
        || loss_left(said.loss, now.loss)
}

/// A third of the loss, and at least 0.3 %.
fn loss_left(said: Ratio, now: Ratio) -> bool {
    now.as_ppm().abs_diff(said.as_ppm()) > (said.as_ppm() / 3).max(3_000)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::sign::Ed25519Signer;

    fn n(number: u16) -> NodeId {
        NodeId::new(number).unwrap()
    }

    fn at(ms: u64) -> Instant {
        Instant::from_micros(ms * 1000)
    }

    fn link(neighbour: u16, delay_us: u64) -> LsaLink {
        let state = LinkState::measured(LinkQuality {
            delay: Duration::from_micros(delay_us),
            jitter: Duration::ZERO,
            loss: Ratio::ZERO,
        });
        LsaLink { neighbour: n(neighbour), up: true, outward: Some(state), inward: Some(state) }
    }

    fn down(neighbour: u16) -> LsaLink {
        LsaLink { neighbour: n(neighbour), up: false, outward: None, inward: None }
    }

    struct Speaker(Originator, Ed25519Signer);

    impl Speaker {
        fn new() -> Self {
            let config = OriginateConfig::default();
            let signer = Ed25519Signer::from_seed(&[1; 32]).unwrap();
            Self(Originator::new(config, n(1), 4, true, Dice::new(1)), signer)
        }

        fn says(&mut self, now: Instant) -> Option<Lsa> {
            let record = self.0.poll_record(now, &self.1)?;
            Some(Lsa::open(&record, &self.1.public_key()).unwrap())
        }
    }

    #[test]
    fn the_first_record_is_said_at_once_and_repetition_is_silent() {
        let mut node = Speaker::new();
        node.0.on_link(link(2, 10_000));
        let first = node.says(at(0)).unwrap();
        assert_eq!((first.version.boot, first.links.len()), (4, 1));
        node.0.on_link(link(2, 10_200));
        assert_eq!(node.says(at(60_000)), None, "2 % is within the band");
    }

    #[test]
    fn values_that_moved_wait_for_the_gap_and_go_together() {
        let mut node = Speaker::new();
        node.0.on_link(link(2, 10_000));
        node.0.on_link(link(3, 10_000));
        node.says(at(0)).unwrap();
        node.0.on_link(link(2, 12_000));
        assert_eq!(node.says(at(9_999)), None);
        node.0.on_link(link(3, 30_000));
        let said = node.says(at(10_000)).unwrap();
        assert_eq!(
            said.links,
            [link(2, 12_000), link(3, 30_000)].map(|mut l| {
                // What a record can hold of 30,000 µs.
                let rounded = |mut s: LinkState| {
                    let code = crate::topology::lsa::short::write(micros(s.present.delay));
                    s.present.delay =
                        Duration::from_micros(crate::topology::lsa::short::read(code));
                    s
                };
                l.outward = l.outward.map(rounded);
                l.inward = l.inward.map(rounded);
                l
            })
        );
        node.0.on_mesh_size(500);
        node.0.on_link(link(2, 20_000));
        assert_eq!(node.says(at(22_999)), None, "500 nodes wait 13 s");
        assert!(node.says(at(23_000)).is_some());
    }

    #[test]
    fn a_death_is_said_at_once_and_a_burst_of_them_together() {
        let mut node = Speaker::new();
        for neighbour in 2..6 {
            node.0.on_link(link(neighbour, 10_000));
        }
        node.says(at(0)).unwrap();
        node.0.on_link(down(2));
        assert!(!node.says(at(1_000)).unwrap().link(n(2)).unwrap().up);
        node.0.on_link(down(3));
        assert_eq!(node.says(at(1_049)), None);
        node.0.on_link(down(4));
        let said = node.says(at(1_050)).unwrap();
        assert_eq!(said.links.iter().filter(|l| !l.up).count(), 3);
        node.0.on_link(link(2, 10_000));
        assert!(node.says(at(1_100)).unwrap().link(n(2)).unwrap().up, "recovery too");
        assert_eq!(node.0.stats().urgent, 4);
    }

    #[test]
    fn a_link_is_told_once_it_works_and_its_first_reading_does_not_wait_for_the_gap() {
        let mut node = Speaker::new();
        node.0.on_mesh_size(100);
        (2..40).for_each(|k| node.0.on_link(link(k, 10_000)));
        node.says(at(0)).unwrap();
        node.0.on_link(down(90));
        assert_eq!(node.0.poll_timeout().unwrap().why, "link state refresh", "it never worked");
        let unread = LsaLink { up: true, ..down(90) };
        node.0.on_link(unread);
        let due = node.0.poll_timeout().unwrap();
        assert_eq!(due.why, "link found");
        assert!(due.at >= at(500) && due.at < at(10_000), "{}", due.at);
        assert_eq!(node.says(due.at).unwrap().links, [unread]);
        node.0.on_link(link(90, 10_000));
        let due = node.0.poll_timeout().unwrap();
        assert_eq!(due.why, "link found", "others have no use for it before");
        assert_eq!(node.says(due.at).unwrap().links, [link(90, 10_000)]);
        node.0.on_link(unread);
        node.0.on_link(link(90, 20_000));
        assert_eq!(
            node.0.poll_timeout().unwrap().why,
            "link state moved",
            "only the first is urgent"
        );
    }

    #[test]
    fn silence_is_broken_before_the_lifetime_ends() {
        let mut node = Speaker::new();
        node.says(at(0)).unwrap();
        let due = node.0.poll_timeout().unwrap();
        assert_eq!(due.why, "link state refresh");
        assert!(due.at > at(200_000) && due.at < at(300_000), "{}", due.at);
        assert!(node.says(due.at).is_some());
    }

    #[test]
    fn a_forgotten_record_of_our_own_is_jumped_past() {
        let mut node = Speaker::new();
        let old = node.says(at(0)).unwrap().version;
        node.0.on_own_record(Version { boot: 9, sequence: 40 });
        assert_eq!(node.says(at(50)).unwrap().version, Version { boot: 9, sequence: 41 });
        node.0.on_own_record(old);
        assert_eq!(node.says(at(10_000)), None, "an older one is no news");
        let last = Version { boot: 9, sequence: u32::MAX };
        node.0.on_own_record(last);
        assert!(node.says(at(20_000)).unwrap().version > last);
    }

    #[test]
    fn a_goodbye_has_no_links_and_nothing_follows_it() {
        let mut node = Speaker::new();
        node.0.on_link(link(2, 10_000));
        node.says(at(0)).unwrap();
        node.0.withdraw();
        let goodbye = node.says(at(50)).unwrap();
        assert!(goodbye.withdrawn && goodbye.links.is_empty());
        node.0.on_link(link(2, 10_000));
        assert_eq!(node.says(at(1_000)), None);
    }

    #[test]
    fn a_reading_that_grows_stale_is_news() {
        let mut node = Speaker::new();
        node.0.on_link(link(2, 10_000));
        node.says(at(0)).unwrap();
        node.0.on_link(LsaLink { outward: None, ..link(2, 10_000) });
        assert_eq!(node.says(at(10_000)).unwrap().links[0].outward, None);
    }

    #[test]
    fn a_large_mesh_hears_differences_and_a_small_one_whole_records() {
        let mut node = Speaker::new();
        node.0.on_mesh_size(41);
        (2..42).for_each(|k| node.0.on_link(link(k, 10_000)));
        let whole = node.says(at(0)).unwrap();
        assert_eq!((whole.base, whole.links.len()), (None, 40));
        node.0.on_link(link(7, 20_000));
        let due = node.0.poll_timeout().unwrap();
        let moved = node.says(due.at).unwrap();
        assert_eq!((moved.base, moved.links.len()), (Some(whole.version.sequence), 1));
        node.0.on_link(down(9));
        node.0.on_link(link(7, 10_000));
        let died = node.says(due.at.plus(Duration::from_millis(50))).unwrap();
        assert_eq!(died.links, [down(9)], "what is again as it was need not be said");
        (10..40).for_each(|k| node.0.on_link(link(k, 30_000)));
        let anew = node.says(at(1_000_000)).unwrap();
        assert_eq!((anew.base, anew.links.len()), (None, 40), "most of it moved");
        node.0.on_neighbour_gone(n(9));
        assert_eq!(node.says(at(1_001_000)).unwrap().base, None, "a member less");
        assert_eq!(node.0.stats().differences, 2);
    }

    #[test]
    fn a_long_record_is_followed_by_a_long_gap() {
        let gap = |mesh: u16| {
            let mut node = Speaker::new();
            node.0.on_mesh_size(mesh.into());
            (2..=mesh).for_each(|k| node.0.on_link(link(k, 10_000)));
            let bits = node.says(at(0)).unwrap().write(&node.1).len() as u64 * 8;
            node.0.on_link(link(2, 90_000));
            let gap = node.0.poll_timeout().unwrap().at.since(at(0));
            (gap, bits * u64::from(mesh - 1))
        };
        assert_eq!(gap(10).0, Duration::from_secs(10));
        let (gap, bits) = gap(50);
        assert!(bits as f64 / gap.as_secs_f64() <= 30_000.0, "{gap:?}");
    }

    #[test]
    fn a_link_that_became_much_worse_is_told_within_a_second_and_one_that_mended_in_its_turn() {
        let mut node = Speaker::new();
        node.0.on_link(link(2, 20_000));
        node.0.on_link(link(3, 20_000));
        node.says(at(0)).unwrap();
        node.0.on_link(link(2, 90_000));
        assert_eq!(node.0.poll_timeout().unwrap().why, moved().why, "nothing goes over it");
        (2..=3).for_each(|k| node.0.on_use(n(k), true));
        node.0.on_link(link(2, 24_900));
        assert_eq!(node.0.poll_timeout().unwrap().why, "link state moved", "less than a quarter");
        node.0.on_link(link(2, 26_000));
        let due = Deadline { at: at(1_000), why: "link much worse" };
        assert_eq!(node.0.poll_timeout(), Some(due));
        assert_eq!(node.says(at(999)), None);
        let said = node.says(at(1_000)).unwrap();
        assert!(said.links[0].outward.unwrap().present.delay > Duration::from_micros(25_900));
        // What died or moved long enough ago to be said takes it along.
        node.0.on_link(link(3, 90_000));
        node.0.on_link(down(2));
        assert!(node.says(at(1_500)).is_some());
        assert_eq!((node.0.stats().worse, node.0.stats().urgent), (1, 2));
        node.0.on_link(link(3, 20_000));
        assert_eq!(node.0.poll_timeout().unwrap(), Deadline { at: at(11_500), ..moved() });
        let mut lossy = link(3, 20_000);
        let outward = lossy.outward.as_mut().unwrap();
        outward.present.loss = Ratio::from_ppm(40_000);
        node.0.on_link(lossy);
        assert_eq!(node.0.poll_timeout().unwrap().why, moved().why);
        lossy.outward.as_mut().unwrap().present.loss = Ratio::from_ppm(60_000);
        node.0.on_link(lossy);
        assert_eq!(node.0.poll_timeout().unwrap().at, at(2_500), "loss is worse as delay is");
        node.0.on_link(down(3));
        node.says(at(2_600)).unwrap();
        assert_eq!(
            node.0.poll_timeout().unwrap().why,
            "link state refresh",
            "it is worse than that"
        );
    }

    fn moved() -> Deadline {
        Deadline { at: at(0), why: "link state moved" }
    }

    #[test]
    fn a_link_that_swings_is_told_once_and_what_is_worse_still_again() {
        let mut node = Speaker::new();
        node.0.on_link(link(2, 20_000));
        node.0.on_use(n(2), true);
        node.says(at(0)).unwrap();
        let mut said = Vec::new();
        let mut dice = Dice::new(3);
        // A thousand times a second, for a minute and a half.
        for ms in 1..=90_000 {
            node.0.on_link(link(2, if dice.below(2) == 0 { 20_000 } else { 60_000 }));
            said.extend(node.says(at(ms)).map(|_| ms));
        }
        assert!(said.len() <= 11 && said[0] <= 1_020, "{said:?}");
        let stats = node.0.stats();
        assert!(stats.worse == 1 && stats.damped >= 2, "{stats:?}");
        node.0.on_link(link(2, 20_000));
        let due = node.0.poll_timeout().unwrap().at;
        node.says(due).unwrap();
        node.0.on_link(link(2, 70_000));
        assert_eq!(node.0.poll_timeout().unwrap().why, moved().why, "no quarter above 60 ms");
        node.0.on_link(link(2, 80_000));
        assert_eq!(node.0.poll_timeout().unwrap().why, "link much worse");
        node.says(due.plus(Duration::from_secs(1))).unwrap();
        // After two minutes it is news again.
        let calm = due.plus(Duration::from_secs(122));
        node.0.on_link(link(2, 20_000));
        node.says(calm).unwrap();
        node.0.on_link(link(2, 60_000));
        assert_eq!(node.0.poll_timeout().unwrap().why, "link much worse");
    }

    #[test]
    fn a_hundred_links_that_grow_worse_and_mend_at_once_stay_within_their_rate() {
        let mut node = Speaker::new();
        node.0.on_mesh_size(101);
        (2..=101).for_each(|k| node.0.on_link(link(k, 20_000)));
        (2..=101).for_each(|k| node.0.on_use(n(k), true));
        node.says(at(0)).unwrap();
        let (mut bits, mut early, mut dice) = (0, 0, Dice::new(7));
        for tenth in 1..=36_000 {
            // Each rise is by more than all before, so that no link is damped.
            for k in 2..=101 {
                let delay = if dice.below(2) == 0 { 20_000 } else { 20_000 + tenth * 1_500 };
                node.0.on_link(link(k, delay));
            }
            if let Some(record) = node.0.poll_record(at(tenth * 100), &node.1) {
                bits += (record.len() + RECORD_OVERHEAD) as u64 * 8 * 100;
                early += 1;
            }
        }
        let bps = bits as f64 / 3600.0;
        // What moved may take 30 kbit/s, and this a third of it besides.
        assert!(bps < 41_000.0, "{bps} bit/s in {early} records");
        assert!(node.0.stats().worse >= 3, "{:?}", node.0.stats());
    }

    #[test]
    fn a_link_that_comes_and_goes_a_thousand_times_a_second_is_damped() {
        let mut node = Speaker::new();
        node.0.on_link(link(2, 10_000));
        node.says(at(0)).unwrap();
        let mut said = 0;
        for ms in 1..=60_000 {
            node.0.on_link(if ms % 2 == 0 { link(2, 10_000) } else { down(2) });
            said += u32::from(node.says(at(ms)).is_some());
        }
        // Sixteen at once, and one every two seconds.
        assert!((40..=46).contains(&said), "{said}");
        node.0.on_link(down(2));
        let last = node.says(at(70_000));
        assert!(last.is_some_and(|lsa| !lsa.links[0].up), "the last word is the truth");
    }
}
