//! The data thread: owns the UDP sockets and the TUN device and drives a `Forwarder`.
//!
//! A plain thread with epoll: an async runtime's p99 was 2-4 ms where the cores were busy. One turn:
//! wait; read the clock; take what the control thread left; then from each socket and from the
//! device one batch, each followed by everything the forwarder wants done; then its timers.
//!
//! It never waits for the control thread. Snapshots lie in a slot of one (only the newest counts);
//! probes and QUIC datagrams come by a bounded queue and a nudge; events and QUIC datagrams go up by
//! bounded queues. What finds no room is dropped and counted, never waited for. Counters are published
//! every [`PUBLISH`] for whoever reads them.
//!
//! A full send buffer stops fetching from the forwarder, not receiving (`data/outlet.rs`). A TUN
//! device that vanishes is told upward and waited for; relaying goes on.
//!
//! The first byte of a datagram tells the two protocols of the port apart: 0x10-0x1f is an overlay
//! frame, a set 0x40 bit is QUIC (`docs/wire.md`).

mod device;
mod outlet;

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsFd as _;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use arc_swap::ArcSwap;
use tokio::sync::{mpsc, oneshot};

use super::clock::Clock;
use super::poller::{Nudge, Poller};
use super::quic::socket::{INBOUND, QuicDatagram};
use super::tun::{Tun, TunStats};
use super::udp::{UdpSocket, UdpStats};
use crate::buf::{Blocks, RecvBatch, TunBatch, TunWrites, TxBatch};
use crate::forward::event::{ForwardEvent, ProbeRequest};
use crate::forward::snapshot::Snapshot;
use crate::forward::{Forwarder, Held, Stats};
use crate::time::Instant;

use device::Device;

/// Events and orders on their way between the threads, each way. A table of 500 nodes flipping at
/// once makes a few thousand events.
const QUEUE: usize = 4096;
/// Events kept for a control thread that is behind, beyond its queue.
const EVENTS_HELD: usize = 16_384;
/// Endpoints whose QUIC bytes are counted apart: anyone can make new ones.
const ENDPOINTS: usize = 1024;
/// How often memory is counted, and given back after a burst.
const TIDY: Duration = Duration::from_secs(1);
/// A turn's length at least while a send buffer is full.
const BLOCKED_TURN: Duration = Duration::from_millis(1);
/// Blocks that what is received and read may lie in, whoever holds it: 160 MiB.
const BLOCKS_LIMIT: usize = (160 << 20) / Blocks::SIZE;
/// How often counters are published.
pub const PUBLISH: Duration = Duration::from_millis(250);

/// Everything this thread counts.
#[derive(Clone, Debug, Default)]
pub struct DataStats {
    /// The forwarder's own.
    pub forward: Stats,
    /// All sockets together.
    pub udp: UdpStats,
    /// Datagrams that were longer than the way takes, by destination.
    pub too_big: BTreeMap<SocketAddr, u64>,
    /// Bytes that wait for room in a send buffer now.
    pub udp_held_bytes: usize,
    /// What lies in the forwarder, as of the last second.
    pub held: Held,
    /// The device.
    pub tun: TunStats,
    /// QUIC datagrams received that found the control thread's queue full.
    pub quic_dropped: u64,
    /// QUIC by endpoint.
    pub quic: BTreeMap<SocketAddr, QuicBytes>,
    /// Datagrams that are neither ours nor QUIC's.
    pub strangers: u64,
    /// Events that were lost because the control thread was too far behind.
    pub events_dropped: u64,
}

/// Bytes of QUIC to and from one endpoint: UDP payload.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QuicBytes {
    /// To it.
    pub sent: u64,
    /// From it, whoever that was.
    pub received: u64,
}

/// The control thread's end: what it may ask. Cheap to clone; nothing here waits.
#[derive(Clone)]
pub struct DataDoor {
    shared: Arc<Shared>,
    orders: SyncSender<Order>,
    nudge: Nudge,
}

/// What comes up from the data thread.
pub struct DataNews {
    /// What the forwarder saw.
    pub events: mpsc::Receiver<ForwardEvent>,
    /// For quinn's socket.
    pub quic: mpsc::Receiver<QuicDatagram>,
    /// The TUN device vanished, and how that was seen: another is wanted by [`DataDoor::give_tun`].
    pub tun_lost: mpsc::Receiver<io::Error>,
    /// Resolves when the thread has ended: why, if it was not told to.
    pub ended: oneshot::Receiver<anyhow::Result<()>>,
}

