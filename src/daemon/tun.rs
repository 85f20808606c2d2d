//! The TUN device: whole super-segments in and out, by the virtio header.
//!
//! The kernel hands over up to 64 KiB of one TCP or UDP flow under one header, with the checksum
//! left undone, and takes the same; each call then carries dozens of packets. They are read straight
//! into the blocks they stay in, and written from wherever they lie. Linux `Documentation/networking/tuntap.rst`, virtio 1.2 §5.1.6.
//!
//! The virtio header before each packet, in the machine's byte order:
//!
//! | 0: flags | 1: gso type | 2: header length | 4: gso size | 6: checksum start | 8: offset |

#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use bytes::Buf as _;

use super::poller::check;
use super::steer;
use crate::buf::{Blocks, Offload, Segmentation, TunBatch, TunPacket, TunWrites};

/// What a device did and could not do, in packets as read or written: a super-segment is one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TunStats {
    /// Read from the device.
    pub read: u64,
    /// Their bytes, without virtio headers.
    pub read_bytes: u64,
    /// Written to the device.
    pub written: u64,
    /// Their bytes, without virtio headers.
    pub written_bytes: u64,
    /// Read, but with a virtio header that makes no sense.
    pub malformed: u64,
    /// Not written: the kernel had no room for it.
    pub blocked: u64,
    /// Not written: the kernel did not like it, or the device is down.
    pub refused: u64,
    /// Not written: there was no device.
    pub absent: u64,
    /// Times a device took the place of one that had vanished.
    pub reopened: u64,
    /// Read, dropped for want of memory: all that we may use is held by other packets.
    pub no_memory: u64,
}

impl TunStats {
    /// The figures of two devices together.
    pub const fn plus(self, other: Self) -> Self {
        Self {
            read: self.read + other.read,
            read_bytes: self.read_bytes + other.read_bytes,
            written: self.written + other.written,
            written_bytes: self.written_bytes + other.written_bytes,
            malformed: self.malformed + other.malformed,
            blocked: self.blocked + other.blocked,
            refused: self.refused + other.refused,
            absent: self.absent + other.absent,
            reopened: self.reopened + other.reopened,
            no_memory: self.no_memory + other.no_memory,
        }
    }
}

/// A queue of a TUN device, mostly its only one. Closing the last removes the device.
#[derive(Debug)]
pub struct Tun {
    fd: OwnedFd,
    name: String,
    udp_segments: bool,
    /// Where the small pieces of a packet are put together.
    joined: Vec<u8>,
    stats: TunStats,
}

const HEADER: usize = 10;
/// Room for one read: the header and the largest IP packet.
const READ_BYTES: usize = HEADER + 65_535;
/// Bytes of a batch, about: four super-segments or a crowd of small packets.
const BATCH_BYTES: usize = 4 * READ_BYTES;
/// Pieces of less than this on average are put together before they are written: each costs the
/// kernel more than the copy.
const SMALL_PIECE: usize = 256;
/// Reads per batch: single packets cost a microsecond each, and the UDP side must not starve.
const READS: usize = 64;

const NEEDS_CSUM: u8 = 1;
const GSO_NONE: u8 = 0;
const GSO_TCP4: u8 = 1;
const GSO_TCP6: u8 = 4;
/// UDP segmentation (USO), not the older UFO.
const GSO_UDP: u8 = 5;
/// Beside a TCP type: the first segment alone carries CWR.
const GSO_ECN: u8 = 0x80;

impl Tun {
    /// Makes a TUN device of this name (`%d` in it becomes the first free number).
    ///
    /// # Errors
    /// No `/dev/net/tun`, no privilege (CAP_NET_ADMIN), the name is taken or too long.
    pub fn open(name: &str) -> io::Result<Self> {
        Self::attach(name, 0)
    }

