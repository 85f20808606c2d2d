//! The traffic tool: constant-rate UDP flows between namespaces, every packet accounted for.
//!
//! Each packet carries its flow, its number and the monotonic time at which it was sent; sender and
//! receiver share one clock, so one-way delays are exact. Any number of flows is sent by one thread
//! and received by another: a socket stays in the namespace it was made in. The [`Ledger`] keeps
//! one entry per packet sent; every figure is computed from it, for any window of time.
//!
//! |  0: magic 4  |  4: flow 4  |  8: seq 8  |  16: sent, ns 8  |  24: filler, then the payload   big-endian

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use super::{Namespace, sys};

/// One flow to be sent.
#[derive(Clone, Debug)]
pub struct FlowSpec {
    /// Address it is sent from.
    pub from: IpAddr,
    /// Address it is sent to.
    pub to: SocketAddr,
    /// Packets per second.
    pub pps: u32,
    /// Bytes of UDP payload, header of 24 included.
    pub size: usize,
    /// DSCP, 0 to 63.
    pub dscp: u8,
    /// Repeated after the header up to `size`; zeros where empty.
    pub payload: Vec<u8>,
    /// When it starts and stops, after the start of all; none: it lasts as long as they do.
    pub span: Option<(Duration, Duration)>,
}

/// What is written for each packet before the payload.
pub const HEADER: usize = 24;
const MAGIC: u32 = 0x7457_6c67;

/// One packet as the ledger knows it.
#[derive(Clone, Copy, Debug)]
struct Entry {
    sent_ns: u64,
    /// One-way delay of the first copy to arrive, µs; [`LOST`] until then.
    delay_us: u32,
    duplicates: u16,
    /// A packet with a later number arrived before it.
    overtaken: bool,
}

const LOST: u32 = u32::MAX;

/// Everything that is known of one flow's packets.
#[derive(Debug, Default)]
pub struct Ledger {
    entries: Vec<Entry>,
    /// Sends that the local kernel refused; they count as lost.
    refused: u64,
    /// Greatest number that arrived, plus one.
    arrived_to: u64,
}

/// A flow's quality over a window of time, by packets *sent* within it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Quality {
    /// Packets sent.
    pub sent: u64,
    /// Packets that arrived, copies not counted.
    pub received: u64,
    /// Share that did not arrive; none where nothing was sent.
    pub loss: Option<f64>,
    /// Median one-way delay, ms.
    pub p50_ms: Option<f64>,
    /// 99th percentile, ms.
    pub p99_ms: Option<f64>,
    /// Longest time between two arrivals, or from the window's edges to one, ms.
    pub longest_gap_ms: Option<f64>,
    /// Packets that a later one overtook.
    pub reordered: u64,
    /// Copies beyond the first.
    pub duplicates: u64,
    /// Sends refused by the local kernel since the start; part of the loss.
    pub refused: u64,
}

impl Ledger {
    /// A packet leaves; returns its number.
    pub fn note_sent(&mut self, sent_ns: u64) -> u64 {
        let entry = Entry { sent_ns, delay_us: LOST, duplicates: 0, overtaken: false };
        self.entries.push(entry);
        self.entries.len() as u64 - 1
    }

    /// The local kernel did not take the packet just noted. It stays sent, and lost: for the
    /// application it is.
    fn note_refused(&mut self) {
        self.refused += 1;
    }

    /// A packet arrived.
    pub fn note_arrival(&mut self, seq: u64, now_ns: u64) {
        let Some(entry) = usize::try_from(seq).ok().and_then(|i| self.entries.get_mut(i)) else {
            return;
        };
        if entry.delay_us != LOST {
            entry.duplicates = entry.duplicates.saturating_add(1);
            return;
        }
        let us = now_ns.saturating_sub(entry.sent_ns) / 1000;
        entry.delay_us = u32::try_from(us).unwrap_or(LOST - 1).min(LOST - 1);
        entry.overtaken = seq < self.arrived_to;
        self.arrived_to = self.arrived_to.max(seq + 1);
    }

