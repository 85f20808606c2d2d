//! The data threads, one a lane: each owns its UDP sockets and its queue of the TUN device and drives
//! a `Forwarder`.
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

mod crossing;
mod device;
mod ending;
mod outlet;
mod stats;

use std::collections::VecDeque;
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
use super::poller::{Nudge, Poller, step_forward};
use super::quic::socket::{INBOUND, QuicDatagram};
use super::tun::Tun;
use super::udp::UdpSocket;
use crate::buf::{Blocks, RecvBatch, TunBatch, TunWrites, TxBatch};
use crate::control::{carried_to, over_the_overlay};
use crate::forward::Forwarder;
use crate::forward::event::{ForwardEvent, ProbeRequest};
use crate::forward::snapshot::Snapshot;
use crate::time::Instant;

use crossing::Crossing;
use device::Device;
use ending::Part;
pub use stats::{DataStats, LaneStats, QuicBytes};

/// Events and orders on their way between the threads, each way. A table of 500 nodes flipping at
/// once makes a few thousand events.
const QUEUE: usize = 4096;
/// Events kept for a control thread that is behind, beyond its queue.
const EVENTS_HELD: usize = 16_384;
/// How often memory is counted, and given back after a burst.
const TIDY: Duration = Duration::from_secs(1);
/// A turn's length at least while a send buffer is full.
const BLOCKED_TURN: Duration = Duration::from_millis(1);
/// Blocks that what is received and read may lie in, whoever holds it: 160 MiB. Shared by the lanes.
const BLOCKS_LIMIT: usize = (160 << 20) / Blocks::SIZE;
/// How often counters are published.
pub const PUBLISH: Duration = Duration::from_millis(250);

/// The control thread's end: what it may ask. Cheap to clone; nothing here waits.
#[derive(Clone)]
pub struct DataDoor {
    posts: Arc<[Post]>,
    /// To the first lane, which sends all that is no packet.
    orders: SyncSender<Order>,
}

/// What a lane's thread takes over.
#[derive(Debug)]
pub struct LaneParts {
    /// Its data path.
    pub forwarder: Forwarder,
    /// Its sockets, one a family.
    pub sockets: Vec<UdpSocket>,
    /// Its queue of the device.
    pub tun: Tun,
}

/// Where things are left for a lane's thread.
struct Post {
    shared: Shared,
    nudge: Nudge,
}

/// What comes up from the data threads.
pub struct DataNews {
    /// What the forwarder saw.
    pub events: mpsc::Receiver<ForwardEvent>,
    /// For quinn's socket.
    pub quic: mpsc::Receiver<QuicDatagram>,
    /// The TUN device vanished, and how that was seen: another is wanted by [`DataDoor::give_tun`].
    pub tun_lost: mpsc::Receiver<io::Error>,
    /// Resolves when all threads have ended: why, if they were not told to.
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

impl DataDoor {
    /// What the forwarders are to read from now on. Replaces one they have not taken yet.
    pub fn install(&self, snapshot: &Snapshot) {
        for post in self.posts.iter() {
            let slot = post.shared.snapshot.lock();
            *slot.unwrap_or_else(PoisonError::into_inner) = Some(snapshot.clone());
            post.nudge.give();
        }
    }

    /// The queues of a device that takes the place of the one that vanished.
    pub fn give_tun(&self, queues: Vec<Tun>) {
        for (post, tun) in self.posts.iter().zip(queues) {
            let slot = post.shared.tun.lock();
            *slot.unwrap_or_else(PoisonError::into_inner) = Some(tun);
            post.nudge.give();
        }
    }

    /// Has a probe sent.
    pub fn probe(&self, request: ProbeRequest) {
        self.order(Order::Probe(request));
    }

    /// Has a QUIC datagram sent.
    pub fn quic(&self, datagram: QuicDatagram) {
        self.order(Order::Quic(datagram));
    }

    /// The counters of all lanes, at most [`PUBLISH`] old while the threads run.
    pub fn stats(&self) -> DataStats {
        let lanes: Vec<_> = self.posts.iter().map(|post| post.shared.stats.load_full()).collect();
        DataStats::of_all(lanes.iter().map(|stats| &**stats))
    }

