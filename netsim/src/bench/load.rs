//! Loads and their sinks, as threads in the namespaces at the priority of any other program.
//!
//! UDP: one message a packet by `sendmmsg`, or GSO super-segments; paced against the clock in steps
//! of half a millisecond; what arrives is counted, not what was meant to leave. TCP is
//! [`netns::tcp`](crate::netns::tcp).

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use thalweg::buf::{Blocks, RecvBatch, Run, TxBatch};
use thalweg::daemon::poller::Poller;
use thalweg::daemon::udp::UdpSocket;
use thalweg::id::LinkId;
use thalweg::time::Instant;

use crate::netns::tcp::{Stream, StreamSpec};
use crate::netns::traffic::{FlowSpec, Quality, Traffic};
use crate::netns::{Namespace, sys};

/// Two places and the addresses between which loads run.
#[derive(Clone, Copy, Debug)]
pub struct Way<'a> {
    /// Where loads start.
    pub a: &'a Namespace,
    /// Where they end.
    pub b: &'a Namespace,
    /// From this address.
    pub from: IpAddr,
    /// To this.
    pub to: IpAddr,
}

/// What a UDP load is made of. Sizes are UDP payloads in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// One flow, one message a packet.
    Single(usize),
    /// One flow, sent as super-segments.
    Gso(usize),
    /// A hundred flows of 64 to 1,300 bytes, one message a packet.
    Mix,
}

/// What came of a UDP load.
#[derive(Clone, Copy, Debug)]
pub struct Trial {
    /// Packets handed to the kernel, taken or not.
    pub sent: u64,
    /// Packets that arrived.
    pub received: u64,
    /// For how long they were sent.
    pub seconds: f64,
}

impl Trial {
    fn is_clean(&self) -> bool {
        self.sent > 0 && (self.received as f64) > self.sent as f64 * (1.0 - LOSS_LIMIT)
    }

    fn delivered(&self) -> f64 {
        self.received as f64 / self.seconds
    }
}

/// A rate counts while less than this share is lost.
const LOSS_LIMIT: f64 = 0.01;
/// Pacing step.
const TICK_NS: u64 = 500_000;
/// A sender that far behind its clock does not make up for it.
const BACKLOG_TICKS: f64 = 4.0;
/// Messages of one turn when nothing paces.
const TURN: u64 = 64;
/// A mix has this many sockets at each end, hence the square of it in flows.
const MIX_SOCKETS: usize = 10;

/// Blocks of memory a sink may have: each of its sockets holds eight to receive into.
const BLOCKS: usize = 16 * MIX_SOCKETS;

/// A running UDP load.
#[derive(Debug)]
pub struct Udp {
    stop: [Arc<AtomicBool>; 2],
    sent: Arc<AtomicU64>,
    received: Arc<AtomicU64>,
    began_ns: u64,
    source: Option<JoinHandle<()>>,
    sink: Option<JoinHandle<()>>,
}

impl Udp {
    /// Starts it at `rate` packets a second; none: as fast as it goes.
    ///
    /// # Errors
    /// Addresses that are not there.
    pub fn start(way: Way<'_>, shape: Shape, rate: Option<f64>) -> io::Result<Self> {
        let ends = if shape == Shape::Mix { MIX_SOCKETS } else { 1 };
        let open = |ns: &Namespace, address: IpAddr| {
            ns.run(|| (0..ends).map(|_| UdpSocket::bind((address, 0).into())).collect())
        };
        let sinks: Vec<UdpSocket> = open(way.b, way.to)?;
        let mut sources: Vec<UdpSocket> = open(way.a, way.from)?;
        let targets: Vec<SocketAddr> = sinks.iter().map(UdpSocket::local).collect();
        let stop = [(); 2].map(|()| Arc::new(AtomicBool::new(false)));
        let (sent, received) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let (stopped, count) = (stop[1].clone(), received.clone());
        let sink = spawn("udp-sink", move || {
            // Ends early only where epoll does not work; then nothing is counted.
            let _ = sink(sinks, &stopped, &count);
        })?;
        let (stopped, count) = (stop[0].clone(), sent.clone());
        let began_ns = sys::monotonic_ns();
        let source = spawn("udp-source", move || {
            let mut plans: Vec<Plan> =
                (0..sources.len()).map(|i| Plan::new(shape, i, &targets)).collect();
            generate(&mut sources, &mut plans, rate, &stopped, &count);
        })?;
        Ok(Self { stop, sent, received, began_ns, source: Some(source), sink: Some(sink) })
    }

