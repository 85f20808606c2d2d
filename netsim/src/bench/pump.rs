//! The ceiling: packets from a TUN device to a UDP socket and back, with every offload the daemon
//! uses and nothing else: no keys, no routes, no repair.
//!
//! What the kernel hands over, virtio header and super-segment, is cut into datagrams of one size,
//! whatever lies in it: checksums stay undone. They leave in GSO runs and come back by GRO, and each
//! is written as it was read. Small packets of one size share a run. Lost datagrams lose their whole
//! super-segment. Without a device the pump passes datagrams from one socket to the other: a relay.
//!
//! | 0: number of the super-segment 4 | 4: index 2 | 6: is it the last 1 | 7: nothing | 8: its piece

use std::fs::File;
use std::io::{self, IoSlice, Read as _, Write as _};
use std::net::SocketAddr;
use std::os::fd::AsFd as _;
use std::time::Duration;

use bytes::{Buf as _, BytesMut};
use thalweg::buf::{Blocks, RecvBatch, TxBatch};
use thalweg::daemon::poller::{Poller, step_forward};
use thalweg::daemon::tun::Tun;
use thalweg::daemon::udp::UdpSocket;
use thalweg::id::LinkId;
use thalweg::time::Instant;

/// A local address and the one it talks to.
pub type Pair = (SocketAddr, SocketAddr);

/// Runs until the process is ended: with a device between it and one pair, else between two pairs.
///
/// # Errors
/// No such device or address to be had, or one that broke.
pub fn run(tun: Option<&str>, pairs: &[Pair]) -> anyhow::Result<()> {
    if let Err(error) = step_forward() {
        eprintln!("pump: at ordinary priority: {error}");
    }
    match (tun, pairs) {
        (Some(name), &[(local, remote)]) => Ends::open(name, local, remote)?.run()?,
        (None, &[one, two]) => relay(one, two)?,
        _ => anyhow::bail!("a pump has a device and one pair of addresses, or two pairs"),
    }
    Ok(())
}

const HEADER: usize = 8;
/// Largest piece: a datagram then fills an underlay MTU of 1,500 bytes.
const PIECE: usize = 1500 - 28 - HEADER;
/// Virtio header and the largest IP packet.
const READ_BYTES: usize = 10 + 65_535;
/// Pieces of the largest, and one more for what an earlier batch left.
const PIECES: usize = READ_BYTES.div_ceil(PIECE) + 1;
/// Reads before sending: single packets, or this many bytes of super-segments.
const READS: usize = 64;
/// Blocks of memory for all that is under way.
const BLOCKS: usize = 256;
const READ_ENOUGH: usize = 128 << 10;

/// Between a device and a socket.
struct Ends {
    tun: File,
    socket: UdpSocket,
    remote: SocketAddr,
    buffer: Vec<u8>,
    out: TxBatch,
    blocks: Blocks,
    number: u32,
    joint: Joint,
    /// Keeps the device's offloads.
    _device: Tun,
}

/// A super-segment being put together.
#[derive(Default)]
struct Joint {
    number: u32,
    next: u16,
    /// What came of it.
    pieces: Vec<BytesMut>,
}

impl Ends {
    fn open(name: &str, local: SocketAddr, remote: SocketAddr) -> io::Result<Self> {
        let device = Tun::open(name)?;
        let tun = File::from(device.as_fd().try_clone_to_owned()?);
        Ok(Self {
            tun,
            socket: UdpSocket::bind(local)?,
            remote,
            buffer: vec![0; HEADER + READ_BYTES],
            out: TxBatch::default(),
            blocks: Blocks::new(BLOCKS),
            number: 0,
            joint: Joint::default(),
            _device: device,
        })
    }

    fn run(&mut self) -> io::Result<()> {
        let poller = Poller::new()?;
        poller.watch(self.tun.as_fd(), 0)?;
        poller.watch(self.socket.as_fd(), 1)?;
        let mut received = RecvBatch::default();
        loop {
            let mut ready = [false; 2];
            poller.wait(patience(&self.socket), |token| ready[token as usize] = true)?;
            self.socket.handle_writable(Instant::ZERO);
            if ready[1] {
                self.socket.recv(&mut self.blocks, &mut received)?;
                self.put_together(&mut received);
            }
            if ready[0] {
                self.take_apart()?;
                self.socket.send(Instant::ZERO, &self.out);
            }
        }
    }

