//! The UDP door: whole runs out by GSO, whole batches in by GRO.
//!
//! What counts is packets per call: 5 µs a packet one by one, 0.2 with both offloads. Ours rather
//! than a crate's because TOS must carry DSCP, EMSGSIZE must be counted, and one destination that
//! cannot take GSO must not cost it to the others. Linux `udp(7)`, `ip(7)`, `ipv6(7)`.
//!
//! One socket speaks one family. Nothing here waits. What a full send buffer refuses is kept for a
//! moment (`pending`), and the caller is told to fetch no more; what else the kernel refuses is
//! counted and forgotten, as a queue on the way would do. Nothing that comes in ends the socket:
//! what was cut short, is empty or comes as an error is counted.

#![allow(unsafe_code)]

mod control;
mod paths;
mod pending;

use std::collections::BTreeMap;
use std::io;
use std::mem::{size_of, size_of_val, zeroed};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use bytes::Bytes;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use crate::buf::{Blocks, Datagram, RecvBatch, TxBatch};
use crate::id::LinkId;
use crate::time::Instant;
use crate::wire::Kind;

use control::{Control, Notes, read_control, write_control};
use paths::Paths;
use pending::{Item, Pending};

/// What a socket did and could not do, in datagrams unless named otherwise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UdpStats {
    /// Datagrams the kernel took.
    pub sent: u64,
    /// Their UDP payloads, bytes.
    pub sent_bytes: u64,
    /// Messages handed over: a whole run is one.
    pub sent_messages: u64,
    /// Datagrams received.
    pub received: u64,
    /// Their UDP payloads, bytes.
    pub received_bytes: u64,
    /// Messages received: what GRO joined is one.
    pub received_messages: u64,
    /// How often the send buffer was found full (EAGAIN).
    pub full: u64,
    /// Datagrams kept back then, to be sent a moment later.
    pub held: u64,
    /// Not sent: the send buffer stayed full, or more waited than may.
    pub blocked: u64,
    /// Not sent: the device or the system had no buffer (ENOBUFS, ENOMEM).
    pub no_buffer: u64,
    /// Not sent: longer than the path takes (EMSGSIZE).
    pub too_big: u64,
    /// Of those that asked whether the path takes them: which is their answer, and no loss.
    pub too_big_asked: u64,
    /// Not sent: no way there, or forbidden by a filter.
    pub unreachable: u64,
    /// Destinations that GSO was turned off for, each time it was.
    pub gso_refused: u64,
    /// Received by the kernel, dropped for want of space in our buffer (`SO_RXQ_OVFL`).
    pub kernel_drops: u64,
    /// Received without a byte in them.
    pub empty: u64,
    /// Received, but cut short (`MSG_TRUNC`), or what the kernel said of them was (`MSG_CTRUNC`).
    pub truncated: u64,
    /// Errors the kernel gave instead of datagrams.
    pub receive_errors: u64,
    /// Received, dropped for want of memory: all that we may use is held by other packets.
    pub no_memory: u64,
}

impl UdpStats {
    /// The figures of two sockets together.
    pub const fn plus(self, other: Self) -> Self {
        Self {
            sent: self.sent + other.sent,
            sent_bytes: self.sent_bytes + other.sent_bytes,
            sent_messages: self.sent_messages + other.sent_messages,
            received: self.received + other.received,
            received_bytes: self.received_bytes + other.received_bytes,
            received_messages: self.received_messages + other.received_messages,
            full: self.full + other.full,
            held: self.held + other.held,
            blocked: self.blocked + other.blocked,
            no_buffer: self.no_buffer + other.no_buffer,
            too_big: self.too_big + other.too_big,
            too_big_asked: self.too_big_asked + other.too_big_asked,
            unreachable: self.unreachable + other.unreachable,
            gso_refused: self.gso_refused + other.gso_refused,
            kernel_drops: self.kernel_drops + other.kernel_drops,
            empty: self.empty + other.empty,
            truncated: self.truncated + other.truncated,
            receive_errors: self.receive_errors + other.receive_errors,
            no_memory: self.no_memory + other.no_memory,
        }
    }
}

/// A bound, non-blocking UDP socket of one family.
#[derive(Debug)]
pub struct UdpSocket {
    fd: OwnedFd,
    local: SocketAddr,
    paths: Paths,
    pending: Pending,
    /// Data frames this machine dropped, by link, since somebody asked.
    lost: BTreeMap<LinkId, u64>,
    /// The shortest frame of each link that was too long, since somebody asked.
    too_long: BTreeMap<LinkId, u16>,
    items: Vec<Item>,
    drops_seen: u32,
    stats: UdpStats,
    buffers: Buffers,
}

