//! A line that does not carry every frame whole: what is too long goes in pieces.

use bytes::Bytes;

use super::Link;
use crate::buf::TxBatch;
use crate::forward::stats::{Stats, count_frame};
use crate::quality::LinkMtu;
use crate::time::Instant;
use crate::wire::Kind;
use crate::wire::fragment::{self, Fragment};

impl Link {
    /// What is known of the longest datagram that comes through.
    pub(in crate::forward) fn carries(&mut self, mtu: Option<LinkMtu>) {
        self.mtu = mtu;
        self.whole = mtu.map_or(usize::MAX, |mtu| usize::from(mtu.size));
    }

    /// What the line carries, where that is certain and less than a frame of this length needs.
    pub(in crate::forward) fn too_narrow(&self, frame: usize) -> Option<u16> {
        let mtu = self.mtu.filter(|mtu| mtu.settled)?;
        (frame > usize::from(mtu.size)).then_some(mtu.size)
    }

    /// Puts a frame into the batch, in pieces where the line does not carry it whole.
    pub(super) fn emit(
        &mut self,
        now: Instant,
        out: &mut TxBatch,
        tos: u8,
        frame: Bytes,
        stats: &mut Stats,
    ) {
        if frame.len() <= self.whole {
            out.push(self.id, self.endpoint, tos, frame);
        } else {
            self.emit_pieces(now, out, tos, &frame, stats);
        }
    }

    #[cold]
    fn emit_pieces(
        &mut self,
        now: Instant,
        out: &mut TxBatch,
        tos: u8,
        frame: &[u8],
        stats: &mut Stats,
    ) {
        let (id, room) = (self.cut, self.whole.saturating_sub(fragment::OVERHEAD).max(1));
        self.cut = id.wrapping_add(1);
        // Of one length, so that they make a run.
        let each = frame.len().div_ceil(frame.len().div_ceil(room));
        for (n, piece) in frame.chunks(each).enumerate() {
            let index = self.transmit_index;
            let Some(clear) = self.keys.next(now, Kind::Fragment, index) else { return };
            let (offset, total) = ((n * each) as u16, frame.len() as u16);
            let body = Fragment { id, offset, total }.to_bytes(piece);
            let sealed = self.seal_bare(clear, &body);
            self.pacer.on_sent(sealed.len() - piece.len());
            let counted = stats.link_mut(self.id);
            counted.pieces_sent += 1;
            count_frame(&mut counted.sent, Kind::Fragment, sealed.len(), piece.len());
            out.push(self.id, self.endpoint, tos, sealed);
        }
    }
}