    /// Makes a TUN device with so many queues, each flow in one of them: the one that its addresses
    /// and ports say. Where the system does not let us say that, there is one queue.
    ///
    /// # Errors
    /// As [`Tun::open`].
    pub fn open_queues(name: &str, count: u8) -> io::Result<Vec<Self>> {
        if count > 1 {
            let first = Self::attach(name, libc::IFF_MULTI_QUEUE)?;
            match steer::queues(first.as_fd()) {
                Ok(()) => {
                    let name = first.name.clone();
                    let beside = (1..count).map(|_| Self::attach(&name, libc::IFF_MULTI_QUEUE));
                    return std::iter::once(Ok(first)).chain(beside).collect();
                }
                Err(error) => tracing::warn!(
                    %error, wanted = count,
                    "this system does not let us say which queue a packet takes; there is one lane"
                ),
            }
        }
        Ok(vec![Self::open(name)?])
    }

    /// Opens a queue of a device, and the device with the first.
    fn attach(name: &str, more: libc::c_int) -> io::Result<Self> {
        if name.len() >= libc::IFNAMSIZ || name.bytes().any(|b| b == 0 || b == b'/' || b == b' ') {
            let text = format!("{name:?} cannot name a network device (at most 15 characters)");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        // SAFETY: a constant C string; the result is checked before it becomes owned.
        let fd = check(unsafe {
            libc::open(c"/dev/net/tun".as_ptr(), libc::O_RDWR | libc::O_NONBLOCK | libc::O_CLOEXEC)
        })?;
        // SAFETY: a fresh descriptor that nothing else owns.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        // SAFETY: all-zero is a valid value of this plain C structure.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
            *to = from as libc::c_char;
        }
        request.ifr_ifru.ifru_flags =
            (libc::IFF_TUN | libc::IFF_NO_PI | libc::IFF_VNET_HDR | more) as libc::c_short;
        // SAFETY: TUNSETIFF reads and writes an ifreq, which lives through the call.
        check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNSETIFF, &raw mut request) })?;
        let name: Vec<u8> =
            request.ifr_name.iter().map(|&c| c as u8).take_while(|&c| c != 0).collect();
        let name = String::from_utf8_lossy(&name).into_owned();

        let base = libc::TUN_F_CSUM | libc::TUN_F_TSO4 | libc::TUN_F_TSO6;
        let offload = |flags: libc::c_uint| {
            // SAFETY: TUNSETOFFLOAD takes its flags by value.
            check(unsafe {
                libc::ioctl(fd.as_raw_fd(), libc::TUNSETOFFLOAD, libc::c_ulong::from(flags))
            })
        };
        // USO came with Linux 6.2.
        let udp_segments = offload(base | libc::TUN_F_USO4 | libc::TUN_F_USO6).is_ok();
        if !udp_segments {
            offload(base)?;
        }
        Ok(Self { fd, name, udp_segments, joined: Vec::new(), stats: TunStats::default() })
    }

    /// The device's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether UDP super-segments may be written (and will be read).
    pub fn takes_udp_segments(&self) -> bool {
        self.udp_segments
    }

    /// What happened so far.
    pub fn stats(&self) -> TunStats {
        self.stats
    }

    /// Reads what waits, at most a few hundred KiB; replaces what the batch held. Returns whether
    /// more may be waiting.
    ///
    /// # Errors
    /// The device is gone. Nothing waiting is not an error.
    pub fn recv(&mut self, blocks: &mut Blocks, batch: &mut TunBatch) -> io::Result<bool> {
        batch.clear();
        // What the last call cut up is mostly free again, and still in the cache.
        batch.slots.iter_mut().for_each(|slot| blocks.renew(slot));
        let (mut bytes, mut at) = (0, 0);
        for _ in 0..READS {
            if bytes >= BATCH_BYTES {
                return Ok(true);
            }
            if batch.slots.len() <= at {
                batch.slots.push(blocks.take_anyway());
            }
            let slot = &mut batch.slots[at];
            let room = slot.spare_capacity_mut();
            // SAFETY: `room` is writable for READ_BYTES, which is what is given.
            let n =
                unsafe { libc::read(self.fd.as_raw_fd(), room.as_mut_ptr().cast(), READ_BYTES) };
            let Ok(n) = usize::try_from(n) else {
                let error = io::Error::last_os_error();
                match error.kind() {
                    io::ErrorKind::WouldBlock => return Ok(false),
                    io::ErrorKind::Interrupted => continue,
                    _ if !is_gone(&error) => {
                        // A packet the kernel could not hand over, and has dropped.
                        self.stats.malformed += 1;
                        continue;
                    }
                    _ => return Err(error),
                }
            };
            // SAFETY: the kernel has written `n` bytes into it, and it has room for them.
            unsafe { slot.set_len(n) };
            let decoded = slot.split_first_chunk::<HEADER>().and_then(|(header, packet)| {
                let offload = decode(*header, packet)?;
                Some((offload, packet.len()))
            });
            let Some((offload, length)) = decoded else {
                slot.clear();
                self.stats.malformed += 1;
                continue;
            };
            self.stats.read += 1;
            self.stats.read_bytes += length as u64;
            let packet = if n < Blocks::SMALL {
                blocks.keep(&slot[HEADER..])
            } else {
                (!blocks.is_spent()).then(|| {
                    at += 1;
                    slot.advance(HEADER);
                    slot.split()
                })
            };
            slot.clear();
            match packet {
                Some(bytes) => batch.packets.push(TunPacket { bytes, offload }),
                None => self.stats.no_memory += 1,
            }
            bytes += n;
        }
        Ok(true)
    }

    /// Writes every packet of the batch. What the kernel refuses is counted and forgotten.
    ///
    /// # Errors
    /// The device is gone.
    pub fn send(&mut self, batch: &TunWrites) -> io::Result<()> {
        let mut vectors = Vec::new();
        for (pieces, offload) in batch.iter() {
            let Some(header) = pieces.first().and_then(|first| encode(first, offload)) else {
                self.stats.refused += 1;
                continue;
            };
            let length: usize = pieces.iter().map(|piece| piece.len()).sum();
            let vector = |bytes: &[u8]| libc::iovec {
                iov_base: bytes.as_ptr().cast_mut().cast(),
                iov_len: bytes.len(),
            };
            vectors.clear();
            vectors.push(vector(&header));
            if pieces.len() > 1 && length < pieces.len() * SMALL_PIECE {
                self.joined.clear();
                pieces.iter().for_each(|piece| self.joined.extend_from_slice(piece));
                vectors.push(vector(&self.joined));
            } else {
                vectors.extend(pieces.iter().map(|piece| vector(piece)));
            }
            let written = loop {
                // SAFETY: all vectors point at memory that outlives the call; writing reads only.
                let n = unsafe {
                    let count = vectors.len() as libc::c_int;
                    libc::writev(self.fd.as_raw_fd(), vectors.as_ptr(), count)
                };
                if n >= 0 {
                    break Ok(());
                }
                let error = io::Error::last_os_error();
                if error.kind() != io::ErrorKind::Interrupted {
                    break Err(error);
                }
            };
            match written {
                Ok(()) => {
                    self.stats.written += 1;
                    self.stats.written_bytes += length as u64;
                }
                Err(error) => match error.raw_os_error() {
                    _ if is_gone(&error) => return Err(error),
                    Some(libc::EAGAIN | libc::ENOBUFS | libc::ENOMEM) => self.stats.blocked += 1,
                    _ => {
                        tracing::trace!(%error, len = length, ?offload, "not written");
                        self.stats.refused += 1;
                    }
                },
            }
        }
        Ok(())
    }
}

