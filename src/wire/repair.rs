//! Repair on one hop and lane: a sum over several data frames, from which any one that is missing
//! can be had.
//!
//! ```text
//! |  0: last 4  |  4: mask 1 bit, key 15 bits  |  6: window 4  |  10: symbol
//! ```
//!
//! A window of hop sequences that ends with `last`. The highest bit of the key's word set: `window`
//! is a mask, bit *n* stands for `last − n`, and bit 0 is set. Clear: `window` counts a run of
//! consecutive sequences, 1 to 512. The key says which coefficients (`fec::code`).
//!
//! A frame of `n` bytes in the window is 10 bytes shorter in the symbol, and head and tag cost 18:
//! the 8 bytes of [`REPAIR_ROOM`](super::data::REPAIR_ROOM) beside the longest.

use super::{Reader, WireError};

/// The head of a repair frame's body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Repair {
    /// The highest hop sequence in the window.
    pub last: u32,
    /// Names the coefficients; below [`Repair::KEYS`]. Zero: every coefficient is one.
    pub key: u16,
    /// Which sequences are in the window.
    pub window: Window,
}

/// Which hop sequences a repair symbol is the sum of, counted back from the highest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Window {
    /// So many in a row, 1 to [`Window::RUN`].
    Run(u16),
    /// Bit *n*: the sequence *n* before the highest. Bit 0 is set.
    Mask(u32),
}

impl Window {
    /// The longest run.
    pub const RUN: u32 = 512;
    /// How many sequences a mask spans.
    pub const SPAN: u32 = 32;

    /// How many sequences are in the window.
    pub const fn count(self) -> u32 {
        match self {
            Self::Run(count) => count as u32,
            Self::Mask(mask) => mask.count_ones(),
        }
    }

    /// How many sequences lie between the first and the last, both counted.
    pub const fn span(self) -> u32 {
        match self {
            Self::Run(count) => count as u32,
            Self::Mask(mask) => u32::BITS - mask.leading_zeros(),
        }
    }
}

impl Repair {
    /// The head's size.
    pub const LEN: usize = 10;
    /// The first key that does not fit.
    pub const KEYS: u16 = 0x8000;
    /// Bytes of a symbol before the tail: the tail's length and the route header from class to
    /// segments. See `docs/wire.md`.
    pub const SYMBOL_HEAD: usize = 20;

    /// Reads a body: its head, and the symbol behind it.
    ///
    /// # Errors
    /// Too short for head and symbol, or a window without its last sequence, empty or too long.
    pub fn parse(bytes: &[u8]) -> Result<(Self, &[u8]), WireError> {
        let mut r = Reader::new(bytes);
        let last = r.u32("last")?;
        let key = r.u16("key")?;
        let window = r.u32("window")?;
        let symbol = r.rest();
        if symbol.len() < Self::SYMBOL_HEAD {
            return Err(WireError::Short("symbol"));
        }
        let window = if key & Self::KEYS != 0 {
            if window & 1 == 0 {
                return Err(WireError::Value("window"));
            }
            Window::Mask(window)
        } else {
            if window == 0 || window > Window::RUN {
                return Err(WireError::Value("window"));
            }
            Window::Run(window as u16)
        };
        Ok((Self { last, key: key & !Self::KEYS, window }, symbol))
    }

    /// The head as bytes. The caller keeps the key below [`Repair::KEYS`]; of it the low bits are
    /// taken.
    pub const fn to_bytes(&self) -> [u8; Self::LEN] {
        debug_assert!(self.key < Self::KEYS);
        let (mask, window) = match self.window {
            Window::Run(count) => (0, count as u32),
            Window::Mask(mask) => (Self::KEYS, mask),
        };
        let [a, b, c, d] = self.last.to_be_bytes();
        let [e, f] = (self.key & !Self::KEYS | mask).to_be_bytes();
        let [g, h, i, j] = window.to_be_bytes();
        [a, b, c, d, e, f, g, h, i, j]
    }

