//! The path each packet takes now: the table's primary, or its backup while the primary is known
//! not to work.
//!
//! No computation: a path works while its first link is up and no relay on it has said that it lost
//! its next hop. Whatever changes that is followed by one walk over the table, and the flips it
//! makes are told.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::id::{Class, LinkId, NodeId};
use crate::quality::LinkMtu;
use crate::route::table::{Path, RouteTable};
use crate::time::{Deadline, Instant};
use crate::wire::data::carried_in;
use crate::wire::header::{Segments, ticks};

use super::event::{FlipReason, ForwardEvent};

/// How long a relay's word that it lost its next hop counts. By then the mesh has computed anew, or
/// the next packet brings the next notice.
const LOST_FOR: Duration = Duration::from_secs(3);
/// How long a link that was down must have worked before paths return to it: one that comes and goes
/// would take the traffic along each time.
const SETTLES: Duration = Duration::from_secs(2);
/// How often it is told that a path is in use.
const USE_TOLD: Duration = Duration::from_secs(5);
/// Such words remembered at a time.
const LOST_LIMIT: usize = 256;
/// How long a relay's word counts that its next link carries less (RFC 8201, section 5.2: ten minutes).
const NARROW_FOR: Duration = Duration::from_secs(600);

/// A path in the form that packets need.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Way {
    pub(super) link: LinkId,
    pub(super) segments: Segments,
    /// The path's own delay, in ticks: a packet's time budget starts from it.
    pub(super) delay: u16,
    /// The longest packet that it is known to carry in one piece.
    pub(super) most: u16,
}

impl Way {
    fn of(path: &Path) -> Option<Self> {
        let segments = Segments::new(&path.nodes)?;
        Some(Self { link: path.link, segments, delay: ticks(path.delay), most: u16::MAX })
    }

    /// Whether it crosses from `relay` to `next`.
    fn crosses(&self, relay: NodeId, next: NodeId) -> bool {
        let raw = self.segments.raw();
        raw.windows(2).any(|pair| pair == [relay.get(), next.get()])
    }
}

/// A path that a packet wants to take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Taken {
    pub(super) way: Way,
    /// Whether it is news that packets go there.
    pub(super) news: bool,
    /// Whether the packet is to be dropped instead.
    pub(super) withheld: bool,
}

/// How a link is, as far as paths care.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Standing {
    /// Never up so far.
    #[default]
    New,
    Down,
    /// Up again: it carries what has no other way, and at the given time it counts as up.
    Settling(Instant),
    Up,
}

#[derive(Debug)]
struct Entry {
    primary: Way,
    backup: Option<Way>,
    on_backup: bool,
    /// Whether packets are dropped instead.
    withheld: bool,
    /// When it was last told that packets take it.
    told_use: Cell<Option<Instant>>,
}

/// The table in force and what has been flipped of it.
#[derive(Debug)]
pub(super) struct Paths {
    table: Arc<RouteTable>,
    entries: BTreeMap<(NodeId, Class), Entry>,
    /// How links are, by number.
    links: Vec<Standing>,
    /// What relays have lost, and until when we believe it.
    lost: BTreeMap<(NodeId, NodeId), Instant>,
    /// The longest packet that each link carries, by its number.
    most: Vec<u16>,
    /// The longest that relays' next links carry, and until when we believe it.
    narrow: BTreeMap<(NodeId, NodeId), (u16, Instant)>,
}

impl Paths {
    pub(super) fn new() -> Self {
        Self {
            table: RouteTable::empty(),
            entries: BTreeMap::new(),
            links: Vec::new(),
            lost: BTreeMap::new(),
            most: Vec::new(),
            narrow: BTreeMap::new(),
        }
    }

