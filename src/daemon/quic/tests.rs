//! Two nodes, a network of queues between them, real certificates.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use tempfile::TempDir;
use tokio::sync::mpsc;

use super::Quic;
use super::socket::{INBOUND, QueueSocket, QuicDatagram};
use crate::config::NodeConfig;
use crate::control::{ConnectionId, ControlInput, ControlOutput, MAX_MESSAGE};
use crate::daemon::clock::unix_seconds;
use crate::daemon::pki::ca::{self, Request};
use crate::daemon::pki::identity::Identity;
use crate::daemon::pki::verify::Anchors;
use crate::id::NodeId;
use crate::session::keys::Secret;
use crate::session::trust::Certified;

/// Delivers by address at once and looks at every first byte.
#[derive(Clone, Default)]
struct Network {
    inboxes: Arc<Mutex<BTreeMap<SocketAddr, mpsc::Sender<QuicDatagram>>>>,
    /// Where those are now that were attached elsewhere.
    elsewhere: Arc<Mutex<BTreeMap<SocketAddr, SocketAddr>>>,
    carried: Arc<AtomicU64>,
    misread: Arc<AtomicU64>,
}

impl Network {
    /// Whoever is at `from` is at `to` from now on; nobody tells.
    fn carry_off(&self, from: SocketAddr, to: SocketAddr) {
        let mut inboxes = self.inboxes.lock().unwrap();
        let inbox = inboxes.remove(&from).unwrap();
        inboxes.insert(to, inbox);
        self.elsewhere.lock().unwrap().insert(from, to);
    }

    fn attach(&self, at: SocketAddr) -> Arc<QueueSocket> {
        let (tx, rx) = mpsc::channel(INBOUND);
        self.inboxes.lock().unwrap().insert(at, tx);
        let network = self.clone();
        let transmit = move |mut datagram: QuicDatagram| {
            let first = datagram.payload[0];
            network.carried.fetch_add(1, Ordering::Relaxed);
            if first & 0x40 == 0 || (0x10..=0x1f).contains(&first) {
                network.misread.fetch_add(1, Ordering::Relaxed);
            }
            let inbox = network.inboxes.lock().unwrap().get(&datagram.endpoint).cloned();
            let elsewhere = network.elsewhere.lock().unwrap().get(&at).copied();
            datagram.endpoint = elsewhere.unwrap_or(at);
            if let Some(inbox) = inbox {
                let _ = inbox.try_send(datagram);
            }
        };
        QueueSocket::new(rx, Box::new(transmit), at.port())
    }
}

/// A CA in a directory of its own.
struct Operator {
    dir: TempDir,
}

impl Operator {
    fn new() -> Self {
        Self::named("operator")
    }

    fn named(name: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        ca::create(&dir.path().join("ca"), name, 3650, unix_seconds() - 100 * DAY).unwrap();
        Self { dir }
    }

    /// Issues as if it were `age` seconds ago, for 30 days.
    fn issue(&self, name: &str, age: u64) -> Identity {
        let out = self.dir.path().join(name);
        let address = IpAddr::from([10, 77, 0, name.as_bytes()[0]]);
        let request = Request {
            name: name.to_owned(),
            addresses: vec![address],
            days: 30,
            ..Request::default()
        };
        let now = unix_seconds() - age;
        let issued = ca::issue(&self.dir.path().join("ca"), &out, &request, now).unwrap();
        let node = NodeConfig {
            name: name.to_owned(),
            certificate: issued.certificate,
            key: issued.key,
            ca: vec![issued.ca],
            crl: vec![],
            state: out,
        };
        Identity::load(&node, &self.anchors(), now).unwrap()
    }

    fn anchors(&self) -> Arc<Anchors> {
        Arc::new(Anchors::load(&[self.dir.path().join("ca/ca.crt")]).unwrap())
    }
}

const DAY: u64 = 86_400;

struct Node {
    quic: Quic,
    inputs: mpsc::Receiver<ControlInput>,
    at: SocketAddr,
}

impl Node {
    /// A node with these papers that trusts this operator.
    fn start(network: &Network, last: u8, issued: &Identity, operator: &Operator) -> Self {
        Self::with_patience(network, last, issued, operator, super::HANDSHAKE)
    }

