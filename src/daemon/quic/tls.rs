//! How QUIC is set up: TLS 1.3 alone, both sides authenticated by the operator's CA, no resumption.
//!
//! Resumption is off because a ticket would go round revocation. Liveness is the overlay's own
//! affair, so QUIC keeps nothing alive and gives nothing up by itself. RFC 9000, 9001, 8446.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::{
    ClientConfig, ConnectionId, ConnectionIdGenerator, EndpointConfig, ServerConfig,
    TransportConfig, VarInt,
};
use rustls::client::Resumption;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::version::TLS13;
use rustls::{RootCertStore, crypto::aws_lc_rs};

use crate::control::MAX_MESSAGE;

/// The application protocol both sides must speak.
pub const ALPN: &[u8] = b"thalweg/1";

/// Label of the exported secret.
pub const EXPORTER: &[u8] = b"EXPORTER-thalweg-v1";

/// What this node shows and trusts.
#[derive(Debug)]
pub struct Credentials {
    /// Its certificate first, then any that lead to the CA.
    pub chain: Vec<CertificateDer<'static>>,
    /// The certificate's private key.
    pub key: PrivateKeyDer<'static>,
    /// The operator's CAs.
    pub roots: RootCertStore,
}

/// What an endpoint is made of.
pub(super) struct Setup {
    pub(super) endpoint: EndpointConfig,
    pub(super) server: ServerConfig,
    pub(super) client: ClientConfig,
}

/// Half-open handshakes held at once; beyond it, newcomers are refused.
pub(super) const MAX_INCOMING: usize = 256;

/// Turns credentials into what quinn wants.
///
/// # Errors
/// No CA, a key that does not fit the certificate, or a kind of key that TLS does not take.
pub(super) fn setup(credentials: &Credentials) -> anyhow::Result<Setup> {
    let provider: Arc<CryptoProvider> = Arc::new(aws_lc_rs::default_provider());
    let roots = Arc::new(credentials.roots.clone());

    let verifier = WebPkiClientVerifier::builder_with_provider(roots.clone(), provider.clone())
        .build()
        .context("the CA certificates cannot be used")?;
    let mut server = rustls::ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&TLS13])?
        .with_client_cert_verifier(verifier)
        .with_single_cert(credentials.chain.clone(), credentials.key.clone_key())
        .context("certificate and key cannot be used together")?;
    server.alpn_protocols = vec![ALPN.to_vec()];
    server.session_storage = Arc::new(NoServerSessionStorage {});
    server.send_tls13_tickets = 0;
    server.max_early_data_size = 0;

    let mut client = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])?
        .with_root_certificates(roots)
        .with_client_auth_cert(credentials.chain.clone(), credentials.key.clone_key())
        .context("certificate and key cannot be used together")?;
    client.alpn_protocols = vec![ALPN.to_vec()];
    client.resumption = Resumption::disabled();
    client.enable_early_data = false;

    let transport = Arc::new(transport());
    let mut server = ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(server)?));
    server.transport_config(transport.clone()).migration(false).max_incoming(MAX_INCOMING);
    let mut client = ClientConfig::new(Arc::new(QuicClientConfig::try_from(client)?));
    client.transport_config(transport);

    // The same after a restart: a peer that still holds the old connection learns at once that it
    // is gone (stateless reset, RFC 9000 §10.3).
    let secret =
        ::aws_lc_rs::hmac::Key::new(::aws_lc_rs::hmac::HMAC_SHA256, credentials.key.secret_der());
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

/// Bytes in a connection ID: enough that none is met twice.
const ID_BYTES: usize = 8;

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
