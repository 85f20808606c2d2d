//! The fragment: a piece of a frame that is longer than the next link carries.
//!
//! ```text
//! |  0: clear 12  |  12: id 4  |  16: offset 2  |  18: total 2  |  20: piece  |  len−16: tag 16  |
//!                  └───────────────────── sealed whole per hop ─────────────────────┘
//! ```
//!
//! The pieces are cut from a whole frame of any other kind, sealed as it would have been sent; joined at
//! the next node, it is taken like one that came whole.

use super::header::Clear;
use super::{Reader, TAG, WireError};

/// What a fragment is longer than its piece.
pub const OVERHEAD: usize = Clear::LEN + 8 + TAG;

/// The longest frame that is cut: more than any of ours.
pub const TOTAL_MAX: u16 = 2048;

/// What a fragment says of its piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fragment {
    /// Names the frame among those cut lately on this link and lane.
    pub id: u32,
    /// Where in the frame the piece begins.
    pub offset: u16,
    /// Bytes of the whole frame.
    pub total: u16,
}

impl Fragment {
    /// Reads an opened body: what it says, and the piece.
    ///
    /// # Errors
    /// Too short, a frame that is too long, a piece that is empty, reaches beyond its frame or is all of
    /// it.
    pub fn parse(body: &[u8]) -> Result<(Self, &[u8]), WireError> {
        let mut r = Reader::new(body);
        let (id, offset, total) = (r.u32("id")?, r.u16("offset")?, r.u16("total")?);
        let piece = r.rest();
        if piece.is_empty() {
            return Err(WireError::Short("piece"));
        }
        if total > TOTAL_MAX || piece.len() >= usize::from(total) {
            return Err(WireError::Value("total"));
        }
        if usize::from(offset) + piece.len() > usize::from(total) {
            return Err(WireError::Value("offset"));
        }
        Ok((Self { id, offset, total }, piece))
    }

    /// The body as bytes, still to be sealed.
    pub fn to_bytes(&self, piece: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(8 + piece.len());
        out.extend_from_slice(&self.id.to_be_bytes());
        out.extend_from_slice(&self.offset.to_be_bytes());
        out.extend_from_slice(&self.total.to_be_bytes());
        out.extend_from_slice(piece);
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_piece_lies_within_its_frame_or_is_refused() {
        let one = Fragment { id: 9, offset: 100, total: 200 };
        let bytes = one.to_bytes(&[7; 100]);
        assert_eq!(bytes[..8], [0, 0, 0, 9, 0, 100, 0, 200]);
        assert_eq!(Fragment::parse(&bytes), Ok((one, &[7; 100][..])));
        let refused = |fragment: Fragment, piece: &[u8]| {
            Fragment::parse(&fragment.to_bytes(piece)).unwrap_err()
        };
        assert_eq!(refused(one, &[]), WireError::Short("piece"));
        assert_eq!(refused(one, &[7; 101]), WireError::Value("offset"));
        assert_eq!(refused(Fragment { offset: 0, ..one }, &[7; 200]), WireError::Value("total"));
        assert_eq!(refused(Fragment { total: 2049, ..one }, &[7; 9]), WireError::Value("total"));
        assert_eq!(Fragment::parse(&bytes[..7]), Err(WireError::Short("total")));
    }
}
