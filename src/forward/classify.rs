//! What the data path must know of an IP packet before anything is done to it.
//!
//! A [`Head`] holds the addresses, the flow's hash, DSCP, ECN and where the transport header begins.
//! It is read straight from the slice, never trusts a length, and refuses what an overlay of
//! unicast sites cannot carry. The [`Classifier`] then finds the class by the operator's ordered
//! list: the first that matches takes the packet, the last takes everything.
//!
//! Sources: RFC 791, RFC 8200 (extension headers), RFC 6437 (what identifies a flow).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use crate::id::{Class, StreamId};
use crate::route::policy::ClassSpec;

/// TCP's protocol number.
pub const TCP: u8 = 6;
/// UDP's protocol number.
pub const UDP: u8 = 17;
/// Flows of one class share this many buckets, half of them TCP's, and each bucket is one stream to a
/// destination.
/// The wire gives a stream 16 bits; 64 classes of 64 buckets fill twelve of them.
pub const BUCKETS: u16 = 64;
/// More extension headers than this are no honest packet (RFC 8200 lists six kinds).
const EXTENSIONS_LIMIT: usize = 8;

/// Why a packet is not carried.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Refusal {
    /// Shorter than the header it claims.
    TooShort,
    /// Neither IPv4 nor IPv6.
    NotIp,
    /// Its lengths contradict each other, or its extension headers never end.
    Malformed,
    /// To or from a multicast address.
    Multicast,
    /// To or from the limited broadcast address.
    Broadcast,
    /// To or from an address that means nothing beyond one host or wire: unspecified, loopback,
    /// link-local.
    Local,
}

impl Refusal {
    /// Every reason, in the order of its counters.
    pub const ALL: [Self; 6] = [
        Self::TooShort,
        Self::NotIp,
        Self::Malformed,
        Self::Multicast,
        Self::Broadcast,
        Self::Local,
    ];

    /// The label in logs and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::TooShort => "too_short",
            Self::NotIp => "not_ip",
            Self::Malformed => "malformed",
            Self::Multicast => "multicast",
            Self::Broadcast => "broadcast",
            Self::Local => "local_address",
        }
    }
}

/// What was read from the head of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// Source address.
    pub source: IpAddr,
    /// Destination address.
    pub destination: IpAddr,
    /// Transport protocol, after all extension headers.
    pub protocol: u8,
    /// Differentiated services code point, six bits.
    pub dscp: u8,
    /// Explicit congestion notification, two bits.
    pub ecn: u8,
    /// Offset of the transport header, bytes.
    pub transport: u16,
    /// Whether this is a fragment of a larger packet (then ports are not part of the flow).
    pub fragment: bool,
    /// Source and destination port of TCP and UDP, zero elsewhere and in fragments.
    pub ports: (u16, u16),
}

impl Head {
    /// Reads the head of a packet that fills the slice exactly.
    ///
    /// # Errors
    /// The reason for which the packet is not carried.
    pub fn read(packet: &[u8]) -> Result<Self, Refusal> {
        let first = *packet.first().ok_or(Refusal::TooShort)?;
        let head = match first >> 4 {
            4 => Self::read_v4(packet)?,
            6 => Self::read_v6(packet)?,
            _ => return Err(Refusal::NotIp),
        };
        refuse(head.source, true)?;
        refuse(head.destination, false)?;
        Ok(head)
    }

    /// A hash of what must not be reordered: addresses, protocol and ports. Repeats for the same
    /// `salt`; the salt keeps outsiders from choosing who shares a bucket with whom.
    pub fn flow_hash(&self, salt: u64) -> u64 {
        let wide = |address: IpAddr| match address {
            IpAddr::V4(a) => u128::from(a.to_bits()),
            IpAddr::V6(a) => a.to_bits(),
        };
        let (s, d) = (wide(self.source), wide(self.destination));
        let ports = u64::from(self.ports.0) << 16 | u64::from(self.ports.1);
        let mut hash = salt;
        for word in [s as u64, (s >> 64) as u64, d as u64, (d >> 64) as u64] {
            hash = mix(hash ^ word);
        }
        mix(hash ^ ports ^ u64::from(self.protocol) << 32)
    }

