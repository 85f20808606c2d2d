//! What comes of the streams: kind → mechanism. What a mechanism makes of it goes to `react`.

use std::time::Duration;

use bytes::Bytes;

use super::knowledge::Roll;
use super::peers::{Opened, Verdict};
use super::react::News;
use super::{Node, NodeEvent};
use crate::control::dialogue::Heard;
use crate::control::message::{DigestEntry, Hello, MAX_RECORDS, Message, Topic, VERSION};
use crate::control::{ConnectionId, ControlInput, ControlOutput, carried_to, over_the_overlay};
use crate::id::NodeId;
use crate::time::Instant;
use crate::topology::flood::{self, MAX_ANSWERS};
use crate::topology::lsa::Lsa;
use crate::topology::lsdb::Install;
use crate::topology::member::{Outcome, Record, Refusal};

impl Node {
    pub(super) fn on_control(&mut self, now: Instant, input: ControlInput) {
        match input {
            ControlInput::Connected {
                connection,
                peer,
                certificate,
                secret,
                dialled,
                endpoint,
            } => {
                let opened = Opened { peer, certificate, secret, dialled, endpoint };
                self.on_connected(now, connection, opened);
            }
            ControlInput::Message { connection, bytes } => {
                self.on_message(now, connection, &bytes);
            }
            ControlInput::Closed { connection, why } => self.on_closed(now, connection, &why),
            ControlInput::DialFailed { endpoint, why } => {
                self.dialler.on_failed(endpoint, &why, now);
                self.seek_carriers(now);
                self.say(NodeEvent::DialFailed { endpoint, why });
            }
        }
    }

    fn on_connected(&mut self, now: Instant, id: ConnectionId, opened: Opened) {
        let (peer, dialled, endpoint) = (&opened.peer, opened.dialled, opened.endpoint);
        if self.stopping {
            return self.close(id, "stopping");
        }
        if peer.node == self.own.node && peer.name == self.own.name {
            if dialled {
                self.dialler.on_ourselves(endpoint);
            }
            return self.close(id, "this is ourselves");
        }
        let (node, name) = (peer.node, peer.name.clone());
        // The list may have come while hands were shaken.
        let revoked = self.trust.revokes(&opened.certificate);
        let fits = if revoked { Err(Refusal::Revoked) } else { self.members.fits(peer) };
        if let Err(why) = fits {
            self.members.on_refused(why);
            self.refuse(Some(node), why.name());
            return self.deny(now, id, &name, why.name());
        }
        if let Err(why) = self.peers.on_connected(now, id, opened) {
            self.refuse(Some(node), why);
            return self.deny(now, id, &name, why);
        }
        if !self.peers.is_judge(node) {
            self.send_hello(id);
        }
    }

    fn on_message(&mut self, now: Instant, id: ConnectionId, bytes: &Bytes) {
        let Some(connection) = self.peers.connection_mut(id) else { return };
        let peer = connection.peer.node;
        match connection.dialogue.on_message(now, bytes) {
            Ok(Heard::Hello(hello)) => self.on_hello(now, id, peer, &hello),
            Ok(Heard::News(message)) => {
                let current = self.peers.session(peer).and_then(|s| s.connection);
                if current == Some(id) {
                    self.on_news(now, peer, message);
                }
            }
            Ok(Heard::Throttled) => self.refuse(Some(peer), "message_rate"),
            Err(breach) => {
                self.refuse(Some(peer), breach.told());
                self.close(id, breach.told());
                self.lose(now, id, breach.told());
            }
        }
    }

    fn on_hello(&mut self, now: Instant, id: ConnectionId, peer: NodeId, hello: &Hello) {
        if self.peers.is_judge(peer) {
            if self.peers.judge(now, id, hello) == Verdict::Twin {
                self.close(id, "the pair has a stream");
                self.lose(now, id, "the pair has a stream");
                return;
            }
            self.send_hello(id);
        }
        for replaced in self.peers.establish(now, id, hello, self.config.lanes) {
            self.close(replaced, "replaced");
        }
        if let Some(session) = self.peers.session(peer) {
            let (name, at) = (session.peer.name.clone(), session.endpoint);
            let endpoints: Vec<_> = [at].into_iter().chain(hello.endpoints.clone()).collect();
            let carried = session.is_carried();
            if carried {
                // It stays wanted: a direct path is looked for, at ease.
                self.dialler.learn(&name, Some(peer), &hello.endpoints, now);
                self.dialler.without(&name, at, now);
                self.dialler.on_alive(&name, now);
            } else {
                self.dialler.learn(&name, Some(peer), &endpoints, now);
                self.dialler.want(&name, false, now);
                if self.reached.insert(peer, at) != Some(at) {
                    self.persist_soon(now);
                }
            }
        }
        self.members.on_alive(peer, now);
        self.react(now, News::Session(peer));
    }

