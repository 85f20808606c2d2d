//! Whom to dial, where and when, until the mesh is full.
//!
//! One dialler per pair: the side with the lower number dials at once, the other only after
//! [`SECOND_DIALLER`], should the first not reach it (behind a NAT it cannot). A target's endpoints
//! are tried in turn; when all have failed, the next turn comes after a back-off that doubles up to
//! a cap and is moved by chance, so that many nodes do not knock in step. Targets go by name: of a
//! seed nothing else is known, and the certificate must carry that name.
//!
//! A sign that a node lives (its link state changed, it started anew, keys came over the overlay) ends
//! its back-off, as far as `SIGNS` go: whoever sends signs and cannot be reached has us dial a little
//! more often than the back-off's cap does, and no more.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use crate::id::NodeId;
use crate::rng::Dice;
use crate::time::{Deadline, Instant};

/// How long the side with the greater number leaves dialling to the other.
pub const SECOND_DIALLER: Duration = Duration::from_secs(5);
/// The first back-off; shorter than a person's patience, longer than a handshake around the world.
const BACK_OFF: Duration = Duration::from_secs(1);
/// The longest back-off: a node that was away for hours is back within it.
const BACK_OFF_CAP: Duration = Duration::from_secs(30);
/// Where a node is reached over the overlay, a better way is looked for as after so many failures.
const CALM: u32 = 5;
/// Pause between two endpoints of one target.
const NEXT_ENDPOINT: Duration = Duration::from_millis(100);
/// A dial without answer counts as failed: the driver promises one within 10 s.
const GIVE_UP: Duration = Duration::from_secs(15);
/// So many signs of life of one node end its back-off in quick succession, and in the long run one each
/// [`SIGN_PACE`]: a second way to make us dial, half as fast as the cap of the back-off.
const SIGNS: u32 = 4;
const SIGN_PACE: Duration = Duration::from_secs(60);
/// Dials in flight at most: handshakes cost both sides a millisecond of processor each.
const MAX_IN_FLIGHT: usize = 16;
/// Endpoints kept per target: a seed's, a member's, and where it was last reached.
const MAX_ENDPOINTS: usize = 24;

/// A dial to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dial {
    /// Where.
    pub endpoint: SocketAddr,
    /// The name its certificate must carry.
    pub name: String,
    /// The number it must carry, where known.
    pub node: Option<NodeId>,
}

/// One node we may have to dial.
#[derive(Clone, Debug)]
struct Target {
    node: Option<NodeId>,
    seed: bool,
    endpoints: Vec<SocketAddr>,
    wanted: bool,
    /// The endpoint to try next.
    turn: usize,
    /// Turns through all endpoints that failed.
    failures: u32,
    next_at: Instant,
    in_flight: Option<(SocketAddr, Instant)>,
    error: Option<String>,
    /// When all the signs of life that counted would have come at their pace.
    signs_at: Instant,
    /// A sign of life came after the dial in flight began: its end starts a new turn.
    again: bool,
}

/// The dialler of this node.
#[derive(Debug)]
pub struct Dialler {
    own: NodeId,
    dice: Dice,
    targets: BTreeMap<String, Target>,
    /// Endpoints that turned out to be ourselves.
    ourselves: Vec<SocketAddr>,
    /// What [`Dialler::poll_timeout`] found, until something changes.
    due: Cell<Option<Option<Deadline>>>,
}

impl Dialler {
    /// Nobody to dial yet.
    pub fn new(own: NodeId, dice: Dice) -> Self {
        Self { own, dice, targets: BTreeMap::new(), ourselves: Vec::new(), due: Cell::new(None) }
    }

    /// A node known beforehand: dialled at once, since whose turn it is cannot be told without its
    /// number, and kept for ever.
    pub fn add_seed(&mut self, name: &str, endpoints: &[SocketAddr], now: Instant) {
        self.due.set(None);
        self.learn(name, None, endpoints, now);
        if let Some(target) = self.targets.get_mut(name) {
            target.seed = true;
        }
        self.hurry(name, now);
    }

    /// This target is dialled at once, whoever's turn it is.
    pub fn hurry(&mut self, name: &str, now: Instant) {
        self.due.set(None);
        if let Some(target) = self.targets.get_mut(name) {
            target.next_at = now;
        }
    }

