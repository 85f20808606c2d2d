//! `netsim bench soak`: mixed traffic over a relay for minutes while things go wrong again and again,
//! and what that leaves behind: memory that grows, daemons that end.
//!
//! A cycle is ten seconds: a hundred UDP flows and two TCP streams from A over R to B, in their midst
//! one fault, then a second of rest in which memory is read. The faults take turns: the underlay's
//! MTU shrinks and comes back; A's TUN device is deleted; R's is; strangers flood R; B is killed and
//! started anew. The first cycles have none: what they take is counted as the start.

use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use super::ground::{A, B, Case, Ground, R, ip};
use super::load::{self, Shape, Udp, Way};
use super::{BenchReport, Sheet};
use crate::netns::fleet::{Fleet, PORT, overlay_address};
use crate::netns::stop::Stop;
use crate::netns::{SiteNet, sys};

/// How much of it.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// For how long.
    pub length: Duration,
}

/// What goes wrong.
#[derive(Clone, Copy, Debug)]
enum Fault {
    MtuFlap,
    DeviceOfEnd,
    DeviceOfRelay,
    Flood,
    PeerRestart,
}

const FAULTS: [Fault; 5] =
    [Fault::MtuFlap, Fault::DeviceOfEnd, Fault::DeviceOfRelay, Fault::Flood, Fault::PeerRestart];
/// Cycles before the first fault.
const WARM_UP: usize = 1;
const TRAFFIC: Duration = Duration::from_secs(8);
const UNTIL_FAULT: Duration = Duration::from_secs(2);
const FAULT: Duration = Duration::from_secs(2);
const REST: Duration = Duration::from_secs(1);
/// UDP packets a second: little enough for two cores shared by all.
const UDP_RATE: f64 = 3000.0;
/// Places whose memory is followed; B's is new with each restart.
const FOLLOWED: [(usize, &str); 2] = [(A, "end"), (R, "relay")];

/// Runs it. None if told to stop.
///
/// # Errors
/// The mesh cannot be laid, or does not come up.
pub fn run(options: Options, stop: &Stop) -> anyhow::Result<Option<BenchReport>> {
    let mut ground = Ground::daemons(Case::Relay)?.ready()?;
    let (fleet, sites) = ground.fleet().expect("daemons carry it");
    let mut soak = Soak { fleet, sites, ended: [0; 3], sent: 0, received: 0 };
    let began = sys::monotonic_ns();
    let passed = || Duration::from_nanos(sys::monotonic_ns() - began);
    let mut memory: [Vec<(f64, f64)>; FOLLOWED.len()] = Default::default();
    for cycle in 0_usize.. {
        let fault = cycle.checked_sub(WARM_UP).map(|n| FAULTS[n % FAULTS.len()]);
        soak.cycle(fault)?;
        if stop.asked() {
            return Ok(None);
        }
        if cycle + 1 >= WARM_UP {
            for (samples, (site, _)) in memory.iter_mut().zip(FOLLOWED) {
                let minutes = passed().as_secs_f64() / 60.0;
                samples.extend(soak.resident_mib(site).map(|mib| (minutes, mib)));
            }
        }
        if passed() >= options.length {
            break;
        }
    }
    let mut sheet = Sheet::default();
    for (samples, (site, name)) in memory.iter().zip(FOLLOWED) {
        let (first, last) = (samples.first().map(|s| s.1), samples.last().map(|s| s.1));
        sheet.note(name, "rss_start_mib", "MiB", first);
        sheet.note(name, "rss_end_mib", "MiB", last);
        sheet.note(name, "rss_growth_mib_per_min", "MiB/min", slope(samples));
        sheet.note(name, "panics", "1", Some(f64::from(soak.ended[site])));
        let report = soak.fleet.report(site);
        let reopened = report.as_ref().and_then(|r| r.status.doors);
        sheet.note(name, "tun_reopened", "1", reopened.map(|d| d.tun_reopened as f64));
        let drops = report.and_then(|r| r.status.dropped_packets).unwrap_or_default();
        for (reason, count) in drops {
            sheet.note(name, &format!("drops_{reason}"), "packets", Some(count as f64));
        }
    }
    sheet.note("restarted", "panics", "1", Some(f64::from(soak.ended[B])));
    let share = (soak.sent > 0).then(|| soak.received as f64 / soak.sent as f64 * 100.0);
    sheet.note("traffic", "udp_delivered", "%", share);
    let after = load::round_trips(soak.way(), 40)?;
    sheet.note("traffic", "rtt_afterwards_us", "us", after.map(|(mean, _)| mean));
    Ok(Some(sheet.report("soak")))
}

