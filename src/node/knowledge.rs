//! What the node knows of links and paths, and the table that comes of it.
//!
//! The way of knowledge is probe → topology → route. This file holds the mechanisms side by side and
//! passes each one's news to the next; what is due is done in [`Knowledge::settle`], once a turn.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::links::Links;
use super::peers::{Peers, Session};
use super::sight::Sight;
use super::{NodeConfig, NodeEvent};
use crate::control::message::DigestEntry;
use crate::forward::event::{FlipReason, ForwardEvent, ProbeRequest};
use crate::id::{Class, LinkId, NodeId};
use crate::probe::model::Model;
use crate::quality::LinkMtu;
use crate::report::LinkRow;
use crate::rng::Dice;
use crate::route::choose::{ChooseConfig, Chooser, Why};
use crate::route::policy::Policy;
use crate::route::table::{Path, Route, RouteTable};
use crate::route::terms::Terms;
use crate::session::trust::{Certified, Signer};
use crate::time::{Deadline, Instant, micros};
use crate::topology::graph::Graph;
use crate::topology::lsa::Version;
use crate::topology::lsdb::{Install, Lsdb};
use crate::topology::member::Members;
use crate::topology::originate::{OriginateConfig, Originator};
use crate::topology::reading::Reader;
use crate::unit::Price;

/// How long news of life and death is gathered before paths are weighed: a node that dies
/// takes all its links down within this.
const WEIGH_URGENT: Duration = Duration::from_millis(20);
/// So much longer for each node that is known: of a large mesh the news comes from more of them, and
/// each weighing takes longer. What a dead link carried has been moved onto its backup before that.
const WEIGH_PER_NODE: Duration = Duration::from_micros(200);
/// How long other news is gathered: limits are kept within seconds.
const WEIGH_MOVED: Duration = Duration::from_secs(1);
/// With so few links all that a path names is watched, used or not: it costs little, and what is first to
/// carry a packet has been looked at.
const FEW_LINKS: usize = 16;
/// A path counts as in use for so long after the forwarder last said so: three times as long as it
/// waits before it says so again.
const IN_USE: Duration = Duration::from_secs(15);

/// What the certificates say of everyone.
pub(super) struct Roll<'a> {
    pub(super) members: &'a Members,
    pub(super) peers: &'a Peers,
}

impl Roll<'_> {
    pub(super) fn certified(&self, node: NodeId) -> Option<&Certified> {
        let session = self.peers.session(node).map(|s| &s.peer);
        session.or_else(|| self.members.member(node).map(|m| &m.record.certified))
    }

    /// The number of the node of this name.
    pub(super) fn named(&self, name: &str) -> Option<NodeId> {
        let met = || self.peers.sessions().find(|(_, s)| s.peer.name == name);
        self.members.by_name(name).or_else(|| met().map(|(node, _)| node))
    }

    fn key(&self, node: NodeId) -> Option<[u8; 32]> {
        self.certified(node).map(|c| c.public_key)
    }
}

/// Probes, link state and routes of this node.
#[derive(Debug)]
pub(super) struct Knowledge {
    own: Certified,
    classes: u8,
    use_relays: bool,
    /// Whether paths are computed and shown, and not taken.
    observe: bool,
    /// Whether the month's money is spent.
    spent: bool,
    links: Links,
    lsdb: Lsdb,
    originator: Originator,
    chooser: Chooser,
    /// When paths are weighed next because of news.
    weigh_at: Option<Instant>,
    /// Whether the news may touch any path.
    all_touched: bool,
    /// Whether the table must be written anew whatever becomes of the paths.
    tabulate: bool,
    /// Else the nodes that it is of.
    touched: BTreeSet<NodeId>,
    table: Arc<RouteTable>,
    /// Destinations and classes that the forwarder has moved onto their backup, and why.
    flipped: BTreeMap<(NodeId, Class), (Instant, FlipReason)>,
    switches: BTreeMap<(Class, FlipReason), u64>,
    /// Destinations and classes with traffic now, and until when that is believed. Links of their
    /// paths are watched closely; all others share a small budget.
    in_use: BTreeMap<(NodeId, Class), Instant>,
    use_moved: bool,
}

fn policies(config: &NodeConfig) -> Vec<Policy> {
    config.classes.iter().map(|c| c.policy.clone()).collect()
}

fn choosing(config: &NodeConfig) -> ChooseConfig {
    ChooseConfig {
        recompute: config.recompute,
        margin: config.margin,
        hold_down: config.hold_down,
        ..ChooseConfig::default()
    }
}

