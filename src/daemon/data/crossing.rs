//! Between the data threads of one daemon: what one lane's forwarder has for another's, and frames
//! that the kernel gave to the wrong socket.
//!
//! The second happens where a network card joins datagrams of one sender (GRO) before it is known
//! whose they are: what is joined goes where the first belongs. Each way is a bounded queue; what
//! finds it full is dropped and counted. Words are few and must arrive: those wait.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, TrySendError, sync_channel};

use bytes::BytesMut;

use super::Data;
use crate::buf::{Datagram, RecvBatch};
use crate::daemon::poller::Nudge;
use crate::forward::lanes::{Handed, Word};
use crate::id::Lane;
use crate::time::Instant;
use crate::wire::header::Clear;

/// Packets on their way to one lane: more than a turn of the others makes, 20 ms at 200,000 a second.
const PARCELS: usize = 4096;
/// Words on their way to one lane, beyond which they wait with who says them.
const WORDS: usize = 1024;

/// Something for another lane.
#[derive(Debug)]
enum Parcel {
    /// From its forwarder.
    Handed(Handed),
    /// A frame that came to another socket.
    Stray(Datagram),
}

/// The way to a lane.
#[derive(Clone, Debug)]
struct Way {
    parcels: SyncSender<Parcel>,
    words: SyncSender<Word>,
    nudge: Nudge,
}

/// One lane's ways to the others, and what comes by theirs.
#[derive(Debug)]
pub(super) struct Crossing {
    own: Lane,
    ways: Vec<Way>,
    parcels: Receiver<Parcel>,
    words: Receiver<Word>,
    /// Said, but not yet on their way, by lane.
    waiting: Vec<VecDeque<Word>>,
    /// Lanes that something was put on its way to since their last nudge, one bit each.
    touched: u32,
    came: RecvBatch,
}

impl Crossing {
    /// The crossings of all lanes, whose threads wait for these nudges.
    pub(super) fn all(nudges: &[Nudge]) -> Vec<Self> {
        let (mut ways, mut ends) = (Vec::new(), Vec::new());
        for nudge in nudges {
            let (parcels, parcels_end) = sync_channel(PARCELS);
            let (words, words_end) = sync_channel(WORDS);
            ways.push(Way { parcels, words, nudge: nudge.clone() });
            ends.push((parcels_end, words_end));
        }
        let crossing = |(own, (parcels, words))| Self {
            own,
            ways: ways.clone(),
            parcels,
            words,
            waiting: vec![VecDeque::new(); ways.len()],
            touched: 0,
            came: RecvBatch::default(),
        };
        Lane::all(nudges.len() as u8).zip(ends).map(crossing).collect()
    }

    /// Whether a frame came to the wrong socket; if so it is on its way to its lane, and `false`
    /// in the second place says that there was no room.
    pub(super) fn strays(&mut self, from: SocketAddr, tos: u8, payload: &[u8]) -> (bool, bool) {
        let byte = payload.get(Clear::LANE_AT).copied().unwrap_or(0);
        let lane = byte % self.own.count();
        if lane == self.own.number() {
            return (false, true);
        }
        let bytes = BytesMut::from(payload);
        (true, self.put(lane, Parcel::Stray(Datagram { bytes, from, tos })))
    }

    /// Puts it on its way, or says that there was no room. What is for a lane that has ended goes with
    /// it: the threads end together but not at one moment, and the kernel gives what comes for the first
    /// that is gone to the others.
    fn put(&mut self, lane: u8, parcel: Parcel) -> bool {
        let Some(way) = self.ways.get(usize::from(lane)) else { return false };
        self.touched |= 1 << lane;
        !matches!(way.parcels.try_send(parcel), Err(TrySendError::Full(_)))
    }

    /// Sends the words that wait, as far as there is room, and nudges whom anything was sent to.
    fn send_off(&mut self) {
        for (lane, waiting) in self.waiting.iter_mut().enumerate() {
            while let Some(&word) = waiting.front() {
                self.touched |= 1 << lane;
                if self.ways[lane].words.try_send(word).is_err() {
                    break;
                }
                waiting.pop_front();
            }
        }
        for (lane, way) in self.ways.iter().enumerate() {
            if self.touched & 1 << lane != 0 {
                way.nudge.give();
            }
        }
        self.touched = 0;
    }
}