    /// The quality of what was sent in `from_ns..to_ns` of the monotonic clock.
    ///
    /// Packets still under way count as lost: let the window end a little before the present.
    pub fn quality(&self, from_ns: u64, to_ns: u64) -> Quality {
        self.quality_within(&[(from_ns, to_ns)])
    }

    /// The quality over several windows that do not overlap; a gap does not reach across two.
    pub fn quality_within(&self, windows: &[(u64, u64)]) -> Quality {
        let windows: Vec<&[Entry]> = windows.iter().map(|w| self.window(*w)).collect();
        let entries = || windows.iter().copied().flatten();
        let delays = sorted_delays(entries());
        let sent = entries().count() as u64;
        let received = delays.len() as u64;
        Quality {
            sent,
            received,
            loss: (sent > 0).then(|| (sent - received) as f64 / sent as f64),
            p50_ms: quantile_ms(&delays, 0.5),
            p99_ms: quantile_ms(&delays, 0.99),
            longest_gap_ms: windows.iter().filter_map(|w| longest_gap_ms(w)).reduce(f64::max),
            reordered: entries().filter(|e| e.overtaken).count() as u64,
            duplicates: entries().map(|e| u64::from(e.duplicates)).sum(),
            refused: self.refused,
        }
    }

    /// The one-way delays, µs, of what was sent within the windows and arrived, sorted.
    pub fn delays_us(&self, windows: &[(u64, u64)]) -> Vec<u32> {
        sorted_delays(windows.iter().flat_map(|w| self.window(*w)))
    }

    fn window(&self, (from_ns, to_ns): (u64, u64)) -> &[Entry] {
        let begin = self.entries.partition_point(|e| e.sent_ns < from_ns);
        let end = self.entries.partition_point(|e| e.sent_ns < to_ns);
        &self.entries[begin..end.max(begin)]
    }

    /// Mean time a row of losses lasts, ms, from the first lost to the next that arrived, and how many
    /// rows there were: what a sender sees of holes.
    pub fn holes(&self) -> (Option<f64>, u64) {
        let (mut total_ns, mut rows, mut began) = (0, 0u64, None);
        for entry in &self.entries {
            match (entry.delay_us == LOST, began) {
                (true, None) => began = Some(entry.sent_ns),
                (false, Some(first)) => {
                    total_ns += entry.sent_ns - first;
                    rows += 1;
                    began = None;
                }
                _ => {}
            }
        }
        ((rows > 0).then(|| total_ns as f64 / rows as f64 / 1e6), rows)
    }

    /// Packets a second at which they arrived, from the first arrival to the last.
    pub fn arrival_rate(&self) -> Option<f64> {
        let arrived = self.entries.iter().filter(|e| e.delay_us != LOST);
        let at = arrived.map(|e| e.sent_ns + u64::from(e.delay_us) * 1000);
        let (count, first, last) = at
            .fold((0u64, u64::MAX, 0), |(n, first, last), at| (n + 1, first.min(at), last.max(at)));
        (count > 1).then(|| (count - 1) as f64 * 1e9 / (last - first).max(1) as f64)
    }

    /// When the flow worked again: the arrival of the first packet sent at or after `from_ns` that
    /// began a row of `in_row` arrivals in sequence. In ns of the monotonic clock.
    pub fn works_again_ns(&self, from_ns: u64, in_row: usize) -> Option<u64> {
        let begin = self.entries.partition_point(|e| e.sent_ns < from_ns);
        let mut row = 0;
        for (i, entry) in self.entries.iter().enumerate().skip(begin) {
            row = if entry.delay_us == LOST { 0 } else { row + 1 };
            if row >= in_row {
                let first = self.entries[i + 1 - in_row];
                return Some(first.sent_ns + u64::from(first.delay_us) * 1000);
            }
        }
        None
    }
}

fn sorted_delays<'a>(entries: impl Iterator<Item = &'a Entry>) -> Vec<u32> {
    let mut delays: Vec<u32> = entries.map(|e| e.delay_us).filter(|d| *d != LOST).collect();
    delays.sort_unstable();
    delays
}

