//! A scenario on the virtual floor, held against its checks.
//!
//! The same file, the same checks and the same findings as on the namespaces floor; beside them the
//! trace's hash, which one seed gives again and again.

use std::fmt::Write as _;
use std::time::Duration;

use serde::Serialize;
use thalweg::time::Instant;

use crate::netns::lab::{CLASS, Findings, Notes, is_as_asked, judge};
use crate::scenario::{Check, Scenario};
use crate::world::World;

/// Between two looks at paths and members.
const LOOK: Duration = Duration::from_millis(100);

/// What a played scenario came to.
#[derive(Clone, Debug, Serialize)]
pub struct Played {
    /// The seed it was played with.
    pub seed: u64,
    /// The trace's hash.
    pub trace: String,
    /// Datagrams on all links.
    pub datagrams: u64,
    /// Their bytes, outer headers included.
    pub bytes: u64,
    /// Flows and checks.
    #[serde(flatten)]
    pub findings: Findings,
    /// Transitions of nodes, for people.
    #[serde(skip)]
    pub lines: Vec<String>,
}

/// Plays a scenario to its end. `seed` overrides the scenario's own.
///
/// # Errors
/// What the virtual floor cannot play, and machines that spin.
pub fn play(scenario: &Scenario, seed: Option<u64>) -> anyhow::Result<Played> {
    let seed = seed.unwrap_or(scenario.seed);
    let mut world = World::new(scenario, seed)?;
    let mut notes = Notes { mesh_s: None, moments: scenario.checks.iter().map(|_| None).collect() };
    let mut since = Duration::ZERO;
    while since < scenario.duration {
        since = (since + LOOK).min(scenario.duration);
        world.run(Instant::ZERO.plus(since))?;
        look(scenario, &mut world, since, &mut notes);
    }
    let carried = world.carried();
    let payload = scenario.flows.iter().any(|f| !f.payload.is_empty());
    let mut findings = Findings {
        scenario: scenario.name.clone(),
        flows: Vec::new(),
        tcp: Vec::new(),
        relayed_share: None,
        payload: payload.then_some((carried.searched, carried.found)),
        lanes: Vec::new(),
        checks: Vec::new(),
    };
    judge(scenario, world.ledgers(), 0, &notes, &mut findings);
    Ok(Played {
        seed,
        trace: format!("{:016x}", world.trace().hash()),
        datagrams: carried.datagrams,
        bytes: carried.bytes,
        findings,
        lines: world.trace().lines().to_vec(),
    })
}

/// Takes down what the checks ask about this moment.
fn look(scenario: &Scenario, world: &mut World, since: Duration, notes: &mut Notes) {
    let living = world.living();
    if notes.mesh_s.is_none() {
        let pairs = || living.iter().flat_map(|&a| living.iter().map(move |&b| (a, b)));
        if pairs().all(|(a, b)| a == b || world.path(a, b, CLASS).is_some()) {
            notes.mesh_s = Some(since.as_secs_f64());
        }
    }
    for (check, found) in scenario.checks.iter().zip(&mut notes.moments) {
        if found.is_some() {
            continue;
        }
        match check {
            Check::Path { from, to, at, is, relayed } if *at <= since => {
                let path = world.path(*from, *to, CLASS);
                let held = path.as_ref().is_some_and(|p| is_as_asked(p, is.as_ref(), *relayed));
                let names = path.map(|p| {
                    let names: Vec<_> =
                        p.iter().map(|&s| scenario.sites[s].name.as_str()).collect();
                    names.join(" > ")
                });
                *found = Some((names.unwrap_or("no path".into()), held));
            }
            Check::Gone { site, by } if *by <= since => {
                let others = living.iter().filter(|s| *s != site);
                let holds = others.filter(|s| world.path(**s, *site, CLASS).is_some()).count();
                *found = Some((format!("{holds} nodes still have a path there"), holds == 0));
            }
            _ => {}
        }
    }
}

impl Played {
    /// For people.
    pub fn text(&self) -> String {
        let mut text = self.findings.text();
        let _ = write!(
            text,
            "  seed {}, trace {}, {} datagrams, {} bytes on all links",
            self.seed, self.trace, self.datagrams, self.bytes
        );
        text
    }
}
