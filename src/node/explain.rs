//! Why packets go where they go: every path weighed, with the reason it was or was not taken.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use super::Node;
use super::knowledge::{Roll, Standing};
use crate::id::{Class, NodeId};
use crate::report::{self, Answer, CostPart, Explanation, LimitVerdict, PathView};
use crate::route::cost::{Bounds, Limit, Priced};
use crate::route::policy::{ClassSpec, Limits, Policy};
use crate::route::solve::{Candidate, Rejection, Solver, Weighed};
use crate::route::terms::Terms;
use crate::time::Instant;
use crate::topology::graph::Graph;
use crate::unit::Price;

/// Paths shown at most.
const SHOWN: usize = 16;
/// Protocols whose packets have ports (IANA's registry of protocol numbers).
const TCP: u8 = 6;
const UDP: u8 = 17;

/// Which packets to a destination are meant.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Asked<'a> {
    /// Those of this class; the rest is not looked at then.
    pub(super) class: Option<&'a str>,
    /// Those with this DSCP; 0 where none is given.
    pub(super) dscp: Option<u8>,
    /// Those of this transport protocol.
    pub(super) protocol: Option<u8>,
    /// Those with this port at one end.
    pub(super) port: Option<u16>,
}

impl Asked<'_> {
    /// That there is no class of this name.
    pub(super) fn unknown(&self) -> String {
        format!("no class is named `{}`", self.class.unwrap_or_default())
    }
}

impl Node {
    /// Answers `explain`.
    pub(super) fn explain(&self, now: Instant, asked: &str, packets: &Asked<'_>) -> Answer {
        let Some(node) = self.find(asked) else {
            return Answer::NotFound(format!("no node answers to `{asked}`"));
        };
        let address: Option<IpAddr> = asked.parse().ok();
        let Some((class, spec)) = self.class_of(node, address, packets) else {
            return Answer::NotFound(packets.unknown());
        };
        let roll = Roll { members: &self.members, peers: &self.peers };
        let graph = self.knowledge.graph(&roll);
        let terms = self.knowledge.terms(&spec.policy, &roll);
        let solver = Solver::new(&graph, &terms);
        let weighed = solver.explain(node, SHOWN);
        let table = self.knowledge.table();
        let route = table.lookup(node, class);
        if weighed.is_empty() && route.is_none() {
            return Answer::NotFound(format!("no path to {}", self.name_of(node)));
        }
        let standing = self.knowledge.standing(node, class);
        let (in_force, backup) = match route {
            Some(route) if standing.on_backup => (route.backup.as_ref(), Some(&route.primary)),
            Some(route) => (Some(&route.primary), route.backup.as_ref()),
            None => (None, None),
        };
        let place = |path: Option<&crate::route::table::Path>| {
            let path = path?;
            weighed.iter().position(|w| w.candidate.is_way(path.link, &path.nodes))
        };
        let prefix = address.and_then(|a| {
            let holding = table.owners().filter(|(net, _)| net.contains(&a)).map(|(net, _)| net);
            holding.max_by_key(|net| net.prefix_len())
        });
        let in_force_view = in_force.map(|p| self.path_view(p, &solver));
        let explanation = Explanation {
            asked: asked.to_owned(),
            destination: self.name_of(node),
            node: node.get(),
            prefix,
            class: spec.name.clone(),
            objective: spec.policy.objective.name().to_owned(),
            rule: super::survey::rule(spec),
            in_force: place(in_force),
            backup: place(backup),
            observe: self.config.observe,
            avoid: spec.policy.avoid.clone(),
            prefer: spec.policy.prefer.clone(),
            unknown: self.unknown_to(&spec.policy),
            fallback: spec.policy.fallback.name().to_owned(),
            withheld: standing.withheld,
            margin_ratio: self.config.margin.as_f64(),
            hold_down_left_s: standing.hold_down_left(now).map(|d| d.as_secs_f64()),
            recompute_in_s: Some(self.knowledge.recompute_at().since(now).as_secs_f64()),
            why: self.why(in_force_view.as_ref(), place(in_force), &weighed, standing),
            candidates: weighed
                .iter()
                .map(|w| self.candidate(w, &spec.policy.limits, &terms, &graph))
                .collect(),
        };
        Answer::Explain(Box::new(explanation))
    }

