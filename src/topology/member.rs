//! Who belongs to the overlay, and where each can be reached.
//!
//! ```text
//! | 0: version | 1: node 2 | 3: boot 8 | 11: seq 8 | 19: count 1 · endpoints | certificate length 2
//! | certificate, DER | signature 64 over the context and all before                    big-endian
//! ```
//!
//! A record is said by its owner: the certificate in it names the number and the key, the key signs
//! the rest, and (boot, seq) tells newer from older. So it may come by way of anyone. A number or a
//! name belongs to whoever was first with it; a record that conflicts is refused and counted, until
//! the first has expired. What is known survives a restart (`persist`, `restore`): a node without
//! any seed finds its peers by it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::control::message::{
    DigestEntry, MAX_ENDPOINTS, MAX_RECORD, parse_endpoints, write_endpoints,
};
use crate::id::NodeId;
use crate::session::sign;
use crate::session::trust::{Certified, Signer, Trust};
use crate::time::{Deadline, Instant};
use crate::wire::{Reader, WireError};

/// What a record's signature is bound to, so that it can never be taken for another.
const CONTEXT: &[u8] = b"thalweg member v1";
/// Version of the record.
const VERSION: u8 = 1;
/// Members known at most: twice the greatest mesh planned for.
pub const MAX_MEMBERS: usize = 2048;
/// Expired records remembered, so that others' copies do not bring the dead back.
const MAX_TOMBSTONES: usize = 1024;

/// A member's word on itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// What its certificate grants.
    pub certified: Certified,
    /// Its certificate, DER.
    pub certificate: Vec<u8>,
    /// Where it wants to be reached, best first.
    pub endpoints: Vec<SocketAddr>,
    /// Its boot counter.
    pub boot: u64,
    /// The record's number within that life.
    pub seq: u64,
    /// The signed bytes, to be passed on.
    pub bytes: Vec<u8>,
}

/// A record read but not yet believed.
struct Claim<'a> {
    node: NodeId,
    boot: u64,
    seq: u64,
    endpoints: Vec<SocketAddr>,
    certificate: &'a [u8],
    signature: [u8; 64],
}

impl<'a> Claim<'a> {
    fn parse(bytes: &'a [u8]) -> Result<Self, WireError> {
        if bytes.len() > MAX_RECORD {
            return Err(WireError::Value("record"));
        }
        let mut r = Reader::new(bytes);
        if r.array("version")? != [VERSION] {
            return Err(WireError::Value("version"));
        }
        let node = NodeId::new(r.u16("node")?);
        let boot = r.u64("boot")?;
        let seq = r.u64("seq")?;
        let endpoints = parse_endpoints(&mut r)?;
        let len = usize::from(r.u16("certificate length")?);
        let certificate = r.bytes(len, "certificate")?;
        let signature = r.array("signature")?;
        r.end()?;
        let node = node.ok_or(WireError::Value("node"))?;
        Ok(Self { node, boot, seq, endpoints, certificate, signature })
    }
}

impl Record {
    /// This node's own record, signed.
    pub fn sign(
        certified: Certified,
        certificate: &[u8],
        endpoints: &[SocketAddr],
        (boot, seq): (u64, u64),
        signer: &dyn Signer,
    ) -> Self {
        let endpoints = endpoints[..endpoints.len().min(MAX_ENDPOINTS)].to_vec();
        let mut bytes = vec![VERSION];
        bytes.extend(certified.node.get().to_be_bytes());
        bytes.extend(boot.to_be_bytes());
        bytes.extend(seq.to_be_bytes());
        write_endpoints(&mut bytes, &endpoints);
        bytes.extend((certificate.len() as u16).to_be_bytes());
        bytes.extend(certificate);
        let signature = signer.sign(&signed(&bytes));
        bytes.extend(signature);
        Self { certified, certificate: certificate.to_vec(), endpoints, boot, seq, bytes }
    }
}

/// The bytes under a record's signature.
fn signed(body: &[u8]) -> Vec<u8> {
    [CONTEXT, body].concat()
}

