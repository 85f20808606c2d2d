//! Sessions between two nodes: who the other is, and the keys both share.

pub mod keys;
pub mod replay;
pub mod seal;
pub mod sign;
pub mod table;
#[cfg(test)]
pub(crate) mod toy;
pub mod trust;