/// How the path of a destination and class came to be in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Standing {
    /// Whether the forwarder has moved onto the backup by itself.
    pub(super) on_backup: bool,
    /// Whether packets are dropped instead of taking it.
    pub(super) withheld: bool,
    /// Whether the computed path does not keep the limits.
    pub(super) outside_limits: bool,
    /// Why the path in force is.
    pub(super) reason: &'static str,
    /// Since when.
    pub(super) changed_at: Option<Instant>,
    /// How often the destination's path has been moved by computation.
    pub(super) changes: u64,
    /// Until when it is held against better ones.
    pub(super) held_until: Option<Instant>,
}

impl Standing {
    /// How much longer the path in force is held.
    pub(super) fn hold_down_left(&self, now: Instant) -> Option<Duration> {
        self.held_until.filter(|&at| at > now).map(|at| at.since(now))
    }
}

impl Knowledge {
    pub(super) fn new(
        config: &NodeConfig,
        own: &Certified,
        boot: u64,
        mut dice: Dice,
        now: Instant,
    ) -> Self {
        let relay = config.relay && own.relay;
        let spoken = OriginateConfig::default();
        let (policies, choose) = (policies(config), choosing(config));
        Self {
            own: own.clone(),
            classes: config.classes.len().min(Class::LIMIT) as u8,
            use_relays: config.use_relays,
            observe: config.observe,
            spent: config.spent,
            links: Links::new(&config.probe, config.price, dice.fork(), now),
            lsdb: Lsdb::new(own.node),
            originator: Originator::new(spoken, own.node, boot, relay, dice.fork()),
            chooser: Chooser::new(choose, &policies, dice.fork(), now),
            weigh_at: None,
            all_touched: false,
            tabulate: false,
            touched: BTreeSet::new(),
            table: RouteTable::empty(),
            flipped: BTreeMap::new(),
            switches: BTreeMap::new(),
            in_use: BTreeMap::new(),
            use_moved: false,
        }
    }

    /// Link state is read by this reader.
    pub(super) fn read_by(&mut self, reader: Arc<dyn Reader>) {
        self.lsdb.read_by(reader);
    }

    /// Keys with a peer came into force.
    pub(super) fn on_session(&mut self, now: Instant, session: &Session) {
        let v6 = session.takes_sizes.then_some(session.endpoint.is_ipv6());
        self.links.add(now, session.link, session.peer.node, v6);
        self.tell_originator(session.link);
        self.on_standing(now, session.peer.node);
    }

    /// A link of ours to this node came, went, or changed sides between life and death.
    fn on_standing(&mut self, now: Instant, peer: NodeId) {
        self.touched.insert(peer);
        self.tabulate = true;
        self.weigh_urgently(now);
    }

    /// The session on this link is over.
    pub(super) fn on_session_ended(&mut self, now: Instant, link: LinkId) {
        if let Some(peer) = self.links.remove(link) {
            self.originator.on_neighbour_gone(peer);
            self.touched.insert(peer);
        }
        // A session that took its place, over the overlay, may have had no link: keys came all the same.
        self.tabulate = true;
        self.weigh_urgently(now);
    }

    /// The forwarder holds a link for up or down.
    pub(super) fn on_link(&mut self, now: Instant, link: LinkId, up: bool) {
        if self.links.on_verdict(now, link, up) {
            self.tell_originator(link);
            if let Some(peer) = self.links.peer(link) {
                if up {
                    self.chooser.on_link(link, peer);
                }
                self.on_standing(now, peer);
            }
        }
    }

    /// The operator decided anew. `before`: for each class, which one it was.
    pub(super) fn on_config(
        &mut self,
        now: Instant,
        config: &NodeConfig,
        before: &[Option<Class>],
        redecide: bool,
    ) {
        self.originator.on_consent(config.relay && self.own.relay);
        self.links.on_price(config.price);
        self.links.on_times(now, &config.probe);
        self.use_relays = config.use_relays;
        self.observe = config.observe;
        self.spent = config.spent;
        self.classes = config.classes.len().min(Class::LIMIT) as u8;
        if redecide {
            let now_is = |class: Class| before.iter().position(|was| *was == Some(class));
            let renumber = |class| now_is(class).map(|at| Class(at as u8));
            let flipped = std::mem::take(&mut self.flipped).into_iter();
            let flipped = flipped.filter_map(|((n, c), why)| Some(((n, renumber(c)?), why)));
            self.flipped = flipped.collect();
            let switches = std::mem::take(&mut self.switches).into_iter();
            let switches = switches.filter_map(|((c, why), n)| Some(((renumber(c)?, why), n)));
            self.switches = switches.collect();
            self.chooser.reconfigure(now, choosing(config), &policies(config), before);
        }
        // Before the next packet: routes and classes change together.
        self.weigh_within(now, Duration::ZERO);
    }

