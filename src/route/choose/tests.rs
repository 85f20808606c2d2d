//! When traffic moves and when it does not.

use super::*;
use crate::id::LinkId;
use crate::quality::{LinkQuality, LinkState};
use crate::route::policy::Limits;
use crate::topology::graph::Graph;
use crate::unit::Price;

fn n(number: u16) -> NodeId {
    NodeId::new(number).unwrap()
}

fn at(seconds: u64) -> Instant {
    Instant::ZERO.plus(Duration::from_secs(1000 + seconds))
}

fn state(delay_ms: u64) -> LinkState {
    LinkState::measured(LinkQuality {
        delay: Duration::from_millis(delay_ms),
        jitter: Duration::ZERO,
        loss: Ratio::ZERO,
    })
}

/// Node 1 reaches node 3 directly and over relay 2; a delay of zero is no link.
fn graph(direct_ms: u64, first_ms: u64, second_ms: u64) -> Graph {
    let mut graph = Graph::new(n(1));
    graph.add_node(n(2), true);
    graph.add_node(n(3), true);
    let edges = [
        (1, 3, Some(LinkId(0)), direct_ms),
        (1, 2, Some(LinkId(1)), first_ms),
        (2, 3, None, second_ms),
    ];
    for (from, to, link, delay_ms) in edges.into_iter().filter(|e| e.3 > 0) {
        graph.add_edge(n(from), n(to), link, state(delay_ms));
    }
    graph
}

/// A graph whose nodes are named by their numbers, seen by a node that has spent its money, or not.
struct Named(Graph, bool);

impl Map for Named {
    fn source(&self) -> NodeId {
        Graph::source(&self.0)
    }
    fn nodes(&self) -> Vec<NodeId> {
        Map::nodes(&self.0)
    }
    fn lives(&self, node: NodeId) -> bool {
        self.0.lives(node)
    }
    fn relays(&self, node: NodeId) -> bool {
        self.0.relays(node)
    }
    fn edge(&self, from: NodeId, to: NodeId, link: LinkId) -> Option<LinkState> {
        self.0.edge(from, to, link)
    }
    fn graph(&self) -> &Graph {
        &self.0
    }
    fn named(&self, name: &str) -> Option<NodeId> {
        NodeId::new(name.parse().ok()?)
    }
    fn spent(&self) -> bool {
        self.1
    }
}

fn chooser(policies: &[Policy]) -> Chooser {
    let exact = ChooseConfig { stagger: Duration::ZERO, ..ChooseConfig::default() };
    Chooser::new(exact, policies, Dice::new(1), at(0))
}

/// A chooser whose full recomputations come as seldom as they will, in whose view the direct path is best.
fn settled(policy: Policy) -> Chooser {
    let first = Duration::from_secs(150);
    let config = ChooseConfig { first, stagger: Duration::ZERO, ..ChooseConfig::default() };
    let start = at(20).minus(Duration::from_secs(170));
    let mut c = Chooser::new(config, &[policy], Dice::new(1), start);
    assert!(c.weigh(start, &graph(20, 30, 30)));
    c.weigh(at(20), &graph(20, 30, 30));
    assert_eq!(c.recomputed_at(), Some(at(20)));
    c.changes.clear();
    c
}

fn path(c: &Chooser) -> Vec<u16> {
    c.held(n(3), Class(0)).unwrap().primary.nodes.iter().map(|n| n.get()).collect()
}

fn within(ms: u64) -> Policy {
    let max_latency = Some(Duration::from_millis(ms));
    Policy { limits: Limits { max_latency, ..Limits::default() }, ..Policy::default() }
}

#[test]
fn a_new_destination_gets_its_path_and_backup_at_once() {
    let mut c = chooser(&[Policy::default()]);
    assert!(c.weigh(at(0), &graph(20, 30, 30)));
    let change = c.poll_change().unwrap();
    assert_eq!((change.destination, change.why, change.from), (n(2), Why::First, None));
    let mut table = RouteTable::default();
    c.fill(&mut table);
    let route = table.lookup(n(3), Class(0)).unwrap();
    assert_eq!(route.primary.nodes, [n(3)]);
    assert_eq!(route.backup.as_ref().unwrap().nodes, [n(2), n(3)]);
    assert!(!c.weigh(at(1), &graph(20, 30, 30)), "the same again changes nothing");
}

