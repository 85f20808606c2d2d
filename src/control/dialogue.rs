//! The course of one control stream: hello → synchronise → steady, whoever carries it.
//!
//! The side with the greater number says hello first; the other answers on the one stream of the
//! pair that it wants to keep. So one side alone judges between streams opened at the same moment,
//! and both agree on the session's secret without another round. Before both hellos nothing else
//! may be said; after them both tell what they hold (digests of members and of link state) and are
//! synchronised when they have heard the other's.
//!
//! A message out of order, too long or unreadable ends the stream with a reason. Messages beyond
//! the peer's rate are passed over and counted: digests repeat what was lost.

use std::time::Duration;

use bytes::Bytes;

use crate::control::message::{Hello, Message, Topic, VERSION};
use crate::id::NodeId;
use crate::time::{Instant, micros};
use crate::wire::WireError;

/// Longest wait for the other's hello before the stream is given up.
pub const HELLO_WAIT: Duration = Duration::from_secs(10);

/// Messages a peer may send at once: a whole mesh's LSAs after an outage, asked for by us.
const BURST: u64 = 2048;
/// Messages a peer may send each second in the long run: an LSA each 10 s, digests each 30 s,
/// members and deaths as they come stay far below it.
const PER_SECOND: u64 = 50;

/// Where a stream stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// The other has not introduced itself.
    Hello,
    /// Hellos are exchanged; the other has not yet told all it holds.
    Synchronise,
    /// Both know what the other held.
    Steady,
}

/// Why a stream is ended: what the other did wrong, as it is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum Breach {
    /// The bytes were no message.
    #[error("unreadable message: {0}")]
    Unreadable(WireError),
    /// Something else was said before hello.
    #[error("hello expected")]
    HelloExpected,
    /// Hello was said twice.
    #[error("hello repeated")]
    HelloRepeated,
    /// The number in hello is not the one in the certificate.
    #[error("hello names another node")]
    WrongNode,
    /// The other speaks no version we know.
    #[error("version not spoken")]
    Version,
}

impl Breach {
    /// The reason in the words told to the peer.
    pub const fn told(self) -> &'static str {
        match self {
            Self::Unreadable(_) => "unreadable message",
            Self::HelloExpected => "hello expected",
            Self::HelloRepeated => "hello repeated",
            Self::WrongNode => "hello names another node",
            Self::Version => "version not spoken",
        }
    }
}

/// What a message meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Heard {
    /// The other introduced itself.
    Hello(Hello),
    /// News, to be dispatched.
    News(Message),
    /// More than the peer's rate allows: passed over unread.
    Throttled,
}

/// One stream's state.
#[derive(Clone, Debug)]
pub struct Dialogue {
    peer: NodeId,
    stage: Stage,
    opened_at: Instant,
    rate: Bucket,
    told: [bool; 2],
}

impl Dialogue {
    /// A stream to `peer`, just opened.
    pub fn new(peer: NodeId, now: Instant) -> Self {
        let rate = Bucket::new(BURST, PER_SECOND, now);
        Self { peer, stage: Stage::Hello, opened_at: now, rate, told: [false; 2] }
    }

    /// A whole message came.
    ///
    /// # Errors
    /// What ends the stream.
    pub fn on_message(&mut self, now: Instant, bytes: &Bytes) -> Result<Heard, Breach> {
        if !self.rate.take(now) {
            return Ok(Heard::Throttled);
        }
        let message = Message::parse_shared(bytes).map_err(Breach::Unreadable)?;
        match (self.stage, message) {
            (Stage::Hello, Message::Hello(hello)) => {
                if hello.node != self.peer {
                    return Err(Breach::WrongNode);
                }
                if hello.version == 0 || hello.version > VERSION + 1 {
                    return Err(Breach::Version);
                }
                self.stage = Stage::Synchronise;
                Ok(Heard::Hello(hello))
            }
            (Stage::Hello, _) => Err(Breach::HelloExpected),
            (_, Message::Hello(_)) => Err(Breach::HelloRepeated),
            (_, message) => {
                if let Message::Digest { topic, .. } = &message {
                    self.told[match topic {
                        Topic::Members => 0,
                        Topic::LinkState => 1,
                    }] = true;
                    if self.told == [true; 2] {
                        self.stage = Stage::Steady;
                    }
                }
                Ok(Heard::News(message))
            }
        }
    }

