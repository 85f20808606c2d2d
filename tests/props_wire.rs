//! Codecs: what is written parses back the same, and no bytes at all make a parser panic.

use std::time::Duration;

use proptest::prelude::*;
use thalweg::id::{Class, NodeId, StreamId};
use thalweg::time::Instant;
use thalweg::unit::Residual;
use thalweg::wire::ack::{Ack, Bitmap, Clock, Recovered};
use thalweg::wire::data::DataMut;
use thalweg::wire::header::{Clear, EndHeader, Flags, RouteHeader, Segments, end_aad};
use thalweg::wire::hello::{Hello, Role};
use thalweg::wire::notice::{Notice, NoticeReason};
use thalweg::wire::probe::Probe;
use thalweg::wire::{Kind, carrier};

fn node() -> impl Strategy<Value = NodeId> {
    (1..=NodeId::MAX).prop_map(|n| NodeId::new(n).unwrap())
}

fn segments() -> impl Strategy<Value = Segments> {
    prop::collection::vec(node(), 1..=4).prop_map(|nodes| Segments::new(&nodes).unwrap())
}

fn clear() -> impl Strategy<Value = Clear> {
    (0x10_u8..=0x18, 0_u8..16, any::<u32>(), 0..Clear::COUNTER_END).prop_map(
        |(kind, epoch, index, counter)| Clear {
            kind: Kind::parse(kind).unwrap(),
            epoch,
            index,
            counter,
        },
    )
}

fn route() -> impl Strategy<Value = RouteHeader> {
    let hop = (any::<u32>(), 0_u8..64, 0_u8..32, 0_u8..4);
    (hop, any::<(u8, u8)>(), any::<u16>(), any::<u16>(), node(), segments()).prop_map(
        |((hop_seq, class, flags, ecn), (left, residual), budget, age, source, segments)| {
            RouteHeader {
                hop_seq,
                class: Class(class),
                flags: Flags::from_bits(flags).unwrap(),
                ecn,
                segments_left: left % segments.count() as u8,
                residual: Residual(residual),
                budget,
                age,
                source,
                segments,
            }
        },
    )
}

fn ack() -> impl Strategy<Value = Ack> {
    let totals =
        (any::<u16>(), any::<u32>(), any::<u16>(), any::<u16>(), any::<bool>(), any::<u32>());
    let recovered = proptest::collection::vec(any::<u16>(), 0..=Recovered::MOST);
    let totals = (totals, recovered);
    (any::<u32>(), 0_u32..600, 0_u32..600, any::<[u8; 32]>(), totals).prop_map(
        |(
            settled,
            open,
            skip,
            came,
            ((delay, given_up, ce, local_drops, asked, clock), behind),
        )| {
            let base = settled.wrapping_add(skip.min(open));
            let covered = open - skip.min(open);
            let mut bitmap = Bitmap::new(base, covered);
            for at in 0..covered.min(Bitmap::BITS) {
                if came[at as usize / 8] & 1 << (at % 8) != 0 {
                    bitmap.insert(base.wrapping_add(at));
                }
            }
            let mut recovered = Recovered::default();
            assert!(behind.iter().all(|&n| recovered.push(n)));
            Ack {
                settled,
                highest: settled.wrapping_add(open).wrapping_sub(1),
                delay: Duration::from_micros(u64::from(delay) * 8),
                clock: Clock::at(Instant::from_micros(u64::from(clock))),
                given_up,
                ce,
                local_drops,
                asked,
                bitmap,
                recovered,
            }
        },
    )
}

