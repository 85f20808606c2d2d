//! The operator's side: making a CA, issuing certificates, and the ledger that keeps them apart.
//!
//! The ledger lies beside the CA's key, since whoever may sign must also know what was signed. It
//! allots node numbers, never twice, and refuses what would overlap. It is written before the
//! certificate is handed out: a crash in between wastes a number and cannot give it to two nodes.

use std::fs::{self, OpenOptions};
use std::net::IpAddr;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use ipnet::IpNet;
use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, PKCS_ED25519, SanType, SerialNumber,
};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::grant::{Grant, OID, overlap};
use super::revoke::hex;
use super::verify::{self, date};
use crate::daemon::file;
use crate::id::NodeId;
use crate::session::trust::TrustError;

/// Certificates are valid from this long before they are made, for machines whose clocks are behind.
const BACKDATE_S: u64 = 3600;

/// Days a CA is valid unless said otherwise.
pub const CA_DAYS: u32 = 3650;

/// Days a node's certificate is valid unless said otherwise.
pub const NODE_DAYS: u32 = 365;

/// What was issued to one node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Its number.
    pub node: u16,
    /// Its name.
    pub name: String,
    /// Its overlay addresses.
    pub addresses: Vec<IpAddr>,
    /// Its site prefixes.
    pub prefixes: Vec<IpNet>,
    /// Whether it may relay.
    pub relay: bool,
    /// End of the newest certificate's validity, seconds of Unix time.
    pub not_after: u64,
    /// Its certificates from this CA that may still be valid.
    #[serde(default)]
    certificates: Vec<Serial>,
}

/// A certificate by its serial number.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Serial {
    /// In hexadecimal.
    serial: String,
    /// End of its validity, seconds of Unix time.
    not_after: u64,
}

/// A certificate that is not to be believed any more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Withdrawn {
    /// Its serial number, in hexadecimal.
    serial: String,
    /// End of its validity, seconds of Unix time.
    not_after: u64,
    /// When it was revoked, seconds of Unix time.
    since: u64,
}

/// What a CA has issued.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ledger {
    version: u32,
    /// The number the next new node gets. Only grows.
    next: u16,
    /// Every node there ever was.
    pub nodes: Vec<Entry>,
    /// What this CA has revoked and what has not expired since.
    #[serde(default)]
    revoked: Vec<Withdrawn>,
    /// The number of the newest revocation list. Only grows.
    #[serde(default)]
    list_number: u64,
}

/// What is asked for a node.
#[derive(Clone, Debug, Default)]
pub struct Request {
    /// Its name.
    pub name: String,
    /// Its overlay addresses; empty at a renewal keeps those it has.
    pub addresses: Vec<IpAddr>,
    /// Its site prefixes; `None` at a renewal keeps those it has.
    pub prefixes: Option<Vec<IpNet>>,
    /// Whether it may relay; `None` is yes, and at a renewal what it was.
    pub relay: Option<bool>,
    /// Days of validity.
    pub days: u32,
    /// Whether the node is there already and gets a new certificate and key under its number.
    pub renew: bool,
}

/// What was written.
#[derive(Clone, Debug)]
pub struct Issued {
    /// What the certificate grants.
    pub grant: Grant,
    /// The certificate, PEM.
    pub certificate: PathBuf,
    /// The key, PEM, mode 0600.
    pub key: PathBuf,
    /// A copy of the CA's certificate, PEM.
    pub ca: PathBuf,
    /// End of validity, seconds of Unix time.
    pub not_after: u64,
}

fn fail<T>(why: impl Into<String>) -> Result<T, TrustError> {
    Err(TrustError(why.into()))
}

pub(super) fn io<T>(path: &Path, did: &str, result: std::io::Result<T>) -> Result<T, TrustError> {
    result.map_err(|e| TrustError(format!("{}: cannot be {did}: {e}", path.display())))
}

fn write_new(file: &Path, text: &[u8], mode: u32) -> Result<(), TrustError> {
    io(file, "written", file::write_new(file, text, mode))
}

pub(super) fn replace(file: &Path, text: &[u8], mode: u32) -> Result<(), TrustError> {
    io(file, "written", file::replace(file, text, mode))
}

