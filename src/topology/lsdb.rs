//! The link-state database: the newest record of every node, and the graph they make together.
//!
//! A record comes in only signed by a member's certified key, only if newer by (boot counter,
//! sequence), and leaves when its lifetime ends or its origin says goodbye. Wall time is never
//! compared: a record ages by the receiver's clock from the age it arrived with.
//!
//! **Who is believed.** A link counts when both ends report it up. Delay, jitter and forecast are the
//! receiving end's; so is loss, except where data crossed the link lately: then the sender's figure
//! is the receiver's feedback on every frame, far more than its count of probes. An end that praises the
//! link far beyond what the other measured is not believed: both measure one round trip, and a lie is
//! told to draw traffic, so the worse of the two counts ([`CREDIBLE`]). Of our own links
//! our own measurement counts, which the receiver's counters have already gone into.
//!
//! **Who is alive.** A node counts while a chain of such links leads to it from here. When all its
//! living neighbours report its links down, or it says goodbye, it leaves the graph with the first
//! graph made from that news, whatever its own last record still claims.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::id::{LinkId, NodeId};
use crate::quality::LinkState;
use crate::time::{Deadline, Instant, micros};
use crate::topology::graph::Graph;
use crate::topology::lsa::{Lsa, LsaError, Version};
use crate::topology::reading::{Plain, Reader};

/// What became of a record that was offered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Install {
    /// It is the newest of its origin and now in force.
    Newer {
        /// The origin.
        origin: NodeId,
        /// Whether it says anything new; a refresh does not.
        changed: bool,
        /// Whether a link died or came back, or the node did: such news is passed on at once. Among few
        /// nodes so is a link not known before.
        urgent: bool,
    },
    /// It is in force already.
    Known,
    /// A newer one of the same origin is in force; whoever offered it would profit from ours.
    Older {
        /// The origin.
        origin: NodeId,
    },
    /// It differs from a whole record that is not held: whoever offered it has that, too.
    Gap {
        /// The origin.
        origin: NodeId,
    },
    /// It is our own, and not older than what we remember having said: the originator must jump.
    OwnNewer(Version),
    /// It does not come in.
    Refused(Refusal),
}

/// Why a record does not come in. A closed set: one counter label per variant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Refusal {
    /// It cannot be read or its signature is wrong.
    Broken(LsaError),
    /// Its origin is no member.
    Foreign,
    /// Its lifetime is over.
    Expired,
    /// No room for one more origin.
    Full,
}

impl Refusal {
    /// The label in metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Broken(LsaError::Signature) => "signature",
            Self::Broken(_) => "malformed",
            Self::Foreign => "foreign",
            Self::Expired => "expired",
            Self::Full => "full",
        }
    }
}

/// Counts since the start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LsdbStats {
    /// Records installed.
    pub installed: u64,
    /// Records offered that were in force already.
    pub known: u64,
    /// Records offered that were older than ours.
    pub older: u64,
    /// Differences offered from whole records that are not held.
    pub gaps: u64,
    /// Records whose lifetime ended here.
    pub expired: u64,
    /// Records refused, by [`Refusal::name`].
    pub refused: BTreeMap<&'static str, u64>,
}

/// One of this node's own links, as the graph takes it in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OwnLink {
    /// Its name.
    pub link: LinkId,
    /// Its other end.
    pub peer: NodeId,
    /// Whether the forwarder holds it for up. The forwarder's verdict rests on an exchange in both
    /// directions, so the peer's record is not asked.
    pub up: bool,
    /// Towards the peer; none while the last reading is too old.
    pub outward: Option<LinkState>,
    /// From the peer; none while the last reading is too old.
    pub inward: Option<LinkState>,
}

#[derive(Debug)]
struct Held {
    /// What is known by both records.
    lsa: Arc<Lsa>,
    /// The whole record.
    record: Bytes,
    /// The newest difference from it.
    difference: Option<Bytes>,
    /// The record's age counts from here; before our clock's origin if it was old when it came.
    made_at: Instant,
    /// Age it already had at `made_at`, where that lies before the clock's origin.
    age_then: Duration,
}

