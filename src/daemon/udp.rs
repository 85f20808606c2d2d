//! The UDP door: whole runs out by GSO, whole batches in by GRO.
//!
//! What counts is packets per call: 5 µs a packet one by one, 0.2 with both offloads. Ours rather
//! than a crate's because TOS must carry DSCP, EMSGSIZE must be counted, and one destination that
//! cannot take GSO must not cost it to the others. Linux `udp(7)`, `ip(7)`, `ipv6(7)`.
//!
//! One socket speaks one family. A datagram that the kernel refuses is counted and forgotten, as a
//! queue on the way would do: nothing here waits.

#![allow(unsafe_code)]

use std::collections::BTreeMap;
use std::io;
use std::mem::{size_of, size_of_val, zeroed};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use crate::buf::{Datagram, RecvBatch, TxBatch};
use crate::time::Instant;

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
    /// Not sent: the send buffer was full (EAGAIN).
    pub blocked: u64,
    /// Not sent: the device or the system had no buffer (ENOBUFS, ENOMEM).
    pub no_buffer: u64,
    /// Not sent: longer than the path takes (EMSGSIZE).
    pub too_big: u64,
    /// Not sent: no way there, or forbidden by a filter.
    pub unreachable: u64,
    /// Destinations that GSO was turned off for, each time it was.
    pub gso_refused: u64,
    /// Received by the kernel, dropped for want of space in our buffer (`SO_RXQ_OVFL`).
    pub kernel_drops: u64,
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
            blocked: self.blocked + other.blocked,
            no_buffer: self.no_buffer + other.no_buffer,
            too_big: self.too_big + other.too_big,
            unreachable: self.unreachable + other.unreachable,
            gso_refused: self.gso_refused + other.gso_refused,
            kernel_drops: self.kernel_drops + other.kernel_drops,
        }
    }
}

/// A bound, non-blocking UDP socket of one family.
#[derive(Debug)]
pub struct UdpSocket {
    fd: OwnedFd,
    local: SocketAddr,
    /// Destinations that refused GSO, and until when they are spared it.
    plain: BTreeMap<SocketAddr, Instant>,
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

/// One message of a `sendmmsg`.
#[derive(Clone, Debug)]
struct Item {
    to: SocketAddr,
    tos: u8,
    range: Range<usize>,
    /// Split by the kernel into datagrams of this size.
    segment: Option<u16>,
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
/// A destination whose path cannot take GSO is asked again after this.
const GSO_RETRY: Duration = Duration::from_secs(60);
/// Destinations remembered as unable to take GSO; beyond it, the memory starts anew.
const GSO_REFUSALS: usize = 1024;

impl UdpSocket {
    /// Binds a socket. A wildcard IPv6 address does not take IPv4.
    ///
    /// # Errors
    /// The address is in use or not ours, or the kernel lacks the family.
    pub fn bind(address: SocketAddr) -> io::Result<Self> {
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
        socket.bind(&SockAddr::from(address))?;
        let local = socket
            .local_addr()?
            .as_socket()
            .ok_or_else(|| io::Error::other("the kernel named no local address"))?;
        Ok(Self {
            fd: socket.into(),
            local,
            plain: BTreeMap::new(),
            items: Vec::new(),
            drops_seen: 0,
            stats: UdpStats::default(),
            buffers,
        })
    }