    /// Members that no endpoint of theirs leads to are reached over the overlay, where a path leads.
    pub(super) fn seek_carriers(&mut self, now: Instant) {
        let members = self.members.iter().map(|(n, m)| (n, m.record.certified.name.as_str()));
        let lost = members.filter(|(node, name)| {
            self.peers.session(*node).is_none_or(|s| s.connection.is_none())
                && self.dialler.is_out_of_reach(name)
                && self.knowledge.relayed(*node)
        });
        let lost: Vec<_> = lost.map(|(node, name)| (node, name.to_owned())).collect();
        for (node, name) in lost {
            self.dialler.also(&name, over_the_overlay(node), now);
        }
    }

    /// Introduces ourselves, at most once on a stream.
    fn send_hello(&mut self, id: ConnectionId) {
        let endpoints = self.record.endpoints.clone();
        let Some(connection) = self.peers.connection_mut(id) else { return };
        if std::mem::replace(&mut connection.hello_sent, true) {
            return;
        }
        let hello = Message::Hello(Hello {
            version: VERSION,
            capabilities: Hello::capabilities(self.config.lanes),
            boot: self.boot,
            node: self.own.node,
            receive_index: connection.receive_index,
            // Over the overlay nobody sees where anybody is.
            observed: Some(connection.endpoint).filter(|&at| carried_to(at).is_none()),
            endpoints,
        });
        self.control
            .push_back(ControlOutput::Send { connection: id, bytes: hello.to_bytes().into() });
    }

    fn on_closed(&mut self, now: Instant, id: ConnectionId, why: &str) {
        self.lose(now, id, why);
    }

    /// A stream is over, by either side.
    pub(super) fn lose(&mut self, now: Instant, id: ConnectionId, why: &str) {
        let dialled = self.peers.connection(id).is_some_and(|c| c.dialled);
        let Some((peer, carried)) = self.peers.on_closed(now, id) else { return };
        if carried {
            let (peer, name) = (peer.node, peer.name);
            self.dialler.want(&name, true, now);
            self.say(NodeEvent::StreamLost { peer, name, why: why.to_owned() });
        } else if dialled {
            self.dialler.on_denied(&peer.name, why, now);
        }
    }

    /// Refuses a stream that the driver had just opened.
    fn deny(&mut self, now: Instant, id: ConnectionId, name: &str, why: &'static str) {
        self.close(id, why);
        self.dialler.on_denied(name, why, now);
    }

    pub(super) fn close(&mut self, connection: ConnectionId, why: &'static str) {
        self.control.push_back(ControlOutput::Close { connection, why });
    }

    fn on_news(&mut self, now: Instant, peer: NodeId, message: Message) {
        match message {
            // The dialogue hands over one hello, and that apart.
            Message::Hello(_) => {}
            Message::Members(records) => {
                for record in records {
                    self.on_record(now, peer, &record);
                }
            }
            Message::Lsa { age_ms, record } => {
                self.on_lsa(now, peer, Duration::from_millis(age_ms.into()), record);
            }
            Message::Digest { .. } | Message::Want { .. }
                if !self.flood.admit_question(now, peer) =>
            {
                self.refuse(Some(peer), "question_rate");
            }
            Message::Digest { topic, entries } => self.on_digest(now, peer, topic, &entries),
            Message::Want { topic, nodes } => self.hand_over(now, peer, topic, &nodes),
            Message::Bye(_) => self.react(now, News::Bye(peer)),
            Message::Revoked(list) => self.on_list(now, peer, &list),
            Message::Seen(endpoint) => self.on_seen(peer, endpoint),
        }
    }

    /// A member's word, from itself or by way of another.
    fn on_record(&mut self, now: Instant, from: NodeId, bytes: &[u8]) {
        match self.members.on_record(now, bytes, self.trust.as_ref()) {
            Outcome::New(node) => self.react(now, News::Member { node, from, new: true }),
            Outcome::Newer(node) => self.react(now, News::Member { node, from, new: false }),
            Outcome::Known => {}
            Outcome::Own { boot, seq } => self.react(now, News::OwnRecord { boot, seq }),
            Outcome::Refused(why) => self.refuse(Some(from), why.name()),
        }
    }

