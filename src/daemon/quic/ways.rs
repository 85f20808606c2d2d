//! Where quinn's peers are: it sees one constant address for each connection, whatever the peer's
//! endpoint becomes.
//!
//! Its servers do not migrate, and its clients take nothing from elsewhere, so it must not notice. A
//! connection keeps the address it began with; when the peer has moved (and has answered a challenge
//! there, `forward/roam`), what goes to that address is sent to the new endpoint. What comes in is known
//! by the connection ID that we gave: the peer writes it into every packet, and we learnt it from our own
//! handshake, where it stands in clear. If somebody else appears at the endpoint that was left, it gets a
//! name of its own, an address that exists nowhere.

use std::collections::BTreeMap;
use std::net::{Ipv6Addr, SocketAddr};

use super::socket::{mapped, unmapped};

/// Bytes in the connection IDs we give.
pub(super) const ID_BYTES: usize = 8;
/// Connection IDs of handshakes remembered, twice: far more than may be in work at once.
const IDS: usize = 1024;
/// Endpoints that were left and have a newcomer's name.
const NEWCOMERS: usize = 1024;
/// Names of newcomers lie in this network, a unique local one drawn at random (RFC 4193).
const NAMES: u128 = 0xfd4c_9a6f_1d27_0000 << 64;

type Id = [u8; ID_BYTES];

/// The names quinn knows, and where they are.
#[derive(Debug, Default)]
pub(super) struct Ways {
    /// Names whose peer is elsewhere than they say.
    gone: BTreeMap<SocketAddr, SocketAddr>,
    /// Endpoints whose own name a peer took along, and the name of who is there now.
    newcomers: BTreeMap<SocketAddr, SocketAddr>,
    /// Connection IDs seen in our handshakes, the older ones apart.
    ids: [BTreeMap<Id, SocketAddr>; 2],
    /// Those of connections in use.
    kept: BTreeMap<Id, SocketAddr>,
    next: u64,
}

impl Ways {
    /// Where a name is.
    pub(super) fn endpoint(&self, name: SocketAddr) -> SocketAddr {
        self.gone.get(&name).copied().unwrap_or_else(|| unmapped(name))
    }

    /// The name of who has yet to be known at an endpoint.
    pub(super) fn name(&self, endpoint: SocketAddr) -> SocketAddr {
        self.newcomers.get(&endpoint).copied().unwrap_or_else(|| mapped(endpoint))
    }

    /// Something goes out. Returns where to.
    pub(super) fn outbound(&mut self, name: SocketAddr, payload: &[u8]) -> SocketAddr {
        if let Some(id) = source_id(payload)
            && self.kept.get(&id) != Some(&name)
        {
            if self.ids[0].len() >= IDS {
                self.ids[1] = std::mem::take(&mut self.ids[0]);
            }
            self.ids[0].insert(id, name);
        }
        self.endpoint(name)
    }

    /// Something came in. Returns whose it is.
    pub(super) fn inbound(&self, endpoint: SocketAddr, payload: &[u8]) -> SocketAddr {
        let known = destination_id(payload).and_then(|id| {
            [&self.kept, &self.ids[0], &self.ids[1]].into_iter().find_map(|ids| ids.get(&id))
        });
        known.copied().unwrap_or_else(|| self.name(endpoint))
    }

    /// A connection under this name is in use: its ID is not forgotten.
    pub(super) fn keep(&mut self, name: SocketAddr) {
        let [newer, older] = &self.ids;
        let of_name = newer.iter().chain(older).filter(|(_, held)| **held == name);
        self.kept.extend(of_name.map(|(id, held)| (*id, *held)));
    }

    /// No connection under this name is in use any more.
    pub(super) fn forget(&mut self, name: SocketAddr) {
        let [newer, older] = &mut self.ids;
        for ids in [&mut self.kept, newer, older] {
            ids.retain(|_, held| *held != name);
        }
        if !self.newcomers.values().any(|newcomer| *newcomer == name) {
            self.gone.remove(&name);
        }
    }

    /// The peer known by this name is at this endpoint now.
    pub(super) fn on_moved(&mut self, name: SocketAddr, endpoint: SocketAddr) {
        let left = self.endpoint(name);
        self.gone.insert(name, endpoint);
        // Whoever comes from the endpoint that is this name's own must not be taken for it.
        let own = unmapped(name);
        if left == own && !self.newcomers.contains_key(&own) {
            if self.newcomers.len() >= NEWCOMERS
                && let Some((_, newcomer)) = self.newcomers.pop_first()
            {
                self.gone.remove(&newcomer);
            }
            self.next += 1;
            let fresh = (Ipv6Addr::from(NAMES | u128::from(self.next)), 1).into();
            self.newcomers.insert(own, fresh);
            self.gone.insert(fresh, own);
        }
    }
}