    fn read_v4(packet: &[u8]) -> Result<Self, Refusal> {
        let fixed: &[u8; 20] = packet.first_chunk().ok_or(Refusal::TooShort)?;
        let header = usize::from(fixed[0] & 0x0f) * 4;
        let total = usize::from(u16::from_be_bytes([fixed[2], fixed[3]]));
        if header < 20 || total < header || total != packet.len() {
            return Err(Refusal::Malformed);
        }
        // More fragments, or an offset.
        let fragment = u16::from_be_bytes([fixed[6], fixed[7]]) & 0x3fff != 0;
        let address = |at: usize| {
            IpAddr::V4(Ipv4Addr::new(fixed[at], fixed[at + 1], fixed[at + 2], fixed[at + 3]))
        };
        Ok(Self {
            source: address(12),
            destination: address(16),
            protocol: fixed[9],
            dscp: fixed[1] >> 2,
            ecn: fixed[1] & 3,
            transport: header as u16,
            fragment,
            ports: ports(packet, header, fixed[9], fragment),
        })
    }

    fn read_v6(packet: &[u8]) -> Result<Self, Refusal> {
        let fixed: &[u8; 40] = packet.first_chunk().ok_or(Refusal::TooShort)?;
        let payload = usize::from(u16::from_be_bytes([fixed[4], fixed[5]]));
        if payload + 40 != packet.len() {
            return Err(Refusal::Malformed);
        }
        let traffic = (fixed[0] << 4) | (fixed[1] >> 4);
        let (mut next, mut at, mut fragment) = (fixed[6], 40, false);
        for seen in 0.. {
            let bytes = |n: usize| packet.get(at + n).copied().ok_or(Refusal::Malformed);
            let length = match next {
                // Hop-by-hop, routing, destination options: eight bytes and what they claim.
                0 | 43 | 60 => 8 + 8 * usize::from(bytes(1)?),
                44 => {
                    // Offset or more-fragments set; an atomic fragment (RFC 6946) is whole.
                    fragment |= u16::from_be_bytes([bytes(2)?, bytes(3)?]) & 0xfff9 != 0;
                    8
                }
                // Authentication header: counted in four bytes, less two.
                51 => 8 + 4 * usize::from(bytes(1)?),
                _ => break,
            };
            if seen == EXTENSIONS_LIMIT || at + length > packet.len() {
                return Err(Refusal::Malformed);
            }
            next = bytes(0)?;
            at += length;
        }
        let address = |at: usize| {
            let mut octets = [0; 16];
            octets.copy_from_slice(&fixed[at..at + 16]);
            IpAddr::V6(Ipv6Addr::from(octets))
        };
        Ok(Self {
            source: address(8),
            destination: address(24),
            protocol: next,
            dscp: traffic >> 2,
            ecn: traffic & 3,
            transport: at as u16,
            fragment,
            ports: ports(packet, at, next, fragment),
        })
    }
}

/// Whether a TCP packet does nothing but acknowledge. The next one says all of it again, and an old one
/// that comes late is passed over (RFC 9293, section 3.10.7.4); held up behind a lost one, they would come
/// together, and the sender would take that for a queue and stop its doubling (RFC 9406).
fn is_bare_ack(head: &Head, packet: &[u8]) -> bool {
    const ACK: u8 = 0x10;
    /// FIN, SYN, RST and URG. Half of ECN's are anybody's.
    const MORE: u8 = 0x01 | 0x02 | 0x04 | 0x20;
    let Some(tcp) = packet.get(usize::from(head.transport)..) else { return false };
    let &[.., offset, flags] = tcp.first_chunk::<14>().unwrap_or(&[0; 14]);
    !head.fragment && flags & (ACK | MORE) == ACK && usize::from(offset >> 4) * 4 == tcp.len()
}

