//! Why packets go where they go: every path weighed, with the reason it was or was not taken.

use std::net::IpAddr;

use super::Node;
use super::knowledge::Roll;
use crate::id::{Class, NodeId};
use crate::report::{self, Answer, CostPart, Explanation, LimitVerdict, PathView};
use crate::route::cost::{Bounds, Priced};
use crate::route::policy::{ClassSpec, Limits};
use crate::route::solve::{Rejection, Solver, Weighed};
use crate::time::Instant;
use crate::topology::graph::Graph;

/// Paths shown at most.
const SHOWN: usize = 16;

impl Node {
    /// Answers `explain`.
    pub(super) fn explain(
        &self,
        now: Instant,
        asked: &str,
        class: Option<&str>,
        dscp: Option<u8>,
    ) -> Answer {
        let Some(node) = self.find(asked) else {
            return Answer::NotFound(format!("no node answers to `{asked}`"));
        };
        let address: Option<IpAddr> = asked.parse().ok();
        let Some((class, spec)) = self.class_of(node, address, class, dscp) else {
            return Answer::NotFound(format!("no class is named `{}`", class.unwrap_or_default()));
        };
        let roll = Roll { members: &self.members, peers: &self.peers };
        let graph = self.knowledge.graph(&roll);
        let solver = Solver::new(&graph, &spec.policy);
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
            margin_ratio: self.config.margin.as_f64(),
            hold_down_left_s: standing.hold_down_left(now).map(|d| d.as_secs_f64()),
            recompute_in_s: Some(self.knowledge.recompute_at().since(now).as_secs_f64()),
            why: self.why(in_force_view.as_ref(), place(in_force), &weighed, standing.reason),
            candidates: weighed
                .iter()
                .map(|w| self.candidate(w, &spec.policy.limits, &graph))
                .collect(),
        };
        Answer::Explain(Box::new(explanation))
    }

    /// The class meant, by name or as a packet of this mark to this destination would fall.
    pub(super) fn class_of(
        &self,
        node: NodeId,
        address: Option<IpAddr>,
        name: Option<&str>,
        dscp: Option<u8>,
    ) -> Option<(Class, &ClassSpec)> {
        let mut classes = (0..).map(Class).zip(&self.config.classes);
        if let Some(name) = name {
            return classes.find(|(_, spec)| spec.name == name);
        }
        let address = address.or_else(|| {
            let roll = Roll { members: &self.members, peers: &self.peers };
            roll.certified(node)?.addresses.first().copied()
        });
        let dscp = dscp.unwrap_or(0);
        classes.find(|(_, spec)| {
            let m = &spec.matches;
            // Nothing was said of these: a class that asks for them is meant only by its name.
            if !m.ports.is_empty() || !m.protocols.is_empty() {
                return false;
            }
            let held = |a: IpAddr| m.prefixes.iter().any(|net| net.contains(&a));
            (m.prefixes.is_empty() || address.is_some_and(held))
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

    fn candidate(&self, weighed: &Weighed, limits: &Limits, graph: &Graph) -> report::Candidate {
        let c = &weighed.candidate;
        let parts = &c.priced.parts;
        let part = |name: &str, us: u64| CostPart { name: name.into(), value_ms: us as f64 / 1e3 };
        report::Candidate {
            path: self.priced_view(c.link.0, &c.nodes, Some(&c.priced)),
            basis: if c.priced.forecast_hops > 0 { "forecast" } else { "measured" }.into(),
            hops: self.hops(graph, c.link, &c.nodes),
            costs: vec![
                part("delay", parts.delay_us),
                part("jitter", parts.jitter_us),
                part("repair", parts.repair_us),
                part("loss", parts.loss_us),
                part("hops", parts.hop_us),
            ],
            total_ms: parts.total_us() as f64 / 1e3,
            limits: verdicts(&c.priced, limits),
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
        reason: &str,
    ) -> String {
        let Some(view) = in_force else { return "no path is in force".into() };
        let way = match view.nodes.split_last() {
            Some((_, [])) => "directly".to_owned(),
            Some((_, relays)) => format!("over {}", relays.join(" and ")),
            None => return "no path is in force".into(),
        };
        let rank = match place {
            _ if weighed.is_empty() => "nothing on the way has been measured yet".to_owned(),
            None => "the path in force is not among those that can be weighed now".to_owned(),
            Some(0) => "no other path costs less".to_owned(),
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
}

/// Each limit that is set, against a path.
fn verdicts(priced: &Priced, limits: &Limits) -> Vec<LimitVerdict> {
    let mut verdicts = Vec::new();
    let mut say = |limit: &str, bound: String, value: String, kept: bool| {
        verdicts.push(LimitVerdict { limit: limit.into(), bound, value, kept });
    };
    if let Some(bound) = limits.max_latency {
        let ms = |d: std::time::Duration| format!("{:.1} ms", d.as_secs_f64() * 1e3);
        say("max_latency", ms(bound), ms(priced.delay()), priced.delay() <= bound);
    }
    if let Some(bound) = limits.max_jitter {
        let ms = |d: std::time::Duration| format!("{:.1} ms", d.as_secs_f64() * 1e3);
        let alone = Bounds::of(&Limits { max_jitter: Some(bound), ..Limits::default() });
        say("max_jitter", ms(bound), ms(priced.jitter()), priced.broken(&alone).is_none());
    }
    if let Some(bound) = limits.max_loss {
        say("max_loss", bound.to_string(), priced.loss().to_string(), priced.loss() <= bound);
    }
    if let Some(bound) = limits.max_price {
        let per_gb = |p: crate::unit::Price| format!("{:.4} per GB", p.as_f64());
        say("max_price", per_gb(bound), per_gb(priced.price()), priced.price() <= bound);
    }
    verdicts
}
