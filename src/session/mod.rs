//! Sessions between two nodes: who the other is, and the keys both share.

pub mod keys;
pub mod trust;
