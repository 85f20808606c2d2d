//! One match from event to consequence.
//!
//! | event | consequence, in order |
//! |---|---|
//! | session in force | forwarder learns keys; both tell what they hold; the link is probed |
//! | link up, down | own link state; dialling; routes |
//! | peer at another endpoint | its stream follows; it hears where it is seen |
//! | member new or newer | introduced to others; dialled until the mesh is full, without back-off |
//! | link state newer | passed on where its origin does not reach; routes; dialled if it tells life or death |
//! | link state of our own | told to every peer |
//! | bye | the session ends at once; own link state; routes |

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;

use super::peers::{LinkHealth, Session};
use super::{Node, NodeEvent};
use crate::control::ControlOutput;
use crate::control::message::{Message, Topic};
use crate::forward::event::ForwardEvent;
use crate::id::{LinkId, NodeId};
use crate::time::Instant;
use crate::topology::flood;
use crate::topology::member::Record;

/// What happened, in the words of the node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum News {
    /// Keys with a peer came into force.
    Session(NodeId),
    /// A peer leaves.
    Bye(NodeId),
    /// A session has been without stream and link for too long.
    Abandoned(NodeId),
    /// A link answers.
    LinkUp(LinkId),
    /// A link is silent.
    LinkDown(LinkId, Duration),
    /// A peer is at another endpoint, and proved it.
    LinkMoved(LinkId, SocketAddr),
    /// A member's record is new, or newer than the one held.
    Member {
        /// Whose.
        node: NodeId,
        /// Who brought it.
        from: NodeId,
        /// Whether the member was unknown.
        new: bool,
    },
    /// Link state newer than what was held, that says something new.
    Lsa {
        /// Whose.
        origin: NodeId,
        /// Who brought it.
        from: NodeId,
        /// Whether a link died or came back.
        urgent: bool,
        /// How old it is.
        age_ms: u32,
        /// The signed bytes.
        record: Bytes,
    },
    /// A record of our own is due.
    OwnLsa(Bytes),
    /// A member expired.
    MemberGone(NodeId),
    /// Others hold a newer record of ours: from an earlier life.
    OwnRecord {
        /// Its boot counter.
        boot: u64,
        /// Its number.
        seq: u64,
    },
}