fn ports(packet: &[u8], at: usize, protocol: u8, fragment: bool) -> (u16, u16) {
    match packet.get(at..).and_then(|rest| rest.first_chunk::<4>()) {
        Some(p) if !fragment && matches!(protocol, TCP | UDP) => {
            (u16::from_be_bytes([p[0], p[1]]), u16::from_be_bytes([p[2], p[3]]))
        }
        _ => (0, 0),
    }
}

fn refuse(address: IpAddr, source: bool) -> Result<(), Refusal> {
    let local = match address {
        IpAddr::V4(a) => {
            if a.is_broadcast() {
                return Err(Refusal::Broadcast);
            }
            a.octets()[0] == 0 || a.is_loopback() || a.is_link_local()
        }
        IpAddr::V6(a) => a.is_unspecified() || a.is_loopback() || a.is_unicast_link_local(),
    };
    if address.is_multicast() {
        // A multicast source is a lie, not a group.
        return Err(if source { Refusal::Malformed } else { Refusal::Multicast });
    }
    if local { Err(Refusal::Local) } else { Ok(()) }
}

/// The finalizer of splitmix64: every bit of the input moves half of the output.
const fn mix(mut z: u64) -> u64 {
    z = z.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// A class's conditions, ready to be asked per packet.
#[derive(Clone, Debug)]
struct Rule {
    prefixes: Vec<IpNet>,
    /// One bit per code point; `None` takes all.
    dscp: Option<u64>,
    protocols: Vec<u8>,
    ports: Vec<(u16, u16)>,
}

/// What a packet is to this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Classified {
    /// What was read of it.
    pub head: Head,
    /// Its kind of traffic.
    pub class: Class,
    /// The end-to-end numbering its flow belongs to, per destination node.
    pub stream: StreamId,
    /// Its flow, for the queue.
    pub flow: u64,
    /// Whether its receiver takes a gap before it for congestion: TCP's data, and what opens or ends
    /// a connection. To others order is worth no delay: a call or a game would wait for each loss,
    /// and after a failover for packets that never come.
    pub wants_order: bool,
}

/// Finds class and stream of each packet.
#[derive(Clone, Debug)]
pub struct Classifier {
    rules: Vec<Rule>,
    salt: u64,
}

impl Classifier {
    /// A classifier by the operator's list. What lies beyond [`Class::LIMIT`] is never reached.
    pub fn new(classes: &[ClassSpec], salt: u64) -> Self {
        let rules = classes
            .iter()
            .take(Class::LIMIT)
            .map(|spec| Rule {
                prefixes: spec.matches.prefixes.clone(),
                dscp: (!spec.matches.dscp.is_empty()).then(|| {
                    spec.matches.dscp.iter().fold(0, |set, point| set | 1 << (point & 63))
                }),
                protocols: spec.matches.protocols.clone(),
                ports: spec.matches.ports.clone(),
            })
            .collect();
        Self { rules, salt }
    }

    /// The same for another list: flows keep their place within a class.
    pub fn with(&self, classes: &[ClassSpec]) -> Self {
        Self::new(classes, self.salt)
    }

    /// Reads and sorts one packet.
    ///
    /// # Errors
    /// The reason for which the packet is not carried.
    pub fn classify(&self, packet: &[u8]) -> Result<Classified, Refusal> {
        let head = Head::read(packet)?;
        let class = self.class(&head);
        let flow = head.flow_hash(self.salt);
        // It keeps to the even buckets, so that what wants order never waits for what does not, and
        // what does not never lets a gap pass early for what does.
        let wants_order = head.protocol == TCP && !is_bare_ack(&head, packet);
        let half = u64::from(BUCKETS / 2);
        let bucket = (flow % half) as u16 * 2 + u16::from(!wants_order);
        let stream = StreamId(u16::from(class.0) * BUCKETS + bucket);
        Ok(Classified { head, class, stream, flow, wants_order })
    }

