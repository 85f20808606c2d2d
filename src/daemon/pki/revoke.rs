//! Revocation: a CA's signed list of certificates that are not to be believed any more.
//!
//! The list is an X.509 CRL (RFC 5280, section 5), signed by the CA that issued the certificates and
//! numbered by it. `thalweg cert revoke` makes it from the ledger; one node that is given the file
//! tells all others, and each keeps the newest of each CA on its disk. Since the CA signs it, it may
//! come by way of anyone; since it is numbered, an old one never replaces a newer one. A list whose
//! date for the next one has passed goes on to hold: what was revoked stays revoked, and a mesh whose
//! operator is away must not stop.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use rcgen::{
    CertificateRevocationListParams, Issuer, KeyIdMethod, KeyPair, RevokedCertParams, SerialNumber,
};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use time::OffsetDateTime;
use x509_parser::prelude::FromDer;
use x509_parser::revocation_list::CertificateRevocationList;

use super::ca::{self, Ledger, Lock};
use super::verify::{self, date};
use crate::control::message::MAX_LIST;
use crate::session::sign;
use crate::session::trust::TrustError;

/// What stands between a list and its signature: the algorithm (RFC 8410), and how long what follows is.
const ED25519_OUTSIDE: [u8; 10] = [0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 3, 0x41, 0];

/// A list that was read and whose signature fits.
#[derive(Clone, Debug)]
pub(super) struct RevocationList {
    /// As it came.
    pub(super) der: Vec<u8>,
    /// The CA that signed it: a digest of its certificate's key.
    pub(super) ca_key: [u8; 32],
    /// Its number: a greater one replaces it.
    pub(super) number: u128,
    /// The CA's name, as its certificates show it.
    issuer: Vec<u8>,
    serials: BTreeSet<Vec<u8>>,
}

impl RevocationList {
    /// Reads a list and believes it if one of these CAs has signed it.
    ///
    /// # Errors
    /// Bytes that are no list, a list of nobody we trust, or one whose signature does not fit.
    pub(super) fn open(
        der: &[u8],
        cas: impl Iterator<Item = CertificateDer<'static>>,
    ) -> Result<Self, TrustError> {
        let fail = |why: &str| TrustError(format!("the revocation list {why}"));
        if der.len() > MAX_LIST {
            return Err(TrustError(format!("the revocation list is longer than {MAX_LIST} bytes")));
        }
        let (rest, list) =
            CertificateRevocationList::from_der(der).map_err(|_| fail("is malformed"))?;
        if !rest.is_empty() {
            return Err(fail("has bytes behind its end"));
        }
        // What stands outside the signature may stand there in one way only.
        let outside =
            der.len().checked_sub(64 + ED25519_OUTSIDE.len()).and_then(|at| der.get(at..));
        if !outside.is_some_and(|bytes| bytes.starts_with(&ED25519_OUTSIDE)) {
            return Err(fail("is not signed with Ed25519"));
        }
        let signature: [u8; 64] = list
            .signature_value
            .data
            .as_ref()
            .try_into()
            .map_err(|_| fail("is not signed with Ed25519"))?;
        let issuer = list.tbs_cert_list.issuer.as_raw();
        let mut named = false;
        for ca in cas {
            let Ok(parsed) = verify::parse(&ca) else { continue };
            let Ok(key) = verify::public_key(&parsed) else { continue };
            if parsed.subject.as_raw() != issuer {
                continue;
            }
            named = true;
            if !sign::verify(&key, list.tbs_cert_list.as_ref(), &signature) {
                continue;
            }
            return Self::read(der, key, &list).map_err(fail);
        }
        Err(fail(if named {
            "is forged: its signature is not that of the CA it names"
        } else {
            "is signed by no CA that is trusted here: see `ca` in [node]"
        }))
    }

    fn read(
        der: &[u8],
        ca_key: [u8; 32],
        list: &CertificateRevocationList<'_>,
    ) -> Result<Self, &'static str> {
        // A list of some certificates only, or of changes, says so in an extension that is critical.
        if list.extensions().iter().any(|extension| extension.critical) {
            return Err("covers only a part of what its CA has issued");
        }
        let number = list.crl_number().ok_or("has no number")?.to_bytes_be();
        if number.len() > 16 {
            return Err("has a number of more than 16 bytes");
        }
        let number = number.iter().fold(0, |n, &byte| n << 8 | u128::from(byte));
        let revoked = list.iter_revoked_certificates();
        Ok(Self {
            der: der.to_vec(),
            ca_key,
            number,
            issuer: list.tbs_cert_list.issuer.as_raw().to_vec(),
            serials: revoked.map(|entry| plain_serial(entry.raw_serial())).collect(),
        })
    }

    /// Whether it names this certificate.
    pub(super) fn names(
        &self,
        certificate: &x509_parser::certificate::X509Certificate<'_>,
    ) -> bool {
        if certificate.issuer.as_raw() != self.issuer
            || !self.serials.contains(&plain_serial(certificate.raw_serial()))
        {
            return false;
        }
        // Two CAs may have one name and count alike.
        let signature = <[u8; 64]>::try_from(certificate.signature_value.data.as_ref());
        signature
            .is_ok_and(|s| sign::verify(&self.ca_key, certificate.tbs_certificate.as_ref(), &s))
    }

    /// How many certificates it names.
    pub(super) fn len(&self) -> usize {
        self.serials.len()
    }
}

/// A serial number without the zeros that DER puts before it.
fn plain_serial(raw: &[u8]) -> Vec<u8> {
    let zeros = raw.iter().take_while(|&&byte| byte == 0).count();
    raw[zeros..].to_vec()
}

