//! The data path: [`Forwarder`] moves packets, in batches, one value per data thread.
//!
//! Its steps, in the order of the files they are in:
//!
//! ```text
//! handle_tun   1 ingress   classify · path · stream · split · seal end to end
//!                          └─► 3 queue
//! handle_udp   2 hop       index → link · open · replay · hop sequence · feedback
//!                ├─ relay  consent · next link · age            └─► 3 queue
//!                └─ egress open end to end · replay · source · order  └─► poll_tun
//! poll_transmit 3 link     repairs · queue → hop sequence · seal per hop · small frames
//! handle_handed            what another lane of this node read, to be sent or opened here
//! handle_timeout           feedback, repair, order, hello, health, reports
//! ```
//!
//! Contract: one `handle_*` with its whole batch, then every `poll_*` until all are empty; then wait.
//! Nothing here reads a clock or does I/O, and nothing that comes from outside makes it panic: what
//! it cannot use it drops and counts by [`DropReason`].

pub mod arq;
mod budget;
mod carry;
pub mod checksum;
pub mod classify;
mod coding;
mod egress;
pub mod event;
mod forgery;
pub mod frame;
mod greet;
pub mod health;
pub mod held;
mod hop;
mod ingress;
pub mod lanes;
mod link;
pub mod mss;
pub mod order;
pub mod pace;
mod paths;
mod peer;
mod pieces;
pub mod queue;
mod quota;
mod relay;
mod retune;
mod roam;
pub mod segment;
pub mod snapshot;
pub mod stats;
pub mod too_big;

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;

use crate::buf::{Blocks, RecvBatch, TunBatch, TunWrites, TxBatch};
use crate::id::{Class, Lane, LinkId, NodeId};
use crate::rng::Dice;
use crate::route::policy::ClassSpec;
use crate::route::prefix::PrefixMap;
use crate::session::replay::{Allowance, MAX_BITS};
use crate::session::table::Table;
use crate::time::{Deadline, Instant};

use budget::Budgets;
use carry::Carriers;
use classify::Classifier;
use event::{ForwardEvent, ProbeRequest};
pub use held::Held;
use lanes::Lanes;
use link::{Keys, Link};
use order::{Order, OrderLimits};
use pace::Credit;
use paths::Paths;
use peer::Peer;
use segment::{Coalescer, Outgoing};
use snapshot::{PeerEntry, Snapshot, Tuning};
pub use stats::{DropReason, LinkStats, Stats, Volume};

/// Events kept for the node at most; later ones are counted, not kept.
const EVENTS_LIMIT: usize = 4096;
/// Bytes of packets that links hold at a time, queued or remembered for repair: 100 ms at 8 Gbit/s.
/// Shared by the lanes.
const HELD_LIMIT: usize = 96 << 20;
/// Blocks that sealed frames may lie in. What is kept pins whole blocks, so a third more than
/// [`HELD_LIMIT`]. Shared by the lanes.
const BLOCKS_LIMIT: usize = (128 << 20) / Blocks::SIZE;
/// How often what is held is counted again while there is no room.
const RECOUNT_EVERY: Duration = Duration::from_millis(1);
/// Bits that all replay windows together may grow by: 64 at full size, 2 MiB. Shared by the lanes.
const WINDOW_BITS: usize = 64 * MAX_BITS;
/// Bytes of one [`TxBatch`], about: enough for long runs, little enough to stay in the cache.
const TX_BYTES: usize = 512 * 1024;

/// What the operator decided for the data path.
#[derive(Clone, Debug)]
pub struct ForwardConfig {
    /// This node.
    pub node: NodeId,
    /// Grows with every start of this node.
    pub boot: u64,
    /// The largest inner packet: the TUN device's MTU.
    pub mtu: usize,
    /// Kinds of traffic; the last takes everything.
    pub classes: Vec<ClassSpec>,
    /// This node's addresses and site prefixes.
    pub networks: Vec<IpNet>,
    /// Whether this node carries others' packets.
    pub relay: bool,
    /// Whether the TUN device takes UDP super-segments.
    pub tun_udp: bool,
    /// Which of the node's lanes this is.
    pub lane: Lane,
    /// Most that all of this node's lanes together send over an uplink, in bit/s of UDP payload.
    /// `None`: no cap.
    pub max_rate_bps: Option<u64>,
}

