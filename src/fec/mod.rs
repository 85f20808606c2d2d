//! Repair symbols: sums of packets, from which a lost one can be computed.
//!
//! A sliding window code over GF(256) in the manner of RFC 8681. Packets go as they are; a repair
//! symbol is a linear combination of any of the last 512, and a receiver that lacks as many of them
//! as it has symbols solves for them at once. Why this and not a block code: `docs/decisions/code.md`.
//!
//! Knows sequences and bytes. When to repair, and what a frame has to do with a symbol, is
//! `forward`'s.

pub mod code;
pub mod decoder;
pub mod encoder;
pub mod gf256;
pub mod plan;

pub use decoder::{Decoder, DecoderLimits, DecoderStats, Recovered};
pub use encoder::{Encoder, EncoderLimits, EncoderStats, Plan};
