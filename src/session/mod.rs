//! Sessions between two nodes: who the other is, and the keys both share.

pub mod keys;
pub mod sign;
<<<<<<< HEAD
#[cfg(test)]
pub(crate) mod toy;
=======
>>>>>>> 47b272e (session: ed25519 signatures beside the aead)
pub mod trust;