    /// Probes and QUIC datagrams that found the queue to the first data thread full.
    pub fn orders_dropped(&self) -> u64 {
        self.posts[0].shared.orders_dropped.load(Ordering::Relaxed)
    }

    /// Ends the threads; what is queued is still sent.
    pub fn stop(&self) {
        for post in self.posts.iter() {
            post.shared.stop.store(true, Ordering::Release);
            post.nudge.give();
        }
    }

    fn order(&self, order: Order) {
        let first = &self.posts[0];
        if self.orders.try_send(order).is_err() {
            first.shared.orders_dropped.fetch_add(1, Ordering::Relaxed);
        }
        first.nudge.give();
    }
}

impl Post {
    fn new() -> io::Result<Self> {
        let shared = Shared {
            snapshot: Mutex::new(None),
            tun: Mutex::new(None),
            stats: ArcSwap::default(),
            stop: AtomicBool::new(false),
            orders_dropped: AtomicU64::new(0),
        };
        Ok(Self { shared, nudge: Nudge::new()? })
    }
}

/// Starts a thread for each lane, in their order. They own sockets, device and forwarders until they
/// end, which they do together.
///
/// # Errors
/// No lane, no descriptors or no thread to be had.
pub fn start(clock: Clock, lanes: Vec<LaneParts>) -> anyhow::Result<(DataDoor, DataNews)> {
    let posts: Result<Vec<Post>, _> = lanes.iter().map(|_| Post::new()).collect();
    let posts: Arc<[Post]> = posts.context("eventfd")?.into();
    anyhow::ensure!(!posts.is_empty(), "no lane");
    let nudges: Vec<Nudge> = posts.iter().map(|post| post.nudge.clone()).collect();
    let (orders, inbox) = sync_channel(QUEUE);
    let (events, event_news) = mpsc::channel(QUEUE);
    let (quic, quic_news) = mpsc::channel(INBOUND);
    // One device at a time: one loss at a time.
    let (tun_lost, tun_news) = mpsc::channel(1);
    let (end, ended) = oneshot::channel();
    let mut inbox = Some(inbox);
    let beside = Crossing::all(&nudges).into_iter().zip(Part::all(&posts, end));
    let count = lanes.len();
    let mut threads = Vec::new();
    for (number, (parts, (crossing, part))) in lanes.into_iter().zip(beside).enumerate() {
        let LaneParts { forwarder, sockets, tun } = parts;
        let poller = Poller::new().context("epoll")?;
        poller.watch(nudges[number].as_fd(), NUDGE).context("epoll")?;
        poller.watch(tun.as_fd(), TUN).context("epoll")?;
        for (socket, token) in sockets.iter().zip(SOCKETS..) {
            poller.watch(socket.as_fd(), token).context("epoll")?;
        }
        let data = Data {
            clock,
            forwarder,
            sockets,
            awaiting_room: 0,
            tun: Device::new(tun),
            // All queues vanish at once: one lane tells.
            tun_lost: (number == 0).then(|| tun_lost.clone()),
            poller,
            nudge: nudges[number].clone(),
            crossing,
            posts: posts.clone(),
            number,
            inbox: inbox.take(),
            events: events.clone(),
            waiting: VecDeque::new(),
            quic: quic.clone(),
            received: RecvBatch::default(),
            from_tun: TunBatch::default(),
            to_tun: TunWrites::default(),
            blocks: Blocks::new(BLOCKS_LIMIT / count),
            transmit: TxBatch::default(),
            stats: DataStats::default(),
            published_at: Instant::ZERO,
            tidied_at: Instant::ZERO,
        };
        threads.push((data, part));
    }
    // No thread runs before all are put together.
    for (number, (mut data, mut part)) in threads.into_iter().enumerate() {
        let name = if count == 1 { "thalweg-data".into() } else { format!("thalweg-data{number}") };
        std::thread::Builder::new().name(name).spawn(move || {
            if let Err(error) = step_forward() {
                tracing::info!(%error, "packets have no priority over other programs");
            }
            let result = data.run();
            data.publish(data.clock.now());
            // Closes device and sockets before the end is known.
            drop(data);
            part.say(result);
        })?;
    }
    let news = DataNews { events: event_news, quic: quic_news, tun_lost: tun_news, ended };
    Ok((DataDoor { posts, orders }, news))
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
    tun_lost: Option<mpsc::Sender<io::Error>>,
    poller: Poller,
    nudge: Nudge,
    crossing: Crossing,
    posts: Arc<[Post]>,
    /// Which lane, and which of the posts.
    number: usize,
    /// The first lane's.
    inbox: Option<Receiver<Order>>,
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
                stopping = self.shared().stop.load(Ordering::Acquire);
                self.take_tun()?;
                self.take_crossed(now)?;
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
        let slot = self.shared().tun.lock().unwrap_or_else(PoisonError::into_inner).take();
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
        let _ = self.tun_lost.as_ref().map(|lost| lost.try_send(error));
    }