    /// Where the stream stands.
    pub const fn stage(&self) -> Stage {
        self.stage
    }

    /// When a stream without hello is given up.
    pub fn hello_due(&self) -> Option<Instant> {
        (self.stage == Stage::Hello).then(|| self.opened_at.plus(HELLO_WAIT))
    }
}

/// A token bucket: `burst` at once, `per_second` in the long run.
#[derive(Clone, Debug)]
pub struct Bucket {
    burst: u64,
    per_second: u64,
    /// Millionths of a token.
    level: u64,
    filled_at: Instant,
}

impl Bucket {
    /// A full bucket.
    pub const fn new(burst: u64, per_second: u64, now: Instant) -> Self {
        Self { burst, per_second, level: burst * 1_000_000, filled_at: now }
    }

    /// Takes one token; false where there is none.
    pub fn take(&mut self, now: Instant) -> bool {
        let gained = micros(now.since(self.filled_at)).saturating_mul(self.per_second);
        self.level = self.level.saturating_add(gained).min(self.burst * 1_000_000);
        self.filled_at = self.filled_at.max(now);
        if self.level < 1_000_000 {
            return false;
        }
        self.level -= 1_000_000;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::message::ByeReason;

    fn node(n: u16) -> NodeId {
        NodeId::new(n).unwrap()
    }

    fn hello(n: u16) -> Bytes {
        Message::Hello(Hello {
            version: VERSION,
            capabilities: 0,
            boot: 1,
            node: node(n),
            receive_index: 0x100,
            observed: None,
            endpoints: vec![],
        })
        .to_bytes()
        .into()
    }

    fn digest(topic: Topic) -> Bytes {
        Message::Digest { topic, entries: vec![] }.to_bytes().into()
    }

    #[test]
    fn hello_then_both_digests_make_a_steady_stream() {
        let mut d = Dialogue::new(node(2), Instant::ZERO);
        assert!(d.hello_due().is_some());
        assert!(matches!(d.on_message(Instant::ZERO, &hello(2)), Ok(Heard::Hello(_))));
        assert_eq!((d.stage(), d.hello_due()), (Stage::Synchronise, None));
        d.on_message(Instant::ZERO, &digest(Topic::Members)).unwrap();
        assert_eq!(d.stage(), Stage::Synchronise);
        d.on_message(Instant::ZERO, &digest(Topic::LinkState)).unwrap();
        assert_eq!(d.stage(), Stage::Steady);
    }

    #[test]
    fn words_out_of_order_end_the_stream() {
        let now = Instant::ZERO;
        let mut d = Dialogue::new(node(2), now);
        let bye = Bytes::from(Message::Bye(ByeReason::Stopping).to_bytes());
        assert_eq!(d.on_message(now, &bye), Err(Breach::HelloExpected));
        assert_eq!(d.on_message(now, &hello(3)), Err(Breach::WrongNode));
        assert!(matches!(
            d.on_message(now, &Bytes::from_static(&[99])),
            Err(Breach::Unreadable(_))
        ));
        d.on_message(now, &hello(2)).unwrap();
        assert_eq!(d.on_message(now, &hello(2)), Err(Breach::HelloRepeated));
    }

    #[test]
    fn a_peer_that_talks_without_end_is_passed_over() {
        let mut d = Dialogue::new(node(2), Instant::ZERO);
        d.on_message(Instant::ZERO, &hello(2)).unwrap();
        let said = digest(Topic::Members);
        let heard = |d: &mut Dialogue, now| {
            (0..4000).filter(|_| d.on_message(now, &said) != Ok(Heard::Throttled)).count() as u64
        };
        assert_eq!(heard(&mut d, Instant::ZERO), BURST - 1);
        assert_eq!(heard(&mut d, Instant::from_micros(1_000_000)), PER_SECOND);
    }
}
