//! The mesh and its paths hop by hop, as an operator asks for them.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::Node;
use super::explain::Asked;
use crate::id::{LinkId, NodeId};
use crate::quality::LinkState;
use crate::report::{Answer, Echo, Matrix, MatrixNode, Stretch, Trace};
use crate::route::policy::ClassSpec;
use crate::route::solve::Solver;
use crate::topology::graph::Graph;

/// The protocols of echoes (IANA's registry of protocol numbers).
const ICMP: u8 = 1;
const ICMPV6: u8 = 58;

impl Node {
    /// Answers `matrix`.
    pub(super) fn matrix(&self) -> Matrix {
        let members = self.members.iter().map(|(node, m)| (node, m.record.certified.name.clone()));
        let sessions = self.peers.sessions().map(|(node, s)| (node, s.peer.name.clone()));
        let own = (self.own.node, self.own.name.clone());
        let names: BTreeMap<NodeId, String> = members.chain(sessions).chain([own]).collect();
        let graph = self.knowledge.graph(&self.roll());
        let mut links: Vec<_> = graph.edges().map(|(a, b, edge)| ((a, b), edge.state)).collect();
        links.sort_by_key(|(ends, _)| *ends);
        Matrix {
            links: links.iter().map(|((a, b), state)| self.stretch(*a, *b, Some(state))).collect(),
            nodes: names
                .into_iter()
                .map(|(node, name)| MatrixNode { name, node: node.get(), relay: self.relays(node) })
                .collect(),
        }
    }

    /// Whether a node carries others' packets, as far as it says and may.
    fn relays(&self, node: NodeId) -> bool {
        if node == self.own.node {
            return self.config.relay && self.own.relay;
        }
        let roll = self.roll();
        roll.certified(node).is_some_and(|c| c.relay) && self.knowledge.consents(node)
    }

    /// Answers `trace`.
    pub(super) fn trace(&self, asked: &str, packets: &Asked<'_>) -> Answer {
        let Some(node) = self.find(asked) else {
            return Answer::NotFound(format!("no node answers to `{asked}`"));
        };
        let address: Option<IpAddr> = asked.parse().ok();
        let Some((class, spec)) = self.class_of(node, address, packets) else {
            return Answer::NotFound(packets.unknown());
        };
        let table = self.knowledge.table();
        let Some(route) = table.lookup(node, class) else {
            return Answer::NotFound(format!("no path to {}", self.name_of(node)));
        };
        let on_backup = self.knowledge.standing(node, class).on_backup;
        let path = route.backup.as_ref().filter(|_| on_backup).unwrap_or(&route.primary);
        let graph = self.knowledge.graph(&self.roll());
        let terms = self.knowledge.terms(&spec.policy, &self.roll());
        Answer::Trace(Box::new(Trace {
            destination: self.name_of(node),
            node: node.get(),
            class: spec.name.clone(),
            on_backup,
            hops: self.hops(&graph, path.link, &path.nodes),
            path: self.path_view(path, &Solver::new(&graph, &terms)),
        }))
    }

    /// Prepares the answer to `ping`: whom to ask, and over which path.
    pub(super) fn echo(&self, asked: &str, dscp: Option<u8>) -> Answer {
        let Some(node) = self.find(asked) else {
            return Answer::NotFound(format!("no node answers to `{asked}`"));
        };
        let own = (node == self.own.node).then_some(&self.own);
        let roll = self.roll();
        let certified = own.or_else(|| roll.certified(node));
        let first = || certified.and_then(|c| c.addresses.first().copied());
        let address = asked.parse().ok().or_else(first);
        let protocol = address.map(|a: IpAddr| if a.is_ipv4() { ICMP } else { ICMPV6 });
        let packets = Asked { dscp, protocol, ..Asked::default() };
        let Some((class, spec)) = self.class_of(node, address, &packets) else {
            return Answer::NotFound("no class takes it".into());
        };
        let graph = self.knowledge.graph(&roll);
        let terms = self.knowledge.terms(&spec.policy, &roll);
        let table = self.knowledge.table();
        let on_backup = self.knowledge.standing(node, class).on_backup;
        let path = table.lookup(node, class).map(|route| {
            let path = route.backup.as_ref().filter(|_| on_backup).unwrap_or(&route.primary);
            self.path_view(path, &Solver::new(&graph, &terms))
        });
        Answer::Ping(Box::new(Echo {
            destination: self.name_of(node),
            node: node.get(),
            address,
            class: spec.name.clone(),
            path,
            rtt_ms: None,
            why: None,
        }))
    }

    /// The hops of a path from here, each with what is known of it now.
    pub(super) fn hops(&self, graph: &Graph, link: LinkId, nodes: &[NodeId]) -> Vec<Stretch> {
        let ends = std::iter::once(self.own.node).chain(nodes.iter().copied());
        let ends: Vec<NodeId> = ends.collect();
        let hop = |pair: &[NodeId]| {
            let (a, b) = (pair[0], pair[1]);
            let ours = a == self.own.node;
            let edge = graph.edges().find(|(from, to, edge)| {
                (*from, *to) == (a, b) && (!ours || edge.link == Some(link))
            });
            self.stretch(a, b, edge.map(|(_, _, edge)| &edge.state))
        };
        ends.windows(2).map(hop).collect()
    }

    fn stretch(&self, from: NodeId, to: NodeId, state: Option<&LinkState>) -> Stretch {
        let ms = |span: std::time::Duration| span.as_secs_f64() * 1e3;
        let expected = state.and_then(|s| s.expected);
        Stretch {
            from: self.name_of(from),
            to: self.name_of(to),
            delay_ms: state.map(|s| ms(s.present.delay)),
            jitter_ms: state.map(|s| ms(s.present.jitter)),
            loss_ratio: state.map(|s| s.present.loss.as_f64()),
            residual_ratio: state.and_then(|s| s.residual).map(|r| r.as_f64()),
            forecast_ms: expected.map(|e| ms(e.delay)),
            confidence_ratio: expected.and(state).map(|s| s.confidence.as_f64()),
            price_per_gb: state.map(|s| s.price.as_f64()),
        }
    }
}

/// The rule by which packets fall into a class, in words.
pub(super) fn rule(spec: &ClassSpec) -> String {
    let mut parts = Vec::new();
    if !spec.matches.prefixes.is_empty() {
        let nets: Vec<_> = spec.matches.prefixes.iter().map(ToString::to_string).collect();
        parts.push(format!("to {}", nets.join(", ")));
    }
    if !spec.matches.dscp.is_empty() {
        let points: Vec<_> = spec.matches.dscp.iter().map(ToString::to_string).collect();
        parts.push(format!("with DSCP {}", points.join(", ")));
    }
    if !spec.matches.protocols.is_empty() {
        let numbers: Vec<_> = spec.matches.protocols.iter().map(ToString::to_string).collect();
        parts.push(format!("of protocol {}", numbers.join(", ")));
    }
    if !spec.matches.ports.is_empty() {
        let range = |&(low, high): &(u16, u16)| {
            if low == high { low.to_string() } else { format!("{low}-{high}") }
        };
        let ranges: Vec<_> = spec.matches.ports.iter().map(range).collect();
        parts.push(format!("with port {}", ranges.join(", ")));
    }
    match parts.as_slice() {
        [] => format!("[[class]] `{}` takes everything that no class before it took", spec.name),
        parts => format!("[[class]] `{}` takes packets {}", spec.name, parts.join(" ")),
    }
}