    /// A peer told what it holds: what we lack is asked for, what it lacks is handed over.
    fn on_digest(&mut self, now: Instant, peer: NodeId, topic: Topic, theirs: &[DigestEntry]) {
        let held = self.held(topic);
        let difference = flood::compare(self.own.node, peer, &held, theirs);
        if !difference.want.is_empty() {
            self.tell(peer, &Message::Want { topic, nodes: difference.want });
        }
        self.hand_over(now, peer, topic, &difference.owe);
    }

    /// What we hold of a topic, ourselves included.
    pub(super) fn held(&self, topic: Topic) -> Vec<DigestEntry> {
        match topic {
            Topic::Members => {
                let Record { boot, seq, .. } = self.record;
                let own = DigestEntry { node: self.own.node, boot, seq };
                self.members.digest().into_iter().chain([own]).collect()
            }
            Topic::LinkState => self.knowledge.digest(),
        }
    }

    /// Sends what a peer asked for or lacks, as far as one answer goes.
    pub(super) fn hand_over(&mut self, now: Instant, peer: NodeId, topic: Topic, nodes: &[NodeId]) {
        let nodes = &nodes[..nodes.len().min(MAX_ANSWERS)];
        match topic {
            Topic::Members => {
                let bytes_of = |&node: &NodeId| {
                    if node == self.own.node {
                        return Some(self.record.bytes.clone());
                    }
                    Some(self.members.member(node)?.record.bytes.clone())
                };
                let records: Vec<Vec<u8>> = nodes.iter().filter_map(bytes_of).collect();
                // A message holds 64 records of at most 8 KiB; certificates are a tenth of that,
                // and those that are not travel alone.
                let mut batch = Vec::new();
                let mut size = 0;
                for record in records {
                    if batch.len() == MAX_RECORDS || size + record.len() > BATCH_BYTES {
                        self.tell(peer, &Message::Members(std::mem::take(&mut batch)));
                        size = 0;
                    }
                    size += record.len();
                    batch.push(record);
                }
                if !batch.is_empty() {
                    self.tell(peer, &Message::Members(batch));
                }
            }
            Topic::LinkState => {
                for &node in nodes {
                    let Some((records, age_ms)) = self.knowledge.records(node, now) else {
                        continue;
                    };
                    for record in records {
                        self.tell(peer, &Message::Lsa { age_ms, record });
                    }
                }
            }
        }
    }

    /// Link state, from its origin or by way of another.
    fn on_lsa(&mut self, now: Instant, from: NodeId, age: Duration, record: Bytes) {
        // What a peer passes on of others is bounded by its own rate of messages.
        if Lsa::origin_of(&record) == Ok(from) && !self.flood.admit(now, from) {
            return self.refuse(Some(from), "origin_rate");
        }
        let roll = Roll { members: &self.members, peers: &self.peers };
        match self.knowledge.on_lsa(now, age, &record, &roll) {
            Install::Newer { origin, changed, urgent } => {
                self.members.on_alive(origin, now);
                if urgent && let Some(member) = self.members.member(origin) {
                    self.dialler.on_alive(&member.record.certified.name, now);
                }
                if changed {
                    let age_ms = u32::try_from(age.as_millis()).unwrap_or(u32::MAX);
                    self.react(now, News::Lsa { origin, from, urgent, age_ms, record });
                }
            }
            // Its own earlier life speaks, and is to learn of the later one. Of whom else somebody is
            // behind, the next digest says.
            Install::Older { origin } if origin == from => {
                self.hand_over(now, from, Topic::LinkState, &[origin]);
            }
            Install::Gap { origin } => {
                self.tell(from, &Message::Want { topic: Topic::LinkState, nodes: vec![origin] });
            }
            Install::Older { .. } | Install::Known | Install::OwnNewer(_) => {}
            Install::Refused(why) => self.refuse(Some(from), why.name()),
        }
    }

    /// Says something to a peer, if it has an open stream.
    pub(super) fn tell(&mut self, peer: NodeId, message: &Message) {
        self.tell_all([peer], message);
    }

    /// Says the same to each of them that has an open stream.
    pub(super) fn tell_all(&mut self, peers: impl IntoIterator<Item = NodeId>, message: &Message) {
        let mut bytes = None;
        for peer in peers {
            let Some(connection) = self.peers.session(peer).and_then(|s| s.connection) else {
                continue;
            };
            let bytes = bytes.get_or_insert_with(|| Bytes::from(message.to_bytes())).clone();
            self.control.push_back(ControlOutput::Send { connection, bytes });
        }
    }
}

/// Bytes of records in one message: well below the greatest message.
const BATCH_BYTES: usize = 128 * 1024;
