//! The service under a real service manager: systemd, first process of a machine made of namespaces,
//! starts the unit of `packaging/`, and this sees how it fares under everything the unit forbids it.
//!
//! Needs root, systemd and a cgroup2 file system; without them it says so and passes, unless
//! `THALWEG_REQUIRE_SYSTEMD=1`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;
use thalweg::daemon::clock::Clock;

/// Words of the operator after the unit: where its log goes, and a watchdog that bites while a test
/// waits.
const OWN: &str = "[Service]\nStandardOutput=append:/var/log/thalweg\n\
                   StandardError=append:/var/log/thalweg\nWatchdogSec=5s\n";

/// As `packaging/README.md` says, in the namespaces of the machine; and a second daemon outside the
/// service for it to talk to.
const INSTALL: &str = r#"
set -eu
thalweg cert ca --out /root/ca --name lab
thalweg cert issue --ca /root/ca --name here --address 10.77.0.1 --out /root/here
thalweg cert issue --ca /root/ca --name there --address 10.77.0.2 --out /root/there
install -d -o root -g thalweg -m 0750 /etc/thalweg /etc/thalweg/pki
install -o thalweg -g thalweg -m 0600 /root/here/here.key /etc/thalweg/pki/
install -o root -g thalweg -m 0640 /root/here/here.crt /root/here/ca.crt /etc/thalweg/pki/
cat > /etc/thalweg/thalweg.toml <<E
[node]
name = "here"
certificate = "pki/here.crt"
key = "pki/here.key"
ca = ["pki/ca.crt"]
[forward]
lanes = 2
E
cat > /root/there/thalweg.toml <<E
[node]
name = "there"
certificate = "there.crt"
key = "there.key"
ca = ["ca.crt"]
state = "state"
[admin]
socket = "/root/there/socket"
[[peer]]
name = "here"
endpoint = "192.168.77.1:4600"
E
ip netns add there
ip link add eth0 type veth peer name eth0 netns there
ip addr add 192.168.77.1/24 dev eth0
ip link set eth0 up
ip -n there addr add 192.168.77.2/24 dev eth0
ip -n there link set eth0 up
ip -n there link set lo up
systemctl daemon-reload
"#;

const PEER: &str = "exec ip netns exec there thalweg run --config /root/there/thalweg.toml \
                    > /var/log/there 2>&1";

/// A running systemd; with it goes everything it started.
struct Machine {
    dir: TempDir,
    boot: Child,
    /// Its first process, as numbered outside.
    first: String,
    /// A daemon in it beside the service.
    peer: Option<Child>,
}

