//! How news travels: from its origin to its direct peers, and no further while the mesh is whole.
//!
//! In a full mesh the origin reaches everyone itself, so nobody passes on what it heard: N messages
//! instead of N². Two exceptions keep those informed whom the origin cannot reach: the death of a
//! link is passed on at once to every peer that the origin does not count among its own (where those are
//! many, to a few of them at random, who do the same), other news to those of them for whom we are the
//! first in line. What is lost nevertheless is found by digests: every 30 s each node tells two random
//! peers what it holds, asks for what they have newer, and hands over what they lack; so it does with new
//! peers, as long as it has few. A mesh of hundreds that comes together would otherwise hand everything to
//! everyone N² times.
//!
//! An origin that announces faster than its rate is passed over and counted; its last word comes
//! with the next digest.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::control::dialogue::Bucket;
use crate::control::message::DigestEntry;
use crate::id::NodeId;
use crate::rng::Dice;
use crate::time::{Deadline, Instant};

/// How often digests go out.
pub const DIGEST_INTERVAL: Duration = Duration::from_secs(30);
/// To how many peers each time.
pub const DIGEST_PEERS: usize = 2;
/// Pieces handed over in answer to one digest or want; the next digest asks for the rest.
pub const MAX_ANSWERS: usize = 256;

/// News of one origin at once: the deaths of all links of a busy minute.
const ORIGIN_BURST: u64 = 20;
/// News of one origin each second in the long run: deaths of flapping links, ten times over.
const ORIGIN_PER_SECOND: u64 = 2;
/// Digests of one peer that are answered at once: two topics at a session's start, two when its
/// link comes back, and the round that happens to fall there. An answer can be a hundred times as
/// long as its question, so more would be a lever.
const DIGEST_BURST: u64 = 8;
/// Digests of one peer answered each second in the long run.
const DIGEST_PER_SECOND: u64 = 1;
/// Up to so many peers a member is introduced to all of them, deaths are told to all whom the origin does
/// not reach, and each new peer is told what we hold.
const FEW: usize = 16;
/// Beyond them so many new peers at once are, and [`GREETED_PER_SECOND`].
const GREETED_BURST: u64 = 16;
/// New peers told what we hold each second in the long run, beyond [`FEW`].
const GREETED_PER_SECOND: u64 = 1;
/// Else to so many of them by each who hears of it: who hears of nothing, e⁻⁸ of all, waits for a digest.
const INTRODUCED: usize = 8;
/// Origins whose rate is watched: as many as members.
const MAX_ORIGINS: usize = 2048;

/// The state of flooding at this node.
#[derive(Debug)]
pub struct Flood {
    own: NodeId,
    dice: Dice,
    origins: BTreeMap<NodeId, Bucket>,
    digests: BTreeMap<NodeId, Bucket>,
    digest_at: Instant,
    greetings: Bucket,
    throttled: u64,
}

impl Flood {
    /// Nothing heard yet.
    pub fn new(own: NodeId, mut dice: Dice, now: Instant) -> Self {
        let digest_at = now.plus(dice.jitter(DIGEST_INTERVAL));
        let (origins, digests) = (BTreeMap::new(), BTreeMap::new());
        let greetings = Bucket::new(GREETED_BURST, GREETED_PER_SECOND, now);
        Self { own, dice, origins, digests, digest_at, greetings, throttled: 0 }
    }

    /// Whether news of this origin may be looked at now. What is refused is counted.
    pub fn admit(&mut self, now: Instant, origin: NodeId) -> bool {
        let room = self.origins.len() < MAX_ORIGINS || self.origins.contains_key(&origin);
        let admitted = room && {
            let fresh = || Bucket::new(ORIGIN_BURST, ORIGIN_PER_SECOND, now);
            self.origins.entry(origin).or_insert_with(fresh).take(now)
        };
        self.throttled += u64::from(!admitted);
        admitted
    }

    /// Whether a digest or a want of this peer may be answered now. What is refused is counted.
    pub fn admit_question(&mut self, now: Instant, peer: NodeId) -> bool {
        let room = self.digests.len() < MAX_ORIGINS || self.digests.contains_key(&peer);
        let admitted = room && {
            let fresh = || Bucket::new(DIGEST_BURST, DIGEST_PER_SECOND, now);
            self.digests.entry(peer).or_insert_with(fresh).take(now)
        };
        self.throttled += u64::from(!admitted);
        admitted
    }

    /// The origin is no member any more.
    pub fn on_gone(&mut self, origin: NodeId) {
        self.origins.remove(&origin);
        self.digests.remove(&origin);
    }

    /// Whether one more peer of so many, new or back from an outage, is told all that we hold. Else our
    /// own links are enough: the others tell it theirs, and digests the rest.
    pub fn greets(&mut self, now: Instant, peers: usize) -> bool {
        peers <= FEW || self.greetings.take(now)
    }

