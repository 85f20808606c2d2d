//! Certificates: the operator's CA, what it issues, and the verdict over what peers show.
//!
//! One door to rcgen ([`ca`], [`revoke`]) and one to x509 and webpki ([`verify`]). The core sees only
//! [`Certified`](crate::session::trust::Certified). Wall time comes in as an argument, in seconds of
//! Unix time.

pub mod ca;
pub mod grant;
pub mod identity;
pub mod revoke;
pub mod tls;
pub mod verify;

pub use identity::{Identity, NodeSigner};
pub use verify::{Anchors, WallTrust};

#[cfg(test)]
mod tests;