/// Socket buffers the kernel granted, bytes, as it accounts for them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Buffers {
    /// For receiving.
    pub receive: usize,
    /// For sending.
    pub send: usize,
}

/// Messages per `recvmmsg`: with GRO eight carry up to 512 KiB, and more gained nothing.
const RECV_MESSAGES: usize = 8;
/// The largest UDP payload there is; a GRO message holds no more.
const RECV_BYTES: usize = 65_536;
/// Messages per `sendmmsg`.
const SEND_MESSAGES: usize = 32;
/// Asked for. 8 MiB hold 13 ms at 5 Gbit/s, three times a scheduler's usual stall.
const RECEIVE_BUFFER: usize = 8 << 20;
/// Asked for. A run is at most 64 KiB; a larger queue would only hide the line's own from us.
const SEND_BUFFER: usize = 2 << 20;

impl UdpSocket {
    /// Binds a socket. A wildcard IPv6 address does not take IPv4.
    ///
    /// # Errors
    /// The address is in use or not ours, or the kernel lacks the family.
    pub fn bind(address: SocketAddr) -> io::Result<Self> {
        Self::bind_as(address, false)
    }

    /// Binds a socket for each lane to one address; each gets the frames of its lane, the first all
    /// that is no frame.
    ///
    /// The first is bound as if it were alone, so that an address is as taken by a group as by one.
    ///
    /// # Errors
    /// As [`UdpSocket::bind`], or the kernel does not steer.
    pub fn bind_group(address: SocketAddr, lanes: u8) -> io::Result<Vec<Self>> {
        let first = Self::bind(address)?;
        let address = first.local();
        let mut group = vec![first];
        if lanes > 1 {
            set(group[0].as_fd(), libc::SOL_SOCKET, libc::SO_REUSEPORT, 1)?;
            for _ in 1..lanes {
                group.push(Self::bind_as(address, true)?);
            }
            super::steer::sockets(group[0].as_fd(), lanes)?;
        }
        Ok(group)
    }

    fn bind_as(address: SocketAddr, beside: bool) -> io::Result<Self> {
        let v6 = address.is_ipv6();
        let socket = Socket::new(
            if v6 { Domain::IPV6 } else { Domain::IPV4 },
            Type::DGRAM.nonblocking().cloexec(),
            Some(Protocol::UDP),
        )?;
        if v6 {
            socket.set_only_v6(true)?;
        }
        let buffers = enlarge(&socket);
        let fd = socket.as_fd();
        if v6 {
            set(fd, libc::IPPROTO_IPV6, libc::IPV6_RECVTCLASS, 1)?;
            set(fd, libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, libc::IP_PMTUDISC_PROBE)?;
        } else {
            set(fd, libc::IPPROTO_IP, libc::IP_RECVTOS, 1)?;
            // Never fragmented, and no stranger's ICMP message shrinks what we send.
            set(fd, libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_PROBE)?;
        }
        set(fd, libc::SOL_SOCKET, libc::SO_RXQ_OVFL, 1)?;
        // Without it every segment comes alone: slower, not wrong.
        if let Err(error) = set(fd, libc::SOL_UDP, libc::UDP_GRO, 1) {
            tracing::warn!(%error, "this kernel has no UDP GRO; receiving will cost more");
        }
        if beside {
            set(fd, libc::SOL_SOCKET, libc::SO_REUSEPORT, 1)?;
        }
        socket.bind(&SockAddr::from(address))?;
        let local = socket
            .local_addr()?
            .as_socket()
            .ok_or_else(|| io::Error::other("the kernel named no local address"))?;
        Ok(Self {
            fd: socket.into(),
            local,
            paths: Paths::default(),
            pending: Pending::default(),
            lost: BTreeMap::new(),
            too_long: BTreeMap::new(),
            items: Vec::new(),
            drops_seen: 0,
            stats: UdpStats::default(),
            buffers,
        })
    }