/// The quantile `q` of sorted delays in µs, by nearest rank, in ms; none of nothing.
pub fn quantile_ms(sorted_us: &[u32], q: f64) -> Option<f64> {
    let rank = (sorted_us.len() as f64 * q).ceil() as usize;
    sorted_us.get(rank.max(1) - 1).map(|us| f64::from(*us) / 1000.0)
}

/// The longest silence at the receiver, in ms: between neighbouring arrivals, before the first and
/// after the last. The edges are where packets of median delay sent at the window's edges would
/// have come.
fn longest_gap_ms(window: &[Entry]) -> Option<f64> {
    let (first, last) = (window.first()?, window.last()?);
    let delays = sorted_delays(window.iter());
    let shift_ns = delays.get(delays.len() / 2).map_or(0, |us| u64::from(*us) * 1000);
    let mut arrivals: Vec<u64> = window
        .iter()
        .filter(|e| e.delay_us != LOST)
        .map(|e| e.sent_ns + u64::from(e.delay_us) * 1000)
        .collect();
    arrivals.push(first.sent_ns + shift_ns);
    arrivals.push(last.sent_ns + shift_ns);
    arrivals.sort_unstable();
    let gap = arrivals.windows(2).map(|w| w[1] - w[0]).max()?;
    Some(gap as f64 / 1e6)
}

impl Ledger {
    /// When the flow was good again: the sending of the first packet at or after `from_ns` that began
    /// a row of `row` packets of which at most one in twenty was lost and half took no longer than
    /// `most_us`. In ns of the monotonic clock.
    pub fn good_again_ns(&self, from_ns: u64, row: usize, most_us: u32) -> Option<u64> {
        let begin = self.entries.partition_point(|e| e.sent_ns < from_ns);
        let rows = self.entries[begin..].windows(row.max(1));
        let good = |entries: &&[Entry]| {
            let lost = entries.iter().filter(|e| e.delay_us == LOST).count();
            let quick = entries.iter().filter(|e| e.delay_us <= most_us).count();
            lost * 20 <= entries.len() && quick * 2 >= entries.len()
        };
        rows.into_iter().find(good).map(|entries| entries[0].sent_ns)
    }
}

/// A shared ledger of one flow.
#[derive(Clone, Debug, Default)]
pub struct SharedLedger(Arc<Mutex<Ledger>>);

impl SharedLedger {
    /// Does `work` with the ledger.
    pub fn with<T>(&self, work: impl FnOnce(&mut Ledger) -> T) -> T {
        work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// See [`Ledger::quality`].
    pub fn quality(&self, from_ns: u64, to_ns: u64) -> Quality {
        self.with(|l| l.quality(from_ns, to_ns))
    }
}

/// Flows being sent and received. They end when dropped.
#[derive(Debug)]
pub struct Traffic {
    ledgers: Vec<SharedLedger>,
    stop_sending: Arc<AtomicBool>,
    stop: Arc<AtomicBool>,
    sender: Option<JoinHandle<()>>,
    receiver: Option<JoinHandle<()>>,
}

struct Outgoing {
    socket: Socket,
    /// Sockets are not connected: an ICMP error would stop a flow whose path comes back later.
    to: SockAddr,
    ledger: SharedLedger,
    packet: Vec<u8>,
    interval_ns: u64,
    /// After the start of all.
    from_ns: u64,
    to_ns: u64,
}

impl Traffic {
    /// Starts the flows, each from inside its first namespace to inside its second. Their starts are
    /// spread over one interval so that not all packets leave at once.
    pub fn start(flows: &[(&Namespace, &Namespace, FlowSpec)]) -> io::Result<Self> {
        Self::start_at(PRIORITY, flows)
    }

    /// The same with the priority of an ordinary program, for where the load is part of the question.
    pub fn start_plain(flows: &[(&Namespace, &Namespace, FlowSpec)]) -> io::Result<Self> {
        Self::start_at(0, flows)
    }

