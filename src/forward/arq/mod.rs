//! Repair of one hop by retransmission.
//!
//! Data frames of a hop carry a running *hop sequence*. The [`Receiver`] removes duplicates, notices
//! gaps and says in [`Ack`](crate::wire::ack::Ack)s what came; the [`Sender`] remembers what it
//! sent, judges what was lost and sends it again while the packet's budget allows. Neither knows
//! keys or layouts: a frame is a handle and a number of bytes.

mod counts;
mod loss;
mod news;
mod plan;
mod receiver;
mod rtt;
mod sender;

pub use counts::{Counts, Heard, Longest};
pub use loss::LossModel;
pub use receiver::{Arrival, Receiver, ReceiverStats};
pub use rtt::RoundTrip;
pub use sender::{Sender, Terms};

/// Whether serial number `a` comes before `b` (RFC 1982, 32 bits).
const fn before(a: u32, b: u32) -> bool {
    a != b && b.wrapping_sub(a) < 1 << 31
}

#[cfg(test)]
mod hostile;
#[cfg(test)]
mod sim;
