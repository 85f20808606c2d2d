//! Two sites with an emulated line between them, and a daemon in each where a tunnel is asked for.
//!
//! What a bench of lossy or full lines stands on: loads run over the line as it is ([`Pair::bare`]) or
//! through the tunnel ([`Pair::inside`]), both over the same queue; a [`Reading`] is what
//! everybody had counted at one moment, and two of them tell what happened between.
//!
//! The daemons meet while the line loses nothing, then it becomes what was asked for: a handshake
//! that takes seconds at 10 % loss is not what is measured here.

use std::io;
use std::time::Duration;

use thalweg::report::{Bytes, Report};
use thalweg::unit::Ratio;

use super::ground::{A, B, overlay_way, wait_for};
use super::load::{self, Way};
use crate::link::{LinkParams, LinkStats};
use crate::netns::fleet::{Fleet, NodeSpec};
use crate::netns::tcp::{Stream, StreamSpec};
use crate::netns::wan::Queueing;
use crate::netns::{Floor, WAN_INTERFACE, sys};

/// A line, the same both ways.
#[derive(Clone, Debug)]
pub struct LineSpec {
    /// Round trip without any queue.
    pub rtt: Duration,
    /// What it does besides; its delay is half the round trip.
    pub params: LinkParams,
}

impl LineSpec {
    /// A line of this rate with a queue of one bandwidth-delay product, drop-tail, without loss.
    pub fn full_queue(rate_bps: u64, rtt: Duration) -> Self {
        let queue_bytes = (rate_bps as f64 / 8.0 * rtt.as_secs_f64()).round() as u64;
        let params = LinkParams { rate_bps: Some(rate_bps), queue_bytes, ..LinkParams::default() };
        Self { rtt, params }
    }

    fn params(&self) -> LinkParams {
        LinkParams { delay: self.rtt / 2, ..self.params.clone() }
    }
}

/// Two sites. What runs in them ends when it is dropped, daemons before their namespaces.
#[derive(Debug)]
pub struct Pair {
    fleet: Option<Fleet>,
    floor: Floor,
}

/// What was counted up to one moment.
#[derive(Clone, Debug)]
pub struct Reading {
    at_ns: u64,
    /// Bytes A's daemon sent to B.
    pub sent: Option<Bytes>,
    /// Bytes B's daemon sent to A.
    pub back: Option<Bytes>,
    /// Probes that both daemons sent; each is answered.
    pub probes: u64,
    /// What the line from A to B did.
    pub line: LinkStats,
    /// What the line from B to A did.
    pub back_line: LinkStats,
    /// How long packets waited for it, since the last [`Pair::forget`].
    pub queueing: Queueing,
}

/// How long daemons may take until packets cross.
const PATIENCE: Duration = Duration::from_secs(20);

/// Least, initial and greatest buffers of TCP, as Linux 6.18 has them by itself: stated, since the
/// machine may have been told otherwise. They are part of the figures: at 10 % loss on 100 Mbit/s and
/// 100 ms bbr over the bare line is held back by what it may keep for sending again.
const BUFFERS: [(&str, &str); 2] =
    [("tcp_wmem", "4096 16384 4194304"), ("tcp_rmem", "4096 131072 33554432")];

/// The emulator is a good line as long as 99 of 100 packets are written no later than this.
const LATE_US: f64 = 1000.0;

impl Pair {
    /// The line alone.
    ///
    /// # Errors
    /// No privilege.
    pub fn without_tunnel(line: &LineSpec, seed: u64) -> anyhow::Result<Self> {
        let pair = Self { fleet: None, floor: floor(line, seed)? };
        pair.install(line);
        Ok(pair)
    }

    /// The line and a daemon at each end, with `config` laid over their configuration. Comes back
    /// when packets cross.
    ///
    /// # Errors
    /// No privilege, or no packets across.
    pub fn with_tunnel(line: &LineSpec, config: &toml::Table, seed: u64) -> anyhow::Result<Self> {
        let floor = floor(line, seed)?;
        let node = |name: &str, seeds: Vec<usize>| NodeSpec {
            name: name.to_owned(),
            seeds,
            config: config.clone(),
        };
        let mut fleet = Fleet::new(&floor.sites, &[node("a", Vec::new()), node("b", vec![A])])?;
        for site in [A, B] {
            fleet.start(&floor.sites, site)?;
        }
        let pair = Self { fleet: Some(fleet), floor };
        let crosses = || matches!(load::round_trips(pair.inside(), 2), Ok(Some(_)));
        if wait_for(PATIENCE, crosses).is_err() {
            let words = pair.fleet.as_ref().map(|f| f.last_words(A, 5)).unwrap_or_default();
            anyhow::bail!("no packet crossed the tunnel in {PATIENCE:?}\n{words}");
        }
        pair.install(line);
        Ok(pair)
    }

    fn install(&self, line: &LineSpec) {
        for (from, to) in [(A, B), (B, A)] {
            self.floor.wan.install(from, to, line.params());
        }
    }

