//! Link-state advertisements: what a node says of its links, in its own name.
//!
//! A record is written by its origin, signed, and carried on unchanged by whoever has it. It is
//! named by (origin, boot counter, sequence); the greater is the newer, and wall time plays no part.
//! Both ends of a link speak of both its directions; who is believed is the reader's business
//! ([`Lsdb`](super::lsdb::Lsdb)).
//!
//! ```text
//! |  0: version 1  |  1: flags  |  2: origin  |  4: boot, 8  |  12: sequence, 4
//! | 16: lifetime, s, 2  |  18: number of links, 2  |  20: links  |  signature, 64      big-endian
//! flags: 1 relay (carries others' traffic), 2 withdrawn (no links; the node says goodbye),
//!   4 difference (behind the links: the sequence of the record it differs from, 4; same boot)
//!
//! link: neighbour 2, flags 1, then the outward and the inward direction, as far as flagged
//!   flags: 1 up; 2, 4 outward, inward reading follows; 8, 16 with forecast; 32, 64 with residual
//! direction: delay 2, jitter 2, loss 2 | forecast: delay, jitter, loss, confidence in % 1
//!   | residual loss 2 | price 4
//! ```
//!
//! **A difference** says anew, of a whole record of the same start, the links that are no longer as they
//! stand there, and is the newer by its sequence. Each differs from a whole record and from no other
//! difference, so the whole one and the newest difference are all that need be known, kept and handed
//! on; a neighbour that is no member any more takes a new whole record.
//!
//! Links stand in order of neighbour, so a second one of the same neighbour is out of order. Delays
//! (µs) and losses (ppm) are [`short`] floating numbers, exact to 0.05 %.

use std::time::Duration;

use crate::id::NodeId;
use crate::quality::{LinkQuality, LinkState};
use crate::session::sign::{SIGNATURE_LEN, verify};
use crate::session::trust::Signer;
use crate::time::micros;
use crate::unit::{Price, Ratio};

/// More links than this are refused.
pub const MAX_LINKS: usize = 1024;
/// No record is longer, bytes.
pub const MAX_RECORD: usize = HEADER + MAX_LINKS * MAX_LINK + BASE + SIGNATURE_LEN;
/// Delays above this are no measurement.
pub const MAX_DELAY: Duration = Duration::from_secs(60);
/// Lives above this are refused, s: a forgotten node must leave within a day.
pub const MAX_LIFETIME_S: u16 = 43_200;

const HEADER: usize = 20;
/// What a difference names beside its links.
const BASE: usize = 4;
const MAX_LINK: usize = 3 + 2 * (6 + 7 + 2 + 4);
const VERSION: u8 = 1;
/// Keeps these signatures from meaning anything elsewhere.
const DOMAIN: &[u8] = b"thalweg link state 1";

/// The name of a record among those of its origin: the greater is the newer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    /// How often the origin has started.
    pub boot: u64,
    /// Grows with every record of that start.
    pub sequence: u32,
}

impl Version {
    /// The next one.
    pub const fn next(self) -> Self {
        match self.sequence.checked_add(1) {
            Some(sequence) => Self { boot: self.boot, sequence },
            None => Self { boot: self.boot.saturating_add(1), sequence: 0 },
        }
    }
}

/// What the origin says of its link to one neighbour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LsaLink {
    /// The other end.
    pub neighbour: NodeId,
    /// Whether the link works.
    pub up: bool,
    /// Towards the neighbour; none while the last reading is too old.
    pub outward: Option<LinkState>,
    /// From the neighbour; none while the last reading is too old.
    pub inward: Option<LinkState>,
}