    /// This node has a new certificate.
    pub(super) fn on_identity(&mut self, now: Instant, own: &Certified, relay: bool) {
        self.own = own.clone();
        self.originator.on_consent(relay && own.relay);
        self.originator.on_new_key();
        self.weigh_within(now, WEIGH_URGENT);
    }

    /// Forecasts are corrected by this model.
    pub(super) fn on_model(&mut self, model: Model) {
        self.links.on_model(model);
    }

    /// The price of sending changed.
    pub(super) fn on_price(&mut self, price: Price) {
        // The next sweep of the links takes it over.
        self.links.on_price(price);
    }

    /// The forwarder moved a route by itself.
    pub(super) fn on_flipped(
        &mut self,
        now: Instant,
        destination: NodeId,
        class: Class,
        to_backup: bool,
        why: FlipReason,
    ) {
        if self.table.lookup(destination, class).is_none() {
            return;
        }
        if to_backup {
            self.flipped.insert((destination, class), (now, why));
        } else {
            self.flipped.remove(&(destination, class));
        }
        *self.switches.entry((class, why)).or_default() += 1;
        self.weigh_within(now, WEIGH_URGENT);
    }

    /// Packets take the path of a destination and class.
    pub(super) fn on_in_use(&mut self, now: Instant, destination: NodeId, class: Class) {
        if self.table.lookup(destination, class).is_some() {
            let before = self.in_use.insert((destination, class), now.plus(IN_USE));
            self.use_moved |= before.is_none();
        }
    }

    /// The forwarder measured something.
    pub(super) fn on_measured(&mut self, now: Instant, event: &ForwardEvent) {
        if let Some(link) = self.links.on_measured(now, event) {
            self.on_reading(now, link);
        }
    }

    /// A size probe was answered.
    pub(super) fn on_size_answered(&mut self, now: Instant, link: LinkId, seq: u32, size: u16) {
        self.links.on_size_answered(now, link, seq, size);
    }

    /// This machine did not send a datagram of this length.
    pub(super) fn on_too_long(&mut self, now: Instant, link: LinkId, size: u16) {
        self.links.on_too_long(now, link, size);
    }

    /// The peer is at another endpoint.
    pub(super) fn on_moved(&mut self, now: Instant, link: LinkId, v6: bool) {
        self.links.on_moved(now, link, v6);
    }

    /// The longest datagram that a link carries, as far as is known.
    pub(super) fn mtu(&self, link: LinkId) -> Option<LinkMtu> {
        self.links.mtu(link)
    }

    /// Whether that changed for a link since it was last asked.
    pub(super) fn take_mtu_moved(&mut self) -> bool {
        self.links.take_mtu_moved()
    }

    /// How a link is has moved.
    fn on_reading(&mut self, now: Instant, link: LinkId) {
        self.tell_originator(link);
        self.touched.extend(self.links.peer(link));
        self.weigh_soon(now, WEIGH_MOVED);
    }

    /// What the originator should know of a link.
    fn tell_originator(&mut self, link: LinkId) {
        if let Some(told) = self.links.told(link) {
            self.originator.on_use(told.neighbour, self.links.is_used(link));
            self.originator.on_link(told);
        }
    }

    /// A record came, made `age` ago.
    pub(super) fn on_lsa(
        &mut self,
        now: Instant,
        age: Duration,
        record: &Bytes,
        roll: &Roll<'_>,
    ) -> Install {
        let install = self.lsdb.install(now, age, record, |node| roll.key(node));
        if matches!(install, Install::Newer { .. }) {
            self.originator.on_mesh_size(self.lsdb.len());
        }
        if let Install::Newer { origin, urgent: true, .. } = install {
            self.doubt_what_it_lost(now, origin);
        }
        match install {
            Install::Newer { origin, urgent: true, .. } => {
                self.touched.insert(origin);
                self.weigh_urgently(now);
            }
            Install::Newer { origin, changed: true, .. } => {
                self.touched.insert(origin);
                self.weigh_soon(now, WEIGH_MOVED);
            }
            Install::OwnNewer(seen) => self.originator.on_own_record(seen),
            _ => {}
        }
        install
    }

