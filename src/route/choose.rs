//! When traffic moves: seldom, and each time for a reason that can be told.
//!
//! - A destination without a path gets the best one at once.
//! - A path that broke (a link of it died or went stale, a relay withdrew) is replaced at once.
//! - A path that has left its class's limits for some seconds is replaced by one that keeps them.
//! - A path that has been much worse than it was when last judged, for some seconds, is judged again: a
//!   path that is better by the margin takes over. Judged once, it is measured against what it is now,
//!   so a path that swings is not judged at every swing.
//! - A path that stands in for another, which had broken or was not measured yet, is judged again once that
//!   has worked for some seconds (`awaited`).
//! - Everything else, slow decay and better paths that appear, waits for the full recomputation,
//!   every five minutes by default and more often after the start: there too the margin decides, unless the
//!   path in force was chosen so lately that the hold-down protects it.
//! - Where no path keeps the limits, the class's [`Fallback`] decides: the path in force stays and moves only
//!   as without limits, or gives way to the direct link, or its packets are dropped until one keeps
//!   them again; a path in force is given as long to come back within them as for any other move.
//! - When nothing leads to a living node any more, its last path stays in force: it is the best guess
//!   there is. A dead node's is withdrawn.
//!
//! Margins are small: on recorded paths 5 % over a good estimate costs 2 of 59 points of the gain, 10 % five,
//! 20 % seventeen. Classes of one policy share their solution.

mod awaited;
mod held;
mod words;

use std::cell::{LazyCell, OnceCell};
use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Deref;
use std::time::Duration;

use crate::id::{Class, LinkId, NodeId};
use crate::rng::Dice;
use crate::route::cost::{Limit, Priced};
use crate::route::policy::{Fallback, Objective, Policy};
use crate::route::solve::field::{Field, Seeker};
use crate::route::solve::{Candidate, Map};
use crate::route::table::RouteTable;
use crate::route::terms::Terms;
use crate::time::{Deadline, Instant, micros};
use crate::unit::Ratio;
use awaited::{Awaited, proof};
pub use held::Held;
use held::{Clocks, Verdict, serves};
pub use words::{Change, ChooseConfig, Why};

/// Up to so many nodes, whatever is lacking is sought with every news.
const FEW: usize = 32;
/// Among more, paths and backups that were sought in vain are sought again no sooner than so long for each
/// node: to solve a mesh of hundreds takes a good part of a second, and while it comes together
/// something is always lacking.
const SEEK_PER_NODE: Duration = Duration::from_millis(10);
/// Moves that nobody asked for yet; older ones are dropped.
const CHANGES: usize = 1024;
/// A policy by its place, and a destination.
type Key = (usize, NodeId);

/// Holds the paths in force and moves them.
#[derive(Debug)]
pub struct Chooser {
    config: ChooseConfig,
    /// Distinct policies with the classes that follow them.
    policies: Vec<(Policy, Vec<Class>)>,
    held: BTreeMap<Key, Held>,
    /// How much longer than others this node stays on relayed paths; drawn anew at each full recomputation.
    stagger: Duration,
    tick_at: Instant,
    /// Between the last full recomputation and the next.
    gap: Duration,
    ticked_at: Option<Instant>,
    /// When the next path will have been outside its limits, or much worse, for too long, or what it stands
    /// in for right for long enough.
    overdue_at: Option<Instant>,
    /// Before this, no path is judged again because of what came back.
    returns_at: Instant,
    /// Policies and living destinations that have no path that works.
    hopeless: BTreeSet<Key>,
    /// Before this, what was sought in vain is not sought again.
    seek_at: Instant,
    /// How long after it was: twice as long each time that nothing was found.
    seek_gap: Duration,
    /// How many paths and backups are lacking.
    lacking: usize,
    /// Whether some of it was not sought because it was too soon.
    seek_later: bool,
    dice: Dice,
    changes: VecDeque<Change>,
    switches: BTreeMap<(Class, Why), u64>,
}

impl Chooser {
    /// No paths yet. `policies` are the classes', in order of class.
    pub fn new(config: ChooseConfig, policies: &[Policy], mut dice: Dice, now: Instant) -> Self {
        Self {
            tick_at: now.plus(dice.jitter(config.first.min(config.recompute))),
            gap: config.first.min(config.recompute),
            stagger: drawn(&mut dice, config.stagger),
            config,
            policies: distinct(policies),
            held: BTreeMap::new(),
            ticked_at: None,
            overdue_at: None,
            returns_at: now,
            hopeless: BTreeSet::new(),
            seek_at: now,
            seek_gap: Duration::ZERO,
            lacking: 0,
            seek_later: false,
            dice,
            changes: VecDeque::new(),
            switches: BTreeMap::new(),
        }
    }