    /// Receives what waits, at most a few hundred KiB; replaces what the batch held. Returns whether
    /// more may be waiting.
    ///
    /// What GRO joined is received straight into a block and cut into its datagrams there; what is
    /// short is copied, so that it does not hold a block for itself.
    ///
    /// # Errors
    /// The socket is broken. Nothing waiting is not an error.
    pub fn recv(&mut self, blocks: &mut Blocks, batch: &mut RecvBatch) -> io::Result<bool> {
        batch.clear();
        // What the last call cut up is mostly free again, and still in the cache.
        batch.slots.iter_mut().for_each(|slot| blocks.renew(slot));
        while batch.slots.len() < RECV_MESSAGES {
            batch.slots.push(blocks.take_anyway());
        }
        // SAFETY: all-zero is a valid value of these plain C structures.
        let mut names: [libc::sockaddr_storage; RECV_MESSAGES] = unsafe { zeroed() };
        let mut controls = [Control::default(); RECV_MESSAGES];
        // SAFETY: as above.
        let mut vectors: [libc::iovec; RECV_MESSAGES] = unsafe { zeroed() };
        // SAFETY: as above.
        let mut messages: [libc::mmsghdr; RECV_MESSAGES] = unsafe { zeroed() };
        for (i, slot) in batch.slots.iter_mut().take(RECV_MESSAGES).enumerate() {
            let room = slot.spare_capacity_mut();
            vectors[i] = libc::iovec { iov_base: room.as_mut_ptr().cast(), iov_len: RECV_BYTES };
            let header = &mut messages[i].msg_hdr;
            header.msg_name = (&raw mut names[i]).cast();
            header.msg_namelen = size_of::<libc::sockaddr_storage>() as libc::socklen_t;
            header.msg_iov = &raw mut vectors[i];
            header.msg_iovlen = 1;
            header.msg_control = controls[i].0.as_mut_ptr().cast();
            header.msg_controllen = size_of::<Control>() as _;
        }
        // SAFETY: every message points at its own name, vector, control space and slot, which has room
        // for RECV_BYTES; all of them outlive the call and are written by nobody else.
        let n = unsafe {
            libc::recvmmsg(
                self.fd.as_raw_fd(),
                messages.as_mut_ptr(),
                RECV_MESSAGES as libc::c_uint,
                libc::MSG_DONTWAIT as _,
                std::ptr::null_mut(),
            )
        };
        let Ok(n) = usize::try_from(n) else {
            let error = io::Error::last_os_error();
            return match error.raw_os_error() {
                Some(libc::EAGAIN) => Ok(false),
                Some(libc::EINTR) => Ok(true),
                Some(libc::EBADF | libc::ENOTSOCK | libc::EFAULT | libc::EINVAL) => Err(error),
                // An ICMP error of an earlier send, or memory that is short: the next call goes on.
                _ => {
                    self.stats.receive_errors += 1;
                    Ok(false)
                }
            };
        };
        for (i, message) in messages[..n].iter().enumerate() {
            let length = (message.msg_len as usize).min(RECV_BYTES);
            let Some(from) = endpoint(&names[i]) else { continue };
            let flags = message.msg_hdr.msg_flags;
            let whole_notes = flags & libc::MSG_CTRUNC == 0;
            // A cut control message may claim bytes that were never written.
            let notes = if whole_notes { read_control(&message.msg_hdr) } else { Notes::default() };
            if let Some(drops) = notes.drops {
                batch.local_drops += u64::from(drops.wrapping_sub(self.drops_seen));
                self.drops_seen = drops;
            }
            self.stats.received_messages += 1;
            self.stats.received_bytes += length as u64;
            self.stats.empty += u64::from(length == 0);
            let (whole, segment) = intact(flags, length, notes.segment);
            self.stats.truncated += u64::from(whole < length);
            let slot = &mut batch.slots[i];
            // SAFETY: the kernel has written `length` bytes into it, and it has room for them.
            unsafe { slot.set_len(length) };
            slot.truncate(whole);
            if whole == 0 {
                continue;
            }
            let count = whole.div_ceil(segment) as u64;
            let piece = if whole < Blocks::SMALL {
                let copy = blocks.keep(slot);
                slot.clear();
                copy
            } else {
                (!blocks.is_spent()).then(|| slot.split())
            };
            let Some(mut piece) = piece else {
                slot.clear();
                self.stats.no_memory += count;
                continue;
            };
            self.stats.received += count;
            let tos = notes.tos;
            while piece.len() > segment {
                batch.datagrams.push(Datagram { bytes: piece.split_to(segment), from, tos });
            }
            batch.datagrams.push(Datagram { bytes: piece, from, tos });
        }
        self.stats.kernel_drops += batch.local_drops;
        Ok(n == RECV_MESSAGES)
    }

