//! From a pair's secret to the keys of each purpose, direction, link, lane and epoch.

use std::fmt;

/// A pair's shared secret: the TLS exporter's output, or one ratcheted from it.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret([u8; 32]);

impl Secret {
    /// The secret with these bytes, which must come from the TLS exporter (or a test).
    pub const fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}