struct Shared {
    snapshot: Mutex<Option<Snapshot>>,
    /// A device in the place of one that vanished.
    tun: Mutex<Option<Tun>>,
    stats: ArcSwap<DataStats>,
    stop: AtomicBool,
    orders_dropped: AtomicU64,
}

enum Order {
    Probe(ProbeRequest),
    Quic(QuicDatagram),
}

impl DataStats {
    fn quic_bytes(&mut self, endpoint: SocketAddr) -> &mut QuicBytes {
        if self.quic.len() >= ENDPOINTS && !self.quic.contains_key(&endpoint) {
            self.quic.pop_first();
        }
        self.quic.entry(endpoint).or_default()
    }
}

impl DataDoor {
    /// What the forwarder is to read from now on. Replaces one it has not taken yet.
    pub fn install(&self, snapshot: Snapshot) {
        let slot = self.shared.snapshot.lock();
        *slot.unwrap_or_else(PoisonError::into_inner) = Some(snapshot);
        self.nudge.give();
    }

    /// A device to take the place of the one that vanished.
    pub fn give_tun(&self, tun: Tun) {
        let slot = self.shared.tun.lock();
        *slot.unwrap_or_else(PoisonError::into_inner) = Some(tun);
        self.nudge.give();
    }

    /// Has a probe sent.
    pub fn probe(&self, request: ProbeRequest) {
        self.order(Order::Probe(request));
    }

    /// Has a QUIC datagram sent.
    pub fn quic(&self, datagram: QuicDatagram) {
        self.order(Order::Quic(datagram));
    }

    /// The counters, at most [`PUBLISH`] old while the thread runs.
    pub fn stats(&self) -> Arc<DataStats> {
        self.shared.stats.load_full()
    }

    /// Probes and QUIC datagrams that found the queue to the data thread full.
    pub fn orders_dropped(&self) -> u64 {
        self.shared.orders_dropped.load(Ordering::Relaxed)
    }

    /// Ends the thread; what is queued is still sent.
    pub fn stop(&self) {
        self.shared.stop.store(true, Ordering::Release);
        self.nudge.give();
    }

    fn order(&self, order: Order) {
        if self.orders.try_send(order).is_err() {
            self.shared.orders_dropped.fetch_add(1, Ordering::Relaxed);
        }
        self.nudge.give();
    }
}

/// Starts the thread. It owns sockets, device and forwarder until it ends.
///
/// # Errors
/// No descriptors or no thread to be had.
pub fn start(
    clock: Clock,
    forwarder: Forwarder,
    sockets: Vec<UdpSocket>,
    tun: Tun,
) -> anyhow::Result<(DataDoor, DataNews)> {
    let nudge = Nudge::new().context("eventfd")?;
    let poller = Poller::new().context("epoll")?;
    poller.watch(nudge.as_fd(), NUDGE).context("epoll")?;
    poller.watch(tun.as_fd(), TUN).context("epoll")?;
    for (socket, token) in sockets.iter().zip(SOCKETS..) {
        poller.watch(socket.as_fd(), token).context("epoll")?;
    }
    let shared = Arc::new(Shared {
        snapshot: Mutex::new(None),
        tun: Mutex::new(None),
        stats: ArcSwap::default(),
        stop: AtomicBool::new(false),
        orders_dropped: AtomicU64::new(0),
    });
    let (orders, inbox) = sync_channel(QUEUE);
    let (events, event_news) = mpsc::channel(QUEUE);
    let (quic, quic_news) = mpsc::channel(INBOUND);
    // One device at a time: one loss at a time.
    let (tun_lost, tun_news) = mpsc::channel(1);
    let (end, ended) = oneshot::channel();
    let mut data = Data {
        clock,
        forwarder,
        sockets,
        awaiting_room: 0,
        tun: Device::new(tun),
        tun_lost,
        poller,
        nudge: nudge.clone(),
        shared: shared.clone(),
        inbox,
        events,
        waiting: VecDeque::new(),
        quic,
        received: RecvBatch::default(),
        from_tun: TunBatch::default(),
        to_tun: TunWrites::default(),
        blocks: Blocks::new(BLOCKS_LIMIT),
        transmit: TxBatch::default(),
        stats: DataStats::default(),
        published_at: Instant::ZERO,
        tidied_at: Instant::ZERO,
    };
    std::thread::Builder::new().name("thalweg-data".to_owned()).spawn(move || {
        let result = data.run();
        data.publish(data.clock.now());
        // Closes device and sockets before the end is known.
        drop(data);
        let _ = end.send(result);
    })?;
    let news = DataNews { events: event_news, quic: quic_news, tun_lost: tun_news, ended };
    Ok((DataDoor { shared, orders, nudge }, news))
}