    /// Ends it, waits for what is under way and counts.
    pub fn finish(mut self) -> Trial {
        self.stop[0].store(true, Ordering::Relaxed);
        join(&mut self.source);
        let seconds = (sys::monotonic_ns() - self.began_ns) as f64 / 1e9;
        let mut last = self.received.load(Ordering::Relaxed);
        for _ in 0..15 {
            sleep(Duration::from_millis(20));
            let now = self.received.load(Ordering::Relaxed);
            if now == last {
                break;
            }
            last = now;
        }
        self.stop[1].store(true, Ordering::Relaxed);
        join(&mut self.sink);
        let [sent, received] = [&self.sent, &self.received].map(|n| n.load(Ordering::Relaxed));
        Trial { sent, received, seconds }
    }
}

impl Drop for Udp {
    fn drop(&mut self) {
        self.stop.iter().for_each(|s| s.store(true, Ordering::Relaxed));
        join(&mut self.source);
        join(&mut self.sink);
    }
}

/// What one source socket sends, over and over.
struct Plan {
    batch: TxBatch,
    /// One packet of each of its flows.
    flows: Vec<Run>,
    next: usize,
    /// Packets of one message.
    joined: u64,
}

impl Plan {
    fn new(shape: Shape, source: usize, targets: &[SocketAddr]) -> Self {
        let mut batch = TxBatch::default();
        let mut run = |to: SocketAddr, segment: usize, count: usize| {
            let mut bytes = Bytes::from(vec![0x5a; segment * count]);
            let start = batch.datagrams.len();
            batch.datagrams.extend((0..count).map(|_| bytes.split_to(segment)));
            let range = start..start + count;
            Run { link: LinkId(0), to, tos: 0, segment, bytes: segment * count, range }
        };
        let (flows, joined) = match shape {
            Shape::Single(size) => (vec![run(targets[0], size, 1)], 1),
            Shape::Gso(size) => {
                let count = TxBatch::RUN_SEGMENTS.min(TxBatch::RUN_BYTES / size);
                (vec![run(targets[0], size, count)], count as u64)
            }
            Shape::Mix => {
                let flows = targets.iter().enumerate().map(|(i, &to)| {
                    let flow = source * targets.len() + i;
                    let last = targets.len() * targets.len() - 1;
                    run(to, 64 + (1300 - 64) * flow / last, 1)
                });
                (flows.collect(), 1)
            }
        };
        Self { batch, flows, next: 0, joined }
    }

    /// Sends about `count` packets, whole messages; returns how many.
    fn send(&mut self, socket: &mut UdpSocket, count: u64) -> u64 {
        let messages = count / self.joined;
        self.batch.runs.clear();
        for _ in 0..messages {
            self.batch.runs.push(self.flows[self.next].clone());
            self.next = (self.next + 1) % self.flows.len();
        }
        if socket.wants_room() {
            // What a full buffer refused waits in the socket until it is told to try again.
            socket.handle_writable(Instant::ZERO);
        }
        socket.send(Instant::ZERO, &self.batch);
        messages * self.joined
    }
}

