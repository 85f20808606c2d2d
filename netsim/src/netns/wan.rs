//! The emulated Internet: one thread that carries every packet between all sites.
//!
//! It holds the far end of each site's TUN device. A packet read from site *a* for the underlay
//! address of site *b* is offered to the link model of (a, b); if it arrives, it waits in a heap for
//! its due time and is written to *b*'s device. Direct flows and daemons' datagrams cross the same
//! links. How late the thread wrote is measured on every packet and reported, so that a run on a
//! busy machine can be told from a bad link; so is how long each packet waited for its line.
//!
//! What a link says the receiver's machine drops is delivered with a wrong UDP checksum: the kernel
//! drops it at the socket and counts it there (`SO_RXQ_OVFL`), as it does what finds no room.
//!
//! Source: `epoll_pwait2(2)` for sub-millisecond waits, a short spin for the last microseconds.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use thalweg::time::Instant;

use crate::link::{LinkModel, LinkParams, LinkStats, Lost, Verdict};

use super::{SiteNet, sys, underlay_address};

/// The emulator, running. Ends when dropped.
#[derive(Debug)]
pub struct Wan {
    orders: Sender<Order>,
    wake: OwnedFd,
    thread: Option<JoinHandle<io::Result<()>>>,
}

/// What the emulator did, and how well.
#[derive(Clone, Debug, Default)]
pub struct WanReport {
    /// How late packets were written, against their due time.
    pub lateness: Lateness,
    /// Packets written to a site's device.
    pub written: u64,
    /// Packets a site's device refused.
    pub refused: u64,
    /// Packets to an address that is no site's, or no IPv4.
    pub strays: u64,
    /// Packets dropped because too much waited already.
    pub overflow: u64,
    /// Whether the thread runs with real-time priority.
    pub real_time: bool,
    /// Each direction's own count.
    pub links: BTreeMap<(usize, usize), LinkStats>,
    /// How long the packets that each direction took waited for its line.
    pub queueing: BTreeMap<(usize, usize), Queueing>,
    /// Packets and bytes seen entering each direction, and those with the watched pattern.
    pub seen: BTreeMap<(usize, usize), Seen>,
}

/// What the emulator's tap saw of one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Packets searched for the pattern.
    pub searched: u64,
    /// Of those, packets that hold it.
    pub found: u64,
}

enum Order {
    Install { from: usize, to: usize, params: LinkParams },
    Watch(Vec<u8>),
    Report(SyncSender<WanReport>),
    Forget,
    End,
}

