//! The daemon: the only code that awaits, opens and reads.
//!
//! Two kinds of threads. A *data thread* owns UDP sockets and a queue of the TUN device and drives a
//! `Forwarder`, batch by batch; there is one for each lane. The *control thread* is tokio on one thread and drives the `Node`,
//! QUIC, netlink and the operator's doors. Two bounded queues join them.

pub mod admin;
pub mod clock;
pub mod data;
pub mod device;
pub mod driver;
pub mod drops;
pub mod events;
pub mod file;
pub mod http;
pub mod log;
#[cfg(test)]
pub(crate) mod namespace;
pub mod netlink;
pub mod news;
pub mod notify;
pub mod papers;
pub mod ping;
pub mod pki;
pub mod poller;
pub mod quic;
pub mod reload;
pub mod signal;
pub mod spend;
pub mod state;
pub mod steer;
pub mod tally;
pub mod tun;
pub mod udp;

pub use driver::run;
pub use state::Kept;
