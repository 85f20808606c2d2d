//! The built program from outside: what it prints and how it ends.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

fn thalweg(dir: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_thalweg"))
        .current_dir(dir)
        .args(arguments)
        .output()
        .expect("the program was built")
}

fn code(output: &Output) -> i32 {
    output.status.code().expect("it ended by itself")
}

fn out(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("text")
}

fn err(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).expect("text")
}

/// A daemon that gives one answer to one question, and the question.
fn daemon(dir: &Path, answer: &str) -> std::thread::JoinHandle<String> {
    let path = dir.join("t.sock");
    let _ = std::fs::remove_file(&path);
    let listener = UnixListener::bind(path).expect("a socket");
    let answer = format!("{answer}\n");
    std::thread::spawn(move || {
        let (stream, _) = listener.accept().expect("a client");
        let mut question = String::new();
        BufReader::new(&stream).read_line(&mut question).expect("a line");
        (&stream).write_all(answer.as_bytes()).expect("a reader");
        question.trim_end().to_owned()
    })
}

#[test]
fn help_tells_the_exit_codes() {
    let help = thalweg(Path::new("/"), &["--help"]);
    assert_eq!(code(&help), 0);
    let text = out(&help);
    for line in ["0  done", "1  the asked-for condition", "2  wrong usage", "3  no daemon"] {
        assert!(text.contains(line), "{line} in\n{text}");
    }
    assert_eq!(code(&thalweg(Path::new("/"), &["frobnicate"])), 2);
    assert_eq!(code(&thalweg(Path::new("/"), &["explain", "x", "--dscp", "64"])), 2);
    assert_eq!(
        code(&thalweg(Path::new("/"), &["explain", "x", "--port", "53"])),
        2,
        "which protocol?"
    );
}

#[test]
fn without_a_daemon_it_ends_with_three() {
    let dir = tempfile::tempdir().unwrap();
    let verbs = [
        &["status"][..],
        &["peers"],
        &["links"],
        &["paths"],
        &["explain", "x"],
        &["matrix"],
        &["ping", "x"],
        &["trace", "x"],
        &["events"],
        &["events", "--follow"],
        &["drops"],
        &["reload"],
        &["record", "r.csv"],
    ];
    for verb in verbs {
        let mut arguments = verb.to_vec();
        arguments.extend(["--socket", "nowhere.sock"]);
        let ended = thalweg(dir.path(), &arguments);
        assert_eq!(code(&ended), 3, "{verb:?}");
        assert!(err(&ended).contains("no daemon answers at nowhere.sock"), "{}", err(&ended));
        assert_eq!(out(&ended), "");
    }
}