    /// This node showed that it lives: what failed may not fail now.
    pub fn on_alive(&mut self, name: &str, now: Instant) {
        let Some(target) = self.targets.get_mut(name).filter(|t| t.wanted && t.failures > 0) else {
            return;
        };
        let room = SIGN_PACE * (SIGNS - 1);
        let soon = now.plus(self.dice.jitter(NEXT_ENDPOINT));
        let waits = target.in_flight.is_some() && !target.again || target.next_at > soon;
        if !waits || target.signs_at.minus(room) > now {
            return;
        }
        self.due.set(None);
        target.signs_at = target.signs_at.max(now).plus(SIGN_PACE);
        if target.in_flight.is_some() {
            target.again = true;
        } else {
            (target.turn, target.next_at) = (0, soon);
        }
    }

    /// A member's number and endpoints. Known endpoints stay, new ones are tried first.
    pub fn learn(
        &mut self,
        name: &str,
        node: Option<NodeId>,
        endpoints: &[SocketAddr],
        now: Instant,
    ) {
        self.due.set(None);
        let first_at = now.plus(self.patience(node));
        let target = self.targets.entry(name.to_owned()).or_insert_with(|| Target {
            node,
            seed: false,
            endpoints: Vec::new(),
            wanted: true,
            turn: 0,
            failures: 0,
            next_at: first_at,
            in_flight: None,
            error: None,
            signs_at: Instant::ZERO,
            again: false,
        });
        target.node = node.or(target.node);
        let known = std::mem::take(&mut target.endpoints);
        let fresh = endpoints.iter().any(|e| !known.contains(e));
        for &endpoint in endpoints.iter().chain(&known) {
            let usable = !endpoint.ip().is_unspecified() && endpoint.port() != 0;
            if usable
                && !target.endpoints.contains(&endpoint)
                && !self.ourselves.contains(&endpoint)
                && target.endpoints.len() < MAX_ENDPOINTS
            {
                target.endpoints.push(endpoint);
            }
        }
        if fresh && target.in_flight.is_none() && target.failures > 0 {
            target.turn = 0;
            target.next_at = target.next_at.min(now.plus(NEXT_ENDPOINT));
        }
    }

    /// How long dialling is left to the other side.
    fn patience(&self, node: Option<NodeId>) -> Duration {
        match node {
            Some(node) if node < self.own => SECOND_DIALLER,
            _ => Duration::ZERO,
        }
    }

    /// Whether a stream to this node is wanted: it is not while one is there and alive. Asking for
    /// what is already so changes nothing.
    pub fn want(&mut self, name: &str, wanted: bool, now: Instant) {
        self.due.set(None);
        let Some(node) = self.targets.get(name).map(|t| t.node) else { return };
        let patience = self.patience(node);
        let Some(target) = self.targets.get_mut(name) else { return };
        if target.wanted == wanted {
            return;
        }
        target.wanted = wanted;
        target.failures = 0;
        target.turn = 0;
        target.in_flight = None;
        target.again = false;
        if wanted {
            // A tenth more or less, so that a mesh that lost a node does not knock in step.
            target.next_at = now.plus(patience).plus(self.dice.jitter(NEXT_ENDPOINT));
        } else {
            target.error = None;
        }
    }

    /// No seed any more: kept only while it is a member.
    pub fn drop_seed(&mut self, name: &str) {
        self.due.set(None);
        if let Some(target) = self.targets.get_mut(name) {
            target.seed = false;
            if target.node.is_none() {
                self.targets.remove(name);
            }
        }
    }

    /// Where this node is reached when its other endpoints have all failed: tried after them, and at
    /// once where it is new.
    pub fn also(&mut self, name: &str, endpoint: SocketAddr, now: Instant) {
        self.due.set(None);
        let Some(target) = self.targets.get_mut(name) else { return };
        let tried = target.failures > 0 || target.endpoints.is_empty();
        if tried && !target.endpoints.contains(&endpoint) {
            target.endpoints.truncate(MAX_ENDPOINTS - 1);
            target.endpoints.push(endpoint);
            if target.in_flight.is_none() {
                target.turn = target.endpoints.len() - 1;
                target.next_at = now;
            }
        }
    }

