//! `thalweg policy test`: what the classes of a configuration do with a mesh as it once was.
//!
//! No daemon is asked. A snapshot (`thalweg matrix --json`) becomes the graph that the daemon of each
//! source would build, the same solver answers, and each expectation is held against its best path and
//! the backup beside it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::json;
use thalweg::config::Config;
use thalweg::daemon::admin::{Body, Envelope};
use thalweg::id::{LinkId, NodeId};
use thalweg::quality::{LinkQuality, LinkState};
use thalweg::report::{Answer, Matrix, SCHEMA_VERSION, Stretch};
use thalweg::route::policy::{ClassSpec, Fallback};
use thalweg::route::solve::{Candidate, Solver};
use thalweg::route::terms::Terms;
use thalweg::topology::graph::Graph;
use thalweg::unit::{Price, Ratio};

use super::{End, cert, json_text};

/// A file of expectations.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Test {
    /// The configuration whose classes are tested.
    config: PathBuf,
    /// What `thalweg matrix --json` printed.
    snapshot: PathBuf,
    /// What must hold.
    #[serde(default)]
    expect: Vec<Expectation>,
}

/// One thing that must hold.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Expectation {
    /// The class's name.
    class: String,
    /// The source's name, or `*` for every node.
    from: String,
    /// The destination's name, or `*` for every node.
    to: String,
    /// Whether there is a path at all.
    #[serde(default = "yes")]
    reachable: bool,
    /// Nodes that neither the path nor its backup crosses.
    #[serde(default)]
    never_over: Vec<String>,
    /// Nodes that the path crosses, each of them.
    #[serde(default)]
    over: Vec<String>,
    /// Whether the path has no relay.
    direct: Option<bool>,
    /// Whether the path keeps every limit of the class.
    keeps_limits: Option<bool>,
    /// Whether another path stands by.
    has_backup: Option<bool>,
    /// Greatest one-way delay of the path.
    max_latency: Option<String>,
    /// Greatest price of a gigabyte over the path.
    max_price: Option<f64>,
}

fn yes() -> bool {
    true
}

/// How one expectation fared between one pair.
#[derive(Debug, Serialize)]
struct Verdict {
    class: String,
    from: String,
    to: String,
    holds: bool,
    /// The nodes of the path after the source; empty where there is none.
    path: Vec<String>,
    delay_ms: Option<f64>,
    /// Whether packets are dropped, since no path keeps the limits.
    dropped: bool,
    /// What is not as expected.
    problems: Vec<String>,
}

/// `policy test`.
pub(crate) fn test(file: &Path, json: bool) -> End {
    let (verdicts, warnings) = match run(file) {
        Ok(outcome) => outcome,
        Err(problems) => return End::Wrong(problems.join("\n")),
    };
    let failed = verdicts.iter().filter(|v| !v.holds).count();
    let text = if json {
        json_text(&json!({
            "schema_version": SCHEMA_VERSION,
            "ok": failed == 0,
            "verdicts": verdicts,
            "warnings": warnings,
        }))
    } else {
        let mut text: String = warnings.iter().map(|what| format!("WARNING  {what}\n")).collect();
        text.extend(verdicts.iter().map(line));
        text += &format!("{} held, {failed} did not\n", verdicts.len() - failed);
        text
    };
    if failed == 0 { End::Done(text) } else { End::Unmet(text) }
}

fn line(v: &Verdict) -> String {
    let way = match v.path.split_last() {
        None if v.dropped => "dropped".to_owned(),
        None => "no path".to_owned(),
        Some((_, [])) => "direct".to_owned(),
        Some((_, relays)) => format!("via {}", relays.join(", ")),
    };
    let delay = v.delay_ms.map_or(String::new(), |ms| format!(", {ms:.1} ms"));
    let word = if v.holds { "holds" } else { "FAILS" };
    let problems = match v.problems.as_slice() {
        [] => String::new(),
        problems => format!(": {}", problems.join("; ")),
    };
    format!("{word}  {} from {} to {} ({way}{delay}){problems}\n", v.class, v.from, v.to)
}

/// How each expectation fared, and what looks like a slip of the pen.
type Outcome = (Vec<Verdict>, Vec<String>);

