//! What an operator does to running daemons: reloads them, asks them.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::lab::*;

/// Counts what a stream of datagrams from one site to another loses while something happens: 200 a
/// second over the overlay, each answered.
fn lost_meanwhile(lab: &Lab, from: usize, to: usize, meanwhile: impl FnOnce()) -> (u32, u32) {
    let run = |at: usize, script: &str, words: &[String]| {
        Command::new("ip")
            .args(["netns", "exec", &lab.namespace(lab.names[at]), "perl", "-e", script])
            .args(words)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap()
    };
    let echo = "use IO::Socket::INET; my $s = IO::Socket::INET->new(Proto => 'udp', \
                LocalAddr => $ARGV[0], LocalPort => 7777) or die; $| = 1; print \"ready\\n\"; \
                while (1) { my $p = $s->recv(my $b, 2000) // die; $s->send($b) }";
    /// Ends with the test, however that ends.
    struct Echo(Child);
    impl Drop for Echo {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }
    let mut echo = Echo(run(to, echo, &[overlay(to).to_string()]));
    let mut ready = String::new();
    BufReader::new(echo.0.stdout.as_mut().unwrap()).read_line(&mut ready).unwrap();
    let ask = "use IO::Socket::INET; use IO::Select; use Time::HiRes 'sleep'; my $s = \
               IO::Socket::INET->new(Proto => 'udp', PeerAddr => $ARGV[0], PeerPort => 7777) or die; \
               my $l = IO::Select->new($s); my ($n, $got) = (0, 0); for (1 .. $ARGV[1]) { \
               $s->send(\"$n\"); $n++; sleep 0.005; while ($l->can_read(0)) { $got++ if \
               defined $s->recv(my $b, 2000) } } for (1 .. 100) { last if $got == $n; sleep 0.01; \
               while ($l->can_read(0)) { $got++ if defined $s->recv(my $b, 2000) } } print \"$n $got\\n\"";
    let asking = run(from, ask, &[overlay(to).to_string(), "600".to_owned()]);
    std::thread::sleep(Duration::from_millis(500));
    meanwhile();
    let counted = asking.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&counted.stdout).into_owned();
    let counts: Vec<u32> = text.split_whitespace().filter_map(|w| w.parse().ok()).collect();
    assert_eq!(counts.len(), 2, "{text}");
    (counts[0], counts[0] - counts[1])
}

#[test]
fn a_reload_loses_no_packet_and_a_bad_file_changes_nothing() {
    let Some(lab) = meshed(&SITES[..2]) else { return };
    assert!(lab.crosses(0, overlay(1)));
    let file = lab.home(0).join("thalweg.toml");
    let good = fs::read_to_string(&file).unwrap();
    let reload = |lab: &Lab| {
        let ended = Command::new(env!("CARGO_BIN_EXE_thalweg"))
            .arg("reload")
            .arg("--socket")
            .arg(lab.socket(0))
            .output()
            .unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (ended.status.code(), text(&ended.stdout), text(&ended.stderr))
    };
    let sessions = lab.report(0).unwrap().peers[0].session_age_s.unwrap();
    let (sent, lost) = lost_meanwhile(&lab, 0, 1, || {
        let classes = "[[class]]\nprofile = \"gaming\"\n[[class]]\nname = \"rest\"\n\
                       max_latency = \"900ms\"\n";
        let text = good.replace("idle = \"500ms\"", "idle = \"700ms\"")
            + "[uplink]\nprice_per_gb = 0.5\nmax_rate = \"50 Mbit/s\"\n[forward]\nlanes = 2\n"
            + classes;
        let text = text.replace("9464", "9465").replace("\"debug\"", "\"info\"");
        fs::write(&file, text).unwrap();
        let (code, told, _) = reload(&lab);
        let expected = "in force now: [uplink] price_per_gb, [uplink] max_rate, [[class]], [probe] \
                        idle, [metrics] listen, [log] level\nwaits for a restart: [forward] lanes\n";
        assert!(code == Some(0) && told.contains(expected), "{told}\n{}", lab.log(0));
        // The first file again, by a signal; then once more the other.
        std::thread::sleep(Duration::from_millis(300));
        fs::write(&file, &good).unwrap();
        lab.signal(0, "HUP");
        lab.until(0, 5, "the file before again", |r| r.paths.iter().all(|p| p.class != "rest"));
    });
    assert_eq!(lost, 0, "of {sent}: {}", lab.log(0));
    assert!(sent >= 600);

    fs::write(&file, good.replace("in_use = \"100ms\"", "in_use = 100\nfoo = 1")).unwrap();
    let (code, told, problems) = reload(&lab);
    assert_eq!((code, told.as_str()), (Some(2), ""), "{problems}");
    assert!(
        problems.contains("thalweg.toml:") && problems.contains("[probe] in_use is the number")
    );
    assert!(problems.contains("unknown key `foo`") && problems.ends_with("nothing was changed\n"));
    let report = lab.report(0).unwrap();
    let configured = report.status.configured.unwrap();
    assert!(!configured.last_successful && configured.problem.is_some(), "{configured:?}");
    assert!(report.peers[0].session_age_s.unwrap() > sessions, "the session is the same");
    assert!(lab.crosses(0, overlay(1)) && lab.crosses(1, overlay(0)));

    // A price so high and a budget so small that probes alone spend it: others are not relayed for.
    let price = "[uplink]\nmonthly_budget = 0.000001\n[[tariff]]\nhours = \"00:00-24:00\"\n\
                 price_per_gb = 4000\n";
    fs::write(&file, good.clone() + price).unwrap();
    assert_eq!(reload(&lab).0, Some(0));
    lab.until(0, 20, "the budget spent", |r| {
        let spend = r.status.spend.clone().unwrap_or_default();
        spend.over_budget && spend.spent > 0.0 && spend.price_per_gb == 4000.0 && !r.status.relay
    });
    assert!(lab.crosses(0, overlay(1)), "its own packets go on");
    fs::write(&file, &good).unwrap();
    assert_eq!(reload(&lab).0, Some(0));
    lab.until(0, 20, "within the budget", |r| r.status.relay);
    assert!(!lab.log(0).contains("panicked"));
}

