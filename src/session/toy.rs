//! Certificates for tests: plain bytes instead of X.509, real keys and signatures.

use std::net::{IpAddr, Ipv4Addr};

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};

use crate::id::NodeId;
use crate::session::trust::{Certified, Signer, Trust, TrustError};

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

/// Trusts the operator with this number.
pub(crate) struct ToyTrust(pub(crate) u8);

impl Trust for ToyTrust {
    fn verify(&self, certificate: &[u8]) -> Result<Certified, TrustError> {
        let error = |what: &str| TrustError(what.into());
        match certificate {
            [ca, high, low, name @ ..] if *ca == self.0 => {
                let number = u16::from_be_bytes([*high, *low]);
                let name = std::str::from_utf8(name).map_err(|_| error("name"))?;
                NodeId::new(number).ok_or_else(|| error("number"))?;
                Ok(certified(number, name))
            }
            _ => Err(error("foreign")),
        }
    }
}
