//! Memory for packets: blocks that come back by themselves.
//!
//! A packet is a piece of a block. As long as one piece lives the block does; when the last is gone
//! the block is used again. So nothing on a packet's way is copied to be kept: the queue, the order
//! at the egress and the store for repair hold pieces. A piece of a few bytes would keep a whole
//! block, so what is small goes packed into a common one ([`Blocks::keep`]).
//!
//! Reference counting is `bytes`': its handles are what safe code can split, send and free.

use std::collections::VecDeque;

use bytes::BytesMut;

/// Blocks of [`Blocks::SIZE`] bytes, of which a bounded number is alive.
#[derive(Debug)]
pub struct Blocks {
    /// The block that small pieces are cut from.
    open: Option<BytesMut>,
    /// Blocks that pieces were cut from, oldest first; free again once those are gone.
    out: VecDeque<BytesMut>,
    /// Free blocks. The last is used next: it is the likeliest to lie in the processor's cache.
    free: Vec<BytesMut>,
    alive: usize,
    limit: usize,
    refused: u64,
}

impl Blocks {
    /// Bytes in a block: the largest IP packet or UDP payload, and a small header before it.
    pub const SIZE: usize = 65_536 + 128;
    /// What is shorter than this should be copied by [`Blocks::keep`] rather than hold a block: a
    /// block in use is then at least a quarter full, which bounds the memory by the packets in it.
    pub const SMALL: usize = Self::SIZE / 4;
    /// Free blocks kept for the next burst by [`Blocks::tidy`].
    const SPARE: usize = 8;
    /// Blocks looked at for a free one before a new one is made.
    const LOOKS: usize = 4;

    /// No memory yet, and at most `limit` blocks ever.
    pub fn new(limit: usize) -> Self {
        Self {
            open: None,
            out: VecDeque::new(),
            free: Vec::new(),
            alive: 0,
            limit: limit.max(1),
            refused: 0,
        }
    }

    /// An empty block with room for [`Blocks::SIZE`] bytes; `None` where too many are alive. It is
    /// given back with [`Blocks::give`], whatever was cut from it.
    pub fn take(&mut self) -> Option<BytesMut> {
        if self.free.is_empty() {
            let looks = if self.alive < self.limit { Self::LOOKS } else { self.out.len() };
            self.look(looks);
        }
        if let Some(block) = self.free.pop() {
            return Some(block);
        }
        if self.alive >= self.limit {
            self.refused += 1;
            return None;
        }
        self.alive += 1;
        Some(BytesMut::with_capacity(Self::SIZE))
    }

    /// An empty block even beyond the limit: for the few that a driver always needs to read into.
    pub fn take_anyway(&mut self) -> BytesMut {
        self.take().unwrap_or_else(|| {
            self.alive += 1;
            BytesMut::with_capacity(Self::SIZE)
        })
    }

    /// Makes a block that pieces were cut from whole again: the same, which still lies in the
    /// processor's cache, where they are all gone, else another.
    pub fn renew(&mut self, block: &mut BytesMut) {
        block.clear();
        if !block.try_reclaim(Self::SIZE) {
            let other = self.take_anyway();
            self.give(std::mem::replace(block, other));
        }
    }

    /// Takes back a block, or what is left of it after pieces were cut off.
    pub fn give(&mut self, mut block: BytesMut) {
        block.clear();
        self.out.push_back(block);
    }

    /// A writable piece of `len` zero bytes, right after the one before it in memory where there is
    /// room; `None` where too many blocks are alive or `len` exceeds a block.
    pub fn room(&mut self, len: usize) -> Option<BytesMut> {
        let open = self.open_for(len)?;
        open.resize(len, 0);
        Some(open.split())
    }

    /// A copy of `bytes` in the common block.
    pub fn keep(&mut self, bytes: &[u8]) -> Option<BytesMut> {
        let open = self.open_for(bytes.len())?;
        open.extend_from_slice(bytes);
        Some(open.split())
    }

    /// Frees blocks that a burst left behind, but for a few.
    pub fn tidy(&mut self) {
        self.look(self.out.len());
        let spare = self.free.len().min(Self::SPARE);
        self.alive -= self.free.len() - spare;
        self.free.truncate(spare);
    }

    /// Looks at so many blocks, the oldest first, whether they are free again.
    fn look(&mut self, count: usize) {
        for _ in 0..count {
            let Some(mut block) = self.out.pop_front() else { break };
            if block.try_reclaim(Self::SIZE) {
                self.free.push(block);
            } else {
                self.out.push_back(block);
            }
        }
    }

    /// Whether as many blocks are alive as may be and none was free when last looked: nothing should be
    /// cut that another may hold.
    pub fn is_spent(&self) -> bool {
        self.alive >= self.limit && self.free.is_empty()
    }

    /// Bytes of all blocks alive, in use or spare.
    pub fn bytes(&self) -> usize {
        self.alive * Self::SIZE
    }

    /// How often a block was refused because too many were alive.
    pub fn refused(&self) -> u64 {
        self.refused
    }

    /// The common block with room for `len` more bytes.
    fn open_for(&mut self, len: usize) -> Option<&mut BytesMut> {
        if len > Self::SIZE {
            return None;
        }
        if self.open.as_ref().is_none_or(|open| open.capacity() < len) {
            let block = self.take()?;
            if let Some(full) = self.open.replace(block) {
                self.give(full);
            }
        }
        self.open.as_mut()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_is_used_again_once_its_last_piece_is_gone() {
        let mut blocks = Blocks::new(2);
        let (a, b) = (blocks.keep(&[1; 1000]).unwrap(), blocks.room(40_000).unwrap());
        assert_eq!((blocks.bytes(), a.len(), b.len()), (Blocks::SIZE, 1000, 40_000));
        let c = blocks.room(40_000).unwrap();
        assert_eq!(blocks.bytes(), 2 * Blocks::SIZE);
        assert!(blocks.room(40_000).is_none(), "both blocks are held");
        assert_eq!(blocks.refused(), 1);
        drop(a);
        assert!(blocks.room(40_000).is_none(), "one piece is enough to hold a block");
        drop((b, c));
        let whole = blocks.take().unwrap();
        assert!(whole.is_empty() && whole.capacity() >= Blocks::SIZE);
        blocks.give(whole);
        assert_eq!(blocks.bytes(), 2 * Blocks::SIZE);
    }

    #[test]
    fn pieces_follow_each_other_in_memory() {
        let mut blocks = Blocks::new(4);
        let pieces: Vec<_> = (0..40).map(|_| blocks.room(1400).unwrap()).collect();
        for pair in pieces.windows(2) {
            assert_eq!(pair[0].as_ptr().wrapping_add(1400), pair[1].as_ptr());
        }
    }

    #[test]
    fn what_a_burst_took_is_given_back_but_for_a_few() {
        let mut blocks = Blocks::new(1000);
        let pieces: Vec<_> = (0..100).map(|_| blocks.room(60_000).unwrap()).collect();
        blocks.tidy();
        assert_eq!(blocks.bytes(), 100 * Blocks::SIZE, "all are in use");
        drop(pieces);
        blocks.tidy();
        assert_eq!(blocks.bytes(), (Blocks::SPARE + 1) * Blocks::SIZE);
        assert!(blocks.room(Blocks::SIZE + 1).is_none());
    }
}