    /// A node that others lose may have died: our own link to it is asked at once, not in its turn.
    fn doubt_what_it_lost(&mut self, now: Instant, origin: NodeId) {
        let Some(lsa) = self.lsdb.lsa(origin) else { return };
        for lost in lsa.links.iter().filter(|link| !link.up) {
            self.links.doubt(now, lost.neighbour);
        }
    }

    /// A member is none any more.
    pub(super) fn on_gone(&mut self, now: Instant, node: NodeId) {
        if self.lsdb.forget(node) {
            self.weigh_within(now, WEIGH_MOVED);
        }
    }

    /// Says goodbye.
    pub(super) fn on_stop(&mut self) {
        self.originator.withdraw();
    }

    /// What a node's certificate grants has changed.
    pub(super) fn on_granted(&mut self, now: Instant) {
        self.weigh_within(now, WEIGH_MOVED);
    }

    fn weigh_urgently(&mut self, now: Instant) {
        let nodes = u32::try_from(self.lsdb.len()).unwrap_or(u32::MAX);
        self.weigh_soon(now, WEIGH_URGENT + WEIGH_PER_NODE.saturating_mul(nodes));
    }

    /// Any path may be touched.
    fn weigh_within(&mut self, now: Instant, span: Duration) {
        self.all_touched = true;
        self.weigh_soon(now, span);
    }

    fn weigh_soon(&mut self, now: Instant, span: Duration) {
        let at = now.plus(span);
        self.weigh_at = Some(self.weigh_at.map_or(at, |before| before.min(at)));
    }

    /// Our next record, if one is due: to be told to every peer.
    pub(super) fn poll_record(&mut self, now: Instant, signer: &dyn Signer) -> Option<Bytes> {
        let record = Bytes::from(self.originator.poll_record(now, signer)?);
        self.lsdb.install_own(now, &record, &self.own.public_key);
        Some(record)
    }

    /// Does what is due; true where the table in force is a new one.
    pub(super) fn settle(
        &mut self,
        now: Instant,
        roll: &Roll<'_>,
        events: &mut VecDeque<NodeEvent>,
    ) -> bool {
        if self.lsdb.handle_timeout(now) {
            self.weigh_within(now, WEIGH_MOVED);
        }
        for link in self.links.handle_timeout(now) {
            self.on_reading(now, link);
        }
        let used = self.in_use.len();
        self.in_use.retain(|_, until| *until > now);
        self.use_moved |= self.in_use.len() < used;
        let due = self.chooser.poll_timeout().is_some_and(|d| d.at <= now);
        if !due && self.weigh_at.is_none_or(|at| at > now) {
            return std::mem::take(&mut self.use_moved) && self.put_in_force(now, None);
        }
        self.weigh_at = None;
        self.use_moved = false;
        let own_links = self.links.own_links();
        let may_relay = |node| self.use_relays && roll.certified(node).is_some_and(|c| c.relay);
        let named = |name: &str| roll.named(name);
        let sight = Sight::new(&self.lsdb, &own_links, &may_relay, &named, self.spent);
        let all = std::mem::take(&mut self.all_touched);
        let anew = std::mem::take(&mut self.tabulate) || all || self.observe;
        let touched = std::mem::take(&mut self.touched);
        let changed = if all {
            self.chooser.weigh(now, &sight)
        } else {
            self.chooser.weigh_touched(now, &sight, &touched)
        };
        while let Some(change) = self.chooser.poll_change() {
            let nodes = change.to.map(|to| to.nodes).unwrap_or_default();
            // A link that is there and not measured yet could not be chosen.
            let interim = matches!(change.why, Why::First | Why::Broken) && nodes.len() > 1;
            if let Some(link) = self.links.up_to(change.destination).filter(|_| interim) {
                self.chooser.on_link(link, change.destination);
            }
            for class in change.classes {
                self.flipped.remove(&(change.destination, class));
                events.push_back(NodeEvent::PathMoved {
                    destination: change.destination,
                    class,
                    nodes: nodes.clone(),
                    why: change.why.name(),
                });
            }
        }
        if !changed && !anew {
            return self.put_in_force(now, None);
        }
        let table = self.tabulate(roll);
        let same = table.routes == self.table.routes
            && table.carriers == self.table.carriers
            && table.owners().eq(self.table.owners());
        self.put_in_force(now, (!same).then_some(table))
    }

