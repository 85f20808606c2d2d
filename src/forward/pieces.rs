//! Frames that a link carries in pieces only: joined again where they arrive.
//!
//! Each link joins a few frames at a time, for a short time; what is not complete by then, or makes room for
//! newer ones, is dropped and counted, and repair sends it again like any other loss.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::BytesMut;

use crate::time::Instant;
use crate::wire::fragment::Fragment;

/// Frames joined at a time on one link: 128 KiB at most.
const OPEN: usize = 64;
/// How long the pieces of a frame may be apart: they are sent together.
const APART: Duration = Duration::from_millis(250);
/// Pieces of one frame: a link that carries 548 bytes takes three.
const PIECES: usize = 8;

#[derive(Debug)]
struct Open {
    id: u32,
    since: Instant,
    bytes: BytesMut,
    /// Where each piece begins and ends.
    have: Vec<(usize, usize)>,
    /// The congestion mark, if a piece bore it.
    ce: u8,
}

/// What came of a piece.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Joined {
    /// The frame is whole: its bytes and the TOS it came with.
    Whole(BytesMut, u8),
    /// Others are missing.
    Waiting,
    /// It fits nothing of its frame.
    Refused,
}

/// The frames of one link that are being joined, oldest first.
#[derive(Debug, Default)]
pub(super) struct Joiner {
    open: VecDeque<Open>,
    given_up: u64,
}

impl Joiner {
    /// A piece came.
    pub(super) fn on_piece(
        &mut self,
        now: Instant,
        fragment: Fragment,
        piece: &[u8],
        tos: u8,
    ) -> Joined {
        while self.open.front().is_some_and(|open| now.since(open.since) >= APART) {
            self.open.pop_front();
            self.given_up += 1;
        }
        let total = usize::from(fragment.total);
        let at = match self.open.iter().position(|open| open.id == fragment.id) {
            Some(at) => at,
            None => {
                if self.open.len() >= OPEN {
                    self.open.pop_front();
                    self.given_up += 1;
                }
                let bytes = BytesMut::zeroed(total);
                let have = Vec::with_capacity(2);
                self.open.push_back(Open { id: fragment.id, since: now, bytes, have, ce: 0 });
                self.open.len() - 1
            }
        };
        let open = &mut self.open[at];
        let (start, end) =
            (usize::from(fragment.offset), usize::from(fragment.offset) + piece.len());
        let overlaps = open.have.iter().any(|&(s, e)| start < e && s < end);
        if open.bytes.len() != total || overlaps || open.have.len() >= PIECES {
            return Joined::Refused;
        }
        open.bytes[start..end].copy_from_slice(piece);
        open.have.push((start, end));
        open.ce = if tos & 3 == 3 { 3 } else { open.ce };
        // No two overlap, so together they are the whole where their lengths are.
        if open.have.iter().map(|(s, e)| e - s).sum::<usize>() < total {
            return Joined::Waiting;
        }
        let ce = open.ce;
        let bytes = self.open.remove(at).map(|open| open.bytes).unwrap_or_default();
        Joined::Whole(bytes, tos | ce)
    }

    /// Frames given up since it was last asked.
    pub(super) fn take_given_up(&mut self) -> u64 {
        std::mem::take(&mut self.given_up)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(ms: u64) -> Instant {
        Instant::from_micros(ms * 1000)
    }

    fn piece(joiner: &mut Joiner, now: Instant, id: u32, part: (u16, u16), tos: u8) -> Joined {
        let frame: Vec<u8> = (0..100).collect();
        let (offset, end) = part;
        let fragment = Fragment { id, offset, total: 100 };
        joiner.on_piece(now, fragment, &frame[usize::from(offset)..usize::from(end)], tos)
    }

    #[test]
    fn pieces_in_any_order_make_the_frame_and_one_congestion_mark_marks_it() {
        let mut joiner = Joiner::default();
        assert_eq!(piece(&mut joiner, at(0), 1, (60, 100), 0xb8 | 3), Joined::Waiting);
        assert_eq!(piece(&mut joiner, at(0), 2, (0, 60), 0xb8), Joined::Waiting);
        assert_eq!(piece(&mut joiner, at(1), 1, (0, 30), 0xb8 | 2), Joined::Waiting);
        let Joined::Whole(bytes, tos) = piece(&mut joiner, at(1), 1, (30, 60), 0xb8 | 2) else {
            panic!("whole");
        };
        assert_eq!((bytes.to_vec(), tos), ((0..100).collect::<Vec<u8>>(), 0xb8 | 3));
        let Joined::Whole(_, tos) = piece(&mut joiner, at(1), 2, (60, 100), 0xb8) else {
            panic!("whole");
        };
        assert_eq!(tos, 0xb8);
    }

    #[test]
    fn what_overlaps_or_states_another_length_is_refused() {
        let mut joiner = Joiner::default();
        piece(&mut joiner, at(0), 1, (0, 60), 0);
        assert_eq!(piece(&mut joiner, at(0), 1, (59, 100), 0), Joined::Refused);
        let other = Fragment { id: 1, offset: 60, total: 101 };
        assert_eq!(joiner.on_piece(at(0), other, &[0; 40], 0), Joined::Refused);
        assert!(matches!(piece(&mut joiner, at(0), 1, (60, 100), 0), Joined::Whole(..)));
    }

    #[test]
    fn what_is_never_complete_is_given_up_after_a_while_and_memory_is_bounded() {
        let mut joiner = Joiner::default();
        piece(&mut joiner, at(0), 1, (0, 60), 0);
        piece(&mut joiner, at(250), 2, (0, 60), 0);
        assert_eq!(joiner.take_given_up(), 1);
        for id in 3..1000 {
            piece(&mut joiner, at(260), id, (0, 60), 0);
        }
        assert_eq!((joiner.open.len(), joiner.take_given_up()), (OPEN, 998 - OPEN as u64));
        assert_eq!(joiner.take_given_up(), 0);
    }

    proptest! {
        #[test]
        fn any_pieces_make_the_frame_or_nothing(
            cuts in proptest::collection::btree_set(1..100_u16, 1..8), seed: u64,
        ) {
            let mut parts = Vec::new();
            let mut from = 0;
            for cut in cuts.into_iter().chain([100]) {
                parts.push((from, cut));
                from = cut;
            }
            let mut dice = crate::rng::Dice::new(seed);
            let mut joiner = Joiner::default();
            let mut whole = None;
            while !parts.is_empty() {
                let part = parts.swap_remove(dice.below(parts.len() as u64) as usize);
                match piece(&mut joiner, at(0), 1, part, 0) {
                    Joined::Whole(bytes, _) => whole = Some(bytes.to_vec()),
                    other => prop_assert_eq!(other, Joined::Waiting),
                }
            }
            prop_assert_eq!(whole, Some((0..100).collect::<Vec<u8>>()));
        }
    }
}