    /// This endpoint leads there no more, or is of no use while there is a stream over it.
    pub fn without(&mut self, name: &str, endpoint: SocketAddr, now: Instant) {
        self.due.set(None);
        let Some(target) = self.targets.get_mut(name) else { return };
        target.endpoints.retain(|&e| e != endpoint);
        target.turn = 0;
        target.in_flight = None;
        // The others failed a moment ago.
        target.failures = target.failures.max(CALM);
        let span = BACK_OFF.saturating_mul(1 << CALM).min(BACK_OFF_CAP);
        target.next_at = now.plus(self.dice.jitter(span));
    }

    /// Whether all endpoints of this node have failed since it was wanted, or there are none.
    pub fn is_out_of_reach(&self, name: &str) -> bool {
        let target = self.targets.get(name).filter(|t| t.wanted);
        target.is_some_and(|t| t.failures > 0 || t.endpoints.is_empty())
    }

    /// The member is forgotten; a seed is not.
    pub fn forget(&mut self, name: &str) {
        self.due.set(None);
        if self.targets.get(name).is_some_and(|t| !t.seed) {
            self.targets.remove(name);
        }
    }

    /// This endpoint is our own: never dialled again.
    pub fn on_ourselves(&mut self, endpoint: SocketAddr) {
        self.due.set(None);
        if self.ourselves.len() < MAX_ENDPOINTS {
            self.ourselves.push(endpoint);
        }
        for target in self.targets.values_mut() {
            target.endpoints.retain(|&e| e != endpoint);
            target.turn = 0;
            if target.in_flight.is_some_and(|(at, _)| at == endpoint) {
                target.in_flight = None;
            }
        }
    }

    /// A dial came to nothing.
    pub fn on_failed(&mut self, endpoint: SocketAddr, why: &str, now: Instant) {
        self.due.set(None);
        let failed = self.targets.values_mut();
        for target in failed.filter(|t| t.in_flight.is_some_and(|(at, _)| at == endpoint)) {
            target.error = Some(format!("{endpoint}: {why}"));
            Self::fail(target, &mut self.dice, now);
        }
    }

    /// A stream to this node was refused, by us or by it, before it came to anything: trying its
    /// other endpoints at once would change nothing.
    pub fn on_denied(&mut self, name: &str, why: &str, now: Instant) {
        self.due.set(None);
        if let Some(target) = self.targets.get_mut(name).filter(|t| t.wanted) {
            target.error = Some(why.to_owned());
            target.turn = target.endpoints.len();
            Self::fail(target, &mut self.dice, now);
        }
    }

    fn fail(target: &mut Target, dice: &mut Dice, now: Instant) {
        target.in_flight = None;
        target.turn += 1;
        if std::mem::take(&mut target.again) {
            target.failures = target.failures.max(1);
            (target.turn, target.next_at) = (0, now.plus(dice.jitter(NEXT_ENDPOINT)));
            return;
        }
        if target.turn < target.endpoints.len() {
            target.next_at = now.plus(dice.jitter(NEXT_ENDPOINT));
            return;
        }
        target.turn = 0;
        let span = BACK_OFF.saturating_mul(1 << target.failures.min(10)).min(BACK_OFF_CAP);
        target.failures = target.failures.saturating_add(1);
        target.next_at = now.plus(dice.jitter(span));
    }

    /// The clock reached `now`: the dials that are due.
    pub fn handle_timeout(&mut self, now: Instant) -> Vec<Dial> {
        self.due.set(None);
        for target in self.targets.values_mut() {
            if let Some((endpoint, since)) = target.in_flight
                && now.since(since) >= GIVE_UP
            {
                target.error = Some(format!("{endpoint}: no answer"));
                Self::fail(target, &mut self.dice, now);
            }
        }
        let mut in_flight = self.targets.values().filter(|t| t.in_flight.is_some()).count();
        let mut dials = Vec::new();
        for (name, target) in &mut self.targets {
            let due = target.wanted && target.in_flight.is_none() && target.next_at <= now;
            if !due || in_flight >= MAX_IN_FLIGHT {
                continue;
            }
            if let Some(&endpoint) = target.endpoints.get(target.turn) {
                target.in_flight = Some((endpoint, now));
                in_flight += 1;
                dials.push(Dial { endpoint, name: name.clone(), node: target.node });
            }
        }
        dials
    }

