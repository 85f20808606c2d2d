//! Order restored at the egress, for the classes that want it.
//!
//! Packets of one stream carry a running counter. One that comes ahead of its turn is held until
//! those before it came, or until the class's bound is over: then the gap is given up and all that
//! waited behind it goes. What comes after its gap was given up goes at once, out of order: late is
//! better than never, and duplicates are the replay window's affair.
//!
//! A stream's first packet sets its turn. Memory is bounded per stream and in all; beyond either
//! bound the oldest gap is given up early, and a stream too many passes unordered.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::id::{NodeId, StreamId};
use crate::time::{Deadline, Instant};

/// How much may be held.
#[derive(Clone, Copy, Debug)]
pub struct OrderLimits {
    /// Packets held in one stream. 4,096 are 40 ms of a stream of 100,000 packets/s.
    pub stream_packets: usize,
    /// Bytes held in all streams together.
    pub total_bytes: usize,
    /// Streams remembered.
    pub streams: usize,
    /// A stream that was silent for longer is forgotten when room is needed.
    pub idle: Duration,
}

impl Default for OrderLimits {
    fn default() -> Self {
        Self {
            stream_packets: 4096,
            total_bytes: 32 << 20,
            streams: 8192,
            idle: Duration::from_secs(10),
        }
    }
}

/// What became of packets so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OrderStats {
    /// Came in their turn.
    pub in_order: u64,
    /// Came early and were held.
    pub held: u64,
    /// Came after their gap had been given up.
    pub late: u64,
    /// Gaps given up because the bound was over.
    pub timed_out: u64,
    /// Gaps given up early for want of room.
    pub crowded: u64,
    /// Passed unordered because too many streams were alive.
    pub unordered: u64,
}

#[derive(Debug)]
struct Held<T> {
    until: Instant,
    bytes: usize,
    item: T,
}

#[derive(Debug)]
struct Stream<T> {
    /// The counter whose turn it is.
    next: u64,
    held: BTreeMap<u64, Held<T>>,
    /// The earliest `until` of what is held: this stream's entry in the set of timers.
    timer: Option<Instant>,
    heard_at: Instant,
}

/// Restores the order of every stream that arrives here. `T` is a packet, however it is kept.
#[derive(Debug)]
pub struct Order<T> {
    limits: OrderLimits,
    streams: BTreeMap<(NodeId, StreamId), Stream<T>>,
    timers: BTreeSet<(Instant, (NodeId, StreamId))>,
    bytes: usize,
    stats: OrderStats,
}

impl<T> Order<T> {
    /// Nothing held.
    pub fn new(limits: OrderLimits) -> Self {
        Self {
            limits,
            streams: BTreeMap::new(),
            timers: BTreeSet::new(),
            bytes: 0,
            stats: OrderStats::default(),
        }
    }