    /// Receives what waits, at most a few hundred KiB; replaces what the batch held. Returns whether
    /// more may be waiting.
    ///
    /// The bytes are received straight into the batch's slab, which keeps its full length.
    ///
    /// # Errors
    /// The socket is broken. Nothing waiting is not an error.
    pub fn recv(&mut self, batch: &mut RecvBatch) -> io::Result<bool> {
        batch.datagrams.clear();
        batch.local_drops = 0;
        if batch.slab.len() < RECV_MESSAGES * RECV_BYTES {
            batch.slab.resize(RECV_MESSAGES * RECV_BYTES, 0);
        }
        // SAFETY: all-zero is a valid value of these plain C structures.
        let mut names: [libc::sockaddr_storage; RECV_MESSAGES] = unsafe { zeroed() };
        let mut controls = [Control::default(); RECV_MESSAGES];
        // SAFETY: as above.
        let mut vectors: [libc::iovec; RECV_MESSAGES] = unsafe { zeroed() };
        // SAFETY: as above.
        let mut messages: [libc::mmsghdr; RECV_MESSAGES] = unsafe { zeroed() };
        for (i, slot) in batch.slab.chunks_exact_mut(RECV_BYTES).take(RECV_MESSAGES).enumerate() {
            vectors[i] = libc::iovec { iov_base: slot.as_mut_ptr().cast(), iov_len: slot.len() };
            let header = &mut messages[i].msg_hdr;
            header.msg_name = (&raw mut names[i]).cast();
            header.msg_namelen = size_of::<libc::sockaddr_storage>() as libc::socklen_t;
            header.msg_iov = &raw mut vectors[i];
            header.msg_iovlen = 1;
            header.msg_control = controls[i].0.as_mut_ptr().cast();
            header.msg_controllen = size_of::<Control>() as _;
        }
        // SAFETY: every message points at its own name, vector, control space and slab slot, all of
        // which outlive the call and are written by nobody else.
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
            return match error.kind() {
                io::ErrorKind::WouldBlock => Ok(false),
                // Interrupted, or an ICMP error of an earlier send: the next call goes on.
                io::ErrorKind::Interrupted | io::ErrorKind::ConnectionRefused => Ok(true),
                _ => Err(error),
            };
        };
        for (i, message) in messages[..n].iter().enumerate() {
            let start = i * RECV_BYTES;
            let length = (message.msg_len as usize).min(RECV_BYTES);
            let Some(from) = endpoint(&names[i]) else { continue };
            let notes = read_control(&message.msg_hdr);
            if let Some(drops) = notes.drops {
                batch.local_drops += u64::from(drops.wrapping_sub(self.drops_seen));
                self.drops_seen = drops;
            }
            let segment = notes.segment.filter(|&s| s > 0).unwrap_or(length).max(1);
            self.stats.received_messages += 1;
            self.stats.received_bytes += length as u64;
            let mut at = start;
            while at < start + length {
                let end = (at + segment).min(start + length);
                batch.datagrams.push(Datagram { range: at..end, from, ecn: notes.tos & 3 });
                at = end;
                self.stats.received += 1;
            }
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
            let (to, tos) = (run.to, run.tos);
            let many = run.range.len() > run.segment;
            match u16::try_from(run.segment) {
                Ok(segment) if many && self.takes_gso(now, to) => {
                    items.push(Item { to, tos, range: run.range.clone(), segment: Some(segment) });
                }
                _ => items.extend(singles(to, tos, run.range.clone(), run.segment)),
            }
        }
        self.send_items(now, &batch.slab, &items);
        self.items = items;
    }

