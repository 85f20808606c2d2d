//! The size probe: asks whether a datagram of one length comes through, and says that it did.
//!
//! ```text
//! |  0: role  |  1: reserved, zero, 3  |  4: seq 4  |  8: size 2  |  10: zero, to the end  |
//! ```
//!
//! Roles 2 and 3 of the probe's kind. The question fills up to `size`, the length of its datagram; the
//! answer repeats number and size and is always short. Neither says anything of the link's delay or
//! loss.

use super::header::Clear;
use super::probe::Probe;
use super::{Reader, TAG, WireError};

/// A size probe's body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SizeProbe {
    /// The question, as long as it says.
    Request {
        /// Number among the asker's size probes on this link.
        seq: u32,
        /// Length of its datagram.
        size: u16,
    },
    /// The answer.
    Reply {
        /// The question's number.
        seq: u32,
        /// The question's length.
        size: u16,
    },
}

impl SizeProbe {
    /// The shortest question: no answer is longer than its cause.
    pub const LEAST: u16 = (Clear::LEN + Probe::LEN + TAG) as u16;

    const REQUEST: u8 = 2;
    const REPLY: u8 = 3;

    /// Whether the body of a frame of the probe's kind is a size probe's.
    pub fn is_one(body: &[u8]) -> bool {
        matches!(body.first(), Some(&(Self::REQUEST | Self::REPLY)))
    }

    /// Reads a body.
    ///
    /// # Errors
    /// Unknown role, a length that is not the one it states, an answer of another length than a
    /// probe's, bytes set that are reserved.
    pub fn parse(bytes: &[u8]) -> Result<Self, WireError> {
        let mut r = Reader::new(bytes);
        let role = r.u8("role")?;
        r.zero::<3>("reserved")?;
        let seq = r.u32("seq")?;
        let size = r.u16("size")?;
        let whole = bytes.len() + Clear::LEN + TAG;
        let length = match role {
            Self::REQUEST => usize::from(size),
            Self::REPLY => usize::from(Self::LEAST),
            _ => return Err(WireError::Value("role")),
        };
        if size < Self::LEAST || whole != length {
            return Err(WireError::Value("size"));
        }
        if r.rest().iter().any(|&byte| byte != 0) {
            return Err(WireError::Reserved("padding"));
        }
        Ok(match role {
            Self::REQUEST => Self::Request { seq, size },
            _ => Self::Reply { seq, size },
        })
    }

    /// The body as bytes. A question of less than [`SizeProbe::LEAST`] becomes one of that.
    pub fn to_bytes(&self) -> Vec<u8> {
        let (role, seq, size, whole) = match *self {
            Self::Request { seq, size } => {
                let size = size.max(Self::LEAST);
                (Self::REQUEST, seq, size, size)
            }
            Self::Reply { seq, size } => (Self::REPLY, seq, size, Self::LEAST),
        };
        let mut out = vec![0; usize::from(whole) - Clear::LEN - TAG];
        out[0] = role;
        out[4..8].copy_from_slice(&seq.to_be_bytes());
        out[8..10].copy_from_slice(&size.to_be_bytes());
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_is_as_long_as_it_says_and_its_answer_is_short() {
        let question = SizeProbe::Request { seq: 7, size: 1472 };
        let bytes = question.to_bytes();
        assert_eq!(bytes.len() + Clear::LEN + TAG, 1472);
        assert_eq!(SizeProbe::parse(&bytes), Ok(question));
        assert_eq!(SizeProbe::parse(&bytes[..bytes.len() - 1]), Err(WireError::Value("size")));
        let answer = SizeProbe::Reply { seq: 7, size: 1472 };
        assert_eq!(answer.to_bytes().len(), Probe::LEN);
        assert_eq!(SizeProbe::parse(&answer.to_bytes()), Ok(answer));
        let small = SizeProbe::Request { seq: 7, size: 10 };
        assert_eq!(small.to_bytes().len(), answer.to_bytes().len());
    }

    #[test]
    fn what_is_set_where_nothing_may_be_is_refused() {
        let bytes = SizeProbe::Request { seq: 7, size: 100 }.to_bytes();
        for (place, error) in [(2, "reserved"), (40, "padding")] {
            let mut bent = bytes.clone();
            bent[place] = 1;
            assert_eq!(SizeProbe::parse(&bent), Err(WireError::Reserved(error)));
        }
        let mut plain = bytes;
        plain[0] = 1;
        assert!(!SizeProbe::is_one(&plain));
        assert_eq!(SizeProbe::parse(&plain), Err(WireError::Value("role")));
    }
}
