//! What the socket has learnt of single destinations: which cannot take GSO, and where datagrams
//! were too big.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use crate::time::Instant;

/// A destination whose path cannot take GSO is asked again after this.
pub(super) const GSO_RETRY: Duration = Duration::from_secs(60);
/// Destinations remembered, of each kind; beyond it, the memory starts anew.
const REMEMBERED: usize = 1024;

/// Per destination, what went wrong there.
#[derive(Debug, Default)]
pub(super) struct Paths {
    /// Destinations that refused GSO, and until when they are spared it.
    plain: BTreeMap<SocketAddr, Instant>,
    too_big: BTreeMap<SocketAddr, u64>,
}

impl Paths {
    /// Whether runs may go there whole.
    pub(super) fn takes_gso(&mut self, now: Instant, to: SocketAddr) -> bool {
        match self.plain.get(&to) {
            Some(&until) if now < until => false,
            Some(_) => {
                self.plain.remove(&to);
                true
            }
            None => true,
        }
    }

    /// A run was refused whose datagrams, one by one, were not too big.
    pub(super) fn spare_gso(&mut self, now: Instant, to: SocketAddr) {
        if self.plain.len() >= REMEMBERED {
            self.plain.clear();
        }
        self.plain.insert(to, now.plus(GSO_RETRY));
    }

    /// This many datagrams were longer than the way there takes.
    pub(super) fn on_too_big(&mut self, to: SocketAddr, count: u64) {
        if self.too_big.len() >= REMEMBERED && !self.too_big.contains_key(&to) {
            self.too_big.clear();
        }
        *self.too_big.entry(to).or_default() += count;
    }

    /// Datagrams that were too big, by destination.
    pub(super) fn too_big(&self) -> &BTreeMap<SocketAddr, u64> {
        &self.too_big
    }
}
