//! What was cut off and comes back: how soon its pairs go straight again, with the times that are in force
//! where nobody configured any.

use std::path::Path;
use std::time::Duration;

use netsim::scenario::Scenario;
use netsim::world::World;
use thalweg::id::Class;
use thalweg::time::Instant;

/// Between two looks at the paths.
const LOOK: Duration = Duration::from_millis(100);
/// Seeds of each case.
const SEEDS: std::ops::RangeInclusive<u64> = 1..=20;
/// For so long after the return the paths are looked at.
const WATCHED: Duration = Duration::from_secs(60);
const SITES: [&str; 5] = ["cloud", "a", "b", "c", "d"];

/// Five sites in a full mesh, four of its pairs with traffic.
fn mesh(events: &[(u64, &str)], back_at: u64) -> Scenario {
    let seconds = back_at + WATCHED.as_secs() + 1;
    let mut text =
        format!("name = \"heal\"\nduration = \"{seconds}s\"\n[default]\ndelay = \"20ms\"\n");
    for site in SITES {
        let seeds = if site == "cloud" { "" } else { "seeds = [\"cloud\"]\n" };
        text += &format!("[[site]]\nname = \"{site}\"\n{seeds}");
    }
    for (from, to) in [("a", "b"), ("c", "a"), ("cloud", "b"), ("c", "cloud")] {
        let what = "pps = 10\nsize = 160\nstart = \"20s\"";
        text += &format!("[[flow]]\nfrom = \"{from}\"\nto = \"{to}\"\n{what}\n");
    }
    for (at, what) in events {
        text += &format!("[[event]]\nat = \"{at}s\"\n{what}\n");
    }
    Scenario::parse(&text, Path::new(".")).unwrap()
}

/// How long after the return each of these pairs of sites still had another path than the link between them,
/// and how often any path moved meanwhile.
fn straight_after(
    scenario: &Scenario,
    seed: u64,
    back_at: u64,
    pairs: &[(usize, usize)],
) -> Vec<Duration> {
    let mut world = World::new(scenario, seed).unwrap();
    let back = Instant::ZERO.plus(Duration::from_secs(back_at));
    world.run(back).unwrap();
    let mut last = vec![Duration::ZERO; pairs.len()];
    let mut since = Duration::ZERO;
    while since < WATCHED {
        since += LOOK;
        world.run(back.plus(since)).unwrap();
        for ((a, b), last) in pairs.iter().zip(&mut last) {
            let route = world.routes(*a).and_then(|t| t.lookup(World::node_of(*b), Class(0)));
            if !route.is_some_and(|route| route.primary.is_direct()) {
                *last = since;
            }
        }
    }
    last
}

/// All pairs with all seeds: half of them are straight after `half`, all after `all`.
fn returns(
    name: &str,
    events: &[(u64, &str)],
    back_at: u64,
    pairs: &[(usize, usize)],
    [half, all]: [u64; 2],
) {
    let scenario = mesh(events, back_at);
    let mut spans: Vec<Duration> = Vec::new();
    let mut slow = Vec::new();
    for seed in SEEDS {
        let after = straight_after(&scenario, seed, back_at, pairs);
        let late = pairs.iter().zip(&after).filter(|(_, span)| span.as_secs() >= all);
        slow.extend(late.map(|(&(a, b), span)| (seed, SITES[a], SITES[b], *span)));
        spans.extend(after);
    }
    spans.sort();
    let (median, worst) = (spans[spans.len() / 2], spans[spans.len() - 1]);
    println!("{name}: straight again after {median:?} (p50), {worst:?} (worst)");
    assert!(slow.is_empty(), "{name}: {slow:?}");
    assert!(median <= Duration::from_secs(half), "{name}: {median:?}");
}

/// The pairs of the cloud and each edge, both ways.
fn of_the_cloud() -> Vec<(usize, usize)> {
    (1..SITES.len()).flat_map(|site| [(0, site), (site, 0)]).collect()
}

const GONE: &str = "isolate = [\"cloud\"]";
const BACK: &str = "rejoin = [\"cloud\"]";
const CUT: &str = "cut = [\"a\", \"b\"]";
const HEALED: &str = "heal = [\"a\", \"b\"]";

#[test]
fn who_was_cut_off_for_a_moment_is_on_direct_paths_seconds_after_its_return() {
    returns("10 s", &[(25, GONE), (35, BACK)], 35, &of_the_cloud(), [6, 15]);
}

#[test]
fn who_was_cut_off_for_a_minute_is_on_direct_paths_seconds_after_its_return() {
    returns("60 s", &[(25, GONE), (85, BACK)], 85, &of_the_cloud(), [6, 15]);
}

#[test]
fn a_node_that_started_anew_meanwhile_has_its_direct_session_and_path_as_soon() {
    let again = (28, "restart = \"c\"");
    returns("10 s, restart", &[(25, GONE), again, (35, BACK)], 35, &of_the_cloud(), [6, 20]);
    returns("60 s, restart", &[(25, GONE), again, (85, BACK)], 85, &of_the_cloud(), [6, 20]);
}

#[test]
fn a_link_that_failed_and_came_back_is_taken_again_within_seconds() {
    let pair = [(1, 2), (2, 1)];
    returns("link, 10 s", &[(40, CUT), (50, HEALED)], 50, &pair, [9, 15]);
    returns("link, 60 s", &[(40, CUT), (100, HEALED)], 100, &pair, [9, 15]);
}
