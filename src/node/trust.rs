//! Who is still believed: lists of revoked certificates, certificates that end, our own renewed.
//!
//! A list is signed by its CA and numbered, so it may come from anyone; each node passes a newer one on
//! to every peer and keeps it on disk. Who is on it is cut off at once, streams and keys and link state,
//! and is no member any more. A certificate that merely ended costs its holder the session, unless it
//! has told of a new one meanwhile: sessions outlive a renewal.

use std::time::Duration;

use super::{Identity, Node};
use crate::control::message::Message;
use crate::id::NodeId;
use crate::node::react::News;
use crate::session::trust::ListNews;
use crate::time::Instant;

/// Between two looks at everyone's certificates: one that ended is used no longer than this.
const REVIEW: Duration = Duration::from_secs(600);

impl Node {
    /// A list of revoked certificates came from a peer.
    pub(super) fn on_list(&mut self, now: Instant, from: NodeId, list: &[u8]) {
        match self.trust.on_list(list) {
            Ok(ListNews::Newer) => {
                let others: Vec<NodeId> =
                    self.peers.reachable().into_iter().filter(|&peer| peer != from).collect();
                for peer in others {
                    self.tell_list(peer, list);
                }
                self.review_trust(now);
                self.persist_soon(now);
            }
            Ok(ListNews::Known) => {}
            // Who is behind learns of it, no more often than it may ask.
            Ok(ListNews::Older) => {
                self.refuse(Some(from), "revocation_list_old");
                if self.flood.admit_question(now, from) {
                    self.tell_lists(from);
                }
            }
            Err(_) => self.refuse(Some(from), "revocation_list_forged"),
        }
    }

    /// CAs or lists changed here.
    pub(super) fn on_trust(&mut self, now: Instant) {
        for peer in self.peers.reachable() {
            self.tell_lists(peer);
        }
        self.review_trust(now);
        self.persist_soon(now);
    }

    /// Our own certificate is another one.
    pub(super) fn on_identity(&mut self, now: Instant, identity: Identity) {
        let Identity { certified, certificate, signer, trust: _ } = identity;
        if (certified.node, &certified.name) != (self.own.node, &self.own.name) {
            return self.refuse(None, "own certificate of another node");
        }
        (self.own, self.certificate, self.signer) = (certified, certificate, signer);
        // First the record with the key, then what is signed with it.
        self.sign_record(self.record.seq.saturating_add(1));
        self.knowledge.on_identity(now, &self.own, self.config.relay);
        self.persist_soon(now);
    }

    /// Hands a peer the lists in force.
    pub(super) fn tell_lists(&mut self, peer: NodeId) {
        for list in self.trust.lists() {
            self.tell_list(peer, &list);
        }
    }

    fn tell_list(&mut self, peer: NodeId, list: &[u8]) {
        if self.peers.session(peer).is_some_and(|s| s.takes_news) {
            self.tell(peer, &Message::Revoked(list.to_vec()));
        }
    }

    /// Judges everyone anew. Who is revoked is cut off; whose certificate ended loses its session.
    pub(super) fn review_trust(&mut self, now: Instant) {
        self.review_at = now.plus(REVIEW);
        if self.trust.revokes(&self.certificate) {
            self.refuse(None, "own certificate revoked");
        }
        let streams = self.peers.connections();
        let streams: Vec<_> = streams
            .filter(|(_, c)| self.trust.revokes(&c.certificate))
            .map(|(id, c)| (id, c.peer.node))
            .collect();
        let sessions: Vec<_> = self
            .peers
            .sessions()
            .filter_map(|(node, s)| {
                if self.trust.revokes(&s.certificate) {
                    return Some((node, "certificate revoked"));
                }
                let renewed = || {
                    let member = self.members.member(node)?;
                    self.trust.verify(&member.record.certificate).ok()
                };
                let ended = self.trust.verify(&s.certificate).is_err() && renewed().is_none();
                ended.then_some((node, "certificate not valid any more"))
            })
            .collect();
        for (id, peer) in streams {
            self.refuse(Some(peer), "revoked");
            self.close(id, "certificate revoked");
            self.lose(now, id, "certificate revoked");
        }
        for (node, why) in sessions {
            self.end_session(now, node, why);
        }
        let members: Vec<NodeId> = self
            .members
            .iter()
            .filter(|(_, m)| self.trust.revokes(&m.record.certificate))
            .map(|(node, _)| node)
            .collect();
        for node in members {
            if let Some(member) = self.members.expel(node) {
                self.dialler.forget(&member.record.certified.name);
                self.react(now, News::MemberGone(node));
            }
        }
    }
}
