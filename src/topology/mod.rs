//! What the mesh knows of itself: members, link state, and the graph made from them.

pub mod flood;
pub mod graph;
pub mod lsa;
pub mod lsdb;
pub mod member;
pub mod originate;
pub mod reading;
