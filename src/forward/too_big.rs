//! The word back to a sender whose packet is longer than its path carries: ICMP "fragmentation needed"
//! (RFC 1191) and ICMPv6 "packet too big" (RFC 8201, RFC 4443).
//!
//! It comes from the address the packet was for. That is the only one of which the sender's machine is
//! sure to expect packets from the device: a source of its own it takes for forged.
//!
//! Few are written: a sender needs one, and whoever sends on regardless shall not have us do as much.

use std::time::Duration;

use bytes::BytesMut;

use crate::time::{Instant, micros};

use super::checksum;
use super::classify::Head;

/// The shortest path that IPv6 may have (RFC 8200, section 5): nobody is told less.
const V6_LEAST: usize = 1280;
/// Answers are no longer than what every path carries (RFC 1812, section 4.3.2.3; RFC 4443, section 2.4).
const V4_MOST: usize = 576;
const ICMP: u8 = 1;
const ICMP6: u8 = 58;
/// Bytes before what is quoted of the packet.
const V4_HEAD: usize = 28;
const V6_HEAD: usize = 48;

/// Whether a packet of this length is one whose sender is to be told: not one of IPv4 that may be cut on
/// its way, nor one of IPv6 that every path has to carry.
pub fn may_be_told(packet: &[u8], length: usize) -> bool {
    match packet.first().map(|first| first >> 4) {
        Some(4) => packet.get(6).is_some_and(|flags| flags & 0x40 != 0),
        Some(6) => length > V6_LEAST,
        _ => false,
    }
}

/// The answer to a packet that would have to have at most `most` bytes. `length`: its own, where it is
/// the first of those that `packet` becomes. `None` where nothing may be answered: to errors, and in
/// IPv4 to pieces that do not begin a packet (RFC 1812, section 4.3.2.7).
pub fn answer(head: &Head, packet: &[u8], length: usize, most: usize) -> Option<BytesMut> {
    let kind = packet.get(usize::from(head.transport)).copied();
    let least = if head.source.is_ipv4() { 20 } else { 40 };
    if packet.len() < least {
        return None;
    }
    if head.source.is_ipv4() {
        let offset = u16::from_be_bytes([packet[6], packet[7]]) & 0x1fff;
        // Echo, timestamp and their answers are the only ones that are no errors.
        let error = head.protocol == ICMP && !matches!(kind, Some(0 | 8 | 13 | 14));
        (offset == 0 && !error).then(|| v4(packet, length, most))
    } else {
        // Errors are too short to come in pieces; any piece of anything else may be answered.
        let error = head.protocol == ICMP6 && kind.is_none_or(|kind| kind < 128);
        (head.fragment || !error).then(|| v6(packet, length, most))
    }
}

fn v4(packet: &[u8], length: usize, most: usize) -> BytesMut {
    let quoted = packet.len().min(V4_MOST - V4_HEAD);
    let total = V4_HEAD + quoted;
    let mut out = BytesMut::zeroed(total);
    out[0] = 0x45;
    put(&mut out, 2, total as u16);
    (out[8], out[9]) = (64, ICMP);
    out[12..16].copy_from_slice(&packet[16..20]);
    out[16..20].copy_from_slice(&packet[12..16]);
    let sum = !checksum::fold(checksum::sum(&out[..20], 0));
    put(&mut out, 10, sum);
    (out[20], out[21]) = (3, 4);
    put(&mut out, 26, u16::try_from(most).unwrap_or(u16::MAX));
    out[V4_HEAD..].copy_from_slice(&packet[..quoted]);
    put(&mut out, V4_HEAD + 2, u16::try_from(length).unwrap_or(u16::MAX));
    let sum = !checksum::fold(checksum::sum(&out[20..], 0));
    put(&mut out, 22, sum);
    out
}

fn v6(packet: &[u8], length: usize, most: usize) -> BytesMut {
    let quoted = packet.len().min(V6_LEAST - V6_HEAD);
    let total = V6_HEAD + quoted;
    let mut out = BytesMut::zeroed(total);
    out[0] = 0x60;
    put(&mut out, 4, (total - 40) as u16);
    (out[6], out[7]) = (ICMP6, 64);
    out[8..24].copy_from_slice(&packet[24..40]);
    out[24..40].copy_from_slice(&packet[8..24]);
    out[40] = 2;
    put(&mut out, 46, u16::try_from(most.max(V6_LEAST)).unwrap_or(u16::MAX));
    out[V6_HEAD..].copy_from_slice(&packet[..quoted]);
    put(&mut out, V6_HEAD + 4, u16::try_from(length.saturating_sub(40)).unwrap_or(u16::MAX));
    let pseudo = checksum::pseudo(&out[8..40], ICMP6, total - 40);
    let sum = !checksum::fold(checksum::sum(&out[40..], pseudo));
    put(&mut out, 42, sum);
    out
}

fn put(bytes: &mut [u8], at: usize, value: u16) {
    bytes[at..at + 2].copy_from_slice(&value.to_be_bytes());
}

/// How many answers may be written.
#[derive(Clone, Copy, Debug)]
pub(super) struct Quota {
    /// Millionths of an answer saved up.
    level: u64,
    at: Instant,
}

impl Quota {
    /// Answers at once, and each second in the long run.
    const BURST: u64 = 50;
    const PER_SECOND: u64 = 100;

    pub(super) const fn new(now: Instant) -> Self {
        Self { level: Self::BURST * 1_000_000, at: now }
    }

