//! This node's own certificate and key, as the configuration names them.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::verify::{Anchors, date, read_certificates};
use crate::config::{Config, NodeConfig};
use crate::daemon::papers::take_lists;
use crate::session::trust::{Certified, Signer, TrustError};

/// Who this node is, with the means to prove it.
#[derive(Debug)]
pub struct Identity {
    /// Its certificate.
    pub certificate: CertificateDer<'static>,
    /// Its private key, PKCS #8.
    pub key: PrivateKeyDer<'static>,
    /// What the certificate grants it.
    pub certified: Certified,
}

impl Identity {
    /// Reads certificate and key and checks them against each other, the CAs and the configured name.
    ///
    /// # Errors
    /// Files that are missing, open to others, do not belong together, or are not valid now.
    pub fn load(node: &NodeConfig, anchors: &Anchors, now_unix_s: u64) -> Result<Self, TrustError> {
        let certificate = read_certificates(&node.certificate)?.swap_remove(0);
        let certified = anchors
            .verify(&certificate, now_unix_s)
            .map_err(|e| TrustError(format!("{}: {e}", node.certificate.display())))?;
        if certified.name != node.name {
            return Err(TrustError(format!(
                "{} is the certificate of `{}`, but [node] name is `{}`: correct one of them",
                node.certificate.display(),
                certified.name,
                node.name
            )));
        }
        let key = read_key(&node.key)?;
        let pair =
            key_pair(&key).map_err(|e| TrustError(format!("{}: {e}", node.key.display())))?;
        if pair.public_key().as_ref() != certified.public_key {
            return Err(TrustError(format!(
                "{} is not the key of {}: they were not issued together",
                node.key.display(),
                node.certificate.display()
            )));
        }
        Ok(Self { certificate, key, certified })
    }

    /// Signs with this node's key.
    pub fn signer(&self) -> NodeSigner {
        let pair = key_pair(&self.key).expect("the key was read at loading");
        NodeSigner(Arc::new(pair))
    }
}

/// Signs with a node's Ed25519 key.
#[derive(Clone, Debug)]
pub struct NodeSigner(Arc<Ed25519KeyPair>);

impl Signer for NodeSigner {
    fn sign(&self, message: &[u8]) -> [u8; 64] {
        let signature = self.0.sign(message);
        signature.as_ref().try_into().expect("Ed25519 signatures are 64 bytes long")
    }
}

fn key_pair(key: &PrivateKeyDer<'_>) -> Result<Ed25519KeyPair, String> {
    match key {
        PrivateKeyDer::Pkcs8(key) => {
            Ed25519KeyPair::from_pkcs8_maybe_unchecked(key.secret_pkcs8_der())
                .map_err(|e| format!("is no Ed25519 key: {e}"))
        }
        _ => Err("is no PKCS #8 key: make it with `thalweg cert issue`".into()),
    }
}

fn read_key(file: &Path) -> Result<PrivateKeyDer<'static>, TrustError> {
    let bad = |why: String| TrustError(format!("{}: {why}", file.display()));
    let about = std::fs::metadata(file).map_err(|e| bad(format!("cannot be read: {e}")))?;
    let mode = about.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(bad(format!(
            "has mode {mode:04o}, so others can read the key: chmod 0600 {}",
            file.display()
        )));
    }
    let text = std::fs::read(file).map_err(|e| bad(format!("cannot be read: {e}")))?;
    PrivateKeyDer::from_pem_slice(&text).map_err(|e| bad(format!("holds no private key: {e:?}")))
}

/// Checks everything a configuration points at; every problem at once, and what is worth knowing.
///
/// # Errors
/// Each problem as one sentence that names the file and the fix.
pub fn check_files(config: &Config, now_unix_s: u64) -> Result<Vec<String>, Vec<String>> {
    let mut problems = Vec::new();
    let mut remarks = config.remarks();
    match Anchors::load(&config.node.ca) {
        Err(error) => problems.push(error.to_string()),
        Ok(anchors) => {
            for (name, end) in anchors.list() {
                remark_end(&mut remarks, &format!("CA `{name}`"), end, now_unix_s);
            }
            if let Err(error) = take_lists(&config.node.crl, &anchors) {
                problems.push(error);
            }
            match Identity::load(&config.node, &anchors, now_unix_s) {
                Err(error) => problems.push(error.to_string()),
                Ok(identity) => {
                    let certified = &identity.certified;
                    remark_end(
                        &mut remarks,
                        "this node's certificate",
                        certified.not_after,
                        now_unix_s,
                    );
                    if config.relay.relay && !certified.relay {
                        remarks.push(
                            "[relay] relay = true has no effect: the certificate forbids it".into(),
                        );
                    }
                }
            }
        }
    }
    if config.node.state.exists() && !config.node.state.is_dir() {
        problems.push(format!(
            "{} is no directory: see `state` in [node]",
            config.node.state.display()
        ));
    }
    if problems.is_empty() { Ok(remarks) } else { Err(problems) }
}

/// Certificates that end within this time are worth a word: the usual reminder is two weeks.
const SOON_S: u64 = 14 * 86_400;

fn remark_end(remarks: &mut Vec<String>, what: &str, end: u64, now: u64) {
    if end < now {
        remarks.push(format!("{what} expired on {}", date(end)));
    } else if end - now < SOON_S {
        remarks.push(format!("{what} expires on {}", date(end)));
    }
}
