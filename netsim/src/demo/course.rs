//! The course of the demo: what happens when, to whom, and what was counted from it.
//!
//! Whom an event strikes is not written down beforehand: it is chosen, by a rule, from the paths the
//! daemons have in force at that moment, so that it strikes something in use.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::link::{Burst, LinkParams};
use crate::netns::Floor;
use crate::netns::fleet::Fleet;
use crate::netns::sys;

use super::place::{CLOUD, Place, SITES};
use crate::netns::watch::Watch;

/// What is done at a point of the course.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// A direct link in use gets slow and lossy.
    Degrade,
    /// It is as before.
    Mend,
    /// Another link in use is cut both ways.
    Cut,
    /// It is whole again.
    Heal,
    /// The node that relays for most pairs dies.
    KillRelay,
    /// It starts again.
    ReviveRelay,
    /// The cloud is cut off from everybody.
    CutCloud,
    /// While it is away, an edge's daemon is restarted.
    RestartEdge,
    /// The cloud is back.
    JoinCloud,
}

/// When, seconds from the flows' start. A quarter of the time nothing happens at first: that is what
/// the direct Internet and the overlay are like without any event.
pub const COURSE: [(u64, Step); 9] = [
    (22, Step::Degrade),
    (34, Step::Mend),
    (38, Step::Cut),
    (46, Step::Heal),
    (50, Step::KillRelay),
    (57, Step::ReviveRelay),
    (64, Step::CutCloud),
    (67, Step::RestartEdge),
    (74, Step::JoinCloud),
];

/// When the flows end.
pub const LENGTH_S: u64 = 82;

/// Delay and loss that [`Step::Degrade`] adds: a congested transit, as evenings bring it.
const ADDED_DELAY: Duration = Duration::from_millis(80);
const ADDED_HOLES: Burst =
    Burst { good: Duration::from_millis(270), bad: Duration::from_millis(30) };

/// How the return from an event is told from the flows.
#[derive(Clone, Debug, PartialEq)]
pub enum Sign {
    /// The longest silence of any of these flows.
    Silence,
    /// All of these flows arrive again.
    Arrival,
    /// Delay and loss of these flows are near what they were.
    Quality,
    /// Nothing is expected to be disturbed.
    None,
}

/// Something that happened.
#[derive(Clone, Debug)]
pub struct Happened {
    /// When, monotonic ns.
    pub at_ns: u64,
    /// What, in words.
    pub what: String,
    /// The ordered pairs it disturbs.
    pub pairs: Vec<(usize, usize)>,
    /// How its end is recognised.
    pub sign: Sign,
}

/// A site that is dead or cut off for a while.
#[derive(Clone, Copy, Debug)]
pub struct Away {
    /// Which.
    pub site: usize,
    /// Since when, monotonic ns.
    pub from_ns: u64,
    /// When it could be reached again; none while it is away.
    pub back_ns: Option<u64>,
    /// When it was let back.
    returns_ns: Option<u64>,
}

/// The course in progress.
#[derive(Debug, Default)]
pub struct Course {
    next: usize,
    degraded: Option<(usize, usize)>,
    cut: Option<(usize, usize)>,
    killed: Option<usize>,
    /// All that happened.
    pub happened: Vec<Happened>,
    /// Who was away when.
    pub away: Vec<Away>,
}

/// A node that came back is away until it reaches everybody by its own word, or for this long at
/// most: what it costs to come back is shown with the event, and must not hide for ever.
const BACK_WITHIN_NS: u64 = 5_000_000_000;

impl Course {
    /// The step that is due, if any.
    pub fn due(&mut self, since_start: Duration) -> Option<Step> {
        let (at, step) = *COURSE.get(self.next)?;
        (since_start >= Duration::from_secs(at)).then(|| {
            self.next += 1;
            step
        })
    }

