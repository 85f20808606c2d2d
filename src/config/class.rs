//! The built-in classes of traffic, and the reading of `[[class]]`.
//!
//! Budgets say how long a packet may be late beyond the path's own delay and still be of use: a
//! voice codec's play-out buffer bridges about 60 ms, a person typing notices 150 ms. TCP's own timer
//! waits a round trip and at least 200 ms more (Linux `TCP_RTO_MIN`) and learns to wait longer, so its
//! packets may be late by a whole round trip of a long hop and the feedback's delay: with less, no
//! repair fits where the line is longest and TCP suffers most. The code points are those of RFC 4594
//! and RFC 8622.

use std::collections::BTreeSet;
use std::time::Duration;

use super::profile::Profile;
use super::read::{Reader, Section};
use super::value;
use crate::id::Class;
use crate::route::policy::{
    ClassSpec, Delivery, Fallback, Limits, Marking, Match, Objective, Policy,
};
use crate::unit::{Ratio, Residual};

/// Longest repair budget: the header's 16 bits of 100 µs hold 6.5 s for budget and path together.
pub const LONGEST_BUDGET: Duration = Duration::from_secs(5);

/// How a class is delivered that names neither a profile nor anything else.
const PLAIN: Delivery = Delivery {
    budget: Duration::from_millis(500),
    reorder: Duration::ZERO,
    residual: Residual(80),
    repair_share: None,
    repair_bps: None,
};

fn built_in(
    name: &str,
    dscp: &[u8],
    objective: Objective,
    budget_ms: u64,
    reorder_ms: u64,
    residual: Residual,
) -> ClassSpec {
    ClassSpec {
        name: name.into(),
        matches: Match { dscp: dscp.to_vec(), ..Match::default() },
        policy: Policy { objective, ..Policy::default() },
        delivery: Delivery {
            budget: Duration::from_millis(budget_ms),
            reorder: Duration::from_millis(reorder_ms),
            residual,
            ..Delivery::NONE
        },
        marking: Marking::Copy,
    }
}

/// The class of a profile, as a file with nothing but `profile` has it.
fn of_profile(profile: Profile) -> ClassSpec {
    ClassSpec {
        name: profile.name().into(),
        matches: Match { dscp: profile.dscp().to_vec(), ..Match::default() },
        policy: Policy { objective: profile.objective(), ..Policy::default() },
        delivery: profile.delivery(),
        marking: Marking::Copy,
    }
}

/// The class that takes what no other takes.
pub fn last() -> ClassSpec {
    // TCP above all, and its window at a loss of 1e-4 is small: see `Profile::delivery`, bulk.
    built_in("default", &[], Objective::Latency, 500, 500, PLAIN.residual)
}

/// The classes in force where the file has none.
pub fn defaults() -> Vec<ClassSpec> {
    let usual = Residual::USUAL;
    vec![
        // EF, VOICE-ADMIT, CS5, CS4: voice, games, control loops. Late is lost, so nothing waits.
        built_in("realtime", &[46, 44, 40, 32], Objective::Latency, 60, 0, usual),
        // AF4x, AF3x, CS3, AF2x, CS2: conferences, desktops, terminals.
        built_in(
            "interactive",
            &[34, 36, 38, 26, 28, 30, 24, 18, 20, 22, 16],
            Objective::Latency,
            120,
            60,
            usual,
        ),
        // CS1, AF1x: copies and backups. The cheapest path that works.
        of_profile(Profile::Bulk),
        // LE: what yields to everything else takes no bytes for its repair either.
        ClassSpec {
            policy: Policy { objective: Objective::Cost, ..Policy::default() },
            ..of_profile(Profile::None)
        },
        last(),
    ]
}

