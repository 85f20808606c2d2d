//! A decision in force, and what a look at it shows.
//!
//! Most looks show that nothing is to be decided ([`Held::stand`]); what they show else is judged by the
//! chooser, from the same [`Verdict`].

use std::collections::BTreeSet;
use std::time::Duration;

use super::Why;
use super::awaited::Awaited;
use crate::id::NodeId;
use crate::route::cost::{Limit, Priced};
use crate::route::solve::{self, Candidate, Map, Solution};
use crate::route::table::Route;
use crate::route::terms::Terms;
use crate::time::{Instant, micros};

/// A path whose delay moved by more than a fifth and this much is told anew: packets start their
/// time budget from it.
const DELAY_NEWS: Duration = Duration::from_millis(2);
/// A path is much worse than it was when its cost has risen by this part of it and by this much, µs.
const WORSE_DIVISOR: u64 = 4;
const WORSE_US: u64 = 10_000;

/// The decision in force for one destination under one policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// The path, at its newest price.
    pub primary: Candidate,
    /// Its backup, at the price when it was chosen.
    pub backup: Option<Candidate>,
    /// Why the path came into force.
    pub why: Why,
    /// When.
    pub changed_at: Instant,
    /// How often the destination's path has changed.
    pub changes: u64,
    /// Since when the path has been outside its limits.
    pub violated_since: Option<Instant>,
    /// Since when the path has been much worse than when it was last judged.
    pub worse_since: Option<Instant>,
    /// What the path cost when it was last judged against all others, money apart, µs.
    pub(super) judged_us: u64,
    /// For want of which the path was taken.
    pub(super) awaited: Option<Awaited>,
    /// How long that must have worked before the path is judged against all others.
    pub(super) proof: Duration,
    /// As the table has it.
    pub(super) said: Route,
}

/// What a look at a path in force shows.
#[derive(Clone, Copy, Debug)]
pub(super) enum Verdict {
    /// A link of it is gone, or a relay withdrew its consent.
    Gone,
    /// It works.
    Works {
        /// What it costs now.
        priced: Priced,
        /// The first limit it does not keep.
        broken: Option<Limit>,
        /// Whether it costs much more than when it was last judged.
        worse: bool,
    },
}

/// Since when something about a path has been wrong, or what it stands in for right again.
#[derive(Clone, Debug)]
pub(super) struct Clocks {
    /// Outside its limits.
    pub(super) violated_since: Option<Instant>,
    /// Much worse than when it was last judged.
    pub(super) worse_since: Option<Instant>,
    /// What is awaited.
    pub(super) awaited: Option<Awaited>,
}

impl Held {
    /// A path that comes into force now.
    pub(super) fn chosen(
        now: Instant,
        why: Why,
        old: Option<&Self>,
        found: Solution,
        terms: &Terms,
        proof: Duration,
    ) -> Self {
        let Solution { best, backup } = found;
        Self {
            why,
            changed_at: now,
            changes: old.map_or(0, |o| o.changes + 1),
            violated_since: best.broken.map(|_| now),
            worse_since: None,
            judged_us: best.priced.parts.total_us(),
            awaited: Awaited::after(why, old, &best),
            proof,
            said: Route {
                // What is chosen anew shall not break what is broken already.
                withheld: terms.withholds(best.broken),
                ..route(&best, backup.as_ref())
            },
            primary: best,
            backup,
        }
    }

    /// The same path, with these clocks. `settled`: it was judged against all others and stays, so from now
    /// on it is measured against what it costs now.
    pub(super) fn clocked(&self, clocks: Clocks, settled: Option<&Candidate>) -> Self {
        let Clocks { violated_since, worse_since, awaited } = clocks;
        Self {
            violated_since,
            awaited,
            worse_since: worse_since.filter(|_| settled.is_none()),
            judged_us: settled.map_or(self.judged_us, |now| now.priced.parts.total_us()),
            ..self.clone()
        }
    }