impl Node {
    pub(super) fn react(&mut self, now: Instant, news: News) {
        match news {
            News::Session(peer) => {
                self.snapshot_due = true;
                if let Some(session) = self.peers.session(peer) {
                    let (name, endpoint) = (session.peer.name.clone(), session.endpoint);
                    let generation = session.generation;
                    if session.is_carried() {
                        self.knowledge.on_session_ended(now, session.link);
                    } else {
                        self.knowledge.on_session(now, session);
                    }
                    self.say(NodeEvent::SessionUp { peer, name, endpoint, generation });
                }
                self.review_endpoints();
                let own = self.record.bytes.clone();
                self.tell(peer, &Message::Members(vec![own]));
                self.tell_lists(peer);
                self.greet(now, peer);
            }
            News::Bye(peer) => self.end_session(now, peer, "left"),
            News::Abandoned(peer) => self.end_session(now, peer, "silent for too long"),
            News::LinkUp(link) => {
                let Some((peer, session)) = self.peers.on_link(link) else { return };
                if session.is_up() {
                    return;
                }
                let new = matches!(session.health, LinkHealth::New(_));
                session.health = LinkHealth::Up(now);
                session.redialled = false;
                let (name, open) = (session.peer.name.clone(), session.connection.is_some());
                if open {
                    self.dialler.want(&name, false, now);
                } else {
                    self.dialler.on_alive(&name, now);
                }
                self.members.on_alive(peer, now);
                self.knowledge.on_link(now, link, true);
                self.say(NodeEvent::LinkUp { link, peer });
                // After an outage each lacks what the other heard meanwhile; and where the session is
                // new, what was heard while the link came up.
                if !new || self.peers.sessions().count() <= FEW {
                    self.greet(now, peer);
                }
            }
            News::LinkDown(link, silence) => {
                let Some((peer, session)) = self.peers.on_link(link) else { return };
                if matches!(session.health, LinkHealth::Down(_)) {
                    return;
                }
                session.health = LinkHealth::Down(now);
                self.knowledge.on_link(now, link, false);
                self.say(NodeEvent::LinkDown { link, peer, silence });
            }
            News::LinkMoved(link, endpoint) => {
                let Some((peer, session)) = self.peers.on_link(link) else { return };
                session.endpoint = endpoint;
                self.knowledge.on_moved(now, link, endpoint.is_ipv6());
                let (name, takes_news) = (session.peer.name.clone(), session.takes_news);
                if let Some(connection) = session.connection {
                    self.control.push_back(ControlOutput::Moved { connection, endpoint });
                }
                self.dialler.learn(&name, Some(peer), &[endpoint], now);
                if self.reached.insert(peer, endpoint) != Some(endpoint) {
                    self.persist_soon(now);
                }
                if takes_news {
                    self.tell(peer, &Message::Seen(endpoint));
                }
                self.say(NodeEvent::LinkMoved { link, peer, endpoint });
                self.snapshot_due = true;
            }
            News::Member { node, from, new } => {
                let Some(member) = self.members.member(node) else { return };
                let record = &member.record;
                let name = record.certified.name.clone();
                self.dialler.learn(&name, Some(node), &record.endpoints, now);
                // A session of an earlier life is none: its other end has forgotten the keys.
                // Nor is one over the overlay all that is wanted.
                let same_life = |s: &Session| {
                    s.connection.is_some() && s.boot >= record.boot && !s.is_carried()
                };
                let connected = self.peers.session(node).is_some_and(same_life);
                self.dialler.want(&name, !connected, now);
                self.dialler.on_alive(&name, now);
                let bytes = record.bytes.clone();
                // What a renewed certificate grants holds for the session that is there.
                let certified = record.certified.clone();
                if let Some(session) = self.peers.session_mut(node)
                    && session.peer != certified
                {
                    session.peer = certified;
                    self.snapshot_due = true;
                    self.knowledge.on_granted(now);
                }
                if new {
                    self.say(NodeEvent::MemberNew { node, name });
                }
                let others = self.flood.introduce(node, from, &self.peers.reachable());
                self.tell_all(others, &Message::Members(vec![bytes]));
                self.persist_soon(now);
            }
            News::Lsa { origin, from, urgent, age_ms, record } => {
                let reached = self.knowledge.reached_by(origin);
                let unreached = flood::unreached(origin, from, self.peers.open(), reached);
                if unreached.is_empty() {
                    return;
                }
                let peers = self.peers.reachable();
                let reaches = |a, b| self.knowledge.reaches(a, b);
                let told = self.flood.pass_on(origin, unreached, urgent, &peers, reaches);
                self.tell_all(told, &Message::Lsa { age_ms, record });
            }
            News::OwnLsa(record) => {
                self.tell_all(self.peers.reachable(), &Message::Lsa { age_ms: 0, record });
            }
            News::MemberGone(node) => {
                self.knowledge.on_gone(now, node);
                self.flood.on_gone(node);
                self.reached.remove(&node);
                self.say(NodeEvent::MemberGone { node });
                self.persist_soon(now);
            }
            News::OwnRecord { boot, seq } => {
                if (boot, seq) >= (self.record.boot, self.record.seq) {
                    self.boot = self.boot.max(boot);
                    self.sign_record(seq.saturating_add(1));
                    self.persist_soon(now);
                }
            }
        }
    }

    /// What the forwarder saw.
    pub(super) fn on_forward(&mut self, now: Instant, event: ForwardEvent) {
        match event {
            ForwardEvent::LinkUp { link } => self.react(now, News::LinkUp(link)),
            ForwardEvent::LinkDown { link, silence } => {
                self.react(now, News::LinkDown(link, silence));
            }
            ForwardEvent::LinkMoved { link, endpoint } => {
                self.react(now, News::LinkMoved(link, endpoint));
            }
            ForwardEvent::Flipped { destination, class, to_backup, why } => {
                self.knowledge.on_flipped(now, destination, class, to_backup, why);
                self.say(NodeEvent::Flipped { destination, class, to_backup, why });
            }
            ForwardEvent::InUse { destination, class } => {
                self.knowledge.on_in_use(now, destination, class);
            }
            ForwardEvent::SizeAnswered { link, seq, size } => {
                self.knowledge.on_size_answered(now, link, seq, size);
            }
            ForwardEvent::TooLong { link, size } => self.knowledge.on_too_long(now, link, size),
            measured => self.knowledge.on_measured(now, &measured),
        }
    }