/// Reads every `[[class]]`; puts [`last`] behind a list that would leave packets without one.
pub(super) fn read(reader: &mut Reader<'_>, sections: &[Section<'_, '_>]) -> Vec<ClassSpec> {
    if sections.is_empty() {
        return defaults();
    }
    let mut classes: Vec<ClassSpec> = Vec::new();
    let mut takes_all: Option<String> = None;
    for section in sections {
        let Some(class) = read_one(reader, section) else { continue };
        if classes.iter().any(|c| c.name == class.name) {
            let what = format!("[[class]] `{}` is there twice", class.name);
            reader.problem(&section.place("name"), what, "give each class its own name");
        }
        if let Some(first) = &takes_all {
            let what = format!("[[class]] `{}` can never match: `{first}` takes all", class.name);
            reader.problem(&section.place("name"), what, format!("move it before `{first}`"));
        } else if class.matches == Match::default() {
            takes_all = Some(class.name.clone());
        }
        classes.push(class);
    }
    if takes_all.is_none() {
        if let Some(place) = classes.iter().position(|c| c.name == "default") {
            let what = "[[class]] `default` must take everything, but has conditions";
            let fix = "rename it, or leave its `prefixes`, `dscp`, `protocols` and `ports` out";
            reader.problem(&sections[place.min(sections.len() - 1)].place("name"), what, fix);
        }
        classes.push(last());
    }
    if classes.len() > Class::LIMIT {
        let what =
            format!("{} classes are more than the {} there can be", classes.len(), Class::LIMIT);
        reader.whole(what, "merge some, or leave some out");
    }
    classes
}

fn read_one(reader: &mut Reader<'_>, section: &Section<'_, '_>) -> Option<ClassSpec> {
    let words = Profile::ALL.map(|profile| (profile.name(), profile));
    let profile = section.read(reader, "profile", |v| value::word(v, &words));
    let unknown = section.is_given("profile") && profile.is_none();
    let name = if section.is_given("profile") && !section.is_given("name") {
        profile.map(|profile| profile.name().to_owned())
    } else {
        section.need(reader, "name", "\"video\"", value::node_name)
    };
    let matches = read_match(reader, section, profile);
    let marking = section.read(reader, "outer_dscp", value::marking);
    let words = Objective::ALL.map(|objective| (objective.name(), objective));
    let objective = section.read(reader, "objective", |v| value::word(v, &words));
    let limits = Limits {
        max_latency: section.read(reader, "max_latency", value::duration),
        max_jitter: section.read(reader, "max_jitter", value::duration),
        max_loss: section.read(reader, "max_loss", value::ratio),
        max_price: section.read(reader, "max_price", value::price),
    };
    if limits.max_latency == Some(Duration::ZERO) {
        let fix = "no path is that fast: write for example \"80ms\", or leave it out";
        reader.problem(&section.place("max_latency"), "[[class]] max_latency is zero", fix);
    }
    let [avoid, prefer] = ["avoid", "prefer"].map(|key| {
        let names = section.read(reader, key, |v| value::list(v, value::node_name));
        // In order and each once: the same wish twice is one policy.
        names.into_iter().flatten().collect::<BTreeSet<String>>()
    });
    if let Some(both) = avoid.intersection(&prefer).next() {
        let what = format!("[[class]] both avoids and prefers `{both}`");
        let fix = "take it out of `avoid` or out of `prefer`";
        reader.problem(&section.place("prefer"), what, fix);
    }
    let words = Fallback::ALL.map(|fallback| (fallback.name(), fallback));
    let fallback = section.read(reader, "fallback", |v| value::word(v, &words));
    let delivery = read_delivery(reader, section, profile.map_or(PLAIN, Profile::delivery));
    let objective = objective.or(profile.map(Profile::objective)).unwrap_or_default();
    if unknown {
        // What it takes and how is a guess; complaining about that would mislead.
        return None;
    }
    Some(ClassSpec {
        name: name?,
        matches,
        policy: Policy {
            objective,
            limits,
            avoid: avoid.into_iter().collect(),
            prefer: prefer.into_iter().collect(),
            fallback: fallback.unwrap_or_default(),
        },
        delivery,
        marking: marking.unwrap_or_default(),
    })
}

