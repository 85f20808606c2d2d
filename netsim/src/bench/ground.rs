//! Where benches run: namespaces joined by plain veth, and in them nothing, a pump, or daemons.
//!
//! *Direct* is A - B. *Relay* is A - R - B with A and B on nets of their own: R forwards only for the
//! raw baseline. Every candidate has namespaces of its own, so they can take turns.
//!
//! A session needs a way for its handshake, which A and B do not have. `SidePath` gives it to them:
//! a device in each, between which a thread carries QUIC (control) datagrams and nothing else. No
//! overlay frame passes, so the link between A and B never comes up, and every packet crosses R.

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Context as _;
use tempfile::TempDir;

use super::load::{self, Way};
use crate::netns::fleet::{Fleet, NodeSpec, overlay_address, process_cpu_s};
use crate::netns::{Namespace, SiteNet, sys};

/// What lies between the ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Case {
    /// A - B.
    Direct,
    /// A - R - B.
    Relay,
}

impl Case {
    /// Its name in a report.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Relay => "relay",
        }
    }
}

/// Places by index into [`Ground::sites`].
pub const A: usize = 0;
/// Where loads end.
pub const B: usize = 1;
/// The relay, where there is one.
pub const R: usize = 2;

/// R's address on B's side.
const R_TO_B: Ipv4Addr = Ipv4Addr::new(198, 18, 2, 254);
/// How long programs may take until packets cross.
const PATIENCE: Duration = Duration::from_secs(40);
/// As the daemon's default.
const OVERLAY_MTU: u32 = 1340;
const PUMP_PORT: u16 = 4700;

/// One candidate, ready for loads. What it started ends when it is dropped, before its namespaces.
#[derive(Debug)]
pub struct Ground {
    /// In front of its metrics: `raw_`, `pump_`, nothing for the daemon.
    pub prefix: &'static str,
    carrier: Carrier,
    /// Where there is one, the case is a relay's.
    side: Option<SidePath>,
    /// A, B and perhaps R.
    pub sites: Vec<SiteNet>,
    from: IpAddr,
    to: IpAddr,
}

#[derive(Debug)]
enum Carrier {
    Nothing,
    Programs(Vec<(usize, Program)>),
    Fleet(Fleet),
}

/// A process that is ended when dropped.
#[derive(Debug)]
pub struct Program {
    process: Child,
    leaves: Option<PathBuf>,
    home: Option<Arc<TempDir>>,
}

impl Program {
    /// Starts it in a namespace, at the priority of any other; its output is lost.
    ///
    /// # Errors
    /// A program that cannot be started.
    pub fn start(ns: &Namespace, command: &mut Command) -> io::Result<Self> {
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        sys::start_in_net(command, ns.fd(), 0)?;
        Ok(Self { process: command.spawn()?, leaves: None, home: None })
    }

    /// A file it leaves behind when it is killed.
    #[must_use]
    pub fn leaving(mut self, file: impl Into<PathBuf>) -> Self {
        self.leaves = Some(file.into());
        self
    }

    /// A directory it needs, which goes with its last program.
    #[must_use]
    pub fn at_home(mut self, directory: Arc<TempDir>) -> Self {
        self.home = Some(directory);
        self
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // It may have ended by itself; either way it is collected here.
        let _ = self.process.kill();
        let _ = self.process.wait();
        self.home = None;
        if let Some(file) = &self.leaves {
            // Perhaps it tidied up after all.
            let _ = std::fs::remove_file(file);
        }
    }
}

/// Does one `ip` command.
///
/// # Errors
/// No iproute2, or what it says.
pub fn ip(ns: Option<&Namespace>, command: &str) -> anyhow::Result<()> {
    let mut run = Command::new("ip");
    if let Some(ns) = ns {
        run.args(["-n", ns.name()]);
    }
    let output = run.args(command.split_whitespace()).output();
    let output = output.context("`ip` cannot be run: benches need iproute2")?;
    let said = String::from_utf8_lossy(&output.stderr);
    anyhow::ensure!(output.status.success(), "ip {command}: {}", said.trim());
    Ok(())
}

/// A veth from `device` in one place, where it gets this address, to `eth0` in the other.
fn join(one: &SiteNet, device: &str, address: Ipv4Addr, two: &SiteNet) -> anyhow::Result<()> {
    let (a, b) = (one.ns.name(), two.ns.name());
    ip(None, &format!("link add {device} netns {a} type veth peer name eth0 netns {b}"))?;
    ip(Some(&one.ns), &format!("addr add {address}/24 dev {device}"))?;
    ip(Some(&one.ns), &format!("link set {device} up"))?;
    ip(Some(&two.ns), &format!("addr add {}/24 dev eth0", two.address))?;
    ip(Some(&two.ns), "link set eth0 up")
}

