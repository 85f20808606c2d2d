//! What the node knows of links and paths, and the table that comes of it.
//!
//! The way of knowledge is probe → topology → route. This file holds the mechanisms side by side and
//! passes each one's news to the next; what is due is done in [`Knowledge::settle`], once a turn.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use super::peers::{Peers, Session};
use super::{NodeConfig, NodeEvent};
use crate::control::message::DigestEntry;
use crate::forward::event::{FlipReason, ForwardEvent, ProbeRequest};
use crate::id::{Class, LinkId, NodeId};
use crate::quality::LinkState;
use crate::rng::Dice;
use crate::route::policy::ClassSpec;
use crate::route::solve::Solver;
use crate::route::table::{Path, Route, RouteTable};
use crate::session::trust::{Certified, Signer};
use crate::time::{Deadline, Instant, micros};
use crate::topology::graph::Graph;
use crate::topology::lsa::{LsaLink, Version};
use crate::topology::lsdb::{Install, Lsdb, OwnLink};
use crate::topology::member::Members;
use crate::topology::originate::{OriginateConfig, Originator};
use crate::unit::Price;

/// How long news of life and death is gathered before paths are computed anew: a node that dies
/// takes all its links down within this.
const SOLVE_URGENT: Duration = Duration::from_millis(20);
/// How long other news is gathered: limits are kept within seconds.
const SOLVE_MOVED: Duration = Duration::from_secs(1);

/// What the certificates say of everyone.
pub(super) struct Roll<'a> {
    pub(super) members: &'a Members,
    pub(super) peers: &'a Peers,
}

impl Roll<'_> {
    fn certified(&self, node: NodeId) -> Option<&Certified> {
        let session = self.peers.session(node).map(|s| &s.peer);
        session.or_else(|| self.members.member(node).map(|m| &m.record.certified))
    }

    fn key(&self, node: NodeId) -> Option<[u8; 32]> {
        self.certified(node).map(|c| c.public_key)
    }
}

/// One of our links.
#[derive(Debug)]
struct Link {
    peer: NodeId,
    up: bool,
    outward: Option<LinkState>,
    inward: Option<LinkState>,
}

