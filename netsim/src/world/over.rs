//! Streams over the overlay, for pairs without a direct path: what QUIC in carriers is to the daemon.
//!
//! Messages are cut into numbered pieces, one to a carrier. Who hears one says up to where all came; what
//! is not confirmed within a second is said again. So a stream is as slow and as lossy as its relays,
//! and costs what carriers cost.
//!
//! ```text
//! | 0: what | 1: which dial, or which end of a stream | 9: number | 17: piece
//! ```

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;

use thalweg::control::{ConnectionId, ControlInput, over_the_overlay};
use thalweg::id::NodeId;
use thalweg::time::Instant;

use super::site::{node_id, site_of};
use super::streams::Streams;
use super::{DIAL_FAILS, Due, World};

/// Who is there? Number of the dial.
const DIAL: u8 = 1;
/// We are. Number of the dial.
const ANSWER: u8 = 2;
/// A piece for an end of a stream, and the last of its message.
const PIECE: u8 = 3;
const LAST: u8 = 4;
/// An end of a stream has heard everything before this number.
const HEARD: u8 = 5;
/// An end of a stream has nobody at its other end.
const GONE: u8 = 6;

const HEADER: usize = 17;
/// Bytes of a message in one carrier.
const LONGEST: usize = 1000;
/// Pieces under way at once, well below what a relay takes of one source.
const WINDOW: usize = 32;
/// What is not confirmed by then is said again.
const AGAIN: Duration = Duration::from_secs(1);

/// One end of such a stream: what it says and what it hears.
#[derive(Debug, Default)]
pub(super) struct Over {
    /// Not confirmed, in order.
    unheard: VecDeque<(u8, Vec<u8>)>,
    /// The number of the first of those, and how many of them were said.
    first: u64,
    said: usize,
    said_at: Instant,
    /// Pieces of the other end that came without a gap, and those beyond one.
    came: u64,
    early: BTreeMap<u64, (u8, Vec<u8>)>,
    message: Vec<u8>,
    /// What this end's node learns when the first piece comes.
    greeting: Option<ControlInput>,
}

/// A dial under way.
#[derive(Debug)]
pub(super) struct OverDial {
    site: usize,
    life: u64,
    far: NodeId,
    name: String,
    until: Instant,
}

impl Over {
    fn push(&mut self, message: &[u8]) {
        let mut pieces: Vec<_> = message.chunks(LONGEST).map(|p| (PIECE, p.to_vec())).collect();
        match pieces.last_mut() {
            Some((what, _)) => *what = LAST,
            // The stream's first piece, which opens it, is empty.
            None => pieces.push((LAST, Vec::new())),
        }
        self.unheard.extend(pieces);
    }

    /// The next piece that the window lets through: what it is, its number, its bytes.
    fn next(&mut self, now: Instant) -> Option<(u8, u64, Vec<u8>)> {
        let (what, piece) = self.unheard.get(self.said).filter(|_| self.said < WINDOW)?;
        let number = self.first + self.said as u64;
        self.said += 1;
        self.said_at = now;
        Some((*what, number, piece.clone()))
    }

    fn on_heard(&mut self, before: u64) {
        while self.first < before && self.unheard.pop_front().is_some() {
            self.first += 1;
            self.said = self.said.saturating_sub(1);
        }
    }

    /// A piece came; the messages that are whole by it, an empty one for the opening.
    fn on_piece(&mut self, number: u64, what: u8, piece: &[u8]) -> Vec<Vec<u8>> {
        let within = (self.came..self.came + WINDOW as u64).contains(&number);
        if within {
            self.early.insert(number, (what, piece.to_vec()));
        }
        let mut whole = Vec::new();
        while let Some((what, piece)) = self.early.remove(&self.came) {
            self.came += 1;
            self.message.extend_from_slice(&piece);
            if what == LAST {
                whole.push(std::mem::take(&mut self.message));
            }
        }
        whole
    }