/// Reads a list from a file, PEM or DER.
///
/// # Errors
/// A file that cannot be read or is longer than any list may be.
pub fn read_file(file: &Path) -> Result<Vec<u8>, TrustError> {
    let bad = |why: String| TrustError(format!("{}: {why}", file.display()));
    let text = fs::read(file).map_err(|e| bad(format!("cannot be read: {e}")))?;
    if !text.starts_with(b"-----") {
        return Ok(text);
    }
    let list = rustls::pki_types::CertificateRevocationListDer::from_pem_slice(&text);
    list.map(|der| der.to_vec()).map_err(|e| bad(format!("holds no revocation list: {e:?}")))
}

/// What was revoked.
#[derive(Clone, Debug)]
pub struct Revoked {
    /// The list, PEM.
    pub list: PathBuf,
    /// Its number.
    pub number: u64,
    /// Certificates of the node that were added to it.
    pub added: usize,
    /// Certificates in it.
    pub total: usize,
}

/// Revokes every certificate that this CA has issued to a node, or one that is given, and writes the
/// CA's list anew as `ca.crl` beside its certificate.
///
/// # Errors
/// A node the ledger does not know or has nothing valid of, or files that cannot be read or written.
pub fn revoke(
    ca: &Path,
    name: &str,
    certificate: Option<&Path>,
    now_unix_s: u64,
) -> Result<Revoked, TrustError> {
    let _lock = Lock::take(ca)?;
    let mut ledger = Ledger::load(ca)?;
    let ca_file = ca.join("ca.crt");
    let ca_der = verify::read_certificates(&ca_file)?.swap_remove(0);
    let parsed = verify::parse(&ca_der)?;
    let (_, ca_end) = verify::validity(&parsed);
    let mut serials = ledger.serials(name)?;
    if let Some(file) = certificate {
        let der = verify::read_certificates(file)?.swap_remove(0);
        let shown = verify::parse(&der)?;
        let holder = verify::only_name(&shown).unwrap_or_else(|_| verify::common_name(&shown));
        if holder != name || shown.issuer.as_raw() != parsed.subject.as_raw() {
            return Err(TrustError(format!(
                "{} is no certificate that this CA issued to `{name}`",
                file.display()
            )));
        }
        let (_, end) = verify::validity(&shown);
        serials = vec![(hex(&plain_serial(shown.raw_serial())), end)];
    }
    serials.retain(|(_, end)| *end >= now_unix_s);
    if serials.is_empty() {
        return Err(TrustError(format!(
            "the ledger knows no certificate of `{name}` that this CA issued and that is still \
             valid: name its file with --certificate, or use the CA that issued it"
        )));
    }
    let added = ledger.revoke(&serials, now_unix_s);
    let number = ledger.next_list_number();
    let at = |unix_s: u64| {
        let time =
            i64::try_from(unix_s).ok().and_then(|s| OffsetDateTime::from_unix_timestamp(s).ok());
        time.ok_or_else(|| TrustError("the clock of this machine is far off: set it first".into()))
    };
    let entries = ledger.revoked().map(|(serial, since)| {
        let serial = unhex(serial)
            .ok_or_else(|| TrustError(format!("ledger.json: `{serial}` is no serial number")))?;
        Ok(RevokedCertParams {
            serial_number: SerialNumber::from_slice(&serial),
            revocation_time: at(since)?,
            reason_code: None,
            invalidity_date: None,
        })
    });
    let params = CertificateRevocationListParams {
        this_update: at(now_unix_s)?,
        // Nodes go on with a list they have: it needs no other until the CA ends.
        next_update: at(ca_end.max(now_unix_s + 1))?,
        crl_number: SerialNumber::from(number),
        issuing_distribution_point: None,
        revoked_certs: entries.collect::<Result<_, TrustError>>()?,
        key_identifier_method: KeyIdMethod::Sha256,
    };
    let total = params.revoked_certs.len();
    let key_file = ca.join("ca.key");
    let key = ca::io(&key_file, "read", fs::read_to_string(&key_file))?;
    let key = KeyPair::from_pem(&key)
        .map_err(|e| TrustError(format!("{}: is no usable key: {e}", key_file.display())))?;
    let issuer = Issuer::from_ca_cert_der(&ca_der, key).map_err(ca::crypto)?;
    let list = params.signed_by(&issuer).map_err(ca::crypto)?;
    if list.der().len() > MAX_LIST {
        return Err(TrustError(format!(
            "the list would be longer than {MAX_LIST} bytes: make a new CA with --succeeds, renew \
             the nodes that stay, and take this one out of `ca`"
        )));
    }
    let pem = list.pem().map_err(ca::crypto)?;
    ledger.save(ca)?;
    let file = ca.join("ca.crl");
    ca::replace(&file, pem.as_bytes(), 0o644)?;
    Ok(Revoked { list: file, number, added, total })
}

/// A serial number as the ledger writes it.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits: Option<Vec<u8>> =
        text.chars().map(|c| c.to_digit(16).and_then(|d| u8::try_from(d).ok())).collect();
    let digits = digits?;
    (!digits.is_empty() && digits.len() % 2 == 0)
        .then(|| digits.chunks_exact(2).map(|pair| pair[0] << 4 | pair[1]).collect())
}

/// What a list says of itself, for people: number, date and how many it names.
pub(super) fn describe(der: &[u8]) -> Option<String> {
    let (_, list) = CertificateRevocationList::from_der(der).ok()?;
    let made = u64::try_from(list.last_update().timestamp()).unwrap_or(0);
    let count = list.iter_revoked_certificates().count();
    Some(format!("number {}, of {}, {count} certificates", list.crl_number()?, date(made)))
}
