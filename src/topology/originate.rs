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

mod band;
mod worse;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::id::NodeId;
use crate::rng::Dice;
use crate::session::trust::Signer;
use crate::time::{Deadline, Instant};
use crate::topology::lsa::{Lsa, LsaLink, MAX_LINKS, Version};
use band::left_band;
use worse::Worse;

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
    worse: Worse,
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
            worse: Worse::default(),
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
        let damped = self.worse.review(self.said_links.get(&node), &link);
        self.stats.damped += u64::from(damped);
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
        self.worse.on_use(neighbour, used && self.now_links.contains_key(&neighbour));
    }

    /// The neighbour is no member any more: the link is not even down.
    pub fn on_neighbour_gone(&mut self, neighbour: NodeId) {
        self.measured.remove(&neighbour);
        self.worse.on_gone(neighbour);
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
        self.worse.on_withdrawn();
        self.now_links.clear();
        self.owed = Owed::Urgent;
    }

    /// The next record if one is due, signed.
    pub fn poll_record(&mut self, now: Instant, signer: &dyn Signer) -> Option<Vec<u8>> {
        self.worse.forget_before(now);
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
        self.worse.on_said(now.plus(self.config.worse_calm), &self.now_links);
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
            self.worse.on_spent(now, costs.max(self.config.worse_pace));
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
        let room = self.config.worse_pace * self.config.worse_burst.saturating_sub(1);
        let worse = self.worse.due(said_at.plus(self.config.worse_gap), room);
        worse.map_or(ordinary, |at| at.min(ordinary))
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

#[cfg(test)]
mod tests;
