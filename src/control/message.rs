//! The messages of a control stream.
//!
//! ```text
//! |  0: kind  |  1: reserved, zero  |  2: body …                                     big-endian
//! hello    2: version 2 · capabilities 4 · boot 8 · node 2 · receive index 4 · observed endpoint
//!          (family 0 for none) · count 1 · endpoints
//! members  2: count 2 · (length 4 · record)…
//! lsa      2: age, ms 4 · the signed bytes, to the end
//! digest   2: topic 1 (0 members, 1 link state) · count 2 · (node 2 · boot 8 · seq 8)…
//! want     2: topic 1 · count 2 · node 2 …
//! bye      2: reason 1
//! revoked  2: a CA's signed list, to the end
//! seen     2: endpoint
//! endpoint 0: family 1 (4 or 6, 0 for none) · address 4 or 16 · port 2
//! ```
//!
//! The stream is reliable and authenticated, so a message that cannot be read is the peer's fault
//! and ends the stream. Records and LSAs are opaque here: they carry their owner's signature and
//! are read where it is checked. Every list has a limit below what [`MAX_MESSAGE`] would allow.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use bytes::Bytes;

use crate::control::MAX_MESSAGE;
use crate::id::NodeId;
use crate::wire::{Reader, WireError};

/// The version of the control protocol this build speaks; the one before is understood too.
pub const VERSION: u16 = 1;

/// Endpoints a node may advertise: several uplinks of both families, no more.
pub const MAX_ENDPOINTS: usize = 8;
/// Member records in one message.
pub const MAX_RECORDS: usize = 64;
/// Bytes of one member record: a certificate with many prefixes is about 2 KiB.
pub const MAX_RECORD: usize = 8 * 1024;
/// Bytes of one link-state advertisement: a thousand links at about 40 B each.
pub const MAX_LSA: usize = 64 * 1024;
/// Bytes of one CA's list of revoked certificates: about 1,500 of them.
pub const MAX_LIST: usize = 64 * 1024;
/// Entries in a digest or a want: the greatest mesh we plan for, with room.
pub const MAX_ENTRIES: usize = 4096;

/// The first word on a stream, from each side once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// Control protocol version spoken.
    pub version: u16,
    /// Capability bits; unknown bits are ignored. The lowest four: [`Hello::lanes`]; the
    /// fifth: [`Hello::takes_news`]; the sixth: [`Hello::takes_sizes`].
    pub capabilities: u32,
    /// Grows with every start of the speaker: a greater one ends sessions of the life before.
    pub boot: u64,
    /// The speaker's number; must be the one its certificate grants.
    pub node: NodeId,
    /// The index the listener writes on frames to the speaker; its last byte, the lane, is zero.
    pub receive_index: u32,
    /// The underlay endpoint the speaker sees the listener at.
    pub observed: Option<SocketAddr>,
    /// The underlay endpoints the speaker wants to be reached at.
    pub endpoints: Vec<SocketAddr>,
}

impl Hello {
    /// The capability bits that say how many lanes the speaker has beyond the first.
    const LANES: u32 = 0x0f;

    /// The capability bit of a node that understands `revoked` and `seen`.
    const NEWS: u32 = 0x10;

    /// The capability bit of a node that answers size probes and joins fragments.
    const SIZES: u32 = 0x20;

    /// The capability bits of a node with so many lanes.
    pub const fn capabilities(lanes: u8) -> u32 {
        lanes.saturating_sub(1) as u32 & Self::LANES | Self::NEWS | Self::SIZES
    }

    /// Whether the speaker answers size probes and joins frames that come in pieces.
    pub const fn takes_sizes(&self) -> bool {
        self.capabilities & Self::SIZES != 0
    }

    /// Whether the speaker understands [`Message::Revoked`] and [`Message::Seen`].
    pub const fn takes_news(&self) -> bool {
        self.capabilities & Self::NEWS != 0
    }

    /// How many lanes the speaker has. One that does not know of lanes has one.
    pub const fn lanes(&self) -> u8 {
        (self.capabilities & Self::LANES) as u8 + 1
    }
}

