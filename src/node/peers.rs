//! Streams and sessions: who is connected, which keys are in force, over which link.
//!
//! A stream (QUIC) and a session (keys, counters, windows) are two things: the session comes from a
//! stream's secret and outlives it. Where two streams of a pair meet, the side with the lower
//! number judges: it answers hello only on the stream it keeps, and both take that one's secret.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use crate::control::dialogue::Dialogue;
use crate::control::message::Hello;
use crate::control::{ConnectionId, carried_to};
use crate::forward::snapshot::{LinkEntry, PeerEntry};
use crate::id::{LinkId, NodeId};
use crate::quality::LinkMtu;
use crate::rng::Dice;
use crate::session::keys::Secret;
use crate::session::trust::Certified;
use crate::time::{Deadline, Instant};

/// Streams of one peer at most: two that cross, one that is being replaced, one to spare.
const MAX_STREAMS_PER_PEER: usize = 4;
/// Sessions at most.
pub(super) const MAX_SESSIONS: usize = 2048;
/// A session whose link is silent this long is offered a new stream: the other side may have
/// restarted, or moved. Doubles with every session whose link never worked.
const REDIAL_AFTER: Duration = Duration::from_secs(5);
/// A session without stream and link is kept this long: keys outlive an outage, not a departure.
const ABANDON_AFTER: Duration = Duration::from_secs(600);
/// A stream offered while a session is this young is its twin, dialled at the same moment.
const TWIN: Duration = Duration::from_secs(5);

/// What a driver knows of a stream it has just opened.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) peer: Certified,
    /// The certificate that says so, DER.
    pub(super) certificate: Vec<u8>,
    pub(super) secret: Secret,
    pub(super) dialled: bool,
    pub(super) endpoint: SocketAddr,
}

/// A stream to an authenticated peer.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) peer: Certified,
    pub(super) certificate: Vec<u8>,
    pub(super) secret: Secret,
    pub(super) dialled: bool,
    pub(super) endpoint: SocketAddr,
    pub(super) dialogue: Dialogue,
    /// Allotted for the peer's frames to us, should this stream make the session.
    pub(super) receive_index: u32,
    pub(super) hello_sent: bool,
}

/// Whether the link of a session works, as the forwarder sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LinkHealth {
    /// Not yet heard of.
    New(Instant),
    /// Works since then.
    Up(Instant),
    /// Silent since then.
    Down(Instant),
}

/// Keys shared with a peer, and the link they are used on.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) peer: Certified,
    /// The certificate it was made under, DER.
    pub(super) certificate: Vec<u8>,
    pub(super) generation: u64,
    pub(super) secret: Secret,
    pub(super) receive_index: u32,
    pub(super) transmit_index: u32,
    /// Lanes that both ends have.
    pub(super) lanes: u8,
    pub(super) endpoint: SocketAddr,
    pub(super) link: LinkId,
    pub(super) boot: u64,
    pub(super) since: Instant,
    /// The stream it came from, or a later one without new keys; none while it is broken.
    pub(super) connection: Option<ConnectionId>,
    /// When the stream was lost.
    pub(super) detached_at: Option<Instant>,
    /// The endpoint the peer sees us at.
    pub(super) observed: Option<SocketAddr>,
    pub(super) health: LinkHealth,
    /// Sessions before this one whose link never worked.
    pub(super) vain: u32,
    /// A new stream has been asked for since the link fell silent.
    pub(super) redialled: bool,
    /// Whether the peer understands lists of revoked certificates and where it is seen.
    pub(super) takes_news: bool,
    /// Whether the peer answers size probes and joins frames that come in pieces.
    pub(super) takes_sizes: bool,
}

impl Session {
    /// Whether its stream goes over the overlay: then it has keys and no link.
    pub(super) fn is_carried(&self) -> bool {
        carried_to(self.endpoint).is_some()
    }

    pub(super) fn is_up(&self) -> bool {
        matches!(self.health, LinkHealth::Up(_))
    }

    /// Since when the link has not worked.
    pub(super) fn silent_since(&self) -> Option<Instant> {
        match self.health {
            LinkHealth::New(at) | LinkHealth::Down(at) => Some(at),
            LinkHealth::Up(_) => None,
        }
    }

    /// When a new stream is asked for because the link is silent.
    pub(super) fn redial_due(&self) -> Option<Instant> {
        let span = REDIAL_AFTER.saturating_mul(1 << self.vain.min(7));
        let silent = self.silent_since().filter(|_| !self.redialled && !self.is_carried());
        silent.map(|at| at.plus(span))
    }

    /// When the session is given up.
    pub(super) fn abandon_due(&self) -> Option<Instant> {
        let (silent, detached) = (self.silent_since()?, self.detached_at?);
        Some(silent.max(detached).plus(ABANDON_AFTER))
    }
}

/// Why a stream is not taken.
pub(super) type Denied = &'static str;

/// What the judge says of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It makes the session.
    Keep,
    /// The pair has a good one already.
    Twin,
}