    /// Other classes or reasons not to move from now on; everything is recomputed at the next
    /// [`Chooser::weigh`]. `before`: for each of the new classes, which one it was, if it was there.
    /// No destination is left without a path by this: a class whose policy is new starts with the
    /// paths it had, or where it is new itself, with those of the last class.
    pub fn reconfigure(
        &mut self,
        now: Instant,
        config: ChooseConfig,
        policies: &[Policy],
        before: &[Option<Class>],
    ) {
        let last = self.policies.iter().flat_map(|(_, classes)| classes).max().copied();
        let old = std::mem::replace(&mut self.policies, distinct(policies));
        let held = std::mem::take(&mut self.held);
        for (index, (policy, classes)) in self.policies.iter().enumerate() {
            let was = |class: &Class| before.get(usize::from(class.0)).copied().flatten();
            let of = |class| old.iter().position(|(_, classes)| classes.contains(&class));
            let same = old.iter().position(|(p, _)| p == policy);
            let heir = classes.iter().find_map(was).or(last).and_then(of);
            let Some(from) = same.or(heir) else { continue };
            for ((_, node), decision) in held.iter().filter(|((i, _), _)| *i == from) {
                let decision = match same {
                    Some(_) => decision.clone(),
                    None => Held {
                        why: Why::Policy,
                        changed_at: now,
                        violated_since: None,
                        worse_since: None,
                        awaited: None,
                        ..decision.clone()
                    },
                };
                self.held.insert((index, *node), decision);
            }
        }
        let counted = std::mem::take(&mut self.switches);
        for (class, was) in (0..).map(Class).zip(before) {
            let of_it = counted.iter().filter(|((counted, _), _)| Some(*counted) == *was);
            self.switches.extend(of_it.map(|((_, why), count)| ((class, *why), *count)));
        }
        self.hopeless.clear();
        self.config = config;
        (self.tick_at, self.overdue_at) = (now, None);
    }

    /// What is known now is this. Moves what must move, and at the full recomputation what should; true
    /// where the table has changed. Cheap between recomputations while nothing is wrong (only the paths in
    /// force are priced), so call it whenever readings moved: limits are only kept by being watched.
    pub fn weigh(&mut self, now: Instant, map: &dyn Map) -> bool {
        self.weigh_anew(now, map, None)
    }

    /// The same, where all that is new since the last time is news of these nodes, that were and are
    /// there: paths that cross none of them are as they were.
    pub fn weigh_touched(
        &mut self,
        now: Instant,
        map: &dyn Map,
        touched: &BTreeSet<NodeId>,
    ) -> bool {
        self.weigh_anew(now, map, Some(touched))
    }

    fn weigh_anew(
        &mut self,
        now: Instant,
        map: &dyn Map,
        touched: Option<&BTreeSet<NodeId>>,
    ) -> bool {
        let tick = now >= self.tick_at;
        if tick {
            self.gap = self.config.recompute.min(self.gap * 2);
            self.tick_at = now.plus(self.dice.jitter(self.gap));
            self.ticked_at = Some(now);
            self.stagger = drawn(&mut self.dice, self.config.stagger);
        }
        let living: BTreeSet<NodeId> =
            map.nodes().into_iter().filter(|n| *n != map.source()).collect();
        let seek = tick || living.len() <= FEW || now >= self.seek_at;
        let returns = tick || living.len() <= FEW || now >= self.returns_at;
        let (mut changed, mut sought) = (false, false);
        let lacked = std::mem::take(&mut self.lacking);
        let objectives: Vec<Objective> = self.policies.iter().map(|(p, _)| p.objective).collect();
        let (living, objectives) = (&living, &objectives[..]);
        let field = OnceCell::new();
        let turn = Turn { map, living, objectives, touched, tick, seek, returns, field };
        for index in 0..self.policies.len() {
            changed |= self.weigh_policy(now, index, &turn, &mut sought);
        }
        self.hopeless.retain(|(_, node)| living.contains(node));
        self.seek_later = !seek && self.lacking > 0;
        if sought {
            let least = seek_gap(living);
            let vain = self.lacking == lacked;
            self.seek_gap = if vain { self.seek_gap * 2 } else { least };
            self.seek_gap = self.seek_gap.clamp(least, self.config.recompute.max(least));
            self.seek_at = now.plus(self.seek_gap);
        }
        let newcomer = |h: &Held| h.why == Why::First && h.changed_at == now;
        if self.held.values().any(newcomer) {
            let soon = now.plus(self.dice.jitter(self.config.first));
            self.tick_at = self.tick_at.min(soon);
            self.gap = self.config.first.min(self.config.recompute);
        }
        // What cannot be mended (no path keeps the limits) is asked about by news and ticks alone.
        let violated = |h: &Held| h.violated_since.map(|at| at.plus(self.patience(h)));
        let returned = |h: &Held| Some(self.returned_at(h, h.works_since())?.max(self.returns_at));
        let due = |h: &Held| [violated(h), self.judged_again_at(h, h.worse_since), returned(h)];
        self.overdue_at = self.held.values().flat_map(due).flatten().filter(|at| *at > now).min();
        changed
    }

