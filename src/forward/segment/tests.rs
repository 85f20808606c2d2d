//! Super-segments split and joined, beside etherparse, which shares no code with ours.

use etherparse::PacketBuilder;
use proptest::prelude::*;

use super::*;

/// A TCP packet as etherparse builds it: an oracle for checksums that shares no code with ours.
fn tcp(v4: bool, seq: u32, id: u16, psh: bool, payload: &[u8]) -> Vec<u8> {
    let mut packet = Vec::new();
    let builder = if v4 {
        let mut ip = etherparse::Ipv4Header::new(
            0,
            64,
            etherparse::IpNumber::TCP,
            [10, 0, 0, 1],
            [10, 0, 0, 2],
        )
        .unwrap();
        ip.identification = id;
        ip.dont_fragment = true;
        PacketBuilder::ip(etherparse::IpHeaders::Ipv4(ip, Default::default()))
    } else {
        PacketBuilder::ipv6([0x20; 16], [0x21; 16], 64)
    };
    let mut builder = builder.tcp(1000, 2000, seq, 500).ack(77);
    builder = builder.options(&[etherparse::TcpOptionElement::Timestamp(5, 6)]).unwrap();
    if psh {
        builder = builder.psh();
    }
    builder.write(&mut packet, payload).unwrap();
    packet
}

fn udp(v4: bool, id: u16, payload: &[u8]) -> Vec<u8> {
    let mut packet = Vec::new();
    let builder = if v4 {
        let mut ip = etherparse::Ipv4Header::new(
            0,
            64,
            etherparse::IpNumber::UDP,
            [10, 0, 0, 1],
            [10, 0, 0, 2],
        )
        .unwrap();
        ip.identification = id;
        PacketBuilder::ip(etherparse::IpHeaders::Ipv4(ip, Default::default()))
    } else {
        PacketBuilder::ipv6([0x20; 16], [0x21; 16], 64)
    };
    builder.udp(9, 10).write(&mut packet, payload).unwrap();
    packet
}

fn layout(packet: &[u8]) -> Option<Layout> {
    Layout::of(&Head::read(packet).ok()?, packet)
}

fn outgoing(packet: &[u8]) -> Outgoing {
    let bytes = BytesMut::from(packet);
    Outgoing { layout: layout(&bytes), packet: TunPacket { bytes, offload: Offload::None } }
}

fn join(packets: &[Vec<u8>]) -> Vec<(Vec<u8>, Offload)> {
    let mut input = packets.iter().map(|packet| outgoing(packet)).collect();
    let mut out = TunWrites::default();
    Coalescer::new().join(&mut input, true, &mut out);
    out.whole().collect()
}

/// The next packet, its checksum completed as a device would.
fn next_whole(s: &mut Splitter) -> Option<Vec<u8>> {
    let offload = s.layout.partial();
    let mut packet = s.next_packet()?.to_vec();
    let Offload::Checksum { start, offset } = offload else { panic!("{offload:?}") };
    assert!(complete(&mut packet, start, offset));
    Some(packet)
}

fn splitter(packet: &[u8], kind: Segmentation, size: u16, most: usize) -> Splitter {
    Splitter::new(BytesMut::from(packet), layout(packet), kind, size, most).unwrap()
}

fn split_all(batch: &[(Vec<u8>, Offload)]) -> Vec<Vec<u8>> {
    let mut packets = Vec::new();
    for (packet, offload) in batch {
        let Offload::Segments { kind, size, .. } = *offload else {
            packets.push(packet.clone());
            continue;
        };
        let mut s = splitter(packet, kind, size, 65_535);
        let (count, bytes, longest) = (s.left(), s.bytes_left(), s.longest());
        let before = packets.len();
        while let Some(length) = s.next_len() {
            let out = next_whole(&mut s).unwrap();
            assert!(out.len() == length && length <= longest);
            packets.push(out);
        }
        assert_eq!((packets.len() - before, s.left(), s.bytes_left()), (count, 0, 0));
        assert_eq!(packets[before..].iter().map(Vec::len).sum::<usize>(), bytes);
    }
    packets
}