impl Wan {
    /// Starts the emulator over the sites' devices. `links` says what lies between each ordered
    /// pair; a pair without entry is not connected. One seed gives one weather on every link.
    pub fn start(
        devices: Vec<OwnedFd>,
        links: &BTreeMap<(usize, usize), LinkParams>,
        seed: u64,
    ) -> io::Result<Self> {
        assert!(devices.len() <= SiteNet::LIMIT, "sites were made one by one under this limit");
        let (orders, inbox) = channel();
        let wake = sys::event_fd()?;
        let mut poll = sys::Poll::new()?;
        for (i, device) in devices.iter().enumerate() {
            poll.add(device.as_raw_fd(), i as u64)?;
        }
        poll.add(wake.as_raw_fd(), WAKE)?;
        let links = links
            .iter()
            .map(|(&(from, to), params)| {
                // Each direction has its own dice: a mix of seed and pair, spread by an odd factor.
                let own =
                    seed ^ ((from as u64) << 32 | to as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
                ((from, to), LinkModel::new(params.clone(), own))
            })
            .collect();
        let mut emulator = Emulator {
            devices,
            links,
            poll,
            wake: wake.try_clone()?,
            inbox,
            waiting: BinaryHeap::new(),
            slots: Vec::new(),
            free: Vec::new(),
            order: 0,
            pattern: Vec::new(),
            report: WanReport::default(),
        };
        let thread =
            std::thread::Builder::new().name("wan".into()).spawn(move || emulator.run())?;
        Ok(Self { orders, wake, thread: Some(thread) })
    }

    /// Changes what lies between two sites, one way, from now on.
    pub fn install(&self, from: usize, to: usize, params: LinkParams) {
        self.order(Order::Install { from, to, params });
    }

    /// Searches every packet from now on for these bytes; an empty pattern ends the search.
    pub fn watch(&self, pattern: &[u8]) {
        self.order(Order::Watch(pattern.to_vec()));
    }

    /// What it did since the start, or since [`Wan::forget`].
    pub fn report(&self) -> io::Result<WanReport> {
        let (reply, answer) = sync_channel(1);
        self.order(Order::Report(reply));
        answer
            .recv_timeout(Duration::from_secs(5))
            .map_err(|_| io::Error::other("the emulator does not answer"))
    }

    /// Forgets the lateness and the queueing measured so far.
    pub fn forget(&self) {
        self.order(Order::Forget);
    }

    fn order(&self, order: Order) {
        // A dead emulator shows at the next report.
        let _ = self.orders.send(order);
        let _ = sys::write(self.wake.as_raw_fd(), &1u64.to_ne_bytes());
    }
}

impl Drop for Wan {
    fn drop(&mut self) {
        self.order(Order::End);
        if let Some(thread) = self.thread.take() {
            // Its error, if any, was seen as a report that did not come.
            let _ = thread.join();
        }
    }
}

struct Emulator {
    devices: Vec<OwnedFd>,
    links: BTreeMap<(usize, usize), LinkModel>,
    poll: sys::Poll,
    wake: OwnedFd,
    inbox: Receiver<Order>,
    /// (due, order of arrival, slot): the order keeps packets of one due time in sequence.
    waiting: BinaryHeap<Reverse<(u64, u64, usize)>>,
    slots: Vec<Slot>,
    free: Vec<usize>,
    order: u64,
    pattern: Vec<u8>,
    report: WanReport,
}

#[derive(Default)]
struct Slot {
    to: usize,
    bytes: Vec<u8>,
}

impl Emulator {
    fn run(&mut self) -> io::Result<()> {
        self.report.real_time = sys::raise_priority(PRIORITY);
        let mut packet = vec![0u8; 65_536];
        let mut readable: Vec<u64> = Vec::new();
        loop {
            self.write_due();
            let timeout = self.waiting.peek().map(|Reverse((due_us, ..))| {
                let ahead = (due_us * 1000).saturating_sub(sys::monotonic_ns());
                Duration::from_nanos(ahead.saturating_sub(SPIN_NS))
            });
            readable.clear();
            readable.extend_from_slice(self.poll.wait(timeout)?);
            for &token in &readable {
                if token == WAKE {
                    let mut count = [0u8; 8];
                    let _ = sys::read(self.wake.as_raw_fd(), &mut count);
                    if self.obey() {
                        return Ok(());
                    }
                    continue;
                }
                for _ in 0..READ_BATCH {
                    match sys::read(self.devices[token as usize].as_raw_fd(), &mut packet) {
                        Ok(n) => self.carry(token as usize, &mut packet[..n]),
                        Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                        Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                        Err(e) => return Err(e),
                    }
                }
                self.write_due();
            }
        }
    }

    /// Does what was asked; true when it is to end.
    fn obey(&mut self) -> bool {
        while let Ok(order) = self.inbox.try_recv() {
            match order {
                Order::Install { from, to, params } => {
                    if let Some(link) = self.links.get_mut(&(from, to)) {
                        link.install(now_us(), params);
                    }
                }
                Order::Watch(pattern) => {
                    self.pattern = pattern;
                    self.report.seen.clear();
                }
                Order::Report(reply) => {
                    self.report.links = self.links.iter().map(|(k, l)| (*k, l.stats())).collect();
                    // Whoever asked may have given up waiting.
                    let _ = reply.try_send(self.report.clone());
                }
                Order::Forget => {
                    self.report.lateness = Lateness::default();
                    self.report.queueing.clear();
                }
                Order::End => return true,
            }
        }
        false
    }