/// Makes a CA: `ca.crt`, `ca.key` (0600) and an empty `ledger.json` in a directory of mode 0700.
///
/// # Errors
/// A CA that is already there, a bad name, a directory that cannot be written.
pub fn create(dir: &Path, name: &str, days: u32, now_unix_s: u64) -> Result<PathBuf, TrustError> {
    make(dir, name, days, &Ledger::empty(), now_unix_s)
}

/// Makes a CA that takes over another's ledger, so that every node keeps its number.
///
/// # Errors
/// As [`create`], and a predecessor without a ledger.
pub fn succeed(
    old: &Path,
    dir: &Path,
    name: &str,
    days: u32,
    now_unix_s: u64,
) -> Result<PathBuf, TrustError> {
    let mut ledger = Ledger::load(old)?;
    // What the old CA has signed it alone can revoke.
    ledger.nodes.iter_mut().for_each(|node| node.certificates.clear());
    (ledger.revoked, ledger.list_number) = (Vec::new(), 0);
    make(dir, name, days, &ledger, now_unix_s)
}

fn make(
    dir: &Path,
    name: &str,
    days: u32,
    ledger: &Ledger,
    now_unix_s: u64,
) -> Result<PathBuf, TrustError> {
    if name.is_empty() || name.len() > 64 || name.chars().any(char::is_control) {
        return fail("a CA's name is 1 to 64 printable characters");
    }
    io(dir, "made", fs::DirBuilder::new().recursive(true).mode(0o700).create(dir))?;
    let (certificate, key) = (dir.join("ca.crt"), dir.join("ca.key"));
    for file in [&certificate, &key, &dir.join("ledger.json")] {
        if file.exists() {
            return fail(format!(
                "{} is there already: a second CA needs its own directory",
                file.display()
            ));
        }
    }
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    dates(&mut params, now_unix_s, days)?;
    let pair = KeyPair::generate_for(&PKCS_ED25519).map_err(crypto)?;
    let made = params.self_signed(&pair).map_err(crypto)?;
    ledger.save(dir)?;
    write_new(&key, pair.serialize_pem().as_bytes(), 0o600)?;
    write_new(&certificate, made.pem().as_bytes(), 0o644)?;
    Ok(certificate)
}

/// Issues a certificate and key into `out` as `NAME.crt`, `NAME.key` and `ca.crt`.
///
/// # Errors
/// What the ledger forbids, or files that cannot be read or written.
pub fn issue(
    ca: &Path,
    out: &Path,
    request: &Request,
    now_unix_s: u64,
) -> Result<Issued, TrustError> {
    let _lock = Lock::take(ca)?;
    let mut ledger = Ledger::load(ca)?;
    let ca_file = ca.join("ca.crt");
    let ca_der = verify::read_certificates(&ca_file)?.swap_remove(0);
    let (_, ca_end) = verify::validity(&verify::parse(&ca_der)?);
    if ca_end < now_unix_s {
        return fail(format!(
            "{} expired on {}: make a new CA in another directory and list both in `ca`",
            ca_file.display(),
            date(ca_end)
        ));
    }
    let grant = ledger.allot(request)?;

    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, grant.name.as_str());
    let name = grant.name.as_str().try_into().map_err(crypto)?;
    params.subject_alt_names = vec![SanType::DnsName(name)];
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.use_authority_key_identifier_extension = true;
    params.custom_extensions = vec![CustomExtension::from_oid_content(&OID, grant.encode())];
    let serial = serial_number();
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    let not_after = dates(&mut params, now_unix_s, request.days)?;
    if not_after > ca_end {
        return fail(format!(
            "{} days reach beyond the CA's end on {}: ask for fewer days",
            request.days,
            date(ca_end)
        ));
    }
    let key_file = ca.join("ca.key");
    let key = io(&key_file, "read", fs::read_to_string(&key_file))?;
    let key = KeyPair::from_pem(&key)
        .map_err(|e| TrustError(format!("{}: is no usable key: {e}", key_file.display())))?;
    let issuer = Issuer::from_ca_cert_der(&ca_der, key).map_err(crypto)?;
    let pair = KeyPair::generate_for(&PKCS_ED25519).map_err(crypto)?;
    let made = params.signed_by(&pair, &issuer).map_err(crypto)?;

    io(out, "made", fs::DirBuilder::new().recursive(true).mode(0o700).create(out))?;
    let issued = Issued {
        certificate: out.join(format!("{}.crt", grant.name)),
        key: out.join(format!("{}.key", grant.name)),
        ca: out.join("ca.crt"),
        not_after,
        grant,
    };
    if !request.renew {
        for file in [&issued.certificate, &issued.key] {
            if file.exists() {
                return fail(format!("{} is there already: move it away", file.display()));
            }
        }
    }
    ledger.note(&issued.grant, not_after, (hex(&serial), now_unix_s));
    ledger.save(ca)?;
    // The key first: a certificate without its key is of no use to anyone.
    replace(&issued.key, pair.serialize_pem().as_bytes(), 0o600)?;
    replace(&issued.certificate, made.pem().as_bytes(), 0o644)?;
    let same = fs::canonicalize(ca).ok() == fs::canonicalize(out).ok();
    if !same {
        let text = io(&ca_file, "read", fs::read(&ca_file))?;
        replace(&issued.ca, &text, 0o644)?;
    }
    Ok(issued)
}