    /// Does a step. Gives what happened in words.
    pub fn perform(
        &mut self,
        step: Step,
        place: &Place,
        floor: &Floor,
        fleet: &mut Fleet,
        watch: &mut Watch,
    ) -> String {
        let name = |site: usize| place.names[site].as_str();
        // Asking a node for its last counters takes time that is not the event's.
        let dies = match step {
            Step::KillRelay => Some(busiest_relay(watch)),
            Step::RestartEdge => Some(self.restarted_edge()),
            _ => None,
        };
        if let Some(site) = dies {
            watch.retire(fleet, site);
        }
        let at_ns = sys::monotonic_ns();
        let (what, pairs, sign) = match step {
            Step::Degrade => {
                let (a, b) = longest_link_in_use(place, watch, None);
                self.degraded = Some((a, b));
                both_ways(floor, place, (a, b), |link| {
                    link.delay += ADDED_DELAY;
                    link.burst = Some(ADDED_HOLES);
                });
                let what = format!(
                    "the link {}-{} degrades: +{} ms, {} lost in holes of {} ms",
                    name(a),
                    name(b),
                    ADDED_DELAY.as_millis(),
                    ADDED_HOLES.share(),
                    ADDED_HOLES.bad.as_millis(),
                );
                (what, users(watch, |path| crosses(path, a, b)), Sign::Quality)
            }
            Step::Mend => {
                let Some((a, b)) = self.degraded else { return String::new() };
                both_ways(floor, place, (a, b), |_| {});
                (format!("the link {}-{} is as before", name(a), name(b)), vec![], Sign::None)
            }
            Step::Cut => {
                let (a, b) = longest_link_in_use(place, watch, self.degraded);
                self.cut = Some((a, b));
                both_ways(floor, place, (a, b), |link| link.cut = true);
                let pairs = users(watch, |path| crosses(path, a, b));
                (format!("the link {}-{} is cut", name(a), name(b)), pairs, Sign::Silence)
            }
            Step::Heal => {
                let Some((a, b)) = self.cut else { return String::new() };
                both_ways(floor, place, (a, b), |_| {});
                (format!("the link {}-{} is whole again", name(a), name(b)), vec![], Sign::None)
            }
            Step::KillRelay => {
                let relay = busiest_relay(watch);
                self.killed = Some(relay);
                let inner = |path: &[usize]| path[1..path.len() - 1].contains(&relay);
                let pairs = users(watch, inner);
                fleet.kill(relay);
                self.gone(relay, at_ns);
                let what = format!("{} is killed, relay of {} pairs", name(relay), pairs.len());
                (what, pairs, Sign::Silence)
            }
            Step::ReviveRelay => {
                let Some(relay) = self.killed else { return String::new() };
                self.revive(relay, floor, fleet, name(relay), at_ns, "returns")
            }
            Step::CutCloud => {
                for other in (0..SITES).filter(|s| *s != CLOUD) {
                    both_ways(floor, place, (CLOUD, other), |link| link.cut = true);
                }
                self.gone(CLOUD, at_ns);
                let pairs = users(watch, |path| !path_ends(path).contains(&CLOUD));
                ("the cloud is cut off".to_owned(), pairs, Sign::Silence)
            }
            Step::RestartEdge => {
                let edge = self.restarted_edge();
                fleet.kill(edge);
                self.gone(edge, at_ns);
                self.revive(edge, floor, fleet, name(edge), at_ns, "restarts without the cloud")
            }
            Step::JoinCloud => {
                for other in (0..SITES).filter(|s| *s != CLOUD) {
                    both_ways(floor, place, (CLOUD, other), |_| {});
                }
                self.returns(CLOUD, at_ns);
                ("the cloud is back".to_owned(), self.pairs_of(CLOUD), Sign::Arrival)
            }
        };
        self.happened.push(Happened { at_ns, what: what.clone(), pairs, sign });
        what
    }

    /// The last edge, unless it is the one that was killed before.
    fn restarted_edge(&self) -> usize {
        if self.killed == Some(SITES - 1) { SITES - 2 } else { SITES - 1 }
    }

    fn revive(
        &mut self,
        site: usize,
        floor: &Floor,
        fleet: &mut Fleet,
        name: &str,
        at_ns: u64,
        how: &str,
    ) -> (String, Vec<(usize, usize)>, Sign) {
        match fleet.start(&floor.sites, site) {
            Ok(()) => {
                self.returns(site, at_ns);
                (format!("{name} {how}"), self.pairs_of(site), Sign::Arrival)
            }
            Err(error) => (format!("{name} cannot be started: {error}"), vec![], Sign::None),
        }
    }

    /// Both directions between a site and everyone who is not away.
    fn pairs_of(&self, site: usize) -> Vec<(usize, usize)> {
        let here = |s: usize| !self.away.iter().any(|a| a.site == s && a.returns_ns.is_none());
        let others = (0..SITES).filter(|o| *o != site && here(*o));
        others.flat_map(|o| [(site, o), (o, site)]).collect()
    }

    fn gone(&mut self, site: usize, from_ns: u64) {
        self.away.push(Away { site, from_ns, back_ns: None, returns_ns: None });
    }

    fn returns(&mut self, site: usize, at_ns: u64) {
        for away in self.away.iter_mut().filter(|a| a.site == site && a.returns_ns.is_none()) {
            away.returns_ns = Some(at_ns);
        }
    }

    /// Notes who of those that were let back reaches everybody again.
    pub fn note_back(&mut self, watch: &Watch) {
        let now = sys::monotonic_ns();
        let missing = self.away.iter().filter(|a| a.returns_ns.is_none()).count() as u32;
        for away in self.away.iter_mut().filter(|a| a.back_ns.is_none()) {
            let Some(returns) = away.returns_ns else { continue };
            let reaches_all = watch.reaches(away.site) + 1 + missing >= SITES as u32;
            if reaches_all {
                away.back_ns = Some(now.min(returns + BACK_WITHIN_NS));
            } else if now >= returns + BACK_WITHIN_NS {
                away.back_ns = Some(returns + BACK_WITHIN_NS);
            }
        }
    }