    /// The lowest hop sequence in the window.
    pub const fn first(&self) -> u32 {
        self.last.wrapping_sub(self.window.span() - 1)
    }

    /// The hop sequences in the window, lowest first.
    pub fn sequences(&self) -> impl Iterator<Item = u32> + use<> {
        let Self { last, window, .. } = *self;
        let is_in = move |back: &u32| match window {
            Window::Run(_) => true,
            Window::Mask(mask) => mask >> back & 1 != 0,
        };
        (0..window.span()).rev().filter(is_in).map(move |back| last.wrapping_sub(back))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::wire::data::{OVERHEAD, REPAIR_ROOM};
    use crate::wire::header::Clear;
    use crate::wire::{TAG, data};

    fn window() -> impl Strategy<Value = Window> {
        prop_oneof![
            (1..=512_u16).prop_map(Window::Run),
            any::<u32>().prop_map(|mask| Window::Mask(mask | 1)),
        ]
    }

    #[test]
    fn a_repair_frame_needs_the_room_that_is_kept_free_and_no_more() {
        let packet = 1000;
        let symbol = Repair::SYMBOL_HEAD + packet + OVERHEAD - data::END;
        assert_eq!(Clear::LEN + Repair::LEN + symbol + TAG, packet + OVERHEAD + REPAIR_ROOM);
    }

    #[test]
    fn windows_count_back_from_the_last_also_across_the_wrap() {
        let run = Repair { last: 1, key: 0, window: Window::Run(4) };
        assert_eq!(run.sequences().collect::<Vec<_>>(), [u32::MAX - 1, u32::MAX, 0, 1]);
        assert_eq!((run.first(), run.window.count()), (u32::MAX - 1, 4));
        let mask = Repair { last: 1, key: 0, window: Window::Mask(0b1101) };
        assert_eq!(mask.sequences().collect::<Vec<_>>(), [u32::MAX - 1, u32::MAX, 1]);
        assert_eq!((mask.first(), mask.window.count()), (u32::MAX - 1, 3));
    }

    #[test]
    fn windows_that_are_empty_too_long_or_without_their_last_are_refused() {
        let body = |key: u16, window: u32, symbol: usize| {
            let mut bytes = vec![0, 0, 0, 9];
            bytes.extend_from_slice(&key.to_be_bytes());
            bytes.extend_from_slice(&window.to_be_bytes());
            bytes.resize(Repair::LEN + symbol, 0);
            Repair::parse(&bytes).map(|(repair, symbol)| (repair.window, symbol.len()))
        };
        assert_eq!(body(0, 0, 20), Err(WireError::Value("window")));
        assert_eq!(body(0, 513, 20), Err(WireError::Value("window")));
        assert_eq!(body(0x7fff, 512, 20), Ok((Window::Run(512), 20)));
        assert_eq!(body(0x8000, 2, 20), Err(WireError::Value("window")));
        assert_eq!(body(0xffff, 3, 21), Ok((Window::Mask(3), 21)));
        assert_eq!(body(0, 1, 19), Err(WireError::Short("symbol")));
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(last: u32, key in 0..Repair::KEYS, window in window()) {
            let repair = Repair { last, key, window };
            let bytes = [&repair.to_bytes()[..], &[7; 20]].concat();
            prop_assert_eq!(Repair::parse(&bytes), Ok((repair, &[7; 20][..])));
            let all: Vec<_> = repair.sequences().collect();
            prop_assert_eq!(all.len(), window.count() as usize);
            prop_assert_eq!(all[0], repair.first());
            prop_assert_eq!(all[all.len() - 1], last);
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            if let Ok((repair, symbol)) = Repair::parse(&bytes) {
                prop_assert!((1..=512).contains(&repair.window.count()));
                prop_assert_eq!(&[&repair.to_bytes()[..], symbol].concat(), &bytes);
            }
        }
    }
}
