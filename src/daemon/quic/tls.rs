//! How QUIC is set up over the TLS that nodes speak ([`tls`]).
//!
//! Liveness is the overlay's own affair, so QUIC keeps nothing alive and gives nothing up by itself;
//! its packets stay at 1200 bytes, which every path takes. RFC 9000, 9001.

use std::sync::Arc;
use std::time::Duration;

use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::{
    ClientConfig, ConnectionId, ConnectionIdGenerator, EndpointConfig, ServerConfig,
    TransportConfig, VarInt,
};

use super::ways::ID_BYTES;
use crate::control::MAX_MESSAGE;
use crate::daemon::pki::identity::Identity;
use crate::daemon::pki::tls;
use crate::daemon::pki::verify::Anchors;

/// Label of the exported secret.
pub(super) const EXPORTER: &[u8] = b"EXPORTER-thalweg-v1";

/// What an endpoint is made of.
pub(super) struct Setup {
    pub(super) endpoint: EndpointConfig,
    pub(super) server: ServerConfig,
    pub(super) client: ClientConfig,
}

/// Half-open handshakes held at once; beyond it, newcomers are refused.
pub(super) const MAX_INCOMING: usize = 256;

/// Turns papers into what quinn wants.
///
/// # Errors
/// A certificate or key that TLS does not take.
pub(super) fn setup(identity: &Identity, anchors: &Arc<Anchors>) -> anyhow::Result<Setup> {
    let server = tls::server_config(identity, anchors)?;
    let client = tls::client_config(identity, anchors)?;
    let transport = Arc::new(transport());
    let mut server = ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(server)?));
    server.transport_config(transport.clone()).migration(false).max_incoming(MAX_INCOMING);
    let mut client = ClientConfig::new(Arc::new(QuicClientConfig::try_from(client)?));
    client.transport_config(transport);

    // The same after a restart: a peer that still holds the old connection learns at once that it
    // is gone (stateless reset, RFC 9000 §10.3).
    let secret =
        ::aws_lc_rs::hmac::Key::new(::aws_lc_rs::hmac::HMAC_SHA256, identity.key.secret_der());
    let tag = ::aws_lc_rs::hmac::sign(&secret, b"thalweg stateless reset");
    let reset = ::aws_lc_rs::hmac::Key::new(::aws_lc_rs::hmac::HMAC_SHA256, tag.as_ref());
    let mut endpoint = EndpointConfig::new(Arc::new(reset));
    // First bytes 0x10-0x1f are the overlay's: only the fixed bit tells the two apart.
    endpoint.grease_quic_bit(false);
    endpoint.cid_generator(|| Box::new(RandomIds));
    Ok(Setup { endpoint, server, client })
}

/// Connection IDs without a process's own mark: quinn's default keys them anew at every start and
/// ignores what it did not issue, so that a restarted node would never answer with a reset.
struct RandomIds;

impl ConnectionIdGenerator for RandomIds {
    fn generate_cid(&mut self) -> ConnectionId {
        let mut id = [0; ID_BYTES];
        ::aws_lc_rs::rand::fill(&mut id).expect("the system gives random bytes");
        ConnectionId::new(&id)
    }

    fn cid_len(&self) -> usize {
        ID_BYTES
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}

fn transport() -> TransportConfig {
    let mut transport = TransportConfig::default();
    // Two whole messages; one stream a connection.
    let window = VarInt::from_u32(2 * MAX_MESSAGE as u32);
    transport
        .max_idle_timeout(None)
        .keep_alive_interval(None)
        .mtu_discovery_config(None)
        .initial_mtu(1200)
        .min_mtu(1200)
        .max_concurrent_bidi_streams(VarInt::from_u32(1))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .datagram_receive_buffer_size(None)
        .stream_receive_window(window)
        .receive_window(window)
        .send_window(2 * MAX_MESSAGE as u64);
    transport
}
