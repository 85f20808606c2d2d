//! Asks over a link whether it works, and knows an answer when it comes.
//!
//! A link carries data only after the echo of a fresh challenge came back over it, sealed. While it
//! does not answer it is asked again and again; while it works it is asked only where nothing else
//! has confirmed it for a while.

use std::collections::VecDeque;
use std::time::Duration;

use crate::rng::Dice;
use crate::time::{Deadline, Instant};
use crate::wire::VERSION;
use crate::wire::hello::{Hello, Role};

/// Questions that may be open at a time.
const OPEN: usize = 8;
/// Between two questions on a link that has never answered, at first: a lost one costs this much of
/// the start.
const FIRST: Duration = Duration::from_millis(200);
/// Between two questions on a link that does not answer, in the end: how long a link may be back
/// before it is noticed.
const LAST: Duration = Duration::from_secs(1);

/// The questions of one link.
#[derive(Debug)]
pub(super) struct Greeter {
    open: VecDeque<([u8; 8], Instant)>,
    /// When to ask next; `None` while something else says that the link works.
    next_at: Option<Instant>,
    pause: Duration,
}

impl Greeter {
    pub(super) fn new(now: Instant) -> Self {
        Self { open: VecDeque::new(), next_at: Some(now), pause: FIRST }
    }

    /// The question that is due.
    pub(super) fn poll(&mut self, now: Instant, boot: u64, dice: &mut Dice) -> Option<Hello> {
        if self.next_at.is_none_or(|at| at > now) {
            return None;
        }
        self.next_at = Some(now.plus(dice.jitter(self.pause)));
        self.pause = (self.pause * 2).min(LAST);
        let challenge = dice.next_u64().max(1).to_be_bytes();
        if self.open.len() == OPEN {
            self.open.pop_front();
        }
        self.open.push_back((challenge, now));
        Some(Hello {
            role: Role::Request,
            version: VERSION,
            capabilities: Hello::CAPABILITIES,
            boot,
            challenge,
            echo: [0; 8],
        })
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

    /// An answer came: when its question was sent, if it is one of ours.
    pub(super) fn on_answer(&mut self, echo: [u8; 8]) -> Option<Instant> {
        let place = self.open.iter().position(|(challenge, _)| *challenge == echo)?;
        let (_, sent_at) = self.open[place];
        self.open.drain(..=place);
        Some(sent_at)
    }

    pub(super) fn poll_timeout(&self) -> Option<Deadline> {
        self.next_at.map(|at| Deadline { at, why: "hello" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_echo_of_an_open_question_counts_and_only_once() {
        let mut dice = Dice::new(1);
        let mut greeter = Greeter::new(Instant::ZERO);
        let question = greeter.poll(Instant::ZERO, 3, &mut dice).unwrap();
        assert_eq!(greeter.poll(Instant::ZERO, 3, &mut dice), None, "not before its time");
        let answer = Greeter::answer(9, &question);
        assert_eq!((answer.role, answer.boot, answer.challenge), (Role::Response, 9, [0; 8]));
        assert_eq!(greeter.on_answer([5; 8]), None);
        assert_eq!(greeter.on_answer(answer.echo), Some(Instant::ZERO));
        assert_eq!(greeter.on_answer(answer.echo), None, "answered");
    }

    #[test]
    fn a_silent_link_is_asked_forever_but_ever_less_often() {
        let mut dice = Dice::new(1);
        let mut greeter = Greeter::new(Instant::ZERO);
        let mut asked = Vec::new();
        while asked.len() < 20 {
            let at = greeter.poll_timeout().unwrap().at;
            assert!(greeter.poll(at, 0, &mut dice).is_some());
            asked.push(at);
        }
        let gaps: Vec<_> = asked.windows(2).map(|w| w[1].since(w[0])).collect();
        assert!(gaps[0] <= FIRST * 11 / 10);
        assert!(gaps[10..].iter().all(|gap| (LAST * 9 / 10..=LAST * 11 / 10).contains(gap)));
        assert!(greeter.open.len() <= OPEN);
    }
}