impl Data {
    /// Puts what the forwarder has for other lanes on its way.
    pub(super) fn cross_over(&mut self) {
        if self.crossing.own.count() == 1 {
            return;
        }
        let mut refused = 0;
        while let Some((lane, handed)) = self.forwarder.poll_handed() {
            refused += u64::from(!self.crossing.put(lane, Parcel::Handed(handed)));
        }
        if refused > 0 {
            self.forwarder.on_not_handed(refused);
        }
        while let Some((lane, word)) = self.forwarder.poll_word() {
            // The forwarder bounds what it says; what waits beyond that waits for a dead thread.
            if let Some(waiting) = self.crossing.waiting.get_mut(usize::from(lane)) {
                waiting.push_back(word);
            }
        }
        self.crossing.send_off();
    }

    /// Takes what other lanes left here.
    pub(super) fn take_crossed(&mut self, now: Instant) -> anyhow::Result<()> {
        if self.crossing.own.count() == 1 {
            return Ok(());
        }
        let words: Vec<Word> = self.crossing.words.try_iter().take(WORDS).collect();
        if !words.is_empty() {
            self.forwarder.handle_words(now, words);
            self.carry_out(now)?;
        }
        let mut handed = Vec::new();
        self.crossing.came.clear();
        // At most one queue's worth a turn: the others' own packets wait meanwhile.
        let mut left = PARCELS;
        while left > 0 {
            match self.crossing.parcels.try_recv() {
                Ok(Parcel::Handed(one)) => handed.push(one),
                Ok(Parcel::Stray(datagram)) => self.crossing.came.datagrams.push(datagram),
                Err(TryRecvError::Empty | TryRecvError::Disconnected) => break,
            }
            left -= 1;
        }
        if left == 0 {
            // There may be more, and its nudge is taken.
            self.nudge.give();
        }
        if !handed.is_empty() {
            self.forwarder.handle_handed(now, handed);
            self.carry_out(now)?;
        }
        if !self.crossing.came.datagrams.is_empty() {
            self.forwarder.handle_udp(now, &mut self.crossing.came);
            self.carry_out(now)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair() -> [Crossing; 2] {
        let nudges = [Nudge::new().unwrap(), Nudge::new().unwrap()];
        Crossing::all(&nudges).try_into().unwrap()
    }

    #[test]
    fn a_frame_at_the_wrong_socket_goes_to_its_lane_and_all_else_stays() {
        let [mut a, b] = pair();
        let from = "192.0.2.1:4600".parse().unwrap();
        assert_eq!(a.strays(from, 0, &[0x10, 0, 9, 9, 9, 0, 7]), (false, true));
        assert_eq!(a.strays(from, 0, &[0x10, 0, 9]), (false, true), "too short for a lane");
        assert_eq!(a.strays(from, 2, &[0x10, 0, 9, 9, 9, 3, 7]), (true, true), "three modulo two");
        let Ok(Parcel::Stray(got)) = b.parcels.try_recv() else { panic!() };
        assert_eq!((got.from, got.tos, &got.bytes[..]), (from, 2, &[0x10, 0, 9, 9, 9, 3, 7][..]));
        for _ in 0..PARCELS {
            assert_eq!(a.strays(from, 0, &[0x10, 0, 0, 0, 0, 1]), (true, true));
        }
        assert_eq!(a.strays(from, 0, &[0x10, 0, 0, 0, 0, 1]), (true, false), "full");
    }

    #[test]
    fn what_comes_for_a_lane_that_has_ended_is_not_said_to_have_found_it_full() {
        let [mut a, b] = pair();
        drop(b);
        let from = "192.0.2.1:4600".parse().unwrap();
        assert_eq!(a.strays(from, 0, &[0x10, 0, 0, 0, 0, 1]), (true, true));
    }

    #[test]
    fn words_beyond_the_room_wait_and_keep_their_order() {
        let [mut a, b] = pair();
        let word = |n: u64| Word::Overdue { link: crate::id::LinkId(0), generation: n };
        a.waiting[1].extend((0..WORDS as u64 + 5).map(word));
        a.send_off();
        assert_eq!(a.waiting[1].len(), 5);
        let first: Vec<Word> = b.words.try_iter().collect();
        a.send_off();
        let rest: Vec<Word> = b.words.try_iter().collect();
        let all: Vec<Word> = [first, rest].concat();
        assert_eq!(all, (0..WORDS as u64 + 5).map(word).collect::<Vec<_>>());
    }
}
