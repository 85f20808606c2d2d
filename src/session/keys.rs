//! From a pair's secret to the keys of each purpose, direction, link, lane and epoch.
//!
//! ```text
//! secret₀   = TLS exporter                    secretₙ₊₁ = Expand(secretₙ, "thalweg v1 next")
//! keyₙ      = Expand(secretₙ, "thalweg v1 key" ‖ purpose ‖ from ‖ to ‖ index ‖ lane ‖ n)
//! nonce     = lane ‖ 0 ‖ stream ‖ counter
//! ```
//!
//! Each sender walks its own chain at its own pace: it turns to the next epoch by itself, and the
//! receiver follows on the first frame that authenticates. Counters go on across epochs, so that
//! one replay window serves them all and a nonce is never used twice under any key.

use std::fmt;
use std::time::Duration;

use super::seal::{KEY, NONCE, OpenKey, SealKey, expand};
use crate::id::{NodeId, StreamId};
use crate::time::Instant;

/// A pair's shared secret: the TLS exporter's output, or one ratcheted from it.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret([u8; 32]);

impl Secret {
    /// The secret with these bytes, which must come from the TLS exporter (or a test).
    pub const fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The secret of the epoch after this one. There is no way back.
    #[must_use]
    pub fn next(&self) -> Self {
        Self(expand(&self.0, &[b"thalweg v1 next"]))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// What a key is for. No two scopes share a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Scope {
    purpose: Purpose,
    from: NodeId,
    to: NodeId,
    index: u32,
    lane: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Purpose {
    Hop = 1,
    End = 2,
}

impl Scope {
    /// Frames on one link and lane in one direction, named by the receiver's index.
    pub const fn hop(from: NodeId, to: NodeId, receive_index: u32) -> Self {
        let lane = (receive_index & 0xff) as u8;
        Self { purpose: Purpose::Hop, from, to, index: receive_index, lane }
    }

    /// Packets from one node's lane to another node, whatever the path.
    pub const fn end(from: NodeId, to: NodeId, lane: u8) -> Self {
        Self { purpose: Purpose::End, from, to, index: 0, lane }
    }

    /// The bits of an epoch that frames show: four in the clear header, eight in the end header.
    const fn epoch_mask(self) -> u32 {
        match self.purpose {
            Purpose::Hop => 0x0f,
            Purpose::End => 0xff,
        }
    }

    /// The key's bytes for this epoch, whose secret is given.
    pub fn key(&self, secret: &Secret, epoch: u32) -> [u8; KEY] {
        expand(
            &secret.0,
            &[
                b"thalweg v1 key",
                &[self.purpose as u8],
                &self.from.get().to_be_bytes(),
                &self.to.get().to_be_bytes(),
                &self.index.to_be_bytes(),
                &[self.lane],
                &epoch.to_be_bytes(),
            ],
        )
    }
}

/// The nonce of a frame or packet: `lane ‖ 0 ‖ stream ‖ counter`. Hop frames have stream zero.
pub const fn nonce(lane: u8, stream: StreamId, counter: u64) -> [u8; NONCE] {
    let [s0, s1] = stream.0.to_be_bytes();
    let [a, b, c, d, e, f, g, h] = counter.to_be_bytes();
    [lane, 0, s0, s1, a, b, c, d, e, f, g, h]
}

/// Packets sealed in one epoch before the sender turns: far below AES-GCM's bound for one key
/// (2³² at a forgery advantage of 2⁻⁵⁷ for our lengths).
pub const EPOCH_PACKETS: u64 = 1 << 26;
/// Age of an epoch at which the sender turns.
pub const EPOCH_AGE: Duration = Duration::from_secs(600);
/// How long the receiver still takes the epoch before: the greatest time budget a header can hold
/// (6.6 s) plus reordering.
pub const PREVIOUS_LIFE: Duration = Duration::from_secs(10);
/// Least time between two looks at an epoch beyond the next. An honest peer needs one after an
/// outage; who guesses pays us at most this much work.
pub const FAR_INTERVAL: Duration = Duration::from_millis(100);

/// The sender's end of a scope: the key in force and the secret to turn on.
#[derive(Debug)]
pub struct SealChain {
    scope: Scope,
    secret: Secret,
    epoch: u32,
    key: SealKey,
    sealed: u64,
    since: Instant,
    /// The last epoch the peer has shown to hold; an end scope needs none.
    confirmed: Option<u32>,
}

impl SealChain {
    /// The chain of a scope from the pair's secret of epoch zero.
    pub fn new(secret: &Secret, scope: Scope, now: Instant) -> Self {
        let key = SealKey::new(&scope.key(secret, 0));
        let confirmed = (scope.purpose == Purpose::Hop).then_some(0);
        Self { scope, secret: secret.clone(), epoch: 0, key, sealed: 0, since: now, confirmed }
    }

    /// The key for one more packet and the epoch's bits for its header. Turns the epoch when due.
    ///
    /// A hop turns by age only once the peer has confirmed the epoch before: a link that is dead in
    /// one direction must not run away from a receiver that cannot hear it.
    pub fn next(&mut self, now: Instant) -> (&SealKey, u8) {
        let may = self.confirmed.is_none_or(|confirmed| confirmed == self.epoch);
        let old = may && now.since(self.since) >= EPOCH_AGE;
        if self.sealed >= EPOCH_PACKETS || old {
            self.turn(now);
        }
        self.sealed += 1;
        (&self.key, (self.epoch & self.scope.epoch_mask()) as u8)
    }

    /// The key in force: the one that the last [`SealChain::next`] gave.
    pub fn current(&self) -> &SealKey {
        &self.key
    }

    fn turn(&mut self, now: Instant) {
        self.secret = self.secret.next();
        self.epoch = self.epoch.wrapping_add(1);
        self.key = SealKey::new(&self.scope.key(&self.secret, self.epoch));
        self.sealed = 0;
        self.since = now;
    }

    /// The peer has answered a frame that was sealed no earlier than in the epoch in force.
    pub fn confirm(&mut self, sealed_at: Instant) {
        if sealed_at >= self.since && self.confirmed.is_some() {
            self.confirmed = Some(self.epoch);
        }
    }

    /// The epoch in force.
    pub fn epoch(&self) -> u32 {
        self.epoch
    }
}

/// Which key of an [`OpenChain`] a frame was tried with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// The epoch in force, or the one before it.
    Settled,
    /// The epoch after it: authentic, it comes into force.
    Next,
    /// One further ahead, after an outage: authentic, it comes into force.
    Far,
}

/// The receiver's end of a scope: the epoch in force, the one before for a while, the one after.
#[derive(Debug)]
pub struct OpenChain {
    scope: Scope,
    epoch: u32,
    current: OpenKey,
    previous: Option<(OpenKey, Instant)>,
    next: OpenKey,
    next_secret: Secret,
    far: Option<Far>,
    far_at: Instant,
}

#[derive(Debug)]
struct Far {
    epoch: u32,
    key: OpenKey,
    secret: Secret,
}

impl OpenChain {
    /// The chain of a scope from the pair's secret of epoch zero.
    pub fn new(secret: &Secret, scope: Scope) -> Self {
        let next_secret = secret.next();
        Self {
            scope,
            epoch: 0,
            current: OpenKey::new(&scope.key(secret, 0)),
            previous: None,
            next: OpenKey::new(&scope.key(&next_secret, 1)),
            next_secret,
            far: None,
            far_at: Instant::ZERO,
        }
    }