impl AsFd for Tun {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Whether the device is detached for good: nothing will ever be taken or given again.
fn is_gone(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EBADFD | libc::EBADF | libc::ENODEV))
}

/// What a virtio header says of the packet after it; `None` where the two do not fit.
///
/// The header length the kernel gives is only a hint, so it is computed from the packet.
fn decode(header: [u8; HEADER], packet: &[u8]) -> Option<Offload> {
    let field = |at: usize| u16::from_ne_bytes([header[at], header[at + 1]]);
    let (flags, kind) = (header[0], header[1] & !GSO_ECN);
    let (size, start, offset) = (field(4), field(6), field(8));
    let partial = flags & NEEDS_CSUM != 0;
    if packet.is_empty() {
        return None;
    }
    if kind == GSO_NONE {
        if !partial {
            return Some(Offload::None);
        }
        let end = usize::from(start) + usize::from(offset) + 2;
        return (end <= packet.len()).then_some(Offload::Checksum { start, offset });
    }
    let (kind, header) = match kind {
        GSO_TCP4 | GSO_TCP6 => {
            let words = packet.get(usize::from(start) + 12)? >> 4;
            let kind = if kind == GSO_TCP4 { Segmentation::Tcp4 } else { Segmentation::Tcp6 };
            (kind, start.checked_add(u16::from(words) * 4)?)
        }
        GSO_UDP => (Segmentation::Udp, start.checked_add(8)?),
        _ => return None,
    };
    let fits = partial && size > 0 && usize::from(header) <= packet.len();
    fits.then_some(Offload::Segments { kind, header, size })
}