/// Which packets a class takes: what it says, or else what applications of its profile are marked with.
fn read_match(
    reader: &mut Reader<'_>,
    section: &Section<'_, '_>,
    profile: Option<Profile>,
) -> Match {
    let prefixes = section.read(reader, "prefixes", |v| value::list(v, value::prefix));
    let dscp = section.read(reader, "dscp", |v| value::list(v, value::dscp));
    let protocols = section.read(reader, "protocols", |v| value::list(v, value::protocol));
    let ports = section.read(reader, "ports", |v| value::list(v, value::ports));
    let mut matches = Match {
        prefixes: prefixes.unwrap_or_default(),
        dscp: dscp.unwrap_or_default(),
        protocols: protocols.unwrap_or_default(),
        ports: ports.unwrap_or_default(),
    };
    if !matches.ports.is_empty() && !matches.protocols.is_empty() {
        // IPPROTO_TCP, IPPROTO_UDP: the others have no ports.
        if !matches.protocols.iter().any(|p| [6, 17].contains(p)) {
            let what = "[[class]] has `ports`, but none of its `protocols` has any";
            let fix = "add \"tcp\" or \"udp\" to `protocols`, or leave `ports` out";
            reader.problem(&section.place("ports"), what, fix);
        }
    }
    let conditions = ["prefixes", "dscp", "protocols", "ports"];
    let silent = !conditions.iter().any(|key| section.is_given(key));
    if let Some(profile) = profile.filter(|_| silent) {
        matches.dscp = profile.dscp().to_vec();
        if matches.dscp.is_empty() {
            let name = profile.name();
            let what =
                format!("[[class]] of profile \"{name}\" does not say which packets it takes");
            let fix = "no code points are customary for it: write `prefixes`, `ports`, `protocols` or \
                       `dscp`, or `dscp = []` for all packets";
            reader.problem(&section.place("profile"), what, fix);
        }
    }
    matches
}

/// How packets are delivered: what the section says, over what its profile says.
fn read_delivery(reader: &mut Reader<'_>, section: &Section<'_, '_>, usual: Delivery) -> Delivery {
    let budget = section.read(reader, "repair_budget", value::duration).unwrap_or(usual.budget);
    if budget > LONGEST_BUDGET {
        let what = format!("[[class]] repair_budget is {}", humantime::format_duration(budget));
        let fix = "write at most \"5s\": the packet's header holds no more";
        reader.problem(&section.place("repair_budget"), what, fix);
    }
    let reorder = section.read(reader, "reorder", value::duration);
    if let Some(reorder) = reorder.filter(|&reorder| reorder > budget) {
        let what = format!(
            "[[class]] reorder ({}) is longer than repair_budget ({})",
            humantime::format_duration(reorder),
            humantime::format_duration(budget)
        );
        let fix = "nothing comes later than the budget: lower `reorder` or raise `repair_budget`";
        reader.problem(&section.place("reorder"), what, fix);
    }
    let residual = section.read(reader, "residual", value::residual);
    let repair_share = section.read(reader, "repair_share", |v| match value::ratio(v)? {
        Ratio::ZERO => Err(no_repair()),
        share => Ok(share),
    });
    let repair_bps = section.read(reader, "repair_rate", |v| match value::rate(v)? {
        0 => Err(no_repair()),
        bps => Ok(bps),
    });
    Delivery {
        budget,
        reorder: reorder.unwrap_or(usual.reorder.min(budget)),
        residual: residual.unwrap_or(usual.residual),
        repair_share: repair_share.or(usual.repair_share),
        repair_bps: repair_bps.or(usual.repair_bps),
    }
}

fn no_repair() -> value::Bad {
    value::Bad::new("is zero", "write repair_budget = \"0ms\" where nothing is to be repaired")
}
