//! The one door to the ciphers: AES-128-GCM to seal and open, HKDF-SHA-256 to derive.
//!
//! aws-lc-rs picks the machine's fastest code at run time. Out of place is as fast as in place, so
//! a packet is sealed from where it was read straight to where it is sent from.

use aws_lc_rs::aead::{AES_128_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::hkdf;

use crate::wire::TAG;

/// Bytes of a key.
pub const KEY: usize = 16;
/// Bytes of a nonce.
pub const NONCE: usize = 12;

/// What was opened is not what was sealed, or not with this key and nonce.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the seal does not fit")]
pub struct BadTag;

fn less_safe(key: &[u8; KEY]) -> LessSafeKey {
    LessSafeKey::new(UnboundKey::new(&AES_128_GCM, key).expect("the key has the cipher's length"))
}

/// A key that seals. The caller keeps nonces unique ([`keys`](super::keys) does).
#[derive(Debug)]
pub struct SealKey(LessSafeKey);

impl SealKey {
    /// The key with these bytes.
    pub fn new(key: &[u8; KEY]) -> Self {
        Self(less_safe(key))
    }

    /// Encrypts `text` where it lies and binds `aad` to it.
    pub fn seal_in_place(&self, nonce: [u8; NONCE], aad: &[u8], text: &mut [u8]) -> [u8; TAG] {
        let nonce = Nonce::assume_unique_for_key(nonce);
        let tag = self
            .0
            .seal_in_place_separate_tag(nonce, Aad::from(aad), text)
            .expect("a frame is far shorter than the cipher's limit");
        let mut out = [0; TAG];
        out.copy_from_slice(tag.as_ref());
        out
    }

    /// Encrypts `plain` into `out`, which has the same length, and binds `aad` to it.
    pub fn seal_into(
        &self,
        nonce: [u8; NONCE],
        aad: &[u8],
        plain: &[u8],
        out: &mut [u8],
    ) -> [u8; TAG] {
        assert_eq!(plain.len(), out.len(), "the caller cuts the room to the packet's length");
        let nonce = Nonce::assume_unique_for_key(nonce);
        let mut tag = [0; TAG];
        self.0
            .seal_out_of_place_scatter(nonce, Aad::from(aad), plain, out, &[], &mut tag)
            .expect("a frame is far shorter than the cipher's limit");
        tag
    }
}

/// A key that opens.
#[derive(Debug)]
pub struct OpenKey(LessSafeKey);

impl OpenKey {
    /// The key with these bytes.
    pub fn new(key: &[u8; KEY]) -> Self {
        Self(less_safe(key))
    }

    /// Checks `tag` and decrypts `text` where it lies.
    ///
    /// # Errors
    /// [`BadTag`]; `text` then holds nothing of use.
    pub fn open_in_place(
        &self,
        nonce: [u8; NONCE],
        aad: &[u8],
        text: &mut [u8],
        tag: &[u8; TAG],
    ) -> Result<(), BadTag> {
        let nonce = Nonce::assume_unique_for_key(nonce);
        self.0
            .open_in_place_separate_tag(nonce, Aad::from(aad), tag, text)
            .map(|_| ())
            .map_err(|_| BadTag)
    }
}

struct Length(usize);

impl hkdf::KeyType for Length {
    fn len(&self) -> usize {
        self.0
    }
}

/// HKDF-Expand with SHA-256: `N` bytes (at most 255 × 32) from a secret for one purpose.
///
/// Source: RFC 5869. The secret is uniform (a TLS exporter's output), so Extract is not needed.
pub(super) fn expand<const N: usize>(secret: &[u8; 32], info: &[&[u8]]) -> [u8; N] {
    let mut out = [0; N];
    hkdf::Prk::new_less_safe(hkdf::HKDF_SHA256, secret)
        .expand(info, Length(N))
        .and_then(|okm| okm.fill(&mut out))
        .expect("the length lies within HKDF's limit");
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn in_place_and_out_of_place_agree_and_forgery_is_refused() {
        let (seal, open) = (SealKey::new(&[7; KEY]), OpenKey::new(&[7; KEY]));
        let plain = *b"thirteen hops";
        let mut text = plain;
        let tag = seal.seal_in_place([1; NONCE], b"aad", &mut text);
        let mut other = [0; 13];
        assert_eq!(seal.seal_into([1; NONCE], b"aad", &plain, &mut other), tag);
        assert_eq!(other, text);
        let mut back = text;
        assert_eq!(open.open_in_place([1; NONCE], b"aad", &mut back, &tag), Ok(()));
        assert_eq!(back, plain);
        let refused = |nonce: u8, aad: &[u8], flip: usize| {
            let mut text = text;
            text[flip % 13] ^= u8::from(flip < 13);
            open.open_in_place([nonce; NONCE], aad, &mut text, &tag) == Err(BadTag)
        };
        assert!(refused(2, b"aad", 13) && refused(1, b"aae", 13) && refused(1, b"aad", 0));
        assert_eq!(open.open_in_place([1; NONCE], b"aad", &mut text, &tag), Ok(()));
        assert_eq!(text, plain);
    }

    #[test]
    fn the_cipher_is_the_one_everybody_calls_aes_128_gcm() {
        // Test case 2 of the GCM specification: zero key, zero nonce, one zero block.
        let mut text = [0; 16];
        let tag = SealKey::new(&[0; KEY]).seal_in_place([0; NONCE], &[], &mut text);
        assert_eq!(u128::from_be_bytes(text), 0x0388_dace_60b6_a392_f328_c2b9_71b2_fe78);
        assert_eq!(u128::from_be_bytes(tag), 0xab6e_47d4_2cec_13bd_f53a_67b2_1257_bddf);
    }
}