    /// A new table came. What was flipped stays so where the primary is the same.
    pub(super) fn install(&mut self, table: &Arc<RouteTable>, told: &mut Vec<ForwardEvent>) {
        if Arc::ptr_eq(table, &self.table) {
            return;
        }
        let old = std::mem::take(&mut self.entries);
        for (&key, route) in &table.routes {
            let Some(primary) = Way::of(&route.primary) else { continue };
            let backup = route.backup.as_ref().and_then(Way::of);
            let before = old.get(&key);
            let on_backup = before.is_some_and(|b| {
                b.on_backup
                    && b.primary.segments == primary.segments
                    && b.primary.link == primary.link
            });
            let on_backup = on_backup && backup.is_some();
            let told_use = Cell::new(before.and_then(|b| b.told_use.get()));
            let withheld = route.withheld;
            self.entries.insert(key, Entry { primary, backup, on_backup, withheld, told_use });
        }
        self.table = Arc::clone(table);
        self.weigh(FlipReason::LinkDown, told);
    }

    /// A link came up or went down.
    pub(super) fn on_link(
        &mut self,
        now: Instant,
        link: LinkId,
        up: bool,
        told: &mut Vec<ForwardEvent>,
    ) {
        let at = usize::from(link.0);
        if self.links.len() <= at {
            self.links.resize(at + 1, Standing::New);
        }
        let old = self.links[at];
        let new = match (up, old) {
            (true, Standing::New) => Standing::Up,
            (true, Standing::Down) => Standing::Settling(now.plus(SETTLES)),
            (false, Standing::Settling(_) | Standing::Up) => Standing::Down,
            _ => old,
        };
        if new != old {
            self.links[at] = new;
            self.weigh(FlipReason::LinkDown, told);
        }
    }

    fn standing(&self, link: LinkId) -> Standing {
        self.links.get(usize::from(link.0)).copied().unwrap_or_default()
    }

    /// Whether a link is up.
    pub(super) fn is_up(&self, link: LinkId) -> bool {
        matches!(self.standing(link), Standing::Up | Standing::Settling(_))
    }

    /// A relay says that it lost its next hop. Counts only where a path in force crosses there;
    /// returns whether one does.
    pub(super) fn on_lost(
        &mut self,
        now: Instant,
        relay: NodeId,
        next: NodeId,
        told: &mut Vec<ForwardEvent>,
    ) -> bool {
        let known = self.lost.contains_key(&(relay, next));
        let ours = self.entries.values().any(|e| {
            e.primary.crosses(relay, next) || e.backup.is_some_and(|b| b.crosses(relay, next))
        });
        if !ours || (!known && self.lost.len() >= LOST_LIMIT) {
            return false;
        }
        self.lost.insert((relay, next), now.plus(LOST_FOR));
        if !known {
            self.weigh(FlipReason::RelayLostHop, told);
        }
        true
    }

    /// What is known of the longest datagram that a link carries. Counts with the next
    /// [`Paths::measure_up`].
    pub(super) fn on_mtu(&mut self, link: LinkId, mtu: Option<LinkMtu>) {
        let at = usize::from(link.0);
        if self.most.len() <= at {
            self.most.resize(at + 1, u16::MAX);
        }
        // Before that is certain nobody is told: they would remember it.
        self.most[at] = mtu.filter(|mtu| mtu.settled).map_or(u16::MAX, |mtu| carried_in(mtu.size));
    }

    /// A relay says what its next link carries, a datagram of so many bytes. Counts only where a path in
    /// force crosses there; returns whether one does.
    pub(super) fn on_narrow(
        &mut self,
        now: Instant,
        relay: NodeId,
        next: NodeId,
        size: u16,
    ) -> bool {
        let known = self.narrow.contains_key(&(relay, next));
        let ours = self.entries.values().any(|e| {
            e.primary.crosses(relay, next) || e.backup.is_some_and(|b| b.crosses(relay, next))
        });
        if !ours || (!known && self.narrow.len() >= LOST_LIMIT) {
            return false;
        }
        self.narrow.insert((relay, next), (carried_in(size), now.plus(NARROW_FOR)));
        self.measure_up();
        true
    }