    /// Reads the device; leaves datagrams in `out`.
    fn take_apart(&mut self) -> io::Result<()> {
        self.out.clear();
        for _ in 0..READS {
            let n = match self.tun.read(&mut self.buffer[HEADER..]) {
                Ok(n) => n,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                Err(e) => return Err(e),
            };
            self.number = self.number.wrapping_add(1);
            for start in (0..n).step_by(PIECE) {
                let end = n.min(start + PIECE) + HEADER;
                // Over the end of the piece before, which is copied already.
                let datagram = &mut self.buffer[start..end];
                datagram[..4].copy_from_slice(&self.number.to_ne_bytes());
                datagram[4..6].copy_from_slice(&((start / PIECE) as u16).to_ne_bytes());
                datagram[6..HEADER].copy_from_slice(&[u8::from(end == n + HEADER), 0]);
                // No memory for it: lost, as on any full queue.
                if let Some(datagram) = self.blocks.keep(datagram) {
                    self.out.push(LinkId(0), self.remote, 0, datagram.freeze());
                }
            }
            if self.out.bytes() >= READ_ENOUGH {
                break;
            }
        }
        Ok(())
    }

    /// Writes each super-segment that is whole, straight from where it was received.
    fn put_together(&mut self, received: &mut RecvBatch) {
        let joint = &mut self.joint;
        for mut datagram in received.datagrams.drain(..) {
            let Some((&[a, b, c, d, i, j, last, _], _)) =
                datagram.bytes.split_first_chunk::<HEADER>()
            else {
                continue;
            };
            let (number, index) = (u32::from_ne_bytes([a, b, c, d]), u16::from_ne_bytes([i, j]));
            if index == 0 {
                joint.restart(number);
            } else if (number, index) != (joint.number, joint.next) || joint.pieces.len() >= PIECES
            {
                continue;
            }
            joint.next = index + 1;
            datagram.bytes.advance(HEADER);
            joint.pieces.push(datagram.bytes);
            if last == 0 {
                continue;
            }
            let mut slices = [IoSlice::new(&[]); PIECES];
            for (slice, piece) in slices.iter_mut().zip(&joint.pieces) {
                *slice = IoSlice::new(piece);
            }
            // What the device does not take is lost, as on any full queue.
            let _ = self.tun.write_vectored(&slices[..joint.pieces.len()]);
            joint.restart(number.wrapping_add(1));
        }
    }
}

impl Joint {
    fn restart(&mut self, number: u32) {
        self.number = number;
        self.next = 0;
        self.pieces.clear();
    }
}

/// Passes whatever comes to one socket on from the other, in the runs it came in.
fn relay(one: Pair, two: Pair) -> io::Result<()> {
    let mut sockets = [UdpSocket::bind(one.0)?, UdpSocket::bind(two.0)?];
    let remotes = [one.1, two.1];
    let poller = Poller::new()?;
    for (socket, token) in sockets.iter().zip(0..) {
        poller.watch(socket.as_fd(), token)?;
    }
    let (mut received, mut out) = (RecvBatch::default(), TxBatch::default());
    let mut blocks = Blocks::new(BLOCKS);
    loop {
        let mut ready = [false; 2];
        let wait = patience(&sockets[0]).or(patience(&sockets[1]));
        poller.wait(wait, |token| ready[token as usize] = true)?;
        sockets.iter_mut().for_each(|s| s.handle_writable(Instant::ZERO));
        for side in (0..2).filter(|&side| ready[side]) {
            sockets[side].recv(&mut blocks, &mut received)?;
            for datagram in received.datagrams.drain(..) {
                out.push(LinkId(0), remotes[1 - side], 0, datagram.bytes.freeze());
            }
            sockets[1 - side].send(Instant::ZERO, &out);
            out.clear();
        }
    }
}

/// What a full send buffer refused waits in the socket, and is tried again soon.
fn patience(socket: &UdpSocket) -> Option<Duration> {
    socket.wants_room().then_some(Duration::from_micros(200))
}