    /// A packet came. What may go now, it or others, is appended to `out` in order.
    ///
    /// `hold` is the longest it may wait: zero passes it at once and still counts its turn.
    #[expect(
        clippy::too_many_arguments,
        reason = "a packet's own fields, in the order of the wire"
    )]
    pub fn push(
        &mut self,
        now: Instant,
        source: NodeId,
        stream: StreamId,
        counter: u64,
        hold: Duration,
        bytes: usize,
        item: T,
        out: &mut Vec<T>,
    ) {
        let key = (source, stream);
        if !self.streams.contains_key(&key) && !self.admit(now, key, counter) {
            self.stats.unordered += 1;
            out.push(item);
            return;
        }
        let Some(state) = self.streams.get_mut(&key) else { return };
        state.heard_at = now;
        if counter < state.next {
            self.stats.late += 1;
            out.push(item);
            return;
        }
        if counter == state.next {
            state.next = counter.saturating_add(1);
            self.stats.in_order += 1;
            out.push(item);
            if !state.held.is_empty() {
                self.bytes -= drain(state, state.next, out);
                self.rearm(key);
            }
            return;
        }
        if hold.is_zero() {
            // An unordered packet ahead of a gap: everything held before it goes first.
            self.bytes -= drain(state, counter, out);
            state.next = counter + 1;
            self.stats.in_order += 1;
            out.push(item);
            self.rearm(key);
            return;
        }
        let until = now.plus(hold);
        if let Some(double) = state.held.insert(counter, Held { until, bytes, item }) {
            // The replay window keeps doubles away; should one come, the older goes.
            self.bytes -= double.bytes;
            self.stats.late += 1;
            out.push(double.item);
        }
        self.bytes += bytes;
        self.stats.held += 1;
        if state.held.len() > self.limits.stream_packets {
            self.give_up_gap(key, out);
        } else if state.timer.is_none_or(|at| until < at) {
            self.rearm(key);
        }
        while self.bytes > self.limits.total_bytes {
            let Some(&(_, oldest)) = self.timers.first() else { break };
            self.give_up_gap(oldest, out);
        }
    }

    /// Releases what waited long enough, in order within each stream.
    pub fn handle_timeout(&mut self, now: Instant, out: &mut Vec<T>) {
        while let Some(&(at, key)) = self.timers.first() {
            if at > now {
                break;
            }
            let Some(state) = self.streams.get_mut(&key) else { break };
            let due = state.held.iter().rev().find(|(_, held)| held.until <= now);
            let through = due.map_or(state.next, |(&counter, _)| counter.saturating_add(1));
            self.stats.timed_out += 1;
            self.bytes -= drain(state, through, out);
            self.rearm(key);
        }
    }

    /// When the next gap is given up.
    pub fn poll_timeout(&self) -> Option<Deadline> {
        self.timers.first().map(|&(at, _)| Deadline { at, why: "order held" })
    }

    /// What became of packets so far.
    pub fn stats(&self) -> OrderStats {
        self.stats
    }

    /// Bytes held.
    pub fn held_bytes(&self) -> usize {
        self.bytes
    }

    /// Everything of this source goes at once and is forgotten: its session ended or began anew.
    pub fn forget(&mut self, source: NodeId, out: &mut Vec<T>) {
        let all = (source, StreamId(0))..=(source, StreamId(u16::MAX));
        let keys: Vec<_> = self.streams.range(all).map(|(&key, _)| key).collect();
        for key in keys {
            if let Some(mut state) = self.streams.remove(&key) {
                self.bytes -= drain(&mut state, u64::MAX, out);
                if let Some(at) = state.timer {
                    self.timers.remove(&(at, key));
                }
            }
        }
    }

    /// What is held: of which source, how many packets, of how many bytes. A stream each.
    pub fn held(&self) -> impl Iterator<Item = (NodeId, usize, usize)> + '_ {
        let waiting = self.streams.iter().filter(|(_, state)| !state.held.is_empty());
        waiting.map(|(&(source, _), state)| {
            (source, state.held.len(), state.held.values().map(|held| held.bytes).sum())
        })
    }

    /// Makes room for a new stream whose turn begins at `next`.
    fn admit(&mut self, now: Instant, key: (NodeId, StreamId), next: u64) -> bool {
        if self.streams.len() >= self.limits.streams {
            let idle = self.limits.idle;
            self.streams.retain(|_, s| !s.held.is_empty() || now.since(s.heard_at) < idle);
            if self.streams.len() >= self.limits.streams {
                return false;
            }
        }
        let state = Stream { next, held: BTreeMap::new(), timer: None, heard_at: now };
        self.streams.insert(key, state);
        true
    }

    /// Gives up the oldest gap of a stream: what waits right behind it goes.
    fn give_up_gap(&mut self, key: (NodeId, StreamId), out: &mut Vec<T>) {
        let Some(state) = self.streams.get_mut(&key) else { return };
        let Some((&first, _)) = state.held.first_key_value() else { return };
        self.stats.crowded += 1;
        self.bytes -= drain(state, first, out);
        self.rearm(key);
    }

    fn rearm(&mut self, key: (NodeId, StreamId)) {
        let Some(state) = self.streams.get_mut(&key) else { return };
        if let Some(at) = state.timer.take() {
            self.timers.remove(&(at, key));
        }
        if let Some(at) = state.held.values().map(|held| held.until).min() {
            state.timer = Some(at);
            self.timers.insert((at, key));
        }
    }
}