/// All streams and sessions of this node.
#[derive(Debug)]
pub(super) struct Peers {
    own: NodeId,
    dice: Dice,
    connections: BTreeMap<ConnectionId, Connection>,
    sessions: BTreeMap<NodeId, Session>,
    /// Links by peer; never given to another.
    links: BTreeMap<NodeId, LinkId>,
    owners: Vec<NodeId>,
    indexes: BTreeSet<u32>,
    next_generation: u64,
    /// What [`Peers::poll_timeout`] found, until something changes.
    due: Cell<Option<Option<Deadline>>>,
}

impl Peers {
    pub(super) fn new(own: NodeId, dice: Dice) -> Self {
        Self {
            own,
            dice,
            connections: BTreeMap::new(),
            sessions: BTreeMap::new(),
            links: BTreeMap::new(),
            owners: Vec::new(),
            indexes: BTreeSet::new(),
            next_generation: 1,
            due: Cell::new(None),
        }
    }

    /// When a stream without hello is given up, or a silent session asks for something.
    pub(super) fn poll_timeout(&self) -> Option<Deadline> {
        if let Some(due) = self.due.get() {
            return due;
        }
        let deadline = |at: Option<Instant>, why| at.map(|at| Deadline { at, why });
        let hellos = self.connections.values().map(|c| deadline(c.dialogue.hello_due(), "hello"));
        let sessions = self.sessions.values().map(|s| {
            let redial = deadline(s.redial_due(), "redial");
            Deadline::earlier(redial, deadline(s.abandon_due(), "abandon"))
        });
        let due = hellos.chain(sessions).flatten().min();
        self.due.set(Some(due));
        due
    }

    /// A stream is ready.
    pub(super) fn on_connected(
        &mut self,
        now: Instant,
        id: ConnectionId,
        opened: Opened,
    ) -> Result<(), Denied> {
        self.due.set(None);
        let Opened { peer, certificate, secret, dialled, endpoint } = opened;
        let of_peer = self.connections.values().filter(|c| c.peer.node == peer.node).count();
        if of_peer >= MAX_STREAMS_PER_PEER {
            return Err("too many streams");
        }
        if self.connections.len() >= 2 * MAX_SESSIONS
            || (self.sessions.len() >= MAX_SESSIONS && !self.sessions.contains_key(&peer.node))
        {
            return Err("too many peers");
        }
        if self.connections.contains_key(&id) {
            return Err("stream number used twice");
        }
        let receive_index = self.allot_index();
        let dialogue = Dialogue::new(peer.node, now);
        let connection = Connection {
            peer,
            certificate,
            secret,
            dialled,
            endpoint,
            dialogue,
            receive_index,
            hello_sent: false,
        };
        self.connections.insert(id, connection);
        Ok(())
    }

    /// A number for the peer's frames to us, lane zero, used by no other session.
    fn allot_index(&mut self) -> u32 {
        loop {
            // Four million are free of 2^24; far fewer are ever taken.
            let index = (self.dice.next_u64() as u32) & !0xff;
            if index != 0 && self.indexes.insert(index) {
                return index;
            }
        }
    }

    pub(super) fn connection(&self, id: ConnectionId) -> Option<&Connection> {
        self.connections.get(&id)
    }

    pub(super) fn connection_mut(&mut self, id: ConnectionId) -> Option<&mut Connection> {
        let connection = self.connections.get_mut(&id)?;
        // Of what may change here a hello alone is waited for.
        if connection.dialogue.hello_due().is_some() {
            self.due.set(None);
        }
        Some(connection)
    }

    pub(super) fn connections(&self) -> impl Iterator<Item = (ConnectionId, &Connection)> {
        self.connections.iter().map(|(&id, c)| (id, c))
    }

    pub(super) fn session(&self, node: NodeId) -> Option<&Session> {
        self.sessions.get(&node)
    }

    pub(super) fn session_mut(&mut self, node: NodeId) -> Option<&mut Session> {
        self.due.set(None);
        self.sessions.get_mut(&node)
    }

    pub(super) fn sessions(&self) -> impl Iterator<Item = (NodeId, &Session)> {
        self.sessions.iter().map(|(&n, s)| (n, s))
    }

    /// The peer at the other end of a link, where a session uses it.
    pub(super) fn on_link(&mut self, link: LinkId) -> Option<(NodeId, &mut Session)> {
        self.due.set(None);
        let node = *self.owners.get(usize::from(link.0))?;
        Some((node, self.sessions.get_mut(&node)?))
    }

    /// Whether the side that speaks second wants this stream. Only the lower number asks.
    pub(super) fn judge(&self, now: Instant, id: ConnectionId, hello: &Hello) -> Verdict {
        let Some(session) = self.sessions.get(&hello.node) else { return Verdict::Keep };
        // A direct path is what a carried pair waits for; a carrier beside it is of no use.
        let carried = self.connections.get(&id).is_some_and(|c| carried_to(c.endpoint).is_some());
        if session.is_carried() && !carried {
            return Verdict::Keep;
        }
        let alive =
            session.connection.is_some_and(|c| c != id && self.connections.contains_key(&c));
        let same_life = session.boot == hello.boot;
        // The other dials only when it has lost its stream or finds the link silent; of our own dials
        // we know that neither holds any more.
        let ours = self.connections.get(&id).is_some_and(|c| c.dialled);
        let good = now.since(session.since) < TWIN || (ours && session.is_up());
        if alive && same_life && good { Verdict::Twin } else { Verdict::Keep }
    }

