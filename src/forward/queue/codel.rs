//! CoDel (RFC 8289) for one flow: when its packets have waited too long for too long, one is told.

use std::time::Duration;

use crate::time::Instant;

/// What is asked of a flow's wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Control {
    /// A wait that may stand.
    pub target: Duration,
    /// For how long a wait must exceed the target: a round trip of those who are to react.
    pub interval: Duration,
    /// Longest wait: beyond it a packet is dropped in its turn.
    pub most: Duration,
}

impl Control {
    /// RFC 8289, section 4.4: for round trips from 10 ms to a second.
    pub const DEFAULT: Self = Self {
        target: Duration::from_millis(5),
        interval: Duration::from_millis(100),
        most: Duration::from_millis(100),
    };
}

/// The control law's state.
#[derive(Debug, Default)]
pub(super) struct Codel {
    /// When the wait will have been above the target for an interval.
    above_at: Option<Instant>,
    next: Instant,
    count: u32,
    last_count: u32,
    dropping: bool,
}

impl Codel {
    /// Nothing of the flow waits.
    pub(super) fn on_empty(&mut self) {
        self.above_at = None;
    }

    /// Whether the packet that is about to leave after such a wait shall be dropped or marked.
    /// `backlog`: bytes of its flow, itself among them. Ask again for the next after each drop.
    pub(super) fn signals(
        &mut self,
        now: Instant,
        wait: Duration,
        backlog: usize,
        control: Control,
    ) -> bool {
        if wait < control.target || backlog <= super::FULL_PACKET {
            (self.above_at, self.dropping) = (None, false);
            return false;
        }
        let above_at = *self.above_at.get_or_insert(now.plus(control.interval));
        if now < above_at {
            self.dropping = false;
            return false;
        }
        if self.dropping {
            let due = now >= self.next;
            if due {
                self.count = self.count.saturating_add(1);
                self.next = self.next.plus(self.space(control));
            }
            return due;
        }
        self.dropping = true;
        // Where it dropped just now, it goes on nearly as fast as it did.
        let recent = now.since(self.next) < control.interval * 16;
        let run = self.count.saturating_sub(self.last_count);
        self.count = if run > 1 && recent { run } else { 1 };
        self.last_count = self.count;
        self.next = now.plus(self.space(control));
        true
    }

    fn space(&self, control: Control) -> Duration {
        control.interval.div_f64(f64::from(self.count.max(1)).sqrt())
    }
}
