//! Real daemons in network namespaces: they find each other through one seed, carry traffic, notice a
//! death, leave cleanly, and come back without any seed.
//!
//! Needs root; without it the tests say so and pass, unless `THALWEG_REQUIRE_NETNS=1`.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tempfile::TempDir;
use thalweg::daemon::admin::{Body, query_blocking};
use thalweg::daemon::clock::{Clock, unix_seconds};
use thalweg::daemon::pki::ca::{self, Request};
use thalweg::daemon::pki::revoke::revoke;
use thalweg::report::{Answer, Command as Question, PeerState, Report};

/// Sites on one switch, with a daemon each, all removed when dropped.
struct Lab {
    dir: TempDir,
    /// Begins the name of every namespace.
    prefix: String,
    names: Vec<&'static str>,
    daemons: Vec<Option<Child>>,
}

/// Whether namespaces can be made here; found out once.
fn allowed() -> bool {
    static ALLOWED: OnceLock<bool> = OnceLock::new();
    let allowed = *ALLOWED.get_or_init(|| {
        let probe = format!("thw{}p", std::process::id());
        let made = Command::new("ip").args(["netns", "add", &probe]).output();
        let made = made.is_ok_and(|output| output.status.success());
        if made {
            ip(&["netns", "del", &probe]);
        }
        made
    });
    if !allowed {
        let required = std::env::var_os("THALWEG_REQUIRE_NETNS").is_some_and(|v| v == "1");
        assert!(!required, "cannot make network namespaces");
        println!("skipped: cannot make network namespaces; run as root");
    }
    allowed
}

fn ip(words: &[&str]) -> String {
    let output = Command::new("ip").args(words).output().expect("iproute2 is there");
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "ip {}: {errors}", words.join(" "));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Asks again and again until it holds; whether it did in time.
fn within(seconds: u64, mut holds: impl FnMut() -> bool) -> bool {
    let clock = Clock::start();
    let end = clock.now().plus(Duration::from_secs(seconds));
    loop {
        if holds() {
            return true;
        }
        if clock.now() >= end {
            return false;
        }
        std::thread::sleep(Duration::from_millis(30));
    }
}