    /// Whom to pass on news of `origin`: of `peers` those whom it does not reach by itself,
    /// [`unreached`]. `reaches(a, b)` is whether `a` counts a working link to `b`.
    pub fn pass_on(
        &mut self,
        origin: NodeId,
        unreached: Vec<NodeId>,
        death: bool,
        peers: &BTreeSet<NodeId>,
        reaches: impl Fn(NodeId, NodeId) -> bool,
    ) -> Vec<NodeId> {
        let first_in_line = |target: NodeId| {
            let before = peers.range(..self.own);
            !before.copied().any(|n| n != target && reaches(origin, n) && reaches(n, target))
        };
        if death && unreached.len() > FEW {
            return self.some_of(unreached);
        }
        unreached.into_iter().filter(|&n| death || first_in_line(n)).collect()
    }

    /// A few at random.
    fn some_of(&mut self, mut nodes: Vec<NodeId>) -> Vec<NodeId> {
        for place in 0..INTRODUCED.min(nodes.len()) {
            let left = nodes.len() - place;
            nodes.swap(place, place + self.dice.below(left as u64) as usize);
        }
        nodes.truncate(INTRODUCED);
        nodes
    }

    /// Whom to tell of a member whose word is new here and came from `from`. While peers are few, who
    /// hears a member from itself introduces it to all. Among many that would be N² messages for each
    /// member, so there everyone passes it on to a few at random, whoever brought it: after a handful of
    /// steps all but a few in ten thousand know, and those learn it from the next digest.
    pub fn introduce(
        &mut self,
        member: NodeId,
        from: NodeId,
        peers: &BTreeSet<NodeId>,
    ) -> Vec<NodeId> {
        let others = peers.iter().copied().filter(|&n| n != member && n != from);
        let others: Vec<NodeId> = others.collect();
        if others.len() <= FEW {
            return if from == member { others } else { Vec::new() };
        }
        self.some_of(others)
    }

    /// The clock reached `now`: the peers to send digests to, none where it is not yet time.
    pub fn handle_timeout(&mut self, now: Instant, peers: &BTreeSet<NodeId>) -> Vec<NodeId> {
        if now < self.digest_at {
            return Vec::new();
        }
        self.digest_at = now.plus(self.dice.jitter(DIGEST_INTERVAL));
        let mut left: Vec<NodeId> = peers.iter().copied().collect();
        let mut chosen = Vec::new();
        while chosen.len() < DIGEST_PEERS && !left.is_empty() {
            let index = self.dice.below(left.len() as u64) as usize;
            chosen.push(left.swap_remove(index));
        }
        chosen
    }

    /// When the next digests are due.
    pub fn poll_timeout(&self) -> Option<Deadline> {
        Some(Deadline { at: self.digest_at, why: "digest" })
    }

    /// How much was passed over because its origin announces, or a peer asks, too fast.
    pub const fn throttled(&self) -> u64 {
        self.throttled
    }
}

/// Of `peers` those who do not hear news of `origin` from itself: neither it nor `from` who brought it, nor
/// any of the neighbours it reaches. Both lists in order.
pub fn unreached(
    origin: NodeId,
    from: NodeId,
    peers: impl IntoIterator<Item = NodeId>,
    reached: impl IntoIterator<Item = NodeId>,
) -> Vec<NodeId> {
    let mut reached = reached.into_iter().peekable();
    let aside = |&peer: &NodeId| {
        while reached.next_if(|node| *node < peer).is_some() {}
        peer != origin && peer != from && reached.peek() != Some(&peer)
    };
    peers.into_iter().filter(aside).collect()
}

/// What two holders of news lack of each other's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Difference {
    /// What the other holds and we lack or hold older: to be asked for.
    pub want: Vec<NodeId>,
    /// What we hold and the other lacks or holds older: to be handed over.
    pub owe: Vec<NodeId>,
}

