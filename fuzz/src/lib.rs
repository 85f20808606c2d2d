//! What the fuzz targets do with their bytes: every parser of input from outside, and what must hold of
//! what it lets through. A target must not panic, whatever the bytes; where a message can be written
//! again, the same must come back.

use std::net::IpAddr;
use std::path::Path;
use std::sync::OnceLock;

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use bytes::{Bytes, BytesMut};
use rustls::pki_types::CertificateDer;
use thalweg::buf::Segmentation;
use thalweg::config::{Config, class};
use thalweg::control::dialogue::Dialogue;
use thalweg::control::message::Message;
use thalweg::daemon::admin::Envelope;
use thalweg::daemon::pki::grant::Grant;
use thalweg::daemon::pki::verify::Anchors;
use thalweg::fec::decoder::{Decoder, DecoderLimits};
use thalweg::forward::classify::{Classifier, Head};
use thalweg::forward::segment::{Layout, Splitter};
use thalweg::forward::{mss, too_big};
use thalweg::id::NodeId;
use thalweg::probe::model::{FILE_LIMIT, INPUTS, Model, REACH};
use thalweg::report::Command;
use thalweg::session::trust::{Certified, ListNews, Trust, TrustError};
use thalweg::time::Instant;
use thalweg::topology::lsa::Lsa;
use thalweg::topology::member::{Members, Restored};
use thalweg::wire::ack::Ack;
use thalweg::wire::data::DataMut;
use thalweg::wire::fragment::Fragment;
use thalweg::wire::header::{Clear, EndHeader, RouteHeader};
use thalweg::wire::hello::Hello;
use thalweg::wire::notice::Notice;
use thalweg::wire::probe::Probe;
use thalweg::wire::repair::Repair;
use thalweg::wire::size::SizeProbe;
use thalweg::wire::{Kind, Owner, carrier, owner};

/// A target: takes bytes, must not panic.
pub type Target = fn(&[u8]);

/// Every target by its name.
pub const ALL: &[(&str, Target)] = &[
    ("frame", frame),
    ("route", route),
    ("data", data),
    ("ack", ack),
    ("repair", repair),
    ("hello", hello),
    ("notice", notice),
    ("probe", probe),
    ("size", size),
    ("fragment", fragment),
    ("carrier", carried),
    ("control", control),
    ("dialogue", dialogue),
    ("lsa", lsa),
    ("member", member),
    ("state", state),
    ("certificate", certificate),
    ("list", list),
    ("grant", grant),
    ("packet", packet),
    ("config", config),
    ("admin", admin),
    ("answer", answer),
    ("model", model),
];

/// A datagram as it comes from the underlay: whose it is, its header, then what its kind says.
pub fn frame(bytes: &[u8]) {
    if owner(bytes) != Owner::Frame {
        return;
    }
    let Ok((clear, body)) = Clear::parse(bytes) else { return };
    assert!(clear.counter < Clear::COUNTER_END);
    match clear.kind {
        Kind::Data => data(body),
        Kind::Ack => ack(body),
        Kind::Repair => repair(body),
        Kind::Hello => hello(body),
        Kind::Notice => notice(body),
        Kind::Probe if SizeProbe::is_one(body) => size(body),
        Kind::Probe => probe(body),
        Kind::Carrier => carried(body),
        Kind::Fragment => fragment(body),
        Kind::Bundle => {}
    }
}

/// A route header: what is let through can be written again and walked to its end.
pub fn route(bytes: &[u8]) {
    let Some(header) = bytes.first_chunk() else { return };
    let Ok(route) = RouteHeader::parse(header) else { return };
    assert_eq!(&route.to_bytes(), header);
    let _ = (route.receiver(), route.next(), route.sender(), route.destination());
    let mut patched = *header;
    RouteHeader::patch_hop(&mut patched, 7, true, true);
    RouteHeader::patch_age(&mut patched, 9);
    RouteHeader::patch_segments_left(&mut patched, 0);
    assert!(RouteHeader::parse(&patched).is_ok(), "what we rewrite stays good");
}