    fn with_patience(
        network: &Network,
        last: u8,
        issued: &Identity,
        operator: &Operator,
        patience: Duration,
    ) -> Self {
        let at = SocketAddr::from(([192, 0, 2, last], 4600));
        let anchors = operator.anchors();
        let socket = network.attach(at);
        let (quic, inputs) = Quic::with_patience(issued, &anchors, socket, patience).unwrap();
        Self { quic, inputs, at }
    }

    fn dial(&self, to: &Node, name: &str, node: Option<NodeId>) {
        let (endpoint, name) = (to.at, name.to_owned());
        self.quic.carry_out(ControlOutput::Dial { endpoint, name, node });
    }

    async fn next(&mut self) -> ControlInput {
        tokio::time::timeout(Duration::from_secs(20), self.inputs.recv())
            .await
            .expect("something happens in time")
            .expect("the endpoint lives")
    }

    async fn connected(&mut self) -> (ConnectionId, Certified, Secret, SocketAddr) {
        match self.next().await {
            ControlInput::Connected { connection, peer, secret, endpoint, .. } => {
                (connection, peer, secret, endpoint)
            }
            other => panic!("expected a stream, got {other:?}"),
        }
    }

    async fn dial_failed(&mut self) -> String {
        match self.next().await {
            ControlInput::DialFailed { why, .. } => why,
            other => panic!("expected a refusal, got {other:?}"),
        }
    }
}

fn run(test: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test);
}

#[test]
fn two_nodes_of_one_operator_share_a_secret_and_talk() {
    run(async {
        let operator = Operator::new();
        let network = Network::default();
        let mut a = Node::start(&network, 1, &operator.issue("alpha", 0), &operator);
        let mut b = Node::start(&network, 2, &operator.issue("bravo", 0), &operator);
        a.dial(&b, "bravo", NodeId::new(2));
        let (to_b, peer_b, secret_a, endpoint_b) = a.connected().await;
        let (to_a, peer_a, secret_b, endpoint_a) = b.connected().await;
        assert_eq!((peer_a.name.as_str(), peer_b.name.as_str()), ("alpha", "bravo"));
        assert_eq!((endpoint_a, endpoint_b), (a.at, b.at));
        assert!(secret_a == secret_b, "both sides export the same secret");

        let long: Vec<u8> = (0..MAX_MESSAGE).map(|i| (i % 253) as u8).collect();
        for bytes in [vec![1], long.clone(), vec![2, 3]] {
            a.quic.carry_out(ControlOutput::Send { connection: to_b, bytes: bytes.into() });
        }
        b.quic.carry_out(ControlOutput::Send {
            connection: to_a,
            bytes: Bytes::from_static(b"back"),
        });
        for expected in [vec![1], long, vec![2, 3]] {
            let ControlInput::Message { connection, bytes } = b.next().await else { panic!() };
            assert!(connection == to_a && bytes == expected);
        }
        let ControlInput::Message { bytes, .. } = a.next().await else { panic!() };
        assert_eq!(bytes, b"back"[..]);

        // A second stream between the same two has a secret of its own.
        a.dial(&b, "bravo", None);
        let (again, _, secret_2, _) = a.connected().await;
        assert!(again != to_b && secret_2 != secret_a);
        b.connected().await;

        a.quic.carry_out(ControlOutput::Close { connection: to_b, why: "enough" });
        let ControlInput::Closed { connection, .. } = a.next().await else { panic!() };
        assert_eq!(connection, to_b);
        let ControlInput::Closed { connection, why } = b.next().await else { panic!() };
        assert_eq!(connection, to_a);
        assert!(why.contains("enough"), "{why}");
    });
}