proptest! {
    #[test]
    fn clear_headers_parse_back(header in clear(), tail in any::<[u8; 3]>()) {
        let mut bytes = header.to_bytes().to_vec();
        bytes.extend(tail);
        prop_assert_eq!(Clear::parse(&bytes), Ok((header, &tail[..])));
    }

    #[test]
    fn route_headers_parse_back_and_name_only_nodes_of_the_route(header in route()) {
        prop_assert_eq!(RouteHeader::parse(&header.to_bytes()), Ok(header));
        let receiver = header.receiver();
        prop_assert!(receiver.is_some());
        prop_assert_eq!(header.next().is_none(), header.segments_left == 0);
        prop_assert!(header.segments.iter().any(|n| Some(n) == receiver));
        prop_assert!(header.sender().is_some());
    }

    #[test]
    fn what_parses_as_a_route_is_written_back_bit_for_bit(bytes in any::<[u8; 22]>()) {
        if let Ok(header) = RouteHeader::parse(&bytes) {
            prop_assert_eq!(header.to_bytes(), bytes);
        }
    }

    #[test]
    fn end_headers_parse_back(epoch: u8, lane: u8, stream: u16, counter: u64, header in route()) {
        let end = EndHeader { epoch, lane, stream: StreamId(stream), counter };
        prop_assert_eq!(EndHeader::parse(&end.to_bytes()), Ok(end));
        let other = EndHeader { counter: counter ^ 1, ..end };
        prop_assert_ne!(end_aad(&header, &end), end_aad(&header, &other));
    }

    #[test]
    fn probes_parse_back(seq: u32, at: u64, dwell: u32, highest: u32, heard: u32) {
        let sent_at = Instant::from_micros(at);
        let dwell = Duration::from_micros(u64::from(dwell));
        let request = Probe::Request { seq, sent_at };
        let reply = Probe::Reply { seq, sent_at, dwell, highest, heard };
        prop_assert_eq!(Probe::parse(&request.to_bytes()), Ok(request));
        prop_assert_eq!(Probe::parse(&reply.to_bytes()), Ok(reply));
    }

    #[test]
    fn hellos_parse_back(asks: bool, capabilities: u32, boot: u64, token: [u8; 8]) {
        let (role, challenge, echo) = if asks {
            (Role::Request, token, [0; 8])
        } else {
            (Role::Response, [0; 8], token)
        };
        let hello = Hello { role, version: 1, capabilities, boot, challenge, echo };
        prop_assert_eq!(Hello::parse(&hello.to_bytes()), Ok(hello));
    }

    #[test]
    fn feedback_parses_back(ack in ack(), probe: u32) {
        let mut bytes = Vec::new();
        ack.write(&mut bytes);
        prop_assert_eq!(Ack::parse(&bytes), Ok(ack));
        // Whatever is asked of it has an answer, and never "came" for what lies ahead.
        for seq in [probe, ack.settled, ack.highest] {
            let _ = ack.came(seq);
        }
        prop_assert_ne!(ack.came(ack.highest.wrapping_add(1)), Some(true));
    }

    #[test]
    fn notices_parse_back(segments in segments(), class in 0_u8..64, source in node(), hops in 0..=3_u8) {
        let notice = Notice {
            reason: NoticeReason::NextHopDown,
            hops_left: hops,
            class: Class(class),
            source,
            relay: segments.at(0).unwrap(),
            segments,
        };
        prop_assert_eq!(Notice::parse(&notice.to_bytes()).is_ok(), segments.count() > 1);
        if segments.count() > 1 {
            prop_assert_eq!(Notice::parse(&notice.to_bytes()), Ok(notice));
        }
    }

    #[test]
    fn carriers_parse_back(header in route(), datagram in prop::collection::vec(any::<u8>(), 1..1200)) {
        let header = RouteHeader { hop_seq: 0, ..header };
        let mut body = Vec::new();
        carrier::write(&mut body, &header, &datagram);
        prop_assert_eq!(carrier::parse(&body), Ok((header, &datagram[..])));
    }

    #[test]
    fn no_bytes_make_a_parser_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..120), short: [u8; 12]) {
        let _ = Clear::parse(&bytes);
        let _ = EndHeader::parse(&short);
        let _ = Probe::parse(&bytes);
        let _ = Hello::parse(&bytes);
        let _ = Notice::parse(&bytes);
        let _ = carrier::parse(&bytes);
        if let Ok(ack) = Ack::parse(&bytes) {
            let _ = ack.came(u32::from(short[0]));
        }
        let long_enough = bytes.len() >= 66;
        prop_assert_eq!(DataMut::split(&mut bytes).is_ok(), long_enough);
    }

    #[test]
    fn bodies_of_the_right_size_never_panic_either(
        probe: [u8; 28], hello: [u8; 32], notice: [u8; 16], ack: [u8; 32], role in 0_u8..3,
    ) {
        let first = |mut bytes: Vec<u8>| { bytes[0] = role; bytes };
        let _ = Probe::parse(&first(probe.to_vec()));
        let _ = Hello::parse(&first(hello.to_vec()));
        let _ = Notice::parse(&first(notice.to_vec()));
        let mut ack = ack.to_vec();
        (ack[28], ack[30], ack[31]) = (0, 0, 0);
        ack[29] %= 33;
        ack.resize(32 + usize::from(ack[29]), 0xff);
        if let Ok(ack) = Ack::parse(&ack) {
            let _ = ack.came(7);
        }
    }
}