    /// A new table comes into force, or only what is in use of it has changed. True where the
    /// forwarder must learn of it.
    fn put_in_force(&mut self, now: Instant, table: Option<RouteTable>) -> bool {
        let routes = table.as_ref().map_or(&self.table.routes, |table| &table.routes);
        let few = self.links.up().count() <= FEW_LINKS;
        let taken = |key: &(NodeId, Class)| few || self.in_use.contains_key(key);
        let in_use = || routes.iter().filter(|(key, _)| taken(key)).map(|(_, route)| route);
        let used: BTreeSet<LinkId> = in_use().map(|route| route.primary.link).collect();
        let backups = in_use().filter_map(|route| Some(route.backup.as_ref()?.link));
        let mut armed: BTreeSet<LinkId> = backups.collect();
        // What is to prove itself is watched like a backup.
        let awaited = self.chooser.awaited().filter(|&(node, class, _)| taken(&(node, class)));
        armed.extend(awaited.map(|(_, _, link)| link));
        let all = routes.values().flat_map(|r| [Some(&r.primary), r.backup.as_ref()]);
        let resting: BTreeSet<LinkId> = all
            .flatten()
            .map(|path| path.link)
            .filter(|link| !used.contains(link) && !armed.contains(link))
            .collect();
        self.links.on_routes(now, &used, &armed);
        if table.is_none() && resting == self.table.resting {
            return false;
        }
        let table = table.unwrap_or_else(|| self.table.as_ref().clone());
        let generation = self.table.generation + 1;
        self.table = Arc::new(RouteTable { generation, resting, ..table });
        true
    }

    /// The decisions in force as the forwarder reads them.
    fn tabulate(&self, roll: &Roll<'_>) -> RouteTable {
        let mut table = RouteTable::default();
        // The lower number keeps a prefix that two certificates name.
        for (node, session) in roll.peers.sessions().collect::<Vec<_>>().into_iter().rev() {
            for net in session.peer.networks() {
                table.prefixes.insert(net, node);
            }
        }
        self.chooser.fill(&mut table);
        for (&(node, _), route) in &table.routes {
            if roll.peers.session(node).is_none() && !route.primary.is_direct() {
                table.carriers.entry(node).or_insert_with(|| route.primary.clone());
            }
        }
        if self.observe {
            self.straighten(&mut table);
        }
        // Without keys nothing can be sealed for a node, whatever leads to it.
        table.routes.retain(|(node, _), _| roll.peers.session(*node).is_some());
        // A link that works and is not measured yet carries its own peer's traffic: the other choice
        // would be to drop it.
        for (link, peer) in self.links.up() {
            for class in (0..self.classes).map(Class) {
                table.routes.entry((peer, class)).or_insert_with(|| {
                    Route::alone(Path { link, nodes: vec![peer], delay: Duration::ZERO })
                });
            }
        }
        table
    }

    /// Puts the link to each destination in the place of what was chosen, where there is one that works, and
    /// lets every packet through.
    fn straighten(&self, table: &mut RouteTable) {
        table.routes.values_mut().for_each(|route| route.withheld = false);
        for own in self.links.own_links().into_iter().filter(|own| own.up) {
            let delay = own.outward.map_or(Duration::ZERO, |state| state.present.delay);
            for class in (0..self.classes).map(Class) {
                // A table for each breath of the delay would say nothing new.
                let said = self.table.lookup(own.peer, class).map(|route| &route.primary);
                let said = said.filter(|path| path.link == own.link && path.is_direct());
                let near = |old: &Duration| {
                    let moved = micros(*old).abs_diff(micros(delay));
                    !old.is_zero() && moved <= micros(*old) / 5 + 2_000
                };
                let delay = said.map(|path| path.delay).filter(near).unwrap_or(delay);
                let primary = Path { link: own.link, nodes: vec![own.peer], delay };
                table.routes.insert((own.peer, class), Route::alone(primary));
            }
        }
    }

    /// The mesh as it is known now.
    pub(super) fn graph(&self, roll: &Roll<'_>) -> Graph {
        let may_relay = |node| self.use_relays && roll.certified(node).is_some_and(|c| c.relay);
        self.lsdb.graph(&self.links.own_links(), may_relay)
    }

    /// What a policy means now.
    pub(super) fn terms(&self, policy: &Policy, roll: &Roll<'_>) -> Terms {
        Terms::of(policy, |name| roll.named(name), self.spent)
    }