#[test]
fn a_stream_follows_its_peer_and_another_may_come_to_the_place_it_left() {
    run(async {
        let operator = Operator::new();
        let network = Network::default();
        let mut a = Node::start(&network, 1, &operator.issue("alpha", 0), &operator);
        let mut b = Node::start(&network, 2, &operator.issue("bravo", 0), &operator);
        // Bravo dials: alpha is the server, which would not follow by itself.
        b.dial(&a, "alpha", None);
        let (to_b, .., first) = a.connected().await;
        let (to_a, ..) = b.connected().await;
        let place = SocketAddr::from(([198, 51, 100, 7], 999));
        network.carry_off(b.at, place);
        // What bravo says is heard at once; what is said to it, once it is known where it is.
        b.quic.carry_out(ControlOutput::Send {
            connection: to_a,
            bytes: Bytes::from_static(b"here"),
        });
        let ControlInput::Message { bytes, .. } = a.next().await else { panic!() };
        assert_eq!(bytes, b"here"[..]);
        a.quic.carry_out(ControlOutput::Moved { connection: to_b, endpoint: place });
        a.quic.carry_out(ControlOutput::Send {
            connection: to_b,
            bytes: Bytes::from_static(b"there"),
        });
        let ControlInput::Message { bytes, .. } = b.next().await else { panic!() };
        assert_eq!(bytes, b"there"[..]);

        // Charlie comes to where bravo was, and both are served.
        network.elsewhere.lock().unwrap().clear();
        let mut c = Node::start(&network, 2, &operator.issue("charlie", 0), &operator);
        assert_eq!(c.at, first);
        c.dial(&a, "alpha", None);
        let (to_c, peer, _, endpoint) = a.connected().await;
        assert_eq!((peer.name.as_str(), endpoint), ("charlie", first));
        c.connected().await;
        a.quic.carry_out(ControlOutput::Send {
            connection: to_c,
            bytes: Bytes::from_static(b"charlie"),
        });
        let ControlInput::Message { bytes, .. } = c.next().await else { panic!() };
        assert_eq!(bytes, b"charlie"[..]);
        a.quic.carry_out(ControlOutput::Send {
            connection: to_b,
            bytes: Bytes::from_static(b"bravo"),
        });
        let ControlInput::Message { bytes, .. } = b.next().await else { panic!() };
        assert_eq!(bytes, b"bravo"[..]);
    });
}

#[test]
fn a_foreign_ca_is_refused_on_both_sides() {
    // Another name, and one that pretends to be ours.
    for name in ["stranger", "operator"] {
        run(foreign_ca(name));
    }
}

async fn foreign_ca(name: &str) {
    {
        let (ours, theirs) = (Operator::new(), Operator::named(name));
        let network = Network::default();
        let mut a = Node::start(&network, 1, &ours.issue("alpha", 0), &ours);
        let mut b = Node::start(&network, 2, &theirs.issue("bravo", 0), &theirs);
        // The dialler refuses the certificate it is shown.
        a.dial(&b, "bravo", None);
        let why = a.dial_failed().await;
        assert!(why.contains("signed by no CA that is trusted here"), "{why}");

        // One that trusts everybody is refused by the one it dials.
        let papers = theirs.issue("charlie", 0);
        let mut c = Node::start(&network, 3, &papers, &ours);
        c.dial(&a, "alpha", None);
        let why = c.dial_failed().await;
        assert!(
            why.contains("refused our certificate: ") && why.contains("signed by no CA"),
            "{why}"
        );
        assert_eq!(a.quic.refused(), 1);
        assert!(a.inputs.try_recv().is_err() && b.inputs.try_recv().is_err(), "nothing came of it");
    }
}

#[test]
fn an_expired_certificate_is_refused_on_both_sides() {
    run(async {
        let operator = Operator::new();
        let network = Network::default();
        let mut a = Node::start(&network, 1, &operator.issue("alpha", 0), &operator);
        let mut b = Node::start(&network, 2, &operator.issue("bravo", 60 * DAY), &operator);
        a.dial(&b, "bravo", None);
        let why = a.dial_failed().await;
        assert!(why.contains("expired"), "{why}");
        b.dial(&a, "alpha", None);
        let why = b.dial_failed().await;
        assert!(why.contains("refused our certificate: ") && why.contains("expired on"), "{why}");
        assert_eq!((a.quic.refused(), b.quic.refused()), (1, 1));
        assert!(a.inputs.try_recv().is_err() && b.inputs.try_recv().is_err());
    });
}

