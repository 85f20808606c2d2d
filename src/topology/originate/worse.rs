//! Links in use that became much worse: told sooner than what moved, from a budget of their own, and not
//! again and again where a link swings.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::band::much_worse;
use crate::id::NodeId;
use crate::time::Instant;
use crate::topology::lsa::LsaLink;

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

/// Which links are to be told as much worse, and when there is room for that.
#[derive(Debug)]
pub(super) struct Worse {
    /// Neighbours whose links carry traffic.
    used: BTreeSet<NodeId>,
    /// Links in use that became much worse since others heard of them.
    owed: BTreeSet<NodeId>,
    /// Of links that were told to be much worse: how they were then.
    told: BTreeMap<NodeId, ToldWorse>,
    /// When all the records so far that came because of them would have been said at their pace.
    spent_at: Instant,
}

impl Default for Worse {
    fn default() -> Self {
        let (used, owed, told) = (BTreeSet::new(), BTreeSet::new(), BTreeMap::new());
        Self { used, owed, told, spent_at: Instant::ZERO }
    }
}

impl Worse {
    /// Whether the link to a neighbour carries traffic.
    pub(super) fn on_use(&mut self, neighbour: NodeId, used: bool) {
        if used {
            self.used.insert(neighbour);
        } else {
            self.used.remove(&neighbour);
        }
    }

    /// A link is like this now, and others believe `said`. True where it became much worse again so soon
    /// that it has to wait for the pace of what moved from now on.
    pub(super) fn review(&mut self, said: Option<&LsaLink>, link: &LsaLink) -> bool {
        let node = link.neighbour;
        let used = self.used.contains(&node);
        let news = used && said.is_some_and(|said| much_worse(said, link));
        let told = self.told.get_mut(&node);
        let damped = news && told.as_ref().is_some_and(|told| !much_worse(&told.link, link));
        let waited = told.is_some_and(|told| std::mem::replace(&mut told.waits, damped));
        if news && !damped {
            self.owed.insert(node);
        } else {
            self.owed.remove(&node);
        }
        damped && !waited
    }

    /// The neighbour is no member any more.
    pub(super) fn on_gone(&mut self, neighbour: NodeId) {
        self.used.remove(&neighbour);
        self.owed.remove(&neighbour);
        self.told.remove(&neighbour);
    }

    /// This node leaves.
    pub(super) fn on_withdrawn(&mut self) {
        self.used.clear();
        self.owed.clear();
    }

    /// What was told is measured against no longer than it was meant to be.
    pub(super) fn forget_before(&mut self, now: Instant) {
        self.told.retain(|_, told| told.until > now);
    }

    /// A record says how the links are now; until `until` they are measured against that.
    pub(super) fn on_said(&mut self, until: Instant, links: &BTreeMap<NodeId, LsaLink>) {
        for node in std::mem::take(&mut self.owed) {
            let told = |&link: &LsaLink| ToldWorse { link, until, waits: false };
            self.told.extend(links.get(&node).map(|link| (node, told(link))));
        }
    }

    /// A record went out because of them alone, and uses up as much of the budget.
    pub(super) fn on_spent(&mut self, now: Instant, span: Duration) {
        self.spent_at = self.spent_at.max(now).plus(span);
    }

    /// When a record is due because of them: not before `earliest`, and not while more than `room` of the
    /// budget is used up.
    pub(super) fn due(&self, earliest: Instant, room: Duration) -> Option<Instant> {
        (!self.owed.is_empty()).then(|| earliest.max(self.spent_at.minus(room)))
    }
}
