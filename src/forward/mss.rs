//! The segment size that a TCP connection opens with, held to what its path carries whole.
//!
//! Both ends state the longest segment they take in their first packet (RFC 9293, section 3.7.1). Where
//! that is more than the way there carries, it is lowered in passing, so that a connection need not find
//! out by loss or by messages that firewalls drop. The checksum is corrected by the difference alone
//! (RFC 1624).

use super::checksum;
use super::classify::{Head, TCP};

const SYN: u8 = 0x02;
/// The option's kind, and its length (RFC 9293, section 3.2).
const MSS: u8 = 2;
const MSS_LEN: u8 = 4;
/// The fixed headers of IP and TCP: options are not taken off (RFC 6691).
const V4_HEADERS: usize = 40;
const V6_HEADERS: usize = 60;
/// No connection is held to less: Linux refuses to open one below 88.
const LEAST: usize = 128;
/// Offsets within the TCP header.
const FLAGS: usize = 13;
const SUM: usize = 16;
const OPTIONS: usize = 20;

/// Whether a packet opens a TCP connection, either way.
pub fn opens(head: &Head, packet: &[u8]) -> bool {
    head.protocol == TCP
        && !head.fragment
        && packet.get(usize::from(head.transport) + FLAGS).is_some_and(|flags| flags & SYN != 0)
}

/// Lowers the segment size that a packet states to what fits packets of `most` bytes. `partial`: its
/// checksum holds the pseudo header's sum only. True where it was lowered.
pub fn clamp(head: &Head, packet: &mut [u8], partial: bool, most: usize) -> bool {
    if !opens(head, packet) {
        return false;
    }
    let headers = if head.source.is_ipv4() { V4_HEADERS } else { V6_HEADERS };
    let fits = u16::try_from(most.saturating_sub(headers).max(LEAST)).unwrap_or(u16::MAX);
    let Some(tcp) = packet.get_mut(usize::from(head.transport)..) else { return false };
    let Some(&offset) = tcp.get(12) else { return false };
    let length = usize::from(offset >> 4) * 4;
    let Some(at) = tcp.get(..length).and_then(stated_at) else { return false };
    let stated = u16::from_be_bytes([tcp[at], tcp[at + 1]]);
    if stated <= fits {
        return false;
    }
    tcp[at..at + 2].copy_from_slice(&fits.to_be_bytes());
    if !partial {
        // At an odd place its bytes lie in two words, each in the other half.
        let odd = |value: u16| if at % 2 == 1 { value.swap_bytes() } else { value };
        let sum = u16::from_be_bytes([tcp[SUM], tcp[SUM + 1]]);
        let sum = checksum::replace(sum, odd(stated), odd(fits));
        tcp[SUM..SUM + 2].copy_from_slice(&sum.to_be_bytes());
    }
    true
}

/// Where in a TCP header the segment size stands.
fn stated_at(header: &[u8]) -> Option<usize> {
    let mut at = OPTIONS;
    loop {
        match *header.get(at)? {
            0 => return None,
            1 => at += 1,
            kind => {
                let length = *header.get(at + 1)?;
                if kind == MSS && length == MSS_LEN && at + 4 <= header.len() {
                    return Some(at + 2);
                }
                // Less than its own two bytes would never end.
                at += usize::from(length.max(2));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use etherparse::{PacketBuilder, TcpOptionElement};
    use proptest::prelude::*;

    use super::*;

    fn syn(v6: bool, options: &[TcpOptionElement]) -> Vec<u8> {
        let mut out = Vec::new();
        if v6 {
            let builder = PacketBuilder::ipv6([1; 16], [2; 16], 64).tcp(1, 2, 3, 4).syn();
            builder.options(options).unwrap().write(&mut out, &[]).unwrap();
        } else {
            let builder = PacketBuilder::ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64);
            let builder = builder.tcp(1, 2, 3, 4).syn();
            builder.options(options).unwrap().write(&mut out, &[]).unwrap();
        }
        out
    }

    fn sum_holds(head: &Head, packet: &[u8]) -> bool {
        let at = usize::from(head.transport);
        let addresses = if head.source.is_ipv4() { &packet[12..20] } else { &packet[8..40] };
        let pseudo = checksum::pseudo(addresses, TCP, packet.len() - at);
        checksum::fold(checksum::sum(&packet[at..], pseudo)) == 0xffff
    }

    const MAX: TcpOptionElement = TcpOptionElement::MaximumSegmentSize(1460);

    #[test]
    fn the_stated_size_becomes_what_the_path_carries_and_the_sum_stays_right() {
        for (v6, most, want) in [(false, 1206, 1166), (true, 1206, 1146)] {
            let mut packet = syn(v6, &[TcpOptionElement::SelectiveAcknowledgementPermitted, MAX]);
            let head = Head::read(&packet).unwrap();
            assert!(clamp(&head, &mut packet, false, most));
            let at = usize::from(head.transport) + OPTIONS + 4;
            assert_eq!(u16::from_be_bytes([packet[at], packet[at + 1]]), want);
            assert!(sum_holds(&head, &packet));
            assert!(!clamp(&head, &mut packet, false, most), "once");
            assert!(!clamp(&head, &mut packet, false, 1386), "never raised");
        }
    }

    #[test]
    fn a_sum_that_is_still_to_be_made_is_left_alone() {
        let mut packet = syn(false, &[MAX]);
        let head = Head::read(&packet).unwrap();
        let before = packet[36..38].to_vec();
        assert!(clamp(&head, &mut packet, true, 1206));
        assert_eq!(packet[36..38], before);
    }

    #[test]
    fn what_opens_nothing_or_states_nothing_is_left_alone() {
        let mut packet = syn(false, &[]);
        let head = Head::read(&packet).unwrap();
        assert!(opens(&head, &packet) && !clamp(&head, &mut packet, false, 600));
        let mut packet = syn(false, &[MAX]);
        packet[33] = 0x10;
        assert!(!clamp(&head, &mut packet, false, 600));
        let piece = Head { fragment: true, ..head };
        packet[33] = SYN;
        assert!(!clamp(&piece, &mut packet, false, 600));
        // Options that end, or that claim to have no length.
        for bad in [0, 3] {
            let mut packet = syn(false, &[MAX]);
            (packet[40], packet[41]) = (bad, 0);
            assert!(!clamp(&head, &mut packet, false, 600));
        }
        assert!(!clamp(&head, &mut packet[..30], false, 600), "cut off");
    }

    proptest! {
        #[test]
        fn whatever_lies_before_it_the_sum_stays_right(
            nops in 0..5_usize, stated in 500..=9000_u16, most in 500..1500_usize, v6: bool,
        ) {
            let mut options = vec![TcpOptionElement::Noop; nops];
            options.push(TcpOptionElement::MaximumSegmentSize(stated));
            let mut packet = syn(v6, &options);
            let head = Head::read(&packet).unwrap();
            prop_assert!(sum_holds(&head, &packet));
            let fits = most - if v6 { 60 } else { 40 };
            prop_assert_eq!(clamp(&head, &mut packet, false, most), usize::from(stated) > fits);
            prop_assert!(sum_holds(&head, &packet));
        }

        #[test]
        fn any_bytes_are_taken(
            mut packet in proptest::collection::vec(any::<u8>(), 0..120), at in 0..120_u16, v6: bool,
        ) {
            let base = syn(v6, &[MAX]);
            let head = Head { transport: at, ..Head::read(&base).unwrap() };
            clamp(&head, &mut packet, false, 600);
        }
    }
}