    /// To whom a node says that it has working links, in order.
    pub(super) fn reached_by(&self, node: NodeId) -> impl Iterator<Item = NodeId> {
        let links = self.lsdb.lsa(node).map_or(&[][..], |lsa| &lsa.links);
        links.iter().filter(|link| link.up).map(|link| link.neighbour)
    }

    /// Whether `a` says that it has a working link to `b`.
    pub(super) fn reaches(&self, a: NodeId, b: NodeId) -> bool {
        self.lsdb.lsa(a).and_then(|lsa| lsa.link(b)).is_some_and(|l| l.up)
    }

    /// Whether a node says that it carries others' packets.
    pub(super) fn consents(&self, node: NodeId) -> bool {
        self.lsdb.lsa(node).is_some_and(|lsa| lsa.relay)
    }

    /// How the path of a destination and class came to be in force.
    pub(super) fn standing(&self, node: NodeId, class: Class) -> Standing {
        let held = self.chooser.held(node, class);
        let withheld = self.table.lookup(node, class).is_some_and(|route| route.withheld);
        let chosen = Standing {
            on_backup: false,
            withheld,
            outside_limits: held.is_some_and(|h| h.primary.broken.is_some()),
            reason: if self.observe {
                "observed"
            } else if withheld {
                "withheld"
            } else {
                held.map_or("unmeasured", |h| h.why.name())
            },
            changed_at: held.map(|h| h.changed_at),
            changes: held.map_or(0, |h| h.changes),
            held_until: held.map(|h| self.chooser.held_until(h)),
        };
        match self.flipped.get(&(node, class)) {
            Some(&(at, why)) => {
                Standing { on_backup: true, reason: why.name(), changed_at: Some(at), ..chosen }
            }
            None => chosen,
        }
    }

    /// Moves of paths by class and reason.
    pub(super) fn switches(&self) -> impl Iterator<Item = (Class, &'static str, u64)> {
        let flips = self.switches.iter().map(|(&(class, why), &n)| (class, why.name(), n));
        let moves = self.chooser.switches().iter();
        flips.chain(moves.map(|(&(class, why), &n)| (class, why.name(), n)))
    }

    /// When everything is computed anew.
    pub(super) const fn recompute_at(&self) -> Instant {
        self.chooser.recompute_at()
    }

    /// When everything was last computed anew.
    pub(super) const fn recomputed_at(&self) -> Option<Instant> {
        self.chooser.recomputed_at()
    }

    /// When the clock matters next.
    pub(super) fn poll_timeout(&self) -> Option<Deadline> {
        let weigh = self.weigh_at.map(|at| Deadline { at, why: "weigh paths" });
        let unused = self.in_use.values().min().map(|&at| Deadline { at, why: "path unused" });
        let others = [
            self.chooser.poll_timeout(),
            self.originator.poll_timeout(),
            self.links.poll_timeout(),
            self.lsdb.poll_timeout(),
        ];
        others.into_iter().chain([weigh, unused]).flatten().min()
    }

    /// A probe to be sent.
    pub(super) fn poll_probe(&mut self) -> Option<ProbeRequest> {
        self.links.poll_probe()
    }

    /// Adds what was measured to a link's row.
    pub(super) fn fill_row(&self, now: Instant, link: LinkId, row: &mut LinkRow) {
        self.links.fill_row(now, link, row);
    }

    /// The table in force.
    pub(super) fn table(&self) -> Arc<RouteTable> {
        self.table.clone()
    }

    /// Whether a path over others leads to a node that we share no keys with.
    pub(super) fn relayed(&self, node: NodeId) -> bool {
        self.table.carriers.contains_key(&node)
    }

    /// The link state held.
    pub(super) fn digest(&self) -> Vec<DigestEntry> {
        let entry = |(node, Version { boot, sequence })| DigestEntry {
            node,
            boot,
            seq: u64::from(sequence),
        };
        self.lsdb.digest().into_iter().map(entry).collect()
    }

    /// A node's records, whole before difference, and their age in ms.
    pub(super) fn records(&self, node: NodeId, now: Instant) -> Option<(Vec<Bytes>, u32)> {
        let (records, age) = self.lsdb.records(node, now)?;
        Some((records, u32::try_from(micros(age) / 1000).unwrap_or(u32::MAX)))
    }

    /// How old a node's record is.
    pub(super) fn record_age(&self, node: NodeId, now: Instant) -> Option<Duration> {
        self.lsdb.age(node, now)
    }
}