    /// When the next dial is due, or one in flight is given up.
    pub fn poll_timeout(&self) -> Option<Deadline> {
        if let Some(due) = self.due.get() {
            return due;
        }
        let full = self.targets.values().filter(|t| t.in_flight.is_some()).count() >= MAX_IN_FLIGHT;
        let due = self.targets.values().filter_map(|target| match target.in_flight {
            Some((_, since)) => Some(Deadline { at: since.plus(GIVE_UP), why: "dial unanswered" }),
            None if target.wanted && !target.endpoints.is_empty() && !full => {
                Some(Deadline { at: target.next_at, why: "dial" })
            }
            None => None,
        });
        let due = due.min();
        self.due.set(Some(due));
        due
    }

    /// Whether a dial to this node is in flight.
    pub fn is_dialling(&self, name: &str) -> bool {
        self.targets.get(name).is_some_and(|t| t.in_flight.is_some())
    }

    /// Why the last attempt failed, until one succeeds.
    pub fn error(&self, name: &str) -> Option<&str> {
        self.targets.get(name)?.error.as_deref()
    }

    /// Endpoints this node is known at, in the order they are tried.
    pub fn endpoints(&self, name: &str) -> &[SocketAddr] {
        self.targets.get(name).map_or(&[], |t| &t.endpoints)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Instant {
        Instant::from_micros(ms * 1000)
    }

    fn node(n: u16) -> NodeId {
        NodeId::new(n).unwrap()
    }

    fn endpoint(n: u8) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, n], 4600))
    }

    fn dialler(own: u16) -> Dialler {
        Dialler::new(node(own), Dice::new(1))
    }

    #[test]
    fn the_lower_number_dials_at_once_and_the_other_after_five_seconds() {
        let mut d = dialler(5);
        d.learn("nine", Some(node(9)), &[endpoint(9)], at(0));
        d.learn("two", Some(node(2)), &[endpoint(2)], at(0));
        d.add_seed("seed", &[endpoint(1)], at(0));
        let names = |dials: Vec<Dial>| dials.into_iter().map(|d| d.name).collect::<Vec<_>>();
        assert_eq!(names(d.handle_timeout(at(0))), ["nine", "seed"]);
        assert_eq!(names(d.handle_timeout(at(4999))), [""; 0]);
        assert_eq!(names(d.handle_timeout(at(5000))), ["two"]);
    }

    #[test]
    fn endpoints_are_tried_in_turn_and_then_the_back_off_grows_to_its_cap() {
        let mut d = dialler(1);
        d.learn("two", Some(node(2)), &[endpoint(2), endpoint(3)], at(0));
        let mut now = at(0);
        let mut tried = Vec::new();
        let mut waits = Vec::new();
        for _ in 0..20 {
            let [dial] = d.handle_timeout(now).try_into().unwrap();
            tried.push(dial.endpoint);
            d.on_failed(dial.endpoint, "refused", now);
            let next = d.poll_timeout().unwrap().at;
            waits.push(next.since(now));
            now = next;
        }
        assert_eq!(tried[..4], [endpoint(2), endpoint(3), endpoint(2), endpoint(3)]);
        assert!(waits[0] < Duration::from_millis(200) && waits[1] > Duration::from_millis(800));
        assert!(waits[3] > waits[1] && waits.iter().all(|w| *w <= BACK_OFF_CAP * 11 / 10));
        assert!(waits[19] > BACK_OFF_CAP * 8 / 10);
        assert_eq!(d.error("two"), Some("192.0.2.3:4600: refused"));
    }

    #[test]
    fn a_wanted_stream_is_dialled_until_it_is_there_and_again_when_it_is_lost() {
        let mut d = dialler(1);
        d.learn("two", Some(node(2)), &[endpoint(2)], at(0));
        assert_eq!(d.handle_timeout(at(0)).len(), 1);
        assert!(d.is_dialling("two"));
        d.want("two", false, at(10));
        assert_eq!((d.handle_timeout(at(60_000)).len(), d.poll_timeout()), (0, None));
        d.want("two", true, at(60_000));
        d.want("two", true, at(60_050));
        assert_eq!(d.handle_timeout(at(60_200)).len(), 1);
    }

    #[test]
    fn an_unanswered_dial_is_given_up_and_our_own_endpoint_never_dialled_again() {
        let mut d = dialler(1);
        d.add_seed("seed", &[endpoint(1), endpoint(2)], at(0));
        assert_eq!(d.handle_timeout(at(0))[0].endpoint, endpoint(1));
        d.on_ourselves(endpoint(1));
        assert_eq!(d.handle_timeout(at(1))[0].endpoint, endpoint(2));
        assert_eq!(d.handle_timeout(at(15_001)).len(), 0);
        assert_eq!(d.error("seed"), Some("192.0.2.2:4600: no answer"));
        d.learn("seed", None, &[endpoint(1), "0.0.0.0:1".parse().unwrap()], at(16_000));
        assert_eq!(d.endpoints("seed"), [endpoint(2)]);
    }

    /// A dialler whose only target has failed until the back-off is at its cap.
    fn tired() -> (Dialler, Instant) {
        let mut d = dialler(1);
        d.learn("two", Some(node(2)), &[endpoint(2)], at(0));
        let mut now = at(0);
        for _ in 0..10 {
            assert_eq!(d.handle_timeout(now).len(), 1);
            d.on_failed(endpoint(2), "no answer", now);
            now = d.poll_timeout().unwrap().at;
        }
        d.handle_timeout(now);
        d.on_failed(endpoint(2), "no answer", now);
        assert!(d.poll_timeout().unwrap().at > now.plus(BACK_OFF_CAP * 8 / 10));
        (d, now)
    }

    #[test]
    fn a_sign_of_life_ends_the_back_off_also_when_a_dial_is_under_way() {
        let (mut d, now) = tired();
        d.on_alive("two", now);
        let next = d.poll_timeout().unwrap().at;
        assert!(next <= now.plus(Duration::from_millis(200)), "{next}");
        assert_eq!(d.handle_timeout(next).len(), 1);
        d.on_alive("two", next);
        let end = next.plus(Duration::from_secs(9));
        d.on_failed(endpoint(2), "no answer", end);
        assert!(d.poll_timeout().unwrap().at <= end.plus(Duration::from_millis(200)));
        d.on_alive("nobody", end);
    }

    #[test]
    fn a_node_that_only_shows_signs_of_life_is_dialled_little_more_for_them() {
        let (mut d, start) = tired();
        let mut dials = 0;
        for tenth in 0..36_000 {
            let now = start.plus(Duration::from_millis(100 * tenth));
            d.on_alive("two", now);
            for dial in d.handle_timeout(now) {
                dials += 1;
                d.on_failed(dial.endpoint, "refused", now);
            }
        }
        // Of an hour: one each half minute by the cap, one each minute by signs.
        assert!((120..=200).contains(&dials), "{dials}");
    }

    #[test]
    fn a_refused_stream_backs_off_as_a_whole() {
        let mut d = dialler(1);
        d.learn("two", Some(node(2)), &[endpoint(2), endpoint(3)], at(0));
        d.handle_timeout(at(0));
        d.on_denied("two", "number_taken", at(10));
        assert!(d.poll_timeout().unwrap().at >= at(900));
        assert_eq!((d.error("two"), d.is_dialling("two")), (Some("number_taken"), false));
    }

    #[test]
    fn few_dials_are_in_flight_and_the_rest_wait_without_asking_for_the_clock() {
        let mut d = dialler(1);
        for n in 2..60 {
            d.learn(&format!("n{n}"), Some(node(n)), &[endpoint(n as u8)], at(0));
        }
        assert_eq!(d.handle_timeout(at(0)).len(), MAX_IN_FLIGHT);
        assert_eq!(d.poll_timeout().unwrap().at, at(15_000));
        d.on_failed(endpoint(2), "refused", at(1));
        assert_eq!(d.handle_timeout(at(1)).len(), 1);
    }

    #[test]
    fn who_is_no_seed_any_more_is_dialled_only_as_a_member() {
        let mut d = dialler(1);
        d.add_seed("b", &[endpoint(2)], at(0));
        d.add_seed("c", &[endpoint(3)], at(0));
        d.learn("c", Some(node(3)), &[], at(0));
        d.drop_seed("b");
        d.drop_seed("c");
        d.drop_seed("nobody");
        let dialled: Vec<_> = d.handle_timeout(at(0)).into_iter().map(|d| d.name).collect();
        assert_eq!(dialled, ["c"]);
        d.forget("c");
        assert!(d.endpoints("c").is_empty(), "forgotten like any member");
    }
}
