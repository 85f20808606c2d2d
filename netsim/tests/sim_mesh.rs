//! Whole meshes in virtual time: every scenario of `scenarios/` keeps its checks.

use std::path::Path;
use std::time::Duration;

use netsim::check::{Played, play};
use netsim::scenario::Scenario;
use netsim::world::World;
use thalweg::forward::DropReason;
use thalweg::time::Instant;

fn scenario(name: &str) -> Scenario {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios").join(name);
    Scenario::read(&file).unwrap()
}

/// Plays a scenario with each seed; every check must hold each time.
fn holds(name: &str, seeds: std::ops::Range<u64>) -> Vec<Played> {
    let scenario = scenario(name);
    assert!(!scenario.checks.is_empty(), "{name} checks nothing");
    seeds
        .map(|seed| {
            let played = play(&scenario, Some(seed)).unwrap();
            assert!(played.findings.hold(), "seed {seed}: {}", played.text());
            played
        })
        .collect()
}

#[test]
fn a_faster_relay_is_taken_unprompted_and_cannot_read_what_it_carries() {
    let played = holds("relay.toml", 1..4);
    assert!(played.iter().all(|p| p.findings.payload.is_some_and(|(seen, _)| seen > 1000)));
}

#[test]
fn a_link_cut_one_way_or_both_costs_less_than_a_second() {
    holds("cut.toml", 1..6);
}

#[test]
fn a_relay_that_dies_costs_less_than_a_second() {
    holds("kill-relay.toml", 1..6);
}

#[test]
fn a_dead_node_is_gone_from_every_graph() {
    holds("death.toml", 1..3);
}

#[test]
fn twenty_nodes_that_know_one_seed_outlive_it() {
    holds("mesh20.toml", 1..3);
}

#[test]
fn the_edges_go_on_while_the_cloud_is_cut_off_and_it_finds_back() {
    holds("partition.toml", 1..4);
}

#[test]
fn edges_without_any_cloud_go_on_restart_and_take_in_a_newcomer() {
    holds("edges-alone.toml", 1..6);
}

#[test]
fn two_that_never_reach_each_other_talk_over_a_third_until_they_do() {
    holds("no-direct.toml", 1..4);
}

#[test]
fn a_node_restarted_without_its_seed_finds_its_peers() {
    holds("restart.toml", 1..4);
}

#[test]
fn a_better_path_moves_traffic_at_the_full_recomputation_and_not_before() {
    holds("better.toml", 1..3);
}

#[test]
fn a_path_that_leaves_its_limits_is_left_within_seconds() {
    holds("limits.toml", 1..4);
}

#[test]
fn a_path_that_becomes_much_worse_is_left_long_before_the_full_recomputation() {
    holds("worse.toml", 1..4);
}

#[test]
fn a_relayed_path_whose_far_leg_becomes_much_worse_is_left_nearly_as_soon() {
    holds("worse-far.toml", 1..6);
}

#[test]
fn a_path_that_becomes_narrow_without_a_word_carries_long_packets_again_within_seconds() {
    holds("narrow.toml", 1..3);
}

#[test]
fn loss_is_repaired_hop_by_hop() {
    holds("lossy.toml", 1..4);
}

#[test]
fn one_seed_gives_one_trace_and_another_seed_another() {
    for name in ["relay.toml", "kill-relay.toml", "lossy.toml"] {
        let scenario = scenario(name);
        let trace = |seed| play(&scenario, Some(seed)).unwrap().trace;
        assert_eq!(trace(5), trace(5), "{name}");
        assert_ne!(trace(5), trace(6), "{name}");
    }
}

#[test]
fn what_only_the_other_floor_can_do_is_refused_in_words() {
    let mut scenario = scenario("relay.toml");
    let text = "name = \"t\"\nduration = \"2s\"\n[[site]]\nname = \"a\"\n[[site]]\nname = \"b\"\n\
                [[tcp]]\nfrom = \"a\"\nto = \"b\"\nstart = \"0s\"\nlength = \"1s\"\n";
    scenario.tcp = Scenario::parse(text, Path::new(".")).unwrap().tcp;
    let error = play(&scenario, None).unwrap_err().to_string();
    assert!(error.contains("netsim lab"), "{error}");
}

#[test]
fn a_small_flow_outlives_cross_traffic_that_fills_its_only_line() {
    holds("cross.toml", 1..4);
}

