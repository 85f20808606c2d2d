//! What an operator sees: the node's state in the words of [`crate::report`].
//!
//! Nothing is invented here: what was not measured is `None`. What only the driver knows (packets,
//! bytes, drops) it adds from the forwarder's counters.

use std::time::Duration;

use super::Node;
use super::peers::{LinkHealth, Session};
use crate::id::NodeId;
use crate::report::{
    Answer, Command, LinkRow, LinkState, PathRow, PathView, PeerRow, PeerState, Report, Status,
};
use crate::route::table::Path;
use crate::time::Instant;

impl Node {
    pub(super) fn answer(&mut self, now: Instant, command: &Command) -> Answer {
        match command {
            Command::Status => Answer::Status(Box::new(self.status(now))),
            Command::Peers => Answer::Peers(self.peer_rows(now)),
            Command::Links => Answer::Links(self.link_rows(now)),
            Command::Paths { destination: None } => Answer::Paths(self.path_rows(now, None)),
            Command::Paths { destination: Some(asked) } => match self.find(asked) {
                None => Answer::NotFound(format!("no node answers to `{asked}`")),
                Some(node) => {
                    let rows = self.path_rows(now, Some(node));
                    if rows.is_empty() {
                        Answer::NotFound(format!("no path to {}", self.name_of(node)))
                    } else {
                        Answer::Paths(rows)
                    }
                }
            },
            Command::Explain { destination, .. } => {
                Answer::NotFound(format!("no path to {destination}"))
            }
            Command::Report => Answer::Report(Box::new(Report {
                status: self.status(now),
                peers: self.peer_rows(now),
                links: self.link_rows(now),
                paths: self.path_rows(now, None),
            })),
        }
    }

    /// The node meant by a name, a number or an address.
    fn find(&self, asked: &str) -> Option<NodeId> {
        let own = (asked == self.own.name).then_some(self.own.node);
        let named = own.or_else(|| self.members.by_name(asked)).or_else(|| {
            self.peers.sessions().find(|(_, s)| s.peer.name == asked).map(|(node, _)| node)
        });
        let numbered = || asked.trim_start_matches('n').parse().ok().and_then(NodeId::new);
        let addressed = || self.knowledge.table().owner(asked.parse().ok()?);
        named.or_else(addressed).or_else(|| numbered().filter(|&n| self.is_known(n)))
    }

    fn is_known(&self, node: NodeId) -> bool {
        self.members.member(node).is_some() || self.peers.session(node).is_some()
    }

    pub(super) fn name_of(&self, node: NodeId) -> String {
        let member = self.members.member(node).map(|m| &m.record.certified.name);
        let session = || self.peers.session(node).map(|s| &s.peer.name);
        let own = || (node == self.own.node).then_some(&self.own.name);
        member.or_else(session).or_else(own).cloned().unwrap_or_else(|| node.to_string())
    }

    fn status(&self, now: Instant) -> Status {
        let sessions = || self.peers.sessions().map(|(_, s)| s);
        let mut refused: std::collections::BTreeMap<String, u64> =
            self.refused.iter().map(|(&why, &count)| (why.to_owned(), count)).collect();
        if self.flood.throttled() > 0 {
            refused.insert("origin_rate".into(), self.flood.throttled());
        }
        let table = self.knowledge.table();
        let reachable: std::collections::BTreeSet<NodeId> =
            table.routes.keys().map(|&(node, _)| node).collect();
        Status {
            version: env!("CARGO_PKG_VERSION").into(),
            name: self.own.name.clone(),
            node: self.own.node.get(),
            addresses: self.own.addresses.clone(),
            prefixes: self.own.prefixes.clone(),
            relay: self.config.relay && self.own.relay,
            use_relays: self.config.use_relays,
            uptime_s: seconds(now.since(self.started_at)),
            certificate_not_after_unix_s: self.own.not_after,
            nodes_known: self.members.len() as u32,
            peers_connected: sessions().filter(|s| s.connection.is_some()).count() as u32,
            links: sessions().count() as u32,
            links_up: sessions().filter(|s| s.is_up()).count() as u32,
            destinations_reachable: reachable.len() as u32,
            table_generation: table.generation,
            refused,
            ..Status::default()
        }
    }

    fn peer_rows(&self, now: Instant) -> Vec<PeerRow> {
        let members = self.members.iter().map(|(node, m)| (node, &m.record.certified));
        let sessions = self.peers.sessions().map(|(node, s)| (node, &s.peer));
        let known: std::collections::BTreeMap<_, _> = members.chain(sessions).collect();
        let row = |(node, certified): (NodeId, &crate::session::trust::Certified)| {
            let session = self.peers.session(node);
            let in_use = session.map(|s| s.endpoint);
            let others = self.dialler.endpoints(&certified.name).iter().copied();
            let endpoints = in_use.into_iter().chain(others.filter(|e| Some(*e) != in_use));
            PeerRow {
                name: certified.name.clone(),
                node: node.get(),
                addresses: certified.addresses.clone(),
                prefixes: certified.prefixes.clone(),
                relay: certified.relay,
                state: match session {
                    Some(s) if s.connection.is_some() => PeerState::Connected,
                    Some(_) => PeerState::Detached,
                    None if self.dialler.is_dialling(&certified.name) => PeerState::Connecting,
                    None => PeerState::Known,
                },
                endpoints: endpoints.map(|e| e.to_string()).collect(),
                session_age_s: session.map(|s| seconds(now.since(s.since))),
                record_age_s: self.knowledge.record_age(node, now).map(seconds),
                links_up: u32::from(session.is_some_and(Session::is_up)),
                last_error: self.dialler.error(&certified.name).map(str::to_owned),
            }
        };
        known.into_iter().map(row).collect()
    }

    fn link_rows(&self, _now: Instant) -> Vec<LinkRow> {
        let row = |(node, session): (NodeId, &Session)| LinkRow {
            link: session.link.0,
            peer: session.peer.name.clone(),
            node: node.get(),
            endpoint: session.endpoint.to_string(),
            state: match session.health {
                LinkHealth::Up(_) => LinkState::Up,
                LinkHealth::New(_) | LinkHealth::Down(_) => LinkState::Down,
            },
            price_per_gb: self.config.price.as_f64(),
            ..LinkRow::default()
        };
        self.peers.sessions().map(row).collect()
    }

    fn path_rows(&self, _now: Instant, only: Option<NodeId>) -> Vec<PathRow> {
        let table = self.knowledge.table();
        let wanted = table.routes.iter().filter(|((node, _), _)| only.is_none_or(|o| o == *node));
        let row = |(&(node, class), route): (
            &(NodeId, crate::id::Class),
            &crate::route::table::Route,
        )| PathRow {
            destination: self.name_of(node),
            node: node.get(),
            class: self.class_name(class),
            primary: Some(self.path_view(&route.primary)),
            backup: route.backup.as_ref().map(|p| self.path_view(p)),
            ..PathRow::default()
        };
        wanted.map(row).collect()
    }

    pub(super) fn class_name(&self, class: crate::id::Class) -> String {
        let spec = self.config.classes.get(usize::from(class.0));
        spec.map_or_else(|| class.to_string(), |c| c.name.clone())
    }

    fn path_view(&self, path: &Path) -> PathView {
        PathView {
            link: path.link.0,
            nodes: path.nodes.iter().map(|&n| self.name_of(n)).collect(),
            ..PathView::default()
        }
    }
}

fn seconds(span: Duration) -> f64 {
    span.as_secs_f64()
}