/// Asks again and again until it holds; whether it did in time.
fn within(seconds: u64, mut holds: impl FnMut() -> bool) -> bool {
    let clock = Clock::start();
    let end = clock.now().plus(Duration::from_secs(seconds));
    while !holds() {
        if clock.now() >= end {
            return false;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    true
}

impl Machine {
    /// Boots it; what it said where it did not come up.
    fn boot() -> Result<Self, String> {
        let tree = Path::new(env!("CARGO_MANIFEST_DIR"));
        let dir = tempfile::Builder::new().prefix("thalweg-service-").tempdir().unwrap();
        let said = dir.path().join("said");
        let log = fs::File::create(&said).unwrap();
        fs::create_dir(root(&dir)).unwrap();
        let boot = Command::new("bash")
            .arg(tree.join("tests/service/boot.sh"))
            .args([&root(&dir), tree, Path::new(env!("CARGO_BIN_EXE_thalweg"))])
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .map_err(|error| error.to_string())?;
        let mut machine = Self { dir, boot, first: String::new(), peer: None };
        let up = within(20, || {
            let first = machine
                .group()
                .and_then(|group| fs::read_to_string(group.join("init.scope/cgroup.procs")).ok());
            machine.first = first.unwrap_or_default().trim().to_owned();
            !machine.first.is_empty() && machine.run("systemctl is-system-running").0
        });
        match up {
            true => Ok(machine),
            false => Err(fs::read_to_string(&said).unwrap_or_default()),
        }
    }

    /// Its cgroup outside.
    fn group(&self) -> Option<PathBuf> {
        let note = fs::read_to_string(root(&self.dir).with_extension("group")).ok()?;
        Some(note.trim().into())
    }

    /// Runs a script in it: whether it ended well, and what it said.
    fn run(&self, script: &str) -> (bool, String) {
        let ended = Command::new("nsenter")
            .args(["-a", "-t", &self.first, "timeout", "30", "bash", "-c", script])
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let text = [ended.stdout, ended.stderr].concat();
        (ended.status.success(), String::from_utf8_lossy(&text).into_owned())
    }

    /// What a script says that must end well.
    fn good(&self, script: &str) -> String {
        let (good, said) = self.run(script);
        assert!(good, "{script}: {said}\n{}", self.log());
        said.trim().to_owned()
    }

    /// What systemd says of the service.
    fn shown(&self, property: &str) -> String {
        self.good(&format!("systemctl show --value -P {property} thalweg"))
    }

    fn log(&self) -> String {
        let say = "systemctl --no-pager status thalweg; tail -n 40 /var/log/thalweg /var/log/there";
        self.run(say).1
    }

    /// Waits until the service reaches its peer through the overlay.
    fn until_it_carries(&self) {
        let carries = within(20, || self.run("thalweg ping there -c 1").0);
        assert!(carries, "{}", self.log());
    }
}

fn root(dir: &TempDir) -> PathBuf {
    // Its last part names the cgroup too.
    let name = dir.path().file_name().unwrap();
    dir.path().join(name)
}

impl Drop for Machine {
    fn drop(&mut self) {
        for child in self.peer.iter_mut().chain([&mut self.boot]) {
            let _ = child.kill();
            let _ = child.wait();
        }
        let Some(group) = self.group() else { return };
        // Groups can be removed once their processes are gone, inner ones first.
        within(5, || {
            let _ = Command::new("find")
                .arg(&group)
                .args(["-depth", "-type", "d", "-exec", "rmdir", "{}", ";"])
                .output();
            !group.exists()
        });
    }
}

/// A machine, where one can be made here.
fn machine() -> Option<Machine> {
    let why = match Machine::boot() {
        Ok(machine) => return Some(machine),
        Err(why) => why,
    };
    let required = std::env::var_os("THALWEG_REQUIRE_SYSTEMD").is_some_and(|v| v == "1");
    assert!(!required, "systemd does not start in namespaces here: {why}");
    println!("skipped: systemd does not start in namespaces here; run as root: {why}");
    None
}

#[test]
fn systemd_starts_the_service_reloads_it_watches_over_it_and_ends_it() {
    let Some(mut machine) = machine() else { return };
    machine.good(&format!(
        "mkdir -p /etc/systemd/system/thalweg.service.d && \
         printf '{}' > /etc/systemd/system/thalweg.service.d/own.conf",
        OWN.replace('\n', "\\n")
    ));
    machine.good(INSTALL);
    // It is started when the daemon has said that it runs.
    machine.good("systemctl start thalweg");
    machine.good("ip -4 addr show dev thalweg0 | grep 10.77.0.1");
    let peer = Command::new("nsenter")
        .args(["-a", "-t", &machine.first, "bash", "-c", PEER])
        .stdin(Stdio::null())
        .spawn();
    machine.peer = Some(peer.unwrap());
    machine.until_it_carries();

    // Nobody in particular, with four capabilities, and files of its own that others cannot read.
    let process = machine.shown("MainPID");
    let status = machine.good(&format!("cat /proc/{process}/status"));
    let line = |key: &str| {
        let found = status.lines().find_map(|line| line.strip_prefix(key));
        found.unwrap_or_default().split_whitespace().next().unwrap_or_default().to_owned()
    };
    let user = machine.good("id -u thalweg");
    assert!(user != "0" && line("Uid:") == user, "{status}");
    // Bits 12, 13, 23, 39: NET_ADMIN, NET_RAW, SYS_NICE, BPF.
    assert_eq!(line("CapEff:"), "0000008000803000");
    assert_eq!((line("NoNewPrivs:").as_str(), line("Seccomp:").as_str()), ("1", "2"));
    let lanes = machine.good("thalweg status --json | grep -o '\"lane\": *[0-9]*' | wc -l");
    assert_eq!(lanes, "2", "steered by a program, which takes a capability: {}", machine.log());
    assert_eq!(machine.good("stat -c '%U %a' /var/lib/thalweg"), "thalweg 700");
    assert_eq!(machine.good("stat -c '%U:%G %a' /run/thalweg/thalweg.sock"), "thalweg:thalweg 660");

    machine.good("systemctl reload thalweg");
    machine.good("echo foo >> /etc/thalweg/thalweg.toml");
    assert!(!machine.run("systemctl reload thalweg").0, "a bad file is told");
    machine.good("sed -i '$d' /etc/thalweg/thalweg.toml");
    assert_eq!(machine.shown("MainPID"), process, "and changes nothing");
    machine.until_it_carries();

    // One that hangs says nothing to the watchdog, is killed and started again.
    machine.good(&format!("kill -s STOP {process}"));
    let again = within(30, || {
        machine.shown("NRestarts") == "1" && machine.shown("ActiveState") == "active"
    });
    assert!(again, "{}", machine.log());
    assert_ne!(machine.shown("MainPID"), process);
    machine.until_it_carries();

    machine.good("systemctl stop thalweg");
    let state = ["ActiveState", "Result"].map(|property| machine.shown(property));
    assert_eq!(state, ["inactive", "success"], "{}", machine.log());
    assert!(!machine.run("ip link show dev thalweg0").0, "its device is gone");
    machine.good("test ! -e /run/thalweg && test -s /var/lib/thalweg/node.state");
}
