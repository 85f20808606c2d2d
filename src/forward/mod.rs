//! The data path.

pub mod classify;
pub mod event;
pub mod snapshot;