    /// Whether one more is written.
    pub(super) fn admits(&mut self, now: Instant) -> bool {
        let gained = micros(now.since(self.at).min(Duration::from_secs(1))) * Self::PER_SECOND;
        self.level = (self.level + gained).min(Self::BURST * 1_000_000);
        self.at = now;
        let admits = self.level >= 1_000_000;
        self.level -= if admits { 1_000_000 } else { 0 };
        admits
    }
}

#[cfg(test)]
mod tests {
    use etherparse::icmpv4;
    use etherparse::{Icmpv4Slice, Icmpv4Type, Icmpv6Slice, Icmpv6Type, PacketBuilder};
    use proptest::prelude::*;

    use super::*;

    fn udp(v6: bool, payload: usize) -> Vec<u8> {
        let mut out = Vec::new();
        let payload = vec![7; payload];
        if v6 {
            let builder = PacketBuilder::ipv6([1; 16], [2; 16], 64).udp(1, 2);
            builder.write(&mut out, &payload).unwrap();
        } else {
            let builder = PacketBuilder::ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64).udp(1, 2);
            builder.write(&mut out, &payload).unwrap();
            out[6] = 0x40;
        }
        out
    }

    #[test]
    fn the_answer_of_v4_says_the_size_quotes_the_packet_and_sums_right() {
        let packet = udp(false, 1272);
        let head = Head::read(&packet).unwrap();
        let out = answer(&head, &packet, packet.len(), 1206).unwrap();
        let back = Head::read(&out).unwrap();
        assert_eq!((back.source, back.destination), (head.destination, head.source));
        assert_eq!(checksum::fold(checksum::sum(&out[..20], 0)), 0xffff);
        assert_eq!(checksum::fold(checksum::sum(&out[20..], 0)), 0xffff);
        let icmp = Icmpv4Slice::from_slice(&out[20..]).unwrap();
        let too_big = icmpv4::DestUnreachableHeader::FragmentationNeeded { next_hop_mtu: 1206 };
        assert_eq!(icmp.icmp_type(), Icmpv4Type::DestinationUnreachable(too_big));
        assert_eq!((out.len(), &out[28..]), (576, &packet[..548]));
    }

    #[test]
    fn the_answer_of_v6_never_says_less_than_every_path_carries() {
        let packet = udp(true, 1272);
        let head = Head::read(&packet).unwrap();
        let out = answer(&head, &packet, packet.len(), 1206).unwrap();
        let back = Head::read(&out).unwrap();
        assert_eq!((back.source, back.destination), (head.destination, head.source));
        let icmp = Icmpv6Slice::from_slice(&out[40..]).unwrap();
        assert!(icmp.is_checksum_valid([2; 16], [1; 16]));
        assert_eq!(icmp.icmp_type(), Icmpv6Type::PacketTooBig { mtu: 1280 });
        assert_eq!((out.len(), &out[48..]), (1280, &packet[..1232]));
    }

    #[test]
    fn only_who_may_be_told_is_told() {
        let mut four = udp(false, 1272);
        assert!(may_be_told(&four, four.len()));
        four[6] = 0;
        assert!(!may_be_told(&four, four.len()), "it may be cut on its way");
        let six = udp(true, 1232);
        assert!(!may_be_told(&six, 1280) && may_be_told(&six, 1281));
        assert!(!may_be_told(&[], 2000) && !may_be_told(&[0x40], 2000));
    }

    #[test]
    fn errors_and_later_pieces_are_not_answered() {
        let mut echo = Vec::new();
        let builder = PacketBuilder::ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64);
        builder.icmpv4_echo_request(1, 2).write(&mut echo, &[7; 1300]).unwrap();
        let answered = |packet: &[u8]| {
            answer(&Head::read(packet).unwrap(), packet, packet.len(), 1206).is_some()
        };
        assert!(answered(&echo));
        echo[20] = 3;
        assert!(!answered(&echo));
        echo[20] = 8;
        echo[7] = 100;
        assert!(!answered(&echo));
        let mut six = Vec::new();
        let builder = PacketBuilder::ipv6([1; 16], [2; 16], 64);
        builder.icmpv6_echo_request(1, 2).write(&mut six, &[7; 1300]).unwrap();
        assert!(answered(&six));
        six[40] = 2;
        assert!(!answered(&six));
        // The same as the first piece of a longer one.
        let head = Head { fragment: true, ..Head::read(&six).unwrap() };
        assert!(answer(&head, &six, six.len(), 1206).is_some());
    }

    #[test]
    fn a_super_segment_is_quoted_as_its_first_packet() {
        let packet = udp(false, 4000);
        let head = Head::read(&packet).unwrap();
        let out = answer(&head, &packet, 1328, 1206).unwrap();
        assert_eq!(u16::from_be_bytes([out[30], out[31]]), 1328);
    }

    #[test]
    fn answers_are_few_whatever_is_sent() {
        let mut quota = Quota::new(Instant::ZERO);
        let sent = (0..100_000_u64).filter(|n| quota.admits(Instant::from_micros(n * 100))).count();
        assert!((1000..=1100).contains(&sent), "{sent} in ten seconds");
    }

    proptest! {
        #[test]
        fn any_bytes_are_taken(packet in proptest::collection::vec(any::<u8>(), 0..120), v6: bool) {
            let head = Head::read(&udp(v6, 10)).unwrap();
            may_be_told(&packet, packet.len());
            if packet.first().is_some_and(|first| (first >> 4 == 6) == v6) {
                let _ = answer(&head, &packet, packet.len(), 1206);
            }
        }
    }
}
