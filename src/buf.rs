//! Batches of bytes: what drivers and the [`Forwarder`](crate::forward::Forwarder) hand each other.
//!
//! A batch is one allocation (the *slab*) and a list of ranges into it, reused turn after turn.
//! Per-packet doors cost 5 µs a packet where batches cost 0.2; they are the contract.

use std::net::SocketAddr;
use std::ops::Range;

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
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TunPacket {
    /// Where in the slab the IP packet lies, without virtio header.
    pub range: Range<usize>,
    /// What is still to be done to it.
    pub offload: Offload,
}

/// IP packets read from, or to be written to, the TUN device.
#[derive(Debug, Default)]
pub struct TunBatch {
    /// The bytes.
    pub slab: Vec<u8>,
    /// The packets in their order.
    pub packets: Vec<TunPacket>,
}

impl TunBatch {
    /// Forgets the packets, keeps the memory.
    pub fn clear(&mut self) {
        self.slab.clear();
        self.packets.clear();
    }

    /// Appends one packet.
    pub fn push(&mut self, packet: &[u8], offload: Offload) {
        let start = self.slab.len();
        self.slab.extend_from_slice(packet);
        self.packets.push(TunPacket { range: start..self.slab.len(), offload });
    }

    /// The packets with their bytes.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], Offload)> {
        self.packets.iter().map(|p| (&self.slab[p.range.clone()], p.offload))
    }
}

/// One received datagram in a [`RecvBatch`], after the driver split what GRO had joined.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Datagram {
    /// Where in the slab its UDP payload lies.
    pub range: Range<usize>,
    /// The underlay endpoint it came from.
    pub from: SocketAddr,
    /// The two ECN bits of its outer header.
    pub ecn: u8,
}

/// Datagrams received from the underlay. Frames are opened in place, so the slab is writable.
#[derive(Debug, Default)]
pub struct RecvBatch {
    /// The bytes.
    pub slab: Vec<u8>,
    /// The datagrams in their order.
    pub datagrams: Vec<Datagram>,
    /// Datagrams the local kernel dropped since the last batch: not the link's loss.
    pub local_drops: u64,
}

impl RecvBatch {
    /// Forgets the datagrams, keeps the memory.
    pub fn clear(&mut self) {
        self.slab.clear();
        self.datagrams.clear();
        self.local_drops = 0;
    }

    /// Appends one datagram.
    pub fn push(&mut self, payload: &[u8], from: SocketAddr, ecn: u8) {
        let start = self.slab.len();
        self.slab.extend_from_slice(payload);
        self.datagrams.push(Datagram { range: start..self.slab.len(), from, ecn });
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
    /// Where in the slab they lie, back to back.
    pub range: Range<usize>,
}

/// Datagrams to be sent, already in the shape of GSO calls.
#[derive(Debug, Default)]
pub struct TxBatch {
    /// The bytes.
    pub slab: Vec<u8>,
    /// The runs in their order.
    pub runs: Vec<Run>,
}

impl TxBatch {
    /// Most datagrams in a run: the kernel refuses more than 64 (`UDP_MAX_SEGMENTS` before 6.9).
    pub const RUN_SEGMENTS: usize = 64;
    /// Most bytes in a run: what one IPv4 UDP datagram may carry before segmentation.
    pub const RUN_BYTES: usize = 65_000;

    /// Forgets the runs, keeps the memory.
    pub fn clear(&mut self) {
        self.slab.clear();
        self.runs.clear();
    }

    /// The single datagrams of all runs, in order.
    pub fn datagrams(&self) -> impl Iterator<Item = (&Run, &[u8])> {
        self.runs.iter().flat_map(|run| {
            self.slab[run.range.clone()].chunks(run.segment.max(1)).map(move |d| (run, d))
        })
    }

    /// Accounts for a datagram that the caller has just written at the slab's end, from `start` on:
    /// it joins the last run where link, endpoint, TOS and size allow, else it opens a new one.
    pub fn close_datagram(&mut self, start: usize, link: LinkId, to: SocketAddr, tos: u8) {
        let len = self.slab.len() - start;
        if let Some(run) = self.runs.last_mut() {
            let held = run.range.end - run.range.start;
            let whole = held % run.segment == 0;
            if run.range.end == start
                && whole
                && len <= run.segment
                && (run.link, run.to, run.tos) == (link, to, tos)
                && held / run.segment < Self::RUN_SEGMENTS
                && held + len <= Self::RUN_BYTES
            {
                run.range.end = self.slab.len();
                return;
            }
        }
        self.runs.push(Run { link, to, tos, segment: len.max(1), range: start..self.slab.len() });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn send(batch: &mut TxBatch, link: u16, len: usize) {
        let start = batch.slab.len();
        batch.slab.resize(start + len, 0);
        batch.close_datagram(start, LinkId(link), "192.0.2.1:4600".parse().unwrap(), 0);
    }

    #[test]
    fn equal_datagrams_join_a_run_and_a_short_one_ends_it() {
        let mut batch = TxBatch::default();
        for len in [100, 100, 60, 100] {
            send(&mut batch, 0, len);
        }
        send(&mut batch, 1, 100);
        let shape: Vec<_> =
            batch.runs.iter().map(|r| (r.link.0, r.segment, r.range.len())).collect();
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
        assert!(batch.runs.iter().all(|r| r.range.len() <= TxBatch::RUN_BYTES));
        assert!(batch.runs.iter().all(|r| r.range.len() / r.segment <= TxBatch::RUN_SEGMENTS));
        assert_eq!(batch.datagrams().count(), 200);
    }
}
