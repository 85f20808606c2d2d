//! The whole that knows: probes, members, link state, routes, sessions.
//!
//! `Node` decides which news goes to whom; the arithmetic is in the mechanisms and the bytes are in
//! their codecs. Read `react` next: it is one match from event to consequence.
//!
//! ```text
//! handle_control  a stream opened, spoke, closed     →  dispatch  →  react
//! handle_event    the forwarder saw something        →  react
//! handle_command  an operator asks                   →  report
//! handle_config   the operator decided anew          →  reload
//! handle_timeout  the clock                          →  timers    →  react
//! handle_stop     the process is being stopped       →  withdraw
//! poll_control, poll_snapshot, poll_send, poll_event, poll_timeout: what came of it
//! ```
//!
//! Contract: one `handle_*`, then every `poll_*` until all are empty; then wait. Time is monotonic
//! and an argument; wall time never enters.

mod dispatch;
mod explain;
mod hop;
mod knowledge;
mod links;
mod peers;
mod react;
mod reload;
mod report;
mod sight;
mod survey;
mod timers;
mod trust;

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::control::dial::Dialler;
use crate::control::{ControlInput, ControlOutput};
use crate::forward::event::{FlipReason, ForwardEvent, ProbeRequest};
use crate::forward::snapshot::{Snapshot, Tuning};
use crate::id::{Class, LinkId, NodeId};
use crate::probe::model::Model;
use crate::report::{Answer, Command};
use crate::rng::Dice;
use crate::route::policy::ClassSpec;
use crate::session::trust::{Certified, Signer, Trust};
use crate::time::{Deadline, Instant};
use crate::topology::flood::Flood;
use crate::topology::member::{Members, Record, Restored};
use crate::topology::reading::Reader;
use crate::unit::{Price, Ratio};

use knowledge::Knowledge;
use peers::Peers;

/// Operator-visible events held at most; later ones are counted, not kept.
const MAX_EVENTS: usize = 4096;

/// A node known beforehand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seed {
    /// The name its certificate must carry.
    pub name: String,
    /// Where it may be reached, best first.
    pub endpoints: Vec<SocketAddr>,
}

/// How often links are measured, and how long a reading may be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProbeTimes {
    /// Interval on a link that carries a primary or backup path.
    pub in_use: Duration,
    /// Interval on any other link.
    pub idle: Duration,
    /// Age at which a reading of a link in use is stale.
    pub stale_in_use: Duration,
    /// Age at which a reading of any other link is stale.
    pub stale_idle: Duration,
}

/// What the operator decided for this node.
#[derive(Clone, Debug)]
pub struct NodeConfig {
    /// Nodes known beforehand.
    pub seeds: Vec<Seed>,
    /// Endpoints others are told; empty: those at which peers see us.
    pub advertise: Vec<SocketAddr>,
    /// Kinds of traffic; the last takes everything.
    pub classes: Vec<ClassSpec>,
    /// Consent to carry others' traffic; the certificate must allow it too.
    pub relay: bool,
    /// Whether own traffic may cross relays.
    pub use_relays: bool,
    /// Price of sending, in force from the start (a change comes by [`Node::handle_price`]).
    pub price: Price,
    /// Whether the month's money for sending is spent.
    pub spent: bool,
    /// How often links are measured.
    pub probe: ProbeTimes,
    /// How many lanes the data path has.
    pub lanes: u8,
    /// Full recomputation of all paths.
    pub recompute: Duration,
    /// How much better another path must be.
    pub margin: Ratio,
    /// How long a path is kept at least.
    pub hold_down: Duration,
    /// Whether paths are only computed and shown: traffic takes the link to its destination where there
    /// is one that works.
    pub observe: bool,
    /// A member not heard of for this long is forgotten.
    pub member_expiry: Duration,
    /// The boot counter is at least this. The daemon gives the seconds of Unix time at its start,
    /// so that a node whose state file was lost is still newer than its earlier life.
    pub boot_floor: u64,
}

/// Who this node is.
pub struct Identity {
    /// What its certificate grants.
    pub certified: Certified,
    /// The certificate, DER.
    pub certificate: Vec<u8>,
    /// Signs with its key.
    pub signer: Box<dyn Signer>,
    /// Checks others' certificates.
    pub trust: Box<dyn Trust>,
}

