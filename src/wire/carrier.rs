//! The carrier: one QUIC datagram of two nodes that have no usable direct path, over relays.
//!
//! ```text
//! |  0: clear 12  |  12: route header 22  |  34: QUIC datagram  |  len−16: hop tag 16  |
//!                  └────────── sealed whole per hop ──────────┘
//! ```
//!
//! QUIC protects its datagram end to end and repairs its own loss, so a carrier has no end header,
//! is not repaired by hops, and its hop sequence is zero.

use super::header::{Clear, RouteHeader};
use super::{Reader, TAG, WireError};

/// What a carrier frame is longer than the datagram in it.
pub const OVERHEAD: usize = Clear::LEN + RouteHeader::LEN + TAG;

/// Most bytes of a QUIC datagram in a carrier: the size our QUIC is held to.
pub const DATAGRAM_MAX: usize = 1200;

/// Reads an opened carrier's body: the route and the datagram.
///
/// # Errors
/// A header that [`RouteHeader::parse`] refuses, a hop sequence, an empty or oversized datagram.
pub fn parse(body: &[u8]) -> Result<(RouteHeader, &[u8]), WireError> {
    let mut r = Reader::new(body);
    let route = RouteHeader::parse(&r.array("route")?)?;
    if route.hop_seq != 0 {
        return Err(WireError::Reserved("hop_seq"));
    }
    let datagram = r.rest();
    match datagram.len() {
        0 => Err(WireError::Short("datagram")),
        1..=DATAGRAM_MAX => Ok((route, datagram)),
        _ => Err(WireError::Trailing),
    }
}

/// Appends a body, still to be sealed.
pub fn write(out: &mut Vec<u8>, route: &RouteHeader, datagram: &[u8]) {
    out.extend_from_slice(&route.to_bytes());
    out.extend_from_slice(datagram);
}