    /// Silence since it last said something: it all has to be said again.
    fn forgets(&mut self, now: Instant) {
        if now.since(self.said_at) >= AGAIN {
            self.said = 0;
        }
    }
}

impl World {
    /// A node wants a stream to one it reaches over the overlay alone.
    pub(super) fn dial_over(&mut self, site: usize, life: u64, far: NodeId, name: String) {
        self.serial += 1;
        let (number, until) = (self.serial, self.now.plus(DIAL_FAILS));
        self.over_dials.insert(number, OverDial { site, life, far, name, until });
        self.put_carrier(site, far, (DIAL, number, 0), &[]);
    }

    /// A node says something on such a stream.
    pub(super) fn say_over(&mut self, site: usize, id: ConnectionId, message: &[u8]) {
        if let Some(over) = self.streams.over(site, id) {
            over.push(message);
            self.say_pieces(site, id);
        }
    }

    /// A node closes one: the other end is told, if that comes through.
    pub(super) fn close_over(&mut self, site: usize, id: ConnectionId) {
        if let Some(far) = self.streams.leave(site, id) {
            self.put_carrier(site, node_id(far.site), (GONE, far.connection.0, 0), &[]);
        }
    }

    /// Says again what was not heard; gives up dials that nobody answers.
    pub(super) fn repeat_over(&mut self) {
        let now = self.now;
        let mut speaking = BTreeSet::new();
        for (number, dial) in std::mem::take(&mut self.over_dials) {
            let OverDial { site, life, far, .. } = dial;
            if now >= dial.until {
                let (endpoint, why) = (over_the_overlay(far), "no answer".to_owned());
                let input = ControlInput::DialFailed { endpoint, why };
                self.put(now, Due::Control { to: site, life, input });
            } else {
                self.put_carrier(site, far, (DIAL, number, 0), &[]);
                self.over_dials.insert(number, dial);
                speaking.insert(site);
            }
        }
        for (site, id) in self.streams.overs() {
            if let Some(over) = self.streams.over(site, id) {
                over.forgets(now);
            }
            self.say_pieces(site, id);
            speaking.insert(site);
        }
        speaking.into_iter().for_each(|site| self.drain(site, false));
    }

    /// A carrier came to a site.
    pub(super) fn on_carrier(&mut self, site: usize, from: NodeId, bytes: &[u8]) {
        let now = self.now;
        let word = |at: usize| bytes.get(at..at + 8)?.try_into().ok().map(u64::from_be_bytes);
        let (Some(&what), Some(id), Some(number)) = (bytes.first(), word(1), word(9)) else {
            return;
        };
        let end = ConnectionId(id);
        match what {
            DIAL => self.put_carrier(site, from, (ANSWER, id, 0), &[]),
            ANSWER => self.on_over_answer(site, from, id),
            PIECE | LAST => {
                let Some(over) = self.streams.over(site, end) else {
                    let other = Streams::other(end);
                    return self.put_carrier(site, from, (GONE, other.0, 0), &[]);
                };
                let mut whole = over.on_piece(number, what, &bytes[HEADER..]);
                let came = over.came;
                let greeting = over.greeting.take_if(|_| came > 0);
                if greeting.is_some() {
                    whole.remove(0);
                }
                let said = whole.into_iter().map(|message| ControlInput::Message {
                    connection: end,
                    bytes: message.into(),
                });
                let Some(life) = self.hosts.get(&site).map(|host| host.life) else { return };
                for input in greeting.into_iter().chain(said) {
                    self.put(now, Due::Control { to: site, life, input });
                }
                let other = Streams::other(end);
                self.put_carrier(site, from, (HEARD, other.0, came), &[]);
            }
            HEARD => {
                if let Some(over) = self.streams.over(site, end) {
                    over.on_heard(number);
                    self.say_pieces(site, end);
                }
            }
            GONE => {
                let Some(life) = self.hosts.get(&site).map(|host| host.life) else { return };
                if self.streams.leave(site, end).is_some() {
                    let why = "reset by the peer".into();
                    let input = ControlInput::Closed { connection: end, why };
                    self.put(now, Due::Control { to: site, life, input });
                }
            }
            _ => {}
        }
    }

