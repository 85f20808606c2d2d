//! The queue before the hop: short, fair, and before any hop sequence is given out.
//!
//! Deficit round robin over flow buckets, sparse flows first, as in FQ-CoDel (RFC 8290, section
//! 4.2): a flow that has nothing waiting enters the list of new flows and is served once before
//! the old ones; one that keeps a backlog moves to the old ones and gets a quantum a round. A flow
//! whose packets wait too long for too long is told by a mark or a drop at its head (CoDel). When the
//! bytes are used up, the flow that holds most loses its oldest packets; what waited beyond the
//! bound in time is dropped when its turn comes. Nothing dropped here has a hop sequence, so repair
//! never revives it, and the inner transport gets its signal.

use std::collections::VecDeque;
use std::time::Duration;

use crate::time::Instant;

mod codel;

use codel::Codel;
pub use codel::Control;

/// Bytes of a full packet: a flow with no more than that waiting is told nothing.
const FULL_PACKET: usize = 1514;

/// What can wait: one packet or several of one flow.
pub trait Item {
    /// Writes the congestion mark into the first packet. `false` where its bits do not allow it.
    fn mark(&mut self) -> bool;

    /// Takes the first of several packets away, and gives its bytes as they were counted; `None`
    /// where it is the only one.
    fn shed(&mut self) -> Option<usize>;
}

/// A packet that is its place and its size alone.
impl Item for () {
    fn mark(&mut self) -> bool {
        false
    }

    fn shed(&mut self) -> Option<usize> {
        None
    }
}

/// How much may wait.
#[derive(Clone, Copy, Debug)]
pub struct QueueLimits {
    /// Flow buckets. RFC 8290 takes 1,024; a link of ours carries the flows of one site pair or a
    /// few, and a quarter keeps the search for the longest short.
    pub buckets: usize,
    /// Bytes a flow may send in its turn: one full packet.
    pub quantum: usize,
    /// Bytes waiting in all.
    pub bytes: usize,
    /// Packets waiting in all: tiny packets cost memory beyond their bytes.
    pub packets: usize,
}

impl Default for QueueLimits {
    fn default() -> Self {
        Self { buckets: 256, quantum: FULL_PACKET, bytes: 4 << 20, packets: 16_384 }
    }
}

/// What the queue did so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QueueStats {
    /// Packets that came.
    pub pushed: u64,
    /// Packets that went on.
    pub popped: u64,
    /// Dropped from the longest flow because there was no room.
    pub dropped_full: u64,
    /// Dropped because they had waited too long.
    pub dropped_late: u64,
    /// Dropped to tell their flow to slow down.
    pub dropped_signal: u64,
    /// Marked for the same reason.
    pub marked: u64,
}

#[derive(Debug)]
struct Waiting<T> {
    since: Instant,
    bytes: usize,
    packets: usize,
    item: T,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Turn {
    /// In neither list.
    Idle,
    New,
    Old,
}

#[derive(Debug)]
struct Bucket<T> {
    waiting: VecDeque<Waiting<T>>,
    bytes: usize,
    /// Bytes it may still send in this turn; negative after a packet larger than its share.
    credit: i64,
    turn: Turn,
    codel: Codel,
}

impl<T> Bucket<T> {
    fn new() -> Self {
        Self {
            waiting: VecDeque::new(),
            bytes: 0,
            credit: 0,
            turn: Turn::Idle,
            codel: Codel::default(),
        }
    }
}

/// A bounded fair queue of `T`, which is one packet or several of one flow that are taken one by one.
#[derive(Debug)]
pub struct FairQueue<T> {
    limits: QueueLimits,
    /// None before the first packet: of a node's hundreds of links most carry nothing.
    buckets: Vec<Bucket<T>>,
    new: VecDeque<usize>,
    old: VecDeque<usize>,
    bytes: usize,
    packets: usize,
    /// The bucket whose first packet [`FairQueue::front`] has shown, when, and how long that has waited.
    serving: Option<(Instant, usize, Duration)>,
    /// The same of what was served and has more in it, where that may go on at the same instant.
    again: Option<(Instant, usize, Duration)>,
    standing: Standing,
    control: Control,
    stats: QueueStats,
}

impl<T: Item> FairQueue<T> {
    /// An empty queue.
    pub fn new(limits: QueueLimits) -> Self {
        Self {
            limits,
            buckets: Vec::new(),
            new: VecDeque::new(),
            old: VecDeque::new(),
            bytes: 0,
            packets: 0,
            serving: None,
            again: None,
            standing: Standing::default(),
            control: Control::DEFAULT,
            stats: QueueStats::default(),
        }
    }

