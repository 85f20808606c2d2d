//! What a full send buffer refused: kept for a moment, in its order, until the kernel takes more.
//!
//! These frames have their hop sequence already, so to drop them is a loss that repair would mend
//! over the very line that is full. They are few: while any wait, the caller fetches no more, and the
//! forwarder's fair queue drops by its own rules. A buffer that stays full for longer than [`HOLD`]
//! belongs to a device that moves nothing: what waited is given up and nothing is kept any more, so
//! that the other sockets' traffic goes on, until the kernel takes a datagram again.

use std::net::SocketAddr;
use std::ops::Range;
use std::time::Duration;

use bytes::Bytes;

use crate::id::LinkId;
use crate::time::Instant;

/// One message of a `sendmmsg`.
#[derive(Clone, Debug)]
pub(super) struct Item {
    pub(super) to: SocketAddr,
    pub(super) tos: u8,
    /// Which datagrams of its batch.
    pub(super) range: Range<usize>,
    /// Bytes of them all.
    pub(super) bytes: usize,
    /// Split by the kernel into datagrams of this size.
    pub(super) segment: Option<u16>,
    /// Whose frames these are; QUIC's are nobody's.
    pub(super) link: Option<LinkId>,
}

/// Bytes kept at most: one batch of the forwarder (512 KiB) and what QUIC sends meanwhile.
pub(super) const BYTES: usize = 1 << 20;
/// How long a full buffer that takes nothing is waited for: as long as the forwarder's queue lets a
/// packet wait.
pub(super) const HOLD: Duration = Duration::from_millis(100);
/// Between attempts where the kernel does not say that there is room: it does so only at half of the
/// buffer, which a slow line may take longer than [`HOLD`] to drain.
pub(super) const RETRY: Duration = Duration::from_millis(5);

/// Whether the kernel takes what is sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Open,
    /// Nothing taken since then; what is refused is kept, and was last tried then.
    Full { since: Instant, tried: Instant },
    /// Full for too long; what is refused is dropped.
    Stuck,
}

/// Datagrams that wait for room in a socket's send buffer.
#[derive(Debug, Default)]
pub(super) struct Pending {
    state: State,
    datagrams: Vec<Bytes>,
    bytes: usize,
    items: Vec<Item>,
}

impl Pending {
    /// The kernel's buffer was found full. Returns whether that is news.
    pub(super) fn on_full(&mut self, now: Instant) -> bool {
        match &mut self.state {
            State::Open => self.state = State::Full { since: now, tried: now },
            State::Full { tried, .. } => {
                *tried = now;
                return false;
            }
            State::Stuck => return false,
        }
        true
    }

    /// The kernel took something.
    pub(super) fn on_taken(&mut self) {
        if self.items.is_empty() {
            self.state = State::Open;
        }
    }

    /// Keeps one message for later. `false` where there is no room, or no hope.
    pub(super) fn keep(&mut self, datagrams: &[Bytes], item: &Item) -> bool {
        let fits = self.bytes + item.bytes <= BYTES;
        if self.state == State::Stuck || !fits {
            return false;
        }
        let start = self.datagrams.len();
        self.datagrams.extend_from_slice(&datagrams[item.range.clone()]);
        self.bytes += item.bytes;
        self.items.push(Item { range: start..self.datagrams.len(), ..item.clone() });
        true
    }

    /// Takes all that waits, to be tried again; what is refused again comes back by `keep`.
    pub(super) fn take(&mut self) -> (Vec<Bytes>, Vec<Item>) {
        self.bytes = 0;
        (std::mem::take(&mut self.datagrams), std::mem::take(&mut self.items))
    }

    /// Whether it is time to try again.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        matches!(self.state, State::Full { tried, .. } if tried.plus(RETRY) <= now)
    }

    /// The clock reached `now`: whether what waits is to be given up.
    pub(super) fn expires(&mut self, now: Instant) -> bool {
        let over = matches!(self.state, State::Full { since, .. } if since.plus(HOLD) <= now);
        if over {
            self.state = State::Stuck;
        }
        over
    }

    /// When to ask [`Pending::is_due`] and [`Pending::expires`].
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        match self.state {
            State::Full { since, tried } => Some(since.plus(HOLD).min(tried.plus(RETRY))),
            State::Open | State::Stuck => None,
        }
    }

    /// Whether anything waits.
    pub(super) fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// Whether the buffer is full and was not given up.
    pub(super) fn holds_back(&self) -> bool {
        matches!(self.state, State::Full { .. })
    }

    /// Whether the buffer was full when last tried.
    pub(super) fn is_full(&self) -> bool {
        self.state != State::Open
    }

    /// Bytes that wait.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }
}
