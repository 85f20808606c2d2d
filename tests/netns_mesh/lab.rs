//! Sites in namespaces on one switch, with a daemon each.

use std::collections::BTreeMap;
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tempfile::TempDir;
use thalweg::daemon::admin::{Body, query_blocking};
use thalweg::daemon::clock::{Clock, unix_seconds};
use thalweg::daemon::pki::ca::{self, Request};
use thalweg::id::NodeId;
use thalweg::report::{Answer, Command as Question, Report};
use thalweg::topology::member::Members;

/// Sites on one switch, with a daemon each, all removed when dropped.
pub(crate) struct Lab {
    pub(crate) dir: TempDir,
    /// Begins the name of every namespace.
    prefix: String,
    pub(crate) names: Vec<&'static str>,
    daemons: Vec<Option<Child>>,
}

/// Whether namespaces can be made here; found out once.
pub(crate) fn allowed() -> bool {
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
        assert!(!required(), "cannot make network namespaces");
        println!("skipped: cannot make network namespaces; run as root");
    }
    allowed
}

/// Whether namespaces can be made here and a program is there that comes with this Debian package.
pub(crate) fn allowed_with(program: &str, package: &str) -> bool {
    if !allowed() {
        return false;
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let there = std::env::split_paths(&path).any(|dir| dir.join(program).is_file());
    if !there {
        let why = format!("`{program}` is not installed: apt-get install {package}");
        assert!(!required(), "{why}");
        println!("skipped: {why}");
    }
    there
}

/// Whether a test that cannot run here has failed.
fn required() -> bool {
    std::env::var_os("THALWEG_REQUIRE_NETNS").is_some_and(|v| v == "1")
}

pub(crate) fn ip(words: &[&str]) -> String {
    let output = Command::new("ip").args(words).output().expect("iproute2 is there");
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "ip {}: {errors}", words.join(" "));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Asks again and again until it holds; whether it did in time.
pub(crate) fn within(seconds: u64, mut holds: impl FnMut() -> bool) -> bool {
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
    pub(crate) fn new(names: &[&'static str]) -> Self {
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
    pub(crate) fn configure(&self, at: usize, seed: Option<(usize, IpAddr)>) {
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

    pub(crate) fn home(&self, at: usize) -> PathBuf {
        self.dir.path().join(self.names[at])
    }

    pub(crate) fn socket(&self, at: usize) -> PathBuf {
        self.home(at).join("admin.sock")
    }

    pub(crate) fn namespace(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    pub(crate) fn start(&mut self, at: usize) {
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

    /// A node's state tells that it last started then, and nothing else.
    pub(crate) fn has_started(&self, at: usize, unix_s: u64) {
        let node = NodeId::new(at as u16 + 1).unwrap();
        let members = Members::new(node, self.names[at].to_owned(), Duration::from_secs(1));
        let state = self.home(at).join("state");
        fs::create_dir_all(&state).unwrap();
        let kept = members.persist(unix_s, &BTreeMap::new(), &[]);
        fs::write(state.join("node.state"), kept).unwrap();
    }

    /// Sends a signal by its name; `ip netns exec` has become the daemon, so it gets it.
    pub(crate) fn signal(&self, at: usize, signal: &str) {
        let child = self.daemons[at].as_ref().expect("it runs");
        let id = child.id().to_string();
        assert!(Command::new("kill").args(["-s", signal, &id]).status().unwrap().success());
    }

    /// Waits for a daemon's end; its exit code, `None` where a signal killed it.
    pub(crate) fn wait(&mut self, at: usize) -> Option<i32> {
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

    pub(crate) fn report(&self, at: usize) -> Option<Report> {
        match query_blocking(&self.socket(at), &Question::Report).ok()?.body {
            Body::Answer(Answer::Report(report)) => Some(*report),
            _ => None,
        }
    }

    /// Waits until a condition on a node's report holds.
    pub(crate) fn until(
        &self,
        at: usize,
        seconds: u64,
        what: &str,
        holds: impl Fn(&Report) -> bool,
    ) {
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
    pub(crate) fn until_meshed(&self, nodes: &[usize]) {
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
    pub(crate) fn crosses(&self, from: usize, to: IpAddr) -> bool {
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
    pub(crate) fn narrow(&self, at: usize, mtu: u16) {
        let (switch, port) = (self.namespace("switch"), format!("port{at}"));
        ip(&["-n", &switch, "link", "set", &port, "mtu", &mtu.to_string()]);
    }

    /// How many of ten echoes of packets this long come back over the overlay.
    pub(crate) fn echoes(&self, from: usize, to: IpAddr, length: u16) -> usize {
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
    pub(crate) fn fetches(&self, from: usize, to: IpAddr) -> usize {
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

    pub(crate) fn whole_log(&self, at: usize) -> String {
        fs::read_to_string(self.home(at).join("log")).unwrap_or_default()
    }

    pub(crate) fn log(&self, at: usize) -> String {
        let text = fs::read_to_string(self.home(at).join("log")).unwrap_or_default();
        let lines: Vec<_> = text.lines().collect();
        format!("--- {}\n{}", self.names[at], lines[lines.len().saturating_sub(60)..].join("\n"))
    }

    /// A firewall at a site: what the underlay sends unasked is dropped.
    pub(crate) fn outbound_only(&self, at: usize) {
        let rules = "add table inet wall; \
                     add chain inet wall in { type filter hook input priority 0; }; \
                     add rule inet wall in ct state established,related accept; \
                     add rule inet wall in iifname \"eth0\" meta l4proto udp counter drop";
        ip(&["netns", "exec", &self.namespace(self.names[at]), "nft", rules]);
    }

    /// What comes to a site from some others is dropped.
    pub(crate) fn wall(&self, at: usize, from: &str) {
        let rules = format!(
            "add table inet wall; \
             add chain inet wall in {{ type filter hook input priority 0; }}; \
             add rule inet wall in {from} drop"
        );
        ip(&["netns", "exec", &self.namespace(self.names[at]), "nft", &rules]);
    }

    /// Whether a site's firewall dropped anything.
    pub(crate) fn has_dropped(&self, at: usize) -> bool {
        let chain = ["nft", "list", "chain", "inet", "wall", "in"];
        let rules = ip(&[&["netns", "exec", &self.namespace(self.names[at])][..], &chain].concat());
        rules.contains("counter packets") && !rules.contains("counter packets 0 ")
    }

    /// What a namespace holds of the overlay: device, addresses, routes.
    pub(crate) fn left_behind(&self, at: usize) -> String {
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

pub(crate) fn underlay(at: usize) -> IpAddr {
    IpAddr::from([192, 168, 77, at as u8 + 1])
}

pub(crate) fn underlay6(at: usize) -> IpAddr {
    format!("fd99::{}", at + 1).parse().unwrap()
}

pub(crate) fn overlay(at: usize) -> IpAddr {
    IpAddr::from([10, 77, 0, at as u8 + 1])
}

pub(crate) fn overlay6(at: usize) -> IpAddr {
    format!("fd77::{}", at + 1).parse().unwrap()
}

pub(crate) const SITES: [&str; 3] = ["alpha", "bravo", "charlie"];

/// These sites, started together and meshed; none where namespaces are not allowed.
pub(crate) fn meshed(sites: &[&'static str]) -> Option<Lab> {
    allowed().then(|| {
        let mut lab = Lab::new(sites);
        let all: Vec<usize> = (0..sites.len()).collect();
        all.iter().for_each(|&at| lab.start(at));
        lab.until_meshed(&all);
        lab
    })
}

/// Starts in this order, and has traffic cross every pair both ways.
pub(crate) fn joins_in_order(order: [usize; 3]) -> Lab {
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