impl Held {
    fn age(&self, now: Instant) -> Duration {
        now.since(self.made_at) + self.age_then
    }

    fn expires_at(&self) -> Instant {
        self.made_at.plus(self.lsa.lifetime.saturating_sub(self.age_then))
    }
}

/// The newest record of every node.
#[derive(Debug)]
pub struct Lsdb {
    own: NodeId,
    held: BTreeMap<NodeId, Held>,
    limit: usize,
    /// No record's lifetime ends before this.
    expiry_floor: Option<Instant>,
    generation: u64,
    stats: LsdbStats,
    reader: Arc<dyn Reader>,
}

impl Lsdb {
    /// Origins held at most. The largest meshes that are planned for have a thousand.
    pub const LIMIT: usize = 4096;

    /// An empty database.
    pub fn new(own: NodeId) -> Self {
        Self {
            own,
            held: BTreeMap::new(),
            limit: Self::LIMIT,
            expiry_floor: None,
            generation: 0,
            stats: LsdbStats::default(),
            reader: Arc::new(Plain),
        }
    }

    /// Records are read by this reader from now on.
    pub fn read_by(&mut self, reader: Arc<dyn Reader>) {
        self.reader = reader;
    }

    /// A record came, `age` after its making as far as those know who carried it. `key_of` gives the
    /// certified key of a member.
    pub fn install(
        &mut self,
        now: Instant,
        age: Duration,
        record: &Bytes,
        key_of: impl Fn(NodeId) -> Option<[u8; 32]>,
    ) -> Install {
        let verdict = self.weigh(now, age, record, key_of);
        match verdict {
            Install::Newer { .. } => self.stats.installed += 1,
            Install::Known => self.stats.known += 1,
            Install::Older { .. } => self.stats.older += 1,
            Install::Gap { .. } => self.stats.gaps += 1,
            Install::OwnNewer(_) => {}
            Install::Refused(why) => *self.stats.refused.entry(why.name()).or_default() += 1,
        }
        verdict
    }

    fn weigh(
        &mut self,
        now: Instant,
        age: Duration,
        record: &Bytes,
        key_of: impl Fn(NodeId) -> Option<[u8; 32]>,
    ) -> Install {
        let origin = match Lsa::origin_of(record) {
            Ok(origin) => origin,
            Err(why) => return Install::Refused(Refusal::Broken(why)),
        };
        let held = self.held.get(&origin);
        // The same bytes need no second look at their signature: floods bring most records twice.
        let known = |h: &Held| h.record == *record || h.difference.as_ref() == Some(record);
        if held.is_some_and(known) {
            return Install::Known;
        }
        let Some(key) = key_of(origin) else { return Install::Refused(Refusal::Foreign) };
        let lsa = match self.reader.open(record, &key) {
            Ok(lsa) => lsa,
            Err(why) => return Install::Refused(Refusal::Broken(why)),
        };
        if origin == self.own {
            return match held {
                Some(h) if lsa.version < h.lsa.version => Install::Older { origin },
                _ => Install::OwnNewer(lsa.version),
            };
        }
        if age >= lsa.lifetime {
            return Install::Refused(Refusal::Expired);
        }
        match held {
            Some(h) if lsa.version <= h.lsa.version => return Install::Older { origin },
            None if self.held.len() >= self.limit => return Install::Refused(Refusal::Full),
            _ => {}
        }
        self.put(now, age, lsa, record).unwrap_or(Install::Gap { origin })
    }

    /// A record that this node has just written.
    pub fn install_own(&mut self, now: Instant, record: &Bytes, public_key: &[u8; 32]) -> Install {
        match self.reader.open(record, public_key) {
            Ok(lsa) => {
                let origin = lsa.origin;
                self.put(now, Duration::ZERO, lsa, record).unwrap_or(Install::Gap { origin })
            }
            Err(why) => Install::Refused(Refusal::Broken(why)),
        }
    }