    /// Over the line as it is.
    pub fn bare(&self) -> Way<'_> {
        let [a, b] = [A, B].map(|i| &self.floor.sites[i]);
        Way { a: &a.ns, b: &b.ns, from: a.address.into(), to: b.address.into() }
    }

    /// Through the tunnel.
    pub fn inside(&self) -> Way<'_> {
        overlay_way(&self.floor.sites)
    }

    /// Begins to count anew how long packets wait and how late the emulator is.
    pub fn forget(&self) {
        self.floor.wan.forget();
    }

    /// What everybody has counted by now. Says on standard error where the emulator itself lost
    /// packets or was late, since then the line was not what was asked for.
    ///
    /// # Errors
    /// An emulator that does not answer.
    pub fn read(&self, what: &str) -> io::Result<Reading> {
        let report = self.floor.wan.report()?;
        let late_us = report.lateness.quantile_us(0.99).unwrap_or(0.0);
        if late_us > LATE_US {
            eprintln!("{what}: the emulator wrote late, p99 {:.1} ms", late_us / 1000.0);
        }
        let refused = report.refused + report.overflow + self.unread();
        if refused > 0 {
            eprintln!("{what}: the emulator itself lost {refused} packets");
        }
        let [a, b] = [A, B].map(|site| self.fleet.as_ref()?.report(site));
        let (sent, back) = (a.as_ref().and_then(sent_in_all), b.as_ref().and_then(sent_in_all));
        let links = a.iter().chain(&b).flat_map(|report| &report.links);
        let line = |way| report.links.get(&way).copied().unwrap_or_default();
        Ok(Reading {
            at_ns: sys::monotonic_ns(),
            sent,
            back,
            probes: links.filter_map(|link| link.probes_sent).sum(),
            line: line((A, B)),
            back_line: line((B, A)),
            queueing: report.queueing.get(&(A, B)).cloned().unwrap_or_default(),
        })
    }

    /// Packets that the sites sent and the emulator never saw, as the devices count them.
    fn unread(&self) -> u64 {
        let dropped = |site: usize| {
            let read = || std::fs::read_to_string("/proc/thread-self/net/dev");
            let text = self.floor.sites[site].ns.run(read).ok()?;
            let line = text.lines().find_map(|l| {
                l.trim().strip_prefix(WAN_INTERFACE)?.strip_prefix(':').map(str::to_owned)
            })?;
            line.split_whitespace().nth(TX_DROPPED)?.parse::<u64>().ok()
        };
        [A, B].into_iter().filter_map(dropped).sum()
    }
}

/// A column of /proc/net/dev (proc_pid_net(5)), the first after the name being 0.
const TX_DROPPED: usize = 11;

fn sent_in_all(report: &Report) -> Option<Bytes> {
    report.links.iter().filter_map(|l| l.sent).reduce(|sum, more| sum.plus(&more))
}

fn floor(line: &LineSpec, seed: u64) -> io::Result<Floor> {
    let clean = LinkParams {
        loss: Ratio::ZERO,
        burst: None,
        cross: None,
        local_loss: Ratio::ZERO,
        ..line.params()
    };
    let links = [((A, B), clean.clone()), ((B, A), clean)].into();
    let floor = Floor::new(&["paira", "pairb"], &links, seed)?;
    for site in &floor.sites {
        site.ns.run(|| {
            let put =
                |key: &str, value: &str| std::fs::write(format!("/proc/sys/net/ipv4/{key}"), value);
            for (key, value) in BUFFERS {
                put(key, value)?;
            }
            // A stream must not start where one before it ended.
            put("tcp_no_metrics_save", "1")
        })?;
    }
    Ok(floor)
}

/// Starts a stream that lasts until it is dropped, or at most `most`.
///
/// # Errors
/// Addresses that are not there, or a congestion control that the kernel does not have.
pub fn stream(way: Way<'_>, congestion: &str, most: Duration) -> io::Result<Stream> {
    let congestion = Some(congestion.to_owned());
    let spec = StreamSpec { from: way.from, to: way.to, length: most, congestion };
    Stream::start(way.a, way.b, &spec)
}

impl Reading {
    /// Seconds from an earlier one to this.
    pub fn seconds_since(&self, before: &Self) -> f64 {
        (self.at_ns - before.at_ns) as f64 / 1e9
    }

    /// When it was taken, ns of the monotonic clock.
    pub fn at_ns(&self) -> u64 {
        self.at_ns
    }

    /// What A's daemon sent to B since an earlier one.
    pub fn sent_since(&self, before: &Self) -> Option<Bytes> {
        Some(minus(&self.sent?, &before.sent?))
    }

    /// What B's daemon sent to A since an earlier one.
    pub fn back_since(&self, before: &Self) -> Option<Bytes> {
        Some(minus(&self.back?, &before.back?))
    }
}

/// Counters only grow while a daemon lives; one that died in between tells nothing.
fn minus(now: &Bytes, before: &Bytes) -> Bytes {
    Bytes {
        data: now.data.saturating_sub(before.data),
        framing: now.framing.saturating_sub(before.framing),
        feedback: now.feedback.saturating_sub(before.feedback),
        probes: now.probes.saturating_sub(before.probes),
        repair: now.repair.saturating_sub(before.repair),
        control: now.control.saturating_sub(before.control),
    }
}

/// All kinds together.
pub fn total(bytes: &Bytes) -> u64 {
    bytes.kinds().iter().map(|(_, n)| n).sum()
}
