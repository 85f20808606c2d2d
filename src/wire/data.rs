//! The data frame: where its parts lie. 78 bytes around the user's packet, at every hop the same.
//!
//! ```text
//! |  0: clear 12  |  12: route header 22, sealed per hop  |  34: hop tag 16
//! |  50: end header 12  |  62: packet, sealed end to end  |  len−16: end tag 16  |
//! ```
//!
//! The hop's seal covers the route header; its associated data is the clear header and the end tag,
//! so that it names the packet it belongs to without touching it.

use super::header::{Clear, EndHeader, RouteHeader};
use super::{TAG, WireError};

/// Where the sealed route header starts.
pub const ROUTE: usize = Clear::LEN;
/// Where the hop tag starts.
pub const HOP_TAG: usize = ROUTE + RouteHeader::LEN;
/// Where the end header starts.
pub const END: usize = HOP_TAG + TAG;
/// Where the sealed packet starts.
pub const PAYLOAD: usize = END + EndHeader::LEN;
/// What a data frame is longer than the packet in it.
pub const OVERHEAD: usize = PAYLOAD + TAG;
/// Bytes of the hop seal's associated data.
pub const HOP_AAD: usize = Clear::LEN + TAG;
/// Room that repair symbols need beside the frame they protect; kept free from the start, so that
/// repair can be switched on without shrinking the tunnel's MTU.
pub const REPAIR_ROOM: usize = 8;

/// The largest inner packet on an underlay with this MTU: 28 bytes of IPv4 and UDP, or 48 of IPv6.
///
/// `None` where nothing useful fits.
pub const fn inner_mtu(underlay_mtu: usize, ipv6: bool) -> Option<usize> {
    let outer = if ipv6 { 48 } else { 28 };
    underlay_mtu.checked_sub(outer + OVERHEAD + REPAIR_ROOM)
}

/// The largest inner packet of a data frame that fits a datagram of this length, with room for what
/// repairs it.
pub const fn carried_in(datagram: u16) -> u16 {
    datagram.saturating_sub((OVERHEAD + REPAIR_ROOM) as u16)
}

/// A data frame's parts, for sealing and opening where they lie.
#[derive(Debug)]
pub struct DataMut<'a> {
    /// The route header, sealed or open.
    pub route: &'a mut [u8; RouteHeader::LEN],
    /// Its tag.
    pub hop_tag: &'a mut [u8; TAG],
    /// The end header.
    pub end: &'a mut [u8; EndHeader::LEN],
    /// The packet, sealed or open.
    pub payload: &'a mut [u8],
    /// Its tag.
    pub end_tag: &'a mut [u8; TAG],
}

impl<'a> DataMut<'a> {
    /// Takes apart what follows the clear header.
    ///
    /// # Errors
    /// [`WireError::Short`] where an empty packet would not fit.
    pub fn split(body: &'a mut [u8]) -> Result<Self, WireError> {
        let (route, rest) = body.split_first_chunk_mut().ok_or(WireError::Short("route"))?;
        let (hop_tag, rest) = rest.split_first_chunk_mut().ok_or(WireError::Short("hop_tag"))?;
        let (end, rest) = rest.split_first_chunk_mut().ok_or(WireError::Short("end"))?;
        let (payload, end_tag) = rest.split_last_chunk_mut().ok_or(WireError::Short("end_tag"))?;
        Ok(Self { route, hop_tag, end, payload, end_tag })
    }
}

/// The hop seal's associated data.
pub fn hop_aad(clear: &[u8; Clear::LEN], end_tag: &[u8; TAG]) -> [u8; HOP_AAD] {
    let mut out = [0; HOP_AAD];
    out[..Clear::LEN].copy_from_slice(clear);
    out[Clear::LEN..].copy_from_slice(end_tag);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_frame_costs_78_bytes_and_leaves_1386_of_1500() {
        assert_eq!(OVERHEAD, 78);
        assert_eq!(inner_mtu(1500, false), Some(1386));
        assert_eq!(inner_mtu(1500, true), Some(1366));
        assert_eq!(inner_mtu(100, false), None);
        assert_eq!([carried_in(1472), carried_in(1452), carried_in(9)], [1386, 1366, 0]);
    }

    #[test]
    fn the_parts_lie_where_the_picture_says() {
        let mut frame: Vec<u8> = (0..100).collect();
        let parts = DataMut::split(&mut frame[ROUTE..]).unwrap();
        assert_eq!(usize::from(parts.route[0]), ROUTE);
        assert_eq!(usize::from(parts.hop_tag[0]), HOP_TAG);
        assert_eq!(usize::from(parts.end[0]), END);
        assert_eq!(usize::from(parts.payload[0]), PAYLOAD);
        assert_eq!(parts.payload.len(), 100 - OVERHEAD);
        assert_eq!(usize::from(parts.end_tag[0]), 100 - TAG);
        assert!(DataMut::split(&mut [0; OVERHEAD - Clear::LEN - 1]).is_err());
        assert!(DataMut::split(&mut [0; OVERHEAD - Clear::LEN]).is_ok());
    }
}
