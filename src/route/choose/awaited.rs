//! Ways that would be taken if they worked: the one that broke, and the link to a destination that is
//! only just there.
//!
//! A path that is found because another broke, or before the direct link is measured, is the best of
//! what happens to be there. Once the way that is awaited has worked for long enough, the path in force
//! is judged against all there is, as at a full recomputation. How long that is grows with each break
//! soon after a return, so that a link that comes and goes is left alone in the end.

use std::collections::BTreeSet;
use std::time::Duration;

use super::Why;
use super::held::Held;
use crate::id::{LinkId, NodeId};
use crate::route::solve::{self, Candidate, Map};
use crate::route::terms::Terms;
use crate::time::Instant;

/// A way that does not work, or is not measured yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Awaited {
    link: LinkId,
    nodes: Vec<NodeId>,
    /// Since when it has worked without a break.
    pub(super) works_since: Option<Instant>,
}

impl Awaited {
    /// The link to a destination.
    pub(super) fn link(link: LinkId, destination: NodeId) -> Self {
        Self { link, nodes: vec![destination], works_since: None }
    }

    fn way(way: &Candidate) -> Self {
        Self { link: way.link, nodes: way.nodes.clone(), works_since: None }
    }

    /// What is awaited where a path comes into force for this reason in the place of another: the one that
    /// broke, or what that one had been found for.
    pub(super) fn after(why: Why, old: Option<&Held>, new: &Candidate) -> Option<Self> {
        let old = old.filter(|_| why == Why::Broken)?;
        let before = old.awaited.clone().map(|way| Self { works_since: None, ..way });
        let awaited = before.unwrap_or_else(|| Self::way(&old.primary));
        (!new.is_way(awaited.link, &awaited.nodes)).then_some(awaited)
    }

    /// The same after a look at it.
    pub(super) fn looked_at(self, now: Instant, map: &dyn Map, terms: &Terms) -> Self {
        let works = self.works(map, terms);
        let works_since = works.then(|| self.works_since.unwrap_or(now));
        Self { works_since, ..self }
    }

    /// Whether a look at it would change it.
    pub(super) fn stirs(&self, map: &dyn Map, terms: &Terms) -> bool {
        self.works_since.is_some() || self.works(map, terms)
    }

    fn works(&self, map: &dyn Map, terms: &Terms) -> bool {
        solve::price(map, terms, self.link, &self.nodes).is_some()
    }

    /// Whether any of these nodes is on it.
    pub(super) fn crosses(&self, touched: &BTreeSet<NodeId>) -> bool {
        self.nodes.iter().any(|node| touched.contains(node))
    }

    /// The link that it starts with.
    pub(super) const fn first_link(&self) -> LinkId {
        self.link
    }
}

/// How long a way must have worked before a path that comes into force now gives way to it: at first
/// `least`, twice as long where a path that had been chosen on its merits broke within `most`, and no
/// longer than that.
pub(super) fn proof(
    now: Instant,
    why: Why,
    old: Option<&Held>,
    least: Duration,
    most: Duration,
) -> Duration {
    let Some(old) = old else { return least };
    let interim = matches!(old.why, Why::First | Why::Broken);
    match why {
        Why::Broken if !interim && now.since(old.changed_at) < most => (old.proof * 2).min(most),
        Why::Broken if !interim => least,
        _ => old.proof,
    }
}