#[test]
fn an_answer_is_printed_and_an_absence_ends_with_one() {
    let dir = tempfile::tempdir().unwrap();
    let asked = daemon(dir.path(), r#"{"schema_version":1,"answer":"peers","value":[]}"#);
    let ended = thalweg(dir.path(), &["peers", "--socket", "t.sock"]);
    assert_eq!((code(&ended), out(&ended).as_str()), (0, "no other node is known yet\n"));
    assert_eq!(asked.join().unwrap(), r#"{"command":"peers"}"#);

    let missing = r#"{"schema_version":1,"answer":"not_found","value":"no node `x`"}"#;
    let asked = daemon(dir.path(), missing);
    let arguments = ["--dscp", "ef", "--protocol", "udp", "--port", "3478", "--socket", "t.sock"];
    let ended = thalweg(dir.path(), &[&["explain", "x"], &arguments[..]].concat());
    assert_eq!(
        (code(&ended), out(&ended).as_str(), err(&ended).as_str()),
        (1, "", "no node `x`\n")
    );
    assert_eq!(
        asked.join().unwrap(),
        r#"{"command":"explain","destination":"x","class":null,"dscp":46,"protocol":17,"port":3478}"#
    );

    let asked = daemon(dir.path(), missing);
    let ended = thalweg(dir.path(), &["paths", "x", "--json", "--socket", "t.sock"]);
    let json: Value = serde_json::from_str(&out(&ended)).unwrap();
    assert_eq!((code(&ended), &json["schema_version"]), (1, &Value::from(1)));
    assert_eq!(json["value"], "no node `x`");
    asked.join().unwrap();

    let echo = r#"{"schema_version":1,"answer":"ping","value":{"destination":"lyon","node":2,"address":"10.77.0.2","class":"realtime","path":null,"rtt_ms":null,"why":"no answer within 2 s"}}"#;
    let asked = daemon(dir.path(), echo);
    let arguments = ["ping", "lyon", "-c", "1", "--dscp", "EF", "--socket", "t.sock"];
    let ended = thalweg(dir.path(), &arguments);
    let told = "lyon (10.77.0.2), class realtime, no path: no answer within 2 s\n\
                1 sent, 0 answered, 100.00 % lost\n";
    assert_eq!((code(&ended), out(&ended).as_str()), (1, told));
    assert_eq!(asked.join().unwrap(), r#"{"command":"ping","destination":"lyon","dscp":46}"#);

    let drops = r#"{"schema_version":1,"answer":"drops","value":[{"reason":"a","packets":0,"meaning":"b","remedy":"c"},{"reason":"d","packets":7,"meaning":"e","remedy":"f"}]}"#;
    let asked = daemon(dir.path(), drops);
    let ended = thalweg(dir.path(), &["drops", "--socket", "t.sock"]);
    assert!(out(&ended).contains("7") && !out(&ended).contains("b"), "{}", out(&ended));
    asked.join().unwrap();

    let done = r#"{"schema_version":1,"answer":"reload","value":{"file":"/etc/t.toml","applied":["[route] margin"],"restart":["[overlay] mtu"],"remarks":[]}}"#;
    let asked = daemon(dir.path(), done);
    let ended = thalweg(dir.path(), &["reload", "--socket", "t.sock"]);
    let told = "/etc/t.toml: in force now: [route] margin\nwaits for a restart: [overlay] mtu\n";
    assert_eq!((code(&ended), out(&ended).as_str()), (0, told));
    assert_eq!(asked.join().unwrap(), r#"{"command":"reload"}"#);

    let refused = r#"{"schema_version":1,"answer":"refused","value":["t.toml:3: bad; mend it"]}"#;
    let asked = daemon(dir.path(), refused);
    let ended = thalweg(dir.path(), &["reload", "--socket", "t.sock"]);
    let told = "t.toml:3: bad; mend it\nnothing was changed\n";
    assert_eq!((code(&ended), out(&ended).as_str(), err(&ended).as_str()), (2, "", told));
    asked.join().unwrap();

    let asked = daemon(dir.path(), r#"{"schema_version":1,"error":"the node is shutting down"}"#);
    let ended = thalweg(dir.path(), &["status", "--socket", "t.sock"]);
    assert_eq!(code(&ended), 3);
    asked.join().unwrap();
}

#[test]
fn two_sites_get_certificates_and_their_samples_are_good() {
    let dir = tempfile::tempdir().unwrap();
    let samples = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/two-sites");
    let run = |arguments: &str| {
        let ended = thalweg(dir.path(), &arguments.split(' ').collect::<Vec<_>>());
        assert_eq!(code(&ended), 0, "{arguments}: {}", err(&ended));
        out(&ended)
    };
    run("cert ca --out ca --name example");
    // The commands of the address plan, as it prints them.
    let plan = std::fs::read_to_string(samples.join("README.md")).unwrap();
    let issues: Vec<_> = plan.lines().filter_map(|l| l.trim().strip_prefix("thalweg ")).collect();
    let issues: Vec<_> = issues.into_iter().filter(|l| l.starts_with("cert issue")).collect();
    assert_eq!(issues.len(), 2);
    for issue in issues {
        run(issue);
    }
    for site in ["paris", "lyon"] {
        let text = std::fs::read_to_string(samples.join(format!("{site}.toml"))).unwrap();
        let text = text.replace("/etc/thalweg/pki/", &format!("{site}/"));
        let file = format!("{site}.toml");
        std::fs::write(dir.path().join(&file), text).unwrap();
        assert_eq!(run(&format!("config check {file}")), format!("{file}: good\n"));
    }
    let shown = run("cert show paris/paris.crt --ca ca/ca.crt --json");
    let shown: Value = serde_json::from_str(&shown).unwrap();
    assert_eq!((&shown["name"], &shown["node"]), (&"paris".into(), &1.into()));
    assert_eq!((&shown["trusted"], &shown["refused"]), (&true.into(), &Value::Null));
    assert!(run("cert show ca/ca.crt").contains("kind       CA"));
    run("cert ca --out other --name other");
    let ended = thalweg(dir.path(), &["cert", "show", "paris/paris.crt", "--ca", "other/ca.crt"]);
    assert_eq!(code(&ended), 1);
    assert!(out(&ended).contains("refused: the certificate that names `paris` is signed by no CA"));
    let again = thalweg(dir.path(), &["cert", "ca", "--out", "ca", "--name", "example"]);
    assert_eq!(code(&again), 2);
}

#[test]
fn a_bad_configuration_ends_with_two_and_all_its_problems() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(
        dir.path().join("t.toml"),
        "[nod]\n[route]\nmargin = 3\n[[class]]\nprofile = \"games\"\n",
    )
    .unwrap();
    let ended = thalweg(dir.path(), &["config", "check", "t.toml"]);
    assert_eq!((code(&ended), out(&ended).as_str()), (2, ""));
    let told = err(&ended);
    assert!(told.starts_with("t.toml:1: unknown table or key `nod`; did you mean `[node]`?\n"));
    assert!(told.contains("t.toml:3: [route] margin is the number 3 without a unit; "), "{told}");
    let profile =
        "t.toml:5: [[class]] profile \"games\" is not known here; write one of \"live\", ";
    assert!(told.contains(profile), "{told}");
    let json = thalweg(dir.path(), &["config", "check", "t.toml", "--json"]);
    let json: Value = serde_json::from_str(&out(&json)).unwrap();
    assert_eq!((&json["ok"], json["problems"].as_array().unwrap().len()), (&false.into(), 7));
    let ended = thalweg(dir.path(), &["run", "--config", "t.toml"]);
    assert!(code(&ended) == 2 && err(&ended).starts_with("t.toml:1: "), "{}", err(&ended));
    let ended = thalweg(dir.path(), &["config", "check", "absent.toml"]);
    assert!(code(&ended) == 2 && err(&ended).contains("absent.toml: cannot be read"));
}

#[test]
fn expectations_of_a_policy_are_held_against_a_snapshot() {
    let dir = tempfile::tempdir().unwrap();
    let node =
        |name: &str, node: u16| serde_json::json!({"name": name, "node": node, "relay": true});
    let mut links = Vec::new();
    // From a to b directly 80 ms, over c 20, over d 30; c is dear.
    for (from, to, ms, price) in [
        ("a", "b", 80.0, 0.0),
        ("a", "c", 10.0, 0.5),
        ("c", "b", 10.0, 0.5),
        ("a", "d", 15.0, 0.01),
        ("d", "b", 15.0, 0.01),
    ] {
        for (from, to) in [(from, to), (to, from)] {
            links.push(serde_json::json!({"from": from, "to": to, "delay_ms": ms,
                "jitter_ms": 0.1, "loss_ratio": 0.0, "price_per_gb": price}));
        }
    }
    let nodes = [node("a", 1), node("b", 2), node("c", 3), node("d", 4)];
    let mesh = serde_json::json!({"schema_version": 1, "answer": "matrix",
        "value": {"nodes": nodes, "links": links}});
    std::fs::write(dir.path().join("mesh.json"), mesh.to_string()).unwrap();
    let config = "[node]\nname = \"a\"\ncertificate = \"c\"\nkey = \"k\"\nca = [\"x\"]\n\
                  [[class]]\nprofile = \"gaming\"\n[[class]]\nname = \"frugal\"\nmax_price = 0.1\n\
                  dscp = [\"AF11\"]\navoid = [\"c\"]\nprefer = [\"d\"]\n[[class]]\nname = \"strict\"\n\
                  max_latency = \"25ms\"\navoid = [\"c\", \"lyno\"]\nfallback = \"drop\"\n";
    std::fs::write(dir.path().join("t.toml"), config).unwrap();
    let head = "config = \"t.toml\"\nsnapshot = \"mesh.json\"\n";
    let run = |expectations: &str, json: bool| {
        std::fs::write(dir.path().join("p.toml"), format!("{head}{expectations}")).unwrap();
        let words = ["policy", "test", "p.toml", "--json"];
        thalweg(dir.path(), &words[..if json { 4 } else { 3 }])
    };
    let good = "[[expect]]\nclass = \"gaming\"\nfrom = \"a\"\nto = \"b\"\nover = [\"c\"]\n\
                max_latency = \"25ms\"\nhas_backup = true\n\
                [[expect]]\nclass = \"frugal\"\nfrom = \"*\"\nto = \"b\"\nmax_price = 0.1\n\
                keeps_limits = true\n";
    let ended = run(good, false);
    assert_eq!(code(&ended), 1, "{}{}", out(&ended), err(&ended));
    let told = out(&ended);
    assert!(told.contains("holds  gaming from a to b (via c, 20.0 ms)\n"), "{told}");
    assert!(told.contains("holds  frugal from a to b (via d, 30.0 ms)\n"), "{told}");
    // From c every path begins with a dear link: the expectation was rash.
    assert!(told.contains("FAILS  frugal from c to b "), "{told}");
    assert!(told.ends_with("3 held, 1 did not\n"), "{told}");
    let never = "[[expect]]\nclass = \"gaming\"\nfrom = \"a\"\nto = \"b\"\nnever_over = [\"c\"]\n";
    let ended = run(never, true);
    let json: Value = serde_json::from_str(&out(&ended)).unwrap();
    assert_eq!((code(&ended), &json["ok"]), (1, &false.into()));
    assert_eq!(json["verdicts"][0]["problems"][0], "it crosses c");
    assert_eq!(json["warnings"], Value::Array(vec![]), "of classes that are tested");
    let strict = "[[expect]]\nclass = \"strict\"\nfrom = \"a\"\nto = \"b\"\n";
    let ended = run(strict, false);
    let line = "WARNING  class `strict`: `avoid` names `lyno`, which the snapshot does not know\n\
         FAILS  strict from a to b (dropped): packets are dropped: no path keeps max_latency\n";
    assert!(code(&ended) == 1 && out(&ended).starts_with(line), "{}", out(&ended));
    let ended = run(&format!("{strict}reachable = false\n"), false);
    assert_eq!(code(&ended), 0, "{}", out(&ended));
    let straight = "[[expect]]\nclass = \"frugal\"\nfrom = \"a\"\nto = \"d\"\ndirect = true\n";
    assert_eq!(code(&run(straight, false)), 0);
    let wrong = "[[expect]]\nclass = \"vr\"\nfrom = \"a\"\nto = \"x\"\nmax_latency = \"3\"\n";
    let ended = run(wrong, false);
    assert_eq!((code(&ended), out(&ended).as_str()), (2, ""));
    let told = err(&ended);
    assert!(told.contains("no class is named `vr`; there are gaming, frugal, strict"), "{told}");
    assert!(told.contains("knows no node `x`") && told.contains("\"3\" is no time"), "{told}");
    assert_eq!(code(&run("[[expects]]\n", false)), 2);
    assert_eq!(code(&run("", false)), 2);
}
