//! The data path.

pub mod checksum;
pub mod classify;
pub mod event;
pub mod order;
pub mod queue;
pub mod segment;
pub mod snapshot;