fn run(file: &Path) -> Result<Outcome, Vec<String>> {
    let text = read(file)?;
    let test: Test = toml::from_str(&text)
        .map_err(|e| vec![format!("{}: {}", file.display(), e.to_string().trim_end())])?;
    let base = file.parent().unwrap_or(Path::new(""));
    let config = cert::load(&base.join(&test.config))?;
    let mesh = snapshot(&base.join(&test.snapshot))?;
    let problems: Vec<String> =
        test.expect.iter().flat_map(|e| unknown(e, &config, &mesh, file)).collect();
    if !problems.is_empty() {
        return Err(problems);
    }
    if test.expect.is_empty() {
        return Err(vec![format!("{}: no [[expect]] in it", file.display())]);
    }
    let tested = |class: &&ClassSpec| test.expect.iter().any(|e| e.class == class.name);
    let warnings =
        config.classes.iter().filter(tested).flat_map(|class| strangers(class, &mesh)).collect();
    let mut graphs = BTreeMap::new();
    let mut verdicts = Vec::new();
    for expectation in &test.expect {
        let Some(class) = config.classes.iter().find(|c| c.name == expectation.class) else {
            continue;
        };
        let named = |pattern: &str, name: &str| pattern == "*" || pattern == name;
        for from in mesh.nodes.iter().filter(|n| named(&expectation.from, &n.name)) {
            let graph = graphs
                .entry(from.node)
                .or_insert_with(|| graph(&mesh, &from.name, config.relay.use_relays));
            let Some(graph) = graph else { continue };
            let others = mesh.nodes.iter().filter(|n| n.node != from.node);
            for to in others.filter(|n| named(&expectation.to, &n.name)) {
                verdicts.push(judge(expectation, class, graph, &mesh, &from.name, &to.name));
            }
        }
    }
    Ok((verdicts, warnings))
}

/// Nodes that a class avoids or prefers and that the snapshot does not know.
fn strangers(class: &ClassSpec, mesh: &Matrix) -> Vec<String> {
    let wishes = [("avoid", &class.policy.avoid), ("prefer", &class.policy.prefer)];
    let unknown = |name: &&String| mesh.nodes.iter().all(|node| node.name != **name);
    let say = |wish: &str, name: &String| {
        format!("class `{}`: `{wish}` names `{name}`, which the snapshot does not know", class.name)
    };
    wishes
        .into_iter()
        .flat_map(|(wish, names)| names.iter().filter(unknown).map(move |name| say(wish, name)))
        .collect()
}

fn read(file: &Path) -> Result<String, Vec<String>> {
    std::fs::read_to_string(file)
        .map_err(|e| vec![format!("{}: cannot be read: {e}", file.display())])
}

fn snapshot(file: &Path) -> Result<Matrix, Vec<String>> {
    let text = read(file)?;
    match serde_json::from_str::<Envelope>(&text) {
        Ok(Envelope { body: Body::Answer(Answer::Matrix(matrix)), .. }) => Ok(matrix),
        Ok(_) => Err(vec![format!(
            "{}: holds another answer; write it with `thalweg matrix --json`",
            file.display()
        )]),
        Err(error) => {
            Err(vec![format!("{}: {error}; write it with `thalweg matrix --json`", file.display())])
        }
    }
}

/// Names and values that mean nothing.
fn unknown(e: &Expectation, config: &Config, mesh: &Matrix, file: &Path) -> Vec<String> {
    let mut problems = Vec::new();
    let mut say = |what: String| problems.push(format!("{}: {what}", file.display()));
    if config.classes.iter().all(|c| c.name != e.class) {
        let known: Vec<_> = config.classes.iter().map(|c| c.name.as_str()).collect();
        say(format!("no class is named `{}`; there are {}", e.class, known.join(", ")));
    }
    let ends = [&e.from, &e.to].into_iter().filter(|name| *name != "*");
    for name in ends.chain(&e.never_over).chain(&e.over) {
        if mesh.nodes.iter().all(|n| n.name != *name) {
            say(format!("the snapshot knows no node `{name}`"));
        }
    }
    if let Some(text) = &e.max_latency
        && humantime::parse_duration(text).is_err()
    {
        say(format!("max_latency \"{text}\" is no time; write for example \"80ms\""));
    }
    problems
}

/// The mesh as its node of this name sees it; `None` where the snapshot contradicts itself.
fn graph(mesh: &Matrix, source: &str, use_relays: bool) -> Option<Graph> {
    let id = |name: &str| {
        let node = mesh.nodes.iter().find(|n| n.name == name)?;
        NodeId::new(node.node)
    };
    let source = id(source)?;
    let mut graph = Graph::new(source);
    for node in &mesh.nodes {
        if let Some(number) = NodeId::new(node.node).filter(|&n| n != source) {
            graph.add_node(number, node.relay && use_relays);
        }
    }
    for (number, link) in (0_u16..).zip(&mesh.links) {
        if let (Some(from), Some(to), Some(state)) = (id(&link.from), id(&link.to), state(link)) {
            graph.add_edge(from, to, (from == source).then_some(LinkId(number)), state);
        }
    }
    Some(graph)
}