/// One advertisement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lsa {
    /// Who says it.
    pub origin: NodeId,
    /// Which of its records this is.
    pub version: Version,
    /// Whether it consents to carry others' traffic.
    pub relay: bool,
    /// Whether it says goodbye.
    pub withdrawn: bool,
    /// How long the record may be believed, from its making.
    pub lifetime: Duration,
    /// The sequence of the whole record of the same start that this one differs from: `links` are
    /// then those that are said anew.
    pub base: Option<u32>,
    /// Its links, in order of neighbour.
    pub links: Vec<LsaLink>,
}

/// Why bytes are no record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum LsaError {
    /// Shorter or longer than it says.
    #[error("length does not fit")]
    Length,
    /// A version this node does not read.
    #[error("unknown version {0}")]
    Version(u8),
    /// A number that names no node.
    #[error("a number names no node")]
    Node,
    /// A difference from itself or from what comes after it.
    #[error("it differs from no earlier record")]
    Base,
    /// Flags without meaning, or that contradict each other.
    #[error("meaningless flags")]
    Flags,
    /// More links than allowed.
    #[error("too many links")]
    TooMany,
    /// Neighbours out of order, twice, or the origin itself.
    #[error("neighbours out of order")]
    Order,
    /// A delay, loss, confidence or lifetime that cannot be.
    #[error("absurd value")]
    Absurd,
    /// The signature is not the origin's.
    #[error("the signature is not the origin's")]
    Signature,
}

impl Lsa {
    /// What the neighbour's entry says, if there is one.
    pub fn link(&self, neighbour: NodeId) -> Option<&LsaLink> {
        let place = self.links.binary_search_by_key(&neighbour, |l| l.neighbour).ok()?;
        self.links.get(place)
    }

    /// What is known once a difference is laid over the whole record it differs from; `None` where it
    /// differs from another one.
    pub fn over(mut self, whole: &Self) -> Option<Self> {
        let fits = (self.origin, self.version.boot, self.base)
            == (whole.origin, whole.version.boot, Some(whole.version.sequence));
        if !fits || whole.base.is_some() {
            return None;
        }
        let said = std::mem::take(&mut self.links);
        let mut said = said.into_iter().peekable();
        for old in &whole.links {
            while let Some(new) = said.next_if(|new| new.neighbour < old.neighbour) {
                self.links.push(new);
            }
            self.links.push(said.next_if(|new| new.neighbour == old.neighbour).unwrap_or(*old));
        }
        self.links.extend(said);
        self.links.truncate(MAX_LINKS);
        self.base = None;
        Some(self)
    }

    /// The signed record. Values are rounded and capped to what the record can hold.
    pub fn write(&self, signer: &dyn Signer) -> Vec<u8> {
        let mut out = Vec::with_capacity(HEADER + self.links.len() * MAX_LINK + SIGNATURE_LEN);
        out.push(VERSION);
        let difference = u8::from(self.base.is_some()) << 2;
        out.push(u8::from(self.relay) | u8::from(self.withdrawn) << 1 | difference);
        out.extend(self.origin.get().to_be_bytes());
        out.extend(self.version.boot.to_be_bytes());
        out.extend(self.version.sequence.to_be_bytes());
        let lifetime = self.lifetime.as_secs().clamp(1, u64::from(MAX_LIFETIME_S)) as u16;
        out.extend(lifetime.to_be_bytes());
        let links = &self.links[..self.links.len().min(MAX_LINKS)];
        out.extend((links.len() as u16).to_be_bytes());
        for link in links {
            write_link(&mut out, link);
        }
        if let Some(base) = self.base {
            out.extend(base.to_be_bytes());
        }
        let signature = signer.sign(&[DOMAIN, &out].concat());
        out.extend(signature);
        out
    }

    /// Whose record it claims to be; what it needs to find the key. Nothing else is read unverified.
    ///
    /// # Errors
    /// Bytes too short or too long for any record, an unknown version, no node's number.
    pub fn origin_of(record: &[u8]) -> Result<NodeId, LsaError> {
        if record.len() < HEADER + SIGNATURE_LEN || record.len() > MAX_RECORD {
            return Err(LsaError::Length);
        }
        if record[0] != VERSION {
            return Err(LsaError::Version(record[0]));
        }
        NodeId::new(u16::from_be_bytes([record[2], record[3]])).ok_or(LsaError::Node)
    }