/// What a digest speaks of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Topic {
    /// Member records.
    Members,
    /// Link-state advertisements.
    LinkState,
}

/// Names one piece of signed news and how new it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct DigestEntry {
    /// Whose it is.
    pub node: NodeId,
    /// Its origin's boot counter.
    pub boot: u64,
    /// Its number within that life.
    pub seq: u64,
}

/// Why a node says goodbye.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ByeReason {
    /// It is being stopped: its links are gone at once.
    Stopping,
}

/// One message of a control stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// Who speaks, and how to send it data.
    Hello(Hello),
    /// Signed member records, each opaque.
    Members(Vec<Vec<u8>>),
    /// One signed link-state advertisement, opaque.
    Lsa {
        /// How long ago it was made, as far as the speaker knows, ms.
        age_ms: u32,
        /// The signed bytes.
        record: Bytes,
    },
    /// What the speaker holds.
    Digest {
        /// Of which kind.
        topic: Topic,
        /// How new each piece is.
        entries: Vec<DigestEntry>,
    },
    /// What the speaker asks for.
    Want {
        /// Of which kind.
        topic: Topic,
        /// Whose.
        nodes: Vec<NodeId>,
    },
    /// The speaker leaves.
    Bye(ByeReason),
    /// A CA's signed list of revoked certificates, opaque.
    Revoked(Vec<u8>),
    /// The endpoint the speaker sees the listener at from now on.
    Seen(SocketAddr),
}