/// A link as the solver knows it; `None` where it was not measured.
fn state(link: &Stretch) -> Option<LinkState> {
    let span = |ms: f64| Duration::from_secs_f64(ms.clamp(0.0, 3.6e6) / 1e3);
    let delay = link.delay_ms.filter(|ms| ms.is_finite())?;
    let present = LinkQuality {
        delay: span(delay),
        jitter: span(link.jitter_ms.unwrap_or(0.0)),
        loss: Ratio::from_f64(link.loss_ratio.unwrap_or(0.0)),
    };
    Some(LinkState {
        expected: link.forecast_ms.map(|ms| LinkQuality { delay: span(ms), ..present }),
        confidence: Ratio::from_f64(link.confidence_ratio.unwrap_or(0.0)),
        residual: link.residual_ratio.map(Ratio::from_f64),
        price: Price::from_f64(link.price_per_gb.unwrap_or(0.0)),
        present,
    })
}

fn judge(
    e: &Expectation,
    class: &ClassSpec,
    graph: &Graph,
    mesh: &Matrix,
    from: &str,
    to: &str,
) -> Verdict {
    let name = |node: NodeId| {
        let known = mesh.nodes.iter().find(|n| n.node == node.get());
        known.map_or_else(|| node.to_string(), |n| n.name.clone())
    };
    let names = |c: &Candidate| c.nodes.iter().map(|&n| name(n)).collect::<Vec<_>>();
    let relays = |c: &Candidate| names(c)[..c.nodes.len() - 1].to_vec();
    let named = |name: &str| {
        let node = mesh.nodes.iter().find(|n| n.name == name)?;
        NodeId::new(node.node)
    };
    let destination = named(to);
    let terms = Terms::of(&class.policy, named, false);
    let solutions = Solver::new(graph, &terms).solve();
    let solution = destination.and_then(|node| solutions.get(&node));
    let dropped = solution.and_then(|s| s.best.broken).filter(|_| terms.fallback == Fallback::Drop);
    let solution = solution.filter(|_| dropped.is_none());
    let best = solution.map(|s| &s.best);
    let backup = solution.and_then(|s| s.backup.as_ref());
    let mut problems = Vec::new();
    match (best, e.reachable) {
        (None, true) => problems.push(dropped.map_or("there is no path".to_owned(), |limit| {
            format!("packets are dropped: no path keeps {}", limit.name())
        })),
        (Some(_), false) => problems.push("there is a path".to_owned()),
        _ => {}
    }
    if let Some(best) = best.filter(|_| e.reachable) {
        for node in &e.never_over {
            if relays(best).contains(node) {
                problems.push(format!("it crosses {node}"));
            } else if backup.is_some_and(|b| relays(b).contains(node)) {
                problems.push(format!("its backup crosses {node}"));
            }
        }
        for node in e.over.iter().filter(|node| !relays(best).contains(node)) {
            problems.push(format!("it does not cross {node}"));
        }
        let mut differs = |wanted: Option<bool>, found: bool, what: [&str; 2]| {
            if wanted.is_some_and(|wanted| wanted != found) {
                problems.push(what[usize::from(found)].to_owned());
            }
        };
        differs(e.direct, best.nodes.len() == 1, ["it is relayed", "it is direct"]);
        let broken =
            best.broken.map_or(String::new(), |limit| format!("it breaks {}", limit.name()));
        differs(e.keeps_limits, best.broken.is_none(), [&broken, "it keeps every limit"]);
        differs(e.has_backup, backup.is_some(), ["it has no backup", "it has a backup"]);
        let bound = e.max_latency.as_ref().and_then(|text| humantime::parse_duration(text).ok());
        let delay = best.priced.delay();
        if bound.is_some_and(|bound| delay > bound) {
            problems.push(format!("it takes {:.1} ms", delay.as_secs_f64() * 1e3));
        }
        let price = best.priced.price().as_f64();
        if e.max_price.is_some_and(|bound| price > bound) {
            problems.push(format!("it costs {price} per GB"));
        }
    }
    Verdict {
        class: e.class.clone(),
        from: from.to_owned(),
        to: to.to_owned(),
        holds: problems.is_empty(),
        path: best.map(names).unwrap_or_default(),
        delay_ms: best.map(|c| c.priced.delay().as_secs_f64() * 1e3),
        dropped: dropped.is_some(),
        problems,
    }
}
