//! Thalweg: an overlay network acceleration daemon for edge and cloud sites.
//!
//! Two values that never act by themselves: they are told what happened and when, and are asked
//! what to do. The `Forwarder` moves packets, in batches; the `Node` knows. Beneath them are
//! mechanisms that do not know each other; above them two drivers with the same doors, the daemon
//! (real sockets) and the simulator (virtual time).
//!
//! In the order of the layers, lowest first:
#![doc = "\n\
| layer | modules |\n\
|---|---|\n\
| words | [`mod@unit`], [`id`], [`time`], [`rng`], [`buf`], [`quality`], [`report`] |\n\
| bytes | [`wire`] |\n\
| mechanisms | [`session`], [`probe`], [`topology`], [`route`], [`control`], [`fec`] |\n\
| path | [`forward`] |\n\
| whole | [`node`] |\n\
| driver | [`daemon`] |\n"]

pub mod buf;
pub mod config;
pub mod id;
pub mod metrics;
pub mod quality;
pub mod report;
pub mod rng;
pub mod time;
pub mod unit;

pub mod wire;

pub mod control;
pub mod daemon;
pub mod fec;
pub mod forward;
pub mod node;
pub mod probe;
pub mod route;
pub mod session;
pub mod topology;
