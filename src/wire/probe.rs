//! The probe: a measurement that must feel the link as it is, and its answer.
//!
//! ```text
//! |  0: role  |  1: reserved, zero, 3  |  4: seq 4  |  8: sent_at, asker's clock, µs, 8
//! |  16: dwell, µs, 4  |  20: highest 4  |  24: heard 4  |  28
//! ```
//!
//! Question and answer have one size, so that an answer never exceeds its cause. In a question the
//! last three fields are zero.

use std::time::Duration;

use super::{Reader, WireError};
use crate::time::{Instant, micros};

/// A probe's body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Probe {
    /// The question.
    Request {
        /// Number among the asker's probes on this link: gaps are losses.
        seq: u32,
        /// When it was sent, by the asker's clock.
        sent_at: Instant,
    },
    /// The answer.
    Reply {
        /// The question's number.
        seq: u32,
        /// The question's time, unchanged.
        sent_at: Instant,
        /// How long the answerer held it, at most 4295 s.
        dwell: Duration,
        /// Highest number among the asker's probes that arrived on this link.
        highest: u32,
        /// How many of the asker's probes arrived on this link since the count began.
        heard: u32,
    },
}

impl Probe {
    /// The body's size.
    pub const LEN: usize = 28;

    const REQUEST: u8 = 0;
    const REPLY: u8 = 1;

    /// Reads a body.
    ///
    /// # Errors
    /// Wrong size, unknown role, reserved bytes set, a question with an answer's fields.
    pub fn parse(bytes: &[u8]) -> Result<Self, WireError> {
        let mut r = Reader::new(bytes);
        let role = r.u8("role")?;
        r.zero::<3>("reserved")?;
        let seq = r.u32("seq")?;
        let sent_at = Instant::from_micros(r.u64("sent_at")?);
        let probe = match role {
            Self::REQUEST => {
                r.zero::<12>("answer")?;
                Self::Request { seq, sent_at }
            }
            Self::REPLY => {
                let dwell = Duration::from_micros(u64::from(r.u32("dwell")?));
                let highest = r.u32("highest")?;
                let heard = r.u32("heard")?;
                Self::Reply { seq, sent_at, dwell, highest, heard }
            }
            _ => return Err(WireError::Value("role")),
        };
        r.end()?;
        Ok(probe)
    }

    /// The body as bytes.
    pub fn to_bytes(&self) -> [u8; Self::LEN] {
        let mut out = [0; Self::LEN];
        let (role, seq, sent_at) = match *self {
            Self::Request { seq, sent_at } => (Self::REQUEST, seq, sent_at),
            Self::Reply { seq, sent_at, dwell, highest, heard } => {
                let dwell = u32::try_from(micros(dwell)).unwrap_or(u32::MAX);
                out[16..20].copy_from_slice(&dwell.to_be_bytes());
                out[20..24].copy_from_slice(&highest.to_be_bytes());
                out[24..28].copy_from_slice(&heard.to_be_bytes());
                (Self::REPLY, seq, sent_at)
            }
        };
        out[0] = role;
        out[4..8].copy_from_slice(&seq.to_be_bytes());
        out[8..16].copy_from_slice(&sent_at.as_micros().to_be_bytes());
        out
    }
}