    fn start_at(priority: i32, flows: &[(&Namespace, &Namespace, FlowSpec)]) -> io::Result<Self> {
        let mut outgoing = Vec::new();
        let mut incoming = Vec::new();
        let mut ledgers = Vec::new();
        for (i, (from, to, spec)) in flows.iter().enumerate() {
            let ledger = SharedLedger::default();
            let local = SocketAddr::new(spec.to.ip(), spec.to.port());
            incoming.push((to.run(|| receiving(local))?, ledger.clone()));
            let socket = from.run(|| sending(spec))?;
            let mut packet = vec![0u8; spec.size.max(HEADER)];
            packet[..4].copy_from_slice(&MAGIC.to_be_bytes());
            packet[4..8].copy_from_slice(&(i as u32).to_be_bytes());
            for (to, from) in packet[HEADER..].iter_mut().zip(spec.payload.iter().cycle()) {
                *to = *from;
            }
            let interval_ns = 1_000_000_000 / u64::from(spec.pps.max(1));
            let to = SockAddr::from(spec.to);
            let ns = |span: Duration| u64::try_from(span.as_nanos()).unwrap_or(FOREVER_NS);
            let (from_ns, to_ns) =
                spec.span.map_or((0, FOREVER_NS), |(from, to)| (ns(from), ns(to)));
            let ledger_here = ledger.clone();
            outgoing.push(Outgoing {
                socket,
                to,
                ledger: ledger_here,
                packet,
                interval_ns,
                from_ns,
                to_ns,
            });
            ledgers.push(ledger);
        }
        let stop_sending = Arc::new(AtomicBool::new(false));
        let stop = Arc::new(AtomicBool::new(false));
        let (stop_tx, stop_rx) = (stop_sending.clone(), stop.clone());
        let receiver = std::thread::Builder::new()
            .name("receiver".into())
            .spawn(move || receive_all(priority, &incoming, &stop_rx))?;
        let sender = std::thread::Builder::new()
            .name("sender".into())
            .spawn(move || send_all(priority, outgoing, &stop_tx))?;
        Ok(Self { ledgers, stop_sending, stop, sender: Some(sender), receiver: Some(receiver) })
    }

    /// The ledgers, in the order of the flows.
    pub fn ledgers(&self) -> &[SharedLedger] {
        &self.ledgers
    }

    /// Ends sending, waits `linger` for what is under way, ends receiving; gives the ledgers.
    pub fn finish(mut self, linger: Duration) -> Vec<SharedLedger> {
        self.stop_sending.store(true, Ordering::Relaxed);
        join(&mut self.sender);
        sys::sleep_until_ns(sys::monotonic_ns() + linger.as_nanos() as u64);
        std::mem::take(&mut self.ledgers)
    }
}

impl Drop for Traffic {
    fn drop(&mut self) {
        self.stop_sending.store(true, Ordering::Relaxed);
        self.stop.store(true, Ordering::Relaxed);
        join(&mut self.sender);
        join(&mut self.receiver);
    }
}

fn join(thread: &mut Option<JoinHandle<()>>) {
    if let Some(thread) = thread.take() {
        // A panic there has already been printed; the ledgers stay as they are.
        let _ = thread.join();
    }
}

fn receiving(local: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(local), Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_recv_buffer_size(RECV_BUFFER)?;
    allow_absent_address(&socket, local)?;
    socket.bind(&local.into())?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// An overlay address is away while its daemon restarts; the socket bound to it must not be.
fn allow_absent_address(socket: &Socket, local: SocketAddr) -> io::Result<()> {
    if local.is_ipv4() { socket.set_freebind_v4(true) } else { socket.set_freebind_v6(true) }
}

fn sending(spec: &FlowSpec) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(spec.to), Type::DGRAM, Some(Protocol::UDP))?;
    let local = SocketAddr::new(spec.from, 0);
    allow_absent_address(&socket, local)?;
    socket.bind(&local.into())?;
    let tos = u32::from(spec.dscp) << 2;
    if spec.to.is_ipv4() {
        socket.set_tos_v4(tos)?;
    } else {
        socket.set_tclass_v6(tos)?;
    }
    socket.set_nonblocking(true)?;
    Ok(socket)
}