impl Message {
    /// The kind's name in logs and counters.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Hello(_) => "hello",
            Self::Members(_) => "members",
            Self::Lsa { .. } => "lsa",
            Self::Digest { .. } => "digest",
            Self::Want { .. } => "want",
            Self::Bye(_) => "bye",
            Self::Revoked(_) => "revoked",
            Self::Seen(_) => "seen",
        }
    }

    /// Reads one whole message.
    ///
    /// # Errors
    /// Anything but exactly one well-formed message within the limits of this file.
    pub fn parse(bytes: &[u8]) -> Result<Self, WireError> {
        Self::read(bytes, Bytes::copy_from_slice)
    }

    /// The same; link state is kept where it lies.
    ///
    /// # Errors
    /// As [`Message::parse`].
    pub fn parse_shared(bytes: &Bytes) -> Result<Self, WireError> {
        Self::read(bytes, |part| bytes.slice_ref(part))
    }

    fn read(bytes: &[u8], keep: impl Fn(&[u8]) -> Bytes) -> Result<Self, WireError> {
        if bytes.len() > MAX_MESSAGE {
            return Err(WireError::Value("message"));
        }
        let mut r = Reader::new(bytes);
        let [kind] = r.array("kind")?;
        r.zero::<1>("reserved")?;
        let message = match kind {
            1 => Self::Hello(parse_hello(&mut r)?),
            2 => {
                let count = counted(&mut r, MAX_RECORDS, "records")?;
                let mut records = Vec::with_capacity(count);
                for _ in 0..count {
                    let len = r.u32("record length")? as usize;
                    if len > MAX_RECORD {
                        return Err(WireError::Value("record length"));
                    }
                    records.push(r.bytes(len, "record")?.to_vec());
                }
                Self::Members(records)
            }
            3 => {
                let age_ms = r.u32("age")?;
                let record = r.rest();
                if record.is_empty() || record.len() > MAX_LSA {
                    return Err(WireError::Value("lsa"));
                }
                return Ok(Self::Lsa { age_ms, record: keep(record) });
            }
            4 => {
                let topic = topic(&mut r)?;
                let count = counted(&mut r, MAX_ENTRIES, "digest")?;
                let mut entries = Vec::new();
                for _ in 0..count {
                    entries.push(DigestEntry {
                        node: node(&mut r)?,
                        boot: r.u64("boot")?,
                        seq: r.u64("seq")?,
                    });
                }
                Self::Digest { topic, entries }
            }
            5 => {
                let topic = topic(&mut r)?;
                let count = counted(&mut r, MAX_ENTRIES, "want")?;
                let mut nodes = Vec::new();
                for _ in 0..count {
                    nodes.push(node(&mut r)?);
                }
                Self::Want { topic, nodes }
            }
            6 => match r.array("reason")? {
                [0] => Self::Bye(ByeReason::Stopping),
                _ => return Err(WireError::Value("reason")),
            },
            7 => {
                let list = r.rest();
                if list.is_empty() || list.len() > MAX_LIST {
                    return Err(WireError::Value("list"));
                }
                return Ok(Self::Revoked(list.to_vec()));
            }
            8 => Self::Seen(parse_endpoint(&mut r)?.ok_or(WireError::Value("endpoint"))?),
            _ => return Err(WireError::Value("kind")),
        };
        r.end()?;
        Ok(message)
    }

    /// The message's bytes. Lists longer than the limits are cut: callers keep to them.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::new();
        match self {
            Self::Hello(hello) => {
                out.extend([1, 0]);
                out.extend(hello.version.to_be_bytes());
                out.extend(hello.capabilities.to_be_bytes());
                out.extend(hello.boot.to_be_bytes());
                out.extend(hello.node.get().to_be_bytes());
                out.extend(hello.receive_index.to_be_bytes());
                write_endpoint(&mut out, hello.observed);
                write_endpoints(&mut out, &hello.endpoints);
            }
            Self::Members(records) => {
                out.extend([2, 0]);
                let records = &records[..records.len().min(MAX_RECORDS)];
                out.extend((records.len() as u16).to_be_bytes());
                for record in records {
                    out.extend((record.len() as u32).to_be_bytes());
                    out.extend(record);
                }
            }
            Self::Lsa { age_ms, record } => {
                out.extend([3, 0]);
                out.extend(age_ms.to_be_bytes());
                out.extend(record);
            }
            Self::Digest { topic, entries } => {
                out.extend([4, 0, topic_byte(*topic)]);
                let entries = &entries[..entries.len().min(MAX_ENTRIES)];
                out.extend((entries.len() as u16).to_be_bytes());
                for entry in entries {
                    out.extend(entry.node.get().to_be_bytes());
                    out.extend(entry.boot.to_be_bytes());
                    out.extend(entry.seq.to_be_bytes());
                }
            }
            Self::Want { topic, nodes } => {
                out.extend([5, 0, topic_byte(*topic)]);
                let nodes = &nodes[..nodes.len().min(MAX_ENTRIES)];
                out.extend((nodes.len() as u16).to_be_bytes());
                for node in nodes {
                    out.extend(node.get().to_be_bytes());
                }
            }
            Self::Bye(ByeReason::Stopping) => out.extend([6, 0, 0]),
            Self::Revoked(list) => {
                out.extend([7, 0]);
                out.extend(list);
            }
            Self::Seen(endpoint) => {
                out.extend([8, 0]);
                write_endpoint(&mut out, Some(*endpoint));
            }
        }
        out
    }
}

fn parse_hello(r: &mut Reader<'_>) -> Result<Hello, WireError> {
    let version = r.u16("version")?;
    let capabilities = r.u32("capabilities")?;
    let boot = r.u64("boot")?;
    let node = node(r)?;
    let receive_index = r.u32("receive index")?;
    if receive_index & 0xff != 0 {
        return Err(WireError::Value("receive index"));
    }
    let observed = parse_endpoint(r)?;
    let endpoints = parse_endpoints(r)?;
    Ok(Hello { version, capabilities, boot, node, receive_index, observed, endpoints })
}

/// A node number that may name a node.
fn node(r: &mut Reader<'_>) -> Result<NodeId, WireError> {
    NodeId::new(r.u16("node")?).ok_or(WireError::Value("node"))
}

fn topic(r: &mut Reader<'_>) -> Result<Topic, WireError> {
    match r.array("topic")? {
        [0] => Ok(Topic::Members),
        [1] => Ok(Topic::LinkState),
        _ => Err(WireError::Value("topic")),
    }
}