    /// Verifies the signature, then reads the record.
    ///
    /// # Errors
    /// A signature that is not this key's; bytes that are no record.
    pub fn open(record: &[u8], public_key: &[u8; 32]) -> Result<Self, LsaError> {
        Self::origin_of(record)?;
        let (body, signature) = record.split_last_chunk().ok_or(LsaError::Length)?;
        if !verify(public_key, &[DOMAIN, body].concat(), signature) {
            return Err(LsaError::Signature);
        }
        Self::parse(body)
    }

    /// Reads a record whose signature was found good before.
    ///
    /// # Errors
    /// Bytes that are no record.
    pub fn reopen(record: &[u8]) -> Result<Self, LsaError> {
        let (body, _) = record.split_last_chunk::<SIGNATURE_LEN>().ok_or(LsaError::Length)?;
        Self::origin_of(record)?;
        Self::parse(body)
    }

    fn parse(body: &[u8]) -> Result<Self, LsaError> {
        let mut r = Cursor(body);
        let _version = r.u8()?;
        let flags = r.u8()?;
        let origin = NodeId::new(r.u16()?).ok_or(LsaError::Node)?;
        let version = Version { boot: u64::from_be_bytes(r.array()?), sequence: r.u32()? };
        let lifetime_s = r.u16()?;
        let count = usize::from(r.u16()?);
        if flags > 7 {
            return Err(LsaError::Flags);
        }
        if !(1..=MAX_LIFETIME_S).contains(&lifetime_s) {
            return Err(LsaError::Absurd);
        }
        if count > MAX_LINKS {
            return Err(LsaError::TooMany);
        }
        let (relay, withdrawn) = (flags & 1 != 0, flags & 2 != 0);
        let difference = flags & 4 != 0;
        if withdrawn && (count > 0 || difference) {
            return Err(LsaError::Flags);
        }
        let mut links: Vec<LsaLink> = Vec::with_capacity(count);
        for _ in 0..count {
            let link = parse_link(&mut r)?;
            let ordered = links.last().is_none_or(|l| l.neighbour < link.neighbour);
            if !ordered || link.neighbour == origin {
                return Err(LsaError::Order);
            }
            links.push(link);
        }
        let base = difference.then(|| r.u32()).transpose()?;
        if base.is_some_and(|base| base >= version.sequence) {
            return Err(LsaError::Base);
        }
        if !r.0.is_empty() {
            return Err(LsaError::Length);
        }
        let lifetime = Duration::from_secs(u64::from(lifetime_s));
        Ok(Self { origin, version, relay, withdrawn, lifetime, base, links })
    }
}

fn write_link(out: &mut Vec<u8>, link: &LsaLink) {
    let (outward, inward) = if link.up { (link.outward, link.inward) } else { (None, None) };
    let flag = |set: bool, bit: u8| u8::from(set) << bit;
    let has = |d: Option<LinkState>, what: fn(LinkState) -> bool| d.is_some_and(what);
    out.extend(link.neighbour.get().to_be_bytes());
    out.push(
        flag(link.up, 0)
            | flag(outward.is_some(), 1)
            | flag(inward.is_some(), 2)
            | flag(has(outward, |s| s.expected.is_some()), 3)
            | flag(has(inward, |s| s.expected.is_some()), 4)
            | flag(has(outward, |s| s.residual.is_some()), 5)
            | flag(has(inward, |s| s.residual.is_some()), 6),
    );
    for state in [outward, inward].into_iter().flatten() {
        write_quality(out, state.present);
        if let Some(expected) = state.expected {
            write_quality(out, expected);
            out.push((state.confidence.as_ppm() / 10_000) as u8);
        }
        if let Some(residual) = state.residual {
            out.extend(short::write(u64::from(residual.as_ppm())).to_be_bytes());
        }
        out.extend(state.price.0.to_be_bytes());
    }
}