    /// Takes a record in; `None` where it differs from one that is not held.
    fn put(
        &mut self,
        now: Instant,
        age: Duration,
        lsa: Arc<Lsa>,
        record: &Bytes,
    ) -> Option<Install> {
        let origin = lsa.origin;
        let before = self.held.get(&origin);
        let (lsa, whole, difference) = match lsa.base {
            None => (lsa, record.clone(), None),
            Some(_) => {
                let whole = &before?.record;
                (self.reader.lay_over(record, whole)?, whole.clone(), Some(record.clone()))
            }
        };
        let few = self.held.len() <= FEW;
        let (changed, urgent) = before.map_or((true, few), |h| news(&h.lsa, &lsa, few));
        let made_at = now.minus(age);
        let age_then = age.saturating_sub(now.since(made_at));
        let held = Held { lsa, record: whole, difference, made_at, age_then };
        let expires_at = held.expires_at();
        self.expiry_floor = Some(self.expiry_floor.map_or(expires_at, |at| at.min(expires_at)));
        self.held.insert(origin, held);
        self.generation += u64::from(changed);
        Some(Install::Newer { origin, changed, urgent })
    }

    /// Removes the records whose lifetime is over; true if any was.
    pub fn handle_timeout(&mut self, now: Instant) -> bool {
        if self.expiry_floor.is_none_or(|at| at > now) {
            return false;
        }
        let before = self.held.len();
        self.held.retain(|_, h| now < h.expires_at());
        self.expiry_floor = self.held.values().map(Held::expires_at).min();
        let expired = before - self.held.len();
        self.stats.expired += expired as u64;
        self.generation += u64::from(expired > 0);
        expired > 0
    }

    /// When the next record's lifetime ends.
    pub fn poll_timeout(&self) -> Option<Deadline> {
        Some(Deadline { at: self.expiry_floor?, why: "link state expires" })
    }

    /// The node is no member any more (its certificate ended or was revoked); true if it was known.
    pub fn forget(&mut self, origin: NodeId) -> bool {
        let known = self.held.remove(&origin).is_some();
        self.generation += u64::from(known);
        known
    }

    /// This node.
    pub const fn own(&self) -> NodeId {
        self.own
    }

    /// Grows whenever what is known changes; refreshes do not count.
    pub const fn generation(&self) -> u64 {
        self.generation
    }

    /// What was counted.
    pub const fn stats(&self) -> &LsdbStats {
        &self.stats
    }

    /// The records that say all that is known of a node, in the order in which they are passed on, with
    /// their age: a whole one, and the newest difference where there is one.
    pub fn records(&self, origin: NodeId, now: Instant) -> Option<(Vec<Bytes>, Duration)> {
        let held = self.held.get(&origin)?;
        let records = [Some(&held.record), held.difference.as_ref()];
        Some((records.into_iter().flatten().cloned().collect(), held.age(now)))
    }

    /// How long ago the node last said something.
    pub fn age(&self, origin: NodeId, now: Instant) -> Option<Duration> {
        self.held.get(&origin).map(|h| h.age(now))
    }

    /// The advertisement of a node.
    pub fn lsa(&self, origin: NodeId) -> Option<&Lsa> {
        self.held.get(&origin).map(|h| &*h.lsa)
    }

    /// Every advertisement with its age, in order of origin.
    pub fn iter(&self, now: Instant) -> impl Iterator<Item = (&Lsa, Duration)> {
        self.held.values().map(move |h| (&*h.lsa, h.age(now)))
    }

    /// Nodes whose records are held.
    pub fn len(&self) -> usize {
        self.held.len()
    }

    /// Whether nobody has said anything.
    pub fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    /// The name of every record held, for a peer to compare with its own.
    pub fn digest(&self) -> Vec<(NodeId, Version)> {
        self.held.iter().map(|(node, h)| (*node, h.lsa.version)).collect()
    }

    /// What a peer with this digest lacks: origins of records it has not or has older.
    pub fn newer_than(&self, digest: &[(NodeId, Version)]) -> Vec<NodeId> {
        let theirs: BTreeMap<_, _> = digest.iter().copied().collect();
        let lacks = |node, h: &Held| theirs.get(node).is_none_or(|v| *v < h.lsa.version);
        self.held.iter().filter(|(node, h)| lacks(*node, h)).map(|(node, _)| *node).collect()
    }