    /// Appends `packets` packets of together `bytes` to their flow; returns how many packets gave way
    /// for them.
    pub fn push(
        &mut self,
        now: Instant,
        flow: u64,
        bytes: usize,
        packets: usize,
        item: T,
    ) -> usize {
        self.stats.pushed += packets as u64;
        self.again = None;
        if self.packets == 0 {
            self.standing.on_empty(now);
        }
        if self.buckets.is_empty() {
            self.buckets.resize_with(self.limits.buckets.max(1), Bucket::new);
        }
        let index = (flow % self.buckets.len() as u64) as usize;
        let bucket = &mut self.buckets[index];
        bucket.waiting.push_back(Waiting { since: now, bytes, packets, item });
        bucket.bytes += bytes;
        self.bytes += bytes;
        self.packets += packets;
        if bucket.turn == Turn::Idle {
            bucket.turn = Turn::New;
            bucket.credit = self.limits.quantum as i64;
            self.new.push_back(index);
        }
        let mut dropped = 0;
        while self.bytes > self.limits.bytes || self.packets > self.limits.packets {
            let longest = self.longest();
            let Some(shed) = self.take(longest) else { break };
            dropped += shed;
        }
        self.stats.dropped_full += dropped as u64;
        dropped
    }

    /// What is next in fairness, with its wait. It stays until [`FairQueue::served`] says that its
    /// first packet has gone.
    pub fn front(&mut self, now: Instant) -> Option<(&mut T, Duration)> {
        let (index, wait) = match self.again.take() {
            // The next packet of a super-segment in the same turn: all that was asked of the one before holds.
            Some((at, index, wait)) if at == now && self.buckets[index].credit > 0 => (index, wait),
            _ => {
                let (index, wait) = self.choose(now)?;
                self.standing.on_wait(now, wait);
                (index, wait)
            }
        };
        self.serving = Some((now, index, wait));
        let first = self.buckets[index].waiting.front_mut()?;
        Some((&mut first.item, wait))
    }

    /// A packet of `bytes` of what [`FairQueue::front`] has shown has gone; `more`: there are others
    /// in it.
    pub fn served(&mut self, bytes: usize, more: bool) {
        let Some((at, index, wait)) = self.serving.take() else { return };
        let bucket = &mut self.buckets[index];
        bucket.credit -= bytes as i64;
        self.stats.popped += 1;
        if more && !bucket.waiting.is_empty() {
            self.lighten(index, bytes);
            // Beyond the target each packet is CoDel's to judge.
            self.again = (wait < self.control.target).then_some((at, index, wait));
        } else {
            self.take(index);
        }
    }

    /// The bucket whose turn it is, and how long its first packet has waited, which may go on.
    fn choose(&mut self, now: Instant) -> Option<(usize, Duration)> {
        loop {
            let (index, new) = match (self.new.front(), self.old.front()) {
                (Some(&index), _) => (index, true),
                (None, Some(&index)) => (index, false),
                (None, None) => return None,
            };
            let bucket = &mut self.buckets[index];
            if bucket.credit <= 0 {
                bucket.credit += self.limits.quantum.max(1) as i64;
                bucket.turn = Turn::Old;
                if new {
                    self.new.pop_front()
                } else {
                    self.old.pop_front()
                };
                self.old.push_back(index);
                continue;
            }
            if let Some(wait) = self.ripen(index, now) {
                return Some((index, wait));
            }
            // A new flow that ran empty passes once through the old ones, or a flow that sends a
            // packet at a time would always be served first.
            if new {
                self.new.pop_front();
                self.buckets[index].turn = Turn::Old;
                self.old.push_back(index);
            } else {
                self.old.pop_front();
                self.buckets[index].turn = Turn::Idle;
            }
        }
    }

