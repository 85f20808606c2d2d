//! The solver against exhaustive search, and the cases that name its rules.

use std::collections::BTreeSet;
use std::time::Duration;

use petgraph::graph::{EdgeIndex, NodeIndex};
use proptest::prelude::*;

use super::field::{Field, Seeker};
use super::*;
use crate::quality::{LinkQuality, LinkState};
use crate::rng::Dice;
use crate::route::cost;
use crate::route::policy::{Limits, Objective};
use crate::unit::{Price, Ratio};

fn n(number: u16) -> NodeId {
    NodeId::new(number).unwrap()
}

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

fn state(delay_us: u64, loss_ppm: u32, price: u32) -> LinkState {
    LinkState {
        price: Price(price),
        ..LinkState::measured(LinkQuality {
            delay: Duration::from_micros(delay_us),
            jitter: Duration::ZERO,
            loss: Ratio::from_ppm(loss_ppm),
        })
    }
}

/// Edges as (from, to, delay in ms, loss in ppm, price); node 1 is the source.
fn graph(nodes: &[(u16, bool)], edges: &[(u16, u16, u64, u32, u32)]) -> Graph {
    let mut graph = Graph::new(n(1));
    for &(id, relay) in nodes {
        graph.add_node(n(id), relay);
    }
    for (i, &(from, to, delay, loss, price)) in edges.iter().enumerate() {
        let link = (from == 1).then_some(LinkId(i as u16));
        assert!(graph.add_edge(n(from), n(to), link, state(delay * 1000, loss, price)));
    }
    graph
}

/// What a policy means where a node's name is its number.
fn terms(policy: &Policy) -> Terms {
    Terms::of(policy, |name| NodeId::new(name.parse().ok()?), false)
}

fn plain() -> Terms {
    terms(&Policy::default())
}

/// Every usable path by plain recursion over the list of edges: shares no code with the solver.
fn oracle(graph: &Graph, to: NodeId, terms: &Terms) -> Vec<(Vec<NodeId>, LinkId, Priced)> {
    fn walk(
        graph: &Graph,
        at: NodeId,
        to: NodeId,
        terms: &Terms,
        so_far: &(Vec<NodeId>, Option<LinkId>, Priced),
        found: &mut Vec<(Vec<NodeId>, LinkId, Priced)>,
    ) {
        for (from, next, edge) in graph.edges() {
            if from != at || next == graph.source() || so_far.0.contains(&next) {
                continue;
            }
            let mut path = so_far.clone();
            path.0.push(next);
            path.1 = path.1.or(edge.link);
            let priced = cost::price(&edge.state, terms.objective);
            let favoured = at != graph.source() && terms.prefer.contains(&at);
            path.2 = path.2.plus(if favoured { priced.favoured() } else { priced });
            if next == to {
                found.push((path.0, path.1.unwrap(), path.2));
            } else if path.0.len() < 3 && graph.node(next).unwrap().relay {
                walk(graph, next, to, terms, &path, found);
            }
        }
    }
    let mut found = Vec::new();
    walk(graph, graph.source(), to, terms, &(Vec::new(), None, Priced::NOTHING), &mut found);
    found
}

fn apart(a: &Candidate, nodes: &[NodeId], link: LinkId) -> bool {
    a.link != link
        && a.nodes[..a.nodes.len() - 1].iter().all(|r| !nodes[..nodes.len() - 1].contains(r))
}

/// A mesh of so many nodes with most links, every ninth node no relay.
fn mesh(nodes: u16, dice: &mut Dice) -> Graph {
    let all: Vec<_> = (2..=nodes).map(|id| (id, id % 9 != 0)).collect();
    let pairs = (1..=nodes).flat_map(|a| (1..=nodes).map(move |b| (a, b)));
    let mut edges = Vec::new();
    for (a, b) in pairs.filter(|(a, b)| a != b) {
        let (delay, loss, price) = (1 + dice.below(90), dice.below(4) * 500, dice.below(3));
        if dice.below(8) > 0 {
            edges.push((a, b, delay, loss as u32, price as u32));
        }
    }
    graph(&all, &edges)
}