#[test]
fn a_wrong_name_or_number_is_refused_and_the_other_side_learns_why() {
    run(async {
        let operator = Operator::new();
        let network = Network::default();
        let (alpha, bravo) = (operator.issue("alpha", 0), operator.issue("bravo", 0));
        let mut a = Node::start(&network, 1, &alpha, &operator);
        let mut b = Node::start(&network, 2, &bravo, &operator);
        a.dial(&b, "charlie", None);
        let why = a.dial_failed().await;
        assert!(why.contains("charlie") && why.contains("bravo"), "{why}");
        a.dial(&b, "bravo", NodeId::new(9));
        let why = a.dial_failed().await;
        assert!(why.contains("n9"), "{why}");
        // Its own papers on another machine: each refuses to talk to itself.
        let mut twin = Node::start(&network, 3, &alpha, &operator);
        twin.dial(&a, "alpha", None);
        let why = twin.dial_failed().await;
        assert!(why.contains("own number"), "{why}");
        assert!(a.inputs.try_recv().is_err() && b.inputs.try_recv().is_err());
        // The refused side counts too, as soon as the refusal has reached it.
        a.dial(&b, "bravo", None);
        a.connected().await;
        b.connected().await;
        assert_eq!(b.quic.refused(), 2);
    });
}

#[test]
fn a_dead_endpoint_answers_a_dial_with_a_failure() {
    run(async {
        let operator = Operator::new();
        let network = Network::default();
        let (papers, patience) = (operator.issue("alpha", 0), Duration::from_millis(200));
        let mut a = Node::with_patience(&network, 1, &papers, &operator, patience);
        let nobody = SocketAddr::from(([192, 0, 2, 99], 4600));
        let name = "bravo".to_owned();
        a.quic.carry_out(ControlOutput::Dial { endpoint: nobody, name, node: None });
        match a.next().await {
            ControlInput::DialFailed { endpoint, why } => {
                assert_eq!((endpoint, why.as_str()), (nobody, "no answer"));
            }
            other => panic!("{other:?}"),
        }
    });
}

#[test]
fn no_quic_datagram_can_be_taken_for_an_overlay_frame() {
    run(async {
        let operator = Operator::new();
        let network = Network::default();
        let mut a = Node::start(&network, 1, &operator.issue("alpha", 0), &operator);
        let mut b = Node::start(&network, 2, &operator.issue("bravo", 0), &operator);
        a.dial(&b, "bravo", None);
        let (to_b, ..) = a.connected().await;
        b.connected().await;
        while network.carried.load(Ordering::Relaxed) < 100_000 {
            for _ in 0..8 {
                let bytes = vec![0x5a; MAX_MESSAGE];
                a.quic.carry_out(ControlOutput::Send { connection: to_b, bytes: bytes.into() });
            }
            for _ in 0..8 {
                assert!(matches!(b.next().await, ControlInput::Message { .. }));
            }
        }
        assert_eq!(network.misread.load(Ordering::Relaxed), 0);
    });
}

#[test]
fn a_restarted_peer_ends_the_old_stream_and_farewells_arrive() {
    run(async {
        let operator = Operator::new();
        let network = Network::default();
        let papers = operator.issue("bravo", 0);
        let mut a = Node::start(&network, 1, &operator.issue("alpha", 0), &operator);
        let b = Node::start(&network, 2, &papers, &operator);
        a.dial(&b, "bravo", None);
        let (to_b, ..) = a.connected().await;
        // Bravo dies without a word; its successor has the same key, and so the same reset tokens.
        let dead = b;
        let b = Node::start(&network, 2, &papers, &operator);
        a.quic.carry_out(ControlOutput::Send { connection: to_b, bytes: vec![0; 2000].into() });
        let ControlInput::Closed { why, .. } = a.next().await else { panic!() };
        assert!(why.contains("restarted"), "{why}");
        drop(dead);

        a.dial(&b, "bravo", None);
        a.connected().await;
        b.quic.close("leaving", Duration::from_secs(2)).await;
        let ControlInput::Closed { why, .. } = a.next().await else { panic!() };
        assert!(why.contains("leaving"), "{why}");
    });
}

#[test]
fn what_a_stream_may_hold_is_bounded() {
    let outbox = super::stream::Outbox::new(100);
    assert!(outbox.push(vec![0; 60].into()));
    assert!(!outbox.push(vec![0; 60].into()), "beyond its limit");
    assert!(outbox.push(vec![0; 40].into()));
}
