//! A policy in the words of the solver: nodes by number, limits in units that add, and which of two paths
//! that break limits is the lesser evil.

use std::collections::BTreeSet;

use crate::id::NodeId;
use crate::quality::LinkState;
use crate::route::cost::{self, Bounds, Limit, Priced};
use crate::route::policy::{Fallback, Objective, Policy};

/// What is asked of paths at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Terms {
    /// What is made best.
    pub objective: Objective,
    /// What must be kept and adds along a path.
    pub bounds: Bounds,
    /// Relays only where nothing else leads to the destination.
    pub avoid: BTreeSet<NodeId>,
    /// Relays that are favoured.
    pub prefer: BTreeSet<NodeId>,
    /// What becomes of packets where no path keeps all of it.
    pub fallback: Fallback,
    /// Whether the month's money is spent and these packets were to be cheap: then no path keeps the
    /// limits.
    pub spent: bool,
}

impl Terms {
    /// What a policy means now: `named` gives the number of a node, where it is known (one that is not
    /// carries nothing either), `spent` is whether this node's money for the month is spent.
    pub fn of(policy: &Policy, named: impl Fn(&str) -> Option<NodeId>, spent: bool) -> Self {
        let numbers = |names: &[String]| names.iter().filter_map(|name| named(name)).collect();
        let thrifty = policy.objective == Objective::Cost || policy.limits.max_price.is_some();
        Self {
            objective: policy.objective,
            bounds: Bounds::of(&policy.limits),
            avoid: numbers(&policy.avoid),
            prefer: numbers(&policy.prefer),
            fallback: policy.fallback,
            spent: spent && thrifty,
        }
    }

    /// What an edge costs that leaves this relay, or the source where there is none.
    pub fn price(&self, relay: Option<NodeId>, state: &LinkState) -> Priced {
        let priced = cost::price(state, self.objective);
        let preferred = relay.is_some_and(|relay| self.prefer.contains(&relay));
        if preferred { priced.favoured() } else { priced }
    }

    /// The first limit that is not kept by a path over these nodes, the last of which is its destination.
    pub fn broken(&self, nodes: &[NodeId], priced: &Priced) -> Option<Limit> {
        let (_, relays) = nodes.split_last()?;
        if relays.iter().any(|relay| self.avoid.contains(relay)) {
            return Some(Limit::Avoid);
        }
        priced.broken(&self.bounds).or_else(|| self.spent.then_some(Limit::Budget))
    }

    /// How bad a path is by the limit it breaks: less is better whatever it costs, and between equals the
    /// cost decides.
    pub fn evil(&self, nodes: &[NodeId], broken: Option<Limit>) -> u8 {
        match broken {
            None => 0,
            Some(_) if self.fallback == Fallback::Direct && nodes.len() == 1 => 1,
            Some(Limit::Budget) => 2,
            Some(Limit::Latency | Limit::Jitter | Limit::Loss | Limit::Price) => 3,
            Some(Limit::Avoid) => 4,
        }
    }

    /// Whether packets are rather dropped than sent over a path that breaks this.
    pub fn withholds(&self, broken: Option<Limit>) -> bool {
        self.fallback == Fallback::Drop && broken.is_some()
    }
}