/// A data frame behind its clear header.
pub fn data(bytes: &[u8]) {
    let mut body = bytes.to_vec();
    let Ok(parts) = DataMut::split(&mut body) else { return };
    let (header, end) = (*parts.route, *parts.end);
    route(&header);
    if let Ok(parsed) = EndHeader::parse(&end) {
        assert_eq!(parsed.to_bytes(), end);
    }
}

/// Feedback: what is let through is written back the same, and every sequence can be asked for.
pub fn ack(bytes: &[u8]) {
    let Ok(ack) = Ack::parse(bytes) else { return };
    let mut written = Vec::new();
    ack.write(&mut written);
    assert_eq!(Ack::parse(&written), Ok(ack));
    for seq in [0, 1, u32::MAX, u32::MAX / 2] {
        let _ = ack.came(seq);
    }
}

/// Symbols and packets of a hop in a row: each begins with its length; the decoder takes them in.
pub fn repair(bytes: &[u8]) {
    let _ = Repair::parse(bytes).map(|(repair, _)| repair.sequences().count());
    let limits = DecoderLimits::default();
    let mut decoder = Decoder::new(limits);
    let mut rest = bytes;
    while let [kind, length, after @ ..] = rest {
        let (one, next) = after.split_at(usize::from(*length).min(after.len()));
        rest = next;
        match (kind % 3, one.split_first_chunk::<4>()) {
            (0, Some((seq, body))) => {
                let mut head = [0; 20];
                let taken = body.len().min(head.len());
                head[..taken].copy_from_slice(&body[..taken]);
                decoder.on_source(u32::from_be_bytes(*seq), head, &body[taken..]);
            }
            (1, Some((seq, _))) => decoder.forget_before(u32::from_be_bytes(*seq)),
            _ => {
                if let Ok((repair, symbol)) = Repair::parse(one) {
                    assert!(repair.sequences().count() <= 1 << 12);
                    decoder.on_repair(&repair, symbol);
                }
            }
        }
        while decoder.poll_recovered().is_some() {}
        assert!(decoder.memory() <= 64 << 20, "bounded: {}", decoder.memory());
    }
}

/// A hello.
pub fn hello(bytes: &[u8]) {
    if let Ok(hello) = Hello::parse(bytes) {
        assert_eq!(Hello::parse(&hello.to_bytes()), Ok(hello));
    }
}

/// A notice.
pub fn notice(bytes: &[u8]) {
    if let Ok(notice) = Notice::parse(bytes) {
        assert_eq!(Notice::parse(&notice.to_bytes()), Ok(notice));
        let _ = (notice.next(), notice.before(node(1)), notice.destination());
    }
}

/// A probe or its reply.
pub fn probe(bytes: &[u8]) {
    if let Ok(probe) = Probe::parse(bytes) {
        assert_eq!(Probe::parse(&probe.to_bytes()), Ok(probe));
    }
}

/// A size probe or its answer.
pub fn size(bytes: &[u8]) {
    if let Ok(probe) = SizeProbe::parse(bytes) {
        assert_eq!(probe.to_bytes(), bytes);
    }
}

/// A piece of a frame: what is let through lies within it and is written back the same.
pub fn fragment(bytes: &[u8]) {
    if let Ok((fragment, piece)) = Fragment::parse(bytes) {
        assert!(usize::from(fragment.offset) + piece.len() <= usize::from(fragment.total));
        assert_eq!(fragment.to_bytes(piece), bytes);
    }
}

/// A carrier frame behind its clear header.
pub fn carried(bytes: &[u8]) {
    let Ok((route, datagram)) = carrier::parse(bytes) else { return };
    let mut written = Vec::new();
    carrier::write(&mut written, &route, datagram);
    assert_eq!(written, bytes);
}

/// A control message: what is let through is written back and read again the same.
pub fn control(bytes: &[u8]) {
    let Ok(message) = Message::parse(bytes) else { return };
    let again = Message::parse(&message.to_bytes());
    assert_eq!(again.map(|m| m.to_bytes()), Ok(message.to_bytes()));
}

