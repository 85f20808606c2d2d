//! The data path.

pub mod event;
pub mod snapshot;
