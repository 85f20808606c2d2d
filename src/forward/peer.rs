//! One node we share keys with, as the data path sees it: the end-to-end seal both ways, and what
//! the node may send from.

use ipnet::IpNet;
use std::net::IpAddr;

use crate::id::{Lane, LinkId, NodeId, StreamId};
use crate::route::prefix::PrefixMap;
use crate::session::keys::{OpenChain, PREVIOUS_LIFE, Scope, SealChain, Secret, nonce};
use crate::session::replay::{Allowance, Verdict, Window};
use crate::time::Instant;
use crate::wire::TAG;
use crate::wire::header::{EndHeader, RouteHeader, end_aad};

use super::classify::BUCKETS;
use super::stats::DropReason;

/// Streams a source may use: 64 classes of 64 buckets.
pub(super) const STREAMS: u16 = 64 * BUCKETS;

/// A peer.
#[derive(Debug)]
pub(super) struct Peer {
    pub(super) node: NodeId,
    pub(super) generation: u64,
    pub(super) links: Vec<LinkId>,
    networks: PrefixMap<()>,
    /// The lane whose packets these are.
    lane: u8,
    seal: SealChain,
    /// Next counter of each stream. Counters go on over epochs.
    counters: Vec<u64>,
    inbox: Inbox,
    /// The session before, for what was under way when this one began.
    before: Option<(Inbox, Instant)>,
}

/// The receiving half: keys and windows of every lane of the source.
#[derive(Debug)]
struct Inbox {
    secret: Secret,
    from: NodeId,
    to: NodeId,
    lanes: Vec<Option<Numbering>>,
}

/// Of one lane of the source.
#[derive(Debug)]
struct Numbering {
    open: OpenChain,
    windows: Vec<Option<Box<Window>>>,
}

impl Peer {
    pub(super) fn new(
        own: NodeId,
        node: NodeId,
        lane: u8,
        generation: u64,
        secret: &Secret,
        now: Instant,
    ) -> Self {
        Self {
            node,
            generation,
            links: Vec::new(),
            networks: PrefixMap::new(),
            lane,
            seal: SealChain::new(secret, Scope::end(own, node, lane), now),
            counters: Vec::new(),
            inbox: Inbox::new(secret, node, own),
            before: None,
        }
    }

    /// A new session with the same node. What the old one still has under way can be opened for a
    /// while.
    pub(super) fn renew(&mut self, own: NodeId, generation: u64, secret: &Secret, now: Instant) {
        let fresh = Self::new(own, self.node, self.lane, generation, secret, now);
        let old = std::mem::replace(self, fresh);
        self.before = Some((old.inbox, now.plus(PREVIOUS_LIFE)));
    }

    pub(super) fn set_networks(&mut self, networks: &[IpNet]) {
        self.networks = PrefixMap::new();
        for &net in networks {
            self.networks.insert(net, ());
        }
    }

    /// Whether its certificate lets it send from this address.
    pub(super) fn may_send_from(&self, address: IpAddr) -> bool {
        self.networks.longest(address).is_some()
    }

    /// The windows over its end-to-end counters.
    pub(super) fn windows(&self) -> impl Iterator<Item = &Window> {
        let boxes = [Some(&self.inbox), self.before.as_ref().map(|(inbox, _)| inbox)];
        let lanes = boxes.into_iter().flatten().flat_map(|inbox| inbox.lanes.iter().flatten());
        lanes.flat_map(|lane| lane.windows.iter().flatten()).map(|window| &**window)
    }

    /// Fills in the end header of one more packet of a stream and seals the packet into `out`, which
    /// has the packet's length.
    pub(super) fn seal(
        &mut self,
        now: Instant,
        route: &RouteHeader,
        stream: StreamId,
        plain: &[u8],
        out: &mut [u8],
    ) -> (EndHeader, [u8; TAG]) {
        let at = usize::from(stream.0);
        if self.counters.len() <= at {
            self.counters.resize(at + 1, 0);
        }
        let counter = self.counters[at];
        self.counters[at] += 1;
        let (key, epoch) = self.seal.next(now);
        let end = EndHeader { epoch, lane: self.lane, stream, counter };
        let nonce = nonce(self.lane, stream, counter);
        let tag = key.seal_into(nonce, &end_aad(route, &end), plain, out);
        (end, tag)
    }

    /// Opens a packet where it lies and marks its number.
    ///
    /// # Errors
    /// Why it is not delivered.
    pub(super) fn open(
        &mut self,
        now: Instant,
        route: &RouteHeader,
        end: &EndHeader,
        sealed: &mut [u8],
        tag: &[u8; TAG],
        spare: &mut Allowance,
    ) -> Result<(), DropReason> {
        let Some((before, until)) = &mut self.before else {
            return self.inbox.open(now, route, end, sealed, tag, spare);
        };
        if *until <= now {
            self.before = None;
            return self.inbox.open(now, route, end, sealed, tag, spare);
        }
        // What does not open is spoilt by the attempt, so the second gets a copy.
        let copy = sealed.to_vec();
        let result = self.inbox.open(now, route, end, sealed, tag, spare);
        if matches!(result, Err(DropReason::EndBadTag | DropReason::EndUnknownEpoch)) {
            sealed.copy_from_slice(&copy);
            return before.open(now, route, end, sealed, tag, spare).or(result);
        }
        result
    }
}

impl Inbox {
    fn new(secret: &Secret, from: NodeId, to: NodeId) -> Self {
        Self { secret: secret.clone(), from, to, lanes: Vec::new() }
    }

    fn open(
        &mut self,
        now: Instant,
        route: &RouteHeader,
        end: &EndHeader,
        sealed: &mut [u8],
        tag: &[u8; TAG],
        spare: &mut Allowance,
    ) -> Result<(), DropReason> {
        if end.lane >= Lane::LIMIT || end.stream.0 >= STREAMS {
            return Err(DropReason::EndTooOld);
        }
        let (at, stream) = (usize::from(end.lane), usize::from(end.stream.0));
        if self.lanes.len() <= at {
            self.lanes.resize_with(at + 1, || None);
        }
        let lane = self.lanes[at].get_or_insert_with(|| Numbering {
            open: OpenChain::new(&self.secret, Scope::end(self.from, self.to, end.lane)),
            windows: Vec::new(),
        });
        if let Some(Some(window)) = lane.windows.get(stream) {
            verdict(window.check(end.counter))?;
        }
        let Some((key, turn)) = lane.open.key(end.epoch, now) else {
            return Err(DropReason::EndUnknownEpoch);
        };
        let nonce = nonce(end.lane, end.stream, end.counter);
        key.open_in_place(nonce, &end_aad(route, end), sealed, tag)
            .map_err(|_| DropReason::EndBadTag)?;
        lane.open.on_authentic(turn, now);
        if lane.windows.len() <= stream {
            lane.windows.resize_with(stream + 1, || None);
        }
        let window = lane.windows[stream].get_or_insert_with(|| Box::new(Window::new()));
        verdict(window.accept(end.counter, now, spare))
    }
}

fn verdict(verdict: Verdict) -> Result<(), DropReason> {
    match verdict {
        Verdict::New => Ok(()),
        Verdict::Duplicate => Err(DropReason::EndReplayed),
        Verdict::TooOld => Err(DropReason::EndTooOld),
    }
}