/// What came of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// A member not known before.
    New(NodeId),
    /// A newer word of a known one.
    Newer(NodeId),
    /// Nothing new.
    Known,
    /// A record of our own from an earlier life, newer than what we say: the next must be past it.
    Own {
        /// Its boot counter.
        boot: u64,
        /// Its number.
        seq: u64,
    },
    /// Not believed.
    Refused(Refusal),
}

/// Why a record is not believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Refusal {
    /// It cannot be read.
    Malformed,
    /// Its certificate is not accepted.
    Foreign,
    /// Its certificate is revoked.
    Revoked,
    /// Its signature or number is not its certificate's.
    Forged,
    /// Its number belongs to a member of another name.
    NumberTaken,
    /// Its name belongs to a member of another number.
    NameTaken,
    /// There is no room.
    Full,
}

impl Refusal {
    /// The label in logs and counters.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::Foreign => "foreign",
            Self::Revoked => "revoked",
            Self::Forged => "forged",
            Self::NumberTaken => "number_taken",
            Self::NameTaken => "name_taken",
            Self::Full => "full",
        }
    }
}

/// A member as this node knows it.
#[derive(Clone, Debug)]
pub struct Member {
    /// Its word.
    pub record: Record,
    /// When it was last known to live: a session, an LSA, a new record.
    pub heard_at: Instant,
}

/// What is kept over a restart.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Kept {
    /// Layout of this file.
    version: u32,
    /// This node's boot counter when it was written.
    boot: u64,
    /// Every member's signed record, in hexadecimal.
    members: Vec<String>,
    /// Where each member was last reached, which may be none of the endpoints it names.
    #[serde(default)]
    reached: Vec<(u16, SocketAddr)>,
    /// Each CA's newest list of revoked certificates, in hexadecimal.
    #[serde(default)]
    lists: Vec<String>,
}

/// Layout of the state file.
const KEPT_VERSION: u32 = 1;

/// A state file that cannot be used, in words an operator can act on.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// It is not what `persist` writes.
    #[error("the state is not readable: {0}")]
    Unreadable(#[from] serde_json::Error),
    /// It was written by a build whose layout this one does not know.
    #[error("the state has layout {0}, this build reads {KEPT_VERSION}")]
    Layout(u32),
}

/// What a state file held.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Restored {
    /// The boot counter of the life before; zero where none is known.
    pub boot: u64,
    /// Signed records, to be verified again.
    pub records: Vec<Vec<u8>>,
    /// Where members were last reached.
    pub reached: BTreeMap<NodeId, SocketAddr>,
    /// Lists of revoked certificates, to be verified again.
    pub lists: Vec<Vec<u8>>,
}

impl Restored {
    /// Reads what [`Members::persist`] wrote.
    ///
    /// # Errors
    /// A file that is damaged or of another layout. Damaged single records are left out.
    pub fn read(bytes: &[u8]) -> Result<Self, StateError> {
        let kept: Kept = serde_json::from_slice(bytes)?;
        if kept.version != KEPT_VERSION {
            return Err(StateError::Layout(kept.version));
        }
        let records = kept.members.iter().filter_map(|hex| unhex(hex)).take(MAX_MEMBERS).collect();
        let reached =
            kept.reached.iter().filter_map(|&(n, at)| Some((NodeId::new(n)?, at))).collect();
        let lists = kept.lists.iter().filter_map(|hex| unhex(hex)).collect();
        Ok(Self { boot: kept.boot, records, reached, lists })
    }
}

/// The members of the overlay, but this node.
#[derive(Debug)]
pub struct Members {
    own: NodeId,
    own_name: String,
    /// The version last said of ourselves.
    own_version: (u64, u64),
    members: BTreeMap<NodeId, Member>,
    names: BTreeMap<String, NodeId>,
    tombstones: BTreeMap<NodeId, (u64, u64)>,
    expiry: Duration,
    /// Nobody was heard of before this.
    heard_floor: Option<Instant>,
    refused: BTreeMap<Refusal, u64>,
}

