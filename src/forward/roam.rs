//! A peer that comes from another endpoint than before is believed once it answers from there.
//!
//! A frame that authenticates proves who sealed it, not where that is: whoever sees a frame can send it
//! on from elsewhere. So a new source is a *candidate*: it is asked by a hello sent there, and data goes
//! there only when the echo of that challenge has come from the very same place.
//!
//! ```text
//! frame from elsewhere, newer than all from the endpoint ──► candidate ── echo from there ──► endpoint
//!                                                                │ heard at the endpoint again: dropped
//! ```
//!
//! Counters tell newer from older, so what is still under way from a place that was left moves nothing
//! back. One candidate is kept per link, and never more than three times as many bytes are sent there as
//! came from there (RFC 9000, section 8).

use std::net::SocketAddr;
use std::time::Duration;

use crate::rng::Dice;
use crate::time::Instant;
use crate::wire::header::Clear;
use crate::wire::hello::Hello;
use crate::wire::{TAG, hello};

use super::greet::Greeter;

/// Between two questions to one candidate.
const ASK_EVERY: Duration = Duration::from_millis(100);
/// How many times as many bytes are sent to a candidate as came from it.
const FACTOR: u64 = 3;
/// Bytes of a question on the wire.
const QUESTION: u64 = (Clear::LEN + hello::Hello::LEN + TAG) as u64;

/// Where one link's peer was heard.
#[derive(Debug, Default)]
pub(super) struct Roaming {
    /// The highest counter of a frame from the endpoint in force.
    newest: u64,
    candidate: Option<Candidate>,
}

#[derive(Debug)]
struct Candidate {
    at: SocketAddr,
    newest: u64,
    received: u64,
    sent: u64,
    asked_at: Option<Instant>,
    greeter: Greeter,
}

impl Roaming {
    /// A frame with this counter and so many bytes authenticated. Returns whether its source is to be
    /// asked.
    pub(super) fn on_authentic(
        &mut self,
        now: Instant,
        (from, endpoint): (SocketAddr, SocketAddr),
        counter: u64,
        bytes: usize,
    ) -> bool {
        if from == endpoint {
            self.newest = self.newest.max(counter);
            if self.candidate.as_ref().is_some_and(|c| c.newest < counter) {
                self.candidate = None;
            }
            return false;
        }
        if counter <= self.newest && self.newest > 0 {
            return false;
        }
        if self.candidate.as_ref().is_none_or(|c| c.at != from && c.newest < counter) {
            self.candidate = Some(Candidate {
                at: from,
                newest: counter,
                received: 0,
                sent: 0,
                asked_at: None,
                greeter: Greeter::default(),
            });
        }
        let Some(candidate) = self.candidate.as_mut().filter(|c| c.at == from) else {
            return false;
        };
        candidate.newest = candidate.newest.max(counter);
        candidate.received = candidate.received.saturating_add(bytes as u64);
        let rested = candidate.asked_at.is_none_or(|at| now.since(at) >= ASK_EVERY);
        rested && candidate.sent + QUESTION <= FACTOR.saturating_mul(candidate.received)
    }

    /// The question for the candidate, and where it goes.
    pub(super) fn ask(
        &mut self,
        now: Instant,
        boot: u64,
        dice: &mut Dice,
    ) -> Option<(SocketAddr, Hello)> {
        let candidate = self.candidate.as_mut()?;
        candidate.asked_at = Some(now);
        candidate.sent += QUESTION;
        Some((candidate.at, candidate.greeter.ask(now, boot, dice)))
    }

    /// An answer came from a place. If it is the candidate's, to a question it was asked: since when the
    /// question was under way. The candidate is the endpoint then.
    pub(super) fn on_answer(&mut self, from: SocketAddr, echo: [u8; 8]) -> Option<Instant> {
        let candidate = self.candidate.as_mut().filter(|c| c.at == from)?;
        let sent_at = candidate.greeter.on_answer(echo)?;
        self.newest = candidate.newest;
        self.candidate = None;
        Some(sent_at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Instant {
        Instant::from_micros(ms * 1000)
    }

    fn place(n: u8) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, n], 4600))
    }

    const HOME: u8 = 1;

    fn heard(roaming: &mut Roaming, now: Instant, from: u8, counter: u64) -> bool {
        roaming.on_authentic(now, (place(from), place(HOME)), counter, 60)
    }

    #[test]
    fn a_newcomer_is_asked_and_only_its_own_answer_from_its_own_place_moves_the_link() {
        let (mut roaming, mut dice) = (Roaming::default(), Dice::new(1));
        assert!(!heard(&mut roaming, at(0), HOME, 10));
        assert!(heard(&mut roaming, at(1), 2, 11));
        let (to, question) = roaming.ask(at(1), 1, &mut dice).unwrap();
        assert_eq!(to, place(2));
        assert_eq!(roaming.on_answer(place(3), question.challenge), None, "from elsewhere");
        assert_eq!(roaming.on_answer(place(2), [9; 8]), None, "to another question");
        assert_eq!(roaming.on_answer(place(2), question.challenge), Some(at(1)));
        assert_eq!(roaming.on_answer(place(2), question.challenge), None, "once");
    }

    #[test]
    fn what_is_older_than_the_newest_from_the_endpoint_is_nobodys_move() {
        let mut roaming = Roaming::default();
        heard(&mut roaming, at(0), HOME, 100);
        assert!(!heard(&mut roaming, at(1), 2, 99), "overtaken on the way");
        assert!(heard(&mut roaming, at(2), 2, 101));
        // Heard at home again: it has not moved, somebody sent its frame on from elsewhere.
        heard(&mut roaming, at(3), HOME, 102);
        assert_eq!(roaming.ask(at(3), 1, &mut Dice::new(1)), None);
    }

    #[test]
    fn a_candidate_gets_no_more_than_three_times_what_came_from_it() {
        let (mut roaming, mut dice) = (Roaming::default(), Dice::new(1));
        let mut asked = 0;
        for n in 1..=100 {
            // Frames of 28 bytes, the shortest there are, far apart.
            let due = roaming.on_authentic(at(n * 200), (place(2), place(HOME)), n, 28);
            if due && roaming.ask(at(n * 200), 1, &mut dice).is_some() {
                asked += QUESTION;
            }
            assert!(asked <= 3 * 28 * n, "{asked} after {n} frames");
        }
        assert!(asked > 100 * 28, "but it is asked");
        let (mut roaming, mut count) = (Roaming::default(), 0);
        for n in 1..=1000 {
            let due = roaming.on_authentic(at(0), (place(2), place(HOME)), n, 1400);
            count += u32::from(due && roaming.ask(at(0), 1, &mut dice).is_some());
        }
        assert_eq!(count, 1, "a run of frames is one reason to ask");
    }

    #[test]
    fn a_second_candidate_takes_the_place_of_the_first_only_with_newer_frames() {
        let mut roaming = Roaming::default();
        heard(&mut roaming, at(0), HOME, 1);
        assert!(heard(&mut roaming, at(1), 2, 50));
        assert!(!heard(&mut roaming, at(2), 3, 40), "older than the candidate's");
        assert!(heard(&mut roaming, at(3), 3, 60));
    }
}