const fn topic_byte(topic: Topic) -> u8 {
    match topic {
        Topic::Members => 0,
        Topic::LinkState => 1,
    }
}

/// A 16-bit count within its limit.
fn counted(r: &mut Reader<'_>, limit: usize, field: &'static str) -> Result<usize, WireError> {
    let count = usize::from(r.u16(field)?);
    if count > limit { Err(WireError::Value(field)) } else { Ok(count) }
}

/// Appends a list of endpoints, cut at [`MAX_ENDPOINTS`].
pub fn write_endpoints(out: &mut Vec<u8>, endpoints: &[SocketAddr]) {
    let endpoints = &endpoints[..endpoints.len().min(MAX_ENDPOINTS)];
    out.push(endpoints.len() as u8);
    for &endpoint in endpoints {
        write_endpoint(out, Some(endpoint));
    }
}

/// Reads a list of endpoints.
///
/// # Errors
/// More than [`MAX_ENDPOINTS`], an absent endpoint within the list, or an unknown family.
pub fn parse_endpoints(r: &mut Reader<'_>) -> Result<Vec<SocketAddr>, WireError> {
    let [count] = r.array("endpoints")?;
    if usize::from(count) > MAX_ENDPOINTS {
        return Err(WireError::Value("endpoints"));
    }
    let mut endpoints = Vec::with_capacity(usize::from(count));
    for _ in 0..count {
        endpoints.push(parse_endpoint(r)?.ok_or(WireError::Value("endpoint"))?);
    }
    Ok(endpoints)
}

/// Appends one endpoint. Flow labels and scopes of IPv6 do not travel: they mean nothing elsewhere.
fn write_endpoint(out: &mut Vec<u8>, endpoint: Option<SocketAddr>) {
    match endpoint {
        None => out.push(0),
        Some(SocketAddr::V4(v4)) => {
            out.push(4);
            out.extend(v4.ip().octets());
            out.extend(v4.port().to_be_bytes());
        }
        Some(SocketAddr::V6(v6)) => {
            out.push(6);
            out.extend(v6.ip().octets());
            out.extend(v6.port().to_be_bytes());
        }
    }
}