    /// Sends every run of the batch that goes to this socket's family.
    pub fn send(&mut self, now: Instant, batch: &TxBatch) {
        let mut items = std::mem::take(&mut self.items);
        items.clear();
        for run in &batch.runs {
            if run.to.is_ipv6() != self.local.is_ipv6() {
                continue;
            }
            let many = run.range.len() > 1;
            let segment = u16::try_from(run.segment).ok().filter(|_| many);
            let (range, bytes, link) = (run.range.clone(), run.bytes, Some(run.link));
            let item = Item { to: run.to, tos: run.tos, range, bytes, segment, link };
            if segment.is_some() && self.paths.takes_gso(now, run.to) {
                items.push(item);
            } else {
                items.extend(singles(&batch.datagrams, &item));
            }
        }
        self.send_or_keep(now, &batch.datagrams, &items);
        self.items = items;
    }

    /// Sends one datagram.
    pub fn send_one(&mut self, now: Instant, to: SocketAddr, tos: u8, payload: Bytes) {
        let item = Item { to, tos, range: 0..1, bytes: payload.len(), segment: None, link: None };
        self.send_or_keep(now, &[payload], std::slice::from_ref(&item));
    }

    /// Whether the caller should fetch nothing more to be sent for now: the send buffer is full.
    pub fn holds_back(&self) -> bool {
        self.pending.holds_back()
    }

    /// Whether the caller should say by [`UdpSocket::handle_writable`] when there is room again.
    pub fn wants_room(&self) -> bool {
        self.pending.is_full()
    }

    /// There is room in the send buffer.
    pub fn handle_writable(&mut self, now: Instant) {
        if self.pending.is_empty() {
            self.pending.on_taken();
        }
        let (datagrams, items) = self.pending.take();
        self.send_items(now, &datagrams, &items);
    }