    /// Sends one datagram.
    pub fn send_one(&mut self, now: Instant, to: SocketAddr, tos: u8, payload: &[u8]) {
        let item = Item { to, tos, range: 0..payload.len(), segment: None };
        self.send_items(now, payload, std::slice::from_ref(&item));
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

    fn takes_gso(&mut self, now: Instant, to: SocketAddr) -> bool {
        match self.plain.get(&to) {
            Some(&until) if now < until => false,
            Some(_) => {
                self.plain.remove(&to);
                true
            }
            None => true,
        }
    }

    fn send_items(&mut self, now: Instant, slab: &[u8], items: &[Item]) {
        let mut next = 0;
        while next < items.len() {
            let end = (next + SEND_MESSAGES).min(items.len());
            match self.send_messages(slab, &items[next..end]) {
                Ok(sent) => {
                    for item in &items[next..next + sent] {
                        self.stats.sent += item.datagrams();
                        self.stats.sent_bytes += item.range.len() as u64;
                        self.stats.sent_messages += 1;
                    }
                    next += sent;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    self.refused(now, slab, &items[next], &error);
                    next += 1;
                }
            }
        }
    }

    /// The kernel did not take this message: without GSO if that may be the cause, else counted.
    fn refused(&mut self, now: Instant, slab: &[u8], item: &Item, error: &io::Error) {
        let code = error.raw_os_error().unwrap_or(0);
        let offload =
            [libc::EINVAL, libc::EIO, libc::EMSGSIZE, libc::ENOPROTOOPT, libc::EOPNOTSUPP];
        if let Some(segment) = item.segment
            && offload.contains(&code)
        {
            tracing::debug!(to = %item.to, %error, "segmentation offload refused; sent one by one");
            if self.plain.len() >= GSO_REFUSALS {
                self.plain.clear();
            }
            self.plain.insert(item.to, now.plus(GSO_RETRY));
            self.stats.gso_refused += 1;
            let items: Vec<_> =
                singles(item.to, item.tos, item.range.clone(), segment.into()).collect();
            // One level deep: single items have no segment size.
            self.send_items(now, slab, &items);
            return;
        }
        let lost = item.datagrams();
        match code {
            libc::EAGAIN => self.stats.blocked += lost,
            libc::ENOBUFS | libc::ENOMEM => self.stats.no_buffer += lost,
            libc::EMSGSIZE => self.stats.too_big += lost,
            _ => self.stats.unreachable += lost,
        }
        tracing::trace!(to = %item.to, %error, lost, "not sent");
    }

    /// One `sendmmsg`; how many messages the kernel took, or what it said of the first.
    fn send_messages(&self, slab: &[u8], items: &[Item]) -> io::Result<usize> {
        let count = items.len().min(SEND_MESSAGES);
        // SAFETY: all-zero is a valid value of these plain C structures.
        let mut vectors: [libc::iovec; SEND_MESSAGES] = unsafe { zeroed() };
        // SAFETY: as above.
        let mut messages: [libc::mmsghdr; SEND_MESSAGES] = unsafe { zeroed() };
        let mut controls = [Control::default(); SEND_MESSAGES];
        let mut names: [Option<SockAddr>; SEND_MESSAGES] = [const { None }; SEND_MESSAGES];
        for (i, item) in items[..count].iter().enumerate() {
            let bytes = &slab[item.range.clone()];
            // The kernel does not write through a send vector; the type has no const form.
            vectors[i] =
                libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
            let used = write_control(&mut controls[i], item.to.is_ipv6(), item.tos, item.segment);
            let name = names[i].insert(SockAddr::from(item.to));
            let header = &mut messages[i].msg_hdr;
            header.msg_name = name.as_ptr().cast_mut().cast();
            header.msg_namelen = name.len();
            header.msg_iov = &raw mut vectors[i];
            header.msg_iovlen = 1;
            if used > 0 {
                header.msg_control = controls[i].0.as_mut_ptr().cast();
                header.msg_controllen = used as _;
            }
        }
        // SAFETY: the first `count` messages point at names, vectors, control data and slab ranges
        // that live until the end of this function.
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

impl Item {
    fn datagrams(&self) -> u64 {
        self.segment.map_or(1, |s| self.range.len().div_ceil(usize::from(s).max(1)) as u64)
    }
}

/// A range as one item per datagram.
fn singles(
    to: SocketAddr,
    tos: u8,
    range: Range<usize>,
    segment: usize,
) -> impl Iterator<Item = Item> {
    let end = range.end;
    range.step_by(segment.max(1)).map(move |at| Item {
        to,
        tos,
        range: at..(at + segment.max(1)).min(end),
        segment: None,
    })
}

/// Space for the control messages of one datagram or run; aligned as `cmsghdr` wants.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(8))]
struct Control([u8; 128]);

impl Default for Control {
    fn default() -> Self {
        Self([0; 128])
    }
}

/// What the kernel noted beside received bytes.
#[derive(Clone, Copy, Debug, Default)]
struct Notes {
    tos: u8,
    segment: Option<usize>,
    drops: Option<u32>,
}

fn read_control(header: &libc::msghdr) -> Notes {
    let mut notes = Notes::default();
    // SAFETY: the kernel filled `msg_control` up to `msg_controllen`; the CMSG macros stay inside,
    // and each value is read unaligned, with the size its kind has.
    unsafe {
        let mut at = libc::CMSG_FIRSTHDR(header);
        while let Some(message) = at.as_ref() {
            let data = libc::CMSG_DATA(at);
            match (message.cmsg_level, message.cmsg_type) {
                (libc::IPPROTO_IP, libc::IP_TOS) => notes.tos = data.read(),
                (libc::IPPROTO_IPV6, libc::IPV6_TCLASS) => {
                    notes.tos = data.cast::<libc::c_int>().read_unaligned() as u8;
                }
                (libc::SOL_UDP, libc::UDP_GRO) => {
                    let size = data.cast::<libc::c_int>().read_unaligned();
                    notes.segment = usize::try_from(size).ok();
                }
                (libc::SOL_SOCKET, libc::SO_RXQ_OVFL) => {
                    notes.drops = Some(data.cast::<u32>().read_unaligned());
                }
                _ => {}
            }
            at = libc::CMSG_NXTHDR(header, at);
        }
    }
    notes
}

/// Writes the control messages a send needs; returns how many bytes of `space` they take.
fn write_control(space: &mut Control, v6: bool, tos: u8, segment: Option<u16>) -> usize {
    let mut used = 0;
    let mut push = |level, kind, value: &[u8]| {
        // SAFETY: CMSG_SPACE and CMSG_LEN only compute; CMSG_DATA of the header written at `used`
        // lies inside `space`, which has room for both messages (2 × 24 bytes of 128).
        unsafe {
            let at = space.0.as_mut_ptr().add(used).cast::<libc::cmsghdr>();
            let mut header: libc::cmsghdr = zeroed();
            header.cmsg_level = level;
            header.cmsg_type = kind;
            header.cmsg_len = libc::CMSG_LEN(value.len() as u32) as _;
            at.write(header);
            std::ptr::copy_nonoverlapping(value.as_ptr(), libc::CMSG_DATA(at), value.len());
            used += libc::CMSG_SPACE(value.len() as u32) as usize;
        }
    };
    if tos != 0 {
        let value = libc::c_int::from(tos).to_ne_bytes();
        if v6 {
            push(libc::IPPROTO_IPV6, libc::IPV6_TCLASS, &value);
        } else {
            push(libc::IPPROTO_IP, libc::IP_TOS, &value);
        }
    }
    if let Some(segment) = segment {
        push(libc::SOL_UDP, libc::UDP_SEGMENT, &segment.to_ne_bytes());
    }
    used
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
mod tests {
    use super::*;
    use crate::daemon::poller::Poller;
    use crate::id::LinkId;

    const NOW: Instant = Instant::ZERO;

    fn pair(local: &str) -> (UdpSocket, UdpSocket) {
        (UdpSocket::bind(local.parse().unwrap()).unwrap(), {
            UdpSocket::bind(local.parse().unwrap()).unwrap()
        })
    }

    fn batch_of(to: SocketAddr, tos: u8, lengths: &[usize]) -> TxBatch {
        let mut batch = TxBatch::default();
        for (i, &length) in lengths.iter().enumerate() {
            let start = batch.slab.len();
            batch.slab.extend((0..length).map(|b| (i * 31 + b) as u8));
            batch.close_datagram(start, LinkId(0), to, tos);
        }
        batch
    }

    /// Receives until `count` datagrams came or nothing comes for a second.
    fn receive(socket: &mut UdpSocket, count: usize) -> Vec<(Vec<u8>, SocketAddr, u8)> {
        let poller = Poller::new().unwrap();
        poller.watch(socket.as_fd(), 0).unwrap();
        let mut batch = RecvBatch::default();
        let mut out = Vec::new();
        while out.len() < count {
            let mut ready = false;
            poller.wait(Some(Duration::from_secs(1)), |_| ready = true).unwrap();
            if !ready {
                break;
            }
            socket.recv(&mut batch).unwrap();
            for d in &batch.datagrams {
                out.push((batch.slab[d.range.clone()].to_vec(), d.from, d.ecn));
            }
        }
        out
    }

    fn round_trip(local: &str) {
        let (mut a, mut b) = pair(local);
        let lengths: Vec<usize> = [1000; 40].into_iter().chain([300, 77, 1200, 1200, 5]).collect();
        let batch = batch_of(b.local(), 0b1011_1010, &lengths);
        a.send(NOW, &batch);
        let got = receive(&mut b, lengths.len());
        let sent: Vec<Vec<u8>> = batch.datagrams().map(|(_, d)| d.to_vec()).collect();
        assert_eq!(got.iter().map(|g| g.0.clone()).collect::<Vec<_>>(), sent);
        assert!(got.iter().all(|g| g.1 == a.local() && g.2 == 0b10), "source and ECN came along");
        let stats = a.stats();
        assert_eq!(stats.sent, lengths.len() as u64);
        assert_eq!(stats.sent_bytes, lengths.iter().sum::<usize>() as u64);
        assert_eq!(stats.sent_messages, batch.runs.len() as u64, "one message a run");
        assert_eq!(b.stats().received, lengths.len() as u64);
        assert!(b.stats().received_messages <= stats.sent_messages, "runs came joined");
    }

    #[test]
    fn runs_come_back_as_the_datagrams_they_were_over_ipv4() {
        round_trip("127.0.0.1:0");
    }

    #[test]
    fn runs_come_back_as_the_datagrams_they_were_over_ipv6() {
        match UdpSocket::bind("[::1]:0".parse().unwrap()) {
            Ok(_) => round_trip("[::1]:0"),
            Err(error) => println!("skipped: no IPv6 loopback here ({error})"),
        }
    }

    #[test]
    fn a_destination_that_refuses_gso_is_spared_it_and_asked_again_later() {
        let (mut a, mut b) = pair("127.0.0.1:0");
        let to = b.local();
        let batch = batch_of(to, 0, &[800; 10]);
        let run = batch.runs[0].clone();
        let item = Item { to, tos: 0, range: run.range.clone(), segment: Some(800) };
        a.refused(NOW, &batch.slab, &item, &io::Error::from_raw_os_error(libc::EIO));
        assert_eq!(a.stats().sent_messages, 10, "what was refused went one by one");
        a.send(NOW.plus(Duration::from_secs(1)), &batch);
        assert_eq!(a.stats().sent_messages, 20, "still spared");
        a.send(NOW.plus(GSO_RETRY), &batch);
        assert_eq!(a.stats().sent_messages, 21, "asked again, as one run");
        assert_eq!((a.stats().gso_refused, a.stats().sent), (1, 30));
        assert_eq!(receive(&mut b, 30).len(), 30);
    }

    #[test]
    fn what_cannot_be_sent_is_counted_and_the_rest_goes() {
        let (mut a, mut b) = pair("127.0.0.1:0");
        let mut batch = batch_of(b.local(), 0, &[100]);
        // No datagram is that long.
        let start = batch.slab.len();
        batch.slab.resize(start + 66_000, 0);
        batch.close_datagram(start, LinkId(1), b.local(), 0);
        // Port 0 is nobody's.
        let start = batch.slab.len();
        batch.slab.resize(start + 50, 0);
        batch.close_datagram(start, LinkId(2), "127.0.0.1:0".parse().unwrap(), 0);
        // Another family is another socket's business.
        let start = batch.slab.len();
        batch.slab.resize(start + 50, 0);
        batch.close_datagram(start, LinkId(3), "[::1]:9".parse().unwrap(), 0);
        let start = batch.slab.len();
        batch.slab.resize(start + 60, 0);
        batch.close_datagram(start, LinkId(4), b.local(), 0);
        a.send(NOW, &batch);
        let stats = a.stats();
        assert_eq!((stats.sent, stats.too_big, stats.unreachable), (2, 1, 1));
        assert_eq!(receive(&mut b, 2).len(), 2);
    }

    #[test]
    fn drops_of_the_local_kernel_are_told_apart() {
        let (mut a, mut b) = pair("127.0.0.1:0");
        // A buffer too small for what follows.
        set(b.as_fd(), libc::SOL_SOCKET, libc::SO_RCVBUF, 4096).unwrap();
        let batch = batch_of(b.local(), 0, &[1200; 64]);
        a.send_one(NOW, b.local(), 0, &[1; 100]);
        for _ in 0..20 {
            a.send(NOW, &batch);
        }
        let first = receive(&mut b, usize::MAX).len();
        // The count rides on the next datagram that comes through.
        a.send_one(NOW, b.local(), 0, &[2; 100]);
        receive(&mut b, 1);
        let drops = b.stats().kernel_drops;
        assert!(drops > 0, "{first} received, none known as dropped");
    }

    #[test]
    fn buffers_are_large_where_the_system_allows() {
        let (a, _) = pair("127.0.0.1:0");
        let buffers = a.buffers();
        assert!(buffers.receive > 0 && buffers.send > 0, "{buffers:?}");
    }
}
