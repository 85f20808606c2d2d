//! The verdict over a certificate: signed by a CA of the operator's, valid now, granting something.
//!
//! Signature and chain are webpki's work, through rustls. Two things it does not look at are done
//! here: whether the CA itself is still valid (a trust anchor carries no dates, and an expired CA that
//! keeps working until one day it is removed helps nobody), and what our extension grants.
//!
//! Neither does it look at lists of revoked certificates the way we keep them (`revoke`): that, too, is
//! done here. CAs and lists may change while connections are judged by them.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use arc_swap::ArcSwap;
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, RootCertStore};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;

use super::grant::{Grant, OID_TEXT};
use super::revoke::{self, RevocationList};
use crate::session::trust::{Certified, ListNews, Trust, TrustError};

/// Longest certificate that is looked at, bytes. With every address and prefix there may be, one of
/// ours stays below it.
pub const LONGEST: usize = 16 * 1024;

/// Object identifier of Ed25519 keys (RFC 8410).
const ED25519: &str = "1.3.101.112";

/// The operator's CAs, and what they have revoked. Readers see one state or the other, never half of
/// a change.
#[derive(Debug)]
pub struct Anchors {
    state: ArcSwap<State>,
}

#[derive(Clone, Debug)]
struct State {
    anchors: Vec<Anchor>,
    /// The newest list of each CA that has made one.
    lists: Vec<Arc<RevocationList>>,
}

#[derive(Clone, Debug)]
struct Anchor {
    certificate: CertificateDer<'static>,
    name: String,
    not_before: u64,
    not_after: u64,
}

impl Anchors {
    /// Reads PEM files with one or more CA certificates each.
    ///
    /// # Errors
    /// A file that cannot be read, holds no certificate, or one that is no CA's.
    pub fn load(files: &[impl AsRef<Path>]) -> Result<Self, TrustError> {
        Self::new(read_all(files)?)
    }

    /// Takes CA certificates as DER.
    ///
    /// # Errors
    /// None at all, or one that is no CA's.
    pub fn new(certificates: Vec<CertificateDer<'static>>) -> Result<Self, TrustError> {
        let state = State { anchors: Anchor::read_all(certificates)?, lists: Vec::new() };
        Ok(Self { state: ArcSwap::from_pointee(state) })
    }

    /// Reads the files again and judges by what they hold now. Lists of CAs that are gone go with them.
    ///
    /// # Errors
    /// As [`load`](Self::load); nothing changes then.
    pub fn reload(&self, files: &[impl AsRef<Path>]) -> Result<(), TrustError> {
        let anchors = Anchor::read_all(read_all(files)?)?;
        let mut lists = self.state.load().lists.clone();
        let certificates = || anchors.iter().map(|a| a.certificate.clone());
        lists.retain(|list| RevocationList::open(&list.der, certificates()).is_ok());
        self.state.store(Arc::new(State { anchors, lists }));
        Ok(())
    }

    /// Takes a CA's list of revoked certificates, unless a newer one is held.
    ///
    /// # Errors
    /// What is no list of a CA that is trusted here.
    pub fn on_list(&self, der: &[u8]) -> Result<ListNews, TrustError> {
        let state = self.state.load();
        // The one that is held comes again with every new session.
        if state.lists.iter().any(|held| held.der == der) {
            return Ok(ListNews::Known);
        }
        let cas = state.anchors.iter().map(|a| a.certificate.clone());
        let list = RevocationList::open(der, cas)?;
        let held = state.lists.iter().find(|held| held.ca_key == list.ca_key);
        if held.is_some_and(|held| held.number >= list.number) {
            return Ok(ListNews::Older);
        }
        let mut next = State::clone(&state);
        next.lists.retain(|held| held.ca_key != list.ca_key);
        tracing::info!(list = revoke::describe(der), "revocation list in force");
        next.lists.push(Arc::new(list));
        self.state.store(Arc::new(next));
        Ok(ListNews::Newer)
    }

    /// The list in force of each CA that has made one, DER.
    pub fn lists(&self) -> Vec<Vec<u8>> {
        self.state.load().lists.iter().map(|list| list.der.clone()).collect()
    }