fn generate(
    sources: &mut [UdpSocket],
    plans: &mut [Plan],
    rate: Option<f64>,
    stop: &AtomicBool,
    count: &AtomicU64,
) {
    let many = plans.len();
    let joined = plans.iter().map(|p| p.joined).max().unwrap_or(1);
    let mut turn = 0;
    let mut send = |sum: u64| {
        turn = (turn + 1) % many;
        let sent = plans[turn].send(&mut sources[turn], sum);
        count.fetch_add(sent, Ordering::Relaxed);
        sent
    };
    let Some(rate) = rate else {
        while !stop.load(Ordering::Relaxed) {
            send(TURN * if joined > 1 { TURN } else { 1 });
        }
        return;
    };
    let a_tick = rate * TICK_NS as f64 / 1e9;
    // Batches of ten and more, from at most all sources.
    let turns = ((a_tick / 10.0) as usize).clamp(1, many);
    let (mut owed, mut at) = (0.0, sys::monotonic_ns());
    while !stop.load(Ordering::Relaxed) {
        for _ in 0..turns {
            owed += a_tick / turns as f64;
            if owed >= 1.0 {
                owed -= send(owed as u64) as f64;
            }
        }
        let now = sys::monotonic_ns();
        at += TICK_NS;
        if at > now {
            sys::sleep_until_ns(at);
        } else if (now - at) as f64 > BACKLOG_TICKS * TICK_NS as f64 {
            at = now;
        }
    }
}

fn sink(mut sockets: Vec<UdpSocket>, stop: &AtomicBool, count: &AtomicU64) -> io::Result<()> {
    let poller = Poller::new()?;
    for (socket, token) in sockets.iter().zip(0..) {
        poller.watch(socket.as_fd(), token)?;
    }
    let (mut blocks, mut batch) = (Blocks::new(BLOCKS), RecvBatch::default());
    let mut total = 0;
    while !stop.load(Ordering::Relaxed) {
        let mut ready = [0; MIX_SOCKETS];
        poller.wait(Some(Duration::from_millis(20)), |token| ready[token as usize] = 1)?;
        for (socket, _) in sockets.iter_mut().zip(ready).filter(|(_, ready)| *ready > 0) {
            // A few batches in a row before the next socket's turn.
            for _ in 0..4 {
                let more = socket.recv(&mut blocks, &mut batch)?;
                total += batch.datagrams.len() as u64;
                if !more {
                    break;
                }
            }
        }
        count.store(total, Ordering::Relaxed);
    }
    Ok(())
}

/// The highest rate that arrives with less than one packet in a hundred lost: what a flood delivers
/// tells where to look, then the interval is halved (by ratio) in `steps` trials of `length`. Packets
/// a second as delivered; none if no trial was clean.
///
/// # Errors
/// Addresses that are not there.
pub fn highest_rate(
    way: Way<'_>,
    shape: Shape,
    steps: u32,
    length: Duration,
) -> io::Result<Option<f64>> {
    let trial = |rate: Option<f64>| {
        let udp = Udp::start(way, shape, rate)?;
        sleep(length);
        Ok::<_, io::Error>(udp.finish())
    };
    let flood = trial(None)?;
    if flood.is_clean() {
        return Ok(Some(flood.delivered()));
    }
    let (mut low, mut high) = (flood.delivered() * 0.2, flood.delivered() * 1.25);
    if low <= 0.0 {
        return Ok(None);
    }
    let mut best = None;
    for step in 0..steps {
        let rate = if step == 0 { high * 0.75 } else { (low * high).sqrt() };
        let found = trial(Some(rate))?;
        if found.is_clean() {
            best = best.max(Some(found.delivered() as u64));
            low = rate;
        } else {
            high = rate;
        }
    }
    Ok(best.map(|rate| rate as f64))
}