#[test]
fn a_better_path_moves_traffic_at_the_full_recomputation_and_not_before() {
    let mut c = settled(Policy::default());
    let better = graph(20, 5, 5);
    let tick = c.recompute_at();
    assert!(tick >= at(20 + 270) && tick <= at(20 + 330));
    for second in (21..).map(at).take_while(|s| *s < tick) {
        c.weigh(second, &better);
        assert_eq!(path(&c), [3]);
    }
    assert_eq!(c.poll_timeout().unwrap().at, tick);
    assert!(c.weigh(tick, &better));
    assert_eq!(path(&c), [2, 3]);
    let change = c.poll_change().unwrap();
    assert_eq!((change.why, change.destination), (Why::Better, n(3)));
    assert_eq!(c.switches()[&(Class(0), Why::Better)], 1);
}

#[test]
fn a_path_that_became_much_worse_is_left_within_seconds_and_not_for_a_swing() {
    let mut c = settled(Policy::default());
    let tick = c.recompute_at();
    // Worse, but by less than a quarter and 10 ms, or for less than three seconds.
    c.weigh(at(60), &graph(29, 5, 5));
    c.weigh(at(80), &graph(29, 5, 5));
    c.weigh(at(100), &graph(60, 5, 5));
    c.weigh(at(102), &graph(20, 30, 30));
    c.weigh(at(110), &graph(20, 30, 30));
    assert_eq!(path(&c), [3]);
    // Worse, and it stays.
    c.weigh(at(120), &graph(60, 5, 5));
    assert_eq!((path(&c), c.poll_timeout().unwrap().at), (vec![3], at(123)));
    assert!(c.weigh(at(123), &graph(60, 5, 5)));
    assert_eq!((path(&c), c.poll_change().unwrap().why), (vec![2, 3], Why::Worse));
    // The hold-down protects what was just taken.
    c.weigh(at(130), &graph(20, 50, 50));
    c.weigh(at(140), &graph(20, 50, 50));
    assert_eq!((path(&c), c.poll_timeout().unwrap().at), (vec![2, 3], at(153)));
    assert!(c.weigh(at(153), &graph(20, 50, 50)));
    assert_eq!(path(&c), [3]);
    assert_eq!(c.recompute_at(), tick, "none of it was a full recomputation");
}

#[test]
fn nodes_leave_a_relay_for_the_same_fault_one_after_the_other_and_a_link_of_their_own_without_delay()
 {
    let left_after = |seed: u64, good: &Graph, bad: &Graph| {
        let mut c =
            Chooser::new(ChooseConfig::default(), &[Policy::default()], Dice::new(seed), at(0));
        for second in 0..60 {
            c.weigh(at(second), good);
        }
        let before = path(&c);
        c.weigh(at(60), bad);
        let due = c.poll_timeout().unwrap().at;
        c.weigh(due.minus(Duration::from_micros(1)), bad);
        assert_eq!(path(&c), before, "the clock is the only reason");
        c.weigh(due, bad);
        assert_ne!(path(&c), before);
        micros(due.since(at(60)))
    };
    let relayed = |seed| left_after(seed, &graph(60, 10, 10), &graph(60, 10, 90));
    let mut spans: Vec<u64> = (0..20).map(relayed).collect();
    assert_eq!(spans, (0..20).map(relayed).collect::<Vec<_>>(), "the same dice, the same moment");
    spans.sort_unstable();
    spans.dedup();
    assert!(spans[0] >= 3_000_000 && spans[spans.len() - 1] <= 4_000_000, "{spans:?}");
    assert!(spans.len() == 20 && spans[19] - spans[0] > 500_000, "{spans:?}");
    assert_eq!(left_after(1, &graph(20, 30, 30), &graph(90, 30, 30)), 3_000_000);
}