    /// Names that a policy avoids or prefers and that no node answers to: a slip of the pen, or a node
    /// that is not there yet.
    fn unknown_to(&self, policy: &Policy) -> Vec<String> {
        let roll = self.roll();
        let known = |name: &str| name == self.own.name || roll.named(name).is_some();
        let names: BTreeSet<&String> = policy.avoid.iter().chain(&policy.prefer).collect();
        names.into_iter().filter(|name| !known(name)).cloned().collect()
    }

    /// The class meant, by name or as such a packet to this destination would fall.
    pub(super) fn class_of(
        &self,
        node: NodeId,
        address: Option<IpAddr>,
        packets: &Asked<'_>,
    ) -> Option<(Class, &ClassSpec)> {
        let mut classes = (0..).map(Class).zip(&self.config.classes);
        if let Some(name) = packets.class {
            return classes.find(|(_, spec)| spec.name == name);
        }
        let address = address.or_else(|| {
            let roll = Roll { members: &self.members, peers: &self.peers };
            roll.certified(node)?.addresses.first().copied()
        });
        let &Asked { dscp, protocol, port, .. } = packets;
        let dscp = dscp.unwrap_or(0);
        let has_ports = protocol.is_none_or(|p| p == TCP || p == UDP);
        classes.find(|(_, spec)| {
            let m = &spec.matches;
            // What nothing was said of is what no class asks for.
            let within = |port| m.ports.iter().any(|&(low, high)| (low..=high).contains(&port));
            let of_protocol =
                m.protocols.is_empty() || protocol.is_some_and(|p| m.protocols.contains(&p));
            let of_port = m.ports.is_empty() || has_ports && port.is_some_and(within);
            let held = |a: IpAddr| m.prefixes.iter().any(|net| net.contains(&a));
            of_protocol
                && of_port
                && (m.prefixes.is_empty() || address.is_some_and(held))
                && (m.dscp.is_empty() || m.dscp.contains(&dscp))
        })
    }

    /// A path with what is expected of it now; nothing where a link of it was not measured.
    pub(super) fn path_view(
        &self,
        path: &crate::route::table::Path,
        solver: &Solver<'_>,
    ) -> PathView {
        let weighed = solver.weigh(path.link, &path.nodes);
        self.priced_view(path.link.0, &path.nodes, weighed.as_ref().map(|c| &c.priced))
    }

    fn priced_view(&self, link: u16, nodes: &[NodeId], priced: Option<&Priced>) -> PathView {
        PathView {
            link,
            nodes: nodes.iter().map(|&n| self.name_of(n)).collect(),
            delay_ms: priced.map(|p| p.delay().as_secs_f64() * 1e3),
            jitter_ms: priced.map(|p| p.jitter().as_secs_f64() * 1e3),
            loss_ratio: priced.map(|p| p.loss().as_f64()),
            price_per_gb: priced.map_or(0.0, |p| p.price().as_f64()),
        }
    }

    fn candidate(
        &self,
        weighed: &Weighed,
        limits: &Limits,
        terms: &Terms,
        graph: &Graph,
    ) -> report::Candidate {
        let c = &weighed.candidate;
        let parts = &c.priced.parts;
        let part = |name: &str, us: u64| CostPart { name: name.into(), value_ms: us as f64 / 1e3 };
        let favour =
            CostPart { name: "preferred".into(), value_ms: -(parts.preferred_us as f64) / 1e3 };
        let favour = (parts.preferred_us > 0).then_some(favour);
        report::Candidate {
            path: self.priced_view(c.link.0, &c.nodes, Some(&c.priced)),
            basis: if c.priced.forecast_hops > 0 { "forecast" } else { "measured" }.into(),
            hops: self.hops(graph, c.link, &c.nodes),
            costs: [
                part("delay", parts.delay_us),
                part("jitter", parts.jitter_us),
                part("repair", parts.repair_us),
                part("loss", parts.loss_us),
                part("hops", parts.hop_us),
            ]
            .into_iter()
            .chain(favour)
            .collect(),
            total_ms: parts.total_us() as f64 / 1e3,
            limits: self.verdicts(c, limits, terms),
            eligible: !matches!(
                weighed.rejected,
                Some(Rejection::Limit(_) | Rejection::NoConsent(_))
            ),
        }
    }

