//! Control streams of the virtual floor: reliable, ordered, authenticated, as slow as the links.
//!
//! What is said into a cut is held and comes through when the cut heals, since QUIC would repeat it
//! without end. A peer that died says nothing; one that started anew answers old streams with a
//! reset.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use thalweg::control::ConnectionId;
use thalweg::time::Instant;

use super::over::Over;

/// One end of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct End {
    pub(super) site: usize,
    /// The start of the node it belongs to.
    pub(super) life: u64,
    pub(super) connection: ConnectionId,
}

/// What one end sends to the other.
#[derive(Debug)]
pub(super) struct Direction {
    pub(super) far: End,
    /// Nothing may come before what was said earlier.
    pub(super) last_at: Instant,
    /// Said into a cut.
    pub(super) held: VecDeque<Bytes>,
    /// Where it goes over the overlay.
    over: Option<Box<Over>>,
}

/// All streams, by the end that speaks.
#[derive(Debug, Default)]
pub(super) struct Streams {
    next: u64,
    directions: BTreeMap<(usize, ConnectionId), Direction>,
}

impl Streams {
    /// A stream between two nodes whose first message cannot come before the given instants;
    /// returns the numbers of both ends.
    pub(super) fn open(
        &mut self,
        near: (usize, u64, Instant),
        far: (usize, u64, Instant),
    ) -> (ConnectionId, ConnectionId) {
        let ids = (ConnectionId(self.next), ConnectionId(self.next + 1));
        self.next += 2;
        let mut join = |from: usize, id, to: (usize, u64, Instant), far_id| {
            let far = End { site: to.0, life: to.1, connection: far_id };
            let direction = Direction { far, last_at: to.2, held: VecDeque::new(), over: None };
            self.directions.insert((from, id), direction);
        };
        join(near.0, ids.0, far, ids.1);
        join(far.0, ids.1, near, ids.0);
        ids
    }

    pub(super) fn direction(&mut self, site: usize, id: ConnectionId) -> Option<&mut Direction> {
        self.directions.get_mut(&(site, id))
    }

    /// Both ends are gone; returns the far one.
    pub(super) fn close(&mut self, site: usize, id: ConnectionId) -> Option<End> {
        let far = self.directions.remove(&(site, id))?.far;
        self.directions.remove(&(far.site, far.connection));
        Some(far)
    }

    /// This end goes over the overlay.
    pub(super) fn carry_over(&mut self, site: usize, id: ConnectionId, over: Over) {
        if let Some(direction) = self.direction(site, id) {
            direction.over = Some(Box::new(over));
        }
    }

    /// What an end says and hears, where it goes over the overlay.
    pub(super) fn over(&mut self, site: usize, id: ConnectionId) -> Option<&mut Over> {
        self.direction(site, id)?.over.as_deref_mut()
    }

    /// All ends that go over the overlay.
    pub(super) fn overs(&self) -> Vec<(usize, ConnectionId)> {
        let overs = self.directions.iter().filter(|(_, d)| d.over.is_some());
        overs.map(|(&end, _)| end).collect()
    }

    /// One end is gone, the other does not know yet; returns the other.
    pub(super) fn leave(&mut self, site: usize, id: ConnectionId) -> Option<End> {
        self.directions.remove(&(site, id)).map(|direction| direction.far)
    }

    /// The other end of a stream, also where this one is gone: ends are numbered in pairs.
    pub(super) const fn other(end: ConnectionId) -> ConnectionId {
        ConnectionId(end.0 ^ 1)
    }

    /// The node at a site started anew or died: its own ends are forgotten.
    pub(super) fn forget(&mut self, site: usize) {
        self.directions.retain(|(from, _), _| *from != site);
    }

    /// Streams that hold something back, by the end that speaks.
    pub(super) fn holding(&self) -> Vec<(usize, ConnectionId, usize)> {
        let holding = self.directions.iter().filter(|(_, d)| !d.held.is_empty());
        holding.map(|(&(site, id), d)| (site, id, d.far.site)).collect()
    }
}