#[test]
fn a_path_that_became_worse_with_all_others_is_judged_once() {
    let mut c = settled(Policy::default());
    let bad = graph(60, 60, 60);
    c.weigh(at(60), &bad);
    c.weigh(at(63), &bad);
    assert_eq!(path(&c), [3]);
    let tick = c.recompute_at();
    assert_eq!(c.poll_timeout().unwrap().at, tick, "nothing left to judge before");
    // Measured against what it is now: another fault is another reason.
    c.weigh(at(70), &graph(100, 40, 30));
    assert!(c.weigh(at(73), &graph(100, 40, 30)));
    assert_eq!(path(&c), [2, 3]);
}

#[test]
fn a_destination_that_joins_late_is_weighed_again_soon() {
    let mut c = chooser(&[Policy::default()]);
    // Node 3 does not exist yet, and the first recomputation is over.
    let mut alone = Graph::new(n(1));
    alone.add_node(n(2), true);
    alone.add_edge(n(1), n(2), Some(LinkId(1)), state(30));
    c.weigh(at(0), &alone);
    let mut gaps = Vec::new();
    for _ in 0..6 {
        let (last, next) = (c.recomputed_at().unwrap_or(at(0)), c.recompute_at());
        gaps.push(next.since(last).as_secs());
        c.weigh(next, &alone);
    }
    let doubled = [15, 30, 60, 120, 240, 300];
    assert!(gaps.iter().zip(doubled).all(|(gap, usual)| gap.abs_diff(usual) <= usual / 10 + 1));
    let now = c.recomputed_at().unwrap().plus(Duration::from_secs(10));
    // At first only the link over the relay is known.
    assert!(c.weigh(now, &graph(0, 30, 30)));
    assert_eq!(path(&c), [2, 3]);
    let soon = c.recompute_at();
    assert!(soon > now && soon <= now.plus(Duration::from_secs(17)), "{soon}");
    c.weigh(now.plus(Duration::from_secs(1)), &graph(20, 30, 30));
    assert_eq!(path(&c), [2, 3], "not before");
    assert!(c.weigh(soon, &graph(20, 30, 30)));
    assert_eq!(path(&c), [3]);
    let again = c.recompute_at().since(soon).as_secs();
    assert!(
        (26..=34).contains(&again),
        "and from there as seldom as before, step by step: {again}"
    );
}

#[test]
fn a_path_better_by_less_than_the_margin_never_moves_traffic() {
    let mut c = settled(Policy::default());
    // 19.6 + 0.5 + 0.5 ms against 20.5: within 3 %.
    let mut hardly = graph(20, 0, 0);
    hardly.add_edge(n(1), n(2), Some(LinkId(1)), state(9));
    let leg = LinkQuality { delay: Duration::from_micros(10_200), ..state(0).present };
    hardly.add_edge(n(2), n(3), None, LinkState::measured(leg));
    for tick in 1..10 {
        c.weigh(at(20 + tick * 400), &hardly);
        assert_eq!(path(&c), [3]);
    }
}

#[test]
fn a_broken_path_is_left_at_once_and_returned_to_once_it_has_worked_for_seconds() {
    let mut c = settled(Policy::default());
    let (cut, whole) = (graph(0, 30, 30), graph(20, 30, 30));
    assert!(c.weigh(at(30), &cut));
    assert_eq!((path(&c), c.poll_change().unwrap().why), (vec![2, 3], Why::Broken));
    c.weigh(at(31), &whole);
    c.weigh(at(33), &cut);
    c.weigh(at(34), &whole);
    assert_eq!(c.poll_timeout().unwrap().at, at(37), "three seconds without a break");
    c.weigh(at(36), &whole);
    assert_eq!(path(&c), [2, 3]);
    assert!(c.weigh_touched(at(37), &whole, &BTreeSet::new()));
    assert_eq!((path(&c), c.poll_change().unwrap().why), (vec![3], Why::Returned));
    assert!(c.poll_timeout().unwrap().at > at(200), "nothing is awaited any more");
}

#[test]
fn what_came_back_is_taken_only_if_it_is_better_by_the_margin() {
    let mut c = settled(Policy::default());
    c.weigh(at(30), &graph(0, 30, 30));
    let longer = graph(60, 30, 29);
    for second in 31..60 {
        c.weigh(at(second), &longer);
        assert_eq!(path(&c), [2, 3]);
    }
}