    /// The key that a header's epoch bits name, if it is to be had now.
    pub fn key(&mut self, bits: u8, now: Instant) -> Option<(&OpenKey, Turn)> {
        let mask = self.scope.epoch_mask();
        let ahead = u32::from(bits).wrapping_sub(self.epoch) & mask;
        if ahead == 0 {
            return Some((&self.current, Turn::Settled));
        }
        if ahead == 1 {
            return Some((&self.next, Turn::Next));
        }
        if ahead == mask
            && let Some((key, until)) = &self.previous
        {
            // Within its life the bits mean the epoch before; no sender is that far ahead.
            return (now < *until).then_some((key, Turn::Settled));
        }
        let epoch = self.epoch.wrapping_add(ahead);
        if self.far.as_ref().is_none_or(|far| far.epoch != epoch) {
            if self.far_at != Instant::ZERO && now.since(self.far_at) < FAR_INTERVAL {
                return None;
            }
            self.far_at = now;
            let mut secret = self.next_secret.clone();
            for _ in 1..ahead {
                secret = secret.next();
            }
            let key = OpenKey::new(&self.scope.key(&secret, epoch));
            self.far = Some(Far { epoch, key, secret });
        }
        self.far.as_ref().map(|far| (&far.key, Turn::Far))
    }

