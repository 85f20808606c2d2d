//! What a link is like: when to ask, what the answers say, and what is to be expected of it.
//!
//! [`schedule`] says which link to probe, [`prober`] numbers probes and turns replies into
//! [`prober::Reading`]s, [`estimate`] keeps what was measured of one link in both directions ([`loss`] its losses), and
//! [`forecast`] says what to expect, corrected by a [`model`] where that has proved better; [`mtu`] finds
//! the longest datagram that comes through. None of them sends: the node asks the forwarder to.

pub mod estimate;
pub mod forecast;
mod gate;
pub mod loss;
pub mod model;
pub mod mtu;
pub mod prober;
pub mod schedule;