#[test]
fn a_link_that_comes_and_goes_is_left_alone_in_the_end() {
    let mut c = settled(Policy::default());
    // Ten seconds there, ten seconds not, for an hour: with the moves at the full recomputations, and
    // those that end them, a few in each five minutes.
    for second in 30..3630 {
        let direct_ms = if second / 10 % 2 == 0 { 20 } else { 0 };
        c.weigh(at(second), &graph(direct_ms, 30, 30));
    }
    let moves = |why| c.switches().get(&(Class(0), why)).copied().unwrap_or(0);
    assert!((1..=3).contains(&moves(Why::Returned)), "{:?}", c.switches());
    assert!(moves(Why::Broken) <= 3 + moves(Why::Better) + 1, "{:?}", c.switches());
}

#[test]
fn a_link_that_is_not_measured_when_a_destination_is_found_is_taken_once_it_is() {
    let mut c = chooser(&[Policy::default()]);
    c.weigh(at(0), &graph(0, 30, 30));
    c.weigh(at(20), &graph(0, 30, 30));
    assert_eq!(path(&c), [2, 3]);
    c.on_link(LinkId(0), n(3));
    c.weigh(at(21), &graph(20, 30, 30));
    assert!(c.weigh(at(24), &graph(20, 30, 30)));
    assert_eq!(path(&c), [3]);
    c.on_link(LinkId(0), n(3));
    assert_eq!(c.awaited().count(), 0, "a direct path stands in for nothing");
}

#[test]
fn the_hold_down_protects_what_was_chosen_on_its_merits_from_what_comes_back() {
    let mut c = settled(Policy::default());
    let better = graph(60, 10, 10);
    let tick = c.recompute_at();
    assert!(c.weigh(tick, &better));
    assert_eq!(path(&c), [2, 3]);
    c.on_link(LinkId(0), n(3));
    let soon = graph(5, 10, 10);
    let after = |seconds| tick.plus(Duration::from_secs(seconds));
    for second in 1..30 {
        c.weigh(after(second), &soon);
        assert_eq!(path(&c), [2, 3]);
    }
    assert!(c.weigh(after(30), &soon));
    assert_eq!(path(&c), [3]);
}

#[test]
fn a_path_that_leaves_its_limits_is_left_within_seconds_and_a_blink_is_forgiven() {
    let mut c = settled(within(70));
    let slow = graph(90, 30, 30);
    c.weigh(at(30), &slow);
    c.weigh(at(32), &graph(20, 30, 30));
    c.weigh(at(33), &slow);
    assert_eq!(c.poll_timeout().unwrap(), Deadline { at: at(36), why: "limits left, or worse" });
    c.weigh(at(35), &slow);
    assert_eq!(path(&c), [3], "two seconds, and two before the blink");
    assert!(c.weigh(at(36), &slow));
    assert_eq!((path(&c), c.poll_change().unwrap().why), (vec![2, 3], Why::Limits));
}

#[test]
fn without_limits_a_path_that_is_somewhat_slower_stays_until_the_tick() {
    let mut c = settled(Policy::default());
    c.weigh(at(30), &graph(29, 10, 10));
    c.weigh(at(60), &graph(29, 10, 10));
    assert_eq!(path(&c), [3]);
    c.weigh(c.recompute_at(), &graph(29, 10, 10));
    assert_eq!(path(&c), [2, 3]);
}

#[test]
fn where_no_path_keeps_the_limits_the_machine_does_not_spin() {
    let mut c = settled(within(70));
    let hopeless = graph(90, 60, 60);
    c.weigh(at(30), &hopeless);
    c.weigh(at(33), &hopeless);
    assert_eq!(path(&c), [3]);
    let next = c.poll_timeout().unwrap();
    assert!(next.at > at(33), "{next:?}");
}

#[test]
fn a_class_that_holds_keeps_its_last_path_outside_the_limits_until_it_breaks() {
    let mut c = settled(within(70));
    for second in 30..40 {
        c.weigh(at(second), &graph(90, 60, 60));
        assert_eq!(path(&c), [3]);
    }
    c.weigh(at(40), &graph(0, 60, 60));
    assert_eq!((path(&c), c.poll_change().unwrap().why), (vec![2, 3], Why::Broken));
    assert!(!withheld(&c));
}

