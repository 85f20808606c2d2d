//! How much time packets of one kind usually have on this hop.
//!
//! One that an earlier hop repaired has less than its kind. Few as they are, such packets cannot make up a
//! code: symbols for them alone come late. So what is coded is judged by the kind, not by the packet.

use std::time::Duration;

use crate::time::micros;
use crate::wire::header::RouteHeader;

/// Kinds told apart; those that share a place share a mean.
const KINDS: usize = 64;
/// Packets that a mean rests on, about.
const OVER: i64 = 16;

/// Means of the time that is left, by kind: same source, budget and number of hops to go. Empty on a link
/// that never lost anything.
#[derive(Debug, Default)]
pub(super) struct Slacks(Vec<i64>);

impl Slacks {
    /// Notes one packet's and returns its kind's.
    pub(super) fn usual(&mut self, route: &[u8; RouteHeader::LEN], slack: Duration) -> Duration {
        let slack = micros(slack).min(1 << 32) as i64;
        let (source, budget) = (RouteHeader::source_of(route), RouteHeader::budget_of(route));
        let (_, after) = RouteHeader::hops_of(route);
        let kind = usize::from(source) + usize::from(budget) * 7 + after as usize * 31;
        if self.0.is_empty() {
            self.0.resize(KINDS, 0);
        }
        let mean = &mut self.0[kind % KINDS];
        *mean = if *mean == 0 { slack } else { *mean + (slack - *mean) / OVER };
        Duration::from_micros(mean.unsigned_abs())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::{Class, NodeId};
    use crate::unit::Residual;
    use crate::wire::header::{Flags, Segments};

    #[test]
    fn a_packet_that_was_held_up_hardly_moves_what_its_kind_has() {
        let route = |source: u16, budget| {
            let node = |n| NodeId::new(n).unwrap();
            RouteHeader {
                hop_seq: 0,
                class: Class(0),
                flags: Flags::from_bits(0).unwrap(),
                ecn: 0,
                segments_left: 0,
                residual: Residual::DEFAULT,
                budget,
                age: 0,
                source: node(source),
                segments: Segments::new(&[node(2)]).unwrap(),
            }
            .to_bytes()
        };
        let ms = Duration::from_millis;
        let (mut slacks, own, other) = (Slacks::default(), route(1, 500), route(3, 500));
        (0..50).for_each(|_| assert_eq!(slacks.usual(&own, ms(40)), ms(40)));
        assert!(slacks.usual(&own, ms(8)) == ms(38), "one of many");
        assert_eq!(slacks.usual(&other, ms(9)), ms(9), "another source's are another kind");
        let last = (0..200).map(|_| slacks.usual(&own, ms(8))).last();
        assert!(last < Some(ms(9)), "all of them: {last:?}");
    }
}