#[test]
fn a_stream_becomes_one_super_segment_and_a_push_ends_it() {
    let packets = [
        tcp(true, 0, 1, false, &[1; 100]),
        tcp(true, 100, 2, false, &[2; 100]),
        tcp(true, 200, 3, true, &[3; 50]),
        tcp(true, 250, 4, false, &[4; 100]),
    ];
    let out = join(&packets);
    let shape: Vec<_> = out.iter().map(|(p, o)| (p.len(), *o)).collect();
    let head = 52;
    let first = Offload::Segments { kind: Segmentation::Tcp4, header: head, size: 100 };
    assert_eq!(shape, [(52 + 250, first), (152, Offload::None)]);
    assert_eq!(split_all(&out), packets);
}

#[test]
fn gaps_other_flags_and_wrong_checksums_stand_alone() {
    let mut broken = tcp(true, 100, 2, false, &[2; 100]);
    broken[60] ^= 1;
    let out = join(&[tcp(true, 0, 1, false, &[1; 100]), broken.clone()]);
    assert_eq!(out.len(), 2, "a broken packet stays broken and alone");
    assert_eq!(out[1].0, broken);
    let gap = join(&[tcp(false, 0, 0, false, &[1; 9]), tcp(false, 10, 0, false, &[1; 9])]);
    assert_eq!(gap.len(), 2);
    let grows = join(&[tcp(false, 0, 0, false, &[1; 9]), tcp(false, 9, 0, false, &[1; 10])]);
    assert_eq!(grows.len(), 2, "only the last packet may differ, and be shorter");
    let pure_acks = join(&[tcp(true, 0, 1, false, &[]), tcp(true, 0, 2, false, &[])]);
    assert_eq!(pure_acks.len(), 2);
}

#[test]
fn a_packet_that_stands_alone_is_not_overtaken_by_its_flow() {
    let mut fin = tcp(true, 100, 2, false, &[2; 100]);
    fin[33] |= FIN;
    let packets = [tcp(true, 0, 1, false, &[1; 100]), fin, tcp(true, 200, 3, false, &[3; 100])];
    let out = join(&packets);
    let seqs: Vec<_> = out.iter().map(|(p, _)| get32(p, 24)).collect();
    assert_eq!(seqs, [0, 100, 200]);
}

#[test]
fn a_super_segment_is_split_to_a_narrower_path() {
    let packet = tcp(false, 1000, 0, true, &[7; 3000]);
    let mut s = splitter(&packet, Segmentation::Tcp6, 1400, 1072);
    let mut seen = Vec::new();
    while let Some(out) = s.next_packet() {
        seen.push((out.len(), get32(out, 44), out[40 + 13] & PSH != 0));
    }
    assert_eq!(seen, [(1072, 1000, false), (1072, 2000, false), (1072, 3000, true)]);
}

#[test]
fn a_partial_checksum_is_what_a_device_completes() {
    let whole = udp(true, 1, &[9; 33]);
    let mut s = splitter(&whole, Segmentation::Udp, 33, 0);
    let mut out = s.next_packet().unwrap().to_vec();
    assert_ne!(out, whole);
    let Some(Offload::Checksum { start, offset }) = layout(&out).map(|l| l.partial()) else {
        panic!("no UDP")
    };
    assert!(complete(&mut out, start, offset));
    assert_eq!(out, whole);
    assert!(!complete(&mut out, 60, 6), "outside of the packet");
}

/// What a packet needs in the first word of its payload, zero so far, so that all of it sums to zero.
fn with_sum_zero(mut packet: Vec<u8>, build: impl Fn(&[u8]) -> Vec<u8>) -> Vec<u8> {
    let layout = layout(&packet).unwrap();
    let (payload, at) = (layout.payload, layout.transport + layout.sum_offset());
    // What the checksum was, the word now is: together they are what the sum lacked.
    let word = [packet[at], packet[at + 1]];
    packet[payload..payload + 2].copy_from_slice(&word);
    build(&packet[payload..])
}

