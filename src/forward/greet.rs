//! Asks over a link whether it works, and knows an answer when it comes.
//!
//! When to ask is the affair of [`health`](super::health); here it is remembered what was asked.
//! Only the echo of a fresh challenge counts: whatever was replayed, it was not made before.

use std::collections::VecDeque;

use crate::rng::Dice;
use crate::time::Instant;
use crate::wire::VERSION;
use crate::wire::hello::{Hello, Role};

/// Questions that may be open at a time: those of a second of quick asking (20 ms apart).
const OPEN: usize = 50;

/// The open questions of one link.
#[derive(Debug, Default)]
pub(super) struct Greeter {
    open: VecDeque<([u8; 8], Instant)>,
}

impl Greeter {
    /// A new question.
    pub(super) fn ask(&mut self, now: Instant, boot: u64, dice: &mut Dice) -> Hello {
        let challenge = dice.next_u64().max(1).to_be_bytes();
        if self.open.len() == OPEN {
            self.open.pop_front();
        }
        self.open.push_back((challenge, now));
        Hello {
            role: Role::Request,
            version: VERSION,
            capabilities: Hello::CAPABILITIES,
            boot,
            challenge,
            echo: [0; 8],
        }
    }

    /// The answer to a question of the peer.
    pub(super) fn answer(boot: u64, question: &Hello) -> Hello {
        Hello {
            role: Role::Response,
            boot,
            capabilities: Hello::CAPABILITIES,
            challenge: [0; 8],
            echo: question.challenge,
            ..*question
        }
    }

    /// An answer came: when its question was sent, if it is one of ours. Counts once.
    pub(super) fn on_answer(&mut self, echo: [u8; 8]) -> Option<Instant> {
        let place = self.open.iter().position(|(challenge, _)| *challenge == echo)?;
        self.open.remove(place).map(|(_, sent_at)| sent_at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_echo_of_an_open_question_counts_and_only_once() {
        let mut dice = Dice::new(1);
        let mut greeter = Greeter::default();
        let question = greeter.ask(Instant::ZERO, 3, &mut dice);
        let answer = Greeter::answer(9, &question);
        assert_eq!((answer.role, answer.boot, answer.challenge), (Role::Response, 9, [0; 8]));
        assert_eq!(greeter.on_answer([5; 8]), None);
        assert_eq!(greeter.on_answer(answer.echo), Some(Instant::ZERO));
        assert_eq!(greeter.on_answer(answer.echo), None, "answered");
    }

    #[test]
    fn old_questions_make_room_for_new_ones() {
        let mut dice = Dice::new(1);
        let mut greeter = Greeter::default();
        let first = greeter.ask(Instant::ZERO, 3, &mut dice);
        let second = greeter.ask(Instant::ZERO, 3, &mut dice);
        for _ in 1..OPEN {
            greeter.ask(Instant::ZERO, 3, &mut dice);
        }
        assert_eq!(greeter.on_answer(first.challenge), None);
        assert!(greeter.on_answer(second.challenge).is_some());
    }
}
