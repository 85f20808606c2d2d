//! The built-in classes of traffic, and the reading of `[[class]]`.
//!
//! Budgets say how long a packet may be late beyond the path's own delay and still be of use: a
//! voice codec's play-out buffer bridges about 60 ms, a person typing notices 150 ms. TCP's own timer
//! waits a round trip and at least 200 ms more (Linux `TCP_RTO_MIN`) and learns to wait longer, so its
//! packets may be late by a whole round trip of a long hop and the feedback's delay: with less, no
//! repair fits where the line is longest and TCP suffers most. The code points are those of RFC 4594
//! and RFC 8622.

use std::time::Duration;

use super::read::{Reader, Section};
use super::value;
use crate::id::Class;
use crate::route::policy::{ClassSpec, Delivery, Limits, Marking, Match, Objective, Policy};

/// Longest repair budget: the header's 16 bits of 100 µs hold 6.5 s for budget and path together.
pub const LONGEST_BUDGET: Duration = Duration::from_secs(5);

/// Repair budget of a class that names none.
const BUDGET: Duration = Duration::from_millis(500);

fn built_in(
    name: &str,
    dscp: &[u8],
    objective: Objective,
    budget_ms: u64,
    reorder_ms: u64,
) -> ClassSpec {
    ClassSpec {
        name: name.into(),
        matches: Match { prefixes: Vec::new(), dscp: dscp.to_vec() },
        policy: Policy { objective, limits: Limits::default() },
        delivery: Delivery {
            budget: Duration::from_millis(budget_ms),
            reorder: Duration::from_millis(reorder_ms),
            ..Delivery::NONE
        },
        marking: Marking::Copy,
    }
}

/// The class that takes what no other takes.
pub fn fallback() -> ClassSpec {
    built_in("default", &[], Objective::Latency, 500, 500)
}

/// The classes in force where the file has none.
pub fn defaults() -> Vec<ClassSpec> {
    vec![
        // EF, VOICE-ADMIT, CS5, CS4: voice, games, control loops. Late is lost, so nothing waits.
        built_in("realtime", &[46, 44, 40, 32], Objective::Latency, 60, 0),
        // AF4x, AF3x, CS3, AF2x, CS2: conferences, desktops, terminals.
        built_in(
            "interactive",
            &[34, 36, 38, 26, 28, 30, 24, 18, 20, 22, 16],
            Objective::Latency,
            120,
            60,
        ),
        // CS1, LE, AF1x: copies and backups. The cheapest path that works.
        built_in("bulk", &[8, 1, 10, 12, 14], Objective::Cost, 1000, 1000),
        fallback(),
    ]
}

/// Reads every `[[class]]`; puts [`fallback`] behind a list that would leave packets without one.
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
            let fix = "rename it, or leave its `prefixes` and `dscp` out";
            reader.problem(&sections[place.min(sections.len() - 1)].place("name"), what, fix);
        }
        classes.push(fallback());
    }
    if classes.len() > Class::LIMIT {
        let what =
            format!("{} classes are more than the {} there can be", classes.len(), Class::LIMIT);
        reader.whole(what, "merge some, or leave some out");
    }
    classes
}

fn read_one(reader: &mut Reader<'_>, section: &Section<'_, '_>) -> Option<ClassSpec> {
    let name = section.need(reader, "name", "\"video\"", value::node_name);
    let prefixes = section.read(reader, "prefixes", |v| value::list(v, value::prefix));
    let dscp = section.read(reader, "dscp", |v| value::list(v, value::dscp));
    let marking = section.read(reader, "outer_dscp", value::marking);
    let words = Objective::ALL.map(|objective| (objective.name(), objective));
    let objective = section.read(reader, "objective", |v| value::word(v, &words));
    let limits = Limits {
        max_latency: section.read(reader, "max_latency", value::duration),
        max_loss: section.read(reader, "max_loss", value::ratio),
        max_price: section.read(reader, "max_price", value::price),
    };
    let budget = section.read(reader, "repair_budget", value::duration).unwrap_or(BUDGET);
    let reorder = section.read(reader, "reorder", value::duration).unwrap_or_default();
    if budget > LONGEST_BUDGET {
        let what = format!("[[class]] repair_budget is {}", humantime::format_duration(budget));
        let fix = "write at most \"5s\": the packet's header holds no more";
        reader.problem(&section.place("repair_budget"), what, fix);
    }
    if reorder > budget {
        let what = format!(
            "[[class]] reorder ({}) is longer than repair_budget ({})",
            humantime::format_duration(reorder),
            humantime::format_duration(budget)
        );
        let fix = "nothing comes later than the budget: lower `reorder` or raise `repair_budget`";
        reader.problem(&section.place("reorder"), what, fix);
    }
    if limits.max_latency == Some(Duration::ZERO) {
        let fix = "no path is that fast: write for example \"80ms\", or leave it out";
        reader.problem(&section.place("max_latency"), "[[class]] max_latency is zero", fix);
    }
    Some(ClassSpec {
        name: name?,
        matches: Match { prefixes: prefixes.unwrap_or_default(), dscp: dscp.unwrap_or_default() },
        policy: Policy { objective: objective.unwrap_or_default(), limits },
        delivery: Delivery { budget, reorder, ..Delivery::NONE },
        marking: marking.unwrap_or_default(),
    })
}