    /// Looks at the path at today's prices.
    pub(super) fn look(&self, map: &dyn Map, terms: &Terms) -> Verdict {
        let Candidate { link, nodes, .. } = &self.primary;
        let Some(priced) = solve::price(map, terms, *link, nodes) else { return Verdict::Gone };
        // No swing that nobody would leave it for, and what a user calls a fault.
        let more = WORSE_US.max(self.judged_us / WORSE_DIVISOR);
        let worse = priced.parts.total_us() > self.judged_us.saturating_add(more);
        Verdict::Works { priced, broken: terms.broken(nodes, &priced), worse }
    }

    /// Where the path and its backup work as well as before, prices the path anew, and whether its delay
    /// is told anew.
    pub(super) fn stand(&mut self, map: &dyn Map, terms: &Terms) -> Option<bool> {
        let Verdict::Works { priced, broken: None, worse: false } = self.look(map, terms) else {
            return None;
        };
        let backed = self.backup.as_ref().is_none_or(|way| serves(way, map, terms) == Some(true));
        let stirs = self.awaited.as_ref().is_some_and(|way| way.stirs(map, terms));
        if !backed || self.said.withheld || self.is_in_doubt() || stirs {
            return None;
        }
        (self.primary.priced, self.primary.broken) = (priced, None);
        let told = moved(priced.delay(), self.said.primary.delay);
        if told {
            self.said.primary.delay = priced.delay();
        }
        Some(told)
    }

    /// The decision stands: its figures are renewed, its backup where it broke or everything is renewed.
    /// `standing`: whether the backup may be used; `None` where its links are not in the graph.
    pub(super) fn renew(
        &mut self,
        weighed: Candidate,
        standing: Option<bool>,
        seek: impl FnOnce(&Candidate) -> Option<Candidate>,
        tick: bool,
    ) {
        if tick || standing != Some(true) {
            // Not in the graph: one that only went stale may still work, and costs nothing to hold.
            let stale = || self.backup.take().filter(|_| standing != Some(false));
            self.backup = seek(&weighed).or_else(stale);
        }
        let mut said = route(&weighed, self.backup.as_ref());
        if !moved(said.primary.delay, self.said.primary.delay) {
            said.primary.delay = self.said.primary.delay;
        }
        if let (Some(new), Some(old)) = (&mut said.backup, &self.said.backup)
            && new.nodes == old.nodes
            && !moved(new.delay, old.delay)
        {
            new.delay = old.delay;
        }
        (self.primary, self.said) = (weighed, said);
    }

    /// Whether its path, its backup or what it stands in for touches any of these nodes.
    pub(super) fn crosses(&self, touched: &BTreeSet<NodeId>) -> bool {
        if self.awaited.as_ref().is_some_and(|way| way.crosses(touched)) {
            return true;
        }
        let backup = self.backup.iter().flat_map(|backup| &backup.nodes);
        self.primary.nodes.iter().chain(backup).any(|node| touched.contains(node))
    }

    /// Whether the clock alone may move it.
    pub(super) fn is_in_doubt(&self) -> bool {
        let returns = self.works_since().is_some();
        self.violated_since.is_some() || self.worse_since.is_some() || returns
    }

    /// Since when what is awaited has worked.
    pub(super) fn works_since(&self) -> Option<Instant> {
        self.awaited.as_ref()?.works_since
    }
}

/// Whether a backup may be used; `None` where its links are not in the graph.
pub(super) fn serves(way: &Candidate, map: &dyn Map, terms: &Terms) -> Option<bool> {
    let priced = solve::price(map, terms, way.link, &way.nodes)?;
    Some(!terms.withholds(terms.broken(&way.nodes, &priced)))
}

/// Whether a delay is told anew.
fn moved(new: Duration, old: Duration) -> bool {
    micros(new).abs_diff(micros(old)) > micros(DELAY_NEWS).max(micros(old) / 5)
}

fn route(primary: &Candidate, backup: Option<&Candidate>) -> Route {
    Route { primary: primary.path(), backup: backup.map(Candidate::path), withheld: false }
}