    /// The first class whose conditions hold; the last where none does.
    pub fn class(&self, head: &Head) -> Class {
        let Head { destination, dscp, protocol, fragment, ports, .. } = head;
        let has_ports = !fragment && (*protocol == TCP || *protocol == UDP);
        let within = |(low, high): &(u16, u16)| {
            let range = *low..=*high;
            range.contains(&ports.0) || range.contains(&ports.1)
        };
        let holds = |rule: &Rule| {
            rule.dscp.is_none_or(|set| set >> (dscp & 63) & 1 == 1)
                && (rule.protocols.is_empty() || rule.protocols.contains(protocol))
                && (rule.ports.is_empty() || (has_ports && rule.ports.iter().any(within)))
                && (rule.prefixes.is_empty()
                    || rule.prefixes.iter().any(|net| net.contains(destination)))
        };
        let last = self.rules.len().saturating_sub(1);
        Class(self.rules.iter().position(holds).unwrap_or(last) as u8)
    }
}

#[cfg(test)]
mod tests {
    use etherparse::PacketBuilder;
    use proptest::prelude::*;

    use super::*;
    use crate::route::policy::{Delivery, Match, Policy};

    /// The head of a packet to an address.
    fn to(destination: &str, dscp: u8, protocol: u8, ports: (u16, u16)) -> Head {
        Head {
            source: "10.0.0.2".parse().unwrap(),
            destination: destination.parse().unwrap(),
            protocol,
            dscp,
            ecn: 0,
            transport: 20,
            fragment: false,
            ports,
        }
    }

    #[test]
    fn a_class_by_port_and_protocol_takes_both_directions_and_no_fragment() {
        let spec = |name: &str, matches| ClassSpec {
            name: name.into(),
            matches,
            policy: Policy::default(),
            delivery: Delivery::NONE,
            marking: Default::default(),
        };
        let games = Match {
            protocols: vec![UDP],
            ports: vec![(3074, 3074), (27_000, 27_100)],
            ..Match::default()
        };
        let tunnels = Match { protocols: vec![47, 50], ..Match::default() };
        let web = Match { ports: vec![(443, 443)], ..Match::default() };
        let all = [("a", games), ("b", tunnels), ("c", web), ("d", Match::default())];
        let c = Classifier::new(&all.map(|(name, matches)| spec(name, matches)), 1);
        let class = |protocol, ports| c.class(&to("10.0.0.1", 0, protocol, ports)).0;
        assert_eq!(class(UDP, (5000, 27_100)), 0, "towards the server");
        assert_eq!(class(UDP, (3074, 5000)), 0, "and back from it");
        assert_eq!((class(UDP, (5000, 27_101)), class(TCP, (5000, 3074))), (3, 3));
        assert_eq!((class(47, (0, 0)), class(50, (0, 0))), (1, 1));
        assert_eq!((class(TCP, (5000, 443)), class(UDP, (443, 5000))), (2, 2));
        assert_eq!(class(132, (443, 443)), 3, "only TCP and UDP have ports that are read");
        let fragment = Head { fragment: true, ..to("10.0.0.1", 0, UDP, (0, 0)) };
        assert_eq!(c.class(&fragment), Class(3));
    }

    fn udp4(source: [u8; 4], destination: [u8; 4], ports: (u16, u16)) -> Vec<u8> {
        let mut packet = Vec::new();
        PacketBuilder::ipv4(source, destination, 64)
            .udp(ports.0, ports.1)
            .write(&mut packet, b"payload")
            .unwrap();
        packet
    }

    fn spec(name: &str, prefixes: &[&str], dscp: &[u8]) -> ClassSpec {
        ClassSpec {
            name: name.into(),
            matches: Match {
                prefixes: prefixes.iter().map(|p| p.parse().unwrap()).collect(),
                dscp: dscp.to_vec(),
                ..Match::default()
            },
            policy: Policy::default(),
            delivery: Delivery::NONE,
            marking: Default::default(),
        }
    }

