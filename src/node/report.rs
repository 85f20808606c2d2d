//! What an operator sees: the node's state in the words of [`crate::report`].
//!
//! Nothing is invented here: what was not measured is `None`, what is too old is marked stale. What
//! only the driver knows (packets, bytes, drops) it adds from the forwarder's counters.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::Node;
use super::explain::Asked;
use super::knowledge::Roll;
use super::peers::{LinkHealth, Session};
use crate::control::carried_to;
use crate::id::{Class, NodeId};
use crate::report::{
    Answer, Command, Events, LinkRow, LinkState, PathRow, PeerRow, PeerState, Report, Status,
};
use crate::route::solve::Solver;
use crate::session::trust::Certified;
use crate::time::Instant;

impl Node {
    pub(super) fn answer(&self, now: Instant, command: &Command) -> Answer {
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
            Command::Explain { destination, class, dscp, protocol, port } => {
                let (class, dscp, protocol, port) = (class.as_deref(), *dscp, *protocol, *port);
                self.explain(now, destination, &Asked { class, dscp, protocol, port })
            }
            Command::Report => Answer::Report(Box::new(Report {
                status: self.status(now),
                peers: self.peer_rows(now),
                links: self.link_rows(now),
                paths: self.path_rows(now, None),
            })),
            Command::Matrix => Answer::Matrix(self.matrix()),
            Command::Trace { destination, class, dscp, protocol, port } => {
                let (class, dscp, protocol, port) = (class.as_deref(), *dscp, *protocol, *port);
                self.trace(destination, &Asked { class, dscp, protocol, port })
            }
            Command::Ping { destination, dscp } => self.echo(destination, *dscp),
            // The driver's: counters, the log of events, and the file, which the node has never seen.
            Command::Drops => Answer::Drops(Vec::new()),
            Command::Events { .. } => Answer::Events(Events::default()),
            Command::Reload => Answer::NotFound("this node was not started from a file".into()),
        }
    }

    /// The node meant by a name, an address, or a number.
    pub(super) fn find(&self, asked: &str) -> Option<NodeId> {
        let own = (asked == self.own.name).then_some(self.own.node);
        let named = own.or_else(|| self.members.by_name(asked)).or_else(|| {
            self.peers.sessions().find(|(_, s)| s.peer.name == asked).map(|(node, _)| node)
        });
        let addressed = || self.knowledge.table().owner(asked.parse().ok()?);
        let numbered = || {
            let number = asked.strip_prefix('n').unwrap_or(asked);
            NodeId::new(number.parse().ok()?).filter(|&n| self.roll().certified(n).is_some())
        };
        named.or_else(addressed).or_else(numbered)
    }

    pub(super) fn roll(&self) -> Roll<'_> {
        Roll { members: &self.members, peers: &self.peers }
    }

    /// A node's name, or its number where that is not known.
    pub fn name_of(&self, node: NodeId) -> String {
        if node == self.own.node {
            return self.own.name.clone();
        }
        self.roll().certified(node).map_or_else(|| node.to_string(), |c| c.name.clone())
    }

    fn status(&self, now: Instant) -> Status {
        let sessions = || self.peers.sessions().map(|(_, s)| s);
        let table = self.knowledge.table();
        let reachable: BTreeSet<NodeId> = table.routes.keys().map(|&(node, _)| node).collect();
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
            recomputed_ago_s: self.knowledge.recomputed_at().map(|at| seconds(now.since(at))),
            recompute_in_s: Some(seconds(self.knowledge.recompute_at().since(now))),
            refused: self.refused.iter().map(|(&why, &n)| (why.to_owned(), n)).collect(),
            path_switches: self.path_switches(),
            ..Status::default()
        }
    }

    fn path_switches(&self) -> BTreeMap<String, BTreeMap<String, u64>> {
        let mut switches: BTreeMap<String, BTreeMap<String, u64>> = BTreeMap::new();
        for (class, why, count) in self.knowledge.switches() {
            switches.entry(self.class_name(class)).or_default().insert(why.to_owned(), count);
        }
        switches
    }

    fn peer_rows(&self, now: Instant) -> Vec<PeerRow> {
        let members = self.members.iter().map(|(node, m)| (node, &m.record.certified));
        let sessions = self.peers.sessions().map(|(node, s)| (node, &s.peer));
        let known: BTreeMap<NodeId, &Certified> = members.chain(sessions).collect();
        let row = |(node, certified): (NodeId, &Certified)| {
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
                endpoints: endpoints
                    .map(|e| carried_to(e).map_or_else(|| e.to_string(), |_| "overlay".to_owned()))
                    .collect(),
                session_age_s: session.map(|s| seconds(now.since(s.since))),
                record_age_s: self.knowledge.record_age(node, now).map(seconds),
                links_up: u32::from(session.is_some_and(Session::is_up)),
                last_error: self.dialler.error(&certified.name).map(str::to_owned),
                held: None,
            }
        };
        known.into_iter().map(row).collect()
    }

    fn link_rows(&self, now: Instant) -> Vec<LinkRow> {
        let row = |(node, session): (NodeId, &Session)| {
            let mut row = LinkRow {
                link: session.link.0,
                peer: session.peer.name.clone(),
                node: node.get(),
                endpoint: session.endpoint.to_string(),
                lanes: session.lanes,
                state: match session.health {
                    LinkHealth::Up(_) => LinkState::Up,
                    LinkHealth::New(_) | LinkHealth::Down(_) => LinkState::Down,
                },
                price_per_gb: self.config.price.as_f64(),
                ..LinkRow::default()
            };
            self.knowledge.fill_row(now, session.link, &mut row);
            row
        };
        self.peers.sessions().filter(|(_, s)| !s.is_carried()).map(row).collect()
    }

    fn path_rows(&self, now: Instant, only: Option<NodeId>) -> Vec<PathRow> {
        let table = self.knowledge.table();
        let graph = self.knowledge.graph(&self.roll());
        let mut rows = Vec::new();
        for (class, spec) in (0..).map(Class).zip(&self.config.classes) {
            let terms = self.knowledge.terms(&spec.policy, &self.roll());
            let solver = Solver::new(&graph, &terms);
            let of_class = table
                .routes
                .iter()
                .filter(|((node, c), _)| *c == class && only.is_none_or(|wanted| wanted == *node));
            for (&(node, _), route) in of_class {
                let standing = self.knowledge.standing(node, class);
                let row = PathRow {
                    destination: self.name_of(node),
                    node: node.get(),
                    class: spec.name.clone(),
                    primary: Some(self.path_view(&route.primary, &solver)),
                    backup: route.backup.as_ref().map(|p| self.path_view(p, &solver)),
                    on_backup: standing.on_backup,
                    withheld: standing.withheld,
                    outside_limits: standing.outside_limits,
                    reason: standing.reason.to_owned(),
                    changed_ago_s: standing.changed_at.map(|at| seconds(now.since(at))),
                    changes: standing.changes,
                };
                rows.push(((node, class), row));
            }
        }
        rows.sort_by_key(|(key, _)| *key);
        rows.into_iter().map(|(_, row)| row).collect()
    }

    /// A class's name.
    pub fn class_name(&self, class: Class) -> String {
        let spec = self.config.classes.get(usize::from(class.0));
        spec.map_or_else(|| class.to_string(), |c| c.name.clone())
    }
}

fn seconds(span: Duration) -> f64 {
    span.as_secs_f64()
}