#[test]
fn in_a_large_mesh_a_matrix_finds_what_the_graph_does() {
    let mesh = mesh(120, &mut Dice::new(7));
    let objectives = [Objective::Latency, Objective::Cost];
    let field = Field::of(&mesh, &objectives).expect("a large mesh");
    let tight = Limits {
        max_latency: Some(ms(14)),
        max_loss: Some(Ratio::from_ppm(1_000)),
        ..Limits::default()
    };
    for objective in objectives {
        for limits in [Limits::default(), tight] {
            let terms = mesh.terms(&Policy { objective, limits, ..Policy::default() });
            let seeker = Seeker::new(&mesh, &terms, Some(&field));
            let found = Solver::new(&mesh, &terms).solve();
            assert_eq!(found.len(), 119);
            for (node, solution) in found {
                let sought = seeker.best(node).unwrap();
                let figures = |c: &Candidate| (c.priced.cost, c.broken);
                assert_eq!(figures(&sought.best), figures(&solution.best), "to {node}");
                assert!(sought.backup.is_none_or(|b| apart(&sought.best, &b.nodes, b.link)));
                let backup = seeker.backup(&solution.best);
                let (theirs, ours) = (solution.backup.as_ref(), backup.as_ref());
                assert_eq!(ours.map(figures), theirs.map(figures), "backup to {node}");
            }
        }
    }
    let few = graph(&[(2, true)], &[(1, 2, 5, 0, 0)]);
    assert!(Field::of(&few, &objectives).is_none(), "a graph serves a small mesh");
}

#[test]
fn a_relay_that_is_faster_is_taken_and_direct_backs_it_up() {
    let graph =
        graph(&[(2, true), (3, false)], &[(1, 3, 80, 0, 0), (1, 2, 20, 0, 0), (2, 3, 20, 0, 0)]);
    let found = Solver::new(&graph, &plain()).solve();
    let solution = &found[&n(3)];
    assert_eq!(solution.best.nodes, [n(2), n(3)]);
    assert_eq!(solution.best.link, LinkId(1));
    assert_eq!(solution.best.path().delay, ms(40));
    assert_eq!(solution.backup.as_ref().unwrap().nodes, [n(3)]);
    assert_eq!(found[&n(2)].backup, None, "node 3 does not relay");
}

#[test]
fn a_node_without_consent_is_never_a_relay() {
    let graph =
        graph(&[(2, false), (3, true)], &[(1, 3, 80, 0, 0), (1, 2, 20, 0, 0), (2, 3, 20, 0, 0)]);
    let terms = plain();
    let solver = Solver::new(&graph, &terms);
    assert_eq!(solver.solve()[&n(3)].best.nodes, [n(3)]);
    assert_eq!(solver.weigh(LinkId(1), &[n(2), n(3)]), None);
    let shown = solver.explain(n(3), 8);
    assert_eq!(shown[0].rejected, None);
    assert_eq!(shown[1].rejected, Some(Rejection::NoConsent(n(2))));
}

#[test]
fn two_relays_are_used_and_three_are_not() {
    let ring = [(1, 2, 1, 0, 0), (2, 3, 1, 0, 0), (3, 4, 1, 0, 0), (4, 5, 1, 0, 0)];
    let all = [(2, true), (3, true), (4, true), (5, true)];
    let found = Solver::new(&graph(&all, &ring), &plain()).solve();
    assert_eq!(found[&n(4)].best.nodes, [n(2), n(3), n(4)]);
    assert!(!found.contains_key(&n(5)));
}