/// A stream of control messages, each behind its length in two bytes.
pub fn dialogue(bytes: &[u8]) {
    let mut now = Instant::ZERO;
    let mut dialogue = Dialogue::new(node(2), now);
    let mut rest = bytes;
    while let [high, low, after @ ..] = rest {
        let length = usize::from(u16::from_be_bytes([*high, *low])).min(after.len());
        let (one, next) = after.split_at(length);
        rest = next;
        now = now.plus(std::time::Duration::from_millis(u64::from(*low)));
        if dialogue.on_message(now, &Bytes::copy_from_slice(one)).is_err() {
            return;
        }
    }
}

/// A link-state record: as it comes, and under a signature that fits, so that what lies behind it is
/// reached too.
pub fn lsa(bytes: &[u8]) {
    let key = key();
    let public: [u8; 32] = key.public_key().as_ref().try_into().expect("32 bytes");
    let _ = (Lsa::origin_of(bytes), Lsa::open(bytes, &public));
    let signature = key.sign(&[b"thalweg link state 1", bytes].concat());
    let record = [bytes, signature.as_ref()].concat();
    let Ok(lsa) = Lsa::open(&record, &public) else { return };
    assert!(lsa.links.windows(2).all(|pair| pair[0].neighbour < pair[1].neighbour));
    let _ = lsa.link(node(7));
}

/// Trusts everyone as the same node, so that what lies behind the certificate is reached.
struct Everyone;

impl Trust for Everyone {
    fn verify(&self, certificate: &[u8]) -> Result<Certified, TrustError> {
        match certificate {
            [] => Err(TrustError("empty".into())),
            [number, ..] => Ok(Certified {
                node: node(u16::from(*number).max(1)),
                name: format!("n{number}"),
                addresses: vec![IpAddr::from([10, 77, 0, *number])],
                prefixes: Vec::new(),
                relay: true,
                public_key: key().public_key().as_ref().try_into().expect("32 bytes"),
                not_after: u64::MAX,
            }),
        }
    }

    fn revokes(&self, certificate: &[u8]) -> bool {
        certificate.first() == Some(&0)
    }

    fn on_list(&self, _: &[u8]) -> Result<ListNews, TrustError> {
        Ok(ListNews::Known)
    }

    fn lists(&self) -> Vec<Vec<u8>> {
        Vec::new()
    }
}

/// A member's record: as it comes, and under a signature that fits.
pub fn member(bytes: &[u8]) {
    let mut members = Members::new(node(1), "n1".into(), std::time::Duration::from_secs(60));
    let _ = members.on_record(Instant::ZERO, bytes, &Everyone);
    let signature = key().sign(&[b"thalweg member v1", bytes].concat());
    let record = [bytes, signature.as_ref()].concat();
    let _ = members.on_record(Instant::ZERO, &record, &Everyone);
    let kept = members.persist(3, &Default::default(), &[]);
    assert!(Restored::read(&kept).is_ok(), "what is kept can be read");
}

/// The state file.
pub fn state(bytes: &[u8]) {
    let Ok(restored) = Restored::read(bytes) else { return };
    let mut members = Members::new(node(1), "n1".into(), std::time::Duration::from_secs(60));
    members.restore(Instant::ZERO, &restored, &Everyone);
}

/// A CA's list of revoked certificates, from anyone.
pub fn list(bytes: &[u8]) {
    let anchors = anchors();
    if anchors.on_list(bytes).is_ok() {
        let known = matches!(anchors.on_list(bytes), Ok(ListNews::Known));
        assert!(known, "what came in is known, and comes in no second time");
        assert!(anchors.lists().iter().any(|list| list == bytes));
    }
}

/// Trust in the CA whose certificate lies beside this.
fn anchors() -> Anchors {
    let der = CertificateDer::from(include_bytes!("../ca.der").to_vec());
    Anchors::new(vec![der]).expect("our own")
}

/// A certificate from a peer or a file, and one that claims to be a CA's.
pub fn certificate(bytes: &[u8]) {
    static ANCHORS: OnceLock<Anchors> = OnceLock::new();
    let anchors = ANCHORS.get_or_init(anchors);
    for now in [0, 1_800_000_000, u64::MAX / 2] {
        let _ = anchors.verify(bytes, now);
    }
    if let Ok(own) = Anchors::new(vec![CertificateDer::from(bytes.to_vec())]) {
        let _ = own.verify(bytes, 1_800_000_000);
        let _ = own.list();
    }
}