    /// The stream makes the session with its peer, on as many lanes as both have. Returns the
    /// streams it replaces, to be closed.
    pub(super) fn establish(
        &mut self,
        now: Instant,
        id: ConnectionId,
        hello: &Hello,
        own_lanes: u8,
    ) -> Vec<ConnectionId> {
        self.due.set(None);
        let Some(connection) = self.connections.get(&id) else { return Vec::new() };
        let node = connection.peer.node;
        let link = *self.links.entry(node).or_insert_with(|| {
            self.owners.push(node);
            // Members are limited far below 2^16.
            LinkId((self.owners.len() - 1) as u16)
        });
        let vain = match self.sessions.get(&node) {
            Some(old) if matches!(old.health, LinkHealth::New(_)) => old.vain.saturating_add(1),
            _ => 0,
        };
        let session = Session {
            peer: connection.peer.clone(),
            certificate: connection.certificate.clone(),
            generation: self.next_generation,
            secret: connection.secret.clone(),
            receive_index: connection.receive_index,
            transmit_index: hello.receive_index,
            lanes: own_lanes.clamp(1, hello.lanes()),
            endpoint: connection.endpoint,
            link,
            boot: hello.boot,
            since: now,
            connection: Some(id),
            detached_at: None,
            observed: hello.observed,
            health: LinkHealth::New(now),
            vain,
            redialled: false,
            takes_news: hello.takes_news(),
            takes_sizes: hello.takes_sizes(),
        };
        self.next_generation += 1;
        if let Some(old) = self.sessions.insert(node, session) {
            self.indexes.remove(&old.receive_index);
        }
        let mut replaced: Vec<ConnectionId> = self
            .connections
            .iter()
            // A stream still without hello may be the next life's: it is judged when it speaks.
            .filter(|(c, s)| **c != id && s.peer.node == node && s.dialogue.hello_due().is_none())
            .map(|(&c, _)| c)
            .collect();
        replaced.sort();
        for old in &replaced {
            self.forget_connection(*old);
        }
        replaced
    }

    /// The stream is gone. Returns its peer, and whether it carried the session.
    pub(super) fn on_closed(
        &mut self,
        now: Instant,
        id: ConnectionId,
    ) -> Option<(Certified, bool)> {
        self.due.set(None);
        let connection = self.forget_connection(id)?;
        let session = self.sessions.get_mut(&connection.peer.node);
        let carried = session.filter(|s| s.connection == Some(id)).map(|session| {
            session.connection = None;
            session.detached_at = Some(now);
        });
        Some((connection.peer, carried.is_some()))
    }

    fn forget_connection(&mut self, id: ConnectionId) -> Option<Connection> {
        let connection = self.connections.remove(&id)?;
        let held = self.sessions.get(&connection.peer.node);
        if held.is_none_or(|s| s.receive_index != connection.receive_index) {
            self.indexes.remove(&connection.receive_index);
        }
        Some(connection)
    }

    /// The session is over: its keys are forgotten.
    pub(super) fn end_session(&mut self, node: NodeId) -> Option<Session> {
        self.due.set(None);
        let session = self.sessions.remove(&node)?;
        let still = session.connection.is_some_and(|c| self.connections.contains_key(&c));
        if !still {
            self.indexes.remove(&session.receive_index);
        }
        Some(session)
    }

    /// Peers with an open, introduced stream, in order.
    pub(super) fn open(&self) -> impl Iterator<Item = NodeId> {
        let open = self.sessions.iter().filter(|(_, s)| s.connection.is_some());
        open.map(|(node, _)| *node)
    }

    /// The same as a set.
    pub(super) fn reachable(&self) -> BTreeSet<NodeId> {
        self.open().collect()
    }

    /// The peers as the forwarder sees them. `mtu`: what is known of a link's longest datagram.
    pub(super) fn entries(&self, mtu: impl Fn(LinkId) -> Option<LinkMtu>) -> Vec<PeerEntry> {
        let link = |s: &Session| LinkEntry {
            link: s.link,
            endpoint: s.endpoint,
            receive_index: s.receive_index,
            transmit_index: s.transmit_index,
            lanes: s.lanes,
            mtu: mtu(s.link),
        };
        let entry = |s: &Session| PeerEntry {
            node: s.peer.node,
            generation: s.generation,
            secret: s.secret.clone(),
            networks: s.peer.networks().collect(),
            links: if s.is_carried() { Vec::new() } else { vec![link(s)] },
        };
        self.sessions.values().map(entry).collect()
    }

    /// Whether this node judges between streams of the pair.
    pub(super) fn is_judge(&self, peer: NodeId) -> bool {
        self.own < peer
    }
}