    /// Gives every path the longest packet that all of it carries, as far as is known.
    pub(super) fn measure_up(&mut self) {
        let (links, narrow) = (&self.most, &self.narrow);
        let measure = |way: &mut Way| {
            let first = links.get(usize::from(way.link.0)).copied().unwrap_or(u16::MAX);
            let crossed = narrow.iter().filter(|((relay, next), _)| way.crosses(*relay, *next));
            way.most = crossed.map(|(_, (most, _))| *most).fold(first, u16::min);
        };
        for entry in self.entries.values_mut() {
            measure(&mut entry.primary);
            entry.backup.iter_mut().for_each(measure);
        }
    }

    /// The clock reached `now`: old words of relays are forgotten.
    pub(super) fn handle_timeout(&mut self, now: Instant, told: &mut Vec<ForwardEvent>) {
        let before = self.lost.len();
        self.lost.retain(|_, until| *until > now);
        let mut changed = self.lost.len() < before;
        let before = self.narrow.len();
        self.narrow.retain(|_, (_, until)| *until > now);
        if self.narrow.len() < before {
            self.measure_up();
        }
        for link in &mut self.links {
            if matches!(link, Standing::Settling(until) if *until <= now) {
                *link = Standing::Up;
                changed = true;
            }
        }
        if changed {
            self.weigh(FlipReason::RelayLostHop, told);
        }
    }

    pub(super) fn poll_timeout(&self) -> Option<Deadline> {
        let relay = self.lost.values().min();
        let relay = relay.map(|&at| Deadline { at, why: "relay believed again" });
        let narrow = self.narrow.values().map(|(_, until)| until).min();
        let narrow = narrow.map(|&at| Deadline { at, why: "relay's link measured anew" });
        let relay = Deadline::earlier(relay, narrow);
        let settles = self.links.iter().filter_map(|link| match link {
            Standing::Settling(until) => Some(Deadline { at: *until, why: "link settled" }),
            _ => None,
        });
        Deadline::earlier(relay, settles.min())
    }

    /// The path that packets of this destination and class take now, if one works.
    pub(super) fn pick(&self, destination: NodeId, class: Class) -> Option<&Way> {
        self.way(self.entries.get(&(destination, class))?)
    }

    /// The same for a packet that wants to take it.
    pub(super) fn take(&self, now: Instant, destination: NodeId, class: Class) -> Option<Taken> {
        let entry = self.entries.get(&(destination, class))?;
        let way = *self.way(entry)?;
        let news = entry.told_use.get().is_none_or(|at| now.since(at) >= USE_TOLD);
        if news {
            entry.told_use.set(Some(now));
        }
        Some(Taken { way, news, withheld: entry.withheld })
    }

