//! What lies in the data path now, by where it waits, and what bounds it; memory given back after a
//! burst.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use crate::id::{LinkId, NodeId};
use crate::session::replay::Allowance;

use super::link::REPAIR_BYTES;
use super::order::OrderLimits;
use super::pace::Mode;
use super::queue::QueueLimits;
use super::{Forwarder, HELD_LIMIT, WINDOW_BITS};

/// Packets and their bytes, waiting.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Waiting {
    /// Packets.
    pub packets: usize,
    /// Bytes of them.
    pub bytes: usize,
}

/// What lies in the data path at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// Packets in all: queued, kept for repair, held for order, or on their way to the TUN device.
    pub frames: usize,
    /// Bytes of the memory that sealed packets lie in, in use or spare.
    pub memory: usize,
    /// By link.
    pub links: BTreeMap<LinkId, LinkHeld>,
    /// By the node the packets came from.
    pub peers: BTreeMap<NodeId, PeerHeld>,
}

/// What lies in one link.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LinkHeld {
    /// Waiting to be sent.
    pub queue: Waiting,
    /// Bytes kept for repair.
    pub repair_bytes: usize,
    /// Frames whose fate is remembered, whether they are kept or not.
    pub records: usize,
    /// Bits of the window over received counters.
    pub window_bits: usize,
    /// Frames sent without being kept for repair, for want of memory, since the link began.
    pub unprotected: u64,
    /// Lost frames not sent again, and symbols not sent, because a class's bound on repair was reached, since
    /// the link began.
    pub over_budget: u64,
    /// Frames without the symbols they were to have, for the same reason, since the link began.
    pub uncovered: u64,
    /// Symbols not sent because all repair had its share, or paused, since the link began.
    pub over_share: u64,
    /// Feedback that contradicts what was sent, since the link began.
    pub false_feedback: u64,
    /// Frames lost in this machine or the peer's, not on the link, since the link began.
    pub local_drops: u64,
    /// What rules the rate.
    pub mode: Mode,
    /// The rate, bytes per second; zero where nothing is held back.
    pub rate: u64,
    /// The queue on the line, as the last round trips show it.
    pub standing: Duration,
}

/// What lies here of one source.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PeerHeld {
    /// Held for order.
    pub order: Waiting,
    /// Bits of the windows over its end-to-end counters.
    pub window_bits: usize,
}

impl Held {
    /// Bytes that wait: queued, kept for repair and held for order.
    pub fn bytes(&self) -> usize {
        let links = self.links.values().map(|l| l.queue.bytes + l.repair_bytes);
        links.chain(self.peers.values().map(|p| p.order.bytes)).sum()
    }

    /// What [`Held::bytes`] never exceeds with so many links and lanes.
    pub fn bound(links: usize, lanes: usize) -> usize {
        let link = QueueLimits::default().bytes + REPAIR_BYTES;
        (links * lanes * link).min(HELD_LIMIT) + lanes * OrderLimits::default().total_bytes
    }

    /// Adds what another lane holds.
    pub fn add(&mut self, other: &Self) {
        self.frames += other.frames;
        self.memory += other.memory;
        for (&link, more) in &other.links {
            let sum = self.links.entry(link).or_default();
            sum.queue.add(more.queue);
            sum.repair_bytes += more.repair_bytes;
            sum.records += more.records;
            sum.window_bits += more.window_bits;
            sum.unprotected += more.unprotected;
            sum.over_budget += more.over_budget;
            sum.uncovered += more.uncovered;
            sum.over_share += more.over_share;
            sum.false_feedback += more.false_feedback;
            sum.local_drops += more.local_drops;
            sum.mode = sum.mode.max(more.mode);
            sum.rate += more.rate;
            sum.standing = sum.standing.max(more.standing);
        }
        for (&peer, more) in &other.peers {
            let sum = self.peers.entry(peer).or_default();
            sum.order.add(more.order);
            sum.window_bits += more.window_bits;
        }
    }
}

impl Waiting {
    fn add(&mut self, other: Self) {
        self.packets += other.packets;
        self.bytes += other.bytes;
    }
}