    /// What the control thread left for us.
    fn take_orders(&mut self, now: Instant) -> anyhow::Result<()> {
        let slot = self.shared().snapshot.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(snapshot) = slot {
            self.forwarder.install(now, &snapshot);
            self.carry_out(now)?;
        }
        // At most one queue's worth a turn: packets wait meanwhile.
        for _ in 0..QUEUE {
            let Some(Ok(order)) = self.inbox.as_ref().map(Receiver::try_recv) else {
                return Ok(());
            };
            match order {
                Order::Probe(request) => {
                    self.forwarder.push_probe(now, request);
                    self.carry_out(now)?;
                }
                Order::Quic(QuicDatagram { endpoint, ecn, payload }) => {
                    if let Some(node) = carried_to(endpoint) {
                        self.forwarder.push_carrier(now, node, &payload);
                        self.carry_out(now)?;
                        continue;
                    }
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
        let (quic, stats, crossing) = (&self.quic, &mut self.stats, &mut self.crossing);
        batch.datagrams.retain(|datagram| {
            let payload = &datagram.bytes;
            match payload.first() {
                Some(0x10..=0x1f) => {
                    let (strays, kept) = crossing.strays(datagram.from, datagram.tos, payload);
                    stats.strays += u64::from(strays);
                    stats.strays_dropped += u64::from(!kept);
                    return !strays;
                }
                Some(first) if first & 0x40 != 0 => {
                    let (endpoint, ecn) = (datagram.from, datagram.tos & 3);
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
        self.cross_over();
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
        while let Some((from, payload)) = self.forwarder.poll_carried() {
            let news = QuicDatagram { endpoint: over_the_overlay(from), ecn: 0, payload };
            self.stats.quic_dropped += u64::from(self.quic.try_send(news).is_err());
        }
        while let Some(event) = self.forwarder.poll_event() {
            if self.waiting.len() < EVENTS_HELD {
                self.waiting.push_back(event);
            } else {
                self.stats.events_dropped += 1;
            }
        }
        self.cross_over();
        Ok(())
    }

    fn shared(&self) -> &Shared {
        &self.posts[self.number].shared
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
        self.shared().stats.store(Arc::new(stats));
    }
}

/// Binds what a listening address asks for, for each lane: a wildcard stands for both families.
///
/// # Errors
/// An address in use or not ours. Where the wildcard was asked, a machine without IPv6 is not an
/// error.
pub fn bind(listen: SocketAddr, lanes: u8) -> io::Result<Vec<Vec<UdpSocket>>> {
    let first = UdpSocket::bind_group(listen, lanes)
        .map_err(|error| io::Error::new(error.kind(), format!("UDP {listen}: {error}")))?;
    let port = first[0].local().port();
    let mut sockets: Vec<_> = first.into_iter().map(|socket| vec![socket]).collect();
    if listen.ip().is_unspecified() {
        let other = match listen {
            SocketAddr::V4(_) => (Ipv6Addr::UNSPECIFIED, port).into(),
            SocketAddr::V6(_) => (Ipv4Addr::UNSPECIFIED, port).into(),
        };
        match UdpSocket::bind_group(other, lanes) {
            Ok(group) => sockets.iter_mut().zip(group).for_each(|(own, other)| own.push(other)),
            Err(error) => tracing::info!(%error, address = %other, "only one family is served"),
        }
    }
    Ok(sockets)
}

#[cfg(test)]
mod tests;
