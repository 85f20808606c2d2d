//! Certificates for tests: plain bytes instead of X.509, real keys and signatures.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Mutex;

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};

use crate::id::NodeId;
use crate::session::trust::{Certified, ListNews, Signer, Trust, TrustError};

/// A node's key.
pub(crate) struct ToySigner(Ed25519KeyPair);

impl ToySigner {
    /// The key of node `number`; the same each time.
    pub(crate) fn new(number: u16) -> Self {
        let mut seed = [0; 32];
        seed[..2].copy_from_slice(&number.to_be_bytes());
        Self(Ed25519KeyPair::from_seed_unchecked(&seed).expect("any seed is a key"))
    }

    pub(crate) fn public_key(&self) -> [u8; 32] {
        self.0.public_key().as_ref().try_into().expect("Ed25519 keys are 32 bytes")
    }
}

impl Signer for ToySigner {
    fn sign(&self, message: &[u8]) -> [u8; 64] {
        self.0.sign(message).as_ref().try_into().expect("Ed25519 signatures are 64 bytes")
    }
}

/// What node `number` is certified to be: address 10.99.0.number, prefix 10.number.0.0/16.
pub(crate) fn certified(number: u16, name: &str) -> Certified {
    let low = (number & 0xff) as u8;
    let site = IpAddr::V4(Ipv4Addr::new(10, low, 0, 0));
    Certified {
        node: NodeId::new(number).expect("a test's node number"),
        name: name.into(),
        addresses: vec![IpAddr::V4(Ipv4Addr::new(10, 99, (number >> 8) as u8, low))],
        prefixes: vec![ipnet::IpNet::new(site, 16).expect("16 is a prefix length")],
        relay: true,
        public_key: ToySigner::new(number).public_key(),
        not_after: 4_000_000_000,
    }
}

/// The certificate that says it, as the operator named `ca` issues it.
pub(crate) fn certificate(ca: u8, number: u16, name: &str) -> Vec<u8> {
    let mut out = vec![ca];
    out.extend(number.to_be_bytes());
    out.extend(name.as_bytes());
    out
}

/// What node `number` is certified to be after a renewal: another key, that of node `1011 · number`, and
/// one prefix more.
pub(crate) fn renewed(number: u16, name: &str, prefix: &str) -> Certified {
    let mut certified = certified(number, name);
    certified.public_key = ToySigner::new(1011 * number).public_key();
    certified.prefixes.push(prefix.parse().expect("a test's prefix"));
    certified
}

/// The certificate that says it: the prefix is `10.<number><number>.0.0/16`.
pub(crate) fn renewed_certificate(ca: u8, number: u16, name: &str) -> Vec<u8> {
    [certificate(ca, number, name), b"+".to_vec()].concat()
}

/// The list of revoked nodes that the operator named `ca` issues under this number.
pub(crate) fn list(ca: u8, number: u8, revoked: &[u16]) -> Vec<u8> {
    let mut out = vec![ca, number];
    revoked.iter().for_each(|node| out.extend(node.to_be_bytes()));
    out
}

/// Trusts the operator with this number.
pub(crate) struct ToyTrust {
    ca: u8,
    list: Mutex<Option<Vec<u8>>>,
}

impl ToyTrust {
    pub(crate) fn new(ca: u8) -> Self {
        Self { ca, list: Mutex::new(None) }
    }

    fn held(&self) -> Option<Vec<u8>> {
        self.list.lock().expect("tests have one thread").clone()
    }
}

impl Trust for ToyTrust {
    fn verify(&self, certificate: &[u8]) -> Result<Certified, TrustError> {
        let error = |what: &str| TrustError(what.into());
        if self.revokes(certificate) {
            return Err(error("revoked"));
        }
        match certificate {
            [ca, high, low, name @ ..] if *ca == self.ca => {
                let number = u16::from_be_bytes([*high, *low]);
                let name = std::str::from_utf8(name).map_err(|_| error("name"))?;
                NodeId::new(number).ok_or_else(|| error("number"))?;
                Ok(match name.strip_suffix('+') {
                    Some(name) => renewed(number, name, &format!("10.{number}{number}.0.0/16")),
                    None => certified(number, name),
                })
            }
            _ => Err(error("foreign")),
        }
    }

    fn revokes(&self, certificate: &[u8]) -> bool {
        let named = |list: &[u8]| list[2..].chunks(2).any(|n| certificate.get(1..3) == Some(n));
        self.held().is_some_and(|list| named(&list))
    }

    fn on_list(&self, list: &[u8]) -> Result<ListNews, TrustError> {
        let [ca, number, ..] = list else { return Err(TrustError("malformed".into())) };
        if *ca != self.ca {
            return Err(TrustError("forged".into()));
        }
        match self.held().map(|held| held[1]) {
            Some(held) if held > *number => return Ok(ListNews::Older),
            Some(held) if held == *number => return Ok(ListNews::Known),
            _ => {}
        }
        *self.list.lock().expect("tests have one thread") = Some(list.to_vec());
        Ok(ListNews::Newer)
    }

    fn lists(&self) -> Vec<Vec<u8>> {
        self.held().into_iter().collect()
    }
}
