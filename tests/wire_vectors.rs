//! Golden bytes: what `docs/wire.md` describes, so that neither can move alone.
//!
//! The keys are those of the secret 00 01 … 1f between node 1 and node 2.

use std::time::Duration;

use bytes::Bytes;
use thalweg::fec::{Encoder, EncoderLimits};
use thalweg::id::{Class, NodeId, StreamId};
use thalweg::session::keys::{Scope, Secret, nonce};
use thalweg::session::seal::SealKey;
use thalweg::time::Instant;
use thalweg::unit::Residual;
use thalweg::wire::ack::{Ack, Bitmap, Clock, Recovered};
use thalweg::wire::header::{Clear, EndHeader, Flags, RouteHeader, Segments, end_aad};
use thalweg::wire::hello::{Hello, Role};
use thalweg::wire::notice::{Notice, NoticeReason};
use thalweg::wire::probe::Probe;
use thalweg::wire::repair::{Repair, Window};
use thalweg::wire::{Kind, carrier, data};

fn node(number: u16) -> NodeId {
    NodeId::new(number).unwrap()
}

fn secret() -> Secret {
    Secret::new(std::array::from_fn(|i| i as u8))
}

fn hex(bytes: impl AsRef<[u8]>) -> String {
    bytes.as_ref().iter().map(|b| format!("{b:02x}")).collect()
}

fn clear(kind: Kind) -> Clear {
    Clear { kind, epoch: 0, index: 0x0102_0300, counter: 5 }
}

fn route() -> RouteHeader {
    RouteHeader {
        hop_seq: 9,
        class: Class(3),
        flags: Flags { ordered: true, checksum_partial: true, ..Flags::default() },
        ecn: 1,
        segments_left: 1,
        residual: Residual(64),
        budget: 800,
        age: 100,
        source: node(1),
        segments: Segments::new(&[node(2), node(3)]).unwrap(),
    }
}

/// A frame that is sealed whole: clear header, body, tag.
fn sealed(kind: Kind, body: &[u8]) -> String {
    let clear = clear(kind).to_bytes();
    let key = SealKey::new(&Scope::hop(node(1), node(2), 0x0102_0300).key(&secret(), 0));
    let mut body = body.to_vec();
    let tag = key.seal_in_place(nonce(0, StreamId(0), 5), &clear, &mut body);
    hex([&clear[..], &body, &tag].concat())
}

#[test]
fn keys() {
    let hop = Scope::hop(node(1), node(2), 0x0102_0300);
    let end = Scope::end(node(1), node(3), 0);
    assert_eq!(hex(hop.key(&secret(), 0)), "7f9548723f2033954f8133777c2a98a9");
    assert_eq!(hex(end.key(&secret(), 0)), "481089c8754c012cc7631e1dc753120f");
    assert_eq!(hex(hop.key(&secret().next(), 1)), "fb072882000d4602328a5772e6556d99");
}

#[test]
fn headers() {
    assert_eq!(hex(clear(Kind::Data).to_bytes()), "100001020300000000000005");
    assert_eq!(hex(route().to_bytes()), "000000090c0d01400320006400010002000300000000");
    let mut on_its_hop = route().to_bytes();
    RouteHeader::patch_hop(&mut on_its_hop, 10, true, true);
    assert_eq!(hex(on_its_hop), "0000000a0c6d01400320006400010002000300000000");
    let end = EndHeader { epoch: 0, lane: 0, stream: StreamId(0x00c1), counter: 7 };
    assert_eq!(hex(end.to_bytes()), "000000c10000000000000007");
    assert_eq!(hex(end_aad(&route(), &end)), "01000100030303000000c10000000000000007");
}

#[test]
fn data_frame() {
    let (clear, mut route_bytes) = (clear(Kind::Data).to_bytes(), route().to_bytes());
    let end = EndHeader { epoch: 0, lane: 0, stream: StreamId(0x00c1), counter: 7 };
    let end_key = SealKey::new(&Scope::end(node(1), node(3), 0).key(&secret(), 0));
    let mut payload = *b"a packet";
    let aad = end_aad(&route(), &end);
    let end_tag = end_key.seal_in_place(nonce(0, end.stream, end.counter), &aad, &mut payload);
    let hop_key = SealKey::new(&Scope::hop(node(1), node(2), 0x0102_0300).key(&secret(), 0));
    let aad = data::hop_aad(&clear, &end_tag);
    let hop_tag = hop_key.seal_in_place(nonce(0, StreamId(0), 5), &aad, &mut route_bytes);
    let frame = [&clear[..], &route_bytes, &hop_tag, &end.to_bytes(), &payload, &end_tag].concat();
    assert_eq!(frame.len(), 8 + data::OVERHEAD);
    assert_eq!(
        hex(frame),
        "10000102030000000000000578ff76ee790b57e47e1478226435c7a81e4e37e4a5edb5ba463a269d\
         41124248668f38e014db000000c1000000000000000713dce8df8a7b4c68439c67f89ee05385ce7f\
         66c9bc172a9d"
    );
}