    /// What this node lacks of what a peer with this digest has.
    pub fn older_than(&self, digest: &[(NodeId, Version)]) -> Vec<NodeId> {
        let lacks = |&&(node, v): &&(NodeId, Version)| {
            self.held.get(&node).is_none_or(|h| h.lsa.version < v)
        };
        digest.iter().filter(lacks).map(|(node, _)| *node).collect()
    }

    /// The nodes that a chain of working links leads to, this one among them.
    ///
    /// In a mesh that is whole our own links lead everywhere and nobody's records are read; else those of
    /// the nodes that are left are searched for a link to one that lives, until none has any.
    pub fn alive(&self, own_links: &[OwnLink]) -> BTreeSet<NodeId> {
        let mut alive = BTreeSet::from([self.own]);
        let up = own_links.iter().filter(|l| l.up).map(|l| l.peer);
        alive.extend(up.filter(|peer| self.stays(*peer)));
        let mut left: Vec<&Lsa> = self
            .held
            .values()
            .map(|h| &*h.lsa)
            .filter(|lsa| !alive.contains(&lsa.origin))
            .collect();
        loop {
            let before = left.len();
            left.retain(|lsa| {
                let reached = lsa.links.iter().any(|link| {
                    let other = link.neighbour;
                    let theirs = other != self.own && alive.contains(&other);
                    link.up && theirs && self.says_up(other, lsa.origin)
                });
                if reached {
                    alive.insert(lsa.origin);
                }
                !reached
            });
            if left.len() == before {
                return alive;
            }
        }
    }

    /// One of our own links towards its peer, as the graph has it: our own measurement, and of the
    /// peer's view only the price, which is missing here.
    pub fn own_state(&self, own: &OwnLink) -> Option<LinkState> {
        let mut state = own.outward.filter(|_| own.up)?;
        let theirs = self.lsa(own.peer).and_then(|lsa| lsa.link(self.own));
        let price = theirs.and_then(|l| l.inward).map(|s| s.price);
        state.price = state.price.plus(price.unwrap_or_default());
        Some(state)
    }

    /// One direction of a link between two others, as the graph has it: both report it up.
    pub fn state(&self, from: NodeId, to: NodeId) -> Option<LinkState> {
        let both = self.says_up(from, to) && self.says_up(to, from);
        let sent = self.lsa(from).and_then(|lsa| lsa.link(to)).and_then(|l| l.outward);
        let received = self.lsa(to).and_then(|lsa| lsa.link(from)).and_then(|l| l.inward);
        both.then(|| together(sent, received)).flatten()
    }

    /// The graph as this node sees it. `may_relay` adds to the origin's own consent what its
    /// certificate allows.
    pub fn graph(&self, own_links: &[OwnLink], may_relay: impl Fn(NodeId) -> bool) -> Graph {
        let alive = self.alive(own_links);
        let mut graph = Graph::new(self.own);
        for &node in alive.iter().filter(|&&node| node != self.own) {
            let consents = self.lsa(node).is_some_and(|lsa| lsa.relay);
            graph.add_node(node, consents && may_relay(node));
        }
        for own in own_links.iter().filter(|l| l.up && alive.contains(&l.peer)) {
            if let Some(state) = self.own_state(own) {
                graph.add_edge(self.own, own.peer, Some(own.link), state);
            }
        }
        self.each_state(&alive, |from, to, state| {
            graph.add_edge(from, to, None, *state);
        });
        graph
    }