    /// The next move, oldest first.
    pub fn poll_change(&mut self) -> Option<Change> {
        self.changes.pop_front()
    }

    /// When [`Chooser::weigh`] must be called even without news.
    pub fn poll_timeout(&self) -> Option<Deadline> {
        let tick = Deadline { at: self.tick_at, why: "full recomputation" };
        let late = self.overdue_at.map(|at| Deadline { at, why: "limits left, or worse" });
        let seek = self.seek_later.then_some(Deadline { at: self.seek_at, why: "path sought" });
        Deadline::earlier(Some(tick), Deadline::earlier(late, seek))
    }

    /// Writes the paths in force into a table.
    pub fn fill(&self, table: &mut RouteTable) {
        for ((index, destination), held) in &self.held {
            for class in &self.policies[*index].1 {
                table.routes.insert((*destination, *class), held.said.clone());
            }
        }
    }

    /// The decision in force.
    pub fn held(&self, destination: NodeId, class: Class) -> Option<&Held> {
        let index = self.policies.iter().position(|(_, classes)| classes.contains(&class))?;
        self.held.get(&(index, destination))
    }

    /// Every decision in force, by destination and class.
    pub fn iter(&self) -> impl Iterator<Item = (NodeId, Class, &Held)> {
        self.held.iter().flat_map(|((index, destination), held)| {
            self.policies[*index].1.iter().map(move |class| (*destination, *class, held))
        })
    }

    /// How often traffic of a class moved, by reason.
    pub const fn switches(&self) -> &BTreeMap<(Class, Why), u64> {
        &self.switches
    }

    /// When everything was last recomputed.
    pub const fn recomputed_at(&self) -> Option<Instant> {
        self.ticked_at
    }

    /// When everything will next be recomputed.
    pub const fn recompute_at(&self) -> Instant {
        self.tick_at
    }

    /// Until when the hold-down protects a decision from merely better paths. A destination's first
    /// path is not protected: it was taken because it was the only one known, often over the seed
    /// that told of the destination, and would outlive the first recomputation by minutes. Nor is one
    /// that another policy chose.
    pub fn held_until(&self, held: &Held) -> Instant {
        match held.why {
            Why::First | Why::Policy => held.changed_at,
            _ => held.changed_at.plus(self.config.hold_down),
        }
    }

    /// When a path that has been much worse since then is judged again.
    fn judged_again_at(&self, held: &Held, worse_since: Option<Instant>) -> Option<Instant> {
        worse_since.map(|at| at.plus(self.patience(held)).max(self.held_until(held)))
    }

    /// How long a path may be outside its limits, or much worse, before it is judged again.
    fn patience(&self, held: &Held) -> Duration {
        let shared = held.primary.nodes.len() > 1;
        self.config.violation + if shared { self.stagger } else { Duration::ZERO }
    }

    /// When a path is judged again because what it stands in for has worked since then. One that was only
    /// taken because another broke is not protected from that one.
    fn returned_at(&self, held: &Held, works_since: Option<Instant>) -> Option<Instant> {
        let stagger = self.patience(held) - self.config.violation;
        let proved_at = works_since?.plus(held.proof + stagger);
        let protected = held.why != Why::Broken;
        Some(if protected { proved_at.max(self.held_until(held)) } else { proved_at })
    }

    /// There is a link to this node: paths to it over others are judged again once it has proved itself.
    pub fn on_link(&mut self, link: LinkId, destination: NodeId) {
        for index in 0..self.policies.len() {
            let Some(held) = self.held.get_mut(&(index, destination)) else { continue };
            let relayed = held.primary.nodes.len() > 1;
            let known = held.awaited.as_ref().is_some_and(|way| way.first_link() == link);
            if relayed && !known {
                held.awaited = Some(Awaited::link(link, destination));
            }
        }
    }

