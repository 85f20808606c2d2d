//! Batches of bytes: what drivers and the [`Forwarder`](crate::forward::Forwarder) hand each other.
//!
//! A batch is a list of pieces of [`Blocks`], so that whoever takes a packet out of it keeps it
//! without a copy. Per-packet doors cost 5 µs a packet where batches cost 0.2; they are the contract.

mod blocks;

use std::net::SocketAddr;
use std::ops::Range;

use bytes::{Bytes, BytesMut};

pub use blocks::Blocks;

use crate::id::LinkId;

/// What the virtio header of a TUN packet says about work left undone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Offload {
    /// A complete packet.
    #[default]
    None,
    /// The transport checksum holds only the pseudo header's sum: someone has to add the rest.
    Checksum {
        /// Offset in the packet where summing starts (the transport header).
        start: u16,
        /// Offset from `start` where the sum is written.
        offset: u16,
    },
    /// A super-segment: many packets of one flow under one header; its checksum is partial too.
    Segments {
        /// Which protocol's rules split it.
        kind: Segmentation,
        /// Bytes of network and transport header before the payload.
        header: u16,
        /// Payload bytes in each packet but the last.
        size: u16,
    },
}

/// The protocol of a super-segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Segmentation {
    /// TCP over IPv4.
    Tcp4,
    /// TCP over IPv6.
    Tcp6,
    /// UDP over either (USO).
    Udp,
}

/// One IP packet or super-segment in a [`TunBatch`].
#[derive(Debug)]
pub struct TunPacket {
    /// The IP packet, without virtio header.
    pub bytes: BytesMut,
    /// What is still to be done to it.
    pub offload: Offload,
}

/// IP packets read from the TUN device.
#[derive(Debug, Default)]
pub struct TunBatch {
    /// The packets in their order.
    pub packets: Vec<TunPacket>,
    /// Blocks that whoever fills the batch reads into, kept for the next time.
    pub slots: Vec<BytesMut>,
}

impl TunBatch {
    /// Forgets the packets.
    pub fn clear(&mut self) {
        self.packets.clear();
    }

    /// Appends a copy of one packet.
    pub fn push(&mut self, packet: &[u8], offload: Offload) {
        self.packets.push(TunPacket { bytes: BytesMut::from(packet), offload });
    }
}

/// IP packets to be written to the TUN device.
///
/// A super-segment lies in several places: its first packet whole, of the others their payloads.
#[derive(Debug, Default)]
pub struct TunWrites {
    /// The pieces of all packets.
    pub pieces: Vec<BytesMut>,
    /// Each packet's pieces, by place, and what is still to be done to it.
    pub packets: Vec<(Range<usize>, Offload)>,
}

impl TunWrites {
    /// Forgets the packets, keeps the memory of the lists.
    pub fn clear(&mut self) {
        self.pieces.clear();
        self.packets.clear();
    }

    /// Each packet's pieces.
    pub fn iter(&self) -> impl Iterator<Item = (&[BytesMut], Offload)> {
        self.packets.iter().map(|(range, offload)| (&self.pieces[range.clone()], *offload))
    }

    /// Each packet in one piece: for those who are not in a hurry.
    pub fn whole(&self) -> impl Iterator<Item = (Vec<u8>, Offload)> {
        self.iter().map(|(pieces, offload)| (pieces.concat(), offload))
    }
}

/// One received datagram in a [`RecvBatch`], after the driver split what GRO had joined.
#[derive(Debug)]
pub struct Datagram {
    /// Its UDP payload.
    pub bytes: BytesMut,
    /// The underlay endpoint it came from.
    pub from: SocketAddr,
    /// The TOS or traffic class of its outer header: DSCP and ECN.
    pub tos: u8,
}

/// Datagrams received from the underlay. Frames are opened where they lie.
#[derive(Debug, Default)]
pub struct RecvBatch {
    /// The datagrams in their order.
    pub datagrams: Vec<Datagram>,
    /// Datagrams the local kernel dropped since the last batch: not the link's loss.
    pub local_drops: u64,
    /// Blocks that whoever fills the batch receives into, kept for the next time.
    pub slots: Vec<BytesMut>,
}

impl RecvBatch {
    /// Forgets the datagrams.
    pub fn clear(&mut self) {
        self.datagrams.clear();
        self.local_drops = 0;
    }