/// Goodput of `streams` TCP streams, and the bytes that arrived.
///
/// # Errors
/// Addresses that are not there.
pub fn tcp(way: Way<'_>, streams: usize, length: Duration) -> io::Result<(f64, f64)> {
    let spec = StreamSpec { from: way.from, to: way.to, length, congestion: None };
    let running: Vec<Stream> =
        (0..streams).map(|_| Stream::start(way.a, way.b, &spec)).collect::<io::Result<_>>()?;
    let mbps: f64 = running.into_iter().map(Stream::finish).sum();
    Ok((mbps / 1000.0, mbps * 1e6 / 8.0 * length.as_secs_f64()))
}

/// Round trips of an idle way: mean and 99th percentile, µs. One UDP packet of 64 bytes each 5 ms,
/// echoed by a thread. None where fewer than half came back.
///
/// # Errors
/// Addresses that are not there.
pub fn round_trips(way: Way<'_>, count: usize) -> io::Result<Option<(f64, f64)>> {
    // Longer than any round trip here; with less, an answer is taken for lost on a line of 100 ms.
    let patience = Duration::from_millis(400);
    let open = |address: IpAddr| {
        let socket = std::net::UdpSocket::bind((address, 0))?;
        socket.set_read_timeout(Some(patience))?;
        Ok(socket)
    };
    let far = way.b.run(|| open(way.to))?;
    let near = way.a.run(|| open(way.from))?;
    near.connect(far.local_addr()?)?;
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = stop.clone();
    let mut echo = Some(spawn("echo", move || {
        let mut packet = [0; 64];
        while !stopped.load(Ordering::Relaxed) {
            if let Ok((n, from)) = far.recv_from(&mut packet) {
                // Whoever asked may be gone.
                let _ = far.send_to(&packet[..n], from);
            }
        }
    })?);
    let mut times = Vec::new();
    let mut at = sys::monotonic_ns();
    for number in 0..count as u64 {
        let mut packet = [0; 64];
        packet[..8].copy_from_slice(&number.to_be_bytes());
        let sent = sys::monotonic_ns();
        if near.send(&packet).is_ok() {
            let mut reply = [0; 64];
            while let Ok(n) = near.recv(&mut reply) {
                if n == 64 && reply[..8] == packet[..8] {
                    times.push((sys::monotonic_ns() - sent) as f64 / 1000.0);
                    break;
                }
            }
        }
        at = (at + 5_000_000).max(sys::monotonic_ns());
        sys::sleep_until_ns(at);
    }
    stop.store(true, Ordering::Relaxed);
    join(&mut echo);
    if times.len() * 2 < count || times.is_empty() {
        return Ok(None);
    }
    times.sort_unstable_by(f64::total_cmp);
    let rank = (times.len() as f64 * 0.99).ceil() as usize;
    Ok(Some((times.iter().sum::<f64>() / times.len() as f64, times[rank - 1])))
}

/// A steady flow of `pps` packets of `size` bytes for `length`, beside whatever else runs.
///
/// # Errors
/// Addresses that are not there.
pub fn steady(way: Way<'_>, pps: u32, size: usize, length: Duration) -> io::Result<Quality> {
    let to = SocketAddr::new(way.to, STEADY_PORT);
    let flow = FlowSpec { from: way.from, to, pps, size, dscp: 0, payload: Vec::new(), span: None };
    let traffic = Traffic::start_plain(&[(way.a, way.b, flow)])?;
    sleep(length);
    let ledgers = traffic.finish(Duration::from_millis(300));
    Ok(ledgers[0].quality(0, u64::MAX))
}

const STEADY_PORT: u16 = 9000;

/// Sleeps for `span`.
pub fn sleep(span: Duration) {
    sys::sleep_until_ns(sys::monotonic_ns() + span.as_nanos() as u64);
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> io::Result<JoinHandle<()>> {
    std::thread::Builder::new().name(name.to_owned()).spawn(work)
}

fn join(thread: &mut Option<JoinHandle<()>>) {
    if let Some(thread) = thread.take() {
        // A panic there has already been printed; what was counted until then counts.
        let _ = thread.join();
    }
}