/// Whether the table in force drops packets to node 3.
fn withheld(c: &Chooser) -> bool {
    let mut table = RouteTable::default();
    c.fill(&mut table);
    table.lookup(n(3), Class(0)).unwrap().withheld
}

#[test]
fn a_class_that_falls_back_on_the_direct_link_takes_it_whatever_its_quality() {
    let mut c = chooser(&[Policy { fallback: Fallback::Direct, ..within(70) }]);
    c.weigh(at(0), &graph(500, 30, 30));
    c.weigh(at(20), &graph(500, 30, 30));
    assert_eq!(path(&c), [2, 3]);
    c.changes.clear();
    let hopeless = graph(500, 60, 60);
    c.weigh(at(30), &hopeless);
    c.weigh(at(32), &hopeless);
    assert_eq!(path(&c), [2, 3], "it may come back");
    assert!(c.weigh(at(33), &hopeless));
    assert_eq!((path(&c), c.poll_change().unwrap().why), (vec![3], Why::Fallback));
    c.weigh(c.recompute_at(), &hopeless);
    assert_eq!(path(&c), [3], "no margin leads back to what breaks the limits as well");
    let again = c.recomputed_at().unwrap().plus(Duration::from_secs(1));
    c.weigh(again, &graph(500, 30, 30));
    assert_eq!((path(&c), c.poll_change().unwrap().why), (vec![2, 3], Why::Limits));
    c.weigh(again.plus(Duration::from_secs(9)), &graph(0, 60, 60));
    assert_eq!(path(&c), [2, 3], "without such a link the last path stays");
}

#[test]
fn a_class_that_drops_is_let_through_again_as_soon_as_a_path_keeps_its_limits() {
    let policy = Policy { fallback: Fallback::Drop, ..within(70) };
    let mut c = settled(policy.clone());
    let hopeless = graph(90, 60, 60);
    c.weigh(at(30), &hopeless);
    c.weigh(at(32), &hopeless);
    assert!(!withheld(&c), "a blink is forgiven");
    assert!(c.weigh(at(33), &hopeless));
    assert!(withheld(&c));
    let change = c.poll_change().unwrap();
    assert_eq!((change.why, change.to), (Why::Fallback, None));
    assert_eq!(
        c.held(n(3), Class(0)).unwrap().backup,
        None,
        "what breaks them stands by for nobody"
    );
    assert!(!c.weigh(at(34), &hopeless));
    assert!(c.weigh(at(35), &graph(90, 30, 30)), "another path keeps them");
    assert_eq!((path(&c), withheld(&c)), (vec![2, 3], false));
    let change = c.poll_change().unwrap();
    assert_eq!((change.why, change.from), (Why::Limits, None));
    c.weigh(at(40), &hopeless);
    c.weigh(at(43), &hopeless);
    assert!(withheld(&c));
    c.weigh(at(44), &graph(90, 30, 30));
    assert!(!withheld(&c), "the same path, back within them");
    // What is chosen for the first time is not given the benefit of the doubt.
    let mut c = chooser(&[policy]);
    c.weigh(at(0), &hopeless);
    assert!(withheld(&c));
    c.weigh(at(1), &graph(20, 60, 60));
    assert!(!withheld(&c));
}

#[test]
fn a_path_over_a_node_to_avoid_is_left_for_any_other_and_at_once_where_it_must_not_be() {
    let avoiding = Policy { avoid: vec!["2".into()], ..Policy::default() };
    let mut c = chooser(std::slice::from_ref(&avoiding));
    c.weigh(at(0), &Named(graph(0, 30, 30), false));
    assert_eq!((path(&c), withheld(&c)), (vec![2, 3], false), "nothing else leads there");
    c.weigh(at(20), &Named(graph(900, 30, 30), false));
    assert_eq!((path(&c), c.changes.back().unwrap().why), (vec![3], Why::Limits));
    c.weigh(c.recompute_at(), &Named(graph(900, 30, 30), false));
    assert_eq!(path(&c), [3]);
    let strict = Policy { fallback: Fallback::Drop, ..avoiding };
    c.reconfigure(at(500), ChooseConfig::default(), &[strict], &[Some(Class(0))]);
    c.weigh(at(500), &Named(graph(0, 30, 30), false));
    assert!(withheld(&c), "not for a moment");
}