#[test]
fn the_forecast_decides_where_it_is_confident_and_the_present_where_it_is_not() {
    let state = |confidence| {
        let mut graph = Graph::new(n(1));
        graph.add_node(n(2), true);
        graph.add_node(n(3), true);
        let mut direct = state(10_000, 0, 0);
        direct.expected = Some(LinkQuality { delay: ms(60), ..direct.present });
        direct.confidence = confidence;
        let leg = super::tests::state(15_000, 0, 0);
        graph.add_edge(n(1), n(3), Some(LinkId(0)), direct);
        graph.add_edge(n(1), n(2), Some(LinkId(1)), leg);
        graph.add_edge(n(2), n(3), None, leg);
        Solver::new(&graph, &plain()).solve()[&n(3)].best.clone()
    };
    let trusted = state(Ratio::from_ppm(900_000));
    assert_eq!(trusted.nodes, [n(2), n(3)], "the direct link is about to become slow");
    let doubted = state(Ratio::from_ppm(100_000));
    assert_eq!((doubted.nodes.as_slice(), doubted.priced.forecast_hops), ([n(3)].as_slice(), 0));
}

#[test]
fn limits_turn_the_choice_and_the_least_evil_is_marked() {
    let edges = [
        (1, 3, 30, 0, 9),
        (1, 2, 5, 20_000, 0),
        (2, 3, 5, 20_000, 0),
        (1, 4, 60, 0, 1),
        (4, 3, 60, 0, 1),
    ];
    let graph = graph(&[(2, true), (3, true), (4, true)], &edges);
    let best = |limits| {
        let terms = terms(&Policy { objective: Objective::Cost, limits, ..Policy::default() });
        Solver::new(&graph, &terms).solve()[&n(3)].best.clone()
    };
    assert_eq!(best(Limits::default()).nodes, [n(2), n(3)], "free, though it loses");
    let clean = Limits { max_loss: Some(Ratio::from_ppm(1000)), ..Limits::default() };
    assert_eq!(best(clean).nodes, [n(4), n(3)]);
    let quick = Limits { max_latency: Some(ms(50)), ..clean };
    assert_eq!(best(quick).nodes, [n(3)]);
    let impossible = Limits { max_price: Some(Price(5)), ..quick };
    let evil = best(impossible);
    assert_eq!((evil.nodes, evil.broken), (vec![n(2), n(3)], Some(Limit::Loss)), "price is kept");
}

#[test]
fn a_node_to_avoid_relays_only_where_nothing_else_leads() {
    let edges = [(1, 3, 900, 0, 0), (1, 2, 5, 0, 0), (2, 3, 5, 0, 0), (2, 4, 5, 0, 0)];
    let graph = graph(&[(2, true), (3, false), (4, false)], &edges);
    let policy = Policy { avoid: vec!["2".into()], ..Policy::default() };
    let found = Solver::new(&graph, &terms(&policy)).solve();
    let way = |to: u16| {
        let best = &found[&n(to)].best;
        (best.nodes.iter().map(|n| n.get()).collect::<Vec<_>>(), best.broken)
    };
    assert_eq!(way(3), (vec![3], None), "however long the other way is");
    assert_eq!(found[&n(3)].backup.as_ref().unwrap().broken, Some(Limit::Avoid));
    assert_eq!(way(4), (vec![2, 4], Some(Limit::Avoid)));
    assert_eq!(way(2), (vec![2], None), "as a destination it is like any other");
    let strict = Policy { fallback: Fallback::Drop, ..policy };
    let strict = Solver::new(&graph, &terms(&strict)).solve();
    assert_eq!(strict[&n(3)].backup, None, "not for a moment");
}

#[test]
fn a_preferred_relay_wins_where_it_is_longer_by_no_more_than_5_ms() {
    let best = |prefer: &str, leg_ms| {
        let edges = [
            (1, 2, 20, 0, 0),
            (2, 3, 20, 0, 0),
            (1, 4, 20, 0, 0),
            (4, 3, leg_ms, 0, 0),
            (2, 4, 17, 0, 0),
        ];
        let graph = graph(&[(2, true), (3, false), (4, true)], &edges);
        let terms = terms(&Policy { prefer: vec![prefer.into()], ..Policy::default() });
        let found = Solver::new(&graph, &terms).solve();
        assert_eq!(found[&n(4)].best.nodes, [n(4)], "not as a destination");
        found[&n(3)].best.clone()
    };
    assert_eq!(best("4", 24).nodes, [n(4), n(3)]);
    assert_eq!(best("4", 24).priced.delay(), ms(44), "it is as long as it is");
    assert_eq!(best("4", 26).nodes, [n(2), n(3)]);
    assert_eq!(best("nobody", 24).nodes, [n(2), n(3)]);
}

