//! The shape of the tree, checked: arrows point down, foreign crates keep to their doors, every
//! file says what it is.
//!
//! Reads the sources as text. A line that mentions `crate::MODULE` (or, outside the library,
//! `thalweg::MODULE`) is an arrow; test modules are left out, since a test may look around.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

/// Layer of each top module of the library, lowest first. A module may use lower layers and its own
/// top module; modules of one layer are strangers, but for the pairs in [`ALLOWED`].
const LAYERS: &[(&str, u8)] = &[
    ("unit", 0),
    ("id", 0),
    ("time", 0),
    ("rng", 0),
    ("buf", 0),
    ("quality", 0),
    ("config", 0),
    ("report", 0),
    ("metrics", 0),
    ("wire", 1),
    ("session", 2),
    ("probe", 2),
    ("topology", 2),
    ("route", 2),
    ("control", 2),
    ("fec", 2),
    ("forward", 3),
    ("node", 4),
    ("daemon", 5),
    ("main", 6),
];

/// Arrows between modules of one layer, or up, that the design names.
const ALLOWED: &[(&str, &str, &str)] = &[
    ("route", "topology", "the solver reads the graph"),
    ("control", "session", "a stream authenticates the peer and exports the secret"),
    ("topology", "session", "members and link state are signed by certified keys"),
    ("topology", "control", "members and link state travel as control messages"),
    ("config", "route", "a class's policy is written in the configuration"),
    ("buf", "id", "words of one layer"),
    ("metrics", "report", "the scrape reads the report"),
];

/// Which files may name a foreign crate. A prefix ending in `/` is a folder.
const DOORS: &[(&str, &[&str])] = &[
    ("tokio", &["src/daemon/", "src/main.rs"]),
    ("quinn", &["src/daemon/"]),
    ("rustls", &["src/daemon/"]),
    ("rcgen", &["src/daemon/"]),
    ("x509_parser", &["src/daemon/"]),
    ("hyper", &["src/daemon/"]),
    ("rtnetlink", &["src/daemon/"]),
    ("tun_rs", &["src/daemon/", "netsim/src/netns/"]),
    ("socket2", &["src/daemon/", "netsim/src/"]),
    ("petgraph", &["src/topology/graph.rs", "src/route/solve.rs", "src/route/solve/"]),
    ("aws_lc_rs", &["src/session/", "src/daemon/"]),
    ("prometheus", &["src/metrics.rs", "src/metrics/"]),
];

/// One thing out of shape.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Finding {
    /// The file, relative to the root.
    pub(crate) file: PathBuf,
    /// The line, from one; zero for the whole file.
    pub(crate) line: usize,
    /// What is wrong and what would mend it.
    pub(crate) what: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.file.display(), self.line, self.what)
    }
}

/// Everything out of shape below `root`, in order of file and line.
///
/// # Errors
/// A source file that cannot be read.
pub(crate) fn check(root: &Path) -> std::io::Result<Vec<Finding>> {
    let mut files = Vec::new();
    for top in ["src", "netsim/src", "tools/src"] {
        collect(&root.join(top), &mut files)?;
    }
    files.sort();
    let mut findings = Vec::new();
    for file in files {
        let text = fs::read_to_string(&file)?;
        let relative = file.strip_prefix(root).unwrap_or(&file).to_path_buf();
        check_file(&relative, &text, &mut findings);
    }
    Ok(findings)
}

fn collect(dir: &Path, files: &mut Vec<PathBuf>) -> std::io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            collect(&path, files)?;
        } else if path.extension().is_some_and(|e| e == "rs") {
            files.push(path);
        }
    }
    Ok(())
}