#[test]
fn a_checksum_that_comes_out_as_zero_is_zero_for_tcp_and_all_ones_for_udp() {
    let train: Vec<Vec<u8>> = (0..3)
        .map(|n: u16| {
            let build = |payload: &[u8]| tcp(true, u32::from(n) * 100, n, false, payload);
            with_sum_zero(build(&[0; 100]), build)
        })
        .collect();
    assert!(train.iter().all(|packet| packet[36..38] == [0, 0]), "etherparse agrees");
    let out = join(&train);
    assert_eq!((out.len(), split_all(&out)), (1, train));

    let train: Vec<Vec<u8>> = (0..3)
        .map(|n| with_sum_zero(udp(true, n, &[0; 100]), |payload| udp(true, n, payload)))
        .collect();
    assert!(train.iter().all(|packet| packet[26..28] == [0xff, 0xff]), "etherparse agrees");
    let out = join(&train);
    assert_eq!((out.len(), split_all(&out)), (1, train));
}

#[test]
fn a_false_claim_is_refused() {
    let packet = tcp(true, 0, 1, false, &[1; 100]);
    let new =
        |p: &[u8], kind, size| Splitter::new(BytesMut::from(p), layout(p), kind, size, 1400).err();
    assert_eq!(new(&packet, Segmentation::Tcp6, 50), Some(SegmentError::Malformed));
    assert_eq!(new(&packet, Segmentation::Udp, 50), Some(SegmentError::Malformed));
    assert_eq!(new(&packet, Segmentation::Tcp4, 0), Some(SegmentError::NoSize));
    assert_eq!(new(&packet[..30], Segmentation::Tcp4, 50), Some(SegmentError::Malformed));
}

proptest! {
    /// Two flows and a stranger, interleaved: joined and split again, each flow is byte for
    /// byte what it was, in order.
    #[test]
    fn a_split_undoes_a_join(
        steps in proptest::collection::vec((0u8..4, 1usize..300, any::<bool>(), any::<bool>()), 1..80),
        v4: bool,
        size in 1usize..300,
    ) {
        let (mut seq, mut id, mut udp_id) = (u32::MAX - 500, u16::MAX - 3, 7u16);
        let mut packets = Vec::new();
        for &(kind, short, psh, full) in &steps {
            let length = if full { size } else { short };
            let payload = vec![packets.len() as u8; length];
            match kind {
                0 | 1 => {
                    packets.push(tcp(v4, seq, id, psh, &payload));
                    seq = seq.wrapping_add(length as u32);
                    id = id.wrapping_add(1);
                }
                2 => {
                    packets.push(udp(v4, udp_id, &payload));
                    udp_id = udp_id.wrapping_add(1);
                }
                _ => packets.push(udp(!v4, 0, &payload)),
            }
        }
        let out = join(&packets);
        for (packet, _) in &out {
            prop_assert!(Head::read(packet).is_ok());
        }
        let again = split_all(&out);
        let flow = |all: &[Vec<u8>], p: usize, four: bool| -> Vec<Vec<u8>> {
            all.iter()
                .filter(|x| (x[0] >> 4 == 4) == four && x[if four { 9 } else { 6 }] == p as u8)
                .cloned().collect()
        };
        for (p, four) in [(6, v4), (17, v4), (17, !v4)] {
            prop_assert_eq!(flow(&again, p, four), flow(&packets, p, four));
        }
    }

    #[test]
    fn no_packet_panics_the_splitter(
        mut bytes in proptest::collection::vec(any::<u8>(), 20..200), size: u16, udp: bool,
    ) {
        let len = bytes.len() as u16;
        bytes[0] = 0x45;
        bytes[2..4].copy_from_slice(&len.to_be_bytes());
        bytes[6..8].copy_from_slice(&[0, 0]);
        bytes[9] = if udp { UDP } else { TCP };
        let kind = if udp { Segmentation::Udp } else { Segmentation::Tcp4 };
        if let Ok(mut s) = Splitter::new(BytesMut::from(&bytes[..]), layout(&bytes), kind, size, 1400) {
            while s.next_packet().is_some() {}
        }
        Coalescer::new().join(&mut vec![outgoing(&bytes)], true, &mut TunWrites::default());
    }
}