impl Forwarder {
    /// What lies here now. Looks at every link, peer and stream: for once a second, not for each
    /// packet.
    pub fn held(&self) -> Held {
        let mut held = Held::default();
        for link in self.links.iter().flatten() {
            let counts = link.sender.counts();
            let of_link = LinkHeld {
                queue: Waiting { packets: link.queue.len(), bytes: link.queue.bytes() },
                repair_bytes: link.sender.held_bytes(),
                records: link.sender.records(),
                window_bits: link.keys.window().bits(),
                unprotected: counts.unprotected,
                over_budget: counts.over_budget,
                uncovered: counts.uncovered,
                over_share: counts.over_share,
                false_feedback: counts.false_feedback,
                local_drops: counts.local_drops,
                mode: link.pacer.mode(),
                rate: link.pacer.rate().unwrap_or(0),
                standing: link.pacer.queue(),
            };
            held.frames += link.queue.len() + link.sender.kept();
            held.links.insert(link.id, of_link);
        }
        for (&node, peer) in &self.peers {
            let window_bits = peer.windows().map(|w| w.bits()).sum();
            held.peers.insert(node, PeerHeld { window_bits, ..PeerHeld::default() });
        }
        for (node, packets, bytes) in self.order.held() {
            held.peers.entry(node).or_default().order.add(Waiting { packets, bytes });
            held.frames += packets;
        }
        held.frames += self.ready.len();
        held.memory = self.blocks.bytes();
        held
    }

    /// Gives back memory that a burst has left behind: half of what is spare, each time it is called.
    pub fn give_back(&mut self) {
        for link in self.links.iter_mut().flatten() {
            link.sender.give_back();
        }
        self.blocks.tidy();
        if self.ready.is_empty() {
            halve_vec(&mut self.ready);
        }
    }

    /// Windows that are gone no longer count against what the others may grow by.
    pub(super) fn recount_windows(&mut self) {
        let links = self.links.iter().flatten().chain(self.retired.values());
        let hops = links.map(|link| link.keys.window().grown());
        let ends = self.peers.values().flat_map(|peer| peer.windows()).map(|w| w.grown());
        let grown: usize = hops.chain(ends).sum();
        let lanes = usize::from(self.config.lane.count());
        self.spare = Allowance((WINDOW_BITS / lanes).saturating_sub(grown));
    }
}

/// Entries a list keeps whatever happens: less is not worth the moving.
const SMALL: usize = 1024;

/// Gives half of a list's memory back where it uses less than a quarter.
pub(super) fn halve<T>(list: &mut VecDeque<T>) {
    let room = list.capacity();
    if room > SMALL && list.len() < room / 4 {
        list.shrink_to(room / 2);
    }
}

fn halve_vec<T>(list: &mut Vec<T>) {
    let room = list.capacity();
    if room > SMALL && list.len() < room / 4 {
        list.shrink_to(room / 2);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_list_shrinks_step_by_step_and_a_used_one_does_not() {
        let mut list: VecDeque<u64> = (0..100_000).collect();
        let whole = list.capacity();
        halve(&mut list);
        assert_eq!(list.capacity(), whole, "it is in use");
        list.truncate(10);
        for _ in 0..20 {
            halve(&mut list);
        }
        assert!(list.capacity() <= 2 * SMALL && list.iter().eq(&[0, 1, 2, 3, 4, 5, 6, 7, 8, 9]));
    }

    #[test]
    fn lanes_add_up() {
        let waiting = Waiting { packets: 2, bytes: 300 };
        let one = LinkHeld { queue: waiting, repair_bytes: 50, ..LinkHeld::default() };
        let peer = PeerHeld { order: waiting, window_bits: 1024 };
        let node = NodeId::new(7).unwrap();
        let lane = Held {
            frames: 3,
            memory: 9,
            links: [(LinkId(1), one)].into(),
            peers: [(node, peer)].into(),
        };
        let mut sum = lane.clone();
        sum.add(&lane);
        assert_eq!((sum.frames, sum.memory, sum.bytes()), (6, 18, 2 * (300 + 50 + 300)));
        assert_eq!(sum.peers[&node].window_bits, 2048);
    }
}