    fn way<'e>(&self, entry: &'e Entry) -> Option<&'e Way> {
        let (primary, backup) = (Some(&entry.primary), entry.backup.as_ref());
        let order = if entry.on_backup { [backup, primary] } else { [primary, backup] };
        // A path that a relay calls broken is still tried where there is no other; one without a
        // first link is not.
        order.into_iter().flatten().find(|way| self.is_up(way.link))
    }

    /// The way for carriers to a node that there are no keys with yet.
    pub(super) fn carrier(&self, node: NodeId) -> Option<Way> {
        let way = Way::of(self.table.carriers.get(&node)?)?;
        self.is_up(way.link).then_some(way)
    }

    /// The first links of all paths that may be in use, primary and backup.
    pub(super) fn links(&self) -> BTreeSet<LinkId> {
        let ways = self.entries.values().flat_map(|e| [Some(e.primary), e.backup]);
        let links = ways.flatten().map(|way| way.link);
        links.filter(|link| !self.table.resting.contains(link)).collect()
    }

    /// The node that answers for an address.
    pub(super) fn owner(&self, address: IpAddr) -> Option<NodeId> {
        self.table.owner(address)
    }

    fn works(&self, way: &Way) -> bool {
        let whole = || self.lost.keys().all(|&(relay, next)| !way.crosses(relay, next));
        self.is_up(way.link) && (self.lost.is_empty() || whole())
    }

    /// Flips whatever is not as it should be.
    fn weigh(&mut self, cause: FlipReason, told: &mut Vec<ForwardEvent>) {
        let mut flips = Vec::new();
        for (&key, entry) in &self.entries {
            let primary = self.works(&entry.primary);
            let backup = entry.backup.as_ref().is_some_and(|b| self.works(b));
            let settling = !matches!(self.standing(entry.primary.link), Standing::Up);
            let to_backup = backup && (!primary || entry.on_backup && settling);
            // Where neither works, things stay as they are.
            let stay = !primary && !backup;
            if !stay && to_backup != entry.on_backup {
                flips.push((key, to_backup));
            }
        }
        for (key, to_backup) in flips {
            if let Some(entry) = self.entries.get_mut(&key) {
                entry.on_backup = to_backup;
            }
            let (destination, class) = key;
            let why = if to_backup { cause } else { FlipReason::Recovered };
            told.push(ForwardEvent::Flipped { destination, class, to_backup, why });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::route::table::Route;

    fn node(n: u16) -> NodeId {
        NodeId::new(n).unwrap()
    }

    fn path(link: u16, nodes: &[u16]) -> Path {
        let nodes = nodes.iter().map(|&n| node(n)).collect();
        Path { link: LinkId(link), nodes, delay: Duration::from_millis(10) }
    }

    fn table(primary: Path, backup: Option<Path>) -> Arc<RouteTable> {
        let mut table = RouteTable::default();
        table.routes.insert((node(9), Class(0)), Route { backup, ..Route::alone(primary) });
        Arc::new(table)
    }

    /// Paths over links 0 and 1, both up: a relay and its bypass.
    fn relayed() -> (Paths, Vec<ForwardEvent>) {
        let (mut paths, mut told) = (Paths::new(), Vec::new());
        paths.on_link(Instant::ZERO, LinkId(0), true, &mut told);
        paths.on_link(Instant::ZERO, LinkId(1), true, &mut told);
        paths.install(&table(path(0, &[2, 9]), Some(path(1, &[9]))), &mut told);
        assert_eq!(told, []);
        (paths, told)
    }

    fn flip(to_backup: bool, why: FlipReason) -> ForwardEvent {
        ForwardEvent::Flipped { destination: node(9), class: Class(0), to_backup, why }
    }

    fn link(paths: &Paths) -> Option<u16> {
        paths.pick(node(9), Class(0)).map(|way| way.link.0)
    }

    #[test]
    fn a_path_that_is_withheld_still_tells_that_packets_want_it() {
        let (mut paths, mut told) = relayed();
        let withheld = Route { withheld: true, ..Route::alone(path(0, &[2, 9])) };
        let mut table = RouteTable::default();
        table.routes.insert((node(9), Class(0)), withheld);
        paths.install(&Arc::new(table), &mut told);
        let taken = paths.take(Instant::ZERO, node(9), Class(0)).unwrap();
        assert!(taken.withheld && taken.news);
        paths.install(&super::tests::table(path(0, &[2, 9]), None), &mut told);
        assert!(!paths.take(Instant::ZERO, node(9), Class(0)).unwrap().withheld);
    }

    #[test]
    fn a_dead_link_flips_to_the_backup_and_its_return_flips_back() {
        let (mut paths, mut told) = relayed();
        assert_eq!(link(&paths), Some(0));
        paths.on_link(Instant::ZERO, LinkId(0), false, &mut told);
        assert_eq!(link(&paths), Some(1));
        paths.on_link(Instant::ZERO, LinkId(1), false, &mut told);
        assert_eq!(link(&paths), None, "neither works");
        paths.on_link(Instant::ZERO, LinkId(0), true, &mut told);
        assert_eq!(link(&paths), Some(0));
        let want = [flip(true, FlipReason::LinkDown), flip(false, FlipReason::Recovered)];
        assert_eq!(told, want);
    }

    #[test]
    fn a_link_that_came_back_must_settle_before_paths_return_to_it() {
        let (mut paths, mut told) = relayed();
        let at = |ms: u64| Instant::from_micros(ms * 1000);
        paths.on_link(at(0), LinkId(0), false, &mut told);
        paths.on_link(at(500), LinkId(0), true, &mut told);
        assert_eq!((link(&paths), paths.is_up(LinkId(0))), (Some(1), true));
        paths.on_link(at(900), LinkId(0), false, &mut told);
        paths.on_link(at(1500), LinkId(0), true, &mut told);
        let settled = paths.poll_timeout().unwrap();
        assert_eq!(settled, Deadline { at: at(3500), why: "link settled" });
        paths.handle_timeout(at(3499), &mut told);
        assert_eq!((link(&paths), told.len()), (Some(1), 1), "one flip, however often it blinked");
        paths.handle_timeout(at(3500), &mut told);
        assert_eq!((link(&paths), paths.poll_timeout()), (Some(0), None));
        assert_eq!(told, [flip(true, FlipReason::LinkDown), flip(false, FlipReason::Recovered)]);
    }

    #[test]
    fn a_relay_that_lost_its_next_hop_is_believed_for_a_while() {
        let (mut paths, mut told) = relayed();
        assert!(!paths.on_lost(Instant::ZERO, node(3), node(9), &mut told), "not on our way");
        assert!(paths.on_lost(Instant::ZERO, node(2), node(9), &mut told));
        assert_eq!(link(&paths), Some(1));
        let until = paths.poll_timeout().unwrap().at;
        paths.handle_timeout(until, &mut told);
        assert_eq!(link(&paths), Some(0));
        let want = [flip(true, FlipReason::RelayLostHop), flip(false, FlipReason::Recovered)];
        assert_eq!(told, want);
    }

    #[test]
    fn a_path_carries_what_its_narrowest_link_does_as_far_as_is_known() {
        let (mut paths, mut told) = relayed();
        let most = |paths: &Paths| paths.pick(node(9), Class(0)).unwrap().most;
        assert_eq!(most(&paths), u16::MAX);
        paths.on_mtu(LinkId(0), Some(LinkMtu { size: 1252, settled: false }));
        paths.measure_up();
        assert_eq!(most(&paths), u16::MAX, "not settled yet");
        paths.on_mtu(LinkId(0), Some(LinkMtu { size: 1472, settled: true }));
        paths.measure_up();
        assert_eq!(most(&paths), 1386);
        assert!(!paths.on_narrow(Instant::ZERO, node(3), node(9), 1292), "not on our way");
        assert!(paths.on_narrow(Instant::ZERO, node(2), node(9), 1292));
        assert_eq!(most(&paths), 1206);
        paths.install(&table(path(0, &[2, 9]), None), &mut told);
        paths.measure_up();
        assert_eq!(most(&paths), 1206, "a new table is no news of links");
        let until = paths.poll_timeout().unwrap().at;
        assert_eq!(until, Instant::ZERO.plus(NARROW_FOR));
        paths.handle_timeout(until, &mut told);
        assert_eq!((most(&paths), paths.poll_timeout()), (1386, None));
    }

    #[test]
    fn a_new_table_keeps_the_flip_of_an_unchanged_primary_and_tells_a_new_one() {
        let (mut paths, mut told) = relayed();
        paths.on_link(Instant::ZERO, LinkId(0), false, &mut told);
        told.clear();
        paths.install(&table(path(0, &[2, 9]), Some(path(1, &[9]))), &mut told);
        assert_eq!((link(&paths), told.len()), (Some(1), 0));
        paths.install(&table(path(0, &[3, 9]), Some(path(1, &[9]))), &mut told);
        assert_eq!((link(&paths), told.len()), (Some(1), 1));
        paths.install(&table(path(1, &[9]), None), &mut told);
        assert_eq!((link(&paths), told.len()), (Some(1), 1));
    }
}