#[test]
fn a_spent_budget_breaks_every_path_of_what_was_to_be_cheap_and_turns_none() {
    let edges = [(1, 3, 30, 0, 9), (1, 2, 5, 0, 0), (2, 3, 5, 0, 0)];
    let graph = graph(&[(2, true), (3, false)], &edges);
    let best = |objective, fallback| {
        let policy = Policy { objective, fallback, ..Policy::default() };
        let terms = Terms::of(&policy, |_| None, true);
        let best = Solver::new(&graph, &terms).solve()[&n(3)].best.clone();
        (best.nodes.len(), best.broken)
    };
    assert_eq!(best(Objective::Latency, Fallback::Direct), (2, None));
    assert_eq!(best(Objective::Cost, Fallback::Hold), (2, Some(Limit::Budget)));
    assert_eq!(best(Objective::Cost, Fallback::Direct), (1, Some(Limit::Budget)));
}

#[test]
fn parallel_links_back_each_other_up() {
    let graph = graph(&[(2, false)], &[(1, 2, 10, 0, 0), (1, 2, 30, 0, 0)]);
    let found = Solver::new(&graph, &plain()).solve();
    let solution = &found[&n(2)];
    assert_eq!(solution.best.link, LinkId(0));
    assert_eq!(solution.backup.as_ref().unwrap().link, LinkId(1));
}

prop_compose! {
    fn any_graph()(
        relays in proptest::collection::vec(any::<bool>(), 6),
        edges in proptest::collection::vec(
            (0..7u16, 0..7u16, 1..60u64, 0..4u32, 0..4u32, 0..12u64), 0..40),
    ) -> Graph {
        let mut graph = Graph::new(n(1));
        for (i, relay) in relays.iter().enumerate() {
            graph.add_node(n(i as u16 + 2), *relay);
        }
        let mut remote = BTreeSet::new();
        for (i, (from, to, delay, loss, price, jitter)) in edges.iter().enumerate() {
            if *from != 0 && !remote.insert((*from, *to)) {
                continue;
            }
            let link = (*from == 0).then_some(LinkId(i as u16));
            let mut state = state(delay * 500, loss * 7_000, price * 10);
            state.present.jitter = ms(*jitter);
            graph.add_edge(n(from + 1), n(to + 1), link, state);
        }
        graph
    }
}

prop_compose! {
    fn any_policy()(
        objective in 0..3usize,
        latency in proptest::option::of(1..80u64),
        jitter in proptest::option::of(1..20u64),
        loss in proptest::option::of(0..40_000u32),
        price in proptest::option::of(0..60u32),
        wishes in proptest::collection::vec(0..8u8, 6),
        fallback in 0..3usize,
    ) -> Policy {
        let wished = |what| {
            let names = (2..).zip(&wishes).filter(move |(_, wish)| **wish == what);
            names.map(|(node, _)| format!("{node}")).collect()
        };
        Policy {
            objective: Objective::ALL[objective],
            limits: Limits {
                max_latency: latency.map(ms),
                max_jitter: jitter.map(ms),
                max_loss: loss.map(Ratio::from_ppm),
                max_price: price.map(Price),
            },
            avoid: wished(0),
            prefer: wished(1),
            fallback: Fallback::ALL[fallback],
        }
    }
}

