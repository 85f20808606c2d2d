//! One stream: judging the peer at its start, framing messages on it, ending it with a reason.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use quinn::{Connection, RecvStream, SendStream};
use rustls::pki_types::CertificateDer;
use tokio::sync::{Notify, mpsc};

use super::{MALFORMED, REFUSED, Shared, explain, tls};
use crate::control::{ConnectionId, ControlInput, MAX_MESSAGE};
use crate::id::NodeId;
use crate::session::keys::Secret;
use crate::session::trust::{Certified, Trust as _};

/// A connection whose peer is known and has accepted us.
pub(super) struct Verified {
    pub(super) connection: Connection,
    pub(super) peer: Certified,
    pub(super) certificate: Vec<u8>,
    pub(super) secret: Secret,
    pub(super) send: SendStream,
    pub(super) receive: RecvStream,
}

/// The greeting: a message of no bytes.
const GREETING: [u8; 4] = [0; 4];

/// Judges the peer, tells it so, and waits for it to say the same. `dialled` is the name we dialled
/// and the number it should have, where we know it.
pub(super) async fn verify(
    shared: &Shared,
    connection: Connection,
    dialled: Option<(&str, Option<NodeId>)>,
) -> Result<Verified, String> {
    let (peer, certificate) = match judge(shared, &connection, dialled) {
        Ok(granted) => granted,
        Err(why) => {
            connection.close(REFUSED, format!("certificate refused: {why}").as_bytes());
            return Err(why);
        }
    };
    let secret = export(&connection, shared.me, peer.node)?;
    let ended = |connection: &Connection, error: String| {
        connection.close_reason().map_or(error, |reason| explain(&reason))
    };
    let opened = match dialled {
        Some(_) => connection.open_bi().await,
        None => connection.accept_bi().await,
    };
    let (mut send, mut receive) = opened.map_err(|error| explain(&error))?;
    send.write_all(&GREETING).await.map_err(|e| ended(&connection, e.to_string()))?;
    let mut greeting = GREETING;
    receive.read_exact(&mut greeting).await.map_err(|e| ended(&connection, e.to_string()))?;
    if greeting != GREETING {
        connection.close(MALFORMED, b"no greeting");
        return Err("the stream does not begin with a greeting".to_owned());
    }
    Ok(Verified { connection, peer, certificate, secret, send, receive })
}

/// What the peer's certificate grants, if we accept it. TLS has already checked that the operator's
/// CA signed it, that it is valid now and, where we dialled, that it carries the name.
fn judge(
    shared: &Shared,
    connection: &Connection,
    dialled: Option<(&str, Option<NodeId>)>,
) -> Result<(Certified, Vec<u8>), String> {
    let identity = connection.peer_identity().ok_or("the peer showed no certificate")?;
    let chain = identity
        .downcast::<Vec<CertificateDer<'static>>>()
        .map_err(|_| "the peer's certificate is of another kind")?;
    let certificate = chain.first().ok_or("the peer showed no certificate")?;
    let peer = shared.trust.verify(certificate).map_err(|error| error.to_string())?;
    if peer.node == shared.me {
        return Err(format!("it has our own number, {}", peer.node));
    }
    if let Some((name, node)) = dialled {
        if peer.name != name {
            return Err(format!("it names {:?}, we dialled {name:?}", peer.name));
        }
        if let Some(node) = node
            && node != peer.node
        {
            return Err(format!("it has number {}, we dialled {node}", peer.node));
        }
    }
    Ok((peer, certificate.to_vec()))
}

/// The context of the exported secret: both node numbers, lower first, two bytes each.
pub fn exported_context(a: NodeId, b: NodeId) -> [u8; 4] {
    let (low, high) = (a.min(b).get().to_be_bytes(), a.max(b).get().to_be_bytes());
    [low[0], low[1], high[0], high[1]]
}

fn export(connection: &Connection, me: NodeId, peer: NodeId) -> Result<Secret, String> {
    let mut secret = [0; 32];
    connection
        .export_keying_material(&mut secret, tls::EXPORTER, &exported_context(me, peer))
        .map_err(|_| "no secret could be exported".to_owned())?;
    Ok(Secret::new(secret))
}

/// Reads messages until the stream ends; says why it did.
pub(super) async fn read_all(
    mut stream: RecvStream,
    id: ConnectionId,
    inputs: &mpsc::Sender<ControlInput>,
) -> String {
    loop {
        let mut length = [0; 4];
        if let Err(error) = stream.read_exact(&mut length).await {
            return error.to_string();
        }
        let length = u32::from_be_bytes(length) as usize;
        if length == 0 || length > MAX_MESSAGE {
            return format!("a message of {length} bytes was announced");
        }
        let mut bytes = vec![0; length];
        if let Err(error) = stream.read_exact(&mut bytes).await {
            return error.to_string();
        }
        if inputs.send(ControlInput::Message { connection: id, bytes: bytes.into() }).await.is_err()
        {
            return "the daemon is ending".to_owned();
        }
    }
}

/// Writes what the outbox holds until the stream ends; says why it did.
pub(super) async fn write_all(mut stream: SendStream, outbox: Outbox) -> String {
    loop {
        let bytes = outbox.next().await;
        let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_be_bytes();
        for part in [&length[..], &bytes] {
            if let Err(error) = stream.write_all(part).await {
                return error.to_string();
            }
        }
        outbox.written(bytes.len());
    }
}

/// Messages that wait to be written, limited in bytes. Clones share one queue.
#[derive(Clone)]
pub(super) struct Outbox {
    inner: Arc<Inner>,
}

struct Inner {
    state: Mutex<State>,
    filled: Notify,
    emptied: Notify,
    limit: usize,
}

#[derive(Default)]
struct State {
    queue: VecDeque<Bytes>,
    /// Bytes in the queue or being written.
    held: usize,
}

impl Outbox {
    /// An empty one for at most `limit` bytes.
    pub(super) fn new(limit: usize) -> Self {
        let (filled, emptied) = (Notify::new(), Notify::new());
        Self { inner: Arc::new(Inner { state: Mutex::default(), filled, emptied, limit }) }
    }

    /// Adds a message; `false` where it finds no room.
    pub(super) fn push(&self, bytes: Bytes) -> bool {
        let mut state = self.state();
        if state.held + bytes.len() > self.inner.limit {
            return false;
        }
        state.held += bytes.len();
        state.queue.push_back(bytes);
        self.inner.filled.notify_one();
        true
    }

    /// The next message to write.
    async fn next(&self) -> Bytes {
        loop {
            if let Some(bytes) = self.state().queue.pop_front() {
                return bytes;
            }
            self.inner.filled.notified().await;
        }
    }

    fn written(&self, len: usize) {
        let mut state = self.state();
        state.held = state.held.saturating_sub(len);
        if state.held == 0 {
            self.inner.emptied.notify_one();
        }
    }

    /// Returns when everything pushed so far has been written.
    pub(super) async fn emptied(&self) {
        while self.state().held > 0 {
            self.inner.emptied.notified().await;
        }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.inner.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
