//! Alert rules and board: every series they name exists, and a real Prometheus understands them.
//!
//! The second needs root, `prometheus` and `promtool`; without those the test says so and passes, unless
//! `THALWEG_REQUIRE_PROMETHEUS=1`.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use thalweg::daemon::clock::unix_seconds;
use thalweg::daemon::pki::ca::{self, Request};
use thalweg::metrics::{Kind, SERIES};

fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("monitoring").join(name)
}

fn read(name: &str) -> String {
    std::fs::read_to_string(file(name)).unwrap()
}

/// Every expression of the board, its variables replaced by something that fits.
fn board_expressions() -> Vec<String> {
    let board: serde_json::Value = serde_json::from_str(&read("grafana.json")).unwrap();
    let panels = board["panels"].as_array().unwrap();
    let targets = panels.iter().filter_map(|p| p["targets"].as_array()).flatten();
    let plain = |e: &str| {
        let e = e.replace("$__rate_interval", "1m").replace("$__range", "1h");
        e.replace("$node", ".*").replace("$peer", ".*")
    };
    targets.map(|t| plain(t["expr"].as_str().unwrap())).collect()
}

/// Every expression of the rules.
fn rule_expressions() -> Vec<String> {
    let text = read("alerts.yml");
    let lines = text.lines().filter_map(|l| l.trim().strip_prefix("expr: "));
    lines.map(str::to_owned).collect()
}

fn names(expression: &str) -> BTreeSet<String> {
    let words = expression.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    words.filter(|w| w.starts_with("thalweg_")).map(str::to_owned).collect()
}

#[test]
fn every_series_that_rules_and_board_name_exists() {
    let (rules, board) = (rule_expressions(), board_expressions());
    assert!(rules.len() >= 16 && board.len() >= 30, "{} {}", rules.len(), board.len());
    for name in rules.iter().chain(&board).flat_map(|e| names(e)) {
        let known = SERIES.iter().any(|s| match s.kind {
            Kind::Histogram => {
                ["_bucket", "_sum", "_count"].iter().any(|end| name == format!("{}{end}", s.name))
            }
            _ => name == s.name,
        });
        assert!(known, "{name} is no series");
    }
    // What an operator must be able to see without thinking of it.
    let shown: BTreeSet<String> = board.iter().flat_map(|e| names(e)).collect();
    for name in ["thalweg_link_residual_loss_ratio", "thalweg_dropped_packets_total"] {
        assert!(shown.contains(name));
    }
}

#[test]
fn labels_in_rules_and_board_are_those_of_their_series() {
    for expression in rule_expressions().iter().chain(&board_expressions()) {
        let mut rest = expression.as_str();
        while let Some(at) = rest.find("thalweg_") {
            rest = &rest[at..];
            let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_');
            let end = end.unwrap_or(rest.len());
            let (name, after) = rest.split_at(end);
            rest = after;
            let Some(selector) = after.strip_prefix('{').and_then(|s| s.split('}').next()) else {
                continue;
            };
            let base = SERIES
                .iter()
                .find(|s| name == s.name || name.strip_suffix("_bucket") == Some(s.name));
            let labels = base.unwrap().labels;
            for part in selector.split(", ") {
                let label = part.split(['=', '!']).next().unwrap();
                assert!(label == "instance" || labels.contains(&label), "{label} in {expression}");
            }
        }
    }
}

/// Whether a real Prometheus can be asked here.
fn prometheus_is_here() -> bool {
    let there =
        |name| Command::new(name).arg("--version").output().is_ok_and(|o| o.status.success());
    let space = format!("thwm{}p", std::process::id());
    let spaces = Command::new("ip").args(["netns", "add", &space]).status();
    let spaces = spaces.is_ok_and(|s| s.success());
    if spaces {
        let _ = Command::new("ip").args(["netns", "del", &space]).status();
    }
    let all = spaces && there("prometheus") && there("promtool");
    if !all {
        let required = std::env::var_os("THALWEG_REQUIRE_PROMETHEUS").is_some_and(|v| v == "1");
        assert!(!required, "needs root, prometheus and promtool");
        println!("skipped: needs root, prometheus and promtool");
    }
    all
}

fn promtool(words: &[&str]) {
    let ended = Command::new("promtool").args(words).current_dir(file("")).output().unwrap();
    let text = [ended.stdout, ended.stderr].concat();
    assert!(ended.status.success(), "{words:?}: {}", String::from_utf8_lossy(&text));
}

/// A namespace with what runs in it, gone when dropped.
struct Space(String, Vec<Child>);