/// Namespaces with veth between them.
///
/// # Errors
/// No privilege, no iproute2.
pub fn lay(case: Case, label: &str) -> anyhow::Result<Vec<SiteNet>> {
    let site = |name: &str, address: Ipv4Addr| -> io::Result<SiteNet> {
        Ok(SiteNet { ns: Namespace::new(&format!("{label}{name}"))?, address })
    };
    let a = site("a", Ipv4Addr::new(198, 18, 1, 1))?;
    Ok(match case {
        Case::Direct => {
            let b = site("b", Ipv4Addr::new(198, 18, 1, 2))?;
            join(&b, "eth0", b.address, &a)?;
            vec![a, b]
        }
        Case::Relay => {
            let b = site("b", Ipv4Addr::new(198, 18, 2, 1))?;
            let r = site("r", Ipv4Addr::new(198, 18, 1, 254))?;
            join(&r, "eth0", r.address, &a)?;
            join(&r, "eth1", R_TO_B, &b)?;
            vec![a, b, r]
        }
    })
}

impl Ground {
    /// Nothing but the kernel; R forwards.
    ///
    /// # Errors
    /// No privilege, no iproute2.
    pub fn raw(case: Case) -> anyhow::Result<Self> {
        let sites = lay(case, "raw")?;
        if let Some(r) = sites.get(R) {
            let forward = || std::fs::write("/proc/sys/net/ipv4/ip_forward", "1");
            r.ns.run(forward).context("ip_forward")?;
            ip(Some(&sites[A].ns), &format!("route add default via {}", r.address))?;
            ip(Some(&sites[B].ns), &format!("route add default via {R_TO_B}"))?;
        }
        let [from, to] = [A, B].map(|i| IpAddr::V4(sites[i].address));
        Self { prefix: "raw_", carrier: Carrier::Nothing, side: None, sites, from, to }.ready()
    }

    /// Pumps in the daemons' place.
    ///
    /// # Errors
    /// No privilege, no iproute2, no packets across.
    pub fn pump(case: Case) -> anyhow::Result<Self> {
        let sites = lay(case, "pump")?;
        let netsim = std::env::current_exe()?;
        let start = |site: &SiteNet, tun: Option<&str>, pairs: &[(Ipv4Addr, Ipv4Addr)]| {
            let mut command = Command::new(&netsim);
            command.arg("pump");
            command.args(tun.iter().flat_map(|tun| ["--tun", tun]));
            for (local, remote) in pairs {
                command.arg("--local").arg(format!("{local}:{PUMP_PORT}"));
                command.arg("--remote").arg(format!("{remote}:{PUMP_PORT}"));
            }
            Program::start(&site.ns, &mut command)
        };
        let [a, b] = [A, B].map(|i| sites[i].address);
        let (from_a, from_b) = sites.get(R).map_or((b, a), |r| (r.address, R_TO_B));
        let mut programs = Vec::new();
        for (i, own, other) in [(A, a, from_a), (B, b, from_b)] {
            programs.push((i, start(&sites[i], Some("pump0"), &[(own, other)])?));
        }
        if let Some(r) = sites.get(R) {
            programs.push((R, start(r, None, &[(r.address, a), (R_TO_B, b)])?));
        }
        Self::programs("pump_", sites, programs, &["pump0"; 2], OVERLAY_MTU)
    }

    /// Programs that made devices of these names in A and B; gives the devices their addresses.
    ///
    /// # Errors
    /// No device, or no packets across it.
    pub fn programs(
        prefix: &'static str,
        sites: Vec<SiteNet>,
        programs: Vec<(usize, Program)>,
        devices: &[&str; 2],
        mtu: u32,
    ) -> anyhow::Result<Self> {
        for i in [A, B] {
            let (ns, device) = (&sites[i].ns, devices[i]);
            let up = format!("link set {device} mtu {mtu} txqueuelen 2000 up");
            wait_for(Duration::from_secs(5), || ip(Some(ns), &up).is_ok())
                .with_context(|| format!("device {device} of {prefix}"))?;
            let address = format!("addr replace {}/24 dev {device}", overlay_address(i));
            ip(Some(ns), &address)?;
        }
        let carrier = Carrier::Programs(programs);
        let [from, to] = [A, B].map(|i| IpAddr::V4(overlay_address(i)));
        Self { prefix, carrier, side: None, sites, from, to }.ready()
    }

    /// Our daemons, started: they need some seconds until [`Self::ready`].
    ///
    /// # Errors
    /// No privilege, no iproute2.
    pub fn daemons(case: Case) -> anyhow::Result<Self> {
        Self::daemons_with(case, None)
    }

