//! Ed25519 signatures: what a node says of itself to nodes it has no session with.
//!
//! Link state and members travel over others' hands, so their origin signs them. The key is the one
//! in the node's certificate (RFC 8032; deterministic, so the same bytes give the same signature).

use std::fmt;

use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};

use crate::session::trust::Signer;

/// Length of a signature.
pub const SIGNATURE_LEN: usize = 64;

/// Whether `signature` over `message` was made with the private half of `public_key`.
pub fn verify(public_key: &[u8; 32], message: &[u8], signature: &[u8; SIGNATURE_LEN]) -> bool {
    UnparsedPublicKey::new(&ED25519, public_key).verify(message, signature).is_ok()
}

/// A node's private key.
pub struct Ed25519Signer {
    pair: Ed25519KeyPair,
    public_key: [u8; 32],
}

/// A private key that cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the private key is no Ed25519 key in PKCS#8")]
pub struct KeyError;

impl Ed25519Signer {
    /// From PKCS#8, as it stands in the node's key file.
    ///
    /// # Errors
    /// Bytes that are no Ed25519 key.
    pub fn from_pkcs8(der: &[u8]) -> Result<Self, KeyError> {
        Self::of(Ed25519KeyPair::from_pkcs8_maybe_unchecked(der).map_err(|_| KeyError)?)
    }

    /// From the 32 bytes that RFC 8032 calls the private key. For the simulator and tests.
    ///
    /// # Errors
    /// None in practice: every 32 bytes are a key.
    pub fn from_seed(seed: &[u8; 32]) -> Result<Self, KeyError> {
        Self::of(Ed25519KeyPair::from_seed_unchecked(seed).map_err(|_| KeyError)?)
    }

    /// The public half.
    pub const fn public_key(&self) -> [u8; 32] {
        self.public_key
    }

    fn of(pair: Ed25519KeyPair) -> Result<Self, KeyError> {
        let public_key = pair.public_key().as_ref().try_into().map_err(|_| KeyError)?;
        Ok(Self { pair, public_key })
    }
}

impl Signer for Ed25519Signer {
    fn sign(&self, message: &[u8]) -> [u8; SIGNATURE_LEN] {
        let signature = self.pair.sign(message);
        signature.as_ref().try_into().expect("an Ed25519 signature has 64 bytes")
    }
}

impl fmt::Debug for Ed25519Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Ed25519Signer(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_holds_for_its_message_and_key_alone() {
        let signer = Ed25519Signer::from_seed(&[7; 32]).unwrap();
        let other = Ed25519Signer::from_seed(&[8; 32]).unwrap();
        let signature = signer.sign(b"the river");
        assert_eq!(signature, signer.sign(b"the river"));
        assert!(verify(&signer.public_key(), b"the river", &signature));
        assert!(!verify(&signer.public_key(), b"the rivet", &signature));
        assert!(!verify(&other.public_key(), b"the river", &signature));
        let mut bent = signature;
        bent[0] ^= 1;
        assert!(!verify(&signer.public_key(), b"the river", &bent));
    }

    #[test]
    fn the_first_vector_of_rfc_8032_is_met() {
        let hex = |s: &str| -> Vec<u8> {
            (0..s.len()).step_by(2).map(|i| u8::from_str_radix(&s[i..i + 2], 16).unwrap()).collect()
        };
        let seed = hex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60");
        let public = hex("d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a");
        let signer = Ed25519Signer::from_seed(&seed.try_into().unwrap()).unwrap();
        assert_eq!(signer.public_key().as_slice(), public);
        assert_eq!(signer.sign(b"")[..8], hex("e5564300c360ac72"));
    }
}