/// A packet that may leave for the TUN device.
#[derive(Debug)]
struct Delivery {
    packet: Outgoing,
    class: Class,
}

/// The data path of one lane.
#[derive(Debug)]
pub struct Forwarder {
    config: ForwardConfig,
    own: PrefixMap<()>,
    classifier: Classifier,
    dice: Dice,
    now: Instant,
    blocks: Blocks,
    /// At least as many bytes as are held: what came since the last count, nothing taken off.
    held: usize,
    counted_at: Instant,
    peers: BTreeMap<NodeId, Peer>,
    links: Vec<Option<Link>>,
    /// When each of them wants the clock; none where it has been touched since it was asked.
    wanted: Vec<Cell<Option<Option<Deadline>>>>,
    carriers: Carriers,
    /// What it shares with the node's other lanes.
    lanes: Lanes,
    /// Links that were taken away while their session lived: should one come back, its counters and
    /// sequences go on.
    retired: BTreeMap<(NodeId, u64, u32, u32), Link>,
    table: Table<LinkId>,
    paths: Paths,
    /// Where our own frames go.
    endpoints: BTreeSet<SocketAddr>,
    spare: Allowance,
    order: Order<Delivery>,
    ready: Vec<Delivery>,
    coalescer: Coalescer,
    outgoing: Vec<Outgoing>,
    /// Links with something to send.
    listed: VecDeque<LinkId>,
    /// This lane's part of what the operator allows on the uplink: bytes per second, and credit.
    uplink: Option<(u64, Credit)>,
    /// What was decided since the start.
    tuning: Option<Arc<Tuning>>,
    /// When each source was last told that its route is broken here, or narrow.
    noticed: BTreeMap<(NodeId, NodeId, bool), Instant>,
    /// How much of each source is carried.
    quota: quota::Quota,
    /// How many senders may still be told that their packets are too long.
    answers: too_big::Quota,
    told: Vec<ForwardEvent>,
    events: VecDeque<ForwardEvent>,
    stats: Stats,
}

impl Forwarder {
    /// A data path without peers. `seed` is for chance (challenges, flow hashing), never for keys.
    pub fn new(config: ForwardConfig, seed: u64, now: Instant) -> Self {
        let mut dice = Dice::new(seed);
        let lanes = usize::from(config.lane.count());
        let mut own = PrefixMap::new();
        for &net in &config.networks {
            own.insert(net, ());
        }
        Self {
            classifier: Classifier::new(&config.classes, dice.next_u64()),
            own,
            dice,
            now,
            blocks: Blocks::new(BLOCKS_LIMIT / lanes),
            held: 0,
            counted_at: now,
            peers: BTreeMap::new(),
            links: Vec::new(),
            wanted: Vec::new(),
            carriers: Carriers::default(),
            lanes: Lanes::default(),
            retired: BTreeMap::new(),
            table: Table::new(),
            paths: Paths::new(),
            endpoints: BTreeSet::new(),
            spare: Allowance(WINDOW_BITS / lanes),
            order: Order::new(OrderLimits::default()),
            ready: Vec::new(),
            coalescer: Coalescer::new(),
            outgoing: Vec::new(),
            listed: VecDeque::new(),
            uplink: Self::uplink(&config, now),
            tuning: None,
            noticed: BTreeMap::new(),
            quota: quota::Quota::default(),
            answers: too_big::Quota::new(now),
            told: Vec::new(),
            events: VecDeque::new(),
            stats: Stats::default(),
            config,
        }
    }

    /// Of each source at most so many bit/s are passed on by all of this node's lanes together; `None`: as
    /// many as come.
    pub fn limit_relaying(&mut self, bps: Option<u64>) {
        let lanes = u64::from(self.config.lane.count());
        self.quota = quota::Quota::new(bps.map(|bps| (bps / 8 / lanes).max(1)));
    }

    /// Packets came from the TUN device; they are taken out of the batch.
    pub fn handle_tun(&mut self, now: Instant, batch: &mut TunBatch) {
        self.now = now;
        for packet in batch.packets.drain(..) {
            if let Err(reason) = self.ingress(now, packet) {
                self.stats.drop(reason);
            }
        }
        if !self.told.is_empty() {
            self.tell();
        }
    }