/// What a driver logs or does for the node.
#[derive(Clone, Debug, PartialEq)]
pub enum NodeEvent {
    /// Keys with a peer came into force.
    SessionUp {
        /// The peer.
        peer: NodeId,
        /// Its name.
        name: String,
        /// Where it is reached.
        endpoint: SocketAddr,
        /// The local generation of its keys.
        generation: u64,
    },
    /// The stream to a peer is gone; its session goes on.
    StreamLost {
        /// The peer.
        peer: NodeId,
        /// Its name.
        name: String,
        /// What ended it.
        why: String,
    },
    /// Keys with a peer are forgotten.
    SessionEnded {
        /// The peer.
        peer: NodeId,
        /// Its name.
        name: String,
        /// Why.
        why: &'static str,
    },
    /// A link works.
    LinkUp {
        /// Which.
        link: LinkId,
        /// To whom.
        peer: NodeId,
    },
    /// A link fell silent.
    LinkDown {
        /// Which.
        link: LinkId,
        /// To whom.
        peer: NodeId,
        /// For how long it had been silent.
        silence: Duration,
    },
    /// A peer is at another endpoint, and proved it.
    LinkMoved {
        /// Which link leads there.
        link: LinkId,
        /// To whom.
        peer: NodeId,
        /// Where it is now.
        endpoint: SocketAddr,
    },
    /// A member not known before.
    MemberNew {
        /// Its number.
        node: NodeId,
        /// Its name.
        name: String,
    },
    /// A member was forgotten.
    MemberGone {
        /// Its number.
        node: NodeId,
    },
    /// A path in force was replaced by computation.
    PathMoved {
        /// The destination.
        destination: NodeId,
        /// The class.
        class: Class,
        /// Nodes of the new path after this one; empty where none is left.
        nodes: Vec<NodeId>,
        /// Why.
        why: &'static str,
    },
    /// The forwarder moved a route by itself.
    Flipped {
        /// The destination.
        destination: NodeId,
        /// The class.
        class: Class,
        /// Whether the backup is now in force.
        to_backup: bool,
        /// Why.
        why: FlipReason,
    },
    /// Something from outside was refused.
    Refused {
        /// From whom, where it is known.
        peer: Option<NodeId>,
        /// What and why: the label of a counter.
        why: &'static str,
    },
    /// A dial failed.
    DialFailed {
        /// Where.
        endpoint: SocketAddr,
        /// Why.
        why: String,
    },
    /// These bytes belong in the state file, replacing what is there.
    Persist(Vec<u8>),
    /// Everyone reachable has been told that this node leaves.
    Withdrawn,
}

/// The node.
pub struct Node {
    config: NodeConfig,
    own: Certified,
    certificate: Vec<u8>,
    signer: Box<dyn Signer>,
    trust: Box<dyn Trust>,
    started_at: Instant,
    boot: u64,
    record: Record,
    members: Members,
    dialler: Dialler,
    flood: Flood,
    peers: Peers,
    knowledge: Knowledge,
    /// Where each member was last reached, over restarts.
    reached: BTreeMap<NodeId, SocketAddr>,
    persist_at: Option<Instant>,
    /// When certificates are looked at again.
    review_at: Instant,
    stopping: bool,
    withdrawn: bool,
    snapshot_due: bool,
    control: VecDeque<ControlOutput>,
    events: VecDeque<NodeEvent>,
    events_lost: u64,
    refused: BTreeMap<&'static str, u64>,
    /// What the forwarders read of what was decided since the start.
    tuning: Option<Arc<Tuning>>,
    /// When a consent to relay that was taken back ends.
    relay_ends_at: Option<Instant>,
}

impl std::fmt::Debug for Node {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Node({})", self.own.node)
    }
}

impl Node {
    /// A node that starts at `now`. `restored` is what its state file held, or the default.
    /// `seed` is for chance, never for secrets.
    pub fn new(
        config: NodeConfig,
        identity: Identity,
        restored: &Restored,
        seed: u64,
        now: Instant,
    ) -> Self {
        let Identity { certified: own, certificate, signer, trust } = identity;
        let mut dice = Dice::new(seed);
        let boot = restored.boot.saturating_add(1).max(config.boot_floor);
        let version = (boot, 1);
        let record =
            Record::sign(own.clone(), &certificate, &config.advertise, version, signer.as_ref());
        let mut members = Members::new(own.node, own.name.clone(), config.member_expiry);
        members.on_own(version);
        for list in &restored.lists {
            // It was believed before; one that is not any more keeps nobody out.
            let _ = trust.on_list(list);
        }
        members.restore(now, restored, trust.as_ref());
        let mut dialler = Dialler::new(own.node, dice.fork());
        for (node, member) in members.iter() {
            let endpoints = restored.reached.get(&node).copied().into_iter();
            let endpoints: Vec<_> = endpoints.chain(member.record.endpoints.clone()).collect();
            dialler.learn(&member.record.certified.name, Some(node), &endpoints, now);
            // The others cannot know that we started: nobody else would dial.
            dialler.hurry(&member.record.certified.name, now);
        }
        for seed in config.seeds.iter().filter(|s| s.name != own.name) {
            dialler.add_seed(&seed.name, &seed.endpoints, now);
        }
        Self {
            started_at: now,
            boot,
            record,
            members,
            dialler,
            flood: Flood::new(own.node, dice.fork(), now),
            peers: Peers::new(own.node, dice.fork()),
            knowledge: Knowledge::new(&config, &own, boot, dice.fork(), now),
            reached: restored.reached.clone(),
            // The new boot counter must not be lost.
            persist_at: Some(now),
            review_at: now,
            stopping: false,
            withdrawn: false,
            snapshot_due: true,
            control: VecDeque::new(),
            events: VecDeque::new(),
            events_lost: 0,
            refused: BTreeMap::new(),
            tuning: None,
            relay_ends_at: None,
            config,
            own,
            certificate,
            signer,
            trust,
        }
    }