    #[test]
    fn what_only_acknowledges_wants_no_order() {
        let classifier = Classifier::new(&[spec("all", &[], &[])], 1);
        let tcp = || PacketBuilder::ipv4([10, 0, 0, 1], [10, 0, 1, 1], 64).tcp(1, 2, 3, 4);
        let sorted = |builder: etherparse::PacketBuilderStep<etherparse::TcpHeader>,
                      data: &[u8]| {
            let mut packet = Vec::new();
            builder.write(&mut packet, data).unwrap();
            classifier.classify(&packet).unwrap()
        };
        let ack = sorted(tcp().ack(5), b"");
        let data = sorted(tcp().ack(5), b"data");
        assert!(!ack.wants_order && data.wants_order);
        assert_eq!((ack.stream.0 % 2, data.stream.0 % 2), (1, 0));
        assert_eq!(ack.flow, data.flow);
        for more in [tcp().syn(), tcp().syn().ack(5), tcp().fin().ack(5), tcp().rst().ack(5)] {
            assert!(sorted(more, b"").wants_order);
        }
        assert!(
            !sorted(
                tcp().ack(5).options(&[etherparse::TcpOptionElement::Timestamp(1, 2)]).unwrap(),
                b""
            )
            .wants_order
        );
    }

    #[test]
    fn the_first_class_that_matches_takes_the_packet_and_the_last_takes_the_rest() {
        let list = [
            spec("voice", &[], &[46]),
            spec("office", &["10.9.0.0/16", "2001:db8:9::/48"], &[]),
            spec("both", &["10.8.0.0/16"], &[10, 12]),
            spec("rest", &["192.0.2.0/24"], &[]),
        ];
        let c = Classifier::new(&list, 1);
        let class = |a: &str, dscp| c.class(&to(a, dscp, UDP, (0, 0))).0;
        assert_eq!(class("10.9.1.1", 46), 0);
        assert_eq!(class("10.9.1.1", 0), 1);
        assert_eq!(class("2001:db8:9::1", 0), 1);
        assert_eq!(class("10.8.1.1", 12), 2);
        assert_eq!(class("10.8.1.1", 11), 3);
        let any = to("10.0.0.1", 0, UDP, (0, 0));
        assert_eq!(Classifier::new(&[], 1).class(&any), Class(0));
    }

    #[test]
    fn a_flow_keeps_its_stream_and_many_flows_spread_over_the_buckets() {
        let c = Classifier::new(&[spec("all", &[], &[])], 7);
        let stream =
            |port| c.classify(&udp4([10, 0, 0, 1], [10, 0, 0, 2], (port, 443))).unwrap().stream.0;
        assert_eq!(stream(5), stream(5));
        let mut used: Vec<_> = (0..1000).map(stream).collect();
        used.sort_unstable();
        used.dedup();
        assert_eq!(
            used.len(),
            usize::from(BUCKETS) / 2,
            "1,000 flows reach every bucket but TCP's"
        );
    }

    #[test]
    fn tcp_shares_no_stream_with_what_wants_no_order() {
        let c = Classifier::new(&[spec("all", &[], &[])], 7);
        let stream = |port, protocol| {
            let mut packet = udp4([10, 0, 0, 1], [10, 0, 0, 2], (port, 443));
            packet[9] = protocol;
            packet.resize(packet.len() + 12, 0);
            let total = packet.len() as u16;
            packet[2..4].copy_from_slice(&total.to_be_bytes());
            packet[32] = 0x50;
            c.classify(&packet).unwrap().stream.0
        };
        assert!((0..1000).all(|port| stream(port, TCP) % 2 == 0 && stream(port, UDP) % 2 == 1));
    }

    #[test]
    fn fragments_of_one_packet_stay_together() {
        let mut first = udp4([10, 0, 0, 1], [10, 0, 0, 2], (1000, 443));
        first[6] = 0x20;
        let mut second = udp4([10, 0, 0, 1], [10, 0, 0, 2], (77, 78));
        second[7] = 3;
        let hash = |p: &[u8]| Head::read(p).unwrap().flow_hash(3);
        assert_eq!(hash(&first), hash(&second));
        assert!(Head::read(&second).unwrap().fragment);
    }