    /// How many certificates the lists in force name.
    pub fn revoked(&self) -> usize {
        self.state.load().lists.iter().map(|list| list.len()).sum()
    }

    /// Whether a list in force names this certificate.
    pub fn revokes(&self, certificate: &[u8]) -> bool {
        let state = self.state.load();
        !state.lists.is_empty()
            && parse(certificate).is_ok_and(|c| state.lists.iter().any(|list| list.names(&c)))
    }

    /// Name and end of validity (seconds of Unix time) of each CA.
    pub fn list(&self) -> Vec<(String, u64)> {
        self.state.load().anchors.iter().map(|a| (a.name.clone(), a.not_after)).collect()
    }

    /// The CAs that are valid at a time, for TLS.
    pub fn roots(&self, now_unix_s: u64) -> RootCertStore {
        self.state.load().roots(now_unix_s)
    }

    /// What the DER certificate grants its holder, judged at a wall time in seconds of Unix time.
    ///
    /// # Errors
    /// A certificate that is foreign, expired, revoked, malformed, or grants nothing of ours.
    pub fn verify(&self, certificate: &[u8], now_unix_s: u64) -> Result<Certified, TrustError> {
        self.state.load().verify(certificate, now_unix_s)
    }

    /// As [`verify`](Self::verify), and the certificate must name this node.
    ///
    /// # Errors
    /// As there, and a certificate of another node.
    pub fn verify_named(
        &self,
        certificate: &[u8],
        name: &str,
        now_unix_s: u64,
    ) -> Result<Certified, TrustError> {
        let certified = self.verify(certificate, now_unix_s)?;
        if certified.name == name {
            return Ok(certified);
        }
        Err(TrustError(format!(
            "`{}` answered where `{name}` was expected: correct the name or the endpoint of this \
             [[peer]]",
            certified.name
        )))
    }
}

impl Anchor {
    fn read_all(certificates: Vec<CertificateDer<'static>>) -> Result<Vec<Self>, TrustError> {
        if certificates.is_empty() {
            return Err(TrustError("no CA certificate is given".into()));
        }
        let read = |certificate: CertificateDer<'static>| {
            let parsed = parse(&certificate)?;
            let name = common_name(&parsed);
            if !parsed.is_ca() {
                return Err(TrustError(format!(
                    "the certificate of `{name}` is not a CA's: name the file made by \
                     `thalweg cert ca`"
                )));
            }
            let (not_before, not_after) = validity(&parsed);
            Ok(Anchor { name, not_before, not_after, certificate })
        };
        certificates.into_iter().map(read).collect()
    }
}

