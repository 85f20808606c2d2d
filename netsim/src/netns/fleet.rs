//! Daemons on the namespaces floor: certificates, configurations, processes, questions.
//!
//! `netsim` starts itself again as the daemon (a hidden subcommand around the same `daemon::run`), so
//! that one build suffices. Everything a node keeps lies in one temporary directory that goes with
//! the fleet; a node that is restarted finds its state there, as on a real machine.

use std::fs;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;
use thalweg::daemon::admin::{Body, Envelope};
use thalweg::daemon::pki::ca::{self, Request};
use thalweg::report::{self, Answer, Report};

use super::{SiteNet, sys};
use crate::scenario::lay_over;

/// One node to be.
#[derive(Clone, Debug)]
pub struct NodeSpec {
    /// Its name.
    pub name: String,
    /// The sites it knows at the start, by index.
    pub seeds: Vec<usize>,
    /// Laid over its configuration.
    pub config: toml::Table,
}

/// Daemons of all sites. They are stopped when it is dropped.
#[derive(Debug)]
pub struct Fleet {
    nodes: Vec<NodeHome>,
    dir: TempDir,
    priority: i32,
}

#[derive(Debug)]
struct NodeHome {
    name: String,
    dir: PathBuf,
    config: PathBuf,
    socket: PathBuf,
    process: Option<Child>,
    /// Processor time of its earlier processes, seconds.
    spent_s: f64,
}

/// The overlay address of a site's node.
pub fn overlay_address(site: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, 77, 0, site as u8 + 1)
}

impl Fleet {
    /// Makes a CA, certificates and configurations for one node per site; starts none.
    pub fn new(sites: &[SiteNet], specs: &[NodeSpec]) -> anyhow::Result<Self> {
        anyhow::ensure!(specs.len() == sites.len(), "one node per site");
        let dir = tempfile::Builder::new().prefix("thalweg-lab-").tempdir()?;
        let ca_dir = dir.path().join("ca");
        let now = unix_seconds();
        ca::create(&ca_dir, "laboratory", ca::CA_DAYS, now)?;
        let mut nodes = Vec::new();
        for (site, spec) in specs.iter().enumerate() {
            let home = dir.path().join(&spec.name);
            fs::create_dir(&home)?;
            let request = Request {
                name: spec.name.clone(),
                addresses: vec![IpAddr::V4(overlay_address(site))],
                prefixes: Some(Vec::new()),
                days: 1,
                ..Request::default()
            };
            let issued = ca::issue(&ca_dir, &home, &request, now)?;
            let mut config = toml::Table::new();
            let own = toml::toml! {
                [overlay]
                interface = "thalweg0"
                [log]
                level = "info"
                format = "text"
            };
            lay_over(&mut config, &own);
            let text = |path: &Path| toml::Value::from(path.to_string_lossy().into_owned());
            let socket = home.join("admin.sock");
            let mut node = toml::Table::new();
            node.insert("name".into(), spec.name.clone().into());
            node.insert("certificate".into(), text(&issued.certificate));
            node.insert("key".into(), text(&issued.key));
            node.insert("ca".into(), vec![text(&issued.ca)].into());
            node.insert("state".into(), text(&home.join("state")));
            config.insert("node".into(), node.into());
            let listen = format!("{}:{PORT}", sites[site].address);
            config.insert("underlay".into(), table("listen", listen.into()).into());
            config.insert("admin".into(), table("socket", text(&socket)).into());
            let peers: Vec<toml::Value> = spec
                .seeds
                .iter()
                .map(|&seed| {
                    let mut peer = table("name", specs[seed].name.clone().into());
                    let endpoint = format!("{}:{PORT}", sites[seed].address);
                    peer.insert("endpoint".into(), endpoint.into());
                    peer.into()
                })
                .collect();
            if !peers.is_empty() {
                config.insert("peer".into(), peers.into());
            }
            lay_over(&mut config, &spec.config);
            let file = home.join("thalweg.toml");
            fs::write(&file, toml::to_string(&config)?)?;
            nodes.push(NodeHome {
                name: spec.name.clone(),
                dir: home,
                config: file,
                socket,
                process: None,
                spent_s: 0.0,
            });
        }
        Ok(Self { nodes, dir, priority: PRIORITY })
    }

    /// The daemons run as ordinary programs do, beside whatever loads them.
    #[must_use]
    pub fn at_plain_priority(mut self) -> Self {
        self.priority = 0;
        self
    }

    /// Where everything lies.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// A node's admin socket.
    pub fn socket(&self, site: usize) -> &Path {
        &self.nodes[site].socket
    }