/// What a certificate's extension grants.
pub fn grant(bytes: &[u8]) {
    let Ok(grant) = Grant::decode("paris".into(), bytes) else { return };
    if grant.check().is_ok() {
        let again = Grant::decode("paris".into(), &grant.encode());
        assert_eq!(again.map(|g| g.encode()), Ok(grant.encode()));
    }
}

/// A packet from the device or out of the tunnel: read, sorted, cut.
pub fn packet(bytes: &[u8]) {
    let [kind, size, rest @ ..] = bytes else { return };
    let classifier = Classifier::new(&class::defaults(), 7);
    let _ = classifier.classify(rest);
    let Ok(head) = Head::read(rest) else { return };
    let mut opening = rest.to_vec();
    mss::clamp(&head, &mut opening, *kind >= 128, 576 + usize::from(*size));
    assert_eq!(opening.len(), rest.len());
    if let Some(told) = too_big::answer(&head, rest, rest.len(), 576 + usize::from(*size)) {
        assert!(told.len() <= 1280 && Head::read(&told).is_ok());
    }
    let layout = Layout::of(&head, rest);
    let kind = match kind % 3 {
        0 => Segmentation::Tcp4,
        1 => Segmentation::Tcp6,
        _ => Segmentation::Udp,
    };
    let most = 576 + usize::from(*size);
    let size = u16::from(*size).saturating_mul(8);
    let Ok(mut splitter) = Splitter::new(BytesMut::from(rest), layout, kind, size, most) else {
        return;
    };
    let told = splitter.left();
    let mut cut = 0;
    while let Some(one) = splitter.next_packet() {
        assert!(one.len() <= rest.len());
        cut += 1;
        assert!(cut <= rest.len() + 1, "it ends");
    }
    assert_eq!(cut, told);
}

/// A configuration, or any other text that claims to be one.
pub fn config(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    match Config::parse(text, Path::new("/etc/thalweg/thalweg.toml")) {
        Ok(config) => drop(config.remarks()),
        Err(error) => assert!(!error.to_string().is_empty(), "a refusal says why"),
    }
}

/// A question at the admin socket.
pub fn admin(bytes: &[u8]) {
    let Ok(command) = serde_json::from_slice::<Command>(bytes) else { return };
    let line = serde_json::to_vec(&command).expect("a question can be written");
    assert_eq!(serde_json::from_slice::<Command>(&line).ok(), Some(command));
}

/// An answer of the admin socket, at the command line's side.
pub fn answer(bytes: &[u8]) {
    if let Ok(envelope) = serde_json::from_slice::<Envelope>(bytes) {
        assert!(serde_json::to_vec(&envelope).is_ok());
    }
}

/// A forecaster's file: as it is, and with the check that belongs to it, else nothing behind that is reached.
/// What is let through can be written and read again, and says nothing beyond its bound.
pub fn model(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let body = text.trim_end();
    let body = match body.rfind("\nend ") {
        Some(at) => &body[..=at],
        None => body,
    };
    let newline = if body.ends_with('\n') { "" } else { "\n" };
    let mut checked = format!("{body}{newline}");
    // FNV-1a, 64 bits.
    let step = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    let check = checked.bytes().fold(0xcbf2_9ce4_8422_2325, step);
    checked.push_str(&format!("end {check:016x}\n"));
    for text in [text, &checked] {
        match Model::parse(text) {
            Ok(model) => {
                let written = model.write();
                assert!(Model::parse(&written).is_ok() || written.len() > FILE_LIMIT);
                for value in [0.0, 1.0, -1e300, f64::INFINITY, f64::NAN] {
                    assert!(model.correct(&[value; INPUTS]).abs() <= REACH);
                }
            }
            Err(error) => assert!(!error.to_string().is_empty(), "a refusal says why"),
        }
    }
}

fn node(number: u16) -> NodeId {
    NodeId::new(number).expect("a number that can be")
}

fn key() -> &'static Ed25519KeyPair {
    static KEY: OnceLock<Ed25519KeyPair> = OnceLock::new();
    KEY.get_or_init(|| Ed25519KeyPair::from_seed_unchecked(&[7; 32]).expect("any seed is a key"))
}
