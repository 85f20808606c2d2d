//! TLS as two nodes speak it: version 1.3 alone, both sides show a certificate, nothing is resumed.
//!
//! The verdict over the other's certificate is [`Anchors::verify`], so a refusal reads the same in the
//! log as on the command line. Tickets are off in both directions: a resumed session would outlive the
//! certificate that opened it.

use std::sync::Arc;
use std::time::Duration;

use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::NoServerSessionStorage;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::time_provider::TimeProvider;
use rustls::version::TLS13;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, Error, OtherError,
    PeerIncompatible, ServerConfig, SignatureScheme,
};

use super::identity::Identity;
use super::verify::Anchors;
use crate::daemon::clock::unix_seconds;
use crate::session::trust::TrustError;

/// The protocol's name in ALPN; its number is the wire's version.
pub const ALPN: &[u8] = b"thalweg/1";

/// TLS for connections that come in.
///
/// # Errors
/// A certificate or key that the TLS library does not take.
pub fn server_config(
    identity: &Identity,
    anchors: &Arc<Anchors>,
) -> Result<ServerConfig, TrustError> {
    let provider = provider();
    let verifier =
        Arc::new(Verifier { anchors: Arc::clone(anchors), provider: Arc::clone(&provider) });
    let mut config = ServerConfig::builder_with_details(provider, Arc::new(Known))
        .with_protocol_versions(&[&TLS13])
        .and_then(|builder| {
            builder
                .with_client_cert_verifier(verifier)
                .with_single_cert(vec![identity.certificate.clone()], identity.key.clone_key())
        })
        .map_err(refused)?;
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    Ok(config)
}

/// TLS for connections that go out. The name dialled is the one the certificate must carry.
///
/// # Errors
/// A certificate or key that the TLS library does not take.
pub fn client_config(
    identity: &Identity,
    anchors: &Arc<Anchors>,
) -> Result<ClientConfig, TrustError> {
    let provider = provider();
    let verifier =
        Arc::new(Verifier { anchors: Arc::clone(anchors), provider: Arc::clone(&provider) });
    let mut config = ClientConfig::builder_with_details(provider, Arc::new(Known))
        .with_protocol_versions(&[&TLS13])
        .and_then(|builder| {
            builder
                .dangerous()
                .with_custom_certificate_verifier(verifier)
                .with_client_auth_cert(vec![identity.certificate.clone()], identity.key.clone_key())
        })
        .map_err(refused)?;
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.resumption = Resumption::disabled();
    Ok(config)
}

/// Time as this node knows it, which is not always the machine's.
#[derive(Debug)]
struct Known;

impl TimeProvider for Known {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(Duration::from_secs(unix_seconds())))
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

fn refused(error: Error) -> TrustError {
    TrustError(format!("this node's certificate cannot be used for TLS: {error}"))
}

/// Judges the other side's certificate.
#[derive(Debug)]
struct Verifier {
    anchors: Arc<Anchors>,
    provider: Arc<CryptoProvider>,
}

impl Verifier {
    fn schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }

    fn signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signed, algorithms)
    }
}

fn as_tls(error: TrustError) -> Error {
    Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(error))))
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let ServerName::DnsName(name) = server_name else {
            return Err(as_tls(TrustError("nodes are dialled by name".into())));
        };
        let verified = self.anchors.verify_named(end_entity, name.as_ref(), now.as_secs());
        verified.map(|_| ServerCertVerified::assertion()).map_err(as_tls)
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::PeerIncompatible(PeerIncompatible::Tls13RequiredForQuic))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.schemes()
    }
}