    /// Datagrams came from the underlay; they are taken out of the batch.
    pub fn handle_udp(&mut self, now: Instant, batch: &mut RecvBatch) {
        self.now = now;
        let RecvBatch { datagrams, local_drops, .. } = batch;
        let mut last = None;
        for datagram in datagrams.drain(..) {
            match self.hop(now, datagram.bytes, datagram.from, datagram.tos) {
                Ok(link) => last = Some(link),
                Err(reason) => self.stats.drop(reason),
            }
        }
        // The kernel does not say whose datagrams it dropped: most likely those of who sends.
        if *local_drops > 0
            && let Some(link) = last.and_then(|id| self.link_mut(id))
        {
            link.receiver.on_local_drops(*local_drops);
        }
        self.tell();
    }

    /// This machine dropped data frames of a link on the way out: no loss of the link, and a reason
    /// to send less, so repair pauses.
    pub fn on_local_send_drops(&mut self, now: Instant, link: LinkId, frames: u64) {
        if let Some(link) = self.link_mut(link) {
            link.sender.on_own_drops(now, frames);
        }
    }

    /// This machine did not send a frame of this length on a link: it is longer than the way begins with.
    pub fn on_too_long(&mut self, now: Instant, link: LinkId, size: u16) {
        self.now = now;
        self.told.push(ForwardEvent::TooLong { link, size });
        self.tell();
    }

    /// What the node knows has changed.
    pub fn install(&mut self, now: Instant, snapshot: &Snapshot) {
        self.now = now;
        if let Some(tuning) = &snapshot.tuning {
            self.retune(now, tuning);
        }
        let known: BTreeSet<NodeId> = snapshot.peers.iter().map(|entry| entry.node).collect();
        let gone: Vec<NodeId> =
            self.peers.keys().filter(|node| !known.contains(node)).copied().collect();
        for node in gone {
            if let Some(peer) = self.peers.remove(&node) {
                peer.links.iter().for_each(|&link| self.withdraw_link(link));
                self.order.forget(node, &mut self.ready);
            }
            self.retired.retain(|(peer, ..), _| *peer != node);
        }
        for entry in snapshot.peers.iter() {
            self.install_peer(now, entry);
        }
        self.paths.install(&snapshot.routes, &mut self.told);
        self.paths.measure_up();
        let links = snapshot.peers.iter().flat_map(|peer| &peer.links);
        self.endpoints = links.map(|link| link.endpoint).collect();
        // The others ask a link only while something of theirs is overdue.
        let first = self.config.lane.is_first();
        let watched = if first { self.paths.links() } else { BTreeSet::new() };
        for link in self.links.iter_mut().flatten() {
            link.health.watch(now, watched.contains(&link.id));
        }
        self.wanted.iter().for_each(|wanted| wanted.set(None));
        self.recount_windows();
        self.tell();
    }

    fn install_peer(&mut self, now: Instant, entry: &PeerEntry) {
        let (own, node, generation) = (self.config.node, entry.node, entry.generation);
        let lane = self.config.lane.number();
        if node == own {
            return;
        }
        let peer = self
            .peers
            .entry(node)
            .or_insert_with(|| Peer::new(own, node, lane, generation, &entry.secret, now));
        if peer.generation != generation {
            peer.renew(own, generation, &entry.secret, now);
            self.order.forget(node, &mut self.ready);
            self.retired.retain(|(peer, ..), _| *peer != node);
        }
        peer.set_networks(&entry.networks);
        let wanted: Vec<LinkId> = entry.links.iter().map(|link| link.link).collect();
        let old = std::mem::replace(&mut peer.links, wanted.clone());
        for link in old.into_iter().filter(|link| !wanted.contains(link)) {
            self.withdraw_link(link);
        }
        for wanted in &entry.links {
            self.lanes.spread(wanted.link, wanted.lanes);
            self.paths.on_mtu(wanted.link, wanted.mtu);
            if lane >= wanted.lanes.max(1) {
                self.withdraw_link(wanted.link);
                continue;
            }
            let indices =
                (wanted.receive_index | u32::from(lane), wanted.transmit_index | u32::from(lane));
            let same = |link: &Link| {
                (link.peer, link.generation, (link.receive_index, link.transmit_index))
                    == (node, generation, indices)
            };
            if let Some(link) = self.link_mut(wanted.link) {
                if same(link) {
                    link.carries(wanted.mtu);
                    // A table from before a move does not undo it.
                    if link.told != wanted.endpoint {
                        (link.told, link.endpoint) = (wanted.endpoint, wanted.endpoint);
                    }
                    continue;
                }
                self.withdraw_link(wanted.link);
            }
            let key = (node, generation, indices.0, indices.1);
            let mut link = match self.retired.remove(&key) {
                Some(link) => link.revived(wanted.link, wanted.endpoint, now),
                None => {
                    let keys = Keys::new(&entry.secret, (own, node), indices, now);
                    let endpoint = wanted.endpoint;
                    let mut link =
                        Link::new(wanted.link, node, generation, endpoint, indices, keys, now);
                    link.budgets = Budgets::of(&self.config.classes, now);
                    link
                }
            };
            link.carries(wanted.mtu);
            let at = usize::from(wanted.link.0);
            if self.links.len() <= at {
                self.links.resize_with(at + 1, || None);
                self.wanted.resize_with(at + 1, || Cell::new(None));
            }
            self.links[at] = Some(link);
            self.table.install(indices.0, wanted.link);
            self.stats.link_mut(wanted.link);
            self.tick_link(now, wanted.link);
        }
    }