fn write_quality(out: &mut Vec<u8>, quality: LinkQuality) {
    let us = |span: Duration| short::write(micros(span.min(MAX_DELAY)));
    out.extend(us(quality.delay).to_be_bytes());
    out.extend(us(quality.jitter).to_be_bytes());
    out.extend(short::write(u64::from(quality.loss.as_ppm())).to_be_bytes());
}

fn parse_link(r: &mut Cursor) -> Result<LsaLink, LsaError> {
    let neighbour = NodeId::new(r.u16()?).ok_or(LsaError::Node)?;
    let flags = r.u8()?;
    let set = |bit: u8| flags >> bit & 1 != 0;
    let up = set(0);
    for direction in 0..2 {
        let read = set(1 + direction);
        if (read && !up) || (!read && (set(3 + direction) || set(5 + direction))) {
            return Err(LsaError::Flags);
        }
    }
    if set(7) {
        return Err(LsaError::Flags);
    }
    let outward = set(1).then(|| parse_state(r, set(3), set(5))).transpose()?;
    let inward = set(2).then(|| parse_state(r, set(4), set(6))).transpose()?;
    Ok(LsaLink { neighbour, up, outward, inward })
}

fn parse_state(r: &mut Cursor, forecast: bool, residual: bool) -> Result<LinkState, LsaError> {
    let mut state = LinkState::measured(parse_quality(r)?);
    if forecast {
        state.expected = Some(parse_quality(r)?);
        let percent = r.u8()?;
        if percent > 100 {
            return Err(LsaError::Absurd);
        }
        state.confidence = Ratio::from_ppm(u32::from(percent) * 10_000);
    }
    if residual {
        state.residual = Some(parse_loss(r)?);
    }
    state.price = Price(r.u32()?);
    Ok(state)
}

fn parse_quality(r: &mut Cursor) -> Result<LinkQuality, LsaError> {
    let delay = parse_delay(r)?;
    let jitter = parse_delay(r)?;
    Ok(LinkQuality { delay, jitter, loss: parse_loss(r)? })
}

fn parse_delay(r: &mut Cursor) -> Result<Duration, LsaError> {
    let span = Duration::from_micros(short::read(r.u16()?));
    if span > MAX_DELAY { Err(LsaError::Absurd) } else { Ok(span) }
}

fn parse_loss(r: &mut Cursor) -> Result<Ratio, LsaError> {
    match u32::try_from(short::read(r.u16()?)) {
        Ok(ppm) if ppm <= Ratio::ONE.as_ppm() => Ok(Ratio::from_ppm(ppm)),
        _ => Err(LsaError::Absurd),
    }
}

/// What is left of the bytes.
struct Cursor<'a>(&'a [u8]);

impl Cursor<'_> {
    fn array<const N: usize>(&mut self) -> Result<[u8; N], LsaError> {
        let (head, rest) = self.0.split_first_chunk().ok_or(LsaError::Length)?;
        self.0 = rest;
        Ok(*head)
    }

    fn u8(&mut self) -> Result<u8, LsaError> {
        Ok(u8::from_be_bytes(self.array()?))
    }

    fn u16(&mut self) -> Result<u16, LsaError> {
        Ok(u16::from_be_bytes(self.array()?))
    }

    fn u32(&mut self) -> Result<u32, LsaError> {
        Ok(u32::from_be_bytes(self.array()?))
    }
}

/// Whole numbers in 16 bits with 0.05 % of error: five bits of exponent, eleven of mantissa with a
/// hidden one, as IEEE 754 does it, without sign, fraction or infinity. Every code is one number, in
/// the same order.
pub mod short {
    const MANTISSA: u32 = 11;
    const HIDDEN: u64 = 1 << MANTISSA;