impl ClientCertVerifier for Verifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        // Who asks learns nothing of the CAs before it has shown a certificate.
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self.anchors.verify(end_entity, now.as_secs());
        verified.map(|_| ClientCertVerified::assertion()).map_err(as_tls)
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::PeerIncompatible(PeerIncompatible::Tls13RequiredForQuic))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.schemes()
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use rustls::{ClientConnection, ServerConnection};

    use super::*;
    use crate::config::NodeConfig;
    use crate::daemon::pki::ca::{self, Request};

    /// 2026-11-21, so that the tests mean the same whenever they run.
    const NOW: u64 = 1_795_219_200;

    #[derive(Debug)]
    struct Fixed(u64);

    impl TimeProvider for Fixed {
        fn current_time(&self) -> Option<UnixTime> {
            Some(UnixTime::since_unix_epoch(Duration::from_secs(self.0)))
        }
    }

    fn make_ca(dir: &Path) -> Arc<Anchors> {
        let certificate = ca::create(dir, "example", 365, NOW).unwrap();
        Arc::new(Anchors::load(&[certificate]).unwrap())
    }

    fn node(ca_dir: &Path, anchors: &Anchors, name: &str, address: &str) -> Identity {
        let request = Request {
            name: name.into(),
            addresses: vec![address.parse().unwrap()],
            days: 30,
            ..Request::default()
        };
        let issued = ca::issue(ca_dir, &ca_dir.join("out"), &request, NOW).unwrap();
        let config = NodeConfig {
            name: name.into(),
            certificate: issued.certificate,
            key: issued.key,
            ca: vec![],
            crl: vec![],
            state: ca_dir.into(),
        };
        Identity::load(&config, anchors, NOW).unwrap()
    }

    /// Lets a client and a server shake hands in memory; the first error ends it.
    fn shake(
        client: (&Identity, &Arc<Anchors>),
        server: (&Identity, &Arc<Anchors>),
        name: &str,
        now: u64,
    ) -> Result<(ClientConnection, ServerConnection), String> {
        let mut client_side = client_config(client.0, client.1).unwrap();
        let mut server_side = server_config(server.0, server.1).unwrap();
        client_side.time_provider = Arc::new(Fixed(now));
        server_side.time_provider = Arc::new(Fixed(now));
        let name = ServerName::try_from(name.to_owned()).unwrap();
        let mut client = ClientConnection::new(Arc::new(client_side), name).unwrap();
        let mut server = ServerConnection::new(Arc::new(server_side)).unwrap();
        for _ in 0..4 {
            let mut bytes = Vec::new();
            client.write_tls(&mut bytes).unwrap();
            let mut rest = bytes.as_slice();
            while !rest.is_empty() {
                server.read_tls(&mut rest).unwrap();
                server.process_new_packets().map_err(|e| format!("server: {e}"))?;
            }
            bytes.clear();
            server.write_tls(&mut bytes).unwrap();
            let mut rest = bytes.as_slice();
            while !rest.is_empty() {
                client.read_tls(&mut rest).unwrap();
                client.process_new_packets().map_err(|e| format!("client: {e}"))?;
            }
        }
        assert!(!client.is_handshaking() && !server.is_handshaking());
        Ok((client, server))
    }

    #[test]
    fn two_nodes_of_one_ca_know_each_other_and_share_an_exporter() {
        let dir = tempfile::tempdir().unwrap();
        let anchors = make_ca(dir.path());
        let paris = node(dir.path(), &anchors, "paris", "10.77.0.1");
        let lyon = node(dir.path(), &anchors, "lyon", "10.77.0.2");
        let pair = shake((&paris, &anchors), (&lyon, &anchors), "lyon", NOW);
        let (client, server) = pair.unwrap();
        assert_eq!(client.alpn_protocol(), Some(ALPN));
        assert_eq!(client.peer_certificates(), Some(&[lyon.certificate.clone()][..]));
        assert_eq!(server.peer_certificates(), Some(&[paris.certificate.clone()][..]));
        let export = |c: &rustls::ConnectionCommon<_>| {
            c.export_keying_material([0; 32], b"EXPORTER-thalweg-v1", Some(b"x")).unwrap()
        };
        let server_secret =
            server.export_keying_material([0; 32], b"EXPORTER-thalweg-v1", Some(b"x")).unwrap();
        assert_eq!(export(&client), server_secret);
    }

    #[test]
    fn the_foreign_the_expired_and_the_wrong_named_are_refused_by_the_side_that_judges() {
        let (ours, theirs) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (our_ca, their_ca) = (make_ca(ours.path()), make_ca(theirs.path()));
        let paris = node(ours.path(), &our_ca, "paris", "10.77.0.1");
        let lyon = node(ours.path(), &our_ca, "lyon", "10.77.0.2");
        let stranger = node(theirs.path(), &their_ca, "lyon", "10.77.0.2");
        let both = Arc::new(
            Anchors::load(&[ours.path().join("ca.crt"), theirs.path().join("ca.crt")]).unwrap(),
        );
        let error = |client, server, name: &str, now| {
            shake(client, server, name, now).map(|_| ()).unwrap_err()
        };

        let foreign_server = error((&paris, &our_ca), (&stranger, &both), "lyon", NOW);
        assert!(foreign_server.starts_with("client: "), "{foreign_server}");
        assert!(foreign_server.contains("signed by no CA"), "{foreign_server}");

        let foreign_client = error((&stranger, &both), (&paris, &our_ca), "paris", NOW);
        assert!(foreign_client.starts_with("server: "), "{foreign_client}");
        assert!(foreign_client.contains("signed by no CA"), "{foreign_client}");

        let wrong_name = error((&paris, &our_ca), (&lyon, &our_ca), "nice", NOW);
        assert!(wrong_name.contains("`lyon` answered where `nice` was expected"), "{wrong_name}");

        let late = error((&paris, &our_ca), (&lyon, &our_ca), "lyon", NOW + 31 * 86_400);
        assert!(late.contains("expired on 2026-12-21"), "{late}");
    }
}