    /// Shows every direction between living nodes that both ends report up, but for those from ourselves:
    /// as [`Lsdb::state`] says it, in order of its start and then its end.
    pub fn each_state(
        &self,
        alive: &BTreeSet<NodeId>,
        mut show: impl FnMut(NodeId, NodeId, &LinkState),
    ) {
        let most = alive.last().map_or(0, |node| usize::from(node.get()));
        // By number: what a node says, and how far its links have been read. Starts come in order, and so
        // do the links that lead back to them: nobody's are searched.
        let mut told: Vec<Option<(&Lsa, usize)>> = vec![None; most + 1];
        for node in alive {
            told[usize::from(node.get())] = self.lsa(*node).map(|lsa| (lsa, 0));
        }
        for &from in alive.iter().filter(|from| **from != self.own) {
            let Some((lsa, _)) = told[usize::from(from.get())] else { continue };
            for link in &lsa.links {
                let to = link.neighbour;
                let Some(Some((theirs, read))) = told.get_mut(usize::from(to.get())) else {
                    continue;
                };
                while theirs.links.get(*read).is_some_and(|back| back.neighbour < from) {
                    *read += 1;
                }
                let back = theirs.links.get(*read).filter(|back| back.neighbour == from);
                let Some(back) = back.filter(|back| back.up && link.up) else { continue };
                if let Some(state) = together(link.outward, back.inward) {
                    show(from, to, &state);
                }
            }
        }
    }

    fn says_up(&self, node: NodeId, neighbour: NodeId) -> bool {
        self.lsa(node).and_then(|lsa| lsa.link(neighbour)).is_some_and(|l| l.up)
    }

    /// False for a node that said goodbye.
    fn stays(&self, node: NodeId) -> bool {
        self.lsa(node).is_none_or(|lsa| !lsa.withdrawn)
    }
}

/// Among so many nodes a link that is new to everybody is as urgent as one that came back.
const FEW: usize = 16;

/// One end may call a link better than the other does by this factor, and by as much again as either may be
/// wrong by chance.
pub const CREDIBLE: u64 = 2;

/// One direction of a link as both ends together report it.
fn together(sent: Option<LinkState>, received: Option<LinkState>) -> Option<LinkState> {
    let (Some(sent), Some(received)) = (sent, received) else { return received.or(sent) };
    let mut state = received;
    if beyond(least_delay_us(&sent), least_delay_us(&received), 1_000) {
        state = LinkState { residual: None, ..sent };
    }
    let (says, missed) = (sent.present.loss.as_ppm(), received.present.loss.as_ppm());
    if sent.residual.is_some() && !beyond(missed, says, 50_000) {
        state.residual = sent.residual;
        state.present.loss = sent.present.loss;
    } else {
        state.present.loss = received.present.loss;
    }
    state.price = sent.price.plus(received.price);
    Some(state)
}

/// The least delay that a record gives a direction, now or soon, µs.
fn least_delay_us(state: &LinkState) -> u64 {
    let then = state.expected.map_or(state.present.delay, |expected| expected.delay);
    micros(state.present.delay.min(then))
}

/// Whether what is `measured` is so much worse than what is `claimed` that the claim is none.
fn beyond(measured: impl Into<u64>, claimed: impl Into<u64>, slack: u64) -> bool {
    measured.into() > claimed.into().saturating_mul(CREDIBLE).saturating_add(slack)
}

/// Whether a record says something new, and whether that is a matter of life and death: a link that was
/// known died or came back, or the node did. One that nobody knew is that among few nodes alone: while
/// hundreds come together each finds hundreds, and to weigh everything anew for each would be all
/// that anyone does.
fn news(old: &Lsa, new: &Lsa, few: bool) -> (bool, bool) {
    let mut changed = (old.relay, old.withdrawn) != (new.relay, new.withdrawn);
    let mut urgent = old.withdrawn != new.withdrawn;
    let (mut olds, mut news) = (old.links.iter().peekable(), new.links.iter().peekable());
    while !(changed && urgent) {
        match (olds.peek(), news.peek()) {
            (None, None) => break,
            (Some(then), Some(now)) if then.neighbour == now.neighbour => {
                changed |= then != now;
                urgent |= then.up != now.up;
                olds.next();
                news.next();
            }
            (Some(then), now) if now.is_none_or(|now| then.neighbour < now.neighbour) => {
                changed = true;
                urgent |= then.up;
                olds.next();
            }
            (_, found) => {
                changed = true;
                urgent |= few && found.is_some_and(|found| found.up);
                news.next();
            }
        }
    }
    (changed, urgent)
}

#[cfg(test)]
mod tests;