fn check_file(file: &Path, text: &str, findings: &mut Vec<Finding>) {
    let name = file.to_string_lossy().into_owned();
    let mut say = |line: usize, what: String| {
        findings.push(Finding { file: file.to_path_buf(), line, what });
    };
    let head = text.lines().find(|l| !l.trim().is_empty() && !l.starts_with("#!["));
    if !head.is_some_and(|l| l.starts_with("//!")) {
        say(0, "a file opens with `//!`: what it is, the idea, the source".into());
    }
    let own = top_module(&name);
    for (index, line) in code_lines(text) {
        if let Some(own) = own {
            for target in arrows(line) {
                if let Some(why) = forbidden(own, target) {
                    say(index + 1, why);
                }
            }
        }
        for (krate, doors) in DOORS {
            if mentions(line, krate) && !doors.iter().any(|d| name.starts_with(d)) {
                say(
                    index + 1,
                    format!("`{krate}` is used outside its door ({})", doors.join(", ")),
                );
            }
        }
    }
}

/// The top module a file of the library belongs to.
fn top_module(name: &str) -> Option<&str> {
    let rest = name.strip_prefix("src/")?;
    let top = rest.split('/').next()?.trim_end_matches(".rs");
    (top != "lib").then_some(top)
}

/// Lines of code: no comments, nothing from the first test module on.
fn code_lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.lines()
        .enumerate()
        .take_while(|(_, l)| !l.trim_start().starts_with("#[cfg(test)]"))
        .filter(|(_, l)| !l.trim_start().starts_with("//"))
}

/// The modules of the library that a line names.
fn arrows(line: &str) -> impl Iterator<Item = &str> {
    line.split("crate::").skip(1).map(|rest| {
        let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
        &rest[..end]
    })
}

fn mentions(line: &str, krate: &str) -> bool {
    line.match_indices(krate).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        line[at + krate.len()..].starts_with("::")
            && !before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':')
    })
}

fn forbidden(own: &str, target: &str) -> Option<String> {
    let layer = |m: &str| LAYERS.iter().find(|(name, _)| *name == m).map(|(_, l)| *l);
    if own == target {
        return None;
    }
    let (Some(from), Some(to)) = (layer(own), layer(target)) else {
        let unknown = if layer(own).is_none() { own } else { target };
        // A macro or an item at the crate's root is no module.
        return layer(own)
            .is_none()
            .then(|| format!("module `{unknown}` has no layer in tools/src/tidy.rs"));
    };
    let allowed = ALLOWED.iter().any(|(a, b, _)| (*a, *b) == (own, target));
    (to > from || (to == from && from != 0)).then_some(())?;
    (!allowed).then(|| format!("`{own}` may not use `{target}`: code uses lower layers only"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn findings(file: &str, text: &str) -> Vec<String> {
        let mut found = Vec::new();
        check_file(Path::new(file), text, &mut found);
        found.into_iter().map(|f| f.what).collect()
    }

    #[test]
    fn an_arrow_that_points_up_is_found() {
        let text = "//! x\nuse crate::node::Node;\n";
        assert_eq!(findings("src/forward/mod.rs", text).len(), 1);
        assert!(findings("src/daemon/driver.rs", text).is_empty());
    }

    #[test]
    fn strangers_of_one_layer_stay_strangers_and_named_pairs_do_not() {
        let text = "//! x\nuse crate::topology::graph::Graph;\n";
        assert_eq!(findings("src/probe/mod.rs", text).len(), 1);
        assert!(findings("src/route/solve.rs", text).is_empty());
    }

    #[test]
    fn a_foreign_crate_outside_its_door_is_found_and_a_test_may_look_around() {
        let text = "//! x\nuse tokio::net::UdpSocket;\n";
        assert_eq!(findings("src/forward/mod.rs", text).len(), 1);
        let test = "//! x\n#[cfg(test)]\nmod tests { use tokio::net::UdpSocket; }\n";
        assert!(findings("src/forward/mod.rs", test).is_empty());
    }

    #[test]
    fn a_file_without_a_head_is_found() {
        assert_eq!(findings("src/time.rs", "use std::fmt;\n").len(), 1);
        assert!(findings("src/time.rs", "#![allow(unsafe_code)]\n//! x\n").is_empty());
    }

    #[test]
    fn this_tree_is_in_shape() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tools lies in the root");
        let found = check(root).expect("the sources can be read");
        let list: Vec<_> = found.iter().map(ToString::to_string).collect();
        assert!(list.is_empty(), "out of shape:\n{}", list.join("\n"));
    }
}