    /// Takes one packet from a site and lets its link decide.
    fn carry(&mut self, from: usize, packet: &mut [u8]) {
        let Some(to) = destination(packet).filter(|to| *to < self.devices.len()) else {
            self.report.strays += 1;
            return;
        };
        let Some(link) = self.links.get_mut(&(from, to)) else {
            self.report.strays += 1;
            return;
        };
        if !self.pattern.is_empty() {
            let seen = self.report.seen.entry((from, to)).or_default();
            seen.searched += 1;
            seen.found += u64::from(holds(packet, &self.pattern));
        }
        let ecn = packet[1] & 0b11;
        let now = now_us();
        let queueing = link.queueing(now);
        let verdict = link.offer(now, packet.len(), ecn);
        if !matches!(verdict, Verdict::Drop(Lost::Cut | Lost::QueueFull)) {
            self.report.queueing.entry((from, to)).or_default().note(queueing);
        }
        let (at, again) = match verdict {
            Verdict::Deliver { at, ecn: marked, again } => {
                if marked != ecn {
                    set_ecn(packet, marked);
                }
                (at, again)
            }
            Verdict::Discard { at } if spoil(packet) => (at, None),
            Verdict::Discard { .. } | Verdict::Drop(_) => return,
        };
        for due in std::iter::once(at).chain(again) {
            if self.waiting.len() >= WAITING_LIMIT {
                self.report.overflow += 1;
                return;
            }
            let slot = self.free.pop().unwrap_or_else(|| {
                self.slots.push(Slot::default());
                self.slots.len() - 1
            });
            self.slots[slot].to = to;
            self.slots[slot].bytes.clear();
            self.slots[slot].bytes.extend_from_slice(packet);
            self.waiting.push(Reverse((due.as_micros(), self.order, slot)));
            self.order += 1;
        }
    }

    /// Writes what is due, and what will be within the spin.
    fn write_due(&mut self) {
        for _ in 0..WRITE_BATCH {
            let Some(&Reverse((due_us, _, slot))) = self.waiting.peek() else { return };
            let mut now = sys::monotonic_ns();
            if due_us * 1000 > now + SPIN_NS {
                return;
            }
            while due_us * 1000 > now {
                std::hint::spin_loop();
                now = sys::monotonic_ns();
            }
            self.waiting.pop();
            let Slot { to, bytes } = &self.slots[slot];
            match sys::write(self.devices[*to].as_raw_fd(), bytes) {
                Ok(_) => self.report.written += 1,
                Err(_) => self.report.refused += 1,
            }
            self.report.lateness.note(now - due_us * 1000);
            self.free.push(slot);
        }
    }
}

fn now_us() -> Instant {
    Instant::from_micros(sys::monotonic_ns() / 1000)
}

/// The site an IPv4 packet is for, by its destination address.
fn destination(packet: &[u8]) -> Option<usize> {
    if packet.len() < 20 || packet[0] >> 4 != 4 {
        return None;
    }
    let address = [packet[16], packet[17], packet[18], packet[19]];
    let site = usize::from(address[2]).checked_sub(1)?;
    (underlay_address(site).octets() == address).then_some(site)
}

/// Writes the ECN bits of an IPv4 header and mends its checksum (RFC 1624, equation 3).
fn set_ecn(packet: &mut [u8], ecn: u8) {
    let old = u16::from_be_bytes([packet[0], packet[1]]);
    packet[1] = packet[1] & !0b11 | ecn & 0b11;
    let new = u16::from_be_bytes([packet[0], packet[1]]);
    let sum = u16::from_be_bytes([packet[10], packet[11]]);
    let mut fixed = u32::from(!sum) + u32::from(!old) + u32::from(new);
    while fixed > 0xffff {
        fixed = (fixed & 0xffff) + (fixed >> 16);
    }
    packet[10..12].copy_from_slice(&(!(fixed as u16)).to_be_bytes());
}

/// Makes the UDP checksum of an IPv4 datagram a wrong one; false if it is no UDP.
fn spoil(packet: &mut [u8]) -> bool {
    let at = usize::from(packet[0] & 0xf) * 4 + 6;
    let udp = packet[9] == libc::IPPROTO_UDP as u8;
    let Some(sum) = packet.get_mut(at..at + 2).filter(|_| udp) else { return false };
    let old = u16::from_be_bytes([sum[0], sum[1]]);
    // Zero would mean that there is none.
    let wrong = if old == 0x0101 { 0x0202 } else { old ^ 0x0101 };
    sum.copy_from_slice(&wrong.to_be_bytes());
    true
}

fn holds(packet: &[u8], pattern: &[u8]) -> bool {
    let first = pattern[0];
    let mut rest = packet;
    while let Some(at) = rest.iter().position(|b| *b == first) {
        if rest[at..].starts_with(pattern) {
            return true;
        }
        rest = &rest[at + 1..];
    }
    false
}

/// A histogram of lateness: buckets of an eighth of a doubling, from 1 µs up.
#[derive(Clone, Debug)]
pub struct Lateness {
    buckets: Vec<u64>,
    count: u64,
    max_ns: u64,
}

impl Default for Lateness {
    fn default() -> Self {
        Self { buckets: vec![0; 256], count: 0, max_ns: 0 }
    }
}

impl Lateness {
    fn note(&mut self, ns: u64) {
        let us = (ns as f64 / 1000.0).max(1.0);
        let bucket = ((us.log2() * 8.0) as usize).min(self.buckets.len() - 1);
        self.buckets[bucket] += 1;
        self.count += 1;
        self.max_ns = self.max_ns.max(ns);
    }