/// Probes, link state and routes of this node.
#[derive(Debug)]
pub(super) struct Knowledge {
    own: Certified,
    classes: Vec<ClassSpec>,
    use_relays: bool,
    recompute: Duration,
    price: Price,
    links: BTreeMap<LinkId, Link>,
    lsdb: Lsdb,
    originator: Originator,
    /// When paths are computed next because of news.
    solve_at: Option<Instant>,
    /// When everything is computed anew.
    recompute_at: Instant,
    recomputed_at: Option<Instant>,
    table: Arc<RouteTable>,
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
        let mut classes = config.classes.clone();
        classes.truncate(Class::LIMIT);
        Self {
            own: own.clone(),
            classes,
            use_relays: config.use_relays,
            recompute: config.recompute,
            price: config.price,
            links: BTreeMap::new(),
            lsdb: Lsdb::new(own.node),
            originator: Originator::new(spoken, own.node, boot, relay, dice.fork()),
            solve_at: None,
            recompute_at: now.plus(config.recompute),
            recomputed_at: None,
            table: RouteTable::empty(),
        }
    }

    /// Keys with a peer came into force.
    pub(super) fn on_session(&mut self, now: Instant, session: &Session) {
        let peer = session.peer.node;
        let link = Link { peer, up: false, outward: None, inward: None };
        self.links.insert(session.link, link);
        self.tell_originator(session.link);
        self.solve_within(now, SOLVE_URGENT);
    }

    /// The session on this link is over.
    pub(super) fn on_session_ended(&mut self, now: Instant, link: LinkId) {
        if let Some(gone) = self.links.remove(&link) {
            self.originator.on_neighbour_gone(gone.peer);
            self.solve_within(now, SOLVE_URGENT);
        }
    }

    /// The forwarder holds a link for up or down.
    pub(super) fn on_link(&mut self, now: Instant, link: LinkId, up: bool) {
        if let Some(held) = self.links.get_mut(&link) {
            held.up = up;
            self.tell_originator(link);
            self.solve_within(now, SOLVE_URGENT);
        }
    }

    /// The price of sending changed.
    pub(super) fn on_price(&mut self, now: Instant, price: Price) {
        self.price = price;
        self.solve_within(now, SOLVE_MOVED);
    }

    /// The forwarder moved a route by itself.
    pub(super) fn on_flipped(
        &mut self,
        _now: Instant,
        _destination: NodeId,
        _class: Class,
        _to_backup: bool,
        _why: FlipReason,
    ) {
    }

    /// A reading.
    pub(super) fn on_measured(&mut self, _now: Instant, _event: &ForwardEvent) {}

    /// What the originator should know of a link.
    fn tell_originator(&mut self, link: LinkId) {
        if let Some(l) = self.links.get(&link) {
            let (neighbour, up) = (l.peer, l.up);
            self.originator.on_link(LsaLink {
                neighbour,
                up,
                outward: l.outward,
                inward: l.inward,
            });
        }
    }

    /// A record came, made `age` ago.
    pub(super) fn on_lsa(
        &mut self,
        now: Instant,
        age: Duration,
        record: &[u8],
        roll: &Roll<'_>,
    ) -> Install {
        let install = self.lsdb.install(now, age, record, |node| roll.key(node));
        match install {
            Install::Newer { urgent: true, .. } => self.solve_within(now, SOLVE_URGENT),
            Install::Newer { changed: true, .. } => self.solve_within(now, SOLVE_MOVED),
            Install::OwnNewer(seen) => self.originator.on_own_record(seen),
            _ => {}
        }
        install
    }

    /// A member is none any more.
    pub(super) fn on_gone(&mut self, now: Instant, node: NodeId) {
        if self.lsdb.forget(node) {
            self.solve_within(now, SOLVE_MOVED);
        }
    }

    /// Says goodbye.
    pub(super) fn on_stop(&mut self) {
        self.originator.withdraw();
    }

    fn solve_within(&mut self, now: Instant, span: Duration) {
        let at = now.plus(span);
        self.solve_at = Some(self.solve_at.map_or(at, |before| before.min(at)));
    }

    /// Our next record, if one is due: to be told to every peer.
    pub(super) fn poll_record(&mut self, now: Instant, signer: &dyn Signer) -> Option<Vec<u8>> {
        self.originator.on_mesh_size(self.lsdb.digest().len());
        let record = self.originator.poll_record(now, signer)?;
        self.lsdb.install_own(now, &record, &self.own.public_key);
        Some(record)
    }

    /// Does what is due; true where the table in force is a new one.
    pub(super) fn settle(
        &mut self,
        now: Instant,
        roll: &Roll<'_>,
        _events: &mut VecDeque<NodeEvent>,
    ) -> bool {
        if self.lsdb.handle_timeout(now) {
            self.solve_within(now, SOLVE_MOVED);
        }
        let tick = self.recompute_at <= now;
        if !tick && self.solve_at.is_none_or(|at| at > now) {
            return false;
        }
        self.solve_at = None;
        if tick {
            self.recompute_at = now.plus(self.recompute);
            self.recomputed_at = Some(now);
        }
        let table = self.compute(roll);
        let same = table.routes == self.table.routes && table.owners().eq(self.table.owners());
        if same {
            return false;
        }
        self.table = Arc::new(RouteTable { generation: self.table.generation + 1, ..table });
        true
    }

    fn compute(&self, roll: &Roll<'_>) -> RouteTable {
        let mut table = RouteTable::default();
        // The lower number keeps a prefix that two certificates name.
        for (node, session) in roll.peers.sessions().collect::<Vec<_>>().into_iter().rev() {
            for net in session.peer.networks() {
                table.prefixes.insert(net, node);
            }
        }
        let graph = self.graph(roll);
        for (index, spec) in self.classes.iter().enumerate() {
            let class = Class(index as u8);
            for (node, solution) in Solver::new(&graph, &spec.policy).solve() {
                let primary = solution.best.path();
                let backup = solution.backup.map(|b| b.path());
                table.routes.insert((node, class), Route { primary, backup });
            }
            // A link that works and is not measured yet carries its own peer's traffic: the other
            // choice would be to drop it.
            for (&link, held) in self.links.iter().filter(|(_, l)| l.up) {
                table.routes.entry((held.peer, class)).or_insert_with(|| Route {
                    primary: Path { link, nodes: vec![held.peer], delay: Duration::ZERO },
                    backup: None,
                });
            }
        }
        table.routes.retain(|(node, _), _| roll.peers.session(*node).is_some());
        table
    }

    /// The mesh as it is known now.
    pub(super) fn graph(&self, roll: &Roll<'_>) -> Graph {
        let may_relay = |node| self.use_relays && roll.certified(node).is_some_and(|c| c.relay);
        self.lsdb.graph(&self.own_links(), may_relay)
    }

    fn own_links(&self) -> Vec<OwnLink> {
        let own = |(&link, l): (&LinkId, &Link)| OwnLink {
            link,
            peer: l.peer,
            up: l.up,
            outward: l.outward,
            inward: l.inward,
        };
        self.links.iter().map(own).collect()
    }

    /// Whether `a` says that it has a working link to `b`.
    pub(super) fn reaches(&self, a: NodeId, b: NodeId) -> bool {
        self.lsdb.lsa(a).and_then(|lsa| lsa.link(b)).is_some_and(|l| l.up)
    }

    /// When the clock matters next.
    pub(super) fn poll_timeout(&self) -> Option<Deadline> {
        let tick = Deadline { at: self.recompute_at, why: "recompute" };
        let solve = self.solve_at.map(|at| Deadline { at, why: "solve" });
        let own = self.originator.poll_timeout();
        [Some(tick), solve, own, self.lsdb.poll_timeout()].into_iter().flatten().min()
    }

    /// A probe to be sent.
    pub(super) fn poll_probe(&mut self) -> Option<ProbeRequest> {
        None
    }

    /// The table in force.
    pub(super) fn table(&self) -> Arc<RouteTable> {
        self.table.clone()
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

    /// A node's record and its age in ms.
    pub(super) fn record(&self, node: NodeId, now: Instant) -> Option<(Vec<u8>, u32)> {
        let (record, age) = self.lsdb.record(node, now)?;
        Some((record.to_vec(), u32::try_from(micros(age) / 1000).unwrap_or(u32::MAX)))
    }

    /// How old a node's record is.
    pub(super) fn record_age(&self, node: NodeId, now: Instant) -> Option<Duration> {
        self.lsdb.record(node, now).map(|(_, age)| age)
    }
}