#[test]
fn what_a_machine_drops_is_told_as_its_own_and_not_the_links_loss() {
    let text = r#"
        name = "local-drops"
        duration = "20s"
        [default]
        delay = "10ms"
        [[site]]
        name = "a"
        [[site]]
        name = "b"
        [[link]]
        from = "a"
        to = "b"
        local_loss = 0.02
        [[flow]]
        from = "a"
        to = "b"
        pps = 500
        size = 400
        start = "2s"
    "#;
    let scenario = Scenario::parse(text, Path::new(".")).unwrap();
    let mut world = World::new(&scenario, 1).unwrap();
    world.run(Instant::ZERO.plus(scenario.duration)).unwrap();
    let told: u64 = world.held(0).unwrap().links.values().map(|link| link.local_drops).sum();
    // 9,000 packets, of which 180 are dropped, and a few that repaired them.
    assert!((120..300).contains(&told), "{told}");
}

#[test]
fn where_no_path_keeps_the_limits_each_class_falls_back_as_it_says() {
    let text = r#"
        name = "fallback"
        duration = "90s"
        [config]
        class = [
            { name = "call", dscp = ["EF"], max_latency = "60ms", fallback = "drop" },
            { name = "desk", dscp = ["AF41"], max_latency = "60ms", fallback = "direct" },
            { name = "default", max_latency = "60ms", fallback = "hold" },
        ]
        [default]
        delay = "10ms"
        [[site]]
        name = "a"
        [[site]]
        name = "r"
        [[site]]
        name = "b"
        [[link]]
        between = ["a", "b"]
        delay = "50ms"
        [[flow]]
        name = "call"
        from = "a"
        to = "b"
        dscp = 46
        pps = 50
        size = 160
        start = "5s"
        stop = "88s"
        [[flow]]
        name = "desk"
        from = "a"
        to = "b"
        dscp = 34
        pps = 50
        size = 160
        start = "5s"
        stop = "88s"
        [[flow]]
        from = "a"
        to = "b"
        pps = 50
        size = 160
        start = "5s"
        stop = "88s"
        [[event]]
        at = "20s"
        between = ["r", "b"]
        set = { delay = "100ms" }
        [[event]]
        at = "20s"
        between = ["a", "b"]
        set = { delay = "200ms" }
        [[event]]
        at = "60s"
        between = ["a", "b"]
        set = { delay = "50ms" }
    "#;
    let scenario = Scenario::parse(text, Path::new(".")).unwrap();
    let (over, direct) = (Some(vec![0, 1, 2]), Some(vec![0, 2]));
    let mut world = World::new(&scenario, 1).unwrap();
    let at = |s: u64| Instant::ZERO.plus(Duration::from_secs(s));
    world.run(at(19)).unwrap();
    for class in ["call", "desk", "default"] {
        assert_eq!(world.path(0, 2, class), over, "{class}: 20 ms are better than 50");
    }
    let dropped = |world: &World| world.stats(0).unwrap().dropped(DropReason::OutsideLimits);
    assert_eq!(dropped(&world), 0);
    world.run(at(50)).unwrap();
    assert_eq!(world.path(0, 2, "desk"), direct);
    assert_eq!(world.path(0, 2, "default"), over, "the last path stays");
    let rows = world.report(0).unwrap().paths;
    let withheld: Vec<_> = rows.iter().filter(|r| r.withheld).collect();
    assert_eq!(withheld.len(), 1);
    assert_eq!((withheld[0].class.as_str(), withheld[0].destination.as_str()), ("call", "b"));
    world.run(at(90)).unwrap();
    for class in ["call", "desk", "default"] {
        assert_eq!(world.path(0, 2, class), direct, "{class}: it keeps the limits again");
    }
    let met = |flow: usize, from: u64, to: u64| {
        world.ledgers()[flow].quality(from * 1_000_000_000, to * 1_000_000_000)
    };
    assert_eq!(met(0, 48, 60).received, 0);
    assert_eq!(met(0, 76, 88).loss, Some(0.0));
    for (flow, delay_ms) in [(1, 200.0), (2, 110.0)] {
        let met = met(flow, 48, 60);
        assert_eq!(met.loss, Some(0.0));
        assert!((met.p50_ms.unwrap() - delay_ms).abs() < 3.0, "{flow}: {met:?}");
    }
    let whole = met(0, 0, 90);
    assert_eq!(dropped(&world), whole.sent - whole.received, "each one has its reason");
}
