//! Files in the tree that are made from the code are current. `cargo run -p tools -- write` makes them
//! anew (it runs this with `THALWEG_WRITE=1`).

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use thalweg::daemon::drops::REASONS;
use thalweg::metrics;

fn root(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// Says whether a file is as it should be, or makes it so.
fn check(path: &str, wanted: &str) {
    let file = root(path);
    if std::env::var_os("THALWEG_WRITE").is_some_and(|v| v == "1") {
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(&file, wanted).unwrap();
    }
    let found = std::fs::read_to_string(&file).unwrap_or_default();
    assert!(found == wanted, "{path} is not current: cargo run -p tools -- write");
}

fn thalweg(arguments: &[&str]) -> String {
    let ended = Command::new(env!("CARGO_BIN_EXE_thalweg")).args(arguments).output().unwrap();
    assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
    String::from_utf8(ended.stdout).unwrap()
}

const METRICS: &str = "\
# Metrics

`/metrics` on `[metrics] listen` ([configuration](config.md)), text form 0.0.4. Seconds, bytes, ratios
from 0 to 1. What has not been measured has no sample. `peer` is a node's name, `link` the local number
shown by `thalweg links`; `direction` of a link is `outbound` or `inbound` for readings, `sent` or
`received` for bytes, and feedback is one `kind` of them. The figures of a hop (`thalweg_link_hop_*`, burst,
repair overhead) are those of the outbound direction as data frames find it; they have no sample 30 s
after the last one. Series per link and per path grow with the number of nodes, not with its square.

Alert rules and a board are in [`monitoring`](../monitoring/README.md). This file is written from the code
(`cargo run -p tools -- write`).

";

const DROPS: &str = "
## Reasons for drops

The values of `reason` in `thalweg_dropped_packets_total`, as `thalweg drops` shows them.

| reason | what it means | what to do |
|---|---|---|
";

#[test]
fn the_list_of_metrics_is_current() {
    let row = |(reason, meaning, remedy): &(&str, &str, &str)| {
        format!("| `{reason}` | {meaning} | {remedy} |\n")
    };
    let reasons: String = REASONS.iter().map(row).collect();
    check("docs/metrics.md", &[METRICS, &metrics::table(), DROPS, &reasons].concat());
}

#[test]
fn completions_are_current() {
    let shells = [("bash", "thalweg.bash"), ("zsh", "_thalweg"), ("fish", "thalweg.fish")];
    for (shell, file) in shells {
        check(&format!("packaging/completions/{file}"), &thalweg(&["completions", shell]));
    }
}

#[test]
fn man_pages_are_current_and_there_is_one_for_every_command() {
    let dir = tempfile::tempdir().unwrap();
    thalweg(&["man", "--out", dir.path().to_str().unwrap()]);
    let names = |folder: &Path| -> BTreeSet<String> {
        let entries = std::fs::read_dir(folder).unwrap();
        entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect()
    };
    let made = names(dir.path());
    for name in ["thalweg.1", "thalweg-explain.1", "thalweg-cert-issue.1"] {
        assert!(made.contains(name), "{name} in {made:?}");
    }
    for name in &made {
        let page = std::fs::read_to_string(dir.path().join(name)).unwrap();
        check(&format!("packaging/man/{name}"), &page);
    }
    assert_eq!(names(&root("packaging/man")), made, "pages of commands that are no more");
}

/// Whether `systemd-analyze` can be asked.
fn systemd_is_here() -> bool {
    let there = Command::new("systemd-analyze").arg("--version").output();
    let there = there.is_ok_and(|output| output.status.success());
    if !there {
        let required = std::env::var_os("THALWEG_REQUIRE_SYSTEMD").is_some_and(|v| v == "1");
        assert!(!required, "needs systemd-analyze");
        println!("skipped: needs systemd-analyze");
    }
    there
}

#[test]
fn systemd_understands_the_unit_and_finds_it_confined() {
    if !systemd_is_here() {
        return;
    }
    let unit = std::fs::read_to_string(root("packaging/thalweg.service")).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("thalweg.service");
    // It asks whether the program is there.
    let here = unit.replace("/usr/bin/thalweg", env!("CARGO_BIN_EXE_thalweg"));
    std::fs::write(&file, here).unwrap();
    let analyze = |arguments: &[&str]| {
        let ended = Command::new("systemd-analyze").args(arguments).arg(&file).output().unwrap();
        let text = [ended.stdout, ended.stderr].concat();
        (ended.status.success(), String::from_utf8_lossy(&text).into_owned())
    };
    let (good, said) = analyze(&["verify", "--man=no"]);
    assert!(good && said.trim().is_empty(), "{said}");
    // Its scale goes from 0, confined, to 100; what remains is what an overlay daemon must be able to do.
    let (good, said) = analyze(&["security", "--offline=true", "--threshold=25", "--no-pager"]);
    assert!(good, "{said}");
}