pub(super) fn crypto(error: rcgen::Error) -> TrustError {
    TrustError(format!("the certificate could not be made: {error}"))
}

/// A number no other certificate has: 16 random bytes, positive in DER.
fn serial_number() -> [u8; 16] {
    let mut serial = [0; 16];
    aws_lc_rs::rand::fill(&mut serial).expect("the system gives random bytes");
    // Neither a sign nor a zero in front, so that it is written one way only.
    serial[0] = serial[0] & 0x7f | 0x40;
    serial
}

fn dates(params: &mut CertificateParams, now: u64, days: u32) -> Result<u64, TrustError> {
    if days == 0 || days > 36_500 {
        return fail(format!("{days} days: ask for 1 to 36500"));
    }
    let not_after = now + u64::from(days) * 86_400;
    let at = |unix_s: u64| {
        i64::try_from(unix_s).ok().and_then(|s| OffsetDateTime::from_unix_timestamp(s).ok())
    };
    match (at(now.saturating_sub(BACKDATE_S)), at(not_after)) {
        (Some(from), Some(to)) => {
            params.not_before = from;
            params.not_after = to;
            Ok(not_after)
        }
        _ => fail("the clock of this machine is far off: set it first"),
    }
}

impl Ledger {
    /// Reads the ledger of a CA.
    ///
    /// # Errors
    /// A directory without one, or one that cannot be read.
    pub fn load(dir: &Path) -> Result<Self, TrustError> {
        let file = dir.join("ledger.json");
        let text = fs::read_to_string(&file).map_err(|e| {
            TrustError(format!(
                "{}: cannot be read: {e}; is {} a directory made by `thalweg cert ca`?",
                file.display(),
                dir.display()
            ))
        })?;
        let ledger: Self = serde_json::from_str(&text)
            .map_err(|e| TrustError(format!("{}: is damaged: {e}", file.display())))?;
        if ledger.version != 1 {
            return fail(format!(
                "{}: has version {}, this program reads 1",
                file.display(),
                ledger.version
            ));
        }
        Ok(ledger)
    }

    fn empty() -> Self {
        Self { version: 1, next: 1, nodes: Vec::new(), revoked: Vec::new(), list_number: 0 }
    }

    /// Serial numbers of a node's certificates and their ends.
    pub(super) fn serials(&self, name: &str) -> Result<Vec<(String, u64)>, TrustError> {
        let Some(entry) = self.nodes.iter().find(|n| n.name == name) else {
            return fail(format!("`{name}` was never issued"));
        };
        Ok(entry.certificates.iter().map(|c| (c.serial.clone(), c.not_after)).collect())
    }

    /// Notes these as revoked and forgets what has expired; how many were not so before.
    pub(super) fn revoke(&mut self, serials: &[(String, u64)], now: u64) -> usize {
        self.revoked.retain(|r| r.not_after >= now);
        let before = self.revoked.len();
        for (serial, not_after) in serials {
            if self.revoked.iter().all(|r| r.serial != *serial) {
                let (serial, not_after) = (serial.clone(), *not_after);
                self.revoked.push(Withdrawn { serial, not_after, since: now });
            }
        }
        self.revoked.len() - before
    }

