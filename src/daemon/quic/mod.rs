//! QUIC: authenticated streams between nodes, and the secret each pair exports from theirs.
//!
//! One connection carries one bidirectional stream, opened by the dialler. On it both sides send
//! messages: a length of four bytes (big-endian) and that many bytes, at most
//! [`MAX_MESSAGE`]. Each side's first message is empty and means "I have verified
//! you": in TLS 1.3 a dialler is done before the other side has judged its certificate, so it must
//! not take the handshake's end for consent.
//!
//! Who is refused, on either side: a certificate of a foreign CA, one that is expired, one that does
//! not carry the dialled name or number, one that grants nothing, and ourselves.

pub mod socket;
mod stream;
#[cfg(test)]
mod tests;
mod tls;
mod ways;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use quinn::{ClientConfig, Connection, ConnectionError, Endpoint, Incoming, TokioRuntime, VarInt};
use tokio::sync::mpsc;

use crate::control::{ConnectionId, ControlInput, ControlOutput, MAX_MESSAGE};
use crate::daemon::clock::unix_seconds;
use crate::daemon::pki::identity::Identity;
use crate::daemon::pki::verify::{Anchors, WallTrust};
use crate::id::NodeId;

use socket::QueueSocket;
use stream::{Outbox, Verified};

pub use stream::exported_context;

/// Inputs for the node that it has not taken yet. When full, streams wait, and so do their peers.
const INPUTS: usize = 1024;
/// From the first packet to both greetings. A dial must be answered within 10 s.
const HANDSHAKE: Duration = Duration::from_secs(8);
/// Handshakes in work at once, all sources together.
const HANDSHAKES: usize = 64;
/// Beyond this many in work, a source must first prove its address (Retry).
const UNPROVEN: usize = 16;
/// Handshakes in work from one address.
const PER_SOURCE: usize = 8;
/// Bytes a peer may leave unread before we give it up: it has stopped reading.
const UNREAD: usize = 16 * MAX_MESSAGE;

/// QUIC for this node.
pub struct Quic {
    shared: Arc<Shared>,
}

/// What all tasks of the endpoint hold.
struct Shared {
    endpoint: Endpoint,
    socket: Arc<QueueSocket>,
    /// How we dial: with the certificate in force.
    client: Mutex<ClientConfig>,
    trust: WallTrust,
    me: NodeId,
    next: AtomicU64,
    open: Mutex<BTreeMap<ConnectionId, Open>>,
    inputs: mpsc::Sender<ControlInput>,
    /// How long a handshake may take.
    patience: Duration,
    handshakes: AtomicUsize,
    sources: Mutex<BTreeMap<IpAddr, usize>>,
    refused: AtomicU64,
}

/// A stream in use.
struct Open {
    outbox: Outbox,
    connection: Connection,
}

impl Quic {
    /// Starts QUIC on the current tokio runtime. What happens comes out of the receiver.
    ///
    /// # Errors
    /// Credentials that cannot be used, or no tokio runtime.
    pub fn start(
        identity: &Identity,
        anchors: &Arc<Anchors>,
        socket: Arc<QueueSocket>,
    ) -> anyhow::Result<(Self, mpsc::Receiver<ControlInput>)> {
        Self::with_patience(identity, anchors, socket, HANDSHAKE)
    }

    fn with_patience(
        identity: &Identity,
        anchors: &Arc<Anchors>,
        socket: Arc<QueueSocket>,
        patience: Duration,
    ) -> anyhow::Result<(Self, mpsc::Receiver<ControlInput>)> {
        let tls::Setup { endpoint, server, client } = tls::setup(identity, anchors)?;
        let runtime = Arc::new(TokioRuntime);
        let endpoint =
            Endpoint::new_with_abstract_socket(endpoint, Some(server), socket.clone(), runtime)?;
        let (inputs, receiver) = mpsc::channel(INPUTS);
        let shared = Arc::new(Shared {
            endpoint,
            socket,
            client: Mutex::new(client),
            trust: WallTrust::new(anchors.clone(), unix_seconds),
            me: identity.certified.node,
            next: AtomicU64::new(1),
            open: Mutex::default(),
            inputs,
            patience,
            handshakes: AtomicUsize::new(0),
            sources: Mutex::default(),
            refused: AtomicU64::new(0),
        });
        tokio::spawn(accept(shared.clone()));
        Ok((Self { shared }, receiver))
    }

    /// Handshakes from now on show this certificate. Connections that are there go on.
    ///
    /// # Errors
    /// Credentials that cannot be used; the ones before stay in force.
    pub fn renew(&self, identity: &Identity, anchors: &Arc<Anchors>) -> anyhow::Result<()> {
        let tls::Setup { server, client, .. } = tls::setup(identity, anchors)?;
        self.shared.endpoint.set_server_config(Some(server));
        *self.shared.client.lock().unwrap_or_else(PoisonError::into_inner) = client;
        Ok(())
    }