    /// The same with so many lanes each; `lanes_` is their prefix.
    ///
    /// # Errors
    /// No privilege, no iproute2.
    pub fn with_lanes(case: Case, lanes: u8) -> anyhow::Result<Self> {
        Ok(Self { prefix: "lanes_", ..Self::daemons_with(case, Some(lanes))? })
    }

    fn daemons_with(case: Case, lanes: Option<u8>) -> anyhow::Result<Self> {
        let sites = lay(case, if lanes.is_some() { "tl" } else { "tw" })?;
        let side = match case {
            Case::Direct => None,
            Case::Relay => Some(SidePath::lay(&sites[A], &sites[B])?),
        };
        let node = |name: &str, seeds: Vec<usize>| NodeSpec {
            name: name.to_owned(),
            seeds,
            config: toml::Table::new(),
        };
        let mut specs = vec![node("a", Vec::new()), node("b", Vec::new())];
        match case {
            Case::Direct => specs[A].seeds.push(B),
            Case::Relay => {
                let mut r = node("r", vec![A, B]);
                r.config = toml::toml! {
                    [underlay]
                    listen = "0.0.0.0:4600"
                };
                specs.push(r);
            }
        }
        if let Some(lanes) = lanes {
            let count = toml::Table::from_iter([("lanes".to_owned(), i64::from(lanes).into())]);
            for spec in &mut specs {
                spec.config.insert("forward".to_owned(), count.clone().into());
            }
        }
        let mut fleet = Fleet::new(&sites, &specs)?.at_plain_priority();
        for i in 0..sites.len() {
            fleet.start(&sites, i)?;
        }
        let carrier = Carrier::Fleet(fleet);
        let [from, to] = [A, B].map(|i| IpAddr::V4(overlay_address(i)));
        Ok(Self { prefix: "", carrier, side, sites, from, to })
    }

    /// Two daemons, direct, and a place for a third beside A that is not started: its index is [`R`].
    ///
    /// # Errors
    /// No privilege, no iproute2.
    pub fn daemons_and_third() -> anyhow::Result<Self> {
        let mut sites = lay(Case::Direct, "tw")?;
        let address = Ipv4Addr::new(198, 18, 3, 1);
        let third = SiteNet { ns: Namespace::new("twc")?, address };
        let beside = Ipv4Addr::new(198, 18, 3, 254);
        join(&sites[A], "eth1", beside, &third)?;
        ip(Some(&third.ns), &format!("route add default via {beside}"))?;
        sites.push(third);
        let node = |name: &str, seeds: Vec<usize>| NodeSpec {
            name: name.to_owned(),
            seeds,
            config: toml::Table::new(),
        };
        let specs = [node("a", vec![B]), node("b", Vec::new()), node("c", vec![A])];
        let mut fleet = Fleet::new(&sites, &specs)?.at_plain_priority();
        fleet.start(&sites, A)?;
        fleet.start(&sites, B)?;
        let carrier = Carrier::Fleet(fleet);
        let [from, to] = [A, B].map(|i| IpAddr::V4(overlay_address(i)));
        Ok(Self { prefix: "", carrier, side: None, sites, from, to })
    }

    /// Waits until packets cross; makes sure that they cross R where there is one.
    ///
    /// # Errors
    /// None cross, or not over R.
    pub fn ready(self) -> anyhow::Result<Self> {
        let crosses = || matches!(load::round_trips(self.way(), 5), Ok(Some(_)));
        if wait_for(PATIENCE, crosses).is_err() {
            let words = match &self.carrier {
                Carrier::Fleet(fleet) => fleet.last_words(A, 5),
                _ => String::new(),
            };
            anyhow::bail!("no packet crossed {}* in {PATIENCE:?}\n{words}", self.prefix);
        }
        if let Some(before) = self.relayed_packets() {
            load::round_trips(self.way(), 20)?;
            // Counters are published four times a second.
            load::sleep(Duration::from_millis(600));
            let crossed = self.relayed_packets().map(|after| after - before);
            anyhow::ensure!(
                crossed.is_some_and(|n| n >= 40),
                "20 round trips made R relay {crossed:?} packets, not 40"
            );
        }
        Ok(self)
    }