    /// The number of the next list.
    pub(super) fn next_list_number(&mut self) -> u64 {
        self.list_number += 1;
        self.list_number
    }

    /// What is revoked, and since when.
    pub(super) fn revoked(&self) -> impl Iterator<Item = (&str, u64)> {
        self.revoked.iter().map(|r| (r.serial.as_str(), r.since))
    }

    pub(super) fn save(&self, dir: &Path) -> Result<(), TrustError> {
        let text = serde_json::to_string_pretty(self).expect("plain values always serialise");
        replace(&dir.join("ledger.json"), text.as_bytes(), 0o600)
    }

    /// The grant a request leads to, if nothing forbids it.
    fn allot(&self, request: &Request) -> Result<Grant, TrustError> {
        let known = self.nodes.iter().find(|n| n.name == request.name);
        let number = match (known, request.renew) {
            (Some(entry), true) => entry.node,
            (None, false) => self.next,
            (Some(entry), false) => {
                return fail(format!(
                    "`{}` is there already, as number {}: use --renew for a new certificate",
                    entry.name, entry.node
                ));
            }
            (None, true) => {
                return fail(format!("`{}` was never issued: leave --renew out", request.name));
            }
        };
        let Some(node) = NodeId::new(number) else {
            return fail(format!("all {} node numbers are used up", NodeId::MAX));
        };
        let addresses = match known {
            Some(entry) if request.addresses.is_empty() => entry.addresses.clone(),
            _ => request.addresses.clone(),
        };
        let prefixes = request.prefixes.clone().or_else(|| known.map(|n| n.prefixes.clone()));
        let relay = request.relay.or_else(|| known.map(|n| n.relay)).unwrap_or(true);
        let grant = Grant {
            node,
            name: request.name.clone(),
            addresses,
            prefixes: prefixes.unwrap_or_default(),
            relay,
        };
        grant.check().map_err(TrustError)?;
        for other in self.nodes.iter().filter(|n| n.name != grant.name) {
            let theirs = || {
                let own = other.addresses.iter().map(|&a| IpNet::from(a));
                own.chain(other.prefixes.iter().copied())
            };
            let ours = grant.addresses.iter().map(|&a| IpNet::from(a));
            for net in ours.chain(grant.prefixes.iter().copied()) {
                if let Some(taken) = theirs().find(|t| overlap(t, &net)) {
                    return fail(format!("{net} overlaps {taken} of `{}`", other.name));
                }
            }
        }
        Ok(grant)
    }

    fn note(&mut self, grant: &Grant, not_after: u64, (serial, now): (String, u64)) {
        let known = self.nodes.iter().position(|n| n.node == grant.node.get());
        let mut certificates =
            known.map_or_else(Vec::new, |at| std::mem::take(&mut self.nodes[at].certificates));
        certificates.retain(|c| c.not_after >= now);
        certificates.push(Serial { serial, not_after });
        let entry = Entry {
            node: grant.node.get(),
            name: grant.name.clone(),
            addresses: grant.addresses.clone(),
            prefixes: grant.prefixes.clone(),
            relay: grant.relay,
            not_after,
            certificates,
        };
        match known {
            Some(at) => self.nodes[at] = entry,
            None => {
                self.next = entry.node + 1;
                self.nodes.push(entry);
            }
        }
    }
}

/// Held while a ledger changes.
pub(super) struct Lock(PathBuf);

impl Lock {
    pub(super) fn take(dir: &Path) -> Result<Self, TrustError> {
        let file = dir.join("ledger.lock");
        match OpenOptions::new().write(true).create_new(true).open(&file) {
            Ok(_) => Ok(Self(file)),
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => fail(format!(
                "{} is there: another `thalweg cert issue` is at work, or one was killed; in that \
                 case remove the file",
                file.display()
            )),
            Err(e) => fail(format!("{}: cannot be made: {e}", file.display())),
        }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // If this fails, the next run says what to do.
        let _ = fs::remove_file(&self.0);
    }
}
