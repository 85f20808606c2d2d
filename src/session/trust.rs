//! Who a node is, and who says so.
//!
//! The operator's CA signs a certificate per node; [`Trust`] checks one and reads what it grants.
//! The real one (webpki, x509) lives in the daemon, so the core stays free of certificates' formats.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::id::NodeId;

/// What a valid certificate says of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certified {
    /// Its number in the overlay.
    pub node: NodeId,
    /// Its name: the certificate's DNS subject alternative name.
    pub name: String,
    /// Its own overlay addresses.
    pub addresses: Vec<IpAddr>,
    /// Site prefixes it may announce and send from.
    pub prefixes: Vec<IpNet>,
    /// Whether it may carry others' traffic.
    pub relay: bool,
    /// The Ed25519 public key its link state is signed with.
    pub public_key: [u8; 32],
    /// End of validity, seconds of Unix time. Shown to operators; never compared in the core.
    pub not_after: u64,
}

impl Certified {
    /// Every prefix it may be a source or destination for, its own addresses as host prefixes.
    pub fn networks(&self) -> impl Iterator<Item = IpNet> {
        let own = self.addresses.iter().map(|&address| IpNet::from(address));
        own.chain(self.prefixes.iter().copied())
    }
}

/// Why a certificate is not accepted, in words an operator can act on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct TrustError(pub String);

/// What came of a CA's list of revoked certificates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListNews {
    /// It is in force now.
    Newer,
    /// It is the one in force.
    Known,
    /// A newer one is in force.
    Older,
}

/// Checks certificates against the operator's CAs.
pub trait Trust: Send {
    /// What the DER certificate grants its holder.
    ///
    /// # Errors
    /// A certificate that is foreign, expired, revoked, malformed, or grants nothing of ours.
    fn verify(&self, certificate: &[u8]) -> Result<Certified, TrustError>;

    /// Whether a list in force names this certificate: whoever holds its key is cut off.
    fn revokes(&self, certificate: &[u8]) -> bool;

    /// A list of revoked certificates came, by way of anyone.
    ///
    /// # Errors
    /// What no CA trusted here has signed.
    fn on_list(&self, list: &[u8]) -> Result<ListNews, TrustError>;

    /// The list in force of each CA that has made one: to be kept, and passed on.
    fn lists(&self) -> Vec<Vec<u8>>;
}

/// Signs with this node's own key (Ed25519, so the same bytes give the same signature).
pub trait Signer: Send {
    /// The signature over `message`.
    fn sign(&self, message: &[u8]) -> [u8; 64];
}
