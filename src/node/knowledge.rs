//! What the node knows of links and paths, and the table that comes of it.
//!
//! The way of knowledge: probe → topology → route. This file holds the mechanisms side by side and
//! passes each one's news to the next.

use std::sync::Arc;

use std::collections::BTreeMap;
use std::time::Duration;

use super::NodeConfig;
use super::peers::Session;
use crate::control::message::DigestEntry;
use crate::forward::event::{FlipReason, ForwardEvent, ProbeRequest};
use crate::id::{Class, LinkId, NodeId};
use crate::rng::Dice;
use crate::route::table::{Path, Route, RouteTable};
use crate::session::trust::Certified;
use crate::time::{Deadline, Instant};
use crate::unit::Price;

/// Probes, link state and routes of this node.
#[derive(Debug)]
pub(super) struct Knowledge {
    classes: u8,
    links: BTreeMap<LinkId, (Certified, bool)>,
    table: Arc<RouteTable>,
}

impl Knowledge {
    pub(super) fn new(
        config: &NodeConfig,
        _own: &Certified,
        _boot: u64,
        _dice: Dice,
        _now: Instant,
    ) -> Self {
        Self {
            classes: config.classes.len().min(Class::LIMIT) as u8,
            links: BTreeMap::new(),
            table: RouteTable::empty(),
        }
    }

    fn rebuild(&mut self) {
        let mut table = RouteTable { generation: self.table.generation + 1, ..Default::default() };
        for (&link, (peer, up)) in &self.links {
            for net in peer.networks() {
                table.prefixes.insert(net, peer.node);
            }
            if !up {
                continue;
            }
            for class in 0..self.classes {
                let primary = Path { link, nodes: vec![peer.node], delay: Duration::ZERO };
                table.routes.insert((peer.node, Class(class)), Route { primary, backup: None });
            }
        }
        self.table = Arc::new(table);
    }
}

impl Knowledge {
    /// Keys with a peer came into force.
    pub(super) fn on_session(&mut self, _now: Instant, session: &Session) {
        self.links.insert(session.link, (session.peer.clone(), false));
        self.rebuild();
    }

    /// The session on this link is over.
    pub(super) fn on_session_ended(&mut self, _now: Instant, link: LinkId) {
        self.links.remove(&link);
        self.rebuild();
    }

    /// The forwarder holds a link for up or down.
    pub(super) fn on_link(&mut self, _now: Instant, link: LinkId, up: bool) {
        if let Some((_, state)) = self.links.get_mut(&link) {
            *state = up;
            self.rebuild();
        }
    }

    /// The price of sending changed.
    pub(super) fn on_price(&mut self, _now: Instant, _price: Price) {}

    /// The forwarder moved a route by itself.
    pub(super) fn on_flipped(
        &mut self,
        _now: Instant,
        _destination: NodeId,
        _class: Class,
        _to_backup: bool,
        _why: FlipReason,
    ) {
    }

    /// A reading.
    pub(super) fn on_measured(&mut self, _now: Instant, _event: &ForwardEvent) {}

    /// The clock reached `now`.
    pub(super) fn handle_timeout(&mut self, _now: Instant) {}

    /// When the clock matters next.
    pub(super) fn poll_timeout(&self) -> Option<Deadline> {
        None
    }

    /// A probe to be sent.
    pub(super) fn poll_probe(&mut self) -> Option<ProbeRequest> {
        None
    }

    /// The table in force.
    pub(super) fn table(&self) -> Arc<RouteTable> {
        self.table.clone()
    }

    /// The link state held.
    pub(super) fn digest(&self) -> Vec<DigestEntry> {
        Vec::new()
    }

    /// A node's record.
    pub(super) fn lsa(&self, _node: NodeId) -> Option<Vec<u8>> {
        None
    }
}