    /// The links that ways start with for which others stand in, with destination and class.
    pub fn awaited(&self) -> impl Iterator<Item = (NodeId, Class, LinkId)> {
        self.iter().filter_map(|(node, class, held)| {
            Some((node, class, held.awaited.as_ref()?.first_link()))
        })
    }

    /// How much cheaper than the path in force another must be.
    pub const fn margin(&self) -> Ratio {
        self.config.margin
    }

    fn weigh_policy(
        &mut self,
        now: Instant,
        index: usize,
        turn: &Turn<'_>,
        sought: &mut bool,
    ) -> bool {
        let &Turn { map, living, .. } = turn;
        let terms = map.terms(&self.policies[index].0);
        let seeker = LazyCell::new(|| Seeker::new(map, &terms, turn.field()));
        let mut nodes: Vec<NodeId> = self.of(index).map(|(node, _)| node).collect();
        nodes.extend(living.iter().filter(|node| !self.held.contains_key(&(index, **node))));
        nodes.sort_unstable();
        let mut changed = false;
        for destination in nodes {
            let key = (index, destination);
            changed |= match self.stands(key, turn, &terms) {
                Some(told) => told,
                None => self.decide(now, key, turn, &terms, &seeker, sought),
            };
        }
        changed
    }

    /// Where a decision stands without being judged: renews its figures, and whether the table changes
    /// by that.
    fn stands(&mut self, key: Key, turn: &Turn<'_>, terms: &Terms) -> Option<bool> {
        // A node that is no more takes its paths along, whatever they cross.
        if turn.tick || !turn.living.contains(&key.1) {
            return None;
        }
        let held = self.held.get_mut(&key)?;
        let backed = held.backup.is_some();
        let crossed = turn.touched.is_none_or(|touched| held.crosses(touched));
        if turn.seek && !backed || !crossed && held.is_in_doubt() {
            return None;
        }
        let told = if crossed { held.stand(turn.map, terms)? } else { false };
        self.lacking += usize::from(!backed);
        Some(told)
    }