    #[test]
    fn what_an_overlay_of_sites_cannot_carry_is_refused_with_its_reason() {
        let to = |d| Head::read(&udp4([10, 0, 0, 1], d, (1, 2))).unwrap_err();
        assert_eq!(to([224, 0, 0, 251]), Refusal::Multicast);
        assert_eq!(to([255, 255, 255, 255]), Refusal::Broadcast);
        assert_eq!(to([127, 0, 0, 1]), Refusal::Local);
        assert_eq!(to([169, 254, 1, 1]), Refusal::Local);
        let from = |s| Head::read(&udp4(s, [10, 0, 0, 2], (1, 2))).unwrap_err();
        assert_eq!(from([239, 1, 1, 1]), Refusal::Malformed);
        assert_eq!(from([0, 0, 0, 0]), Refusal::Local);
        let mut six = Vec::new();
        let mut group = [0; 16];
        group[0] = 0xff;
        PacketBuilder::ipv6([0x20; 16], group, 64).udp(1, 2).write(&mut six, &[]).unwrap();
        assert_eq!(Head::read(&six).unwrap_err(), Refusal::Multicast);
        assert_eq!(Head::read(&[]).unwrap_err(), Refusal::TooShort);
        assert_eq!(Head::read(&[0x45; 19]).unwrap_err(), Refusal::TooShort);
        assert_eq!(Head::read(&[0x10; 40]).unwrap_err(), Refusal::NotIp);
        let mut long = udp4([10, 0, 0, 1], [10, 0, 0, 2], (1, 2));
        long.push(0);
        assert_eq!(Head::read(&long).unwrap_err(), Refusal::Malformed);
    }

    #[test]
    fn extension_headers_are_walked_to_the_ports() {
        let mut packet = Vec::new();
        PacketBuilder::ipv6([0x20; 16], [0x21; 16], 64).udp(9, 10).write(&mut packet, &[]).unwrap();
        let udp = packet.split_off(40);
        packet[6] = 60;
        packet.extend_from_slice(&[UDP, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        packet.extend_from_slice(&udp);
        packet[5] = 24;
        let head = Head::read(&packet).unwrap();
        assert_eq!((head.protocol, head.transport, head.ports), (UDP, 56, (9, 10)));
        packet[41] = 200;
        assert_eq!(Head::read(&packet).unwrap_err(), Refusal::Malformed);
    }

    proptest! {
        #[test]
        fn no_input_panics(mut bytes in proptest::collection::vec(any::<u8>(), 0..120), v6: bool) {
            if let Some(first) = bytes.first_mut() {
                *first = if v6 { 0x60 } else { 0x45 };
            }
            let len = bytes.len();
            if v6 && len >= 40 {
                bytes[4..6].copy_from_slice(&((len - 40) as u16).to_be_bytes());
            } else if len >= 20 {
                bytes[2..4].copy_from_slice(&(len as u16).to_be_bytes());
            }
            if let Ok(head) = Head::read(&bytes) {
                prop_assert!(usize::from(head.transport) <= len);
            }
        }

        #[test]
        fn the_head_agrees_with_etherparse(
            s: [u8; 16], d: [u8; 16], ports: (u16, u16), tos: u8, payload in 0usize..64,
        ) {
            let mut packet = Vec::new();
            PacketBuilder::ipv6(s, d, 9).udp(ports.0, ports.1)
                .write(&mut packet, &vec![0; payload]).unwrap();
            packet[0] |= tos >> 4;
            packet[1] |= tos << 4;
            if let Ok(head) = Head::read(&packet) {
                let slice = etherparse::Ipv6HeaderSlice::from_slice(&packet).unwrap();
                prop_assert_eq!(head.source, IpAddr::V6(slice.source_addr()));
                prop_assert_eq!(head.destination, IpAddr::V6(slice.destination_addr()));
                prop_assert_eq!(head.dscp << 2 | head.ecn, slice.traffic_class());
                prop_assert_eq!(head.ports, ports);
            }
        }
    }
}
