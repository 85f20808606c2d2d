//! What two nodes say to each other over a reliable stream, whoever carries it.
//!
//! The daemon carries it over QUIC, the simulator over a delayed queue. Both hand the node the
//! inputs below and carry out its outputs.

pub mod dial;
pub mod dialogue;
pub mod message;

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use bytes::Bytes;

use crate::id::NodeId;
use crate::session::keys::Secret;
use crate::session::trust::Certified;

/// One reliable, ordered, authenticated stream to a peer. The driver allots the number and never
/// uses it twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionId(pub u64);

/// The endpoint that stands for a node reached over the overlay alone. It exists nowhere: the driver
/// puts what goes there into carriers (a unique local network drawn at random, RFC 4193).
pub fn over_the_overlay(node: NodeId) -> SocketAddr {
    (Ipv6Addr::from(OVERLAY | u128::from(node.get())), 1).into()
}

/// The node that such an endpoint stands for.
pub fn carried_to(endpoint: SocketAddr) -> Option<NodeId> {
    let IpAddr::V6(address) = endpoint.ip() else { return None };
    let bits = address.to_bits();
    let ours = bits & !0xffff == OVERLAY && endpoint.port() == 1;
    ours.then(|| NodeId::new(bits as u16)).flatten()
}

/// The network of these endpoints.
const OVERLAY: u128 = 0xfd4c_9a6f_1d27_0001 << 64;

/// Longest message on a control stream, bytes.
pub const MAX_MESSAGE: usize = 256 * 1024;

/// What the driver tells the node of its streams.
#[derive(Clone, Debug)]
pub enum ControlInput {
    /// A stream to an authenticated peer is ready in both directions.
    Connected {
        /// Its number.
        connection: ConnectionId,
        /// What the peer's certificate grants; the driver has verified it.
        peer: Certified,
        /// The peer's certificate, DER.
        certificate: Vec<u8>,
        /// The pair's secret, exported from this connection.
        secret: Secret,
        /// Whether we dialled.
        dialled: bool,
        /// The underlay endpoint the peer was seen at.
        endpoint: SocketAddr,
    },
    /// A whole message came.
    Message {
        /// On this stream.
        connection: ConnectionId,
        /// The message.
        bytes: Bytes,
    },
    /// The stream is gone; nothing more will come of this number.
    Closed {
        /// This stream.
        connection: ConnectionId,
        /// What ended it, for the log.
        why: String,
    },
    /// A dial that the node asked for came to nothing.
    DialFailed {
        /// Where.
        endpoint: SocketAddr,
        /// Why, in words for the operator.
        why: String,
    },
}

/// What the node asks of the driver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ControlOutput {
    /// Open a stream to this endpoint. Answered by `Connected` or `DialFailed`, within 10 s.
    Dial {
        /// Where.
        endpoint: SocketAddr,
        /// The name its certificate must carry.
        name: String,
        /// Its number, where the node knows it: the certificate must carry that too.
        node: Option<NodeId>,
    },
    /// Send a message (at most [`MAX_MESSAGE`] bytes).
    Send {
        /// On this stream.
        connection: ConnectionId,
        /// The message; what is said to many is one piece of memory.
        bytes: Bytes,
    },
    /// The peer at the other end is at another endpoint now; the stream goes on.
    Moved {
        /// The stream.
        connection: ConnectionId,
        /// Where.
        endpoint: SocketAddr,
    },
    /// Close a stream. Answered by `Closed`.
    Close {
        /// This stream.
        connection: ConnectionId,
        /// Told to the peer.
        why: &'static str,
    },
}