const NUDGE: u64 = 0;
const TUN: u64 = 1;
const SOCKETS: u64 = 2;

struct Data {
    clock: Clock,
    forwarder: Forwarder,
    sockets: Vec<UdpSocket>,
    /// Sockets whose send buffer is full, one bit each.
    awaiting_room: u64,
    tun: Device,
    tun_lost: mpsc::Sender<io::Error>,
    poller: Poller,
    nudge: Nudge,
    shared: Arc<Shared>,
    inbox: Receiver<Order>,
    events: mpsc::Sender<ForwardEvent>,
    /// Events that found the queue full.
    waiting: VecDeque<ForwardEvent>,
    quic: mpsc::Sender<QuicDatagram>,
    received: RecvBatch,
    from_tun: TunBatch,
    to_tun: TunWrites,
    /// What is received and read lies here.
    blocks: Blocks,
    transmit: TxBatch,
    stats: DataStats,
    published_at: Instant,
    /// When memory was last looked over.
    tidied_at: Instant,
}

/// What a wait found ready.
#[derive(Clone, Copy, Default)]
struct Ready {
    nudge: bool,
    tun: bool,
    /// One bit a socket.
    sockets: u64,
    /// Those with room in a send buffer that was full.
    room: u64,
}

impl Data {
    fn run(&mut self) -> anyhow::Result<()> {
        loop {
            let ready = self.wait()?;
            let now = self.clock.now();
            let mut stopping = false;
            if ready.nudge {
                self.nudge.take();
                stopping = self.shared.stop.load(Ordering::Acquire);
                self.take_tun()?;
                self.take_orders(now)?;
            }
            self.tend_sockets(now, ready.room)?;
            for at in 0..self.sockets.len() {
                if ready.sockets & (1 << at) != 0 {
                    self.take_datagrams(now, at)?;
                }
            }
            if ready.tun {
                match self.tun.recv(&mut self.blocks, &mut self.from_tun) {
                    Ok(()) => {
                        self.forwarder.handle_tun(now, &mut self.from_tun);
                        self.carry_out(now)?;
                    }
                    Err(error) => self.lose_tun(error),
                }
            }
            if self.forwarder.poll_timeout().is_some_and(|deadline| deadline.at <= now) {
                self.forwarder.handle_timeout(now);
                self.carry_out(now)?;
            }
            self.pass_events();
            if now.since(self.published_at) >= PUBLISH {
                self.publish(now);
            }
            if stopping {
                return Ok(());
            }
        }
    }

    fn wait(&self) -> anyhow::Result<Ready> {
        let now = self.clock.now();
        let publish = PUBLISH.saturating_sub(now.since(self.published_at));
        let mut span = match self.forwarder.poll_timeout() {
            Some(deadline) => deadline.at.since(now).min(publish),
            None => publish,
        };
        if let Some(at) = self.sockets_timeout() {
            // What the forwarder has due stays due until it can be sent: not a reason to spin.
            span = span.max(BLOCKED_TURN).min(at.since(now));
        }
        let mut ready = Ready::default();
        let found = self.poller.wait_each(Some(span), |token, is| match token {
            NUDGE => ready.nudge = true,
            TUN => ready.tun = true,
            socket => {
                let bit = 1 << (socket - SOCKETS);
                ready.sockets |= if is.input { bit } else { 0 };
                ready.room |= if is.room { bit } else { 0 };
            }
        });
        found.context("epoll")?;
        Ok(ready)
    }

    /// A device that takes the place of the one that vanished.
    fn take_tun(&mut self) -> anyhow::Result<()> {
        let slot = self.shared.tun.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(tun) = slot {
            self.tun.replace(tun);
            let fd = self.tun.as_fd().context("just put there")?;
            self.poller.watch(fd, TUN).context("epoll")?;
        }
        Ok(())
    }

    /// Tells that the device vanished. Closed, it is no longer watched.
    fn lose_tun(&self, error: io::Error) {
        // Full: told already, and not heard yet.
        let _ = self.tun_lost.try_send(error);
    }