impl Members {
    /// No members yet. One not heard of for `expiry` is forgotten.
    pub fn new(own: NodeId, own_name: String, expiry: Duration) -> Self {
        Self {
            own,
            own_name,
            own_version: (0, 0),
            members: BTreeMap::new(),
            names: BTreeMap::new(),
            tombstones: BTreeMap::new(),
            expiry,
            heard_floor: None,
            refused: BTreeMap::new(),
        }
    }

    /// We said this version of our own record.
    pub fn on_own(&mut self, version: (u64, u64)) {
        self.own_version = version;
    }

    /// A record came, from its owner or by way of another.
    pub fn on_record(&mut self, now: Instant, bytes: &[u8], trust: &dyn Trust) -> Outcome {
        let outcome = self.judge(now, bytes, trust).unwrap_or_else(Outcome::Refused);
        if let Outcome::Refused(why) = outcome {
            *self.refused.entry(why).or_default() += 1;
        }
        outcome
    }

    fn judge(&mut self, now: Instant, bytes: &[u8], trust: &dyn Trust) -> Result<Outcome, Refusal> {
        let claim = Claim::parse(bytes).map_err(|_| Refusal::Malformed)?;
        let version = (claim.boot, claim.seq);
        if claim.node == self.own && version <= self.own_version {
            return Ok(Outcome::Known);
        }
        let known = self.members.get(&claim.node);
        // Old news costs no signature check: most records that arrive are old news.
        let newest = known.map(|m| (m.record.boot, m.record.seq));
        if newest.max(self.tombstones.get(&claim.node).copied()) >= Some(version) {
            return Ok(Outcome::Known);
        }
        let certified = trust.verify(claim.certificate).map_err(|_| {
            if trust.revokes(claim.certificate) { Refusal::Revoked } else { Refusal::Foreign }
        })?;
        let body = &bytes[..bytes.len() - claim.signature.len()];
        if certified.node != claim.node
            || !sign::verify(&certified.public_key, &signed(body), &claim.signature)
        {
            return Err(Refusal::Forged);
        }
        if claim.node == self.own {
            if certified.name != self.own_name {
                return Err(Refusal::NumberTaken);
            }
            return Ok(Outcome::Own { boot: claim.boot, seq: claim.seq });
        }
        self.fits(&certified)?;
        let (node, name) = (claim.node, certified.name.clone());
        let record = Record {
            certified,
            certificate: claim.certificate.to_vec(),
            endpoints: claim.endpoints,
            boot: claim.boot,
            seq: claim.seq,
            bytes: bytes.to_vec(),
        };
        let fresh = self.members.insert(node, Member { record, heard_at: now }).is_none();
        self.heard_floor = Some(self.heard_floor.map_or(now, |at| at.min(now)));
        self.names.insert(name, node);
        self.tombstones.remove(&node);
        Ok(if fresh { Outcome::New(node) } else { Outcome::Newer(node) })
    }

    /// Whether a certified node may be a member beside those known: number and name are its own,
    /// and there is room.
    ///
    /// # Errors
    /// What stands against it.
    pub fn fits(&self, certified: &Certified) -> Result<(), Refusal> {
        if certified.node == self.own {
            return Err(Refusal::NumberTaken);
        }
        if certified.name == self.own_name {
            return Err(Refusal::NameTaken);
        }
        match self.members.get(&certified.node) {
            Some(known) if known.record.certified.name != certified.name => {
                return Err(Refusal::NumberTaken);
            }
            None if self.members.len() >= MAX_MEMBERS => return Err(Refusal::Full),
            _ => {}
        }
        match self.names.get(&certified.name) {
            Some(&holder) if holder != certified.node => Err(Refusal::NameTaken),
            _ => Ok(()),
        }
    }

    /// Counts a refusal that was found elsewhere, on a stream's certificate.
    pub fn on_refused(&mut self, why: Refusal) {
        *self.refused.entry(why).or_default() += 1;
    }

    /// The member was known to live at `now`.
    pub fn on_alive(&mut self, node: NodeId, now: Instant) {
        if let Some(member) = self.members.get_mut(&node) {
            member.heard_at = member.heard_at.max(now);
        }
    }