fn parse_endpoint(r: &mut Reader<'_>) -> Result<Option<SocketAddr>, WireError> {
    let ip: IpAddr = match r.array("family")? {
        [0] => return Ok(None),
        [4] => Ipv4Addr::from(r.array::<4>("address")?).into(),
        [6] => Ipv6Addr::from(r.array::<16>("address")?).into(),
        _ => return Err(WireError::Value("family")),
    };
    let port = r.u16("port")?;
    Ok(Some(SocketAddr::new(ip, port)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::id::Lane;

    fn any_node() -> impl Strategy<Value = NodeId> {
        (1..=NodeId::MAX).prop_map(|n| NodeId::new(n).unwrap())
    }

    fn any_endpoint() -> impl Strategy<Value = SocketAddr> {
        prop_oneof![
            (any::<[u8; 4]>(), any::<u16>()).prop_map(|(a, p)| SocketAddr::from((a, p))),
            (any::<[u8; 16]>(), any::<u16>()).prop_map(|(a, p)| SocketAddr::from((a, p))),
        ]
    }

    fn any_message() -> impl Strategy<Value = Message> {
        let bytes = || prop::collection::vec(any::<u8>(), 1..200);
        let hello = (
            any::<u16>(),
            any::<u32>(),
            any::<u64>(),
            any_node(),
            any::<u32>(),
            prop::option::of(any_endpoint()),
            prop::collection::vec(any_endpoint(), 0..=MAX_ENDPOINTS),
        )
            .prop_map(|(version, capabilities, boot, node, index, observed, endpoints)| {
                let receive_index = index & !0xff;
                Message::Hello(Hello {
                    version,
                    capabilities,
                    boot,
                    node,
                    receive_index,
                    observed,
                    endpoints,
                })
            });
        let topic = || prop_oneof![Just(Topic::Members), Just(Topic::LinkState)];
        let entry = (any_node(), any::<u64>(), any::<u64>())
            .prop_map(|(node, boot, seq)| DigestEntry { node, boot, seq });
        prop_oneof![
            hello,
            prop::collection::vec(bytes(), 0..5).prop_map(Message::Members),
            (any::<u32>(), bytes())
                .prop_map(|(age_ms, record)| Message::Lsa { age_ms, record: record.into() }),
            (topic(), prop::collection::vec(entry, 0..20))
                .prop_map(|(topic, entries)| Message::Digest { topic, entries }),
            (topic(), prop::collection::vec(any_node(), 0..20))
                .prop_map(|(topic, nodes)| Message::Want { topic, nodes }),
            Just(Message::Bye(ByeReason::Stopping)),
            bytes().prop_map(Message::Revoked),
            any_endpoint().prop_map(Message::Seen),
        ]
    }

    proptest! {
        #[test]
        fn every_message_survives_the_wire(message in any_message()) {
            prop_assert_eq!(Message::parse(&message.to_bytes()), Ok(message));
        }

        #[test]
        fn no_bytes_panic_and_what_is_read_writes_back_equal(
            bytes in prop::collection::vec(any::<u8>(), 0..300),
            kind in 0u8..10,
        ) {
            let mut bytes = bytes;
            if let [first, second, ..] = bytes.as_mut_slice() {
                (*first, *second) = (kind, 0);
            }
            if let Ok(message) = Message::parse(&bytes) {
                prop_assert_eq!(message.to_bytes(), bytes);
            }
        }

        #[test]
        fn a_message_cut_short_or_grown_is_refused(message in any_message(), cut in 1usize..40) {
            prop_assume!(!matches!(message, Message::Lsa { .. } | Message::Revoked(_)));
            let bytes = message.to_bytes();
            let short = &bytes[..bytes.len() - cut.min(bytes.len())];
            prop_assert!(Message::parse(short).is_err());
            let mut long = bytes.clone();
            long.push(0);
            prop_assert!(Message::parse(&long).is_err());
        }
    }

    fn plain_hello() -> Hello {
        Hello {
            version: 1,
            capabilities: 0,
            boot: 3,
            node: NodeId::new(4).unwrap(),
            receive_index: 0x0506_0700,
            observed: Some("192.0.2.1:4600".parse().unwrap()),
            endpoints: vec!["[2001:db8::1]:1".parse().unwrap()],
        }
    }

    #[test]
    fn a_hello_has_these_bytes() {
        let hello = Message::Hello(Hello { capabilities: 2, ..plain_hello() });
        let golden = [
            1, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 3, 0, 4, 5, 6, 7, 0, 4, 192, 0, 2, 1, 17,
            248, 1, 6, 32, 1, 13, 184, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 1,
        ];
        assert_eq!(hello.to_bytes(), golden);
    }

    #[test]
    fn lanes_are_told_in_the_lowest_capability_bits_and_silence_means_one() {
        for lanes in 1..=Lane::LIMIT {
            let mut hello = plain_hello();
            hello.capabilities = 0xabcd_ef00 | Hello::capabilities(lanes);
            assert_eq!(hello.lanes(), lanes);
        }
        assert_eq!(plain_hello().lanes(), 1, "a node that says nothing");
        assert_eq!(Hello::capabilities(0), Hello::NEWS | Hello::SIZES);
    }

    #[test]
    fn lists_beyond_their_limits_are_refused() {
        let mut many = vec![4, 0, 1];
        many.extend((MAX_ENTRIES as u16 + 1).to_be_bytes());
        assert!(Message::parse(&many).is_err());
        let mut record = vec![2, 0, 0, 1];
        record.extend((MAX_RECORD as u32 + 1).to_be_bytes());
        record.resize(record.len() + MAX_RECORD + 1, 0);
        assert!(Message::parse(&record).is_err());
        assert!(Message::parse(&vec![3; MAX_MESSAGE + 1]).is_err());
        assert!(Message::parse(&[3, 0, 0, 0, 0, 0]).is_err(), "an empty LSA says nothing");
    }
}