    /// Bytes waiting.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Packets waiting.
    pub fn len(&self) -> usize {
        self.packets
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.packets == 0
    }

    /// The wait that no packet escaped in the last interval of 100 ms: a queue that stands, not one
    /// that a burst filled for a moment. Zero as soon as the queue was seen empty.
    pub fn standing(&self) -> Duration {
        self.standing.least
    }

    /// What the queue did so far.
    pub fn stats(&self) -> QueueStats {
        self.stats
    }

    /// What is asked of the wait of each flow from now on.
    pub fn set_control(&mut self, control: Control) {
        self.control = control;
        self.again = None;
    }

    /// Drops or marks what must not go on as it is at the head of a flow; how long what is left has waited.
    fn ripen(&mut self, index: usize, now: Instant) -> Option<Duration> {
        loop {
            let bucket = &mut self.buckets[index];
            let Some(first) = bucket.waiting.front_mut() else {
                bucket.codel.on_empty();
                return None;
            };
            let wait = now.since(first.since);
            if wait > self.control.most {
                self.stats.dropped_late += self.take(index).unwrap_or(0) as u64;
                continue;
            }
            if !bucket.codel.signals(now, wait, bucket.bytes, self.control) {
                return Some(wait);
            }
            if first.item.mark() {
                self.stats.marked += 1;
                return Some(wait);
            }
            self.stats.dropped_signal += 1;
            match first.item.shed() {
                Some(bytes) => self.lighten(index, bytes),
                None => {
                    self.take(index);
                }
            }
        }
    }

    /// The first item of a flow has become one packet of so many bytes less.
    fn lighten(&mut self, index: usize, bytes: usize) {
        let bucket = &mut self.buckets[index];
        let Some(first) = bucket.waiting.front_mut() else { return };
        let bytes = bytes.min(first.bytes);
        let packets = usize::from(first.packets > 0);
        first.bytes -= bytes;
        first.packets -= packets;
        bucket.bytes -= bytes;
        self.bytes -= bytes;
        self.packets -= packets;
    }

    /// Takes out the first of a flow; how many packets that was.
    fn take(&mut self, index: usize) -> Option<usize> {
        let bucket = &mut self.buckets[index];
        let first = bucket.waiting.pop_front()?;
        bucket.bytes -= first.bytes;
        self.bytes -= first.bytes;
        self.packets -= first.packets;
        Some(first.packets)
    }

    fn longest(&self) -> usize {
        // By bytes, then by packets, so that packets without bytes can be shed as well.
        let size = |i: &usize| (self.buckets[*i].bytes, self.buckets[*i].waiting.len());
        (0..self.buckets.len()).max_by_key(size).unwrap_or(0)
    }
}

/// The least wait seen in each interval (the observation CoDel rests on, RFC 8289 section 3.2).
#[derive(Debug, Default)]
struct Standing {
    until: Instant,
    running: Option<Duration>,
    least: Duration,
}

impl Standing {
    const INTERVAL: Duration = Duration::from_millis(100);

    fn on_empty(&mut self, now: Instant) {
        self.running = None;
        self.least = Duration::ZERO;
        self.until = now.plus(Self::INTERVAL);
    }