    /// The clock reached `now`: members not heard of for too long are forgotten, and returned.
    pub fn handle_timeout(&mut self, now: Instant) -> Vec<NodeId> {
        if self.poll_timeout().is_none_or(|due| due.at > now) {
            return Vec::new();
        }
        let old = |m: &Member| now.since(m.heard_at) >= self.expiry;
        let gone: Vec<NodeId> =
            self.members.iter().filter(|(_, m)| old(m)).map(|(&n, _)| n).collect();
        for node in &gone {
            if let Some(member) = self.members.remove(node) {
                self.names.remove(&member.record.certified.name);
                if self.tombstones.len() >= MAX_TOMBSTONES {
                    self.tombstones.pop_first();
                }
                self.tombstones.insert(*node, (member.record.boot, member.record.seq));
            }
        }
        self.heard_floor = self.members.values().map(|m| m.heard_at).min();
        gone
    }

    /// The member is none any more: its certificate is revoked. What it says under another one is heard
    /// whatever it said before.
    pub fn expel(&mut self, node: NodeId) -> Option<Member> {
        let member = self.members.remove(&node)?;
        self.names.remove(&member.record.certified.name);
        Some(member)
    }

    /// When the next member may expire.
    pub fn poll_timeout(&self) -> Option<Deadline> {
        Some(Deadline { at: self.heard_floor?.plus(self.expiry), why: "member expires" })
    }

    /// A member.
    pub fn member(&self, node: NodeId) -> Option<&Member> {
        self.members.get(&node)
    }

    /// The number of the member with this name.
    pub fn by_name(&self, name: &str) -> Option<NodeId> {
        self.names.get(name).copied()
    }

    /// Every member, by number.
    pub fn iter(&self) -> impl Iterator<Item = (NodeId, &Member)> {
        self.members.iter().map(|(&node, member)| (node, member))
    }

    /// How many members are known, this node not counted.
    pub fn len(&self) -> usize {
        self.members.len()
    }

    /// Whether this node is alone.
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// How many records were refused, by reason.
    pub fn refused(&self) -> &BTreeMap<Refusal, u64> {
        &self.refused
    }

    /// What is known, for a digest: others' records, not this node's own.
    pub fn digest(&self) -> Vec<DigestEntry> {
        let entry = |(&node, m): (&NodeId, &Member)| DigestEntry {
            node,
            boot: m.record.boot,
            seq: m.record.seq,
        };
        self.members.iter().map(entry).collect()
    }

    /// The bytes of the state file: what `restore` needs to find the others again, and the lists of
    /// revoked certificates that keep out who was put out.
    pub fn persist(
        &self,
        boot: u64,
        reached: &BTreeMap<NodeId, SocketAddr>,
        lists: &[Vec<u8>],
    ) -> Vec<u8> {
        let kept = Kept {
            version: KEPT_VERSION,
            boot,
            members: self.members.values().map(|m| hex(&m.record.bytes)).collect(),
            reached: reached.iter().map(|(n, &at)| (n.get(), at)).collect(),
            lists: lists.iter().map(|list| hex(list)).collect(),
        };
        // Strings and numbers always have a JSON form.
        serde_json::to_vec_pretty(&kept).unwrap_or_default()
    }

    /// Takes up what an earlier life knew; every record is verified again. Returns how many
    /// were accepted.
    pub fn restore(&mut self, now: Instant, restored: &Restored, trust: &dyn Trust) -> usize {
        let records = restored.records.iter();
        records.filter(|bytes| matches!(self.on_record(now, bytes, trust), Outcome::New(_))).count()
    }
}

fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digit = |n: u8| char::from(DIGITS[usize::from(n & 15)]);
    bytes.iter().flat_map(|&b| [digit(b >> 4), digit(b)]).collect()
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits: Option<Vec<u8>> =
        text.chars().map(|c| c.to_digit(16).and_then(|d| u8::try_from(d).ok())).collect();
    let digits = digits?;
    let pairs = digits.chunks_exact(2);
    if !pairs.remainder().is_empty() {
        return None;
    }
    Some(pairs.map(|pair| pair[0] << 4 | pair[1]).collect())
}

#[cfg(test)]
#[path = "member_tests.rs"]
mod tests;