impl State {
    fn roots(&self, now_unix_s: u64) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        let valid = |a: &&Anchor| (a.not_before..=a.not_after).contains(&now_unix_s);
        for anchor in self.anchors.iter().filter(valid) {
            // One that parsed as a certificate but not as an anchor signs nothing.
            let _ = roots.add(anchor.certificate.clone());
        }
        roots
    }

    fn verify(&self, certificate: &[u8], now_unix_s: u64) -> Result<Certified, TrustError> {
        let parsed = parse(certificate)?;
        let claimed = claimed_name(&parsed);
        let der = CertificateDer::from(certificate);
        let end_entity = ParsedCertificate::try_from(&der)
            .map_err(|e| TrustError(format!("the certificate is malformed: {e}")))?;
        let (not_before, not_after) = validity(&parsed);
        let provider = rustls::crypto::aws_lc_rs::default_provider();
        verify_server_cert_signed_by_trust_anchor(
            &end_entity,
            &self.roots(now_unix_s),
            &[],
            UnixTime::since_unix_epoch(Duration::from_secs(now_unix_s)),
            provider.signature_verification_algorithms.all,
        )
        .map_err(|error| self.explain(&error, &claimed, (not_before, not_after), now_unix_s))?;
        if self.lists.iter().any(|list| list.names(&parsed)) {
            return Err(TrustError(format!(
                "the certificate of `{claimed}` is revoked by its CA: if `{claimed}` shall come back, \
                 issue it a new one with `thalweg cert issue --renew`"
            )));
        }
        let refuse = |why: String| TrustError(format!("the certificate of `{claimed}`: {why}"));
        let name = only_name(&parsed).map_err(&refuse)?;
        let grant = Grant::decode(name, extension(&parsed).map_err(&refuse)?).map_err(&refuse)?;
        let public_key = public_key(&parsed).map_err(&refuse)?;
        Ok(Certified {
            node: grant.node,
            name: grant.name,
            addresses: grant.addresses,
            prefixes: grant.prefixes,
            relay: grant.relay,
            public_key,
            not_after,
        })
    }

    fn explain(
        &self,
        error: &rustls::Error,
        claimed: &str,
        (not_before, not_after): (u64, u64),
        now: u64,
    ) -> TrustError {
        let rustls::Error::InvalidCertificate(error) = error else {
            return TrustError(format!("the certificate that names `{claimed}`: {error}"));
        };
        let expired = self.anchors.iter().filter(|a| a.not_after < now);
        let expired: Vec<_> =
            expired.map(|a| format!("CA `{}` expired on {}", a.name, date(a.not_after))).collect();
        let cas =
            if expired.is_empty() { String::new() } else { format!(" ({})", expired.join(", ")) };
        TrustError(match error {
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => format!(
                "the certificate of `{claimed}` expired on {}{cas} and the clock of this machine says \
                 {}: issue a new one with `thalweg cert issue --renew`, or set the clock",
                date(not_after),
                date(now)
            ),
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => format!(
                "the certificate of `{claimed}` is valid from {} and the clock of this machine says \
                 {}: set the clock of this machine, or of the one that issued it",
                date(not_before),
                date(now)
            ),
            CertificateError::UnknownIssuer | CertificateError::BadSignature => format!(
                "the certificate that names `{claimed}` is signed by no CA that is trusted \
                 here{cas}: see `ca` in [node]"
            ),
            other => format!("the certificate that names `{claimed}` is refused: {other:?}"),
        })
    }
}

/// The operator's CAs together with a wall clock: what the core asks.
#[derive(Clone, Debug)]
pub struct WallTrust {
    anchors: Arc<Anchors>,
    unix_seconds: fn() -> u64,
}

impl WallTrust {
    /// Judges by these CAs at the time this clock gives, in seconds of Unix time.
    pub fn new(anchors: Arc<Anchors>, unix_seconds: fn() -> u64) -> Self {
        Self { anchors, unix_seconds }
    }
}

impl Trust for WallTrust {
    fn verify(&self, certificate: &[u8]) -> Result<Certified, TrustError> {
        self.anchors.verify(certificate, (self.unix_seconds)())
    }

    fn revokes(&self, certificate: &[u8]) -> bool {
        self.anchors.revokes(certificate)
    }

    fn on_list(&self, list: &[u8]) -> Result<ListNews, TrustError> {
        self.anchors.on_list(list)
    }

    fn lists(&self) -> Vec<Vec<u8>> {
        self.anchors.lists()
    }
}

/// What a certificate says of itself. Nothing of it is verified.
#[derive(Clone, Debug)]
pub struct Description {
    /// The certificate.
    pub der: Vec<u8>,
    /// Its DNS name, or its common name where it has none.
    pub name: String,
    /// The common name of who signed it.
    pub issuer: String,
    /// Whether it is a CA's.
    pub is_ca: bool,
    /// Start of validity, seconds of Unix time.
    pub not_before: u64,
    /// End of validity, seconds of Unix time.
    pub not_after: u64,
    /// SHA-256 of the DER, in hexadecimal.
    pub sha256: String,
    /// What our extension grants, if there is a good one.
    pub grant: Option<Grant>,
}

/// Reads the first certificate of a PEM file for showing.
///
/// # Errors
/// A file that cannot be read or holds no certificate.
pub fn describe(file: &Path) -> Result<Description, TrustError> {
    let der = read_certificates(file)?.swap_remove(0).to_vec();
    let parsed = parse(&der).map_err(|e| TrustError(format!("{}: {e}", file.display())))?;
    let name = only_name(&parsed);
    let grant = match (&name, extension(&parsed)) {
        (Ok(name), Ok(value)) => Grant::decode(name.clone(), value).ok(),
        _ => None,
    };
    let issuer = parsed.issuer.iter_common_name().next().and_then(|n| n.as_str().ok());
    let (not_before, not_after) = validity(&parsed);
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &der);
    let shown = |text: &str| text.escape_debug().take(64).collect();
    Ok(Description {
        name: shown(&name.unwrap_or_else(|_| common_name(&parsed))),
        issuer: shown(issuer.unwrap_or("(nameless)")),
        is_ca: parsed.is_ca(),
        not_before,
        not_after,
        sha256: digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect(),
        grant,
        der: der.clone(),
    })
}