    /// A frame has authenticated with the key that came with this turn.
    pub fn on_authentic(&mut self, turn: Turn, now: Instant) {
        let (epoch, key, secret) = match turn {
            Turn::Settled => return,
            Turn::Next => {
                let secret = self.next_secret.next();
                let epoch = self.epoch.wrapping_add(2);
                let after = OpenKey::new(&self.scope.key(&secret, epoch));
                (self.epoch.wrapping_add(1), std::mem::replace(&mut self.next, after), secret)
            }
            Turn::Far => {
                let Some(far) = self.far.take() else { return };
                let secret = far.secret.next();
                self.next = OpenKey::new(&self.scope.key(&secret, far.epoch.wrapping_add(1)));
                (far.epoch, far.key, secret)
            }
        };
        let adjacent = turn == Turn::Next;
        let old = std::mem::replace(&mut self.current, key);
        self.previous = adjacent.then(|| (old, now.plus(PREVIOUS_LIFE)));
        (self.epoch, self.next_secret, self.far) = (epoch, secret, None);
    }

    /// The epoch in force.
    pub fn epoch(&self) -> u32 {
        self.epoch
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    fn node(n: u16) -> NodeId {
        NodeId::new(n).unwrap()
    }

    fn secret() -> Secret {
        Secret::new(std::array::from_fn(|i| i as u8))
    }

    fn at(s: u64) -> Instant {
        Instant::from_micros(s * 1_000_000)
    }

    fn hop() -> Scope {
        Scope::hop(node(1), node(2), 0x0a0b_0c00)
    }

    /// Seals an empty text and lets the receiver try it.
    fn passes(seal: &mut SealChain, open: &mut OpenChain, now: Instant) -> bool {
        let (key, bits) = seal.next(now);
        let tag = key.seal_in_place([9; NONCE], &[], &mut []);
        let Some((key, turn)) = open.key(bits, now) else { return false };
        let fits = key.open_in_place([9; NONCE], &[], &mut [], &tag).is_ok();
        if fits {
            open.on_authentic(turn, now);
        }
        fits
    }

    #[test]
    fn keys_differ_by_every_part_of_their_scope() {
        let scopes = [
            hop(),
            Scope::hop(node(2), node(1), 0x0a0b_0c00),
            Scope::hop(node(1), node(2), 0x0a0b_0d00),
            Scope::hop(node(1), node(2), 0x0a0b_0c01),
            Scope::hop(node(1), node(3), 0x0a0b_0c00),
            Scope::end(node(1), node(2), 0),
            Scope::end(node(2), node(1), 0),
            Scope::end(node(1), node(2), 1),
        ];
        let keys: BTreeSet<_> =
            scopes.iter().flat_map(|s| (0..3).map(|epoch| s.key(&secret(), epoch))).collect();
        assert_eq!(keys.len(), scopes.len() * 3);
        assert_ne!(hop().key(&secret(), 0), hop().key(&secret().next(), 0));
    }

    #[test]
    fn the_receiver_follows_the_sender_from_epoch_to_epoch() {
        let mut seal = SealChain::new(&secret(), hop(), at(0));
        let mut open = OpenChain::new(&secret(), hop());
        for step in 0..40 {
            let now = at(step * 601);
            assert!(passes(&mut seal, &mut open, now), "epoch {step}");
            seal.confirm(now);
            assert_eq!((seal.epoch(), open.epoch()), (step as u32, step as u32));
        }
    }

    #[test]
    fn the_epoch_before_lives_on_for_a_while_only() {
        let mut seal = SealChain::new(&secret(), hop(), at(0));
        let mut open = OpenChain::new(&secret(), hop());
        let (key, bits) = seal.next(at(1));
        let tag = key.seal_in_place([1; NONCE], &[], &mut []);
        seal.confirm(at(1));
        assert!(passes(&mut seal, &mut open, at(600)));
        assert_eq!(open.epoch(), 1);
        let (key, turn) = open.key(bits, at(609)).expect("still alive");
        assert_eq!(turn, Turn::Settled);
        assert!(key.open_in_place([1; NONCE], &[], &mut [], &tag).is_ok());
        assert!(open.key(bits, at(610)).is_none());
    }

    #[test]
    fn a_hop_whose_peer_is_silent_does_not_turn_by_age() {
        let mut seal = SealChain::new(&secret(), hop(), at(0));
        seal.next(at(700));
        assert_eq!(seal.epoch(), 1);
        seal.next(at(9000));
        assert_eq!(seal.epoch(), 1, "not confirmed");
        seal.confirm(at(600));
        seal.next(at(9000));
        assert_eq!(seal.epoch(), 1, "the answer was to a frame of the epoch before");
        seal.confirm(at(9000));
        seal.next(at(9000));
        assert_eq!(seal.epoch(), 2);
    }

    #[test]
    fn a_receiver_that_missed_many_epochs_catches_up() {
        let scope = Scope::end(node(1), node(2), 0);
        let mut seal = SealChain::new(&secret(), scope, at(0));
        let mut open = OpenChain::new(&secret(), scope);
        for step in 1..=50 {
            seal.next(at(step * 601));
        }
        assert_eq!(seal.epoch(), 50);
        let now = at(50 * 601);
        assert!(passes(&mut seal, &mut open, now));
        assert_eq!(open.epoch(), 50);
        assert!(passes(&mut seal, &mut open, at(51 * 601)));
    }

    #[test]
    fn guessing_epochs_costs_one_derivation_per_interval() {
        let mut open = OpenChain::new(&secret(), hop());
        assert!(open.key(5, at(1)).is_some());
        assert!(open.key(5, at(1)).is_some(), "kept");
        assert!(open.key(6, at(1)).is_none());
        assert!(open.key(6, at(2)).is_some());
        assert_eq!(open.epoch(), 0, "nothing moves without a seal that fits");
    }

    proptest! {
        /// The law of GCM. Whatever the load and the pace of turning: no (key, nonce) pair twice.
        #[test]
        fn no_nonce_is_used_twice_under_a_key(
            steps in prop::collection::vec((0_u8..2, 0_u16..3, 0_u64..400), 1..200),
        ) {
            let mut used = BTreeSet::new();
            let mut now = 0;
            let mut chains = [0, 1].map(|lane| {
                SealChain::new(&secret(), Scope::end(node(1), node(2), lane), at(0))
            });
            let mut counters = [[0_u64; 3]; 2];
            for (lane, stream, wait) in steps {
                now += wait;
                let chain = &mut chains[usize::from(lane)];
                chain.next(at(now));
                let key = chain.scope.key(&chain.secret, chain.epoch);
                let counter = &mut counters[usize::from(lane)][usize::from(stream)];
                prop_assert!(used.insert((key, nonce(lane, StreamId(stream), *counter))));
                *counter += 1;
            }
        }
    }
}