impl Space {
    fn command(&self, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.0, program]).stdin(Stdio::null());
        command
    }

    /// A GET of a path on loopback, the body alone.
    fn get(&self, port: u16, path: &str) -> String {
        let script = format!(
            "exec 3<>/dev/tcp/127.0.0.1/{port} && printf 'GET {path} HTTP/1.0\r\n\r\n' >&3 && cat <&3"
        );
        let output = self.command("timeout").args(["5", "bash", "-c", &script]).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        text.split_once("\r\n\r\n").map_or(String::new(), |(_, body)| body.to_owned())
    }

    /// What a query gives.
    fn query(&self, expression: &str) -> serde_json::Value {
        let encoded: String = expression.bytes().map(|b| format!("%%{b:02X}")).collect();
        let body = self.get(9090, &format!("/api/v1/query?query={encoded}"));
        serde_json::from_str(&body).unwrap_or_default()
    }
}

impl Drop for Space {
    fn drop(&mut self) {
        for child in &mut self.1 {
            let _ = child.kill();
            let _ = child.wait();
        }
        let _ = Command::new("ip").args(["netns", "del", &self.0]).status();
    }
}

fn until(seconds: u32, what: &str, mut holds: impl FnMut() -> bool) {
    for _ in 0..seconds * 10 {
        if holds() {
            return;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    panic!("{what} did not come");
}

#[test]
fn a_real_prometheus_scrapes_a_daemon_and_evaluates_every_expression() {
    if !prometheus_is_here() {
        return;
    }
    promtool(&["check", "rules", "alerts.yml"]);
    promtool(&["test", "rules", "alerts_test.yml"]);

    let dir = tempfile::tempdir().unwrap();
    let home = dir.path();
    let authority = home.join("ca");
    ca::create(&authority, "lab", 30, unix_seconds() - 60).unwrap();
    let addresses = vec!["10.77.0.1".parse().unwrap()];
    let request = Request { name: "paris".into(), addresses, days: 7, ..Request::default() };
    ca::issue(&authority, home, &request, unix_seconds()).unwrap();
    std::fs::write(
        home.join("thalweg.toml"),
        "[node]\nname = \"paris\"\ncertificate = \"paris.crt\"\nkey = \"paris.key\"\nca = [\"ca.crt\"]\n\
         state = \"state\"\n[admin]\nsocket = \"t.sock\"\n",
    )
    .unwrap();
    std::fs::write(
        home.join("prometheus.yml"),
        format!(
            "global: {{scrape_interval: 1s, evaluation_interval: 1s}}\nrule_files: [{}]\n\
             scrape_configs:\n  - job_name: thalweg\n    static_configs:\n      \
             - targets: [\"127.0.0.1:9460\"]\n",
            file("alerts.yml").display()
        ),
    )
    .unwrap();

    let mut space = Space(format!("thwm{}", std::process::id()), Vec::new());
    assert!(Command::new("ip").args(["netns", "add", &space.0]).status().unwrap().success());
    assert!(space.command("ip").args(["link", "set", "lo", "up"]).status().unwrap().success());
    let log = |name: &str| std::fs::File::create(home.join(name)).unwrap();
    let mut daemon = space.command(env!("CARGO_BIN_EXE_thalweg"));
    daemon.args(["run", "--config"]).arg(home.join("thalweg.toml"));
    space.1.push(daemon.stderr(log("daemon.log")).spawn().unwrap());
    let mut prometheus = space.command("prometheus");
    prometheus.args(["--web.listen-address=127.0.0.1:9090", "--config.file"]);
    prometheus.arg(home.join("prometheus.yml"));
    prometheus.arg("--storage.tsdb.path").arg(home.join("tsdb")).stdout(Stdio::null());
    space.1.push(prometheus.stderr(log("prometheus.log")).spawn().unwrap());

    let value = |answer: serde_json::Value| answer["data"]["result"][0]["value"][1].clone();
    until(60, "a good scrape", || value(space.query("up{job=\"thalweg\"}")) == "1");
    assert_eq!(value(space.query("thalweg_config_last_reload_successful")), "1");
    for expression in rule_expressions().iter().chain(&board_expressions()) {
        let answer = space.query(expression);
        assert_eq!(answer["status"], "success", "{expression}: {answer}");
    }
    // What is alone and new is no alarm; what is wrong is one.
    until(30, "rules evaluated", || {
        let rules: serde_json::Value =
            serde_json::from_str(&space.get(9090, "/api/v1/rules")).unwrap_or_default();
        let group = &rules["data"]["groups"][0]["rules"];
        group
            .as_array()
            .is_some_and(|all| all.len() >= 16 && all.iter().all(|rule| rule["health"] == "ok"))
    });
    // Its certificate is for seven days, which is less than the two weeks that are asked for. What a
    // rule found is a series a moment later.
    until(30, "the certificate's alarm, alone", || {
        let firing = space.query("ALERTS{alertstate=\"firing\"}");
        let names = firing["data"]["result"].as_array().cloned().unwrap_or_default();
        names.iter().map(|a| &a["metric"]["alertname"]).eq(["ThalwegCertificateEnds"])
    });
}