/// Every certificate in these PEM files.
fn read_all(files: &[impl AsRef<Path>]) -> Result<Vec<CertificateDer<'static>>, TrustError> {
    let mut certificates = Vec::new();
    for file in files {
        certificates.extend(read_certificates(file.as_ref())?);
    }
    Ok(certificates)
}

/// Every certificate in a PEM file.
pub(super) fn read_certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, TrustError> {
    let bad = |why: String| TrustError(format!("{}: {why}", file.display()));
    let text = std::fs::read(file).map_err(|e| bad(format!("cannot be read: {e}")))?;
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    let all = all.map_err(|e| bad(format!("is not PEM: {e:?}")))?;
    if all.is_empty() {
        return Err(bad("holds no certificate".into()));
    }
    Ok(all)
}

pub(super) fn parse(certificate: &[u8]) -> Result<X509Certificate<'_>, TrustError> {
    if certificate.len() > LONGEST {
        return Err(TrustError(format!("the certificate is longer than {LONGEST} bytes")));
    }
    match X509Certificate::from_der(certificate) {
        Ok(([], parsed)) => Ok(parsed),
        Ok(_) => Err(TrustError("the certificate has bytes behind its end".into())),
        Err(error) => Err(TrustError(format!("the certificate is malformed: {error}"))),
    }
}

pub(super) fn validity(parsed: &X509Certificate<'_>) -> (u64, u64) {
    let seconds = |time: x509_parser::time::ASN1Time| u64::try_from(time.timestamp()).unwrap_or(0);
    (seconds(parsed.validity.not_before), seconds(parsed.validity.not_after))
}

pub(super) fn common_name(parsed: &X509Certificate<'_>) -> String {
    let name = parsed.subject.iter_common_name().next().and_then(|n| n.as_str().ok());
    name.unwrap_or("(nameless)").chars().take(64).collect()
}

/// The name a certificate claims, for error texts; not to be believed.
fn claimed_name(parsed: &X509Certificate<'_>) -> String {
    only_name(parsed).unwrap_or_else(|_| common_name(parsed)).escape_debug().take(64).collect()
}

pub(super) fn only_name(parsed: &X509Certificate<'_>) -> Result<String, String> {
    let names = parsed.subject_alternative_name().ok().flatten();
    match names.as_ref().map(|n| n.value.general_names.as_slice()) {
        Some([GeneralName::DNSName(name)]) => Ok((*name).to_owned()),
        _ => Err("it must have exactly one DNS name".into()),
    }
}

pub(super) fn extension<'a>(parsed: &'a X509Certificate<'_>) -> Result<&'a [u8], String> {
    let mut ours = parsed.extensions().iter().filter(|e| e.oid.to_id_string() == OID_TEXT);
    match (ours.next(), ours.next()) {
        (Some(extension), None) => Ok(extension.value),
        (None, _) => Err("it grants nothing: the Thalweg extension is missing".into()),
        (Some(_), Some(_)) => Err("the Thalweg extension is there twice".into()),
    }
}

pub(super) fn public_key(parsed: &X509Certificate<'_>) -> Result<[u8; 32], String> {
    let info = parsed.public_key();
    let is_ed25519 = info.algorithm.algorithm.to_id_string() == ED25519;
    match <[u8; 32]>::try_from(info.subject_public_key.data.as_ref()) {
        Ok(key) if is_ed25519 => Ok(key),
        _ => Err("its key is not Ed25519".into()),
    }
}

/// A wall time as operators read it.
pub fn date(unix_s: u64) -> String {
    // RFC 3339 has four digits for the year, and certificates end in 9999 at the latest.
    let time = UNIX_EPOCH + Duration::from_secs(unix_s.min(253_402_300_799));
    humantime::format_rfc3339_seconds(time).to_string()
}
