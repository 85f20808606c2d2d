//! Whether a signature was made with a node's key: Ed25519 (RFC 8032).

use aws_lc_rs::signature::{ED25519, UnparsedPublicKey};

/// Whether `signature` is the owner's of `public_key` over `message`.
pub fn verify(public_key: &[u8; 32], message: &[u8], signature: &[u8; 64]) -> bool {
    UnparsedPublicKey::new(&ED25519, public_key).verify(message, signature).is_ok()
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};

    use super::*;

    #[test]
    fn only_the_owner_s_signature_over_these_bytes_verifies() {
        let pair = Ed25519KeyPair::from_seed_unchecked(&[7; 32]).unwrap();
        let key: [u8; 32] = pair.public_key().as_ref().try_into().unwrap();
        let signature: [u8; 64] = pair.sign(b"word").as_ref().try_into().unwrap();
        assert!(verify(&key, b"word", &signature));
        assert!(!verify(&key, b"ward", &signature));
        assert!(!verify(&[0; 32], b"word", &signature));
        assert!(!verify(&key, b"word", &[0; 64]));
    }
}
