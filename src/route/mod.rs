//! From what the mesh knows to where packets go: policy, price, shortest path, hysteresis, table.

pub mod choose;
pub mod cost;
pub mod policy;
pub mod prefix;
pub mod solve;
pub mod table;
pub mod terms;
