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
use std::ops::Range;
use std::os::fd::AsFd as _;

use thalweg::buf::{RecvBatch, Run, TxBatch};
use thalweg::daemon::poller::Poller;
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
const READ_ENOUGH: usize = 128 << 10;

/// Between a device and a socket.
struct Ends {
    tun: File,
    socket: UdpSocket,
    remote: SocketAddr,
    buffer: Vec<u8>,
    out: TxBatch,
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
    /// What earlier batches held of it.
    carried: Vec<u8>,
    /// What this batch holds of it.
    pieces: Vec<Range<usize>>,
}

impl Ends {
    fn open(name: &str, local: SocketAddr, remote: SocketAddr) -> io::Result<Self> {
        let device = Tun::open(name)?;
        let tun = File::from(device.as_fd().try_clone_to_owned()?);
        Ok(Self {
            tun,
            socket: UdpSocket::bind(local)?,
            remote,
            buffer: vec![0; READ_BYTES],
            out: TxBatch::default(),
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
            poller.wait(None, |token| ready[token as usize] = true)?;
            if ready[1] {
                self.socket.recv(&mut received)?;
                self.put_together(&received);
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
            let n = match self.tun.read(&mut self.buffer) {
                Ok(n) => n,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                Err(e) => return Err(e),
            };
            self.number = self.number.wrapping_add(1);
            let count = n.div_ceil(PIECE);
            for (index, piece) in self.buffer[..n].chunks(PIECE).enumerate() {
                let start = self.out.slab.len();
                self.out.slab.extend_from_slice(&self.number.to_ne_bytes());
                self.out.slab.extend_from_slice(&(index as u16).to_ne_bytes());
                self.out.slab.extend_from_slice(&[u8::from(index + 1 == count), 0]);
                self.out.slab.extend_from_slice(piece);
                self.out.close_datagram(start, LinkId(0), self.remote, 0);
            }
            if self.out.slab.len() >= READ_ENOUGH {
                break;
            }
        }
        Ok(())
    }

    /// Writes each super-segment that is whole, straight from where it was received.
    fn put_together(&mut self, received: &RecvBatch) {
        let joint = &mut self.joint;
        for datagram in &received.datagrams {
            let bytes = &received.slab[datagram.range.clone()];
            let Some((&[a, b, c, d, i, j, last, _], _)) = bytes.split_first_chunk::<HEADER>()
            else {
                continue;
            };
            let (number, index) = (u32::from_ne_bytes([a, b, c, d]), u16::from_ne_bytes([i, j]));
            if index == 0 {
                joint.restart(number);
            } else if (number, index) != (joint.number, joint.next)
                || joint.pieces.len() + 1 >= PIECES
            {
                continue;
            }
            joint.next = index + 1;
            joint.pieces.push(datagram.range.start + HEADER..datagram.range.end);
            if last == 0 {
                continue;
            }
            let mut slices = [IoSlice::new(&[]); PIECES];
            slices[0] = IoSlice::new(&joint.carried);
            for (slice, piece) in slices[1..].iter_mut().zip(&joint.pieces) {
                *slice = IoSlice::new(&received.slab[piece.clone()]);
            }
            // What the device does not take is lost, as on any full queue.
            let _ = self.tun.write_vectored(&slices[..=joint.pieces.len()]);
            joint.restart(number.wrapping_add(1));
        }
        for piece in joint.pieces.drain(..) {
            joint.carried.extend_from_slice(&received.slab[piece]);
        }
    }
}

impl Joint {
    fn restart(&mut self, number: u32) {
        self.number = number;
        self.next = 0;
        self.carried.clear();
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
    loop {
        let mut ready = [false; 2];
        poller.wait(None, |token| ready[token as usize] = true)?;
        for side in (0..2).filter(|&side| ready[side]) {
            sockets[side].recv(&mut received)?;
            out.runs.clear();
            for datagram in &received.datagrams {
                extend(&mut out.runs, datagram.range.clone(), remotes[1 - side]);
            }
            std::mem::swap(&mut out.slab, &mut received.slab);
            sockets[1 - side].send(Instant::ZERO, &out);
            std::mem::swap(&mut out.slab, &mut received.slab);
        }
    }
}

/// As [`TxBatch::close_datagram`], for bytes that lie there already.
fn extend(runs: &mut Vec<Run>, range: Range<usize>, to: SocketAddr) {
    if let Some(run) = runs.last_mut() {
        let held = run.range.len();
        if run.range.end == range.start
            && held % run.segment == 0
            && range.len() <= run.segment
            && held / run.segment < TxBatch::RUN_SEGMENTS
            && held + range.len() <= TxBatch::RUN_BYTES
        {
            run.range.end = range.end;
            return;
        }
    }
    runs.push(Run { link: LinkId(0), to, tos: 0, segment: range.len().max(1), range });
}
