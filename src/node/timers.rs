//! The clock: whose time has come, and when to be woken next.

use std::collections::BTreeMap;
use std::time::Duration;

use super::knowledge::Roll;
use super::react::News;
use super::{Node, NodeEvent};
use crate::control::ControlOutput;
use crate::control::message::{ByeReason, Message};
use crate::id::NodeId;
use crate::time::{Deadline, Instant};
use crate::topology::member::Member;

/// Changes within this time are written to the state file together.
const PERSIST_AFTER: Duration = Duration::from_secs(2);

impl Node {
    pub(super) fn on_timeout(&mut self, now: Instant) {
        let due = |deadline: Option<Deadline>| deadline.is_some_and(|d| d.at <= now);
        let dials = !self.stopping && due(self.dialler.poll_timeout());
        for dial in if dials { self.dialler.handle_timeout(now) } else { Vec::new() } {
            self.control.push_back(ControlOutput::Dial {
                endpoint: dial.endpoint,
                name: dial.name,
                node: dial.node,
            });
        }
        if due(self.peers.poll_timeout()) {
            self.close_mute(now);
            self.review_sessions(now);
        }
        self.end_relaying(now);
        if self.review_at <= now {
            self.review_trust(now);
        }
        if due(self.flood.poll_timeout()) {
            let partners = self.flood.handle_timeout(now, &self.peers.reachable());
            if !partners.is_empty() {
                self.seek_carriers(now);
            }
            for peer in partners {
                self.tell_held(peer);
            }
        }
        if due(self.members.poll_timeout()) {
            self.review_members(now);
        }
        if self.persist_at.is_some_and(|at| at <= now) {
            self.persist_at = None;
            self.persist();
        }
    }

    fn persist(&mut self) {
        let bytes = self.members.persist(self.boot, &self.reached, &self.trust.lists());
        self.say(NodeEvent::Persist(bytes));
    }

    /// Members that nobody has heard of for too long are forgotten.
    fn review_members(&mut self, now: Instant) {
        for (node, _) in self.peers.sessions().filter(|(_, s)| s.is_up()) {
            self.members.on_alive(node, now);
        }
        let name = |(n, m): (NodeId, &Member)| (n, m.record.certified.name.clone());
        let before: BTreeMap<NodeId, String> = self.members.iter().map(name).collect();
        for node in self.members.handle_timeout(now) {
            if let Some(name) = before.get(&node) {
                self.dialler.forget(name);
            }
            self.react(now, News::MemberGone(node));
        }
    }

    /// Streams whose other end never introduced itself are closed.
    fn close_mute(&mut self, now: Instant) {
        let mute: Vec<_> = self
            .peers
            .connections()
            .filter(|(_, c)| c.dialogue.hello_due().is_some_and(|at| at <= now))
            .map(|(id, c)| (id, c.peer.node))
            .collect();
        for (id, peer) in mute {
            self.refuse(Some(peer), "no hello");
            self.close(id, "no hello");
            self.lose(now, id, "no hello");
        }
    }

    /// Sessions whose link is silent are offered a new stream, and one day forgotten.
    fn review_sessions(&mut self, now: Instant) {
        let due = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        let redial: Vec<NodeId> =
            self.peers.sessions().filter(|(_, s)| due(s.redial_due())).map(|(n, _)| n).collect();
        for node in redial {
            if let Some(session) = self.peers.session_mut(node) {
                session.redialled = true;
                self.dialler.want(&session.peer.name, true, now);
            }
        }
        let abandoned: Vec<NodeId> =
            self.peers.sessions().filter(|(_, s)| due(s.abandon_due())).map(|(n, _)| n).collect();
        for node in abandoned {
            self.react(now, News::Abandoned(node));
        }
    }

    pub(super) fn next_deadline(&self) -> Option<Deadline> {
        let mut due = self.knowledge.poll_timeout();
        let mut also = |other: Option<Deadline>| due = Deadline::earlier(due, other);
        also(self.flood.poll_timeout());
        also(self.members.poll_timeout());
        also(self.relay_ends_at.map(|at| Deadline { at, why: "consent to relay ends" }));
        also(Some(Deadline { at: self.review_at, why: "certificates" }));
        also(self.persist_at.map(|at| Deadline { at, why: "state file" }));
        if !self.stopping {
            also(self.dialler.poll_timeout());
        }
        also(self.peers.poll_timeout());
        due
    }

    pub(super) fn persist_soon(&mut self, now: Instant) {
        self.persist_at.get_or_insert(now.plus(PERSIST_AFTER));
    }

    /// The end of every turn: what it made due is done.
    pub(super) fn settle(&mut self, now: Instant) {
        while let Some(record) = self.knowledge.poll_record(now, self.signer.as_ref()) {
            self.react(now, News::OwnLsa(record));
            if self.stopping && !std::mem::replace(&mut self.withdrawn, true) {
                self.say_goodbye();
            }
        }
        let roll = Roll { members: &self.members, peers: &self.peers };
        self.snapshot_due |= self.knowledge.settle(now, &roll, &mut self.events);
        self.snapshot_due |= self.knowledge.take_mtu_moved();
    }

    pub(super) fn on_stop(&mut self, now: Instant) {
        self.stopping = true;
        self.knowledge.on_stop();
        self.settle(now);
    }

    /// The last record is out: every peer hears that nothing follows.
    fn say_goodbye(&mut self) {
        self.tell_all(self.peers.reachable(), &Message::Bye(ByeReason::Stopping));
        self.persist();
        self.say(NodeEvent::Withdrawn);
    }
}