    /// Starts a node's daemon. To be called from a thread that lives as long as the daemon should.
    pub fn start(&mut self, sites: &[SiteNet], site: usize) -> io::Result<()> {
        let node = &mut self.nodes[site];
        let log = fs::File::options().create(true).append(true).open(node.dir.join("log"))?;
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("daemon").arg("--config").arg(&node.config);
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        sys::start_in_net(&mut command, sites[site].ns.fd(), self.priority)?;
        node.process = Some(command.spawn()?);
        Ok(())
    }

    /// Ends a node's daemon at once, without a word to anybody.
    pub fn kill(&mut self, site: usize) {
        let node = &mut self.nodes[site];
        node.spent_s += node.cpu_s().unwrap_or(0.0);
        if let Some(mut process) = node.process.take() {
            // It may have died by itself; either way it is collected here.
            let _ = process.kill();
            let _ = process.wait();
        }
    }

    /// The number of the node's process, while it has one.
    pub fn pid(&self, site: usize) -> Option<u32> {
        self.nodes[site].process.as_ref().map(Child::id)
    }

    /// Whether the node's process lives.
    pub fn lives(&mut self, site: usize) -> bool {
        match &mut self.nodes[site].process {
            Some(process) => matches!(process.try_wait(), Ok(None)),
            None => false,
        }
    }

    /// Processor time the node's processes have used, seconds.
    pub fn cpu_s(&self, site: usize) -> Option<f64> {
        let node = &self.nodes[site];
        match node.process {
            Some(_) => node.cpu_s().map(|s| s + node.spent_s),
            None => (node.spent_s > 0.0).then_some(node.spent_s),
        }
    }

    /// The last lines a node wrote, for when it does not come up.
    pub fn last_words(&self, site: usize, lines: usize) -> String {
        let text = fs::read_to_string(self.nodes[site].dir.join("log")).unwrap_or_default();
        let all: Vec<&str> = text.lines().collect();
        all[all.len().saturating_sub(lines)..].join("\n")
    }

    /// Asks a node.
    ///
    /// # Errors
    /// A node that is not there, does not answer within a second, or refuses.
    pub fn ask(&self, site: usize, question: &report::Command) -> io::Result<Answer> {
        let mut stream = UnixStream::connect(&self.nodes[site].socket)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let mut line = serde_json::to_vec(question)?;
        line.push(b'\n');
        stream.write_all(&line)?;
        let mut text = Vec::new();
        stream.read_to_end(&mut text)?;
        match serde_json::from_slice::<Envelope>(&text)?.body {
            Body::Answer(answer) => Ok(answer),
            Body::Error { error } => {
                Err(io::Error::other(format!("{}: {error}", self.nodes[site].name)))
            }
        }
    }

    /// Everything a node says about itself; none where it does not answer.
    pub fn report(&self, site: usize) -> Option<Report> {
        match self.ask(site, &report::Command::Report) {
            Ok(Answer::Report(report)) => Some(*report),
            _ => None,
        }
    }
}

impl NodeHome {
    fn cpu_s(&self) -> Option<f64> {
        process_cpu_s(self.process.as_ref()?.id())
    }
}

/// Processor time of a process (proc_pid_stat(5), fields 14 and 15), seconds.
pub fn process_cpu_s(pid: u32) -> Option<f64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks = |i: usize| fields.get(i).and_then(|f| f.parse::<f64>().ok());
    Some((ticks(11)? + ticks(12)?) / sys::ticks_per_second())
}

impl Drop for Fleet {
    fn drop(&mut self) {
        let processes: Vec<_> = self.nodes.iter_mut().filter_map(|n| n.process.take()).collect();
        for process in &processes {
            // Whoever is gone already needs no signal.
            let _ = sys::signal(process.id(), libc::SIGTERM);
        }
        let end = sys::monotonic_ns() + STOP_WITHIN.as_nanos() as u64;
        for mut process in processes {
            while matches!(process.try_wait(), Ok(None)) && sys::monotonic_ns() < end {
                sys::sleep_until_ns(sys::monotonic_ns() + 10_000_000);
            }
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

fn table(key: &str, value: toml::Value) -> toml::Table {
    toml::Table::from_iter([(key.to_owned(), value)])
}

fn unix_seconds() -> u64 {
    #[expect(clippy::disallowed_methods, reason = "certificates speak of wall time")]
    let now = std::time::SystemTime::now();
    now.duration_since(std::time::UNIX_EPOCH).map_or(0, |d| d.as_secs())
}

/// The daemon's own default port.
pub const PORT: u16 = 4600;

/// On a real site the daemon does not share two cores with four others and whatever else runs here:
/// it goes before ordinary programs (`SCHED_RR`), and behind the tools that measure it.
const PRIORITY: i32 = 1;

/// How long an answer may take before the laboratory goes on without it.
const PATIENCE: Duration = Duration::from_secs(1);

/// Daemons that have not ended by then are killed.
const STOP_WITHIN: Duration = Duration::from_secs(2);