    /// Appends a copy of one datagram.
    pub fn push(&mut self, payload: &[u8], from: SocketAddr, tos: u8) {
        self.datagrams.push(Datagram { bytes: BytesMut::from(payload), from, tos });
    }
}

/// Equal datagrams for one endpoint, sent in one call. Only the last may be shorter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// The link they are sent on.
    pub link: LinkId,
    /// The underlay endpoint they go to.
    pub to: SocketAddr,
    /// The outer TOS or traffic class: DSCP and ECN.
    pub tos: u8,
    /// Bytes in each datagram but the last.
    pub segment: usize,
    /// Bytes of them all.
    pub bytes: usize,
    /// Which of the batch's datagrams they are.
    pub range: Range<usize>,
}

/// Datagrams to be sent, already in the shape of GSO calls.
#[derive(Debug, Default)]
pub struct TxBatch {
    /// The datagrams of all runs. Those that follow each other mostly do so in memory.
    pub datagrams: Vec<Bytes>,
    /// The runs in their order.
    pub runs: Vec<Run>,
    bytes: usize,
}

impl TxBatch {
    /// Most datagrams in a run: the kernel refuses more than 64 (`UDP_MAX_SEGMENTS` before 6.9).
    pub const RUN_SEGMENTS: usize = 64;
    /// Most bytes in a run: what one IPv4 UDP datagram may carry before segmentation.
    pub const RUN_BYTES: usize = 65_000;

    /// Forgets the datagrams, keeps the memory of the lists.
    pub fn clear(&mut self) {
        self.datagrams.clear();
        self.runs.clear();
        self.bytes = 0;
    }

    /// Bytes of all datagrams.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The single datagrams of all runs, in order.
    pub fn datagrams(&self) -> impl Iterator<Item = (&Run, &[u8])> {
        self.runs
            .iter()
            .flat_map(|run| self.datagrams[run.range.clone()].iter().map(move |d| (run, &d[..])))
    }

    /// Appends a datagram: it joins the last run where link, endpoint, TOS and size allow, else it
    /// opens a new one.
    pub fn push(&mut self, link: LinkId, to: SocketAddr, tos: u8, datagram: Bytes) {
        let (at, len) = (self.datagrams.len(), datagram.len());
        self.bytes += len;
        self.datagrams.push(datagram);
        if let Some(run) = self.runs.last_mut() {
            let whole = run.bytes == run.segment * run.range.len();
            if whole
                && len <= run.segment
                && len > 0
                && (run.link, run.to, run.tos) == (link, to, tos)
                && run.range.len() < Self::RUN_SEGMENTS
                && run.bytes + len <= Self::RUN_BYTES
            {
                run.range.end = at + 1;
                run.bytes += len;
                return;
            }
        }
        self.runs.push(Run { link, to, tos, segment: len.max(1), bytes: len, range: at..at + 1 });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn send(batch: &mut TxBatch, link: u16, len: usize) {
        let datagram = Bytes::from(vec![0; len]);
        batch.push(LinkId(link), "192.0.2.1:4600".parse().unwrap(), 0, datagram);
    }

    #[test]
    fn equal_datagrams_join_a_run_and_a_short_one_ends_it() {
        let mut batch = TxBatch::default();
        for len in [100, 100, 60, 100] {
            send(&mut batch, 0, len);
        }
        send(&mut batch, 1, 100);
        let shape: Vec<_> = batch.runs.iter().map(|r| (r.link.0, r.segment, r.bytes)).collect();
        assert_eq!(shape, [(0, 100, 260), (0, 100, 100), (1, 100, 100)]);
        let sizes: Vec<_> = batch.datagrams().map(|(_, d)| d.len()).collect();
        assert_eq!(sizes, [100, 100, 60, 100, 100]);
    }

    #[test]
    fn a_run_never_exceeds_what_one_call_may_carry() {
        let mut batch = TxBatch::default();
        for _ in 0..200 {
            send(&mut batch, 0, 1400);
        }
        assert!(batch.runs.iter().all(|r| r.bytes <= TxBatch::RUN_BYTES));
        assert!(batch.runs.iter().all(|r| r.range.len() <= TxBatch::RUN_SEGMENTS));
        assert_eq!(batch.datagrams().count(), 200);
    }
}