    /// Where loads run.
    pub fn way(&self) -> Way<'_> {
        Way { a: &self.sites[A].ns, b: &self.sites[B].ns, from: self.from, to: self.to }
    }

    /// Packets R has relayed, where daemons are the carrier and there is an R.
    pub fn relayed_packets(&self) -> Option<u64> {
        match &self.carrier {
            Carrier::Fleet(fleet) if self.side.is_some() => {
                fleet.report(R)?.status.traffic.map(|t| t.relay.packets)
            }
            _ => None,
        }
    }

    /// Processes at a place.
    pub fn pids(&self, site: usize) -> Vec<u32> {
        match &self.carrier {
            Carrier::Nothing => Vec::new(),
            Carrier::Programs(programs) => {
                programs.iter().filter(|p| p.0 == site).map(|p| p.1.process.id()).collect()
            }
            Carrier::Fleet(fleet) => fleet.pid(site).into_iter().collect(),
        }
    }

    /// Processor time of the processes at these places, seconds; none where there are none.
    pub fn cpu_s(&self, sites: &[usize]) -> Option<f64> {
        let there = sites.iter().filter(|&&site| site < self.sites.len());
        let pids: Vec<u32> = there.flat_map(|&site| self.pids(site)).collect();
        if pids.is_empty() {
            return None;
        }
        pids.into_iter().map(process_cpu_s).sum()
    }

    /// A line of /proc/PID/status of A's process in MiB: `VmRSS`, `VmHWM`.
    pub fn memory_mib(&self, field: &str) -> Option<f64> {
        let pid = *self.pids(A).first()?;
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let line = status.lines().find_map(|l| l.strip_prefix(field)?.strip_prefix(':'))?;
        Some(line.trim().strip_suffix("kB")?.trim().parse::<f64>().ok()? / 1024.0)
    }

    /// The daemons and their places, where daemons are the carrier.
    pub fn fleet(&mut self) -> Option<(&mut Fleet, &[SiteNet])> {
        match &mut self.carrier {
            Carrier::Fleet(fleet) => Some((fleet, &self.sites)),
            _ => None,
        }
    }
}

/// From A to B inside the overlay.
pub fn overlay_way(sites: &[SiteNet]) -> Way<'_> {
    let [from, to] = [A, B].map(|i| IpAddr::V4(overlay_address(i)));
    Way { a: &sites[A].ns, b: &sites[B].ns, from, to }
}

/// Tries again and again, at most so long.
///
/// # Errors
/// It was not done in time.
pub fn wait_for(patience: Duration, mut done: impl FnMut() -> bool) -> io::Result<()> {
    let end = sys::monotonic_ns() + patience.as_nanos() as u64;
    while !done() {
        if sys::monotonic_ns() > end {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "waited too long"));
        }
        load::sleep(Duration::from_millis(50));
    }
    Ok(())
}

/// A way between two places for QUIC datagrams alone. Ends when dropped.
#[derive(Debug)]
struct SidePath {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl SidePath {
    fn lay(a: &SiteNet, b: &SiteNet) -> anyhow::Result<Self> {
        let open = |own: &SiteNet, other: &SiteNet| -> anyhow::Result<OwnedFd> {
            let device = own.ns.run(|| sys::open_tun("side0"))?;
            ip(Some(&own.ns), "link set side0 mtu 1500 up")?;
            ip(Some(&own.ns), &format!("route add {}/32 dev side0", other.address))?;
            Ok(device)
        };
        let devices = [open(a, b)?, open(b, a)?];
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let mut poll = sys::Poll::new()?;
        for (device, token) in devices.iter().zip(0..) {
            poll.add(device.as_raw_fd(), token)?;
        }
        let carry = move || {
            let mut packet = [0; 2048];
            while !stopped.load(Ordering::Relaxed) {
                let Ok(ready) = poll.wait(Some(Duration::from_millis(100))) else { return };
                for &from in ready {
                    let from = from as usize;
                    while let Ok(n) = sys::read(devices[from].as_raw_fd(), &mut packet) {
                        if is_quic(&packet[..n]) {
                            // A full device drops, as any queue.
                            let _ = sys::write(devices[1 - from].as_raw_fd(), &packet[..n]);
                        }
                    }
                }
            }
        };
        let thread = std::thread::Builder::new().name("side-path".into()).spawn(carry)?;
        Ok(Self { stop, thread: Some(thread) })
    }
}

impl Drop for SidePath {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A panic there has already been printed.
            let _ = thread.join();
        }
    }
}

/// Whether an IPv4 packet is UDP whose first byte has QUIC's bit (`docs/wire.md`, "One port").
fn is_quic(packet: &[u8]) -> bool {
    let header = packet.first().map_or(0, |b| usize::from(b & 15) * 4);
    packet.first().is_some_and(|b| b >> 4 == 4)
        && packet.get(9) == Some(&17)
        && packet.get(header + 8).is_some_and(|first| first & 0x40 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_side_path_carries_quic_and_no_overlay_frame() {
        let mut packet = [0; 60];
        packet[0] = 0x45;
        packet[9] = 17;
        packet[28] = 0x43;
        assert!(is_quic(&packet));
        packet[28] = 0x14;
        assert!(!is_quic(&packet), "an overlay frame");
        packet[28] = 0x43;
        packet[9] = 6;
        assert!(!is_quic(&packet), "not UDP");
        assert!(!is_quic(&packet[..20]) && !is_quic(&[]));
    }
}