#[test]
fn probes() {
    let request = Probe::Request { seq: 2, sent_at: Instant::from_micros(1_000_000) };
    assert_eq!(hex(request.to_bytes()), "000000000000000200000000000f4240000000000000000000000000");
    let reply = Probe::Reply {
        seq: 2,
        sent_at: Instant::from_micros(1_000_000),
        dwell: Duration::from_micros(300),
        highest: 4,
        heard: 3,
    };
    assert_eq!(hex(reply.to_bytes()), "010000000000000200000000000f42400000012c0000000400000003");
    assert_eq!(
        sealed(Kind::Probe, &request.to_bytes()),
        "11000102030000000000000578ff76e7750656a67d347846643b85ea1e4d37e4a5ed580a0a4a0d2f\
         bd6cf7f78ba2fc1e918ada65e4d921fe"
    );
}

#[test]
fn hellos() {
    let request = Hello {
        role: Role::Request,
        version: 1,
        capabilities: 0,
        boot: 6,
        challenge: *b"whoisit?",
        echo: [0; 8],
    };
    assert_eq!(
        hex(request.to_bytes()),
        "0001000000000000000000000000000677686f697369743f0000000000000000"
    );
    let response =
        Hello { role: Role::Response, challenge: [0; 8], echo: request.challenge, ..request };
    assert_eq!(
        hex(response.to_bytes()),
        "01010000000000000000000000000006000000000000000077686f697369743f"
    );
    assert_eq!(
        sealed(Kind::Hello, &request.to_bytes()),
        "12000102030000000000000578fe76e7750656a47d3478466434c7ac6925588dd6842c350a4a0d2f\
         3b621ed6e7e3eae5bc76f0c5e76bf4b0aa56fb8c"
    );
}

#[test]
fn carriers() {
    let route = RouteHeader { hop_seq: 0, flags: Flags::default(), ..route() };
    let mut body = Vec::new();
    carrier::write(&mut body, &route, b"quic");
    assert_eq!(hex(&body), "000000000c010140032000640001000200030000000071756963");
    assert_eq!(
        sealed(Kind::Carrier, &body),
        "13000102030000000000000578ff76e7790757e47e1478226435c7a81e4e37e4a5ed297f63296f59\
         60490a502160b80ad42e30697640"
    );
}

#[test]
fn acks() {
    let mut bitmap = Bitmap::new(100, 10);
    [101, 102, 109].iter().for_each(|&seq| bitmap.insert(seq));
    let mut recovered = Recovered::default();
    assert!(recovered.push(8));
    let ack = Ack {
        settled: 100,
        highest: 109,
        delay: Duration::from_micros(248),
        clock: Clock::at(Instant::from_micros(8 * 0x0708_090a)),
        given_up: 1,
        ce: 2,
        local_drops: 3,
        asked: true,
        bitmap,
        recovered,
    };
    let mut body = Vec::new();
    ack.write(&mut body);
    assert_eq!(hex(&body), "000000640000000108090a000a001f0000e20602000200030008");
    assert_eq!(
        sealed(Kind::Ack, &body),
        "14000102030000000000000578ff7683750656a5753d72466e34d8aa1eaf31e6a5ef58090a4234\
         847cd9c73884487693890361c39041"
    );
}

#[test]
fn notices() {
    let notice = Notice {
        reason: NoticeReason::NextHopDown,
        hops_left: 3,
        class: Class(3),
        source: node(1),
        relay: node(2),
        segments: route().segments,
    };
    assert_eq!(hex(notice.to_bytes()), "01030300000100020002000300000000");
    assert_eq!(
        sealed(Kind::Notice, &notice.to_bytes()),
        "18000102030000000000000579fc75e7750756a67d3678456434c7aa4622809375d878845b17e7d6\
         66d240ca"
    );
}

#[test]
fn repairs() {
    // Route headers and tails of three frames, 9 to 11; 10 is not in the window.
    let mut encoder = Encoder::new(EncoderLimits::default());
    for (seq, len) in [(9, 4), (10, 9), (11, 6)] {
        let mut head = [seq as u8; Repair::SYMBOL_HEAD];
        head[2..].copy_from_slice(&RouteHeader { hop_seq: seq, ..route() }.to_bytes()[4..]);
        encoder.push(seq, head, Bytes::from(vec![seq as u8; len]));
    }
    // Key 0 is spent on another window.
    encoder.over_newest(2).unwrap().append(&mut Vec::new());
    let mut body = Vec::new();
    let repair = encoder.over(&[9, 11]).unwrap().append(&mut body);
    assert_eq!(repair, Repair { last: 11, key: 1, window: Window::Mask(0b101) });
    assert_eq!(
        hex(&body),
        "0000000b800100000005000948460ead12db004e000e001c0012000000004f4f4f4f6060"
    );
    assert_eq!(
        sealed(Kind::Repair, &body),
        "15000102030000000000000578ff76ecf50756a47d31784f2c72c9070c9637aaa5e358160a580d2f3b625199acafae4f5759a371a884e6fef310d00314215d3a"
    );
}