    /// Judges one decision, seeks what it lacks, and moves or renews it; true where the table changes.
    fn decide<'a>(
        &mut self,
        now: Instant,
        key: Key,
        turn: &Turn<'_>,
        terms: &Terms,
        seeker: &impl Deref<Target = Seeker<'a>>,
        sought: &mut bool,
    ) -> bool {
        let (map, destination) = (turn.map, key.1);
        let old = self.held.get(&key).cloned();
        let judgement =
            old.as_ref().map(|old| self.judge(now, old, old.look(map, terms), turn, terms));
        let lies = judgement.as_ref().is_some_and(|j| j.weighed.is_some());
        let overdue = judgement.as_ref().is_some_and(|j| j.overdue);
        // What is not there has no path; what has just broken is mended at once, and what could not be
        // in its turn.
        let lives = map.lives(destination);
        let vain = old.is_none() || self.hopeless.contains(&key);
        let broke = !lies && lives && (turn.seek || !vain);
        let judged = judgement.as_ref().map_or(turn.tick, |j| j.judged);
        let best = if judged || broke || (overdue && turn.seek) {
            *sought |= vain || overdue;
            seeker.best(destination)
        } else {
            None
        };
        if !lies && best.is_none() && lives {
            self.hopeless.insert(key);
            self.lacking += 1;
        } else {
            self.hopeless.remove(&key);
        }
        let why = match (&judgement, &best) {
            (None, best) => best.as_ref().map(|_| Why::First),
            (Some(Judgement { weighed: None, .. }), Some(_)) => Some(Why::Broken),
            (Some(Judgement { weighed: None, .. }), None) => (!lives).then_some(Why::Gone),
            (Some(Judgement { weighed: Some(weighed), .. }), Some(best)) => {
                let returned = judgement.as_ref().is_some_and(|j| j.returned);
                let better = match (turn.tick, returned) {
                    (_, true) => Why::Returned,
                    (true, false) => Why::Better,
                    (false, false) => Why::Worse,
                };
                let better = judged.then_some(better);
                old.as_ref().and_then(|held| {
                    self.should_move(now, terms, held, weighed, &best.best, better)
                })
            }
            (Some(_), None) => None,
        };
        let new = match (why, &old, judgement) {
            (Some(Why::Gone), ..) => None,
            (Some(why), old, _) => best.map(|found| {
                let (least, most) = (self.config.violation, self.config.recompute);
                let proof = proof(now, why, old.as_ref(), least, most);
                Held::chosen(now, why, old.as_ref(), found, terms, proof)
            }),
            (None, Some(old), Some(Judgement { weighed: Some(weighed), clocks, .. })) => {
                let backed = old.backup.is_some();
                let find = |primary: &Candidate| {
                    let may = turn.seek || backed;
                    *sought |= may && !backed;
                    may.then(|| seeker.backup(primary)).flatten()
                };
                let settled = judged && now >= self.held_until(old);
                let withheld = terms.withholds(weighed.broken)
                    && (overdue || weighed.broken == Some(Limit::Avoid));
                let standing = old.backup.as_ref().and_then(|way| serves(way, map, terms));
                let mut held = old.clocked(clocks, settled.then_some(&weighed));
                held.renew(weighed, standing, find, turn.tick);
                held.said.withheld = withheld;
                Some(held)
            }
            (None, old, _) => old.clone(),
        };
        self.put(key, old, new, why, overdue)
    }

    /// What a look at the path in force means, by the clock.
    fn judge(
        &mut self,
        now: Instant,
        held: &Held,
        verdict: Verdict,
        turn: &Turn<'_>,
        terms: &Terms,
    ) -> Judgement {
        let tick = turn.tick;
        let Verdict::Works { priced, broken, worse } = verdict else {
            let clocks = Clocks { violated_since: None, worse_since: None, awaited: None };
            return Judgement {
                weighed: None,
                clocks,
                overdue: false,
                judged: tick,
                returned: false,
            };
        };
        let awaited = held.awaited.clone().map(|way| way.looked_at(now, turn.map, terms));
        let works_since = awaited.as_ref().and_then(|way| way.works_since);
        let returned_at = self.returned_at(held, works_since);
        let returned = turn.returns && returned_at.is_some_and(|at| at <= now);
        if returned {
            self.returns_at = now.plus(seek_gap(turn.living));
        }
        let violated_since = broken.map(|_| held.violated_since.unwrap_or(now));
        // Nothing is lost by leaving a path that carries nothing.
        let over = |since| held.said.withheld || now.since(since) >= self.patience(held);
        let worse_since = worse.then(|| held.worse_since.unwrap_or(now));
        let judged_at = self.judged_again_at(held, worse_since);
        let primary = &held.primary;
        Judgement {
            weighed: Some(Candidate {
                link: primary.link,
                nodes: primary.nodes.clone(),
                priced,
                broken,
            }),
            overdue: violated_since.is_some_and(over),
            judged: tick || returned || judged_at.is_some_and(|at| at <= now),
            returned,
            clocks: Clocks { violated_since, worse_since, awaited: awaited.filter(|_| !returned) },
        }
    }

    /// Brings a decision into force, or takes it out; true where the table changes.
    fn put(
        &mut self,
        key: Key,
        old: Option<Held>,
        new: Option<Held>,
        why: Option<Why>,
        overdue: bool,
    ) -> bool {
        let changed = old.as_ref().map(|h| &h.said) != new.as_ref().map(|h| &h.said);
        let withheld = |held: &Option<Held>| held.as_ref().is_some_and(|h| h.said.withheld);
        let turned = match (withheld(&old), withheld(&new)) {
            (false, true) => Some(Why::Fallback),
            (true, false) => Some(Why::Limits),
            _ => None,
        };
        if let Some(why) = why.or(turned) {
            let primary = |held: &Option<Held>| {
                let taken = held.as_ref().filter(|h| !h.said.withheld);
                taken.map(|h| h.primary.clone())
            };
            self.note(key.0, key.1, primary(&old), primary(&new), why);
        }
        match new {
            Some(new) => {
                let violated = overdue && new.violated_since.is_some();
                self.lacking += usize::from(new.backup.is_none() || violated);
                self.held.insert(key, new);
            }
            None => drop(self.held.remove(&key)),
        }
        changed
    }

    /// Whether the path in force gives way to the best one; `judged`: the reason to say if it is because
    /// that is better, where better ones are looked for at all.
    fn should_move(
        &self,
        now: Instant,
        terms: &Terms,
        held: &Held,
        weighed: &Candidate,
        best: &Candidate,
        judged: Option<Why>,
    ) -> Option<Why> {
        if best.is_way(weighed.link, &weighed.nodes) {
            return None;
        }
        let evil = |c: &Candidate| terms.evil(&c.nodes, c.broken);
        match evil(best).cmp(&evil(weighed)) {
            Ordering::Less if best.broken.is_some() && terms.fallback == Fallback::Direct => {
                Some(Why::Fallback)
            }
            Ordering::Less => Some(Why::Limits),
            Ordering::Greater => None,
            Ordering::Equal => {
                let (new, old, margin) = (&best.priced, &weighed.priced, self.config.margin);
                let free = now >= self.held_until(held) || judged == Some(Why::Returned);
                let better = beats(terms.objective, new, old, margin);
                judged.filter(|_| free && better)
            }
        }
    }

    fn of(&self, index: usize) -> impl Iterator<Item = (NodeId, &Held)> {
        let range = self.held.range((index, FIRST_NODE)..);
        range.take_while(move |((i, _), _)| *i == index).map(|((_, node), held)| (*node, held))
    }

    fn note(
        &mut self,
        index: usize,
        destination: NodeId,
        from: Option<Candidate>,
        to: Option<Candidate>,
        why: Why,
    ) {
        let classes = self.policies[index].1.clone();
        for class in &classes {
            *self.switches.entry((*class, why)).or_default() += 1;
        }
        if self.changes.len() >= CHANGES {
            self.changes.pop_front();
        }
        self.changes.push_back(Change { destination, classes, from, to, why });
    }
}