    /// The nearest code not above the number; the greatest one for numbers beyond all.
    pub const fn write(number: u64) -> u16 {
        if number < HIDDEN {
            return number as u16;
        }
        let shift = u64::BITS - 1 - number.leading_zeros() - MANTISSA;
        if shift + 1 > 31 {
            return u16::MAX;
        }
        ((shift as u16 + 1) << MANTISSA) | ((number >> shift) as u16 & (HIDDEN as u16 - 1))
    }

    /// The number of a code.
    pub const fn read(code: u16) -> u64 {
        let mantissa = code as u64 & (HIDDEN - 1);
        match code >> MANTISSA {
            0 => mantissa,
            exponent => (HIDDEN | mantissa) << (exponent - 1),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::session::sign::Ed25519Signer;

    fn n(number: u16) -> NodeId {
        NodeId::new(number).unwrap()
    }

    fn signer() -> Ed25519Signer {
        Ed25519Signer::from_seed(&[1; 32]).unwrap()
    }

    fn resign(mut body: Vec<u8>) -> Vec<u8> {
        body.truncate(body.len() - SIGNATURE_LEN);
        let signature = signer().sign(&[DOMAIN, &body].concat());
        body.extend(signature);
        body
    }

    fn open(record: &[u8]) -> Result<Lsa, LsaError> {
        Lsa::open(record, &signer().public_key())
    }

    fn sample() -> Lsa {
        let quality = |us| LinkQuality {
            delay: Duration::from_micros(us),
            jitter: Duration::from_micros(300),
            loss: Ratio::from_ppm(1000),
        };
        let outward = LinkState {
            present: quality(2000),
            expected: Some(quality(2040)),
            confidence: Ratio::from_ppm(750_000),
            residual: Some(Ratio::from_ppm(20)),
            price: Price(90_000),
        };
        let link =
            |number, outward, inward| LsaLink { neighbour: n(number), up: true, outward, inward };
        Lsa {
            origin: n(3),
            version: Version { boot: 5, sequence: 9 },
            relay: true,
            withdrawn: false,
            lifetime: Duration::from_secs(900),
            base: None,
            links: vec![
                link(1, Some(outward), Some(LinkState::measured(quality(1990)))),
                LsaLink { up: false, ..link(2, None, None) },
                link(7, None, None),
            ],
        }
    }

    #[test]
    fn a_record_has_these_bytes() {
        let record = sample().write(&signer());
        let body: Vec<String> =
            record[..record.len() - SIGNATURE_LEN].iter().map(|b| format!("{b:02x}")).collect();
        let head = "01010003 0000000000000005 00000009 0384 0003";
        let first =
            "0001 2f 07d0 012c 03e8 07f8 012c 03e8 4b 0014 00015f90 07c6 012c 03e8 00000000";
        let rest = "0002 00 0007 01";
        let expected: String = [head, first, rest].concat().split_whitespace().collect();
        assert_eq!(body.concat(), expected);
    }

    #[test]
    fn a_record_is_read_back() {
        assert_eq!(open(&sample().write(&signer())), Ok(sample()));
        let goodbye = Lsa { withdrawn: true, links: Vec::new(), ..sample() };
        assert_eq!(open(&goodbye.write(&signer())), Ok(goodbye));
    }

    #[test]
    fn one_bent_byte_breaks_the_signature() {
        let record = sample().write(&signer());
        for place in 4..record.len() {
            let mut bent = record.clone();
            bent[place] ^= 0x10;
            assert_eq!(open(&bent), Err(LsaError::Signature), "byte {place}");
        }
        let other = Ed25519Signer::from_seed(&[2; 32]).unwrap();
        assert_eq!(Lsa::open(&record, &other.public_key()), Err(LsaError::Signature));
    }

    #[test]
    fn signed_nonsense_is_refused_all_the_same() {
        let record = sample().write(&signer());
        let with = |place: usize, bytes: &[u8]| {
            let mut bent = record.clone();
            bent[place..place + bytes.len()].copy_from_slice(bytes);
            open(&resign(bent))
        };
        assert_eq!(with(0, &[9]), Err(LsaError::Version(9)));
        assert_eq!(with(1, &[8]), Err(LsaError::Flags));
        assert_eq!(with(1, &[4]), Err(LsaError::Length), "a difference from nothing");
        assert_eq!(with(1, &[6]), Err(LsaError::Flags), "a goodbye that differs");
        assert_eq!(with(1, &[2]), Err(LsaError::Flags), "withdrawn with links");
        assert_eq!(with(2, &[0, 0]), Err(LsaError::Node));
        assert_eq!(with(2, &[0xff, 0]), Err(LsaError::Node));
        assert_eq!(with(2, &[0, 1]), Err(LsaError::Order), "its own neighbour");
        assert_eq!(with(16, &[0, 0]), Err(LsaError::Absurd), "no lifetime");
        assert_eq!(with(16, &[0xff, 0xff]), Err(LsaError::Absurd), "eighteen hours");
        assert_eq!(with(18, &[0xff, 0xff]), Err(LsaError::TooMany));
        assert_eq!(with(18, &[0, 4]), Err(LsaError::Length));
        assert_eq!(with(18, &[0, 2]), Err(LsaError::Length));
        assert_eq!(with(20, &[0, 2]), Err(LsaError::Order), "node 2 twice");
        assert_eq!(with(20, &[0, 9]), Err(LsaError::Order));
        assert_eq!(with(22, &[0x2e]), Err(LsaError::Flags), "down with readings");
        assert_eq!(with(22, &[0xaf]), Err(LsaError::Flags));
        assert_eq!(with(23, &[0xff, 0xff]), Err(LsaError::Absurd), "infinite delay");
        assert_eq!(with(27, &[0xff, 0xff]), Err(LsaError::Absurd), "infinite loss");
        assert_eq!(with(35, &[101]), Err(LsaError::Absurd), "confidence");
        assert_eq!(open(&record[..30]), Err(LsaError::Length));
        assert_eq!(open(&vec![1; MAX_RECORD + 1]), Err(LsaError::Length));
    }

    #[test]
    fn the_longest_record_fits_its_limit_and_a_control_message() {
        let full = sample().links[0];
        let both = LsaLink { inward: full.outward, ..full };
        let links = (10..).take(MAX_LINKS).map(|i| LsaLink { neighbour: n(i), ..both }).collect();
        let record = Lsa { links, base: Some(3), ..sample() }.write(&signer());
        assert_eq!(record.len(), MAX_RECORD);
        assert!(open(&record).is_ok());
        const { assert!(MAX_RECORD < 64 * 1024) }
    }

    proptest! {
        #[test]
        fn short_numbers_keep_their_order_and_half_a_thousandth(a in 0..1u64 << 42, b in 0..1u64 << 42) {
            let back = short::read(short::write(a));
            prop_assert!(back <= a && a - back <= a / 2048);
            prop_assert_eq!(short::write(back), short::write(a));
            if a <= b {
                prop_assert!(short::write(a) <= short::write(b));
            }
        }

        #[test]
        fn any_bytes_under_a_good_signature_are_read_or_refused_and_never_misread(
            body in proptest::collection::vec(any::<u8>(), 16..200), count in 0..3u16,
        ) {
            let mut record = vec![VERSION];
            record.extend(&body);
            if record.len() >= HEADER {
                record[1] &= 1;
                record[18..20].copy_from_slice(&count.to_be_bytes());
            }
            record.extend([0; SIGNATURE_LEN]);
            let record = resign(record);
            if let Ok(lsa) = open(&record) {
                prop_assert_eq!(lsa.write(&signer()), record, "one meaning, one form");
            }
        }
    }
}