#[test]
fn a_spent_budget_drops_what_was_to_be_cheap_if_its_class_says_so() {
    let cheap =
        Policy { objective: Objective::Cost, fallback: Fallback::Drop, ..Policy::default() };
    let mut c = settled(cheap);
    c.weigh(at(30), &Named(graph(20, 30, 30), true));
    c.weigh(at(33), &Named(graph(20, 30, 30), true));
    assert_eq!((path(&c), withheld(&c)), (vec![3], true));
    c.weigh(at(34), &Named(graph(20, 30, 30), false));
    assert!(!withheld(&c));
}

#[test]
fn the_hold_down_protects_a_choice_at_the_tick_but_not_a_destination_s_first_path() {
    let config = ChooseConfig { hold_down: Duration::from_secs(600), ..ChooseConfig::default() };
    let mut c = Chooser::new(config, &[Policy::default()], Dice::new(1), at(0));
    c.weigh(at(0), &graph(0, 30, 30));
    assert_eq!(path(&c), [2, 3], "the only way known at first");
    let first = c.recompute_at();
    c.weigh(first, &graph(20, 30, 30));
    assert_eq!(path(&c), [3]);
    c.weigh(c.recompute_at(), &graph(20, 5, 5));
    assert_eq!(path(&c), [3]);
    c.weigh(first.plus(Duration::from_secs(1000)), &graph(20, 5, 5));
    assert_eq!(path(&c), [2, 3]);
}

#[test]
fn the_last_path_to_a_living_node_stays_and_a_dead_node_s_is_withdrawn() {
    let mut c = settled(Policy::default());
    assert!(!c.weigh(at(30), &graph(0, 0, 0)), "every reading went stale");
    assert_eq!(path(&c), [3]);
    assert!(c.weigh(at(31), &Graph::new(n(1))));
    assert_eq!(c.held(n(3), Class(0)), None);
    assert_eq!(c.poll_change().unwrap().why, Why::Gone);
}

#[test]
fn a_backup_that_broke_is_replaced_or_found_as_soon_as_there_is_one() {
    let mut c = chooser(&[Policy::default()]);
    c.weigh(at(0), &graph(20, 0, 0));
    assert_eq!(c.held(n(3), Class(0)).unwrap().backup, None);
    assert!(c.weigh(at(1), &graph(20, 30, 30)));
    assert!(c.held(n(3), Class(0)).unwrap().backup.is_some());
}

#[test]
fn a_delay_that_moved_is_told_and_a_breath_is_not() {
    let mut c = settled(Policy::default());
    assert!(!c.weigh(at(30), &graph(22, 30, 30)));
    assert!(c.weigh(at(31), &graph(40, 30, 30)));
    let mut table = RouteTable::default();
    c.fill(&mut table);
    assert_eq!(table.lookup(n(3), Class(0)).unwrap().primary.delay, Duration::from_millis(40));
}

#[test]
fn classes_of_one_policy_move_together_and_others_by_themselves() {
    let cheap = Policy { objective: Objective::Cost, ..Policy::default() };
    let mut c = chooser(&[Policy::default(), cheap, Policy::default()]);
    let mut graph = graph(0, 30, 30);
    graph.add_edge(n(1), n(3), Some(LinkId(0)), LinkState { price: Price(9), ..state(20) });
    c.weigh(at(0), &graph);
    let mut table = RouteTable::default();
    c.fill(&mut table);
    let hops = |class| table.lookup(n(3), Class(class)).unwrap().primary.nodes.len();
    assert_eq!([hops(0), hops(1), hops(2)], [1, 2, 1]);
    let both: Vec<_> = std::iter::from_fn(|| c.poll_change()).map(|c| c.classes).collect();
    assert!(both.contains(&vec![Class(0), Class(2)]) && both.contains(&vec![Class(1)]));
    assert_eq!(c.iter().count(), 6);
}