#[test]
fn an_operator_sees_the_mesh_its_paths_and_what_happens() {
    if !allowed() {
        return;
    }
    let mut lab = joins_in_order([0, 1, 2]);
    let ask = |lab: &Lab, words: &[&str]| {
        let ended = Command::new(env!("CARGO_BIN_EXE_thalweg"))
            .args(words)
            .arg("--socket")
            .arg(lab.socket(0))
            .output()
            .unwrap();
        let errors = String::from_utf8_lossy(&ended.stderr).into_owned();
        (ended.status.code(), String::from_utf8(ended.stdout).unwrap() + &errors)
    };
    let json = |lab: &Lab, words: &[&str]| -> serde_json::Value {
        let (_, text) = ask(lab, &[words, &["--json"]].concat());
        serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}"))
    };
    // Every pair, both ways, also those that this node is no end of.
    let full =
        within(20, || json(&lab, &["matrix"])["value"]["links"].as_array().unwrap().len() == 6);
    assert!(full, "{}", ask(&lab, &["matrix"]).1);
    let (code, text) = ask(&lab, &["matrix"]);
    assert!(code == Some(0) && text.contains("charlie") && !text.contains("n/a "), "{text}");

    for family in [overlay(1), overlay6(1)] {
        let words = ["ping", &family.to_string(), "-c", "2", "-i", "10ms", "--dscp", "EF"];
        let (code, text) = ask(&lab, &words);
        assert_eq!(code, Some(0), "{text}");
        assert!(
            text.contains("class realtime, direct: ") && text.contains("0.00 % lost"),
            "{text}"
        );
    }
    let (code, text) = ask(&lab, &["ping", "nobody"]);
    assert!(code == Some(1) && text.contains("no node answers to `nobody`"), "{text}");
    // The first path led over the seed; the direct one takes over at the first full recomputation.
    let direct =
        || json(&lab, &["trace", "charlie"])["trace"]["hops"].as_array().unwrap().len() == 1;
    assert!(within(40, direct), "{}", ask(&lab, &["explain", "charlie"]).1);
    let traced = json(&lab, &["trace", "charlie"]);
    let hops = traced["trace"]["hops"].as_array().unwrap();
    assert_eq!((hops.len(), &hops[0]["to"]), (1, &"charlie".into()), "{traced}");
    assert!(hops[0]["delay_ms"].is_f64() && traced["echoes"][0]["rtt_ms"].is_f64(), "{traced}");
    let explained = json(&lab, &["explain", "charlie", "--dscp", "EF"]);
    let rule = explained["value"]["rule"].as_str().unwrap();
    assert!(rule.starts_with("[[class]] `realtime` takes packets with DSCP 46"), "{rule}");
    assert!(explained["value"]["candidates"][0]["hops"][0]["price_per_gb"].is_f64(), "{explained}");

    // A packet to nobody is counted, with what to do.
    let space = lab.namespace("alpha");
    ip(&["-n", &space, "route", "add", "10.99.0.0/16", "dev", "thw0"]);
    let send = ["netns", "exec", &space, "bash", "-c", "echo x > /dev/udp/10.99.0.1/9"];
    ip(&send);
    let told = within(5, || ask(&lab, &["drops"]).1.contains("no_owner"));
    assert!(told, "{}", ask(&lab, &["drops"]).1);
    assert!(ask(&lab, &["drops"]).1.contains("see `thalweg peers`"));
    assert!(ask(&lab, &["drops", "--all"]).1.contains("end_bad_tag"));

    let mut following = Command::new(env!("CARGO_BIN_EXE_thalweg"))
        .args(["events", "--follow", "--json", "--socket"])
        .arg(lab.socket(0))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(following.stdout.take().unwrap());
    let mut next = || {
        let mut line = String::new();
        lines.read_line(&mut line).unwrap();
        serde_json::from_str::<serde_json::Value>(&line).unwrap()
    };
    assert_eq!(next()["number"], 1);
    lab.signal(1, "TERM");
    lab.wait(1);
    let mut seen = Vec::new();
    let ended = loop {
        let event = next();
        if event["kind"] == "session_ended" && event["node"] == "bravo" {
            break event;
        }
        assert!(seen.len() < 200, "{seen:?}");
        seen.push(event);
    };
    assert_eq!(ended["text"], "left");
    // It ends with the daemon.
    lab.signal(0, "TERM");
    lab.wait(0);
    assert!(within(5, || following.try_wait().unwrap().is_some()));
}
