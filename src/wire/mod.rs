//! Every byte that crosses the underlay: the only code that knows an offset.
//!
//! Codecs are plain values with `parse` and `write`; they hold no state, own no key and never
//! panic on input. `docs/wire.md` is the same knowledge in prose and pictures; the two change
//! together, and `tests/wire_vectors.rs` keeps the bytes from moving.
//!
//! All numbers are big-endian. Reserved bits are zero and checked.

use std::fmt;

pub mod ack;
pub mod carrier;
pub mod data;
pub mod fragment;
pub mod header;
pub mod hello;
pub mod notice;
pub mod probe;
pub mod repair;
pub mod size;

/// Version of everything described here: it is bound into keys and into what is sealed.
pub const VERSION: u8 = 1;

/// Bytes of an authentication tag: AES-128-GCM's full length.
pub const TAG: usize = 16;

/// What a frame is, by its first byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Kind {
    /// A user's packet on its way.
    Data = 0x10,
    /// A measurement, or its answer.
    Probe = 0x11,
    /// Proof that a link works in both directions under its keys.
    Hello = 0x12,
    /// A QUIC datagram of two nodes without a usable direct path.
    Carrier = 0x13,
    /// Feedback on the data frames of one hop.
    Ack = 0x14,
    /// A combination of several data frames, to have a lost one from.
    Repair = 0x15,
    /// A piece of a frame that is longer than the link carries.
    Fragment = 0x16,
    /// Several small frames in one datagram. A draft.
    Bundle = 0x17,
    /// A relay's word to a source that its route is broken.
    Notice = 0x18,
}

impl Kind {
    /// The kind with this number.
    ///
    /// # Errors
    /// [`WireError::Kind`] where no kind has it.
    pub const fn parse(byte: u8) -> Result<Self, WireError> {
        Ok(match byte {
            0x10 => Self::Data,
            0x11 => Self::Probe,
            0x12 => Self::Hello,
            0x13 => Self::Carrier,
            0x14 => Self::Ack,
            0x15 => Self::Repair,
            0x16 => Self::Fragment,
            0x17 => Self::Bundle,
            0x18 => Self::Notice,
            other => return Err(WireError::Kind(other)),
        })
    }
}

/// Whose datagram it is, by its first byte alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// One of our frames.
    Frame,
    /// QUIC: the fixed bit is set (which needs `grease_quic_bit(false)` at both ends).
    Quic,
    /// Neither, or empty: STUN and noise.
    Stranger,
}

/// Tells our frames from QUIC on the port they share.
pub fn owner(datagram: &[u8]) -> Owner {
    match datagram.first() {
        Some(0x10..=0x1f) => Owner::Frame,
        Some(byte) if byte & 0x40 != 0 => Owner::Quic,
        _ => Owner::Stranger,
    }
}

/// What is wrong with bytes that came from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum WireError {
    /// The bytes end before this field does.
    #[error("ends before {0}")]
    Short(&'static str),
    /// Bytes are left after the last field.
    #[error("bytes left over")]
    Trailing,
    /// Reserved bits of this field are set.
    #[error("reserved bits set in {0}")]
    Reserved(&'static str),
    /// This field holds what it may not.
    #[error("no valid {0}")]
    Value(&'static str),
    /// No kind has this number.
    #[error("unknown kind {0:#04x}")]
    Kind(u8),
}

/// A cursor over received bytes that names the field it stumbles on.
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl fmt::Debug for Reader<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Reader({} left)", self.rest.len())
    }
}

impl<'a> Reader<'a> {
    /// A cursor at the start of `bytes`.
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// The next `N` bytes.
    ///
    /// # Errors
    /// [`WireError::Short`] with the field's name.
    pub fn array<const N: usize>(&mut self, field: &'static str) -> Result<[u8; N], WireError> {
        let (head, rest) = self.rest.split_first_chunk().ok_or(WireError::Short(field))?;
        self.rest = rest;
        Ok(*head)
    }

    /// The next `len` bytes.
    ///
    /// # Errors
    /// [`WireError::Short`] with the field's name.
    pub fn bytes(&mut self, len: usize, field: &'static str) -> Result<&'a [u8], WireError> {
        let (head, rest) = self.rest.split_at_checked(len).ok_or(WireError::Short(field))?;
        self.rest = rest;
        Ok(head)
    }

    /// The next byte.
    ///
    /// # Errors
    /// [`WireError::Short`] with the field's name.
    pub fn u8(&mut self, field: &'static str) -> Result<u8, WireError> {
        Ok(self.array::<1>(field)?[0])
    }

    /// The next two bytes as a number.
    ///
    /// # Errors
    /// [`WireError::Short`] with the field's name.
    pub fn u16(&mut self, field: &'static str) -> Result<u16, WireError> {
        Ok(u16::from_be_bytes(self.array(field)?))
    }

    /// The next four bytes as a number.
    ///
    /// # Errors
    /// [`WireError::Short`] with the field's name.
    pub fn u32(&mut self, field: &'static str) -> Result<u32, WireError> {
        Ok(u32::from_be_bytes(self.array(field)?))
    }

    /// The next eight bytes as a number.
    ///
    /// # Errors
    /// [`WireError::Short`] with the field's name.
    pub fn u64(&mut self, field: &'static str) -> Result<u64, WireError> {
        Ok(u64::from_be_bytes(self.array(field)?))
    }

    /// The next `N` bytes, which must be zero.
    ///
    /// # Errors
    /// [`WireError::Short`], or [`WireError::Reserved`] where one is not zero.
    pub fn zero<const N: usize>(&mut self, field: &'static str) -> Result<(), WireError> {
        if self.array(field)? == [0; N] { Ok(()) } else { Err(WireError::Reserved(field)) }
    }

    /// What has not been read.
    pub const fn rest(self) -> &'a [u8] {
        self.rest
    }

    /// The message must end here.
    ///
    /// # Errors
    /// [`WireError::Trailing`].
    pub const fn end(self) -> Result<(), WireError> {
        if self.rest.is_empty() { Ok(()) } else { Err(WireError::Trailing) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_byte_tells_frames_from_quic() {
        for byte in 0..=u8::MAX {
            let expected = match byte {
                0x10..=0x1f => Owner::Frame,
                0x40..=0x7f | 0xc0..=0xff => Owner::Quic,
                _ => Owner::Stranger,
            };
            assert_eq!(owner(&[byte, 0]), expected, "{byte:#x}");
        }
        assert_eq!(owner(&[]), Owner::Stranger);
    }

    #[test]
    fn every_kind_parses_back_and_the_rest_is_refused() {
        let known = (0..=u8::MAX).filter(|&b| Kind::parse(b).is_ok_and(|k| k as u8 == b)).count();
        assert_eq!(known, 9);
        assert_eq!(Kind::parse(0x19), Err(WireError::Kind(0x19)));
    }

    #[test]
    fn the_reader_names_the_field_it_stumbles_on() {
        let mut r = Reader::new(&[1, 2, 3, 0]);
        assert_eq!(r.u16("first"), Ok(0x0102));
        assert_eq!(r.u32("second"), Err(WireError::Short("second")));
        assert_eq!(r.zero::<2>("third"), Err(WireError::Reserved("third")));
        assert_eq!(r.end(), Ok(()));
    }
}