#[test]
fn under_the_cost_objective_delay_still_moves_traffic_among_equals() {
    let cheap = Policy { objective: Objective::Cost, ..Policy::default() };
    let dear = |delay| {
        let mut graph = graph(0, 0, 0);
        let price = Price(1_000_000);
        graph.add_edge(n(1), n(3), Some(LinkId(0)), LinkState { price, ..state(20) });
        graph.add_edge(n(1), n(2), Some(LinkId(1)), LinkState { price, ..state(delay) });
        graph.add_edge(n(2), n(3), None, state(1));
        graph
    };
    let mut c = chooser(&[cheap]);
    c.weigh(at(0), &dear(30));
    assert_eq!(path(&c), [3]);
    c.weigh(at(400), &dear(2));
    assert_eq!(path(&c), [2, 3]);
}

#[test]
fn a_new_policy_takes_the_paths_over_and_decides_at_once() {
    let mut c = settled(Policy::default());
    c.switches.insert((Class(0), Why::Better), 7);
    // The relay is better by now; the tick is minutes away.
    let relayed = graph(90, 30, 30);
    c.weigh(at(25), &relayed);
    assert_eq!(path(&c), [3]);
    let reliable = Policy { objective: Objective::Reliability, ..Policy::default() };
    // Another class in front, the one there was behind it with another policy.
    let before = [None, Some(Class(0))];
    c.reconfigure(at(30), ChooseConfig::default(), &[within(500), reliable], &before);
    let mut table = RouteTable::default();
    c.fill(&mut table);
    for class in [Class(0), Class(1)] {
        assert_eq!(table.lookup(n(3), class).unwrap().primary.nodes, [n(3)], "nobody is cut off");
        assert_eq!(c.held(n(3), class).unwrap().why, Why::Policy);
    }
    assert_eq!(c.switches().get(&(Class(1), Why::Better)), Some(&7), "counts follow the class");
    assert_eq!(c.switches().get(&(Class(0), Why::Better)), None);
    assert_eq!(c.poll_timeout().unwrap().at, at(30));
    c.weigh(at(30), &relayed);
    for class in [Class(0), Class(1)] {
        let held = c.held(n(3), class).unwrap();
        assert_eq!((held.primary.nodes.len(), held.why), (2, Why::Better), "no hold-down");
    }
}

#[test]
fn a_policy_that_stays_keeps_its_paths_with_their_age() {
    let mut c = settled(Policy::default());
    let held = c.held(n(3), Class(0)).unwrap().clone();
    let before = [Some(Class(0)), None];
    c.reconfigure(at(30), ChooseConfig::default(), &[Policy::default(), within(500)], &before);
    assert_eq!(c.held(n(3), Class(0)), Some(&held));
}

#[test]
fn paths_are_weighed_where_there_is_news_of_their_nodes() {
    let mut c = settled(Policy::default());
    let price = |c: &Chooser| c.held(n(3), Class(0)).unwrap().primary.priced.delay();
    let slower = graph(40, 30, 30);
    assert!(!c.weigh_touched(at(26), &slower, &BTreeSet::from([n(9)])));
    assert_eq!(price(&c), Duration::from_millis(20));
    assert!(c.weigh_touched(at(27), &slower, &BTreeSet::from([n(3)])));
    assert_eq!(price(&c), Duration::from_millis(40));
}

#[test]
fn in_a_crowd_what_cannot_be_found_is_not_sought_with_every_news() {
    // Node 1 with links to all, and no links between them: there are no backups.
    let crowd = |spare: bool| {
        let mut graph = Graph::new(n(1));
        (2..80).for_each(|k| graph.add_node(n(k), true));
        for k in 2..80 {
            graph.add_edge(n(1), n(k), Some(LinkId(k)), state(20));
        }
        if spare {
            graph.add_edge(n(2), n(3), None, state(20));
        }
        graph
    };
    let mut c = chooser(&[Policy::default()]);
    c.weigh(at(0), &crowd(false));
    let lacks = |c: &Chooser| c.held(n(3), Class(0)).unwrap().backup.is_none();
    let late = c.recompute_at().plus(Duration::from_secs(1));
    c.weigh(late, &crowd(false));
    let soon = late.plus(Duration::from_millis(1));
    c.weigh(soon, &crowd(false));
    c.weigh(soon, &crowd(true));
    assert!(lacks(&c), "it was sought a moment ago");
    let next = c.poll_timeout().unwrap();
    assert_eq!(next.why, "path sought");
    c.weigh(next.at, &crowd(true));
    assert!(!lacks(&c));
}