/// Compares what we hold with what `peer` says it holds. News on ourselves is never asked for, nor
/// on the peer handed back to it.
pub fn compare(
    own: NodeId,
    peer: NodeId,
    held: &[DigestEntry],
    theirs: &[DigestEntry],
) -> Difference {
    let index = |entries: &[DigestEntry]| -> BTreeMap<NodeId, (u64, u64)> {
        entries.iter().map(|e| (e.node, (e.boot, e.seq))).collect()
    };
    let (held, theirs) = (index(held), index(theirs));
    let newer = |a: &BTreeMap<NodeId, (u64, u64)>, b: &BTreeMap<NodeId, (u64, u64)>, not| {
        let lacks = |(n, v): &(&NodeId, &(u64, u64))| **n != not && b.get(n) < Some(v);
        a.iter().filter(lacks).map(|(&n, _)| n).take(MAX_ANSWERS).collect()
    };
    Difference { want: newer(&theirs, &held, own), owe: newer(&held, &theirs, peer) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(n: u16) -> NodeId {
        NodeId::new(n).unwrap()
    }

    fn set(nodes: &[u16]) -> BTreeSet<NodeId> {
        nodes.iter().map(|&n| node(n)).collect()
    }

    fn flood(own: u16) -> Flood {
        Flood::new(node(own), Dice::new(1), Instant::ZERO)
    }

    #[test]
    fn in_a_whole_mesh_nothing_is_passed_on_not_even_deaths() {
        let peers = set(&[2, 3, 4]);
        let aside = unreached(node(2), node(2), peers.clone(), set(&[1, 3, 4]));
        for death in [false, true] {
            assert_eq!(flood(1).pass_on(node(2), aside.clone(), death, &peers, |_, _| true), []);
        }
    }

    #[test]
    fn those_the_origin_cannot_reach_hear_deaths_of_everyone_and_news_of_the_first_in_line() {
        let peers = set(&[1, 2, 3, 4]);
        let reaches = |a: NodeId, b: NodeId| (a, b) != (node(2), node(4));
        let told = |own: u16, death| {
            let mut peers = peers.clone();
            peers.remove(&node(own));
            let theirs = peers.iter().copied().filter(|n| reaches(node(2), *n));
            let aside = unreached(node(2), node(2), peers.clone(), theirs.collect::<Vec<_>>());
            flood(own).pass_on(node(2), aside, death, &peers, reaches)
        };
        assert_eq!(told(1, false), [node(4)]);
        assert_eq!(told(3, false), [], "node 1 is before us");
        assert_eq!(told(3, true), [node(4)]);
    }

    #[test]
    fn an_origin_that_announces_a_thousand_times_is_throttled_and_others_are_not() {
        let mut f = flood(1);
        let admitted = (0..1000).filter(|_| f.admit(Instant::ZERO, node(2))).count() as u64;
        assert_eq!((admitted, f.throttled()), (ORIGIN_BURST, 1000 - ORIGIN_BURST));
        assert!(f.admit(Instant::ZERO, node(3)));
        assert!(f.admit(Instant::from_micros(600_000), node(2)), "its rate comes back");
    }

    #[test]
    fn digests_go_to_two_different_peers_and_not_before_time() {
        let mut f = flood(1);
        assert_eq!(f.handle_timeout(Instant::ZERO, &set(&[2, 3])), []);
        let due = f.poll_timeout().unwrap().at;
        let chosen = f.handle_timeout(due, &set(&[2, 3, 4, 5]));
        assert_eq!(chosen.len(), 2);
        assert_ne!(chosen[0], chosen[1]);
        assert!(f.poll_timeout().unwrap().at > due);
        assert_eq!(f.handle_timeout(f.poll_timeout().unwrap().at, &set(&[])), []);
    }

    #[test]
    fn a_death_is_told_to_a_few_of_many_whom_the_origin_does_not_reach() {
        let peers: BTreeSet<NodeId> = (2..200).map(node).collect();
        let aside = unreached(node(2), node(3), peers.clone(), []);
        let told = flood(1).pass_on(node(2), aside, true, &peers, |_, _| false);
        let distinct: BTreeSet<_> = told.iter().collect();
        assert_eq!((told.len(), distinct.len()), (INTRODUCED, INTRODUCED));
        assert!(!told.contains(&node(2)) && !told.contains(&node(3)));
    }

    #[test]
    fn a_crowd_of_new_peers_is_not_all_told_what_we_hold() {
        let mut f = flood(1);
        let greeted = (1..=500).filter(|&peers| f.greets(Instant::ZERO, peers)).count();
        assert_eq!(greeted, FEW + GREETED_BURST as usize);
        assert!(f.greets(Instant::from_micros(1_000_000), 500), "one that comes back later is");
    }

    #[test]
    fn a_digest_shows_what_each_side_lacks() {
        let entry = |n, seq| DigestEntry { node: node(n), boot: 1, seq };
        let held = [entry(1, 9), entry(3, 5), entry(4, 5), entry(5, 5)];
        let theirs = [entry(1, 10), entry(2, 1), entry(3, 6), entry(4, 4), entry(6, 1)];
        let found = compare(node(1), node(2), &held, &theirs);
        assert_eq!(found.want, [node(2), node(3), node(6)]);
        assert_eq!(found.owe, [node(4), node(5)]);
    }

    #[test]
    fn a_member_is_introduced_to_all_of_few_and_to_a_few_of_many() {
        let node = |number: u16| NodeId::new(number).unwrap();
        let peers = |count: u16| (2..2 + count).map(node).collect::<BTreeSet<_>>();
        let mut flood = Flood::new(node(1), Dice::new(1), Instant::ZERO);
        assert_eq!(flood.introduce(node(2), node(2), &peers(10)).len(), 9);
        assert_eq!(flood.introduce(node(2), node(3), &peers(10)), [], "its first hearer does");
        let told = flood.introduce(node(2), node(3), &peers(100));
        let distinct: BTreeSet<_> = told.iter().collect();
        assert_eq!((told.len(), distinct.len()), (INTRODUCED, INTRODUCED));
        assert!(!told.contains(&node(2)) && !told.contains(&node(3)));
    }
}
