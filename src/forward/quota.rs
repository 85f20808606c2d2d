//! How much of one source a relay carries.
//!
//! The fair queue keeps one flow from another's place, but who has many flows has many places. Where the
//! operator sets a quota, a source's packets beyond it are dropped before they are queued, so that no
//! member can fill a relay's lines for the others. Each lane holds its part of it.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::id::NodeId;
use crate::time::{Instant, micros};

/// What a source may send at once, in time at its rate, and at least: a full run of segments.
const BURST: Duration = Duration::from_millis(100);
const BURST_LEAST: u64 = 64 * 1024;
/// Sources counted apart; with more of them the longest silent make room.
const SOURCES: usize = 1024;

/// What each source may still send through here.
#[derive(Debug, Default)]
pub(super) struct Quota {
    /// Bytes a second; none: no quota.
    rate: Option<u64>,
    /// By source: millionths of bytes, and as of when.
    sources: BTreeMap<NodeId, (u64, Instant)>,
}

impl Quota {
    /// So many bytes a second of each source; `None`: as many as there are.
    pub(super) const fn new(rate: Option<u64>) -> Self {
        Self { rate, sources: BTreeMap::new() }
    }

    /// Whether so many bytes more of this source are carried.
    pub(super) fn admits(&mut self, now: Instant, source: NodeId, bytes: usize) -> bool {
        let Some(rate) = self.rate else { return true };
        let full = (rate * micros(BURST)).max(BURST_LEAST * 1_000_000);
        if self.sources.len() >= SOURCES && !self.sources.contains_key(&source) {
            let oldest = self.sources.iter().min_by_key(|(_, (_, at))| *at).map(|(&node, _)| node);
            oldest.map(|node| self.sources.remove(&node));
        }
        let (level, at) = self.sources.entry(source).or_insert((full, now));
        let gained = micros(now.since(*at)).saturating_mul(rate);
        (*level, *at) = (level.saturating_add(gained).min(full), now);
        let wanted = bytes as u64 * 1_000_000;
        let admits = *level >= wanted;
        *level -= if admits { wanted } else { 0 };
        admits
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(n: u16) -> NodeId {
        NodeId::new(n).unwrap()
    }

    fn at(ms: u64) -> Instant {
        Instant::from_micros(ms * 1000)
    }

    #[test]
    fn each_source_has_its_own_rate_and_one_takes_nothing_from_another() {
        let mut quota = Quota::new(Some(1_000_000));
        let mut sent = [0_u64; 2];
        for ms in 0..10_000 {
            for (n, sent) in sent.iter_mut().enumerate() {
                // The first sends twenty times its rate, the second half of it.
                let packets = if n == 0 { 20 } else { ms % 2 };
                for _ in 0..packets {
                    *sent += u64::from(quota.admits(at(ms), node(n as u16 + 1), 1000));
                }
            }
        }
        assert!((10_000..=10_110).contains(&sent[0]), "{sent:?}");
        assert_eq!(sent[1], 5000);
    }

    #[test]
    fn without_a_quota_nothing_is_counted_and_with_one_memory_is_bounded() {
        let mut none = Quota::new(None);
        assert!((0..1000).all(|_| none.admits(at(0), node(1), usize::MAX)));
        assert!(none.sources.is_empty());
        let mut quota = Quota::new(Some(1000));
        for n in 1..5000 {
            quota.admits(at(u64::from(n)), node(n), 100);
        }
        assert_eq!(quota.sources.len(), SOURCES);
    }
}