proptest! {
    #[test]
    fn best_and_backup_are_what_exhaustive_search_finds(
        graph in any_graph(), policy in any_policy(),
    ) {
        let terms = terms(&policy);
        let solver = Solver::new(&graph, &terms);
        let found = solver.solve();
        let bounds = terms.bounds;
        for node in graph.nodes().filter(|node| node.id != n(1)) {
            let all = oracle(&graph, node.id, &terms);
            let Some(solution) = found.get(&node.id) else {
                prop_assert!(all.is_empty(), "{} can be reached", node.id);
                continue;
            };
            let best = &solution.best;
            prop_assert!(
                all.iter().any(|(p, l, x)| best.is_way(*l, p) && *x == best.priced),
                "{best:?} is a path"
            );
            let shunned = |p: &[NodeId]| p[..p.len() - 1].iter().any(|r| terms.avoid.contains(r));
            let clean = all.iter().any(|(p, ..)| !shunned(p));
            let pool: Vec<_> = all.iter().filter(|(p, ..)| !clean || !shunned(p)).collect();
            let broken = if clean { best.priced.broken(&bounds) } else { Some(Limit::Avoid) };
            prop_assert_eq!(best.broken, broken);
            let kept = |x: &Priced| x.broken(&bounds).is_none();
            let least = |kept: &dyn Fn(&Priced) -> bool| {
                pool.iter().filter(|(_, _, x)| kept(x)).map(|(_, _, x)| x.cost).min()
            };
            let affordable = |x: &Priced| x.parts.money <= bounds.money;
            let direct = all.iter().filter(|(p, ..)| p.len() == 1).map(|(_, _, x)| x.cost).min();
            let direct = direct.filter(|_| terms.fallback == Fallback::Direct);
            if let Some(least) = least(&kept) {
                prop_assert_eq!((kept(&best.priced), best.priced.cost), (true, least));
            } else if let Some(direct) = direct {
                prop_assert_eq!((best.nodes.len(), best.priced.cost), (1, direct));
            } else if let Some(least) = least(&affordable) {
                prop_assert!(affordable(&best.priced));
                prop_assert_eq!(best.priced.cost, least);
            } else {
                let money = pool.iter().map(|(_, _, x)| (x.parts.money, x.cost)).min().unwrap();
                prop_assert_eq!((best.priced.parts.money, best.priced.cost), money);
            }
            let others: Vec<_> = all.iter().filter(|(p, l, _)| apart(best, p, *l)).collect();
            let clean = others.iter().any(|(p, ..)| !shunned(p));
            let pool: Vec<_> = others.iter().filter(|(p, ..)| !clean || !shunned(p)).collect();
            let within = pool.iter().filter(|(_, _, x)| kept(x)).map(|(_, _, x)| x.cost).min();
            let least = pool.iter().map(|(_, _, x)| x.cost).min();
            let strict = terms.fallback == Fallback::Drop;
            let wanted = if strict { within.filter(|_| clean) } else { within.or(least) };
            let backup = solution.backup.as_ref();
            prop_assert_eq!(backup.map(|b| b.priced.cost), wanted);
            prop_assert!(backup.is_none_or(|b| apart(best, &b.nodes, b.link)));
            prop_assert_eq!(solver.weigh(best.link, &best.nodes).map(|c| c.priced.cost), Some(best.priced.cost));
            let shown = solver.explain(node.id, 4);
            if best.broken.is_none() {
                prop_assert_eq!(shown[0].rejected, None);
                prop_assert_eq!(shown[0].candidate.priced.cost, best.priced.cost);
            }
        }
        prop_assert_eq!(solver.solve(), found, "the same question has one answer");
        let cost = |(to, edges): (NodeIndex<u32>, Vec<EdgeIndex<u32>>)| {
            (to, solver.candidate(&edges).priced.cost)
        };
        let layered: Vec<_> = layered::optima(&solver).into_iter().map(cost).collect();
        let matrix: Vec<_> = solver.optima_by_matrix().into_iter().map(cost).collect();
        prop_assert_eq!(layered, matrix, "one optimum, found two ways");
    }
}