    /// The parts of `span` in which both ends of a pair live.
    pub fn alive(&self, pair: (usize, usize), span: (u64, u64)) -> Vec<(u64, u64)> {
        let mut holes: Vec<(u64, u64)> = self
            .away
            .iter()
            .filter(|a| a.site == pair.0 || a.site == pair.1)
            .map(|a| (a.from_ns, a.back_ns.unwrap_or(u64::MAX)))
            .collect();
        holes.sort_unstable();
        let (mut windows, mut from) = (Vec::new(), span.0);
        for (begin, end) in holes {
            if begin > from {
                windows.push((from, begin.min(span.1)));
            }
            from = from.max(end);
        }
        if from < span.1 {
            windows.push((from, span.1));
        }
        windows.retain(|w| w.0 < w.1);
        windows
    }
}

fn both_ways(
    floor: &Floor,
    place: &Place,
    (a, b): (usize, usize),
    change: impl Fn(&mut LinkParams),
) {
    for (from, to) in [(a, b), (b, a)] {
        let mut params = place.links.get(&(from, to)).cloned().unwrap_or_default();
        change(&mut params);
        floor.wan.install(from, to, params);
    }
}

/// Whether a path uses the link between two sites.
fn crosses(path: &[usize], a: usize, b: usize) -> bool {
    path.windows(2).any(|hop| hop == [a, b] || hop == [b, a])
}

fn path_ends(path: &[usize]) -> [usize; 2] {
    [path[0], path[path.len() - 1]]
}

/// The pairs whose path in force is of the kind asked for.
fn users(watch: &Watch, kind: impl Fn(&[usize]) -> bool) -> Vec<(usize, usize)> {
    watch.paths.iter().filter(|(_, path)| kind(path)).map(|(pair, _)| *pair).collect()
}

/// Among links between edges that carry traffic, the one with the longest delay, leaving one out;
/// between any edges where none is known to carry any.
fn longest_link_in_use(
    place: &Place,
    watch: &Watch,
    but: Option<(usize, usize)>,
) -> (usize, usize) {
    let mut best = None;
    for in_use in [true, false] {
        for a in 1..SITES {
            for b in a + 1..SITES {
                let used = watch.paths.values().any(|path| crosses(path, a, b));
                let rtt = place.rtt_ms(a, b);
                if Some((a, b)) != but
                    && used == in_use
                    && best.is_none_or(|(_, longest)| rtt > longest)
                {
                    best = Some(((a, b), rtt));
                }
            }
        }
        if best.is_some() {
            break;
        }
    }
    best.map_or((1, 2), |(pair, _)| pair)
}

/// The node that relays for most pairs; ties and nobody: the first edge.
fn busiest_relay(watch: &Watch) -> usize {
    let mut count: BTreeMap<usize, usize> = BTreeMap::new();
    for path in watch.paths.values() {
        for relay in &path[1..path.len() - 1] {
            *count.entry(*relay).or_default() += 1;
        }
    }
    // The cloud has an event of its own.
    count.remove(&CLOUD);
    count.into_iter().rev().max_by_key(|(_, n)| *n).map_or(1, |(relay, _)| relay)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_course_is_in_order_and_ends_in_time() {
        assert!(COURSE.windows(2).all(|w| w[0].0 < w[1].0));
        assert!(COURSE.iter().all(|(at, _)| *at < LENGTH_S));
        let at = |step| COURSE.iter().find(|(_, s)| *s == step).map(|(at, _)| *at).unwrap();
        assert_eq!(at(Step::JoinCloud) - at(Step::CutCloud), 10);
    }

    #[test]
    fn a_pair_lives_while_neither_end_is_away() {
        let away = |site, from_ns, back_ns| Away { site, from_ns, back_ns, returns_ns: back_ns };
        let course = Course {
            away: vec![away(1, 20, Some(30)), away(2, 25, Some(40)), away(3, 90, None)],
            ..Course::default()
        };
        assert_eq!(course.alive((1, 2), (0, 100)), [(0, 20), (40, 100)]);
        assert_eq!(course.alive((0, 1), (0, 100)), [(0, 20), (30, 100)]);
        assert_eq!(course.alive((0, 3), (0, 100)), [(0, 90)]);
        assert_eq!(course.alive((0, 4), (0, 100)), [(0, 100)]);
        assert_eq!(course.alive((1, 2), (22, 38)), []);
    }

    #[test]
    fn a_path_crosses_a_link_either_way() {
        assert!(crosses(&[0, 2, 1], 1, 2));
        assert!(!crosses(&[0, 2, 1], 0, 1));
    }
}
