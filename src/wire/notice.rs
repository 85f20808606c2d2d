//! The notice: a relay's word to a source that the route it chose cannot be followed.
//!
//! ```text
//! |  0: reason  |  1: hops_left  |  2: class  |  3: reserved, zero  |  4: source 2
//! |  6: relay 2  |  8: segments, 4 × 2  |  16
//! reason 3: size 2 in the place of class and reserved
//! ```
//!
//! It goes straight to the source where the relay has a live link to it, else back the way the
//! packet came: each node finds itself in the echoed route. A source believes it only for a route
//! that it has in use and that names the relay.

use super::header::Segments;
use super::{Reader, WireError};
use crate::id::{Class, NodeId};

/// Why the route cannot be followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoticeReason {
    /// No link of the relay to the next node works.
    NextHopDown,
    /// The relay does not carry this source's traffic.
    Refused,
    /// The packet's frame is longer than the relay's link to the next node carries. It was sent on in
    /// pieces.
    TooLong {
        /// The longest datagram that the link carries.
        size: u16,
    },
}

/// A notice's body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Notice {
    /// Why.
    pub reason: NoticeReason,
    /// How many more nodes may pass it on.
    pub hops_left: u8,
    /// The packet's class; zero where the reason is of all classes.
    pub class: Class,
    /// Whom it is for: the packet's source.
    pub source: NodeId,
    /// Who says it.
    pub relay: NodeId,
    /// The packet's route.
    pub segments: Segments,
}

impl Notice {
    /// The body's size.
    pub const LEN: usize = 16;
    /// What a new notice's `hops_left` is: the nodes between the last relay and the source.
    pub const HOPS: u8 = Segments::LIMIT as u8 - 1;
    /// No link is said to carry less: what is left of an underlay of 576 bytes.
    pub const SIZE_LEAST: u16 = 528;

    /// Reads a body.
    ///
    /// # Errors
    /// Wrong size, unknown reason, reserved bits set, numbers that cannot be, or a relay that is
    /// not a relay of the route.
    pub fn parse(bytes: &[u8]) -> Result<Self, WireError> {
        let mut r = Reader::new(bytes);
        let reason = r.u8("reason")?;
        let hops_left = r.u8("hops_left")?;
        if hops_left > Self::HOPS {
            return Err(WireError::Value("hops_left"));
        }
        let (reason, class) = match reason {
            3 => (NoticeReason::TooLong { size: r.u16("size")? }, Class(0)),
            1 | 2 => {
                let class = Class(r.u8("class")?);
                r.zero::<1>("reserved")?;
                let down = reason == 1;
                (if down { NoticeReason::NextHopDown } else { NoticeReason::Refused }, class)
            }
            _ => return Err(WireError::Value("reason")),
        };
        if usize::from(class.0) >= Class::LIMIT {
            return Err(WireError::Value("class"));
        }
        if matches!(reason, NoticeReason::TooLong { size } if size < Self::SIZE_LEAST) {
            return Err(WireError::Value("size"));
        }
        let source = NodeId::new(r.u16("source")?).ok_or(WireError::Value("source"))?;
        let relay = NodeId::new(r.u16("relay")?).ok_or(WireError::Value("relay"))?;
        let mut raw = [0; Segments::LIMIT];
        for place in &mut raw {
            *place = r.u16("segments")?;
        }
        let segments = Segments::from_raw(raw)?;
        r.end()?;
        let notice = Self { reason, hops_left, class, source, relay, segments };
        if notice.next().is_none() {
            return Err(WireError::Value("relay"));
        }
        Ok(notice)
    }

    /// The body as bytes.
    pub fn to_bytes(&self) -> [u8; Self::LEN] {
        let mut out = [0; Self::LEN];
        let (number, what) = match self.reason {
            NoticeReason::NextHopDown => (1, [self.class.0, 0]),
            NoticeReason::Refused => (2, [self.class.0, 0]),
            NoticeReason::TooLong { size } => (3, size.to_be_bytes()),
        };
        (out[0], out[1]) = (number, self.hops_left);
        out[2..4].copy_from_slice(&what);
        out[4..6].copy_from_slice(&self.source.get().to_be_bytes());
        out[6..8].copy_from_slice(&self.relay.get().to_be_bytes());
        for (place, number) in out[8..].chunks_exact_mut(2).zip(self.segments.raw()) {
            place.copy_from_slice(&number.to_be_bytes());
        }
        out
    }

    /// The node that the relay did not pass the packet to: the one after it in the route.
    pub fn next(&self) -> Option<NodeId> {
        self.after(self.relay)
    }

    /// The node before `node` in the route, the source included: where a notice is passed back to.
    pub fn before(&self, node: NodeId) -> Option<NodeId> {
        let place = self.segments.iter().position(|n| n == node)?;
        if place == 0 { Some(self.source) } else { self.segments.at(place - 1) }
    }

    /// Where the packet was to leave the overlay.
    pub fn destination(&self) -> NodeId {
        self.segments.destination()
    }

    fn after(&self, node: NodeId) -> Option<NodeId> {
        let place = self.segments.iter().position(|n| n == node)?;
        self.segments.at(place + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_notice_finds_its_way_back_along_the_route() {
        let node = |n| NodeId::new(n).unwrap();
        let notice = Notice {
            reason: NoticeReason::NextHopDown,
            hops_left: Notice::HOPS,
            class: Class(2),
            source: node(1),
            relay: node(3),
            segments: Segments::new(&[node(2), node(3), node(4)]).unwrap(),
        };
        assert_eq!(Notice::parse(&notice.to_bytes()), Ok(notice));
        assert_eq!(notice.next(), Some(node(4)));
        assert_eq!(notice.before(node(3)), Some(node(2)));
        assert_eq!(notice.before(node(2)), Some(node(1)));
        let narrow = NoticeReason::TooLong { size: 1292 };
        let narrow = Notice { reason: narrow, class: Class(0), ..notice };
        assert_eq!(narrow.to_bytes()[..4], [3, Notice::HOPS, 0x05, 0x0c]);
        assert_eq!(Notice::parse(&narrow.to_bytes()), Ok(narrow));
        let absurd = Notice { reason: NoticeReason::TooLong { size: 527 }, ..narrow };
        assert_eq!(Notice::parse(&absurd.to_bytes()), Err(WireError::Value("size")));
        let last = Notice { relay: node(4), ..notice };
        assert_eq!(Notice::parse(&last.to_bytes()), Err(WireError::Value("relay")));
    }
}