fn send_all(priority: i32, mut flows: Vec<Outgoing>, stop: &AtomicBool) {
    if priority > 0 {
        sys::raise_priority(priority);
    }
    let start = sys::monotonic_ns() + 1_000_000;
    let count = flows.len().max(1) as u64;
    let mut due: BinaryHeap<Reverse<(u64, usize)>> = flows
        .iter()
        .enumerate()
        .map(|(i, f)| Reverse((start + f.from_ns + f.interval_ns * i as u64 / count, i)))
        .collect();
    while let Some(Reverse((at, i))) = due.pop() {
        let mut now = sys::monotonic_ns();
        if at > now {
            // Short sleeps, so that an end is noticed also between packets of a slow flow.
            let until = at.min(now + 100_000_000);
            sys::sleep_until_ns(until);
            now = sys::monotonic_ns();
        }
        if stop.load(Ordering::Relaxed) {
            return;
        }
        if at > now {
            due.push(Reverse((at, i)));
            continue;
        }
        if at >= start.saturating_add(flows[i].to_ns) {
            continue;
        }
        flows[i].send();
        // A sender that fell behind does not make up for it: that would be a burst nobody asked for.
        let next = at + flows[i].interval_ns;
        let next = if next + LAG_LIMIT_NS < now { now } else { next };
        due.push(Reverse((next, i)));
    }
}

impl Outgoing {
    fn send(&mut self) {
        let now = sys::monotonic_ns();
        let seq = self.ledger.with(|l| l.note_sent(now));
        self.packet[8..16].copy_from_slice(&seq.to_be_bytes());
        self.packet[16..24].copy_from_slice(&now.to_be_bytes());
        if self.socket.send_to(&self.packet, &self.to).is_err() {
            self.ledger.with(Ledger::note_refused);
        }
    }
}

fn receive_all(priority: i32, flows: &[(Socket, SharedLedger)], stop: &AtomicBool) {
    if priority > 0 {
        sys::raise_priority(priority);
    }
    let Ok(mut poll) = sys::Poll::new() else { return };
    for (i, (socket, _)) in flows.iter().enumerate() {
        if poll.add(socket.as_raw_fd(), i as u64).is_err() {
            return;
        }
    }
    let mut packet = [0u8; 2048];
    while !stop.load(Ordering::Relaxed) {
        let Ok(ready) = poll.wait(Some(Duration::from_millis(100))) else { return };
        for &token in ready {
            let (socket, ledger) = &flows[token as usize];
            for _ in 0..RECV_BATCH {
                let Ok(n) = sys::read(socket.as_raw_fd(), &mut packet) else { break };
                let now = sys::monotonic_ns();
                if let Some(seq) = read_header(&packet[..n], token as u32) {
                    ledger.with(|l| l.note_arrival(seq, now));
                }
            }
        }
    }
}

/// The packet's number, if it is one of this flow's.
fn read_header(packet: &[u8], flow: u32) -> Option<u64> {
    let field = |at: usize, len: usize| packet.get(at..at + len);
    let ours = field(0, 4)? == MAGIC.to_be_bytes() && field(4, 4)? == flow.to_be_bytes();
    let seq = u64::from_be_bytes(field(8, 8)?.try_into().ok()?);
    (ours && packet.len() >= HEADER).then_some(seq)
}

/// Below the emulator, above everything under test: what is measured is the network and the
/// daemons, not how the tool is scheduled.
const PRIORITY: i32 = 5;

/// 4 MiB: two thirds of a second at 5,000 packets per second of full size.
const RECV_BUFFER: usize = 4 << 20;

/// Packets read from one flow before the others get their turn.
const RECV_BATCH: usize = 64;

/// Longer than any run, short enough to be added to a clock.
const FOREVER_NS: u64 = u64::MAX / 4;