    /// What the control thread left for us.
    fn take_orders(&mut self, now: Instant) -> anyhow::Result<()> {
        let slot = self.shared.snapshot.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(snapshot) = slot {
            self.forwarder.install(now, &snapshot);
            self.carry_out(now)?;
        }
        // At most one queue's worth a turn: packets wait meanwhile.
        for _ in 0..QUEUE {
            let Ok(order) = self.inbox.try_recv() else { return Ok(()) };
            match order {
                Order::Probe(request) => {
                    self.forwarder.push_probe(now, request);
                    self.carry_out(now)?;
                }
                Order::Quic(QuicDatagram { endpoint, ecn, payload }) => {
                    self.stats.quic_bytes(endpoint).sent += payload.len() as u64;
                    let mut sockets = self.sockets.iter_mut();
                    let fits = |s: &&mut UdpSocket| s.local().is_ipv6() == endpoint.is_ipv6();
                    if let Some(socket) = sockets.find(fits) {
                        socket.send_one(now, endpoint, ecn & 3, payload.into());
                    }
                }
            }
        }
        // There may be more, and its nudge is taken.
        self.nudge.give();
        Ok(())
    }

    fn take_datagrams(&mut self, now: Instant, at: usize) -> anyhow::Result<()> {
        let batch = &mut self.received;
        self.sockets[at].recv(&mut self.blocks, batch).context("the UDP socket is broken")?;
        let (quic, stats) = (&self.quic, &mut self.stats);
        batch.datagrams.retain(|datagram| {
            let payload = &datagram.bytes;
            match payload.first() {
                Some(0x10..=0x1f) => return true,
                Some(first) if first & 0x40 != 0 => {
                    let (endpoint, ecn) = (datagram.from, datagram.ecn);
                    stats.quic_bytes(endpoint).received += payload.len() as u64;
                    let news = QuicDatagram { endpoint, ecn, payload: payload.to_vec() };
                    stats.quic_dropped += u64::from(quic.try_send(news).is_err());
                }
                _ => stats.strangers += 1,
            }
            false
        });
        if !batch.datagrams.is_empty() || batch.local_drops > 0 {
            self.forwarder.handle_udp(now, batch);
            self.carry_out(now)?;
        }
        Ok(())
    }

    /// Everything the forwarder wants done after one `handle_*`.
    fn carry_out(&mut self, now: Instant) -> anyhow::Result<()> {
        self.send_all(now)?;
        loop {
            self.to_tun.clear();
            self.forwarder.poll_tun(&mut self.to_tun);
            if self.to_tun.packets.is_empty() {
                break;
            }
            if let Err(error) = self.tun.send(&self.to_tun) {
                self.lose_tun(error);
            }
        }
        while let Some(event) = self.forwarder.poll_event() {
            if self.waiting.len() < EVENTS_HELD {
                self.waiting.push_back(event);
            } else {
                self.stats.events_dropped += 1;
            }
        }
        Ok(())
    }

    fn pass_events(&mut self) {
        while let Some(event) = self.waiting.pop_front() {
            match self.events.try_send(event) {
                Ok(()) => {}
                Err(mpsc::error::TrySendError::Full(event)) => {
                    self.waiting.push_front(event);
                    return;
                }
                // The control thread is ending; so will this one.
                Err(mpsc::error::TrySendError::Closed(_)) => return,
            }
        }
    }

    fn publish(&mut self, now: Instant) {
        self.published_at = now;
        if now.since(self.tidied_at) >= TIDY {
            self.tidied_at = now;
            self.forwarder.give_back();
            self.blocks.tidy();
            self.stats.held = self.forwarder.held();
            self.stats.held.memory += self.blocks.bytes();
        }
        let mut stats = self.stats.clone();
        stats.forward.clone_from(self.forwarder.stats());
        stats.tun = self.tun.stats();
        for socket in &self.sockets {
            stats.udp = stats.udp.plus(socket.stats());
            stats.udp_held_bytes += socket.held_bytes();
            stats.too_big.extend(socket.too_big());
        }
        self.shared.stats.store(Arc::new(stats));
    }
}

/// Binds what a listening address asks for: a wildcard stands for both families.
///
/// # Errors
/// An address in use or not ours. Where the wildcard was asked, a machine without IPv6 is not an
/// error.
pub fn bind(listen: SocketAddr) -> io::Result<Vec<UdpSocket>> {
    let first = UdpSocket::bind(listen)
        .map_err(|error| io::Error::new(error.kind(), format!("UDP {listen}: {error}")))?;
    let port = first.local().port();
    let mut sockets = vec![first];
    if listen.ip().is_unspecified() {
        let other = match listen {
            SocketAddr::V4(_) => (Ipv6Addr::UNSPECIFIED, port).into(),
            SocketAddr::V6(_) => (Ipv4Addr::UNSPECIFIED, port).into(),
        };
        match UdpSocket::bind(other) {
            Ok(socket) => sockets.push(socket),
            Err(error) => tracing::info!(%error, address = %other, "only one family is served"),
        }
    }
    Ok(sockets)
}

#[cfg(test)]
mod tests;
