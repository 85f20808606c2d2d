//! The operator decided anew while the node runs.
//!
//! Everything is taken over in one turn: the routes under the new classes and the classes themselves
//! go to the forwarders in one snapshot. Sessions, links, readings and counters stay.

use std::sync::Arc;
use std::time::Duration;

use super::{Node, NodeConfig};
use crate::forward::snapshot::Tuning;
use crate::id::Class;
use crate::time::Instant;

/// How long packets are still relayed after the consent was taken back: the others have heard of it
/// by then, and moved their paths without losing one.
const RELAY_GRACE: Duration = Duration::from_secs(10);

impl Node {
    /// The operator's decisions are these from now on. What a node has for life stays as it was
    /// (lanes, expiry of members, boot counter). `max_rate_bps` goes to the forwarders.
    pub fn handle_config(&mut self, now: Instant, config: NodeConfig, max_rate_bps: Option<u64>) {
        let config = NodeConfig {
            lanes: self.config.lanes,
            member_expiry: self.config.member_expiry,
            boot_floor: self.config.boot_floor,
            ..config
        };
        let old = std::mem::replace(&mut self.config, config);
        for seed in old.seeds.iter().filter(|s| self.config.seeds.iter().all(|n| n.name != s.name))
        {
            self.dialler.drop_seed(&seed.name);
        }
        let fresh = self.config.seeds.iter().filter(|s| !old.seeds.contains(s));
        for seed in fresh.filter(|s| s.name != self.own.name) {
            self.dialler.add_seed(&seed.name, &seed.endpoints, now);
        }
        let relayed = self.tuning.as_ref().map_or(old.relay, |t| t.relay) && self.own.relay;
        let relays = self.config.relay && self.own.relay;
        self.relay_ends_at = match self.relay_ends_at {
            _ if relays || !relayed => None,
            before => before.or(Some(now.plus(RELAY_GRACE))),
        };
        self.tuning = Some(Arc::new(Tuning {
            classes: self.config.classes.clone(),
            relay: relays || relayed,
            max_rate_bps,
        }));
        let named = |name: &str| old.classes.iter().position(|c| c.name == name);
        let before = self.config.classes.iter().take(Class::LIMIT);
        let before: Vec<Option<Class>> =
            before.map(|c| named(&c.name).map(|at| Class(at as u8))).collect();
        let rules = |c: &NodeConfig| (c.recompute, c.margin, c.hold_down, c.use_relays, c.observe);
        let redecide = old.classes != self.config.classes || rules(&old) != rules(&self.config);
        self.knowledge.on_config(now, &self.config, &before, redecide);
        if old.advertise != self.config.advertise {
            self.advertise_anew(now);
        }
        self.snapshot_due = true;
        self.settle(now);
    }

    /// A consent that was taken back ends for the forwarders too.
    pub(super) fn end_relaying(&mut self, now: Instant) {
        if self.relay_ends_at.is_none_or(|at| at > now) {
            return;
        }
        self.relay_ends_at = None;
        if let Some(tuning) = &self.tuning {
            self.tuning = Some(Arc::new(Tuning { relay: false, ..Tuning::clone(tuning) }));
            self.snapshot_due = true;
        }
    }
}