    /// The forwarder saw something.
    pub fn handle_event(&mut self, now: Instant, event: ForwardEvent) {
        self.on_forward(now, event);
        self.settle(now);
    }

    /// A stream opened, spoke or closed.
    pub fn handle_control(&mut self, now: Instant, input: ControlInput) {
        self.on_control(now, input);
        self.settle(now);
    }

    /// An operator asks.
    pub fn handle_command(&mut self, now: Instant, command: &Command) -> Answer {
        self.answer(now, command)
    }

    /// The clock reached `now`. Early and repeated calls change nothing.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.on_timeout(now);
        self.settle(now);
    }

    /// A node known beforehand has (also) these endpoints: its name was looked up.
    pub fn handle_seed(&mut self, now: Instant, seed: &Seed) {
        if seed.name != self.own.name {
            self.dialler.add_seed(&seed.name, &seed.endpoints, now);
        }
    }

    /// The operator's CAs changed, or what they have revoked, by the driver's doing: everyone is judged
    /// anew.
    pub fn handle_trust(&mut self, now: Instant) {
        self.on_trust(now);
        self.settle(now);
    }

    /// This node has a new certificate and perhaps a new key; number and name are the same. The trust
    /// beside them is not looked at.
    pub fn handle_identity(&mut self, now: Instant, identity: Identity) {
        self.on_identity(now, identity);
        self.settle(now);
    }

    /// The price of sending in force.
    pub const fn price(&self) -> Price {
        self.config.price
    }

    /// Link state is read by this reader, which a process of many nodes shares among them.
    pub fn read_by(&mut self, reader: Arc<dyn Reader>) {
        self.knowledge.read_by(reader);
    }

    /// Forecasts are corrected by this model instead of the shipped one.
    pub fn handle_model(&mut self, model: Model) {
        self.knowledge.on_model(model);
    }

    /// The price of sending changed: an hour's tariff, a new configuration.
    pub fn handle_price(&mut self, now: Instant, price: Price) {
        self.config.price = price;
        self.knowledge.on_price(price);
        self.settle(now);
    }

    /// The process is being stopped: link state is withdrawn, peers are told, and
    /// [`NodeEvent::Withdrawn`] follows. Nothing is dialled any more.
    pub fn handle_stop(&mut self, now: Instant) {
        if !self.stopping {
            self.on_stop(now);
        }
    }

    /// What the driver is to do with its streams.
    pub fn poll_control(&mut self) -> Option<ControlOutput> {
        self.control.pop_front()
    }

    /// What the forwarders are to read from now on, where it changed.
    pub fn poll_snapshot(&mut self) -> Option<Snapshot> {
        std::mem::take(&mut self.snapshot_due).then(|| Snapshot {
            peers: Arc::new(self.peers.entries(|link| self.knowledge.mtu(link))),
            routes: self.knowledge.table(),
            tuning: self.tuning.clone(),
        })
    }

    /// A probe to be sent.
    pub fn poll_send(&mut self) -> Option<ProbeRequest> {
        self.knowledge.poll_probe()
    }

    /// What is worth a log line, or must be written to disk.
    pub fn poll_event(&mut self) -> Option<NodeEvent> {
        self.events.pop_front()
    }

    /// When the clock matters next.
    pub fn poll_timeout(&self) -> Option<Deadline> {
        self.next_deadline()
    }

    /// This node's number.
    pub fn id(&self) -> NodeId {
        self.own.node
    }

    /// Peers with whom keys are shared, by number.
    pub fn peers(&self) -> impl Iterator<Item = NodeId> {
        self.peers.sessions().map(|(node, _)| node)
    }

    fn say(&mut self, event: NodeEvent) {
        if self.events.len() < MAX_EVENTS {
            self.events.push_back(event);
        } else {
            self.events_lost += 1;
        }
    }

    /// Counts what was refused, and says it.
    fn refuse(&mut self, peer: Option<NodeId>, why: &'static str) {
        let count = self.refused.entry(why).or_default();
        *count += 1;
        // Once per condition and then at each power of two: a flood of refusals is no flood of lines.
        if count.is_power_of_two() {
            self.say(NodeEvent::Refused { peer, why });
        }
    }
}

#[cfg(test)]
mod tests;