/// The virtio header for a packet; `None` where packet and offload do not fit.
fn encode(packet: &[u8], offload: Offload) -> Option<[u8; HEADER]> {
    let mut out = [0; HEADER];
    let mut field = |at: usize, value: u16| out[at..at + 2].copy_from_slice(&value.to_ne_bytes());
    let (flags, kind) = match offload {
        Offload::None => (0, GSO_NONE),
        Offload::Checksum { start, offset } => {
            field(6, start);
            field(8, offset);
            (NEEDS_CSUM, GSO_NONE)
        }
        Offload::Segments { kind, header, size } => {
            let start = transport(packet)?;
            if start > header || size == 0 {
                return None;
            }
            let (gso, offset) = match kind {
                Segmentation::Tcp4 => (GSO_TCP4, 16),
                Segmentation::Tcp6 => (GSO_TCP6, 16),
                Segmentation::Udp => (GSO_UDP, 6),
            };
            field(2, header);
            field(4, size);
            field(6, start);
            field(8, offset);
            (NEEDS_CSUM, gso)
        }
    };
    out[0] = flags;
    out[1] = kind;
    Some(out)
}

/// Where the transport header of an IP packet starts.
fn transport(packet: &[u8]) -> Option<u16> {
    match packet.first()? >> 4 {
        4 => Some(u16::from(packet[0] & 15) * 4),
        6 => {
            let (mut next, mut at) = (*packet.get(6)?, 40usize);
            // Hop-by-hop, routing, destination options: eight-byte units after the first.
            while matches!(next, 0 | 43 | 60) {
                next = *packet.get(at)?;
                at += 8 * (1 + usize::from(*packet.get(at + 1)?));
            }
            u16::try_from(at).ok()
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::daemon::namespace::{ip, isolated};
    use crate::daemon::poller::{Nudge, Poller};
    use std::io::{Read, Write};
    use std::net::{IpAddr, TcpListener, TcpStream, UdpSocket};
    use std::time::Duration;

    fn tcp4(payload: usize) -> Vec<u8> {
        let mut packet = vec![0; 20 + 32 + payload];
        packet[0] = 0x45;
        packet[9] = 6;
        packet[20 + 12] = 8 << 4;
        packet
    }

    #[test]
    fn virtio_headers_come_back_as_they_went() {
        let packet = tcp4(5000);
        let mut v6 = vec![0; 40 + 8 + 8 + 100];
        v6[0] = 0x60;
        v6[6] = 60;
        v6[40] = 17;
        for (packet, offload) in [
            (&packet, Offload::None),
            (&packet, Offload::Checksum { start: 20, offset: 16 }),
            (&packet, Offload::Segments { kind: Segmentation::Tcp4, header: 52, size: 1288 }),
            (&v6, Offload::Segments { kind: Segmentation::Udp, header: 56, size: 40 }),
        ] {
            let header = encode(packet, offload).unwrap();
            assert_eq!(decode(header, packet), Some(offload));
        }
    }

    #[test]
    fn headers_that_point_outside_the_packet_are_refused() {
        let whole = Offload::Segments { kind: Segmentation::Tcp4, header: 52, size: 1000 };
        let header = encode(&tcp4(3000), whole).unwrap();
        assert_eq!(decode(header, &tcp4(3000)[..30]), None);
        assert_eq!(decode(header, &tcp4(3000)[..45]), None);
        let mut no_size = header;
        no_size[4..6].copy_from_slice(&[0, 0]);
        assert_eq!(decode(no_size, &tcp4(3000)), None);
        let checksum = encode(&tcp4(0), Offload::Checksum { start: 20, offset: 60 }).unwrap();
        assert_eq!(decode(checksum, &tcp4(0)), None);
        assert_eq!(encode(&[], whole), None);
        assert_eq!(encode(&[0x60, 0, 0], whole), None);
        assert_eq!(decode([0; HEADER], &[]), None);
    }

    #[test]
    fn a_name_the_kernel_cannot_take_is_refused_before_it_is_asked() {
        let error = Tun::open("a-name-longer-than-fifteen").unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
    }

    /// Exchanges source and destination of every packet: what leaves for the one address of the
    /// device's net comes back as if from there. A partial checksum stays right.
    fn mirror(batch: &mut TunBatch) -> TunWrites {
        let mut out = TunWrites::default();
        for TunPacket { mut bytes, offload } in batch.packets.drain(..) {
            if bytes[0] >> 4 == 4 {
                let (a, b) = bytes[12..20].split_at_mut(4);
                a.swap_with_slice(b);
            } else {
                let (a, b) = bytes[8..40].split_at_mut(16);
                a.swap_with_slice(b);
            }
            let at = out.pieces.len();
            out.pieces.push(bytes);
            out.packets.push((at..at + 1, offload));
        }
        out
    }

    /// Runs `client` in a fresh namespace whose TUN device mirrors packets; returns what offloads
    /// were seen and the device's figures.
    fn beside_a_mirror(client: fn()) -> Option<(Vec<Offload>, TunStats)> {
        isolated(move || {
            let mut tun = Tun::open("mirror%d").unwrap();
            assert_eq!(tun.name(), "mirror0");
            ip("addr add 10.9.0.1/24 dev mirror0");
            ip("addr add fd09::1/64 dev mirror0 nodad");
            ip("link set mirror0 up");
            ip("link set lo up");
            struct Done(Nudge);
            impl Drop for Done {
                fn drop(&mut self) {
                    self.0.give();
                }
            }
            let done = Nudge::new().unwrap();
            let poller = Poller::new().unwrap();
            poller.watch(tun.as_fd(), 0).unwrap();
            poller.watch(done.as_fd(), 1).unwrap();
            let done = Done(done.clone());
            let worker = std::thread::spawn(move || {
                let _done = done;
                client();
            });
            let (mut blocks, mut batch) = (Blocks::new(64), TunBatch::default());
            let mut seen = Vec::new();
            let mut open = true;
            while open {
                poller.wait(Some(Duration::from_secs(10)), |token| open &= token != 1).unwrap();
                tun.recv(&mut blocks, &mut batch).unwrap();
                let out = mirror(&mut batch);
                tun.send(&out).unwrap();
                for (_, offload) in &out.packets {
                    if !seen.contains(offload) {
                        seen.push(*offload);
                    }
                }
            }
            assert!(worker.join().is_ok(), "{seen:?} {:?}", tun.stats());
            (seen, tun.stats())
        })
    }

    fn bulk_tcp(there: IpAddr) {
        let listener = TcpListener::bind(("::", 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let client = std::thread::spawn(move || {
            let mut stream = TcpStream::connect((there, port)).unwrap();
            let block: Vec<u8> = (0..1 << 20).map(|i| (i % 251) as u8).collect();
            for _ in 0..8 {
                stream.write_all(&block).unwrap();
            }
        });
        let (mut stream, _) = listener.accept().unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let mut all = Vec::new();
        stream.read_to_end(&mut all).unwrap();
        client.join().unwrap();
        assert_eq!(all.len(), 8 << 20);
        assert!(all.iter().enumerate().all(|(i, &b)| b == ((i & 0xfffff) % 251) as u8));
    }

    #[test]
    fn tcp_crosses_the_device_as_super_segments_both_ways() {
        for (there, kind) in [("10.9.0.2", Segmentation::Tcp4), ("fd09::2", Segmentation::Tcp6)] {
            let client: fn() = match kind {
                Segmentation::Tcp4 => || bulk_tcp("10.9.0.2".parse().unwrap()),
                _ => || bulk_tcp("fd09::2".parse().unwrap()),
            };
            let Some((seen, stats)) = beside_a_mirror(client) else { return };
            let found =
                seen.iter().any(|o| matches!(o, Offload::Segments { kind: k, .. } if *k == kind));
            assert!(found, "no super-segment towards {there}: {seen:?}");
            assert_eq!((stats.refused, stats.blocked, stats.malformed), (0, 0, 0), "{stats:?}");
        }
    }

    #[test]
    fn udp_super_segments_cross_the_device_and_arrive_as_single_packets() {
        let client = || {
            use crate::buf::{RecvBatch, TxBatch};
            use crate::daemon::udp;
            let bind = || udp::UdpSocket::bind("10.9.0.1:0".parse().unwrap()).unwrap();
            let (mut a, mut b) = (bind(), bind());
            let to = ("10.9.0.2".parse::<IpAddr>().unwrap(), b.local().port()).into();
            let mut batch = TxBatch::default();
            for i in 0..30u8 {
                batch.push(crate::id::LinkId(0), to, 0, vec![i; 900].into());
            }
            a.send(crate::time::Instant::ZERO, &batch);
            let poller = Poller::new().unwrap();
            poller.watch(b.as_fd(), 0).unwrap();
            let (mut got, mut inbox) = (Vec::new(), RecvBatch::default());
            let mut blocks = Blocks::new(64);
            while got.len() < 30 {
                let mut ready = false;
                poller.wait(Some(Duration::from_secs(5)), |_| ready = true).unwrap();
                assert!(ready, "only {} came", got.len());
                b.recv(&mut blocks, &mut inbox).unwrap();
                for d in &inbox.datagrams {
                    assert_eq!(d.bytes.len(), 900);
                    assert_eq!(d.from.ip(), "10.9.0.2".parse::<IpAddr>().unwrap());
                    got.push(d.bytes[0]);
                }
            }
            assert_eq!(got, (0..30).collect::<Vec<u8>>());
        };
        let Some((seen, stats)) = beside_a_mirror(client) else { return };
        assert_eq!((stats.refused, stats.blocked, stats.malformed), (0, 0, 0), "{stats:?}");
        let found =
            seen.contains(&Offload::Segments { kind: Segmentation::Udp, header: 28, size: 900 });
        assert!(found, "no super-segment: {seen:?}");
    }

    #[test]
    fn a_small_packet_comes_with_its_checksum_left_to_do() {
        let client = || {
            let socket = UdpSocket::bind("10.9.0.1:0").unwrap();
            let port = socket.local_addr().unwrap().port();
            socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
            socket.send_to(b"ahoy", ("10.9.0.2", port)).unwrap();
            let mut bytes = [0; 16];
            let (n, from) = socket.recv_from(&mut bytes).unwrap();
            assert_eq!((&bytes[..n], from.ip().to_string().as_str()), (&b"ahoy"[..], "10.9.0.2"));
        };
        let Some((seen, _)) = beside_a_mirror(client) else { return };
        assert!(seen.contains(&Offload::Checksum { start: 20, offset: 6 }), "{seen:?}");
    }

    #[test]
    fn a_vanished_device_is_an_error_and_not_a_silence() {
        isolated(|| {
            let mut tun = Tun::open("gone%d").unwrap();
            ip("link set gone0 up");
            ip("link del gone0");
            let (mut blocks, mut batch) = (Blocks::new(1), TunBatch::default());
            assert!(tun.recv(&mut blocks, &mut batch).is_err());
            batch.push(&tcp4(10), Offload::None);
            assert!(tun.send(&mirror(&mut batch)).is_err());
        });
    }
}
