//! Sessions between two nodes: who the other is, and the keys both share.

pub mod keys;
pub mod sign;
#[cfg(test)]
pub(crate) mod toy;
pub mod trust;