    /// The keys of a peer are forgotten; it stays a member and is dialled again.
    pub(super) fn end_session(&mut self, now: Instant, peer: NodeId, why: &'static str) {
        let Some(session) = self.peers.end_session(peer) else { return };
        let name = session.peer.name;
        if let Some(connection) = session.connection {
            self.peers.on_closed(now, connection);
            self.close(connection, why);
        }
        self.knowledge.on_session_ended(now, session.link);
        self.dialler.want(&name, true, now);
        self.say(NodeEvent::SessionEnded { peer, name, why });
        self.snapshot_due = true;
    }

    /// Tells a peer that is new or back what it may lack.
    fn greet(&mut self, now: Instant, peer: NodeId) {
        if self.flood.greets(now, self.peers.sessions().count()) {
            self.tell_held(peer);
        } else {
            self.hand_over(now, peer, Topic::LinkState, &[self.own.node]);
        }
    }

    /// Tells a peer what we hold.
    pub(super) fn tell_held(&mut self, peer: NodeId) {
        for topic in [Topic::Members, Topic::LinkState] {
            let entries = self.held(topic);
            self.tell(peer, &Message::Digest { topic, entries });
        }
    }

    /// Where peers see us is where others can reach us, unless the operator said otherwise.
    fn review_endpoints(&mut self) {
        if !self.config.advertise.is_empty() {
            return;
        }
        let mut witnesses = std::collections::BTreeMap::new();
        for endpoint in self.peers.sessions().filter_map(|(_, s)| s.observed) {
            *witnesses.entry(endpoint).or_insert(0_u32) += 1;
        }
        let mut ranked: Vec<_> = witnesses.into_iter().collect();
        ranked.sort_by_key(|&(endpoint, count)| (std::cmp::Reverse(count), endpoint));
        ranked.truncate(MAX_OBSERVED);
        let endpoints: Vec<_> = ranked.into_iter().map(|(endpoint, _)| endpoint).collect();
        let known = &self.record.endpoints;
        if endpoints.iter().all(|e| known.contains(e)) {
            return;
        }
        self.record.endpoints = endpoints;
        self.sign_record(self.record.seq.saturating_add(1));
    }

    /// The operator gave other endpoints, or leaves them to what peers see.
    pub(super) fn advertise_anew(&mut self, now: Instant) {
        self.record.endpoints.clone_from(&self.config.advertise);
        self.review_endpoints();
        self.sign_record(self.record.seq.saturating_add(1));
        self.persist_soon(now);
    }

    /// A peer sees us at another endpoint than before: so may others soon.
    pub(super) fn on_seen(&mut self, peer: NodeId, endpoint: SocketAddr) {
        if let Some(session) = self.peers.session_mut(peer)
            && session.observed.replace(endpoint) != Some(endpoint)
        {
            self.review_endpoints();
        }
    }

    /// Says anew who we are and where, to everyone.
    pub(super) fn sign_record(&mut self, seq: u64) {
        let version = (self.boot, seq);
        let endpoints = std::mem::take(&mut self.record.endpoints);
        let signer = self.signer.as_ref();
        self.record =
            Record::sign(self.own.clone(), &self.certificate, &endpoints, version, signer);
        self.members.on_own(version);
        let own = Message::Members(vec![self.record.bytes.clone()]);
        self.tell_all(self.peers.reachable(), &own);
    }
}

/// With so many peers both sides tell what they hold once more when the link of a new session works.
const FEW: usize = 16;

/// Endpoints advertised on the word of peers: a NAT that gives each peer another is of no use.
const MAX_OBSERVED: usize = 4;