/// Releases everything below `through`, then all that follows without a gap. Returns its bytes.
fn drain<T>(state: &mut Stream<T>, through: u64, out: &mut Vec<T>) -> usize {
    let mut bytes = 0;
    state.next = state.next.max(through);
    while let Some(entry) = state.held.first_entry() {
        if *entry.key() > state.next {
            break;
        }
        if *entry.key() == state.next {
            state.next = state.next.saturating_add(1);
        }
        let held = entry.remove();
        bytes += held.bytes;
        out.push(held.item);
    }
    bytes
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NONE: [u64; 0] = [];
    const BOUND: Duration = Duration::from_millis(10);

    fn at(ms: u64) -> Instant {
        Instant::from_micros(ms * 1000)
    }

    struct Bench(Order<u64>, Vec<u64>);

    impl Bench {
        fn new(limits: OrderLimits) -> Self {
            Self(Order::new(limits), Vec::new())
        }

        fn push(&mut self, ms: u64, counter: u64) -> Vec<u64> {
            let node = NodeId::new(1).unwrap();
            self.0.push(at(ms), node, StreamId(3), counter, BOUND, 100, counter, &mut self.1);
            std::mem::take(&mut self.1)
        }

        fn timeout(&mut self, ms: u64) -> Vec<u64> {
            self.0.handle_timeout(at(ms), &mut self.1);
            std::mem::take(&mut self.1)
        }
    }

    #[test]
    fn what_comes_early_waits_for_what_comes_late() {
        let mut b = Bench::new(OrderLimits::default());
        assert_eq!(b.push(0, 5), [5], "the first packet sets the turn");
        assert_eq!(b.push(0, 7), NONE);
        assert_eq!(b.push(1, 8), NONE);
        assert_eq!(b.push(2, 6), [6, 7, 8]);
        assert_eq!(b.0.poll_timeout(), None);
        assert_eq!(b.0.held_bytes(), 0);
    }

    #[test]
    fn a_gap_is_given_up_when_the_bound_is_over_and_its_packet_still_passes_late() {
        let mut b = Bench::new(OrderLimits::default());
        b.push(0, 0);
        b.push(1, 2);
        b.push(3, 4);
        assert_eq!(b.0.poll_timeout().unwrap().at, at(11));
        assert_eq!(b.timeout(10), NONE);
        assert_eq!(b.timeout(11), [2]);
        assert_eq!(b.0.poll_timeout().unwrap().at, at(13), "the second gap has its own bound");
        assert_eq!(b.push(12, 1), [1]);
        assert_eq!(b.push(12, 3), [3, 4]);
        assert_eq!(b.0.stats().late, 1);
    }

    #[test]
    fn room_is_bounded_per_stream_and_in_all() {
        let limits = OrderLimits { stream_packets: 3, ..OrderLimits::default() };
        let mut b = Bench::new(limits);
        b.push(0, 0);
        for counter in [2, 4, 6] {
            assert_eq!(b.push(0, counter), NONE);
        }
        assert_eq!(b.push(0, 8), [2], "the oldest gap gives way");
        let mut b = Bench::new(OrderLimits { total_bytes: 250, ..OrderLimits::default() });
        b.push(0, 0);
        assert_eq!([b.push(0, 2), b.push(0, 4)].concat(), NONE);
        assert_eq!(b.push(0, 6), [2]);
        assert!(b.0.held_bytes() <= 250);
    }

    #[test]
    fn a_stream_too_many_passes_unordered_and_idle_ones_make_room() {
        let limits = OrderLimits { streams: 2, ..OrderLimits::default() };
        let mut order = Order::new(limits);
        let mut out = Vec::new();
        let node = NodeId::new(1).unwrap();
        let mut push = |ms, stream, counter| {
            let stream = StreamId(stream);
            order.push(at(ms), node, stream, counter, BOUND, 1, counter, &mut out);
            (std::mem::take(&mut out), order.stats().unordered)
        };
        push(0, 1, 0);
        push(0, 2, 0);
        assert_eq!(push(0, 3, 9), (vec![9], 1));
        assert_eq!(push(0, 3, 7), (vec![7], 2));
        push(11_000, 3, 0);
        assert_eq!(push(11_000, 3, 2), (vec![], 2), "now it is kept in order");
    }

    #[test]
    fn a_forgotten_source_leaves_nothing_behind() {
        let mut b = Bench::new(OrderLimits::default());
        b.push(0, 0);
        b.push(0, 5);
        b.0.forget(NodeId::new(1).unwrap(), &mut b.1);
        assert_eq!(b.1, [5]);
        assert_eq!((b.0.held_bytes(), b.0.poll_timeout()), (0, None));
    }

    proptest! {
        /// Every packet goes exactly once; none waits beyond its bound; with no loss and disorder
        /// within the bound, order is perfect.
        #[test]
        fn nothing_is_lost_doubled_or_kept(
            delays in proptest::collection::vec(0u64..9, 1..200),
            lost in proptest::collection::vec(proptest::bool::weighted(0.1), 200),
            keep_all: bool,
        ) {
            let mut arrivals: Vec<(u64, u64)> = delays.iter().enumerate()
                .filter(|(i, _)| *i == 0 || keep_all || !lost[*i])
                .map(|(i, d)| (i as u64 + if i == 0 { 0 } else { *d }, i as u64))
                .collect();
            arrivals.sort_unstable();
            let mut b = Bench::new(OrderLimits::default());
            let mut went = Vec::new();
            for &(ms, counter) in &arrivals {
                went.extend(b.timeout(ms));
                went.extend(b.push(ms, counter));
                if let Some(deadline) = b.0.poll_timeout() {
                    prop_assert!(deadline.at <= at(ms).plus(BOUND));
                }
            }
            went.extend(b.timeout(10_000));
            let mut all: Vec<_> = arrivals.iter().map(|a| a.1).collect();
            all.sort_unstable();
            if keep_all {
                prop_assert_eq!(&went, &all, "disorder within the bound is undone");
            }
            went.sort_unstable();
            prop_assert_eq!(went, all);
            prop_assert_eq!(b.0.held_bytes(), 0);
        }
    }
}