    /// The decision in one sentence.
    fn why(
        &self,
        in_force: Option<&PathView>,
        place: Option<usize>,
        weighed: &[Weighed],
        standing: Standing,
    ) -> String {
        let Some(view) = in_force else { return "no path is in force".into() };
        let way = match view.nodes.split_last() {
            Some((_, [])) => "directly".to_owned(),
            Some((_, relays)) => format!("over {}", relays.join(" and ")),
            None => return "no path is in force".into(),
        };
        let reason = standing.reason;
        if standing.withheld {
            return format!(
                "packets are dropped ({reason}): no path keeps the limits of their class; watched is the one \
                 {way}"
            );
        }
        let rank = match place {
            _ if weighed.is_empty() => "nothing on the way has been measured yet".to_owned(),
            None => "the path in force is not among those that can be weighed now".to_owned(),
            Some(0) => "no other path costs less".to_owned(),
            Some(place) if weighed[..place].iter().all(|w| w.rejected.is_some()) => {
                "no path that keeps the limits costs less".to_owned()
            }
            Some(place) => {
                let waits = if self.config.observe {
                    "observing only: nothing is moved"
                } else {
                    "which waits for the margin, the hold-down or the next recomputation"
                };
                let ahead = weighed[..place].iter().filter(|w| w.rejected.is_none()).count();
                let best = weighed[0].candidate.priced.cost;
                let own = weighed[place].candidate.priced.cost;
                let over = own.saturating_sub(best) as f64 / own.max(1) as f64 * 100.0;
                format!(
                    "{} cheaper by up to {over:.1} %, {waits}",
                    if ahead == 1 {
                        "one path is".to_owned()
                    } else {
                        format!("{ahead} paths are")
                    }
                )
            }
        };
        format!("traffic goes {way} ({reason}): {rank}")
    }

    /// Each limit that is set, against a path.
    fn verdicts(&self, path: &Candidate, limits: &Limits, terms: &Terms) -> Vec<LimitVerdict> {
        let priced = &path.priced;
        let mut verdicts = Vec::new();
        let mut say = |limit: Limit, bound: String, value: String, kept: bool| {
            verdicts.push(LimitVerdict { limit: limit.name().into(), bound, value, kept });
        };
        if !terms.avoid.is_empty() {
            let names = |nodes: &mut dyn Iterator<Item = &NodeId>| {
                nodes.map(|&node| self.name_of(node)).collect::<Vec<_>>().join(", ")
            };
            let relays = path.nodes.split_last().map_or(&[][..], |(_, relays)| relays);
            let crossed = names(&mut relays.iter().filter(|relay| terms.avoid.contains(relay)));
            let kept = crossed.is_empty();
            say(Limit::Avoid, names(&mut terms.avoid.iter()), crossed, kept);
        }
        let ms = |d: Duration| format!("{:.1} ms", d.as_secs_f64() * 1e3);
        if let Some(bound) = limits.max_latency {
            say(Limit::Latency, ms(bound), ms(priced.delay()), priced.delay() <= bound);
        }
        if let Some(bound) = limits.max_jitter {
            let alone = Bounds::of(&Limits { max_jitter: Some(bound), ..Limits::default() });
            let kept = priced.broken(&alone).is_none();
            say(Limit::Jitter, ms(bound), ms(priced.jitter()), kept);
        }
        if let Some(bound) = limits.max_loss {
            let kept = priced.loss() <= bound;
            say(Limit::Loss, bound.to_string(), priced.loss().to_string(), kept);
        }
        if let Some(bound) = limits.max_price {
            let per_gb = |p: Price| format!("{:.4} per GB", p.as_f64());
            let kept = priced.price() <= bound;
            say(Limit::Price, per_gb(bound), per_gb(priced.price()), kept);
        }
        if terms.spent {
            say(Limit::Budget, "of the month".into(), "all of it spent".into(), false);
        }
        verdicts
    }
}
