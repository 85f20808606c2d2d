//! Thalweg's laboratory: two floors over one link model and one scenario format.
//!
//! The *virtual* floor holds many nodes in memory under virtual time, where one seed gives one
//! trace. The *namespaces* floor runs real daemons in network namespaces over a user-space emulator
//! of the Internet between them. The demo is a scenario of the second. Benches use neither model nor
//! emulator: namespaces over plain veth.

pub mod bench;
pub mod check;
pub mod data;
pub mod demo;
pub mod link;
pub mod netns;
pub mod record;
pub mod replay;
pub mod scenario;
pub mod score;
pub mod trace;
pub mod units;
pub mod world;