    fn on_over_answer(&mut self, site: usize, from: NodeId, number: u64) {
        let life = self.hosts.get(&site).map(|host| host.life);
        let far = site_of(from);
        let asked = |dial: &&OverDial| (dial.site, Some(dial.life), dial.far) == (site, life, from);
        if self.over_dials.get(&number).filter(asked).is_none() {
            return;
        }
        let Some(dial) = self.over_dials.remove(&number) else { return };
        let far_life = self.hosts.get(&far).map(|host| host.life);
        let (Some(life), Some(far_life)) = (life, far_life) else { return };
        let endpoints: [SocketAddr; 2] = [from, node_id(site)].map(over_the_overlay);
        let input = match self.knows(far, &dial.name, Some(from)) {
            Ok(()) => {
                let now = self.now;
                let ids = self.streams.open((site, life, now), (far, far_life, now));
                let (ours, theirs) = self.introduce((site, ids.0), (far, ids.1), endpoints);
                self.streams.carry_over(site, ids.0, Over::default());
                let greeting = Some(theirs);
                self.streams.carry_over(far, ids.1, Over { greeting, ..Over::default() });
                self.say_over(site, ids.0, &[]);
                ours
            }
            Err(why) => ControlInput::DialFailed { endpoint: endpoints[0], why: why.into() },
        };
        self.put(self.now, Due::Control { to: site, life, input });
    }

    fn say_pieces(&mut self, site: usize, id: ConnectionId) {
        let now = self.now;
        let far = self.streams.direction(site, id).map(|direction| direction.far);
        while let Some(far) = far
            && let Some((what, number, piece)) =
                self.streams.over(site, id).and_then(|o| o.next(now))
        {
            self.put_carrier(site, node_id(far.site), (what, far.connection.0, number), &piece);
        }
    }

    /// Hands a carrier to a site's forwarder, which is drained by the caller.
    fn put_carrier(&mut self, site: usize, to: NodeId, head: (u8, u64, u64), piece: &[u8]) {
        let (now, (what, id, number)) = (self.now, head);
        let mut bytes = Vec::with_capacity(HEADER + piece.len());
        bytes.push(what);
        bytes.extend_from_slice(&id.to_be_bytes());
        bytes.extend_from_slice(&number.to_be_bytes());
        bytes.extend_from_slice(piece);
        if let Some(host) = self.hosts.get_mut(&site) {
            host.forward.push_carrier(now, to, &bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn say_all(over: &mut Over, now: Instant) -> Vec<(u8, u64, Vec<u8>)> {
        std::iter::from_fn(|| over.next(now)).collect()
    }

    #[test]
    fn what_is_lost_and_out_of_order_comes_out_whole_and_once() {
        let now = Instant::from_micros(5_000_000);
        let (mut near, mut far) = (Over::default(), Over::default());
        near.push(&[]);
        near.push(&[7; 40_500]);
        near.push(b"after");
        let said = say_all(&mut near, now);
        assert_eq!(said.len(), WINDOW);
        let mut came = Vec::new();
        // The fourth is lost, the others come the wrong way round.
        for (what, number, piece) in said.iter().rev().filter(|(_, number, _)| *number != 3) {
            came.extend(far.on_piece(*number, *what, piece));
        }
        assert_eq!((came.as_slice(), far.came), (&[Vec::new()][..], 3));
        near.on_heard(far.came);
        assert_eq!(say_all(&mut near, now).len(), 3, "as many as were heard");
        near.forgets(now.plus(AGAIN));
        while !near.unheard.is_empty() {
            for (what, number, piece) in say_all(&mut near, now.plus(AGAIN)) {
                came.extend(far.on_piece(number, what, &piece));
            }
            near.on_heard(far.came);
        }
        assert_eq!(came, [vec![], vec![7; 40_500], b"after".to_vec()]);
    }
}