    /// The quantile `q` in µs, rounded up to its bucket's upper edge (9 % wide); none of nothing.
    pub fn quantile_us(&self, q: f64) -> Option<f64> {
        let rank = (self.count as f64 * q).ceil() as u64;
        let mut below = 0;
        for (i, count) in self.buckets.iter().enumerate() {
            below += count;
            if *count > 0 && below >= rank {
                return Some(((i + 1) as f64 / 8.0).exp2().min(self.max_us()));
            }
        }
        None
    }

    /// The latest, µs.
    pub fn max_us(&self) -> f64 {
        self.max_ns as f64 / 1000.0
    }
}

/// How long packets waited for a line: a histogram in steps of 0.1 ms, up to 5 s.
#[derive(Clone, Debug, Default)]
pub struct Queueing {
    steps: Vec<u64>,
    count: u64,
}

impl Queueing {
    /// What is longer than 5 s counts as 5 s.
    const MOST: usize = 50_000;

    fn note(&mut self, span: Duration) {
        let step = usize::try_from(span.as_micros() / 100).unwrap_or(usize::MAX).min(Self::MOST);
        if self.steps.len() <= step {
            self.steps.resize(step + 1, 0);
        }
        self.steps[step] += 1;
        self.count += 1;
    }

    /// Packets counted.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The quantile `q` in ms, rounded up to the end of its step; none of nothing.
    pub fn quantile_ms(&self, q: f64) -> Option<f64> {
        let rank = ((self.count as f64 * q).ceil() as u64).max(1);
        let mut below = 0;
        let step = self.steps.iter().position(|count| {
            below += count;
            below >= rank
        });
        step.map(|step| (step + 1) as f64 / 10.0)
    }
}

const WAKE: u64 = u64::MAX;

/// Above ordinary threads, below anything the system itself runs in real time.
const PRIORITY: i32 = 10;

/// The last stretch before a due time is spun: a timer wakes some µs late. Longer would burn a core
/// that the daemons under test need.
const SPIN_NS: u64 = 10_000;

/// Packets read from one site before the others get their turn.
const READ_BATCH: usize = 64;

/// Packets written before devices are read again.
const WRITE_BATCH: usize = 256;

/// Packets under way at once: 0.5 s at 400,000 per second, some 300 MB at worst.
const WAITING_LIMIT: usize = 200_000;

#[cfg(test)]
mod tests {
    use super::*;