    fn on_wait(&mut self, now: Instant, wait: Duration) {
        if now >= self.until {
            self.least = self.running.take().unwrap_or(Duration::ZERO).min(wait);
            self.until = now.plus(Self::INTERVAL);
        }
        if self.running.is_none_or(|least| wait < least) {
            self.running = Some(wait);
        }
        if wait < self.least {
            self.least = wait;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(ms: u64) -> Instant {
        Instant::from_micros(ms * 1000)
    }

    fn queue() -> FairQueue<Sized<u64>> {
        FairQueue::new(QueueLimits { quantum: 1000, ..QueueLimits::default() })
    }

    /// A packet with its number of bytes.
    #[derive(Clone, Copy, Debug, PartialEq)]
    struct Sized<T>(T, usize);

    impl<T> Item for Sized<T> {
        fn mark(&mut self) -> bool {
            false
        }

        fn shed(&mut self) -> Option<usize> {
            None
        }
    }

    /// A flow and how many packets of 1,000 bytes are left of it.
    impl Item for (u64, usize) {
        fn mark(&mut self) -> bool {
            self.0 == 7
        }

        fn shed(&mut self) -> Option<usize> {
            self.1 -= 1;
            (self.1 > 0).then_some(1000)
        }
    }

    impl<T: Copy> FairQueue<Sized<T>> {
        fn add(&mut self, now: Instant, flow: u64, bytes: usize, item: T) -> usize {
            self.push(now, flow, bytes, 1, Sized(item, bytes))
        }

        fn pop(&mut self, now: Instant) -> Option<(T, Duration)> {
            let (&mut Sized(item, bytes), wait) = self.front(now)?;
            self.served(bytes, false);
            Some((item, wait))
        }
    }

    fn order(q: &mut FairQueue<Sized<u64>>, now: Instant) -> Vec<u64> {
        std::iter::from_fn(|| q.pop(now).map(|(item, _)| item)).collect()
    }

    #[test]
    fn several_packets_in_one_are_served_one_by_one_and_in_fairness() {
        let mut q: FairQueue<(u64, usize)> =
            FairQueue::new(QueueLimits { quantum: 1000, ..QueueLimits::default() });
        q.push(at(0), 1, 3000, 3, (1, 3));
        q.push(at(0), 2, 2000, 2, (2, 2));
        assert_eq!((q.len(), q.bytes()), (5, 5000));
        let mut flows = Vec::new();
        while let Some(((flow, left), _)) = q.front(at(0)) {
            *left -= 1;
            flows.push(*flow);
            let more = *left > 0;
            q.served(1000, more);
        }
        assert_eq!(flows, [1, 2, 1, 2, 1]);
        assert_eq!((q.len(), q.bytes(), q.stats().popped), (0, 0, 5));
        q.push(at(0), 1, 3000, 3, (1, 3));
        assert!(q.front(at(101)).is_none());
        assert_eq!(q.stats().dropped_late, 3);
    }

    #[test]
    fn a_sparse_flow_overtakes_a_backlog_and_backlogs_share_by_bytes() {
        let mut q = queue();
        for i in 0..6 {
            q.add(at(0), 1, 1000, 10 + i);
            q.add(at(0), 2, 500, 20 + i);
        }
        let first: Vec<_> = (0..2).filter_map(|_| q.pop(at(0))).map(|(item, _)| item).collect();
        assert_eq!(first, [10, 20]);
        q.add(at(0), 3, 100, 30);
        let rest = order(&mut q, at(0));
        let place = rest.iter().position(|&i| i == 30).unwrap();
        assert!(place <= 1, "the new flow waits for one packet at most: {rest:?}");
        let big = rest.iter().position(|&i| i == 12).unwrap();
        let small = rest.iter().position(|&i| i == 23).unwrap();
        assert!(small < big, "two packets of 500 go for each of 1,000: {rest:?}");
    }

    #[test]
    fn the_longest_flow_pays_for_want_of_room() {
        let mut q = FairQueue::new(QueueLimits { bytes: 10_000, ..QueueLimits::default() });
        for i in 0..9 {
            q.add(at(0), 1, 1000, i);
        }
        assert_eq!(q.add(at(0), 2, 900, 100), 0);
        assert_eq!(q.add(at(0), 2, 900, 101), 1);
        assert_eq!(q.stats().dropped_full, 1);
        let all = order(&mut q, at(0));
        assert!(all.contains(&100) && all.contains(&101));
        assert!(!all.contains(&0), "the head of the longest goes first");
    }

    #[test]
    fn what_waited_too_long_is_dropped_in_its_turn() {
        let mut q = queue();
        q.add(at(0), 1, 100, 1);
        q.add(at(90), 1, 100, 2);
        assert_eq!(q.pop(at(101)), Some((2, Duration::from_millis(11))));
        assert_eq!(q.stats().dropped_late, 1);
        assert!(q.is_empty() && q.bytes() == 0);
    }

    #[test]
    fn a_backlog_stands_only_while_no_packet_escapes_it() {
        let mut q = queue();
        // 20 ms of backlog that never clears.
        for ms in 0..400 {
            q.add(at(ms), ms, 100, ms);
            if ms >= 20 {
                q.pop(at(ms));
            }
        }
        assert_eq!(q.standing(), Duration::from_millis(20));
        order(&mut q, at(400));
        q.add(at(401), 1, 100, 1);
        assert_eq!(q.standing(), Duration::ZERO, "once empty, nothing stands");
    }

    #[test]
    fn a_wait_that_stands_is_told_one_packet_at_a_time_by_a_drop_or_a_mark() {
        for flow in [1, 7] {
            let mut q: FairQueue<(u64, usize)> = FairQueue::new(QueueLimits::default());
            // A backlog of twenty packets for a second: one comes and one goes each millisecond.
            q.push(at(0), flow, 20_000, 20, (flow, 20));
            let mut gone = 0;
            for ms in 20..1020 {
                q.push(at(ms), flow, 1000, 1, (flow, 1));
                if let Some(((_, left), wait)) = q.front(at(ms)) {
                    *left -= 1;
                    let more = *left > 0;
                    assert!(wait <= Duration::from_millis(40));
                    q.served(1000, more);
                    gone += 1;
                }
            }
            let s = q.stats();
            assert_eq!((s.popped, s.dropped_late, s.dropped_full), (gone, 0, 0));
            // Intervals of 100 ms over the root of the count: 45 in 0.9 s were nothing listening;
            // drops drain the queue of twenty below the target first.
            let told = s.dropped_signal + s.marked;
            assert_eq!(if flow == 7 { s.dropped_signal } else { s.marked }, 0);
            assert!((14..=60).contains(&told), "{s:?}");
            assert_eq!(s.pushed, s.popped + s.dropped_signal + q.len() as u64);
        }
    }

    #[test]
    fn a_short_burst_is_told_nothing() {
        let mut q = queue();
        for ms in (0..1000).step_by(100) {
            (0..50).for_each(|n| {
                q.add(at(ms), 1, 1000, n);
            });
            for later in 0..50 {
                assert!(q.pop(at(ms + later)).is_some());
            }
        }
        assert_eq!(q.stats().dropped_signal + q.stats().marked, 0);
    }

    proptest! {
        /// Each flow keeps its order, nothing is doubled, and what came equals what went, waits
        /// and was dropped; the bounds hold after every step.
        #[test]
        fn packets_are_conserved_and_flows_keep_their_order(
            steps in proptest::collection::vec((0u64..6, 0usize..3000, any::<bool>()), 1..400),
        ) {
            let mut q = FairQueue::new(QueueLimits {
                buckets: 4, bytes: 20_000, packets: 30, ..QueueLimits::default()
            });
            let mut last = [0; 6];
            for (step, &(flow, bytes, pop)) in steps.iter().enumerate() {
                let now = at(step as u64 * 3);
                q.add(now, flow, bytes, (flow, step + 1));
                if pop && let Some(((flow, number), _)) = q.pop(now) {
                    prop_assert!(number > last[flow as usize]);
                    last[flow as usize] = number;
                }
                prop_assert!(q.bytes() <= 20_000 && q.len() <= 30);
                let s = q.stats();
                let gone = s.popped + s.dropped_full + s.dropped_late + s.dropped_signal;
                prop_assert_eq!(s.pushed, gone + q.len() as u64);
            }
        }
    }
}
