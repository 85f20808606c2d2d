//! What the data threads count, and their figures together.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use crate::daemon::tun::TunStats;
use crate::daemon::udp::UdpStats;
use crate::forward::{Held, Stats};

/// Endpoints whose QUIC bytes are counted apart: anyone can make new ones.
const ENDPOINTS: usize = 1024;

/// Everything one data thread counts, or all of them together.
#[derive(Clone, Debug, Default)]
pub struct DataStats {
    /// The forwarder's own.
    pub forward: Stats,
    /// All sockets together.
    pub udp: UdpStats,
    /// Datagrams that were longer than the way takes, by destination.
    pub too_big: BTreeMap<SocketAddr, u64>,
    /// Bytes that wait for room in a send buffer now.
    pub udp_held_bytes: usize,
    /// What lies in the forwarder, as of the last second.
    pub held: Held,
    /// The device.
    pub tun: TunStats,
    /// QUIC datagrams received that found the control thread's queue full.
    pub quic_dropped: u64,
    /// QUIC by endpoint.
    pub quic: BTreeMap<SocketAddr, QuicBytes>,
    /// Datagrams that are neither ours nor QUIC's.
    pub strangers: u64,
    /// Events that were lost because the control thread was too far behind.
    pub events_dropped: u64,
    /// Frames that came to another lane's socket, and were given to their lane.
    pub strays: u64,
    /// Of those: dropped, since that lane was too far behind.
    pub strays_dropped: u64,
    /// Each lane for itself, where these are the figures of all.
    pub lanes: Vec<LaneStats>,
}

/// What one lane did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LaneStats {
    /// Packets read from its queue of the device and taken into the overlay.
    pub ingress_packets: u64,
    /// Packets given to the device.
    pub egress_packets: u64,
    /// Packets passed on for others.
    pub relay_packets: u64,
    /// Frames sent on all links.
    pub frames_sent: u64,
    /// Frames received and authenticated on all links.
    pub frames_received: u64,
    /// Packets handed to other lanes.
    pub handed: u64,
    /// Frames that came to its socket and were another lane's.
    pub strays: u64,
}

/// Bytes of QUIC to and from one endpoint: UDP payload.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QuicBytes {
    /// To it.
    pub sent: u64,
    /// From it, whoever that was.
    pub received: u64,
}

impl DataStats {
    pub(super) fn quic_bytes(&mut self, endpoint: SocketAddr) -> &mut QuicBytes {
        if self.quic.len() >= ENDPOINTS && !self.quic.contains_key(&endpoint) {
            self.quic.pop_first();
        }
        self.quic.entry(endpoint).or_default()
    }

    /// The figures of a node's lanes together, in their order.
    pub fn of_all<'a>(lanes: impl IntoIterator<Item = &'a Self>) -> Self {
        let mut all = Self::default();
        for (number, lane) in lanes.into_iter().enumerate() {
            all.forward.absorb(&lane.forward);
            all.udp = all.udp.plus(lane.udp);
            for (&endpoint, count) in &lane.too_big {
                *all.too_big.entry(endpoint).or_default() += count;
            }
            all.udp_held_bytes += lane.udp_held_bytes;
            all.held.add(&lane.held);
            let reopened = all.tun.reopened;
            all.tun = all.tun.plus(lane.tun);
            if number > 0 {
                // Queues of one device.
                all.tun.reopened = reopened;
            }
            all.quic_dropped += lane.quic_dropped;
            for (&endpoint, bytes) in &lane.quic {
                let sum = all.quic.entry(endpoint).or_default();
                sum.sent += bytes.sent;
                sum.received += bytes.received;
            }
            all.strangers += lane.strangers;
            all.events_dropped += lane.events_dropped;
            all.strays += lane.strays;
            all.strays_dropped += lane.strays_dropped;
            all.lanes.push(lane.alone());
        }
        all
    }

    fn alone(&self) -> LaneStats {
        let links = || self.forward.links().map(|(_, link)| link);
        LaneStats {
            ingress_packets: self.forward.ingress.packets,
            egress_packets: self.forward.egress.packets,
            relay_packets: self.forward.relay.packets,
            frames_sent: links().map(|link| link.frames_sent).sum(),
            frames_received: links().map(|link| link.frames_received).sum(),
            handed: self.forward.handed,
            strays: self.strays,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lanes_are_summed_and_each_is_still_seen() {
        let lane = |packets: u64| {
            let mut stats = DataStats::default();
            (0..packets).for_each(|_| stats.forward.ingress.add(100));
            stats.forward.handed = packets;
            stats.udp.sent = packets;
            stats.tun.reopened = 1;
            stats.strays = 2 * packets;
            stats.too_big.insert("192.0.2.1:1".parse().unwrap(), packets);
            stats
        };
        let all = DataStats::of_all([&lane(3), &lane(4)]);
        assert_eq!((all.forward.ingress.packets, all.forward.ingress.bytes), (7, 700));
        assert_eq!((all.forward.handed, all.udp.sent, all.strays), (7, 7, 14));
        assert_eq!(all.tun.reopened, 1, "one device");
        assert_eq!(all.too_big.values().sum::<u64>(), 7);
        let handed: Vec<_> = all.lanes.iter().map(|lane| (lane.handed, lane.strays)).collect();
        assert_eq!(handed, [(3, 6), (4, 8)]);
    }
}