    /// The clock reached `now`: what waits is tried again, and given up where nothing goes for too
    /// long. Early and repeated calls change nothing.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.pending.is_due(now) {
            self.handle_writable(now);
        }
        if self.pending.expires(now) {
            let (datagrams, items) = self.pending.take();
            for item in &items {
                self.stats.blocked += item.range.len() as u64;
                self.lose(&datagrams, item);
            }
        }
    }

    /// When [`UdpSocket::handle_timeout`] wants to be called.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.pending.poll_timeout()
    }

    /// Data frames of one link that this machine dropped on the way out since it was last asked;
    /// ask until there is none.
    pub fn poll_lost(&mut self) -> Option<(LinkId, u64)> {
        self.lost.pop_first()
    }

    /// A link and the shortest of its frames that were longer than the way there takes, since it was last
    /// asked; ask until there is none.
    pub fn poll_too_long(&mut self) -> Option<(LinkId, u16)> {
        self.too_long.pop_first()
    }

    /// The address the socket is bound to.
    pub fn local(&self) -> SocketAddr {
        self.local
    }

    /// The buffers the kernel granted.
    pub fn buffers(&self) -> Buffers {
        self.buffers
    }

    /// What happened so far.
    pub fn stats(&self) -> UdpStats {
        self.stats
    }

    /// Datagrams that were longer than the way to their destination takes.
    pub fn too_big(&self) -> &BTreeMap<SocketAddr, u64> {
        self.paths.too_big()
    }

    /// Bytes that wait for room in the send buffer.
    pub fn held_bytes(&self) -> usize {
        self.pending.bytes()
    }

    /// Sends, behind what waits already.
    fn send_or_keep(&mut self, now: Instant, datagrams: &[Bytes], items: &[Item]) {
        if self.pending.is_empty() {
            self.send_items(now, datagrams, items);
        } else {
            self.keep(datagrams, items);
        }
    }

    fn send_items(&mut self, now: Instant, datagrams: &[Bytes], items: &[Item]) {
        let mut next = 0;
        while next < items.len() {
            let end = (next + SEND_MESSAGES).min(items.len());
            match self.send_messages(datagrams, &items[next..end]) {
                Ok(sent) => {
                    for item in &items[next..next + sent] {
                        self.stats.sent += item.range.len() as u64;
                        self.stats.sent_bytes += item.bytes as u64;
                        self.stats.sent_messages += 1;
                    }
                    next += sent;
                    self.pending.on_taken();
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.raw_os_error() == Some(libc::EAGAIN) => {
                    self.stats.full += u64::from(self.pending.on_full(now));
                    self.keep(datagrams, &items[next..]);
                    return;
                }
                Err(error) => {
                    self.refused(now, datagrams, &items[next], &error);
                    next += 1;
                    if !self.pending.is_empty() {
                        // The buffer filled up on the way: the rest goes behind what waits.
                        self.keep(datagrams, &items[next..]);
                        return;
                    }
                }
            }
        }
    }

    /// Keeps what a full buffer refused, or counts it where nothing more may wait.
    fn keep(&mut self, datagrams: &[Bytes], items: &[Item]) {
        for item in items {
            let count = item.range.len() as u64;
            if self.pending.keep(datagrams, item) {
                self.stats.held += count;
            } else {
                self.stats.blocked += count;
                self.lose(datagrams, item);
            }
        }
    }

    /// Remembers whose data frames were lost here: not on the link.
    fn lose(&mut self, datagrams: &[Bytes], item: &Item) {
        let data = |datagram: &&Bytes| datagram.first() == Some(&(Kind::Data as u8));
        let frames = datagrams[item.range.clone()].iter().filter(data).count() as u64;
        if let Some(link) = item.link
            && frames > 0
        {
            *self.lost.entry(link).or_default() += frames;
        }
    }

    /// The kernel did not take this message: without GSO if that may be the cause, else counted.
    fn refused(&mut self, now: Instant, datagrams: &[Bytes], item: &Item, error: &io::Error) {
        let code = error.raw_os_error().unwrap_or(0);
        let offload =
            [libc::EINVAL, libc::EIO, libc::EMSGSIZE, libc::ENOPROTOOPT, libc::EOPNOTSUPP];
        if item.segment.is_some() && offload.contains(&code) {
            let too_big = |stats: &UdpStats| stats.too_big + stats.too_big_asked;
            let (items, before): (Vec<_>, _) =
                (singles(datagrams, item).collect(), too_big(&self.stats));
            // One level deep: single items have no segment size.
            self.send_items(now, datagrams, &items);
            if too_big(&self.stats) == before {
                tracing::debug!(to = %item.to, %error, "segmentation offload refused");
                self.paths.spare_gso(now, item.to);
                self.stats.gso_refused += 1;
            }
            return;
        }
        let lost = item.range.len() as u64;
        match code {
            libc::ENOBUFS | libc::ENOMEM => {
                self.stats.no_buffer += lost;
                self.lose(datagrams, item);
            }
            libc::EMSGSIZE => {
                if let Some(link) = item.link {
                    let size = u16::try_from(item.bytes).unwrap_or(u16::MAX);
                    let shortest = self.too_long.entry(link).or_insert(size);
                    *shortest = size.min(*shortest);
                }
                let first = datagrams[item.range.start].first();
                if first == Some(&(Kind::Probe as u8)) {
                    self.stats.too_big_asked += lost;
                } else {
                    self.stats.too_big += lost;
                    self.paths.on_too_big(item.to, lost);
                }
            }
            _ => self.stats.unreachable += lost,
        }
        tracing::trace!(to = %item.to, %error, lost, "not sent");
    }

    /// One `sendmmsg`; how many messages the kernel took, or what it said of the first.
    fn send_messages(&self, datagrams: &[Bytes], items: &[Item]) -> io::Result<usize> {
        let count = items.len().min(SEND_MESSAGES);
        let mut vectors = Vec::with_capacity(items.iter().map(|item| item.range.len()).sum());
        let mut places = [0; SEND_MESSAGES + 1];
        for (i, item) in items[..count].iter().enumerate() {
            gather(&datagrams[item.range.clone()], &mut vectors, places[i]);
            places[i + 1] = vectors.len();
        }
        // SAFETY: all-zero is a valid value of these plain C structures.
        let mut messages: [libc::mmsghdr; SEND_MESSAGES] = unsafe { zeroed() };
        let mut controls = [Control::default(); SEND_MESSAGES];
        let mut names: [Option<SockAddr>; SEND_MESSAGES] = [const { None }; SEND_MESSAGES];
        for (i, item) in items[..count].iter().enumerate() {
            let used = write_control(&mut controls[i], item.to.is_ipv6(), item.tos, item.segment);
            let name = names[i].insert(SockAddr::from(item.to));
            let header = &mut messages[i].msg_hdr;
            header.msg_name = name.as_ptr().cast_mut().cast();
            header.msg_namelen = name.len();
            let own = &mut vectors[places[i]..places[i + 1]];
            header.msg_iov = own.as_mut_ptr();
            header.msg_iovlen = own.len() as _;
            if used > 0 {
                header.msg_control = controls[i].0.as_mut_ptr().cast();
                header.msg_controllen = used as _;
            }
        }
        // SAFETY: the first `count` messages point at names, vectors, control data and datagrams that
        // live until the end of this function.
        let n = unsafe {
            libc::sendmmsg(
                self.fd.as_raw_fd(),
                messages.as_mut_ptr(),
                count as libc::c_uint,
                libc::MSG_DONTWAIT as _,
            )
        };
        usize::try_from(n).map_err(|_| io::Error::last_os_error())
    }
}