    /// Carries out what the node asks. Never waits.
    pub fn carry_out(&self, output: ControlOutput) {
        match output {
            ControlOutput::Dial { endpoint, name, node } => {
                tokio::spawn(dial(self.shared.clone(), endpoint, name, node));
            }
            ControlOutput::Send { connection, bytes } => self.shared.send(connection, bytes),
            ControlOutput::Moved { connection, endpoint } => {
                if let Some(open) = self.shared.open().get(&connection) {
                    self.shared.socket.on_moved(open.connection.remote_address(), endpoint);
                }
            }
            ControlOutput::Close { connection, why } => {
                if let Some(open) = self.shared.open().get(&connection) {
                    open.connection.close(CLOSED, why.as_bytes());
                }
            }
        }
    }

    /// Handshakes that came to nothing because of who or how many they were.
    pub fn refused(&self) -> u64 {
        self.shared.refused.load(Ordering::Relaxed)
    }

    /// Sends what is waiting, closes everything and gives the farewells up to `patience` to leave.
    pub async fn close(&self, why: &'static str, patience: Duration) {
        let all: Vec<_> =
            self.shared.open().values().map(|o| (o.outbox.clone(), o.connection.clone())).collect();
        let farewell = async {
            for (outbox, connection) in all {
                outbox.emptied().await;
                connection.close(CLOSED, why.as_bytes());
            }
        };
        let _ = tokio::time::timeout(patience, farewell).await;
        self.shared.endpoint.close(CLOSED, why.as_bytes());
        let _ = tokio::time::timeout(patience, self.shared.endpoint.wait_idle()).await;
    }
}

/// The ordinary end; the reason beside it is for the log.
const CLOSED: VarInt = VarInt::from_u32(0);
/// The certificate is valid but grants nothing, or not what was dialled.
const REFUSED: VarInt = VarInt::from_u32(1);
/// What came was no stream of ours.
const MALFORMED: VarInt = VarInt::from_u32(2);

impl Shared {
    fn open(&self) -> MutexGuard<'_, BTreeMap<ConnectionId, Open>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn send(&self, id: ConnectionId, bytes: Bytes) {
        let open = self.open();
        let Some(stream) = open.get(&id) else { return };
        if bytes.is_empty() || bytes.len() > MAX_MESSAGE {
            tracing::warn!(connection = id.0, len = bytes.len(), "message of impossible length");
        } else if !stream.outbox.push(bytes) {
            stream.connection.close(CLOSED, b"the peer does not read");
        }
    }

    /// A stream is over, and with it the connection that quinn knows under this address.
    fn forget(&self, id: ConnectionId, address: SocketAddr) {
        let mut open = self.open();
        open.remove(&id);
        if open.values().all(|other| other.connection.remote_address() != address) {
            self.socket.forget(address);
        }
    }

    /// Runs a verified stream from its first message to its end.
    async fn run(&self, stream: Verified, dialled: bool) {
        let id = ConnectionId(self.next.fetch_add(1, Ordering::Relaxed));
        let Verified { connection, peer, certificate, secret, send, receive } = stream;
        let address = connection.remote_address();
        let endpoint = self.socket.endpoint(address);
        self.socket.keep(address);
        let outbox = Outbox::new(UNREAD);
        let open = Open { outbox: outbox.clone(), connection: connection.clone() };
        self.open().insert(id, open);
        tracing::debug!(peer = %peer.name, %endpoint, dialled, connection = id.0, "stream ready");
        let connected = ControlInput::Connected {
            connection: id,
            peer,
            certificate,
            secret,
            dialled,
            endpoint,
        };
        let mut why = "the daemon is ending".to_owned();
        if self.inputs.send(connected).await.is_ok() {
            why = tokio::select! {
                why = stream::read_all(receive, id, &self.inputs) => why,
                why = stream::write_all(send, outbox) => why,
            };
        }
        // The reason is the connection's if it has ended, else the stream's.
        let why = connection.close_reason().map_or(why, |reason| explain(&reason));
        connection.close(MALFORMED, why.as_bytes());
        self.forget(id, address);
        let _ = self.inputs.send(ControlInput::Closed { connection: id, why }).await;
    }
}

async fn dial(shared: Arc<Shared>, endpoint: SocketAddr, name: String, node: Option<NodeId>) {
    let attempt = async {
        let client = shared.client.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let connecting = shared
            .endpoint
            .connect_with(client, shared.socket.name(endpoint), &name)
            .map_err(|error| format!("cannot dial: {error}"))?;
        let connection = connecting.await.map_err(|error| explain(&error))?;
        stream::verify(&shared, connection, Some((&name, node))).await
    };
    let result = tokio::time::timeout(shared.patience, attempt)
        .await
        .unwrap_or_else(|_| Err("no answer".to_owned()));
    match result {
        Ok(stream) => shared.run(stream, true).await,
        Err(why) => {
            tracing::info!(peer = %name, %endpoint, %why, "dial failed");
            let _ = shared.inputs.send(ControlInput::DialFailed { endpoint, why }).await;
        }
    }
}