impl Lab {
    /// Makes the sites, their papers and configurations. Every node's only seed is the first.
    fn new(names: &[&'static str]) -> Self {
        static LABS: AtomicU32 = AtomicU32::new(0);
        let number = LABS.fetch_add(1, Ordering::Relaxed);
        let prefix = format!("thw{}n{number}", std::process::id());
        let dir = tempfile::tempdir().unwrap();
        let authority = dir.path().join("ca");
        ca::create(&authority, "lab", 30, unix_seconds() - 60).unwrap();
        let lab = Self {
            dir,
            prefix,
            names: names.to_vec(),
            daemons: names.iter().map(|_| None).collect(),
        };
        let switch = lab.namespace("switch");
        ip(&["netns", "add", &switch]);
        ip(&["-n", &switch, "link", "add", "br0", "type", "bridge"]);
        ip(&["-n", &switch, "link", "set", "br0", "up"]);
        for (at, name) in names.iter().enumerate() {
            let (space, port) = (lab.namespace(name), format!("port{at}"));
            ip(&["netns", "add", &space]);
            ip(&["-n", &space, "link", "set", "lo", "up"]);
            let peer = ["type", "veth", "peer", "name", "eth0", "netns", &space];
            ip(&[&["-n", &switch, "link", "add", &port][..], &peer].concat());
            ip(&["-n", &switch, "link", "set", &port, "master", "br0", "up"]);
            let address = format!("{}/24", underlay(at));
            ip(&["-n", &space, "addr", "add", &address, "dev", "eth0"]);
            let address = format!("{}/64", underlay6(at));
            ip(&["-n", &space, "addr", "add", &address, "dev", "eth0", "nodad"]);
            ip(&["-n", &space, "link", "set", "eth0", "up"]);

            let request = Request {
                name: (*name).to_owned(),
                addresses: vec![overlay(at), overlay6(at)],
                days: 7,
                ..Request::default()
            };
            ca::issue(&authority, &lab.home(at), &request, unix_seconds()).unwrap();
            lab.configure(at, (at > 0).then(|| (0, underlay(0))));
        }
        lab
    }

    /// Writes a node's configuration, with this seed at this address or none.
    fn configure(&self, at: usize, seed: Option<(usize, IpAddr)>) {
        let (name, home) = (self.names[at], self.home(at));
        let socket = self.socket(at);
        let mut text = format!(
            "[node]\nname = \"{name}\"\ncertificate = \"{name}.crt\"\nkey = \"{name}.key\"\n\
             ca = [\"ca.crt\"]\ncrl = [\"ca.crl\"]\nstate = \"state\"\n\
             [overlay]\ninterface = \"thw0\"\n\
             [metrics]\nlisten = \"[::]:9464\"\n\
             [admin]\nsocket = \"{}\"\n\
             [probe]\nin_use = \"100ms\"\nidle = \"500ms\"\n\
             [log]\nlevel = \"debug\"\nformat = \"text\"\n",
            socket.display()
        );
        if let Some((seed, address)) = seed {
            let (name, endpoint) = (self.names[seed], SocketAddr::new(address, 4600));
            text += &format!("[[peer]]\nname = \"{name}\"\nendpoint = \"{endpoint}\"\n");
        }
        fs::write(home.join("thalweg.toml"), text).unwrap();
    }

    fn home(&self, at: usize) -> PathBuf {
        self.dir.path().join(self.names[at])
    }

    fn socket(&self, at: usize) -> PathBuf {
        self.home(at).join("admin.sock")
    }

    fn namespace(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    fn start(&mut self, at: usize) {
        let home = self.home(at);
        let log = fs::File::options().create(true).append(true).open(home.join("log")).unwrap();
        let child = Command::new("ip")
            .args(["netns", "exec", &self.namespace(self.names[at])])
            .arg(env!("CARGO_BIN_EXE_thalweg"))
            .args(["run", "--config"])
            .arg(home.join("thalweg.toml"))
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        self.daemons[at] = Some(child);
    }

    /// Sends a signal by its name; `ip netns exec` has become the daemon, so it gets it.
    fn signal(&self, at: usize, signal: &str) {
        let child = self.daemons[at].as_ref().expect("it runs");
        let id = child.id().to_string();
        assert!(Command::new("kill").args(["-s", signal, &id]).status().unwrap().success());
    }

    /// Waits for a daemon's end; its exit code, `None` where a signal killed it.
    fn wait(&mut self, at: usize) -> Option<i32> {
        let mut child = self.daemons[at].take().expect("it runs");
        let mut code = None;
        let ended = within(10, || {
            let status = child.try_wait().unwrap();
            code = status.and_then(|status| status.code());
            status.is_some()
        });
        if !ended {
            let _ = child.kill();
            let _ = child.wait();
        }
        assert!(ended, "{} does not end:\n{}", self.names[at], self.log(at));
        code
    }

    fn report(&self, at: usize) -> Option<Report> {
        match query_blocking(&self.socket(at), &Question::Report).ok()?.body {
            Body::Answer(Answer::Report(report)) => Some(*report),
            _ => None,
        }
    }

    /// Waits until a condition on a node's report holds.
    fn until(&self, at: usize, seconds: u64, what: &str, holds: impl Fn(&Report) -> bool) {
        let mut last = None;
        let held = within(seconds, || {
            last = self.report(at).or(last.take());
            last.as_ref().is_some_and(&holds)
        });
        if held {
            return;
        }
        let logs: Vec<_> = (0..self.names.len()).map(|at| self.log(at)).collect();
        panic!("{}: {what} did not come: {last:#?}\n{}", self.names[at], logs.join("\n=====\n"));
    }

    /// Waits until every running node has a working link and a path to each of the others.
    fn until_meshed(&self, nodes: &[usize]) {
        for &at in nodes {
            self.until(at, 20, "the whole mesh", |report| {
                let others = nodes.iter().filter(|&&other| other != at);
                others.map(|&other| self.names[other]).all(|other| {
                    let up =
                        |l: &thalweg::report::LinkRow| l.peer == other && l.state.name() == "up";
                    report.links.iter().any(up)
                        && report
                            .paths
                            .iter()
                            .any(|p| p.destination == other && p.primary.is_some())
                })
            });
        }
    }

    /// Asks another node's `/healthz` over the overlay from inside a namespace.
    fn crosses(&self, from: usize, to: IpAddr) -> bool {
        let script = format!(
            "exec 3<>/dev/tcp/{to}/9464 && printf 'GET /healthz HTTP/1.0\\r\\n\\r\\n' >&3 && cat <&3"
        );
        let output = Command::new("ip")
            .args(["netns", "exec", &self.namespace(self.names[from])])
            .args(["timeout", "3", "bash", "-c", &script])
            .output()
            .unwrap();
        String::from_utf8_lossy(&output.stdout).contains("200 OK")
    }

    /// From now on the switch's way to a site and back carries packets up to this size, and says nothing.
    fn narrow(&self, at: usize, mtu: u16) {
        let (switch, port) = (self.namespace("switch"), format!("port{at}"));
        ip(&["-n", &switch, "link", "set", &port, "mtu", &mtu.to_string()]);
    }

    /// How many of ten echoes of packets this long come back over the overlay.
    fn echoes(&self, from: usize, to: IpAddr, length: u16) -> usize {
        let payload = length - if to.is_ipv4() { 28 } else { 48 };
        let output = Command::new("ip")
            .args(["netns", "exec", &self.namespace(self.names[from])])
            .args(["ping", "-c", "10", "-i", "0.1", "-W", "2", "-s", &payload.to_string()])
            .arg(to.to_string())
            .output()
            .unwrap();
        String::from_utf8_lossy(&output.stdout).matches("bytes from").count()
    }

    /// Bytes of a page of another node, fetched over the overlay by TCP from inside a namespace.
    fn fetches(&self, from: usize, to: IpAddr) -> usize {
        let script = format!(
            "exec 3<>/dev/tcp/{to}/9464 && printf 'GET /metrics HTTP/1.0\\r\\n\\r\\n' >&3 && cat <&3"
        );
        let output = Command::new("ip")
            .args(["netns", "exec", &self.namespace(self.names[from])])
            .args(["timeout", "10", "bash", "-c", &script])
            .output()
            .unwrap();
        output.stdout.len()
    }

    fn whole_log(&self, at: usize) -> String {
        fs::read_to_string(self.home(at).join("log")).unwrap_or_default()
    }

    fn log(&self, at: usize) -> String {
        let text = fs::read_to_string(self.home(at).join("log")).unwrap_or_default();
        let lines: Vec<_> = text.lines().collect();
        format!("--- {}\n{}", self.names[at], lines[lines.len().saturating_sub(60)..].join("\n"))
    }

    /// A firewall at a site: what the underlay sends unasked is dropped.
    fn outbound_only(&self, at: usize) {
        let rules = "add table inet wall; \
                     add chain inet wall in { type filter hook input priority 0; }; \
                     add rule inet wall in ct state established,related accept; \
                     add rule inet wall in iifname \"eth0\" meta l4proto udp counter drop";
        ip(&["netns", "exec", &self.namespace(self.names[at]), "nft", rules]);
    }

    /// What comes to a site from some others is dropped.
    fn wall(&self, at: usize, from: &str) {
        let rules = format!(
            "add table inet wall; \
             add chain inet wall in {{ type filter hook input priority 0; }}; \
             add rule inet wall in {from} drop"
        );
        ip(&["netns", "exec", &self.namespace(self.names[at]), "nft", &rules]);
    }

    /// Whether a site's firewall dropped anything.
    fn has_dropped(&self, at: usize) -> bool {
        let chain = ["nft", "list", "chain", "inet", "wall", "in"];
        let rules = ip(&[&["netns", "exec", &self.namespace(self.names[at])][..], &chain].concat());
        rules.contains("counter packets") && !rules.contains("counter packets 0 ")
    }

    /// What a namespace holds of the overlay: device, addresses, routes.
    fn left_behind(&self, at: usize) -> String {
        let space = self.namespace(self.names[at]);
        let all = ["link", "addr", "route"].map(|what| ip(&["-n", &space, what])).concat()
            + &ip(&["-n", &space, "-6", "route"]);
        let ours = |l: &&str| ["thw0", "10.77.", "fd77:", "proto 84"].iter().any(|w| l.contains(w));
        all.lines().filter(ours).collect::<Vec<_>>().join("\n")
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for child in self.daemons.iter_mut().flatten() {
            let _ = child.kill();
            let _ = child.wait();
        }
        for name in self.names.iter().chain(&["switch"]) {
            let _ = Command::new("ip").args(["netns", "del", &self.namespace(name)]).output();
        }
    }
}

fn underlay(at: usize) -> IpAddr {
    IpAddr::from([192, 168, 77, at as u8 + 1])
}

fn underlay6(at: usize) -> IpAddr {
    format!("fd99::{}", at + 1).parse().unwrap()
}

fn overlay(at: usize) -> IpAddr {
    IpAddr::from([10, 77, 0, at as u8 + 1])
}

fn overlay6(at: usize) -> IpAddr {
    format!("fd77::{}", at + 1).parse().unwrap()
}

const SITES: [&str; 3] = ["alpha", "bravo", "charlie"];

/// These sites, started together and meshed; none where namespaces are not allowed.
fn meshed(sites: &[&'static str]) -> Option<Lab> {
    allowed().then(|| {
        let mut lab = Lab::new(sites);
        let all: Vec<usize> = (0..sites.len()).collect();
        all.iter().for_each(|&at| lab.start(at));
        lab.until_meshed(&all);
        lab
    })
}

/// Starts in this order, and has traffic cross every pair both ways.
fn joins_in_order(order: [usize; 3]) -> Lab {
    let mut lab = Lab::new(&SITES);
    for at in order {
        lab.start(at);
        std::thread::sleep(Duration::from_millis(150));
    }
    lab.until_meshed(&[0, 1, 2]);
    for from in 0..3 {
        for to in (0..3).filter(|&to| to != from) {
            for address in [overlay(to), overlay6(to)] {
                let names = (lab.names[from], lab.names[to]);
                assert!(lab.crosses(from, address), "{names:?} {address}: {}", lab.log(from));
            }
        }
    }
    lab
}

#[test]
fn three_daemons_join_through_one_seed_and_leave_nothing_behind() {
    if !allowed() {
        return;
    }
    let mut lab = joins_in_order([0, 1, 2]);
    let report = lab.report(1).unwrap();
    assert!(report.peers.iter().all(|peer| peer.state == PeerState::Connected), "{report:#?}");
    // Counters are published a few times a second.
    lab.until(1, 5, "traffic counted", |report| {
        let traffic = report.status.traffic.unwrap_or_default();
        traffic.ingress.packets > 0 && traffic.egress.packets > 0
    });
    assert!(lab.left_behind(1).contains("10.77.0.1"), "while it runs there are routes");

    // A clean end is told to the others, and takes everything away.
    lab.signal(1, "TERM");
    assert_eq!(lab.wait(1), Some(0), "{}", lab.log(1));
    assert_eq!(lab.left_behind(1), "");
    assert!(!lab.socket(1).exists(), "the admin socket is gone");
    for at in [0, 2] {
        lab.until(at, 5, "the route to who left gone", |report| {
            report.paths.iter().all(|path| path.destination != "bravo" || path.primary.is_none())
        });
    }
    assert!(lab.crosses(0, overlay(2)), "the others go on");

    lab.signal(2, "INT");
    assert_eq!(lab.wait(2), Some(0), "{}", lab.log(2));
    assert_eq!(lab.left_behind(2), "");
    assert!(!lab.log(2).contains("panicked"));
}

#[test]
fn the_seed_may_come_last_and_a_killed_daemon_is_noticed_and_returns() {
    if !allowed() {
        return;
    }
    let mut lab = joins_in_order([2, 1, 0]);
    // Killed without a word: nothing of it remains either, and the others notice.
    lab.signal(1, "KILL");
    assert_eq!(lab.wait(1), None);
    assert_eq!(lab.left_behind(1), "", "device, addresses and routes go with the process");
    for at in [0, 2] {
        lab.until(at, 10, "the dead link down", |report| {
            report.links.iter().all(|link| link.peer != "bravo" || link.state.name() != "up")
        });
        assert!(lab.crosses(at, overlay(2 - at)), "the living go on: {}", lab.log(at));
    }
    lab.start(1);
    lab.until_meshed(&[0, 1, 2]);
    assert!(lab.crosses(1, overlay(0)) && lab.crosses(2, overlay(1)), "{}", lab.log(1));
}

#[test]
fn a_restarted_daemon_finds_its_peers_without_any_seed() {
    if !allowed() {
        return;
    }
    let mut lab = joins_in_order([0, 1, 2]);
    lab.signal(2, "TERM");
    assert_eq!(lab.wait(2), Some(0));
    // The seed is down, and the file names none.
    lab.signal(0, "KILL");
    lab.wait(0);
    lab.configure(2, None);
    lab.start(2);
    lab.until_meshed(&[1, 2]);
    assert!(lab.crosses(2, overlay(1)), "{}", lab.log(2));
}

#[test]
fn without_the_cloud_a_newcomer_joins_over_an_edge_and_meets_the_others() {
    if !allowed() {
        return;
    }
    let mut lab = Lab::new(&["cloud", "alpha", "bravo", "newcomer"]);
    (0..3).for_each(|at| lab.start(at));
    lab.until_meshed(&[0, 1, 2]);
    lab.signal(0, "KILL");
    lab.wait(0);
    // It has its certificate and was told of one edge; alpha starts again meanwhile.
    lab.configure(3, Some((2, underlay(2))));
    lab.signal(1, "KILL");
    lab.wait(1);
    lab.start(1);
    lab.start(3);
    lab.until_meshed(&[1, 2, 3]);
    for (from, to) in [(1, 3), (3, 1), (2, 3), (1, 2)] {
        assert!(lab.crosses(from, overlay(to)), "{}", lab.log(from));
    }
}

#[test]
fn nodes_that_take_nothing_unasked_join_and_are_reached_over_what_they_opened() {
    if !allowed() {
        return;
    }
    // The first knows nobody and is dialled by nobody but these two; the lower number of a pair is the
    // one that dials at once, so charlie waits to be dialled by bravo, in vain, and dials.
    let mut lab = Lab::new(&SITES);
    [1, 2].into_iter().for_each(|at| lab.outbound_only(at));
    (0..3).for_each(|at| lab.start(at));
    lab.until_meshed(&[0, 1, 2]);
    for (from, to) in [(0, 1), (0, 2), (1, 2), (2, 1)] {
        assert!(lab.crosses(from, overlay(to)), "{}", lab.log(from));
    }
    assert!(lab.has_dropped(2), "bravo was not let in before charlie asked");
    // Who asked first may start again: nobody can dial it, and it is back all the same.
    for at in [0, 2] {
        lab.signal(at, "KILL");
        lab.wait(at);
        lab.start(at);
        lab.until_meshed(&[0, 1, 2]);
        assert!(lab.crosses(1, overlay(at)), "{}", lab.log(1));
    }
}

#[test]
fn papers_change_while_daemons_run_and_who_is_revoked_is_put_out_by_all() {
    if !allowed() {
        return;
    }
    let mut lab = joins_in_order([0, 1, 2]);
    let sessions = |lab: &Lab| lab.whole_log(0).matches("session up").count();
    let before = sessions(&lab);

    // Another CA takes over: all are told of it, bravo gets a certificate from it, nobody restarts.
    let (authority, next) = (lab.dir.path().join("ca"), lab.dir.path().join("next"));
    ca::succeed(&authority, &next, "next", 30, unix_seconds() - 60).unwrap();
    let both = [&authority, &next].map(|d| fs::read_to_string(d.join("ca.crt")).unwrap()).concat();
    (0..3).for_each(|at| fs::write(lab.home(at).join("ca.crt"), &both).unwrap());
    for at in 0..3 {
        assert!(within(20, || lab.whole_log(at).contains("CAs and revocations taken over")));
    }
    let renewal = Request { name: "bravo".into(), days: 7, renew: true, ..Request::default() };
    let fresh = lab.dir.path().join("fresh");
    ca::issue(&next, &fresh, &renewal, unix_seconds()).unwrap();
    for file in ["bravo.key", "bravo.crt"] {
        fs::copy(fresh.join(file), lab.home(1).join(file)).unwrap();
    }
    assert!(within(20, || lab.whole_log(1).contains("the renewed certificate is in force")));
    assert!(lab.crosses(0, overlay(1)) && lab.crosses(1, overlay(2)), "{}", lab.log(1));
    assert_eq!(sessions(&lab), before, "the sessions go on: {}", lab.log(0));

    // Charlie is revoked; one node is told, by its file.
    let list = revoke(&authority, "charlie", None, unix_seconds()).unwrap().list;
    fs::copy(list, lab.home(0).join("ca.crl")).unwrap();
    for at in [0, 1] {
        lab.until(at, 20, "the end of charlie", |report| {
            report.links.iter().all(|link| link.peer != "charlie")
                && report.paths.iter().all(|path| path.destination != "charlie")
        });
    }
    assert!(!lab.crosses(2, overlay(0)) && !lab.crosses(0, overlay(2)), "nothing crosses");
    assert!(lab.crosses(0, overlay(1)), "{}", lab.log(0));
    // What was kept keeps it out: bravo never had the file.
    lab.signal(1, "TERM");
    assert_eq!(lab.wait(1), Some(0));
    lab.configure(1, Some((2, underlay(2))));
    lab.start(1);
    assert!(within(20, || lab.whole_log(1).contains("is revoked by its CA")), "{}", lab.log(1));
    assert!(!lab.crosses(1, overlay(2)));
    assert!(within(20, || lab.crosses(1, overlay(0))), "{}", lab.log(1));
}

#[test]
fn a_daemon_whose_address_changes_is_followed_and_its_streams_go_on() {
    let Some(lab) = meshed(&SITES) else { return };
    let space = lab.namespace("bravo");
    // In this order: with the first address of a network the kernel takes away the others.
    ip(&["-n", &space, "addr", "del", "192.168.77.2/24", "dev", "eth0"]);
    ip(&["-n", &space, "addr", "add", "192.168.77.99/24", "dev", "eth0"]);
    for at in [0, 2] {
        lab.until(at, 10, "bravo at its new address", |report| {
            let there = |l: &thalweg::report::LinkRow| l.endpoint == "192.168.77.99:4600";
            report.links.iter().any(|l| {
                l.peer == "bravo" && there(l) && l.state.name() == "up" && l.moves == Some(1)
            })
        });
        assert!(lab.crosses(at, overlay(1)) && lab.crosses(1, overlay(at)), "{}", lab.log(at));
    }
    // The same keys, the same streams: what is said on them now arrives.
    let list = revoke(&lab.dir.path().join("ca"), "charlie", None, unix_seconds()).unwrap().list;
    fs::copy(list, lab.home(0).join("ca.crl")).unwrap();
    assert!(within(20, || lab.whole_log(1).contains("revocation list in force")), "{}", lab.log(1));
    let log = lab.whole_log(0);
    let of_bravo =
        |what: &str| log.lines().filter(|l| l.contains(what) && l.contains("bravo")).count();
    assert_eq!((of_bravo("session up"), of_bravo("stream lost")), (1, 0), "{}", lab.log(0));
}

#[test]
fn two_that_move_at_once_find_each_other_through_who_stayed() {
    if !allowed() {
        return;
    }
    let mut lab = Lab::new(&SITES);
    (0..3).for_each(|at| lab.start(at));
    lab.until_meshed(&[0, 1, 2]);
    let moved = [(1, "192.168.77.2", "192.168.77.92"), (2, "192.168.77.3", "192.168.77.93")];
    for (at, old, new) in moved {
        let space = lab.namespace(lab.names[at]);
        ip(&["-n", &space, "addr", "del", &format!("{old}/24"), "dev", "eth0"]);
        ip(&["-n", &space, "addr", "add", &format!("{new}/24"), "dev", "eth0"]);
    }
    // Neither hears the other at first: each is where nobody of the two looks for it.
    for (at, peer, address) in [(1, "charlie", "192.168.77.93"), (2, "bravo", "192.168.77.92")] {
        lab.until(at, 40, "the other at its new address", |report| {
            let there = |l: &thalweg::report::LinkRow| l.endpoint == format!("{address}:4600");
            report.links.iter().any(|l| l.peer == peer && there(l) && l.state.name() == "up")
        });
    }
    for (from, to) in [(0, 1), (1, 2), (2, 1), (0, 2)] {
        assert!(lab.crosses(from, overlay(to)), "{}", lab.log(from));
    }
}

#[test]
fn two_that_cannot_reach_each_other_talk_over_a_third() {
    if !allowed() {
        return;
    }
    let mut lab = Lab::new(&SITES);
    lab.wall(1, "ip saddr 192.168.77.3");
    lab.wall(1, "ip6 saddr fd99::3");
    (0..3).for_each(|at| lab.start(at));
    lab.until_meshed(&[0, 1]);
    lab.until_meshed(&[0, 2]);
    assert!(within(40, || lab.crosses(1, overlay(2))), "{}", lab.log(1));
    assert!(lab.crosses(2, overlay(1)), "{}", lab.log(2));
    let report = lab.report(1).unwrap();
    assert!(report.links.iter().all(|link| link.peer != "charlie"), "no link: {report:#?}");
}

#[test]
fn daemons_meet_over_ipv6_as_well() {
    if !allowed() {
        return;
    }
    let mut lab = Lab::new(&SITES[..2]);
    lab.configure(1, Some((0, underlay6(0))));
    (0..2).for_each(|at| lab.start(at));
    lab.until_meshed(&[0, 1]);
    let links = lab.report(1).unwrap().links;
    assert!(links.iter().all(|link| link.endpoint == "[fd99::1]:4600"), "{links:#?}");
    for address in [overlay(0), overlay6(0)] {
        assert!(lab.crosses(1, address), "{address}: {}", lab.log(1));
    }
}

#[test]
fn a_daemon_whose_device_is_taken_away_makes_another_and_carries_on() {
    let Some(lab) = meshed(&SITES[..2]) else { return };
    assert!(lab.crosses(0, overlay(1)));
    ip(&["-n", &lab.namespace("alpha"), "link", "del", "thw0"]);
    assert!(within(20, || lab.crosses(0, overlay(1))), "{}", lab.log(0));
}

#[test]
fn a_stranger_is_refused_and_the_others_are_served() {
    if !allowed() {
        return;
    }
    let mut lab = Lab::new(&SITES);
    // Charlie's papers come from another operator.
    let foreign = lab.dir.path().join("foreign");
    ca::create(&foreign, "other", 30, unix_seconds() - 60).unwrap();
    let addresses = vec![overlay(2), overlay6(2)];
    let request = Request { name: "charlie".to_owned(), addresses, days: 7, ..Request::default() };
    fs::remove_dir_all(lab.home(2)).unwrap();
    ca::issue(&foreign, &lab.home(2), &request, unix_seconds()).unwrap();
    lab.configure(2, Some((0, underlay(0))));
    (0..3).for_each(|at| lab.start(at));
    lab.until_meshed(&[0, 1]);
    assert!(lab.crosses(0, overlay(1)));
    lab.until(2, 10, "the refusal", |report| {
        let failed = |peer: &thalweg::report::PeerRow| peer.last_error.is_some();
        report.peers.iter().any(failed) || report.status.peers_connected == 0
    });
    let told = |path: &Path| fs::read_to_string(path.join("log")).unwrap_or_default();
    within(10, || told(&lab.home(2)).contains("signed by no CA"));
    assert!(told(&lab.home(2)).contains("signed by no CA"), "{}", lab.log(2));
    assert!(!lab.crosses(2, overlay(0)), "a stranger's packets go nowhere");
    assert_eq!(lab.report(0).unwrap().status.peers_connected, 1);
}

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

#[test]
fn a_narrow_underlay_of_either_family_carries_streams_and_long_packets() {
    if !allowed() {
        return;
    }
    for seed in [underlay(0), underlay6(0)] {
        let mut lab = Lab::new(&["alpha", "bravo"]);
        lab.configure(1, Some((0, seed)));
        lab.narrow(1, 1320);
        lab.start(0);
        lab.start(1);
        lab.until_meshed(&[0, 1]);
        // A veth takes four bytes more on their way in, for a VLAN's tag.
        for (at, most) in [(0, 1320), (1, 1324)] {
            lab.until(at, 30, "the MTU of its link", |report| {
                let found = |l: &thalweg::report::LinkRow| {
                    l.mtu.is_some_and(|m| (1320..=most).contains(&m))
                };
                report.links.iter().all(found)
            });
        }
        let carries = |what: &str| {
            for (from, to) in [(0, 1), (1, 0)] {
                for address in [overlay(to), overlay6(to)] {
                    let told = format!("{what}, {seed}: {} to {address}", lab.names[from]);
                    let whole = lab.fetches(from, address);
                    assert!(whole > 10_000, "{told}: {whole} bytes by TCP: {}", lab.log(from));
                    // One each way may be what its sender is told by.
                    let back = lab.echoes(from, address, 1400);
                    assert!(back >= 8, "{told}: {back} of 10: {}", lab.log(from));
                }
            }
        };
        carries("1320");
        // It shrinks while it is in use: long packets vanish, short ones do not.
        lab.narrow(1, 1280);
        for at in [0, 1] {
            lab.echoes(at, overlay(1 - at), 1180);
            lab.until(at, 90, "the lower MTU of its link", |report| {
                report.links.iter().all(|l| l.mtu.is_some_and(|m| (1280..=1284).contains(&m)))
            });
        }
        carries("1280");
    }
}