impl AsFd for UdpSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// One item as one for each of its datagrams.
fn singles(datagrams: &[Bytes], item: &Item) -> impl Iterator<Item = Item> {
    let (to, tos, link) = (item.to, item.tos, item.link);
    item.range.clone().map(move |at| {
        let bytes = datagrams[at].len();
        Item { to, tos, range: at..at + 1, bytes, segment: None, link }
    })
}

/// Appends one vector for each piece of memory that the datagrams lie in: those that follow each
/// other there are one. Vectors before `from` belong to others.
fn gather(datagrams: &[Bytes], vectors: &mut Vec<libc::iovec>, from: usize) {
    for datagram in datagrams {
        let start = datagram.as_ptr().cast_mut();
        match vectors[from..].last_mut() {
            Some(last) if last.iov_base.cast::<u8>().wrapping_add(last.iov_len) == start => {
                last.iov_len += datagram.len();
            }
            // The kernel does not write through a send vector; the type has no const form.
            _ => vectors.push(libc::iovec { iov_base: start.cast(), iov_len: datagram.len() }),
        }
    }
}

/// How many of a received message's bytes can be used, and the length of each datagram in it.
///
/// Where its control messages were cut, nobody knows whether it is one datagram or many. Where its
/// end was cut, the last is no whole one.
fn intact(flags: libc::c_int, length: usize, segment: Option<usize>) -> (usize, usize) {
    let segment = segment.filter(|&s| s > 0).unwrap_or(length).max(1);
    if flags & libc::MSG_CTRUNC != 0 {
        (0, segment)
    } else if flags & libc::MSG_TRUNC != 0 {
        (length.saturating_sub(1) / segment * segment, segment)
    } else {
        (length, segment)
    }
}

fn endpoint(name: &libc::sockaddr_storage) -> Option<SocketAddr> {
    match libc::c_int::from(name.ss_family) {
        libc::AF_INET => {
            // SAFETY: the family says which structure the kernel wrote; the storage holds any.
            let v4 = unsafe { &*std::ptr::from_ref(name).cast::<libc::sockaddr_in>() };
            let address = Ipv4Addr::from(v4.sin_addr.s_addr.to_ne_bytes());
            Some(SocketAddrV4::new(address, u16::from_be(v4.sin_port)).into())
        }
        libc::AF_INET6 => {
            // SAFETY: as above.
            let v6 = unsafe { &*std::ptr::from_ref(name).cast::<libc::sockaddr_in6>() };
            let address = Ipv6Addr::from(v6.sin6_addr.s6_addr);
            let port = u16::from_be(v6.sin6_port);
            // The scope matters for link-local addresses, the flow label for nobody.
            Some(SocketAddrV6::new(address, port, 0, v6.sin6_scope_id).into())
        }
        _ => None,
    }
}

/// Asks for large buffers, beyond the system's limit where we may; returns what was granted.
fn enlarge(socket: &Socket) -> Buffers {
    for (force, plain, bytes) in [
        (libc::SO_RCVBUFFORCE, libc::SO_RCVBUF, RECEIVE_BUFFER),
        (libc::SO_SNDBUFFORCE, libc::SO_SNDBUF, SEND_BUFFER),
    ] {
        let bytes = bytes as libc::c_int;
        if set(socket.as_fd(), libc::SOL_SOCKET, force, bytes).is_err()
            && let Err(error) = set(socket.as_fd(), libc::SOL_SOCKET, plain, bytes)
        {
            tracing::warn!(%error, bytes, "socket buffer not enlarged");
        }
    }
    Buffers {
        receive: socket.recv_buffer_size().unwrap_or(0),
        send: socket.send_buffer_size().unwrap_or(0),
    }
}

fn set(
    fd: BorrowedFd<'_>,
    level: libc::c_int,
    name: libc::c_int,
    value: libc::c_int,
) -> io::Result<()> {
    // SAFETY: `value` lives through the call and its size is given.
    super::poller::check(unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            level,
            name,
            (&raw const value).cast(),
            size_of_val(&value) as libc::socklen_t,
        )
    })?;
    Ok(())
}

#[cfg(test)]
mod tests;