async fn accept(shared: Arc<Shared>) {
    while let Some(incoming) = shared.endpoint.accept().await {
        let from = shared.socket.endpoint(incoming.remote_address());
        let Some(place) = Place::take(&shared, from.ip()) else {
            shared.refused.fetch_add(1, Ordering::Relaxed);
            tracing::debug!(%from, "too many handshakes at once; refused");
            incoming.refuse();
            continue;
        };
        if place.rank > UNPROVEN && !incoming.remote_address_validated() && incoming.may_retry() {
            // A Retry is smaller than what asked for it, and holds no state here.
            let _ = incoming.retry();
            continue;
        }
        let shared = shared.clone();
        tokio::spawn(async move {
            let result = tokio::time::timeout(shared.patience, welcome(&shared, incoming)).await;
            drop(place);
            match result.unwrap_or_else(|_| Err("no answer".to_owned())) {
                Ok(stream) => shared.run(stream, false).await,
                Err(why) => {
                    shared.refused.fetch_add(1, Ordering::Relaxed);
                    tracing::warn!(%from, %why, "peer refused");
                }
            }
        });
    }
}

async fn welcome(shared: &Shared, incoming: Incoming) -> Result<Verified, String> {
    let connecting = incoming.accept().map_err(|error| explain(&error))?;
    let connection = connecting.await.map_err(|error| explain(&error))?;
    stream::verify(shared, connection, None).await
}

/// One of the limited places for handshakes, given back when dropped.
struct Place {
    shared: Arc<Shared>,
    source: IpAddr,
    /// How many are taken, with this one.
    rank: usize,
}

impl Place {
    fn take(shared: &Arc<Shared>, source: IpAddr) -> Option<Self> {
        let mut sources = shared.sources.lock().unwrap_or_else(PoisonError::into_inner);
        let rank = shared.handshakes.load(Ordering::Relaxed) + 1;
        let own = sources.get(&source).copied().unwrap_or(0);
        if rank > HANDSHAKES || own >= PER_SOURCE {
            return None;
        }
        sources.insert(source, own + 1);
        shared.handshakes.store(rank, Ordering::Relaxed);
        Some(Self { shared: shared.clone(), source, rank })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut sources = self.shared.sources.lock().unwrap_or_else(PoisonError::into_inner);
        self.shared.handshakes.fetch_sub(1, Ordering::Relaxed);
        if let Some(own) = sources.get_mut(&self.source) {
            *own -= 1;
            if *own == 0 {
                sources.remove(&self.source);
            }
        }
    }
}

/// The verdict's own words, where rustls has wrapped them in its debugging form.
fn plain(reason: &str) -> String {
    match reason.split_once("TrustError(\"") {
        Some((_, words)) => words.trim_end_matches([')', '"']).replace("\\\"", "\""),
        None => reason.to_owned(),
    }
}

/// Why a connection ended, in words for an operator. Numbers are TLS alerts (RFC 8446 §6).
fn explain(error: &ConnectionError) -> String {
    match error {
        // What we found wrong with the other side.
        ConnectionError::TransportError(error) => plain(&error.reason),
        // What the other side found wrong with us.
        ConnectionError::ConnectionClosed(close) => {
            let code = u64::from(close.error_code);
            let said = plain(&String::from_utf8_lossy(&close.reason));
            match code.checked_sub(0x100).filter(|&alert| alert < 0x100) {
                Some(42 | 43 | 46) => format!("the peer refused our certificate: {said}"),
                Some(44) => "the peer refused our certificate: revoked".to_owned(),
                Some(45) => "the peer refused our certificate: expired".to_owned(),
                Some(48 | 51) => {
                    "the peer refused our certificate: it does not know our CA".to_owned()
                }
                Some(116) => "the peer wants a certificate".to_owned(),
                Some(120) => "the peer does not speak thalweg/1".to_owned(),
                Some(alert) => format!("the peer ended the handshake (alert {alert}): {said}"),
                None => format!("the peer ended the connection: {said}"),
            }
        }
        ConnectionError::ApplicationClosed(close) => {
            format!("the peer closed it: {}", String::from_utf8_lossy(&close.reason))
        }
        ConnectionError::Reset => "the peer has restarted".to_owned(),
        ConnectionError::LocallyClosed => "closed here".to_owned(),
        other => other.to_string(),
    }
}