    fn checksum_ok(header: &[u8]) -> bool {
        let mut sum: u32 =
            header.chunks(2).map(|w| u32::from(u16::from_be_bytes([w[0], w[1]]))).sum();
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        sum == 0xffff
    }

    #[test]
    fn marking_a_packet_keeps_its_header_valid() {
        let mut packet = [
            0x45, 0x02, 0x00, 0x54, 0x12, 0x34, 0x40, 0x00, 0x40, 0x11, 0, 0, 198, 18, 1, 1, 198,
            18, 3, 1,
        ];
        let mut sum: u32 =
            packet.chunks(2).map(|w| u32::from(u16::from_be_bytes([w[0], w[1]]))).sum();
        sum = (sum & 0xffff) + (sum >> 16);
        packet[10..12].copy_from_slice(&(!(sum as u16)).to_be_bytes());
        assert!(checksum_ok(&packet));
        set_ecn(&mut packet, 3);
        assert_eq!(packet[1], 3);
        assert!(checksum_ok(&packet));
        assert_eq!(destination(&packet), Some(2));
    }

    #[test]
    fn strangers_have_no_destination() {
        let mut packet = [0u8; 20];
        assert_eq!(destination(&packet), None);
        packet[0] = 0x45;
        packet[16..20].copy_from_slice(&[198, 18, 0, 1]);
        assert_eq!(destination(&packet), None);
        packet[16..20].copy_from_slice(&[8, 8, 8, 8]);
        assert_eq!(destination(&packet), None);
        assert_eq!(destination(&packet[..19]), None);
    }

    #[test]
    fn a_pattern_is_found_wherever_it_lies() {
        assert!(holds(b"aaab", b"aab"));
        assert!(holds(b"xyz", b"z"));
        assert!(!holds(b"aaa", b"aab"));
        assert!(!holds(b"", b"a"));
    }

    #[test]
    fn quantiles_of_queueing_are_ends_of_steps() {
        let mut queueing = Queueing::default();
        assert_eq!(queueing.quantile_ms(0.95), None);
        for us in (0..100_000).step_by(1000) {
            queueing.note(Duration::from_micros(us));
        }
        queueing.note(Duration::from_secs(60));
        assert_eq!(
            (queueing.quantile_ms(0.0), queueing.quantile_ms(0.95)),
            (Some(0.1), Some(95.1))
        );
        assert_eq!((queueing.quantile_ms(1.0), queueing.count()), (Some(5000.1), 101));
    }

    #[test]
    fn a_spoilt_checksum_is_wrong_and_never_absent() {
        let mut packet = vec![0u8; 28];
        packet[0] = 0x45;
        packet[9] = 17;
        for sum in [0x0101u16, 0, 0xffff] {
            packet[26..].copy_from_slice(&sum.to_be_bytes());
            assert!(spoil(&mut packet));
            let now = u16::from_be_bytes([packet[26], packet[27]]);
            assert!(now != sum && now != 0, "{now:x}");
        }
        packet[9] = 6;
        assert!(!spoil(&mut packet), "only UDP has sockets that count");
        assert!(!spoil(&mut packet[..26]));
    }

    #[test]
    fn quantiles_of_lateness_round_up() {
        let mut lateness = Lateness::default();
        assert_eq!(lateness.quantile_us(0.5), None);
        for us in 1..=100u64 {
            lateness.note(us * 1000);
        }
        let p50 = lateness.quantile_us(0.5).unwrap();
        assert!((50.0..56.0).contains(&p50), "{p50}");
        assert_eq!(lateness.quantile_us(1.0), Some(100.0));
        assert_eq!(lateness.max_us(), 100.0);
    }
}