    fn withdraw_link(&mut self, id: LinkId) {
        let Some(link) = self.links.get_mut(usize::from(id.0)).and_then(Option::take) else {
            return;
        };
        self.touch(id);
        self.table.withdraw(link.receive_index);
        if self.config.lane.is_first() {
            self.stand(self.now, id, false);
        }
        let session = self.peers.get(&link.peer).is_some_and(|p| p.generation == link.generation);
        if session {
            let key = (link.peer, link.generation, link.receive_index, link.transmit_index);
            self.retired.insert(key, link);
        }
    }

    /// The node wants a link measured.
    pub fn push_probe(&mut self, now: Instant, request: ProbeRequest) {
        self.now = now;
        if !self.ask_probe(now, request) {
            self.stats.probes_refused += 1;
        }
    }

    /// The clock reached `now`. Early and repeated calls change nothing.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.now = now;
        for at in 0..self.links.len() {
            if self.link_wants(at).is_some_and(|deadline| deadline.at <= now) {
                self.tick_link(now, LinkId(at as u16));
            }
        }
        if let Some((rate, credit)) = &mut self.uplink
            && credit.poll_timeout(*rate).is_some_and(|deadline| deadline.at <= now)
        {
            credit.wake();
        }
        self.order.handle_timeout(now, &mut self.ready);
        self.paths.handle_timeout(now, &mut self.told);
        self.tell();
    }

    /// Appends datagrams to be sent; call until it leaves the batch as it was.
    pub fn poll_transmit(&mut self, batch: &mut TxBatch) {
        while batch.bytes() < TX_BYTES {
            let now = self.now;
            let credit = match &mut self.uplink {
                Some((rate, credit)) => credit.earn(now, *rate),
                None => u64::MAX,
            };
            // Who waits for the uplink's credit stays in the list, in turn; the clock brings it.
            if credit == 0 {
                break;
            }
            let Some(id) = self.listed.pop_front() else { break };
            self.touch(id);
            let Some(link) = self.links.get_mut(usize::from(id.0)).and_then(Option::as_mut) else {
                continue;
            };
            let (peers, blocks, before) = (&mut self.peers, &mut self.blocks, batch.bytes());
            let room = TX_BYTES.min(before.saturating_add(credit.min(1 << 30) as usize));
            let more = link.transmit(now, batch, room, peers, blocks, &mut self.stats);
            if let Some((rate, credit)) = &mut self.uplink {
                credit.spend(batch.bytes() - before, Some(*rate));
            }
            // A link that can send nothing waits for the next event, not here.
            if more && batch.bytes() > before {
                self.listed.push_back(id);
            } else {
                link.listed = false;
            }
        }
        if let Some((_, credit)) = &mut self.uplink {
            credit.rest(!self.listed.is_empty());
        }
    }

    /// Appends packets for the TUN device, joined where they may be; call until it leaves the batch
    /// as it was.
    pub fn poll_tun(&mut self, batch: &mut TunWrites) {
        for Delivery { packet, class } in self.ready.drain(..) {
            let bytes = packet.packet.bytes.len();
            self.stats.egress.add(bytes);
            if let Some(class) = self.stats.class_delivered.get_mut(usize::from(class.0)) {
                class.add(bytes);
            }
            self.outgoing.push(packet);
        }
        self.coalescer.join(&mut self.outgoing, self.config.tun_udp, batch);
    }

    /// News for the node.
    pub fn poll_event(&mut self) -> Option<ForwardEvent> {
        self.events.pop_front()
    }

    /// When [`Forwarder::handle_timeout`] wants to be called.
    pub fn poll_timeout(&self) -> Option<Deadline> {
        let links = (0..self.links.len()).map(|at| self.link_wants(at));
        let shared = Deadline::earlier(self.order.poll_timeout(), self.paths.poll_timeout());
        let uplink = self.uplink.as_ref().and_then(|(rate, credit)| credit.poll_timeout(*rate));
        links.fold(Deadline::earlier(shared, uplink), Deadline::earlier)
    }

    /// What was counted so far.
    pub fn stats(&self) -> &Stats {
        &self.stats
    }

    /// Which node this is.
    pub fn node(&self) -> NodeId {
        self.config.node
    }

    /// Bytes of packets that lie in this lane now: queued, kept for repair, held for order.
    pub fn held_bytes(&self) -> usize {
        self.links_hold() + self.order.held_bytes()
    }

    fn links_hold(&self) -> usize {
        let links = self.links.iter().flatten().chain(self.retired.values());
        links.map(|link| link.queue.bytes() + link.sender.held_bytes()).sum()
    }

    /// Whether links may hold so many bytes more.
    fn has_room(&mut self, now: Instant, bytes: usize) -> bool {
        let limit = HELD_LIMIT / usize::from(self.config.lane.count());
        if self.held + bytes > limit && now.since(self.counted_at) >= RECOUNT_EVERY {
            self.counted_at = now;
            self.held = self.links_hold();
        }
        let fits = self.held + bytes <= limit;
        self.held += if fits { bytes } else { 0 };
        fits
    }

    /// When a link wants the clock.
    fn link_wants(&self, at: usize) -> Option<Deadline> {
        let wanted = self.wanted.get(at)?;
        if let Some(known) = wanted.get() {
            return known;
        }
        let deadline = self.links[at].as_ref().and_then(Link::poll_timeout);
        wanted.set(Some(deadline));
        deadline
    }

    /// The link is about to change: it is asked again when it wants the clock.
    fn touch(&self, id: LinkId) {
        if let Some(wanted) = self.wanted.get(usize::from(id.0)) {
            wanted.set(None);
        }
    }

    fn link_mut(&mut self, id: LinkId) -> Option<&mut Link> {
        self.touch(id);
        self.links.get_mut(usize::from(id.0))?.as_mut()
    }

    /// Marks a link as having something to send.
    fn list(&mut self, id: LinkId) {
        self.touch(id);
        if let Some(link) = self.links.get_mut(usize::from(id.0)).and_then(Option::as_mut)
            && !link.listed
        {
            link.listed = true;
            self.listed.push_back(id);
        }
    }

    /// The best working link to a neighbour: the first that is up.
    fn link_to(&self, node: NodeId) -> Option<LinkId> {
        let peer = self.peers.get(&node)?;
        peer.links.iter().copied().find(|&link| self.paths.is_up(link))
    }

    /// Hands over what was told during this call, and counts flips.
    fn tell(&mut self) {
        let first = self.config.lane.is_first();
        // What every lane does alike is told and counted once.
        let own = |e: &ForwardEvent| {
            matches!(
                e,
                ForwardEvent::HopReport { .. }
                    | ForwardEvent::InUse { .. }
                    | ForwardEvent::TooLong { .. }
            )
        };
        self.told.retain(|event| first || own(event));
        for event in self.told.drain(..) {
            if let ForwardEvent::Flipped { to_backup, .. } = event {
                if to_backup {
                    self.stats.flips += 1;
                } else {
                    self.stats.flips_back += 1;
                }
            }
            if self.events.len() < EVENTS_LIMIT {
                self.events.push_back(event);
            } else {
                self.stats.events_lost += 1;
            }
        }
    }
}

const _: fn() = || {
    fn sendable<T: Send>() {}
    sendable::<Forwarder>();
    sendable::<Arc<Snapshot>>();
};
