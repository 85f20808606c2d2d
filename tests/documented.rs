//! The documentation keeps up with the program: every key, every series, every sample.

use std::path::Path;

use thalweg::config::profile::Profile;
use thalweg::config::{Config, class, keys};
use thalweg::route::policy::Delivery;

fn read(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

#[test]
fn every_key_is_documented_under_its_table_with_its_default() {
    let docs = read("docs/config.md");
    for table in keys::TABLES {
        let heading = format!("\n## `{}`", table.heading());
        let at = docs.find(&heading).unwrap_or_else(|| panic!("docs/config.md lacks{heading}"));
        let section = &docs[at + heading.len()..];
        let section = &section[..section.find("\n## ").unwrap_or(section.len())];
        for key in table.keys {
            let row = format!("\n| `{}` | ", key.name);
            let at = section.find(&row);
            let at = at.unwrap_or_else(|| panic!("{heading}: no row for `{}`", key.name));
            let row = section[at + row.len()..].lines().next().expect("a row");
            let default = row.split(" | ").next().expect("a default");
            if key.default.is_empty() {
                assert!(!default.starts_with('`'), "{heading} {}: has no default", key.name);
            } else {
                assert_eq!(default, format!("`{}`", key.default), "{heading} {}", key.name);
            }
        }
        let rows = section.matches("\n| `").count();
        assert_eq!(rows, table.keys.len(), "{heading} documents keys that are not there");
    }
}

#[test]
fn the_built_in_classes_are_documented_as_they_are() {
    let docs = read("docs/config.md");
    for class in class::defaults() {
        let row = format!(
            "\n| {} | {} | {} | ",
            class.name,
            class.policy.objective.name(),
            delivery(&class.delivery)
        );
        assert!(docs.contains(&row), "docs/config.md lacks{row}");
    }
}

/// Budget, reorder and residual as cells of a table.
fn delivery(delivery: &Delivery) -> String {
    let residual = match delivery.budget.is_zero() {
        true => "not repaired".to_owned(),
        false => format!("{}%", (delivery.residual.as_f64() * 1e7).round() / 1e5),
    };
    let (budget, reorder) = (delivery.budget.as_millis(), delivery.reorder.as_millis());
    format!("{budget} ms | {reorder} ms | {residual}")
}

#[test]
fn the_profiles_are_documented_as_they_are() {
    let docs = read("docs/config.md");
    let profiles = &docs[docs.find("\n### Profiles").expect("a section")..];
    for profile in Profile::ALL {
        let share = profile.delivery().repair_share;
        let share = share.map_or("no bound".into(), |s| format!("{}%", s.as_ppm() / 10_000));
        let row = format!(
            "\n| {} | {} | {} | {share} | ",
            profile.name(),
            profile.objective().name(),
            delivery(&profile.delivery())
        );
        let at = profiles.find(&row).unwrap_or_else(|| panic!("docs/config.md lacks{row}"));
        let takes = profiles[at + row.len()..].lines().next().expect("a row");
        assert_eq!(profile.dscp().is_empty(), takes.contains("must be said"), "{takes}");
    }
}

#[test]
fn every_sample_parses() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples");
    let mut found = 0;
    let mut folders = vec![root];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "toml") {
                let text = std::fs::read_to_string(&path).unwrap();
                Config::parse(&text, &path).unwrap_or_else(|e| panic!("{e}"));
                found += 1;
            }
        }
    }
    assert!(found >= 3, "only {found} samples");
}