struct Soak<'a> {
    fleet: &'a mut Fleet,
    sites: &'a [SiteNet],
    /// How often each daemon ended that nobody told to.
    ended: [u32; 3],
    /// UDP packets of all cycles.
    sent: u64,
    received: u64,
}

impl<'a> Soak<'a> {
    fn way(&self) -> Way<'a> {
        let [from, to] = [A, B].map(|site| overlay_address(site).into());
        Way { a: &self.sites[A].ns, b: &self.sites[B].ns, from, to }
    }

    fn cycle(&mut self, fault: Option<Fault>) -> anyhow::Result<()> {
        let way = self.way();
        // Addresses may be missing right after a fault: then a cycle has less traffic, and says so by
        // what was delivered.
        let udp = Udp::start(way, Shape::Mix, Some(UDP_RATE));
        std::thread::scope(|s| {
            let tcp = s.spawn(move || load::tcp(way, 2, TRAFFIC));
            load::sleep(UNTIL_FAULT);
            let done = fault.map_or(Ok(()), |fault| self.break_it(fault));
            // What it carried is no figure here.
            drop(tcp.join());
            done
        })?;
        if let Ok(udp) = udp {
            let trial = udp.finish();
            self.sent += trial.sent;
            self.received += trial.received;
        }
        load::sleep(REST);
        for site in [A, B, R] {
            if !self.fleet.lives(site) {
                self.ended[site] += 1;
                eprintln!("a daemon ended by itself:\n{}", self.fleet.last_words(site, 10));
                self.fleet.kill(site);
                self.fleet.start(self.sites, site)?;
            }
        }
        Ok(())
    }

    fn break_it(&mut self, fault: Fault) -> anyhow::Result<()> {
        match fault {
            Fault::MtuFlap => {
                ip(Some(&self.sites[A].ns), "link set eth0 mtu 1000")?;
                load::sleep(FAULT);
                ip(Some(&self.sites[A].ns), "link set eth0 mtu 1500")
            }
            Fault::DeviceOfEnd => ip(Some(&self.sites[A].ns), "link del thalweg0"),
            Fault::DeviceOfRelay => ip(Some(&self.sites[R].ns), "link del thalweg0"),
            Fault::Flood => self.flood(),
            Fault::PeerRestart => {
                self.fleet.kill(B);
                load::sleep(FAULT);
                Ok(self.fleet.start(self.sites, B)?)
            }
        }
    }

    /// A stranger beside A sends R whatever comes to mind.
    fn flood(&self) -> anyhow::Result<()> {
        let own = SocketAddr::new(self.sites[A].address.into(), 0);
        let socket = self.sites[A].ns.run(|| UdpSocket::bind(own))?;
        let target = (self.sites[R].address, PORT);
        let end = sys::monotonic_ns() + FAULT.as_nanos() as u64;
        let mut number = 0_u32;
        while sys::monotonic_ns() < end {
            for first in [0x10, 0x11, 0x14, 0x43, 0xc0, 0x00, 0x1f] {
                number = number.wrapping_add(0x9e37_79b9);
                let mut datagram = [first; 1200];
                // The upper half of the second byte is reserved: left alone, or all ends there.
                datagram[1] = 0;
                datagram[2..6].copy_from_slice(&number.to_be_bytes());
                datagram[6..10].copy_from_slice(&number.to_le_bytes());
                let length = 1 + number as usize % datagram.len();
                // What does not go is no flood.
                let _ = socket.send_to(&datagram[..length], target);
            }
        }
        Ok(())
    }

    fn resident_mib(&self, site: usize) -> Option<f64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.fleet.pid(site)?));
        let status = status.ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
        Some(line.trim().strip_suffix("kB")?.trim().parse::<f64>().ok()? / 1024.0)
    }
}

/// The slope of the straight line closest to the points; none through fewer than three.
fn slope(points: &[(f64, f64)]) -> Option<f64> {
    let n = points.len() as f64;
    let (x, y) = points.iter().fold((0.0, 0.0), |(x, y), p| (x + p.0 / n, y + p.1 / n));
    let (over, under) = points.iter().fold((0.0, 0.0), |(over, under), p| {
        (over + (p.0 - x) * (p.1 - y), under + (p.0 - x).powi(2))
    });
    (points.len() >= 3 && under > 0.0).then(|| over / under)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slope_is_that_of_the_closest_line() {
        assert_eq!(slope(&[(0.0, 1.0), (1.0, 3.0), (2.0, 5.0)]), Some(2.0));
        assert_eq!(slope(&[(0.0, 4.0), (1.0, 0.0), (2.0, 4.0)]), Some(0.0));
        assert_eq!(slope(&[(0.0, 1.0), (1.0, 3.0)]), None);
        assert_eq!(slope(&[(1.0, 1.0); 5]), None);
    }
}