/// How long after one solution the next may be sought for what can wait.
fn seek_gap(living: &BTreeSet<NodeId>) -> Duration {
    SEEK_PER_NODE.saturating_mul(u32::try_from(living.len()).unwrap_or(u32::MAX))
}

/// A share of a span by dice, to the microsecond.
fn drawn(dice: &mut Dice, most: Duration) -> Duration {
    Duration::from_micros(dice.below(micros(most) + 1))
}

/// Each policy once, with the classes that follow it.
fn distinct(policies: &[Policy]) -> Vec<(Policy, Vec<Class>)> {
    let mut distinct: Vec<(Policy, Vec<Class>)> = Vec::new();
    for (index, policy) in policies.iter().take(Class::LIMIT).enumerate() {
        let class = Class(index as u8);
        match distinct.iter_mut().find(|(p, _)| p == policy) {
            Some((_, classes)) => classes.push(class),
            None => distinct.push((policy.clone(), vec![class])),
        }
    }
    distinct
}

/// The least node there can be, where a range of keys begins.
const FIRST_NODE: NodeId = match NodeId::new(1) {
    Some(node) => node,
    None => unreachable!(),
};

/// What all policies are weighed with at one moment.
struct Turn<'a> {
    map: &'a dyn Map,
    /// Every node that can be reached, but the source.
    living: &'a BTreeSet<NodeId>,
    /// Nodes of which there is news; none where everything may be new.
    touched: Option<&'a BTreeSet<NodeId>>,
    /// Whether everything is computed anew.
    tick: bool,
    /// Whether what was sought in vain is sought again.
    seek: bool,
    /// Whether what came back is looked at.
    returns: bool,
    /// Of all policies.
    objectives: &'a [Objective],
    /// Made once anything is sought.
    field: OnceCell<Option<Field>>,
}

impl Turn<'_> {
    fn field(&self) -> Option<&Field> {
        self.field.get_or_init(|| Field::of(self.map, self.objectives)).as_ref()
    }
}

/// What is made of a path in force by the clock.
struct Judgement {
    /// It at today's price; none where it is no path any more.
    weighed: Option<Candidate>,
    clocks: Clocks,
    /// Whether it has been outside its limits for too long.
    overdue: bool,
    /// Whether it is judged against all others.
    judged: bool,
    /// Whether it is because what it stands in for has proved itself.
    returned: bool,
}

/// Whether one is better than the other by more than the margin. Money is weighed by itself, since it
/// stands so far above everything else that no share of the sum would ever be delay.
fn beats(objective: Objective, new: &Priced, old: &Priced, margin: Ratio) -> bool {
    let keep = 1.0 - margin.as_f64();
    let by = |new: u64, old: u64| (new as f64) < old as f64 * keep;
    let rest = by(new.parts.total_us(), old.parts.total_us());
    match objective {
        Objective::Cost => {
            by(new.parts.money, old.parts.money) || (new.parts.money <= old.parts.money && rest)
        }
        Objective::Latency | Objective::Reliability => rest,
    }
}

#[cfg(test)]
mod tests;