/// A sender further behind than this starts anew instead of catching up.
const LAG_LIMIT_NS: u64 = 20_000_000;

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    /// A ledger of packets sent each 10 ms, with their arrival times.
    fn ledger(arrivals: &[Option<u64>]) -> Ledger {
        let mut ledger = Ledger::default();
        for i in 0..arrivals.len() as u64 {
            ledger.note_sent(i * 10 * MS);
        }
        let mut order: Vec<_> =
            arrivals.iter().enumerate().filter_map(|(i, a)| a.map(|a| (a, i as u64))).collect();
        order.sort_unstable();
        for (at, seq) in order {
            ledger.note_arrival(seq, at);
        }
        ledger
    }

    #[test]
    fn every_packet_is_accounted_for_exactly() {
        let mut arrivals: Vec<_> = (0..100).map(|i| Some(i * 10 * MS + 20 * MS)).collect();
        for lost in [3, 40, 41, 42, 99] {
            arrivals[lost] = None;
        }
        arrivals[50] = Some(50 * 10 * MS + 45 * MS);
        let mut l = ledger(&arrivals);
        l.note_arrival(7, 2000 * MS);
        l.note_arrival(7, 2001 * MS);
        l.note_arrival(1000, 2002 * MS);
        let q = l.quality(0, u64::MAX);
        assert_eq!((q.sent, q.received, q.loss), (100, 95, Some(0.05)));
        assert_eq!((q.duplicates, q.reordered), (2, 1));
        assert_eq!((q.p50_ms, q.p99_ms), (Some(20.0), Some(45.0)), "the 95th of 95");
        assert_eq!(q.longest_gap_ms, Some(40.0), "three lost in a row leave four intervals");
        assert_eq!(l.holes(), (Some(20.0), 2), "the row at the end has no end yet");
    }

    #[test]
    fn silence_at_the_edges_is_a_gap_too() {
        let mut arrivals: Vec<_> = (0..50).map(|i| Some(i * 10 * MS + 5 * MS)).collect();
        arrivals[30..].fill(None);
        let l = ledger(&arrivals);
        assert_eq!(l.quality(0, u64::MAX).longest_gap_ms, Some(200.0));
        let q = l.quality(300 * MS, u64::MAX);
        assert_eq!((q.loss, q.p50_ms, q.longest_gap_ms), (Some(1.0), None, Some(190.0)));
    }

    #[test]
    fn a_window_counts_what_was_sent_in_it_and_nothing_is_not_zero() {
        let l = ledger(&[Some(MS), None, Some(21 * MS), Some(31 * MS)]);
        let q = l.quality(10 * MS, 30 * MS);
        assert_eq!((q.sent, q.received), (2, 1));
        let none = l.quality(100 * MS, 200 * MS);
        assert_eq!((none.sent, none.loss, none.p50_ms, none.longest_gap_ms), (0, None, None, None));
    }

    #[test]
    fn a_flow_works_again_when_enough_arrive_in_a_row() {
        let mut arrivals = vec![None; 10];
        arrivals.push(Some(101 * MS));
        arrivals.push(None);
        arrivals.extend((12..20).map(|i| Some(i * 10 * MS + MS)));
        let l = ledger(&arrivals);
        assert_eq!(l.works_again_ns(50 * MS, 3), Some(121 * MS));
        assert_eq!(l.works_again_ns(180 * MS, 3), None);
    }

    #[test]
    fn a_flow_is_good_again_when_half_are_quick_and_few_are_lost() {
        let mut arrivals: Vec<_> = (0..60).map(|i| Some(i * 10 * MS + 80 * MS)).collect();
        arrivals.extend((60..120).map(|i| Some(i * 10 * MS + 20 * MS)));
        arrivals[70] = None;
        arrivals[71] = None;
        let l = ledger(&arrivals);
        assert_eq!(l.good_again_ns(0, 20, 80_000), Some(0));
        assert_eq!(l.good_again_ns(0, 20, 25_000), Some(500 * MS), "half of it may still be slow");
        assert_eq!(l.good_again_ns(0, 20, 5_000), None);
    }

    #[test]
    fn strangers_packets_are_not_counted() {
        let mut packet = vec![0u8; HEADER];
        packet[..4].copy_from_slice(&MAGIC.to_be_bytes());
        packet[7] = 3;
        packet[15] = 9;
        assert_eq!(read_header(&packet, 3), Some(9));
        assert_eq!(read_header(&packet, 4), None);
        assert_eq!(read_header(&packet[..20], 3), None);
        packet[0] = 0;
        assert_eq!(read_header(&packet, 3), None);
    }
}