/// The ID a packet with a long header gives to its sender (RFC 9000, section 17.2), of our length. A
/// Retry's belongs to no connection yet.
fn source_id(payload: &[u8]) -> Option<Id> {
    let (&first, rest) = payload.split_first()?;
    let (version, rest) = rest.split_first_chunk::<4>()?;
    if first & 0x80 == 0 || first & 0x30 == 0x30 || *version == [0; 4] {
        return None;
    }
    let (&length, rest) = rest.split_first()?;
    let rest = rest.get(usize::from(length)..)?;
    let (&length, rest) = rest.split_first()?;
    (usize::from(length) == ID_BYTES).then(|| rest.first_chunk().copied())?
}

/// The ID a packet is for, of our length.
fn destination_id(payload: &[u8]) -> Option<Id> {
    let (&first, rest) = payload.split_first()?;
    if first & 0x80 == 0 {
        return rest.first_chunk().copied();
    }
    let (&length, rest) = rest.get(4..)?.split_first()?;
    (usize::from(length) == ID_BYTES).then(|| rest.first_chunk().copied())?
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(n: u8) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, n], 4600))
    }

    /// A handshake packet from us with this ID, as quinn writes it.
    fn handshake(id: u8) -> Vec<u8> {
        [&[0xc0, 0, 0, 0, 1, 4, 7, 7, 7, 7, 8][..], &[id; 8], &[0; 30]].concat()
    }

    /// A packet to us with this ID.
    fn packet(id: u8) -> Vec<u8> {
        [&[0x40][..], &[id; 8], &[0; 30]].concat()
    }

    #[test]
    fn a_peer_that_moved_keeps_its_name_and_who_comes_after_it_gets_another() {
        let mut ways = Ways::default();
        let name = mapped(place(1));
        assert_eq!(ways.outbound(name, &handshake(5)), place(1));
        ways.keep(name);
        assert_eq!(ways.inbound(place(9), &packet(5)), name, "known wherever it is");
        assert_eq!(ways.outbound(name, &packet(1)), place(1), "not sent there yet");
        ways.on_moved(name, place(9));
        assert_eq!(ways.outbound(name, &packet(1)), place(9));

        let newcomer = ways.inbound(place(1), &packet(6));
        assert_ne!(newcomer, name);
        assert_eq!((ways.name(place(1)), ways.endpoint(newcomer)), (newcomer, place(1)));
        assert_eq!(ways.outbound(newcomer, &handshake(6)), place(1));
        // It moves on, and back to where it began.
        ways.on_moved(name, place(8));
        ways.on_moved(name, place(1));
        assert_eq!((ways.endpoint(name), ways.endpoint(newcomer)), (place(1), place(1)));
        assert_eq!(ways.inbound(place(1), &packet(5)), name);
        assert_eq!(ways.inbound(place(1), &packet(6)), newcomer);
        ways.forget(name);
        assert_eq!(ways.endpoint(newcomer), place(1));
        assert_eq!(ways.inbound(place(1), &packet(5)), newcomer, "forgotten");
    }

    #[test]
    fn handshakes_without_end_push_out_nobody_who_is_in_use() {
        let mut ways = Ways::default();
        let name = mapped(place(1));
        ways.outbound(name, &handshake(5));
        ways.keep(name);
        for n in 0..10 * IDS as u64 {
            let mut flood = handshake(0);
            flood[11..19].copy_from_slice(&(n | 1 << 63).to_be_bytes());
            ways.outbound(mapped(place(2)), &flood);
        }
        assert!(ways.ids.iter().all(|ids| ids.len() <= IDS));
        assert_eq!(ways.inbound(place(3), &packet(5)), name);
        for n in 0..3 * NEWCOMERS as u32 {
            let moving = mapped((std::net::Ipv4Addr::from(0x0a00_0000 + n), 1).into());
            ways.on_moved(moving, place(3));
            ways.forget(moving);
        }
        assert!(ways.newcomers.len() <= NEWCOMERS && ways.gone.len() <= NEWCOMERS);
    }

    #[test]
    fn packets_cut_anywhere_are_nobodys() {
        for whole in [handshake(5), packet(5)] {
            for end in 0..whole.len() {
                let _ = (source_id(&whole[..end]), destination_id(&whole[..end]));
            }
        }
        assert_eq!(source_id(&packet(5)), None);
        let retry = [&[0xf0][..], &handshake(5)[1..]].concat();
        assert_eq!(source_id(&retry), None);
    }
}
